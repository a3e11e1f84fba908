//! The bus over Redis: publish/subscribe of a single server, of a server behind Sentinels, or of a cluster.
//!
//! One connection carries all messages. A node subscribes to a Redis channel for each JMQT channel that its
//! sessions need, to a channel for this node, and to a channel for all nodes. Redis stores nothing: after a lost
//! connection, the nodes synchronize again.

mod interest;
mod link;
mod names;
mod outgoing;
mod received;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jmqt_core::{ChannelName, ClientId};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use self::interest::Interest;
use self::link::Link;
use self::names::Names;
use self::outgoing::{Outgoing, Target};
use self::received::{Lost, Received};
use super::message::{self, BusMessage, Speaker};
use super::{Because, Bus, BusEvent, BusEvents, Control, NodeId, Seal};
use crate::config::RedisOptions;
use crate::counters::Counters;
use crate::log_limit::log_limited;
use crate::message::{LoggedPush, Run, ShareMessage};

/// The time limits of connecting, and of an answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(3);
/// The delay between attempts to connect: at first and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How often the log reports that Redis cannot be reached.
const TOLD_EVERY: Duration = Duration::from_secs(60);
/// How long a subscription waits for its confirmation before it continues without.
const JOIN_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the last messages may take when the bus stops.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// The most received bytes that are not handled yet.
const INBOX_CONTROLS: usize = 65_536;
const INBOX_MESSAGES: usize = 65_536;
const INBOX_BYTES: usize = 64 << 20;

/// See the module documentation.
pub(crate) struct RedisBus {
    speaker: Speaker,
    seal: Seal,
    options: RedisOptions,
    names: Arc<Names>,
    interest: Arc<Interest>,
    outgoing: Outgoing,
    inbox: Arc<Inbox>,
    up: AtomicBool,
    came_up: Notify,
    /// Cancelled to drop the current connection.
    present: Mutex<CancellationToken>,
    counters: Arc<Counters>,
}

/// Received messages that are not handled yet.
struct Inbox {
    speaker: Speaker,
    seal: Seal,
    /// Control messages do not wait behind pushes.
    controls: mpsc::Sender<BusEvent>,
    pushes: mpsc::Sender<(BusEvent, usize)>,
    bytes: Arc<AtomicUsize>,
    interest: Arc<Interest>,
    counters: Arc<Counters>,
}

impl Inbox {
    /// Takes a received message, without waiting. `false`: a control message is lost, so
    /// the connection must end.
    fn take(&self, channel: &[u8], mut payload: Vec<u8>) -> bool {
        let (size, is_pushes) = (payload.len(), message::is_pushes(&payload));
        let is_for_filters = message::is_for_filters(&payload);
        if is_pushes && message::is_from(&payload, self.speaker.node) {
            return true; // the node's own sessions have these pushes already
        }
        if let Some(version) = message::other_version(&payload) {
            self.counters.bus_refused.increment();
            log_limited!(warn, target: "jmqt::bus", version, "refused a message of a node with another version: stop all nodes of the cluster, then start them with the same version (or another program uses the same REDIS_PREFIX)");
            return true;
        }
        if !self.seal.take_off(channel, &mut payload) {
            self.counters.bus_refused.increment();
            log_limited!(warn, target: "jmqt::bus", "refused a message from outside this cluster: another cluster or program uses the same REDIS_PREFIX");
            return true;
        }
        let message = match BusMessage::decode(Bytes::from(payload), self.speaker.epoch) {
            Ok(message) => message,
            Err(error) => {
                self.counters.bus_refused.increment();
                log_limited!(warn, target: "jmqt::bus", %error, "another cluster or program uses the same REDIS_PREFIX, or another version");
                return true;
            }
        };
        if !is_pushes {
            return self.controls.try_send(BusEvent::Message(message)).is_ok();
        }
        if is_for_filters && message.body.channel().is_some_and(|channel| self.interest.is_joined(channel)) {
            return true; // it follows in the channel
        }
        let has_room = self.bytes.fetch_add(size, Ordering::Relaxed) < INBOX_BYTES;
        if !has_room || self.pushes.try_send((BusEvent::Message(message), size)).is_err() {
            self.bytes.fetch_sub(size, Ordering::Relaxed);
            self.counters.bus_dropped.increment();
        }
        true
    }
}

