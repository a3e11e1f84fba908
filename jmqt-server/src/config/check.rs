//! Checks of a configuration before a server starts: settings made in code, and the files and addresses that they
//! name.

use std::fs;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::path::Path;

use super::{Config, ConfigError};
use crate::tls;

/// The smallest packet limit that has room for a `conn` with an ordinary token.
const SMALLEST_PACKET: usize = 64;

impl Config {
    /// Checks the configuration without starting a server: every setting, certificate and key, the bind address
    /// (it must belong to this machine), and the folders of the log and the database (they must exist). It opens no port
    /// of the configuration, no database and no log.
    ///
    /// # Errors
    /// [`ConfigError`] lists all mistakes.
    pub fn check(&self) -> Result<(), ConfigError> {
        let mut problems = self.bad_fields();
        let mut note = |key, problem: Result<(), String>| {
            problems.extend(problem.err().map(|problem| ConfigError::Unusable { key, problem }));
        };
        note("BIND_ADDRESS", bindable(self.bind_address));
        if self.mysql.is_none() {
            note("SQLITE_PATH", file_in_folder(&self.sqlite_path, true));
        }
        if let Some(address) = self.admin_address {
            note("ADMIN_ADDRESS", bindable(address.ip()));
        }
        if let Some(path) = &self.log.path {
            note("LOG_PATH", if path.is_dir() { Ok(()) } else { file_in_folder(path, false) });
        }
        if let Some(Err(error)) = self.ssl.as_ref().map(tls::check) {
            problems.push(ConfigError::Unusable { key: "ENABLE_SSL", problem: error.to_string() });
        }
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::all(problems)) }
    }

    /// Settings that the start of a server refuses.
    pub(crate) fn check_fields(&self) -> Result<(), ConfigError> {
        let problems = self.bad_fields();
        if problems.is_empty() { Ok(()) } else { Err(ConfigError::all(problems)) }
    }

    /// Settings that need a cargo feature that this build does not have.
    pub(super) fn missing_features(&self, built: &[(&str, bool)]) -> Vec<ConfigError> {
        let asked_for = [
            ("SQLITE_PATH", "sqlite", self.mysql.is_none()),
            ("ENABLE_MYSQL", "mysql", self.mysql.is_some()),
            ("ENABLE_REDIS", "redis", self.redis.is_some()),
            ("ENABLE_SSL", "tls", self.ssl.is_some()),
            ("ADMIN_ADDRESS", "admin", self.admin_address.is_some()),
        ];
        let missing = asked_for
            .into_iter()
            .filter(|(_, feature, is_asked_for)| *is_asked_for && !built.contains(&(feature, true)));
        missing
            .map(|(key, feature, _)| ConfigError::MissingFeature { key, feature, package: "jmqt-server" })
            .collect()
    }

    fn bad_fields(&self) -> Vec<ConfigError> {
        let mut problems = Vec::new();
        let mut expect = |field, is_right: bool, found: String, expected: &str| {
            if !is_right {
                problems.push(ConfigError::BadField { field, found, expected: expected.to_owned() });
            }
        };
        let packet_sizes = [
            ("max_packet_bytes", self.max_packet_bytes),
            ("max_preconn_packet_bytes", self.max_preconn_packet_bytes),
        ];
        for (field, bytes) in packet_sizes {
            let is_right = (SMALLEST_PACKET..=super::LARGEST_PACKET).contains(&bytes);
            expect(field, is_right, bytes.to_string(), "64 to 1073741824 bytes");
        }
        let counts = [
            ("max_connections", self.max_connections),
            ("outbound_queue_bytes", self.outbound_queue_bytes),
            ("max_inflight", self.max_inflight as usize),
            ("mqtt_receive_maximum", self.mqtt_receive_maximum.into()),
        ];
        for (field, count) in counts {
            expect(field, count > 0, count.to_string(), "at least 1");
        }
        expect("max_inflight", self.max_inflight <= 1024, self.max_inflight.to_string(), "at most 1024");
        let times = [
            ("timeout", self.timeout),
            ("slow_consumer", self.slow_consumer),
            ("validator_timeout", self.validator_timeout),
        ];
        for (field, time) in times {
            expect(field, !time.is_zero(), format!("{time:?}"), "a time longer than 0");
        }
        let zero_limits = [
            ("max_connections_per_address", self.max_connections_per_address == Some(0)),
            ("max_connects_per_address_per_second", self.max_connects_per_address_per_second == Some(0)),
            ("max_takeovers_per_second", self.max_takeovers_per_second == Some(0)),
            ("max_packets_per_second_per_client", self.max_packets_per_second_per_client == Some(0)),
            ("max_bytes_per_second_per_client", self.max_bytes_per_second_per_client == Some(0)),
            ("max_pending_per_client", self.max_pending_per_client == Some(0)),
        ];
        for (field, is_zero) in zero_limits {
            expect(field, !is_zero, "Some(0)".to_owned(), "at least 1, or None for no limit");
        }
        if let Some(mysql) = &self.mysql {
            let expected = "3 to 1000 connections";
            expect("mysql", (3..=1000).contains(&mysql.pool_size), mysql.pool_size.to_string(), expected);
        }
        if self.listeners().next().is_none() {
            problems.push(super::no_listener());
        }
        problems.extend(self.missing_features(&BUILT));
        problems
    }
}

/// The cargo features that settings may need, and whether this build has them.
const BUILT: [(&str, bool); 5] = [
    ("admin", cfg!(feature = "admin")),
    ("sqlite", cfg!(feature = "sqlite")),
    ("mysql", cfg!(feature = "mysql")),
    ("redis", cfg!(feature = "redis")),
    ("tls", cfg!(feature = "tls")),
];

/// Checks that a listener can bind this address, with any port.
fn bindable(address: IpAddr) -> Result<(), String> {
    match TcpListener::bind(SocketAddr::new(address, 0)) {
        Ok(_) => Ok(()),
        Err(error) => {
            Err(format!("cannot listen on {address}: {error}; it must be an address of this machine"))
        }
    }
}

/// Checks that a file can be created here; `makes_folders`: missing folders are created too.
fn file_in_folder(path: &Path, makes_folders: bool) -> Result<(), String> {
    if path.is_dir() {
        return Err(format!("{} is a folder; expected the path of a file", path.display()));
    }
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let existing = folder.ancestors().find(|folder| folder.as_os_str().is_empty() || folder.exists());
    match existing {
        Some(existing) if existing != folder && !makes_folders => {
            Err(format!("the folder {} does not exist; create it, or correct the path", folder.display()))
        }
        Some(existing) => {
            let existing = if existing.as_os_str().is_empty() { Path::new(".") } else { existing };
            let metadata =
                fs::metadata(existing).map_err(|error| format!("{}: {error}", existing.display()))?;
            if !metadata.is_dir() {
                return Err(format!("{} is not a folder", existing.display()));
            }
            if metadata.permissions().readonly() {
                return Err(format!("the folder {} is not writable", existing.display()));
            }
            Ok(())
        }
        None => Err(format!("the folder {} does not exist", folder.display())),
    }
}
