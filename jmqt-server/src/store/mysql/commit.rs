//! One batch: locks its channels, loads the needed rows, carries out the batch in memory, writes the changed rows.
//!
//! Several nodes do this at the same time. Only the transaction that has locked the row of a channel assigns
//! its next log positions, so these have no gaps and increase in the order of the commits.

use std::sync::LazyLock;
use std::time::{Duration, Instant, SystemTime};

use jmqt_core::{ChannelName, ClientId};
use sqlx::mysql::{MySqlArguments, MySqlConnection};
use sqlx::{Arguments as _, AssertSqlSafe, Executor as _, Row as _};

use super::connection::{
    Attempts, Connected, IDLE_LIMIT, LOCKED, begin, commit, hang_up, is_usable, number, rollback, unanswered,
};
use super::filters::{self, SharedFilters};
use super::presence::{KEPT_FOR, Locks};
use super::rows::{self, MultiRow};
use super::{MySqlStore, clients, cursors, exchanges, publishers, wills};
use crate::name_map::NameMap;
use crate::store::cursor::CursorRow;
use crate::store::filters::PersistentFilters;
use crate::store::limits::{COMMIT_LIMIT, limited};
use crate::store::plan::{ChannelRow, Logged, Plan};
use crate::store::retained::{RetainedBy, RetainedRoom, RetainedTotals};
use crate::store::time::millis;
use crate::store::{ChannelKey, DatabaseError, Operation, Outcome, Stamp, StoreError};

/// The number of cached channel names with their keys.
const REMEMBERED_KEYS: usize = 100_000;

/// How often channels are looked up again if other nodes deleted them meanwhile.
const LOOKUPS: usize = 32;

/// How often a batch starts again because filters have changed meanwhile.
const FILTER_READINGS: usize = 100;

/// The largest age of the cached totals, which other nodes change too.
const TOTALS_EVERY: Duration = Duration::from_secs(2);

static KEYS: LazyLock<MultiRow> =
    LazyLock::new(|| MultiRow::list("SELECT name, id FROM channels WHERE name IN ({rows})"));
/// Sorted by name, so that two transactions that insert the same channels do not deadlock.
static MAKE_CHANNELS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "(?, 0, 0)",
        ",",
        "INSERT IGNORE INTO channels (name, last_seq, persistent_count) VALUES {rows}",
    )
});
/// The hint keeps small tables from being read, and locked, as a whole.
static CHANNELS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::list(
        "SELECT name, id, last_seq, persistent_count, total_bytes, \
         (SELECT version FROM filters_version WHERE filters_version.id = 0 LOCK IN SHARE MODE) \
         FROM channels FORCE INDEX (PRIMARY) WHERE id IN ({rows}) ORDER BY id FOR UPDATE",
    )
});
static RETAINED: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::list("SELECT channel_id, bytes, expires_at, sender FROM retained WHERE channel_id IN ({rows})")
});

