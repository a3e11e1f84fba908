//! Messages that a session reads from the log: after a reconnect, and after its window was full.

use std::sync::Arc;

use super::Outbox;
use super::deliveries::list_if_behind;
use super::subscription::{LogState, Stage, Subscription};
use crate::store::{ChannelKey, Seq};

/// A part of the log that a session must read.
pub(crate) struct Missing {
    pub(crate) subscription: Arc<Subscription>,
    pub(crate) key: ChannelKey,
    pub(crate) after: u64,
    /// The last message that is known to be in the log.
    pub(crate) seen: u64,
    pub(crate) count: usize,
}

impl Outbox {
    /// Returns `true` if the log has messages for this client, there is room for them, and no task reads them yet.
    pub(crate) fn wants_resume(&self) -> bool {
        let state = self.lock();
        state.closed().is_none()
            && !self.is_full(&state)
            && state.deliveries.made_window().is_some_and(|window| {
                let has_work = match window.is_sending_again {
                    true => window.room_for_again() > 0,
                    false => !window.behind.is_empty() && window.room_for_logged(0) > 0,
                };
                !window.resuming && has_work
            })
    }

    /// Makes the caller the reader, who calls [`next_missing`](Self::next_missing) until it returns `None`. Returns
    /// `false` if there is another reader.
    pub(crate) fn begin_resume(&self) -> bool {
        let mut state = self.lock();
        state
            .deliveries
            .made_window_mut()
            .is_some_and(|window| !std::mem::replace(&mut window.resuming, true))
    }

    /// The next part to read; subscriptions that are behind take turns. Returns `None` if nothing can be sent now,
    /// which also ends the resume.
    pub(crate) fn next_missing(&self) -> Option<Missing> {
        let mut state = self.lock();
        let full = state.closed().is_some() || self.is_full(&state);
        let window = state.deliveries.made_window_mut()?;
        let room = window.room_for_logged(0);
        let mut turns = window.behind.len();
        while !full && room > 0 && turns > 0 {
            turns -= 1;
            let share = window.share_of_one_behind();
            let subscription = window.behind.pop_front()?;
            let mut log = subscription.log();
            let LogState::Attached(position) = &mut *log else { continue };
            if !position.is_behind() {
                position.listed = false;
                continue;
            }
            if subscription.stage() == Stage::Opening {
                drop(log);
                window.behind.push_back(subscription);
                continue; // after its `subAck`, when the session resumes
            }
            let within_horizon = position.acked.horizon().saturating_sub(position.next - 1);
            let redelivery = position.next <= position.pending_until;
            let own_room = window.room_for_logged(position.in_flight);
            let must_wait = window.next_must_wait(position);
            let count = share.saturating_sub(position.in_flight as usize).clamp(1, room).min(own_room);
            let missing = Missing {
                subscription: Arc::clone(&subscription),
                key: position.key,
                after: position.next - 1,
                seen: position.seen,
                count: count.min(usize::try_from(within_horizon).unwrap_or(usize::MAX)),
            };
            drop(log);
            window.behind.push_back(subscription);
            if missing.count > 0 && !must_wait && (!redelivery || window.has_room_for_redelivery(1)) {
                return Some(missing);
            }
        }
        window.resuming = false;
        None
    }

    /// Excludes a subscription whose log cannot be read from resumes until [`unpark`](Self::unpark). It stays in the
    /// list of subscriptions that are behind, so it is not added again.
    pub(crate) fn park(&self, subscription: &Arc<Subscription>) {
        if let Some(window) = self.lock().deliveries.made_window_mut() {
            window.behind.retain(|behind| !Arc::ptr_eq(behind, subscription));
        }
    }

    /// Includes the subscription in resumes again.
    pub(crate) fn unpark(&self, subscription: &Arc<Subscription>) {
        let mut state = self.lock();
        let Some(window) = state.deliveries.made_window_mut() else { return };
        let is_there = window.behind.iter().any(|behind| Arc::ptr_eq(behind, subscription));
        if let LogState::Attached(position) = &mut *subscription.log()
            && !is_there
            && window.by_key.get(&position.key).is_some_and(|current| Arc::ptr_eq(current, subscription))
        {
            position.listed = false;
            list_if_behind(window, subscription, position);
        }
    }

    /// Ends a resume that makes no progress.
    pub(crate) fn end_resume(&self) {
        if let Some(window) = self.lock().deliveries.made_window_mut() {
            window.resuming = false;
        }
    }

    /// Skips dropped messages up to `seq` (MAX_PENDING_PER_CLIENT).
    pub(crate) fn give_up(&self, key: ChannelKey, seq: Seq) {
        let mut state = self.lock();
        let Some(window) = state.deliveries.made_window_mut() else { return };
        let Some(subscription) = window.by_key.get(&key).cloned() else { return };
        let mut log = subscription.log();
        if let LogState::Attached(position) = &mut *log {
            let first = position.acked.up_to() + 1;
            let sent = first..position.next.min(seq.0 + 1);
            let mut ended = sent.filter(|seq| !position.acked.contains(*seq)).count();
            if let Some(ids) = &mut window.packet_ids {
                let resumed = ids.give_up_resumed(key, seq).into_iter();
                ended +=
                    resumed.filter(|seq| *seq >= position.next && !position.acked.contains(*seq)).count();
            }
            position.acked.skip_to(seq.0);
            position.next = position.next.max(seq.0 + 1);
            position.in_flight = position.in_flight.saturating_sub(u32::try_from(ended).unwrap_or(u32::MAX));
            window.logged_ended(ended);
            window.redeliveries_ended_up_to(key, seq.0);
        }
    }
}
