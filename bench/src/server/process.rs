//! A server process: started in a folder of its own, killed when dropped.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use tempfile::TempDir;

use super::usage::Usage;

const START_LIMIT: Duration = Duration::from_secs(15);
const LOG: &str = "output.log";

/// A child process and its files.
pub(crate) struct Process {
    process: test_support::Process,
    /// Deleted after the process has ended.
    folder: TempDir,
}

impl Process {
    /// Runs a command of [`test_support::command`] in `folder` and returns when `address` takes connections.
    ///
    /// # Errors
    /// With the end of its output, if it stops or does not listen in time.
    pub(crate) fn start(command: &mut Command, folder: TempDir, address: SocketAddr) -> Result<Self> {
        command.current_dir(folder.path());
        let process = test_support::Process::start_with_log(command, &folder.path().join(LOG))?;
        let mut process = Self { process, folder };
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = process.process.ended();
            if ended.is_some() || start.elapsed() > START_LIMIT {
                let said = process.last_words();
                bail!("{command:?} does not answer on {address} ({ended:?}):\n{said}");
            }
            sleep(Duration::from_millis(5));
        }
        Ok(process)
    }

    /// The end of what it printed.
    pub(crate) fn last_words(&self) -> String {
        let output = fs::read(self.folder.path().join(LOG)).unwrap_or_default();
        let from = output.len().saturating_sub(2_000);
        String::from_utf8_lossy(&output[from..]).trim().to_owned()
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        Usage::of(&self.process.id().to_string())
    }
}

/// Loopback addresses that nobody listens on, all different.
pub(crate) fn free_addresses<const N: usize>() -> Result<[SocketAddr; N]> {
    let mut listeners = Vec::with_capacity(N);
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); N];
    for address in &mut addresses {
        let listener = TcpListener::bind(*address)?;
        *address = listener.local_addr()?;
        listeners.push(listener);
    }
    Ok(addresses)
}
