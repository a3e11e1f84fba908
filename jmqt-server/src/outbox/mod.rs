//! The part of a session that other tasks may change, under one short lock.
//!
//! Publishers append pushes here and, on unencrypted connections, write them to the socket directly, so a fan-out
//! needs no task switch and no copy. After a partial write only the session's task writes, until the queue is empty.
//! Bytes are appended and written under the same lock, which keeps their order. The subscription is checked under
//! this lock too, so no push follows an `unsubAck`.
//!
//! This file has the lock, the waker and the phase of the connection. The other files have the parts that the lock
//! protects: bytes and socket ([`writer`]), messages held until the client may receive them ([`held`]), subscriptions
//! ([`subscriptions`]), QoS 1 pushes ([`deliveries`], [`resume`], [`cursors`]), QoS 2 ([`exchanges`]), groups of
//! clients ([`group`]), and operations that the store has not
//! settled ([`settling`]).

#[cfg(test)]
mod crashes;
mod cursor;
mod cursors;
mod deliveries;
mod exchanges;
mod group;
mod held;
mod packet_ids;
mod position;
mod queue;
mod received;
mod resume;
mod settling;
mod stamps;
mod subscription;
mod subscriptions;
#[cfg(test)]
mod tests;
mod window;
mod writer;

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use tokio::net::tcp::OwnedWriteHalf;

use self::deliveries::Deliveries;
use self::group::Group;
use self::held::Held;
use self::settling::Settling;
use self::subscriptions::Subscriptions;
use self::writer::Writer;
use crate::budget::Budget;
use crate::connection::CloseReason;
use crate::counters::Counters;
use crate::disconnect::Disconnect;
use crate::wire::{Form, IdSpace, TopicAliases};

pub(crate) use self::cursors::Moved;
pub(crate) use self::exchanges::{Acknowledged, SendAgain, ToRecord, Unrecorded};
pub(crate) use self::group::{Groups, ShareNodes};
pub(crate) use self::packet_ids::Reception;
pub(crate) use self::position::Source;
pub(crate) use self::resume::Missing;
pub(crate) use self::subscription::{LogState, Stage, Subscription};
pub(crate) use self::subscriptions::Reader;
pub(crate) use self::window::Redelivery;
pub(crate) use self::writer::Flush;

/// The state that all outboxes of a server share.
pub(crate) struct OutboxContext {
    /// OUTBOUND_QUEUE_BYTES.
    pub(crate) queue_bytes: usize,
    /// MAX_TOTAL_OUTBOUND_BYTES.
    pub(crate) outbound: Arc<Budget>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) ids: IdSpace,
    /// Sessions whose cursors have moved since they were last written to the store.
    pub(crate) moved_cursors: Mutex<Vec<Arc<Outbox>>>,
    /// Sessions with steps of QoS 2 exchanges that the store must record.
    pub(crate) unrecorded: Unrecorded,
    pub(crate) groups: Groups,
}

/// The outgoing part of one session.
pub(crate) struct Outbox {
    /// The encoding that this client receives, as a number. It changes before the session begins, if the client says in
    /// its first packet which version it speaks.
    form: AtomicU8,
    /// The store keeps all subscriptions of the session.
    is_stored: AtomicBool,
    /// The subscriptions of the session are to be validated again.
    to_revalidate: AtomicBool,
    /// The longest packet that the client accepts.
    packet_limit: AtomicU32,
    pub(crate) context: Arc<OutboxContext>,
    waker: AtomicWaker,
    /// Set if this belongs to a group of clients instead of a connection.
    group: Option<Box<Group>>,
    state: Mutex<State>,
}

/// The phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The `connAck` has not been queued, and nothing may be sent before it.
    Connecting,
    /// Pushes are sent.
    Live,
    /// Pushes are sent, and the session's task waits until all publishes of the client are settled.
    Leaving,
    /// The connection is ending: no pushes are sent.
    Closed(CloseReason),
}

struct State {
    phase: Phase,
    rare: Option<Box<Rare>>,
    writer: Writer,
    /// Boxed, because it is usually empty.
    held: Option<Box<Held>>,
    subscriptions: Subscriptions,
    deliveries: Deliveries,
    settling: Settling,
}

