//! One session on one connection, from `connAck` to its end: the only code that touches its socket.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jmqt_protocol::{Disconn, Packet, PacketType, Qos, decode};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};

use crate::connect::Session;
use crate::event::Event;
use crate::heartbeat::{Due, Heartbeat};
use crate::inbox::Inbox;
use crate::push::Settled;
use crate::recent::Seen;
use crate::routes::{Change, Taker};
use crate::shared::{Shared, State, forget};
use crate::transport::{BadStream, Incoming, Link, Turn};
use crate::{DisconnectReason, Push, ServerClose};

/// How long the end of a connection may take to be written.
const LAST_WORDS: Duration = Duration::from_millis(250);
/// A channel is stalled when this part of the window is pushes of it, and none was acknowledged for this long, or for half of
/// the server's timeout if that is less.
const STALLED_PART: usize = 8;
const STALLED: Duration = Duration::from_secs(10);
/// A batch whose pushes fill less than this part of the read they came in is copied out of it.
const WORTH_KEEPING: usize = 4;

/// Serves the session until one side ends it, and says why.
pub(crate) async fn serve(session: Session, shared: &Arc<Shared>) -> DisconnectReason {
    let Session { link, client, timeout, once: _, read } = session;
    let mut connection = Connection {
        link,
        timeout,
        heartbeat: Heartbeat::new(timeout),
        resume_by: Some(Instant::now() + shared.config.request_timeout),
        leave_by: None,
        is_leaving: false,
        is_closed: false,
        receiver: Receiver { shared: Arc::clone(shared), batch: Vec::new(), run: None, bad: 0 },
        shared: Arc::clone(shared),
        client: State::Online(client),
    };
    connection.run(read).await
}

struct Connection {
    link: Link,
    shared: Arc<Shared>,
    client: State,
    /// `ts`.
    timeout: Duration,
    heartbeat: Heartbeat,
    /// Until when the subscriptions have to be acknowledged; `None` once they are.
    resume_by: Option<Instant>,
    /// Until when a closing client waits; set when it starts to close.
    leave_by: Option<Instant>,
    /// `disconn` has been sent.
    is_leaving: bool,
    /// The WebSocket's close frame has been sent.
    is_closed: bool,
    receiver: Receiver,
}

impl Connection {
    async fn run(&mut self, (read, at): (Bytes, usize)) -> DisconnectReason {
        {
            let mut routes = self.shared.routes();
            let mut outbound = self.shared.outbound();
            outbound.begin();
            routes.resume(&mut outbound);
        }
        self.shared.everything.begin_connection();
        // What was to be fetched comes with this connection, which works.
        forget(&self.shared.refetch).await;
        forget(&self.shared.reconnect).await;
        let reason = match self.receive(&read, at) {
            Ok(()) => self.talk().await,
            Err(reason) => reason,
        };
        self.say_goodbye().await;
        if self.is_leaving { DisconnectReason::ByClient } else { reason }
    }

    /// Ends the WebSocket, TLS and the socket in order, as far as the other side still takes it.
    async fn say_goodbye(&mut self) {
        if self.link.is_written() {
            self.close_websocket();
        }
        // A dead peer takes nothing, and is not waited for.
        let _ = timeout(LAST_WORDS, self.link.finish()).await;
    }

    fn close_websocket(&mut self) {
        if !std::mem::replace(&mut self.is_closed, true) {
            let frame = self.link.close_frame();
            self.link.send_framed(&frame);
        }
    }

