//! The first byte of a packet: its type and the flags of that type (2.1.2, 2.1.3).

use std::fmt;

use crate::version::{Sender, Version};

/// A control packet type, with its number (2.1.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PacketType {
    /// Client to server: begin a session (3.1).
    Connect = 1,
    /// Server to client: the answer to CONNECT (3.2).
    ConnAck = 2,
    /// Both ways: a message (3.3).
    Publish = 3,
    /// Both ways: QoS 1 received (3.4).
    PubAck = 4,
    /// Both ways: QoS 2 received (3.5).
    PubRec = 5,
    /// Both ways: QoS 2 released (3.6).
    PubRel = 6,
    /// Both ways: QoS 2 complete (3.7).
    PubComp = 7,
    /// Client to server: subscribe (3.8).
    Subscribe = 8,
    /// Server to client: the answer to SUBSCRIBE (3.9).
    SubAck = 9,
    /// Client to server: unsubscribe (3.10).
    Unsubscribe = 10,
    /// Server to client: the answer to UNSUBSCRIBE (3.11).
    UnsubAck = 11,
    /// Client to server: a sign of life (3.12).
    PingReq = 12,
    /// Server to client: the answer to PINGREQ (3.13).
    PingResp = 13,
    /// The last packet of a connection: from the client, from 5.0 on also from the server (3.14).
    Disconnect = 14,
    /// Both ways, from 5.0 on: a step of an authentication exchange (3.15).
    Auth = 15,
}

impl PacketType {
    /// The type that the upper four bits of a packet's first byte name; `None` for 0, which is reserved.
    #[must_use]
    pub const fn of_first_byte(first: u8) -> Option<Self> {
        Some(match first >> 4 {
            1 => Self::Connect,
            2 => Self::ConnAck,
            3 => Self::Publish,
            4 => Self::PubAck,
            5 => Self::PubRec,
            6 => Self::PubRel,
            7 => Self::PubComp,
            8 => Self::Subscribe,
            9 => Self::SubAck,
            10 => Self::Unsubscribe,
            11 => Self::UnsubAck,
            12 => Self::PingReq,
            13 => Self::PingResp,
            14 => Self::Disconnect,
            15 => Self::Auth,
            _ => return None,
        })
    }

    /// The first byte of a packet of this type, which for PUBLISH has no flag set yet (2.1.3).
    #[must_use]
    pub const fn first_byte(self) -> u8 {
        (self as u8) << 4 | self.fixed_flags()
    }

    /// The name in the specification, in capitals.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "CONNECT",
            Self::ConnAck => "CONNACK",
            Self::Publish => "PUBLISH",
            Self::PubAck => "PUBACK",
            Self::PubRec => "PUBREC",
            Self::PubRel => "PUBREL",
            Self::PubComp => "PUBCOMP",
            Self::Subscribe => "SUBSCRIBE",
            Self::SubAck => "SUBACK",
            Self::Unsubscribe => "UNSUBSCRIBE",
            Self::UnsubAck => "UNSUBACK",
            Self::PingReq => "PINGREQ",
            Self::PingResp => "PINGRESP",
            Self::Disconnect => "DISCONNECT",
            Self::Auth => "AUTH",
        }
    }

    /// Whether this side may send such a packet in this version (2.1.2).
    #[must_use]
    pub const fn may_come_from(self, sender: Sender, version: Version) -> bool {
        match self {
            Self::Connect | Self::Subscribe | Self::Unsubscribe | Self::PingReq => {
                matches!(sender, Sender::Client)
            }
            Self::ConnAck | Self::SubAck | Self::UnsubAck | Self::PingResp => {
                matches!(sender, Sender::Server)
            }
            Self::Disconnect => matches!(sender, Sender::Client) || version.has_properties(),
            Self::Auth => version.has_properties(),
            Self::Publish | Self::PubAck | Self::PubRec | Self::PubRel | Self::PubComp => true,
        }
    }

    /// The lower four bits of the first byte, which are fixed for every type but PUBLISH.
    const fn fixed_flags(self) -> u8 {
        match self {
            Self::PubRel | Self::Subscribe | Self::Unsubscribe => 0b0010,
            _ => 0,
        }
    }

    /// Whether these are the flags that the type must have. Those of PUBLISH are checked when it is decoded.
    ///
    /// MQTT 3.1 gave PUBREL, SUBSCRIBE and UNSUBSCRIBE a DUP flag, so it is accepted there.
    pub(crate) const fn accepts_flags(self, flags: u8, version: Version) -> bool {
        match (self, version) {
            (Self::Publish, _) => true,
            (Self::PubRel | Self::Subscribe | Self::Unsubscribe, Version::V3_1) => flags & 0b0111 == 0b0010,
            _ => flags == self.fixed_flags(),
        }
    }
}

impl fmt::Display for PacketType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
