//! The process: started, watched, signalled, killed.

use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{Client, DEADLINE};

/// A running server; killed when it is dropped.
pub struct Process {
    child: Child,
    log: mpsc::Receiver<String>,
    pub socket: SocketAddr,
    pub websocket: SocketAddr,
    /// Listeners with TLS, if the settings ask for them.
    pub tls: Vec<SocketAddr>,
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

/// Runs a command until it ends by itself: how, and what it says.
pub fn run(command: &mut Command) -> (ExitStatus, String) {
    let mut child = command.spawn().unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let reading = std::thread::spawn(move || {
        let mut said = Vec::new();
        stderr.read_to_end(&mut said).unwrap();
        String::from_utf8(said).unwrap()
    });
    let status = ended(&mut child);
    (status, reading.join().unwrap())
}

/// Waits for the end of a process, which is killed if it does not come.
fn ended(child: &mut Child) -> ExitStatus {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status;
        }
        if start.elapsed() >= DEADLINE {
            child.kill().unwrap();
            panic!("it has not ended within {DEADLINE:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Process {
    /// Starts a server and waits until it listens.
    pub fn start(store: &Path, settings: &[(&str, &str)]) -> Self {
        let mut child = command(store, settings).spawn().unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let (lines, log) = mpsc::channel();
        // Reads on until the process ends, so that its log never fills the pipe.
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                // Nobody listens any more once the test is over.
                let _ = lines.send(line);
            }
        });
        let nowhere = SocketAddr::from(([0; 4], 0));
        let mut process = Self { child, log, socket: nowhere, websocket: nowhere, tls: Vec::new() };
        let has_tls = settings.iter().any(|(key, _)| *key == "JMQT_ENABLE_SSL");
        for _ in 0..if has_tls { 4 } else { 2 } {
            let line = process.wait_for_log("Listening on ");
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

    /// Waits for a line of the log that contains this, and hands it back; lines before it are passed over.
    pub fn wait_for_log(&self, wanted: &str) -> String {
        let start = Instant::now();
        let mut said = String::new();
        loop {
            let Ok(line) = self.log.recv_timeout(DEADLINE.saturating_sub(start.elapsed())) else {
                panic!("it does not say {wanted:?}, but:\n{said}");
            };
            if line.contains(wanted) {
                return line;
            }
            said.push_str(&line);
            said.push('\n');
        }
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends a signal by name (`TERM`, `INT`).
    pub fn signal(&self, name: &str) {
        // Every shell can, where there is no such program.
        let kill = format!("kill -s {name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }

    /// Waits for the end, and returns the exit code.
    pub fn exit_code(&mut self) -> Option<i32> {
        ended(&mut self.child).code()
    }

    /// Resident memory in bytes.
    pub fn resident(&self) -> u64 {
        self.memory("VmRSS:")
    }

    /// The most that was ever resident, in bytes.
    pub fn most_resident(&self) -> u64 {
        self.memory("VmHWM:")
    }

    fn memory(&self, key: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
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

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
