//! The state of a client's session in its own task: identity, socket, clocks, and collected work.
//!
//! One task owns a [`Session`] (`serve`), so requests are handled and answered in order of arrival (protocol.md
//! 2.10). The part that other tasks may change is its [`Outbox`]. [`verbs`] are the requests of a client in any
//! language. While a request waits for a validator or the disk, the same task writes the outbox and notices when the
//! connection is to be closed ([`wait`]).
//!
//! Other rooms have the packets (`language`), the read loop (`serve`), and the subscriptions of channels (`hub`).

mod batch;
mod buffer;
pub(crate) mod cost;
mod idle;
mod io;
mod patience;
mod rate;
pub(crate) mod verbs;
mod wait;

use std::fmt;
use std::hash::Hash;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use jmqt_core::{ChannelName, ClientId, StatusCode};
use tokio::time::Instant;

use crate::budget::Share;
use crate::connection::{CONTINUE, CloseReason, ConnectionInfo, Flow};
use crate::context::Shared;
use crate::counters::Kind;
use crate::log_limit::{LogLimits, log_limited, shortened};
use crate::message::Body;
use crate::outbox::{Flush, Outbox};
use crate::store::PublisherId;
use crate::tls::ClientCertificate;
use crate::upgrade::Upgrade;
use crate::validators::{Attached, SessionData};
use crate::wire::Form;

use batch::{Batch, Gathered};
use buffer::ReadSize;
use idle::IdleClock;
use patience::Patience;
use rate::{Rate, RateLimits};

pub(crate) use io::{Accepted, Io};
pub(crate) use wait::Event;

/// A session, or a connection without one.
pub(crate) struct Session {
    shared: Arc<Shared>,
    pub(crate) info: ConnectionInfo,
    pub(crate) outbox: Arc<Outbox>,
    /// Set after the session was accepted.
    pub(crate) member: Option<Member>,
    /// The data that the application has attached, to the connection or to the session.
    pub(crate) attached: Option<Arc<Attached>>,
    /// The publisher of the client, if the client publishes once (protocol.md 2.23).
    pub(crate) publisher: Option<PublisherId>,
    batch: Batch,
    io: Io,
    clock: IdleClock,
    read_size: ReadSize,
    patience: Patience,
    /// The memory of the incomplete packet.
    partial: Share,
    /// The time since which the task has not yielded.
    turn_began: Option<Instant>,
}

/// The identity of a session.
#[derive(Debug, Clone)]
pub(crate) struct Member {
    pub(crate) client: ClientId,
    pub(crate) generation: u64,
}

/// The parts of a session that outlive its connection.
pub(crate) struct Remains {
    pub(crate) member: Option<Member>,
    pub(crate) attached: Option<Arc<Attached>>,
    pub(crate) io: Io,
}

impl Session {
    pub(crate) fn new(
        shared: Arc<Shared>,
        info: ConnectionInfo,
        form: Form,
        accepted: Accepted,
        accepted_at: Instant,
    ) -> Self {
        let (io, inline) = Io::new(accepted);
        let outbox = Arc::new(Outbox::new(form, inline, Arc::clone(&shared.hub.context)));
        let limits =
            RateLimits { packets: shared.limits.packets_per_second, bytes: shared.limits.bytes_per_second };
        let rate = Rate::new(limits, accepted_at);
        let mut clock = IdleClock::new(&shared.idle, accepted_at, info.protocol.is_websocket());
        if let Some(rate) = rate {
            clock.limit_rate(rate);
        }
        Self {
            clock,
            partial: Share::new(&shared.preconn_packets),
            shared,
            info,
            outbox,
            member: None,
            attached: None,
            publisher: None,
            batch: Batch::default(),
            io,
            read_size: ReadSize::default(),
            patience: Patience::default(),
            turn_began: None,
        }
    }

    /// The name of this connection for logs.
    pub(crate) fn name(&self) -> &str {
        self.member.as_ref().map_or("", |member| member.client.as_str())
    }

    /// The certificate that the client has sent in the TLS handshake. It is read anew each time, because validators need it
    /// rarely, and the connection keeps it anyway.
    fn client_certificate(&self) -> Option<ClientCertificate> {
        self.io.client_certificate()
    }

    /// Begins a session on this connection.
    fn begun(&mut self, member: Member) {
        self.partial = Share::new(&self.shared.partial_packets);
        self.member = Some(member);
        self.clock.session_begun(&self.shared.idle, Instant::now());
    }

    /// Limits the duration of the session.
    fn expire_after(&mut self, time: Duration) {
        self.clock.expire_after(Instant::now(), time);
    }

    /// Removes the limit of the session.
    fn never_expire(&mut self) {
        self.clock.never_expire();
    }

