//! The time limits of a connection (protocol.md 2.14, 2.15, slow consumers).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::rate::Rate;
use crate::connection::CloseReason;
use crate::context::IdleLimits;

/// The number of answered `auth` packets that restart the wait for `conn`.
const AUTH_RESTARTS: u8 = 5;
/// How many times the time limit for silence one packet may take.
const PACKET_TIMEOUTS: u32 = 4;
/// A connection whose time is up is checked once more, after this part of its time. After a stall of this process,
/// timers fire before the bytes that clients sent meanwhile are read.
const LAST_LOOK: u32 = 64;
/// A connection that took fewer bytes than this in SLOW_CONSUMER_SECONDS is closed.
const SLOW_CONSUMER_BYTES: u64 = 1024;

/// The clocks of one connection, and their single timer. The limits belong to the server and are passed in, because a
/// copy would need memory in each connection.
///
/// Received bytes do not rearm the timer. When it fires, it checks whether the deadline has moved.
pub(super) struct IdleClock {
    /// Before a session: the start of the wait. Within one: the time of the last received bytes.
    since: Instant,
    in_session: bool,
    auth_restarts: u8,
    /// The client has chosen how long it may be silent.
    has_keep_alive: bool,
    /// The chosen time in seconds; 0 for any.
    keep_alive_seconds: u16,
    /// The connection is a WebSocket: a ping is sent after half of the silence limit.
    pings: bool,
    /// A ping was sent during this silence.
    pinged: bool,
    /// The start of the incomplete packet.
    packet_since: Option<Instant>,
    /// The time when the outbox was found blocked, and the number of bytes accepted until then.
    blocked: Option<(Instant, u64)>,
    /// What few sessions have.
    deadlines: Option<Box<Deadlines>>,
    /// The deadline that had passed when the timer last fired.
    overdue: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

#[derive(Default)]
struct Deadlines {
    /// The expiry of the session's token.
    token: Option<Instant>,
    /// For the answer of a client that authenticates again.
    answer: Option<Instant>,
    /// How fast the client sends, if that is limited. It is here because most servers have no such limit.
    rate: Option<Rate>,
}

/// A time that never comes while a process runs.
const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The action that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    /// Send a WebSocket ping (protocol.md 2.24).
    Ping,
    /// Close the connection.
    End(CloseReason),
}

/// The state of the connection that the clocks are checked against.
pub(super) struct Observed {
    /// The client is being read, so its silence counts. It is not read while its outbox is full.
    pub(super) reading: bool,
    /// The number of bytes accepted by the kernel so far, if bytes are waiting.
    pub(super) blocked_at: Option<u64>,
    /// The time since which the window has been full.
    pub(super) window_full_since: Option<std::time::Instant>,
}

