//! The languages of clients. Each room converts packets into verbs of the session, and results into answers.
//!
//! A language reads packets here, above the session, and encodes them in `wire`, below the outbox. Each room offers
//! the same functions: the form of its clients, handling a packet, and the last packet. The listener determines the
//! language of its connections.

mod jmqt;
#[cfg(test)]
mod lines;
mod mqtt;

use jmqt_mqtt::Version;

use crate::connection::{Flow, Language, Protocol};
use crate::context::Shared;
use crate::disconnect::Disconnect;
use crate::session::Session;
use crate::transport::Framing;
use crate::wire::Form;

/// The state of a connection in its language: that of MQTT, from CONNECT on. The other languages have none.
#[derive(Default)]
pub(crate) struct State(mqtt::State);

impl State {
    /// Returns `true` if the store knows the session even if it has no subscriptions, so that its end must be recorded.
    pub(crate) fn is_stored(&self) -> bool {
        self.0.client().is_some_and(mqtt::Client::is_stored)
    }

    /// The bytes of packets that are held until the client has authenticated itself.
    pub(crate) fn held(&self) -> usize {
        self.0.held()
    }

    /// Returns `true` if the client leaves a will.
    pub(crate) fn leaves_will(&self) -> bool {
        self.0.client().is_some_and(mqtt::Client::leaves_will)
    }
}

/// The framing of the packets that a client sends.
pub(crate) const fn framing(protocol: Protocol) -> Framing {
    match protocol.language() {
        Language::Mqtt if protocol.is_websocket() => Framing::MqttWebSocket,
        Language::Mqtt => Framing::Mqtt,
        _ if protocol.is_websocket() => Framing::WebSocket,
        _ => Framing::Nul,
    }
}

/// The encoding that a client receives.
pub(crate) const fn form(protocol: Protocol) -> Form {
    match protocol.language() {
        Language::Jmqt => Form::of_jmqt(framing(protocol)),
        // Until CONNECT names the version.
        Language::Mqtt => Form::of_mqtt(Version::V3_1_1, protocol.is_websocket()),
        #[cfg(test)]
        Language::Lines => Form::Lines,
    }
}

/// Handles one packet.
pub(crate) async fn handle(shared: &Shared, session: &mut Session, state: &mut State, packet: &[u8]) -> Flow {
    match session.info.protocol.language() {
        Language::Jmqt => jmqt::handle(shared, session, packet).await,
        Language::Mqtt => mqtt::handle(shared, session, &mut state.0, packet).await,
        #[cfg(test)]
        Language::Lines => Box::pin(lines::handle(shared, session, packet)).await,
    }
}

/// The last packet to a client, encoded.
pub(crate) fn goodbye(session: &Session, state: &State, disconnect: &Disconnect) -> Vec<u8> {
    match session.info.protocol.language() {
        Language::Jmqt => jmqt::goodbye(session, disconnect),
        Language::Mqtt => mqtt::goodbye(session, state.0.client(), disconnect),
        #[cfg(test)]
        Language::Lines => lines::goodbye(disconnect),
    }
}

/// The code of the close frame for a client, if its connection is a WebSocket. The message of `disconnect` is its reason.
pub(crate) const fn close_code(protocol: Protocol, disconnect: &Disconnect) -> u16 {
    match protocol.language() {
        Language::Mqtt => mqtt::close_code(disconnect),
        _ => disconnect.code().code(),
    }
}
