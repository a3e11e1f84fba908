//! Errors, with hints how to fix them.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jmqt_protocol::{DisconnectCode, InvalidChannel, InvalidPayload, Persistence, StatusCode};

use crate::filter::InvalidFilter;

/// Why a request to the server was not carried out.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The server answered with another status than 1. 8 CLIENT_OFFLINE is final; 5 SERVER_ERROR may pass.
    #[error("the server answered {status} to the {request}")]
    Refused {
        /// What was asked: `sub`, `unsub`, `publish` or `request`.
        request: &'static str,
        /// The status of the answer.
        status: StatusCode,
        /// What the server's application sent with it, as JSON text ([`Error::reply`]).
        reply: Option<Box<str>>,
    },
    /// The channel is subscribed to with the other persistence. Unsubscribe first (§9.c).
    #[error("already subscribed to the channel as {}; unsubscribe first", word(*.is))]
    AlreadySubscribed {
        /// What the subscription is.
        is: Persistence,
    },
    /// The server ended the connection with a code that forbids reconnecting (protocol.md 2.22), for example because
    /// the same client connected elsewhere. [`Client::reconnect`](crate::Client::reconnect) starts again.
    #[error("not connected, and not reconnecting: {0}")]
    Disconnected(DisconnectReason),
    /// The value cannot be written as JSON, or the text is not one JSON value.
    #[error("the data is not JSON: {0}")]
    InvalidData(String),
    /// The connection went while a control request, or a [checked](crate::Publish::checked) QoS 0 publish, was under way: it
    /// may have been carried out or not.
    #[error("the connection was lost during the request: its outcome is unknown")]
    ConnectionLost,
    /// There was no answer, or no room in the queue, within the time that the configuration allows.
    #[error("{what} took longer than {limit:?}")]
    Timeout {
        /// What was waited for.
        what: &'static str,
        /// How long.
        limit: Duration,
    },
    /// The queue is full, and the configuration says not to wait.
    #[error("the queue of {limit} bytes is full")]
    QueueFull {
        /// QUEUE_BYTES.
        limit: usize,
    },
    /// The queue was full, and this message, the oldest that had not been sent, made room for a newer one.
    #[error("the message was dropped: the queue was full, and it was the oldest")]
    Dropped,
    /// A packet would be larger than the server takes (MAX_PACKET_BYTES).
    #[error("the packet is larger than the limit of {limit} bytes")]
    PacketTooLarge {
        /// MAX_PACKET_BYTES.
        limit: usize,
    },
    /// The channel is not one that this request may name: `$` and `#` channels are not subscribed to,
    /// control requests go to `$` channels only, and nothing else does.
    #[error("the {request} cannot name this channel: {because}")]
    WrongChannel {
        /// What was asked.
        request: &'static str,
        /// Why it cannot.
        because: &'static str,
    },
    /// The text is no channel name.
    #[error(transparent)]
    InvalidChannel(#[from] InvalidChannel),
    /// The text is no filter for channels.
    #[error(transparent)]
    InvalidFilter(#[from] InvalidFilter),
    /// The server does not know filters (protocol.md 2.25).
    #[error("the server does not support subscriptions with wildcards")]
    FiltersNotSupported,
    /// The client has been closed, or has given up reconnecting.
    #[error("the client is closed")]
    Closed,
}

impl Error {
    /// What the publisher of a refused message is told.
    pub(crate) fn refused_publish(status: StatusCode, data: Option<&str>) -> Self {
        Self::Refused { request: "publish", status, reply: data.map(Into::into) }
    }

    /// The status code of the original clients for this error: what the server answered, or
    /// 9 NETWORK_ERROR where it did not.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        match self {
            Self::Refused { status, .. } => *status,
            Self::InvalidChannel(_) | Self::InvalidFilter(_) | Self::WrongChannel { .. } => {
                StatusCode::INVALID_CHANNEL
            }
            Self::PacketTooLarge { .. } | Self::InvalidData(_) => StatusCode::INVALID_PACKET,
            Self::AlreadySubscribed { .. } | Self::FiltersNotSupported => StatusCode::FAILED,
            _ => StatusCode::NETWORK_ERROR,
        }
    }

    /// What the server's application sent with a refusal, as JSON text: the reply of a control request (§9.d).
    #[must_use]
    pub fn reply(&self) -> Option<&str> {
        match self {
            Self::Refused { reply, .. } => reply.as_deref(),
            _ => None,
        }
    }
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Self::InvalidData(error.to_string())
    }
}

impl From<InvalidPayload> for Error {
    fn from(error: InvalidPayload) -> Self {
        Self::InvalidData(error.to_string())
    }
}

const fn word(persistence: Persistence) -> &'static str {
    match persistence {
        Persistence::Temporary => "temporary",
        Persistence::Persistent => "persistent",
    }
}

