//! The filters of the nodes: announces those of this node, keeps those of the others, and waits until the others know
//! those of this node.
//!
//! Each node announces every filter that its first client gets and its last client loses. With each beat it sends a
//! [`Digest`] of its filters. A node with a different digest requests the whole list, and until it has the list it
//! counts as one that wants everything. Messages of one node arrive in order, so a list needs no merging with later
//! announcements.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, timeout};

use super::Cluster;
use crate::bus::{Bus, Control, Digest, NodeId};
use crate::hub::filters::Filters;
use crate::log_limit::log_limited;

/// The limits for the filters that a node announces as they are. Filters beyond are announced as their first level and
/// `#`.
const ANNOUNCED: usize = 20_000;
const ANNOUNCED_BYTES: usize = 4 << 20;
/// The limit for different first levels of those. Filters beyond are announced as `#`.
const BEGINNINGS: usize = 1000;
/// The limit for the filters in one part of a list, in bytes.
const PART_BYTES: usize = 64 << 10;
/// A list that has not arrived within this time is requested again.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);
/// The time for a node to show with a beat that its filters have not changed while the connection was lost.
const BEAT_TIMEOUT: Duration = Duration::from_secs(2);
/// The time limit for other nodes to confirm that they know the filters of this node.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(5);
/// The interval for looking whether nodes that have not confirmed are still there.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The filters that this node has announced.
#[derive(Default)]
pub(super) struct ToldFilters {
    own: HashSet<Box<str>, foldhash::fast::RandomState>,
    bytes: usize,
    /// The filters that stand for others, and the number of these.
    wider: HashMap<Box<str>, usize, foldhash::fast::RandomState>,
    digest: Digest,
}

/// A filter that matches all that this one matches, and many share.
fn widened(filter: &str) -> String {
    match filter.split_once('/') {
        Some((first, _)) if first != "+" => format!("{first}/#"),
        _ => "#".to_owned(),
    }
}

impl ToldFilters {
    pub(super) const fn digest(&self) -> Digest {
        self.digest
    }

    fn has_room(&self, filter: &str) -> bool {
        self.own.len() < ANNOUNCED && self.bytes + filter.len() <= ANNOUNCED_BYTES
    }

    pub(super) fn add(&mut self, bus: &dyn Bus, filter: &str) {
        // Nothing can stand for a share.
        if self.has_room(filter) || filter.starts_with("$share/") {
            if self.own.insert(filter.into()) {
                self.bytes += filter.len();
                if !self.wider.contains_key(filter) {
                    self.announce(bus, filter);
                }
            }
            return;
        }
        log_limited!(warn, target: "jmqt::bus", "this node has more than {ANNOUNCED} different filters with wildcards: it receives messages from other nodes that its clients do not want");
        let mut wider = widened(filter);
        if self.wider.len() >= BEGINNINGS && !self.wider.contains_key(wider.as_str()) {
            "#".clone_into(&mut wider);
        }
        let count = self.wider.entry(wider.as_str().into()).or_default();
        *count += 1;
        if *count == 1 && !self.own.contains(wider.as_str()) {
            self.announce(bus, &wider);
        }
    }

    pub(super) fn remove(&mut self, bus: &dyn Bus, filter: &str) {
        if self.own.remove(filter) {
            self.bytes -= filter.len();
            if !self.wider.contains_key(filter) {
                self.retract(bus, filter);
            }
            return;
        }
        let wider = widened(filter);
        for wider in [wider.as_str(), "#"] {
            let Some(count) = self.wider.get_mut(wider) else { continue };
            *count -= 1;
            if *count == 0 {
                self.wider.remove(wider);
                if !self.own.contains(wider) {
                    self.retract(bus, wider);
                }
            }
            return;
        }
    }

    fn announce(&mut self, bus: &dyn Bus, filter: &str) {
        self.digest.add(filter, 0);
        bus.broadcast(&Control::FilterAdded(filter.to_owned()));
    }

