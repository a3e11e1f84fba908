//! The client's task: connection after connection, with pauses that grow, until it is closed.

use std::sync::Arc;
use std::time::Duration;

use jmqt_protocol::DisconnectCode;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::config::Reconnect;
use crate::connect::{self, Session, Target};
use crate::connection;
use crate::event::Event;
use crate::shared::{Shared, State, forget};
use crate::way::Report;
use crate::{Config, ConnectError, DisconnectReason, Endpoint, ServerClose};

/// After a session of this length the delays start from the beginning. Two clients with the same id
/// that take over from each other do not get that far.
pub(crate) const GOOD_SESSION: Duration = Duration::from_secs(10);

/// How long a first attempt waits before it goes on after a failure of the server that may pass.
const FIRST_RETRY: Reconnect =
    Reconnect::Backoff { first: Duration::from_millis(200), most: Duration::from_secs(2), jitter: true };

/// Who waits for the outcome of the first attempt.
pub(crate) type First = Option<oneshot::Sender<Result<(), ConnectError>>>;

/// Runs until the client is closed. `first` hears of the first attempt, and its failure ends the client.
pub(crate) async fn run(shared: Arc<Shared>, first: First) {
    tokio::select! {
        () = live(&shared, first) => {}
        // Never returns.
        () = expire(&shared) => {}
    }
    shared.close();
}

/// What comes after a session, or after an attempt to open one.
enum Next {
    /// The client ends.
    End,
    /// Another attempt, no sooner than after this time.
    Retry { at_least: Duration, error: Option<ConnectError> },
    /// The server does not want another attempt until the application does.
    Stop(DisconnectReason),
}

async fn live(shared: &Arc<Shared>, first: First) {
    let mut servers = Servers::new(&shared.config);
    let mut backoff = Backoff::new(shared.config.reconnect);
    let mut next = match first {
        None => attempt(shared, &mut servers, &mut backoff).await,
        Some(first) => match open_first(shared, &mut servers).await {
            Ok(session) => {
                // The one who called may have given up.
                let _ = first.send(Ok(()));
                session_of(session, shared, &mut servers, &mut backoff).await
            }
            Err(error) => {
                let _ = first.send(Err(error));
                return;
            }
        },
    };
    loop {
        if shared.is_closing() {
            return;
        }
        match next {
            Next::End => return,
            Next::Stop(reason) => {
                if !stop(shared, reason).await {
                    return;
                }
                backoff.reset();
            }
            Next::Retry { at_least, error } => {
                let Some(delay) = backoff.next() else { return };
                let delay = at_least + delay;
                tracing::info!(attempt = backoff.attempt, ?delay, "Reconnecting");
                shared.emit(Event::Reconnecting { attempt: backoff.attempt, delay, error });
                tokio::select! {
                    () = sleep(delay) => {}
                    () = shared.reconnect.notified() => {}
                    () = closing(shared) => return,
                }
            }
        }
        next = attempt(shared, &mut servers, &mut backoff).await;
    }
}

/// Waits until the application wants a connection again; `false` if it wants the client to end.
async fn stop(shared: &Shared, reason: DisconnectReason) -> bool {
    shared.park(reason.clone());
    if matches!(shared.config.reconnect, Reconnect::Off) {
        return false;
    }
    if let Some(close) = reason.server_close() {
        tracing::warn!(%close, "Not reconnecting; the application must call reconnect");
        shared.emit(Event::Stopped { close: close.clone() });
    }
    tokio::select! {
        () = shared.reconnect.notified() => {}
        () = closing(shared) => return false,
    }
    shared.unpark();
    true
}

/// The first attempt: every server once, and again within the time of an attempt if what failed may pass, as status 5 of a
/// node that has lost its database.
async fn open_first(shared: &Shared, servers: &mut Servers) -> Result<Session, ConnectError> {
    let end = Instant::now() + shared.config.connect_timeout;
    let mut backoff = Backoff::new(FIRST_RETRY);
    let mut left = servers.count();
    loop {
        let error = match open(shared, servers).await {
            Ok(session) => return Ok(session),
            Err(error) => error,
        };
        left = left.saturating_sub(1);
        if error.is_final() || (left == 0 && !error.may_pass()) {
            return Err(error);
        }
        if left > 0 {
            continue;
        }
        let asked = error.server_close().and_then(|close| close.retry_after).unwrap_or_default();
        let delay = asked + backoff.next().unwrap_or_default();
        if Instant::now() + delay >= end {
            return Err(error);
        }
        tokio::select! {
            () = sleep(delay) => {}
            () = closing(shared) => return Err(ConnectError::Closed),
        }
    }
}

