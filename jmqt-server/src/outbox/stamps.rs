//! The stamps of the messages of a log. An acknowledgement counts only if it has the right stamp.
//!
//! After an older copy of the database is restored, a log position is assigned to a second message. A client may
//! still acknowledge the first message, which must not acknowledge the second one.

use std::collections::VecDeque;

use crate::store::{CURSOR_WINDOW, Seq, Stamp};

/// The stamps of those messages of one log that acknowledgements may name.
#[derive(Debug, Default)]
pub(crate) struct Stamps {
    /// Pushes of this connection, in order. An entry's stamp is valid from its message up to the next entry.
    pushed: VecDeque<(u64, Stamp)>,
    /// Unordered acknowledgements of messages that have not been pushed on this connection yet. Their stamps are
    /// compared when the messages are read from the log.
    early: Vec<(u64, Stamp)>,
}

impl Stamps {
    /// Records a push. Pushes are recorded in order.
    pub(crate) fn pushed(&mut self, Seq(seq): Seq, stamp: Stamp) {
        if self.pushed.back().is_none_or(|(_, last)| *last != stamp) {
            self.pushed.push_back((seq, stamp));
        }
    }

    /// Returns `true` if the message was pushed with this stamp.
    pub(crate) fn was_pushed(&self, Seq(seq): Seq, stamp: Stamp) -> bool {
        let behind = self.pushed.partition_point(|(first, _)| *first <= seq);
        behind.checked_sub(1).is_some_and(|run| self.pushed[run].1 == stamp)
    }

    /// Forgets the stamps up to here, because all these messages are acknowledged.
    pub(crate) fn forget_up_to(&mut self, seq: u64) {
        while self.pushed.get(1).is_some_and(|(first, _)| *first <= seq + 1) {
            self.pushed.pop_front();
        }
    }

    /// Keeps an acknowledgement until the message is read; returns `false` if it is a duplicate or there are too
    /// many.
    pub(crate) fn acknowledge_early(&mut self, Seq(seq): Seq, stamp: Stamp) -> bool {
        let is_new = self.early.len() < CURSOR_WINDOW as usize && !self.early.contains(&(seq, stamp));
        if is_new {
            self.early.push((seq, stamp));
        }
        is_new
    }

    /// Takes the acknowledgements whose messages have not been read.
    pub(crate) fn take_all_early(&mut self) -> Vec<(u64, Stamp)> {
        std::mem::take(&mut self.early)
    }

    /// Returns `true` if a message that is about to be pushed was already acknowledged.
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
