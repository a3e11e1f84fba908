//! A session begins on this node, and whatever other one the client had ends, wherever that was
//! (protocol.md 2.2, 2.4, 2.16).

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
use crate::hub::{Hub, HubError, Janitor};
use crate::store::{Entered, SessionRow, SharedSession};

/// A node is asked to end a session this often, as long as it shows that it is there.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// How often one looks whether a session is gone that one cannot hear of.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long all of it may take.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// Between two attempts to claim a session while the store is away.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// A session that has been entered in the store. Dropped before it is [kept](Self::keep), it is taken out.
pub(in crate::hub) struct ClusterSession {
    cluster: Arc<Cluster>,
    janitor: Arc<Janitor>,
    client: ClientId,
    pub(in crate::hub) generation: u64,
    opening: Option<Opening>,
    kept: bool,
}

impl ClusterSession {
    /// The session has begun: its end is the session's own business now.
    pub(in crate::hub) fn keep(mut self) -> u64 {
        self.kept = true;
        self.generation
    }

    /// Waits until a newer session of the client is about to begin elsewhere.
    async fn called_off(&self) {
        match &self.opening {
            Some(opening) => opening.called_off().await,
            None => std::future::pending().await,
        }
    }

    /// It is in the table of connections: others find it there from now on. `false`: it was called off
    /// before.
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
    /// Enters a session, and ends the client's others, close notifiers included.
    ///
    /// # Errors
    /// The store failed; the others did not end in time; or a newer session of the client is about to
    /// begin elsewhere ([`HubError::Superseded`]).
    pub(in crate::hub) async fn begin_session(
        self: &Arc<Self>,
        connections: &Arc<Connections>,
        janitor: &Arc<Janitor>,
        claim: &Claim,
        client: &ClientId,
        info: ConnectionInfo,
    ) -> Result<ClusterSession, HubError> {
        if self.condemned.load(Ordering::Acquire) {
            return Err(HubError::Store); // in a moment it is a node again
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
            return Err(HubError::Store); // whoever looked for what is to be ended may not have seen it
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
            // Those cannot claim the ends of their sessions, and say so.
            let left: Vec<_> = older.iter().filter(|it| without_database.contains(&it.row.node)).collect();
            self.take_over(left, &done).await;
            // Who did not answer looks in the store, or is dead, and then it is inherited from.
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

    /// Does what the nodes of sessions that were called off should have done long ago: those are there, but
    /// cannot reach the store. `done` has the nodes that say they have nothing of these sessions any more.
    async fn take_over(&self, sessions: Vec<&SharedSession>, done: &[String]) {
        for session in sessions {
            let row = &session.row;
            match &session.claimed_by {
                // Whatever its node knows of its end it can tell nobody. When the store is there for it
                // again, it finds the claim.
                None => {
                    if self.registrar.claim(session.clone()).await != Ok(true) {
                        continue; // it is on its way after all, or will be tried again
                    }
                    tracing::warn!(
                        target: "jmqt::session", client = %row.client, node = %row.node,
                        "another node did not end a session in time; it seems to have lost the database: taking the session over"
                    );
                    let claimed = SharedSession { row: row.clone(), claimed_by: Some(self.name.clone()) };
                    drop(self.notify_of(claimed).await); // its row goes when that is done
                }
                // Its close notifier has run; only the row is left.
                Some(by) if *by == row.node && done.contains(by) => {
                    let closed = [(row.client.clone(), row.generation)];
                    if let Err(error) = self.store.sessions_closed(&closed, by).await {
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

    /// The session can be found from here on by whoever looks for its client. When this returns, whatever
    /// others have done for the client while it was away is in the store.
    pub(in crate::hub) async fn announce(&self, client: &ClientId, generation: u64, info: ConnectionInfo) {
        self.told().opened(&*self.bus, client, generation, info);
        self.fence().await;
    }

    /// The session is over, or has not begun.
    pub(in crate::hub) fn session_closed(&self, client: &ClientId, generation: u64) {
        self.told().closed(&*self.bus, client, generation);
    }

    /// Claims the close notifier of a session of this node that ends, which may have been done before;
    /// `false` if another node has it, which thought this one dead. Waits for a store that is away: until it
    /// is back nobody else can know either.
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

    /// Whether a session that this node has claimed still waits for its close notifier. While the store does
    /// not tell, it does not: it will be claimed again.
    pub(crate) async fn is_claimed(&self, session: &SharedSession) -> bool {
        self.registrar.claim(session.clone()).await.unwrap_or(false)
    }

    pub(super) fn failed(&self, error: &crate::store::StoreError) -> HubError {
        crate::store::store_failed(&self.counters, "the store failed in a cluster task", error);
        HubError::Store
    }
}

/// The node that has to do something about a session.
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

impl Hub {
    /// Whether this node is the one to run the close notifier of its session (protocol.md 2.16).
    pub(crate) async fn claim_close(&self, client: &ClientId, generation: u64, info: ConnectionInfo) -> bool {
        match &self.cluster {
            Some(cluster) => {
                cluster.session_closed(client, generation); // nothing reaches it any more
                cluster.claim_own(client, generation, info).await
            }
            None => true,
        }
    }
}
