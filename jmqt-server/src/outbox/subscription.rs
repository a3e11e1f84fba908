//! One client's subscription to one channel, shared by its session and the channel's member list.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jmqt_core::{ChannelName, ClientId, Persistence};

use super::Outbox;
use super::cursor::Acked;
use super::stamps::Stamps;
use crate::message::PushId;
use crate::options::{SubscriptionOptions, Terms};
use crate::store::{ChannelKey, Seq, StoredSubscription};

/// A subscription of a connected client.
pub(crate) struct Subscription {
    pub(crate) channel: ChannelName,
    pub(crate) client: ClientId,
    pub(crate) outbox: Arc<Outbox>,
    /// [`SubscriptionOptions`] as a number. A client may change them.
    options: AtomicU64,
    /// Set if this stands for several subscriptions of a client that a message matches.
    merged: Option<Box<Merged>>,
    /// A [`Stage`]; written only under the outbox's lock.
    stage: AtomicU8,
    /// The number of unacknowledged pushes of a temporary subscription; used only under the outbox's lock.
    temporary_in_flight: AtomicU32,
    /// The index in the channel's member list; used only under that list's lock.
    pub(crate) slot: AtomicUsize,
    /// Locked under the outbox's lock, or alone.
    log: Mutex<LogState>,
}

/// The subscriptions that one stands for.
struct Merged {
    parts: Vec<Arc<Subscription>>,
    /// The subscription identifiers after the first.
    more_ids: Vec<u32>,
}

/// A subscription of a session, found by the name of its channel.
pub(super) struct Named(pub(super) Arc<Subscription>);

impl Borrow<str> for Named {
    fn borrow(&self) -> &str {
        self.0.channel.as_str()
    }
}

impl Hash for Named {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.channel.as_str().hash(state);
    }
}

impl PartialEq for Named {
    fn eq(&self, other: &Self) -> bool {
        self.0.channel == other.0.channel
    }
}

impl Eq for Named {}

/// The stage of a subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Stage {
    /// The subscription is active, but its `subAck` has not been queued: pushes are held.
    Opening,
    /// Pushes are sent.
    Live,
    /// Nothing may be sent.
    Ended,
}

/// The state of a subscription with regard to its channel's log.
pub(crate) enum LogState {
    /// The subscription is temporary and does not use the log.
    Temporary,
    /// The subscription is persistent, and the store has not returned its position yet. `seen` is the last message
    /// received meanwhile, and its log: the channel may have been deleted and created again.
    Attaching { seen: Option<(ChannelKey, Seq)> },
    /// The subscription is temporary, and the store has been asked to make it persistent.
    Changing(Box<Changing>),
    /// The subscription is persistent.
    Attached(Box<LogPosition>),
}

/// Messages that arrived for a temporary subscription while the store made it persistent. Only the store knows which
/// of them are in the log, and each message must be pushed once.
#[derive(Default)]
pub(crate) struct Changing {
    pub(super) kept: Vec<(PushId, Bytes)>,
    pub(super) bytes: usize,
    /// As for [`LogState::Attaching`].
    pub(super) seen: Option<(ChannelKey, Seq)>,
}

/// The position of a persistent subscription in the log.
pub(crate) struct LogPosition {
    pub(crate) key: ChannelKey,
    /// The next message to push on this connection.
    pub(crate) next: u64,
    /// The last message that is known to be in the log. If `next` is not beyond it, the client is behind.
    pub(crate) seen: u64,
    /// The end of the log when this connection began: pushing earlier messages counts as redelivery.
    pub(crate) pending_until: u64,
    pub(crate) acked: Acked,
    /// The stamps of the messages that acknowledgements may name.
    pub(crate) stamps: Stamps,
    /// The number of unacknowledged pushes of this connection.
    pub(crate) in_flight: u32,
    /// `acked` has changed since it was last written to the store.
    pub(crate) dirty: bool,
    /// The subscription is in the list of those that are behind.
    pub(crate) listed: bool,
}

impl LogPosition {
    pub(crate) fn new(stored: &StoredSubscription) -> Self {
        let acked = Acked::from_stored(&stored.cursor);
        Self {
            key: stored.key,
            next: acked.up_to() + 1,
            seen: stored.last.0,
            pending_until: stored.last.0,
            acked,
            stamps: Stamps::default(),
            in_flight: 0,
            dirty: false,
            listed: false,
        }
    }

