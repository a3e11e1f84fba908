//! Carries out a batch in memory: computes the outcome of each operation, and the changed rows.
//!
//! This module does not access a database. The rows that the operations need are inserted first; other
//! rows count as missing.

use std::collections::{BTreeMap, HashMap};
use std::num::NonZeroU16;
use std::time::SystemTime;

use jmqt_core::{ChannelName, ClientId};

use crate::name_map::NameMap;

use super::client_row::ClientRow;
use super::publisher::Seen;
use super::retained::{RetainedBy, RetainedRoom};
use super::time::millis;
use super::{
    Append, BeginSession, ChannelKey, Cursor, LogPlace, Operation, Outcome, PublishId, PublisherId, Retained,
    Sent, Seq, Stamp, StoredSubscription, StoredWill, SubscriptionOptions, WillKey,
};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// A channel's row.
#[derive(Debug, Clone, Copy)]
pub(super) struct ChannelRow {
    pub(super) key: ChannelKey,
    pub(super) last: Seq,
    pub(super) persistent: u64,
    pub(super) bytes: u64,
}

/// A channel, before and after the batch.
#[derive(Debug)]
pub(super) struct Channel<'b> {
    /// `None` if no operation names it: a subscription of an ended session was found there.
    pub(super) name: Option<&'b ChannelName>,
    pub(super) key: Option<ChannelKey>,
    /// `true` if it has a row in the database.
    pub(super) stored: bool,
    pub(super) last: Seq,
    /// The total payload bytes ever logged in the channel.
    pub(super) bytes: u64,
    /// The number of its persistent subscriptions.
    pub(super) persistent: u64,
    /// `true` if `last` or `persistent` differs from the row.
    pub(super) changed: bool,
    /// The size of the retained message, if there is one.
    retained_bytes: Option<u64>,
    /// When the retained message expires, in milliseconds since 1970.
    retained_until: Option<i64>,
    /// The client that has set it.
    retained_by: Option<ClientId>,
    /// The retained message, if an operation set it.
    pub(super) retained: Option<Retained>,
    pub(super) retained_changed: bool,
    /// `true` if a subscription or the retained message was removed.
    pub(super) left: bool,
}

impl<'b> Channel<'b> {
    fn unknown(name: Option<&'b ChannelName>) -> Self {
        Self {
            name,
            key: None,
            stored: false,
            last: Seq(0),
            bytes: 0,
            persistent: 0,
            changed: false,
            retained_bytes: None,
            retained_until: None,
            retained_by: None,
            retained: None,
            retained_changed: false,
            left: false,
        }
    }

    /// Returns `true` if the channel needs a row.
    fn needs_row(&self) -> bool {
        self.persistent > 0 || self.last > Seq(0) || self.retained_bytes.is_some()
    }
}

/// A subscription, before and after the batch.
#[derive(Debug, Default)]
struct Subscription {
    before: Option<(Cursor, SubscriptionOptions)>,
    now: Option<(Cursor, SubscriptionOptions)>,
}

/// A filter of a client, before and after the batch.
#[derive(Debug, Default)]
struct FilterRow {
    before: Option<SubscriptionOptions>,
    now: Option<SubscriptionOptions>,
}

/// A client whose session begins or changes, before and after the batch.
#[derive(Debug, Default)]
struct Client {
    before: Option<ClientRow>,
    now: Option<ClientRow>,
    /// The indexes of the channels of its subscriptions, if its session may end.
    subscribed: Vec<usize>,
    /// The session that existed before has ended.
    has_ended: bool,
    /// The time at which the session begins, in milliseconds since 1970.
    begins_at: Option<i64>,
    /// Wills of earlier connections are not due yet.
    has_pending_will: bool,
    /// These wills change: the session was resumed, or not.
    pending_wills: Option<bool>,
}

/// Whether a will has been published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fired {
    No,
    Yes,
}

/// A publisher that uses publishing once (protocol.md 2.23).
#[derive(Debug)]
pub(super) struct Publisher<'b> {
    pub(super) client: &'b ClientId,
    pub(super) id: &'b PublisherId,
    /// The ids of its accepted publishes.
    pub(super) seen: Seen,
    /// `true` if it has a row in the database.
    pub(super) stored: bool,
    /// `true` if the row must be written, because one of its messages is stored.
    pub(super) changed: bool,
}

/// The key that no channel has, for messages that are in no log.
pub(super) const NO_CHANNEL: ChannelKey = ChannelKey(0);

/// The packet identifier of a QoS 2 publish of a client.
pub(super) type Received<'b> = (&'b ClientId, NonZeroU16);

/// Whether a packet identifier is recorded, before and after the batch.
#[derive(Debug, Clone, Copy)]
struct IsRecorded {
    before: bool,
    now: bool,
}

/// A message for the log.
#[derive(Debug)]
pub(super) struct Logged<'b> {
    pub(super) key: ChannelKey,
    pub(super) seq: Seq,
    /// The total payload bytes logged in the channel before this message.
    pub(super) bytes_before: u64,
    pub(super) append: &'b Append,
}

