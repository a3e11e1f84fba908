//! The hub delivers messages to subscribers: connections, channels, the path through the store.
//!
//! The hub calls the store and the bus and passes messages to outboxes. It does not depend on packets, validators or
//! sockets, and it never waits for a client: a message without room in the outbox stays in the log (QoS 1) or is
//! dropped and counted (QoS 0).

mod channels;
mod cluster;
mod connections;
mod deliver;
#[cfg(test)]
mod double;
mod exchanges;
mod fan_out;
mod filters;
mod groups;
mod janitor;
mod operators;
mod orphans;
mod parked;
mod publish;
pub(crate) mod readers;
mod resume;
mod revalidate;
mod sessions;
mod stored;
mod subscriptions;
mod wills;

use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use bytes::Bytes;
use jmqt_core::{ChannelName, ClientId, StatusCode};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::bus::Bus;
use crate::counters::Counters;
use crate::outbox::{Outbox, OutboxContext};
use crate::store::{
    BeginSession, CommitQueue, NotCommitted, Operation, Order, Outcome, Source, Store, StoreError, Tagged,
    store_failed,
};
use crate::wire::{PacketId, Receipt};

pub(crate) use channels::Channels;
pub(crate) use cluster::{Arrival, Cluster, ClusterTasks, Location, Orphan};
pub(crate) use connections::{Claim, Connections, Registered};
pub(crate) use deliver::Deliverer;
pub(crate) use fan_out::DirtyOutboxes;
pub(crate) use filters::{Filters, filter_behind, name_of as name_of_filter};
pub(crate) use groups::name_of_share;
pub(crate) use janitor::{Janitor, JanitorLimits};
pub(crate) use operators::{PendingMessages, Purged, name_of_filter_text, shown as shown_name};
pub(crate) use orphans::{claim_orphans, forget_orphan, orphan_connection};
pub use revalidate::Revalidated;
pub(crate) use sessions::{MqttSession, NewSession, OpenedSession, Recorded};
pub(crate) use stored::{Stored, StoredQueue};
pub(crate) use subscriptions::Subscribed;
pub(crate) use wills::{DueWill, NewWill};

/// The time limit for an answer from the store. After it the request is answered SERVER_ERROR.
const STORE_TIMEOUT: Duration = Duration::from_secs(20);
/// The number of locks for subscription changes. Changes of one client are serialized by one of these locks.
const CHANGE_LOCKS: usize = 64;
/// The payload limit for one read of the log. A read returns at least one message.
const READ_BYTES: usize = 1 << 20;
/// The number of retained messages that are read at a time.
const RETAINED_READS: usize = 16;
/// The number of cursors of new readers that are read at a time.
const READER_READS: usize = 16;

/// The source of the application's operations in the commit queue.
const THE_SERVER: Source = Source(0);

/// The connections, channels and store access of a server.
pub(crate) struct Hub {
    pub(crate) connections: Arc<Connections>,
    pub(crate) channels: Channels,
    pub(crate) filters: Filters,
    pub(crate) groups: groups::Groups,
    pub(crate) context: Arc<OutboxContext>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) janitor: Arc<Janitor>,
    /// `None` for a single server.
    pub(crate) cluster: Option<Arc<Cluster>>,
    /// The queue to the stored notifier; `None` if the application has none.
    stored: Option<StoredQueue>,
    queue: CommitQueue<Tag>,
    changes: [tokio::sync::Mutex<()>; CHANGE_LOCKS],
    hasher: foldhash::fast::RandomState,
    /// Limits the number of retained messages that are read at a time.
    retained_reads: Semaphore,
    /// Limits the number of cursors of new readers that are read at a time.
    reader_reads: Semaphore,
    memory_ids: AtomicU64,
    /// Subscriptions whose logs cannot be read now.
    parked: parked::Parked,
    /// Tasks that read the log for sessions that are behind, or validate sessions again.
    resumes: TaskTracker,
    revalidations: revalidate::Revalidations,
}

/// The receiver of the outcome of an operation.
pub(crate) enum Tag {
    /// A client's QoS 1 publish. It is acknowledged with this status if the store succeeds.
    Publish { outbox: Arc<Outbox>, receipt: Receipt, status: StatusCode },
    /// A client releases its QoS 2 publish. It is acknowledged if the store succeeds.
    Release { outbox: Arc<Outbox>, packet: PacketId },
    /// Steps of QoS 2 exchanges. If the store succeeds, these packets are sent.
    Record { outbox: Arc<Outbox>, packets: Vec<(PacketId, Bytes)> },
    /// A client's QoS 0 publish that can be answered. The client receives an answer if the message is not retained.
    Retain { outbox: Arc<Outbox>, receipt: Receipt },
    /// A task that waits for the outcome.
    Reply(oneshot::Sender<Result<Outcome, NotCommitted>>),
    /// No receiver.
    Nobody,
}

impl Tagged for Tag {
    fn bytes(&self) -> usize {
        match self {
            Self::Publish { receipt, .. } | Self::Retain { receipt, .. } => receipt.bytes(),
            Self::Record { packets, .. } => {
                packets.iter().map(|(_, bytes)| size_of::<Bytes>() + bytes.len()).sum()
            }
            Self::Release { .. } | Self::Reply(_) | Self::Nobody => 0,
        }
    }

    fn is_publish(&self) -> bool {
        matches!(self, Self::Publish { .. })
    }
}

