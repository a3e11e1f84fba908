//! Packet identifiers: short numbers by which a client acknowledges messages, and those of messages that it publishes
//! with QoS 2 and has not released.
//!
//! JMQT clients have none: a push id of JMQT says which message it is.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};

use crate::message::PushId;
use crate::wire::PacketId;

/// The least and the greatest limit for messages without an answer, whatever the window is.
const MIN_UNANSWERED: usize = 1024;
const MAX_UNANSWERED: usize = 60_000;

/// The step that a sent message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The acknowledgement of a QoS 1 message.
    Acknowledge,
    /// QoS 2: the client has received the message.
    Receive,
    /// QoS 2: the client has forgotten the packet identifier.
    Complete,
}

/// The packet identifiers of one session.
#[derive(Default)]
pub(super) struct PacketIds {
    /// The identifier that was used last.
    last: u16,
    sent: HashMap<PacketId, (PushId, Step), foldhash::fast::RandomState>,
    /// QoS 2 publishes of the client that it has not released.
    received: HashSet<PacketId, foldhash::fast::RandomState>,
}

/// The most QoS 2 publishes that a client may leave unreleased (3.2.2.3.3).
pub(crate) const RECEIVE_MAXIMUM: u16 = 128;

/// A QoS 2 publish of the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reception {
    New,
    /// The client has sent it before, and has not released it.
    Repeated,
    /// The client leaves more publishes unreleased than it may.
    TooMany,
}

/// The effect of an acknowledgement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Acknowledged {
    /// No message waits for it.
    Unknown,
    /// The exchange of this message is complete.
    Done(PushId),
    /// The exchange continues.
    Continues,
}

impl PacketIds {
    /// The next free identifier; `None` if the client has left too many messages without an answer. Those of ended
    /// subscriptions are not in the window any more, but keep their identifiers.
    pub(super) fn next(&mut self, window: usize) -> Option<PacketId> {
        if self.sent.len() >= (2 * window).clamp(MIN_UNANSWERED, MAX_UNANSWERED) {
            return None;
        }
        loop {
            self.last = self.last.wrapping_add(1);
            // There are fewer messages without an answer than identifiers, so one is free.
            if let Some(id) = PacketId::new(self.last)
                && !self.sent.contains_key(&id)
            {
                return Some(id);
            }
        }
    }

    pub(super) fn sent(&mut self, id: PacketId, push: PushId, exactly_once: bool) {
        let step = if exactly_once { Step::Receive } else { Step::Acknowledge };
        self.sent.insert(id, (push, step));
    }

    fn take_step(&mut self, id: PacketId, expected: Step, next: Option<Step>) -> Acknowledged {
        let Entry::Occupied(mut entry) = self.sent.entry(id) else { return Acknowledged::Unknown };
        let (push, step) = *entry.get();
        match next {
            _ if step != expected => Acknowledged::Unknown,
            Some(next) => {
                entry.insert((push, next));
                Acknowledged::Continues
            }
            None => {
                entry.remove();
                if self.sent.is_empty() {
                    self.sent = HashMap::default(); // an idle session is small
                }
                Acknowledged::Done(push)
            }
        }
    }

    /// The client has acknowledged a QoS 1 message.
    pub(super) fn acknowledged(&mut self, id: PacketId) -> Acknowledged {
        self.take_step(id, Step::Acknowledge, None)
    }

    /// The client has received a QoS 2 message, or has refused it.
    pub(super) fn was_received(&mut self, id: PacketId, is_refused: bool) -> Acknowledged {
        match self.take_step(id, Step::Receive, (!is_refused).then_some(Step::Complete)) {
            // It repeats an answer.
            Acknowledged::Unknown if self.sent.get(&id).is_some_and(|(_, step)| *step == Step::Complete) => {
                Acknowledged::Continues
            }
            acknowledged => acknowledged,
        }
    }

    /// The client has completed the exchange of a QoS 2 message.
    pub(super) fn completed(&mut self, id: PacketId) -> Acknowledged {
        self.take_step(id, Step::Complete, None)
    }

