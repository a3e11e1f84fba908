//! One client connection, from its first packet to the close notifier (§5, §9.f).
//!
//! A [`Session`] is one task. It alone reads its transport and changes its state, so packets are
//! handled and answered in arrival order (protocol.md 2.10). What others may touch is its [`Outbox`].
//! While a request waits, for a validator or the disk, the same task goes on writing what waits in the
//! outbox and sees when the connection is to be closed.
//!
//! Not here: JSON (`jmqt-protocol`), who subscribes to what (`hub`), what is on disk (`store`).

mod batch;
mod buffer;
mod close;
mod idle;
mod io;

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use jmqt_protocol::{AuthAck, AuthOutcome, ClientId, Packet, StatusCode};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::admission::ConnectionPermit;
use crate::budget::Share;
use crate::connection::{CloseReason, ConnectionInfo};
use crate::context::Shared;
use crate::hub::Subscribed;
use crate::log_limit::log_limited;
use crate::outbox::Outbox;
use crate::store::PublisherId;
use crate::tls::TlsStream;
use crate::transport::{Decoder, Framing, PING};
use crate::upgrade::Upgrade;
use crate::validators::{
    Asked, Attached, Question, SessionData, let_go, poll_at_once, poll_contained, poll_guarded,
};
use crate::wire::{self, Form};

use batch::Batch;
use buffer::{ReadBuffer, ReadSize};
use idle::{Due, IdleClock, Observed};
use io::Io;

pub(crate) use batch::cost;

/// How many bad packets in a row end a connection (protocol.md 2.5).
const BAD_PACKETS: u8 = 16;
/// How many refused `auth` and `conn` packets end a connection (protocol.md 2.1).
const REFUSALS: u8 = 5;
/// How many `auth` packets are answered before a session (protocol.md 2.1).
const AUTHS: u8 = 20;

/// After this time a session that has more to do lets others run. A shorter time changes little, because one read of
/// a busy session takes about as long.
const TURN: Duration = Duration::from_micros(500);

/// `Break` ends the connection.
pub(crate) type Flow = ControlFlow<CloseReason>;

/// One connection.
pub(crate) struct Session {
    decoder: Decoder,
    core: Core,
}

/// All of a session but the decoder, whose buffer a packet borrows while it is handled.
pub(crate) struct Core {
    /// In an `Arc` of the session's own: handlers clone it for every packet, and a count that all
    /// threads share would travel from one to the other.
    #[allow(clippy::redundant_allocation, reason = "see above")]
    pub(crate) shared: Arc<Arc<Shared>>,
    pub(crate) info: ConnectionInfo,
    pub(crate) outbox: Arc<Outbox>,
    /// Present once `conn` was accepted.
    pub(crate) member: Option<Member>,
    /// What the application has attached; with a session, to that session.
    pub(crate) attached: Option<Arc<Attached>>,
    /// Which publisher of its client it is, if that wants each publish to be taken once (protocol.md 2.23).
    pub(crate) publisher: Option<PublisherId>,
    pub(crate) batch: Batch,
    io: Io,
    clock: IdleClock,
    read_size: ReadSize,
    bad_in_a_row: u8,
    /// `auth`s before a session.
    auths: u8,
    /// `auth`s and `conn`s that were refused.
    refusals: u8,
    /// What the half-received packet takes.
    partial: Share,
    /// Since when it has not let anything else run.
    turn_began: Option<Instant>,
}

/// Whose session it is.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) client: ClientId,
    pub(crate) generation: u64,
}

