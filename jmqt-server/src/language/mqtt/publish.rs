//! PUBLISH of a client (3.3, 4.3).

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jmqt_core::{ChannelKind, ChannelName, ClientId, Qos, Retain, StatusCode};
use jmqt_mqtt::payload::Declared;
use jmqt_mqtt::{
    Ack, Delivery, InvalidTopic, MAX_TOPIC_BYTES, Packet, PacketType, Properties, Publish, ReasonCode,
    TopicName, TopicUse, Version,
};

use super::{Client, answer, control, fail, of_packet, reason_string};
use crate::attributes::{Attributes, DataForm, Values};
use crate::connection::{CONTINUE, Flow};
use crate::context::Shared;
use crate::counters::Kind;
use crate::log_limit::log_limited;
use crate::message::Body;
use crate::outbox::Reception;
use crate::session::verbs::Publication;
use crate::session::{Session, verbs};
use crate::validators::PubData;
use crate::wire::{PacketId, PublishReceipt, ReceiptRef, mqtt_reason};

/// The topic aliases that a client may use (3.2.2.3.8).
pub(super) const TOPIC_ALIASES: u16 = 32;

pub(super) async fn handle_publish(
    shared: &Shared,
    session: &mut Session,
    client: &mut Client,
    id: &ClientId,
    publish: &Publish<'_>,
) -> Flow {
    let topic = match resolve(client, publish) {
        Ok(topic) => topic,
        Err((reason, problem)) => return fail(shared, session, client, reason, problem),
    };
    if let Delivery::ExactlyOnce { id: packet, .. } = publish.delivery {
        let mut reception = receive(shared, session, client, packet);
        if reception == Reception::TooMany {
            // Releases may be on their way to the store.
            Box::pin(verbs::settle(shared, session, id)).await?;
            reception = receive(shared, session, client, packet);
        }
        match reception {
            Reception::New => {}
            Reception::Repeated => return repeat(shared, session, id, publish).await,
            Reception::TooMany => return too_many(shared, session, client),
        }
    }
    let topic: &str = topic.as_deref().unwrap_or(publish.topic);
    let channel = match session.channel_named(topic) {
        // The topic of the last publish.
        Some(channel) if channel.kind() == ChannelKind::Plain && !topic.contains('%') => channel.clone(),
        _ => match channel_of(topic) {
            Ok(channel) => channel,
            Err(refusal) => return refuse(shared, session, client, id, (topic, publish), refusal).await,
        },
    };
    if !publish.is_format_valid() {
        let refusal = Refusal::new(ReasonCode::PAYLOAD_FORMAT_INVALID, "the payload is not UTF-8");
        return refuse(shared, session, client, id, (topic, publish), refusal).await;
    }
    let attributes = attributes(client.version, publish);
    if channel.kind() == ChannelKind::Control {
        return Box::pin(control::handle_control(
            shared,
            session,
            client,
            id,
            &channel,
            publish,
            &attributes,
        ))
        .await;
    }
    let publication = Publication {
        data: PubData::new(Body::Bytes(publish.payload, &attributes)),
        qos: publish.delivery.qos().into(),
        // Without a payload it deletes the retained message (3.3.1.3).
        retain: if publish.retain { Retain::Yes } else { Retain::No },
        receipt: ReceiptRef::Mqtt(receipt(publish.delivery)),
        number: None,
        received: match publish.delivery {
            Delivery::ExactlyOnce { id, .. } if session.outbox.keeps_exchanges() => Some(id),
            _ => None,
        },
    };
    match verbs::publish(shared, session, id, &channel, &publication).await? {
        Ok(()) => CONTINUE,
        Err(status) => refuse(shared, session, client, id, (topic, publish), Refusal::of(status)).await,
    }
}

/// Records a QoS 2 publish. A client before MQTT 5 cannot be told a limit: it may use all packet identifiers.
fn receive(shared: &Shared, session: &Session, client: &Client, packet: PacketId) -> Reception {
    let maximum = if client.version == Version::V5 { shared.limits.receive_maximum } else { u16::MAX };
    session.outbox.receive(packet, maximum)
}

