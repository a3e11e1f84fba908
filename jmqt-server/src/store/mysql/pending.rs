//! Limits the pending messages of clients.

use std::ops::RangeInclusive;
use std::sync::LazyLock;

use futures_util::TryStreamExt as _;
use jmqt_core::ClientId;
use sqlx::Row as _;
use sqlx::mysql::MySqlConnection;

use super::MySqlStore;
use super::connection::retried;
use super::cursors;
use super::rows::{self, MultiRow};
use crate::store::backlog::{
    self, Cut, LOOKED_AT, MOST_SUBSCRIPTIONS, OwnMessage, Pending, SUBSCRIPTIONS_AT_A_TIME, Sweep,
};
use crate::store::cursor;
use crate::store::limits::limited;
use crate::store::{ChannelKey, Dropped, PendingLimits, Seq, StoreError, StoredSubscription};

/// Sorts after every client id: text never contains this byte.
const BEHIND_ALL: &[u8] = b"\xff";

static POSITIONS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["SIGNED", "BINARY"],
        "SELECT c.id, c.name, c.last_seq, s.acked_seq, s.acked_beyond, s.options FROM ({rows}) AS v \
         STRAIGHT_JOIN subscriptions AS s ON s.channel_id = v.a AND s.client_id = v.b \
         STRAIGHT_JOIN channels AS c ON c.id = s.channel_id",
    )
});
/// The hint keeps small tables from being read, and locked, as a whole.
static DELETE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "(channel_id = ? AND seq BETWEEN ? AND ?)",
        " OR ",
        "DELETE m FROM messages AS m FORCE INDEX (PRIMARY) WHERE {rows}",
    )
});

impl Sweep for MySqlStore {
    async fn clients_behind(
        &self,
        limits: PendingLimits,
        after: Option<&ClientId>,
    ) -> Result<(Vec<ClientId>, Option<ClientId>), StoreError> {
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async { clients_behind(lease.connection()?, limits, after).await }).await;
            lease.done(found)
        });
        found.await
    }

    async fn pending_of(&self, client: &ClientId) -> Result<Vec<Pending>, StoreError> {
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async { pending_of(lease.connection()?, client).await }).await;
            lease.done(found)
        });
        found.await
    }

    async fn positions(
        &self,
        client: &ClientId,
        keys: &[ChannelKey],
    ) -> Result<Vec<StoredSubscription>, StoreError> {
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let positions = POSITIONS.fetch(lease.connection()?, keys, |values, key| {
                    rows::add_key(values, key)?;
                    rows::add_name(values, client.as_str())
                });
                positions.await
            });
            let found = found.await;
            lease.done(found)
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
        let found: Result<Vec<StoredSubscription>, StoreError> =
            found.await?.iter().map(subscription).collect();
        let mut found = found?;
        found.sort_by_key(|it| it.key);
        found.dedup_by_key(|it| it.key); // rows were repeated to fill the statement
        Ok(found)
    }

    async fn first_within(&self, key: ChannelKey, after: Seq, bytes: u64) -> Result<Option<Seq>, StoreError> {
        let sql = "SELECT seq FROM messages WHERE channel_id = ? AND seq > ? AND bytes_before >= \
            (SELECT total_bytes FROM channels WHERE id = ?) - ? ORDER BY seq LIMIT 1";
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let query = sqlx::query(sql).bind(key.0).bind(after.0.cast_signed()).bind(key.0);
                let query = query.bind(i64::try_from(bytes).unwrap_or(i64::MAX));
                Ok(query.fetch_optional(lease.connection()?).await?)
            });
            let found = found.await;
            lease.done(found)
        });
        found.await?.map(|row| rows::seq(&row, 0)).transpose()
    }

    async fn raise(&self, client: &ClientId, cuts: &[Cut]) -> Result<Vec<Dropped>, StoreError> {
        if cuts.is_empty() {
            return Ok(Vec::new());
        }
        let dropped = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let dropped = limited(async { raise(lease.begin().await?, client, cuts).await }).await;
            lease.finish(dropped).await
        });
        let dropped = dropped.await?;
        self.to_trim.extend(dropped.iter().map(|dropped| dropped.key));
        Ok(dropped)
    }

    async fn newest(&self, key: ChannelKey, after: Seq, before: Seq) -> Result<Vec<OwnMessage>, StoreError> {
        let sql = "SELECT seq, sender, CAST(LENGTH(data) + COALESCE(LENGTH(attributes), 0) AS SIGNED) FROM messages \
            WHERE channel_id = ? AND seq > ? AND seq < ? ORDER BY seq DESC LIMIT ?";
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let query = sqlx::query(sql).bind(key.0).bind(after.0.cast_signed());
                let query = query.bind(before.0.cast_signed()).bind(LOOKED_AT);
                Ok(query.fetch_all(lease.connection()?).await?)
            });
            let found = found.await;
            lease.done(found)
        });
        let message = |row| {
            let (seq, sender) = (rows::seq(row, 0)?, rows::sender(row, 1)?);
            Ok(OwnMessage { seq, sender, bytes: rows::count(row, 2)? })
        };
        found.await?.iter().map(message).collect()
    }

    async fn delete(&self, key: ChannelKey, ranges: &[RangeInclusive<u64>]) -> Result<u64, StoreError> {
        let deleted = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let deleted = limited(async {
                let delete = DELETE.execute(lease.begin().await?, ranges, |values, range| {
                    rows::add_key(values, &key)?;
                    rows::add_seq(values, Seq(*range.start()))?;
                    rows::add_seq(values, Seq(*range.end()))
                });
                delete.await
            });
            let deleted = deleted.await;
            lease.finish(deleted).await
        });
        deleted.await
    }
}

