//! The rows of filters: subscriptions of MQTT sessions with wildcards, or with QoS 0.

use std::sync::LazyLock;

use jmqt_core::{ChannelName, ClientId};
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Arguments as _, Row as _};

use super::SqliteStore;
use super::rows::{self, MultiRow};
use crate::store::filters::{PersistentFilters, needs_cursors};
use crate::store::limits::limited;
use crate::store::plan::Plan;
use crate::store::time::millis;
use crate::store::{BeginSession, Operation, StoreError, StoredFilter, StoredSubscription};

static FILTERS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        2,
        "SELECT f.client_id, f.filter, f.options FROM (VALUES {rows}) AS v CROSS JOIN filters AS f \
         ON f.client_id = v.column1 AND f.filter = v.column2",
    )
});
static OF_CLIENTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(1, "SELECT client_id, filter, options FROM filters WHERE client_id IN ({rows})")
});
static ENDED: LazyLock<MultiRow> =
    LazyLock::new(|| MultiRow::new(1, "SELECT client_id, ends_at FROM clients WHERE client_id IN ({rows})"));
/// The channels with cursors that were created for filters (bit 4 of the options).
static CURSORS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        1,
        "SELECT s.client_id, c.name FROM subscriptions AS s JOIN channels AS c ON c.id = s.channel_id \
         WHERE s.client_id IN ({rows}) AND s.options & 16 <> 0",
    )
});
static PUT: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        3,
        "INSERT OR REPLACE INTO filters (client_id, filter, options) \
         SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL",
    )
});
static DELETE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        2,
        "DELETE FROM filters WHERE (client_id, filter) IN \
         (SELECT f.client_id, f.filter FROM (VALUES {rows}) AS v CROSS JOIN filters AS f \
         ON f.client_id = v.column1 AND f.filter = v.column2)",
    )
});
static FORGET: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(1, "DELETE FROM filters WHERE client_id IN ({rows}) RETURNING client_id, filter")
});

#[cfg(test)]
pub(super) fn statements() -> [&'static MultiRow; 7] {
    [&FILTERS, &OF_CLIENTS, &ENDED, &CURSORS, &PUT, &DELETE, &FORGET]
}

impl SqliteStore {
    /// See [`Store::filters`](crate::store::Store::filters).
    pub(super) async fn read_filters(&self, client: &ClientId) -> Result<Vec<StoredFilter>, StoreError> {
        self.check_open()?;
        if !self.clients.may_contain(client.as_str()) {
            return Ok(Vec::new());
        }
        let sql = "SELECT filter, options FROM filters WHERE client_id = ? ORDER BY filter";
        let found = limited(async {
            let mut reader = self.reader().await?;
            Ok(rows::run(sqlx::query(sql).bind(client.as_str()), &mut reader).await?.0)
        });
        let filter =
            |row: &SqliteRow| Ok(StoredFilter { filter: row.try_get(0)?, options: rows::options(row, 1)? });
        found.await?.iter().map(filter).collect()
    }

    /// See [`Store::has_group`](crate::store::Store::has_group).
    pub(super) async fn find_group(&self, owner: &ClientId) -> Result<bool, StoreError> {
        self.check_open()?;
        let mut writer = self.writer().await?;
        let filters = writer.take_filters().await?;
        let is_there = filters.has_group(owner);
        writer.filters = Some(filters);
        Ok(is_there)
    }

    /// See [`Store::subscription`](crate::store::Store::subscription).
    pub(super) async fn read_subscription(
        &self,
        client: &ClientId,
        channel: &ChannelName,
    ) -> Result<Option<StoredSubscription>, StoreError> {
        self.check_open()?;
        let sql = "SELECT c.id, c.name, c.last_seq, s.acked_seq, s.acked_beyond, s.options \
            FROM channels AS c JOIN subscriptions AS s ON s.channel_id = c.id \
            WHERE c.name = ? AND s.client_id = ?";
        let found = limited(async {
            let mut reader = self.reader().await?;
            let query = sqlx::query(sql).bind(channel.as_str()).bind(client.as_str());
            Ok(rows::run(query, &mut reader).await?.0)
        });
        found.await?.first().map(|row| super::clients::subscription(row, 0)).transpose()
    }
}

/// Reads all filters that need cursors.
pub(super) async fn load_all(connection: &mut SqliteConnection) -> Result<PersistentFilters, StoreError> {
    let mut filters = PersistentFilters::default();
    let sql = "SELECT client_id, filter, options FROM filters";
    for row in rows::run(sqlx::query(sql), connection).await?.0 {
        if needs_cursors(rows::options(&row, 2)?) {
            filters.insert(&rows::client(&row, 0)?, &row.try_get::<String, _>(1)?);
        }
    }
    // The ids of groups begin with a space.
    let sql = "SELECT DISTINCT client_id FROM subscriptions INDEXED BY subscriptions_by_client \
        WHERE client_id >= ' ' AND client_id < '!'";
    let owners = rows::run(sqlx::query(sql), connection).await?.0;
    filters.found_groups(owners.iter().map(|row| rows::client(row, 0)).collect::<Result<Vec<_>, _>>()?);
    Ok(filters)
}

