//! One server with its data, on SQLite or on a MariaDB, for clients that speak MQTT.

use std::fmt::Write as _;
use std::path::PathBuf;

use tempfile::TempDir;
use test_support::{Process, free_port, tail};

use crate::mariadb::{DATABASE, MariaDb};
use crate::process::program;

/// A running process; it ends, and its folder goes, when it is dropped.
#[derive(Debug)]
pub struct Server {
    /// Where it listens for MQTT on 127.0.0.1.
    pub port: u16,
    folder: TempDir,
    process: Option<Process>,
    starts: u32,
}

impl Server {
    /// Starts one, without waiting.
    #[must_use]
    pub fn start(database: Option<&MariaDb>) -> Self {
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
        let mut server = Self { port, folder, process: None, starts: 0 };
        std::fs::write(server.file("server.conf"), text).unwrap();
        server.launch();
        server
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn launch(&mut self) {
        self.starts += 1;
        let mut command = test_support::command(program("torture_node"));
        command.arg("--config").arg(self.file("server.conf")).arg("--notices").arg(self.file("notices"));
        command.args(["--name", "n0", "--start", &self.starts.to_string()]);
        self.process = Some(Process::start_with_log(&mut command, &self.file("log")).unwrap());
    }

    /// Kills it, and starts it again.
    pub fn crash(&mut self) {
        let mut process = self.process.take().expect("it is running");
        if let Some(status) = process.ended() {
            panic!("the server ended with {status}; its log ends with:\n{}", tail(&self.file("log")));
        }
        process.kill();
        self.launch();
    }
}
