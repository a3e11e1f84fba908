//! Sessions on their way into the store and out of it, gathered so that many cost few transactions.

use std::collections::HashSet;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::store::{ClusterStore, Entered, SessionRow, SharedSession, StoreError};

/// So many may wait; whoever comes then waits for room.
const WAITING: usize = 4096;
/// One call of the store takes so many.
const AT_A_TIME: usize = 512;

/// One thing to do.
enum Job {
    Enter(SessionRow, oneshot::Sender<Entered>),
    Claim(SharedSession, oneshot::Sender<bool>),
}

/// The entrance.
pub(super) struct Registrar {
    jobs: mpsc::Sender<Job>,
}

/// The task that does it.
pub(crate) struct RegistrarTask {
    jobs: mpsc::Receiver<Job>,
    store: Arc<dyn ClusterStore>,
    node: String,
}

/// The store failed, which has been logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotRegistered;

impl Registrar {
    pub(super) fn new(store: Arc<dyn ClusterStore>, node: String) -> (Self, RegistrarTask) {
        let (jobs, receiver) = mpsc::channel(WAITING);
        (Self { jobs }, RegistrarTask { jobs: receiver, store, node })
    }

    /// Enters a session that is about to begin.
    ///
    /// # Cancel safety
    /// Dropped early, the session may have been entered or not; if it has, it is taken out again.
    pub(super) async fn enter(&self, row: SessionRow) -> Result<Entered, NotRegistered> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Enter(row, reply)).await.map_err(|_| NotRegistered)?;
        answer.await.map_err(|_| NotRegistered)
    }

    /// Claims the close notifier of a session for this node; `true` if it is this node's.
    pub(super) async fn claim(&self, session: SharedSession) -> Result<bool, NotRegistered> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Claim(session, reply)).await.map_err(|_| NotRegistered)?;
        answer.await.map_err(|_| NotRegistered)
    }
}

impl RegistrarTask {
    /// Works until every [`Registrar`] is gone.
    pub(crate) async fn run(mut self) {
        let mut jobs = Vec::new();
        while self.jobs.recv_many(&mut jobs, AT_A_TIME).await > 0 {
            let (mut enters, mut claims) = (Vec::new(), Vec::new());
            for job in jobs.drain(..) {
                match job {
                    Job::Enter(row, reply) => enters.push((row, reply)),
                    Job::Claim(session, reply) => claims.push((session, reply)),
                }
            }
            self.claim(claims).await;
            while !enters.is_empty() {
                enters = self.enter(enters).await;
            }
        }
    }

    async fn claim(&self, jobs: Vec<(SharedSession, oneshot::Sender<bool>)>) {
        if jobs.is_empty() {
            return;
        }
        let (sessions, replies): (Vec<_>, Vec<_>) = jobs.into_iter().unzip();
        match self.store.claim_sessions(&sessions, &self.node).await {
            Ok(claimed) => {
                for (reply, is_mine) in replies.into_iter().zip(claimed) {
                    // Whoever waited may have given up.
                    let _ = reply.send(is_mine);
                }
            }
            Err(error) => failed("sessions could not be claimed", &error),
        }
    }

    /// Enters the sessions; returns those that have to wait, because a client comes once in a call.
    async fn enter(
        &self,
        jobs: Vec<(SessionRow, oneshot::Sender<Entered>)>,
    ) -> Vec<(SessionRow, oneshot::Sender<Entered>)> {
        let mut clients = HashSet::new();
        // Whoever has given up need not be entered.
        let wanted = jobs.into_iter().filter(|(_, reply)| !reply.is_closed());
        let (now, later): (Vec<_>, Vec<_>) = wanted.partition(|(row, _)| clients.insert(row.client.clone()));
        let (rows, replies): (Vec<_>, Vec<_>) = now.into_iter().unzip();
        if rows.is_empty() {
            return later;
        }
        match self.store.enter_sessions(&rows).await {
            Ok(entered) => {
                let mut unwanted = Vec::new();
                for ((row, reply), entered) in rows.into_iter().zip(replies).zip(entered) {
                    if let Err(entered) = reply.send(entered) {
                        unwanted.push((row.client, entered.generation));
                    }
                }
                if !unwanted.is_empty()
                    && let Err(error) = self.store.sessions_closed(&unwanted, &self.node).await
                {
                    failed("sessions that were given up could not be taken out", &error);
                }
            }
            Err(error) => failed("sessions could not be entered", &error),
        }
        later
    }
}

fn failed(what: &str, error: &StoreError) {
    tracing::error!(target: "jmqt::session", %error, "{what}");
}
