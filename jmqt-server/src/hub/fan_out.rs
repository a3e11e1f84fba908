//! Handing something to all subscribers of a channel.

use std::sync::Arc;

use super::channels::Members;
use crate::outbox::{Outbox, Subscription};

/// After so many sessions a fan-out lets other tasks run.
const SESSIONS_PER_TURN: usize = 256;

/// Outboxes with something appended and not yet flushed.
#[derive(Default)]
pub(crate) struct DirtyOutboxes {
    outboxes: Vec<Arc<Outbox>>,
    /// How many sessions have been offered something since others had a turn.
    offered: usize,
}

impl DirtyOutboxes {
    pub(crate) fn is_empty(&self) -> bool {
        self.outboxes.is_empty()
    }

    pub(crate) fn add(&mut self, outbox: &Arc<Outbox>) {
        self.outboxes.push(Arc::clone(outbox));
    }

    pub(crate) fn flush(&mut self) {
        for outbox in self.outboxes.drain(..) {
            outbox.flush();
        }
        self.outboxes.shrink_to(SESSIONS_PER_TURN * 4); // what a large batch took
    }

    /// Others have just had their turn.
    pub(super) fn begin_turn(&mut self) {
        self.offered = 0;
    }

    /// Something was done that takes about as long as one session.
    pub(super) fn spend(&mut self) {
        self.offered += 1;
    }
}

/// Offers something to each of the members. Those to whom `offer` answers that the caller is to flush are added to
/// `dirty`. After some sessions everything is flushed, and others have a turn.
pub(super) async fn fan_out(
    members: Option<Members>,
    dirty: &mut DirtyOutboxes,
    mut offer: impl FnMut(&Arc<Subscription>) -> bool,
) {
    let Some(members) = members else { return };
    for turn in members.chunks(SESSIONS_PER_TURN) {
        for subscription in turn {
            if offer(subscription) {
                dirty.add(&subscription.outbox);
            }
        }
        dirty.offered += turn.len();
        if dirty.offered >= SESSIONS_PER_TURN {
            dirty.begin_turn();
            dirty.flush();
            tokio::task::yield_now().await;
        }
    }
}
