//! The pushes that a client has not acknowledged, and those that wait for room (protocol.md 2.14).

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use jmqt_core::ChannelName;

use super::packet_ids::PacketIds;
use super::position::LogPosition;
use super::subscription::{LogState, Stage, Subscription};
use crate::message::PushId;
use crate::store::{ChannelKey, Sent, SentStep, Seq};

/// The speed of redelivery of pushes from an earlier connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Redelivery {
    /// As fast as other pushes.
    #[default]
    AtOnce,
    /// In small portions, for an original client on a socket, which loses packets of a burst (2.14).
    Careful,
}

/// The bytes of redelivered pushes that an original client on a socket receives at a time.
const CAREFUL_REDELIVERY_BYTES: usize = 1000;

/// A table with a capacity above this shrinks when nothing waits any more.
const MUCH: usize = 64;

/// The memory of a waiting push in addition to its bytes.
const WAITING_OVERHEAD: usize = 96;

/// In a window of at least this size, no channel gets the whole window.
const SHARED_FROM: usize = 32;
/// A channel gets another push while it has fewer unacknowledged pushes than this many times the free part of the
/// window. A single channel can use three quarters of the window, two channels that acknowledge nothing three
/// sevenths each, and so on. Some room is always left for other channels.
const PARTS: usize = 3;

/// The QoS 1 part of one session. Created on first use.
pub(crate) struct Window {
    /// The number of pushes that may be unacknowledged.
    size: usize,
    /// The number of unacknowledged pushes of persistent subscriptions.
    logged: usize,
    /// Unacknowledged pushes of temporary subscriptions, oldest first.
    temporary: VecDeque<(PushId, Arc<Subscription>)>,
    /// Pushes of temporary subscriptions that wait for room, by the address of the subscription.
    waiting: HashMap<usize, VecDeque<(PushId, Bytes)>, foldhash::fast::RandomState>,
    /// The subscriptions with waiting pushes, in turn.
    turns: VecDeque<Arc<Subscription>>,
    waiting_bytes: usize,
    /// Persistent subscriptions, by the key that push ids carry.
    pub(crate) by_key: HashMap<ChannelKey, Arc<Subscription>, foldhash::fast::RandomState>,
    /// Persistent subscriptions with messages in the log that were not pushed, in turn.
    pub(crate) behind: VecDeque<Arc<Subscription>>,
    /// A task reads the log for this session.
    pub(crate) resuming: bool,
    /// Messages of an earlier connection are sent again, before any other.
    pub(super) is_sending_again: bool,
    /// Redelivered pushes in flight, for clients that lose packets of a burst.
    careful: Option<Vec<Redelivered>>,
    /// Created on first use, for MQTT clients only.
    pub(super) packet_ids: Option<Box<PacketIds>>,
    /// The time since which the window has been full without an acknowledgement.
    full_since: Option<Instant>,
}

struct Redelivered {
    key: ChannelKey,
    seq: u64,
    bytes: usize,
}

/// A key that is unique while the subscription exists.
fn address(subscription: &Arc<Subscription>) -> usize {
    Arc::as_ptr(subscription).addr()
}

impl Window {
    pub(crate) fn new(size: usize, redelivery: Redelivery) -> Self {
        Self {
            size,
            logged: 0,
            temporary: VecDeque::new(),
            waiting: HashMap::default(),
            turns: VecDeque::new(),
            waiting_bytes: 0,
            by_key: HashMap::default(),
            behind: VecDeque::new(),
            resuming: false,
            is_sending_again: false,
            careful: (redelivery == Redelivery::Careful).then(Vec::new),
            packet_ids: None,
            full_since: None,
        }
    }

