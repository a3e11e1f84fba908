//! A running server: start order, stop order.

mod builder;
mod drain;
mod membership;
mod orphans;
#[cfg(test)]
mod races;
#[cfg(test)]
mod second_language;
mod signals;
mod stored;
mod supervise;

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::admin::{AdminError, AdminListener, Running};
use crate::budget::{self, Budget};
use crate::bus::{Bus, LocalBus, NodeId, Speaker};
#[cfg(feature = "redis")]
use crate::bus::{RedisBus, Seal};
#[cfg(feature = "redis")]
use crate::config::RedisOptions;
use crate::config::{Config, ConfigError};
use crate::connection::Protocol;
use crate::context::Shared;
use crate::counters::Counters;
use crate::handle::ServerHandle;
use crate::hub::{Cluster, Deliverer, Hub, Janitor, JanitorLimits, StoredQueue};
use crate::listener::{Listener, log_for};
use crate::outbox::OutboxContext;
use crate::serve::watch_wills;
use crate::store::{ClusterStore, CommitQueue, Store};
use crate::tls::Certificates;
use crate::transport::HttpContext;
use crate::validators::Validators;
use crate::wire::IdSpace;

use builder::Reread;
use membership::Membership;
use orphans::Orphans;
use signals::{Request, Signals};
use supervise::{supervise, supervised};

pub use builder::{ServerBuilder, StartError};

/// The store and the bus of a server.
enum Backend {
    Alone(Arc<dyn Store>),
    #[cfg(feature = "redis")]
    Cluster(Arc<dyn ClusterStore>, RedisOptions),
}

impl Backend {
    fn store(&self) -> Arc<dyn Store> {
        match self {
            Self::Alone(store) => Arc::clone(store),
            #[cfg(feature = "redis")]
            Self::Cluster(store, _) => Arc::clone(store) as Arc<dyn Store>,
        }
    }
}

/// How long the store and the bus may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);

/// The assumed memory of a machine whose memory size is unknown.
const UNKNOWN_MEMORY_BYTES: usize = 2 << 30;

/// A running server. Dropping it does not stop it gracefully: call [`shutdown`](Self::shutdown) or
/// [`run_until_signal`](Self::run_until_signal).
pub struct Server {
    shared: Arc<Shared>,
    addresses: Vec<(Protocol, SocketAddr)>,
    stop_listening: CancellationToken,
    stop_janitor: CancellationToken,
    listeners: TaskTracker,
    janitor: JoinHandle<()>,
    committer: JoinHandle<()>,
    deliverer: JoinHandle<()>,
    /// The task that notifies the application of stored messages, and the token that stops it.
    stored: Option<(CancellationToken, JoinHandle<()>)>,
    /// The cluster membership; `None` for a single server.
    membership: Option<Membership>,
    store: Arc<dyn Store>,
    signals: Option<Signals>,
    certificates: Option<Arc<Certificates>>,
    /// The listener for operators.
    admin: Option<Running>,
    reread: Option<Reread>,
    /// The time over which sessions are closed one by one; zero: all at once.
    spread: Duration,
}

impl Server {
    /// Begins to build a server with this configuration.
    pub fn builder(config: Config) -> ServerBuilder {
        ServerBuilder::new(config)
    }

