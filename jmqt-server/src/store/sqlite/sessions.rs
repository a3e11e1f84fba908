//! The rows of sessions, which are used if this process dies.

use std::sync::LazyLock;

use jmqt_core::ClientId;
use sqlx::sqlite::SqliteRow;
use sqlx::{Arguments as _, Row as _};

use super::rows::{self, MultiRow};
use super::{SqliteStore, clients, wills};
use crate::store::client_row::settled;
use crate::store::limits::limited;
use crate::store::time::millis;
use crate::store::{SessionRow, StoreError, Unanswered};

/// The number of sessions that one transaction writes, which limits the wait of a commit.
const SESSIONS_AT_A_TIME: usize = 1024;

static ADD: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        6,
        "INSERT OR REPLACE INTO sessions (client_id, generation, node_id, protocol, address, since) \
         SELECT * FROM (VALUES {rows}) WHERE column1 IS NOT NULL",
    )
});
/// The join tells SQLite the types it needs to use the key; bare VALUES would mean a full scan.
static REMOVE: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::new(
        3,
        "DELETE FROM sessions WHERE (client_id, generation, node_id) IN \
         (SELECT s.client_id, s.generation, s.node_id FROM (VALUES {rows}) AS v \
         CROSS JOIN sessions AS s ON s.client_id = v.column1 AND s.generation = v.column2 \
         AND s.node_id = v.column3)",
    )
});
#[cfg(test)]
pub(super) fn statements() -> [&'static MultiRow; 2] {
    [&ADD, &REMOVE]
}

impl SqliteStore {
    /// See [`Store::sessions_opened`](crate::store::Store::sessions_opened).
    pub(super) async fn add_sessions(&self, sessions: &[SessionRow]) -> Result<(), StoreError> {
        for chunk in sessions.chunks(SESSIONS_AT_A_TIME) {
            let mut writer = self.writer().await?;
            let added = limited(async {
                writer.begin().await?;
                let add = ADD.execute(writer.connection()?, chunk, |values, session| {
                    values.add(session.client.as_str())?;
                    values.add(i64::try_from(session.generation)?)?;
                    values.add(session.node.as_str())?;
                    values.add(session.protocol.as_str())?;
                    values.add(session.address.as_str())?;
                    values.add(millis(session.since))
                });
                add.await
            })
            .await;
            writer.finish(added).await?;
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
        for chunk in sessions.chunks(SESSIONS_AT_A_TIME) {
            let mut writer = self.writer().await?;
            let mut seen = settled(chunk, unanswered);
            seen.retain(|(client, _)| self.clients.may_contain(client.as_str()));
            let removed = limited(async {
                writer.begin().await?;
                let connection = writer.connection()?;
                let remove = REMOVE.execute(connection, chunk, |values, (client, generation)| {
                    values.add(client.as_str())?;
                    values.add(i64::try_from(*generation)?)?;
                    values.add(node)
                });
                remove.await?;
                wills::end(connection, chunk, node, 0).await?;
                clients::seen(connection, &seen).await
            })
            .await;
            writer.finish(removed).await?;
        }
        Ok(())
    }

    /// See [`Store::claim_orphans`](crate::store::Store::claim_orphans). Unfinished claims of another process
    /// are claimed again; existing claims of `node` are not.
    pub(super) async fn claim_sessions(&self, node: &str) -> Result<Vec<SessionRow>, StoreError> {
        let mut writer = self.writer().await?;
        let sql = "UPDATE sessions SET close_claimed_by = ?1 \
            WHERE node_id <> ?1 AND close_claimed_by IS NOT ?1 \
            RETURNING client_id, generation, node_id, protocol, address, since";
        let claimed = limited(async {
            writer.begin().await?;
            let rows = sqlx::query(sql).bind(node).fetch_all(writer.connection()?).await?;
            rows.iter().map(session).collect::<Result<Vec<_>, _>>()
        })
        .await;
        let mut claimed = writer.finish(claimed).await?;
        claimed.sort_by_key(|session| (session.since, session.generation));
        Ok(claimed)
    }
}

fn session(row: &SqliteRow) -> Result<SessionRow, StoreError> {
    Ok(SessionRow {
        client: rows::client(row, 0)?,
        generation: rows::count(row, 1)?,
        node: row.try_get(2)?,
        protocol: row.try_get(3)?,
        address: row.try_get(4)?,
        since: rows::time(row, 5)?,
    })
}
