//! A client's connection: its protocol, its address, and the reason of its end.

use std::fmt;
use std::net::SocketAddr;
use std::ops::ControlFlow;

/// The protocol of a client's connection.
///
/// New protocols may be added, so a `match` needs a wildcard arm.
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
    /// MQTT over TCP, usually port 1883.
    Mqtt,
    /// MQTT over TLS, usually port 8883.
    SslMqtt,
    /// MQTT over WebSocket, usually port 8083.
    MqttWebSocket,
    /// MQTT over WebSocket and TLS, usually port 8084.
    SslMqttWebSocket,
    /// Plain TCP with the line language.
    #[cfg(test)]
    Lines,
}

/// The language of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Jmqt,
    Mqtt,
    /// Lines of text: a language for tests.
    #[cfg(test)]
    Lines,
}

impl Protocol {
    /// The four protocols of JMQT, in the order of their usual ports.
    pub const JMQT: [Self; 4] = [Self::Socket, Self::SslSocket, Self::WebSocket, Self::SslWebSocket];

    /// All protocols: the four of JMQT, then the four of MQTT, in the order of their usual ports.
    pub const ALL: [Self; 8] = [
        Self::Socket,
        Self::SslSocket,
        Self::WebSocket,
        Self::SslWebSocket,
        Self::Mqtt,
        Self::SslMqtt,
        Self::MqttWebSocket,
        Self::SslMqttWebSocket,
    ];

    /// The name, used in logs and in the store. The names of JMQT are those of the original server.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "SOCKET",
            Self::SslSocket => "SSL_SOCKET",
            Self::WebSocket => "WEB_SOCKET",
            Self::SslWebSocket => "SSL_WEB_SOCKET",
            Self::Mqtt => "MQTT",
            Self::SslMqtt => "SSL_MQTT",
            Self::MqttWebSocket => "MQTT_WEB_SOCKET",
            Self::SslMqttWebSocket => "SSL_MQTT_WEB_SOCKET",
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
            Self::Mqtt | Self::SslMqtt | Self::MqttWebSocket | Self::SslMqttWebSocket => Language::Mqtt,
            #[cfg(test)]
            Self::Lines => Language::Lines,
        }
    }

    /// MQTT over the same transport.
    pub(crate) const fn with_mqtt(self) -> Self {
        match self {
            Self::Socket => Self::Mqtt,
            Self::SslSocket => Self::SslMqtt,
            Self::WebSocket => Self::MqttWebSocket,
            Self::SslWebSocket => Self::SslMqttWebSocket,
            other => other,
        }
    }

    /// Returns `true` if the server itself encrypts the connection.
    #[must_use]
    pub const fn is_tls(self) -> bool {
        matches!(self, Self::SslSocket | Self::SslWebSocket | Self::SslMqtt | Self::SslMqttWebSocket)
    }

    /// Returns `true` if the clients speak MQTT.
    #[must_use]
    pub const fn is_mqtt(self) -> bool {
        matches!(self.language(), Language::Mqtt)
    }

    /// Returns `true` if packets are WebSocket messages.
    #[must_use]
    pub const fn is_websocket(self) -> bool {
        matches!(self, Self::WebSocket | Self::SslWebSocket | Self::MqttWebSocket | Self::SslMqttWebSocket)
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The connection of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConnectionInfo {
    /// The client's address: the peer address, or, behind one of TRUSTED_PROXIES, the address in the
    /// PROXY protocol header or in the `X-Forwarded-For` of a WebSocket request. The port is 0 if the proxy
    /// does not name it.
    pub remote: SocketAddr,
    /// The protocol of the listener; with MQTT_ON_JMQT_PORTS, that of the client.
    pub protocol: Protocol,
}

/// The result of a step that may end the connection with `Break`.
pub(crate) type Flow<T = ()> = ControlFlow<CloseReason, T>;

/// The connection continues.
pub(crate) const CONTINUE: Flow = ControlFlow::Continue(());

/// The reason of the end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum CloseReason {
    /// The client sent `disconn`.
    Disconnected,
    /// The client closed its side of the connection.
    ClosedByClient,
    /// The connection broke.
    ConnectionLost,
    /// A newer connection of the same client took over (protocol.md 2.4).
    Takeover,
    /// Nothing was received for TIMEOUT_SECONDS, or one packet took too long (protocol.md 2.15).
    IdleTimeout,
    /// The client read less than 1 KiB within SLOW_CONSUMER_SECONDS while data was queued for it.
    SlowConsumer,
    /// The client's window stayed full for 2 × TIMEOUT_SECONDS without any `pushAck` (protocol.md 2.14).
    NoAcknowledgements,
    /// The QoS 1 messages in memory exceeded the limit of the client's outbound queue (protocol.md 2.14).
    QueueOverflow,
    /// The outcome of a change to the client's persistent subscriptions is unknown: the next session reads the
    /// subscriptions from the store.
    StoreUnclear,
    /// Sixteen bad packets in a row (protocol.md 2.5).
    BadPackets,
    /// A packet larger than MAX_PACKET_BYTES (protocol.md 2.5).
    PacketTooLarge,
    /// A temporary limit was reached: incomplete packets of all connections together took too much
    /// memory, or the client's sessions were taken over too often.
    TryLater,
    /// Too many `auth` and `conn` packets were refused on this connection (protocol.md 2.1).
    TooManyRefusals,
    /// The CONNECT of an MQTT client, or the AUTH with which it authenticated again, was refused.
    LoginRefused,
    /// The client sent too many `auth` packets before a `conn`, granted or refused (protocol.md 2.1).
    TooManyAuths,
    /// The time for which the application accepted the session is over (protocol.md 2.2).
    TokenExpired,
    /// The client violated the rules of TLS or WebSocket, or sent binary WebSocket messages.
    ProtocolViolation,
    /// The server failed while it served this connection: a bug, which is logged.
    ServerError,
    /// The application closed the connection.
    ByApplication,
    /// The server is stopping.
    Shutdown,
    /// The process that served the session died; this process ended the session later.
    ServerDied,
}

impl CloseReason {
    /// All reasons, with their names in metrics.
    pub(crate) const ALL: [(Self, &'static str); 20] = [
        (Self::Disconnected, "disconnected"),
        (Self::ClosedByClient, "closed_by_client"),
        (Self::ConnectionLost, "connection_lost"),
        (Self::Takeover, "takeover"),
        (Self::IdleTimeout, "idle_timeout"),
        (Self::SlowConsumer, "slow_consumer"),
        (Self::NoAcknowledgements, "no_acknowledgements"),
        (Self::QueueOverflow, "queue_overflow"),
        (Self::StoreUnclear, "store_unclear"),
        (Self::BadPackets, "bad_packets"),
        (Self::PacketTooLarge, "packet_too_large"),
        (Self::TryLater, "try_later"),
        (Self::TooManyRefusals, "too_many_refusals"),
        (Self::TooManyAuths, "too_many_auths"),
        (Self::TokenExpired, "token_expired"),
        (Self::ProtocolViolation, "protocol_violation"),
        (Self::ServerError, "server_error"),
        (Self::ByApplication, "by_application"),
        (Self::Shutdown, "shutdown"),
        (Self::ServerDied, "server_died"),
    ];
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
            Self::LoginRefused => "its CONNECT or AUTH was refused",
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
