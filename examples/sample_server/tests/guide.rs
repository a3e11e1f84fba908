//! The sample application as its guide tells it, on the wire, against the real process.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(30);

/// A running server; killed when it is dropped.
struct Sample {
    child: Child,
    socket: SocketAddr,
    log: mpsc::Receiver<String>,
}

impl Sample {
    fn start(folder: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_sample_server"))
            .current_dir(folder)
            .env("JMQT_BIND_ADDRESS", "127.0.0.1")
            .env("JMQT_SOCKET_PORT", "0")
            .env("JMQT_WEBSOCKET_PORT", "0")
            .env("JMQT_SQLITE_PATH", folder.join("sample.db"))
            .env_remove("JMQT_TOKEN_SECRET")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap());
        let (sender, log) = mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.lines().map_while(Result::ok) {
                // Nobody listens any more when the test is over.
                let _ = sender.send(line);
            }
        });
        let mut sample = Self { child, socket: SocketAddr::from(([127, 0, 0, 1], 0)), log };
        let line = sample.logged("Listening on tcp ");
        sample.socket = line.rsplit(' ').next().unwrap().parse().unwrap();
        sample
    }

    /// Waits for a line of the log with this in it.
    fn logged(&self, text: &str) -> String {
        loop {
            let line = self.log.recv_timeout(DEADLINE).unwrap_or_else(|_| panic!("not logged: {text}"));
            if line.contains(text) {
                return line;
            }
        }
    }

    /// A client with a session, after its own "online"; and its token.
    fn connect(&self, name: &str) -> (Client, String) {
        let mut client = Client::open(self.socket);
        client.send(&format!(r#"{{"auth":{{"dt":{{"client_name":"{name}"}}}}}}"#));
        let granted = client.next();
        let token = granted.split("\"at\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
        assert!(granted.ends_with(&format!(r#","cl":"{name}"}}}}"#)), "{granted}");
        client.conn(name, &token);
        client.expect(&online(name));
        (client, token)
    }
}

impl Drop for Sample {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn online(name: &str) -> String {
    format!(r#"{{"push":{{"cn":"update","dt":{{"online":"{name}"}},"cl":""}}}}"#)
}

fn offline(name: &str) -> String {
    format!(r#"{{"push":{{"cn":"update","dt":{{"offline":"{name}"}},"cl":""}}}}"#)
}

struct Client(BufReader<TcpStream>);

impl Client {
    fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(BufReader::new(stream))
    }

    fn send(&mut self, text: &str) {
        self.0.get_mut().write_all(format!("{text}\0").as_bytes()).unwrap();
    }

    fn next(&mut self) -> String {
        let mut text = Vec::new();
        self.0.read_until(0, &mut text).unwrap();
        assert_eq!(text.pop(), Some(0), "the connection ended");
        String::from_utf8(text).unwrap()
    }

    fn expect(&mut self, text: &str) {
        assert_eq!(self.next(), text);
    }

    fn ask(&mut self, request: &str, answer: &str) {
        self.send(request);
        self.expect(answer);
    }

    fn conn(&mut self, name: &str, token: &str) {
        self.ask(
            &format!(r#"{{"conn":{{"at":"{token}","cl":"{name}"}}}}"#),
            r#"{"connAck":{"st":1,"ts":60}}"#,
        );
    }
}

#[test]
fn auth_wants_a_client_name_and_conn_the_token_that_belongs_to_it() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::start(folder.path());
    let mut client = Client::open(sample.socket);
    for data in ["{}", "7", r#"{"client_name":7}"#, r#"{"client_name":" x"}"#] {
        client.send(&format!(r#"{{"auth":{{"dt":{data}}}}}"#));
        let refused = client.next();
        assert!(
            refused.starts_with(r#"{"authAck":{"st":10,"mg":""#) && refused.contains("client_name"),
            "{refused}"
        );
    }
    let (_alice, token) = sample.connect("alice");
    for wrong in [format!(r#""at":"{token}","cl":"bob""#), r#""at":"nonsense","cl":"alice""#.to_owned()] {
        client.ask(&format!(r#"{{"conn":{{{wrong}}}}}"#), r#"{"connAck":{"st":6}}"#);
    }
    client.conn("alice", &token); // takes over
    client.expect(&online("alice"));
}

#[test]
fn presence_is_announced_to_everybody_and_is_the_servers_own() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::start(folder.path());
    let (mut alice, _) = sample.connect("alice");
    let (mut bob, _) = sample.connect("bob");
    alice.expect(&online("bob"));
    alice.ask(r#"{"sub":{"cn":"update"}}"#, r#"{"subAck":{"st":7,"cn":"update"}}"#);
    alice.ask(r#"{"unsub":{"cn":"update"}}"#, r#"{"unsubAck":{"st":7,"cn":"update"}}"#);
    alice.ask(r#"{"pub":{"cn":"update","dt":1,"id":"1"}}"#, r#"{"pubAck":{"st":7,"id":"1"}}"#);
    bob.send(r#"{"disconn":{}}"#);
    alice.expect(&offline("bob"));
    alice.ask(r#"{"hb":{}}"#, r#"{"hbAck":{}}"#); // once is enough
    sample.logged("leaves on purpose");
}

#[test]
fn control_channels_tell_a_client_what_it_is_subscribed_to_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let sample = Sample::start(folder.path());
    let (mut alice, _) = sample.connect("alice");
    alice.ask(r#"{"sub":{"cn":"news"}}"#, r#"{"subAck":{"st":1,"cn":"news"}}"#);
    alice.ask(
        r#"{"pub":{"cn":"$mySubscriptions","id":"1"}}"#,
        r##"{"pubAck":{"st":1,"id":"1","dt":{"channels":{"#alice":"persistent","news":"temp","update":"persistent"}}}}"##,
    );
    alice.ask(r#"{"pub":{"cn":"$other","dt":1,"id":"2"}}"#, r#"{"pubAck":{"st":11,"id":"2"}}"#);
}

#[test] // §10
fn a_token_outlives_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut sample = Sample::start(folder.path());
    let (_alice, token) = sample.connect("alice");
    sample.child.kill().unwrap();
    sample.child.wait().unwrap();

    let sample = Sample::start(folder.path());
    let mut alice = Client::open(sample.socket);
    alice.conn("alice", &token);
    alice.expect(&online("alice"));
}

#[test] // protocol.md 2.16: the close notifier of a killed process's sessions runs at the next start
fn the_next_start_ends_the_sessions_that_kill_9_left_behind() {
    let folder = tempfile::tempdir().unwrap();
    let mut sample = Sample::start(folder.path());
    let _clients = [sample.connect("alice"), sample.connect("bob")];
    // Sessions are on disk within a second; that they are can only be seen by waiting for it.
    std::thread::sleep(Duration::from_millis(1500));
    sample.child.kill().unwrap();
    sample.child.wait().unwrap();

    let ended = |folder: &Path| {
        let sample = Command::new(env!("CARGO_BIN_EXE_sample_server"))
            .current_dir(folder)
            .env("JMQT_BIND_ADDRESS", "127.0.0.1")
            .env("JMQT_SOCKET_PORT", "0")
            .env("JMQT_WEBSOCKET_PORT", "0")
            .env("JMQT_SQLITE_PATH", folder.join("sample.db"))
            .env_remove("JMQT_TOKEN_SECRET")
            .stderr(Stdio::piped())
            .spawn();
        let mut child = sample.unwrap();
        let mut names = Vec::new();
        for line in BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok) {
            if line.contains("the server process died") {
                names.push(line.split("client=").nth(1).unwrap().split(' ').next().unwrap().to_owned());
            }
            if line.contains("Listening on ws ") {
                break;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        names.sort();
        names
    };
    assert_eq!(ended(folder.path()), ["alice", "bob"]);
    assert_eq!(ended(folder.path()), [""; 0]);
}
