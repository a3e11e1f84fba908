//! A set of names, stored in memory as fingerprints. It excludes missing names without a database read.

use std::hash::{BuildHasher, RandomState};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use std::collections::HashSet;

/// Names of one kind. The set may contain names that are deleted in the database, but contains every name that exists.
///
/// A name is stored as 128 bits of two keyed hashes (SipHash, with random keys for each process): a
/// collision is practically impossible, and cannot be constructed.
#[derive(Debug, Default)]
pub(super) struct NameSet {
    keys: [RandomState; 2],
    fingerprints: RwLock<HashSet<u128, foldhash::fast::RandomState>>,
}

impl NameSet {
    /// Returns `true` if the name may exist. `false` is certain.
    pub(super) fn may_contain(&self, name: &str) -> bool {
        let fingerprint = self.fingerprint(name);
        self.read().contains(&fingerprint)
    }

    /// Adds a name. Call this before the commit of the transaction that adds the name.
    pub(super) fn insert(&self, name: &str) {
        let fingerprint = self.fingerprint(name);
        self.write().insert(fingerprint);
    }

    /// Removes a name. Call this after the commit of the transaction that removes the name, while no
    /// other transaction can add it.
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
