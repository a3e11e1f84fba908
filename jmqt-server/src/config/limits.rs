//! Limits that the store keeps.

/// How much is kept for one client that does not acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingLimits {
    /// Messages of all channels but the client's own point-to-point channel.
    pub messages: u64,
    /// The bytes of their payloads; and the same again for the client's own channel.
    pub bytes: u64,
    /// Messages of the client's own point-to-point channel.
    pub own_messages: u64,
}

/// How much may be retained in the whole database; `None` for any number. A message that replaces the one that its channel
/// has is always taken, and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetainedLimits {
    /// Channels that have a retained message.
    pub messages: Option<u64>,
    /// The bytes of all their payloads.
    pub bytes: Option<u64>,
}

impl RetainedLimits {
    /// Whether there is no limit at all.
    pub(crate) fn are_none(self) -> bool {
        self == Self::default()
    }
}
