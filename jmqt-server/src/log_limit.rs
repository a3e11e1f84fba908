//! Limits log lines that a client can provoke: at most one a minute of each kind, with the number of omitted events.
//!
//! [`log_limited!`](log_limited) is for the usual line; use a separate [`LogLimit`] for a line whose target is
//! chosen at run time. Neither replaces a counter: a line shows an operator where to look, a counter how often.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The least time between two lines of one kind.
const INTERVAL: Duration = Duration::from_secs(60);

/// Decides which events of one kind are logged. Each kind has one in a `static`.
pub(crate) struct LogLimit(Mutex<State>);

struct State {
    last: Option<Instant>,
    left_out: u64,
}

impl LogLimit {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State { last: None, left_out: 0 }))
    }

    /// `Some` if this event is to be logged, with the number of events omitted since the last line:
    /// `Some(None)` if no event was omitted, so that the line has no such field.
    pub(crate) fn permit(&self) -> Option<Option<u64>> {
        self.permit_at(Instant::now())
    }

    fn permit_at(&self, now: Instant) -> Option<Option<u64>> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL) {
            state.left_out += 1;
            return None;
        }
        state.last = Some(now);
        Some(Some(std::mem::take(&mut state.left_out)).filter(|left_out| *left_out > 0))
    }
}

/// Logs at most once a minute at this place of the code, with the field `left_out` for the events in between:
/// `log_limited!(warn, target: "jmqt::session", client = name, "too many subscriptions")`.
macro_rules! log_limited {
    ($level:ident, target: $target:expr, $($event:tt)+) => {{
        static LIMIT: $crate::log_limit::LogLimit = $crate::log_limit::LogLimit::new();
        if let Some(left_out) = LIMIT.permit() {
            tracing::$level!(target: $target, left_out, $($event)+);
        }
    }};
}
pub(crate) use log_limited;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_contains_the_number_of_omitted_events() {
        let (limit, start) = (LogLimit::new(), Instant::now());
        let at = |seconds| limit.permit_at(start + Duration::from_secs(seconds));
        assert_eq!(at(0), Some(None), "the first is logged at once");
        assert_eq!((at(1), at(59)), (None, None));
        assert_eq!(at(60), Some(Some(2)));
        assert_eq!(at(61), None);
        assert_eq!(at(200), Some(Some(1)));
        assert_eq!(at(300), Some(None));
    }
}
