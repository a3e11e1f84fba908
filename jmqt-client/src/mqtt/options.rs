//! What a client is told before it connects: [`Options`].

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use jmqt_mqtt::Version;
use tokio_rustls::rustls::ClientConfig;

use super::authentication::{AuthExchange, Authentication};
use super::error::ConnectError;
use super::{Password, Publish, Server, TopicDefaults};
use crate::{Header, InvalidUrl, Reconnect, TlsConfig, WhenFull};

/// What the server publishes when the connection is lost (3.1.2.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    pub(crate) message: Publish,
    pub(crate) delay: Duration,
}

impl Will {
    /// This message, as soon as the connection is lost.
    #[must_use]
    pub const fn new(message: Publish) -> Self {
        Self { message, delay: Duration::ZERO }
    }

    /// Only if the client has not come back after this time, in whole seconds (MQTT 5, 3.1.3.2.2).
    #[must_use]
    pub const fn after(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }
}

/// Where to connect, as whom, and what the limits are.
///
/// ```
/// use std::time::Duration;
/// use jmqt_client::mqtt::{Options, Publish, Will};
///
/// let mut options = Options::url("mqtts://lamp:secret@example.com")?;
/// options.client_id = "lamp-7".to_owned();
/// options.clean_start = false;
/// options.session_expiry = Duration::from_secs(3600);
/// options.will = Some(Will::new(Publish::new("lamps/7/state", "gone")?.retained()));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct Options {
    /// Where the servers are: at least one. The client begins with one at random, and goes on to the next whenever a
    /// connection fails or is lost. Default `mqtt://localhost:1883`.
    pub servers: Vec<Server>,
    /// Which MQTT to speak. Default 5; an older server refuses that with
    /// [`ReasonCode::UNSUPPORTED_PROTOCOL_VERSION`](super::ReasonCode::UNSUPPORTED_PROTOCOL_VERSION).
    pub version: Version,
    /// The client id. Default empty: the server gives one, which later connections of this client use.
    pub client_id: String,
    /// Whether the first connection ends the session that the server may have of this client id (3.1.2.4). MQTT 3.1.1: whether
    /// each connection does, and the session ends with the connection. Default `true`.
    pub clean_start: bool,
    /// How long the server keeps the session after the connection has ended, in whole seconds (MQTT 5, 3.1.2.11.2). From
    /// 4,294,967,295 seconds on: for ever. Default 0: it ends with the connection.
    pub session_expiry: Duration,
    /// The user name, for servers whose URL has none.
    pub user_name: Option<String>,
    /// The password that belongs to it.
    pub password: Option<Password>,
    pub(crate) authentication: Option<Authentication>,
    /// What the server publishes when the connection is lost. Default: nothing.
    pub will: Option<Will>,
    /// The longest silence towards the server, in whole seconds; a server may ask for less. 0: no pings, so a connection that
    /// is dead is not noticed. At most 65,535 seconds, default 30.
    pub keep_alive: Duration,
    /// How TLS is done, where the URL asks for it.
    pub tls: TlsConfig,
    pub(crate) rustls: Option<Arc<ClientConfig>>,
    /// Headers of the request that opens a WebSocket. Default: none.
    pub websocket_headers: Vec<Header>,
    /// What holds for the messages of a topic, as a `client.conf` says; programs ask it before they publish. Default: QoS 0,
    /// not retained.
    pub topics: TopicDefaults,
    /// What happens when a connection is lost. Default [`Reconnect::default`].
    pub reconnect: Reconnect,
    /// How many bytes of publishes may wait, those without an acknowledgement included. An empty queue takes one
    /// message of any size. 1 KiB to 1 GiB, default 8 MiB.
    pub queue_bytes: usize,
    /// What happens to a publish when the queue is full. Default [`WhenFull::Wait`].
    pub when_full: WhenFull,
    /// How many QoS 1 and 2 messages the server may send before the application takes the first (3.1.2.11.3). 1 to 65,535,
    /// default 128.
    pub receive_maximum: u16,
    /// How many bytes of messages may wait in one stream. 1 KiB to 1 GiB, default 8 MiB.
    pub stream_bytes: usize,
    /// The largest packet that the server may send, in bytes. 1 KiB to 1 GiB, but at most 268,435,460 for MQTT; default 4 MiB.
    pub max_packet_bytes: usize,
    /// How many topics the server may replace by numbers (MQTT 5, 3.1.2.11.5). Default 32.
    pub topic_alias_maximum: u16,
    /// User properties of the CONNECT (MQTT 5).
    pub user_properties: Vec<(String, String)>,
    /// How long a connection may take to be made, its session included. Default 10 seconds.
    pub connect_timeout: Duration,
    /// How long a subscription or a request waits for its answer, and for a connection. Default 30 seconds.
    pub request_timeout: Duration,
    /// How long a publish that was sent waits for its acknowledgement on that connection, and any publish for room in the
    /// queue. Waiting for a connection does not count. Default 5 minutes.
    pub publish_timeout: Duration,
    /// How long [`Client::disconnect`](super::Client::disconnect) goes on sending what is queued. Default 5 seconds.
    pub close_timeout: Duration,
}

impl Options {
    /// For the server at this URL, or for the nodes at several, with commas in between.
    ///
    /// # Errors
    /// [`InvalidUrl`] says what is wrong with it.
    pub fn url(url: &str) -> Result<Self, InvalidUrl> {
        Ok(Self { servers: Server::list(url)?, ..Self::default() })
    }

