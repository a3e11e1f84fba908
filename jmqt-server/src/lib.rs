//! A JMQT 1.0 application server, as a library: JSON publish/subscribe over TCP and WebSocket, plain and
//! TLS, with QoS 0 and 1, retained messages, persistent subscriptions, point-to-point and control
//! channels.
//!
//! Your application makes the decisions in async traits. Usually one type implements all of them; pass it, or an
//! `Arc` of it, to [`ServerBuilder::app`]:
//!
//! - [`AuthValidator`], [`ConnValidator`], [`SubValidator`] and [`PubValidator`] are required.
//! - [`UnsubValidator`], [`ControlHandler`], [`DisconnectNotifier`] and [`CloseNotifier`] have defaults: an empty `impl` is enough.
//! - [`OpenNotifier`] and [`StoredNotifier`] are optional.
//!
//! The server does the rest: sessions, order, redelivery, limits, a store in SQLite or MySQL, and, with Redis, a
//! cluster of several nodes. A `pubAck` with status 1 means that the message is on disk for every persistent
//! subscriber.
//!
//! The validators can also be set one by one, as in this complete server. A client that sends
//! `{"auth":{"dt":{"client_name":"alice"}}}` receives a token for the client id `alice`; a client without a token
//! cannot connect:
//!
//! ```
//! use std::collections::BTreeMap;
//!
//! use jmqt_server::prelude::*;
//!
//! /// Everybody is who they say they are. A real application asks for a password here.
//! struct Believe(TokenIssuer);
//!
//! #[async_trait]
//! impl AuthValidator for Believe {
//!     async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
//!         let data: BTreeMap<String, String> = request.json().unwrap_or_default();
//!         match ClientId::parse(data.get("client_name").map_or("", String::as_str)) {
//!             Ok(client) => Ok(self.0.grant(client)?),
//!             Err(error) => Ok(AuthVerdict::refuse(StatusCode::INVALID_PACKET, error.to_string())),
//!         }
//!     }
//! }
//!
//! async fn serve() -> Result<(), BoxError> {
//!     let mut config = Config::default(); // or Config::load(Some("server.conf".as_ref()))?
//! #   let folder = tempfile::tempdir()?;
//! #   config.sqlite_path = folder.path().join("jmqt.db");
//! #   (config.bind_address, config.websocket_port) = ([127, 0, 0, 1].into(), None);
//!     config.socket_port = Some(0); // any free port
//!     let tokens = TokenIssuer::from_config(&config)?;
//!     let server = Server::builder(config)
//!         .validate_auth(Believe(tokens.clone())).validate_conn(tokens).validate_sub(AllowAll).validate_pub(AllowAll)
//!         .start().await?;
//!     println!("listening on {:?}", server.local_addr(Protocol::Socket));
//! #   server.shutdown().await;
//! #   return Ok(());
//!     server.run_until_signal().await?;
//!     Ok(())
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     jmqt_server::run(serve())
//! }
//! ```
//!
//! Your program controls the server with a [`ServerHandle`], in validators and elsewhere: it subscribes and
//! unsubscribes clients, publishes, lists connected clients, and disconnects them (§9.e). [`testing`] helps to write
//! unit tests of validators.
//!
//! # Features
//!
//! - `sqlite` (default): sessions and messages in a file, for a single server.
//! - `tls` (default): TLS listeners.
//! - `mysql`: sessions and messages in MySQL or MariaDB.
//! - `redis`: several nodes that share a database; it turns on `mysql`.
//! - `admin`: an HTTP listener for operators, with metrics, health checks and an admin API ([`Config::admin_address`]).
//! - `ready`: validators that read a password file, JSON Web Tokens and a file with rules; wrappers for validators.
//! - `ready-http`: `ready`, and validators that ask a web backend over HTTP.
//!
//! A server needs `sqlite` or `mysql`. A setting that needs a missing feature stops the start with
//! [`ConfigError::MissingFeature`].
//!
//! # Further notes
//!
//! The server runs on the tokio runtime that starts it. Events are logged with `tracing`; [`logging`] has the format
//! and the outputs of the sample server. Sections (§) are those of the JMQT 1.0 specification; `protocol.md` is
//! `docs/protocol.md` of this repository.

// What only some features use is not marked where it is: a build with all of them, which CI makes, finds code that nobody
// uses.
#![cfg_attr(
    not(all(feature = "admin", feature = "ready", feature = "sqlite", feature = "redis", feature = "tls")),
    allow(dead_code, unused_imports, reason = "used with other features")
)]

#[cfg(feature = "admin")]
pub mod admin;
#[cfg(not(feature = "admin"))]
#[path = "admin/absent.rs"]
mod admin;
mod admission;
mod attributes;
mod budget;
mod bus;
pub mod config;
mod connection;
mod context;
mod counters;
mod disconnect;
mod exit;
mod handle;
mod hub;
mod language;
mod listener;
mod log_limit;
mod message;
mod name_map;
mod options;
mod outbox;
mod packet_trace;
pub mod prelude;
#[cfg(feature = "ready")]
pub mod ready;
#[cfg(test)]
mod rooms;
mod run;
mod serve;
mod server;
mod session;
#[doc(hidden)] // public for the tests of this repository alone: it changes without notice
pub mod store;
mod system_topics;
pub mod testing;
mod tls;
pub mod tokens;
mod transport;
mod upgrade;
mod validators;
#[cfg(any(feature = "admin", feature = "ready"))]
mod watched;
mod wire;

pub use admin::AdminError;
pub use async_trait::async_trait;
pub use config::{Config, ConfigError, LogConfig, LogMode, MySqlConfig, Network, SslConfig};
pub use connection::{CloseReason, ConnectionInfo, Protocol};
pub use counters::CountersSnapshot;
pub use disconnect::Disconnect;
pub use exit::exit_code;
pub use handle::{ConnHandle, HandleError, Publish, ServerHandle};
pub use hub::Revalidated;
pub use jmqt_core::{
    AuthToken, ChannelKind, ChannelName, ClientId, DisconnectCode, InvalidChannel, InvalidClientId,
    InvalidPayload, Payload, Persistence, Qos, Retain, StatusCode,
};
/// The log of this process: see [`init`](logging::init).
pub use jmqt_log as logging;
pub use listener::BoundSocket;
pub use run::run;
pub use server::{Server, ServerBuilder, StartError};
pub use store::{DatabaseError, MigrationError, StoreError};
pub use tls::{ClientCertificate, TlsError};
pub use upgrade::Upgrade;
pub use validators::{
    Acceptance, AllowAll, AuthExchange, AuthRequest, AuthStep, AuthValidator, AuthVerdict, BoxError,
    CloseNotice, CloseNotifier, ConnRequest, ConnValidator, ConnVerdict, ControlHandler, ControlReply,
    ControlRequest, DenyAll, DisconnectNotice, DisconnectNotifier, ExchangeRequest, FilterRequest, Grant,
    MqttConnect, OpenNotice, OpenNotifier, PubData, PubRequest, PubValidator, PubVerdict, Replacement,
    SessionRequest, Silent, StoredNotice, StoredNotifier, SubRequest, SubValidator, UnexpectedData,
    UnsubRequest, UnsubValidator, Verdict,
};

/// The code in the README compiles.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

/// So does the code in the document about MQTT.
#[cfg(doctest)]
#[doc = include_str!("../../docs/mqtt.md")]
struct DocsOfMqtt;
