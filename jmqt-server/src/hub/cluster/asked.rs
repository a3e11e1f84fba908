//! The requests of this node to other nodes that wait for an answer.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::bus::{Answer, NodeId};

/// The number of requests to one node in progress; others wait. It is lower than the number of requests that a node
/// handles at a time, so that several nodes can send requests.
const AT_A_TIME: usize = 64;

/// The requests in progress and the limits per node.
#[derive(Default)]
pub(super) struct Asked {
    /// By request number: the node that answers, and the receiver of the answer.
    waiting: Mutex<HashMap<u64, (NodeId, oneshot::Sender<Answer>)>>,
    turns: Mutex<HashMap<NodeId, Arc<Semaphore>>>,
}

/// An answer that is expected. Dropping this gives it up.
pub(super) struct Expected<'a> {
    asked: &'a Asked,
    number: u64,
    answer: oneshot::Receiver<Answer>,
}

impl Asked {
    fn waiting(&self) -> MutexGuard<'_, HashMap<u64, (NodeId, oneshot::Sender<Answer>)>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Registers a request to a node.
    pub(super) fn expect(&self, number: u64, from: NodeId) -> Expected<'_> {
        let (reply, answer) = oneshot::channel();
        self.waiting().insert(number, (from, reply));
        Expected { asked: self, number, answer }
    }

    pub(super) fn answered(&self, number: u64, answer: Answer) {
        let waiting = self.waiting().remove(&number);
        if let Some((_, reply)) = waiting {
            // The caller may have given up.
            let _ = reply.send(answer);
        }
    }

    /// Gives up the answers of a node that is gone; `None`: of all nodes.
    pub(super) fn give_up(&self, from: Option<NodeId>) {
        self.waiting().retain(|_, (node, _)| from.is_some_and(|from| *node != from));
    }

    /// Waits until a node may receive another request.
    pub(super) async fn turn(&self, node: NodeId) -> Option<OwnedSemaphorePermit> {
        let turns = {
            let mut turns = self.turns.lock().unwrap_or_else(PoisonError::into_inner);
            // Nodes join and leave; waiting tasks keep their own semaphore.
            turns.retain(|id, turns| *id == node || Arc::strong_count(turns) > 1);
            Arc::clone(turns.entry(node).or_insert_with(|| Arc::new(Semaphore::new(AT_A_TIME))))
        };
        turns.acquire_owned().await.ok()
    }
}

impl Future for Expected<'_> {
    /// `None`: no answer will come.
    type Output = Option<Answer>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.answer).poll(cx).map(Result::ok)
    }
}

impl Drop for Expected<'_> {
    fn drop(&mut self) {
        self.asked.waiting().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    #[test]
    fn an_answer_reaches_its_request_and_requests_to_dead_nodes_end() {
        let asked = Asked::default();
        let (first, second, third) = (asked.expect(1, A), asked.expect(2, B), asked.expect(3, A));
        asked.answered(3, Answer::Done);
        assert_eq!(third.now_or_never(), Some(Some(Answer::Done)));
        asked.give_up(Some(A));
        assert_eq!(first.now_or_never(), Some(None));
        asked.give_up(None);
        assert_eq!(second.now_or_never(), Some(None));
    }

    #[test]
    fn cancelled_requests_are_removed() {
        let asked = Asked::default();
        drop(asked.expect(1, A));
        assert!(asked.waiting().is_empty());
        asked.answered(1, Answer::Done);
    }

    #[test]
    fn requests_are_limited_per_node() {
        let asked = Asked::default();
        let mut turns: Vec<_> = (0..AT_A_TIME).map(|_| asked.turn(A).now_or_never()).collect();
        assert!(turns.iter().all(Option::is_some));
        assert!(asked.turn(A).now_or_never().is_none());
        assert!(asked.turn(B).now_or_never().is_some());
        turns.pop();
        assert!(asked.turn(A).now_or_never().is_some());
        drop(turns);
        assert!(asked.turn(B).now_or_never().is_some());
        assert_eq!(asked.turns.lock().unwrap().len(), 1);
    }
}
