//! A MariaDB of one's own, which can be killed and started again on what it has on disk.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use sqlx::mysql::{MySqlConnectOptions, MySqlConnection, MySqlSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _, Row as _};
use test_support::find;

use crate::process::{Process, free_port, programs_folder};
use crate::{LOOK_EVERY, within};

/// The database of the nodes.
pub const DATABASE: &str = "jmqt";
/// Between two attempts to reach a server that starts.
const RETRY_EVERY: Duration = Duration::from_millis(30);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(5);

/// A server with an empty database.
#[derive(Debug)]
pub struct MariaDb {
    /// Where it listens, on 127.0.0.1.
    pub port: u16,
    folder: PathBuf,
    process: Option<Process>,
}

impl MariaDb {
    /// Whether it can be started here.
    #[must_use]
    pub fn is_installed() -> bool {
        find("mariadbd").is_some() && find("mariadb-install-db").is_some()
    }

    /// Starts one with its data in this folder.
    pub async fn start(folder: &Path) -> Self {
        copy_folder(&prepared(), &folder.join("mysql"));
        let mut server = Self { port: 0, folder: folder.to_owned(), process: None };
        for _ in 0..3 {
            server.port = free_port();
            if server.try_launch().await {
                let sql = format!("CREATE DATABASE IF NOT EXISTS {DATABASE} CHARACTER SET utf8mb4");
                let mut connection = server.options().connect().await.unwrap();
                connection.execute(AssertSqlSafe(sql)).await.unwrap();
                return server;
            }
        }
        panic!("MariaDB does not start; its log ends with:\n{}", tail(&server.log()));
    }

    fn log(&self) -> PathBuf {
        self.folder.join("mariadb.log")
    }

    /// Starts it on what is on disk, and waits until it answers.
    pub async fn launch(&mut self) {
        assert!(self.try_launch().await, "MariaDB does not start; its log ends with:\n{}", tail(&self.log()));
    }

    async fn try_launch(&mut self) -> bool {
        let mut command = test_support::command("mariadbd");
        common(&mut command, &self.folder.join("mysql"));
        command
            .arg(format!("--socket={}", self.folder.join("mysql.sock").display()))
            .arg(format!("--pid-file={}", self.folder.join("mysql.pid").display()))
            .arg(format!("--tmpdir={}", self.folder.display()))
            .arg(format!("--port={}", self.port))
            .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--performance-schema=OFF"])
            .args(["--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=64M"])
            .args(["--max-allowed-packet=64M", "--max-connections=200", "--aria-pagecache-buffer-size=8M"]);
        let mut process = Process::start(&mut command, &self.log());
        let answers = within("MariaDB's first answer", async {
            loop {
                let asked = tokio::time::timeout(ATTEMPT, self.options().connect()).await;
                if let Ok(Ok(connection)) = asked {
                    let _ = connection.close().await;
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
        self.process.take().expect("MariaDB is running").kill();
    }

    /// It is paused.
    pub fn pause(&self) {
        self.process.as_ref().expect("MariaDB is running").pause();
    }

    /// It goes on.
    pub fn resume(&self) {
        self.process.as_ref().expect("MariaDB is running").resume();
    }

    fn options(&self) -> MySqlConnectOptions {
        MySqlConnectOptions::new()
            .host("127.0.0.1")
            .port(self.port)
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

/// Options of every call.
fn common(command: &mut Command, data: &Path) {
    command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
    command.arg("--innodb-log-file-size=16M");
    if rustix::process::geteuid().is_root() {
        command.arg("--user=root");
    }
}

/// An empty data folder, made once and kept beside the programs: copying it is quicker.
fn prepared() -> PathBuf {
    let folder = programs_folder().join("torture-mariadb");
    if folder.is_dir() {
        return folder;
    }
    let own = programs_folder().join(format!("torture-mariadb-{:016x}", crate::Random::seed()));
    let mut command = Command::new("mariadb-install-db");
    common(&mut command, &own);
    command.args(["--skip-test-db", "--auth-root-authentication-method=normal"]);
    let made = command.stdin(Stdio::null()).output().unwrap();
    assert!(made.status.success(), "mariadb-install-db failed: {}", String::from_utf8_lossy(&made.stderr));
    // Another test may have been quicker.
    if std::fs::rename(&own, &folder).is_err() {
        std::fs::remove_dir_all(&own).unwrap();
    }
    folder
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            copy_folder(&entry.path(), &target);
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

/// The last lines of a log.
pub(crate) fn tail(path: &Path) -> String {
    let text = std::fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
