//! A JMQT 1.0 application server, as a library.

mod bus;
pub mod config;
mod counters;
mod dispatch;
mod handle;
mod hub;
mod listener;
pub mod logging;
mod server;
mod session;
pub mod store;
mod transport;
mod validators;

pub use async_trait::async_trait;
pub use config::{Config, ConfigError};
pub use counters::CountersSnapshot;
pub use handle::{ConnHandle, HandleError, Publish, ServerHandle};
pub use jmqt_protocol::{
    AuthToken, ChannelKind, ChannelName, ClientId, InvalidChannel, InvalidClientId, InvalidPayload, Payload,
    Persistence, Qos, Retain, StatusCode,
};
pub use listener::TlsError;
pub use server::{Server, ServerBuilder, StartError};
pub use validators::{
    AllowAll, AuthRequest, AuthValidator, AuthVerdict, BoxError, CloseNotice, CloseNotifier, CloseReason,
    ConnRequest, ConnValidator, ConnVerdict, ConnectionInfo, ControlHandler, ControlReply, ControlRequest,
    DenyAll, DisconnectNotice, DisconnectNotifier, Protocol, PubRequest, PubValidator, Silent, SubRequest,
    SubValidator, UnsubRequest, UnsubValidator, Verdict,
};
