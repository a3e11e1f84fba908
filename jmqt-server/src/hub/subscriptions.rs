//! Creates and ends subscriptions, for `sub`, `unsub` and the application (§9.c, §9.e).

use std::hash::BuildHasher;
use std::sync::Arc;

use jmqt_core::{ChannelKind, ChannelName, ClientId, Persistence, Qos};
use jmqt_mqtt::name_to_topic;
use tokio::sync::MutexGuard;

use super::commits::Commits;
use super::connections::Connections;
use super::error::HubError;
use super::filters::stored_filter;
use super::readers::Readers;
use super::resume::Resumes;
use super::retained::RetainedMessages;
use super::shares::Shares;
use super::subscribers::Subscribers;
use crate::connection::CloseReason;
use crate::counters::Counters;
use crate::message::RetainedPush;
use crate::options::SubscriptionOptions;
use crate::outbox::{LogState, Outbox, Stage, Subscription};
use crate::store::{Operation, Outcome, Store};

/// The number of locks for subscription changes. Changes of one client are serialized by one of these locks.
const CHANGE_LOCKS: usize = 64;

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

/// Serializes the changes of one client's subscriptions.
pub(super) struct ChangeLocks {
    locks: [tokio::sync::Mutex<()>; CHANGE_LOCKS],
    hasher: foldhash::fast::RandomState,
}

impl Default for ChangeLocks {
    fn default() -> Self {
        Self {
            locks: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            hasher: foldhash::fast::RandomState::default(),
        }
    }
}

impl ChangeLocks {
    async fn of(&self, client: &ClientId) -> MutexGuard<'_, ()> {
        let hash = self.hasher.hash_one(client.as_str());
        self.locks[(hash >> 48) as usize % CHANGE_LOCKS].lock().await
    }
}

/// Creates, changes and ends the subscriptions of the clients of this node.
pub(crate) struct Subscriptions {
    pub(super) changes: ChangeLocks,
    pub(super) connections: Arc<Connections>,
    pub(super) subscribers: Arc<Subscribers>,
    pub(super) commits: Arc<Commits>,
    pub(super) retained: Arc<RetainedMessages>,
    pub(super) readers: Arc<Readers>,
    pub(super) resumes: Arc<Resumes>,
    pub(super) shares: Arc<Shares>,
    pub(super) store: Arc<dyn Store>,
    pub(super) counters: Arc<Counters>,
}

