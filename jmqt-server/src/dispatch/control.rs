//! `pub` to a control channel (§9.d, protocol.md 2.19).

use std::borrow::Cow;
use std::sync::Arc;

use jmqt_protocol::{ChannelName, ClientId, Packet, Payload, Pub, PubAck, StatusCode};

use super::CONTINUE;
use super::publish::MAX_ID_BYTES;
use crate::outbox::Flush;
use crate::session::{Core, Flow, cost};
use crate::validators::{ControlReply, ControlRequest, asking};

impl Core {
    pub(super) async fn handle_control(
        &mut self,
        client: &ClientId,
        channel: &ChannelName,
        publish: &Pub<'_>,
    ) -> Flow {
        self.deliver_run(Flush::Later).await;
        self.spend(cost::REQUEST);
        if publish.id.as_ref().is_none_or(|id| id.len() > MAX_ID_BYTES) {
            let status = StatusCode::INVALID_PACKET;
            self.answer(&Packet::PubAck(PubAck { status, id: None, data: None }));
            return CONTINUE;
        }
        let shared = Arc::clone(&self.shared);
        let attached = self.attached.clone();
        let session = attached.as_ref().and_then(|attached| attached.data()).into();
        let request = ControlRequest::new(self.info, client, channel, publish.data, &shared.handle, session);
        let question = asking(|| shared.validators.control.handle_control(&request));
        let reply = match self.ask("control handler", question).await {
            Ok(reply) => reply.unwrap_or(ControlReply::status(StatusCode::SERVER_ERROR)),
            Err(reason) => return Flow::Break(reason),
        };
        self.answer(&Packet::PubAck(PubAck {
            status: reply.status,
            id: publish.id.as_deref().map(Cow::Borrowed),
            data: reply.data.as_deref().map(Payload::trust),
        }));
        CONTINUE
    }
}
