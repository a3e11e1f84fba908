//! What is on its way to the server: packet texts, each followed by its NUL, in three lanes.
//!
//! QoS 0 publishes are bytes in one queue, which outlives connections. QoS 1 publishes are kept one by one until
//! they are acknowledged, and a cursor tells which of them this connection has had: a new connection sets it back,
//! so they are sent again in order, with the same ids, before new ones. A QoS 0 publish that is to be checked has an
//! id and an entry in `Checks`, but its bytes are in the queue like any other. Everything else (acknowledgements,
//! subscriptions, requests) belongs to one connection and goes with it.
//!
//! Not here: locks and waiting (`shared`), framing (`transport`).

use std::collections::{HashMap, VecDeque};

use jmqt_protocol::{NUL, Packet, PushAck, Qos, StatusCode};
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::checks::Checks;
use crate::config::WhenFull;
use crate::{Config, Error, Publish, Receipt};

/// What a connected client lets pile up before publishers wait: more would only add delay.
const ONLINE_BYTES: usize = 1 << 20;
/// How much is handed to the socket at a time, give or take one packet.
const PORTION_BYTES: usize = 256 << 10;
/// What a kept publish takes beside its text, roughly.
const OVERHEAD: usize = 160;
/// QoS 1 publishes that may be unacknowledged on a connection: what a server remembers of a publisher (protocol.md 2.23).
const MOST_UNACKNOWLEDGED: usize = 10_000;
/// What may wait on one connection beside publishes. The server has to stop reading for long to bring that about.
const MOST_CONTROL_BYTES: usize = 4 << 20;

/// How far the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// There is no session.
    Offline,
    /// There is one, and subscriptions are being made again.
    Resuming,
    /// Everything flows.
    Online,
    /// The client has ended.
    Closed,
}

/// The answer to a control request: its status, and its data as JSON text.
pub(crate) type Reply = Result<(StatusCode, Option<Box<str>>), Error>;

/// What became of a message.
pub(crate) enum Offer {
    Taken(Receipt),
    /// There is no room for it now.
    Full,
}

#[derive(Debug)]
struct Unacknowledged {
    id: u64,
    text: Box<[u8]>,
    /// When it was handed to a connection last; `None`: it never was.
    handed: Option<Instant>,
    done: oneshot::Sender<Result<(), Error>>,
}

impl Unacknowledged {
    fn cost(&self) -> usize {
        self.text.len() + OVERHEAD
    }

    fn finish(self, outcome: Result<(), Error>) {
        // Nobody needs to wait for it.
        let _ = self.done.send(outcome);
    }
}

#[derive(Debug)]
pub(crate) struct Outbound {
    phase: Phase,
    /// QoS 0; the first `head` bytes have been dropped.
    queue: Vec<u8>,
    head: usize,
    /// The publishes in `queue` that have an id, and those on their way.
    checks: Checks,
    unacknowledged: VecDeque<Unacknowledged>,
    unacknowledged_bytes: usize,
    /// How many of them this connection has had.
    handed: usize,
    control: Vec<u8>,
    requests: HashMap<u64, oneshot::Sender<Reply>>,
    last_id: u64,
    /// Why nothing is taken: the server ended the connection for good, and the application has yet to say that it wants
    /// another one.
    parked: Option<Error>,
    /// Heartbeats that were sent on this connection, and those that were answered.
    beats: (u64, u64),
    /// How many sessions there have been.
    sessions: u64,
    dropped: u64,
    /// The connection's task has been told that there is something.
    told: bool,
    closing: bool,
}

