//! What every connection of a server shares, and the list of all connections.

use std::collections::HashMap;
use std::net::IpAddr;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock, Weak};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::drain::Parting;
use crate::budget::Budget;
use crate::config::{Config, Network};
use crate::handle::ServerHandle;
use crate::hub::Hub;
use crate::listener::{AddressKey, AddressLimits, Addresses, Refusal};
use crate::session::{IdleLimits, Outbox};
use crate::transport::HttpContext;
use crate::validators::Validators;

/// So many clients that were turned away are read from for a moment.
const TURNED_AWAY: usize = 64;

/// What every connection of a server shares.
pub(crate) struct Shared {
    pub(crate) validators: Validators,
    pub(crate) hub: Arc<Hub>,
    pub(crate) handle: ServerHandle,
    pub(crate) limits: Limits,
    pub(crate) idle: Arc<IdleLimits>,
    /// Half-received packets of sessions.
    pub(crate) partial_packets: Arc<Budget>,
    /// Half-received packets of connections without a session.
    pub(crate) preconn_packets: Arc<Budget>,
    /// How HTTP requests are answered.
    pub(crate) http: Arc<HttpContext>,
    trusted_proxies: RwLock<Box<[Network]>>,
    /// MAX_CONNECTIONS.
    max_connections: AtomicUsize,
    /// Shared with every permit.
    addresses: Addresses,
    /// TLS handshakes that are computed at a time.
    pub(crate) handshakes: Semaphore,
    /// Long packets that are decoded at a time: fewer than there are threads, so that one is left for everybody else.
    pub(crate) long_packets: Arc<Semaphore>,
    /// Clients that were turned away and may still read why, at a time.
    pub(crate) turned_away: Arc<Semaphore>,
    /// Every task that serves a connection.
    pub(crate) tasks: TaskTracker,
    /// The server is stopping: what is no session yet does not become one.
    pub(crate) closing: CancellationToken,
    /// A task that the server cannot do without has failed: the server ends.
    pub(super) failed: CancellationToken,
    /// What its clients are told then.
    pub(super) parting: OnceLock<Parting>,
    open: Mutex<OpenConnections>,
}

/// The configuration, as sessions need it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) packet_bytes: usize,
    pub(crate) preconn_packet_bytes: usize,
    pub(crate) max_inflight: u32,
    pub(crate) subscriptions: usize,
    pub(crate) persistent_subscriptions: usize,
    pub(crate) timeout_seconds: u32,
    pub(crate) validator_timeout: Duration,
    pub(crate) drain: Duration,
    pub(crate) takeovers_per_second: Option<u32>,
}

impl Limits {
    fn new(config: &Config) -> Self {
        Self {
            packet_bytes: config.max_packet_bytes,
            preconn_packet_bytes: config.max_preconn_packet_bytes.min(config.max_packet_bytes),
            max_inflight: config.max_inflight,
            subscriptions: config.max_subscriptions_per_client,
            persistent_subscriptions: config.max_persistent_subscriptions_per_client,
            timeout_seconds: u32::try_from(config.timeout.as_secs()).unwrap_or(u32::MAX),
            validator_timeout: config.validator_timeout,
            drain: config.drain,
            takeovers_per_second: config.max_takeovers_per_second,
        }
    }
}

fn address_limits(config: &Config) -> AddressLimits {
    AddressLimits {
        connections: config.max_connections_per_address,
        connects_per_second: config.max_connects_per_address_per_second,
    }
}

/// All connections, with a session or without.
#[derive(Default)]
struct OpenConnections {
    next: u64,
    /// `None` until the connection has an outbox (while its PROXY header is read and TLS agreed upon).
    by_number: HashMap<u64, Option<Weak<Outbox>>, foldhash::fast::RandomState>,
}

/// One of MAX_CONNECTIONS, given back when it is dropped.
pub(crate) struct ConnectionPermit {
    shared: Arc<Shared>,
    number: u64,
    /// The address that it counts for, if it does.
    address: Option<AddressKey>,
}

