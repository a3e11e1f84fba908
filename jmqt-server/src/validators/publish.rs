//! `pub`: may this client publish this? (§7.k)

use async_trait::async_trait;
use jmqt_protocol::{ChannelName, ClientId, Payload, Qos, Retain};

use super::attached::{SessionRef, session_getters};
use super::{BoxError, ConnectionInfo, Verdict};
use crate::ServerHandle;

/// A `pub` packet to a plain or point-to-point channel.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct PubRequest<'a> {
    /// Where it came from.
    pub connection: ConnectionInfo,
    /// Who publishes.
    pub client: &'a ClientId,
    /// `cn`.
    pub channel: &'a ChannelName,
    /// `dt`. Never log it.
    pub data: Payload<'a>,
    /// `q`.
    pub qos: Qos,
    /// `rt`.
    pub retain: Retain,
    /// The server's own side.
    pub server: &'a ServerHandle,
    pub(crate) session: SessionRef<'a>,
}

session_getters!(PubRequest);

/// Decides whether a client may publish a message (§7.k, §7.l).
///
/// Asked once per `pub` packet with a valid channel name, in order for one client, for point-to-point
/// channels too; never for control channels, which go to the
/// [`ControlHandler`](super::ControlHandler). A refusal is answered if the message is QoS 1 or carries an
/// id (protocol.md 2.5).
#[async_trait]
pub trait PubValidator: Send + Sync + 'static {
    /// Answers one request. `Verdict::Refuse` carries the status for the `pubAck`.
    ///
    /// # Errors
    /// An error, a panic, or no answer within VALIDATOR_TIMEOUT_SECONDS (default 10) becomes status 5,
    /// SERVER_ERROR, for this request alone; the session goes on (protocol.md 2.17).
    ///
    /// # Cancel safety
    /// The future is dropped when its time is up or its connection ends: keep no half-done work
    /// across an `.await`.
    async fn validate_pub(&self, request: &PubRequest<'_>) -> Result<Verdict, BoxError>;
}
