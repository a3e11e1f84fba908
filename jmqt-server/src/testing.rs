//! Unit tests of validators without a server: constructed requests, and a [`ServerHandle`] that
//! records its calls.
//!
//! ```
//! use jmqt_server::testing::{TestClient, TestServer};
//! use jmqt_server::prelude::*;
//!
//! struct App;
//!
//! #[async_trait]
//! impl SubValidator for App {
//!     async fn validate_sub(&self, request: &SubRequest<'_>) -> Result<Verdict, BoxError> {
//!         let welcome = Publish::json(ChannelName::of_client(request.client), &"welcome")?;
//!         request.server.force_pub(welcome).await?;
//!         Ok(if request.channel.as_str() == "news" { Verdict::Allow } else { Verdict::NOT_ALLOWED })
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let server = TestServer::new();
//! let alice = TestClient::new(&server, ClientId::parse("alice")?);
//! let news = ChannelName::parse("news")?;
//! let verdict = App.validate_sub(&alice.sub(&news, Persistence::Temporary)).await?;
//! assert_eq!(verdict, Verdict::Allow);
//! assert_eq!(server.published()[0].channel.as_str(), "#alice");
//! assert_eq!(server.published()[0].data.as_str(), r#""welcome""#);
//! # Ok(())
//! # }
//! ```

use std::any::Any;
use std::net::SocketAddr;
use std::sync::Arc;

use jmqt_core::{ChannelName, ClientId, Payload, Persistence, Qos, Retain};

use crate::connection::{CloseReason, ConnectionInfo, Protocol};
use crate::handle::{ConnHandle, Detached, ServerHandle};
use crate::hub::Recorded;
use crate::message::Message;
use crate::tls::ClientCertificate;
use crate::upgrade::Upgrade;
use crate::validators::{
    AuthRequest, CloseNotice, ConnRequest, ControlRequest, DisconnectNotice, ExchangeRequest, FilterRequest,
    OpenNotice, PubData, PubRequest, SessionData, StoredNotice, SubRequest, UnsubRequest,
};

/// A simulated server: it records the calls of its [`handle`](Self::handle).
///
/// It delivers nothing, and calls no validator. A test [connects](Self::connect) clients. Cheap to clone.
#[derive(Debug, Clone)]
pub struct TestServer {
    detached: Arc<Detached>,
    handle: ServerHandle,
}

/// A message that was published through a handle of a [`TestServer`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Published {
    /// The channel.
    pub channel: ChannelName,
    /// The publisher; `None` for the server itself.
    pub client: Option<ClientId>,
    /// The data, JSON text.
    pub data: String,
    /// The quality of service.
    pub qos: Qos,
    /// `true` if the message was to be retained.
    pub retain: Retain,
}

impl From<Message> for Published {
    fn from(message: Message) -> Self {
        let data = String::from_utf8_lossy(message.data.as_bytes()).into_owned();
        Self {
            channel: message.channel,
            client: message.sender,
            data,
            qos: message.qos,
            retain: message.retain,
        }
    }
}

impl Default for TestServer {
    fn default() -> Self {
        Self::new()
    }
}

impl TestServer {
    /// A server without clients.
    #[must_use]
    pub fn new() -> Self {
        let detached = Arc::new(Detached::default());
        let handle = ServerHandle::detached(Arc::clone(&detached));
        Self { detached, handle }
    }

    /// The handle that requests carry.
    #[must_use]
    pub const fn handle(&self) -> &ServerHandle {
        &self.handle
    }

    /// Connects this client, with a subscription to its own `#` channel.
    pub fn connect(&self, client: &ClientId) {
        self.detached.connect(client, connection());
    }

    /// All published messages, in order.
    #[must_use]
    pub fn published(&self) -> Vec<Published> {
        self.detached.published().into_iter().map(Published::from).collect()
    }

    /// The clients that were disconnected, in order.
    #[must_use]
    pub fn disconnected(&self) -> Vec<ClientId> {
        self.detached.disconnected()
    }
}

