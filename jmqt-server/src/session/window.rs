//! What a client has been sent and not acknowledged, and what waits for room (protocol.md 2.14).

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use jmqt_protocol::ChannelName;

use super::push_id::PushId;
use super::subscription::Subscription;
use crate::store::ChannelKey;

/// How many bytes of redelivered pushes an original client on a socket gets at a time.
const CAREFUL_REDELIVERY_BYTES: usize = 1000;

/// What a push that waits takes beside its bytes.
const WAITING_OVERHEAD: usize = 96;

/// The QoS 1 side of one session. Made when the session needs it first.
pub(crate) struct Window {
    /// How many pushes may be unacknowledged at a time.
    size: usize,
    /// Unacknowledged pushes of persistent subscriptions.
    logged: usize,
    /// Unacknowledged pushes of temporary subscriptions, oldest first.
    temporary: VecDeque<(PushId, Arc<Subscription>)>,
    /// Pushes of temporary subscriptions that found the window full.
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Persistent subscriptions, by the key that push ids carry.
    pub(crate) by_key: HashMap<ChannelKey, Arc<Subscription>, foldhash::fast::RandomState>,
    /// Persistent subscriptions with messages in the log that were not pushed, in turn.
    pub(crate) behind: VecDeque<Arc<Subscription>>,
    /// A task reads the log for this session.
    pub(crate) resuming: bool,
    /// Redelivered pushes in flight, for clients that lose packets of a burst.
    careful: Option<Vec<Redelivered>>,
    /// Since when the window has been full without any acknowledgement.
    full_since: Option<Instant>,
}

struct Redelivered {
    key: ChannelKey,
    seq: u64,
    bytes: usize,
}

struct Waiting {
    id: PushId,
    subscription: Arc<Subscription>,
    bytes: Bytes,
}

impl Window {
    /// `careful`: an original client on a socket, which gets redeliveries in small portions.
    pub(crate) fn new(size: usize, careful: bool) -> Self {
        Self {
            size,
            logged: 0,
            temporary: VecDeque::new(),
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            by_key: HashMap::default(),
            behind: VecDeque::new(),
            resuming: false,
            careful: careful.then(Vec::new),
            full_since: None,
        }
    }

    /// What the pushes take that found no room.
    pub(crate) fn waiting_bytes(&self) -> usize {
        self.waiting_bytes
    }

    fn in_flight(&self) -> usize {
        self.logged + self.temporary.len()
    }

    /// How many pushes of persistent subscriptions may go out now. While both kinds wait, each is
    /// left half of the window, so that neither starves.
    pub(crate) fn room_for_logged(&self) -> usize {
        let free = self.size.saturating_sub(self.in_flight());
        if self.waiting.is_empty() {
            return free;
        }
        free.min((self.size / 2).max(1).saturating_sub(self.logged))
    }

    /// What each of the subscriptions that are behind may have of the window, so that all get some.
    pub(crate) fn share_of_one_behind(&self) -> usize {
        self.size.div_ceil(self.behind.len().max(1))
    }

    fn has_room_for_temporary(&self) -> bool {
        let shared = !self.behind.is_empty() && self.temporary.len() >= (self.size / 2).max(1);
        self.in_flight() < self.size && !shared
    }

    /// Whether a redelivery of so many bytes may go out now: one always may, if it is alone.
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

    /// Redeliveries of this channel up to `seq` are acknowledged (`only` that one) or given up.
    pub(crate) fn redelivery_ended(&mut self, key: ChannelKey, seq: u64, only: bool) {
        if let Some(redelivered) = &mut self.careful {
            let ended = |push: &Redelivered| push.seq == seq || !only && push.seq < seq;
            redelivered.retain(|push| push.key != key || !ended(push));
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

    /// Takes a temporary push into flight; `false` if it has to wait.
    pub(crate) fn try_send_temporary(&mut self, id: PushId, subscription: &Arc<Subscription>) -> bool {
        if !self.waiting.is_empty() || !self.has_room_for_temporary() {
            return false;
        }
        self.temporary.push_back((id, Arc::clone(subscription)));
        self.note_if_full();
        true
    }

    /// Keeps a temporary push for later; `false` if that would be more than `limit` bytes.
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
        self.waiting.push_back(Waiting { id, subscription: Arc::clone(subscription), bytes });
        true
    }

    /// The next waiting push, now in flight, if there is room.
    pub(crate) fn next_waiting(&mut self) -> Option<Bytes> {
        if self.waiting.is_empty() || !self.has_room_for_temporary() {
            return None;
        }
        let waiting = self.waiting.pop_front()?;
        self.waiting_bytes -= waiting.bytes.len() + WAITING_OVERHEAD;
        self.temporary.push_back((waiting.id, waiting.subscription));
        self.note_if_full();
        Some(waiting.bytes)
    }

    /// A `pushAck` for a temporary push; `false` if there is no such one in flight.
    pub(crate) fn acknowledge_temporary(&mut self, id: PushId) -> bool {
        let Some(at) = self.temporary.iter().position(|(sent, _)| *sent == id) else {
            return false;
        };
        self.temporary.remove(at);
        self.full_since = None;
        self.note_if_full();
        true
    }

    /// The subscription has ended: nothing of it is in flight or waiting any more.
    pub(crate) fn forget(&mut self, channel: &ChannelName) {
        let before = self.in_flight();
        self.temporary.retain(|(_, subscription)| subscription.channel != *channel);
        self.behind.retain(|subscription| subscription.channel != *channel);
        let waiting_bytes = &mut self.waiting_bytes;
        self.waiting.retain(|waiting| {
            let keep = waiting.subscription.channel != *channel;
            if !keep {
                *waiting_bytes -= waiting.bytes.len() + WAITING_OVERHEAD;
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

    fn note_if_full(&mut self) {
        if self.in_flight() >= self.size && self.full_since.is_none() {
            self.full_since = Some(Instant::now());
        }
    }
}
