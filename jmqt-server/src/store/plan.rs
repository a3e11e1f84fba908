//! A batch carried out in memory: what comes of each operation, and what is different afterwards.
//!
//! Nothing here touches a database. The rows that the operations need are put in first; what is not
//! put in does not exist.

use std::collections::HashMap;

use jmqt_core::{ChannelName, ClientId};

use crate::name_map::NameMap;

use super::publisher::Seen;
use super::retained::RetainedRoom;
use super::{
    Append, ChannelKey, Cursor, LogPlace, Operation, Outcome, PublishId, PublisherId, Retained, Seq, Stamp,
    StoredSubscription,
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

/// A channel, as it was and as it is now.
#[derive(Debug)]
pub(super) struct Channel<'b> {
    pub(super) name: &'b ChannelName,
    pub(super) key: Option<ChannelKey>,
    /// Whether it has a row in the database.
    pub(super) stored: bool,
    pub(super) last: Seq,
    /// How many bytes of payload were ever logged there.
    pub(super) bytes: u64,
    /// How many persistent subscriptions it has.
    pub(super) persistent: u64,
    /// Whether `last` or `persistent` differs from the row.
    pub(super) changed: bool,
    /// The size of the retained message's payload, if there is one.
    retained_bytes: Option<u64>,
    /// The retained message, if an operation set it.
    pub(super) retained: Option<Retained>,
    pub(super) retained_changed: bool,
    /// Whether a subscription or the retained message went.
    pub(super) left: bool,
}

impl<'b> Channel<'b> {
    fn unknown(name: &'b ChannelName) -> Self {
        Self {
            name,
            key: None,
            stored: false,
            last: Seq(0),
            bytes: 0,
            persistent: 0,
            changed: false,
            retained_bytes: None,
            retained: None,
            retained_changed: false,
            left: false,
        }
    }

    /// Whether something depends on its having a row.
    fn needs_row(&self) -> bool {
        self.persistent > 0 || self.last > Seq(0) || self.retained_bytes.is_some()
    }
}

/// A subscription, as it was and as it is now.
#[derive(Debug, Default)]
struct Subscription {
    before: Option<Cursor>,
    now: Option<Cursor>,
}

/// A publisher that sends each publish once, as far as it can tell.
#[derive(Debug)]
pub(super) struct Publisher<'b> {
    pub(super) client: &'b ClientId,
    pub(super) id: &'b PublisherId,
    /// Which of its publishes have been taken.
    pub(super) seen: Seen,
    /// Whether it has a row in the database.
    pub(super) stored: bool,
    /// Whether the row has to be written: one of its messages is.
    pub(super) changed: bool,
}

/// A message for the log.
#[derive(Debug)]
pub(super) struct Logged<'b> {
    pub(super) key: ChannelKey,
    pub(super) seq: Seq,
    /// How many bytes of payload were logged in the channel before it.
    pub(super) bytes_before: u64,
    pub(super) append: &'b Append,
}

/// A batch on its way.
#[derive(Debug)]
pub(super) struct Plan<'b> {
    /// What the messages of this batch are stamped with.
    stamp: Stamp,
    channels: Vec<Channel<'b>>,
    by_name: NameMap<&'b ChannelName, usize>,
    /// Where the channel of the last append is.
    last_index: usize,
    by_key: Map<ChannelKey, usize>,
    subscriptions: NameMap<(ChannelKey, &'b ClientId), Subscription>,
    /// In the order of client and id.
    publishers: Vec<Publisher<'b>>,
    messages: Vec<Logged<'b>>,
    /// What all retained messages come to.
    room: RetainedRoom,
}

