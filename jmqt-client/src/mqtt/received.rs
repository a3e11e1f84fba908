//! The receiver's side of QoS 1 and 2 (4.3, 4.4): which messages the application has yet to take, and what the server has been
//! told of them.
//!
//! A message is acknowledged, with PUBACK or PUBREC, when all streams it went to have taken it, and those of one QoS in the
//! order in which they came [MQTT-4.6.0-2], [MQTT-4.6.0-3]. One that comes again, because a connection broke before it was
//! acknowledged, is recognised by its packet id and not delivered twice.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;

use jmqt_mqtt::{PacketId, Qos};

#[derive(Debug)]
struct Entry {
    id: PacketId,
    serial: u64,
    topic: Arc<str>,
    /// Streams that have yet to take it.
    left: usize,
    /// It came on this connection.
    is_here: bool,
    cost: usize,
}

/// What the server is to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    PubAck(PacketId),
    PubRec(PacketId),
}

/// What becomes of a message that comes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// It is delivered with this number.
    New(u64),
    /// It is in the hands of the application, or was taken.
    Known,
}

#[derive(Debug, Default)]
pub(crate) struct Received {
    at_least_once: VecDeque<Entry>,
    exactly_once: VecDeque<Entry>,
    /// PUBREC was sent, PUBREL has not come.
    recorded: HashSet<PacketId>,
    last_serial: u64,
    waiting: usize,
    bytes: usize,
}

impl Received {
    fn queue(&mut self, qos: Qos) -> &mut VecDeque<Entry> {
        if qos == Qos::ExactlyOnce { &mut self.exactly_once } else { &mut self.at_least_once }
    }

    /// A message with a packet id came. Whoever delivers a new one says with [`taken`](Self::taken) when that is done.
    pub(crate) fn arrive(
        &mut self,
        qos: Qos,
        (id, is_duplicate): (PacketId, bool),
        (topic, cost): (&Arc<str>, usize),
        answers: &mut Vec<Answer>,
    ) -> Arrival {
        if qos == Qos::ExactlyOnce && self.recorded.contains(&id) {
            answers.push(Answer::PubRec(id)); // [MQTT-4.3.3-10]
            return Arrival::Known;
        }
        if let Some(at) = self.queue(qos).iter().position(|entry| entry.id == id) {
            let queue = self.queue(qos);
            if queue[at].is_here || is_duplicate || qos == Qos::ExactlyOnce {
                queue[at].is_here = true;
                self.release(qos, answers);
                return Arrival::Known;
            }
            // The server has done with the one before, and uses the id again.
            if let Some(entry) = queue.remove(at)
                && entry.left > 0
            {
                self.forget(entry.cost);
            }
        }
        self.last_serial += 1;
        let serial = self.last_serial;
        let topic = Arc::clone(topic);
        self.queue(qos).push_back(Entry { id, serial, topic, left: 1, is_here: true, cost });
        self.waiting += 1;
        self.bytes += cost;
        Arrival::New(serial)
    }

    /// A new message went to this many streams.
    pub(crate) fn delivered(&mut self, qos: Qos, serial: u64, streams: usize, answers: &mut Vec<Answer>) {
        if let Some(entry) = self.queue(qos).back_mut().filter(|entry| entry.serial == serial) {
            entry.left = streams;
            if streams == 0 {
                let cost = entry.cost;
                self.forget(cost);
                self.release(qos, answers);
            }
        }
    }

    /// A stream has taken a message.
    pub(crate) fn taken(&mut self, qos: Qos, serial: u64, answers: &mut Vec<Answer>) {
        let queue = self.queue(qos);
        let Ok(at) = queue.binary_search_by_key(&serial, |entry| entry.serial) else { return };
        let entry = &mut queue[at];
        entry.left = entry.left.saturating_sub(1);
        if entry.left == 0 {
            let cost = entry.cost;
            self.forget(cost);
            self.release(qos, answers);
        }
    }

    fn forget(&mut self, cost: usize) {
        self.waiting -= 1;
        self.bytes -= cost;
    }

    /// Acknowledges what can be, in order.
    fn release(&mut self, qos: Qos, answers: &mut Vec<Answer>) {
        let queue = self.queue(qos);
        let mut released = Vec::new();
        let mut at = 0;
        while let Some(entry) = queue.get(at) {
            match (entry.is_here, entry.left) {
                (true, 0) => {
                    released.push(entry.id);
                    queue.remove(at);
                }
                (true, _) => break,
                // It has not come again yet, and may never: it holds nothing up.
                (false, _) => at += 1,
            }
        }
        for id in released {
            if qos == Qos::ExactlyOnce {
                self.recorded.insert(id);
                answers.push(Answer::PubRec(id));
            } else {
                answers.push(Answer::PubAck(id));
            }
        }
    }

    /// PUBREL. `false`: there is no such exchange.
    pub(crate) fn released(&mut self, id: PacketId) -> bool {
        self.recorded.remove(&id)
    }

