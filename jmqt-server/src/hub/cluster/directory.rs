//! The nodes of the cluster, and the clients that are connected to other nodes.
//!
//! Each node announces its sessions, and shows every second that it is alive: on the bus and in the store. It is dead
//! if it does neither. This data may be slightly old; the store decides where that matters.
//!
//! With each beat a node sends a [`Digest`] of its sessions. A node that has received everything has the same digest;
//! a node with a different one requests the whole list. Each known session carries a tag, and is valid if the tags of
//! its node have not moved on. A node, or the content of an older list, is therefore forgotten at once, and removed
//! afterwards in small steps.

use std::collections::{HashMap, HashSet};
use std::hash::BuildHasher as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jmqt_core::ClientId;
use tokio::time::Instant;

use crate::bus::{Digest, NodeId, Presence, connection_info};
use crate::connection::ConnectionInfo;
use crate::name_map::NameMap;

/// A node that showed nothing for this long is dead, if the observer was looking during the whole time.
pub(super) const LEASE: Duration = Duration::from_secs(5);
/// A node that showed nothing for this long is dead if Redis reports that it is not subscribed.
const OVERDUE: Duration = Duration::from_millis(2500);
/// An observer that reads the store less often than this was not looking during the whole time.
const BLIND_AFTER: Duration = Duration::from_millis(2500);
/// If nothing arrives for this long from a node whose list was requested, or is arriving, the list is requested
/// again.
const LIST_TIMEOUT: Duration = Duration::from_secs(10);
/// The number of nodes whose lists are requested at a time, lowest numbers first, so that nodes that miss the same
/// lists receive them together.
const LISTS_AT_A_TIME: usize = 4;
/// The number of parts of the session table. Outdated entries are removed one part at a time.
const PARTS: usize = 256;

/// A session on another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Elsewhere {
    pub(super) node: NodeId,
    pub(super) generation: u64,
    pub(super) info: ConnectionInfo,
    /// The tag of its node when the session was announced.
    tag: u64,
}

/// The completeness of what is known of a node's sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Knowledge {
    /// All announcements up to the last digest were received.
    Whole,
    /// The digest differs from the known sessions.
    Wanting { asked: Option<Instant> },
    /// The list is arriving; `next` is the next part.
    Coming { list: u64, next: u32, last: Instant },
}

/// The result of a part of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The part is not needed.
    Unwanted,
    /// The part was added; more parts follow.
    Taken,
    /// The part was the last one. The number of sessions of the node that are now known.
    Last(u64),
}

#[derive(Debug)]
struct Node {
    /// The last time the node was heard on the bus.
    heard: Instant,
    /// The node's beat in the store, and the time when it last rose.
    beat: u64,
    rose: Instant,
    is_dead: bool,
    /// A message was sent to the node, and the node was not subscribed.
    is_missing: bool,
    /// The last time the node reported that it has the database.
    had_database: Option<Instant>,
    /// The digest of the announced sessions; `None` if announcements were missed.
    said: Option<Digest>,
    knowledge: Knowledge,
    /// Sessions that have ended since the list began to arrive, and that the list may still contain.
    closed: HashSet<(ClientId, u64)>,
    /// The tag for new announcements, and the lowest tag that is valid.
    tag: u64,
    counts_from: u64,
}

impl Node {
    fn new(now: Instant, tag: u64) -> Self {
        Self {
            heard: now,
            beat: 0,
            rose: now,
            is_dead: false,
            is_missing: false,
            had_database: None,
            said: Some(Digest::default()),
            knowledge: Knowledge::Whole,
            closed: HashSet::new(),
            tag,
            counts_from: tag,
        }
    }

    /// Discards the remaining parts of the arriving list.
    fn give_up_list(&mut self) {
        self.closed = HashSet::new();
        (self.said, self.knowledge) = (None, Knowledge::Wanting { asked: None });
    }
}

type Sessions = NameMap<ClientId, Elsewhere>;

struct Inner {
    nodes: HashMap<NodeId, Node>,
    parts: Box<[Sessions]>,
    part_of: foldhash::fast::RandomState,
    last_tag: u64,
    link_since: Option<Instant>,
    /// The last time the store was read.
    read: Option<Instant>,
    /// A node has ended or was silent. Its last messages may be lost.
    may_have_missed: bool,
    /// The table contains outdated sessions.
    needs_sweep: bool,
}

