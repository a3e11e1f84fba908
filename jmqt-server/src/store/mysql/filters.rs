//! Filters of MQTT sessions, which all nodes change, and all committers need.
//!
//! A change raises the version of all filters, in a transaction that locks this version and no channel. A batch reads the
//! version together with its channels, with a lock that changes wait for. If its filters are older, it starts again with the
//! changes. So after a filter was stored, every batch of every node knows it.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use jmqt_core::{ChannelName, ClientId};
use sqlx::mysql::{MySqlConnection, MySqlRow};
use sqlx::{Arguments as _, Row as _};

use super::connection::retried;
use super::rows::{self, MultiRow};
use super::{MySqlStore, clients};
use crate::store::filters::{PersistentFilters, needs_cursors};
use crate::store::limits::limited;
use crate::store::time::millis;
use crate::store::{Operation, Outcome, StoreError, StoredFilter, StoredSubscription, SubscriptionOptions};

/// How long removed filters are kept for other nodes.
const KEPT_FOR: Duration = Duration::from_secs(3600);
/// The number of removed filters that are deleted at a time.
const PURGED_AT_A_TIME: i64 = 512;

static OF_CLIENTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::list(
        "SELECT client_id, filter FROM filters FORCE INDEX (PRIMARY) \
         WHERE client_id IN ({rows}) AND gone_at IS NULL",
    )
});
static ENDS: LazyLock<MultiRow> =
    LazyLock::new(|| MultiRow::list("SELECT client_id, ends_at FROM clients WHERE client_id IN ({rows})"));
/// The channels with cursors that were created for filters (bit 4 of the options).
static CURSORS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::list(
        "SELECT s.client_id, c.name FROM subscriptions AS s FORCE INDEX (subscriptions_by_client) \
         STRAIGHT_JOIN channels AS c ON c.id = s.channel_id \
         WHERE s.client_id IN ({rows}) AND s.options & 16 <> 0",
    )
});
static PUT: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "(?,?,?,?)",
        ",",
        "INSERT INTO filters (client_id, filter, options, version) VALUES {rows} \
         ON DUPLICATE KEY UPDATE options = VALUES(options), version = VALUES(version), gone_at = NULL",
    )
});
static REMOVE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "BINARY", "SIGNED", "SIGNED"],
        "UPDATE ({rows}) AS v STRAIGHT_JOIN filters AS f ON f.client_id = v.a AND f.filter = v.b \
         SET f.version = v.c, f.gone_at = v.d WHERE f.gone_at IS NULL",
    )
});

/// The filters as this node knows them.
#[derive(Debug)]
pub(super) struct SharedFilters {
    pub(super) filters: PersistentFilters,
    /// The version up to which all changes were read; `None`: none was.
    pub(super) version: Option<i64>,
}

/// Changes of filters, with the options; `None`: removed.
type Changes = BTreeMap<(ClientId, String), Option<SubscriptionOptions>>;

/// What a batch changed before it was carried out.
#[derive(Debug, Default)]
pub(super) struct Changed {
    /// The filters that existed and are removed.
    removed: Vec<(ClientId, String)>,
    /// The cursors that may not be needed any more.
    pub(super) outdated: Vec<(ClientId, ChannelName)>,
}

impl Changed {
    /// Corrects the outcomes of operations that were carried out before.
    pub(super) fn correct(&self, batch: &[Operation], outcomes: &mut [Outcome]) {
        for (operation, outcome) in batch.iter().zip(outcomes) {
            if let Operation::UnsubscribeFilter { client, filter } = operation {
                let existed = self.removed.iter().any(|(of, it)| of == client && it == filter);
                *outcome = Outcome::Unsubscribed(existed);
            }
        }
    }
}

/// Returns `true` if the batch changes filters, may end sessions that have some, or deletes cursors.
pub(super) fn may_change(batch: &[Operation]) -> bool {
    ends_idle_cursors(batch)
        || batch.iter().any(|operation| {
            matches!(
                operation,
                Operation::SubscribeFilter { .. }
                    | Operation::UnsubscribeFilter { .. }
                    | Operation::BeginSession(_)
            )
        })
}

/// Returns `true` if the batch deletes cursors of filters that stay. Before that, the version of the filters is raised: all
/// nodes then forget which channels have all cursors. A batch that creates the cursor again before it is deleted also appends a
/// message behind it, so it is not deleted.
fn ends_idle_cursors(batch: &[Operation]) -> bool {
    batch.iter().any(|operation| matches!(operation, Operation::EndIdleCursor { .. }))
}

