//! How long a backend takes to accept a connection, and when to try again.
//!
//! A backend that does not accept as fast as clients come has a full backlog, which throws the first packet of a
//! connection away. The system sends it again after a whole second. A backend that mostly answers within a millisecond
//! is asked again much sooner than that, by a new attempt to connect. Not here: when an attempt began (`connection`).

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// The least time an answer is waited for.
const LEAST: Duration = Duration::from_millis(25);
/// From here on the system sends again by itself.
const SYSTEM: Duration = Duration::from_secs(1);

/// What connections to one backend took lately, in microseconds; 0: there was none yet.
#[derive(Debug, Default)]
pub(crate) struct ConnectTime(AtomicU32);

impl ConnectTime {
    /// Records how long a connection took. Shorter times count fully, longer ones gradually, so that a burst does not
    /// count as the normal case.
    pub(crate) fn note(&self, took: Duration) {
        if took >= SYSTEM {
            return; // the system has sent it again
        }
        let took = u32::try_from(took.as_micros()).unwrap_or(u32::MAX).max(1);
        let before = self.0.load(Ordering::Relaxed);
        let now = if before == 0 || took < before { took } else { before + (took - before).div_ceil(8) };
        // Two threads at a time: one of two times that are both true is lost.
        if now != before {
            self.0.store(now, Ordering::Relaxed);
        }
    }

    /// How long to wait for an answer before the next attempt, after this many attempts; `None`: the system tries
    /// again. Each wait is twice as long as the one before, and none is shorter than the way there and back.
    pub(crate) fn patience(&self, attempts: u32) -> Option<Duration> {
        let usual = Duration::from_micros(self.0.load(Ordering::Relaxed).into());
        if usual.is_zero() {
            return None;
        }
        let patience = LEAST.max(usual * 4).checked_mul(1_u32.checked_shl(attempts)?)?;
        (patience < SYSTEM).then_some(patience)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    fn after(times: &[Duration]) -> ConnectTime {
        let time = ConnectTime::default();
        times.iter().for_each(|took| time.note(*took));
        time
    }

    #[test]
    fn a_near_backend_is_retried_soon_and_then_less_often() {
        let waits: Vec<_> = (0..100).map_while(|attempt| after(&[ms(1)]).patience(attempt)).collect();
        assert_eq!(waits, [25, 50, 100, 200, 400, 800].map(ms));
    }

    #[test]
    fn a_far_backend_gets_the_time_that_it_needs() {
        assert_eq!(after(&[ms(100)]).patience(0), Some(ms(400)));
        assert_eq!(after(&[ms(300)]).patience(0), None); // the system is as quick
        // It was near, and now the way to it is another one.
        let time = after(&[&[ms(1)][..], &[ms(100); 8]].concat());
        assert!(time.patience(0).unwrap() > ms(200));
    }

    #[test]
    fn a_new_backend_has_no_connect_time() {
        assert_eq!(after(&[]).patience(0), None);
        assert_eq!(after(&[ms(1000), ms(3000)]).patience(0), None); // what the system sent again says nothing
    }

    #[test]
    fn one_slow_connection_changes_little() {
        assert!(after(&[ms(1), ms(80)]).patience(0).unwrap() < ms(50));
    }
}
