//! The end of a connection: the last bytes, the tables, the notifiers (§9.f, protocol.md 2.16).

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use tokio::time::timeout;

use super::buffer::ReadSize;
use super::{Core, Member, Session};
use crate::transport::CloseCode;
use crate::validators::{CloseNotice, CloseReason};

/// How long the last bytes may take to leave.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a client that leaves waits for the `pubAck`s of its publishes.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long, and for how many reads, what the client still sends is read and thrown away.
const LINGER_TIMEOUT: Duration = Duration::from_millis(500);
const LINGER_READS: usize = 64;

impl Session {
    /// Ends the connection. Every way out of [`run`](Self::run) leads through here, once.
    pub(super) async fn close(mut self, reason: CloseReason) {
        let client = self.core.name().to_owned();
        tracing::debug!(target: "jmqt::session", client, remote = %self.core.info.remote, %reason, "closing");
        if matches!(reason, CloseReason::Disconnected | CloseReason::ClosedByClient) {
            self.core.settle().await;
        }
        self.core.outbox.close(reason);
        if let Some(code) = close_code(reason) {
            self.decoder.close(code);
            self.core.append_transport_output(&mut self.decoder);
        }
        self.core.send_last_bytes(reason).await;
        let Self { core, .. } = self;
        let Core { shared, info, outbox, member, attached, io, .. } = core;
        drop(io);
        outbox.release_socket();
        // A `conn` may have been given up half way, so the tables are cleared in any case.
        let is_known = shared.hub.close_tables(&outbox).await;
        shared.hub.settle_session(&outbox).await;
        let Some(Member { client, generation }) = member else { return };
        let is_ours = shared.hub.claim_close(&client, generation, info).await;
        if is_ours {
            let session = attached.as_ref().map(|attached| attached.data()).into();
            let notice = CloseNotice::new(info, &client, reason, &shared.handle, session);
            shared.notify_close(&notice).await;
        }
        shared.hub.close_session(&client, generation, is_known, is_ours).await;
    }
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

    async fn send_last_bytes(&mut self, reason: CloseReason) {
        if matches!(reason, CloseReason::SlowConsumer | CloseReason::ConnectionLost) {
            return;
        }
        let limit = match reason {
            CloseReason::Shutdown => self.shared.limits.drain.max(Duration::from_millis(100)),
            _ => FLUSH_TIMEOUT,
        };
        let flushed = timeout(limit, poll_fn(|cx| self.io.poll_drain(cx, &self.outbox))).await;
        if !matches!(flushed, Ok(Ok(()))) {
            return;
        }
        let shut = timeout(FLUSH_TIMEOUT, poll_fn(|cx| self.io.poll_shutdown(cx))).await;
        // Closing a socket with unread bytes resets it, and the client loses what was just sent.
        if matches!(shut, Ok(Ok(()))) && lingers(reason) {
            drop(timeout(LINGER_TIMEOUT, self.linger()).await);
        }
    }

    async fn linger(&mut self) {
        for _ in 0..LINGER_READS {
            match poll_fn(|cx| self.io.poll_read(cx, ReadSize::Large)).await {
                Ok((_, length)) if length > 0 => {}
                _ => return,
            }
        }
    }
}

/// Whether the client is likely to be sending when the server closes. (After a takeover it may be too,
/// but the newer connection is waiting.)
fn lingers(reason: CloseReason) -> bool {
    matches!(
        reason,
        CloseReason::BadPackets
            | CloseReason::PacketTooLarge
            | CloseReason::ProtocolViolation
            | CloseReason::Disconnected
    )
}

/// What a WebSocket is told; `None` if it has been told, or there is nobody to tell.
fn close_code(reason: CloseReason) -> Option<CloseCode> {
    Some(match reason {
        CloseReason::Disconnected => CloseCode::Normal,
        CloseReason::Shutdown => CloseCode::Away,
        CloseReason::ClosedByClient
        | CloseReason::ConnectionLost
        | CloseReason::PacketTooLarge
        | CloseReason::ProtocolViolation => return None,
        _ => CloseCode::Policy,
    })
}

impl crate::server::Shared {
    /// Runs the close notifier, within its time limit.
    pub(crate) async fn notify_close(self: &Arc<Self>, notice: &CloseNotice<'_>) {
        let mut question = self.validators.close.on_close(notice);
        let guarded = poll_fn(|cx| crate::validators::poll_guarded(&mut question, cx));
        let asked = timeout(self.limits.validator_timeout, guarded).await;
        let asked = asked.unwrap_or(crate::validators::Asked::TimedOut);
        if asked.logged("close notifier", notice.client.as_str()).is_none() {
            self.hub.counters.validator_failures.increment();
        }
    }
}