static CHANGE_CHANNELS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["SIGNED", "SIGNED", "SIGNED", "SIGNED"],
        "UPDATE ({rows}) AS v STRAIGHT_JOIN channels AS c ON c.id = v.a \
         SET c.last_seq = v.b, c.persistent_count = v.c, c.total_bytes = v.d",
    )
});
static LOG: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::insert(
        "(?,?,?,?,?,?,?,?)",
        "INSERT INTO messages (channel_id, seq, created_at, stamp, bytes_before, sender, data, attributes) \
         VALUES {rows}",
    )
});
static SUBSCRIBE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "(?,?,?,?,?)",
        ",",
        "INSERT INTO subscriptions (channel_id, client_id, acked_seq, acked_beyond, options) VALUES {rows} \
         ON DUPLICATE KEY UPDATE acked_seq = VALUES(acked_seq), acked_beyond = VALUES(acked_beyond), \
         options = VALUES(options)",
    )
});
static UNSUBSCRIBE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["SIGNED", "BINARY"],
        "DELETE s FROM ({rows}) AS v STRAIGHT_JOIN subscriptions AS s \
         ON s.channel_id = v.a AND s.client_id = v.b",
    )
});
static RETAIN: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::insert(
        "(?,?,?,?,?,?)",
        "INSERT INTO retained (channel_id, bytes, sender, data, attributes, expires_at) VALUES {rows} \
         ON DUPLICATE KEY UPDATE bytes = VALUES(bytes), sender = VALUES(sender), data = VALUES(data), \
         attributes = VALUES(attributes), expires_at = VALUES(expires_at)",
    )
});
static CLEAR: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["SIGNED"],
        "DELETE r FROM ({rows}) AS v STRAIGHT_JOIN retained AS r ON r.channel_id = v.a",
    )
});
/// Locks the clients, and inserts missing ones.
static LOCK_CLIENTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "(?,?)",
        ",",
        "INSERT INTO clients (client_id, last_seen) VALUES {rows} \
         ON DUPLICATE KEY UPDATE last_seen = clients.last_seen",
    )
});
static FORGET_CLIENTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY"],
        "DELETE c FROM ({rows}) AS v STRAIGHT_JOIN clients AS c ON c.client_id = v.a \
         WHERE c.language = 0 AND NOT EXISTS (SELECT 1 FROM subscriptions AS s WHERE s.client_id = c.client_id)",
    )
});

/// The state of the connection that commits batches.
#[derive(Debug)]
pub(super) struct Committer {
    /// `None` after an error, or while the connection is in use.
    connected: Option<Connected>,
    /// The time of its last use.
    used: Instant,
    /// The server's id of the last connection, which may still hold locks.
    last_id: u64,
    node: i64,
    batch: i64,
    /// The locks of the database, if this store uses it exclusively.
    alone: Option<Locks>,
    keys: NameMap<ChannelName, ChannelKey>,
    /// `None` if they must be read as a whole.
    filters: Option<SharedFilters>,
    /// The totals of all retained messages, and the time of reading them; `None` if they are unknown.
    retained: Option<(RetainedTotals, Instant)>,
    /// The numbers of those of each client; `None` if they are unknown. What other nodes store later is not counted.
    retained_by: Option<RetainedBy>,
}

/// A batch carried out in an open transaction.
struct Prepared<'b> {
    plan: Plan<'b>,
    outcomes: Vec<Outcome>,
    is_changed: bool,
}

impl Committer {
    /// Takes the filters as they are known, until [`put_filters`](Self::put_filters). If they are not put back, they are read
    /// as a whole.
    pub(super) fn take_filters(&mut self) -> SharedFilters {
        let unknown = || SharedFilters { filters: PersistentFilters::default(), version: None };
        self.filters.take().unwrap_or_else(unknown)
    }

    pub(super) fn put_filters(&mut self, known: SharedFilters) {
        self.filters = Some(known);
    }

    /// For a database that other nodes use too.
    pub(super) fn shared(connected: Connected, node: i64) -> Self {
        Self::new(connected, node, None)
    }

    /// For a database in exclusive use; the connection holds the lock.
    pub(super) fn alone(connected: Connected, node: i64, locks: Locks) -> Self {
        Self::new(connected, node, Some(locks))
    }

    fn new(connected: Connected, node: i64, alone: Option<Locks>) -> Self {
        let (last_id, connected) = (connected.id, Some(connected));
        let (used, keys) = (Instant::now(), NameMap::default());
        Self {
            connected,
            used,
            last_id,
            node,
            batch: 0,
            alone,
            keys,
            filters: None,
            retained: None,
            retained_by: None,
        }
    }

    /// The connection, unless it was idle for so long that the server is about to close it.
    fn take(&mut self) -> Option<Connected> {
        let is_kept = self.alone.is_some() || self.used.elapsed() < IDLE_LIMIT;
        self.connected.take().filter(|_| is_kept)
    }

