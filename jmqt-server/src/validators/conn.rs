//! `conn`: may this client open a session? (§7.c, §10, protocol.md 2.2)

use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use jmqt_core::{ChannelName, ClientId, Persistence, StatusCode};

use super::attached::{SessionData, SessionRef, session_getters};
use super::{BoxError, SessionRequest, Verdict};
use crate::connection::ConnectionInfo;
use crate::handle::ConnHandle;
use crate::tls::ClientCertificate;
use crate::upgrade::Upgrade;

/// A `conn` packet with a well-formed client id.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ConnRequest<'a> {
    /// The connection of the packet.
    pub connection: ConnectionInfo,
    /// `cl`: the client id.
    pub client: &'a ClientId,
    /// `at`: the token. Never log it.
    pub token: &'a str,
    /// Calls through this handle are executed after the connection is accepted, and discarded if it is refused
    /// (protocol.md 2.2).
    pub server: &'a ConnHandle,
    pub(crate) session: SessionRef<'a>,
    upgrade: Option<&'a Arc<Upgrade>>,
    certificate: Option<&'a ClientCertificate>,
}

session_getters!(ConnRequest);

impl<'a> ConnRequest<'a> {
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
}

impl<'a> ConnRequest<'a> {
    pub(crate) fn new(
        connection: ConnectionInfo,
        client: &'a ClientId,
        token: &'a str,
        server: &'a ConnHandle,
        session: SessionRef<'a>,
        upgrade: Option<&'a Arc<Upgrade>>,
    ) -> Self {
        Self { connection, client, token, server, session, upgrade, certificate: None }
    }

    pub(crate) const fn with_certificate(mut self, certificate: Option<&'a ClientCertificate>) -> Self {
        self.certificate = certificate;
        self
    }
}

/// The answer to a [`ConnRequest`].
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ConnVerdict {
    /// The session begins; made by [`accept`](Self::accept).
    Accept(Acceptance),
    /// `connAck` with this status; the connection continues without a session. `StatusCode::OK` here is an error of
    /// the application, answered as SERVER_ERROR.
    Refuse(StatusCode),
}

/// The properties of a session that begins; made by [`ConnVerdict::accept`].
#[derive(Debug, Clone, Default)]
pub struct Acceptance {
    pub(crate) subscriptions: Vec<(ChannelName, Persistence)>,
    pub(crate) session: Option<SessionData>,
    pub(crate) valid_for: Option<Duration>,
    pub(crate) owner: Option<Box<str>>,
}

impl ConnVerdict {
    /// Accepts the connection.
    #[must_use]
    pub const fn accept() -> Self {
        Self::Accept(Acceptance { subscriptions: Vec::new(), session: None, valid_for: None, owner: None })
    }

    /// Subscribes the client, after the calls through [`ConnRequest::server`]. A control channel or another client's
    /// `#` channel is an error of the application: it is logged, and the `conn` is answered SERVER_ERROR. A refusal
    /// makes no subscriptions.
    #[must_use]
    pub fn subscribe(mut self, channel: ChannelName, persistence: Persistence) -> Self {
        if let Self::Accept(acceptance) = &mut self {
            acceptance.subscriptions.push((channel, persistence));
        }
        self
    }

    /// Attaches data to the session. All later requests and notices of the session have it, with
    /// [`SubRequest::session`](crate::SubRequest::session) and similar functions. It replaces the data of
    /// [`AuthVerdict::attach`](crate::AuthVerdict::attach). A refusal attaches nothing.
    ///
    /// The data is dropped with the session. The close notifier of a session whose process died does not have it.
    #[must_use]
    pub fn attach<T: Any + Send + Sync>(mut self, data: Arc<T>) -> Self {
        if let Self::Accept(acceptance) = &mut self {
            acceptance.session = Some(data);
        }
        self
    }

    /// Ends the session after this time with 4007 TOKEN_EXPIRED (protocol.md 2.22); the client must authenticate
    /// before it reconnects. By default, and with a time that the clock cannot represent, the session has no limit.
    #[must_use]
    pub fn valid_for(mut self, time: Duration) -> Self {
        if let Self::Accept(acceptance) = &mut self {
            acceptance.valid_for = Some(time);
        }
        self
    }

