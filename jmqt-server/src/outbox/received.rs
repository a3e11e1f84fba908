//! The packet identifiers of the QoS 2 publishes that a client has not released (MQTT 5.0, 4.3.3).
//!
//! A client before MQTT 5 may use all of them, so a set of many is a bitmap, and no set takes more than 8 KiB.

use std::collections::HashSet;

use crate::wire::PacketId;

/// A hash set of this many identifiers is about as large as the bitmap.
const FEW: usize = 1024;

#[derive(Debug)]
pub(super) enum Received {
    Few(HashSet<PacketId, foldhash::fast::RandomState>),
    Many(Box<Bitmap>),
}

#[derive(Debug)]
pub(super) struct Bitmap {
    words: [u64; Self::WORDS],
    count: usize,
}

impl Bitmap {
    const WORDS: usize = (u16::MAX as usize + 1) / u64::BITS as usize;

    fn place(id: PacketId) -> (usize, u64) {
        (usize::from(id.get()) / u64::BITS as usize, 1 << (u32::from(id.get()) % u64::BITS))
    }

    fn contains(&self, id: PacketId) -> bool {
        let (word, bit) = Self::place(id);
        self.words[word] & bit != 0
    }

    fn insert(&mut self, id: PacketId) {
        let (word, bit) = Self::place(id);
        self.count += usize::from(!self.contains(id));
        self.words[word] |= bit;
    }

    fn remove(&mut self, id: PacketId) -> bool {
        let (word, bit) = Self::place(id);
        let was_there = self.contains(id);
        self.count -= usize::from(was_there);
        self.words[word] &= !bit;
        was_there
    }
}

impl Default for Received {
    fn default() -> Self {
        Self::Few(HashSet::default())
    }
}

impl Received {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Few(ids) => ids.len(),
            Self::Many(ids) => ids.count,
        }
    }

    pub(super) fn contains(&self, id: PacketId) -> bool {
        match self {
            Self::Few(ids) => ids.contains(&id),
            Self::Many(ids) => ids.contains(id),
        }
    }

    pub(super) fn insert(&mut self, id: PacketId) {
        if let Self::Few(ids) = self
            && ids.len() == FEW
        {
            let mut many = Box::new(Bitmap { words: [0; Bitmap::WORDS], count: 0 });
            ids.iter().for_each(|id| many.insert(*id));
            *self = Self::Many(many);
        }
        match self {
            Self::Few(ids) => {
                ids.insert(id);
            }
            Self::Many(ids) => ids.insert(id),
        }
    }

    /// Returns `false` if the identifier is not in the set. An empty set takes no memory, because an idle session is small.
    pub(super) fn remove(&mut self, id: PacketId) -> bool {
        let was_there = match self {
            Self::Few(ids) => ids.remove(&id),
            Self::Many(ids) => ids.remove(id),
        };
        if self.len() == 0 {
            *self = Self::default();
        }
        was_there
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_all_packet_identifiers_and_becomes_small_again() {
        let all = || (1..=u16::MAX).filter_map(PacketId::new);
        let mut ids = Received::default();
        for (before, id) in all().enumerate() {
            assert!(!ids.contains(id), "{id}");
            ids.insert(id);
            ids.insert(id);
            assert!(ids.contains(id), "{id}");
            assert_eq!(ids.len(), before + 1);
        }
        assert!(matches!(ids, Received::Many(_)));
        for (before, id) in all().enumerate() {
            assert!(ids.remove(id) && !ids.contains(id) && !ids.remove(id), "{id}");
            assert_eq!(ids.len(), usize::from(u16::MAX) - before - 1);
        }
        assert!(matches!(ids, Received::Few(few) if few.capacity() == 0));
    }
}
