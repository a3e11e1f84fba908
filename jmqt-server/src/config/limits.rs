//! Limits that the store enforces.

/// Limits of the messages kept for one client that does not acknowledge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingLimits {
    /// Messages of all channels but the client's own point-to-point channel.
    pub messages: u64,
    /// The payload bytes of these messages. The client's own channel has a second limit of the same size.
    pub bytes: u64,
    /// Messages of the client's own point-to-point channel.
    pub own_messages: u64,
}

/// Limits of retained messages in the whole database; `None` for no limit. A message that replaces the retained message of
/// its channel is always accepted, and counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetainedLimits {
    /// Channels that have a retained message.
    pub messages: Option<u64>,
    /// The bytes of all their payloads.
    pub bytes: Option<u64>,
    /// Of the channels, those whose retained message was set by one client.
    pub messages_per_client: Option<u64>,
}

impl RetainedLimits {
    /// Whether there is no limit at all.
    pub(crate) fn are_none(self) -> bool {
        self == Self::default()
    }
}
