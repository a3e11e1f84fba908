//! Limits the connections of each address: their number, and the rate of new ones.
//!
//! An address is an IPv4 address or the /64 of an IPv6 address, the usual allocation for one customer. The table
//! contains an address while it has connections, and until its allowance for new connections is full again. Its size is
//! limited by the open connections and the attempts of one second. Not here: determining the address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

/// The table is cleaned when it reaches this size, then when it reaches twice the size after the last cleaning.
const FIRST_SWEEP: usize = 1024;
/// The most entries without open connections. An address without an entry has no rate limit.
const MAX_IDLE_ENTRIES: usize = 1 << 17;
/// The time in which an empty allowance becomes full.
const SECOND_MILLIS: u64 = 1000;

/// The limits of an address. `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct AddressLimits {
    pub(crate) connections: Option<u32>,
    pub(crate) connects_per_second: Option<u32>,
}

/// The limit that refuses another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// The address has MAX_CONNECTIONS_PER_ADDRESS connections.
    TooMany,
    /// The address made MAX_CONNECTS_PER_ADDRESS_PER_SECOND connections within a second.
    TooFast,
}

/// The connections of all addresses.
pub(crate) struct Addresses {
    start: Instant,
    table: Mutex<Table>,
}

struct Table {
    limits: AddressLimits,
    by_key: HashMap<Key, Entry>,
    sweep_at: usize,
}

/// The unit of counting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Key {
    V4([u8; 4]),
    /// The first 64 bits.
    V6([u8; 8]),
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    open: u32,
    /// The allowance for new connections at the time `at`, in thousandths of a connection.
    allowance: u64,
    /// Milliseconds since the start.
    at: u64,
}

impl Key {
    /// `None` for loopback addresses, which have no limit: connections of a local proxy that does not name its
    /// clients come from there, as do tests and measurements.
    pub(crate) fn of(address: IpAddr) -> Option<Self> {
        match address.to_canonical() {
            address if address.is_loopback() => None,
            IpAddr::V4(address) => Some(Self::V4(address.octets())),
            IpAddr::V6(address) => {
                let [a, b, c, d, e, f, g, h, ..] = address.octets();
                Some(Self::V6([a, b, c, d, e, f, g, h]))
            }
        }
    }
}

impl Addresses {
    pub(crate) fn new(limits: AddressLimits) -> Self {
        // The keyed hash of the standard library resists collisions: clients choose their addresses.
        let table = Table { limits, by_key: HashMap::new(), sweep_at: FIRST_SWEEP };
        Self { start: Instant::now(), table: Mutex::new(table) }
    }

    pub(crate) fn set_limits(&self, limits: AddressLimits) {
        self.table().limits = limits;
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts one more connection of this address, unless it exceeds a limit. [`leave`](Self::leave) ends the
    /// connection.
    pub(crate) fn enter(&self, key: Key, now: Instant) -> Result<(), Refusal> {
        let now = u64::try_from(now.saturating_duration_since(self.start).as_millis()).unwrap_or(u64::MAX);
        let mut table = self.table();
        let AddressLimits { connections, connects_per_second } = table.limits;
        if connections.is_none() && connects_per_second.is_none() {
            // Connections are counted even without limits: limits may be set while they are open.
            table.entry(key, now, 0).open += 1;
            return Ok(());
        }
        let full = u64::from(connects_per_second.unwrap_or(u32::MAX)) * SECOND_MILLIS;
        let entry = table.entry(key, now, full);
        if connections.is_some_and(|limit| entry.open >= limit) {
            return Err(Refusal::TooMany);
        }
        let gained = now.saturating_sub(entry.at).saturating_mul(full / SECOND_MILLIS);
        entry.allowance = entry.allowance.saturating_add(gained).min(full);
        entry.at = now;
        if entry.allowance < SECOND_MILLIS {
            return Err(Refusal::TooFast);
        }
        entry.allowance -= SECOND_MILLIS;
        entry.open += 1;
        Ok(())
    }

    /// A connection that was counted has ended.
    pub(crate) fn leave(&self, key: Key) {
        if let Some(entry) = self.table().by_key.get_mut(&key) {
            entry.open = entry.open.saturating_sub(1);
        }
    }
}

impl Table {
    fn entry(&mut self, key: Key, now: u64, allowance: u64) -> &mut Entry {
        if self.by_key.len() >= self.sweep_at && !self.by_key.contains_key(&key) {
            self.sweep(now);
        }
        self.by_key.entry(key).or_insert(Entry { open: 0, allowance, at: now })
    }

