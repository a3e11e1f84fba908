//! Clients for whom too many messages wait.

use jmqt_protocol::ClientId;
use sqlx::Row as _;
use sqlx::mysql::MySqlConnection;

use super::MySqlStore;
use super::connection::retried;
use super::cursors;
use super::rows;
use crate::store::backlog::{self, Backlog, CLIENTS_AT_A_TIME, LogTimes, Sweep};
use crate::store::limits::limited;
use crate::store::{ChannelKey, Dropped, Seq, StoreError};

/// Sorts behind every client's id: a text has no such byte.
const BEHIND_ALL: &[u8] = b"\xff";

/// How many messages of a log are looked at in one statement.
const LOOKED_AT: i64 = 256;

impl Sweep for MySqlStore {
    async fn clients_behind(
        &self,
        limit: u64,
        after: Option<&ClientId>,
    ) -> Result<(Vec<ClientId>, Option<ClientId>), StoreError> {
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async { clients_behind(lease.connection()?, limit, after).await }).await;
            lease.done(found)
        });
        found.await
    }

    async fn drop_pending_of(&self, client: &ClientId, limit: u64) -> Result<Vec<Dropped>, StoreError> {
        let subscriptions = self.read_subscriptions(client).await?;
        let Some(excess) = backlog::excess(&subscriptions, limit) else {
            return Ok(Vec::new());
        };
        let oldest = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let oldest =
                limited(async { backlog::oldest(lease.connection()?, &subscriptions, excess).await }).await;
            lease.done(oldest)
        });
        let oldest = oldest.await?;
        let dropped = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let dropped = limited(async { raise(lease.begin().await?, client, &oldest).await }).await;
            lease.finish(dropped).await
        });
        let dropped = dropped.await?;
        self.to_trim.extend(dropped.iter().map(|dropped| dropped.key));
        Ok(dropped)
    }
}

async fn clients_behind(
    connection: &mut MySqlConnection,
    limit: u64,
    after: Option<&ClientId>,
) -> Result<(Vec<ClientId>, Option<ClientId>), StoreError> {
    let after = after.map_or("", ClientId::as_str).as_bytes();
    let sql = "SELECT client_id FROM clients WHERE client_id > ? ORDER BY client_id LIMIT 1 OFFSET ?";
    let query = sqlx::query(sql).bind(after).bind(CLIENTS_AT_A_TIME - 1);
    let last = query.fetch_optional(&mut *connection).await?;
    let last = last.map(|row| rows::client(&row, 0)).transpose()?;
    let sql = "SELECT s.client_id FROM subscriptions AS s FORCE INDEX (subscriptions_by_client) \
        STRAIGHT_JOIN channels AS c ON c.id = s.channel_id WHERE s.client_id > ? AND s.client_id <= ? \
        GROUP BY s.client_id HAVING CAST(SUM(c.last_seq - s.acked_seq) AS SIGNED) > ? ORDER BY s.client_id";
    let up_to = last.as_ref().map_or(BEHIND_ALL, |client| client.as_str().as_bytes());
    let query = sqlx::query(sql).bind(after).bind(up_to).bind(i64::try_from(limit).unwrap_or(i64::MAX));
    let behind = query.fetch_all(connection).await?;
    Ok((behind.iter().map(|row| rows::client(row, 0)).collect::<Result<_, _>>()?, last))
}

impl LogTimes for MySqlConnection {
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
    connection: &mut MySqlConnection,
    client: &ClientId,
    backlogs: &[Backlog<'_>],
) -> Result<Vec<Dropped>, StoreError> {
    let mut pairs: Vec<_> = backlogs.iter().map(|backlog| (backlog.key(), client)).collect();
    pairs.sort_unstable();
    let found = cursors::lock(connection, &pairs).await?;
    let cursors = found.into_iter().map(|(key, _, cursor)| (key, cursor)).collect();
    let (dropped, raised) = backlog::pass_over(backlogs, client, cursors);
    cursors::update(connection, &raised).await?;
    Ok(dropped)
}
