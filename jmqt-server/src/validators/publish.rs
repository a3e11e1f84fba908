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
    /// The connection it came over.
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
    /// The server's own side.
    pub server: &'a ServerHandle,
    pub(crate) session: SessionRef<'a>,
}

session_getters!(PubRequest);

impl<'a> PubRequest<'a> {
    /// The data, read as a value of the application: JSON of this type.
    ///
    /// # Errors
    /// [`UnexpectedData`](crate::UnexpectedData): it is something else. Refuse with
    /// [`StatusCode::INVALID_PACKET`](crate::StatusCode::INVALID_PACKET).
    pub fn json<T: serde::Deserialize<'a>>(&self) -> Result<T, UnexpectedData> {
        read_json(self.data)
    }
}

/// The answer to a [`PubRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum PubVerdict {
    /// Publish the message as it is.
    Allow,
    /// Publish other data in its place; made by [`replace`](Self::replace) or
    /// [`replace_raw`](Self::replace_raw).
    Replace(Replacement),
    /// Do not publish; this status goes into the `pubAck`. `StatusCode::OK` here is a mistake of the
    /// application and answered as SERVER_ERROR.
    Refuse(StatusCode),
}

/// The data that is published instead of what the client sent.
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
    /// Its length only: data is not for logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replacement({} bytes)", self.0.as_str().len())
    }
}

impl PubVerdict {
    /// Refuses with [`StatusCode::NOT_ALLOWED`].
    pub const NOT_ALLOWED: Self = Self::Refuse(StatusCode::NOT_ALLOWED);

    /// Publishes this value, as JSON, instead of what the client sent. Everything else stays: channel,
    /// publisher, QoS, the retained flag and the `id` of the `pubAck`. Data that makes the packet larger than
    /// MAX_PACKET_BYTES is a mistake of the application, answered as SERVER_ERROR.
    ///
    /// # Errors
    /// What `serde_json` says of a value that JSON cannot hold, or that nests deeper than 128.
    pub fn replace(data: &impl serde::Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self::Replace(Replacement(PayloadBuf::json(data)?)))
    }

    /// The same with JSON text, which reaches the subscribers byte for byte (protocol.md 2.7).
    ///
    /// # Errors
    /// [`InvalidPayload`] if it is not one JSON value, or nested deeper than 128.
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
/// Asked once per `pub` packet with a valid channel name, in order for one client, for point-to-point
/// channels too; never for control channels, which go to the [`ControlHandler`](super::ControlHandler). A refusal
/// is answered if the message is QoS 1 or carries an id (protocol.md 2.5).
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
    /// The future is dropped when its time is up or its connection ends: keep no half-done work
    /// across an `.await`.
    async fn validate_pub(&self, request: &PubRequest<'_>) -> Result<PubVerdict, BoxError>;
}