    /// Returns the connection when it is known to be in a clean state.
    fn put(&mut self, connected: Connected) {
        (self.connected, self.used) = (Some(connected), Instant::now());
    }

    pub(super) async fn close(&mut self) {
        if let Some(connected) = self.connected.take() {
            hang_up(connected.connection).await;
        }
    }

    /// Records the totals after a batch.
    fn note_retained(&mut self, plan: &mut Plan<'_>) {
        if let Some((totals, _)) = &mut self.retained {
            *totals = plan.room().totals;
        }
        if let Some(by_client) = &mut self.retained_by {
            by_client.committed(plan.take_retained_by());
        }
    }

    /// Clears the cache of names if it is too large. Never call this while a batch is in progress, which treats names
    /// outside of the cache as missing.
    fn limit_keys(&mut self) {
        if self.keys.len() >= REMEMBERED_KEYS {
            self.keys.clear();
        }
    }
}

impl MySqlStore {
    /// See [`Store::commit`](crate::store::Store::commit).
    pub(super) async fn commit_batch(&self, batch: &[Operation]) -> Result<Vec<Outcome>, StoreError> {
        let stamp = Stamp::random()?;
        let mut plan = self.plan(batch, stamp);
        if plan.concerns_nothing() {
            return Ok(plan.carry_out(batch, &mut 0));
        }
        let mut committer = limited(async { Ok(self.committer.lock().await) }).await?;
        let may_change = filters::may_change(batch);
        let changed = match may_change {
            true => self.change_filters(batch).await?,
            false => filters::Changed::default(),
        };
        let mut known = committer.take_filters();
        if may_change || known.version.is_none() {
            self.read_filter_changes(&mut known).await?;
        }
        let result = self.commit_with_filters(&mut committer, &mut known, batch, &changed, stamp).await;
        committer.filters = Some(known);
        result
    }

    /// Adds the steps to the batch that the filters need, and commits it.
    async fn commit_with_filters(
        &self,
        committer: &mut Committer,
        known: &mut SharedFilters,
        batch: &[Operation],
        changed: &filters::Changed,
        stamp: Stamp,
    ) -> Result<Vec<Outcome>, StoreError> {
        let (mut attempts, mut readings) = (Attempts::new(), 0);
        loop {
            self.check_open()?;
            let mut outdated = changed.outdated.clone();
            if !known.filters.ended_groups().is_empty() {
                outdated.extend(self.cursors_of_ended(&known.filters).await?);
            }
            let expanded = known.filters.expanded(batch, &outdated);
            let whole = expanded.as_ref().map_or(batch, |expanded| &expanded.batch);
            match self.try_commit(committer, whole, stamp, known.version).await {
                Ok(None) if readings < FILTER_READINGS => {
                    readings += 1;
                    self.read_filter_changes(known).await?;
                }
                Ok(None) => return Err(StoreError::Locked),
                Ok(Some(mut outcomes)) => {
                    if let Some(expanded) = expanded {
                        outcomes = expanded.outcomes(outcomes);
                        known.filters.committed(expanded);
                    }
                    known.filters.ended_groups_are_gone();
                    changed.correct(batch, &mut outcomes);
                    return Ok(outcomes);
                }
                Err(error) if attempts.another(&error).await => {}
                Err(StoreError::Database(error)) => return Err(locked(error)),
                Err(error) => return Err(error),
            }
        }
    }