    fn retract(&mut self, bus: &dyn Bus, filter: &str) {
        self.digest.remove(filter, 0);
        bus.broadcast(&Control::FilterRemoved(filter.to_owned()));
    }

    /// Sends all announced filters to a node.
    pub(super) fn send_list(&self, bus: &dyn Bus, to: NodeId, list: u64) {
        let (mut part, mut filters, mut bytes) = (0, Vec::new(), 0);
        let wider = self.wider.keys().filter(|filter| !self.own.contains(*filter));
        for filter in self.own.iter().chain(wider) {
            filters.push(filter.to_string());
            bytes += filter.len();
            if bytes >= PART_BYTES {
                let filters = std::mem::take(&mut filters);
                bus.send(to, &Control::Filters { list, part, filters, last: false });
                (part, bytes) = (part + 1, 0);
            }
        }
        bus.send(to, &Control::Filters { list, part, filters, last: true });
    }
}

type Names = HashSet<Box<str>, foldhash::fast::RandomState>;

/// The completeness of what is known of a node's filters.
enum Knowledge {
    Whole,
    /// A list is requested at this time.
    Doubtful {
        ask_at: Instant,
    },
    /// The list is arriving.
    Coming {
        list: u64,
        next: u32,
        last: Instant,
        filters: Names,
    },
}

/// The filters of another node.
struct OfNode {
    filters: Names,
    digest: Digest,
    knowledge: Knowledge,
}

/// The filters of the other nodes.
#[derive(Default)]
pub(super) struct Interests {
    nodes: Mutex<HashMap<NodeId, OfNode>>,
    /// Notified when the filters of a node have become known.
    became_whole: Notify,
    known: Mutex<Known>,
}

/// The tasks that wait until other nodes know the filters of this node.
#[derive(Default)]
struct Known {
    asked: Option<Asked>,
    /// The tasks that wait for the next request.
    next: Vec<oneshot::Sender<()>>,
}

/// A request that other nodes confirm.
struct Asked {
    number: u64,
    since: Instant,
    /// The nodes that have not confirmed.
    missing: HashSet<NodeId>,
    waiting: Vec<oneshot::Sender<()>>,
}

impl OfNode {
    fn new(now: Instant) -> Self {
        let knowledge = Knowledge::Doubtful { ask_at: now };
        Self { filters: Names::default(), digest: Digest::default(), knowledge }
    }

    fn is_whole(&self) -> bool {
        matches!(self.knowledge, Knowledge::Whole)
    }
}

