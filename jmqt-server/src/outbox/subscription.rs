//! One client's subscription to one channel, shared by its session and the channel's member list.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use jmqt_core::{ChannelName, ClientId, Persistence, Qos};

use super::Outbox;
use super::position::LogPosition;
use crate::message::PushId;
use crate::options::{SubscriptionOptions, Terms};
use crate::store::{ChannelKey, Seq};

/// A subscription of a connected client.
pub(crate) struct Subscription {
    pub(crate) channel: ChannelName,
    pub(crate) client: ClientId,
    pub(crate) outbox: Arc<Outbox>,
    /// [`SubscriptionOptions`] as a number: those of this subscription alone. A client may change them.
    own: AtomicU64,
    /// The options with which messages are sent: also those of other subscriptions for which this one stands.
    options: AtomicU64,
    /// The subscription identifiers after that of the options.
    more_ids: Mutex<Option<Arc<Vec<u32>>>>,
    /// Set if this was made to stand for several subscriptions of a client that a message matches.
    parts: Option<Box<[Arc<Subscription>]>>,
    /// A [`Stage`]; written only under the outbox's lock.
    stage: AtomicU8,
    /// The number of unacknowledged pushes of a temporary subscription; used only under the outbox's lock.
    temporary_in_flight: AtomicU32,
    /// The index in the channel's member list; used only under that list's lock.
    pub(crate) slot: AtomicUsize,
    /// Locked under the outbox's lock, or alone.
    log: Mutex<LogState>,
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
    /// The store keeps the subscription, but it has no place in a log: it has a filter, or QoS 0. A message that is
    /// logged and needs an acknowledgement makes a reader of its channel.
    Filter,
    /// The subscription receives a share of the messages of a group. The group reads the logs.
    Share {
        /// The outbox of the group.
        group: Arc<Outbox>,
        /// The store keeps the subscription.
        is_kept: bool,
    },
    /// The subscription is persistent, and the store has not returned its position yet. `seen` is the last message
    /// received meanwhile, and its log: the channel may have been deleted and created again.
    Attaching { seen: Option<(ChannelKey, Seq)> },
    /// The subscription is temporary, and the store has been asked to make it persistent.
    Changing(Box<Changing>),
    /// The subscription is persistent.
    Attached(Box<LogPosition>),
}

impl LogState {
    /// Returns `true` if the store keeps the subscription without a place in a log.
    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Self::Filter | Self::Share { is_kept: true, .. })
    }
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
            own: AtomicU64::new(SubscriptionOptions::JMQT.bits()),
            options: AtomicU64::new(SubscriptionOptions::JMQT.bits()),
            more_ids: Mutex::default(),
            parts: None,
            stage: AtomicU8::new(stage as u8),
            temporary_in_flight: AtomicU32::new(0),
            slot: AtomicUsize::new(usize::MAX),
            log: Mutex::new(log),
        }
    }

    /// One subscription to `channel` for several ones of a client, of which none is a reader.
    pub(crate) fn merged(channel: ChannelName, parts: Vec<Arc<Self>>) -> Self {
        let log =
            if parts.iter().any(|part| part.lacks_reader()) { LogState::Filter } else { LogState::Temporary };
        let (client, outbox) = (parts[0].client.clone(), Arc::clone(&parts[0].outbox));
        let mut merged = Self::new(channel, client, outbox, Stage::Live, log);
        merged.stand_for(&parts);
        merged.parts = Some(parts.into());
        merged
    }

    /// The memory of a subscription that stands for others alone; 0 for the others, which are in tables of their own.
    pub(crate) fn merged_bytes(&self) -> usize {
        let parts = self.parts.as_ref().map_or(0, |parts| parts.len());
        if parts == 0 { 0 } else { size_of::<Self>() + parts * (size_of::<Arc<Self>>() + size_of::<u32>()) }
    }

    /// Sends messages with the options of all these subscriptions from now on.
    pub(crate) fn stand_for(&self, parts: &[Arc<Self>]) {
        let own = parts.iter().map(|part| part.own_options()).filter(|own| !own.is_of_filter());
        let options = own.clone().reduce(SubscriptionOptions::or).unwrap_or(SubscriptionOptions::OF_FILTER);
        let mut ids: Vec<u32> = own.filter_map(SubscriptionOptions::id).collect();
        ids.sort_unstable();
        ids.dedup();
        let more_ids = ids.split_off(ids.len().min(1));
        *self.more_ids.lock().unwrap_or_else(PoisonError::into_inner) =
            (!more_ids.is_empty()).then(|| Arc::new(more_ids));
        self.options.store(options.with_id(ids.first().copied()).bits(), Ordering::Relaxed);
    }

    /// Calls `encode` with the options and all subscription identifiers.
    pub(crate) fn with_terms<T>(&self, encode: impl FnOnce(Terms<'_>) -> T) -> T {
        let more_ids = self.more_ids.lock().unwrap_or_else(PoisonError::into_inner).clone();
        encode(Terms { options: self.options(), more_ids: more_ids.as_deref().map_or(&[], Vec::as_slice) })
    }

    /// The options of this subscription alone.
    pub(crate) fn own_options(&self) -> SubscriptionOptions {
        SubscriptionOptions::from_bits(self.own.load(Ordering::Relaxed))
    }

    /// The options with which messages are sent.
    pub(crate) fn options(&self) -> SubscriptionOptions {
        SubscriptionOptions::from_bits(self.options.load(Ordering::Relaxed))
    }

    /// Sets the options, and forgets those of other subscriptions.
    pub(crate) fn set_options(&self, options: SubscriptionOptions) {
        self.own.store(options.bits(), Ordering::Relaxed);
        self.options.store(options.bits(), Ordering::Relaxed);
        *self.more_ids.lock().unwrap_or_else(PoisonError::into_inner) = None;
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
        if let Some(parts) = &self.parts {
            let stages = || parts.iter().map(|part| part.stage());
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

    /// If the client has acknowledged everything in the log and the store knows it: the last message, and its log.
    pub(crate) fn idle_at(&self) -> Option<(ChannelKey, Seq)> {
        match &*self.log() {
            LogState::Attached(position)
                if !position.is_behind() && !position.dirty && position.acked.up_to() == position.seen =>
            {
                Some((position.key, Seq(position.seen)))
            }
            _ => None,
        }
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
            LogState::Temporary | LogState::Changing(_) | LogState::Share { is_kept: false, .. } => {
                Persistence::Temporary
            }
            LogState::Filter
            | LogState::Share { is_kept: true, .. }
            | LogState::Attaching { .. }
            | LogState::Attached(_) => Persistence::Persistent,
        }
    }

    /// Returns `true` if this reads the log of its channel, or will do so.
    pub(crate) fn is_reader(&self) -> bool {
        matches!(&*self.log(), LogState::Attaching { .. } | LogState::Attached(_))
    }

    /// Returns `true` if a logged message needs a reader, because it must be acknowledged.
    pub(crate) fn lacks_reader(&self) -> bool {
        self.options().qos() != Qos::AtMostOnce && matches!(&*self.log(), LogState::Filter)
    }
}
