//! Connections: how they are made, who has which, and what becomes of them after an error.
//!
//! A connection whose work was cut short (an error of the network, a time limit, a dropped future) may
//! be in the middle of an answer. Such a one is never used again: whoever has a connection owns it, and
//! gives it back only when it is known to be in order.

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

/// The longest wait for a connection to be made.
pub(super) const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// The server hangs up on a connection that asks nothing for so long, and undoes its transaction. What a
/// node has locked that stands still or has vanished is in the way of the others: this is less than the time
/// they wait for it ([`TIME_LIMIT`]), so that they only lose time.
const SERVER_WAITS: Duration = Duration::from_secs(8);

/// MariaDB can be told to wait less in a transaction.
const SERVER_WAITS_IN_TRANSACTION: Duration = Duration::from_secs(5);

/// A connection that nobody has used for so long is not used again: the server is about to hang up.
pub(super) const IDLE_LIMIT: Duration = Duration::from_secs(5);

/// How often work is repeated after a deadlock or the like, and after a lost connection.
const CONFLICTS: u32 = 12;
const LOST: u32 = 2;

/// The server's number for a lock that was not to be had in time.
pub(super) const LOCKED: u16 = 1205;

/// How many prepared statements a connection keeps.
const STATEMENTS: usize = 256;

/// A connection with what is known of it.
#[derive(Debug)]
pub(super) struct Connected {
    pub(super) connection: MySqlConnection,
    /// What the server calls it.
    pub(super) id: u64,
    /// The largest packet that the server takes.
    pub(super) max_packet: usize,
}

/// Makes connections.
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

    /// A connection whose transaction does not outlive a vanished machine.
    pub(super) async fn connect(&self) -> Result<Connected, StoreError> {
        let settings = format!(
            "wait_timeout = {wait}, net_read_timeout = {wait}, net_write_timeout = {wait} \
             /*M!100300 , idle_transaction_timeout = {} */", // which MySQL takes for a comment
            SERVER_WAITS_IN_TRANSACTION.as_secs(),
            wait = SERVER_WAITS.as_secs(),
        );
        self.connect_with(&settings).await
    }

    /// A connection that the server keeps for so long without hearing from it.
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
    /// The one used last at the back.
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

    /// A connection with no transaction open.
    pub(super) async fn lease(&self) -> Result<Lease<'_>, StoreError> {
        let room = tokio::time::timeout(TIME_LIMIT, self.room.acquire()).await;
        let room = room.map_err(|_| StoreError::TimedOut(TIME_LIMIT))?.map_err(|_| StoreError::Closed)?;
        let connection = match self.pop() {
            Some(connection) => connection,
            None => self.connector.connect().await?.connection,
        };
        Ok(Lease { connections: self, connection: Some(connection), _room: room })
    }

    /// Hangs up, once those who still work are done, or have had time to be.
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

    /// Where one connection was lost, the others probably were too.
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

    /// Ends the transaction: commits it if `result` is `Ok`, or else undoes it.
    ///
    /// # Errors
    /// That of `result`: nothing has happened then. Or that of the COMMIT, of which it may be unknown
    /// whether it has happened.
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

    /// Gives the connection back; no transaction was begun.
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

/// Commits. After an error it is not known whether that has happened.
pub(super) async fn commit(connection: &mut MySqlConnection) -> Result<(), StoreError> {
    match tokio::time::timeout(COMMIT_LIMIT, connection.execute("COMMIT")).await {
        Ok(done) => Ok(done.map(drop)?),
        Err(_) => Err(no_answer().into()),
    }
}

/// The error of a COMMIT of which it will not be found out whether it has happened.
pub(super) fn unanswered(error: StoreError) -> StoreError {
    match error {
        StoreError::Database(error) => StoreError::Unanswered(error),
        error => error,
    }
}

/// Hangs up politely, if that does not take long.
pub(super) async fn hang_up(connection: MySqlConnection) {
    let _ = tokio::time::timeout(Duration::from_secs(1), connection.close()).await;
}

/// The server's number for an error.
pub(super) fn number(error: &StoreError) -> Option<u16> {
    match error {
        StoreError::Database(DatabaseError(sqlx::Error::Database(error)))
        | StoreError::Unreachable(DatabaseError(sqlx::Error::Database(error))) => {
            error.try_downcast_ref::<MySqlDatabaseError>().map(MySqlDatabaseError::number)
        }
        _ => None,
    }
}

/// Whether the connection is gone, or was never made.
pub(super) fn is_lost(error: &StoreError) -> bool {
    match error {
        StoreError::Database(DatabaseError(sqlx::Error::Database(_)))
        | StoreError::Unreachable(DatabaseError(sqlx::Error::Database(_))) => {
            // shutting down; killed (MySQL, MariaDB); too idle; read-only, as a server is that was the
            // primary one: another may answer under its name by now
            matches!(number(error), Some(1053 | 1927 | 3169 | 4031 | 1290 | 1792 | 1836))
        }
        StoreError::Database(error) | StoreError::Unreachable(error) => {
            matches!(error.0, sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_))
        }
        _ => false,
    }
}

/// Whether whoever was called did not answer: that has taken long enough.
fn is_silent(error: &StoreError) -> bool {
    matches!(error, StoreError::Unreachable(DatabaseError(sqlx::Error::Io(error))) if error.kind() == ErrorKind::TimedOut)
}

/// Whether the server has answered with the error, so that the connection may be used on.
pub(super) fn is_usable(error: &StoreError) -> bool {
    match error {
        StoreError::Database(DatabaseError(sqlx::Error::Database(_))) => !is_lost(error),
        StoreError::Corrupt { .. } | StoreError::InUse { .. } => true,
        _ => false,
    }
}

/// Whether others were in the way: a deadlock, or a row that stayed locked for too long.
fn is_conflict(error: &StoreError) -> bool {
    matches!(number(error), Some(LOCKED | 1213))
}

/// Decides whether work is to be tried again. To be asked only about work that has not been done.
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

    /// Whether to try again; waits a little before it says yes.
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

/// A few milliseconds, at random, so that those who were in each other's way are not again.
fn short_pause(round: u32) -> Duration {
    let random = getrandom::u32().unwrap_or(0) % 1000;
    Duration::from_micros(u64::from(random * round.min(20)))
}

/// Does what `work` does, again where [`Attempts`] says so: never after a COMMIT that was not answered.
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
