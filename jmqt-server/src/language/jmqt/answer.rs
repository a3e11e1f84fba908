//! Answers: appended to the outbox, and logged if they refuse.

use std::borrow::Cow;

use jmqt_core::{Qos, StatusCode};
use jmqt_protocol::{AuthAck, AuthOutcome, ConnAck, Echo, Packet, PacketType, PubAck, SubAck, UnsubAck};

use crate::counters::Kind;
use crate::packet_trace;
use crate::session::Session;
use crate::wire;

/// Appends a packet to the outbox; it is written at the end of the batch.
pub(super) fn answer(session: &mut Session, packet: &Packet<'_>) {
    note_refusal(session, packet);
    let framed = framed(session, packet);
    let is_full = session.outbox.answer(framed);
    session.answered(is_full);
}

/// Encodes a packet that will be sent to this client.
pub(super) fn framed(session: &Session, packet: &Packet<'_>) -> Vec<u8> {
    packet_trace::sent(session.name(), packet);
    wire::framed(session.outbox.form(), packet)
}

/// Logs and counts a refusal. Publishes are logged and counted where they are refused, because not all of them are answered.
fn note_refusal(session: &Session, packet: &Packet<'_>) {
    let (kind, status, channel) = match packet {
        Packet::AuthAck(AuthAck { outcome: AuthOutcome::Refused { status, .. } }) => {
            (Kind::Auth, *status, None)
        }
        Packet::ConnAck(ack) => (Kind::Connect, ack.status, None),
        Packet::SubAck(ack) => (Kind::Subscribe, ack.status, ack.channel.as_deref()),
        Packet::UnsubAck(ack) => (Kind::Unsubscribe, ack.status, ack.channel.as_deref()),
        _ => return,
    };
    if !status.is_ok() {
        session.count_refused(kind, status.code());
        let kind = packet.packet_type().as_str().trim_end_matches("Ack");
        session.note_refusal(kind, channel, status);
    }
}

/// Answers a packet with a known type and an invalid field, with the fields that could be read (2.5). Before `conn`
/// only `auth` and `conn` are answered (2.1).
pub(super) fn answer_bad_field(session: &mut Session, kind: PacketType, problem: &str, echo: &Echo) {
    if session.member.is_none() && !matches!(kind, PacketType::Auth | PacketType::Conn) {
        return;
    }
    let status = StatusCode::INVALID_PACKET;
    let channel = echo.channel.as_deref().map(Cow::Borrowed);
    let packet = match kind {
        PacketType::Auth => {
            let outcome = AuthOutcome::Refused { status, message: problem.into() };
            Packet::AuthAck(AuthAck { outcome })
        }
        PacketType::Conn => {
            Packet::ConnAck(ConnAck { status, timeout_seconds: None, remembers_publishes: false })
        }
        PacketType::Sub => Packet::SubAck(SubAck { status, channel, is_filter: echo.is_filter }),
        PacketType::Unsub => Packet::UnsubAck(UnsubAck { status, channel, is_filter: echo.is_filter }),
        // A QoS 0 publish is answered only if it has an id.
        PacketType::Pub if echo.id.is_none() && echo.qos == Qos::AtMostOnce => return,
        PacketType::Pub => {
            let id = echo.id.as_deref().map(Cow::Borrowed);
            Packet::PubAck(PubAck { status, id, data: None })
        }
        _ => return,
    };
    answer(session, &packet);
}
