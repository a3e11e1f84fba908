//! `sub` (§7.g, §9.b, §9.c, protocol.md 2.8, 2.12, 2.20).

use std::borrow::Cow;
use std::sync::Arc;

use jmqt_protocol::{ChannelKind, ChannelName, ClientId, Packet, StatusCode, Sub, SubAck};

use super::CONTINUE;
use crate::session::{Core, Flow};
use crate::validators::{SubRequest, Verdict};

impl Core {
    pub(super) async fn handle_sub(&mut self, client: &ClientId, sub: Sub<'_>) -> Flow {
        let Some(channel) = plain_channel(&sub.channel) else {
            self.answer(&sub_ack(StatusCode::INVALID_CHANNEL, sub.channel.trim()));
            return CONTINUE;
        };
        let shared = Arc::clone(&self.shared);
        let attached = self.attached.clone();
        let session = attached.as_ref().map(|attached| attached.data()).into();
        let request = SubRequest::new(self.info, client, &channel, sub.persistence, &shared.handle, session);
        let question = shared.validators.sub.validate_sub(&request);
        let status = match self.ask("sub validator", question).await {
            Ok(verdict) => self.status_of("sub validator", verdict),
            Err(reason) => return Flow::Break(reason),
        };
        if !status.is_ok() {
            self.answer(&sub_ack(status, channel.as_str()));
            return CONTINUE;
        }
        let outbox = Arc::clone(&self.outbox);
        let subscribing = shared.hub.subscribe(&outbox, client, &channel, sub.persistence);
        match self.wait(subscribing).await {
            Ok(Ok(subscribed)) => self.open(subscribed, &sub_ack(StatusCode::OK, channel.as_str())),
            Ok(Err(_)) => self.answer(&sub_ack(StatusCode::SERVER_ERROR, channel.as_str())),
            Err(reason) => return Flow::Break(reason),
        }
        CONTINUE
    }

    /// What a verdict means for the acknowledgement.
    pub(super) fn status_of(&mut self, what: &'static str, verdict: Option<Verdict>) -> StatusCode {
        match verdict {
            Some(Verdict::Allow) => StatusCode::OK,
            Some(Verdict::Refuse(status)) if !status.is_ok() => status,
            Some(Verdict::Refuse(_)) => {
                self.validator_mistake(what, &"it refused with status OK");
                StatusCode::SERVER_ERROR
            }
            None => StatusCode::SERVER_ERROR,
        }
    }
}

/// The name, if a client may subscribe to it and unsubscribe from it (2.8).
pub(super) fn plain_channel(raw: &str) -> Option<ChannelName> {
    ChannelName::parse(raw).ok().filter(|channel| channel.kind() == ChannelKind::Plain)
}

fn sub_ack(status: StatusCode, channel: &str) -> Packet<'_> {
    Packet::SubAck(SubAck { status, channel: Some(Cow::Borrowed(channel)) })
}
