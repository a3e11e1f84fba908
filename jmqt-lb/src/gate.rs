//! How many connections there are, and the limit on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mio::Waker;
use tokio::sync::Notify;

/// The number of connections, and their limit.
#[derive(Debug)]
pub(crate) struct Gate {
    inside: AtomicUsize,
    limit: AtomicUsize,
    left: Notify,
    /// Woken when there is room again.
    acceptor: Option<Arc<Waker>>,
}

/// A connection's place; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Gate>);

impl Gate {
    pub(crate) fn new(limit: usize, acceptor: Option<Arc<Waker>>) -> Arc<Self> {
        Arc::new(Self {
            inside: AtomicUsize::new(0),
            limit: AtomicUsize::new(limit),
            left: Notify::new(),
            acceptor,
        })
    }

    /// A lower limit closes no connection.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.has_room();
    }

    fn has_room(&self) {
        if let Some(acceptor) = &self.acceptor {
            // It fails only if the accepting thread has ended.
            let _ = acceptor.wake();
        }
    }

    pub(crate) fn inside(&self) -> usize {
        self.inside.load(Ordering::Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.inside() >= self.limit.load(Ordering::Relaxed)
    }

    /// Takes a place without checking the limit: only one thread lets connections in, and it has checked.
    pub(crate) fn enter(self: &Arc<Self>) -> Place {
        self.inside.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(self))
    }

    /// Waits until no connection is inside.
    pub(crate) async fn is_empty(&self) {
        loop {
            // Listen first, so that a place that is given back between the look and the wait is noticed.
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if self.inside() == 0 {
                return;
            }
            left.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let before = self.0.inside.fetch_sub(1, Ordering::AcqRel);
        if before == 1 {
            self.0.left.notify_waiters();
        }
        if before == self.0.limit.load(Ordering::Relaxed) {
            self.0.has_room();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use mio::{Events, Poll, Token};

    use super::*;

    #[tokio::test]
    async fn the_acceptor_is_woken_when_a_full_gate_has_room() {
        let mut poll = Poll::new().unwrap();
        let waker = Arc::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let gate = Gate::new(2, Some(waker));
        let places = [gate.enter(), gate.enter()];
        assert!(gate.is_full());
        let [first, second] = places;
        drop(first);
        let mut events = Events::with_capacity(1);
        poll.poll(&mut events, Some(Duration::from_secs(30))).unwrap();
        assert!(!events.is_empty() && !gate.is_full());
        drop(second);
        gate.is_empty().await;
    }
}
