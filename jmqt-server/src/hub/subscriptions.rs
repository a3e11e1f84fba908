//! Creates and ends subscriptions, for `sub`, `unsub` and the application (§9.c, §9.e).

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jmqt_core::{ChannelKind, ChannelName, ClientId, Persistence, Qos};
use jmqt_mqtt::name_to_topic;
use tokio::sync::{MutexGuard, SemaphorePermit, oneshot};
use tokio::time::{sleep, timeout};

use super::filters::{self, filter_of, literal_beginning, share_of, stored_filter};
use super::publish::intact;
use super::{CHANGE_LOCKS, Hub, HubError, Tag};
use crate::budget::Share;
use crate::connection::CloseReason;
use crate::log_limit::log_limited;
use crate::message::{Data, RetainedPush};
use crate::options::SubscriptionOptions;
use crate::outbox::{LogState, Outbox, Stage, Subscription};
use crate::store::{Operation, Order, Outcome, RETAINED_PAGE, Retained, StoredTotals};

/// The time limit for a retained message to wait for room in the outbound queues.
const ROOM_LIMIT: Duration = Duration::from_secs(30);
/// The interval between two checks for room.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(20);

/// A subscription that is active, and whose pushes wait for [`Outbox::open`].
pub(crate) struct Subscribed {
    pub(crate) subscription: Arc<Subscription>,
    pub(crate) retained: Option<RetainedPush>,
}

/// An active subscription, created now or earlier.
pub(super) struct Made {
    subscription: Arc<Subscription>,
    is_new: bool,
}

