//! Encodes messages: each message once per form, for any number of clients.
//!
//! The outbox requests the bytes in its form. The outbox and the hub know neither the packets nor their framing.
//! Differences between sessions (JMQT has none) belong to this room too.

mod aliases;
mod ids;
mod jmqt;
#[cfg(test)]
pub(crate) mod lines;
mod mqtt;
mod pushes;

use bytes::Bytes;
use jmqt_core::{ChannelName, Qos, StatusCode};
use jmqt_mqtt::Version;

use crate::message::RetainedPush;
use crate::options::SubscriptionOptions;
use crate::transport::Framing;

pub(crate) use aliases::TopicAliases;
pub(crate) use ids::IdSpace;
pub(crate) use jmqt::{RetainedPieces, framed};
pub(crate) use jmqt_mqtt::PacketId;
pub(crate) use mqtt::{Addressed, PublishReceipt, framed as mqtt_framed, reason as mqtt_reason};
pub(crate) use pushes::{LoggedPushes, Pushes, PushesBuilder};

/// The encoding that a client receives: its language, and the framing of its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// JMQT with a NUL byte after each packet.
    JmqtNul,
    /// JMQT with a WebSocket message per packet.
    JmqtWebSocket,
    /// MQTT 3.1 and 3.1.1.
    MqttV3,
    /// The same in WebSocket messages.
    MqttV3WebSocket,
    /// MQTT 5.0.
    MqttV5,
    /// The same in WebSocket messages.
    MqttV5WebSocket,
    /// Lines of text, a language for tests.
    #[cfg(test)]
    Lines,
}

impl Form {
    /// The forms without packet identifiers.
    const PLAIN: usize = 2;
    const COUNT: usize = if cfg!(test) { 7 } else { 6 };

    pub(crate) const fn of_jmqt(framing: Framing) -> Self {
        match framing {
            Framing::Nul => Self::JmqtNul,
            Framing::WebSocket => Self::JmqtWebSocket,
            Framing::Mqtt => Self::MqttV3,
            Framing::MqttWebSocket => Self::MqttV3WebSocket,
        }
    }

    /// The form of this version of MQTT.
    pub(crate) const fn of_mqtt(version: Version, is_websocket: bool) -> Self {
        match (version, is_websocket) {
            (Version::V5, false) => Self::MqttV5,
            (Version::V5, true) => Self::MqttV5WebSocket,
            (_, false) => Self::MqttV3,
            (_, true) => Self::MqttV3WebSocket,
        }
    }

    pub(crate) const fn is_mqtt(self) -> bool {
        matches!(self, Self::MqttV3 | Self::MqttV3WebSocket | Self::MqttV5 | Self::MqttV5WebSocket)
    }

    /// Returns `true` if acknowledgements say why a publish was refused.
    pub(crate) const fn has_reasons(self) -> bool {
        !matches!(self, Self::MqttV3 | Self::MqttV3WebSocket)
    }

    /// The bytes of a packet of this length in this form.
    pub(crate) const fn framed_length(self, packet: u32) -> u32 {
        let header = match packet {
            _ if !self.is_websocket() => 0,
            0..=125 => 2,
            126..=0xFFFF => 4,
            _ => 10,
        };
        packet.saturating_add(header)
    }

    const fn is_websocket(self) -> bool {
        matches!(self, Self::JmqtWebSocket | Self::MqttV3WebSocket | Self::MqttV5WebSocket)
    }

    /// The form with this number.
    pub(crate) const fn from_number(number: u8) -> Self {
        match number {
            0 => Self::JmqtNul,
            1 => Self::JmqtWebSocket,
            2 => Self::MqttV3,
            3 => Self::MqttV3WebSocket,
            4 => Self::MqttV5,
            5 => Self::MqttV5WebSocket,
            #[cfg(test)]
            _ => Self::Lines,
            #[cfg(not(test))]
            _ => Self::JmqtNul,
        }
    }

    fn framing(self) -> Framing {
        match self {
            Self::MqttV3 | Self::MqttV5 => Framing::Mqtt,
            Self::MqttV3WebSocket | Self::MqttV5WebSocket => Framing::MqttWebSocket,
            Self::JmqtNul => Framing::Nul,
            Self::JmqtWebSocket => Framing::WebSocket,
            #[cfg(test)]
            Self::Lines => Framing::Nul,
        }
    }
}

