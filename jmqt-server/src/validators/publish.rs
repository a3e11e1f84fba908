//! `pub`: may this client publish this? (§7.k)

use std::fmt;
use std::sync::OnceLock;

use async_trait::async_trait;
use jmqt_core::{ChannelName, ClientId, InvalidPayload, Payload, PayloadBuf, Qos, Retain, StatusCode};

use super::attached::{SessionRef, session_getters};
use super::{BoxError, UnexpectedData, Verdict, read_json};
use crate::connection::ConnectionInfo;
use crate::handle::ServerHandle;
use crate::message::{Body, json_of};

/// A `pub` packet to a plain or point-to-point channel.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct PubRequest<'a> {
    /// The connection of the packet.
    pub connection: ConnectionInfo,
    /// The client that publishes.
    pub client: &'a ClientId,
    /// `cn`.
    pub channel: &'a ChannelName,
    /// The data of the message. Never log it.
    pub data: &'a PubData<'a>,
    /// `q`.
    pub qos: Qos,
    /// `rt`.
    pub retain: Retain,
    /// The message is the will of an MQTT client: asked when the client connects, with the data that `auth` has attached as session
    /// data, and again when its connection was lost and the will is published, without session data.
    pub is_will: bool,
    /// The handle of the server.
    pub server: &'a ServerHandle,
    pub(crate) session: SessionRef<'a>,
}

session_getters!(PubRequest);

impl<'a> PubRequest<'a> {
    /// Parses the data as JSON of this type.
    ///
    /// # Errors
    /// [`UnexpectedData`](crate::UnexpectedData) if the data has another type. Refuse with
    /// [`StatusCode::INVALID_PACKET`](crate::StatusCode::INVALID_PACKET).
    pub fn json<T: serde::Deserialize<'a>>(&self) -> Result<T, UnexpectedData> {
        read_json(self.data.as_payload())
    }
}

/// The data that a client publishes: `dt` of a JMQT client, or the payload of an MQTT client.
///
/// The payload of an MQTT client is converted to JSON when the application reads it as JSON for the first time.
pub struct PubData<'a> {
    body: Body<'a>,
    converted: OnceLock<Box<str>>,
}

impl<'a> PubData<'a> {
    /// The data of a JMQT client.
    #[must_use]
    pub const fn json(data: Payload<'a>) -> Self {
        Self::new(Body::Json(data))
    }

    pub(crate) const fn new(body: Body<'a>) -> Self {
        Self { body, converted: OnceLock::new() }
    }

    pub(crate) const fn body(&self) -> Body<'a> {
        self.body
    }

    /// The data as JSON text, as JMQT subscribers receive it. A payload that is not JSON becomes a JSON string, and bytes that
    /// are not text become `{"$b64":"…"}`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self.body {
            Body::Json(data) => data.as_str(),
            Body::Bytes(bytes, attributes) => self.converted.get_or_init(|| {
                let json = json_of(bytes, attributes);
                // The conversion makes text of every payload.
                String::from_utf8(json.text.into_owned()).unwrap_or_default().into()
            }),
        }
    }

    /// As [`as_str`](Self::as_str), with the type that other functions take.
    #[must_use]
    pub fn as_payload(&self) -> Payload<'_> {
        match self.body {
            Body::Json(data) => data,
            Body::Bytes(..) => Payload::parse(self.as_str()).unwrap_or(Payload::NULL),
        }
    }

    /// The bytes as the client sent them: the JSON text of a JMQT client, the payload of an MQTT client.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        match self.body {
            Body::Json(data) => data.as_str().as_bytes(),
            Body::Bytes(bytes, _) => bytes,
        }
    }

    /// The encoded MQTT 5 properties that subscribers receive: content type, response topic, correlation data and user
    /// properties. Empty for JMQT clients. The crate `jmqt-mqtt` decodes them.
    #[must_use]
    pub fn properties(&self) -> &'a [u8] {
        match self.body {
            Body::Json(_) => &[],
            Body::Bytes(_, attributes) => attributes.properties(),
        }
    }
}

impl<'a> From<Payload<'a>> for PubData<'a> {
    fn from(data: Payload<'a>) -> Self {
        Self::json(data)
    }
}

impl fmt::Debug for PubData<'_> {
    /// Shows only the length, because data must not be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PubData({} bytes)", self.as_bytes().len())
    }
}

/// The answer to a [`PubRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PubVerdict {
    /// Publish the message unchanged.
    Allow,
    /// Publish other data instead; made by [`replace`](Self::replace) or [`replace_raw`](Self::replace_raw).
    Replace(Replacement),
    /// Refuse the message with this status in the `pubAck`. `StatusCode::OK` here is an error of the application and
    /// answered as SERVER_ERROR.
    Refuse(StatusCode),
}

/// The data that is published instead of the client's data.
#[derive(Clone, PartialEq, Eq)]
pub struct Replacement(PayloadBuf);

