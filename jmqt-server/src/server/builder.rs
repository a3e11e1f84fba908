//! Collects the validators, and starts a server with them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::signals::Signals;
use super::{Backend, Server};
use crate::admin::{AdminError, AdminListener};
#[cfg(feature = "mysql")]
use crate::config::MySqlConfig;
use crate::config::{Config, ConfigError};
use crate::connection::Protocol;
use crate::listener::{BoundSocket, Listener, raise_limit};
use crate::store::StoreError;
#[cfg(feature = "mysql")]
use crate::store::{MySqlOptions, MySqlStore};
#[cfg(feature = "sqlite")]
use crate::store::{SqliteOptions, SqliteStore};
use crate::tls::{Certificates, TlsError};
use crate::validators::{
    AllowAll, AuthValidator, BoxError, CloseNotifier, ConnValidator, ControlHandler, DenyAll,
    DisconnectNotifier, OpenNotifier, PubValidator, Silent, StoredNotifier, SubValidator, UnsubValidator,
    Validators,
};

/// An error at the start of a server.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Some of the four required validators are missing.
    #[error("the server needs these validators, which have no default: {}", .missing.join(", "))]
    MissingValidators {
        /// The traits of the missing validators.
        missing: Vec<&'static str>,
    },
    /// The configuration is invalid.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `Config::redis` is set, but `Config::mysql` is not.
    #[error("a node of a cluster needs the database that its nodes share: MySQL or MariaDB")]
    ClusterWithoutDatabase,
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The server cannot listen on an address.
    #[error("cannot listen on {address} ({key}): {source}{}", advice(source, *address))]
    Listen {
        /// The configuration key of the port.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The protocol.
        protocol: Protocol,
        /// The cause.
        source: io::Error,
    },
    /// A socket that was given to [`ServerBuilder::listener`] cannot be used.
    #[error("cannot use the socket that was given for {protocol}: {source}")]
    Socket {
        /// The protocol.
        protocol: Protocol,
        /// The cause.
        source: io::Error,
    },
    /// A socket was given for a TLS protocol, but the configuration has no certificate.
    #[error("a socket was given for {protocol}, but the configuration has no certificate: set `Config::ssl`")]
    NoCertificate {
        /// The protocol.
        protocol: Protocol,
    },
    /// The listener for operators cannot be started.
    #[error(transparent)]
    Admin(#[from] AdminError),
    /// Signal handlers cannot be installed.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// The operating system provides no random numbers.
    #[error("the system provides no random numbers: {0}")]
    Random(BoxError),
}

impl StartError {
    /// Returns `true` if the configuration is wrong or the database is damaged, so that another start would fail in the
    /// same
    /// way. A port in use, or a database that does not answer, may be available at the next start.
    #[must_use]
    pub fn is_mistake(&self) -> bool {
        match self {
            Self::MissingValidators { .. }
            | Self::Config(_)
            | Self::ClusterWithoutDatabase
            | Self::NoCertificate { .. }
            | Self::Tls(_) => true,
            Self::Admin(error) => error.is_mistake(),
            Self::Store(error) => error.is_lasting(),
            Self::Listen { source, .. } => source.kind() != io::ErrorKind::AddrInUse,
            Self::Socket { .. } | Self::Signals(_) | Self::Random(_) => false,
        }
    }
}

/// Advice for an address on which the server cannot listen.
fn advice(error: &io::Error, address: SocketAddr) -> String {
    let port = address.port();
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            format!(
                "; another program has this port (`ss -ltnp 'sport = :{port}'` shows which): stop it, or choose another port"
            )
        }
        io::ErrorKind::AddrNotAvailable => {
            "; this machine has no such address: correct BIND_ADDRESS".to_owned()
        }
        io::ErrorKind::PermissionDenied if port < 1024 => {
            "; ports below 1024 need a privilege (CAP_NET_BIND_SERVICE): choose a higher one".to_owned()
        }
        _ => String::new(),
    }
}

