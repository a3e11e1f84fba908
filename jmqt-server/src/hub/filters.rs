//! Subscriptions with wildcards on this node, and the subscribers of a channel together with them.
//!
//! A trie has the filters. The subscribers of a channel are computed once and kept until a filter or a subscription of the
//! channel changes. A server without wildcard subscriptions reads one number for each run of messages.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use jmqt_core::{ChannelName, Persistence};
use jmqt_mqtt::{Filter, Level, Trie, name_to_topic};

use super::channels::Members;
use crate::name_map::NameMap;
use crate::outbox::Subscription;

/// The name of a wildcard subscription in the tables of its client: this, and the filter. No channel for subscriptions has
/// such a name.
const PREFIX: &str = "$filter/";
const SHARDS: usize = 16;
/// The limit for the computed channels of a shard. A full shard is emptied.
const CACHED_PER_SHARD: usize = 4096;

/// The name of the subscription with this filter.
pub(crate) fn name_of(filter: Filter<'_>) -> Option<ChannelName> {
    ChannelName::exact(&format!("{PREFIX}{}", filter.path())).ok()
}

/// The filter of a subscription; `None` for a subscription to one channel.
pub(crate) fn filter_of(name: &ChannelName) -> Option<Filter<'_>> {
    Filter::parse(name.as_str().strip_prefix(PREFIX)?).ok()
}

/// The beginning that all matching channels share.
pub(super) fn literal_beginning(filter: Filter<'_>) -> String {
    let literals = filter.levels().map_while(|level| match level {
        Level::Literal(text) => Some(text),
        Level::One | Level::Rest => None,
    });
    literals.collect::<Vec<_>>().join("/")
}

/// Returns `true` if the filter matches this channel.
pub(super) fn matches(filter: Filter<'_>, channel: &ChannelName) -> bool {
    filter.matches(&name_to_topic(channel.as_str()))
}

/// The subscribers of a channel at one moment.
struct Cached {
    generation: u64,
    /// The subscribers without wildcards that these were computed from.
    exact: Option<Members>,
    members: Option<Members>,
}

type Shard = Mutex<HashMap<ChannelName, Cached, foldhash::fast::RandomState>>;

/// The wildcard subscriptions of this node.
#[derive(Default)]
pub(crate) struct Filters {
    trie: RwLock<Trie<Vec<Arc<Subscription>>>>,
    count: AtomicUsize,
    /// Rises with every change.
    generation: AtomicU64,
    cache: [Shard; SHARDS],
    hasher: foldhash::fast::RandomState,
}

impl Filters {
    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Adds a subscription; returns `false` if its name has no filter.
    pub(crate) fn add(&self, subscription: &Arc<Subscription>) -> bool {
        let Some(filter) = filter_of(&subscription.channel) else { return false };
        let mut trie = self.trie.write().unwrap_or_else(PoisonError::into_inner);
        trie.get_or_insert_with(filter.levels(), Vec::new).push(Arc::clone(subscription));
        self.count.fetch_add(1, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
        true
    }

    /// Removes a subscription; returns `false` if it is not there.
    pub(crate) fn remove(&self, subscription: &Arc<Subscription>) -> bool {
        let Some(filter) = filter_of(&subscription.channel) else { return false };
        let mut trie = self.trie.write().unwrap_or_else(PoisonError::into_inner);
        let Some(subscribers) = trie.get_mut(filter.levels()) else { return false };
        let before = subscribers.len();
        subscribers.retain(|other| !Arc::ptr_eq(other, subscription));
        let removed = before - subscribers.len();
        if subscribers.is_empty() {
            trie.remove(filter.levels());
        }
        self.count.fetch_sub(removed, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
        removed > 0
    }

    /// Forgets computed subscribers, because the options of a subscription have changed.
    pub(crate) fn options_changed(&self) {
        if !self.is_empty() {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// The subscribers of a channel, those in `exact` and those with matching filters. Each client is there once.
    pub(crate) fn with_matching(&self, channel: &ChannelName, exact: Option<Members>) -> Option<Members> {
        let generation = self.generation.load(Ordering::Acquire);
        let shard = &self.cache[(self.hasher.hash_one(channel.as_str()) >> 48) as usize % SHARDS];
        if let Some(cached) = shard.lock().unwrap_or_else(PoisonError::into_inner).get(channel)
            && cached.generation == generation
            && is_same(cached.exact.as_ref(), exact.as_ref())
        {
            return cached.members.clone();
        }
        let members = self.compute(channel, exact.as_ref());
        let cached = Cached { generation, exact, members: members.clone() };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if shard.len() >= CACHED_PER_SHARD && !shard.contains_key(channel) {
            shard.clear();
        }
        shard.insert(channel.clone(), cached);
        members
    }

    fn compute(&self, channel: &ChannelName, exact: Option<&Members>) -> Option<Members> {
        let mut matching: Vec<Arc<Subscription>> = Vec::new();
        let trie = self.trie.read().unwrap_or_else(PoisonError::into_inner);
        trie.for_each_match(channel.as_str(), |subscribers| matching.extend(subscribers.iter().cloned()));
        drop(trie);
        if matching.is_empty() {
            return exact.cloned();
        }
        let exact = exact.into_iter().flat_map(|members| members.iter().cloned());
        // A client with one connection has one outbox.
        let mut by_client: NameMap<usize, Vec<Arc<Subscription>>> = NameMap::default();
        let mut order = Vec::new();
        for subscription in exact.chain(matching) {
            let client = Arc::as_ptr(&subscription.outbox).addr();
            let parts = by_client.entry(client).or_default();
            if parts.is_empty() {
                order.push(client);
            }
            parts.push(subscription);
        }
        let members = order.into_iter().filter_map(|client| by_client.remove(&client));
        Some(members.map(|parts| merged(channel, parts)).collect())
    }
}

/// One subscription for all matching subscriptions of a client. If one of them has a place in the log, it stands for all.
fn merged(channel: &ChannelName, mut parts: Vec<Arc<Subscription>>) -> Arc<Subscription> {
    if parts.len() == 1
        && let Some(only) = parts.pop()
    {
        return only;
    }
    let persistent = parts.iter().find(|part| part.persistence() == Persistence::Persistent);
    match persistent {
        Some(persistent) => Arc::clone(persistent),
        None => Arc::new(Subscription::merged(channel.clone(), parts)),
    }
}

fn is_same(one: Option<&Members>, other: Option<&Members>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}
