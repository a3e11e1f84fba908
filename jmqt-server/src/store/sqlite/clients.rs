//! The rows of clients: sessions that outlive their connections.

use std::sync::LazyLock;
use std::time::SystemTime;

use jmqt_core::ClientId;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{Arguments as _, Row as _};

use super::rows::{self, MultiRow};
use super::{SqliteStore, cursors};
use crate::store::client_row::ClientRow;
use crate::store::limits::limited;
use crate::store::plan::{ChannelRow, Plan};
use crate::store::time::millis;
use crate::store::{MUST_CHECK, Operation, SentStep, StoreError, StoredSession, StoredSubscription};

/// The number of sessions that one transaction marks, which limits the wait of a commit.
const UNCHECKED_AT_A_TIME: i64 = 256;

static CLIENTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        1,
        "SELECT client_id, last_seen, language, expiry_seconds, ends_at, unrecorded, owner, checked FROM clients \
         WHERE client_id IN ({rows})",
    )
});
static SUBSCRIPTIONS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        1,
        "SELECT s.client_id, c.id, c.last_seq, c.persistent_count, c.total_bytes, s.acked_seq, \
         s.acked_beyond, s.options \
         FROM subscriptions AS s JOIN channels AS c ON c.id = s.channel_id WHERE s.client_id IN ({rows})",
    )
});
static WRITE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        8,
        "INSERT OR REPLACE INTO clients (client_id, last_seen, language, expiry_seconds, ends_at, unrecorded, owner, checked) \
         SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL",
    )
});
static DELETE: LazyLock<MultiRow> =
    LazyLock::new(|| MultiRow::new(1, "DELETE FROM clients WHERE client_id IN ({rows})"));
/// A last-seen time never moves back.
static SEEN: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        3,
        "UPDATE clients SET last_seen = MAX(last_seen, v.column2), ends_at = v.column2 + expiry_seconds * 1000, \
         unrecorded = CASE WHEN unrecorded = v.column3 THEN 0 ELSE unrecorded END \
         FROM (VALUES {rows}) AS v \
         WHERE clients.client_id = v.column1 AND (clients.last_seen < v.column2 \
         OR clients.unrecorded = v.column3 \
         OR clients.ends_at IS NULL AND clients.expiry_seconds IS NOT NULL)",
    )
});

static FORGET_RECEIVED: LazyLock<MultiRow> =
    LazyLock::new(|| MultiRow::new(1, "DELETE FROM received WHERE client_id IN ({rows})"));
static FORGET_SENT: LazyLock<MultiRow> =
    LazyLock::new(|| MultiRow::new(1, "DELETE FROM sent WHERE client_id IN ({rows})"));

#[cfg(test)]
pub(super) fn statements() -> [&'static MultiRow; 7] {
    [&CLIENTS, &SUBSCRIPTIONS, &WRITE, &DELETE, &SEEN, &FORGET_RECEIVED, &FORGET_SENT]
}

impl SqliteStore {
    /// See [`Store::session`](crate::store::Store::session).
    pub(super) async fn read_session(&self, client: &ClientId) -> Result<Option<StoredSession>, StoreError> {
        self.check_open()?;
        if !self.clients.may_contain(client.as_str()) {
            return Ok(None);
        }
        let sql = "SELECT l.expiry_seconds, c.id, c.name, c.last_seq, s.acked_seq, s.acked_beyond, s.options, \
            EXISTS (SELECT 1 FROM wills AS w WHERE w.client_id = l.client_id), l.owner, l.checked \
            FROM clients AS l LEFT JOIN subscriptions AS s ON s.client_id = l.client_id \
            LEFT JOIN channels AS c ON c.id = s.channel_id WHERE l.client_id = ? ORDER BY s.channel_id";
        let found = limited(async {
            let mut reader = self.reader().await?;
            Ok(rows::run(sqlx::query(sql).bind(client.as_str()), &mut reader).await?.0)
        });
        let found = found.await?;
        let Some(first) = found.first() else { return Ok(None) };
        let (expiry, has_will) = (expiry(first, 0)?, rows::count(first, 7)? != 0);
        let (owner, checked) = (owner(first, 8)?, first.try_get(9)?);
        let mut subscriptions = Vec::new();
        for row in &found {
            if row.try_get::<Option<i64>, _>(1)?.is_some() {
                subscriptions.push(subscription(row, 1)?);
            }
        }
        Ok(Some(StoredSession { expiry, has_will, owner, checked, subscriptions }))
    }

