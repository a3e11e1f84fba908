//! The wills of MQTT clients.

use std::sync::LazyLock;
use std::time::SystemTime;

use jmqt_core::ClientId;
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Arguments as _, Row as _};

use super::SqliteStore;
use super::rows::{self, MultiRow};
use crate::store::limits::limited;
use crate::store::plan::Plan;
use crate::store::time::millis;
use crate::store::will::{columns, delay_of, qos_level, qos_of};
use crate::store::{StoreError, StoredWill, WILLS_AT_A_TIME, WillKey};

/// The seconds that a will waits after the end of its connection: at most until the end of the session. A session that is
/// not stored ends with its connection.
macro_rules! delay {
    () => {
        "MIN(delay_seconds, COALESCE((SELECT COALESCE(c.expiry_seconds, 4294967295) FROM clients AS c \
         WHERE c.client_id = wills.client_id), 0))"
    };
}

static FIND: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        3,
        "SELECT w.client_id, w.generation, w.node_id FROM (VALUES {rows}) AS v CROSS JOIN wills AS w \
         ON w.client_id = v.column1 AND w.generation = v.column2 AND w.node_id = v.column3",
    )
});
static PENDING: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        2,
        "SELECT w.client_id FROM (VALUES {rows}) AS v CROSS JOIN wills AS w \
         ON w.client_id = v.column1 AND +w.due_at > v.column2",
    )
});
static ADD: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        11,
        concat!(
            "INSERT OR REPLACE INTO wills (",
            columns!(),
            ") SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL"
        ),
    )
});
/// The joins tell SQLite the types it needs to use the key; bare VALUES would mean a full scan.
static DELETE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        3,
        "DELETE FROM wills WHERE rowid IN (SELECT w.rowid FROM (VALUES {rows}) AS v CROSS JOIN wills AS w \
         ON w.client_id = v.column1 AND w.generation = v.column2 AND w.node_id = v.column3)",
    )
});
/// Of a session that continues, all that are not due; of others, only those that were postponed.
static CANCEL: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        3,
        "DELETE FROM wills WHERE rowid IN (SELECT w.rowid FROM (VALUES {rows}) AS v CROSS JOIN wills AS w \
         ON w.client_id = v.column1 AND +w.due_at > v.column2 AND (v.column3 = 1 OR w.postponed = 1))",
    )
});
static HASTEN: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        3,
        "UPDATE wills SET due_at = ? WHERE rowid IN (SELECT w.rowid FROM (VALUES {rows}) AS v \
         CROSS JOIN wills AS w ON w.client_id = v.column1 AND +w.due_at > v.column2 AND v.column3 = 0)",
    )
});
static END: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        3,
        concat!(
            "UPDATE wills SET due_at = ? + 1000 * MAX(?, ",
            delay!(),
            "), postponed = ? > ",
            delay!(),
            " FROM (VALUES {rows}) AS v WHERE wills.client_id = v.column1 \
             AND wills.generation = v.column2 AND wills.node_id = v.column3 AND wills.due_at IS NULL"
        ),
    )
});

#[cfg(test)]
pub(super) fn statements() -> [&'static MultiRow; 7] {
    [&FIND, &PENDING, &ADD, &DELETE, &CANCEL, &HASTEN, &END]
}

impl SqliteStore {
    /// See [`Store::end_wills`](crate::store::Store::end_wills).
    pub(super) async fn write_ended_wills(
        &self,
        sessions: &[(ClientId, u64)],
        node: &str,
        at_least: u32,
    ) -> Result<(), StoreError> {
        let mut writer = self.writer().await?;
        let ended = limited(async {
            writer.begin().await?;
            end(writer.connection()?, sessions, node, at_least).await
        });
        let ended = ended.await;
        writer.finish(ended).await
    }

    /// See [`Store::delete_wills`](crate::store::Store::delete_wills).
    pub(super) async fn remove_wills(
        &self,
        sessions: &[(ClientId, u64)],
        node: &str,
    ) -> Result<(), StoreError> {
        let mut writer = self.writer().await?;
        let removed = limited(async {
            writer.begin().await?;
            let key = |values: &mut SqliteArguments, it: &(ClientId, u64)| add_session(values, it, node);
            DELETE.execute(writer.connection()?, sessions, key).await
        });
        let removed = removed.await;
        writer.finish(removed).await?;
        Ok(())
    }

