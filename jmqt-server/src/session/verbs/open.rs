//! The verbs `open` and `renew`: a client begins a session, or authenticates again within it (§7.c, protocol.md 2.2 to 2.4,
//! 2.9, 2.23).

use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jmqt_core::{ChannelName, ClientId, StatusCode};

use super::revalidate::{revision_of, validate_resumed};
use crate::connection::{CONTINUE, CloseReason, Flow};
use crate::context::Shared;
use crate::handle::ConnHandle;
use crate::hub::{HubError, MqttSession, NewSession, OpenedSession, Recorded};
use crate::log_limit::log_limited;
use crate::outbox::Redelivery;
use crate::session::{Member, Session};
use crate::store::PublisherId;
use crate::validators::{Acceptance, Attached, ConnRequest, ConnVerdict, OpenNotice, asking};

/// The number of channels with retained messages after which the loop yields.
const CHANNELS_PER_TURN: usize = 64;
/// The longest name of an owner, in bytes.
const OWNER_BYTES: usize = 512;

/// The session that a client requests.
pub(crate) struct Opening<'a> {
    pub(crate) client: ClientId,
    pub(crate) token: &'a str,
    /// The number of QoS 1 pushes that may be unacknowledged, if the client sets it.
    pub(crate) window: Option<u32>,
    pub(crate) redelivery: Redelivery,
    pub(crate) publisher: Option<PublisherId>,
    pub(crate) language: Language,
}

/// The differences between the sessions of the languages.
#[derive(Debug)]
pub(crate) enum Language {
    /// The client is subscribed to its point-to-point channel, and receives the retained messages of its persistent
    /// subscriptions.
    Jmqt,
    Mqtt(MqttSession),
}

/// A new session to which nothing has been sent. Call [`start`] after the client received the acknowledgement.
pub(crate) struct Opened {
    client: ClientId,
    /// Channels that may have a retained message for the session.
    retained: Vec<ChannelName>,
    is_resumed: bool,
    is_stored: bool,
    /// The revision of the permissions for which its subscriptions were validated.
    checked: Option<i64>,
}

impl Opened {
    /// Returns `true` if an earlier session continues.
    pub(crate) const fn is_resumed(&self) -> bool {
        self.is_resumed
    }

    /// Returns `true` if the store knows the session, so that its end must be recorded.
    pub(crate) const fn is_stored(&self) -> bool {
        self.is_stored
    }
}

/// The reason why no session was opened.
pub(crate) enum NotOpened {
    Refused(StatusCode),
    /// The existing session of the client continues, and this connection ends; the client may reconnect after this
    /// time.
    TooManyTakeovers(Duration),
}

/// The application's decision about an accepted session.
struct Accepted {
    recorded: Vec<Recorded>,
    attached: Option<Arc<Attached>>,
    /// The duration, counted from the verdict.
    valid_for: Option<Duration>,
    owner: Option<Box<str>>,
}

/// Asks the conn validator, and opens the session.
pub(crate) async fn open(
    shared: &Shared,
    session: &mut Session,
    opening: Opening<'_>,
) -> Flow<Result<Opened, NotOpened>> {
    let accepted = match ask(shared, session, &opening.client, opening.token).await? {
        Ok(accepted) => accepted,
        Err(status) => return ControlFlow::Continue(Err(NotOpened::Refused(status))),
    };
    let opened = begin(shared, session, opening, accepted).await?;
    ControlFlow::Continue(opened.map_err(|error| match error {
        HubError::TooManyTakeovers(wait) => {
            shared.hub.counters.takeovers_refused.increment();
            log_limited!(warn, target: "jmqt::session", remote = %session.info.remote, "a client's sessions are taken over more often than MAX_TAKEOVERS_PER_SECOND: check whether two programs use the same client id");
            NotOpened::TooManyTakeovers(wait)
        }
        HubError::OfAnotherOwner => {
            shared.hub.counters.sessions_refused.increment();
            log_limited!(info, target: "jmqt::session", remote = %session.info.remote, "refused a conn: the client id belongs to another user");
            NotOpened::Refused(StatusCode::NOT_ALLOWED)
        }
        error => {
            tracing::debug!(target: "jmqt::session", remote = %session.info.remote, %error, "conn failed");
            NotOpened::Refused(StatusCode::SERVER_ERROR)
        }
    }))
}

/// The application's decision about the session, or the reason for the refusal.
async fn ask(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    token: &str,
) -> Flow<Result<Accepted, StatusCode>> {
    let handle = ConnHandle::new(client.clone(), shared.handle.clone());
    // Data that `auth` attached for another client is not used for this one.
    let attached = session.attached.clone();
    let data = attached.as_ref().and_then(|attached| attached.data_for(client));
    let upgrade = attached.as_ref().and_then(|attached| attached.upgrade());
    let certificate = session.client_certificate();
    let request = ConnRequest::new(session.info, client, token, &handle, data.into(), upgrade)
        .with_certificate(certificate.as_ref());
    let question = asking(|| shared.validators.conn.validate_conn(&request));
    ControlFlow::Continue(match session.ask("conn validator", question).await? {
        Some(ConnVerdict::Accept(acceptance)) => {
            for (channel, persistence) in &acceptance.subscriptions {
                if let Err(error) = handle.force_sub(channel, *persistence) {
                    session.validator_mistake("conn validator", &error);
                    return ControlFlow::Continue(Err(StatusCode::SERVER_ERROR));
                }
            }
            // From here on the HTTP request of a WebSocket is dropped.
            let data = acceptance.session.or_else(|| data.cloned());
            let attached = data.map(|data| Arc::new(Attached::new(client.clone(), data)));
            let Acceptance { valid_for, owner, .. } = acceptance;
            if owner.as_ref().is_some_and(|owner| owner.len() > OWNER_BYTES) {
                session.validator_mistake("conn validator", &"the owner is longer than 512 bytes");
                return ControlFlow::Continue(Err(StatusCode::SERVER_ERROR));
            }
            Ok(Accepted { recorded: handle.into_recorded(), attached, valid_for, owner })
        }
        Some(ConnVerdict::Refuse(status)) if !status.is_ok() => Err(status),
        Some(_) => {
            session.validator_mistake("conn validator", &"it refused with status OK");
            Err(StatusCode::SERVER_ERROR)
        }
        None => Err(StatusCode::SERVER_ERROR),
    })
}