/// A batch in progress.
#[derive(Debug)]
pub(super) struct Plan<'b> {
    /// The stamp of the messages of this batch.
    stamp: Stamp,
    channels: Vec<Channel<'b>>,
    by_name: NameMap<&'b ChannelName, usize>,
    /// The index of the channel of the last append.
    last_index: usize,
    by_key: Map<ChannelKey, usize>,
    subscriptions: NameMap<(ChannelKey, &'b ClientId), Subscription>,
    /// The filters that the operations change.
    filters: NameMap<(&'b ClientId, &'b str), FilterRow>,
    /// The clients whose sessions begin or change.
    clients: NameMap<&'b ClientId, Client>,
    /// The wills that the operations publish.
    firing: Vec<&'b WillKey>,
    /// Those that exist.
    wills: NameMap<&'b WillKey, Fired>,
    /// The wills of new connections.
    new_wills: Vec<&'b StoredWill>,
    /// In the order of client and id.
    publishers: Vec<Publisher<'b>>,
    received: BTreeMap<Received<'b>, IsRecorded>,
    sent: Vec<&'b Sent>,
    /// The logs of resumed sessions whose messages may have been sent.
    perhaps_sent: Vec<Sent>,
    messages: Vec<Logged<'b>>,
    /// The totals of all retained messages.
    room: RetainedRoom,
    /// The numbers of retained messages of the clients that the batch concerns.
    retained_by: RetainedBy,
}

impl<'b> Plan<'b> {
    /// Collects the channels that the operations of `batch` may concern. `may_be_retained` avoids reading
    /// retained messages that do not exist.
    pub(super) fn new(
        batch: &'b [Operation],
        stamp: Stamp,
        may_be_retained: impl Fn(&ChannelName) -> bool,
    ) -> Self {
        let mut plan = Self {
            stamp,
            channels: Vec::new(),
            by_name: NameMap::default(),
            last_index: 0,
            by_key: Map::default(),
            subscriptions: NameMap::default(),
            filters: NameMap::default(),
            clients: NameMap::default(),
            firing: Vec::new(),
            wills: NameMap::default(),
            new_wills: Vec::new(),
            publishers: publishers(batch),
            received: received(batch),
            sent: Vec::new(),
            perhaps_sent: Vec::new(),
            messages: Vec::new(),
            room: RetainedRoom::default(),
            retained_by: RetainedBy::default(),
        };
        for operation in batch {
            match operation {
                Operation::Append(append) => plan.note_channel_of(append),
                Operation::FireWill(fire) => {
                    plan.firing.push(&fire.will);
                    plan.note_channel_of(&fire.append);
                }
                Operation::Subscribe { channel, .. }
                | Operation::Unsubscribe { channel, .. }
                | Operation::BeginCursor { channel, .. }
                | Operation::EndCursor { channel, .. }
                | Operation::EndIdleCursor { channel, .. } => {
                    plan.note(channel);
                }
                Operation::SubscribeFilter { client, filter, .. }
                | Operation::UnsubscribeFilter { client, filter } => {
                    plan.filters.entry((client, filter)).or_default();
                }
                Operation::ClearRetained { channel } | Operation::ExpireRetained { channel, .. } => {
                    if may_be_retained(channel) {
                        plan.note(channel);
                    }
                }
                Operation::Release { .. } => {}
                Operation::BeginSession(begin) => {
                    plan.clients.entry(&begin.client).or_default().begins_at = Some(millis(begin.now));
                }
                Operation::SetExpiry { client, .. }
                | Operation::SetOwner { client, .. }
                | Operation::SetChecked { client, .. } => {
                    plan.clients.entry(client).or_default();
                }
                Operation::Send(steps) => plan.sent.extend(steps),
            }
        }
        plan
    }

    fn note_channel_of(&mut self, append: &'b Append) {
        if append.log || append.retain {
            self.note(&append.channel);
        }
    }

    fn note(&mut self, name: &'b ChannelName) {
        if self.channels.last().is_some_and(|last| last.name == Some(name)) {
            return;
        }
        let next = self.channels.len();
        if *self.by_name.entry(name).or_insert(next) == next {
            self.channels.push(Channel::unknown(Some(name)));
        }
    }

    /// Returns `true` if the operations concern nothing that is stored.
    pub(super) fn concerns_nothing(&self) -> bool {
        self.channels.is_empty()
            && self.clients.is_empty()
            && self.received.is_empty()
            && self.filters.is_empty()
            && self.sent.is_empty()
            && self.firing.is_empty()
    }