    /// The bytes of the pushes that wait for room, or until the store has recorded them.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes + self.unrecorded_bytes()
    }

    pub(super) fn unrecorded_bytes(&self) -> usize {
        self.packet_ids.as_ref().map_or(0, |ids| ids.waiting_bytes())
    }

    /// Counts the messages of earlier connections without an answer as unacknowledged ones of their subscription.
    pub(super) fn count_resumed(&mut self, position: &mut LogPosition) {
        let resumed = self.packet_ids.as_ref().map_or(0, |ids| ids.resumed_of(position.key));
        if resumed > 0 {
            position.in_flight += u32::try_from(resumed).unwrap_or(u32::MAX);
            self.logged_sent(resumed);
        }
    }

    /// The places of the unacknowledged messages that are not of persistent subscriptions of the client itself.
    pub(super) fn temporary_places(&self) -> HashSet<(ChannelKey, u64)> {
        let places = self.temporary.iter().filter_map(|(id, _)| id.place());
        places.map(|(key, Seq(seq))| (key, seq)).collect()
    }

    /// Returns `true` if this is a QoS 1 message of an earlier connection that was acknowledged.
    pub(super) fn has_acknowledged(&self, sent: &Sent) -> bool {
        let is_message = matches!(sent.step, SentStep::Acknowledge | SentStep::AcknowledgeRenamed);
        let Some((key, Seq(seq))) = sent.place.filter(|_| is_message) else {
            return false;
        };
        let is_in =
            |log: &LogState| matches!(log, LogState::Attached(position) if position.acked.contains(seq));
        self.by_key.get(&key).is_some_and(|subscription| is_in(&subscription.log()))
    }

    /// Returns `true` if a message must wait until the client has answered another one, which has its packet identifier.
    pub(super) fn must_wait(&self, key: ChannelKey, seq: u64) -> bool {
        self.packet_ids.as_ref().is_some_and(|ids| ids.must_wait(key, seq))
    }

    /// Returns `true` if the next message of a log must wait, unless it is not for this client.
    pub(super) fn next_must_wait(&self, position: &LogPosition) -> bool {
        self.packet_ids.as_ref().is_some_and(|ids| ids.has_perhaps())
            && (position.next..=position.seen)
                .find(|seq| !position.acked.contains(*seq))
                .is_some_and(|next| self.must_wait(position.key, next))
    }

    /// The number of messages of an earlier connection that may be sent again now.
    pub(super) fn room_for_again(&self) -> usize {
        self.size.saturating_sub(self.packet_ids.as_ref().map_or(0, |ids| ids.under_way()))
    }

    pub(super) fn in_flight(&self) -> usize {
        self.logged + self.temporary.len()
    }

    fn free(&self) -> usize {
        if self.is_sending_again {
            return 0;
        }
        self.size.saturating_sub(self.in_flight())
    }

    /// The number of further pushes for a channel with this many in flight. A channel that acknowledges nothing
    /// leaves room for others.
    fn share_left(&self, in_flight: usize) -> usize {
        let free = self.free();
        if self.size < SHARED_FROM {
            return free;
        }
        // The most `k` for which the last of them had fewer than PARTS times what was free before it.
        (PARTS * free).saturating_sub(in_flight).div_ceil(PARTS + 1)
    }

    /// The number of pushes of a persistent subscription with this many in flight that may be sent now. If both kinds
    /// wait, each kind gets half of the window, so that neither starves.
    pub(crate) fn room_for_logged(&self, in_flight: u32) -> usize {
        let share = self.share_left(in_flight as usize);
        if self.waiting.is_empty() {
            return share;
        }
        share.min((self.size / 2).max(1).saturating_sub(self.logged))
    }

    /// The share of the window for each subscription that is behind.
    pub(crate) fn share_of_one_behind(&self) -> usize {
        self.size.div_ceil(self.behind.len().max(1))
    }

    fn has_room_for_temporary(&self, subscription: &Subscription) -> bool {
        // Nothing of a subscription comes before its `subAck`, which follows soon.
        if subscription.stage() == Stage::Opening {
            return false;
        }
        let halved = !self.behind.is_empty() && self.temporary.len() >= (self.size / 2).max(1);
        !halved && self.share_left(subscription.temporary_in_flight()) > 0
    }

    fn send_temporary(&mut self, id: PushId, subscription: &Arc<Subscription>) {
        subscription.add_temporary_in_flight();
        self.temporary.push_back((id, Arc::clone(subscription)));
        self.note_if_full();
    }

    /// Returns `true` if a redelivery of this size may be sent now. A single one is always allowed.
    pub(crate) fn has_room_for_redelivery(&self, bytes: usize) -> bool {
        self.careful.as_ref().is_none_or(|redelivered| {
            let in_flight: usize = redelivered.iter().map(|push| push.bytes).sum();
            redelivered.is_empty() || in_flight + bytes <= CAREFUL_REDELIVERY_BYTES
        })
    }

    pub(crate) fn redelivered(&mut self, key: ChannelKey, seq: u64, bytes: usize) {
        if let Some(redelivered) = &mut self.careful {
            redelivered.push(Redelivered { key, seq, bytes });
        }
    }

    /// Records that a redelivery is acknowledged.
    pub(crate) fn redelivery_ended(&mut self, key: ChannelKey, seq: u64) {
        if let Some(redelivered) = &mut self.careful {
            redelivered.retain(|push| push.key != key || push.seq != seq);
        }
    }

    /// Gives up the redeliveries of this channel up to `seq`.
    pub(crate) fn redeliveries_ended_up_to(&mut self, key: ChannelKey, seq: u64) {
        if let Some(redelivered) = &mut self.careful {
            redelivered.retain(|push| push.key != key || push.seq > seq);
        }
    }

    pub(crate) fn logged_sent(&mut self, count: usize) {
        self.logged += count;
        self.note_if_full();
    }

    pub(crate) fn logged_ended(&mut self, count: usize) {
        self.logged = self.logged.saturating_sub(count);
        self.full_since = None;
        self.note_if_full();
    }

    /// Puts a temporary push in flight; returns `false` if it must wait.
    pub(crate) fn try_send_temporary(&mut self, id: PushId, subscription: &Arc<Subscription>) -> bool {
        let waits = !self.waiting.is_empty() && self.waiting.contains_key(&address(subscription));
        if waits || !self.has_room_for_temporary(subscription) {
            return false;
        }
        self.send_temporary(id, subscription);
        true
    }

    /// Keeps a temporary push for later; returns `false` if that would exceed `limit` bytes.
    pub(crate) fn wait(
        &mut self,
        id: PushId,
        subscription: &Arc<Subscription>,
        bytes: Bytes,
        limit: usize,
    ) -> bool {
        if !self.waiting.is_empty() && self.waiting_bytes + bytes.len() > limit {
            return false;
        }
        self.waiting_bytes += bytes.len() + WAITING_OVERHEAD;
        let pushes = self.waiting.entry(address(subscription)).or_default();
        if pushes.is_empty() {
            self.turns.push_back(Arc::clone(subscription));
        }
        pushes.push_back((id, bytes));
        true
    }

    /// Takes the next waiting push and puts it in flight, if there is room.
    pub(crate) fn next_waiting(&mut self) -> Option<(PushId, Arc<Subscription>, Bytes)> {
        if self.free() == 0 {
            return None;
        }
        // Few are skipped: each of them already has a share of the window.
        let at = self.turns.iter().position(|subscription| self.has_room_for_temporary(subscription))?;
        let subscription = self.turns.remove(at)?;
        let pushes = self.waiting.get_mut(&address(&subscription))?;
        let (id, bytes) = pushes.pop_front()?;
        if pushes.is_empty() {
            self.waiting.remove(&address(&subscription));
            if self.waiting.is_empty() && self.waiting.capacity() > MUCH {
                (self.waiting, self.turns) = (HashMap::default(), VecDeque::new());
            }
        } else {
            self.turns.push_back(Arc::clone(&subscription));
        }
        self.waiting_bytes -= bytes.len() + WAITING_OVERHEAD;
        self.send_temporary(id, &subscription);
        Some((id, subscription, bytes))
    }

    /// Records a `pushAck` for a temporary push, and returns its subscription; `None` if that push is not in flight.
    pub(crate) fn acknowledge_temporary(&mut self, id: PushId) -> Option<Arc<Subscription>> {
        let at = self.temporary.iter().position(|(sent, _)| *sent == id)?;
        let (_, subscription) = self.temporary.remove(at)?;
        subscription.remove_temporary_in_flight();
        self.full_since = None;
        self.note_if_full();
        Some(subscription)
    }

    /// Removes the pushes of a subscription that has ended, in flight and waiting.
    pub(crate) fn forget(&mut self, channel: &ChannelName) {
        let before = self.in_flight();
        self.temporary.retain(|(_, subscription)| {
            let keep = subscription.channel != *channel;
            if !keep {
                subscription.remove_temporary_in_flight();
            }
            keep
        });
        self.behind.retain(|subscription| subscription.channel != *channel);
        let (waiting, waiting_bytes) = (&mut self.waiting, &mut self.waiting_bytes);
        self.turns.retain(|subscription| {
            let keep = subscription.channel != *channel;
            if !keep && let Some(pushes) = waiting.remove(&address(subscription)) {
                *waiting_bytes -=
                    pushes.iter().map(|(_, bytes)| bytes.len() + WAITING_OVERHEAD).sum::<usize>();
            }
            keep
        });
        if self.in_flight() < before {
            self.full_since = None;
        }
    }

    pub(crate) fn full_since(&self) -> Option<Instant> {
        self.full_since
    }

    /// Records whether the window is full. It also counts as full if a channel has its whole share, because a client
    /// that acknowledges nothing does not fill it further.
    fn note_if_full(&mut self) {
        let reserve = if self.size < SHARED_FROM { 0 } else { self.size.div_ceil(PARTS + 1) };
        if self.free() <= reserve && self.full_since.is_none() {
            self.full_since = Some(Instant::now());
        }
    }
}