    /// See [`Store::session_owner`](crate::store::Store::session_owner).
    pub(super) async fn read_owner(&self, client: &ClientId) -> Result<Option<Box<str>>, StoreError> {
        self.check_open()?;
        if !self.clients.may_contain(client.as_str()) {
            return Ok(None);
        }
        let sql = "SELECT owner FROM clients WHERE client_id = ? AND (ends_at IS NULL OR ends_at > ?)";
        let found = limited(async {
            let mut reader = self.reader().await?;
            let query = sqlx::query(sql).bind(client.as_str()).bind(millis(SystemTime::now()));
            Ok(rows::run(query, &mut reader).await?.0)
        });
        let found = found.await?;
        found.first().map_or(Ok(None), |row| owner(row, 0))
    }

    /// See [`Store::uncheck_sessions`](crate::store::Store::uncheck_sessions).
    pub(super) async fn uncheck_some(
        &self,
        after: Option<&ClientId>,
    ) -> Result<Option<ClientId>, StoreError> {
        let after = after.map_or("", ClientId::as_str);
        let mut writer = self.writer().await?;
        let connection = writer.connection()?;
        limited(async {
            let sql = "SELECT client_id FROM clients WHERE client_id > ? ORDER BY client_id LIMIT ?";
            let query = sqlx::query(sql).bind(after).bind(UNCHECKED_AT_A_TIME);
            let found = query.fetch_all(&mut *connection).await?;
            let Some(last) = found.last() else { return Ok(None) };
            let last = rows::client(last, 0)?;
            let sql = "UPDATE clients SET checked = ? WHERE client_id > ? AND client_id <= ?";
            let query = sqlx::query(sql).bind(MUST_CHECK).bind(after).bind(last.as_str());
            query.execute(connection).await?;
            Ok(Some(last))
        })
        .await
    }
}

/// Reads a subscription from consecutive columns.
pub(super) fn subscription(row: &SqliteRow, column: usize) -> Result<StoredSubscription, StoreError> {
    Ok(StoredSubscription {
        key: rows::key(row, column)?,
        channel: rows::channel(row, column + 1)?,
        last: rows::seq(row, column + 2)?,
        cursor: cursors::read(row, column + 3)?,
        options: rows::options(row, column + 5)?,
    })
}

fn expiry(row: &SqliteRow, column: usize) -> Result<Option<u32>, StoreError> {
    let seconds = row.try_get::<Option<i64>, _>(column)?.map(u32::try_from).transpose();
    seconds.map_err(|_| StoreError::Corrupt { what: "expiry of a session" })
}

fn owner(row: &SqliteRow, column: usize) -> Result<Option<Box<str>>, StoreError> {
    Ok(row.try_get::<Option<String>, _>(column)?.map(String::into_boxed_str))
}

