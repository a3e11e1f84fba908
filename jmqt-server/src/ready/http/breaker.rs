//! A circuit breaker: after several failures in a row nothing is asked for a while.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open it.
pub(super) const FAILURES: u32 = 5;
/// How long it is open at first, and at most. Each failed trial doubles the time.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Closed: everything passes. Open: nothing does. After its pause one question passes as a trial, which closes it or begins the next
/// pause.
#[derive(Debug)]
pub(super) struct Breaker(Mutex<State>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        until: Instant,
        pause: Duration,
    },
    /// A trial is under way. If it is dropped, the next question is one.
    Trying {
        pause: Duration,
    },
}

/// The permission to ask. Tell it the outcome; dropped without one, it changes nothing.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    is_trial: bool,
}

/// What an outcome has changed.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Nothing that anybody must know.
    None,
    /// It has opened.
    Opened,
    /// It has closed.
    Closed,
}

impl Breaker {
    pub(super) const fn new() -> Self {
        Self(Mutex::new(State::Closed { failures: 0 }))
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether one may ask at this time; `None` while it is open.
    pub(super) fn pass(&self, now: Instant) -> Option<Pass<'_>> {
        let mut state = self.state();
        let is_trial = match *state {
            State::Closed { .. } => false,
            State::Open { until, pause } if now >= until => {
                *state = State::Trying { pause };
                true
            }
            State::Open { .. } | State::Trying { .. } => return None,
        };
        Some(Pass { breaker: self, is_trial })
    }

    /// Whether nothing may be asked at this time.
    pub(super) fn is_resting(&self, now: Instant) -> bool {
        match *self.state() {
            State::Closed { .. } => false,
            State::Open { until, .. } => now < until,
            State::Trying { .. } => true,
        }
    }

    /// Whether it is not closed.
    pub(super) fn is_open(&self) -> bool {
        !matches!(*self.state(), State::Closed { .. })
    }
}

impl Pass<'_> {
    /// There was an answer.
    pub(super) fn succeeded(self) -> Change {
        let mut state = self.breaker.state();
        let was_open = !matches!(*state, State::Closed { .. });
        // An answer to a question from before it opened shows as well that there are answers.
        *state = State::Closed { failures: 0 };
        if was_open { Change::Closed } else { Change::None }
    }

    /// There was none.
    pub(super) fn failed(self, now: Instant) -> Change {
        let mut state = self.breaker.state();
        match *state {
            State::Closed { failures } if failures + 1 >= FAILURES => {
                *state = State::Open { until: now + jittered(FIRST_PAUSE), pause: FIRST_PAUSE };
                Change::Opened
            }
            State::Closed { failures } => {
                *state = State::Closed { failures: failures + 1 };
                Change::None
            }
            State::Trying { pause } if self.is_trial => {
                let pause = (pause * 2).min(LONGEST_PAUSE);
                *state = State::Open { until: now + jittered(pause), pause };
                Change::None
            }
            State::Open { .. } | State::Trying { .. } => Change::None, // asked before it opened
        }
    }
}

impl Drop for Pass<'_> {
    /// A trial without an outcome: its client has gone, and the next one tries.
    fn drop(&mut self) {
        let mut state = self.breaker.state();
        if self.is_trial
            && let State::Trying { pause } = *state
        {
            *state = State::Open { until: Instant::now(), pause };
        }
    }
}

/// Between half of this time and one and a half times it, so that several nodes do not ask at the same moment.
pub(super) fn jittered(time: Duration) -> Duration {
    let part = getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX));
    time.mul_f64(0.5 + part)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fail(breaker: &Breaker, now: Instant) -> Change {
        breaker.pass(now).unwrap().failed(now)
    }

    #[tokio::test]
    async fn failures_in_a_row_open_it_and_a_trial_closes_it() {
        let (breaker, start) = (Breaker::new(), Instant::now());
        for _ in 1..FAILURES {
            assert_eq!(fail(&breaker, start), Change::None);
        }
        assert_eq!(
            breaker.pass(start).unwrap().succeeded(),
            Change::None,
            "an answer begins the count again"
        );
        for _ in 1..FAILURES {
            assert_eq!(fail(&breaker, start), Change::None);
        }
        assert_eq!(fail(&breaker, start), Change::Opened);
        assert!(breaker.pass(start + FIRST_PAUSE / 3).is_none());
        let later = start + FIRST_PAUSE * 2;
        let trial = breaker.pass(later).unwrap();
        assert!(breaker.pass(later).is_none(), "one trial at a time");
        assert_eq!(trial.failed(later), Change::None, "it was open already");
        assert!(breaker.pass(later + FIRST_PAUSE / 2).is_none(), "the next pause is longer");
        let trial = breaker.pass(later + FIRST_PAUSE * 4).unwrap();
        assert_eq!(trial.succeeded(), Change::Closed);
        assert!(!breaker.is_open());
    }

    #[tokio::test]
    async fn a_trial_that_is_dropped_leaves_the_trial_to_the_next() {
        let (breaker, start) = (Breaker::new(), Instant::now());
        for _ in 0..FAILURES {
            fail(&breaker, start);
        }
        let later = start + LONGEST_PAUSE * 2;
        drop(breaker.pass(later).unwrap());
        assert!(breaker.pass(later).is_some());
    }

    #[tokio::test]
    async fn the_pauses_are_limited() {
        let breaker = Breaker::new();
        let mut now = Instant::now();
        for _ in 0..FAILURES {
            fail(&breaker, now);
        }
        for _ in 0..40 {
            now += LONGEST_PAUSE * 3 / 2 + Duration::from_millis(1);
            fail(&breaker, now);
        }
        assert!(breaker.pass(now + LONGEST_PAUSE * 3 / 2 + Duration::from_millis(1)).is_some());
    }
}
