//! Reads subscriptions and logs.

use std::collections::HashSet;
use std::sync::LazyLock;
use std::time::SystemTime;

use jmqt_core::{ChannelName, ClientId};
use sqlx::mysql::{MySqlArguments, MySqlConnection};

use super::connection::retried;
use super::rows::{self, MultiRow};
use super::{MySqlStore, clients};
use crate::store::RETAINED_PAGE;
use crate::store::limits::limited;
use crate::store::time::millis;
use crate::store::{
    COUNT_ALL, ChannelKey, LogPart, LoggedMessage, Retained, Seq, StoreError, StoredSubscription,
    StoredTotals,
};

/// The number of messages whose sizes are read at a time.
const MEASURED: usize = 1024;

static RETAINED_AMONG: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::list(
        "SELECT c.name FROM channels AS c JOIN retained AS r ON r.channel_id = c.id WHERE c.name IN ({rows})",
    )
});

/// Consecutive messages: their number, the last of them, and the last message of the log.
#[derive(Default)]
struct Range {
    messages: usize,
    last: u64,
    end: Seq,
}

impl MySqlStore {
    /// See [`Store::subscriptions`](crate::store::Store::subscriptions). One statement, so it sees
    /// each commit whole or not at all.
    pub(super) async fn read_subscriptions(
        &self,
        client: &ClientId,
    ) -> Result<Vec<StoredSubscription>, StoreError> {
        let sql = "SELECT c.id, c.name, c.last_seq, s.acked_seq, s.acked_beyond, s.options \
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
        found.await?.iter().map(|row| clients::subscription(row, 0)).collect()
    }

    /// See [`Store::retained_under`](crate::store::Store::retained_under).
    pub(super) async fn read_retained_names(
        &self,
        prefix: &str,
        after: Option<&ChannelName>,
    ) -> Result<Vec<ChannelName>, StoreError> {
        let sql = "SELECT c.name FROM channels AS c JOIN retained AS r ON r.channel_id = c.id \
            WHERE c.name >= ? AND c.name > ? ORDER BY c.name LIMIT ?";
        let after = after.map_or("", ChannelName::as_str);
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let query = sqlx::query(sql).bind(prefix.as_bytes()).bind(after.as_bytes());
                Ok(query.bind(RETAINED_PAGE as i64).fetch_all(lease.connection()?).await?)
            });
            let found = found.await;
            lease.done(found)
        });
        let found = found.await?;
        let names: Vec<_> = found.iter().map(|row| rows::channel(row, 0)).collect::<Result<_, _>>()?;
        Ok(names.into_iter().take_while(|name| name.as_str().starts_with(prefix)).collect())
    }

    /// See [`Store::read_retained`](crate::store::Store::read_retained).
    pub(super) async fn read_retained_message(
        &self,
        channel: &ChannelName,
    ) -> Result<Option<Retained>, StoreError> {
        let sql = "SELECT r.sender, r.data, r.attributes FROM channels AS c \
            JOIN retained AS r ON r.channel_id = c.id WHERE c.name = ?";
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let query = sqlx::query(sql).bind(channel.as_str().as_bytes());
                Ok(query.fetch_optional(lease.connection()?).await?)
            });
            let found = found.await;
            lease.done(found)
        });
        let retained = |row| {
            Ok(Retained {
                sender: rows::sender(&row, 0)?,
                data: rows::data(&row, 1)?,
                attributes: rows::attributes(&row, 2)?,
            })
        };
        found.await?.map(retained).transpose()
    }

    /// See [`Store::retained_among`](crate::store::Store::retained_among).
    pub(super) async fn read_retained_among(
        &self,
        channels: &[ChannelName],
    ) -> Result<Vec<ChannelName>, StoreError> {
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let name = |values: &mut MySqlArguments, channel: &ChannelName| {
                    rows::add_name(values, channel.as_str())
                };
                RETAINED_AMONG.fetch(lease.connection()?, channels, name).await
            });
            let found = found.await;
            lease.done(found)
        });
        let found: Result<HashSet<_>, _> = found.await?.iter().map(|row| rows::channel(row, 0)).collect();
        let found = found?;
        Ok(channels.iter().filter(|channel| found.contains(*channel)).cloned().collect())
    }

    /// See [`Store::expired_retained`](crate::store::Store::expired_retained).
    pub(super) async fn read_expired_retained(
        &self,
        now: SystemTime,
    ) -> Result<Vec<ChannelName>, StoreError> {
        let sql = "SELECT c.name FROM retained AS r JOIN channels AS c ON c.id = r.channel_id \
            WHERE r.expires_at <= ? ORDER BY r.expires_at LIMIT ?";
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let query = sqlx::query(sql).bind(millis(now)).bind(RETAINED_PAGE as i64);
                Ok(query.fetch_all(lease.connection()?).await?)
            });
            let found = found.await;
            lease.done(found)
        });
        found.await?.iter().map(|row| rows::channel(row, 0)).collect()
    }

    /// See [`Store::totals`](crate::store::Store::totals).
    pub(super) async fn read_totals(&self) -> Result<StoredTotals, StoreError> {
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found =
                limited(async { Ok(sqlx::query(COUNT_ALL).fetch_one(lease.connection()?).await?) }).await;
            lease.done(found)
        });
        let row = found.await?;
        let count = |at| rows::count(&row, at);
        Ok(StoredTotals { retained: count(0)?, messages: count(1)?, absent_clients: count(2)? })
    }

    /// See [`Store::read_log`](crate::store::Store::read_log).
    pub(super) async fn read_messages(
        &self,
        key: ChannelKey,
        after: Seq,
        messages: usize,
        bytes: usize,
    ) -> Result<LogPart, StoreError> {
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let read = limited(async { read(lease.connection()?, key, after, messages, bytes).await }).await;
            lease.done(read)
        })
        .await
    }
}

