//! Converts bytes to packets and back, for one connection. It does no I/O.

mod foreign;
mod frames;
mod http;
mod upgrade;
mod websocket;

use std::borrow::Cow;
use std::sync::Arc;

use jmqt_mqtt::{DecodeError, FrameDecoder, Violation};
use jmqt_protocol::{NUL, NulDecoder, PacketTooLarge};

use crate::connection::CloseReason;
use crate::upgrade::Upgrade;

use foreign::CONNECT;
use frames::Messages;

pub(crate) use foreign::{Foreign, key_of};
pub(crate) use frames::PING;
pub(crate) use upgrade::HttpContext;
pub(crate) use websocket::{CloseCode, WebSocketDecoder, binary_header, websocket_header};

/// The framing of packets on the wire (§3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// A NUL byte ends each packet.
    Nul,
    /// Each packet is one text message.
    WebSocket,
    /// A packet begins with its type and its length.
    Mqtt,
    /// The same, in binary messages.
    MqttWebSocket,
}

impl Framing {
    /// Appends a packet text in this framing.
    pub(crate) fn frame(self, text: &[u8], out: &mut Vec<u8>) {
        match self {
            Self::Mqtt => out.extend_from_slice(text),
            Self::Nul => {
                out.extend_from_slice(text);
                out.push(NUL);
            }
            Self::WebSocket => {
                websocket_header(text.len(), out);
                out.extend_from_slice(text);
            }
            Self::MqttWebSocket => {
                binary_header(text.len(), out);
                out.extend_from_slice(text);
            }
        }
    }
}

