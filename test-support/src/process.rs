//! A child process: started, signalled, killed, and gone with its owner.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::OpenOptions;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::Mutex;

/// The command that starts a program which ends with the thread that starts it, also when this process is killed:
/// through `setpriv`, which keeps the process id. Without `setpriv`, [`Process`] ends it when it is dropped.
pub fn command(program: impl AsRef<OsStr>) -> Command {
    let Some(setpriv) = find("setpriv") else { return Command::new(program) };
    let mut command = Command::new(setpriv);
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// The path of an installed program, also in folders that only root has in its `PATH`; `None` if it is not installed.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&folders)
        .chain(["/usr/sbin".into(), "/usr/local/sbin".into()])
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// A running process; killed when it is dropped, also while a test panics.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts a process without input. A command of [`command`] ends with this process.
    ///
    /// # Errors
    /// The program cannot be started; the text names the command.
    pub fn start(command: &mut Command) -> io::Result<Self> {
        Self::spawn(command.stdin(Stdio::null()))
    }

    /// Starts a process, and returns what writes to its stdin.
    ///
    /// # Errors
    /// The program cannot be started; the text names the command.
    pub fn start_with_input(command: &mut Command) -> io::Result<(Self, ChildStdin)> {
        let mut process = Self::spawn(command.stdin(Stdio::piped()))?;
        let input = process.child.stdin.take().ok_or_else(|| io::Error::other("there is no pipe"))?;
        Ok((process, input))
    }

    fn spawn(command: &mut Command) -> io::Result<Self> {
        let child = command
            .spawn()
            .map_err(|error| io::Error::new(error.kind(), format!("{command:?} does not start: {error}")))?;
        Ok(Self { child })
    }

    /// Starts a process that writes its output to the end of a file.
    ///
    /// # Errors
    /// The program cannot be started, or the file cannot be opened.
    pub fn start_with_log(command: &mut Command, log: &Path) -> io::Result<Self> {
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        Self::start(command.stdout(log.try_clone()?).stderr(log))
    }

    /// The process's stderr, if it is a pipe that nobody has taken yet.
    pub(crate) const fn stderr(&mut self) -> Option<ChildStderr> {
        self.child.stderr.take()
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal by name (`TERM`, `STOP`).
    pub fn signal(&self, name: &str) {
        // Every shell has a `kill`, also where there is no such program.
        let kill = format!("kill -s {name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// SIGTERM, without waiting.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// SIGSTOP: the process pauses until [`resume`](Self::resume).
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    /// SIGKILL; returns when the process has ended.
    pub fn kill(&mut self) {
        // An error means that it has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().unwrap()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A port of 127.0.0.1 on which nobody listens, below those that the system gives to outgoing connections, so that it
/// stays free while its server is stopped. A different one each time.
#[must_use]
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    let mut given = GIVEN.lock().unwrap();
    (0..1000)
        .map(|_| 16_000 + u16::try_from(random() % 16_000).unwrap())
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok() && given.insert(*port))
        .expect("no free port was found")
}

pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// The last lines of a file.
#[must_use]
pub fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_are_different() {
        let ports: BTreeSet<u16> = (0..50).map(|_| free_port()).collect();
        assert_eq!(ports.len(), 50);
    }

    #[test]
    fn a_program_that_cannot_be_started_is_named() {
        let error = Process::start(&mut Command::new("/nowhere/program")).unwrap_err();
        assert!(error.to_string().contains("/nowhere/program"), "{error}");
    }
}
