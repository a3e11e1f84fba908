//! `unsub` (§7.i, protocol.md 2.8, 2.20).

use std::borrow::Cow;
use std::sync::Arc;

use jmqt_protocol::{ClientId, Packet, StatusCode, Unsub, UnsubAck};

use super::CONTINUE;
use super::sub::plain_channel;
use crate::session::{Core, Flow};
use crate::validators::{UnsubRequest, asking};

impl Core {
    pub(super) async fn handle_unsub(&mut self, client: &ClientId, unsub: Unsub<'_>) -> Flow {
        let Some(channel) = plain_channel(&unsub.channel) else {
            self.answer(&unsub_ack(StatusCode::INVALID_CHANNEL, unsub.channel.trim()));
            return CONTINUE;
        };
        let shared = Arc::clone(&self.shared);
        let attached = self.attached.clone();
        let session = attached.as_ref().and_then(|attached| attached.data()).into();
        let request = UnsubRequest::new(self.info, client, &channel, &shared.handle, session);
        let question = asking(|| shared.validators.unsub.validate_unsub(&request));
        let mut status = match self.ask("unsub validator", question).await {
            Ok(verdict) => self.status_of("unsub validator", verdict),
            Err(reason) => return Flow::Break(reason),
        };
        if status.is_ok() {
            let outbox = Arc::clone(&self.outbox);
            match self.wait(shared.hub.unsubscribe(&outbox, client, &channel)).await {
                Ok(Ok(_)) => {}
                Ok(Err(_)) => status = StatusCode::SERVER_ERROR,
                Err(reason) => return Flow::Break(reason),
            }
        }
        self.answer(&unsub_ack(status, channel.as_str()));
        CONTINUE
    }
}

fn unsub_ack(status: StatusCode, channel: &str) -> Packet<'_> {
    Packet::UnsubAck(UnsubAck { status, channel: Some(Cow::Borrowed(channel)) })
}
