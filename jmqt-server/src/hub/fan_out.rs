//! Offers something to all subscribers of a channel.

use std::sync::Arc;
use std::time::Instant;

use super::channels::Members;
use crate::outbox::{Outbox, Subscription};

/// The number of sessions after which a fan-out yields.
const SESSIONS_PER_TURN: usize = 256;
/// The duration of a fan-out to this many subscribers is measured.
const MANY: usize = 64;

/// Outboxes with appended bytes that have not been flushed.
#[derive(Default)]
pub(crate) struct DirtyOutboxes {
    outboxes: Vec<Arc<Outbox>>,
    /// The number of sessions since the last yield.
    offered: u32,
    yielded: bool,
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

    /// Records that the task has just yielded.
    pub(super) fn begin_turn(&mut self) {
        self.offered = 0;
    }

    /// Whether a fan-out has yielded since the last call of this function.
    pub(crate) fn take_yielded(&mut self) -> bool {
        std::mem::take(&mut self.yielded)
    }

    /// Counts work that takes about as long as one session.
    pub(super) fn spend(&mut self) {
        self.offered += 1;
    }
}

/// Offers something to each member. Members for which `offer` requests a flush are added to `dirty`. After some
/// sessions all are flushed, and the task yields.
pub(super) async fn fan_out(
    members: Option<Members>,
    dirty: &mut DirtyOutboxes,
    mut offer: impl FnMut(&Arc<Subscription>) -> bool,
) {
    let Some(members) = members else { return };
    // The clock is read only where its cost is small beside that of the fan-out.
    let measured = members.first().filter(|_| members.len() >= MANY).and_then(|first| {
        first.outbox.context.counters.measures().is_some().then(|| (Arc::clone(first), Instant::now()))
    });
    for turn in members.chunks(SESSIONS_PER_TURN) {
        for subscription in turn {
            if offer(subscription) {
                dirty.add(&subscription.outbox);
            }
        }
        dirty.offered += turn.len() as u32;
        if dirty.offered >= SESSIONS_PER_TURN as u32 {
            dirty.begin_turn();
            dirty.flush();
            tokio::task::yield_now().await;
            dirty.yielded = true;
        }
    }
    if let Some((first, began)) = measured
        && let Some(measures) = first.outbox.context.counters.measures()
    {
        measures.fan_outs.time(began.elapsed());
    }
}
