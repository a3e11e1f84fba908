//! Closing the connections of a server that stops, so that their clients do not come back, to this node or to
//! others, all at once: sessions one by one, or with different times to wait (protocol.md 2.22).

use std::collections::HashSet;
use std::sync::{Arc, Weak};
use std::time::Duration;

use jmqt_protocol::DisconnectCode;
use tokio::time::Instant;

use super::Shared;
use crate::disconnect::Disconnect;
use crate::session::Outbox;
use crate::validators::CloseReason;

/// So many clients a second are asked to come back to a server that starts again, and
const RETURNING_PER_SECOND: usize = 500;
/// they are spread over this many seconds at least and at most.
const RETURN_SECONDS: (usize, usize) = (2, 30);
/// So many clients a second are sent to other nodes, and
const MOVING_PER_SECOND: usize = 2000;
/// they are spread over this many seconds at most.
const MOVE_SECONDS: usize = 5;

/// What a server that stops tells its clients.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parting {
    code: DisconnectCode,
    /// When the last connection is closed.
    over: Instant,
    /// The least time to wait from then on, and for how many seconds more clients are spread.
    first: u64,
    spread: u64,
}

impl Parting {
    /// For so many connections, which are closed one by one over `time`, or all at once.
    pub(super) fn new(connections: usize, others_are_there: bool, time: Duration) -> Self {
        let over = Instant::now() + time;
        if !others_are_there {
            let spread = (connections / RETURNING_PER_SECOND).clamp(RETURN_SECONDS.0, RETURN_SECONDS.1);
            return Self { code: DisconnectCode::SHUTDOWN, over, first: 1, spread: spread as u64 };
        }
        // Those that are closed one by one may come to another node at once.
        let spread = if time.is_zero() { (connections / MOVING_PER_SECOND).min(MOVE_SECONDS) } else { 0 };
        Self { code: DisconnectCode::DRAIN, over: Instant::now(), first: 0, spread: 1 + spread as u64 }
    }

    /// What connection number `number` is told.
    pub(super) fn say(&self, number: u64) -> Disconnect {
        let message = match self.code {
            DisconnectCode::DRAIN => "this node is stopping; others are there",
            _ => "the server is stopping",
        };
        let seconds = Duration::from_secs(self.first + number % self.spread);
        let until_over = self.over.saturating_duration_since(Instant::now());
        Disconnect::new(self.code, message).retry_after(until_over + seconds)
    }
}

impl Shared {
    /// The server stops: what is no session yet does not become one. Sessions are closed one by one over
    /// `time`, if that is not zero.
    pub(super) fn begin_to_stop(&self, time: Duration) {
        let others_are_there = self.hub.cluster.as_ref().is_some_and(|cluster| cluster.has_others());
        // Told only once: stopping consumes the server.
        let _ = self.parting.set(Parting::new(self.numbered_outboxes().len(), others_are_there, time));
        self.closing.cancel();
    }

    /// Closes a connection because the server stops.
    pub(super) fn part(&self, number: u64, outbox: &Outbox) {
        match self.parting.get() {
            Some(parting) => outbox.close_saying(CloseReason::Shutdown, parting.say(number)),
            None => outbox.close(CloseReason::Shutdown),
        }
    }

    pub(super) fn close_all(&self) {
        for (number, outbox) in self.numbered_outboxes() {
            self.part(number, &outbox);
        }
    }

    /// Closes connections without a session at once, and sessions in even steps over `time`, the first at
    /// once. A session that ends by itself changes nothing for the others.
    pub(super) async fn drain_sessions(&self, time: Duration) {
        let sessions = self.close_all_without_session();
        tracing::info!(target: "jmqt::server", sessions = sessions.len(), over = ?time, "closing sessions one by one");
        let sessions = (0..).zip(sessions).collect();
        in_even_steps(time, sessions, |(number, outbox)| {
            if let Some(outbox) = Weak::upgrade(&outbox) {
                self.part(number, &outbox);
            }
        })
        .await;
    }

    /// Returns the sessions: weakly, since what ends by itself need not be kept until its turn.
    fn close_all_without_session(&self) -> Vec<Weak<Outbox>> {
        let sessions = self.hub.connections.outboxes();
        let with_session: HashSet<_> = sessions.iter().map(Arc::as_ptr).collect();
        for (number, outbox) in self.numbered_outboxes() {
            if !with_session.contains(&Arc::as_ptr(&outbox)) {
                self.part(number, &outbox);
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

    fn waits(connections: usize, others_are_there: bool, drain: u64) -> (DisconnectCode, Vec<u32>) {
        let parting = Parting::new(connections, others_are_there, Duration::from_secs(drain));
        let mut waits: Vec<_> =
            (0..100).filter_map(|number| parting.say(number).retry_after_seconds()).collect();
        waits.sort_unstable();
        waits.dedup();
        (parting.code, waits)
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.22
    async fn clients_of_a_server_that_stops_come_back_one_after_another() {
        const SHUTDOWN: DisconnectCode = DisconnectCode::SHUTDOWN;
        assert_eq!(waits(0, false, 0), (SHUTDOWN, vec![1, 2]));
        assert_eq!(waits(2000, false, 0), (SHUTDOWN, vec![1, 2, 3, 4]));
        assert_eq!(waits(1_000_000, false, 0), (SHUTDOWN, (1..=30).collect()));
        // Nobody is there before the last of them was closed.
        assert_eq!(waits(10, false, 7), (SHUTDOWN, vec![8, 9]));
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.22
    async fn clients_of_a_node_go_to_the_others_at_once_or_within_seconds() {
        const DRAIN: DisconnectCode = DisconnectCode::DRAIN;
        assert_eq!(waits(100, true, 0), (DRAIN, vec![0]));
        assert_eq!(waits(4000, true, 0), (DRAIN, vec![0, 1, 2]));
        assert_eq!(waits(1_000_000, true, 0), (DRAIN, (0..=5).collect()));
        assert_eq!(waits(1_000_000, true, 30), (DRAIN, vec![0]));
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
