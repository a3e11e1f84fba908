//! DISCONNECT of the server: the reason for closing a connection (3.14, 4.13).

use jmqt_core::DisconnectCode;
use jmqt_mqtt::{Disconnect as DisconnectPacket, Packet, PacketType, ReasonCode, Version};

use super::{Client, fitting, of_packet, reason_string};
use crate::disconnect::Disconnect;
use crate::session::Session;

/// The last packet to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    /// The reason for which the connection ends.
    Usual,
    /// This reason.
    Because(ReasonCode),
    /// The client has disconnected.
    Nothing,
}

/// The last packet to a client; empty if the client expects none. Before MQTT 5 a server says nothing.
pub(in crate::language) fn goodbye(
    session: &Session,
    client: Option<&Client>,
    disconnect: &Disconnect,
) -> Vec<u8> {
    let Some(client) = client.filter(|client| client.version == Version::V5) else { return Vec::new() };
    let reason = match client.farewell {
        Farewell::Usual => reason_of(disconnect.code()),
        Farewell::Because(reason) => reason,
        Farewell::Nothing => return Vec::new(),
    };
    let text = match client.farewell {
        Farewell::Usual => disconnect.message(),
        _ => "",
    };
    let properties = if text.is_empty() { Default::default() } else { reason_string(client, text) };
    let properties = of_packet(&properties, PacketType::Disconnect);
    fitting(session, &Packet::Disconnect(DisconnectPacket { reason, properties })).unwrap_or_default()
}

/// The code of the close frame of a WebSocket (RFC 6455 §7.4): clients of MQTT know the registered ones only.
pub(in crate::language) const fn close_code(disconnect: &Disconnect) -> u16 {
    const GOING_AWAY: u16 = 1001;
    const PROTOCOL_ERROR: u16 = 1002;
    const POLICY_VIOLATION: u16 = 1008;
    const MESSAGE_TOO_BIG: u16 = 1009;
    const INTERNAL_ERROR: u16 = 1011;
    const TRY_AGAIN_LATER: u16 = 1013;
    match disconnect.code() {
        DisconnectCode::SHUTDOWN | DisconnectCode::DRAIN => GOING_AWAY,
        DisconnectCode::BAD_PACKETS => PROTOCOL_ERROR,
        DisconnectCode::PACKET_TOO_LARGE => MESSAGE_TOO_BIG,
        DisconnectCode::SERVER_ERROR => INTERNAL_ERROR,
        DisconnectCode::TRY_LATER => TRY_AGAIN_LATER,
        _ => POLICY_VIOLATION,
    }
}

const fn reason_of(code: DisconnectCode) -> ReasonCode {
    match code {
        DisconnectCode::TAKEOVER => ReasonCode::SESSION_TAKEN_OVER,
        DisconnectCode::IDLE => ReasonCode::KEEP_ALIVE_TIMEOUT,
        DisconnectCode::SLOW | DisconnectCode::NO_ACKNOWLEDGEMENTS => ReasonCode::QUOTA_EXCEEDED,
        DisconnectCode::SHUTDOWN | DisconnectCode::DRAIN => ReasonCode::SERVER_SHUTTING_DOWN,
        DisconnectCode::BY_APPLICATION | DisconnectCode::KICKED => ReasonCode::ADMINISTRATIVE_ACTION,
        DisconnectCode::BAD_PACKETS => ReasonCode::MALFORMED_PACKET,
        DisconnectCode::PACKET_TOO_LARGE => ReasonCode::PACKET_TOO_LARGE,
        DisconnectCode::TOKEN_EXPIRED | DisconnectCode::TOO_MANY_REFUSALS => ReasonCode::NOT_AUTHORIZED,
        DisconnectCode::TRY_LATER => ReasonCode::SERVER_BUSY,
        _ => ReasonCode::UNSPECIFIED_ERROR,
    }
}
