//! What a bus has received, in the order in which it is to be handled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::BusEvent;

/// Where what was received comes out.
pub(crate) struct BusEvents {
    controls: mpsc::Receiver<BusEvent>,
    pushes: mpsc::Receiver<(BusEvent, usize)>,
    bytes: Arc<AtomicUsize>,
}

impl BusEvents {
    /// `bytes` counts what waits in `pushes`.
    pub(super) fn new(
        controls: mpsc::Receiver<BusEvent>,
        pushes: mpsc::Receiver<(BusEvent, usize)>,
        bytes: Arc<AtomicUsize>,
    ) -> Self {
        Self { controls, pushes, bytes }
    }

    /// What comes next, control messages first; `None` when the bus is gone.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nothing is lost.
    pub(crate) async fn next(&mut self) -> Option<BusEvent> {
        tokio::select! {
            biased;
            Some(event) = self.controls.recv() => Some(event),
            Some(pushes) = self.pushes.recv() => Some(self.taken(pushes)),
            else => None,
        }
    }

    /// What has come already; `None` if there is nothing at the moment.
    pub(crate) fn next_at_once(&mut self) -> Option<BusEvent> {
        if let Ok(event) = self.controls.try_recv() {
            return Some(event);
        }
        let pushes = self.pushes.try_recv().ok()?;
        Some(self.taken(pushes))
    }

    fn taken(&self, (event, size): (BusEvent, usize)) -> BusEvent {
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        event
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.controls.is_empty() && self.pushes.is_empty()
    }
}
