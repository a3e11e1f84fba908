//! What other tasks may touch of a session, all of it under one short lock.
//!
//! Publishers append pushes here and, on plain connections, write them to the socket right away, so
//! that a fan-out costs neither a task switch nor a copy. Once the kernel takes less than everything,
//! only the session's own task writes, until nothing is left. Bytes are appended and written under
//! the same lock, so they never change places; whether the client is still subscribed is looked at
//! under it too, so nothing follows an `unsubAck`.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::Instant;

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use jmqt_protocol::{ChannelName, ClientId, Packet, Persistence};
use tokio::net::tcp::OwnedWriteHalf;

use super::push_id::{IdSpace, PushId};
use super::queue::{COPIED_BYTES, SLICES, SendQueue};
use super::subscription::{Changing, LogPosition, LogState, Named, Stage, Subscription};
use super::window::Window;
use crate::budget::Budget;
use crate::connection::CloseReason;
use crate::counters::Counters;
use crate::disconnect::Disconnect;
use crate::hub::{Pushes, RetainedPush};
use crate::log_limit::log_limited;
use crate::name_map::NameSet;
use crate::packet_trace;
use crate::store::{ChannelKey, CursorUpdate, LogPlace, Seq, Stamp, StoredSubscription};
use crate::transport::Framing;

/// A queue of at most so many bytes is always possible, and is not counted among what waits for all clients.
const SMALL_QUEUE_BYTES: usize = 64 * 1024;
/// With more than this a client is closed when too much waits for all clients together.
const LARGE_QUEUE_BYTES: usize = 1 << 20;

/// When appended bytes go to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// At once.
    Now,
    /// When the caller calls [`Outbox::flush`]: more is to come.
    Later,
}

/// What all outboxes of a server share.
pub(crate) struct OutboxContext {
    /// OUTBOUND_QUEUE_BYTES.
    pub(crate) queue_bytes: usize,
    /// MAX_TOTAL_OUTBOUND_BYTES.
    pub(crate) outbound: Budget,
    pub(crate) counters: Arc<Counters>,
    pub(crate) ids: IdSpace,
    /// Sessions whose cursors have moved since they were last written to the store.
    pub(crate) moved_cursors: Mutex<Vec<Arc<Outbox>>>,
}

/// Where the pushes of an [`Outbox::offer`] come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// They have just been committed. Before the session [goes live](Outbox::go_live) they wait.
    Live,
    /// They were committed a moment ago, and a resume has asked for them.
    Memory,
    /// They were read from this log, which holds nothing else up to this place: gaps are final.
    Log {
        key: ChannelKey,
        /// The last place this read has covered.
        through: u64,
    },
}

impl Source {
    /// The log they come from; `None` if they are in none.
    fn log(self, logged: &LoggedPushes) -> Option<ChannelKey> {
        match self {
            Self::Log { key, .. } => Some(key),
            Self::Live | Self::Memory => {
                logged.messages.iter().find_map(|message| message.id.place()).map(|(key, _)| key)
            }
        }
    }
}

/// QoS 1 pushes of one channel, in log order.
pub(crate) struct LoggedPushes {
    pub(crate) pushes: Pushes,
    pub(crate) messages: Vec<LoggedPush>,
}

impl LoggedPushes {
    /// The channel's key and the first and last place in its log; `None` if nothing of it is logged.
    pub(crate) fn places(&self) -> Option<(ChannelKey, u64, u64)> {
        let mut places = self.messages.iter().filter_map(|message| message.id.place());
        let (key, Seq(first)) = places.next()?;
        Some((key, first, places.next_back().map_or(first, |(_, Seq(last))| last)))
    }

    /// The last message that is in the log.
    pub(crate) fn last_logged(&self) -> Option<(ChannelKey, Seq)> {
        self.messages.iter().rev().find_map(|message| message.id.place())
    }
}

/// What the windows need to know of each of them.
#[derive(Debug, Clone)]
pub(crate) struct LoggedPush {
    pub(crate) id: PushId,
    pub(crate) sender: Option<ClientId>,
}

/// See [`Outbox::duties`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Duties {
    /// Why the connection is to be closed, if it is.
    pub(crate) closed: Option<CloseReason>,
    /// The session's task has something to write.
    pub(crate) blocked: bool,
    /// So much is waiting that the session must not read on.
    pub(crate) full: bool,
}

/// A publish that is being submitted: dropped without [`keep`](Self::keep), it was not.
pub(crate) struct Submitted<'a>(Option<&'a Outbox>);

impl Submitted<'_> {
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Submitted<'_> {
    fn drop(&mut self) {
        if let Some(outbox) = self.0 {
            outbox.lock().unsettled -= 1;
        }
    }
}

/// What came of an [`Outbox::offer`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Offered {
    /// The caller is the one to [`flush`](Outbox::flush).
    pub(crate) flush: bool,
    /// Not everything was taken: the log will be needed.
    pub(crate) behind: bool,
}

/// A part of the log that a session wants read.
pub(crate) struct Missing {
    pub(crate) subscription: Arc<Subscription>,
    pub(crate) key: ChannelKey,
    pub(crate) after: u64,
    /// The last message known to be there.
    pub(crate) seen: u64,
    pub(crate) count: usize,
}

/// One session's outgoing side.
pub(crate) struct Outbox {
    pub(crate) framing: Framing,
    pub(crate) context: Arc<OutboxContext>,
    waker: AtomicWaker,
    state: Mutex<State>,
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.context.outbound.change(state.counted, 0);
    }
}

#[derive(Default)]
struct Held {
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Held {
    fn hold_retained(&mut self, RetainedPush { head, data, tail }: RetainedPush) {
        for piece in [head.into(), data, tail.into()] {
            self.bytes += piece.len();
            self.pieces.push(piece);
        }
    }
}

#[derive(Default)]
struct State {
    /// Plain connections only: TLS has to be encrypted by the session's own task.
    inline: Option<OwnedWriteHalf>,
    queue: SendQueue,
    /// Bytes the kernel has taken so far.
    written: u64,
    /// The kernel took less than everything: the session's task writes the rest.
    blocked: bool,
    /// Appended with [`Flush::Later`], and [`Outbox::flush`] has not come yet.
    unflushed: bool,
    closed: Option<CloseReason>,
    /// What the client is told of it, if that is more than the reason says.
    farewell: Option<Box<Disconnect>>,
    /// QoS 0 pushes that came before the `connAck`, or before the `subAck` of their subscription. Boxed,
    /// because there are seldom any.
    held: Option<Box<Held>>,
    connecting: bool,
    subscriptions: NameSet<Named>,
    window: Option<Box<Window>>,
    window_size: u32,
    careful: bool,
    cursors_listed: bool,
    /// QoS 1 publishes of this session that the store has not settled.
    unsettled: usize,
    /// Changes of its subscriptions that are with the store.
    changing: u32,
    leaving: bool,
    /// What has been counted of what waits here, in multiples of [`SMALL_QUEUE_BYTES`].
    counted: usize,
}

impl State {
    fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.bytes)
    }

    /// Everything that waits for the client, in the queue, in the window and until it is live.
    fn waiting(&self) -> usize {
        self.queue.len() + self.held_bytes() + self.window.as_ref().map_or(0, |window| window.waiting_bytes())
    }

    fn window(&mut self) -> &mut Window {
        let (size, careful) = (self.window_size as usize, self.careful);
        self.window.get_or_insert_with(|| Box::new(Window::new(size, careful)))
    }
}

