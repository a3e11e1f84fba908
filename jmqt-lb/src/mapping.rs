//! One mapping: an address that is listened on, and the backends behind it.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::Waker;
use tokio::sync::Notify;
use tracing::warn;

use crate::backends::Set;
use crate::config::MappingConfig;
use crate::gate::Gate;
use crate::names::Names;

const WARNING_INTERVAL: Duration = Duration::from_secs(10);

/// The part of one mapping that the accepting thread, connections, checker, resolver and status page share.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// The address that is listened on, with the port that it got.
    pub(crate) name: String,
    pub(crate) set: Set,
    pub(crate) gate: Arc<Gate>,
    pub(crate) counters: MappingCounters,
    /// Notified when the configuration was replaced.
    pub(crate) reconfigured: Notify,
    /// Notified when names were looked up.
    pub(crate) resolved: Notify,
    configured: Mutex<Configured>,
    last_warning: Mutex<Option<Instant>>,
}

#[derive(Debug)]
struct Configured {
    config: Arc<MappingConfig>,
    /// What was looked up to see whether this configuration can be used, until the resolver takes it over.
    found: Names,
}

/// Counts since the mapping was made.
#[derive(Debug, Default)]
pub(crate) struct MappingCounters {
    pub(crate) accepted: AtomicU64,
    /// Tries of a further backend.
    pub(crate) retries: AtomicU64,
    /// Connections for which there was no backend.
    pub(crate) refused: AtomicU64,
    pub(crate) idle: AtomicU64,
}

impl Mapping {
    /// Makes a mapping from its configuration and the addresses that are known already. `acceptor` is woken when there is
    /// room again.
    pub(crate) fn new(
        address: SocketAddr,
        config: MappingConfig,
        found: Names,
        acceptor: Option<&Arc<Waker>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            name: name(address),
            set: Set::new(name(address)),
            gate: Gate::new(config.max_connections.unwrap_or(usize::MAX), acceptor.cloned()),
            counters: MappingCounters::default(),
            reconfigured: Notify::new(),
            resolved: Notify::new(),
            configured: Mutex::new(Configured { config: Arc::new(config), found }),
            last_warning: Mutex::new(None),
        })
    }

    pub(crate) fn config(&self) -> Arc<MappingConfig> {
        Arc::clone(&self.configured().config)
    }

    /// The configuration, and the addresses that were looked up before it was applied. Only the first call gets those.
    pub(crate) fn take_over(&self) -> (Arc<MappingConfig>, Names) {
        let mut configured = self.configured();
        (Arc::clone(&configured.config), std::mem::take(&mut configured.found))
    }

    /// Replaces the configuration; connections keep the one they began with.
    pub(crate) fn reconfigure(&self, config: MappingConfig, found: Names) {
        self.gate.set_limit(config.max_connections.unwrap_or(usize::MAX));
        *self.configured() = Configured { config: Arc::new(config), found };
        self.reconfigured.notify_waiters();
    }

    fn configured(&self) -> MutexGuard<'_, Configured> {
        self.configured.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Warns that the system cannot take a connection, at most once in [`WARNING_INTERVAL`].
    pub(crate) fn warn_of_no_room(&self, error: &io::Error) {
        if self.may_warn() {
            warn!(mapping = %self.name, %error, "The system cannot open another connection");
        }
    }

    /// Whether enough time has passed since the last warning about something that may happen to every connection.
    pub(crate) fn may_warn(&self) -> bool {
        let mut last = self.last_warning.lock().unwrap_or_else(PoisonError::into_inner);
        let is_time = last.is_none_or(|last| last.elapsed() >= WARNING_INTERVAL);
        if is_time {
            *last = Some(Instant::now());
        }
        is_time
    }
}

/// As in the file: a port alone is that port on every IPv4 address.
pub(crate) fn name(address: SocketAddr) -> String {
    if address.is_ipv4() && address.ip().is_unspecified() {
        address.port().to_string()
    } else {
        address.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapping_is_named_as_in_the_file() {
        let name = |address: &str| name(address.parse().unwrap());
        assert_eq!(name("0.0.0.0:8010"), "8010");
        assert_eq!(name("127.0.0.1:8010"), "127.0.0.1:8010");
        assert_eq!(name("[::]:8010"), "[::]:8010");
    }
}
