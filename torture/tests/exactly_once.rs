//! QoS 2 of MQTT while the server is killed: every message arrives exactly once, and in order.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use jmqt_client::Reconnect;
use jmqt_client::mqtt::{Client, Options, Publish, Qos, Version};
use tempfile::TempDir;
use test_support::{Process, free_port, tail};
use torture::mariadb::{DATABASE, MariaDb};
use torture::{Random, within};

const MESSAGES: usize = 600;
const KILLS: usize = 10;
/// The longest time between a start of the server and its end, in milliseconds.
const LONGEST_LIFE: u64 = 400;

/// One server with its data.
struct Server {
    folder: TempDir,
    port: u16,
    process: Option<Process>,
    starts: u32,
}

impl Server {
    fn new(database: Option<&MariaDb>) -> Self {
        let (folder, port) = (tempfile::tempdir().unwrap(), free_port());
        let mut text = String::new();
        write!(text, "BIND_ADDRESS = \"127.0.0.1\"\nSOCKET_PORT = 0\nMQTT_PORT = {port}\n").unwrap();
        writeln!(text, "MAX_TAKEOVERS_PER_SECOND = 0\nMAX_INFLIGHT = 64").unwrap();
        match database {
            None => {
                let path = folder.path().join("jmqt.db");
                writeln!(text, "SQLITE_PATH = {:?}", path.display().to_string()).unwrap();
            }
            Some(database) => write!(
                text,
                "ENABLE_MYSQL = true\nMYSQL_HOST = \"127.0.0.1\"\nMYSQL_PORT = {}\nMYSQL_DB = \"{DATABASE}\"\n\
                 MYSQL_USER = \"root\"\n",
                database.port()
            )
            .unwrap(),
        }
        let mut server = Self { folder, port, process: None, starts: 0 };
        std::fs::write(server.file("server.conf"), text).unwrap();
        server.start();
        server
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&mut self) {
        self.starts += 1;
        let mut command = Command::new(env!("CARGO_BIN_EXE_torture_node"));
        command.arg("--config").arg(self.file("server.conf")).arg("--notices").arg(self.file("notices"));
        command.args(["--name", "n0", "--start", &self.starts.to_string()]);
        self.process = Some(Process::start_with_log(&mut command, &self.file("log")).unwrap());
    }

    /// Kills it, and starts it again.
    fn crash(&mut self) {
        let mut process = self.process.take().expect("it is running");
        if let Some(status) = process.ended() {
            panic!("the server ended with {status}; its log ends with:\n{}", tail(&self.file("log")));
        }
        process.kill();
        self.start();
    }

    fn options(&self, name: &str, version: Version) -> Options {
        let mut options = Options::url(&format!("mqtt://{name}@127.0.0.1:{}", self.port)).unwrap();
        (options.client_id, options.version) = (name.to_owned(), version);
        (options.clean_start, options.session_expiry) = (false, Duration::from_secs(3600));
        options.reconnect = Reconnect::every(Duration::from_millis(30));
        options
    }
}

async fn every_message_arrives_once(mut server: Server, seed: u64) {
    let mut random = Random::new(seed);
    let reader = Client::start(server.options("reader", Version::V5)).unwrap();
    let mut stream = within("the SUBACK", reader.subscribe("ledger", Qos::ExactlyOnce)).await.unwrap();
    let sender = Client::start(server.options("sender", Version::V3_1_1)).unwrap();
    let publishing = tokio::spawn(async move {
        let mut receipts = Vec::new();
        for number in 0..MESSAGES {
            let message = Publish::new("ledger", number.to_string()).unwrap().qos(Qos::ExactlyOnce);
            receipts.push(sender.queue(&message).await.unwrap());
            tokio::time::sleep(Duration::from_millis(3)).await; // so that there is always something to lose
        }
        for receipt in receipts {
            receipt.await.unwrap();
        }
        sender
    });
    let killing = async {
        for _ in 0..KILLS {
            tokio::time::sleep(Duration::from_millis(random.below(LONGEST_LIFE))).await;
            server.crash();
        }
        server
    };
    let receiving = async {
        let mut received = Vec::new();
        while received.last().is_none_or(|last| last != &(MESSAGES - 1).to_string()) {
            let message = within("a message", stream.next()).await.expect("the client goes on");
            received.push(message.text().unwrap().to_owned());
        }
        received
    };
    let (server, received) = tokio::join!(killing, receiving);
    let sender = within("all acknowledgements", publishing).await.unwrap();
    // What comes twice would come before this.
    let last = Publish::new("ledger", "the end").unwrap().qos(Qos::ExactlyOnce);
    within("the last acknowledgement", sender.publish(&last)).await.unwrap();
    assert_eq!(within("the last message", stream.next()).await.unwrap().text().unwrap(), "the end");
    let expected: Vec<_> = (0..MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(received, expected, "seed {seed}");
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_every_message_with_qos_2_arrives_once_while_the_server_is_killed() {
    every_message_arrives_once(Server::new(None), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_every_message_with_qos_2_arrives_once_while_the_server_is_killed() {
    if !MariaDb::is_installed() {
        eprintln!("left out: MariaDB is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = MariaDb::start(folder.path()).await;
    every_message_arrives_once(Server::new(Some(&database)), 2).await;
}
