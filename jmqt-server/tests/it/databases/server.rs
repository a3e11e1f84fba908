//! A MariaDB server of a test's own, which can be stopped and started again.

use std::time::Duration;

use sqlx::mysql::MySqlConnectOptions;
use tempfile::TempDir;
use test_support::Database;
use test_support::database::Kind;

/// Between two looks at a server that starts.
const LOOK_EVERY: Duration = Duration::from_millis(20);

pub(crate) struct MariaDb {
    server: Database,
    _folder: TempDir,
}

impl MariaDb {
    /// Starts one; `None`, with a message, if there is no `mariadbd`, or databases are not to be tested.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(Vec::new()).await
    }

    /// The same, with more arguments.
    pub(crate) async fn start_with(arguments: Vec<String>) -> Option<Self> {
        if std::env::var_os("JMQT_TEST_MYSQL").is_none() || !Kind::MariaDb.is_installed() {
            super::left_out("it needs mariadbd; scripts/with-databases has it installed");
            return None;
        }
        let folder = TempDir::new().unwrap();
        let server = Database::new(Kind::MariaDb, folder.path(), arguments);
        let mut server = Self { server, _folder: folder };
        server.restart().await;
        Some(server)
    }

    pub(crate) fn options(&self) -> MySqlConnectOptions {
        MySqlConnectOptions::new().host("127.0.0.1").port(self.server.port()).username("root")
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        self.server.kill();
    }

    /// Starts it again, and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        self.server.launch();
        let up = async {
            while !self.server.is_up() {
                tokio::time::sleep(LOOK_EVERY).await; // there is no event to wait for
            }
        };
        tokio::time::timeout(test_support::DEADLINE, up).await.expect("MariaDB answers");
    }
}
