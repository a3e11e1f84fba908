//! The sample client as its users have it: a process with a log, against a sample server that is one too.
#![allow(clippy::unwrap_used)]

use std::io::{BufRead as _, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use jmqt_client::{ChannelName, Client, Config, Persistence, Publish};

const DEADLINE: Duration = Duration::from_secs(30);

/// A process and its log. It is killed when it is dropped.
struct Process {
    child: Child,
    log: Receiver<String>,
}

impl Process {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let log = lines(child.stderr.take().unwrap());
        Self { child, log }
    }

    /// Waits for a line with this in it, and returns what follows.
    fn logged(&self, text: &str) -> String {
        let start = Instant::now();
        let mut said = String::new();
        loop {
            let Ok(line) = self.log.recv_timeout(DEADLINE.saturating_sub(start.elapsed())) else {
                panic!("no {text} in the log:\n{said}")
            };
            if let Some((_, rest)) = line.split_once(text) {
                return rest.to_owned();
            }
            said.push_str(&line);
            said.push('\n');
        }
    }

    /// Waits for the end.
    fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < DEADLINE, "it has not ended");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stderr: impl Read + Send + 'static) -> Receiver<String> {
    let (line_read, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            // Nobody may be listening any more.
            let _ = line_read.send(line);
        }
    });
    lines
}

/// The sample server beside this test's own binary, made if it is not there.
fn sample_server() -> PathBuf {
    let folder = Path::new(env!("CARGO_BIN_EXE_sample_client")).parent().unwrap();
    let path = folder.join(format!("sample_server{}", std::env::consts::EXE_SUFFIX));
    if !path.exists() {
        let built = Command::new(env!("CARGO")).args(["build", "-p", "sample_server"]).status().unwrap();
        assert!(built.success());
    }
    path
}

fn server(folder: &Path, port: u16) -> (Process, u16) {
    let mut command = Command::new(sample_server());
    command.args(["--web-port", "0"]);
    command.current_dir(folder).env("JMQT_BIND_ADDRESS", "127.0.0.1").env("JMQT_WEBSOCKET_PORT", "0");
    command.env("JMQT_SOCKET_PORT", port.to_string()).env("JMQT_SQLITE_PATH", folder.join("jmqt.db"));
    let process = Process::start(&mut command);
    let address = process.logged("Listening on tcp ");
    (process, address.trim().rsplit(':').next().unwrap().parse().unwrap())
}

fn client(folder: &Path, port: u16, arguments: &[&str]) -> Process {
    std::fs::write(folder.join("client.conf"), format!("REMOTE_HOST = '127.0.0.1'\nREMOTE_PORT = {port}\n"))
        .unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sample_client"));
    Process::start(command.current_dir(folder).args(arguments))
}

#[tokio::test(flavor = "multi_thread")]
async fn it_publishes_the_time_logs_pushes_and_leaves_with_disconn() {
    let folder = tempfile::tempdir().unwrap();
    let (server, port) = server(folder.path(), 0);
    let mut sample = client(folder.path(), port, &["--config", "client.conf"]);
    sample.logged("Subscribed to 'mychannel'");

    let config = Config::url(&format!("jmqt://127.0.0.1:{port}")).unwrap();
    let web = Client::connect(config.auth(r#"{"client_name":"webclient"}"#).unwrap()).await.unwrap();
    let mychannel = ChannelName::parse("mychannel").unwrap();
    let mut stream = web.subscribe(&mychannel, Persistence::Temporary).await.unwrap();
    let push = tokio::time::timeout(DEADLINE, stream.next()).await.unwrap().unwrap();
    assert_eq!((push.publisher(), push.json::<String>().unwrap().len()), ("sample", 19));
    web.publish(&Publish::json(mychannel, "hello").unwrap().at_least_once()).await.unwrap();
    assert_eq!(sample.logged("Data on 'mychannel' from webclient : "), r#""hello" (QOS 1, RETAIN 0)"#);

    // Every shell can, where there is no such program.
    let kill = format!("kill -s INT {}", sample.child.id());
    assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    assert!(sample.ended().success());
    assert!(server.logged("leaves on purpose").contains("client=sample"));
}

#[test]
fn it_retries_until_the_server_is_there_again() {
    let folder = tempfile::tempdir().unwrap();
    let (mut first, port) = server(folder.path(), 0);
    let sample = client(folder.path(), port, &["--every", "1", "bob"]);
    sample.logged("Published on 'mychannel'");
    first.child.kill().unwrap();
    first.child.wait().unwrap();
    sample.logged("Disconnected : ");
    let (_second, _) = server(folder.path(), port);
    sample.logged("Connected");
    sample.logged("Published on 'mychannel'");
}

#[test]
fn a_wrong_setting_stops_the_start_with_exit_code_1() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("client.conf"), "REMOTE_PORTS = 1\n").unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sample_client"));
    let mut process = Process::start(command.current_dir(folder.path()));
    assert_eq!(process.ended().code(), Some(1));
    let said = process.log.recv_timeout(DEADLINE).unwrap();
    assert!(said.starts_with("sample_client: client.conf: REMOTE_PORTS: there is no such key"), "{said}");
}
