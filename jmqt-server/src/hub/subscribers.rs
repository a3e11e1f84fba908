//! Who receives the messages of a channel: subscribers on this node, by channel, filter and group, and other nodes.

use std::sync::Arc;

use jmqt_core::{ChannelKind, ChannelName, ClientId, Persistence};

use super::announced::{add_filter, remove_filter};
use super::channels::{Channels, Members};
use super::connections::Connections;
use super::fan_out::{DirtyOutboxes, fan_out};
use super::filters::{Filters, Receivers, share_of};
use super::groups::Groups;
use super::{Cluster, Location};
use crate::bus::{Bus, NodeId};
use crate::outbox::{Flush, Outbox, Stage, Subscription};
use crate::wire::{LoggedPushes, Pushes};

/// The subscriptions of this node, and what it knows of those of other nodes.
pub(crate) struct Subscribers {
    pub(super) connections: Arc<Connections>,
    pub(crate) channels: Channels,
    pub(crate) filters: Filters,
    pub(crate) groups: Groups,
    bus: Arc<dyn Bus>,
    /// `None` for a single server.
    cluster: Option<Arc<Cluster>>,
}

impl Subscribers {
    pub(super) fn new(
        connections: Arc<Connections>,
        groups: Groups,
        bus: Arc<dyn Bus>,
        cluster: Option<Arc<Cluster>>,
    ) -> Self {
        Self { connections, channels: Channels::default(), filters: Filters::default(), groups, bus, cluster }
    }

    /// Returns `true` if a client on this or another node may be subscribed to this channel.
    pub(crate) fn exist_for(&self, channel: &ChannelName) -> bool {
        match (channel.kind(), &self.cluster) {
            (ChannelKind::PeerToPeer, cluster) => {
                let elsewhere = |cluster: &Arc<Cluster>| cluster.node_of(peer(channel)).is_some();
                self.of(channel).is_some() || cluster.as_ref().is_some_and(elsewhere)
            }
            // Redis knows the subscribers of other nodes.
            (_, Some(_)) => true,
            (_, None) => match self.filters.is_empty() {
                true => self.channels.get(channel.as_str()).is_some(),
                false => self.of(channel).is_some(),
            },
        }
    }

    /// The subscribers on this node. A point-to-point channel has at most one, found by its name.
    pub(super) fn of(&self, channel: &ChannelName) -> Option<Members> {
        if channel.kind() != ChannelKind::PeerToPeer {
            return self.receivers(channel).members;
        }
        let client = channel.as_str().strip_prefix('#')?;
        let subscription = self.connections.outbox(client)?.subscription(channel.as_str())?;
        Some([subscription].into())
    }

    /// The subscribers of a channel that is not point-to-point, and the nodes with a matching filter.
    fn receivers(&self, channel: &ChannelName) -> Receivers {
        let exact = self.channels.get(channel.as_str()).map(|channel| channel.members());
        match self.filters.is_empty() {
            true => Receivers { members: exact, nodes: None },
            false => self.filters.with_matching(channel, exact),
        }
    }

    /// The other nodes with a filter that matches a channel.
    fn nodes_with_filters(&self, channel: &ChannelName) -> Option<Arc<[NodeId]>> {
        if self.filters.is_empty() { None } else { self.receivers(channel).nodes }
    }

