//! Requests to other nodes on behalf of a client that is connected there (§9.e, protocol.md 2.4, 2.20).

use std::sync::Arc;
use std::time::Duration;

use jmqt_core::{ChannelName, ClientId, Persistence};
use tokio::time::timeout;

use super::{Cluster, Location};
use crate::bus::{self, Answer, Control, NodeId, Origin, Request};
use crate::hub::{Hub, HubError, Revalidated};

/// The time limit for another node to change the subscriptions of one of its clients.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(25);
/// The pause before a request to a busy node is repeated.
const BUSY_PAUSE: Duration = Duration::from_millis(50);
/// The time for which one request waits for a session to end.
const END_TIMEOUT: Duration = Duration::from_secs(2);
const END_TIMEOUT_WITHOUT_DATABASE: Duration = Duration::from_millis(200);
/// The number of times a client that moves between nodes is followed.
const MOVES: usize = 4;

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
    async fn ask_in_turn(&self, node: NodeId, request: Request) -> Option<Answer> {
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
            let answer = hub.carry_out_request(request).await.unwrap_or(Answer::Failed);
            cluster.bus.send(from, &Control::Answer { number, answer });
            drop(turn);
        });
    }
}

/// An operation on a client's subscription, wherever the client is connected.
#[derive(Debug, Clone, Copy)]
enum Change {
    Subscribe(Persistence),
    Unsubscribe,
}

impl Change {
    fn request(self, client: &ClientId, channel: &ChannelName) -> Request {
        let (client, channel) = (client.as_str().to_owned(), channel.as_str().to_owned());
        match self {
            Self::Subscribe(persistence) => {
                Request::Subscribe { client, channel, persistent: persistence == Persistence::Persistent }
            }
            Self::Unsubscribe => Request::Unsubscribe { client, channel },
        }
    }
}

impl Hub {
    async fn carry_out_request(self: &Arc<Self>, request: Request) -> Result<Answer, HubError> {
        let client = match &request {
            Request::EndSessions { client, .. }
            | Request::Subscribe { client, .. }
            | Request::Unsubscribe { client, .. }
            | Request::Subscriptions { client }
            | Request::Revalidate { client } => {
                ClientId::parse(client).map_err(|_| HubError::SessionEnded)?
            }
        };
        if let Request::EndSessions { below, by, .. } = request {
            let ended = self.connections.end_below(&client, below, by.as_ref().and_then(Origin::info));
            // The other node asks again as long as it has to. Without the database the end of a session waits for
            // it, unless its close notifier is running already.
            let has_lost_database = self.cluster.as_ref().is_some_and(|cluster| cluster.has_lost_database());
            let limit = if has_lost_database { END_TIMEOUT_WITHOUT_DATABASE } else { END_TIMEOUT };
            return Ok(match timeout(limit, ended).await {
                Ok(()) => Answer::Done,
                Err(_) if has_lost_database => Answer::WithoutDatabase,
                Err(_) => Answer::NotHere,
            });
        }
        if self.connections.outbox(client.as_str()).is_none() {
            return Ok(Answer::NotHere);
        }
        match request {
            Request::Subscribe { channel, persistent, .. } => {
                let channel = ChannelName::parse(&channel).map_err(|_| HubError::SessionEnded)?;
                let persistence = if persistent { Persistence::Persistent } else { Persistence::Temporary };
                self.force_subscribe_here(&client, &channel, persistence).await?;
                Ok(Answer::Done)
            }
            Request::Unsubscribe { channel, .. } => {
                let channel = ChannelName::parse(&channel).map_err(|_| HubError::SessionEnded)?;
                Ok(Answer::Existed(self.force_unsubscribe_here(&client, &channel).await?))
            }
            Request::Revalidate { .. } => Ok(match self.revalidate_here(&client).await {
                Some(Revalidated { sessions, ended, closed, failed }) => {
                    Answer::Revalidated(bus::Revalidated { sessions, ended, closed, failed })
                }
                None => Answer::NotHere,
            }),
            _ => {
                let list = self.subscriptions_here(&client).await?;
                let list = list.into_iter().map(|(channel, persistence)| {
                    (channel.as_str().to_owned(), persistence == Persistence::Persistent)
                });
                Ok(Answer::Subscriptions(list.collect()))
            }
        }
    }

    /// Subscribes a client for the application; the client is connected to any node or to none. An existing
    /// subscription changes its flag (2.20). The retained message is sent as for `sub`.
    pub(crate) async fn force_subscribe(
        self: &Arc<Self>,
        client: &ClientId,
        channel: &ChannelName,
        persistence: Persistence,
    ) -> Result<(), HubError> {
        self.change_anywhere(client, channel, Change::Subscribe(persistence)).await.map(drop)
    }

