//! The filters with wildcards of persistent sessions, and the cursors that they need.
//!
//! A log is read from cursors, and a filter has a cursor in each channel that it matches. The cursor is created by the
//! batch that appends the first message there, just before this message, so no message is missed and nothing is written for
//! channels without messages. [`expanded`](PersistentFilters::expanded) adds these steps to a batch; the plan does not know
//! filters.
//!
//! A filter takes about 250 bytes here. The committer is the only user.

use std::collections::{HashMap, HashSet};

use jmqt_core::{ChannelKind, ChannelName, ClientId};
use jmqt_mqtt::{Filter, Trie};

use super::{Append, Operation, Outcome, SubscriptionOptions, owner_of};
use crate::name_map::NameMap;

/// The limit for channels whose cursors are known to be complete. A full table is emptied.
const COMPLETE: usize = 65_536;

/// See the module documentation.
#[derive(Debug, Default)]
pub(super) struct PersistentFilters {
    trie: Trie<Vec<ClientId>>,
    /// The number of filters of each client.
    clients: HashMap<ClientId, usize, foldhash::fast::RandomState>,
    /// The members of each group, by the owner of its cursors.
    groups: HashMap<ClientId, Vec<ClientId>, foldhash::fast::RandomState>,
    /// Groups that have lost their last member, and may have cursors.
    ended: Vec<ClientId>,
    /// Rises with every change.
    version: u64,
    /// Channels, with the version at which all matching clients had a cursor there.
    complete: NameMap<ChannelName, u64>,
}

/// A batch with the steps that filters need.
#[derive(Debug, Default)]
pub(super) struct Expanded {
    pub(super) batch: Vec<Operation>,
    /// Each operation: `None` if it was added, otherwise what becomes of its outcome.
    fates: Vec<Option<Fate>>,
    /// The channels that are complete after the batch.
    complete: HashSet<ChannelName>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    AsIs,
    /// An `Unsubscribe` that only lets a cursor go on for a filter.
    Unsubscribed,
}

impl Expanded {
    fn add(&mut self, operation: Operation) {
        self.batch.push(operation);
        self.fates.push(None);
    }

    /// The outcomes of the original batch.
    pub(super) fn outcomes(&self, outcomes: Vec<Outcome>) -> Vec<Outcome> {
        let outcome = |(outcome, fate): (Outcome, &Option<Fate>)| match fate {
            None => None,
            Some(Fate::AsIs) => Some(outcome),
            Some(Fate::Unsubscribed) => Some(Outcome::Unsubscribed(true)),
        };
        outcomes.into_iter().zip(&self.fates).filter_map(outcome).collect()
    }
}

/// Returns `true` for a filter that needs cursors.
pub(super) fn needs_cursors(options: SubscriptionOptions) -> bool {
    options.qos() != jmqt_core::Qos::AtMostOnce
}

impl PersistentFilters {
    pub(super) fn is_empty(&self) -> bool {
        self.trie.is_empty()
    }

    pub(super) fn insert(&mut self, client: &ClientId, filter: &str) {
        let Ok(parsed) = Filter::parse(filter) else { return };
        if parsed.group().is_some() {
            return self.insert_share(client, parsed);
        }
        let clients = self.trie.get_or_insert_with(parsed.levels(), Vec::new);
        if !clients.contains(client) {
            clients.push(client.clone());
            *self.clients.entry(client.clone()).or_default() += 1;
            self.version += 1;
        }
    }

    /// The owner of a group takes the place of its members.
    fn insert_share(&mut self, client: &ClientId, filter: Filter<'_>) {
        let Some(owner) = owner_of(filter) else { return };
        let members = self.groups.entry(owner.clone()).or_default();
        if members.contains(client) {
            return;
        }
        members.push(client.clone());
        *self.clients.entry(client.clone()).or_default() += 1;
        if members.len() == 1 {
            self.trie.get_or_insert_with(filter.levels(), Vec::new).push(owner);
            self.version += 1;
        }
    }

    fn remove_share(&mut self, client: &ClientId, filter: Filter<'_>) {
        let Some(owner) = owner_of(filter) else { return };
        let Some(members) = self.groups.get_mut(&owner) else { return };
        let Some(at) = members.iter().position(|member| member == client) else { return };
        members.swap_remove(at);
        if members.is_empty() {
            self.groups.remove(&owner);
            if let Some(owners) = self.trie.get_mut(filter.levels()) {
                owners.retain(|other| *other != owner);
                if owners.is_empty() {
                    self.trie.remove(filter.levels());
                }
            }
            self.ended.push(owner);
            self.version += 1;
        }
        self.lost_one(client);
    }

    fn lost_one(&mut self, client: &ClientId) {
        if let Some(count) = self.clients.get_mut(client) {
            *count -= 1;
            if *count == 0 {
                self.clients.remove(client);
            }
        }
    }

    /// Returns `true` if the group of this owner has a member.
    pub(super) fn has_group(&self, owner: &ClientId) -> bool {
        self.groups.contains_key(owner)
    }

