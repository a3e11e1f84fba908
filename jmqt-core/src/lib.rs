//! Types that all languages of a server share: names, delivery flags, status codes and JSON payloads.
//!
//! A client speaks one language, for example JMQT; the hub, the store and the bus use only the types of this crate.
//! The crate therefore depends on no packet of any language. Like `jmqt-protocol` it does no I/O: no sockets, clock,
//! files, runtime. `jmqt-server` and `jmqt-client` re-export these types to applications.

mod delivery;
mod disconnect;
pub mod json;
mod names;
mod partial;
mod payload;
mod status;

pub use delivery::{Persistence, Qos, Retain};
pub use disconnect::DisconnectCode;
pub use names::{
    AuthToken, ChannelKind, ChannelName, ClientId, InvalidChannel, InvalidClientId, MAX_CHANNEL_BYTES,
    MAX_CLIENT_ID_BYTES, MAX_EXACT_CHANNEL_BYTES,
};
pub use partial::Partial;
pub use payload::{InvalidPayload, MAX_DEPTH, Payload, PayloadBuf};
pub use status::StatusCode;

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
