//! The fifteen packets, in the order of their numbers, as borrowed structs (3).
//!
//! Strings and data are slices of the bytes that were decoded. If these bytes are in a `Bytes`,
//! `Bytes::slice_ref(publish.payload)` gives an owned part of it without a copy.

use crate::error::{EncodeError, Violation};
use crate::packet_type::PacketType;
use crate::property::Properties;
use crate::read::{PacketId, Reader};
use crate::reason::ReasonCode;
use crate::topic::has_wildcard;
use crate::version::{Qos, Version};
use crate::write::put_string;

/// One packet (3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet<'a> {
    /// 3.1
    Connect(Connect<'a>),
    /// 3.2
    ConnAck(ConnAck<'a>),
    /// 3.3
    Publish(Publish<'a>),
    /// 3.4
    PubAck(Ack<'a>),
    /// 3.5
    PubRec(Ack<'a>),
    /// 3.6
    PubRel(Ack<'a>),
    /// 3.7
    PubComp(Ack<'a>),
    /// 3.8
    Subscribe(Subscribe<'a>),
    /// 3.9
    SubAck(Codes<'a>),
    /// 3.10
    Unsubscribe(Unsubscribe<'a>),
    /// 3.11
    UnsubAck(Codes<'a>),
    /// 3.12
    PingReq,
    /// 3.13
    PingResp,
    /// 3.14
    Disconnect(Disconnect<'a>),
    /// 3.15
    Auth(Auth<'a>),
}

impl Packet<'_> {
    /// The packet's type.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Connect(_) => PacketType::Connect,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Publish(_) => PacketType::Publish,
            Self::PubAck(_) => PacketType::PubAck,
            Self::PubRec(_) => PacketType::PubRec,
            Self::PubRel(_) => PacketType::PubRel,
            Self::PubComp(_) => PacketType::PubComp,
            Self::Subscribe(_) => PacketType::Subscribe,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsubscribe(_) => PacketType::Unsubscribe,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::PingReq => PacketType::PingReq,
            Self::PingResp => PacketType::PingResp,
            Self::Disconnect(_) => PacketType::Disconnect,
            Self::Auth(_) => PacketType::Auth,
        }
    }
}

/// CONNECT: the first packet of a client (3.1). `Debug` does not show the password.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Connect<'a> {
    /// The version that the client speaks from here on.
    pub version: Version,
    /// Clean start; before 5.0 clean session (3.1.2.4).
    pub clean_start: bool,
    /// In seconds; 0 is none (3.1.2.10).
    pub keep_alive: u16,
    /// Empty if the server is to give one (3.1.3.1).
    pub client_id: &'a str,
    /// What is published when the connection is lost (3.1.2.5).
    pub will: Option<Will<'a>>,
    /// 3.1.3.5
    pub user_name: Option<&'a str>,
    /// 3.1.3.6
    pub password: Option<&'a [u8]>,
    /// 3.1.2.11
    pub properties: Properties<'a>,
}

impl std::fmt::Debug for Connect<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connect")
            .field("version", &self.version)
            .field("clean_start", &self.clean_start)
            .field("keep_alive", &self.keep_alive)
            .field("client_id", &self.client_id)
            .field("has_will", &self.will.is_some())
            .field("user_name", &self.user_name)
            .field("has_password", &self.password.is_some())
            .finish_non_exhaustive()
    }
}

/// A will (3.1.2.5, 3.1.3.2 to 3.1.3.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Will<'a> {
    /// 3.1.2.6
    pub qos: Qos,
    /// 3.1.2.7
    pub retain: bool,
    /// 3.1.3.3
    pub topic: &'a str,
    /// 3.1.3.4
    pub payload: &'a [u8],
    /// 3.1.3.2
    pub properties: Properties<'a>,
}

/// CONNACK: the answer to CONNECT (3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnAck<'a> {
    /// 3.2.2.1.1; MQTT 3.1 does not have it.
    pub session_present: bool,
    /// 3.2.2.2; before 5.0 the code with the meaning of the return code, see [`ReasonCode::connack_v3`].
    pub reason: ReasonCode,
    /// 3.2.2.3
    pub properties: Properties<'a>,
}

/// How a message is delivered: only above QoS 0 there are a packet identifier and DUP (2.2.1, 3.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Delivery {
    /// QoS 0.
    AtMostOnce,
    /// QoS 1.
    AtLeastOnce {
        /// 2.2.1
        id: PacketId,
        /// It is sent again (3.3.1.1).
        dup: bool,
    },
    /// QoS 2.
    ExactlyOnce {
        /// 2.2.1
        id: PacketId,
        /// It is sent again (3.3.1.1).
        dup: bool,
    },
}

impl Delivery {
    /// The QoS alone.
    #[must_use]
    pub const fn qos(self) -> Qos {
        match self {
            Self::AtMostOnce => Qos::AtMostOnce,
            Self::AtLeastOnce { .. } => Qos::AtLeastOnce,
            Self::ExactlyOnce { .. } => Qos::ExactlyOnce,
        }
    }

    /// The packet identifier, which QoS 0 does not have.
    #[must_use]
    pub const fn id(self) -> Option<PacketId> {
        match self {
            Self::AtMostOnce => None,
            Self::AtLeastOnce { id, .. } | Self::ExactlyOnce { id, .. } => Some(id),
        }
    }

    /// Whether it is sent again.
    #[must_use]
    pub const fn dup(self) -> bool {
        match self {
            Self::AtMostOnce => false,
            Self::AtLeastOnce { dup, .. } | Self::ExactlyOnce { dup, .. } => dup,
        }
    }
}

/// PUBLISH: a message (3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Publish<'a> {
    /// QoS, packet identifier and DUP.
    pub delivery: Delivery,
    /// 3.3.1.3
    pub retain: bool,
    /// 3.3.2.1; empty only if there is a topic alias. Has no wildcard; [`TopicName`](crate::TopicName) checks the rest.
    pub topic: &'a str,
    /// 3.3.2.3
    pub properties: Properties<'a>,
    /// 3.3.3
    pub payload: &'a [u8],
}

impl Publish<'_> {
    /// Whether the payload is what its format indicator says: text must be UTF-8 (3.3.2.3.2). If not, the answer is reason
    /// code 0x99, and the connection goes on.
    #[must_use]
    pub fn is_format_valid(&self) -> bool {
        self.properties.payload_format_indicator() != Some(true) || std::str::from_utf8(self.payload).is_ok()
    }
}

/// Checks what the topic of every PUBLISH and will must have; [`TopicName`](crate::TopicName) checks the rest.
pub(crate) fn check_topic(topic: &str, properties: Properties<'_>) -> Result<(), Violation> {
    if topic.is_empty() && properties.topic_alias().is_none() {
        return Err(Violation::TopicEmpty);
    }
    if has_wildcard(topic) {
        return Err(Violation::TopicWildcard);
    }
    Ok(())
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP (3.4 to 3.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack<'a> {
    /// Of the message it is about.
    pub id: PacketId,
    /// Success before 5.0.
    pub reason: ReasonCode,
    /// 3.4.2.2
    pub properties: Properties<'a>,
}

impl Ack<'_> {
    /// With this code, and without properties.
    #[must_use]
    pub const fn new(id: PacketId, reason: ReasonCode) -> Self {
        Self { id, reason, properties: Properties::EMPTY }
    }
}

/// SUBSCRIBE (3.8).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subscribe<'a> {
    /// 3.8.2
    pub id: PacketId,
    /// 3.8.2.1
    pub properties: Properties<'a>,
    /// At least one.
    pub filters: Filters<'a>,
}

