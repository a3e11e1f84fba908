//! Begins a session on this node, and ends the client's other sessions on any node (protocol.md 2.2, 2.4, 2.16).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use futures_util::future::join_all;
use jmqt_core::ClientId;
use tokio::time::Instant;

use super::Cluster;
use super::directory::LEASE;
use crate::bus::{Answer, NodeId, Origin, Presence, Request};
use crate::connection::ConnectionInfo;
use crate::hub::connections::{Claim, Connections, Opening};
use crate::hub::{HubError, Janitor};
use crate::store::{Entered, SessionRow, SharedSession, Unanswered};

/// The interval for asking a live node to end a session.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// The interval for checking whether a session has gone whose node cannot be heard.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// The time limit for ending all older sessions.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// The pause between attempts to claim a session while the store is unavailable.
const RETRY_EVERY: Duration = Duration::from_secs(1);
/// The age from which a claim is made again: this node may have stood still, and another node considered it dead. Together with
/// the interval of the beats it is less than the shortest lease.
const CLAIM_LASTS: Duration = Duration::from_secs(1);
/// The number of claims of one session. Repeating them more often would hold up sessions while the database is slow.
const CLAIMS: usize = 2;

/// A session that has been added to the store. If it is dropped before it is [kept](Self::keep), it is removed.
pub(in crate::hub) struct ClusterSession {
    cluster: Arc<Cluster>,
    janitor: Arc<Janitor>,
    client: ClientId,
    pub(in crate::hub) generation: u64,
    opening: Option<Opening>,
    kept: bool,
}

impl ClusterSession {
    /// Confirms that the session has begun. From now on its end removes the row.
    pub(in crate::hub) fn keep(mut self) -> u64 {
        self.kept = true;
        self.generation
    }

    /// Waits until a newer session of the client is opening on another node.
    async fn called_off(&self) {
        match &self.opening {
            Some(opening) => opening.called_off().await,
            None => std::future::pending().await,
        }
    }

    /// Records that the session is in the table of connections, where other nodes find it. Returns `false` if it was
    /// called off before.
    pub(in crate::hub) fn registered(&mut self) -> bool {
        self.opening.take().is_none_or(|opening| !opening.is_called_off())
    }
}

impl Drop for ClusterSession {
    fn drop(&mut self) {
        self.opening = None;
        if !self.kept {
            self.janitor.forget_session(&self.client, self.generation);
            self.cluster.session_closed(&self.client, self.generation);
        }
    }
}

impl Cluster {
    /// Adds a session to the store, and ends the client's other sessions, including their close notifiers.
    ///
    /// # Errors
    /// The store failed; the other sessions did not end in time; or a newer session of the client is opening on
    /// another node ([`HubError::Superseded`]).
    pub(in crate::hub) async fn begin_session(
        self: &Arc<Self>,
        connections: &Arc<Connections>,
        janitor: &Arc<Janitor>,
        claim: &Claim,
        client: &ClientId,
        info: ConnectionInfo,
    ) -> Result<ClusterSession, HubError> {
        if self.condemned.load(Ordering::Acquire) {
            return Err(HubError::Store); // this node joins again soon
        }
        let row = self.row(client, 0, info);
        let Entered { generation, older } = self.registrar.enter(row).await.map_err(|_| HubError::Store)?;
        let session = ClusterSession {
            cluster: Arc::clone(self),
            janitor: Arc::clone(janitor),
            client: client.clone(),
            generation,
            opening: Some(connections.open(claim, generation)),
            kept: false,
        };
        if self.condemned.load(Ordering::Acquire) {
            return Err(HubError::Store); // the search for sessions to end may have missed it
        }
        let ended = self.end_older(janitor, client, generation, info, older);
        let ended = tokio::time::timeout(END_TIMEOUT, ended);
        let ended = tokio::select! {
            ended = ended => ended,
            () = session.called_off() => return Err(HubError::Superseded),
        };
        match ended {
            Ok(Ok(())) => Ok(session),
            Ok(Err(error)) => Err(error),
            Err(_) => {
                tracing::error!(target: "jmqt::session", %client, "the older session of the client did not end in time");
                Err(HubError::SessionEnded)
            }
        }
    }

    fn row(&self, client: &ClientId, generation: u64, info: ConnectionInfo) -> SessionRow {
        SessionRow {
            client: client.clone(),
            generation,
            node: self.name.clone(),
            protocol: info.protocol.as_str().to_owned(),
            address: info.remote.to_string(),
            since: SystemTime::now(),
        }
    }

