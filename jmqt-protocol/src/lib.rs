//! JMQT 1.0 as a language: what the packets are, how they are read and written, how they are
//! told apart on a byte stream, and what a valid name is.
//!
//! This crate never waits: it has no sockets, no clock, no files, and no runtime. The server and
//! the clients share it, so both directions of all fifteen packets (§7) are here.
//!
//! * [`decode`] turns packet text into a borrowed [`Packet`], leniently (protocol.md 2.6).
//! * [`Packet::encode`] turns a packet into text, strictly.
//! * [`NulDecoder`] cuts a TCP byte stream into packet texts, within a size limit (§3, 2.5).
//! * [`ChannelName`], [`ClientId`] and [`AuthToken`] are names that have been checked (2.8). They and the other words that
//!   JMQT shares with the languages to come are those of `jmqt-core`.
//!
//! ```
//! use jmqt_protocol::{decode, Packet};
//!
//! let packet = decode(r#"{"sub":{"cn":"news","pr":1}}"#)?;
//! let Packet::Sub(sub) = packet else { panic!("not a sub") };
//! assert_eq!(sub.channel, "news");
//! # Ok::<(), jmqt_protocol::DecodeError>(())
//! ```

mod decode;
mod encode;
mod frame;
mod packet;

pub use decode::{DecodeError, Echo, decode};
pub use encode::{LITERAL, PushFrame, escape_into};
pub use frame::{NUL, NulDecoder, PacketTooLarge};
pub use jmqt_core::{
    AuthToken, ChannelKind, ChannelName, ClientId, DisconnectCode, InvalidChannel, InvalidClientId,
    InvalidPayload, MAX_CHANNEL_BYTES, MAX_CLIENT_ID_BYTES, MAX_DEPTH, Payload, PayloadBuf, Persistence, Qos,
    Retain, StatusCode,
};
pub use packet::{
    Auth, AuthAck, AuthOutcome, Conn, ConnAck, Disconn, Packet, PacketType, Pub, PubAck, Push, PushAck, Sub,
    SubAck, Unsub, UnsubAck,
};

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