/// A function that reads the configuration again.
pub(super) type Reread = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Collects the validators, then starts the server.
///
/// Usually one type implements all traits, and [`app`](Self::app) takes it. Otherwise set the validators
/// one by one (`validate_auth`, `validate_conn`, `validate_sub`, `validate_pub`). These four are required, because no
/// default is safe for all applications. The others have defaults: every client may unsubscribe, control requests are
/// answered INVALID_CHANNEL, and no notifier is called.
#[must_use = "a builder does nothing until `start` is called"]
pub struct ServerBuilder {
    config: Config,
    auth: Option<Arc<dyn AuthValidator>>,
    conn: Option<Arc<dyn ConnValidator>>,
    sub: Option<Arc<dyn SubValidator>>,
    publish: Option<Arc<dyn PubValidator>>,
    unsub: Option<Arc<dyn UnsubValidator>>,
    control: Option<Arc<dyn ControlHandler>>,
    disconnect: Option<Arc<dyn DisconnectNotifier>>,
    close: Option<Arc<dyn CloseNotifier>>,
    open: Option<Arc<dyn OpenNotifier>>,
    stored: Option<Arc<dyn StoredNotifier>>,
    sockets: Vec<(Protocol, BoundSocket)>,
    catch_signals: bool,
    reread: Option<Reread>,
}

