//! What the operating system knows of this process. Linux only; elsewhere these metrics are missing.

use std::fs;

/// Memory, time and files of this process.
pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    pub(super) resident_bytes: u64,
    pub(super) virtual_bytes: u64,
    pub(super) threads: u64,
    pub(super) start_seconds: f64,
    pub(super) open_files: Option<u64>,
    pub(super) most_files: Option<u64>,
}

impl Process {
    #[cfg(target_os = "linux")]
    pub(super) fn read() -> Option<Self> {
        let (ticks, page) = (rustix::param::clock_ticks_per_second(), rustix::param::page_size() as u64);
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        let boot = fs::read_to_string("/proc/stat").ok()?;
        let mut process = parse(&stat, &boot, ticks, page)?;
        // One is the folder that is read.
        process.open_files =
            fs::read_dir("/proc/self/fd").ok().map(|files| (files.count() as u64).saturating_sub(1));
        let limits = fs::read_to_string("/proc/self/limits").unwrap_or_default();
        let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
        process.most_files = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        Some(process)
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn read() -> Option<Self> {
        None
    }
}

/// Parses `/proc/self/stat` and the time of the boot in `/proc/stat`.
#[expect(clippy::cast_precision_loss, reason = "metrics are floating-point numbers")]
fn parse(stat: &str, boot: &str, ticks: u64, page: u64) -> Option<Process> {
    // The name of the program may contain spaces and parentheses.
    let (_, rest) = stat.rsplit_once(") ")?;
    let field = |number: usize| rest.split(' ').nth(number - 3)?.parse::<u64>().ok();
    let seconds = |count: u64| count as f64 / ticks as f64;
    let booted: u64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(Process {
        cpu_seconds: seconds(field(14)? + field(15)?),
        threads: field(20)?,
        start_seconds: booted as f64 + seconds(field(22)?),
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page,
        open_files: None,
        most_files: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_are_counted_after_the_name_of_the_program() {
        let stat = "7 (a b) c) S 1 7 7 0 -1 0 0 0 0 0 250 50 0 0 20 0 3 0 1000 4096 5 18446744073709551615 1";
        let process = parse(stat, "cpu 1\nbtime 1700000000\n", 100, 4096).unwrap();
        assert!((process.cpu_seconds - 3.0).abs() < 1e-9);
        assert!((process.start_seconds - 1_700_000_010.0).abs() < 1e-3);
        assert_eq!((process.threads, process.virtual_bytes, process.resident_bytes), (3, 4096, 20_480));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_has_memory_files_and_a_start() {
        let process = Process::read().unwrap();
        assert!(process.resident_bytes > 1 << 20 && process.virtual_bytes > process.resident_bytes);
        assert!(process.open_files.unwrap() > 2 && process.most_files.unwrap() > 2);
        assert!(process.start_seconds > 1e9 && process.threads > 0);
    }
}
