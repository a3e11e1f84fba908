//! The state that nodes share: which node serves a client, and which node runs the close notifier of a session.
//!
//! A transaction that inserts sessions locks the generation counter until its commit, so these transactions
//! are serialized, and a later one sees the sessions of an earlier one.

use std::sync::{LazyLock, MutexGuard, PoisonError};
use std::time::SystemTime;

use async_trait::async_trait;
use jmqt_core::ClientId;
use sqlx::Executor as _;
use sqlx::mysql::{MySqlConnection, MySqlRow};

use super::MySqlStore;
use super::connection::retried;
use super::rows::{self, MultiRow};
use super::sessions::{self, columns, session};
use super::wills;
use crate::store::limits::limited;
use crate::store::time::millis;
use crate::store::{ChannelKey, ClusterStore, Entered, NodeBeat, Seq, SessionRow, SharedSession, StoreError};

static OF_CLIENTS: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY"],
        concat!(
            "SELECT ",
            columns!(),
            " FROM ({rows}) AS v STRAIGHT_JOIN sessions AS s ON s.client_id = v.a"
        ),
    )
});
static CALL_OFF: LazyLock<MultiRow> = LazyLock::new(|| {
    MultiRow::table(
        &["BINARY", "SIGNED", "BINARY"],
        "UPDATE ({rows}) AS v STRAIGHT_JOIN sessions AS s \
         ON s.client_id = v.a AND s.generation = v.b AND s.node_id = v.c SET s.called_off = TRUE",
    )
});
static LAST_SEQS: LazyLock<MultiRow> =
    LazyLock::new(|| MultiRow::list("SELECT id, last_seq FROM channels WHERE id IN ({rows})"));

#[async_trait]
impl ClusterStore for MySqlStore {
    async fn enter_sessions(&self, sessions: &[SessionRow]) -> Result<Vec<Entered>, StoreError> {
        self.check_open()?;
        if sessions.is_empty() {
            return Ok(Vec::new());
        }
        retried(|| self.enter(sessions)).await
    }

    async fn sessions_of(&self, client: &ClientId) -> Result<Vec<SharedSession>, StoreError> {
        let mut found = self
            .read_sessions(
                concat!("SELECT ", columns!(), " FROM sessions AS s WHERE s.client_id = ?"),
                &[client.as_str()],
            )
            .await?;
        found.sort_by_key(|session| (session.row.generation, session.row.since));
        Ok(found)
    }

