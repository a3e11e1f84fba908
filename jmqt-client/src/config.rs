//! What a client needs to know before it starts.

pub(crate) mod file;

use std::error::Error;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jmqt_protocol::{AuthToken, ClientId, InvalidPayload, Payload, PayloadBuf};

pub use jmqt_config::{ConfigError, Origin};

use tokio_rustls::rustls::ClientConfig;

use crate::trace::{Direction, PacketTrace};
use crate::{ConnectError, Endpoint, Header, InvalidUrl};

/// A client's configuration; [`Config::default`] is the shipped `client.conf`.
///
/// ```
/// use jmqt_client::Config;
///
/// let mut config = Config::url("jmqt://localhost")?.auth(r#"{"client_name":"alice"}"#)?;
/// config.window = 64;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct Config {
    /// Where the server is, or its nodes are: at least one. The client begins with one at random, and goes on to the next
    /// whenever a connection fails or is lost. Default `jmqt://localhost:8010`.
    pub endpoints: Vec<Endpoint>,
    /// What `auth` asks for a token with: any JSON, as the application behind the server wants it (§7.a).
    /// Without it, and without a token, `{}` is sent.
    pub auth_data: Option<Secret>,
    /// A token and the client that it belongs to: no `auth` is sent as long as the token is accepted (§10).
    pub token: Option<(ClientId, AuthToken)>,
    /// Where credentials come from for each new connection, instead of the two above
    /// ([`Config::credentials`]).
    pub(crate) source: Option<CredentialSource>,
    /// How TLS is done, where the endpoint asks for it.
    pub tls: TlsConfig,
    /// In place of `tls`, but for its `server_name` ([`Config::rustls`]).
    pub(crate) rustls: Option<Arc<ClientConfig>>,
    /// Headers of the request that opens a WebSocket, such as cookies. Default: none.
    pub websocket_headers: Vec<Header>,
    /// Sees every packet ([`Config::trace`]).
    pub(crate) trace: Option<PacketTrace>,
    /// What happens when a connection is lost. Default [`Reconnect::default`].
    pub reconnect: Reconnect,
    /// How many bytes of publishes may wait, those without an acknowledgement included. An empty queue takes one
    /// message of any size. 1 KiB to 1 GiB, default 8 MiB.
    pub queue_bytes: usize,
    /// What happens to a publish when the queue is full. Default [`WhenFull::Wait`].
    pub when_full: WhenFull,
    /// How many unacknowledged QoS 1 pushes the server may send (`wn`, protocol.md 2.9). 1 to 1024, default 128.
    pub window: u32,
    /// How many bytes of pushes may wait in one stream. 1 KiB to 1 GiB, default 8 MiB.
    pub stream_bytes: usize,
    /// The largest packet, both ways, in bytes. 1 KiB to 1 GiB, default 4 MiB.
    pub max_packet_bytes: usize,
    /// How long a connection may take to be made, its session included. Default 10 seconds.
    pub connect_timeout: Duration,
    /// How long a subscription or a control request waits for its answer, and for a connection. Default 30 seconds.
    pub request_timeout: Duration,
    /// How long a QoS 1 publish that was sent waits for its acknowledgement on that connection, and any publish for room
    /// in the queue. Waiting for a connection does not count. Default 5 minutes.
    pub publish_timeout: Duration,
    /// How long [`Client::close`](crate::Client::close) goes on sending what is queued. Default 5 seconds.
    pub close_timeout: Duration,
    /// What the sample programs log, and where to; for [`logging::init`](crate::logging::init).
    #[cfg(feature = "logging")]
    pub log: jmqt_log::LogConfig,
}

/// JSON text that is shown nowhere: its `Debug` is blank.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(PayloadBuf);

impl Secret {
    /// Checks that `json` is one JSON value.
    ///
    /// # Errors
    /// [`InvalidPayload`] if it is not, or nested deeper than 128.
    pub fn parse(json: &str) -> Result<Self, InvalidPayload> {
        Ok(Self(Payload::parse(json)?.into()))
    }

    pub(crate) fn reveal(&self) -> Payload<'_> {
        self.0.as_payload()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// How TLS is done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct TlsConfig {
    /// PEM file of the CAs to trust. Default: those that the operating system trusts.
    pub ca_path: Option<PathBuf>,
    /// The CAs to trust, as the text of a PEM file, instead of `ca_path`.
    pub ca_pem: Option<String>,
    /// PEM file of a client certificate, with those between it and its CA. Default: none is shown.
    pub cert_path: Option<PathBuf>,
    /// PEM file of the client certificate's private key.
    pub key_path: Option<PathBuf>,
    /// The name the server's certificate must be made for, where that is not the endpoint's host.
    pub server_name: Option<String>,
    /// Takes any certificate for the server's: anybody on the way can then read and change everything, tokens included.
    /// For a look at a test server, never for more; each connection logs a warning. Default `false`.
    pub accept_any_certificate: bool,
}

