//! Admits connections, and tracks all open connections, with or without a session.
//!
//! A connection holds a [`ConnectionPermit`] from `accept` to its end. Not here: accepting and refusing sockets
//! (`listener`), the table of sessions (`hub`).

mod addresses;
mod parting;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, Weak};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Network};
use crate::connection::CloseReason;
use crate::counters::Counters;
use crate::outbox::Outbox;

use addresses::{AddressLimits, Addresses};

pub(crate) use addresses::{Key as AddressKey, Refusal};
pub(crate) use parting::Parting;

/// The limits of connections, and all open connections.
pub(crate) struct Admission {
    trusted_proxies: RwLock<Box<[Network]>>,
    /// MAX_CONNECTIONS.
    max_connections: AtomicUsize,
    addresses: Addresses,
    open: Mutex<OpenConnections>,
    /// Cancelled when the server stops: no new sessions begin.
    pub(crate) closing: CancellationToken,
    /// The disconnect reason and delay for clients of a stopping server.
    parting: OnceLock<Parting>,
    counters: Arc<Counters>,
}

#[derive(Default)]
struct OpenConnections {
    next: u64,
    /// `None` until the connection has an outbox (during the PROXY protocol header and the TLS handshake).
    by_number: HashMap<u64, Option<Weak<Outbox>>, foldhash::fast::RandomState>,
}

/// A permit for one of MAX_CONNECTIONS connections, returned on drop.
pub(crate) struct ConnectionPermit {
    admission: Arc<Admission>,
    number: u64,
    /// The address that the connection is counted for, if any.
    address: Option<AddressKey>,
}

impl Admission {
    pub(crate) fn new(config: &Config, counters: Arc<Counters>) -> Self {
        Self {
            trusted_proxies: RwLock::new(config.trusted_proxies.as_slice().into()),
            max_connections: AtomicUsize::new(config.max_connections),
            addresses: Addresses::new(address_limits(config)),
            open: Mutex::default(),
            closing: CancellationToken::new(),
            parting: OnceLock::new(),
            counters,
        }
    }

    /// Applies the settings that can change while the server runs.
    pub(crate) fn reconfigure(&self, config: &Config) {
        self.max_connections.store(config.max_connections, Ordering::Relaxed);
        self.addresses.set_limits(address_limits(config));
        *self.trusted_proxies.write().unwrap_or_else(PoisonError::into_inner) =
            config.trusted_proxies.as_slice().into();
    }

    fn open(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `true` if this peer may name the client's address.
    pub(crate) fn is_trusted_proxy(&self, peer: IpAddr) -> bool {
        let proxies = self.trusted_proxies.read().unwrap_or_else(PoisonError::into_inner);
        proxies.iter().any(|network| network.contains(peer))
    }

    /// Admits one more connection, unless MAX_CONNECTIONS are open.
    pub(crate) fn admit(self: &Arc<Self>) -> Option<ConnectionPermit> {
        let mut open = self.open();
        if open.by_number.len() >= self.max_connections.load(Ordering::Relaxed) {
            return None;
        }
        let number = open.next;
        open.next += 1;
        open.by_number.insert(number, None);
        Some(ConnectionPermit { admission: Arc::clone(self), number, address: None })
    }

    /// The number of all connections, with or without a session.
    pub(crate) fn numbered_outboxes(&self) -> Vec<(u64, Arc<Outbox>)> {
        let open = self.open();
        let outboxes = open.by_number.iter().filter_map(|(number, outbox)| Some((number, outbox.as_ref()?)));
        outboxes.filter_map(|(number, outbox)| Some((*number, outbox.upgrade()?))).collect()
    }

    /// Begins the stop of the server: [`part`](Self::part) sends this reason to clients, and connections that get their
    /// outbox later are closed at once.
    pub(crate) fn begin_to_stop(&self, parting: Parting) {
        // Set only once: stopping consumes the server.
        let _ = self.parting.set(parting);
        self.closing.cancel();
    }

    /// Closes a connection because the server stops.
    pub(crate) fn part(&self, number: u64, outbox: &Outbox) {
        match self.parting.get() {
            Some(parting) => outbox.close_saying(CloseReason::Shutdown, parting.say(number)),
            None => outbox.close(CloseReason::Shutdown),
        }
    }
}

impl ConnectionPermit {
    /// Counts the connection for an address, once.
    pub(crate) fn count_for(&mut self, address: AddressKey) -> Result<(), Refusal> {
        self.admission.addresses.enter(address, Instant::now())?;
        self.address = Some(address);
        Ok(())
    }

    /// Registers the outbox of the connection, through which it can be closed.
    pub(crate) fn occupy(self, outbox: &Arc<Outbox>) -> Self {
        self.admission.open().by_number.insert(self.number, Some(Arc::downgrade(outbox)));
        if self.admission.closing.is_cancelled() {
            self.admission.part(self.number, outbox);
        }
        self
    }
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        if let Some(address) = self.address {
            self.admission.addresses.leave(address);
        }
        self.admission.open().by_number.remove(&self.number);
        self.admission.counters.connections_closed.increment();
    }
}

fn address_limits(config: &Config) -> AddressLimits {
    AddressLimits {
        connections: config.max_connections_per_address,
        connects_per_second: config.max_connects_per_address_per_second,
    }
}
