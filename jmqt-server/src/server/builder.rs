//! Gathering the validators, and starting a server with them.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio_rustls::TlsAcceptor;

use super::signals::Signals;
use super::{Backend, Server};
use crate::config::Config;
use crate::listener::{Listener, TlsError, load_tls};
use crate::store::{MySqlOptions, MySqlStore, SqliteOptions, SqliteStore, StoreError};
use crate::validators::{
    AllowAll, AuthValidator, CloseNotifier, ConnValidator, ControlHandler, DenyAll, DisconnectNotifier,
    OpenNotifier, Protocol, PubValidator, Silent, StoredNotifier, SubValidator, UnsubValidator, Validators,
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
    #[error("cannot listen on {address} for {protocol}: {source}")]
    Listen {
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

    /// Catches SIGINT and SIGTERM from the start on, for a program that ends with
    /// [`Server::run_until_signal`]: a signal that comes while the server starts is not lost then.
    pub fn catch_signals(mut self) -> Self {
        self.catch_signals = true;
        self
    }

    /// Opens the store and listens. When this returns, clients can connect; the close notifier is being
    /// called for sessions that a killed process left behind, and their clients' next `conn` waits for it.
    ///
    /// # Errors
    /// [`StartError`] names what is missing or in the way; nothing is left running.
    pub async fn start(self) -> Result<Server, StartError> {
        let config = self.config.clone();
        let signals =
            if self.catch_signals { Some(Signals::new().map_err(StartError::Signals)?) } else { None };
        let validators = self.validators()?;
        let tls = config.ssl.as_ref().map(load_tls).transpose()?;
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
        server.signals = signals;
        Ok(server)
    }

    fn validators(self) -> Result<Validators, StartError> {
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
        let options =
            SqliteOptions { path: config.sqlite_path.clone(), synchronous: config.sqlite_synchronous };
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
    });
    let store = Arc::new(store.await?);
    Ok(match &config.redis {
        Some(redis) => Backend::Cluster(store, redis.clone()),
        None => Backend::Alone(store),
    })
}

/// Binds the listeners that the configuration asks for.
fn bind(config: &Config, tls: Option<&TlsAcceptor>) -> Result<Vec<Listener>, StartError> {
    let ssl = config.ssl.as_ref();
    let ports = [
        (Protocol::Socket, config.socket_port),
        (Protocol::SslSocket, ssl.and_then(|ssl| ssl.socket_port)),
        (Protocol::WebSocket, config.websocket_port),
        (Protocol::SslWebSocket, ssl.and_then(|ssl| ssl.websocket_port)),
    ];
    let wanted = ports.into_iter().filter_map(|(protocol, port)| Some((protocol, port?)));
    let bound = wanted.map(|(protocol, port)| {
        let address = SocketAddr::new(config.bind_address, port);
        let tls = tls.filter(|_| protocol.is_tls()).cloned();
        Listener::bind(address, protocol, tls).map_err(|source| StartError::Listen {
            address,
            protocol,
            source,
        })
    });
    bound.collect()
}
