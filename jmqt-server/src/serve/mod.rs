//! The task of a connection, from its first byte to the close notifier (§5, §9.f): it waits, reads, passes packets to
//! the language, and ends.
//!
//! Other rooms have the content of packets (`language`) and the work while a request waits (`session`).

mod close;
mod wills;
mod wrong_port;

use std::future::poll_fn;
use std::ops::ControlFlow;
use std::pin::pin;
use std::sync::Arc;

use tokio::time::Instant;

use crate::admission::ConnectionPermit;
use crate::connection::{CloseReason, ConnectionInfo, Flow};
use crate::context::Shared;
use crate::language;
use crate::log_limit::log_limited;
use crate::outbox::Outbox;
use crate::session::{Accepted, Event, Session, verbs};
use crate::transport::Decoder;
use crate::validators::poll_contained;

pub(crate) use close::notify_close;
pub(crate) use wills::{end_will_of, watch_wills};
pub(crate) use wrong_port::note_wrong_port;

/// One connection.
pub(crate) struct Connection {
    shared: Arc<Shared>,
    /// Separate from the session, because a packet borrows the decoder's buffer while it is handled.
    decoder: Decoder,
    session: Session,
    language: language::State,
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        info: ConnectionInfo,
        accepted: Accepted,
        accepted_at: Instant,
    ) -> Self {
        let (framing, form) = (language::framing(info.protocol), language::form(info.protocol));
        Self {
            decoder: Decoder::new(framing, shared.limits.preconn_packet_bytes, Arc::clone(&shared.http)),
            language: language::State::default(),
            session: Session::new(Arc::clone(&shared), info, form, accepted, accepted_at),
            shared,
        }
    }

    pub(crate) fn outbox(&self) -> &Arc<Outbox> {
        &self.session.outbox
    }

    /// Serves the connection until one side ends it, and then ends the session.
    ///
    /// This is not an `async fn`, which would store its arguments twice in every idle connection.
    #[allow(clippy::manual_async_fn, reason = "see above")]
    pub(crate) fn run(mut self, permit: ConnectionPermit) -> impl Future<Output = ()> + Send {
        async move {
            let served = {
                let mut serving = pin!(Some(self.serve()));
                poll_fn(|cx| poll_contained(serving.as_mut(), cx)).await
            };
            // The end runs in every case, because it clears the tables.
            let reason = served.unwrap_or_else(|message| {
                tracing::error!(target: "jmqt::session", message, "the task of a connection panicked; ending the connection");
                CloseReason::ServerError
            });
            // Last of all, because a newer connection of the same client does not wait for this.
            let Self { shared, decoder, session, language } = self;
            if let Some(io) = Box::pin(close::end(shared, decoder, session, language, reason)).await {
                Box::pin(close::linger(io)).await;
            }
            drop(permit);
        }
    }

    async fn serve(&mut self) -> CloseReason {
        loop {
            match poll_fn(|cx| self.session.poll_event(cx)).await {
                Event::Ended(reason) => return reason,
                Event::Drained => self.shared.hub.resumes.begin(&self.session.outbox),
                Event::Revalidate => {
                    let revalidated = Box::pin(self.revalidate()).await;
                    if let ControlFlow::Break(reason) = revalidated {
                        return reason;
                    }
                }
                Event::Received(buffer, length) => {
                    self.session.adapt_reads(length);
                    // Boxed, because this future is large and an idle session must not hold room for it:
                    // one allocation a read, whatever number of packets it brings.
                    let handled = Box::pin(self.handle(buffer.filled(length))).await;
                    if let ControlFlow::Break(reason) = handled {
                        return reason;
                    }
                }
            }
        }
    }

    /// Asks the application again about the session and its subscriptions.
    async fn revalidate(&mut self) -> Flow {
        let revalidated = verbs::revalidate(&self.shared, &mut self.session).await;
        self.session.end_batch().await;
        revalidated
    }

    /// Handles all complete packets of a read, then writes.
    async fn handle(&mut self, received: &[u8]) -> Flow {
        let Self { shared, decoder, session, language } = self;
        let mut chunk = received;
        let now = Instant::now();
        session.received(now, true);
        session.begin_turn(now).await?;
        if decoder.turn_to_mqtt(chunk) {
            turn_to_mqtt(session);
        }
        loop {
            match decoder.next(&mut chunk) {
                Ok(Some(text)) => {
                    session.packet_completed();
                    let had_session = session.member.is_some();
                    let flow = language::handle(shared, session, language, text).await;
                    if flow.is_break() {
                        session.end_batch().await;
                        return flow;
                    }
                    if session.is_full() {
                        session.wait_for_room().await?;
                    }
                    if session.has_spent_a_look() {
                        session.look_at_the_clock().await?;
                    }
                    if !had_session && session.member.is_some() {
                        decoder.set_limit(shared.limits.packet_bytes);
                    }
                }
                Ok(None) => {
                    if let Some(upgrade) = decoder.take_upgrade() {
                        session.upgraded(upgrade);
                        if decoder.speaks_mqtt() {
                            turn_to_mqtt(session);
                        }
                    }
                    session.append(decoder.take_output());
                    if !decoder.has_more() {
                        break;
                    }
                }
                Err(error) => {
                    session.end_batch().await;
                    session.append(decoder.take_output());
                    return close::end_transport(shared, session, &error);
                }
            }
        }
        session.received(now, decoder.is_mid_packet());
        if !session.keep_partial(decoder.buffered() + language.held()) {
            session.end_batch().await;
            return refuse_partial_packet(shared, session);
        }
        session.end_batch().await;
        shared.hub.resumes.begin(&session.outbox);
        session.keep_pace().await
    }
}

/// The client of a port for JMQT speaks MQTT, as MQTT_ON_JMQT_PORTS allows.
fn turn_to_mqtt(session: &mut Session) {
    let protocol = session.info.protocol.with_mqtt();
    session.info.protocol = protocol;
    session.outbox.set_form(language::form(protocol), u32::MAX);
}

/// Closes the connection, because the incomplete packets of all connections exceed their limit, and this one has
/// grown.
fn refuse_partial_packet(shared: &Shared, session: &Session) -> Flow {
    shared.hub.counters.partial_packets_refused.increment();
    let key = match session.member {
        Some(_) => "MAX_TOTAL_PARTIAL_PACKET_BYTES",
        None => "MAX_TOTAL_PRECONN_BYTES",
    };
    log_limited!(warn, target: "jmqt::session", client = session.name(), remote = %session.info.remote, "closing a connection in the middle of a packet: all incomplete packets together have reached {key}");
    ControlFlow::Break(CloseReason::TryLater)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn future_size<A, B, F: Future>(_: impl FnOnce(A, B) -> F) -> usize {
        size_of::<F>()
    }

    #[test] // ten thousand idle connections are ten thousand of these
    fn an_idle_session_is_a_small_future() {
        let size = future_size(Connection::run);
        assert!(size <= 528, "{size}");
    }

    #[test] // one of these is allocated for each read
    fn the_future_of_a_read_holds_no_argument_twice() {
        let size = future_size(Connection::handle);
        assert!(size <= 2560, "{size}");
    }
}