impl Outbound {
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Offline,
            queue: Vec::new(),
            head: 0,
            checks: Checks::default(),
            unacknowledged: VecDeque::new(),
            unacknowledged_bytes: 0,
            handed: 0,
            control: Vec::new(),
            requests: HashMap::new(),
            last_id: 0,
            parked: None,
            beats: (0, 0),
            sessions: 0,
            dropped: 0,
            told: false,
            closing: false,
        }
    }

    pub(crate) const fn phase(&self) -> Phase {
        self.phase
    }

    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether the connection's task has to be woken for what was just added.
    pub(crate) fn tell(&mut self) -> bool {
        !std::mem::replace(&mut self.told, true)
    }

    /// Whether the client takes anything.
    ///
    /// # Errors
    /// [`Error::Closed`], or the [`Error::Disconnected`] it was [parked](Self::park) with.
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        match &self.parked {
            Some(error) => Err(error.clone()),
            None if self.closing || self.phase == Phase::Closed => Err(Error::Closed),
            None => Ok(()),
        }
    }

    // ---- publishes -------------------------------------------------------------------------------

    /// Queues a message if there is room, or makes room if that is the policy.
    pub(crate) fn offer(&mut self, publish: &Publish, config: &Config) -> Result<Offer, Error> {
        self.check_open()?;
        let limit = config.max_packet_bytes;
        if publish.data().len() > limit {
            return Err(Error::PacketTooLarge { limit });
        }
        if !self.has_room(publish.size_hint(), config) {
            match config.when_full {
                WhenFull::Wait => return Ok(Offer::Full),
                WhenFull::DropOldest => self.make_room(publish.size_hint(), config)?,
                WhenFull::Error => return Err(Error::QueueFull { limit: config.queue_bytes }),
            }
        }
        let receipt = match publish.qos {
            Qos::AtMostOnce => self.queue(publish, limit)?,
            Qos::AtLeastOnce | Qos::ExactlyOnce => self.keep(publish, limit)?,
        };
        Ok(Offer::Taken(receipt))
    }

    fn queue(&mut self, publish: &Publish, limit: usize) -> Result<Receipt, Error> {
        let start = self.queue.len();
        let check = publish.is_checked.then(|| self.checks.next_id());
        publish.encode(check.as_deref(), &mut self.queue);
        if self.queue.len() - start > limit {
            self.queue.truncate(start);
            return Err(Error::PacketTooLarge { limit });
        }
        self.queue.push(NUL);
        let length = self.queue.len() - start;
        Ok(if check.is_some() { self.checks.add(length) } else { self.checks.pass(length) })
    }

    fn keep(&mut self, publish: &Publish, limit: usize) -> Result<Receipt, Error> {
        let id = self.next_id();
        let mut text = Vec::with_capacity(publish.size_hint());
        publish.encode(Some(&id.to_string()), &mut text);
        if text.len() > limit {
            return Err(Error::PacketTooLarge { limit });
        }
        text.push(NUL);
        let (done, receipt) = oneshot::channel();
        let entry = Unacknowledged { id, text: text.into(), handed: None, done };
        self.unacknowledged_bytes += entry.cost();
        self.unacknowledged.push_back(entry);
        Ok(Receipt::new(receipt))
    }

    fn queued(&self) -> usize {
        self.queue.len() - self.head
    }

    fn has_room(&self, more: usize, config: &Config) -> bool {
        let waiting = self.queued() + self.unacknowledged_bytes + self.checks.len() * OVERHEAD;
        let waits_online = self.phase == Phase::Online && config.when_full == WhenFull::Wait;
        waiting == 0
            || waiting + more <= config.queue_bytes
                && !(waits_online && self.queued() > 0 && self.queued() + more > ONLINE_BYTES)
    }

    fn make_room(&mut self, more: usize, config: &Config) -> Result<(), Error> {
        while !self.has_room(more, config) {
            if self.queued() > 0 {
                let length = memchr_nul(&self.queue[self.head..]);
                self.head += length;
                self.checks.drop_queued(length);
                self.dropped += 1;
                continue;
            }
            let Some(at) = self.unacknowledged.iter().position(|entry| entry.handed.is_none()) else {
                return Err(Error::QueueFull { limit: config.queue_bytes });
            };
            self.drop_kept(at, Error::Dropped);
        }
        if self.head > self.queue.len() / 2 {
            self.queue.drain(..self.head);
            self.head = 0;
        }
        Ok(())
    }

    fn drop_kept(&mut self, at: usize, error: Error) {
        if let Some(entry) = self.take_kept(at) {
            self.dropped += u64::from(matches!(error, Error::Dropped));
            entry.finish(Err(error));
        }
    }

    fn take_kept(&mut self, at: usize) -> Option<Unacknowledged> {
        let entry = self.unacknowledged.remove(at)?;
        self.handed -= usize::from(at < self.handed);
        self.unacknowledged_bytes -= entry.cost();
        Some(entry)
    }

    /// Gives up the publishes that have waited too long for an acknowledgement on this connection. Those that wait for a
    /// connection wait on.
    pub(crate) fn expire(&mut self, config: &Config) {
        let limit = config.publish_timeout;
        let is_late = |entry: &Unacknowledged| entry.handed.is_some_and(|handed| handed.elapsed() >= limit);
        while self.handed > 0 && self.unacknowledged.front().is_some_and(is_late) {
            self.drop_kept(0, Error::Timeout { what: "the acknowledgement of a publish", limit });
        }
        self.checks.expire(limit);
    }

    // ---- what belongs to one connection -----------------------------------------------------------

    fn next_id(&mut self) -> u64 {
        self.last_id += 1;
        self.last_id
    }

    /// Whether packets of a session can be sent.
    pub(crate) const fn has_session(&self) -> bool {
        matches!(self.phase, Phase::Resuming | Phase::Online)
    }

    /// Sends a packet on this connection.
    pub(crate) fn send(&mut self, packet: &Packet<'_>) {
        packet.encode(&mut self.control);
        self.control.push(NUL);
    }

    pub(crate) fn acknowledge(&mut self, id: &str) {
        if self.has_session() {
            self.send(&Packet::PushAck(PushAck { id: id.into(), status: None }));
        }
    }

    /// Sends a heartbeat. Returns its number on this connection.
    pub(crate) fn beat(&mut self) -> u64 {
        self.send(&Packet::Hb);
        self.beats.0 += 1;
        self.beats.0
    }

    /// An `hbAck`: the server has handled everything before the heartbeat.
    pub(crate) fn beat_answered(&mut self) {
        self.beats.1 += 1;
        self.checks.beat_answered(self.beats.1);
    }

    pub(crate) const fn beats_answered(&self) -> u64 {
        self.beats.1
    }

    /// Which session this is.
    pub(crate) const fn session(&self) -> u64 {
        self.sessions
    }

    /// The id of the last publish or request.
    pub(crate) const fn last_id(&self) -> u64 {
        self.last_id
    }

    /// Whether every QoS 1 publish up to this id is acknowledged, or given up.
    pub(crate) fn is_acknowledged_up_to(&self, id: u64) -> bool {
        self.unacknowledged.front().is_none_or(|entry| entry.id > id)
    }

    /// Sends a control request; `encode` makes the packet with the id it is given.
    pub(crate) fn request(
        &mut self,
        limit: usize,
        encode: impl FnOnce(&str, &mut Vec<u8>),
    ) -> Result<(u64, oneshot::Receiver<Reply>), Error> {
        let id = self.next_id();
        let start = self.control.len();
        encode(&id.to_string(), &mut self.control);
        if self.control.len() - start > limit {
            self.control.truncate(start);
            return Err(Error::PacketTooLarge { limit });
        }
        self.control.push(NUL);
        let (answer, answered) = oneshot::channel();
        self.requests.insert(id, answer);
        Ok((id, answered))
    }

    /// Nobody waits for this answer any more.
    pub(crate) fn forget_request(&mut self, id: u64) {
        self.requests.remove(&id);
    }

    /// Whether an answer is due that the server's application may be thinking about.
    pub(crate) fn awaits_answer(&self) -> bool {
        !self.requests.is_empty()
    }

    /// Whether the server takes nothing although a lot waits beside publishes.
    pub(crate) fn is_stuck(&self) -> bool {
        self.control.len() > MOST_CONTROL_BYTES
    }

    // ---- the connection's task --------------------------------------------------------------------

    /// A session is open.
    pub(crate) fn begin(&mut self) {
        self.phase = Phase::Resuming;
        self.control.clear();
        self.handed = 0;
        self.beats = (0, 0);
        self.sessions += 1;
    }

    /// Subscriptions are as they should be: publishes may flow.
    pub(crate) fn go_online(&mut self) {
        self.phase = Phase::Online;
    }

    /// The session has ended.
    pub(crate) fn end(&mut self) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Offline;
        }
        self.control = Vec::new();
        self.handed = 0;
        self.checks.end_connection();
        for (_, answer) in self.requests.drain() {
            let _ = answer.send(Err(Error::ConnectionLost));
        }
    }

    /// The server has ended the connection for good: all waiting callers get this error, and so do later ones until
    /// [`unpark`](Self::unpark). QoS 0 publishes that were queued stay, unless they are checked: nobody could be told of them.
    pub(crate) fn park(&mut self, error: &Error) {
        if self.phase == Phase::Closed {
            return;
        }
        self.end();
        while !self.unacknowledged.is_empty() {
            self.drop_kept(0, error.clone());
        }
        self.drop_checked(error);
        self.parked = Some(error.clone());
    }

    /// Takes the checked publishes out of the queue.
    fn drop_checked(&mut self, error: &Error) {
        let starts = self.checks.fail_queued(error);
        if starts.is_empty() {
            return;
        }
        let queued = &self.queue[self.head..];
        let (mut kept, mut from) = (Vec::new(), 0);
        for start in starts {
            kept.extend_from_slice(&queued[from..start]);
            from = start + memchr_nul(&queued[start..]);
        }
        kept.extend_from_slice(&queued[from..]);
        self.checks.cut_queued(queued.len() - kept.len());
        (self.queue, self.head) = (kept, 0);
    }

    pub(crate) fn unpark(&mut self) {
        self.parked = None;
    }

    /// Appends the next portion to `out`; an empty `out` is exchanged for the queue, which copies nothing.
    pub(crate) fn take(&mut self, out: &mut Vec<u8>) {
        self.told = false;
        if self.phase == Phase::Online {
            self.checks.hand_over();
            if self.head == 0 && out.is_empty() {
                std::mem::swap(&mut self.queue, out);
                self.queue.clear();
            } else {
                out.extend_from_slice(&self.queue[self.head..]);
                self.queue = Vec::new();
                self.head = 0;
            }
            if self.handed < self.unacknowledged.len() {
                self.hand_over(out);
            }
        }
        if self.checks.want_beat() {
            self.beat();
        }
        if !self.control.is_empty() {
            self.checks.beat_sent(self.beats.0);
        }
        out.append(&mut self.control);
    }

    /// QoS 1 publishes, in order: first those that an earlier connection had and that were not acknowledged.
    fn hand_over(&mut self, out: &mut Vec<u8>) {
        let now = Instant::now();
        while out.len() < PORTION_BYTES
            && self.handed < MOST_UNACKNOWLEDGED
            && let Some(next) = self.unacknowledged.get_mut(self.handed)
        {
            out.extend_from_slice(&next.text);
            next.handed = Some(now);
            self.handed += 1;
        }
    }

    /// A `pubAck`, of a publish or of a control request.
    pub(crate) fn answered(&mut self, id: &str, status: StatusCode, data: Option<&str>) -> bool {
        if let Some(checked) = self.checks.answered(id, status, data) {
            return checked;
        }
        let Ok(id) = id.parse::<u64>() else { return false };
        if let Ok(at) = self.unacknowledged.binary_search_by_key(&id, |entry| entry.id) {
            if let Some(entry) = self.take_kept(at) {
                entry.finish(if status.is_ok() { Ok(()) } else { Err(Error::refused_publish(status, data)) });
            }
            return true;
        }
        let Some(answer) = self.requests.remove(&id) else { return false };
        // The one who asked may have given up.
        let _ = answer.send(Ok((status, data.map(Into::into))));
        true
    }

    /// From now on nothing is taken; what is there is still sent.
    pub(crate) fn begin_closing(&mut self) {
        self.closing = true;
        // A client that has ended by itself goes on saying why.
        if self.phase != Phase::Closed {
            self.parked = None;
        }
    }

    pub(crate) const fn is_closing(&self) -> bool {
        self.closing
    }

    /// Whether everything has been handed to the connection.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.queued() == 0 && self.handed == self.unacknowledged.len() && self.control.is_empty()
    }

    pub(crate) fn is_acknowledged(&self) -> bool {
        self.unacknowledged.is_empty() && self.checks.is_empty()
    }

    /// The client has ended: nobody waits any longer.
    pub(crate) fn close(&mut self) {
        self.phase = Phase::Closed;
        self.closing = true;
        (self.queue, self.head) = (Vec::new(), 0);
        self.end();
        self.checks.close();
        while !self.unacknowledged.is_empty() {
            self.drop_kept(0, Error::Closed);
        }
    }
}

/// How long the first packet is, its NUL included.
fn memchr_nul(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == NUL).map_or(bytes.len(), |at| at + 1)
}