    async fn call_off(&self, sessions: &[SessionRow]) -> Result<(), StoreError> {
        let mut sorted: Vec<_> = sessions.iter().collect();
        sorted.sort_unstable_by_key(|session| sessions::name(session));
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let called_off = limited(async {
                let add = |values: &mut _, it: &&SessionRow| sessions::add_session(values, it);
                CALL_OFF.execute(lease.begin().await?, &sorted, add).await?;
                Ok(())
            });
            let called_off = called_off.await;
            lease.finish(called_off).await
        })
        .await
    }

    async fn called_off(&self, node: &str) -> Result<Vec<SharedSession>, StoreError> {
        let sql =
            concat!("SELECT ", columns!(), " FROM sessions AS s WHERE s.node_id = ? AND s.called_off = TRUE");
        self.read_sessions(sql, &[node]).await
    }

    async fn claim_sessions(&self, sessions: &[SharedSession], by: &str) -> Result<Vec<bool>, StoreError> {
        self.check_open()?;
        self.claim(sessions, by).await
    }

    async fn beat(&self, node: &str) -> Result<Option<Vec<NodeBeat>>, StoreError> {
        self.check_open()?;
        let beats = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let beats = limited(async { beat(lease.connection()?, node).await }).await;
            lease.done(beats)
        });
        let beats = beats.await?;
        let is_condemned = beats.iter().any(|(it, is_condemned)| *is_condemned && it.node == node);
        if let Some((own, _)) = beats.iter().find(|(it, _)| it.node == node) {
            self.is_member(own);
        }
        Ok((!is_condemned).then(|| beats.into_iter().map(|(it, _)| it).collect()))
    }

    async fn readmit(&self, node: &str, last_beat: u64) -> Result<(), StoreError> {
        self.check_open()?;
        let sql = "INSERT INTO nodes (node_id, beat) VALUES (?, ?) \
            ON DUPLICATE KEY UPDATE condemned_at = NULL, beat = GREATEST(beat, VALUES(beat))";
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let written = limited(async {
                let query = sqlx::query(sql).bind(node.as_bytes()).bind(last_beat.cast_signed());
                query.execute(lease.connection()?).await?;
                Ok(())
            });
            let written = written.await;
            lease.done(written)
        })
        .await?;
        *self.member() = Some(NodeBeat { node: node.to_owned(), beat: last_beat });
        Ok(())
    }

    async fn leave(&self, node: &str) -> Result<(), StoreError> {
        self.write_node("DELETE FROM nodes WHERE node_id = ? AND condemned_at IS NULL", node).await?;
        self.forget_condemned().await
    }

    async fn forget_condemned(&self) -> Result<(), StoreError> {
        // Reads without locks, row by row through the indexes, so that no transaction that inserts sessions waits.
        let unused = "SELECT n.node_id FROM nodes AS n WHERE n.condemned_at IS NOT NULL \
            AND (SELECT s.generation FROM sessions AS s WHERE s.node_id = n.node_id LIMIT 1) IS NULL \
            AND (SELECT s.generation FROM sessions AS s WHERE s.close_claimed_by = n.node_id LIMIT 1) IS NULL";
        self.check_open()?;
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let done = limited(async {
                let connection = lease.connection()?;
                for row in sqlx::query(unused).fetch_all(&mut *connection).await? {
                    // What ends a session makes its will due. Only one of a session that did not begin is left.
                    wills::delete_of_node(connection, rows::text(&row, 0)?).await?;
                    let forget = "DELETE FROM nodes WHERE node_id = ? AND condemned_at IS NOT NULL";
                    let query = sqlx::query(forget).bind(rows::text(&row, 0)?.as_bytes());
                    query.execute(&mut *connection).await?;
                }
                Ok(())
            });
            let done = done.await;
            lease.done(done)
        })
        .await
    }

    async fn claimed(&self, by: &str) -> Result<Vec<SharedSession>, StoreError> {
        let sql = concat!(
            "SELECT ",
            columns!(),
            " FROM sessions AS s WHERE s.close_claimed_by = ? AND s.node_id <> ? ORDER BY s.generation, s.since"
        );
        self.read_sessions(sql, &[by, by]).await
    }

    async fn claim_sessions_of(
        &self,
        of: &NodeBeat,
        by: &str,
        limit: usize,
    ) -> Result<Vec<SharedSession>, StoreError> {
        self.check_open()?;
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let claimed = limited(async { claim_sessions_of(lease.begin().await?, of, by, limit).await });
            let claimed = claimed.await;
            lease.finish(claimed).await
        })
        .await
    }

    async fn bus_key(&self) -> Result<[u8; 32], StoreError> {
        let mut key = [0; 32];
        getrandom::fill(&mut key).map_err(|error| StoreError::Open {
            path: "the system's random numbers".to_owned(),
            source: error.into(),
        })?;
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async { bus_key(lease.connection()?, key).await });
            let found = found.await;
            lease.done(found)
        });
        found.await
    }

    async fn last_seqs(&self, channels: &[ChannelKey]) -> Result<Vec<(ChannelKey, Seq)>, StoreError> {
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found =
                limited(async { LAST_SEQS.fetch(lease.connection()?, channels, rows::add_key).await });
            let found = found.await;
            lease.done(found)
        });
        let last = |row| Ok((rows::key(row, 0)?, rows::seq(row, 1)?));
        let mut found: Vec<_> = found.await?.iter().map(last).collect::<Result<_, StoreError>>()?;
        found.sort_unstable();
        found.dedup();
        Ok(found)
    }
}

