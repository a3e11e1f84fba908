//! Ends the sessions of a killed process, including their close notifiers (§9.f, protocol.md 2.16).
//!
//! The sessions are claimed before the server listens, so that a `conn` of one of their clients waits for the
//! close notifier of the old session. The notifiers run while other clients connect.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use tokio_util::sync::CancellationToken;

use crate::connection::{CloseReason, ConnectionInfo, Language, Protocol};
use crate::context::Shared;
use crate::hub::{Claim, Hub, claim_orphans, forget_orphan, orphan_connection};
use crate::serve::{end_will_of, notify_close};
use crate::store::{SessionRow, StoreError};
use crate::validators::CloseNotice;

/// The number of notifiers that run at a time.
pub(super) const AT_A_TIME: usize = 64;

/// The delay between attempts to delete a notified session while the store is unavailable.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// Sessions that are claimed and not yet notified. Sessions of one client are in order, the oldest first.
pub(super) struct Orphans(Vec<(Claim, Vec<SessionRow>)>);

impl Orphans {
    /// Claims the sessions of previous processes.
    pub(super) async fn claim(hub: &Hub) -> Result<Self, StoreError> {
        let orphans = claim_orphans(hub).await?;
        let sessions: usize = orphans.iter().map(|(_, sessions)| sessions.len()).sum();
        if sessions > 0 {
            tracing::info!(target: "jmqt::session", sessions, "ending sessions of a process that died");
        }
        Ok(Self(orphans))
    }

    /// Runs the notifiers. When the server stops, it finishes the running ones; the next start runs the rest.
    pub(super) async fn notify(self, shared: Arc<Shared>, stop: CancellationToken) {
        let notifying = stream::iter(self.0).take_until(stop.cancelled_owned());
        let each = notifying.for_each_concurrent(AT_A_TIME, |(claim, sessions)| {
            let shared = &shared;
            async move {
                for session in sessions {
                    end_will(shared, &session).await;
                    notify(shared, &session).await;
                }
                drop(claim);
            }
        });
        each.await;
    }
}

/// Publishes the will of a session, or begins its delay. Only MQTT has wills; the sessions of others are not to wait for the store
/// once more. Returns `true` if there may have been one.
pub(super) async fn end_will(shared: &Shared, session: &SessionRow) -> bool {
    let connection = orphan_connection(session);
    let may_have_will = connection.is_some_and(|info| info.protocol.language() == Language::Mqtt);
    if may_have_will {
        end_will_of(shared, session).await;
    }
    may_have_will
}

/// Runs the close notifier of one session, and deletes the session from the store.
pub(super) async fn notify(shared: &Shared, session: &SessionRow) {
    let client = &session.client;
    let info = orphan_connection(session).unwrap_or_else(|| {
        tracing::warn!(target: "jmqt::session", %client, "the store has no valid address for this session");
        ConnectionInfo { remote: SocketAddr::from(([0, 0, 0, 0], 0)), protocol: Protocol::Socket }
    });
    let notice = CloseNotice::new(info, client, CloseReason::ServerDied, &shared.handle, None.into());
    notify_close(shared, &notice).await;
    // The notifier must not run a second time: wait for the store if it is unavailable.
    let mut is_first = true;
    while let Err(error) = forget_orphan(&shared.hub, session).await {
        if shared.admission.closing.is_cancelled() {
            tracing::error!(target: "jmqt::session", %client, %error, "cannot delete an ended session from the store; the next start calls its close notifier again");
            return;
        }
        if std::mem::take(&mut is_first) {
            tracing::warn!(target: "jmqt::session", %client, %error, "cannot delete an ended session from the store; retrying");
        }
        tokio::select! {
            () = shared.admission.closing.cancelled() => {} // one last attempt
            () = tokio::time::sleep(RETRY_EVERY) => {}
        }
    }
}