impl Default for Inner {
    fn default() -> Self {
        Self {
            nodes: HashMap::new(),
            parts: (0..PARTS).map(|_| HashMap::default()).collect(),
            part_of: foldhash::fast::RandomState::default(),
            last_tag: 0,
            link_since: None,
            read: None,
            may_have_missed: false,
            needs_sweep: false,
        }
    }
}

/// The nodes and their sessions.
#[derive(Default)]
pub(super) struct Directory(Mutex<Inner>);

impl Directory {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the bus is connected again. All nodes have a whole lease to be heard. Their digests tell whether
    /// announcements were missed.
    pub(super) fn link_up(&self, now: Instant) {
        let mut inner = self.lock();
        inner.link_since = Some(now);
        for node in inner.nodes.values_mut() {
            node.heard = now;
            if node.knowledge != Knowledge::Whole {
                node.give_up_list();
            }
        }
    }

    /// Records that the bus is disconnected and no node can be heard.
    pub(super) fn link_down(&self) {
        self.lock().link_since = None;
    }

    /// Records that a node was heard.
    pub(super) fn heard(&self, node: NodeId, now: Instant) {
        let mut inner = self.lock();
        let overdue = {
            let node = inner.node(node, now);
            let overdue = now - node.heard >= OVERDUE;
            (node.heard, node.is_missing) = (now, false);
            overdue
        };
        inner.may_have_missed |= overdue;
    }

    /// Records a beat of a node, with the digest of its sessions. Returns `true` if it shows for the first time that
    /// announcements were missed.
    pub(super) fn beaten(&self, node: NodeId, sessions: Digest, has_database: bool, now: Instant) -> bool {
        let mut inner = self.lock();
        let node = inner.node(node, now);
        if has_database {
            node.had_database = Some(now);
        }
        let is_the_same = node.said == Some(sessions);
        match node.knowledge {
            Knowledge::Whole if !is_the_same => {
                (node.said, node.knowledge) = (None, Knowledge::Wanting { asked: None });
                true
            }
            Knowledge::Whole | Knowledge::Wanting { .. } | Knowledge::Coming { .. } => false,
        }
    }

    /// The nodes whose lists should be requested now.
    pub(super) fn to_ask(&self, now: Instant) -> Vec<NodeId> {
        let mut inner = self.lock();
        if inner.link_since.is_none() {
            return Vec::new();
        }
        let mut wanting = Vec::new();
        let mut at_work = 0;
        for (id, node) in &mut inner.nodes {
            match node.knowledge {
                Knowledge::Coming { last, .. } if now - last >= LIST_TIMEOUT => node.give_up_list(),
                Knowledge::Wanting { asked: Some(asked) } if now - asked >= LIST_TIMEOUT => {
                    node.knowledge = Knowledge::Wanting { asked: None };
                }
                _ => {}
            }
            match node.knowledge {
                Knowledge::Wanting { asked: None } if now - node.heard < OVERDUE => wanting.push(*id),
                Knowledge::Wanting { asked: Some(_) } | Knowledge::Coming { .. } => at_work += 1,
                Knowledge::Wanting { asked: None } | Knowledge::Whole => {}
            }
        }
        wanting.sort_unstable();
        wanting.truncate(LISTS_AT_A_TIME.saturating_sub(at_work));
        for id in &wanting {
            inner.node(*id, now).knowledge = Knowledge::Wanting { asked: Some(now) };
        }
        wanting
    }

    /// Adds a part of a node's session list. `digest` is the digest at the time of the first part.
    pub(super) fn listed(
        &self,
        id: NodeId,
        (list, part, is_last): (u64, u32, bool),
        digest: Digest,
        sessions: &[Presence],
        now: Instant,
    ) -> Part {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let new_tag = inner.last_tag + 1;
        let Some(node) = inner.nodes.get_mut(&id) else { return Part::Unwanted };
        match node.knowledge {
            // A first part during another list begins a new list, because the old one was given up.
            Knowledge::Wanting { .. } | Knowledge::Coming { .. } if part == 0 => {
                (node.said, node.tag, inner.last_tag) = (Some(digest), new_tag, new_tag);
                node.closed.clear();
            }
            Knowledge::Coming { list: coming, next, .. } if (coming, next) == (list, part) => {}
            Knowledge::Coming { list: coming, .. } if coming == list => {
                node.give_up_list(); // a part was lost
                return Part::Unwanted;
            }
            _ => return Part::Unwanted,
        }
        node.knowledge = Knowledge::Coming { list, next: part + 1, last: now };
        let closed = std::mem::take(&mut node.closed);
        for presence in sessions {
            let key = ClientId::parse(&presence.client).ok().map(|client| (client, presence.generation));
            if key.is_none_or(|key| !closed.contains(&key)) {
                inner.put(id, presence);
            }
        }
        let Some(node) = inner.nodes.get_mut(&id) else { return Part::Unwanted };
        if !is_last {
            node.closed = closed;
            return Part::Taken;
        }
        (node.knowledge, node.counts_from) = (Knowledge::Whole, node.tag);
        let count = node.said.map_or(0, |said| said.count);
        inner.needs_sweep = true;
        Part::Last(count)
    }

