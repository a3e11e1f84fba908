//! The hub delivers messages to subscribers: connections, channels, the path through the store.
//!
//! The hub calls the store and the bus and passes messages to outboxes. It does not depend on packets, validators or
//! sockets, and it never waits for a client: a message without room in the outbox stays in the log (QoS 1) or is
//! dropped and counted (QoS 0).

mod announced;
mod anywhere;
mod channels;
mod cluster;
mod commits;
mod connections;
mod deliver;
#[cfg(test)]
mod double;
mod error;
mod exchanges;
mod fan_out;
mod filters;
mod groups;
mod janitor;
mod log_reads;
mod memory_ids;
mod operators;
mod orphans;
mod parked;
pub(crate) mod readers;
mod resume;
mod retained;
mod revalidate;
mod sessions;
mod shares;
mod stored;
mod subscribers;
mod subscriptions;
mod wills;

use std::sync::Arc;

use jmqt_core::{Qos, Retain};

use crate::bus::Bus;
use crate::counters::Counters;
use crate::message::Message;
use crate::outbox::{Flush, OutboxContext};
use crate::store::{CommitQueue, Outcome, Store, StoreError, StoredTotals};
use crate::wire::Pushes;

use anywhere::Anywhere;
use commits::Commits;
use groups::Groups;
use memory_ids::MemoryIds;
use operators::Operators;
use readers::Readers;
use resume::Resumes;
use retained::RetainedMessages;
use revalidate::Revalidations;
use shares::Shares;
use subscribers::Subscribers;
use subscriptions::{ChangeLocks, Subscriptions};
use wills::Wills;

pub(crate) use cluster::{Arrival, Cluster, ClusterTasks, Location, Orphan};
pub(crate) use commits::Tag;
pub(crate) use connections::{Claim, Connections, Registered};
pub(crate) use deliver::Deliverer;
pub(crate) use error::HubError;
pub(crate) use fan_out::DirtyOutboxes;
pub(crate) use filters::{filter_behind, name_of as name_of_filter};
pub(crate) use groups::name_of_share;
pub(crate) use janitor::{Janitor, JanitorLimits};
pub(crate) use operators::{PendingMessages, Purged, name_of_filter_text, shown as shown_name};
pub(crate) use orphans::{claim_orphans, forget_orphan, orphan_connection};
pub use revalidate::Revalidated;
pub(crate) use sessions::{MqttSession, NewSession, OpenedSession, Recorded};
pub(crate) use stored::{Stored, StoredQueue};
pub(crate) use subscriptions::Subscribed;
pub(crate) use wills::{DueWill, NewWill};

