//! The division of the processors between the server and the clients.
//!
//! Attackers on this machine would take processor time that attackers elsewhere do not take. So the server gets one half
//! of the processors and the clients the other half, where bystanders have a higher priority than attackers.

use anyhow::Result;
use rustix::process::setpriority_process;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The processors of this program, divided.
pub(super) struct Processors {
    server: CpuSet,
    clients: CpuSet,
}

/// The lowest priority there is.
const LAST: i32 = 19;

impl Processors {
    /// With one processor there is nothing to divide: all share it.
    pub(super) fn divided() -> Result<Self> {
        let all = sched_getaffinity(None)?;
        let processors: Vec<_> = (0..CpuSet::MAX_CPU).filter(|cpu| all.is_set(*cpu)).collect();
        if processors.len() < 2 {
            return Ok(Self { server: all, clients: all });
        }
        let (server, clients) = processors.split_at(processors.len() / 2);
        Ok(Self { server: set_of(server), clients: set_of(clients) })
    }

    /// Starts something on the server's processors; the caller stays on those of the clients from now on.
    pub(super) fn on_server<T>(&self, start: impl FnOnce() -> Result<T>) -> Result<T> {
        sched_setaffinity(None, &self.server)?;
        let started = start();
        sched_setaffinity(None, &self.clients)?;
        started
    }
}

fn set_of(processors: &[usize]) -> CpuSet {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor);
    }
    set
}

/// This thread, and those that it starts, run when no bystander has anything to do.
pub(super) fn give_way() -> Result<()> {
    // On Linux a priority is that of a thread; `None` is the calling one.
    setpriority_process(None, LAST)?;
    Ok(())
}
