//! Raw settings to a checked [`Config`]: file, then environment, then every rule that can be
//! checked before anything is opened.
//!
//! Not here: reading the sources and typing single values (`jmqt-config`), the names of the keys (`keys`), opening
//! the files and ports that the values name. `docs/configuration.md` describes the keys for operators.

mod check;
mod host_name;
mod keys;
mod limits;
mod mysql;
mod network;
pub(crate) mod origin;
mod redis;
mod redis_options;
mod synchronous;

use std::ffi::OsString;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

pub use crate::tls::{ClientCertificates, SslConfig};
pub use host_name::{HostName, InvalidHostName};
use jmqt_config::Value;
pub use jmqt_config::{ConfigError, Origin, Settings};
pub use jmqt_log::{LogConfig, LogMode};
pub use limits::{PendingLimits, RetainedLimits};
pub use mysql::{MySqlConfig, MySqlTls};
pub use network::{InvalidNetwork, Network};
pub use origin::{AllowedOrigin, InvalidOrigin};
pub use redis_options::{RedisMode, RedisOptions};
pub use synchronous::Synchronous;

/// The upper limit of `max_packet_bytes`: 1 GiB.
const LARGEST_PACKET: usize = 1 << 30;
/// The largest outbound queue: 16 GiB, or the size of the address space.
const LARGEST_QUEUE: usize = if usize::BITS > 34 { 1 << 34 } else { usize::MAX };
/// The upper limit for all connections together: 1 TiB, or the size of the address space.
const LARGEST_TOTAL: usize = if usize::BITS > 40 { 1 << 40 } else { usize::MAX };
/// The upper limit of subscriptions per client.
const MOST_SUBSCRIPTIONS: usize = 10_000_000;
/// The default of MAX_CONNECTIONS.
pub(crate) const DEFAULT_MAX_CONNECTIONS: usize = 100_000;
const DAY: u64 = 86_400;

