//! Bytes that all connections hold together, against a limit: one slow or hostile client is bounded by its own
//! limits, many of them by these.
//!
//! What a connection holds is counted in whole [units](Share::UNIT), so that the shared counter is left alone by
//! connections that hold little, which is nearly all of them nearly all of the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// What all connections may hold together of one kind.
#[derive(Debug)]
pub(crate) struct Budget {
    used: AtomicUsize,
    limit: usize,
}

impl Budget {
    pub(crate) fn new(limit: usize) -> Self {
        Self { used: AtomicUsize::new(0), limit }
    }

    pub(crate) fn is_used_up(&self) -> bool {
        self.used.load(Ordering::Relaxed) >= self.limit
    }

    /// What one connection holds has changed. Takes what there is, whether or not it is within the limit: it
    /// has been allocated. `false` if it grew and all of them hold too much now.
    pub(crate) fn change(&self, before: usize, now: usize) -> bool {
        if now > before {
            let grown = now - before;
            return self.used.fetch_add(grown, Ordering::Relaxed) + grown <= self.limit;
        }
        self.used.fetch_sub(before - now, Ordering::Relaxed);
        true
    }

    #[cfg(test)]
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// What one connection holds of a budget; given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    held: usize,
}

impl Share {
    /// What a connection holds is counted in multiples of this.
    const UNIT: usize = 4096;

    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), held: 0 }
    }

    /// The connection holds so many bytes now. `false` if all of them hold too much, and this one holds more
    /// than before.
    pub(crate) fn set(&mut self, bytes: usize) -> bool {
        let now = bytes / Self::UNIT * Self::UNIT;
        let before = std::mem::replace(&mut self.held, now);
        before == now || self.budget.change(before, now)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.set(0);
    }
}

/// The memory that this process may use: the machine's, or less if a control group says so. `None` where that
/// cannot be found out.
pub(crate) fn memory_bytes() -> Option<usize> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_total(&text));
    // A group within a container sees its own limit at the top; outside of one its path is listed.
    let group = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = group.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/").to_owned();
    let limits = std::iter::successors(Some(path.as_str()), |path| path.rsplit_once('/').map(|(up, _)| up))
        .map(|path| format!("/sys/fs/cgroup{path}/memory.max"))
        .chain(std::iter::once("/sys/fs/cgroup/memory/memory.limit_in_bytes".to_owned()))
        .filter_map(|file| std::fs::read_to_string(file).ok()?.trim().parse().ok());
    limits.chain(machine).min()
}

fn mem_total(meminfo: &str) -> Option<usize> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<usize>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_count_together_and_are_given_back() {
        let budget = Arc::new(Budget::new(10 * Share::UNIT));
        let (mut one, mut other) = (Share::new(&budget), Share::new(&budget));
        assert!(one.set(4095) && budget.used() == 0, "little is not counted");
        assert!(one.set(6 * Share::UNIT + 5) && other.set(4 * Share::UNIT));
        assert!(!other.set(5 * Share::UNIT), "that is more than there is");
        assert!(budget.is_used_up() && other.set(5 * Share::UNIT + 1), "it holds no more than before");
        drop(one);
        assert!(!budget.is_used_up());
        assert!(other.set(0) && budget.used() == 0);
    }

    #[test]
    fn the_memory_of_the_machine_is_read() {
        assert_eq!(mem_total("MemTotal:       24576 kB\nMemFree: 1 kB\n"), Some(24576 * 1024));
        assert_eq!(mem_total("MemFree: 1 kB\n"), None);
    }
}
