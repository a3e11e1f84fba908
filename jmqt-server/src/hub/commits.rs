//! The operations on their way to the store: each client's in its order, and what becomes of each.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use jmqt_core::{ChannelName, ClientId, Qos, Retain, StatusCode};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout, timeout_at};

use super::error::HubError;
use crate::counters::Counters;
use crate::message::Message;
use crate::outbox::Outbox;
use crate::store::{
    Append, BeginSession, CommitQueue, NotCommitted, Operation, Order, Outcome, PublishId, Source,
    StoreError, Tagged, Unanswered,
};
use crate::wire::{PacketId, Receipt};

/// The time limit for an answer from the store. After it the request is answered SERVER_ERROR.
pub(super) const STORE_TIMEOUT: Duration = Duration::from_secs(20);

/// The source of the application's operations in the commit queue.
pub(super) const THE_SERVER: Source = Source(0);

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

/// The commit queue of the hub.
pub(crate) struct Commits {
    pub(super) queue: CommitQueue<Tag>,
    counters: Arc<Counters>,
    hasher: foldhash::fast::RandomState,
}

impl Commits {
    pub(super) fn new(queue: CommitQueue<Tag>, counters: Arc<Counters>) -> Self {
        Self { queue, counters, hasher: foldhash::fast::RandomState::default() }
    }

    /// Submits an operation to the commit queue and waits for the outcome.
    pub(super) async fn commit(&self, operation: Operation) -> Result<Outcome, HubError> {
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
        let too_late = || HubError::of_store(&StoreError::TimedOut(STORE_TIMEOUT), &self.counters);
        // An operation that is not in the queue will not be executed; the outcome of the others is unknown.
        let submitted = timeout_at(until, submitted).await.map_err(|_| too_late())?;
        submitted.map_err(|_| HubError::Store)?;
        let Ok(answer) = timeout_at(until, answer).await else {
            too_late();
            return Err(HubError::Unknown);
        };
        Ok(answer.map_err(|_| HubError::Store)??)
    }

    /// The source of a client's operations, which keep their order in the commit queue.
    pub(super) fn source_of(&self, client: &ClientId) -> Source {
        Source(self.hasher.hash_one(client.as_str()))
    }

    /// Waits until all earlier retained messages of this channel are stored or have failed.
    pub(super) async fn retained_fence(&self, channel: &ChannelName) -> Result<(), HubError> {
        let (reply, answer) = oneshot::channel();
        let passed = async {
            let order = Order::AfterRetained(channel);
            self.queue.submit(order, None, Tag::Reply(reply)).await.map_err(|_| HubError::Store)?;
            drop(answer.await); // there is no outcome
            Ok(())
        };
        let passed = timeout(STORE_TIMEOUT, passed).await;
        passed
            .unwrap_or_else(|_| Err(HubError::of_store(&StoreError::TimedOut(STORE_TIMEOUT), &self.counters)))
    }

    /// Changes the subscriptions of a client. If the caller is dropped meanwhile, the session waits for the change
    /// before it ends.
    pub(super) async fn change(&self, outbox: &Outbox, operation: Operation) -> Result<Outcome, HubError> {
        outbox.change_submitted();
        let outcome = self.commit(operation).await;
        if !matches!(outcome, Err(HubError::Unknown)) {
            outbox.change_settled();
        }
        outcome
    }

    /// Changes how long the stored session of a connected client outlives its connection.
    pub(crate) async fn set_expiry(
        &self,
        outbox: &Outbox,
        client: &ClientId,
        expiry: u32,
    ) -> Result<(), HubError> {
        let operation = Operation::SetExpiry { client: client.clone(), expiry };
        self.change(outbox, operation).await.map(drop)
    }

    /// Records the owner of a stored session. `stored` is the owner that was read.
    pub(super) async fn own_session(
        &self,
        outbox: &Outbox,
        client: &ClientId,
        owner: &str,
        stored: Option<&str>,
    ) -> Result<(), HubError> {
        let outcome = match stored {
            Some(stored) if stored == owner => Outcome::SessionSet,
            Some(_) => Outcome::OfAnotherOwner,
            None => {
                let operation = Operation::SetOwner { client: client.clone(), owner: owner.into() };
                self.change(outbox, operation).await?
            }
        };
        match outcome {
            Outcome::SessionSet => {
                outbox.owner_is_stored();
                Ok(())
            }
            Outcome::OfAnotherOwner => Err(HubError::OfAnotherOwner),
            _ => Err(HubError::Store),
        }
    }

    /// Records that all subscriptions of a stored session were validated for this revision of the permissions.
    pub(crate) async fn set_checked(&self, client: &ClientId, checked: Option<i64>) -> Result<(), HubError> {
        self.commit(Operation::SetChecked { client: client.clone(), checked }).await.map(drop)
    }

    /// The number of operations that wait for the committer.
    pub(crate) fn waiting(&self) -> usize {
        self.queue.waiting()
    }

    /// Closes the commit queue. Submitted operations are still executed.
    pub(crate) fn close(&self) {
        self.queue.close();
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

    /// Waits until everything that was submitted to the store is carried out.
    pub(crate) async fn fence(&self) -> Result<(), HubError> {
        let (reply, carried_out) = oneshot::channel();
        self.queue.submit(Order::AfterAll, None, Tag::Reply(reply)).await.map_err(|_| HubError::Store)?;
        // An operation without an effect cannot fail; only its place in the order matters.
        drop(carried_out.await);
        Ok(())
    }

    /// Waits, for a limited time, until the operations of a client are carried out.
    pub(crate) async fn settle_publishes(&self, client: &ClientId) {
        self.settle(Order::Of(self.source_of(client))).await;
    }

    /// Waits, for a limited time, until the operations before this place in the order are carried out.
    pub(super) async fn settle(&self, order: Order<'_>) {
        let (reply, carried_out) = oneshot::channel();
        let settled = async {
            if self.queue.submit(order, None, Tag::Reply(reply)).await.is_ok() {
                drop(carried_out.await);
            }
        };
        drop(timeout(STORE_TIMEOUT, settled).await);
    }

    /// Records the QoS 1 messages that the client has not acknowledged (MQTT 5.0, 4.4).
    pub(super) async fn record_unanswered(&self, outbox: &Outbox) -> Unanswered {
        let sent = outbox.take_unanswered();
        let Some(source) = sent.first().map(|sent| self.source_of(&sent.client)) else {
            return Unanswered::Recorded;
        };
        let (reply, recorded) = oneshot::channel();
        let recording = async {
            let submitted =
                self.queue.submit(Order::Of(source), Some(Operation::Send(sent)), Tag::Reply(reply)).await;
            // If it fails, which is logged, all of the logs may have been sent.
            submitted.is_ok() && matches!(recorded.await, Ok(Ok(_)))
        };
        match timeout(STORE_TIMEOUT, recording).await {
            Ok(true) => Unanswered::Recorded,
            _ => Unanswered::Unknown,
        }
    }
}

impl Message {
    pub(super) fn into_operation(self, once: Option<PublishId>, received: Option<PacketId>) -> Operation {
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
