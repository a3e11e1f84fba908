//! What a process has used, from `/proc`: CPU time to the nanosecond, resident memory.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

/// A reading. Two of them tell what was used between.
pub(crate) struct Usage {
    /// Nanoseconds on a CPU, by thread: `schedstat` is exact where `stat` counts in ticks of 10 ms.
    threads: HashMap<String, u64>,
    pub(crate) resident_bytes: u64,
}

impl Usage {
    /// Reads `/proc/<process>`.
    pub(crate) fn of(process: &str) -> Result<Self> {
        let mut threads = HashMap::new();
        let tasks = format!("/proc/{process}/task");
        for entry in fs::read_dir(&tasks).with_context(|| format!("{tasks}: the server is gone"))? {
            let thread = entry?.file_name().to_string_lossy().into_owned();
            // A thread may end between the listing and the reading.
            if let Ok(text) = fs::read_to_string(format!("{tasks}/{thread}/schedstat")) {
                let nanos = text.split(' ').next().and_then(|field| field.parse().ok());
                threads.insert(thread, nanos.context("schedstat without a number")?);
            }
        }
        let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup"))?;
        let resident = rollup
            .lines()
            .find_map(|line| line.strip_prefix("Rss:"))
            .and_then(|rest| rest.trim().strip_suffix("kB"))
            .and_then(|number| number.trim().parse::<u64>().ok())
            .context("smaps_rollup without Rss")?;
        Ok(Self { threads, resident_bytes: resident * 1024 })
    }

    /// The same, with what another process has used.
    pub(crate) fn with(mut self, other: Self) -> Self {
        self.threads.extend(other.threads); // threads have numbers of their own in the whole system
        self.resident_bytes += other.resident_bytes;
        self
    }

    /// CPU time of all threads between two readings. What a thread used that ended in between is not seen:
    /// none of these servers lets working threads end under load.
    pub(crate) fn cpu_between(before: &Self, after: &Self) -> Duration {
        let nanos = after
            .threads
            .iter()
            .map(|(thread, nanos)| nanos.saturating_sub(before.threads.get(thread).copied().unwrap_or(0)));
        Duration::from_nanos(nanos.sum())
    }
}

/// The load generator's own.
pub(crate) fn of_this_process() -> Result<Usage> {
    Usage::of("self")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn the_cpu_time_of_a_busy_loop_is_measured() {
        let before = of_this_process().unwrap();
        let start = Instant::now();
        // How much of the time it has a CPU is the machine's business.
        loop {
            let after = of_this_process().unwrap();
            if Usage::cpu_between(&before, &after) >= Duration::from_millis(5) {
                assert!(after.resident_bytes > 100_000);
                return;
            }
            assert!(start.elapsed() < Duration::from_secs(60), "CPU time is not counted");
        }
    }
}