/// A socket on which everything below JMQT has been agreed.
pub(crate) enum Accepted {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

/// What a session waits for.
enum Event {
    Received(ReadBuffer, usize),
    /// The outbox has room again.
    Drained,
    Ended(CloseReason),
}

impl Session {
    pub(crate) fn new(
        shared: Arc<Shared>,
        info: ConnectionInfo,
        accepted: Accepted,
        accepted_at: Instant,
    ) -> Self {
        let framing = if info.protocol.is_websocket() { Framing::WebSocket } else { Framing::Nul };
        let (io, inline) = match accepted {
            Accepted::Plain(stream) => {
                let (reading, writing) = stream.into_split();
                (Io::Plain(reading), Some(writing))
            }
            Accepted::Tls(stream) => (Io::Tls { stream, unflushed: false }, None),
        };
        let outbox = Arc::new(Outbox::new(Form::of_jmqt(framing), inline, Arc::clone(&shared.hub.context)));
        Self {
            decoder: Decoder::new(framing, shared.limits.preconn_packet_bytes, Arc::clone(&shared.http)),
            core: Core {
                clock: IdleClock::new(Arc::clone(&shared.idle), accepted_at, framing == Framing::WebSocket),
                partial: Share::new(&shared.preconn_packets),
                shared: Arc::new(shared),
                info,
                outbox,
                member: None,
                attached: None,
                publisher: None,
                batch: Batch::default(),
                io,
                read_size: ReadSize::default(),
                bad_in_a_row: 0,
                auths: 0,
                refusals: 0,
                turn_began: None,
            },
        }
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.core.outbox
    }

    /// Serves the connection until one side ends it, and does what is to be done then.
    ///
    /// Not an `async fn`: that would keep room for its arguments twice, for every idle connection.
    #[allow(clippy::manual_async_fn, reason = "see above")]
    pub(crate) fn run(mut self, permit: ConnectionPermit) -> impl Future<Output = ()> + Send {
        async move {
            let served = {
                let mut serving = pin!(Some(self.serve()));
                poll_fn(|cx| poll_contained(serving.as_mut(), cx)).await
            };
            // Whatever happened, the end comes: nobody else would clear the tables.
            let reason = served.unwrap_or_else(|message| {
                tracing::error!(target: "jmqt::session", message, "the task of a connection panicked; ending the connection");
                CloseReason::ServerError
            });
            // Last of all, because a newer connection of the same client does not wait for this.
            if let Some(io) = Box::pin(self.end(reason)).await {
                Box::pin(close::linger(io)).await;
            }
            drop(permit);
        }
    }

    async fn serve(&mut self) -> CloseReason {
        loop {
            match poll_fn(|cx| self.core.poll_event(cx)).await {
                Event::Ended(reason) => return reason,
                Event::Drained => self.core.shared.hub.resume(&self.core.outbox),
                Event::Received(buffer, length) => {
                    self.core.read_size.adapt(length);
                    // Boxed, because this future is large and an idle session must not hold room for it:
                    // one allocation a read, whatever number of packets it brings.
                    let handled = Box::pin(self.handle(buffer.filled(length))).await;
                    if let ControlFlow::Break(reason) = handled {
                        return reason;
                    }
                }
            }
        }
    }

    /// Handles everything complete in what was received, then writes.
    async fn handle(&mut self, received: &[u8]) -> Flow {
        let Self { decoder, core } = self;
        let mut chunk = received;
        let now = Instant::now();
        core.clock.received(now, true);
        if let Err(reason) = core.begin_turn(now).await {
            return ControlFlow::Break(reason);
        }
        loop {
            match decoder.next(&mut chunk) {
                Ok(Some(text)) => {
                    core.clock.packet_completed();
                    core.batch.spent += cost::PACKET;
                    let had_session = core.member.is_some();
                    let flow = core.handle_text(text).await;
                    if flow.is_break() {
                        core.end_batch().await;
                        return flow;
                    }
                    if core.batch.full
                        && let Err(reason) = core.wait_for_room().await
                    {
                        return ControlFlow::Break(reason);
                    }
                    if core.batch.spent >= cost::LOOK
                        && let Err(reason) = core.look_at_the_clock().await
                    {
                        return ControlFlow::Break(reason);
                    }
                    if !had_session && core.member.is_some() {
                        decoder.set_limit(core.shared.limits.packet_bytes);
                    }
                }
                Ok(None) => {
                    if let Some(upgrade) = decoder.take_upgrade() {
                        core.upgraded(upgrade);
                    }
                    core.append_transport_output(decoder);
                    if !decoder.has_more() {
                        break;
                    }
                }
                Err(error) => {
                    core.end_batch().await;
                    core.append_transport_output(decoder);
                    return core.end_transport(&error);
                }
            }
        }
        core.clock.received(now, decoder.is_mid_packet());
        if !core.partial.set(decoder.buffered()) {
            core.end_batch().await;
            return core.refuse_partial_packet();
        }
        core.end_batch().await;
        core.shared.hub.resume(&core.outbox);
        ControlFlow::Continue(())
    }
}

impl Core {
    /// The name to log this connection under.
    pub(crate) fn name(&self) -> &str {
        self.member.as_ref().map_or("", |member| member.client.as_str())
    }

