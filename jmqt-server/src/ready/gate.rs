//! A limit of what runs at once, with a bounded queue before it.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{Semaphore, SemaphorePermit};

/// At most so many at once; at most so many wait, in order of arrival.
#[derive(Debug)]
pub(super) struct Gate {
    permits: Semaphore,
    waiting: AtomicUsize,
    most_waiting: usize,
}

/// Leaves the queue also if the one who waits is dropped.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Gate {
    pub(super) const fn new(at_once: usize, most_waiting: usize) -> Self {
        let at_once = if at_once == 0 { 1 } else { at_once };
        let at_once = if at_once > Semaphore::MAX_PERMITS { Semaphore::MAX_PERMITS } else { at_once };
        Self { permits: Semaphore::const_new(at_once), waiting: AtomicUsize::new(0), most_waiting }
    }

    /// Waits for its turn; `None` at once if the queue is full.
    pub(super) async fn enter(&self) -> Option<SemaphorePermit<'_>> {
        if let Ok(permit) = self.permits.try_acquire() {
            return Some(permit);
        }
        let place = Place(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.most_waiting {
            return None;
        }
        let permit = self.permits.acquire().await.ok();
        drop(place);
        permit
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn the_queue_is_bounded_and_who_leaves_it_makes_room() {
        let gate = Gate::new(1, 1);
        let running = gate.enter().await.unwrap();
        let mut waiting = Box::pin(gate.enter());
        assert!(waiting.as_mut().now_or_never().is_none());
        assert!(gate.enter().await.is_none(), "the queue is full");
        drop(waiting);
        let mut waiting = Box::pin(gate.enter());
        assert!(waiting.as_mut().now_or_never().is_none(), "there is room again");
        drop(running);
        assert!(waiting.now_or_never().flatten().is_some());
    }
}
