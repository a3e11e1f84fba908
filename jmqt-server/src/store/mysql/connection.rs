//! Connections: connecting, pooling, and handling of errors.
//!
//! A connection whose work was interrupted (by a network error, a time limit, or a dropped future) may
//! be in the middle of an answer, and is never used again: a user owns its connection, and
//! returns it only when it is known to be in a clean state.

use std::collections::VecDeque;
use std::future::Future;
use std::io::ErrorKind;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlDatabaseError, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Row as _};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::MySqlOptions;
use crate::config::MySqlTls;
use crate::store::limits::{COMMIT_LIMIT, TIME_LIMIT, limited, no_answer};
use crate::store::{DatabaseError, StoreError};

/// The time limit of connecting.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// The server closes a connection that is idle for this time, and rolls back its transaction. The locks of a
/// stalled or dead node block other nodes: this time is less than their own wait
/// ([`TIME_LIMIT`]), so that they only lose time.
const SERVER_WAITS: Duration = Duration::from_secs(8);

/// The shorter limit within a transaction, which MariaDB supports.
const SERVER_WAITS_IN_TRANSACTION: Duration = Duration::from_secs(5);

/// A connection that was idle for this time is not used again, because the server is about to close it.
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(5);

/// How often work is repeated after a conflict such as a deadlock, and after a lost connection.
const CONFLICTS: u32 = 12;
const LOST: u32 = 2;

/// The server's error number for a lock wait timeout.
pub(super) const LOCKED: u16 = 1205;

/// The number of prepared statements that a connection caches.
const STATEMENTS: usize = 256;

/// A connection and its properties.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) connection: MySqlConnection,
    /// The server's id of the connection.
    pub(super) id: u64,
    /// The largest packet that the server accepts.
    pub(super) max_packet: usize,
}

/// Opens connections.
#[derive(Debug)]
pub(super) struct Connector {
    options: MySqlConnectOptions,
}

impl Connector {
    pub(super) fn new(options: &MySqlOptions) -> Self {
        let (mode, ca) = match &options.tls {
            MySqlTls::Disabled => (MySqlSslMode::Disabled, None),
            MySqlTls::Preferred => (MySqlSslMode::Preferred, None),
            MySqlTls::Required => (MySqlSslMode::Required, None),
            MySqlTls::VerifyCa { ca } => (MySqlSslMode::VerifyCa, ca.as_ref()),
            MySqlTls::VerifyIdentity { ca } => (MySqlSslMode::VerifyIdentity, ca.as_ref()),
        };
        let mut connect = MySqlConnectOptions::new()
            .host(&options.host)
            .port(options.port)
            .database(&options.database)
            .username(&options.user)
            .ssl_mode(mode)
            .statement_cache_capacity(STATEMENTS)
            .pipes_as_concat(false)
            .no_engine_substitution(false)
            .disable_statement_logging();
        if !options.password.is_empty() {
            connect = connect.password(&options.password);
        }
        if let Some(ca) = ca {
            connect = connect.ssl_ca(ca);
        }
        Self { options: connect }
    }

    /// Opens a connection whose transaction ends soon after a failure of this machine.
    pub(super) async fn connect(&self) -> Result<Connected, StoreError> {
        let settings = format!(
            "wait_timeout = {wait}, net_read_timeout = {wait}, net_write_timeout = {wait} \
             /*M!100300 , idle_transaction_timeout = {} */", // which MySQL takes for a comment
            SERVER_WAITS_IN_TRANSACTION.as_secs(),
            wait = SERVER_WAITS.as_secs(),
        );
        self.connect_with(&settings).await
    }

    /// Opens a connection that the server keeps open for this idle time.
    pub(super) async fn connect_for(&self, server_waits: Duration) -> Result<Connected, StoreError> {
        self.connect_with(&format!("wait_timeout = {}", server_waits.as_secs())).await
    }

    async fn connect_with(&self, settings: &str) -> Result<Connected, StoreError> {
        let settings = format!(
            "SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED; \
             SET SESSION autocommit = 1, sql_mode = 'STRICT_ALL_TABLES,NO_ENGINE_SUBSTITUTION', \
             innodb_lock_wait_timeout = 5, lock_wait_timeout = 8, {settings}"
        );
        let connecting = async {
            let mut connection = self.options.connect().await?;
            connection.execute(AssertSqlSafe(settings)).await?;
            let ask = "SELECT CAST(CONNECTION_ID() AS UNSIGNED), CAST(@@max_allowed_packet AS UNSIGNED)";
            let row = connection.fetch_one(ask).await?;
            let max_packet = usize::try_from(row.try_get::<u64, _>(1)?).unwrap_or(usize::MAX);
            Ok(Connected { id: row.try_get(0)?, max_packet, connection })
        };
        let connected = tokio::time::timeout(CONNECT_LIMIT, connecting).await;
        connected
            .unwrap_or_else(|_| Err(no_answer()))
            .map_err(|error| StoreError::Unreachable(DatabaseError(error)))
    }
}

