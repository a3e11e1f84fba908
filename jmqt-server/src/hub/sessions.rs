//! The beginning and the end of a session (protocol.md 2.2, 2.3, 2.16).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::try_join_all;
use jmqt_core::{ChannelName, ClientId, Persistence, Qos};
use jmqt_mqtt::{Filter, name_to_topic};
use tokio::task::yield_now;
use tokio::time::{Instant, timeout};

use super::commits::STORE_TIMEOUT;
use super::connections::{Claim, Connections, Registered};
use super::filters::name_of;
use super::groups::name_of_share;
use super::{Hub, HubError, NewWill};
use crate::connection::{CloseReason, ConnectionInfo};
use crate::log_limit::log_limited;
use crate::message::Message;
use crate::options::SubscriptionOptions;
use crate::outbox::{LogState, Outbox, Redelivery, Stage};
use crate::store::{
    BeginSession, Exchanges, Operation, Order, Outcome, Sent, SentStep, StoredFilter, StoredSubscription,
    Unanswered,
};

/// The time limit for a `conn` to wait for the client's older session to end.
const TAKEOVER_TIMEOUT: Duration = Duration::from_secs(60);
/// The time limit for the last pushes of an ending session to be sent to other nodes.
const SENT_TIMEOUT: Duration = Duration::from_secs(1);

/// The number of subscriptions after which the loop yields.
const SUBSCRIPTIONS_PER_TURN: usize = 256;

/// A call that a connection validator made through the handle of its request (2.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Recorded {
    Subscribe(ChannelName, Persistence),
    Unsubscribe(ChannelName),
    Publish(Message),
}

/// A `conn` that the application has accepted.
pub(crate) struct NewSession<'a> {
    pub(crate) client: &'a ClientId,
    pub(crate) outbox: &'a Arc<Outbox>,
    pub(crate) info: ConnectionInfo,
    pub(crate) window: u32,
    pub(crate) redelivery: Redelivery,
    pub(crate) recorded: Vec<Recorded>,
    /// MAX_TAKEOVERS_PER_SECOND.
    pub(crate) takeovers_per_second: Option<u32>,
    /// The user to whom the session belongs.
    pub(crate) owner: Option<Box<str>>,
    /// The revision of the permissions, for a new session.
    pub(crate) checked: Option<i64>,
    /// `None`: a JMQT session, which is subscribed to the point-to-point channel of its client from the beginning.
    pub(crate) mqtt: Option<MqttSession>,
}

/// The session that an MQTT client wants.
#[derive(Debug)]
pub(crate) struct MqttSession {
    /// Everything that earlier sessions have stored is deleted.
    pub(crate) is_clean: bool,
    /// The seconds for which the session outlives its connection.
    pub(crate) expiry: u32,
    pub(crate) will: Option<NewWill>,
}

/// A session that exists, and to which nothing has been sent.
pub(crate) struct OpenedSession {
    pub(crate) generation: u64,
    /// The channels whose retained messages are to be sent, if they have one.
    pub(crate) retained: Vec<ChannelName>,
    /// An earlier session continues.
    pub(crate) is_resumed: bool,
    /// The store knows the session, so its end must be recorded.
    pub(crate) is_stored: bool,
    /// The revision of the permissions for which the subscriptions of a resumed session were validated.
    pub(crate) checked: Option<i64>,
    /// The next `conn` of this client waits until the caller has recorded the session.
    pub(crate) claim: Claim,
}

/// What a session has left in the tables and the store.
pub(crate) struct LeftTables {
    /// The session had persistent subscriptions, or may have had some.
    pub(crate) was_persistent: bool,
    pub(crate) unanswered: Unanswered,
}

/// Removes a session from the table if opening it fails or is cancelled.
struct Unfinished<'a>(Option<(&'a Connections, &'a ClientId)>);

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if let Some((connections, client)) = self.0 {
            connections.unregister(client);
        }
    }
}

/// A session that was begun in the store. If it is not [opened](Self::opened), its end is recorded: otherwise the store
/// would count the client as connected, and the session would never expire.
struct Begun {
    hub: Option<Arc<Hub>>,
    client: ClientId,
    generation: u64,
    has_will: bool,
}

