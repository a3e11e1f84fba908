//! Requests to the application: a PUBLISH to `$name`, with a response topic in MQTT 5 (4.10).

use jmqt_core::{ChannelName, ClientId, Payload, StatusCode};
use jmqt_mqtt::payload::{Declared, to_payload};
use jmqt_mqtt::{
    Ack, Delivery, Packet, PacketType, Place, Properties, Property, PropertyBuf, Publish, ReasonCode, Sender,
    SubscriptionId, TopicName, TopicUse, Version,
};

use super::{Client, answer};
use crate::attributes::Attributes;
use crate::connection::{CONTINUE, Flow};
use crate::context::Shared;
use crate::message::json_of;
use crate::session::{Session, verbs};
use crate::wire::mqtt_reason;

/// Asks the control handler, and sends its reply to this connection alone.
pub(super) async fn handle_control(
    shared: &Shared,
    session: &mut Session,
    client: &Client,
    id: &ClientId,
    channel: &ChannelName,
    publish: &Publish<'_>,
    attributes: &Attributes,
) -> Flow {
    session.begin_request().await;
    let json = json_of(publish.payload, attributes);
    let data = (!publish.payload.is_empty()).then(|| json.to_payload());
    let reply = verbs::control(shared, session, id, channel, data).await?;
    let reason = match client.version {
        Version::V5 => mqtt_reason(reply.status),
        _ => ReasonCode::SUCCESS,
    };
    let data = reply.data.as_ref().map(|data| data.as_payload());
    respond(session, client, channel, publish.properties, reply.status, data);
    match publish.delivery {
        Delivery::AtMostOnce => CONTINUE,
        Delivery::AtLeastOnce { id, .. } => answer(session, &Packet::PubAck(Ack::new(id, reason))),
        Delivery::ExactlyOnce { id, .. } => {
            if reason.is_error() {
                session.outbox.release(id);
            }
            answer(session, &Packet::PubRec(Ack::new(id, reason)))
        }
    }
}

/// Sends the reply as one PUBLISH with QoS 0, if the client has a subscription for it.
fn respond(
    session: &mut Session,
    client: &Client,
    channel: &ChannelName,
    asked: Properties<'_>,
    status: StatusCode,
    data: Option<Payload<'_>>,
) {
    let reply_topic;
    let topic = match (client.version, asked.response_topic()) {
        (Version::V5, Some(topic)) => topic,
        (Version::V5, None) => return,
        _ => {
            reply_topic = format!("$reply/{}", channel.as_str().trim_start_matches('$'));
            &reply_topic
        }
    };
    let ids = match TopicName::parse(topic).map(TopicName::usage) {
        Ok(TopicUse::Channel(name)) => session.outbox.subscription(&name).map(|subscription| {
            subscription.options().id().and_then(SubscriptionId::new).into_iter().collect()
        }),
        Ok(TopicUse::Reply) => client.replies.as_ref().and_then(|replies| replies.matching(topic)),
        _ => None,
    };
    let Some(ids) = ids else {
        tracing::debug!(target: "jmqt::session", client = session.name(), %channel, "the client has no subscription for the reply to its request");
        return;
    };
    let content = to_payload(data.unwrap_or(Payload::NULL), false);
    let mut properties = PropertyBuf::new();
    if client.version == Version::V5 {
        let status = status.code().to_string();
        let own = [
            (content.declared != Declared::Binary).then_some(Property::PayloadFormatIndicator(true)),
            content.declared.content_type().map(Property::ContentType),
            asked.correlation_data().map(Property::CorrelationData),
            Some(Property::UserProperty(("st", &status))),
        ];
        let ids = ids.into_iter().map(Property::SubscriptionIdentifier);
        for property in own.into_iter().flatten().chain(ids) {
            // They are within the limits of a property.
            let _ = properties.push(property);
        }
    }
    let place = Place::Packet(PacketType::Publish);
    let packet = Publish {
        delivery: Delivery::AtMostOnce,
        retain: false,
        topic,
        properties: properties.for_place(place, Sender::Server).unwrap_or(Properties::EMPTY),
        payload: &content.bytes,
    };
    let _ = answer(session, &Packet::Publish(packet));
}
