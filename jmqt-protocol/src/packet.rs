//! The fifteen packets, in the order of §7, as borrowed structs.

use std::borrow::Cow;
use std::fmt;

use jmqt_core::{DisconnectCode, Payload, Persistence, Qos, Retain, StatusCode};

/// A packet's key on the wire (§7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "each is the packet struct of the same name")]
pub enum PacketType {
    Auth,
    AuthAck,
    Conn,
    ConnAck,
    Hb,
    HbAck,
    Sub,
    SubAck,
    Unsub,
    UnsubAck,
    Pub,
    PubAck,
    Push,
    PushAck,
    Disconn,
}

impl PacketType {
    /// The key on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Auth => "auth",
            Self::AuthAck => "authAck",
            Self::Conn => "conn",
            Self::ConnAck => "connAck",
            Self::Hb => "hb",
            Self::HbAck => "hbAck",
            Self::Sub => "sub",
            Self::SubAck => "subAck",
            Self::Unsub => "unsub",
            Self::UnsubAck => "unsubAck",
            Self::Pub => "pub",
            Self::PubAck => "pubAck",
            Self::Push => "push",
            Self::PushAck => "pushAck",
            Self::Disconn => "disconn",
        }
    }

    pub(crate) fn from_key(key: &str) -> Option<Self> {
        Some(match key {
            "pub" => Self::Pub,
            "pushAck" => Self::PushAck,
            "push" => Self::Push,
            "pubAck" => Self::PubAck,
            "hb" => Self::Hb,
            "hbAck" => Self::HbAck,
            "auth" => Self::Auth,
            "authAck" => Self::AuthAck,
            "conn" => Self::Conn,
            "connAck" => Self::ConnAck,
            "sub" => Self::Sub,
            "subAck" => Self::SubAck,
            "unsub" => Self::Unsub,
            "unsubAck" => Self::UnsubAck,
            "disconn" => Self::Disconn,
            _ => return None,
        })
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One packet, borrowing from the text it was read from (§7).
///
/// Channel names and ids are those on the wire, unchecked: a reader checks them with
/// [`ChannelName::parse`](crate::ChannelName::parse) and [`ClientId::parse`](crate::ClientId::parse),
/// because a bad name is answered differently from a bad packet (protocol.md 2.5, 2.8).
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is the packet struct of the same name")]
pub enum Packet<'a> {
    Auth(Auth<'a>),
    AuthAck(AuthAck<'a>),
    Conn(Conn<'a>),
    ConnAck(ConnAck),
    /// Client: still here (§7.e).
    Hb,
    /// Server: so am I (§7.f).
    HbAck,
    Sub(Sub<'a>),
    SubAck(SubAck<'a>),
    Unsub(Unsub<'a>),
    UnsubAck(UnsubAck<'a>),
    Pub(Pub<'a>),
    PubAck(PubAck<'a>),
    Push(Push<'a>),
    PushAck(PushAck<'a>),
    Disconn(Disconn<'a>),
}

impl Packet<'_> {
    /// The packet's key.
    #[must_use]
    pub const fn packet_type(&self) -> PacketType {
        match self {
            Self::Auth(_) => PacketType::Auth,
            Self::AuthAck(_) => PacketType::AuthAck,
            Self::Conn(_) => PacketType::Conn,
            Self::ConnAck(_) => PacketType::ConnAck,
            Self::Hb => PacketType::Hb,
            Self::HbAck => PacketType::HbAck,
            Self::Sub(_) => PacketType::Sub,
            Self::SubAck(_) => PacketType::SubAck,
            Self::Unsub(_) => PacketType::Unsub,
            Self::UnsubAck(_) => PacketType::UnsubAck,
            Self::Pub(_) => PacketType::Pub,
            Self::PubAck(_) => PacketType::PubAck,
            Self::Push(_) => PacketType::Push,
            Self::PushAck(_) => PacketType::PushAck,
            Self::Disconn(_) => PacketType::Disconn,
        }
    }
}

/// Client: asks for a token (§7.a).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth<'a> {
    /// `dt`: the credentials of the application's choice.
    pub data: Payload<'a>,
}

/// Server: the outcome of an `auth` (§7.b).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthAck<'a> {
    /// `st`, and what goes with it.
    pub outcome: AuthOutcome<'a>,
}

/// What an `authAck` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthOutcome<'a> {
    /// `st` 1: here are the token and the client id to connect with.
    Granted {
        /// `at`.
        token: Cow<'a, str>,
        /// `cl`.
        client: Cow<'a, str>,
    },
    /// Any other `st`, with the reason.
    Refused {
        /// `st`, never 1.
        status: StatusCode,
        /// `mg`; empty if the server gave none.
        message: Cow<'a, str>,
    },
}

/// Client: opens a session (§7.c).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conn<'a> {
    /// `at`: the token.
    pub token: Cow<'a, str>,
    /// `cl`: the client id.
    pub client: Cow<'a, str>,
    /// `wn`: how many unacknowledged QoS 1 pushes the client takes at a time (protocol.md 2.9).
    pub window: Option<u32>,
    /// `pi`: which publisher this is, so that a publish that is sent twice is stored once (protocol.md 2.23).
    pub publisher: Option<Cow<'a, str>>,
}

/// Server: the outcome of a `conn` (§7.d).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnAck {
    /// `st`.
    pub status: StatusCode,
    /// `ts`, seconds, if `st` is 1: the server closes a connection idle for longer.
    pub timeout_seconds: Option<u32>,
    /// `pi`: the server stores what this publisher sends twice once (protocol.md 2.23).
    pub remembers_publishes: bool,
}

/// Client: subscribe (§7.g).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sub<'a> {
    /// `cn`, as on the wire.
    pub channel: Cow<'a, str>,
    /// `pr`.
    pub persistence: Persistence,
    /// `wc`: `cn` is a filter with wildcards (protocol.md 2.25).
    pub is_filter: bool,
}

/// Server: the outcome of a `sub` (§7.h).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubAck<'a> {
    /// `st`.
    pub status: StatusCode,
    /// `cn`, trimmed; absent only where the request had none to read.
    pub channel: Option<Cow<'a, str>>,
    /// `wc` of the request. A server that does not know filters takes one for the name of a channel, and sends none.
    pub is_filter: bool,
}

/// Client: unsubscribe (§7.i).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsub<'a> {
    /// `cn`, as on the wire.
    pub channel: Cow<'a, str>,
    /// `wc`: `cn` is a filter with wildcards (protocol.md 2.25).
    pub is_filter: bool,
}

/// Server: the outcome of an `unsub` (§7.j).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsubAck<'a> {
    /// `st`.
    pub status: StatusCode,
    /// `cn`, trimmed; absent only where the request had none to read.
    pub channel: Option<Cow<'a, str>>,
    /// `wc` of the request. A server that does not know filters takes one for the name of a channel, and sends none.
    pub is_filter: bool,
}

/// Client: publish (§7.k).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pub<'a> {
    /// `cn`, as on the wire.
    pub channel: Cow<'a, str>,
    /// `dt`; absent only on control channels (protocol.md 2.7).
    pub data: Option<Payload<'a>>,
    /// `jt`: for MQTT clients the payload is literally the text of `dt` (protocol.md 2.26).
    pub is_literal: bool,
    /// `q`.
    pub qos: Qos,
    /// `rt`.
    pub retain: Retain,
    /// `id`: the publisher's own name for this publish, given back in the `pubAck`.
    pub id: Option<Cow<'a, str>>,
}

/// Server: the outcome of a QoS 1 `pub` or a control request (§7.l).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PubAck<'a> {
    /// `st`.
    pub status: StatusCode,
    /// `id` of the `pub`; absent only where it had none to read.
    pub id: Option<Cow<'a, str>>,
    /// `dt`: the reply of a control channel.
    pub data: Option<Payload<'a>>,
}