impl Hub {
    /// Serializes the changes of one client's subscriptions.
    pub(super) async fn change_of(&self, client: &ClientId) -> MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(client.as_str());
        self.changes[(hash >> 48) as usize % CHANGE_LOCKS].lock().await
    }

    /// Subscribes a connected client. An existing subscription stays unchanged (2.20), except that it gets these options.
    ///
    /// A persistent subscription is on disk when this returns (2.13). The subscription is active before the retained
    /// message is read, so that message may arrive twice but is never missed (2.12).
    pub(crate) async fn subscribe(
        self: &Arc<Self>,
        outbox: &Arc<Outbox>,
        client: &ClientId,
        channel: &ChannelName,
        persistence: Persistence,
        options: Option<SubscriptionOptions>,
    ) -> Result<Subscribed, HubError> {
        let _turn = self.change_of(client).await;
        let made =
            self.subscribe_in_turn(outbox, client, channel, persistence, options, Stage::Opening).await?;
        self.with_retained(outbox, made).await
    }

    pub(super) async fn subscribe_in_turn(
        self: &Arc<Self>,
        outbox: &Arc<Outbox>,
        client: &ClientId,
        channel: &ChannelName,
        persistence: Persistence,
        options: Option<SubscriptionOptions>,
        stage: Stage,
    ) -> Result<Made, HubError> {
        if let Some(subscription) = outbox.subscription(channel.as_str()) {
            let is_new = subscription.own_options().is_of_filter();
            let options = match options {
                None if is_new => Some(SubscriptionOptions::JMQT),
                options => options.filter(|options| *options != subscription.own_options()),
            };
            if let Some(options) = options {
                self.change_options(&subscription, options).await?;
            }
            return Ok(Made { subscription, is_new });
        }
        let log = match (persistence, channel.kind()) {
            (Persistence::Temporary, _) => LogState::Temporary,
            (Persistence::Persistent, ChannelKind::Control) => LogState::Filter,
            (Persistence::Persistent, _) => LogState::Attaching { seen: None },
        };
        let new_options = options.unwrap_or(SubscriptionOptions::JMQT);
        let subscription = match self.insert(outbox, client, channel, new_options, stage, log).await {
            // A reader for a filter was created meanwhile.
            Err(HubError::SessionEnded) if outbox.closed().is_none() => {
                let Some(subscription) = outbox.subscription(channel.as_str()) else {
                    return Err(HubError::SessionEnded);
                };
                self.change_options(&subscription, new_options).await?;
                return Ok(Made { subscription, is_new: true });
            }
            inserted => inserted?,
        };
        let options = new_options;
        if persistence == Persistence::Persistent {
            let stored = match stored_filter(channel) {
                Some(filter) => self.keep_filter(outbox, client, filter, Some(options)).await.map(drop),
                None => self.attach(&subscription).await,
            };
            if let Err(error) = stored {
                self.remove(outbox, channel);
                return Err(unclear(outbox, error));
            }
            self.members_have_changed(channel).await;
        }
        Ok(Made { subscription, is_new: true })
    }

    /// Stores the options of a client's subscription to a channel that has no place in the log; `None`: removes them.
    pub(crate) async fn keep_channel(
        &self,
        outbox: &Outbox,
        client: &ClientId,
        channel: &ChannelName,
        options: Option<SubscriptionOptions>,
    ) -> Result<(), HubError> {
        let topic = name_to_topic(channel.as_str());
        let kept = self.keep_filter(outbox, client, &topic, options).await;
        kept.map(drop).map_err(|error| unclear(outbox, error))
    }

    /// Stores a filter of a client with its options; `None`: removes it. Returns `true` if it existed and was removed.
    pub(crate) async fn keep_filter(
        &self,
        outbox: &Outbox,
        client: &ClientId,
        filter: &str,
        options: Option<SubscriptionOptions>,
    ) -> Result<bool, HubError> {
        let (client, filter) = (client.clone(), filter.to_owned());
        let operation = match options {
            Some(options) => Operation::SubscribeFilter { client, filter, options },
            None => Operation::UnsubscribeFilter { client, filter },
        };
        match self.commit_change(outbox, operation).await? {
            Outcome::FilterSubscribed => Ok(false),
            Outcome::Unsubscribed(existed) => Ok(existed),
            _ => Err(HubError::Store),
        }
    }

    /// Replaces the options of a subscription; those of a persistent one are on disk when this returns.
    async fn change_options(
        self: &Arc<Self>,
        subscription: &Arc<Subscription>,
        options: SubscriptionOptions,
    ) -> Result<(), HubError> {
        let Subscription { client, channel, outbox, .. } = &**subscription;
        outbox.set_options(subscription, options);
        self.filters.options_changed();
        if subscription.persistence() == Persistence::Temporary {
            return Ok(());
        }
        let changed = match stored_filter(channel) {
            Some(filter) => self.keep_filter(outbox, client, filter, Some(options)).await.map(drop),
            // It has no place in the log of its own.
            None if options.qos() == Qos::AtMostOnce => Ok(()),
            None => {
                let operation =
                    Operation::Subscribe { client: client.clone(), channel: channel.clone(), options };
                self.commit_change(outbox, operation).await.map(drop)
            }
        };
        changed.map_err(|error| unclear(outbox, error))?;
        self.members_have_changed(channel).await;
        if options.qos() == Qos::AtMostOnce && channel.kind() == ChannelKind::Control {
            self.end_unneeded_readers(outbox);
        }
        Ok(())
    }

    /// Reads the retained message of an active subscription. For a persistent subscription this happens after its
    /// commit, because reading inside the commit would delay all publishes.
    async fn with_retained(&self, outbox: &Outbox, made: Made) -> Result<Subscribed, HubError> {
        let Made { subscription, is_new } = made;
        if subscription.channel.kind() == ChannelKind::Control {
            // Those of a filter are read afterwards, one at a time.
            return Ok(Subscribed { subscription, retained: None });
        }
        match self.retained_push(&subscription.channel).await {
            Ok(retained) => Ok(Subscribed { subscription, retained }),
            Err(error) => {
                match (subscription.persistence(), subscription.stage()) {
                    (Persistence::Temporary, _) if is_new => self.remove(outbox, &subscription.channel),
                    // It is in the store, but its `subAck` would deny it: the next session has it.
                    (Persistence::Persistent, Stage::Opening) => outbox.close(CloseReason::StoreUnclear),
                    _ => {} // it stays active; the caller may ask again
                }
                Err(error)
            }
        }
    }

    /// Adds a subscription to the tables. Pushes reach it from now on.
    pub(super) async fn insert(
        &self,
        outbox: &Arc<Outbox>,
        client: &ClientId,
        channel: &ChannelName,
        options: SubscriptionOptions,
        stage: Stage,
        log: LogState,
    ) -> Result<Arc<Subscription>, HubError> {
        let subscription = Subscription::new(channel.clone(), client.clone(), Arc::clone(outbox), stage, log);
        subscription.set_options(options);
        let subscription = Arc::new(subscription);
        if !outbox.insert_subscription(&subscription) {
            return Err(HubError::SessionEnded);
        }
        if channel.kind() == ChannelKind::Control {
            let is_added = match share_of(channel) {
                Some(_) => self.join_group(&subscription, subscription.persistence()).await,
                None => self.add_filter(&subscription).await,
            };
            if !is_added {
                return Err(HubError::SessionEnded);
            }
        } else if channel.kind() != ChannelKind::PeerToPeer {
            // In this order: removing it from the channel leaves the bus channel, so it must have joined before.
            self.bus.join(channel);
            self.channels.add(&subscription);
            self.bus.joined(channel).await;
        }
        if subscription.stage() == Stage::Ended {
            // The session ended meanwhile, before the subscription was in the channel's list.
            self.leave(&subscription);
            return Err(HubError::SessionEnded);
        }
        Ok(subscription)
    }

    /// Makes a subscription in the tables persistent.
    async fn attach(&self, subscription: &Arc<Subscription>) -> Result<(), HubError> {
        let Subscription { client, channel, outbox, .. } = &**subscription;
        let operation = Operation::Subscribe {
            client: client.clone(),
            channel: channel.clone(),
            options: subscription.own_options(),
        };
        let Outcome::Subscribed(stored) = self.commit_change(outbox, operation).await? else {
            return Err(HubError::Store);
        };
        subscription.outbox.attach(subscription, &stored);
        if let Some(owner) = outbox.owner_to_store() {
            self.own_session(outbox, client, &owner, None).await?;
        }
        Ok(())
    }

    /// Ends a persistent subscription in the store; returns `false` if it does not exist.
    async fn unsubscribe_in_store(
        &self,
        outbox: &Outbox,
        client: &ClientId,
        channel: &ChannelName,
    ) -> Result<bool, HubError> {
        let operation = Operation::Unsubscribe { client: client.clone(), channel: channel.clone() };
        match self.commit_change(outbox, operation).await? {
            Outcome::Unsubscribed(existed) => Ok(existed),
            _ => Err(HubError::Store),
        }
    }

    /// Ends a subscription of a connected client; returns `false` if it does not exist. After this returns, no
    /// message of it is pushed, and a persistent subscription is deleted from disk.
    pub(crate) async fn unsubscribe(
        self: &Arc<Self>,
        outbox: &Arc<Outbox>,
        client: &ClientId,
        channel: &ChannelName,
    ) -> Result<bool, HubError> {
        let _turn = self.change_of(client).await;
        self.unsubscribe_in_turn(outbox, client, channel).await
    }

    pub(super) async fn unsubscribe_in_turn(
        self: &Arc<Self>,
        outbox: &Arc<Outbox>,
        client: &ClientId,
        channel: &ChannelName,
    ) -> Result<bool, HubError> {
        let Some(subscription) = outbox.own_subscription(channel.as_str()) else { return Ok(false) };
        if let Some(filter) = stored_filter(channel) {
            let is_stored = subscription.persistence() == Persistence::Persistent;
            if is_stored {
                let removed = self.keep_filter(outbox, client, filter, None).await;
                removed.map_err(|error| unclear(outbox, error))?;
            }
            self.remove(outbox, channel);
            self.end_unneeded_readers(outbox);
            if is_stored {
                self.members_have_changed(channel).await;
            }
            return Ok(true);
        }
        let has_place = subscription.own_options().qos() != Qos::AtMostOnce;
        if subscription.persistence() == Persistence::Persistent && has_place {
            let unsubscribed = self.unsubscribe_in_store(outbox, client, channel).await;
            unsubscribed.map_err(|error| unclear(outbox, error))?;
        }
        if !has_place && channel.kind() == ChannelKind::Plain && outbox.is_stored() {
            self.keep_channel(outbox, client, channel, None).await?;
        }
        if subscription.is_reader() && self.needs_reader(outbox, channel) {
            self.keep_reader(outbox, &subscription);
        } else {
            self.remove(outbox, channel);
        }
        Ok(true)
    }

    /// Subscribes a client for the application; the client is connected to this node or to none. An existing
    /// subscription changes its flag (2.20). The retained message is sent as for `sub`.
    pub(super) async fn force_subscribe_here(
        self: &Arc<Self>,
        client: &ClientId,
        channel: &ChannelName,
        persistence: Persistence,
    ) -> Result<(), HubError> {
        let _turn = self.change_of(client).await;
        let Some(outbox) = self.connections.outbox(client.as_str()) else {
            if persistence == Persistence::Temporary {
                return Err(HubError::SessionEnded);
            }
            let operation = Operation::Subscribe {
                client: client.clone(),
                channel: channel.clone(),
                options: SubscriptionOptions::JMQT,
            };
            self.commit(operation).await?;
            return Ok(());
        };
        let made = self.force_in_turn(&outbox, client, channel, persistence).await?;
        let subscribed = self.with_retained(&outbox, made).await?;
        outbox.open(&subscribed.subscription, None, subscribed.retained);
        self.resume(&outbox); // a changed flag may have freed a part of the window
        outbox.flush();
        Ok(())
    }

    /// Makes an existing subscription of a connected client persistent, or temporary.
    pub(crate) async fn change_persistence(
        self: &Arc<Self>,
        outbox: &Arc<Outbox>,
        client: &ClientId,
        channel: &ChannelName,
        persistence: Persistence,
    ) -> Result<(), HubError> {
        let _turn = self.change_of(client).await;
        self.force_in_turn(outbox, client, channel, persistence).await.map(drop)
    }

    pub(super) async fn force_in_turn(
        self: &Arc<Self>,
        outbox: &Arc<Outbox>,
        client: &ClientId,
        channel: &ChannelName,
        persistence: Persistence,
    ) -> Result<Made, HubError> {
        if let Some(subscription) = outbox.own_subscription(channel.as_str())
            && subscription.persistence() != persistence
        {
            match persistence {
                Persistence::Persistent => {
                    let _change = Change::begin(&subscription);
                    self.attach(&subscription).await.map_err(|error| unclear(outbox, error))?;
                }
                Persistence::Temporary => {
                    let unsubscribed = self.unsubscribe_in_store(outbox, client, channel).await;
                    unsubscribed.map_err(|error| unclear(outbox, error))?;
                    if !self.needs_reader(outbox, channel) {
                        outbox.detach(&subscription);
                    }
                }
            }
            return Ok(Made { subscription, is_new: false });
        }
        self.subscribe_in_turn(outbox, client, channel, persistence, None, Stage::Live).await
    }

    /// Ends a client's subscription for the application; the client is connected to this node or to none.
    pub(super) async fn force_unsubscribe_here(
        self: &Arc<Self>,
        client: &ClientId,
        channel: &ChannelName,
    ) -> Result<bool, HubError> {
        let _turn = self.change_of(client).await;
        let Some(outbox) = self.connections.outbox(client.as_str()) else {
            let operation = Operation::Unsubscribe { client: client.clone(), channel: channel.clone() };
            return match self.commit(operation).await? {
                Outcome::Unsubscribed(existed) => Ok(existed),
                _ => Err(HubError::Store),
            };
        };
        let existed = self.unsubscribe_in_turn(&outbox, client, channel).await?;
        self.resume(&outbox); // its part of the window is free for others (2.14)
        outbox.flush();
        Ok(existed)
    }

    /// The subscriptions of a client: all of them if it is connected here, otherwise the persistent ones.
    pub(super) async fn subscriptions_here(
        &self,
        client: &ClientId,
    ) -> Result<Vec<(ChannelName, Persistence)>, HubError> {
        let mut list: Vec<_> = match self.connections.outbox(client.as_str()) {
            Some(outbox) => {
                let live = outbox.subscriptions();
                let own = live.iter().filter(|subscription| !subscription.own_options().is_of_filter());
                own.map(|subscription| (subscription.channel.clone(), subscription.persistence())).collect()
            }
            None => {
                let stored = self.store.subscriptions(client).await;
                let stored = stored.map_err(|error| self.store_failed(&error))?;
                let own = stored.into_iter().filter(|stored| !stored.options.is_of_filter());
                own.map(|stored| (stored.channel, Persistence::Persistent)).collect()
            }
        };
        list.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(list)
    }

    /// The clients on this node that are subscribed to a channel.
    pub(crate) fn subscribers_here(&self, channel: &ChannelName) -> Vec<(ClientId, Persistence)> {
        let Some(members) = self.members(channel) else { return Vec::new() };
        let current = members
            .iter()
            .flat_map(Self::clients_behind)
            .filter(|member| member.stage() != Stage::Ended && member.outbox.closed().is_none());
        current.map(|member| (member.client.clone(), member.persistence())).collect()
    }

    pub(super) fn remove(&self, outbox: &Outbox, channel: &ChannelName) {
        if let Some(subscription) = outbox.remove_subscription(channel.as_str()) {
            self.leave(&subscription);
        }
    }

    /// Adds a subscription with a filter; returns `false` if its name has none. On return the other nodes know the filter.
    pub(super) async fn add_filter(&self, subscription: &Arc<Subscription>) -> bool {
        let Some(cluster) = &self.cluster else { return self.filters.add(subscription, |_| {}) };
        let is_added = self.filters.add(subscription, |filter| cluster.filter_added(filter.path()));
        if is_added {
            cluster.filters_are_known().await;
        }
        is_added
    }

    fn remove_filter(&self, subscription: &Arc<Subscription>) {
        self.filters.remove(subscription, |filter| {
            if let Some(cluster) = &self.cluster {
                cluster.filter_removed(filter.path());
            }
        });
    }

    /// Removes an ended subscription from its channel.
    pub(super) fn leave(&self, subscription: &Arc<Subscription>) {
        match subscription.channel.kind() {
            ChannelKind::PeerToPeer => {}
            ChannelKind::Control if share_of(&subscription.channel).is_some() => {
                self.leave_group(subscription);
            }
            ChannelKind::Control => self.remove_filter(subscription),
            ChannelKind::Plain => {
                if self.channels.remove(subscription) {
                    self.bus.leave(&subscription.channel);
                }
            }
        }
    }

    /// Filters the channels that have, or may have, a retained message.
    pub(crate) async fn retained_among(
        &self,
        channels: &[ChannelName],
    ) -> Result<Vec<ChannelName>, HubError> {
        let pending: HashSet<_> =
            channels.iter().filter(|channel| self.queue.has_retained(channel)).collect();
        let there = self.store.retained_among(channels).await.map_err(|error| self.store_failed(&error))?;
        if pending.is_empty() {
            return Ok(there);
        }
        let there: HashSet<_> = there.iter().collect();
        let is_there = |channel: &&ChannelName| there.contains(channel) || pending.contains(channel);
        Ok(channels.iter().filter(is_there).cloned().collect())
    }

    /// How much the store has; `None` if it cannot be read.
    pub(crate) async fn stored_totals(&self) -> Option<StoredTotals> {
        self.store.totals().await.map_err(|error| self.store_failed(&error)).ok()
    }

    /// Waits until everything that was submitted to the store is carried out.
    pub(crate) async fn store_fence(&self) -> Result<(), HubError> {
        let (reply, carried_out) = oneshot::channel();
        self.queue.submit(Order::AfterAll, None, Tag::Reply(reply)).await.map_err(|_| HubError::Store)?;
        // An operation without an effect cannot fail; only its place in the order matters.
        drop(carried_out.await);
        Ok(())
    }

    /// Channels with a retained message that match a filter and follow `after`, and the channel to continue after.
    pub(crate) async fn retained_matching(
        &self,
        filter: &ChannelName,
        after: Option<&ChannelName>,
    ) -> Result<(Vec<ChannelName>, Option<ChannelName>), HubError> {
        let Some(filter) = filter_of(filter) else { return Ok((Vec::new(), None)) };
        let prefix = literal_beginning(filter);
        let cache = self.queue.cache();
        let tickets = cache.tickets();
        let page = self.store.retained_under(&prefix, after).await;
        let page = page.map_err(|error| self.store_failed(&error))?;
        let next =
            if page.len() < RETAINED_PAGE { None } else { page.last().map(|(channel, _)| channel.clone()) };
        let is_matching =
            |channel: &ChannelName| channel.kind() == ChannelKind::Plain && filters::matches(filter, channel);
        let mut matching = Vec::with_capacity(page.len());
        for (channel, retained) in page {
            if !is_matching(&channel) {
                continue;
            }
            // The messages that were read with their channels wait in the cache, from which a change removes them.
            if let Some(retained) = retained
                && !retained.data.is_empty()
                && self.cluster.is_none()
                && intact(&channel, retained.data.clone(), retained.attributes.clone()).is_some()
            {
                cache.keep_one(&tickets, &channel, &retained);
            }
            matching.push(channel);
        }
        Ok((matching, next))
    }

    /// The channel's retained message (§9.b).
    pub(crate) async fn retained_push(
        &self,
        channel: &ChannelName,
    ) -> Result<Option<RetainedPush>, HubError> {
        // A retained message on its way to the store was published before, so the subscriber must see it. The read does
        // not pass the commit queue, where it would delay all publishes.
        if self.queue.has_retained(channel) {
            self.retained_fence(channel).await?;
        }
        let ticket = self.queue.cache().ticket(channel);
        if !self.store.may_have_retained(channel) {
            return Ok(None);
        }
        let _place = self.room_for_retained().await?;
        let counted = |data: &[u8]| {
            let mut share = Share::new(&self.context.outbound);
            share.set(data.len());
            Some(share)
        };
        // Other nodes retain messages without telling this one.
        let cache = self.cluster.is_none().then(|| self.queue.cache());
        if let Some(retained) = cache.and_then(|cache| cache.find(channel)) {
            if retained.data.is_empty() {
                return Ok(None); // it is being deleted
            }
            let Retained { sender, data, attributes } = retained;
            let counted = counted(&data);
            return Ok(Some(RetainedPush {
                sender,
                data: Data::new(data, attributes),
                id: self.memory_id(),
                counted,
            }));
        }
        let retained = self.store.read_retained(channel).await.map_err(|error| self.store_failed(&error))?;
        let Some(retained) = retained.filter(|retained| !retained.data.is_empty()) else { return Ok(None) };
        let Retained { sender, data, attributes } = retained.clone();
        let Some(data) = intact(channel, data, attributes) else { return Ok(None) };
        if let Some(cache) = cache {
            cache.keep(ticket, channel, &retained);
        }
        Ok(Some(RetainedPush { sender, counted: counted(data.as_bytes()), id: self.memory_id(), data }))
    }

    /// Waits, for a limited time, until the outbound queues of all clients hold less than MAX_TOTAL_OUTBOUND_BYTES. A
    /// retained message can be as long as the largest packet. The number of readers is limited, so that they do not
    /// all use the same room.
    async fn room_for_retained(&self) -> Result<SemaphorePermit<'_>, HubError> {
        let outbound = &self.context.outbound;
        let room = async {
            // It is never closed.
            let place = self.retained_reads.acquire().await.map_err(|_| HubError::SessionEnded)?;
            if outbound.is_used_up() {
                log_limited!(warn, target: "jmqt::session", "delaying retained messages: the outbound queues of all clients together have reached MAX_TOTAL_OUTBOUND_BYTES");
            }
            while outbound.is_used_up() {
                sleep(LOOK_FOR_ROOM).await;
            }
            Ok(place)
        };
        timeout(ROOM_LIMIT, room).await.unwrap_or(Err(HubError::NoRoom))
    }

    /// Deletes the retained message of a channel; returns `false` if there is none.
    pub(crate) async fn clear_retained(&self, channel: &ChannelName) -> Result<bool, HubError> {
        match self.commit(Operation::ClearRetained { channel: channel.clone() }).await? {
            Outcome::Cleared(existed) => Ok(existed),
            _ => Err(HubError::Store),
        }
    }

    /// Deletes the retained message of a channel if it has expired.
    pub(super) async fn expire_retained(
        &self,
        channel: ChannelName,
        now: SystemTime,
    ) -> Result<(), HubError> {
        self.commit(Operation::ExpireRetained { channel, now }).await.map(drop)
    }
}