impl Begun {
    fn opened(mut self) {
        self.hub = None;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let Some(hub) = self.hub.take() else { return };
        let (client, generation, has_will) = (self.client.clone(), self.generation, self.has_will);
        if has_will {
            hub.janitor.forget_will(&client, generation); // before the end of the session makes it due
        }
        tokio::spawn(async move {
            // If the caller has given up, the operation may still be in the queue.
            hub.commits.settle(Order::Of(hub.commits.source_of(&client))).await;
            if has_will {
                hub.janitor.forget_will(&client, generation);
            }
            hub.janitor.forget_session(&client, generation);
        });
    }
}

/// The stored state of a session that opens.
struct Restored {
    /// The channels of its subscriptions.
    channels: Vec<ChannelName>,
    is_resumed: bool,
    checked: Option<i64>,
    begun: Option<Begun>,
    /// The QoS 2 exchanges of earlier connections.
    exchanges: Exchanges,
}

/// The number of subscriptions to different channels at the beginning of the recorded calls.
fn subscribed_together(recorded: &[Recorded]) -> usize {
    let mut channels = HashSet::new();
    let subscribes = recorded.iter().take(SUBSCRIPTIONS_PER_TURN).map_while(|recorded| match recorded {
        Recorded::Subscribe(channel, _) => Some(channel),
        _ => None,
    });
    subscribes.take_while(|channel| channels.insert(*channel)).count().max(1)
}

impl Hub {
    /// Opens the session of an accepted `conn`, in the order of protocol.md 2.2, up to the `connAck`.
    ///
    /// # Errors
    /// The store failed, or an older session did not end in time. There is no session then.
    ///
    /// # Cancel safety
    /// If the future is dropped early, there is no session; the caller clears the tables with
    /// [`close_tables`](Self::close_tables).
    pub(crate) async fn open_session(
        self: &Arc<Self>,
        new: NewSession<'_>,
    ) -> Result<OpenedSession, HubError> {
        self.check_owner(&new).await?;
        let claim = self.connections.claim_within(new.client, new.info, new.takeovers_per_second);
        let Ok(claim) = timeout(TAKEOVER_TIMEOUT, claim).await else {
            log_limited!(error, target: "jmqt::session", client = %new.client, "the older session of the client did not end in time");
            return Err(HubError::SessionEnded);
        };
        let claim = claim.map_err(HubError::TooManyTakeovers)?;
        let mut entered = match &self.cluster {
            Some(cluster) => {
                let janitor = &self.janitor;
                let begun =
                    cluster.begin_session(&self.connections, janitor, &claim, new.client, new.info).await;
                if matches!(begun, Err(HubError::Superseded)) {
                    // The newer one wins (2.4), unless this node has to end all that it has.
                    new.outbox.close_saying(CloseReason::Takeover, cluster.why_called_off());
                }
                Some(begun?)
            }
            None => None,
        };
        let generation = match &entered {
            Some(session) => session.generation,
            None => self.janitor.next_generation(),
        };
        new.outbox.set_window(new.window, new.redelivery);
        if let Some(owner) = &new.owner {
            new.outbox.set_owner(owner.clone());
        }
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let since = u32::try_from(since).unwrap_or(u32::MAX);
        let registered = Registered { outbox: Arc::clone(new.outbox), info: new.info, generation, since };
        self.connections.register(&claim, registered);
        let mut unfinished = Unfinished(Some((&self.connections, new.client)));
        if let (Some(cluster), Some(session)) = (&self.cluster, &mut entered) {
            if !session.registered() {
                new.outbox.close_saying(CloseReason::Takeover, cluster.why_called_off());
            }
            cluster.announce(new.client, generation, new.info).await;
        }
        let Restored { channels: retained, is_resumed, checked, begun, .. } =
            match self.restore_and_carry_out(&new, generation).await {
                Ok(restored) => restored,
                Err(error) => {
                    self.close_tables(new.outbox).await;
                    return Err(error);
                }
            };
        unfinished.0 = None;
        let is_stored = begun.is_some();
        if let Some(begun) = begun {
            begun.opened();
        }
        match entered {
            Some(session) => drop(session.keep()),
            None => self.janitor.session_opened(new.client, generation, new.info),
        }
        self.counters.sessions_opened.increment();
        Ok(OpenedSession { generation, retained, is_resumed, is_stored, checked, claim })
    }

    /// Refuses a client whose id belongs to another user, before anything of the existing session changes.
    async fn check_owner(&self, new: &NewSession<'_>) -> Result<(), HubError> {
        let Some(owner) = &new.owner else { return Ok(()) };
        let present = self.connections.outbox(new.client.as_str()).and_then(|outbox| outbox.owner());
        let is_others = |other: Option<Box<str>>| other.is_some_and(|other| other != *owner);
        if is_others(present)
            || is_others(
                self.store.session_owner(new.client).await.map_err(|error| self.store_failed(&error))?,
            )
        {
            return Err(HubError::OfAnotherOwner);
        }
        Ok(())
    }

