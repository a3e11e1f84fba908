//! One publisher's window: how far it may be ahead of its slowest subscriber.
//!
//! Each message in the window has a slot with the time it was handed to the socket and the number of
//! deliveries (and, for QoS 1, the publisher's own acknowledgement) that are still due. So the window
//! opens only with the slowest of all, and a delivery finds its time stamp without carrying it.

use crate::payload::Label;

/// Message ids for QoS 1 go round at this number, in every protocol (MQTT has 16 bits).
const IDS: u64 = 60_000;

#[derive(Clone, Copy, Default)]
struct Slot {
    sent_at: u64,
    due: u32,
}

/// In which order a publisher goes round its streams `first..first + count`: from subscriber to subscriber,
/// each of whom has `each` streams in a row.
#[derive(Clone, Copy)]
pub(crate) struct Turns {
    first: u32,
    count: u32,
    each: u32,
}

impl Turns {
    pub(crate) fn new(first: u32, count: u32, each: u32) -> Self {
        Self { first, count, each }
    }

    fn label(self, number: u64) -> Label {
        let turn = (number % u64::from(self.count)) as u32;
        let subscribers = self.count / self.each;
        Label {
            stream: self.first + turn % subscribers * self.each + turn / subscribers,
            sequence: (number / u64::from(self.count)) as u32,
        }
    }

    fn turn(self, stream: u32) -> u64 {
        let within = stream - self.first;
        let subscribers = self.count / self.each;
        u64::from(within % self.each * subscribers + within / self.each)
    }

    fn number(self, label: Label) -> u64 {
        if self.count == 1 {
            return u64::from(label.sequence);
        }
        u64::from(label.sequence) * u64::from(self.count) + self.turn(label.stream)
    }
}

/// Sends the messages of its streams in turn, over one connection.
pub(crate) struct Publisher {
    pub(crate) connection: usize,
    turns: Turns,
    /// What must arrive before a message is settled.
    due_each: u32,
    window: u64,
    /// The next message's number, and the lowest one that is not settled.
    next: u64,
    lowest: u64,
    slots: Vec<Slot>,
}

impl Publisher {
    pub(crate) fn new(connection: usize, turns: Turns, due_each: u32, window: u32) -> Self {
        Self {
            connection,
            turns,
            due_each,
            window: u64::from(window),
            next: 0,
            lowest: 0,
            slots: vec![Slot::default(); (window as usize).next_power_of_two()],
        }
    }

    /// How many messages the window lets out now.
    pub(crate) fn room(&self) -> u64 {
        self.lowest + self.window - self.next
    }

    /// Whether enough of the window is free for a batch.
    pub(crate) fn is_batch_due(&self) -> bool {
        self.room() >= (self.window / 4).max(1)
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.lowest == self.next
    }

    /// Takes the next message out of the window: its label, and its id for QoS 1.
    pub(crate) fn take(&mut self, now: u64) -> (Label, u16) {
        let number = self.next;
        self.next += 1;
        let slot = self.slot(number);
        self.slots[slot] = Slot { sent_at: now, due: self.due_each };
        (self.turns.label(number), (number % IDS + 1) as u16)
    }

    /// One delivery of this message has arrived: answers when the message was sent.
    pub(crate) fn delivered(&mut self, label: Label) -> u64 {
        self.settle_one(self.turns.number(label))
    }

    /// The server acknowledged the publish with this id. False if no such message is under way.
    pub(crate) fn acknowledged(&mut self, id: u16) -> bool {
        let lowest_id = self.lowest % IDS + 1;
        let ahead = (u64::from(id) + IDS - lowest_id) % IDS;
        let known = self.lowest + ahead < self.next;
        if known {
            self.settle_one(self.lowest + ahead);
        }
        known
    }

    /// How many messages of this stream have been published.
    pub(crate) fn published(&self, stream: u32) -> u32 {
        let count = u64::from(self.turns.count);
        ((self.next + count - 1 - self.turns.turn(stream)) / count) as u32
    }

    fn settle_one(&mut self, number: u64) -> u64 {
        let index = self.slot(number);
        let slot = &mut self.slots[index];
        let sent_at = slot.sent_at;
        slot.due = slot.due.saturating_sub(1);
        if slot.due == 0 && number == self.lowest {
            while self.lowest < self.next && self.slots[self.slot(self.lowest)].due == 0 {
                self.lowest += 1;
            }
        }
        sent_at
    }

    fn slot(&self, number: u64) -> usize {
        number as usize & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Turns = Turns { first: 0, count: 1, each: 1 };

    #[test]
    fn the_window_opens_with_the_slowest_subscriber() {
        let mut publisher = Publisher::new(0, ONE, 2, 4);
        let labels: Vec<_> = (0..4).map(|time| publisher.take(time).0).collect();
        assert_eq!(publisher.room(), 0);
        labels.iter().for_each(|&label| {
            publisher.delivered(label);
        });
        assert_eq!(publisher.room(), 0);
        assert_eq!(publisher.delivered(labels[1]), 1); // out of turn: message 0 is still due
        assert_eq!(publisher.room(), 0);
        publisher.delivered(labels[0]);
        assert_eq!(publisher.room(), 2);
        assert!(!publisher.is_settled());
    }

    #[test]
    fn an_acknowledgement_is_found_by_its_id_after_the_ids_have_wrapped_around() {
        let mut publisher = Publisher::new(0, ONE, 1, 2);
        for _ in 0..IDS + 5 {
            let (_, id) = publisher.take(0);
            assert!(publisher.acknowledged(id));
            assert!(!publisher.acknowledged(id));
        }
        assert!(publisher.is_settled());
    }

    #[test]
    fn subscribers_take_turns_and_within_them_their_streams() {
        let turns = Turns::new(10, 6, 2); // three subscribers
        let mut publisher = Publisher::new(0, turns, 1, 8);
        let labels: Vec<_> = (0..7).map(|_| publisher.take(0).0).collect();
        let streams: Vec<_> = labels.iter().map(|label| label.stream).collect();
        assert_eq!(streams, [10, 12, 14, 11, 13, 15, 10]);
        assert_eq!(labels[6].sequence, 1);
        let published: Vec<_> = (10..16).map(|stream| publisher.published(stream)).collect();
        assert_eq!(published, [2, 1, 1, 1, 1, 1]);
        labels.iter().for_each(|&label| {
            publisher.delivered(label);
        });
        assert!(publisher.is_settled());
    }
}
