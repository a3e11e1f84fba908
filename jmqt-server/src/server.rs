//! Building, starting and stopping a server.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::bus::LocalBus;
use crate::config::Config;
use crate::counters::Counters;
use crate::handle::ServerHandle;
use crate::hub::{Deliverer, Hub, Janitor, JanitorLimits};
use crate::listener::{Listener, TlsError, load_tls, log_for};
use crate::session::{IdSpace, IdleLimits, Outbox, OutboxContext};
use crate::store::{CommitQueue, SqliteOptions, SqliteStore, Store, StoreError};
use crate::validators::{
    AuthValidator, CloseNotice, CloseNotifier, CloseReason, ConnValidator, ConnectionInfo, ControlHandler,
    DisconnectNotifier, Protocol, PubValidator, SubValidator, UnsubValidator, Validators,
};

/// How long the rooms behind the sessions may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// Why a server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// Some of the eight validators have not been given.
    #[error("the server needs eight validators; missing: {}", .missing.join(", "))]
    MissingValidators {
        /// Their traits.
        missing: Vec<&'static str>,
    },
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
/// All eight must be given, by [`app`](Self::app) or one by one.
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
    catch_signals: bool,
}

impl ServerBuilder {
    fn new(config: Config) -> Self {
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
            catch_signals: false,
        }
    }

    /// Catches SIGINT and SIGTERM from the start on, for a program that ends with
    /// [`Server::run_until_signal`]: a signal that comes while the server starts is not lost then.
    pub fn catch_signals(mut self) -> Self {
        self.catch_signals = true;
        self
    }

    /// One application for all eight.
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
            config: self.config,
            auth: Some(app.clone()),
            conn: Some(app.clone()),
            sub: Some(app.clone()),
            publish: Some(app.clone()),
            unsub: Some(app.clone()),
            control: Some(app.clone()),
            disconnect: Some(app.clone()),
            close: Some(app),
            catch_signals: self.catch_signals,
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

    /// Who decides on `unsub`.
    pub fn unsub(mut self, validator: impl UnsubValidator) -> Self {
        self.unsub = Some(Arc::new(validator));
        self
    }

    /// Who answers control requests.
    pub fn control(mut self, handler: impl ControlHandler) -> Self {
        self.control = Some(Arc::new(handler));
        self
    }

    /// Who hears of `disconn`.
    pub fn disconnect(mut self, notifier: impl DisconnectNotifier) -> Self {
        self.disconnect = Some(Arc::new(notifier));
        self
    }

    /// Who hears of the end of every session.
    pub fn close(mut self, notifier: impl CloseNotifier) -> Self {
        self.close = Some(Arc::new(notifier));
        self
    }

    /// Opens the store, calls the close notifier for sessions that a killed process left behind, and
    /// listens. When this returns, clients can connect.
    ///
    /// # Errors
    /// [`StartError`] names what is missing or in the way; nothing is left running.
    pub async fn start(self) -> Result<Server, StartError> {
        let config = self.config.clone();
        let signals =
            if self.catch_signals { Some(Signals::new().map_err(StartError::Signals)?) } else { None };
        let validators = self.validators()?;
        let tls = config.ssl.as_ref().map(load_tls).transpose()?;
        let options =
            SqliteOptions { path: config.sqlite_path.clone(), synchronous: config.sqlite_synchronous };
        let store: Arc<dyn Store> = Arc::new(SqliteStore::open(options).await?);
        let mut listeners = Vec::new();
        for (protocol, port) in ports(&config) {
            let address = SocketAddr::new(config.bind_address, port);
            let tls = tls.clone().filter(|_| protocol.is_tls());
            match Listener::bind(address, protocol, tls) {
                Ok(listener) => listeners.push(listener),
                Err(source) => {
                    store.close().await;
                    return Err(StartError::Listen { address, protocol, source });
                }
            }
        }
        let mut server = Server::start(&config, validators, store, listeners).await?;
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
        note(self.unsub.is_some(), "UnsubValidator");
        note(self.control.is_some(), "ControlHandler");
        note(self.disconnect.is_some(), "DisconnectNotifier");
        note(self.close.is_some(), "CloseNotifier");
        match self {
            Self {
                auth: Some(auth),
                conn: Some(conn),
                sub: Some(sub),
                publish: Some(publish),
                unsub: Some(unsub),
                control: Some(control),
                disconnect: Some(disconnect),
                close: Some(close),
                ..
            } => Ok(Validators { auth, conn, sub, publish, unsub, control, disconnect, close }),
            _ => Err(StartError::MissingValidators { missing }),
        }
    }
}

/// The listeners that the configuration asks for.
fn ports(config: &Config) -> Vec<(Protocol, u16)> {
    let ssl = config.ssl.as_ref();
    let ports = [
        (Protocol::Socket, config.socket_port),
        (Protocol::SslSocket, ssl.and_then(|ssl| ssl.socket_port)),
        (Protocol::WebSocket, config.websocket_port),
        (Protocol::SslWebSocket, ssl.and_then(|ssl| ssl.websocket_port)),
    ];
    ports.into_iter().filter_map(|(protocol, port)| Some((protocol, port?))).collect()
}

