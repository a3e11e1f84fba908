//! Two `hello_server`s as the nodes of a cluster, with the MariaDB and the Redis between them.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use test_support::{Database, command, database, find};

use super::peers::configuration;
use super::process::{Process, free_addresses};
use super::usage::Usage;
use super::{Kind, Places, install};
use crate::swarm::Endpoint;

const DATABASE: &str = "jmqt";

/// Runs until it is dropped: nodes first.
pub(crate) struct Cluster {
    nodes: [Process; 2],
    redis: Process,
    _mariadb: MariaDb,
}

impl Cluster {
    /// Starts everything; the endpoints are those of the nodes.
    pub(crate) fn start(places: &Places) -> Result<(Self, [Endpoint; 2])> {
        let (mariadb, database) = start_mariadb(&places.scratch)?;
        let (redis, bus) = start_redis(&places.scratch)?;
        let (first, first_address) = start_node(places, database, bus)?;
        let (second, second_address) = start_node(places, database, bus)?;
        let cluster = Self { nodes: [first, second], redis, _mariadb: mariadb };
        Ok((cluster, [first_address, second_address].map(|address| Endpoint { address, tls: None })))
    }

    /// What the nodes and Redis have used: all that a delivery passes, but for the database.
    pub(crate) fn usage(&self) -> Result<Usage> {
        let [first, second] = &self.nodes;
        Ok(first.usage()?.with(second.usage()?).with(self.redis.usage()?))
    }

    /// The end of what the nodes printed.
    pub(crate) fn last_words(&self) -> String {
        self.nodes.each_ref().map(Process::last_words).join("\n")
    }
}

/// One node, to which others are simulated.
pub(crate) struct LoneNode {
    pub(crate) address: SocketAddr,
    pub(crate) redis_address: SocketAddr,
    database: SocketAddr,
    node: Process,
    redis: Process,
    _mariadb: MariaDb,
}

impl LoneNode {
    pub(crate) fn start(server: &Path, scratch: &Path) -> Result<Self> {
        let places = Places { hello_server: server.to_owned(), scratch: scratch.to_owned() };
        let (mariadb, database) = start_mariadb(scratch)?;
        let (redis, redis_address) = start_redis(scratch)?;
        let (node, address) = start_node(&places, database, redis_address)?;
        Ok(Self { address, redis_address, database, node, redis, _mariadb: mariadb })
    }

    pub(crate) fn usage(&self) -> Result<Usage> {
        self.node.usage()
    }

    pub(crate) fn redis_usage(&self) -> Result<Usage> {
        self.redis.usage()
    }

    pub(crate) fn last_words(&self) -> String {
        self.node.last_words()
    }

    /// The lines of the database's table `meta`: name, tab, value.
    pub(crate) fn meta(&self) -> Result<String> {
        let sql = format!("SELECT name, value FROM {DATABASE}.meta");
        let output = ask(self.database, &["--batch", "--skip-column-names", "--execute", &sql])?;
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// A MariaDB that runs until it is dropped.
struct MariaDb {
    _server: Database,
    /// Deleted after the server has ended.
    _folder: TempDir,
}

fn start_redis(scratch: &Path) -> Result<(Process, SocketAddr)> {
    let folder = tempfile::tempdir_in(scratch)?;
    let [address] = free_addresses()?;
    let config = folder.path().join("redis.conf");
    fs::write(&config, configuration(Kind::Redis, address.port())?)?;
    let mut command = command(install::program(Kind::Redis)?);
    command.arg(&config);
    Ok((Process::start(&mut command, folder, address)?, address))
}

/// Every commit is on disk, as it is for the single node it is measured beside. Sizes are those of MariaDB's defaults.
fn start_mariadb(scratch: &Path) -> Result<(MariaDb, SocketAddr)> {
    if !database::Kind::MariaDb.is_installed() {
        bail!("mariadb-server is not installed");
    }
    let folder = tempfile::tempdir_in(scratch)?;
    let sizes =
        ["--innodb-buffer-pool-size=128M", "--innodb-log-file-size=96M", "--aria-pagecache-buffer-size=128M"];
    let server = Database::start(database::Kind::MariaDb, folder.path(), sizes.map(str::to_owned).to_vec());
    let address = server.address();
    let made = ask(address, &["--execute", &format!("CREATE DATABASE {DATABASE}")])?;
    if !made.status.success() {
        bail!("MariaDB makes no database: {}", String::from_utf8_lossy(&made.stderr));
    }
    Ok((MariaDb { _server: server, _folder: folder }, address))
}

fn ask(address: SocketAddr, arguments: &[&str]) -> Result<Output> {
    let client = find("mariadb").context("mariadb-client is not installed")?;
    let output = Command::new(client)
        .args(["--no-defaults", "--user=root", "--host=127.0.0.1"])
        .arg(format!("--port={}", address.port()))
        .args(arguments)
        .output()?;
    Ok(output)
}

fn start_node(places: &Places, database: SocketAddr, bus: SocketAddr) -> Result<(Process, SocketAddr)> {
    let folder = tempfile::tempdir_in(&places.scratch)?;
    let [address] = free_addresses()?;
    let config = folder.path().join("server.conf");
    fs::write(&config, "")?;
    let mut command = command(&places.hello_server);
    command
        .arg("--config")
        .arg(&config)
        .env("JMQT_SOCKET_PORT", address.port().to_string())
        .env("JMQT_ENABLE_MYSQL", "true")
        .env("JMQT_MYSQL_PORT", database.port().to_string())
        .env("JMQT_MYSQL_DB", DATABASE)
        .env("JMQT_MYSQL_USER", "root")
        .env("JMQT_ENABLE_REDIS", "true")
        .env("JMQT_REDIS_PORT", bus.port().to_string())
        .env("JMQT_TOKEN_SECRET", "the nodes of a benchmark share one secret")
        .env("JMQT_TIMEOUT_SECONDS", "3600")
        .env("JMQT_LOG_MODE", "WRN");
    Ok((Process::start(&mut command, folder, address)?, address))
}
