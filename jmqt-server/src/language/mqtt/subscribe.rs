//! SUBSCRIBE and UNSUBSCRIBE (3.8 to 3.11).

use std::ops::ControlFlow;

use jmqt_core::{ChannelKind, ChannelName, ClientId, Persistence, Qos, StatusCode};
use jmqt_mqtt::{
    Codes, Filter, Packet, Properties, ReasonCode, RetainHandling, Subscribe, SubscribeOptions,
    SubscriptionId, TopicName, TopicUse, Unsubscribe, Version,
};

use super::replies::{self, TooMany};
use super::{Client, answer, fail};
use crate::connection::Flow;
use crate::context::Shared;
use crate::hub::{self, name_of_filter};
use crate::options::SubscriptionOptions;
use crate::session::verbs::AskedFilter;
use crate::session::{Session, verbs};
use crate::system_topics;

pub(super) async fn handle_subscribe(
    shared: &Shared,
    session: &mut Session,
    client: &mut Client,
    id: &ClientId,
    subscribe: Subscribe<'_>,
) -> Flow {
    let subscription_id = match client.version {
        Version::V5 => subscribe.properties.subscription_id(),
        _ => None,
    };
    let mut codes = Vec::new();
    for (text, asked) in subscribe.filters.iter() {
        let code = match Filter::parse(text) {
            Ok(filter) => subscribe_to(shared, session, client, id, filter, asked, subscription_id).await?,
            // MQTT 5 refuses this filter alone (3.9.3).
            Err(_) if client.version == Version::V5 => ReasonCode::TOPIC_FILTER_INVALID,
            Err(error) => {
                return fail(shared, session, client, ReasonCode::TOPIC_FILTER_INVALID, &error.to_string());
            }
        };
        codes.push(code.code());
        if session.is_full() {
            session.wait_for_room().await?;
        }
    }
    let ack = Codes { id: subscribe.id, properties: Properties::EMPTY, codes: &codes };
    answer(session, &Packet::SubAck(ack))
}

/// The channel of a filter, if this client may subscribe to it.
fn channel_of(id: &ClientId, filter: Filter<'_>) -> Result<ChannelName, ReasonCode> {
    let topic = TopicName::parse(filter.path()).map_err(|_| ReasonCode::TOPIC_FILTER_INVALID)?;
    match topic.usage() {
        TopicUse::Channel(name) => ChannelName::exact(&name).map_err(|_| ReasonCode::TOPIC_FILTER_INVALID),
        TopicUse::Peer(peer) if peer == id.as_str() => Ok(ChannelName::of_client(id)),
        TopicUse::Peer(_) | TopicUse::Sys => Err(ReasonCode::NOT_AUTHORIZED),
        TopicUse::Control(_) | TopicUse::Reply | TopicUse::Share | TopicUse::Nothing => {
            Err(ReasonCode::TOPIC_FILTER_INVALID)
        }
    }
}

async fn subscribe_to(
    shared: &Shared,
    session: &mut Session,
    client: &mut Client,
    id: &ClientId,
    filter: Filter<'_>,
    asked: SubscribeOptions,
    subscription_id: Option<SubscriptionId>,
) -> Flow<ReasonCode> {
    if filter.path().starts_with(replies::PREFIX) && filter.group().is_none() {
        let added = client.replies.get_or_insert_default().add(filter, subscription_id);
        // A reply has QoS 0.
        return ControlFlow::Continue(match added {
            Ok(()) => ReasonCode::SUCCESS,
            Err(TooMany) => ReasonCode::QUOTA_EXCEEDED,
        });
    }
    let qos: Qos = asked.qos.into();
    let options = SubscriptionOptions::new(qos)
        .without_own(asked.no_local)
        .keeping_retain(asked.retain_as_published)
        .with_id(subscription_id.map(SubscriptionId::get));
    if filter.group().is_some() {
        return subscribe_to_share(shared, session, client, id, filter, options.shared()).await;
    }
    if filter.path().starts_with(system_topics::PREFIX) {
        return subscribe_to_system(shared, session, id, filter, asked.retain_handling, options).await;
    }
    if filter.has_wildcard() {
        return subscribe_to_filter(shared, session, client, id, filter, asked.retain_handling, options)
            .await;
    }
    let channel = match channel_of(id, filter) {
        Ok(channel) => channel,
        Err(reason) => return ControlFlow::Continue(reason),
    };
    // A QoS 0 subscription needs no place in the log.
    let persistence = match client.is_persistent() && qos != Qos::AtMostOnce {
        true => Persistence::Persistent,
        false => Persistence::Temporary,
    };
    let existed = session.outbox.own_subscription(channel.as_str()).is_some();
    let subscribed = verbs::subscribe_with(shared, session, id, &channel, persistence, options).await?;
    let subscribed = match subscribed {
        Ok(subscribed) => subscribed,
        Err(status) => return ControlFlow::Continue(refused(status)),
    };
    let sends_retained =
        channel.kind() == ChannelKind::Plain && sends_retained(asked.retain_handling, existed);
    let retained = subscribed.retained.filter(|_| sends_retained);
    let is_full = session.outbox.open(&subscribed.subscription, None, retained);
    session.answered(is_full);
    ControlFlow::Continue(granted(qos))
}

