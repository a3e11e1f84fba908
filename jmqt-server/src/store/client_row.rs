//! The row of a client: its session, which outlives its connections.

use std::time::SystemTime;

use jmqt_core::ClientId;

use super::Unanswered;
use super::time::millis;

/// No row has this number.
const NONE_SETTLED: i64 = -1;

/// A client's row. It exists as long as the client has persistent subscriptions, and while its MQTT session lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientRow {
    /// When the last connection ended, in milliseconds since 1970.
    pub(super) last_seen: i64,
    /// `true` if the session exists without subscriptions too.
    pub(super) is_mqtt: bool,
    /// The seconds for which the session outlives its connection; `None`: SESSION_EXPIRY_SECONDS.
    pub(super) expiry: Option<u32>,
    /// When a session with `expiry` ends, in milliseconds since 1970; `None` while the client is connected.
    pub(super) ends_at: Option<i64>,
    /// The generation of the MQTT connection that may have sent messages without a record; 0: there is none.
    pub(super) unrecorded: i64,
    /// The user to whom the session belongs; `None`: unknown.
    pub(super) owner: Option<Box<str>>,
    /// The revision of the permissions for which all subscriptions were validated; see [`MUST_CHECK`](super::MUST_CHECK).
    pub(super) checked: Option<i64>,
}

impl ClientRow {
    /// The row of a client that has only JMQT subscriptions.
    pub(super) const fn of_subscriptions(last_seen: i64) -> Self {
        Self {
            last_seen,
            is_mqtt: false,
            expiry: None,
            ends_at: None,
            unrecorded: 0,
            owner: None,
            checked: None,
        }
    }

    /// Returns `true` if the session ended by its own expiry at or before this moment.
    pub(super) fn has_ended(&self, now: SystemTime) -> bool {
        self.ends_at.is_some_and(|end| end <= millis(now))
    }
}

/// The value of `unrecorded` that the end of each client's connection sets to 0, in the order of the clients.
pub(super) fn settled(sessions: &[(ClientId, u64)], unanswered: Unanswered) -> Vec<(&ClientId, i64)> {
    let settled = |generation: u64| match unanswered {
        Unanswered::Recorded => i64::try_from(generation).unwrap_or(i64::MAX),
        Unanswered::Unknown => NONE_SETTLED,
    };
    let mut latest: Vec<_> =
        sessions.iter().map(|(client, generation)| (client, settled(*generation))).collect();
    latest.sort_unstable_by(|one, other| other.cmp(one));
    latest.dedup_by_key(|(client, _)| *client);
    latest.reverse();
    latest
}