/// What few connections have.
#[derive(Default)]
struct Rare {
    /// The disconnect reason for the client, if it differs from the default for the close reason.
    farewell: Option<Box<Disconnect>>,
    /// The topic aliases of an MQTT client that accepts them.
    aliases: Option<TopicAliases>,
    /// The user to whom the session belongs.
    owner: Option<Box<str>>,
    /// The store has the owner.
    owner_is_stored: bool,
}

impl State {
    fn has_aliases(&self) -> bool {
        self.rare.as_ref().is_some_and(|rare| rare.aliases.is_some())
    }

    fn aliases(&mut self) -> Option<&mut TopicAliases> {
        self.rare.as_mut()?.aliases.as_mut()
    }

    fn closed(&self) -> Option<CloseReason> {
        match self.phase {
            Phase::Closed(reason) => Some(reason),
            Phase::Connecting | Phase::Live | Phase::Leaving => None,
        }
    }

    fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// Returns `true` if pushes may be appended.
    fn is_flowing(&self) -> bool {
        matches!(self.phase, Phase::Live | Phase::Leaving)
    }

    /// Closes the connection. Only the first reason is kept.
    fn close(&mut self, reason: CloseReason) {
        if self.closed().is_none() {
            self.phase = Phase::Closed(reason);
        }
    }

    fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.bytes())
    }

    /// The bytes that wait for the client: in the queue, in the window, and held.
    fn waiting(&self) -> usize {
        self.writer.len() + self.held_bytes() + self.deliveries.waiting_bytes()
    }
}

/// The result of [`Outbox::duties`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct Duties {
    /// The reason why the connection must be closed, if it must.
    pub(crate) closed: Option<CloseReason>,
    /// The session's task has bytes to write.
    pub(crate) blocked: bool,
    /// The queue is full: the session must not read more packets.
    pub(crate) full: bool,
}

/// What waits for the client of an outbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Load {
    /// Bytes in the queue, held, and waiting for the window.
    pub(crate) queued_bytes: usize,
    /// QoS 1 and 2 pushes that the client has not acknowledged.
    pub(crate) in_flight: usize,
    /// No push may be sent until the client acknowledges one.
    pub(crate) is_window_full: bool,
    pub(crate) subscriptions: usize,
}

impl Outbox {
    pub(crate) fn new(form: Form, inline: Option<OwnedWriteHalf>, context: Arc<OutboxContext>) -> Self {
        let state = State {
            phase: Phase::Connecting,
            rare: None,
            writer: Writer::new(inline),
            held: None,
            subscriptions: Subscriptions::default(),
            deliveries: Deliveries::default(),
            settling: Settling::default(),
        };
        Self {
            form: AtomicU8::new(form as u8),
            is_stored: AtomicBool::new(false),
            to_revalidate: AtomicBool::new(false),
            packet_limit: AtomicU32::new(u32::MAX),
            context,
            waker: AtomicWaker::new(),
            group: None,
            state: Mutex::new(state),
        }
    }

    /// The encoding that this client receives.
    pub(crate) fn form(&self) -> Form {
        Form::from_number(self.form.load(Ordering::Relaxed))
    }

    /// Sets the encoding and the longest packet that the client accepts. Called before the session begins.
    pub(crate) fn set_form(&self, form: Form, packet_limit: u32) {
        self.form.store(form as u8, Ordering::Relaxed);
        self.packet_limit.store(form.framed_length(packet_limit), Ordering::Relaxed);
    }

    /// Lets messages have topic aliases up to this number. Called before the session begins.
    pub(crate) fn set_topic_aliases(&self, maximum: u16) {
        if maximum > 0 {
            self.lock().rare.get_or_insert_default().aliases = Some(TopicAliases::new(maximum));
        }
    }

    /// Returns `true` if the store keeps all subscriptions of the session, also those with QoS 0.
    pub(crate) fn is_stored(&self) -> bool {
        self.is_stored.load(Ordering::Relaxed)
    }

    /// Called before the session begins.
    pub(crate) fn set_stored(&self, is_stored: bool) {
        self.is_stored.store(is_stored, Ordering::Relaxed);
    }

