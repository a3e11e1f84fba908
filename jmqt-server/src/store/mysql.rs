//! The store in a MySQL or MariaDB database, which several nodes may use at the same time.
//!
//! One connection commits batches; a few others do everything else, so that cursors, deletions and
//! reading do not hold up commits. Whatever several nodes may change at once is changed under the lock of
//! a row, and rows are locked in the same order by everybody: the generation counter, channels by
//! id, publishers, clients by name, then subscriptions and sessions by their keys. What still ends in a deadlock is
//! repeated.

mod cluster;
mod commit;
mod connection;
mod cursors;
mod expiry;
mod log;
mod open;
mod pending;
mod presence;
mod publishers;
mod rows;
mod sessions;
mod trim;

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
use super::limits::limited;
use super::names::NameSet;
use super::{
    ChannelKey, CursorUpdate, Epoch, Expired, Forgotten, IsAway, LogPart, Operation, Outcome, PendingLimits,
    Retained, RetainedLimits, Seq, SessionRow, Store, StoreError, StoredSubscription, Swept,
};
use crate::config::MySqlTls;

/// Where the database is, who uses it, and how.
#[derive(Clone)]
pub struct MySqlOptions {
    /// The server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The database. It must exist; its tables are made.
    pub database: String,
    /// Who connects. They need ALTER, CREATE, DELETE, DROP, INDEX, INSERT, SELECT and UPDATE there.
    pub user: String,
    /// Their password; empty for none.
    pub password: String,
    /// Whether the connections are encrypted.
    pub tls: MySqlTls,
    /// How many connections may be open, one or two of which are for commits and locks. At least 3.
    pub pool_size: u32,
    /// The largest payload that will be given to the store, in bytes.
    pub largest_payload: usize,
    /// Whether other nodes use the database too. If not, everybody else is kept out of it.
    pub shared: bool,
    /// How much may be retained. Other nodes' messages are counted two seconds late, so together they may go a little
    /// beyond it.
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
/// A commit is on disk if the server was told so (`innodb_flush_log_at_trx_commit = 1`, its default).
///
/// `save_cursors`, `trim`, `expire`, `limit_pending` and the updates of sessions use several short
/// transactions for large amounts, so after an error a part may be done. All of
/// them can be repeated.
///
/// No statement is waited for longer than about 10 seconds, no COMMIT and no search for the fate of one
/// longer than 30. Connections that were lost are made anew by the next call; while the server cannot be
/// reached, calls fail within about 3 seconds.
///
/// A store that is not [shared](MySqlOptions::shared) commits only on a connection that holds a lock of the
/// server (`GET_LOCK`), so two such stores never write at once. A shared store holds such a lock too, for the
/// others to see, but only looks at theirs when it is opened: if the server or its connections break
/// down in between, it is not noticed that a store that is not shared has taken their place. Nor are
/// shared stores seen beyond the first 64.
#[derive(Debug)]
pub struct MySqlStore {
    epoch: Epoch,
    connections: Connections,
    committer: Mutex<Committer>,
    presence: Mutex<Presence>,
    /// Channels that have a retained message; only where nobody else can add one.
    retained: Option<NameSet>,
    retained_limits: RetainedLimits,
    to_trim: Trimming,
    /// Up to which publisher it has been looked whether they are to be forgotten.
    publishers_up_to: std::sync::Mutex<publishers::Place>,
    closed: AtomicBool,
}

impl MySqlStore {
    /// Connects, makes what is missing in the database, and brings its schema up to date.
    ///
    /// # Errors
    /// [`StoreError::InUse`] if somebody uses the database and `options` or they want it for themselves
    /// alone; [`StoreError::Open`] if the server cannot be reached, is too old, has no such database or user,
    /// takes too small packets, or if the database was written by a newer version of this program;
    /// [`StoreError::Migrate`], [`StoreError::Database`] and [`StoreError::TimedOut`] if it fails later on.
    pub async fn open(options: MySqlOptions) -> Result<Self, StoreError> {
        open::open(options).await
    }

    fn check_open(&self) -> Result<(), StoreError> {
        if self.closed.load(Ordering::Acquire) { Err(StoreError::Closed) } else { Ok(()) }
    }
}

#[async_trait]
impl Store for MySqlStore {
    fn epoch(&self) -> Epoch {
        self.epoch
    }

    async fn commit(&self, batch: &[Operation]) -> Result<Vec<Outcome>, StoreError> {
        self.commit_batch(batch).await
    }

    async fn subscriptions(&self, client: &ClientId) -> Result<Vec<StoredSubscription>, StoreError> {
        self.read_subscriptions(client).await
    }

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

    async fn read_log(
        &self,
        key: ChannelKey,
        after: Seq,
        messages: usize,
        bytes: usize,
    ) -> Result<LogPart, StoreError> {
        self.read_messages(key, after, messages, bytes).await
    }

    async fn save_cursors(&self, updates: &[CursorUpdate]) -> Result<(), StoreError> {
        self.write_cursors(updates).await
    }

    async fn trim(&self, channels: &[ChannelKey]) -> Result<u64, StoreError> {
        self.trim_channels(channels).await
    }

    async fn sessions_opened(&self, sessions: &[SessionRow]) -> Result<(), StoreError> {
        self.add_sessions(sessions).await
    }

    async fn sessions_closed(&self, sessions: &[(ClientId, u64)], node: &str) -> Result<(), StoreError> {
        self.remove_sessions(sessions, node).await
    }

    async fn claim_orphans(&self, node: &str) -> Result<Vec<SessionRow>, StoreError> {
        self.claim_all_others(node).await
    }

    async fn orphan_closed(&self, session: &SessionRow) -> Result<(), StoreError> {
        let named = [(session.client.clone(), session.generation)];
        self.remove_sessions(&named, &session.node).await
    }

    async fn expire(&self, before: SystemTime, is_away: &mut IsAway<'_>) -> Result<Vec<Expired>, StoreError> {
        self.expire_clients(before, is_away).await
    }

    async fn limit_pending(
        &self,
        limits: PendingLimits,
        after: Option<&ClientId>,
    ) -> Result<Swept, StoreError> {
        self.check_open()?;
        backlog::sweep(self, limits, after).await
    }

    async fn forget_publishers(&self, now: SystemTime) -> Result<Forgotten, StoreError> {
        self.forget_some_publishers(now).await
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
}
