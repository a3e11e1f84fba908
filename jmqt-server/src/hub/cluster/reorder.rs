//! Restores the log order of QoS 1 pushes that several nodes have appended to one log.
//!
//! Delivery does not depend on this: a subscription that misses a message reads the log. But a read is expensive, and
//! a missing message usually arrives shortly afterwards, so it is worth a short wait.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::store::ChannelKey;

/// The time to wait for a missing message.
const PATIENCE: Duration = Duration::from_millis(20);
/// The number of channels above which idle ones are forgotten.
const CHANNELS: usize = 16_384;

struct Channel<T> {
    /// The next number.
    next: u64,
    waiting: BTreeMap<u64, (u64, T)>,
    since: Instant,
}

/// Messages that arrived too early, by channel.
pub(crate) struct Reorder<T> {
    channels: HashMap<ChannelKey, Channel<T>, foldhash::fast::RandomState>,
    /// The channels with waiting messages.
    waiting: HashSet<ChannelKey, foldhash::fast::RandomState>,
    prune_at: usize,
}

impl<T> Default for Reorder<T> {
    fn default() -> Self {
        Self { channels: HashMap::default(), waiting: HashSet::default(), prune_at: CHANNELS }
    }
}

impl<T> Reorder<T> {
    /// Takes the messages `first` to `last` of a log, and appends to `ready` what is to be delivered now.
    pub(crate) fn put(
        &mut self,
        key: ChannelKey,
        (first, last): (u64, u64),
        item: T,
        now: Instant,
        ready: &mut Vec<T>,
    ) {
        self.prune();
        let channel = self.channels.entry(key).or_insert_with(|| Channel {
            next: first,
            waiting: BTreeMap::new(),
            since: now,
        });
        if first > channel.next {
            if channel.waiting.is_empty() {
                channel.since = now;
            }
            // Two with the same beginning do not happen; if they do, none may be lost.
            if let Some((_, (_, other))) = channel.waiting.insert(first, (last, item)).map(|it| (first, it)) {
                ready.push(other);
            }
            self.waiting.insert(key);
            return;
        }
        channel.next = channel.next.max(last + 1);
        ready.push(item);
        while let Some(entry) = channel.waiting.first_entry()
            && *entry.key() <= channel.next
        {
            let (last, item) = entry.remove();
            channel.next = channel.next.max(last + 1);
            ready.push(item);
        }
        channel.since = now;
        if channel.waiting.is_empty() {
            self.waiting.remove(&key);
        }
    }

    /// The time when the wait for the next gap ends.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let waiting = self.waiting.iter().filter_map(|key| self.channels.get(key));
        waiting.map(|channel| channel.since + PATIENCE).min()
    }

    /// Gives up the gaps whose wait has ended.
    pub(crate) fn expired(&mut self, now: Instant, ready: &mut Vec<T>) {
        let Self { channels, waiting, .. } = self;
        waiting.retain(|key| {
            let Some(channel) = channels.get_mut(key) else { return false };
            if channel.since + PATIENCE > now {
                return true;
            }
            for (_, (last, item)) in std::mem::take(&mut channel.waiting) {
                channel.next = channel.next.max(last + 1);
                ready.push(item);
            }
            false
        });
    }

    /// Forgets channels without waiting messages if there are many. The next message of such a channel starts a new
    /// sequence.
    fn prune(&mut self) {
        if self.channels.len() < self.prune_at {
            return;
        }
        self.channels.retain(|_, channel| !channel.waiting.is_empty());
        self.prune_at = (self.channels.len() * 2).max(CHANNELS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: ChannelKey = ChannelKey(1);

    #[test]
    fn early_messages_wait_for_earlier_ones() {
        let (mut reorder, mut ready, now) = (Reorder::default(), Vec::new(), Instant::now());
        for (first, last, item) in [(5, 6, "b"), (9, 9, "d"), (10, 12, "e"), (7, 8, "c"), (1, 4, "a")] {
            reorder.put(KEY, (first, last), item, now, &mut ready);
        }
        assert_eq!(ready, ["b", "c", "d", "e", "a"]); // the first to arrive sets the start
        assert_eq!(reorder.deadline(), None);
    }

    #[test]
    fn the_wait_for_a_gap_is_limited() {
        let (mut reorder, mut ready, now) = (Reorder::default(), Vec::new(), Instant::now());
        reorder.put(KEY, (1, 1), 1, now, &mut ready);
        reorder.put(KEY, (5, 5), 5, now, &mut ready);
        reorder.put(KEY, (3, 3), 3, now, &mut ready);
        let deadline = reorder.deadline().unwrap();
        assert_eq!(deadline, now + PATIENCE);
        reorder.expired(deadline - Duration::from_millis(1), &mut ready);
        assert_eq!(ready, [1]);
        reorder.expired(deadline, &mut ready);
        assert_eq!(ready, [1, 3, 5]);
        reorder.put(KEY, (6, 6), 6, now, &mut ready);
        reorder.put(KEY, (4, 4), 4, now, &mut ready); // late, but not lost
        assert_eq!(ready, [1, 3, 5, 6, 4]);
    }

    #[test]
    fn idle_channels_are_forgotten() {
        let (mut reorder, mut ready, now) = (Reorder::default(), Vec::new(), Instant::now());
        for key in 0..CHANNELS as i64 {
            reorder.put(ChannelKey(key), (1, 1), (), now, &mut ready);
        }
        reorder.put(KEY, (3, 3), (), now, &mut ready);
        assert_eq!(reorder.channels.len(), 1);
        reorder.put(KEY, (5, 5), (), now, &mut ready);
        reorder.put(KEY, (4, 4), (), now, &mut ready);
        assert_eq!((ready.len(), reorder.waiting.len()), (CHANNELS + 3, 0));
    }
}