impl Subscriptions {
    /// Serializes the changes of one client's subscriptions.
    pub(super) async fn change_of(&self, client: &ClientId) -> MutexGuard<'_, ()> {
        self.changes.of(client).await
    }

    /// Subscribes a connected client. An existing subscription stays unchanged (2.20), except that it gets these options.
    ///
    /// A persistent subscription is on disk when this returns (2.13). The subscription is active before the retained
    /// message is read, so that message may arrive twice but is never missed (2.12).
    pub(crate) async fn subscribe(
        &self,
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
        &self,
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
                self.subscribers.remove(outbox, channel);
                return Err(unclear(outbox, error));
            }
            self.shares.members_have_changed(channel).await;
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
        match self.commits.change(outbox, operation).await? {
            Outcome::FilterSubscribed => Ok(false),
            Outcome::Unsubscribed(existed) => Ok(existed),
            _ => Err(HubError::Store),
        }
    }

    /// Replaces the options of a subscription; those of a persistent one are on disk when this returns.
    async fn change_options(
        &self,
        subscription: &Arc<Subscription>,
        options: SubscriptionOptions,
    ) -> Result<(), HubError> {
        let Subscription { client, channel, outbox, .. } = &**subscription;
        outbox.set_options(subscription, options);
        self.subscribers.filters.options_changed();
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
                self.commits.change(outbox, operation).await.map(drop)
            }
        };
        changed.map_err(|error| unclear(outbox, error))?;
        self.shares.members_have_changed(channel).await;
        if options.qos() == Qos::AtMostOnce && channel.kind() == ChannelKind::Control {
            self.readers.end_unneeded(outbox);
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
        match self.retained.push(&subscription.channel).await {
            Ok(retained) => Ok(Subscribed { subscription, retained }),
            Err(error) => {
                match (subscription.persistence(), subscription.stage()) {
                    (Persistence::Temporary, _) if is_new => {
                        self.subscribers.remove(outbox, &subscription.channel)
                    }
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
        if !self.subscribers.add(&subscription).await {
            return Err(HubError::SessionEnded);
        }
        if subscription.stage() == Stage::Ended {
            // The session ended meanwhile, before the subscription was in the channel's list.
            self.subscribers.leave(&subscription);
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
        let Outcome::Subscribed(stored) = self.commits.change(outbox, operation).await? else {
            return Err(HubError::Store);
        };
        subscription.outbox.attach(subscription, &stored);
        if let Some(owner) = outbox.owner_to_store() {
            self.commits.own_session(outbox, client, &owner, None).await?;
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
        match self.commits.change(outbox, operation).await? {
            Outcome::Unsubscribed(existed) => Ok(existed),
            _ => Err(HubError::Store),
        }
    }

    /// Ends a subscription of a connected client; returns `false` if it does not exist. After this returns, no
    /// message of it is pushed, and a persistent subscription is deleted from disk.
    pub(crate) async fn unsubscribe(
        &self,
        outbox: &Arc<Outbox>,
        client: &ClientId,
        channel: &ChannelName,
    ) -> Result<bool, HubError> {
        let _turn = self.change_of(client).await;
        self.unsubscribe_in_turn(outbox, client, channel).await
    }

    pub(super) async fn unsubscribe_in_turn(
        &self,
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
            self.subscribers.remove(outbox, channel);
            self.readers.end_unneeded(outbox);
            if is_stored {
                self.shares.members_have_changed(channel).await;
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
        if subscription.is_reader() && self.readers.is_needed(outbox, channel) {
            self.readers.keep(outbox, &subscription);
        } else {
            self.subscribers.remove(outbox, channel);
        }
        Ok(true)
    }

    /// Subscribes a client for the application; the client is connected to this node or to none. An existing
    /// subscription changes its flag (2.20). The retained message is sent as for `sub`.
    pub(super) async fn force_subscribe_here(
        &self,
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
            self.commits.commit(operation).await?;
            return Ok(());
        };
        let made = self.force_in_turn(&outbox, client, channel, persistence).await?;
        let subscribed = self.with_retained(&outbox, made).await?;
        outbox.open(&subscribed.subscription, None, subscribed.retained);
        self.resumes.begin(&outbox); // a changed flag may have freed a part of the window
        outbox.flush();
        Ok(())
    }

    /// Makes an existing subscription of a connected client persistent, or temporary.
    pub(crate) async fn change_persistence(
        &self,
        outbox: &Arc<Outbox>,
        client: &ClientId,
        channel: &ChannelName,
        persistence: Persistence,
    ) -> Result<(), HubError> {
        let _turn = self.change_of(client).await;
        self.force_in_turn(outbox, client, channel, persistence).await.map(drop)
    }

    pub(super) async fn force_in_turn(
        &self,
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
                    if !self.readers.is_needed(outbox, channel) {
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
        &self,
        client: &ClientId,
        channel: &ChannelName,
    ) -> Result<bool, HubError> {
        let _turn = self.change_of(client).await;
        let Some(outbox) = self.connections.outbox(client.as_str()) else {
            let operation = Operation::Unsubscribe { client: client.clone(), channel: channel.clone() };
            return match self.commits.commit(operation).await? {
                Outcome::Unsubscribed(existed) => Ok(existed),
                _ => Err(HubError::Store),
            };
        };
        let existed = self.unsubscribe_in_turn(&outbox, client, channel).await?;
        self.resumes.begin(&outbox); // its part of the window is free for others (2.14)
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
                let stored = stored.map_err(|error| HubError::of_store(&error, &self.counters))?;
                let own = stored.into_iter().filter(|stored| !stored.options.is_of_filter());
                own.map(|stored| (stored.channel, Persistence::Persistent)).collect()
            }
        };
        list.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(list)
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
