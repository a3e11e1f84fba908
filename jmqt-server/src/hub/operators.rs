//! What operators ask of the hub.

use std::sync::Arc;

use jmqt_core::{ChannelName, ClientId};

use jmqt_mqtt::Filter;

use super::Cluster;
use super::connections::Connections;
use super::error::HubError;
use super::filters::{name_of, stored_filter};
use crate::counters::Counters;
use crate::store::{ChannelKey, Cursor, CursorUpdate, Store, StoredSubscription};

/// The messages that the store keeps for one subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PendingMessages {
    pub(crate) channel: ChannelName,
    pub(crate) messages: u64,
}

/// The outcome of [`Operators::purge`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purged {
    /// So many messages are not kept for the client any more.
    Messages(u64),
    /// The client is connected, or connecting: nothing was done.
    IsConnected,
}

/// The filter of a subscription, or the name of its channel.
pub(crate) fn shown(name: &ChannelName) -> (&'static str, &str) {
    stored_filter(name).map_or(("channel", name.as_str()), |filter| ("filter", filter))
}

/// The name of the subscription with this filter, which MQTT clients would write so.
pub(crate) fn name_of_filter_text(text: &str) -> Option<ChannelName> {
    Filter::parse(text).ok().filter(|filter| filter.group().is_none()).and_then(name_of)
}

/// The messages of a log that the client has not acknowledged.
fn pending(subscription: &StoredSubscription) -> u64 {
    let acknowledged: u32 = subscription.cursor.beyond.iter().map(|word| word.count_ones()).sum();
    let after = subscription.last.0.saturating_sub(subscription.cursor.acked.0);
    after.saturating_sub(acknowledged.into())
}

/// Answers operators.
pub(crate) struct Operators {
    connections: Arc<Connections>,
    store: Arc<dyn Store>,
    counters: Arc<Counters>,
    /// `None` for a single server.
    cluster: Option<Arc<Cluster>>,
}

impl Operators {
    pub(super) const fn new(
        connections: Arc<Connections>,
        store: Arc<dyn Store>,
        counters: Arc<Counters>,
        cluster: Option<Arc<Cluster>>,
    ) -> Self {
        Self { connections, store, counters, cluster }
    }

    /// Returns `true` if the store can be read.
    pub(crate) async fn can_read(&self) -> bool {
        let Ok(nobody) = ClientId::parse("readiness check") else { return true };
        self.store.session(&nobody).await.map_err(|error| HubError::of_store(&error, &self.counters)).is_ok()
    }

    /// The size of the files of the database, if they are files of this machine.
    pub(crate) fn bytes_on_disk(&self) -> Option<u64> {
        self.store.bytes_on_disk()
    }

    /// The messages that the store keeps for a client, by channel. Acknowledgements of a connected client reach the store a
    /// little later.
    pub(crate) async fn pending_of(&self, client: &ClientId) -> Result<Vec<PendingMessages>, HubError> {
        let stored = self
            .store
            .subscriptions(client)
            .await
            .map_err(|error| HubError::of_store(&error, &self.counters))?;
        let each = stored.into_iter().map(|subscription| PendingMessages {
            messages: pending(&subscription),
            channel: subscription.channel,
        });
        Ok(each.filter(|pending| pending.messages > 0).collect())
    }

    /// Returns `true` if the store knows the client.
    pub(crate) async fn is_known(&self, client: &ClientId) -> Result<bool, HubError> {
        let session =
            self.store.session(client).await.map_err(|error| HubError::of_store(&error, &self.counters))?;
        Ok(session.is_some())
    }

    /// Drops the messages that the store keeps for an absent client. Its subscriptions stay.
    pub(crate) async fn purge(&self, client: &ClientId) -> Result<Purged, HubError> {
        // While this is held, the client does not connect to this node.
        let claim = self.connections.claim_absent(client);
        let is_elsewhere = self.cluster.as_ref().is_some_and(|cluster| cluster.is_elsewhere(client));
        if claim.is_none() || is_elsewhere {
            return Ok(Purged::IsConnected);
        }
        let stored = self
            .store
            .subscriptions(client)
            .await
            .map_err(|error| HubError::of_store(&error, &self.counters))?;
        let behind = || stored.iter().filter(|subscription| pending(subscription) > 0);
        let dropped = behind().map(pending).sum();
        let updates: Vec<CursorUpdate> = behind()
            .map(|subscription| CursorUpdate {
                client: client.clone(),
                key: subscription.key,
                cursor: Cursor { acked: subscription.last, beyond: Vec::new() },
            })
            .collect();
        let keys: Vec<ChannelKey> = updates.iter().map(|update| update.key).collect();
        self.store
            .save_cursors(&updates)
            .await
            .map_err(|error| HubError::of_store(&error, &self.counters))?;
        self.store.trim(&keys).await.map_err(|error| HubError::of_store(&error, &self.counters))?;
        drop(claim);
        Ok(Purged::Messages(dropped))
    }

    /// The nodes of the cluster: id, whether it is this one, and whether it was heard recently.
    pub(crate) fn nodes(&self) -> Vec<(String, bool, bool)> {
        let Some(cluster) = &self.cluster else { return vec![("single".to_owned(), true, true)] };
        let others = cluster.others().into_iter().map(|(id, is_here)| (id.to_string(), false, is_here));
        let mut nodes: Vec<_> = others.chain([(cluster.id().to_string(), true, true)]).collect();
        nodes.sort();
        nodes
    }

    /// The other node that has a client, if one is known.
    pub(crate) fn other_node_of(&self, client: &ClientId) -> Option<String> {
        Some(self.cluster.as_ref()?.node_of(client.as_str())?.to_string())
    }

    /// The id of this node.
    pub(crate) fn own_node(&self) -> String {
        let cluster: Option<&Arc<_>> = self.cluster.as_ref();
        cluster.map_or_else(|| "single".to_owned(), |cluster| cluster.id().to_string())
    }
}