impl MySqlStore {
    /// See [`Store::subscription`](crate::store::Store::subscription).
    pub(super) async fn read_subscription(
        &self,
        client: &ClientId,
        channel: &ChannelName,
    ) -> Result<Option<StoredSubscription>, StoreError> {
        let sql = "SELECT c.id, c.name, c.last_seq, s.acked_seq, s.acked_beyond, s.options \
            FROM channels AS c JOIN subscriptions AS s ON s.channel_id = c.id \
            WHERE c.name = ? AND s.client_id = ?";
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let query = sqlx::query(sql).bind(channel.as_str().as_bytes());
                Ok(query.bind(client.as_str().as_bytes()).fetch_all(lease.connection()?).await?)
            });
            let found = found.await;
            lease.done(found)
        });
        found.await?.first().map(|row| clients::subscription(row, 0)).transpose()
    }

    /// See [`Store::has_group`](crate::store::Store::has_group).
    pub(super) async fn find_group(&self, owner: &ClientId) -> Result<bool, StoreError> {
        self.check_open()?;
        let mut committer = limited(async { Ok(self.committer.lock().await) }).await?;
        let mut known = committer.take_filters();
        self.read_filter_changes(&mut known).await?;
        let is_there = known.filters.has_group(owner);
        committer.put_filters(known);
        Ok(is_there)
    }

    /// The cursors of groups that have ended.
    pub(super) async fn cursors_of_ended(
        &self,
        filters: &PersistentFilters,
    ) -> Result<Vec<(ClientId, ChannelName)>, StoreError> {
        let mut owners = filters.ended_groups().to_vec();
        owners.sort_unstable();
        owners.dedup();
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let add = |values: &mut sqlx::mysql::MySqlArguments, owner: &ClientId| {
                    rows::add_name(values, owner.as_str())
                };
                CURSORS.fetch(lease.connection()?, &owners, add).await
            });
            let found = found.await;
            lease.done(found)
        })
        .await?
        .iter()
        .map(|row| Ok((rows::client(row, 0)?, rows::channel(row, 1)?)))
        .collect()
    }

    /// See [`Store::filters`](crate::store::Store::filters).
    pub(super) async fn read_filters(&self, client: &ClientId) -> Result<Vec<StoredFilter>, StoreError> {
        let sql =
            "SELECT filter, options FROM filters WHERE client_id = ? AND gone_at IS NULL ORDER BY filter";
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let query = sqlx::query(sql).bind(client.as_str().as_bytes());
                Ok(query.fetch_all(lease.connection()?).await?)
            });
            let found = found.await;
            lease.done(found)
        });
        let filter =
            |row: &MySqlRow| Ok(StoredFilter { filter: text(row, 0)?, options: rows::options(row, 1)? });
        found.await?.iter().map(filter).collect()
    }

    /// Carries out the changes of filters of a batch, before the batch. Each is committed, and can be repeated.
    pub(super) async fn change_filters(&self, batch: &[Operation]) -> Result<Changed, StoreError> {
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let changes = limited(async { changes(lease.connection()?, batch).await });
            let changes = changes.await;
            let (changes, changed) = lease.done(changes)?;
            let ends_cursors = ends_idle_cursors(batch);
            if ends_cursors || !changes.is_empty() {
                self.write_filters(&changes, ends_cursors).await?;
            }
            Ok(changed)
        })
        .await
    }

    /// Writes changes of filters as one version.
    async fn write_filters(&self, changes: &Changes, ends_cursors: bool) -> Result<(), StoreError> {
        let mut lease = self.connections.lease().await?;
        let written = limited(async { write(lease.begin().await?, changes, ends_cursors).await }).await;
        lease.finish(written).await
    }

    /// Removes the filters of clients whose sessions have expired.
    pub(super) async fn expire_filters(&self, expired: &[ClientId]) -> Result<(), StoreError> {
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async { of_clients(lease.connection()?, expired).await }).await;
            let found = lease.done(found)?;
            if found.is_empty() {
                return Ok(());
            }
            self.write_filters(&found.into_iter().map(|filter| (filter, None)).collect(), false).await
        })
        .await
    }

    /// Deletes the rows of filters that were removed long ago.
    pub(super) async fn purge_filters(&self) -> Result<(), StoreError> {
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let purged = limited(async { purge(lease.begin().await?).await }).await;
            lease.finish(purged).await
        })
        .await
    }

    /// Reads the changes of filters that `known` lacks.
    pub(super) async fn read_filter_changes(&self, known: &mut SharedFilters) -> Result<(), StoreError> {
        let before = known.version;
        let Read { rows, owners, version, is_whole, have_cursors_ended } = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let read = limited(async { read_changes(lease.connection()?, before).await }).await;
            lease.done(read)
        })
        .await?;
        if is_whole {
            known.filters = PersistentFilters::default();
        } else if have_cursors_ended {
            known.filters.forget_complete();
        }
        for row in &rows {
            let (client, filter) = (rows::client(row, 0)?, text(row, 1)?);
            let is_gone = row.try_get::<Option<i64>, _>(3)?.is_some();
            if !is_gone && needs_cursors(rows::options(row, 2)?) {
                known.filters.insert(&client, &filter);
            } else {
                known.filters.remove(&client, &filter);
            }
        }
        known.filters.found_groups(owners);
        known.version = Some(version);
        Ok(())
    }
}

