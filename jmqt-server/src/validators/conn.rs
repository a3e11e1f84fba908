//! `conn`: may this client open a session? (§7.c, §10, protocol.md 2.2)

use async_trait::async_trait;
use jmqt_protocol::{ChannelName, ClientId, Persistence, StatusCode};

use super::{BoxError, ConnectionInfo};
use crate::handle::ConnHandle;

/// A `conn` packet with a well-formed client id.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ConnRequest<'a> {
    /// Where it came from.
    pub connection: ConnectionInfo,
    /// `cl`: who it says it is.
    pub client: &'a ClientId,
    /// `at`: what proves it. Never log it.
    pub token: &'a str,
    /// What is done through this handle happens once the connection is accepted, and not at all if
    /// it is refused (protocol.md 2.2).
    pub server: &'a ConnHandle,
}

impl<'a> ConnRequest<'a> {
    pub(crate) fn new(
        connection: ConnectionInfo,
        client: &'a ClientId,
        token: &'a str,
        server: &'a ConnHandle,
    ) -> Self {
        Self { connection, client, token, server }
    }
}

/// The answer to a [`ConnRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnVerdict {
    /// The session begins, with these subscriptions made for it (after what the handle recorded).
    Accept {
        /// Channels to subscribe the client to.
        subscriptions: Vec<(ChannelName, Persistence)>,
    },
    /// `connAck` with this status; the connection stays, without a session.
    Refuse(StatusCode),
}

impl ConnVerdict {
    /// Accepts without making subscriptions.
    #[must_use]
    pub const fn accept() -> Self {
        Self::Accept { subscriptions: Vec::new() }
    }
}

/// Decides whether a client may open a session (§7.c, §7.d).
///
/// Asked for every `conn` on a connection that has no session.
#[async_trait]
pub trait ConnValidator: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Errors
    /// An error, a panic, or no answer within VALIDATOR_TIMEOUT_SECONDS (default 10) becomes status 5,
    /// SERVER_ERROR; what the handle recorded is dropped (protocol.md 2.2, 2.17).
    ///
    /// # Cancel safety
    /// The future is dropped when its time is up or its connection ends: keep no half-done work
    /// across an `.await`.
    async fn validate_conn(&self, request: &ConnRequest<'_>) -> Result<ConnVerdict, BoxError>;
}
