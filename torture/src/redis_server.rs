//! A Redis of one's own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;

use crate::mariadb::tail;
use crate::process::{Process, free_port};
use crate::{DEADLINE, within};

const RETRY_EVERY: Duration = Duration::from_millis(20);

/// A server that keeps nothing on disk.
#[derive(Debug)]
pub struct RedisServer {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    folder: PathBuf,
    process: Option<Process>,
}

impl RedisServer {
    /// Whether it can be started here.
    #[must_use]
    pub fn is_installed() -> bool {
        test_support::find("redis-server").is_some()
    }

    /// Starts one with its log in this folder.
    pub async fn start(folder: &Path) -> Self {
        let mut server = Self { port: 0, folder: folder.to_owned(), process: None };
        for _ in 0..3 {
            server.port = free_port();
            if server.try_launch().await {
                return server;
            }
        }
        panic!("Redis does not start; its log ends with:\n{}", tail(&server.log()));
    }

    fn log(&self) -> PathBuf {
        self.folder.join("redis.log")
    }

    /// Starts it again on the same port, and waits until it answers.
    pub async fn launch(&mut self) {
        assert!(self.try_launch().await, "Redis does not start; its log ends with:\n{}", tail(&self.log()));
    }

    async fn try_launch(&mut self) -> bool {
        let mut command = test_support::command("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &self.port.to_string()]);
        command
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .arg("--dir")
            .arg(&self.folder);
        let mut process = Process::start(&mut command, &self.log());
        let answers = within("Redis's first answer", async {
            loop {
                if let Ok(mut connection) = self.connect().await
                    && redis::cmd("PING").query_async::<String>(&mut connection).await.is_ok()
                {
                    return true;
                }
                if process.ended().is_some() {
                    return false;
                }
                tokio::time::sleep(RETRY_EVERY).await;
            }
        })
        .await;
        self.process = answers.then_some(process);
        answers
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process.take().expect("Redis is running").kill();
    }

    /// SIGSTOP: connections stay, nothing moves.
    pub fn pause(&self) {
        self.process.as_ref().expect("Redis is running").pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process.as_ref().expect("Redis is running").resume();
    }

    async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        let client = redis::Client::open(("127.0.0.1", self.port))?;
        client.get_multiplexed_async_connection_with_config(&config).await
    }

    /// The channels with subscribers and this prefix.
    pub async fn channels(&self, prefix: &str) -> Vec<String> {
        let asked = async {
            let mut connection = self.connect().await?;
            let pattern = format!("{prefix}*");
            redis::cmd("PUBSUB").arg("CHANNELS").arg(pattern).query_async(&mut connection).await
        };
        let asked: redis::RedisResult<Vec<String>> = within("Redis's channels", asked).await;
        asked.unwrap()
    }
}
