//! `unsub`: may this client unsubscribe from this channel? (§7.i)

use async_trait::async_trait;
use jmqt_core::{ChannelName, ClientId};

use super::attached::{SessionRef, session_getters};
use super::{BoxError, Verdict};
use crate::connection::ConnectionInfo;
use crate::handle::ServerHandle;

/// An `unsub` packet with the name of a channel that allows subscriptions.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct UnsubRequest<'a> {
    /// The connection of the packet.
    pub connection: ConnectionInfo,
    /// The client that unsubscribes.
    pub client: &'a ClientId,
    /// `cn`. For a subscription with a filter: `$filter/`, followed by the filter.
    pub channel: &'a ChannelName,
    /// The handle of the server.
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
/// Called once per `unsub` packet with a valid channel name, also if the client is not subscribed. Never called for
/// `$` and `#` channels, which the server refuses itself (§9.d). By default every client may unsubscribe from every
/// channel: `impl UnsubValidator for App {}` is enough.
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
    /// The future is dropped at its time limit, or when its connection ends: do not keep incomplete work across an
    /// `.await`.
    async fn validate_unsub(&self, request: &UnsubRequest<'_>) -> Result<Verdict, BoxError> {
        let _ = request;
        Ok(Verdict::Allow)
    }
}
