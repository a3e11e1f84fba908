//! The groups of shared subscriptions on this node (MQTT 5.0, 4.8.2).
//!
//! A group with members on this node has an outbox of its own (`outbox/group.rs`), which is subscribed to the filter like a
//! client. It exists while it has a member.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::FutureExt as _;
use jmqt_core::{ChannelName, ClientId, Persistence};
use jmqt_mqtt::Filter;
use tokio_util::sync::CancellationToken;

use super::Cluster;
use super::announced::add_filter;
use super::error::HubError;
use super::filters::{Filters, name_of, share_of};
use crate::bus::{Bus, NodeId};
use crate::message::{LoggedPush, PushId, ShareMessage};
use crate::name_map::NameMap;
use crate::outbox::{LogState, Outbox, OutboxContext, Stage, Subscription};
use crate::store::{Store, owner_of};

/// The number of locks for beginning and ending groups.
const CHANGE_LOCKS: usize = 16;

/// The name of the subscription to a share; `None` if group and filter together are too long.
pub(crate) fn name_of_share(filter: Filter<'_>) -> Option<ChannelName> {
    owner_of(filter)?;
    ChannelName::exact(filter.as_str()).ok()
}

/// The groups by the name of their subscription.
pub(crate) struct Groups {
    store: Arc<dyn Store>,
    context: Arc<OutboxContext>,
    /// `None` for a single server.
    cluster: Option<Arc<Cluster>>,
    table: Mutex<NameMap<ChannelName, Arc<Outbox>>>,
    changes: [tokio::sync::Mutex<()>; CHANGE_LOCKS],
    hasher: foldhash::fast::RandomState,
    /// The nodes that may have messages of groups of this node.
    heard: Mutex<HashSet<NodeId>>,
}