    pub(super) fn opened(&self, id: NodeId, presence: &Presence) {
        let mut inner = self.lock();
        if let Some(said) = inner.nodes.get_mut(&id).and_then(|node| node.said.as_mut()) {
            said.add(&presence.client, presence.generation);
        }
        inner.put(id, presence);
    }

    pub(super) fn closed(&self, id: NodeId, client: &str, generation: u64) {
        let mut inner = self.lock();
        if let Some(node) = inner.nodes.get_mut(&id) {
            if let Some(said) = &mut node.said {
                said.remove(client, generation);
            }
            if matches!(node.knowledge, Knowledge::Coming { .. })
                && let Ok(client) = ClientId::parse(client)
            {
                node.closed.insert((client, generation));
            }
        }
        let part = inner.part(client);
        let is_it = |session: &Elsewhere| session.node == id && session.generation == generation;
        if inner.parts[part].get(client).is_some_and(is_it) {
            inner.parts[part].remove(client);
        }
    }

    /// The location of a client on another node.
    pub(super) fn find(&self, client: &str) -> Option<Elsewhere> {
        let inner = self.lock();
        let session = inner.parts[inner.part(client)].get(client)?;
        counts(&inner.nodes, session).then_some(*session)
    }

    /// All clients on other nodes.
    pub(super) fn all(&self) -> Vec<(ClientId, ConnectionInfo)> {
        let mut all = Vec::new();
        for part in 0..PARTS {
            let inner = self.lock(); // released in between, because other tasks look up clients here
            let sessions = inner.parts[part].iter().filter(|(_, session)| counts(&inner.nodes, session));
            all.extend(sessions.map(|(client, session)| (client.clone(), session.info)));
        }
        all
    }

    /// Returns `true` if a [sweep](Self::sweep) is needed, and resets the flag.
    pub(super) fn needs_sweep(&self) -> bool {
        std::mem::take(&mut self.lock().needs_sweep)
    }

    /// Removes outdated sessions from one part of the table, under its lock.
    fn sweep_part(&self, part: usize) {
        let mut inner = self.lock();
        let Inner { nodes, parts, .. } = &mut *inner;
        parts[part].retain(|_, session| counts(nodes, session));
        if parts[part].capacity() > 4 * parts[part].len() {
            parts[part].shrink_to_fit();
        }
    }

    /// Removes outdated sessions.
    pub(super) async fn sweep(&self) {
        for part in 0..PARTS {
            self.sweep_part(part);
            tokio::task::yield_now().await;
        }
    }

    /// Records the nodes and beats that were read from the store. Only a beat that has risen counts as a sign of
    /// life. Returns the nodes that have died; each is returned once.
    pub(super) fn beats(&self, beats: &[(NodeId, u64)], now: Instant) -> Vec<NodeId> {
        let mut inner = self.lock();
        let was_blind = inner.read.replace(now).is_none_or(|read| now - read > BLIND_AFTER);
        let known = inner.nodes.len();
        inner.nodes.retain(|id, node| beats.iter().any(|(of, _)| of == id) || now - node.heard < LEASE);
        if inner.nodes.len() < known {
            (inner.may_have_missed, inner.needs_sweep) = (true, true);
        }
        for (id, beat) in beats {
            let node = inner.node(*id, now);
            if node.beat < *beat {
                (node.beat, node.rose) = (*beat, now);
                if std::mem::replace(&mut node.is_dead, false) {
                    node.give_up_list();
                }
            }
        }
        if was_blind {
            // An observer that stalled cannot judge: all nodes have the whole lease again.
            inner.nodes.values_mut().for_each(|node| node.rose = now);
        }
        let hears = inner.link_since.is_some_and(|since| now - since >= LEASE);
        let named = |id: &NodeId| beats.iter().any(|(of, _)| of == id);
        let died = |(id, node): &(&NodeId, &mut Node)| {
            let is_silent = !hears || now - node.heard >= LEASE;
            let lease = if node.is_missing { OVERDUE } else { LEASE };
            named(id) && !node.is_dead && now - node.rose >= lease && (is_silent || node.is_missing)
        };
        let Inner { nodes, last_tag, .. } = &mut *inner;
        let dying = nodes.iter_mut().filter(died);
        let dead: Vec<_> = dying
            .map(|(id, node)| {
                *last_tag += 1;
                (node.is_dead, node.tag, node.counts_from) = (true, *last_tag, *last_tag);
                node.give_up_list();
                *id
            })
            .collect();
        if !dead.is_empty() {
            (inner.may_have_missed, inner.needs_sweep) = (true, true);
        }
        dead
    }