impl Shared {
    pub(super) fn new(
        config: &Config,
        validators: Validators,
        hub: Arc<Hub>,
        handle: ServerHandle,
        http: HttpContext,
    ) -> Self {
        Self {
            validators,
            hub,
            handle,
            limits: Limits::new(config),
            idle: Arc::new(IdleLimits { timeout: config.timeout, slow_consumer: config.slow_consumer }),
            partial_packets: Arc::new(Budget::new(config.max_total_partial_packet_bytes)),
            preconn_packets: Arc::new(Budget::new(config.max_total_preconn_bytes)),
            http: Arc::new(http),
            trusted_proxies: RwLock::new(config.trusted_proxies.as_slice().into()),
            max_connections: AtomicUsize::new(config.max_connections),
            addresses: Addresses::new(address_limits(config)),
            long_packets: Arc::new(Semaphore::new(
                std::thread::available_parallelism().map_or(1, NonZero::get).saturating_sub(1).max(1),
            )),
            handshakes: Semaphore::new(2 * std::thread::available_parallelism().map_or(1, NonZero::get)),
            turned_away: Arc::new(Semaphore::new(TURNED_AWAY)),
            tasks: TaskTracker::new(),
            closing: CancellationToken::new(),
            failed: CancellationToken::new(),
            parting: OnceLock::new(),
            open: Mutex::default(),
        }
    }

    /// Tells when listeners are to be closed and opened; `None`: they stay open.
    pub(crate) fn gate(&self) -> Option<watch::Receiver<bool>> {
        self.hub.cluster.as_ref().map(|cluster| cluster.lets_in())
    }

    fn open(&self) -> std::sync::MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what of a configuration can change while the server runs.
    pub(super) fn reconfigure(&self, config: &Config) {
        self.max_connections.store(config.max_connections, Ordering::Relaxed);
        self.addresses.set_limits(address_limits(config));
        *self.trusted_proxies.write().unwrap_or_else(PoisonError::into_inner) =
            config.trusted_proxies.as_slice().into();
    }

    /// Whether what this peer says about the client is believed.
    pub(crate) fn is_trusted_proxy(&self, peer: IpAddr) -> bool {
        let proxies = self.trusted_proxies.read().unwrap_or_else(PoisonError::into_inner);
        proxies.iter().any(|network| network.contains(peer))
    }

    /// Lets one more connection in, unless MAX_CONNECTIONS are open.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let mut open = self.open();
        if open.by_number.len() >= self.max_connections.load(Ordering::Relaxed) {
            return None;
        }
        let number = open.next;
        open.next += 1;
        open.by_number.insert(number, None);
        Some(ConnectionPermit { shared: Arc::clone(self), number, address: None })
    }

    /// Of all connections, with a session or without.
    pub(super) fn numbered_outboxes(&self) -> Vec<(u64, Arc<Outbox>)> {
        let open = self.open();
        let outboxes = open.by_number.iter().filter_map(|(number, outbox)| Some((number, outbox.as_ref()?)));
        outboxes.filter_map(|(number, outbox)| Some((*number, outbox.upgrade()?))).collect()
    }
}

impl ConnectionPermit {
    /// Counts the connection for an address, once.
    pub(crate) fn count_for(&mut self, address: AddressKey) -> Result<(), Refusal> {
        self.shared.addresses.enter(address, Instant::now())?;
        self.address = Some(address);
        Ok(())
    }

    /// The connection has an outbox now, through which it can be closed.
    pub(crate) fn occupy(self, outbox: &Arc<Outbox>) -> Self {
        self.shared.open().by_number.insert(self.number, Some(Arc::downgrade(outbox)));
        if self.shared.closing.is_cancelled() {
            self.shared.part(self.number, outbox);
        }
        self
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if let Some(address) = self.address {
            self.shared.addresses.leave(address);
        }
        self.shared.open().by_number.remove(&self.number);
        self.shared.hub.counters.connections_closed.increment();
    }
}
