//! The verbs `publish` and `acknowledge`: a client publishes to a plain or point-to-point channel, and acknowledges
//! pushes (§7.k, §7.n, §9.a, §9.d, protocol.md 2.10 to 2.14, 2.21, 2.23).

use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use bytes::Bytes;
use jmqt_core::{ChannelKind, ChannelName, ClientId, Qos, Retain, StatusCode};

use super::status_of;
use crate::connection::{CONTINUE, CloseReason, Flow};
use crate::context::Shared;
use crate::message::{Body, Data, Message, PushId};
use crate::session::Session;
use crate::session::batch::Gathered;
use crate::store::PublishId;
use crate::validators::{PubData, PubRequest, PubVerdict, Replacement, Verdict, asking, poll_at_once};
use crate::wire::{PacketId, ReceiptRef};

/// The message that a client publishes.
pub(crate) struct Publication<'a> {
    pub(crate) data: PubData<'a>,
    pub(crate) qos: Qos,
    pub(crate) retain: Retain,
    /// Identifies the publish in the acknowledgement.
    pub(crate) receipt: ReceiptRef<'a>,
    /// The number of a publish that is stored once (2.23).
    pub(crate) number: Option<u64>,
    /// The packet identifier of a QoS 2 publish that is stored once until the client releases it.
    pub(crate) received: Option<PacketId>,
}

/// The result of a publish: `Ok` if nothing is to be answered now, otherwise the status of the refusal.
type Published = Flow<Result<(), StatusCode>>;

const DONE: Published = ControlFlow::Continue(Ok(()));

/// Publishes to a plain or point-to-point channel. A QoS 1 publish is acknowledged when it is on disk.
///
/// The publication is a reference, because a value would be copied into the future, field by field, and then out of it.
pub(crate) async fn publish(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    channel: &ChannelName,
    publication: &Publication<'_>,
) -> Published {
    let attached = session.attached.clone();
    let request = PubRequest {
        connection: session.info,
        client,
        channel,
        data: &publication.data,
        qos: publication.qos,
        retain: publication.retain,
        is_will: false,
        server: &shared.handle,
        session: attached.as_ref().and_then(|attached| attached.data()).into(),
    };
    // Not through `ask`, so that a validator that answers at once needs only its own future.
    let asked = {
        let mut question = asking(|| shared.validators.publish.validate_pub(&request));
        match poll_at_once(&mut question) {
            Poll::Ready(asked) => asked,
            Poll::Pending => session.wait_for_answer("pub validator", question).await?,
        }
    };
    let status = match session.answer_of("pub validator", asked) {
        Some(PubVerdict::Allow) => StatusCode::OK,
        Some(PubVerdict::Replace(replacement)) => {
            return Box::pin(publish_replaced(shared, session, client, channel, publication, replacement))
                .await;
        }
        Some(PubVerdict::Refuse(status)) => {
            status_of(session, "pub validator", Some(Verdict::Refuse(status)))
        }
        None => StatusCode::SERVER_ERROR,
    };
    if !status.is_ok() {
        return ControlFlow::Continue(Err(status));
    }
    if publication.qos == Qos::AtMostOnce
        && publication.retain == Retain::No
        && channel.kind() == ChannelKind::Plain
        && session.gather_at_once(channel, publication.data.body()) == Gathered::Yes
    {
        return DONE;
    }
    publish_allowed(shared, session, client, channel, publication).await
}

/// Publishes data that differs from what the client sent. A separate future, so that other publishes do not pay for
/// it.
async fn publish_replaced(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    channel: &ChannelName,
    publication: &Publication<'_>,
    replacement: Replacement,
) -> Published {
    let data = replacement.data();
    if data.as_str().len() > shared.limits.packet_bytes {
        session.validator_mistake("pub validator", &"its data is larger than MAX_PACKET_BYTES");
        return ControlFlow::Continue(Err(StatusCode::SERVER_ERROR));
    }
    let Publication { qos, retain, receipt, number, received, .. } = *publication;
    let publication = Publication { data: PubData::json(data), qos, retain, receipt, number, received };
    publish_allowed(shared, session, client, channel, &publication).await
}

async fn publish_allowed(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    channel: &ChannelName,
    publication: &Publication<'_>,
) -> Published {
    match channel.kind() {
        ChannelKind::PeerToPeer => publish_to_peer(shared, session, client, channel, publication).await,
        _ => publish_to_all(shared, session, client, channel, publication).await,
    }
}