impl Outbox {
    pub(crate) fn new(framing: Framing, inline: Option<OwnedWriteHalf>, context: Arc<OutboxContext>) -> Self {
        let state = State { inline, connecting: true, ..State::default() };
        Self { framing, context, waker: AtomicWaker::new(), state: Mutex::new(state) }
    }

    /// The client takes so many pushes at a time, and redeliveries carefully or not (2.14).
    pub(crate) fn set_window(&self, window_size: u32, careful: bool) {
        let mut state = self.lock();
        state.window_size = window_size;
        state.careful = careful;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // ---- the session's own task ---------------------------------------------------------------

    /// Wakes the session's task whenever it has something to do here.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// Why the connection is to be closed, if it is.
    pub(crate) fn closed(&self) -> Option<CloseReason> {
        self.lock().closed
    }

    /// Closes the connection. The first reason counts.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.lock().closed.get_or_insert(reason);
        self.waker.wake();
    }

    /// The same, and the client is told this (protocol.md 2.22).
    pub(crate) fn close_saying(&self, reason: CloseReason, farewell: Disconnect) {
        let mut state = self.lock();
        if state.closed.is_none() {
            (state.closed, state.farewell) = (Some(reason), Some(Box::new(farewell)));
        }
        drop(state);
        self.waker.wake();
    }

    /// What the client of a connection that ends for this reason is told; `None`: nothing.
    pub(crate) fn farewell(&self, reason: CloseReason) -> Option<Box<Disconnect>> {
        let mut state = self.lock();
        let farewell = if state.closed == Some(reason) { state.farewell.take() } else { None };
        farewell.or_else(|| Disconnect::because(reason).map(Box::new))
    }

    /// Appends a packet of the session's own: an acknowledgement, mostly. `true` if the queue is full now: the
    /// session must handle nothing more until the client has taken some of it.
    pub(crate) fn answer(&self, packet: &Packet<'_>) -> bool {
        let mut framed = Vec::new();
        match self.framing {
            Framing::Nul => {
                packet.encode(&mut framed);
                framed.push(jmqt_protocol::NUL);
            }
            Framing::WebSocket => {
                let mut text = Vec::new();
                packet.encode(&mut text);
                self.framing.frame(&text, &mut framed);
            }
        }
        let mut state = self.lock();
        if framed.len() <= COPIED_BYTES {
            state.queue.push_copy(&framed);
        } else {
            framed.shrink_to_fit();
            state.queue.push(framed.into());
        }
        self.is_full(&state)
    }

    fn is_full(&self, state: &State) -> bool {
        state.queue.len() >= self.limit()
    }

    /// What may wait in the queue now: little, if too much waits for all clients together.
    fn limit(&self) -> usize {
        let limit = self.context.queue_bytes;
        if self.context.outbound.is_used_up() { limit.min(SMALL_QUEUE_BYTES) } else { limit }
    }

    /// Counts what waits here among what waits for all clients, once it is more than a little.
    fn count(&self, state: &mut State) {
        let now = state.waiting() / SMALL_QUEUE_BYTES * SMALL_QUEUE_BYTES;
        if now != state.counted {
            self.context.outbound.change(std::mem::replace(&mut state.counted, now), now);
        }
    }

    /// A push had to be dropped. If that is because too much waits for all clients, the ones for whom most
    /// of it waits have to go.
    fn shed_if_large(&self, state: &mut State) {
        if state.counted < LARGE_QUEUE_BYTES || !self.context.outbound.is_used_up() || state.closed.is_some()
        {
            return;
        }
        self.context.counters.outbound_closed.increment();
        let bytes = state.counted;
        log_limited!(warn, target: "jmqt::session", bytes, "closing a client that does not read: MAX_TOTAL_OUTBOUND_BYTES wait for all clients together");
        state.closed = Some(CloseReason::QueueOverflow);
        self.waker.wake();
    }

    /// Appends bytes that are framed already.
    pub(crate) fn append(&self, bytes: Bytes) {
        self.lock().queue.push(bytes);
    }

    /// Appends bytes after which nothing more is sent.
    pub(crate) fn end_with(&self, bytes: &[u8]) {
        self.lock().queue.end_with(bytes);
    }

    /// Writes what it can, unless the session's task is at it already.
    pub(crate) fn flush(&self) {
        let mut state = self.lock();
        state.unflushed = false;
        self.flush_locked(&mut state);
    }

    fn flush_locked(&self, state: &mut State) {
        self.write_now(state);
        self.count(state);
    }

    fn write_now(&self, state: &mut State) {
        if state.blocked || state.queue.is_empty() {
            return;
        }
        if state.inline.is_none() {
            state.blocked = true;
            self.waker.wake();
            return;
        }
        while !state.queue.is_empty() {
            if let Err(error) = write_queue(state) {
                return self.write_failed(state, &error);
            }
            self.pump(state); // what found the queue full
        }
    }

    fn write_failed(&self, state: &mut State, error: &io::Error) {
        if error.kind() == io::ErrorKind::WouldBlock {
            state.blocked = true;
        } else {
            state.closed.get_or_insert(CloseReason::ConnectionLost);
        }
        self.waker.wake();
    }

    /// What the session's task has to know before it waits.
    pub(crate) fn duties(&self) -> Duties {
        let state = self.lock();
        Duties { closed: state.closed, blocked: state.blocked, full: self.is_full(&state) }
    }

    /// Lets go of the socket, which closes it: what is appended from now on goes nowhere.
    pub(crate) fn release_socket(&self) {
        let mut state = self.lock();
        state.inline = None;
        state.queue = SendQueue::default();
        self.count(&mut state);
    }

    /// Goes on writing where the kernel took too little; `true` when nothing is left.
    pub(crate) fn drain_plain(&self) -> io::Result<bool> {
        let mut state = self.lock();
        let result = write_queue(&mut state);
        self.drained(&mut state, result)
    }

    /// Lets the session's task write in its own way (TLS).
    pub(crate) fn drain_with(&self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        let mut state = self.lock();
        let mut taken = 0;
        let result = state.queue.write_with(1, |slices| {
            let count = write(&slices[0])?;
            taken += count as u64;
            Ok(count)
        });
        state.written += taken;
        self.drained(&mut state, result)
    }