async fn open(shared: &Shared, servers: &mut Servers) -> Result<Session, ConnectError> {
    let endpoint = servers.present(&shared.config);
    let target = Target { endpoint, publisher: Some(&shared.publisher) };
    let mut token = shared.token();
    let unreported: Report<'_> = &mut |_, _, _| {};
    let outcome = tokio::select! {
        outcome = connect::open(&shared.config, target, &mut token, unreported) => outcome,
        () = closing(shared) => Err(ConnectError::Closed),
    };
    shared.set_token(token);
    match &outcome {
        Ok(session) => {
            tracing::info!(client = %session.client, %endpoint, once = session.once, "Connected");
        }
        Err(error) => {
            tracing::warn!(%endpoint, %error, "Cannot connect");
            servers.go_on();
        }
    }
    outcome
}

/// An attempt, and the session if it succeeds.
async fn attempt(shared: &Arc<Shared>, servers: &mut Servers, backoff: &mut Backoff) -> Next {
    match open(shared, servers).await {
        Ok(session) => session_of(session, shared, servers, backoff).await,
        Err(error) if error.is_final() => Next::End,
        Err(error) => match error.server_close() {
            Some(close) if !close.code.may_reconnect() => {
                Next::Stop(DisconnectReason::ByServer(Some(close.clone())))
            }
            close => {
                forget_expired_token(shared, close);
                let at_least = close.and_then(|close| close.retry_after).unwrap_or_default();
                Next::Retry { at_least, error: Some(error) }
            }
        },
    }
}

/// One session, from its opening to the news of its end.
async fn session_of(
    session: Session,
    shared: &Arc<Shared>,
    servers: &mut Servers,
    backoff: &mut Backoff,
) -> Next {
    let since = Instant::now();
    let reason = connection::serve(session, shared).await;
    // Later callers know of the end.
    forget(&shared.reconnect).await;
    if since.elapsed() >= GOOD_SESSION {
        backoff.reset();
    }
    {
        let mut routes = shared.routes();
        shared.outbound().end();
        routes.end_connection();
    }
    shared.state.send_replace(State::Offline);
    shared.progress.notify_waiters();
    tracing::info!(%reason, "Disconnected");
    shared.emit(Event::Disconnected { reason: reason.clone() });
    servers.go_on();
    match reason {
        DisconnectReason::ByClient => Next::End,
        reason if !reason.may_reconnect() || matches!(shared.config.reconnect, Reconnect::Off) => {
            Next::Stop(reason)
        }
        reason => {
            forget_expired_token(shared, reason.server_close());
            let at_least = reason.server_close().and_then(|close| close.retry_after).unwrap_or_default();
            Next::Retry { at_least, error: None }
        }
    }
}

/// A token that has expired is not tried again, where another one can be asked for (§10, protocol.md 2.22).
fn forget_expired_token(shared: &Shared, close: Option<&ServerClose>) {
    let has_expired = close.is_some_and(|close| close.code == DisconnectCode::TOKEN_EXPIRED);
    if has_expired && shared.config.auth_data.is_some() {
        shared.set_token(None);
    }
}

/// Which of the servers is next.
#[derive(Debug)]
struct Servers {
    count: usize,
    at: usize,
}

impl Servers {
    /// Begins with one at random, so that the clients of a cluster spread.
    fn new(config: &Config) -> Self {
        let count = config.endpoints.len();
        let random = getrandom::u32().unwrap_or_default() as usize;
        Self { count, at: random % count.max(1) }
    }

    const fn count(&self) -> usize {
        self.count
    }

    fn present<'c>(&self, config: &'c Config) -> &'c Endpoint {
        &config.endpoints[self.at]
    }

    fn go_on(&mut self) {
        self.at = (self.at + 1) % self.count.max(1);
    }
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
pub(crate) struct Backoff {
    reconnect: Reconnect,
    pub(crate) attempt: u32,
}

impl Backoff {
    pub(crate) const fn new(reconnect: Reconnect) -> Self {
        Self { reconnect, attempt: 0 }
    }

    pub(crate) const fn reset(&mut self) {
        self.attempt = 0;
    }

    /// `None`: not at all.
    pub(crate) fn next(&mut self) -> Option<Duration> {
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
