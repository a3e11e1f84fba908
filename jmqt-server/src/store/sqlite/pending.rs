//! Clients for whom too many messages wait.

use jmqt_protocol::ClientId;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::SqliteStore;
use super::cursors;
use super::rows;
use super::writer::Writer;
use crate::store::backlog::{self, Backlog, CLIENTS_AT_A_TIME, LogTimes, Sweep};
use crate::store::limits::limited;
use crate::store::{ChannelKey, Dropped, Seq, StoreError};

/// Sorts behind every client's id: what is no text comes last.
const BEHIND_ALL: &[u8] = b"\xff";

/// How many messages of a log are looked at in one statement.
const LOOKED_AT: i64 = 256;

impl Sweep for SqliteStore {
    async fn clients_behind(
        &self,
        limit: u64,
        after: Option<&ClientId>,
    ) -> Result<(Vec<ClientId>, Option<ClientId>), StoreError> {
        let behind = limited(async {
            let mut reader = self.reader().await?;
            clients_behind(&mut reader, limit, after).await
        });
        behind.await
    }

    async fn drop_pending_of(&self, client: &ClientId, limit: u64) -> Result<Vec<Dropped>, StoreError> {
        let subscriptions = self.read_subscriptions(client).await?;
        let Some(excess) = backlog::excess(&subscriptions, limit) else {
            return Ok(Vec::new());
        };
        let oldest = limited(async {
            let mut reader = self.reader().await?;
            backlog::oldest(&mut *reader, &subscriptions, excess).await
        });
        let oldest = oldest.await?;
        let mut writer = self.writer().await?;
        let dropped = limited(raise(&mut writer, client, &oldest)).await;
        let dropped = writer.finish(dropped).await?;
        writer.to_trim.extend(dropped.iter().map(|dropped| dropped.key));
        Ok(dropped)
    }
}

async fn clients_behind(
    connection: &mut SqliteConnection,
    limit: u64,
    after: Option<&ClientId>,
) -> Result<(Vec<ClientId>, Option<ClientId>), StoreError> {
    let after = after.map_or("", ClientId::as_str);
    let sql = "SELECT client_id FROM clients WHERE client_id > ? ORDER BY client_id LIMIT 1 OFFSET ?";
    let query = sqlx::query(sql).bind(after).bind(CLIENTS_AT_A_TIME - 1);
    let last = query.fetch_optional(&mut *connection).await?;
    let last = last.map(|row| rows::client(&row, 0)).transpose()?;
    // Without the hint the rows might be read in the order of their channels, all of them.
    let sql = "SELECT s.client_id FROM subscriptions AS s INDEXED BY subscriptions_by_client \
        CROSS JOIN channels AS c ON c.id = s.channel_id WHERE s.client_id > ? AND s.client_id <= ? \
        GROUP BY s.client_id HAVING SUM(c.last_seq - s.acked_seq) > ? ORDER BY s.client_id";
    let query = sqlx::query(sql).bind(after);
    let query = match &last {
        Some(client) => query.bind(client.as_str()),
        None => query.bind(BEHIND_ALL),
    };
    let query = query.bind(i64::try_from(limit).unwrap_or(i64::MAX));
    let behind = query.fetch_all(connection).await?;
    Ok((behind.iter().map(|row| rows::client(row, 0)).collect::<Result<_, _>>()?, last))
}

impl LogTimes for SqliteConnection {
    async fn times(&mut self, key: ChannelKey, after: Seq) -> Result<Vec<(Seq, i64)>, StoreError> {
        let sql = "SELECT seq, created_at FROM messages \
            WHERE channel_id = ? AND seq > ? ORDER BY seq LIMIT ?";
        let query = sqlx::query(sql).bind(key.0).bind(after.0.cast_signed()).bind(LOOKED_AT);
        let found = query.fetch_all(self).await?;
        found.iter().map(|row| Ok((rows::seq(row, 0)?, row.try_get(1)?))).collect()
    }
}

/// Moves the cursors on, from where they are by now.
async fn raise(
    writer: &mut Writer,
    client: &ClientId,
    backlogs: &[Backlog<'_>],
) -> Result<Vec<Dropped>, StoreError> {
    let pairs: Vec<_> = backlogs.iter().map(|backlog| (backlog.key(), client)).collect();
    let found = cursors::fetch(writer.connection()?, &pairs).await?;
    let cursors = found.into_iter().map(|(key, _, cursor)| (key, cursor)).collect();
    let (dropped, raised) = backlog::pass_over(backlogs, client, cursors);
    if !raised.is_empty() {
        writer.begin().await?;
        cursors::update(writer.connection()?, &raised).await?;
    }
    Ok(dropped)
}
