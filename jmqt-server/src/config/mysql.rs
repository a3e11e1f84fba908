//! The keys of the connection to MySQL.

use std::fmt;
use std::path::PathBuf;

use jmqt_config::Settings;

const DEFAULT_PORT: u16 = 3306;

/// A database of MySQL 8.0 or later, or MariaDB 10.6 or later, in place of the SQLite file.
#[derive(Clone)]
#[non_exhaustive]
pub struct MySqlConfig {
    /// The server's name or address. Default `127.0.0.1`.
    pub host: String,
    /// Its port. Default 3306.
    pub port: u16,
    /// The database, which must exist. Default `jmqt`.
    pub database: String,
    /// The database user. Default `jmqt`.
    pub user: String,
    /// The password of the user; empty, the default, for no password.
    pub password: String,
    /// Whether connections are encrypted. Default [`MySqlTls::Preferred`].
    pub tls: MySqlTls,
    /// The size of the connection pool. 3 to 1,000, default 8.
    pub pool_size: u32,
}

impl Default for MySqlConfig {
    fn default() -> Self {
        Self {
            host: "127.0.0.1".to_owned(),
            port: DEFAULT_PORT,
            database: "jmqt".to_owned(),
            user: "jmqt".to_owned(),
            password: String::new(),
            tls: MySqlTls::default(),
            pool_size: 8,
        }
    }
}

impl fmt::Debug for MySqlConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, port, database, user, password: _, tls, pool_size } = self;
        f.debug_struct("MySqlConfig")
            .field("host", host)
            .field("port", port)
            .field("database", database)
            .field("user", user)
            .field("password", &"(hidden)")
            .field("tls", tls)
            .field("pool_size", pool_size)
            .finish()
    }
}

/// The encryption of connections to the database, and the certificates that are accepted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum MySqlTls {
    /// Never encrypted.
    Disabled,
    /// Encrypted if the server supports it; any certificate is accepted.
    #[default]
    Preferred,
    /// Always encrypted; any certificate is accepted.
    Required,
    /// Always encrypted. An authority in `ca`, or one that the operating system trusts, must have signed the
    /// certificate.
    VerifyCa {
        /// A file of certificates, PEM.
        ca: Option<PathBuf>,
    },
    /// As [`VerifyCa`](Self::VerifyCa), and the certificate must contain the host name.
    VerifyIdentity {
        /// A file of certificates, PEM.
        ca: Option<PathBuf>,
    },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum SslMode {
    Disabled,
    Preferred,
    Required,
    VerifyCa,
    VerifyIdentity,
}

/// All keys are read even if they are not needed, so that every wrong value is reported.
pub(super) fn mysql(settings: &Settings) -> Option<MySqlConfig> {
    let modes = [
        ("DISABLED", SslMode::Disabled),
        ("PREFERRED", SslMode::Preferred),
        ("REQUIRED", SslMode::Required),
        ("VERIFY_CA", SslMode::VerifyCa),
        ("VERIFY_IDENTITY", SslMode::VerifyIdentity),
    ];
    let mode = settings.choice("MYSQL_SSL_MODE", SslMode::Preferred, &modes);
    let ca = settings.path("MYSQL_SSL_CA_PATH", "");
    let tls = match mode {
        SslMode::Disabled => MySqlTls::Disabled,
        SslMode::Preferred => MySqlTls::Preferred,
        SslMode::Required => MySqlTls::Required,
        SslMode::VerifyCa => MySqlTls::VerifyCa { ca },
        SslMode::VerifyIdentity => MySqlTls::VerifyIdentity { ca },
    };
    let port = settings.integer("MYSQL_PORT", DEFAULT_PORT.into(), 1..=65_535);
    let pool_size = settings.integer("MYSQL_POOL_SIZE", 8, 3..=1000);
    let config = MySqlConfig {
        host: name(settings, "MYSQL_HOST", "127.0.0.1"),
        port: u16::try_from(port).unwrap_or(DEFAULT_PORT),
        database: name(settings, "MYSQL_DB", "jmqt"),
        user: name(settings, "MYSQL_USER", "jmqt"),
        password: settings.text("MYSQL_PSWD", "").to_owned(),
        tls,
        pool_size: u32::try_from(pool_size).unwrap_or(u32::MAX),
    };
    settings.switch("ENABLE_MYSQL", false).then_some(config)
}

/// A text that must not be empty.
fn name(settings: &Settings, key: &'static str, default: &str) -> String {
    let text = settings.text(key, default).trim();
    if text.is_empty() { default } else { text }.to_owned()
}