    fn plan<'b>(&self, batch: &'b [Operation], stamp: Stamp) -> Plan<'b> {
        Plan::new(batch, stamp, |name| crate::store::Store::may_have_retained(self, name))
    }

    async fn try_commit(
        &self,
        committer: &mut Committer,
        batch: &[Operation],
        stamp: Stamp,
        filters: Option<i64>,
    ) -> Result<Option<Vec<Outcome>>, StoreError> {
        // Taken out: if this future is dropped, the connection is dropped too, and the server rolls back.
        let mut connected = match committer.take() {
            Some(connected) => connected,
            None => self.connect_again(committer).await?,
        };
        let prepared = limited(self.prepare(&mut connected, committer, batch, stamp, filters)).await;
        let connection = &mut connected.connection;
        let mut prepared = match prepared {
            Ok(Some(prepared)) => prepared,
            Ok(None) => {
                limited(rollback(connection)).await?;
                committer.put(connected);
                return Ok(None);
            }
            Err(error) => {
                if is_usable(&error) && limited(rollback(connection)).await.is_ok() {
                    committer.put(connected);
                }
                return Err(error);
            }
        };
        if !prepared.is_changed {
            limited(rollback(connection)).await?;
        } else if let Err(error) = commit(connection).await {
            drop(connected);
            (committer.retained, committer.retained_by) = (None, None);
            return match self.has_happened(committer).await {
                Some(true) => Ok(Some(self.committed(prepared))),
                Some(false) => Err(error),
                None => Err(unanswered(error)),
            };
        }
        committer.put(connected);
        committer.note_retained(&mut prepared.plan);
        Ok(Some(self.committed(prepared)))
    }

    /// Updates the state in memory after a commit.
    fn committed(&self, prepared: Prepared<'_>) -> Vec<Outcome> {
        if let Some(retained) = &self.retained {
            for (_, channel) in prepared.plan.cleared() {
                retained.remove(channel.as_str());
            }
        }
        self.to_trim.extend(prepared.plan.left());
        prepared.outcomes
    }

    async fn prepare<'b>(
        &self,
        connected: &mut Connected,
        committer: &mut Committer,
        batch: &'b [Operation],
        stamp: Stamp,
        filters: Option<i64>,
    ) -> Result<Option<Prepared<'b>>, StoreError> {
        let mut plan = self.plan(batch, stamp);
        let totals = self.retained_totals(&mut connected.connection, committer, batch).await?;
        let version = self.lock_channels(&mut connected.connection, committer, &mut plan, batch).await?;
        if Some(version) != filters {
            return Ok(None);
        }
        if plan.has_exchanges() {
            self.hold_membership(&mut connected.connection).await?;
        }
        publishers::load(&mut connected.connection, &mut plan, batch).await?;
        exchanges::load(&mut connected.connection, &mut plan).await?;
        load(&mut connected.connection, &mut plan, batch).await?;
        wills::load(&mut connected.connection, &mut plan).await?;
        let room = RetainedRoom { limits: self.retained_limits, totals };
        plan.put_room(room, committer.retained_by.as_ref().unwrap_or(&RetainedBy::default()), batch);
        let outcomes = plan.carry_out(batch, &mut 0);
        if !plan.made().is_empty() {
            return Err(StoreError::Corrupt { what: "channel" }); // `lock_channels` has inserted the needed rows
        }
        let is_changed = !plan.is_unchanged();
        if is_changed {
            if let Some(retained) = &self.retained {
                plan.retained().iter().for_each(|(_, channel, _)| retained.insert(channel.as_str()));
            }
            write(connected, &plan).await?;
            publishers::write(connected, &plan).await?;
            exchanges::write(&mut connected.connection, &plan).await?;
            committer.batch += 1;
            note_batch(&mut connected.connection, committer.node, committer.batch).await?;
        }
        Ok(Some(Prepared { plan, outcomes, is_changed }))
    }

    /// The totals of all retained messages, if the batch depends on them. Other nodes change them too, so the cached totals
    /// are at most [`TOTALS_EVERY`] old.
    async fn retained_totals(
        &self,
        connection: &mut MySqlConnection,
        committer: &mut Committer,
        batch: &[Operation],
    ) -> Result<RetainedTotals, StoreError> {
        let known = committer
            .retained
            .filter(|(_, since)| committer.alone.is_some() || since.elapsed() < TOTALS_EVERY);
        let retains = |it: &Operation| it.append().is_some_and(|append| append.retain);
        let is_limited = self.retained_limits.messages_per_client.is_some();
        if committer.retained_by.is_none() && is_limited && batch.iter().any(retains) {
            committer.retained_by = Some(read_retained_by(connection).await?);
        }
        if known.is_none() && !self.retained_limits.are_none() && batch.iter().any(retains) {
            let counted = self.retained_limits.messages.filter(|_| committer.alone.is_none());
            let totals = read_totals(connection, counted).await?;
            committer.retained = Some((totals, Instant::now()));
        }
        Ok(committer.retained.map(|(totals, _)| totals).unwrap_or_default())
    }

    /// Begins a transaction with the channels of the batch locked and in the plan, and returns the version of the filters,
    /// which does not change until the transaction ends. Missing rows are inserted before in a
    /// separate transaction, because a transaction that waits for a row must not hold other rows.
    async fn lock_channels<'b>(
        &self,
        connection: &mut MySqlConnection,
        committer: &mut Committer,
        plan: &mut Plan<'b>,
        batch: &'b [Operation],
    ) -> Result<i64, StoreError> {
        for _ in 0..LOOKUPS {
            let Some(mut keys) = self.find_keys(connection, committer, plan, batch).await? else {
                continue;
            };
            let named = keys.len();
            // Beside those that the operations name: all channels are locked in one order.
            let ending = clients::load(connection, plan, batch).await?;
            keys.extend(&ending);
            keys.sort_unstable();
            keys.dedup();
            begin(connection).await?;
            let (mut locked, mut version) = (0, None);
            for row in CHANNELS.fetch(connection, &keys, rows::add_key).await? {
                let (name, key) = (rows::channel(&row, 0)?, rows::key(&row, 1)?);
                let (last, persistent) = (rows::seq(&row, 2)?, rows::count(&row, 3)?);
                version = row.try_get(5)?;
                let found = ChannelRow { key, last, persistent, bytes: rows::count(&row, 4)? };
                if committer.keys.get(&name) == Some(&key) && plan.put_channel(&name, found) {
                    locked += 1;
                } else if ending.contains(&key) {
                    plan.put_unnamed_channel(found);
                }
            }
            if locked == named && clients::load_subscriptions(connection, plan, batch).await? {
                return match version {
                    Some(version) => Ok(version),
                    None => filters::hold_version(connection).await,
                };
            }
            rollback(connection).await?;
            for name in plan.names() {
                committer.keys.remove(name);
            }
            *plan = self.plan(batch, plan.stamp());
        }
        Err(StoreError::Corrupt { what: "channel" })
    }

    /// The sorted keys of the batch's channels that exist or must exist. `None` if another node has deleted a new
    /// row at once, because the channel was still empty.
    async fn find_keys(
        &self,
        connection: &mut MySqlConnection,
        committer: &mut Committer,
        plan: &Plan<'_>,
        batch: &[Operation],
    ) -> Result<Option<Vec<ChannelKey>>, StoreError> {
        committer.limit_keys();
        let names = plan.names();
        let mut unknown = names.clone();
        unknown.retain(|name| !committer.keys.contains_key(*name));
        unknown.sort_unstable();
        look_up(connection, committer, &unknown).await?;
        let mut missing: Vec<_> = batch.iter().filter_map(Operation::channel_to_make).collect();
        missing.retain(|name| !committer.keys.contains_key(*name));
        if !missing.is_empty() {
            missing.sort_unstable();
            missing.dedup();
            MAKE_CHANNELS.execute(connection, &missing, add_channel).await?;
            look_up(connection, committer, &missing).await?;
            // If the batch fails, the new rows are not needed.
            self.to_trim.extend(missing.iter().filter_map(|name| committer.keys.get(*name).copied()));
            if missing.iter().any(|name| !committer.keys.contains_key(*name)) {
                return Ok(None);
            }
        }
        let mut keys: Vec<_> = names.iter().filter_map(|name| committer.keys.get(*name).copied()).collect();
        keys.sort_unstable();
        Ok(Some(keys))
    }

    /// Replaces a lost connection. In a database in exclusive use, the new connection must
    /// get the lock again first.
    async fn connect_again(&self, committer: &mut Committer) -> Result<Connected, StoreError> {
        let Some(locks) = &committer.alone else {
            let connected = self.connections.connector().connect().await?;
            committer.last_id = connected.id;
            return Ok(connected);
        };
        let mut connected = self.connections.connector().connect_for(KEPT_FOR).await?;
        let last_id = committer.last_id;
        limited(get_lock_back(&mut connected.connection, locks, last_id)).await?;
        committer.last_id = connected.id;
        Ok(connected)
    }

    /// Returns if the last batch was committed, although the COMMIT was not answered; `None` if this is
    /// unknown. Waits until the server has finished the transaction.
    async fn has_happened(&self, committer: &Committer) -> Option<bool> {
        tracing::warn!("no answer to a COMMIT: looking up its outcome");
        let until = tokio::time::Instant::now() + COMMIT_LIMIT;
        let mut pause = Duration::from_millis(20);
        while tokio::time::Instant::now() < until {
            match limited(self.last_batch(committer)).await {
                Ok(batch) => return Some(batch == Some(committer.batch)),
                Err(error) => tracing::debug!(%error, "the outcome of a COMMIT is still unknown"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(1));
        }
        None
    }

    async fn last_batch(&self, committer: &Committer) -> Result<Option<i64>, StoreError> {
        let mut connected = self.connections.connector().connect().await?;
        let connection = &mut connected.connection;
        begin(connection).await?;
        let sql = "SELECT batch FROM batches WHERE node = ? FOR UPDATE";
        let found = sqlx::query_scalar(sql).bind(committer.node).fetch_optional(&mut *connection).await;
        let found = found.map_err(StoreError::from);
        if matches!(found, Err(ref error) if number(error) == Some(LOCKED)) {
            // The server has not detected the lost connection yet.
            kill(connection, committer.last_id).await;
        }
        rollback(connection).await?;
        hang_up(connected.connection).await;
        found
    }
}