/// What happens when a connection is lost, or cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reconnect {
    /// Nothing: the client is closed.
    Off,
    /// A new one is tried after a time that doubles with every failure.
    Backoff {
        /// The longest wait before the first attempt.
        first: Duration,
        /// What the wait grows to.
        most: Duration,
        /// Whether each wait is a random part of that time, so that the clients of a server that starts again do
        /// not all come at once.
        jitter: bool,
    },
}

impl Reconnect {
    /// Tries again after this time, always the same.
    #[must_use]
    pub const fn every(time: Duration) -> Self {
        Self::Backoff { first: time, most: time, jitter: false }
    }
}

impl Default for Reconnect {
    /// Within half a second at first, within 30 seconds in the end, at random.
    fn default() -> Self {
        Self::Backoff { first: Duration::from_millis(500), most: Duration::from_secs(30), jitter: true }
    }
}

/// What happens to a publish that finds the queue full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum WhenFull {
    /// It waits for room, up to `publish_timeout`.
    #[default]
    Wait,
    /// The oldest message that has not been sent makes room: QoS 0 first, which is counted, then QoS 1, whose
    /// publisher is told.
    DropOldest,
    /// It fails with [`Error::QueueFull`](crate::Error::QueueFull).
    Error,
}

/// What a client opens a session with.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum Credentials {
    /// `auth` asks for a token with this (§7.a).
    Auth(Secret),
    /// A token, and the client that it belongs to (§10).
    Token(ClientId, AuthToken),
}

type Asked = Pin<Box<dyn Future<Output = Result<Credentials, Arc<dyn Error + Send + Sync>>> + Send>>;

/// The application's function for credentials.
#[derive(Clone)]
pub(crate) struct CredentialSource(Arc<dyn Fn() -> Asked + Send + Sync>);

impl CredentialSource {
    pub(crate) fn ask(&self) -> Asked {
        (self.0)()
    }
}

impl std::fmt::Debug for CredentialSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CredentialSource(..)")
    }
}

/// The URL of a server, and the defaults.
impl TryFrom<&str> for Config {
    type Error = InvalidUrl;

    fn try_from(url: &str) -> Result<Self, InvalidUrl> {
        Self::url(url)
    }
}

impl Config {
    /// A configuration for the server at this URL, or for the nodes at several, with commas in between.
    ///
    /// ```
    /// use jmqt_client::Config;
    ///
    /// let config = Config::url("jmqts://a.example.com, jmqts://b.example.com")?;
    /// assert_eq!(config.endpoints.len(), 2);
    /// # Ok::<(), jmqt_client::InvalidUrl>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidUrl`] says what is wrong with it.
    pub fn url(url: &str) -> Result<Self, InvalidUrl> {
        Ok(Self { endpoints: Endpoint::list(url)?, ..Self::default() })
    }