impl ServerBuilder {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            auth: None,
            conn: None,
            sub: None,
            publish: None,
            unsub: None,
            control: None,
            disconnect: None,
            close: None,
            open: None,
            stored: None,
            sockets: Vec::new(),
            catch_signals: false,
            reread: None,
        }
    }

    /// Sets one application for all eight traits: the usual way. An empty `impl` is enough for the traits that have
    /// defaults.
    ///
    /// The application may be an `Arc`; other parts of the program, and [`on_open`](Self::on_open) and
    /// [`on_stored`](Self::on_stored), can have clones.
    ///
    /// ```
    /// use jmqt_server::prelude::*;
    ///
    /// struct App { tokens: TokenIssuer }
    ///
    /// #[async_trait]
    /// impl AuthValidator for App {
    ///     async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
    ///         let name: String = request.json().unwrap_or_default();
    ///         match ClientId::parse(&name) {
    ///             Ok(client) => Ok(self.tokens.grant(client)?),
    ///             Err(error) => Ok(AuthVerdict::refuse(StatusCode::INVALID_PACKET, error.to_string())),
    ///         }
    ///     }
    /// }
    ///
    /// #[async_trait]
    /// impl ConnValidator for App {
    ///     async fn validate_conn(&self, request: &ConnRequest<'_>) -> Result<ConnVerdict, BoxError> {
    ///         self.tokens.validate_conn(request).await
    ///     }
    /// }
    ///
    /// #[async_trait]
    /// impl SubValidator for App {
    ///     async fn validate_sub(&self, _: &SubRequest<'_>) -> Result<Verdict, BoxError> {
    ///         Ok(Verdict::Allow)
    ///     }
    /// }
    ///
    /// #[async_trait]
    /// impl PubValidator for App {
    ///     async fn validate_pub(&self, _: &PubRequest<'_>) -> Result<PubVerdict, BoxError> {
    ///         Ok(PubVerdict::Allow)
    ///     }
    /// }
    ///
    /// impl UnsubValidator for App {}
    /// impl ControlHandler for App {}
    /// impl DisconnectNotifier for App {}
    /// impl CloseNotifier for App {}
    ///
    /// # fn build(config: Config) -> Result<jmqt_server::ServerBuilder, BoxError> {
    /// let app = App { tokens: TokenIssuer::from_config(&config)? };
    /// let builder = Server::builder(config).app(app);
    /// # Ok(builder)
    /// # }
    /// ```
    pub fn app<A>(self, app: A) -> Self
    where
        A: AuthValidator
            + ConnValidator
            + SubValidator
            + PubValidator
            + UnsubValidator
            + ControlHandler
            + DisconnectNotifier
            + CloseNotifier,
    {
        let app = Arc::new(app);
        Self {
            auth: Some(app.clone()),
            conn: Some(app.clone()),
            sub: Some(app.clone()),
            publish: Some(app.clone()),
            unsub: Some(app.clone()),
            control: Some(app.clone()),
            disconnect: Some(app.clone()),
            close: Some(app),
            ..self
        }
    }

    /// Sets the validator that is asked for each `auth`.
    pub fn validate_auth(mut self, validator: impl AuthValidator) -> Self {
        self.auth = Some(Arc::new(validator));
        self
    }

    /// Sets the validator that is asked for each `conn`.
    pub fn validate_conn(mut self, validator: impl ConnValidator) -> Self {
        self.conn = Some(Arc::new(validator));
        self
    }

    /// Sets the validator that is asked for each `sub`.
    pub fn validate_sub(mut self, validator: impl SubValidator) -> Self {
        self.sub = Some(Arc::new(validator));
        self
    }

    /// Sets the validator that is asked for each `pub`.
    pub fn validate_pub(mut self, validator: impl PubValidator) -> Self {
        self.publish = Some(Arc::new(validator));
        self
    }

    /// Sets the validator that is asked for each `unsub`. Without it every client may unsubscribe.
    pub fn validate_unsub(mut self, validator: impl UnsubValidator) -> Self {
        self.unsub = Some(Arc::new(validator));
        self
    }

    /// Sets the handler that answers control requests. Without it they are answered INVALID_CHANNEL.
    pub fn handle_control(mut self, handler: impl ControlHandler) -> Self {
        self.control = Some(Arc::new(handler));
        self
    }

    /// Sets the notifier that is called for each `disconn` of a client. Without it nothing is called.
    pub fn on_disconnect(mut self, notifier: impl DisconnectNotifier) -> Self {
        self.disconnect = Some(Arc::new(notifier));
        self
    }

    /// Sets the notifier that is called at the end of every session. Without it nothing is called.
    pub fn on_close(mut self, notifier: impl CloseNotifier) -> Self {
        self.close = Some(Arc::new(notifier));
        self
    }

    /// Sets the notifier that is called when a session has begun. Without it nothing is called.
    pub fn on_open(mut self, notifier: impl OpenNotifier) -> Self {
        self.open = Some(Arc::new(notifier));
        self
    }

    /// Sets the notifier that is called for each QoS 1 message after its commit. Without it nothing is called, and
    /// publishing costs nothing more.
    pub fn on_stored(mut self, notifier: impl StoredNotifier) -> Self {
        self.stored = Some(Arc::new(notifier));
        self
    }

    /// Serves on a bound socket instead of the configured port of this protocol: a socket
    /// that a test has bound, or that systemd has passed (socket activation). Several sockets may serve one protocol.
    /// For a TLS protocol the configuration must have a certificate ([`Config::ssl`]).
    ///
    /// A node of a cluster that has lost its database closes its ports for a while. It leaves such a socket open.
    ///
    /// ```
    /// use jmqt_server::prelude::*;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), BoxError> {
    /// # let folder = tempfile::tempdir()?;
    /// # let mut config = Config::default();
    /// # config.sqlite_path = folder.path().join("jmqt.db");
    /// # config.websocket_port = None;
    /// let socket = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    /// let address = socket.local_addr()?;
    /// let builder = Server::builder(config).listener(Protocol::Socket, socket);
    /// # let builder = builder.validate_auth(DenyAll).validate_conn(DenyAll).validate_sub(DenyAll).validate_pub(DenyAll);
    /// let server = builder.start().await?;
    /// assert_eq!(server.local_addr(Protocol::Socket), Some(address));
    /// # server.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn listener(mut self, protocol: Protocol, socket: impl Into<BoundSocket>) -> Self {
        self.sockets.push((protocol, socket.into()));
        self
    }

    /// Sets the address of the listener for operators ([`Config::admin_address`]), with port 0 for any free one.
    /// [`Server::admin_addr`] returns it.
    pub fn admin_address(mut self, address: SocketAddr) -> Self {
        self.config.admin_address = Some(address);
        self
    }

    /// Catches SIGINT, SIGTERM and SIGHUP from the start on, so that signals during the start are not lost. For
    /// programs that
    /// call [`Server::run_until_signal`].
    pub fn catch_signals(mut self) -> Self {
        self.catch_signals = true;
        self
    }

    /// Sets the function that reads the configuration at SIGHUP, usually [`Config::load`] of the same file.
    /// [`Server::reload`] lists the settings that change. Without this, SIGHUP only reloads certificates and reopens
    /// the log.
    pub fn reload_with(
        mut self,
        reread: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
    ) -> Self {
        self.reread = Some(Box::new(reread));
        self
    }

    /// Opens the store and the listeners. When this returns, clients can connect. The close notifier is still
    /// being called for sessions of a killed process; the next `conn` of such a client waits for it.
    ///
    /// The start raises the limit of open files to the hard limit (`ulimit -Hn`).
    ///
    /// # Errors
    /// [`StartError`] names the cause; nothing is left running.
    pub async fn start(self) -> Result<Server, StartError> {
        let mut builder = self;
        let (mut config, reread) = (builder.config.clone(), builder.reread.take());
        let sockets = std::mem::take(&mut builder.sockets);
        note_sockets(&mut config, &sockets)?;
        config.check_fields()?;
        let signals =
            if builder.catch_signals { Some(Signals::new().map_err(StartError::Signals)?) } else { None };
        let validators = builder.validators()?;
        let tls = config.ssl.as_ref().map(Certificates::load).transpose()?.map(Arc::new);
        raise_limit(config.max_connections);
        let admin = AdminListener::bind(&config)?;
        let backend = open_backend(&config).await?;
        let store = backend.store();
        let listeners = match bind(&config, sockets, tls.as_ref()) {
            Ok(listeners) => listeners,
            Err(error) => {
                store.close().await;
                return Err(error);
            }
        };
        let mut server = match Server::start(&config, validators, backend, listeners).await {
            Ok(server) => server,
            Err(error) => {
                store.close().await;
                return Err(error);
            }
        };
        (server.signals, server.reread) = (signals, reread);
        if let Err(error) = server.serve_operators(admin) {
            server.shutdown().await;
            return Err(error.into());
        }
        if let Some(tls) = tls {
            server.watch_certificates(tls);
        }
        Ok(server)
    }

    pub(super) fn validators(self) -> Result<Validators, StartError> {
        let mut missing = Vec::new();
        let mut note = |present: bool, name| {
            if !present {
                missing.push(name);
            }
        };
        note(self.auth.is_some(), "AuthValidator");
        note(self.conn.is_some(), "ConnValidator");
        note(self.sub.is_some(), "SubValidator");
        note(self.publish.is_some(), "PubValidator");
        match self {
            Self { auth: Some(auth), conn: Some(conn), sub: Some(sub), publish: Some(publish), .. } => {
                Ok(Validators {
                    auth,
                    conn,
                    sub,
                    publish,
                    unsub: self.unsub.unwrap_or_else(|| Arc::new(AllowAll)),
                    control: self.control.unwrap_or_else(|| Arc::new(DenyAll)),
                    disconnect: self.disconnect.unwrap_or_else(|| Arc::new(Silent)),
                    close: self.close.unwrap_or_else(|| Arc::new(Silent)),
                    open: self.open,
                    stored: self.stored,
                })
            }
            _ => Err(StartError::MissingValidators { missing }),
        }
    }
}