    fn drained(&self, state: &mut State, result: io::Result<()>) -> io::Result<bool> {
        if result.is_ok() {
            self.pump(state); // what found the queue full
        }
        self.count(state);
        match result {
            Ok(()) => {
                state.blocked = !state.queue.is_empty();
                Ok(!state.blocked)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Bytes taken by the kernel so far, and bytes waiting.
    pub(crate) fn progress(&self) -> (u64, usize) {
        let state = self.lock();
        (state.written, state.queue.len())
    }

    pub(crate) fn window_full_since(&self) -> Option<Instant> {
        self.lock().window.as_ref()?.full_since()
    }

    // ---- publishes of this session that wait for the disk --------------------------------------

    pub(crate) fn publish_submitted(&self) -> Submitted<'_> {
        self.lock().unsettled += 1;
        Submitted(Some(self))
    }

    /// The client is leaving: its task wants to be woken when nothing is unsettled any more.
    pub(crate) fn leave(&self) {
        self.lock().leaving = true;
    }

    /// Whether acknowledgements of earlier publishes are still to come (2.10, 2.16).
    pub(crate) fn has_unsettled(&self) -> bool {
        self.lock().unsettled > 0
    }

    /// A change of this session's subscriptions goes to the store.
    pub(crate) fn change_submitted(&self) {
        self.lock().changing += 1;
    }

    /// The store has settled it.
    pub(crate) fn change_settled(&self) {
        let mut state = self.lock();
        state.changing = state.changing.saturating_sub(1);
    }

    /// Whether a change of its subscriptions is with the store.
    pub(crate) fn is_changing(&self) -> bool {
        self.lock().changing > 0
    }

    /// Whether the store may still have something to do for this session.
    pub(crate) fn is_with_store(&self) -> bool {
        let state = self.lock();
        state.unsettled > 0 || state.changing > 0
    }

    /// Appends the `pubAck` of a publish that is settled; flushed later. `true` if the caller is the
    /// one to flush.
    pub(crate) fn settle(&self, ack: &Packet<'_>) -> bool {
        // Whose it is, nobody knows here; the packet id tells.
        packet_trace::sent("", ack);
        self.answer(ack);
        let mut state = self.lock();
        state.unsettled -= 1;
        if state.unsettled == 0 && state.leaving {
            self.waker.wake();
        }
        !std::mem::replace(&mut state.unflushed, true)
    }

    // ---- subscriptions -------------------------------------------------------------------------

    pub(crate) fn subscription(&self, channel: &str) -> Option<Arc<Subscription>> {
        self.lock().subscriptions.get(channel).map(|Named(subscription)| Arc::clone(subscription))
    }

    /// How many subscriptions the client has, and how many of them are persistent; its own point-to-point
    /// channel is not counted.
    pub(crate) fn subscription_counts(&self, own_channel: &str) -> (usize, usize) {
        let state = self.lock();
        let own = state.subscriptions.get(own_channel);
        let own_persistent = own.is_some_and(|Named(own)| own.persistence() == Persistence::Persistent);
        let persistent = state.window.as_ref().map_or(0, |window| window.by_key.len());
        (
            state.subscriptions.len() - usize::from(own.is_some()),
            persistent.saturating_sub(usize::from(own_persistent)),
        )
    }

    pub(crate) fn subscriptions(&self) -> Vec<Arc<Subscription>> {
        self.lock().subscriptions.iter().map(|Named(subscription)| Arc::clone(subscription)).collect()
    }

    /// Adds a subscription; what was there under this name stays.
    pub(crate) fn insert_subscription(&self, subscription: &Arc<Subscription>) -> bool {
        let mut state = self.lock();
        // One that is there already stays.
        state.closed.is_none() && state.subscriptions.insert(Named(Arc::clone(subscription)))
    }

    /// Ends a subscription: nothing of it is pushed after this returns.
    pub(crate) fn remove_subscription(&self, channel: &str) -> Option<Arc<Subscription>> {
        let mut state = self.lock();
        let Named(subscription) = state.subscriptions.take(channel)?;
        self.end_subscription(&mut state, &subscription);
        Some(subscription)
    }

    fn end_subscription(&self, state: &mut State, subscription: &Subscription) {
        subscription.set_stage(Stage::Ended);
        self.detach_locked(state, subscription);
        if let Some(window) = &mut state.window {
            window.forget(&subscription.channel);
        }
        self.pump(state);
    }

    /// Ends at most so many subscriptions and hands them over, to be taken from their channels; `None` when
    /// there is none left. For the end of a session, or of one that did not come about.
    pub(crate) fn remove_subscriptions(&self, limit: usize) -> Option<Vec<Arc<Subscription>>> {
        let mut state = self.lock();
        let removed = state.subscriptions.extract_if(|_| true).take(limit);
        let removed: Vec<_> = removed.map(|Named(subscription)| subscription).collect();
        for subscription in &removed {
            subscription.set_stage(Stage::Ended);
        }
        state.held = None;
        // It holds references back to the subscriptions, and they to this outbox.
        let window = state.window.take();
        drop(state);
        drop(window);
        (!removed.is_empty()).then_some(removed)
    }

    /// The store has said where a persistent subscription stands.
    pub(crate) fn attach(&self, subscription: &Arc<Subscription>, stored: &StoredSubscription) {
        let mut state = self.lock();
        if subscription.stage() == Stage::Ended {
            return;
        }
        let mut log = subscription.log();
        let seen = match *log {
            LogState::Attaching { seen } => seen,
            LogState::Changing(ref mut changing) => {
                let changing = std::mem::take(&mut **changing);
                // What the log has from the new beginning on is pushed from there.
                let is_in_log = |id: PushId| {
                    id.place().is_some_and(|(key, seq)| key == stored.key && seq.0 > stored_up_to(stored))
                };
                let earlier = changing.kept.into_iter().filter(|(id, _)| !is_in_log(*id));
                self.push_kept(&mut state, subscription, earlier);
                changing.seen
            }
            LogState::Temporary => None,
            LogState::Attached(_) => return,
        };
        let mut position = LogPosition::new(stored);
        if let Some((key, Seq(seq))) = seen
            && key == position.key
        {
            position.seen = position.seen.max(seq);
        }
        let window = state.window();
        window.by_key.insert(position.key, Arc::clone(subscription));
        list_if_behind(window, subscription, &mut position);
        *log = LogState::Attached(Box::new(position));
    }

    /// The store is about to make a temporary subscription persistent: until it has said from where on, nothing
    /// is pushed. Whatever happens, [`end_change`](Self::end_change) is called afterwards.
    pub(crate) fn begin_change(&self, subscription: &Subscription) {
        let _state = self.lock();
        let mut log = subscription.log();
        if let LogState::Temporary = *log {
            *log = LogState::Changing(Box::default());
        }
    }

    /// If it has not become persistent, it is temporary as before, and what was kept follows.
    pub(crate) fn end_change(&self, subscription: &Arc<Subscription>) {
        let mut state = self.lock();
        let mut log = subscription.log();
        let LogState::Changing(changing) = &mut *log else { return };
        let kept = std::mem::take(&mut changing.kept);
        *log = LogState::Temporary;
        drop(log);
        if subscription.stage() != Stage::Ended {
            self.push_kept(&mut state, subscription, kept);
        }
        self.flush_locked(&mut state);
    }

    fn push_kept(
        &self,
        state: &mut State,
        subscription: &Arc<Subscription>,
        kept: impl IntoIterator<Item = (PushId, Bytes)>,
    ) {
        for (id, bytes) in kept {
            if !self.push_temporary(state, subscription, id, bytes) {
                return;
            }
        }
    }

    /// A persistent subscription becomes temporary: its place in the log is forgotten.
    pub(crate) fn detach(&self, subscription: &Subscription) {
        let mut state = self.lock();
        self.detach_locked(&mut state, subscription);
        self.pump(&mut state);
    }

    fn detach_locked(&self, state: &mut State, subscription: &Subscription) {
        let mut log = subscription.log();
        if let LogState::Attached(position) = &*log
            && let Some(window) = &mut state.window
        {
            window.by_key.remove(&position.key);
            window.logged_ended(position.in_flight as usize);
            window.redelivery_ended(position.key, u64::MAX, false);
            window.behind.retain(|behind| behind.channel != subscription.channel);
        }
        *log = LogState::Temporary;
    }

    /// The subscription's `subAck` and retained message are queued, and what was held follows. `true` if the
    /// queue is full now.
    pub(crate) fn open(
        &self,
        subscription: &Subscription,
        answer: Option<&Packet<'_>>,
        retained: Option<RetainedPush>,
    ) -> bool {
        if let Some(answer) = answer {
            packet_trace::sent(subscription.client.as_str(), answer);
            self.answer(answer);
        }
        let mut state = self.lock();
        if let Some(retained) = retained {
            match subscription.stage() {
                Stage::Ended => {} // in the meantime, and nothing follows that
                // Nothing comes before the `connAck`.
                _ if state.connecting => state.held.get_or_insert_default().hold_retained(retained),
                _ => append_retained(&mut state.queue, retained),
            }
        }
        if subscription.stage() == Stage::Opening {
            subscription.set_stage(Stage::Live);
        }
        if !state.connecting {
            self.release_held(&mut state);
        }
        self.is_full(&state)
    }

    /// Queues a retained message of a subscription that there has been for a while, unless it has ended.
    pub(crate) fn append_retained(&self, channel: &ChannelName, retained: RetainedPush) {
        let mut state = self.lock();
        if state.subscriptions.contains(channel.as_str()) {
            append_retained(&mut state.queue, retained);
        }
    }

    /// Whether [`go_live`](Self::go_live) is still to come.
    pub(crate) fn is_connecting(&self) -> bool {
        self.lock().connecting
    }

    /// The `connAck`, the first window and the retained messages are queued: live pushes follow (2.3).
    pub(crate) fn go_live(&self) {
        let mut state = self.lock();
        state.connecting = false;
        self.release_held(&mut state);
    }

    fn release_held(&self, state: &mut State) {
        for bytes in state.held.take().into_iter().flat_map(|held| held.pieces) {
            state.queue.push(bytes);
        }
        self.pump(state);
    }

    // ---- QoS 0 ---------------------------------------------------------------------------------

    /// Appends QoS 0 pushes for one subscription, as many as fit. `true` if the caller is the one to
    /// [`flush`](Self::flush).
    pub(crate) fn push(&self, subscription: &Subscription, pushes: &Pushes, flush: Flush) -> bool {
        let framed = pushes.framed(self.framing);
        let mut state = self.lock();
        let stage = subscription.stage();
        if state.closed.is_some() || stage == Stage::Ended {
            return false;
        }
        let holding = state.connecting || stage == Stage::Opening;
        let waiting = state.queue.len() + state.held_bytes();
        let count = fitting(&framed.ends, waiting, self.limit());
        let dropped = framed.ends.len() - count;
        if dropped > 0 {
            self.context.counters.pushes_dropped.add(dropped as u64);
            self.shed_if_large(&mut state);
        }
        if count == 0 {
            return false;
        }
        self.context.counters.pushes_sent.add(count as u64);
        let bytes = &framed.bytes;
        let length = framed.start(count);
        packet_trace::pushed(
            subscription.client.as_str(),
            subscription.channel.as_str(),
            0,
            count as u64,
            length,
        );
        if holding {
            let held = state.held.get_or_insert_default();
            held.bytes += length;
            held.pieces.push(framed.messages(0..count));
            self.count(&mut state);
            return false;
        }
        if flush == Flush::Now && state.queue.is_empty() && !state.blocked && state.inline.is_some() {
            self.write_or_keep(&mut state, bytes, length);
            return false;
        }
        if length <= COPIED_BYTES {
            state.queue.push_copy(&bytes[..length]);
        } else {
            state.queue.push(framed.messages(0..count));
        }
        match flush {
            Flush::Now => {
                self.flush_locked(&mut state);
                false
            }
            Flush::Later => !std::mem::replace(&mut state.unflushed, true),
        }
    }

    /// The way of most pushes: straight from the shared bytes into the kernel.
    fn write_or_keep(&self, state: &mut State, bytes: &Bytes, length: usize) {
        let Some(socket) = &state.inline else { return };
        match socket.try_write(&bytes[..length]) {
            Ok(taken) => {
                state.written += taken as u64;
                if taken < length {
                    state.queue.push(bytes.slice(taken..length));
                    state.blocked = true;
                    self.count(state);
                    self.waker.wake();
                }
            }
            Err(error) => {
                state.queue.push(bytes.slice(..length));
                self.count(state);
                self.write_failed(state, &error);
            }
        }
    }

    // ---- QoS 1 ---------------------------------------------------------------------------------

    /// Offers QoS 1 pushes to one subscription: what its window takes is appended, the rest waits (in
    /// the log for a persistent subscription, in memory for a temporary one).
    pub(crate) fn offer(
        &self,
        subscription: &Arc<Subscription>,
        logged: &LoggedPushes,
        source: Source,
    ) -> Offered {
        let mut state = self.lock();
        if state.closed.is_some() || subscription.stage() == Stage::Ended {
            return Offered { flush: false, behind: false };
        }
        let mut log = subscription.log();
        let (moved, behind) = match &mut *log {
            LogState::Temporary => {
                self.offer_temporary(&mut state, subscription, logged);
                (false, false)
            }
            LogState::Changing(changing) => {
                changing.seen = changing.seen.max(logged.last_logged());
                self.keep(&mut state, subscription, changing, logged);
                (false, false)
            }
            LogState::Attaching { seen } => {
                // Keys are never given twice, so the greatest is of the log that is there now.
                *seen = (*seen).max(logged.last_logged());
                (false, true)
            }
            // They may be of a log that has been forgotten, the channel and the subscription made anew.
            LogState::Attached(position) if source.log(logged).is_some_and(|log| log != position.key) => {
                (false, false)
            }
            LogState::Attached(position) => {
                self.offer_logged(&mut state, subscription, position, logged, source);
                (position.dirty, position.is_behind())
            }
        };
        drop(log);
        self.count(&mut state);
        let list = moved && !std::mem::replace(&mut state.cursors_listed, true);
        let flush = !state.queue.is_empty() && !std::mem::replace(&mut state.unflushed, true);
        drop(state);
        if list {
            self.list_moved_cursors(&subscription.outbox);
        }
        Offered { flush, behind }
    }

    fn offer_temporary(&self, state: &mut State, subscription: &Arc<Subscription>, logged: &LoggedPushes) {
        let framed = logged.pushes.framed(self.framing);
        for (index, message) in logged.messages.iter().enumerate() {
            if message.sender.as_ref() == Some(&subscription.client) {
                continue; // nobody receives their own message (2.11)
            }
            let bytes = framed.messages(index..index + 1);
            if !self.push_temporary(state, subscription, message.id, bytes) {
                return;
            }
        }
    }

    /// Pushes one message of a temporary subscription, or lets it wait; `false` if there is no room for that,
    /// which ends the connection.
    fn push_temporary(
        &self,
        state: &mut State,
        subscription: &Arc<Subscription>,
        id: PushId,
        bytes: Bytes,
    ) -> bool {
        let may_flow = !state.connecting && subscription.stage() == Stage::Live;
        let has_room = may_flow && !self.is_full(state);
        if has_room && state.window().try_send_temporary(id, subscription) {
            self.context.counters.pushes_sent.increment();
            packet_trace::pushed(
                subscription.client.as_str(),
                subscription.channel.as_str(),
                1,
                1,
                bytes.len(),
            );
            state.queue.push(bytes);
            return true;
        }
        let waits = state.window().wait(id, subscription, bytes, self.limit());
        if !waits {
            self.overflow(state);
        }
        waits
    }

    /// A QoS 1 push finds no room. Leaving it out would be a silent hole (2.14).
    fn overflow(&self, state: &mut State) {
        state.closed.get_or_insert(CloseReason::QueueOverflow);
        self.waker.wake();
    }

    fn keep(
        &self,
        state: &mut State,
        subscription: &Subscription,
        changing: &mut Changing,
        logged: &LoggedPushes,
    ) {
        let framed = logged.pushes.framed(self.framing);
        for (index, message) in logged.messages.iter().enumerate() {
            if message.sender.as_ref() == Some(&subscription.client) {
                continue; // nobody receives their own message (2.11)
            }
            let bytes = framed.messages(index..index + 1);
            if !changing.kept.is_empty() && changing.bytes + bytes.len() > self.limit() {
                return self.overflow(state);
            }
            changing.bytes += bytes.len();
            changing.kept.push((message.id, bytes));
        }
    }

    fn offer_logged(
        &self,
        state: &mut State,
        subscription: &Arc<Subscription>,
        position: &mut LogPosition,
        logged: &LoggedPushes,
        source: Source,
    ) {
        let (framed, limit) = (logged.pushes.framed(self.framing), self.limit());
        let flowing = (source != Source::Live || !state.connecting) && subscription.stage() != Stage::Opening;
        position.seen = position.seen.max(logged.last_logged().map_or(0, |(_, Seq(seq))| seq));
        let mut run = 0..0; // messages to be appended in one piece
        let (mut sent, mut sent_bytes) = (0, 0);
        let mut is_behind = false;
        for (index, message) in logged.messages.iter().enumerate() {
            let PushId::Logged(LogPlace { seq: Seq(seq), stamp, .. }) = message.id else {
                // In no log: the subscription was temporary when it was committed, or is again, and this is not
                // known here yet.
                if source == Source::Live && message.sender.as_ref() != Some(&subscription.client) {
                    append_run(&mut state.queue, framed, std::mem::replace(&mut run, 0..0));
                    let bytes = framed.messages(index..index + 1);
                    if !self.push_temporary(state, subscription, message.id, bytes) {
                        return;
                    }
                }
                continue;
            };
            if is_behind || seq < position.next {
                continue;
            }
            if seq > position.next {
                if !matches!(source, Source::Log { .. }) {
                    is_behind = true; // something is missing: the log has it
                    continue;
                }
                position.pass_over(seq - 1);
            }
            if seq > position.next || seq > position.acked.horizon() {
                is_behind = true;
                continue;
            }
            if message.sender.as_ref() == Some(&subscription.client) {
                position.pass_over(seq); // for its cursor, one's own message is acknowledged (2.11)
                continue;
            }
            if position.acked.contains(seq) {
                position.next += 1;
                continue;
            }
            if position.stamps.take_early(Seq(seq), stamp) {
                position.pass_over(seq);
                continue;
            }
            let length = framed.ends[index] as usize - framed.start(index);
            let redelivery = seq <= position.pending_until;
            let queued = state.queue.len() + framed.start(run.end) - framed.start(run.start);
            let window = state.window();
            if !flowing
                || window.room_for_logged(position.in_flight) == 0
                || queued > 0 && queued + length > limit
                || redelivery && !window.has_room_for_redelivery(length)
            {
                is_behind = true;
                continue;
            }
            if redelivery {
                window.redelivered(position.key, seq, length);
                self.context.counters.redeliveries.increment();
            }
            window.logged_sent(1);
            position.stamps.pushed(Seq(seq), stamp);
            position.in_flight += 1;
            position.next += 1;
            sent += 1;
            sent_bytes += length;
            if run.is_empty() || run.end != index {
                append_run(&mut state.queue, framed, run);
                run = index..index;
            }
            run.end = index + 1;
        }
        append_run(&mut state.queue, framed, run);
        self.context.counters.pushes_sent.add(sent);
        packet_trace::pushed(
            subscription.client.as_str(),
            subscription.channel.as_str(),
            1,
            sent,
            sent_bytes,
        );
        if let Source::Log { through, .. } = source
            && logged.messages.last().is_none_or(|last| match last.id {
                PushId::Logged(last) => position.next > last.seq.0,
                PushId::Memory { .. } => true,
            })
            && position.next <= through
        {
            position.pass_over(through); // the log has nothing else up to there
        }
        list_if_behind(state.window(), subscription, position);
    }

    /// A `pushAck`. `false` if it names nothing that is outstanding (2.14).
    pub(crate) fn acknowledge(self: &Arc<Self>, id: &str) -> bool {
        let Some(id) = self.context.ids.parse(id) else { return false };
        let mut state = self.lock();
        let Some(window) = &mut state.window else { return false };
        let mut moved = false;
        let counted = match id {
            PushId::Logged(place) => {
                let persistent = window.by_key.get(&place.key).cloned();
                let named = persistent.map(|subscription| acknowledge_logged(window, &subscription, place));
                moved = named == Some(Acknowledged::Moved);
                // It may have been pushed before the subscription became persistent (2.20).
                moved || named == Some(Acknowledged::Kept) || window.acknowledge_temporary(id)
            }
            PushId::Memory { .. } => window.acknowledge_temporary(id),
        };
        if counted {
            self.pump(&mut state);
        }
        let list = moved && !std::mem::replace(&mut state.cursors_listed, true);
        drop(state);
        if list {
            self.list_moved_cursors(self);
        }
        counted
    }

    /// Lets temporary pushes that waited follow into the room there is, in the window and in the queue.
    fn pump(&self, state: &mut State) {
        let limit = self.limit();
        let State { window: Some(window), queue, .. } = state else { return };
        if state.connecting || state.closed.is_some() {
            return;
        }
        while queue.len() < limit
            && let Some(bytes) = window.next_waiting()
        {
            self.context.counters.pushes_sent.increment();
            queue.push(bytes);
        }
    }

    /// The log has messages up to `seq`, which may not have been offered. `true` if the client is behind.
    pub(crate) fn note_seen(&self, subscription: &Arc<Subscription>, key: ChannelKey, seq: Seq) -> bool {
        let mut state = self.lock();
        let mut log = subscription.log();
        match &mut *log {
            LogState::Attached(position) if position.key == key => {
                position.seen = position.seen.max(seq.0);
                list_if_behind(state.window(), subscription, position);
                position.is_behind()
            }
            LogState::Changing(changing) => {
                changing.seen = changing.seen.max(Some((key, seq)));
                false
            }
            LogState::Attaching { seen } => {
                *seen = (*seen).max(Some((key, seq)));
                false
            }
            _ => false,
        }
    }

    // ---- what is read from the log -------------------------------------------------------------

    /// Whether there is something in the log for this client, room for it, and nobody at it.
    pub(crate) fn wants_resume(&self) -> bool {
        let state = self.lock();
        state.closed.is_none()
            && !self.is_full(&state)
            && state.window.as_ref().is_some_and(|window| {
                !window.resuming && !window.behind.is_empty() && window.room_for_logged(0) > 0
            })
    }

    /// Takes the reading upon the caller, who calls [`next_missing`](Self::next_missing) until it
    /// returns `None`; `false` if somebody else is at it.
    pub(crate) fn begin_resume(&self) -> bool {
        let mut state = self.lock();
        state.window.as_mut().is_some_and(|window| !std::mem::replace(&mut window.resuming, true))
    }

    /// What is to be read next, the subscriptions that are behind taking turns; `None` when nothing can
    /// be sent now, which also ends the resume.
    pub(crate) fn next_missing(&self) -> Option<Missing> {
        let mut state = self.lock();
        let full = state.closed.is_some() || self.is_full(&state);
        let window = state.window.as_mut()?;
        let room = window.room_for_logged(0);
        let mut turns = window.behind.len();
        while !full && room > 0 && turns > 0 {
            turns -= 1;
            let share = window.share_of_one_behind();
            let subscription = window.behind.pop_front()?;
            let mut log = subscription.log();
            let LogState::Attached(position) = &mut *log else { continue };
            if !position.is_behind() {
                position.listed = false;
                continue;
            }
            if subscription.stage() == Stage::Opening {
                drop(log);
                window.behind.push_back(subscription);
                continue; // after its `subAck`, when the session resumes
            }
            let within_horizon = position.acked.horizon().saturating_sub(position.next - 1);
            let redelivery = position.next <= position.pending_until;
            let own_room = window.room_for_logged(position.in_flight);
            let count = share.saturating_sub(position.in_flight as usize).clamp(1, room).min(own_room);
            let missing = Missing {
                subscription: Arc::clone(&subscription),
                key: position.key,
                after: position.next - 1,
                seen: position.seen,
                count: count.min(usize::try_from(within_horizon).unwrap_or(usize::MAX)),
            };
            drop(log);
            window.behind.push_back(subscription);
            if missing.count > 0 && (!redelivery || window.has_room_for_redelivery(1)) {
                return Some(missing);
            }
        }
        window.resuming = false;
        None
    }

    /// The subscription's log cannot be read now: no resume looks at it until [`unpark`](Self::unpark). It stays listed, so
    /// that nothing enters it into the list meanwhile.
    pub(crate) fn park(&self, subscription: &Arc<Subscription>) {
        if let Some(window) = &mut self.lock().window {
            window.behind.retain(|behind| !Arc::ptr_eq(behind, subscription));
        }
    }

    /// Its log may be read again.
    pub(crate) fn unpark(&self, subscription: &Arc<Subscription>) {
        let mut state = self.lock();
        let Some(window) = &mut state.window else { return };
        let is_there = window.behind.iter().any(|behind| Arc::ptr_eq(behind, subscription));
        if let LogState::Attached(position) = &mut *subscription.log()
            && !is_there
            && window.by_key.get(&position.key).is_some_and(|current| Arc::ptr_eq(current, subscription))
        {
            position.listed = false;
            list_if_behind(window, subscription, position);
        }
    }

    /// Ends a resume that makes no progress.
    pub(crate) fn end_resume(&self) {
        if let Some(window) = &mut self.lock().window {
            window.resuming = false;
        }
    }

    /// Messages up to `seq` were given up (MAX_PENDING_PER_CLIENT).
    pub(crate) fn give_up(&self, key: ChannelKey, seq: Seq) {
        let mut state = self.lock();
        let Some(window) = &mut state.window else { return };
        let Some(subscription) = window.by_key.get(&key).cloned() else { return };
        let mut log = subscription.log();
        if let LogState::Attached(position) = &mut *log {
            let first = position.acked.up_to() + 1;
            let sent = first..position.next.min(seq.0 + 1);
            let ended = sent.filter(|seq| !position.acked.contains(*seq)).count();
            position.acked.skip_to(seq.0);
            position.next = position.next.max(seq.0 + 1);
            position.in_flight = position.in_flight.saturating_sub(u32::try_from(ended).unwrap_or(u32::MAX));
            window.logged_ended(ended);
            window.redelivery_ended(key, seq.0, false);
        }
    }

    // ---- cursors -------------------------------------------------------------------------------

    fn list_moved_cursors(&self, this: &Arc<Self>) {
        let mut moved = self.context.moved_cursors.lock().unwrap_or_else(PoisonError::into_inner);
        moved.push(Arc::clone(this));
    }

    /// Acknowledgements whose messages have not been read yet, by channel.
    pub(crate) fn take_early_acks(&self) -> Vec<(ChannelKey, Vec<(u64, Stamp)>)> {
        let state = self.lock();
        let Some(window) = &state.window else { return Vec::new() };
        let of_subscription = |subscription: &Arc<Subscription>| match &mut *subscription.log() {
            LogState::Attached(position) => Some((position.key, position.stamps.take_all_early())),
            _ => None,
        };
        let all = window.by_key.values().filter_map(of_subscription);
        all.filter(|(_, early)| !early.is_empty()).collect()
    }

    /// Messages that have turned out to be those that were acknowledged.
    pub(crate) fn confirm_early_acks(&self, key: ChannelKey, seqs: &[u64]) {
        let state = self.lock();
        let Some(subscription) = state.window.as_ref().and_then(|window| window.by_key.get(&key)) else {
            return;
        };
        if let LogState::Attached(position) = &mut *subscription.log() {
            for seq in seqs {
                position.dirty |= position.acked.insert(*seq);
            }
        }
    }

    /// The cursors that have moved since the last call, to be written to the store.
    pub(crate) fn take_moved_cursors(&self) -> Vec<CursorUpdate> {
        let mut updates = Vec::new();
        let mut state = self.lock();
        state.cursors_listed = false;
        let Some(window) = &state.window else { return updates };
        for subscription in window.by_key.values() {
            if let LogState::Attached(position) = &mut *subscription.log()
                && std::mem::take(&mut position.dirty)
            {
                updates.push(CursorUpdate {
                    client: subscription.client.clone(),
                    key: position.key,
                    cursor: position.acked.to_stored(),
                });
            }
        }
        updates
    }
}

impl LogPosition {
    /// Nothing from `next` up to `seq` is to be pushed: it is the client's own, or gone. Goes no further
    /// than the horizon; the rest is for when that has moved.
    fn pass_over(&mut self, seq: u64) {
        if self.next <= seq && self.next == self.acked.up_to() + 1 {
            self.acked.skip_to(seq); // the horizon goes with it
            self.next = seq + 1;
        }
        while self.next <= seq && self.next <= self.acked.horizon() {
            self.acked.insert(self.next);
            self.next += 1;
        }
        self.dirty = true;
    }
}

/// What an acknowledgement of a logged message did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Acknowledged {
    /// It named nothing that is outstanding.
    Nothing,
    /// It is kept until the message is read.
    Kept,
    /// The cursor has changed.
    Moved,
}

fn acknowledge_logged(window: &mut Window, subscription: &Subscription, place: LogPlace) -> Acknowledged {
    let LogPlace { key: _, seq: Seq(seq), stamp } = place;
    let mut log = subscription.log();
    let LogState::Attached(position) = &mut *log else { return Acknowledged::Nothing };
    if seq >= position.next {
        // It may name a push of an earlier connection that has not been repeated yet.
        let may_exist = seq <= position.pending_until.min(position.acked.horizon());
        let is_kept =
            may_exist && !position.acked.contains(seq) && position.stamps.acknowledge_early(Seq(seq), stamp);
        return if is_kept { Acknowledged::Kept } else { Acknowledged::Nothing };
    }
    if !position.stamps.was_pushed(Seq(seq), stamp) || !position.acked.insert(seq) {
        return Acknowledged::Nothing;
    }
    position.stamps.forget_up_to(position.acked.up_to());
    position.dirty = true;
    position.in_flight = position.in_flight.saturating_sub(1);
    window.logged_ended(1);
    if seq <= position.pending_until {
        window.redelivery_ended(position.key, seq, true);
    }
    Acknowledged::Moved
}

fn list_if_behind(window: &mut Window, subscription: &Arc<Subscription>, position: &mut LogPosition) {
    if position.is_behind() && !std::mem::replace(&mut position.listed, true) {
        window.behind.push_back(Arc::clone(subscription));
    }
}

fn append_run(queue: &mut SendQueue, framed: &crate::hub::Framed, run: std::ops::Range<usize>) {
    if !run.is_empty() {
        queue.push(framed.messages(run));
    }
}

/// The last place before what a persistent subscription gets.
fn stored_up_to(stored: &StoredSubscription) -> u64 {
    LogPosition::new(stored).next - 1
}

fn append_retained(queue: &mut SendQueue, retained: RetainedPush) {
    queue.push_copy(&retained.head);
    queue.push(retained.data);
    queue.push_copy(&retained.tail);
}

/// How many of the messages fit behind `waiting` bytes. An empty queue takes one of any size.
fn fitting(ends: &[u32], waiting: usize, limit: usize) -> usize {
    match ends.last() {
        Some(&end) if waiting + end as usize <= limit => ends.len(),
        _ => {
            let fit = ends.partition_point(|&end| waiting + end as usize <= limit);
            fit.max(usize::from(waiting == 0 && !ends.is_empty()))
        }
    }
}

fn write_queue(state: &mut State) -> io::Result<()> {
    let State { inline: Some(socket), queue, written, .. } = state else { return Ok(()) };
    queue.write_with(SLICES, |slices| {
        let taken = match slices {
            [only] => socket.try_write(only)?,
            several => socket.try_write_vectored(several)?,
        };
        *written += taken as u64;
        Ok(taken)
    })
}

#[cfg(test)]
mod tests {
    use jmqt_protocol::{Payload, PushFrame};