/// Marks a temporary subscription as becoming persistent until this is dropped.
struct Change<'a>(&'a Arc<Subscription>);

impl<'a> Change<'a> {
    fn begin(subscription: &'a Arc<Subscription>) -> Self {
        subscription.outbox.begin_change(subscription);
        Self(subscription)
    }
}

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.outbox.end_change(self.0);
    }
}

/// Ends a session if the outcome of its subscription change is unknown. The next session reads the subscriptions from
/// the store.
fn unclear(outbox: &Outbox, error: HubError) -> HubError {
    if matches!(error, HubError::Unknown) {
        outbox.close(CloseReason::StoreUnclear);
    }
    error
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use jmqt_core::{Qos, Retain};

    use super::*;
    use crate::attributes::Attributes;
    use crate::message::Message;
    use crate::store::Double;

    #[tokio::test] // protocol.md 2.12
    async fn a_retained_message_is_read_once_for_many_until_another_is_published() {
        let (reads, version) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(1)));
        let (counted, current) = (Arc::clone(&reads), Arc::clone(&version));
        let read_retained = move |()| {
            counted.fetch_add(1, Ordering::SeqCst);
            let data = current.load(Ordering::SeqCst).to_string().into();
            Ok(Some(Retained { sender: None, data, attributes: Attributes::NONE }))
        };
        let committed = Arc::clone(&version);
        let commit = move |batch: &[Operation]| {
            committed.fetch_add(batch.len() as u64, Ordering::SeqCst);
            Ok(batch.iter().map(|_| Outcome::Appended(None)).collect())
        };
        let (read_retained, commit) = (Box::new(read_retained), Box::new(commit));
        let hub = Hub::over(Double { read_retained, commit, ..Double::default() });
        let news = ChannelName::parse("news").unwrap();
        for expected in 1..=3 {
            for _ in 0..100 {
                let push = hub.retained_push(&news).await.unwrap().unwrap();
                assert_eq!(push.data.as_bytes(), expected.to_string().as_bytes());
            }
            let data = Data::checked_before("0".into());
            let (channel, sender, qos, retain) = (news.clone(), None, Qos::AtMostOnce, Retain::Yes);
            let message = Message { channel, sender, data, qos, retain };
            hub.submit_retained(message, None).await.unwrap();
        }
        assert_eq!(reads.load(Ordering::SeqCst), 3);
    }
}
