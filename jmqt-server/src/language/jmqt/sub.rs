//! `sub` and `unsub` (§7.g, §7.i, protocol.md 2.8, 2.20, 2.25).

use std::borrow::Cow;
use std::ops::ControlFlow;

use jmqt_core::{ChannelKind, ChannelName, ClientId, MAX_CHANNEL_BYTES, StatusCode};
use jmqt_mqtt::{Filter, name_filter_to_topic_filter};
use jmqt_protocol::{Packet, Sub, SubAck, Unsub, UnsubAck};

use super::answer::{answer, framed};
use crate::connection::{CONTINUE, CloseReason, Flow};
use crate::context::Shared;
use crate::hub::name_of_filter;
use crate::options::SubscriptionOptions;
use crate::session::verbs::AskedFilter;
use crate::session::{Session, verbs};

pub(super) async fn handle_sub(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    sub: Sub<'_>,
) -> Flow {
    let is_filter = sub.is_filter;
    if is_filter && has_wildcard(&sub.channel) {
        return Box::pin(handle_sub_to_filter(shared, session, client, sub)).await;
    }
    let Some(channel) = plain_channel(&sub.channel) else {
        answer(session, &sub_ack(StatusCode::INVALID_CHANNEL, sub.channel.trim(), is_filter));
        return CONTINUE;
    };
    match verbs::subscribe(shared, session, client, &channel, sub.persistence).await? {
        Ok(subscribed) => {
            let ack = framed(session, &sub_ack(StatusCode::OK, channel.as_str(), is_filter));
            // Together with the channel's messages for the client: the retained message and held pushes.
            let is_full = session.outbox.open(&subscribed.subscription, Some(ack), subscribed.retained);
            session.answered(is_full);
        }
        Err(refused) => answer(session, &sub_ack(refused.status(), channel.as_str(), is_filter)),
    }
    CONTINUE
}

/// Handles a `sub` with `wc` and wildcards. The retained messages follow the `subAck`, because there may be many.
async fn handle_sub_to_filter(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    sub: Sub<'_>,
) -> Flow {
    let text = sub.channel.trim();
    let topics = name_filter_to_topic_filter(text);
    let Some((filter, name)) = filter(text, &topics) else {
        answer(session, &sub_ack(StatusCode::INVALID_CHANNEL, text, true));
        return CONTINUE;
    };
    let options = SubscriptionOptions::JMQT;
    let asked = AskedFilter { filter: filter.path(), channel: None, group: None };
    let subscribed =
        verbs::subscribe_to_filter(shared, session, client, asked, &name, sub.persistence, options).await?;
    let subscription = match subscribed {
        Ok(subscription) => subscription,
        Err(refused) => {
            answer(session, &sub_ack(refused.status(), text, true));
            return CONTINUE;
        }
    };
    let ack = framed(session, &sub_ack(StatusCode::OK, text, true));
    let is_full = session.outbox.open(&subscription, Some(ack), None);
    session.answered(is_full);
    // None may be skipped (2.12), and the client already has its `subAck`.
    match verbs::send_matching_retained(shared, session, &subscription).await? {
        Ok(()) => CONTINUE,
        Err(_) => ControlFlow::Break(CloseReason::StoreUnclear),
    }
}

pub(super) async fn handle_unsub(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    unsub: Unsub<'_>,
) -> Flow {
    let text = unsub.channel.trim();
    let channel = match unsub.is_filter && has_wildcard(text) {
        true => filter(text, &name_filter_to_topic_filter(text)).map(|(_, name)| name),
        false => plain_channel(text),
    };
    let status = match channel {
        Some(channel) => verbs::unsubscribe(shared, session, client, &channel).await?,
        None => StatusCode::INVALID_CHANNEL,
    };
    answer(session, &unsub_ack(status, text, unsub.is_filter));
    CONTINUE
}

/// A filter without wildcards is the name of one channel (2.25).
fn has_wildcard(filter: &str) -> bool {
    filter.contains(['+', '#'])
}

/// A filter with wildcards, and the name of its subscription; `None` if it is invalid (2.25). `topics` is the filter for
/// the topics of the channels.
fn filter<'t>(text: &str, topics: &'t str) -> Option<(Filter<'t>, ChannelName)> {
    // Wildcards do not match control channels.
    if text.len() > MAX_CHANNEL_BYTES || text.starts_with('$') {
        return None;
    }
    let filter = Filter::parse(topics).ok()?;
    Some((filter, name_of_filter(filter)?))
}

/// The channel name, if a client may subscribe to it and unsubscribe from it (2.8).
fn plain_channel(raw: &str) -> Option<ChannelName> {
    ChannelName::parse(raw).ok().filter(|channel| channel.kind() == ChannelKind::Plain)
}

fn sub_ack(status: StatusCode, channel: &str, is_filter: bool) -> Packet<'_> {
    Packet::SubAck(SubAck { status, channel: Some(Cow::Borrowed(channel)), is_filter })
}

fn unsub_ack(status: StatusCode, channel: &str, is_filter: bool) -> Packet<'_> {
    Packet::UnsubAck(UnsubAck { status, channel: Some(Cow::Borrowed(channel)), is_filter })
}
