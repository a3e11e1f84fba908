//! PUBACK, PUBREC, PUBREL and PUBCOMP of a client (3.4 to 3.7, 4.3).

use jmqt_core::ClientId;
use jmqt_mqtt::{Ack, Packet, ReasonCode, Version};

use super::{Client, answer};
use crate::connection::{CONTINUE, Flow};
use crate::context::Shared;
use crate::outbox::Acknowledged;
use crate::session::{Session, verbs};

fn count(shared: &Shared, acknowledged: Acknowledged) {
    if acknowledged == Acknowledged::Unknown {
        shared.hub.counters.acks_ignored.increment();
    }
}

/// Of any reason code: the client has received the message.
pub(super) fn handle_puback(shared: &Shared, session: &mut Session, ack: &Ack<'_>) -> Flow {
    session.count_acknowledgement();
    count(shared, session.outbox.acknowledge_packet(ack.id));
    CONTINUE
}

pub(super) fn handle_pubrec(shared: &Shared, session: &mut Session, client: &Client, ack: &Ack<'_>) -> Flow {
    let acknowledged = session.outbox.packet_received(ack.id, ack.reason.is_error());
    count(shared, acknowledged);
    let reason = match acknowledged {
        // The client does not have the message, and expects no PUBREL (4.3.3).
        _ if ack.reason.is_error() => return CONTINUE,
        Acknowledged::Unknown => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        Acknowledged::Waits => return CONTINUE,
        Acknowledged::Continues | Acknowledged::Done => ReasonCode::SUCCESS,
    };
    answer(session, &Packet::PubRel(Ack::new(ack.id, of_version(client, reason))))
}

/// The client has forgotten its publish: its packet identifier is free.
pub(super) async fn handle_pubrel(
    shared: &Shared,
    session: &mut Session,
    client: &Client,
    id: &ClientId,
    ack: &Ack<'_>,
) -> Flow {
    if session.outbox.keeps_exchanges() && session.outbox.is_received(ack.id) {
        return verbs::release(shared, session, id, ack.id).await;
    }
    let reason = match session.outbox.release(ack.id) {
        true => ReasonCode::SUCCESS,
        false => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
    };
    answer(session, &Packet::PubComp(Ack::new(ack.id, of_version(client, reason))))
}

pub(super) fn handle_pubcomp(shared: &Shared, session: &Session, ack: &Ack<'_>) -> Flow {
    count(shared, session.outbox.packet_completed(ack.id));
    CONTINUE
}

/// Before MQTT 5 there are no reason codes.
fn of_version(client: &Client, reason: ReasonCode) -> ReasonCode {
    if client.version == Version::V5 { reason } else { ReasonCode::SUCCESS }
}