impl MySqlStore {
    async fn enter(&self, sessions: &[SessionRow]) -> Result<Vec<Entered>, StoreError> {
        let mut lease = self.connections.lease().await?;
        let entered = limited(async { enter(lease.begin().await?, sessions).await }).await;
        let expected = entered.as_ref().ok().cloned();
        let error = match (lease.finish(entered).await, &expected) {
            (Err(StoreError::Unanswered(error)), Some(_)) => error,
            (result, _) => return result,
        };
        // The COMMIT was not answered. No other transaction gets the counter before it is committed or rolled back.
        let expected = expected.unwrap_or_default();
        match self.has_entered(&sessions[0], expected[0].generation).await {
            Ok(true) => Ok(expected),
            Ok(false) => Err(StoreError::Database(error)),
            Err(_) => Err(StoreError::Unanswered(error)),
        }
    }

    fn member(&self) -> MutexGuard<'_, Option<NodeBeat>> {
        self.member.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers the beat of this node. One that starts again is that of a node that was condemned and forgotten.
    fn is_member(&self, own: &NodeBeat) {
        let mut member = self.member();
        if member.as_ref().is_none_or(|known| known.node != own.node || known.beat <= own.beat) {
            *member = Some(own.clone());
        }
    }

    /// Fails if other nodes may have taken over the sessions of this node. They do not until the transaction ends.
    ///
    /// A node that stood still commits what its sessions had left. Without this, the exchanges of a session that goes on at
    /// another node would begin again.
    pub(super) async fn hold_membership(&self, connection: &mut MySqlConnection) -> Result<(), StoreError> {
        let Some(NodeBeat { node, beat }) = self.member().clone() else { return Ok(()) };
        let sql = "SELECT 1 FROM nodes WHERE node_id = ? AND condemned_at IS NULL AND beat >= ? \
            LOCK IN SHARE MODE";
        let query = sqlx::query(sql).bind(node.as_bytes()).bind(beat.cast_signed());
        query.fetch_optional(connection).await?.map(drop).ok_or(StoreError::Condemned)
    }

    async fn write_node(&self, sql: &'static str, node: &str) -> Result<(), StoreError> {
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let written = limited(async {
                sqlx::query(sql).bind(node.as_bytes()).execute(lease.connection()?).await?;
                Ok(())
            });
            let written = written.await;
            lease.done(written)
        })
        .await
    }

    async fn has_entered(&self, session: &SessionRow, generation: u64) -> Result<bool, StoreError> {
        let sql = "SELECT 1 FROM sessions WHERE client_id = ? AND generation = ? AND node_id = ?";
        retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async {
                let connection = lease.begin().await?;
                lock_generations(connection).await?;
                let query = sqlx::query(sql).bind(session.client.as_str().as_bytes());
                let query = query.bind(generation.cast_signed()).bind(session.node.as_bytes());
                Ok(query.fetch_optional(connection).await?.is_some())
            });
            let found = found.await;
            lease.finish(found).await
        })
        .await
    }

    async fn read_sessions(
        &self,
        sql: &'static str,
        names: &[&str],
    ) -> Result<Vec<SharedSession>, StoreError> {
        let found = retried(|| async {
            let mut lease = self.connections.lease().await?;
            let found = limited(async { fetch_sessions(lease.connection()?, sql, names, None).await });
            let found = found.await;
            lease.done(found)
        });
        found.await
    }
}

async fn fetch_sessions(
    connection: &mut MySqlConnection,
    sql: &'static str,
    names: &[&str],
    limit: Option<usize>,
) -> Result<Vec<SharedSession>, StoreError> {
    let mut query = sqlx::query(sql);
    for name in names {
        query = query.bind(name.as_bytes());
    }
    if let Some(limit) = limit {
        query = query.bind(i64::try_from(limit).unwrap_or(i64::MAX));
    }
    query.fetch_all(connection).await?.iter().map(session).collect()
}

