//! The QoS 2 exchanges of clients whose sessions outlive their connections.

use std::num::NonZeroU16;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use jmqt_core::ClientId;
use sqlx::error::BoxDynError;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Arguments as _, Row as _};

use super::SqliteStore;
use super::rows::{self, MultiRow};
use crate::store::limits::limited;
use crate::store::plan::{NO_CHANNEL, Plan, Received};
use crate::store::{Exchanges, Sent, SentStep, Seq, StoreError};

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

/// Of several steps of one exchange in a batch the last one remains.
static SEND: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        6,
        "INSERT OR REPLACE INTO sent (client_id, packet_id, turn, channel_id, seq, released) \
         SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL",
    )
});
static FORGET_SENT: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        2,
        "DELETE FROM sent WHERE (client_id, turn) IN \
         (SELECT s.client_id, s.turn FROM (VALUES {rows}) AS v CROSS JOIN sent AS s \
         ON s.client_id = v.column1 AND s.turn = v.column2)",
    )
});

#[cfg(test)]
pub(super) fn statements() -> [&'static MultiRow; 5] {
    [&RECEIVED, &RECEIVE, &RELEASE, &SEND, &FORGET_SENT]
}

/// The number of records that one transaction deletes, which limits the wait of a commit.
const FORGOTTEN_AT_A_TIME: usize = 1024;

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
    let sent = plan.sent();
    let send = SEND.execute(connection, &sent, |values, sent| {
        let (key, seq) = sent.place.unwrap_or((NO_CHANNEL, Seq(0)));
        values.add(sent.client.as_str())?;
        values.add(i64::from(sent.packet.get()))?;
        values.add(i64::try_from(sent.turn)?)?;
        values.add(key.0)?;
        rows::add_seq(values, seq)?;
        values.add(sent.step.number())
    });
    send.await?;
    Ok(())
}

impl SqliteStore {
    /// See [`Store::exchanges`](crate::store::Store::exchanges).
    pub(super) async fn read_exchanges(&self, client: &ClientId) -> Result<Exchanges, StoreError> {
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        // One row with all packet identifiers, because there may be 65,535.
        let sql = "SELECT NULL, NULL, NULL, NULL, NULL, group_concat(packet_id) FROM received WHERE client_id = ?1 \
            UNION ALL SELECT *, NULL FROM (SELECT packet_id, turn, channel_id, seq, released FROM sent \
            WHERE client_id = ?1 ORDER BY turn)";
        let found = limited(async {
            let mut reader = self.reader().await?;
            Ok(rows::run(sqlx::query(sql).bind(client.as_str()), &mut reader).await?.0)
        });
        let mut exchanges = Exchanges::default();
        for row in found.await? {
            if row.try_get::<Option<i64>, _>(0)?.is_none() {
                if let Some(list) = row.try_get::<Option<&str>, _>(5)? {
                    exchanges.received = list.split(',').map(listed_packet).collect::<Result<_, _>>()?;
                }
                continue;
            }
            let packet = packet(&row, 0)?;
            let (key, seq) = (rows::key(&row, 2)?, rows::seq(&row, 3)?);
            exchanges.sent.push(Sent {
                client: client.clone(),
                packet,
                turn: rows::count(&row, 1)?,
                place: (key != NO_CHANNEL).then_some((key, seq)),
                step: SentStep::from_number(rows::count(&row, 4)?),
            });
        }
        Ok(exchanges)
    }

    /// See [`Store::forget_sent`](crate::store::Store::forget_sent).
    pub(super) async fn forget_complete(&self, complete: &[Sent]) -> Result<(), StoreError> {
        for chunk in complete.chunks(FORGOTTEN_AT_A_TIME) {
            let mut writer = self.writer().await?;
            let forgotten = limited(async {
                writer.begin().await?;
                let forget = FORGET_SENT.execute(writer.connection()?, chunk, |values, sent| {
                    values.add(sent.client.as_str())?;
                    values.add(i64::try_from(sent.turn)?)
                });
                forget.await
            })
            .await;
            writer.finish(forgotten).await?;
        }
        Ok(())
    }
}

fn packet(row: &SqliteRow, column: usize) -> Result<NonZeroU16, StoreError> {
    let number = u16::try_from(rows::count(row, column)?).ok();
    number.and_then(NonZeroU16::new).ok_or(StoreError::Corrupt { what: "packet identifier" })
}

fn listed_packet(number: &str) -> Result<NonZeroU16, StoreError> {
    number.parse().map_err(|_| StoreError::Corrupt { what: "packet identifier" })
}

fn add_received(values: &mut SqliteArguments, &(client, packet): &Received<'_>) -> Result<(), BoxDynError> {
    values.add(client.as_str())?;
    values.add(i64::from(packet.get()))
}
