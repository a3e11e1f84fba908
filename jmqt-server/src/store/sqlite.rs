//! The store in one SQLite file, for a single server.
//!
//! One connection writes: commits, cursors, trimming, sessions and expiry take turns on it, each in
//! separate transactions, long deletions in several small ones. A few other connections read. A lock
//! file excludes other processes, so the state that this process caches stays valid.

mod clients;
mod commit;
mod cursors;
mod exchanges;
mod expiry;
mod filters;
mod guard;
mod log;
mod open;
mod pending;
mod publishers;
mod rescue;
mod rows;
mod sessions;
mod wills;
mod writer;

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use jmqt_core::{ChannelName, ClientId};
use sqlx::pool::PoolConnection;
use sqlx::{Connection as _, Sqlite, SqlitePool};
use tokio::sync::{Mutex, MutexGuard};

use self::guard::Guard;
use self::rescue::MayCopy;
use self::writer::Writer;
use super::backlog;
use super::forward::implement_store;
use super::limits::{TIME_LIMIT, limited};
use super::names::NameSet;
use super::{
    ChannelKey, CursorUpdate, Due, Epoch, Exchanges, Expired, Forgotten, IsAway, LogPart, Operation, Outcome,
    PendingLimits, Retained, RetainedLimits, Sent, Seq, SessionRow, Store, StoreError, StoredFilter,
    StoredSession, StoredSubscription, StoredTotals, StoredWill, Swept, Unanswered, UnderPrefix,
};
use crate::config::Synchronous;

/// The options of the SQLite store.
#[derive(Debug, Clone)]
pub struct SqliteOptions {
    /// The database file. A missing file or folder is created. Files with `-wal`, `-shm` and `.lock` added to the name are
    /// created beside it.
    pub path: PathBuf,
    /// When a commit counts as done.
    pub synchronous: Synchronous,
    /// The limits of retained messages.
    pub retained: RetainedLimits,
}

/// A [`Store`] in one SQLite file.
///
/// `save_cursors`, `trim`, `expire`, `limit_pending` and the updates of sessions use several short
/// transactions for large amounts, so after an error a part may be done. All of
/// them can be repeated.
///
/// No call waits for the database longer than about 10 seconds a step, 30 for a COMMIT. If a COMMIT
/// fails with [`StoreError::Unanswered`], its outcome is unknown.
#[derive(Debug)]
pub struct SqliteStore {
    epoch: Epoch,
    writer: Mutex<Writer>,
    readers: SqlitePool,
    /// Clients that have a stored session.
    clients: NameSet,
    /// Channels that have a retained message.
    retained: NameSet,
    retained_limits: RetainedLimits,
    closed: AtomicBool,
    /// Locked until the store is closed or dropped, as is the lock file.
    guard: Guard,
    lock: File,
}

impl SqliteStore {
    /// Opens the database, creates it if it is missing, and migrates its schema.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another process has it open; [`StoreError::Open`] if the file or folder
    /// cannot be created or opened, is not a database, or was written by a newer version of this program;
    /// [`StoreError::Migrate`] and [`StoreError::Database`] for later failures.
    pub async fn open(options: SqliteOptions) -> Result<Self, StoreError> {
        open::open(options).await
    }

    /// The connection that writes, without an open transaction.
    async fn writer(&self) -> Result<MutexGuard<'_, Writer>, StoreError> {
        let mut writer = limited(async { Ok(self.writer.lock().await) }).await?;
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::Closed);
        }
        if let Err(error) = self.guard.check_files() {
            self.rescue(&mut writer, MayCopy::No).await;
            return Err(error);
        }
        writer.is_sound();
        writer.recover().await?;
        Ok(writer)
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(()) }
    }

    /// If files of the database are missing, saves as much data as possible.
    async fn rescue(&self, writer: &mut Writer, may_copy: MayCopy) {
        if let Some(loss) = self.guard.loss() {
            writer.rescue(loss, may_copy).await;
        }
    }

    /// As above, and also copies the database, which may take long.
    async fn rescue_patiently(&self) -> Result<(), StoreError> {
        let mut writer = limited(async { Ok(self.writer.lock().await) }).await?;
        self.rescue(&mut writer, MayCopy::Yes).await;
        Ok(())
    }

    /// A connection that reads.
    async fn reader(&self) -> Result<PoolConnection<Sqlite>, StoreError> {
        self.readers.acquire().await.map_err(|error| match error {
            sqlx::Error::PoolClosed => StoreError::Closed,
            sqlx::Error::PoolTimedOut => StoreError::TimedOut(TIME_LIMIT),
            error => error.into(),
        })
    }
}

implement_store!(SqliteStore {
    fn may_have_retained(&self, channel: &ChannelName) -> bool {
        self.retained.may_contain(channel.as_str())
    }

    async fn read_retained(&self, channel: &ChannelName) -> Result<Option<Retained>, StoreError> {
        limited(self.read_retained_message(channel)).await
    }

    async fn retained_under(
        &self,
        prefix: &str,
        after: Option<&ChannelName>,
    ) -> Result<Vec<UnderPrefix>, StoreError> {
        limited(self.read_retained_page(prefix, after)).await
    }

    async fn read_log(
        &self,
        key: ChannelKey,
        after: Seq,
        messages: usize,
        bytes: usize,
    ) -> Result<LogPart, StoreError> {
        limited(self.read_messages(key, after, messages, bytes)).await
    }

    async fn claim_orphans(&self, node: &str) -> Result<Vec<SessionRow>, StoreError> {
        self.claim_sessions(node).await
    }

    async fn limit_pending(
        &self,
        limits: PendingLimits,
        after: Option<&ClientId>,
    ) -> Result<Swept, StoreError> {
        backlog::sweep(self, limits, after).await
    }

    fn bytes_on_disk(&self) -> Option<u64> {
        Some(self.guard.bytes_on_disk())
    }

    fn is_gone(&self) -> bool {
        self.guard.check_files().is_err()
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let closing = async {
            // The connection that writes is closed last: the last connection folds the write-ahead log into the database.
            self.readers.close().await;
            if let Some(connection) = self.writer.lock().await.take() {
                connection.close().await?;
            }
            self.guard.unlock();
            let _ = self.lock.unlock(); // otherwise dropping the store unlocks it
            Ok(())
        };
        if let Err(error) = limited(closing).await {
            tracing::warn!(%error, "the database was not closed properly; no data is lost");
        }
    }
});
