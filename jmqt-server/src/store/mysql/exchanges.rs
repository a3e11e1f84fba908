//! The QoS 2 exchanges of clients whose sessions outlive their connections.

use std::num::NonZeroU16;
use std::sync::LazyLock;

use futures_util::TryStreamExt as _;
use jmqt_core::ClientId;
use sqlx::error::BoxDynError;
use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlRow};
use sqlx::{Arguments as _, Row as _};

use super::MySqlStore;
use super::connection::retried;
use super::rows::{self, MultiRow};
use crate::store::limits::limited;
use crate::store::plan::{NO_CHANNEL, Plan, Received};
use crate::store::{Exchanges, Sent, SentStep, Seq, StoreError};

/// Waits for another node that is recording the same packet identifier.
static RECEIVE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new("(?,?,?)", ",", "INSERT IGNORE INTO received (client_id, packet_id, stamp) VALUES {rows}")
});
static RECEIVED: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "SIGNED"],
        "SELECT r.client_id, r.packet_id, r.stamp FROM ({rows}) AS v STRAIGHT_JOIN received AS r \
         ON r.client_id = v.a AND r.packet_id = v.b FOR UPDATE",
    )
});
static RELEASE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "SIGNED"],
        "DELETE r FROM ({rows}) AS v STRAIGHT_JOIN received AS r \
         ON r.client_id = v.a AND r.packet_id = v.b",
    )
});

/// Of several steps of one exchange in a batch the last one remains.
static SEND: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "(?,?,?,?,?,?)",
        ",",
        "INSERT INTO sent (client_id, packet_id, turn, channel_id, seq, released) VALUES {rows} \
         ON DUPLICATE KEY UPDATE released = VALUES(released), seq = VALUES(seq)",
    )
});
static FORGET_SENT: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "SIGNED"],
        "DELETE s FROM ({rows}) AS v STRAIGHT_JOIN sent AS s ON s.client_id = v.a AND s.turn = v.b",
    )
});

/// The number of records that one transaction deletes, which limits the duration of its locks.
const FORGOTTEN_AT_A_TIME: usize = 1024;

/// Records the packet identifiers of the batch, and inserts those into the plan that were recorded before. An older
/// session of the client, on a node that is believed dead, may still be committing the same publishes, so the rows are
/// written before the batch is carried out.
pub(super) async fn load(connection: &mut MySqlConnection, plan: &mut Plan<'_>) -> Result<(), StoreError> {
    let wanted = plan.received_to_load();
    let stamp = i64::try_from(plan.stamp().0).map_err(|_| StoreError::Corrupt { what: "stamp" })?;
    let receive = RECEIVE.execute(connection, &wanted, |values, received| {
        add_received(values, received)?;
        values.add(stamp)
    });
    if receive.await? == wanted.len() as u64 {
        return Ok(());
    }
    for row in RECEIVED.fetch(connection, &wanted, add_received).await? {
        if row.try_get::<i64, _>(2)? != stamp {
            plan.put_received(&rows::client(&row, 0)?, packet(&row, 1)?);
        }
    }
    Ok(())
}

/// Deletes the packet identifiers that are not recorded any more, and those of refused publishes.
pub(super) async fn write(connection: &mut MySqlConnection, plan: &Plan<'_>) -> Result<(), StoreError> {
    RELEASE.execute(connection, &plan.released(), add_received).await?;
    let sent = plan.sent();
    let send = SEND.execute(connection, &sent, |values, sent| {
        let (key, seq) = sent.place.unwrap_or((NO_CHANNEL, Seq(0)));
        add_received(values, &(&sent.client, sent.packet))?;
        values.add(i64::try_from(sent.turn)?)?;
        rows::add_key(values, &key)?;
        rows::add_seq(values, seq)?;
        values.add(sent.step.number())
    });
    send.await?;
    Ok(())
}

impl MySqlStore {
    /// See [`Store::exchanges`](crate::store::Store::exchanges).
    pub(super) async fn read_exchanges(&self, client: &ClientId) -> Result<Exchanges, StoreError> {
        self.check_open()?;
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async { read(lease.begin().await?, client).await }).await;
            lease.finish(found).await
        });
        found.await
    }

    /// See [`Store::forget_sent`](crate::store::Store::forget_sent).
    pub(super) async fn forget_complete(&self, complete: &[Sent]) -> Result<(), StoreError> {
        self.check_open()?;
        for chunk in complete.chunks(FORGOTTEN_AT_A_TIME) {
            retried(|| self.forget_some(chunk)).await?;
        }
        Ok(())
    }

    async fn forget_some(&self, complete: &[Sent]) -> Result<(), StoreError> {
        let mut lease = self.connections.lease().await?;
        let forgotten = limited(async {
            let forget = FORGET_SENT.execute(lease.begin().await?, complete, |values, sent| {
                rows::add_name(values, sent.client.as_str())?;
                values.add(i64::try_from(sent.turn)?)
            });
            forget.await.map(drop)
        });
        let forgotten = forgotten.await;
        lease.finish(forgotten).await
    }
}

/// With a lock, which waits for the last commit of a node that has died.
async fn read(connection: &mut MySqlConnection, client: &ClientId) -> Result<Exchanges, StoreError> {
    let sql = "SELECT packet_id FROM received WHERE client_id = ? LOCK IN SHARE MODE";
    let mut received = Vec::new();
    let mut found = sqlx::query(sql).bind(client.as_str().as_bytes()).fetch(&mut *connection);
    // One at a time, because there may be 65,535.
    while let Some(row) = found.try_next().await? {
        received.push(packet(&row, 0)?);
    }
    drop(found);
    let sql = "SELECT packet_id, turn, channel_id, seq, released FROM sent WHERE client_id = ? \
        LOCK IN SHARE MODE";
    let found = sqlx::query(sql).bind(client.as_str().as_bytes()).fetch_all(connection).await?;
    let sent = |row| {
        let key = rows::key(row, 2)?;
        Ok(Sent {
            client: client.clone(),
            packet: packet(row, 0)?,
            turn: rows::count(row, 1)?,
            place: (key != NO_CHANNEL).then_some((key, rows::seq(row, 3)?)),
            step: SentStep::from_number(rows::count(row, 4)?),
        })
    };
    let mut sent: Vec<Sent> = found.iter().map(sent).collect::<Result<_, StoreError>>()?;
    sent.sort_unstable_by_key(|sent| sent.turn);
    Ok(Exchanges { received, sent })
}

fn packet(row: &MySqlRow, column: usize) -> Result<NonZeroU16, StoreError> {
    let number = u16::try_from(rows::count(row, column)?).ok();
    number.and_then(NonZeroU16::new).ok_or(StoreError::Corrupt { what: "packet identifier" })
}

fn add_received(values: &mut MySqlArguments, &(client, packet): &Received<'_>) -> Result<(), BoxDynError> {
    rows::add_name(values, client.as_str())?;
    values.add(i64::from(packet.get()))
}
