//! From messages to the bytes that clients get: each message once per form, however many clients take that form.
//!
//! The outbox asks for the bytes of its form. It and the hub know neither what packets look like nor how they are told
//! apart; what differs from session to session (nothing, in JMQT) is for this room too.

mod ids;
mod jmqt;
#[cfg(test)]
pub(crate) mod lines;
mod pushes;

use jmqt_core::{ChannelName, StatusCode};

use crate::message::RetainedPush;
use crate::transport::Framing;

pub(crate) use ids::IdSpace;
pub(crate) use jmqt::{Receipt, ReceiptRef, RetainedPieces, framed};
pub(crate) use pushes::{LoggedPushes, Pushes, PushesBuilder};

/// What the bytes of a client look like: its language, and how its packets are told apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// JMQT, a NUL byte behind each packet.
    JmqtNul,
    /// JMQT, a WebSocket message each.
    JmqtWebSocket,
    /// Lines of text: a language for tests.
    #[cfg(test)]
    Lines,
}

impl Form {
    const COUNT: usize = if cfg!(test) { 3 } else { 2 };

    pub(crate) const fn of_jmqt(framing: Framing) -> Self {
        match framing {
            Framing::Nul => Self::JmqtNul,
            Framing::WebSocket => Self::JmqtWebSocket,
        }
    }

    fn framing(self) -> Framing {
        match self {
            Self::JmqtNul => Framing::Nul,
            Self::JmqtWebSocket => Framing::WebSocket,
            #[cfg(test)]
            Self::Lines => Framing::Nul,
        }
    }
}

/// The answer to the publish that a receipt is for.
pub(crate) fn receipt(form: Form, receipt: &Receipt, status: StatusCode) -> Vec<u8> {
    match form {
        Form::JmqtNul | Form::JmqtWebSocket => jmqt::receipt(form, receipt, status),
        #[cfg(test)]
        Form::Lines => lines::receipt(receipt, status),
    }
}

/// A channel's retained message (§9.b).
pub(crate) fn retained(form: Form, channel: &ChannelName, retained: RetainedPush) -> RetainedPieces {
    match form {
        Form::JmqtNul | Form::JmqtWebSocket => jmqt::retained(form, channel, retained),
        #[cfg(test)]
        Form::Lines => lines::retained(channel, retained),
    }
}