/// Inserts the needed rows of clients into `plan`, and all subscriptions of [those with cursors](Plan::clients_with_cursors).
pub(super) async fn load<'b>(
    connection: &mut SqliteConnection,
    plan: &mut Plan<'b>,
    batch: &'b [Operation],
) -> Result<(), StoreError> {
    for row in CLIENTS.fetch(connection, &plan.clients(), |values, it| values.add(it.as_str())).await? {
        let client = rows::client(&row, 0)?;
        let found = ClientRow {
            last_seen: row.try_get(1)?,
            is_mqtt: row.try_get::<i64, _>(2)? != 0,
            expiry: expiry(&row, 3)?,
            ends_at: row.try_get(4)?,
            unrecorded: row.try_get(5)?,
            owner: owner(&row, 6)?,
            checked: row.try_get(7)?,
        };
        plan.put_client(&client, found);
    }
    let ending = plan.clients_with_cursors(batch);
    for row in SUBSCRIPTIONS.fetch(connection, &ending, |values, it| values.add(it.as_str())).await? {
        let (client, key) = (rows::client(&row, 0)?, rows::key(&row, 1)?);
        let (last, persistent, bytes) = (rows::seq(&row, 2)?, rows::count(&row, 3)?, rows::count(&row, 4)?);
        plan.put_unnamed_channel(ChannelRow { key, last, persistent, bytes });
        plan.put_subscription_of(&client, key, cursors::read(&row, 5)?, rows::options(&row, 7)?);
    }
    Ok(())
}

/// Deletes what is stored for sessions that have ended, beside their rows and subscriptions.
pub(super) async fn delete_state(
    connection: &mut SqliteConnection,
    clients: &[&ClientId],
) -> Result<(), StoreError> {
    for forget in [&FORGET_RECEIVED, &FORGET_SENT] {
        forget.execute(connection, clients, |values, it| values.add(it.as_str())).await?;
    }
    Ok(())
}

/// Writes the changed rows of clients.
pub(super) async fn write(connection: &mut SqliteConnection, plan: &Plan<'_>) -> Result<(), StoreError> {
    delete_state(connection, &plan.ended_sessions()).await?;
    DELETE.execute(connection, &plan.gone_clients(), |values, it| values.add(it.as_str())).await?;
    let changed = plan.changed_clients();
    let write = WRITE.execute(connection, &changed, |values, (client, row)| {
        values.add(client.as_str())?;
        values.add(row.last_seen)?;
        values.add(i64::from(row.is_mqtt))?;
        values.add(row.expiry.map(i64::from))?;
        values.add(row.ends_at)?;
        values.add(row.unrecorded)?;
        values.add(row.owner.as_deref())?;
        values.add(row.checked)
    });
    write.await?;
    Ok(())
}

/// Records that these clients are not connected any more; each is there once. The number is that of
/// [`client_row::settled`](crate::store::client_row::settled).
pub(super) async fn seen(
    connection: &mut SqliteConnection,
    clients: &[(&ClientId, i64)],
) -> Result<(), StoreError> {
    let now = millis(SystemTime::now());
    let seen = SEEN.execute(connection, clients, |values, (client, settled)| {
        values.add(client.as_str())?;
        values.add(now)?;
        values.add(*settled)
    });
    seen.await?;
    Ok(())
}

/// Begins the expiry of sessions whose connections have ended without a record: the previous process died, and had not
/// yet stored them. Notes which messages they may have sent.
pub(super) async fn end_connections(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let sql = "INSERT OR REPLACE INTO sent (client_id, packet_id, turn, channel_id, seq, released) \
        SELECT l.client_id, 1, c.id, c.id, c.last_seq, ? FROM clients AS l \
        CROSS JOIN subscriptions AS s ON s.client_id = l.client_id \
        CROSS JOIN channels AS c ON c.id = s.channel_id \
        WHERE l.unrecorded <> 0 AND s.acked_seq < c.last_seq";
    sqlx::query(sql).bind(SentStep::Perhaps.number()).execute(&mut *connection).await?;
    let sql = "UPDATE clients SET unrecorded = 0 WHERE unrecorded <> 0";
    sqlx::query(sql).execute(&mut *connection).await?;
    let sql = "UPDATE clients SET ends_at = ? + expiry_seconds * 1000 \
        WHERE expiry_seconds IS NOT NULL AND ends_at IS NULL";
    sqlx::query(sql).bind(millis(SystemTime::now())).execute(connection).await?;
    Ok(())
}
