//! Read buffers, lent to a session while it handles received bytes. An idle session has none.

use std::cell::RefCell;

/// The buffer size of a session with little traffic.
const SMALL_BYTES: usize = 4 * 1024;
/// The buffer size of a session that fills the small buffer: the most that one read takes.
pub(super) const LARGE_BYTES: usize = 64 * 1024;
/// The number of buffers of each size that a thread keeps.
const KEPT: usize = 8;

thread_local! {
    static SMALL: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
    static LARGE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// A borrowed buffer, returned when it is dropped.
pub(crate) struct ReadBuffer(Box<[u8]>);

/// The size of the next read, derived from the last one.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum ReadSize {
    #[default]
    Small,
    Large,
}

impl ReadSize {
    /// Adapts the size after a read of this many bytes.
    pub(super) fn adapt(&mut self, received: usize) {
        if received >= SMALL_BYTES {
            *self = Self::Large;
        } else if received < SMALL_BYTES / 2 {
            *self = Self::Small;
        }
    }
}

impl ReadBuffer {
    pub(super) fn lend(size: ReadSize) -> Self {
        let (pool, bytes) = match size {
            ReadSize::Small => (&SMALL, SMALL_BYTES),
            ReadSize::Large => (&LARGE, LARGE_BYTES),
        };
        let kept = pool.with_borrow_mut(Vec::pop);
        Self(kept.unwrap_or_else(|| vec![0; bytes].into_boxed_slice()))
    }

    pub(super) fn as_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    pub(crate) fn filled(&self, length: usize) -> &[u8] {
        &self.0[..length]
    }
}

impl Drop for ReadBuffer {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        let pool = if buffer.len() == SMALL_BYTES { &SMALL } else { &LARGE };
        // A thread that is ending has no pool any more; then the buffer is simply freed.
        let _ = pool.try_with(|pool| {
            let mut pool = pool.borrow_mut();
            if pool.len() < KEPT {
                pool.push(buffer);
            }
        });
    }
}
