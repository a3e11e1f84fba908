//! JMQT 1.0 as a language: what the packets are, how they are read and written, how they are
//! told apart on a byte stream, and what a valid name is.
//!
//! This crate never waits: it has no sockets, no clock, no files, and no runtime. The server and
//! the clients share it, so both directions of all fifteen packets (§7) are here.
//!
//! * [`decode`] turns packet text into a borrowed [`Packet`], leniently (protocol.md 2.6).
//! * [`Packet::encode`] turns a packet into text, strictly.
//! * [`NulDecoder`] cuts a TCP byte stream into packet texts, within a size limit (§3, 2.5).
//! * [`ChannelName`], [`ClientId`] and [`AuthToken`] are names that have been checked (2.8).
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
mod disconnect;
mod encode;
mod frame;
mod lexer;
mod names;
mod packet;
mod payload;
mod status;

pub use decode::{DecodeError, Echo, decode};
pub use disconnect::DisconnectCode;
pub use encode::{PushFrame, escape_into};
pub use frame::{NUL, NulDecoder, PacketTooLarge};
pub use names::{
    AuthToken, ChannelKind, ChannelName, ClientId, InvalidChannel, InvalidClientId, MAX_CHANNEL_BYTES,
    MAX_CLIENT_ID_BYTES,
};
pub use packet::{
    Auth, AuthAck, AuthOutcome, Conn, ConnAck, Disconn, Packet, PacketType, Persistence, Pub, PubAck, Push,
    PushAck, Qos, Retain, Sub, SubAck, Unsub, UnsubAck,
};
pub use payload::{InvalidPayload, MAX_DEPTH, Payload};
pub use status::StatusCode;
