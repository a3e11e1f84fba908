//! The ids of messages that are in no log.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::message::PushId;
use crate::wire::IdSpace;

/// Numbers the messages that are in no log.
pub(crate) struct MemoryIds {
    ids: IdSpace,
    next: AtomicU64,
}

impl MemoryIds {
    pub(super) const fn new(ids: IdSpace) -> Self {
        Self { ids, next: AtomicU64::new(0) }
    }

    /// A new id.
    pub(crate) fn next(&self) -> PushId {
        self.ids.in_memory(self.next.fetch_add(1, Ordering::Relaxed))
    }
}
