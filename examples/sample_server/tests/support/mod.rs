//! The sample server as its users have it, a process with a log and a port, and clients that say
//! exactly what they are told to.
//!
//! Waits are on packets, log lines and the end of the process; each has a [`DEADLINE`], after which the
//! test fails and shows what there was. Nothing sleeps to let something happen.

// Each file of tests is a crate of its own, and none uses everything that is here.
#![allow(dead_code, unreachable_pub, unused_imports)]
// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{Command, ExitStatus, Output, Stdio};

use serde_json::Value;
use test_support::Program;
pub use test_support::{DEADLINE, run as run_to_end};

/// The program, in this folder, with no environment but what is given.
pub fn program(folder: &Path, environment: &[(&str, &str)]) -> Command {
    let mut command = test_support::command(env!("CARGO_BIN_EXE_sample_server"));
    surround(&mut command, folder, environment);
    command
}

fn surround(command: &mut Command, folder: &Path, environment: &[(&str, &str)]) {
    command.current_dir(folder).env_clear();
    command.envs([
        ("JMQT_BIND_ADDRESS", "127.0.0.1"),
        ("JMQT_SOCKET_PORT", "0"),
        ("JMQT_WEBSOCKET_PORT", "0"),
    ]);
    command.env("JMQT_SQLITE_PATH", folder.join("jmqt.db"));
    command.envs(environment.iter().copied());
    command.stdin(Stdio::null());
}

/// Runs the program with these arguments until it ends by itself.
pub fn run(folder: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Output {
    run_to_end(program(folder, environment).args(arguments))
}

/// A running sample server. It is killed when it is dropped.
pub struct Server {
    program: Program,
    address: SocketAddr,
}

impl Server {
    /// Starts with its store in this folder, and waits until it listens.
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, &[])
    }

    /// The same, with more in its environment.
    pub fn start_with(folder: &Path, environment: &[(&str, &str)]) -> Self {
        Self::await_start(program(folder, environment).args(["--web-port", "0"]))
    }

    /// The same, with its web page on this port.
    pub fn start_with_page(folder: &Path, port: &str) -> Self {
        Self::start_with_words(folder, &["--web-port", port])
    }

    /// The same, with these arguments.
    pub fn start_with_words(folder: &Path, words: &[&str]) -> Self {
        Self::await_start(program(folder, &[]).args(words))
    }

    /// The same, with its web page where it usually is.
    pub fn start_with_usual_page(folder: &Path) -> Self {
        Self::await_start(&mut program(folder, &[]))
    }

    /// The same, without a page, in a shell that has run this before, such as `ulimit -n 64`.
    pub fn start_after(folder: &Path, before: &str, environment: &[(&str, &str)]) -> Self {
        let mut command = test_support::command("/bin/sh");
        surround(&mut command, folder, environment);
        let run = concat!(env!("CARGO_BIN_EXE_sample_server"), " --web-port 0");
        command.args(["-c", &format!("{before}; exec {run}")]);
        Self::await_start(&mut command)
    }

    fn await_start(command: &mut Command) -> Self {
        let program = Program::start(command);
        let listening = "Listening on tcp ";
        let line = program.logged(listening);
        let (_, address) = line.split_once(listening).unwrap();
        Self { program, address: address.parse().unwrap() }
    }

    /// Where it listens for JMQT over TCP.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection on which nothing has been said.
    pub fn connect(&self) -> Client {
        Client(test_support::Client::open(self.address))
    }

    /// A client that is authenticated and connected, and has heard that it is online.
    pub fn enter(&self, name: &str) -> Client {
        let mut client = self.connect();
        let token = client.authenticate(name);
        client.open_session(name, &token);
        client
    }

    /// Sends a signal, such as `TERM`, and waits for the end.
    pub fn stop(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        self.wait()
    }
}

impl Deref for Server {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for Server {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}

/// A connection of a client.
pub struct Client(test_support::Client);

impl Deref for Client {
    type Target = test_support::Client;

    fn deref(&self) -> &test_support::Client {
        &self.0
    }
}

impl DerefMut for Client {
    fn deref_mut(&mut self) -> &mut test_support::Client {
        &mut self.0
    }
}

impl Client {
    /// The next packet is this one.
    #[track_caller]
    pub fn expect(&mut self, packet: &str) {
        self.expect_exactly(packet);
    }

    /// The next packet is the server's, on the presence channel.
    #[track_caller]
    pub fn expect_presence(&mut self, data: &str) {
        self.expect(&format!(r#"{{"push":{{"cn":"update","dt":{data},"cl":""}}}}"#));
    }

    /// What comes is presence, until it names this client among those who are online. Others may be told in one message
    /// with it, or before.
    #[track_caller]
    pub fn expect_to_be_online(&mut self, name: &str) {
        loop {
            let packet = self.receive().unwrap();
            let push: Value = serde_json::from_str(&packet).unwrap();
            assert_eq!(push["push"]["cn"], "update", "{packet}");
            let online = &push["push"]["dt"]["online"];
            if online == name || online.as_array().is_some_and(|names| names.contains(&name.into())) {
                return;
            }
        }
    }

    /// The server says with this code why it ends the connection, and ends it (protocol.md 2.22).
    #[track_caller]
    pub fn expect_disconn(&mut self, code: u16) {
        let last = self.receive().unwrap();
        let packet: Value = serde_json::from_str(&last).unwrap();
        assert_eq!(packet["disconn"]["st"], code, "{last}");
        self.expect_end();
    }

    /// Gets a token under this name.
    #[track_caller]
    pub fn authenticate(&mut self, name: &str) -> String {
        self.authenticate_with(&format!(r#"{{"client_name":"{name}"}}"#))
    }

    /// Sends a `conn`.
    pub fn conn(&mut self, name: &str, token: &str) {
        self.send_conn(name, token, "");
    }

    /// Connects, and hears that it is online.
    #[track_caller]
    pub fn open_session(&mut self, name: &str, token: &str) {
        self.conn(name, token);
        self.expect(r#"{"connAck":{"st":1,"ts":60}}"#);
        self.expect_to_be_online(name);
    }
}
