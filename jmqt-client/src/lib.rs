//! A JMQT 1.0 client: publish and subscribe over TCP and WebSocket, plain and TLS, with automatic reconnect.

mod certificate;
mod client;
pub mod config;
mod connect;
mod connection;
mod diagnose;
mod endpoint;
mod error;
mod event;
mod inbox;
mod message;
mod outbound;
mod push;
mod recent;
mod reconnect;
mod routes;
mod shared;
mod stream;
mod transport;

pub use client::{Client, Reply};
pub use config::{Config, ConfigError, Reconnect, Secret, TlsConfig, WhenFull};
pub use diagnose::{Finding, diagnose};
pub use endpoint::{Endpoint, InvalidUrl, Protocol};
pub use error::{ConnectError, DisconnectReason, Error, Step};
pub use event::{Event, Events};
/// The log of the sample programs: see [`init`](logging::init).
#[cfg(feature = "logging")]
pub use jmqt_log as logging;
pub use jmqt_protocol::{
    AuthToken, ChannelKind, ChannelName, ClientId, InvalidChannel, InvalidClientId, InvalidPayload, Payload,
    Persistence, Qos, Retain, StatusCode,
};
pub use message::{Publish, Receipt};
pub use push::Push;
pub use stream::{Pushes, Subscription};