/// An error of a hub operation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HubError {
    #[error("the store failed")]
    Store,
    /// The operation may have been committed.
    #[error("commit outcome unknown")]
    Unknown,
    #[error("the limit of retained messages is reached (MAX_RETAINED_MESSAGES, MAX_RETAINED_BYTES)")]
    TooManyRetained,
    #[error("the outbound queues of all clients together are full (MAX_TOTAL_OUTBOUND_BYTES)")]
    NoRoom,
    #[error("the client id belongs to another user")]
    OfAnotherOwner,
    #[error("the session has ended")]
    SessionEnded,
    #[error("the client is connecting to another node")]
    Superseded,
    #[error("the client's sessions were taken over too often; retry in {0:?}")]
    TooManyTakeovers(Duration),
}

impl From<NotCommitted> for HubError {
    fn from(error: NotCommitted) -> Self {
        match error {
            NotCommitted::Failed => Self::Store,
            NotCommitted::Unknown => Self::Unknown,
        }
    }
}

impl Hub {
    pub(crate) fn new(
        context: Arc<OutboxContext>,
        store: Arc<dyn Store>,
        bus: Arc<dyn Bus>,
        queue: CommitQueue<Tag>,
        janitor: Arc<Janitor>,
        cluster: Option<Arc<Cluster>>,
        stored: Option<StoredQueue>,
    ) -> Self {
        Self {
            connections: Arc::default(),
            channels: Channels::default(),
            filters: Filters::default(),
            groups: groups::Groups::default(),
            counters: Arc::clone(&context.counters),
            context,
            store,
            bus,
            janitor,
            cluster,
            stored,
            queue,
            changes: std::array::from_fn(|_| tokio::sync::Mutex::default()),
            hasher: foldhash::fast::RandomState::default(),
            retained_reads: Semaphore::new(RETAINED_READS),
            reader_reads: Semaphore::new(READER_READS),
            memory_ids: AtomicU64::new(0),
            parked: parked::Parked::default(),
            resumes: TaskTracker::new(),
            revalidations: Default::default(),
        }
    }

    /// Submits an operation to the commit queue and waits for the outcome.
    async fn commit(&self, operation: Operation) -> Result<Outcome, HubError> {
        let (reply, answer) = oneshot::channel();
        let source = match &operation {
            // In the order of the client's publishes.
            Operation::Subscribe { client, .. }
            | Operation::Unsubscribe { client, .. }
            | Operation::Release { client, .. }
            | Operation::SubscribeFilter { client, .. }
            | Operation::UnsubscribeFilter { client, .. }
            | Operation::EndIdleCursor { client, .. }
            | Operation::BeginSession(BeginSession { client, .. })
            | Operation::SetOwner { client, .. }
            | Operation::SetChecked { client, .. }
            | Operation::SetExpiry { client, .. } => self.source_of(client),
            Operation::FireWill(fire) => self.source_of(&fire.will.client),
            _ => THE_SERVER,
        };
        let submitted = self.queue.submit(Order::Of(source), Some(operation), Tag::Reply(reply));
        let until = Instant::now() + STORE_TIMEOUT;
        let too_late = || self.store_failed(&StoreError::TimedOut(STORE_TIMEOUT));
        // An operation that is not in the queue will not be executed; the outcome of the others is unknown.
        let submitted = tokio::time::timeout_at(until, submitted).await.map_err(|_| too_late())?;
        submitted.map_err(|_| HubError::Store)?;
        let Ok(answer) = tokio::time::timeout_at(until, answer).await else {
            too_late();
            return Err(HubError::Unknown);
        };
        Ok(answer.map_err(|_| HubError::Store)??)
    }

    /// The source of a client's operations, which keep their order in the commit queue.
    fn source_of(&self, client: &ClientId) -> Source {
        Source(self.hasher.hash_one(client.as_str()))
    }

    /// Waits until all earlier retained messages of this channel are stored or have failed.
    async fn retained_fence(&self, channel: &ChannelName) -> Result<(), HubError> {
        let (reply, answer) = oneshot::channel();
        let passed = async {
            let order = Order::AfterRetained(channel);
            self.queue.submit(order, None, Tag::Reply(reply)).await.map_err(|_| HubError::Store)?;
            drop(answer.await); // there is no outcome
            Ok(())
        };
        let passed = tokio::time::timeout(STORE_TIMEOUT, passed).await;
        passed.unwrap_or_else(|_| Err(self.store_failed(&StoreError::TimedOut(STORE_TIMEOUT))))
    }

    /// Changes the subscriptions of a client. If the caller is dropped meanwhile, the session waits for the change
    /// [before it ends](Self::settle_session).
    async fn commit_change(&self, outbox: &Outbox, operation: Operation) -> Result<Outcome, HubError> {
        outbox.change_submitted();
        let outcome = self.commit(operation).await;
        if !matches!(outcome, Err(HubError::Unknown)) {
            outbox.change_settled();
        }
        outcome
    }

    /// The reason why clients should avoid this server, as a short text: a node of a cluster has lost the database
    /// while other nodes have not, or the database of a single server is gone.
    pub(crate) fn trouble(&self) -> Option<&'static str> {
        if self.cluster.as_ref().is_some_and(|cluster| !*cluster.lets_in().borrow()) {
            return Some("cannot reach the database");
        }
        self.store.is_gone().then_some("the database was deleted or replaced")
    }

    /// Returns `true` if this node runs the singleton tasks of the cluster.
    pub(crate) fn is_first(&self) -> bool {
        self.cluster.as_ref().is_none_or(|cluster| cluster.is_first())
    }

    /// The number of operations that wait for the committer.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Closes the commit queue. Submitted operations are still executed.
    pub(crate) fn close_queue(&self) {
        self.queue.close();
    }

    /// Logs and counts a failure of the store. The request is answered SERVER_ERROR.
    fn store_failed(&self, error: &StoreError) -> HubError {
        store_failed(&self.counters, "the store failed", error);
        HubError::Store
    }
}
