//! A MariaDB or Redis of a test's own, on 127.0.0.1 and in a folder of the test, which can be killed and started again.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::process::{Process, command, find, free_port, random, tail};

/// How long one look at a server that starts may take.
const LOOK: Duration = Duration::from_millis(200);
/// How many ports are tried: another process may take a port before the server listens on it.
const PORTS: usize = 3;

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// MariaDB, whose user `root` has no password. Every commit is on disk.
    MariaDb,
    /// Redis, which keeps nothing on disk.
    Redis,
}

impl Kind {
    /// The name of its program.
    #[must_use]
    pub const fn program(self) -> &'static str {
        match self {
            Self::MariaDb => "mariadbd",
            Self::Redis => "redis-server",
        }
    }

    /// Whether it can be started here.
    #[must_use]
    pub fn is_installed(self) -> bool {
        find(self.program()).is_some() && (self == Self::Redis || find("mariadb-install-db").is_some())
    }
}

/// What a server that was started is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// It does not answer yet.
    Starting,
    /// It answers.
    Up,
    /// It has ended; perhaps another process listens on its port.
    Ended,
}

/// A server, running or killed.
///
/// Starting takes two steps, so that async tests need not block: [`launch`](Self::launch), then
/// [`state`](Self::state) until the server is up. [`start`](Self::start) does both and blocks.
#[derive(Debug)]
pub struct Database {
    kind: Kind,
    port: u16,
    folder: PathBuf,
    arguments: Vec<String>,
    ports_left: usize,
    process: Option<Process>,
}

impl Database {
    /// Prepares a server with its files in this folder; `arguments` are added to those of its command.
    ///
    /// # Panics
    /// The server is not installed, or the folder cannot be written.
    #[must_use]
    pub fn new(kind: Kind, folder: &Path, arguments: Vec<String>) -> Self {
        if kind == Kind::MariaDb {
            copy_folder(&prepared(), &folder.join("mysql")).unwrap();
        }
        Self {
            kind,
            port: free_port(),
            folder: folder.to_owned(),
            arguments,
            ports_left: PORTS - 1,
            process: None,
        }
    }

