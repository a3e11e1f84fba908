//! Detects that this node alone has lost the database, and hands its clients over. Such a node cannot accept clients,
//! has few of them, and therefore attracts new ones from a balancer.
//!
//! The node closes its listeners, and later hands its sessions over to the nodes that have the database. If no node
//! has the database, a handover would not help: the listeners stay open, and the sessions continue with requests that
//! need no database.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use jmqt_core::DisconnectCode;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::Cluster;
use crate::connection::CloseReason;
use crate::disconnect::Disconnect;
use crate::hub::Hub;

/// A node that has not reached the database for this long has lost it: two checks have failed or are slow.
const LOST_AFTER: Duration = Duration::from_millis(2500);
/// A node that reached the database within this time reports so in its beats. This is so much shorter than
/// `LOST_AFTER` that a database lost by all nodes is not mistaken for one lost by a single node.
const HAD_WITHIN: Duration = Duration::from_millis(1500);
/// The time without the database after which a node hands its sessions over.
const HAND_OVER_AFTER: Duration = Duration::from_secs(10);
/// The interval of the checks.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The number of checks over which the sessions are ended: all within 5 seconds.
const LOOKS_TO_HAND_OVER: usize = 20;

/// The state of this node's access to the database.
pub(super) struct Database {
    /// The last time the database was reached.
    reached: Mutex<Instant>,
    /// Whether the node accepts clients.
    lets_in: watch::Sender<bool>,
}

/// The state that a check determines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// The node accepts clients.
    Open,
    /// The node accepts no clients, because other nodes have the database.
    Closed,
    /// The node also hands its sessions over to other nodes.
    HandOver,
}

impl Database {
    pub(super) fn new(now: Instant) -> Self {
        Self { reached: Mutex::new(now), lets_in: watch::Sender::new(true) }
    }

    fn reached(&self) -> Instant {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the database was reached, or that this node could not check.
    pub(super) fn reach(&self, now: Instant) {
        *self.reached.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Determines the state. `elsewhere` returns `true` if another node has reported since the given time that it has
    /// the database.
    fn judge(&self, now: Instant, has_link: bool, elsewhere: impl Fn(Instant) -> bool) -> Verdict {
        let reached = self.reached();
        let away = now - reached;
        if away < LOST_AFTER {
            return Verdict::Open;
        }
        if !has_link {
            // Neither database nor Redis: the other nodes will soon take its sessions over.
            return Verdict::Closed;
        }
        // An earlier report may have been true for this node as well.
        let since = (reached + LOST_AFTER).max(now.checked_sub(LOST_AFTER).unwrap_or(now));
        match elsewhere(since) {
            true if away >= HAND_OVER_AFTER => Verdict::HandOver,
            true => Verdict::Closed,
            false => Verdict::Open,
        }
    }
}

impl Cluster {
    /// Returns `true` if this node has reached the database recently; sent in the beats.
    pub(super) fn has_database(&self) -> bool {
        self.database.reached().elapsed() < HAD_WITHIN
    }

    /// Returns `true` if the database has been lost for so long that callers should not wait for it.
    pub(in crate::hub) fn has_lost_database(&self) -> bool {
        self.database.reached().elapsed() >= LOST_AFTER
    }

    /// Whether the node accepts clients, as a value to watch.
    pub(crate) fn lets_in(&self) -> watch::Receiver<bool> {
        self.database.lets_in.subscribe()
    }

    /// Closes and opens the listeners, and hands the sessions over, as described above.
    pub(super) async fn watch_database(&self, hub: &Hub) {
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked = Instant::now();
        let mut at_a_time = None;
        loop {
            tick.tick().await;
            let now = Instant::now();
            if now - std::mem::replace(&mut looked, now) > LOOK_EVERY * 4 {
                self.database.reach(now); // this node stalled: it has its whole time again
            }
            let elsewhere = |since| self.directory.has_database_elsewhere(since, now);
            let verdict = self.database.judge(now, self.bus.is_up(), elsewhere);
            let lets_in = verdict == Verdict::Open;
            if self.database.lets_in.send_if_modified(|is| std::mem::replace(is, lets_in) != lets_in) {
                match lets_in {
                    true => tracing::info!(target: "jmqt::bus", "accepting clients again"),
                    false => tracing::error!(
                        target: "jmqt::bus",
                        "this node cannot reach the database, but other nodes can or are not heard: refusing new clients"
                    ),
                }
            }
            if verdict != Verdict::HandOver {
                at_a_time = None;
                continue;
            }
            let sessions = hub.connections.outboxes();
            if sessions.is_empty() {
                continue;
            }
            let at_a_time = *at_a_time.get_or_insert_with(|| {
                tracing::error!(
                    target: "jmqt::bus", sessions = sessions.len(),
                    "this node still cannot reach the database, but other nodes can: ending its sessions, so that clients reconnect to those"
                );
                sessions.len().div_ceil(LOOKS_TO_HAND_OVER)
            });
            for outbox in sessions.iter().take(at_a_time) {
                let farewell = Disconnect::new(
                    DisconnectCode::DRAIN,
                    "this node cannot reach the database; other nodes can",
                );
                outbox.close_saying(CloseReason::Shutdown, farewell.retry_after(Duration::ZERO));
            }
        }
    }

    /// Removes outdated entries from the directory, in small steps.
    pub(super) async fn sweep_directory(&self) {
        let mut tick = tokio::time::interval(super::BEAT_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if self.directory.needs_sweep() {
                self.directory.sweep().await;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_node_that_alone_lost_the_database_refuses_clients_and_then_hands_over() {
        let start = Instant::now();
        let database = Database::new(start);
        let verdict = |ms: u32| database.judge(start + MS * ms, true, |_| true);
        assert_eq!([0, 2499].map(verdict), [Verdict::Open; 2]);
        assert_eq!([2500, 9999].map(verdict), [Verdict::Closed; 2]);
        assert_eq!(verdict(10_000), Verdict::HandOver);
        database.reach(start + MS * 11_000);
        assert_eq!(verdict(11_001), Verdict::Open);
    }

    #[test]
    fn if_no_other_node_has_the_database_clients_are_accepted_and_stay() {
        let start = Instant::now();
        let database = Database::new(start);
        for ms in (0..60_000).step_by(250) {
            // The other nodes had it slightly longer, and have reported it.
            let said = start + HAD_WITHIN;
            let verdict = database.judge(start + MS * ms, true, |since| said >= since + MS);
            assert_eq!(verdict, Verdict::Open, "{ms}");
        }
    }

    #[test]
    fn a_node_without_database_and_redis_refuses_clients_and_keeps_its_sessions() {
        let start = Instant::now();
        let database = Database::new(start);
        let verdict = |ms: u32| database.judge(start + MS * ms, false, |_| false);
        assert_eq!([2499, 2500, 60_000].map(verdict), [Verdict::Open, Verdict::Closed, Verdict::Closed]);
    }
}
