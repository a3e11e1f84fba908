//! SUBSCRIBE and UNSUBSCRIBE (3.8 to 3.11).

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jmqt_core::{ChannelKind, ChannelName, ClientId, Persistence, Qos, StatusCode};
use jmqt_mqtt::{
    Codes, Filter, Packet, Properties, ReasonCode, RetainHandling, Subscribe, SubscribeOptions,
    SubscriptionId, TopicName, TopicUse, Unsubscribe, Version,
};

use super::replies::{self, TooMany};
use super::{Client, answer, fail};
use crate::connection::{CONTINUE, CloseReason, Flow};
use crate::context::Shared;
use crate::counters::Kind;
use crate::hub::{self, Subscribed, name_of_filter};
use crate::message::RetainedPush;
use crate::options::SubscriptionOptions;
use crate::outbox::{Stage, Subscription};
use crate::session::verbs::{AskedFilter, NotSubscribed};
use crate::session::{Session, verbs};
use crate::system_topics;

/// The most bytes of retained messages that wait for the SUBACK of a packet with several filters. The others are read
/// again.
const KEPT_BYTES: usize = 64 << 10;
/// The longest time for which messages of a packet's subscriptions wait for its SUBACK.
const HELD_FOR: Duration = Duration::from_secs(1);

/// A subscription whose messages wait for the SUBACK.
struct Granted<'a> {
    qos: Qos,
    subscription: Arc<Subscription>,
    first: First<'a>,
}

/// What a new subscription receives first.
enum First<'a> {
    Nothing,
    /// The retained message of its channel.
    Retained(Box<RetainedPush>),
    /// The same, which is still to be read.
    Unread,
    /// The retained messages of the channels that its filter matches.
    Matching,
    /// The values of the topics of the server itself.
    System(Filter<'a>),
    /// The messages that wait for a member of its group.
    Shares,
}

/// The subscriptions of a packet that are not open yet.
#[derive(Default)]
struct Unopened<'a> {
    granted: Vec<Granted<'a>>,
    filters: HashSet<&'a str>,
    kept_bytes: usize,
    since: Option<Instant>,
}

impl<'a> Unopened<'a> {
    fn add(&mut self, filter: &'a str, mut granted: Granted<'a>) {
        if let First::Retained(push) = &granted.first {
            let bytes = self.kept_bytes + push.data.as_bytes().len();
            // Later messages of a subscription that existed already do not wait.
            if granted.subscription.stage() != Stage::Opening || bytes > KEPT_BYTES {
                granted.first = First::Unread;
            } else {
                self.kept_bytes = bytes;
            }
        }
        self.filters.insert(filter);
        self.granted.push(granted);
        self.since.get_or_insert_with(Instant::now);
    }

    /// Returns `true` if the subscriptions must be opened before this filter is looked at.
    fn must_open(&self, filter: &str) -> bool {
        self.filters.contains(filter) || self.since.is_some_and(|since| since.elapsed() > HELD_FOR)
    }

    /// Lets the messages of the subscriptions through.
    async fn open(&mut self, shared: &Shared, session: &mut Session) -> Flow {
        let Self { granted, .. } = std::mem::take(self);
        for Granted { subscription, first, .. } in granted {
            open(shared, session, &subscription, first).await?;
            if session.is_full() {
                session.wait_for_room().await?;
            }
        }
        CONTINUE
    }
}