async fn publish_to_all(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    channel: &ChannelName,
    publication: &Publication<'_>,
) -> Published {
    if publication.qos != Qos::AtMostOnce {
        return submit(shared, session, client, channel, publication, StatusCode::OK).await;
    }
    if publication.retain == Retain::Yes {
        // Before the subscribers are looked up: a later subscriber finds the message in the queue (2.12).
        let message = message(client, channel, publication);
        let outbox = Arc::clone(&session.outbox);
        let receipt = publication.receipt;
        let publisher = receipt.can_be_answered().then(|| (&outbox, receipt.kept()));
        // It can fail only while the server stops, and no client expects an answer.
        let _ = session.wait(pin!(shared.hub.commits.submit_retained(message, publisher))).await?;
    }
    session.gather(channel, publication.data.body()).await;
    DONE
}

/// Publishes a message for one client (2.11, 2.21). It is never retained (2.12).
async fn publish_to_peer(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    channel: &ChannelName,
    publication: &Publication<'_>,
) -> Published {
    let to_itself = channel.as_str().strip_prefix('#') == Some(client.as_str());
    let present = match to_itself {
        true => false,
        false => session.wait(pin!(shared.hub.subscribers.takes_point_to_point(channel))).await?,
    };
    match (publication.qos, present) {
        (Qos::AtMostOnce, true) => {
            session.gather(channel, publication.data.body()).await;
            DONE
        }
        (Qos::AtLeastOnce | Qos::ExactlyOnce, true) => {
            submit(shared, session, client, channel, publication, StatusCode::OK).await
        }
        // It is stored if that client has a persistent subscription to its channel.
        (Qos::AtLeastOnce | Qos::ExactlyOnce, false) if !to_itself => {
            submit(shared, session, client, channel, publication, StatusCode::CLIENT_OFFLINE).await
        }
        _ => ControlFlow::Continue(Err(StatusCode::CLIENT_OFFLINE)),
    }
}

/// Submits a QoS 1 publish to the store; it is acknowledged when it is on disk (2.13).
async fn submit(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    channel: &ChannelName,
    publication: &Publication<'_>,
    status: StatusCode,
) -> Published {
    let outbox = Arc::clone(&session.outbox);
    let message = message(client, channel, publication);
    let receipt = publication.receipt.kept();
    let once = session.publisher.as_ref().and_then(|publisher| {
        let receiver_is_away = status == StatusCode::CLIENT_OFFLINE;
        Some(PublishId { publisher: publisher.clone(), number: publication.number?, receiver_is_away })
    });
    let submitting =
        shared.hub.commits.submit_publish(message, &outbox, receipt, status, once, publication.received);
    let submitted = session.wait(pin!(submitting)).await?;
    ControlFlow::Continue(submitted.map_err(|_| StatusCode::SERVER_ERROR))
}

/// Answers a refused QoS 1 publish after those that wait for the store, because acknowledgements keep their order
/// (2.10). Returns `false` if none waits: the caller must answer.
pub(crate) async fn refuse_in_order(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    receipt: ReceiptRef<'_>,
    status: StatusCode,
) -> Flow<bool> {
    if !session.outbox.has_unsettled() {
        return ControlFlow::Continue(false);
    }
    let outbox = Arc::clone(&session.outbox);
    let submitting = shared.hub.commits.submit_answer(client, &outbox, receipt.kept(), status);
    ControlFlow::Continue(session.wait(pin!(submitting)).await?.is_ok())
}

/// Waits, for a limited time, until the earlier publishes and releases of the client are answered.
pub(crate) async fn settle(shared: &Shared, session: &mut Session, client: &ClientId) -> Flow {
    if !session.outbox.has_unsettled() {
        return CONTINUE;
    }
    session.wait(pin!(shared.hub.commits.settle_publishes(client))).await
}

/// Releases a QoS 2 publish. It is acknowledged when the store does not have its packet identifier any more.
pub(crate) async fn release(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    packet: PacketId,
) -> Flow {
    let outbox = Arc::clone(&session.outbox);
    let submitting = shared.hub.commits.submit_release(client, &outbox, packet);
    match session.wait(pin!(submitting)).await? {
        Ok(()) => CONTINUE,
        Err(_) => ControlFlow::Break(CloseReason::StoreUnclear),
    }
}

/// Records the acknowledgement of the QoS 1 push with this id. Pushes that now have room are sent at the end of the
/// batch.
pub(crate) fn acknowledge(shared: &Shared, session: &Session, push: Option<PushId>) {
    if !push.is_some_and(|push| session.outbox.acknowledge(push)) {
        shared.hub.counters.acks_ignored.increment();
    }
}

fn message(client: &ClientId, channel: &ChannelName, publication: &Publication<'_>) -> Message {
    let retain = match channel.kind() {
        ChannelKind::Plain => publication.retain,
        _ => Retain::No,
    };
    Message {
        channel: channel.clone(),
        sender: Some(client.clone()),
        data: match publication.data.body() {
            Body::Json(data) => Data::copy_of(data),
            Body::Bytes(bytes, attributes) => Data::new(Bytes::copy_from_slice(bytes), attributes.clone()),
        },
        qos: publication.qos,
        retain,
    }
}
