//! `auth`: who are you? (§7.a, §10)

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use jmqt_core::{AuthToken, ClientId, Payload, StatusCode};

use super::attached::{SessionData, SessionRef, session_getters};
use super::{BoxError, UnexpectedData, read_json};
use crate::connection::ConnectionInfo;
use crate::handle::ServerHandle;
use crate::tls::ClientCertificate;
use crate::upgrade::Upgrade;

/// An `auth` packet.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct AuthRequest<'a> {
    /// The connection of the packet.
    pub connection: ConnectionInfo,
    /// `dt`: the authentication data in the format of the application. Never log it.
    pub data: Payload<'a>,
    /// The handle of the server.
    pub server: &'a ServerHandle,
    pub(crate) session: SessionRef<'a>,
    upgrade: Option<&'a Arc<Upgrade>>,
    certificate: Option<&'a ClientCertificate>,
    mqtt: Option<&'a MqttConnect<'a>>,
}

/// The CONNECT packet of an MQTT client, whose user name and password are the data of the [`AuthRequest`] too:
/// `{"username":"…","password":"…"}`.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct MqttConnect<'a> {
    /// The protocol level: 3 for MQTT 3.1, 4 for 3.1.1, 5 for 5.0.
    pub version: u8,
    /// The requested client id; empty if the server is to assign one. If it is not empty, the granted client id must be the
    /// same.
    pub client_id: &'a str,
    /// The user name.
    pub user_name: Option<&'a str>,
    /// The password. Never log it.
    pub password: Option<&'a [u8]>,
}

impl std::fmt::Debug for MqttConnect<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MqttConnect")
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("user_name", &self.user_name)
            .finish_non_exhaustive()
    }
}

session_getters!(AuthRequest);

impl<'a> AuthRequest<'a> {
    /// The HTTP request that began the WebSocket: path, query, headers, cookies. `None` for a connection over TCP,
    /// and within a session, because it is dropped when the session begins.
    #[must_use]
    pub const fn upgrade(&self) -> Option<&'a Arc<Upgrade>> {
        self.upgrade
    }

    /// The certificate with which the client proved its identity in the TLS handshake (SSL_CLIENT_CERT). `None` without
    /// TLS, and if the client was not asked for one or has none.
    #[must_use]
    pub const fn certificate(&self) -> Option<&'a ClientCertificate> {
        self.certificate
    }

    /// The CONNECT packet; `None` if the client speaks JMQT.
    #[must_use]
    pub const fn mqtt(&self) -> Option<&'a MqttConnect<'a>> {
        self.mqtt
    }
}

impl<'a> AuthRequest<'a> {
    /// Parses the data as JSON of this type.
    ///
    /// # Errors
    /// [`UnexpectedData`](crate::UnexpectedData) if the data has another type. Refuse with
    /// [`StatusCode::INVALID_PACKET`](crate::StatusCode::INVALID_PACKET).
    pub fn json<T: serde::Deserialize<'a>>(&self) -> Result<T, UnexpectedData> {
        read_json(self.data)
    }
}

impl<'a> AuthRequest<'a> {
    pub(crate) fn new(
        connection: ConnectionInfo,
        data: Payload<'a>,
        server: &'a ServerHandle,
        session: SessionRef<'a>,
        upgrade: Option<&'a Arc<Upgrade>>,
        mqtt: Option<&'a MqttConnect<'a>>,
    ) -> Self {
        Self { connection, data, server, session, upgrade, certificate: None, mqtt }
    }

    pub(crate) const fn with_certificate(mut self, certificate: Option<&'a ClientCertificate>) -> Self {
        self.certificate = certificate;
        self
    }
}

/// The answer to an [`AuthRequest`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum AuthVerdict {
    /// `authAck` with status 1; made by [`grant`](Self::grant).
    Grant(Grant),
    /// `authAck` with another status and the reason.
    Refuse {
        /// `st`. `StatusCode::OK` here is an error of the application, answered as SERVER_ERROR.
        status: StatusCode,
        /// `mg`, a message for the user.
        message: String,
    },
}

/// The client id and token of a successful `auth`; made by [`AuthVerdict::grant`].
#[derive(Debug, Clone)]
pub struct Grant {
    pub(crate) client: ClientId,
    pub(crate) token: AuthToken,
    pub(crate) session: Option<SessionData>,
}

impl AuthVerdict {
    /// Grants this client id and token. The client sends both in its `conn`.
    #[must_use]
    pub const fn grant(client: ClientId, token: AuthToken) -> Self {
        Self::Grant(Grant { client, token, session: None })
    }

    /// Attaches data for the session that this client opens on the same connection. The `conn` request has it
    /// ([`ConnRequest::session`](crate::ConnRequest::session)), and so have all later requests unless
    /// [`ConnVerdict::attach`](crate::ConnVerdict::attach) replaces it. Within a session of this client it replaces
    /// the data of that session. A refusal attaches nothing.
    #[must_use]
    pub fn attach<T: Any + Send + Sync>(mut self, data: Arc<T>) -> Self {
        if let Self::Grant(grant) = &mut self {
            grant.session = Some(data);
        }
        self
    }

    /// The client id and the token if they are granted.
    #[must_use]
    pub const fn granted(&self) -> Option<(&ClientId, &AuthToken)> {
        match self {
            Self::Grant(Grant { client, token, .. }) => Some((client, token)),
            Self::Refuse { .. } => None,
        }
    }

    /// Refuses with a status and a reason.
    #[must_use]
    pub fn refuse(status: StatusCode, message: impl Into<String>) -> Self {
        Self::Refuse { status, message: message.into() }
    }
}

/// Identifies a client, and gives it a token (§7.a, §7.b, §10).
///
/// Called for every `auth` packet, before and within a session.
///
/// The `impl` needs `#[async_trait]`; without it the compiler says "lifetime parameters do not match the trait"
/// (E0195).
///
/// ```
/// use jmqt_server::prelude::*;
///
/// struct Login(TokenIssuer);
///
/// #[async_trait]
/// impl AuthValidator for Login {
///     async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
///         #[derive(serde::Deserialize)]
///         struct Data { name: String, password: String }
///         let Ok(Data { name, password }) = request.json() else {
///             return Ok(AuthVerdict::refuse(StatusCode::INVALID_PACKET, "expected name and password"));
///         };
///         if (name.as_str(), password.as_str()) != ("alice", "secret") {
///             return Ok(AuthVerdict::refuse(StatusCode::NOT_ALLOWED, "wrong name or password"));
///         }
///         Ok(self.0.grant(ClientId::parse(&name)?)?)
///     }
/// }
/// ```
#[async_trait]
pub trait AuthValidator: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Errors
    /// An error, a panic, or no answer within VALIDATOR_TIMEOUT_SECONDS (default 10) becomes status 5,
    /// SERVER_ERROR, for this request alone (protocol.md 2.17).
    ///
    /// # Cancel safety
    /// The future is dropped at its time limit, or when its connection ends: do not keep incomplete work across an
    /// `.await`.
    async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError>;
}
