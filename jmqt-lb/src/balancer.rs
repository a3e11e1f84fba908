//! The balancer as a whole: start, reload, drain.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use mio::Waker;
use rustix::process::{Resource, getrlimit, setrlimit};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use crate::accept::{self, Acceptor};
use crate::checker;
use crate::config::{Config, MappingConfig, Options};
use crate::gate::Gate;
use crate::mapping::Mapping;
use crate::names::Names;
use crate::resolver;
use crate::shared::Shared;
use crate::status::StatusPage;
use crate::worker::Workers;

/// How long the accepting thread has to take in what the kernel holds, when listeners are closed.
const LAST_ACCEPTS: Duration = Duration::from_secs(2);
/// Descriptors that are not connections: listeners, checks, the status page; and those of a thread.
const OTHER_FILES: usize = 256;
const FILES_OF_A_THREAD: usize = 2;

/// Why the balancer cannot start, or cannot use a new configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// The address is in use, is not an address of this machine, or is not permitted.
    #[error("cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    /// Names have no addresses, and `pre_resolve_workers` requires them.
    #[error("{0}")]
    Unresolved(String),
    /// The system is out of threads or descriptors.
    #[error("cannot start the forwarding threads: {0}")]
    Threads(io::Error),
}

/// A running balancer.
pub(crate) struct Balancer {
    shared: Arc<Shared>,
    /// By the address in the file.
    running: HashMap<SocketAddr, Running>,
    status: Option<StatusPage>,
    acceptor: Acceptor,
    waker: Arc<Waker>,
}

/// The tasks of one mapping. Those of `tasks` end when it is dropped.
struct Running {
    mapping: Arc<Mapping>,
    _tasks: JoinSet<()>,
}

/// The result of all steps that may fail, before a configuration is applied.
struct Prepared {
    config: Config,
    /// For mappings that are not there yet.
    listeners: HashMap<SocketAddr, std::net::TcpListener>,
    status: Option<std::net::TcpListener>,
    /// By the address in the file.
    found: HashMap<SocketAddr, Names>,
}

impl Balancer {
    /// Listens, and starts all tasks and threads.
    ///
    /// # Errors
    /// [`StartError`] names the cause. Nothing runs then.
    pub(crate) async fn start(config: Config) -> Result<Self, StartError> {
        let prepared = prepare(config, &HashMap::new(), None).await?;
        let options = prepared.config.options.clone();
        let workers = Workers::start(options.threads).map_err(StartError::Threads)?;
        let (poll, waker) = Acceptor::prepare().map_err(StartError::Threads)?;
        let gate = Gate::new(options.max_connections, Some(Arc::clone(&waker)));
        let shared = Arc::new(Shared::new(gate, workers, options));
        let acceptor = Acceptor::start(poll, Arc::clone(&waker), &shared).map_err(StartError::Threads)?;
        let mut balancer = Self { shared, running: HashMap::new(), status: None, acceptor, waker };
        balancer.apply(prepared)?;
        Ok(balancer)
    }

    /// Replaces the configuration without touching existing connections.
    ///
    /// # Errors
    /// [`StartError`] names the cause. The old configuration stays in use then.
    ///
    /// # Cancel safety
    /// Dropping the future before it is done changes nothing.
    pub(crate) async fn reload(&mut self, config: Config) -> Result<(), StartError> {
        let status = self.status.as_ref().map(StatusPage::configured);
        let prepared = prepare(config, &self.running, status).await?;
        self.apply(prepared)
    }

    fn apply(&mut self, prepared: Prepared) -> Result<(), StartError> {
        let Prepared { config, mut listeners, status, found } = prepared;
        let Config { options, mappings } = config;
        let registered = mappings
            .iter()
            .filter_map(|mapping| listeners.remove_entry(&mapping.listen))
            .map(|(address, listener)| match listener.local_addr() {
                Ok(bound) => Ok((address, (bound, listener))),
                Err(source) => Err(StartError::Listen { address, source }),
            })
            .collect::<Result<HashMap<_, _>, _>>()?;
        let status = match (options.status_address, status) {
            (Some(address), Some(listener)) => {
                let page = StatusPage::start(address, listener, Arc::clone(&self.shared));
                Some(page.map_err(|source| StartError::Listen { address, source })?)
            }
            _ => None,
        };
        // From here on nothing fails.
        if status.is_some() || options.status_address.is_none() {
            self.status = status;
        }
        self.set_options(options);
        self.set_mappings(mappings, registered, found);
        Ok(())
    }

