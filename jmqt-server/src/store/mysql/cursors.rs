//! Reading and writing cursors.

use std::collections::HashMap;
use std::sync::LazyLock;

use jmqt_core::ClientId;
use sqlx::Arguments as _;
use sqlx::Row as _;
use sqlx::mysql::{MySqlConnection, MySqlRow};

use super::MySqlStore;
use super::connection::retried;
use super::rows::{self, MultiRow};
use crate::store::cursor::{self, CursorRow};
use crate::store::limits::limited;
use crate::store::{ChannelKey, Cursor, CursorUpdate, StoreError, SubscriptionOptions};

/// The number of cursors that one transaction writes, which limits the duration of its locks.
const CURSORS_AT_A_TIME: usize = 1024;

static CURSORS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["SIGNED", "BINARY"],
        "SELECT s.channel_id, s.client_id, s.acked_seq, s.acked_beyond, s.options \
         FROM ({rows}) AS v STRAIGHT_JOIN subscriptions AS s \
         ON s.channel_id = v.a AND s.client_id = v.b FOR UPDATE",
    )
});

/// The rows are locked, so no row is inserted.
static UPDATE_CURSORS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "(?,?,?,?)",
        ",",
        "INSERT INTO subscriptions (channel_id, client_id, acked_seq, acked_beyond) VALUES {rows} \
         ON DUPLICATE KEY UPDATE acked_seq = VALUES(acked_seq), acked_beyond = VALUES(acked_beyond)",
    )
});

impl MySqlStore {
    /// See [`Store::save_cursors`](crate::store::Store::save_cursors). After an error some of the
    /// cursors may have been written.
    pub(super) async fn write_cursors(&self, updates: &[CursorUpdate]) -> Result<(), StoreError> {
        let mut newest = cursor::newest(updates);
        newest.sort_unstable();
        for chunk in newest.chunks(CURSORS_AT_A_TIME) {
            retried(|| self.write_some_cursors(chunk)).await?;
        }
        Ok(())
    }

    async fn write_some_cursors(&self, cursors: &[(ChannelKey, &str, CursorRow)]) -> Result<(), StoreError> {
        let mut lease = self.connections.lease().await?;
        let written = limited(async { raise(lease.begin().await?, cursors).await }).await;
        lease.finish(written).await
    }
}

/// Writes the cursors that move forward. They must be sorted, so that all transactions lock them in the same order.
async fn raise(
    connection: &mut MySqlConnection,
    cursors: &[(ChannelKey, &str, CursorRow)],
) -> Result<(), StoreError> {
    let found = lock_named(connection, cursors.iter().map(|&(key, client, _)| (key, client))).await?;
    let before: HashMap<_, _> =
        found.into_iter().map(|(key, client, cursor, _)| ((key, client), CursorRow::from(cursor))).collect();
    let moves_on = |(key, client, cursor): &&(ChannelKey, &str, CursorRow)| {
        let client = ClientId::stored(client).ok();
        client.and_then(|client| before.get(&(*key, client))).is_some_and(|before| before < cursor)
    };
    let raised: Vec<_> = cursors.iter().filter(moves_on).cloned().collect();
    update(connection, &raised).await
}

/// Writes cursors whose rows are [locked](lock).
pub(super) async fn update(
    connection: &mut MySqlConnection,
    cursors: &[(ChannelKey, &str, CursorRow)],
) -> Result<(), StoreError> {
    let update = UPDATE_CURSORS.execute(connection, cursors, |values, (key, client, cursor)| {
        rows::add_key(values, key)?;
        rows::add_name(values, client)?;
        rows::add_seq(values, cursor.acked)?;
        values.add(cursor.beyond.as_slice())
    });
    update.await?;
    Ok(())
}

/// Locks and reads the cursors and options of these subscriptions that exist. The subscriptions must be sorted.
pub(super) async fn lock(
    connection: &mut MySqlConnection,
    subscriptions: &[(ChannelKey, &ClientId)],
) -> Result<Vec<(ChannelKey, ClientId, Cursor, SubscriptionOptions)>, StoreError> {
    lock_named(connection, subscriptions.iter().map(|(key, client)| (*key, client.as_str()))).await
}

async fn lock_named(
    connection: &mut MySqlConnection,
    subscriptions: impl Iterator<Item = (ChannelKey, &str)>,
) -> Result<Vec<(ChannelKey, ClientId, Cursor, SubscriptionOptions)>, StoreError> {
    let subscriptions: Vec<_> = subscriptions.collect();
    let found = CURSORS.fetch(connection, &subscriptions, |values, (key, client)| {
        rows::add_key(values, key)?;
        rows::add_name(values, client)
    });
    let cursor = |row| Ok((rows::key(row, 0)?, rows::client(row, 1)?, read(row, 2)?, rows::options(row, 4)?));
    let mut found: Vec<_> = found.await?.iter().map(cursor).collect::<Result<_, StoreError>>()?;
    found.dedup_by(|a, b| (a.0, &a.1) == (b.0, &b.1)); // those that were repeated come one after another
    Ok(found)
}

/// Reads a cursor from two consecutive columns.
pub(super) fn read(row: &MySqlRow, column: usize) -> Result<Cursor, StoreError> {
    cursor::parse(rows::seq(row, column)?, row.try_get(column + 1)?)
}
