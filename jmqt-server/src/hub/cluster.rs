//! A node of a cluster: it knows the other nodes, takes over their sessions, sends them requests, and delivers their
//! messages.
//!
//! The store decides which node has a session, which node reports its end, and what is in a log. The bus is fast but
//! may lose messages, so everything that arrives by the bus alone is checked against the store after an outage.

mod asked;
mod database;
mod directory;
mod interests;
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
use interests::Interests;
use lists::{Lists, Told};
use registrar::Registrar;

pub(crate) use registrar::RegistrarTask;
pub(super) use reorder::Reorder;

/// The interval of the beats, on the bus and in the store.
const BEAT_EVERY: Duration = Duration::from_secs(1);
/// The time limit for the bus to return a fence.
const FENCE_TIMEOUT: Duration = Duration::from_secs(2);
/// The limits for QoS 1 payloads from other nodes that wait for delivery: their number and size.
const ARRIVALS: usize = 4096;
const ARRIVALS_KIB: u32 = 64 * 1024;
/// The number of sessions of other nodes that may wait for their close notifiers.
const ORPHANS: usize = 256;
/// The number of requests of other nodes that are handled at a time.
const ANSWERING: usize = 256;

/// Messages of other nodes to deliver, in order.
#[derive(Debug)]
pub(crate) enum Arrival {
    Pushes(LoggedMessages, OwnedSemaphorePermit),
    /// The channel, its key in the store, and the last message in its log.
    Tails(Vec<(String, i64, u64)>),
}

/// A session of a dead node that this node has claimed. Its close notifier must run.
pub(crate) struct Orphan {
    pub(crate) session: SharedSession,
    /// Notified when the close notifier has run.
    pub(crate) done: oneshot::Sender<()>,
    /// Held until the close notifier has run.
    pub(crate) mark: OrphanMark,
}

/// While this exists, the session is not given to the close notifier again.
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
    /// The name of this node in the store.
    name: String,
    bus: Arc<dyn Bus>,
    store: Arc<dyn ClusterStore>,
    directory: Directory,
    interests: Interests,
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
    /// The sessions of other nodes whose close notifiers this node runs or will run.
    notifying: Arc<Mutex<HashSet<(ClientId, u64)>>>,
    /// The last message that this node appended to each channel, until it is announced.
    tails: Mutex<HashMap<ChannelName, (i64, u64)>>,
    /// Requests that logs are compared with the store, because messages may have been missed.
    compare: Notify,
    /// The other nodes consider this node dead: it must end its sessions.
    condemned: AtomicBool,
    /// Notified when a node has died.
    died: Notify,
    tasks: TaskTracker,
}

/// The tasks and queues of a [`Cluster`] that its owner must run.
pub(crate) struct ClusterTasks {
    pub(crate) registrar: RegistrarTask,
    pub(crate) arrivals: mpsc::Receiver<Arrival>,
    pub(crate) orphans: mpsc::Receiver<Orphan>,
}

/// The tasks that wait for a [fence](Cluster::fence).
#[derive(Default)]
struct Fences {
    /// The number of the current fence, its start, and the waiting tasks.
    on_its_way: Option<(u64, Instant, Vec<oneshot::Sender<()>>)>,
    /// The tasks that wait for the next fence.
    next: Vec<oneshot::Sender<()>>,
}

