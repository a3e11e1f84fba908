//! `disconn`: a client leaves intentionally (§9.f).

use async_trait::async_trait;
use jmqt_core::ClientId;

use super::BoxError;
use super::attached::{SessionRef, session_getters};
use crate::connection::ConnectionInfo;
use crate::handle::ServerHandle;

/// A `disconn` packet within a session.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct DisconnectNotice<'a> {
    /// The connection of the packet.
    pub connection: ConnectionInfo,
    /// The client that leaves.
    pub client: &'a ClientId,
    /// The handle of the server.
    pub server: &'a ServerHandle,
    pub(crate) session: SessionRef<'a>,
}

session_getters!(DisconnectNotice);

impl<'a> DisconnectNotice<'a> {
    pub(crate) fn new(
        connection: ConnectionInfo,
        client: &'a ClientId,
        server: &'a ServerHandle,
        session: SessionRef<'a>,
    ) -> Self {
        Self { connection, client, server, session }
    }
}

/// Called for clients that leave intentionally (§9.f, protocol.md 2.16). `impl DisconnectNotifier for App {}` does
/// nothing.
///
/// The `impl` needs `#[async_trait]`; without it the compiler says "lifetime parameters do not match the trait"
/// (E0195).
///
/// ```
/// use jmqt_server::prelude::*;
///
/// struct Goodbye;
///
/// #[async_trait]
/// impl DisconnectNotifier for Goodbye {
///     async fn on_disconnect(&self, notice: &DisconnectNotice<'_>) -> Result<(), BoxError> {
///         let left = Publish::json(ChannelName::parse("left")?, &notice.client.as_str())?;
///         Ok(notice.server.force_pub(left).await?)
///     }
/// }
/// ```
#[async_trait]
pub trait DisconnectNotifier: Send + Sync + 'static {
    /// Called once per session that sends `disconn`, before its [`CloseNotifier`](super::CloseNotifier), while its
    /// subscriptions are still active.
    ///
    /// # Errors
    /// An error, a panic, or more than VALIDATOR_TIMEOUT_SECONDS (default 10) is logged; the session still ends.
    async fn on_disconnect(&self, notice: &DisconnectNotice<'_>) -> Result<(), BoxError> {
        let _ = notice;
        Ok(())
    }
}
