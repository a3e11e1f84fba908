//! Between the nodes of a cluster: what was published elsewhere, and what nodes tell each other.
//!
//! A bus carries messages at most once, in order for as long as the link to it stands. It is never the
//! only place where something is: what it loses is found again in the store, or by asking. It hands what
//! it receives over by a channel, and knows neither the hub nor the store.
//!
//! A server alone has [`LocalBus`], which has nobody to talk to.

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

use crate::message::{LoggedPush, Run};

pub(crate) use events::BusEvents;
pub(crate) use local::LocalBus;
pub(crate) use message::{
    Answer, Body, BusMessage, Control, Digest, LoggedMessages, Messages, NodeId, Origin, Presence, Request,
    Speaker, connection_info,
};
#[cfg(feature = "redis")]
pub(crate) use redis::RedisBus;
#[cfg(feature = "redis")]
pub(crate) use seal::Seal;

/// What comes from a bus.
#[derive(Debug)]
pub(crate) enum BusEvent {
    /// The link stands, and this node gets what it has joined. What was said before may be lost.
    Up,
    /// The link is gone; the bus is trying to get it back.
    Down,
    /// Something a node has said: another one, or this one.
    Message(BusMessage),
    /// Something was sent to a node that is not listening.
    NobodyThere(NodeId),
}

/// The link to the other nodes.
///
/// Nothing here waits for other nodes, and nothing fails: what finds no link or no room is dropped and
/// counted (pushes), or ends the link so that everybody asks anew (control messages).
#[async_trait]
pub(crate) trait Bus: Send + Sync + 'static {
    /// This node has one more subscriber of `channel`.
    fn join(&self, channel: &ChannelName);

    /// Returns when what is published elsewhere in a channel that was joined reaches this node, or when
    /// there is no link.
    async fn joined(&self, channel: &ChannelName);

    /// This node has one subscriber of `channel` less.
    fn leave(&self, channel: &ChannelName);

    /// Whether the link stands.
    fn is_up(&self) -> bool;

    /// Waits until the link stands.
    async fn up(&self);

    /// Hands QoS 0 messages over to the nodes that joined their channel.
    fn publish_qos0(&self, channel: &ChannelName, sender: Option<&ClientId>, run: &Run);

    /// The same to one node, for a client that is connected there.
    fn send_qos0(&self, to: NodeId, channel: &ChannelName, sender: Option<&ClientId>, run: &Run);

    /// Hands QoS 1 messages over to the nodes that joined their channel.
    fn publish_qos1(&self, channel: &ChannelName, messages: &[LoggedPush]);

    /// The same to one node, for a client that is connected there.
    fn send_qos1(&self, to: NodeId, channel: &ChannelName, messages: &[LoggedPush]);

    /// Waits until the pushes that were handed over before have left this node, or the link has ended.
    async fn sent(&self);

    /// Says something to one node.
    fn send(&self, to: NodeId, control: &Control);

    /// Says something to all nodes, this one included.
    fn broadcast(&self, control: &Control);

    /// Gives the link up and makes a new one: it seems to be dead.
    fn reset(&self);

    /// Keeps the link up until it is told to stop; what was said before that has been sent then.
    async fn run(&self, stop: CancellationToken);
}