/// A checked configuration of a server.
///
/// [`Config::default`] is the shipped `server.conf`. Tests and embedding applications may change fields
/// afterwards. [`Config::check`] and the start of the server refuse invalid settings.
/// The ranges below are those of [`Config::load`]; in code, times may be shorter, and sizes smaller, for tests.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Config {
    /// The address that every listener binds. Default 127.0.0.1: only this machine can connect.
    pub bind_address: IpAddr,
    /// The port of the plain socket; 0 for any free port, `None` for no such listener. Default 8010.
    pub socket_port: Option<u16>,
    /// The port of the plain WebSocket; 0 for any free port, `None` for no such listener. Default 8012.
    pub websocket_port: Option<u16>,
    /// The port for MQTT over TCP, usually 1883; 0 for any free port. Default `None`: no such listener.
    pub mqtt_port: Option<u16>,
    /// The port for MQTT over WebSocket, usually 8083; 0 for any free port. Default `None`: no such listener.
    pub mqtt_websocket_port: Option<u16>,
    /// The ports for JMQT accept MQTT clients too: TCP clients by their first byte, WebSocket clients by their subprotocol.
    /// Default `false`.
    pub mqtt_on_jmqt_ports: bool,
    /// How often an MQTT client can receive what has changed below `$SYS`. 1 second to a day, `None` for no such topics,
    /// default 10 seconds.
    pub sys_interval: Option<Duration>,
    /// The address of the HTTP listener for operators: metrics, health checks, and the admin API. `None`, the default: no such
    /// listener. Needs the cargo feature `admin`.
    pub admin_address: Option<SocketAddr>,
    /// The file with the keys of operators (`jmqtd admin-key` makes it). `None`, the default: the listener for operators has
    /// no admin API, and needs no key for its metrics.
    pub admin_keys_file: Option<PathBuf>,
    /// Names by which the listener for operators is reached, in addition to IP addresses and `localhost`. Default empty.
    pub admin_hosts: Vec<HostName>,
    /// TLS, if it is enabled. Default `None`.
    pub ssl: Option<SslConfig>,
    /// How long a client may be silent (protocol.md 2.15). 5 seconds to a day, default 60 seconds.
    pub timeout: Duration,
    /// The database file. Default `jmqt.db`.
    pub sqlite_path: PathBuf,
    /// When a commit counts as done. Default [`Synchronous::Full`].
    pub sqlite_synchronous: Synchronous,
    /// The MySQL or MariaDB database that replaces the SQLite file. `None`, the default: the server uses SQLite. Without
    /// `redis`, only this server uses the database.
    pub mysql: Option<MySqlConfig>,
    /// The largest packet of a client that has a session, in bytes (protocol.md 2.5). 1 KiB to
    /// 1 GiB, default 4 MiB.
    pub max_packet_bytes: usize,
    /// The largest packet of a client without a session, in bytes (protocol.md 2.5). 1 KiB to `max_packet_bytes`,
    /// default 16 KiB.
    pub max_preconn_packet_bytes: usize,
    /// The most unacknowledged QoS 1 pushes of a client (protocol.md 2.14). 1 to 1024,
    /// default 128.
    pub max_inflight: u32,
    /// The most QoS 2 publishes of an MQTT client that it has not released, which MQTT 5 clients are told as the receive
    /// maximum. 1 to 65,535, default 128.
    pub mqtt_receive_maximum: u16,
    /// The most open connections, including those without a session. At least 1,
    /// default 100,000.
    pub max_connections: usize,
    /// The most open connections from one address. The /64 of an IPv6 address counts as one address. Loopback
    /// addresses have no limit. `None` for no limit, default 100.
    pub max_connections_per_address: Option<u32>,
    /// The most new connections per second from one address. `None` for no limit, default 50.
    pub max_connects_per_address_per_second: Option<u32>,
    /// The most takeovers per second of the sessions of one client, on one node, with bursts of five. Beyond that, the
    /// server answers `conn` with SERVER_ERROR and closes the connection. `None` for no limit, default 1.
    pub max_takeovers_per_second: Option<u32>,
    /// The most packets per second that one client may send, with bursts of a second. A client that sends more is read from more
    /// slowly, and disconnected if it would have to wait for more than ten seconds. `None` for no limit, the default.
    pub max_packets_per_second_per_client: Option<u32>,
    /// The most bytes per second that one client may send, by the same rule. `None` for no limit, the default.
    pub max_bytes_per_second_per_client: Option<u32>,
    /// The most bytes in the outbound queue of one client. At least twice `max_packet_bytes`, default
    /// 8 MiB.
    pub outbound_queue_bytes: usize,
    /// The most subscriptions of a client. Beyond that, the server answers `sub` with 7. Subscriptions that the
    /// application makes count, but are not limited. 1 to 10,000,000, default 10,000.
    pub max_subscriptions_per_client: usize,
    /// The most persistent subscriptions of a client. 0 to 10,000,000, default 1,000.
    pub max_persistent_subscriptions_per_client: usize,
    /// The most bytes in the outbound queues of all clients together. 0, the default, is a quarter of the memory of
    /// the machine or of its control group. Beyond that, no queue grows past 64 KiB, and a connection with more
    /// than 1 MiB in its queue is closed when the next message for it arrives.
    pub max_total_outbound_bytes: usize,
    /// The most bytes of incomplete packets of all sessions together. A connection whose packet exceeds this
    /// limit is closed. At least 1 MiB, default 256 MiB.
    pub max_total_partial_packet_bytes: usize,
    /// The same for connections without a session. At least 1 MiB, default 64 MiB.
    pub max_total_preconn_bytes: usize,
    /// How long a client may read almost nothing while data is queued for it, before its
    /// connection is closed. 1 second to a day, default 30 seconds.
    pub slow_consumer: Duration,
    /// How long a validator may take (protocol.md 2.17). 1 second to an hour, default 10 seconds.
    pub validator_timeout: Duration,
    /// How long a client may be absent before its persistent subscriptions are removed; `None` for no limit. Default
    /// 7 days.
    pub session_expiry: Option<Duration>,
    /// The most messages kept for one absent client. Beyond that, the server removes the oldest messages of the channel
    /// that has the most. `None` for no limit. Default 100,000.
    pub max_pending_per_client: Option<u64>,
    /// The most payload bytes kept for one absent client; `None` for no limit. Default 64 MiB.
    pub max_pending_bytes_per_client: Option<u64>,
    /// The most messages kept in the point-to-point channel of one absent client. At most a tenth of them come
    /// from one publisher. `None` for no limit. Default 1,000.
    pub max_pending_p2p_per_client: Option<u64>,
    /// The most channels with a retained message; `None` for no limit. Default 100,000.
    pub max_retained_messages: Option<u64>,
    /// The most payload bytes of all retained messages together; `None` for no limit. Default 256 MiB.
    pub max_retained_bytes: Option<u64>,
    /// The most channels whose retained message one client has set; `None` for no limit. Default 10,000.
    pub max_retained_per_client: Option<u64>,
    /// How long a stopping server continues to send queued messages. Up to an hour, default
    /// 5 seconds.
    pub drain: Duration,
    /// How the server reaches the other nodes of its cluster. `None`, the default: a single server. A cluster needs a
    /// database that all nodes share.
    pub redis: Option<RedisOptions>,
    /// `true`: a stopping server closes its sessions one by one, in even steps over `drain`, so that
    /// their clients do not connect to other nodes all at once. Each session is served until its turn, and then has
    /// `drain` to receive its queued messages. This is for nodes of a cluster: the clients of a single server have no
    /// other node, so it closes all sessions at once. ENABLE_REDIS sets this field. Default `false`.
    pub spread_drain: bool,
    /// Origins whose pages may connect to the WebSocket ports, in addition to the server's own host name. Default empty.
    pub allowed_origins: Vec<AllowedOrigin>,
    /// Networks of load balancers. A connection from one of them must begin with a PROXY protocol header,
    /// version 1 or 2, that names the client; or, on the plain WebSocket port, with an HTTP
    /// request whose `X-Forwarded-For` or `Forwarded` names the client. Default empty.
    pub trusted_proxies: Vec<Network>,
    /// The level and the destination of the log.
    pub log: LogConfig,
    /// Environment variables that begin with `JMQT_`, are not keys, and do not resemble keys: they belong to the
    /// application, or are mistakes. Sorted.
    pub unknown_variables: Vec<String>,
}

