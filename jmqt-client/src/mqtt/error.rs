//! Errors, with hints how to fix them.

use std::sync::Arc;
use std::time::Duration;

use jmqt_mqtt::{EncodeError, InvalidTopic, ReasonCode};

use crate::Step;

/// Why a request to the server was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server answered with a reason code of 0x80 or above.
    #[error("the server answered {reason} to the {request}{}{}", said(message), advice(*reason, request))]
    Refused {
        /// What was asked: `publish`, `subscribe` or `unsubscribe`.
        request: &'static str,
        /// The reason. MQTT 3.1.1 has only [`ReasonCode::UNSPECIFIED_ERROR`], for a SUBSCRIBE.
        reason: ReasonCode,
        /// What the server said beside it; may be empty.
        message: String,
    },
    /// The text is no topic or filter.
    #[error("{topic:?} is not usable: {because}")]
    InvalidTopic {
        /// The text.
        topic: String,
        /// What is wrong with it.
        because: InvalidTopic,
    },
    /// MQTT 3.1.1 has no such thing.
    #[error("MQTT 3.1.1 has no {what}: connect with MQTT 5")]
    NotInVersion {
        /// What.
        what: &'static str,
    },
    /// The server said in its CONNACK that it does not do this.
    #[error("the server has no {what}; {advice}")]
    NotAvailable {
        /// What.
        what: &'static str,
        /// What to do instead.
        advice: &'static str,
    },
    /// The packet would break a rule of MQTT.
    #[error("MQTT does not allow this: {0}")]
    Encode(EncodeError),
    /// The value cannot be written as JSON.
    #[error("the data is not JSON: {0}")]
    InvalidData(String),
    /// A packet would be larger than the server takes, or than any packet of MQTT.
    #[error("the packet has {size} bytes, and the server takes {limit}: publish less at a time")]
    PacketTooLarge {
        /// The size of the packet, in bytes.
        size: usize,
        /// The server's maximum packet size.
        limit: usize,
    },
    /// The message was of no use any more before there was a connection to send it on.
    #[error("the message expired before it could be sent")]
    Expired,
    /// A QoS 2 message was sent, and the server has lost the session since: it may have been delivered or not. Only the
    /// application knows whether publishing it again does harm.
    #[error("the server has lost the session: whether the QoS 2 message was delivered is unknown")]
    OutcomeUnknown,
    /// There was no answer, or no room in the queue, within the time that the options allow.
    #[error("{what} took longer than {limit:?}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The queue is full, and the options say not to wait.
    #[error("the queue of {limit} bytes is full")]
    QueueFull {
        /// `queue_bytes`.
        limit: usize,
    },
    /// The queue was full, and this message, the oldest that had not been sent, made room for a newer one.
    #[error("the message was dropped: the queue was full, and it was the oldest")]
    Dropped,
    /// The application's part of an authentication exchange failed ([`AuthExchange`](super::AuthExchange)).
    #[error("cannot authenticate: {0}")]
    Authentication(Arc<dyn std::error::Error + Send + Sync>),
    /// All packet ids are in use: 65,535 messages and requests are under way.
    #[error("all packet ids are in use; wait for answers first")]
    NoPacketId,
    /// The client has stopped ([`Event::Stopped`](super::Event::Stopped)); [`Client::reconnect`](super::Client::reconnect)
    /// starts again.
    #[error("not connected, and not reconnecting: {0}")]
    Stopped(DisconnectReason),
    /// The client has been closed, or has given up reconnecting.
    #[error("the client is closed")]
    Closed,
}

impl Error {
    /// The server's reason code, if the server refused.
    #[must_use]
    pub const fn reason(&self) -> Option<ReasonCode> {
        match self {
            Self::Refused { reason, .. } => Some(*reason),
            _ => None,
        }
    }
}