    /// The wills that the operations publish, in order.
    pub(super) fn wills_to_load(&self) -> Vec<&'b WillKey> {
        let mut wills = self.firing.clone();
        wills.sort_unstable();
        wills.dedup();
        wills
    }

    /// Inserts a will that exists and that the operations publish.
    pub(super) fn put_will(&mut self, will: &'b WillKey) {
        self.wills.insert(will, Fired::No);
    }

    /// The clients whose sessions begin, in order, and the time.
    pub(super) fn beginning(&self) -> Vec<(&'b ClientId, i64)> {
        let beginning = self.clients.iter().filter_map(|(client, it)| Some((*client, it.begins_at?)));
        let mut beginning: Vec<_> = beginning.collect();
        beginning.sort_unstable();
        beginning
    }

    /// Records that a client whose session begins has wills that are not due.
    pub(super) fn put_pending_will(&mut self, client: &ClientId) {
        if let Some(client) = self.clients.get_mut(client) {
            client.has_pending_will = true;
        }
    }

    /// The names of the channels.
    pub(super) fn names(&self) -> Vec<&'b ChannelName> {
        self.channels.iter().filter_map(|channel| channel.name).collect()
    }

    /// Inserts the row of a channel; returns `false` if no operation names it.
    pub(super) fn put_channel(&mut self, name: &ChannelName, row: ChannelRow) -> bool {
        let index = self.by_name.get(name).copied();
        if let Some(index) = index {
            self.put_row(index, row);
        }
        index.is_some()
    }

    fn put_row(&mut self, index: usize, row: ChannelRow) {
        let channel = &mut self.channels[index];
        (channel.key, channel.last, channel.persistent) = (Some(row.key), row.last, row.persistent);
        (channel.bytes, channel.stored) = (row.bytes, true);
        self.by_key.insert(row.key, index);
    }

    /// Inserts the row of a channel that no operation names. It is known by its key.
    pub(super) fn put_unnamed_channel(&mut self, row: ChannelRow) {
        if !self.by_key.contains_key(&row.key) {
            self.channels.push(Channel::unknown(None));
            self.put_row(self.channels.len() - 1, row);
        }
    }

    /// Returns `true` if the row of a channel was inserted.
    pub(super) fn has_channel(&self, key: ChannelKey) -> bool {
        self.by_key.contains_key(&key)
    }

    /// The clients whose sessions begin or change, in order.
    pub(super) fn clients(&self) -> Vec<&'b ClientId> {
        let mut clients: Vec<_> = self.clients.keys().copied().collect();
        clients.sort_unstable();
        clients
    }

    /// Inserts the row of a client.
    pub(super) fn put_client(&mut self, client: &ClientId, row: ClientRow) {
        if let Some(client) = self.clients.get_mut(client) {
            (client.before, client.now) = (Some(row.clone()), Some(row));
        }
    }

    /// The clients whose sessions may end, or whose last connection has no record of its end, in order: insert all their
    /// subscriptions. Call this after the clients are inserted.
    pub(super) fn clients_with_cursors(&self, batch: &'b [Operation]) -> Vec<&'b ClientId> {
        let may_end = |operation: &'b Operation| match operation {
            Operation::BeginSession(begin) => {
                let row = self.clients.get(&begin.client)?.before.as_ref()?;
                (begin.is_clean || row.unrecorded != 0 || row.has_ended(begin.now)).then_some(&begin.client)
            }
            _ => None,
        };
        if self.clients.is_empty() {
            return Vec::new();
        }
        let mut clients: Vec<_> = batch.iter().filter_map(may_end).collect();
        clients.sort_unstable();
        clients.dedup();
        clients
    }

    /// Inserts a subscription of a [client with cursors](Self::clients_with_cursors). Call this after the channels are inserted.
    pub(super) fn put_subscription_of(
        &mut self,
        client: &ClientId,
        key: ChannelKey,
        cursor: Cursor,
        options: SubscriptionOptions,
    ) {
        let Some(&index) = self.by_key.get(&key) else { return };
        let Some((&client, _)) = self.clients.get_key_value(client) else { return };
        self.put_subscription(key, client, cursor, options);
        if let Some(client) = self.clients.get_mut(client)
            && !client.subscribed.contains(&index)
        {
            client.subscribed.push(index);
        }
    }

    /// The subscriptions that the operations concern and that may exist in the database. Call this after the
    /// channels are inserted.
    pub(super) fn subscriptions_to_load(&self, batch: &'b [Operation]) -> Vec<(ChannelKey, &'b ClientId)> {
        let pair = |operation: &'b Operation| match operation {
            Operation::Subscribe { client, channel, .. }
            | Operation::Unsubscribe { client, channel }
            | Operation::BeginCursor { client, channel }
            | Operation::EndCursor { client, channel }
            | Operation::EndIdleCursor { client, channel, .. } => {
                let channel = self.channel(channel).filter(|it| it.persistent > 0)?;
                Some((channel.key?, client))
            }
            _ => None,
        };
        let mut pairs: Vec<_> = batch.iter().filter_map(pair).collect();
        pairs.sort_unstable();
        pairs.dedup();
        pairs
    }

    /// The filters that the operations change, in order.
    pub(super) fn filters(&self) -> Vec<(&'b ClientId, &'b str)> {
        let mut filters: Vec<_> = self.filters.keys().copied().collect();
        filters.sort_unstable();
        filters
    }

    /// Inserts a filter.
    pub(super) fn put_filter(&mut self, client: &'b ClientId, filter: &'b str, options: SubscriptionOptions) {
        if let Some(row) = self.filters.get_mut(&(client, filter)) {
            (row.before, row.now) = (Some(options), Some(options));
        }
    }

    /// Inserts a subscription.
    pub(super) fn put_subscription(
        &mut self,
        key: ChannelKey,
        client: &'b ClientId,
        cursor: Cursor,
        options: SubscriptionOptions,
    ) {
        let (before, now) = (Some((cursor.clone(), options)), Some((cursor, options)));
        self.subscriptions.insert((key, client), Subscription { before, now });
    }

    /// The channels whose retained messages the operations replace or clear. Call this after the channels are inserted.
    pub(super) fn retained_to_load(&self, batch: &[Operation]) -> Vec<ChannelKey> {
        let key = |operation: &Operation| match operation {
            Operation::ClearRetained { channel } | Operation::ExpireRetained { channel, .. } => {
                self.channel(channel)?.key
            }
            _ => self.channel(&operation.append().filter(|append| append.retain)?.channel)?.key,
        };
        let mut keys: Vec<_> = batch.iter().filter_map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Inserts the size of the retained message of a channel, when it expires, in milliseconds since 1970, and who has set it.
    pub(super) fn put_retained(
        &mut self,
        key: ChannelKey,
        bytes: u64,
        until: Option<i64>,
        by: Option<ClientId>,
    ) {
        if let Some(&index) = self.by_key.get(&key) {
            let channel = &mut self.channels[index];
            (channel.retained_bytes, channel.retained_until) = (Some(bytes), until);
            channel.retained_by = by;
        }
    }

    /// Returns `true` if the batch has steps of QoS 2 exchanges, which only the node with the client's session may do.
    pub(super) fn has_exchanges(&self) -> bool {
        !self.sent.is_empty() || !self.received.is_empty()
    }

    /// Inserts the totals of all retained messages, and the numbers of those of each client. Call this after the retained
    /// messages are inserted.
    pub(super) fn put_room(&mut self, room: RetainedRoom, by_client: &RetainedBy, batch: &[Operation]) {
        self.room = room;
        if room.limits.messages_per_client.is_some() {
            let before = self.channels.iter().filter_map(|channel| channel.retained_by.as_ref());
            let now = batch.iter().filter_map(Operation::append).filter(|append| append.retain);
            let now = now.filter_map(|append| append.sender.as_ref());
            self.retained_by = by_client.some(before.chain(now));
        }
    }

    /// The numbers of retained messages of the clients that the batch concerned.
    pub(super) fn take_retained_by(&mut self) -> RetainedBy {
        std::mem::take(&mut self.retained_by)
    }

    /// The current totals of all retained messages.
    pub(super) fn room(&self) -> RetainedRoom {
        self.room
    }

    /// The publishers of messages in the batch, in their current state.
    pub(super) fn publishers(&self) -> &[Publisher<'b>] {
        &self.publishers
    }

    /// Inserts a publisher; `stored` if it has a row.
    pub(super) fn put_publisher(&mut self, client: &ClientId, id: &PublisherId, seen: Seen, stored: bool) {
        if let Some(index) = self.publisher(client, id) {
            let publisher = &mut self.publishers[index];
            (publisher.seen, publisher.stored) = (seen, stored);
        }
    }

    /// Returns `true` if no message of the batch can be stored. Call this after the channels are inserted.
    pub(super) fn stores_no_message(&self, batch: &[Operation]) -> bool {
        let may_store = |operation: &Operation| match operation {
            Operation::Subscribe { .. } | Operation::BeginCursor { .. } => true,
            _ => operation.append().is_some_and(|append| append.retain),
        };
        self.channels.iter().all(|channel| channel.persistent == 0) && !batch.iter().any(may_store)
    }

    /// Removes and returns the publishers, after the batch has been written.
    pub(super) fn take_publishers(&mut self) -> Vec<Publisher<'b>> {
        std::mem::take(&mut self.publishers)
    }

    /// The publishers whose rows must be written.
    pub(super) fn changed_publishers(&self) -> Vec<&Publisher<'b>> {
        self.publishers.iter().filter(|it| it.changed).collect()
    }

    /// Returns `true` if a publisher has messages in the batch.
    pub(super) fn has_publisher(&self, client: &ClientId, id: &PublisherId) -> bool {
        self.publisher(client, id).is_some()
    }

    fn publisher(&self, client: &ClientId, id: &PublisherId) -> Option<usize> {
        self.publishers.binary_search_by(|it| (it.client, it.id).cmp(&(client, id))).ok()
    }

    /// The packet identifiers of the batch's QoS 2 publishes, in order.
    pub(super) fn received_to_load(&self) -> Vec<Received<'b>> {
        // Before the batch is carried out, the others are those of `Release` alone, which need not be read.
        self.received.iter().filter(|(_, it)| !it.before).map(|(&key, _)| key).collect()
    }

    /// Inserts a packet identifier that is recorded already.
    pub(super) fn put_received(&mut self, client: &ClientId, packet: NonZeroU16) {
        let mut all = self.received.iter_mut(); // few publishes are repeated
        if let Some((_, recorded)) = all.find(|((of, number), _)| *of == client && *number == packet) {
            *recorded = IsRecorded { before: true, now: true };
        }
    }

    /// The packet identifiers to record.
    pub(super) fn new_received(&self) -> Vec<Received<'b>> {
        self.received.iter().filter(|(_, it)| it.now && !it.before).map(|(&key, _)| key).collect()
    }

    /// The packet identifiers that must not be recorded any more.
    pub(super) fn released(&self) -> Vec<Received<'b>> {
        self.received.iter().filter(|(_, it)| !it.now).map(|(&key, _)| key).collect()
    }

    /// The messages that are sent, and their steps, to record in order.
    pub(super) fn sent(&self) -> Vec<&Sent> {
        self.perhaps_sent.iter().chain(self.sent.iter().copied()).collect()
    }

    /// Carries out the batch. Channels that need a row get their keys from `next_key`.
    pub(super) fn carry_out(&mut self, batch: &'b [Operation], next_key: &mut i64) -> Vec<Outcome> {
        let outcome = |operation: &'b Operation| match operation {
            Operation::Append(append) => match (named(append), received_by(append)) {
                (Some((client, once)), _) => self.append_once(append, client, once, next_key),
                (None, Some(received)) => self.append_received(append, received, next_key),
                (None, None) => self.append(append, next_key),
            },
            Operation::Subscribe { client, channel, options } => {
                self.subscribe(client, channel, *options, next_key)
            }
            Operation::Unsubscribe { client, channel } => self.unsubscribe(client, channel),
            Operation::SubscribeFilter { client, filter, options } => {
                self.set_filter(client, filter, Some(*options));
                Outcome::FilterSubscribed
            }
            Operation::UnsubscribeFilter { client, filter } => {
                Outcome::Unsubscribed(self.set_filter(client, filter, None))
            }
            Operation::BeginCursor { client, channel } => {
                let options = self.subscription(client, channel).unwrap_or(SubscriptionOptions::OF_FILTER);
                self.subscribe(client, channel, options, next_key)
            }
            Operation::EndCursor { client, channel } => {
                match self.subscription(client, channel).is_some_and(SubscriptionOptions::is_of_filter) {
                    true => self.unsubscribe(client, channel),
                    false => Outcome::Unsubscribed(false),
                }
            }
            Operation::EndIdleCursor { client, channel, last } => {
                let is_last =
                    self.channel(channel).is_some_and(|it| (it.key, it.last) == (Some(last.0), last.1));
                let is_of_filter = SubscriptionOptions::is_of_filter;
                if is_last && self.subscription(client, channel).is_some_and(is_of_filter) {
                    self.unsubscribe(client, channel);
                }
                Outcome::IdleCursorEnded(is_last)
            }
            Operation::ClearRetained { channel } => self.clear_retained(channel),
            Operation::ExpireRetained { channel, now } => self.expire_retained(channel, *now),
            Operation::Release { client, packet } => {
                if let Some(recorded) = self.received.get_mut(&(client, *packet)) {
                    recorded.now = false;
                }
                Outcome::Released
            }
            Operation::FireWill(fire) => self.fire_will(&fire.will, &fire.append, next_key),
            Operation::BeginSession(begin) => self.begin_session(begin),
            Operation::SetExpiry { client, expiry } => self.set_expiry(client, *expiry),
            Operation::SetOwner { client, owner } => self.set_owner(client, owner),
            Operation::SetChecked { client, checked } => self.set_checked(client, *checked),
            Operation::Send(_) => Outcome::Sent,
        };
        batch.iter().map(outcome).collect()
    }

    /// Appends a message, unless its publish was accepted before. The publish id is recorded if the message was stored,
    /// and,
    /// if this needs no extra write, if the message was discarded and acknowledged with OK.
    fn append_once(
        &mut self,
        append: &'b Append,
        client: &ClientId,
        once: &PublishId,
        next_key: &mut i64,
    ) -> Outcome {
        let Some(index) = self.publisher(client, &once.publisher) else {
            return self.append(append, next_key);
        };
        if let Some(receiver_is_away) = self.publishers[index].seen.find(once.number) {
            return Outcome::Repeated { receiver_is_away };
        }
        let outcome = self.append(append, next_key);
        if outcome == Outcome::TooManyRetained {
            return outcome; // the publisher may send it again later
        }
        let is_stored = append.retain || matches!(outcome, Outcome::Appended(Some(_)));
        let publisher = &mut self.publishers[index];
        if is_stored || !once.receiver_is_away {
            publisher.seen.insert(once.number, once.receiver_is_away);
        }
        publisher.changed |= is_stored;
        outcome
    }

    /// Appends a message, unless its packet identifier is recorded.
    fn append_received(&mut self, append: &'b Append, received: Received<'b>, next_key: &mut i64) -> Outcome {
        if self.received.get(&received).is_some_and(|recorded| recorded.now) {
            return Outcome::Repeated { receiver_is_away: false };
        }
        let outcome = self.append(append, next_key);
        if outcome != Outcome::TooManyRetained
            && let Some(recorded) = self.received.get_mut(&received)
        {
            recorded.now = true;
        }
        outcome
    }

    fn append(&mut self, append: &'b Append, next_key: &mut i64) -> Outcome {
        let Some(index) = self.index(&append.channel) else {
            return Outcome::Appended(None);
        };
        // An empty message, which only MQTT has, deletes the retained message.
        if append.retain && append.data.is_empty() {
            self.clear_retained(&append.channel);
        } else if append.retain {
            let (before, now) = (self.channels[index].retained_bytes, append.stored_bytes() as u64);
            let of_sender = append.sender.as_ref().map_or(0, |sender| self.retained_by.of(sender));
            if before.is_none() && !self.room.takes(now, of_sender) {
                return Outcome::TooManyRetained;
            }
            self.room.replace(before, Some(now));
            let by = std::mem::replace(&mut self.channels[index].retained_by, append.sender.clone());
            self.retained_by.replace(by.as_ref(), append.sender.as_ref());
            self.key(index, next_key);
            let channel = &mut self.channels[index];
            let Append { sender, data, attributes, .. } = append.clone();
            let retained = Retained { sender, data, attributes };
            (channel.retained_bytes, channel.retained) = (Some(now), Some(retained));
            channel.retained_until =
                append.attributes.expires_at().map(|at| i64::try_from(at).unwrap_or(i64::MAX));
            channel.retained_changed = true;
        }
        let channel = &mut self.channels[index];
        let Some(key) = channel.key.filter(|_| append.log && channel.persistent > 0) else {
            return Outcome::Appended(None);
        };
        channel.last.0 += 1;
        channel.changed = true;
        let (seq, bytes_before) = (channel.last, channel.bytes);
        channel.bytes += append.stored_bytes() as u64;
        self.messages.push(Logged { key, seq, bytes_before, append });
        Outcome::Appended(Some(LogPlace { key, seq, stamp: self.stamp }))
    }

    /// The index of a channel in `channels`, often the same as for the previous message.
    fn index(&mut self, name: &ChannelName) -> Option<usize> {
        if self.channels.get(self.last_index).is_none_or(|last| last.name != Some(name)) {
            self.last_index = *self.by_name.get(name)?;
        }
        Some(self.last_index)
    }

    fn subscribe(
        &mut self,
        client: &'b ClientId,
        name: &'b ChannelName,
        options: SubscriptionOptions,
        next_key: &mut i64,
    ) -> Outcome {
        let index = self.by_name[name]; // `new` has noted it
        let key = self.key(index, next_key);
        let channel = &mut self.channels[index];
        let place = self.subscriptions.entry((key, client)).or_default();
        let stored = place.now.get_or_insert_with(|| {
            channel.persistent += 1;
            channel.changed = true;
            (Cursor { acked: channel.last, beyond: Vec::new() }, options)
        });
        stored.1 = options;
        let (cursor, last) = (stored.0.clone(), channel.last);
        if !self.clients.is_empty()
            && let Some(client) = self.clients.get_mut(client)
        {
            if client.now.is_none() {
                client.now = client.begins_at.map(ClientRow::of_subscriptions);
            }
            if !client.subscribed.contains(&index) {
                client.subscribed.push(index);
            }
        }
        Outcome::Subscribed(StoredSubscription { channel: name.clone(), key, cursor, last, options })
    }

    /// The options of a subscription that exists now.
    fn subscription(&self, client: &'b ClientId, name: &ChannelName) -> Option<SubscriptionOptions> {
        let key = self.channel(name)?.key?;
        self.subscriptions.get(&(key, client))?.now.as_ref().map(|(_, options)| *options)
    }

    /// Changes a filter; returns `true` if it existed.
    fn set_filter(
        &mut self,
        client: &'b ClientId,
        filter: &'b str,
        options: Option<SubscriptionOptions>,
    ) -> bool {
        let row = self.filters.entry((client, filter)).or_default();
        std::mem::replace(&mut row.now, options).is_some()
    }

    fn unsubscribe(&mut self, client: &'b ClientId, name: &'b ChannelName) -> Outcome {
        // `new` has noted it.
        Outcome::Unsubscribed(self.end_subscription(self.by_name[name], client))
    }

    /// Ends the stored session if that is asked for, or if it has expired. Begins a new one.
    fn begin_session(&mut self, begin: &'b BeginSession) -> Outcome {
        let Some(client) = self.clients.get_mut(&begin.client) else {
            return Outcome::Begun { is_resumed: false };
        };
        if let Some(row) = client.now.as_ref().filter(|row| !row.has_ended(begin.now))
            && let (Some(owner), Some(new)) = (&row.owner, &begin.owner)
            && owner != new
        {
            return Outcome::OfAnotherOwner;
        }
        self.new_wills.extend(begin.will.as_deref());
        let last_seen = millis(begin.now);
        let unrecorded = i64::try_from(begin.generation).unwrap_or(i64::MAX);
        if let Some(row) = client.now.take_if(|row| !begin.is_clean && !row.has_ended(begin.now)) {
            let was_unrecorded = row.unrecorded != 0;
            let owner = row.owner.or_else(|| begin.owner.clone());
            let mut now = ClientRow { unrecorded, owner, ..row };
            if row.expiry.is_some() || begin.expiry != Some(0) {
                let expiry = row.expiry.and(begin.expiry);
                let is_mqtt = row.is_mqtt || begin.expiry.is_some();
                now = ClientRow { last_seen, is_mqtt, expiry, ends_at: None, ..now };
            }
            client.now = Some(now);
            client.pending_wills = client.has_pending_will.then_some(true);
            if was_unrecorded {
                self.note_perhaps_sent(&begin.client);
            }
            return Outcome::Begun { is_resumed: true };
        }
        client.pending_wills = client.has_pending_will.then_some(false);
        client.has_ended |= client.now.is_some();
        let client_has_ended = client.has_ended;
        let kept = |expiry: &u32| *expiry > 0;
        client.now = begin.expiry.filter(kept).map(|expiry| ClientRow {
            last_seen,
            is_mqtt: true,
            expiry: Some(expiry),
            ends_at: None,
            unrecorded,
            owner: begin.owner.clone(),
            checked: begin.checked,
        });
        for index in std::mem::take(&mut client.subscribed) {
            self.end_subscription(index, &begin.client);
        }
        if client_has_ended {
            let own = self.filters.iter_mut().filter(|((client, _), _)| **client == begin.client);
            own.for_each(|(_, row)| row.now = None);
        }
        Outcome::Begun { is_resumed: false }
    }

    /// Notes which messages an earlier connection of the client may have sent: all that it has not acknowledged.
    fn note_perhaps_sent(&mut self, client: &'b ClientId) {
        let Some(subscribed) = self.clients.get(client).map(|client| &client.subscribed) else { return };
        for &index in subscribed {
            let Channel { key: Some(key), last, .. } = self.channels[index] else { continue };
            let place = self.subscriptions.get(&(key, client)).and_then(|place| place.now.as_ref());
            if place.is_some_and(|(cursor, _)| cursor.acked < last) {
                self.perhaps_sent.push(Sent::perhaps(client, key, last));
            }
        }
    }

    fn fire_will(&mut self, will: &WillKey, append: &'b Append, next_key: &mut i64) -> Outcome {
        match self.wills.get(will) {
            Some(Fired::No) => {}
            Some(Fired::Yes) | None => return Outcome::NoWill,
        }
        let outcome = self.append(append, next_key);
        if outcome != Outcome::TooManyRetained
            && let Some(fired) = self.wills.get_mut(will)
        {
            *fired = Fired::Yes;
        }
        outcome
    }

    fn end_subscription(&mut self, index: usize, client: &'b ClientId) -> bool {
        let channel = &mut self.channels[index];
        let place = channel.key.and_then(|key| self.subscriptions.get_mut(&(key, client)));
        if place.and_then(|place| place.now.take()).is_none() {
            return false;
        }
        channel.persistent = channel.persistent.saturating_sub(1);
        (channel.changed, channel.left) = (true, true);
        true
    }

    fn set_expiry(&mut self, client: &ClientId, expiry: u32) -> Outcome {
        let row = self.clients.get_mut(client).and_then(|client| client.now.as_mut());
        let Some(row) = row.filter(|row| row.expiry.is_some()) else { return Outcome::ExpirySet(false) };
        row.expiry = Some(expiry);
        Outcome::ExpirySet(true)
    }

    fn set_owner(&mut self, client: &ClientId, owner: &str) -> Outcome {
        let row = self.clients.get_mut(client).and_then(|client| client.now.as_mut());
        match row {
            Some(ClientRow { owner: Some(other), .. }) if **other != *owner => Outcome::OfAnotherOwner,
            Some(row) => {
                row.owner.get_or_insert_with(|| owner.into());
                Outcome::SessionSet
            }
            None => Outcome::SessionSet,
        }
    }

    fn set_checked(&mut self, client: &ClientId, checked: Option<i64>) -> Outcome {
        if let Some(row) = self.clients.get_mut(client).and_then(|client| client.now.as_mut()) {
            row.checked = checked;
        }
        Outcome::SessionSet
    }

    fn clear_retained(&mut self, name: &ChannelName) -> Outcome {
        let index = self.by_name.get(name).copied();
        let channel = index.map(|index| &mut self.channels[index]);
        let Some((channel, bytes)) = channel.and_then(|it| it.retained_bytes.map(|bytes| (it, bytes))) else {
            return Outcome::Cleared(false);
        };
        self.room.replace(Some(bytes), None);
        self.retained_by.replace(channel.retained_by.take().as_ref(), None);
        (channel.retained_bytes, channel.retained, channel.retained_until) = (None, None, None);
        (channel.retained_changed, channel.left) = (true, true);
        Outcome::Cleared(true)
    }

    /// Clears the retained message if it has expired.
    fn expire_retained(&mut self, name: &ChannelName, now: SystemTime) -> Outcome {
        match self.channel(name).and_then(|channel| channel.retained_until) {
            Some(until) if until <= millis(now) => self.clear_retained(name),
            _ => Outcome::Cleared(false),
        }
    }

    fn channel(&self, name: &ChannelName) -> Option<&Channel<'b>> {
        Some(&self.channels[*self.by_name.get(name)?])
    }

    /// The channel's key; a new one if it has none.
    fn key(&mut self, index: usize, next_key: &mut i64) -> ChannelKey {
        *self.channels[index].key.get_or_insert_with(|| {
            let key = ChannelKey(*next_key);
            *next_key += 1;
            key
        })
    }

    /// Returns `true` if nothing needs to be written.
    pub(super) fn is_unchanged(&self) -> bool {
        let channel = |it: &Channel<'_>| it.changed || it.retained_changed;
        !self.channels.iter().any(channel)
            && self.subscriptions.values().all(|it| it.now == it.before)
            && self.received.values().all(|it| it.now == it.before)
            && self.filters.values().all(|it| it.now == it.before)
            && self.sent.is_empty()
            && self.perhaps_sent.is_empty()
            && self
                .clients
                .values()
                .all(|it| it.now == it.before && !it.has_ended && it.pending_wills.is_none())
            && self.new_wills.is_empty()
            && self.wills.values().all(|fired| *fired == Fired::No)
    }

    /// The stamp of the messages.
    pub(super) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The messages to log.
    pub(super) fn messages(&self) -> &[Logged<'b>] {
        &self.messages
    }

    /// The channels to insert.
    pub(super) fn made(&self) -> Vec<&Channel<'b>> {
        self.channels.iter().filter(|it| !it.stored && it.needs_row()).collect()
    }

    /// The channels whose rows change.
    pub(super) fn changed(&self) -> Vec<&Channel<'b>> {
        self.channels.iter().filter(|it| it.stored && it.changed).collect()
    }

    /// Channels that lost a subscription or a retained message, so that parts of their log, or their row, may be deletable.
    pub(super) fn left(&self) -> Vec<ChannelKey> {
        self.channels.iter().filter(|it| it.left).filter_map(|it| it.key).collect()
    }

    /// The retained messages to write.
    pub(super) fn retained(&self) -> Vec<(ChannelKey, &ChannelName, &Retained)> {
        let written = self.channels.iter().filter(|it| it.retained_changed);
        written.filter_map(|it| Some((it.key?, it.name?, it.retained.as_ref()?))).collect()
    }

    /// The retained messages to delete.
    pub(super) fn cleared(&self) -> Vec<(ChannelKey, &'b ChannelName)> {
        let gone = |it: &&Channel<'_>| it.retained_changed && it.retained_bytes.is_none();
        self.channels.iter().filter(gone).filter_map(|it| Some((it.key?, it.name?))).collect()
    }

    /// The wills to delete, because they are published, in order.
    pub(super) fn fired_wills(&self) -> Vec<&'b WillKey> {
        let fired = self.wills.iter().filter(|(_, fired)| **fired == Fired::Yes);
        let mut fired: Vec<_> = fired.map(|(will, _)| *will).collect();
        fired.sort_unstable();
        fired
    }

    /// The clients whose wills that are not due change, in order; the time; and whether the session was resumed.
    pub(super) fn changed_wills(&self) -> Vec<(&'b ClientId, i64, bool)> {
        let changed =
            self.clients.iter().filter_map(|(client, it)| Some((*client, it.begins_at?, it.pending_wills?)));
        let mut changed: Vec<_> = changed.collect();
        changed.sort_unstable();
        changed
    }

    /// The wills to insert.
    pub(super) fn new_wills(&self) -> &[&'b StoredWill] {
        &self.new_wills
    }

    /// The rows of clients to write, in order.
    pub(super) fn changed_clients(&self) -> Vec<(&'b ClientId, &ClientRow)> {
        let changed = self.clients.iter().filter(|(_, it)| it.now != it.before);
        let mut changed: Vec<_> =
            changed.filter_map(|(client, it)| Some((*client, it.now.as_ref()?))).collect();
        changed.sort_unstable_by_key(|(client, _)| *client);
        changed
    }

    /// The clients whose session has ended, in order: everything that is stored for them is to be deleted, except what
    /// later operations of the batch have added.
    pub(super) fn ended_sessions(&self) -> Vec<&'b ClientId> {
        let ended = self.clients.iter().filter(|(_, it)| it.has_ended);
        let mut ended: Vec<_> = ended.map(|(client, _)| *client).collect();
        ended.sort_unstable();
        ended
    }

    /// The rows of clients to delete, in order.
    pub(super) fn gone_clients(&self) -> Vec<&'b ClientId> {
        let gone = self.clients.iter().filter(|(_, it)| it.before.is_some() && it.now.is_none());
        let mut gone: Vec<_> = gone.map(|(client, _)| *client).collect();
        gone.sort_unstable();
        gone
    }

    /// The filters to write, in order; `None`: to delete. Those of [ended sessions](Self::ended_sessions) are deleted before.
    pub(super) fn changed_filters(&self) -> Vec<(&'b ClientId, &'b str, Option<SubscriptionOptions>)> {
        let has_ended = |client| self.clients.get(client).is_some_and(|client: &Client| client.has_ended);
        let changed = self.filters.iter();
        let changed = changed.filter(|((client, _), it)| it.now != it.before || has_ended(client));
        let mut changed: Vec<_> = changed.map(|(&(client, filter), it)| (client, filter, it.now)).collect();
        changed.sort_unstable_by_key(|&(client, filter, _)| (client, filter));
        changed
    }

    /// The subscriptions to write.
    pub(super) fn subscribed(&self) -> Vec<(ChannelKey, &'b ClientId, &Cursor, SubscriptionOptions)> {
        let changed = self.subscriptions.iter().filter(|(_, it)| it.now != it.before);
        changed
            .filter_map(|(&(key, client), it)| {
                let (cursor, options) = it.now.as_ref()?;
                Some((key, client, cursor, *options))
            })
            .collect()
    }

    /// The subscriptions to delete.
    pub(super) fn unsubscribed(&self) -> Vec<(ChannelKey, &'b ClientId)> {
        let gone = self.subscriptions.iter().filter(|(_, it)| it.now.is_none());
        gone.filter(|(_, it)| it.before.is_some()).map(|(&pair, _)| pair).collect()
    }
}

