//! A cache of recently read retained messages, for subscribers that arrive one after the other.
//!
//! The cache returns the same as a read of the store. Every operation that may change the message of a channel removes it
//! from the cache, when it is submitted and again when the store has finished it. The result of a read that began before
//! either is not cached.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jmqt_core::ChannelName;

use super::Retained;
use crate::name_map::NameMap;

/// The most cached bytes of payloads and names.
const CACHED_BYTES: usize = 16 << 20;

/// The memory of a message in addition to its payload and the name of its channel.
const OVERHEAD: usize = 256;

/// The number of channel groups for which changes are tracked.
const GROUPS: usize = 64;

/// Detects changes in the group of a channel since the begin of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// The tickets of all channels.
pub(crate) struct Tickets([Ticket; GROUPS]);

#[derive(Debug, Default)]
pub(crate) struct RetainedCache {
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Group {
    /// The number of submitted and finished operations.
    changes: u64,
    /// The number of operations that are submitted and not finished.
    pending: usize,
}

#[derive(Debug)]
struct State {
    groups: [Group; GROUPS],
    /// The outcome of a write is unknown: nothing is cached any more.
    is_off: bool,
    messages: NameMap<ChannelName, (u64, Retained)>,
    /// The channels, in the order of their reads.
    in_order: BTreeMap<u64, ChannelName>,
    reads: u64,
    bytes: usize,
}

impl Default for State {
    fn default() -> Self {
        Self {
            groups: [Group::default(); GROUPS],
            is_off: false,
            messages: NameMap::default(),
            in_order: BTreeMap::new(),
            reads: 0,
            bytes: 0,
        }
    }
}

impl RetainedCache {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn group(&self, channel: &ChannelName) -> usize {
        (self.hasher.hash_one(channel.as_str()) >> 32) as usize % GROUPS
    }

    /// A change of the retained message of this channel is submitted to the store.
    pub(super) fn submitted(&self, channel: &ChannelName) {
        let mut state = self.lock();
        let group = &mut state.groups[self.group(channel)];
        (group.pending, group.changes) = (group.pending + 1, group.changes + 1);
        state.remove(channel);
    }

    /// The store has finished the change; `is_known`: its outcome is known.
    pub(super) fn settled(&self, channel: &ChannelName, is_known: bool) {
        let mut state = self.lock();
        let group = &mut state.groups[self.group(channel)];
        (group.pending, group.changes) = (group.pending - 1, group.changes + 1);
        state.remove(channel);
        if !is_known {
            *state = State { is_off: true, groups: state.groups, ..State::default() };
        }
    }

    /// Returns a ticket; take it before reading the store.
    pub(crate) fn ticket(&self, channel: &ChannelName) -> Ticket {
        Ticket(self.lock().groups[self.group(channel)].changes)
    }

    /// Returns the tickets of all channels; take them before reading several messages of the store.
    pub(crate) fn tickets(&self) -> Tickets {
        Tickets(self.lock().groups.map(|group| Ticket(group.changes)))
    }

    /// Caches one of the messages that were read, as [`keep`](Self::keep) does.
    pub(crate) fn keep_one(&self, tickets: &Tickets, channel: &ChannelName, retained: &Retained) {
        self.keep(tickets.0[self.group(channel)], channel, retained);
    }

    pub(crate) fn find(&self, channel: &ChannelName) -> Option<Retained> {
        self.lock().messages.get(channel).map(|(_, retained)| retained.clone())
    }

    /// Caches the result of a read, unless the message may have changed since.
    pub(crate) fn keep(&self, ticket: Ticket, channel: &ChannelName, retained: &Retained) {
        let mut state = self.lock();
        let size = size(channel, retained);
        let Group { changes, pending } = state.groups[self.group(channel)];
        if state.is_off || pending > 0 || changes != ticket.0 || size > CACHED_BYTES {
            return;
        }
        state.remove(channel);
        let place = state.reads;
        state.reads += 1;
        state.bytes += size;
        state.in_order.insert(place, channel.clone());
        state.messages.insert(channel.clone(), (place, retained.clone()));
        while state.bytes > CACHED_BYTES
            && let Some((_, oldest)) = state.in_order.pop_first()
        {
            state.remove(&oldest);
        }
    }
}

impl State {
    fn remove(&mut self, channel: &ChannelName) {
        if let Some((place, retained)) = self.messages.remove(channel) {
            self.in_order.remove(&place);
            self.bytes -= size(channel, &retained);
        }
    }
}

fn size(channel: &ChannelName, retained: &Retained) -> usize {
    retained.data.len() + retained.attributes.bytes() + 2 * channel.as_str().len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attributes::Attributes;

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    fn message(bytes: usize) -> Retained {
        Retained { sender: None, data: vec![b'1'; bytes].into(), attributes: Attributes::NONE }
    }

    #[test] // protocol.md 2.12
    fn a_read_that_overlaps_a_write_is_not_cached() {
        let (cache, news) = (RetainedCache::default(), channel("news"));
        let ticket = cache.ticket(&news);
        cache.keep(ticket, &news, &message(1));
        assert_eq!(cache.find(&news), Some(message(1)));

        cache.submitted(&news);
        assert_eq!(cache.find(&news), None, "as soon as something is on its way");
        cache.keep(ticket, &news, &message(1)); // a read that began before
        let during = cache.ticket(&news);
        cache.keep(during, &news, &message(1));
        assert_eq!(cache.find(&news), None);
        cache.settled(&news, true);
        cache.keep(during, &news, &message(1)); // the read may have returned the state before the commit
        assert_eq!(cache.find(&news), None);
        cache.keep(cache.ticket(&news), &news, &message(2));
        assert_eq!(cache.find(&news), Some(message(2)));
    }

    #[test]
    fn nothing_is_cached_after_a_write_of_unknown_outcome() {
        let (cache, news) = (RetainedCache::default(), channel("news"));
        cache.keep(cache.ticket(&channel("other")), &channel("other"), &message(1));
        cache.submitted(&news);
        cache.settled(&news, false);
        cache.keep(cache.ticket(&news), &news, &message(1));
        assert_eq!((cache.find(&news), cache.find(&channel("other"))), (None, None));
    }

    #[test]
    fn the_oldest_cached_messages_make_room_for_new_ones() {
        let cache = RetainedCache::default();
        let names: Vec<_> = (0..20).map(|i| channel(&i.to_string())).collect();
        for name in &names {
            cache.keep(cache.ticket(name), name, &message(1 << 20));
        }
        let kept = names.iter().filter(|name| cache.find(name).is_some()).count();
        assert_eq!(kept, 15, "with their names, less than 16 MiB");
        assert!(cache.find(&names[19]).is_some() && cache.find(&names[0]).is_none());
        cache.keep(cache.ticket(&names[0]), &names[0], &message(CACHED_BYTES));
        assert_eq!(cache.find(&names[0]), None, "too large");
        for name in &names {
            cache.submitted(name);
            cache.settled(name, true);
        }
        let state = cache.lock();
        assert_eq!((state.bytes, state.in_order.len(), state.messages.len()), (0, 0, 0));
    }
}
