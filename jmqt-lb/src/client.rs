//! A client: who it is, which backends it has tried, which one is next.

use std::io;
use std::net::SocketAddr;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mio::net::TcpStream;
use tokio::time::{Instant, timeout_at};
use tracing::{debug, warn};

use crate::backends::{Backend, Lease, label};
use crate::config::{MappingConfig, ProxyProtocol};
use crate::fault::Fault;
use crate::forward::End;
use crate::gate::Place;
use crate::mapping::Mapping;
use crate::proxy;

/// A client: who it is, and where it may go.
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    pub(crate) mapping: Arc<Mapping>,
    /// The configuration when it arrived, which it keeps.
    pub(crate) config: Arc<MappingConfig>,
    pub(crate) buffer_size: usize,
    /// Backends that did not accept it.
    pub(crate) tried: Vec<SocketAddr>,
    /// Its places in the gates of the balancer and of the mapping.
    pub(crate) _places: [Place; 2],
}

impl Client {
    /// Chooses backends, one after the other, until one can be told to connect; its socket is connecting then.
    /// `None` if none can, or as many were tried as may be.
    pub(crate) fn dial(&mut self) -> Option<(TcpStream, Lease)> {
        let address = proxy::canonical(self.peer).ip();
        while self.tried.len() <= self.config.rules.retries {
            let mapping = &self.mapping;
            let lease = mapping.set.choose(&self.config.rules, address, &self.tried)?;
            if !self.tried.is_empty() {
                mapping.counters.retries.fetch_add(1, Ordering::Relaxed);
            }
            let error = match TcpStream::connect(lease.backend.address) {
                Ok(stream) => return Some((stream, lease)),
                Err(error) => error,
            };
            if self.not_reached(&lease.backend, &error).is_break() {
                return None;
            }
        }
        None
    }

    /// Records that a backend did not accept it. `Break`: no other backend can be reached either.
    pub(crate) fn not_reached(&mut self, backend: &Arc<Backend>, error: &io::Error) -> ControlFlow<()> {
        let Self { mapping, config, peer, tried, .. } = self;
        match Fault::of(error) {
            Fault::Backend => {
                debug!(mapping = %mapping.name, client = %peer, backend = %label(backend), %error, "Cannot reach the backend");
                mapping.set.failed(backend, &config.rules);
            }
            Fault::Way => {
                if mapping.may_warn() {
                    let backend = label(backend);
                    warn!(mapping = %mapping.name, %backend, %error, "No local address or port is left for connections to this backend");
                }
            }
            Fault::Machine => {
                mapping.warn_of_no_room(error);
                return ControlFlow::Break(());
            }
        }
        tried.push(backend.address);
        ControlFlow::Continue(())
    }

    /// The PROXY protocol header that tells the backend about the client; empty if `proxy_protocol` is off.
    ///
    /// # Errors
    /// The client has gone.
    pub(crate) fn proxy_header(&self, client: &TcpStream) -> io::Result<Vec<u8>> {
        match self.config.rules.proxy_protocol {
            ProxyProtocol::Off => Ok(Vec::new()),
            ProxyProtocol::V2 => Ok(proxy::header(self.peer, client.local_addr()?)),
        }
    }

    /// Records that no backend serves it.
    pub(crate) fn refused(&self) {
        let mapping = &self.mapping;
        mapping.counters.refused.fetch_add(1, Ordering::Relaxed);
        debug!(mapping = %mapping.name, client = %self.peer, "No backend accepts the client");
    }

    /// Records that this machine cannot forward it.
    pub(crate) fn found_no_room(&self, error: &io::Error) {
        self.mapping.warn_of_no_room(error);
        self.refused();
    }

    /// Records how its connection to a backend ended.
    pub(crate) fn ended(&self, backend: &Arc<Backend>, end: &End) {
        let mapping = &self.mapping;
        match end {
            End::Closed | End::Lost(_) | End::Unreached(_) => {}
            End::Idle => {
                mapping.counters.idle.fetch_add(1, Ordering::Relaxed);
            }
            End::Unused(_) => mapping.set.failed(backend, &self.config.rules),
        }
        debug!(mapping = %mapping.name, client = %self.peer, backend = %label(backend), reason = %end, "Ended");
    }

    /// Waits until a backend is known, if names have not been looked up yet.
    pub(crate) async fn wait_for_backends(&self) {
        let deadline = Instant::now() + self.config.rules.connect_timeout;
        loop {
            let resolved = self.mapping.resolved.notified();
            tokio::pin!(resolved);
            resolved.as_mut().enable();
            if !self.mapping.set.is_empty() || timeout_at(deadline, resolved).await.is_err() {
                return;
            }
        }
    }
}
