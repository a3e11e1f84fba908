//! What a message has in addition to its channel, sender and data: the form of the data, and what only MQTT knows.
//!
//! Most messages of JMQT clients have nothing of it. The store keeps the attributes as one value, and the bus sends
//! them in the same encoding.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jmqt_core::Qos;

/// The form of a message's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u8)]
pub enum DataForm {
    /// JSON text, validated when it entered the server: the data of JMQT clients.
    #[default]
    Json = 0,
    /// JSON text that is literally the payload of an MQTT message (`jt` in JMQT).
    LiteralJson = 1,
    /// Bytes of an MQTT client, of which it said nothing.
    Bytes = 2,
    /// The same, declared as `text/plain`.
    Text = 3,
    /// The same, declared as `application/json`.
    DeclaredJson = 4,
    /// The same, declared as `application/octet-stream`.
    Binary = 5,
}

impl DataForm {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::Json,
            1 => Self::LiteralJson,
            2 => Self::Bytes,
            3 => Self::Text,
            4 => Self::DeclaredJson,
            5 => Self::Binary,
            _ => return None,
        })
    }
}

/// The attributes of a message. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Attributes(Option<Arc<Values>>);

/// Attributes that differ from those of a usual JMQT message.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Values {
    /// The form of the data.
    pub form: DataForm,
    /// The QoS with which an MQTT client published the message.
    pub qos: Qos,
    /// The message was published with the retain flag.
    pub retain: bool,
    /// From this moment on, in milliseconds since 1970, the message is not delivered any more.
    pub expires_at: Option<u64>,
    /// MQTT 5 properties that subscribers receive unchanged, encoded as in a PUBLISH packet.
    pub properties: Box<[u8]>,
}

const EXACTLY_ONCE: u8 = 1;
const RETAIN: u8 = 2;
const EXPIRES: u8 = 4;
const AT_LEAST_ONCE: u8 = 8;

impl Attributes {
    /// The attributes of a usual JMQT message.
    pub const NONE: Self = Self(None);

    /// These attributes.
    #[must_use]
    pub fn new(content: Values) -> Self {
        if content == Values::default() { Self::NONE } else { Self(Some(Arc::new(content))) }
    }

