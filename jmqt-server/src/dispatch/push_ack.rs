//! `pushAck` (§7.n, protocol.md 2.14).

use jmqt_protocol::PushAck;

use super::CONTINUE;
use crate::session::{Core, Flow};

impl Core {
    /// Whatever its status: the client has had the message. What the ack makes room for is sent at the
    /// end of the batch.
    pub(super) fn handle_push_ack(&mut self, ack: &PushAck<'_>) -> Flow {
        let id = self.outbox.context.ids.parse(&ack.id);
        if !id.is_some_and(|id| self.outbox.acknowledge(id)) {
            self.shared.hub.counters.acks_ignored.increment();
        }
        CONTINUE
    }
}
