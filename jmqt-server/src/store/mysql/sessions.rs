//! The rows of sessions, which are used if a node dies.

use std::sync::LazyLock;

use jmqt_core::ClientId;
use sqlx::Arguments as _;
use sqlx::error::BoxDynError;
use sqlx::mysql::{MySqlArguments, MySqlConnection, MySqlRow};

use super::connection::retried;
use super::rows::{self, MultiRow};
use super::{MySqlStore, clients, wills};
use crate::store::client_row::settled;
use crate::store::limits::limited;
use crate::store::time::millis;
use crate::store::{SessionRow, SharedSession, StoreError, Unanswered};

/// The number of sessions that one transaction writes, which limits the duration of its locks.
const SESSIONS_AT_A_TIME: usize = 1024;

/// The columns that [`session`] reads.
macro_rules! columns {
    () => {
        "s.client_id, s.generation, s.node_id, s.protocol, s.address, s.since, s.close_claimed_by"
    };
}
pub(super) use columns;

static ADD: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        "(?,?,?,?,?,?)",
        ",",
        "INSERT INTO sessions (client_id, generation, node_id, protocol, address, since) VALUES {rows} \
         ON DUPLICATE KEY UPDATE \
         protocol = VALUES(protocol), address = VALUES(address), since = VALUES(since)",
    )
});
static REMOVE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "SIGNED", "BINARY"],
        "DELETE s FROM ({rows}) AS v STRAIGHT_JOIN sessions AS s \
         ON s.client_id = v.a AND s.generation = v.b AND s.node_id = v.c",
    )
});
static LOCK: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "SIGNED", "BINARY"],
        concat!(
            "SELECT ",
            columns!(),
            " FROM ({rows}) AS v STRAIGHT_JOIN sessions AS s \
             ON s.client_id = v.a AND s.generation = v.b AND s.node_id = v.c FOR UPDATE"
        ),
    )
});
static CLAIM: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "SIGNED", "BINARY", "BINARY"],
        "UPDATE ({rows}) AS v STRAIGHT_JOIN sessions AS s \
         ON s.client_id = v.a AND s.generation = v.b AND s.node_id = v.c \
         SET s.close_claimed_by = v.d, s.called_off = s.called_off OR s.node_id <> v.d",
    )
});

impl MySqlStore {
    /// See [`Store::sessions_opened`](crate::store::Store::sessions_opened).
    pub(super) async fn add_sessions(&self, sessions: &[SessionRow]) -> Result<(), StoreError> {
        self.check_open()?;
        let mut sorted: Vec<_> = sessions.iter().collect();
        sorted.sort_unstable_by_key(|session| name(session));
        for chunk in sorted.chunks(SESSIONS_AT_A_TIME) {
            retried(|| async {
                let mut lease = self.connections.lease().await?;
                let added = limited(async { add(lease.begin().await?, chunk).await }).await;
                lease.finish(added).await
            })
            .await?;
        }
        Ok(())
    }

    /// See [`Store::sessions_closed`](crate::store::Store::sessions_closed).
    pub(super) async fn remove_sessions(
        &self,
        sessions: &[(ClientId, u64)],
        node: &str,
        unanswered: Unanswered,
    ) -> Result<(), StoreError> {
        let mut sorted = sessions.to_vec();
        sorted.sort_unstable();
        for chunk in sorted.chunks(SESSIONS_AT_A_TIME) {
            retried(|| async {
                let mut lease = self.connections.lease().await?;
                let removed =
                    limited(async { remove(lease.begin().await?, chunk, node, unanswered).await }).await;
                lease.finish(removed).await
            })
            .await?;
        }
        Ok(())
    }

