//! Limits the pending messages of clients.

use std::ops::RangeInclusive;
use std::sync::LazyLock;

use futures_util::TryStreamExt as _;
use jmqt_core::ClientId;
use sqlx::sqlite::SqliteConnection;
use sqlx::{Arguments as _, Row as _};

use super::SqliteStore;
use super::cursors;
use super::rows::{self, MultiRow};
use super::writer::Writer;
use crate::store::backlog::{
    self, Cut, LOOKED_AT, MOST_SUBSCRIPTIONS, OwnMessage, Pending, SUBSCRIPTIONS_AT_A_TIME, Sweep,
};
use crate::store::cursor;
use crate::store::limits::limited;
use crate::store::{ChannelKey, Dropped, PendingLimits, Seq, StoreError, StoredSubscription};

/// Sorts after every client id: values that are not text come last.
const BEHIND_ALL: &[u8] = b"\xff";

static POSITIONS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        2,
        "SELECT c.id, c.name, c.last_seq, s.acked_seq, s.acked_beyond, s.options FROM (VALUES {rows}) AS v \
         CROSS JOIN subscriptions AS s ON s.channel_id = v.column1 AND s.client_id = v.column2 \
         CROSS JOIN channels AS c ON c.id = s.channel_id",
    )
});
static DELETE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        3,
        "DELETE FROM messages WHERE rowid IN (SELECT m.rowid FROM (VALUES {rows}) AS v \
         CROSS JOIN messages AS m ON m.channel_id = v.column1 AND m.seq BETWEEN v.column2 AND v.column3)",
    )
});

#[cfg(test)]
pub(super) fn statements() -> [&'static MultiRow; 2] {
    [&POSITIONS, &DELETE]
}

impl Sweep for SqliteStore {
    async fn clients_behind(
        &self,
        limits: PendingLimits,
        after: Option<&ClientId>,
    ) -> Result<(Vec<ClientId>, Option<ClientId>), StoreError> {
        let behind = limited(async {
            let mut reader = self.reader().await?;
            clients_behind(&mut reader, limits, after).await
        });
        behind.await
    }

    async fn pending_of(&self, client: &ClientId) -> Result<Vec<Pending>, StoreError> {
        let pending = limited(async {
            let mut reader = self.reader().await?;
            pending_of(&mut reader, client).await
        });
        pending.await
    }

    async fn positions(
        &self,
        client: &ClientId,
        keys: &[ChannelKey],
    ) -> Result<Vec<StoredSubscription>, StoreError> {
        let found = limited(async {
            let mut reader = self.reader().await?;
            let positions = POSITIONS.fetch(&mut reader, keys, |values, key| {
                values.add(key.0)?;
                values.add(client.as_str())
            });
            positions.await
        });
        let subscription = |row| {
            Ok(StoredSubscription {
                key: rows::key(row, 0)?,
                channel: rows::channel(row, 1)?,
                last: rows::seq(row, 2)?,
                cursor: cursors::read(row, 3)?,
                options: rows::options(row, 5)?,
            })
        };
        found.await?.iter().map(subscription).collect()
    }

    async fn first_within(&self, key: ChannelKey, after: Seq, bytes: u64) -> Result<Option<Seq>, StoreError> {
        let sql = "SELECT seq FROM messages WHERE channel_id = ?1 AND seq > ?2 AND bytes_before >= \
            (SELECT total_bytes FROM channels WHERE id = ?1) - ?3 ORDER BY seq LIMIT 1";
        let found = limited(async {
            let mut reader = self.reader().await?;
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            let query = sqlx::query(sql).bind(key.0).bind(after.0.cast_signed()).bind(bytes);
            Ok(query.fetch_optional(&mut *reader).await?)
        });
        found.await?.map(|row| rows::seq(&row, 0)).transpose()
    }

    async fn raise(&self, client: &ClientId, cuts: &[Cut]) -> Result<Vec<Dropped>, StoreError> {
        if cuts.is_empty() {
            return Ok(Vec::new());
        }
        let mut writer = self.writer().await?;
        let dropped = limited(raise(&mut writer, client, cuts)).await;
        let dropped = writer.finish(dropped).await?;
        writer.to_trim.extend(dropped.iter().map(|dropped| &dropped.key));
        Ok(dropped)
    }

    async fn newest(&self, key: ChannelKey, after: Seq, before: Seq) -> Result<Vec<OwnMessage>, StoreError> {
        let sql = "SELECT seq, sender, length(data) + COALESCE(length(attributes), 0) FROM messages \
            WHERE channel_id = ? AND seq > ? AND seq < ? ORDER BY seq DESC LIMIT ?";
        let found = limited(async {
            let mut reader = self.reader().await?;
            let query = sqlx::query(sql).bind(key.0).bind(after.0.cast_signed());
            let query = query.bind(before.0.cast_signed()).bind(LOOKED_AT);
            Ok(query.fetch_all(&mut *reader).await?)
        });
        let message = |row| {
            let (seq, sender) = (rows::seq(row, 0)?, rows::sender(row, 1)?);
            Ok(OwnMessage { seq, sender, bytes: rows::count(row, 2)? })
        };
        found.await?.iter().map(message).collect()
    }