    async fn start(
        config: &Config,
        validators: Validators,
        backend: Backend,
        listeners: Vec<Listener>,
    ) -> Result<Self, StartError> {
        let process = random()?;
        let node = NodeId(u64::from(process) << 32 | u64::from(random()?));
        let measures = config.admin_address.is_some();
        let counters = Arc::new(if measures { Counters::measuring() } else { Counters::default() });
        let store = backend.store();
        let context = Arc::new(OutboxContext {
            queue_bytes: config.outbound_queue_bytes,
            outbound: Arc::new(Budget::new(total_outbound_bytes(config))),
            counters: Arc::clone(&counters),
            ids: IdSpace::new(store.epoch(), process),
            moved_cursors: Mutex::default(),
            unrecorded: Default::default(),
            groups: Default::default(),
        });
        let (queue, committer, batches) = CommitQueue::new(Arc::clone(&store), Arc::clone(&counters));
        let queue_closed = queue.closed();
        let limits =
            JanitorLimits { session_expiry: config.session_expiry, pending: config.pending_limits() };
        let janitor =
            Arc::new(Janitor::new(Arc::clone(&store), node.to_string(), limits, Arc::clone(&counters)));
        let (bus, cluster, joining) = match backend {
            Backend::Alone(_) => (Arc::new(LocalBus) as Arc<dyn Bus>, None, None),
            #[cfg(feature = "redis")]
            Backend::Cluster(store, redis) => {
                let speaker = Speaker { node, epoch: context.ids.epoch() };
                let seal = Seal::new(&store.bus_key().await?);
                let (bus, events) = RedisBus::new(speaker, seal, redis, Arc::clone(&counters));
                let bus: Arc<dyn Bus> = Arc::new(bus);
                let (cluster, tasks) = Cluster::new(node, Arc::clone(&bus), store, counters);
                let cluster = Arc::new(cluster);
                (bus, Some(Arc::clone(&cluster)), Some((cluster, events, tasks)))
            }
        };
        let (stored, stored_messages) = match &validators.stored {
            Some(notifier) => {
                let (queue, messages) = StoredQueue::new(Arc::clone(&context.counters));
                (Some(queue), Some((Arc::clone(notifier), messages)))
            }
            None => (None, None),
        };
        let hub = Hub::new(context, Arc::clone(&store), bus, queue, Arc::clone(&janitor), cluster, stored);
        let hub = Arc::new(hub);
        let handle = ServerHandle::new(Arc::clone(&hub));
        let port = |wanted| {
            let listener = listeners.iter().find(|listener| listener.protocol() == wanted)?;
            listener.address().ok().map(|address| address.port())
        };
        let http = HttpContext::new(port(Protocol::WebSocket), port(Protocol::SslWebSocket))
            .with_mqtt_websockets(port(Protocol::MqttWebSocket), port(Protocol::SslMqttWebSocket))
            .with_allowed_origins(config.allowed_origins.clone())
            .with_mqtt(config.mqtt_on_jmqt_ports)
            .with_check({
                let hub = Arc::clone(&hub);
                move || hub.trouble()
            });
        let shared = Arc::new(Shared::new(config, validators, Arc::clone(&hub), handle, http));
        // In a cluster it takes some time until dead nodes are detected.
        let orphans = match joining {
            Some(_) => None,
            None => Some(Orphans::claim(&shared.hub).await?),
        };
        // Nothing fails from here on, so a failed start leaves no task running.
        let stop_janitor = CancellationToken::new();
        let run_janitor = {
            let (hub, stop) = (Arc::clone(&hub), stop_janitor.clone());
            async move { janitor.run(hub, stop).await }
        };
        let stop_listening = CancellationToken::new();
        let (membership, arrivals) = match joining {
            Some((cluster, events, tasks)) => {
                let (membership, arrivals) =
                    Membership::start(&shared, &stop_listening, cluster, events, tasks).await;
                (Some(membership), Some(arrivals))
            }
            None => (None, None),
        };
        let mut server = Self {
            addresses: Vec::new(),
            stop_listening: stop_listening.clone(),
            listeners: TaskTracker::new(),
            janitor: supervise("janitor", &shared, &stop_listening, &stop_janitor, run_janitor),
            committer: supervise("committer", &shared, &stop_listening, &queue_closed, committer.run()),
            deliverer: {
                let deliverer = Deliverer::new(hub, batches, arrivals);
                supervise("deliverer", &shared, &stop_listening, &queue_closed, deliverer.run())
            },
            stored: stored_messages.map(|(notifier, messages)| {
                let stop = CancellationToken::new();
                let tell = stored::tell(Arc::clone(&shared), notifier, messages, stop.clone());
                let telling = supervise("stored notifier", &shared, &stop_listening, &stop, tell);
                (stop, telling)
            }),
            stop_janitor,
            membership,
            shared,
            store,
            signals: None,
            certificates: None,
            admin: None,
            reread: None,
            spread: if config.spread_drain { config.drain } else { Duration::ZERO },
        };
        if let Some(orphans) = orphans {
            let notifying = orphans.notify(Arc::clone(&server.shared), server.stop_listening.clone());
            server.shared.tasks.spawn(notifying);
        }
        if listeners.iter().any(|listener| listener.protocol().is_mqtt()) {
            let (shared, stop) = (Arc::clone(&server.shared), server.stop_listening.clone());
            let publish = async move { shared.system_topics.run(&shared.hub, stop).await };
            server.spawn_beside_listeners("system topics", publish);
        }
        let (shared, stop) = (Arc::clone(&server.shared), server.stop_listening.clone());
        let end_idle = async move { Arc::clone(&shared.hub.readers).end_idle_regularly(stop).await };
        server.spawn_beside_listeners("idle readers", end_idle);
        let wills = watch_wills(Arc::clone(&server.shared), server.stop_listening.clone());
        server.spawn_beside_listeners("wills", wills);
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
            let run = listener.run(Arc::clone(&self.shared), self.stop_listening.clone());
            self.spawn_beside_listeners("listener", run);
        }
    }

    /// Supervises a task that ends with the listeners.
    fn spawn_beside_listeners(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop_listening.clone();
        self.listeners.spawn(supervised(name, Arc::clone(&self.shared), stop.clone(), stop, task));
    }

    /// The address of a listener, with the port that was chosen for 0; `None` if the
    /// configuration has no such listener.
    #[must_use]
    pub fn local_addr(&self, protocol: Protocol) -> Option<SocketAddr> {
        self.addresses.iter().find(|(of, _)| *of == protocol).map(|(_, address)| *address)
    }

    /// The address of the listener for operators; `None` if the configuration has none.
    #[must_use]
    pub fn admin_addr(&self) -> Option<SocketAddr> {
        self.admin.as_ref().map(Running::address)
    }

    /// Starts the listener for operators, if there is one.
    fn serve_operators(&mut self, listener: Option<AdminListener>) -> Result<(), AdminError> {
        if listener.is_none() {
            return Ok(());
        }
        let drain = CancellationToken::new();
        self.admin = AdminListener::serve(listener, Arc::clone(&self.shared), drain.clone())?;
        let (shared, stop_listening) = (Arc::clone(&self.shared), self.stop_listening.clone());
        tokio::spawn(drain::drain_when_asked(shared, drain, stop_listening, self.spread));
        Ok(())
    }

    /// The handle through which the application acts as the server.
    #[must_use]
    pub fn handle(&self) -> ServerHandle {
        self.shared.handle.clone()
    }

    /// Reloads the certificate and key a few seconds after their files change. New connections use them.
    fn watch_certificates(&mut self, certificates: Arc<Certificates>) {
        let watch = Arc::clone(&certificates).watch(self.stop_listening.clone());
        self.spawn_beside_listeners("certificates", watch);
        self.certificates = Some(certificates);
    }

    /// Applies the settings that can change while the server runs: `max_connections`,
    /// `max_connections_per_address`, `max_connects_per_address_per_second` and `trusted_proxies`, for new connections.
    /// All other settings change at the next start. Existing connections stay open.
    ///
    /// # Errors
    /// The configuration is invalid; nothing has changed.
    pub fn reload(&self, config: &Config) -> Result<(), ConfigError> {
        config.check_fields()?;
        self.shared.admission.reconfigure(config);
        Ok(())
    }

    /// Reloads the certificate and key, for new connections. If they cannot be used, the old ones stay in use, and an
    /// error is logged. The server also does this by itself, a few seconds after the files have changed.
    pub async fn reload_certificates(&self) {
        if let Some(certificates) = self.certificates.clone() {
            // The files may be on a slow or missing disk.
            let _ = tokio::task::spawn_blocking(move || certificates.reload()).await;
        }
    }

    /// SIGHUP: reopens the log, reloads certificates and the settings that can change.
    async fn reload_all(&self) {
        jmqt_log::reopen();
        tracing::info!(target: "jmqt::server", signal = "SIGHUP", "reloading");
        self.reload_certificates().await;
        let Some(reread) = &self.reread else { return };
        match reread().and_then(|config| self.reload(&config)) {
            Ok(()) => {
                tracing::info!(target: "jmqt::server", "reloaded MAX_CONNECTIONS, MAX_CONNECTIONS_PER_ADDRESS, MAX_CONNECTS_PER_ADDRESS_PER_SECOND and TRUSTED_PROXIES; other keys change at the next start");
            }
            Err(error) => {
                tracing::error!(target: "jmqt::server", %error, "cannot use the new configuration: the old one stays in force");
            }
        }
    }

    /// Serves until SIGINT or SIGTERM, then stops gracefully. A second signal stops the server at once; the
    /// next start then finishes the remaining work. SIGHUP reopens the log file and reloads the certificate and
    /// key, and, with [`ServerBuilder::reload_with`], the configuration.
    ///
    /// This installs the signal handlers. [`ServerBuilder::catch_signals`] does so earlier, before the server starts.
    ///
    /// # Errors
    /// Signal handlers cannot be installed; or an essential task of the server failed, which is a bug and is
    /// logged: the server has stopped by itself, and should be restarted.
    pub async fn run_until_signal(mut self) -> io::Result<()> {
        let mut signals = match self.signals.take() {
            Some(signals) => signals,
            None => Signals::new()?,
        };
        let failed = self.shared.failed.clone();
        loop {
            let request = tokio::select! {
                request = signals.next() => request,
                () = failed.cancelled() => break,
            };
            match request {
                Request::Reload => self.reload_all().await,
                Request::Stop(name) => {
                    tracing::info!(target: "jmqt::server", signal = name, "stopping");
                    break;
                }
            }
        }
        tokio::select! {
            () = self.shutdown() => {}
            name = signals.stop() => tracing::warn!(target: "jmqt::server", signal = name, "stopping at once"),
        }
        outcome(&failed)
    }

    /// Serves until `stop` is ready, then stops gracefully, as [`shutdown`](Self::shutdown) does. It catches no
    /// signals: this
    /// is for programs that decide themselves when to stop.
    ///
    /// ```no_run
    /// # async fn run(server: jmqt_server::Server) -> std::io::Result<()> {
    /// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    /// // Elsewhere in the program: `stop.send(())`. The server also stops when `stop` is dropped.
    /// # drop(stop);
    /// server.run_until(async { drop(stopped.await) }).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// An essential task of the server failed, as for [`run_until_signal`](Self::run_until_signal).
    pub async fn run_until(self, stop: impl Future<Output = ()>) -> io::Result<()> {
        let failed = self.shared.failed.clone();
        tokio::select! {
            () = stop => tracing::info!(target: "jmqt::server", "stopping"),
            () = failed.cancelled() => {}
        }
        self.shutdown().await;
        outcome(&failed)
    }

    /// Waits until an essential task of the server has failed. The connections are closed then;
    /// call [`shutdown`](Self::shutdown). [`run_until_signal`](Self::run_until_signal) does this
    /// by itself.
    pub async fn failed(&self) {
        self.shared.failed.cancelled().await;
    }

    /// Stops gracefully: the listeners close; every session sends its queued messages, within DRAIN_SECONDS,
    /// and its notifiers run; pending writes go to the store; the store is closed.
    ///
    /// With [`Config::spread_drain`], sessions are closed one by one over DRAIN_SECONDS, and each is served
    /// until its turn. The wait ends early if all sessions have ended.
    pub async fn shutdown(self) {
        let Self {
            shared,
            stop_listening,
            stop_janitor,
            listeners,
            janitor,
            committer,
            deliverer,
            stored,
            membership,
            store,
            spread,
            admin,
            ..
        } = self;
        shared.http.set_unready(Some("stopping"));
        stop_listening.cancel();
        listeners.close();
        listeners.wait().await;
        drain::begin_to_stop(&shared, spread);
        shared.tasks.close();
        if !spread.is_zero() {
            tokio::select! {
                () = drain::drain_sessions(&shared, spread) => {}
                () = shared.tasks.wait() => {} // all connections have ended
            }
        }
        drain::close_all(&shared.admission);
        let sessions = shared.limits.drain + shared.limits.validator_timeout + STOP_TIMEOUT;
        if tokio::time::timeout(sessions, shared.tasks.wait()).await.is_err() {
            tracing::warn!(target: "jmqt::server", "some connections did not end in time");
        }
        stop_janitor.cancel();
        let rooms = async {
            join(janitor).await;
            // The application may keep clones of the handle, so the queue is closed, not dropped.
            shared.hub.commits.close();
            join(committer).await;
            join(deliverer).await;
            if let Some((stop, telling)) = stored {
                stop.cancel();
                join(telling).await;
            }
            if let Some(membership) = membership {
                membership.end().await;
            }
            store.close().await;
        };
        if tokio::time::timeout(STOP_TIMEOUT, rooms).await.is_err() {
            tracing::warn!(target: "jmqt::server", "the store did not close in time");
        }
        if let Some(admin) = admin {
            admin.stop().await;
        }
        tracing::info!(target: "jmqt::server", "stopped");
    }
}

