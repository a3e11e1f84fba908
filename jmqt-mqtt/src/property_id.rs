//! The names of properties: their numbers, and the packets in which they may be (2.2.2).

use std::fmt;

use crate::packet_type::PacketType;
use crate::version::Sender;

/// Where properties are: in a packet, or in the will of a CONNECT.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// The properties of a packet of this type.
    Packet(PacketType),
    /// The properties of a will (3.1.3.2).
    Will,
}

impl Place {
    const fn bit(self) -> u16 {
        match self {
            Self::Will => WILL,
            Self::Packet(packet) => 1 << packet as u16,
        }
    }
}

// The places of a property: a bit for each packet type, and bit 0 for the will.
const WILL: u16 = 1;
const CONNECT: u16 = 1 << PacketType::Connect as u16;
const CONNACK: u16 = 1 << PacketType::ConnAck as u16;
const PUBLISH: u16 = 1 << PacketType::Publish as u16;
const SUBSCRIBE: u16 = 1 << PacketType::Subscribe as u16;
const DISCONNECT: u16 = 1 << PacketType::Disconnect as u16;
const AUTH: u16 = 1 << PacketType::Auth as u16;
const UNSUBSCRIBE: u16 = 1 << PacketType::Unsubscribe as u16;
const ACKS: u16 = 1 << PacketType::PubAck as u16
    | 1 << PacketType::PubRec as u16
    | 1 << PacketType::PubRel as u16
    | 1 << PacketType::PubComp as u16
    | 1 << PacketType::SubAck as u16
    | 1 << PacketType::UnsubAck as u16;
const EVERYWHERE: u16 =
    WILL | CONNECT | CONNACK | PUBLISH | SUBSCRIBE | UNSUBSCRIBE | ACKS | DISCONNECT | AUTH;