impl Interests {
    fn nodes(&self) -> MutexGuard<'_, HashMap<NodeId, OfNode>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn node<'n>(
        nodes: &'n mut HashMap<NodeId, OfNode>,
        filters: &Filters,
        node: NodeId,
        now: Instant,
    ) -> &'n mut OfNode {
        nodes.entry(node).or_insert_with(|| {
            filters.doubt(node, true);
            OfNode::new(now)
        })
    }

    /// Records the live nodes, and forgets all others.
    pub(super) fn live(&self, filters: &Filters, live: &[NodeId], now: Instant) {
        let mut nodes = self.nodes();
        let gone: Vec<_> = nodes.keys().filter(|node| !live.contains(node)).copied().collect();
        for node in gone {
            forget(&mut nodes, filters, node);
        }
        for node in live {
            Self::node(&mut nodes, filters, *node, now);
        }
        drop(nodes);
        self.became_whole.notify_waiters();
    }

    /// Forgets a node that has ended.
    pub(super) fn gone(&self, filters: &Filters, node: NodeId) {
        forget(&mut self.nodes(), filters, node);
        self.became_whole.notify_waiters();
    }

    /// Records that announcements may have been lost, because the connection was.
    pub(super) fn link_up(&self, filters: &Filters, now: Instant) {
        for (id, node) in self.nodes().iter_mut() {
            node.knowledge = Knowledge::Doubtful { ask_at: now + BEAT_TIMEOUT };
            filters.doubt(*id, true);
        }
    }

    /// Records a beat of a node, with the digest of its filters. Returns `true` if the list should be requested.
    pub(super) fn beaten(&self, filters: &Filters, id: NodeId, digest: Digest, now: Instant) -> bool {
        let mut nodes = self.nodes();
        let node = Self::node(&mut nodes, filters, id, now);
        if node.digest == digest {
            if !node.is_whole() {
                node.knowledge = Knowledge::Whole;
                filters.doubt(id, false);
                drop(nodes);
                self.became_whole.notify_waiters();
            }
            return false;
        }
        match &mut node.knowledge {
            Knowledge::Whole => {
                node.knowledge = Knowledge::Doubtful { ask_at: now };
                filters.doubt(id, true);
                true
            }
            Knowledge::Doubtful { ask_at } if *ask_at <= now + BEAT_TIMEOUT => {
                *ask_at = now;
                true
            }
            // It was requested.
            Knowledge::Doubtful { .. } | Knowledge::Coming { .. } => false,
        }
    }

    /// The nodes whose lists should be requested now.
    fn to_ask(&self, now: Instant) -> Vec<NodeId> {
        let mut to_ask = Vec::new();
        for (id, node) in self.nodes().iter_mut() {
            match node.knowledge {
                Knowledge::Coming { last, .. } if now - last >= LIST_TIMEOUT => {}
                Knowledge::Doubtful { ask_at } if ask_at <= now => {}
                _ => continue,
            }
            node.knowledge = Knowledge::Doubtful { ask_at: now + LIST_TIMEOUT };
            to_ask.push(*id);
        }
        to_ask
    }

    pub(super) fn added(&self, filters: &Filters, id: NodeId, filter: &str, now: Instant) {
        let mut nodes = self.nodes();
        let node = Self::node(&mut nodes, filters, id, now);
        if node.filters.insert(filter.into()) {
            node.digest.add(filter, 0);
            filters.add_elsewhere(filter, id);
        }
    }

    pub(super) fn removed(&self, filters: &Filters, id: NodeId, filter: &str) {
        let mut nodes = self.nodes();
        let Some(node) = nodes.get_mut(&id) else { return };
        if node.filters.remove(filter) {
            node.digest.remove(filter, 0);
            filters.remove_elsewhere(filter, id);
        }
    }

    /// Adds a part of a node's list.
    pub(super) fn listed(
        &self,
        filters: &Filters,
        id: NodeId,
        (list, part, is_last): (u64, u32, bool),
        listed: Vec<String>,
        now: Instant,
    ) {
        let mut nodes = self.nodes();
        let Some(node) = nodes.get_mut(&id) else { return };
        let mut all = match &mut node.knowledge {
            Knowledge::Doubtful { .. } | Knowledge::Coming { .. } if part == 0 => Names::default(),
            Knowledge::Coming { list: coming, next, filters, .. } if (*coming, *next) == (list, part) => {
                std::mem::take(filters)
            }
            Knowledge::Coming { .. } => {
                node.knowledge = Knowledge::Doubtful { ask_at: now }; // a part was lost
                return;
            }
            Knowledge::Whole | Knowledge::Doubtful { .. } => return,
        };
        all.extend(listed.into_iter().map(String::into_boxed_str));
        if !is_last {
            node.knowledge = Knowledge::Coming { list, next: part + 1, last: now, filters: all };
            return;
        }
        for filter in node.filters.difference(&all) {
            filters.remove_elsewhere(filter, id);
        }
        for filter in all.difference(&node.filters) {
            filters.add_elsewhere(filter, id);
        }
        node.digest = Digest::default();
        all.iter().for_each(|filter| node.digest.add(filter, 0));
        (node.filters, node.knowledge) = (all, Knowledge::Whole);
        filters.doubt(id, false);
        drop(nodes);
        self.became_whole.notify_waiters();
    }

    fn are_whole(&self, of: &[NodeId]) -> bool {
        let nodes = self.nodes();
        of.iter().all(|node| nodes.get(node).is_some_and(OfNode::is_whole))
    }

    /// Records that a node has confirmed a request.
    pub(super) fn confirmed(&self, node: NodeId, number: u64) {
        let mut known = self.known();
        if let Some(asked) = known.asked.as_mut().filter(|asked| asked.number == number) {
            asked.missing.remove(&node);
        }
    }
}