/// The reason why nothing more can be read from a connection.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TransportError {
    #[error(transparent)]
    PacketTooLarge(#[from] PacketTooLarge),
    /// WebSocket: the client has sent a close frame.
    #[error("the client closed the WebSocket")]
    Closed,
    /// The connection was for a health check, which has been answered.
    #[error("an HTTP health check")]
    HealthChecked,
    /// WebSocket: the origin of the page may not connect.
    #[error("pages of {origin} may not connect: ALLOWED_ORIGINS does not contain this origin")]
    ForeignPage { origin: String },
    /// The client speaks something that the port is not for.
    #[error("{0} came to a port for something else")]
    WrongPort(Foreign),
    /// The fixed header of an MQTT packet is invalid, or the packet is too large.
    #[error(transparent)]
    Packet(DecodeError),
    #[error("{0}")]
    Violation(Cow<'static, str>),
}

impl TransportError {
    pub(crate) fn close_reason(&self) -> CloseReason {
        match self {
            Self::PacketTooLarge(_) => CloseReason::PacketTooLarge,
            Self::Packet(DecodeError { violation: Violation::TooLarge { .. }, .. }) => {
                CloseReason::PacketTooLarge
            }
            Self::Closed | Self::HealthChecked => CloseReason::ClosedByClient,
            Self::ForeignPage { .. } | Self::WrongPort(_) | Self::Packet(_) | Self::Violation(_) => {
                CloseReason::ProtocolViolation
            }
        }
    }
}

/// Splits received bytes into packet texts.
pub(crate) enum Decoder {
    /// A socket that has received nothing yet.
    First {
        /// The port is for MQTT.
        is_for_mqtt: bool,
        limit: usize,
        context: Arc<HttpContext>,
    },
    /// MQTT at a port that is not for it: its CONNECT will be refused.
    Misplaced(FrameDecoder),
    /// The client has the wrong port; the answer is still to be sent.
    Foreign(Vec<u8>),
    Nul(NulDecoder),
    Mqtt(FrameDecoder),
    WebSocket(Box<WebSocketDecoder>),
}

impl Decoder {
    pub(crate) fn new(framing: Framing, limit: usize, context: Arc<HttpContext>) -> Self {
        let messages = match framing {
            Framing::Nul | Framing::Mqtt => {
                return Self::First { is_for_mqtt: framing == Framing::Mqtt, limit, context };
            }
            Framing::WebSocket => Messages::Texts,
            Framing::MqttWebSocket => Messages::Stream,
        };
        Self::WebSocket(Box::new(WebSocketDecoder::new(messages, limit, context)))
    }

    /// Checks the first bytes of a socket: a client with the wrong port gets an answer at once, and does not have to wait
    /// for its own time limit.
    fn recognise(&mut self, chunk: &mut &[u8]) -> Result<(), TransportError> {
        let Self::First { is_for_mqtt, limit, context } = self else { return Ok(()) };
        if chunk.is_empty() {
            return Ok(());
        }
        let (is_for_mqtt, limit) = (*is_for_mqtt, *limit);
        let (foreign, answer) = match Foreign::of(chunk) {
            Some(Foreign::Mqtt) if !is_for_mqtt => {
                *self = Self::Misplaced(FrameDecoder::new(limit));
                return Ok(());
            }
            Some(Foreign::Http) => (Foreign::Http, context.wrong_port(is_for_mqtt)),
            Some(foreign @ (Foreign::Tls | Foreign::ProxyHeader)) => (foreign, Vec::new()),
            Some(Foreign::Jmqt) if is_for_mqtt => {
                let text = "this port is for MQTT: JMQT clients connect to another one";
                (Foreign::Jmqt, Foreign::Jmqt.answer(chunk, text).unwrap_or_default())
            }
            _ => {
                *self = match is_for_mqtt {
                    true => Self::Mqtt(FrameDecoder::new(limit)),
                    false => Self::Nul(NulDecoder::new(limit)),
                };
                return Ok(());
            }
        };
        self.refuse(chunk, foreign, answer)
    }

    /// Refuses the CONNECT of a client that is at a port for JMQT, once it is complete.
    fn refuse_misplaced(&mut self, chunk: &mut &[u8]) -> Result<(), TransportError> {
        let Self::Misplaced(decoder) = self else { return Ok(()) };
        let text = "this port is for JMQT: MQTT clients connect to another one (MQTT_PORT), or to this one if the server has \
                    MQTT_ON_JMQT_PORTS = true";
        let answer = match decoder.next_packet(chunk, None) {
            Ok(None) => return Ok(()),
            Ok(Some(packet)) => Foreign::Mqtt.answer(packet, text),
            Err(_) => None,
        };
        self.refuse(chunk, Foreign::Mqtt, answer.unwrap_or_default())
    }

    fn refuse(&mut self, chunk: &mut &[u8], foreign: Foreign, answer: Vec<u8>) -> Result<(), TransportError> {
        *chunk = &[];
        *self = Self::Foreign(answer);
        Err(TransportError::WrongPort(foreign))
    }

    /// Begins MQTT if the first bytes of a socket do, on a server whose ports for JMQT take MQTT too. Returns `true` then.
    pub(crate) fn turn_to_mqtt(&mut self, chunk: &[u8]) -> bool {
        let Self::First { is_for_mqtt, limit, context } = self else { return false };
        if *is_for_mqtt || !context.takes_mqtt() || chunk.first() != Some(&CONNECT) {
            return false;
        }
        *self = Self::Mqtt(FrameDecoder::new(*limit));
        true
    }

    /// Returns `true` if the packets are those of MQTT.
    pub(crate) fn speaks_mqtt(&self) -> bool {
        match self {
            Self::First { is_for_mqtt, .. } => *is_for_mqtt,
            Self::Misplaced(_) | Self::Foreign(_) | Self::Nul(_) => false,
            Self::Mqtt(_) => true,
            Self::WebSocket(decoder) => decoder.speaks_mqtt(),
        }
    }

    /// The next packet text in `chunk` (bytes, because a socket may send invalid UTF-8); `None` when
    /// the chunk is used up, or, if [`has_more`](Self::has_more), when there is output to send first.
    pub(crate) fn next<'a, 'c: 'a>(
        &'a mut self,
        chunk: &mut &'c [u8],
    ) -> Result<Option<&'a [u8]>, TransportError> {
        if let Self::First { .. } = self {
            self.recognise(chunk)?;
        }
        if let Self::Misplaced(_) = self {
            self.refuse_misplaced(chunk)?;
        }
        match self {
            Self::First { .. } | Self::Misplaced(_) | Self::Foreign(_) => Ok(None),
            Self::Nul(decoder) => Ok(decoder.next(chunk)?),
            // The version matters only for the answer, which the language determines.
            Self::Mqtt(decoder) => decoder.next_packet(chunk, None).map_err(TransportError::Packet),
            Self::WebSocket(decoder) => decoder.next(chunk),
        }
    }

    pub(crate) fn has_more(&self) -> bool {
        match self {
            Self::WebSocket(decoder) => decoder.has_more(),
            _ => false,
        }
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        match self {
            Self::First { limit: old, .. } => *old = limit,
            Self::Foreign(_) => {}
            Self::Nul(decoder) => decoder.set_limit(limit),
            Self::Mqtt(decoder) | Self::Misplaced(decoder) => decoder.set_limit(limit),
            Self::WebSocket(decoder) => decoder.set_limit(limit),
        }
    }

    /// The number of received bytes that the decoder holds.
    pub(crate) fn buffered(&self) -> usize {
        match self {
            Self::First { .. } | Self::Foreign(_) => 0,
            Self::Nul(decoder) => decoder.buffered(),
            Self::Mqtt(decoder) | Self::Misplaced(decoder) => decoder.buffered(),
            Self::WebSocket(decoder) => decoder.buffered(),
        }
    }

    /// Returns `true` if a packet is incomplete (2.15).
    pub(crate) fn is_mid_packet(&self) -> bool {
        match self {
            Self::First { .. } | Self::Foreign(_) => false,
            Self::Nul(decoder) => decoder.is_mid_packet(),
            Self::Mqtt(decoder) | Self::Misplaced(decoder) => decoder.is_mid_packet(),
            Self::WebSocket(decoder) => decoder.is_mid_packet(),
        }
    }

    /// Returns the HTTP request of the WebSocket, once.
    pub(crate) fn take_upgrade(&mut self) -> Option<Arc<Upgrade>> {
        match self {
            Self::WebSocket(decoder) => decoder.take_upgrade(),
            _ => None,
        }
    }

    /// Bytes that the transport itself has to send: the WebSocket upgrade, pongs, a close frame.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        match self {
            Self::First { .. } | Self::Misplaced(_) | Self::Nul(_) | Self::Mqtt(_) => Vec::new(),
            Self::Foreign(answer) => std::mem::take(answer),
            Self::WebSocket(decoder) => decoder.take_output(),
        }
    }

    /// Returns `true` if a packet can be sent: on a WebSocket, after the upgrade and before the close frame.
    pub(crate) fn is_open(&self) -> bool {
        match self {
            Self::First { .. } | Self::Nul(_) | Self::Mqtt(_) => true,
            // An MQTT client expects nothing but the answer to its CONNECT.
            Self::Misplaced(_) | Self::Foreign(_) => false,
            Self::WebSocket(decoder) => decoder.is_open(),
        }
    }

    /// Adds the close frame of the transport, if it has one, to [`take_output`](Self::take_output).
    pub(crate) fn close(&mut self, code: CloseCode, reason: &str) {
        if let Self::WebSocket(decoder) = self {
            decoder.close(code, reason);
        }
    }
}
