//! From messages to the bytes that clients get: each message once per form, however many clients take that form.
//!
//! The outbox asks for the bytes of its form. It and the hub know neither what packets look like nor how they are told
//! apart; what differs from session to session (nothing, in JMQT) is for this room too.

mod ids;
mod jmqt;
mod pushes;

use std::ops::Range;

use bytes::Bytes;

use crate::message::Pieces;
use crate::transport::Framing;

pub(crate) use ids::IdSpace;
pub(crate) use jmqt::{Receipt, RetainedPieces, framed, receipt, retained};
pub(crate) use pushes::{LoggedPushes, Pushes, PushesBuilder};

/// A piece of less than one in so many of a buffer is copied rather than shared, if it has to wait: what a client
/// keeps in memory is at most so many times what is counted.
const SHARED_PART: usize = 4;

/// What the bytes of a client look like: its language, and how its packets are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// JMQT, a NUL byte behind each packet.
    JmqtNul,
    /// JMQT, a WebSocket message each.
    JmqtWebSocket,
}

impl Form {
    const COUNT: usize = 2;

    pub(crate) fn of_jmqt(framing: Framing) -> Self {
        match framing {
            Framing::Nul => Self::JmqtNul,
            Framing::WebSocket => Self::JmqtWebSocket,
        }
    }

    fn framing(self) -> Framing {
        match self {
            Self::JmqtNul => Framing::Nul,
            Self::JmqtWebSocket => Framing::WebSocket,
        }
    }
}

impl Pieces {
    /// Consecutive pieces, to be kept for a while: a part of the buffer, or a copy where that would keep
    /// a much larger buffer alive.
    pub(crate) fn cut(&self, pieces: Range<usize>) -> Bytes {
        let bytes = self.start(pieces.start)..self.start(pieces.end);
        if bytes.len() * SHARED_PART < self.bytes.len() {
            return Bytes::copy_from_slice(&self.bytes[bytes]);
        }
        self.bytes.slice(bytes)
    }
}
