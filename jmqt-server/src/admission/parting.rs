//! The reconnect delays for the clients of a stopping server. Delays differ, so that the clients do not all connect at once,
//! to this node or to others (protocol.md 2.22).

use std::time::Duration;

use jmqt_core::DisconnectCode;
use tokio::time::Instant;

use crate::disconnect::Disconnect;

/// Clients per second that return to a server that restarts.
const RETURNING_PER_SECOND: usize = 500;
/// The least and the most seconds over which these clients are spread.
const RETURN_SECONDS: (usize, usize) = (2, 30);
/// Clients per second that move to other nodes.
const MOVING_PER_SECOND: usize = 2000;
/// The most seconds over which these clients are spread.
const MOVE_SECONDS: usize = 5;

/// The disconnect reasons of a stopping server.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parting {
    code: DisconnectCode,
    /// When the last connection is closed.
    over: Instant,
    /// The least delay after `over`, and the seconds over which clients are spread after it.
    first: u64,
    spread: u64,
}

impl Parting {
    /// The reasons for this number of connections, which are closed one by one over `time`, or all at once.
    pub(crate) fn new(connections: usize, others_are_there: bool, time: Duration) -> Self {
        let over = Instant::now() + time;
        if !others_are_there {
            let spread = (connections / RETURNING_PER_SECOND).clamp(RETURN_SECONDS.0, RETURN_SECONDS.1);
            return Self { code: DisconnectCode::SHUTDOWN, over, first: 1, spread: spread as u64 };
        }
        // Clients that are disconnected one by one may connect to another node at once.
        let spread = if time.is_zero() { (connections / MOVING_PER_SECOND).min(MOVE_SECONDS) } else { 0 };
        Self { code: DisconnectCode::DRAIN, over: Instant::now(), first: 0, spread: 1 + spread as u64 }
    }

    /// The disconnect reason of connection number `number`.
    pub(crate) fn say(&self, number: u64) -> Disconnect {
        let message = match self.code {
            DisconnectCode::DRAIN => "this node is stopping; connect to another node",
            _ => "the server is stopping",
        };
        let seconds = Duration::from_secs(self.first + number % self.spread);
        let until_over = self.over.saturating_duration_since(Instant::now());
        Disconnect::new(self.code, message).retry_after(until_over + seconds)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(connections: usize, others_are_there: bool, drain: u64) -> (DisconnectCode, Vec<u32>) {
        let parting = Parting::new(connections, others_are_there, Duration::from_secs(drain));
        let mut waits: Vec<_> =
            (0..100).filter_map(|number| parting.say(number).retry_after_seconds()).collect();
        waits.sort_unstable();
        waits.dedup();
        (parting.code, waits)
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.22
    async fn clients_of_a_stopping_server_reconnect_at_different_times() {
        const SHUTDOWN: DisconnectCode = DisconnectCode::SHUTDOWN;
        assert_eq!(waits(0, false, 0), (SHUTDOWN, vec![1, 2]));
        assert_eq!(waits(2000, false, 0), (SHUTDOWN, vec![1, 2, 3, 4]));
        assert_eq!(waits(1_000_000, false, 0), (SHUTDOWN, (1..=30).collect()));
        // No client returns before the last connection is closed.
        assert_eq!(waits(10, false, 7), (SHUTDOWN, vec![8, 9]));
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.22
    async fn clients_of_a_stopping_node_connect_to_other_nodes_at_once_or_within_seconds() {
        const DRAIN: DisconnectCode = DisconnectCode::DRAIN;
        assert_eq!(waits(100, true, 0), (DRAIN, vec![0]));
        assert_eq!(waits(4000, true, 0), (DRAIN, vec![0, 1, 2]));
        assert_eq!(waits(1_000_000, true, 0), (DRAIN, (0..=5).collect()));
        assert_eq!(waits(1_000_000, true, 30), (DRAIN, vec![0]));
    }
}