    async fn talk(&mut self) -> DisconnectReason {
        let mut tick = interval(self.heartbeat.interval());
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let shared = Arc::clone(&self.shared);
        loop {
            self.finish_resuming();
            if let Err(reason) = self.fill() {
                return reason;
            }
            let probe_ends = self.heartbeat.probe_ends();
            let turn = tokio::select! {
                biased; // the socket first: incoming bytes must be read even if there is much to send
                turn = self.link.turn() => turn,
                () = shared.wake.notified() => continue,
                () = shared.refetch.notified() => return DisconnectReason::Overflow,
                () = shared.reconnect.notified() => {
                    self.probe();
                    continue;
                }
                _ = tick.tick() => {
                    self.tell_of_stalled_channels();
                    if let Err(reason) = self.look_at_clock() {
                        return reason;
                    }
                    continue;
                }
                () = sleep_until(probe_ends.unwrap_or_else(Instant::now)), if probe_ends.is_some() => {
                    if let Err(reason) = self.look_at_clock() {
                        return reason;
                    }
                    continue;
                }
                () = sleep_until(self.leave_by.unwrap_or_else(Instant::now)), if self.leave_by.is_some() => {
                    if let Err(reason) = self.leave() {
                        return reason;
                    }
                    continue;
                }
            };
            match turn {
                Ok(Turn::Read(read)) => {
                    self.heartbeat.heard();
                    if let Err(reason) = self.receive(&read, 0) {
                        return reason;
                    }
                }
                Ok(Turn::Written) => {}
                Ok(Turn::End) => return DisconnectReason::ByServer(None),
                Err(error) => return DisconnectReason::Broken(Arc::new(error)),
            }
        }
    }

    /// Once all subscriptions are answered, publishes flow.
    fn finish_resuming(&mut self) {
        if self.resume_by.is_none() || !self.shared.routes().is_resumed() {
            return;
        }
        self.resume_by = None;
        self.shared.outbound().go_online();
        self.shared.tell_of_room();
        if let State::Online(client) = &self.client {
            self.shared.emit(Event::Connected { client: client.clone() });
        }
        self.shared.state.send_replace(self.client.clone());
        self.shared.progress.notify_waiters();
    }

    /// Gives the socket what there is to send, if it is ready for more.
    fn fill(&mut self) -> Result<(), DisconnectReason> {
        let is_written = self.link.is_written();
        let mut outbound = self.shared.outbound();
        if !is_written && outbound.is_stuck() {
            return Err(DisconnectReason::Protocol("it does not read what we answer".to_owned()));
        }
        if outbound.is_closing() && self.leave_by.is_none() {
            self.leave_by = Some(Instant::now() + self.shared.config.close_timeout / 2);
        }
        if !is_written {
            return Ok(());
        }
        // Nothing is sent before the subscriptions are made, unless the client is closing.
        outbound.take(self.link.portion());
        if outbound.is_closing()
            && !self.is_leaving
            && outbound.is_acknowledged()
            && outbound.is_handed_over()
        {
            outbound.send(&Packet::Disconn(Disconn::LEAVING));
            outbound.take(self.link.portion());
            self.is_leaving = true;
        }
        let is_over = self.is_leaving && outbound.is_acknowledged() && outbound.is_handed_over();
        drop(outbound);
        let length = self.link.send();
        let answers = self.link.take_answers();
        self.link.send_framed(&answers);
        if is_over && !self.is_closed {
            // Nothing is due any more: the server may still close its side first, but need not.
            self.close_websocket();
            let last = Instant::now() + LAST_WORDS;
            self.leave_by = Some(self.leave_by.map_or(last, |by| by.min(last)));
        }
        if length > 0 {
            self.heartbeat.sent();
            self.shared.tell_of_room();
        } else if answers.is_empty() {
            self.link.release();
        }
        Ok(())
    }

    /// The first half of the time to close is for what waits, the second for the goodbye.
    fn leave(&mut self) -> Result<(), DisconnectReason> {
        if self.is_leaving {
            return Err(DisconnectReason::ByClient);
        }
        self.is_leaving = true;
        self.leave_by = Some(Instant::now() + self.shared.config.close_timeout / 2);
        self.shared.outbound().send(&Packet::Disconn(Disconn::LEAVING));
        Ok(())
    }

    fn look_at_clock(&mut self) -> Result<(), DisconnectReason> {
        if self.resume_by.is_some_and(|by| by <= Instant::now()) {
            return Err(DisconnectReason::NotResumed(self.shared.config.request_timeout));
        }
        let busy = self.may_be_busy();
        let allowed = if busy { self.timeout.max(self.shared.config.request_timeout) } else { self.timeout };
        let due = self.heartbeat.look(allowed, busy, SystemTime::now()).map_err(DisconnectReason::Silent)?;
        if due == Due::Beat {
            self.shared.outbound().beat();
        }
        Ok(())
    }

    /// A server answers in order, so an application that thinks about a request holds up the `hbAck` behind it.
    fn may_be_busy(&self) -> bool {
        self.shared.routes().awaits_answer() || self.shared.outbound().awaits_answer()
    }