    /// As [`valid_for`](Self::valid_for), with a time of day. A time in the past ends the session as soon as it has
    /// begun.
    #[must_use]
    pub fn valid_until(self, time: SystemTime) -> Self {
        self.valid_for(time.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// The user to whom the session belongs, at most 512 bytes. A client id has one session, with all its messages: if
    /// it belongs to another user, whether it is connected or stored, this `conn` is refused with NOT_ALLOWED, and that session
    /// is left alone. Without this the client id alone decides, which is right if nobody can choose the client id of somebody else.
    ///
    /// The owner is stored with the session. A stored session without one, of an earlier version, belongs to the next user who
    /// connects.
    #[must_use]
    pub fn owned_by(mut self, user: impl Into<Box<str>>) -> Self {
        if let Self::Accept(acceptance) = &mut self {
            acceptance.owner = Some(user.into());
        }
        self
    }

    /// Returns `true` if the session is accepted.
    #[must_use]
    pub const fn is_accepted(&self) -> bool {
        matches!(self, Self::Accept(_))
    }

    /// The subscriptions that [`subscribe`](Self::subscribe) makes.
    #[must_use]
    pub fn subscriptions(&self) -> &[(ChannelName, Persistence)] {
        match self {
            Self::Accept(acceptance) => &acceptance.subscriptions,
            Self::Refuse(_) => &[],
        }
    }
}

/// Decides whether a client may open a session (§7.c, §7.d).
///
/// Called for every `conn` on a connection without a session. [`TokenIssuer`](crate::tokens::TokenIssuer) is a ready
/// implementation.
///
/// The `impl` needs `#[async_trait]`; without it the compiler says "lifetime parameters do not match the trait"
/// (E0195).
///
/// ```
/// use std::sync::Arc;
///
/// use jmqt_server::prelude::*;
///
/// struct Door(TokenIssuer);
/// struct User { may_write: bool } // for the validators that are asked later: request.session::<User>()
///
/// #[async_trait]
/// impl ConnValidator for Door {
///     async fn validate_conn(&self, request: &ConnRequest<'_>) -> Result<ConnVerdict, BoxError> {
///         let Ok(expiry) = self.0.valid_until(request.client, request.token) else {
///             return Ok(ConnVerdict::Refuse(StatusCode::INVALID_TOKEN));
///         };
///         let user = User { may_write: request.client.as_str() != "guest" };
///         let inbox = ChannelName::of_client(request.client);
///         let verdict = ConnVerdict::accept().valid_until(expiry);
///         Ok(verdict.subscribe(inbox, Persistence::Persistent).attach(Arc::new(user)))
///     }
/// }
/// ```
#[async_trait]
pub trait ConnValidator: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Errors
    /// An error, a panic, or no answer within VALIDATOR_TIMEOUT_SECONDS (default 10) becomes status 5,
    /// SERVER_ERROR; what the handle recorded is dropped (protocol.md 2.2, 2.17).
    ///
    /// # Cancel safety
    /// The future is dropped at its time limit, or when its connection ends: do not keep incomplete work across an
    /// `.await`.
    async fn validate_conn(&self, request: &ConnRequest<'_>) -> Result<ConnVerdict, BoxError>;

    /// Decides whether an open session may go on, when [`ServerHandle::revalidate`](crate::ServerHandle::revalidate) or a similar
    /// call asks: the user may have been removed, for example. After a refusal the session ends with 4007 TOKEN_EXPIRED, and
    /// the client must authenticate before it reconnects. By default it goes on.
    ///
    /// # Errors
    /// After an error, a panic, or no answer within VALIDATOR_TIMEOUT_SECONDS the session goes on.
    async fn validate_again(&self, request: &SessionRequest<'_>) -> Result<Verdict, BoxError> {
        let _ = request;
        Ok(Verdict::Allow)
    }
}