impl<'b> Plan<'b> {
    /// Notes which channels the operations of `batch` can concern. `may_be_retained` spares looking
    /// for retained messages that are not there.
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
            publishers: publishers(batch),
            messages: Vec::new(),
            room: RetainedRoom::default(),
        };
        for operation in batch {
            match operation {
                Operation::Append(append) if append.log || append.retain => {
                    plan.note(&append.channel);
                }
                Operation::Append(_) => {}
                Operation::Subscribe { channel, .. } | Operation::Unsubscribe { channel, .. } => {
                    plan.note(channel);
                }
                Operation::ClearRetained { channel } => {
                    if may_be_retained(channel) {
                        plan.note(channel);
                    }
                }
            }
        }
        plan
    }

    fn note(&mut self, name: &'b ChannelName) {
        if self.channels.last().is_some_and(|last| last.name == name) {
            return;
        }
        let next = self.channels.len();
        if *self.by_name.entry(name).or_insert(next) == next {
            self.channels.push(Channel::unknown(name));
        }
    }

    /// The channels, as they are now.
    pub(super) fn channels(&self) -> &[Channel<'b>] {
        &self.channels
    }

    /// Puts a channel's row in.
    pub(super) fn put_channel(&mut self, name: &ChannelName, row: ChannelRow) {
        if let Some(&index) = self.by_name.get(name) {
            let channel = &mut self.channels[index];
            (channel.key, channel.last, channel.persistent) = (Some(row.key), row.last, row.persistent);
            (channel.bytes, channel.stored) = (row.bytes, true);
            self.by_key.insert(row.key, index);
        }
    }

    /// The subscriptions that the operations concern and the database may have. Asked once the
    /// channels are in.
    pub(super) fn subscriptions_to_load(&self, batch: &'b [Operation]) -> Vec<(ChannelKey, &'b ClientId)> {
        let pair = |operation: &'b Operation| match operation {
            Operation::Subscribe { client, channel } | Operation::Unsubscribe { client, channel } => {
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

    /// Puts a subscription in.
    pub(super) fn put_subscription(&mut self, key: ChannelKey, client: &'b ClientId, cursor: Cursor) {
        let (before, now) = (Some(cursor.clone()), Some(cursor));
        self.subscriptions.insert((key, client), Subscription { before, now });
    }

    /// The channels whose retained messages the operations replace or clear. Asked once the channels are in.
    pub(super) fn retained_to_load(&self, batch: &[Operation]) -> Vec<ChannelKey> {
        let key = |operation: &Operation| match operation {
            Operation::Append(Append { channel, retain: true, .. })
            | Operation::ClearRetained { channel } => self.channel(channel)?.key,
            _ => None,
        };
        let mut keys: Vec<_> = batch.iter().filter_map(key).collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }

    /// Puts in that a channel has a retained message of so many bytes.
    pub(super) fn put_retained(&mut self, key: ChannelKey, bytes: u64) {
        if let Some(&index) = self.by_key.get(&key) {
            self.channels[index].retained_bytes = Some(bytes);
        }
    }

    /// Puts in what all retained messages come to.
    pub(super) fn put_room(&mut self, room: RetainedRoom) {
        self.room = room;
    }

    /// What all retained messages come to, now.
    pub(super) fn room(&self) -> RetainedRoom {
        self.room
    }

    /// Publishers of messages in the batch, as they are now.
    pub(super) fn publishers(&self) -> &[Publisher<'b>] {
        &self.publishers
    }

    /// Puts a publisher in; `stored` if it has a row.
    pub(super) fn put_publisher(&mut self, client: &ClientId, id: &PublisherId, seen: Seen, stored: bool) {
        if let Some(index) = self.publisher(client, id) {
            let publisher = &mut self.publishers[index];
            (publisher.seen, publisher.stored) = (seen, stored);
        }
    }

    /// Whether no message of the batch can come to be stored. Asked once the channels are in.
    pub(super) fn stores_no_message(&self, batch: &[Operation]) -> bool {
        let may_store = |operation: &Operation| match operation {
            Operation::Append(append) => append.retain,
            Operation::Subscribe { .. } => true,
            _ => false,
        };
        self.channels.iter().all(|channel| channel.persistent == 0) && !batch.iter().any(may_store)
    }

    /// Takes the publishers out, once the batch has been written.
    pub(super) fn take_publishers(&mut self) -> Vec<Publisher<'b>> {
        std::mem::take(&mut self.publishers)
    }

    /// Publishers whose rows are to be written.
    pub(super) fn changed_publishers(&self) -> Vec<&Publisher<'b>> {
        self.publishers.iter().filter(|it| it.changed).collect()
    }

    /// Whether a publisher has messages in the batch.
    pub(super) fn has_publisher(&self, client: &ClientId, id: &PublisherId) -> bool {
        self.publisher(client, id).is_some()
    }

    fn publisher(&self, client: &ClientId, id: &PublisherId) -> Option<usize> {
        self.publishers.binary_search_by(|it| (it.client, it.id).cmp(&(client, id))).ok()
    }

    /// Carries the batch out. Channels that need a row get their keys from `next_key`.
    pub(super) fn carry_out(&mut self, batch: &'b [Operation], next_key: &mut i64) -> Vec<Outcome> {
        let outcome = |operation: &'b Operation| match operation {
            Operation::Append(append) => match named(append) {
                Some((client, once)) => self.append_once(append, client, once, next_key),
                None => self.append(append, next_key),
            },
            Operation::Subscribe { client, channel } => self.subscribe(client, channel, next_key),
            Operation::Unsubscribe { client, channel } => self.unsubscribe(client, channel),
            Operation::ClearRetained { channel } => self.clear_retained(channel),
        };
        batch.iter().map(outcome).collect()
    }

    /// Appends what has not been taken before. It is remembered if it was stored; and also, as far as that costs nothing,
    /// if it was thrown away and the publisher is told that all is well.
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
            return outcome; // it may be sent again when there is room
        }
        let is_stored = append.retain || matches!(outcome, Outcome::Appended(Some(_)));
        let publisher = &mut self.publishers[index];
        if is_stored || !once.receiver_is_away {
            publisher.seen.insert(once.number, once.receiver_is_away);
        }
        publisher.changed |= is_stored;
        outcome
    }

    fn append(&mut self, append: &'b Append, next_key: &mut i64) -> Outcome {
        let Some(index) = self.index(&append.channel) else {
            return Outcome::Appended(None);
        };
        if append.retain {
            let (before, now) = (self.channels[index].retained_bytes, append.data.len() as u64);
            if before.is_none() && !self.room.takes(now) {
                return Outcome::TooManyRetained;
            }
            self.room.replace(before, Some(now));
            self.key(index, next_key);
            let channel = &mut self.channels[index];
            let (sender, data) = (append.sender.clone(), append.data.clone());
            (channel.retained_bytes, channel.retained) = (Some(now), Some(Retained { sender, data }));
            channel.retained_changed = true;
        }
        let channel = &mut self.channels[index];
        let Some(key) = channel.key.filter(|_| append.log && channel.persistent > 0) else {
            return Outcome::Appended(None);
        };
        channel.last.0 += 1;
        channel.changed = true;
        let (seq, bytes_before) = (channel.last, channel.bytes);
        channel.bytes += append.data.len() as u64;
        self.messages.push(Logged { key, seq, bytes_before, append });
        Outcome::Appended(Some(LogPlace { key, seq, stamp: self.stamp }))
    }

    /// The place of a channel in `channels`. Often it is that of the message before.
    fn index(&mut self, name: &ChannelName) -> Option<usize> {
        if self.channels.get(self.last_index).is_none_or(|last| last.name != name) {
            self.last_index = *self.by_name.get(name)?;
        }
        Some(self.last_index)
    }

    fn subscribe(&mut self, client: &'b ClientId, name: &'b ChannelName, next_key: &mut i64) -> Outcome {
        let index = self.by_name[name]; // `new` has noted it
        let key = self.key(index, next_key);
        let channel = &mut self.channels[index];
        let place = self.subscriptions.entry((key, client)).or_default();
        let cursor = place.now.get_or_insert_with(|| {
            channel.persistent += 1;
            channel.changed = true;
            Cursor { acked: channel.last, beyond: Vec::new() }
        });
        let (cursor, last) = (cursor.clone(), channel.last);
        Outcome::Subscribed(StoredSubscription { channel: name.clone(), key, cursor, last })
    }

    fn unsubscribe(&mut self, client: &'b ClientId, name: &'b ChannelName) -> Outcome {
        let channel = &mut self.channels[self.by_name[name]]; // `new` has noted it
        let place = channel.key.and_then(|key| self.subscriptions.get_mut(&(key, client)));
        if place.and_then(|place| place.now.take()).is_none() {
            return Outcome::Unsubscribed(false);
        }
        channel.persistent = channel.persistent.saturating_sub(1);
        (channel.changed, channel.left) = (true, true);
        Outcome::Unsubscribed(true)
    }

    fn clear_retained(&mut self, name: &ChannelName) -> Outcome {
        let index = self.by_name.get(name).copied();
        let channel = index.map(|index| &mut self.channels[index]);
        let Some((channel, bytes)) = channel.and_then(|it| it.retained_bytes.map(|bytes| (it, bytes))) else {
            return Outcome::Cleared(false);
        };
        self.room.replace(Some(bytes), None);
        (channel.retained_bytes, channel.retained) = (None, None);
        (channel.retained_changed, channel.left) = (true, true);
        Outcome::Cleared(true)
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

    /// Whether there is nothing to be written.
    pub(super) fn is_unchanged(&self) -> bool {
        let channel = |it: &Channel<'_>| it.changed || it.retained_changed;
        !self.channels.iter().any(channel) && self.subscriptions.values().all(|it| it.now == it.before)
    }

    /// What the messages are stamped with.
    pub(super) fn stamp(&self) -> Stamp {
        self.stamp
    }

    /// The messages to be logged.
    pub(super) fn messages(&self) -> &[Logged<'b>] {
        &self.messages
    }

    /// Channels to be made.
    pub(super) fn made(&self) -> Vec<&Channel<'b>> {
        self.channels.iter().filter(|it| !it.stored && it.needs_row()).collect()
    }

    /// Channels whose rows are to be changed.
    pub(super) fn changed(&self) -> Vec<&Channel<'b>> {
        self.channels.iter().filter(|it| it.stored && it.changed).collect()
    }

    /// Channels that lost something, so that part of their log or their row may have to go.
    pub(super) fn left(&self) -> Vec<ChannelKey> {
        self.channels.iter().filter(|it| it.left).filter_map(|it| it.key).collect()
    }

    /// Retained messages to be written.
    pub(super) fn retained(&self) -> Vec<(ChannelKey, &ChannelName, &Retained)> {
        let written = self.channels.iter().filter(|it| it.retained_changed);
        written.filter_map(|it| Some((it.key?, it.name, it.retained.as_ref()?))).collect()
    }

    /// Retained messages to be deleted.
    pub(super) fn cleared(&self) -> Vec<(ChannelKey, &'b ChannelName)> {
        let gone = |it: &&Channel<'_>| it.retained_changed && it.retained_bytes.is_none();
        self.channels.iter().filter(gone).filter_map(|it| Some((it.key?, it.name))).collect()
    }

    /// Subscriptions to be written.
    pub(super) fn subscribed(&self) -> Vec<(ChannelKey, &'b ClientId, &Cursor)> {
        let changed = self.subscriptions.iter().filter(|(_, it)| it.now != it.before);
        changed.filter_map(|(&(key, client), it)| Some((key, client, it.now.as_ref()?))).collect()
    }

    /// Subscriptions to be deleted.
    pub(super) fn unsubscribed(&self) -> Vec<(ChannelKey, &'b ClientId)> {
        let gone = self.subscriptions.iter().filter(|(_, it)| it.now.is_none());
        gone.filter(|(_, it)| it.before.is_some()).map(|(&pair, _)| pair).collect()
    }
}

/// The name of a publish that is to be taken once, with its client.
fn named(append: &Append) -> Option<(&ClientId, &PublishId)> {
    Some((append.sender.as_ref()?, append.once.as_ref()?))
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
