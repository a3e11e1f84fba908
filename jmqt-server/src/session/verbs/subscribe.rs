//! The verbs `subscribe` and `unsubscribe` (§7.g, §7.i, §9.b, §9.c, protocol.md 2.8, 2.12, 2.20).

use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;

use jmqt_core::{ChannelKind, ChannelName, ClientId, Persistence, Qos, StatusCode};

use super::status_of;
use crate::connection::Flow;
use crate::context::Shared;
use crate::hub::Subscribed;
use crate::log_limit::log_limited;
use crate::options::SubscriptionOptions;
use crate::outbox::Subscription;
use crate::session::Session;
use crate::validators::{FilterRequest, SubRequest, UnsubRequest, asking};

/// Why a client is not subscribed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotSubscribed {
    Refused(StatusCode),
    /// The client has as many subscriptions as it may have. JMQT has no status of its own for it.
    QuotaExceeded,
}

impl NotSubscribed {
    const FAILED: Self = Self::Refused(StatusCode::SERVER_ERROR);

    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::Refused(status) => status,
            Self::QuotaExceeded => StatusCode::NOT_ALLOWED,
        }
    }
}

/// Subscribes the client to a plain channel. The answer is queued together with the retained message, with
/// [`Outbox::open`](crate::outbox::Outbox::open).
pub(crate) async fn subscribe(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    channel: &ChannelName,
    persistence: Persistence,
) -> Flow<Result<Subscribed, NotSubscribed>> {
    subscribe_and_set(shared, session, client, channel, persistence, None).await
}

async fn subscribe_and_set(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    channel: &ChannelName,
    persistence: Persistence,
    options: Option<SubscriptionOptions>,
) -> Flow<Result<Subscribed, NotSubscribed>> {
    let attached = session.attached.clone();
    let of_session = attached.as_ref().and_then(|attached| attached.data()).into();
    let request = SubRequest::new(session.info, client, channel, persistence, &shared.handle, of_session);
    let question = asking(|| shared.validators.sub.validate_sub(&request));
    let verdict = session.ask("sub validator", question).await?;
    let status = status_of(session, "sub validator", verdict);
    if !status.is_ok() {
        return ControlFlow::Continue(Err(NotSubscribed::Refused(status)));
    }
    if !has_room(shared, session, client, channel, persistence) {
        return ControlFlow::Continue(Err(NotSubscribed::QuotaExceeded));
    }
    let outbox = Arc::clone(&session.outbox);
    let subscribed = session
        .wait(pin!(shared.hub.subscriptions.subscribe(&outbox, client, channel, persistence, options)))
        .await?;
    ControlFlow::Continue(subscribed.map_err(|_| NotSubscribed::FAILED))
}

/// A filter that a client subscribes to.
pub(crate) struct AskedFilter<'a> {
    /// The filter, as an MQTT client writes it.
    pub(crate) filter: &'a str,
    /// The channel, if the filter has no wildcard.
    pub(crate) channel: Option<ChannelName>,
    /// The group of a shared subscription.
    pub(crate) group: Option<&'a str>,
}

/// Subscribes the client to all plain channels that a filter matches, or to a share of their messages. `name` is the name of the subscription in the tables.
pub(crate) async fn subscribe_to_filter(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    filter: AskedFilter<'_>,
    name: &ChannelName,
    persistence: Persistence,
    options: SubscriptionOptions,
) -> Flow<Result<Arc<Subscription>, NotSubscribed>> {
    let attached = session.attached.clone();
    let of_session = attached.as_ref().and_then(|attached| attached.data()).into();
    let AskedFilter { filter, channel, group } = filter;
    let verdict = match channel {
        // A topic of the server itself, or a share of one channel.
        Some(channel) => {
            let request =
                SubRequest::new(session.info, client, &channel, persistence, &shared.handle, of_session)
                    .in_group(group);
            let question = asking(|| shared.validators.sub.validate_sub(&request));
            session.ask("sub validator", question).await?
        }
        None => {
            let request = FilterRequest {
                connection: session.info,
                client,
                filter,
                group,
                server: &shared.handle,
                session: of_session,
            };
            let question = asking(|| shared.validators.sub.validate_filter(&request));
            session.ask("sub validator", question).await?
        }
    };
    let status = status_of(session, "sub validator", verdict);
    if !status.is_ok() {
        return ControlFlow::Continue(Err(NotSubscribed::Refused(status)));
    }
    if !has_room(shared, session, client, name, persistence) {
        return ControlFlow::Continue(Err(NotSubscribed::QuotaExceeded));
    }
    let outbox = Arc::clone(&session.outbox);
    let subscribed = session
        .wait(pin!(shared.hub.subscriptions.subscribe(&outbox, client, name, persistence, Some(options))))
        .await?;
    let Ok(subscribed) = subscribed else { return ControlFlow::Continue(Err(NotSubscribed::FAILED)) };
    ControlFlow::Continue(Ok(subscribed.subscription))
}

