//! What the store has not settled of a session: its publishes, and changes of its subscriptions.

use jmqt_core::StatusCode;

use super::{Outbox, Phase};
use crate::wire::{self, Receipt};

/// How many of each.
#[derive(Clone, Copy, Default)]
pub(super) struct Settling {
    /// QoS 1 publishes.
    publishes: u32,
    /// Changes of subscriptions.
    changes: u32,
}

/// A publish that is being submitted: dropped without [`keep`](Self::keep), it was not.
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

    /// Appends the acknowledgement of a publish that is settled; flushed later. `true` if the caller is the
    /// one to flush.
    pub(crate) fn settle(&self, receipt: &Receipt, status: StatusCode) -> bool {
        self.tell(receipt, status);
        let mut state = self.lock();
        state.settling.publishes -= 1;
        if state.settling.publishes == 0 && state.phase == Phase::Leaving {
            self.waker.wake();
        }
        state.writer.is_first_to_append()
    }

    /// Appends the answer to a publish that nobody waits for; flushed by the caller.
    pub(crate) fn tell(&self, receipt: &Receipt, status: StatusCode) {
        self.answer(wire::receipt(self.form, receipt, status));
    }

    /// Whether acknowledgements of earlier publishes are still to come (2.10, 2.16).
    pub(crate) fn has_unsettled(&self) -> bool {
        self.lock().settling.publishes > 0
    }

    /// A change of this session's subscriptions goes to the store.
    pub(crate) fn change_submitted(&self) {
        self.lock().settling.changes += 1;
    }

    /// The store has settled it.
    pub(crate) fn change_settled(&self) {
        let mut state = self.lock();
        state.settling.changes = state.settling.changes.saturating_sub(1);
    }

    /// Whether a change of its subscriptions is with the store.
    pub(crate) fn is_changing(&self) -> bool {
        self.lock().settling.changes > 0
    }

    /// Whether the store may still have something to do for this session.
    pub(crate) fn is_with_store(&self) -> bool {
        let Settling { publishes, changes } = self.lock().settling;
        publishes > 0 || changes > 0
    }
}
