//! Operations on cursors, and their form in databases.

use std::collections::HashMap;

use super::{CURSOR_WINDOW, ChannelKey, Cursor, CursorUpdate, Seq, StoreError};

/// The number of 64-bit words in `Cursor::beyond`, unless it is empty.
const WORDS: usize = (CURSOR_WINDOW / 64) as usize;

/// A cursor in the form of its row: tidy, and ordered by how far it is.
///
/// The byte order of the maps at one position follows their growth: a map with all bits of another, and more,
/// is greater, here and in a database that compares bytes. So an update that only writes greater
/// rows never removes an acknowledgement.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct CursorRow {
    pub(super) acked: Seq,
    pub(super) beyond: Vec<u8>,
}

impl From<Cursor> for CursorRow {
    fn from(mut cursor: Cursor) -> Self {
        advance(&mut cursor, 0);
        let beyond = cursor.beyond.iter().flat_map(|word| word.to_le_bytes()).collect();
        Self { acked: cursor.acked, beyond }
    }
}

/// Merges the updates to one for each cursor, because an UPDATE with two values for one row uses either.
pub(super) fn newest(updates: &[CursorUpdate]) -> Vec<(ChannelKey, &str, CursorRow)> {
    let mut newest: HashMap<(ChannelKey, &str), CursorRow> = HashMap::with_capacity(updates.len());
    for update in updates {
        let row = CursorRow::from(update.cursor.clone());
        let place = newest.entry((update.key, update.client.as_str())).or_insert_with(|| row.clone());
        if *place < row {
            *place = row;
        }
    }
    newest.into_iter().map(|((key, client), row)| (key, client, row)).collect()
}

/// Reads a cursor from the columns of its row.
pub(super) fn parse(acked: Seq, beyond: &[u8]) -> Result<Cursor, StoreError> {
    let words: Vec<u64> =
        beyond.as_chunks().0.iter().map(|word: &[u8; 8]| u64::from_le_bytes(*word)).collect();
    let valid = beyond.is_empty() || (beyond.len() == WORDS * 8 && words[0] & 1 == 0);
    if !valid {
        return Err(StoreError::Corrupt { what: "cursor" });
    }
    Ok(Cursor { acked, beyond: words })
}

/// The number of acknowledged messages after `acked`.
pub(super) fn acked_beyond(cursor: &Cursor) -> u64 {
    cursor.beyond.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// Returns `true` if a message is acknowledged.
pub(super) fn is_acked(cursor: &Cursor, seq: Seq) -> bool {
    let Some(bit) = seq.0.checked_sub(cursor.acked.0 + 1) else {
        return true;
    };
    let word = usize::try_from(bit / 64).ok().and_then(|word| cursor.beyond.get(word));
    word.is_some_and(|word| word >> (bit % 64) & 1 == 1)
}

/// The number of acknowledged messages among the first `by` messages after `acked`.
pub(super) fn acked_within(cursor: &Cursor, by: u64) -> u64 {
    let places = 1..=by.min(cursor.beyond.len() as u64 * 64);
    places.filter(|place| is_acked(cursor, Seq(cursor.acked.0 + place))).count() as u64
}

/// Moves a cursor forward by `by` messages, and over directly following acknowledged messages. Keeps
/// the map normalized: bit 0 unset, empty if no bit is set.
pub(super) fn advance(cursor: &mut Cursor, by: u64) {
    cursor.beyond.resize(if cursor.beyond.is_empty() { 0 } else { WORDS }, 0);
    shift(cursor, by);
    let contiguous = contiguous(&cursor.beyond);
    shift(cursor, contiguous);
    if cursor.beyond.iter().all(|&word| word == 0) {
        cursor.beyond.clear();
    }
}

fn contiguous(words: &[u64]) -> u64 {
    let full = words.iter().take_while(|&&word| word == u64::MAX).count();
    let rest = words.get(full).map_or(0, |word| word.trailing_ones());
    full as u64 * 64 + u64::from(rest)
}

fn shift(cursor: &mut Cursor, by: u64) {
    cursor.acked.0 += by;
    let bits = by % 64;
    let moved = |words: &[u64], to: usize| {
        let from = usize::try_from(by / 64).ok().and_then(|words| words.checked_add(to));
        let word = |index: Option<usize>| index.and_then(|i| words.get(i)).copied().unwrap_or(0);
        let high = word(from.and_then(|from| from.checked_add(1)));
        word(from) >> bits | high.checked_shl(64 - bits as u32).unwrap_or(0)
    };
    cursor.beyond = (0..cursor.beyond.len()).map(|to| moved(&cursor.beyond, to)).collect();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor(acked: u64, beyond: &[u64]) -> Cursor {
        let mut words = vec![0; WORDS];
        for seq in beyond {
            let bit = seq - acked - 1;
            words[(bit / 64) as usize] |= 1 << (bit % 64);
        }
        Cursor { acked: Seq(acked), beyond: words }
    }

    #[test]
    fn an_advancing_cursor_keeps_later_acknowledgements() {
        for by in [1, 2, 63, 64, 65, 127, 128, 500] {
            let mut moved = cursor(10, &[700, 701, 1034]);
            advance(&mut moved, by);
            assert_eq!(moved, cursor(10 + by, &[700, 701, 1034]), "by {by}");
        }
    }

    #[test]
    fn a_cursor_skips_directly_following_acknowledged_messages() {
        let mut moved = cursor(10, &[12, 13, 14, 16]);
        advance(&mut moved, 1);
        assert_eq!(moved, cursor(14, &[16]));
        let mut far = cursor(0, &(2..=200).collect::<Vec<_>>());
        advance(&mut far, 1);
        assert_eq!(far, Cursor { acked: Seq(200), beyond: vec![] });
    }

    #[test]
    fn a_cursor_that_advances_beyond_its_map_has_an_empty_map() {
        for by in [1024, 1025, 100_000, u64::MAX / 2] {
            let mut moved = cursor(1, &[1025]);
            advance(&mut moved, by);
            assert_eq!(moved, Cursor { acked: Seq(1 + by), beyond: vec![] });
        }
    }

    #[test]
    fn a_map_with_more_bits_is_the_greater_row() {
        let (less, more) = (cursor(5, &[9, 70]), cursor(5, &[8, 9, 70]));
        assert!(CursorRow::from(less.clone()) < CursorRow::from(more));
        assert!(CursorRow::from(Cursor { acked: Seq(5), beyond: vec![] }) < CursorRow::from(less));
    }

    #[test]
    fn a_message_is_acknowledged_by_the_cursor_or_by_its_bit() {
        let cursor = cursor(10, &[12, 1034]);
        let acked: Vec<u64> = (8..2000).filter(|&seq| is_acked(&cursor, Seq(seq))).collect();
        assert_eq!(acked, [8, 9, 10, 12, 1034]);
    }
}
