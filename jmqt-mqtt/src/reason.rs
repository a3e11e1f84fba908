//! Reason codes (2.4), and the return codes of the older versions, which are written with them.

use std::fmt;

use crate::packet_type::PacketType;
use crate::version::{Sender, Version};

/// A reason code of MQTT 5 (2.4). Below 0x80 is success.
///
/// The older versions have return codes in CONNACK and SUBACK alone. Here they are the reason codes of the same
/// meaning: [`connack_v3`](Self::connack_v3) and [`of_connack_v3`](Self::of_connack_v3) translate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReasonCode(u8);

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $constant:ident = $code:literal, $name:literal;)*) => {
        impl ReasonCode {
            $($(#[$doc])* pub const $constant: Self = Self($code);)*

            /// The name in the specification; `None` for a code that it does not list.
            ///
            /// 0x00 is "Success" here; it is also "Normal disconnection" and "Granted QoS 0".
            #[must_use]
            pub const fn name(self) -> Option<&'static str> {
                Some(match self.0 {
                    $($code => $name,)*
                    _ => return None,
                })
            }
        }
    };
}

reason_codes! {
    /// 0x00, also "Normal disconnection" and "Granted QoS 0".
    SUCCESS = 0x00, "Success";
    /// 0x01, in SUBACK.
    GRANTED_QOS_1 = 0x01, "Granted QoS 1";
    /// 0x02, in SUBACK.
    GRANTED_QOS_2 = 0x02, "Granted QoS 2";
    /// 0x04: the client goes, and wants its will sent.
    DISCONNECT_WITH_WILL = 0x04, "Disconnect with Will Message";
    /// 0x10: accepted, but nobody subscribes to the topic.
    NO_MATCHING_SUBSCRIBERS = 0x10, "No matching subscribers";
    /// 0x11: there was no such subscription.
    NO_SUBSCRIPTION_EXISTED = 0x11, "No subscription existed";
    /// 0x18: the next step of an authentication exchange.
    CONTINUE_AUTHENTICATION = 0x18, "Continue authentication";
    /// 0x19: the client authenticates again.
    RE_AUTHENTICATE = 0x19, "Re-authenticate";
    /// 0x80: refused without a better reason.
    UNSPECIFIED_ERROR = 0x80, "Unspecified error";
    /// 0x81: the packet cannot be read.
    MALFORMED_PACKET = 0x81, "Malformed Packet";
    /// 0x82: the packet can be read but breaks a rule.
    PROTOCOL_ERROR = 0x82, "Protocol Error";
    /// 0x83: valid, but this receiver does not accept it.
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83, "Implementation specific error";
    /// 0x84: not a version that the server speaks.
    UNSUPPORTED_PROTOCOL_VERSION = 0x84, "Unsupported Protocol Version";
    /// 0x85: the client id is not allowed.
    CLIENT_IDENTIFIER_NOT_VALID = 0x85, "Client Identifier not valid";
    /// 0x86: user name or password are wrong.
    BAD_USER_NAME_OR_PASSWORD = 0x86, "Bad User Name or Password";
    /// 0x87: not allowed.
    NOT_AUTHORIZED = 0x87, "Not authorized";
    /// 0x88: the server cannot serve now.
    SERVER_UNAVAILABLE = 0x88, "Server unavailable";
    /// 0x89: the server is busy.
    SERVER_BUSY = 0x89, "Server busy";
    /// 0x8A: the client is banned.
    BANNED = 0x8A, "Banned";
    /// 0x8B: the server stops.
    SERVER_SHUTTING_DOWN = 0x8B, "Server shutting down";
    /// 0x8C: not an authentication method that the server knows, or not the one of this connection.
    BAD_AUTHENTICATION_METHOD = 0x8C, "Bad authentication method";
    /// 0x8D: nothing came for one and a half times the keep alive.
    KEEP_ALIVE_TIMEOUT = 0x8D, "Keep Alive timeout";
    /// 0x8E: another connection has this client id now.
    SESSION_TAKEN_OVER = 0x8E, "Session taken over";
    /// 0x8F: the filter is not accepted.
    TOPIC_FILTER_INVALID = 0x8F, "Topic Filter invalid";
    /// 0x90: the topic is not accepted.
    TOPIC_NAME_INVALID = 0x90, "Topic Name invalid";
    /// 0x91: the packet id is in use.
    PACKET_IDENTIFIER_IN_USE = 0x91, "Packet Identifier in use";
    /// 0x92: no exchange has this packet id.
    PACKET_IDENTIFIER_NOT_FOUND = 0x92, "Packet Identifier not found";
    /// 0x93: more QoS 1 and 2 messages than the receiver takes at a time.
    RECEIVE_MAXIMUM_EXCEEDED = 0x93, "Receive Maximum exceeded";
    /// 0x94: topic alias 0, or above the receiver's maximum.
    TOPIC_ALIAS_INVALID = 0x94, "Topic Alias invalid";
    /// 0x95: larger than the receiver's maximum packet size.
    PACKET_TOO_LARGE = 0x95, "Packet too large";
    /// 0x96: too many messages in a time.
    MESSAGE_RATE_TOO_HIGH = 0x96, "Message rate too high";
    /// 0x97: a limit of the receiver is reached.
    QUOTA_EXCEEDED = 0x97, "Quota exceeded";
    /// 0x98: an operator or the application ended the connection.
    ADMINISTRATIVE_ACTION = 0x98, "Administrative action";
    /// 0x99: the payload is not what its format indicator says.
    PAYLOAD_FORMAT_INVALID = 0x99, "Payload format invalid";
    /// 0x9A: the server keeps no retained messages.
    RETAIN_NOT_SUPPORTED = 0x9A, "Retain not supported";
    /// 0x9B: above the server's maximum QoS.
    QOS_NOT_SUPPORTED = 0x9B, "QoS not supported";
    /// 0x9C: use another server for now.
    USE_ANOTHER_SERVER = 0x9C, "Use another server";
    /// 0x9D: use another server from now on.
    SERVER_MOVED = 0x9D, "Server moved";
    /// 0x9E: the server has no shared subscriptions.
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = 0x9E, "Shared Subscriptions not supported";
    /// 0x9F: too many connections in a time.
    CONNECTION_RATE_EXCEEDED = 0x9F, "Connection rate exceeded";
    /// 0xA0: connected for longer than the server allows.
    MAXIMUM_CONNECT_TIME = 0xA0, "Maximum connect time";
    /// 0xA1: the server has no subscription identifiers.
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = 0xA1, "Subscription Identifiers not supported";
    /// 0xA2: the server has no wildcard subscriptions.
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = 0xA2, "Wildcard Subscriptions not supported";
}