    /// The client must answer within TIMEOUT_SECONDS, until [`answer_came`](Self::answer_came).
    pub(crate) fn expect_answer(&mut self) {
        self.clock.expect_answer(&self.shared.idle, Instant::now());
    }

    pub(crate) fn answer_came(&mut self) {
        self.clock.answered();
    }

    /// Sets how often the client promises to send something; 0 for never.
    pub(crate) fn keep_alive(&mut self, seconds: u16) {
        self.clock.keep_alive(Instant::now(), seconds);
    }

    pub(crate) fn auth_answered(&mut self) {
        self.clock.auth_answered(Instant::now());
    }

    /// Attaches session data for a client. Within a session, only for the client of that session.
    fn attach(&mut self, client: &ClientId, data: &SessionData) {
        if self.member.as_ref().is_none_or(|member| member.client == *client) {
            let upgrade = self.attached.as_ref().and_then(|attached| attached.upgrade().cloned());
            let attached = Attached::new(client.clone(), Arc::clone(data)).with_upgrade(upgrade);
            self.attached = Some(Arc::new(attached));
        }
    }

    /// Records the request that upgraded the connection to a WebSocket. Behind an HTTP proxy it contains the client's
    /// address.
    pub(crate) fn upgraded(&mut self, upgrade: Arc<Upgrade>) {
        let is_proxy = |ip| self.shared.admission.is_trusted_proxy(ip);
        if is_proxy(self.info.remote.ip())
            && let Some(client) = upgrade.forwarded_for(is_proxy)
        {
            self.info.remote = client;
        }
        self.attached = Some(Arc::new(Attached::default().with_upgrade(Some(upgrade))));
    }

    /// Records that bytes were received; `mid_packet` tells whether they end within a packet.
    pub(crate) fn received(&mut self, now: Instant, mid_packet: bool) {
        self.clock.received(now, mid_packet);
        if mid_packet {
            self.clock.watch_packet(&self.shared.idle, now);
        }
    }

    /// Records that a packet is complete.
    pub(crate) fn packet_completed(&mut self) {
        self.clock.packet_completed();
        self.batch.packets = self.batch.packets.saturating_add(1);
        self.spend(cost::PACKET);
    }

    /// Counts a packet that only acknowledges a push.
    pub(crate) fn count_acknowledgement(&mut self) {
        self.batch.acknowledgements = self.batch.acknowledgements.saturating_add(1);
    }

    /// Counts a packet that is neither a publish nor a simple acknowledgement.
    pub(crate) fn count_packet(&self, kind: Kind) {
        if let Some(measures) = self.shared.hub.counters.measures() {
            measures.packet(self.info.protocol, kind);
        }
    }

    /// Counts an answer with a status that refuses.
    pub(crate) fn count_refused(&self, kind: Kind, status: i32) {
        if let Some(measures) = self.shared.hub.counters.measures() {
            // The application may choose any status; those above are one.
            measures.refused(self.info.protocol, kind, u8::try_from(status).unwrap_or(u8::MAX));
        }
    }

    /// Accounts for the bytes of an incomplete packet; returns `false` if all such packets together exceed their
    /// limit.
    pub(crate) fn keep_partial(&mut self, bytes: usize) -> bool {
        self.partial.set(bytes)
    }

    /// Adapts the read buffer to the size of a read.
    pub(crate) fn adapt_reads(&mut self, length: usize) {
        self.read_size.adapt(length);
        self.shared.hub.counters.bytes_received.add(length as u64);
        if let Some(rate) = self.clock.rate() {
            rate.add_bytes(length);
        }
    }

    /// Adds the cost of an expensive operation.
    pub(crate) fn spend(&mut self, cost: u16) {
        self.batch.spent = self.batch.spent.saturating_add(cost);
    }

    /// Returns `true` if the clock should be read.
    pub(crate) fn has_spent_a_look(&self) -> bool {
        self.batch.spent >= cost::LOOK
    }

    /// Appends output of the transport, for example a pong.
    pub(crate) fn append(&self, output: Vec<u8>) {
        if !output.is_empty() {
            self.outbox.append(output.into());
        }
    }

    /// Counts a bad packet; the sixteenth in a row ends the connection (2.5).
    pub(crate) fn bad_packet(&mut self, problem: &dyn fmt::Display) -> Flow {
        self.shared.hub.counters.bad_packets.increment();
        tracing::debug!(target: "jmqt::session", client = self.name(), remote = %self.info.remote, %problem, "bad packet");
        if self.patience.survives_bad_packet() {
            CONTINUE
        } else {
            ControlFlow::Break(CloseReason::BadPackets)
        }
    }

    pub(crate) fn good_packet(&mut self) {
        self.patience.good_packet();
    }

