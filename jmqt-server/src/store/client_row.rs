//! The row of a client: its session, which outlives its connections.

use std::time::SystemTime;

use super::time::millis;

/// A client's row. It exists as long as the client has persistent subscriptions, and while its MQTT session lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ClientRow {
    /// When the last connection ended, in milliseconds since 1970.
    pub(super) last_seen: i64,
    /// `true` if the session exists without subscriptions too.
    pub(super) is_mqtt: bool,
    /// The seconds for which the session outlives its connection; `None`: SESSION_EXPIRY_SECONDS.
    pub(super) expiry: Option<u32>,
    /// When a session with `expiry` ends, in milliseconds since 1970; `None` while the client is connected.
    pub(super) ends_at: Option<i64>,
}

impl ClientRow {
    /// The row of a client that has only JMQT subscriptions.
    pub(super) const fn of_subscriptions(last_seen: i64) -> Self {
        Self { last_seen, is_mqtt: false, expiry: None, ends_at: None }
    }

    /// Returns `true` if the session ended by its own expiry at or before this moment.
    pub(super) fn has_ended(&self, now: SystemTime) -> bool {
        self.ends_at.is_some_and(|end| end <= millis(now))
    }
}
