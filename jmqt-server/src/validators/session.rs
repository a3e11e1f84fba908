//! A session that goes on: the questions of [`ServerHandle::revalidate`].

use jmqt_core::ClientId;

use super::attached::{SessionRef, session_getters};
use crate::connection::ConnectionInfo;
use crate::handle::ServerHandle;

/// An open session. See [`ConnValidator::validate_again`](crate::ConnValidator::validate_again) and
/// [`SubValidator::revision`](crate::SubValidator::revision).
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct SessionRequest<'a> {
    /// The connection of the session.
    pub connection: ConnectionInfo,
    /// The client.
    pub client: &'a ClientId,
    /// The handle of the server.
    pub server: &'a ServerHandle,
    pub(crate) session: SessionRef<'a>,
}

session_getters!(SessionRequest);

impl<'a> SessionRequest<'a> {
    pub(crate) fn new(
        connection: ConnectionInfo,
        client: &'a ClientId,
        server: &'a ServerHandle,
        session: SessionRef<'a>,
    ) -> Self {
        Self { connection, client, server, session }
    }
}
