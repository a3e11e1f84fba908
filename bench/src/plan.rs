//! The publishers and subscribers of a run, the rate and the QoS.

use std::ops::Range;

use crate::dialect::{Persistence, Qos};

/// How far a saturating publisher may be ahead.
const WINDOW: u32 = 1_000;
/// Paced publishers never get there, unless the server cannot keep the pace.
const PACED_WINDOW: u32 = 10_000;

/// Who publishes to whom.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shape {
    /// One publisher, one channel, all subscribers on it.
    FanOut { subscribers: u32 },
    /// Each publisher has its own channel with one subscriber.
    Pairs { pairs: u32 },
    /// One publisher takes turns over all channels; each subscriber has `each` channels of its own, and gets
    /// one message at a time, like everybody else, however many those are.
    Channels { subscribers: u32, each: u32 },
}

impl Shape {
    pub(crate) fn publishers(self) -> u32 {
        match self {
            Self::Pairs { pairs } => pairs,
            Self::FanOut { .. } | Self::Channels { .. } => 1,
        }
    }

    /// How many streams each publisher feeds.
    pub(crate) fn streams_each(self) -> u32 {
        match self {
            Self::FanOut { .. } | Self::Pairs { .. } => 1,
            Self::Channels { subscribers, each } => subscribers * each,
        }
    }

    pub(crate) fn subscribers(self) -> u32 {
        match self {
            Self::FanOut { subscribers } | Self::Channels { subscribers, .. } => subscribers,
            Self::Pairs { pairs } => pairs,
        }
    }

    pub(crate) fn streams_of(self, subscriber: u32) -> Range<u32> {
        match self {
            Self::FanOut { .. } => 0..1,
            Self::Pairs { .. } => subscriber..subscriber + 1,
            Self::Channels { each, .. } => subscriber * each..(subscriber + 1) * each,
        }
    }

    /// How many channels each subscriber has for itself.
    pub(crate) fn channels_each(self) -> u32 {
        match self {
            Self::FanOut { .. } | Self::Pairs { .. } => 1,
            Self::Channels { each, .. } => each,
        }
    }

    /// Which of the nodes a subscriber is connected to; all publishers are on the first. Those of one
    /// channel are spread over all nodes; the other half of a pair is on the last.
    pub(crate) fn node_of_subscriber(self, subscriber: u32, nodes: usize) -> usize {
        match self {
            Self::FanOut { .. } => subscriber as usize % nodes,
            Self::Pairs { .. } | Self::Channels { .. } => nodes - 1,
        }
    }

    /// To how many subscribers each message goes.
    pub(crate) fn copies(self) -> u32 {
        match self {
            Self::FanOut { subscribers } => subscribers,
            Self::Pairs { .. } | Self::Channels { .. } => 1,
        }
    }
}

/// How fast publishers go.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Pace {
    /// As fast as the windows allow, in batches of at least a quarter window.
    Saturated,
    /// This many messages per second in all, each when it is due.
    PerSecond(f64),
    /// A part of the rate (messages, not deliveries) that another contestant of the row has just reached.
    PartOf { contestant: usize, part: f64 },
}

/// What subscribers ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Names {
    /// The channels themselves.
    Channels,
    /// MQTT filters with a wildcard, of which one matches each topic.
    Filters,
}

impl Names {
    pub(crate) fn published(self, stream: u32) -> String {
        match self {
            Self::Channels => format!("bench-{stream:06}"),
            Self::Filters => format!("bench-{stream:06}/x"),
        }
    }

    pub(crate) fn subscribed(self, stream: u32) -> String {
        match self {
            Self::Channels => self.published(stream),
            Self::Filters => format!("bench-{stream:06}/+"),
        }
    }
}

/// Everything about the messages of a run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    pub(crate) qos: Qos,
    pub(crate) persistence: Persistence,
    /// How many messages a publisher may be ahead of its slowest subscriber (QoS 1 and 2: and of its acks).
    pub(crate) window: u32,
    pub(crate) pace: Pace,
    pub(crate) names: Names,
}

impl Plan {
    /// QoS 0, as much as the server can take.
    pub(crate) fn saturated(shape: Shape) -> Self {
        Self {
            shape,
            qos: Qos::AtMostOnce,
            persistence: Persistence::Temporary,
            window: WINDOW,
            pace: Pace::Saturated,
            names: Names::Channels,
        }
    }

    /// QoS 0 at a given pace.
    pub(crate) fn paced(shape: Shape, pace: Pace) -> Self {
        Self { window: PACED_WINDOW, pace, ..Self::saturated(shape) }
    }

    /// QoS 1 to persistent subscribers, as much as the server can take within the window.
    pub(crate) fn acknowledged(shape: Shape, window: u32) -> Self {
        Self { qos: Qos::AtLeastOnce, persistence: Persistence::Persistent, window, ..Self::saturated(shape) }
    }

    /// The same with subscriptions that end with their connections.
    pub(crate) fn temporary(self) -> Self {
        Self { persistence: Persistence::Temporary, ..self }
    }

    /// The same with a wildcard in each subscription.
    pub(crate) fn with_filters(self) -> Self {
        Self { names: Names::Filters, ..self }
    }

    /// The same with QoS 2.
    pub(crate) fn exactly_once(self) -> Self {
        Self { qos: Qos::ExactlyOnce, ..self }
    }

    /// When all publishers use up their windows once.
    pub(crate) fn deliveries_per_window(self) -> u64 {
        let messages = u64::from(self.window) * u64::from(self.shape.publishers());
        messages * u64::from(self.shape.copies())
    }
}
