//! The bus of a single server.

use async_trait::async_trait;
use jmqt_core::{ChannelName, ClientId};
use tokio_util::sync::CancellationToken;

use super::{Bus, Control, NodeId};
use crate::message::{LoggedPush, Run, ShareMessage};

/// A bus without other nodes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LocalBus;

#[async_trait]
impl Bus for LocalBus {
    fn join(&self, _: &ChannelName) {}

    async fn joined(&self, _: &ChannelName) {}

    fn leave(&self, _: &ChannelName) {}

    fn is_up(&self) -> bool {
        false
    }

    async fn up(&self) {
        std::future::pending().await
    }

    fn publish_qos0(&self, _: &ChannelName, _: Option<&ClientId>, _: &Run) {}

    fn send_qos0(&self, _: NodeId, _: &ChannelName, _: Option<&ClientId>, _: &Run) {}

    fn publish_qos1(&self, _: &ChannelName, _: &[LoggedPush]) {}

    fn send_qos1(&self, _: NodeId, _: &ChannelName, _: &[LoggedPush]) {}

    fn copy_qos0(&self, _: &[NodeId], _: &ChannelName, _: Option<&ClientId>, _: &Run) {}

    fn copy_qos1(&self, _: &[NodeId], _: &ChannelName, _: &[LoggedPush]) {}

    fn tell_share(&self, _: NodeId, _: &ChannelName, _: &ShareMessage) {}

    async fn sent(&self) {}

    fn send(&self, _: NodeId, _: &Control) {}

    fn broadcast(&self, _: &Control) {}

    fn reset(&self) {}

    async fn run(&self, stop: CancellationToken) {
        stop.cancelled().await;
    }
}