    /// Logs that a request is refused, at most once a minute for each cause and client; in the log of details always.
    /// `channel`: the channel, topic or filter that it names.
    pub(crate) fn note_refusal(&self, kind: &str, channel: Option<&str>, cause: impl fmt::Display + Hash) {
        static LIMITS: LogLimits = LogLimits::new();
        let (client, remote, channel) = (self.name(), self.info.remote, channel.map(shortened));
        match LIMITS.permit(&(kind, &cause, client, remote.ip())) {
            Some(left_out) => {
                tracing::info!(target: "jmqt::session", left_out, client, %remote, channel, %cause, "refused: {kind}");
            }
            None => {
                tracing::debug!(target: "jmqt::session", client, %remote, channel, %cause, "refused: {kind}");
            }
        }
    }

    /// Counts an `auth`. Before a session a limited number is answered (2.1).
    pub(crate) fn count_auth(&mut self) -> Flow {
        if self.member.is_some() || self.patience.survives_auth() {
            return CONTINUE;
        }
        self.shared.hub.counters.refusals_closed.increment();
        log_limited!(warn, each: self.info.remote.ip(), target: "jmqt::session", remote = %self.info.remote, "closing a connection: too many auth packets before conn");
        ControlFlow::Break(CloseReason::TooManyAuths)
    }

    /// Counts a refused `auth` or `conn`. The fifth ends the connection (2.1). Failures of the server and malformed
    /// packets do not count, because the first are not the client's fault and the second try no credentials.
    pub(crate) fn count_refusal(&mut self, status: StatusCode) -> Flow {
        if matches!(status, StatusCode::SERVER_ERROR | StatusCode::INVALID_PACKET)
            || self.patience.survives_refusal()
        {
            return CONTINUE;
        }
        self.shared.hub.counters.refusals_closed.increment();
        log_limited!(warn, each: self.info.remote.ip(), target: "jmqt::session", client = self.name(), remote = %self.info.remote, "closing a connection: too many refused auth and conn packets");
        ControlFlow::Break(CloseReason::TooManyRefusals)
    }

    /// Records that an answer was appended; `is_full` tells whether the outbox is full now.
    pub(crate) fn answered(&mut self, is_full: bool) {
        self.batch.full |= is_full;
    }

    /// Returns `true` if no packet may be handled until the client has read some of the queue.
    pub(crate) fn is_full(&self) -> bool {
        self.batch.full
    }

    /// The channel of the last publish if it has this name, which saves validating the name again.
    pub(crate) fn channel_named(&self, name: &str) -> Option<&ChannelName> {
        self.batch.channel_named(name)
    }

    /// Delivers earlier publishes before a packet that is neither a publish nor an acknowledgement.
    pub(crate) async fn begin_request(&mut self) {
        self.deliver_run(Flush::Later).await;
        self.spend(cost::REQUEST);
    }

    /// Adds a QoS 0 publish to the batch.
    async fn gather(&mut self, channel: &ChannelName, body: Body<'_>) {
        if self.gather_at_once(channel, body) == Gathered::No {
            let is_full = self.batch.is_run_full();
            self.deliver_run(Flush::Later).await;
            if is_full {
                self.batch.flush();
            }
            self.gather_at_once(channel, body);
        }
    }

    /// Adds a QoS 0 publish to the open run, or to a new one, unless the open one has to be delivered first.
    fn gather_at_once(&mut self, channel: &ChannelName, body: Body<'_>) -> Gathered {
        let sender = self.member.as_ref().map(|member| &member.client);
        self.batch.gather(&self.shared.hub, sender, channel, body)
    }

    /// Delivers the open run before an operation that must follow it.
    async fn deliver_run(&mut self, flush: Flush) {
        let sender = self.member.as_ref().map(|member| &member.client);
        self.batch.deliver_run(&self.shared.hub, sender, flush).await;
        // The next turn begins: a batch that ended right after a long fan-out would cut the next run into pieces.
        if self.batch.take_yielded() {
            self.turn_began = None;
        }
    }

    /// Delivers and writes all collected pushes.
    pub(crate) async fn end_batch(&mut self) {
        let sender = self.member.as_ref().map(|member| &member.client);
        self.batch.end(&self.shared.hub, sender).await;
        if self.batch.take_yielded() {
            self.turn_began = None;
        }
        let packets = std::mem::take(&mut self.batch.packets);
        let acknowledgements = std::mem::take(&mut self.batch.acknowledgements);
        let counters = &self.shared.hub.counters;
        counters.packets_received.add(packets.into());
        if let Some(measures) = counters.measures() {
            measures.batch(self.info.protocol, packets, acknowledgements);
        }
        if let Some(rate) = self.clock.rate() {
            rate.add_packets(packets.into());
        }
        self.outbox.flush();
    }

    pub(crate) fn into_remains(self) -> Remains {
        let Self { member, attached, io, .. } = self;
        Remains { member, attached, io }
    }
}