/// Why there is no session.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The server was not reached: name, TCP, TLS, WebSocket, or no answer to CONNECT.
    #[error(transparent)]
    Reach(#[from] crate::ConnectError),
    /// The server answered CONNECT with a refusal.
    #[error("CONNECT: the server answered {reason}{}{}{}", said(message), moved(server_reference), connect_advice(*reason, message))]
    Refused {
        /// The reason; of MQTT 3.1.1 the one with the meaning of its return code.
        reason: ReasonCode,
        /// What the server said beside it; may be empty.
        message: String,
        /// The server to use instead, if it named one.
        server_reference: Option<String>,
    },
    /// The server closed the connection without an answer to CONNECT, as one does that does not speak this version, or that
    /// finds the packet malformed.
    #[error("CONNECT: the server closed the connection without an answer; {hint}")]
    NoAnswer {
        /// What to do about it.
        hint: &'static str,
    },
    /// A value of the [`Options`](super::Options) is out of range.
    #[error("the option `{option}` is {found}; expected {expected}")]
    Option {
        /// Which one.
        option: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// The application's part of the authentication exchange failed ([`AuthExchange`](super::AuthExchange)), or did not accept
    /// what the server answered.
    #[error("CONNECT: cannot authenticate: {0}")]
    Authentication(Arc<dyn std::error::Error + Send + Sync>),
    /// The will cannot be sent.
    #[error("the will: {0}")]
    Will(Box<Error>),
    /// The client was closed before there was a session.
    #[error("the client was closed")]
    Closed,
}

impl ConnectError {
    /// The step on the way to a session that failed.
    #[must_use]
    pub const fn step(&self) -> Option<Step> {
        match self {
            Self::Reach(error) => error.step(),
            Self::Refused { .. } | Self::NoAnswer { .. } | Self::Authentication(_) => Some(Step::Connect),
            _ => None,
        }
    }

    /// Whether trying again cannot help, because it is the options that are wrong.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Reach(error) => error.is_final(),
            Self::Option { .. } | Self::Will(_) | Self::Closed => true,
            _ => false,
        }
    }

    /// The server's reason code, if it refused.
    #[must_use]
    pub const fn reason(&self) -> Option<ReasonCode> {
        match self {
            Self::Refused { reason, .. } => Some(*reason),
            _ => None,
        }
    }
}

/// Why a connection ended that had a session.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// [`Client::disconnect`](super::Client::disconnect), or the last handle was dropped.
    #[error("closed by this client")]
    ByClient,
    /// The server sent DISCONNECT (MQTT 5).
    #[error("the server closed the connection with {reason}{}{}", said(message), disconnect_advice(*reason))]
    ByServer {
        /// The reason.
        reason: ReasonCode,
        /// What the server said beside it; may be empty.
        message: String,
    },
    /// The server refused a new connection in a way that trying again does not change.
    #[error(transparent)]
    Refused(Arc<ConnectError>),
    /// The server closed the connection without a word.
    #[error("closed by the server")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(Arc<std::io::Error>),
    /// Nothing came for one and a half times the keep alive, though we asked.
    #[error("no data from the server for {0:?}")]
    Silent(Duration),
    /// The server sent what MQTT does not allow.
    #[error("the server violated the protocol: {0}")]
    Protocol(String),
    /// The application's part of an authentication within the session failed ([`AuthExchange`](super::AuthExchange)).
    #[error("cannot authenticate again: {0}")]
    Authentication(Arc<dyn std::error::Error + Send + Sync>),
    /// The subscriptions could not be made again in time.
    #[error("the subscriptions were not acknowledged within {0:?}")]
    NotResumed(Duration),
}

impl DisconnectReason {
    /// The server's reason code, if it named one.
    #[must_use]
    pub fn reason(&self) -> Option<ReasonCode> {
        match self {
            Self::ByServer { reason, .. } => Some(*reason),
            Self::Refused(error) => error.reason(),
            _ => None,
        }
    }