    /// Something was received at this moment: unless the session has just waited, its turn goes on.
    async fn begin_turn(&mut self, now: Instant) -> Result<(), CloseReason> {
        match self.turn_began {
            Some(began) if now.duration_since(began) >= TURN => self.let_others_run().await,
            Some(_) => Ok(()),
            None => {
                self.turn_began = Some(now);
                Ok(())
            }
        }
    }

    async fn look_at_the_clock(&mut self) -> Result<(), CloseReason> {
        self.batch.spent = 0;
        self.begin_turn(Instant::now()).await
    }

    /// Writes what was gathered, and lets everything else run that is ready to.
    pub(crate) async fn let_others_run(&mut self) -> Result<(), CloseReason> {
        self.end_batch().await;
        tokio::task::yield_now().await;
        let now = Instant::now();
        self.turn_began = Some(now);
        if self.clock.has_expired(now) {
            return Err(self.token_expired());
        }
        poll_fn(|cx| match self.poll_duties(cx) {
            Poll::Ready(Err(reason)) => Poll::Ready(Err(reason)),
            _ => Poll::Ready(Ok(())),
        })
        .await
    }

    fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let event = self.poll_for_event(cx);
        if event.is_pending() {
            self.turn_began = None;
        }
        event
    }

    fn poll_for_event(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let duties = match self.poll_duties(cx) {
            Poll::Ready(Err(reason)) => return Poll::Ready(Event::Ended(reason)),
            Poll::Ready(Ok(())) => return Poll::Ready(Event::Drained),
            Poll::Pending => self.outbox.duties(),
        };
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

    /// Whether the time is up. `reading`: what the client sends is read, so its silence counts.
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
            match std::task::ready!(self.clock.poll(cx, observe)) {
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

    /// What goes on whatever the session waits for: writing the rest, and seeing the end. `Ready(Ok)`:
    /// what had been waiting to be written is gone.
    fn poll_duties(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CloseReason>> {
        self.outbox.register(cx.waker());
        let duties = self.outbox.duties();
        if let Some(reason) = duties.closed {
            return Poll::Ready(Err(reason));
        }
        if !duties.blocked && !self.io.is_unflushed() {
            return Poll::Pending;
        }
        match self.io.poll_drain(cx, &self.outbox) {
            Poll::Ready(Ok(())) => {
                self.clock.unblocked();
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.lost(&error))),
            Poll::Pending => {
                self.clock.watch_blocked(self.outbox.progress().0);
                Poll::Pending
            }
        }
    }

    fn lost(&self, error: &std::io::Error) -> CloseReason {
        tracing::debug!(target: "jmqt::session", client = self.name(), remote = %self.info.remote, %error, "the connection was lost");
        CloseReason::ConnectionLost
    }

    /// Waits for `future`, going on with the duties meanwhile. The idle clock stands still, and what the
    /// batch has gathered does not wait.
    ///
    /// # Errors
    /// The reason, if the connection is to be closed first; then the future is dropped.
    pub(crate) async fn wait<F: Future>(&mut self, future: F) -> Result<F::Output, CloseReason> {
        let mut future = pin!(future);
        if let Poll::Ready(output) = poll_once(future.as_mut()).await {
            return Ok(output);
        }
        self.end_batch().await;
        let since = Instant::now();
        let output = poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Ok(output));
            }
            self.turn_began = None;
            loop {
                match self.poll_duties(cx) {
                    Poll::Ready(Err(reason)) => return Poll::Ready(Err(reason)),
                    Poll::Ready(Ok(())) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        });
        let output = output.await;
        self.clock.stood_still(since.elapsed());
        output
    }

    /// Asks a validator, within its time limit. `None`: it failed, which has been logged, and the
    /// request is to be answered SERVER_ERROR (2.17).
    pub(crate) async fn ask<T>(
        &mut self,
        what: &'static str,
        mut question: Question<'_, T>,
    ) -> Result<Option<T>, CloseReason> {
        let asked = match poll_at_once(&mut question) {
            Poll::Ready(asked) => {
                let_go(what, question);
                asked
            }
            Poll::Pending => self.wait_for_answer(what, question).await?,
        };
        Ok(self.answered(what, asked))
    }

