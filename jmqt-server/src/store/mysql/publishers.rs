//! The accepted publishes of publishers that use publishing once. A publisher may reconnect to another node
//! while the first node is still committing its last batch, so its row is locked before it is read.

use std::collections::HashSet;
use std::sync::{LazyLock, PoisonError};
use std::time::SystemTime;

use jmqt_core::ClientId;
use sqlx::error::BoxDynError;
use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlRow};
use sqlx::{Arguments as _, Row as _};

use super::MySqlStore;
use super::connection::{Connected, retried};
use super::rows::{self, MultiRow};
use crate::store::limits::limited;
use crate::store::plan::Plan;
use crate::store::publisher::{LOOKED_AT, PublisherRow, Seen, remembered, too_many};
use crate::store::time::millis;
use crate::store::{Forgotten, Operation, PublisherId, StoreError};

static LOCK: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "BINARY"],
        "SELECT p.client_id, p.publisher, p.seen FROM ({rows}) AS v STRAIGHT_JOIN publishers AS p \
         ON p.client_id = v.a AND p.publisher = v.b FOR UPDATE",
    )
});
/// Waits for another node that has inserted the same publisher.
static MAKE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "(?,?,?,'')",
        ",",
        "INSERT INTO publishers (client_id, publisher, used_at, seen) VALUES {rows} \
         ON DUPLICATE KEY UPDATE used_at = publishers.used_at",
    )
});
static REMEMBER: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::insert(
        "(?,?,?,?)",
        "INSERT INTO publishers (client_id, publisher, used_at, seen) VALUES {rows} \
         ON DUPLICATE KEY UPDATE used_at = VALUES(used_at), seen = VALUES(seen)",
    )
});
static OF_CLIENTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::list(
        "SELECT client_id, publisher, used_at FROM publishers FORCE INDEX (PRIMARY) \
         WHERE client_id IN ({rows})",
    )
});
static FORGET: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "BINARY"],
        "DELETE p FROM ({rows}) AS v STRAIGHT_JOIN publishers AS p \
         ON p.client_id = v.a AND p.publisher = v.b",
    )
});
/// As above, for publishers that have not published since they were read.
static FORGET_UNUSED: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "BINARY", "SIGNED"],
        "DELETE p FROM ({rows}) AS v STRAIGHT_JOIN publishers AS p \
         ON p.client_id = v.a AND p.publisher = v.b WHERE p.used_at = v.c",
    )
});

type Key = (ClientId, PublisherId);

/// The publisher after which the search for expired publishers continues; empty for the first.
pub(super) type Place = (Vec<u8>, Vec<u8>);

/// Locks the rows of the plan's publishers, in order, and inserts them into the plan. Missing rows are created, unless
/// nothing will be stored, so that two nodes cannot both find a row missing.
pub(super) async fn load(
    connection: &mut MySqlConnection,
    plan: &mut Plan<'_>,
    batch: &[Operation],
) -> Result<(), StoreError> {
    let mut wanted: Vec<Key> =
        plan.publishers().iter().map(|it| (it.client.clone(), it.id.clone())).collect();
    for are_made in [false, true] {
        let mut found = HashSet::new();
        for row in LOCK.fetch(connection, &wanted, add_key).await? {
            let (client, id) = (rows::client(&row, 0)?, publisher_id(&row, 1)?);
            // A new publisher has no accepted publishes.
            let seen = Seen::parse(row.try_get(2)?)?;
            let is_stored = seen.runs() > 0;
            plan.put_publisher(&client, &id, seen, is_stored);
            found.insert((client, id));
        }
        wanted.retain(|key| !found.contains(key));
        if wanted.is_empty() || are_made || plan.stores_no_message(batch) {
            break;
        }
        let now = millis(SystemTime::now());
        let make = MAKE.execute(connection, &wanted, |values, key| {
            add_key(values, key)?;
            values.add(now)
        });
        make.await?;
    }
    Ok(())
}

