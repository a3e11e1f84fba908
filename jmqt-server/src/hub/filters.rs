//! Subscriptions with wildcards, and the receivers of a channel together with them.
//!
//! One trie has the filters of this node, another those of the other nodes of the cluster. The receivers of a channel are
//! computed once and kept until a filter or a subscription of the channel changes. A server without wildcard subscriptions
//! reads one number for each run of messages.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use jmqt_core::ChannelName;
use jmqt_mqtt::{Filter, Level, Trie, name_to_topic};
use tokio::sync::Notify;

use super::channels::Members;
use crate::bus::NodeId;
use crate::name_map::NameMap;
use crate::outbox::{Outbox, ShareNodes, Stage, Subscription};

/// The name of a wildcard subscription in the tables of its client: this, and the filter. No channel for subscriptions has
/// such a name.
const PREFIX: &str = "$filter/";
/// The beginning of the names of shared subscriptions, which are those on the wire.
const SHARE: &str = "$share/";
const SHARDS: usize = 16;
/// The limits for the computed channels of a shard, and for their memory. A full shard is emptied.
const CACHED_PER_SHARD: usize = 4096;
const BYTES_PER_SHARD: usize = 8 << 20;

/// The name of the subscription with this filter.
pub(crate) fn name_of(filter: Filter<'_>) -> Option<ChannelName> {
    ChannelName::exact(&format!("{PREFIX}{}", filter.path())).ok()
}

/// The filter of a subscription; `None` for a subscription to one channel.
pub(crate) fn filter_of(name: &ChannelName) -> Option<Filter<'_>> {
    Filter::parse(name.as_str().strip_prefix(PREFIX)?).ok()
}

/// The filter of a shared subscription; `None` for the name of another subscription.
pub(super) fn share_of(name: &ChannelName) -> Option<Filter<'_>> {
    if !name.as_str().starts_with(SHARE) {
        return None;
    }
    Filter::parse(name.as_str()).ok()
}

/// The filter of a subscription or share; `None` for a subscription to one channel.
pub(crate) fn filter_behind(name: &ChannelName) -> Option<Filter<'_>> {
    filter_of(name).or_else(|| share_of(name))
}

