//! A node: its process, the proxies to Redis and to the database, and the file of its application.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use test_support::{Process, free_port, tail};

use crate::mariadb::{DATABASE, MariaDb};
use crate::notices::{self, Event, Notice};
use crate::process::program;
use crate::{Proxy, RedisServer, until};

/// What a node needs to know.
pub(crate) struct Surroundings<'a> {
    pub(crate) folder: &'a Path,
    pub(crate) mariadb: &'a MariaDb,
    pub(crate) redis: &'a RedisServer,
    pub(crate) prefix: &'a str,
    /// Every connection begins with a PROXY protocol header.
    pub(crate) behind_balancer: bool,
}

/// One node of a cluster.
#[derive(Debug)]
pub struct Node {
    /// What it calls itself.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its way to Redis.
    pub redis: Proxy,
    /// Its way to the database.
    pub mysql: Proxy,
    folder: PathBuf,
    process: Option<Process>,
    start: u32,
    /// Which starts of it were ended by `kill -9`.
    killed: Vec<u32>,
}

impl Node {
    pub(crate) async fn new(name: &str, around: &Surroundings<'_>) -> Self {
        let here = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let redis = Proxy::to(here(around.redis.port())).await;
        let mysql = Proxy::to(here(around.mariadb.port())).await;
        let mut node = Self {
            name: name.to_owned(),
            address: here(free_port()),
            redis,
            mysql,
            folder: around.folder.to_owned(),
            process: None,
            start: 0,
            killed: Vec::new(),
        };
        let mut text = String::new();
        let (redis, mysql) = (node.redis.address.port(), node.mysql.address.port());
        let prefix = around.prefix;
        write!(
            text,
            "BIND_ADDRESS = \"127.0.0.1\"\nSOCKET_PORT = {}\nMQTT_ON_JMQT_PORTS = true\nTIMEOUT_SECONDS = 30\nDRAIN_SECONDS = 2\n\
             MAX_TAKEOVERS_PER_SECOND = 0\n\
             ENABLE_MYSQL = true\nMYSQL_HOST = \"127.0.0.1\"\nMYSQL_PORT = {mysql}\nMYSQL_DB = \"{DATABASE}\"\n\
             MYSQL_USER = \"root\"\nENABLE_REDIS = true\nREDIS_HOST = \"127.0.0.1\"\nREDIS_PORT = {redis}\n\
             REDIS_PREFIX = \"{prefix}\"\n",
            node.address.port()
        )
        .unwrap();
        if around.behind_balancer {
            text.push_str("TRUSTED_PROXIES = \"127.0.0.1\"\n");
        }
        if let Ok(mode) = std::env::var("TORTURE_LOG_MODE") {
            writeln!(text, "LOG_MODE = \"{mode}\"").unwrap();
        }
        std::fs::write(node.config_path(), text).unwrap();
        node.launch();
        node
    }

    fn config_path(&self) -> PathBuf {
        self.folder.join(format!("{}.conf", self.name))
    }

    fn notices_path(&self) -> PathBuf {
        self.folder.join(format!("{}.notices", self.name))
    }

    /// The file that its log goes to.
    #[must_use]
    pub fn log_path(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.name))
    }

    /// Starts its process, without waiting.
    pub fn launch(&mut self) {
        self.start += 1;
        let mut command = test_support::command(program("torture_node"));
        command.arg("--config").arg(self.config_path()).arg("--notices").arg(self.notices_path());
        command.args(["--name", &self.name, "--start", &self.start.to_string()]);
        self.process = Some(Process::start_with_log(&mut command, &self.log_path()).unwrap());
    }

    /// Waits until it serves clients.
    pub async fn started(&mut self) {
        let (name, start) = (self.name.clone(), self.start);
        let path = self.notices_path();
        until(format!("the start of {name}"), || {
            if let Some(status) = self.process.as_mut().and_then(Process::ended) {
                panic!("{name} ended with {status}; its log ends with:\n{}", tail(&self.log_path()));
            }
            notices::read(&path)
                .iter()
                .any(|notice| notice.start == start && notice.event == Event::Started)
                .then_some(())
        })
        .await;
    }

    /// Starts it and waits until it serves clients.
    pub async fn restart(&mut self) {
        self.launch();
        self.started().await;
    }

    /// Whether there is a process.
    #[must_use]
    pub const fn is_running(&self) -> bool {
        self.process.is_some()
    }

    fn process(&self) -> &Process {
        self.process.as_ref().expect("the node is running")
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.killed.push(self.start);
        self.process.take().expect("the node is running").kill();
    }

    /// SIGTERM; waits for its end, which must be a good one.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().expect("the node is running");
        process.terminate();
        let status = until(format!("the end of {}", self.name), || process.ended()).await;
        assert!(
            status.success(),
            "{} ended with {status}; its log ends with:\n{}",
            self.name,
            self.log_tail()
        );
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.process().pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process().resume();
    }

    /// What its application was told so far, over all starts.
    #[must_use]
    pub fn notices(&self) -> Vec<Notice> {
        notices::read(&self.notices_path())
    }

    /// Whether this start of it was ended by `kill -9`.
    #[must_use]
    pub fn was_killed(&self, start: u32) -> bool {
        self.killed.contains(&start)
    }

    /// The end of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log_path())
    }
}