impl Operation {
    /// The channel for which the operation needs a row.
    fn channel_to_make(&self) -> Option<&ChannelName> {
        match self {
            Self::Subscribe { channel, .. } | Self::BeginCursor { channel, .. } => Some(channel),
            _ => self.append().filter(|append| append.retain).map(|append| &append.channel),
        }
    }
}

/// Distinguishes locks of others from errors of the batch.
fn locked(error: DatabaseError) -> StoreError {
    let error = StoreError::Database(error);
    match number(&error) {
        Some(LOCKED) => StoreError::Locked,
        _ => error,
    }
}

/// Takes the exclusive lock again for this connection, even if the lost connection still holds it.
async fn get_lock_back(
    connection: &mut MySqlConnection,
    locks: &Locks,
    last_id: u64,
) -> Result<(), StoreError> {
    for _ in 0..50 {
        if locks.take_all(connection).await? {
            return Ok(());
        }
        if locks.owner(connection).await?.is_some_and(|owner| owner != last_id) {
            break;
        }
        kill(connection, last_id).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(locks.in_use())
}

/// Kills another connection of this store, if it still exists.
async fn kill(connection: &mut MySqlConnection, id: u64) {
    let killed = connection.execute(AssertSqlSafe(format!("KILL {id}"))).await;
    if let Err(error) = killed {
        tracing::debug!(%error, id, "cannot end a lost connection");
    }
}

async fn look_up(
    connection: &mut MySqlConnection,
    committer: &mut Committer,
    names: &[&ChannelName],
) -> Result<(), StoreError> {
    for row in KEYS.fetch(connection, names, add_channel).await? {
        committer.keys.insert(rows::channel(&row, 0)?, rows::key(&row, 1)?);
    }
    Ok(())
}

fn add_channel(values: &mut MySqlArguments, name: &&ChannelName) -> Result<(), sqlx::error::BoxDynError> {
    rows::add_name(values, name.as_str())
}

/// Inserts the needed rows into `plan`, except the channels.
async fn load<'b>(
    connection: &mut MySqlConnection,
    plan: &mut Plan<'b>,
    batch: &'b [Operation],
) -> Result<(), StoreError> {
    let pairs = plan.subscriptions_to_load(batch);
    for (key, client, cursor, options) in cursors::lock(connection, &pairs).await? {
        if let Ok(index) = pairs.binary_search(&(key, &client)) {
            plan.put_subscription(key, pairs[index].1, cursor, options);
        }
    }
    let keys = plan.retained_to_load(batch);
    for row in RETAINED.fetch(connection, &keys, rows::add_key).await? {
        let (key, bytes, until) = (rows::key(&row, 0)?, rows::count(&row, 1)?, row.try_get(2)?);
        plan.put_retained(key, bytes, until, rows::sender(&row, 3)?);
    }
    Ok(())
}