    /// With this user name and password.
    #[must_use]
    pub fn login(mut self, user_name: impl Into<String>, password: impl Into<Password>) -> Self {
        (self.user_name, self.password) = (Some(user_name.into()), Some(password.into()));
        self
    }

    /// Authenticates with this method of enhanced authentication (MQTT 5, 4.12): `begin` makes an [`AuthExchange`] for each
    /// connection, and for each [`Client::reauthenticate`](super::Client::reauthenticate).
    ///
    /// ```
    /// use std::error::Error;
    /// use jmqt_client::mqtt::{AuthExchange, Options};
    ///
    /// /// The server asks with random bytes, and wants them signed.
    /// struct Signature;
    ///
    /// impl AuthExchange for Signature {
    ///     async fn answer(&mut self, challenge: &[u8]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
    ///         sign(challenge).await
    ///     }
    /// }
    /// # async fn sign(text: &[u8]) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> { Ok(text.to_vec()) }
    ///
    /// let options = Options::url("mqtts://example.com")?.authenticate("SIGNATURE", || Signature);
    /// # Ok::<(), Box<dyn Error>>(())
    /// ```
    #[must_use]
    pub fn authenticate<E: AuthExchange>(
        mut self,
        method: impl Into<String>,
        begin: impl Fn() -> E + Send + Sync + 'static,
    ) -> Self {
        self.authentication = Some(Authentication::new(method.into(), begin));
        self
    }

    /// Does TLS with this configuration of rustls, as [`Config::rustls`](crate::Config::rustls).
    #[must_use]
    pub fn rustls(mut self, config: Arc<ClientConfig>) -> Self {
        self.rustls = Some(config);
        self
    }

    /// Whether the server keeps the session when the connection ends.
    #[must_use]
    pub fn is_persistent(&self) -> bool {
        if self.version.has_properties() { self.expiry_seconds() > 0 } else { !self.clean_start }
    }

    pub(crate) fn expiry_seconds(&self) -> u32 {
        u32::try_from(self.session_expiry.as_secs()).unwrap_or(u32::MAX)
    }

    /// Whether every value is in its range.
    pub(crate) fn check(&self) -> Result<(), ConnectError> {
        let bad = |option, found: String, expected| Err(ConnectError::Option { option, found, expected });
        if self.servers.is_empty() {
            return bad("servers", "empty".to_owned(), "at least one server");
        }
        let comes_back = self.is_persistent() || !self.clean_start;
        if self.client_id.is_empty() && (comes_back || self.version == Version::V3_1) {
            let expected = "a client id: without one nobody can come back to the session";
            return bad("client_id", "empty".to_owned(), expected);
        }
        if self.client_id.len() > 65_535 || self.client_id.contains('\0') {
            return bad("client_id", "unusable".to_owned(), "at most 65,535 bytes without U+0000");
        }
        if self.receive_maximum == 0 {
            return bad("receive_maximum", "0".to_owned(), "1 to 65535");
        }
        if self.keep_alive.as_secs() > 65_535 {
            return bad("keep_alive", format!("{:?}", self.keep_alive), "at most 65535 seconds");
        }
        for (option, bytes) in [
            ("queue_bytes", self.queue_bytes),
            ("stream_bytes", self.stream_bytes),
            ("max_packet_bytes", self.max_packet_bytes),
        ] {
            if !(1 << 10..=1 << 30).contains(&bytes) {
                return bad(option, bytes.to_string(), "1024 (1 KiB) to 1073741824 (1 GiB)");
            }
        }
        for (option, time) in [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
            ("publish_timeout", self.publish_timeout),
            ("close_timeout", self.close_timeout),
        ] {
            if time.is_zero() {
                return bad(option, "0".to_owned(), "a time longer than 0");
            }
        }
        if self.authentication.is_some() && !self.version.has_properties() {
            return bad("version", "older than 5".to_owned(), "MQTT 5, which has authentication methods");
        }
        if let Some(will) = &self.will {
            will.message.check(self.version).map_err(|error| ConnectError::Will(Box::new(error)))?;
        }
        Ok(())
    }
}

impl Default for Options {
    fn default() -> Self {
        Self {
            servers: "mqtt://localhost".parse().into_iter().collect(),
            version: Version::V5,
            client_id: String::new(),
            clean_start: true,
            session_expiry: Duration::ZERO,
            user_name: None,
            password: None,
            authentication: None,
            will: None,
            keep_alive: Duration::from_secs(30),
            tls: TlsConfig::default(),
            rustls: None,
            websocket_headers: Vec::new(),
            topics: TopicDefaults::default(),
            reconnect: Reconnect::default(),
            queue_bytes: 8 << 20,
            when_full: WhenFull::default(),
            receive_maximum: 128,
            stream_bytes: 8 << 20,
            max_packet_bytes: 4 << 20,
            topic_alias_maximum: 32,
            user_properties: Vec::new(),
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            publish_timeout: Duration::from_secs(300),
            close_timeout: Duration::from_secs(5),
        }
    }
}

/// Without user name and password.
impl fmt::Debug for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Options")
            .field("servers", &self.servers)
            .field("version", &self.version)
            .field("client_id", &self.client_id)
            .field("clean_start", &self.clean_start)
            .field("session_expiry", &self.session_expiry)
            .field("keep_alive", &self.keep_alive)
            .field("reconnect", &self.reconnect)
            .finish_non_exhaustive()
    }
}
