//! The options of the connection to Redis.

use std::path::PathBuf;

/// The options of the connection to Redis.
#[derive(Clone)]
#[non_exhaustive]
pub struct RedisOptions {
    /// One server, Sentinels, or a cluster.
    pub mode: RedisMode,
    /// The number of the database; 0 on a cluster. Publish/subscribe ignores it.
    pub db_index: i64,
    /// An ACL user; `None` for the default user.
    pub user: Option<String>,
    /// The password of the user.
    pub password: Option<String>,
    /// Whether the connection is encrypted.
    pub tls: bool,
    /// The certificate authority to trust instead of the system's, PEM.
    pub ca_path: Option<PathBuf>,
    /// The prefix of the names of all Redis channels.
    pub prefix: String,
}

/// The kind of a Redis service.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum RedisMode {
    /// One server.
    Standalone {
        /// Its name or address.
        host: String,
        /// Its port.
        port: u16,
    },
    /// A server that Sentinels monitor.
    Sentinel {
        /// The Sentinels.
        nodes: Vec<(String, u16)>,
        /// The name of the server in the configuration of the Sentinels.
        master: String,
    },
    /// A Redis Cluster. Pushes go through sharded publish/subscribe, which needs Redis 7.
    Cluster {
        /// Some of its nodes.
        nodes: Vec<(String, u16)>,
    },
}

impl RedisOptions {
    /// One server without a password.
    #[must_use]
    pub fn standalone(host: impl Into<String>, port: u16) -> Self {
        Self {
            mode: RedisMode::Standalone { host: host.into(), port },
            db_index: 0,
            user: None,
            password: None,
            tls: false,
            ca_path: None,
            prefix: "jmqt:".to_owned(),
        }
    }
}

impl std::fmt::Debug for RedisOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedisOptions")
            .field("mode", &self.mode)
            .field("db_index", &self.db_index)
            .field("user", &self.user)
            .field("tls", &self.tls)
            .field("ca_path", &self.ca_path)
            .field("prefix", &self.prefix)
            .finish_non_exhaustive() // omits the password
    }
}
