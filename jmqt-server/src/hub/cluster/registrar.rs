//! Adds sessions to the store and removes them, in batches to save transactions.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jmqt_core::ClientId;
use tokio::sync::{Notify, mpsc, oneshot};

use crate::counters::Counters;
use crate::store::{ClusterStore, Entered, SessionRow, SharedSession, Unanswered, store_failed};

/// The number of waiting jobs; later callers wait for room.
const WAITING: usize = 4096;
/// The number of sessions in one call of the store.
const AT_A_TIME: usize = 512;

/// One job.
enum Job {
    Enter(SessionRow, oneshot::Sender<Delivery>),
    Claim(SharedSession, oneshot::Sender<bool>),
}

/// An entered session on its way to the caller. If the caller has given up, the session is removed again.
struct Delivery {
    content: Option<(ClientId, Entered)>,
    unwanted: Arc<Unwanted>,
}

/// Sessions whose callers have given up.
#[derive(Default)]
struct Unwanted {
    sessions: Mutex<Vec<(ClientId, u64)>>,
    added: Notify,
}

/// The sending end of the queue of jobs.
pub(super) struct Registrar {
    jobs: mpsc::Sender<Job>,
}

/// The task that executes the jobs.
pub(crate) struct RegistrarTask {
    jobs: mpsc::Receiver<Job>,
    store: Arc<dyn ClusterStore>,
    node: String,
    counters: Arc<Counters>,
    unwanted: Arc<Unwanted>,
}

/// The store failed. The failure has been logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct NotRegistered;

impl Registrar {
    pub(super) fn new(
        store: Arc<dyn ClusterStore>,
        node: String,
        counters: Arc<Counters>,
    ) -> (Self, RegistrarTask) {
        let (jobs, receiver) = mpsc::channel(WAITING);
        (Self { jobs }, RegistrarTask { jobs: receiver, store, node, counters, unwanted: Arc::default() })
    }

    /// Adds a session that is about to begin.
    ///
    /// # Cancel safety
    /// If the future is dropped early, the session may or may not have been added; if it was, it is removed again.
    pub(super) async fn enter(&self, row: SessionRow) -> Result<Entered, NotRegistered> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Enter(row, reply)).await.map_err(|_| NotRegistered)?;
        answer.await.ok().and_then(Delivery::accept).ok_or(NotRegistered)
    }

    /// Claims the close notifier of a session for this node; returns `true` if this node has it.
    pub(super) async fn claim(&self, session: SharedSession) -> Result<bool, NotRegistered> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(Job::Claim(session, reply)).await.map_err(|_| NotRegistered)?;
        answer.await.map_err(|_| NotRegistered)
    }
}

impl Delivery {
    fn accept(mut self) -> Option<Entered> {
        self.content.take().map(|(_, entered)| entered)
    }
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if let Some((client, entered)) = self.content.take() {
            self.unwanted.sessions().push((client, entered.generation));
            self.unwanted.added.notify_one();
        }
    }
}

impl Unwanted {
    fn sessions(&self) -> MutexGuard<'_, Vec<(ClientId, u64)>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RegistrarTask {
    /// Works until all [`Registrar`]s are dropped.
    pub(crate) async fn run(mut self) {
        let mut jobs = Vec::new();
        loop {
            tokio::select! {
                received = self.jobs.recv_many(&mut jobs, AT_A_TIME) => if received == 0 { return },
                () = self.unwanted.added.notified() => {}
            }
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
            self.take_out_unwanted().await;
        }
    }

    async fn take_out_unwanted(&self) {
        let unwanted = std::mem::take(&mut *self.unwanted.sessions());
        if unwanted.is_empty() {
            return;
        }
        if let Err(error) = self.store.sessions_closed(&unwanted, &self.node, Unanswered::Unknown).await {
            store_failed(&self.counters, "cannot remove abandoned sessions from the store", &error);
            self.unwanted.sessions().extend(unwanted); // for the next round
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
                    // The waiting task may have given up.
                    let _ = reply.send(is_mine);
                }
            }
            Err(error) => store_failed(&self.counters, "cannot claim sessions", &error),
        }
    }

    /// Adds the sessions. Returns those that must wait, because one call can add a client only once.
    async fn enter(
        &self,
        jobs: Vec<(SessionRow, oneshot::Sender<Delivery>)>,
    ) -> Vec<(SessionRow, oneshot::Sender<Delivery>)> {
        let mut clients = HashSet::new();
        // Sessions of callers that have given up are not added.
        let wanted = jobs.into_iter().filter(|(_, reply)| !reply.is_closed());
        let (now, later): (Vec<_>, Vec<_>) = wanted.partition(|(row, _)| clients.insert(row.client.clone()));
        let (rows, replies): (Vec<_>, Vec<_>) = now.into_iter().unzip();
        if rows.is_empty() {
            return later;
        }
        match self.store.enter_sessions(&rows).await {
            Ok(entered) => {
                for ((row, reply), entered) in rows.into_iter().zip(replies).zip(entered) {
                    let unwanted = Arc::clone(&self.unwanted);
                    // A caller that has given up drops it, now or later.
                    drop(reply.send(Delivery { content: Some((row.client, entered)), unwanted }));
                }
            }
            Err(error) => store_failed(&self.counters, "cannot add sessions to the store", &error),
        }
        later
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(unwanted: &Arc<Unwanted>, generation: u64) -> Delivery {
        let entered = Entered { generation, older: Vec::new() };
        let content = Some((ClientId::parse("alice").unwrap(), entered));
        Delivery { content, unwanted: Arc::clone(unwanted) }
    }

    #[tokio::test]
    async fn sessions_added_for_cancelled_callers_are_removed() {
        let unwanted = Arc::new(Unwanted::default());
        let (reply, answer) = oneshot::channel();
        drop(reply.send(delivery(&unwanted, 1)));
        assert!(answer.await.unwrap().accept().is_some_and(|entered| entered.generation == 1));
        let (reply, answer) = oneshot::channel();
        drop(answer);
        drop(reply.send(delivery(&unwanted, 2)));
        let (reply, answer) = oneshot::channel();
        drop(reply.send(delivery(&unwanted, 3)));
        drop(answer); // it was answered, and did not read the answer
        unwanted.added.notified().await;
        let left: Vec<_> = unwanted.sessions().iter().map(|(_, generation)| *generation).collect();
        assert_eq!(left, [2, 3]);
    }
}
