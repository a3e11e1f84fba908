//! What is on its way to the server, and the sender's side of QoS 1 and 2 (4.3, 4.4).
//!
//! QoS 0 messages wait in one queue, QoS 1 and 2 messages in another; each leaves in order. A message with an acknowledgement
//! gets a packet id when it is sent first, and stays in flight until the exchange is over. A new connection with the old
//! session sends what is in flight again, in order, with the same ids and DUP, or PUBREL if PUBREC had come [MQTT-4.4.0-1].
//! Everything else (acknowledgements, subscriptions, pings) belongs to one connection and goes with it.
//!
//! Not here: locks and waiting (`shared`), sockets (`connection`).

use std::collections::{HashSet, VecDeque};

use jmqt_mqtt::{Ack, Delivery, EncodeError, Packet, PacketId, Qos, ReasonCode, Version};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::publish::{Publish, Receipt};
use super::{Error, Information, Options};
use crate::WhenFull;

/// How much is handed to the socket at a time, give or take one packet.
const PORTION_BYTES: usize = 256 << 10;
/// What may wait on one connection beside publishes. The server has to stop reading for long to bring that about.
const MOST_CONTROL_BYTES: usize = 4 << 20;
/// Messages that may be in flight, if the server allows more.
const MOST_IN_FLIGHT: usize = 1000;

/// How far the client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    /// There is no connection.
    Offline,
    /// There is one, and subscriptions are being made again.
    Resuming,
    /// Everything flows.
    Online,
    /// The client has ended.
    Closed,
}

/// What became of a message.
pub(crate) enum Offer {
    Taken(Receipt),
    /// There is no room for it now.
    Full,
}

#[derive(Debug)]
struct Entry {
    publish: Publish,
    /// From then on it is of no use.
    expires: Option<Instant>,
    /// `None`: nobody waits any more.
    done: Option<oneshot::Sender<Result<ReasonCode, Error>>>,
}

impl Entry {
    fn finish(&mut self, outcome: Result<ReasonCode, Error>) {
        if let Some(done) = self.done.take() {
            // Nobody needs to wait for it.
            let _ = done.send(outcome);
        }
    }

    /// The seconds that are left of the message expiry; `Err`: none.
    fn seconds_left(&self) -> Result<Option<u32>, Error> {
        let Some(expires) = self.expires else { return Ok(None) };
        let left = expires.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Error::Expired);
        }
        // Rounded up: a message of one second is not sent with none.
        Ok(Some(u32::try_from(left.as_secs() + u64::from(left.subsec_nanos() > 0)).unwrap_or(u32::MAX)))
    }
}

/// An exchange that is not over.
#[derive(Debug)]
struct Flight {
    entry: Entry,
    id: PacketId,
    /// PUBREC has come.
    is_released: bool,
    /// When this connection had it.
    handed: Option<Instant>,
}

#[derive(Debug)]
pub(crate) struct Outbound {
    phase: Phase,
    version: Version,
    /// What the server allows on this connection.
    in_flight_limit: usize,
    packet_limit: usize,
    maximum_qos: Qos,
    retain_available: bool,
    at_most_once: VecDeque<Entry>,
    waiting: VecDeque<Entry>,
    in_flight: VecDeque<Flight>,
    /// How many of them this connection has had.
    handed: usize,
    bytes: usize,
    ids: HashSet<PacketId>,
    last_id: u16,
    control: Vec<u8>,
    /// Why nothing is taken until the application wants another connection.
    stopped: Option<Error>,
    dropped: u64,
    told: bool,
    closing: bool,
}