/// The connections for everything but commits.
#[derive(Debug)]
pub(super) struct Connections {
    connector: Connector,
    /// The most recently used connection is last.
    idle: Mutex<VecDeque<(MySqlConnection, Instant)>>,
    room: Semaphore,
    most: u32,
}

impl Connections {
    pub(super) fn new(connector: Connector, most: u32) -> Self {
        let room = Semaphore::new(usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS));
        Self { connector, idle: Mutex::default(), room, most }
    }

    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// Returns a connection without an open transaction.
    pub(super) async fn lease(&self) -> Result<Lease<'_>, StoreError> {
        let room = tokio::time::timeout(TIME_LIMIT, self.room.acquire()).await;
        let room = room.map_err(|_| StoreError::TimedOut(TIME_LIMIT))?.map_err(|_| StoreError::Closed)?;
        let connection = match self.pop() {
            Some(connection) => connection,
            None => self.connector.connect().await?.connection,
        };
        Ok(Lease { connections: self, connection: Some(connection), _room: room })
    }

    /// Closes all connections, after running work has finished or its time limit has passed.
    pub(super) async fn close(&self) {
        let _ = tokio::time::timeout(TIME_LIMIT, self.room.acquire_many(self.most)).await;
        self.room.close();
        while let Some(connection) = self.pop() {
            hang_up(connection).await;
        }
    }

    fn pop(&self) -> Option<MySqlConnection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        while idle.front().is_some_and(|(_, since)| since.elapsed() > IDLE_LIMIT) {
            idle.pop_front();
        }
        idle.pop_back().map(|(connection, _)| connection)
    }

    fn push(&self, connection: MySqlConnection) {
        if !self.room.is_closed() {
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.push_back((connection, Instant::now()));
        }
    }

    /// Closes idle connections: if one connection was lost, the others probably are too.
    fn forget_idle(&self) {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        drop(idle);
    }
}

/// A connection in use. Unless [finished](Self::finish), it is closed when it is dropped.
#[derive(Debug)]
pub(super) struct Lease<'c> {
    connections: &'c Connections,
    connection: Option<MySqlConnection>,
    _room: SemaphorePermit<'c>,
}

impl Lease<'_> {
    /// The connection, for statements.
    pub(super) fn connection(&mut self) -> Result<&mut MySqlConnection, StoreError> {
        self.connection.as_mut().ok_or(StoreError::Closed)
    }

    /// Begins a transaction. [`finish`](Self::finish) ends it.
    pub(super) async fn begin(&mut self) -> Result<&mut MySqlConnection, StoreError> {
        let connection = self.connection()?;
        begin(connection).await?;
        Ok(connection)
    }

    /// Ends the transaction: commits it if `result` is `Ok`, otherwise rolls it back.
    ///
    /// # Errors
    /// The error of `result`: nothing was changed. Or the error of the COMMIT, whose outcome may be
    /// unknown.
    pub(super) async fn finish<T>(mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let Some(mut connection) = self.connection.take() else { return result };
        let result = match result {
            Ok(value) => match commit(&mut connection).await {
                Ok(()) => Ok(value),
                Err(error) if is_conflict(&error) => Err(error), // a cluster of servers says so here
                Err(error) => Err(unanswered(error)),
            },
            Err(error) if !is_usable(&error) => Err(error),
            Err(error) => match limited(rollback(&mut connection)).await {
                Ok(()) => {
                    self.connections.push(connection);
                    return Err(error);
                }
                Err(_) => return Err(error),
            },
        };
        self.give_back(connection, result)
    }

    /// Returns the connection, if no transaction was begun.
    pub(super) fn done<T>(mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        let Some(connection) = self.connection.take() else { return result };
        self.give_back(connection, result)
    }

    fn give_back<T>(
        &self,
        connection: MySqlConnection,
        result: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &result {
            Err(error)
                if is_lost(error) || matches!(error, StoreError::Unanswered(_) | StoreError::TimedOut(_)) =>
            {
                self.connections.forget_idle();
            }
            Err(error) if !is_usable(error) => {}
            _ => self.connections.push(connection),
        }
        result
    }
}