/// Server: a delivery (§7.m).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push<'a> {
    /// `cn`.
    pub channel: Cow<'a, str>,
    /// `dt`.
    pub data: Payload<'a>,
    /// `jt`: an MQTT client published literally the text of `dt` (protocol.md 2.26).
    pub is_literal: bool,
    /// `cl`: the publisher; empty for the server.
    pub client: Cow<'a, str>,
    /// `q`.
    pub qos: Qos,
    /// `id`, if QoS 1: what the `pushAck` names.
    pub id: Option<Cow<'a, str>>,
    /// `rt`: this is the channel's retained message, not to be acknowledged.
    pub retain: Retain,
}

/// Client: has taken a QoS 1 push (§7.n).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushAck<'a> {
    /// `id` of the push.
    pub id: Cow<'a, str>,
    /// `st`; the original clients send none.
    pub status: Option<StatusCode>,
}

/// Client: leaving on purpose (§7.o, §9.f). Server: why it closes the connection (protocol.md 2.22).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Disconn<'a> {
    /// `st`; a client sends none.
    pub code: Option<DisconnectCode>,
    /// `mg`: the reason for people to read; a client sends none.
    pub message: Option<Cow<'a, str>>,
    /// `ts`: seconds to wait before reconnecting; absent where the client decides.
    pub retry_after_seconds: Option<u32>,
}

impl Disconn<'_> {
    /// What a client sends.
    pub const LEAVING: Self = Self { code: None, message: None, retry_after_seconds: None };
}