    /// Waits for a validator that did not answer at once.
    pub(crate) async fn wait_for_answer<T>(
        &mut self,
        what: &'static str,
        mut question: Question<'_, T>,
    ) -> Result<Asked<T>, CloseReason> {
        let limit = self.shared.limits.validator_timeout;
        let answer = poll_fn(|cx| poll_guarded(&mut question, cx));
        let timed = self.wait(tokio::time::timeout(limit, answer)).await;
        let_go(what, question);
        Ok(timed?.unwrap_or(Asked::TimedOut))
    }

    /// A validator's answer; a failure is logged and counted.
    pub(crate) fn answered<T>(&mut self, what: &'static str, asked: Asked<T>) -> Option<T> {
        if let Asked::Answer(answer) = asked {
            return Some(answer);
        }
        self.shared.hub.counters.validator_failures.increment();
        asked.logged(what, self.name())
    }

    /// A validator answered, but with something that it must not answer. Logged and counted as a failure.
    pub(crate) fn validator_mistake(&self, what: &'static str, mistake: &dyn std::fmt::Display) {
        self.shared.hub.counters.validator_failures.increment();
        tracing::error!(target: "jmqt::app", client = self.name(), %mistake, "{what} made a mistake");
    }

    /// Attaches session data for a client. Within a session, only for the client of that session.
    pub(crate) fn attach(&mut self, client: &ClientId, data: &SessionData) {
        if self.member.as_ref().is_none_or(|member| member.client == *client) {
            let upgrade = self.attached.as_ref().and_then(|attached| attached.upgrade().cloned());
            let attached = Attached::new(client.clone(), Arc::clone(data)).with_upgrade(upgrade);
            self.attached = Some(Arc::new(attached));
        }
    }

    /// The connection has become a WebSocket, by this request. Behind an HTTP proxy it says who the client is.
    fn upgraded(&mut self, upgrade: Arc<Upgrade>) {
        let is_proxy = |ip| self.shared.admission.is_trusted_proxy(ip);
        if is_proxy(self.info.remote.ip())
            && let Some(client) = upgrade.forwarded_for(is_proxy)
        {
            self.info.remote = client;
        }
        self.attached = Some(Arc::new(Attached::default().with_upgrade(Some(upgrade))));
    }

    /// Appends a packet to the outbox; it is written at the end of the batch.
    pub(crate) fn answer(&mut self, packet: &Packet<'_>) {
        crate::packet_trace::sent(self.name(), packet);
        if tracing::enabled!(target: "jmqt::session", tracing::Level::DEBUG) {
            self.log_refusal(packet);
        }
        self.batch.full |= self.outbox.answer(wire::framed(self.outbox.form, packet));
    }

    /// A subscription was made or asked for again: `subAck`, retained message, what was held.
    pub(crate) fn open(&mut self, subscribed: Subscribed, answer: &Packet<'_>) {
        crate::packet_trace::sent(self.name(), answer);
        let Subscribed { subscription, retained } = subscribed;
        let answer = wire::framed(self.outbox.form, answer);
        self.batch.full |= self.outbox.open(&subscription, Some(answer), retained);
    }