    /// Groups without members that may have cursors.
    pub(super) fn ended_groups(&self) -> &[ClientId] {
        &self.ended
    }

    /// Notes groups that have cursors. Those without members have ended.
    pub(super) fn found_groups(&mut self, owners: impl IntoIterator<Item = ClientId>) {
        let without_members = owners.into_iter().filter(|owner| !self.groups.contains_key(owner));
        self.ended.extend(without_members.collect::<Vec<_>>());
    }

    /// The cursors of ended groups are deleted.
    pub(super) fn ended_groups_are_gone(&mut self) {
        self.ended.clear();
    }

    pub(super) fn remove(&mut self, client: &ClientId, filter: &str) {
        let Ok(parsed) = Filter::parse(filter) else { return };
        if parsed.group().is_some() {
            return self.remove_share(client, parsed);
        }
        let Some(clients) = self.trie.get_mut(parsed.levels()) else { return };
        let Some(at) = clients.iter().position(|having| having == client) else { return };
        clients.swap_remove(at);
        if clients.is_empty() {
            self.trie.remove(parsed.levels());
        }
        self.lost_one(client);
        self.version += 1;
    }

    /// Returns `true` if this client has a filter.
    pub(super) fn has(&self, client: &ClientId) -> bool {
        self.clients.contains_key(client)
    }

    /// Returns `true` if a filter of the client matches this channel.
    pub(super) fn matches(&self, client: &ClientId, channel: &ChannelName) -> bool {
        let mut found = false;
        if channel.kind() == ChannelKind::Plain && (self.has(client) || self.has_group(client)) {
            self.trie.for_each_match(channel.as_str(), |clients| found |= clients.contains(client));
        }
        found
    }

    /// The clients with a filter that matches this channel.
    fn matching(&self, channel: &ChannelName) -> Vec<&ClientId> {
        let mut matching: Vec<&ClientId> = Vec::new();
        if channel.kind() == ChannelKind::Plain {
            self.trie.for_each_match(channel.as_str(), |clients| matching.extend(clients));
        }
        matching.sort_unstable();
        matching.dedup();
        matching
    }

    /// Returns `true` if all clients with a matching filter have a cursor in the channel of this message.
    fn is_complete(&mut self, append: &Append) -> bool {
        if !append.log || self.complete.get(&append.channel) == Some(&self.version) {
            return true;
        }
        let is_unwanted = self.matching(&append.channel).is_empty();
        if is_unwanted {
            self.note_complete(append.channel.clone());
        }
        is_unwanted
    }

    /// Returns `true` if filters add nothing to this operation.
    fn is_plain(&mut self, operation: &Operation) -> bool {
        match operation {
            Operation::Unsubscribe { client, channel } => !self.matches(client, channel),
            _ => operation.append().is_none_or(|append| self.is_complete(append)),
        }
    }

    /// Another node has deleted cursors.
    #[cfg(feature = "mysql")]
    pub(super) fn forget_complete(&mut self) {
        self.complete.clear();
    }

    fn note_complete(&mut self, channel: ChannelName) {
        if self.complete.len() >= COMPLETE {
            self.complete.clear();
        }
        self.complete.insert(channel, self.version);
    }

    /// The batch with the steps that the filters need; `None` if there are none. The filters must have the changes of the
    /// batch already: they hold for all of it. `outdated` are the channels where clients have cursors that may not be
    /// needed any more.
    pub(super) fn expanded(
        &mut self,
        batch: &[Operation],
        outdated: &[(ClientId, ChannelName)],
    ) -> Option<Expanded> {
        // Before the appends of the batch are looked at: their cursors may end in it.
        for operation in batch {
            if let Operation::EndIdleCursor { channel, .. } = operation {
                self.complete.remove(channel);
            }
        }
        if outdated.is_empty() && (self.is_empty() || batch.iter().all(|operation| self.is_plain(operation)))
        {
            return None;
        }
        let mut expanded = Expanded::default();
        for (client, channel) in outdated {
            if !self.matches(client, channel) {
                expanded.add(Operation::EndCursor { client: client.clone(), channel: channel.clone() });
            }
        }
        for operation in batch {
            if let Operation::Unsubscribe { client, channel } = operation
                && self.matches(client, channel)
            {
                expanded.batch.push(Operation::Subscribe {
                    client: client.clone(),
                    channel: channel.clone(),
                    options: SubscriptionOptions::OF_FILTER,
                });
                expanded.fates.push(Some(Fate::Unsubscribed));
                continue;
            }
            if let Some(Append { channel, .. }) =
                operation.append().filter(|append| !self.is_complete(append))
                && expanded.complete.insert(channel.clone())
            {
                for client in self.matching(channel) {
                    let (client, channel) = (client.clone(), channel.clone());
                    expanded.add(Operation::BeginCursor { client, channel });
                }
            }
            expanded.batch.push(operation.clone());
            expanded.fates.push(Some(Fate::AsIs));
        }
        Some(expanded)
    }

    /// Records that a batch was committed.
    pub(super) fn committed(&mut self, expanded: Expanded) {
        for channel in expanded.complete {
            self.note_complete(channel);
        }
    }
}
