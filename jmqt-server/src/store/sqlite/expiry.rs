//! Removes clients that did not return in time.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::{Instant, SystemTime};

use jmqt_core::ClientId;
use sqlx::Arguments as _;
use sqlx::sqlite::SqliteConnection;

use super::rows::{self, MultiRow};
use super::writer::Writer;
use super::{SqliteStore, clients, filters};
use crate::store::limits::{FUTURE, TIME_LIMIT, limited};
use crate::store::time::millis;
use crate::store::{ChannelKey, Due, Expired, IsAway, StoreError};

/// The number of clients that one transaction removes, which limits the wait of a commit.
const CLIENTS_AT_A_TIME: usize = 16;

static SUBSCRIPTIONS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(1, "SELECT client_id, channel_id FROM subscriptions WHERE client_id IN ({rows})")
});
static LEAVE_CHANNELS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        2,
        "UPDATE channels SET persistent_count = MAX(0, persistent_count - v.column2) \
         FROM (VALUES {rows}) AS v WHERE channels.id = v.column1",
    )
});
static FORGET_SUBSCRIPTIONS: LazyLock<MultiRow> =
    LazyLock::new(|| MultiRow::new(1, "DELETE FROM subscriptions WHERE client_id IN ({rows})"));
static FORGET_CLIENTS: LazyLock<MultiRow> =
    LazyLock::new(|| MultiRow::new(1, "DELETE FROM clients WHERE client_id IN ({rows})"));

#[cfg(test)]
pub(super) fn statements() -> [&'static MultiRow; 4] {
    [&SUBSCRIPTIONS, &LEAVE_CHANNELS, &FORGET_SUBSCRIPTIONS, &FORGET_CLIENTS]
}

/// Clients that are removed together, with the number of their subscriptions; and their channels,
/// with the number of removed subscribers.
#[derive(Default)]
struct Leaving {
    clients: BTreeMap<ClientId, u64>,
    channels: BTreeMap<ChannelKey, u64>,
    filters: Vec<(ClientId, String)>,
}

impl SqliteStore {
    /// See [`Store::expire`](crate::store::Store::expire). Clients are removed in small groups. An error after
    /// the first group ends the call early and is not returned, so that the caller gets the removed clients; the next call
    /// meets the error again.
    pub(super) async fn expire_clients(
        &self,
        due: Due,
        is_away: &mut IsAway<'_>,
    ) -> Result<Vec<Expired>, StoreError> {
        self.correct_future().await?;
        let until = Instant::now() + TIME_LIMIT;
        let mut expired = Vec::new();
        while Instant::now() < until {
            let leaving = match self.expire_some(due, is_away).await {
                Err(error) if expired.is_empty() => return Err(error),
                Err(_) => break,
                Ok(leaving) if leaving.clients.is_empty() => break,
                Ok(leaving) => leaving,
            };
            let client = |(client, subscriptions)| Expired { client, subscriptions };
            expired.extend(leaving.clients.into_iter().map(client));
        }
        Ok(expired)
    }

    /// Corrects times in the future, which a wrong clock has written.
    async fn correct_future(&self) -> Result<(), StoreError> {
        let now = SystemTime::now();
        let mut writer = self.writer().await?;
        let corrected = limited(async {
            let connection = writer.connection()?;
            let sql = "SELECT EXISTS (SELECT 1 FROM clients WHERE last_seen > ?)";
            let future = millis(now + FUTURE);
            if sqlx::query_scalar::<_, i64>(sql).bind(future).fetch_one(connection).await? != 0 {
                writer.begin().await?;
                let sql = "UPDATE clients SET last_seen = ?1, \
                    ends_at = CASE WHEN ends_at IS NOT NULL THEN ?1 + expiry_seconds * 1000 END WHERE last_seen > ?2";
                let update = sqlx::query(sql).bind(millis(now)).bind(future);
                update.execute(writer.connection()?).await?;
            }
            Ok(())
        })
        .await;
        writer.finish(corrected).await
    }

    async fn expire_some(&self, due: Due, is_away: &mut IsAway<'_>) -> Result<Leaving, StoreError> {
        let mut writer = self.writer().await?;
        let leaving = limited(async {
            let mut leaving = find(writer.connection()?, due, is_away).await?;
            if !leaving.clients.is_empty() {
                leaving.filters = remove(&mut writer, &leaving).await?;
            }
            Ok(leaving)
        })
        .await;
        let leaving = writer.finish(leaving).await?;
        for client in leaving.clients.keys() {
            self.clients.remove(client.as_str());
        }
        if let Some(filters) = &mut writer.filters {
            leaving.filters.iter().for_each(|(client, filter)| filters.remove(client, filter));
        }
        writer.to_trim.extend(leaving.channels.keys());
        Ok(leaving)
    }
}

async fn find(
    connection: &mut SqliteConnection,
    due: Due,
    is_away: &mut IsAway<'_>,
) -> Result<Leaving, StoreError> {
    let by_end = "SELECT client_id FROM clients AS c WHERE ends_at <= ? AND NOT EXISTS \
        (SELECT 1 FROM sessions AS s WHERE s.client_id = c.client_id) ORDER BY ends_at LIMIT ?";
    let by_last_seen = "SELECT client_id FROM clients AS c WHERE last_seen < ? AND expiry_seconds IS NULL \
        AND NOT EXISTS (SELECT 1 FROM sessions AS s WHERE s.client_id = c.client_id) ORDER BY last_seen LIMIT ?";
    let (now, seen_before) = (Some(due.now), due.seen_before);
    let mut found = Vec::new();
    for (sql, time) in [(by_end, now), (by_last_seen, seen_before)] {
        let Some(time) = time else { continue };
        let query = sqlx::query(sql).bind(millis(time)).bind(CLIENTS_AT_A_TIME as i64);
        found.extend(query.fetch_all(&mut *connection).await?);
    }
    let mut leaving = Leaving::default();
    for row in &found {
        let client = rows::client(row, 0)?;
        if is_away(&client) {
            leaving.clients.insert(client, 0);
        }
    }
    let clients: Vec<_> = leaving.clients.keys().cloned().collect();
    for row in SUBSCRIPTIONS.fetch(connection, &clients, |values, it| values.add(it.as_str())).await? {
        *leaving.clients.entry(rows::client(&row, 0)?).or_default() += 1;
        *leaving.channels.entry(rows::key(&row, 1)?).or_default() += 1;
    }
    Ok(leaving)
}

async fn remove(writer: &mut Writer, leaving: &Leaving) -> Result<Vec<(ClientId, String)>, StoreError> {
    writer.begin().await?;
    let connection = writer.connection()?;
    let channels: Vec<_> = leaving.channels.iter().collect();
    let leave = LEAVE_CHANNELS.execute(connection, &channels, |values, (key, clients)| {
        values.add(key.0)?;
        values.add(i64::try_from(**clients)?)
    });
    leave.await?;
    let clients: Vec<_> = leaving.clients.keys().collect();
    clients::delete_state(connection, &clients).await?;
    for forget in [&FORGET_SUBSCRIPTIONS, &FORGET_CLIENTS] {
        forget.execute(connection, &clients, |values, client| values.add(client.as_str())).await?;
    }
    filters::forget(connection, &clients).await
}
