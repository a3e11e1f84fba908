//! The subscriptions of this node by channel.

use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use jmqt_core::ChannelName;

use crate::message::LoggedPush;
use crate::outbox::Subscription;
use crate::store::{ChannelKey, Seq};
use crate::wire::LoggedPushes;

const SHARDS: usize = 16;
/// The limit for the recent pushes of one channel, kept for subscribers that are slightly behind.
const TAIL_BYTES: usize = 2 << 20;
/// The limit for the recent pushes of all channels together.
const ALL_TAILS_BYTES: usize = 64 << 20;

/// A table with a capacity above this shrinks when it uses only a small part of it.
const MUCH: usize = 1024;

/// The members of a channel at one moment.
pub(crate) type Members = Arc<[Arc<Subscription>]>;

type Shard = HashMap<ChannelName, Arc<Channel>, foldhash::fast::RandomState>;

/// The channels with subscribers on this node.
pub(crate) struct Channels {
    shards: [RwLock<Shard>; SHARDS],
    hasher: foldhash::fast::RandomState,
    tail_bytes: AtomicUsize,
    /// The number of subscriptions.
    subscriptions: AtomicUsize,
}

/// One channel with its subscribers.
#[derive(Default)]
pub(crate) struct Channel {
    members: Mutex<MemberList>,
    tail: Mutex<Tail>,
}

#[derive(Default)]
struct MemberList {
    list: Vec<Arc<Subscription>>,
    /// The same members, for publishers to iterate without the lock; rebuilt after a change.
    snapshot: Option<Members>,
}

/// The last pushes of a channel, kept while a subscriber has not received all of them.
#[derive(Default)]
struct Tail {
    /// Boxed, because most channels keep none.
    kept: Option<Box<Kept>>,
    /// The channel has been removed from the table. Tasks that still hold it must not store anything in it.
    is_removed: bool,
}

#[derive(Default)]
struct Kept {
    runs: VecDeque<Arc<LoggedPushes>>,
    bytes: usize,
}

impl Tail {
    fn bytes(&self) -> usize {
        self.kept.as_ref().map_or(0, |kept| kept.bytes)
    }
}

impl Default for Channels {
    fn default() -> Self {
        Self {
            shards: std::array::from_fn(|_| RwLock::default()),
            hasher: foldhash::fast::RandomState::default(),
            tail_bytes: AtomicUsize::new(0),
            subscriptions: AtomicUsize::new(0),
        }
    }
}

impl Channels {
    fn shard(&self, channel: &str) -> &RwLock<Shard> {
        let hash = self.hasher.hash_one(channel);
        &self.shards[(hash >> 48) as usize % SHARDS]
    }

    /// Adds a member.
    pub(crate) fn add(&self, subscription: &Arc<Subscription>) {
        let shard = self.shard(subscription.channel.as_str());
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        let channel = shard.entry(subscription.channel.clone()).or_default();
        let mut members = channel.members.lock().unwrap_or_else(PoisonError::into_inner);
        subscription.slot.store(members.list.len(), Ordering::Relaxed);
        members.list.push(Arc::clone(subscription));
        self.subscriptions.fetch_add(1, Ordering::Relaxed);
        members.snapshot = None;
    }

    /// Removes a member; returns `false` if it is not a member.
    pub(crate) fn remove(&self, subscription: &Arc<Subscription>) -> bool {
        let shard = self.shard(subscription.channel.as_str());
        let mut shard = shard.write().unwrap_or_else(PoisonError::into_inner);
        let Some(channel) = shard.get(subscription.channel.as_str()) else { return false };
        let empty = {
            let mut members = channel.members.lock().unwrap_or_else(PoisonError::into_inner);
            let slot = subscription.slot.load(Ordering::Relaxed);
            if !members.list.get(slot).is_some_and(|member| Arc::ptr_eq(member, subscription)) {
                return false; // it was removed before
            }
            members.list.swap_remove(slot);
            self.subscriptions.fetch_sub(1, Ordering::Relaxed);
            if let Some(moved) = members.list.get(slot) {
                moved.slot.store(slot, Ordering::Relaxed);
            }
            members.snapshot = None;
            if members.list.capacity() > MUCH && members.list.len() < members.list.capacity() / 4 {
                let twice = members.list.len() * 2;
                members.list.shrink_to(twice);
            }
            members.list.is_empty()
        };
        if empty {
            self.change_tail(channel, None, true);
            shard.remove(subscription.channel.as_str());
            if shard.capacity() > MUCH && shard.len() < shard.capacity() / 8 {
                let twice = shard.len() * 2;
                shard.shrink_to(twice);
            }
        }
        true
    }

    /// The number of subscriptions.
    pub(crate) fn subscriptions(&self) -> usize {
        self.subscriptions.load(Ordering::Relaxed)
    }

    /// The channel, if it has subscribers on this node.
    pub(crate) fn get(&self, channel: &str) -> Option<Arc<Channel>> {
        let shard = self.shard(channel).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(channel).cloned()
    }

    /// Keeps a run of pushes for subscribers that did not accept all of it; `None` clears the kept runs.
    pub(crate) fn keep_tail(&self, channel: &Channel, run: Option<Arc<LoggedPushes>>) {
        self.change_tail(channel, run, false);
    }

