//! The groups of shared subscriptions on this node (MQTT 5.0, 4.8.2).
//!
//! A group with members on this node has an outbox of its own (`outbox/group.rs`), which is subscribed to the filter like a
//! client. It exists while it has a member.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use jmqt_core::{ChannelName, ClientId, Persistence};
use jmqt_mqtt::Filter;
use tokio_util::sync::CancellationToken;

use super::Hub;
use super::filters::{name_of, share_of};
use crate::bus::{Bus, NodeId};
use crate::connection::CloseReason;
use crate::message::{LoggedPush, PushId, ShareMessage};
use crate::name_map::NameMap;
use crate::outbox::{LogState, Outbox, OutboxContext, Stage, Subscription};
use crate::store::owner_of;

/// The number of locks for beginning and ending groups.
const CHANGE_LOCKS: usize = 16;
/// The interval for giving messages to members that were full. An acknowledgement does so at once.
const GIVE_EVERY: Duration = Duration::from_millis(200);
/// The number of these intervals between two looks whether stored sessions are members: one group at a time.
const LOOK_AT_EACH: usize = 5;
/// The number of subscriptions that are ended at a time.
const AT_A_TIME: usize = 256;

/// The name of the subscription to a share; `None` if group and filter together are too long.
pub(crate) fn name_of_share(filter: Filter<'_>) -> Option<ChannelName> {
    owner_of(filter)?;
    ChannelName::exact(filter.as_str()).ok()
}

/// The groups by the name of their subscription.
#[derive(Default)]
pub(crate) struct Groups {
    table: Mutex<NameMap<ChannelName, Arc<Outbox>>>,
    changes: [tokio::sync::Mutex<()>; CHANGE_LOCKS],
    /// The nodes that may have messages of groups of this node.
    heard: Mutex<HashSet<NodeId>>,
}

impl Groups {
    fn lock(&self) -> MutexGuard<'_, NameMap<ChannelName, Arc<Outbox>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &ChannelName) -> Option<Arc<Outbox>> {
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

impl Hub {
    async fn change_of_group(&self, name: &ChannelName) -> tokio::sync::MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(name.as_str());
        self.groups.changes[(hash >> 48) as usize % CHANGE_LOCKS].lock().await
    }

    /// Adds a subscription to its group, which begins with its first member; returns `false` if its name has no group.
    pub(super) async fn join_group(&self, member: &Arc<Subscription>, persistence: Persistence) -> bool {
        let name = &member.channel;
        let _turn = self.change_of_group(name).await;
        if let Some(group) = self.groups.find(name) {
            group.join(member, persistence);
            return true;
        }
        let Some(filter) = share_of(name) else { return false };
        let (Some(own_name), Some(owner)) = (name_of(filter), owner_of(filter)) else { return false };
        let is_kept = self.store.has_group(&owner).await;
        let Ok(is_kept) = is_kept.map_err(|error| self.store_failed(&error)) else { return false };
        if member.stage() == Stage::Ended {
            return false; // meanwhile
        }
        let node = self.cluster.as_ref().map_or(0, |cluster| cluster.node_number());
        let group = Outbox::of_group(&self.context, name, node, &self.filters.share_nodes(name));
        let log = if is_kept { LogState::Filter } else { LogState::Temporary };
        let own = Subscription::of_group(own_name, owner, &group, log);
        group.insert_subscription(&own);
        // In this order: a caller that is dropped while it waits lets the member leave, which ends the group.
        group.join(member, persistence);
        self.groups.lock().insert(name.clone(), Arc::clone(&group));
        if let Some(cluster) = &self.cluster {
            cluster.filter_added(name.as_str());
        }
        let is_added = self.add_filter(&own).await;
        if is_kept {
            group.want_readers();
        }
        is_added
    }

    /// Lets a group read logs if a stored session is a member, and only then. Called after a stored session has joined or left.
    pub(super) async fn members_have_changed(self: &Arc<Self>, name: &ChannelName) {
        let Some(filter) = share_of(name) else { return };
        let _turn = self.change_of_group(name).await;
        let (Some(group), Some(own_name), Some(owner)) =
            (self.groups.find(name), name_of(filter), owner_of(filter))
        else {
            return;
        };
        let Some(own) = group.subscription(own_name.as_str()) else { return };
        let Ok(is_kept) = self.store.has_group(&owner).await.map_err(|error| self.store_failed(&error))
        else {
            return;
        };
        if is_kept == (own.persistence() == Persistence::Persistent) {
            return;
        }
        group.keep_group(&own, is_kept);
        self.filters.options_changed();
        if is_kept {
            group.want_readers();
        } else {
            self.end_unneeded_readers(&group);
        }
    }

    /// Removes an ended subscription from its group. What it has not acknowledged goes to other members.
    pub(super) fn leave_group(&self, member: &Arc<Subscription>) {
        if let Some(group) = self.groups.find(&member.channel) {
            group.part(member);
            group.flush();
        }
    }