pub(super) async fn begin(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    connection.execute("START TRANSACTION").await?;
    Ok(())
}

pub(super) async fn rollback(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    connection.execute("ROLLBACK").await?;
    Ok(())
}

/// Commits. After an error the outcome is unknown.
pub(super) async fn commit(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    match tokio::time::timeout(COMMIT_LIMIT, connection.execute("COMMIT")).await {
        Ok(done) => Ok(done.map(drop)?),
        Err(_) => Err(no_answer().into()),
    }
}

/// The error of a COMMIT whose outcome is not looked up.
pub(super) fn unanswered(error: StoreError) -> StoreError {
    match error {
        StoreError::Database(error) => StoreError::Unanswered(error),
        error => error,
    }
}

/// Closes the connection gracefully, within a time limit.
pub(super) async fn hang_up(connection: MySqlConnection) {
    let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
}

/// The server's error number.
pub(super) fn number(error: &StoreError) -> Option<u16> {
    match error {
        StoreError::Database(DatabaseError(sqlx::Error::Database(error)))
        | StoreError::Unreachable(DatabaseError(sqlx::Error::Database(error))) => {
            error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
        }
        _ => None,
    }
}

/// Returns `true` if the connection is lost, or was never opened.
pub(super) fn is_lost(error: &StoreError) -> bool {
    match error {
        StoreError::Database(DatabaseError(sqlx::Error::Database(_)))
        | StoreError::Unreachable(DatabaseError(sqlx::Error::Database(_))) => {
            // shutting down; killed (MySQL, MariaDB); too idle; read-only, such as a former
            // primary server: another server may have its name now
            matches!(number(error), Some(1053 | 1927 | 3169 | 4031 | 1290 | 1792 | 1836))
        }
        StoreError::Database(error) | StoreError::Unreachable(error) => {
            matches!(error.0, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_))
        }
        _ => false,
    }
}

/// Returns `true` if connecting timed out, after which a retry would take too long.
fn is_silent(error: &StoreError) -> bool {
    matches!(error, StoreError::Unreachable(DatabaseError(sqlx::Error::Io(error))) if error.kind() == ErrorKind::TimedOut)
}

/// Returns `true` if the server has answered with the error, so that the connection is still usable.
pub(super) fn is_usable(error: &StoreError) -> bool {
    match error {
        StoreError::Database(DatabaseError(sqlx::Error::Database(_))) => !is_lost(error),
        StoreError::Corrupt { .. } | StoreError::InUse { .. } | StoreError::Condemned => true,
        _ => false,
    }
}

/// Returns `true` for a conflict with other transactions: a deadlock or a lock wait timeout.
fn is_conflict(error: &StoreError) -> bool {
    matches!(number(error), Some(LOCKED | 1213))
}

/// Decides if work is repeated. Use this only for work that has not been done.
#[derive(Debug)]
pub(super) struct Attempts {
    until: Instant,
    conflicts: u32,
    lost: u32,
}

impl Attempts {
    pub(super) fn new() -> Self {
        Self { until: Instant::now() + TIME_LIMIT, conflicts: 0, lost: 0 }
    }

    /// Returns `true` to try again, after a short wait.
    pub(super) async fn another(&mut self, error: &StoreError) -> bool {
        let (count, most) = if is_conflict(error) {
            (&mut self.conflicts, CONFLICTS)
        } else if is_lost(error) && !is_silent(error) {
            (&mut self.lost, LOST)
        } else {
            return false;
        };
        *count += 1;
        if *count > most || Instant::now() > self.until {
            return false;
        }
        if is_conflict(error) {
            tokio::time::sleep(short_pause(self.conflicts)).await;
        }
        true
    }
}

/// Waits a few random milliseconds, so that conflicting transactions do not conflict again.
fn short_pause(round: u32) -> Duration {
    let random = getrandom::u32().unwrap_or(0) % 1000;
    Duration::from_micros(u64::from(random * round.min(20)))
}

/// Runs `work`, and repeats it as [`Attempts`] decides: never after a COMMIT without an answer.
pub(super) async fn retried<T, F>(mut work: impl FnMut() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut attempts = Attempts::new();
    loop {
        match work().await {
            Err(error) if attempts.another(&error).await => {}
            result => return result,
        }
    }
}