    /// Writes what was gathered, and waits until the client has taken so much that there is room for an answer.
    ///
    /// # Errors
    /// The reason, if the connection is to be closed: it may be that the client takes nothing.
    pub(crate) async fn wait_for_room(&mut self) -> Result<(), CloseReason> {
        self.end_batch().await;
        self.batch.full = false;
        let since = Instant::now();
        let room = poll_fn(|cx| {
            match self.poll_duties(cx) {
                Poll::Ready(Err(reason)) => return Poll::Ready(Err(reason)),
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(())),
                Poll::Pending => {}
            }
            if !self.outbox.duties().full {
                return Poll::Ready(Ok(()));
            }
            self.poll_clock(cx, false).map(Err)
        });
        let room = room.await;
        self.clock.stood_still(since.elapsed());
        room
    }

    /// Shows an operator why a client does not get on. Publishes are shown where they are refused: not all are answered.
    fn log_refusal(&self, packet: &Packet<'_>) {
        let (status, channel) = match packet {
            Packet::AuthAck(AuthAck { outcome: AuthOutcome::Refused { status, .. } }) => (*status, None),
            Packet::ConnAck(ack) => (ack.status, None),
            Packet::SubAck(ack) => (ack.status, ack.channel.as_deref()),
            Packet::UnsubAck(ack) => (ack.status, ack.channel.as_deref()),
            _ => return,
        };
        if !status.is_ok() {
            let kind = packet.packet_type().as_str().trim_end_matches("Ack");
            tracing::debug!(target: "jmqt::session", client = self.name(), remote = %self.info.remote, channel, ?status, "refused: {kind}");
        }
    }

    /// Counts a bad packet; the sixteenth in a row ends the connection (2.5).
    pub(crate) fn bad_packet(&mut self, problem: &dyn std::fmt::Display) -> Flow {
        self.shared.hub.counters.bad_packets.increment();
        tracing::debug!(target: "jmqt::session", client = self.name(), remote = %self.info.remote, %problem, "bad packet");
        self.bad_in_a_row += 1;
        if self.bad_in_a_row < BAD_PACKETS {
            return ControlFlow::Continue(());
        }
        ControlFlow::Break(CloseReason::BadPackets)
    }

    /// An `auth` has come. Before a session only so many are answered (2.1).
    pub(crate) fn count_auth(&mut self) -> Flow {
        if self.member.is_some() {
            return ControlFlow::Continue(());
        }
        if self.auths == AUTHS {
            self.shared.hub.counters.refusals_closed.increment();
            log_limited!(warn, target: "jmqt::session", remote = %self.info.remote, "closing a connection: too many auth packets before conn");
            return ControlFlow::Break(CloseReason::TooManyAuths);
        }
        self.auths += 1;
        ControlFlow::Continue(())
    }

    /// An `auth` or `conn` was refused with this status. The fifth ends the connection (2.1). It does not count that
    /// the server failed, which is not the client's doing, nor that a packet cannot be used, which tries nothing.
    pub(crate) fn count_refusal(&mut self, status: StatusCode) -> Flow {
        if matches!(status, StatusCode::SERVER_ERROR | StatusCode::INVALID_PACKET) {
            return ControlFlow::Continue(());
        }
        self.refusals += 1;
        if self.refusals < REFUSALS {
            return ControlFlow::Continue(());
        }
        self.too_many_refusals()
    }

    fn too_many_refusals(&self) -> Flow {
        self.shared.hub.counters.refusals_closed.increment();
        log_limited!(warn, target: "jmqt::session", client = self.name(), remote = %self.info.remote, "closing a connection: too many auth and conn packets were refused");
        ControlFlow::Break(CloseReason::TooManyRefusals)
    }

    /// The session may last so long.
    pub(crate) fn expire_after(&mut self, time: Duration) {
        self.clock.expire_after(Instant::now(), time);
    }

    /// Something is done that takes longer than most packets do.
    pub(crate) fn spend(&mut self, cost: u32) {
        self.batch.spent += cost;
    }

    pub(crate) fn good_packet(&mut self) {
        self.bad_in_a_row = 0;
    }

    pub(crate) fn auth_answered(&mut self) {
        self.clock.auth_answered(Instant::now());
    }

    /// The half-received packets of all connections together take too much, and this one's has grown.
    fn refuse_partial_packet(&self) -> Flow {
        self.shared.hub.counters.partial_packets_refused.increment();
        let key = match self.member {
            Some(_) => "MAX_TOTAL_PARTIAL_PACKET_BYTES",
            None => "MAX_TOTAL_PRECONN_BYTES",
        };
        log_limited!(warn, target: "jmqt::session", client = self.name(), remote = %self.info.remote, "closing a connection in the middle of a packet: all half-received packets take {key}");
        ControlFlow::Break(CloseReason::TryLater)
    }

    pub(crate) fn session_begun(&mut self, member: Member) {
        self.partial = Share::new(&self.shared.partial_packets);
        self.member = Some(member);
        self.clock.session_begun(Instant::now());
    }
}

async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_size<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test] // ten thousand idle connections are ten thousand of these
    fn an_idle_session_is_a_small_future() {
        let size = future_size(Session::run);
        assert!(size <= 512, "{size}");
    }
}
