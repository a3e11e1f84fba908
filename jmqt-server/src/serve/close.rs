//! The end of a connection: the last bytes, the tables, the notifiers (§9.f, protocol.md 2.16).

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use jmqt_core::DisconnectCode;
use tokio::time::{Instant, timeout};

use super::note_wrong_port;
use crate::connection::{CloseReason, ConnectionInfo, Flow};
use crate::context::Shared;
use crate::disconnect::Disconnect;
use crate::language;
use crate::log_limit::log_limited;
use crate::outbox::Outbox;
use crate::session::{Io, Member, Remains, Session, verbs};
use crate::store::Unanswered;
use crate::transport::{CloseCode, Decoder, TransportError};
use crate::validators::{Asked, Attached, CloseNotice, asking, let_go, poll_contained, poll_guarded};

/// The time limit for sending the last bytes.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// The time for which a leaving client waits for the `pubAck`s of its publishes.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// The limits, in time and reads, for discarding the bytes that the client still sends.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);
const LINGER_READS: usize = 64;

/// Ends the connection, even if a part of that panics. Returns the socket if the client may not have read the last
/// bytes yet: the caller must [`linger`], because it holds less memory meanwhile.
pub(super) async fn end(
    shared: Arc<Shared>,
    decoder: Decoder,
    session: Session,
    language: language::State,
    reason: CloseReason,
) -> Option<Io> {
    let (outbox, member) = (Arc::clone(&session.outbox), session.member.clone());
    let mut closing = pin!(Some(close(&shared, decoder, session, language, reason)));
    let message = match poll_fn(|cx| poll_contained(closing.as_mut(), cx)).await {
        Ok(lingering) => return lingering,
        Err(message) => message,
    };
    tracing::error!(target: "jmqt::session", message, "ending a connection panicked; removing it from the tables");
    outbox.close(reason);
    outbox.release_socket();
    let mut clearing = pin!(Some(shared.hub.close_tables(&outbox)));
    drop(poll_fn(|cx| poll_contained(clearing.as_mut(), cx)).await);
    if let Some(Member { client, generation }) = member {
        // Not as notified: if the close notifier has not run, the next start or another node runs it.
        shared.hub.close_session(&client, generation, true, false, Unanswered::Unknown).await;
    }
    None
}

/// Ends the connection. Every end of a connection passes through here once.
async fn close(
    shared: &Arc<Shared>,
    mut decoder: Decoder,
    mut session: Session,
    language: language::State,
    reason: CloseReason,
) -> Option<Io> {
    let client = session.name().to_owned();
    tracing::debug!(target: "jmqt::session", client, remote = %session.info.remote, %reason, "closing");
    if let Some(measures) = shared.hub.counters.measures() {
        measures.closed(reason);
    }
    if matches!(reason, CloseReason::Disconnected | CloseReason::ClosedByClient) {
        settle(&mut session).await;
    }
    session.outbox.close(reason);
    say_goodbye(&mut decoder, &session, &language, reason);
    drop(decoder);
    let (is_stored, leaves_will) = (language.is_stored(), language.leaves_will());
    let was_told = send_last_bytes(shared, &mut session, reason).await;
    let (info, outbox) = (session.info, Arc::clone(&session.outbox));
    let Remains { member, attached, io } = session.into_remains();
    outbox.release_socket();
    let lingering = was_told.then_some(io);
    let left = Left { attached, is_stored, has_will: leaves_will };
    end_session(shared, &outbox, info, member, left, reason).await;
    lingering
}

/// Queues the last packet and, on a WebSocket, the close frame. Nothing follows them (protocol.md 2.22).
fn say_goodbye(decoder: &mut Decoder, session: &Session, language: &language::State, reason: CloseReason) {
    let outbox = &session.outbox;
    session.append(decoder.take_output());
    let mut last = Vec::new();
    match outbox.farewell(reason) {
        Some(farewell) if decoder.is_open() => {
            last = language::goodbye(session, language, &farewell);
            decoder.close(language::close_code(session.info.protocol, &farewell).into(), farewell.message());
        }
        None if reason == CloseReason::Disconnected => decoder.close(CloseCode::Normal, ""),
        _ => {} // it cannot be told, or has said goodbye itself
    }
    last.extend(decoder.take_output());
    outbox.end_with(&last);
}

/// Ends a connection that cannot be read any more, and sends the reason to the client.
pub(super) fn end_transport(shared: &Shared, session: &Session, error: &TransportError) -> Flow {
    tracing::debug!(target: "jmqt::session", client = session.name(), remote = %session.info.remote, %error, "the transport ended");
    let reason = error.close_reason();
    let code = match error {
        TransportError::Closed | TransportError::HealthChecked => return ControlFlow::Break(reason),
        TransportError::PacketTooLarge(_) => DisconnectCode::PACKET_TOO_LARGE,
        TransportError::Packet(_) => {
            shared.hub.counters.bad_packets.increment();
            match reason {
                CloseReason::PacketTooLarge => DisconnectCode::PACKET_TOO_LARGE,
                _ => DisconnectCode::BAD_PACKETS,
            }
        }
        TransportError::Violation(_) => DisconnectCode::BAD_PACKETS,
        TransportError::WrongPort(foreign) => {
            let info = session.info;
            note_wrong_port(shared, info, *foreign, info.protocol.is_tls());
            DisconnectCode::BAD_PACKETS
        }
        TransportError::ForeignPage { origin } => {
            shared.hub.counters.origins_refused.increment();
            log_limited!(warn, target: "jmqt::session", remote = %session.info.remote, origin, "refused a web page of another origin: to allow it, add the origin to ALLOWED_ORIGINS");
            DisconnectCode::BAD_PACKETS
        }
    };
    session.outbox.close_saying(reason, Disconnect::new(code, error.to_string()));
    ControlFlow::Break(reason)
}