impl Config {
    /// Reads `path`, or the defaults if it is `None`. Environment variables override both.
    ///
    /// A key that the file omits has its default, except a port: the server does not open a listener that the file
    /// omits.
    ///
    /// # Errors
    /// [`ConfigError`] names, for each mistake, its place, the key, the value, and what was expected. Show it
    /// and stop, with an exit code that prevents a restart (see [`exit_code`](crate::exit_code)).
    pub fn load(path: Option<&Path>) -> Result<Self, ConfigError> {
        Self::load_with(path, std::env::vars_os())
    }

    /// [`Config::load`] with another environment: variables with their full names. Only variables
    /// that begin with `JMQT_` are used.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn load_with<N: Into<OsString>, V: Into<OsString>>(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, ConfigError> {
        Self::finished(Settings::load(keys::SERVER, path, owned(environment))?)
    }

    /// [`Config::load`] for a program that has keys of its own in the same file and, with the same prefix, in the environment. It asks
    /// them of the settings, and then calls [`Settings::finish`], which names the mistakes of both.
    ///
    /// ```
    /// use jmqt_server::{BoxError, Config};
    ///
    /// fn read(path: &std::path::Path) -> Result<(Config, u64), BoxError> {
    ///     let (config, settings) = Config::load_with_keys(Some(path), &["ROOMS"])?;
    ///     let rooms = settings.integer("ROOMS", 10, 1..=1000);
    ///     settings.finish()?;
    ///     Ok((config, rooms))
    /// }
    /// ```
    ///
    /// # Errors
    /// The file cannot be read, or is not made of `KEY = value` lines.
    pub fn load_with_keys(
        path: Option<&Path>,
        own: &'static [&'static str],
    ) -> Result<(Self, Settings), ConfigError> {
        let keys = jmqt_config::Keys { also: own, ..keys::SERVER };
        let settings = Settings::load(keys, path, std::env::vars_os())?;
        Ok((Self::from_settings(&settings), settings))
    }

    /// [`Config::load_with`] with the text of a file instead of its path.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_text<N: Into<OsString>, V: Into<OsString>>(
        text: &str,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self, ConfigError> {
        let source = (&Origin::Text { line: 0 }, text);
        Self::finished(Settings::read(keys::SERVER, Some(source), owned(environment))?)
    }

    fn finished(settings: Settings) -> Result<Self, ConfigError> {
        let config = Self::from_settings(&settings);
        Ok(Self { unknown_variables: settings.finish()?, ..config })
    }

    /// Notes mistakes in the settings.
    fn from_settings(settings: &Settings) -> Self {
        let redis = redis::redis(settings);
        let max_packet_bytes = settings.size("MAX_PACKET_BYTES", 4 << 20, 1024..=LARGEST_PACKET);
        let config = Self {
            bind_address: bind_address(settings),
            socket_port: port(settings, "SOCKET_PORT", 8010),
            websocket_port: port(settings, "WEBSOCKET_PORT", 8012),
            mqtt_port: optional_port(settings, "MQTT_PORT"),
            mqtt_websocket_port: optional_port(settings, "MQTT_WEBSOCKET_PORT"),
            mqtt_on_jmqt_ports: settings.switch("MQTT_ON_JMQT_PORTS", false),
            sys_interval: Some(settings.seconds("SYS_INTERVAL_SECONDS", 10, 0..=DAY))
                .filter(|interval| !interval.is_zero()),
            admin_address: admin_address(settings),
            admin_keys_file: settings.path("ADMIN_KEYS_FILE", ""),
            admin_hosts: settings
                .list("ADMIN_HOSTS", "host names without ports, such as \"jmqt-1.example.com\""),
            ssl: ssl(settings),
            timeout: settings.seconds("TIMEOUT_SECONDS", 60, 5..=DAY),
            sqlite_path: sqlite_path(settings),
            sqlite_synchronous: settings.choice(
                "SQLITE_SYNCHRONOUS",
                Synchronous::Full,
                &[("FULL", Synchronous::Full), ("NORMAL", Synchronous::Normal)],
            ),
            mysql: mysql::mysql(settings),
            max_packet_bytes,
            max_preconn_packet_bytes: max_preconn_packet_bytes(settings, max_packet_bytes),
            max_inflight: u32::try_from(settings.integer("MAX_INFLIGHT", 128, 1..=1024))
                .expect("1024 at most"),
            mqtt_receive_maximum: u16::try_from(settings.integer("MQTT_RECEIVE_MAXIMUM", 128, 1..=65_535))
                .expect("65,535 at most"),
            max_connections: settings.size("MAX_CONNECTIONS", DEFAULT_MAX_CONNECTIONS, 1..=10_000_000),
            max_connections_per_address: limit(settings, "MAX_CONNECTIONS_PER_ADDRESS", 100),
            max_connects_per_address_per_second: limit(settings, "MAX_CONNECTS_PER_ADDRESS_PER_SECOND", 50),
            max_takeovers_per_second: limit(settings, "MAX_TAKEOVERS_PER_SECOND", 1),
            max_packets_per_second_per_client: limit(settings, "MAX_PACKETS_PER_SECOND_PER_CLIENT", 0),
            max_bytes_per_second_per_client: Some(settings.integer(
                "MAX_BYTES_PER_SECOND_PER_CLIENT",
                0,
                0..=u64::from(u32::MAX),
            ))
            .and_then(|bytes| u32::try_from(bytes).ok())
            .filter(|bytes| *bytes > 0),
            outbound_queue_bytes: outbound_queue_bytes(settings, max_packet_bytes),
            max_subscriptions_per_client: settings.size(
                "MAX_SUBSCRIPTIONS_PER_CLIENT",
                10_000,
                1..=MOST_SUBSCRIPTIONS,
            ),
            max_persistent_subscriptions_per_client: settings.size(
                "MAX_PERSISTENT_SUBSCRIPTIONS_PER_CLIENT",
                1000,
                0..=MOST_SUBSCRIPTIONS,
            ),
            max_total_outbound_bytes: settings.size("MAX_TOTAL_OUTBOUND_BYTES", 0, 0..=LARGEST_TOTAL),
            max_total_partial_packet_bytes: settings.size(
                "MAX_TOTAL_PARTIAL_PACKET_BYTES",
                256 << 20,
                1 << 20..=LARGEST_TOTAL,
            ),
            max_total_preconn_bytes: settings.size(
                "MAX_TOTAL_PRECONN_BYTES",
                64 << 20,
                1 << 20..=LARGEST_TOTAL,
            ),
            slow_consumer: settings.seconds("SLOW_CONSUMER_SECONDS", 30, 1..=DAY),
            validator_timeout: settings.seconds("VALIDATOR_TIMEOUT_SECONDS", 10, 1..=3600),
            session_expiry: Some(settings.seconds("SESSION_EXPIRY_SECONDS", 7 * DAY, 0..=3650 * DAY))
                .filter(|expiry| !expiry.is_zero()),
            max_pending_per_client: Some(settings.integer(
                "MAX_PENDING_PER_CLIENT",
                100_000,
                0..=1_000_000_000_000,
            ))
            .filter(|limit| *limit > 0),
            max_pending_bytes_per_client: Some(settings.integer(
                "MAX_PENDING_BYTES_PER_CLIENT",
                64 << 20,
                0..=1_000_000_000_000,
            ))
            .filter(|limit| *limit > 0),
            max_pending_p2p_per_client: Some(settings.integer(
                "MAX_PENDING_P2P_PER_CLIENT",
                1000,
                0..=1_000_000_000,
            ))
            .filter(|limit| *limit > 0),
            max_retained_messages: Some(settings.integer(
                "MAX_RETAINED_MESSAGES",
                100_000,
                0..=1_000_000_000_000,
            ))
            .filter(|limit| *limit > 0),
            max_retained_bytes: Some(settings.integer(
                "MAX_RETAINED_BYTES",
                256 << 20,
                0..=1_000_000_000_000_000,
            ))
            .filter(|limit| *limit > 0),
            max_retained_per_client: Some(settings.integer(
                "MAX_RETAINED_PER_CLIENT",
                10_000,
                0..=1_000_000_000_000,
            ))
            .filter(|limit| *limit > 0),
            drain: settings.seconds("DRAIN_SECONDS", 5, 0..=3600),
            spread_drain: redis.is_some(),
            redis,
            allowed_origins: settings.list(
                "ALLOWED_ORIGINS",
                "\"*\", or origins, such as \"https://example.com, http://localhost:3000\"",
            ),
            trusted_proxies: settings
                .list("TRUSTED_PROXIES", "addresses and networks, such as \"10.0.0.0/8, 127.0.0.1, ::1\""),
            log: log(settings),
            unknown_variables: Vec::new(),
        };
        config.check_listeners(settings);
        config
    }

    /// The limits for one absent client; `None` if nothing is limited.
    pub(crate) fn pending_limits(&self) -> Option<PendingLimits> {
        let limits =
            [self.max_pending_per_client, self.max_pending_bytes_per_client, self.max_pending_p2p_per_client];
        let [messages, bytes, own_messages] = limits.map(|limit| limit.unwrap_or(u64::MAX));
        limits.iter().any(Option::is_some).then_some(PendingLimits { messages, bytes, own_messages })
    }

    /// The limits of retained messages.
    pub(crate) fn retained_limits(&self) -> RetainedLimits {
        RetainedLimits {
            messages: self.max_retained_messages,
            bytes: self.max_retained_bytes,
            messages_per_client: self.max_retained_per_client,
        }
    }

    /// The ports of all configured listeners, each with its key.
    fn listeners(&self) -> impl Iterator<Item = (&'static str, u16)> {
        let ssl = self.ssl.as_ref();
        let listeners = [
            ("SOCKET_PORT", self.socket_port),
            ("WEBSOCKET_PORT", self.websocket_port),
            ("MQTT_PORT", self.mqtt_port),
            ("MQTT_WEBSOCKET_PORT", self.mqtt_websocket_port),
            ("SSL_SOCKET_PORT", ssl.and_then(|ssl| ssl.socket_port)),
            ("SSL_WEBSOCKET_PORT", ssl.and_then(|ssl| ssl.websocket_port)),
            ("SSL_MQTT_PORT", ssl.and_then(|ssl| ssl.mqtt_port)),
            ("SSL_MQTT_WEBSOCKET_PORT", ssl.and_then(|ssl| ssl.mqtt_websocket_port)),
        ];
        listeners.into_iter().filter_map(|(key, port)| Some((key, port?)))
    }

    /// Checks that at least one listener is configured, and that no two have the same port.
    fn check_listeners(&self, settings: &Settings) {
        let mut taken: Vec<(&str, u16)> = Vec::new();
        for (key, port) in self.listeners() {
            if let Some((other, _)) = taken.iter().find(|(_, other)| *other == port && port != 0) {
                settings.note(settings.contradiction(key, port, format!("{other} has the same port")));
            }
            taken.push((key, port));
        }
        if taken.is_empty() {
            settings.note(no_listener());
        }
    }
}