    /// See [`Store::due_wills`](crate::store::Store::due_wills).
    pub(super) async fn read_due_wills(
        &self,
        of: Option<&ClientId>,
        now: SystemTime,
        skip: usize,
    ) -> Result<Vec<StoredWill>, StoreError> {
        self.check_open()?;
        let all = concat!(
            "SELECT ",
            columns!(),
            " FROM wills WHERE due_at <= ? ORDER BY due_at, rowid LIMIT ? OFFSET ?"
        );
        let of_client = concat!(
            "SELECT ",
            columns!(),
            " FROM wills WHERE client_id = ? AND +due_at <= ? ORDER BY due_at, generation LIMIT ? OFFSET ?"
        );
        let query = match of {
            None => sqlx::query(all),
            Some(client) => sqlx::query(of_client).bind(client.as_str()),
        };
        let query = query.bind(millis(now)).bind(WILLS_AT_A_TIME as i64).bind(skip as i64);
        let found = limited(async {
            let mut reader = self.reader().await?;
            Ok(rows::run(query, &mut reader).await?.0)
        });
        found.await?.iter().map(will).collect()
    }
}

/// Begins the delays of the wills of these sessions.
pub(super) async fn end(
    connection: &mut SqliteConnection,
    sessions: &[(ClientId, u64)],
    node: &str,
    at_least: u32,
) -> Result<(), StoreError> {
    let now = millis(SystemTime::now());
    let common = |values: &mut SqliteArguments| {
        values.add(now)?;
        values.add(i64::from(at_least))?;
        values.add(i64::from(at_least))
    };
    let end = END.execute_with(connection, sessions, common, |values, it| add_session(values, it, node));
    end.await?;
    Ok(())
}

/// The same for all wills whose connections have ended without a record: the previous process died.
pub(super) async fn end_all(connection: &mut SqliteConnection) -> Result<(), StoreError> {
    let sql = concat!("UPDATE wills SET due_at = ? + 1000 * ", delay!(), " WHERE due_at IS NULL");
    sqlx::query(sql).bind(millis(SystemTime::now())).execute(connection).await?;
    Ok(())
}

/// Inserts what `plan` needs to know of wills.
pub(super) async fn load<'b>(
    connection: &mut SqliteConnection,
    plan: &mut Plan<'b>,
) -> Result<(), StoreError> {
    let firing = plan.wills_to_load();
    for row in FIND.fetch(connection, &firing, |values, it| add_key(values, it)).await? {
        if let Ok(index) = firing.binary_search(&&key(&row)?) {
            plan.put_will(firing[index]);
        }
    }
    let beginning = plan.beginning();
    let pending = PENDING.fetch(connection, &beginning, |values, (client, at)| {
        values.add(client.as_str())?;
        values.add(*at)
    });
    for row in pending.await? {
        plan.put_pending_will(&rows::client(&row, 0)?);
    }
    Ok(())
}

/// Writes the changes of wills.
pub(super) async fn write(connection: &mut SqliteConnection, plan: &Plan<'_>) -> Result<(), StoreError> {
    let fired = plan.fired_wills();
    DELETE.execute(connection, &fired, |values, it| add_key(values, it)).await?;
    let changed = plan.changed_wills();
    let add_changed = |values: &mut SqliteArguments, (client, at, is_resumed): &(&ClientId, i64, bool)| {
        values.add(client.as_str())?;
        values.add(*at)?;
        values.add(i64::from(*is_resumed))
    };
    CANCEL.execute(connection, &changed, add_changed).await?;
    // One time for all: they are due.
    let since = changed.iter().map(|(_, at, _)| *at).min();
    HASTEN.execute_with(connection, &changed, |values| values.add(since), add_changed).await?;
    let add = ADD.execute(connection, plan.new_wills(), |values, will| {
        add_key(values, &will.key)?;
        values.add(will.protocol.as_str())?;
        values.add(will.address.as_str())?;
        values.add(will.channel.as_str())?;
        values.add(qos_level(will.qos))?;
        values.add(i64::from(will.retain))?;
        values.add(i64::from(will.delay))?;
        rows::add_attributes(values, &will.attributes)?;
        values.add(&will.data[..])
    });
    add.await?;
    Ok(())
}

fn add_key(values: &mut SqliteArguments, key: &WillKey) -> Result<(), BoxDynError> {
    values.add(key.client.as_str())?;
    values.add(i64::try_from(key.generation)?)?;
    values.add(key.node.as_str())
}

fn add_session(
    values: &mut SqliteArguments,
    (client, generation): &(ClientId, u64),
    node: &str,
) -> Result<(), BoxDynError> {
    values.add(client.as_str())?;
    values.add(i64::try_from(*generation)?)?;
    values.add(node)
}

fn key(row: &SqliteRow) -> Result<WillKey, StoreError> {
    Ok(WillKey { client: rows::client(row, 0)?, generation: rows::count(row, 1)?, node: row.try_get(2)? })
}

fn will(row: &SqliteRow) -> Result<StoredWill, StoreError> {
    Ok(StoredWill {
        key: key(row)?,
        protocol: row.try_get(3)?,
        address: row.try_get(4)?,
        channel: rows::channel(row, 5)?,
        qos: qos_of(rows::count(row, 6)?)?,
        retain: rows::count(row, 7)? != 0,
        delay: delay_of(rows::count(row, 8)?)?,
        attributes: rows::attributes(row, 9)?,
        data: rows::data(row, 10)?,
    })
}
