//! From a publish to its subscribers: directly for QoS 0, through the store for QoS 1 and retained messages.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures_util::FutureExt as _;
use jmqt_core::{ChannelKind, ChannelName, ClientId, Qos, Retain, StatusCode};

use super::channels::Members;
use super::fan_out::fan_out;
use super::filters::Receivers;
use super::{Cluster, DirtyOutboxes, Hub, HubError, Location, THE_SERVER, Tag};
use crate::attributes::Attributes;
use crate::bus::NodeId;
use crate::log_limit::log_limited;
use crate::message::{Data, Message, PushId};
use crate::outbox::{Flush, Outbox, Stage};
use crate::store::{Append, Operation, Order, Outcome, PublishId, Source};
use crate::wire::{PacketId, Pushes, Receipt};

impl Hub {
    /// Returns `true` if a client on this or another node may be subscribed to this channel.
    pub(crate) fn has_subscribers(&self, channel: &ChannelName) -> bool {
        match (channel.kind(), &self.cluster) {
            (ChannelKind::PeerToPeer, cluster) => {
                let elsewhere = |cluster: &Arc<Cluster>| cluster.node_of(peer(channel)).is_some();
                self.members(channel).is_some() || cluster.as_ref().is_some_and(elsewhere)
            }
            // Redis knows the subscribers of other nodes.
            (_, Some(_)) => true,
            (_, None) => match self.filters.is_empty() {
                true => self.channels.get(channel.as_str()).is_some(),
                false => self.members(channel).is_some(),
            },
        }
    }

    /// The subscribers on this node. A point-to-point channel has at most one, found by its name.
    pub(super) fn members(&self, channel: &ChannelName) -> Option<Members> {
        if channel.kind() != ChannelKind::PeerToPeer {
            return self.receivers(channel).members;
        }
        let client = channel.as_str().strip_prefix('#')?;
        let subscription = self.connections.outbox(client)?.subscription(channel.as_str())?;
        Some([subscription].into())
    }

    /// The subscribers of a channel that is not point-to-point, and the nodes with a matching filter.
    pub(super) fn receivers(&self, channel: &ChannelName) -> Receivers {
        let exact = self.channels.get(channel.as_str()).map(|channel| channel.members());
        match self.filters.is_empty() {
            true => Receivers { members: exact, nodes: None },
            false => self.filters.with_matching(channel, exact),
        }
    }

    /// The other nodes with a filter that matches a channel.
    pub(super) fn nodes_with_filters(&self, channel: &ChannelName) -> Option<Arc<[NodeId]>> {
        if self.filters.is_empty() { None } else { self.receivers(channel).nodes }
    }

