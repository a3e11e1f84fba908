//! `conn` (§7.c, protocol.md 2.2 to 2.4, 2.8, 2.9).

use std::sync::Arc;

use jmqt_protocol::{ClientId, Conn, ConnAck, Packet, StatusCode};

use super::CONTINUE;
use crate::handle::ConnHandle;
use crate::hub::{HubError, NewSession, Recorded};
use crate::session::{Core, Flow, Member};
use crate::validators::{Attached, CloseReason, ConnRequest, ConnVerdict};

impl Core {
    pub(super) async fn handle_conn(&mut self, conn: Conn<'_>) -> Flow {
        let Ok(client) = ClientId::parse(&conn.client) else {
            self.refuse_conn(StatusCode::INVALID_PACKET);
            return CONTINUE;
        };
        let (recorded, attached) = match self.ask_conn(&client, &conn).await {
            Ok(Ok(accepted)) => accepted,
            Ok(Err(status)) => {
                self.refuse_conn(status);
                return CONTINUE;
            }
            Err(reason) => return Flow::Break(reason),
        };
        match self.open_session(client, conn.window, recorded, attached).await {
            Ok(Ok(())) => CONTINUE,
            Ok(Err(error)) => {
                tracing::debug!(target: "jmqt::session", remote = %self.info.remote, %error, "conn failed");
                self.refuse_conn(StatusCode::SERVER_ERROR);
                CONTINUE
            }
            Err(reason) => Flow::Break(reason),
        }
    }

    /// What the application has recorded for the session and attached to it, or why there is to be none.
    async fn ask_conn(
        &mut self,
        client: &ClientId,
        conn: &Conn<'_>,
    ) -> Result<Result<(Vec<Recorded>, Option<Arc<Attached>>), StatusCode>, CloseReason> {
        let shared = Arc::clone(&self.shared);
        let handle = ConnHandle::new(client.clone(), shared.handle.clone());
        // What `auth` attached for another client is not for this one.
        let attached = self.attached.clone().filter(|attached| attached.is_for(client));
        let session = attached.as_ref().map(|attached| attached.data()).into();
        let request = ConnRequest::new(self.info, client, &conn.token, &handle, session);
        let question = shared.validators.conn.validate_conn(&request);
        Ok(match self.ask("conn validator", question).await? {
            Some(ConnVerdict::Accept(acceptance)) => {
                for (channel, persistence) in acceptance.subscriptions {
                    if let Err(error) = handle.force_sub(&channel, persistence) {
                        self.validator_mistake("conn validator", &error);
                        return Ok(Err(StatusCode::SERVER_ERROR));
                    }
                }
                let own = acceptance.session.map(|data| Arc::new(Attached::new(client.clone(), data)));
                Ok((handle.into_recorded(), own.or(attached)))
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
        recorded: Vec<Recorded>,
        attached: Option<Arc<Attached>>,
    ) -> Result<Result<(), HubError>, CloseReason> {
        let shared = Arc::clone(&self.shared);
        let outbox = Arc::clone(&self.outbox);
        let new = NewSession {
            client: &client,
            outbox: &outbox,
            info: self.info,
            window: window
                .map_or(shared.limits.max_inflight, |window| window.min(shared.limits.max_inflight)),
            careful: window.is_none() && !self.info.protocol.is_websocket(),
            recorded,
        };
        let opened = match self.wait(shared.hub.open_session(new)).await? {
            Ok(opened) => opened,
            Err(error) => return Ok(Err(error)),
        };
        tracing::debug!(target: "jmqt::session", client = %client, remote = %self.info.remote, "connected");
        self.session_begun(Member { client, generation: opened.generation });
        self.attached = attached;
        self.accept_conn();
        self.wait(shared.hub.start_pushing(&outbox, opened)).await?;
        Ok(Ok(()))
    }

    /// A `conn` within a session: fine if it names the same client (2.4).
    pub(super) fn handle_conn_again(&mut self, client: &ClientId, conn: &Conn<'_>) {
        if conn.client == client.as_str() {
            self.accept_conn();
        } else {
            self.refuse_conn(StatusCode::NOT_ALLOWED);
        }
    }

    fn accept_conn(&mut self) {
        let timeout_seconds = Some(self.shared.limits.timeout_seconds);
        self.answer(&Packet::ConnAck(ConnAck {
            status: StatusCode::OK,
            timeout_seconds,
            remembers_publishes: false,
        }));
    }

    fn refuse_conn(&mut self, status: StatusCode) {
        self.answer(&Packet::ConnAck(ConnAck { status, timeout_seconds: None, remembers_publishes: false }));
    }
}
