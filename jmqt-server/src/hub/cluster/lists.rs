//! Announces the sessions of this node: each begin and end, their digest, and the whole list for nodes that missed
//! announcements.
//!
//! One list is sent at a time, to all nodes that have requested it, in parts. The next part waits until the previous
//! ones have arrived. The data in transit is therefore bounded for any number of sessions and nodes, and a slow or
//! dead node delays the others only briefly.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jmqt_core::ClientId;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::Cluster;
use super::interests::ToldFilters;
use super::sessions::presence;
use crate::bus::{Bus, Control, Digest, NodeId, Presence};
use crate::connection::ConnectionInfo;
use crate::hub::Hub;

/// The number of sessions in one part.
const IN_ONE_PART: usize = 500;
/// The number of parts in transit.
const ON_THEIR_WAY: u32 = 4;
/// A node that needs longer for a part is left out, and has to request the list again.
const PART_TIMEOUT: Duration = Duration::from_secs(5);
/// The time to collect requests before a list starts. Nodes that miss the same list request it at about the same
/// time.
const GATHER: Duration = Duration::from_millis(50);

/// The announced sessions, with their generations, and the announced filters.
#[derive(Default)]
pub(super) struct Told {
    sessions: HashMap<ClientId, u64, foldhash::fast::RandomState>,
    digest: Digest,
    pub(super) filters: ToldFilters,
}

impl Told {
    /// Announces the begin of a session. The caller's lock covers the announcement, so a later digest includes the
    /// session and an earlier one does not.
    pub(super) fn opened(&mut self, bus: &dyn Bus, client: &ClientId, generation: u64, info: ConnectionInfo) {
        if let Some(older) = self.sessions.insert(client.clone(), generation) {
            self.digest.remove(client.as_str(), older);
            bus.broadcast(&Control::Closed { client: client.as_str().to_owned(), generation: older });
        }
        self.digest.add(client.as_str(), generation);
        bus.broadcast(&Control::Opened(presence(client, generation, info)));
    }

    /// Announces the end of a session, once, and only if its begin was announced.
    pub(super) fn closed(&mut self, bus: &dyn Bus, client: &ClientId, generation: u64) {
        if self.sessions.get(client) == Some(&generation) {
            self.sessions.remove(client);
            self.digest.remove(client.as_str(), generation);
            bus.broadcast(&Control::Closed { client: client.as_str().to_owned(), generation });
        }
    }

    pub(super) fn beat(&self, bus: &dyn Bus, to: Option<NodeId>, has_database: bool) {
        let beat = Control::Beat { sessions: self.digest, filters: self.filters.digest(), has_database };
        match to {
            Some(node) => bus.send(node, &beat),
            None => bus.broadcast(&beat),
        }
    }

    pub(super) fn say_hello(&self, bus: &dyn Bus, has_database: bool) {
        let filters = self.filters.digest();
        bus.broadcast(&Control::Hello { sessions: self.digest, filters, has_database });
    }
}

/// The requests for the list, and the progress of the receiving nodes.
#[derive(Default)]
pub(super) struct Lists {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Default)]
struct State {
    asked: Vec<NodeId>,
    /// A task is sending the list.
    is_told: bool,
    list: u64,
    /// The number of parts that have arrived at each receiving node.
    arrived: HashMap<NodeId, u32>,
    /// The connection has ended since the list began.
    is_given_up: bool,
}

impl Lists {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a request of a node. Returns `true` if no task is sending yet.
    fn ask(&self, node: NodeId) -> bool {
        let mut state = self.state();
        if !state.asked.contains(&node) {
            state.asked.push(node);
        }
        !std::mem::replace(&mut state.is_told, true)
    }

    /// Begins a list with this number for the nodes that requested it; returns `false` if there are none.
    fn begin(&self, list: u64) -> bool {
        let mut state = self.state();
        let asked = std::mem::take(&mut state.asked);
        state.is_told = !asked.is_empty();
        state.list = list;
        state.is_given_up = false;
        state.arrived = asked.into_iter().map(|node| (node, 0)).collect();
        state.is_told
    }

    /// The nodes that receive the current list.
    fn hearers(&self) -> Vec<NodeId> {
        self.state().arrived.keys().copied().collect()
    }

    /// Records that a part has arrived at a node.
    pub(super) fn got(&self, node: NodeId, list: u64, part: u32) {
        let mut state = self.state();
        if state.list == list
            && let Some(arrived) = state.arrived.get_mut(&node)
        {
            *arrived = (*arrived).max(part.saturating_add(1));
            drop(state);
            self.changed.notify_one();
        }
    }

    /// Removes a node that is gone.
    pub(super) fn gone(&self, node: NodeId) {
        let mut state = self.state();
        state.asked.retain(|asked| *asked != node);
        state.arrived.remove(&node);
        drop(state);
        self.changed.notify_one();
    }