/// The shipped `server.conf`.
impl Default for Config {
    fn default() -> Self {
        Self::finished(Settings::new(keys::SERVER)).expect("the defaults are within their own ranges")
    }
}

fn owned<N: Into<OsString>, V: Into<OsString>>(
    environment: impl IntoIterator<Item = (N, V)>,
) -> impl Iterator<Item = (OsString, OsString)> {
    environment.into_iter().map(|(name, value)| (name.into(), value.into()))
}

/// The error for a configuration without listeners.
fn no_listener() -> ConfigError {
    ConfigError::Incomplete {
        problem: "no listener is configured: set SOCKET_PORT, WEBSOCKET_PORT, MQTT_PORT or MQTT_WEBSOCKET_PORT, \
            or ENABLE_SSL = true with one of the same ports that begin with SSL_",
    }
}

/// A port; 0 for any free port. `None` if a file omits the key, or if the value is empty.
fn port(settings: &Settings, key: &'static str, default: u16) -> Option<u16> {
    const EXPECTED: &str = "a port from 0 to 65535 (0: any free one; empty or left out: no such listener)";
    if settings.is_empty(key) {
        let is_default = settings.get(key).is_none() && !settings.has_file();
        return is_default.then_some(default);
    }
    let number = |value: &Value| value.as_integer().and_then(|number| u16::try_from(number).ok());
    // Instead of an invalid value: a port that does not collide with another.
    Some(settings.value(key, 0, number, || EXPECTED.to_owned()))
}

