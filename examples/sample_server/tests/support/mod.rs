//! The sample server as its users have it, a process with a log and a port, and clients that say
//! exactly what they are told to.
//!
//! Waits are on packets, log lines and the end of the process; each has a [`DEADLINE`], after which the
//! test fails and shows what there was. Nothing sleeps to let something happen.

// Each file of tests is a crate of its own, and none uses everything that is here.
#![allow(dead_code, unreachable_pub)]
// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

/// How long anything that is waited for may take. Generous: it only ends tests that have failed.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The program, in this folder, with no environment but what is given.
pub fn program(folder: &Path, environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sample_server"));
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
    let mut command = program(folder, environment);
    let mut child = command.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let (stdout, stderr) = (read_all(child.stdout.take().unwrap()), read_all(child.stderr.take().unwrap()));
    let status = end_of(&mut child);
    Output { status, stdout: stdout.join().unwrap(), stderr: stderr.join().unwrap() }
}

fn read_all(mut from: impl Read + Send + 'static) -> thread::JoinHandle<Vec<u8>> {
    thread::spawn(move || {
        let mut read = Vec::new();
        from.read_to_end(&mut read).unwrap();
        read
    })
}

/// Waits for the end of a process, which is killed if it does not come.
fn end_of(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() >= DEADLINE {
            child.kill().unwrap();
            panic!("it has not ended within {DEADLINE:?}");
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// What the log says.
#[derive(Default)]
struct Log {
    read: Mutex<LogRead>,
    grown: Condvar,
}

#[derive(Default)]
struct LogRead {
    lines: Vec<String>,
    /// There will be no more: the process has ended.
    ended: bool,
}

impl Log {
    fn read(&self, stderr: impl Read) {
        for line in BufReader::new(stderr).lines() {
            self.read.lock().unwrap().lines.push(line.unwrap());
            self.grown.notify_all();
        }
        self.read.lock().unwrap().ended = true;
        self.grown.notify_all();
    }

    /// Waits until `found` finds something.
    fn wait<T>(&self, what: &str, found: impl Fn(&LogRead) -> Option<T>) -> T {
        let read = self.read.lock().unwrap();
        let waiting = |read: &mut LogRead| found(read).is_none() && !read.ended;
        let (read, _) = self.grown.wait_timeout_while(read, DEADLINE, waiting).unwrap();
        found(&read).unwrap_or_else(|| panic!("no {what} in the log:\n{}", read.lines.join("\n")))
    }
}

/// A running sample server. It is killed when it is dropped.
pub struct Server {
    child: Child,
    log: Arc<Log>,
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
        let mut command = Command::new("/bin/sh");
        surround(&mut command, folder, environment);
        let run = concat!(env!("CARGO_BIN_EXE_sample_server"), " --web-port 0");
        command.args(["-c", &format!("{before}; exec {run}")]);
        Self::await_start(&mut command)
    }

    fn await_start(command: &mut Command) -> Self {
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        let log = Arc::new(Log::default());
        let stderr = child.stderr.take().unwrap();
        let reader = Arc::clone(&log);
        thread::spawn(move || reader.read(stderr));
        let listening = "Listening on tcp ";
        let address = log.wait(listening, |read| {
            let line = read.lines.iter().find_map(|line| line.split_once(listening))?;
            Some(line.1.parse().unwrap())
        });
        Self { child, log, address }
    }

    /// A connection on which nothing has been said.
    pub fn connect(&self) -> Client {
        let stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Client { stream, received: Vec::new() }
    }

    /// A client that is authenticated and connected, and has heard that it is online.
    pub fn enter(&self, name: &str) -> Client {
        let mut client = self.connect();
        let token = client.authenticate(name);
        client.open_session(name, &token);
        client
    }

    /// Waits for a log line with this text.
    pub fn logged(&self, text: &str) -> String {
        self.log.wait(text, |read| read.lines.iter().find(|line| line.contains(text)).cloned())
    }

    /// The log lines with this text so far.
    pub fn log_lines(&self, text: &str) -> Vec<String> {
        let read = self.log.read.lock().unwrap();
        read.lines.iter().filter(|line| line.contains(text)).cloned().collect()
    }

    /// Sends a signal, such as `HUP`.
    pub fn signal(&self, signal: &str) {
        let kill = format!("kill -{signal} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Sends a signal, such as `TERM`, and waits for the end.
    pub fn stop(&mut self, signal: &str) -> ExitStatus {
        self.signal(signal);
        self.ended()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.ended();
    }

    fn ended(&mut self) -> ExitStatus {
        self.log.wait("end", |read| read.ended.then_some(()));
        end_of(&mut self.child)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection of a client.
pub struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    /// Sends this text as a packet.
    pub fn send(&mut self, packet: &str) {
        self.stream.write_all(format!("{packet}\0").as_bytes()).unwrap();
    }

    /// The next packet, whatever it is; `None` at the end of the connection.
    pub fn receive(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == 0) {
                let packet = self.received.drain(..=end).take(end).collect();
                return Some(String::from_utf8(packet).unwrap());
            }
            let mut piece = [0; 4096];
            let length = self.stream.read(&mut piece).expect("a packet, or the end");
            if length == 0 {
                return None;
            }
            self.received.extend(&piece[..length]);
        }
    }

    /// The next packet is this one.
    #[track_caller]
    pub fn expect(&mut self, packet: &str) {
        assert_eq!(self.receive().as_deref(), Some(packet));
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

    /// There is nothing before the answer to a heartbeat.
    #[track_caller]
    pub fn expect_nothing(&mut self) {
        self.send(r#"{"hb":{}}"#);
        self.expect(r#"{"hbAck":{}}"#);
    }

    /// The connection ends without another packet.
    #[track_caller]
    pub fn expect_end(&mut self) {
        assert_eq!(self.receive(), None);
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
        self.send(&format!(r#"{{"auth":{{"dt":{{"client_name":"{name}"}}}}}}"#));
        let answer = self.receive().unwrap();
        let packet: Value = serde_json::from_str(&answer).unwrap();
        let granted = &packet["authAck"];
        assert_eq!((&granted["st"], &granted["cl"]), (&1.into(), &name.into()), "{answer}");
        granted["at"].as_str().unwrap().to_owned()
    }

    /// Sends a `conn`.
    pub fn conn(&mut self, name: &str, token: &str) {
        self.send(&format!(r#"{{"conn":{{"at":"{token}","cl":"{name}"}}}}"#));
    }

    /// Connects, and hears that it is online.
    #[track_caller]
    pub fn open_session(&mut self, name: &str, token: &str) {
        self.conn(name, token);
        self.expect(r#"{"connAck":{"st":1,"ts":60}}"#);
        self.expect_to_be_online(name);
    }
}