/// Writes the changed rows, and deletes publishers beyond the limit of their clients.
pub(super) async fn write(connected: &mut Connected, plan: &Plan<'_>) -> Result<(), StoreError> {
    let changed = plan.changed_publishers();
    if changed.is_empty() {
        return Ok(());
    }
    let now = millis(SystemTime::now());
    let rows: Vec<_> = changed.iter().map(|it| (it.client, it.id, it.seen.to_bytes())).collect();
    let mut rows = &rows[..];
    while !rows.is_empty() {
        let bytes = rows.iter().map(|(_, _, seen)| seen.len());
        let (some, others) = rows.split_at(rows::fitting(connected.max_packet, bytes));
        let remember = REMEMBER.execute(&mut connected.connection, some, |values, (client, id, seen)| {
            rows::add_name(values, client.as_str())?;
            rows::add_name(values, id.as_str())?;
            values.add(now)?;
            values.add(&seen[..])
        });
        remember.await?;
        rows = others;
    }
    let connection = &mut connected.connection;
    let mut clients: Vec<_> = changed.iter().filter(|it| !it.stored).map(|it| it.client).collect();
    clients.dedup();
    let add_client =
        |values: &mut MySqlArguments, client: &&ClientId| rows::add_name(values, client.as_str());
    let found = OF_CLIENTS.fetch(connection, &clients, add_client).await?;
    let found = found.iter().map(publisher).collect::<Result<_, _>>()?;
    let gone = too_many(found, |client, id| plan.has_publisher(client, id));
    FORGET.execute(connection, &gone, add_key).await?;
    Ok(())
}

impl MySqlStore {
    /// See [`Store::forget_publishers`](crate::store::Store::forget_publishers).
    pub(super) async fn forget_some_publishers(&self, now: SystemTime) -> Result<Forgotten, StoreError> {
        self.check_open()?;
        let remembered = remembered(now);
        let up_to = self.publishers_up_to.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut lease = self.connections.lease().await?;
        let found = limited(async { look(lease.connection()?, &up_to).await }).await;
        let found = lease.done(found)?;
        let last = found.last().filter(|_| found.len() == LOOKED_AT);
        let up_to = last.map(|row| (row.client.as_str().into(), row.id.as_str().into()));
        let mut old = found;
        old.retain(|row| !remembered.contains(&row.used_at));
        let publishers = match old.is_empty() {
            true => 0,
            false => retried(|| self.forget_unused(&old)).await?,
        };
        let is_round_complete = up_to.is_none();
        *self.publishers_up_to.lock().unwrap_or_else(PoisonError::into_inner) = up_to.unwrap_or_default();
        Ok(Forgotten { publishers, is_round_complete })
    }

    async fn forget_unused(&self, old: &[PublisherRow]) -> Result<u64, StoreError> {
        let mut lease = self.connections.lease().await?;
        let forgotten = limited(async {
            let forget = FORGET_UNUSED.execute(lease.begin().await?, old, |values, row| {
                rows::add_name(values, row.client.as_str())?;
                rows::add_name(values, row.id.as_str())?;
                values.add(row.used_at)
            });
            forget.await
        });
        let forgotten = forgotten.await;
        lease.finish(forgotten).await
    }
}

async fn look(
    connection: &mut MySqlConnection,
    (client, id): &Place,
) -> Result<Vec<PublisherRow>, StoreError> {
    let sql = "SELECT client_id, publisher, used_at FROM publishers FORCE INDEX (PRIMARY) \
        WHERE client_id >= ? AND (client_id > ? OR publisher > ?) ORDER BY client_id, publisher LIMIT ?";
    let query = sqlx::query(sql).bind(&client[..]).bind(&client[..]).bind(&id[..]).bind(LOOKED_AT as i64);
    query.fetch_all(connection).await?.iter().map(publisher).collect()
}

fn publisher(row: &MySqlRow) -> Result<PublisherRow, StoreError> {
    Ok(PublisherRow { client: rows::client(row, 0)?, id: publisher_id(row, 1)?, used_at: row.try_get(2)? })
}

fn publisher_id(row: &MySqlRow, column: usize) -> Result<PublisherId, StoreError> {
    PublisherId::parse(rows::text(row, column)?).ok_or(StoreError::Corrupt { what: "publisher" })
}

fn add_key(values: &mut MySqlArguments, (client, id): &Key) -> Result<(), BoxDynError> {
    rows::add_name(values, client.as_str())?;
    rows::add_name(values, id.as_str())
}
