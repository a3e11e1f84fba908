//! A `jmqtd` in a folder of its own, and clients that log in.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use jmqt_client::mqtt::{self, Options};
use tempfile::TempDir;
use test_support::{Client, Program};

/// What all brokers here have in common.
const PORTS: &str = "BIND_ADDRESS = '127.0.0.1'\nSOCKET_PORT = 0\nMQTT_PORT = 0\nSQLITE_PATH = 'jmqt.db'\n";

/// A broker; killed when it is dropped.
pub(crate) struct Broker {
    pub(crate) folder: Folder,
    pub(crate) program: Program,
    pub(crate) jmqt: SocketAddr,
    pub(crate) mqtt: SocketAddr,
    /// Of MQTT over TLS, if the configuration has a port for it.
    pub(crate) tls: Option<SocketAddr>,
}

/// The folder of a broker, with its files.
pub(crate) struct Folder(TempDir);

impl Folder {
    /// With this configuration, in addition to ports and store.
    pub(crate) fn new(configuration: &str) -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        folder.write("jmqtd.conf", &format!("{PORTS}{configuration}\n"));
        folder
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// Adds a user to `users.passwd`, as an operator does.
    pub(crate) fn add_user(&self, user: &str, password: &str) {
        let output = self.run_with(&["passwd", "users.passwd", user], password);
        assert!(output.status.success(), "{}", text(&output));
    }

    /// Runs `jmqtd` until it ends.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.run_with(arguments, "")
    }

    /// The same, with this input.
    pub(crate) fn run_with(&self, arguments: &[&str], input: &str) -> Output {
        let mut command = self.command();
        let mut child = command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that reads no input may have ended before.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Runs `jmqtd` with these environment variables until it ends.
    pub(crate) fn run_in(&self, arguments: &[&str], variables: &[(&str, String)]) -> Output {
        let variables = variables.iter().map(|(name, value)| (name, value));
        self.command().args(arguments).envs(variables).stdin(Stdio::null()).output().unwrap()
    }

    pub(crate) fn command(&self) -> Command {
        let mut command = test_support::command(env!("CARGO_BIN_EXE_jmqtd"));
        command.current_dir(self.0.path());
        command
    }

    pub(crate) fn start(self) -> Broker {
        self.start_with(2)
    }

    /// Starts a broker with so many listeners.
    pub(crate) fn start_with(self, listeners: usize) -> Broker {
        self.start_in(listeners, &[])
    }

    /// The same, with these environment variables.
    pub(crate) fn start_in(self, listeners: usize, variables: &[(&str, &str)]) -> Broker {
        let mut command = self.command();
        command.envs(variables.iter().copied());
        let program = Program::start(command.stdin(Stdio::null()).stdout(Stdio::null()));
        let mut addresses = [None, None, None];
        for _ in 0..listeners {
            let line = program.next_logged("Listening on ");
            let mut words = line.split_whitespace().rev();
            let address = words.next().unwrap().parse().unwrap();
            match words.next().unwrap() {
                "mqtt" => addresses[1] = Some(address),
                "mqtts" => addresses[2] = Some(address),
                "tcp" => addresses[0] = Some(address),
                _ => {}
            }
        }
        let [jmqt, mqtt, tls] = addresses;
        Broker { folder: self, program, jmqt: jmqt.unwrap(), mqtt: mqtt.unwrap(), tls }
    }
}

impl Broker {
    /// Options of an MQTT client of this user.
    pub(crate) fn options(&self, user: &str, password: &str) -> Options {
        let mut options = Options::url(&format!("mqtt://{}", self.mqtt)).unwrap();
        if !user.is_empty() {
            options = options.login(user, password);
        }
        options
    }

    /// An MQTT client of this user, or why there is none.
    pub(crate) async fn login(&self, user: &str, password: &str) -> Result<mqtt::Client, mqtt::ConnectError> {
        mqtt::Client::connect(self.options(user, password)).await
    }

    /// A JMQT client that has logged in with this data and has a session.
    pub(crate) fn jmqt_client(&self, name: &str, data: &str) -> (Client, String) {
        let mut client = Client::open(self.jmqt);
        let token = client.authenticate_with(data);
        client.send_conn(name, &token, "");
        client.expect(r#"{"connAck":{"st":1,"ts":"#);
        (client, token)
    }
}

/// The refusal of a client that must not be connected.
pub(crate) fn refusal(outcome: Result<mqtt::Client, mqtt::ConnectError>) -> String {
    outcome.map(drop).unwrap_err().to_string()
}

/// All that a program has said.
pub(crate) fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// The folder of this crate.
pub(crate) fn crate_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
