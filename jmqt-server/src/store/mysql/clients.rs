//! The rows of clients: sessions that outlive their connections.

use std::collections::BTreeSet;
use std::sync::LazyLock;
use std::time::SystemTime;

use jmqt_core::ClientId;
use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlRow};
use sqlx::{Arguments as _, Row as _};

use super::connection::retried;
use super::rows::{self, MultiRow};
use super::{MySqlStore, cursors};
use crate::store::client_row::ClientRow;
use crate::store::limits::limited;
use crate::store::plan::Plan;
use crate::store::time::millis;
use crate::store::{
    ChannelKey, MUST_CHECK, Operation, SentStep, StoreError, StoredSession, StoredSubscription,
};

/// The number of sessions that one call marks.
const UNCHECKED_AT_A_TIME: i64 = 64;

/// Without a lock: the node of the client's session is the only one that changes the row now.
static CLIENTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::list(
        "SELECT client_id, last_seen, language, expiry_seconds, ends_at, unrecorded, owner, checked FROM clients \
         WHERE client_id IN ({rows})",
    )
});
static KEYS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::list(
        "SELECT channel_id FROM subscriptions FORCE INDEX (subscriptions_by_client) WHERE client_id IN ({rows})",
    )
});
static SUBSCRIPTIONS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::list(
        "SELECT client_id, channel_id, acked_seq, acked_beyond, options \
         FROM subscriptions FORCE INDEX (subscriptions_by_client) WHERE client_id IN ({rows})",
    )
});
static WRITE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "(?,?,?,?,?,?,?,?)",
        ",",
        "INSERT INTO clients (client_id, last_seen, language, expiry_seconds, ends_at, unrecorded, owner, checked) VALUES {rows} \
         ON DUPLICATE KEY UPDATE last_seen = VALUES(last_seen), language = VALUES(language), \
         expiry_seconds = VALUES(expiry_seconds), ends_at = VALUES(ends_at), unrecorded = VALUES(unrecorded), \
         owner = VALUES(owner), checked = VALUES(checked)",
    )
});
static DELETE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY"],
        "DELETE c FROM ({rows}) AS v STRAIGHT_JOIN clients AS c ON c.client_id = v.a",
    )
});
/// A last-seen time never moves back.
static SEEN: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "SIGNED", "SIGNED"],
        "UPDATE ({rows}) AS v STRAIGHT_JOIN clients AS c ON c.client_id = v.a \
         SET c.last_seen = GREATEST(c.last_seen, v.b), c.ends_at = v.b + c.expiry_seconds * 1000, \
         c.unrecorded = IF(c.unrecorded = v.c, 0, c.unrecorded) \
         WHERE c.last_seen < v.b OR c.unrecorded = v.c OR (c.ends_at IS NULL AND c.expiry_seconds IS NOT NULL)",
    )
});

static FORGET_RECEIVED: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY"],
        "DELETE r FROM ({rows}) AS v STRAIGHT_JOIN received AS r ON r.client_id = v.a",
    )
});
static FORGET_SENT: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(&["BINARY"], "DELETE s FROM ({rows}) AS v STRAIGHT_JOIN sent AS s ON s.client_id = v.a")
});

impl MySqlStore {
    /// See [`Store::session`](crate::store::Store::session).
    pub(super) async fn read_session(&self, client: &ClientId) -> Result<Option<StoredSession>, StoreError> {
        let sql = "SELECT l.expiry_seconds, c.id, c.name, c.last_seq, s.acked_seq, s.acked_beyond, s.options, \
            EXISTS (SELECT 1 FROM wills AS w WHERE w.client_id = l.client_id), l.owner, l.checked \
            FROM clients AS l LEFT JOIN subscriptions AS s ON s.client_id = l.client_id \
            LEFT JOIN channels AS c ON c.id = s.channel_id WHERE l.client_id = ? ORDER BY s.channel_id";
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let query = sqlx::query(sql).bind(client.as_str().as_bytes());
                Ok(query.fetch_all(lease.connection()?).await?)
            });
            let found = found.await;
            lease.done(found)
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
        let sql = "SELECT owner FROM clients WHERE client_id = ? AND (ends_at IS NULL OR ends_at > ?)";
        let now = millis(SystemTime::now());
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let query = sqlx::query(sql).bind(client.as_str().as_bytes()).bind(now);
                Ok(query.fetch_optional(lease.connection()?).await?)
            });
            let found = found.await;
            lease.done(found)
        });
        found.await?.map_or(Ok(None), |row| owner(&row, 0))
    }

    /// See [`Store::uncheck_sessions`](crate::store::Store::uncheck_sessions).
    pub(super) async fn uncheck_some(
        &self,
        after: Option<&ClientId>,
    ) -> Result<Option<ClientId>, StoreError> {
        let after = after.map_or("", ClientId::as_str).as_bytes();
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let done = limited(async {
                let connection = lease.connection()?;
                let sql = "SELECT client_id FROM clients WHERE client_id > ? ORDER BY client_id LIMIT ?";
                let query = sqlx::query(sql).bind(after).bind(UNCHECKED_AT_A_TIME);
                let found = query.fetch_all(&mut *connection).await?;
                let mut last = None;
                // By their keys: a range would lock the gaps between them.
                for row in &found {
                    let client = rows::client(row, 0)?;
                    let sql = "UPDATE clients SET checked = ? WHERE client_id = ?";
                    let query = sqlx::query(sql).bind(MUST_CHECK).bind(client.as_str().as_bytes());
                    query.execute(&mut *connection).await?;
                    last = Some(client);
                }
                Ok(last)
            });
            let done = done.await;
            lease.done(done)
        })
        .await
    }
}