/// Increases the beat of `node`, unless it is condemned, and reads the beats of all nodes, and if each is condemned:
/// of the condemned nodes, only `node` itself can be included.
async fn beat(connection: &mut MySqlConnection, node: &str) -> Result<Vec<(NodeBeat, bool)>, StoreError> {
    let beat = "INSERT INTO nodes (node_id, beat) VALUES (?, 1) \
        ON DUPLICATE KEY UPDATE beat = IF(condemned_at IS NULL, beat + 1, beat)";
    sqlx::query(beat).bind(node.as_bytes()).execute(&mut *connection).await?;
    // A condemned node keeps its beat: a change would look like a sign of life. LIMIT in the
    // subqueries: an EXISTS would become a join with the whole table of sessions.
    let all = "SELECT n.node_id, n.beat, n.condemned_at IS NOT NULL AND n.node_id = ? FROM nodes AS n \
            WHERE n.condemned_at IS NULL OR n.node_id = ? \
            OR (SELECT s.generation FROM sessions AS s WHERE s.node_id = n.node_id LIMIT 1) IS NOT NULL \
            OR (SELECT s.generation FROM sessions AS s WHERE s.close_claimed_by = n.node_id LIMIT 1) IS NOT NULL \
        UNION SELECT s.node_id, 0, FALSE FROM (SELECT DISTINCT node_id FROM sessions) AS s \
            WHERE NOT EXISTS (SELECT 1 FROM nodes AS n WHERE n.node_id = s.node_id) \
        UNION SELECT s.node_id, 0, FALSE FROM \
            (SELECT DISTINCT close_claimed_by AS node_id FROM sessions) AS s WHERE s.node_id IS NOT NULL \
            AND NOT EXISTS (SELECT 1 FROM nodes AS n WHERE n.node_id = s.node_id)";
    let found = sqlx::query(all).bind(node.as_bytes()).bind(node.as_bytes()).fetch_all(connection).await?;
    let read = |row: &MySqlRow| {
        let node = rows::text(row, 0)?.to_owned();
        Ok((NodeBeat { node, beat: rows::count(row, 1)? }, rows::count(row, 2)? != 0))
    };
    found.iter().map(read).collect()
}

/// Reads the key; inserts `new` if it is missing. A row contains 8 bytes of the key.
async fn bus_key(connection: &mut MySqlConnection, new: [u8; 32]) -> Result<[u8; 32], StoreError> {
    let (parts, _) = new.as_chunks::<8>();
    let add = "INSERT IGNORE INTO meta (name, value) \
        VALUES ('bus_key_0', ?), ('bus_key_1', ?), ('bus_key_2', ?), ('bus_key_3', ?)";
    let query = parts.iter().fold(sqlx::query(add), |query, part| query.bind(i64::from_be_bytes(*part)));
    query.execute(&mut *connection).await?;
    let sql = "SELECT value FROM meta WHERE name BETWEEN 'bus_key_0' AND 'bus_key_3' ORDER BY name";
    let values: Vec<i64> = sqlx::query_scalar(sql).fetch_all(connection).await?;
    let bytes: Vec<u8> = values.into_iter().flat_map(i64::to_be_bytes).collect();
    bytes.try_into().map_err(|_| StoreError::Corrupt { what: "bus key" })
}

/// See [`ClusterStore::claim_sessions_of`]. Runs in one transaction, so that the node is condemned before the claims are
/// visible, and is not readmitted between reading its row and the claims.
async fn claim_sessions_of(
    connection: &mut MySqlConnection,
    of: &NodeBeat,
    by: &str,
    limit: usize,
) -> Result<Vec<SharedSession>, StoreError> {
    // A claim by another node moves a session to the end of this index, so the first ones are not claimed.
    let served = concat!(
        "SELECT ",
        columns!(),
        " FROM sessions AS s FORCE INDEX (sessions_by_node) \
         WHERE s.node_id = ? AND s.close_claimed_by IS NULL LIMIT ?"
    );
    let claimed = concat!(
        "SELECT ",
        columns!(),
        " FROM sessions AS s FORCE INDEX (sessions_by_claim) WHERE s.close_claimed_by = ? LIMIT ?"
    );
    if !condemn(connection, of).await? {
        return Ok(Vec::new());
    }
    let mut found = fetch_sessions(connection, served, &[&of.node], Some(limit)).await?;
    let room = limit - found.len();
    found.extend(fetch_sessions(connection, claimed, &[&of.node], Some(room)).await?);
    found.sort_by_key(|session| (session.row.generation, session.row.since));
    let mine = sessions::claim(connection, &found, by).await?;
    let claimed = found.into_iter().zip(mine).filter(|(_, mine)| *mine);
    Ok(claimed.map(|(it, _)| SharedSession { claimed_by: Some(by.to_owned()), ..it }).collect())
}

