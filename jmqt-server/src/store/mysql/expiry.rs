//! Removes clients that did not return in time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;
use std::time::{Instant, SystemTime};

use jmqt_core::ClientId;
use sqlx::mysql::MySqlConnection;
use sqlx::{Arguments as _, Row as _};

use super::cluster::lock_generations;
use super::connection::retried;
use super::rows::{self, MultiRow};
use super::{MySqlStore, clients};
use crate::store::limits::{FUTURE, TIME_LIMIT, limited};
use crate::store::time::millis;
use crate::store::{ChannelKey, Due, Expired, IsAway, StoreError};

/// The number of clients that one step checks.
const LOOKED_AT: usize = 256;

/// The number of clients that one transaction removes, which limits the duration of its locks.
const CLIENTS_AT_A_TIME: usize = 16;

static SUBSCRIPTIONS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::list(
        "SELECT client_id, channel_id FROM subscriptions FORCE INDEX (subscriptions_by_client) \
         WHERE client_id IN ({rows})",
    )
});
static LOCK_CHANNELS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::list(
        "SELECT id FROM channels FORCE INDEX (PRIMARY) WHERE id IN ({rows}) ORDER BY id FOR UPDATE",
    )
});
static LOCK_CLIENTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY"],
        "SELECT c.client_id, c.last_seen, c.expiry_seconds, c.ends_at FROM ({rows}) AS v \
         STRAIGHT_JOIN clients AS c ON c.client_id = v.a FOR UPDATE",
    )
});
static WITH_SESSIONS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::list("SELECT client_id FROM sessions FORCE INDEX (PRIMARY) WHERE client_id IN ({rows})")
});
static LEAVE_CHANNELS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["SIGNED", "SIGNED"],
        "UPDATE ({rows}) AS v STRAIGHT_JOIN channels AS c ON c.id = v.a \
         SET c.persistent_count = GREATEST(0, c.persistent_count - v.b)",
    )
});
static FORGET_SUBSCRIPTIONS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["SIGNED", "BINARY"],
        "DELETE s FROM ({rows}) AS v STRAIGHT_JOIN subscriptions AS s \
         ON s.channel_id = v.a AND s.client_id = v.b",
    )
});
static FORGET_CLIENTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY"],
        "DELETE c FROM ({rows}) AS v STRAIGHT_JOIN clients AS c ON c.client_id = v.a",
    )
});

/// Removed clients, with the channels of their subscriptions.
type Leaving = BTreeMap<ClientId, BTreeSet<ChannelKey>>;

/// A search for clients, in the order of an index.
#[derive(Clone, Copy)]
enum Search {
    /// For sessions that ended at or before this time.
    ByEnd(i64),
    /// For sessions without an expiry of their own whose clients were last seen before this time.
    ByLastSeen(i64),
}

impl Search {
    fn all(due: Due) -> impl Iterator<Item = Self> {
        let by_last_seen = due.seen_before.map(|before| Self::ByLastSeen(millis(before)));
        std::iter::once(Self::ByEnd(millis(due.now))).chain(by_last_seen)
    }

    /// Returns `true` if the search would find the client with this row.
    const fn finds(self, last_seen: i64, expiry: Option<i64>, ends_at: Option<i64>) -> bool {
        match (self, ends_at) {
            (Self::ByEnd(now), Some(end)) => end <= now,
            (Self::ByEnd(_), None) => false,
            (Self::ByLastSeen(before), _) => expiry.is_none() && last_seen < before,
        }
    }
}

/// The position of a search for clients.
struct Place {
    time: i64,
    client: Vec<u8>,
}

