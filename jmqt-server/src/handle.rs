//! The API for the application: subscriptions, publishes, queries and disconnects (§9.e).

mod detached;
mod error;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use jmqt_core::{
    ChannelKind, ChannelName, ClientId, InvalidPayload, Payload, PayloadBuf, Persistence, Qos, Retain,
};

use crate::connection::{CloseReason, ConnectionInfo};
use crate::counters::CountersSnapshot;
use crate::disconnect::Disconnect;
use crate::hub::{Hub, Recorded, Revalidated};
use crate::message::{Data, Message};

pub(crate) use detached::Detached;
pub use error::HandleError;

/// A message that the application publishes. The default is QoS 0, not retained.
///
/// ```
/// use jmqt_server::{ChannelName, Publish};
///
/// let news = ChannelName::parse("news")?;
/// let message = Publish::json(news, &["rain", "sun"])?.at_least_once().retained();
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    channel: ChannelName,
    data: Bytes,
    qos: Qos,
    retain: Retain,
}

impl Publish {
    /// Converts a value to JSON.
    ///
    /// # Errors
    /// The error of `serde_json` if JSON cannot represent the value, or the value is nested deeper than 128.
    pub fn json(channel: ChannelName, data: &impl serde::Serialize) -> Result<Self, serde_json::Error> {
        let data = PayloadBuf::json(data)?.into_string().into();
        Ok(Self { channel, data, qos: Qos::AtMostOnce, retain: Retain::No })
    }

    /// Takes JSON text, which subscribers receive byte for byte (protocol.md 2.7).
    ///
    /// # Errors
    /// [`InvalidPayload`] if the text is not one JSON value, or is nested deeper than 128.
    pub fn raw(channel: ChannelName, data: &str) -> Result<Self, InvalidPayload> {
        let data = Bytes::copy_from_slice(Payload::parse(data)?.as_str().as_bytes());
        Ok(Self { channel, data, qos: Qos::AtMostOnce, retain: Retain::No })
    }

    /// QoS 1: stored, and delivered until acknowledged (§9.a).
    #[must_use]
    pub const fn at_least_once(mut self) -> Self {
        self.qos = Qos::AtLeastOnce;
        self
    }

    /// Keeps the message for later subscribers (§9.b). No effect on point-to-point channels.
    #[must_use]
    pub const fn retained(mut self) -> Self {
        self.retain = Retain::Yes;
        self
    }

    fn into_message(self) -> Result<Message, HandleError> {
        let retain = match self.channel.kind() {
            ChannelKind::Control => return Err(HandleError::InvalidChannel(self.channel)),
            ChannelKind::PeerToPeer => Retain::No,
            ChannelKind::Plain => self.retain,
        };
        let data = Data::checked_before(self.data);
        Ok(Message { channel: self.channel, sender: None, data, qos: self.qos, retain })
    }
}

/// The running server. Cheap to clone; usable in validators and anywhere else in the program (§9.e).
#[derive(Clone)]
pub struct ServerHandle {
    side: Side,
}

/// The server of a handle.
#[derive(Clone)]
enum Side {
    Live(Arc<Hub>),
    /// A [`TestServer`](crate::testing::TestServer).
    Detached(Arc<Detached>),
}

impl fmt::Debug for ServerHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerHandle")
    }
}

impl ServerHandle {
    pub(crate) fn new(hub: Arc<Hub>) -> Self {
        Self { side: Side::Live(hub) }
    }

    pub(crate) fn detached(server: Arc<Detached>) -> Self {
        Self { side: Side::Detached(server) }
    }

    /// The subscriptions of a client by channel name: all of them if the client is connected, otherwise the
    /// persistent ones. They include the client's own `#` channel.
    ///
    /// ```
    /// # use jmqt_server::prelude::*;
    /// # async fn example(server: &ServerHandle) -> Result<(), BoxError> {
    /// let alice = ClientId::parse("alice")?;
    /// for (channel, persistence) in server.subscriptions(&alice).await? {
    ///     println!("{channel}: {persistence:?}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`HandleError::Store`].
    pub async fn subscriptions(
        &self,
        client: &ClientId,
    ) -> Result<Vec<(ChannelName, Persistence)>, HandleError> {
        match &self.side {
            Side::Live(hub) => Ok(hub.anywhere.of(client).await?),
            Side::Detached(server) => Ok(server.subscriptions(client)),
        }
    }

