//! Clients for whom too many messages wait.

use std::time::Instant;

use jmqt_protocol::ClientId;
use sqlx::Row as _;
use sqlx::sqlite::SqliteConnection;

use super::SqliteStore;
use super::cursors;
use super::rows;
use super::writer::Writer;
use crate::store::backlog::{self, Backlog, LogTimes};
use crate::store::limits::{TIME_LIMIT, limited};
use crate::store::{ChannelKey, Dropped, Seq, StoreError};

/// How many messages of a log are looked at in one statement.
const LOOKED_AT: i64 = 256;

impl SqliteStore {
    /// See [`Store::limit_pending`](crate::store::Store::limit_pending). Clients are dealt with one
    /// after another: an error after some ends it early and is not reported, so that what was dropped
    /// is; the next call meets it again.
    pub(super) async fn drop_pending(&self, limit: u64) -> Result<Vec<Dropped>, StoreError> {
        let until = Instant::now() + TIME_LIMIT;
        let mut dropped = Vec::new();
        for client in limited(self.clients_behind(limit)).await? {
            if Instant::now() > until {
                break;
            }
            match self.drop_pending_of(&client, limit).await {
                Err(error) if dropped.is_empty() => return Err(error),
                Err(_) => break,
                Ok(of_client) => dropped.extend(of_client),
            }
        }
        Ok(dropped)
    }

    /// Clients that may have more than `limit` messages to acknowledge.
    async fn clients_behind(&self, limit: u64) -> Result<Vec<ClientId>, StoreError> {
        let sql = "SELECT s.client_id FROM subscriptions AS s JOIN channels AS c ON c.id = s.channel_id \
            GROUP BY s.client_id HAVING SUM(c.last_seq - s.acked_seq) > ?";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut reader = self.reader().await?;
        let found = sqlx::query(sql).bind(limit).fetch_all(&mut *reader).await?;
        found.iter().map(|row| rows::client(row, 0)).collect()
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
