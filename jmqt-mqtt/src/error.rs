//! The errors of packets, the statements of the specification that they break, and the answers to them.

use crate::packet_type::PacketType;
use crate::property_id::PropertyId;
use crate::reason::ReasonCode;
use crate::version::Version;

/// A rule that a packet breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Violation {
    /// A field ends behind the end of the packet (4.13).
    #[error("the packet ends within a field")]
    Truncated,
    /// Something follows the last field (4.13).
    #[error("bytes follow the last field")]
    TrailingBytes,
    /// Packet type 0, or a type that this version does not have (2.1.2).
    #[error("packet type {0} is reserved")]
    ReservedType(u8),
    /// A packet that only the other side sends (2.1.2).
    #[error("only the other side of a connection sends this packet")]
    WrongDirection,
    /// The lower four bits of the first byte (2.1.3).
    #[error("the flags of the first byte are {0:#06b}, which is reserved")]
    Flags(u8),
    /// A length or identifier of more than four bytes (1.5.5, 2.1.4).
    #[error("a variable byte integer has more than four bytes")]
    LengthTooLong,
    /// A length or identifier with more bytes than it needs (1.5.5).
    #[error("a variable byte integer is longer than necessary")]
    LengthNotMinimal,
    /// The whole packet is larger than the receiver's maximum packet size (3.1.2.11.4, 3.2.2.3.6).
    #[error("the packet is larger than {limit} bytes")]
    TooLarge {
        /// The maximum packet size in bytes, with the fixed header.
        limit: usize,
    },
    /// A string is not UTF-8, or encodes a surrogate (1.5.4).
    #[error("a string is not well-formed UTF-8")]
    NotUtf8,
    /// A string has U+0000 (1.5.4).
    #[error("a string contains the null character U+0000")]
    NullCharacter,
    /// The protocol name of CONNECT is neither `MQTT` nor `MQIsdp` (3.1.2.1).
    #[error("the protocol name is neither MQTT nor MQIsdp")]
    ProtocolName,
    /// The protocol name is known, this level of it is not (3.1.2.2).
    #[error("protocol level {0} is not supported")]
    ProtocolLevel(u8),
    /// The reserved connect flag is set (3.1.2.3).
    #[error("the reserved connect flag is set")]
    ConnectReservedFlag,
    /// Will QoS or will retain are set without a will (3.1.2.6, 3.1.2.7).
    #[error("will QoS or will retain are set without a will")]
    WillFlags,
    /// The will's QoS is 3 (3.1.2.6).
    #[error("the will's QoS is 3")]
    WillQos,
    /// A password without a user name, before 5.0 (3.1.1: 3.1.2.9).
    #[error("a password without a user name")]
    PasswordWithoutUserName,
    /// No client id, before 5.0 with a clean session only (3.1.1: 3.1.3.1).
    #[error("the client id is empty, and the session is not clean")]
    ClientIdMissing,
    /// Bits 7 to 1 of the acknowledge flags of CONNACK (3.2.2.1).
    #[error("reserved acknowledge flags are set")]
    ConnAckFlags,
    /// A CONNACK that refuses and has session present set (3.2.2.1.1).
    #[error("session present is set in a CONNACK that refuses")]
    SessionPresentWithError,
    /// A PUBLISH with both QoS bits set (3.3.1.2).
    #[error("both QoS bits are set")]
    Qos3,
    /// A PUBLISH of QoS 0 with DUP (3.3.1.1).
    #[error("DUP is set at QoS 0")]
    DupAtQos0,
    /// Packet identifier 0 (2.2.1).
    #[error("the packet identifier is 0")]
    PacketIdZero,
    /// No topic, and no topic alias either (3.3.2.1, 4.7.3).
    #[error("the topic name is empty")]
    TopicEmpty,
    /// `+` or `#` in a topic name (3.3.2.1, 4.7.1).
    #[error("the topic name contains a wildcard")]
    TopicWildcard,
    /// The response topic is empty or has `+` or `#` (3.3.2.3.5).
    #[error("the response topic is empty or contains a wildcard")]
    ResponseTopic,
    /// SUBSCRIBE or UNSUBSCRIBE without a filter, SUBACK without a code (3.8.3, 3.9.3, 3.10.3).
    #[error("the packet has no entries; expected at least one")]
    NoEntries,
    /// Reserved bits of the subscription options (3.8.3.1).
    #[error("reserved bits of the subscription options are set")]
    SubscriptionOptions,
    /// A requested QoS of 3 (3.8.3.1).
    #[error("the requested QoS is 3")]
    SubscriptionQos,
    /// Retain handling 3 (3.8.3.1).
    #[error("retain handling is 3")]
    RetainHandling,
    /// No local on a shared subscription (3.8.3.1).
    #[error("no local is set on a shared subscription")]
    NoLocalShared,
    /// A reason or return code that this packet does not have, or not from this side.
    #[error("code 0x{0:02X} does not belong in this packet")]
    ReasonCode(u8),
    /// A property identifier that does not exist (2.2.2.2).
    #[error("property 0x{0:02X} does not exist")]
    UnknownProperty(u32),
    /// A property that does not belong in this packet (2.2.2.2).
    #[error("property `{0}` does not belong in this packet")]
    MisplacedProperty(PropertyId),
    /// A property that only the other side sends in this packet.
    #[error("only the other side sends property `{0}` in this packet")]
    BarredProperty(PropertyId),
    /// A property that may be there once is there twice (2.2.2.2).
    #[error("duplicate property `{0}`")]
    DuplicateProperty(PropertyId),
    /// A property has a value that it must not have.
    #[error("property `{0}` has a value that is not allowed")]
    PropertyValue(PropertyId),
    /// Authentication data without a method (3.1.2.11.10), or AUTH without a method (3.15.2.2.2).
    #[error("the authentication method is missing")]
    AuthenticationMethodMissing,
}