/// Returns `true` if the client asks for the retained messages of this subscription.
const fn sends_retained(handling: RetainHandling, existed: bool) -> bool {
    match handling {
        RetainHandling::Send => true,
        RetainHandling::SendIfNew => !existed,
        RetainHandling::DoNotSend => false,
    }
}

/// Subscribes to topics of the server itself, with or without wildcards. Such a subscription ends with its connection. The
/// current values are sent as if they were retained.
async fn subscribe_to_system(
    shared: &Shared,
    session: &mut Session,
    id: &ClientId,
    filter: Filter<'_>,
    handling: RetainHandling,
    options: SubscriptionOptions,
) -> Flow<ReasonCode> {
    let Some(name) = name_of_filter(filter) else {
        return ControlFlow::Continue(ReasonCode::TOPIC_FILTER_INVALID);
    };
    let existed = session.outbox.subscription(name.as_str()).is_some();
    let subscribed = verbs::subscribe_to_filter(
        shared,
        session,
        id,
        asked(filter),
        &name,
        Persistence::Temporary,
        options,
    )
    .await?;
    let subscription = match subscribed {
        Ok(subscription) => subscription,
        Err(status) => return ControlFlow::Continue(refused(status)),
    };
    let is_full = session.outbox.open(&subscription, None, None);
    session.answered(is_full);
    if sends_retained(handling, existed) {
        for (channel, push) in shared.system_topics.matching(&shared.hub, filter) {
            session.outbox.append_matching_retained(&subscription, &channel, push);
        }
    }
    ControlFlow::Continue(granted(options.qos()))
}

const fn granted(qos: Qos) -> ReasonCode {
    match qos {
        Qos::AtMostOnce => ReasonCode::SUCCESS,
        Qos::AtLeastOnce => ReasonCode::GRANTED_QOS_1,
        Qos::ExactlyOnce => ReasonCode::GRANTED_QOS_2,
    }
}

/// Subscribes to a filter with wildcards.
async fn subscribe_to_filter(
    shared: &Shared,
    session: &mut Session,
    client: &Client,
    id: &ClientId,
    filter: Filter<'_>,
    handling: RetainHandling,
    options: SubscriptionOptions,
) -> Flow<ReasonCode> {
    let persistence = if client.is_persistent() { Persistence::Persistent } else { Persistence::Temporary };
    let Some(name) = name_of_filter(filter).filter(|_| !filter.path().starts_with('$')) else {
        return ControlFlow::Continue(ReasonCode::NOT_AUTHORIZED);
    };
    let existed = session.outbox.subscription(name.as_str()).is_some();
    let subscribed =
        verbs::subscribe_to_filter(shared, session, id, asked(filter), &name, persistence, options).await?;
    let subscription = match subscribed {
        Ok(subscription) => subscription,
        Err(status) => return ControlFlow::Continue(refused(status)),
    };
    let is_full = session.outbox.open(&subscription, None, None);
    session.answered(is_full);
    if sends_retained(handling, existed)
        && let Err(status) = verbs::send_matching_retained(shared, session, &subscription).await?
    {
        return ControlFlow::Continue(refused(status));
    }
    ControlFlow::Continue(granted(options.qos()))
}