    /// Records that a node has announced its end.
    pub(super) fn left(&self, node: NodeId) {
        let mut inner = self.lock();
        inner.nodes.remove(&node);
        (inner.may_have_missed, inner.needs_sweep) = (true, true);
    }

    /// Returns `true` if messages of a node may have been lost, and resets the flag.
    pub(super) fn may_have_missed(&self) -> bool {
        std::mem::take(&mut self.lock().may_have_missed)
    }

    /// The dead nodes, with the last beats seen.
    pub(super) fn dead(&self) -> Vec<(NodeId, u64)> {
        let inner = self.lock();
        let dead = inner.nodes.iter().filter(|(_, node)| node.is_dead);
        dead.map(|(id, node)| (*id, node.beat)).collect()
    }

    pub(super) fn is_dead(&self, node: NodeId) -> bool {
        self.lock().nodes.get(&node).is_some_and(|node| node.is_dead)
    }

    /// Records that a node is not subscribed. It does not count as alive until it is heard again.
    pub(super) fn not_listening(&self, node: NodeId) {
        if let Some(node) = self.lock().nodes.get_mut(&node) {
            node.is_missing = true;
        }
    }

    /// Returns `true` if a node was heard recently.
    pub(super) fn is_here(&self, node: NodeId, now: Instant) -> bool {
        let inner = self.lock();
        inner.link_since.is_some() && inner.nodes.get(&node).is_some_and(|node| node.is_here(now))
    }

    /// The nodes that were heard recently.
    pub(super) fn present(&self, now: Instant) -> Vec<NodeId> {
        let inner = self.lock();
        if inner.link_since.is_none() {
            return Vec::new();
        }
        inner.nodes.iter().filter(|(_, node)| node.is_here(now)).map(|(id, _)| *id).collect()
    }

    /// The nodes that are not dead.
    pub(super) fn alive(&self) -> Vec<NodeId> {
        self.lock().nodes.iter().filter(|(_, node)| !node.is_dead).map(|(id, _)| *id).collect()
    }

    /// Returns `true` if the nodes have been read from the store.
    pub(super) fn has_read_nodes(&self) -> bool {
        self.lock().read.is_some()
    }

    /// Returns `true` if another live node has reported since `since` that it has the database.
    pub(super) fn has_database_elsewhere(&self, since: Instant, now: Instant) -> bool {
        let inner = self.lock();
        let has = |node: &Node| node.had_database.is_some_and(|had| had >= since) && node.is_here(now);
        inner.link_since.is_some() && inner.nodes.values().any(has)
    }

    /// Returns `true` if another node is alive.
    pub(super) fn has_others(&self, now: Instant) -> bool {
        let inner = self.lock();
        inner.nodes.values().any(|node| !node.is_dead && !node.is_missing && now - node.heard < OVERDUE)
    }

    /// Returns `true` if no live node has a lower number than `own`.
    pub(super) fn is_first(&self, own: NodeId) -> bool {
        !self.lock().nodes.iter().any(|(id, node)| *id < own && !node.is_dead)
    }
}

impl Node {
    fn is_here(&self, now: Instant) -> bool {
        !self.is_dead && !self.is_missing && now - self.heard < OVERDUE
    }
}

/// Returns `true` if the entry of a session is still valid.
fn counts(nodes: &HashMap<NodeId, Node>, session: &Elsewhere) -> bool {
    nodes.get(&session.node).is_some_and(|node| session.tag >= node.counts_from)
}