fn forget(nodes: &mut HashMap<NodeId, OfNode>, filters: &Filters, id: NodeId) {
    let Some(node) = nodes.remove(&id) else { return };
    filters.doubt(id, false);
    node.filters.iter().for_each(|filter| filters.remove_elsewhere(filter, id));
}

impl Cluster {
    /// Announces that the first client of this node has a filter.
    pub(in crate::hub) fn filter_added(&self, filter: &str) {
        self.told().filters.add(&*self.bus, filter);
    }

    /// Announces that no client of this node has a filter any more.
    pub(in crate::hub) fn filter_removed(&self, filter: &str) {
        self.told().filters.remove(&*self.bus, filter);
    }

    pub(super) fn ask_for_filters(&self) {
        if !self.bus.is_up() {
            return;
        }
        for node in self.interests.to_ask(Instant::now()) {
            self.bus.send(node, &Control::WantFilters);
        }
    }

    pub(super) fn tell_filters(&self, to: NodeId) {
        let list = self.number();
        self.told().filters.send_list(&*self.bus, to, list);
    }

    /// Waits, for a limited time, until all nodes that are alive know the filters that were announced before. Only one
    /// request is in progress at a time, for any number of waiting tasks. A node that is not connected learns the
    /// filters when it connects.
    pub(in crate::hub) async fn filters_are_known(&self) {
        if !self.bus.is_up() {
            return;
        }
        let (confirmed, mut all_know) = oneshot::channel();
        {
            let mut known = self.interests.known();
            known.next.push(confirmed);
            if known.asked.is_none() {
                self.ask_whether_known(&mut known);
            }
        }
        let waiting = async {
            loop {
                match timeout(LOOK_EVERY, &mut all_know).await {
                    Ok(_) => return,
                    Err(_) => self.look_at_confirmations(),
                }
            }
        };
        if timeout(KNOWN_TIMEOUT, waiting).await.is_err() {
            log_limited!(warn, target: "jmqt::bus", "a node has not confirmed in time that it knows a filter of a client: the client may miss messages that are published there now");
            // Later requests must not wait for this one.
            let mut known = self.interests.known();
            if known.asked.take_if(|asked| asked.since.elapsed() >= KNOWN_TIMEOUT).is_some()
                && !known.next.is_empty()
            {
                self.ask_whether_known(&mut known);
            }
        }
    }

    fn ask_whether_known(&self, known: &mut Known) {
        let (number, waiting) = (self.number(), std::mem::take(&mut known.next));
        let now = Instant::now();
        let missing: HashSet<_> = self.directory.present(now).into_iter().collect();
        if missing.is_empty() {
            return confirm(waiting);
        }
        known.asked = Some(Asked { number, since: now, missing, waiting });
        self.bus.broadcast(&Control::AreFiltersKnown(number));
    }

    /// Ends the current request if all nodes that are still alive have confirmed it.
    pub(super) fn look_at_confirmations(&self) {
        let mut known = self.interests.known();
        let Some(asked) = &mut known.asked else { return };
        if !asked.missing.is_empty() {
            let present = self.directory.present(Instant::now());
            asked.missing.retain(|node| present.contains(node));
        }
        if !asked.missing.is_empty() && self.bus.is_up() {
            return;
        }
        if let Some(asked) = known.asked.take() {
            confirm(asked.waiting);
        }
        if !known.next.is_empty() {
            self.ask_whether_known(&mut known);
        }
    }

    /// Waits until the filters of all nodes that are alive are known.
    pub(crate) async fn knows_filters(&self) {
        loop {
            let changed = self.interests.became_whole.notified();
            if self.directory.has_read_nodes() {
                let present = self.directory.present(Instant::now());
                if self.interests.are_whole(&present) {
                    return;
                }
            }
            drop(timeout(LOOK_EVERY, changed).await);
        }
    }
}