    /// Sends the messages that were held until the `connAck` (2.3).
    pub(crate) fn go_live(self: &Arc<Self>, outbox: &Arc<Outbox>) {
        outbox.go_live();
        self.shares.give_to_all(outbox);
        self.resumes.begin(outbox); // what has been logged since the first window
    }

    async fn restore_and_carry_out(
        self: &Arc<Self>,
        new: &NewSession<'_>,
        generation: u64,
    ) -> Result<Restored, HubError> {
        let mut restored = self.restore(new, generation).await?;
        self.restore_exchanges(new, &restored);
        self.carry_out(new, &mut restored.channels).await?;
        let own = ChannelName::of_client(new.client);
        if new.mqtt.is_none() && new.outbox.subscription(own.as_str()).is_none() {
            self.subscriptions
                .insert(
                    new.outbox,
                    new.client,
                    &own,
                    SubscriptionOptions::JMQT,
                    Stage::Live,
                    LogState::Temporary,
                )
                .await?;
        }
        Ok(restored)
    }

    /// Begins the session in the store, if the store has to know of it, and returns its subscriptions.
    async fn begin_stored(
        self: &Arc<Self>,
        new: &NewSession<'_>,
        generation: u64,
    ) -> Result<(Restored, Vec<StoredSubscription>), HubError> {
        let stored = self.store.session(new.client).await.map_err(|error| self.store_failed(&error))?;
        let is_known = match (&new.mqtt, &stored) {
            (Some(mqtt), None) => mqtt.expiry > 0 || mqtt.will.is_some(),
            (Some(_), Some(_)) => true,
            // From now on the session of an MQTT client lasts as long as JMQT sessions do, and its will is not published.
            (None, stored) => {
                stored.as_ref().is_some_and(|stored| stored.expiry.is_some() || stored.has_will)
            }
        };
        if let (Some(owner), Some(stored)) = (&new.owner, &stored)
            && new.mqtt.is_none()
        {
            // What follows may store nothing of a JMQT client.
            self.commits.own_session(new.outbox, new.client, owner, stored.owner.as_deref()).await?;
        }
        let (mut is_resumed, mut begun) = (stored.is_some(), None);
        if is_known {
            let mqtt = new.mqtt.as_ref();
            let will = mqtt.and_then(|mqtt| mqtt.will.as_ref());
            let client = new.client.clone();
            begun = Some(Begun { hub: Some(Arc::clone(self)), client, generation, has_will: will.is_some() });
            let operation = Operation::BeginSession(BeginSession {
                client: new.client.clone(),
                generation: if mqtt.is_some() { generation } else { 0 },
                is_clean: mqtt.is_some_and(|mqtt| mqtt.is_clean),
                expiry: mqtt.map(|mqtt| mqtt.expiry),
                now: SystemTime::now(),
                owner: new.owner.clone(),
                checked: new.checked,
                will: will
                    .map(|will| Box::new(will.stored(new.client, generation, &self.janitor.node, new.info))),
            });
            is_resumed = match self.commits.change(new.outbox, operation).await? {
                Outcome::Begun { is_resumed } => is_resumed,
                Outcome::OfAnotherOwner => return Err(HubError::OfAnotherOwner),
                _ => return Err(HubError::Store),
            };
        }
        if is_resumed || new.mqtt.is_some() && begun.is_some() {
            new.outbox.owner_is_stored();
        }
        let stored = stored.filter(|_| is_resumed);
        let checked = stored.as_ref().and_then(|stored| stored.checked);
        let subscriptions = stored.map(|stored| stored.subscriptions);
        let exchanges = Exchanges::default();
        let restored = Restored { channels: Vec::new(), is_resumed, checked, begun, exchanges };
        Ok((restored, subscriptions.unwrap_or_default()))
    }

    /// Continues the QoS 2 exchanges of earlier connections, if the store keeps them.
    fn restore_exchanges(&self, new: &NewSession<'_>, restored: &Restored) {
        let Some(mqtt) = new.mqtt.as_ref().filter(|_| restored.begun.is_some()) else { return };
        // If the session ends with this connection, only earlier exchanges are completed.
        if mqtt.expiry > 0 || restored.exchanges != Exchanges::default() {
            new.outbox.keep_exchanges(new.client, &restored.exchanges);
        }
    }

