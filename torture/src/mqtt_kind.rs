//! What kinds of MQTT clients a load has.

use jmqt_mqtt::{Qos, Version};

/// The kind of an MQTT client of a load. Neighbouring numbers are different.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// 3.1.1 or 5.0.
    pub version: Version,
    /// The QoS that it publishes or subscribes with: 1 or 2.
    pub qos: Qos,
    /// It subscribes with one wildcard instead of by name.
    pub has_filter: bool,
}

impl Kind {
    /// The members of groups.
    pub const IN_GROUP: Self = Self { version: Version::V5, qos: Qos::AtLeastOnce, has_filter: true };

    /// The kind of the client with this number among the MQTT clients.
    #[must_use]
    pub const fn of(number: u32) -> Self {
        Self {
            version: if number & 2 == 0 { Version::V5 } else { Version::V3_1_1 },
            qos: if number & 1 == 0 { Qos::ExactlyOnce } else { Qos::AtLeastOnce },
            has_filter: (number ^ (number >> 1)) & 1 == 0,
        }
    }
}
