//! Between the nodes of a cluster: who needs what, and what was published elsewhere.
//!
//! A server alone has [`LocalBus`], which has nobody to talk to. The hub calls the bus at the
//! points where other nodes matter, so that a bus to other nodes changes nothing else.

mod local;

use async_trait::async_trait;
use jmqt_protocol::{ChannelName, ClientId};

pub(crate) use local::LocalBus;

/// The link to the other nodes.
#[async_trait]
pub(crate) trait Bus: Send + Sync + 'static {
    /// This node has a subscriber of `channel`: returns when messages published elsewhere reach it.
    async fn join(&self, channel: &ChannelName);

    /// This node has no subscriber of `channel` any more.
    fn leave(&self, channel: &ChannelName);

    /// Hands QoS 0 pushes of one channel, in NUL framing, over to the nodes that joined it, without
    /// waiting: what finds no room is dropped and counted by the bus.
    fn publish(&self, channel: &ChannelName, sender: Option<&ClientId>, pushes: &[u8]);

    /// Ends the session of `client` on whatever other node; returns when it has ended there.
    async fn take_over(&self, client: &ClientId);
}
