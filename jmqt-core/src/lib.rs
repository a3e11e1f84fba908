//! The words that every language of a server shares: names, delivery flags, status codes and JSON payloads.
//!
//! A client speaks one language, JMQT for example; the hub, the store and the bus know only the words of this crate. So it
//! depends on no packet of any language. Like `jmqt-protocol` it never waits: no sockets, no clock, no files, no runtime.
//! Applications find these words in `jmqt-server` and `jmqt-client`.

mod delivery;
mod disconnect;
pub mod json;
mod names;
mod payload;
mod status;

pub use delivery::{Persistence, Qos, Retain};
pub use disconnect::DisconnectCode;
pub use names::{
    AuthToken, ChannelKind, ChannelName, ClientId, InvalidChannel, InvalidClientId, MAX_CHANNEL_BYTES,
    MAX_CLIENT_ID_BYTES,
};
pub use payload::{InvalidPayload, MAX_DEPTH, Payload, PayloadBuf};
pub use status::StatusCode;

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
