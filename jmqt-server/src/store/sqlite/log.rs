//! Reads subscriptions and logs, and trims messages that all clients have acknowledged.

use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

use futures_util::TryStreamExt as _;
use jmqt_core::{ChannelName, ClientId};
use sqlx::sqlite::SqliteConnection;
use sqlx::{Arguments as _, Either, Executor as _, Row as _};

use super::commit::forget_channels;
use super::rows::{self, MultiRow};
use super::writer::Writer;
use super::{SqliteStore, clients};
use crate::store::RETAINED_PAGE;
use crate::store::limits::{TIME_LIMIT, limited};
use crate::store::time::millis;
use crate::store::{
    COUNT_ALL, ChannelKey, DatabaseError, LogPart, LoggedMessage, Retained, Seq, StoreError,
    StoredSubscription, StoredTotals, UnderPrefix,
};

/// The number of messages that the first statement of a turn deletes: few, because they may be large.
const FEWEST_AT_A_TIME: u64 = 32;

/// The most messages that one statement deletes.
const MOST_AT_A_TIME: u64 = 2048;

/// How long a deletion may take before others write.
const DELETING_TURN: Duration = Duration::from_millis(10);

/// The begin of a log, and its lowest cursor.
static LOGS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        1,
        "SELECT id, (SELECT MIN(seq) FROM messages AS m WHERE m.channel_id = c.id), \
         COALESCE((SELECT MIN(acked_seq) FROM subscriptions AS s WHERE s.channel_id = c.id), last_seq) \
         FROM channels AS c WHERE id IN ({rows})",
    )
});

/// Deletes ranges of logs, in the order of the rows: page after page, whatever the channel.
static DELETE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        3,
        "DELETE FROM messages WHERE rowid IN (SELECT m.rowid FROM (VALUES {rows}) AS v \
         CROSS JOIN messages AS m ON m.channel_id = v.column1 \
         AND m.seq BETWEEN v.column2 AND v.column3)",
    )
});

#[cfg(test)]
pub(super) fn statements() -> [&'static MultiRow; 2] {
    [&LOGS, &DELETE]
}

/// Deletable messages of one channel.
struct Behind {
    key: ChannelKey,
    first: u64,
    up_to: u64,
}

/// The longest data of a retained message that is read together with others.
const SHORT_BYTES: i64 = 4096;

