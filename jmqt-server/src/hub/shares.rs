//! Looks after the groups of shared subscriptions: gives their messages to members, lets them read logs, and ends them.

use std::sync::Arc;
use std::time::Duration;

use jmqt_core::{ChannelName, Persistence};
use tokio_util::sync::CancellationToken;

use super::error::HubError;
use super::filters::{name_of, share_of};
use super::janitor::Janitor;
use super::readers::Readers;
use super::resume::Resumes;
use super::subscribers::Subscribers;
use crate::connection::CloseReason;
use crate::outbox::{Outbox, OutboxContext, Subscription};
use crate::store::{Store, owner_of};

/// The interval for giving messages to members that were full. An acknowledgement does so at once.
const GIVE_EVERY: Duration = Duration::from_millis(200);
/// The number of these intervals between two looks whether stored sessions are members: one group at a time.
const LOOK_AT_EACH: usize = 5;
/// The number of subscriptions that are ended at a time.
const AT_A_TIME: usize = 256;

/// The care for the groups of this node.
pub(crate) struct Shares {
    subscribers: Arc<Subscribers>,
    resumes: Arc<Resumes>,
    readers: Arc<Readers>,
    janitor: Arc<Janitor>,
    store: Arc<dyn Store>,
    context: Arc<OutboxContext>,
}

impl Shares {
    pub(super) const fn new(
        subscribers: Arc<Subscribers>,
        resumes: Arc<Resumes>,
        readers: Arc<Readers>,
        janitor: Arc<Janitor>,
        store: Arc<dyn Store>,
        context: Arc<OutboxContext>,
    ) -> Self {
        Self { subscribers, resumes, readers, janitor, store, context }
    }

    /// Lets a group read logs if a stored session is a member, and only then. Called after a stored session has joined or left.
    pub(super) async fn members_have_changed(&self, name: &ChannelName) {
        let Some(filter) = share_of(name) else { return };
        let _turn = self.subscribers.groups.change_of(name).await;
        let (Some(group), Some(own_name), Some(owner)) =
            (self.subscribers.groups.find(name), name_of(filter), owner_of(filter))
        else {
            return;
        };
        let Some(own) = group.subscription(own_name.as_str()) else { return };
        let Ok(is_kept) = self
            .store
            .has_group(&owner)
            .await
            .map_err(|error| HubError::of_store(&error, &self.context.counters))
        else {
            return;
        };
        if is_kept == (own.persistence() == Persistence::Persistent) {
            return;
        }
        group.keep_group(&own, is_kept);
        self.subscribers.filters.options_changed();
        if is_kept {
            group.want_readers();
        } else {
            self.readers.end_unneeded(&group);
        }
    }

    /// Gives waiting messages of the group of a subscription, which may have room now.
    pub(crate) fn give_to(&self, member: &Subscription) {
        if let Some(group) = member.group() {
            self.give(&group);
        }
    }

    fn give(&self, group: &Arc<Outbox>) {
        if group.has_waiting_shares() {
            group.flush();
        }
        self.resumes.begin(group);
    }

    /// Lets groups read on, gives waiting messages, and ends groups without members, until it is told to stop.
    pub(super) async fn serve(&self, stop: &CancellationToken) {
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
                changed = self.subscribers.filters.shares_changed() => {
                    for name in changed {
                        let Some(group) = self.subscribers.groups.find(&name) else { continue };
                        group.look_after_nodes();
                        group.tell_members();
                        self.members_have_changed(&name).await;
                        self.end_moved_readers(&group).await;
                        group.want_readers();
                    }
                }
                _ = ticks.tick() => {
                    let all = self.subscribers.groups.all();
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

    async fn look_after(&self, group: &Arc<Outbox>) {
        match group.name_of_group() {
            Some(name) if group.group_members().is_empty() => self.end_group(name, group).await,
            _ => {
                self.begin_wanted_readers(group).await;
                self.give(group);
            }
        }
    }

    /// Begins the readers of logs with messages from the time when the group had no member here.
    async fn begin_wanted_readers(&self, group: &Arc<Outbox>) {
        if group.wants_readers()
            && let Err(error) = self.readers.begin_missing(group).await
        {
            HubError::of_store(&error, &self.context.counters);
            group.want_readers();
        }
    }

    /// Ends the readers of channels that another node serves from now on.
    async fn end_moved_readers(&self, group: &Arc<Outbox>) {
        let moved = group.take_moved();
        for reader in group.subscriptions() {
            if reader.is_reader() && !group.serves(&reader.channel) {
                self.subscribers.remove(group, &reader.channel);
            }
        }
        if !moved.cursors.is_empty() {
            self.janitor.save(moved).await;
        }
        self.subscribers.filters.options_changed();
    }

    /// Gives messages to the shares of a client that has room from now on.
    pub(super) fn give_to_all(&self, outbox: &Outbox) {
        if outbox.has_filters() {
            outbox.subscriptions().iter().for_each(|subscription| self.give_to(subscription));
        }
    }

    /// Ends a group that has no member on this node. Its cursors are saved before the next group of this name begins.
    async fn end_group(&self, name: &ChannelName, group: &Arc<Outbox>) {
        let _turn = self.subscribers.groups.change_of(name).await;
        if !self.subscribers.groups.remove_empty(name, group) {
            return;
        }
        let moved = group.take_moved();
        while let Some(subscriptions) = group.remove_subscriptions(AT_A_TIME) {
            subscriptions.iter().for_each(|subscription| self.subscribers.leave(subscription));
        }
        group.close(CloseReason::Disconnected);
        if !moved.cursors.is_empty() {
            self.janitor.save(moved).await;
        }
        self.subscribers.groups.has_ended(name);
        self.subscribers.filters.forget_share(name);
    }
}