    /// Delivers QoS 0 pushes of one channel and one publisher to the subscribers on all nodes. With [`Flush::Later`]
    /// the outboxes that received a push are added to `dirty`.
    ///
    /// This is not an `async fn`, which would nest one future in another for every push.
    pub(crate) fn push<'a>(
        &self,
        channel: &ChannelName,
        sender: Option<&'a ClientId>,
        pushes: &'a Pushes,
        flush: Flush,
        dirty: &'a mut DirtyOutboxes,
    ) -> impl Future<Output = ()> + Send + use<'a> {
        let receivers = match channel.kind() {
            ChannelKind::PeerToPeer => Receivers { members: self.members(channel), nodes: None },
            ChannelKind::Plain | ChannelKind::Control => self.receivers(channel),
        };
        if let Some(cluster) = &self.cluster {
            let run = pushes.run();
            if channel.kind() != ChannelKind::PeerToPeer {
                if let Some(nodes) = &receivers.nodes {
                    self.bus.copy_qos0(nodes, channel, sender, run);
                }
                self.bus.publish_qos0(channel, sender, run);
            } else if receivers.members.is_none()
                && let Some(node) = cluster.node_of(peer(channel))
            {
                self.bus.send_qos0(node, channel, sender, run);
            }
        }
        push_to(receivers.members, sender, pushes, flush, dirty)
    }

    /// Delivers QoS 0 pushes to the subscribers on this node.
    pub(crate) async fn push_here(
        &self,
        channel: &ChannelName,
        sender: Option<&ClientId>,
        pushes: &Pushes,
        flush: Flush,
        dirty: &mut DirtyOutboxes,
    ) {
        push_to(self.members(channel), sender, pushes, flush, dirty).await;
    }

    /// Submits a client's QoS 1 publish. The acknowledgement follows when it is settled. With `once`, a repeated
    /// publish receives its first answer again. With `received`, this is a QoS 2 publish, which is stored once until the
    /// client releases it.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, nothing was submitted.
    ///
    /// This is not an `async fn`, and neither are those below: each would hold its arguments beside the future that it
    /// waits for.
    pub(crate) fn submit_publish<'a>(
        &'a self,
        message: Message,
        outbox: &'a Arc<Outbox>,
        receipt: Receipt,
        status: StatusCode,
        once: Option<PublishId>,
        received: Option<PacketId>,
    ) -> impl Future<Output = Result<(), HubError>> + Send + use<'a> {
        self.counters.messages_published.increment();
        let tag = Tag::Publish { outbox: Arc::clone(outbox), receipt, status };
        let source = self.source_of_message(&message);
        self.submit_acknowledged(source, Some(message.into_operation(once, received)), tag, outbox)
    }

    /// Submits an answer that must not overtake the answers to earlier publishes (2.10).
    pub(crate) fn submit_answer<'a>(
        &'a self,
        client: &ClientId,
        outbox: &'a Arc<Outbox>,
        receipt: Receipt,
        status: StatusCode,
    ) -> impl Future<Output = Result<(), HubError>> + Send + use<'a> {
        let tag = Tag::Publish { outbox: Arc::clone(outbox), receipt, status };
        self.submit_acknowledged(self.source_of(client), None, tag, outbox)
    }

    /// Submits the release of a client's QoS 2 publish. The acknowledgement follows when it is settled.
    pub(crate) fn submit_release<'a>(
        &'a self,
        client: &ClientId,
        outbox: &'a Arc<Outbox>,
        packet: PacketId,
    ) -> impl Future<Output = Result<(), HubError>> + Send + use<'a> {
        let tag = Tag::Release { outbox: Arc::clone(outbox), packet };
        let operation = Operation::Release { client: client.clone(), packet };
        self.submit_acknowledged(self.source_of(client), Some(operation), tag, outbox)
    }

    fn submit_acknowledged<'a>(
        &'a self,
        source: Source,
        operation: Option<Operation>,
        tag: Tag,
        outbox: &'a Outbox,
    ) -> impl Future<Output = Result<(), HubError>> + Send + use<'a> {
        // Counted before it is submitted: it may be settled before `submit` returns.
        let submitted = outbox.publish_submitted();
        self.queue.submit(Order::Of(source), operation, tag).map(move |result| {
            result.map_err(|_| HubError::Store)?;
            submitted.keep();
            Ok(())
        })
    }

    fn source_of_message(&self, message: &Message) -> Source {
        message.sender.as_ref().map_or(THE_SERVER, |client| self.source_of(client))
    }

    /// Submits the retained message of a QoS 0 publish. No task waits for it (2.13). A client that can be answered
    /// receives an error if there is no room.
    pub(crate) fn submit_retained(
        &self,
        message: Message,
        publisher: Option<(&Arc<Outbox>, Receipt)>,
    ) -> impl Future<Output = Result<(), HubError>> + Send + use<'_> {
        let tag = match publisher {
            Some((outbox, receipt)) => Tag::Retain { outbox: Arc::clone(outbox), receipt },
            None => Tag::Nobody,
        };
        let order = Order::Of(self.source_of_message(&message));
        self.queue
            .submit(order, Some(message.into_operation(None, None)), tag)
            .map(|result| result.map_err(|_| HubError::Store))
    }

    pub(super) fn refused_to_retain(&self, append: &Append) {
        self.counters.retained_refused.increment();
        let client = append.sender.as_ref().map_or("", ClientId::as_str);
        log_limited!(
            warn, target: "jmqt::store", client, channel = %append.channel, bytes = append.data.len(),
            "message not retained: MAX_RETAINED_MESSAGES, MAX_RETAINED_BYTES or MAX_RETAINED_PER_CLIENT is reached"
        );
    }

    /// Publishes a message of the application (§9.e). On return a QoS 1 message is on disk, and a QoS 0 message is in
    /// the outboxes of all subscribers.
    pub(crate) async fn publish(&self, message: Message) -> Result<(), HubError> {
        self.counters.messages_published.increment();
        if message.qos != Qos::AtMostOnce {
            return match self.commit(message.into_operation(None, None)).await? {
                Outcome::TooManyRetained => Err(HubError::TooManyRetained),
                _ => Ok(()),
            };
        }
        // Before the subscribers are looked up: a later subscriber finds the message in the queue (2.12).
        if message.retain == Retain::Yes {
            self.submit_retained(message.clone(), None).await?;
        }
        let (pushes, mut dirty) = (Pushes::of(&message), DirtyOutboxes::default());
        self.push(&message.channel, message.sender.as_ref(), &pushes, Flush::Now, &mut dirty).await;
        Ok(())
    }

    /// A new id for a message that is in no log.
    pub(crate) fn memory_id(&self) -> PushId {
        self.context.ids.in_memory(self.memory_ids.fetch_add(1, Ordering::Relaxed))
    }

    /// Returns `true` if the client is connected to any node and accepts point-to-point messages.
    pub(crate) async fn takes_point_to_point(&self, channel: &ChannelName) -> bool {
        if self.members(channel).is_some_and(|members| members[0].stage() != Stage::Ended) {
            return true;
        }
        self.cluster.is_some() && matches!(self.locate(peer(channel)).await, Location::On(_))
    }
}