    use super::*;
    use crate::hub::PushesBuilder;
    use crate::store::{CURSOR_WINDOW, Cursor, Epoch};

    fn position(acked: u64) -> LogPosition {
        let cursor = Cursor { acked: Seq(acked), beyond: Vec::new() };
        let channel = ChannelName::parse("news").unwrap();
        LogPosition::new(&StoredSubscription { channel, key: ChannelKey(1), cursor, last: Seq(acked) })
    }

    #[test] // protocol.md 2.14
    fn what_is_gone_is_passed_over_as_far_as_can_be_remembered() {
        let mut position = position(10);
        position.pass_over(1 << 40); // at once, however much it is
        assert_eq!((position.next, position.acked.up_to()), ((1 << 40) + 1, 1 << 40));
        let sent = position.next;
        position.next += 1; // one is with the client
        position.pass_over(sent + 2 * CURSOR_WINDOW);
        assert_eq!((position.next, position.acked.up_to()), (sent + CURSOR_WINDOW, sent - 1));
        assert!(position.acked.insert(sent));
        position.pass_over(sent + 2 * CURSOR_WINDOW);
        assert_eq!(position.acked.up_to(), sent + 2 * CURSOR_WINDOW);
    }

    /// Of an encrypted connection, which is written only when a test says so.
    fn outbox() -> Arc<Outbox> {
        let context = OutboxContext {
            queue_bytes: 1 << 20,
            outbound: Budget::new(1 << 30),
            counters: Arc::default(),
            ids: IdSpace::new(Epoch(1), 1),
            moved_cursors: Mutex::default(),
        };
        let outbox = Outbox::new(Framing::Nul, None, Arc::new(context));
        outbox.set_window(128, false);
        Arc::new(outbox)
    }

