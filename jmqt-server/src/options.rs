//! The options of a subscription.

use jmqt_core::Qos;

/// The options of a subscription. JMQT clients always have [`JMQT`](Self::JMQT); MQTT clients choose.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct SubscriptionOptions(u64);

/// The options of all subscriptions of a client that a message matches.
#[derive(Clone, Copy)]
pub(crate) struct Terms<'a> {
    pub(crate) options: SubscriptionOptions,
    /// The subscription identifiers after that of the options.
    pub(crate) more_ids: &'a [u32],
}

/// How the messages of a subscription are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grant {
    /// With QoS 0.
    Unacknowledged,
    /// With QoS 1 or 2, as published.
    Acknowledged,
}

const QOS: u64 = 0b11;
const SKIPS_OWN: u64 = 1 << 2;
const KEEPS_RETAIN: u64 = 1 << 3;
const OF_FILTER: u64 = 1 << 4;
const SHARED: u64 = 1 << 5;
const ID_SHIFT: u32 = 32;

impl SubscriptionOptions {
    /// The options of a JMQT client: QoS 1, without the client's own messages (protocol.md 2.11).
    pub const JMQT: Self = Self(1 | SKIPS_OWN);

    /// The options of a cursor that exists because of filters: the client has not subscribed to the channel by its name.
    pub const OF_FILTER: Self = Self(1 | OF_FILTER);

    /// Returns `true` for [`OF_FILTER`](Self::OF_FILTER).
    #[must_use]
    pub const fn is_of_filter(self) -> bool {
        self.0 & OF_FILTER != 0
    }

    /// The options of a group of clients.
    pub(crate) const GROUP: Self = Self(1 | SHARED);

    /// Returns `true` for a share of the messages of a group, and for a subscription of a group itself.
    #[must_use]
    pub const fn is_shared(self) -> bool {
        self.0 & SHARED != 0
    }

    /// A share of the messages of a group, with at most QoS 1.
    #[must_use]
    pub const fn shared(self) -> Self {
        let qos = if self.0 & QOS == 0 { 0 } else { 1 };
        Self(self.0 & !QOS | qos | SHARED)
    }

    /// Adds what a subscription of a group has in addition.
    pub(crate) const fn shared_as(self, other: Self) -> Self {
        Self(self.0 | other.0 & SHARED)
    }

    /// The options of an MQTT client that requests this QoS.
    #[must_use]
    pub const fn new(qos: Qos) -> Self {
        Self(match qos {
            Qos::AtMostOnce => 0,
            Qos::AtLeastOnce => 1,
            Qos::ExactlyOnce => 2,
        })
    }

    /// Skips the messages that the client itself has published (no local).
    #[must_use]
    pub const fn without_own(self, without: bool) -> Self {
        Self(if without { self.0 | SKIPS_OWN } else { self.0 & !SKIPS_OWN })
    }

    /// Messages keep the retain flag with which they were published.
    #[must_use]
    pub const fn keeping_retain(self, keeping: bool) -> Self {
        Self(if keeping { self.0 | KEEPS_RETAIN } else { self.0 & !KEEPS_RETAIN })
    }

    /// The subscription identifier, from 1 to 268,435,455.
    #[must_use]
    pub const fn with_id(self, id: Option<u32>) -> Self {
        let id = match id {
            Some(id) => id as u64,
            None => 0,
        };
        Self(self.0 & u32::MAX as u64 | id << ID_SHIFT)
    }

    /// The highest QoS of messages.
    #[must_use]
    pub const fn qos(self) -> Qos {
        match self.0 & QOS {
            0 => Qos::AtMostOnce,
            1 => Qos::AtLeastOnce,
            _ => Qos::ExactlyOnce,
        }
    }

    /// Returns `true` if the client does not receive its own messages.
    #[must_use]
    pub const fn skips_own(self) -> bool {
        self.0 & SKIPS_OWN != 0
    }

    /// Returns `true` if messages keep the retain flag with which they were published.
    #[must_use]
    pub const fn keeps_retain(self) -> bool {
        self.0 & KEEPS_RETAIN != 0
    }

    /// The subscription identifier.
    #[must_use]
    pub const fn id(self) -> Option<u32> {
        match (self.0 >> ID_SHIFT) as u32 {
            0 => None,
            id => Some(id),
        }
    }

    /// The options of a client that has both: messages come once, with the higher QoS. An own message is skipped only if
    /// both skip it. The subscription identifier is that of the first.
    pub(crate) const fn or(self, other: Self) -> Self {
        let qos = if self.0 & QOS >= other.0 & QOS { self.0 & QOS } else { other.0 & QOS };
        let own = self.0 & other.0 & SKIPS_OWN;
        let retain = (self.0 | other.0) & KEEPS_RETAIN;
        let id = if self.id().is_some() { self.0 >> ID_SHIFT } else { other.0 >> ID_SHIFT };
        Self(qos | own | retain | (self.0 | other.0) & SHARED | id << ID_SHIFT)
    }

    /// The options as a number, for the store.
    #[must_use]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The options of a number from the store.
    #[must_use]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    /// Returns `true` if messages differ from those for other subscriptions.
    pub(crate) const fn has_own_encoding(self) -> bool {
        self.0 & (KEEPS_RETAIN | (u32::MAX as u64) << ID_SHIFT) != 0
    }

    /// Returns `true` if messages differ from those for other subscriptions, or go to one member of a group. Both are in one
    /// check, which each delivery makes.
    pub(crate) const fn is_special(self) -> bool {
        self.0 & (SHARED | KEEPS_RETAIN | (u32::MAX as u64) << ID_SHIFT) != 0
    }

    /// How messages of this QoS are sent.
    pub(crate) fn grant(self, qos: Qos) -> Grant {
        if self.qos() == Qos::AtMostOnce || qos == Qos::AtMostOnce {
            Grant::Unacknowledged
        } else {
            Grant::Acknowledged
        }
    }
}

impl std::fmt::Debug for SubscriptionOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SubscriptionOptions")
            .field("qos", &self.qos())
            .field("skips_own", &self.skips_own())
            .field("keeps_retain", &self.keeps_retain())
            .field("id", &self.id())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_independent_of_each_other() {
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
            for (own, retain, id) in [
                (false, false, None),
                (true, false, Some(7)),
                (false, true, Some(268_435_455)),
                (true, true, None),
            ] {
                let options =
                    SubscriptionOptions::new(qos).with_id(id).without_own(own).keeping_retain(retain);
                assert_eq!(options.qos(), qos);
                assert_eq!((options.skips_own(), options.keeps_retain(), options.id()), (own, retain, id));
                assert_eq!(options.is_special(), retain || id.is_some());
                assert_eq!(options.with_id(Some(1)).with_id(None).id(), None);
                assert_eq!(SubscriptionOptions::from_bits(options.bits()), options);
            }
        }
        let shared = SubscriptionOptions::new(Qos::ExactlyOnce).with_id(Some(7)).shared();
        assert_eq!((shared.qos(), shared.id()), (Qos::AtLeastOnce, Some(7)));
        assert!(shared.is_shared() && shared.or(SubscriptionOptions::JMQT).is_shared());
        assert_eq!(SubscriptionOptions::new(Qos::AtMostOnce).shared().qos(), Qos::AtMostOnce);
        assert!(SubscriptionOptions::GROUP.is_special() && !SubscriptionOptions::GROUP.has_own_encoding());
        assert!(!SubscriptionOptions::JMQT.is_special() && SubscriptionOptions::JMQT.skips_own());
    }
}
