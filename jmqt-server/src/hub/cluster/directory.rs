//! Which nodes there are, and who is connected to the others.
//!
//! Every node tells the others of its sessions, and shows every second that it is there: on the bus, and in
//! the store. It is dead when it does neither. What is known here may be a moment old; the store decides
//! where that matters.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jmqt_protocol::ClientId;
use tokio::time::Instant;

use crate::bus::{NodeId, Presence, connection_info};
use crate::validators::ConnectionInfo;

/// A node that showed nothing for so long is dead, if it could have been noticed all the time.
pub(super) const LEASE: Duration = Duration::from_secs(5);
/// A node that showed nothing for so long may be dead; it is, if Redis knows that it does not listen.
const OVERDUE: Duration = Duration::from_millis(2500);
/// Who looks into the store less often than this has not looked all the time.
const BLIND_AFTER: Duration = Duration::from_millis(2500);
/// A node that owes its list of sessions is asked for it this often.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// A session on another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Elsewhere {
    pub(super) node: NodeId,
    pub(super) generation: u64,
    pub(super) info: ConnectionInfo,
    /// The list of its node that named it last.
    list: u64,
}

#[derive(Debug)]
struct Node {
    /// When it was last heard on the bus.
    heard: Instant,
    /// Its beat in the store, and when that was seen to rise.
    beat: u64,
    rose: Instant,
    is_dead: bool,
    /// Something was sent to it, and it was not listening.
    is_missing: bool,
    /// Its list has been received, and nothing was lost since.
    is_synced: bool,
    asked: Option<Instant>,
    /// The list that is being received, or was last.
    list: u64,
    /// Sessions that have ended since that began: it may name them still.
    closed: HashSet<(ClientId, u64)>,
}

impl Node {
    fn new(now: Instant) -> Self {
        Self {
            heard: now,
            beat: 0,
            rose: now,
            is_dead: false,
            is_missing: false,
            is_synced: false,
            asked: None,
            list: 0,
            closed: HashSet::new(),
        }
    }
}

#[derive(Default)]
struct Inner {
    nodes: HashMap<NodeId, Node>,
    clients: HashMap<ClientId, Elsewhere, foldhash::fast::RandomState>,
    link_since: Option<Instant>,
    /// When the store was last read.
    read: Option<Instant>,
    /// A node is gone, or was silent: what it said last may not have reached this one.
    may_have_missed: bool,
}

/// See the module.
#[derive(Default)]
pub(super) struct Directory(Mutex<Inner>);

impl Directory {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The link stands again: everybody has the whole lease to be heard, and owes its list.
    pub(super) fn link_up(&self, now: Instant) {
        let mut inner = self.lock();
        inner.link_since = Some(now);
        for node in inner.nodes.values_mut() {
            (node.heard, node.is_synced, node.asked) = (now, false, None);
        }
    }

    /// Nobody can be heard.
    pub(super) fn link_down(&self) {
        self.lock().link_since = None;
    }

    /// A node is there. `true`: it is to be asked for its sessions.
    pub(super) fn heard(&self, node: NodeId, now: Instant) -> bool {
        let mut inner = self.lock();
        let Inner { nodes, may_have_missed, .. } = &mut *inner;
        let node = nodes.entry(node).or_insert_with(|| Node::new(now));
        *may_have_missed |= now - node.heard >= OVERDUE;
        (node.heard, node.is_missing) = (now, false);
        let owes = !node.is_synced && node.asked.is_none_or(|asked| now - asked >= ASK_EVERY);
        if owes {
            node.asked = Some(now);
        }
        owes
    }

    /// The store has been read: these are the nodes that it knows of, with their beats. Only a beat that has
    /// risen is news. Returns those that have died by now; each is told once.
    pub(super) fn beats(&self, beats: &[(NodeId, u64)], now: Instant) -> Vec<NodeId> {
        let mut inner = self.lock();
        let was_blind = inner.read.replace(now).is_none_or(|read| now - read > BLIND_AFTER);
        let Inner { nodes, clients, may_have_missed, .. } = &mut *inner;
        let known = nodes.len();
        nodes.retain(|id, node| beats.iter().any(|(of, _)| of == id) || now - node.heard < LEASE);
        *may_have_missed |= nodes.len() < known;
        clients.retain(|_, session| nodes.contains_key(&session.node));
        for (id, beat) in beats {
            let node = inner.nodes.entry(*id).or_insert_with(|| Node::new(now));
            if node.beat < *beat {
                (node.beat, node.rose) = (*beat, now);
                if std::mem::replace(&mut node.is_dead, false) {
                    node.is_synced = false;
                }
            }
        }
        if was_blind {
            // Whoever could not see cannot judge: everybody has the whole lease again.
            inner.nodes.values_mut().for_each(|node| node.rose = now);
        }
        let hears = inner.link_since.is_some_and(|since| now - since >= LEASE);
        let named = |id: &NodeId| beats.iter().any(|(of, _)| of == id);
        let died = |(id, node): &(&NodeId, &mut Node)| {
            let is_silent = !hears || now - node.heard >= LEASE;
            let lease = if node.is_missing { OVERDUE } else { LEASE };
            named(id) && !node.is_dead && now - node.rose >= lease && (is_silent || node.is_missing)
        };
        let dying = inner.nodes.iter_mut().filter(died);
        let dead: Vec<_> = dying
            .map(|(id, node)| {
                node.is_dead = true;
                *id
            })
            .collect();
        if !dead.is_empty() {
            inner.may_have_missed = true;
            inner.clients.retain(|_, session| !dead.contains(&session.node));
        }
        dead
    }

