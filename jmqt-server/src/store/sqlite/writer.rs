//! The one connection that writes, and its way back to a clean state after anything.

use sqlx::ConnectOptions as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::publishers::Publishers;
use super::rescue::{Loss, MayCopy, Rescue};
use super::rows;
use crate::store::limits::{COMMIT_LIMIT, limited, no_answer};
use crate::store::plan::Plan;
use crate::store::retained::RetainedTotals;
use crate::store::to_trim::ToTrim;
use crate::store::{DatabaseError, StoreError};

/// The connection that writes. Whoever holds it (it is behind a mutex) is the only one who changes
/// the database, so what was read through it stays true until it is let go.
///
/// A future that uses it may be dropped anywhere. `dirty` then tells the next user that a transaction
/// may be open; commands that were already under way come before that user's own.
#[derive(Debug)]
pub(super) struct Writer {
    options: SqliteConnectOptions,
    connection: Option<SqliteConnection>,
    dirty: bool,
    /// The key of the next channel to be made.
    pub(super) next_channel: i64,
    /// Channels where something may be left to be trimmed.
    pub(super) to_trim: ToTrim,
    /// What all retained messages come to.
    pub(super) retained: RetainedTotals,
    /// What is known of publishers.
    pub(super) publishers: Publishers,
    rescue: Rescue,
}

impl Writer {
    pub(super) fn new(
        options: SqliteConnectOptions,
        connection: SqliteConnection,
        next_channel: i64,
        retained: RetainedTotals,
    ) -> Self {
        Self {
            options,
            connection: Some(connection),
            dirty: false,
            next_channel,
            to_trim: ToTrim::default(),
            retained,
            publishers: Publishers::default(),
            rescue: Rescue::default(),
        }
    }

    /// The connection, for statements.
    pub(super) fn connection(&mut self) -> Result<&mut SqliteConnection, StoreError> {
        self.connection.as_mut().ok_or(StoreError::Closed)
    }

    /// Puts into `plan` what is known of its publishers, or stored.
    pub(super) async fn load_publishers(&mut self, plan: &mut Plan<'_>) -> Result<(), StoreError> {
        let connection = self.connection.as_mut().ok_or(StoreError::Closed)?;
        self.publishers.load(connection, plan).await
    }

    /// Begins a transaction. [`finish`](Self::finish) ends it.
    pub(super) async fn begin(&mut self) -> Result<(), StoreError> {
        self.dirty = true;
        self.execute("BEGIN IMMEDIATE").await
    }

    /// Ends the transaction, if there is one: commits it if `result` is `Ok`, or else undoes it.
    ///
    /// # Errors
    /// That of `result`, or that of the COMMIT. Nothing has happened then, except that after
    /// [`StoreError::Unanswered`] it is not known whether it has.
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
            // The caller gets the first error; the next user tries again and gets this one.
            tracing::warn!(%error, "cannot undo a transaction yet");
        }
        result
    }

    /// Makes sure that no transaction is open, by a new connection if nothing else helps.
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

    /// Saves what can be saved after a loss; see [`Rescue::run`].
    pub(super) async fn rescue(&mut self, loss: Loss, may_copy: MayCopy) {
        if self.recover().await.is_ok()
            && let Some(connection) = &mut self.connection
        {
            self.rescue.run(connection, loss, may_copy).await;
        }
    }

    /// The files of the database are there.
    pub(super) fn is_sound(&mut self) {
        self.rescue.reset();
    }

    /// The connection's thread has ended: the next user opens the database again.
    fn give_up(&mut self) {
        (self.connection, self.dirty) = (None, true);
    }

    /// Gives the connection up for good.
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

/// Whether the thread that works for the connection has ended, as it does when something in it panics.
fn is_thread_gone<T>(result: &Result<T, StoreError>) -> bool {
    matches!(result, Err(StoreError::Database(DatabaseError(sqlx::Error::WorkerCrashed))))
}

/// SQLite undoes a transaction by itself after some errors, disk full among them.
fn is_no_transaction(error: &StoreError) -> bool {
    match error {
        StoreError::Database(DatabaseError(sqlx::Error::Database(error))) => {
            error.message().contains("no transaction is active")
        }
        _ => false,
    }
}
