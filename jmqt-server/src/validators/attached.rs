//! The data of a connection for its application: the session data that `auth` or `conn` attached, for all later
//! requests and notices of the session; and, until `conn` is accepted, the HTTP request that began a WebSocket.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use jmqt_core::ClientId;

use crate::upgrade::Upgrade;

/// A value of any type of the application.
pub(crate) type SessionData = Arc<dyn Any + Send + Sync>;

/// The data of a connection for its application.
#[derive(Clone, Default)]
pub(crate) struct Attached {
    session: Option<(ClientId, SessionData)>,
    upgrade: Option<Arc<Upgrade>>,
}

impl fmt::Debug for Attached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Attached(..)")
    }
}

impl Attached {
    pub(crate) fn new(client: ClientId, data: SessionData) -> Self {
        Self { session: Some((client, data)), upgrade: None }
    }

    pub(crate) fn with_upgrade(mut self, upgrade: Option<Arc<Upgrade>>) -> Self {
        self.upgrade = upgrade;
        self
    }

    pub(crate) fn data(&self) -> Option<&SessionData> {
        self.session.as_ref().map(|(_, data)| data)
    }

    /// The data, if it was attached for this client. Data that `auth` attached for one client must not be used for
    /// another client that connects afterwards.
    pub(crate) fn data_for(&self, client: &ClientId) -> Option<&SessionData> {
        self.session.as_ref().filter(|(of, _)| of == client).map(|(_, data)| data)
    }

    pub(crate) fn upgrade(&self) -> Option<&Arc<Upgrade>> {
        self.upgrade.as_ref()
    }
}
/// Session data in a request, if any.
#[derive(Clone, Copy, Default)]
pub(crate) struct SessionRef<'a>(pub(crate) Option<&'a SessionData>);

impl fmt::Debug for SessionRef<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "attached" } else { "none" })
    }
}

impl<'a> From<Option<&'a SessionData>> for SessionRef<'a> {
    fn from(data: Option<&'a SessionData>) -> Self {
        Self(data)
    }
}

/// Adds typed getters to a request or notice with a field `session`.
macro_rules! session_getters {
    ($($of:ident),+) => {$(
        impl<'a> $of<'a> {
            /// The session data of this type; `None` if none was attached, or one of another type.
            ///
            /// Data is attached by [`AuthVerdict::attach`](crate::AuthVerdict::attach) or
            /// [`ConnVerdict::attach`](crate::ConnVerdict::attach).
            #[must_use]
            pub fn session<T: std::any::Any + Send + Sync>(&self) -> Option<&'a T> {
                self.session.0?.downcast_ref()
            }

            /// As [`session`](Self::session), as an `Arc` that can outlive the request.
            #[must_use]
            pub fn session_arc<T: std::any::Any + Send + Sync>(&self) -> Option<std::sync::Arc<T>> {
                std::sync::Arc::clone(self.session.0?).downcast().ok()
            }
        }
    )+};
}
pub(crate) use session_getters;
