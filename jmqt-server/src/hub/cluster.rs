//! What makes this server a node of a cluster: it knows the others, takes sessions over from them, does
//! for them what only it can do, and has what they publish delivered.
//!
//! The store decides (who has a session, who tells of its end, what is in a log); the bus is quick and may
//! lose anything. So everything that came by the bus alone is looked up again when it was away.

mod directory;
mod registrar;
mod reorder;
mod requests;
mod sessions;
mod watch;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jmqt_protocol::{ChannelName, ClientId};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot};
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::Hub;
use crate::bus::{Answer, Bus, Control, NodeId, Qos1Pushes};
use crate::store::{ClusterStore, SharedSession};
use crate::validators::ConnectionInfo;

use directory::Directory;
use registrar::Registrar;

pub(crate) use directory::connection_info;
pub(crate) use registrar::RegistrarTask;
pub(super) use reorder::Reorder;

/// How long the bus may take to bring back what was said to everybody.
const FENCE_TIMEOUT: Duration = Duration::from_secs(2);
/// So many QoS 1 payloads from other nodes may wait to be delivered.
const ARRIVALS: usize = 4096;
/// So many sessions of other nodes may wait for their close notifiers.
const ORPHANS: usize = 256;
/// So many requests of other nodes are worked on at a time.
const ANSWERING: usize = 256;

/// What other nodes have to be delivered, in order.
#[derive(Debug)]
pub(crate) enum Arrival {
    Pushes(Qos1Pushes),
    /// Channel, its key in the store, and the last message that is in its log.
    Tails(Vec<(String, i64, u64)>),
}

/// A session whose node is gone, claimed by this one: its close notifier is to be run.
pub(crate) struct Orphan {
    pub(crate) session: SharedSession,
    /// Told when it has been.
    pub(crate) done: oneshot::Sender<()>,
    /// To be kept until then.
    pub(crate) mark: OrphanMark,
}

/// As long as it is there, its session is not given to the notifier once more.
pub(crate) struct OrphanMark {
    notifying: Arc<Mutex<HashSet<(ClientId, u64)>>>,
    session: (ClientId, u64),
}

impl Drop for OrphanMark {
    fn drop(&mut self) {
        self.notifying.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.session);
    }
}

/// A node's view of its cluster.
pub(crate) struct Cluster {
    node: NodeId,
    /// The same, as the store knows it.
    name: String,
    bus: Arc<dyn Bus>,
    store: Arc<dyn ClusterStore>,
    directory: Directory,
    registrar: Registrar,
    numbers: AtomicU64,
    fences: Mutex<HashMap<u64, oneshot::Sender<()>>>,
    asked: Mutex<HashMap<u64, (NodeId, oneshot::Sender<Answer>)>>,
    answering: Arc<Semaphore>,
    arrivals: mpsc::Sender<Arrival>,
    orphans: mpsc::Sender<Orphan>,
    /// The sessions whose close notifiers this node is running, or going to run, for others.
    notifying: Arc<Mutex<HashSet<(ClientId, u64)>>>,
    /// The last message that this node has appended to each channel since it told the others.
    tails: Mutex<HashMap<ChannelName, (i64, u64)>>,
    /// The others thought this node dead: it ends its sessions.
    condemned: AtomicBool,
    /// A node has died.
    died: Notify,
    tasks: TaskTracker,
}

/// What a [`Cluster`] leaves to others to do.
pub(crate) struct ClusterTasks {
    pub(crate) registrar: RegistrarTask,
    pub(crate) arrivals: mpsc::Receiver<Arrival>,
    pub(crate) orphans: mpsc::Receiver<Orphan>,
}

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Location {
    Here,
    On(NodeId),
    Away,
}