/// A port of a listener that exists only if the key has a value.
fn optional_port(settings: &Settings, key: &'static str) -> Option<u16> {
    if settings.is_empty(key) { None } else { port(settings, key, 0) }
}

fn bind_address(settings: &Settings) -> IpAddr {
    const DEFAULT: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let text = settings.text("BIND_ADDRESS", "127.0.0.1");
    text.trim().parse().unwrap_or_else(|_| {
        let expected = "an IP address, such as \"0.0.0.0\", \"127.0.0.1\" or \"::\"";
        settings.note(settings.bad_value("BIND_ADDRESS", expected));
        DEFAULT
    })
}

/// The address of the listener for operators. A port alone is on a loopback address.
fn admin_address(settings: &Settings) -> Option<SocketAddr> {
    const EXPECTED: &str = "a port, which only this machine can connect to, or an IP address and a port, such as \"127.0.0.1:9090\" or \"[::1]:9090\"";
    if settings.is_empty("ADMIN_ADDRESS") {
        return None;
    }
    let parse = |value: &Value| {
        let port = value.as_integer().and_then(|port| u16::try_from(port).ok());
        let address = || value.as_text()?.trim().parse().ok();
        port.map(|port| SocketAddr::from((Ipv4Addr::LOCALHOST, port))).or_else(address)
    };
    settings.value("ADMIN_ADDRESS", None, |value| parse(value).map(Some), || EXPECTED.to_owned())
}

