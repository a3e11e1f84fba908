//! MQTT: messages and acknowledgements as they are written to a socket or a WebSocket.
//!
//! A QoS 0 message is the same for all clients of a form. An acknowledged one has a packet identifier for each client: it
//! is encoded once without it, and [`address`] writes it into a copy.

use std::borrow::Cow;
use std::time::Duration;

use bytes::Bytes;
use jmqt_core::{ChannelKind, ChannelName, ClientId, StatusCode};
use jmqt_mqtt::payload::{Content, Declared};
use jmqt_mqtt::{
    Ack, Delivery, Packet, PacketId, PacketType, Place, Properties, Property, PropertyBuf, Publish,
    ReasonCode, Sender, SubscriptionId, Version, client_to_topic, is_presentable, name_to_topic,
};

use super::jmqt::RetainedPieces;
use super::{Form, PublishAnswer};
use crate::attributes::{Attributes, DataForm};
use crate::log_limit::log_limited;
use crate::message::{LoggedPush, Pieces, RetainedPush, Run, payload_of, place};
use crate::options::{Grant, SubscriptionOptions, Terms};
use crate::transport::binary_header;

/// The longest header of a WebSocket frame of the server.
const FRAME_HEADER_BYTES: usize = 10;

/// The publish of an answer: its packet identifier, and whether it has QoS 2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PublishReceipt {
    pub(crate) id: PacketId,
    pub(crate) exactly_once: bool,
}

/// The version of the clients of a form.
pub(crate) const fn version(form: Form) -> Version {
    match form {
        Form::MqttV5 | Form::MqttV5WebSocket => Version::V5,
        _ => Version::V3_1_1,
    }
}

/// Encodes a packet in this form. A packet that cannot be encoded is a bug, and is left out.
pub(crate) fn framed(form: Form, packet: &Packet<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Err(error) = packet.encode(version(form), &mut bytes) {
        debug_assert!(false, "{error}");
        log_limited!(error, target: "jmqt::session", %error, "cannot encode a packet");
        return Vec::new();
    }
    if !form.is_websocket() {
        return bytes;
    }
    let mut message = Vec::with_capacity(bytes.len() + FRAME_HEADER_BYTES);
    binary_header(bytes.len(), &mut message);
    message.extend_from_slice(&bytes);
    message
}

/// The reason code of MQTT 5 for the status of a publish.
pub(crate) fn reason(status: StatusCode) -> ReasonCode {
    match status {
        StatusCode::OK => ReasonCode::SUCCESS,
        StatusCode::CLIENT_OFFLINE => ReasonCode::NO_MATCHING_SUBSCRIBERS,
        // A PUBACK cannot have "Protocol Error".
        StatusCode::SERVER_ERROR | StatusCode::INVALID_PACKET => ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
        StatusCode::NOT_ALLOWED => ReasonCode::NOT_AUTHORIZED,
        StatusCode::INVALID_CHANNEL => ReasonCode::TOPIC_NAME_INVALID,
        _ => ReasonCode::UNSPECIFIED_ERROR,
    }
}

/// Encodes the answer to a publish. Before MQTT 5 it cannot say that the publish was refused.
pub(super) fn receipt(form: Form, receipt: PublishReceipt, answer: PublishAnswer) -> Vec<u8> {
    let reason = match answer {
        _ if version(form) != Version::V5 => ReasonCode::SUCCESS,
        PublishAnswer::Status(status) => reason(status),
        PublishAnswer::QuotaExceeded => ReasonCode::QUOTA_EXCEEDED,
    };
    let ack = Ack::new(receipt.id, reason);
    framed(form, &if receipt.exactly_once { Packet::PubRec(ack) } else { Packet::PubAck(ack) })
}

/// Encodes a PUBCOMP.
pub(super) fn release_receipt(form: Form, packet: PacketId, was_there: bool) -> Vec<u8> {
    let reason = match was_there {
        false if version(form) == Version::V5 => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        _ => ReasonCode::SUCCESS,
    };
    framed(form, &Packet::PubComp(Ack::new(packet, reason)))
}

