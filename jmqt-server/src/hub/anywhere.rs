//! The subscriptions of a client, whichever node it is connected to (§9.e, protocol.md 2.4, 2.20).

use std::sync::Arc;
use std::time::Duration;

use jmqt_core::{ChannelName, ClientId, Persistence};
use tokio::time::timeout;

use super::connections::Connections;
use super::error::HubError;
use super::revalidate::{Revalidated, Revalidations};
use super::subscribers::Subscribers;
use super::subscriptions::Subscriptions;
use super::{Cluster, Location};
use crate::bus::{self, Answer, Origin, Request};

/// The time for which one request waits for a session to end.
const END_TIMEOUT: Duration = Duration::from_secs(2);
const END_TIMEOUT_WITHOUT_DATABASE: Duration = Duration::from_millis(200);
/// The number of times a client that moves between nodes is followed.
const MOVES: usize = 4;

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

/// Changes and lists subscriptions for the application and for other nodes.
pub(crate) struct Anywhere {
    connections: Arc<Connections>,
    subscribers: Arc<Subscribers>,
    subscriptions: Arc<Subscriptions>,
    revalidations: Arc<Revalidations>,
    /// `None` for a single server.
    cluster: Option<Arc<Cluster>>,
}

impl Anywhere {
    pub(super) const fn new(
        connections: Arc<Connections>,
        subscribers: Arc<Subscribers>,
        subscriptions: Arc<Subscriptions>,
        revalidations: Arc<Revalidations>,
        cluster: Option<Arc<Cluster>>,
    ) -> Self {
        Self { connections, subscribers, subscriptions, revalidations, cluster }
    }

    /// Executes the request of another node.
    pub(super) async fn carry_out(&self, request: Request) -> Result<Answer, HubError> {
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
                self.subscriptions.force_subscribe_here(&client, &channel, persistence).await?;
                Ok(Answer::Done)
            }
            Request::Unsubscribe { channel, .. } => {
                let channel = ChannelName::parse(&channel).map_err(|_| HubError::SessionEnded)?;
                Ok(Answer::Existed(self.subscriptions.force_unsubscribe_here(&client, &channel).await?))
            }
            Request::Revalidate { .. } => Ok(match self.revalidations.ask_here(&client).await {
                Some(Revalidated { sessions, ended, closed, failed }) => {
                    Answer::Revalidated(bus::Revalidated { sessions, ended, closed, failed })
                }
                None => Answer::NotHere,
            }),
            _ => {
                let list = self.subscriptions.subscriptions_here(&client).await?;
                let list = list.into_iter().map(|(channel, persistence)| {
                    (channel.as_str().to_owned(), persistence == Persistence::Persistent)
                });
                Ok(Answer::Subscriptions(list.collect()))
            }
        }
    }

    /// Subscribes a client for the application; the client is connected to any node or to none. An existing
    /// subscription changes its flag (2.20). The retained message is sent as for `sub`.
    pub(crate) async fn subscribe(
        &self,
        client: &ClientId,
        channel: &ChannelName,
        persistence: Persistence,
    ) -> Result<(), HubError> {
        self.change_anywhere(client, channel, Change::Subscribe(persistence)).await.map(drop)
    }

    /// Ends a client's subscription for the application; the client is connected to any node or to none.
    pub(crate) async fn unsubscribe(
        &self,
        client: &ClientId,
        channel: &ChannelName,
    ) -> Result<bool, HubError> {
        self.change_anywhere(client, channel, Change::Unsubscribe).await
    }

    async fn change_anywhere(
        &self,
        client: &ClientId,
        channel: &ChannelName,
        change: Change,
    ) -> Result<bool, HubError> {
        let mut existed = false;
        for _ in 0..MOVES {
            match (self.subscribers.locate(client.as_str()).await, &self.cluster) {
                (Location::On(node), Some(cluster)) => {
                    match cluster.ask_in_turn(node, change.request(client, channel)).await {
                        Some(Answer::Done) => return Ok(true),
                        Some(Answer::Existed(there)) => return Ok(existed | there),
                        // It is leaving, or has left: the store changes persistent subscriptions.
                        Some(Answer::NotHere) => existed |= self.change_here(client, channel, change).await?,
                        Some(_) => return Err(HubError::Store),
                        None => return Err(HubError::SessionEnded),
                    }
                    if self.subscribers.locate(client.as_str()).await == Location::On(node) {
                        return Ok(existed);
                    }
                }
                (location, cluster) => {
                    existed |= self.change_here(client, channel, change).await?;
                    // A client that has connected to another node meanwhile may have read the old state.
                    let may_have_come = location == Location::Away && cluster.is_some();
                    if !may_have_come || self.subscribers.locate(client.as_str()).await == Location::Away {
                        return Ok(existed);
                    }
                }
            }
        }
        Err(HubError::SessionEnded)
    }

    async fn change_here(
        &self,
        client: &ClientId,
        channel: &ChannelName,
        change: Change,
    ) -> Result<bool, HubError> {
        match change {
            Change::Subscribe(persistence) => {
                self.subscriptions.force_subscribe_here(client, channel, persistence).await?;
                Ok(true)
            }
            Change::Unsubscribe => self.subscriptions.force_unsubscribe_here(client, channel).await,
        }
    }

    /// Validates the session of a client and its subscriptions again, wherever the client is connected, and otherwise when it
    /// connects.
    pub(crate) async fn revalidate(&self, client: &ClientId) -> Result<Revalidated, HubError> {
        // First: a client that connects from here on is validated then.
        self.revalidations.uncheck(client).await?;
        for _ in 0..MOVES {
            match (self.subscribers.locate(client.as_str()).await, &self.cluster) {
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
                _ => match self.revalidations.ask_here(client).await {
                    Some(validated) => return Ok(validated),
                    None if self.subscribers.locate(client.as_str()).await == Location::Away => break,
                    None => {}
                },
            }
        }
        Ok(Revalidated::default())
    }

    /// The subscriptions of a client: all of them if it is connected, otherwise the persistent ones.
    pub(crate) async fn of(&self, client: &ClientId) -> Result<Vec<(ChannelName, Persistence)>, HubError> {
        let (Location::On(node), Some(cluster)) =
            (self.subscribers.locate(client.as_str()).await, &self.cluster)
        else {
            return self.subscriptions.subscriptions_here(client).await;
        };
        let request = Request::Subscriptions { client: client.as_str().to_owned() };
        match cluster.ask_in_turn(node, request).await {
            Some(Answer::Subscriptions(list)) => Ok(list.iter().filter_map(subscription).collect()),
            Some(Answer::NotHere) => self.subscriptions.subscriptions_here(client).await,
            Some(_) => Err(HubError::Store),
            None => Err(HubError::SessionEnded),
        }
    }
}

fn subscription((channel, is_persistent): &(String, bool)) -> Option<(ChannelName, Persistence)> {
    let persistence = if *is_persistent { Persistence::Persistent } else { Persistence::Temporary };
    Some((ChannelName::parse(channel).ok()?, persistence))
}