impl SqliteStore {
    /// See [`Store::subscriptions`](crate::store::Store::subscriptions). One statement, so it sees
    /// each commit whole or not at all.
    pub(super) async fn read_subscriptions(
        &self,
        client: &ClientId,
    ) -> Result<Vec<StoredSubscription>, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        if !client.is_group() && !self.clients.may_contain(client.as_str()) {
            return Ok(Vec::new());
        }
        let sql = "SELECT c.id, c.name, c.last_seq, s.acked_seq, s.acked_beyond, s.options \
            FROM subscriptions AS s JOIN channels AS c ON c.id = s.channel_id \
            WHERE s.client_id = ? ORDER BY s.channel_id";
        let found = limited(async {
            let mut reader = self.reader().await?;
            Ok(rows::run(sqlx::query(sql).bind(client.as_str()), &mut reader).await?.0)
        });
        found.await?.iter().map(|row| clients::subscription(row, 0)).collect()
    }

    /// See [`Store::retained_under`](crate::store::Store::retained_under).
    pub(super) async fn read_retained_page(
        &self,
        prefix: &str,
        after: Option<&ChannelName>,
    ) -> Result<Vec<UnderPrefix>, StoreError> {
        let mut reader = self.reader().await?;
        let sql = "SELECT c.name, r.sender, CASE WHEN length(r.data) <= ? THEN r.data END, r.attributes \
            FROM channels AS c JOIN retained AS r ON r.channel_id = c.id \
            WHERE c.name >= ? AND c.name > ? ORDER BY c.name LIMIT ?";
        let query = sqlx::query(sql).bind(SHORT_BYTES).bind(prefix);
        let query = query.bind(after.map_or("", ChannelName::as_str)).bind(RETAINED_PAGE as i64);
        let (found, _) = rows::run(query, &mut reader).await?;
        let mut page = Vec::with_capacity(found.len());
        for row in &found {
            let name = rows::channel(row, 0)?;
            if !name.as_str().starts_with(prefix) {
                break;
            }
            let retained = match row.try_get::<Option<Vec<u8>>, _>(2)? {
                Some(data) => Some(Retained {
                    sender: rows::sender(row, 1)?,
                    data: data.into(),
                    attributes: rows::attributes(row, 3)?,
                }),
                None => None,
            };
            page.push((name, retained));
        }
        Ok(page)
    }

    /// See [`Store::read_retained`](crate::store::Store::read_retained).
    pub(super) async fn read_retained_message(
        &self,
        channel: &ChannelName,
    ) -> Result<Option<Retained>, StoreError> {
        let mut reader = self.reader().await?;
        let sql = "SELECT r.sender, r.data, r.attributes FROM channels AS c \
            JOIN retained AS r ON r.channel_id = c.id WHERE c.name = ?";
        let (found, _) = rows::run(sqlx::query(sql).bind(channel.as_str()), &mut reader).await?;
        let retained = |row| {
            Ok(Retained {
                sender: rows::sender(row, 0)?,
                data: rows::data(row, 1)?,
                attributes: rows::attributes(row, 2)?,
            })
        };
        found.first().map(retained).transpose()
    }

    /// See [`Store::expired_retained`](crate::store::Store::expired_retained).
    pub(super) async fn read_expired_retained(
        &self,
        now: SystemTime,
    ) -> Result<Vec<ChannelName>, StoreError> {
        let sql = "SELECT c.name FROM retained AS r JOIN channels AS c ON c.id = r.channel_id \
            WHERE r.expires_at <= ? ORDER BY r.expires_at LIMIT ?";
        let found = limited(async {
            let mut reader = self.reader().await?;
            let query = sqlx::query(sql).bind(millis(now)).bind(RETAINED_PAGE as i64);
            Ok(rows::run(query, &mut reader).await?.0)
        });
        found.await?.iter().map(|row| rows::channel(row, 0)).collect()
    }

    /// See [`Store::totals`](crate::store::Store::totals).
    pub(super) async fn read_totals(&self) -> Result<StoredTotals, StoreError> {
        let found = limited(async {
            let mut reader = self.reader().await?;
            Ok(rows::run(sqlx::query(COUNT_ALL), &mut reader).await?.0)
        });
        let found = found.await?;
        let row = found.first().ok_or(StoreError::Corrupt { what: "totals" })?;
        let count = |at| rows::count(row, at);
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
        let mut reader = self.reader().await?;
        let sql = "SELECT NULL, NULL, NULL, NULL, NULL, last_seq FROM channels WHERE id = ?1 UNION ALL \
            SELECT *, NULL FROM (SELECT seq, stamp, sender, data, attributes FROM messages \
            WHERE channel_id = ?1 AND seq > ?2 ORDER BY seq LIMIT ?3)";
        let query = sqlx::query(sql)
            .bind(key.0)
            .bind(i64::try_from(after.0).unwrap_or(i64::MAX))
            .bind(i64::try_from(messages).unwrap_or(i64::MAX));
        let mut found = reader.fetch_many(query);
        let (mut log, mut gathered) = (LogPart::default(), 0);
        while gathered < bytes || log.messages.is_empty() {
            let row = match found.try_next().await? {
                Some(Either::Right(row)) => row,
                Some(Either::Left(_)) => break, // end of the statement
                None => return Err(sqlx::Error::WorkerCrashed.into()),
            };
            if row.try_get::<Option<i64>, _>(5)?.is_some() {
                log.last = rows::seq(&row, 5)?;
                continue;
            }
            let (seq, stamp) = (rows::seq(&row, 0)?, rows::stamp(&row, 1)?);
            let (sender, data) = (rows::sender(&row, 2)?, rows::data(&row, 3)?);
            let attributes = rows::attributes(&row, 4)?;
            gathered += data.len() + attributes.encoded_bytes();
            log.messages.push(LoggedMessage { seq, stamp, sender, data, attributes });
        }
        Ok(log)
    }

    /// See [`Store::trim`](crate::store::Store::trim). Also deletes the remains of ended subscriptions.
    /// Stops when its time is up; the next call continues. A channel that cannot be trimmed, because a page is
    /// damaged, does not delay others. On a full disk, it tries the smallest possible deletions.
    pub(super) async fn trim_channels(&self, channels: &[ChannelKey]) -> Result<u64, StoreError> {
        let until = Instant::now() + TIME_LIMIT;
        if self.guard.check_files().is_err() {
            self.rescue_patiently().await?; // no caller waits for this
        }
        self.writer().await?.to_trim.extend(channels);
        let (mut deleted, mut failed) = (0, None);
        while Instant::now() < until {
            let mut writer = self.writer().await?;
            let (keys, is_careful) = writer.to_trim.next_turn(Instant::now());
            if keys.is_empty() {
                break;
            }
            let time = if is_careful { Duration::ZERO } else { DELETING_TURN };
            let turn = limited(trim_some(&mut writer, keys.clone(), time)).await;
            match writer.finish(turn).await {
                Ok((messages, done)) => {
                    deleted += messages;
                    writer.to_trim.worked(&keys, &done);
                }
                Err(error) if error.is_of_data() && !is_disk_full(&error) => {
                    writer.to_trim.failed(&keys, Instant::now());
                    failed.get_or_insert(error);
                }
                Err(error) => {
                    writer.to_trim.interrupted(&keys);
                    return Err(error);
                }
            }
        }
        failed.map_or(Ok(deleted), Err)
    }
}

