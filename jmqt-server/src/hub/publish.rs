//! From a publish to its subscribers: at once for QoS 0, by way of the store for QoS 1 and retained.

use std::sync::Arc;

use bytes::Bytes;
use jmqt_protocol::{ChannelKind, ChannelName, ClientId, Payload, PushFrame, Qos, Retain, StatusCode};

use super::channels::Members;
use super::{Cluster, Hub, HubError, Location, Pushes, PushesBuilder, THE_SERVER, Tag};
use crate::log_limit::log_limited;
use crate::outbox::{Flush, Outbox, Stage};
use crate::store::{Append, Operation, Order, Outcome, PublishId, Source};
use crate::transport::Framing;

/// After so many sessions a fan-out lets other tasks run.
const SESSIONS_PER_TURN: usize = 256;

/// A message on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) channel: ChannelName,
    /// `None` for the server.
    pub(crate) sender: Option<ClientId>,
    pub(crate) data: Bytes,
    pub(crate) qos: Qos,
    pub(crate) retain: Retain,
}

/// Outboxes with something appended and not yet flushed.
#[derive(Default)]
pub(crate) struct DirtyOutboxes(Vec<Arc<Outbox>>);

impl DirtyOutboxes {
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn add(&mut self, outbox: &Arc<Outbox>) {
        self.0.push(Arc::clone(outbox));
    }

    pub(crate) fn flush(&mut self) {
        for outbox in self.0.drain(..) {
            outbox.flush();
        }
        self.0.shrink_to(SESSIONS_PER_TURN * 4); // what a large batch took
    }
}

impl Hub {
    /// Whether anybody on this or another node may want messages of this channel.
    pub(crate) fn has_subscribers(&self, channel: &ChannelName) -> bool {
        match (channel.kind(), &self.cluster) {
            (ChannelKind::PeerToPeer, cluster) => {
                let elsewhere = |cluster: &Arc<Cluster>| cluster.node_of(peer(channel)).is_some();
                self.members(channel).is_some() || cluster.as_ref().is_some_and(elsewhere)
            }
            // Who is subscribed elsewhere is for Redis to know.
            (_, Some(_)) => true,
            (_, None) => self.channels.get(channel.as_str()).is_some(),
        }
    }

    /// The subscribers on this node. A point-to-point channel has one at most, found by its name.
    pub(super) fn members(&self, channel: &ChannelName) -> Option<Members> {
        if channel.kind() != ChannelKind::PeerToPeer {
            return Some(self.channels.get(channel.as_str())?.members());
        }
        let client = channel.as_str().strip_prefix('#')?;
        let subscription = self.connections.outbox(client)?.subscription(channel.as_str())?;
        Some([subscription].into())
    }

