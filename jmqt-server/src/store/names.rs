//! A set of names kept in memory as fingerprints, to answer "surely not" without the database.

use std::hash::{BuildHasher, RandomState};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use std::collections::HashSet;

/// Names of one kind. It may hold names that are gone from the database, never lack one that is there.
///
/// A name is kept as 128 bits of two keyed hashes (SipHash, keys random for each process): two names
/// with the same fingerprint are not to be expected in the life of the universe, nor can they be made.
#[derive(Debug, Default)]
pub(super) struct NameSet {
    keys: [RandomState; 2],
    fingerprints: RwLock<HashSet<u128, foldhash::fast::RandomState>>,
}

impl NameSet {
    /// Whether the name may be there. `false` is certain.
    pub(super) fn may_contain(&self, name: &str) -> bool {
        let fingerprint = self.fingerprint(name);
        self.read().contains(&fingerprint)
    }

    /// Adds a name. To be called before the transaction that adds it is committed.
    pub(super) fn insert(&self, name: &str) {
        let fingerprint = self.fingerprint(name);
        self.write().insert(fingerprint);
    }

    /// Takes a name out. To be called after the transaction that removes it is committed, while no
    /// other can add it.
    pub(super) fn remove(&self, name: &str) {
        let fingerprint = self.fingerprint(name);
        self.write().remove(&fingerprint);
    }

    fn fingerprint(&self, name: &str) -> u128 {
        let [high, low] = self.keys.each_ref().map(|keys| u128::from(keys.hash_one(name)));
        high << 64 | low
    }

    fn read(&self) -> RwLockReadGuard<'_, HashSet<u128, foldhash::fast::RandomState>> {
        self.fingerprints.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashSet<u128, foldhash::fast::RandomState>> {
        self.fingerprints.write().unwrap_or_else(PoisonError::into_inner)
    }
}