/// Opens the database that the configuration names. The cargo feature has been checked before.
async fn open_backend(config: &Config) -> Result<Backend, StartError> {
    if config.mysql.is_none() && config.redis.is_some() {
        return Err(StartError::ClusterWithoutDatabase);
    }
    #[cfg(feature = "mysql")]
    if let Some(mysql) = &config.mysql {
        let store = Arc::new(MySqlStore::open(mysql_options(config, mysql)).await?);
        #[cfg(feature = "redis")]
        if let Some(redis) = &config.redis {
            return Ok(Backend::Cluster(store, redis.clone()));
        }
        return Ok(Backend::Alone(store));
    }
    #[cfg(feature = "sqlite")]
    return Ok(Backend::Alone(Arc::new(SqliteStore::open(sqlite_options(config)).await?)));
    #[cfg(not(feature = "sqlite"))]
    Err(ConfigError::MissingFeature { key: "SQLITE_PATH", feature: "sqlite", package: "jmqt-server" }.into())
}

#[cfg(feature = "sqlite")]
fn sqlite_options(config: &Config) -> SqliteOptions {
    SqliteOptions {
        path: config.sqlite_path.clone(),
        synchronous: config.sqlite_synchronous,
        retained: config.retained_limits(),
    }
}

#[cfg(feature = "mysql")]
fn mysql_options(config: &Config, mysql: &MySqlConfig) -> MySqlOptions {
    MySqlOptions {
        host: mysql.host.clone(),
        port: mysql.port,
        database: mysql.database.clone(),
        user: mysql.user.clone(),
        password: mysql.password.clone(),
        tls: mysql.tls.clone(),
        pool_size: mysql.pool_size,
        largest_payload: config.max_packet_bytes,
        shared: config.redis.is_some(),
        retained: config.retained_limits(),
    }
}