/// Answers a SUBSCRIBE. The messages of its subscriptions follow the SUBACK, unless the packet names a filter twice or takes
/// longer than [`HELD_FOR`].
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
    let mut unopened = Unopened::default();
    for (text, asked) in subscribe.filters.iter() {
        if unopened.must_open(text) {
            unopened.open(shared, session).await?;
        }
        let code = match Filter::parse(text) {
            Ok(filter) if filter.path().starts_with(replies::PREFIX) && filter.group().is_none() => {
                match client.replies.get_or_insert_default().add(filter, subscription_id) {
                    // A reply has QoS 0.
                    Ok(()) => ReasonCode::SUCCESS,
                    Err(TooMany) => ReasonCode::QUOTA_EXCEEDED,
                }
            }
            Ok(filter) => {
                let granted =
                    subscribe_to(shared, session, client, id, filter, asked, subscription_id).await?;
                match granted {
                    Ok(granted) => {
                        let code = code_of(granted.qos);
                        unopened.add(text, granted);
                        code
                    }
                    Err(reason) => reason,
                }
            }
            // MQTT 5 refuses this filter alone (3.9.3).
            Err(_) if client.version == Version::V5 => ReasonCode::TOPIC_FILTER_INVALID,
            Err(error) => {
                return fail(shared, session, client, ReasonCode::TOPIC_FILTER_INVALID, &error.to_string());
            }
        };
        if code.is_error() {
            session.count_refused(Kind::Subscribe, code.code().into());
            session.note_refusal("SUBSCRIBE", Some(text), code);
        }
        codes.push(code.code());
    }
    let ack = Codes { id: subscribe.id, properties: Properties::EMPTY, codes: &codes };
    answer(session, &Packet::SubAck(ack))?;
    unopened.open(shared, session).await
}

/// Lets the messages of a subscription through, and sends those that it receives first. None may be skipped, and the client
/// has its SUBACK: if a message cannot be read, the connection ends.
async fn open(
    shared: &Shared,
    session: &mut Session,
    subscription: &Arc<Subscription>,
    first: First<'_>,
) -> Flow {
    let (retained, then) = match first {
        First::Retained(push) => (Some(*push), First::Nothing),
        First::Unread => match session.wait(pin!(shared.hub.retained.push(&subscription.channel))).await? {
            Ok(push) => (push, First::Nothing),
            Err(_) => return ControlFlow::Break(CloseReason::StoreUnclear),
        },
        other => (None, other),
    };
    let is_full = session.outbox.open(subscription, None, retained);
    session.answered(is_full);
    match then {
        First::Matching => {
            if verbs::send_matching_retained(shared, session, subscription).await?.is_err() {
                return ControlFlow::Break(CloseReason::StoreUnclear);
            }
        }
        First::System(filter) => {
            let matching = shared.system_topics.matching(&shared.hub, filter);
            for (channel, push) in session.wait(pin!(matching)).await? {
                session.outbox.append_matching_retained(subscription, &channel, push);
            }
        }
        First::Shares => shared.hub.shares.give_to(subscription),
        First::Nothing | First::Retained(_) | First::Unread => {}
    }
    CONTINUE
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

async fn subscribe_to<'a>(
    shared: &Shared,
    session: &mut Session,
    client: &Client,
    id: &ClientId,
    filter: Filter<'a>,
    asked: SubscribeOptions,
    subscription_id: Option<SubscriptionId>,
) -> Flow<Result<Granted<'a>, ReasonCode>> {
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
        Err(reason) => return ControlFlow::Continue(Err(reason)),
    };
    // A QoS 0 subscription needs no place in the log.
    let persistence = match client.is_persistent() && qos != Qos::AtMostOnce {
        true => Persistence::Persistent,
        false => Persistence::Temporary,
    };
    let existed = session.outbox.own_subscription(channel.as_str()).is_some();
    let subscribed = verbs::subscribe_with(shared, session, id, &channel, persistence, options).await?;
    let Subscribed { subscription, retained } = match subscribed {
        Ok(subscribed) => subscribed,
        Err(refused) => return ControlFlow::Continue(Err(not_subscribed(refused))),
    };
    let sends_retained =
        channel.kind() == ChannelKind::Plain && sends_retained(asked.retain_handling, existed);
    let first = match retained.filter(|_| sends_retained) {
        Some(push) => First::Retained(Box::new(push)),
        None => First::Nothing,
    };
    ControlFlow::Continue(Ok(Granted { qos, subscription, first }))
}

/// Returns `true` if the client asks for the retained messages of this subscription.
const fn sends_retained(handling: RetainHandling, existed: bool) -> bool {
    match handling {
        RetainHandling::Send => true,
        RetainHandling::SendIfNew => !existed,
        RetainHandling::DoNotSend => false,
    }
}