    /// Called before the session begins.
    pub(crate) fn set_owner(&self, owner: Box<str>) {
        self.lock().rare.get_or_insert_default().owner = Some(owner);
    }

    /// The user to whom the session belongs, if that is known.
    pub(crate) fn owner(&self) -> Option<Box<str>> {
        self.lock().rare.as_ref()?.owner.clone()
    }

    /// The owner, if the store does not have it yet.
    pub(crate) fn owner_to_store(&self) -> Option<Box<str>> {
        let state = self.lock();
        let rare = state.rare.as_ref()?;
        rare.owner.as_ref().filter(|_| !rare.owner_is_stored).cloned()
    }

    pub(crate) fn owner_is_stored(&self) {
        if let Some(rare) = &mut self.lock().rare {
            rare.owner_is_stored = true;
        }
    }

    /// Asks the session's task to validate the session and its subscriptions again.
    pub(crate) fn revalidate(&self) {
        self.to_revalidate.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Returns `true` once after [`revalidate`](Self::revalidate).
    pub(crate) fn take_revalidation(&self) -> bool {
        self.must_revalidate() && self.to_revalidate.swap(false, Ordering::AcqRel)
    }

    /// Returns `true` if the session is to be validated again.
    pub(crate) fn must_revalidate(&self) -> bool {
        self.to_revalidate.load(Ordering::Acquire)
    }

    /// The longest packet that the client accepts, in its form.
    pub(crate) fn packet_limit(&self) -> usize {
        self.packet_limit.load(Ordering::Relaxed) as usize
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers the waker of the session's task, which is woken when there is work here.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// What waits for the client.
    pub(crate) fn load(&self) -> Load {
        let state = self.lock();
        let window = state.deliveries.made_window();
        Load {
            queued_bytes: state.waiting(),
            in_flight: window.map_or(0, |window| window.in_flight()),
            is_window_full: window.is_some_and(|window| window.full_since().is_some()),
            subscriptions: state.subscriptions.len(),
        }
    }

    /// The work for the session's task; checked before it waits.
    pub(crate) fn duties(&self) -> Duties {
        let state = self.lock();
        Duties {
            closed: state.closed(),
            blocked: state.writer.is_left_to_the_task(),
            full: self.is_full(&state),
        }
    }

    /// Returns `true` until [`go_live`](Self::go_live) is called.
    pub(crate) fn is_connecting(&self) -> bool {
        self.lock().is_connecting()
    }

    /// Starts live pushes, after the `connAck`, the first window and the retained messages are queued (2.3).
    pub(crate) fn go_live(&self) {
        let mut state = self.lock();
        if state.is_connecting() {
            state.phase = Phase::Live;
        }
        self.release_held(&mut state);
    }

    /// Records that the client is leaving. The session's task is woken when nothing is unsettled any more.
    pub(crate) fn leave(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Live {
            state.phase = Phase::Leaving;
        }
    }

    /// The reason why the connection must be closed, if it must.
    pub(crate) fn closed(&self) -> Option<CloseReason> {
        self.lock().closed()
    }

    /// Closes the connection. Only the first reason is kept.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.lock().close(reason);
        self.waker.wake();
    }

    /// Closes the connection with this disconnect reason for the client (protocol.md 2.22).
    pub(crate) fn close_saying(&self, reason: CloseReason, farewell: Disconnect) {
        let mut state = self.lock();
        if state.closed().is_none() {
            state.close(reason);
            state.rare.get_or_insert_default().farewell = Some(Box::new(farewell));
        }
        drop(state);
        self.waker.wake();
    }

    /// The disconnect reason for the client of a connection that ends for this close reason; `None` if none is sent.
    pub(crate) fn farewell(&self, reason: CloseReason) -> Option<Box<Disconnect>> {
        let mut state = self.lock();
        let is_reason = state.closed() == Some(reason);
        let farewell = state.rare.as_mut().filter(|_| is_reason).and_then(|rare| rare.farewell.take());
        farewell.or_else(|| Disconnect::because(reason).map(Box::new))
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.context.outbound.change(state.writer.counted(), 0);
    }
}
