//! The keys of the connection to Redis.

use jmqt_config::{ConfigError, Settings};

use super::redis_options::{RedisMode, RedisOptions};

const DEFAULT_PORT: u16 = 6379;

#[derive(Clone, Copy)]
enum Mode {
    Standalone,
    Sentinel,
    Cluster,
}

/// All keys are read even if they are not needed, so that every wrong value is reported.
pub(super) fn redis(settings: &Settings) -> Option<RedisOptions> {
    let host = settings.text("REDIS_HOST", "127.0.0.1").trim();
    let port = settings.integer("REDIS_PORT", DEFAULT_PORT.into(), 1..=65_535);
    let db_index = settings.integer("REDIS_DB_INDEX", 0, 0..=65_535);
    let modes = [("STANDALONE", Mode::Standalone), ("SENTINEL", Mode::Sentinel), ("CLUSTER", Mode::Cluster)];
    let mode = settings.choice("REDIS_MODE", Mode::Standalone, &modes);
    let nodes = nodes(settings);
    let master = settings.text("REDIS_MASTER", "mymaster").trim();
    let text = |key| Some(settings.text(key, "").to_owned()).filter(|text| !text.is_empty());
    let (user, password) = (text("REDIS_USER"), text("REDIS_PASSWORD"));
    let tls = settings.switch("REDIS_ENABLE_SSL", false);
    let ca_path = settings.path("REDIS_SSL_CA_PATH", "");
    let prefix = settings.text("REDIS_PREFIX", "jmqt:");
    if prefix.len() > 64 || prefix.contains(char::is_whitespace) {
        settings.note(settings.bad_value("REDIS_PREFIX", "at most 64 bytes without white space"));
    }
    if !settings.switch("ENABLE_REDIS", false) {
        return None;
    }
    if !settings.switch("ENABLE_MYSQL", false) {
        let problem = "ENABLE_MYSQL must be true too: the nodes of a cluster share a database";
        settings.note(settings.contradiction("ENABLE_REDIS", true, problem));
    }
    if nodes.as_ref().is_some_and(Vec::is_empty) && !matches!(mode, Mode::Standalone) {
        let because = "REDIS_MODE is SENTINEL or CLUSTER";
        settings.note(ConfigError::Missing { key: "REDIS_NODES", because });
    }
    let nodes = match mode {
        Mode::Standalone => Vec::new(),
        Mode::Sentinel | Mode::Cluster => nodes.unwrap_or_default(),
    };
    if db_index != 0 && matches!(mode, Mode::Cluster) {
        let problem = "a Redis Cluster has database 0 only";
        settings.note(settings.contradiction("REDIS_DB_INDEX", db_index, problem));
    }
    let mode = match mode {
        Mode::Standalone => {
            RedisMode::Standalone { host: host.to_owned(), port: u16::try_from(port).unwrap_or(DEFAULT_PORT) }
        }
        Mode::Sentinel => RedisMode::Sentinel { nodes, master: master.to_owned() },
        Mode::Cluster => RedisMode::Cluster { nodes },
    };
    let db_index = i64::try_from(db_index).unwrap_or_default();
    Some(RedisOptions { mode, db_index, user, password, tls, ca_path, prefix: prefix.to_owned() })
}

/// Parses `host:port` items separated by commas; an IPv6 address is in brackets. `None` if the text is invalid.
fn nodes(settings: &Settings) -> Option<Vec<(String, u16)>> {
    const EXPECTED: &str = "a list of host:port, separated by commas";
    let text = settings.text("REDIS_NODES", "");
    let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
    let node = |item: &str| {
        let (host, port) = item.rsplit_once(':')?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let port = port.parse().ok().filter(|port| *port > 0)?;
        (!host.is_empty()).then(|| (host.to_owned(), port))
    };
    let nodes: Option<Vec<_>> = items.map(node).collect();
    if nodes.is_none() {
        settings.note(settings.bad_value("REDIS_NODES", EXPECTED));
    }
    nodes
}
