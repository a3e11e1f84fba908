//! The events a session waits for, and the work during the wait: writing the outbox and noticing the end.

use std::fmt;
use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Session;
use super::buffer::ReadBuffer;
use super::idle::{Due, Observed};
use super::rate::Pace;
use crate::connection::{CONTINUE, CloseReason, Flow};
use crate::counters::{Outcome, Validator};
use crate::log_limit::log_limited;
use crate::transport::PING;
use crate::validators::{Asked, Question, let_go, poll_at_once, poll_guarded};

/// The time after which a busy session yields. A shorter time has little effect, because one read of a busy session
/// takes about as long.
const TURN: Duration = Duration::from_micros(500);
/// How often the time may double, when nobody was waiting: to 4 ms. A session that yields writes what it has collected, and
/// a fan-out in smaller pieces costs more.
const MAX_DOUBLINGS: u8 = 3;
/// If a yield takes less time than this, no busy session was waiting.
const NOBODY_WAITED: Duration = Duration::from_micros(50);

/// The events between reads.
pub(crate) enum Event {
    Received(ReadBuffer, usize),
    /// The outbox has room again.
    Drained,
    /// The session and its subscriptions are to be validated again.
    Revalidate,
    Ended(CloseReason),
}

impl Session {
    /// Waits for the next event of the connection.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let event = self.poll_for_event(cx);
        if event.is_pending() {
            self.turn_began = None;
        }
        event
    }

    fn poll_for_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let duties = match self.poll_duties(cx) {
            Poll::Ready(ControlFlow::Break(reason)) => return Poll::Ready(Event::Ended(reason)),
            Poll::Ready(ControlFlow::Continue(())) => return Poll::Ready(Event::Drained),
            Poll::Pending => self.outbox.duties(),
        };
        if self.outbox.take_revalidation() {
            return Poll::Ready(Event::Revalidate);
        }
        // A client that does not read its answers is not read from either.
        if !duties.full
            && let Poll::Ready(read) = self.io.poll_read(cx, self.read_size)
        {
            return Poll::Ready(match read {
                Ok((_, 0)) => Event::Ended(CloseReason::ClosedByClient),
                Ok((buffer, length)) => Event::Received(buffer, length),
                Err(error) => Event::Ended(self.lost(&error)),
            });
        }
        self.poll_clock(cx, !duties.full).map(Event::Ended)
    }

    /// Begins a turn when bytes are received, unless the current turn continues.
    pub(crate) async fn begin_turn(&mut self, now: Instant) -> Flow {
        match self.turn_began {
            Some(began) if now.duration_since(began) >= self.turn() => self.let_others_run().await,
            Some(_) => CONTINUE,
            None => {
                self.turn_began = Some(now);
                CONTINUE
            }
        }
    }

    pub(crate) async fn look_at_the_clock(&mut self) -> Flow {
        self.batch.spent = 0;
        self.begin_turn(Instant::now()).await
    }

    /// The time after which this session yields.
    fn turn(&self) -> Duration {
        TURN * (1 << self.batch.turn_doublings)
    }

    /// Writes the collected pushes, and yields to other tasks.
    pub(super) async fn let_others_run(&mut self) -> Flow {
        self.end_batch().await;
        let yielded = Instant::now();
        tokio::task::yield_now().await;
        let now = Instant::now();
        self.batch.turn_doublings = match now.duration_since(yielded) < NOBODY_WAITED {
            true => (self.batch.turn_doublings + 1).min(MAX_DOUBLINGS),
            false => 0,
        };
        self.turn_began = Some(now);
        if self.clock.has_expired(now) {
            return ControlFlow::Break(self.token_expired());
        }
        poll_fn(|cx| match self.poll_duties(cx) {
            Poll::Ready(flow) => Poll::Ready(flow),
            Poll::Pending => Poll::Ready(CONTINUE),
        })
        .await
    }

    /// Checks the time limits. `reading`: the client is being read, so its silence counts.
    fn poll_clock(&mut self, cx: &mut Context<'_>, reading: bool) -> Poll<CloseReason> {
        let outbox = &self.outbox;
        let observe = || {
            let (written, waiting) = outbox.progress();
            Observed {
                reading,
                blocked_at: (waiting > 0).then_some(written),
                window_full_since: outbox.window_full_since(),
            }
        };
        loop {
            match std::task::ready!(self.clock.poll(cx, &self.shared.idle, observe)) {
                Due::End(CloseReason::TokenExpired) => return Poll::Ready(self.token_expired()),
                Due::End(reason) => return Poll::Ready(reason),
                Due::Ping => {
                    outbox.append(Bytes::from_static(&PING));
                    outbox.flush();
                }
            }
        }
    }

    fn token_expired(&self) -> CloseReason {
        self.shared.hub.counters.tokens_expired.increment();
        CloseReason::TokenExpired
    }

    /// The work during every wait: writing the outbox and noticing the end. `Continue`: the outbox has become empty.
    pub(crate) fn poll_duties(&mut self, cx: &mut Context<'_>) -> Poll<Flow> {
        self.outbox.register(cx.waker());
        let duties = self.outbox.duties();
        if let Some(reason) = duties.closed {
            return Poll::Ready(ControlFlow::Break(reason));
        }
        if !duties.blocked && !self.io.is_unflushed() {
            return Poll::Pending;
        }
        match self.poll_drain(cx) {
            Poll::Ready(Ok(())) => {
                self.clock.unblocked();
                Poll::Ready(CONTINUE)
            }
            Poll::Ready(Err(error)) => Poll::Ready(ControlFlow::Break(self.lost(&error))),
            Poll::Pending => {
                self.clock.watch_blocked(&self.shared.idle, self.outbox.progress().0);
                Poll::Pending
            }
        }
    }

    /// Writes the bytes of the outbox; ready when none are left.
    pub(crate) fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.io.poll_drain(cx, &self.outbox)
    }

    /// Shuts down the sending direction.
    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        self.io.poll_shutdown(cx)
    }

    fn lost(&self, error: &std::io::Error) -> CloseReason {
        tracing::debug!(target: "jmqt::session", client = self.name(), remote = %self.info.remote, %error, "the connection was lost");
        CloseReason::ConnectionLost
    }

    /// Waits for `future` and continues the other work meanwhile. The idle clock is stopped, and the collected pushes
    /// are sent. Returns `Break` if the connection must be closed first; the caller drops the future then.
    ///
    /// Pinned by the caller, because this future would hold it twice: as an argument, and as a pinned variable.
    pub(crate) async fn wait<F: Future>(&mut self, mut future: Pin<&mut F>) -> Flow<F::Output> {
        if let Poll::Ready(output) = poll_once(future.as_mut()).await {
            return ControlFlow::Continue(output);
        }
        self.end_batch().await;
        let since = Instant::now();
        let output = poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(ControlFlow::Continue(output));
            }
            self.turn_began = None;
            loop {
                match self.poll_duties(cx) {
                    Poll::Ready(ControlFlow::Break(reason)) => {
                        return Poll::Ready(ControlFlow::Break(reason));
                    }
                    Poll::Ready(ControlFlow::Continue(())) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        let output = output.await;
        self.clock.stood_still(since.elapsed());
        output
    }

    /// Asks a validator, within its time limit. `None`: the validator failed, which has been logged; the request is
    /// answered SERVER_ERROR (2.17).
    pub(super) async fn ask<T>(
        &mut self,
        what: &'static str,
        mut question: Question<'_, T>,
    ) -> Flow<Option<T>> {
        let began = self.shared.hub.counters.measures().map(|_| Instant::now());
        let asked = match poll_at_once(&mut question) {
            Poll::Ready(asked) => {
                let_go(what, question);
                if let Some(began) = began {
                    self.measure_answer(what, &asked, began);
                }
                asked
            }
            Poll::Pending => self.wait_for_answer(what, question).await?,
        };
        ControlFlow::Continue(self.answer_of(what, asked))
    }

    /// Waits for a validator that did not answer at once.
    pub(super) async fn wait_for_answer<T>(
        &mut self,
        what: &'static str,
        mut question: Question<'_, T>,
    ) -> Flow<Asked<T>> {
        let limit = self.shared.limits.validator_timeout;
        let began = Instant::now();
        let answer = poll_fn(|cx| poll_guarded(&mut question, cx));
        let timed = self.wait(pin!(tokio::time::timeout(limit, answer))).await;
        let_go(what, question);
        let asked = timed?.unwrap_or(Asked::TimedOut);
        self.measure_answer(what, &asked, began);
        ControlFlow::Continue(asked)
    }

    /// Measures how long a validator took. A pub validator that answers at once is not measured, because every publish asks it.
    fn measure_answer<T>(&self, what: &'static str, asked: &Asked<T>, began: Instant) {
        let Some(measures) = self.shared.hub.counters.measures() else { return };
        let outcome = match asked {
            Asked::Answer(_) => Outcome::Answered,
            Asked::Failed(_) => Outcome::Failed,
            Asked::Panicked(_) => Outcome::Panicked,
            Asked::TimedOut => Outcome::TimedOut,
        };
        measures.asked(Validator::named(what), outcome, began.elapsed());
    }

    /// The answer of a validator; a failure is logged and counted.
    pub(super) fn answer_of<T>(&mut self, what: &'static str, asked: Asked<T>) -> Option<T> {
        if let Asked::Answer(answer) = asked {
            return Some(answer);
        }
        self.shared.hub.counters.validator_failures.increment();
        asked.logged(what, self.name(), Some(self.info.remote))
    }

    /// Logs and counts an invalid answer of a validator as a failure.
    pub(super) fn validator_mistake(&self, what: &'static str, mistake: &dyn fmt::Display) {
        self.shared.hub.counters.validator_failures.increment();
        log_limited!(error, each: what, target: "jmqt::app", client = self.name(), remote = %self.info.remote, %mistake, "{what} returned an invalid answer");
    }

    /// After a read: waits if the client sends too fast.
    pub(crate) async fn keep_pace(&mut self) -> Flow {
        let pace = match self.clock.rate() {
            None => return CONTINUE,
            Some(rate) => rate.look(Instant::now()),
        };
        let until = match pace {
            Pace::Free => return CONTINUE,
            Pace::Until(until) => until,
            Pace::TooFast => {
                self.shared.hub.counters.senders_disconnected.increment();
                log_limited!(warn, target: "jmqt::session", client = self.name(), remote = %self.info.remote, "closing the connection of a client that sends much more than MAX_PACKETS_PER_SECOND_PER_CLIENT or MAX_BYTES_PER_SECOND_PER_CLIENT");
                return ControlFlow::Break(CloseReason::TryLater);
            }
        };
        self.shared.hub.counters.senders_slowed.increment();
        log_limited!(warn, target: "jmqt::session", client = self.name(), remote = %self.info.remote, "a client sends more than MAX_PACKETS_PER_SECOND_PER_CLIENT or MAX_BYTES_PER_SECOND_PER_CLIENT: it is read from more slowly");
        // Boxed, because the future of a read must stay small, and this is rare.
        let mut pause = Box::pin(tokio::time::sleep_until(until));
        self.wait(Pin::new(&mut pause)).await
    }

    /// Writes the collected pushes, and waits until the outbox has room for an answer. Returns `Break` if the
    /// connection must be closed, for example because the client does not read.
    pub(crate) async fn wait_for_room(&mut self) -> Flow {
        self.end_batch().await;
        self.batch.full = false;
        let since = Instant::now();
        let room = poll_fn(|cx| {
            if let Poll::Ready(flow) = self.poll_duties(cx) {
                return Poll::Ready(flow);
            }
            if !self.outbox.duties().full {
                return Poll::Ready(CONTINUE);
            }
            self.poll_clock(cx, false).map(ControlFlow::Break)
        });
        let room = room.await;
        self.clock.stood_still(since.elapsed());
        room
    }
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}