/// What a client asks for with a filter (3.8.3.1). Before 5.0 it is the QoS alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct SubscribeOptions {
    /// The highest QoS that the client wants.
    pub qos: Qos,
    /// Not what the client publishes itself.
    pub no_local: bool,
    /// Messages keep their RETAIN flag.
    pub retain_as_published: bool,
    /// Which retained messages are sent at once.
    pub retain_handling: RetainHandling,
}

impl From<Qos> for SubscribeOptions {
    fn from(qos: Qos) -> Self {
        Self::of_qos(qos)
    }
}

/// Which retained messages a subscription is sent at once (3.8.3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum RetainHandling {
    /// 0: all that match.
    #[default]
    Send,
    /// 1: all that match, if there was no subscription with this filter.
    SendIfNew,
    /// 2: none.
    DoNotSend,
}

impl SubscribeOptions {
    /// Reads the options byte of a SUBSCRIBE.
    pub(crate) fn read(bits: u8, version: Version) -> Result<Self, Violation> {
        let reserved = if version.has_properties() { 0b1100_0000 } else { 0b1111_1100 };
        if bits & reserved != 0 {
            return Err(Violation::SubscriptionOptions);
        }
        Ok(Self {
            qos: Qos::from_bits(bits & 0b11).ok_or(Violation::SubscriptionQos)?,
            no_local: bits & 0b100 != 0,
            retain_as_published: bits & 0b1000 != 0,
            retain_handling: match bits >> 4 & 0b11 {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                _ => return Err(Violation::RetainHandling),
            },
        })
    }

    /// Only the QoS, which is all that the versions before 5.0 can ask for.
    #[must_use]
    pub const fn of_qos(qos: Qos) -> Self {
        Self { qos, no_local: false, retain_as_published: false, retain_handling: RetainHandling::Send }
    }