/// What a connection leaves.
struct Left {
    attached: Option<Arc<Attached>>,
    /// The store knows the session.
    is_stored: bool,
    has_will: bool,
}

/// Removes the session from the tables, publishes the will, and runs the close notifier.
async fn end_session(
    shared: &Shared,
    outbox: &Arc<Outbox>,
    info: ConnectionInfo,
    member: Option<Member>,
    left: Left,
    reason: CloseReason,
) {
    let Left { attached, is_stored, has_will } = left;
    // A `conn` may have been given up half way, so the tables are cleared in any case.
    let left_tables = shared.hub.close_tables(outbox).await;
    shared.hub.settle_session(member.as_ref().map(|member| &member.client), outbox).await;
    let Some(Member { client, generation }) = member else { return };
    let claimed = Instant::now();
    let mut is_ours = shared.hub.claim_close(&client, generation, info).await;
    if is_ours && has_will {
        // Its clients move to another node, or come back to the next process.
        let at_least = if reason == CloseReason::Shutdown { shared.limits.drain.as_secs() } else { 0 };
        let (node, at_least) = (&shared.hub.janitor.node, u32::try_from(at_least).unwrap_or(u32::MAX));
        verbs::end_will(shared, &client, generation, node, at_least).await;
        is_ours = shared.hub.claims_still(&client, generation, info, claimed).await;
    }
    if is_ours {
        let session = attached.as_ref().and_then(|attached| attached.data()).into();
        let notice = CloseNotice::new(info, &client, reason, &shared.handle, session);
        notify_close(shared, &notice).await;
    }
    let is_known = left_tables.was_persistent || is_stored;
    shared.hub.close_session(&client, generation, is_known, is_ours, left_tables.unanswered).await;
}

/// Waits for outstanding `pubAck`s, so that they are sent before the connection ends.
async fn settle(session: &mut Session) {
    session.outbox.leave();
    let settled = poll_fn(|cx| {
        let ended = matches!(session.poll_duties(cx), Poll::Ready(ControlFlow::Break(_)));
        if ended || !session.outbox.has_unsettled() { Poll::Ready(()) } else { Poll::Pending }
    });
    // What is not settled in time is not acknowledged, which is what the client will see.
    drop(timeout(SETTLE_TIMEOUT, settled).await);
}

/// Writes the queue, within limits. Returns `true` if all bytes were written and the client may still be sending
/// without having read them.
async fn send_last_bytes(shared: &Shared, session: &mut Session, reason: CloseReason) -> bool {
    if matches!(reason, CloseReason::SlowConsumer | CloseReason::ConnectionLost) {
        return false;
    }
    let limit = match reason {
        CloseReason::Shutdown => shared.limits.drain.max(Duration::from_millis(100)),
        _ => FLUSH_TIMEOUT,
    };
    let flushed = timeout(limit, poll_fn(|cx| session.poll_drain(cx))).await;
    if !matches!(flushed, Ok(Ok(()))) {
        return false;
    }
    let shut = timeout(FLUSH_TIMEOUT, poll_fn(|cx| session.poll_shutdown(cx))).await;
    matches!(shut, Ok(Ok(()))) && reason != CloseReason::ClosedByClient
}

/// Discards received bytes for a moment. Closing a socket with unread bytes resets it, and the client would lose the
/// disconnect reason.
pub(super) async fn linger(mut io: Io) {
    let mut reads = 0;
    let thrown_away = poll_fn(|cx| {
        while reads < LINGER_READS {
            match io.poll_discard(cx) {
                Poll::Ready(Ok(length)) if length > 0 => reads += 1,
                Poll::Ready(_) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    });
    drop(timeout(LINGER_TIMEOUT, thrown_away).await);
}

/// Runs the close notifier, within its time limit.
pub(crate) async fn notify_close(shared: &Shared, notice: &CloseNotice<'_>) {
    let mut question = asking(|| shared.validators.close.on_close(notice));
    let guarded = poll_fn(|cx| poll_guarded(&mut question, cx));
    let asked = timeout(shared.limits.validator_timeout, guarded).await;
    let asked = asked.unwrap_or(Asked::TimedOut);
    let_go("close notifier", question);
    if asked.logged("close notifier", notice.client.as_str(), Some(notice.connection.remote)).is_none() {
        shared.hub.counters.validator_failures.increment();
    }
}