    /// Removes entries that are equal to a new entry.
    fn sweep(&mut self, now: u64) {
        let is_needed = |entry: &Entry| entry.open > 0 || now.saturating_sub(entry.at) < SECOND_MILLIS;
        self.by_key.retain(|_, entry| is_needed(entry));
        let idle = self.by_key.values().filter(|entry| entry.open == 0).count();
        if idle > MAX_IDLE_ENTRIES {
            self.by_key.retain(|_, entry| entry.open > 0);
        }
        self.by_key.shrink_to(self.by_key.len() * 2);
        self.sweep_at = FIRST_SWEEP.max(self.by_key.len() * 2);
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::time::Duration;

    use super::*;

    fn key(address: &str) -> Key {
        Key::of(address.parse().unwrap()).unwrap()
    }

    fn addresses(connections: Option<u32>, connects_per_second: Option<u32>) -> Addresses {
        Addresses::new(AddressLimits { connections, connects_per_second })
    }

    #[test]
    fn connections_of_an_address_are_limited_and_counted_down() {
        let addresses = addresses(Some(2), None);
        let (alice, bob, now) = (key("192.0.2.1"), key("192.0.2.2"), Instant::now());
        assert_eq!([(); 3].map(|()| addresses.enter(alice, now)), [Ok(()), Ok(()), Err(Refusal::TooMany)]);
        assert_eq!(addresses.enter(bob, now), Ok(()));
        addresses.leave(alice);
        assert_eq!([(); 2].map(|()| addresses.enter(alice, now)), [Ok(()), Err(Refusal::TooMany)]);
    }

    #[test]
    fn connections_of_an_address_per_second_are_limited() {
        let addresses = addresses(None, Some(3));
        let (alice, start) = (key("192.0.2.1"), Instant::now());
        let made = |after: u64| {
            let at = start + Duration::from_millis(after);
            (0..10).take_while(|_| addresses.enter(alice, at).is_ok()).count()
        };
        assert_eq!(made(0), 3);
        assert_eq!(made(300), 0);
        assert_eq!(made(400), 1, "one for each third of a second");
        assert_eq!(made(60_000), 3, "not more than a second's");
    }

    #[test]
    fn an_ipv6_address_counts_by_its_first_64_bits_and_a_mapped_address_as_ipv4() {
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:0:0:1"));
        assert_ne!(key("2001:db8:0:1::1"), key("2001:db8::1"));
        assert_eq!(key("::ffff:192.0.2.1"), key("192.0.2.1"));
        for loopback in ["127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(Key::of(loopback.parse().unwrap()), None, "{loopback}");
        }
    }

    #[test] // a scan from many addresses must not fill the memory
    fn the_table_forgets_addresses_without_connections() {
        let addresses = addresses(Some(100), Some(50));
        let start = Instant::now();
        let stays = key("203.0.113.1");
        addresses.enter(stays, start).unwrap();
        for number in 0..1_000_000_u32 {
            let key = Key::of(Ipv4Addr::from_bits(0x0A00_0000 + number).into()).unwrap();
            addresses.enter(key, start + Duration::from_micros(u64::from(number) * 20)).unwrap();
            addresses.leave(key);
        }
        // 50,000 addresses a second; the table may contain those of two seconds.
        assert!(addresses.table().by_key.len() < 200_000, "{}", addresses.table().by_key.len());
        assert_eq!(addresses.table().by_key[&stays].open, 1);
    }

    #[test]
    fn limits_can_be_changed_while_connections_are_open() {
        let addresses = addresses(None, None);
        let (alice, now) = (key("192.0.2.1"), Instant::now());
        assert_eq!([(); 3].map(|()| addresses.enter(alice, now)), [Ok(()); 3]);
        addresses.set_limits(AddressLimits { connections: Some(3), connects_per_second: Some(5) });
        assert_eq!(addresses.enter(alice, now), Err(Refusal::TooMany));
        addresses.leave(alice);
        assert_eq!(addresses.enter(alice, now + Duration::from_secs(1)), Ok(()));
    }
}