impl ReasonCode {
    /// A code by its number; any number is allowed.
    #[must_use]
    pub const fn new(code: u8) -> Self {
        Self(code)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u8 {
        self.0
    }

    /// Whether it is 0x80 or above.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.0 >= 0x80
    }

    /// Whether the specification lists this code for packets of this type from this side
    /// (the tables in 3.2.2.2, 3.4.2.1 to 3.7.2.1, 3.9.3, 3.11.3, 3.14.2.1, 3.15.2.1).
    #[must_use]
    pub const fn is_valid_in(self, packet: PacketType, sender: Sender) -> bool {
        match packet {
            PacketType::ConnAck => matches!(
                self.0,
                0x00 | 0x80..=0x8A | 0x8C | 0x90 | 0x95 | 0x97 | 0x99..=0x9D | 0x9F
            ),
            PacketType::PubAck | PacketType::PubRec => {
                matches!(self.0, 0x00 | 0x10 | 0x80 | 0x83 | 0x87 | 0x90 | 0x91 | 0x97 | 0x99)
            }
            PacketType::PubRel | PacketType::PubComp => matches!(self.0, 0x00 | 0x92),
            PacketType::SubAck => {
                matches!(self.0, 0x00..=0x02 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2)
            }
            PacketType::UnsubAck => {
                matches!(self.0, 0x00 | 0x11 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91)
            }
            PacketType::Disconnect => match sender {
                Sender::Client => {
                    matches!(self.0, 0x00 | 0x04 | 0x80..=0x83 | 0x90 | 0x93..=0x99)
                }
                Sender::Server => matches!(
                    self.0,
                    0x00 | 0x80..=0x83 | 0x87 | 0x89 | 0x8B | 0x8D..=0x90 | 0x93..=0xA2
                ),
            },
            PacketType::Auth => match sender {
                Sender::Client => matches!(self.0, 0x18 | 0x19),
                Sender::Server => matches!(self.0, 0x00 | 0x18),
            },
            _ => false,
        }
    }

    /// The return code of a 3.1 or 3.1.1 CONNACK with this meaning; `None` if there is none: then the connection is
    /// closed without a CONNACK (3.1.1: 3.2.2.3).
    #[must_use]
    pub const fn connack_v3(self) -> Option<u8> {
        Some(match self {
            Self::SUCCESS => 0,
            Self::UNSUPPORTED_PROTOCOL_VERSION => 1,
            Self::CLIENT_IDENTIFIER_NOT_VALID => 2,
            Self::SERVER_UNAVAILABLE => 3,
            Self::BAD_USER_NAME_OR_PASSWORD => 4,
            Self::NOT_AUTHORIZED => 5,
            _ => return None,
        })
    }

    /// The reason code with the meaning of a 3.1 or 3.1.1 CONNACK return code; `None` for the reserved ones.
    #[must_use]
    pub const fn of_connack_v3(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::SUCCESS,
            1 => Self::UNSUPPORTED_PROTOCOL_VERSION,
            2 => Self::CLIENT_IDENTIFIER_NOT_VALID,
            3 => Self::SERVER_UNAVAILABLE,
            4 => Self::BAD_USER_NAME_OR_PASSWORD,
            5 => Self::NOT_AUTHORIZED,
            _ => return None,
        })
    }

    /// The byte of a SUBACK of this version: before 5.0 every refusal is 0x80 (3.1.1: 3.9.3).
    #[must_use]
    pub const fn suback_byte(self, version: Version) -> u8 {
        if self.is_error() && !version.has_properties() { 0x80 } else { self.0 }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "0x{:02X} {name}", self.0),
            None => write!(f, "0x{:02X}", self.0),
        }
    }
}

impl fmt::Debug for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