/// The reason why a connection ended.
enum End {
    Stop,
    NotConnected(String),
    Lost(&'static str),
}

impl RedisBus {
    pub(crate) fn new(
        speaker: Speaker,
        seal: Seal,
        options: RedisOptions,
        counters: Arc<Counters>,
    ) -> (Self, BusEvents) {
        let (controls, received_controls) = mpsc::channel(INBOX_CONTROLS);
        let (pushes, received_pushes) = mpsc::channel(INBOX_MESSAGES);
        let bytes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&counters);
        let interest = Arc::<Interest>::default();
        let (inbox_seal, inbox_bytes) = (seal.clone(), Arc::clone(&bytes));
        let inbox = Inbox {
            speaker,
            seal: inbox_seal,
            controls,
            pushes,
            bytes: inbox_bytes,
            interest: Arc::clone(&interest),
            counters: counted,
        };
        let bus = Self {
            speaker,
            seal,
            names: Arc::new(Names::new(&options)),
            interest,
            outgoing: Outgoing::new(),
            inbox: Arc::new(inbox),
            up: AtomicBool::new(false),
            came_up: Notify::new(),
            present: Mutex::default(),
            counters,
            options,
        };
        (bus, BusEvents::new(received_controls, received_pushes, bytes))
    }

    fn put_pushes(&self, target: Target, payload: Vec<u8>, header: usize) {
        if !self.is_up() || !self.outgoing.put(target, payload, header) {
            self.counters.bus_dropped.increment();
        }
    }

    fn put_control(&self, target: Target, control: &Control) {
        // Without a connection, the message is dropped: nodes synchronize after reconnecting.
        if self.is_up() && !self.outgoing.put(target, message::encode_control(self.speaker, control), 0) {
            self.reset();
        }
    }

    fn received(&self) -> (Received, Lost) {
        Received::new(Arc::clone(&self.inbox), Arc::clone(&self.names), Arc::clone(&self.interest))
    }

    /// Serves one connection until it ends.
    async fn serve(&self, stop: &CancellationToken) -> End {
        let (received, mut lost) = self.received();
        let reset = CancellationToken::new();
        *self.present.lock().unwrap_or_else(PoisonError::into_inner) = reset.clone();
        let connected = tokio::select! {
            () = stop.cancelled() => return End::Stop,
            connected = timeout(CONNECT_TIMEOUT, Link::connect(&self.options, move |info| received.take(info))) => connected,
        };
        let link = match connected {
            Ok(Ok(link)) => link,
            Ok(Err(error)) => return End::NotConnected(link::explain(&error)),
            Err(_) => return End::NotConnected(format!("no answer within {CONNECT_TIMEOUT:?}")),
        };
        let end = tokio::select! {
            end = self.use_link(&link, stop) => end,
            () = lost.wait() => End::Lost("the connection ended"),
            () = reset.cancelled() => End::Lost("Redis does not answer"),
        };
        if self.up.swap(false, Ordering::AcqRel) {
            if let End::Lost(reason) = end {
                tracing::warn!(target: "jmqt::bus", reason, "lost the connection to Redis");
            }
            self.counters.bus_dropped.add(self.outgoing.clear());
            // Wait for room: this event must not be lost, and the receiver makes room all the time.
            drop(self.inbox.controls.send(BusEvent::Down).await);
        }
        self.interest.link_lost();
        end
    }

    async fn use_link(&self, link: &Link, stop: &CancellationToken) -> End {
        let own = vec![self.names.node(self.speaker.node), self.names.everybody()];
        if let Err(error) = link.subscribe(own).await {
            return self.failed(&error);
        }
        if let Err(error) = self.interest.subscribe_all(link, |name| self.names.channel(name)).await {
            return self.failed(&error);
        }
        self.up.store(true, Ordering::Release);
        self.came_up.notify_waiters();
        self.interest.link_is_up();
        tracing::info!(target: "jmqt::bus", node = %self.speaker.node, "connected to Redis");
        drop(self.inbox.controls.send(BusEvent::Up).await);
        let result = tokio::select! {
            result = self.interest.keep(link, |name| self.names.channel(name)) => result,
            result = self.send_all(link) => result,
            () = stop.cancelled() => {
                let sent = timeout(LAST_WORDS, self.send_waiting(link)).await;
                drop(sent);
                return End::Stop;
            }
        };
        match result {
            Ok(()) => End::Lost("the connection was closed"),
            Err(error) => self.failed(&error),
        }
    }

    fn failed(&self, error: &redis::RedisError) -> End {
        tracing::warn!(target: "jmqt::bus", error = %link::explain(error), "Redis failed");
        End::Lost("it failed")
    }

    async fn send_all(&self, link: &Link) -> redis::RedisResult<()> {
        loop {
            self.outgoing.ready().await;
            self.send_waiting(link).await?;
        }
    }

