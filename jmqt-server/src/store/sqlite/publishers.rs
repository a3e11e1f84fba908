//! The accepted publishes of publishers that use publishing once.

use std::sync::LazyLock;
use std::time::SystemTime;

use jmqt_core::ClientId;
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{Arguments as _, Row as _};

use super::SqliteStore;
use super::rows::{self, MultiRow};
use crate::name_map::NameMap;
use crate::store::limits::limited;
use crate::store::plan::{Plan, Publisher};
use crate::store::publisher::{LOOKED_AT, PublisherRow, Seen, remembered, too_many};
use crate::store::time::millis;
use crate::store::{Forgotten, PublisherId, StoreError};

/// The number of publishers cached in memory.
const KNOWN: usize = 8192;
/// The most runs of a cached publisher. A typical publisher has one run.
const KNOWN_RUNS: usize = 16;

static PUBLISHERS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        2,
        "SELECT p.client_id, p.publisher, p.seen FROM (VALUES {rows}) AS v CROSS JOIN publishers AS p \
         ON p.client_id = v.column1 AND p.publisher = v.column2",
    )
});
static REMEMBER: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        4,
        "INSERT OR REPLACE INTO publishers (client_id, publisher, used_at, seen) \
         SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL",
    )
});
static OF_CLIENTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(1, "SELECT client_id, publisher, used_at FROM publishers WHERE client_id IN ({rows})")
});
/// The join tells SQLite the types it needs to use the key.
static FORGET: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        2,
        "DELETE FROM publishers WHERE (client_id, publisher) IN \
         (SELECT p.client_id, p.publisher FROM (VALUES {rows}) AS v CROSS JOIN publishers AS p \
         ON p.client_id = v.column1 AND p.publisher = v.column2)",
    )
});

#[cfg(test)]
pub(super) fn statements() -> [&'static MultiRow; 4] {
    [&PUBLISHERS, &REMEMBER, &OF_CLIENTS, &FORGET]
}

type Key = (ClientId, PublisherId);

/// A cache of recent publishers. Others are read from the database, to which only this process writes.
#[derive(Debug, Default)]
pub(super) struct Publishers {
    /// The publishers, and if they have a row. A batch removes its publishers, and returns them when it is committed.
    known: NameMap<Key, (Seen, bool)>,
    /// The last publisher that was checked for expiry.
    up_to: Option<Key>,
}

impl Publishers {
    /// Inserts the publishers of `plan` from the cache or the database.
    pub(super) async fn load(
        &mut self,
        connection: &mut SqliteConnection,
        plan: &mut Plan<'_>,
    ) -> Result<(), StoreError> {
        let mut known = Vec::new();
        let mut unknown = Vec::new();
        for publisher in plan.publishers() {
            let key = (publisher.client.clone(), publisher.id.clone());
            match self.known.remove(&key) {
                Some(publisher) => known.push((key, publisher)),
                None => unknown.push(key),
            }
        }
        for ((client, id), (seen, stored)) in known {
            plan.put_publisher(&client, &id, seen, stored);
        }
        for row in PUBLISHERS.fetch(connection, &unknown, add_key).await? {
            let (client, id) = (rows::client(&row, 0)?, rows::publisher(&row, 1)?);
            plan.put_publisher(&client, &id, Seen::parse(row.try_get(2)?)?, true);
        }
        Ok(())
    }

    /// Caches the publishers of a committed batch.
    pub(super) fn keep(&mut self, publishers: Vec<Publisher<'_>>) {
        for Publisher { client, id, seen, stored, changed } in publishers {
            if seen.runs() > KNOWN_RUNS {
                continue;
            }
            if self.known.len() >= KNOWN {
                self.known.clear();
            }
            self.known.insert((client.clone(), id.clone()), (seen, stored || changed));
        }
    }

    /// Removes publishers without rows from the cache.
    pub(super) fn forget(&mut self, gone: &[Key]) {
        for key in gone {
            self.known.remove(key);
        }
    }
}

/// Writes the changed rows, and returns the publishers deleted because their clients have too many.
pub(super) async fn write(
    connection: &mut SqliteConnection,
    plan: &Plan<'_>,
) -> Result<Vec<Key>, StoreError> {
    let changed = plan.changed_publishers();
    if changed.is_empty() {
        return Ok(Vec::new());
    }
    let now = millis(SystemTime::now());
    let remember = REMEMBER.execute(connection, &changed, |values, publisher| {
        values.add(publisher.client.as_str())?;
        values.add(publisher.id.as_str())?;
        values.add(now)?;
        values.add(publisher.seen.to_bytes())
    });
    remember.await?;
    let mut clients: Vec<_> = changed.iter().filter(|it| !it.stored).map(|it| it.client).collect();
    clients.dedup();
    let found = OF_CLIENTS.fetch(connection, &clients, |values, client| values.add(client.as_str())).await?;
    let found = found.iter().map(publisher).collect::<Result<_, _>>()?;
    let gone = too_many(found, |client, id| plan.has_publisher(client, id));
    FORGET.execute(connection, &gone, add_key).await?;
    Ok(gone)
}

impl SqliteStore {
    /// See [`Store::forget_publishers`](crate::store::Store::forget_publishers).
    pub(super) async fn forget_some_publishers(&self, now: SystemTime) -> Result<Forgotten, StoreError> {
        let mut writer = self.writer().await?;
        let up_to = writer.publishers.up_to.take();
        let remembered = remembered(now);
        let forgotten = limited(async {
            let sql = "SELECT client_id, publisher, used_at FROM publishers \
                WHERE (client_id, publisher) > (?, ?) ORDER BY client_id, publisher LIMIT ?";
            let (client, id) = up_to.as_ref().map_or(("", ""), |(client, id)| (client.as_str(), id.as_str()));
            let query = sqlx::query(sql).bind(client).bind(id).bind(LOOKED_AT as i64);
            let found = query.fetch_all(writer.connection()?).await?;
            let found = found.iter().map(publisher).collect::<Result<Vec<_>, _>>()?;
            let last = found.last().filter(|_| found.len() == LOOKED_AT);
            let up_to = last.map(|row| (row.client.clone(), row.id.clone()));
            let old = found.into_iter().filter(|row| !remembered.contains(&row.used_at));
            let old: Vec<_> = old.map(|row| (row.client, row.id)).collect();
            if !old.is_empty() {
                writer.begin().await?;
                FORGET.execute(writer.connection()?, &old, add_key).await?;
            }
            Ok((old, up_to))
        })
        .await;
        let (old, up_to) = writer.finish(forgotten).await?;
        let is_round_complete = up_to.is_none();
        writer.publishers.up_to = up_to;
        writer.publishers.forget(&old);
        Ok(Forgotten { publishers: old.len() as u64, is_round_complete })
    }
}

fn publisher(row: &sqlx::sqlite::SqliteRow) -> Result<PublisherRow, StoreError> {
    Ok(PublisherRow { client: rows::client(row, 0)?, id: rows::publisher(row, 1)?, used_at: row.try_get(2)? })
}

fn add_key(values: &mut SqliteArguments, (client, id): &Key) -> Result<(), BoxDynError> {
    values.add(client.as_str())?;
    values.add(id.as_str())
}
