//! A session has ended, for any reason (§9.f, protocol.md 2.16).

use async_trait::async_trait;
use jmqt_core::ClientId;

use super::BoxError;
use super::attached::{SessionRef, session_getters};
use crate::connection::{CloseReason, ConnectionInfo};
use crate::handle::ServerHandle;

/// A session that has ended.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct CloseNotice<'a> {
    /// The connection of the session.
    pub connection: ConnectionInfo,
    /// The client of the session.
    pub client: &'a ClientId,
    /// The reason why the session ended.
    pub reason: CloseReason,
    /// The handle of the server.
    pub server: &'a ServerHandle,
    pub(crate) session: SessionRef<'a>,
}

session_getters!(CloseNotice);

impl<'a> CloseNotice<'a> {
    pub(crate) fn new(
        connection: ConnectionInfo,
        client: &'a ClientId,
        reason: CloseReason,
        server: &'a ServerHandle,
        session: SessionRef<'a>,
    ) -> Self {
        Self { connection, client, reason, server, session }
    }
}

/// Called for every session that ends (§9.f, protocol.md 2.16). `impl CloseNotifier for App {}` does nothing.
///
/// The `impl` needs `#[async_trait]`; without it the compiler says "lifetime parameters do not match the trait"
/// (E0195).
///
/// ```
/// use jmqt_server::prelude::*;
///
/// struct Presence;
///
/// #[async_trait]
/// impl CloseNotifier for Presence {
///     async fn on_close(&self, notice: &CloseNotice<'_>) -> Result<(), BoxError> {
///         let offline = Publish::json(ChannelName::parse("offline")?, &notice.client.as_str())?;
///         Ok(notice.server.force_pub(offline).await?)
///     }
/// }
/// ```
#[async_trait]
pub trait CloseNotifier: Send + Sync + 'static {
    /// Called once per session, for any reason of its end. If the process dies, the next process that opens the same
    /// store calls it with [`CloseReason::ServerDied`]. It is called twice for one session only if the process dies
    /// during the call.
    ///
    /// A newer connection of the same client is accepted only after this has returned or its time limit has passed.
    ///
    /// # Errors
    /// An error, a panic, or more than VALIDATOR_TIMEOUT_SECONDS (default 10) is logged.
    async fn on_close(&self, notice: &CloseNotice<'_>) -> Result<(), BoxError> {
        let _ = notice;
        Ok(())
    }
}
