//! Limits the bytes that all connections hold together: limits per connection bound one slow or hostile client, these
//! bound many of them.
//!
//! The bytes of a connection are counted in whole [units](Share::UNIT), so that connections that hold little, which are
//! most of them most of the time, do not touch the shared counter.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The limit of bytes of one kind for all connections together.
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

    /// Changes the bytes of one connection. The new value counts even beyond the limit, because the memory
    /// is allocated already. `false` if the value grew and the total exceeds the limit.
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

/// The bytes of one connection in a budget; returned on drop.
#[derive(Debug)]
pub(crate) struct Share {
    budget: Arc<Budget>,
    held: usize,
}

impl Share {
    /// The unit of counting, in bytes.
    const UNIT: usize = 4096;

    pub(crate) fn new(budget: &Arc<Budget>) -> Self {
        Self { budget: Arc::clone(budget), held: 0 }
    }

    /// Sets the bytes that the connection holds. `false` if the total exceeds the limit and this connection
    /// holds more than before.
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

/// The memory that this process may use: that of the machine, or the smaller limit of a control group. `None` if it
/// is unknown.
pub(crate) fn memory_bytes() -> Option<usize> {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| mem_total(&text));
    // Within a container, the group's limit is at the top of the hierarchy; outside, the path is listed.
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
    fn shares_are_added_up_and_returned_on_drop() {
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