    /// Starts a server, and waits until it answers.
    ///
    /// # Panics
    /// As of [`new`](Self::new); the server ends or does not answer within the [`DEADLINE`](crate::DEADLINE).
    #[must_use]
    #[track_caller]
    pub fn start(kind: Kind, folder: &Path, arguments: Vec<String>) -> Self {
        let mut server = Self::new(kind, folder, arguments);
        server.launch();
        crate::until(kind.program(), || server.is_up().then_some(()));
        server
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Its port on 127.0.0.1.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Its process.
    ///
    /// # Panics
    /// It is not running.
    #[must_use]
    pub const fn process(&self) -> &Process {
        self.process.as_ref().expect("the database is running")
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }

    fn log(&self) -> PathBuf {
        self.folder.join(format!("{}.log", self.kind.program()))
    }

    /// Starts it on what it has on disk and on the same port, without waiting.
    ///
    /// # Panics
    /// The program cannot be started.
    pub fn launch(&mut self) {
        let mut command = command(self.kind.program());
        match self.kind {
            Kind::MariaDb => {
                mariadb_arguments(&mut command, &self.folder.join("mysql"));
                command
                    .arg(format!("--socket={}", self.folder.join("mysql.sock").display()))
                    .arg(format!("--pid-file={}", self.folder.join("mysql.pid").display()))
                    .arg(format!("--tmpdir={}", self.folder.display()))
                    .arg(format!("--port={}", self.port))
                    .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--performance-schema=OFF"])
                    .args(["--innodb-flush-log-at-trx-commit=1", "--innodb-buffer-pool-size=64M"])
                    .args(["--max-allowed-packet=64M", "--max-connections=200"])
                    .arg("--aria-pagecache-buffer-size=8M");
            }
            Kind::Redis => {
                command
                    .args(["--bind", "127.0.0.1", "--port", &self.port.to_string(), "--daemonize", "no"])
                    .args(["--save", "", "--appendonly", "no", "--dir"])
                    .arg(&self.folder);
            }
        }
        command.args(&self.arguments);
        self.process = Some(Process::start_with_log(&mut command, &self.log()).unwrap());
    }

    /// What the server is doing. Takes a fraction of a second at most.
    ///
    /// # Panics
    /// It was not launched.
    pub fn state(&mut self) -> State {
        if self.process.as_mut().expect("the database was launched").ended().is_some() {
            return State::Ended;
        }
        match self.answers() {
            Ok(true) => State::Up,
            _ => State::Starting,
        }
    }

    /// Whether the server answers; one that ended before its first answer is started again on another port.
    ///
    /// # Panics
    /// It has ended on each of some ports, or ended after it had answered: the panic shows its log.
    #[track_caller]
    pub fn is_up(&mut self) -> bool {
        match self.state() {
            State::Starting => false,
            State::Up => {
                self.ports_left = 0; // its clients know the port
                true
            }
            State::Ended => {
                let name = self.kind.program();
                assert!(
                    self.ports_left > 0,
                    "{name} does not start; its log ends with:\n{}",
                    self.log_tail()
                );
                self.ports_left -= 1;
                self.port = free_port();
                self.launch();
                false
            }
        }
    }

    /// MariaDB greets its clients, Redis answers them.
    fn answers(&self) -> io::Result<bool> {
        let mut stream = TcpStream::connect_timeout(&self.address(), LOOK)?;
        stream.set_read_timeout(Some(LOOK))?;
        let mut first = [0; 5];
        if self.kind == Kind::Redis {
            stream.write_all(b"PING\r\n")?;
        }
        stream.read_exact(&mut first)?;
        Ok(match self.kind {
            Kind::Redis => &first == b"+PONG",
            Kind::MariaDb => first[4] == 10, // the version of the protocol, after the length and the number
        })
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// It is not running.
    pub fn kill(&mut self) {
        self.process.take().expect("the database is running").kill();
    }
}

/// Arguments of every call.
fn mariadb_arguments(command: &mut Command, data: &Path) {
    command.arg("--no-defaults").arg(format!("--datadir={}", data.display()));
    command.arg("--innodb-log-file-size=16M");
    // As root, MariaDB starts only if it is told so.
    if Command::new("id").arg("-u").output().unwrap().stdout == b"0\n" {
        command.arg("--user=root");
    }
}

/// An empty data folder, made once per version and kept beside the programs: copying it is quicker.
fn prepared() -> PathBuf {
    let version =
        Command::new(find("mariadbd").expect("mariadbd is installed")).arg("--version").output().unwrap();
    let version = String::from_utf8_lossy(&version.stdout);
    let version = version.split_whitespace().nth(2).expect("mariadbd tells its version");
    let folder = programs_folder().join(format!("mariadb-{version}"));
    if folder.is_dir() {
        return folder;
    }
    let own = programs_folder().join(format!("mariadb-{:016x}", random()));
    let mut command = Command::new(find("mariadb-install-db").expect("mariadb-install-db is installed"));
    mariadb_arguments(&mut command, &own);
    command.args(["--skip-test-db", "--auth-root-authentication-method=normal"]);
    let made = command.stdin(Stdio::null()).output().unwrap();
    assert!(made.status.success(), "mariadb-install-db failed: {}", String::from_utf8_lossy(&made.stderr));
    // Another test may have been quicker.
    if std::fs::rename(&own, &folder).is_err() {
        std::fs::remove_dir_all(&own).unwrap();
    }
    folder
}

/// The folder in which cargo has put the programs of this workspace: that of this program, or the one above it.
#[must_use]
pub fn programs_folder() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let folder = own.parent().unwrap();
    if folder.ends_with("deps") { folder.parent().unwrap().to_owned() } else { folder.to_owned() }
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (kind, target) = (entry.file_type()?, to.join(entry.file_name()));
        if kind.is_dir() {
            copy_folder(&entry.path(), &target)?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