/// Adds up the index of the sizes. Several writing nodes repeat this often, so messages beyond the limit are not
/// counted.
async fn read_totals(
    connection: &mut MySqlConnection,
    counted: Option<u64>,
) -> Result<RetainedTotals, StoreError> {
    let sql = "SELECT COUNT(*), CAST(COALESCE(SUM(bytes), 0) AS SIGNED) FROM \
        (SELECT bytes FROM retained FORCE INDEX (retained_by_bytes) LIMIT ?) AS some";
    let most = counted.and_then(|most| i64::try_from(most).ok()).unwrap_or(i64::MAX);
    let row = sqlx::query(sql).bind(most).fetch_one(connection).await?;
    Ok(RetainedTotals { messages: rows::count(&row, 0)?, bytes: rows::count(&row, 1)? })
}

async fn read_retained_by(connection: &mut MySqlConnection) -> Result<RetainedBy, StoreError> {
    let sql = "SELECT sender, COUNT(*) FROM retained WHERE sender IS NOT NULL GROUP BY sender";
    let counts = sqlx::query(sql).fetch_all(connection).await?;
    let counts = counts.iter().map(|row| Ok((rows::sender(row, 0)?, rows::count(row, 1)?)));
    let counts = counts.collect::<Result<Vec<_>, StoreError>>()?.into_iter();
    Ok(RetainedBy::new(counts.filter_map(|(sender, count)| Some((sender?, count)))))
}