/// The topic of a channel; `None` if MQTT clients would take it for a malformed packet.
fn topic(channel: &ChannelName) -> Option<Cow<'_, str>> {
    let topic = match channel.as_str().strip_prefix('#') {
        Some(client) if channel.kind() == ChannelKind::PeerToPeer => {
            Cow::Owned(format!("$p2p/{}", client_to_topic(client)))
        }
        _ => name_to_topic(channel.as_str()),
    };
    if is_presentable(&topic) {
        return Some(topic);
    }
    log_limited!(warn, target: "jmqt::session", %channel, "MQTT clients do not receive messages of a channel whose name has control characters");
    None
}

/// The properties of a message for MQTT 5.
fn properties(
    sender: Option<&ClientId>,
    declared: Declared,
    attributes: &Attributes,
    expires_in: Option<Duration>,
    terms: Option<Terms<'_>>,
) -> PropertyBuf {
    let mut buffer = PropertyBuf::new();
    // The values have been checked or are constants, so each of them can be written.
    let mut push = |property| {
        let _ = buffer.push(property);
    };
    if let Some(time) = expires_in {
        // The time that is left, rounded up so that it is never 0 (3.3.2.3.3).
        let seconds = time.as_millis().div_ceil(1000).max(1);
        push(Property::MessageExpiryInterval(u32::try_from(seconds).unwrap_or(u32::MAX)));
    }
    let ids = terms
        .into_iter()
        .flat_map(|terms| terms.options.id().into_iter().chain(terms.more_ids.iter().copied()));
    for id in ids.filter_map(SubscriptionId::new) {
        push(Property::SubscriptionIdentifier(id));
    }
    if matches!(attributes.form(), DataForm::Json | DataForm::LiteralJson)
        && let Some(content_type) = declared.content_type()
        && declared != Declared::Binary
    {
        push(Property::PayloadFormatIndicator(true));
        push(Property::ContentType(content_type));
    }
    if let Some(sender) = sender {
        push(Property::UserProperty(("sender", sender.as_str())));
    }
    if let Ok(forwarded) =
        Properties::check(attributes.properties(), Place::Packet(PacketType::Publish), Sender::Server)
    {
        buffer.push_checked(forwarded);
    }
    buffer
}

/// How a message is sent.
#[derive(Clone, Copy)]
struct Manner<'t> {
    delivery: Delivery,
    retain: bool,
    /// Set if the message is for one subscription.
    terms: Option<Terms<'t>>,
}

/// Joins messages of one channel in one form.
struct Encoder<'c> {
    form: Form,
    topic: Option<Cow<'c, str>>,
    is_peer: bool,
    bytes: Vec<u8>,
    ends: Vec<u32>,
}

impl<'c> Encoder<'c> {
    fn new(form: Form, channel: &'c ChannelName, count: usize, bytes: usize) -> Self {
        let topic = topic(channel);
        let beside = topic.as_ref().map_or(0, |topic| topic.len() + 24);
        Self {
            form,
            topic,
            is_peer: channel.kind() == ChannelKind::PeerToPeer,
            bytes: Vec::with_capacity(bytes + count * beside),
            ends: Vec::with_capacity(count),
        }
    }

    /// Writes one message, or an empty piece for a message that must not be sent.
    fn push(&mut self, sender: Option<&ClientId>, data: &[u8], attributes: &Attributes, manner: Manner<'_>) {
        let start = self.bytes.len();
        if !self.write(sender, data, attributes, manner) {
            self.bytes.truncate(start);
        }
        self.ends.push(place(self.bytes.len()));
    }

    fn write(
        &mut self,
        sender: Option<&ClientId>,
        data: &[u8],
        attributes: &Attributes,
        manner: Manner<'_>,
    ) -> bool {
        let Some(payload) = self.head(sender, data, attributes, manner) else { return false };
        self.bytes.extend_from_slice(&payload);
        true
    }

