//! Requests to other nodes on behalf of a client that is connected there (protocol.md 2.4, 2.20), and the answers to theirs.

use std::sync::Arc;
use std::time::Duration;

use jmqt_core::ClientId;
use tokio::time::timeout;

use super::Cluster;
use crate::bus::{Answer, Control, NodeId, Origin, Request};
use crate::hub::Hub;

/// The time limit for another node to change the subscriptions of one of its clients.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);
/// The pause before a request to a busy node is repeated.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

impl Cluster {
    /// Sends a request to a node. Returns `None` if no answer arrives within the limit, or the node is gone.
    pub(super) async fn ask(&self, node: NodeId, request: Request, limit: Duration) -> Option<Answer> {
        let number = self.number();
        let answer = self.asked.expect(number, node);
        // A connection that is lost from here on ends the wait.
        if !self.bus.is_up() {
            return None;
        }
        self.bus.send(node, &Control::Ask { number, request });
        timeout(limit, answer).await.ok()?
    }

    /// As [`ask`](Self::ask), for slow requests: limits their number, and repeats a request if the node is busy.
    pub(in crate::hub) async fn ask_in_turn(&self, node: NodeId, request: Request) -> Option<Answer> {
        let asking = async {
            let _turn = self.asked.turn(node).await?;
            loop {
                match self.ask(node, request.clone(), ANSWER_TIMEOUT).await? {
                    Answer::Busy => tokio::time::sleep(BUSY_PAUSE).await,
                    answer => return Some(answer),
                }
            }
        };
        timeout(ANSWER_TIMEOUT, asking).await.ok()?
    }

    /// Executes the request of another node in a separate task.
    pub(super) fn answer(self: &Arc<Self>, hub: &Arc<Hub>, from: NodeId, number: u64, request: Request) {
        if let Request::EndSessions { client, below, by } = &request
            && let Ok(client) = ClientId::parse(client)
        {
            // It ends even if no task waits for it.
            drop(hub.connections.begin_to_end_below(&client, *below, by.as_ref().and_then(Origin::info)));
        }
        let Ok(turn) = Arc::clone(&self.answering).try_acquire_owned() else {
            // A node that waits for the end of a session also reads the store, and asks again.
            if !matches!(request, Request::EndSessions { .. }) {
                self.bus.send(from, &Control::Answer { number, answer: Answer::Busy });
            }
            return;
        };
        let (cluster, hub) = (Arc::clone(self), Arc::clone(hub));
        self.tasks.spawn(async move {
            let answer = hub.anywhere.carry_out(request).await.unwrap_or(Answer::Failed);
            cluster.bus.send(from, &Control::Answer { number, answer });
            drop(turn);
        });
    }
}
