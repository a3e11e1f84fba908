//! What makes this server a node of a cluster: it knows the others, takes sessions over from them, does
//! for them what only it can do, and has what they publish delivered.
//!
//! The store decides (who has a session, who tells of its end, what is in a log); the bus is quick and may
//! lose anything. So everything that came by the bus alone is looked up again when it was away.

mod asked;
mod database;
mod directory;
mod listen;
mod lists;
mod registrar;
mod reorder;
mod requests;
mod sessions;
mod watch;

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jmqt_core::{ChannelName, ClientId};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::Hub;
use crate::bus::{Bus, BusEvents, Control, LoggedMessages, NodeId};
use crate::connection::ConnectionInfo;
use crate::counters::Counters;
use crate::disconnect::Disconnect;
use crate::store::{ClusterStore, SharedSession};

use asked::Asked;
use database::Database;
use directory::Directory;
use lists::{Lists, Told};
use registrar::Registrar;

pub(crate) use registrar::RegistrarTask;
pub(super) use reorder::Reorder;

/// A node shows that it is there this often, on the bus and in the store.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// How long the bus may take to bring back what was said to everybody.
const FENCE_TIMEOUT: Duration = Duration::from_secs(2);
/// So many QoS 1 payloads from other nodes may wait to be delivered, and so much of them.
const ARRIVALS: usize = 4096;
const ARRIVALS_KIB: u32 = 64 * 1024;
/// So many sessions of other nodes may wait for their close notifiers.
const ORPHANS: usize = 256;
/// So many requests of other nodes are worked on at a time.
const ANSWERING: usize = 256;

/// What other nodes have to be delivered, in order.
#[derive(Debug)]
pub(crate) enum Arrival {
    Pushes(LoggedMessages, OwnedSemaphorePermit),
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
    told: Mutex<Told>,
    lists: Lists,
    database: Database,
    registrar: Registrar,
    counters: Arc<Counters>,
    numbers: AtomicU64,
    fences: Mutex<Fences>,
    asked: Asked,
    answering: Arc<Semaphore>,
    arrivals: mpsc::Sender<Arrival>,
    arrivals_room: Arc<Semaphore>,
    orphans: mpsc::Sender<Orphan>,
    /// The sessions whose close notifiers this node is running, or going to run, for others.
    notifying: Arc<Mutex<HashSet<(ClientId, u64)>>>,
    /// The last message that this node has appended to each channel, until the others have been told.
    tails: Mutex<HashMap<ChannelName, (i64, u64)>>,
    /// Something may have been missed: logs are to be compared with the store.
    compare: Notify,
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

/// Those who wait for a [fence](Cluster::fence).
#[derive(Default)]
struct Fences {
    /// Its number, since when, and for whom.
    on_its_way: Option<(u64, Instant, Vec<oneshot::Sender<()>>)>,
    /// For those who came too late for that one.
    next: Vec<oneshot::Sender<()>>,
}

/// Where a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Location {
    Here,
    On(NodeId),
    Away,
}

impl Cluster {
    pub(crate) fn new(
        node: NodeId,
        bus: Arc<dyn Bus>,
        store: Arc<dyn ClusterStore>,
        counters: Arc<Counters>,
    ) -> (Self, ClusterTasks) {
        let name = node.to_string();
        let (registrar, registrar_task) =
            Registrar::new(Arc::clone(&store), name.clone(), Arc::clone(&counters));
        let (arrivals, arrived) = mpsc::channel(ARRIVALS);
        let (orphans, orphaned) = mpsc::channel(ORPHANS);
        let cluster = Self {
            node,
            name,
            bus,
            store,
            counters,
            directory: Directory::default(),
            told: Mutex::default(),
            lists: Lists::default(),
            database: Database::new(Instant::now()),
            registrar,
            numbers: AtomicU64::new(1),
            fences: Mutex::default(),
            asked: Asked::default(),
            answering: Arc::new(Semaphore::new(ANSWERING)),
            arrivals,
            arrivals_room: Arc::new(Semaphore::new(ARRIVALS_KIB as usize)),
            orphans,
            notifying: Arc::default(),
            tails: Mutex::default(),
            compare: Notify::new(),
            condemned: AtomicBool::new(false),
            died: Notify::new(),
            tasks: TaskTracker::new(),
        };
        (cluster, ClusterTasks { registrar: registrar_task, arrivals: arrived, orphans: orphaned })
    }

    /// Keeps the link to other nodes until it is told to stop.
    pub(crate) fn run_bus(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let bus = Arc::clone(&self.bus);
        async move { bus.run(stop).await }
    }