    /// Delivers QoS 0 pushes of one channel and one publisher, on whatever node. With [`Flush::Later`]
    /// the outboxes that got something are added to `dirty`.
    ///
    /// Not an `async fn`, which would be one future around another for every push.
    pub(crate) fn push<'a>(
        &self,
        channel: &ChannelName,
        sender: Option<&'a ClientId>,
        pushes: &'a Pushes,
        flush: Flush,
        dirty: &'a mut DirtyOutboxes,
    ) -> impl Future<Output = ()> + Send + use<'a> {
        let members = self.members(channel);
        if let Some(cluster) = &self.cluster {
            let bytes = &pushes.framed(Framing::Nul).bytes;
            if channel.kind() != ChannelKind::PeerToPeer {
                self.bus.publish_qos0(channel, sender, bytes);
            } else if members.is_none()
                && let Some(node) = cluster.node_of(peer(channel))
            {
                self.bus.send_qos0(node, channel, sender, bytes);
            }
        }
        push_to(members, sender, pushes, flush, dirty)
    }

    /// The same to the subscribers on this node.
    pub(super) async fn push_here(
        &self,
        channel: &ChannelName,
        sender: Option<&ClientId>,
        pushes: &Pushes,
        flush: Flush,
        dirty: &mut DirtyOutboxes,
    ) {
        push_to(self.members(channel), sender, pushes, flush, dirty).await;
    }

    /// A client's QoS 1 publish takes its place in the order; the `pubAck` follows when it is settled. With `once` it is
    /// answered as before if it was taken before.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nothing was submitted.
    pub(crate) async fn submit_publish(
        &self,
        message: Message,
        outbox: &Arc<Outbox>,
        id: Option<Box<str>>,
        status: StatusCode,
        once: Option<PublishId>,
    ) -> Result<(), HubError> {
        self.counters.messages_published.increment();
        let tag = Tag::Publish { outbox: Arc::clone(outbox), id, status };
        let source = self.source_of_message(&message);
        self.submit_acknowledged(source, Some(message.into_operation(once)), tag, outbox).await
    }

    /// A `pubAck` that must not overtake those of earlier publishes (2.10).
    pub(crate) async fn submit_answer(
        &self,
        client: &ClientId,
        outbox: &Arc<Outbox>,
        id: Option<Box<str>>,
        status: StatusCode,
    ) -> Result<(), HubError> {
        let tag = Tag::Publish { outbox: Arc::clone(outbox), id, status };
        self.submit_acknowledged(self.source_of(client), None, tag, outbox).await
    }

    async fn submit_acknowledged(
        &self,
        source: Source,
        operation: Option<Operation>,
        tag: Tag,
        outbox: &Outbox,
    ) -> Result<(), HubError> {
        // Counted before it is submitted: it may be settled before `submit` returns.
        let submitted = outbox.publish_submitted();
        let order = Order::Of(source);
        self.queue.submit(order, operation, tag).await.map_err(|_| HubError::Store)?;
        submitted.keep();
        Ok(())
    }

    fn source_of_message(&self, message: &Message) -> Source {
        message.sender.as_ref().map_or(THE_SERVER, |client| self.source_of(client))
    }

    /// The retained part of a QoS 0 publish, which nobody waits for (2.13). A client that gave it an id is told if there is
    /// no room for it.
    pub(crate) async fn submit_retained(
        &self,
        message: Message,
        publisher: Option<(&Arc<Outbox>, &str)>,
    ) -> Result<(), HubError> {
        let tag = match publisher {
            Some((outbox, id)) => Tag::Retain { outbox: Arc::clone(outbox), id: id.into() },
            None => Tag::Nobody,
        };
        let order = Order::Of(self.source_of_message(&message));
        self.queue.submit(order, Some(message.into_operation(None)), tag).await.map_err(|_| HubError::Store)
    }

    pub(super) fn refused_to_retain(&self, append: &Append) {
        self.counters.retained_refused.increment();
        let client = append.sender.as_ref().map_or("", ClientId::as_str);
        log_limited!(
            warn, target: "jmqt::store", client, channel = %append.channel, bytes = append.data.len(),
            "a message was not retained: MAX_RETAINED_MESSAGES or MAX_RETAINED_BYTES are there already"
        );
    }

    /// A publish on the server's own account (§9.e): when it returns, a QoS 1 message is on disk and a
    /// QoS 0 message has been handed to everybody's outbox.
    pub(crate) async fn publish(&self, message: Message) -> Result<(), HubError> {
        self.counters.messages_published.increment();
        if message.qos == Qos::AtLeastOnce {
            return match self.commit(message.into_operation(None)).await? {
                Outcome::TooManyRetained => Err(HubError::TooManyRetained),
                _ => Ok(()),
            };
        }
        // Before it is looked who is subscribed: whoever is not yet will find it on its way (2.12).
        if message.retain == Retain::Yes {
            self.submit_retained(message.clone(), None).await?;
        }
        let mut pushes = PushesBuilder::default();
        let sender = message.sender.as_ref().map_or("", ClientId::as_str);
        pushes.push(&PushFrame::new(message.channel.as_str(), sender), message.payload(), None);
        let mut dirty = DirtyOutboxes::default();
        self.push(&message.channel, message.sender.as_ref(), &pushes.finish(), Flush::Now, &mut dirty).await;
        Ok(())
    }

    /// Whether a client is connected, to any node, and takes point-to-point messages.
    pub(crate) async fn takes_point_to_point(&self, channel: &ChannelName) -> bool {
        if self.members(channel).is_some_and(|members| members[0].stage() != Stage::Ended) {
            return true;
        }
        self.cluster.is_some() && matches!(self.locate(peer(channel)).await, Location::On(_))
    }
}