/// Ends the connection of a client that ignores the receive maximum. The publishes before are answered, so that the client
/// releases them when it comes back (3.3.4).
fn too_many(shared: &Shared, session: &Session, client: &mut Client) -> Flow {
    let limit = shared.limits.receive_maximum;
    log_limited!(info, each: session.name(), target: "jmqt::session", client = session.name(), remote = %session.info.remote, limit, "closing a connection: more unreleased QoS 2 publishes than the receive maximum (MQTT_RECEIVE_MAXIMUM), which the client was told");
    let problem = "more unreleased QoS 2 publishes than the receive maximum (MQTT_RECEIVE_MAXIMUM)";
    fail(shared, session, client, ReasonCode::RECEIVE_MAXIMUM_EXCEEDED, problem)
}

/// The topic of an alias, or `None` if the packet has the topic itself. A topic with an alias is remembered.
fn resolve(
    client: &mut Client,
    publish: &Publish<'_>,
) -> Result<Option<Box<str>>, (ReasonCode, &'static str)> {
    if client.version != Version::V5 {
        return Ok(None);
    }
    let Some(alias) = publish.properties.topic_alias() else { return Ok(None) };
    if alias == 0 || alias > TOPIC_ALIASES {
        return Err((ReasonCode::TOPIC_ALIAS_INVALID, "the topic alias is above the topic alias maximum"));
    }
    let index = usize::from(alias) - 1;
    if publish.topic.is_empty() {
        let known = client.aliases.get(index).cloned().flatten();
        return known.map(Some).ok_or((ReasonCode::PROTOCOL_ERROR, "the topic alias is unknown"));
    }
    if client.aliases.len() <= index {
        client.aliases.resize(index + 1, None);
    }
    // A longer topic is refused anyway, and must not occupy memory.
    client.aliases[index] = (publish.topic.len() <= MAX_TOPIC_BYTES).then(|| publish.topic.into());
    Ok(None)
}

/// Why a publish is refused.
pub(super) struct Refusal {
    pub(super) reason: ReasonCode,
    pub(super) status: StatusCode,
    text: &'static str,
}

impl Refusal {
    const fn new(reason: ReasonCode, text: &'static str) -> Self {
        Self { reason, status: StatusCode::INVALID_PACKET, text }
    }

    fn of(status: StatusCode) -> Self {
        Self { reason: mqtt_reason(status), status, text: "" }
    }
}

/// The channel that a topic names.
pub(super) fn channel_of(topic: &str) -> Result<ChannelName, Refusal> {
    let invalid = |text| Refusal {
        status: StatusCode::INVALID_CHANNEL,
        ..Refusal::new(ReasonCode::TOPIC_NAME_INVALID, text)
    };
    let reserved =
        |text| Refusal { status: StatusCode::NOT_ALLOWED, ..Refusal::new(ReasonCode::NOT_AUTHORIZED, text) };
    let topic = TopicName::parse(topic).map_err(|error| match error {
        InvalidTopic::TooLong | InvalidTopic::TooManyLevels => invalid("the topic is too long"),
        _ => invalid("the topic is invalid"),
    })?;
    let name = match topic.usage() {
        TopicUse::Channel(name) | TopicUse::Control(name) => name,
        TopicUse::Peer(client) => {
            let client = ClientId::parse(&client).map_err(|_| invalid("no client can have this id"))?;
            return Ok(ChannelName::of_client(&client));
        }
        TopicUse::Sys => return Err(reserved("only the server publishes to $SYS")),
        TopicUse::Reply => return Err(reserved("only the server publishes to $reply")),
        TopicUse::Share => return Err(invalid("a topic cannot begin with $share")),
        TopicUse::Nothing => return Err(invalid("this topic has no meaning")),
    };
    ChannelName::exact(&name).map_err(|_| invalid("the topic is invalid"))
}

/// The attributes of a message.
pub(super) fn attributes(version: Version, publish: &Publish<'_>) -> Attributes {
    static PLAIN: LazyLock<Attributes> = LazyLock::new(|| bytes_with(Qos::AtMostOnce));
    static EXACTLY_ONCE: LazyLock<Attributes> = LazyLock::new(|| bytes_with(Qos::ExactlyOnce));
    let qos: Qos = publish.delivery.qos().into();
    if !publish.retain && (version != Version::V5 || publish.properties.is_empty()) {
        return match qos {
            Qos::ExactlyOnce => EXACTLY_ONCE.clone(),
            _ => PLAIN.clone(),
        };
    }
    message_attributes(version, publish.properties, qos, publish.retain, SystemTime::now())
}