/// What every connection of a server shares.
pub(crate) struct Shared {
    pub(crate) validators: Validators,
    pub(crate) hub: Arc<Hub>,
    pub(crate) handle: ServerHandle,
    pub(crate) limits: Limits,
    /// Every task that serves a connection.
    pub(crate) tasks: TaskTracker,
    /// Connections are to be closed.
    pub(crate) closing: CancellationToken,
    open: Mutex<OpenConnections>,
}

/// The configuration, as sessions need it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) packet_bytes: usize,
    pub(crate) preconn_packet_bytes: usize,
    pub(crate) max_inflight: u32,
    pub(crate) connections: usize,
    pub(crate) idle: IdleLimits,
    pub(crate) timeout_seconds: u32,
    pub(crate) validator_timeout: Duration,
    pub(crate) drain: Duration,
}

impl Limits {
    fn new(config: &Config) -> Self {
        Self {
            packet_bytes: config.max_packet_bytes,
            preconn_packet_bytes: config.max_preconn_packet_bytes.min(config.max_packet_bytes),
            max_inflight: config.max_inflight,
            connections: config.max_connections,
            idle: IdleLimits { timeout: config.timeout, slow_consumer: config.slow_consumer },
            timeout_seconds: u32::try_from(config.timeout.as_secs()).unwrap_or(u32::MAX),
            validator_timeout: config.validator_timeout,
            drain: config.drain,
        }
    }
}

/// All connections, with a session or without.
#[derive(Default)]
struct OpenConnections {
    next: u64,
    /// `None` until the connection has an outbox (while TLS is agreed upon).
    by_number: HashMap<u64, Option<Weak<Outbox>>, foldhash::fast::RandomState>,
}

/// One of MAX_CONNECTIONS, given back when it is dropped.
pub(crate) struct ConnectionPermit {
    shared: Arc<Shared>,
    number: u64,
}

impl Shared {
    fn open(&self) -> std::sync::MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets one more connection in, unless MAX_CONNECTIONS are open.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let mut open = self.open();
        if open.by_number.len() >= self.limits.connections {
            return None;
        }
        let number = open.next;
        open.next += 1;
        open.by_number.insert(number, None);
        Some(ConnectionPermit { shared: Arc::clone(self), number })
    }

    fn close_all(&self, reason: CloseReason) {
        let outboxes: Vec<_> = self.open().by_number.values().flatten().filter_map(Weak::upgrade).collect();
        for outbox in outboxes {
            outbox.close(reason);
        }
    }
}

impl ConnectionPermit {
    /// The connection has an outbox now, through which it can be closed.
    pub(crate) fn occupy(self, outbox: &Arc<Outbox>) -> Self {
        self.shared.open().by_number.insert(self.number, Some(Arc::downgrade(outbox)));
        if self.shared.closing.is_cancelled() {
            outbox.close(CloseReason::Shutdown);
        }
        self
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.shared.open().by_number.remove(&self.number);
        self.shared.hub.counters.connections_closed.increment();
    }
}

/// A running server. Dropping it does not stop it in order: call [`shutdown`](Self::shutdown), or let
/// [`run_until_signal`](Self::run_until_signal) do it.
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<(Protocol, SocketAddr)>,
    stop_listening: CancellationToken,
    stop_janitor: CancellationToken,
    listeners: TaskTracker,
    janitor: JoinHandle<()>,
    committer: JoinHandle<()>,
    deliverer: JoinHandle<()>,
    store: Arc<dyn Store>,
    signals: Option<Signals>,
}

impl Server {
    /// Begins to build a server with this configuration.
    pub fn builder(config: Config) -> ServerBuilder {
        ServerBuilder::new(config)
    }

    async fn start(
        config: &Config,
        validators: Validators,
        store: Arc<dyn Store>,
        listeners: Vec<Listener>,
    ) -> Result<Self, StartError> {
        let process = random()?;
        let counters = Arc::new(Counters::default());
        let context = Arc::new(OutboxContext {
            queue_bytes: config.outbound_queue_bytes,
            counters: Arc::clone(&counters),
            ids: IdSpace::new(store.epoch(), process),
            moved_cursors: Mutex::default(),
        });
        let (queue, committer, batches) = CommitQueue::new(Arc::clone(&store), counters);
        let limits = JanitorLimits {
            session_expiry: config.session_expiry,
            max_pending: config.max_pending_per_client,
        };
        let node = format!("{process:08x}{:08x}", random()?);
        let janitor = Arc::new(Janitor::new(Arc::clone(&store), node, limits));
        let hub = Hub::new(context, Arc::clone(&store), Arc::new(LocalBus), queue, Arc::clone(&janitor));
        let hub = Arc::new(hub);
        let shared = Arc::new(Shared {
            validators,
            handle: ServerHandle::new(Arc::clone(&hub)),
            hub: Arc::clone(&hub),
            limits: Limits::new(config),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            open: Mutex::default(),
        });
        let stop_janitor = CancellationToken::new();
        let run_janitor = {
            let (hub, stop) = (Arc::clone(&hub), stop_janitor.clone());
            async move { janitor.run(hub, stop).await }
        };
        let mut server = Self {
            addresses: Vec::new(),
            stop_listening: CancellationToken::new(),
            stop_janitor,
            listeners: TaskTracker::new(),
            janitor: tokio::spawn(run_janitor),
            committer: tokio::spawn(committer.run()),
            deliverer: tokio::spawn(Deliverer::new(hub, batches).run()),
            shared,
            store,
            signals: None,
        };
        server.notify_orphans().await?;
        server.listen(listeners);
        Ok(server)
    }

