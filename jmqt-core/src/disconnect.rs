//! The reasons why a server closes a connection (protocol.md 2.22).

use std::fmt;

/// The `st` of a `disconn` that the server sends, and the WebSocket close code beside it (protocol.md 2.22).
///
/// 4000 to 4499: the client may reconnect by itself. 4500 to 4999: it must not, until a person or the
/// application asks for it. A code that this version does not know keeps its number and its range.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct DisconnectCode(u16);

impl DisconnectCode {
    /// 4000: the server is stopping.
    pub const SHUTDOWN: Self = Self(4000);
    /// 4001: this node hands its sessions over to other nodes.
    pub const DRAIN: Self = Self(4001);
    /// 4002: nothing was received in time (protocol.md 2.15).
    pub const IDLE: Self = Self(4002);
    /// 4003: the client did not read the data that was sent to it.
    pub const SLOW: Self = Self(4003);
    /// 4004: the client did not acknowledge QoS 1 pushes (protocol.md 2.14).
    pub const NO_ACKNOWLEDGEMENTS: Self = Self(4004);
    /// 4005: the server, its database or its application failed.
    pub const SERVER_ERROR: Self = Self(4005);
    /// 4006: a temporary limit, for example a rate.
    pub const TRY_LATER: Self = Self(4006);
    /// 4007: the token of the session has expired; a new one is needed.
    pub const TOKEN_EXPIRED: Self = Self(4007);
    /// 4008: the application closed the connection, and the client may reconnect.
    pub const BY_APPLICATION: Self = Self(4008);
    /// 4500: a newer connection of the same client took over (protocol.md 2.4).
    pub const TAKEOVER: Self = Self(4500);
    /// 4501: too many bad packets in a row, or the rules of the transport were broken (protocol.md 2.5).
    pub const BAD_PACKETS: Self = Self(4501);
    /// 4502: a packet was larger than the server allows (protocol.md 2.5).
    pub const PACKET_TOO_LARGE: Self = Self(4502);
    /// 4503: the application closed the connection, and the client must not reconnect by itself.
    pub const KICKED: Self = Self(4503);
    /// 4504: too many refused `auth` and `conn` packets on one connection.
    pub const TOO_MANY_REFUSALS: Self = Self(4504);

    /// Makes a code from its number; any number is allowed.
    #[must_use]
    pub const fn new(code: u16) -> Self {
        Self(code)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> u16 {
        self.0
    }

    /// Returns `true` if the client may reconnect by itself: for all numbers except 4500 to 4999.
    #[must_use]
    pub const fn may_reconnect(self) -> bool {
        !matches!(self.0, 4500..=4999)
    }

    /// The name of the code, or `None` for a number that this version does not know.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::SHUTDOWN => "SHUTDOWN",
            Self::DRAIN => "DRAIN",
            Self::IDLE => "IDLE",
            Self::SLOW => "SLOW",
            Self::NO_ACKNOWLEDGEMENTS => "NO_ACKNOWLEDGEMENTS",
            Self::SERVER_ERROR => "SERVER_ERROR",
            Self::TRY_LATER => "TRY_LATER",
            Self::TOKEN_EXPIRED => "TOKEN_EXPIRED",
            Self::BY_APPLICATION => "BY_APPLICATION",
            Self::TAKEOVER => "TAKEOVER",
            Self::BAD_PACKETS => "BAD_PACKETS",
            Self::PACKET_TOO_LARGE => "PACKET_TOO_LARGE",
            Self::KICKED => "KICKED",
            Self::TOO_MANY_REFUSALS => "TOO_MANY_REFUSALS",
            _ => return None,
        })
    }
}

impl fmt::Display for DisconnectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} {name}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for DisconnectCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // protocol.md 2.22
    fn the_range_of_an_unknown_code_says_whether_to_reconnect() {
        for (code, may_reconnect) in [(4000, true), (4499, true), (4500, false), (4999, false), (1001, true)]
        {
            assert_eq!(DisconnectCode::new(code).may_reconnect(), may_reconnect, "{code}");
        }
        assert_eq!(DisconnectCode::new(4777).name(), None);
    }
}
