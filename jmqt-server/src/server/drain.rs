//! Closing sessions one by one, so that their clients do not come to other nodes all at once.

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use super::Shared;
use crate::session::Outbox;
use crate::validators::CloseReason;

impl Shared {
    /// Closes connections without a session at once, and sessions in even steps over `time`, the first at
    /// once. A session that ends by itself changes nothing for the others.
    pub(super) async fn drain_sessions(&self, time: Duration) {
        let sessions = self.close_all_without_session();
        tracing::info!(target: "jmqt::server", sessions = sessions.len(), over = ?time, "closing sessions one by one");
        in_even_steps(time, sessions, |outbox| {
            if let Some(outbox) = Weak::upgrade(&outbox) {
                outbox.close(CloseReason::Shutdown);
            }
        })
        .await;
    }

    /// Returns the sessions: weakly, since what ends by itself need not be kept until its turn.
    fn close_all_without_session(&self) -> Vec<Weak<Outbox>> {
        let sessions = self.hub.connections.outboxes();
        let with_session: HashSet<_> = sessions.iter().map(Arc::as_ptr).collect();
        for outbox in self.outboxes() {
            if !with_session.contains(&Arc::as_ptr(&outbox)) {
                outbox.close(CloseReason::Shutdown);
            }
        }
        sessions.iter().map(Arc::downgrade).collect()
    }
}

/// Does something with each item, the first at once, the next each a step later, so that the last one's
/// step ends with `time`.
async fn in_even_steps<T>(time: Duration, items: Vec<T>, mut act: impl FnMut(T)) {
    let start = Instant::now();
    let step = time.as_secs_f64() / items.len().max(1) as f64;
    for (index, item) in items.into_iter().enumerate() {
        // From the start, not from the last one: lateness does not add up.
        tokio::time::sleep_until(start + Duration::from_secs_f64(step * index as f64)).await;
        act(item);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn steps(time: Duration, count: u32) -> Vec<(u32, Duration)> {
        let start = Instant::now();
        let mut steps = Vec::new();
        in_even_steps(time, (0..count).collect(), |item| steps.push((item, start.elapsed()))).await;
        steps
    }

    #[tokio::test(start_paused = true)]
    async fn twenty_in_two_seconds_are_one_every_tenth_of_a_second() {
        let expected: Vec<_> = (0..20).map(|item| (item, Duration::from_millis(100) * item)).collect();
        assert_eq!(steps(Duration::from_secs(2), 20).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn more_than_the_timer_can_tell_apart_go_in_groups_and_in_time() {
        let steps = steps(Duration::from_secs(1), 5000).await;
        assert_eq!(steps.len(), 5000);
        for (item, at) in steps {
            let due = Duration::from_secs(1) * item / 5000;
            assert!(at >= due && at <= due + Duration::from_millis(1), "{item} {at:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_time_is_no_wait_and_nobody_is_nobody() {
        assert_eq!(steps(Duration::ZERO, 3).await, [0, 1, 2].map(|item| (item, Duration::ZERO)));
        assert_eq!(steps(Duration::from_secs(1), 0).await, []);
    }
}
