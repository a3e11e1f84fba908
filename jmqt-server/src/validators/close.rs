//! A session is over, whatever the reason (§9.f, protocol.md 2.16).

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
    /// The connection it was on.
    pub connection: ConnectionInfo,
    /// The client whose session it was.
    pub client: &'a ClientId,
    /// Why it ended.
    pub reason: CloseReason,
    /// The server's own side.
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

/// Hears of every session that ends (§9.f, protocol.md 2.16). `impl CloseNotifier for App {}` does nothing.
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
    /// Called once per session, whatever ended it. When the process dies, the next one that opens the
    /// same store calls it with [`CloseReason::ServerDied`]; twice for one session only if the
    /// process died inside this very call.
    ///
    /// A newer connection of the same client is not accepted before this returns or its time is up.
    ///
    /// # Errors
    /// An error, a panic, or more than VALIDATOR_TIMEOUT_SECONDS (default 10) is logged.
    async fn on_close(&self, notice: &CloseNotice<'_>) -> Result<(), BoxError> {
        let _ = notice;
        Ok(())
    }
}