    /// Begins the session in the store, and adds its persistent subscriptions to the tables.
    async fn restore(self: &Arc<Self>, new: &NewSession<'_>, generation: u64) -> Result<Restored, HubError> {
        let _turn = self.subscriptions.change_of(new.client).await;
        let (mut restored, mut stored) = self.begin_stored(new, generation).await?;
        let is_stored = new.mqtt.as_ref().is_some_and(|mqtt| mqtt.expiry > 0);
        new.outbox.set_stored(is_stored);
        if new.mqtt.is_some() && restored.begun.is_some() && restored.is_resumed {
            // Before the cursors: a node that was believed dead may still save a cursor, and then delete the records of the
            // messages behind it.
            let read = self.store.exchanges(new.client).await;
            restored.exchanges = read.map_err(|error| self.store_failed(&error))?;
            // Of cursors that were deleted with their subscriptions.
            let cursors: HashSet<_> = stored.iter().map(|stored| stored.key).collect();
            let has_cursor = |sent: &Sent| sent.place.is_some_and(|(key, _)| cursors.contains(&key));
            restored.exchanges.sent.retain(|sent| sent.step != SentStep::Perhaps || has_cursor(sent));
        }
        self.restore_filters(new, restored.is_resumed, &stored).await?;
        let has_filters = new.outbox.has_filters();
        // Other cursors for filters are read with the next message.
        stored.retain(|stored| {
            !stored.options.is_of_filter()
                || stored.is_behind()
                    && new.outbox.subscription(stored.channel.as_str()).is_none()
                    && self.readers.is_needed(new.outbox, &stored.channel)
        });
        if stored.is_empty() && !has_filters {
            return Ok(restored);
        }
        // In parallel: each waits until other nodes know of it.
        for turn in stored.chunks(SUBSCRIPTIONS_PER_TURN) {
            let inserted = turn.iter().map(|stored| {
                let log = LogState::Attaching { seen: None };
                let options = match &new.mqtt {
                    // A JMQT client on the session of an MQTT client.
                    None if !stored.options.is_of_filter() => SubscriptionOptions::JMQT,
                    _ => stored.options,
                };
                self.subscriptions.insert(new.outbox, new.client, &stored.channel, options, Stage::Live, log)
            });
            try_join_all(inserted).await?;
            yield_now().await;
        }
        drop(stored);
        // Read again, because from now on every logged message is offered.
        let stored = self.store.subscriptions(new.client).await.map_err(|error| self.store_failed(&error))?;
        for turn in stored.chunks(SUBSCRIPTIONS_PER_TURN) {
            for stored in turn {
                let reader = new.outbox.subscription(stored.channel.as_str()).filter(|it| it.is_reader());
                if let Some(reader) = reader {
                    if stored.options.is_of_filter() {
                        drop(self.subscribers.of(&stored.channel)); // it stands for the filters
                    }
                    new.outbox.attach(&reader, stored);
                } else if stored.is_behind()
                    && let Some(filter) = self.subscribers.filters.lacking_reader(new.outbox, &stored.channel)
                {
                    self.readers.begin(&filter, &stored.channel, (stored.key, stored.last));
                }
            }
            yield_now().await;
        }
        let own = stored.into_iter().filter(|stored| !stored.options.is_of_filter());
        restored.channels = own.map(|stored| stored.channel).collect();
        Ok(restored)
    }