    /// A node says that it ends.
    pub(super) fn left(&self, node: NodeId) {
        let mut inner = self.lock();
        inner.nodes.remove(&node);
        inner.clients.retain(|_, session| session.node != node);
        inner.may_have_missed = true;
    }

    /// Whether something a node said may not have reached this one; tells of it once.
    pub(super) fn may_have_missed(&self) -> bool {
        std::mem::take(&mut self.lock().may_have_missed)
    }

    /// Those that are dead, with the last beats that were seen of them.
    pub(super) fn dead(&self) -> Vec<(NodeId, u64)> {
        let inner = self.lock();
        let dead = inner.nodes.iter().filter(|(_, node)| node.is_dead);
        dead.map(|(id, node)| (*id, node.beat)).collect()
    }

    pub(super) fn is_dead(&self, node: NodeId) -> bool {
        self.lock().nodes.get(&node).is_some_and(|node| node.is_dead)
    }

    /// A node does not listen at this moment: it is not known to be here until it is heard again.
    pub(super) fn not_listening(&self, node: NodeId) {
        if let Some(node) = self.lock().nodes.get_mut(&node) {
            node.is_missing = true;
        }
    }

    /// Whether a node was heard lately.
    pub(super) fn is_here(&self, node: NodeId, now: Instant) -> bool {
        let inner = self.lock();
        inner.link_since.is_some()
            && inner
                .nodes
                .get(&node)
                .is_some_and(|node| !node.is_dead && !node.is_missing && now - node.heard < OVERDUE)
    }

    /// Whether no node that is there has a lower number than `own`.
    /// Whether any other node is there.
    pub(super) fn has_others(&self, now: Instant) -> bool {
        let inner = self.lock();
        inner.nodes.values().any(|node| !node.is_dead && !node.is_missing && now - node.heard < OVERDUE)
    }

    pub(super) fn is_first(&self, own: NodeId) -> bool {
        !self.lock().nodes.iter().any(|(id, node)| *id < own && !node.is_dead)
    }

    pub(super) fn opened(&self, node: NodeId, presence: &Presence) {
        let mut inner = self.lock();
        let list = inner.nodes.get(&node).map_or(0, |node| node.list);
        inner.put(node, presence, list);
    }

    pub(super) fn closed(&self, node: NodeId, client: &str, generation: u64) {
        let mut inner = self.lock();
        if let Some(node) = inner.nodes.get_mut(&node).filter(|node| !node.is_synced)
            && let Ok(client) = ClientId::parse(client)
        {
            node.closed.insert((client, generation));
        }
        let is_it = |session: &Elsewhere| session.node == node && session.generation == generation;
        if inner.clients.get(client).is_some_and(is_it) {
            inner.clients.remove(client);
        }
    }

    /// A part of a node's list of sessions.
    pub(super) fn listed(&self, node: NodeId, list: u64, sessions: &[Presence], is_last: bool) {
        let mut inner = self.lock();
        let mut closed = HashSet::new();
        if let Some(node) = inner.nodes.get_mut(&node) {
            if node.list != list {
                node.closed.clear();
            }
            (node.list, node.is_synced) = (list, is_last);
            closed = std::mem::take(&mut node.closed);
        }
        for presence in sessions {
            let key = ClientId::parse(&presence.client).ok().map(|client| (client, presence.generation));
            if key.is_none_or(|key| !closed.contains(&key)) {
                inner.put(node, presence, list);
            }
        }
        if let Some(node) = inner.nodes.get_mut(&node).filter(|_| !is_last) {
            node.closed = closed;
        }
        if is_last {
            inner.clients.retain(|_, session| session.node != node || session.list >= list);
        }
    }

    /// Where a client is, if it is on another node.
    pub(super) fn find(&self, client: &str) -> Option<Elsewhere> {
        self.lock().clients.get(client).copied()
    }

    /// Everybody who is on another node.
    pub(super) fn all(&self) -> Vec<(ClientId, ConnectionInfo)> {
        self.lock().clients.iter().map(|(client, session)| (client.clone(), session.info)).collect()
    }
}

