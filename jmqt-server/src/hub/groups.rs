//! The groups of shared subscriptions on this node (MQTT 5.0, 4.8.2).
//!
//! A group with members on this node has an outbox of its own (`outbox/group.rs`), which is subscribed to the filter like a
//! client. It exists while it has a member.

use std::hash::BuildHasher;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jmqt_core::{ChannelName, ClientId, Persistence};
use jmqt_mqtt::Filter;
use tokio_util::sync::CancellationToken;

use super::Hub;
use super::filters::name_of;
use crate::connection::CloseReason;
use crate::name_map::NameMap;
use crate::outbox::{LogState, Outbox, Subscription};

/// The beginning of the names of shared subscriptions, which are those on the wire.
const SHARE: &str = "$share/";
/// The number of locks for beginning and ending groups.
const CHANGE_LOCKS: usize = 16;
/// The interval for giving messages to members that were full. An acknowledgement does so at once.
const GIVE_EVERY: Duration = Duration::from_millis(200);
/// The number of subscriptions that are ended at a time.
const AT_A_TIME: usize = 256;

/// The filter of a shared subscription; `None` for the name of another subscription.
pub(super) fn share_of(name: &ChannelName) -> Option<Filter<'_>> {
    if !name.as_str().starts_with(SHARE) {
        return None;
    }
    Filter::parse(name.as_str()).ok()
}

/// The name of the subscription to a share; `None` if group and filter together are too long.
pub(crate) fn name_of_share(filter: Filter<'_>) -> Option<ChannelName> {
    owner_of(filter)?;
    ChannelName::exact(filter.as_str()).ok()
}

/// The owner of the cursors of a group.
fn owner_of(filter: Filter<'_>) -> Option<ClientId> {
    ClientId::of_group(filter.as_str().strip_prefix(SHARE)?).ok()
}

/// The groups by the name of their subscription.
#[derive(Default)]
pub(crate) struct Groups {
    table: Mutex<NameMap<ChannelName, Arc<Outbox>>>,
    changes: [tokio::sync::Mutex<()>; CHANGE_LOCKS],
}

impl Groups {
    fn lock(&self) -> MutexGuard<'_, NameMap<ChannelName, Arc<Outbox>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, name: &ChannelName) -> Option<Arc<Outbox>> {
        self.lock().get(name).cloned()
    }

    fn all(&self) -> Vec<(ChannelName, Arc<Outbox>)> {
        self.lock().iter().map(|(name, group)| (name.clone(), Arc::clone(group))).collect()
    }

    /// The number of groups, and of their members.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let groups = self.lock();
        (groups.len(), groups.values().map(|group| group.group_members().len()).sum())
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
        let group = Outbox::of_group(&self.context);
        let own = Subscription::of_group(own_name, owner, &group, LogState::Temporary);
        group.insert_subscription(&own);
        // In this order: a caller that is dropped while it waits lets the member leave, which ends the group.
        group.join(member, persistence);
        self.groups.lock().insert(name.clone(), group);
        self.add_filter(&own).await
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
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                listed = self.context.groups.take() => {
                    listed.iter().for_each(|group| self.give(group));
                }
                _ = ticks.tick() => {
                    for (name, group) in self.groups.all() {
                        if group.group_members().is_empty() {
                            self.end_group(&name, &group).await;
                        } else {
                            self.give(&group);
                        }
                    }
                }
            }
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
    }

    /// The clients behind a subscriber: itself, or the members of a group.
    pub(super) fn clients_behind(member: &Arc<Subscription>) -> Vec<Arc<Subscription>> {
        match member.outbox.is_group() {
            true => member.outbox.group_members(),
            false => vec![Arc::clone(member)],
        }
    }
}
