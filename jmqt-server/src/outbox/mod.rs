//! What other tasks may touch of a session, all of it under one short lock.
//!
//! Publishers append pushes here and, on plain connections, write them to the socket right away, so
//! that a fan-out costs neither a task switch nor a copy. Once the kernel takes less than everything,
//! only the session's own task writes, until nothing is left. Bytes are appended and written under
//! the same lock, so they never change places; whether the client is still subscribed is looked at
//! under it too, so nothing follows an `unsubAck`.
//!
//! Here are the lock, the waker and how far the connection has come. Each part of what the lock protects has a file:
//! the bytes and the socket ([`writer`]), what waits until the client may have it ([`held`]), the subscriptions
//! ([`subscriptions`]), QoS 1 pushes ([`deliveries`], [`resume`], [`cursors`]), and what the store has not settled
//! ([`settling`]).

mod cursor;
mod cursors;
mod deliveries;
mod held;
mod queue;
mod resume;
mod settling;
mod stamps;
mod subscription;
mod subscriptions;
#[cfg(test)]
mod tests;
mod window;
mod writer;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use futures_util::task::AtomicWaker;
use tokio::net::tcp::OwnedWriteHalf;

use self::deliveries::Deliveries;
use self::held::Held;
use self::settling::Settling;
use self::subscriptions::Subscriptions;
use self::writer::Writer;
use crate::budget::Budget;
use crate::connection::CloseReason;
use crate::counters::Counters;
use crate::disconnect::Disconnect;
use crate::wire::{Form, IdSpace};

pub(crate) use self::deliveries::Source;
pub(crate) use self::resume::Missing;
pub(crate) use self::subscription::{LogState, Stage, Subscription};
pub(crate) use self::window::Redelivery;
pub(crate) use self::writer::Flush;

/// What all outboxes of a server share.
pub(crate) struct OutboxContext {
    /// OUTBOUND_QUEUE_BYTES.
    pub(crate) queue_bytes: usize,
    /// MAX_TOTAL_OUTBOUND_BYTES.
    pub(crate) outbound: Arc<Budget>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) ids: IdSpace,
    /// Sessions whose cursors have moved since they were last written to the store.
    pub(crate) moved_cursors: Mutex<Vec<Arc<Outbox>>>,
}

/// One session's outgoing side.
pub(crate) struct Outbox {
    /// What the bytes of this client look like.
    pub(crate) form: Form,
    pub(crate) context: Arc<OutboxContext>,
    waker: AtomicWaker,
    state: Mutex<State>,
}

/// How far the connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Its `connAck` has not been queued, and nothing may come before that.
    Connecting,
    /// Pushes flow.
    Live,
    /// The same, and the session's task waits until all publishes of the client are settled.
    Leaving,
    /// It ends: nothing more is pushed.
    Closed(CloseReason),
}

struct State {
    phase: Phase,
    /// What the client is told of the end, if that is more than the reason says.
    farewell: Option<Box<Disconnect>>,
    writer: Writer,
    /// Boxed, because there is seldom anything.
    held: Option<Box<Held>>,
    subscriptions: Subscriptions,
    deliveries: Deliveries,
    settling: Settling,
}

impl State {
    fn closed(&self) -> Option<CloseReason> {
        match self.phase {
            Phase::Closed(reason) => Some(reason),
            Phase::Connecting | Phase::Live | Phase::Leaving => None,
        }
    }

    fn is_connecting(&self) -> bool {
        self.phase == Phase::Connecting
    }

    /// Whether pushes may be appended.
    fn is_flowing(&self) -> bool {
        matches!(self.phase, Phase::Live | Phase::Leaving)
    }

    /// The first reason counts.
    fn close(&mut self, reason: CloseReason) {
        if self.closed().is_none() {
            self.phase = Phase::Closed(reason);
        }
    }

    fn held_bytes(&self) -> usize {
        self.held.as_ref().map_or(0, |held| held.bytes())
    }

    /// Everything that waits for the client, in the queue, in the window and until it is live.
    fn waiting(&self) -> usize {
        self.writer.len() + self.held_bytes() + self.deliveries.waiting_bytes()
    }
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

impl Outbox {
    pub(crate) fn new(form: Form, inline: Option<OwnedWriteHalf>, context: Arc<OutboxContext>) -> Self {
        let state = State {
            phase: Phase::Connecting,
            farewell: None,
            writer: Writer::new(inline),
            held: None,
            subscriptions: Subscriptions::default(),
            deliveries: Deliveries::default(),
            settling: Settling::default(),
        };
        Self { form, context, waker: AtomicWaker::new(), state: Mutex::new(state) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes the session's task whenever it has something to do here.
    pub(crate) fn register(&self, waker: &Waker) {
        self.waker.register(waker);
    }

    /// What the session's task has to know before it waits.
    pub(crate) fn duties(&self) -> Duties {
        let state = self.lock();
        Duties {
            closed: state.closed(),
            blocked: state.writer.is_left_to_the_task(),
            full: self.is_full(&state),
        }
    }

    /// Whether [`go_live`](Self::go_live) is still to come.
    pub(crate) fn is_connecting(&self) -> bool {
        self.lock().is_connecting()
    }

    /// The `connAck`, the first window and the retained messages are queued: live pushes follow (2.3).
    pub(crate) fn go_live(&self) {
        let mut state = self.lock();
        if state.is_connecting() {
            state.phase = Phase::Live;
        }
        self.release_held(&mut state);
    }

    /// The client is leaving: its task wants to be woken when nothing is unsettled any more.
    pub(crate) fn leave(&self) {
        let mut state = self.lock();
        if state.phase == Phase::Live {
            state.phase = Phase::Leaving;
        }
    }

    /// Why the connection is to be closed, if it is.
    pub(crate) fn closed(&self) -> Option<CloseReason> {
        self.lock().closed()
    }

    /// Closes the connection. The first reason counts.
    pub(crate) fn close(&self, reason: CloseReason) {
        self.lock().close(reason);
        self.waker.wake();
    }

    /// The same, and the client is told this (protocol.md 2.22).
    pub(crate) fn close_saying(&self, reason: CloseReason, farewell: Disconnect) {
        let mut state = self.lock();
        if state.closed().is_none() {
            state.close(reason);
            state.farewell = Some(Box::new(farewell));
        }
        drop(state);
        self.waker.wake();
    }

    /// What the client of a connection that ends for this reason is told; `None`: nothing.
    pub(crate) fn farewell(&self, reason: CloseReason) -> Option<Box<Disconnect>> {
        let mut state = self.lock();
        let farewell = if state.closed() == Some(reason) { state.farewell.take() } else { None };
        farewell.or_else(|| Disconnect::because(reason).map(Box::new))
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        self.context.outbound.change(state.writer.counted(), 0);
    }
}
