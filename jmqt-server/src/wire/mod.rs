//! From messages to the bytes that clients get: each message once per form, however many clients take that form.
//!
//! The outbox asks for the bytes of its form. It and the hub know neither what packets look like nor how they are told
//! apart; what differs from session to session (nothing, in JMQT) is for this room too.

mod ids;
mod jmqt;
mod pushes;

use crate::transport::Framing;

pub(crate) use ids::IdSpace;
pub(crate) use jmqt::{Receipt, ReceiptRef, RetainedPieces, framed, receipt, retained};
pub(crate) use pushes::{LoggedPushes, Pushes, PushesBuilder};

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