    /// Waits until other nodes can be reached.
    pub(crate) async fn bus_is_up(&self) {
        self.bus.up().await;
    }

    /// Serves the cluster until it is told to stop. Each part is a task of its own: none waits for another,
    /// least of all the signs of life.
    pub(crate) async fn run(
        self: Arc<Self>,
        hub: Arc<Hub>,
        mut events: BusEvents,
        stop: CancellationToken,
    ) -> Result<(), String> {
        let mut parts = JoinSet::new();
        let part = || (Arc::clone(&self), Arc::clone(&hub));
        let (cluster, of) = part();
        parts.spawn(async move { cluster.listen(&of, &mut events).await });
        let (cluster, of) = part();
        parts.spawn(async move { cluster.watch_nodes(&of).await });
        let (cluster, of) = part();
        parts.spawn(async move { cluster.watch_called_off(&of).await });
        let (cluster, of) = part();
        parts.spawn(async move { cluster.watch_logs(&of).await });
        let (cluster, of) = part();
        parts.spawn(async move { cluster.watch_database(&of).await });
        let (cluster, _) = part();
        parts.spawn(async move { cluster.sweep_directory().await });
        let (cluster, _) = part();
        parts.spawn(async move { cluster.inherit().await });
        tokio::select! {
            () = stop.cancelled() => {}
            Some(ended) = parts.join_next() => {
                parts.shutdown().await;
                return Err(format!("a cluster task has ended: {ended:?}"));
            }
        }
        parts.shutdown().await;
        self.tasks.close();
        if let Err(error) = self.store.leave(&self.name).await {
            self.failed(&error); // the others will miss this node, and find that nothing is left of it
        }
        self.bus.broadcast(&Control::Leaving);
        Ok(())
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn fences(&self) -> MutexGuard<'_, Fences> {
        self.fences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until everything that was said to all nodes before has reached them, or Redis; `false` if the
    /// bus is away. What they have said before that is known here then. There is one on its way at a time,
    /// however many wait.
    async fn fence(&self) -> bool {
        if !self.bus.is_up() {
            return false;
        }
        let (reached, back) = oneshot::channel();
        {
            let mut fences = self.fences();
            fences.next.push(reached);
            // One that was lost, between the end of a link and the news of it, must not hold up the rest.
            let is_under_way =
                fences.on_its_way.as_ref().is_some_and(|(_, since, _)| since.elapsed() < FENCE_TIMEOUT);
            if !is_under_way {
                self.send_fence(&mut fences);
            }
        }
        matches!(timeout(FENCE_TIMEOUT, back).await, Ok(Ok(())))
    }

    fn send_fence(&self, fences: &mut Fences) {
        let number = self.number();
        fences.on_its_way = Some((number, Instant::now(), std::mem::take(&mut fences.next)));
        self.bus.broadcast(&Control::Fence(number));
    }

    fn fence_came_back(&self, number: u64) {
        let mut fences = self.fences();
        let Some((_, _, reached)) = fences.on_its_way.take_if(|(of, ..)| *of == number) else { return };
        for reached in reached {
            let _ = reached.send(()); // whoever waited may have given up
        }
        if !fences.next.is_empty() {
            self.send_fence(&mut fences);
        }
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
    pub(crate) fn disconnect(&self, client: &ClientId, farewell: &Disconnect) -> bool {
        let Some(session) = self.directory.find(client.as_str()) else { return false };
        let farewell = Some(farewell.into());
        self.bus.send(session.node, &Control::Disconnect { client: client.as_str().to_owned(), farewell });
        true
    }

    /// What the client of a session is told that is not to begin.
    pub(super) fn why_called_off(&self) -> Disconnect {
        match self.condemned.load(Ordering::Acquire) {
            true => Disconnect::node_was_cut_off(),
            false => Disconnect::takeover(None),
        }
    }

    /// Whether other nodes are there that this one's clients can go to.
    pub(crate) fn has_others(&self) -> bool {
        self.directory.has_others(Instant::now())
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

    /// What the others have not been told yet.
    fn tails(&self) -> Vec<(String, i64, u64)> {
        let tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        tails.iter().map(|(channel, (key, seq))| (channel.as_str().to_owned(), *key, *seq)).collect()
    }

    /// The others have been told: the message has come back.
    fn told_tails(&self, told: &[(String, i64, u64)]) {
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        for (channel, key, seq) in told {
            if tails.get(channel.as_str()) == Some(&(*key, *seq)) {
                tails.remove(channel.as_str());
            }
        }
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