    fn set_options(&self, options: Options) {
        let shared = &self.shared;
        shared.gate.set_limit(connection_limit(options.max_connections, shared.workers.count()));
        let old = shared.set_options(options);
        let new = shared.options();
        for (key, differs) in [("threads", old.threads != new.threads), ("log_…", old.log != new.log)] {
            if differs {
                warn!("{key} takes effect at the next start");
            }
        }
    }

    fn set_mappings(
        &mut self,
        mappings: Vec<MappingConfig>,
        mut listeners: HashMap<SocketAddr, (SocketAddr, std::net::TcpListener)>,
        mut found: HashMap<SocketAddr, Names>,
    ) {
        let mut old = std::mem::take(&mut self.running);
        let mut order = Vec::new();
        for config in mappings {
            let key = config.listen;
            let found = found.remove(&key).unwrap_or_default();
            let running = match (old.remove(&key), listeners.remove(&key)) {
                (Some(running), _) => {
                    running.mapping.reconfigure(config, found);
                    running
                }
                (None, Some((address, listener))) => {
                    self.run(Mapping::new(address, config, found, Some(&self.waker)), listener)
                }
                (None, None) => continue, // prepare() saw to it that there is one
            };
            order.push(Arc::clone(&running.mapping));
            self.running.insert(key, running);
        }
        for running in old.into_values() {
            info!("No longer listening on {}", running.mapping.name);
            drop(self.acceptor.close(&running.mapping)); // it is done soon, and nobody waits for it
        }
        self.shared.set_mappings(order);
    }

    fn run(&self, mapping: Arc<Mapping>, listener: std::net::TcpListener) -> Running {
        let mut tasks = JoinSet::new();
        tasks.spawn(resolver::run(Arc::clone(&mapping), Arc::clone(&self.shared)));
        tasks.spawn(checker::run(Arc::clone(&mapping)));
        self.acceptor.listen(listener, &mapping);
        info!(target: crate::MAIN, "Listening on {}", mapping.name);
        Running { mapping, _tasks: tasks }
    }

    /// Stops listening. Connections continue; [`Balancer::is_empty`] waits for their end.
    pub(crate) async fn stop_listening(&mut self) {
        self.shared.drain();
        let deadline = Instant::now() + LAST_ACCEPTS;
        let running = std::mem::take(&mut self.running);
        let closing: Vec<_> = running.values().map(|running| self.acceptor.close(&running.mapping)).collect();
        for closed in closing {
            let _ = timeout_at(deadline, closed).await;
        }
    }

    /// Waits until there is no connection.
    pub(crate) async fn is_empty(&self) {
        self.shared.gate.is_empty().await;
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.gate.inside()
    }

    pub(crate) fn drain_limit(&self) -> Duration {
        self.shared.options().drain
    }

    pub(crate) fn reload_failed(&self) {
        self.shared.counters.failed_reloads.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn reloaded(&self) {
        self.shared.counters.reloads.fetch_add(1, Ordering::Relaxed);
    }
}

/// Binds new listeners, and looks names up if `pre_resolve_workers` says so.
async fn prepare(
    config: Config,
    running: &HashMap<SocketAddr, Running>,
    status: Option<SocketAddr>,
) -> Result<Prepared, StartError> {
    let listen = |address| accept::listen(address).map_err(|source| StartError::Listen { address, source });
    let mut listeners = HashMap::new();
    for mapping in config.mappings.iter().filter(|mapping| !running.contains_key(&mapping.listen)) {
        listeners.insert(mapping.listen, listen(mapping.listen)?);
    }
    let wanted = config.options.status_address.filter(|address| status != Some(*address));
    let status = wanted.map(listen).transpose()?;
    let mut found = HashMap::new();
    if config.options.pre_resolve {
        for mapping in &config.mappings {
            let mut names = Names::default();
            names.look_up(mapping, |_| ()).await;
            if !names.leads_anywhere(mapping) {
                return Err(StartError::Unresolved(resolver::nothing_resolved(mapping)));
            }
            found.insert(mapping.listen, names);
        }
    }
    Ok(Prepared { config, listeners, status, found })
}

/// `max_connections`, or half the number of descriptors that this process may have, whichever is less: a connection
/// takes two. Without this a balancer at its limit of files would accept clients that it cannot connect to a backend.
fn connection_limit(max_connections: usize, threads: usize) -> usize {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    // Refused, the limit stays where it was.
    let _ = setrlimit(Resource::Nofile, files);
    let Some(files) = getrlimit(Resource::Nofile).current else { return max_connections };
    let others = OTHER_FILES + FILES_OF_A_THREAD * threads;
    let room = (usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(others) / 2).max(1);
    if room < max_connections {
        warn!(
            "max_connections is lowered from {max_connections} to {room}: the limit of open files is {files}"
        );
    }
    room.min(max_connections)
}