impl MySqlStore {
    /// Corrects times in the future, which a wrong clock has written.
    async fn correct_future(&self) -> Result<(), StoreError> {
        let now = SystemTime::now();
        let corrected = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let corrected = limited(async {
                // Search first, without a lock, because an UPDATE locks the end of the index.
                let sql = "SELECT client_id FROM clients WHERE last_seen > ? LIMIT 1";
                let find = sqlx::query(sql).bind(millis(now + FUTURE));
                let connection = lease.begin().await?;
                if find.fetch_optional(&mut *connection).await?.is_some() {
                    let sql = "UPDATE clients SET last_seen = ?, \
                        ends_at = IF(ends_at IS NULL, NULL, ? + expiry_seconds * 1000) WHERE last_seen > ?";
                    let update = sqlx::query(sql).bind(millis(now)).bind(millis(now));
                    let update = update.bind(millis(now + FUTURE));
                    update.execute(connection).await?;
                }
                Ok(())
            });
            let corrected = corrected.await;
            lease.finish(corrected).await
        });
        corrected.await
    }

    /// See [`Store::expire`](crate::store::Store::expire). Clients are removed in small groups. An error after
    /// the first group ends the call early and is not returned, so that the caller gets the removed clients; the next call
    /// meets the error again.
    pub(super) async fn expire_clients(
        &self,
        due: Due,
        is_away: &mut IsAway<'_>,
    ) -> Result<Vec<Expired>, StoreError> {
        self.check_open()?;
        self.correct_future().await?;
        self.purge_filters().await?;
        let until = Instant::now() + TIME_LIMIT;
        let mut expired = Vec::new();
        for search in Search::all(due) {
            let mut place = Place { time: i64::MIN, client: Vec::new() };
            while Instant::now() < until {
                let silent = match retried(|| self.silent_clients(search, &place)).await {
                    Err(error) if expired.is_empty() => return Err(error),
                    Err(_) => return Ok(expired),
                    Ok(None) => break,
                    Ok(Some((silent, next))) => {
                        place = next;
                        silent
                    }
                };
                for some in silent.chunks(CLIENTS_AT_A_TIME) {
                    // `is_away` is called once for each client, even if the transaction is repeated.
                    let mut away: Vec<_> = some.iter().filter(|client| is_away(client)).cloned().collect();
                    away.sort_unstable();
                    if away.is_empty() {
                        continue;
                    }
                    match self.expire_some(&away, search).await {
                        Err(error) if expired.is_empty() => return Err(error),
                        Err(_) => return Ok(expired),
                        Ok(some) => expired.extend(some),
                    }
                }
            }
        }
        Ok(expired)
    }

    /// The next clients without a session, and the position after them; `None` at the end of the
    /// search.
    async fn silent_clients(
        &self,
        search: Search,
        place: &Place,
    ) -> Result<Option<(Vec<ClientId>, Place)>, StoreError> {
        let mut lease = self.connections.lease().await?;
        let found = limited(async { silent_clients(lease.connection()?, search, place).await }).await;
        lease.done(found)
    }

    async fn expire_some(&self, away: &[ClientId], search: Search) -> Result<Vec<Expired>, StoreError> {
        // Before: from now on no batch creates cursors for them.
        self.expire_filters(away).await?;
        let leaving = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let leaving = limited(async { expire(lease.begin().await?, away, search).await }).await;
            lease.finish(leaving).await
        });
        let leaving = leaving.await?;
        self.to_trim.extend(leaving.values().flatten().copied());
        let expired =
            |(client, channels): (_, BTreeSet<_>)| Expired { client, subscriptions: channels.len() as u64 };
        Ok(leaving.into_iter().map(expired).collect())
    }
}