/// Reads the sizes first, then the messages: unused rows of a query must be received too, and
/// payloads can be large. If messages were trimmed in between, it starts again.
async fn read(
    connection: &mut MySqlConnection,
    key: ChannelKey,
    after: Seq,
    messages: usize,
    bytes: usize,
) -> Result<LogPart, StoreError> {
    let sql = "SELECT seq, stamp, sender, data, attributes FROM messages \
        WHERE channel_id = ? AND seq > ? AND seq <= ?";
    let after = i64::try_from(after.0).unwrap_or(i64::MAX);
    loop {
        let range = measure(connection, key, after, messages, bytes).await?;
        // The end of the log when the messages were counted: later messages are not read here.
        let mut log = LogPart { messages: Vec::new(), last: range.end };
        if range.messages == 0 {
            return Ok(log);
        }
        let query = sqlx::query(sql).bind(key.0).bind(after).bind(range.last.cast_signed());
        for row in query.fetch_all(&mut *connection).await? {
            let (seq, stamp, sender) = (rows::seq(&row, 0)?, rows::stamp(&row, 1)?, rows::sender(&row, 2)?);
            log.messages.push(LoggedMessage {
                seq,
                stamp,
                sender,
                data: rows::data(&row, 3)?,
                attributes: rows::attributes(&row, 4)?,
            });
        }
        if log.messages.len() == range.messages {
            log.messages.sort_unstable_by_key(|message| message.seq); // as they are, mostly
            return Ok(log);
        }
    }
}

/// The range of messages to read.
async fn measure(
    connection: &mut MySqlConnection,
    key: ChannelKey,
    after: i64,
    messages: usize,
    bytes: usize,
) -> Result<Range, StoreError> {
    // Includes the end of the log as number 0, because a proxy could send two statements to different servers.
    let sql = "(SELECT 0, last_seq FROM channels WHERE id = ?) UNION ALL \
        (SELECT seq, CAST(LENGTH(data) + COALESCE(LENGTH(attributes), 0) AS SIGNED) FROM messages \
        WHERE channel_id = ? AND seq > ? ORDER BY seq LIMIT ?)";
    let (mut range, mut gathered, mut after) = (Range::default(), 0, after);
    loop {
        let some = MEASURED.min(messages - range.messages);
        let query = sqlx::query(sql).bind(key.0).bind(key.0).bind(after).bind(some as i64);
        let mut found = Vec::new();
        for row in query.fetch_all(&mut *connection).await? {
            let (seq, number) = (rows::seq(&row, 0)?, rows::count(&row, 1)?);
            match seq {
                Seq(0) => range.end = Seq(number),
                Seq(seq) => found.push((seq, number)),
            }
        }
        found.sort_unstable(); // as they are, mostly
        for &(seq, length) in &found {
            if gathered >= bytes && range.messages > 0 {
                return Ok(range);
            }
            range.last = seq;
            range.messages += 1;
            gathered += usize::try_from(length).unwrap_or(usize::MAX);
        }
        if found.len() < some || range.messages == messages {
            return Ok(range);
        }
        after = range.last.cast_signed();
    }
}
