//! Reading and writing cursors.

use std::sync::LazyLock;

use jmqt_core::ClientId;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Arguments as _, Row as _};

use super::SqliteStore;
use super::rows::{self, MultiRow};
use crate::store::cursor::{self, CursorRow};
use crate::store::limits::limited;
use crate::store::{ChannelKey, Cursor, CursorUpdate, StoreError, SubscriptionOptions};

/// The number of cursors that one transaction writes, which limits the wait of a commit.
const CURSORS_AT_A_TIME: usize = 1024;

static CURSORS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        2,
        "SELECT s.channel_id, s.client_id, s.acked_seq, s.acked_beyond, s.options \
         FROM (VALUES {rows}) AS v CROSS JOIN subscriptions AS s \
         ON s.channel_id = v.column1 AND s.client_id = v.column2",
    )
});

/// Writes greater rows only: see [`CursorRow`].
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

#[cfg(test)]
pub(super) fn statements() -> [&'static MultiRow; 2] {
    [&CURSORS, &UPDATE_CURSORS]
}

impl SqliteStore {
    /// See [`Store::save_cursors`](crate::store::Store::save_cursors). After an error some of the
    /// cursors may have been written: small groups alternate with commits.
    pub(super) async fn write_cursors(&self, updates: &[CursorUpdate]) -> Result<(), StoreError> {
        let newest = cursor::newest(updates);
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

/// Writes the cursors that move forward, in the open transaction.
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

/// Reads the cursors and options of these subscriptions that exist.
pub(super) async fn fetch(
    connection: &mut SqliteConnection,
    subscriptions: &[(ChannelKey, &ClientId)],
) -> Result<Vec<(ChannelKey, ClientId, Cursor, SubscriptionOptions)>, StoreError> {
    let found = CURSORS.fetch(connection, subscriptions, |values, (key, client)| {
        values.add(key.0)?;
        values.add(client.as_str())
    });
    let cursor = |row| Ok((rows::key(row, 0)?, rows::client(row, 1)?, read(row, 2)?, rows::options(row, 4)?));
    found.await?.iter().map(cursor).collect()
}

/// Reads a cursor from two consecutive columns.
pub(super) fn read(row: &SqliteRow, column: usize) -> Result<Cursor, StoreError> {
    cursor::parse(rows::seq(row, column)?, row.try_get(column + 1)?)
}
