//! The process: started, watched, signalled, killed.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::ops::{Deref, DerefMut};
use std::process::{Command, Stdio};

use tempfile::TempDir;
use test_support::Program;

use super::network::{connect, until};
use super::{Client, DEADLINE};

/// A running balancer; killed when it is dropped.
pub struct Balancer {
    program: Program,
    folder: TempDir,
    /// What the mappings listen on, in the order of the file.
    pub mappings: Vec<SocketAddr>,
    pub status: SocketAddr,
}

pub fn command(arguments: &[&str]) -> Command {
    let mut command = test_support::command(env!("CARGO_BIN_EXE_jmqt-lb"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// The text of a file: without health checks, with a status page and all log lines, unless `options` say
/// otherwise. `mappings` may go on with sections of single mappings.
pub fn configuration(mappings: &str, options: &str) -> String {
    let mut text = format!("[options]\n{options}\n");
    for (key, value) in
        [("health_check_seconds", "0"), ("status_address", "127.0.0.1:0"), ("log_mode", "DBG")]
    {
        if !options.contains(key) {
            text.push_str(&format!("{key} = {value}\n"));
        }
    }
    text + "[mappings]\n" + mappings + "\n"
}

impl Balancer {
    /// Starts one and waits until it listens.
    pub fn start(mappings: &str, options: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("load_balancer.conf");
        std::fs::write(&file, configuration(mappings, options)).unwrap();
        let program = Program::start(&mut command(&["--config", file.to_str().unwrap()]));
        let nowhere = SocketAddr::from(([0; 4], 0));
        let mut balancer = Self { program, folder, mappings: Vec::new(), status: nowhere };
        let line = balancer.logged("Status page on http://");
        let address = line.rsplit_once("//").unwrap().1;
        balancer.status = address.trim_end_matches('/').parse().unwrap();
        let count = mappings.lines().take_while(|line| !line.starts_with("[mapping ")).count();
        balancer.mappings = until(|| {
            let found: Vec<_> = balancer.lines("Listening on ");
            (found.len() == count).then(|| found.iter().map(|line| last_word(line)).collect())
        });
        balancer
    }

    /// Writes another file, without reloading it.
    pub fn rewrite(&self, mappings: &str, options: &str) {
        let file = self.folder.path().join("load_balancer.conf");
        std::fs::write(file, configuration(mappings, options)).unwrap();
    }

    /// Has another file taken over.
    pub fn reload(&self, mappings: &str, options: &str) {
        let before = self.lines("Reloaded ").len();
        self.rewrite(mappings, options);
        self.signal("HUP");
        until(|| (self.lines("Reloaded ").len() > before).then_some(()));
    }

    /// Has another file refused.
    pub fn fail_to_reload(&self, mappings: &str, options: &str) {
        let before = self.lines("Reload failed").len();
        self.rewrite(mappings, options);
        self.signal("HUP");
        until(|| (self.lines("Reload failed").len() > before).then_some(()));
    }

    /// All lines so far that contain this.
    pub fn lines(&self, wanted: &str) -> Vec<String> {
        self.log_lines(wanted)
    }

    /// What a mapping that was added later listens on.
    pub fn last_mapping(&self) -> SocketAddr {
        last_word(self.lines("Listening on ").last().unwrap())
    }

    pub fn connect(&self) -> Client {
        connect(None, self.mappings[0])
    }

    pub fn connect_to(&self, mapping: SocketAddr) -> Client {
        connect(None, mapping)
    }

    pub fn connect_from(&self, client: IpAddr) -> Client {
        connect(Some(client), self.mappings[0])
    }

    /// Stops all its threads, and waits until they stand: on a busy machine that takes a while.
    pub fn suspend(&self) {
        self.signal("STOP");
        let threads = format!("/proc/{}/task", self.id());
        let stands = |thread: std::fs::DirEntry| {
            let state = std::fs::read_to_string(thread.path().join("stat")).unwrap();
            state.rsplit_once(") ").unwrap().1.starts_with('T')
        };
        until(|| std::fs::read_dir(&threads).unwrap().all(|thread| stands(thread.unwrap())).then_some(()));
    }

    pub fn is_running(&mut self) -> bool {
        self.ended().is_none()
    }

    /// Asks the status page; the head and the body of its answer.
    pub fn http(&self, request: &str) -> (String, String) {
        let mut stream = TcpStream::connect(self.status).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: lb\r\n\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }

    /// The sum of a metric over all mappings, or backends, whose labels contain `label`.
    pub fn metric(&self, name: &str, label: &str) -> u64 {
        let (_, body) = self.http("GET /metrics");
        let values = body.lines().filter_map(|line| {
            let (key, value) = line.rsplit_once(' ')?;
            let (found, labels) = key.split_once('{').unwrap_or((key, ""));
            (found == name && labels.contains(label)).then(|| value.parse::<u64>().unwrap())
        });
        values.sum()
    }

    pub fn until_metric(&self, name: &str, label: &str, wanted: u64) {
        until(|| (self.metric(name, label) == wanted).then_some(()));
    }
}

fn last_word(line: &str) -> SocketAddr {
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

impl Deref for Balancer {
    type Target = Program;

    fn deref(&self) -> &Program {
        &self.program
    }
}

impl DerefMut for Balancer {
    fn deref_mut(&mut self) -> &mut Program {
        &mut self.program
    }
}
