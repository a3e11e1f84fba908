//! Sessions in the store that a dead process has left. They are claimed here, and deleted after their close notifiers
//! have run (§9.f, protocol.md 2.16).

use std::collections::HashMap;

use jmqt_core::ClientId;

use super::Hub;
use super::connections::Claim;
use crate::bus::connection_info;
use crate::connection::ConnectionInfo;
use crate::store::{SessionRow, StoreError};

/// Claims the sessions that other processes have left. Sessions of one client are in order, oldest first. A new
/// session of the client does not begin while the claim is held.
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

/// The remote address of an orphaned session's client; `None` if the store does not have it.
pub(crate) fn orphan_connection(session: &SessionRow) -> Option<ConnectionInfo> {
    connection_info(&session.protocol, &session.address)
}

/// Deletes a session whose close notifier has run.
pub(crate) async fn forget_orphan(hub: &Hub, session: &SessionRow) -> Result<(), StoreError> {
    hub.store.orphan_closed(session).await
}
