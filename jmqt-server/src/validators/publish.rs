//! `pub`: may this client publish this? (§7.k)

use std::fmt;

use async_trait::async_trait;
use jmqt_core::{ChannelName, ClientId, InvalidPayload, Payload, PayloadBuf, Qos, Retain, StatusCode};

use super::attached::{SessionRef, session_getters};
use super::{BoxError, UnexpectedData, Verdict, read_json};
use crate::connection::ConnectionInfo;
use crate::handle::ServerHandle;

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
    /// `dt`. Never log it.
    pub data: Payload<'a>,
    /// `q`.
    pub qos: Qos,
    /// `rt`.
    pub retain: Retain,
    /// The message is the will of an MQTT client: asked when the client connects, and again when its connection was lost
    /// and the will is published.
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
        read_json(self.data)
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