/// Reads a subscription from consecutive columns.
pub(super) fn subscription(row: &MySqlRow, column: usize) -> Result<StoredSubscription, StoreError> {
    Ok(StoredSubscription {
        key: rows::key(row, column)?,
        channel: rows::channel(row, column + 1)?,
        last: rows::seq(row, column + 2)?,
        cursor: cursors::read(row, column + 3)?,
        options: rows::options(row, column + 5)?,
    })
}

fn expiry(row: &MySqlRow, column: usize) -> Result<Option<u32>, StoreError> {
    let seconds = row.try_get::<Option<i64>, _>(column)?.map(u32::try_from).transpose();
    seconds.map_err(|_| StoreError::Corrupt { what: "expiry of a session" })
}

fn owner(row: &MySqlRow, column: usize) -> Result<Option<Box<str>>, StoreError> {
    Ok(rows::optional_text(row, column)?.map(Into::into))
}

/// Inserts the needed rows of clients into `plan`, and returns the channels of the clients whose sessions may end.
pub(super) async fn load<'b>(
    connection: &mut MySqlConnection,
    plan: &mut Plan<'b>,
    batch: &'b [Operation],
) -> Result<BTreeSet<ChannelKey>, StoreError> {
    for row in CLIENTS.fetch(connection, &plan.clients(), add_client).await? {
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
    let found = KEYS.fetch(connection, &ending, add_client).await?;
    found.iter().map(|row| rows::key(row, 0)).collect()
}

/// Inserts all subscriptions of [those with cursors](Plan::clients_with_cursors). Returns `false` if one of their channels is not in
/// `plan`, and therefore not locked.
pub(super) async fn load_subscriptions<'b>(
    connection: &mut MySqlConnection,
    plan: &mut Plan<'b>,
    batch: &'b [Operation],
) -> Result<bool, StoreError> {
    let ending = plan.clients_with_cursors(batch);
    for row in SUBSCRIPTIONS.fetch(connection, &ending, add_client).await? {
        let (client, key) = (rows::client(&row, 0)?, rows::key(&row, 1)?);
        if !plan.has_channel(key) {
            return Ok(false);
        }
        plan.put_subscription_of(&client, key, cursors::read(&row, 2)?, rows::options(&row, 4)?);
    }
    Ok(true)
}

/// Deletes what is stored for sessions that have ended, beside their rows and subscriptions.
pub(super) async fn delete_state(
    connection: &mut MySqlConnection,
    clients: &[&ClientId],
) -> Result<(), StoreError> {
    for forget in [&FORGET_RECEIVED, &FORGET_SENT] {
        forget.execute(connection, clients, add_client).await?;
    }
    Ok(())
}

/// Writes the changed rows of clients, which must be locked.
pub(super) async fn write(connection: &mut MySqlConnection, plan: &Plan<'_>) -> Result<(), StoreError> {
    delete_state(connection, &plan.ended_sessions()).await?;
    DELETE.execute(connection, &plan.gone_clients(), add_client).await?;
    let changed = plan.changed_clients();
    let write = WRITE.execute(connection, &changed, |values, (client, row)| {
        rows::add_name(values, client.as_str())?;
        values.add(row.last_seen)?;
        values.add(i64::from(row.is_mqtt))?;
        values.add(row.expiry.map(i64::from))?;
        values.add(row.ends_at)?;
        values.add(row.unrecorded)?;
        values.add(row.owner.as_deref().map(str::as_bytes))?;
        values.add(row.checked)
    });
    write.await?;
    Ok(())
}

/// Records that these clients are not connected any more; they must be sorted, and each is there once. The number is that
/// of [`client_row::settled`](crate::store::client_row::settled).
pub(super) async fn seen(
    connection: &mut MySqlConnection,
    clients: &[(&ClientId, i64)],
) -> Result<(), StoreError> {
    let now = millis(SystemTime::now());
    let seen = SEEN.execute(connection, clients, |values, (client, settled)| {
        rows::add_name(values, client.as_str())?;
        values.add(now)?;
        values.add(*settled)
    });
    seen.await?;
    Ok(())
}

/// Begins the expiry of sessions whose connections have ended without a record: the previous process died, and had not
/// yet stored them. Notes which messages they may have sent. For a store that no other node uses.
pub(super) async fn end_connections(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    let sql = "INSERT INTO sent (client_id, packet_id, turn, channel_id, seq, released) \
        SELECT l.client_id, 1, c.id, c.id, c.last_seq, ? FROM clients AS l \
        STRAIGHT_JOIN subscriptions AS s FORCE INDEX (subscriptions_by_client) ON s.client_id = l.client_id \
        STRAIGHT_JOIN channels AS c ON c.id = s.channel_id \
        WHERE l.unrecorded <> 0 AND s.acked_seq < c.last_seq \
        ON DUPLICATE KEY UPDATE seq = VALUES(seq)";
    sqlx::query(sql).bind(SentStep::Perhaps.number()).execute(&mut *connection).await?;
    let sql = "UPDATE clients SET unrecorded = 0 WHERE unrecorded <> 0";
    sqlx::query(sql).execute(&mut *connection).await?;
    let sql = "UPDATE clients SET ends_at = ? + expiry_seconds * 1000 \
        WHERE expiry_seconds IS NOT NULL AND ends_at IS NULL";
    sqlx::query(sql).bind(millis(SystemTime::now())).execute(connection).await?;
    Ok(())
}

fn add_client(values: &mut MySqlArguments, client: &&ClientId) -> Result<(), sqlx::error::BoxDynError> {
    rows::add_name(values, client.as_str())
}
