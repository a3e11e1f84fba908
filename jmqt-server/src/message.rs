//! Messages inside the server, independent of the client's language: the hub passes them on, the store keeps them,
//! and the bus carries them. `wire` encodes them for clients.

mod shares;

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use jmqt_core::{ChannelName, ClientId, Payload, Qos, Retain};
use jmqt_mqtt::payload::{self, Content, Declared};

use crate::attributes::{Attributes, DataForm};
use crate::budget::Share;
use crate::store::{ChannelKey, LogPlace, Seq};

pub(crate) use self::shares::ShareMessage;

/// A piece smaller than this fraction of its buffer is copied instead of shared if it must wait. The memory of a
/// client is therefore at most this many times the counted bytes.
const SHARED_PART: usize = 4;

/// A message that is being published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) channel: ChannelName,
    /// `None` for messages of the server.
    pub(crate) sender: Option<ClientId>,
    pub(crate) data: Data,
    pub(crate) qos: Qos,
    pub(crate) retain: Retain,
}

/// The data of a message, in the form in which it was published. Cheap to clone.
///
/// A subscriber that speaks the publisher's language receives the same bytes. For the other language they are
/// converted: [`Data::json`] for JMQT, [`payload_of`] for MQTT.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Data {
    bytes: Bytes,
    attributes: Attributes,
}

impl std::fmt::Debug for Data {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Data({} bytes)", self.bytes.len()) // data must not be logged
    }
}

impl Data {
    /// Copies a payload that a decoder has validated.
    pub(crate) fn copy_of(payload: Payload<'_>) -> Self {
        Self::checked_before(Bytes::copy_from_slice(payload.as_str().as_bytes()))
    }

    /// Validates data that does not come from a client, but from the store.
    pub(crate) fn parse(bytes: Bytes, attributes: Attributes) -> Option<Self> {
        let is_intact = match attributes.form() {
            DataForm::Json | DataForm::LiteralJson => {
                std::str::from_utf8(&bytes).is_ok_and(|text| Payload::parse(text).is_ok())
            }
            DataForm::Bytes | DataForm::Text | DataForm::DeclaredJson | DataForm::Binary => true,
        };
        is_intact.then_some(Self { bytes, attributes })
    }

    /// Wraps JSON text of earlier [`Data`].
    pub(crate) fn checked_before(bytes: Bytes) -> Self {
        Self { bytes, attributes: Attributes::NONE }
    }

    /// Wraps data with its attributes: from a client, from the store's queue, or from another node.
    pub(crate) fn new(bytes: Bytes, attributes: Attributes) -> Self {
        Self { bytes, attributes }
    }

    /// The bytes in the form in which the message was published.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// A part of the bytes, without a copy.
    pub(crate) fn share(&self, part: &[u8]) -> Bytes {
        self.bytes.slice_ref(part)
    }

    pub(crate) fn attributes(&self) -> &Attributes {
        &self.attributes
    }

    pub(crate) fn into_parts(self) -> (Bytes, Attributes) {
        (self.bytes, self.attributes)
    }

    /// The data as JSON, for JMQT clients and the application.
    pub(crate) fn json(&self) -> Json<'_> {
        json_of(&self.bytes, &self.attributes)
    }
}

/// The data of a publish in the form of the client's language.
#[derive(Clone, Copy)]
pub(crate) enum Body<'a> {
    /// JSON text of a JMQT client.
    Json(Payload<'a>),
    /// The payload of an MQTT client.
    Bytes(&'a [u8], &'a Attributes),
}

/// Data as JSON text.
pub(crate) struct Json<'a> {
    pub(crate) text: Cow<'a, [u8]>,
    /// `jt`: the payload of the message is literally this text.
    pub(crate) literal: bool,
}

impl Json<'_> {
    /// Converts to the text type of the application. Reads every byte.
    pub(crate) fn to_payload(&self) -> Payload<'_> {
        std::str::from_utf8(&self.text)
            .ok()
            .and_then(|text| Payload::parse(text).ok())
            .unwrap_or(Payload::NULL)
    }
}

/// Data with these attributes as JSON.
pub(crate) fn json_of<'a>(bytes: &'a [u8], attributes: &Attributes) -> Json<'a> {
    let declared = match attributes.form() {
        DataForm::Json => return Json { text: Cow::Borrowed(bytes), literal: false },
        DataForm::LiteralJson => return Json { text: Cow::Borrowed(bytes), literal: true },
        DataForm::Bytes => Declared::Nothing,
        DataForm::Text => Declared::Text,
        DataForm::DeclaredJson => Declared::Json,
        DataForm::Binary => Declared::Binary,
    };
    let converted = payload::to_data(bytes, declared);
    let text = match converted.json {
        Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
        Cow::Owned(text) => Cow::Owned(text.into_bytes()),
    };
    Json { text, literal: converted.literal }
}

