//! What clients have to read: subscriptions and logs.

use jmqt_protocol::{ChannelName, ClientId};
use sqlx::mysql::MySqlConnection;

use super::connection::retried;
use super::rows;
use super::{MySqlStore, cursors};
use crate::store::limits::limited;
use crate::store::{ChannelKey, LoggedMessage, Retained, Seq, StoreError, StoredSubscription};

/// How many messages are measured at a time.
const MEASURED: usize = 1024;

/// Messages that follow each other: how many there are, and the last one.
#[derive(Default)]
struct Range {
    messages: usize,
    last: u64,
}

impl MySqlStore {
    /// See [`Store::subscriptions`](crate::store::Store::subscriptions). One statement, so it sees
    /// each commit whole or not at all.
    pub(super) async fn read_subscriptions(
        &self,
        client: &ClientId,
    ) -> Result<Vec<StoredSubscription>, StoreError> {
        let sql = "SELECT c.id, c.name, c.last_seq, s.acked_seq, s.acked_beyond \
            FROM subscriptions AS s JOIN channels AS c ON c.id = s.channel_id \
            WHERE s.client_id = ? ORDER BY s.channel_id";
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let query = sqlx::query(sql).bind(client.as_str().as_bytes());
                Ok(query.fetch_all(lease.connection()?).await?)
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
            })
        };
        found.await?.iter().map(subscription).collect()
    }

    /// See [`Store::read_retained`](crate::store::Store::read_retained).
    pub(super) async fn read_retained_message(
        &self,
        channel: &ChannelName,
    ) -> Result<Option<Retained>, StoreError> {
        let sql = "SELECT r.sender, r.data FROM channels AS c JOIN retained AS r ON r.channel_id = c.id \
            WHERE c.name = ?";
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let query = sqlx::query(sql).bind(channel.as_str().as_bytes());
                Ok(query.fetch_optional(lease.connection()?).await?)
            });
            let found = found.await;
            lease.done(found)
        });
        let retained = |row| Ok(Retained { sender: rows::sender(&row, 0)?, data: rows::data(&row, 1)? });
        found.await?.map(retained).transpose()
    }

    /// See [`Store::read_log`](crate::store::Store::read_log).
    pub(super) async fn read_messages(
        &self,
        key: ChannelKey,
        after: Seq,
        messages: usize,
        bytes: usize,
    ) -> Result<Vec<LoggedMessage>, StoreError> {
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let read = limited(async { read(lease.connection()?, key, after, messages, bytes).await }).await;
            lease.done(read)
        })
        .await
    }
}

/// Measures, then reads: what was asked for and not taken would have to be received all the same, and
/// payloads can be large. If some were trimmed in between, it begins anew.
async fn read(
    connection: &mut MySqlConnection,
    key: ChannelKey,
    after: Seq,
    messages: usize,
    bytes: usize,
) -> Result<Vec<LoggedMessage>, StoreError> {
    let sql = "SELECT seq, stamp, sender, data FROM messages \
        WHERE channel_id = ? AND seq > ? AND seq <= ? ORDER BY seq";
    let after = i64::try_from(after.0).unwrap_or(i64::MAX);
    loop {
        let range = measure(connection, key, after, messages, bytes).await?;
        if range.messages == 0 {
            return Ok(Vec::new());
        }
        let last = range.last.cast_signed();
        let query = sqlx::query(sql).bind(key.0).bind(after).bind(last);
        let found = query.fetch_all(&mut *connection).await?;
        if found.len() == range.messages {
            let message = |row| {
                let (seq, stamp) = (rows::seq(row, 0)?, rows::stamp(row, 1)?);
                Ok(LoggedMessage { seq, stamp, sender: rows::sender(row, 2)?, data: rows::data(row, 3)? })
            };
            return found.iter().map(message).collect();
        }
    }
}

/// The messages that are to be read.
async fn measure(
    connection: &mut MySqlConnection,
    key: ChannelKey,
    after: i64,
    messages: usize,
    bytes: usize,
) -> Result<Range, StoreError> {
    let sql = "SELECT seq, CAST(LENGTH(data) AS SIGNED) FROM messages \
        WHERE channel_id = ? AND seq > ? ORDER BY seq LIMIT ?";
    let (mut range, mut gathered, mut after) = (Range::default(), 0, after);
    loop {
        let some = MEASURED.min(messages - range.messages);
        let query = sqlx::query(sql).bind(key.0).bind(after).bind(some as i64);
        let found = query.fetch_all(&mut *connection).await?;
        for row in &found {
            if gathered >= bytes && range.messages > 0 {
                return Ok(range);
            }
            range.last = rows::count(row, 0)?;
            range.messages += 1;
            gathered += usize::try_from(rows::count(row, 1)?).unwrap_or(usize::MAX);
        }
        if found.len() < some || range.messages == messages {
            return Ok(range);
        }
        after = range.last.cast_signed();
    }
}