fn text(row: &MySqlRow, column: usize) -> Result<String, StoreError> {
    let bytes: Vec<u8> = row.try_get(column)?;
    String::from_utf8(bytes).map_err(|_| StoreError::Corrupt { what: "filter" })
}

/// Changes of filters.
struct Read {
    rows: Vec<MySqlRow>,
    /// The owners of groups that have cursors, if all filters were read.
    owners: Vec<ClientId>,
    version: i64,
    /// These are all filters.
    is_whole: bool,
    /// Idle cursors may have been deleted since.
    have_cursors_ended: bool,
}

/// The changes with a version above `after`.
async fn read_changes(connection: &mut MySqlConnection, after: Option<i64>) -> Result<Read, StoreError> {
    // A change is visible as a whole when its version is: later ones may be read, too, and are read again.
    let sql = "SELECT version, purged, (SELECT value FROM meta WHERE name = 'cursors_ended') \
        FROM filters_version WHERE id = 0";
    let row = sqlx::query(sql).fetch_one(&mut *connection).await?;
    let (version, purged): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
    let ended = row.try_get::<Option<i64>, _>(2)?;
    let after = after.filter(|after| *after >= purged);
    let sql = "SELECT client_id, filter, options, gone_at FROM filters WHERE version > ?";
    let rows = sqlx::query(sql).bind(after.unwrap_or(-1)).fetch_all(&mut *connection).await?;
    let mut owners = Vec::new();
    if after.is_none() {
        // The ids of groups begin with a space.
        let sql = "SELECT DISTINCT client_id FROM subscriptions FORCE INDEX (subscriptions_by_client) \
            WHERE client_id >= ' ' AND client_id < '!'";
        for row in sqlx::query(sql).fetch_all(connection).await? {
            owners.push(rows::client(&row, 0)?);
        }
    }
    let have_cursors_ended = ended > after;
    Ok(Read { rows, owners, version, is_whole: after.is_none(), have_cursors_ended })
}

/// Reads the version of the filters, and holds it until the end of the transaction.
pub(super) async fn hold_version(connection: &mut MySqlConnection) -> Result<i64, StoreError> {
    let sql = "SELECT version FROM filters_version WHERE id = 0 LOCK IN SHARE MODE";
    Ok(sqlx::query_scalar(sql).fetch_one(connection).await?)
}

async fn of_clients(
    connection: &mut MySqlConnection,
    clients: &[ClientId],
) -> Result<Vec<(ClientId, String)>, StoreError> {
    let mut clients: Vec<_> = clients.iter().collect();
    clients.sort_unstable();
    clients.dedup();
    let found =
        OF_CLIENTS.fetch(connection, &clients, |values, client| rows::add_name(values, client.as_str()));
    let mut found: Vec<_> = found
        .await?
        .iter()
        .map(|row| Ok((rows::client(row, 0)?, text(row, 1)?)))
        .collect::<Result<_, StoreError>>()?;
    found.sort_unstable();
    found.dedup();
    Ok(found)
}