/// Replaces the configured ports of protocols with the ports of bound sockets.
fn note_sockets(config: &mut Config, sockets: &[(Protocol, BoundSocket)]) -> Result<(), StartError> {
    for (protocol, socket) in sockets {
        let port = socket.port().map_err(|source| StartError::Socket { protocol: *protocol, source })?;
        match protocol {
            Protocol::Socket => config.socket_port = Some(port),
            Protocol::WebSocket => config.websocket_port = Some(port),
            Protocol::Mqtt => config.mqtt_port = Some(port),
            Protocol::MqttWebSocket => config.mqtt_websocket_port = Some(port),
            Protocol::SslSocket | Protocol::SslWebSocket | Protocol::SslMqtt | Protocol::SslMqttWebSocket => {
                let Some(ssl) = &mut config.ssl else {
                    return Err(StartError::NoCertificate { protocol: *protocol });
                };
                let of_config = match protocol {
                    Protocol::SslSocket => &mut ssl.socket_port,
                    Protocol::SslMqtt => &mut ssl.mqtt_port,
                    Protocol::SslMqttWebSocket => &mut ssl.mqtt_websocket_port,
                    _ => &mut ssl.websocket_port,
                };
                *of_config = Some(port);
            }
            #[cfg(test)]
            Protocol::Lines => {}
        }
    }
    Ok(())
}

/// Uses the bound sockets, and binds the other configured listeners.
fn bind(
    config: &Config,
    sockets: Vec<(Protocol, BoundSocket)>,
    tls: Option<&Arc<Certificates>>,
) -> Result<Vec<Listener>, StartError> {
    let ssl = config.ssl.as_ref();
    let ports = [
        (Protocol::Socket, "SOCKET_PORT", config.socket_port),
        (Protocol::SslSocket, "SSL_SOCKET_PORT", ssl.and_then(|ssl| ssl.socket_port)),
        (Protocol::WebSocket, "WEBSOCKET_PORT", config.websocket_port),
        (Protocol::SslWebSocket, "SSL_WEBSOCKET_PORT", ssl.and_then(|ssl| ssl.websocket_port)),
        (Protocol::Mqtt, "MQTT_PORT", config.mqtt_port),
        (Protocol::SslMqtt, "SSL_MQTT_PORT", ssl.and_then(|ssl| ssl.mqtt_port)),
        (Protocol::MqttWebSocket, "MQTT_WEBSOCKET_PORT", config.mqtt_websocket_port),
        (Protocol::SslMqttWebSocket, "SSL_MQTT_WEBSOCKET_PORT", ssl.and_then(|ssl| ssl.mqtt_websocket_port)),
    ];
    let tls = |protocol: Protocol| tls.filter(|_| protocol.is_tls()).cloned();
    let mut listeners = Vec::new();
    for (protocol, key, port) in ports {
        let Some(port) = port.filter(|_| !sockets.iter().any(|(bound, _)| *bound == protocol)) else {
            continue;
        };
        let address = SocketAddr::new(config.bind_address, port);
        let listener = Listener::bind(address, protocol, tls(protocol));
        listeners.push(listener.map_err(|source| StartError::Listen { key, address, protocol, source })?);
    }
    for (protocol, socket) in sockets {
        let listener = Listener::on(socket, protocol, tls(protocol));
        listeners.push(listener.map_err(|source| StartError::Socket { protocol, source })?);
    }
    Ok(listeners)
}