/// Data with these attributes as the payload of an MQTT message.
pub(crate) fn payload_of<'a>(bytes: &'a [u8], attributes: &Attributes) -> Content<'a> {
    let literal = match attributes.form() {
        DataForm::Json => false,
        DataForm::LiteralJson => true,
        form => {
            let declared = match form {
                DataForm::Text => Declared::Text,
                DataForm::DeclaredJson => Declared::Json,
                DataForm::Binary => Declared::Binary,
                _ => Declared::Nothing,
            };
            return Content { bytes: Cow::Borrowed(bytes), declared };
        }
    };
    match std::str::from_utf8(bytes).ok().and_then(|text| Payload::parse(text).ok()) {
        Some(json) => payload::to_payload(json, literal),
        None => Content { bytes: Cow::Borrowed(bytes), declared: Declared::Nothing },
    }
}

/// Identifies one QoS 1 message, independent of the publisher's own id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PushId {
    /// A logged message. A redelivery has the same id, and no other message ever has it, not even after an older copy
    /// of the database is restored.
    Logged(LogPlace),
    /// A message that was not stored, with a number of the process.
    Memory {
        /// A random number of the process.
        process: u32,
        number: u64,
    },
}

impl PushId {
    /// The position of the message in a log, if it is logged.
    pub(crate) fn place(self) -> Option<(ChannelKey, Seq)> {
        match self {
            Self::Logged(place) => Some((place.key, place.seq)),
            Self::Memory { .. } => None,
        }
    }
}

/// A QoS 1 message to push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggedPush {
    pub(crate) id: PushId,
    pub(crate) sender: Option<ClientId>,
    pub(crate) data: Data,
}

/// The retained message of a channel.
#[derive(Debug)]
pub(crate) struct RetainedPush {
    pub(crate) sender: Option<ClientId>,
    pub(crate) data: Data,
    /// Identifies it for a client that acknowledges it.
    pub(crate) id: PushId,
    /// Its share of MAX_TOTAL_OUTBOUND_BYTES until it is in a client's queue.
    pub(crate) counted: Option<Share>,
}

/// Consecutive pieces of one buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pieces {
    pub(crate) bytes: Bytes,
    /// The end of each piece.
    pub(crate) ends: Box<[u32]>,
}

impl Pieces {
    /// The start of piece `index`; for the index after the last piece, its end.
    pub(crate) fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    /// Consecutive pieces to keep for a while: a slice of the buffer, or a copy if the slice would keep a much larger
    /// buffer alive.
    pub(crate) fn cut(&self, pieces: Range<usize>) -> Bytes {
        let bytes = self.start(pieces.start)..self.start(pieces.end);
        if bytes.len() * SHARED_PART < self.bytes.len() {
            return Bytes::copy_from_slice(&self.bytes[bytes]);
        }
        self.bytes.slice(bytes)
    }
}

/// QoS 0 messages of one channel and publisher, with the same attributes. In each piece of the buffer, a fixed number
/// of bytes precede and follow the data: the rest of a packet, or the length that the bus adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) attributes: Attributes,
    pub(crate) pieces: Pieces,
    pub(crate) before: usize,
    pub(crate) behind: usize,
}

impl Pieces {
    /// The pieces of at most this many bytes, if any is longer.
    pub(crate) fn at_most(&self, limit: usize) -> Option<Self> {
        let lengths = || (0..self.ends.len()).map(|index| self.ends[index] as usize - self.start(index));
        if lengths().all(|length| length <= limit) {
            return None;
        }
        let (mut bytes, mut ends) = (Vec::new(), Vec::new());
        for (index, length) in lengths().enumerate() {
            if length <= limit {
                bytes.extend_from_slice(&self.bytes[self.start(index)..self.ends[index] as usize]);
                ends.push(place(bytes.len()));
            }
        }
        Some(Self { bytes: bytes.into(), ends: ends.into() })
    }
}

impl Run {
    /// The data of each message.
    pub(crate) fn data(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.pieces.ends.iter().map(move |&end| {
            let data = &self.pieces.bytes[start + self.before..end as usize - self.behind];
            start = end as usize;
            data
        })
    }
}