    /// Asks this function for credentials before each connection, so that they can be fetched or refreshed. It has
    /// `connect_timeout`; if it fails, the client tries again as after a lost connection.
    ///
    /// ```
    /// use jmqt_client::{Config, Credentials, Secret};
    ///
    /// # async fn fetch() -> Result<String, std::io::Error> { Ok("{}".to_owned()) }
    /// let config = Config::url("jmqt://localhost")?
    ///     .credentials(|| async { Ok(Credentials::Auth(Secret::parse(&fetch().await?)?)) });
    /// # Ok::<(), jmqt_client::InvalidUrl>(())
    /// ```
    #[must_use]
    pub fn credentials<F>(mut self, ask: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<Credentials, Box<dyn Error + Send + Sync>>> + Send + 'static,
    {
        let asked = move || {
            let answer = ask();
            Box::pin(async move { answer.await.map_err(Arc::from) }) as Asked
        };
        self.source = Some(CredentialSource(Arc::new(asked)));
        self
    }

    /// Forgets auth data, token, and the function for [credentials](Self::credentials).
    #[must_use]
    pub fn without_credentials(mut self) -> Self {
        (self.auth_data, self.token, self.source) = (None, None, None);
        self
    }

    /// Whether there is a function for [credentials](Self::credentials), or a [token file](Self::token_file).
    #[must_use]
    pub const fn has_credentials(&self) -> bool {
        self.source.is_some()
    }

    /// Trusts the CAs in this PEM text instead of those of the operating system.
    #[must_use]
    pub fn tls_ca_pem(mut self, pem: impl Into<String>) -> Self {
        self.tls.ca_pem = Some(pem.into());
        self
    }

    /// Does TLS with this configuration of rustls instead of [`Config::tls`], of which `server_name` alone still counts: for
    /// client certificates and keys that are in memory or in a module of their own, other verifiers, other providers.
    /// [`jmqt_client::rustls`](crate::rustls) is the version to make it with.
    #[must_use]
    pub fn rustls(mut self, config: Arc<ClientConfig>) -> Self {
        self.rustls = Some(config);
        self
    }

    /// Calls this function with every packet that is sent or received, on the client's task: it must not block. Auth data
    /// and tokens are replaced by `(hidden)`; the data of messages is not.
    ///
    /// ```
    /// use jmqt_client::{Config, Direction};
    ///
    /// let config = Config::url("jmqt://localhost")?.trace(|direction, packet| match direction {
    ///     Direction::Sent => eprintln!("> {packet}"),
    ///     Direction::Received => eprintln!("< {packet}"),
    /// });
    /// # Ok::<(), jmqt_client::InvalidUrl>(())
    /// ```
    #[must_use]
    pub fn trace(mut self, look: impl Fn(Direction, &str) + Send + Sync + 'static) -> Self {
        self.trace = Some(PacketTrace::new(look));
        self
    }

    /// Connects as this client with the token in this file, which is read for each connection, so that another program can
    /// keep it fresh. White space around the token is left out.
    #[must_use]
    pub fn token_file(self, client: ClientId, path: impl Into<PathBuf>) -> Self {
        let path: Arc<Path> = path.into().into();
        self.credentials(move || {
            let (client, path) = (client.clone(), Arc::clone(&path));
            async move {
                let unusable = |problem: &dyn std::fmt::Display| format!("{}: {problem}", path.display());
                let text = tokio::fs::read_to_string(&path).await.map_err(|error| unusable(&error))?;
                match text.trim() {
                    "" => Err(unusable(&"there is no token in it").into()),
                    token => Ok(Credentials::Token(client, AuthToken::new(token))),
                }
            }
        })
    }

    /// Authenticates with this JSON (§7.a).
    ///
    /// # Errors
    /// [`InvalidPayload`] if it is not one JSON value.
    pub fn auth(mut self, data: &str) -> Result<Self, InvalidPayload> {
        self.auth_data = Some(Secret::parse(data)?);
        Ok(self)
    }

    /// Connects with a token that is known already (§10).
    #[must_use]
    pub fn token(mut self, client: ClientId, token: AuthToken) -> Self {
        self.token = Some((client, token));
        self
    }

    /// Whether every value is in its range.
    pub(crate) fn check(&self) -> Result<(), ConnectError> {
        const BYTES: RangeInclusive<usize> = 1 << 10..=1 << 30;
        let bad = |field, found: String, expected| Err(ConnectError::Config { field, found, expected });
        if self.endpoints.is_empty() {
            return bad("endpoints", "empty".to_owned(), "at least one server");
        }
        if !(1..=1024).contains(&self.window) {
            return bad("window", self.window.to_string(), "1 to 1024");
        }
        for (field, bytes) in [
            ("queue_bytes", self.queue_bytes),
            ("stream_bytes", self.stream_bytes),
            ("max_packet_bytes", self.max_packet_bytes),
        ] {
            if !BYTES.contains(&bytes) {
                return bad(field, bytes.to_string(), "1024 (1 KiB) to 1073741824 (1 GiB)");
            }
        }
        for (field, time) in [
            ("connect_timeout", self.connect_timeout),
            ("request_timeout", self.request_timeout),
            ("publish_timeout", self.publish_timeout),
            ("close_timeout", self.close_timeout),
        ] {
            if time.is_zero() {
                return bad(field, "0".to_owned(), "a time longer than 0");
            }
        }
        Ok(())
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            endpoints: vec![Endpoint::new(crate::Protocol::Socket, "localhost")],
            auth_data: None,
            token: None,
            source: None,
            tls: TlsConfig::default(),
            rustls: None,
            websocket_headers: Vec::new(),
            trace: None,
            reconnect: Reconnect::default(),
            queue_bytes: 8 << 20,
            when_full: WhenFull::default(),
            window: 128,
            stream_bytes: 8 << 20,
            max_packet_bytes: 4 << 20,
            connect_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(30),
            publish_timeout: Duration::from_secs(300),
            close_timeout: Duration::from_secs(5),
            #[cfg(feature = "logging")]
            log: jmqt_log::LogConfig::new(jmqt_log::LogMode::Info, None),
        }
    }
}

/// Tokens and auth data are blank.
impl std::fmt::Debug for Config {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Config")
            .field("endpoints", &self.endpoints.iter().map(ToString::to_string).collect::<Vec<_>>())
            .field("auth_data", &self.auth_data)
            .field("token", &self.token)
            .field("source", &self.source)
            .field("tls", &self.tls)
            .field("rustls", &self.rustls.as_ref().map(|_| ".."))
            .field("websocket_headers", &self.websocket_headers)
            .field("trace", &self.trace)
            .field("reconnect", &self.reconnect)
            .field("queue_bytes", &self.queue_bytes)
            .field("when_full", &self.when_full)
            .field("window", &self.window)
            .field("stream_bytes", &self.stream_bytes)
            .field("max_packet_bytes", &self.max_packet_bytes)
            .field("connect_timeout", &self.connect_timeout)
            .field("request_timeout", &self.request_timeout)
            .field("publish_timeout", &self.publish_timeout)
            .field("close_timeout", &self.close_timeout)
            .finish()
    }
}
