//! The connection that writes, and its recovery to a clean state.

use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::publishers::Publishers;
use super::rescue::{Loss, MayCopy, Rescue};
use super::{filters, rows};
use crate::store::filters::PersistentFilters;
use crate::store::limits::{COMMIT_LIMIT, limited, no_answer};
use crate::store::plan::Plan;
use crate::store::retained::{RetainedBy, RetainedTotals};
use crate::store::to_trim::ToTrim;
use crate::store::{DatabaseError, StoreError};

/// The connection that writes. The task that holds it (behind a mutex) is the only one that changes
/// the database, so its reads stay valid until it releases the connection.
///
/// A future that uses it may be dropped anywhere. `dirty` then tells the next user that a transaction
/// may be open. Commands in progress are executed before those of the next user.
#[derive(Debug)]
pub(super) struct Writer {
    options: SqliteConnectOptions,
    connection: Option<SqliteConnection>,
    dirty: bool,
    /// The key of the next new channel.
    pub(super) next_channel: i64,
    /// Channels that may have messages to trim.
    pub(super) to_trim: ToTrim,
    /// The totals of all retained messages.
    pub(super) retained: RetainedTotals,
    /// The numbers of those of each client.
    pub(super) retained_by: RetainedBy,
    /// The filters that need cursors; `None` if they must be read, because a change of them failed.
    pub(super) filters: Option<PersistentFilters>,
    /// The cached publishers.
    pub(super) publishers: Publishers,
    rescue: Rescue,
}

impl Writer {
    pub(super) fn new(
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        next_channel: i64,
        retained: RetainedTotals,
        retained_by: RetainedBy,
    ) -> Self {
        Self {
            options,
            connection: Some(connection),
            dirty: false,
            next_channel,
            to_trim: ToTrim::default(),
            retained,
            retained_by,
            filters: None,
            publishers: Publishers::default(),
            rescue: Rescue::default(),
        }
    }

    /// The connection, for statements.
    pub(super) fn connection(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.connection.as_mut().ok_or(StoreError::Closed)
    }

    /// Inserts the publishers of `plan` from the cache or the database.
    pub(super) async fn load_publishers(&mut self, plan: &mut Plan<'_>) -> Result<(), StoreError> {
        let connection = self.connection.as_mut().ok_or(StoreError::Closed)?;
        self.publishers.load(connection, plan).await
    }

    /// Takes the filters, to put them back after a commit.
    pub(super) async fn take_filters(&mut self) -> Result<PersistentFilters, StoreError> {
        match self.filters.take() {
            Some(filters) => Ok(filters),
            None => limited(filters::load_all(self.connection()?)).await,
        }
    }

    /// Begins a transaction. [`finish`](Self::finish) ends it.
    pub(super) async fn begin(&mut self) -> Result<(), StoreError> {
        self.dirty = true;
        self.execute("BEGIN IMMEDIATE").await
    }

    /// Ends the transaction, if one is open: commits it if `result` is `Ok`, otherwise rolls it back.
    ///
    /// # Errors
    /// The error of `result` or of the COMMIT. Nothing was changed, except that the outcome is unknown after
    /// [`StoreError::Unanswered`].
    pub(super) async fn finish<T>(&mut self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        if is_thread_gone(&result) {
            self.give_up();
        }
        if !self.dirty {
            return result;
        }
        let result = match result {
            Ok(value) => {
                let commit = tokio::time::timeout(COMMIT_LIMIT, self.execute("COMMIT")).await;
                match commit.map_err(|_| StoreError::Unanswered(DatabaseError(no_answer())))? {
                    Ok(()) => Ok(value),
                    Err(StoreError::Database(error @ DatabaseError(sqlx::Error::WorkerCrashed))) => {
                        self.give_up();
                        Err(StoreError::Unanswered(error))
                    }
                    Err(error) => Err(error),
                }
            }
            Err(error) => Err(error),
        };
        if result.is_ok() {
            self.dirty = false;
        } else if let Err(error) = self.recover().await {
            // The caller gets the first error; the next user tries again and gets the later error.
            tracing::warn!(%error, "cannot undo a transaction yet");
        }
        result
    }

    /// Ensures that no transaction is open, with a new connection if necessary.
    ///
    /// # Errors
    /// The database cannot be reached. The next user tries again.
    pub(super) async fn recover(&mut self) -> Result<(), StoreError> {
        if !self.dirty {
            return Ok(());
        }
        limited(async {
            match self.execute("ROLLBACK").await {
                Err(error) if !is_no_transaction(&error) => self.reconnect().await?,
                _ => {}
            }
            self.dirty = false;
            Ok(())
        })
        .await
    }

    /// Saves data after a loss of files; see [`Rescue::run`].
    pub(super) async fn rescue(&mut self, loss: Loss, may_copy: MayCopy) {
        if self.recover().await.is_ok()
            && let Some(connection) = &mut self.connection
        {
            self.rescue.run(connection, loss, may_copy).await;
        }
    }

    /// Records that the files of the database exist.
    pub(super) fn is_sound(&mut self) {
        self.rescue.reset();
    }

    /// Records that the connection's thread has ended: the next user reopens the database.
    fn give_up(&mut self) {
        (self.connection, self.dirty) = (None, true);
    }

    /// Closes the connection for good.
    pub(super) fn take(&mut self) -> Option<SqliteConnection> {
        self.dirty = false;
        self.connection.take()
    }

    async fn reconnect(&mut self) -> Result<(), StoreError> {
        tracing::warn!(target: "jmqt::store", "reopening the database: its connection is no longer usable");
        self.connection = Some(self.options.connect().await?);
        Ok(())
    }

    async fn execute(&mut self, sql: &'static str) -> Result<(), StoreError> {
        rows::run(sqlx::query(sql), self.connection()?).await?;
        Ok(())
    }
}

/// Returns `true` if the connection's thread has ended, for example after a panic.
fn is_thread_gone<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Database(DatabaseError(sqlx::Error::WorkerCrashed))))
}

/// SQLite rolls back a transaction by itself after some errors, such as a full disk.
fn is_no_transaction(error: &StoreError) -> bool {
    match error {
        StoreError::Database(DatabaseError(sqlx::Error::Database(error))) => {
            error.message().contains("no transaction is active")
        }
        _ => false,
    }
}
