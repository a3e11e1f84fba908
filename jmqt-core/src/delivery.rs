//! Quality of service and persistence of subscriptions (§9.a to §9.c).

/// The quality of service of a message (§9.a).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Qos {
    /// 0: delivered to the connected subscribers, without acknowledgement.
    #[default]
    AtMostOnce,
    /// 1: stored first, then delivered until it is acknowledged.
    AtLeastOnce,
    /// 2, of MQTT clients only: as 1, and no subscriber that receives it with QoS 2 sees it twice. JMQT clients receive
    /// such a message with QoS 1.
    ExactlyOnce,
}

/// The persistence of a subscription (§9.c).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Persistence {
    /// The subscription ends with the session.
    #[default]
    Temporary,
    /// The subscription outlives the session, and messages are stored while the client is absent.
    Persistent,
}

/// Whether a message is kept for later subscribers (§9.b).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Retain {
    /// The message is not kept.
    #[default]
    No,
    /// The message replaces the channel's retained message.
    Yes,
}