    fn listen(&mut self, listeners: Vec<Listener>) {
        for listener in listeners {
            if let Ok(address) = listener.address() {
                let protocol = listener.protocol();
                self.addresses.push((protocol, address));
                log_for!(protocol, info, "Listening on {} {address}", kind(protocol));
            }
            let stop = self.stop_listening.clone();
            self.listeners.spawn(listener.run(Arc::clone(&self.shared), stop));
        }
    }

    /// Sessions that a killed process left behind have ended too (2.16).
    async fn notify_orphans(&self) -> Result<(), StartError> {
        let orphans = self.store.claim_orphans(&self.shared.hub.janitor.node).await?;
        if !orphans.is_empty() {
            tracing::info!(target: "jmqt::session", sessions = orphans.len(), "ending sessions that were left behind");
        }
        for orphan in orphans {
            let remote = orphan.address.parse();
            if let (Ok(remote), Some(protocol)) = (remote, Protocol::from_name(&orphan.protocol)) {
                let info = ConnectionInfo { remote, protocol };
                let handle = &self.shared.handle;
                let notice = CloseNotice::new(info, &orphan.client, CloseReason::ServerDied, handle);
                self.shared.notify_close(&notice).await;
            }
            self.store.orphan_closed(&orphan).await?;
        }
        Ok(())
    }

    /// The address a listener is bound to, with the port that was chosen for 0; `None` if the
    /// configuration has no such listener.
    #[must_use]
    pub fn local_addr(&self, protocol: Protocol) -> Option<SocketAddr> {
        self.addresses.iter().find(|(of, _)| *of == protocol).map(|(_, address)| *address)
    }

    /// The server's own side, for the application.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.shared.handle.clone()
    }

    /// Serves until SIGINT or SIGTERM, then stops in order; a second signal stops at once, and what
    /// was not finished then is finished by the next start.
    ///
    /// # Errors
    /// Signal handlers cannot be installed.
    pub async fn run_until_signal(mut self) -> io::Result<()> {
        let mut signals = match self.signals.take() {
            Some(signals) => signals,
            None => Signals::new()?,
        };
        let name = signals.next().await;
        tracing::info!(target: "jmqt::server", signal = name, "stopping");
        tokio::select! {
            () = self.shutdown() => {}
            name = signals.next() => tracing::warn!(target: "jmqt::server", signal = name, "stopping at once"),
        }
        Ok(())
    }

    /// Stops in order: no new connections; every session writes what is queued, within DRAIN_SECONDS,
    /// and its notifiers run; what the store still has to be told is written; the store is closed.
    pub async fn shutdown(self) {
        let Self {
            shared,
            stop_listening,
            stop_janitor,
            listeners,
            janitor,
            committer,
            deliverer,
            store,
            ..
        } = self;
        stop_listening.cancel();
        listeners.close();
        listeners.wait().await;
        shared.closing.cancel();
        shared.close_all(CloseReason::Shutdown);
        shared.tasks.close();
        let sessions = shared.limits.drain + shared.limits.validator_timeout + STOP_TIMEOUT;
        if tokio::time::timeout(sessions, shared.tasks.wait()).await.is_err() {
            tracing::warn!(target: "jmqt::server", "some connections did not end in time");
        }
        stop_janitor.cancel();
        let rooms = async {
            join(janitor).await;
            // Clones of the handle may live on in the application, so the queue is closed, not dropped.
            shared.hub.close_queue();
            join(committer).await;
            join(deliverer).await;
            store.close().await;
        };
        if tokio::time::timeout(STOP_TIMEOUT, rooms).await.is_err() {
            tracing::warn!(target: "jmqt::server", "the store did not close in time");
        }
        tracing::info!(target: "jmqt::server", "stopped");
    }
}

async fn join(task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(target: "jmqt::server", %error, "a task of the server failed");
    }
}

fn random() -> Result<u32, StartError> {
    getrandom::u32().map_err(StartError::Random)
}

fn kind(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Socket => "tcp",
        Protocol::SslSocket => "tls",
        Protocol::WebSocket => "ws",
        Protocol::SslWebSocket => "wss",
    }
}

/// SIGINT and SIGTERM, caught from when this is made.
struct Signals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    #[cfg(not(unix))]
    fn new() -> io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(unix)]
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }

    #[cfg(not(unix))]
    async fn next(&mut self) -> &'static str {
        // Without a handler there is nothing to wait for.
        let _ = tokio::signal::ctrl_c().await;
        "ctrl-c"
    }
}