    async fn delete(&self, key: ChannelKey, ranges: &[RangeInclusive<u64>]) -> Result<u64, StoreError> {
        let mut writer = self.writer().await?;
        let deleted = limited(async {
            writer.begin().await?;
            let delete = DELETE.execute(writer.connection()?, ranges, |values, range| {
                values.add(key.0)?;
                rows::add_seq(values, Seq(*range.start()))?;
                rows::add_seq(values, Seq(*range.end()))
            });
            delete.await
        })
        .await;
        writer.finish(deleted).await
    }
}

async fn clients_behind(
    connection: &mut SqliteConnection,
    limits: PendingLimits,
    after: Option<&ClientId>,
) -> Result<(Vec<ClientId>, Option<ClientId>), StoreError> {
    let after = after.map_or("", ClientId::as_str);
    let sql = "SELECT client_id FROM subscriptions INDEXED BY subscriptions_by_client \
        WHERE client_id > ? ORDER BY client_id LIMIT 1 OFFSET ?";
    let query = sqlx::query(sql).bind(after).bind(SUBSCRIPTIONS_AT_A_TIME);
    let next = query.fetch_optional(&mut *connection).await?;
    let next = next.map(|row| rows::client(&row, 0)).transpose()?;
    let mut last = None;
    if let Some(next) = next {
        let sql = "SELECT client_id FROM subscriptions INDEXED BY subscriptions_by_client \
            WHERE client_id > ? AND client_id < ? ORDER BY client_id DESC LIMIT 1";
        let query = sqlx::query(sql).bind(after).bind(next.as_str());
        match query.fetch_optional(&mut *connection).await? {
            Some(row) => last = Some(rows::client(&row, 0)?),
            None => return Ok((vec![next.clone()], Some(next))),
        }
    }
    // Without the hint, SQLite might read all rows in the order of their channels.
    let sql = "SELECT s.client_id FROM subscriptions AS s INDEXED BY subscriptions_by_client \
        CROSS JOIN channels AS c ON c.id = s.channel_id \
        WHERE s.client_id > ?1 AND s.client_id <= ?2 AND c.last_seq > s.acked_seq GROUP BY s.client_id \
        HAVING SUM(c.last_seq - s.acked_seq) > ?3 \
        OR SUM(CASE WHEN c.name = '#' || s.client_id THEN c.last_seq - s.acked_seq ELSE 0 END) > ?4 \
        OR SUM(c.total_bytes - COALESCE((SELECT m.bytes_before FROM messages AS m \
            WHERE m.channel_id = c.id AND m.seq = s.acked_seq + 1), c.total_bytes)) > ?5 \
        ORDER BY s.client_id";
    let query = sqlx::query(sql).bind(after);
    let query = match &last {
        Some(client) => query.bind(client.as_str()),
        None => query.bind(BEHIND_ALL),
    };
    let query = backlog::bounds(limits).into_iter().fold(query, sqlx::query::Query::bind);
    let behind = query.fetch_all(connection).await?;
    Ok((behind.iter().map(|row| rows::client(row, 0)).collect::<Result<_, _>>()?, last))
}

async fn pending_of(
    connection: &mut SqliteConnection,
    client: &ClientId,
) -> Result<Vec<Pending>, StoreError> {
    let sql = "SELECT s.channel_id, c.last_seq, c.name = '#' || s.client_id, \
        c.total_bytes - COALESCE((SELECT m.bytes_before FROM messages AS m \
            WHERE m.channel_id = c.id AND m.seq = s.acked_seq + 1), c.total_bytes), \
        s.acked_seq, s.acked_beyond \
        FROM subscriptions AS s INDEXED BY subscriptions_by_client \
        CROSS JOIN channels AS c ON c.id = s.channel_id \
        WHERE s.client_id = ? AND c.last_seq > s.acked_seq LIMIT ?";
    let mut found = sqlx::query(sql).bind(client.as_str()).bind(MOST_SUBSCRIPTIONS).fetch(connection);
    let mut pending = Vec::new();
    while let Some(row) = found.try_next().await? {
        let (last, cursor) = (rows::seq(&row, 1)?, cursors::read(&row, 4)?);
        pending.push(Pending {
            key: rows::key(&row, 0)?,
            messages: last.0.saturating_sub(cursor.acked.0).saturating_sub(cursor::acked_beyond(&cursor)),
            bytes: row.try_get::<i64, _>(3)?.max(0).cast_unsigned(),
            is_own: row.try_get::<i64, _>(2)? != 0,
        });
    }
    Ok(pending)
}

/// Moves the cursors forward from their current positions.
async fn raise(writer: &mut Writer, client: &ClientId, cuts: &[Cut]) -> Result<Vec<Dropped>, StoreError> {
    let pairs: Vec<_> = cuts.iter().map(|cut| (cut.key(), client)).collect();
    let found = cursors::fetch(writer.connection()?, &pairs).await?;
    let cursors = found.into_iter().map(|(key, _, cursor, _)| (key, cursor)).collect();
    let (dropped, raised) = backlog::pass_over(cuts, client, cursors);
    if !raised.is_empty() {
        writer.begin().await?;
        cursors::update(writer.connection()?, &raised).await?;
    }
    Ok(dropped)
}
