//! The bus of a server that is alone.

use async_trait::async_trait;
use jmqt_protocol::{ChannelName, ClientId};

use super::Bus;

/// There are no other nodes.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct LocalBus;

#[async_trait]
impl Bus for LocalBus {
    async fn join(&self, _: &ChannelName) {}

    fn leave(&self, _: &ChannelName) {}

    fn publish(&self, _: &ChannelName, _: Option<&ClientId>, _: &[u8]) {}

    async fn take_over(&self, _: &ClientId) {}
}