/// The connections, channels and store access of a server.
pub(crate) struct Hub {
    pub(crate) connections: Arc<Connections>,
    pub(crate) subscribers: Arc<Subscribers>,
    pub(crate) context: Arc<OutboxContext>,
    pub(crate) counters: Arc<Counters>,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) bus: Arc<dyn Bus>,
    pub(crate) janitor: Arc<Janitor>,
    /// `None` for a single server.
    pub(crate) cluster: Option<Arc<Cluster>>,
    /// The queue to the stored notifier; `None` if the application has none.
    stored: Option<StoredQueue>,
    pub(crate) commits: Arc<Commits>,
    pub(crate) retained: Arc<RetainedMessages>,
    pub(crate) memory_ids: Arc<MemoryIds>,
    pub(crate) resumes: Arc<Resumes>,
    pub(crate) readers: Arc<Readers>,
    pub(crate) shares: Arc<Shares>,
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) anywhere: Anywhere,
    pub(crate) wills: Wills,
    pub(crate) revalidations: Arc<Revalidations>,
    pub(crate) operators: Operators,
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
        let (connections, counters) = (Arc::<Connections>::default(), Arc::clone(&context.counters));
        let commits = Arc::new(Commits::new(queue, Arc::clone(&counters)));
        let memory_ids = Arc::new(MemoryIds::new(context.ids));
        let groups = Groups::new(Arc::clone(&store), Arc::clone(&context), cluster.clone());
        let subscribers =
            Subscribers::new(Arc::clone(&connections), groups, Arc::clone(&bus), cluster.clone());
        let subscribers = Arc::new(subscribers);
        let resumes = Resumes::new(Arc::clone(&subscribers), Arc::clone(&store), Arc::clone(&context));
        let resumes = Arc::new(resumes);
        let readers = Readers::new(
            Arc::clone(&subscribers),
            Arc::clone(&resumes),
            Arc::clone(&commits),
            Arc::clone(&store),
            Arc::clone(&counters),
        );
        let readers = Arc::new(readers);
        let shares = Shares::new(
            Arc::clone(&subscribers),
            Arc::clone(&resumes),
            Arc::clone(&readers),
            Arc::clone(&janitor),
            Arc::clone(&store),
            Arc::clone(&context),
        );
        let revalidations = Revalidations::new(
            Arc::clone(&connections),
            Arc::clone(&commits),
            Arc::clone(&store),
            Arc::clone(&counters),
            cluster.clone(),
        );
        let revalidations = Arc::new(revalidations);
        let operators = Operators::new(
            Arc::clone(&connections),
            Arc::clone(&store),
            Arc::clone(&counters),
            cluster.clone(),
        );
        let wills = Wills::new(
            Arc::clone(&store),
            Arc::clone(&janitor),
            Arc::clone(&commits),
            Arc::clone(&subscribers),
            Arc::clone(&counters),
        );
        let retained = RetainedMessages::new(
            Arc::clone(&commits),
            Arc::clone(&store),
            Arc::clone(&context.outbound),
            Arc::clone(&counters),
            Arc::clone(&memory_ids),
            cluster.is_none(),
        );
        let (retained, shares) = (Arc::new(retained), Arc::new(shares));
        let subscriptions = Subscriptions {
            changes: ChangeLocks::default(),
            connections: Arc::clone(&connections),
            subscribers: Arc::clone(&subscribers),
            commits: Arc::clone(&commits),
            retained: Arc::clone(&retained),
            readers: Arc::clone(&readers),
            resumes: Arc::clone(&resumes),
            shares: Arc::clone(&shares),
            store: Arc::clone(&store),
            counters: Arc::clone(&counters),
        };
        let subscriptions = Arc::new(subscriptions);
        Self {
            anywhere: Anywhere::new(
                Arc::clone(&connections),
                Arc::clone(&subscribers),
                Arc::clone(&subscriptions),
                Arc::clone(&revalidations),
                cluster.clone(),
            ),
            subscribers,
            connections,
            counters,
            context,
            store,
            bus,
            janitor,
            cluster,
            stored,
            retained,
            commits,
            memory_ids,
            resumes,
            readers,
            shares,
            subscriptions,
            wills,
            revalidations,
            operators,
        }
    }

    /// Publishes a message of the application (§9.e). On return a QoS 1 message is on disk, and a QoS 0 message is in
    /// the outboxes of all subscribers.
    pub(crate) async fn publish(&self, message: Message) -> Result<(), HubError> {
        self.counters.messages_published.increment();
        if message.qos != Qos::AtMostOnce {
            return match self.commits.commit(message.into_operation(None, None)).await? {
                Outcome::TooManyRetained => Err(HubError::TooManyRetained),
                _ => Ok(()),
            };
        }
        // Before the subscribers are looked up: a later subscriber finds the message in the queue (2.12).
        if message.retain == Retain::Yes {
            self.commits.submit_retained(message.clone(), None).await?;
        }
        let (pushes, mut dirty) = (Pushes::of(&message), DirtyOutboxes::default());
        self.subscribers
            .push(&message.channel, message.sender.as_ref(), &pushes, Flush::Now, &mut dirty)
            .await;
        Ok(())
    }

    /// How much the store has; `None` if it cannot be read.
    pub(crate) async fn stored_totals(&self) -> Option<StoredTotals> {
        self.store.totals().await.map_err(|error| self.store_failed(&error)).ok()
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

    /// Logs and counts a failure of the store. The request is answered SERVER_ERROR.
    fn store_failed(&self, error: &StoreError) -> HubError {
        HubError::of_store(error, &self.counters)
    }
}