impl Inner {
    fn put(&mut self, node: NodeId, presence: &Presence, list: u64) {
        let Ok(client) = ClientId::parse(&presence.client) else { return };
        let Some(info) = connection_info(&presence.protocol, &presence.address) else { return };
        let generation = presence.generation;
        let session = Elsewhere { node, generation, info, list };
        let place = self.clients.entry(client).or_insert(session);
        if place.generation <= generation {
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

    #[test] // protocol.md 2.4: the newer session counts, in whatever order one hears of the two
    fn the_session_with_the_higher_generation_counts() {
        let directory = Directory::default();
        directory.opened(B, &presence("bob", 8));
        directory.opened(A, &presence("bob", 7));
        assert_eq!(node_of(&directory, "bob"), Some(B));
        directory.closed(A, "bob", 7);
        assert_eq!(node_of(&directory, "bob"), Some(B));
        directory.closed(B, "bob", 8);
        assert_eq!(node_of(&directory, "bob"), None);
    }

    #[test]
    fn a_session_that_ends_while_its_list_is_on_its_way_stays_ended() {
        let directory = Directory::default();
        directory.heard(A, Instant::now());
        directory.listed(A, 1, &[], false);
        directory.closed(A, "alice", 3);
        directory.listed(A, 1, &[presence("alice", 3), presence("bob", 4)], false);
        directory.listed(A, 1, &[], true);
        assert_eq!((node_of(&directory, "alice"), node_of(&directory, "bob")), (None, Some(A)));
    }

    #[test]
    fn a_list_replaces_what_was_known_of_its_node() {
        let directory = Directory::default();
        let now = Instant::now();
        assert!(directory.heard(A, now), "it owes its list");
        assert!(!directory.heard(A, now), "it has just been asked");
        directory.opened(A, &presence("gone", 1));
        directory.opened(B, &presence("bob", 2));
        directory.listed(A, 1, &[presence("alice", 3)], false);
        directory.opened(A, &presence("carol", 4)); // begins while the list is on its way
        directory.listed(A, 1, &[], true);
        let mut all: Vec<_> = directory.all().into_iter().map(|(client, _)| client.to_string()).collect();
        all.sort();
        assert_eq!(all, ["alice", "bob", "carol"]);
        assert!(!directory.heard(A, now + SECOND), "it owes nothing");
    }

    /// A directory that has looked into the store every second since `start`, when `A` was there.
    fn with_a(start: Instant) -> Directory {
        let directory = Directory::default();
        directory.link_up(start);
        directory.heard(A, start);
        directory.opened(A, &presence("alice", 1));
        directory.beats(&[(A, 1)], start);
        directory
    }

    /// Looks every second, for so many seconds from `start`; returns when `A` was found dead.
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
    fn a_node_that_shows_nothing_for_the_lease_is_dead() {
        let start = Instant::now();
        let directory = with_a(start);
        assert_eq!(look(&directory, start, 1..=20, 1), Some(5));
        assert!(directory.is_dead(A) && node_of(&directory, "alice").is_none());
        assert!(directory.may_have_missed());
        let back = start + SECOND * 21;
        assert!(directory.beats(&[(A, 2)], back).is_empty());
        assert!(!directory.is_dead(A) && directory.heard(A, back), "it is back, and owes its list");
    }

    #[test]
    fn a_dead_node_of_which_the_store_tells_nothing_new_stays_dead() {
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
    fn one_that_redis_knows_not_to_listen_is_dead_sooner() {
        let start = Instant::now();
        let directory = with_a(start);
        directory.not_listening(A);
        assert_eq!(look(&directory, start, 1..=20, 1), Some(3));
    }

    #[test]
    fn a_node_that_is_heard_or_beats_in_the_store_is_not_dead() {
        let start = Instant::now();
        let (heard, beats) = (with_a(start), with_a(start));
        beats.not_listening(A);
        for second in 1..20 {
            let now = start + SECOND * second;
            heard.heard(A, now);
            assert_eq!(heard.beats(&[(A, 1)], now), [], "the database is away for that one");
            assert_eq!(beats.beats(&[(A, second.into())], now), [], "Redis is away for that one");
        }
        assert_eq!(node_of(&beats, "alice"), Some(A));
    }

    #[test]
    fn who_could_not_look_does_not_judge() {
        let start = Instant::now();
        let directory = with_a(start);
        let later = start + SECOND * 30; // it stood still itself
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
    fn a_node_that_has_left_is_not_missed() {
        let start = Instant::now();
        let directory = with_a(start);
        directory.left(A);
        assert!(directory.may_have_missed() && !directory.may_have_missed(), "its last words may be lost");
        for second in 1..20 {
            assert_eq!(directory.beats(&[], start + SECOND * second), []);
        }
        assert!(directory.lock().nodes.is_empty() && !directory.may_have_missed());
    }

    #[test]
    fn what_a_node_said_while_it_was_not_heard_may_be_missed() {
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
        assert!(directory.may_have_missed(), "it is heard again");
        // It has ended where its last words were not heard.
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
