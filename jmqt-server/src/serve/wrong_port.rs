//! What the operator learns of a client that has the wrong port.

use crate::connection::ConnectionInfo;
use crate::context::Shared;
use crate::log_limit::LogLimit;
use crate::transport::{Foreign, key_of};

/// Counts the client, and logs where it should connect, once a minute for each kind. `is_encrypted`: the client has agreed on
/// TLS with the port.
pub(crate) fn note_wrong_port(shared: &Shared, info: ConnectionInfo, arrived: Foreign, is_encrypted: bool) {
    static LIMITS: [LogLimit; Foreign::KINDS] = [const { LogLimit::new() }; Foreign::KINDS];
    shared.hub.counters.wrong_ports.increment();
    if let Some(left_out) = LIMITS.get(arrived as usize).and_then(LogLimit::permit) {
        let ConnectionInfo { remote, protocol } = info;
        let (port, advice) = (key_of(protocol), arrived.advice(protocol, is_encrypted));
        tracing::info!(target: "jmqt::session", left_out, %remote, "refused: {arrived} came to the port of {port}. {advice}");
    }
}
