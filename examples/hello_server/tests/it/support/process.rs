//! The process of a `hello_server`.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use test_support::{Client, Program};

/// A running server; killed when it is dropped.
pub struct Process {
    program: Program,
    pub socket: SocketAddr,
    pub websocket: SocketAddr,
    /// Listeners with TLS, if the settings ask for them.
    pub tls: Vec<SocketAddr>,
}

/// The command that starts a server on this store, on free ports, with these settings.
pub fn command(store: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = test_support::command(env!("CARGO_BIN_EXE_hello_server"));
    command
        .env("JMQT_BIND_ADDRESS", "127.0.0.1")
        .env("JMQT_SOCKET_PORT", "0")
        .env("JMQT_WEBSOCKET_PORT", "0")
        .env("JMQT_SQLITE_PATH", store)
        .envs(settings.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    command
}

/// Runs a command until it ends by itself: how, and what it says.
pub fn run(command: &mut Command) -> (ExitStatus, String) {
    let output = test_support::run(command);
    (output.status, String::from_utf8(output.stderr).unwrap())
}

impl Process {
    /// Starts a server and waits until it listens.
    pub fn start(store: &Path, settings: &[(&str, &str)]) -> Self {
        let program = Program::start(&mut command(store, settings));
        let nowhere = SocketAddr::from(([0; 4], 0));
        let mut process = Self { program, socket: nowhere, websocket: nowhere, tls: Vec::new() };
        let has_tls = settings.iter().any(|(key, _)| *key == "JMQT_ENABLE_SSL");
        for _ in 0..if has_tls { 4 } else { 2 } {
            let line = process.next_logged("Listening on ");
            let mut words = line.split_whitespace().rev();
            let address = words.next().unwrap().parse().unwrap();
            match words.next().unwrap() {
                "tcp" => process.socket = address,
                "ws" => process.websocket = address,
                _ => process.tls.push(address),
            }
        }
        process
    }

    /// A client with a session over TCP.
    pub fn connect(&self, name: &str) -> Client {
        let mut client = Client::open(self.socket);
        client.conn(name, "");
        client
    }

    /// The same, for one that takes as many unacknowledged pushes as a client ever may.
    pub fn connect_with_window(&self, name: &str) -> Client {
        let mut client = Client::open(self.socket);
        client.conn(name, r#","wn":1024"#);
        client
    }
}

impl Deref for Process {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for Process {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}
