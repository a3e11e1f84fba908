//! Gathering the validators, and starting a server with them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use super::signals::Signals;
use super::{Backend, Server};
use crate::config::{Config, ConfigError};
use crate::connection::Protocol;
use crate::listener::{Certificates, Listener, TlsError, raise_limit};
use crate::store::{MySqlOptions, MySqlStore, SqliteOptions, SqliteStore, StoreError};
use crate::validators::{
    AllowAll, AuthValidator, CloseNotifier, ConnValidator, ControlHandler, DenyAll, DisconnectNotifier,
    OpenNotifier, PubValidator, Silent, StoredNotifier, SubValidator, UnsubValidator, Validators,
};

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Some of the four validators that have no default have not been given.
    #[error("the server needs these validators, which have no default: {}", .missing.join(", "))]
    MissingValidators {
        /// Their traits.
        missing: Vec<&'static str>,
    },
    /// The configuration has settings that no server can work with.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// `Config::redis` is set, and `Config::mysql` is not.
    #[error("a node of a cluster needs the database that its nodes share: MySQL or MariaDB")]
    ClusterWithoutDatabase,
    /// The store cannot be opened.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The certificate or key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// An address cannot be listened on.
    #[error("cannot listen on {address} ({key}): {source}{}", advice(source, *address))]
    Listen {
        /// The configuration key of the port.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// What for.
        protocol: Protocol,
        /// Why not.
        source: io::Error,
    },
    /// Signal handlers cannot be installed.
    #[error("cannot catch signals: {0}")]
    Signals(io::Error),
    /// The operating system has no random numbers.
    #[error("no random numbers: {0}")]
    Random(getrandom::Error),
}

impl StartError {
    /// Whether the configuration is wrong, or the database damaged, so that another start would fail in the same way. A
    /// port that somebody else has, or a database that does not answer, may be there at the next try.
    #[must_use]
    pub fn is_mistake(&self) -> bool {
        match self {
            Self::MissingValidators { .. }
            | Self::Config(_)
            | Self::ClusterWithoutDatabase
            | Self::Tls(_) => true,
            Self::Store(StoreError::Open { source, .. }) => is_lasting(&**source),
            Self::Store(error) => error.is_damage(),
            Self::Listen { source, .. } => source.kind() != io::ErrorKind::AddrInUse,
            Self::Signals(_) | Self::Random(_) => false,
        }
    }
}

