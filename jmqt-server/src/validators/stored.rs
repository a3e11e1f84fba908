//! A QoS 1 message has been stored (§9.a, protocol.md 2.13).

use async_trait::async_trait;
use jmqt_core::{ChannelName, ClientId, Payload, Retain};

use super::BoxError;
use crate::handle::ServerHandle;

/// A QoS 1 message that has been stored.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct StoredNotice<'a> {
    /// The channel.
    pub channel: &'a ChannelName,
    /// The publisher; `None` for the server.
    pub client: Option<&'a ClientId>,
    /// The data. Never log it.
    pub data: Payload<'a>,
    /// Whether the message became the channel's retained message.
    pub retain: Retain,
    /// The handle of the server.
    pub server: &'a ServerHandle,
}

impl<'a> StoredNotice<'a> {
    pub(crate) fn new(
        channel: &'a ChannelName,
        client: Option<&'a ClientId>,
        data: Payload<'a>,
        retain: Retain,
        server: &'a ServerHandle,
    ) -> Self {
        Self { channel, client, data, retain, server }
    }
}

/// Called for every QoS 1 message that is published on this server, after the commit that its `pubAck` confirms.
/// Optional, and free of cost if it is not set: set it with
/// [`ServerBuilder::on_stored`](crate::ServerBuilder::on_stored).
///
/// It is called for one message at a time, in commit order. The delivery of messages never waits for it. Up to 8,192
/// messages or 64 MiB wait for it. Notices beyond that, and those that wait when the process dies, are lost; the
/// counter `stored_notices_dropped` counts them. Messages that other nodes stored are not included.
///
/// The `impl` needs `#[async_trait]`; without it the compiler says "lifetime parameters do not match the trait"
/// (E0195).
///
/// ```
/// use jmqt_server::prelude::*;
///
/// struct Search; // an index of what was said
///
/// #[async_trait]
/// impl StoredNotifier for Search {
///     async fn on_stored(&self, notice: &StoredNotice<'_>) -> Result<(), BoxError> {
///         if notice.channel.as_str() == "chat" {
///             self.index(notice.data.as_str()).await?;
///         }
///         Ok(())
///     }
/// }
/// # impl Search { async fn index(&self, _: &str) -> Result<(), BoxError> { Ok(()) } }
/// ```
#[async_trait]
pub trait StoredNotifier: Send + Sync + 'static {
    /// Called once per message.
    ///
    /// # Errors
    /// An error, a panic, or more than VALIDATOR_TIMEOUT_SECONDS (default 10) is logged; the message stays stored and
    /// is delivered.
    async fn on_stored(&self, notice: &StoredNotice<'_>) -> Result<(), BoxError>;
}
