//! The wills of MQTT clients.

use std::sync::LazyLock;
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
use crate::store::time::millis;
use crate::store::will::{columns, delay_of, qos_level, qos_of};
use crate::store::{StoreError, StoredWill, WILLS_AT_A_TIME, WillKey};

static FIND: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "SIGNED", "BINARY"],
        "SELECT w.client_id, w.generation, w.node_id FROM ({rows}) AS v STRAIGHT_JOIN wills AS w \
         ON w.client_id = v.a AND w.generation = v.b AND w.node_id = v.c FOR UPDATE",
    )
});
static PENDING: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "SIGNED"],
        "SELECT w.client_id FROM ({rows}) AS v STRAIGHT_JOIN wills AS w FORCE INDEX (PRIMARY) \
         ON w.client_id = v.a AND w.due_at > v.b",
    )
});
static ADD: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::insert(
        "(?,?,?,?,?,?,?,?,?,?,?)",
        concat!("REPLACE INTO wills (", columns!(), ") VALUES {rows}"),
    )
});
static DELETE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "SIGNED", "BINARY"],
        "DELETE w FROM ({rows}) AS v STRAIGHT_JOIN wills AS w \
         ON w.client_id = v.a AND w.generation = v.b AND w.node_id = v.c",
    )
});
/// Of a session that continues, all that are not due; of others, only those that were postponed.
static CANCEL: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "SIGNED", "SIGNED"],
        "DELETE w FROM ({rows}) AS v STRAIGHT_JOIN wills AS w \
         ON w.client_id = v.a AND w.due_at > v.b AND (v.c = 1 OR w.postponed = 1)",
    )
});
static HASTEN: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "SIGNED", "SIGNED"],
        "UPDATE ({rows}) AS v STRAIGHT_JOIN wills AS w \
         ON w.client_id = v.a AND w.due_at > v.b AND v.c = 0 SET w.due_at = v.b",
    )
});
/// Without locks.
static ENDING: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "SIGNED", "BINARY"],
        "SELECT w.client_id, w.generation, w.node_id, w.delay_seconds, c.client_id IS NOT NULL, \
         c.expiry_seconds FROM ({rows}) AS v STRAIGHT_JOIN wills AS w \
         ON w.client_id = v.a AND w.generation = v.b AND w.node_id = v.c \
         LEFT JOIN clients AS c ON c.client_id = w.client_id WHERE w.due_at IS NULL",
    )
});
static END: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "SIGNED", "BINARY", "SIGNED", "SIGNED"],
        "UPDATE ({rows}) AS v STRAIGHT_JOIN wills AS w \
         ON w.client_id = v.a AND w.generation = v.b AND w.node_id = v.c \
         SET w.due_at = v.d, w.postponed = v.e WHERE w.due_at IS NULL",
    )
});

/// A will whose connection has ended.
struct Ended {
    key: WillKey,
    due_at: i64,
    is_postponed: bool,
}

impl MySqlStore {
    /// See [`Store::end_wills`](crate::store::Store::end_wills).
    pub(super) async fn write_ended_wills(
        &self,
        sessions: &[(ClientId, u64)],
        node: &str,
        at_least: u32,
    ) -> Result<(), StoreError> {
        self.check_open()?;
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let ended = limited(async { end(lease.begin().await?, sessions, node, at_least).await }).await;
            lease.finish(ended).await
        })
        .await
    }

    /// See [`Store::delete_wills`](crate::store::Store::delete_wills).
    pub(super) async fn remove_wills(
        &self,
        sessions: &[(ClientId, u64)],
        node: &str,
    ) -> Result<(), StoreError> {
        self.check_open()?;
        let mut sorted = sessions.to_vec();
        sorted.sort_unstable();
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let removed = limited(async {
                let key = |values: &mut MySqlArguments, it: &(ClientId, u64)| add_session(values, it, node);
                DELETE.execute(lease.begin().await?, &sorted, key).await?;
                Ok(())
            });
            let removed = removed.await;
            lease.finish(removed).await
        })
        .await
    }

    /// See [`Store::due_wills`](crate::store::Store::due_wills).
    pub(super) async fn read_due_wills(
        &self,
        of: Option<&ClientId>,
        now: SystemTime,
        skip: usize,
    ) -> Result<Vec<StoredWill>, StoreError> {
        // The index ends with the primary key.
        let all = concat!(
            "SELECT ",
            columns!(),
            " FROM wills WHERE due_at <= ? ORDER BY due_at, client_id, generation, node_id LIMIT ? OFFSET ?"
        );
        let of_client = concat!(
            "SELECT ",
            columns!(),
            " FROM wills FORCE INDEX (PRIMARY) WHERE client_id = ? AND due_at <= ? \
             ORDER BY due_at, generation LIMIT ? OFFSET ?"
        );
        self.check_open()?;
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let query = match of {
                    None => sqlx::query(all),
                    Some(client) => sqlx::query(of_client).bind(client.as_str().as_bytes()),
                };
                let query = query.bind(millis(now)).bind(WILLS_AT_A_TIME as i64).bind(skip as i64);
                Ok(query.fetch_all(lease.connection()?).await?)
            });
            let found = found.await;
            lease.done(found)
        });
        found.await?.iter().map(will).collect()
    }
}