    /// The byte of MQTT 5.
    #[must_use]
    pub const fn bits(self) -> u8 {
        let handling = match self.retain_handling {
            RetainHandling::Send => 0,
            RetainHandling::SendIfNew => 1,
            RetainHandling::DoNotSend => 2,
        };
        self.qos.bits() | (self.no_local as u8) << 2 | (self.retain_as_published as u8) << 3 | handling << 4
    }
}

/// The filters of a SUBSCRIBE with their options, checked as a whole (3.8.3). A filter is a UTF-8 string; whether it is a
/// valid filter says [`Filter::parse`](crate::Filter::parse), because one bad filter is refused alone in MQTT 5.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Filters<'a> {
    pub(crate) block: &'a [u8],
}

impl<'a> Filters<'a> {
    /// Filters and options in the order they were sent.
    pub fn iter(self) -> impl Iterator<Item = (&'a str, SubscribeOptions)> + use<'a> {
        let mut reader = Reader::new(self.block);
        // The block has been checked: an error cannot come.
        std::iter::from_fn(move || {
            let filter = reader.string().ok()?;
            SubscribeOptions::read(reader.byte().ok()?, Version::V5).ok().map(|options| (filter, options))
        })
    }
}

impl std::fmt::Debug for Filters<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The filters of a SUBSCRIBE to be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FilterBuf {
    block: Vec<u8>,
}

impl FilterBuf {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { block: Vec::new() }
    }

    /// Adds a filter.
    ///
    /// # Errors
    /// It is longer than 65,535 bytes or has U+0000; nothing is added then.
    pub fn push(&mut self, filter: &str, options: SubscribeOptions) -> Result<(), EncodeError> {
        put_string("a topic filter", filter, &mut self.block)?;
        self.block.push(options.bits());
        Ok(())
    }

    /// The filters for a packet.
    #[must_use]
    pub fn as_filters(&self) -> Filters<'_> {
        Filters { block: &self.block }
    }
}

/// UNSUBSCRIBE (3.10).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unsubscribe<'a> {
    /// 3.10.2
    pub id: PacketId,
    /// 3.10.2.1
    pub properties: Properties<'a>,
    /// At least one.
    pub filters: Names<'a>,
}

/// The filters of an UNSUBSCRIBE, checked as a whole (3.10.3).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Names<'a> {
    pub(crate) block: &'a [u8],
}

impl<'a> Names<'a> {
    /// The filters in the order they were sent.
    pub fn iter(self) -> impl Iterator<Item = &'a str> + use<'a> {
        let mut reader = Reader::new(self.block);
        // The block has been checked: an error cannot come.
        std::iter::from_fn(move || reader.string().ok())
    }
}

impl std::fmt::Debug for Names<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The filters of an UNSUBSCRIBE to be sent.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct NameBuf {
    block: Vec<u8>,
}

impl NameBuf {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { block: Vec::new() }
    }

    /// Adds a filter.
    ///
    /// # Errors
    /// It is longer than 65,535 bytes or has U+0000; nothing is added then.
    pub fn push(&mut self, filter: &str) -> Result<(), EncodeError> {
        put_string("a topic filter", filter, &mut self.block)
    }

    /// The filters for a packet.
    #[must_use]
    pub fn as_names(&self) -> Names<'_> {
        Names { block: &self.block }
    }
}

/// SUBACK or UNSUBACK: a code for each filter, in order (3.9, 3.11).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Codes<'a> {
    /// Of the SUBSCRIBE or UNSUBSCRIBE.
    pub id: PacketId,
    /// 3.9.2.1
    pub properties: Properties<'a>,
    /// A byte for each filter. None in an UNSUBACK before 5.0.
    pub codes: &'a [u8],
}

impl<'a> Codes<'a> {
    /// The codes in the order of the filters [MQTT-3.9.3-1].
    pub fn iter(self) -> impl ExactSizeIterator<Item = ReasonCode> + use<'a> {
        self.codes.iter().map(|&code| ReasonCode::new(code))
    }
}

impl std::fmt::Debug for Codes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Codes")
            .field("id", &self.id)
            .field("properties", &self.properties)
            .field("codes", &self.iter().collect::<Vec<_>>())
            .finish()
    }
}

/// DISCONNECT (3.14).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Disconnect<'a> {
    /// Success, which is "Normal disconnection", before 5.0.
    pub reason: ReasonCode,
    /// 3.14.2.2
    pub properties: Properties<'a>,
}

/// AUTH (3.15). `Debug` shows neither method nor data.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Auth<'a> {
    /// 3.15.2.1
    pub reason: ReasonCode,
    /// 3.15.2.2
    pub properties: Properties<'a>,
}

impl std::fmt::Debug for Auth<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").field("reason", &self.reason).finish_non_exhaustive()
    }
}
