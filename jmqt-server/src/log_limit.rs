//! Limits log lines that a client can provoke: at most one a minute of each kind, with the number of omitted events. Lines
//! about what a client did wrong are limited for each client and cause, so that one client does not hide another.
//!
//! [`log_limited!`](log_limited) is for the usual line; use a separate [`LogLimit`] for a line whose target is
//! chosen at run time. Neither replaces a counter: a line shows an operator where to look, a counter how often.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The least time between two lines of one kind.
const INTERVAL: Duration = Duration::from_secs(60);

/// The causes and clients that are told apart for one kind of line. The others share one limit.
const TOLD_APART: usize = 64;

/// Decides which events of one kind are logged. Each kind has one in a `static`.
pub(crate) struct LogLimit(Mutex<State>);

/// The same for each cause and client.
pub(crate) struct LogLimits(Mutex<States>);

struct State {
    last: Option<Instant>,
    left_out: u64,
}

struct States {
    /// By the hash of cause and client.
    known: BTreeMap<u64, State>,
    others: State,
}

impl State {
    const NEW: Self = Self { last: None, left_out: 0 };

    fn is_recent(&self, now: Instant) -> bool {
        self.last.is_some_and(|last| now.saturating_duration_since(last) < INTERVAL)
    }

    fn permit_at(&mut self, now: Instant) -> Option<Option<u64>> {
        if self.is_recent(now) {
            self.left_out += 1;
            return None;
        }
        self.last = Some(now);
        Some(Some(std::mem::take(&mut self.left_out)).filter(|left_out| *left_out > 0))
    }
}

impl LogLimits {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(States { known: BTreeMap::new(), others: State::NEW }))
    }

    /// See [`LogLimit::permit`]; `of` is the cause and the client.
    pub(crate) fn permit(&self, of: &impl Hash) -> Option<Option<u64>> {
        static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        self.permit_at(HASHER.hash_one(of), Instant::now())
    }

    fn permit_at(&self, of: u64, now: Instant) -> Option<Option<u64>> {
        let mut states = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let States { known, others } = &mut *states;
        if known.len() >= TOLD_APART && !known.contains_key(&of) {
            known.retain(|_, state| {
                let is_recent = state.is_recent(now);
                others.left_out += if is_recent { 0 } else { state.left_out };
                is_recent
            });
            if known.len() >= TOLD_APART {
                return others.permit_at(now);
            }
        }
        known.entry(of).or_insert(State::NEW).permit_at(now)
    }
}

impl LogLimit {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(State::NEW))
    }

    /// `Some` if this event is to be logged, with the number of events omitted since the last line:
    /// `Some(None)` if no event was omitted, so that the line has no such field.
    pub(crate) fn permit(&self) -> Option<Option<u64>> {
        self.permit_at(Instant::now())
    }

    fn permit_at(&self, now: Instant) -> Option<Option<u64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).permit_at(now)
    }
}

/// The beginning of a text of a client, which may be as long as a packet.
pub(crate) fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(128)]
}

/// Logs at most once a minute at this place of the code, with the field `left_out` for the events in between:
/// `log_limited!(warn, target: "jmqt::session", client = name, "too many subscriptions")`. With `each: (cause, client),` before
/// the target, the limit is for each cause and client.
macro_rules! log_limited {
    ($level:ident, each: $of:expr, target: $target:expr, $($event:tt)+) => {{
        static LIMITS: $crate::log_limit::LogLimits = $crate::log_limit::LogLimits::new();
        if let Some(left_out) = LIMITS.permit(&$of) {
            tracing::$level!(target: $target, left_out, $($event)+);
        }
    }};
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

    #[test]
    fn a_client_with_many_events_does_not_hide_another() {
        let (limits, start) = (LogLimits::new(), Instant::now());
        let at = |of, seconds| limits.permit_at(of, start + Duration::from_secs(seconds));
        assert_eq!((at(1, 0), at(1, 1), at(2, 1)), (Some(None), None, Some(None)));
        assert_eq!((at(1, 60), at(2, 60)), (Some(Some(1)), None));
    }

    #[test]
    fn only_so_many_clients_are_told_apart() {
        let (limits, start) = (LogLimits::new(), Instant::now());
        let at = |of, seconds| limits.permit_at(of, start + Duration::from_secs(seconds));
        let permitted = (0..1000).filter(|of| at(*of, 0).is_some()).count();
        assert_eq!(permitted, TOLD_APART + 1, "all others have one line");
        assert_eq!(at(0, 1), None);
        // They are forgotten after a minute, and their events are counted.
        assert_eq!(at(1000, 60), Some(None));
        assert_eq!(limits.0.lock().unwrap().known.len(), 1);
        assert_eq!(limits.0.lock().unwrap().others.left_out, 1000 - 65 + 1);
    }
}
