//! Encodes messages: each message once per form, for any number of clients.
//!
//! The outbox requests the bytes in its form. The outbox and the hub know neither the packets nor their framing.
//! Differences between sessions (JMQT has none) belong to this room too.

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

/// The encoding that a client receives: its language, and the framing of its packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// JMQT with a NUL byte after each packet.
    JmqtNul,
    /// JMQT with a WebSocket message per packet.
    JmqtWebSocket,
    /// Lines of text, a language for tests.
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

/// Encodes the answer to the publish of a receipt.
pub(crate) fn receipt(form: Form, receipt: &Receipt, status: StatusCode) -> Vec<u8> {
    match form {
        Form::JmqtNul | Form::JmqtWebSocket => jmqt::receipt(form, receipt, status),
        #[cfg(test)]
        Form::Lines => lines::receipt(receipt, status),
    }
}

/// Encodes a channel's retained message (§9.b).
pub(crate) fn retained(form: Form, channel: &ChannelName, retained: RetainedPush) -> RetainedPieces {
    match form {
        Form::JmqtNul | Form::JmqtWebSocket => jmqt::retained(form, channel, retained),
        #[cfg(test)]
        Form::Lines => lines::retained(channel, retained),
    }
}
