//! Detects stalls of this machine while something is timed.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BEAT: Duration = Duration::from_millis(10);

/// Looks for pauses until it is dropped.
pub struct Pulse {
    /// In milliseconds.
    longest: Arc<AtomicU64>,
}

impl Pulse {
    /// Begins to watch.
    pub fn watch() -> Self {
        let longest = Arc::new(AtomicU64::new(0));
        let watching = Arc::downgrade(&longest);
        // A thread, as tasks may be held up by what is timed.
        std::thread::spawn(move || {
            while let Some(longest) = watching.upgrade() {
                let start = Instant::now();
                std::thread::sleep(BEAT);
                let pause = start.elapsed().saturating_sub(BEAT).as_millis();
                longest.fetch_max(pause.try_into().unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Self { longest }
    }

    /// How long nothing ran, at most.
    pub fn longest_pause(&self) -> Duration {
        Duration::from_millis(self.longest.load(Ordering::Relaxed))
    }
}
