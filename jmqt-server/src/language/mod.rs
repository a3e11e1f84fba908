//! What clients speak: each room makes packets verbs of the session, and what comes of them answers.
//!
//! A language reads packets here, above the session, and has them encoded in `wire`, below the outbox. Each room offers the
//! same: the form that its clients get, handling one packet, and saying goodbye. A connection has the language of the
//! listener that it came to.

mod jmqt;
#[cfg(test)]
mod lines;

use crate::connection::{Flow, Language, Protocol};
use crate::context::Shared;
use crate::disconnect::Disconnect;
use crate::session::Session;
use crate::transport::Framing;
use crate::wire::Form;

/// How packets are told apart in what a client sends.
pub(crate) const fn framing(protocol: Protocol) -> Framing {
    if protocol.is_websocket() { Framing::WebSocket } else { Framing::Nul }
}

/// What the bytes look like that a client gets.
pub(crate) const fn form(protocol: Protocol) -> Form {
    match protocol.language() {
        Language::Jmqt => Form::of_jmqt(framing(protocol)),
        #[cfg(test)]
        Language::Lines => Form::Lines,
    }
}

/// Handles one packet.
pub(crate) async fn handle(shared: &Shared, session: &mut Session, packet: &[u8]) -> Flow {
    match session.info.protocol.language() {
        Language::Jmqt => jmqt::handle(shared, session, packet).await,
        #[cfg(test)]
        Language::Lines => Box::pin(lines::handle(shared, session, packet)).await,
    }
}

/// The last packet that a client is sent, as it gets it.
pub(crate) fn goodbye(session: &Session, disconnect: &Disconnect) -> Vec<u8> {
    match session.info.protocol.language() {
        Language::Jmqt => jmqt::goodbye(session, disconnect),
        #[cfg(test)]
        Language::Lines => lines::goodbye(disconnect),
    }
}