    /// Subscribes a client without asking it or the validators. An existing subscription changes to
    /// this persistence; the retained message is sent as for a `sub` (protocol.md 2.20). A persistent
    /// subscription is on disk when this returns, and may be made for a client that is not connected.
    /// One that was persistent and becomes temporary gives up its pending messages; acknowledgements
    /// of those in flight are then ignored.
    ///
    /// ```
    /// # use jmqt_server::prelude::*;
    /// # async fn example(server: &ServerHandle) -> Result<(), BoxError> {
    /// let (alice, team) = (ClientId::parse("alice")?, ChannelName::parse("team-7")?);
    /// server.force_sub(&alice, &team, Persistence::Persistent).await?;
    /// server.force_unsub(&alice, &team).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`HandleError::InvalidChannel`] for a control channel or another client's `#` channel,
    /// [`HandleError::NotConnected`] for a temporary subscription of an absent client,
    /// [`HandleError::Store`].
    ///
    /// # Cancel safety
    /// Once polled, the change is executed even if the future is dropped.
    pub async fn force_sub(
        &self,
        client: &ClientId,
        channel: &ChannelName,
        persistence: Persistence,
    ) -> Result<(), HandleError> {
        check_subscribable(client, channel)?;
        let hub = match &self.side {
            Side::Live(hub) => Arc::clone(hub),
            Side::Detached(server) => return server.subscribe(client, channel, persistence),
        };
        let (client, channel) = (client.clone(), channel.clone());
        // In a separate task, because an incomplete subscription would hold pushes back forever.
        let task = tokio::spawn(async move { hub.anywhere.subscribe(&client, &channel, persistence).await });
        Ok(task.await.map_err(|_| HandleError::Store)??)
    }

    /// Ends a client's subscription, whether the client is connected or not; returns `false` if it does not exist. No
    /// message of the channel is pushed to the client afterwards.
    ///
    /// # Errors
    /// [`HandleError::InvalidChannel`] as for [`force_sub`](Self::force_sub), [`HandleError::Store`].
    ///
    /// # Cancel safety
    /// Once polled, the change is executed even if the future is dropped.
    pub async fn force_unsub(&self, client: &ClientId, channel: &ChannelName) -> Result<bool, HandleError> {
        check_subscribable(client, channel)?;
        let hub = match &self.side {
            Side::Live(hub) => Arc::clone(hub),
            Side::Detached(server) => return Ok(server.unsubscribe(client, channel)),
        };
        let (client, channel) = (client.clone(), channel.clone());
        let task = tokio::spawn(async move { hub.anywhere.unsubscribe(&client, &channel).await });
        Ok(task.await.map_err(|_| HandleError::Store)??)
    }

    /// Publishes a message of the server; subscribers see an empty `cl`. When this returns, a QoS 1 message is on
    /// disk for every persistent subscriber, and a QoS 0 message is in the outbound queues of all subscribers.
    ///
    /// ```
    /// # use jmqt_server::prelude::*;
    /// # async fn example(server: &ServerHandle) -> Result<(), BoxError> {
    /// let news = ChannelName::parse("news")?;
    /// server.force_pub(Publish::json(news, &"rain")?.at_least_once().retained()).await?;
    /// // To one client, connected or not:
    /// let inbox = ChannelName::of_client(&ClientId::parse("alice")?);
    /// server.force_pub(Publish::raw(inbox, r#"{"invitation":7}"#)?.at_least_once()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`HandleError::InvalidChannel`] for a control channel, [`HandleError::TooManyRetained`], [`HandleError::Store`].
    pub async fn force_pub(&self, publish: Publish) -> Result<(), HandleError> {
        self.publish(publish.into_message()?).await
    }

    /// Publishes a message of a client, connected or not, without asking the validators. Subscribers see the client
    /// as the publisher, and the client itself does not receive the message (protocol.md 2.11). Its order relative to
    /// the client's own publishes is undefined. The guarantees on return are those of [`force_pub`](Self::force_pub).
    ///
    /// ```
    /// # use jmqt_server::prelude::*;
    /// # async fn example(server: &ServerHandle) -> Result<(), BoxError> {
    /// let (alice, chat) = (ClientId::parse("alice")?, ChannelName::parse("chat")?);
    /// server.publish_as(&alice, Publish::json(chat, &"sent by e-mail")?.at_least_once()).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`HandleError::InvalidChannel`] for a control channel and for the client's own `#` channel,
    /// [`HandleError::TooManyRetained`], [`HandleError::Store`].
    pub async fn publish_as(&self, client: &ClientId, publish: Publish) -> Result<(), HandleError> {
        let mut message = publish.into_message()?;
        if is_own_channel(client, &message.channel) {
            return Err(HandleError::InvalidChannel(message.channel));
        }
        message.sender = Some(client.clone());
        self.publish(message).await
    }

    async fn publish(&self, message: Message) -> Result<(), HandleError> {
        match &self.side {
            Side::Live(hub) => hub.publish(message).await?,
            Side::Detached(server) => server.publish(message),
        }
        Ok(())
    }