/// The result of running the server.
fn outcome(failed: &CancellationToken) -> io::Result<()> {
    match failed.is_cancelled() {
        true => Err(io::Error::other("a task of the server failed; the log names it")),
        false => Ok(()),
    }
}

async fn join(task: JoinHandle<()>) {
    if let Err(error) = task.await {
        tracing::error!(target: "jmqt::server", %error, "a task of the server failed");
    }
}

/// MAX_TOTAL_OUTBOUND_BYTES, or a quarter of the available memory.
fn total_outbound_bytes(config: &Config) -> usize {
    match config.max_total_outbound_bytes {
        0 => budget::memory_bytes().unwrap_or(UNKNOWN_MEMORY_BYTES) / 4,
        bytes => bytes,
    }
}

fn random() -> Result<u32, StartError> {
    getrandom::u32().map_err(|error| StartError::Random(error.into()))
}

fn kind(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Socket => "tcp",
        Protocol::SslSocket => "tls",
        Protocol::WebSocket => "ws",
        Protocol::SslWebSocket => "wss",
        Protocol::Mqtt => "mqtt",
        Protocol::SslMqtt => "mqtts",
        Protocol::MqttWebSocket => "mqtt+ws",
        Protocol::SslMqttWebSocket => "mqtt+wss",
        #[cfg(test)]
        Protocol::Lines => "lines",
    }
}
