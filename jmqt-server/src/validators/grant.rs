//! The answer to a client that proves its identity (§7.b, §10).

use std::any::Any;
use std::sync::Arc;

use jmqt_core::{AuthToken, ClientId, StatusCode};

use super::attached::SessionData;

/// The answer to an [`AuthRequest`](crate::AuthRequest).
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
