//! A client's session as its own task sees it: who it is, its socket, its clocks, and what it has gathered.
//!
//! One task owns a [`Session`] (`serve`), so requests are handled and answered in arrival order (protocol.md 2.10). What
//! other tasks may touch is its [`Outbox`]. [`verbs`] are what a client can ask for, in whatever language. While a request
//! waits, for a validator or the disk, the same task goes on writing what waits in the outbox and sees when the connection
//! is to be closed ([`wait`]).
//!
//! Not here: packets (`language`), the loop that reads (`serve`), who subscribes to what (`hub`).

mod batch;
mod buffer;
pub(crate) mod cost;
mod idle;
mod io;
mod patience;
pub(crate) mod verbs;
mod wait;

use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use jmqt_core::{ChannelName, ClientId, Payload, StatusCode};
use tokio::time::Instant;

use crate::budget::Share;
use crate::connection::{CONTINUE, CloseReason, ConnectionInfo, Flow};
use crate::context::Shared;
use crate::log_limit::log_limited;
use crate::outbox::{Flush, Outbox};
use crate::store::PublisherId;
use crate::upgrade::Upgrade;
use crate::validators::{Attached, SessionData};
use crate::wire::Form;

use batch::{Batch, Gathered};
use buffer::ReadSize;
use idle::IdleClock;
use patience::Patience;

pub(crate) use io::{Accepted, Io};
pub(crate) use wait::Event;