    /// Adds the client's stored subscriptions with filters, and those with QoS 0, to the tables.
    async fn restore_filters(
        &self,
        new: &NewSession<'_>,
        is_resumed: bool,
        places: &[StoredSubscription],
    ) -> Result<(), HubError> {
        if !is_resumed {
            return Ok(());
        }
        let mut stored = self.store.filters(new.client).await.map_err(|error| self.store_failed(&error))?;
        // The client got a place in the log instead, and the connection was cut before the next step.
        let own = places.iter().filter(|place| !place.options.is_of_filter());
        let own: HashSet<_> = own.map(|place| name_to_topic(place.channel.as_str())).collect();
        for outdated in stored.extract_if(.., |stored| own.contains(&*stored.filter)) {
            self.subscriptions.keep_filter(new.outbox, new.client, &outdated.filter, None).await?;
        }
        for turn in stored.chunks(SUBSCRIPTIONS_PER_TURN) {
            let inserted = turn.iter().filter_map(|StoredFilter { filter, options }| {
                let (name, log) = match Filter::parse(filter).ok()? {
                    filter if filter.group().is_some() => (name_of_share(filter)?, LogState::Filter),
                    filter if filter.has_wildcard() => {
                        // Without a cursor, it needs no reader, also if a JMQT client resumes the session.
                        let has_cursors = options.qos() != Qos::AtMostOnce || new.mqtt.is_some();
                        let log = if has_cursors { LogState::Filter } else { LogState::Temporary };
                        (name_of(filter)?, log)
                    }
                    filter => (ChannelName::exact(&filter.channel()?).ok()?, LogState::Temporary),
                };
                let options = match (&new.mqtt, options.is_shared()) {
                    (None, true) => SubscriptionOptions::JMQT.shared(),
                    (None, false) => SubscriptionOptions::JMQT,
                    (Some(_), _) => *options,
                };
                Some(async move {
                    self.subscriptions.insert(new.outbox, new.client, &name, options, Stage::Live, log).await
                })
            });
            try_join_all(inserted).await?;
            yield_now().await;
        }
        Ok(())
    }

    /// Executes the calls that the connection validator recorded, in order.
    async fn carry_out(
        self: &Arc<Self>,
        new: &NewSession<'_>,
        retained: &mut Vec<ChannelName>,
    ) -> Result<(), HubError> {
        // The list may be long, so channels are looked up in a set.
        let mut listed: HashSet<ChannelName, foldhash::fast::RandomState> =
            retained.iter().cloned().collect();
        let mut recorded = &new.recorded[..];
        while let [first, rest @ ..] = recorded {
            match first {
                Recorded::Subscribe(..) => {
                    let (together, rest) = recorded.split_at(subscribed_together(recorded));
                    recorded = rest;
                    let _turn = self.subscriptions.change_of(new.client).await;
                    let subscribe = together.iter().filter_map(|recorded| match recorded {
                        Recorded::Subscribe(channel, persistence) => Some((channel, *persistence)),
                        _ => None,
                    });
                    // At once, so that the store commits few batches instead of one per channel. The
                    // retained messages are read when there is room for them.
                    try_join_all(subscribe.clone().map(|(channel, persistence)| {
                        self.subscriptions.force_in_turn(new.outbox, new.client, channel, persistence)
                    }))
                    .await?;
                    let channels = subscribe.map(|(channel, _)| channel);
                    retained.extend(channels.filter(|channel| listed.insert((*channel).clone())).cloned());
                    yield_now().await;
                    continue;
                }
                Recorded::Unsubscribe(channel) => {
                    self.subscriptions.unsubscribe(new.outbox, new.client, channel).await?;
                }
                Recorded::Publish(message) => match self.publish(message.clone()).await {
                    Err(HubError::TooManyRetained) => {} // which has been logged: the client may come in
                    published => published?,
                },
            }
            recorded = rest;
            yield_now().await;
        }
        Ok(())
    }

    /// Removes a session from the tables. Afterwards it receives no pushes, and its cursors are on disk.
    pub(crate) async fn close_tables(&self, outbox: &Arc<Outbox>) -> LeftTables {
        self.resumes.confirm_early_acks(outbox).await;
        let unanswered = self.commits.record_unanswered(outbox).await;
        let mut moved = outbox.take_moved();
        let mut persistent = outbox.is_changing();
        while let Some(subscriptions) = outbox.remove_subscriptions(SUBSCRIPTIONS_PER_TURN) {
            for subscription in &subscriptions {
                persistent |= subscription.persistence() == Persistence::Persistent;
                if let Some(group) = subscription.group() {
                    moved.cursors.extend(group.take_moved().cursors);
                }
                self.subscribers.leave(subscription);
            }
            drop(subscriptions);
            yield_now().await;
        }
        if !moved.cursors.is_empty() || !moved.complete.is_empty() {
            self.janitor.save(moved).await;
        }
        LeftTables { was_persistent: persistent, unanswered }
    }

