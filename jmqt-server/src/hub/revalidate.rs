//! Validates sessions and their subscriptions again, when the application says that its rules have changed.
//!
//! The hub knows no validators. It asks the tasks of sessions on this node, and waits for them; a session that is not
//! connected is marked in the store, and validated when it resumes.

use std::ops::AddAssign;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use jmqt_core::ClientId;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Cluster;
use super::commits::Commits;
use super::connections::Connections;
use super::error::HubError;
use crate::counters::Counters;
use crate::name_map::NameMap;
use crate::store::{MUST_CHECK, Store};

/// The number of sessions that are validated at a time.
const AT_A_TIME: usize = 8;
/// The time for which the caller waits for a session. It is validated in any case.
const PATIENCE: Duration = Duration::from_secs(20);
/// The pause between the marks of two groups of stored sessions.
const PAUSE: Duration = Duration::from_millis(10);

/// What was found when sessions were validated again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Revalidated {
    /// The sessions that were validated.
    pub sessions: u64,
    /// The subscriptions that were ended.
    pub ended: u64,
    /// The sessions that were closed, because their clients may not be connected any more.
    pub closed: u64,
    /// The questions that a validator did not answer, and the sessions that were too busy: nothing was changed, and
    /// the application should ask again later.
    pub failed: u64,
}

impl Revalidated {
    pub(crate) const FAILED: Self = Self { sessions: 0, ended: 0, closed: 0, failed: 1 };
}

impl AddAssign for Revalidated {
    fn add_assign(&mut self, other: Self) {
        self.sessions += other.sessions;
        self.ended += other.ended;
        self.closed += other.closed;
        self.failed += other.failed;
    }
}

/// Asks sessions to validate themselves, and knows who waits for them.
pub(crate) struct Revalidations {
    connections: Arc<Connections>,
    commits: Arc<Commits>,
    store: Arc<dyn Store>,
    counters: Arc<Counters>,
    /// `None` for a single server.
    cluster: Option<Arc<Cluster>>,
    waiting: Mutex<NameMap<ClientId, Vec<oneshot::Sender<Revalidated>>>>,
    /// One pass over all sessions at a time.
    turn: tokio::sync::Mutex<()>,
    /// Another node has asked for a pass that has not begun.
    is_asked: AtomicBool,
}

impl Revalidations {
    pub(super) fn new(
        connections: Arc<Connections>,
        commits: Arc<Commits>,
        store: Arc<dyn Store>,
        counters: Arc<Counters>,
        cluster: Option<Arc<Cluster>>,
    ) -> Self {
        Self {
            connections,
            commits,
            store,
            counters,
            cluster,
            waiting: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            is_asked: AtomicBool::new(false),
        }
    }

    /// Asks the session of a client on this node to validate itself; `None` if there is none.
    pub(super) async fn ask_here(&self, client: &ClientId) -> Option<Revalidated> {
        let outbox = self.connections.outbox(client.as_str())?;
        let (reply, validated) = oneshot::channel();
        self.lock().entry(client.clone()).or_default().push(reply);
        outbox.revalidate();
        if outbox.closed().is_some() {
            self.lock().remove(client);
        }
        Some(match timeout(PATIENCE, validated).await {
            Ok(Ok(validated)) => validated,
            Ok(Err(_)) => Revalidated::default(), // it has ended
            Err(_) => Revalidated::FAILED,
        })
    }

    /// Answers those who wait for a session. `None`: it has ended.
    pub(crate) fn answer(&self, client: &ClientId, validated: Option<Revalidated>) {
        let waiting = self.lock().remove(client);
        for reply in waiting.into_iter().flatten() {
            if let Some(validated) = validated {
                let _ = reply.send(validated);
            }
        }
    }

    /// Validates all sessions of this node, a few at a time.
    pub(crate) async fn ask_all_here(&self) -> Revalidated {
        let _turn = self.turn.lock().await;
        self.is_asked.store(false, Ordering::Release);
        let clients = self.connections.all().into_iter().map(|(client, _)| client);
        let validating = stream::iter(clients)
            .map(|client| async move { self.ask_here(&client).await.unwrap_or_default() });
        let mut total = Revalidated::default();
        let mut validated = std::pin::pin!(validating.buffer_unordered(AT_A_TIME));
        while let Some(one) = validated.next().await {
            total += one;
        }
        total
    }

    /// The same, in a task, for another node. Requests that come before it begins are one.
    pub(super) fn begin_to_ask(self: &Arc<Self>) {
        if !self.is_asked.swap(true, Ordering::AcqRel) {
            let revalidations = Arc::clone(self);
            tokio::spawn(async move {
                let closed = revalidations.commits.queue.closed();
                closed.run_until_cancelled(revalidations.ask_all_here()).await;
            });
        }
    }

    /// Marks all stored sessions, so that they are validated when they resume.
    async fn uncheck_sessions(&self) -> Result<(), HubError> {
        let mut after = None;
        loop {
            let next = self.store.uncheck_sessions(after.as_ref()).await;
            after = next.map_err(|error| HubError::of_store(&error, &self.counters))?;
            if after.is_none() {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }

    /// Validates all sessions, of this node before this returns, of other nodes soon, and stored ones when they resume.
    pub(crate) async fn ask_all(&self) -> Result<Revalidated, HubError> {
        // Before the sessions that are connected are asked: one that begins meanwhile has read its mark, or is asked.
        self.uncheck_sessions().await?;
        if let Some(cluster) = &self.cluster {
            cluster.revalidate_elsewhere();
        }
        Ok(self.ask_all_here().await)
    }

    /// Marks the session of a client, so that it is validated when it resumes.
    pub(super) async fn uncheck(&self, client: &ClientId) -> Result<(), HubError> {
        self.commits.set_checked(client, Some(MUST_CHECK)).await
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, NameMap<ClientId, Vec<oneshot::Sender<Revalidated>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