fn confirm(waiting: Vec<oneshot::Sender<()>>) {
    for task in waiting {
        let _ = task.send(()); // it may have given up
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use jmqt_core::{ChannelName, ClientId};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::message::{LoggedPush, Run, ShareMessage};

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    /// A bus that keeps the control messages.
    #[derive(Default)]
    struct Tape(Mutex<Vec<Control>>);

    impl Tape {
        fn taken(&self) -> Vec<Control> {
            std::mem::take(&mut *self.0.lock().unwrap())
        }
    }

    #[async_trait]
    impl Bus for Tape {
        fn join(&self, _: &ChannelName) {}
        async fn joined(&self, _: &ChannelName) {}
        fn leave(&self, _: &ChannelName) {}
        fn is_up(&self) -> bool {
            true
        }
        async fn up(&self) {}
        fn publish_qos0(&self, _: &ChannelName, _: Option<&ClientId>, _: &Run) {}
        fn send_qos0(&self, _: NodeId, _: &ChannelName, _: Option<&ClientId>, _: &Run) {}
        fn publish_qos1(&self, _: &ChannelName, _: &[LoggedPush]) {}
        fn send_qos1(&self, _: NodeId, _: &ChannelName, _: &[LoggedPush]) {}
        fn copy_qos0(&self, _: &[NodeId], _: &ChannelName, _: Option<&ClientId>, _: &Run) {}
        fn copy_qos1(&self, _: &[NodeId], _: &ChannelName, _: &[LoggedPush]) {}
        fn tell_share(&self, _: NodeId, _: &ChannelName, _: &ShareMessage) {}
        async fn sent(&self) {}
        fn send(&self, _: NodeId, control: &Control) {
            self.0.lock().unwrap().push(control.clone());
        }
        fn broadcast(&self, control: &Control) {
            self.0.lock().unwrap().push(control.clone());
        }
        fn reset(&self) {}
        async fn run(&self, _: CancellationToken) {}
    }

    /// What another node knows of node A.
    #[derive(Default)]
    struct Observer {
        filters: Filters,
        interests: Interests,
    }

    impl Observer {
        fn hear(&self, controls: Vec<Control>, now: Instant) {
            for control in controls {
                match control {
                    Control::FilterAdded(filter) => self.interests.added(&self.filters, A, &filter, now),
                    Control::FilterRemoved(filter) => self.interests.removed(&self.filters, A, &filter),
                    Control::Filters { list, part, filters, last } => {
                        self.interests.listed(&self.filters, A, (list, part, last), filters, now);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }

        fn is_wanted(&self, channel: &str) -> bool {
            self.nodes(channel).is_some_and(|nodes| nodes.contains(&A))
        }

        fn nodes(&self, channel: &str) -> Option<Arc<[NodeId]>> {
            self.filters.with_matching(&ChannelName::exact(channel).unwrap(), None).nodes
        }
    }

    #[test]
    fn announcements_and_lists_lead_to_the_same_filters() {
        let (now, bus, mut told) = (Instant::now(), Tape::default(), ToldFilters::default());
        let early = Observer::default();
        assert!(!early.interests.beaten(&early.filters, A, told.digest(), now), "A has no filters");
        for filter in ["a/+", "b/#", "c/+"] {
            told.add(&bus, filter);
        }
        told.remove(&bus, "b/#");
        early.hear(bus.taken(), now);
        let late = Observer::default();
        late.interests.live(&late.filters, &[A], now);
        assert!(late.is_wanted("x"), "its filters are not known yet");
        assert_eq!(late.interests.to_ask(now), [A]);
        assert!(!late.interests.beaten(&late.filters, A, told.digest(), now), "the list was requested");
        told.send_list(&bus, B, 7);
        late.hear(bus.taken(), now);
        for observer in [&early, &late] {
            assert!(!observer.interests.beaten(&observer.filters, A, told.digest(), now));
            let wanted = ["a/x", "b/x", "c/x", "x"].map(|channel| observer.is_wanted(channel));
            assert_eq!(wanted, [true, false, true, false]);
            assert!(observer.interests.are_whole(&[A]));
        }
        early.interests.gone(&early.filters, A);
        assert!(!early.is_wanted("a/x") && early.filters.is_empty());
    }

    #[test]
    fn a_lost_announcement_is_noticed_with_the_next_beat() {
        let (now, bus, mut told) = (Instant::now(), Tape::default(), ToldFilters::default());
        let observer = Observer::default();
        observer.interests.beaten(&observer.filters, A, told.digest(), now);
        told.add(&bus, "a/+");
        drop(bus.taken()); // lost
        assert!(!observer.is_wanted("a/x"));
        assert!(observer.interests.beaten(&observer.filters, A, told.digest(), now));
        assert!(
            observer.is_wanted("a/x") && observer.is_wanted("x"),
            "nothing is lost until the list is here"
        );
        assert_eq!(observer.interests.to_ask(now), [A]);
        told.send_list(&bus, B, 1);
        observer.hear(bus.taken(), now);
        assert!(observer.is_wanted("a/x") && !observer.is_wanted("x"));
        // After the connection was lost, a beat shows that nothing has changed.
        observer.interests.link_up(&observer.filters, now);
        assert!(observer.is_wanted("x") && observer.interests.to_ask(now).is_empty());
        assert!(!observer.interests.beaten(&observer.filters, A, told.digest(), now));
        assert!(!observer.is_wanted("x"));
    }

    #[test]
    fn an_incomplete_list_is_requested_again() {
        let (now, bus, mut told) = (Instant::now(), Tape::default(), ToldFilters::default());
        let observer = Observer::default();
        let long = "long".repeat(250);
        (0..200).for_each(|number| told.add(&bus, &format!("{long}/{number}/+")));
        drop(bus.taken());
        observer.interests.beaten(&observer.filters, A, told.digest(), now);
        assert_eq!(observer.interests.to_ask(now), [A]);
        told.send_list(&bus, B, 1);
        let mut parts = bus.taken();
        assert!(parts.len() > 2);
        parts.remove(1);
        observer.hear(parts, now);
        assert!(observer.is_wanted("x") && observer.interests.to_ask(now) == [A]);
        told.send_list(&bus, B, 2);
        observer.hear(bus.taken(), now);
        assert!(observer.is_wanted(&format!("{long}/7/x")));
        assert!(observer.interests.are_whole(&[A]) && !observer.is_wanted("x"));
        assert!(!observer.interests.beaten(&observer.filters, A, told.digest(), now));
    }

    #[test]
    fn filters_beyond_the_limit_are_announced_as_wider_ones() {
        let (now, bus, mut told) = (Instant::now(), Tape::default(), ToldFilters::default());
        let observer = Observer::default();
        observer.interests.beaten(&observer.filters, A, told.digest(), now);
        let names: Vec<_> = (0..ANNOUNCED).map(|number| format!("{number}/+")).collect();
        names.iter().for_each(|name| told.add(&bus, name));
        for name in ["site/1/+", "site/2/+", "+/x"] {
            told.add(&bus, name);
        }
        observer.hear(bus.taken(), now);
        assert!(observer.is_wanted("site/3") && observer.is_wanted("other"));
        told.remove(&bus, "+/x");
        told.remove(&bus, "site/1/+");
        observer.hear(bus.taken(), now);
        assert!(observer.is_wanted("site/3") && !observer.is_wanted("other"));
        told.remove(&bus, "site/2/+");
        names.iter().for_each(|name| told.remove(&bus, name));
        observer.hear(bus.taken(), now);
        assert!(!observer.interests.beaten(&observer.filters, A, told.digest(), now));
        assert!(
            observer.filters.is_empty() && told.own.is_empty() && told.wider.is_empty() && told.bytes == 0
        );
    }
}