    /// Writes the bytes before the payload, and returns the payload.
    fn head<'d>(
        &mut self,
        sender: Option<&ClientId>,
        data: &'d [u8],
        attributes: &Attributes,
        manner: Manner<'_>,
    ) -> Option<Cow<'d, [u8]>> {
        let topic = self.topic.as_deref()?;
        let expires_in = attributes.expires_in();
        if expires_in == Some(Duration::ZERO) {
            return None;
        }
        let Content { bytes: payload, declared } = payload_of(data, attributes);
        let version = version(self.form);
        let buffer = match version {
            Version::V5 => {
                let sender = sender.filter(|_| self.is_peer);
                properties(sender, declared, attributes, expires_in, manner.terms)
            }
            _ => PropertyBuf::new(),
        };
        let publish = Publish {
            delivery: manner.delivery,
            retain: manner.retain,
            topic,
            properties: buffer.for_place(Place::Packet(PacketType::Publish), Sender::Server).ok()?,
            payload: &payload,
        };
        if self.form.is_websocket() {
            let mut packet = Vec::with_capacity(topic.len() + buffer.len() + 16);
            publish.encode_head(version, &mut packet).ok()?;
            binary_header(packet.len() + payload.len(), &mut self.bytes);
            self.bytes.extend_from_slice(&packet);
        } else {
            publish.encode_head(version, &mut self.bytes).ok()?;
        }
        Some(payload)
    }

    fn finish(self) -> Pieces {
        Pieces { bytes: self.bytes.into(), ends: self.ends.into() }
    }
}

/// The form of an acknowledged message before it has a packet identifier.
fn unaddressed(attributes: &Attributes) -> Delivery {
    match attributes.is_exactly_once() {
        true => Delivery::ExactlyOnce { id: PacketId::MIN, dup: false },
        false => Delivery::AtLeastOnce { id: PacketId::MIN, dup: false },
    }
}

/// Encodes QoS 0 messages. With `terms`, for one subscription.
pub(super) fn encode_run(
    form: Form,
    channel: &ChannelName,
    sender: Option<&ClientId>,
    run: &Run,
    terms: Option<Terms<'_>>,
) -> Pieces {
    let manner = Manner {
        delivery: Delivery::AtMostOnce,
        retain: terms.is_some_and(|terms| terms.options.keeps_retain()) && run.attributes.is_retain(),
        terms,
    };
    let mut encoder = Encoder::new(form, channel, run.pieces.ends.len(), run.pieces.bytes.len());
    for data in run.data() {
        encoder.push(sender, data, &run.attributes, manner);
    }
    encoder.finish()
}

/// Encodes QoS 1 and 2 messages. With `terms`, for one subscription. If they are acknowledged, they have no packet
/// identifiers yet.
pub(super) fn encode_logged(
    form: Form,
    channel: &ChannelName,
    messages: &[LoggedPush],
    grant: Grant,
    terms: Option<Terms<'_>>,
) -> Pieces {
    let data: usize = messages.iter().map(|message| message.data.as_bytes().len()).sum();
    let mut encoder = Encoder::new(form, channel, messages.len(), data);
    for LoggedPush { sender, data, .. } in messages {
        let attributes = data.attributes();
        let manner = Manner {
            delivery: match grant {
                Grant::Unacknowledged => Delivery::AtMostOnce,
                Grant::Acknowledged => unaddressed(attributes),
            },
            retain: terms.is_some_and(|terms| terms.options.keeps_retain()) && attributes.is_retain(),
            terms,
        };
        encoder.push(sender.as_ref(), data.as_bytes(), attributes, manner);
    }
    encoder.finish()
}

