//! `auth`: who are you? (§7.a, §10)

use async_trait::async_trait;
use jmqt_protocol::{AuthToken, ClientId, Payload, StatusCode};

use super::{BoxError, ConnectionInfo};
use crate::ServerHandle;

/// An `auth` packet.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct AuthRequest<'a> {
    /// Where it came from.
    pub connection: ConnectionInfo,
    /// `dt`: whatever this application authenticates with. Never log it.
    pub data: Payload<'a>,
    /// The server's own side.
    pub server: &'a ServerHandle,
}

impl<'a> AuthRequest<'a> {
    pub(crate) fn new(connection: ConnectionInfo, data: Payload<'a>, server: &'a ServerHandle) -> Self {
        Self { connection, data, server }
    }
}

/// The answer to an [`AuthRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AuthVerdict {
    /// `authAck` with status 1, the token and the client id to connect with.
    Grant {
        /// `cl`.
        client: ClientId,
        /// `at`.
        token: AuthToken,
    },
    /// `authAck` with another status and the reason.
    Refuse {
        /// `st`. `StatusCode::OK` here is a mistake of the application, answered as SERVER_ERROR.
        status: StatusCode,
        /// `mg`, for the user to read.
        message: String,
    },
}

impl AuthVerdict {
    /// Refuses with a status and a reason.
    #[must_use]
    pub fn refuse(status: StatusCode, message: impl Into<String>) -> Self {
        Self::Refuse { status, message: message.into() }
    }
}

/// Decides who a client is, and gives it a token (§7.a, §7.b, §10).
///
/// Asked for every `auth` packet, before a session and also within one.
#[async_trait]
pub trait AuthValidator: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Errors
    /// An error, a panic, or no answer within VALIDATOR_TIMEOUT_SECONDS (default 10) becomes status 5,
    /// SERVER_ERROR, for this request alone (protocol.md 2.17).
    ///
    /// # Cancel safety
    /// The future is dropped when its time is up or its connection ends: keep no half-done work
    /// across an `.await`.
    async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError>;
}