/// Changes `filters` as the batch will change the rows. Returns the cursors that may not be needed any more.
pub(super) async fn prepare(
    connection: &mut SqliteConnection,
    filters: &mut PersistentFilters,
    batch: &[Operation],
) -> Result<Vec<(ClientId, ChannelName)>, StoreError> {
    for client in ending(connection, filters, batch).await? {
        for row in OF_CLIENTS.fetch(connection, &[client], add_client).await? {
            filters.remove(client, &row.try_get::<String, _>(1)?);
        }
    }
    let mut losing = Vec::new();
    for operation in batch {
        match operation {
            Operation::SubscribeFilter { client, filter, options } if needs_cursors(*options) => {
                filters.insert(client, filter);
            }
            Operation::SubscribeFilter { client, filter, .. }
            | Operation::UnsubscribeFilter { client, filter } => {
                filters.remove(client, filter);
                losing.push(client);
            }
            _ => {}
        }
    }
    losing.extend(filters.ended_groups());
    losing.sort_unstable();
    losing.dedup();
    let cursors = CURSORS.fetch(connection, &losing, |values, client| values.add(client.as_str()));
    cursors.await?.iter().map(|row| Ok((rows::client(row, 0)?, rows::channel(row, 1)?))).collect()
}

/// The clients with filters whose sessions the batch ends.
async fn ending<'b>(
    connection: &mut SqliteConnection,
    filters: &PersistentFilters,
    batch: &'b [Operation],
) -> Result<Vec<&'b ClientId>, StoreError> {
    let mut begun: Vec<&BeginSession> = Vec::new();
    for operation in batch {
        if let Operation::BeginSession(begin) = operation
            && filters.has(&begin.client)
        {
            begun.push(begin);
        }
    }
    let mut ends: Vec<(ClientId, Option<i64>)> = Vec::new();
    for row in ENDED.fetch(connection, &begun, |values, begin| values.add(begin.client.as_str())).await? {
        ends.push((rows::client(&row, 0)?, row.try_get(1)?));
    }
    let has_ended = |begin: &&BeginSession| {
        begin.is_clean
            || ends.iter().any(|(client, end)| {
                *client == begin.client && end.is_some_and(|end| end <= millis(begin.now))
            })
    };
    Ok(begun.into_iter().filter(has_ended).map(|begin| &begin.client).collect())
}

/// Inserts the filters that the batch changes into `plan`.
pub(super) async fn load(connection: &mut SqliteConnection, plan: &mut Plan<'_>) -> Result<(), StoreError> {
    let names = plan.filters();
    let found = FILTERS.fetch(connection, &names, |values, (client, filter)| {
        values.add(client.as_str())?;
        values.add(*filter)
    });
    for row in found.await? {
        let (client, filter) = (rows::client(&row, 0)?, row.try_get::<String, _>(1)?);
        if let Ok(index) = names.binary_search(&(&client, &filter)) {
            let (client, filter) = names[index];
            plan.put_filter(client, filter, rows::options(&row, 2)?);
        }
    }
    Ok(())
}

/// Writes the changed rows.
pub(super) async fn write(connection: &mut SqliteConnection, plan: &Plan<'_>) -> Result<(), StoreError> {
    FORGET.fetch(connection, &plan.ended_sessions(), |values, it| values.add(it.as_str())).await?;
    let (mut put, mut gone) = (Vec::new(), Vec::new());
    for (client, filter, options) in plan.changed_filters() {
        match options {
            Some(options) => put.push((client, filter, options)),
            None => gone.push((client, filter)),
        }
    }
    let delete = DELETE.execute(connection, &gone, |values, (client, filter)| {
        values.add(client.as_str())?;
        values.add(*filter)
    });
    delete.await?;
    let put = PUT.execute(connection, &put, |values, (client, filter, options)| {
        values.add(client.as_str())?;
        values.add(*filter)?;
        rows::add_options(values, *options)
    });
    put.await?;
    Ok(())
}

/// Deletes the filters of clients whose sessions have expired, and returns them.
pub(super) async fn forget(
    connection: &mut SqliteConnection,
    clients: &[&ClientId],
) -> Result<Vec<(ClientId, String)>, StoreError> {
    let found = FORGET.fetch(connection, clients, |values, client| values.add(client.as_str())).await?;
    found.iter().map(|row| Ok((rows::client(row, 0)?, row.try_get(1)?))).collect()
}

fn add_client(
    values: &mut sqlx::sqlite::SqliteArguments,
    client: &&ClientId,
) -> Result<(), sqlx::error::BoxDynError> {
    values.add(client.as_str())
}

/// Returns `true` if the batch changes filters, or may end sessions that have some.
pub(super) fn may_change(filters: &PersistentFilters, batch: &[Operation]) -> bool {
    !filters.ended_groups().is_empty()
        || batch.iter().any(|operation| match operation {
            Operation::SubscribeFilter { .. } | Operation::UnsubscribeFilter { .. } => true,
            Operation::BeginSession(begin) => filters.has(&begin.client),
            _ => false,
        })
}
