//! A client's connection: how it is connected, from where, and why it ends.

use std::fmt;
use std::net::SocketAddr;
use std::ops::ControlFlow;

/// How a client is connected.
///
/// More may come, so a `match` needs an arm for those that are not listed here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Protocol {
    /// Plain TCP, port 8010 by default.
    Socket,
    /// TLS over TCP, port 8011 by default.
    SslSocket,
    /// WebSocket, port 8012 by default.
    WebSocket,
    /// WebSocket over TLS, port 8013 by default.
    SslWebSocket,
    /// Plain TCP, on which clients speak lines of text.
    #[cfg(test)]
    Lines,
}

/// What a client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Jmqt,
    /// Lines of text: a language for tests.
    #[cfg(test)]
    Lines,
}

impl Protocol {
    /// The four over which clients speak JMQT, in the order of their default ports.
    pub const ALL: [Self; 4] = [Self::Socket, Self::SslSocket, Self::WebSocket, Self::SslWebSocket];

    /// The name the original server gives it, as it is logged and stored.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "SOCKET",
            Self::SslSocket => "SSL_SOCKET",
            Self::WebSocket => "WEB_SOCKET",
            Self::SslWebSocket => "SSL_WEB_SOCKET",
            #[cfg(test)]
            Self::Lines => "LINES",
        }
    }

    pub(crate) fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|protocol| protocol.as_str() == name)
    }

    pub(crate) const fn language(self) -> Language {
        match self {
            Self::Socket | Self::SslSocket | Self::WebSocket | Self::SslWebSocket => Language::Jmqt,
            #[cfg(test)]
            Self::Lines => Language::Lines,
        }
    }

    /// Whether it is encrypted by the server itself.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::SslSocket | Self::SslWebSocket)
    }

    /// Whether packets come in WebSocket messages.
    #[must_use]
    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::WebSocket | Self::SslWebSocket)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The connection a request came over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The client's address: that of the other end, or, behind one of TRUSTED_PROXIES, the one that the
    /// PROXY protocol header names, or that `X-Forwarded-For` names in the request of a WebSocket. An address from
    /// there has port 0 unless the proxy said more.
    pub remote: SocketAddr,
    /// Which of the four listeners it came to.
    pub protocol: Protocol,
}

/// What became of something that may end the connection: `Break` does.
pub(crate) type Flow<T = ()> = ControlFlow<CloseReason, T>;

/// The connection goes on.
pub(crate) const CONTINUE: Flow = ControlFlow::Continue(());

/// Why a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client sent `disconn`.
    Disconnected,
    /// The client closed its side of the connection.
    ClosedByClient,
    /// The connection broke.
    ConnectionLost,
    /// A newer connection of the same client won (protocol.md 2.4).
    Takeover,
    /// Nothing was received for TIMEOUT_SECONDS, or one packet took too long (protocol.md 2.15).
    IdleTimeout,
    /// It took less than 1 KiB in SLOW_CONSUMER_SECONDS while something was waiting for it.
    SlowConsumer,
    /// Its window stayed full for 2 × TIMEOUT_SECONDS without any `pushAck` (protocol.md 2.14).
    NoAcknowledgements,
    /// More QoS 1 messages waited for it in memory than its outbound queue may hold (protocol.md 2.14).
    QueueOverflow,
    /// The store has not told whether a change to its persistent subscriptions was made: the next session
    /// finds out.
    StoreUnclear,
    /// Sixteen bad packets in a row (protocol.md 2.5).
    BadPackets,
    /// A packet larger than MAX_PACKET_BYTES (protocol.md 2.5).
    PacketTooLarge,
    /// A limit was reached that may have room later: half-received packets of all connections together took more
    /// memory than they may, or the client's sessions were taken over too often.
    TryLater,
    /// Too many `auth` and `conn` packets were refused on this connection (protocol.md 2.1).
    TooManyRefusals,
    /// It sent too many `auth` packets before a `conn`, granted or not (protocol.md 2.1).
    TooManyAuths,
    /// The time is over for which the application accepted the session (protocol.md 2.2).
    TokenExpired,
    /// It broke the rules of TLS or WebSocket, or sent binary WebSocket messages.
    ProtocolViolation,
    /// The server failed while it served this connection: a bug, which the log tells of.
    ServerError,
    /// The application asked for it.
    ByApplication,
    /// The server is stopping.
    Shutdown,
    /// The process that served it died; this one found what it left behind.
    ServerDied,
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disconnected => "the client disconnected",
            Self::ClosedByClient => "the client closed the connection",
            Self::ConnectionLost => "the connection was lost",
            Self::Takeover => "a newer connection of the same client took over",
            Self::IdleTimeout => "nothing was received in time",
            Self::SlowConsumer => "the client read too slowly",
            Self::NoAcknowledgements => "the client did not acknowledge",
            Self::QueueOverflow => "too much data was queued for the client",
            Self::StoreUnclear => "the outcome of a subscription change is unknown",
            Self::BadPackets => "too many bad packets in a row",
            Self::PacketTooLarge => "a packet was too large",
            Self::TryLater => "the server is receiving too much data",
            Self::TooManyRefusals => "too many auth and conn packets were refused",
            Self::TooManyAuths => "too many auth packets before conn",
            Self::TokenExpired => "the token of the session has expired",
            Self::ProtocolViolation => "the client violated the transport protocol",
            Self::ServerError => "the server failed",
            Self::ByApplication => "the application closed the connection",
            Self::Shutdown => "the server is stopping",
            Self::ServerDied => "the server process died",
        })
    }
}