/// The end position of a piece. A run ends at 64 KiB, and a packet is far below 4 GiB.
pub(crate) fn place(at: usize) -> u32 {
    u32::try_from(at).expect("a run of messages is shorter than 4 GiB")
}

#[cfg(test)]
mod tests {
    use proptest::strategy::Strategy as _;

    use super::*;

    #[test]
    fn the_data_of_a_run_is_found_in_its_pieces() {
        let pieces = Pieces { bytes: Bytes::from_static(b"<1>.<22>.<>."), ends: [4, 9, 12].into() };
        let run = Run { attributes: Attributes::NONE, pieces, before: 1, behind: 2 };
        assert_eq!(run.data().collect::<Vec<_>>(), [&b"1"[..], b"22", b""]);
        assert_eq!(run.pick(&[0, 2]).data().collect::<Vec<_>>(), [&b"1"[..], b""]);
        assert_eq!(run.pick(&[1]).data().collect::<Vec<_>>(), [&b"22"[..]]);
    }

    #[test]
    fn only_json_is_json() {
        for (data, is_json) in
            [(&b"1"[..], true), (b"{\"a\":[]}", true), (b"1 2", false), (b"\"\xff\"", false)]
        {
            assert_eq!(Data::parse(Bytes::from_static(data), Attributes::NONE).is_some(), is_json);
        }
        let one = Data::parse(Bytes::from_static(b"[1]"), Attributes::NONE).unwrap();
        assert_eq!(one.json().to_payload().as_str(), "[1]");
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(4096))]

        /// protocol.md 2.26, as both clients see it: what one receives and publishes again is the same for the other.
        #[test]
        fn nothing_is_lost_between_the_languages(
            payload in proptest::prop_oneof![
                proptest::collection::vec(proptest::prelude::any::<u8>(), 0..8),
                r#" ?("[a-z"\\]*"|[0-9]{1,3}|[a-z]{2}|\{"\$b64": ?"[A-Za-z0-9+/]{0,8}={0,2}"\}) ?"#
                    .prop_map(String::into_bytes),
            ],
            form in 2..6_usize,
        ) {
            let forms = [DataForm::Json, DataForm::LiteralJson, DataForm::Bytes, DataForm::Text,
                DataForm::DeclaredJson, DataForm::Binary];
            let attributes = |form| {
                Attributes::new(crate::attributes::Values { form, ..Default::default() })
            };
            let received = json_of(&payload, &attributes(forms[form]));
            let literal = received.literal;
            let again = attributes(forms[usize::from(literal)]);
            let back = payload_of(&received.text, &again);
            let is_json = back.declared == Declared::Json;
            let expected = if is_json { payload.trim_ascii() } else { &payload[..] };
            proptest::prop_assert_eq!(&*back.bytes, expected);
            proptest::prop_assert!(!literal || payload::is_read(received.to_payload()));
            let relayed = json_of(&received.text, &again);
            proptest::prop_assert_eq!((&relayed.text, relayed.literal), (&received.text, literal));
        }
    }

    #[test]
    fn data_is_converted_for_the_other_language() {
        let data = |bytes: &'static [u8], form| {
            let content = crate::attributes::Values { form, ..Default::default() };
            Data::parse(Bytes::from_static(bytes), Attributes::new(content)).unwrap()
        };
        for (bytes, form, json, literal) in [
            (&b"21.5"[..], DataForm::Bytes, &b"21.5"[..], false),
            (b"21.5", DataForm::Text, b"\"21.5\"", false),
            (b"ON", DataForm::Bytes, b"\"ON\"", false),
            (b"\"ON\"", DataForm::Bytes, b"\"ON\"", true),
            (b"\xff", DataForm::Bytes, b"{\"$b64\":\"/w==\"}", false),
            (b"1", DataForm::Binary, b"{\"$b64\":\"MQ==\"}", false),
            (b"\"ON\"", DataForm::LiteralJson, b"\"ON\"", true),
        ] {
            let data = data(bytes, form);
            let converted = data.json();
            assert_eq!((&*converted.text, converted.literal), (json, literal), "{bytes:?} {form:?}");
            assert_eq!(&*payload_of(data.as_bytes(), data.attributes()).bytes, bytes);
        }
        let on = Data::parse(Bytes::from_static(b"\"ON\""), Attributes::NONE).unwrap();
        assert_eq!(&*payload_of(on.as_bytes(), on.attributes()).bytes, b"ON");
    }
}