    /// The clients that are connected to this node and subscribed to a channel, in no particular order. Clients on
    /// other nodes, and persistent subscriptions of absent clients, are not included.
    ///
    /// ```
    /// # use jmqt_server::prelude::*;
    /// # async fn example(server: &ServerHandle) -> Result<(), BoxError> {
    /// let room = ChannelName::parse("room-1")?;
    /// let members: Vec<_> = server.subscribers(&room).into_iter().map(|(client, _)| client).collect();
    /// println!("{} members are here", members.len());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn subscribers(&self, channel: &ChannelName) -> Vec<(ClientId, Persistence)> {
        match &self.side {
            Side::Live(hub) => hub.subscribers.clients_here(channel),
            Side::Detached(server) => server.subscribers(channel),
        }
    }

    /// Returns `true` if the client has a session on any node. Information about other nodes may be slightly old.
    #[must_use]
    pub fn is_connected(&self, client: &ClientId) -> bool {
        match &self.side {
            Side::Live(hub) => {
                hub.connections.outbox(client.as_str()).is_some()
                    || hub.cluster.as_ref().is_some_and(|cluster| cluster.is_elsewhere(client))
            }
            Side::Detached(server) => server.is_connected(client),
        }
    }

    /// All clients that have a session on any node, in no particular order. Information about other nodes may be
    /// slightly old.
    ///
    /// ```
    /// # use jmqt_server::prelude::*;
    /// # async fn example(server: &ServerHandle) -> Result<(), BoxError> {
    /// for (client, connection) in server.connections() {
    ///     println!("{client} from {}", connection.remote);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn connections(&self) -> Vec<(ClientId, ConnectionInfo)> {
        let hub = match &self.side {
            Side::Live(hub) => hub,
            Side::Detached(server) => return server.connections(),
        };
        let mut all = hub.connections.all();
        if let Some(cluster) = &hub.cluster {
            all.extend(cluster.elsewhere());
        }
        all
    }

    /// Closes a client's connection on any node with [`CloseReason::ByApplication`]; returns `false` if the client is
    /// not connected. Another node closes it shortly afterwards. The client receives 4008 BY_APPLICATION and may
    /// reconnect by itself; see [`disconnect_with`](Self::disconnect_with).
    #[allow(clippy::must_use_candidate, reason = "it is called for what it does")]
    pub fn disconnect(&self, client: &ClientId) -> bool {
        self.disconnect_with(client, Disconnect::usual())
    }

    /// As [`disconnect`](Self::disconnect), with a disconnect reason for the client: a message for users, and whether
    /// the client may reconnect by itself (protocol.md 2.22).
    ///
    /// ```no_run
    /// # use jmqt_server::{ClientId, Disconnect, ServerHandle};
    /// # fn ban(server: &ServerHandle, client: &ClientId) {
    /// server.disconnect_with(client, Disconnect::kick("you were banned from this game"));
    /// # }
    /// ```
    #[allow(
        clippy::must_use_candidate,
        clippy::needless_pass_by_value,
        reason = "it is called for what it does"
    )]
    pub fn disconnect_with(&self, client: &ClientId, disconnect: Disconnect) -> bool {
        let hub = match &self.side {
            Side::Live(hub) => hub,
            Side::Detached(server) => return server.disconnect(client),
        };
        if let Some(outbox) = hub.connections.outbox(client.as_str()) {
            outbox.close_saying(CloseReason::ByApplication, disconnect);
            return true;
        }
        hub.cluster.as_ref().is_some_and(|cluster| cluster.disconnect(client, &disconnect))
    }

    /// Validates a session again, because its permissions have changed: asks
    /// [`ConnValidator::validate_again`](crate::ConnValidator::validate_again) whether it may go on, and the
    /// [`SubValidator`](crate::SubValidator) about each of its subscriptions, also those that the application has made, and ends those
    /// that are refused. The client is not told; no message follows. On any node; if the client is not connected,
    /// its subscriptions are validated when its session resumes, before anything is delivered.
    ///
    /// A question without an answer changes nothing, and is counted in [`Revalidated::failed`]. While a session is validated
    /// its other requests wait.
    ///
    /// ```
    /// # use jmqt_server::prelude::*;
    /// # async fn left_the_team(server: &ServerHandle, alice: &ClientId) -> Result<(), BoxError> {
    /// let found = server.revalidate(alice).await?;
    /// println!("{} subscriptions ended", found.ended);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`HandleError::Store`].
    pub async fn revalidate(&self, client: &ClientId) -> Result<Revalidated, HandleError> {
        match &self.side {
            Side::Live(hub) => Ok(hub.anywhere.revalidate(client).await?),
            Side::Detached(_) => Ok(Revalidated::default()),
        }
    }

    /// As [`revalidate`](Self::revalidate), for all clients: those of this node a few at a time before this returns, those of
    /// other nodes soon, and those that are not connected when their sessions resume. With very many sessions this takes
    /// a while, so that the validators and the store are not flooded. The result is that of this node.
    ///
    /// # Errors
    /// [`HandleError::Store`].
    pub async fn revalidate_all(&self) -> Result<Revalidated, HandleError> {
        match &self.side {
            Side::Live(hub) => Ok(hub.revalidations.ask_all().await?),
            Side::Detached(_) => Ok(Revalidated::default()),
        }
    }

    /// As [`revalidate`](Self::revalidate), for the clients that are connected to this node. Enough if each node does so, and
    /// the validator has a [revision](crate::SubValidator::revision) for those that are not connected.
    pub async fn revalidate_here(&self) -> Revalidated {
        match &self.side {
            Side::Live(hub) => hub.revalidations.ask_all_here().await,
            Side::Detached(_) => Revalidated::default(),
        }
    }

    /// Deletes a channel's retained message; returns `false` if there is none.
    ///
    /// # Errors
    /// [`HandleError::Store`].
    pub async fn clear_retained(&self, channel: &ChannelName) -> Result<bool, HandleError> {
        match &self.side {
            Side::Live(hub) => Ok(hub.retained.clear(channel).await?),
            Side::Detached(server) => Ok(server.clear_retained(channel)),
        }
    }

    /// Returns `true` if clients should use this server, for a health check of the application. Returns `false` if
    /// this node of a cluster has lost the database while other nodes have it, and has therefore closed its
    /// listeners, or if the files of SQLite were deleted or replaced. `GET /healthz` on a WebSocket port has the same
    /// result.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        match &self.side {
            Side::Live(hub) => hub.trouble().is_none(),
            Side::Detached(_) => true,
        }
    }

    /// The counters of the server since its start.
    #[must_use]
    pub fn counters(&self) -> CountersSnapshot {
        match &self.side {
            Side::Live(hub) => hub.counters.snapshot(),
            Side::Detached(_) => CountersSnapshot::default(),
        }
    }
}