/// The client and the id of a publish that must be stored only once.
fn named(append: &Append) -> Option<(&ClientId, &PublishId)> {
    Some((append.sender.as_ref()?, append.once.as_ref()?))
}

/// The client and the packet identifier of a QoS 2 publish that must be stored only once.
fn received_by(append: &Append) -> Option<Received<'_>> {
    Some((append.sender.as_ref()?, append.received?))
}

/// The packet identifiers of the batch, before the recorded ones are inserted.
fn received(batch: &[Operation]) -> BTreeMap<Received<'_>, IsRecorded> {
    let mut received = BTreeMap::new();
    for operation in batch {
        match operation {
            Operation::Append(append) => {
                if let Some(key) = received_by(append) {
                    received.insert(key, IsRecorded { before: false, now: false });
                }
            }
            Operation::Release { client, packet } => {
                // As if it were recorded: to delete a row that does not exist has no effect.
                received.entry((client, *packet)).or_insert(IsRecorded { before: true, now: true });
            }
            _ => {}
        }
    }
    received
}

/// The publishers of messages in the batch, each once, in order.
fn publishers<'b>(batch: &'b [Operation]) -> Vec<Publisher<'b>> {
    let publisher = |operation: &'b Operation| match operation {
        Operation::Append(append) => {
            let (client, once) = named(append)?;
            let (seen, stored, changed) = (Seen::default(), false, false);
            Some(Publisher { client, id: &once.publisher, seen, stored, changed })
        }
        _ => None,
    };
    let mut publishers: Vec<_> = batch.iter().filter_map(publisher).collect();
    publishers.sort_unstable_by(|one, other| (one.client, one.id).cmp(&(other.client, other.id)));
    publishers.dedup_by(|one, other| (one.client, one.id) == (other.client, other.id));
    publishers
}
