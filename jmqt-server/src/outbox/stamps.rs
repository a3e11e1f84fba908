//! Which stamps the messages of a log have: an acknowledgement counts only if it names the right one.
//!
//! After an older copy of the database was restored, a place in a log is given to a second message. A client
//! may still acknowledge the first one then, and that must not acknowledge the second.

use std::collections::VecDeque;

use crate::store::{CURSOR_WINDOW, Seq, Stamp};

/// The stamps of one log's messages, as far as acknowledgements may name them.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    /// Of what was pushed on this connection, in order: the message that is named, and those that follow it
    /// up to the next one here, have this stamp.
    pushed: VecDeque<(u64, Stamp)>,
    /// Acknowledgements of messages that have not been pushed on this connection yet, in no order. Their
    /// stamps are compared when the messages are read from the log.
    early: Vec<(u64, Stamp)>,
}

impl Stamps {
    /// Notes a push. Pushes are noted in their order.
    pub(crate) fn pushed(&mut self, Seq(seq): Seq, stamp: Stamp) {
        if self.pushed.back().is_none_or(|(_, last)| *last != stamp) {
            self.pushed.push_back((seq, stamp));
        }
    }

    /// Whether the message was pushed with this stamp.
    pub(crate) fn was_pushed(&self, Seq(seq): Seq, stamp: Stamp) -> bool {
        let behind = self.pushed.partition_point(|(first, _)| *first <= seq);
        behind.checked_sub(1).is_some_and(|run| self.pushed[run].1 == stamp)
    }

    /// Everything up to here is acknowledged, so nobody will ask.
    pub(crate) fn forget_up_to(&mut self, seq: u64) {
        while self.pushed.get(1).is_some_and(|(first, _)| *first <= seq + 1) {
            self.pushed.pop_front();
        }
    }

    /// Keeps an acknowledgement until the message is read; `false` if it was there already, or there are too
    /// many.
    pub(crate) fn acknowledge_early(&mut self, Seq(seq): Seq, stamp: Stamp) -> bool {
        let is_new = self.early.len() < CURSOR_WINDOW as usize && !self.early.contains(&(seq, stamp));
        if is_new {
            self.early.push((seq, stamp));
        }
        is_new
    }

    /// The acknowledgements whose messages have not been read.
    pub(crate) fn take_all_early(&mut self) -> Vec<(u64, Stamp)> {
        std::mem::take(&mut self.early)
    }

    /// A message is about to be pushed: whether it was acknowledged already.
    pub(crate) fn take_early(&mut self, Seq(seq): Seq, stamp: Stamp) -> bool {
        if self.early.is_empty() {
            return false;
        }
        let is_acknowledged = self.early.contains(&(seq, stamp));
        self.early.retain(|(of, _)| *of > seq);
        is_acknowledged
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_push_is_known_by_its_number_and_its_stamp() {
        let mut stamps = Stamps::default();
        for (seq, stamp) in [(5, 1), (6, 1), (7, 2), (9, 3), (10, 3)] {
            stamps.pushed(Seq(seq), Stamp(stamp));
        }
        let known = |stamps: &Stamps, seq, stamp| stamps.was_pushed(Seq(seq), Stamp(stamp));
        assert!(
            known(&stamps, 5, 1) && known(&stamps, 6, 1) && known(&stamps, 7, 2) && known(&stamps, 10, 3)
        );
        assert!(
            !known(&stamps, 4, 1) && !known(&stamps, 6, 2) && !known(&stamps, 7, 1) && !known(&stamps, 9, 2)
        );
        stamps.forget_up_to(8);
        assert!(known(&stamps, 9, 3) && known(&stamps, 10, 3));
        assert_eq!(stamps.pushed.len(), 1);
    }

    #[test]
    fn an_early_acknowledgement_counts_once_and_for_its_own_message_only() {
        let mut stamps = Stamps::default();
        assert!(stamps.acknowledge_early(Seq(3), Stamp(1)) && !stamps.acknowledge_early(Seq(3), Stamp(1)));
        assert!(stamps.acknowledge_early(Seq(5), Stamp(1)));
        assert!(!stamps.take_early(Seq(2), Stamp(1)));
        assert!(stamps.take_early(Seq(3), Stamp(1)));
        assert!(!stamps.take_early(Seq(5), Stamp(2)), "another message has its place");
        assert!(stamps.early.is_empty());
        let kept = (0..2 * CURSOR_WINDOW).filter(|seq| stamps.acknowledge_early(Seq(*seq), Stamp(1))).count();
        assert_eq!(kept as u64, CURSOR_WINDOW);
    }
}