    fn subscribe(outbox: &Arc<Outbox>, stage: Stage, log: LogState) -> Arc<Subscription> {
        let (news, bob) = (ChannelName::parse("news").unwrap(), ClientId::parse("bob").unwrap());
        let subscription = Arc::new(Subscription::new(news, bob, Arc::clone(outbox), stage, log));
        assert!(outbox.insert_subscription(&subscription));
        subscription
    }

    fn logged(seqs: std::ops::RangeInclusive<u64>) -> LoggedPushes {
        let mut pushes = PushesBuilder::default();
        let mut messages = Vec::new();
        for seq in seqs {
            let id = PushId::Logged(LogPlace { key: ChannelKey(1), seq: Seq(seq), stamp: Stamp(9) });
            let number = seq.to_string();
            pushes.push(&PushFrame::new("news", "alice"), Payload::parse(&number).unwrap(), Some(&number));
            messages.push(LoggedPush { id, sender: None });
        }
        LoggedPushes { pushes: pushes.finish(), messages }
    }

    fn retained() -> RetainedPush {
        let data = Bytes::from_static(b"\"retained\"");
        RetainedPush::new(&PushFrame::new("news", "alice"), data, Framing::Nul)
    }

    fn stored(last: u64) -> StoredSubscription {
        let cursor = Cursor { acked: Seq(last), beyond: Vec::new() };
        let channel = ChannelName::parse("news").unwrap();
        StoredSubscription { channel, key: ChannelKey(1), cursor, last: Seq(last) }
    }

