//! A server process: started in a folder of its own, killed when dropped.

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;

use super::install;
use super::usage::Usage;

const START_LIMIT: Duration = Duration::from_secs(15);
const LOG: &str = "output.log";

/// A child process and its files.
pub(crate) struct Process {
    child: Child,
    /// Goes with the process.
    folder: TempDir,
}

impl Process {
    /// Runs `command` in `folder` and returns when `address` takes connections.
    ///
    /// # Errors
    /// With the end of its output, if it stops or does not listen in time.
    pub(crate) fn start(command: &Command, folder: TempDir, address: SocketAddr) -> Result<Self> {
        let output = File::create(folder.path().join(LOG))?;
        let child = tied_to_us(command)
            .current_dir(folder.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {:?}", command.get_program()))?;
        let mut process = Self { child, folder };
        let start = Instant::now();
        while TcpStream::connect(address).is_err() {
            let ended = process.child.try_wait()?;
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
        Usage::of(&self.child.id().to_string())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Fails only if it has ended by itself, and then there is nothing left to do.
        let _ = self.child.kill();
        let _ = self.child.wait();
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

/// The same command, set to die with this process even if that is killed: through `setpriv`, which keeps
/// the process id, where there is one.
fn tied_to_us(command: &Command) -> Command {
    let mut tied = match install::find("setpriv") {
        Some(setpriv) => {
            let mut tied = Command::new(setpriv);
            tied.args(["--pdeathsig", "KILL"]).arg(command.get_program());
            tied
        }
        None => Command::new(command.get_program()),
    };
    tied.args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => tied.env(key, value),
            None => tied.env_remove(key),
        };
    }
    tied
}