    /// Ends the list because the connection has ended. Nodes that need it request it again.
    pub(super) fn give_up(&self) {
        let mut state = self.state();
        state.asked.clear();
        state.arrived.clear();
        state.is_given_up = true;
        drop(state);
        self.changed.notify_one();
    }

    /// Waits until this many parts have arrived at all receiving nodes. Returns the nodes that were too slow; `None`
    /// if no node is left.
    async fn arrived(&self, parts: u32) -> Option<Vec<NodeId>> {
        let until = Instant::now() + PART_TIMEOUT;
        loop {
            {
                let state = self.state();
                if state.is_given_up || state.arrived.is_empty() {
                    return None;
                }
                if state.arrived.values().all(|arrived| *arrived >= parts) {
                    return Some(Vec::new());
                }
            }
            if timeout_at(until, self.changed.notified()).await.is_err() {
                let mut state = self.state();
                let late = |(node, arrived): (&NodeId, &u32)| (*arrived < parts).then_some(*node);
                let late: Vec<_> = state.arrived.iter().filter_map(late).collect();
                state.arrived.retain(|_, arrived| *arrived >= parts);
                return Some(late);
            }
        }
    }
}

impl Cluster {
    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the session list to a node that requests it.
    pub(super) fn tell_sessions(self: &Arc<Self>, hub: &Arc<Hub>, to: NodeId) {
        if self.lists.ask(to) {
            let (cluster, hub) = (Arc::clone(self), Arc::clone(hub));
            self.tasks.spawn(async move {
                loop {
                    tokio::time::sleep(GATHER).await;
                    let list = cluster.number();
                    if !cluster.lists.begin(list) {
                        return;
                    }
                    cluster.tell_list(&hub, list).await;
                }
            });
        }
    }

    /// Sends the list to the receiving nodes.
    async fn tell_list(&self, hub: &Hub, list: u64) {
        let (start, hearers) = (Instant::now(), self.lists.hearers());
        let say = |part, digest, sessions: Vec<Presence>, last| {
            let control = Control::Sessions { list, part, digest, sessions, last };
            match hearers.as_slice() {
                [node] => self.bus.send(*node, &control),
                _ => self.bus.broadcast(&control),
            }
        };
        let (digest, sessions) = {
            let told = self.told();
            // A session that begins or ends during the list is announced after this, and is valid.
            say(0, told.digest, Vec::new(), false);
            let sessions: Vec<_> = told.sessions.iter().map(|(client, it)| (client.clone(), *it)).collect();
            (told.digest, sessions)
        };
        let parts = sessions.chunks(IN_ONE_PART).map(Some).chain([None]);
        for (part, some) in (1..).zip(parts) {
            // A session that has ended meanwhile could be left out, because its end was announced.
            let present = some.unwrap_or_default().iter().filter_map(|(client, generation)| {
                let session = hub.connections.any_session(client.as_str())?;
                (session.generation == *generation).then(|| presence(client, *generation, session.info))
            });
            say(part, digest, present.collect(), some.is_none());
            // All parts must arrive before the next list begins.
            let awaited = if some.is_none() { part + 1 } else { (part + 1).saturating_sub(ON_THEIR_WAY) };
            match self.lists.arrived(awaited).await {
                None => {
                    tracing::info!(target: "jmqt::bus", "no node is left to send the session list to");
                    return;
                }
                Some(late) if !late.is_empty() => {
                    tracing::warn!(
                        target: "jmqt::bus", nodes = ?late.iter().map(ToString::to_string).collect::<Vec<_>>(),
                        "a node is too slow to receive the session list and has to request it again"
                    );
                }
                Some(_) => {}
            }
        }
        tracing::info!(
            target: "jmqt::bus", nodes = hearers.len(), sessions = sessions.len(), took = ?start.elapsed(),
            "sent the session list to other nodes"
        );
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    #[tokio::test(start_paused = true)]
    async fn the_next_part_waits_for_all_receivers_up_to_a_limit() {
        let lists = Lists::default();
        assert!(lists.ask(A) && !lists.ask(B) && !lists.ask(A), "one task sends the list");
        assert!(lists.begin(7));
        assert!(!lists.ask(NodeId(3)), "the node receives the next list");
        lists.got(A, 7, 0);
        lists.got(B, 6, 0); // of another list
        assert_eq!(lists.arrived(1).now_or_never(), None);
        lists.got(B, 7, 1);
        assert_eq!(lists.arrived(1).await, Some(vec![]));
        assert_eq!(lists.arrived(2).await, Some(vec![A]), "node A was too slow");
        assert_eq!(lists.arrived(2).await, Some(vec![]));
        lists.gone(B);
        assert_eq!(lists.arrived(2).await, None);
        assert!(lists.begin(8) && lists.hearers() == [NodeId(3)]);
        lists.give_up();
        assert_eq!(lists.arrived(1).await, None, "the connection has ended");
        assert!(!lists.begin(9) && lists.ask(A), "no task is sending any more");
    }
}