impl Groups {
    pub(super) fn new(
        store: Arc<dyn Store>,
        context: Arc<OutboxContext>,
        cluster: Option<Arc<Cluster>>,
    ) -> Self {
        Self {
            store,
            context,
            cluster,
            table: Mutex::default(),
            changes: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            hasher: foldhash::fast::RandomState::default(),
            heard: Mutex::default(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, NameMap<ChannelName, Arc<Outbox>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn find(&self, name: &ChannelName) -> Option<Arc<Outbox>> {
        self.lock().get(name).cloned()
    }

    pub(super) fn all(&self) -> Vec<(ChannelName, Arc<Outbox>)> {
        self.lock().iter().map(|(name, group)| (name.clone(), Arc::clone(group))).collect()
    }

    /// Tells other nodes what groups have to tell them, until it is told to stop.
    pub(super) async fn tell_until(&self, context: &OutboxContext, bus: &dyn Bus, stop: &CancellationToken) {
        while let Some(telling) = stop.run_until_cancelled(context.groups.take_telling()).await {
            tell_nodes(bus, &telling);
        }
        // The last acknowledgements.
        if let Some(telling) = context.groups.take_telling().now_or_never() {
            tell_nodes(bus, &telling);
        }
    }

    /// Handles what another node says of a group.
    pub(super) fn hear(&self, bus: &dyn Bus, from: NodeId, name: &ChannelName, message: ShareMessage) {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).insert(from);
        if let Some(group) = self.find(name) {
            return group.hear_of_group(from.0, message);
        }
        let numbers = |messages: Vec<LoggedPush>| {
            let number = |push: LoggedPush| match push.id {
                PushId::Memory { number, .. } => Some(number),
                PushId::Logged(_) => None,
            };
            messages.into_iter().filter_map(number).collect()
        };
        let answer = match message {
            ShareMessage::Give { messages, .. } => ShareMessage::Returned(numbers(messages)),
            ShareMessage::AreHeld(numbers) => ShareMessage::NotHeld(numbers),
            ShareMessage::Members { knows_yours: false, .. } => {
                ShareMessage::Members { count: 0, knows_yours: true }
            }
            _ => return,
        };
        bus.tell_share(from, name, &answer);
    }

    /// Gives what other nodes have of groups to members here, because all of them or one cannot be reached.
    pub(super) fn take_from_nodes(&self, unreachable: Option<NodeId>) {
        // Each message to a node that is not there is reported.
        let has_some = {
            let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
            match unreachable {
                Some(node) => heard.remove(&node),
                None => !std::mem::take(&mut *heard).is_empty(),
            }
        };
        if !has_some {
            return;
        }
        for (_, group) in self.all() {
            group.take_from_nodes(unreachable.map(|node| node.0));
        }
    }

    /// Lets the other nodes say again how many members of groups they have, because the connection is new.
    pub(super) fn tell_members(&self) {
        for (_, group) in self.all() {
            group.tell_members();
        }
    }

    pub(super) async fn change_of(&self, name: &ChannelName) -> tokio::sync::MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(name.as_str());
        self.changes[(hash >> 48) as usize % CHANGE_LOCKS].lock().await
    }

    /// Adds a subscription to its group, which begins with its first member; returns `false` if its name has no group.
    pub(super) async fn join(
        &self,
        filters: &Filters,
        member: &Arc<Subscription>,
        persistence: Persistence,
    ) -> bool {
        let name = &member.channel;
        let _turn = self.change_of(name).await;
        if let Some(group) = self.find(name) {
            group.join(member, persistence);
            return true;
        }
        let Some(filter) = share_of(name) else { return false };
        let (Some(own_name), Some(owner)) = (name_of(filter), owner_of(filter)) else { return false };
        let is_kept = self.store.has_group(&owner).await;
        let Ok(is_kept) = is_kept.map_err(|error| HubError::of_store(&error, &self.context.counters)) else {
            return false;
        };
        if member.stage() == Stage::Ended {
            return false; // meanwhile
        }
        let node = self.cluster.as_ref().map_or(0, |cluster| cluster.node_number());
        let group = Outbox::of_group(&self.context, name, node, &filters.share_nodes(name));
        let log = if is_kept { LogState::Filter } else { LogState::Temporary };
        let own = Subscription::of_group(own_name, owner, &group, log);
        group.insert_subscription(&own);
        // In this order: a caller that is dropped while it waits lets the member leave, which ends the group.
        group.join(member, persistence);
        self.lock().insert(name.clone(), Arc::clone(&group));
        if let Some(cluster) = &self.cluster {
            cluster.filter_added(name.as_str());
        }
        let is_added = add_filter(filters, self.cluster.as_deref(), &own).await;
        if is_kept {
            group.want_readers();
        }
        is_added
    }

    /// Removes an ended subscription from its group. What it has not acknowledged goes to other members.
    pub(super) fn leave(&self, member: &Arc<Subscription>) {
        if let Some(group) = self.find(&member.channel) {
            group.part(member);
            group.flush();
        }
    }

    /// The group with this owner.
    pub(super) fn of_owner(&self, owner: &ClientId) -> Option<Arc<Outbox>> {
        if !owner.is_group() {
            return None;
        }
        let is_it = |name: &ChannelName| share_of(name).and_then(owner_of).as_ref() == Some(owner);
        self.all().into_iter().find(|(name, _)| is_it(name)).map(|(_, group)| group)
    }

    /// Removes a group that has no member on this node; returns `false` if it has one, or is another one of this name.
    pub(super) fn remove_empty(&self, name: &ChannelName, group: &Arc<Outbox>) -> bool {
        let mut groups = self.lock();
        let is_this = groups.get(name).is_some_and(|other| Arc::ptr_eq(other, group));
        let is_removed = is_this && group.group_members().is_empty();
        if is_removed {
            groups.remove(name);
        }
        is_removed
    }

    /// Tells other nodes that a group has ended on this node.
    pub(super) fn has_ended(&self, name: &ChannelName) {
        if let Some(cluster) = &self.cluster {
            cluster.filter_removed(name.as_str());
        }
    }

    /// The number of groups, and of their members.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let groups = self.lock();
        (groups.len(), groups.values().map(|group| group.group_members().len()).sum())
    }
}

/// Tells other nodes what groups have to tell them.
fn tell_nodes(bus: &dyn Bus, groups: &[Arc<Outbox>]) {
    for group in groups {
        let Some(name) = group.name_of_group() else { continue };
        for (node, messages) in group.take_untold() {
            messages.iter().for_each(|message| bus.tell_share(NodeId(node), name, message));
        }
    }
}