/// Gives the table of all properties to a macro: number, type of the value, name and places of each (2.2.2.2).
macro_rules! with_properties {
    ($macro:ident) => {
        $macro! {
            /// Whether the payload is UTF-8 text (3.3.2.3.2).
            PayloadFormatIndicator(bool) = 0x01, "Payload Format Indicator", PUBLISH | WILL;
            /// For how many seconds the message is of use (3.3.2.3.3).
            MessageExpiryInterval(u32) = 0x02, "Message Expiry Interval", PUBLISH | WILL;
            /// What the payload is, a MIME type for example (3.3.2.3.9).
            ContentType(&'a str) = 0x03, "Content Type", PUBLISH | WILL;
            /// The topic for the response to a request (3.3.2.3.5).
            ResponseTopic(&'a str) = 0x08, "Response Topic", PUBLISH | WILL;
            /// What tells which request a response is for (3.3.2.3.6).
            CorrelationData(&'a [u8]) = 0x09, "Correlation Data", PUBLISH | WILL;
            /// The number that the client gave a subscription (3.3.2.3.8, 3.8.2.1.2).
            SubscriptionIdentifier(SubscriptionId) = 0x0B, "Subscription Identifier", PUBLISH | SUBSCRIBE;
            /// For how many seconds the session outlives the connection (3.1.2.11.2).
            SessionExpiryInterval(u32) = 0x11, "Session Expiry Interval", CONNECT | CONNACK | DISCONNECT;
            /// The client id that the server gave (3.2.2.3.7).
            AssignedClientIdentifier(&'a str) = 0x12, "Assigned Client Identifier", CONNACK;
            /// The keep alive in seconds that the client is to use (3.2.2.3.14).
            ServerKeepAlive(u16) = 0x13, "Server Keep Alive", CONNACK;
            /// The name of the authentication method (3.1.2.11.9).
            AuthenticationMethod(&'a str) = 0x15, "Authentication Method", CONNECT | CONNACK | AUTH;
            /// Data of the authentication method (3.1.2.11.10).
            AuthenticationData(&'a [u8]) = 0x16, "Authentication Data", CONNECT | CONNACK | AUTH;
            /// Whether the client wants reason strings and user properties (3.1.2.11.7).
            RequestProblemInformation(bool) = 0x17, "Request Problem Information", CONNECT;
            /// For how many seconds after the connection's end the will waits (3.1.3.2.2).
            WillDelayInterval(u32) = 0x18, "Will Delay Interval", WILL;
            /// Whether the client wants response information (3.1.2.11.6).
            RequestResponseInformation(bool) = 0x19, "Request Response Information", CONNECT;
            /// What response topics are made from (3.2.2.3.15).
            ResponseInformation(&'a str) = 0x1A, "Response Information", CONNACK;
            /// Another server to use (3.2.2.3.16).
            ServerReference(&'a str) = 0x1C, "Server Reference", CONNACK | DISCONNECT;
            /// A reason for people to read (3.2.2.3.9).
            ReasonString(&'a str) = 0x1F, "Reason String", CONNACK | ACKS | DISCONNECT | AUTH;
            /// How many messages of QoS 1 and 2 the sender takes at a time (3.1.2.11.3).
            ReceiveMaximum(u16) = 0x21, "Receive Maximum", CONNECT | CONNACK;
            /// The highest topic alias that the sender takes (3.1.2.11.5).
            TopicAliasMaximum(u16) = 0x22, "Topic Alias Maximum", CONNECT | CONNACK;
            /// The number that is used in place of the topic (3.3.2.3.4).
            TopicAlias(u16) = 0x23, "Topic Alias", PUBLISH;
            /// The highest QoS that the server does (3.2.2.3.4).
            MaximumQos(Qos) = 0x24, "Maximum QoS", CONNACK;
            /// Whether the server keeps retained messages (3.2.2.3.5).
            RetainAvailable(bool) = 0x25, "Retain Available", CONNACK;
            /// A name and a value that MQTT gives no meaning (2.2.2.2). May be there many times, and keeps its order.
            UserProperty((&'a str, &'a str)) = 0x26, "User Property", EVERYWHERE;
            /// The largest packet in bytes that the sender takes (3.1.2.11.4).
            MaximumPacketSize(u32) = 0x27, "Maximum Packet Size", CONNECT | CONNACK;
            /// Whether the server has wildcard subscriptions (3.2.2.3.11).
            WildcardSubscriptionAvailable(bool) = 0x28, "Wildcard Subscription Available", CONNACK;
            /// Whether the server has subscription identifiers (3.2.2.3.12).
            SubscriptionIdentifierAvailable(bool) = 0x29, "Subscription Identifier Available", CONNACK;
            /// Whether the server has shared subscriptions (3.2.2.3.13).
            SharedSubscriptionAvailable(bool) = 0x2A, "Shared Subscription Available", CONNACK;
        }
    };
}
pub(crate) use with_properties;

macro_rules! property_ids {
    ($($(#[$doc:meta])* $id:ident($type:ty) = $number:literal, $name:literal, $places:expr;)*) => {
        /// The name of a property, with its number (2.2.2.2).
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum PropertyId {
            $($(#[$doc])* $id = $number,)*
        }

        impl PropertyId {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$id,)*];

            pub(crate) const fn of_number(number: u32) -> Option<Self> {
                Some(match number {
                    $($number => Self::$id,)*
                    _ => return None,
                })
            }

            const fn places(self) -> u16 {
                match self {
                    $(Self::$id => $places,)*
                }
            }

            /// The name in the specification.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$id => $name,)*
                }
            }
        }
    };
}

with_properties!(property_ids);

impl PropertyId {
    /// Whether the property may be there (2.2.2.2).
    #[must_use]
    pub const fn belongs_in(self, place: Place) -> bool {
        self.places() & place.bit() != 0
    }

    /// Whether the property may be there more than once.
    pub(crate) const fn may_repeat(self, place: Place) -> bool {
        match self {
            Self::UserProperty => true,
            // A message that matches several subscriptions names all of them (3.3.2.3.8).
            Self::SubscriptionIdentifier => matches!(place, Place::Packet(PacketType::Publish)),
            _ => false,
        }
    }

    /// Whether only the other side may send it there.
    pub(crate) const fn is_barred(self, place: Place, sender: Sender) -> bool {
        match (self, place, sender) {
            (Self::SubscriptionIdentifier, Place::Packet(PacketType::Publish), Sender::Client) => true, // [MQTT-3.3.4-6]
            (Self::SessionExpiryInterval, Place::Packet(PacketType::Disconnect), Sender::Server) => true, // [MQTT-3.14.2-2]
            (Self::ServerReference, Place::Packet(PacketType::Disconnect), Sender::Client) => true, // 3.14.2.2.5
            _ => false,
        }
    }
}

impl fmt::Display for PropertyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