/// A step on the way to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Step {
    /// The host's name is looked up.
    Name,
    /// The TCP connection is made.
    Tcp,
    /// TLS is agreed on, and the certificate checked.
    Tls,
    /// The WebSocket is opened.
    WebSocket,
    /// `auth`: the token is asked for (§7.a).
    Auth,
    /// `conn`: the session is opened (§7.c).
    Conn,
    /// Subscriptions are made again (§9.c).
    Subscriptions,
    /// CONNECT of MQTT.
    Connect,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "name",
            Self::Tcp => "TCP",
            Self::Tls => "TLS",
            Self::WebSocket => "WebSocket",
            Self::Auth => "auth",
            Self::Conn => "conn",
            Self::Subscriptions => "subscriptions",
            Self::Connect => "CONNECT",
        })
    }
}

/// Why there is no session.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// That is no URL of a server.
    #[error(transparent)]
    Url(#[from] crate::InvalidUrl),
    /// The name is unknown, or cannot be looked up.
    #[error("cannot find the address of {host}: {source}")]
    Name {
        /// The host.
        host: String,
        /// What the resolver said.
        source: Arc<io::Error>,
    },
    /// Nobody answered at any of the host's addresses.
    #[error("cannot connect to {address}: {source}")]
    Tcp {
        /// The address, the last one that was tried.
        address: String,
        /// Why not.
        source: Arc<io::Error>,
    },
    /// A file that TLS needs cannot be used.
    #[error("{key} {}: {problem}", path.display())]
    File {
        /// The configuration key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The TLS handshake failed.
    #[error("TLS: {problem}; {hint}")]
    Tls {
        /// What is wrong.
        problem: String,
        /// What to do about it.
        hint: String,
    },
    /// The program at this address is not a JMQT server of this protocol.
    #[error("{found}; {hint}")]
    WrongServer {
        /// What answered.
        found: String,
        /// What to do about it.
        hint: String,
    },
    /// A step was not done in its time.
    #[error("{step}: no answer within {limit:?}; {hint}")]
    Timeout {
        /// Which step.
        step: Step,
        /// How long was waited.
        limit: Duration,
        /// What to do about it.
        hint: String,
    },
    /// The connection ended before there was a session.
    #[error("{step}: the connection was closed{}; {hint}", what_the_system_said(because))]
    Lost {
        /// Which step.
        step: Step,
        /// What the system said, if anything.
        because: Option<Arc<io::Error>>,
        /// What to do about it.
        hint: String,
    },
    /// The server answered `auth` or `conn` with another status than 1.
    #[error("{step}: the server answered {status}{}", said(message))]
    Refused {
        /// [`Step::Auth`] or [`Step::Conn`].
        step: Step,
        /// The status.
        status: StatusCode,
        /// What the server said beside it.
        message: String,
    },
    /// The server closed the connection before there was a session, and said why (protocol.md 2.22).
    #[error("{step}: {close}{}", port_advice(close))]
    ByServer {
        /// Which step.
        step: Step,
        /// What it said.
        close: ServerClose,
    },
    /// The application's function for credentials failed ([`Config::credentials`](crate::Config::credentials)).
    #[error("cannot get credentials: {0}")]
    Credentials(Arc<dyn std::error::Error + Send + Sync>),
    /// A value of the [`Config`](crate::Config) is out of range.
    #[error("the configuration's `{field}` is {found}; expected {expected}")]
    Config {
        /// The field.
        field: &'static str,
        /// Its value.
        found: String,
        /// What is allowed.
        expected: &'static str,
    },
    /// The server said something that JMQT does not have at this point.
    #[error("{step}: {problem}")]
    Protocol {
        /// Which step.
        step: Step,
        /// What it was.
        problem: String,
    },
    /// The client was closed before there was a session.
    #[error("the client was closed")]
    Closed,
}

/// A configuration converts into itself without fail.
impl From<Infallible> for ConnectError {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

/// A server takes packets before a session for bad ones, if they belong to another port.
fn port_advice(close: &ServerClose) -> &'static str {
    if close.code == DisconnectCode::BAD_PACKETS {
        "; the URL may have the port of another protocol: jmqt:// is 8010, jmqts:// 8011, ws:// 8012, wss:// 8013"
    } else {
        ""
    }
}

impl ConnectError {
    /// The step on the way to a session that failed; `None` for what is wrong before the first one.
    #[must_use]
    pub const fn step(&self) -> Option<Step> {
        Some(match self {
            Self::Name { .. } => Step::Name,
            Self::Tcp { .. } => Step::Tcp,
            Self::File { .. } | Self::Tls { .. } => Step::Tls,
            Self::Timeout { step, .. }
            | Self::Lost { step, .. }
            | Self::Refused { step, .. }
            | Self::ByServer { step, .. } => *step,
            _ => return None,
        })
    }

    /// Whether trying again cannot help, because it is the configuration that is wrong.
    #[must_use]
    pub fn is_final(&self) -> bool {
        match self {
            Self::Url(_) | Self::File { .. } | Self::Config { .. } | Self::Closed => true,
            // Any other status may be about the server's state. A token that is refused here was the only one.
            Self::Refused { step: Step::Conn, status, .. } => *status == StatusCode::INVALID_TOKEN,
            _ => false,
        }
    }

    /// Whether the server failed in a way that may pass at once or on another node: status 5, SERVER_ERROR, or a code
    /// that allows to reconnect.
    pub(crate) fn may_pass(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status == StatusCode::SERVER_ERROR,
            Self::ByServer { close, .. } => close.code.may_reconnect(),
            _ => false,
        }
    }

    /// What the server said when it closed the connection.
    pub(crate) fn server_close(&self) -> Option<&ServerClose> {
        match self {
            Self::ByServer { close, .. } => Some(close),
            _ => None,
        }
    }
}