async fn clients_behind(
    connection: &mut MySqlConnection,
    limits: PendingLimits,
    after: Option<&ClientId>,
) -> Result<(Vec<ClientId>, Option<ClientId>), StoreError> {
    let after = after.map_or("", ClientId::as_str).as_bytes();
    let sql = "SELECT client_id FROM subscriptions FORCE INDEX (subscriptions_by_client) \
        WHERE client_id > ? ORDER BY client_id LIMIT 1 OFFSET ?";
    let query = sqlx::query(sql).bind(after).bind(SUBSCRIPTIONS_AT_A_TIME);
    let next = query.fetch_optional(&mut *connection).await?;
    let next = next.map(|row| rows::client(&row, 0)).transpose()?;
    let mut last = None;
    if let Some(next) = next {
        let sql = "SELECT client_id FROM subscriptions FORCE INDEX (subscriptions_by_client) \
            WHERE client_id > ? AND client_id < ? ORDER BY client_id DESC LIMIT 1";
        let query = sqlx::query(sql).bind(after).bind(next.as_str().as_bytes());
        match query.fetch_optional(&mut *connection).await? {
            Some(row) => last = Some(rows::client(&row, 0)?),
            None => return Ok((vec![next.clone()], Some(next))),
        }
    }
    let sql = "SELECT s.client_id FROM subscriptions AS s FORCE INDEX (subscriptions_by_client) \
        STRAIGHT_JOIN channels AS c ON c.id = s.channel_id \
        WHERE s.client_id > ? AND s.client_id <= ? AND c.last_seq > s.acked_seq GROUP BY s.client_id \
        HAVING CAST(SUM(c.last_seq - s.acked_seq) AS SIGNED) > ? \
        OR CAST(SUM(IF(c.name = CONCAT('#', s.client_id), c.last_seq - s.acked_seq, 0)) AS SIGNED) > ? \
        OR CAST(SUM(c.total_bytes - COALESCE((SELECT m.bytes_before FROM messages AS m \
            WHERE m.channel_id = c.id AND m.seq = s.acked_seq + 1), c.total_bytes)) AS SIGNED) > ? \
        ORDER BY s.client_id";
    let up_to = last.as_ref().map_or(BEHIND_ALL, |client| client.as_str().as_bytes());
    let query = sqlx::query(sql).bind(after).bind(up_to);
    let query = backlog::bounds(limits).into_iter().fold(query, sqlx::query::Query::bind);
    let behind = query.fetch_all(connection).await?;
    Ok((behind.iter().map(|row| rows::client(row, 0)).collect::<Result<_, _>>()?, last))
}

async fn pending_of(connection: &mut MySqlConnection, client: &ClientId) -> Result<Vec<Pending>, StoreError> {
    let sql = "SELECT s.channel_id, c.last_seq, CAST(c.name = CONCAT('#', s.client_id) AS SIGNED), \
        CAST(c.total_bytes - COALESCE((SELECT m.bytes_before FROM messages AS m \
            WHERE m.channel_id = c.id AND m.seq = s.acked_seq + 1), c.total_bytes) AS SIGNED), \
        s.acked_seq, s.acked_beyond \
        FROM subscriptions AS s FORCE INDEX (subscriptions_by_client) \
        STRAIGHT_JOIN channels AS c ON c.id = s.channel_id \
        WHERE s.client_id = ? AND c.last_seq > s.acked_seq LIMIT ?";
    let query = sqlx::query(sql).bind(client.as_str().as_bytes()).bind(MOST_SUBSCRIPTIONS);
    let mut found = query.fetch(connection);
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
async fn raise(
    connection: &mut MySqlConnection,
    client: &ClientId,
    cuts: &[Cut],
) -> Result<Vec<Dropped>, StoreError> {
    let mut pairs: Vec<_> = cuts.iter().map(|cut| (cut.key(), client)).collect();
    pairs.sort_unstable();
    let found = cursors::lock(connection, &pairs).await?;
    let cursors = found.into_iter().map(|(key, _, cursor, _)| (key, cursor)).collect();
    let (dropped, raised) = backlog::pass_over(cuts, client, cursors);
    cursors::update(connection, &raised).await?;
    Ok(dropped)
}
