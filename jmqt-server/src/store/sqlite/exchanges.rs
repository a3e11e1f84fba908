//! The QoS 2 exchanges of clients whose sessions outlive their connections.

use std::num::NonZeroU16;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use jmqt_core::ClientId;
use sqlx::Arguments as _;
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};

use super::SqliteStore;
use super::rows::{self, MultiRow};
use crate::store::limits::limited;
use crate::store::plan::{Plan, Received};
use crate::store::{Exchanges, StoreError};

static RECEIVED: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        2,
        "SELECT r.client_id, r.packet_id FROM (VALUES {rows}) AS v CROSS JOIN received AS r \
         ON r.client_id = v.column1 AND r.packet_id = v.column2",
    )
});
static RECEIVE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        2,
        "INSERT INTO received (client_id, packet_id) \
         SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL",
    )
});
/// The join tells SQLite the types it needs to use the key.
static RELEASE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        2,
        "DELETE FROM received WHERE (client_id, packet_id) IN \
         (SELECT r.client_id, r.packet_id FROM (VALUES {rows}) AS v CROSS JOIN received AS r \
         ON r.client_id = v.column1 AND r.packet_id = v.column2)",
    )
});

#[cfg(test)]
pub(super) fn statements() -> [&'static MultiRow; 3] {
    [&RECEIVED, &RECEIVE, &RELEASE]
}

/// Inserts the recorded packet identifiers into the plan.
pub(super) async fn load(connection: &mut SqliteConnection, plan: &mut Plan<'_>) -> Result<(), StoreError> {
    let wanted = plan.received_to_load();
    for row in RECEIVED.fetch(connection, &wanted, add_received).await? {
        plan.put_received(&rows::client(&row, 0)?, packet(&row, 1)?);
    }
    Ok(())
}

/// Writes the changed rows.
pub(super) async fn write(connection: &mut SqliteConnection, plan: &Plan<'_>) -> Result<(), StoreError> {
    RELEASE.execute(connection, &plan.released(), add_received).await?;
    RECEIVE.execute(connection, &plan.new_received(), add_received).await?;
    Ok(())
}

impl SqliteStore {
    /// See [`Store::exchanges`](crate::store::Store::exchanges).
    pub(super) async fn read_exchanges(&self, client: &ClientId) -> Result<Exchanges, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        let sql = "SELECT packet_id FROM received WHERE client_id = ?";
        let found = limited(async {
            let mut reader = self.reader().await?;
            Ok(rows::run(sqlx::query(sql).bind(client.as_str()), &mut reader).await?.0)
        });
        let received = found.await?.iter().map(|row| packet(row, 0)).collect::<Result<_, _>>()?;
        Ok(Exchanges { received })
    }
}

fn packet(row: &SqliteRow, column: usize) -> Result<NonZeroU16, StoreError> {
    let number = u16::try_from(rows::count(row, column)?).ok();
    number.and_then(NonZeroU16::new).ok_or(StoreError::Corrupt { what: "packet identifier" })
}

fn add_received(values: &mut SqliteArguments, &(client, packet): &Received<'_>) -> Result<(), BoxDynError> {
    values.add(client.as_str())?;
    values.add(i64::from(packet.get()))
}