    /// What the client has got since the last call: packet types, retained messages and the ids of pushes.
    fn got(outbox: &Outbox) -> Vec<String> {
        let mut bytes = Vec::new();
        let drained = outbox.drain_with(|piece| {
            bytes.extend_from_slice(piece);
            Ok(piece.len())
        });
        assert!(drained.unwrap());
        let texts = bytes.split(|byte| *byte == 0).filter(|text| !text.is_empty());
        let short = |text: &[u8]| {
            let text: serde_json::Value = serde_json::from_slice(text).unwrap();
            let (kind, value) = text.as_object().unwrap().iter().next().unwrap();
            match value.get("id") {
                Some(id) => id.as_str().unwrap().to_owned(),
                None if value.get("rt").is_some() => "retained".to_owned(),
                None => kind.clone(),
            }
        };
        texts.map(short).collect()
    }

    fn ack() -> Packet<'static> {
        let status = jmqt_protocol::StatusCode::OK;
        Packet::SubAck(jmqt_protocol::SubAck { status, channel: Some("news".into()) })
    }

    #[test] // protocol.md 2.2, 2.3: the application subscribes a client that is connecting
    fn a_retained_message_waits_until_the_session_is_live() {
        let outbox = outbox();
        let subscription = subscribe(&outbox, Stage::Live, LogState::Temporary);
        outbox.open(&subscription, None, Some(retained()));
        outbox.flush();
        assert!(got(&outbox).is_empty());
        outbox.answer(&Packet::HbAck); // in place of a `connAck`
        outbox.go_live();
        assert_eq!(got(&outbox), ["hbAck", "retained"]);
    }

