//! The client's task: connection after connection, with pauses that grow, until it is closed.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::config::Reconnect;
use crate::connect::{self, Session};
use crate::connection;
use crate::event::Event;
use crate::shared::{Shared, State};
use crate::{ConnectError, DisconnectReason};

/// A session that lasted so long was a good one: the next attempt is a first one again. Two clients with the same id
/// that take over from each other do not get that far.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// Runs until the client is closed. `first` hears of the first attempt, and its failure ends the client.
pub(crate) async fn run(shared: Arc<Shared>, first: Option<oneshot::Sender<Result<(), ConnectError>>>) {
    tokio::select! {
        () = live(&shared, first) => {}
        // Never returns.
        () = expire(&shared) => {}
    }
    shared.close();
}

async fn live(shared: &Arc<Shared>, mut first: Option<oneshot::Sender<Result<(), ConnectError>>>) {
    let mut backoff = Backoff::new(shared.config.reconnect);
    loop {
        let outcome = tokio::select! {
            outcome = open(shared) => outcome,
            () = closing(shared) => Err(ConnectError::Closed),
        };
        let is_final = match outcome {
            Ok(session) => {
                let since = Instant::now();
                let reason = session_of(session, shared, &mut first).await;
                if since.elapsed() >= GOOD_SESSION {
                    backoff.reset();
                }
                matches!(reason, DisconnectReason::ByClient)
            }
            Err(error) => {
                let is_final = error.is_final() || first.is_some();
                tracing::warn!(endpoint = %shared.config.endpoint, %error, "Cannot connect");
                if let Some(first) = first.take() {
                    // The one who called may have given up.
                    let _ = first.send(Err(error));
                }
                is_final
            }
        };
        if is_final || shared.is_closing() {
            return;
        }
        let Some(delay) = backoff.next() else { return };
        shared.emit(Event::Reconnecting { attempt: backoff.attempt, delay });
        tracing::info!(attempt = backoff.attempt, ?delay, "Reconnecting");
        tokio::select! {
            () = sleep(delay) => {}
            () = closing(shared) => return,
        }
    }
}

async fn open(shared: &Shared) -> Result<Session, ConnectError> {
    let mut token = shared.token();
    let outcome = connect::open(&shared.config, &mut token, &mut |_, _, _| {}).await;
    shared.set_token(token);
    outcome
}

/// One session, from its opening to the news of its end.
async fn session_of(
    session: Session,
    shared: &Arc<Shared>,
    first: &mut Option<oneshot::Sender<Result<(), ConnectError>>>,
) -> DisconnectReason {
    tracing::info!(client = %session.client, endpoint = %shared.config.endpoint, "Connected");
    if let Some(first) = first.take() {
        let _ = first.send(Ok(()));
    }
    let reason = connection::serve(session, shared).await;
    shared.outbound().end();
    shared.state.send_replace(State::Offline);
    tracing::info!(%reason, "Disconnected");
    shared.emit(Event::Disconnected { reason: reason.clone() });
    reason
}

/// Waits until the client is to be closed.
async fn closing(shared: &Shared) {
    while !shared.is_closing() {
        shared.closing.notified().await;
    }
}

/// Gives up publishes that have waited too long, connected or not.
async fn expire(shared: &Shared) {
    loop {
        sleep(shared.expiry_interval()).await;
        shared.outbound().expire(&shared.config);
        shared.tell_of_room();
    }
}

/// How long to wait before the next attempt.
#[derive(Debug)]
struct Backoff {
    reconnect: Reconnect,
    attempt: u32,
}

impl Backoff {
    const fn new(reconnect: Reconnect) -> Self {
        Self { reconnect, attempt: 0 }
    }

    const fn reset(&mut self) {
        self.attempt = 0;
    }

    /// `None`: not at all.
    fn next(&mut self) -> Option<Duration> {
        let Reconnect::Backoff { first, most, jitter } = self.reconnect else { return None };
        let grown = first.saturating_mul(1 << self.attempt.min(30)).min(most.max(first));
        self.attempt = self.attempt.saturating_add(1);
        Some(if jitter { grown.mul_f64(random_part()) } else { grown })
    }
}

/// From 0 up to 1.
fn random_part() -> f64 {
    // Without randomness, the full time: the clients of one server come back together, but they come.
    getrandom::u32().map_or(1.0, |random| f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(reconnect: Reconnect, count: usize) -> Vec<Duration> {
        let mut backoff = Backoff::new(reconnect);
        std::iter::from_fn(|| backoff.next()).take(count).collect()
    }

    #[test]
    fn waits_double_up_to_the_limit() {
        let (first, most) = (Duration::from_secs(1), Duration::from_secs(5));
        let expected: Vec<_> = [1, 2, 4, 5, 5].map(Duration::from_secs).into();
        assert_eq!(waits(Reconnect::Backoff { first, most, jitter: false }, 5), expected);
        for (wait, longest) in
            waits(Reconnect::Backoff { first, most, jitter: true }, 5).into_iter().zip(expected)
        {
            assert!(wait <= longest);
        }
        assert_eq!(waits(Reconnect::Off, 1), Vec::<Duration>::new());
    }

    #[test]
    fn a_thousand_failures_do_not_overflow() {
        let every = Reconnect::every(Duration::from_secs(10));
        assert!(waits(every, 1000).iter().all(|wait| *wait == Duration::from_secs(10)));
    }

    #[test]
    fn jitter_spreads_clients_over_the_whole_wait() {
        let parts: Vec<_> = (0..1000).map(|_| random_part()).collect();
        for tenth in 0..10 {
            let (from, to) = (f64::from(tenth) / 10.0, f64::from(tenth + 1) / 10.0);
            assert!(parts.iter().any(|part| (from..=to).contains(part)));
        }
    }
}
