//! The languages of clients. Each room converts packets into verbs of the session, and results into answers.
//!
//! A language reads packets here, above the session, and encodes them in `wire`, below the outbox. Each room offers
//! the same functions: the form of its clients, handling a packet, and the last packet. The listener determines the
//! language of its connections.

mod jmqt;
#[cfg(test)]
mod lines;

use crate::connection::{Flow, Language, Protocol};
use crate::context::Shared;
use crate::disconnect::Disconnect;
use crate::session::Session;
use crate::transport::Framing;
use crate::wire::Form;

/// The framing of the packets that a client sends.
pub(crate) const fn framing(protocol: Protocol) -> Framing {
    if protocol.is_websocket() { Framing::WebSocket } else { Framing::Nul }
}

/// The encoding that a client receives.
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

/// The last packet to a client, encoded.
pub(crate) fn goodbye(session: &Session, disconnect: &Disconnect) -> Vec<u8> {
    match session.info.protocol.language() {
        Language::Jmqt => jmqt::goodbye(session, disconnect),
        #[cfg(test)]
        Language::Lines => lines::goodbye(disconnect),
    }
}
