//! `conn` (§7.c, protocol.md 2.2 to 2.4, 2.8, 2.9, 2.23).

use std::sync::Arc;
use std::time::{Duration, Instant};

use jmqt_protocol::{ChannelName, ClientId, Conn, ConnAck, Packet, StatusCode};

use super::CONTINUE;
use crate::connection::CloseReason;
use crate::disconnect::Disconnect;
use crate::handle::ConnHandle;
use crate::hub::{HubError, NewSession, OpenedSession, Recorded};
use crate::log_limit::log_limited;
use crate::outbox::{Outbox, Redelivery};
use crate::session::{Core, Flow, Member};
use crate::store::PublisherId;
use crate::validators::{Attached, ConnRequest, ConnVerdict, OpenNotice, asking};

/// After so many channels have been asked for their retained messages, others have a turn.
const CHANNELS_PER_TURN: usize = 64;

/// What the application has decided about a session that it accepts.
struct Accepted {
    recorded: Vec<Recorded>,
    attached: Option<Arc<Attached>>,
    /// From the verdict on.
    valid_for: Option<Duration>,
}

impl Core {
    pub(super) async fn handle_conn(&mut self, conn: Conn<'_>) -> Flow {
        let Ok(client) = ClientId::parse(&conn.client) else {
            return self.refuse_conn(StatusCode::INVALID_PACKET);
        };
        let Ok(publisher) = publisher(&conn) else {
            return self.refuse_conn(StatusCode::INVALID_PACKET);
        };
        let accepted = match self.ask_conn(&client, &conn).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(status)) => return self.refuse_conn(status),
            Err(reason) => return Flow::Break(reason),
        };
        self.publisher = publisher;
        match self.open_session(client, conn.window, accepted).await {
            Ok(Ok(())) => CONTINUE,
            Ok(Err(HubError::TooManyTakeovers(wait))) => self.refuse_takeover(wait),
            Ok(Err(error)) => {
                tracing::debug!(target: "jmqt::session", remote = %self.info.remote, %error, "conn failed");
                self.refuse_conn(StatusCode::SERVER_ERROR)
            }
            Err(reason) => Flow::Break(reason),
        }
    }

    /// The session that is there goes on, and this connection does not.
    fn refuse_takeover(&mut self, wait: Duration) -> Flow {
        self.shared.hub.counters.takeovers_refused.increment();
        log_limited!(warn, target: "jmqt::session", remote = %self.info.remote, "a client's sessions are taken over more often than MAX_TAKEOVERS_PER_SECOND: does it run twice?");
        // Whatever that says, this connection ends.
        let _ = self.refuse_conn(StatusCode::SERVER_ERROR);
        self.outbox.close_saying(CloseReason::TryLater, Disconnect::too_many_takeovers(wait));
        Flow::Break(CloseReason::TryLater)
    }

    /// What the application has decided about the session, or why there is to be none.
    async fn ask_conn(
        &mut self,
        client: &ClientId,
        conn: &Conn<'_>,
    ) -> Result<Result<Accepted, StatusCode>, CloseReason> {
        let shared = Arc::clone(&self.shared);
        let handle = ConnHandle::new(client.clone(), shared.handle.clone());
        // What `auth` attached for another client is not for this one.
        let attached = self.attached.clone();
        let data = attached.as_ref().and_then(|attached| attached.data_for(client));
        let upgrade = attached.as_ref().and_then(|attached| attached.upgrade());
        let request = ConnRequest::new(self.info, client, &conn.token, &handle, data.into(), upgrade);
        let question = asking(|| shared.validators.conn.validate_conn(&request));
        Ok(match self.ask("conn validator", question).await? {
            Some(ConnVerdict::Accept(acceptance)) => {
                for (channel, persistence) in acceptance.subscriptions {
                    if let Err(error) = handle.force_sub(&channel, persistence) {
                        self.validator_mistake("conn validator", &error);
                        return Ok(Err(StatusCode::SERVER_ERROR));
                    }
                }
                // From here on the request that a WebSocket began with is not kept any more.
                let data = acceptance.session.or_else(|| data.cloned());
                let attached = data.map(|data| Arc::new(Attached::new(client.clone(), data)));
                let valid_for = acceptance.valid_for;
                Ok(Accepted { recorded: handle.into_recorded(), attached, valid_for })
            }
            Some(ConnVerdict::Refuse(status)) if !status.is_ok() => Err(status),
            Some(_) => {
                self.validator_mistake("conn validator", &"it refused with status OK");
                Err(StatusCode::SERVER_ERROR)
            }
            None => Err(StatusCode::SERVER_ERROR),
        })
    }

    async fn open_session(
        &mut self,
        client: ClientId,
        window: Option<u32>,
        accepted: Accepted,
    ) -> Result<Result<(), HubError>, CloseReason> {
        let shared = Arc::clone(&self.shared);
        let outbox = Arc::clone(&self.outbox);
        let Accepted { recorded, attached, valid_for } = accepted;
        let began = Instant::now();
        let loses_bursts = window.is_none() && !self.info.protocol.is_websocket();
        let new = NewSession {
            client: &client,
            outbox: &outbox,
            info: self.info,
            window: window
                .map_or(shared.limits.max_inflight, |window| window.min(shared.limits.max_inflight)),
            redelivery: if loses_bursts { Redelivery::Careful } else { Redelivery::AtOnce },
            recorded,
            takeovers_per_second: shared.limits.takeovers_per_second,
        };
        let opened = match self.wait(shared.hub.open_session(new)).await? {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        tracing::debug!(target: "jmqt::session", client = %client, remote = %self.info.remote, "connected");
        let OpenedSession { generation, retained, claim } = opened;
        self.session_begun(Member { client: client.clone(), generation });
        if let Some(time) = valid_for {
            self.expire_after(time.saturating_sub(began.elapsed()));
        }
        self.attached.clone_from(&attached);
        drop(claim);
        self.accept_conn();
        self.start_pushing(&outbox, &retained).await?;
        if let Some(open) = &shared.validators.open {
            let session = attached.as_ref().and_then(|attached| attached.data()).into();
            let notice = OpenNotice::new(self.info, &client, &shared.handle, session);
            // A notifier that failed has been logged; the session goes on.
            self.ask("open notifier", asking(|| open.on_open(&notice))).await?;
        }
        Ok(Ok(()))
    }

    /// What follows the `connAck`: the first window of pending pushes, the retained messages, each when there
    /// is room for it, then whatever was held back (2.3).
    async fn start_pushing(
        &mut self,
        outbox: &Arc<Outbox>,
        retained: &[ChannelName],
    ) -> Result<(), CloseReason> {
        let shared = Arc::clone(&self.shared);
        self.wait(shared.hub.resume_first(outbox)).await?;
        for (turn, channels) in retained.chunks(CHANNELS_PER_TURN).enumerate() {
            if turn > 0 {
                self.let_others_run().await?;
            }
            // One must not be left out (2.12), and the client has been told that it is connected.
            let there = self.wait(shared.hub.retained_among(channels)).await?;
            for channel in there.map_err(|_| CloseReason::StoreUnclear)? {
                if outbox.duties().full {
                    self.wait_for_room().await?;
                }
                let push = self.wait(shared.hub.retained_push(&channel)).await?;
                if let Some(push) = push.map_err(|_| CloseReason::StoreUnclear)? {
                    outbox.append_retained(&channel, push);
                }
            }
        }
        shared.hub.go_live(outbox);
        Ok(())
    }

    /// A `conn` within a session: fine if it names the same client (2.4).
    pub(super) fn handle_conn_again(&mut self, client: &ClientId, conn: &Conn<'_>) -> Flow {
        match publisher(conn) {
            _ if conn.client != client.as_str() => self.refuse_conn(StatusCode::NOT_ALLOWED),
            Ok(publisher) => {
                self.publisher = publisher;
                self.accept_conn();
                CONTINUE
            }
            Err(InvalidPublisher) => self.refuse_conn(StatusCode::INVALID_PACKET),
        }
    }

    fn accept_conn(&mut self) {
        let timeout_seconds = Some(self.shared.limits.timeout_seconds);
        self.answer(&Packet::ConnAck(ConnAck {
            status: StatusCode::OK,
            timeout_seconds,
            remembers_publishes: self.publisher.is_some(),
        }));
    }

    fn refuse_conn(&mut self, status: StatusCode) -> Flow {
        self.answer(&Packet::ConnAck(ConnAck { status, timeout_seconds: None, remembers_publishes: false }));
        self.count_refusal(status)
    }
}

/// The `pi` of a `conn` is empty or too long.
struct InvalidPublisher;

fn publisher(conn: &Conn<'_>) -> Result<Option<PublisherId>, InvalidPublisher> {
    let Some(publisher) = &conn.publisher else { return Ok(None) };
    PublisherId::parse(publisher).map(Some).ok_or(InvalidPublisher)
}
