//! A MariaDB server of a test's own, which can be stopped and started again.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use sqlx::ConnectOptions as _;
use sqlx::mysql::MySqlConnectOptions;
use tempfile::TempDir;
use tokio::time::timeout;

/// How long one attempt to connect may take.
const ATTEMPT: Duration = Duration::from_secs(5);

pub(crate) struct MariaDb {
    folder: TempDir,
    port: u16,
    running: Option<Child>,
    arguments: Vec<String>,
}

impl MariaDb {
    /// Starts one; `None`, with a message, where there is no `mariadbd`, or databases are not to be tested.
    pub(crate) async fn start() -> Option<Self> {
        Self::start_with(Vec::new()).await
    }

    /// The same, with more arguments.
    pub(crate) async fn start_with(arguments: Vec<String>) -> Option<Self> {
        let is_there = Command::new("mariadbd").arg("--version").output().is_ok();
        if std::env::var_os("JMQT_TEST_MYSQL").is_none() || !is_there {
            super::left_out("it needs mariadbd; scripts/with-databases has it installed");
            return None;
        }
        let folder = TempDir::new().unwrap();
        let mut install = Command::new("mariadb-install-db");
        install.args(["--no-defaults", "--skip-test-db", "--auth-root-authentication-method=normal"]);
        install.arg(format!("--datadir={}", folder.path().join("data").display()));
        install.stdout(Stdio::null()).stderr(Stdio::null());
        if is_root(&folder) {
            install.arg("--user=root");
        }
        assert!(install.status().unwrap().success());
        let mut server = Self { folder, port: 0, running: None, arguments };
        for _ in 0..3 {
            server.port = free_port();
            if server.try_restart().await {
                return Some(server);
            }
        }
        panic!("mariadbd does not start");
    }

    pub(crate) fn options(&self) -> MySqlConnectOptions {
        MySqlConnectOptions::new().host("127.0.0.1").port(self.port).username("root")
    }

    /// Ends it at once, as a crash does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            running.kill().unwrap();
            running.wait().unwrap();
        }
    }

    /// Starts it again, and waits until it answers.
    pub(crate) async fn restart(&mut self) {
        assert!(self.try_restart().await, "mariadbd does not start");
    }

    /// `false`: it has ended, perhaps because somebody else listens on its port.
    async fn try_restart(&mut self) -> bool {
        self.kill();
        let folder = self.folder.path();
        let mut command = Command::new("mariadbd");
        command.arg("--no-defaults");
        if is_root(&self.folder) {
            command.arg("--user=root");
        }
        command.arg(format!("--datadir={}", folder.join("data").display()));
        command.arg(format!("--socket={}", folder.join("socket").display()));
        command.arg(format!("--pid-file={}", folder.join("pid").display()));
        command.args(["--bind-address=127.0.0.1", &format!("--port={}", self.port), "--skip-name-resolve"]);
        command.args(&self.arguments);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        self.running = Some(command.spawn().unwrap());
        let until = Instant::now() + Duration::from_secs(60);
        loop {
            let answers = matches!(timeout(ATTEMPT, self.options().connect()).await, Ok(Ok(_)));
            let running = self.running.as_mut().expect("it was started");
            if running.try_wait().unwrap().is_some() {
                return false;
            }
            if answers {
                return true;
            }
            assert!(Instant::now() < until, "mariadbd does not answer");
            tokio::time::sleep(Duration::from_millis(50)).await; // asked again and again
        }
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Below the range that connections get their ports from: nobody takes it while the server is away.
fn free_port() -> u16 {
    let random = || 20_000 + u16::try_from(getrandom::u32().unwrap() % 12_000).unwrap();
    let is_free = |port: &u16| TcpListener::bind(("127.0.0.1", *port)).is_ok();
    std::iter::repeat_with(random).take(1000).find(is_free).expect("no free port was found")
}

fn is_root(folder: &TempDir) -> bool {
    std::os::unix::fs::MetadataExt::uid(&folder.path().metadata().unwrap()) == 0
}
