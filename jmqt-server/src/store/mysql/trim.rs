//! Deletes messages that all clients have acknowledged.

use std::collections::BTreeSet;
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use sqlx::Row as _;
use sqlx::mysql::MySqlConnection;

use super::MySqlStore;
use super::connection::retried;
use super::rows::{self, MultiRow};
use crate::store::limits::{TIME_LIMIT, limited};
use crate::store::time::millis;
use crate::store::to_trim::ToTrim;
use crate::store::{ChannelKey, Seq, StoreError};

/// The number of messages that the first statement of a turn deletes: few, because they may be large.
const FEWEST_AT_A_TIME: u64 = 32;

/// The most messages that one statement deletes.
const MOST_AT_A_TIME: u64 = 2048;

/// The time limit for deletions in one transaction.
const DELETING_TURN: Duration = Duration::from_millis(50);

/// The number of channels that one step checks for remains of other stores.
const SEARCHED: i64 = 1024;

/// The delay between two searches.
const SEARCH_EVERY: Duration = Duration::from_secs(600);

/// Rows of stores that have not committed for this time are deleted: a week.
const NODE_GONE_MILLIS: i64 = 7 * 86_400_000;

/// The begin of a log, its lowest cursor, and if the channel may be deleted.
static LOGS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::list(
        "SELECT id, (SELECT MIN(seq) FROM messages AS m WHERE m.channel_id = c.id), \
         COALESCE((SELECT MIN(acked_seq) FROM subscriptions AS s WHERE s.channel_id = c.id), last_seq), \
         CAST(persistent_count = 0 AND NOT EXISTS (SELECT 1 FROM retained AS r WHERE r.channel_id = c.id) \
         AS SIGNED) FROM channels AS c WHERE id IN ({rows})",
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
static LOCK_CHANNELS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::list(
        "SELECT id FROM channels FORCE INDEX (PRIMARY) WHERE id IN ({rows}) ORDER BY id FOR UPDATE",
    )
});
/// Deletes channels that have no content left.
static FORGET_CHANNELS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["SIGNED"],
        "DELETE c FROM ({rows}) AS v STRAIGHT_JOIN channels AS c ON c.id = v.a \
         WHERE c.persistent_count = 0 \
         AND NOT EXISTS (SELECT 1 FROM messages AS m WHERE m.channel_id = c.id) \
         AND NOT EXISTS (SELECT 1 FROM retained AS r WHERE r.channel_id = c.id)",
    )
});

/// The channels to trim next, and the state of the search.
#[derive(Debug, Default)]
pub(super) struct Trimming {
    channels: Mutex<ToTrim>,
    search: Mutex<Search>,
    /// Serializes turns, so that no messages are deleted twice.
    turn: tokio::sync::Mutex<()>,
}

/// A search through all channels, some at a time.
#[derive(Debug, Default)]
struct Search {
    after: i64,
    done: Option<Instant>,
}

impl Trimming {
    pub(super) fn extend(&self, channels: impl IntoIterator<Item = ChannelKey>) {
        let channels: Vec<_> = channels.into_iter().collect();
        self.lock().extend(&channels);
    }