    /// Gives waiting messages of the group of a subscription, which may have room now.
    pub(crate) fn give_shares(self: &Arc<Self>, member: &Subscription) {
        if let Some(group) = member.group() {
            self.give(&group);
        }
    }

    fn give(self: &Arc<Self>, group: &Arc<Outbox>) {
        if group.has_waiting_shares() {
            group.flush();
        }
        self.resume(group);
    }

    /// Lets groups read on, gives waiting messages, and ends groups without members, until it is told to stop.
    pub(super) async fn serve_groups(self: &Arc<Self>, stop: &CancellationToken) {
        let mut ticks = tokio::time::interval(GIVE_EVERY);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut turn = 0;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                listed = self.context.groups.take() => {
                    for group in &listed {
                        self.look_after(group).await;
                    }
                }
                changed = self.filters.shares_changed() => {
                    for name in changed {
                        let Some(group) = self.groups.find(&name) else { continue };
                        group.look_after_nodes();
                        group.tell_members();
                        self.members_have_changed(&name).await;
                        self.end_moved_readers(&group).await;
                        group.want_readers();
                    }
                }
                _ = ticks.tick() => {
                    let all = self.groups.all();
                    // Stored sessions may also end without this node.
                    turn = (turn + 1) % (LOOK_AT_EACH * all.len().max(1));
                    if let Some((name, _)) = all.get(turn / LOOK_AT_EACH).filter(|_| turn % LOOK_AT_EACH == 0) {
                        self.members_have_changed(name).await;
                    }
                    for (_, group) in all {
                        group.take_from_slow_members();
                        group.look_after_nodes();
                        self.look_after(&group).await;
                    }
                }
            }
        }
    }

    async fn look_after(self: &Arc<Self>, group: &Arc<Outbox>) {
        match group.name_of_group() {
            Some(name) if group.group_members().is_empty() => self.end_group(name, group).await,
            _ => {
                self.begin_wanted_readers(group).await;
                self.give(group);
            }
        }
    }

    /// Begins the readers of logs with messages from the time when the group had no member here.
    async fn begin_wanted_readers(self: &Arc<Self>, group: &Arc<Outbox>) {
        if group.wants_readers()
            && let Err(error) = self.begin_missing_readers(group).await
        {
            self.store_failed(&error);
            group.want_readers();
        }
    }

    /// Ends the readers of channels that another node serves from now on.
    async fn end_moved_readers(&self, group: &Arc<Outbox>) {
        let moved = group.take_moved();
        for reader in group.subscriptions() {
            if reader.is_reader() && !group.serves(&reader.channel) {
                self.remove(group, &reader.channel);
            }
        }
        if !moved.cursors.is_empty() {
            self.janitor.save(moved).await;
        }
        self.filters.options_changed();
    }

    /// Gives messages to the shares of a client that has room from now on.
    pub(super) fn give_all_shares(self: &Arc<Self>, outbox: &Outbox) {
        if outbox.has_filters() {
            outbox.subscriptions().iter().for_each(|subscription| self.give_shares(subscription));
        }
    }

    /// Ends a group that has no member on this node. Its cursors are saved before the next group of this name begins.
    async fn end_group(&self, name: &ChannelName, group: &Arc<Outbox>) {
        let _turn = self.change_of_group(name).await;
        {
            let mut groups = self.groups.lock();
            let is_this = groups.get(name).is_some_and(|other| Arc::ptr_eq(other, group));
            if !is_this || !group.group_members().is_empty() {
                return;
            }
            groups.remove(name);
        }
        let moved = group.take_moved();
        while let Some(subscriptions) = group.remove_subscriptions(AT_A_TIME) {
            subscriptions.iter().for_each(|subscription| self.leave(subscription));
        }
        group.close(CloseReason::Disconnected);
        if !moved.cursors.is_empty() {
            self.janitor.save(moved).await;
        }
        if let Some(cluster) = &self.cluster {
            cluster.filter_removed(name.as_str());
        }
        self.filters.forget_share(name);
    }

    /// The group with this owner.
    pub(super) fn group_of(&self, owner: &ClientId) -> Option<Arc<Outbox>> {
        if !owner.is_group() {
            return None;
        }
        let is_it = |name: &ChannelName| share_of(name).and_then(owner_of).as_ref() == Some(owner);
        self.groups.all().into_iter().find(|(name, _)| is_it(name)).map(|(_, group)| group)
    }

    /// The clients behind a subscriber: itself, or the members of a group.
    pub(super) fn clients_behind(member: &Arc<Subscription>) -> Vec<Arc<Subscription>> {
        match member.outbox.is_group() {
            true => member.outbox.group_members(),
            false => vec![Arc::clone(member)],
        }
    }
}