fn what_the_system_said(source: &Option<Arc<io::Error>>) -> String {
    source.as_ref().map(|source| format!(" ({source})")).unwrap_or_default()
}

fn said(message: &str) -> String {
    if message.is_empty() { String::new() } else { format!(": {}", message.escape_debug()) }
}

/// Why a connection ended that had a session.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum DisconnectReason {
    /// [`Client::close`](crate::Client::close), or the last handle was dropped.
    #[error("closed by this client")]
    ByClient,
    /// The server closed the connection, and said why if it follows protocol.md 2.22.
    #[error("{}", closed_by_server(.0.as_ref()))]
    ByServer(Option<ServerClose>),
    /// The connection broke.
    #[error("the connection was lost: {0}")]
    Broken(Arc<io::Error>),
    /// Nothing came for as long as the server's `ts`, though we asked.
    #[error("no data from the server for {0:?}")]
    Silent(Duration),
    /// The server sent what JMQT does not have, or more than MAX_PACKET_BYTES in one packet.
    #[error("the server violated the protocol: {0}")]
    Protocol(String),
    /// The subscriptions could not be made again in time.
    #[error("the subscriptions were not acknowledged within {0:?}")]
    NotResumed(Duration),
    /// A stream was unread for so long that pushes had to stay with the server; it has been read
    /// now, and they are fetched.
    #[error("reconnected to fetch pushes for which there was no room")]
    Overflow,
}

impl DisconnectReason {
    /// What the server said when it closed the connection, if it did (protocol.md 2.22).
    #[must_use]
    pub const fn server_close(&self) -> Option<&ServerClose> {
        match self {
            Self::ByServer(Some(close)) => Some(close),
            _ => None,
        }
    }

    /// Whether the client reconnects by itself after this: not after [`Client::close`](crate::Client::close), and not
    /// after a code from 4500 to 4999.
    #[must_use]
    pub fn may_reconnect(&self) -> bool {
        match self {
            Self::ByClient => false,
            other => other.server_close().is_none_or(|close| close.code.may_reconnect()),
        }
    }
}

/// Why a server closed the connection, in its own words (protocol.md 2.22): from its `disconn` packet, or from the close
/// code of a WebSocket.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ServerClose {
    /// The code, which also says whether the client may reconnect by itself.
    pub code: DisconnectCode,
    /// The reason for people to read; may be empty.
    pub message: String,
    /// How long the server asks to wait before reconnecting.
    pub retry_after: Option<Duration>,
}

/// A server cannot make a client wait longer than this.
const LONGEST_WAIT_SECONDS: u32 = 86_400;

impl ServerClose {
    /// `None`: the packet says nothing of a reason.
    pub(crate) fn from_packet(packet: &jmqt_protocol::Disconn<'_>) -> Option<Self> {
        let wait = packet.retry_after_seconds.map(|seconds| seconds.min(LONGEST_WAIT_SECONDS));
        Some(Self {
            code: packet.code?,
            message: packet.message.as_deref().unwrap_or_default().to_owned(),
            retry_after: wait.map(|seconds| Duration::from_secs(u64::from(seconds))),
        })
    }

    pub(crate) const fn from_close_frame(code: u16, reason: String) -> Self {
        Self { code: DisconnectCode::new(code), message: reason, retry_after: None }
    }
}

impl fmt::Display for ServerClose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the server closed the connection with {}{}", self.code, said(&self.message))
    }
}

fn closed_by_server(close: Option<&ServerClose>) -> String {
    close.map_or_else(|| "closed by the server".to_owned(), ToString::to_string)
}
