//! A session is over, whatever the reason (§9.f, protocol.md 2.16).

use std::fmt;

use async_trait::async_trait;
use jmqt_protocol::ClientId;

use super::attached::{SessionRef, session_getters};
use super::{BoxError, ConnectionInfo};
use crate::ServerHandle;

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
            Self::SlowConsumer => "the client did not read",
            Self::NoAcknowledgements => "the client did not acknowledge",
            Self::QueueOverflow => "too much was waiting for the client",
            Self::StoreUnclear => "the store has not told whether a subscription was changed",
            Self::BadPackets => "too many bad packets in a row",
            Self::PacketTooLarge => "a packet was too large",
            Self::TryLater => "too much is being received at the moment",
            Self::TooManyRefusals => "too many auth and conn packets were refused",
            Self::TooManyAuths => "too many auth packets before conn",
            Self::TokenExpired => "the token of the session has expired",
            Self::ProtocolViolation => "the client broke the transport's rules",
            Self::ServerError => "the server failed",
            Self::ByApplication => "the application closed the connection",
            Self::Shutdown => "the server is stopping",
            Self::ServerDied => "the server process died",
        })
    }
}

/// A session that has ended.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct CloseNotice<'a> {
    /// The connection it was on.
    pub connection: ConnectionInfo,
    /// The client whose session it was.
    pub client: &'a ClientId,
    /// Why it ended.
    pub reason: CloseReason,
    /// The server's own side.
    pub server: &'a ServerHandle,
    pub(crate) session: SessionRef<'a>,
}

session_getters!(CloseNotice);

impl<'a> CloseNotice<'a> {
    pub(crate) fn new(
        connection: ConnectionInfo,
        client: &'a ClientId,
        reason: CloseReason,
        server: &'a ServerHandle,
        session: SessionRef<'a>,
    ) -> Self {
        Self { connection, client, reason, server, session }
    }
}

/// Hears of every session that ends (§9.f, protocol.md 2.16). `impl CloseNotifier for App {}` does nothing.
///
/// The `impl` needs `#[async_trait]`; without it the compiler says "lifetime parameters do not match the trait"
/// (E0195).
///
/// ```
/// use jmqt_server::*;
///
/// struct Presence;
///
/// #[async_trait]
/// impl CloseNotifier for Presence {
///     async fn on_close(&self, notice: &CloseNotice<'_>) -> Result<(), BoxError> {
///         let offline = Publish::json(ChannelName::parse("offline")?, &notice.client.as_str())?;
///         Ok(notice.server.force_pub(offline).await?)
///     }
/// }
/// ```
#[async_trait]
pub trait CloseNotifier: Send + Sync + 'static {
    /// Called once per session, whatever ended it. When the process dies, the next one that opens the
    /// same store calls it with [`CloseReason::ServerDied`]; twice for one session only if the
    /// process died inside this very call.
    ///
    /// A newer connection of the same client is not accepted before this returns or its time is up.
    ///
    /// # Errors
    /// An error, a panic, or more than VALIDATOR_TIMEOUT_SECONDS (default 10) is logged.
    async fn on_close(&self, notice: &CloseNotice<'_>) -> Result<(), BoxError> {
        let _ = notice;
        Ok(())
    }
}
