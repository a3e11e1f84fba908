//! A JMQT 1.0 client: publish and subscribe over TCP and WebSocket, plain and TLS, with QoS 0 and 1, retained
//! messages, persistent subscriptions, point-to-point messages and control requests, and automatic reconnect.
//!
//! A complete program:
//!
//! ```no_run
//! use jmqt_client::{Client, Config, Persistence, Publish};
//!
//! #[tokio::main]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let config = Config::url("jmqt://localhost:8010")?.auth(r#"{"client_name":"alice"}"#)?;
//!     let client = Client::connect(config).await?; // or Client::start(config)?, which goes on trying
//!
//!     let mut stream = client.subscribe("news", Persistence::Persistent).await?;
//!     let message = Publish::json("weather", &["rain", "sun"])?.at_least_once().retained();
//!     client.publish(&message).await?; // QoS 1: the server has it on disk
//!
//!     let reply = client.request("$mySubscriptions", None).await?;
//!     println!("{:?}", reply.data());
//!
//!     while let Some(push) = stream.next().await { // acknowledges the push before
//!         println!("{} says {}", push.publisher(), push.data());
//!     }
//!     client.close().await;
//!     Ok(())
//! }
//! ```
//!
//! # What holds
//!
//! * **Connections come and go, the [`Client`] stays.** It reconnects with pauses that double and are random in
//!   length ([`Reconnect`]), makes its subscriptions again, sends its unacknowledged QoS 1 publishes again in order
//!   and with the same ids, then what was published meanwhile. Control requests under way fail with
//!   [`Error::ConnectionLost`]. [`Client::events`] tells what happens.
//! * **The server has the last word.** When it says why it ends a connection (protocol.md 2.22), the client waits as long as
//!   it asks, and does not come back where it forbids that ([`Event::Stopped`]): two clients with one id do not end each other
//!   for ever. [`Client::reconnect`] starts again.
//! * **QoS 1 is at least once.** A push that the server sends again is recognised (the last 4,096 of each channel) and handed
//!   over once per client. A push is acknowledged when the stream is asked for the next one, when a callback returns, or
//!   [by hand](Subscription::acknowledge_by_hand), and never before the application has it. A publish whose acknowledgement
//!   was lost with a connection is stored once by a server that follows protocol.md 2.23, and arrives twice from others.
//! * **Nothing grows without a bound.** Publishes wait within `queue_bytes` ([`WhenFull`] says what comes then), pushes
//!   within `stream_bytes` of their stream: beyond it the oldest QoS 0 are dropped and counted, QoS 1 stay with the
//!   server. The socket is always read.
//! * **Every wait has a limit**, which [`Config`] names.
//!
//! Events are logged with `tracing`, never with tokens, auth data or message data. Sections (§) are those of the JMQT
//! 1.0 specification, `protocol.md` is `docs/protocol.md` of this repository.
//!
//! # Features
//!
//! `logging`: the log of the sample programs. `cli` (the default): the `jmqt` command. Libraries that
//! use this crate turn default features off.

mod certificate;
mod checks;
mod client;
pub mod config;
mod connect;
mod connection;
mod diagnose;
mod endpoint;
mod error;
mod event;
mod filter;
mod headers;
mod heartbeat;
mod inbox;
mod message;
pub mod mqtt;
mod outbound;
mod push;
mod recent;
mod reconnect;
mod routes;
mod shared;
mod stream;
mod trace;
mod transport;
mod way;

pub use client::{Client, Reply};
pub use config::{Config, ConfigError, Credentials, Reconnect, Secret, TlsConfig, WhenFull};
pub use diagnose::{Finding, diagnose};
pub use endpoint::{Endpoint, InvalidUrl, Protocol};
pub use error::{ConnectError, DisconnectReason, Error, ServerClose, Step};
pub use event::{Event, Events};
pub use filter::{ChannelFilter, IntoFilter, InvalidFilter};
pub use headers::{Header, InvalidHeader};
/// The log of the sample programs: see [`init`](logging::init).
#[cfg(feature = "logging")]
pub use jmqt_log as logging;
pub use jmqt_protocol::{
    AuthToken, ChannelKind, ChannelName, ClientId, DisconnectCode, InvalidChannel, InvalidClientId,
    InvalidPayload, Payload, Persistence, Qos, Retain, StatusCode,
};
pub use message::{IntoChannel, Publish, Receipt};
pub use push::Push;
pub use stream::{FilterSubscription, Pushes, Subscription};
/// The TLS library, in the version that [`Config::rustls`] takes.
pub use tokio_rustls::rustls;
pub use trace::Direction;

/// The code in the README of the repository compiles.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// So does the code in that of this crate.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct ReadmeOfCrate;
