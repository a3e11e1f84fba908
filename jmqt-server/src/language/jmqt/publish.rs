//! `pub` (§7.k, §9.a, §9.d, protocol.md 2.5, 2.8, 2.10, 2.19, 2.23, 2.26).

use std::borrow::Cow;

use jmqt_core::{ChannelKind, ChannelName, ClientId, Payload, PayloadBuf, Qos, StatusCode};
use jmqt_mqtt::payload;
use jmqt_protocol::{Packet, Pub, PubAck};

use super::answer::answer;
use crate::attributes::{Attributes, DataForm, Values};
use crate::connection::{CONTINUE, Flow};
use crate::context::Shared;
use crate::counters::Kind;
use crate::message::Body;
use crate::session::verbs::{Publication, parse_number};
use crate::session::{Session, verbs};
use crate::validators::PubData;
use crate::wire::ReceiptRef;

/// The longest accepted packet id (protocol.md 2.8).
const MAX_ID_BYTES: usize = 256;

pub(super) async fn handle_pub(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    publish: &Pub<'_>,
) -> Flow {
    let channel = match session.channel_named(&publish.channel) {
        Some(channel) => channel.clone(),
        None => match ChannelName::parse(&publish.channel) {
            Ok(channel) => channel,
            Err(_) => {
                return Box::pin(refuse(shared, session, client, publish, StatusCode::INVALID_CHANNEL)).await;
            }
        },
    };
    if channel.kind() == ChannelKind::Control {
        return Box::pin(handle_control(shared, session, client, &channel, publish)).await;
    }
    let Ok(number) = number(session, publish) else {
        return Box::pin(refuse(shared, session, client, publish, StatusCode::INVALID_PACKET)).await;
    };
    let json = publish.data.unwrap_or(Payload::NULL);
    if publish.is_literal && payload::is_read(json) {
        return Box::pin(handle_literal(shared, session, client, &channel, publish, json, number)).await;
    }
    let publication = publication(publish, PubData::json(json), number);
    match verbs::publish(shared, session, client, &channel, &publication).await? {
        Ok(()) => CONTINUE,
        Err(status) => Box::pin(refuse(shared, session, client, publish, status)).await,
    }
}

/// Handles a `pub` with `jt` (2.26).
async fn handle_literal(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    channel: &ChannelName,
    publish: &Pub<'_>,
    json: Payload<'_>,
    number: Option<u64>,
) -> Flow {
    let literal = Attributes::new(Values { form: DataForm::LiteralJson, ..Values::default() });
    let data = PubData::new(Body::Bytes(json.as_str().as_bytes(), &literal));
    let publication = publication(publish, data, number);
    match verbs::publish(shared, session, client, channel, &publication).await? {
        Ok(()) => CONTINUE,
        Err(status) => refuse(shared, session, client, publish, status).await,
    }
}

fn publication<'p>(publish: &'p Pub<'_>, data: PubData<'p>, number: Option<u64>) -> Publication<'p> {
    Publication {
        data,
        qos: publish.qos,
        retain: publish.retain,
        receipt: ReceiptRef::of_jmqt(publish.id.as_deref()),
        number,
        received: None,
    }
}

/// Handles a `pub` to a control channel (2.19).
async fn handle_control(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    channel: &ChannelName,
    publish: &Pub<'_>,
) -> Flow {
    session.begin_request().await;
    let Some(id) = publish.id.as_deref().filter(|id| id.len() <= MAX_ID_BYTES) else {
        let status = StatusCode::INVALID_PACKET;
        answer(session, &Packet::PubAck(PubAck { status, id: None, data: None }));
        return CONTINUE;
    };
    let reply = verbs::control(shared, session, client, channel, publish.data).await?;
    answer(
        session,
        &Packet::PubAck(PubAck {
            status: reply.status,
            id: Some(Cow::Borrowed(id)),
            data: reply.data.as_ref().map(PayloadBuf::as_payload),
        }),
    );
    CONTINUE
}

/// Answers a refused publish. A QoS 0 publish is answered only if it has an id (2.5).
async fn refuse(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    publish: &Pub<'_>,
    status: StatusCode,
) -> Flow {
    session.count_refused(Kind::Publish, status.code());
    // That a receiver is away is an answer like others.
    if status != StatusCode::CLIENT_OFFLINE {
        session.note_refusal("pub", Some(&publish.channel), status);
    }
    if publish.qos == Qos::AtMostOnce && publish.id.is_none() {
        return CONTINUE;
    }
    // An id that is too long is not sent back, because it could be as long as a packet.
    let id = publish.id.as_deref().filter(|id| id.len() <= MAX_ID_BYTES);
    if publish.qos == Qos::AtLeastOnce
        && verbs::refuse_in_order(shared, session, client, ReceiptRef::of_jmqt(id), status).await?
    {
        return CONTINUE;
    }
    let id = id.map(Cow::Borrowed);
    answer(session, &Packet::PubAck(PubAck { status, id, data: None }));
    CONTINUE
}

/// The id of a QoS 1 publish is missing, too long, or not the required number.
struct UnusableId;

/// The number of a publish that is stored once (2.23).
fn number(session: &Session, publish: &Pub<'_>) -> Result<Option<u64>, UnusableId> {
    match (publish.qos, publish.id.as_deref()) {
        (_, Some(id)) if id.len() > MAX_ID_BYTES => Err(UnusableId),
        (Qos::AtMostOnce, _) => Ok(None),
        (_, None) => Err(UnusableId),
        (_, Some(_)) if session.publisher.is_none() => Ok(None),
        (_, Some(id)) => parse_number(id).map(Some).ok_or(UnusableId),
    }
}