fn bytes_with(qos: Qos) -> Attributes {
    Attributes::new(Values { form: DataForm::Bytes, qos, ..Values::default() })
}

/// The attributes of a message with these properties, which expires the given time after `published`.
pub(super) fn message_attributes(
    version: Version,
    properties: Properties<'_>,
    qos: Qos,
    retain: bool,
    published: SystemTime,
) -> Attributes {
    let mut values = Values { form: DataForm::Bytes, qos, retain, ..Values::default() };
    if version == Version::V5 {
        values.form = match Declared::of(properties.content_type()) {
            Declared::Nothing => DataForm::Bytes,
            Declared::Text => DataForm::Text,
            Declared::Json => DataForm::DeclaredJson,
            Declared::Binary => DataForm::Binary,
        };
        values.expires_at = properties.message_expiry().map(|seconds| {
            let published = published.duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from((published + Duration::from_secs(seconds.into())).as_millis()).unwrap_or(u64::MAX)
        });
        let mut forwarded = Vec::new();
        properties.forward(&mut forwarded);
        values.properties = forwarded.into();
    }
    Attributes::new(values)
}

const fn receipt(delivery: Delivery) -> Option<PublishReceipt> {
    match delivery {
        Delivery::AtMostOnce => None,
        Delivery::AtLeastOnce { id, .. } => Some(PublishReceipt { id, exactly_once: false }),
        Delivery::ExactlyOnce { id, .. } => Some(PublishReceipt { id, exactly_once: true }),
    }
}

/// Answers a QoS 2 publish that the client has sent before, after the answer to the first one (4.3.3).
async fn repeat(shared: &Shared, session: &mut Session, id: &ClientId, publish: &Publish<'_>) -> Flow {
    let receipt = ReceiptRef::Mqtt(receipt(publish.delivery));
    if verbs::refuse_in_order(shared, session, id, receipt, StatusCode::OK).await? {
        return CONTINUE;
    }
    match publish.delivery {
        Delivery::ExactlyOnce { id, .. } => {
            answer(session, &Packet::PubRec(Ack::new(id, ReasonCode::SUCCESS)))
        }
        _ => CONTINUE,
    }
}

/// Answers a refused publish. Before MQTT 5 it is acknowledged and dropped, because nothing else can be said; only if the
/// store failed the connection ends, so that the client sends it again.
async fn refuse(
    shared: &Shared,
    session: &mut Session,
    client: &Client,
    id: &ClientId,
    (topic, publish): (&str, &Publish<'_>),
    refusal: Refusal,
) -> Flow {
    let Refusal { reason, status, text } = refusal;
    shared.hub.counters.publishes_refused.increment();
    session.count_refused(Kind::Publish, reason.code().into());
    if reason.is_error() {
        session.note_refusal("PUBLISH", Some(topic), reason);
    }
    let (packet, exactly_once) = match publish.delivery {
        Delivery::AtMostOnce => return CONTINUE,
        Delivery::AtLeastOnce { id, .. } => (id, false),
        Delivery::ExactlyOnce { id, .. } => (id, true),
    };
    if client.version != Version::V5 && status == StatusCode::SERVER_ERROR {
        return std::ops::ControlFlow::Break(crate::connection::CloseReason::StoreUnclear);
    }
    let receipt = ReceiptRef::Mqtt(Some(PublishReceipt { id: packet, exactly_once }));
    if verbs::refuse_in_order(shared, session, id, receipt, status).await? {
        return CONTINUE;
    }
    if exactly_once && reason.is_error() {
        session.outbox.release(packet);
    }
    let properties = if text.is_empty() { Default::default() } else { reason_string(client, text) };
    let kind = if exactly_once { PacketType::PubRec } else { PacketType::PubAck };
    let reason = if client.version == Version::V5 { reason } else { ReasonCode::SUCCESS };
    let ack = Ack { id: packet, reason, properties: of_packet(&properties, kind) };
    answer(session, &if exactly_once { Packet::PubRec(ack) } else { Packet::PubAck(ack) })
}
