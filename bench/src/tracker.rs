//! Compares the messages that one subscriber received with the published ones: lost, duplicated, reordered.
//!
//! The usual delivery is the next of its stream and costs one comparison. Only a gap makes the tracker
//! remember numbers, until they come late (reordered) or the run is over (lost).

use std::collections::HashSet;
use std::ops::{AddAssign, Range};

use crate::payload::Label;

/// Deliveries that break the promise "each once, in publish order".
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Faults {
    pub(crate) lost: u64,
    pub(crate) duplicated: u64,
    pub(crate) reordered: u64,
    /// Of a stream this subscriber did not subscribe to.
    pub(crate) stray: u64,
}

impl Faults {
    pub(crate) fn total(&self) -> u64 {
        self.lost + self.duplicated + self.reordered + self.stray
    }
}

impl AddAssign for Faults {
    fn add_assign(&mut self, other: Self) {
        self.lost += other.lost;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.stray += other.stray;
    }
}

/// One subscriber's running account of the streams `first..first + expected.len()`.
pub(crate) struct Tracker {
    first_stream: u32,
    /// Per stream the sequence number that comes next.
    expected: Vec<u32>,
    /// Skipped so far: late if they still come, lost if not.
    missing: HashSet<(u32, u32)>,
    faults: Faults,
}

impl Tracker {
    pub(crate) fn new(streams: Range<u32>) -> Self {
        Self {
            first_stream: streams.start,
            expected: vec![0; streams.len()],
            missing: HashSet::new(),
            faults: Faults::default(),
        }
    }

    /// Counts one delivery. Answers which sequence numbers of that stream are settled by it: usually just
    /// this one, none for a second or late copy, several after a gap (nobody waits for what was skipped).
    pub(crate) fn deliver(&mut self, label: Label) -> Range<u32> {
        let index = label.stream.wrapping_sub(self.first_stream) as usize;
        let Some(expected) = self.expected.get_mut(index) else {
            self.faults.stray += 1;
            return 0..0;
        };
        let from = *expected;
        if label.sequence < from {
            if self.missing.remove(&(label.stream, label.sequence)) {
                self.faults.reordered += 1;
            } else {
                self.faults.duplicated += 1;
            }
            return 0..0;
        }
        *expected = label.sequence + 1;
        for skipped in from..label.sequence {
            self.missing.insert((label.stream, skipped));
        }
        from..label.sequence + 1
    }

    /// Closes the account: `published` tells how many messages a stream carried in all.
    pub(crate) fn finish(mut self, published: impl Fn(u32) -> u32) -> Faults {
        self.faults.lost += self.missing.len() as u64;
        for (stream, expected) in (self.first_stream..).zip(&self.expected) {
            self.faults.lost += u64::from(published(stream).saturating_sub(*expected));
        }
        self.faults
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(deliveries: &[u32], published: u32) -> Faults {
        let mut tracker = Tracker::new(7..8);
        for &sequence in deliveries {
            tracker.deliver(Label { stream: 7, sequence });
        }
        tracker.finish(|_| published)
    }

    #[test]
    fn deliveries_in_order_count_no_faults() {
        assert_eq!(faults(&[0, 1, 2, 3], 4), Faults::default());
    }

    #[test]
    fn messages_missing_in_a_gap_or_at_the_end_are_counted_as_lost() {
        let expected = Faults { lost: 3, ..Faults::default() };
        assert_eq!(faults(&[0, 3], 5), expected); // 1, 2 and 4
    }

    #[test]
    fn a_second_copy_is_counted_as_a_duplicate() {
        let expected = Faults { duplicated: 2, ..Faults::default() };
        assert_eq!(faults(&[0, 1, 0, 1, 2], 3), expected);
    }

    #[test]
    fn a_late_message_is_counted_as_reordered_and_its_second_copy_as_a_duplicate() {
        let expected = Faults { reordered: 1, duplicated: 1, ..Faults::default() };
        assert_eq!(faults(&[0, 2, 1, 1, 3], 4), expected);
    }

    #[test]
    fn a_message_of_another_stream_is_counted_as_stray() {
        let mut tracker = Tracker::new(3..5);
        for stream in [2, 5, 3, 4] {
            tracker.deliver(Label { stream, sequence: 0 });
        }
        let expected = Faults { stray: 2, ..Faults::default() };
        assert_eq!(tracker.finish(|_| 1), expected);
    }

    #[test]
    fn a_gap_is_settled_once_with_the_message_after_it() {
        let mut tracker = Tracker::new(0..1);
        let mut deliver = |sequence| tracker.deliver(Label { stream: 0, sequence });
        assert_eq!(deliver(0), 0..1);
        assert_eq!(deliver(3), 1..4);
        assert_eq!(deliver(2), 0..0);
        assert_eq!(deliver(4), 4..5);
    }
}