    /// See [`Store::claim_orphans`](crate::store::Store::claim_orphans). Unfinished claims of another process
    /// are claimed again; existing claims of `node` are not.
    pub(super) async fn claim_all_others(&self, node: &str) -> Result<Vec<SessionRow>, StoreError> {
        self.check_open()?;
        let sql = concat!(
            "SELECT ",
            columns!(),
            " FROM sessions AS s WHERE s.node_id <> ? \
             AND (s.close_claimed_by IS NULL OR s.close_claimed_by <> ?)"
        );
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let query = sqlx::query(sql).bind(node.as_bytes()).bind(node.as_bytes());
                Ok(query.fetch_all(lease.connection()?).await?)
            });
            let found = found.await;
            lease.done(found)
        });
        let found: Vec<_> = found.await?.iter().map(session).collect::<Result<_, _>>()?;
        let mut claimed = Vec::with_capacity(found.len());
        for chunk in found.chunks(SESSIONS_AT_A_TIME) {
            let mine = self.claim(chunk, node).await?;
            claimed.extend(chunk.iter().zip(mine).filter(|(_, mine)| *mine).map(|(it, _)| it.row.clone()));
        }
        claimed.sort_by_key(|session| (session.since, session.generation));
        Ok(claimed)
    }

    /// See [`claim`].
    pub(super) async fn claim(&self, sessions: &[SharedSession], by: &str) -> Result<Vec<bool>, StoreError> {
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let claimed = limited(async { claim(lease.begin().await?, sessions, by).await }).await;
            lease.finish(claimed).await
        })
        .await
    }
}

/// The key of a session, in the order of locking.
pub(super) fn name(session: &SessionRow) -> (&ClientId, u64, &str) {
    (&session.client, session.generation, session.node.as_str())
}

/// Writes sessions; they must be sorted.
pub(super) async fn add(
    connection: &mut MySqlConnection,
    sessions: &[&SessionRow],
) -> Result<(), StoreError> {
    let add = ADD.execute(connection, sessions, |values, session| {
        add_session(values, session)?;
        rows::add_name(values, &session.protocol)?;
        rows::add_name(values, &session.address)?;
        values.add(millis(session.since))
    });
    add.await?;
    Ok(())
}

/// Adds the key of a session.
pub(super) fn add_session(values: &mut MySqlArguments, session: &SessionRow) -> Result<(), BoxDynError> {
    rows::add_name(values, session.client.as_str())?;
    values.add(i64::try_from(session.generation)?)?;
    rows::add_name(values, &session.node)
}

async fn remove(
    connection: &mut MySqlConnection,
    sessions: &[(ClientId, u64)],
    node: &str,
    unanswered: Unanswered,
) -> Result<(), StoreError> {
    wills::end(connection, sessions, node, 0).await?;
    clients::seen(connection, &settled(sessions, unanswered)).await?;
    let remove = REMOVE.execute(connection, sessions, |values, (client, generation)| {
        rows::add_name(values, client.as_str())?;
        values.add(i64::try_from(*generation)?)?;
        rows::add_name(values, node)
    });
    remove.await?;
    Ok(())
}

/// Claims the sessions whose stored claim is still the given one, and returns which succeeded.
pub(super) async fn claim(
    connection: &mut MySqlConnection,
    sessions: &[SharedSession],
    by: &str,
) -> Result<Vec<bool>, StoreError> {
    let mut sorted: Vec<_> = sessions.iter().collect();
    sorted.sort_unstable_by_key(|session| name(&session.row));
    let found = LOCK.fetch(connection, &sorted, |values, it| add_session(values, &it.row)).await?;
    let found: Vec<_> = found.iter().map(session).collect::<Result<_, _>>()?;
    let is_as_told = |it: &&SharedSession| {
        let row = found.binary_search_by(|row| name(&row.row).cmp(&name(&it.row)));
        let claimed_by = row.ok().map(|row| &found[row].claimed_by);
        claimed_by.is_some_and(|now| *now == it.claimed_by || now.as_deref() == Some(by))
    };
    let mine: Vec<_> = sorted.into_iter().filter(is_as_told).collect();
    let claim = CLAIM.execute(connection, &mine, |values, it| {
        add_session(values, &it.row)?;
        rows::add_name(values, by)
    });
    claim.await?;
    Ok(sessions.iter().map(|it| is_as_told(&it)).collect())
}

/// Reads a session and its claim.
pub(super) fn session(row: &MySqlRow) -> Result<SharedSession, StoreError> {
    let session = SessionRow {
        client: rows::client(row, 0)?,
        generation: rows::count(row, 1)?,
        node: rows::text(row, 2)?.to_owned(),
        protocol: rows::text(row, 3)?.to_owned(),
        address: rows::text(row, 4)?.to_owned(),
        since: rows::time(row, 5)?,
    };
    let claimed_by = rows::optional_text(row, 6)?.map(str::to_owned);
    Ok(SharedSession { row: session, claimed_by })
}