    /// Returns `true` for the attributes of a usual JMQT message.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.0.is_none()
    }

    /// The form of the data.
    #[must_use]
    pub fn form(&self) -> DataForm {
        self.0.as_ref().map_or(DataForm::Json, |content| content.form)
    }

    /// The QoS with which an MQTT client published the message; 0 for messages of JMQT clients.
    #[must_use]
    pub fn qos(&self) -> Qos {
        self.0.as_ref().map_or(Qos::AtMostOnce, |content| content.qos)
    }

    /// Returns `true` if the message was published with QoS 2.
    #[must_use]
    pub fn is_exactly_once(&self) -> bool {
        self.qos() == Qos::ExactlyOnce
    }

    /// Returns `true` if the message was published with the retain flag. Recorded for MQTT clients only.
    #[must_use]
    pub fn is_retain(&self) -> bool {
        self.0.as_ref().is_some_and(|content| content.retain)
    }

    /// The moment of expiry in milliseconds since 1970.
    #[must_use]
    pub fn expires_at(&self) -> Option<u64> {
        self.0.as_ref().and_then(|content| content.expires_at)
    }

    /// The time until the message expires: `None` if it never does, zero if it has expired.
    #[must_use]
    pub fn expires_in(&self) -> Option<Duration> {
        let at = UNIX_EPOCH + Duration::from_millis(self.expires_at()?);
        Some(at.duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// The same attributes, with a moment of expiry that is this much later.
    #[must_use]
    pub fn expiring_later(mut self, by: Duration) -> Self {
        let Some(content) = self.0.as_mut().filter(|content| content.expires_at.is_some()) else {
            return self;
        };
        let by = u64::try_from(by.as_millis()).unwrap_or(u64::MAX);
        let content = Arc::make_mut(content);
        content.expires_at = content.expires_at.map(|at| at.saturating_add(by));
        self
    }

    /// Returns `true` if the message must not be delivered any more.
    #[must_use]
    pub fn is_expired(&self) -> bool {
        self.expires_at().is_some() && self.expires_in() == Some(Duration::ZERO)
    }

    /// The encoded MQTT 5 properties.
    #[must_use]
    pub fn properties(&self) -> &[u8] {
        self.0.as_ref().map_or(&[], |content| &content.properties)
    }

    /// The memory of the attributes in addition to their own size.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.as_ref().map_or(0, |content| size_of::<Values>() + content.properties.len())
    }

    /// The length of the [encoding](Self::encode).
    #[must_use]
    pub fn encoded_bytes(&self) -> usize {
        let length = |it: &Arc<Values>| 2 + if it.expires_at.is_some() { 8 } else { 0 } + it.properties.len();
        self.0.as_ref().map_or(0, length)
    }

    /// The encoding for the store and the bus; `None` for [`NONE`](Self::NONE).
    #[must_use]
    pub fn encode(&self) -> Option<Vec<u8>> {
        let Values { form, qos, retain, expires_at, properties } = &**self.0.as_ref()?;
        let mut bytes = Vec::with_capacity(10 + properties.len());
        let flag = |is_set: bool, flag: u8| if is_set { flag } else { 0 };
        bytes.push(*form as u8);
        bytes.push(
            flag(*qos == Qos::ExactlyOnce, EXACTLY_ONCE)
                | flag(*qos == Qos::AtLeastOnce, AT_LEAST_ONCE)
                | flag(*retain, RETAIN)
                | flag(expires_at.is_some(), EXPIRES),
        );
        if let Some(at) = expires_at {
            bytes.extend_from_slice(&at.to_be_bytes());
        }
        bytes.extend_from_slice(properties);
        Some(bytes)
    }

    /// Reads the encoding; `None` if it is damaged.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let (&[form, flags], mut rest) = bytes.split_first_chunk()?;
        if flags & !(EXACTLY_ONCE | RETAIN | EXPIRES | AT_LEAST_ONCE) != 0 {
            return None;
        }
        let mut expires_at = None;
        if flags & EXPIRES != 0 {
            let (at, behind) = rest.split_first_chunk()?;
            (expires_at, rest) = (Some(u64::from_be_bytes(*at)), behind);
        }
        Some(Self::new(Values {
            form: DataForm::from_byte(form)?,
            qos: match (flags & EXACTLY_ONCE != 0, flags & AT_LEAST_ONCE != 0) {
                (true, _) => Qos::ExactlyOnce,
                (false, true) => Qos::AtLeastOnce,
                (false, false) => Qos::AtMostOnce,
            },
            retain: flags & RETAIN != 0,
            expires_at,
            properties: rest.into(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_survive_their_encoding() {
        assert_eq!(Attributes::NONE.encode(), None);
        for form in 0..=5 {
            for flags in [0_u8, 2, 4, 6] {
                let content = Values {
                    form: DataForm::from_byte(form).unwrap(),
                    qos: [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce][form as usize % 3],
                    retain: flags & 2 != 0,
                    expires_at: (flags & 4 != 0).then_some(1_900_000_000_123),
                    properties: [3, 0, 1, b'x'][..usize::from(form) % 5].into(),
                };
                let attributes = Attributes::new(content);
                let Some(encoded) = attributes.encode() else {
                    assert!(attributes.is_none());
                    continue;
                };
                assert_eq!(attributes.encoded_bytes(), encoded.len());
                assert_eq!(Attributes::decode(&encoded), Some(attributes));
            }
        }
    }

    #[test]
    fn damaged_encodings_are_refused() {
        for damaged in [&b""[..], b"\x02", b"\x06\x00", b"\x02\x10", b"\x02\x04\x01\x02"] {
            assert_eq!(Attributes::decode(damaged), None, "{damaged:?}");
        }
    }

    #[test]
    fn a_message_expires_at_its_moment() {
        let at = |expires_at| Attributes::new(Values { expires_at, ..Values::default() });
        assert!(!at(None).is_expired() && at(Some(1)).is_expired());
        let far = at(Some(u64::MAX / 1_000_000));
        assert!(!far.is_expired() && far.expires_in() > Some(Duration::from_secs(1)));
    }
}