    fn lock(&self) -> MutexGuard<'_, ToTrim> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn search(&self) -> MutexGuard<'_, Search> {
        self.search.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Deletable messages of one channel.
#[derive(Clone, Copy)]
struct Behind {
    key: ChannelKey,
    first: u64,
    up_to: u64,
}

/// The result of one turn.
struct Turn {
    deleted: u64,
    /// Channels that need no more turns.
    done: Vec<ChannelKey>,
    /// Finished channels that seem to be empty.
    empty: Vec<ChannelKey>,
}

impl MySqlStore {
    /// See [`Store::trim`](crate::store::Store::trim). Also deletes the remains of ended subscriptions.
    /// Stops when its time is up; the next call continues. A channel that cannot be trimmed does not delay others.
    pub(super) async fn trim_channels(&self, channels: &[ChannelKey]) -> Result<u64, StoreError> {
        self.check_open()?;
        let until = Instant::now() + TIME_LIMIT;
        let _turn = limited(async { Ok(self.to_trim.turn.lock().await) }).await?;
        self.to_trim.extend(channels.iter().copied());
        self.search_some().await?;
        let (mut deleted, mut failed) = (0, None);
        while Instant::now() < until {
            let (keys, is_careful) = self.to_trim.lock().next_turn(Instant::now());
            if keys.is_empty() {
                break;
            }
            let time = if is_careful { Duration::ZERO } else { DELETING_TURN };
            let turn = self.trim_turn(&keys, time).await;
            let mut to_trim = self.to_trim.lock();
            match turn {
                Ok(turn) => {
                    to_trim.worked(&keys, &turn.done);
                    deleted += turn.deleted;
                }
                Err(error) if error.is_of_data() => {
                    to_trim.failed(&keys, Instant::now());
                    failed.get_or_insert(error);
                }
                Err(error) => {
                    to_trim.interrupted(&keys);
                    return Err(error);
                }
            }
        }
        failed.map_or(Ok(deleted), Err)
    }

    async fn trim_turn(&self, keys: &[ChannelKey], time: Duration) -> Result<Turn, StoreError> {
        let turn = retried(|| self.delete_turn(keys, time)).await?;
        if !turn.empty.is_empty() {
            retried(|| self.forget_channels(&turn.empty)).await?;
        }
        Ok(turn)
    }

    async fn delete_turn(&self, keys: &[ChannelKey], time: Duration) -> Result<Turn, StoreError> {
        let mut lease = self.connections.lease().await?;
        let turn = limited(async { delete_turn(lease.begin().await?, keys, time).await }).await;
        lease.finish(turn).await
    }

    /// Deletes channels that have no subscription, message or retained message left. They are
    /// locked before the final check: a transaction that is about to use a channel has locked it, or will
    /// find it deleted.
    async fn forget_channels(&self, keys: &[ChannelKey]) -> Result<(), StoreError> {
        let mut lease = self.connections.lease().await?;
        let forgotten = limited(async {
            let connection = lease.begin().await?;
            LOCK_CHANNELS.fetch(connection, keys, rows::add_key).await?;
            FORGET_CHANNELS.execute(connection, keys, rows::add_key).await?;
            Ok(())
        });
        let forgotten = forgotten.await;
        lease.finish(forgotten).await
    }

    /// Searches some channels for remains that this store does not know of: those of an earlier process, or of
    /// another store that has ended.
    async fn search_some(&self) -> Result<(), StoreError> {
        let after = {
            let search = self.to_trim.search();
            if search.done.is_some_and(|done| done.elapsed() < SEARCH_EVERY) {
                return Ok(());
            }
            search.after
        };
        let (found, last) = retried(|| self.search(after)).await?;
        self.to_trim.extend(found);
        let mut search = self.to_trim.search();
        (search.after, search.done) = match last {
            Some(last) => (last, None),
            None => (0, Some(Instant::now())),
        };
        Ok(())
    }

    async fn search(&self, after: i64) -> Result<(Vec<ChannelKey>, Option<i64>), StoreError> {
        let mut lease = self.connections.lease().await?;
        let found = limited(async { search(lease.connection()?, after).await }).await;
        lease.done(found)
    }
}

async fn search(
    connection: &mut MySqlConnection,
    after: i64,
) -> Result<(Vec<ChannelKey>, Option<i64>), StoreError> {
    if after == 0 {
        let gone = millis(SystemTime::now()).saturating_sub(NODE_GONE_MILLIS);
        let forget = "DELETE FROM batches WHERE committed_at < ?";
        sqlx::query(forget).bind(gone).execute(&mut *connection).await?;
    }
    let sql = "SELECT id, CAST(\
        EXISTS (SELECT 1 FROM messages AS m WHERE m.channel_id = c.id AND m.seq <= COALESCE( \
            (SELECT MIN(acked_seq) FROM subscriptions AS s WHERE s.channel_id = c.id), c.last_seq)) \
        OR (persistent_count = 0 AND NOT EXISTS (SELECT 1 FROM retained AS r WHERE r.channel_id = c.id)) \
        AS SIGNED) FROM channels AS c WHERE id > ? ORDER BY id LIMIT ?";
    let rows = sqlx::query(sql).bind(after).bind(SEARCHED).fetch_all(connection).await?;
    let mut found = Vec::new();
    for row in &rows {
        if row.try_get::<i64, _>(1)? != 0 {
            found.push(rows::key(row, 0)?);
        }
    }
    let last = rows.last().map(|row| rows::key(row, 0)).transpose()?;
    Ok((found, last.map(|key| key.0)))
}

/// Trims channels for this time, and with at least one statement.
async fn delete_turn(
    connection: &mut MySqlConnection,
    keys: &[ChannelKey],
    time: Duration,
) -> Result<Turn, StoreError> {
    let (mut logs, empty) = behind_every_cursor(connection, keys).await?;
    let end_of_turn = Instant::now() + time;
    let (mut deleted, mut at_a_time) = (0, FEWEST_AT_A_TIME);
    while !logs.is_empty() && (deleted == 0 || Instant::now() < end_of_turn) {
        deleted += delete_some(connection, &mut logs, at_a_time).await?;
        at_a_time = MOST_AT_A_TIME.min(at_a_time * 2);
    }
    let is_done = |key: &ChannelKey| logs.iter().all(|log| log.key != *key);
    let done: Vec<_> = keys.iter().copied().filter(is_done).collect();
    let empty = empty.into_iter().filter(is_done).collect();
    Ok(Turn { deleted, done, empty })
}

/// The channels that have messages that all cursors have passed; and those that will be empty without them.
async fn behind_every_cursor(
    connection: &mut MySqlConnection,
    keys: &[ChannelKey],
) -> Result<(Vec<Behind>, Vec<ChannelKey>), StoreError> {
    let (mut logs, mut empty) = (Vec::new(), BTreeSet::new());
    let mut seen = BTreeSet::new();
    for row in LOGS.fetch(connection, keys, rows::add_key).await? {
        let key = rows::key(&row, 0)?;
        if !seen.insert(key) {
            continue;
        }
        let first: Option<i64> = row.try_get(1)?;
        let first = first.and_then(|first| u64::try_from(first).ok()).unwrap_or(u64::MAX);
        let log = Behind { key, first, up_to: rows::count(&row, 2)? };
        if log.first <= log.up_to {
            logs.push(log);
        }
        if row.try_get::<i64, _>(3)? != 0 {
            empty.insert(key);
        }
    }
    logs.sort_unstable_by_key(|log| log.key);
    Ok((logs, empty.into_iter().collect()))
}

/// Deletes about this number of messages from the beginnings of `logs`, and removes finished logs from the list.
async fn delete_some(
    connection: &mut MySqlConnection,
    logs: &mut Vec<Behind>,
    messages: u64,
) -> Result<u64, StoreError> {
    let of_each = (messages / logs.len() as u64).max(1);
    let delete = DELETE.execute(connection, logs, |values, log| {
        rows::add_key(values, &log.key)?;
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