/// Asks the conn validator whether a session may continue whose client has authenticated again. The time limit and the
/// session data of the verdict replace those of the session; its subscriptions and the calls through its handle are dropped.
pub(crate) async fn renew(
    shared: &Shared,
    session: &mut Session,
    client: &ClientId,
    token: &str,
) -> Flow<Result<(), StatusCode>> {
    let began = Instant::now();
    let Accepted { attached, valid_for, owner, .. } = match ask(shared, session, client, token).await? {
        Ok(accepted) => accepted,
        Err(status) => return ControlFlow::Continue(Err(status)),
    };
    if let (Some(owner), Some(present)) = (&owner, session.outbox.owner())
        && *owner != present
    {
        return ControlFlow::Continue(Err(StatusCode::NOT_ALLOWED));
    }
    session.attached = attached;
    // The new login may have fewer permissions.
    if revision_of(shared, session.info, client, session.attached.as_deref()).is_some() {
        session.outbox.revalidate();
    }
    match valid_for {
        Some(time) => session.expire_after(time.saturating_sub(began.elapsed())),
        None => session.never_expire(),
    }
    ControlFlow::Continue(Ok(()))
}

async fn begin(
    shared: &Shared,
    session: &mut Session,
    opening: Opening<'_>,
    accepted: Accepted,
) -> Flow<Result<Opened, HubError>> {
    let outbox = Arc::clone(&session.outbox);
    let Opening { client, window, redelivery, publisher, language, .. } = opening;
    let Accepted { recorded, attached, valid_for, owner } = accepted;
    let is_jmqt = matches!(language, Language::Jmqt);
    let began = Instant::now();
    let most = shared.limits.max_inflight;
    let new = NewSession {
        client: &client,
        outbox: &outbox,
        info: session.info,
        window: window.map_or(most, |window| window.min(most)),
        redelivery,
        recorded,
        takeovers_per_second: shared.limits.takeovers_per_second,
        owner,
        checked: revision_of(shared, session.info, &client, attached.as_deref()),
        mqtt: match language {
            Language::Jmqt => None,
            Language::Mqtt(mqtt) => Some(mqtt),
        },
    };
    let OpenedSession { generation, retained, is_resumed, is_stored, checked, claim } =
        match session.wait(pin!(shared.hub.open_session(new))).await? {
            Ok(opened) => opened,
            Err(error) => return ControlFlow::Continue(Err(error)),
        };
    tracing::debug!(target: "jmqt::session", client = %client, remote = %session.info.remote, "connected");
    session.publisher = publisher;
    session.begun(Member { client: client.clone(), generation });
    if let Some(time) = valid_for {
        session.expire_after(time.saturating_sub(began.elapsed()));
    }
    session.attached = attached;
    drop(claim);
    // MQTT sends retained messages for a SUBSCRIBE only.
    let retained = if is_jmqt { retained } else { Vec::new() };
    ControlFlow::Continue(Ok(Opened { client, retained, is_resumed, is_stored, checked }))
}

/// Validates the subscriptions of a resumed session if the permissions may have changed, and sends what follows the acknowledgement: the first window of pending pushes, the retained
/// messages, each when there is room for it, and then the held messages (2.3). Then calls the open notifier.
pub(crate) async fn start(shared: &Shared, session: &mut Session, opened: Opened) -> Flow {
    let Opened { client, mut retained, is_resumed, checked, .. } = opened;
    if is_resumed {
        validate_resumed(shared, session, &client, checked).await?;
        retained.retain(|channel| session.outbox.subscription(channel.as_str()).is_some());
    }
    start_pushing(shared, session, &retained).await?;
    if let Some(open) = &shared.validators.open {
        let attached = session.attached.clone();
        let of_session = attached.as_ref().and_then(|attached| attached.data()).into();
        let notice = OpenNotice::new(session.info, &client, &shared.handle, of_session);
        // A failure of the notifier has been logged; the session continues.
        session.ask("open notifier", asking(|| open.on_open(&notice))).await?;
    }
    CONTINUE
}

async fn start_pushing(shared: &Shared, session: &mut Session, retained: &[ChannelName]) -> Flow {
    let outbox = Arc::clone(&session.outbox);
    session.wait(pin!(shared.hub.resumes.first_window(&outbox))).await?;
    for (turn, channels) in retained.chunks(CHANNELS_PER_TURN).enumerate() {
        if turn > 0 {
            session.let_others_run().await?;
        }
        // None may be skipped (2.12), and the client already has its `connAck`.
        let Ok(there) = session.wait(pin!(shared.hub.retained.among(channels))).await? else {
            return ControlFlow::Break(CloseReason::StoreUnclear);
        };
        for channel in there {
            if outbox.duties().full {
                session.wait_for_room().await?;
            }
            let Ok(push) = session.wait(pin!(shared.hub.retained.push(&channel))).await? else {
                return ControlFlow::Break(CloseReason::StoreUnclear);
            };
            if let Some(push) = push {
                outbox.append_retained(&channel, push);
            }
        }
    }
    shared.hub.go_live(&outbox);
    CONTINUE
}