impl Inner {
    fn node(&mut self, id: NodeId, now: Instant) -> &mut Node {
        let Self { nodes, last_tag, .. } = self;
        nodes.entry(id).or_insert_with(|| {
            *last_tag += 1;
            Node::new(now, *last_tag)
        })
    }

    fn part(&self, client: &str) -> usize {
        (self.part_of.hash_one(client) >> 32) as usize % PARTS
    }

    fn put(&mut self, id: NodeId, presence: &Presence) {
        let Some(node) = self.nodes.get(&id) else { return };
        let Ok(client) = ClientId::parse(&presence.client) else { return };
        let Some(info) = connection_info(&presence.protocol, &presence.address) else { return };
        let generation = presence.generation;
        let session = Elsewhere { node: id, generation, info, tag: node.tag };
        let part = self.part(client.as_str());
        let place = self.parts[part].entry(client).or_insert(session);
        if place.generation <= generation || !counts(&self.nodes, place) {
            *place = session;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);
    const SECOND: Duration = Duration::from_secs(1);

    fn presence(client: &str, generation: u64) -> Presence {
        Presence {
            client: client.to_owned(),
            generation,
            protocol: "SOCKET".to_owned(),
            address: "127.0.0.1:1".to_owned(),
        }
    }

    fn node_of(directory: &Directory, client: &str) -> Option<NodeId> {
        directory.find(client).map(|session| session.node)
    }

    fn digest(sessions: &[(&str, u64)]) -> Digest {
        let mut digest = Digest::default();
        sessions.iter().for_each(|(client, generation)| digest.add(client, *generation));
        digest
    }

    fn all(directory: &Directory) -> Vec<String> {
        let mut all: Vec<_> = directory.all().into_iter().map(|(client, _)| client.to_string()).collect();
        all.sort();
        all
    }

    /// A directory that hears both nodes.
    fn with_both(now: Instant) -> Directory {
        let directory = Directory::default();
        directory.link_up(now);
        directory.heard(A, now);
        directory.heard(B, now);
        directory
    }

    #[test] // protocol.md 2.4: the newer session counts, in whatever order one hears of the two
    fn the_session_with_the_higher_generation_is_valid() {
        let directory = with_both(Instant::now());
        directory.opened(B, &presence("bob", 8));
        directory.opened(A, &presence("bob", 7));
        assert_eq!(node_of(&directory, "bob"), Some(B));
        directory.closed(A, "bob", 7);
        assert_eq!(node_of(&directory, "bob"), Some(B));
        directory.closed(B, "bob", 8);
        assert_eq!(node_of(&directory, "bob"), None);
    }

    #[test]
    fn a_node_with_all_sessions_requests_no_list_after_a_reconnect() {
        let now = Instant::now();
        let directory = with_both(now);
        directory.opened(A, &presence("alice", 1));
        directory.opened(A, &presence("bob", 7));
        directory.opened(B, &presence("bob", 8)); // bob has moved, and A has not announced it yet
        assert!(!directory.beaten(A, digest(&[("alice", 1), ("bob", 7)]), true, now));
        directory.closed(A, "bob", 7);
        directory.link_down();
        directory.link_up(now);
        assert!(!directory.beaten(A, digest(&[("alice", 1)]), true, now));
        assert!(!directory.beaten(B, digest(&[("bob", 8)]), true, now));
        assert_eq!(directory.to_ask(now), []);
        assert_eq!(all(&directory), ["alice", "bob"]);
    }

    #[test]
    fn a_list_is_requested_once_after_a_loss_and_replaces_the_entries() {
        let now = Instant::now();
        let directory = with_both(now);
        directory.opened(A, &presence("gone", 1));
        directory.opened(B, &presence("bob", 2));
        let of_a = digest(&[("alice", 3), ("dave", 4)]);
        assert!(directory.beaten(A, of_a, true, now), "the loss is reported once");
        assert!(!directory.beaten(A, of_a, true, now));
        assert_eq!((directory.to_ask(now), directory.to_ask(now)), (vec![A], vec![]));
        let part = |part, sessions: &[Presence], is_last| {
            directory.listed(A, (9, part, is_last), of_a, sessions, now)
        };
        assert_eq!(part(0, &[], false), Part::Taken);
        directory.closed(A, "dave", 4); // one ends, and another begins, while the list is in transit
        directory.opened(A, &presence("carol", 5));
        assert_eq!(part(1, &[presence("alice", 3), presence("dave", 4)], false), Part::Taken);
        assert_eq!(part(2, &[], true), Part::Last(2));
        assert_eq!(all(&directory), ["alice", "bob", "carol"]);
        assert!(!directory.beaten(A, digest(&[("alice", 3), ("carol", 5)]), true, now));
        assert_eq!(directory.to_ask(now), []);
        assert_eq!(part(0, &[presence("nobody", 9)], true), Part::Unwanted, "the part is not needed here");
    }

    #[test]
    fn a_list_with_a_lost_part_or_without_progress_is_requested_again() {
        let now = Instant::now();
        let directory = with_both(now);
        let of_a = digest(&[("alice", 3), ("bob", 4)]);
        directory.beaten(A, of_a, true, now);
        assert_eq!(directory.to_ask(now), [A]);
        let part = |part, is_last, now| directory.listed(A, (9, part, is_last), of_a, &[], now);
        assert_eq!(part(0, false, now), Part::Taken);
        assert_eq!(part(2, true, now), Part::Unwanted);
        assert_eq!(directory.to_ask(now), [A]);
        assert_eq!(part(0, false, now), Part::Taken);
        let later = now + LIST_TIMEOUT;
        directory.heard(A, later);
        assert_eq!((directory.to_ask(later - SECOND), directory.to_ask(later)), (vec![], vec![A]));
    }

    #[test]
    fn the_number_of_requested_lists_is_limited() {
        let now = Instant::now();
        let directory = Directory::default();
        directory.link_up(now);
        for node in (1..=9).rev().map(NodeId) {
            directory.beaten(node, digest(&[("alice", node.0)]), true, now);
        }
        assert_eq!(directory.to_ask(now), [1, 2, 3, 4].map(NodeId));
        assert_eq!(directory.to_ask(now), []);
        let of_3 = digest(&[("alice", 3)]);
        assert_eq!(
            directory.listed(NodeId(3), (1, 0, true), of_3, &[presence("alice", 3)], now),
            Part::Last(1)
        );
        assert_eq!(directory.to_ask(now), [NodeId(5)]);
    }

    #[tokio::test]
    async fn entries_of_a_departed_node_are_invalid_and_removed() {
        let now = Instant::now();
        let directory = with_both(now);
        for client in 0..1000 {
            directory.opened(A, &presence(&format!("a{client}"), 1));
            directory.opened(B, &presence(&format!("b{client}"), 1));
        }
        let held = |directory: &Directory| directory.lock().parts.iter().map(HashMap::len).sum::<usize>();
        directory.left(A);
        directory.heard(A, now); // a node that returns is a new one
        assert_eq!((node_of(&directory, "a1"), node_of(&directory, "b1")), (None, Some(B)));
        assert_eq!((held(&directory), directory.all().len()), (2000, 1000));
        directory.opened(A, &presence("a1", 1));
        assert!(directory.needs_sweep() && !directory.needs_sweep());
        directory.sweep().await;
        assert_eq!((held(&directory), node_of(&directory, "a1")), (1001, Some(A)));
    }

    #[test]
    fn another_node_has_the_database_if_it_reported_so_recently_and_is_alive() {
        let now = Instant::now();
        let directory = with_both(now);
        directory.beaten(A, Digest::default(), false, now);
        assert!(!directory.has_database_elsewhere(now, now));
        directory.beaten(A, Digest::default(), true, now);
        assert!(directory.has_database_elsewhere(now, now));
        assert!(
            !directory.has_database_elsewhere(now + SECOND, now + SECOND),
            "the node has not reported it since"
        );
        assert!(!directory.has_database_elsewhere(now, now + OVERDUE), "the node is silent");
    }

    /// A directory that has read the store every second since `start`, when `A` was alive.
    fn with_a(start: Instant) -> Directory {
        let directory = Directory::default();
        directory.link_up(start);
        directory.heard(A, start);
        directory.opened(A, &presence("alice", 1));
        directory.beats(&[(A, 1)], start);
        directory
    }

    /// Reads the store every second, for this many seconds from `start`. Returns the time at which `A` was found
    /// dead.
    fn look(
        directory: &Directory,
        start: Instant,
        seconds: std::ops::RangeInclusive<u32>,
        beat: u64,
    ) -> Option<u32> {
        let mut dead = None;
        for second in seconds {
            if directory.beats(&[(A, beat)], start + SECOND * second) == [A] {
                dead.get_or_insert(second);
            }
        }
        dead
    }

    #[test]
    fn a_node_without_signs_of_life_for_the_lease_is_dead() {
        let start = Instant::now();
        let directory = with_a(start);
        assert_eq!(look(&directory, start, 1..=20, 1), Some(5));
        assert!(directory.is_dead(A) && node_of(&directory, "alice").is_none());
        assert!(directory.may_have_missed());
        let back = start + SECOND * 21;
        assert!(directory.beats(&[(A, 2)], back).is_empty());
        assert!(!directory.is_dead(A), "the node is back");
        directory.heard(A, back);
        assert_eq!(directory.to_ask(back), [A], "the list of the node is missing");
    }

    #[test]
    fn a_dead_node_without_a_new_beat_stays_dead() {
        let start = Instant::now();
        let directory = with_a(start);
        assert_eq!(look(&directory, start, 1..=6, 1), Some(5));
        for (second, beat) in (7..).zip([1, 1, 0, 1]) {
            assert!(directory.beats(&[(A, beat)], start + SECOND * second).is_empty());
            assert!(directory.is_dead(A), "{beat}");
        }
        assert_eq!(directory.dead(), [(A, 1)]);
    }

    #[test]
    fn a_node_that_is_not_subscribed_in_redis_is_dead_sooner() {
        let start = Instant::now();
        let directory = with_a(start);
        directory.not_listening(A);
        assert_eq!(look(&directory, start, 1..=20, 1), Some(3));
    }

    #[test]
    fn a_node_with_a_sign_of_life_on_bus_or_store_is_not_dead() {
        let start = Instant::now();
        let (heard, beats) = (with_a(start), with_a(start));
        beats.not_listening(A);
        for second in 1..20 {
            let now = start + SECOND * second;
            heard.heard(A, now);
            assert_eq!(heard.beats(&[(A, 1)], now), [], "node A has lost the database");
            assert_eq!(beats.beats(&[(A, second.into())], now), [], "node A has lost Redis");
        }
        assert_eq!(node_of(&beats, "alice"), Some(A));
    }

    #[test]
    fn a_stalled_observer_declares_no_node_dead() {
        let start = Instant::now();
        let directory = with_a(start);
        let later = start + SECOND * 30; // it stalled itself
        assert_eq!(directory.beats(&[(A, 1)], later), []);
        assert_eq!(look(&directory, later, 1..=20, 1), Some(5));
    }

    #[test]
    fn without_redis_the_store_alone_decides() {
        let start = Instant::now();
        let directory = with_a(start);
        directory.link_down();
        assert!(!directory.is_here(A, start + SECOND));
        assert_eq!(look(&directory, start, 1..=20, 1), Some(5));
    }

    #[test]
    fn a_node_that_announced_its_end_is_not_reported_dead() {
        let start = Instant::now();
        let directory = with_a(start);
        directory.left(A);
        assert!(directory.may_have_missed() && !directory.may_have_missed(), "its last messages may be lost");
        for second in 1..20 {
            assert_eq!(directory.beats(&[], start + SECOND * second), []);
        }
        assert!(directory.lock().nodes.is_empty() && !directory.may_have_missed());
    }

    #[test]
    fn messages_of_a_node_that_was_not_heard_may_be_lost() {
        let start = Instant::now();
        let directory = with_a(start);
        for second in 1..=8 {
            directory.beats(&[(A, second.into())], start + SECOND * second);
            if second <= 3 {
                directory.heard(A, start + SECOND * second);
            }
        }
        assert!(!directory.is_dead(A) && !directory.may_have_missed());
        directory.heard(A, start + SECOND * 8);
        assert!(directory.may_have_missed(), "the node is heard again");
        // It ended, and its last messages were not heard.
        for second in 9..=12 {
            directory.beats(&[], start + SECOND * second);
            assert!(!directory.may_have_missed());
        }
        directory.beats(&[], start + SECOND * 13);
        assert!(directory.may_have_missed());
    }

    #[test]
    fn the_first_node_is_the_lowest_one_that_is_not_dead() {
        let start = Instant::now();
        let directory = with_a(start);
        assert!(!directory.is_first(B) && directory.is_first(NodeId(0)));
        look(&directory, start, 1..=6, 1);
        assert!(directory.is_first(B));
    }
}
