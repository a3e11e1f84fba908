//! Cursors as the database keeps them, and how they move.

use std::collections::HashMap;
use std::sync::LazyLock;

use jmqt_protocol::ClientId;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Arguments as _, Row as _};

use super::SqliteStore;
use super::rows::{self, MultiRow};
use super::writer::limited;
use crate::store::{CURSOR_WINDOW, ChannelKey, Cursor, CursorUpdate, Seq, StoreError};

/// How many words of 64 bits `Cursor::beyond` has, unless it is empty.
const WORDS: usize = (CURSOR_WINDOW / 64) as usize;

/// How many cursors one transaction writes: a commit waits no longer than for these.
const CURSORS_AT_A_TIME: usize = 1024;

static CURSORS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        2,
        "SELECT s.channel_id, s.client_id, s.acked_seq, s.acked_beyond \
         FROM (VALUES {rows}) AS v CROSS JOIN subscriptions AS s \
         ON s.channel_id = v.column1 AND s.client_id = v.column2",
    )
});

/// The maps of one cursor place compare as they grow: a map that has all bits of another, and more,
/// is the greater of the two blobs. So this never takes an acknowledgement back.
static UPDATE_CURSORS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        4,
        "UPDATE subscriptions SET acked_seq = v.column3, acked_beyond = v.column4 \
         FROM (VALUES {rows}) AS v \
         WHERE subscriptions.channel_id = v.column1 AND subscriptions.client_id = v.column2 \
         AND (subscriptions.acked_seq < v.column3 OR (subscriptions.acked_seq = v.column3 \
         AND subscriptions.acked_beyond < v.column4))",
    )
});

/// A cursor in the form of its row: tidy, and ordered by how far it is.
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

#[cfg(test)]
pub(super) fn statements() -> [&'static MultiRow; 2] {
    [&CURSORS, &UPDATE_CURSORS]
}

impl SqliteStore {
    /// See [`Store::save_cursors`](crate::store::Store::save_cursors). After an error some of the
    /// cursors may have been written: a few at a time take their turn with commits.
    pub(super) async fn write_cursors(&self, updates: &[CursorUpdate]) -> Result<(), StoreError> {
        let newest = newest(updates);
        for chunk in newest.chunks(CURSORS_AT_A_TIME) {
            let mut writer = self.writer().await?;
            let written = limited(async {
                writer.begin().await?;
                update(writer.connection()?, chunk).await
            })
            .await;
            writer.finish(written).await?;
        }
        Ok(())
    }
}

/// One update for each cursor: an UPDATE that finds two rows for one takes either.
fn newest(updates: &[CursorUpdate]) -> Vec<(ChannelKey, &str, CursorRow)> {
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

/// Writes those that move on, in the transaction that is open.
pub(super) async fn update(
    connection: &mut SqliteConnection,
    cursors: &[(ChannelKey, &str, CursorRow)],
) -> Result<(), StoreError> {
    let update = UPDATE_CURSORS.execute(connection, cursors, |values, (key, client, cursor)| {
        values.add(key.0)?;
        values.add(*client)?;
        rows::add_seq(values, cursor.acked)?;
        values.add(cursor.beyond.as_slice())
    });
    update.await?;
    Ok(())
}

/// Reads the cursors of these subscriptions, as far as they exist.
pub(super) async fn fetch(
    connection: &mut SqliteConnection,
    subscriptions: &[(ChannelKey, &ClientId)],
) -> Result<Vec<(ChannelKey, ClientId, Cursor)>, StoreError> {
    let found = CURSORS.fetch(connection, subscriptions, |values, (key, client)| {
        values.add(key.0)?;
        values.add(client.as_str())
    });
    let cursor = |row| Ok((rows::key(row, 0)?, rows::client(row, 1)?, read(row, 2)?));
    found.await?.iter().map(cursor).collect()
}

/// Reads a cursor from two columns that follow each other.
pub(super) fn read(row: &SqliteRow, column: usize) -> Result<Cursor, StoreError> {
    let acked = rows::seq(row, column)?;
    let bytes: &[u8] = row.try_get(column + 1)?;
    let beyond: Vec<u64> =
        bytes.as_chunks().0.iter().map(|word: &[u8; 8]| u64::from_le_bytes(*word)).collect();
    let valid = bytes.is_empty() || (bytes.len() == WORDS * 8 && beyond[0] & 1 == 0);
    if !valid {
        return Err(StoreError::Corrupt { what: "cursor" });
    }
    Ok(Cursor { acked, beyond })
}

/// How many messages behind `acked` are acknowledged.
pub(super) fn acked_beyond(cursor: &Cursor) -> u64 {
    cursor.beyond.iter().map(|word| u64::from(word.count_ones())).sum()
}

/// Whether a message is acknowledged.
pub(super) fn is_acked(cursor: &Cursor, seq: Seq) -> bool {
    let Some(bit) = seq.0.checked_sub(cursor.acked.0 + 1) else {
        return true;
    };
    let word = usize::try_from(bit / 64).ok().and_then(|word| cursor.beyond.get(word));
    word.is_some_and(|word| word >> (bit % 64) & 1 == 1)
}

/// How many of the first `by` messages behind `acked` are acknowledged.
pub(super) fn acked_within(cursor: &Cursor, by: u64) -> u64 {
    let places = 1..=by.min(cursor.beyond.len() as u64 * 64);
    places.filter(|place| is_acked(cursor, Seq(cursor.acked.0 + place))).count() as u64
}

/// Moves a cursor `by` messages on, and further over those acknowledged right behind that. Leaves
/// the map as it has to be: bit 0 unset, empty if nothing is set.
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
    fn a_cursor_that_advances_keeps_what_is_acknowledged_further_on() {
        for by in [1, 2, 63, 64, 65, 127, 128, 500] {
            let mut moved = cursor(10, &[700, 701, 1034]);
            advance(&mut moved, by);
            assert_eq!(moved, cursor(10 + by, &[700, 701, 1034]), "by {by}");
        }
    }

    #[test]
    fn a_cursor_passes_over_what_is_acknowledged_right_behind_it() {
        let mut moved = cursor(10, &[12, 13, 14, 16]);
        advance(&mut moved, 1);
        assert_eq!(moved, cursor(14, &[16]));
        let mut far = cursor(0, &(2..=200).collect::<Vec<_>>());
        advance(&mut far, 1);
        assert_eq!(far, Cursor { acked: Seq(200), beyond: vec![] });
    }

    #[test]
    fn a_cursor_that_advances_beyond_its_map_has_an_empty_one() {
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
    fn acknowledged_is_what_lies_behind_the_cursor_or_has_its_bit() {
        let cursor = cursor(10, &[12, 1034]);
        let acked: Vec<u64> = (8..2000).filter(|&seq| is_acked(&cursor, Seq(seq))).collect();
        assert_eq!(acked, [8, 9, 10, 12, 1034]);
    }
}