/// The filter of a subscription as the store keeps it; `None` for a subscription to one channel.
pub(super) fn stored_filter(name: &ChannelName) -> Option<&str> {
    let filter = name.as_str().strip_prefix(PREFIX);
    filter.or_else(|| share_of(name).map(Filter::as_str))
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

/// The receivers of a channel at one moment.
#[derive(Clone, Default)]
pub(super) struct Receivers {
    /// The subscribers on this node, each client once.
    pub(super) members: Option<Members>,
    /// The other nodes that have a matching filter.
    pub(super) nodes: Option<Arc<[NodeId]>>,
}

impl Receivers {
    /// The memory that an entry of the cache takes, as an estimate.
    fn bytes(&self) -> usize {
        const ENTRY: usize = 200;
        let members = self.members.iter().flat_map(|members| members.iter());
        let nodes = self.nodes.as_ref().map_or(0, |nodes| nodes.len());
        ENTRY + 8 * nodes + members.map(|member| 8 + member.merged_bytes()).sum::<usize>()
    }
}

struct Cached {
    /// The subscribers without wildcards that these were computed from.
    exact: Option<Members>,
    receivers: Receivers,
}

/// Computed receivers of channels.
#[derive(Default)]
struct Shard {
    /// Of all entries. With another one they are of no use, and would keep ended subscriptions in memory.
    generation: u64,
    cached: HashMap<ChannelName, Cached, foldhash::fast::RandomState>,
    /// The memory of the entries, as an estimate. One of a client with many matching filters is large.
    bytes: usize,
}

impl Shard {
    fn get(&self, generation: u64, channel: &ChannelName, exact: Option<&Members>) -> Option<&Receivers> {
        let cached = self.cached.get(channel).filter(|_| self.generation == generation)?;
        is_same(cached.exact.as_ref(), exact).then_some(&cached.receivers)
    }

    fn insert(&mut self, generation: u64, channel: &ChannelName, cached: Cached, bytes: usize) {
        if generation < self.generation || bytes > BYTES_PER_SHARD {
            return; // it is outdated, or would push all others out
        }
        if generation > self.generation
            || self.bytes + bytes > BYTES_PER_SHARD
            || self.cached.len() >= CACHED_PER_SHARD && !self.cached.contains_key(channel)
        {
            *self = Self { generation, ..Self::default() };
        }
        // A replaced entry still counts; the shard is emptied a little earlier.
        self.bytes += bytes;
        self.cached.insert(channel.clone(), cached);
    }
}

/// The filters of other nodes.
#[derive(Default)]
struct Elsewhere {
    trie: Trie<Vec<NodeId>>,
    /// Nodes whose filters are not known completely. They receive everything.
    doubtful: Vec<NodeId>,
}

impl Elsewhere {
    fn matching(&self, channel: &ChannelName) -> Option<Arc<[NodeId]>> {
        let mut nodes = self.doubtful.clone();
        self.trie.for_each_match(channel.as_str(), |having| nodes.extend(having));
        nodes.sort_unstable();
        nodes.dedup();
        (!nodes.is_empty()).then(|| nodes.into())
    }
}

/// The wildcard subscriptions of this node, and the filters of the others.
#[derive(Default)]
pub(crate) struct Filters {
    trie: RwLock<Trie<Vec<Arc<Subscription>>>>,
    elsewhere: RwLock<Elsewhere>,
    /// The entries of both.
    count: AtomicUsize,
    /// Rises with every change.
    generation: AtomicU64,
    /// The other nodes with members of groups, by the name of the share.
    shares: Mutex<NameMap<ChannelName, Arc<ShareNodes>>>,
    /// The shares with a group on this node whose nodes have changed.
    changed_shares: Mutex<Vec<ChannelName>>,
    /// Notified when there are such.
    shares_changed: Notify,
    cache: [Mutex<Shard>; SHARDS],
    hasher: foldhash::fast::RandomState,
}

impl Filters {
    /// The number of subscriptions with filters.
    pub(crate) fn len(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count.load(Ordering::Acquire) == 0
    }

    /// Returns `true` if a filter of this node matches the topic.
    pub(crate) fn has_match(&self, topic: &str) -> bool {
        let mut found = false;
        let trie = self.trie.read().unwrap_or_else(PoisonError::into_inner);
        trie.for_each_match(topic, |_| found = true);
        found
    }

    /// Adds a subscription; returns `false` if its name has no filter. Calls `announce` if it is the first with this
    /// filter, in the order of these changes.
    pub(super) fn add(&self, subscription: &Arc<Subscription>, announce: impl FnOnce(Filter<'_>)) -> bool {
        let Some(filter) = filter_of(&subscription.channel) else { return false };
        let mut trie = self.trie.write().unwrap_or_else(PoisonError::into_inner);
        let subscribers = trie.get_or_insert_with(filter.levels(), Vec::new);
        subscribers.push(Arc::clone(subscription));
        if subscribers.len() == 1 {
            announce(filter);
        }
        self.count.fetch_add(1, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
        true
    }

    /// Removes a subscription; returns `false` if it is not there. Calls `announce` if it was the last with this filter.
    pub(super) fn remove(&self, subscription: &Arc<Subscription>, announce: impl FnOnce(Filter<'_>)) -> bool {
        let Some(filter) = filter_of(&subscription.channel) else { return false };
        let mut trie = self.trie.write().unwrap_or_else(PoisonError::into_inner);
        let Some(subscribers) = trie.get_mut(filter.levels()) else { return false };
        let before = subscribers.len();
        subscribers.retain(|other| !Arc::ptr_eq(other, subscription));
        let removed = before - subscribers.len();
        if subscribers.is_empty() {
            trie.remove(filter.levels());
            announce(filter);
        }
        self.count.fetch_sub(removed, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
        removed > 0
    }

    /// A subscription of this client with a matching filter that needs a reader of the channel.
    pub(super) fn lacking_reader(
        &self,
        outbox: &Arc<Outbox>,
        channel: &ChannelName,
    ) -> Option<Arc<Subscription>> {
        let mut found = None;
        let trie = self.trie.read().unwrap_or_else(PoisonError::into_inner);
        trie.for_each_match(channel.as_str(), |subscribers| {
            let is_it = |part: &&Arc<Subscription>| {
                Arc::ptr_eq(&part.outbox, outbox) && part.stage() != Stage::Ended && part.lacks_reader()
            };
            found = found.take().or_else(|| subscribers.iter().find(is_it).cloned());
        });
        found
    }

    /// Forgets computed subscribers, because the options of a subscription have changed.
    pub(crate) fn options_changed(&self) {
        if !self.is_empty() {
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// The nodes with members of a group.
    pub(super) fn share_nodes(&self, name: &ChannelName) -> Arc<ShareNodes> {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(shares.entry(name.clone()).or_default())
    }

    /// Waits until other nodes have got members of groups of this node, or have lost them, and returns the names of the shares.
    pub(super) async fn shares_changed(&self) -> Vec<ChannelName> {
        self.shares_changed.notified().await;
        let mut changed =
            std::mem::take(&mut *self.changed_shares.lock().unwrap_or_else(PoisonError::into_inner));
        changed.sort_unstable();
        changed.dedup();
        changed
    }

    /// Records whether another node has members of a group.
    fn share_elsewhere(&self, filter: Filter<'_>, node: NodeId, has_members: bool) {
        let Ok(name) = ChannelName::exact(filter.as_str()) else { return };
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes = shares.entry(name.clone()).or_default();
        let (has_others, is_here) = (nodes.set(node.0, has_members), Arc::strong_count(nodes) > 1);
        if !has_others && !is_here {
            shares.remove(&name);
        }
        drop(shares);
        if is_here {
            self.changed_shares.lock().unwrap_or_else(PoisonError::into_inner).push(name);
            self.shares_changed.notify_one();
        }
    }

    /// Forgets a group that has ended on this node, unless other nodes have members. No other group of this name may begin
    /// meanwhile.
    pub(super) fn forget_share(&self, name: &ChannelName) {
        let mut shares = self.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if shares.get(name).is_some_and(|nodes| !nodes.set(0, false)) {
            shares.remove(name);
        }
    }

    /// Records that another node has a client with this filter.
    pub(super) fn add_elsewhere(&self, filter: &str, node: NodeId) {
        let Ok(filter) = Filter::parse(filter) else { return };
        if filter.group().is_some() {
            return self.share_elsewhere(filter, node, true);
        }
        let mut elsewhere = self.elsewhere.write().unwrap_or_else(PoisonError::into_inner);
        let nodes = elsewhere.trie.get_or_insert_with(filter.levels(), Vec::new);
        if !nodes.contains(&node) {
            nodes.push(node);
            self.count.fetch_add(1, Ordering::Release);
            self.generation.fetch_add(1, Ordering::Release);
        }
    }

    /// Records that another node has no client with this filter any more.
    pub(super) fn remove_elsewhere(&self, filter: &str, node: NodeId) {
        let Ok(filter) = Filter::parse(filter) else { return };
        if filter.group().is_some() {
            return self.share_elsewhere(filter, node, false);
        }
        let mut elsewhere = self.elsewhere.write().unwrap_or_else(PoisonError::into_inner);
        let Some(nodes) = elsewhere.trie.get_mut(filter.levels()) else { return };
        let Some(at) = nodes.iter().position(|having| *having == node) else { return };
        nodes.swap_remove(at);
        if nodes.is_empty() {
            elsewhere.trie.remove(filter.levels());
        }
        self.count.fetch_sub(1, Ordering::Release);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// Records whether the filters of another node are known completely. Otherwise it receives all channels.
    pub(super) fn doubt(&self, node: NodeId, is_doubtful: bool) {
        let mut elsewhere = self.elsewhere.write().unwrap_or_else(PoisonError::into_inner);
        let at = elsewhere.doubtful.iter().position(|doubted| *doubted == node);
        match (at, is_doubtful) {
            (None, true) => {
                elsewhere.doubtful.push(node);
                self.count.fetch_add(1, Ordering::Release);
            }
            (Some(at), false) => {
                elsewhere.doubtful.swap_remove(at);
                self.count.fetch_sub(1, Ordering::Release);
            }
            _ => return,
        }
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The receivers of a channel: the subscribers in `exact`, and those with matching filters.
    pub(super) fn with_matching(&self, channel: &ChannelName, exact: Option<Members>) -> Receivers {
        let generation = self.generation.load(Ordering::Acquire);
        let shard = &self.cache[(self.hasher.hash_one(channel.as_str()) >> 48) as usize % SHARDS];
        let known = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(receivers) = known.get(generation, channel, exact.as_ref()) {
            return receivers.clone();
        }
        drop(known);
        let members = self.compute(channel, exact.as_ref());
        let elsewhere = self.elsewhere.read().unwrap_or_else(PoisonError::into_inner);
        let nodes = elsewhere.matching(channel);
        drop(elsewhere);
        let receivers = Receivers { members, nodes };
        let cached = Cached { exact, receivers: receivers.clone() };
        let bytes = channel.as_str().len() + receivers.bytes();
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        shard.insert(generation, channel, cached, bytes);
        receivers
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

/// One subscription for all matching subscriptions of a client. If one of them reads the log, it stands for all.
fn merged(channel: &ChannelName, mut parts: Vec<Arc<Subscription>>) -> Arc<Subscription> {
    if let Some(reader) = parts.iter().find(|part| part.channel == *channel && part.is_reader()) {
        reader.stand_for(&parts);
        return Arc::clone(reader);
    }
    if parts.len() == 1
        && let Some(only) = parts.pop()
    {
        return only;
    }
    Arc::new(Subscription::merged(channel.clone(), parts))
}

fn is_same(one: Option<&Members>, other: Option<&Members>) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => Arc::ptr_eq(one, other),
        (None, None) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn nodes(filters: &Filters, channel: &str) -> Vec<NodeId> {
        let channel = ChannelName::parse(channel).unwrap();
        filters.with_matching(&channel, None).nodes.map_or_else(Vec::new, |nodes| nodes.to_vec())
    }

    #[test]
    fn nodes_with_a_matching_filter_are_receivers_once_until_it_is_removed() {
        let filters = Filters::default();
        for _ in 0..2 {
            filters.add_elsewhere("a/+", A);
            filters.add_elsewhere("a/#", A);
            filters.add_elsewhere("#", B);
        }
        assert_eq!(
            (nodes(&filters, "a/b"), nodes(&filters, "a"), nodes(&filters, "c")),
            (vec![A, B], vec![A, B], vec![B])
        );
        assert_eq!(nodes(&filters, "$b"), []);
        filters.remove_elsewhere("a/#", A);
        filters.remove_elsewhere("a/#", B);
        assert_eq!((nodes(&filters, "a/b"), nodes(&filters, "a")), (vec![A, B], vec![B]));
        filters.remove_elsewhere("a/+", A);
        filters.remove_elsewhere("#", B);
        assert!(nodes(&filters, "a/b").is_empty() && filters.is_empty());
    }

    fn cached() -> Cached {
        Cached { exact: None, receivers: Receivers::default() }
    }

    fn name(number: usize) -> ChannelName {
        ChannelName::parse(&format!("a/{number}")).unwrap()
    }

    #[test]
    fn the_computed_channels_are_limited_in_number() {
        let filters = Filters::default();
        filters.add_elsewhere("#", A);
        let limit = SHARDS * CACHED_PER_SHARD;
        for number in 0..limit + limit / 4 {
            assert!(filters.with_matching(&name(number), None).nodes.is_some());
            if number % 8192 == 0 {
                assert!(
                    filters.cache.iter().all(|shard| shard.lock().unwrap().cached.len() <= CACHED_PER_SHARD)
                );
            }
        }
        let count: usize = filters.cache.iter().map(|shard| shard.lock().unwrap().cached.len()).sum();
        assert!(count > limit / 8 && count <= limit, "{count}");
    }

    #[test]
    fn the_computed_channels_are_limited_in_memory() {
        let (mut shard, bytes) = (Shard::default(), BYTES_PER_SHARD / 100);
        for number in 0..1000 {
            shard.insert(1, &name(number), cached(), bytes);
            assert!(shard.bytes <= BYTES_PER_SHARD && shard.cached.len() <= 100);
            assert!(shard.get(1, &name(number), None).is_some());
        }
        shard.insert(1, &name(1000), cached(), BYTES_PER_SHARD + 1);
        assert!(shard.get(1, &name(1000), None).is_none() && !shard.cached.is_empty());
    }

    #[test]
    fn computed_channels_of_earlier_filters_are_forgotten() {
        let mut shard = Shard::default();
        for number in 0..10 {
            shard.insert(1, &name(number), cached(), 100);
        }
        assert!(shard.get(2, &name(0), None).is_none());
        shard.insert(2, &name(0), cached(), 100);
        assert_eq!((shard.cached.len(), shard.bytes), (1, 100));
        shard.insert(1, &name(1), cached(), 100); // computed before the filters changed
        assert_eq!(shard.cached.len(), 1);
    }

    #[test]
    fn a_node_whose_filters_are_not_known_receives_everything() {
        let filters = Filters::default();
        filters.add_elsewhere("a", B);
        filters.doubt(A, true);
        filters.doubt(A, true);
        assert_eq!((nodes(&filters, "a"), nodes(&filters, "b")), (vec![A, B], vec![A]));
        filters.doubt(A, false);
        filters.doubt(A, false);
        filters.remove_elsewhere("a", B);
        assert!(nodes(&filters, "a").is_empty() && filters.is_empty());
    }
}
