//! What is published: a [`Publish`], and the [`Receipt`] of it.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use jmqt_mqtt::{
    Delivery, EncodeError, Place, Properties, Property, PropertyBuf, Qos, ReasonCode, Sender, TopicName,
    Version,
};
use tokio::sync::oneshot;

use super::Error;

/// A message to publish: a topic, bytes, QoS, the retained flag, and the properties of MQTT 5.
///
/// ```
/// use std::time::Duration;
/// use jmqt_client::mqtt::Publish;
///
/// let message = Publish::new("rooms/7/temperature", "21.5")?
///     .at_least_once()
///     .retained()
///     .expires_after(Duration::from_secs(60))
///     .content_type("text/plain");
/// # Ok::<(), jmqt_client::mqtt::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    topic: Box<str>,
    payload: Bytes,
    qos: Qos,
    is_retained: bool,
    expiry: Option<u32>,
    /// All properties but the message expiry.
    properties: PropertyBuf,
    /// A property that cannot be written; told when the message is published.
    problem: Option<EncodeError>,
}

impl Publish {
    /// A message with QoS 0.
    ///
    /// # Errors
    /// [`Error::InvalidTopic`] if the topic is empty, has a wildcard or a control character, or is longer than 2,048 bytes.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Result<Self, Error> {
        let topic = topic.into();
        TopicName::parse(&topic).map_err(|because| Error::InvalidTopic { topic: topic.clone(), because })?;
        Ok(Self {
            topic: topic.into(),
            payload: payload.into(),
            qos: Qos::AtMostOnce,
            is_retained: false,
            expiry: None,
            properties: PropertyBuf::default(),
            problem: None,
        })
    }

    /// A value, as JSON text.
    ///
    /// # Errors
    /// As [`new`](Self::new); [`Error::InvalidData`] for a value that JSON cannot hold.
    pub fn json(topic: impl Into<String>, data: &(impl serde::Serialize + ?Sized)) -> Result<Self, Error> {
        let text = serde_json::to_string(data).map_err(|error| Error::InvalidData(error.to_string()))?;
        Self::new(topic, text)
    }

    /// With this QoS.
    #[must_use]
    pub const fn qos(mut self, qos: Qos) -> Self {
        self.qos = qos;
        self
    }

    /// QoS 1: acknowledged by the server; may arrive twice.
    #[must_use]
    pub const fn at_least_once(self) -> Self {
        self.qos(Qos::AtLeastOnce)
    }

    /// QoS 2: acknowledged by the server, and not delivered twice.
    #[must_use]
    pub const fn exactly_once(self) -> Self {
        self.qos(Qos::ExactlyOnce)
    }

    /// The server keeps it for those who subscribe later. An empty payload removes what it kept.
    #[must_use]
    pub const fn retained(mut self) -> Self {
        self.is_retained = true;
        self
    }

    /// The server forgets it after this time, in whole seconds (MQTT 5). Waiting in this client's queue counts.
    #[must_use]
    pub fn expires_after(mut self, time: Duration) -> Self {
        self.expiry = Some(u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
        self
    }

    /// What the payload is, a MIME type for example (MQTT 5).
    #[must_use]
    pub fn content_type(self, content_type: &str) -> Self {
        self.property(Property::ContentType(content_type))
    }

    /// Declares the payload to be UTF-8 text (MQTT 5).
    #[must_use]
    pub fn as_text(self) -> Self {
        self.property(Property::PayloadFormatIndicator(true))
    }

    /// Where the response is expected (MQTT 5).
    #[must_use]
    pub fn response_topic(self, topic: &str) -> Self {
        self.property(Property::ResponseTopic(topic))
    }

    /// What tells which request a response is for (MQTT 5).
    #[must_use]
    pub fn correlation_data(self, data: &[u8]) -> Self {
        self.property(Property::CorrelationData(data))
    }

    /// A name and a value for the receivers (MQTT 5). There may be many.
    #[must_use]
    pub fn user_property(self, name: &str, value: &str) -> Self {
        self.property(Property::UserProperty((name, value)))
    }

    fn property(mut self, property: Property<'_>) -> Self {
        if let Err(error) = self.properties.push(property) {
            self.problem.get_or_insert(error);
        }
        self
    }

    /// The topic.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Whether it can be sent in this version.
    pub(crate) fn check(&self, version: Version) -> Result<(), Error> {
        if let Some(problem) = self.problem {
            return Err(Error::Encode(problem));
        }
        if !version.has_properties() && (!self.properties.is_empty() || self.expiry.is_some()) {
            return Err(Error::NotInVersion { what: "properties of a message" });
        }
        if version.has_properties() {
            let place = Place::Packet(jmqt_mqtt::PacketType::Publish);
            self.properties.for_place(place, Sender::Client).map_err(|error| Error::Encode(error.into()))?;
        }
        Ok(())
    }

    pub(crate) const fn qos_value(&self) -> Qos {
        self.qos
    }

    pub(crate) const fn is_retained(&self) -> bool {
        self.is_retained
    }

    pub(crate) const fn expiry_seconds(&self) -> Option<u32> {
        self.expiry
    }

    pub(crate) fn payload(&self) -> &[u8] {
        &self.payload
    }

    /// What it takes in memory, roughly.
    pub(crate) fn cost(&self) -> usize {
        self.topic.len() + self.payload.len() + self.properties.len() + size_of::<Self>() + 64
    }

    /// The properties, with the seconds that are left of the message expiry.
    pub(crate) fn properties(&self, expiry: Option<u32>) -> Result<PropertyBuf, EncodeError> {
        let mut properties = self.properties.clone();
        if let Some(seconds) = expiry {
            properties.push(Property::MessageExpiryInterval(seconds))?;
        }
        Ok(properties)
    }

    /// Appends the packet.
    pub(crate) fn encode(
        &self,
        version: Version,
        delivery: Delivery,
        expiry: Option<u32>,
        out: &mut Vec<u8>,
    ) -> Result<(), EncodeError> {
        let buffer;
        let properties = if version.has_properties() {
            buffer = self.properties(expiry)?;
            buffer.for_place(Place::Packet(jmqt_mqtt::PacketType::Publish), Sender::Client)?
        } else {
            Properties::EMPTY
        };
        let packet = jmqt_mqtt::Publish {
            delivery,
            retain: self.is_retained,
            topic: &self.topic,
            properties,
            payload: &self.payload,
        };
        jmqt_mqtt::Packet::Publish(packet).encode(version, out)
    }
}

/// What becomes of a publish: the server's reason code. With QoS 0 it is success at once, which says nothing of the server.
#[derive(Debug)]
#[must_use = "it tells whether the server has the message"]
pub struct Receipt {
    acknowledged: Option<oneshot::Receiver<Result<ReasonCode, Error>>>,
}

impl Receipt {
    pub(crate) const fn of_qos0() -> Self {
        Self { acknowledged: None }
    }

    pub(crate) const fn new(acknowledged: oneshot::Receiver<Result<ReasonCode, Error>>) -> Self {
        Self { acknowledged: Some(acknowledged) }
    }
}

impl Future for Receipt {
    type Output = Result<ReasonCode, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.acknowledged {
            None => Poll::Ready(Ok(ReasonCode::SUCCESS)),
            Some(acknowledged) => {
                Pin::new(acknowledged).poll(context).map(|answer| answer.unwrap_or(Err(Error::Closed)))
            }
        }
    }
}
