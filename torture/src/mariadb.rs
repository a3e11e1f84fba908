//! The MariaDB of a cluster, which can be killed and started again with its data.

use std::path::Path;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Row as _};
use test_support::Database;
use test_support::database::Kind;

use crate::{LOOK_EVERY, until, within};

/// The database of the nodes.
pub const DATABASE: &str = "jmqt";

/// A server with an empty database.
#[derive(Debug)]
pub struct MariaDb {
    server: Database,
}

impl MariaDb {
    /// Whether it can be started here.
    #[must_use]
    pub fn is_installed() -> bool {
        Kind::MariaDb.is_installed()
    }

    /// Starts one with its data in this folder.
    pub async fn start(folder: &Path) -> Self {
        let mut server = Self { server: Database::new(Kind::MariaDb, folder, Vec::new()) };
        server.launch().await;
        let sql = format!("CREATE DATABASE IF NOT EXISTS {DATABASE} CHARACTER SET utf8mb4");
        let mut connection = server.options().connect().await.unwrap();
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
        connection.close().await.unwrap();
        server
    }

    /// Where it listens, on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.server.port()
    }

    /// Starts it with its data, and waits until it answers.
    pub async fn launch(&mut self) {
        self.server.launch();
        until("MariaDB's first answer", || self.server.is_up().then_some(())).await;
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.server.kill();
    }

    /// Pauses it.
    pub fn pause(&self) {
        self.server.process().pause();
    }

    /// Continues it.
    pub fn resume(&self) {
        self.server.process().resume();
    }

    fn options(&self) -> MySqlConnectOptions {
        MySqlConnectOptions::new()
            .host("127.0.0.1")
            .port(self.port())
            .username("root")
            .ssl_mode(MySqlSslMode::Disabled)
    }

    /// A connection to the nodes' database.
    pub async fn connect(&self) -> MySqlConnection {
        within("a connection to MariaDB", self.options().database(DATABASE).connect()).await.unwrap()
    }

    /// The rows of the sessions that have not been closed: client, node, who has claimed it.
    pub async fn sessions(&self) -> Vec<String> {
        let mut connection = self.connect().await;
        let sql = "SELECT CONVERT(CONCAT(client_id, ' ', generation, ' of ', node_id, ' claimed by ', \
                   COALESCE(close_claimed_by, 'nobody')) USING utf8mb4) FROM sessions";
        let rows = connection.fetch_all(sql).await.unwrap();
        rows.iter().map(|row| row.get::<String, _>(0)).collect()
    }

    /// Waits until all sessions have been closed.
    pub async fn without_sessions(&self) {
        within("an empty store", async {
            while !self.sessions().await.is_empty() {
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
        .await;
    }
}