/// The changes of filters of a batch.
async fn changes(
    connection: &mut MySqlConnection,
    batch: &[Operation],
) -> Result<(Changes, Changed), StoreError> {
    let (mut changes, mut changed) = (Changes::new(), Changed::default());
    let mut begun = Vec::new();
    let mut losing = Vec::new();
    for operation in batch {
        match operation {
            Operation::BeginSession(begin) => begun.push(begin.client.clone()),
            Operation::UnsubscribeFilter { client, .. } => losing.push(client.clone()),
            Operation::SubscribeFilter { client, options, .. } if !needs_cursors(*options) => {
                losing.push(client.clone());
            }
            _ => {}
        }
    }
    let of_begun = of_clients(connection, &begun).await?;
    if !of_begun.is_empty() {
        let found = ENDS.fetch(connection, &begun, |values, client| rows::add_name(values, client.as_str()));
        let mut ends: Vec<(ClientId, Option<i64>)> = Vec::new();
        for row in found.await? {
            ends.push((rows::client(&row, 0)?, row.try_get(1)?));
        }
        for operation in batch {
            let Operation::BeginSession(begin) = operation else { continue };
            let end = ends.iter().find(|(client, _)| *client == begin.client).and_then(|(_, end)| *end);
            if begin.is_clean || end.is_some_and(|end| end <= millis(begin.now)) {
                let own = of_begun.iter().filter(|(client, _)| *client == begin.client);
                changes.extend(own.map(|filter| (filter.clone(), None)));
            }
        }
    }
    let of_losing = of_clients(connection, &losing).await?;
    for operation in batch {
        match operation {
            Operation::SubscribeFilter { client, filter, options } => {
                changes.insert((client.clone(), filter.clone()), Some(*options));
            }
            Operation::UnsubscribeFilter { client, filter } => {
                let filter = (client.clone(), filter.clone());
                if of_losing.binary_search(&filter).is_ok() || changes.contains_key(&filter) {
                    changed.removed.push(filter.clone());
                    changes.insert(filter, None);
                }
            }
            _ => {}
        }
    }
    losing.sort_unstable();
    losing.dedup();
    let cursors =
        CURSORS.fetch(connection, &losing, |values, client| rows::add_name(values, client.as_str()));
    for row in cursors.await? {
        changed.outdated.push((rows::client(&row, 0)?, rows::channel(&row, 1)?));
    }
    Ok((changes, changed))
}

async fn write(
    connection: &mut MySqlConnection,
    changes: &Changes,
    ends_cursors: bool,
) -> Result<(), StoreError> {
    let sql = "SELECT version FROM filters_version WHERE id = 0 FOR UPDATE";
    let version = sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut *connection).await? + 1;
    let now = millis(SystemTime::now());
    let (mut put, mut gone) = (Vec::new(), Vec::new());
    for ((client, filter), options) in changes {
        match options {
            Some(options) => put.push((client, filter, *options)),
            None => gone.push((client, filter)),
        }
    }
    let remove = REMOVE.execute(connection, &gone, |values, (client, filter)| {
        rows::add_name(values, client.as_str())?;
        rows::add_name(values, filter)?;
        values.add(version)?;
        values.add(now)
    });
    remove.await?;
    let put = PUT.execute(connection, &put, |values, (client, filter, options)| {
        rows::add_name(values, client.as_str())?;
        rows::add_name(values, filter)?;
        rows::add_options(values, *options)?;
        values.add(version)
    });
    put.await?;
    if ends_cursors {
        let sql = "INSERT INTO meta (name, value) VALUES ('cursors_ended', ?) \
            ON DUPLICATE KEY UPDATE value = VALUES(value)";
        sqlx::query(sql).bind(version).execute(&mut *connection).await?;
    }
    let sql = "UPDATE filters_version SET version = ? WHERE id = 0";
    sqlx::query(sql).bind(version).execute(connection).await?;
    Ok(())
}

async fn purge(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    let Some(before) = SystemTime::now().checked_sub(KEPT_FOR) else { return Ok(()) };
    let sql = "SELECT client_id, filter, version FROM filters WHERE gone_at < ? LIMIT ?";
    let query = sqlx::query(sql).bind(millis(before)).bind(PURGED_AT_A_TIME);
    let found = query.fetch_all(&mut *connection).await?;
    if found.is_empty() {
        return Ok(());
    }
    let sql = "SELECT purged FROM filters_version WHERE id = 0 FOR UPDATE";
    let mut purged: i64 = sqlx::query_scalar(sql).fetch_one(&mut *connection).await?;
    for row in &found {
        let version: i64 = row.try_get(2)?;
        // A client may have subscribed again meanwhile.
        let sql = "DELETE FROM filters WHERE client_id = ? AND filter = ? AND version = ?";
        let delete = sqlx::query(sql).bind(row.try_get::<Vec<u8>, _>(0)?).bind(row.try_get::<Vec<u8>, _>(1)?);
        delete.bind(version).execute(&mut *connection).await?;
        purged = purged.max(version);
    }
    let sql = "UPDATE filters_version SET purged = ? WHERE id = 0";
    sqlx::query(sql).bind(purged).execute(connection).await?;
    Ok(())
}