/// Begins the delays of the wills of these sessions.
pub(super) async fn end(
    connection: &mut MySqlConnection,
    sessions: &[(ClientId, u64)],
    node: &str,
    at_least: u32,
) -> Result<(), StoreError> {
    let key_of = |values: &mut MySqlArguments, it: &(ClientId, u64)| add_session(values, it, node);
    let found = ENDING.fetch(connection, sessions, key_of).await?;
    let mut ended: Vec<_> = found.iter().map(|row| ended(row, at_least)).collect::<Result<_, _>>()?;
    ended.sort_unstable_by(|one, other| one.key.cmp(&other.key));
    ended.dedup_by(|one, other| one.key == other.key);
    let end = END.execute(connection, &ended, |values, it| {
        add_key(values, &it.key)?;
        values.add(it.due_at)?;
        values.add(i64::from(it.is_postponed))
    });
    end.await?;
    Ok(())
}

/// The seconds that a will waits after the end of its connection: at most until the end of the session. A session that is
/// not stored ends with its connection.
fn ended(row: &MySqlRow, at_least: u32) -> Result<Ended, StoreError> {
    let (delay, expiry) = (row.try_get::<i64, _>(3)?, row.try_get::<Option<i64>, _>(5)?);
    let delay = match rows::count(row, 4)? {
        0 => 0,
        _ => delay.min(expiry.unwrap_or(i64::MAX)),
    };
    let due_at = millis(SystemTime::now()) + 1000 * delay.max(at_least.into());
    Ok(Ended { key: key(row)?, due_at, is_postponed: i64::from(at_least) > delay })
}

/// Deletes the wills of a dead node whose sessions have all ended that are not due.
pub(super) async fn delete_of_node(connection: &mut MySqlConnection, node: &str) -> Result<(), StoreError> {
    // Without locks.
    let sql = "SELECT client_id, generation, node_id FROM wills WHERE node_id = ? AND due_at IS NULL";
    let found = sqlx::query(sql).bind(node.as_bytes()).fetch_all(&mut *connection).await?;
    let mut left: Vec<_> = found.iter().map(key).collect::<Result<_, _>>()?;
    left.sort_unstable();
    DELETE.execute(connection, &left, add_key).await?;
    Ok(())
}

/// The same for all wills whose connections have ended without a record: the previous process died.
pub(super) async fn end_all(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    let sql = "UPDATE wills AS w LEFT JOIN clients AS c ON c.client_id = w.client_id \
        SET w.due_at = ? + 1000 * IF(c.client_id IS NULL, 0, \
        LEAST(w.delay_seconds, COALESCE(c.expiry_seconds, w.delay_seconds))) WHERE w.due_at IS NULL";
    sqlx::query(sql).bind(millis(SystemTime::now())).execute(connection).await?;
    Ok(())
}

/// Inserts what `plan` needs to know of wills. Locks those that are to be published.
pub(super) async fn load<'b>(
    connection: &mut MySqlConnection,
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
        rows::add_name(values, client.as_str())?;
        values.add(*at)
    });
    for row in pending.await? {
        plan.put_pending_will(&rows::client(&row, 0)?);
    }
    Ok(())
}

/// Writes the changes of wills.
pub(super) async fn write(connected: &mut Connected, plan: &Plan<'_>) -> Result<(), StoreError> {
    let connection = &mut connected.connection;
    let fired = plan.fired_wills();
    DELETE.execute(connection, &fired, |values, it| add_key(values, it)).await?;
    let changed = plan.changed_wills();
    for change in [&CANCEL, &HASTEN] {
        let changed = change.execute(connection, &changed, |values, (client, at, is_resumed)| {
            rows::add_name(values, client.as_str())?;
            values.add(*at)?;
            values.add(i64::from(*is_resumed))
        });
        changed.await?;
    }
    let mut new = plan.new_wills();
    while !new.is_empty() {
        let bytes = new.iter().map(|will| will.stored_bytes() + will.channel.as_str().len());
        let (some, others) = new.split_at(rows::fitting(connected.max_packet, bytes));
        let add = ADD.execute(&mut connected.connection, some, |values, will| {
            add_key(values, &will.key)?;
            rows::add_name(values, &will.protocol)?;
            rows::add_name(values, &will.address)?;
            rows::add_name(values, will.channel.as_str())?;
            values.add(qos_level(will.qos))?;
            values.add(i64::from(will.retain))?;
            values.add(i64::from(will.delay))?;
            rows::add_attributes(values, &will.attributes)?;
            values.add(&will.data[..])
        });
        add.await?;
        new = others;
    }
    Ok(())
}

fn add_key(values: &mut MySqlArguments, key: &WillKey) -> Result<(), BoxDynError> {
    rows::add_name(values, key.client.as_str())?;
    values.add(i64::try_from(key.generation)?)?;
    rows::add_name(values, &key.node)
}

fn add_session(
    values: &mut MySqlArguments,
    (client, generation): &(ClientId, u64),
    node: &str,
) -> Result<(), BoxDynError> {
    rows::add_name(values, client.as_str())?;
    values.add(i64::try_from(*generation)?)?;
    rows::add_name(values, node)
}

fn key(row: &MySqlRow) -> Result<WillKey, StoreError> {
    Ok(WillKey {
        client: rows::client(row, 0)?,
        generation: rows::count(row, 1)?,
        node: rows::text(row, 2)?.to_owned(),
    })
}

fn will(row: &MySqlRow) -> Result<StoredWill, StoreError> {
    Ok(StoredWill {
        key: key(row)?,
        protocol: rows::text(row, 3)?.to_owned(),
        address: rows::text(row, 4)?.to_owned(),
        channel: rows::channel(row, 5)?,
        qos: qos_of(rows::count(row, 6)?)?,
        retain: rows::count(row, 7)? != 0,
        delay: delay_of(rows::count(row, 8)?)?,
        attributes: rows::attributes(row, 9)?,
        data: rows::data(row, 10)?,
    })
}
