//! Wills of MQTT clients: stored with the session, and published once, when they are due.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use jmqt_core::{ChannelName, ClientId, Qos, Retain};

use super::commits::Commits;
use super::error::HubError;
use super::fan_out::DirtyOutboxes;
use super::janitor::Janitor;
use super::log_reads::intact;
use super::subscribers::Subscribers;
use crate::attributes::Attributes;
use crate::bus::connection_info;
use crate::connection::ConnectionInfo;
use crate::counters::Counters;
use crate::message::{Data, Message};
use crate::outbox::Flush;
use crate::store::{FireWill, Operation, Outcome, Store, StoreError, StoredWill, WILLS_AT_A_TIME, WillKey};
use crate::wire::Pushes;

/// A will that a client leaves.
#[derive(Debug, Clone)]
pub(crate) struct NewWill {
    pub(crate) channel: ChannelName,
    pub(crate) data: Data,
    pub(crate) qos: Qos,
    pub(crate) retain: Retain,
    /// The seconds between the end of the connection and the publish. The end of the session ends the delay.
    pub(crate) delay: u32,
}

impl NewWill {
    /// The moment from which the expiry of its message is counted until the will is published.
    pub(crate) const PUBLISHED: SystemTime = UNIX_EPOCH;

    /// The message as if the client published it now.
    pub(crate) fn message(&self, client: &ClientId) -> Message {
        let (data, attributes) = self.data.clone().into_parts();
        Message {
            channel: self.channel.clone(),
            sender: Some(client.clone()),
            data: Data::new(data, published_now(attributes)),
            qos: self.qos,
            retain: self.retain,
        }
    }

    /// The will as stored with a session.
    pub(super) fn stored(
        &self,
        client: &ClientId,
        generation: u64,
        node: &str,
        info: ConnectionInfo,
    ) -> StoredWill {
        let (data, attributes) = self.data.clone().into_parts();
        StoredWill {
            key: WillKey { client: client.clone(), generation, node: node.to_owned() },
            protocol: info.protocol.as_str().to_owned(),
            address: info.remote.to_string(),
            channel: self.channel.clone(),
            data,
            attributes,
            qos: self.qos,
            retain: self.retain == Retain::Yes,
            delay: self.delay,
        }
    }
}

/// The attributes of a will, with the expiry of a message that is published now.
fn published_now(attributes: Attributes) -> Attributes {
    attributes.expiring_later(SystemTime::now().duration_since(NewWill::PUBLISHED).unwrap_or_default())
}

/// A will that is due.
pub(crate) struct DueWill {
    key: WillKey,
    /// The connection that has ended.
    pub(crate) connection: ConnectionInfo,
    pub(crate) message: Message,
}

impl DueWill {
    pub(crate) const fn key(&self) -> &WillKey {
        &self.key
    }
}

/// The wills of all clients.
pub(crate) struct Wills {
    store: Arc<dyn Store>,
    janitor: Arc<Janitor>,
    commits: Arc<Commits>,
    subscribers: Arc<Subscribers>,
    counters: Arc<Counters>,
}

impl Wills {
    pub(super) const fn new(
        store: Arc<dyn Store>,
        janitor: Arc<Janitor>,
        commits: Arc<Commits>,
        subscribers: Arc<Subscribers>,
        counters: Arc<Counters>,
    ) -> Self {
        Self { store, janitor, commits, subscribers, counters }
    }

    /// Records that a connection has ended: its will is due after its delay, and not before `at_least` seconds. An error was
    /// logged; the will becomes due when the end of the session is recorded.
    pub(crate) async fn end(&self, client: &ClientId, generation: u64, node: &str, at_least: u32) {
        if node == self.janitor.node {
            return self.janitor.end_will(client, generation, at_least).await;
        }
        let session = [(client.clone(), generation)];
        if let Err(error) = self.store.end_wills(&session, node, at_least).await {
            self.failed(&error);
        }
    }

    /// Deletes the will of a connected client, which disconnects in order. It is deleted also if the future is dropped.
    pub(crate) fn discard(
        &self,
        client: &ClientId,
        generation: u64,
    ) -> impl Future<Output = ()> + Send + use<> {
        self.janitor.delete_will(client, generation)
    }

    /// Some wills that are due, of all clients or of one, after the first `skip`. Returns also whether there may be more. An error
    /// was logged.
    pub(crate) async fn due(&self, of: Option<&ClientId>, skip: usize) -> (Vec<DueWill>, bool) {
        let stored = match self.store.due_wills(of, SystemTime::now(), skip).await {
            Ok(stored) => stored,
            Err(error) => {
                self.failed(&error);
                return (Vec::new(), false);
            }
        };
        let may_be_more = stored.len() == WILLS_AT_A_TIME;
        let mut due = Vec::with_capacity(stored.len());
        for will in stored {
            let StoredWill { key, protocol, address, channel, data, attributes, qos, retain, .. } = will;
            let connection = connection_info(&protocol, &address);
            let data = intact(&channel, data, published_now(attributes));
            let (Some(connection), Some(data)) = (connection, data) else {
                self.delete(&key).await;
                continue;
            };
            let sender = Some(key.client.clone());
            let retain = if retain { Retain::Yes } else { Retain::No };
            due.push(DueWill { key, connection, message: Message { channel, sender, data, qos, retain } });
        }
        (due, may_be_more)
    }

    /// Deletes a will that is not published.
    pub(crate) async fn refuse(&self, will: DueWill) {
        self.delete(&will.key).await;
    }

    async fn delete(&self, key: &WillKey) {
        let session = [(key.client.clone(), key.generation)];
        if let Err(error) = self.store.delete_wills(&session, &key.node).await {
            self.failed(&error);
        }
    }

    /// Publishes a will, unless it was published or deleted meanwhile.
    pub(crate) async fn publish(&self, will: DueWill, data: Data) -> Result<(), HubError> {
        let DueWill { key, message, .. } = will;
        let mut message = Message { data, ..message };
        loop {
            let fire = FireWill { will: key.clone(), append: message.clone().into_append() };
            match self.commits.commit(Operation::FireWill(Box::new(fire))).await? {
                Outcome::NoWill => return Ok(()),
                // The subscribers that are there receive it nevertheless.
                Outcome::TooManyRetained if message.retain == Retain::Yes => message.retain = Retain::No,
                _ => break,
            }
        }
        self.counters.messages_published.increment();
        self.counters.wills_published.increment();
        // Otherwise the delivery of the commit has done it.
        if message.qos == Qos::AtMostOnce {
            let (pushes, mut dirty) = (Pushes::of(&message), DirtyOutboxes::default());
            self.subscribers
                .push(&message.channel, message.sender.as_ref(), &pushes, Flush::Now, &mut dirty)
                .await;
        }
        Ok(())
    }

    fn failed(&self, error: &StoreError) {
        HubError::of_store(error, &self.counters);
    }
}