/// A connection of a client, which constructs its requests.
#[derive(Debug, Clone)]
pub struct TestClient {
    id: ClientId,
    connection: ConnectionInfo,
    session: Option<SessionData>,
    upgrade: Option<Arc<Upgrade>>,
    certificate: Option<ClientCertificate>,
    server: ServerHandle,
}

impl TestClient {
    /// A client from 127.0.0.1 over plain TCP, without session data.
    #[must_use]
    pub fn new(server: &TestServer, id: ClientId) -> Self {
        Self {
            id,
            connection: connection(),
            session: None,
            upgrade: None,
            certificate: None,
            server: server.handle.clone(),
        }
    }

    /// Sets the session data of its requests.
    #[must_use]
    pub fn attach<T: Any + Send + Sync>(mut self, data: Arc<T>) -> Self {
        self.session = Some(data);
        self
    }

    /// Sets the address and the protocol of its requests.
    #[must_use]
    pub const fn from(mut self, remote: SocketAddr, protocol: Protocol) -> Self {
        self.connection = ConnectionInfo { remote, protocol };
        self
    }

    /// Sets the HTTP request of its WebSocket: the path, with an optional query, and header lines.
    #[must_use]
    pub fn websocket(mut self, target: &str, headers: &[(&str, &str)]) -> Self {
        let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let head = format!("GET {target} HTTP/1.1\r\n{lines}\r\n");
        self.upgrade = Some(Arc::new(Upgrade::new(head.as_bytes())));
        self.connection.protocol = Protocol::WebSocket;
        self
    }

    /// Sets the certificate of its requests: one with this common name and nothing else, and with no DER.
    #[must_use]
    pub fn certificate(mut self, common_name: &str) -> Self {
        let subject = format!("CN={common_name}");
        self.certificate = Some(ClientCertificate::new(&subject, Some(common_name), Box::default()));
        self.connection.protocol = Protocol::SslSocket;
        self
    }

    /// The client id.
    #[must_use]
    pub const fn id(&self) -> &ClientId {
        &self.id
    }

    /// An `auth` packet.
    #[must_use]
    pub fn auth<'a>(&'a self, data: Payload<'a>) -> AuthRequest<'a> {
        let session = self.session.as_ref().into();
        AuthRequest::new(self.connection, data, &self.server, session, self.upgrade.as_ref(), None)
            .with_certificate(self.certificate.as_ref())
    }

