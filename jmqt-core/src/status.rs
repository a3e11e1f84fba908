//! Status codes (§8).

use std::fmt;

/// The result of a request: the `st` field of an acknowledgement (§8).
///
/// A number instead of a closed set, so that an unknown code can be received and shown. The constants are the codes
/// of the protocol.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatusCode(i32);

impl StatusCode {
    /// 1: the request was executed.
    pub const OK: Self = Self(1);
    /// 0: the request failed without a more specific reason.
    pub const FAILED: Self = Self(0);
    /// 3: known to the original clients, not sent by this server.
    pub const MALFORMED_PACKET: Self = Self(3);
    /// 5: the server or the application failed; the request may succeed later.
    pub const SERVER_ERROR: Self = Self(5);
    /// 6: the token of a `conn` is wrong or has expired.
    pub const INVALID_TOKEN: Self = Self(6);
    /// 7: the application does not allow the request.
    pub const NOT_ALLOWED: Self = Self(7);
    /// 8: the receiver of a point-to-point message is not connected. A repeated request is not expected to succeed.
    pub const CLIENT_OFFLINE: Self = Self(8);
    /// 9: used by a client towards its own application, never sent.
    pub const NETWORK_ERROR: Self = Self(9);
    /// 10: a field is missing or has the wrong type.
    pub const INVALID_PACKET: Self = Self(10);
    /// 11: the channel name is invalid, or not allowed in this request.
    pub const INVALID_CHANNEL: Self = Self(11);
    /// -1: known to the original clients, not sent by this server.
    pub const UNKNOWN: Self = Self(-1);

    /// Makes a code from its number; any number is allowed.
    #[must_use]
    pub const fn new(code: i32) -> Self {
        Self(code)
    }

    /// The number on the wire.
    #[must_use]
    pub const fn code(self) -> i32 {
        self.0
    }

    /// Returns `true` for [`StatusCode::OK`].
    #[must_use]
    pub const fn is_ok(self) -> bool {
        self.0 == Self::OK.0
    }

    /// The name of the code in the specification, or `None` for a number that it does not list.
    #[must_use]
    pub const fn name(self) -> Option<&'static str> {
        Some(match self {
            Self::OK => "OK",
            Self::FAILED => "FAILED",
            Self::MALFORMED_PACKET => "MALFORMED_PACKET",
            Self::SERVER_ERROR => "SERVER_ERROR",
            Self::INVALID_TOKEN => "INVALID_TOKEN",
            Self::NOT_ALLOWED => "NOT_ALLOWED",
            Self::CLIENT_OFFLINE => "CLIENT_OFFLINE",
            Self::NETWORK_ERROR => "NETWORK_ERROR",
            Self::INVALID_PACKET => "INVALID_PACKET",
            Self::INVALID_CHANNEL => "INVALID_CHANNEL",
            Self::UNKNOWN => "UNKNOWN",
            _ => return None,
        })
    }
}

impl fmt::Display for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => write!(f, "{} {name}", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

impl fmt::Debug for StatusCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
