//! Sessions that a killed process left behind in the store: they are claimed here, and forgotten when their close notifiers
//! have run (§9.f, protocol.md 2.16).

use std::collections::HashMap;

use jmqt_core::ClientId;

use super::Hub;
use super::connections::Claim;
use crate::bus::connection_info;
use crate::connection::ConnectionInfo;
use crate::store::{SessionRow, StoreError};

/// Takes them over from whatever process left them behind. Those of one client are in order, the oldest first; a session of
/// that client does not begin while the claim is held.
pub(crate) async fn claim_orphans(hub: &Hub) -> Result<Vec<(Claim, Vec<SessionRow>)>, StoreError> {
    let mut by_client: HashMap<ClientId, Vec<SessionRow>> = HashMap::new();
    for session in hub.store.claim_orphans(&hub.janitor.node).await? {
        by_client.entry(session.client.clone()).or_default().push(session);
    }
    let mut claimed = Vec::with_capacity(by_client.len());
    for (client, sessions) in by_client {
        claimed.push((hub.connections.claim(&client, None).await, sessions));
    }
    Ok(claimed)
}

/// Where the client of such a session was connected from; `None` if the store does not tell.
pub(crate) fn orphan_connection(session: &SessionRow) -> Option<ConnectionInfo> {
    connection_info(&session.protocol, &session.address)
}

/// Its close notifier has run.
pub(crate) async fn forget_orphan(hub: &Hub, session: &SessionRow) -> Result<(), StoreError> {
    hub.store.orphan_closed(session).await
}
