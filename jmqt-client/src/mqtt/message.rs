//! What is received: a [`Message`], cut from the bytes it was read in.

use std::fmt;
use std::str::Utf8Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use jmqt_mqtt::{PacketType, Place, Properties, Qos, Sender};

/// A message that came. Cheap to clone.
#[derive(Clone)]
pub struct Message {
    topic: Arc<str>,
    payload: Bytes,
    /// The block of properties, which has been checked.
    properties: Bytes,
    qos: Qos,
    is_retained: bool,
    is_duplicate: bool,
    delivery: Option<Arc<Delivery>>,
}

/// One message in one stream, until it has been taken from there.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) serial: u64,
    pub(crate) qos: Qos,
    is_taken: AtomicBool,
}

impl Delivery {
    /// `true` the first time.
    pub(crate) fn take(&self) -> bool {
        !self.is_taken.swap(true, Ordering::Relaxed)
    }
}

impl Message {
    /// `bytes` are those that the packet was decoded from, if it is whole in them.
    pub(crate) fn new(topic: Arc<str>, packet: &jmqt_mqtt::Publish<'_>, bytes: Option<&Bytes>) -> Self {
        let keep = |slice: &[u8]| match bytes {
            _ if slice.is_empty() => Bytes::new(),
            Some(bytes) => bytes.slice_ref(slice),
            None => Bytes::copy_from_slice(slice),
        };
        Self {
            topic,
            payload: keep(packet.payload),
            properties: keep(packet.properties.as_bytes()),
            qos: packet.delivery.qos(),
            is_retained: packet.retain,
            is_duplicate: packet.delivery.dup(),
            delivery: None,
        }
    }

    /// The same message for one stream, which acknowledges it.
    pub(crate) fn for_stream(&self, serial: Option<u64>) -> Self {
        let delivery =
            |serial| Arc::new(Delivery { serial, qos: self.qos, is_taken: AtomicBool::new(false) });
        Self { delivery: serial.map(delivery), ..self.clone() }
    }

    pub(crate) const fn shared_topic(&self) -> &Arc<str> {
        &self.topic
    }

    pub(crate) fn delivery(&self) -> Option<&Delivery> {
        self.delivery.as_deref()
    }

    fn properties(&self) -> Properties<'_> {
        let place = Place::Packet(PacketType::Publish);
        // They have been checked when the packet was decoded.
        Properties::check(&self.properties, place, Sender::Server).unwrap_or_default()
    }

    /// The topic that it was published on.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The payload.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// The payload, shared and not copied.
    #[must_use]
    pub fn payload_bytes(&self) -> Bytes {
        self.payload.clone()
    }

    /// The payload as text.
    ///
    /// # Errors
    /// It is not UTF-8.
    pub fn text(&self) -> Result<&str, Utf8Error> {
        std::str::from_utf8(&self.payload)
    }

    /// The payload as a value of JSON.
    ///
    /// # Errors
    /// What `serde_json` says of another payload.
    pub fn json<'m, T: serde::Deserialize<'m>>(&'m self) -> Result<T, serde_json::Error> {
        serde_json::from_slice(&self.payload)
    }

    /// The QoS it was delivered with.
    #[must_use]
    pub const fn qos(&self) -> Qos {
        self.qos
    }

    /// Whether it is one that the server had kept, or, for a subscription with retain as published, whether it is one to keep.
    #[must_use]
    pub const fn is_retained(&self) -> bool {
        self.is_retained
    }

    /// Whether the server had tried to deliver it before.
    #[must_use]
    pub const fn is_duplicate(&self) -> bool {
        self.is_duplicate
    }

    /// For how long it is still of use (MQTT 5).
    #[must_use]
    pub fn expiry(&self) -> Option<Duration> {
        self.properties().message_expiry().map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// Whether the payload is declared to be text (MQTT 5).
    #[must_use]
    pub fn is_text(&self) -> bool {
        self.properties().payload_format_indicator() == Some(true)
    }

    /// What the payload is (MQTT 5).
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.properties().content_type()
    }

    /// Where a response is expected (MQTT 5).
    #[must_use]
    pub fn response_topic(&self) -> Option<&str> {
        self.properties().response_topic()
    }

    /// What a response has to repeat (MQTT 5).
    #[must_use]
    pub fn correlation_data(&self) -> Option<&[u8]> {
        self.properties().correlation_data()
    }

    /// Names and values of the publisher, in order (MQTT 5).
    pub fn user_properties(&self) -> impl Iterator<Item = (&str, &str)> {
        self.properties().user_properties()
    }
}

impl crate::inbox::Waiting for Message {
    fn cost(&self) -> usize {
        self.topic.len() + self.payload.len() + self.properties.len() + size_of::<Self>()
    }

    fn is_acknowledged(&self) -> bool {
        self.delivery.is_some()
    }
}

/// Without the payload: it may end up in a log.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("bytes", &self.payload.len())
            .field("qos", &self.qos)
            .field("is_retained", &self.is_retained)
            .finish_non_exhaustive()
    }
}