async fn silent_clients(
    connection: &mut MySqlConnection,
    search: Search,
    place: &Place,
) -> Result<Option<(Vec<ClientId>, Place)>, StoreError> {
    let (sql, time) = match search {
        Search::ByEnd(now) => (
            "SELECT client_id, ends_at FROM clients \
             WHERE ends_at <= ? AND ends_at >= ? AND (ends_at > ? OR client_id > ?) \
             ORDER BY ends_at, client_id LIMIT ?",
            now,
        ),
        Search::ByLastSeen(before) => (
            "SELECT client_id, last_seen FROM clients \
             WHERE last_seen < ? AND last_seen >= ? AND (last_seen > ? OR client_id > ?) \
             AND expiry_seconds IS NULL ORDER BY last_seen, client_id LIMIT ?",
            before,
        ),
    };
    let query = sqlx::query(sql).bind(time).bind(place.time).bind(place.time);
    let query = query.bind(&place.client[..]).bind(LOOKED_AT as i64);
    let found = query.fetch_all(&mut *connection).await?;
    let Some(last) = found.last() else { return Ok(None) };
    let place = Place { client: last.try_get(0)?, time: last.try_get(1)? };
    let mut clients: Vec<_> = found.iter().map(|row| rows::client(row, 0)).collect::<Result<_, _>>()?;
    let mut present = BTreeSet::new();
    for row in WITH_SESSIONS.fetch(connection, &clients, add_client).await? {
        present.insert(rows::client(&row, 0)?);
    }
    clients.retain(|client| !present.contains(client));
    Ok(Some((clients, place)))
}

/// Removes clients that are unchanged, after locking them. A session that begins later
/// finds that the client has no subscriptions.
async fn expire(
    connection: &mut MySqlConnection,
    away: &[ClientId],
    search: Search,
) -> Result<Leaving, StoreError> {
    lock_generations(connection).await?;
    let channels: BTreeSet<_> = subscriptions(connection, away).await?.into_values().flatten().collect();
    let channels: Vec<_> = channels.into_iter().collect();
    LOCK_CHANNELS.fetch(connection, &channels, rows::add_key).await?;
    let mut silent = BTreeSet::new();
    for row in LOCK_CLIENTS.fetch(connection, away, add_client).await? {
        if search.finds(row.try_get(1)?, row.try_get(2)?, row.try_get(3)?) {
            silent.insert(rows::client(&row, 0)?);
        }
    }
    for row in WITH_SESSIONS.fetch(connection, away, add_client).await? {
        silent.remove(&rows::client(&row, 0)?);
    }
    let mut leaving = subscriptions(connection, away).await?;
    // A client with a new subscription has been active meanwhile.
    let is_locked = |key: &ChannelKey| channels.binary_search(key).is_ok();
    silent.retain(|client| leaving.get(client).is_none_or(|channels| channels.iter().all(is_locked)));
    leaving.retain(|client, _| silent.contains(client));
    for client in silent {
        leaving.entry(client).or_default();
    }
    remove(connection, &leaving).await?;
    Ok(leaving)
}

async fn subscriptions(connection: &mut MySqlConnection, of: &[ClientId]) -> Result<Leaving, StoreError> {
    let mut found = Leaving::new();
    for row in SUBSCRIPTIONS.fetch(connection, of, add_client).await? {
        found.entry(rows::client(&row, 0)?).or_default().insert(rows::key(&row, 1)?);
    }
    Ok(found)
}

async fn remove(connection: &mut MySqlConnection, leaving: &Leaving) -> Result<(), StoreError> {
    let mut counts: BTreeMap<ChannelKey, i64> = BTreeMap::new();
    let mut pairs = Vec::new();
    for (client, channels) in leaving {
        for key in channels {
            *counts.entry(*key).or_default() += 1;
            pairs.push((*key, client));
        }
    }
    pairs.sort_unstable();
    let counts: Vec<_> = counts.into_iter().collect();
    let leave = LEAVE_CHANNELS.execute(connection, &counts, |values, (key, clients)| {
        rows::add_key(values, key)?;
        values.add(*clients)
    });
    leave.await?;
    let forget = FORGET_SUBSCRIPTIONS.execute(connection, &pairs, |values, (key, client)| {
        rows::add_key(values, key)?;
        rows::add_name(values, client.as_str())
    });
    forget.await?;
    let ended: Vec<_> = leaving.keys().collect();
    clients::delete_state(connection, &ended).await?;
    let clients: Vec<_> = leaving.keys().cloned().collect();
    FORGET_CLIENTS.execute(connection, &clients, add_client).await?;
    Ok(())
}

fn add_client(
    values: &mut sqlx::mysql::MySqlArguments,
    client: &ClientId,
) -> Result<(), sqlx::error::BoxDynError> {
    rows::add_name(values, client.as_str())
}