    fn change_tail(&self, channel: &Channel, run: Option<Arc<LoggedPushes>>, remove: bool) {
        let mut tail = channel.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let before = tail.bytes();
        match run {
            None => *tail = Tail { kept: None, is_removed: tail.is_removed || remove },
            Some(_) if tail.is_removed => {}
            Some(run) => {
                let kept = tail.kept.get_or_insert_default();
                kept.bytes += run.bytes();
                kept.runs.push_back(run);
                let all = self.tail_bytes.load(Ordering::Relaxed) + kept.bytes - before;
                let limit = if all > ALL_TAILS_BYTES { 0 } else { TAIL_BYTES };
                while kept.bytes > limit
                    && let Some(oldest) = kept.runs.pop_front()
                {
                    kept.bytes -= oldest.bytes();
                }
            }
        }
        let now = tail.bytes();
        if now >= before {
            self.tail_bytes.fetch_add(now - before, Ordering::Relaxed);
        } else {
            self.tail_bytes.fetch_sub(before - now, Ordering::Relaxed);
        }
    }
}

impl Channel {
    pub(crate) fn members(&self) -> Members {
        let mut members = self.members.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(snapshot) = &members.snapshot {
            return Arc::clone(snapshot);
        }
        let snapshot: Members = members.list.as_slice().into();
        members.snapshot = Some(Arc::clone(&snapshot));
        snapshot
    }

    /// The kept run that contains this message of a log. A run with earlier and later messages may not contain it,
    /// because a batch that was halved can have gaps.
    pub(crate) fn tail_with(&self, key: ChannelKey, seq: Seq) -> Option<Arc<LoggedPushes>> {
        let tail = self.tail.lock().unwrap_or_else(PoisonError::into_inner);
        let is_wanted = |message: &LoggedPush| message.id.place() == Some((key, seq));
        let holds = |run: &&Arc<LoggedPushes>| run.messages.iter().any(is_wanted);
        tail.kept.as_ref()?.runs.iter().rev().find(holds).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Data, PushId};
    use crate::outbox::{LogState, Outbox, OutboxContext, Stage};
    use crate::store::{Epoch, LogPlace, Stamp};
    use crate::wire::{Form, IdSpace};

    fn logged(messages: Vec<LoggedPush>) -> LoggedPushes {
        LoggedPushes::new(IdSpace::new(Epoch(0), 1), ChannelName::parse("news").unwrap(), messages)
    }

    fn message(place: LogPlace) -> LoggedPush {
        LoggedPush { id: PushId::Logged(place), sender: None, data: Data::checked_before("1".into()) }
    }

    #[test]
    fn a_kept_run_is_found_by_its_messages() {
        let (key, channels, channel) = (ChannelKey(7), Channels::default(), Channel::default());
        let place = |seq| LogPlace { key, seq: Seq(seq), stamp: Stamp(seq) };
        // The messages between them were delivered otherwise.
        let run = logged(vec![message(place(5)), message(place(8))]);
        channels.keep_tail(&channel, Some(Arc::new(run)));
        let found = [4, 5, 6, 7, 8, 9].map(|seq| channel.tail_with(key, Seq(seq)).is_some());
        assert_eq!(found, [false, true, false, false, true, false]);
        assert!(channel.tail_with(ChannelKey(8), Seq(5)).is_none(), "the channel was created again");
    }

    #[test] // there may be a hundred thousand
    fn a_channel_without_kept_runs_is_small() {
        assert!(size_of::<Channel>() <= 72, "{}", size_of::<Channel>());
    }

    #[test]
    fn tables_shrink_after_a_burst() {
        let hub = OutboxContext {
            queue_bytes: 1 << 20,
            outbound: Arc::new(crate::budget::Budget::new(1 << 30)),
            counters: Arc::default(),
            ids: IdSpace::new(Epoch(0), 1),
            moved_cursors: Mutex::default(),
            unrecorded: Default::default(),
            groups: Default::default(),
        };
        let outbox = Outbox::new(Form::JmqtNul, None, Arc::new(hub));
        let (outbox, channels) = (Arc::new(outbox), Channels::default());
        let client = jmqt_core::ClientId::parse("bob").unwrap();
        let subscribe = |name: &str| {
            let (channel, stage) = (ChannelName::parse(name).unwrap(), Stage::Live);
            let log = LogState::Temporary;
            let made = Subscription::new(channel, client.clone(), Arc::clone(&outbox), stage, log);
            let made = Arc::new(made);
            channels.add(&made);
            made
        };
        let mut made: Vec<_> = (0..40_000).map(|number| subscribe(&number.to_string())).collect();
        made.extend((0..10_000).map(|_| subscribe("news")));
        let last = made.pop().unwrap();
        assert!(made.iter().all(|subscription| channels.remove(subscription)));
        let news = channels.get("news").unwrap();
        assert_eq!(news.members().len(), 1);
        assert!(news.members.lock().unwrap().list.capacity() <= MUCH);
        for shard in &channels.shards {
            assert!(shard.read().unwrap().capacity() <= 2 * MUCH);
        }
        assert!(channels.remove(&last) && channels.get("news").is_none());
    }

    #[test]
    fn a_removed_channel_keeps_no_runs() {
        let (channels, channel) = (Channels::default(), Channel::default());
        channels.change_tail(&channel, None, true);
        let run = logged(vec![message(LogPlace { key: ChannelKey(7), seq: Seq(1), stamp: Stamp(1) })]);
        channels.keep_tail(&channel, Some(Arc::new(run)));
        assert_eq!(channels.tail_bytes.load(Ordering::Relaxed), 0);
    }
}
