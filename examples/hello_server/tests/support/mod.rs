//! A real `hello_server` process, and blocking clients that speak to it over TCP.

// Each file of tests is a crate of its own, and none uses everything that is here.
#![allow(dead_code, unreachable_pub)]
// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long anything that is waited for may take. Generous: it only ends tests that have failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A running server; killed when it is dropped.
pub struct Process {
    child: Child,
    pub socket: SocketAddr,
    pub websocket: SocketAddr,
}

/// The command that starts a server on this store, on free ports, with these settings.
pub fn command(store: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hello_server"));
    command
        .env("JMQT_BIND_ADDRESS", "127.0.0.1")
        .env("JMQT_SOCKET_PORT", "0")
        .env("JMQT_WEBSOCKET_PORT", "0")
        .env("JMQT_SQLITE_PATH", store)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    for (key, value) in settings {
        command.env(key, value);
    }
    command
}

impl Process {
    /// Starts a server and waits until it listens.
    pub fn start(store: &Path, settings: &[(&str, &str)]) -> Self {
        let mut child = command(store, settings).spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let (lines, read) = mpsc::channel();
        // Reads on until the process ends, so that its log never fills the pipe.
        std::thread::spawn(move || {
            for line in log.lines().map_while(Result::ok) {
                // Nobody listens any more once the ports are known.
                let _ = lines.send(line);
            }
        });
        let mut addresses = [None, None];
        let mut said = String::new();
        while addresses.contains(&None) {
            let Ok(line) = read.recv_timeout(DEADLINE) else { panic!("it does not listen:\n{said}") };
            for (address, kind) in addresses.iter_mut().zip(["Listening on tcp ", "Listening on ws "]) {
                if let Some((_, found)) = line.split_once(kind) {
                    *address = Some(found.trim().parse().unwrap());
                }
            }
            said.push_str(&line);
            said.push('\n');
        }
        Self { child, socket: addresses[0].unwrap(), websocket: addresses[1].unwrap() }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by name (`TERM`, `INT`).
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(status.unwrap().success());
    }

    /// Waits for the end, and returns the exit code.
    pub fn exit_code(&mut self) -> Option<i32> {
        self.child.wait().unwrap().code()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
    }

    /// A client with a session.
    pub fn connect(&self, name: &str) -> Client {
        let mut client = Client::open(self.socket);
        client.conn(name, "");
        client
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection.
pub struct Client {
    pub stream: TcpStream,
    received: Vec<u8>,
    at: usize,
}

impl Client {
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self { stream, received: Vec::new(), at: 0 }
    }

    pub fn conn(&mut self, name: &str, more: &str) {
        self.send(&format!(r#"{{"conn":{{"at":"hello","cl":"{name}"{more}}}}}"#));
        self.expect(r#"{"connAck":{"st":1,"ts":"#);
    }

    pub fn send(&mut self, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        bytes.push(0);
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next packet; `None` at the end of the connection, however it ends.
    pub fn next(&mut self) -> Option<String> {
        loop {
            let unread = &self.received[self.at..];
            if let Some(end) = unread.iter().position(|byte| *byte == 0) {
                let text = String::from_utf8(unread[..end].to_vec()).unwrap();
                self.at += end + 1;
                return Some(text);
            }
            self.received.drain(..self.at);
            self.at = 0;
            let mut chunk = [0; 64 * 1024];
            match self.stream.read(&mut chunk) {
                Ok(length) if length > 0 => self.received.extend_from_slice(&chunk[..length]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    panic!("nothing came within {DEADLINE:?}")
                }
                _ => return None,
            }
        }
    }

    /// The next packet must begin like this.
    pub fn expect(&mut self, beginning: &str) -> String {
        let packet = self.next();
        assert!(
            packet.as_ref().is_some_and(|packet| packet.starts_with(beginning)),
            "{packet:?} instead of {beginning}"
        );
        packet.unwrap()
    }

    pub fn sub(&mut self, channel: &str, persistent: u8) {
        self.send(&format!(r#"{{"sub":{{"cn":"{channel}","pr":{persistent}}}}}"#));
        self.expect(r#"{"subAck":{"st":1,"#);
    }

    pub fn publish(&mut self, channel: &str, data: &str, id: &str) {
        self.send(&format!(r#"{{"pub":{{"cn":"{channel}","dt":{data},"q":1,"id":"{id}"}}}}"#));
    }

    /// Acknowledges a push, and hands back its id.
    pub fn ack(&mut self, push: &str) -> String {
        let id = field(push, "id").trim_matches('"').to_owned();
        self.send(&format!(r#"{{"pushAck":{{"id":"{id}"}}}}"#));
        id
    }
}

/// The text of a member whose value has neither commas nor braces in it.
pub fn field<'a>(packet: &'a str, key: &str) -> &'a str {
    let (_, rest) = packet.split_once(&format!("\"{key}\":")).unwrap_or_else(|| panic!("no {key}: {packet}"));
    rest.split([',', '}']).next().unwrap()
}
