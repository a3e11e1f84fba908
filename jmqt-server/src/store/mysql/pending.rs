//! Clients for whom too many messages wait.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Instant;

use jmqt_protocol::ClientId;
use sqlx::Row as _;
use sqlx::mysql::MySqlConnection;

use super::MySqlStore;
use super::connection::retried;
use super::cursors;
use super::rows;
use crate::store::cursor::{self, CursorRow};
use crate::store::limits::{TIME_LIMIT, limited};
use crate::store::{ChannelKey, Dropped, Seq, StoreError, StoredSubscription};

/// How many messages of a log are looked at in one statement.
const LOOKED_AT: i64 = 256;

/// One of a client's logs, read from its cursor on.
struct Log<'s> {
    subscription: &'s StoredSubscription,
    /// Messages up to here are given up.
    up_to: Seq,
    /// What comes next, with the time it was logged.
    next: VecDeque<(Seq, i64)>,
}

impl MySqlStore {
    /// See [`Store::limit_pending`](crate::store::Store::limit_pending). Clients are dealt with one
    /// after another: an error after some ends it early and is not reported, so that what was dropped
    /// is; the next call meets it again.
    pub(super) async fn drop_pending(&self, limit: u64) -> Result<Vec<Dropped>, StoreError> {
        self.check_open()?;
        let until = Instant::now() + TIME_LIMIT;
        let mut dropped = Vec::new();
        for client in retried(|| self.clients_behind(limit)).await? {
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
            GROUP BY s.client_id HAVING CAST(SUM(c.last_seq - s.acked_seq) AS SIGNED) > ?";
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let mut lease = self.connections.lease().await?;
        let found =
            limited(async { Ok(sqlx::query(sql).bind(limit).fetch_all(lease.connection()?).await?) }).await;
        lease.done(found)?.iter().map(|row| rows::client(row, 0)).collect()
    }

    async fn drop_pending_of(&self, client: &ClientId, limit: u64) -> Result<Vec<Dropped>, StoreError> {
        let subscriptions = self.read_subscriptions(client).await?;
        let pending: u64 = subscriptions.iter().map(pending).sum();
        let Some(excess) = pending.checked_sub(limit).filter(|&excess| excess > 0) else {
            return Ok(Vec::new());
        };
        let oldest = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let oldest = limited(async { oldest(lease.connection()?, &subscriptions, excess).await }).await;
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

fn pending(subscription: &StoredSubscription) -> u64 {
    let cursor = &subscription.cursor;
    let behind = subscription.last.0.saturating_sub(cursor.acked.0);
    behind.saturating_sub(cursor::acked_beyond(cursor))
}

/// The logs that hold the `excess` oldest messages, and up to where. Logs are merged by the time of
/// their next message, so that only as many are read as have to go.
async fn oldest<'s>(
    connection: &mut MySqlConnection,
    subscriptions: &'s [StoredSubscription],
    mut excess: u64,
) -> Result<Vec<Log<'s>>, StoreError> {
    let mut logs = Vec::new();
    let mut turns = BinaryHeap::new();
    for subscription in subscriptions {
        let mut log = Log { subscription, up_to: subscription.cursor.acked, next: VecDeque::new() };
        if let Some(logged_at) = next_logged_at(connection, &mut log).await? {
            turns.push(Reverse((logged_at, logs.len())));
            logs.push(log);
        }
    }
    while let Some(Reverse((_, index))) = turns.pop().filter(|_| excess > 0) {
        let log = &mut logs[index];
        let Some((seq, _)) = log.next.pop_front() else {
            continue;
        };
        log.up_to = seq;
        excess -= u64::from(!cursor::is_acked(&log.subscription.cursor, seq));
        if let Some(logged_at) = next_logged_at(connection, log).await? {
            turns.push(Reverse((logged_at, index)));
        }
    }
    logs.retain(|log| log.up_to > log.subscription.cursor.acked);
    Ok(logs)
}

/// When the log's next message was logged; `None` at its end.
async fn next_logged_at(
    connection: &mut MySqlConnection,
    log: &mut Log<'_>,
) -> Result<Option<i64>, StoreError> {
    if log.next.is_empty() && log.up_to < log.subscription.last {
        let sql = "SELECT seq, created_at FROM messages \
            WHERE channel_id = ? AND seq > ? ORDER BY seq LIMIT ?";
        let found = sqlx::query(sql)
            .bind(log.subscription.key.0)
            .bind(log.up_to.0.cast_signed())
            .bind(LOOKED_AT)
            .fetch_all(connection)
            .await?;
        for row in &found {
            log.next.push_back((rows::seq(row, 0)?, row.try_get(1)?));
        }
    }
    Ok(log.next.front().map(|&(_, logged_at)| logged_at))
}

/// Moves the cursors on, from where they are by now.
async fn raise(
    connection: &mut MySqlConnection,
    client: &ClientId,
    logs: &[Log<'_>],
) -> Result<Vec<Dropped>, StoreError> {
    let mut pairs: Vec<_> = logs.iter().map(|log| (log.subscription.key, client)).collect();
    pairs.sort_unstable();
    let found = cursors::lock(connection, &pairs).await?;
    let mut dropped = Vec::new();
    let mut raised = Vec::new();
    for (key, _, mut cursor) in found {
        let Some(log) = logs.iter().find(|log| log.subscription.key == key) else {
            continue;
        };
        let Some(by) = log.up_to.0.checked_sub(cursor.acked.0).filter(|&by| by > 0) else {
            continue;
        };
        let messages = by - cursor::acked_within(&cursor, by);
        cursor::advance(&mut cursor, by);
        let (client, channel) = (client.clone(), log.subscription.channel.clone());
        dropped.push(Dropped { client, channel, key, up_to: cursor.acked, messages });
        raised.push((key, cursor));
    }
    let raised: Vec<(ChannelKey, &str, CursorRow)> =
        raised.into_iter().map(|(key, cursor)| (key, client.as_str(), cursor.into())).collect();
    cursors::update(connection, &raised).await?;
    Ok(dropped)
}
