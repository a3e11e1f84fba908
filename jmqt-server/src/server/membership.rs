//! The tasks that make a server a node of a cluster, and their end.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::join;
use super::orphans::{AT_A_TIME, notify};
use super::supervise::{fail, supervise};
use crate::bus::BusEvents;
use crate::context::Shared;
use crate::hub::{Arrival, Cluster, ClusterTasks, Orphan};

/// How long a start waits for the bus.
const FIRST_LINK: Duration = Duration::from_secs(3);

/// A node's part in its cluster, for as long as it has one.
pub(super) struct Membership {
    stop: CancellationToken,
    stop_bus: CancellationToken,
    cluster: JoinHandle<()>,
    orphans: JoinHandle<()>,
    registrar: JoinHandle<()>,
    bus: JoinHandle<()>,
}

impl Membership {
    /// Joins the cluster, and waits a moment for it: without Redis the server serves its own clients. Returns
    /// also where what other nodes publish comes out.
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
                        told.cancelled().await; // it has been told of, and is not told of once more
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
        }
        (membership, tasks.arrivals)
    }

    /// Leaves the cluster: says so, and sends what was to be sent.
    pub(super) async fn end(self) {
        self.stop.cancel();
        join(self.cluster).await;
        join(self.orphans).await;
        self.stop_bus.cancel();
        join(self.bus).await;
        // It serves sessions, and there is none any more.
        self.registrar.abort();
    }
}

/// Runs the close notifiers of sessions that dead nodes have left. Told to stop, it finishes those that are
/// running; the others are claimed again when this node is missed.
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
            // It may have been notified of since it was claimed.
            if !cluster.is_claimed(&orphan.session).await {
                return;
            }
            notify(shared, &orphan.session.row).await;
            drop(orphan.mark);
            let _ = orphan.done.send(()); // whoever waited may have given up
        }
    });
    each.await;
}
