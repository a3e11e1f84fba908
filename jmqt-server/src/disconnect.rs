//! The disconnect reason that the server sends when it closes a connection (protocol.md 2.22).

use std::time::Duration;

use jmqt_core::DisconnectCode;

use crate::connection::{CloseReason, ConnectionInfo};

/// The longest message for a client, in bytes.
const MESSAGE_BYTES: usize = 512;

/// The disconnect reason that the server sends when it closes a connection: a code that decides if the client may
/// reconnect by itself, a message for people, and a delay (protocol.md 2.22). For
/// [`ServerHandle::disconnect_with`](crate::ServerHandle::disconnect_with).
///
/// ```
/// use std::time::Duration;
/// use jmqt_server::Disconnect;
///
/// let for_good = Disconnect::kick("your account was closed");
/// let for_now = Disconnect::by_application("the game restarts").retry_after(Duration::from_secs(5));
/// assert!(!for_good.code().may_reconnect() && for_now.code().may_reconnect());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    code: DisconnectCode,
    message: Box<str>,
    retry_after_seconds: Option<u32>,
}

impl Disconnect {
    /// 4503 KICKED: the client does not reconnect by itself. `message` is for people, and is cut to
    /// 512 bytes.
    #[must_use]
    pub fn kick(message: impl Into<String>) -> Self {
        Self::new(DisconnectCode::KICKED, message)
    }

    /// 4008 BY_APPLICATION: the client may reconnect by itself. `message` is for people, and is cut to
    /// 512 bytes.
    #[must_use]
    pub fn by_application(message: impl Into<String>) -> Self {
        Self::new(DisconnectCode::BY_APPLICATION, message)
    }

    /// Sets how long the client should wait before it reconnects, in whole seconds, rounded up. Without this, the client
    /// chooses the delay.
    #[must_use]
    pub fn retry_after(mut self, time: Duration) -> Self {
        let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
        self.retry_after_seconds = Some(u32::try_from(seconds).unwrap_or(u32::MAX));
        self
    }

    /// The code, which decides if the client may reconnect by itself.
    #[must_use]
    pub const fn code(&self) -> DisconnectCode {
        self.code
    }

    /// The message for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The seconds that the client should wait before it reconnects; `None`: the client chooses the delay.
    #[must_use]
    pub const fn retry_after_seconds(&self) -> Option<u32> {
        self.retry_after_seconds
    }

    pub(crate) fn new(code: DisconnectCode, message: impl Into<String>) -> Self {
        let mut message = message.into();
        message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
        Self { code, message: message.into(), retry_after_seconds: None }
    }

    pub(crate) fn from_parts(
        code: DisconnectCode,
        message: String,
        retry_after_seconds: Option<u32>,
    ) -> Self {
        Self { retry_after_seconds, ..Self::new(code, message) }
    }

    /// The reason when the application gives none.
    pub(crate) fn usual() -> Self {
        Self::by_application(CloseReason::ByApplication.to_string())
    }

    /// A newer connection of the client took over; the message names it if it is known.
    pub(crate) fn takeover(by: Option<ConnectionInfo>) -> Self {
        let mut message = "another connection of this client took over".to_owned();
        if let Some(ConnectionInfo { remote, protocol }) = by {
            let kind = if protocol.is_websocket() { "WebSocket" } else { "TCP" };
            message.push_str(&format!(" ({kind} from {})", remote.ip().to_canonical()));
        }
        Self::new(DisconnectCode::TAKEOVER, message)
    }

    /// The client's sessions were taken over too often; the next takeover is allowed after `wait`.
    pub(crate) fn too_many_takeovers(wait: Duration) -> Self {
        Self::new(DisconnectCode::TRY_LATER, "this client connects too often").retry_after(wait)
    }

    /// Other nodes have taken over the sessions of this node, because they considered it dead.
    pub(crate) fn node_was_cut_off() -> Self {
        Self::new(DisconnectCode::SERVER_ERROR, "this node was cut off from its cluster")
    }

    /// The default disconnect reason of a close reason; `None` if no `disconn` is sent.
    pub(crate) fn because(reason: CloseReason) -> Option<Self> {
        let code = match reason {
            CloseReason::Disconnected
            | CloseReason::ClosedByClient
            | CloseReason::ConnectionLost
            | CloseReason::ServerDied => return None,
            CloseReason::Takeover => return Some(Self::takeover(None)),
            CloseReason::IdleTimeout => DisconnectCode::IDLE,
            CloseReason::SlowConsumer | CloseReason::QueueOverflow => DisconnectCode::SLOW,
            CloseReason::NoAcknowledgements => DisconnectCode::NO_ACKNOWLEDGEMENTS,
            CloseReason::TooManyRefusals | CloseReason::TooManyAuths | CloseReason::LoginRefused => {
                DisconnectCode::TOO_MANY_REFUSALS
            }
            CloseReason::TokenExpired => DisconnectCode::TOKEN_EXPIRED,
            CloseReason::TryLater => DisconnectCode::TRY_LATER,
            CloseReason::StoreUnclear | CloseReason::ServerError => DisconnectCode::SERVER_ERROR,
            CloseReason::BadPackets | CloseReason::ProtocolViolation => DisconnectCode::BAD_PACKETS,
            CloseReason::PacketTooLarge => DisconnectCode::PACKET_TOO_LARGE,
            CloseReason::ByApplication => DisconnectCode::BY_APPLICATION,
            CloseReason::Shutdown => DisconnectCode::SHUTDOWN,
        };
        Some(Self::new(code, reason.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_message_is_cut_between_characters() {
        let disconnect = Disconnect::kick("é".repeat(300));
        assert_eq!(disconnect.message(), "é".repeat(256));
        let disconnect = Disconnect::kick(format!("a{}", "é".repeat(300)));
        assert_eq!(disconnect.message(), format!("a{}", "é".repeat(255)));
    }

    #[test]
    fn a_delay_is_rounded_up_to_whole_seconds() {
        for (time, seconds) in [(0, 0), (1, 1), (1000, 1), (1001, 2)] {
            let disconnect = Disconnect::by_application("").retry_after(Duration::from_millis(time));
            assert_eq!(disconnect.retry_after_seconds(), Some(seconds));
        }
    }

    #[test] // protocol.md 2.22
    fn a_takeover_names_the_other_connection() {
        let by = |address: &str, protocol| {
            let info = ConnectionInfo { remote: address.parse().unwrap(), protocol };
            Disconnect::takeover(Some(info)).message().to_owned()
        };
        use crate::connection::Protocol;
        assert_eq!(
            by("[::ffff:192.0.2.7]:9", Protocol::SslWebSocket),
            "another connection of this client took over (WebSocket from 192.0.2.7)"
        );
        assert_eq!(
            by("[2001:db8::1]:9", Protocol::Socket),
            "another connection of this client took over (TCP from 2001:db8::1)"
        );
    }
}