    /// Ends a client's subscription for the application; the client is connected to any node or to none.
    pub(crate) async fn force_unsubscribe(
        self: &Arc<Self>,
        client: &ClientId,
        channel: &ChannelName,
    ) -> Result<bool, HubError> {
        self.change_anywhere(client, channel, Change::Unsubscribe).await
    }

    async fn change_anywhere(
        self: &Arc<Self>,
        client: &ClientId,
        channel: &ChannelName,
        change: Change,
    ) -> Result<bool, HubError> {
        let mut existed = false;
        for _ in 0..MOVES {
            match (self.locate(client.as_str()).await, &self.cluster) {
                (Location::On(node), Some(cluster)) => {
                    match cluster.ask_in_turn(node, change.request(client, channel)).await {
                        Some(Answer::Done) => return Ok(true),
                        Some(Answer::Existed(there)) => return Ok(existed | there),
                        // It is leaving, or has left: the store changes persistent subscriptions.
                        Some(Answer::NotHere) => existed |= self.change_here(client, channel, change).await?,
                        Some(_) => return Err(HubError::Store),
                        None => return Err(HubError::SessionEnded),
                    }
                    if self.locate(client.as_str()).await == Location::On(node) {
                        return Ok(existed);
                    }
                }
                (location, cluster) => {
                    existed |= self.change_here(client, channel, change).await?;
                    // A client that has connected to another node meanwhile may have read the old state.
                    let may_have_come = location == Location::Away && cluster.is_some();
                    if !may_have_come || self.locate(client.as_str()).await == Location::Away {
                        return Ok(existed);
                    }
                }
            }
        }
        Err(HubError::SessionEnded)
    }

    async fn change_here(
        self: &Arc<Self>,
        client: &ClientId,
        channel: &ChannelName,
        change: Change,
    ) -> Result<bool, HubError> {
        match change {
            Change::Subscribe(persistence) => {
                self.force_subscribe_here(client, channel, persistence).await?;
                Ok(true)
            }
            Change::Unsubscribe => self.force_unsubscribe_here(client, channel).await,
        }
    }

    /// Validates the session of a client and its subscriptions again, wherever the client is connected, and otherwise when it
    /// connects.
    pub(crate) async fn revalidate(&self, client: &ClientId) -> Result<Revalidated, HubError> {
        // First: a client that connects from here on is validated then.
        self.uncheck_session(client).await?;
        for _ in 0..MOVES {
            match (self.locate(client.as_str()).await, &self.cluster) {
                (Location::On(node), Some(cluster)) => {
                    let request = Request::Revalidate { client: client.as_str().to_owned() };
                    match cluster.ask_in_turn(node, request).await {
                        Some(Answer::Revalidated(bus::Revalidated { sessions, ended, closed, failed })) => {
                            return Ok(Revalidated { sessions, ended, closed, failed });
                        }
                        Some(Answer::NotHere) => {}
                        Some(_) | None => return Ok(Revalidated::FAILED),
                    }
                }
                _ => match self.revalidate_here(client).await {
                    Some(validated) => return Ok(validated),
                    None if self.locate(client.as_str()).await == Location::Away => break,
                    None => {}
                },
            }
        }
        Ok(Revalidated::default())
    }

    /// The subscriptions of a client: all of them if it is connected, otherwise the persistent ones.
    pub(crate) async fn subscriptions_of(
        &self,
        client: &ClientId,
    ) -> Result<Vec<(ChannelName, Persistence)>, HubError> {
        let (Location::On(node), Some(cluster)) = (self.locate(client.as_str()).await, &self.cluster) else {
            return self.subscriptions_here(client).await;
        };
        let request = Request::Subscriptions { client: client.as_str().to_owned() };
        match cluster.ask_in_turn(node, request).await {
            Some(Answer::Subscriptions(list)) => Ok(list.iter().filter_map(subscription).collect()),
            Some(Answer::NotHere) => self.subscriptions_here(client).await,
            Some(_) => Err(HubError::Store),
            None => Err(HubError::SessionEnded),
        }
    }
}

fn subscription((channel, is_persistent): &(String, bool)) -> Option<(ChannelName, Persistence)> {
    let persistence = if *is_persistent { Persistence::Persistent } else { Persistence::Temporary };
    Some((ChannelName::parse(channel).ok()?, persistence))
}