/// The values of SSL_CLIENT_CERT.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ClientCert {
    None,
    Optional,
    Required,
}

fn ssl(settings: &Settings) -> Option<SslConfig> {
    // All keys are read even if TLS is disabled, so that every wrong value is reported.
    let cert_path = settings.path("SSL_CERT_PATH", "");
    let key_path = settings.path("SSL_KEY_PATH", "");
    let client_ca_path = settings.path("SSL_CLIENT_CA_PATH", "");
    let client_cert = settings.choice(
        "SSL_CLIENT_CERT",
        ClientCert::None,
        &[("NONE", ClientCert::None), ("OPTIONAL", ClientCert::Optional), ("REQUIRED", ClientCert::Required)],
    );
    let socket_port = port(settings, "SSL_SOCKET_PORT", 8011);
    let websocket_port = port(settings, "SSL_WEBSOCKET_PORT", 8013);
    let mqtt_port = optional_port(settings, "SSL_MQTT_PORT");
    let mqtt_websocket_port = optional_port(settings, "SSL_MQTT_WEBSOCKET_PORT");
    if !settings.switch("ENABLE_SSL", false) {
        // These have no value unless somebody means it; the other ports are in the shipped file.
        for (key, port) in [("SSL_MQTT_PORT", mqtt_port), ("SSL_MQTT_WEBSOCKET_PORT", mqtt_websocket_port)] {
            if let Some(port) = port {
                settings.note(settings.contradiction(key, port, "it requires ENABLE_SSL = true"));
            }
        }
        if client_cert != ClientCert::None {
            let value = if client_cert == ClientCert::Required { "REQUIRED" } else { "OPTIONAL" };
            settings.note(settings.contradiction("SSL_CLIENT_CERT", value, "it requires ENABLE_SSL = true"));
        }
        return None;
    }
    if [socket_port, websocket_port, mqtt_port, mqtt_websocket_port].iter().all(Option::is_none) {
        let problem =
            "it requires SSL_SOCKET_PORT, SSL_WEBSOCKET_PORT, SSL_MQTT_PORT or SSL_MQTT_WEBSOCKET_PORT";
        settings.note(settings.contradiction("ENABLE_SSL", true, problem));
    }
    for (key, path) in [("SSL_CERT_PATH", &cert_path), ("SSL_KEY_PATH", &key_path)] {
        if path.is_none() && settings.is_empty(key) {
            settings.note(ConfigError::Missing { key, because: "ENABLE_SSL is true" });
        }
    }
    if client_cert != ClientCert::None && client_ca_path.is_none() && settings.is_empty("SSL_CLIENT_CA_PATH")
    {
        let because = "SSL_CLIENT_CERT is not NONE";
        settings.note(ConfigError::Missing { key: "SSL_CLIENT_CA_PATH", because });
    }
    let ca_path = client_ca_path.unwrap_or_default();
    Some(SslConfig {
        client_certificates: match client_cert {
            ClientCert::None => ClientCertificates::None,
            ClientCert::Optional => ClientCertificates::Optional { ca_path },
            ClientCert::Required => ClientCertificates::Required { ca_path },
        },
        cert_path: cert_path.unwrap_or_default(),
        key_path: key_path.unwrap_or_default(),
        socket_port,
        websocket_port,
        mqtt_port,
        mqtt_websocket_port,
    })
}