    /// Records a QoS 2 publish of the client.
    pub(super) fn receive(&mut self, id: PacketId) -> Reception {
        if self.received.contains(&id) {
            return Reception::Repeated;
        }
        if self.received.len() >= usize::from(RECEIVE_MAXIMUM) {
            return Reception::TooMany;
        }
        self.received.insert(id);
        Reception::New
    }

    /// Inserts the publishes of earlier connections.
    pub(super) fn restore_received(&mut self, ids: &[PacketId]) {
        self.received.extend(ids);
    }

    /// Returns `true` if the client has not released this publish.
    pub(super) fn is_received(&self, id: PacketId) -> bool {
        self.received.contains(&id)
    }

    /// The client has released its publish, or it was refused; returns `false` if it is unknown.
    pub(super) fn release(&mut self, id: PacketId) -> bool {
        let was_there = self.received.remove(&id);
        if self.received.is_empty() {
            self.received = HashSet::default(); // an idle session is small
        }
        was_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn push(number: u64) -> PushId {
        PushId::Memory { process: 1, number }
    }

    #[test] // 2.2.1: an identifier is not used again before the exchange is complete
    fn identifiers_in_use_are_skipped() {
        let mut ids = PacketIds { last: u16::MAX - 1, ..PacketIds::default() };
        for (number, expected) in [(1, u16::MAX), (2, 1), (3, 2)] {
            let id = ids.next(128).unwrap();
            assert_eq!(id.get(), expected);
            ids.sent(id, push(number), false);
        }
        ids.last = u16::MAX;
        assert_eq!(ids.next(128).unwrap().get(), 3);
    }

    #[test] // it must neither loop for ever nor use an identifier twice
    fn a_client_that_answers_nothing_runs_out_of_identifiers() {
        let mut ids = PacketIds::default();
        let mut count = 0;
        while let Some(id) = ids.next(100_000) {
            ids.sent(id, push(1), false);
            count += 1;
        }
        assert_eq!(count, MAX_UNANSWERED);
        assert_eq!(ids.acknowledged(PacketId::MIN), Acknowledged::Done(push(1)));
        assert!(ids.next(100_000).is_some());
    }

    #[test] // 4.3.3
    fn an_exchange_with_qos_2_has_its_steps_in_order() {
        let mut ids = PacketIds::default();
        let (one, two) = (ids.next(128).unwrap(), PacketId::new(9).unwrap());
        ids.sent(one, push(1), true);
        assert_eq!(ids.acknowledged(one), Acknowledged::Unknown);
        assert_eq!(ids.completed(one), Acknowledged::Unknown);
        assert_eq!(ids.was_received(one, false), Acknowledged::Continues);
        assert_eq!(ids.was_received(one, false), Acknowledged::Continues, "repeated");
        assert_eq!(ids.completed(one), Acknowledged::Done(push(1)));
        assert_eq!(ids.completed(one), Acknowledged::Unknown);
        ids.sent(two, push(2), true);
        assert_eq!(ids.was_received(two, true), Acknowledged::Done(push(2)), "refused");
    }

    #[test] // 4.3.3: a repeated PUBLISH is not delivered again before it is released
    fn a_publish_is_received_once_until_it_is_released() {
        let mut ids = PacketIds::default();
        let id = PacketId::new(7).unwrap();
        assert_eq!((ids.receive(id), ids.receive(id)), (Reception::New, Reception::Repeated));
        assert!(ids.release(id) && !ids.release(id));
        assert_eq!(ids.receive(id), Reception::New);
    }

    #[test] // 3.2.2.3.3, 4.4: a publish of an earlier connection is repeated, not received
    fn a_client_with_the_most_unreleased_publishes_can_only_repeat_them() {
        let mut ids = PacketIds::default();
        let earlier: Vec<_> = (1..=RECEIVE_MAXIMUM).filter_map(PacketId::new).collect();
        ids.restore_received(&earlier);
        assert_eq!(ids.receive(earlier[0]), Reception::Repeated);
        assert_eq!(ids.receive(PacketId::MAX), Reception::TooMany);
        assert!(ids.release(earlier[0]));
        assert_eq!(ids.receive(PacketId::MAX), Reception::New);
    }
}
