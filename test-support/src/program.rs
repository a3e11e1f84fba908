//! A program: started, watched, signalled, and ended with its test.

use std::io::Read;
use std::process::{ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::log::Log;
use crate::process::Process;
use crate::until;

/// Runs a command until it ends by itself.
pub fn run(command: &mut Command) -> Output {
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (stdout, stderr) = (read_all(child.stdout.take().unwrap()), read_all(child.stderr.take().unwrap()));
    let status = until("the end of a program", || child.try_wait().unwrap());
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn read_all(mut from: impl Read + Send + 'static) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut read = Vec::new();
        from.read_to_end(&mut read).unwrap();
        read
    })
}

/// A running program and its log. It is killed when it is dropped, also while a test panics, which shows the log.
#[derive(Debug)]
pub struct Program {
    process: Process,
    log: Arc<Log>,
}

impl Program {
    /// Starts a program that logs to stderr.
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let process =
            Process::start(command.stderr(Stdio::piped())).unwrap_or_else(|error| panic!("{error}"));
        Self::of(process)
    }

    /// Starts a program that logs to stderr, and returns what writes to its stdin.
    #[track_caller]
    pub fn start_with_input(command: &mut Command) -> (Self, ChildStdin) {
        let started = Process::start_with_input(command.stderr(Stdio::piped()));
        let (process, input) = started.unwrap_or_else(|error| panic!("{error}"));
        (Self::of(process), input)
    }

    fn of(mut process: Process) -> Self {
        let log = Log::of(process.stderr().unwrap());
        Self { process, log }
    }

    /// Waits for the first log line with this text.
    #[track_caller]
    pub fn logged(&self, text: &str) -> String {
        self.log.first(text)
    }

    /// Waits for the next log line with this text, after those that this function has returned; lines before it are
    /// passed over.
    #[track_caller]
    pub fn next_logged(&self, text: &str) -> String {
        self.log.next(text)
    }

    /// The log lines with this text so far.
    #[must_use]
    pub fn log_lines(&self, text: &str) -> Vec<String> {
        self.log.lines(text)
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// Sends a signal by name (`TERM`, `HUP`).
    pub fn signal(&self, name: &str) {
        self.process.signal(name);
    }

    /// SIGKILL; returns when the process has ended.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.process.ended()
    }

    /// Waits for its end, and until its log is complete.
    #[track_caller]
    pub fn wait(&mut self) -> ExitStatus {
        let status = until("the end of a program", || self.ended());
        self.log.end();
        status
    }

    /// Waits for its end, and returns the exit code.
    #[track_caller]
    pub fn exit_code(&mut self) -> Option<i32> {
        self.wait().code()
    }

    /// Resident memory in bytes.
    #[must_use]
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that was ever resident, in bytes.
    #[must_use]
    pub fn most_resident(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the log of process {}:\n{}", self.id(), self.log.lines("").join("\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command;

    #[test]
    fn a_program_ends_with_the_test_that_panics() {
        let id = std::panic::catch_unwind(|| {
            let program = Program::start(command("sleep").arg("1000"));
            std::panic::panic_any(program.id());
        })
        .unwrap_err();
        let id = id.downcast::<u32>().unwrap();
        let is_gone = || !std::path::Path::new(&format!("/proc/{id}")).exists();
        assert!(is_gone());
    }

    #[test]
    fn log_lines_are_waited_for_in_order_or_from_the_beginning() {
        let program =
            Program::start(command("sh").args(["-c", "echo one >&2; echo two >&2; echo one more >&2"]));
        assert_eq!(program.next_logged("one"), "one");
        assert_eq!(program.next_logged("one"), "one more");
        assert_eq!(program.logged("two"), "two");
        assert_eq!(program.log_lines("one"), ["one", "one more"]);
    }
}