    async fn end_older(
        &self,
        janitor: &Janitor,
        client: &ClientId,
        below: u64,
        by: ConnectionInfo,
        mut older: Vec<SharedSession>,
    ) -> Result<(), HubError> {
        let mut called_off: Option<Instant> = None;
        loop {
            // Sessions of this node have ended before this one was entered: their rows are late.
            older.retain(|session| {
                let is_own = session.row.node == self.name
                    && session.claimed_by.as_ref().is_none_or(|by| *by == self.name);
                if is_own {
                    janitor.forget_session(client, session.row.generation);
                }
                !is_own
            });
            if older.is_empty() {
                return Ok(());
            }
            let mut nodes: Vec<_> = older.iter().filter_map(acting_node).collect();
            nodes.dedup();
            let now = Instant::now();
            let listening = nodes.into_iter().filter(|node| self.directory.is_here(*node, now));
            let by = Some(Origin::of(by));
            let request = Request::EndSessions { client: client.as_str().to_owned(), below, by };
            let asked = listening.map(|node| {
                let asked = self.ask(node, request.clone(), ASK_EVERY);
                async move { (node.to_string(), asked.await) }
            });
            let answers = join_all(asked).await;
            let who_answered = |this: Answer| {
                let of = answers.iter().filter(move |(_, answer)| *answer == Some(this.clone()));
                of.map(|(node, _)| node.clone()).collect::<Vec<_>>()
            };
            let (done, without_database) =
                (who_answered(Answer::Done), who_answered(Answer::WithoutDatabase));
            older = self.older_sessions(client, below).await?;
            if older.is_empty() {
                return Ok(());
            }
            // Those nodes cannot claim the ends of their sessions, and report it.
            let left: Vec<_> = older.iter().filter(|it| without_database.contains(&it.row.node)).collect();
            self.take_over(left, &done).await;
            // A node that did not answer reads the store, or is dead, and its sessions are inherited.
            match called_off {
                None => {
                    let rows: Vec<_> = older.iter().map(|session| session.row.clone()).collect();
                    self.store.call_off(&rows).await.map_err(|error| self.failed(&error))?;
                    called_off = Some(Instant::now());
                }
                Some(since) if since.elapsed() >= LEASE => {
                    self.take_over(older.iter().collect(), &done).await
                }
                Some(_) => {}
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Takes over sessions that were called off and whose nodes are alive but cannot reach the store. `done` contains
    /// the nodes that have reported that these sessions have ended.
    async fn take_over(&self, sessions: Vec<&SharedSession>, done: &[String]) {
        for session in sessions {
            let row = &session.row;
            match &session.claimed_by {
                // Whatever its node knows of its end it can tell nobody. When the store is there for it
                // again, it finds the claim.
                None => {
                    if self.registrar.claim(session.clone()).await != Ok(true) {
                        continue; // it is ending after all, or will be tried again
                    }
                    tracing::warn!(
                        target: "jmqt::session", client = %row.client, node = %row.node,
                        "another node did not end a session in time; it seems to have lost the database: taking the session over"
                    );
                    let claimed = SharedSession { row: row.clone(), claimed_by: Some(self.name.clone()) };
                    drop(self.notify_of(claimed).await); // its row is deleted after that
                }
                // Its close notifier has run; only the row is left.
                Some(by) if *by == row.node && done.contains(by) => {
                    let closed = [(row.client.clone(), row.generation)];
                    if let Err(error) = self.store.sessions_closed(&closed, by, Unanswered::Unknown).await {
                        self.failed(&error);
                    }
                }
                Some(_) => {}
            }
        }
    }

    async fn older_sessions(&self, client: &ClientId, below: u64) -> Result<Vec<SharedSession>, HubError> {
        let sessions = self.store.sessions_of(client).await.map_err(|error| self.failed(&error))?;
        Ok(sessions.into_iter().filter(|session| session.row.generation < below).collect())
    }

    /// Announces the session to the other nodes. When this returns, all changes that other nodes made for the client
    /// while it was absent are in the store.
    pub(in crate::hub) async fn announce(&self, client: &ClientId, generation: u64, info: ConnectionInfo) {
        self.told().opened(&*self.bus, client, generation, info);
        self.fence().await;
    }

    /// Announces that the session has ended, or has not begun.
    pub(in crate::hub) fn session_closed(&self, client: &ClientId, generation: u64) {
        self.told().closed(&*self.bus, client, generation);
    }

    /// Claims the close notifier of an ending session of this node, possibly again. Returns `false` if another node
    /// has claimed it because it considered this one dead. Waits while the store is unavailable, because no other
    /// node can know either.
    pub(super) async fn claim_own(&self, client: &ClientId, generation: u64, info: ConnectionInfo) -> bool {
        let row = self.row(client, generation, info);
        for claimed_by in [None, Some(self.name.clone())] {
            let session = SharedSession { row: row.clone(), claimed_by };
            if self.claim_when_store_is_there(session).await {
                return true;
            }
        }
        false
    }

    async fn claim_when_store_is_there(&self, session: SharedSession) -> bool {
        loop {
            match self.registrar.claim(session.clone()).await {
                Ok(is_mine) => return is_mine,
                Err(_) => tokio::time::sleep(RETRY_EVERY).await,
            }
        }
    }

    /// As [`claim_own`](Self::claim_own). The claim has just been made then, unless `since` is recent, when it was made before.
    pub(in crate::hub) async fn claim_freshly(
        &self,
        client: &ClientId,
        generation: u64,
        info: ConnectionInfo,
        mut since: Option<Instant>,
    ) -> bool {
        for _ in 0..CLAIMS {
            if since.is_some_and(|since| since.elapsed() < CLAIM_LASTS) {
                break;
            }
            since = Some(Instant::now());
            if !self.claim_own(client, generation, info).await {
                return false;
            }
        }
        true
    }

    /// Returns `true` if a session that this node has claimed still waits for its close notifier. Returns `false`
    /// while the store is unavailable: the session will be claimed again.
    pub(crate) async fn is_claimed(&self, session: &SharedSession) -> bool {
        self.registrar.claim(session.clone()).await.unwrap_or(false)
    }

    pub(super) fn failed(&self, error: &crate::store::StoreError) -> HubError {
        crate::store::store_failed(&self.counters, "the store failed in a cluster task", error);
        HubError::Store
    }
}

/// The node that is responsible for a session.
fn acting_node(session: &SharedSession) -> Option<NodeId> {
    NodeId::parse(session.claimed_by.as_ref().unwrap_or(&session.row.node))
}

pub(super) fn presence(client: &ClientId, generation: u64, info: ConnectionInfo) -> Presence {
    Presence {
        client: client.as_str().to_owned(),
        generation,
        protocol: info.protocol.as_str().to_owned(),
        address: info.remote.to_string(),
    }
}
