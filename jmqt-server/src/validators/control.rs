//! `pub` to `$name`: a request to the application (§9.d).

use async_trait::async_trait;
use jmqt_core::{ChannelName, ClientId, InvalidPayload, Payload, PayloadBuf, StatusCode};

use super::attached::{SessionRef, session_getters};
use super::{BoxError, UnexpectedData, read_json};
use crate::connection::ConnectionInfo;
use crate::handle::ServerHandle;

/// A `pub` packet to a control channel, with an id.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct ControlRequest<'a> {
    /// The connection of the packet.
    pub connection: ConnectionInfo,
    /// The client that sends the request.
    pub client: &'a ClientId,
    /// `cn`, with its `$`.
    pub channel: &'a ChannelName,
    /// `dt`, if present. Never log it.
    pub data: Option<Payload<'a>>,
    /// The handle of the server.
    pub server: &'a ServerHandle,
    pub(crate) session: SessionRef<'a>,
}

session_getters!(ControlRequest);

impl<'a> ControlRequest<'a> {
    /// Parses the data, or `null` if there is none, as JSON of this type.
    ///
    /// # Errors
    /// [`UnexpectedData`](crate::UnexpectedData) if the data has another type. Refuse with
    /// [`StatusCode::INVALID_PACKET`](crate::StatusCode::INVALID_PACKET).
    pub fn json<T: serde::Deserialize<'a>>(&self) -> Result<T, UnexpectedData> {
        read_json(self.data.unwrap_or(Payload::NULL))
    }
}

impl<'a> ControlRequest<'a> {
    pub(crate) fn new(
        connection: ConnectionInfo,
        client: &'a ClientId,
        channel: &'a ChannelName,
        data: Option<Payload<'a>>,
        server: &'a ServerHandle,
        session: SessionRef<'a>,
    ) -> Self {
        Self { connection, client, channel, data, server, session }
    }
}

/// The content of the `pubAck` of a control request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlReply {
    pub(crate) status: StatusCode,
    pub(crate) data: Option<PayloadBuf>,
}

impl ControlReply {
    /// A status without data.
    #[must_use]
    pub const fn status(status: StatusCode) -> Self {
        Self { status, data: None }
    }

    /// Status 1 and a value, as JSON.
    ///
    /// # Errors
    /// The error of `serde_json` if JSON cannot represent the value, or the value is nested deeper than 128.
    pub fn ok(data: &impl serde::Serialize) -> Result<Self, serde_json::Error> {
        Ok(Self { status: StatusCode::OK, data: Some(PayloadBuf::json(data)?) })
    }

    /// Any status and JSON text, which the client receives byte for byte.
    ///
    /// # Errors
    /// [`InvalidPayload`] if the text is not one JSON value.
    pub fn with_json(status: StatusCode, data: &str) -> Result<Self, InvalidPayload> {
        Ok(Self { status, data: Some(Payload::parse(data)?.into()) })
    }
}

/// Answers control requests (§9.d).
///
/// Called once per `pub` with an id to a `$` channel, in order for one client: the next packet of the same connection
/// waits for the answer. By default there are no control channels, and the answer is INVALID_CHANNEL: `impl
/// ControlHandler for App {}` is enough.
///
/// The `impl` needs `#[async_trait]`; without it the compiler says "lifetime parameters do not match the trait"
/// (E0195).
///
/// ```
/// use jmqt_server::prelude::*;
///
/// struct Members;
///
/// #[async_trait]
/// impl ControlHandler for Members {
///     async fn handle_control(&self, request: &ControlRequest<'_>) -> Result<ControlReply, BoxError> {
///         if request.channel.as_str() != "$members" {
///             return Ok(ControlReply::status(StatusCode::INVALID_CHANNEL));
///         }
///         let Some(room) = request.json::<String>().ok().and_then(|name| ChannelName::parse(&name).ok()) else {
///             return Ok(ControlReply::status(StatusCode::INVALID_PACKET));
///         };
///         let members = request.server.subscribers(&room);
///         let names: Vec<&str> = members.iter().map(|(client, _)| client.as_str()).collect();
///         Ok(ControlReply::ok(&names)?)
///     }
/// }
/// ```
#[async_trait]
pub trait ControlHandler: Send + Sync + 'static {
    /// Answers one request; the reply goes into the `pubAck`. By default, INVALID_CHANNEL.
    ///
    /// # Errors
    /// An error, a panic, or no answer within VALIDATOR_TIMEOUT_SECONDS (default 10) becomes status 5,
    /// SERVER_ERROR, for this request alone; the session goes on (protocol.md 2.17).
    ///
    /// # Cancel safety
    /// The future is dropped at its time limit, or when its connection ends: do not keep incomplete work across an
    /// `.await`.
    async fn handle_control(&self, request: &ControlRequest<'_>) -> Result<ControlReply, BoxError> {
        let _ = request;
        Ok(ControlReply::status(StatusCode::INVALID_CHANNEL))
    }
}
