//! The end of a connection: the last bytes, the tables, the notifiers (§9.f, protocol.md 2.16).

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use super::buffer::ReadSize;
use super::io::Io;
use super::{Core, Member, Session};
use crate::connection::{CloseReason, ConnectionInfo};
use crate::context::Shared;
use crate::outbox::Outbox;
use crate::transport::CloseCode;
use crate::validators::{Attached, CloseNotice, asking, let_go, poll_contained};
use crate::wire;

/// How long the last bytes may take to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a client that leaves waits for the `pubAck`s of its publishes.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long, and for how many reads, what the client still sends is read and thrown away.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);
const LINGER_READS: usize = 64;

impl Session {
    /// Ends the connection, even if something panics on the way.
    pub(super) async fn end(self, reason: CloseReason) -> Option<Io> {
        let (shared, outbox, member) =
            (Arc::clone(&self.core.shared), Arc::clone(&self.core.outbox), self.core.member.clone());
        let mut closing = pin!(Some(self.close(reason)));
        let message = match poll_fn(|cx| poll_contained(closing.as_mut(), cx)).await {
            Ok(lingering) => return lingering,
            Err(message) => message,
        };
        tracing::error!(target: "jmqt::session", message, "the end of a connection panicked; clearing the tables");
        outbox.close(reason);
        outbox.release_socket();
        let mut clearing = pin!(Some(shared.hub.close_tables(&outbox)));
        drop(poll_fn(|cx| poll_contained(clearing.as_mut(), cx)).await);
        if let Some(Member { client, generation }) = member {
            // Not as notified: if the close notifier has not run, the next start or another node runs it.
            shared.hub.close_session(&client, generation, true, false).await;
        }
        None
    }

    /// Ends the connection. Every way out of [`run`](Self::run) leads through here, once. Returns the socket if
    /// the client may not have read yet what it was told: [`linger`] is for the caller, who keeps less in
    /// memory meanwhile than this does.
    async fn close(mut self, reason: CloseReason) -> Option<Io> {
        let client = self.core.name().to_owned();
        tracing::debug!(target: "jmqt::session", client, remote = %self.core.info.remote, %reason, "closing");
        if matches!(reason, CloseReason::Disconnected | CloseReason::ClosedByClient) {
            self.core.settle().await;
        }
        self.core.outbox.close(reason);
        self.say_goodbye(reason);
        let was_told = self.core.send_last_bytes(reason).await;
        let Self { core, .. } = self;
        let Core { shared, info, outbox, member, attached, io, .. } = core;
        outbox.release_socket();
        let lingering = was_told.then_some(io);
        end_session(&shared, &outbox, info, member, attached, reason).await;
        lingering
    }

    /// Queues the `disconn` and, on a WebSocket, the close frame: nothing follows them (protocol.md 2.22).
    fn say_goodbye(&mut self, reason: CloseReason) {
        let Self { decoder, core } = self;
        core.append_transport_output(decoder);
        let mut last = Vec::new();
        match core.outbox.farewell(reason) {
            Some(farewell) if decoder.is_open() => {
                last = wire::framed(core.outbox.form, &farewell.packet());
                decoder.close(farewell.code().code().into(), farewell.message());
            }
            None if reason == CloseReason::Disconnected => decoder.close(CloseCode::Normal, ""),
            _ => {} // it cannot be told, or has said goodbye itself
        }
        last.extend(decoder.take_output());
        core.outbox.end_with(&last);
    }
}

/// Clears the tables, and runs the close notifier.
async fn end_session(
    shared: &Arc<Shared>,
    outbox: &Arc<Outbox>,
    info: ConnectionInfo,
    member: Option<Member>,
    attached: Option<Arc<Attached>>,
    reason: CloseReason,
) {
    // A `conn` may have been given up half way, so the tables are cleared in any case.
    let is_known = shared.hub.close_tables(outbox).await;
    shared.hub.settle_session(member.as_ref().map(|member| &member.client), outbox).await;
    let Some(Member { client, generation }) = member else { return };
    let is_ours = shared.hub.claim_close(&client, generation, info).await;
    if is_ours {
        let session = attached.as_ref().and_then(|attached| attached.data()).into();
        let notice = CloseNotice::new(info, &client, reason, &shared.handle, session);
        shared.notify_close(&notice).await;
    }
    shared.hub.close_session(&client, generation, is_known, is_ours).await;
}

impl Core {
    /// Waits for the `pubAck`s that are outstanding, so that they leave before the connection does.
    async fn settle(&mut self) {
        self.outbox.leave();
        let settled = poll_fn(|cx| {
            let ended = matches!(self.poll_duties(cx), Poll::Ready(Err(_)));
            if ended || !self.outbox.has_unsettled() { Poll::Ready(()) } else { Poll::Pending }
        });
        // What is not settled in time is not acknowledged, which is what the client will see.
        drop(timeout(SETTLE_TIMEOUT, settled).await);
    }

    /// Writes what is queued, within limits. Returns whether all of it has been, and the client may still be
    /// sending, not having read it.
    async fn send_last_bytes(&mut self, reason: CloseReason) -> bool {
        if matches!(reason, CloseReason::SlowConsumer | CloseReason::ConnectionLost) {
            return false;
        }
        let limit = match reason {
            CloseReason::Shutdown => self.shared.limits.drain.max(Duration::from_millis(100)),
            _ => FLUSH_TIMEOUT,
        };
        let flushed = timeout(limit, poll_fn(|cx| self.io.poll_drain(cx, &self.outbox))).await;
        if !matches!(flushed, Ok(Ok(()))) {
            return false;
        }
        let shut = timeout(FLUSH_TIMEOUT, poll_fn(|cx| self.io.poll_shutdown(cx))).await;
        matches!(shut, Ok(Ok(()))) && reason != CloseReason::ClosedByClient
    }
}

/// Throws away what the client still sends, for a moment: closing a socket with unread bytes resets it, and
/// the client loses what it was told.
pub(super) async fn linger(mut io: Io) {
    let mut reads = 0;
    let thrown_away = poll_fn(|cx| {
        while reads < LINGER_READS {
            match io.poll_read(cx, ReadSize::Large) {
                Poll::Ready(Ok((_, length))) if length > 0 => reads += 1,
                Poll::Ready(_) => break,
                Poll::Pending => return Poll::Pending,
            }
        }
        Poll::Ready(())
    });
    drop(timeout(LINGER_TIMEOUT, thrown_away).await);
}

impl Shared {
    /// Runs the close notifier, within its time limit.
    pub(crate) async fn notify_close(self: &Arc<Self>, notice: &CloseNotice<'_>) {
        let mut question = asking(|| self.validators.close.on_close(notice));
        let guarded = poll_fn(|cx| crate::validators::poll_guarded(&mut question, cx));
        let asked = timeout(self.limits.validator_timeout, guarded).await;
        let asked = asked.unwrap_or(crate::validators::Asked::TimedOut);
        let_go("close notifier", question);
        if asked.logged("close notifier", notice.client.as_str()).is_none() {
            self.hub.counters.validator_failures.increment();
        }
    }
}