/// The location of a client.
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
            interests: Interests::default(),
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

    /// Runs the connection to other nodes until it is told to stop.
    pub(crate) fn run_bus(&self, stop: CancellationToken) -> impl Future<Output = ()> + Send + use<> {
        let bus = Arc::clone(&self.bus);
        async move { bus.run(stop).await }
    }

    /// Waits until other nodes can be reached.
    pub(crate) async fn bus_is_up(&self) {
        self.bus.up().await;
    }

    /// Runs the cluster until it is told to stop. Each part is a separate task, so that no part, in particular the
    /// beats, waits for another.
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
            self.failed(&error); // other nodes notice that this node is gone, and find no sessions of it
        }
        self.bus.broadcast(&Control::Leaving);
        Ok(())
    }

    /// The id of this node as a number.
    pub(super) fn node_number(&self) -> u64 {
        self.node.0
    }

    fn number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed)
    }

    fn fences(&self) -> MutexGuard<'_, Fences> {
        self.fences.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until all earlier messages to all nodes have reached them, or Redis. After that, all earlier messages of
    /// other nodes are known here. Returns `false` if the bus is unavailable. Only one fence is in progress at a
    /// time, for any number of waiting tasks.
    pub(super) async fn fence(&self) -> bool {
        if !self.bus.is_up() {
            return false;
        }
        let (reached, back) = oneshot::channel();
        {
            let mut fences = self.fences();
            fences.next.push(reached);
            // A fence that was lost when the connection ended must not delay the others.
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
            let _ = reached.send(()); // the waiting task may have given up
        }
        if !fences.next.is_empty() {
            self.send_fence(&mut fences);
        }
    }

    /// Runs the close notifier of a session that this node has claimed. Returns `None` if the notifier is already
    /// running, or the server is stopping.
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

    /// The other node that has this client, if the directory knows it.
    pub(super) fn node_of(&self, client: &str) -> Option<NodeId> {
        self.directory.find(client).map(|session| session.node)
    }

    pub(crate) fn is_elsewhere(&self, client: &ClientId) -> bool {
        self.directory.find(client.as_str()).is_some()
    }

    /// All clients that are connected to other nodes.
    pub(crate) fn elsewhere(&self) -> Vec<(ClientId, ConnectionInfo)> {
        self.directory.all()
    }

    /// Closes the connection of a client on another node; returns `false` if there is none.
    pub(crate) fn disconnect(&self, client: &ClientId, farewell: &Disconnect) -> bool {
        let Some(session) = self.directory.find(client.as_str()) else { return false };
        let farewell = Some(farewell.into());
        self.bus.send(session.node, &Control::Disconnect { client: client.as_str().to_owned(), farewell });
        true
    }

    /// Lets the other nodes validate their sessions again.
    pub(super) fn revalidate_elsewhere(&self) {
        self.bus.broadcast(&Control::RevalidateAll);
    }

    /// The disconnect reason for a session that was called off.
    pub(super) fn why_called_off(&self) -> Disconnect {
        match self.condemned.load(Ordering::Acquire) {
            true => Disconnect::node_was_cut_off(),
            false => Disconnect::takeover(None),
        }
    }

    /// Returns `true` if there are other nodes for this node's clients.
    pub(crate) fn has_others(&self) -> bool {
        self.directory.has_others(Instant::now())
    }

    /// Returns `true` if the bus is connected.
    pub(crate) fn is_linked(&self) -> bool {
        self.bus.is_up()
    }

    /// How long a message to all nodes takes to come back; `None` if it does not, in time.
    pub(crate) async fn round_trip(&self) -> Option<Duration> {
        let began = Instant::now();
        self.fence().await.then(|| began.elapsed())
    }

    /// The other nodes, and whether each was heard recently.
    pub(crate) fn others(&self) -> Vec<(NodeId, bool)> {
        let here = self.directory.present(Instant::now());
        let others = self.directory.alive().into_iter().filter(|node| *node != self.node);
        others.map(|node| (node, here.contains(&node))).collect()
    }

    /// The id of this node.
    pub(crate) const fn id(&self) -> NodeId {
        self.node
    }

    /// Returns `true` if this node runs the singleton tasks of the cluster.
    pub(super) fn is_first(&self) -> bool {
        self.directory.is_first(self.node)
    }

    /// Records that this node has appended to a channel.
    pub(super) fn appended(&self, channel: &ChannelName, key: i64, seq: u64) {
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        match tails.get_mut(channel) {
            Some(tail) => *tail = (key, seq),
            None => drop(tails.insert(channel.clone(), (key, seq))),
        }
    }

    /// The last messages that have not been announced.
    fn tails(&self) -> Vec<(String, i64, u64)> {
        let tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        tails.iter().map(|(channel, (key, seq))| (channel.as_str().to_owned(), *key, *seq)).collect()
    }

    /// Removes announced messages: the announcement has come back.
    fn told_tails(&self, told: &[(String, i64, u64)]) {
        let mut tails = self.tails.lock().unwrap_or_else(PoisonError::into_inner);
        for (channel, key, seq) in told {
            if tails.get(channel.as_str()) == Some(&(*key, *seq)) {
                tails.remove(channel.as_str());
            }
        }
    }
}