    /// A packet of an authentication exchange of MQTT 5, with this method and data.
    #[must_use]
    pub fn exchange<'a>(&'a self, method: &'a str, data: Option<&'a [u8]>) -> ExchangeRequest<'a> {
        let session = self.session.as_ref().into();
        ExchangeRequest::new(self.connection, method, data, self.id.as_str(), &self.server, session).with(
            self.upgrade.as_ref(),
            self.certificate.as_ref(),
            None,
        )
    }

    /// A `conn` packet with this token.
    #[must_use]
    pub fn conn<'a>(&'a self, token: &'a str) -> TestConn<'a> {
        TestConn { client: self, token, handle: ConnHandle::new(self.id.clone(), self.server.clone()) }
    }

    /// A `sub` packet.
    #[must_use]
    pub fn sub<'a>(&'a self, channel: &'a ChannelName, persistence: Persistence) -> SubRequest<'a> {
        let session = self.session.as_ref().into();
        SubRequest::new(self.connection, &self.id, channel, persistence, &self.server, session)
    }

    /// A subscription with this filter.
    #[must_use]
    pub fn filter<'a>(&'a self, filter: &'a str) -> FilterRequest<'a> {
        FilterRequest {
            connection: self.connection,
            client: &self.id,
            filter,
            group: None,
            server: &self.server,
            session: self.session.as_ref().into(),
        }
    }

    /// An `unsub` packet.
    #[must_use]
    pub fn unsub<'a>(&'a self, channel: &'a ChannelName) -> UnsubRequest<'a> {
        UnsubRequest::new(self.connection, &self.id, channel, &self.server, self.session.as_ref().into())
    }

    /// A `pub` packet of QoS 0 that is not retained; its fields may be changed.
    #[must_use]
    pub fn publish<'a>(&'a self, channel: &'a ChannelName, data: &'a PubData<'a>) -> PubRequest<'a> {
        PubRequest {
            connection: self.connection,
            client: &self.id,
            channel,
            data,
            qos: Qos::AtMostOnce,
            retain: Retain::No,
            is_will: false,
            server: &self.server,
            session: self.session.as_ref().into(),
        }
    }

    /// A `pub` packet to a control channel.
    #[must_use]
    pub fn control<'a>(&'a self, channel: &'a ChannelName, data: Option<Payload<'a>>) -> ControlRequest<'a> {
        let session = self.session.as_ref().into();
        ControlRequest::new(self.connection, &self.id, channel, data, &self.server, session)
    }

    /// The notice for an [`OpenNotifier`](crate::OpenNotifier).
    #[must_use]
    pub fn opened(&self) -> OpenNotice<'_> {
        OpenNotice::new(self.connection, &self.id, &self.server, self.session.as_ref().into())
    }

    /// The notice for a [`DisconnectNotifier`](crate::DisconnectNotifier).
    #[must_use]
    pub fn disconnected(&self) -> DisconnectNotice<'_> {
        DisconnectNotice::new(self.connection, &self.id, &self.server, self.session.as_ref().into())
    }

    /// The notice for a [`CloseNotifier`](crate::CloseNotifier).
    #[must_use]
    pub fn closed(&self, reason: CloseReason) -> CloseNotice<'_> {
        CloseNotice::new(self.connection, &self.id, reason, &self.server, self.session.as_ref().into())
    }

    /// The notice for a [`StoredNotifier`](crate::StoredNotifier) of a message that this client published.
    #[must_use]
    pub fn stored<'a>(&'a self, channel: &'a ChannelName, data: Payload<'a>) -> StoredNotice<'a> {
        StoredNotice::new(channel, Some(&self.id), data, Retain::No, &self.server)
    }
}

/// A `conn` packet, and the calls that its validator makes through the handle of the request.
#[derive(Debug)]
pub struct TestConn<'a> {
    client: &'a TestClient,
    token: &'a str,
    handle: ConnHandle,
}

impl TestConn<'_> {
    /// The request.
    #[must_use]
    pub fn request(&self) -> ConnRequest<'_> {
        let session = self.client.session.as_ref().into();
        let TestClient { id, connection, upgrade, certificate, .. } = self.client;
        ConnRequest::new(*connection, id, self.token, &self.handle, session, upgrade.as_ref())
            .with_certificate(certificate.as_ref())
    }

    /// The recorded subscriptions that were not removed again, in order.
    #[must_use]
    pub fn subscriptions(&self) -> Vec<(ChannelName, Persistence)> {
        let mut subscriptions: Vec<(ChannelName, Persistence)> = Vec::new();
        for recorded in self.handle.recorded() {
            match recorded {
                Recorded::Subscribe(channel, persistence) => {
                    subscriptions.retain(|(of, _)| *of != channel);
                    subscriptions.push((channel, persistence));
                }
                Recorded::Unsubscribe(channel) => subscriptions.retain(|(of, _)| *of != channel),
                Recorded::Publish(_) => {}
            }
        }
        subscriptions
    }

    /// The messages that were recorded, in order.
    #[must_use]
    pub fn published(&self) -> Vec<Published> {
        let published = self.handle.recorded().into_iter().filter_map(|recorded| match recorded {
            Recorded::Publish(message) => Some(message.into()),
            _ => None,
        });
        published.collect()
    }
}

fn connection() -> ConnectionInfo {
    ConnectionInfo { remote: SocketAddr::from(([127, 0, 0, 1], 40000)), protocol: Protocol::Socket }
}