    /// A connection begins. Without the old session the server knows of nothing any more.
    pub(crate) fn begin(&mut self, session_present: bool) {
        if session_present {
            self.at_least_once
                .iter_mut()
                .chain(&mut self.exactly_once)
                .for_each(|entry| entry.is_here = false);
        } else {
            *self = Self { last_serial: self.last_serial, ..Self::default() };
        }
    }

    /// The connection has ended: nothing can be acknowledged on it.
    pub(crate) fn end(&mut self) {
        self.at_least_once.iter_mut().chain(&mut self.exactly_once).for_each(|entry| entry.is_here = false);
    }

    /// How many messages the application has yet to take, and how many bytes they have.
    pub(crate) const fn waiting(&self) -> (usize, usize) {
        (self.waiting, self.bytes)
    }

    /// The oldest message that the application has yet to take.
    pub(crate) fn oldest(&self) -> Option<Oldest<'_>> {
        let of = |queue: &'_ VecDeque<Entry>| queue.iter().position(|entry| entry.is_here && entry.left > 0);
        let queues = [&self.at_least_once, &self.exactly_once];
        let oldest = queues.into_iter().filter_map(|queue| Some((queue, of(queue)?)));
        let (queue, at) = oldest.min_by_key(|(queue, at)| queue[*at].serial)?;
        let held = queue.range(at..).filter(|entry| entry.is_here && entry.left == 0).count();
        Some(Oldest { serial: queue[at].serial, topic: &queue[at].topic, held })
    }
}

/// What [`Received::oldest`] found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Oldest<'r> {
    pub(crate) serial: u64,
    pub(crate) topic: &'r str,
    /// How many messages were taken and cannot be acknowledged before it.
    pub(crate) held: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: u16) -> PacketId {
        PacketId::new(number).unwrap()
    }

    fn arrive(received: &mut Received, qos: Qos, number: u16, is_duplicate: bool) -> (Arrival, Vec<Answer>) {
        let mut answers = Vec::new();
        let arrival = received.arrive(qos, (id(number), is_duplicate), (&"a".into(), 10), &mut answers);
        (arrival, answers)
    }

    fn taken(received: &mut Received, qos: Qos, serial: u64) -> Vec<Answer> {
        let mut answers = Vec::new();
        received.taken(qos, serial, &mut answers);
        answers
    }

    #[test] // [MQTT-4.6.0-2]
    fn acknowledgements_leave_in_the_order_of_arrival() {
        let mut received = Received::default();
        for number in [7, 8, 9] {
            arrive(&mut received, Qos::AtLeastOnce, number, false);
        }
        assert_eq!(received.waiting(), (3, 30));
        assert_eq!(taken(&mut received, Qos::AtLeastOnce, 2), []);
        assert_eq!(taken(&mut received, Qos::AtLeastOnce, 1), [Answer::PubAck(id(7)), Answer::PubAck(id(8))]);
        assert_eq!(taken(&mut received, Qos::AtLeastOnce, 3), [Answer::PubAck(id(9))]);
        assert_eq!(received.waiting(), (0, 0));
    }

    #[test] // [MQTT-4.3.3-10]
    fn a_qos_2_message_that_comes_again_is_delivered_once() {
        let mut received = Received::default();
        let qos = Qos::ExactlyOnce;
        assert_eq!(arrive(&mut received, qos, 1, false), (Arrival::New(1), vec![]));
        // The connection breaks while the application has it, and again after PUBREC.
        received.end();
        received.begin(true);
        assert_eq!(arrive(&mut received, qos, 1, true), (Arrival::Known, vec![]));
        assert_eq!(taken(&mut received, qos, 1), [Answer::PubRec(id(1))]);
        received.end();
        received.begin(true);
        assert_eq!(arrive(&mut received, qos, 1, true), (Arrival::Known, vec![Answer::PubRec(id(1))]));
        assert!(received.released(id(1)) && !received.released(id(1)));
        assert_eq!(arrive(&mut received, qos, 1, false).0, Arrival::New(2));
    }

    #[test]
    fn a_push_taken_without_a_connection_is_acknowledged_when_it_is_redelivered() {
        let mut received = Received::default();
        arrive(&mut received, Qos::AtLeastOnce, 1, false);
        arrive(&mut received, Qos::AtLeastOnce, 2, false);
        received.end();
        assert_eq!(taken(&mut received, Qos::AtLeastOnce, 1), []);
        received.begin(true);
        // One that does not come again holds nothing up, and its id may be used for another message.
        assert_eq!(arrive(&mut received, Qos::AtLeastOnce, 2, true), (Arrival::Known, vec![]));
        assert_eq!(taken(&mut received, Qos::AtLeastOnce, 2), [Answer::PubAck(id(2))]);
        assert_eq!(arrive(&mut received, Qos::AtLeastOnce, 1, false).0, Arrival::New(3));
        // Without the session nothing is known any more.
        received.begin(false);
        assert_eq!(taken(&mut received, Qos::AtLeastOnce, 3), []);
        assert_eq!(received.waiting(), (0, 0));
    }
}