    /// The application doubts that the connection works: something has to be heard soon.
    fn probe(&mut self) {
        if !self.may_be_busy() {
            self.heartbeat.probe();
            self.shared.outbound().beat();
        }
    }

    /// Reports a channel whose pushes are not read, so that they fill the window.
    fn tell_of_stalled_channels(&mut self) {
        let most = (self.shared.config.window as usize / STALLED_PART).max(1);
        let limit = (self.timeout / 2).clamp(Duration::from_secs(1), STALLED);
        let stalled = self.shared.routes().stalled(most, limit);
        for (channel, unacknowledged) in stalled {
            tracing::warn!(
                channel = &*channel,
                unacknowledged,
                "The application does not acknowledge the pushes of a channel; is its stream read?"
            );
            self.shared.emit(Event::ChannelStalled { channel: channel.into(), unacknowledged });
        }
    }

    /// Handles every packet in what was read, as one batch.
    fn receive(&mut self, read: &Bytes, mut at: usize) -> Result<(), DisconnectReason> {
        let result = loop {
            match self.link.next(read, &mut at) {
                Ok(Some(incoming)) => {
                    if let Err(reason) = self.receiver.handle(&incoming) {
                        break Err(reason);
                    }
                }
                Ok(None) => break Ok(()),
                Err(BadStream::Closed(said)) => {
                    let close = said.map(|(code, reason)| ServerClose::from_close_frame(code, reason));
                    break Err(DisconnectReason::ByServer(close));
                }
                Err(error) => break Err(DisconnectReason::Protocol(error.to_string())),
            }
        };
        self.receiver.finish_batch(read.len());
        self.shared.progress.notify_waiters();
        // What was acknowledged takes no room any more.
        self.shared.tell_of_room();
        result
    }
}

/// Pushes that a stream did not take, and why.
type NotTaken = Vec<(Settled, Vec<Push>)>;

/// Hands over pushes to all of these streams.
fn offer_to(takers: &[Arc<Inbox>], pushes: &mut Vec<Push>) -> NotTaken {
    let (first, others) = match takers {
        [] => return vec![(Settled::Left, std::mem::take(pushes))],
        [only] => (only, &[][..]),
        [first, others @ ..] => (first, others),
    };
    let mut shares: Vec<Vec<Push>> = others.iter().map(|_| Vec::with_capacity(pushes.len())).collect();
    if !others.is_empty() {
        for push in std::mem::take(pushes) {
            let mut copies = push.for_several(takers.len());
            pushes.extend(copies.next());
            shares.iter_mut().zip(copies).for_each(|(share, push)| share.push(push));
        }
    }
    let mut not_taken = NotTaken::new();
    for (taker, share) in [first].into_iter().chain(others).zip([pushes].into_iter().chain(&mut shares)) {
        match taker.offer(share) {
            Some(refused) => not_taken.push((Settled::Refused, refused)),
            // The stream was just dropped, and its subscription ends.
            None => not_taken.push((Settled::Left, std::mem::take(share))),
        }
    }
    not_taken
}

/// Bad packets in a row after which a server is given up (protocol.md 2.5, the other way round).
const MOST_BAD_PACKETS: u32 = 16;

/// What becomes of the packets that come.
struct Receiver {
    shared: Arc<Shared>,
    /// Pushes of one channel, one after another.
    batch: Vec<Push>,
    /// The channel of these.
    run: Option<Box<str>>,
    bad: u32,
}