/// What the receiver of a bad packet does before it closes the connection (4.13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It sends a CONNACK in the format of this version.
    ConnAck(Version, ReasonCode),
    /// It sends a DISCONNECT (5.0).
    Disconnect(ReasonCode),
    /// It sends nothing.
    Close,
}

/// A packet that is refused. The connection it came on is to be closed [MQTT-4.13.1-1], [MQTT-4.8.0-1].
///
/// It says nothing of what is in the packet: it may be logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{}: {violation}", .packet.map_or("packet", PacketType::name))]
pub struct DecodeError {
    /// The type of the packet, if that could be read.
    pub packet: Option<PacketType>,
    /// The version whose rules were broken; `None` in a CONNECT that does not name a known version.
    pub version: Option<Version>,
    /// Which rule was broken.
    pub violation: Violation,
}

impl DecodeError {
    /// The number of the normative statement that was broken, where the specification numbers it.
    #[must_use]
    pub const fn statement(&self) -> Option<&'static str> {
        match self.version {
            Some(version) => self.violation.statement(self.packet, version),
            None => match self.violation {
                Violation::ProtocolName => Some("MQTT-3.1.2-1"),
                Violation::ProtocolLevel(_) => Some("MQTT-3.1.2-2"),
                // Before a version is agreed on only CONNECT is read.
                Violation::WrongDirection => Some("MQTT-3.1.0-1"),
                _ => None,
            },
        }
    }

    /// What the sender is told before the connection is closed.
    ///
    /// MQTT 5 has a code for everything. Before it only two refusals of a CONNECT have one: an unknown protocol level
    /// (return code 1) and a missing client id (2). A client of a level that we do not know is answered in the format of
    /// 5.0 if its level is above 5, else in that of 3.1.1.
    #[must_use]
    pub const fn answer(&self) -> Answer {
        let reason = self.violation.reason();
        match (self.packet, self.version) {
            (Some(PacketType::Connect), None) => match self.violation {
                Violation::ProtocolLevel(level) if level & 0x7F > Version::V5.level() => {
                    Answer::ConnAck(Version::V5, reason)
                }
                Violation::ProtocolLevel(_) => Answer::ConnAck(Version::V3_1_1, reason),
                _ => Answer::Close,
            },
            (Some(PacketType::Connect), Some(Version::V5)) => Answer::ConnAck(Version::V5, reason),
            (Some(PacketType::Connect), Some(version)) => match self.violation {
                Violation::ClientIdMissing => Answer::ConnAck(version, reason),
                _ => Answer::Close,
            },
            (_, Some(Version::V5)) => Answer::Disconnect(reason),
            _ => Answer::Close,
        }
    }
}

impl Violation {
    /// The reason code of MQTT 5 for a packet that breaks this rule (4.13).
    #[must_use]
    pub const fn reason(self) -> ReasonCode {
        match self {
            Self::TooLarge { .. } => ReasonCode::PACKET_TOO_LARGE,
            Self::ProtocolName | Self::ProtocolLevel(_) => ReasonCode::UNSUPPORTED_PROTOCOL_VERSION,
            Self::ClientIdMissing => ReasonCode::CLIENT_IDENTIFIER_NOT_VALID,
            Self::TopicWildcard => ReasonCode::TOPIC_NAME_INVALID,
            Self::PropertyValue(PropertyId::TopicAlias) => ReasonCode::TOPIC_ALIAS_INVALID,
            Self::WrongDirection
            | Self::PacketIdZero
            | Self::TopicEmpty
            | Self::ResponseTopic
            | Self::NoEntries
            | Self::SubscriptionQos
            | Self::RetainHandling
            | Self::NoLocalShared
            | Self::ReasonCode(_)
            | Self::DuplicateProperty(_)
            | Self::PropertyValue(_)
            | Self::AuthenticationMethodMissing
            | Self::SessionPresentWithError
            | Self::BarredProperty(_) => ReasonCode::PROTOCOL_ERROR,
            _ => ReasonCode::MALFORMED_PACKET,
        }
    }

