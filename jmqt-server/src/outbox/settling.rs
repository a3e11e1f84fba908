//! The operations of a session that the store has not settled: publishes, and changes of subscriptions.

use jmqt_core::StatusCode;

use super::{Outbox, Phase};
use crate::connection::CloseReason;
use crate::wire::{self, PacketId, PublishAnswer, Receipt};

/// The numbers of unsettled operations.
#[derive(Clone, Copy, Default)]
pub(super) struct Settling {
    /// QoS 1 publishes.
    publishes: u32,
    /// Changes of subscriptions.
    changes: u32,
    /// Steps of QoS 2 exchanges.
    pub(super) records: u32,
}

/// A publish that is being submitted. Dropping this without [`keep`](Self::keep) means that it was not submitted.
pub(crate) struct Submitted<'a>(Option<&'a Outbox>);

impl Submitted<'_> {
    pub(crate) fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Submitted<'_> {
    fn drop(&mut self) {
        if let Some(outbox) = self.0 {
            outbox.lock().settling.publishes -= 1;
        }
    }
}

impl Outbox {
    pub(crate) fn publish_submitted(&self) -> Submitted<'_> {
        self.lock().settling.publishes += 1;
        Submitted(Some(self))
    }

    /// Appends the acknowledgement of a settled publish, to be flushed later. Returns `true` if the caller must
    /// flush. If it is unknown whether a QoS 2 publish is stored, the connection ends without an acknowledgement, so that
    /// the client sends it again with the same packet identifier.
    pub(crate) fn settle(&self, receipt: &Receipt, answer: PublishAnswer, is_unknown: bool) -> bool {
        if is_unknown && receipt.exactly_once().is_some() {
            self.close(CloseReason::StoreUnclear);
        } else {
            self.tell(receipt, answer);
        }
        self.settled()
    }

    /// Appends the acknowledgement of a settled release. If the store has failed, the connection ends without an
    /// acknowledgement, so that the client repeats the release. Returns `true` if the caller must flush.
    pub(crate) fn settle_release(&self, packet: PacketId, is_stored: bool) -> bool {
        if is_stored {
            let was_there = self.release(packet);
            self.answer(wire::release_receipt(self.form(), packet, was_there));
        } else {
            self.close(CloseReason::StoreUnclear);
        }
        self.settled()
    }

    fn settled(&self) -> bool {
        let mut state = self.lock();
        state.settling.publishes -= 1;
        if state.settling.publishes == 0 && state.phase == Phase::Leaving {
            self.waker.wake();
        }
        state.writer.is_first_to_append()
    }

    /// Appends the answer to a publish that no task waits for. The caller must flush.
    pub(crate) fn tell(&self, receipt: &Receipt, answer: PublishAnswer) {
        let status = answer.status();
        // Before MQTT 5 an acknowledgement cannot say that the publish is not stored.
        if status == StatusCode::SERVER_ERROR && receipt.is_mqtt() && !self.form().has_reasons() {
            return self.close(CloseReason::StoreUnclear);
        }
        if let Some(id) = receipt.exactly_once()
            && !status.is_ok()
            && status != StatusCode::CLIENT_OFFLINE
        {
            self.release(id); // a refused publish is complete
        }
        self.answer(wire::receipt(self.form(), receipt, answer));
    }

    /// Returns `true` if acknowledgements of earlier publishes are outstanding (2.10, 2.16).
    pub(crate) fn has_unsettled(&self) -> bool {
        self.lock().settling.publishes > 0
    }

    /// Counts a change of subscriptions that is submitted to the store.
    pub(crate) fn change_submitted(&self) {
        self.lock().settling.changes += 1;
    }

    /// Records that the store has settled a change of subscriptions.
    pub(crate) fn change_settled(&self) {
        let mut state = self.lock();
        state.settling.changes = state.settling.changes.saturating_sub(1);
    }

    /// Returns `true` if a change of subscriptions is unsettled.
    pub(crate) fn is_changing(&self) -> bool {
        self.lock().settling.changes > 0
    }

    /// Returns `true` if the store has not settled steps of QoS 2 exchanges.
    pub(crate) fn is_recording(&self) -> bool {
        self.lock().settling.records > 0
    }

    /// Returns `true` if the store may still execute operations of this session.
    pub(crate) fn is_with_store(&self) -> bool {
        let Settling { publishes, changes, records } = self.lock().settling;
        publishes > 0 || changes > 0 || records > 0
    }
}
