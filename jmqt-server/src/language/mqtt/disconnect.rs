//! DISCONNECT of a client (3.14).

use std::pin::pin;

use jmqt_core::ClientId;
use jmqt_mqtt::{Disconnect, ReasonCode, Version};

use super::farewell::Farewell;
use super::{Client, fail};
use crate::connection::Flow;
use crate::context::Shared;
use crate::session::{Session, verbs};

pub(super) async fn handle_disconnect(
    shared: &Shared,
    session: &mut Session,
    client: &mut Client,
    id: &ClientId,
    disconnect: &Disconnect<'_>,
) -> Flow {
    let asked = match client.version {
        Version::V5 => disconnect.properties.session_expiry(),
        _ => None,
    };
    let asked = asked.map(|asked| asked.min(shared.limits.session_expiry_seconds));
    if !client.is_persistent() && asked.is_some_and(|expiry| expiry > 0) {
        let problem = "DISCONNECT makes a session persistent that CONNECT did not";
        return fail(shared, session, client, ReasonCode::PROTOCOL_ERROR, problem);
    }
    client.farewell = Farewell::Nothing;
    // With any other code the connection has failed for the client (3.14.4-3).
    if disconnect.reason == ReasonCode::SUCCESS && std::mem::take(&mut client.has_will) {
        let generation = session.member.as_ref().map_or(0, |member| member.generation);
        session.wait(pin!(shared.hub.wills.discard(id, generation))).await?;
    }
    if let Some(expiry) = asked.filter(|asked| *asked != client.expiry) {
        let outbox = std::sync::Arc::clone(&session.outbox);
        // An error was logged: the session keeps its expiry.
        let _ = session.wait(pin!(shared.hub.commits.set_expiry(&outbox, id, expiry))).await?;
    }
    verbs::leave(shared, session, id).await
}
