//! `unsub`: may this client unsubscribe from this channel? (§7.i)

use async_trait::async_trait;
use jmqt_core::{ChannelName, ClientId};

use super::attached::{SessionRef, session_getters};
use super::{BoxError, Verdict};
use crate::connection::ConnectionInfo;
use crate::handle::ServerHandle;

/// An `unsub` packet with a channel name that may be unsubscribed from.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct UnsubRequest<'a> {
    /// The connection it came over.
    pub connection: ConnectionInfo,
    /// The client that unsubscribes.
    pub client: &'a ClientId,
    /// `cn`.
    pub channel: &'a ChannelName,
    /// The server's own side.
    pub server: &'a ServerHandle,
    pub(crate) session: SessionRef<'a>,
}

session_getters!(UnsubRequest);

impl<'a> UnsubRequest<'a> {
    pub(crate) fn new(
        connection: ConnectionInfo,
        client: &'a ClientId,
        channel: &'a ChannelName,
        server: &'a ServerHandle,
        session: SessionRef<'a>,
    ) -> Self {
        Self { connection, client, channel, server, session }
    }
}

/// Decides whether a client may unsubscribe from a channel (§7.i, §7.j).
///
/// Asked once per `unsub` packet with a valid channel name, also when the client is not subscribed;
/// never for `$` and `#` channels, which the server refuses by itself (§9.d). Unless it says otherwise, every client may
/// unsubscribe from everything: `impl UnsubValidator for App {}` is enough.
///
/// The `impl` needs `#[async_trait]`; without it the compiler says "lifetime parameters do not match the trait"
/// (E0195).
///
/// ```
/// use jmqt_server::prelude::*;
///
/// struct Notices;
///
/// #[async_trait]
/// impl UnsubValidator for Notices {
///     async fn validate_unsub(&self, request: &UnsubRequest<'_>) -> Result<Verdict, BoxError> {
///         let is_for_all = request.channel.as_str() == "notices";
///         Ok(if is_for_all { Verdict::NOT_ALLOWED } else { Verdict::Allow })
///     }
/// }
/// ```
#[async_trait]
pub trait UnsubValidator: Send + Sync + 'static {
    /// Answers one request: by default, [`Verdict::Allow`]. `Verdict::Refuse` carries the status for the `unsubAck`.
    ///
    /// # Errors
    /// An error, a panic, or no answer within VALIDATOR_TIMEOUT_SECONDS (default 10) becomes status 5,
    /// SERVER_ERROR, for this request alone; the session goes on (protocol.md 2.17).
    ///
    /// # Cancel safety
    /// The future is dropped when its time is up or its connection ends: keep no half-done work
    /// across an `.await`.
    async fn validate_unsub(&self, request: &UnsubRequest<'_>) -> Result<Verdict, BoxError> {
        let _ = request;
        Ok(Verdict::Allow)
    }
}