    #[test] // protocol.md 2.20
    fn no_retained_message_comes_of_a_subscription_that_has_ended() {
        let outbox = outbox();
        outbox.go_live();
        let subscription = subscribe(&outbox, Stage::Opening, LogState::Temporary);
        outbox.remove_subscription("news");
        outbox.open(&subscription, Some(&ack()), Some(retained()));
        assert_eq!(got(&outbox), ["subAck"]);
    }

    #[test] // protocol.md 2.3
    fn no_push_of_either_kind_of_subscription_comes_before_its_sub_ack() {
        for persistent in [false, true] {
            let outbox = outbox();
            outbox.go_live();
            let subscription = subscribe(&outbox, Stage::Opening, LogState::Temporary);
            if persistent {
                outbox.attach(&subscription, &stored(0));
            }
            outbox.offer(&subscription, &logged(1..=2), Source::Live);
            outbox.answer(&Packet::HbAck); // so that something is written, which lets what waits follow
            assert_eq!(got(&outbox), ["hbAck"]);
            assert!(!outbox.begin_resume() || outbox.next_missing().is_none());
            outbox.open(&subscription, Some(&ack()), Some(retained()));
            if persistent {
                assert!(outbox.begin_resume());
                assert_eq!(outbox.next_missing().unwrap().after, 0);
                outbox.offer(&subscription, &logged(1..=2), Source::Memory);
            }
            assert_eq!(got(&outbox), ["subAck", "retained", "1", "2"]);
        }
    }