fn sqlite_path(settings: &Settings) -> PathBuf {
    let path = settings.path("SQLITE_PATH", "jmqt.db");
    if path.is_none() && settings.is_empty("SQLITE_PATH") {
        settings.note(settings.bad_value("SQLITE_PATH", "the path of a file"));
    }
    path.unwrap_or_default()
}

/// A limit for one address or client; 0 means no limit.
fn limit(settings: &Settings, key: &'static str, default: u64) -> Option<u32> {
    let limit = settings.integer(key, default, 0..=10_000_000);
    u32::try_from(limit).ok().filter(|limit| *limit > 0)
}

/// The configured value, or the default, but not more than `max_packet_bytes`.
fn max_preconn_packet_bytes(settings: &Settings, max_packet_bytes: usize) -> usize {
    let default = max_packet_bytes.min(16 << 10);
    let bytes = settings.size("MAX_PRECONN_PACKET_BYTES", default, 1024..=LARGEST_PACKET);
    if bytes > max_packet_bytes {
        let problem = format!("it must not exceed MAX_PACKET_BYTES, which is {max_packet_bytes}");
        settings.note(settings.contradiction("MAX_PRECONN_PACKET_BYTES", bytes, problem));
    }
    bytes
}

/// The configured value, or the default, but not less than two packets.
fn outbound_queue_bytes(settings: &Settings, max_packet_bytes: usize) -> usize {
    let least = max_packet_bytes * 2;
    let bytes = settings.size("OUTBOUND_QUEUE_BYTES", least.max(8 << 20), 1..=LARGEST_QUEUE);
    if bytes < least {
        let problem = format!("it must be at least twice MAX_PACKET_BYTES, which makes {least}");
        settings.note(settings.contradiction("OUTBOUND_QUEUE_BYTES", bytes, problem));
    }
    bytes
}

fn log(settings: &Settings) -> LogConfig {
    let modes = [
        ("TRC", LogMode::Trace),
        ("DBG", LogMode::Debug),
        ("INF", LogMode::Info),
        ("WRN", LogMode::Warning),
        ("ERR", LogMode::Error),
        ("DISABLED", LogMode::Disabled),
    ];
    let path = settings.path("LOG_PATH", "");
    LogConfig::new(settings.choice("LOG_MODE", LogMode::Info, &modes), path)
}

#[cfg(test)]
mod tests;