impl Replacement {
    /// The JSON text.
    #[must_use]
    pub fn data(&self) -> Payload<'_> {
        self.0.as_payload()
    }
}

impl fmt::Debug for Replacement {
    /// Shows only the length, because data must not be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replacement({} bytes)", self.0.as_str().len())
    }
}

impl PubVerdict {
    /// Refuses with [`StatusCode::NOT_ALLOWED`].
    pub const NOT_ALLOWED: Self = Self::Refuse(StatusCode::NOT_ALLOWED);

    /// Publishes this value, as JSON, instead of the client's data. Channel, publisher, QoS, the retained flag and
    /// the `id` of the `pubAck` stay unchanged. Data that makes the packet larger than MAX_PACKET_BYTES is an error
    /// of the application, answered as SERVER_ERROR.
    ///
    /// # Errors
    /// The error of `serde_json` if JSON cannot represent the value, or the value is nested deeper than 128.
    pub fn replace(data: &impl serde::Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self::Replace(Replacement(PayloadBuf::json(data)?)))
    }

    /// As [`replace`](Self::replace), with JSON text, which subscribers receive byte for byte (protocol.md 2.7).
    ///
    /// # Errors
    /// [`InvalidPayload`] if the text is not one JSON value, or is nested deeper than 128.
    pub fn replace_raw(data: &str) -> Result<Self, InvalidPayload> {
        Ok(Self::Replace(Replacement(Payload::parse(data)?.into())))
    }
}

impl From<Verdict> for PubVerdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Allow => Self::Allow,
            Verdict::Refuse(status) => Self::Refuse(status),
        }
    }
}

/// Decides whether a client may publish a message, and may change its data (§7.k, §7.l).
///
/// Called once per `pub` packet with a valid channel name, in order for one client, also for point-to-point channels.
/// Never called for control channels, which the [`ControlHandler`](super::ControlHandler) handles. A refusal is
/// answered if the message has QoS 1 or an id (protocol.md 2.5).
///
/// The `impl` needs `#[async_trait]`; without it the compiler says "lifetime parameters do not match the trait"
/// (E0195).
///
/// ```
/// use jmqt_server::prelude::*;
///
/// struct Chat;
///
/// #[derive(serde::Deserialize, serde::Serialize)]
/// struct Line { text: String, #[serde(default)] at: u64 }
///
/// #[async_trait]
/// impl PubValidator for Chat {
///     async fn validate_pub(&self, request: &PubRequest<'_>) -> Result<PubVerdict, BoxError> {
///         if request.channel.as_str() != "chat" {
///             return Ok(PubVerdict::NOT_ALLOWED);
///         }
///         let Ok(mut line) = request.json::<Line>() else {
///             return Ok(PubVerdict::Refuse(StatusCode::INVALID_PACKET));
///         };
///         let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
///         line.at = now.as_secs(); // the server's time, whatever the client said
///         Ok(PubVerdict::replace(&line)?)
///     }
/// }
/// ```
#[async_trait]
pub trait PubValidator: Send + Sync + 'static {
    /// Answers one request.
    ///
    /// # Errors
    /// An error, a panic, or no answer within VALIDATOR_TIMEOUT_SECONDS (default 10) becomes status 5,
    /// SERVER_ERROR, for this request alone; the session goes on (protocol.md 2.17).
    ///
    /// # Cancel safety
    /// The future is dropped at its time limit, or when its connection ends: do not keep incomplete work across an
    /// `.await`.
    async fn validate_pub(&self, request: &PubRequest<'_>) -> Result<PubVerdict, BoxError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::{Attributes, DataForm, Values};

    #[test]
    fn the_payload_of_an_mqtt_client_is_json_for_the_application() {
        let bytes = |form| Attributes::new(Values { form, ..Values::default() });
        let view = |payload: &[u8], form| {
            let attributes = bytes(form);
            let data = PubData::new(Body::Bytes(payload, &attributes));
            assert_eq!(data.as_bytes(), payload);
            assert_eq!(data.as_payload().as_str(), data.as_str());
            data.as_str().to_owned()
        };
        assert_eq!(view(b"21.5", DataForm::Bytes), "21.5");
        assert_eq!(view(b"21.5", DataForm::Text), "\"21.5\"");
        assert_eq!(view(b"ON", DataForm::Bytes), "\"ON\"");
        assert_eq!(view(b"\xff", DataForm::Bytes), r#"{"$b64":"/w=="}"#);
        assert_eq!(view(b"", DataForm::Bytes), "\"\"");
    }

    #[test]
    fn the_data_of_a_jmqt_client_is_seen_as_it_was_sent() {
        let data = PubData::json(Payload::parse(r#"{"a":1.0}"#).unwrap());
        assert_eq!(data.as_str(), r#"{"a":1.0}"#);
        assert_eq!(data.as_bytes(), data.as_str().as_bytes());
        assert!(data.properties().is_empty());
    }
}