impl IdleClock {
    /// `pings`: send a ping after half of the silence limit.
    pub(super) fn new(limits: &IdleLimits, accepted: Instant, pings: bool) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(accepted + limits.timeout));
        Self {
            since: accepted,
            in_session: false,
            auth_restarts: 0,
            has_keep_alive: false,
            keep_alive_seconds: 0,
            pings,
            pinged: false,
            packet_since: None,
            blocked: None,
            deadlines: None,
            overdue: None,
            timer,
        }
    }

    /// Records received bytes; `mid_packet` tells whether they end within a packet.
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

    /// Looks at the limit of an incomplete packet in time. The timer of a client that may be silent for long fires later.
    pub(super) fn watch_packet(&mut self, limits: &IdleLimits, now: Instant) {
        if self.has_keep_alive {
            self.look_at(now + limits.timeout * PACKET_TIMEOUTS);
        }
    }

    /// Records that a packet was completed in these bytes, so an incomplete one began with them.
    pub(super) fn packet_completed(&mut self) {
        self.packet_since = None;
    }

    /// Records that an `auth` was answered before `conn`.
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

    /// Limits how fast the client may send.
    pub(super) fn limit_rate(&mut self, rate: Rate) {
        self.deadlines.get_or_insert_default().rate = Some(rate);
    }

    /// How fast the client sends; `None` if that is not limited.
    pub(super) fn rate(&mut self) -> Option<&mut Rate> {
        self.deadlines.as_mut()?.rate.as_mut()
    }

    /// Sets how often the client promises to send something; 0 for never. It may be silent for one and a half times this.
    pub(super) fn keep_alive(&mut self, now: Instant, seconds: u16) {
        (self.has_keep_alive, self.keep_alive_seconds) = (true, seconds);
        self.look_at(now + self.silence_limit(NEVER));
    }

    fn silence_limit(&self, of_server: Duration) -> Duration {
        match (self.has_keep_alive, self.keep_alive_seconds) {
            (false, _) => of_server,
            (true, 0) => NEVER,
            (true, seconds) => Duration::from_millis(u64::from(seconds) * 1500),
        }
    }

    /// Limits the session to this time.
    pub(super) fn expire_after(&mut self, now: Instant, time: Duration) {
        // A time that the clock cannot represent never comes.
        let expires = now.checked_add(time);
        self.deadlines.get_or_insert_default().token = expires;
        if let Some(expires) = expires {
            self.look_at(expires);
        }
    }

    /// Removes the limit of the session.
    pub(super) fn never_expire(&mut self) {
        if let Some(deadlines) = &mut self.deadlines {
            deadlines.token = None;
        }
    }

    /// The client must answer within the time limit for silence.
    pub(super) fn expect_answer(&mut self, limits: &IdleLimits, now: Instant) {
        let deadline = now + limits.timeout;
        self.deadlines.get_or_insert_default().answer = Some(deadline);
        self.look_at(deadline);
    }

    /// The client has answered.
    pub(super) fn answered(&mut self) {
        if let Some(deadlines) = &mut self.deadlines {
            deadlines.answer = None;
        }
    }

    /// Returns `true` if the token has expired. For a session that is always busy and never polls the timer.
    pub(super) fn has_expired(&self, now: Instant) -> bool {
        self.token_expiry().is_some_and(|expires| expires <= now)
    }

    fn token_expiry(&self) -> Option<Instant> {
        self.deadlines.as_ref().and_then(|deadlines| deadlines.token)
    }

    /// Sets the timer to this time, unless it fires earlier.
    fn look_at(&mut self, deadline: Instant) {
        if deadline < self.timer.deadline() {
            self.timer.as_mut().reset(deadline);
        }
    }

    /// Moves the clocks by the duration of a request, during which they are stopped.
    pub(super) fn stood_still(&mut self, pause: Duration) {
        self.since += pause;
        self.packet_since = self.packet_since.map(|since| since + pause);
    }

    /// The action that is due. Rearms the timer if there is none; after a ping the next call rearms it.
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
                    _ => self.silence_limit(limits.timeout).min(limits.timeout),
                };
                now + period / LAST_LOOK
            };
            self.timer.as_mut().reset(next);
        }
    }

    /// Records that the outbox is blocked. Its deadline may be earlier than the timer's.
    pub(super) fn watch_blocked(&mut self, limits: &IdleLimits, written: u64) {
        if self.blocked.is_some() {
            return;
        }
        let now = Instant::now();
        self.blocked = Some((now, written));
        self.look_at(now + limits.slow_consumer);
    }

    /// Records that the outbox is empty again.
    pub(super) fn unblocked(&mut self) {
        self.blocked = None;
    }

    fn next_deadline(&mut self, limits: &IdleLimits, observed: &Observed) -> (Instant, Due) {
        let timeout = limits.timeout;
        let since = if observed.reading { self.since } else { Instant::now() };
        let silence = if self.in_session { self.silence_limit(timeout) } else { timeout };
        let mut next = (since + silence, Due::End(CloseReason::IdleTimeout));
        if self.pings && self.in_session && !self.pinged && !self.has_keep_alive {
            next = (since + timeout / 2, Due::Ping);
        }
        let mut sooner = |deadline: Instant, reason| {
            if deadline < next.0 {
                next = (deadline, Due::End(reason));
            }
        };
        if let Some(deadlines) = &self.deadlines {
            if let Some(expires) = deadlines.token {
                sooner(expires, CloseReason::TokenExpired);
            }
            if let Some(deadline) = deadlines.answer {
                sooner(deadline, CloseReason::IdleTimeout);
            }
        }
        if self.in_session
            && observed.reading
            && let Some(since) = self.packet_since
        {
            sooner(since + timeout * PACKET_TIMEOUTS, CloseReason::IdleTimeout);
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
    async fn before_conn_bytes_do_not_extend_the_limit() {
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

    #[tokio::test(start_paused = true)] // MQTT 5.0, 3.1.2.10
    async fn a_client_that_may_be_silent_for_ever_has_the_same_limit_for_a_packet() {
        for seconds in [0, u16::MAX] {
            let mut clock = IdleClock::new(&LIMITS, Instant::now(), false);
            clock.session_begun(&LIMITS, Instant::now());
            clock.keep_alive(Instant::now(), seconds);
            let looked = |clock: &mut IdleClock| {
                let mut cx = Context::from_waker(std::task::Waker::noop());
                clock.poll(&mut cx, &LIMITS, nothing).is_ready()
            };
            tokio::time::advance(Duration::from_secs(1000)).await;
            assert!(!looked(&mut clock), "it is only silent");
            clock.received(Instant::now(), true);
            clock.watch_packet(&LIMITS, Instant::now());
            tokio::time::advance(Duration::from_secs(100)).await;
            clock.packet_completed();
            clock.received(Instant::now(), true);
            clock.watch_packet(&LIMITS, Instant::now());
            // A little more than 240 seconds, after which it is looked at once more.
            assert_eq!(expires(&mut clock, nothing).await, (CloseReason::IdleTimeout, 240));
        }
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.15
    async fn bytes_sent_in_time_count_if_read_after_the_timer() {
        let mut clock = IdleClock::new(&LIMITS, Instant::now(), false);
        clock.session_begun(&LIMITS, Instant::now());
        for _ in 0..3 {
            tokio::time::advance(Duration::from_secs(90)).await; // no task runs meanwhile
            let looked = std::future::poll_fn(|cx| Poll::Ready(clock.poll(cx, &LIMITS, nothing))).await;
            assert!(looked.is_pending());
            clock.received(Instant::now(), false);
        }
        assert_eq!(expires(&mut clock, nothing).await, (CloseReason::IdleTimeout, 60));
    }

    #[tokio::test(start_paused = true)] // protocol.md 2.15
    async fn the_clock_is_stopped_while_a_request_is_handled() {
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
        // It reads a kilobyte in every slow-consumer period, for ten minutes.
        let observe = || {
            let taken = started.elapsed().as_secs().min(600) * 40;
            Observed { reading: false, blocked_at: Some(taken), window_full_since: Some(started.into_std()) }
        };
        let (reason, after) = expires(&mut clock, observe).await;
        assert_eq!(reason, CloseReason::SlowConsumer);
        assert!(after >= 600, "{after}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_is_slow_if_it_reads_nothing() {
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
    async fn an_active_websocket_is_not_pinged() {
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
    async fn an_expired_token_ends_an_active_session() {
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
    async fn before_conn_no_ping_is_sent() {
        let mut clock = IdleClock::new(&LIMITS, Instant::now(), true);
        assert_eq!(expires(&mut clock, nothing).await, (CloseReason::IdleTimeout, 60));
    }
}
