//! One client connection, from its arrival to its end: backends are tried until one takes it.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use mio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tracing::{debug, warn};

use crate::backends::{Backend, Lease, label};
use crate::config::{MappingConfig, ProxyProtocol};
use crate::forward::{End, Flow, Pipe};
use crate::gate::Place;
use crate::mapping::Mapping;
use crate::proxy;
use crate::worker::{self, Way};

/// A client: who it is, and where it may go.
pub(crate) struct Connection {
    pub(crate) peer: SocketAddr,
    pub(crate) mapping: Arc<Mapping>,
    /// It keeps the one that it began with.
    pub(crate) config: Arc<MappingConfig>,
    pub(crate) buffer_size: usize,
    /// Backends that did not take it.
    pub(crate) tried: Vec<SocketAddr>,
    pub(crate) ways: Arc<[Way]>,
    /// In all gates it counts for.
    pub(crate) _places: [Place; 2],
}

/// Finds a backend that takes the connection, and has it forwarded there. `up` is what the client has said
/// to those that did not.
pub(crate) async fn serve(mut connection: Connection, client: TcpStream, up: Flow) {
    // Boxed, as it needs much more room than the rest.
    let Some((stream, lease)) = Box::pin(connection.reach(&client)).await else {
        return connection.refused();
    };
    let ways = Arc::clone(&connection.ways);
    worker::forward(&ways, Pipe::new(connection, (client, up), (stream, lease)));
}

impl Connection {
    /// Enters that nobody serves it.
    fn refused(&self) {
        let mapping = &self.mapping;
        mapping.counters.refused.fetch_add(1, Ordering::Relaxed);
        debug!(mapping = %mapping.name, client = %self.peer, "No backend takes it");
    }

    /// Enters that this machine cannot forward it.
    pub(crate) fn found_no_room(&self, error: &io::Error) {
        self.mapping.warn_of_no_room(error);
        self.refused();
    }

    /// Enters how it went with a backend.
    pub(crate) fn ended(&self, backend: &Arc<Backend>, end: &End) {
        let mapping = &self.mapping;
        match end {
            End::Closed | End::Lost(_) => {}
            End::Idle => {
                mapping.counters.idle.fetch_add(1, Ordering::Relaxed);
            }
            End::Unused(_) => mapping.set.failed(backend, &self.config.rules),
        }
        debug!(mapping = %mapping.name, client = %self.peer, backend = %label(backend), reason = %end, "Ended");
    }

    /// Connects to one backend after the other until one takes the connection; `None` if none does, or as
    /// many were tried as may be. Takes at most that many times the connect timeout, and once more if names
    /// have yet to be looked up.
    async fn reach(&mut self, client: &TcpStream) -> Option<(TcpStream, Lease)> {
        let Self { mapping, config, tried, peer, .. } = self;
        let rules = &config.rules;
        let header = match rules.proxy_protocol {
            ProxyProtocol::Off => Vec::new(),
            ProxyProtocol::V2 => proxy::header(*peer, client.local_addr().ok()?),
        };
        let address = proxy::canonical(*peer).ip();
        wait_for_backends(mapping, config).await;
        while tried.len() <= rules.retries {
            let lease = mapping.set.choose(rules, address, tried)?;
            if !tried.is_empty() {
                mapping.counters.retries.fetch_add(1, Ordering::Relaxed);
            }
            let backend = &lease.backend;
            let attempt = timeout(rules.connect_timeout, connect(backend.address, &header)).await;
            let error = match attempt {
                Ok(Ok(stream)) => return Some((stream, lease)),
                Ok(Err(error)) => error,
                Err(_) => io::Error::new(ErrorKind::TimedOut, "no answer within the connect timeout"),
            };
            match Fault::of(&error) {
                Fault::Backend => {
                    debug!(mapping = %mapping.name, client = %peer, backend = %label(backend), %error, "Not reached");
                    mapping.set.failed(backend, rules);
                }
                Fault::Way => {
                    if mapping.may_warn() {
                        let backend = label(backend);
                        warn!(mapping = %mapping.name, %backend, %error, "This machine has no address or port for it");
                    }
                }
                Fault::Machine => {
                    mapping.warn_of_no_room(&error);
                    return None;
                }
            }
            tried.push(backend.address);
        }
        None
    }
}

/// Waits until there is a backend, if names have not been looked up yet.
async fn wait_for_backends(mapping: &Mapping, config: &MappingConfig) {
    let deadline = Instant::now() + config.rules.connect_timeout;
    loop {
        let resolved = mapping.resolved.notified();
        tokio::pin!(resolved);
        resolved.as_mut().enable();
        if !mapping.set.is_empty() || tokio::time::timeout_at(deadline, resolved).await.is_err() {
            return;
        }
    }
}

async fn connect(address: SocketAddr, header: &[u8]) -> io::Result<TcpStream> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    // The buffer of a fresh socket has room for it.
    if !header.is_empty() && stream.try_write(header)? != header.len() {
        return Err(io::Error::new(ErrorKind::WriteZero, "the PROXY header was not taken"));
    }
    Ok(TcpStream::from_std(stream.into_std()?))
}

/// What is to blame for a connection to a backend that did not come about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    Backend,
    /// This machine has no address of the backend's family, or no port left for connections to that
    /// address. It may have for another backend.
    Way,
    /// This machine ran out of something that connections to every backend need.
    Machine,
}

impl Fault {
    pub(crate) fn of(error: &io::Error) -> Self {
        use rustix::io::Errno;
        match error.raw_os_error().map(Errno::from_raw_os_error) {
            Some(Errno::ADDRNOTAVAIL) => Self::Way,
            Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM | Errno::NOSPC) => Self::Machine,
            _ => Self::Backend,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_not_blamed_for_what_this_machine_lacks() {
        let of = |number| Fault::of(&io::Error::from_raw_os_error(number));
        assert_eq!(of(24), Fault::Machine); // EMFILE
        assert_eq!(of(28), Fault::Machine); // ENOSPC: no more sockets may be watched
        assert_eq!(of(99), Fault::Way); // EADDRNOTAVAIL
        assert_eq!(of(111), Fault::Backend); // ECONNREFUSED
        assert_eq!(Fault::of(&ErrorKind::TimedOut.into()), Fault::Backend);
    }
}
