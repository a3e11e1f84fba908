//! Moved cursors, and acknowledgements that arrived before their messages were repeated.

use std::sync::{Arc, PoisonError};

use super::Outbox;
use super::subscription::{LogState, Subscription};
use crate::store::{ChannelKey, CursorUpdate, Sent, Stamp};

/// What a session has to write to the store.
#[derive(Default)]
pub(crate) struct Moved {
    pub(crate) cursors: Vec<CursorUpdate>,
    /// The QoS 2 exchanges that are complete.
    pub(crate) complete: Vec<Sent>,
}

impl Outbox {
    pub(super) fn list_moved_cursors(self: &Arc<Self>) {
        let mut moved = self.context.moved_cursors.lock().unwrap_or_else(PoisonError::into_inner);
        moved.push(Arc::clone(self));
    }

    /// Takes the acknowledgements whose messages have not been read yet, by channel.
    pub(crate) fn take_early_acks(&self) -> Vec<(ChannelKey, Vec<(u64, Stamp)>)> {
        let state = self.lock();
        let Some(window) = state.deliveries.made_window() else { return Vec::new() };
        let of_subscription = |subscription: &Arc<Subscription>| match &mut *subscription.log() {
            LogState::Attached(position) => Some((position.key, position.stamps.take_all_early())),
            _ => None,
        };
        let all = window.by_key.values().filter_map(of_subscription);
        all.filter(|(_, early)| !early.is_empty()).collect()
    }

    /// Records early acknowledgements that match messages of the log.
    pub(crate) fn confirm_early_acks(&self, key: ChannelKey, seqs: &[u64]) {
        let state = self.lock();
        let Some(subscription) = state.deliveries.made_window().and_then(|window| window.by_key.get(&key))
        else {
            return;
        };
        if let LogState::Attached(position) = &mut *subscription.log() {
            for seq in seqs {
                position.dirty |= position.acked.insert(*seq);
            }
        }
    }

    /// Takes the cursors that have moved since the last call, to write them to the store, and the records of exchanges that
    /// can be deleted afterwards.
    pub(crate) fn take_moved(&self) -> Moved {
        let mut moved = Moved::default();
        let mut state = self.lock();
        state.deliveries.cursors_listed = false;
        let Some(window) = state.deliveries.made_window_mut() else { return moved };
        if let Some(ids) = &mut window.packet_ids {
            if ids.has_resumed() {
                let by_key = &window.by_key;
                ids.forget_passed(|key, seq| {
                    match by_key.get(&key).map(|subscription| subscription.log()).as_deref() {
                        Some(LogState::Attached(position)) => !position.acked.contains(seq),
                        Some(_) => true,
                        None => false,
                    }
                });
            }
            moved.complete = ids.take_complete();
        }
        for subscription in window.by_key.values() {
            if let LogState::Attached(position) = &mut *subscription.log()
                && std::mem::take(&mut position.dirty)
            {
                moved.cursors.push(CursorUpdate {
                    client: subscription.client.clone(),
                    key: position.key,
                    cursor: position.acked.to_stored(),
                });
            }
        }
        moved
    }
}