    /// The number of the normative statement that this breaks in packets of this type.
    #[must_use]
    pub const fn statement(self, packet: Option<PacketType>, version: Version) -> Option<&'static str> {
        let v5 = version.has_properties();
        Some(match self {
            Self::Flags(_) => match packet {
                Some(PacketType::PubRel) => "MQTT-3.6.1-1",
                Some(PacketType::Subscribe) => "MQTT-3.8.1-1",
                Some(PacketType::Unsubscribe) => "MQTT-3.10.1-1",
                Some(PacketType::Disconnect) => "MQTT-3.14.1-1",
                Some(PacketType::Auth) => "MQTT-3.15.1-1",
                _ if v5 => "MQTT-2.1.3-1",
                _ => "MQTT-2.2.2-2",
            },
            Self::LengthNotMinimal if v5 => "MQTT-1.5.5-1",
            Self::TooLarge { .. } if v5 => "MQTT-3.2.2-15",
            Self::NotUtf8 => pick(v5, "MQTT-1.5.4-1", "MQTT-1.5.3-1"),
            Self::NullCharacter => pick(v5, "MQTT-1.5.4-2", "MQTT-1.5.3-2"),
            Self::ProtocolName => "MQTT-3.1.2-1",
            Self::ProtocolLevel(_) => "MQTT-3.1.2-2",
            Self::ConnectReservedFlag => "MQTT-3.1.2-3",
            Self::WillFlags => "MQTT-3.1.2-11",
            Self::WillQos => pick(v5, "MQTT-3.1.2-12", "MQTT-3.1.2-14"),
            Self::PasswordWithoutUserName => "MQTT-3.1.2-22",
            Self::ClientIdMissing => "MQTT-3.1.3-8",
            Self::ConnAckFlags if v5 => "MQTT-3.2.2-1",
            Self::SessionPresentWithError => pick(v5, "MQTT-3.2.2-6", "MQTT-3.2.2-4"),
            Self::Qos3 => "MQTT-3.3.1-4",
            Self::DupAtQos0 => "MQTT-3.3.1-2",
            Self::PacketIdZero => pick(v5, "MQTT-2.2.1-3", "MQTT-2.3.1-1"),
            Self::TopicEmpty => "MQTT-4.7.3-1",
            Self::TopicWildcard => "MQTT-3.3.2-2",
            Self::ResponseTopic => "MQTT-3.3.2-14",
            Self::NoEntries => match packet {
                Some(PacketType::Subscribe) => pick(v5, "MQTT-3.8.3-2", "MQTT-3.8.3-3"),
                Some(PacketType::Unsubscribe) => "MQTT-3.10.3-2",
                _ => return None,
            },
            Self::SubscriptionOptions => pick(v5, "MQTT-3.8.3-5", "MQTT-3.8.3-4"),
            Self::SubscriptionQos if !v5 => "MQTT-3.8.3-4",
            Self::NoLocalShared => "MQTT-3.8.3-4",
            Self::ReasonCode(_) => match packet {
                Some(PacketType::ConnAck) => pick(v5, "MQTT-3.2.2-8", "MQTT-3.2.2-6"),
                Some(PacketType::PubAck) => "MQTT-3.4.2-1",
                Some(PacketType::PubRec) => "MQTT-3.5.2-1",
                Some(PacketType::PubRel) => "MQTT-3.6.2-1",
                Some(PacketType::PubComp) => "MQTT-3.7.2-1",
                Some(PacketType::SubAck) => "MQTT-3.9.3-2",
                Some(PacketType::UnsubAck) => "MQTT-3.11.3-2",
                Some(PacketType::Disconnect) => "MQTT-3.14.2-1",
                Some(PacketType::Auth) => "MQTT-3.15.2-1",
                _ => return None,
            },
            Self::BarredProperty(PropertyId::SubscriptionIdentifier) => "MQTT-3.3.4-6",
            Self::BarredProperty(PropertyId::SessionExpiryInterval) => "MQTT-3.14.2-2",
            Self::PropertyValue(PropertyId::TopicAlias) => "MQTT-3.3.2-8",
            _ => return None,
        })
    }
}

const fn pick(v5: bool, five: &'static str, three: &'static str) -> &'static str {
    if v5 { five } else { three }
}

/// Why a packet cannot be written. Nothing of it has been written then.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// A string or binary field has more than 65,535 bytes (1.5.4, 1.5.6).
    #[error("{0} has more than 65,535 bytes")]
    FieldTooLong(&'static str),
    /// The packet would have more than 268,435,455 bytes after its fixed header (2.1.4).
    #[error("the packet is too large for MQTT")]
    PacketTooLarge,
    /// The version has no way to say this.
    #[error("this version of MQTT cannot represent {0}")]
    NotInVersion(&'static str),
    /// The packet would break a rule, and be refused by its receiver.
    #[error(transparent)]
    Rule(#[from] Violation),
}