    pub(crate) fn is_behind(&self) -> bool {
        self.next <= self.seen
    }
}

impl Subscription {
    pub(crate) fn new(
        channel: ChannelName,
        client: ClientId,
        outbox: Arc<Outbox>,
        stage: Stage,
        log: LogState,
    ) -> Self {
        Self {
            channel,
            client,
            outbox,
            options: AtomicU64::new(SubscriptionOptions::JMQT.bits()),
            merged: None,
            stage: AtomicU8::new(stage as u8),
            temporary_in_flight: AtomicU32::new(0),
            slot: AtomicUsize::new(usize::MAX),
            log: Mutex::new(log),
        }
    }

    /// One temporary subscription to `channel` for several ones of a client.
    pub(crate) fn merged(channel: ChannelName, parts: Vec<Arc<Self>>) -> Self {
        let all = parts.iter().map(|part| part.options());
        let options = all.reduce(SubscriptionOptions::or).unwrap_or(SubscriptionOptions::JMQT);
        let mut ids: Vec<u32> = parts.iter().filter_map(|part| part.options().id()).collect();
        ids.sort_unstable();
        ids.dedup();
        let more_ids = ids.split_off(ids.len().min(1));
        let (client, outbox) = (parts[0].client.clone(), Arc::clone(&parts[0].outbox));
        let mut merged = Self::new(channel, client, outbox, Stage::Live, LogState::Temporary);
        merged.set_options(options.with_id(ids.first().copied()));
        merged.merged = Some(Box::new(Merged { parts, more_ids }));
        merged
    }

    /// The subscription identifiers after that of the options.
    pub(crate) fn more_ids(&self) -> &[u32] {
        self.merged.as_ref().map_or(&[], |merged| &merged.more_ids)
    }

    /// The options, with all subscription identifiers.
    pub(crate) fn terms(&self) -> Terms<'_> {
        Terms { options: self.options(), more_ids: self.more_ids() }
    }

    pub(crate) fn options(&self) -> SubscriptionOptions {
        SubscriptionOptions::from_bits(self.options.load(Ordering::Relaxed))
    }

    pub(crate) fn set_options(&self, options: SubscriptionOptions) {
        self.options.store(options.bits(), Ordering::Relaxed);
    }

    /// Returns `true` if a message of this sender must not be pushed to its own client (protocol.md 2.11).
    pub(crate) fn skips(&self, sender: Option<&ClientId>) -> bool {
        sender == Some(&self.client) && self.options().skips_own()
    }

    pub(super) fn temporary_in_flight(&self) -> usize {
        self.temporary_in_flight.load(Ordering::Relaxed) as usize
    }

    pub(super) fn add_temporary_in_flight(&self) {
        self.temporary_in_flight.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn remove_temporary_in_flight(&self) {
        self.temporary_in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    pub(crate) fn stage(&self) -> Stage {
        if let Some(merged) = &self.merged {
            let stages = || merged.parts.iter().map(|part| part.stage());
            return match () {
                () if stages().any(|stage| stage == Stage::Live) => Stage::Live,
                () if stages().any(|stage| stage == Stage::Opening) => Stage::Opening,
                () => Stage::Ended,
            };
        }
        match self.stage.load(Ordering::Relaxed) {
            0 => Stage::Opening,
            1 => Stage::Live,
            _ => Stage::Ended,
        }
    }

    pub(super) fn set_stage(&self, stage: Stage) {
        self.stage.store(stage as u8, Ordering::Relaxed);
    }

    pub(crate) fn log(&self) -> MutexGuard<'_, LogState> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The channel's key in the store; `None` for a subscription that does not have it yet.
    pub(crate) fn key(&self) -> Option<ChannelKey> {
        match &*self.log() {
            LogState::Attached(position) => Some(position.key),
            _ => None,
        }
    }

    pub(crate) fn persistence(&self) -> Persistence {
        match &*self.log() {
            LogState::Temporary | LogState::Changing(_) => Persistence::Temporary,
            LogState::Attaching { .. } | LogState::Attached(_) => Persistence::Persistent,
        }
    }
}