    /// Delivers QoS 0 pushes of one channel and one publisher to the subscribers on all nodes. With [`Flush::Later`]
    /// the outboxes that received a push are added to `dirty`.
    ///
    /// This is not an `async fn`, which would nest one future in another for every push.
    pub(crate) fn push<'a>(
        &self,
        channel: &ChannelName,
        sender: Option<&'a ClientId>,
        pushes: &'a Pushes,
        flush: Flush,
        dirty: &'a mut DirtyOutboxes,
    ) -> impl Future<Output = ()> + Send + use<'a> {
        let receivers = match channel.kind() {
            ChannelKind::PeerToPeer => Receivers { members: self.of(channel), nodes: None },
            ChannelKind::Plain | ChannelKind::Control => self.receivers(channel),
        };
        if let Some(cluster) = &self.cluster {
            let run = pushes.run();
            if channel.kind() != ChannelKind::PeerToPeer {
                if let Some(nodes) = &receivers.nodes {
                    self.bus.copy_qos0(nodes, channel, sender, run);
                }
                self.bus.publish_qos0(channel, sender, run);
            } else if receivers.members.is_none()
                && let Some(node) = cluster.node_of(peer(channel))
            {
                self.bus.send_qos0(node, channel, sender, run);
            }
        }
        push_to(receivers.members, sender, pushes, flush, dirty)
    }

    /// Delivers QoS 0 pushes to the subscribers on this node.
    pub(crate) async fn push_here(
        &self,
        channel: &ChannelName,
        sender: Option<&ClientId>,
        pushes: &Pushes,
        flush: Flush,
        dirty: &mut DirtyOutboxes,
    ) {
        push_to(self.of(channel), sender, pushes, flush, dirty).await;
    }

    /// The clients on this node that are subscribed to a channel.
    pub(crate) fn clients_here(&self, channel: &ChannelName) -> Vec<(ClientId, Persistence)> {
        let Some(members) = self.of(channel) else { return Vec::new() };
        let current = members
            .iter()
            .flat_map(clients_behind)
            .filter(|member| member.stage() != Stage::Ended && member.outbox.closed().is_none());
        current.map(|member| (member.client.clone(), member.persistence())).collect()
    }

    /// Adds a subscription to its channel, its filter or its group; returns `false` if that fails.
    pub(super) async fn add(&self, subscription: &Arc<Subscription>) -> bool {
        match subscription.channel.kind() {
            ChannelKind::PeerToPeer => true,
            ChannelKind::Control if share_of(&subscription.channel).is_some() => {
                self.groups.join(&self.filters, subscription, subscription.persistence()).await
            }
            ChannelKind::Control => add_filter(&self.filters, self.cluster.as_deref(), subscription).await,
            ChannelKind::Plain => {
                self.add_to_channel(subscription);
                self.bus.joined(&subscription.channel).await;
                true
            }
        }
    }

    /// Adds a subscription to its channel. The node may not have joined the channel on the bus on return.
    pub(super) fn add_to_channel(&self, subscription: &Arc<Subscription>) {
        // In this order: removing it from the channel leaves the bus channel, so it must have joined before.
        self.bus.join(&subscription.channel);
        self.channels.add(subscription);
    }

    /// Ends the subscription of a client to a channel.
    pub(super) fn remove(&self, outbox: &Outbox, channel: &ChannelName) {
        if let Some(subscription) = outbox.remove_subscription(channel.as_str()) {
            self.leave(&subscription);
        }
    }

    /// Removes an ended subscription from its channel.
    pub(super) fn leave(&self, subscription: &Arc<Subscription>) {
        match subscription.channel.kind() {
            ChannelKind::PeerToPeer => {}
            ChannelKind::Control if share_of(&subscription.channel).is_some() => {
                self.groups.leave(subscription);
            }
            ChannelKind::Control => remove_filter(&self.filters, self.cluster.as_deref(), subscription),
            ChannelKind::Plain => {
                if self.channels.remove(subscription) {
                    self.bus.leave(&subscription.channel);
                }
            }
        }
    }

    /// Sends the messages that this node has appended to other nodes.
    pub(super) fn tell_others(&self, logged: &LoggedPushes) {
        let Some(cluster) = &self.cluster else { return };
        let LoggedPushes { channel, messages, .. } = logged;
        if let Some((key, seq)) = logged.last_logged() {
            cluster.appended(channel, key.0, seq.0);
        }
        if channel.kind() != ChannelKind::PeerToPeer {
            if let Some(nodes) = self.nodes_with_filters(channel) {
                self.bus.copy_qos1(&nodes, channel, messages);
            }
            self.bus.publish_qos1(channel, messages);
        } else if self.of(channel).is_none()
            && let Some(node) = cluster.node_of(peer(channel))
        {
            self.bus.send_qos1(node, channel, messages);
        }
    }

    /// Returns `true` if the client is connected to any node and accepts point-to-point messages.
    pub(crate) async fn takes_point_to_point(&self, channel: &ChannelName) -> bool {
        if self.of(channel).is_some_and(|members| members[0].stage() != Stage::Ended) {
            return true;
        }
        self.cluster.is_some() && matches!(self.locate(peer(channel)).await, Location::On(_))
    }

    /// The location of a client. Asks the other nodes if this node does not know it.
    pub(crate) async fn locate(&self, client: &str) -> Location {
        let known = || {
            if self.connections.outbox(client).is_some() {
                return Some(Location::Here);
            }
            self.cluster.as_ref()?.node_of(client).map(Location::On)
        };
        if let Some(known) = known() {
            return known;
        }
        match &self.cluster {
            // It may have connected recently: after the fence, all earlier announcements are known.
            Some(cluster) if cluster.fence().await => known().unwrap_or(Location::Away),
            _ => Location::Away,
        }
    }
}

fn push_to<'a>(
    members: Option<Members>,
    sender: Option<&'a ClientId>,
    pushes: &'a Pushes,
    flush: Flush,
    dirty: &'a mut DirtyOutboxes,
) -> impl Future<Output = ()> + Send + use<'a> {
    dirty.begin_turn();
    fan_out(members, dirty, move |subscription| {
        // A publisher does not receive its own message (2.11).
        !subscription.skips(sender) && subscription.outbox.push(subscription, pushes, flush)
    })
}

/// The client of a point-to-point channel.
fn peer(channel: &ChannelName) -> &str {
    channel.as_str().strip_prefix('#').unwrap_or_default()
}

/// The clients behind a subscriber: itself, or the members of a group.
fn clients_behind(member: &Arc<Subscription>) -> Vec<Arc<Subscription>> {
    match member.outbox.is_group() {
        true => member.outbox.group_members(),
        false => vec![Arc::clone(member)],
    }
}
