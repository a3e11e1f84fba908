//! The messages of one channel's log that one client has acknowledged, while it is connected (protocol.md 2.14).

use crate::store::{CURSOR_WINDOW, Cursor, Seq};

const WORDS: usize = CURSOR_WINDOW as usize / 64;

/// The acknowledged part of a log: all messages up to a position, and single messages beyond it.
#[derive(Debug, Default)]
pub(crate) struct Acked {
    up_to: u64,
    /// Bit `i`: `up_to + 1 + i`. Allocated only for acknowledgements out of order.
    beyond: Option<Box<[u64; WORDS]>>,
}

impl Acked {
    pub(crate) fn from_stored(cursor: &Cursor) -> Self {
        let mut acked = Self { up_to: cursor.acked.0, beyond: None };
        if cursor.beyond.iter().any(|word| *word != 0) {
            let mut words = Box::new([0; WORDS]);
            for (word, stored) in words.iter_mut().zip(&cursor.beyond) {
                *word = *stored;
            }
            acked.beyond = Some(words);
        }
        acked
    }

    pub(crate) fn to_stored(&self) -> Cursor {
        let beyond = self.beyond.as_ref().map_or_else(Vec::new, |words| words.to_vec());
        Cursor { acked: Seq(self.up_to), beyond }
    }

    /// All messages up to and including this position are acknowledged.
    pub(crate) fn up_to(&self) -> u64 {
        self.up_to
    }

    /// The last position that can be recorded. No message beyond it may be pushed.
    pub(crate) fn horizon(&self) -> u64 {
        self.up_to + CURSOR_WINDOW
    }

    pub(crate) fn contains(&self, seq: u64) -> bool {
        if seq <= self.up_to {
            return true;
        }
        let bit = (seq - self.up_to - 1) as usize;
        match &self.beyond {
            Some(words) if bit < WORDS * 64 => words[bit / 64] >> (bit % 64) & 1 == 1,
            _ => false,
        }
    }

    /// Records one acknowledgement; returns `false` if it was recorded before or is beyond the horizon.
    pub(crate) fn insert(&mut self, seq: u64) -> bool {
        if self.contains(seq) || seq > self.horizon() {
            return false;
        }
        if seq == self.up_to + 1 {
            self.advance(1);
            self.take_contiguous();
        } else {
            let bit = (seq - self.up_to - 1) as usize;
            let words = self.beyond.get_or_insert_with(|| Box::new([0; WORDS]));
            words[bit / 64] |= 1 << (bit % 64);
        }
        true
    }

    /// Skips all messages up to `seq`, because they are deleted.
    pub(crate) fn skip_to(&mut self, seq: u64) {
        if seq > self.up_to {
            self.advance(seq - self.up_to);
            self.take_contiguous();
        }
    }

    fn take_contiguous(&mut self) {
        while let Some(words) = &self.beyond {
            let run = words[0].trailing_ones();
            if run == 0 {
                if words.iter().all(|word| *word == 0) {
                    self.beyond = None;
                }
                return;
            }
            self.advance(u64::from(run));
        }
    }

    fn advance(&mut self, by: u64) {
        self.up_to += by;
        let Some(words) = &mut self.beyond else { return };
        let old = **words;
        let word = |at: usize| old.get(at).copied().unwrap_or(0);
        let (whole, bits) = (usize::try_from(by / 64).unwrap_or(WORDS), by % 64);
        for (index, new) in words.iter_mut().enumerate() {
            let low = word(index + whole);
            *new = match bits {
                0 => low,
                _ => low >> bits | word(index + whole + 1) << (64 - bits),
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test] // protocol.md 2.14
    fn acknowledgements_count_once_and_in_any_order() {
        let mut acked = Acked::default();
        assert!(acked.insert(2) && acked.insert(3) && !acked.insert(3));
        assert_eq!(acked.up_to(), 0);
        assert!(acked.insert(1) && !acked.insert(1));
        assert_eq!(acked.up_to(), 3);
        assert!(acked.beyond.is_none());
        assert!(!acked.insert(3 + CURSOR_WINDOW + 1));
        assert!(acked.insert(3 + CURSOR_WINDOW));
    }

    #[test]
    fn a_cursor_agrees_with_a_plain_set_over_many_random_acknowledgements() {
        let mut acked = Acked::default();
        let mut model = BTreeSet::new();
        let mut random = 12345u64;
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let seq = acked.up_to() + 1 + (random >> 33) % if random.is_multiple_of(3) { 1024 } else { 8 };
            assert_eq!(acked.insert(seq), model.insert(seq));
            assert!(acked.contains(seq));
            let restored = Acked::from_stored(&acked.to_stored());
            assert_eq!(restored.up_to(), acked.up_to());
            assert!((seq..seq + 70).all(|seq| restored.contains(seq) == model.contains(&seq)));
        }
        assert!((1..=acked.up_to()).all(|seq| model.contains(&seq)));
        assert!(!model.contains(&(acked.up_to() + 1)));
    }
}