/// One session, or a connection that is none yet.
pub(crate) struct Session {
    shared: Arc<Shared>,
    pub(crate) info: ConnectionInfo,
    pub(crate) outbox: Arc<Outbox>,
    /// Present once the session was accepted.
    pub(crate) member: Option<Member>,
    /// What the application has attached; with a session, to that session.
    pub(crate) attached: Option<Arc<Attached>>,
    /// Which publisher of its client it is, if that wants each publish to be taken once (protocol.md 2.23).
    pub(crate) publisher: Option<PublisherId>,
    batch: Batch,
    io: Io,
    clock: IdleClock,
    read_size: ReadSize,
    patience: Patience,
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

/// What is left of a session when its connection ends.
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
        Self {
            clock: IdleClock::new(&shared.idle, accepted_at, info.protocol.is_websocket()),
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

    /// The name to log this connection under.
    pub(crate) fn name(&self) -> &str {
        self.member.as_ref().map_or("", |member| member.client.as_str())
    }

    /// A session has begun on this connection.
    fn begun(&mut self, member: Member) {
        self.partial = Share::new(&self.shared.partial_packets);
        self.member = Some(member);
        self.clock.session_begun(&self.shared.idle, Instant::now());
    }

    /// The session may last so long.
    fn expire_after(&mut self, time: Duration) {
        self.clock.expire_after(Instant::now(), time);
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

    /// The connection has become a WebSocket, by this request. Behind an HTTP proxy it says who the client is.
    pub(crate) fn upgraded(&mut self, upgrade: Arc<Upgrade>) {
        let is_proxy = |ip| self.shared.admission.is_trusted_proxy(ip);
        if is_proxy(self.info.remote.ip())
            && let Some(client) = upgrade.forwarded_for(is_proxy)
        {
            self.info.remote = client;
        }
        self.attached = Some(Arc::new(Attached::default().with_upgrade(Some(upgrade))));
    }

    /// Bytes were received at this moment; `mid_packet`: a packet has begun and not ended.
    pub(crate) fn received(&mut self, now: Instant, mid_packet: bool) {
        self.clock.received(now, mid_packet);
    }

    /// A packet is complete.
    pub(crate) fn packet_completed(&mut self) {
        self.clock.packet_completed();
        self.spend(cost::PACKET);
    }

    /// So many bytes of a packet wait for the rest of it; `false`: all such packets together take too much.
    pub(crate) fn keep_partial(&mut self, bytes: usize) -> bool {
        self.partial.set(bytes)
    }

    /// So much came with a read.
    pub(crate) fn adapt_reads(&mut self, length: usize) {
        self.read_size.adapt(length);
    }

    /// Something is done that takes longer than most packets do.
    pub(crate) fn spend(&mut self, cost: u32) {
        self.batch.spent += cost;
    }

    /// Whether the clock should be looked at.
    pub(crate) fn has_spent_a_look(&self) -> bool {
        self.batch.spent >= cost::LOOK
    }

    /// Appends what the transport has to say, a pong for example.
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

    /// An `auth` has come. Before a session only so many are answered (2.1).
    pub(crate) fn count_auth(&mut self) -> Flow {
        if self.member.is_some() || self.patience.survives_auth() {
            return CONTINUE;
        }
        self.shared.hub.counters.refusals_closed.increment();
        log_limited!(warn, target: "jmqt::session", remote = %self.info.remote, "closing a connection: too many auth packets before conn");
        ControlFlow::Break(CloseReason::TooManyAuths)
    }

    /// An `auth` or `conn` was refused with this status. The fifth ends the connection (2.1). It does not count that
    /// the server failed, which is not the client's doing, nor that a packet cannot be used, which tries nothing.
    pub(crate) fn count_refusal(&mut self, status: StatusCode) -> Flow {
        if matches!(status, StatusCode::SERVER_ERROR | StatusCode::INVALID_PACKET)
            || self.patience.survives_refusal()
        {
            return CONTINUE;
        }
        self.shared.hub.counters.refusals_closed.increment();
        log_limited!(warn, target: "jmqt::session", client = self.name(), remote = %self.info.remote, "closing a connection: too many refused auth and conn packets");
        ControlFlow::Break(CloseReason::TooManyRefusals)
    }

    /// The outbox has taken an answer; `is_full`: it has no room for more.
    pub(crate) fn answered(&mut self, is_full: bool) {
        self.batch.full |= is_full;
    }

    /// Nothing more is handled until the client has taken some of what waits.
    pub(crate) fn is_full(&self) -> bool {
        self.batch.full
    }

    /// The channel that was published to last, if it has this name: saves checking the name again.
    pub(crate) fn channel_named(&self, name: &str) -> Option<&ChannelName> {
        self.batch.channel_named(name)
    }

    /// Anything but a publish or an acknowledgement is going to be handled: what was published before is delivered before.
    pub(crate) async fn begin_request(&mut self) {
        self.deliver_run(Flush::Later).await;
        self.spend(cost::REQUEST);
    }

    /// Adds a QoS 0 publish to the batch.
    async fn gather(&mut self, channel: &ChannelName, data: Payload<'_>) {
        if self.gather_at_once(channel, data) == Gathered::No {
            let is_full = self.batch.is_run_full();
            self.deliver_run(Flush::Later).await;
            if is_full {
                self.batch.flush();
            }
            self.gather_at_once(channel, data);
        }
    }

    /// Adds a QoS 0 publish to the open run, or to a new one, unless the open one has to be delivered first.
    fn gather_at_once(&mut self, channel: &ChannelName, data: Payload<'_>) -> Gathered {
        let sender = self.member.as_ref().map(|member| &member.client);
        self.batch.gather(&self.shared.hub, sender, channel, data)
    }

    /// Delivers the open run, before anything that must come after it.
    async fn deliver_run(&mut self, flush: Flush) {
        let sender = self.member.as_ref().map(|member| &member.client);
        self.batch.deliver_run(&self.shared.hub, sender, flush).await;
    }

    /// Delivers and writes everything that was gathered.
    pub(crate) async fn end_batch(&mut self) {
        let sender = self.member.as_ref().map(|member| &member.client);
        self.batch.end(&self.shared.hub, sender).await;
        self.outbox.flush();
    }

    pub(crate) fn into_remains(self) -> Remains {
        let Self { member, attached, io, .. } = self;
        Remains { member, attached, io }
    }
}