fn is_disk_full(error: &StoreError) -> bool {
    const SQLITE_FULL: &str = "13";
    match error {
        StoreError::Database(DatabaseError(sqlx::Error::Database(error))) => {
            error.code().as_deref() == Some(SQLITE_FULL)
        }
        _ => false,
    }
}

/// Trims channels for this time, and with at least one statement. Returns the number of deleted messages and the finished
/// channels.
///
/// All channels are trimmed together: messages logged at the same time share pages, which are best emptied together.
async fn trim_some(
    writer: &mut Writer,
    mut keys: Vec<ChannelKey>,
    time: Duration,
) -> Result<(u64, Vec<ChannelKey>), StoreError> {
    let mut logs = behind_every_cursor(writer.connection()?, &keys).await?;
    writer.begin().await?;
    let end_of_turn = Instant::now() + time;
    let (mut deleted, mut at_a_time) = (0, FEWEST_AT_A_TIME);
    while !logs.is_empty() && (deleted == 0 || Instant::now() < end_of_turn) {
        deleted += delete_some(writer.connection()?, &mut logs, at_a_time).await?;
        at_a_time = MOST_AT_A_TIME.min(at_a_time * 2);
    }
    keys.retain(|&key| logs.iter().all(|log| log.key != key));
    forget_channels(writer.connection()?, &keys).await?;
    Ok((deleted, keys))
}

/// The channels that have messages that all cursors have passed.
async fn behind_every_cursor(
    connection: &mut SqliteConnection,
    keys: &[ChannelKey],
) -> Result<Vec<Behind>, StoreError> {
    let mut logs = Vec::new();
    for row in LOGS.fetch(connection, keys, |values, key| values.add(key.0)).await? {
        let first: Option<i64> = row.try_get(1)?;
        let first = first.and_then(|first| u64::try_from(first).ok()).unwrap_or(u64::MAX);
        let log = Behind { key: rows::key(&row, 0)?, first, up_to: rows::count(&row, 2)? };
        if log.first <= log.up_to {
            logs.push(log);
        }
    }
    Ok(logs)
}

/// Deletes about this number of messages from the beginnings of `logs`, and removes finished logs from the list.
async fn delete_some(
    connection: &mut SqliteConnection,
    logs: &mut Vec<Behind>,
    messages: u64,
) -> Result<u64, StoreError> {
    let of_each = (messages / logs.len() as u64).max(1);
    let delete = DELETE.execute(connection, logs, |values, log| {
        values.add(log.key.0)?;
        rows::add_seq(values, Seq(log.first))?;
        rows::add_seq(values, Seq(log.up_to.min(log.first + of_each - 1)))
    });
    let deleted = delete.await?;
    for log in logs.iter_mut() {
        log.first += of_each;
    }
    logs.retain(|log| log.first <= log.up_to);
    Ok(deleted)
}