    #[test] // protocol.md 2.10, 2.14, 2.20
    fn what_comes_while_a_subscription_becomes_persistent_is_pushed_once() {
        let outbox = outbox();
        outbox.go_live();
        let subscription = subscribe(&outbox, Stage::Live, LogState::Temporary);
        outbox.offer(&subscription, &logged(1..=1), Source::Live);
        outbox.begin_change(&subscription);
        // The store subscribes between 3 and 4, and that is heard of after both.
        outbox.offer(&subscription, &logged(2..=4), Source::Live);
        assert_eq!(got(&outbox), ["1"]);
        outbox.attach(&subscription, &stored(3));
        outbox.end_change(&subscription);
        assert_eq!(got(&outbox), ["2", "3"]);
        assert!(outbox.begin_resume());
        assert_eq!(outbox.next_missing().unwrap().after, 3);
        outbox.offer(&subscription, &logged(4..=4), Source::Memory);
        outbox.offer(&subscription, &logged(5..=5), Source::Live);
        assert_eq!(got(&outbox), ["4", "5"]);
    }

    #[test] // protocol.md 2.14, 2.20: where nobody is persistently subscribed, the log does not have it
    fn what_is_in_no_log_is_pushed_whatever_the_subscription_is_about_to_become() {
        let outbox = outbox();
        outbox.set_window(3, false);
        outbox.go_live();
        let subscription = subscribe(&outbox, Stage::Live, LogState::Attaching { seen: None });
        outbox.attach(&subscription, &stored(0));
        // The store has made it temporary between 1 and the next, or persistent behind the one before.
        let mut pushes = logged(1..=3);
        pushes.messages[1].id = PushId::Memory { process: 7, number: 2 };
        outbox.offer(&subscription, &pushes, Source::Live);
        assert_eq!(got(&outbox), ["1", "2"]);
        outbox.offer(&subscription, &pushes, Source::Memory);
        assert_eq!(got(&outbox), [""; 0], "it comes once");
        outbox.detach(&subscription);
        outbox.offer(&subscription, &logged(4..=4), Source::Live);
        assert_eq!(got(&outbox), ["4"]);
    }

    #[test] // protocol.md 2.20
    fn what_came_while_a_subscription_could_not_be_made_persistent_is_pushed_then() {
        let outbox = outbox();
        outbox.go_live();
        let subscription = subscribe(&outbox, Stage::Live, LogState::Temporary);
        outbox.begin_change(&subscription);
        outbox.offer(&subscription, &logged(1..=2), Source::Live);
        outbox.end_change(&subscription);
        outbox.offer(&subscription, &logged(3..=3), Source::Live);
        assert_eq!(got(&outbox), ["1", "2", "3"]);
    }
}