impl Cluster {
    pub(crate) fn new(node: NodeId, bus: Arc<dyn Bus>, store: Arc<dyn ClusterStore>) -> (Self, ClusterTasks) {
        let name = node.to_string();
        let (registrar, registrar_task) = Registrar::new(Arc::clone(&store), name.clone());
        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        let (orphans, orphaned) = mpsc::channel(ORPHANS);
        let cluster = Self {
            node,
            name,
            bus,
            store,
            directory: Directory::default(),
            registrar,
            numbers: AtomicU64::new(1),
            fences: Mutex::default(),
            asked: Mutex::default(),
            answering: Arc::new(Semaphore::new(ANSWERING)),
            arrivals,
            orphans,
            notifying: Arc::default(),
            tails: Mutex::default(),
            condemned: AtomicBool::new(false),
            died: Notify::new(),
            tasks: TaskTracker::new(),
        };
        (cluster, ClusterTasks { registrar: registrar_task, arrivals: arrived, orphans: orphaned })
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    /// Waits until everything that was said to all nodes before has reached them, or Redis; `false` if the
    /// bus is away. What they have said before that is known here then.
    async fn fence(&self) -> bool {
        if !self.bus.is_up() {
            return false;
        }
        let number = self.number();
        let (reached, back) = oneshot::channel();
        self.fences.lock().unwrap_or_else(PoisonError::into_inner).insert(number, reached);
        self.bus.broadcast(&Control::Fence(number));
        let came_back = matches!(timeout(FENCE_TIMEOUT, back).await, Ok(Ok(())));
        self.fences.lock().unwrap_or_else(PoisonError::into_inner).remove(&number);
        came_back
    }

    /// Has the close notifier of a session run, which this node has claimed. `None`: it is being run, or
    /// the server stops.
    async fn notify_of(&self, session: SharedSession) -> Option<oneshot::Receiver<()>> {
        let key = (session.row.client.clone(), session.row.generation);
        if !self.notifying.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone()) {
            return None;
        }
        let mark = OrphanMark { notifying: Arc::clone(&self.notifying), session: key };
        let (done, notified) = oneshot::channel();
        self.orphans.send(Orphan { session, done, mark }).await.ok()?;
        Some(notified)
    }

    /// Where another node has this client, as far as is known at once.
    pub(super) fn node_of(&self, client: &str) -> Option<NodeId> {
        self.directory.find(client).map(|session| session.node)
    }

    pub(crate) fn is_elsewhere(&self, client: &ClientId) -> bool {
        self.directory.find(client.as_str()).is_some()
    }

    /// Everybody who is connected to another node.
    pub(crate) fn elsewhere(&self) -> Vec<(ClientId, ConnectionInfo)> {
        self.directory.all()
    }

    /// Closes the connection of a client on another node; `false` if it is on none.
    pub(crate) fn disconnect(&self, client: &ClientId) -> bool {
        let Some(session) = self.directory.find(client.as_str()) else { return false };
        self.bus.send(session.node, &Control::Disconnect { client: client.as_str().to_owned() });
        true
    }

    /// Whether it is for this node to do what one node does for all.
    pub(super) fn is_first(&self) -> bool {
        self.directory.is_first(self.node)
    }

    /// Notes that this node has appended to a channel.
    pub(super) fn appended(&self, channel: &ChannelName, key: i64, seq: u64) {
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        match tails.get_mut(channel) {
            Some(tail) => *tail = (key, seq),
            None => drop(tails.insert(channel.clone(), (key, seq))),
        }
    }

    fn take_tails(&self) -> Vec<(String, i64, u64)> {
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = std::mem::take(&mut *tails);
        taken.into_iter().map(|(channel, (key, seq))| (channel.as_str().to_owned(), key, seq)).collect()
    }
}

impl Hub {
    /// Where a client is: asked of the other nodes if this one does not know.
    pub(crate) async fn locate(&self, client: &str) -> Location {
        let known = || {
            if self.connections.outbox(client).is_some() {
                return Some(Location::Here);
            }
            self.cluster.as_ref()?.node_of(client).map(Location::On)
        };
        if let Some(known) = known() {
            return known;
        }
        match &self.cluster {
            // It may have come a moment ago: whatever was said before the fence is known behind it.
            Some(cluster) if cluster.fence().await => known().unwrap_or(Location::Away),
            _ => Location::Away,
        }
    }
}
