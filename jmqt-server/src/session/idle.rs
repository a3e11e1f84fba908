//! How long a connection may keep the server waiting (protocol.md 2.15, 2.14, design of slow consumers).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use crate::connection::CloseReason;
use crate::context::IdleLimits;

/// How many answered `auth` packets restart the wait before `conn`.
const AUTH_RESTARTS: u8 = 5;
/// A connection whose time is up is looked at once more, after this part of its time: when this process stood
/// still, timers go off before what clients did meanwhile is seen.
const LAST_LOOK: u32 = 64;
/// A connection that took fewer bytes than this in SLOW_CONSUMER_SECONDS is closed.
const SLOW_CONSUMER_BYTES: u64 = 1024;

/// One connection's clocks, and the one timer that serves them all. The limits are those of the server, and handed in: a
/// copy of them would take room in each connection.
///
/// Nothing is rearmed when bytes come in: the timer runs to the deadline it was set to, and looks then
/// whether that has moved.
pub(super) struct IdleClock {
    /// Before a session: when the wait began. Within one: when bytes were received last.
    since: Instant,
    in_session: bool,
    auth_restarts: u8,
    /// Silence is answered with a ping after half of its time: this is a WebSocket.
    pings: bool,
    /// A ping was sent in this silence.
    pinged: bool,
    /// When the packet began that is half received.
    packet_since: Option<Instant>,
    /// When the outbox was seen blocked, and how many bytes had been taken then.
    blocked: Option<(Instant, u64)>,
    /// When the session's token expires.
    expires: Option<Instant>,
    /// The deadline that had passed when the timer went off last.
    overdue: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

/// What is to be done now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// A WebSocket ping is to be sent (protocol.md 2.24).
    Ping,
    /// The connection is to be closed.
    End(CloseReason),
}

/// What the clocks are checked against.
pub(super) struct Observed {
    /// The client is read from, so that its silence counts. It is not while its outbox is full.
    pub(super) reading: bool,
    /// Bytes taken by the kernel so far, if something is waiting.
    pub(super) blocked_at: Option<u64>,
    /// Since when the in-flight window has been full.
    pub(super) window_full_since: Option<std::time::Instant>,
}

