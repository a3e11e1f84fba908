//! How a backend that comes, or comes back, is kept from getting every new connection at once.
//!
//! With the fewest connections of all it would be chosen each time, just when its caches are cold and what made it go
//! may not be over. Pure: told the time.

use std::time::Duration;

use tokio::time::Instant;

/// Parts of its fair share that a backend gets at the beginning and at the end of its slow start.
const FIRST_PART: f64 = 0.25;
const LAST_PART: f64 = 2.0;
/// Connections that may be saved up.
const MOST_SAVED: f64 = 2.0;

/// The state of one backend.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SlowStart {
    /// `None`: it is over, or there was none.
    since: Option<Instant>,
    /// Connections that it may get.
    saved: f64,
}

impl SlowStart {
    /// One that begins now.
    pub(crate) fn now() -> Self {
        Self { since: Some(Instant::now()), saved: 0.0 }
    }

    /// Whether this connection is to go to another backend. `share` is the fair part of all connections.
    pub(crate) fn spares(&mut self, share: f64, length: Duration, now: Instant) -> bool {
        let Some(since) = self.since else { return false };
        let elapsed = now.saturating_duration_since(since);
        if elapsed >= length {
            self.since = None;
            return false;
        }
        let progress = elapsed.as_secs_f64() / length.as_secs_f64();
        let part = FIRST_PART + (LAST_PART - FIRST_PART) * progress;
        self.saved = (self.saved + share * part).min(MOST_SAVED);
        self.saved < 1.0
    }

    /// It got a connection.
    pub(crate) fn chosen(&mut self) {
        self.saved = (self.saved - 1.0).max(0.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of `count` connections it gets if it is chosen whenever it is not spared.
    fn chosen(slow_start: &mut SlowStart, count: usize, share: f64, now: Instant) -> usize {
        let mut chosen = 0;
        for _ in 0..count {
            if !slow_start.spares(share, Duration::from_secs(10), now) {
                slow_start.chosen();
                chosen += 1;
            }
        }
        chosen
    }

    #[test]
    fn its_share_grows_until_it_is_complete() {
        let mut slow_start = SlowStart::now();
        let start = slow_start.since.unwrap();
        let mut after =
            |seconds: u64| chosen(&mut slow_start, 400, 0.25, start + Duration::from_secs(seconds));
        let found = [0, 5, 9, 10].map(&mut after);
        assert!((24..=26).contains(&found[0]), "{found:?}"); // a quarter of a quarter
        assert!((111..=114).contains(&found[1]), "{found:?}");
        assert!((180..=184).contains(&found[2]), "{found:?}");
        assert_eq!(found[3], 400);
    }
}