/// Sends the retained messages of all channels that a filter matches, each when there is room for it. Later messages of a
/// channel may come earlier, and a message may come twice, but none is missed.
pub(crate) async fn send_matching_retained(
    shared: &Shared,
    session: &mut Session,
    subscription: &Arc<Subscription>,
) -> Flow<Result<(), StatusCode>> {
    if session.wait(pin!(shared.hub.commits.fence())).await?.is_err() {
        return ControlFlow::Continue(Err(StatusCode::SERVER_ERROR));
    }
    let mut after = None;
    loop {
        let page =
            session.wait(pin!(shared.hub.retained.matching(&subscription.channel, after.as_ref()))).await?;
        let Ok((channels, next)) = page else {
            return ControlFlow::Continue(Err(StatusCode::SERVER_ERROR));
        };
        for channel in channels {
            if session.outbox.duties().full {
                session.wait_for_room().await?;
            }
            let Ok(push) = session.wait(pin!(shared.hub.retained.push(&channel))).await? else {
                return ControlFlow::Continue(Err(StatusCode::SERVER_ERROR));
            };
            if let Some(push) = push {
                session.outbox.append_matching_retained(subscription, &channel, push);
            }
        }
        match next {
            Some(next) => after = Some(next),
            None => return ControlFlow::Continue(Ok(())),
        }
        session.let_others_run().await?;
    }
}

/// Subscribes the client with these options. Those of an existing subscription are replaced.
pub(crate) async fn subscribe_with(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    channel: &ChannelName,
    persistence: Persistence,
    options: SubscriptionOptions,
) -> Flow<Result<Subscribed, NotSubscribed>> {
    let existing = session.outbox.own_subscription(channel.as_str());
    let had_qos = existing.as_ref().map(|existing| existing.own_options().qos());
    let subscribed = subscribe_and_set(shared, session, client, channel, persistence, Some(options)).await?;
    if subscribed.is_err() {
        return ControlFlow::Continue(subscribed);
    }
    let outbox = Arc::clone(&session.outbox);
    if existing.is_some_and(|existing| existing.persistence() != persistence) {
        let changing = shared.hub.subscriptions.change_persistence(&outbox, client, channel, persistence);
        if session.wait(pin!(changing)).await?.is_err() {
            return ControlFlow::Continue(Err(NotSubscribed::FAILED));
        }
        shared.hub.subscribers.filters.options_changed();
    }
    if channel.kind() == ChannelKind::Plain && outbox.is_stored() {
        // A subscription with QoS 0 has no place in the log, and is stored with the filters.
        let stored = match options.qos() {
            Qos::AtMostOnce => Some(options),
            _ if had_qos == Some(Qos::AtMostOnce) => None,
            _ => return ControlFlow::Continue(subscribed),
        };
        if session
            .wait(pin!(shared.hub.subscriptions.keep_channel(&outbox, client, channel, stored)))
            .await?
            .is_err()
        {
            return ControlFlow::Continue(Err(NotSubscribed::FAILED));
        }
    }
    ControlFlow::Continue(subscribed)
}

/// Unsubscribes the client from a plain channel.
pub(crate) async fn unsubscribe(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    channel: &ChannelName,
) -> Flow<StatusCode> {
    let attached = session.attached.clone();
    let of_session = attached.as_ref().and_then(|attached| attached.data()).into();
    let request = UnsubRequest::new(session.info, client, channel, &shared.handle, of_session);
    let question = asking(|| shared.validators.unsub.validate_unsub(&request));
    let verdict = session.ask("unsub validator", question).await?;
    let status = status_of(session, "unsub validator", verdict);
    if !status.is_ok() {
        return ControlFlow::Continue(status);
    }
    let outbox = Arc::clone(&session.outbox);
    let unsubscribed =
        session.wait(pin!(shared.hub.subscriptions.unsubscribe(&outbox, client, channel))).await?;
    ControlFlow::Continue(if unsubscribed.is_ok() { StatusCode::OK } else { StatusCode::SERVER_ERROR })
}

/// Returns `true` if the client may have one more subscription. An existing one needs no room.
fn has_room(
    shared: &Shared,
    session: &Session,
    client: &ClientId,
    channel: &ChannelName,
    persistence: Persistence,
) -> bool {
    if session.outbox.own_subscription(channel.as_str()).is_some() {
        return true;
    }
    let limits = &shared.limits;
    let (all, persistent) = session.outbox.subscription_counts(ChannelName::of_client(client).as_str());
    let is_refused = all >= limits.subscriptions
        || persistence == Persistence::Persistent && persistent >= limits.persistent_subscriptions;
    if is_refused {
        shared.hub.counters.subscriptions_refused.increment();
        log_limited!(warn, each: client, target: "jmqt::session", %client, all, persistent, "refused a subscription: the client has reached MAX_SUBSCRIPTIONS_PER_CLIENT or MAX_PERSISTENT_SUBSCRIPTIONS_PER_CLIENT");
    }
    !is_refused
}