/// The name of a share of plain channels in the tables.
fn name_of_share(id: &ClientId, filter: Filter<'_>) -> Result<ChannelName, ReasonCode> {
    if filter.path().starts_with('$') {
        return Err(ReasonCode::NOT_AUTHORIZED);
    }
    if !filter.has_wildcard() {
        channel_of(id, filter)?;
    }
    hub::name_of_share(filter).ok_or(ReasonCode::TOPIC_FILTER_INVALID)
}

/// Subscribes to a share of the messages of a filter (4.8.2). Retained messages are not sent for it (3.8.4).
async fn subscribe_to_share(
    shared: &Shared,
    session: &mut Session,
    client: &Client,
    id: &ClientId,
    filter: Filter<'_>,
    options: SubscriptionOptions,
) -> Flow<ReasonCode> {
    let name = match name_of_share(id, filter) {
        Ok(name) => name,
        Err(reason) => return ControlFlow::Continue(reason),
    };
    let persistence = if client.is_persistent() { Persistence::Persistent } else { Persistence::Temporary };
    let subscribed =
        verbs::subscribe_to_filter(shared, session, id, asked(filter), &name, persistence, options).await?;
    let subscription = match subscribed {
        Ok(subscription) => subscription,
        Err(status) => return ControlFlow::Continue(refused(status)),
    };
    let is_full = session.outbox.open(&subscription, None, None);
    session.answered(is_full);
    shared.hub.give_shares(&subscription);
    ControlFlow::Continue(granted(options.qos()))
}

fn asked(filter: Filter<'_>) -> AskedFilter<'_> {
    let channel = filter.channel().and_then(|name| ChannelName::exact(&name).ok());
    AskedFilter { filter: filter.path(), channel, group: filter.group() }
}

fn refused(status: StatusCode) -> ReasonCode {
    match status {
        StatusCode::NOT_ALLOWED | StatusCode::INVALID_TOKEN => ReasonCode::NOT_AUTHORIZED,
        StatusCode::SERVER_ERROR => ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR,
        StatusCode::INVALID_CHANNEL => ReasonCode::TOPIC_FILTER_INVALID,
        _ => ReasonCode::UNSPECIFIED_ERROR,
    }
}

pub(super) async fn handle_unsubscribe(
    shared: &Shared,
    session: &mut Session,
    client: &mut Client,
    id: &ClientId,
    unsubscribe: Unsubscribe<'_>,
) -> Flow {
    let mut codes = Vec::new();
    for text in unsubscribe.filters.iter() {
        let code = match Filter::parse(text) {
            Ok(filter) if filter.path().starts_with(replies::PREFIX) && filter.group().is_none() => {
                match client.replies.as_mut().is_some_and(|replies| replies.remove(filter)) {
                    true => ReasonCode::SUCCESS,
                    false => ReasonCode::NO_SUBSCRIPTION_EXISTED,
                }
            }
            Ok(filter) => unsubscribe_from(shared, session, id, filter).await?,
            Err(_) if client.version == Version::V5 => ReasonCode::TOPIC_FILTER_INVALID,
            Err(error) => {
                return fail(shared, session, client, ReasonCode::TOPIC_FILTER_INVALID, &error.to_string());
            }
        };
        codes.push(code.code());
    }
    // Before MQTT 5 an UNSUBACK has no codes.
    let codes = if client.version == Version::V5 { &codes[..] } else { &[] };
    answer(session, &Packet::UnsubAck(Codes { id: unsubscribe.id, properties: Properties::EMPTY, codes }))
}

async fn unsubscribe_from(
    shared: &Shared,
    session: &mut Session,
    id: &ClientId,
    filter: Filter<'_>,
) -> Flow<ReasonCode> {
    let channel = match () {
        () if filter.group().is_some() => name_of_share(id, filter).ok(),
        () if filter.has_wildcard() || filter.path().starts_with(system_topics::PREFIX) => {
            name_of_filter(filter)
        }
        () => channel_of(id, filter).ok(),
    };
    let Some(channel) = channel else {
        return ControlFlow::Continue(ReasonCode::NO_SUBSCRIPTION_EXISTED);
    };
    if session.outbox.own_subscription(channel.as_str()).is_none() {
        return ControlFlow::Continue(ReasonCode::NO_SUBSCRIPTION_EXISTED);
    }
    let status = verbs::unsubscribe(shared, session, id, &channel).await?;
    ControlFlow::Continue(if status.is_ok() { ReasonCode::SUCCESS } else { refused(status) })
}