/// Whether a database file cannot be opened for a reason that does not pass. What a database server says may be put
/// right there, and what a full disk says by making room.
fn is_lasting(error: &(dyn std::error::Error + 'static)) -> bool {
    use io::ErrorKind::{InvalidFilename, IsADirectory, NotADirectory, PermissionDenied, ReadOnlyFilesystem};
    let kind = error.downcast_ref::<io::Error>().map(io::Error::kind);
    let is_not_a_database = matches!(error.downcast_ref(), Some(sqlx::Error::Database(_)));
    is_not_a_database
        || matches!(
            kind,
            Some(InvalidFilename | IsADirectory | NotADirectory | PermissionDenied | ReadOnlyFilesystem)
        )
}

/// What to do about an address that cannot be listened on.
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

/// Reads the configuration again.
pub(super) type Reread = Box<dyn Fn() -> Result<Config, ConfigError> + Send + Sync>;

/// Gathers the validators, then starts the server.
///
/// Usually one type decides everything, and [`app`](Self::app) takes it. Otherwise `auth`, `conn`, `sub` and `publish`
/// must be given one by one, since no answer is safe for all applications. The others have defaults: every client may
/// unsubscribe, there are no control channels, nobody hears of disconnects and closes.
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
            catch_signals: false,
            reread: None,
        }
    }

    /// One application for all eight: the usual way. An empty `impl` is enough for the traits that have defaults.
    ///
    /// The application may be an `Arc`, of which other parts of the program, and [`open`](Self::open) and
    /// [`stored`](Self::stored), have clones.
    ///
    /// ```
    /// use jmqt_server::tokens::TokenIssuer;
    /// use jmqt_server::*;
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
    /// # fn build(config: Config) -> Result<ServerBuilder, BoxError> {
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

    /// Who decides on `auth`.
    pub fn auth(mut self, validator: impl AuthValidator) -> Self {
        self.auth = Some(Arc::new(validator));
        self
    }

    /// Who decides on `conn`.
    pub fn conn(mut self, validator: impl ConnValidator) -> Self {
        self.conn = Some(Arc::new(validator));
        self
    }

    /// Who decides on `sub`.
    #[allow(clippy::should_implement_trait, reason = "named for the packet; nobody subtracts from a builder")]
    pub fn sub(mut self, validator: impl SubValidator) -> Self {
        self.sub = Some(Arc::new(validator));
        self
    }

    /// Who decides on `pub`.
    pub fn publish(mut self, validator: impl PubValidator) -> Self {
        self.publish = Some(Arc::new(validator));
        self
    }

    /// Who decides on `unsub`. Optional; by default every client may unsubscribe.
    pub fn unsub(mut self, validator: impl UnsubValidator) -> Self {
        self.unsub = Some(Arc::new(validator));
        self
    }

    /// Who answers control requests. Optional; by default they are answered INVALID_CHANNEL.
    pub fn control(mut self, handler: impl ControlHandler) -> Self {
        self.control = Some(Arc::new(handler));
        self
    }

    /// Who hears of `disconn`. Optional.
    pub fn disconnect(mut self, notifier: impl DisconnectNotifier) -> Self {
        self.disconnect = Some(Arc::new(notifier));
        self
    }

    /// Who hears of the end of every session. Optional.
    pub fn close(mut self, notifier: impl CloseNotifier) -> Self {
        self.close = Some(Arc::new(notifier));
        self
    }

    /// Who hears of the beginning of every session. Optional.
    pub fn open(mut self, notifier: impl OpenNotifier) -> Self {
        self.open = Some(Arc::new(notifier));
        self
    }

    /// Who hears of every QoS 1 message after its commit. Optional; without it there is nothing to pay.
    pub fn stored(mut self, notifier: impl StoredNotifier) -> Self {
        self.stored = Some(Arc::new(notifier));
        self
    }

    /// Catches SIGINT, SIGTERM and SIGHUP from the start on, for a program that ends with
    /// [`Server::run_until_signal`]: a signal that comes while the server starts is not lost then.
    pub fn catch_signals(mut self) -> Self {
        self.catch_signals = true;
        self
    }

    /// How SIGHUP gets a new configuration, usually by [`Config::load`] of the same file: [`Server::reload`] has what
    /// becomes of it. Without this, SIGHUP reads certificates again and opens the log again, and nothing else.
    pub fn reload_with(
        mut self,
        reread: impl Fn() -> Result<Config, ConfigError> + Send + Sync + 'static,
    ) -> Self {
        self.reread = Some(Box::new(reread));
        self
    }

    /// Opens the store and listens. When this returns, clients can connect; the close notifier is being
    /// called for sessions that a killed process left behind, and their clients' next `conn` waits for it.
    ///
    /// The process may have as many files open from then on as its hard limit allows (`ulimit -Hn`).
    ///
    /// # Errors
    /// [`StartError`] names what is missing or in the way; nothing is left running.
    pub async fn start(self) -> Result<Server, StartError> {
        let mut builder = self;
        let (config, reread) = (builder.config.clone(), builder.reread.take());
        config.check_fields()?;
        let signals =
            if builder.catch_signals { Some(Signals::new().map_err(StartError::Signals)?) } else { None };
        let validators = builder.validators()?;
        let tls = config.ssl.as_ref().map(Certificates::load).transpose()?.map(Arc::new);
        raise_limit(config.max_connections);
        let backend = open_backend(&config).await?;
        let store = backend.store();
        let listeners = match bind(&config, tls.as_ref()) {
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

/// Opens the database that the configuration names.
async fn open_backend(config: &Config) -> Result<Backend, StartError> {
    let Some(mysql) = &config.mysql else {
        if config.redis.is_some() {
            return Err(StartError::ClusterWithoutDatabase);
        }
        let options = SqliteOptions {
            path: config.sqlite_path.clone(),
            synchronous: config.sqlite_synchronous,
            retained: config.retained_limits(),
        };
        return Ok(Backend::Alone(Arc::new(SqliteStore::open(options).await?)));
    };
    let store = MySqlStore::open(MySqlOptions {
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
    });
    let store = Arc::new(store.await?);
    Ok(match &config.redis {
        Some(redis) => Backend::Cluster(store, redis.clone()),
        None => Backend::Alone(store),
    })
}

/// Binds the listeners that the configuration asks for.
fn bind(config: &Config, tls: Option<&Arc<Certificates>>) -> Result<Vec<Listener>, StartError> {
    let ssl = config.ssl.as_ref();
    let ports = [
        (Protocol::Socket, "SOCKET_PORT", config.socket_port),
        (Protocol::SslSocket, "SSL_SOCKET_PORT", ssl.and_then(|ssl| ssl.socket_port)),
        (Protocol::WebSocket, "WEBSOCKET_PORT", config.websocket_port),
        (Protocol::SslWebSocket, "SSL_WEBSOCKET_PORT", ssl.and_then(|ssl| ssl.websocket_port)),
    ];
    let wanted = ports.into_iter().filter_map(|(protocol, key, port)| Some((protocol, key, port?)));
    let bound = wanted.map(|(protocol, key, port)| {
        let address = SocketAddr::new(config.bind_address, port);
        let tls = tls.filter(|_| protocol.is_tls()).cloned();
        Listener::bind(address, protocol, tls).map_err(|source| StartError::Listen {
            key,
            address,
            protocol,
            source,
        })
    });
    bound.collect()
}
