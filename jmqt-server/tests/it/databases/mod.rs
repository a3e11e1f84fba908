//! Databases of the MySQL or MariaDB server that the environment variable `JMQT_TEST_MYSQL` names,
//! `mysql://root@127.0.0.1:3306` or the like: see `scripts/with-databases`. Without it, the tests that
//! need one are left out, and say so.

#![allow(dead_code, reason = "not every test file needs all of it")]
#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

pub(crate) mod proxy;
pub(crate) mod server;

use std::io::Write as _;
use std::sync::atomic::{AtomicU32, Ordering};

use jmqt_server::config::MySqlTls;
use jmqt_server::store::{MySqlOptions, RetainedLimits};
use sqlx::mysql::{MySqlConnectOptions, MySqlConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, Row as _};

/// Says that the test that is running was left out. Straight to stderr: what `eprintln!` says in a test that
/// passes is not shown.
pub(crate) fn left_out(why: &str) {
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "left out: {}: {why}", thread.name().unwrap_or("a test"));
}

/// A database of its own, which is dropped with this.
pub(crate) struct MySql {
    server: MySqlConnectOptions,
    pub(crate) name: String,
    pub(crate) is_shared: bool,
}

impl MySql {
    /// A database that does not exist yet; `None`, with a message, if there is no server.
    pub(crate) fn new(is_shared: bool) -> Option<Self> {
        let Ok(url) = std::env::var("JMQT_TEST_MYSQL") else {
            left_out("it needs a database (JMQT_TEST_MYSQL); scripts/with-databases starts one");
            return None;
        };
        Some(Self::on(url.parse().expect("JMQT_TEST_MYSQL is a mysql:// address"), is_shared))
    }

    /// A database of another server that does not exist yet.
    pub(crate) fn on(server: MySqlConnectOptions, is_shared: bool) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let random = getrandom::u32().unwrap();
        let name = format!("jmqt_test_{}_{random:08x}_{count}", std::process::id());
        Self { server, name, is_shared }
    }

    /// Makes the database, if that has not been done.
    pub(crate) async fn make(&self) {
        let mut connection = self.server.connect().await.unwrap();
        let sql = format!("CREATE DATABASE IF NOT EXISTS `{}` CHARACTER SET utf8mb4", self.name);
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
    }

    /// How a store opens it.
    pub(crate) fn options(&self) -> MySqlOptions {
        MySqlOptions {
            host: self.server.get_host().to_owned(),
            port: self.server.get_port(),
            database: self.name.clone(),
            user: self.server.get_username().to_owned(),
            password: String::new(),
            tls: MySqlTls::Preferred,
            pool_size: 8,
            largest_payload: 4 << 20,
            shared: self.is_shared,
            retained: RetainedLimits::default(),
        }
    }

    /// Where the server listens.
    pub(crate) fn address(&self) -> String {
        format!("{}:{}", self.server.get_host(), self.server.get_port())
    }

    /// Ends all connections of the others to it, and says how many there were.
    pub(crate) async fn end_connections(&self) -> usize {
        let mut connection = self.connect().await;
        let sql = "SELECT CAST(id AS SIGNED) FROM information_schema.processlist \
            WHERE db = DATABASE() AND id <> CONNECTION_ID()";
        let ids = connection.fetch_all(sql).await.unwrap();
        for row in &ids {
            let id: i64 = row.get(0);
            let _ = connection.execute(AssertSqlSafe(format!("KILL {id}"))).await;
        }
        ids.len()
    }

    /// A connection of the test's own to it.
    pub(crate) async fn connect(&self) -> MySqlConnection {
        self.server.clone().database(&self.name).connect().await.unwrap()
    }
}

impl Drop for MySql {
    fn drop(&mut self) {
        let (server, name) = (self.server.clone(), self.name.clone());
        let dropping = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let mut connection = server.connect().await?;
                // A test that panicked may have left a transaction, whose locks would be waited for a day.
                connection.execute("SET SESSION lock_wait_timeout = 20").await?;
                connection.execute(AssertSqlSafe(format!("DROP DATABASE IF EXISTS `{name}`"))).await?;
                Ok::<_, Box<dyn std::error::Error + Send + Sync>>(())
            })
        });
        if !matches!(dropping.join(), Ok(Ok(()))) {
            eprintln!("the database {} could not be dropped", self.name);
        }
    }
}
