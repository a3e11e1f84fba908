//! The HTTP listener for operators: metrics for Prometheus, health checks, and the admin API.
//!
//! It runs in a thread with a runtime of its own, so that it answers while the server is overloaded. What is asked of the server is
//! done on the server's runtime, within a time limit; the number of connections limits how much is asked at once. Each
//! connection has limits for its time, its headers and its bodies (`serve`).
//!
//! Who may ask is decided in `access`; `keys` has the file with the keys.

mod access;
mod answer;
mod api;
mod health;
mod keys;
mod metrics;
mod serve;

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, HostName};
use crate::connection::Protocol;
use crate::context::Shared;

use access::Access;
use keys::Keys;

pub use crate::watched::{FileError, Problem};
pub use keys::{KeyError, Scope, add_key, count_keys, remove_key};

/// The longest wait for the end of the thread.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);

/// An error at the start of the listener for operators.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The server cannot listen on the address.
    #[error("cannot listen on {address} (ADMIN_ADDRESS): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// The file with the keys cannot be used.
    #[error("ADMIN_KEYS_FILE: {0}")]
    Keys(#[from] FileError),
    /// The thread of the listener cannot be started.
    #[error("cannot start the thread of the listener for operators: {0}")]
    Thread(io::Error),
}

impl AdminError {
    /// Returns `true` if another start would fail in the same way.
    pub(crate) fn is_mistake(&self) -> bool {
        match self {
            Self::Listen { source, .. } => source.kind() != io::ErrorKind::AddrInUse,
            Self::Keys(_) => true,
            Self::Thread(_) => false,
        }
    }
}

/// The bound listener, before anything is served on it.
pub(crate) struct AdminListener {
    socket: TcpListener,
    address: SocketAddr,
    keys: Option<Keys>,
    hosts: Vec<HostName>,
}

impl AdminListener {
    /// Binds ADMIN_ADDRESS and reads the keys; `None` without ADMIN_ADDRESS.
    pub(crate) fn bind(config: &Config) -> Result<Option<Self>, AdminError> {
        let Some(address) = config.admin_address else { return Ok(None) };
        let keys = config.admin_keys_file.as_ref().map(Keys::open).transpose()?;
        let listen = |source| AdminError::Listen { address, source };
        let socket = TcpListener::bind(address).map_err(listen)?;
        socket.set_nonblocking(true).map_err(listen)?;
        let address = socket.local_addr().map_err(listen)?;
        Ok(Some(Self { socket, address, keys, hosts: config.admin_hosts.clone() }))
    }

    /// Serves until [`Running::stop`], if there is a listener.
    /// `drain` is cancelled when an operator asks this node to drain.
    pub(crate) fn serve(
        listener: Option<Self>,
        shared: Arc<Shared>,
        drain: CancellationToken,
    ) -> Result<Option<Running>, AdminError> {
        listener.map(|listener| listener.start(shared, drain)).transpose()
    }

    fn start(self, shared: Arc<Shared>, drain: CancellationToken) -> Result<Running, AdminError> {
        let Self { socket, address, keys, hosts } = self;
        if keys.is_none() && !address.ip().is_loopback() {
            tracing::warn!(target: "jmqt::admin", "everybody who can connect to {address} can read the metrics: set ADMIN_KEYS_FILE, or let only this machine connect (ADMIN_ADDRESS)");
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(AdminError::Thread)?;
        let stop = CancellationToken::new();
        let (ending, ended) = oneshot::channel();
        let operator = Arc::new(Operator {
            shared,
            main: Handle::current(),
            metrics: metrics::Metrics::default(),
            api: api::Api::new(),
            started: Instant::now(),
            drain,
        });
        let access = Access::new(keys, hosts);
        let until = stop.clone();
        let serve = move || {
            runtime.block_on(serve::accept(socket, operator, access, until));
            drop(runtime);
            let _ = ending.send(()); // nobody may be waiting
        };
        let thread = thread::Builder::new().name("jmqt-admin".to_owned());
        thread.spawn(serve).map_err(AdminError::Thread)?;
        tracing::info!(target: "jmqt::admin", "Listening for operators on http://{address}");
        Ok(Running { address, stop, ended: Some(ended) })
    }
}

/// The listener while it serves. It stops when this is dropped.
pub(crate) struct Running {
    address: SocketAddr,
    stop: CancellationToken,
    ended: Option<oneshot::Receiver<()>>,
}

impl Running {
    /// The address, with the port that was chosen for 0.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops, and waits until answers in progress are sent, for a limited time.
    pub(crate) async fn stop(mut self) {
        self.stop.cancel();
        if let Some(ended) = self.ended.take() {
            drop(tokio::time::timeout(STOP_TIMEOUT, ended).await);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The server, for those who may operate it.
struct Operator {
    shared: Arc<Shared>,
    /// The runtime of the server.
    main: Handle,
    metrics: metrics::Metrics,
    api: api::Api,
    started: Instant,
    /// Cancelled when an operator asks this node to drain.
    drain: CancellationToken,
}

impl Operator {
    /// The server is stopping, or this node is drained.
    fn is_stopping(&self) -> bool {
        self.shared.admission.closing.is_cancelled() || self.shared.http.is_unready()
    }

    /// Runs something on the server's runtime, within a time limit. `None`: it took longer, panicked, or the runtime has ended.
    async fn on_server<T: Send + 'static>(
        &self,
        limit: Duration,
        work: impl Future<Output = T> + Send + 'static,
    ) -> Option<T> {
        let task = self.main.spawn(work);
        let abort = task.abort_handle();
        match tokio::time::timeout(limit, task).await {
            Ok(done) => done.ok(),
            Err(_) => {
                abort.abort();
                None
            }
        }
    }
}

/// The labels of a protocol.
fn labels(protocol: Protocol) -> [(&'static str, &'static str); 2] {
    let transport = match (protocol.is_websocket(), protocol.is_tls()) {
        (false, false) => "tcp",
        (false, true) => "tls",
        (true, false) => "ws",
        (true, true) => "wss",
    };
    [("protocol", if protocol.is_mqtt() { "mqtt" } else { "jmqt" }), ("transport", transport)]
}