/// Identifies the publish that an answer belongs to. The hub keeps it without reading it.
#[derive(Debug)]
pub(crate) enum Receipt {
    /// The `id` of a `pub`, if it has one.
    Jmqt(Option<Box<str>>),
    Mqtt(PublishReceipt),
}

impl Receipt {
    /// The memory of the receipt in addition to its own size.
    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Jmqt(id) => id.as_ref().map_or(0, |id| id.len()),
            Self::Mqtt(_) => 0,
        }
    }

    pub(crate) const fn is_mqtt(&self) -> bool {
        matches!(self, Self::Mqtt(_))
    }

    /// The packet identifier of a QoS 2 publish.
    pub(crate) fn exactly_once(&self) -> Option<PacketId> {
        match self {
            Self::Mqtt(PublishReceipt { id, exactly_once: true }) => Some(*id),
            Self::Mqtt(_) | Self::Jmqt(_) => None,
        }
    }
}

/// A borrowed receipt, while the publish is handled.
#[derive(Debug, Clone, Copy)]
pub(crate) enum ReceiptRef<'a> {
    Jmqt(Option<&'a str>),
    /// `None` for QoS 0.
    Mqtt(Option<PublishReceipt>),
}

impl<'a> ReceiptRef<'a> {
    /// The receipt of a `pub` with this id.
    pub(crate) const fn of_jmqt(id: Option<&'a str>) -> Self {
        Self::Jmqt(id)
    }

    /// Returns `true` if the client can assign an answer to its publish.
    pub(crate) const fn can_be_answered(self) -> bool {
        matches!(self, Self::Jmqt(Some(_)) | Self::Mqtt(Some(_)))
    }

    /// Converts this into an owned receipt.
    pub(crate) fn kept(self) -> Receipt {
        match self {
            Self::Jmqt(id) => Receipt::Jmqt(id.map(Into::into)),
            Self::Mqtt(Some(receipt)) => Receipt::Mqtt(receipt),
            Self::Mqtt(None) => Receipt::Jmqt(None),
        }
    }
}

/// What became of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublishAnswer {
    Status(StatusCode),
    /// A limit of retained messages is reached. JMQT has no status of its own for it.
    QuotaExceeded,
}

impl PublishAnswer {
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Status(status) => status,
            Self::QuotaExceeded => StatusCode::NOT_ALLOWED,
        }
    }
}

/// Encodes the answer to the publish of a receipt.
pub(crate) fn receipt(form: Form, receipt: &Receipt, answer: PublishAnswer) -> Vec<u8> {
    let status = answer.status();
    match receipt {
        Receipt::Mqtt(receipt) => mqtt::receipt(form, *receipt, answer),
        #[cfg(test)]
        Receipt::Jmqt(id) if form == Form::Lines => lines::receipt(id.as_deref(), status),
        Receipt::Jmqt(id) => jmqt::receipt(form, id.as_deref(), status),
    }
}

/// Encodes the answer to the release of a QoS 2 publish.
pub(crate) fn release_receipt(form: Form, packet: PacketId, was_there: bool) -> Vec<u8> {
    mqtt::release_receipt(form, packet, was_there)
}

/// Encodes a channel's retained message (§9.b) for one subscription; `None` if there is nothing to send.
pub(crate) fn retained(
    form: Form,
    channel: &ChannelName,
    retained: RetainedPush,
    options: SubscriptionOptions,
) -> Option<RetainedPieces> {
    match form {
        Form::JmqtNul | Form::JmqtWebSocket => Some(jmqt::retained(form, channel, retained)),
        Form::MqttV3 | Form::MqttV3WebSocket | Form::MqttV5 | Form::MqttV5WebSocket => {
            mqtt::retained(form, channel, &retained, options)
        }
        #[cfg(test)]
        Form::Lines => Some(lines::retained(channel, retained)),
    }
}

/// Writes a packet identifier into a copy of a message that is sent again, with QoS 2 or 1.
pub(crate) fn address_again(form: Form, message: &[u8], exactly_once: bool, id: PacketId) -> Bytes {
    mqtt::address_again(form, message, exactly_once, id)
}

/// Encodes the release of a QoS 2 message.
pub(crate) fn release(form: Form, id: PacketId) -> Vec<u8> {
    mqtt::release(form, id)
}

/// Writes a packet identifier into a copy of an acknowledged message.
pub(crate) fn address(form: Form, message: &[u8], granted: Qos, id: PacketId) -> Addressed {
    mqtt::address(form, message, granted, id)
}