/// Condemns a node whose beat has not increased, and returns if it is condemned now. This does not change
/// until the transaction ends.
async fn condemn(connection: &mut MySqlConnection, seen: &NodeBeat) -> Result<bool, StoreError> {
    // The node may have no row yet. Lock it for writing at once, so that two transactions do not end in a deadlock.
    let add = "INSERT INTO nodes (node_id, beat) VALUES (?, ?) ON DUPLICATE KEY UPDATE beat = nodes.beat";
    let query = sqlx::query(add).bind(seen.node.as_bytes()).bind(seen.beat.cast_signed());
    query.execute(&mut *connection).await?;
    // A lower beat is possible after a failover to a database server that missed the last commits.
    let condemn = "UPDATE nodes SET condemned_at = COALESCE(condemned_at, ?) \
        WHERE node_id = ? AND (condemned_at IS NOT NULL OR beat <= ?)";
    let query = sqlx::query(condemn).bind(millis(SystemTime::now())).bind(seen.node.as_bytes());
    query.bind(seen.beat.cast_signed()).execute(&mut *connection).await?;
    let sql = "SELECT condemned_at IS NOT NULL FROM nodes WHERE node_id = ?";
    let found = sqlx::query(sql).bind(seen.node.as_bytes()).fetch_optional(connection).await?;
    found.map_or(Ok(false), |row| Ok(rows::count(&row, 0)? != 0))
}

/// Prevents other transactions from inserting sessions until this one ends.
pub(super) async fn lock_generations(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    connection.fetch_one("SELECT value FROM meta WHERE name = 'generation' FOR UPDATE").await?;
    Ok(())
}

async fn enter(
    connection: &mut MySqlConnection,
    sessions: &[SessionRow],
) -> Result<Vec<Entered>, StoreError> {
    let raise = "UPDATE meta SET value = value + ? WHERE name = 'generation'";
    sqlx::query(raise).bind(sessions.len() as i64).execute(&mut *connection).await?;
    let sql = "SELECT value FROM meta WHERE name = 'generation'";
    let row = sqlx::query(sql).fetch_one(&mut *connection).await?;
    let first = rows::count(&row, 0)? + 1 - sessions.len() as u64;

    let clients: Vec<_> = sessions.iter().map(|session| &session.client).collect();
    let add_client = |values: &mut _, client: &&ClientId| rows::add_name(values, client.as_str());
    let found = OF_CLIENTS.fetch(connection, &clients, add_client).await?;
    let mut older: Vec<_> = found.iter().map(session).collect::<Result<_, _>>()?;
    older.sort_by(|a, b| sessions::name(&a.row).cmp(&sessions::name(&b.row)));
    older.dedup_by(|a, b| sessions::name(&a.row) == sessions::name(&b.row));

    let new: Vec<_> =
        (first..).zip(sessions).map(|(generation, it)| SessionRow { generation, ..it.clone() }).collect();
    let mut sorted: Vec<_> = new.iter().collect();
    sorted.sort_unstable_by_key(|session| sessions::name(session));
    sessions::add(connection, &sorted).await?;
    let entered = |session: &SessionRow| {
        let from = older.partition_point(|it| it.row.client < session.client);
        let of_client = older[from..].iter().take_while(|it| it.row.client == session.client);
        Entered { generation: session.generation, older: of_client.cloned().collect() }
    };
    Ok(new.iter().map(entered).collect())
}