/// Encodes a channel's retained message for one subscription. If it is acknowledged, it has no packet identifier yet.
pub(super) fn retained(
    form: Form,
    channel: &ChannelName,
    retained: &RetainedPush,
    options: SubscriptionOptions,
) -> Option<RetainedPieces> {
    let mut encoder = Encoder::new(form, channel, 1, 0);
    let attributes = retained.data.attributes();
    let delivery = match options.grant(attributes.qos()) {
        Grant::Acknowledged => unaddressed(attributes),
        Grant::Unacknowledged => Delivery::AtMostOnce,
    };
    let manner = Manner { delivery, retain: true, terms: Some(Terms { options, more_ids: &[] }) };
    let payload = encoder.head(retained.sender.as_ref(), retained.data.as_bytes(), attributes, manner)?;
    let data = match payload {
        // A retained message without a payload is none for MQTT.
        payload if payload.is_empty() => return None,
        Cow::Borrowed(payload) => retained.data.share(payload),
        Cow::Owned(payload) => payload.into(),
    };
    Some(RetainedPieces { head: encoder.bytes, data, tail: Vec::new() })
}

/// An acknowledged message for one client.
pub(crate) struct Addressed {
    pub(crate) bytes: Bytes,
    /// The message is sent with QoS 2.
    pub(crate) exactly_once: bool,
}

/// Writes the packet identifier into a copy of an acknowledged message, and lowers its QoS to the granted one.
pub(super) fn address(form: Form, template: &[u8], granted: jmqt_core::Qos, id: PacketId) -> Addressed {
    const QOS_BITS: u8 = 0b110;
    let mut bytes = template.to_vec();
    let start = if form.is_websocket() { frame_header_length(&bytes) } else { 0 };
    let mut exactly_once = false;
    if let Some(first) = bytes.get_mut(start) {
        exactly_once = *first & QOS_BITS == 0b100 && granted == jmqt_core::Qos::ExactlyOnce;
        let qos = if exactly_once { 0b100 } else { 0b010 };
        *first = *first & !QOS_BITS | qos;
    }
    if let Some(at) = packet_id_at(&bytes, start)
        && let Some(place) = bytes.get_mut(at..at + 2)
    {
        place.copy_from_slice(&id.get().to_be_bytes());
    }
    Addressed { bytes: bytes.into(), exactly_once }
}

/// Writes the packet identifier into a copy of a message that is sent again, with QoS 2 or 1.
pub(super) fn address_again(form: Form, template: &[u8], exactly_once: bool, id: PacketId) -> Bytes {
    const DUP: u8 = 0b1000;
    let mut bytes = Vec::from(address(form, template, jmqt_core::Qos::ExactlyOnce, id).bytes);
    let start = if form.is_websocket() { frame_header_length(&bytes) } else { 0 };
    if let Some(first) = bytes.get_mut(start) {
        *first = *first & 0b1111_0001 | DUP | if exactly_once { 0b100 } else { 0b010 };
    }
    bytes.into()
}

/// Encodes a PUBREL.
pub(super) fn release(form: Form, id: PacketId) -> Vec<u8> {
    framed(form, &Packet::PubRel(Ack::new(id, ReasonCode::SUCCESS)))
}

pub(super) fn frame_header_length(bytes: &[u8]) -> usize {
    match bytes.get(1) {
        Some(126) => 4,
        Some(127) => 10,
        _ => 2,
    }
}

/// The position of the packet identifier of a PUBLISH: behind the fixed header and the topic.
fn packet_id_at(bytes: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    while bytes.get(at)? & 0x80 != 0 {
        at += 1;
    }
    at += 1;
    let length = u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]);
    Some(at + 2 + usize::from(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // 3.4.2.1, 3.5.2.1: an application may refuse with any status
    fn every_status_has_a_reason_that_answers_a_publish() {
        for code in -1..=20 {
            let reason = reason(StatusCode::new(code));
            for packet in [PacketType::PubAck, PacketType::PubRec] {
                assert!(reason.is_valid_in(packet, Sender::Server), "{code} {reason}");
            }
        }
    }
}
