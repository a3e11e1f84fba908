//! The limits of retained messages.

use crate::config::RetainedLimits;

/// The totals of all retained messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct RetainedTotals {
    pub(super) messages: u64,
    pub(super) bytes: u64,
}

/// The totals and their limits.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct RetainedRoom {
    pub(super) limits: RetainedLimits,
    pub(super) totals: RetainedTotals,
}

impl RetainedRoom {
    /// Returns `true` if the limits allow one more message of this size.
    pub(super) fn takes(&self, bytes: u64) -> bool {
        let fits = |total: u64, more: u64, limit: Option<u64>| {
            limit.is_none_or(|limit| total.saturating_add(more) <= limit)
        };
        fits(self.totals.messages, 1, self.limits.messages)
            && fits(self.totals.bytes, bytes, self.limits.bytes)
    }

    /// Changes the size of the retained message of a channel from the first to the second value.
    pub(super) fn replace(&mut self, before: Option<u64>, now: Option<u64>) {
        let change = |total: u64, less: u64, more: u64| total.saturating_sub(less).saturating_add(more);
        let Self { totals, .. } = self;
        totals.messages = change(totals.messages, u64::from(before.is_some()), u64::from(now.is_some()));
        totals.bytes = change(totals.bytes, before.unwrap_or(0), now.unwrap_or(0));
    }
}