impl Message {
    fn into_operation(self, once: Option<PublishId>, received: Option<PacketId>) -> Operation {
        Operation::Append(Append { once, received, ..self.into_append() })
    }

    pub(super) fn into_append(self) -> Append {
        let log = self.qos != Qos::AtMostOnce;
        let (data, attributes) = self.data.into_parts();
        Append {
            channel: self.channel,
            sender: self.sender,
            data,
            attributes,
            log,
            retain: self.retain == Retain::Yes,
            once: None,
            received: None,
        }
    }
}

fn push_to<'a>(
    members: Option<Members>,
    sender: Option<&'a ClientId>,
    pushes: &'a Pushes,
    flush: Flush,
    dirty: &'a mut DirtyOutboxes,
) -> impl Future<Output = ()> + Send + use<'a> {
    dirty.begin_turn();
    fan_out(members, dirty, move |subscription| {
        // A publisher does not receive its own message (2.11).
        !subscription.skips(sender) && subscription.outbox.push(subscription, pushes, flush)
    })
}

/// The client of a point-to-point channel.
pub(super) fn peer(channel: &ChannelName) -> &str {
    channel.as_str().strip_prefix('#').unwrap_or_default()
}

/// Checks that data from the store has the form that its attributes name. Other data is not sent to clients.
pub(super) fn intact(channel: &ChannelName, data: Bytes, attributes: Attributes) -> Option<Data> {
    let data = Data::parse(data, attributes);
    if data.is_none() {
        log_limited!(
            error, target: "jmqt::store", channel = %channel,
            "skipped a damaged message in the store: check the disk, and restore the database from a backup"
        );
    }
    data
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Mutex, mpsc};

    use jmqt_core::Persistence;

    use super::*;
    use crate::store::Double;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)] // protocol.md 2.12
    async fn a_waiting_retained_message_reaches_later_subscribers() {
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
            let data = Data::checked_before(vec![b'1'; 1 << 20].into());
            let channel = ChannelName::parse(name).unwrap();
            Message { channel, sender: None, data, qos, retain }
        };
        let submit = || {
            let filling = message("other", Qos::AtLeastOnce, Retain::No).into_operation(None, None);
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
        assert!(publishing.as_mut().now_or_never().is_none(), "the commit queue is full for the server");
        let (bob, outbox) = (ClientId::parse("bob").unwrap(), hub.outbox());
        outbox.go_live();
        let subscribed = hub.subscribe(&outbox, &bob, &channel, Persistence::Temporary, None).await.unwrap();
        assert!(subscribed.retained.is_none(), "the retained message has not been submitted");
        outbox.open(&subscribed.subscription, None, None);
        drop(open);
        publishing.await.unwrap();
        assert!(outbox.taken().starts_with(r#"{"push":{"cn":"news","#));
    }
}
