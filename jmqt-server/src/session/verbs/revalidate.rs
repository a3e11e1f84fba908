//! The verb `revalidate`: the application is asked again about a session and its subscriptions, because its rules have changed.

use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;

use jmqt_core::{ChannelKind, ChannelName, ClientId, DisconnectCode, Persistence, StatusCode};

use super::status_of;
use crate::connection::{CONTINUE, CloseReason, ConnectionInfo, Flow};
use crate::context::Shared;
use crate::disconnect::Disconnect;
use crate::hub::{Revalidated, filter_behind};
use crate::session::Session;
use crate::store::MUST_CHECK;
use crate::validators::{Attached, FilterRequest, SessionRequest, SubRequest, asking};

/// The number of subscriptions after which the loop yields.
const SUBSCRIPTIONS_PER_TURN: usize = 64;
/// The number of names in a line of the log.
const NAMES_IN_LOG: usize = 8;

/// The revision of the permissions of a session, as the store has it; `None`: the application has none.
pub(super) fn revision_of(
    shared: &Shared,
    info: ConnectionInfo,
    client: &ClientId,
    attached: Option<&Attached>,
) -> Option<i64> {
    let attached = attached.and_then(Attached::data).into();
    let request = SessionRequest::new(info, client, &shared.handle, attached);
    let revision = shared.validators.sub.revision(&request)?;
    Some(match revision.cast_signed() {
        MUST_CHECK => i64::MIN,
        number => number,
    })
}

/// Validates the session and its subscriptions again. The client is not told of the subscriptions that end, as it is not told
/// of those that the application ends: no language has a packet for it.
pub(crate) async fn revalidate(shared: &Shared, session: &mut Session) -> Flow {
    let Some(client) = session.member.as_ref().map(|member| member.client.clone()) else { return CONTINUE };
    session.begin_request().await;
    let attached = session.attached.clone();
    let of_session = attached.as_ref().and_then(|attached| attached.data()).into();
    let request = SessionRequest::new(session.info, &client, &shared.handle, of_session);
    let question = asking(|| shared.validators.conn.validate_again(&request));
    let verdict = session.ask("conn validator", question).await?;
    let status = status_of(session, "conn validator", verdict);
    let has_failed = status == StatusCode::SERVER_ERROR;
    if !status.is_ok() && !has_failed {
        shared.hub.counters.sessions_refused.increment();
        tracing::info!(target: "jmqt::session", %client, remote = %session.info.remote, "closing a session: the application does not accept its client any more");
        let closed = Revalidated { sessions: 1, closed: 1, ..Revalidated::default() };
        shared.hub.revalidations.answer(&client, Some(closed));
        let told = Disconnect::new(DisconnectCode::TOKEN_EXPIRED, "the login is not valid any more");
        session.outbox.close_saying(CloseReason::TokenExpired, told);
        return ControlFlow::Break(CloseReason::TokenExpired);
    }
    let mut validated = validate_subscriptions(shared, session, &client).await?;
    validated.failed += u64::from(has_failed);
    shared.hub.revalidations.answer(&client, Some(validated));
    // Their parts of the window are free for others (2.14).
    shared.hub.resumes.begin(&session.outbox);
    CONTINUE
}

/// Validates the subscriptions of a session that was resumed, if its permissions may have changed since its subscriptions were
/// validated. Nothing has been sent to the client yet.
pub(super) async fn validate_resumed(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    checked: Option<i64>,
) -> Flow {
    let revision = revision_of(shared, session.info, client, session.attached.as_deref());
    if checked != Some(MUST_CHECK) && (revision.is_none() || revision == checked) {
        return CONTINUE;
    }
    let validated = validate_subscriptions(shared, session, client).await?;
    if validated.failed == 0 {
        return CONTINUE;
    }
    // What is not known to be allowed is not delivered.
    let text = "the server cannot check the subscriptions of this client now";
    session.outbox.close_saying(CloseReason::TryLater, Disconnect::new(DisconnectCode::TRY_LATER, text));
    ControlFlow::Break(CloseReason::TryLater)
}