impl Receiver {
    fn handle(&mut self, incoming: &Incoming<'_>) -> Result<(), DisconnectReason> {
        let Ok(text) = std::str::from_utf8(incoming.bytes) else {
            return self.bad_packet("it is not UTF-8");
        };
        let packet = match decode(text) {
            Ok(packet) => packet,
            Err(error) => return self.bad_packet(&error.to_string()),
        };
        self.bad = 0;
        match packet {
            Packet::Push(push) => {
                if self.is_new(&push) {
                    self.deliver(Push::new(&push, text, incoming.to_bytes()));
                }
            }
            Packet::PubAck(ack) => {
                let id = ack.id.as_deref().unwrap_or_default();
                let data = ack.data.map(jmqt_protocol::Payload::as_str);
                if !self.shared.outbound().answered(id, ack.status, data) {
                    tracing::debug!(status = %ack.status, "Unexpected pubAck: no publish waits for it");
                }
            }
            Packet::SubAck(ack) => {
                self.finish_run();
                let channel = ack.channel.as_deref().unwrap_or_default();
                let change = {
                    let mut routes = self.shared.routes();
                    let mut outbound = self.shared.outbound();
                    routes.sub_answered(channel, ack.is_filter, ack.status, &mut outbound)
                };
                self.tell(change);
            }
            Packet::UnsubAck(ack) => {
                self.finish_run();
                let channel = ack.channel.as_deref().unwrap_or_default();
                self.shared.routes().unsub_answered(channel, ack.is_filter, ack.status);
            }
            Packet::HbAck => self.shared.outbound().beat_answered(),
            Packet::Disconn(disconn) => {
                self.finish_run();
                // Nothing follows it (protocol.md 2.22).
                return Err(DisconnectReason::ByServer(ServerClose::from_packet(&disconn)));
            }
            other => self.unexpected(other.packet_type()),
        }
        Ok(())
    }

    fn tell(&self, change: Change) {
        match change {
            Change::None => {}
            Change::Lost(channel, status) => {
                tracing::warn!(%channel, %status, "Cannot subscribe again");
                self.shared.emit(Event::SubscriptionLost { channel, status });
            }
            Change::FilterLost(filter, error) => {
                tracing::warn!(%filter, %error, "Cannot subscribe again");
                self.shared.emit(Event::FilterLost { filter, error });
            }
        }
    }

    /// Old servers send what ours do not; it is no reason to leave.
    fn unexpected(&self, kind: PacketType) {
        tracing::debug!(%kind, "Ignored an unexpected packet");
    }

    fn bad_packet(&mut self, problem: &str) -> Result<(), DisconnectReason> {
        self.bad += 1;
        tracing::debug!(problem, "Ignored a bad packet");
        if self.bad < MOST_BAD_PACKETS {
            return Ok(());
        }
        Err(DisconnectReason::Protocol(format!(
            "{MOST_BAD_PACKETS} bad packets in a row, the last one: {problem}"
        )))
    }

    /// Whether the application has yet to see it. One that it has taken is acknowledged again (§9.a).
    fn is_new(&self, push: &jmqt_protocol::Push<'_>) -> bool {
        let Some(id) = push.id.as_deref().filter(|_| push.qos == Qos::AtLeastOnce) else { return true };
        let seen = self.shared.routes().see(&push.channel, id);
        if seen == Seen::Acknowledged {
            self.shared.outbound().acknowledge(id);
        }
        seen == Seen::New
    }

    fn deliver(&mut self, push: Push) {
        let is_same = self.run.as_deref().is_some_and(|channel| *channel == *push.channel());
        if !is_same {
            self.finish_run();
            self.run = Some(push.channel().into());
        }
        self.batch.push(push);
    }

    /// Hands over the pushes of one channel at once, with the routes held: a stream that begins meanwhile takes over what
    /// came before, and misses nothing.
    fn finish_run(&mut self) {
        let Some(channel) = self.run.take() else { return };
        let offered = {
            let routes = self.shared.routes();
            if routes.has_filters() {
                let takers = routes.takers(&channel, &self.shared.everything);
                let not_taken = offer_to(&takers, &mut self.batch);
                drop(routes);
                for (settled, pushes) in not_taken {
                    pushes.iter().for_each(|push| self.shared.settle(push, settled));
                }
                return;
            }
            match routes.taker(&channel) {
                Taker::Stream(inbox) => inbox.offer(&mut self.batch),
                Taker::Everyone => self.shared.everything.offer(&mut self.batch),
                Taker::Nobody => None,
            }
        };
        let refused = offered.unwrap_or_else(|| std::mem::take(&mut self.batch));
        if !refused.is_empty() {
            self.shared.forget(&refused);
        }
    }

    /// The end of what one read brought.
    fn finish_batch(&mut self, read: usize) {
        // Slices keep the whole read alive, which is no bargain for a small part of it.
        let kept: usize = self.batch.iter().map(Push::len).sum();
        if kept * WORTH_KEEPING < read {
            self.batch.iter_mut().for_each(Push::detach);
        }
        self.finish_run();
        self.batch.shrink_to(64);
    }
}
