//! Packets as they go over the wire, for those who look for a mistake.
//!
//! Auth data and tokens are hidden. What messages and control requests carry is shown: that is what a trace is for.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use jmqt_protocol::{Auth, AuthAck, AuthOutcome, Conn, NUL, Packet, Payload, decode};

/// What is shown in place of auth data and tokens.
const HIDDEN: &str = "(hidden)";

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// To the server.
    Sent,
    /// From the server.
    Received,
}

type Look = dyn Fn(Direction, &str) + Send + Sync;

/// The application's function for [`Config::trace`](crate::Config::trace).
#[derive(Clone)]
pub(crate) struct PacketTrace(Arc<Look>);

impl PacketTrace {
    pub(crate) fn new(look: impl Fn(Direction, &str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(look))
    }

    /// Packets that each end with NUL.
    pub(crate) fn sent(&self, portion: &[u8]) {
        for packet in portion.split(|byte| *byte == NUL).filter(|packet| !packet.is_empty()) {
            self.show(Direction::Sent, packet);
        }
    }

    pub(crate) fn received(&self, packet: &[u8]) {
        self.show(Direction::Received, packet);
    }

    fn show(&self, direction: Direction, packet: &[u8]) {
        (self.0)(direction, &without_secrets(&String::from_utf8_lossy(packet)));
    }
}

impl fmt::Debug for PacketTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PacketTrace(..)")
    }
}

fn without_secrets(text: &str) -> Cow<'_, str> {
    let shown = match decode(text) {
        Ok(Packet::Auth(_)) => {
            Packet::Auth(Auth { data: Payload::parse("\"(hidden)\"").unwrap_or(Payload::NULL) })
        }
        Ok(Packet::Conn(conn)) => Packet::Conn(Conn { token: HIDDEN.into(), ..conn }),
        Ok(Packet::AuthAck(AuthAck { outcome: AuthOutcome::Granted { client, .. } })) => {
            Packet::AuthAck(AuthAck { outcome: AuthOutcome::Granted { token: HIDDEN.into(), client } })
        }
        Ok(_) => return text.into(),
        // One that is not understood may still hold a token.
        Err(_) if ["auth", "conn", "\"at\""].iter().any(|word| text.contains(word)) => {
            return format!(
                "(a packet of {} bytes that is not understood, and may have a token)",
                text.len()
            )
            .into();
        }
        Err(_) => return text.into(),
    };
    let mut bytes = Vec::new();
    shown.encode(&mut bytes);
    String::from_utf8_lossy(&bytes).into_owned().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_auth_data_are_hidden_and_everything_else_is_shown() {
        for (packet, shown) in [
            (r#"{"auth":{"dt":{"pw":"secret"}}}"#, r#"{"auth":{"dt":"(hidden)"}}"#),
            (r#"{"conn":{"at":"secret","cl":"a","wn":8}}"#, r#"{"conn":{"at":"(hidden)","cl":"a","wn":8}}"#),
            (
                r#"{ "authAck": {"st":1,"at":"secret","cl":"a"}}"#,
                r#"{"authAck":{"st":1,"at":"(hidden)","cl":"a"}}"#,
            ),
            (r#"{"authAck":{"st":7,"mg":"no"}}"#, r#"{"authAck":{"st":7,"mg":"no"}}"#),
            (r#"{"pub":{"cn":"a","dt":1.50}}"#, r#"{"pub":{"cn":"a","dt":1.50}}"#),
            ("{bad", "{bad"),
        ] {
            assert_eq!(without_secrets(packet), shown);
        }
        for packet in [r#"{"authAck":{"st":1,"at":"secret"}}"#, r#"{"conn":{"at":"secret","#] {
            assert!(!without_secrets(packet).contains("secret"), "{packet}");
        }
    }
}
