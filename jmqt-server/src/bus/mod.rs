//! The bus between the nodes of a cluster: it carries published messages and control messages.
//!
//! A bus delivers messages at most once, and in order while the connection lasts. It is never the
//! only source of data: lost messages are read from the store, or requested again. It passes received messages on
//! through a channel, and depends neither on the hub nor on the store.
//!
//! A single server has [`LocalBus`].

mod events;
mod local;
mod message;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "redis")]
mod seal;

use async_trait::async_trait;
use jmqt_core::{ChannelName, ClientId};
use tokio_util::sync::CancellationToken;

use crate::message::{LoggedPush, Run, ShareMessage};

pub(crate) use events::BusEvents;
pub(crate) use local::LocalBus;
pub(crate) use message::{
    Answer, Because, Body, BusMessage, Control, Digest, LoggedMessages, Messages, NodeId, Origin, Presence,
    Request, Revalidated, Share, Speaker, connection_info,
};
#[cfg(feature = "redis")]
pub(crate) use redis::RedisBus;
#[cfg(feature = "redis")]
pub(crate) use seal::Seal;

/// An event from a bus.
#[derive(Debug)]
pub(crate) enum BusEvent {
    /// The bus is connected, and this node receives the channels that it has joined. Earlier messages may be lost.
    Up,
    /// The connection is lost; the bus reconnects.
    Down,
    /// A message from another node, or from this node.
    Message(BusMessage),
    /// A message was sent to a node that is not connected.
    NobodyThere(NodeId),
}

/// The connection to the other nodes.
///
/// Methods do not wait for other nodes, and do not fail. Without a connection or room, pushes are dropped and
/// counted, and control messages end the connection, so that all nodes synchronize again.
#[async_trait]
pub(crate) trait Bus: Send + Sync + 'static {
    /// Adds one subscriber of `channel` on this node.
    fn join(&self, channel: &ChannelName);

    /// Returns when messages that other nodes publish in a joined channel reach this node, or when
    /// the bus is not connected.
    async fn joined(&self, channel: &ChannelName);

    /// Removes one subscriber of `channel` on this node.
    fn leave(&self, channel: &ChannelName);

    /// Returns `true` if the bus is connected.
    fn is_up(&self) -> bool;

    /// Waits until the bus is connected.
    async fn up(&self);

    /// Sends QoS 0 messages to the nodes that joined their channel.
    fn publish_qos0(&self, channel: &ChannelName, sender: Option<&ClientId>, run: &Run);

    /// Sends the messages to one node, for a client that is connected there.
    fn send_qos0(&self, to: NodeId, channel: &ChannelName, sender: Option<&ClientId>, run: &Run);

    /// Sends QoS 1 messages to the nodes that joined their channel.
    fn publish_qos1(&self, channel: &ChannelName, messages: &[LoggedPush]);

    /// Sends the messages to one node, for a client that is connected there.
    fn send_qos1(&self, to: NodeId, channel: &ChannelName, messages: &[LoggedPush]);

    /// Sends QoS 0 messages to nodes whose filters match their channel. A node that has joined the channel receives
    /// only those of [`publish_qos0`](Self::publish_qos0). Call this before it.
    fn copy_qos0(&self, to: &[NodeId], channel: &ChannelName, sender: Option<&ClientId>, run: &Run);

    /// As [`copy_qos0`](Self::copy_qos0), before [`publish_qos1`](Self::publish_qos1).
    fn copy_qos1(&self, to: &[NodeId], channel: &ChannelName, messages: &[LoggedPush]);

    /// Tells a node something about the group of a shared subscription, in order with the other messages about it. May be
    /// lost like a push.
    fn tell_share(&self, to: NodeId, name: &ChannelName, message: &ShareMessage);

    /// Waits until all earlier pushes have left this node, or the connection has ended.
    async fn sent(&self);

    /// Sends a control message to one node.
    fn send(&self, to: NodeId, control: &Control);

    /// Sends a control message to all nodes, including this one.
    fn broadcast(&self, control: &Control);

    /// Drops the connection, which appears dead, and reconnects.
    fn reset(&self);

    /// Keeps the bus connected until `stop` is cancelled, then sends the queued messages.
    async fn run(&self, stop: CancellationToken);
}