impl IdleClock {
    /// `pings`: what is silent for half of the time is sent a ping.
    pub(super) fn new(limits: &IdleLimits, accepted: Instant, pings: bool) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(accepted + limits.timeout));
        Self {
            since: accepted,
            in_session: false,
            auth_restarts: 0,
            pings,
            pinged: false,
            packet_since: None,
            blocked: None,
            expires: None,
            overdue: None,
            timer,
        }
    }

    /// Bytes were received, which end in the middle of a packet or do not.
    pub(super) fn received(&mut self, now: Instant, mid_packet: bool) {
        if self.in_session {
            self.since = now;
            self.pinged = false;
        }
        match (mid_packet, self.packet_since) {
            (true, None) => self.packet_since = Some(now),
            (false, _) => self.packet_since = None,
            (true, Some(_)) => {}
        }
    }

    /// A packet was completed in these bytes, so the one that is half received began with them.
    pub(super) fn packet_completed(&mut self) {
        self.packet_since = None;
    }

    /// An `auth` was answered before `conn`.
    pub(super) fn auth_answered(&mut self, now: Instant) {
        if !self.in_session && self.auth_restarts < AUTH_RESTARTS {
            self.auth_restarts += 1;
            self.since = now;
        }
    }

    pub(super) fn session_begun(&mut self, limits: &IdleLimits, now: Instant) {
        self.in_session = true;
        self.since = now;
        if self.pings {
            self.look_at(now + limits.timeout / 2);
        }
    }

    /// The session ends after this time, whatever it does.
    pub(super) fn expire_after(&mut self, now: Instant, time: Duration) {
        // What is too far away for the clock never comes.
        self.expires = now.checked_add(time);
        if let Some(expires) = self.expires {
            self.look_at(expires);
        }
    }

    /// For a session that is never without something to do, so that nobody asks the timer.
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.expires.is_some_and(|expires| expires <= now)
    }

    /// Sets the timer to this time, unless it goes off sooner.
    fn look_at(&mut self, deadline: Instant) {
        if deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
    }

    /// A request was handled for so long: the clock stood still.
    pub(super) fn stood_still(&mut self, pause: Duration) {
        self.since += pause;
        self.packet_since = self.packet_since.map(|since| since + pause);
    }

    /// What is due. Rearms the timer when nothing is; after a ping that is done at the next call.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        limits: &IdleLimits,
        observe: impl Fn() -> Observed,
    ) -> Poll<Due> {
        loop {
            if self.timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            let (deadline, due) = self.next_deadline(limits, &observe());
            let now = Instant::now();
            let next = if now < deadline {
                deadline
            } else {
                let Due::End(reason) = due else {
                    self.pinged = true;
                    return Poll::Ready(due);
                };
                let may_have_spoken = reason != CloseReason::TokenExpired;
                if self.overdue.replace(deadline) == Some(deadline) || !may_have_spoken {
                    return Poll::Ready(due);
                }
                let period = match reason {
                    CloseReason::SlowConsumer => limits.slow_consumer,
                    _ => limits.timeout,
                };
                now + period / LAST_LOOK
            };
            self.timer.as_mut().reset(next);
        }
    }

    /// The outbox has become blocked: its deadline may come before the one the timer is set to.
    pub(super) fn watch_blocked(&mut self, limits: &IdleLimits, written: u64) {
        if self.blocked.is_some() {
            return;
        }
        let now = Instant::now();
        self.blocked = Some((now, written));
        self.look_at(now + limits.slow_consumer);
    }

    /// The outbox is empty again.
    pub(super) fn unblocked(&mut self) {
        self.blocked = None;
    }

    fn next_deadline(&mut self, limits: &IdleLimits, observed: &Observed) -> (Instant, Due) {
        let timeout = limits.timeout;
        let since = if observed.reading { self.since } else { Instant::now() };
        let mut next = (since + timeout, Due::End(CloseReason::IdleTimeout));
        if self.pings && self.in_session && !self.pinged {
            next = (since + timeout / 2, Due::Ping);
        }
        let mut sooner = |deadline: Instant, reason| {
            if deadline < next.0 {
                next = (deadline, Due::End(reason));
            }
        };
        if let Some(expires) = self.expires {
            sooner(expires, CloseReason::TokenExpired);
        }
        if self.in_session
            && observed.reading
            && let Some(since) = self.packet_since
        {
            sooner(since + timeout * 4, CloseReason::IdleTimeout);
        }
        if let Some(since) = observed.window_full_since.filter(|_| observed.reading) {
            sooner(Instant::from_std(since) + timeout * 2, CloseReason::NoAcknowledgements);
        }
        match (observed.blocked_at, &mut self.blocked) {
            (Some(written), Some((since, mark))) => {
                if *since + limits.slow_consumer <= Instant::now() && written >= *mark + SLOW_CONSUMER_BYTES {
                    (*since, *mark) = (Instant::now(), written);
                }
                sooner(*since + limits.slow_consumer, CloseReason::SlowConsumer);
            }
            _ => self.blocked = None,
        }
        next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: IdleLimits =
        IdleLimits { timeout: Duration::from_secs(60), slow_consumer: Duration::from_secs(30) };

    async fn expires(clock: &mut IdleClock, observe: impl Fn() -> Observed) -> (CloseReason, u64) {
        let start = Instant::now();
        match std::future::poll_fn(|cx| clock.poll(cx, &LIMITS, &observe)).await {
            Due::End(reason) => (reason, start.elapsed().as_secs()),
            Due::Ping => panic!("a ping"),
        }
    }

    fn nothing() -> Observed {
        Observed { reading: true, blocked_at: None, window_full_since: None }
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.15
    async fn before_conn_bytes_are_no_sign_of_life() {
        let mut clock = IdleClock::new(&LIMITS, Instant::now(), false);
        tokio::time::advance(Duration::from_secs(50)).await;
        clock.received(Instant::now(), true);
        assert_eq!(expires(&mut clock, nothing).await, (CloseReason::IdleTimeout, 10));
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.1
    async fn five_answered_auths_restart_the_wait() {
        let mut clock = IdleClock::new(&LIMITS, Instant::now(), false);
        for _ in 0..7 {
            tokio::time::advance(Duration::from_secs(5)).await;
            clock.auth_answered(Instant::now());
        }
        assert_eq!(expires(&mut clock, nothing).await, (CloseReason::IdleTimeout, 50));
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.15
    async fn in_a_session_bytes_count_but_one_packet_has_its_limit() {
        let mut clock = IdleClock::new(&LIMITS, Instant::now(), false);
        clock.session_begun(&LIMITS, Instant::now());
        for _ in 0..4 {
            clock.received(Instant::now(), true);
            tokio::time::advance(Duration::from_secs(50)).await;
        }
        clock.received(Instant::now(), true);
        assert_eq!(expires(&mut clock, nothing).await, (CloseReason::IdleTimeout, 40));
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.15
    async fn what_was_sent_in_time_counts_although_it_is_read_after_the_timer() {
        let mut clock = IdleClock::new(&LIMITS, Instant::now(), false);
        clock.session_begun(&LIMITS, Instant::now());
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(90)).await; // nothing runs meanwhile
            let looked = std::future::poll_fn(|cx| Poll::Ready(clock.poll(cx, &LIMITS, nothing))).await;
            assert!(looked.is_pending());
            clock.received(Instant::now(), false);
        }
        assert_eq!(expires(&mut clock, nothing).await, (CloseReason::IdleTimeout, 60));
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.15
    async fn the_clock_stands_still_while_a_request_is_handled() {
        let mut clock = IdleClock::new(&LIMITS, Instant::now(), false);
        clock.session_begun(&LIMITS, Instant::now());
        tokio::time::advance(Duration::from_secs(20)).await;
        clock.stood_still(Duration::from_secs(20));
        assert_eq!(expires(&mut clock, nothing).await, (CloseReason::IdleTimeout, 60));
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.15
    async fn the_silence_of_a_client_that_is_not_read_from_does_not_count() {
        let mut clock = IdleClock::new(&LIMITS, Instant::now(), false);
        clock.session_begun(&LIMITS, Instant::now());
        clock.received(Instant::now(), true);
        clock.watch_blocked(&LIMITS, 0);
        let started = Instant::now();
        // It takes a kilobyte in every slow-consumer period, for ten minutes.
        let observe = || {
            let taken = started.elapsed().as_secs().min(600) * 40;
            Observed { reading: false, blocked_at: Some(taken), window_full_since: Some(started.into_std()) }
        };
        let (reason, after) = expires(&mut clock, observe).await;
        assert_eq!(reason, CloseReason::SlowConsumer);
        assert!(after >= 600, "{after}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_consumer_that_takes_nothing_is_slow_and_one_that_takes_some_is_not() {
        let mut clock = IdleClock::new(&LIMITS, Instant::now(), false);
        clock.session_begun(&LIMITS, Instant::now());
        clock.watch_blocked(&LIMITS, 100);
        let stuck = || Observed { blocked_at: Some(1123), ..nothing() };
        assert_eq!(expires(&mut clock, stuck).await, (CloseReason::SlowConsumer, 30));
        let mut clock = IdleClock::new(&LIMITS, Instant::now(), false);
        clock.session_begun(&LIMITS, Instant::now());
        clock.watch_blocked(&LIMITS, 100);
        let moving = || Observed { blocked_at: Some(1124), ..nothing() };
        assert_eq!(expires(&mut clock, moving).await, (CloseReason::IdleTimeout, 60));
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.24
    async fn a_websocket_is_pinged_once_in_each_silence_and_the_answer_counts() {
        let mut clock = IdleClock::new(&LIMITS, Instant::now(), true);
        tokio::time::advance(Duration::from_secs(10)).await;
        clock.session_begun(&LIMITS, Instant::now());
        for _ in 0..5 {
            let start = Instant::now();
            let due = std::future::poll_fn(|cx| clock.poll(cx, &LIMITS, nothing)).await;
            assert_eq!((due, start.elapsed().as_secs()), (Due::Ping, 30));
            clock.received(Instant::now(), false);
        }
        let due = std::future::poll_fn(|cx| clock.poll(cx, &LIMITS, nothing)).await;
        assert_eq!(due, Due::Ping);
        assert_eq!(expires(&mut clock, nothing).await, (CloseReason::IdleTimeout, 30));
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.24
    async fn a_websocket_that_speaks_is_not_pinged() {
        let mut clock = IdleClock::new(&LIMITS, Instant::now(), true);
        clock.session_begun(&LIMITS, Instant::now());
        for _ in 0..10 {
            tokio::time::advance(Duration::from_secs(20)).await;
            clock.received(Instant::now(), false);
            let looked = std::future::poll_fn(|cx| Poll::Ready(clock.poll(cx, &LIMITS, nothing))).await;
            assert!(looked.is_pending());
        }
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.2
    async fn an_expired_token_ends_a_session_that_speaks() {
        for lifetime in [10, 100] {
            let mut clock = IdleClock::new(&LIMITS, Instant::now(), false);
            clock.session_begun(&LIMITS, Instant::now());
            clock.expire_after(Instant::now(), Duration::from_secs(lifetime));
            let start = Instant::now();
            tokio::time::advance(Duration::from_secs(lifetime / 2)).await;
            clock.received(Instant::now(), false);
            assert!(!clock.has_expired(Instant::now()));
            assert_eq!(expires(&mut clock, nothing).await.0, CloseReason::TokenExpired);
            assert_eq!(start.elapsed().as_secs(), lifetime);
            assert!(clock.has_expired(Instant::now()));
        }
        let mut clock = IdleClock::new(&LIMITS, Instant::now(), false);
        clock.session_begun(&LIMITS, Instant::now());
        clock.expire_after(Instant::now(), Duration::MAX);
        assert_eq!(expires(&mut clock, nothing).await, (CloseReason::IdleTimeout, 60));
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.24
    async fn before_conn_nothing_is_pinged() {
        let mut clock = IdleClock::new(&LIMITS, Instant::now(), true);
        assert_eq!(expires(&mut clock, nothing).await, (CloseReason::IdleTimeout, 60));
    }
}