impl Message {
    fn into_operation(self, once: Option<PublishId>) -> Operation {
        Operation::Append(Append {
            channel: self.channel,
            sender: self.sender,
            data: self.data,
            log: self.qos == Qos::AtLeastOnce,
            retain: self.retain == Retain::Yes,
            once,
        })
    }

    pub(super) fn payload(&self) -> Payload<'_> {
        payload(&self.data)
    }
}

async fn push_to(
    members: Option<Members>,
    sender: Option<&ClientId>,
    pushes: &Pushes,
    flush: Flush,
    dirty: &mut DirtyOutboxes,
) {
    let Some(members) = members else { return };
    for turn in members.chunks(SESSIONS_PER_TURN) {
        for subscription in turn {
            if Some(&subscription.client) == sender {
                continue; // nobody receives their own message (2.11)
            }
            if subscription.outbox.push(subscription, pushes, flush) {
                dirty.add(&subscription.outbox);
            }
        }
        if turn.len() == SESSIONS_PER_TURN {
            dirty.flush();
            tokio::task::yield_now().await;
        }
    }
}

/// The client whose point-to-point channel it is.
pub(super) fn peer(channel: &ChannelName) -> &str {
    channel.as_str().strip_prefix('#').unwrap_or_default()
}

/// Whether what came out of the store is what went in: JSON. Anything else is no packet to a client.
pub(super) fn is_intact(channel: &ChannelName, data: &[u8]) -> bool {
    let is_json = std::str::from_utf8(data).is_ok_and(|text| Payload::parse(text).is_ok());
    if !is_json {
        log_limited!(
            error, target: "jmqt::store", channel = %channel,
            "a stored message is damaged and is left out: check the disk, and restore the database from a backup"
        );
    }
    is_json
}

/// What came in as a payload, or out of the store, is one.
pub(super) fn payload(data: &Bytes) -> Payload<'_> {
    let text = std::str::from_utf8(data).unwrap_or_default();
    Payload::trust(text)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, mpsc};

    use futures_util::FutureExt as _;
    use jmqt_protocol::Persistence;

    use super::*;
    use crate::store::Double;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)] // protocol.md 2.12
    async fn a_retained_message_that_waits_for_room_reaches_who_subscribes_meanwhile() {
        let (open, gate) = mpsc::channel::<()>();
        let (gate, is_committing) = (Mutex::new(gate), Arc::new(AtomicBool::new(false)));
        let committing = Arc::clone(&is_committing);
        let commit = move |batch: &[Operation]| {
            committing.store(true, Ordering::SeqCst);
            let _ = gate.lock().unwrap().recv(); // until it is open
            Ok(batch.iter().map(|_| Outcome::Appended(None)).collect())
        };
        let hub = Hub::over(Double { commit: Box::new(commit), ..Double::default() });
        let message = |name: &str, qos, retain| {
            let (channel, data) = (ChannelName::parse(name).unwrap(), vec![b'1'; 1 << 20].into());
            Message { channel, sender: None, data, qos, retain }
        };
        let submit = || {
            let filling = message("other", Qos::AtLeastOnce, Retain::No).into_operation(None);
            hub.queue.submit(Order::Of(THE_SERVER), Some(filling), Tag::Nobody)
        };
        assert!(submit().await.is_ok());
        while !is_committing.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        while submit().now_or_never().is_some() {}
        let news = message("news", Qos::AtMostOnce, Retain::Yes);
        let channel = news.channel.clone();
        let mut publishing = pin!(hub.publish(news));
        assert!(publishing.as_mut().now_or_never().is_none(), "as much of the server waits as may");
        let (bob, outbox) = (ClientId::parse("bob").unwrap(), hub.outbox());
        outbox.go_live();
        let subscribed = hub.subscribe(&outbox, &bob, &channel, Persistence::Temporary).await.unwrap();
        assert!(subscribed.retained.is_none(), "it has not been submitted");
        outbox.open(&subscribed.subscription, None, None);
        drop(open);
        publishing.await.unwrap();
        assert!(outbox.taken().starts_with(r#"{"push":{"cn":"news","#));
    }
}
