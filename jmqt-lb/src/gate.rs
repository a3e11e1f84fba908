//! How many connections there are, and the limit on them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts those inside.
#[derive(Debug)]
pub(crate) struct Gate {
    inside: AtomicUsize,
    limit: AtomicUsize,
    left: Notify,
}

/// A place inside; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Place(Arc<Gate>);

impl Gate {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { inside: AtomicUsize::new(0), limit: AtomicUsize::new(limit), left: Notify::new() })
    }

    /// A lower limit sends nobody away.
    pub(crate) fn set_limit(&self, limit: usize) {
        self.limit.store(limit, Ordering::Relaxed);
        self.left.notify_waiters();
    }

    pub(crate) fn inside(&self) -> usize {
        self.inside.load(Ordering::Relaxed)
    }

    pub(crate) fn is_full(&self) -> bool {
        self.inside() >= self.limit.load(Ordering::Relaxed)
    }

    /// Takes a place, whether there is one or not: only one task lets connections in, after it has
    /// waited for [`Gate::has_room`].
    pub(crate) fn enter(self: &Arc<Self>) -> Place {
        self.inside.fetch_add(1, Ordering::Relaxed);
        Place(Arc::clone(self))
    }

    /// Waits for a free place.
    pub(crate) async fn has_room(&self) {
        self.wait(|gate| !gate.is_full()).await;
    }

    /// Waits until nobody is inside.
    pub(crate) async fn is_empty(&self) {
        self.wait(|gate| gate.inside() == 0).await;
    }

    async fn wait(&self, is_so: impl Fn(&Self) -> bool) {
        loop {
            // Listen first: one who leaves between the look and the wait is not to be missed.
            let left = self.left.notified();
            tokio::pin!(left);
            left.as_mut().enable();
            if is_so(self) {
                return;
            }
            left.await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::AcqRel);
        self.0.left.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_waits_hears_of_who_leaves() {
        let gate = Gate::new(1);
        let place = gate.enter();
        assert!(gate.is_full());
        let waiting = tokio::spawn({
            let gate = Arc::clone(&gate);
            async move { gate.has_room().await }
        });
        tokio::task::yield_now().await;
        drop(place);
        waiting.await.unwrap();
        gate.is_empty().await;
    }
}
