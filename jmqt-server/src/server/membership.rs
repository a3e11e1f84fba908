//! The tasks of a cluster node: start and stop.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::join;
use super::orphans::{AT_A_TIME, end_will, notify};
use super::supervise::{fail, supervise};
use crate::bus::BusEvents;
use crate::context::Shared;
use crate::hub::{Arrival, Cluster, ClusterTasks, Orphan};

/// How long the start waits for the bus.
const FIRST_LINK: Duration = Duration::from_secs(3);
/// How long the start waits for the filters of the other nodes. Until they are known, all messages are sent to these nodes.
const FIRST_FILTERS: Duration = Duration::from_secs(1);

/// The cluster membership of a node.
pub(super) struct Membership {
    stop: CancellationToken,
    stop_bus: CancellationToken,
    cluster: JoinHandle<()>,
    orphans: JoinHandle<()>,
    registrar: JoinHandle<()>,
    bus: JoinHandle<()>,
}

impl Membership {
    /// Joins the cluster, and waits a short time for the bus. Without Redis, the server serves its own clients. Also
    /// returns
    /// the receiver of messages that other nodes publish.
    pub(super) async fn start(
        shared: &Arc<Shared>,
        stop_listening: &CancellationToken,
        cluster: Arc<Cluster>,
        events: BusEvents,
        tasks: ClusterTasks,
    ) -> (Self, mpsc::Receiver<Arrival>) {
        let (stop, stop_bus) = (CancellationToken::new(), CancellationToken::new());
        let (bus, run_bus) = (Arc::clone(&cluster), cluster.run_bus(stop_bus.clone()));
        let hub = Arc::clone(&shared.hub);
        let membership = Self {
            orphans: {
                let notifying =
                    notify_orphans(Arc::clone(shared), Arc::clone(&cluster), tasks.orphans, stop.clone());
                supervise("orphans", shared, stop_listening, &stop, notifying)
            },
            cluster: {
                let (failing, run) = (Arc::clone(shared), cluster.run(hub, events, stop.clone()));
                let (told, listening) = (stop.clone(), stop_listening.clone());
                supervise("cluster", shared, stop_listening, &stop, async move {
                    if let Err(part) = run.await
                        && !told.is_cancelled()
                    {
                        listening.cancel();
                        fail(&failing, "cluster", &part);
                        told.cancelled().await; // reported once
                    }
                })
            },
            registrar: supervise("registrar", shared, stop_listening, &stop_bus, tasks.registrar.run()),
            bus: supervise("bus", shared, stop_listening, &stop_bus, run_bus),
            stop,
            stop_bus,
        };
        if timeout(FIRST_LINK, bus.bus_is_up()).await.is_err() {
            tracing::warn!(target: "jmqt::bus", "Redis cannot be reached yet: starting without other nodes");
        } else {
            drop(timeout(FIRST_FILTERS, bus.knows_filters()).await);
        }
        (membership, tasks.arrivals)
    }

    /// Leaves the cluster: notifies the other nodes, and sends queued messages.
    pub(super) async fn end(self) {
        self.stop.cancel();
        join(self.cluster).await;
        join(self.orphans).await;
        self.stop_bus.cancel();
        join(self.bus).await;
        // All sessions have ended.
        self.registrar.abort();
    }
}

/// Runs the close notifiers of sessions of dead nodes. When `stop` is cancelled, it finishes the running
/// notifiers; other nodes claim the rest when they detect that this node is gone.
async fn notify_orphans(
    shared: Arc<Shared>,
    cluster: Arc<Cluster>,
    mut orphans: mpsc::Receiver<Orphan>,
    stop: CancellationToken,
) {
    let received = stream::poll_fn(move |cx| orphans.poll_recv(cx)).take_until(stop.cancelled_owned());
    let each = received.for_each_concurrent(AT_A_TIME, |orphan| {
        let (shared, cluster) = (&shared, &cluster);
        async move {
            // Its notifier may have run since it was claimed.
            if !cluster.is_claimed(&orphan.session).await {
                return;
            }
            // That may have taken long.
            if end_will(shared, &orphan.session.row).await && !cluster.is_claimed(&orphan.session).await {
                return;
            }
            notify(shared, &orphan.session.row).await;
            drop(orphan.mark);
            let _ = orphan.done.send(()); // the receiver may be gone
        }
    });
    each.await;
}
