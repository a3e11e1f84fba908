//! The client's task: connection after connection, with pauses that grow, until it is closed.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use super::error::stops;
use super::event::Event;
use super::shared::{Shared, Status};
use super::{ConnectError, DisconnectReason, Error, connect, connection};
use crate::Reconnect;
use crate::reconnect::{Backoff, GOOD_SESSION};
use crate::way::Report;

/// Who waits for the outcome of the first attempt.
pub(crate) type First = Option<oneshot::Sender<Result<(), ConnectError>>>;

/// Runs until the client is closed. `first` hears of the first attempt, and its failure ends the client.
pub(crate) async fn run(shared: Arc<Shared>, first: First) {
    live(&shared, first).await;
    shared.close();
}

async fn live(shared: &Arc<Shared>, mut first: First) {
    let count = shared.options.servers.len();
    let mut at = getrandom::u32().unwrap_or_default() as usize % count;
    let mut left = count;
    let mut backoff = Backoff::new(shared.options.reconnect);
    let mut clean_start = shared.options.clean_start;
    let is_off = matches!(shared.options.reconnect, Reconnect::Off);
    loop {
        let outcome = tokio::select! {
            outcome = open(shared, at, clean_start) => outcome,
            () = closing(shared) => Err(ConnectError::Closed),
        };
        let reason = match outcome {
            Ok(session) => {
                // MQTT 3.1.1 ends a session that began clean with its connection, and knows no other kind.
                clean_start &= !shared.options.version.has_properties();
                if let Some(first) = first.take() {
                    // The one who called may have given up.
                    let _ = first.send(Ok(()));
                }
                let since = Instant::now();
                let reason = connection::serve(session, shared).await;
                if since.elapsed() >= GOOD_SESSION {
                    backoff.reset();
                }
                end(shared, &reason);
                Ok(reason)
            }
            Err(error) => Err(error),
        };
        at = (at + 1) % count;
        let (stop, error) = match reason {
            Ok(DisconnectReason::ByClient) => return,
            Ok(reason) => ((is_off || !reason.may_reconnect()).then_some(reason), None),
            Err(error) => {
                left = left.saturating_sub(1);
                if error.is_final() || first.is_some() && left == 0 {
                    if let Some(first) = first.take() {
                        let _ = first.send(Err(error));
                    }
                    return;
                }
                if first.is_some() {
                    continue;
                }
                tracing::warn!(%error, "Cannot connect");
                let is_stop = is_off || error.reason().is_some_and(stops);
                (is_stop.then(|| DisconnectReason::Refused(Arc::new(error.clone()))), Some(error))
            }
        };
        if shared.is_closing() {
            return;
        }
        match stop {
            Some(reason) => {
                if !wait_for_application(shared, reason).await {
                    return;
                }
                backoff.reset();
            }
            None => {
                let Some(delay) = backoff.next() else { return };
                shared.emit(Event::Reconnecting { attempt: backoff.attempt, delay, error });
                tokio::select! {
                    () = sleep(delay) => {}
                    () = shared.reconnect.notified() => {}
                    () = closing(shared) => return,
                }
            }
        }
    }
}

async fn open(shared: &Shared, at: usize, clean_start: bool) -> Result<connect::Session, ConnectError> {
    // The id that the server gave is ours from then on.
    let given = shared.lock().information.as_ref().map(|information| information.client_id.clone());
    let client_id =
        Some(shared.options.client_id.clone()).filter(|id| !id.is_empty()).or(given).unwrap_or_default();
    let unreported: Report<'_> = &mut |_, _, _| {};
    connect::open(&shared.options, &shared.options.servers[at], (&client_id, clean_start), unreported).await
}

fn end(shared: &Shared, reason: &DisconnectReason) {
    {
        let mut inner = shared.lock();
        let inner = &mut *inner;
        inner.routes.end(&mut inner.outbound);
        inner.outbound.end();
        inner.received.end();
    }
    shared.status.send_replace(Status::Offline);
    shared.lock().reauthenticate.clear();
    tracing::info!(%reason, "Disconnected");
    shared.emit(Event::Disconnected { reason: reason.clone() });
}

/// Waits until the application wants a connection again; `false` if it wants the client to end.
async fn wait_for_application(shared: &Shared, reason: DisconnectReason) -> bool {
    shared.stop(&Error::Stopped(reason.clone()));
    if matches!(shared.options.reconnect, Reconnect::Off) {
        return false;
    }
    tracing::warn!(%reason, "Not reconnecting; the application must call reconnect");
    shared.emit(Event::Stopped { reason });
    tokio::select! {
        () = shared.reconnect.notified() => {}
        () = closing(shared) => return false,
    }
    shared.go_on();
    true
}

/// Waits until the client is to be closed. A connection closes by itself.
async fn closing(shared: &Shared) {
    while !shared.is_closing() {
        shared.closing.notified().await;
    }
}