impl Outbound {
    pub(crate) fn new(version: Version) -> Self {
        Self {
            phase: Phase::Offline,
            version,
            in_flight_limit: MOST_IN_FLIGHT,
            packet_limit: usize::MAX,
            maximum_qos: Qos::ExactlyOnce,
            retain_available: true,
            at_most_once: VecDeque::new(),
            waiting: VecDeque::new(),
            in_flight: VecDeque::new(),
            handed: 0,
            bytes: 0,
            ids: HashSet::new(),
            last_id: 0,
            control: Vec::new(),
            stopped: None,
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
    pub(crate) fn check_open(&self) -> Result<(), Error> {
        match &self.stopped {
            Some(error) => Err(error.clone()),
            None if self.closing || self.phase == Phase::Closed => Err(Error::Closed),
            None => Ok(()),
        }
    }

    // ---- publishes -------------------------------------------------------------------------------

    /// Queues a message if there is room, or makes room if that is the policy.
    pub(crate) fn offer(&mut self, publish: &Publish, options: &Options) -> Result<Offer, Error> {
        self.check_open()?;
        publish.check(self.version)?;
        self.check_server_limits(publish)?;
        let cost = publish.cost();
        if !self.has_room(cost, options) {
            match options.when_full {
                WhenFull::Wait => return Ok(Offer::Full),
                WhenFull::DropOldest => self.make_room(cost, options)?,
                WhenFull::Error => return Err(Error::QueueFull { limit: options.queue_bytes }),
            }
        }
        let expires = publish
            .expiry_seconds()
            .map(|seconds| Instant::now() + std::time::Duration::from_secs(seconds.into()));
        let mut entry = Entry { publish: publish.clone(), expires, done: None };
        self.bytes += cost;
        if publish.qos_value() == Qos::AtMostOnce {
            self.at_most_once.push_back(entry);
            return Ok(Offer::Taken(Receipt::of_qos0()));
        }
        let (done, receipt) = oneshot::channel();
        entry.done = Some(done);
        self.waiting.push_back(entry);
        Ok(Offer::Taken(Receipt::new(receipt)))
    }

    /// What the server of this connection has said it does not do [MQTT-3.2.2-11], [MQTT-3.2.2-14].
    fn check_server_limits(&self, publish: &Publish) -> Result<(), Error> {
        if !matches!(self.phase, Phase::Online | Phase::Resuming) {
            return Ok(());
        }
        self.check_sendable(publish)?;
        let size = publish.cost();
        if publish.payload().len() > self.packet_limit {
            return Err(Error::PacketTooLarge { size, limit: self.packet_limit });
        }
        Ok(())
    }

    fn check_sendable(&self, publish: &Publish) -> Result<(), Error> {
        if publish.qos_value() > self.maximum_qos {
            let what = if self.maximum_qos == Qos::AtMostOnce { "QoS above 0" } else { "QoS 2" };
            return Err(Error::NotAvailable { what, advice: "publish with a lower QoS" });
        }
        if publish.is_retained() && !self.retain_available {
            let advice = "publish without the retained flag";
            return Err(Error::NotAvailable { what: "retained messages", advice });
        }
        Ok(())
    }

    fn has_room(&self, cost: usize, options: &Options) -> bool {
        self.bytes == 0 || self.bytes + cost <= options.queue_bytes
    }

    fn make_room(&mut self, cost: usize, options: &Options) -> Result<(), Error> {
        while !self.has_room(cost, options) {
            let oldest = self.at_most_once.pop_front().or_else(|| self.waiting.pop_front());
            let Some(mut oldest) = oldest else {
                return Err(Error::QueueFull { limit: options.queue_bytes });
            };
            self.bytes -= oldest.publish.cost();
            self.dropped += 1;
            oldest.finish(Err(Error::Dropped));
        }
        Ok(())
    }

    /// Gives up waiting for messages that were sent too long ago on this connection. Their exchange goes on.
    pub(crate) fn expire(&mut self, options: &Options) {
        let limit = options.publish_timeout;
        for flight in &mut self.in_flight {
            if flight.handed.is_some_and(|handed| handed.elapsed() >= limit) {
                flight.entry.finish(Err(Error::Timeout { what: "the acknowledgement of a publish", limit }));
            }
        }
    }

    // ---- packet ids ------------------------------------------------------------------------------

    /// A packet id that nothing under way has [MQTT-2.2.1-3].
    pub(crate) fn new_id(&mut self) -> Result<PacketId, Error> {
        for _ in 0..=u16::MAX {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last_id)
                && self.ids.insert(id)
            {
                return Ok(id);
            }
        }
        Err(Error::NoPacketId)
    }

    pub(crate) fn free_id(&mut self, id: PacketId) {
        self.ids.remove(&id);
    }

    // ---- answers of the server -------------------------------------------------------------------

    /// PUBACK. `false`: nothing waits for it.
    pub(crate) fn acknowledged(&mut self, id: PacketId, answer: Result<ReasonCode, Error>) -> bool {
        let Some(at) = self.find(id, Qos::AtLeastOnce) else { return false };
        self.finish_flight(at, answer);
        true
    }

    /// PUBREC: the exchange goes on with PUBREL, or is over if the server refused [MQTT-4.3.3-4].
    pub(crate) fn received(&mut self, id: PacketId, answer: Result<ReasonCode, Error>) -> bool {
        let Some(at) = self.find(id, Qos::ExactlyOnce) else {
            self.send_ack(Packet::PubRel, id, ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
            return false;
        };
        if answer.is_err() && !self.in_flight[at].is_released {
            self.finish_flight(at, answer);
            return true;
        }
        let flight = &mut self.in_flight[at];
        flight.is_released = true;
        self.send_ack(Packet::PubRel, id, ReasonCode::SUCCESS);
        true
    }

    /// PUBCOMP.
    pub(crate) fn completed(&mut self, id: PacketId) -> bool {
        let Some(at) = self.find(id, Qos::ExactlyOnce).filter(|at| self.in_flight[*at].is_released) else {
            return false;
        };
        // 0x92: the server had completed it before.
        self.finish_flight(at, Ok(ReasonCode::SUCCESS));
        true
    }

    /// Answers come mostly in order, so it is one of the first.
    fn find(&self, id: PacketId, qos: Qos) -> Option<usize> {
        self.in_flight.iter().position(|flight| flight.id == id && flight.entry.publish.qos_value() == qos)
    }

    fn finish_flight(&mut self, at: usize, answer: Result<ReasonCode, Error>) {
        let Some(mut flight) = self.in_flight.remove(at) else { return };
        self.handed -= usize::from(at < self.handed);
        self.ids.remove(&flight.id);
        self.bytes -= flight.entry.publish.cost();
        flight.entry.finish(answer);
    }

    // ---- this connection -------------------------------------------------------------------------

    /// A connection with these limits begins. Without the old session what was in flight begins anew, but for QoS 2.
    pub(crate) fn begin(&mut self, information: &Information) {
        self.phase = Phase::Resuming;
        self.version = information.version;
        self.in_flight_limit = usize::from(information.receive_maximum).clamp(1, MOST_IN_FLIGHT);
        self.packet_limit = information.maximum_packet_size.map_or(usize::MAX, |size| size as usize);
        (self.maximum_qos, self.retain_available) = (information.maximum_qos, information.retain_available);
        self.handed = 0;
        self.control.clear();
        if information.session_present {
            return;
        }
        for mut flight in std::mem::take(&mut self.in_flight).into_iter().rev() {
            self.ids.remove(&flight.id);
            if flight.entry.publish.qos_value() == Qos::AtLeastOnce {
                self.waiting.push_front(flight.entry);
            } else {
                self.bytes -= flight.entry.publish.cost();
                flight.entry.finish(Err(Error::OutcomeUnknown));
            }
        }
    }

    pub(crate) fn go_online(&mut self) {
        self.phase = Phase::Online;
    }

    /// The connection has ended.
    pub(crate) fn end(&mut self) {
        if self.phase != Phase::Closed {
            self.phase = Phase::Offline;
        }
        self.handed = 0;
        self.control = Vec::new();
        for flight in &mut self.in_flight {
            flight.handed = None;
        }
    }

    /// Appends a packet of this connection.
    pub(crate) fn send(&mut self, packet: &Packet<'_>) -> Result<(), EncodeError> {
        if matches!(self.phase, Phase::Offline | Phase::Closed) {
            return Ok(());
        }
        packet.encode(self.version, &mut self.control)
    }

    /// Appends a packet of this connection that is written already.
    pub(crate) fn send_encoded(&mut self, packet: &[u8]) {
        self.control.extend_from_slice(packet);
    }

    /// An acknowledgement. Versions before 5 cannot say more than success.
    pub(crate) fn send_ack(
        &mut self,
        kind: fn(Ack<'static>) -> Packet<'static>,
        id: PacketId,
        reason: ReasonCode,
    ) {
        let reason = if self.version.has_properties() { reason } else { ReasonCode::SUCCESS };
        // Ids and codes of our own can always be written.
        let _ = self.send(&kind(Ack::new(id, reason)));
    }

    /// Whether the server takes nothing for so long that answers pile up.
    pub(crate) fn is_stuck(&self) -> bool {
        self.control.len() > MOST_CONTROL_BYTES
    }

    /// Whether nothing waits to be sent.
    pub(crate) fn is_handed_over(&self) -> bool {
        self.control.is_empty() && self.at_most_once.is_empty()
    }

    /// Whether nothing waits for an acknowledgement.
    pub(crate) fn is_acknowledged(&self) -> bool {
        self.in_flight.is_empty() && self.waiting.is_empty()
    }

    /// Moves a portion of what there is to `out`.
    pub(crate) fn take(&mut self, out: &mut Vec<u8>) {
        self.told = false;
        if out.is_empty() {
            std::mem::swap(out, &mut self.control);
        } else {
            out.append(&mut self.control);
        }
        if self.phase != Phase::Online {
            return;
        }
        self.take_in_flight(out);
        while out.len() < PORTION_BYTES
            && let Some(mut entry) = self.at_most_once.pop_front()
        {
            self.bytes -= entry.publish.cost();
            // The publisher is not told, but the others are not held up.
            if let Err(error) = self.encode(&mut entry, Delivery::AtMostOnce, out) {
                tracing::warn!(topic = entry.publish.topic(), %error, "A QoS 0 message cannot be sent, and is dropped");
                self.dropped += 1;
            }
        }
        // The rest goes with the next portion.
        self.told |= !self.at_most_once.is_empty();
    }

    fn take_in_flight(&mut self, out: &mut Vec<u8>) {
        while out.len() < PORTION_BYTES && self.handed < self.in_flight_limit {
            if let Some(flight) = self.in_flight.get_mut(self.handed) {
                let (id, qos) = (flight.id, flight.entry.publish.qos_value());
                flight.handed = Some(Instant::now());
                if flight.is_released {
                    let packet = Packet::PubRel(Ack::new(id, ReasonCode::SUCCESS));
                    // An id of our own can always be written.
                    let _ = packet.encode(self.version, out);
                } else {
                    let expiry = flight.entry.seconds_left().unwrap_or(Some(1));
                    let delivery = delivery(qos, id, true);
                    // It was sent before.
                    let _ = flight.entry.publish.encode(self.version, delivery, expiry, out);
                }
                self.handed += 1;
                continue;
            }
            let Some(mut entry) = self.waiting.pop_front() else { return };
            let sent = self.new_id().and_then(|id| {
                let delivery = delivery(entry.publish.qos_value(), id, false);
                self.encode(&mut entry, delivery, out).map(|()| id).inspect_err(|_| self.free_id(id))
            });
            match sent {
                Ok(id) => {
                    let handed = Some(Instant::now());
                    self.in_flight.push_back(Flight { entry, id, is_released: false, handed });
                    self.handed += 1;
                }
                Err(Error::NoPacketId) => {
                    self.waiting.push_front(entry);
                    return;
                }
                Err(error) => {
                    self.bytes -= entry.publish.cost();
                    entry.finish(Err(error));
                }
            }
        }
    }

    /// Appends a message that is sent for the first time, unless the server does not take it.
    fn encode(&self, entry: &mut Entry, delivery: Delivery, out: &mut Vec<u8>) -> Result<(), Error> {
        self.check_sendable(&entry.publish)?;
        let start = out.len();
        entry.publish.encode(self.version, delivery, entry.seconds_left()?, out).map_err(Error::Encode)?;
        let size = out.len() - start;
        if size > self.packet_limit {
            out.truncate(start);
            return Err(Error::PacketTooLarge { size, limit: self.packet_limit }); // [MQTT-3.2.2-15]
        }
        Ok(())
    }

    // ---- the end ---------------------------------------------------------------------------------

    pub(crate) fn begin_closing(&mut self) {
        self.closing = true;
        // A client that has ended by itself goes on saying why.
        if self.phase != Phase::Closed {
            self.stopped = None;
        }
    }

    pub(crate) const fn is_closing(&self) -> bool {
        self.closing
    }

    /// The client stops until the application wants another connection: everyone who waits is told.
    pub(crate) fn stop(&mut self, error: &Error) {
        self.stopped = Some(error.clone());
        for entry in self.at_most_once.drain(..).chain(self.waiting.drain(..)) {
            self.bytes -= entry.publish.cost();
            if let Some(done) = entry.done {
                let _ = done.send(Err(error.clone()));
            }
        }
        for flight in &mut self.in_flight {
            flight.entry.finish(Err(error.clone()));
        }
    }

    pub(crate) fn go_on(&mut self) {
        self.stopped = None;
    }

    pub(crate) fn close(&mut self) {
        let error = self.stopped.clone().unwrap_or(Error::Closed);
        self.stop(&error);
        self.in_flight.clear();
        self.phase = Phase::Closed;
    }
}

const fn delivery(qos: Qos, id: PacketId, dup: bool) -> Delivery {
    match qos {
        Qos::AtMostOnce => Delivery::AtMostOnce,
        Qos::AtLeastOnce => Delivery::AtLeastOnce { id, dup },
        Qos::ExactlyOnce => Delivery::ExactlyOnce { id, dup },
    }
}
