//! Retained messages that were read a short while ago, for subscribers that come one after the other.
//!
//! What is found here is what a read of the store would find. Whatever may change a channel's message takes it out: when it is
//! submitted, and once more when the store has settled it; a read that was begun before either is not kept.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jmqt_core::ChannelName;

use super::Retained;
use crate::name_map::NameMap;

/// How many bytes are kept, payloads and names.
const CACHED_BYTES: usize = 16 << 20;

/// What a message takes beside its payload and the name of its channel.
const OVERHEAD: usize = 256;

/// Changes are noted for so many groups of channels.
const GROUPS: usize = 64;

/// Tells what has changed in a channel's group since a read was begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

#[derive(Debug, Default)]
pub(crate) struct RetainedCache {
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Group {
    /// How often something was submitted or settled.
    changes: u64,
    /// What is submitted and not settled.
    pending: usize,
}

#[derive(Debug)]
struct State {
    groups: [Group; GROUPS],
    /// It is not known of a write whether it has happened, or when it will: nothing is kept any more.
    is_off: bool,
    messages: NameMap<ChannelName, (u64, Retained)>,
    /// The channels, the one that was read first at the front.
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

    /// A message for this channel, or its end, is on its way to the store.
    pub(super) fn submitted(&self, channel: &ChannelName) {
        let mut state = self.lock();
        let group = &mut state.groups[self.group(channel)];
        (group.pending, group.changes) = (group.pending + 1, group.changes + 1);
        state.remove(channel);
    }

    /// The store is done with it; `is_known`: it has happened, or it will not.
    pub(super) fn settled(&self, channel: &ChannelName, is_known: bool) {
        let mut state = self.lock();
        let group = &mut state.groups[self.group(channel)];
        (group.pending, group.changes) = (group.pending - 1, group.changes + 1);
        state.remove(channel);
        if !is_known {
            *state = State { is_off: true, groups: state.groups, ..State::default() };
        }
    }

    /// To be asked for before the store is read.
    pub(crate) fn ticket(&self, channel: &ChannelName) -> Ticket {
        Ticket(self.lock().groups[self.group(channel)].changes)
    }

    pub(crate) fn find(&self, channel: &ChannelName) -> Option<Retained> {
        self.lock().messages.get(channel).map(|(_, retained)| retained.clone())
    }

    /// Keeps what a read has found, unless something else may be there by now.
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
    retained.data.len() + 2 * channel.as_str().len() + OVERHEAD
}

#[cfg(test)]
mod tests {
    use super::*;

    fn channel(name: &str) -> ChannelName {
        ChannelName::parse(name).unwrap()
    }

    fn message(bytes: usize) -> Retained {
        Retained { sender: None, data: vec![b'1'; bytes].into() }
    }

    #[test] // protocol.md 2.12
    fn a_read_that_a_write_may_have_overtaken_is_not_kept() {
        let (cache, news) = (RetainedCache::default(), channel("news"));
        let ticket = cache.ticket(&news);
        cache.keep(ticket, &news, &message(1));
        assert_eq!(cache.find(&news), Some(message(1)));

        cache.submitted(&news);
        assert_eq!(cache.find(&news), None, "as soon as something is on its way");
        cache.keep(ticket, &news, &message(1)); // begun before
        let during = cache.ticket(&news);
        cache.keep(during, &news, &message(1));
        assert_eq!(cache.find(&news), None);
        cache.settled(&news, true);
        cache.keep(during, &news, &message(1)); // it may have read what was there before the commit
        assert_eq!(cache.find(&news), None);
        cache.keep(cache.ticket(&news), &news, &message(2));
        assert_eq!(cache.find(&news), Some(message(2)));
    }

    #[test]
    fn nothing_is_kept_after_a_write_of_unknown_fate() {
        let (cache, news) = (RetainedCache::default(), channel("news"));
        cache.keep(cache.ticket(&channel("other")), &channel("other"), &message(1));
        cache.submitted(&news);
        cache.settled(&news, false);
        cache.keep(cache.ticket(&news), &news, &message(1));
        assert_eq!((cache.find(&news), cache.find(&channel("other"))), (None, None));
    }

    #[test]
    fn the_oldest_make_room() {
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
