//! The names of all keys, and which of them hold secrets.

use jmqt_config::{Keys, Variables};

/// All keys, in the order of `server.conf` and `docs/configuration.md`.
pub(super) const KEYS: [&str; 60] = [
    "BIND_ADDRESS",
    "SOCKET_PORT",
    "WEBSOCKET_PORT",
    "MQTT_PORT",
    "ENABLE_SSL",
    "SSL_CERT_PATH",
    "SSL_KEY_PATH",
    "SSL_SOCKET_PORT",
    "SSL_WEBSOCKET_PORT",
    "SSL_MQTT_PORT",
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
const SECRETS: [&str; 2] = ["MYSQL_PSWD", "REDIS_PASSWORD"];

/// The keys. Other variables with the same prefix may belong to the application.
pub(super) const SERVER: Keys =
    Keys { known: &KEYS, secret: &SECRETS, prefix: "JMQT_", variables: Variables::Shared };
