//! The QoS 2 exchanges of sessions that outlive their connections: their steps on the way to the store, and their
//! continuation on a new connection (MQTT 5.0, 4.3.3, 4.4).

use std::sync::Arc;

use futures_util::FutureExt as _;
use tokio_util::sync::CancellationToken;

use super::commits::{Commits, Tag};
use super::error::HubError;
use super::log_reads::{READ_BYTES, intact};
use crate::attributes::{Attributes, Values};
use crate::connection::CloseReason;
use crate::message::{LoggedPush, PushId};
use crate::outbox::{Outbox, OutboxContext, SendAgain, Subscription, ToRecord};
use crate::store::{ChannelKey, LogPart, LogPlace, LoggedMessage, Operation, Order, Seq, Store};
use crate::wire::{LoggedPushes, PacketId};

/// Submits the steps of listed sessions to the store, until it is told to stop.
pub(super) async fn record_until(commits: &Arc<Commits>, context: &OutboxContext, stop: &CancellationToken) {
    loop {
        let listed = tokio::select! {
            () = stop.cancelled() => return,
            listed = context.unrecorded.take() => listed,
        };
        for outbox in listed {
            record(commits, outbox);
        }
    }
}

/// Submits the steps of one session. Usually there is room for them; otherwise a task waits for it.
fn record(commits: &Arc<Commits>, outbox: Arc<Outbox>) {
    let Some(ToRecord { steps, packets }) = outbox.take_unrecorded() else { return };
    let (submitter, source) = (Arc::clone(commits), commits.source_of(&steps[0].client));
    let mut submitting = Box::pin(async move {
        let tag = Tag::Record { outbox: Arc::clone(&outbox), packets };
        match submitter.queue.submit(Order::Of(source), Some(Operation::Send(steps)), tag).await {
            Ok(()) => outbox.record_submitted(),
            Err(_) => drop(outbox.settle_recorded(Vec::new(), false)), // the server stops
        }
    });
    if submitting.as_mut().now_or_never().is_none() {
        tokio::spawn(submitting);
    }
}

/// Sends messages of earlier connections again, while there is room.
pub(super) async fn send_again(store: &dyn Store, context: &OutboxContext, outbox: &Arc<Outbox>) {
    while let Some(SendAgain { log, packets }) = outbox.next_again() {
        let Some((subscription, key)) = log else {
            packets.iter().for_each(|(id, _)| outbox.give_up_again(*id));
            continue;
        };
        let (Some((_, first)), Some((_, last))) = (packets.first(), packets.last()) else { return };
        let count = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
        match store.read_log(key, Seq(first - 1), count, READ_BYTES).await {
            Ok(part) if part.last >= Seq(*last) || part.last == Seq(0) => {
                send_read_again(context, outbox, &subscription, key, &packets, part);
            }
            Err(error) if error.is_of_data() => {
                HubError::of_store(&error, &context.counters);
                packets.iter().for_each(|(id, _)| outbox.give_up_again(*id));
            }
            // The client comes back. (Without an error, the database lags behind.)
            answer => {
                if let Err(error) = answer {
                    HubError::of_store(&error, &context.counters);
                }
                return outbox.close(CloseReason::StoreUnclear);
            }
        }
    }
}

/// Sends those messages that were read. Messages that are not in the log any more are given up.
fn send_read_again(
    context: &OutboxContext,
    outbox: &Arc<Outbox>,
    subscription: &Subscription,
    key: ChannelKey,
    packets: &[(PacketId, u64)],
    part: LogPart,
) {
    let read_to = match part.messages.last() {
        // The read has a limit, so there may be more.
        Some(last) => last.seq.0,
        None => u64::MAX,
    };
    let mut messages = part.messages.into_iter().peekable();
    for &(id, seq) in packets {
        while messages.next_if(|message| message.seq.0 < seq).is_some() {}
        match messages.next_if(|message| message.seq.0 == seq) {
            Some(message) => match again(context, subscription, key, message) {
                Some(pushes) => outbox.send_again(subscription, id, &pushes),
                None => outbox.give_up_again(id),
            },
            None if seq <= read_to => outbox.give_up_again(id),
            None => return,
        }
    }
}

fn again(
    context: &OutboxContext,
    subscription: &Subscription,
    key: ChannelKey,
    message: LoggedMessage,
) -> Option<LoggedPushes> {
    let LoggedMessage { seq, stamp, sender, data, attributes } = message;
    let data = intact(&subscription.channel, data, unexpired(attributes))?;
    let push = LoggedPush { id: PushId::Logged(LogPlace { key, seq, stamp }), sender, data };
    Some(LoggedPushes::new(context.ids, subscription.channel.clone(), vec![push]))
}

/// A message that was sent before it expired does not expire any more (4.3.3).
fn unexpired(attributes: Attributes) -> Attributes {
    if !attributes.is_expired() {
        return attributes;
    }
    Attributes::new(Values {
        form: attributes.form(),
        qos: attributes.qos(),
        retain: attributes.is_retain(),
        expires_at: None,
        properties: attributes.properties().into(),
    })
}