/// Subscribes to topics of the server itself, with or without wildcards. Such a subscription ends with its connection, and its
/// messages have QoS 0. The current values are sent as if they were retained.
async fn subscribe_to_system<'a>(
    shared: &Shared,
    session: &mut Session,
    id: &ClientId,
    filter: Filter<'a>,
    handling: RetainHandling,
    options: SubscriptionOptions,
) -> Flow<Result<Granted<'a>, ReasonCode>> {
    let Some(name) = name_of_filter(filter) else {
        return ControlFlow::Continue(Err(ReasonCode::TOPIC_FILTER_INVALID));
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
    let first = if sends_retained(handling, existed) { First::System(filter) } else { First::Nothing };
    ControlFlow::Continue(granted(subscribed, Qos::AtMostOnce, first))
}

const fn code_of(qos: Qos) -> ReasonCode {
    match qos {
        Qos::AtMostOnce => ReasonCode::SUCCESS,
        Qos::AtLeastOnce => ReasonCode::GRANTED_QOS_1,
        Qos::ExactlyOnce => ReasonCode::GRANTED_QOS_2,
    }
}

fn granted(
    subscribed: Result<Arc<Subscription>, NotSubscribed>,
    qos: Qos,
    first: First<'_>,
) -> Result<Granted<'_>, ReasonCode> {
    subscribed.map(|subscription| Granted { qos, subscription, first }).map_err(not_subscribed)
}

/// Subscribes to a filter with wildcards.
async fn subscribe_to_filter<'a>(
    shared: &Shared,
    session: &mut Session,
    client: &Client,
    id: &ClientId,
    filter: Filter<'a>,
    handling: RetainHandling,
    options: SubscriptionOptions,
) -> Flow<Result<Granted<'a>, ReasonCode>> {
    let persistence = if client.is_persistent() { Persistence::Persistent } else { Persistence::Temporary };
    let Some(name) = name_of_filter(filter).filter(|_| !filter.path().starts_with('$')) else {
        return ControlFlow::Continue(Err(ReasonCode::NOT_AUTHORIZED));
    };
    let existed = session.outbox.subscription(name.as_str()).is_some();
    let subscribed =
        verbs::subscribe_to_filter(shared, session, id, asked(filter), &name, persistence, options).await?;
    let first = if sends_retained(handling, existed) { First::Matching } else { First::Nothing };
    ControlFlow::Continue(granted(subscribed, options.qos(), first))
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
async fn subscribe_to_share<'a>(
    shared: &Shared,
    session: &mut Session,
    client: &Client,
    id: &ClientId,
    filter: Filter<'a>,
    options: SubscriptionOptions,
) -> Flow<Result<Granted<'a>, ReasonCode>> {
    let name = match name_of_share(id, filter) {
        Ok(name) => name,
        Err(reason) => return ControlFlow::Continue(Err(reason)),
    };
    let persistence = if client.is_persistent() { Persistence::Persistent } else { Persistence::Temporary };
    let subscribed =
        verbs::subscribe_to_filter(shared, session, id, asked(filter), &name, persistence, options).await?;
    ControlFlow::Continue(granted(subscribed, options.qos(), First::Shares))
}

fn asked(filter: Filter<'_>) -> AskedFilter<'_> {
    let channel = filter.channel().and_then(|name| ChannelName::exact(&name).ok());
    AskedFilter { filter: filter.path(), channel, group: filter.group() }
}

const fn not_subscribed(refusal: NotSubscribed) -> ReasonCode {
    match refusal {
        NotSubscribed::Refused(status) => refused(status),
        NotSubscribed::QuotaExceeded => ReasonCode::QUOTA_EXCEEDED,
    }
}

const fn refused(status: StatusCode) -> ReasonCode {
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
        if code.is_error() {
            session.note_refusal("UNSUBSCRIBE", Some(text), code);
        }
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
