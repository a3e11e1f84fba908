//! A session has begun (§7.d).

use async_trait::async_trait;
use jmqt_core::ClientId;

use super::BoxError;
use super::attached::{SessionRef, session_getters};
use crate::connection::ConnectionInfo;
use crate::handle::ServerHandle;

/// A session that has begun.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct OpenNotice<'a> {
    /// The connection of the session.
    pub connection: ConnectionInfo,
    /// The client of the session.
    pub client: &'a ClientId,
    /// The handle of the server.
    pub server: &'a ServerHandle,
    pub(crate) session: SessionRef<'a>,
}

session_getters!(OpenNotice);

impl<'a> OpenNotice<'a> {
    pub(crate) fn new(
        connection: ConnectionInfo,
        client: &'a ClientId,
        server: &'a ServerHandle,
        session: SessionRef<'a>,
    ) -> Self {
        Self { connection, client, server, session }
    }
}

/// Called for every session that begins. Optional: set it with
/// [`ServerBuilder::on_open`](crate::ServerBuilder::on_open).
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
/// impl OpenNotifier for Presence {
///     async fn on_open(&self, notice: &OpenNotice<'_>) -> Result<(), BoxError> {
///         let online = Publish::json(ChannelName::parse("online")?, &notice.client.as_str())?;
///         notice.server.force_pub(online).await?;
///         Ok(())
///     }
/// }
/// ```
#[async_trait]
pub trait OpenNotifier: Send + Sync + 'static {
    /// Called once per session, after its `connAck` and its first pushes. The client's next packet is handled after
    /// this has returned or its time limit has passed.
    ///
    /// # Errors
    /// An error, a panic, or more than VALIDATOR_TIMEOUT_SECONDS (default 10) is logged; the session goes on.
    ///
    /// # Cancel safety
    /// The future is dropped at its time limit, or when its connection ends.
    async fn on_open(&self, notice: &OpenNotice<'_>) -> Result<(), BoxError>;
}