/// Checks that a `#` channel is the client's own, the only one that it may be subscribed to (2.20).
fn check_subscribable(client: &ClientId, channel: &ChannelName) -> Result<(), HandleError> {
    let allowed = match channel.kind() {
        ChannelKind::Plain => true,
        ChannelKind::Control => false,
        ChannelKind::PeerToPeer => is_own_channel(client, channel),
    };
    if allowed { Ok(()) } else { Err(HandleError::InvalidChannel(channel.clone())) }
}

fn is_own_channel(client: &ClientId, channel: &ChannelName) -> bool {
    channel.as_str().strip_prefix('#') == Some(client.as_str())
}

/// The handle of a `conn` request. Its calls are executed after the connection is accepted, in order and before the
/// `connAck`; pushes to this client are held until after the `connAck`. After a refusal, an error or a timeout they
/// are discarded (protocol.md 2.2).
#[derive(Debug)]
pub struct ConnHandle {
    client: ClientId,
    server: ServerHandle,
    recorded: Mutex<Vec<Recorded>>,
}

impl ConnHandle {
    pub(crate) fn new(client: ClientId, server: ServerHandle) -> Self {
        Self { client, server, recorded: Mutex::default() }
    }

    fn record(&self, recorded: Recorded) {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).push(recorded);
    }

    /// The calls recorded so far.
    pub(crate) fn recorded(&self) -> Vec<Recorded> {
        self.recorded.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn into_recorded(self) -> Vec<Recorded> {
        self.recorded.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes the connecting client, as [`ServerHandle::force_sub`] does.
    ///
    /// # Errors
    /// [`HandleError::InvalidChannel`] for a control channel or another client's `#` channel.
    pub fn force_sub(&self, channel: &ChannelName, persistence: Persistence) -> Result<(), HandleError> {
        check_subscribable(&self.client, channel)?;
        self.record(Recorded::Subscribe(channel.clone(), persistence));
        Ok(())
    }

    /// Unsubscribes the connecting client, as [`ServerHandle::force_unsub`] does.
    ///
    /// # Errors
    /// [`HandleError::InvalidChannel`] for a control channel or another client's `#` channel.
    pub fn force_unsub(&self, channel: &ChannelName) -> Result<(), HandleError> {
        check_subscribable(&self.client, channel)?;
        self.record(Recorded::Unsubscribe(channel.clone()));
        Ok(())
    }

    /// Publishes a message of the server, as [`ServerHandle::force_pub`] does.
    ///
    /// # Errors
    /// [`HandleError::InvalidChannel`] for a control channel.
    pub fn force_pub(&self, publish: Publish) -> Result<(), HandleError> {
        self.record(Recorded::Publish(publish.into_message()?));
        Ok(())
    }

    /// The handle of the server, whose calls are executed at once.
    #[must_use]
    pub const fn server(&self) -> &ServerHandle {
        &self.server
    }
}
