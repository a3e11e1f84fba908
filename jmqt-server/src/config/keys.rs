//! The names of all keys, and which of them hold secrets.

/// Every key there is, in the order of `server.conf` and `docs/configuration.md`.
pub(super) const KEYS: [&str; 58] = [
    "BIND_ADDRESS",
    "SOCKET_PORT",
    "WEBSOCKET_PORT",
    "ENABLE_SSL",
    "SSL_CERT_PATH",
    "SSL_KEY_PATH",
    "SSL_SOCKET_PORT",
    "SSL_WEBSOCKET_PORT",
    "ALLOWED_ORIGINS",
    "TRUSTED_PROXIES",
    "TIMEOUT_SECONDS",
    "MAX_CONNECTIONS",
    "MAX_CONNECTIONS_PER_ADDRESS",
    "MAX_CONNECTS_PER_ADDRESS_PER_SECOND",
    "MAX_TAKEOVERS_PER_SECOND",
    "MAX_PACKET_BYTES",
    "MAX_PRECONN_PACKET_BYTES",
    "MAX_INFLIGHT",
    "OUTBOUND_QUEUE_BYTES",
    "MAX_SUBSCRIPTIONS_PER_CLIENT",
    "MAX_PERSISTENT_SUBSCRIPTIONS_PER_CLIENT",
    "MAX_TOTAL_OUTBOUND_BYTES",
    "MAX_TOTAL_PARTIAL_PACKET_BYTES",
    "MAX_TOTAL_PRECONN_BYTES",
    "SLOW_CONSUMER_SECONDS",
    "VALIDATOR_TIMEOUT_SECONDS",
    "DRAIN_SECONDS",
    "SQLITE_PATH",
    "SQLITE_SYNCHRONOUS",
    "SESSION_EXPIRY_SECONDS",
    "MAX_PENDING_PER_CLIENT",
    "MAX_PENDING_BYTES_PER_CLIENT",
    "MAX_PENDING_P2P_PER_CLIENT",
    "MAX_RETAINED_MESSAGES",
    "MAX_RETAINED_BYTES",
    "LOG_PATH",
    "LOG_MODE",
    "ENABLE_MYSQL",
    "MYSQL_HOST",
    "MYSQL_PORT",
    "MYSQL_DB",
    "MYSQL_USER",
    "MYSQL_PSWD",
    "MYSQL_SSL_MODE",
    "MYSQL_SSL_CA_PATH",
    "MYSQL_POOL_SIZE",
    "ENABLE_REDIS",
    "REDIS_HOST",
    "REDIS_PORT",
    "REDIS_DB_INDEX",
    "REDIS_USER",
    "REDIS_PASSWORD",
    "REDIS_ENABLE_SSL",
    "REDIS_SSL_CA_PATH",
    "REDIS_MODE",
    "REDIS_NODES",
    "REDIS_MASTER",
    "REDIS_PREFIX",
];

/// Keys whose values are never shown.
pub(super) const SECRETS: [&str; 2] = ["MYSQL_PSWD", "REDIS_PASSWORD"];

/// How many slips of the pen make `name` another key: more is another word.
const SLIPS: usize = 2;

/// The key that `name` is most likely a misspelling of.
pub(super) fn nearest(name: &str) -> Option<&'static str> {
    let name = name.to_ascii_uppercase().replace(['-', '.', ' '], "_");
    KEYS.into_iter()
        .map(|key| (distance(&name, key), key))
        .min_by_key(|(distance, _)| *distance)
        .filter(|(distance, _)| *distance <= SLIPS)
        .map(|(_, key)| key)
}

/// How many letters must be put in, left out, replaced, or swapped with their neighbour.
fn distance(from: &str, to: &str) -> usize {
    let (from, to) = (from.as_bytes(), to.as_bytes());
    let mut before_last = Vec::new();
    let mut last: Vec<usize> = (0..=to.len()).collect();
    for i in 0..from.len() {
        let mut row = vec![i + 1];
        for j in 0..to.len() {
            let replaced = last[j] + usize::from(from[i] != to[j]);
            let mut best = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && from[i] == to[j - 1] && from[i - 1] == to[j] {
                let swapped: usize = before_last[j - 1];
                best = best.min(swapped + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_is_recognised() {
        assert_eq!(nearest("SOKET_PORT"), Some("SOCKET_PORT"));
        assert_eq!(nearest("SOCKTE_PORT"), Some("SOCKET_PORT"));
        assert_eq!(nearest("socket_port"), Some("SOCKET_PORT"));
        assert_eq!(nearest("LOG-MODE"), Some("LOG_MODE"));
        assert_eq!(nearest("MYSQL_PASWD"), Some("MYSQL_PSWD"));
    }

    #[test]
    fn another_word_is_not_taken_for_a_key() {
        for word in ["TOKEN_SECRET", "REMOTE_PORT", "REMOTE_HOST", "PORT", "HOST", "URL", ""] {
            assert_eq!(nearest(word), None, "{word}");
        }
    }
}
