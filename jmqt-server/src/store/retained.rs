//! The limits of retained messages.

use jmqt_core::ClientId;

use crate::config::RetainedLimits;
use crate::name_map::NameMap;

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
    /// Returns `true` if the limits allow one more message of this size, of a client that has set so many.
    pub(super) fn takes(&self, bytes: u64, of_client: u64) -> bool {
        let fits = |total: u64, more: u64, limit: Option<u64>| {
            limit.is_none_or(|limit| total.saturating_add(more) <= limit)
        };
        fits(self.totals.messages, 1, self.limits.messages)
            && fits(self.totals.bytes, bytes, self.limits.bytes)
            && fits(of_client, 1, self.limits.messages_per_client)
    }

    /// Changes the size of the retained message of a channel from the first to the second value.
    pub(super) fn replace(&mut self, before: Option<u64>, now: Option<u64>) {
        let change = |total: u64, less: u64, more: u64| total.saturating_sub(less).saturating_add(more);
        let Self { totals, .. } = self;
        totals.messages = change(totals.messages, u64::from(before.is_some()), u64::from(now.is_some()));
        totals.bytes = change(totals.bytes, before.unwrap_or(0), now.unwrap_or(0));
    }
}

/// How many channels have a retained message of each client. Those of the application are not counted.
#[derive(Debug, Default)]
pub(super) struct RetainedBy(NameMap<ClientId, u64>);

impl RetainedBy {
    pub(super) fn new(counts: impl IntoIterator<Item = (ClientId, u64)>) -> Self {
        Self(counts.into_iter().collect())
    }

    pub(super) fn of(&self, client: &ClientId) -> u64 {
        self.0.get(client).copied().unwrap_or(0)
    }

    /// The counts of these clients, for a batch that may change them.
    pub(super) fn some<'a>(&self, clients: impl Iterator<Item = &'a ClientId>) -> Self {
        Self::new(clients.map(|client| (client.clone(), self.of(client))))
    }

    /// The retained message of a channel, which was set by the first client, is set by the second one.
    pub(super) fn replace(&mut self, before: Option<&ClientId>, now: Option<&ClientId>) {
        if let Some(count) = before.and_then(|before| self.0.get_mut(before)) {
            *count = count.saturating_sub(1);
        }
        if let Some(now) = now {
            *self.0.entry(now.clone()).or_default() += 1;
        }
    }

    /// Takes over the counts that a batch has changed.
    pub(super) fn committed(&mut self, changed: Self) {
        for (client, count) in changed.0 {
            match count {
                0 => drop(self.0.remove(&client)),
                _ => drop(self.0.insert(client, count)),
            }
        }
    }
}
