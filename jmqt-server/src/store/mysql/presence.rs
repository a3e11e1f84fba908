//! Detects the stores that have a database open, with named locks of the server.
//!
//! A store in exclusive use holds the lock `only`, on the connection that commits. A shared
//! store holds one of the locks `seat 0` to `seat 63`, on a separate connection. A store that opens a
//! database checks both while it holds the lock `door`.

use std::time::{Duration, Instant};

use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlConnection;

use super::connection::{Connected, Connector, hang_up};
use crate::store::StoreError;

/// The number of shared stores that can be detected.
const SEATS: usize = 64;

/// How long the server keeps an idle connection that holds a lock.
pub(super) const KEPT_FOR: Duration = Duration::from_secs(365 * 86_400);

/// How long to wait for a database in use: the server needs a moment to detect that a
/// process has died.
const FREE_WITHIN_SECONDS: i64 = 2;

/// How long another store may hold the lock `door`.
const DOOR_SECONDS: i64 = 8;

/// The names of the locks of one database.
#[derive(Debug, Clone)]
pub(super) struct Locks {
    prefix: String,
    /// The database, for error messages.
    place: String,
}

impl Locks {
    /// Lock names are global for the server, and at most 64 characters long.
    pub(super) async fn of_database(
        connection: &mut MySqlConnection,
        place: String,
    ) -> Result<Self, StoreError> {
        let sql = "SELECT CAST(LEFT(SHA2(DATABASE(), 256), 40) AS BINARY)";
        let hash: Vec<u8> = sqlx::query_scalar(sql).fetch_one(connection).await?;
        Ok(Self { prefix: format!("jmqt {}", String::from_utf8_lossy(&hash)), place })
    }

    /// The error for a database in use.
    pub(super) fn in_use(&self) -> StoreError {
        StoreError::InUse { path: self.place.clone() }
    }

    fn door(&self) -> String {
        format!("{} door", self.prefix)
    }

    fn only(&self) -> String {
        format!("{} only", self.prefix)
    }

    fn seat(&self, number: usize) -> String {
        format!("{} seat {number}", self.prefix)
    }

    /// Takes the lock `door`, until [`pass`](Self::pass) or the end of the connection.
    pub(super) async fn wait_at_door(&self, connection: &mut MySqlConnection) -> Result<(), StoreError> {
        if lock(connection, &self.door(), DOOR_SECONDS).await? {
            return Ok(());
        }
        Err(StoreError::TimedOut(Duration::from_secs(DOOR_SECONDS.unsigned_abs())))
    }

    /// Releases the lock `door`.
    pub(super) async fn pass(&self, connection: &mut MySqlConnection) -> Result<(), StoreError> {
        sqlx::query("DO RELEASE_LOCK(?)").bind(self.door()).execute(connection).await?;
        Ok(())
    }

    /// Takes the lock `only` for this connection; `false` if another connection holds it.
    pub(super) async fn take_all(&self, connection: &mut MySqlConnection) -> Result<bool, StoreError> {
        lock(connection, &self.only(), FREE_WITHIN_SECONDS).await
    }

    /// Returns `true` if no store uses the database exclusively. Call this only while holding the lock `door`, so that this
    /// cannot change meanwhile.
    pub(super) async fn is_nobodys(&self, connection: &mut MySqlConnection) -> Result<bool, StoreError> {
        let is_free = self.take_all(connection).await?;
        if is_free {
            sqlx::query("DO RELEASE_LOCK(?)").bind(self.only()).execute(connection).await?;
        }
        Ok(is_free)
    }

    /// The connection that holds the lock `only`.
    pub(super) async fn owner(&self, connection: &mut MySqlConnection) -> Result<Option<u64>, StoreError> {
        let sql = "SELECT CAST(IS_USED_LOCK(?) AS UNSIGNED)";
        Ok(sqlx::query_scalar(sql).bind(self.only()).fetch_one(connection).await?)
    }

    /// Returns `true` if a shared store is detected repeatedly.
    pub(super) async fn is_shared(&self, connection: &mut MySqlConnection) -> Result<bool, StoreError> {
        let until = Instant::now() + Duration::from_secs(FREE_WITHIN_SECONDS.unsigned_abs());
        while self.is_seat_taken(connection).await? {
            if Instant::now() > until {
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(false)
    }

    async fn is_seat_taken(&self, connection: &mut MySqlConnection) -> Result<bool, StoreError> {
        let seats: Vec<_> =
            (0..SEATS).map(|number| format!("IS_USED_LOCK('{}')", self.seat(number))).collect();
        let sql = format!("SELECT CAST(COALESCE({}) AS UNSIGNED)", seats.join(", "));
        let taken: Option<u64> = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(connection).await?;
        Ok(taken.is_some())
    }
}

async fn lock(connection: &mut MySqlConnection, name: &str, seconds: i64) -> Result<bool, StoreError> {
    let sql = "SELECT CAST(GET_LOCK(?, ?) AS SIGNED)";
    let locked: Option<i64> = sqlx::query_scalar(sql).bind(name).bind(seconds).fetch_one(connection).await?;
    Ok(locked == Some(1))
}

/// The seat of a shared store.
#[derive(Debug, Default)]
pub(super) struct Presence {
    connection: Option<Connected>,
}

impl Presence {
    /// Takes a seat lock, if one is free.
    pub(super) async fn take_seat(connector: &Connector, locks: &Locks) -> Result<Self, StoreError> {
        let mut connected = connector.connect_for(KEPT_FOR).await?;
        for number in 0..SEATS {
            if lock(&mut connected.connection, &locks.seat(number), 0).await? {
                return Ok(Self { connection: Some(connected) });
            }
        }
        tracing::warn!(
            "{SEATS} other nodes share the database: a node that needs it exclusively cannot detect this node"
        );
        hang_up(connected.connection).await;
        Ok(Self::default())
    }

    pub(super) async fn leave(&mut self) {
        if let Some(connected) = self.connection.take() {
            hang_up(connected.connection).await;
        }
    }
}
