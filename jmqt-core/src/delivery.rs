//! How a message is delivered and how long a subscription lasts (§9.a to §9.c).

/// Whether a message is stored and acknowledged (§9.a).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Qos {
    /// 0: to those who are connected now, without acknowledgement.
    #[default]
    AtMostOnce,
    /// 1: stored first, then delivered until acknowledged.
    AtLeastOnce,
}

/// Whether a subscription survives the session (§9.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Persistence {
    /// It ends with the session.
    #[default]
    Temporary,
    /// It survives, and messages are stored while the client is away.
    Persistent,
}

/// Whether a message is kept for those who subscribe later (§9.b).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Retain {
    /// It is not.
    #[default]
    No,
    /// It replaces the channel's retained message.
    Yes,
}
