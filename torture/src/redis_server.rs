//! The Redis of a cluster.

use std::path::Path;

use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use test_support::Database;
use test_support::database::Kind;

use crate::{DEADLINE, until, within};

/// A server that keeps nothing on disk.
#[derive(Debug)]
pub struct RedisServer {
    server: Database,
}

impl RedisServer {
    /// Whether it can be started here.
    #[must_use]
    pub fn is_installed() -> bool {
        Kind::Redis.is_installed()
    }

    /// Starts one with its log in this folder.
    pub async fn start(folder: &Path) -> Self {
        let mut server = Self { server: Database::new(Kind::Redis, folder, Vec::new()) };
        server.launch().await;
        server
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.server.port()
    }

    /// Starts it again on the same port, and waits until it answers.
    pub async fn launch(&mut self) {
        self.server.launch();
        until("Redis's first answer", || self.server.is_up().then_some(())).await;
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// SIGSTOP: connections stay, nothing moves.
    pub fn pause(&self) {
        self.server.process().pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.server.process().resume();
    }

    async fn connect(&self) -> redis::RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(DEADLINE))
            .set_response_timeout(Some(DEADLINE));
        let client = redis::Client::open(("127.0.0.1", self.port()))?;
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
