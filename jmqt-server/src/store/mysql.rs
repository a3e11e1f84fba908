//! The store in a MySQL or MariaDB database, which several nodes may use at the same time.
//!
//! One connection commits batches; a few others do everything else, so that cursors, deletions and
//! reads do not delay commits. Data that several nodes may change is changed under the lock of
//! a row, and all nodes lock rows in the same order: the generation counter, channels by
//! id, publishers, packet identifiers, clients by name, then subscriptions and sessions by their keys. Transactions that end in a deadlock
//! are repeated.

mod clients;
mod cluster;
mod commit;
mod connection;
mod cursors;
mod exchanges;
mod expiry;
mod filters;
mod log;
mod open;
mod pending;
mod presence;
mod publishers;
mod rows;
mod sessions;
mod trim;
mod wills;

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use async_trait::async_trait;
use jmqt_core::{ChannelName, ClientId};
use tokio::sync::Mutex;

use self::commit::Committer;
use self::connection::Connections;
use self::presence::Presence;
use self::trim::Trimming;
use super::backlog;
use super::forward::implement_store;
use super::limits::limited;
use super::names::NameSet;
use super::{
    ChannelKey, CursorUpdate, Due, Epoch, Exchanges, Expired, Forgotten, IsAway, LogPart, NodeBeat,
    Operation, Outcome, PendingLimits, Retained, RetainedLimits, Sent, Seq, SessionRow, Store, StoreError,
    StoredFilter, StoredSession, StoredSubscription, StoredTotals, StoredWill, Swept, Unanswered,
    UnderPrefix,
};
use crate::config::MySqlTls;

/// The options of the MySQL store.
#[derive(Clone)]
pub struct MySqlOptions {
    /// The name or address of the server.
    pub host: String,
    /// The port of the server.
    pub port: u16,
    /// The database. It must exist; the store creates its tables.
    pub database: String,
    /// The user. It needs ALTER, CREATE, DELETE, DROP, INDEX, INSERT, SELECT and UPDATE on the database.
    pub user: String,
    /// The password of the user; empty for no password.
    pub password: String,
    /// The encryption of the connections.
    pub tls: MySqlTls,
    /// The size of the connection pool, including one or two connections for commits and locks. At least 3.
    pub pool_size: u32,
    /// The largest payload in bytes.
    pub largest_payload: usize,
    /// `true` if other nodes use the database too. Otherwise the store excludes all others.
    pub shared: bool,
    /// The limits of retained messages. Messages of other nodes are counted two seconds late, so the nodes together may
    /// slightly exceed the limits.
    pub retained: RetainedLimits,
}

impl fmt::Debug for MySqlOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            host,
            port,
            database,
            user,
            password: _,
            tls,
            pool_size,
            largest_payload,
            shared,
            retained,
        } = self;
        f.debug_struct("MySqlOptions")
            .field("host", host)
            .field("port", port)
            .field("database", database)
            .field("user", user)
            .field("password", &"(hidden)")
            .field("tls", tls)
            .field("pool_size", pool_size)
            .field("largest_payload", largest_payload)
            .field("shared", shared)
            .field("retained", retained)
            .finish()
    }
}

/// A [`Store`], and a [`ClusterStore`](super::ClusterStore), in a database of MySQL 8.0 or later, or MariaDB
/// 10.6 or later.
///
/// A commit is on disk if the server is configured for it (`innodb_flush_log_at_trx_commit = 1`, its default).
///
/// `save_cursors`, `trim`, `expire`, `limit_pending` and the updates of sessions use several short
/// transactions for large amounts, so after an error a part may be done. All of
/// them can be repeated.
///
/// The store waits at most about 10 seconds for a statement, and 30 for a COMMIT or for finding out its
/// outcome. The next call reopens lost connections; while the server cannot be
/// reached, calls fail within about 3 seconds.
///
/// A store that is not [shared](MySqlOptions::shared) commits only on a connection that holds a lock of the
/// server (`GET_LOCK`), so two such stores never write at the same time. A shared store also holds such a lock, so that
/// others detect it, but checks the locks of others only when it is opened. If the server or its connections fail
/// later, a shared store does not detect an exclusive store that has opened the database meanwhile. Shared stores
/// beyond the first 64 are not detected.
#[derive(Debug)]
pub struct MySqlStore {
    epoch: Epoch,
    connections: Connections,
    committer: Mutex<Committer>,
    presence: Mutex<Presence>,
    /// Channels that have a retained message; only if no other node can add one.
    retained: Option<NameSet>,
    retained_limits: RetainedLimits,
    to_trim: Trimming,
    /// This node, as one of a cluster, and the beat that it must have.
    member: std::sync::Mutex<Option<NodeBeat>>,
    /// The last publisher that was checked for expiry.
    publishers_up_to: std::sync::Mutex<publishers::Place>,
    closed: AtomicBool,
}

impl MySqlStore {
    /// Connects, creates missing tables in the database, and migrates its schema.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if another store uses the database, and this store or the other one needs it
    /// exclusively; [`StoreError::Open`] if the server cannot be reached, is too old, has no such database or user,
    /// accepts only smaller packets, or if the database was written by a newer version of this program;
    /// [`StoreError::Migrate`], [`StoreError::Database`] and [`StoreError::TimedOut`] for later failures.
    pub async fn open(options: MySqlOptions) -> Result<Self, StoreError> {
        open::open(options).await
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(()) }
    }
}

implement_store!(MySqlStore {
    fn may_have_retained(&self, channel: &ChannelName) -> bool {
        self.retained.as_ref().is_none_or(|retained| retained.may_contain(channel.as_str()))
    }

    async fn read_retained(&self, channel: &ChannelName) -> Result<Option<Retained>, StoreError> {
        self.read_retained_message(channel).await
    }

    async fn retained_among(&self, channels: &[ChannelName]) -> Result<Vec<ChannelName>, StoreError> {
        match self.retained {
            Some(_) => {
                Ok(channels.iter().filter(|channel| self.may_have_retained(channel)).cloned().collect())
            }
            None => self.read_retained_among(channels).await,
        }
    }

    async fn retained_under(
        &self,
        prefix: &str,
        after: Option<&ChannelName>,
    ) -> Result<Vec<UnderPrefix>, StoreError> {
        let names = self.read_retained_names(prefix, after).await?;
        Ok(names.into_iter().map(|name| (name, None)).collect())
    }

    async fn read_log(
        &self,
        key: ChannelKey,
        after: Seq,
        messages: usize,
        bytes: usize,
    ) -> Result<LogPart, StoreError> {
        self.read_messages(key, after, messages, bytes).await
    }

    async fn claim_orphans(&self, node: &str) -> Result<Vec<SessionRow>, StoreError> {
        self.claim_all_others(node).await
    }

    async fn limit_pending(
        &self,
        limits: PendingLimits,
        after: Option<&ClientId>,
    ) -> Result<Swept, StoreError> {
        self.check_open()?;
        backlog::sweep(self, limits, after).await
    }

    async fn close(&self) {
        self.closed.store(true, Ordering::Release);
        let closing = async {
            self.connections.close().await;
            self.committer.lock().await.close().await;
            self.presence.lock().await.leave().await;
            Ok(())
        };
        if let Err(error) = limited(closing).await {
            tracing::warn!(%error, "the database was not closed properly; no data is lost");
        }
    }
});
