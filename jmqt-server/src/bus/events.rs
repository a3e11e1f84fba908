//! The events of a bus, in the order in which they must be handled.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;

use super::BusEvent;

/// The receiving end of a bus.
pub(crate) struct BusEvents {
    controls: mpsc::Receiver<BusEvent>,
    pushes: mpsc::Receiver<(BusEvent, usize)>,
    bytes: Arc<AtomicUsize>,
}

impl BusEvents {
    /// `bytes` counts the bytes queued in `pushes`.
    pub(super) fn new(
        controls: mpsc::Receiver<BusEvent>,
        pushes: mpsc::Receiver<(BusEvent, usize)>,
        bytes: Arc<AtomicUsize>,
    ) -> Self {
        Self { controls, pushes, bytes }
    }

    /// The next event, control messages first; `None` when the bus has ended.
    ///
    /// # Cancel safety
    /// No event is lost if the future is dropped.
    pub(crate) async fn next(&mut self) -> Option<BusEvent> {
        tokio::select! {
            biased;
            Some(event) = self.controls.recv() => Some(event),
            Some(pushes) = self.pushes.recv() => Some(self.taken(pushes)),
            else => None,
        }
    }

    /// The next event that is available now; `None` if there is none.
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