    /// Waits until the operations of a session are finished. Otherwise a later session of the client, here or on
    /// another node, could overtake them (2.10), or read subscriptions that are about to change.
    pub(crate) async fn settle_session(&self, client: Option<&ClientId>, outbox: &Outbox) {
        if outbox.is_with_store() {
            // If the session has not begun, its client is not known any more.
            let order = client.map_or(Order::AfterAll, |client| Order::Of(self.commits.source_of(client)));
            self.commits.settle(order).await;
            // Steps of exchanges may have been waiting for room in the queue.
            let steps = async {
                while let (true, Some(client)) = (outbox.is_recording(), client) {
                    self.commits.settle(Order::Of(self.commits.source_of(client))).await;
                    if self.commits.queue.closed().is_cancelled() {
                        break;
                    }
                    yield_now().await;
                }
            };
            drop(timeout(STORE_TIMEOUT, steps).await);
            if let Some(client) = client.filter(|_| outbox.has_unsettled()) {
                // The client repeats its publishes on its next connection, perhaps to another node. Those that still wait must
                // not follow later.
                drop(self.commits.queue.fail_behind(&[self.commits.source_of(client)]));
            }
        }
        if self.cluster.is_some() {
            drop(timeout(SENT_TIMEOUT, self.bus.sent()).await);
        }
    }

    /// Returns `true` if this node runs the close notifier of its session (protocol.md 2.16). The caller must run it at once, or
    /// ask [again](Self::claims_still).
    pub(crate) async fn claim_close(&self, client: &ClientId, generation: u64, info: ConnectionInfo) -> bool {
        match &self.cluster {
            Some(cluster) => {
                cluster.session_closed(client, generation); // it receives nothing any more
                cluster.claim_freshly(client, generation, info, None).await
            }
            None => true,
        }
    }

    /// Returns `true` if a session that this node has claimed after `since` has not been claimed by another node.
    pub(crate) async fn claims_still(
        &self,
        client: &ClientId,
        generation: u64,
        info: ConnectionInfo,
        since: Instant,
    ) -> bool {
        match &self.cluster {
            Some(cluster) => cluster.claim_freshly(client, generation, info, Some(since)).await,
            None => true,
        }
    }

    /// Ends a session after its close notifier has run on this or another node. The next `conn` of this client
    /// continues.
    pub(crate) async fn close_session(
        &self,
        client: &ClientId,
        generation: u64,
        is_known: bool,
        was_notified: bool,
        unanswered: Unanswered,
    ) {
        if was_notified {
            let is_known = is_known || self.cluster.is_some();
            self.janitor.session_closed(client, generation, is_known, unanswered).await;
        }
        self.revalidations.answer(client, None);
        self.connections.unregister(client);
        self.counters.sessions_closed.increment();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use crate::Protocol;
    use crate::store::{ChannelKey, Cursor, Double, Seq};

    #[tokio::test]
    async fn subscriptions_of_a_conn_validator_are_committed_together() {
        let commits = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&commits);
        let commit = move |batch: &[Operation]| {
            counted.fetch_add(1, Ordering::SeqCst);
            let subscribed = |operation: &Operation| match operation {
                Operation::Subscribe { channel, .. } => {
                    let key = ChannelKey(channel.as_str().parse().unwrap());
                    let (channel, cursor, last) = (channel.clone(), Cursor::default(), Seq(0));
                    Outcome::Subscribed(StoredSubscription {
                        channel,
                        key,
                        cursor,
                        last,
                        options: SubscriptionOptions::JMQT,
                    })
                }
                other => panic!("{other:?}"),
            };
            Ok(batch.iter().map(subscribed).collect())
        };
        let hub = Hub::over(Double { commit: Box::new(commit), ..Double::default() });
        let (client, outbox) = (ClientId::parse("bob").unwrap(), hub.outbox());
        let channel = |number: u64| ChannelName::parse(&number.to_string()).unwrap();
        let subscribe = |number| Recorded::Subscribe(channel(number), Persistence::Persistent);
        let mut recorded: Vec<_> = (0..50).map(subscribe).collect();
        recorded.push(subscribe(7)); // again
        let opened = hub.open_session(NewSession {
            client: &client,
            outbox: &outbox,
            info: ConnectionInfo { remote: ([127, 0, 0, 1], 1).into(), protocol: Protocol::Socket },
            window: 128,
            redelivery: Redelivery::AtOnce,
            recorded,
            takeovers_per_second: None,
            owner: None,
            checked: None,
            mqtt: None,
        });
        let opened = opened.await.unwrap();
        assert_eq!(opened.retained, (0..50).map(channel).collect::<Vec<_>>());
        assert_eq!(outbox.subscription_counts("#bob"), (50, 50));
        assert!(!outbox.is_changing());
        let commits = commits.load(Ordering::SeqCst);
        assert!(commits <= 3, "{commits} commits");
    }
}
