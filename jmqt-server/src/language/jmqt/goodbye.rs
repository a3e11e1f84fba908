//! The server's `disconn`, with the reason for closing a connection (protocol.md 2.22).

use jmqt_protocol::{Disconn, Packet};

use crate::disconnect::Disconnect;
use crate::session::Session;
use crate::wire;

/// The last packet to a client.
pub(in crate::language) fn goodbye(session: &Session, disconnect: &Disconnect) -> Vec<u8> {
    let packet = Packet::Disconn(Disconn {
        code: Some(disconnect.code()),
        message: Some(disconnect.message().into()),
        retry_after_seconds: disconnect.retry_after_seconds(),
    });
    wire::framed(session.outbox.form(), &packet)
}