    async fn send_waiting(&self, link: &Link) -> redis::RedisResult<()> {
        loop {
            let batch = self.outgoing.take();
            if batch.is_empty() {
                return Ok(());
            }
            let to_nodes: Vec<_> = batch.iter().map(|(target, _)| target.node()).collect();
            let named = batch.into_iter().map(|(target, mut payload)| {
                let name = self.names.target(&target);
                self.seal.put(&name, &mut payload);
                (name, payload)
            });
            let listeners = link.publish(named.collect()).await?;
            self.outgoing.taken_was_sent();
            for (node, listeners) in to_nodes.into_iter().zip(listeners) {
                if let Some(node) = node.filter(|_| listeners == 0) {
                    // This only avoids a wait; if there is no room, the sender waits for its time limit.
                    drop(self.inbox.controls.try_send(BusEvent::NobodyThere(node)));
                }
            }
        }
    }
}

#[async_trait]
impl Bus for RedisBus {
    fn join(&self, channel: &ChannelName) {
        self.interest.join(channel);
    }

    async fn joined(&self, channel: &ChannelName) {
        let joined = self.interest.joined(channel, || self.is_up());
        drop(timeout(JOIN_TIMEOUT, joined).await);
    }

    fn leave(&self, channel: &ChannelName) {
        self.interest.leave(channel);
    }

    fn is_up(&self) -> bool {
        self.up.load(Ordering::Acquire)
    }

    async fn up(&self) {
        loop {
            // `notified` receives notifications from here on, even before it is polled.
            let came_up = self.came_up.notified();
            if self.is_up() {
                return;
            }
            came_up.await;
        }
    }

    fn publish_qos0(&self, channel: &ChannelName, sender: Option<&ClientId>, run: &Run) {
        let (payload, header) = message::encode_qos0(self.speaker, Because::Joined, channel, sender, run);
        self.put_pushes(Target::Channel(channel.clone()), payload, header);
    }

    fn send_qos0(&self, to: NodeId, channel: &ChannelName, sender: Option<&ClientId>, run: &Run) {
        let (payload, header) = message::encode_qos0(self.speaker, Because::Joined, channel, sender, run);
        self.put_pushes(Target::Node(to), payload, header);
    }

    fn publish_qos1(&self, channel: &ChannelName, messages: &[LoggedPush]) {
        let payload = message::encode_qos1(self.speaker, Because::Joined, channel, messages);
        self.put_pushes(Target::Channel(channel.clone()), payload, 0);
    }

    fn send_qos1(&self, to: NodeId, channel: &ChannelName, messages: &[LoggedPush]) {
        let payload = message::encode_qos1(self.speaker, Because::Joined, channel, messages);
        self.put_pushes(Target::Node(to), payload, 0);
    }

    fn copy_qos0(&self, to: &[NodeId], channel: &ChannelName, sender: Option<&ClientId>, run: &Run) {
        let Some((last, others)) = to.split_last() else { return };
        let (payload, header) = message::encode_qos0(self.speaker, Because::Filters, channel, sender, run);
        for node in others {
            self.put_pushes(Target::Node(*node), payload.clone(), header);
        }
        self.put_pushes(Target::Node(*last), payload, header);
    }

    fn copy_qos1(&self, to: &[NodeId], channel: &ChannelName, messages: &[LoggedPush]) {
        let Some((last, others)) = to.split_last() else { return };
        let payload = message::encode_qos1(self.speaker, Because::Filters, channel, messages);
        for node in others {
            self.put_pushes(Target::Node(*node), payload.clone(), 0);
        }
        self.put_pushes(Target::Node(*last), payload, 0);
    }

    fn tell_share(&self, to: NodeId, name: &ChannelName, message: &ShareMessage) {
        let (payload, header) = message::encode_share(self.speaker, name, message);
        self.put_pushes(Target::Node(to), payload, header);
    }

    async fn sent(&self) {
        self.outgoing.sent().await;
    }

    fn send(&self, to: NodeId, control: &Control) {
        self.put_control(Target::Node(to), control);
    }

    fn broadcast(&self, control: &Control) {
        self.put_control(Target::All, control);
    }

    fn reset(&self) {
        self.present.lock().unwrap_or_else(PoisonError::into_inner).cancel();
    }

    async fn run(&self, stop: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        let mut told: Option<Instant> = None;
        loop {
            let before = Instant::now();
            match self.serve(&stop).await {
                End::Stop => return,
                End::NotConnected(error) => {
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    if told.is_none_or(|told| told.elapsed() > TOLD_EVERY) {
                        tracing::warn!(target: "jmqt::bus", %error, "Redis cannot be reached");
                        told = Some(before);
                    }
                }
                End::Lost(_) if before.elapsed() > LONGEST_PAUSE => (pause, told) = (FIRST_PAUSE, None),
                End::Lost(_) => (pause, told) = ((pause * 2).min(LONGEST_PAUSE), None),
            }
            // Full jitter: nodes that lost Redis at the same time do not reconnect at the same time.
            let part = f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX);
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause.mul_f64(part.max(0.1))) => {}
            }
        }
    }
}