/// Writes the changed rows.
async fn write(connected: &mut Connected, plan: &Plan<'_>) -> Result<(), StoreError> {
    write_messages(connected, plan.stamp(), plan.messages()).await?;
    let changed = plan.changed();
    let change = CHANGE_CHANNELS.execute(&mut connected.connection, &changed, |values, channel| {
        values.add(channel.key.map(|key| key.0))?;
        rows::add_seq(values, channel.last)?;
        values.add(i64::try_from(channel.persistent)?)?;
        values.add(i64::try_from(channel.bytes)?)
    });
    change.await?;
    wills::write(connected, plan).await?; // before the rows of clients: the order of locks
    write_subscriptions(&mut connected.connection, plan).await?;
    write_retained(connected, plan).await
}

async fn write_messages(
    connected: &mut Connected,
    stamp: Stamp,
    mut messages: &[Logged<'_>],
) -> Result<(), StoreError> {
    let now = millis(SystemTime::now());
    while !messages.is_empty() {
        let bytes = messages.iter().map(|message| message.append.stored_bytes());
        let (some, others) = messages.split_at(rows::fitting(connected.max_packet, bytes));
        let log = LOG.execute(&mut connected.connection, some, |values, message| {
            rows::add_key(values, &message.key)?;
            rows::add_seq(values, message.seq)?;
            values.add(now)?;
            values.add(i64::try_from(stamp.0)?)?;
            values.add(i64::try_from(message.bytes_before)?)?;
            rows::add_sender(values, message.append.sender.as_ref())?;
            values.add(&message.append.data[..])?;
            rows::add_attributes(values, &message.append.attributes)
        });
        log.await?;
        messages = others;
    }
    Ok(())
}

async fn write_subscriptions(connection: &mut MySqlConnection, plan: &Plan<'_>) -> Result<(), StoreError> {
    let (mut gone, mut new) = (plan.unsubscribed(), plan.subscribed());
    let (changed, ended) = (plan.changed_clients(), plan.gone_clients());
    if gone.is_empty() && new.is_empty() && changed.is_empty() && ended.is_empty() {
        return Ok(());
    }
    gone.sort_unstable();
    new.sort_unstable_by_key(|&(key, client, ..)| (key, client));
    let unsubscribe = UNSUBSCRIBE.execute(connection, &gone, |values, (key, client)| {
        rows::add_key(values, key)?;
        rows::add_name(values, client.as_str())
    });
    unsubscribe.await?;
    let subscribe = SUBSCRIBE.execute(connection, &new, |values, (key, client, cursor, options)| {
        let cursor = CursorRow::from((*cursor).clone());
        rows::add_key(values, key)?;
        rows::add_name(values, client.as_str())?;
        rows::add_seq(values, cursor.acked)?;
        values.add(cursor.beyond)?;
        rows::add_options(values, *options)
    });
    subscribe.await?;

    // All rows are locked before any is read: another node may be adding rows that are counted here.
    let mut gone: Vec<&ClientId> = gone.iter().map(|&(_, client)| client).collect();
    gone.retain(|client| !client.is_group());
    let clients = new.iter().map(|&(_, client, ..)| client);
    let mut clients: Vec<&ClientId> = clients.filter(|client| !client.is_group()).collect();
    clients.extend(&gone);
    clients.extend(changed.iter().map(|(client, _)| *client));
    clients.extend(&ended);
    for list in [&mut gone, &mut clients] {
        list.sort_unstable();
        list.dedup();
    }
    let now = millis(SystemTime::now());
    let lock = LOCK_CLIENTS.execute(connection, &clients, |values, client| {
        rows::add_name(values, client.as_str())?;
        values.add(now)
    });
    lock.await?;
    clients::write(connection, plan).await?;
    FORGET_CLIENTS
        .execute(connection, &gone, |values, client| rows::add_name(values, client.as_str()))
        .await?;
    Ok(())
}

async fn write_retained(connected: &mut Connected, plan: &Plan<'_>) -> Result<(), StoreError> {
    let (all, cleared) = (plan.retained(), plan.cleared());
    let mut retained = &all[..];
    while !retained.is_empty() {
        let bytes = retained.iter().map(|(_, _, retained)| retained.bytes());
        let (some, others) = retained.split_at(rows::fitting(connected.max_packet, bytes));
        let retain = RETAIN.execute(&mut connected.connection, some, |values, (key, _, retained)| {
            rows::add_key(values, key)?;
            values.add(i64::try_from(retained.bytes())?)?;
            rows::add_sender(values, retained.sender.as_ref())?;
            values.add(&retained.data[..])?;
            rows::add_attributes(values, &retained.attributes)?;
            rows::add_expiry(values, &retained.attributes)
        });
        retain.await?;
        retained = others;
    }
    CLEAR.execute(&mut connected.connection, &cleared, |values, (key, _)| rows::add_key(values, key)).await?;
    Ok(())
}

/// Records this batch, within its own transaction.
async fn note_batch(connection: &mut MySqlConnection, node: i64, batch: i64) -> Result<(), StoreError> {
    let sql = "INSERT INTO batches (node, batch, committed_at) VALUES (?, ?, ?) \
        ON DUPLICATE KEY UPDATE batch = VALUES(batch), committed_at = VALUES(committed_at)";
    let now = millis(SystemTime::now());
    sqlx::query(sql).bind(node).bind(batch).bind(now).execute(connection).await?;
    Ok(())
}