/// Asks about each subscription, and ends those that are refused.
async fn validate_subscriptions(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
) -> Flow<Revalidated> {
    let outbox = Arc::clone(&session.outbox);
    let revision = revision_of(shared, session.info, client, session.attached.as_deref());
    let mut validated = Revalidated { sessions: 1, ..Revalidated::default() };
    let mut names = Vec::new();
    let mut is_stored = outbox.is_stored();
    for (index, subscription) in outbox.subscriptions().into_iter().enumerate() {
        let is_readers = subscription.own_options().is_of_filter();
        let channel = &subscription.channel;
        let is_servers = channel.kind() == ChannelKind::PeerToPeer && !session.info.protocol.is_mqtt();
        if is_readers || is_servers {
            continue;
        }
        if index > 0 && index % SUBSCRIPTIONS_PER_TURN == 0 {
            session.let_others_run().await?;
        }
        is_stored |= subscription.persistence() == Persistence::Persistent;
        match is_allowed(shared, session, client, channel, subscription.persistence()).await? {
            Some(true) => {}
            Some(false) => {
                let ended = session
                    .wait(pin!(shared.hub.subscriptions.unsubscribe(&outbox, client, channel)))
                    .await?;
                let Ok(existed) = ended else {
                    // The next connection of the client validates it.
                    return ControlFlow::Break(CloseReason::StoreUnclear);
                };
                if existed {
                    validated.ended += 1;
                    shared.hub.counters.subscriptions_withdrawn.increment();
                    if names.len() < NAMES_IN_LOG {
                        names.push(channel.to_string());
                    }
                }
            }
            None => validated.failed += 1,
        }
    }
    if validated.ended > 0 {
        let (remote, ended) = (session.info.remote, validated.ended);
        let more = if names.len() < usize::try_from(ended).unwrap_or(usize::MAX) { ", ..." } else { "" };
        tracing::info!(target: "jmqt::session", %client, %remote, ended, channels = ?format!("{}{more}", names.join(", ")), "ended subscriptions that are not allowed any more");
    }
    // If the rules have changed again meanwhile, the session is validated once more.
    if validated.failed == 0 && is_stored && !outbox.must_revalidate() {
        let recorded = session.wait(pin!(shared.hub.commits.set_checked(client, revision))).await?;
        if recorded.is_err() {
            validated.failed += 1;
        }
    }
    ControlFlow::Continue(validated)
}

/// The application's decision about a subscription; `None` if it fails.
async fn is_allowed(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    name: &ChannelName,
    persistence: Persistence,
) -> Flow<Option<bool>> {
    let attached = session.attached.clone();
    let of_session = attached.as_ref().and_then(|attached| attached.data()).into();
    let filter = filter_behind(name);
    // A share of one channel, or a topic of the server itself.
    let of_filter =
        filter.and_then(|filter| filter.channel()).and_then(|name| ChannelName::exact(&name).ok());
    let group = filter.and_then(|filter| filter.group());
    let verdict = match (filter, &of_filter) {
        (Some(filter), None) => {
            let request = FilterRequest {
                connection: session.info,
                client,
                filter: filter.path(),
                group,
                server: &shared.handle,
                session: of_session,
            };
            session.ask("sub validator", asking(|| shared.validators.sub.validate_filter(&request))).await?
        }
        (_, of_filter) => {
            let channel = of_filter.as_ref().unwrap_or(name);
            let request =
                SubRequest::new(session.info, client, channel, persistence, &shared.handle, of_session)
                    .in_group(group);
            session.ask("sub validator", asking(|| shared.validators.sub.validate_sub(&request))).await?
        }
    };
    ControlFlow::Continue(match status_of(session, "sub validator", verdict) {
        // No decision, but an answer of a validator that cannot decide now.
        StatusCode::SERVER_ERROR => None,
        status => Some(status.is_ok()),
    })
}