    /// Whether the client reconnects by itself after this.
    #[must_use]
    pub fn may_reconnect(&self) -> bool {
        match self {
            Self::ByClient | Self::Refused(_) => false,
            Self::ByServer { reason, .. } => !stops(*reason),
            _ => true,
        }
    }
}

/// Whether a connection that is refused or ended with this code is not tried again until the application says so: it would
/// have the same fate, or end another client's.
pub(crate) const fn stops(reason: ReasonCode) -> bool {
    matches!(
        reason,
        ReasonCode::UNSUPPORTED_PROTOCOL_VERSION
            | ReasonCode::CLIENT_IDENTIFIER_NOT_VALID
            | ReasonCode::BAD_USER_NAME_OR_PASSWORD
            | ReasonCode::NOT_AUTHORIZED
            | ReasonCode::BANNED
            | ReasonCode::BAD_AUTHENTICATION_METHOD
            | ReasonCode::SESSION_TAKEN_OVER
            | ReasonCode::ADMINISTRATIVE_ACTION
            | ReasonCode::USE_ANOTHER_SERVER
            | ReasonCode::SERVER_MOVED
    )
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {}", message.escape_debug()) }
}

fn moved(server: &Option<String>) -> String {
    server.as_ref().map(|server| format!("; it names {}", server.escape_debug())).unwrap_or_default()
}

fn connect_advice(reason: ReasonCode, message: &str) -> &'static str {
    match reason {
        // The server knows better, for example that the port is for something else.
        ReasonCode::UNSUPPORTED_PROTOCOL_VERSION if !message.is_empty() => "",
        ReasonCode::UNSUPPORTED_PROTOCOL_VERSION => {
            "; choose the other version of MQTT (option `version`, --v3)"
        }
        ReasonCode::CLIENT_IDENTIFIER_NOT_VALID => "; choose another client id (option `client_id`, --id)",
        // The server knows better here, too, for example that it refuses the will.
        ReasonCode::NOT_AUTHORIZED if !message.is_empty() => "",
        ReasonCode::BAD_USER_NAME_OR_PASSWORD | ReasonCode::NOT_AUTHORIZED => {
            "; check user name and password (mqtt://user:password@host), and whether this client id is allowed"
        }
        ReasonCode::BAD_AUTHENTICATION_METHOD => {
            "; it does not have this authentication method (`Options::authenticate`)"
        }
        ReasonCode::SERVER_UNAVAILABLE | ReasonCode::SERVER_BUSY | ReasonCode::CONNECTION_RATE_EXCEEDED => {
            "; try again later"
        }
        ReasonCode::QOS_NOT_SUPPORTED => "; lower the QoS of the will",
        ReasonCode::RETAIN_NOT_SUPPORTED => "; the will must not be retained",
        _ => "",
    }
}

fn disconnect_advice(reason: ReasonCode) -> &'static str {
    match reason {
        ReasonCode::SESSION_TAKEN_OVER => {
            "; another connection has the same client id: give each client its own"
        }
        ReasonCode::KEEP_ALIVE_TIMEOUT => {
            "; this process did not run for too long, or the network stood still"
        }
        ReasonCode::RECEIVE_MAXIMUM_EXCEEDED | ReasonCode::MESSAGE_RATE_TOO_HIGH => "; publish more slowly",
        _ => "",
    }
}

fn advice(reason: ReasonCode, request: &str) -> &'static str {
    match (reason, request) {
        (ReasonCode::NOT_AUTHORIZED, _) => "; this client is not allowed to: check the server's access rules",
        (ReasonCode::UNSPECIFIED_ERROR, "subscribe") => {
            "; mostly it means that the server's access rules forbid it"
        }
        (ReasonCode::QUOTA_EXCEEDED, _) => "; a limit of the server is reached",
        (ReasonCode::PAYLOAD_FORMAT_INVALID, _) => "; the payload is declared to be text and is not UTF-8",
        _ => "",
    }
}
