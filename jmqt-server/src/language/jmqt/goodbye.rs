//! `disconn` of the server: why it closes a connection (protocol.md 2.22).

use crate::disconnect::Disconnect;
use crate::session::Session;
use crate::wire;

/// The last packet that a client is sent.
pub(in crate::language) fn goodbye(session: &Session, disconnect: &Disconnect) -> Vec<u8> {
    wire::framed(session.outbox.form, &disconnect.packet())
}
