//! `sub` (§7.g, §9.b, §9.c, protocol.md 2.8, 2.12, 2.20).

use std::borrow::Cow;
use std::sync::Arc;

use jmqt_protocol::{ChannelKind, ChannelName, ClientId, Packet, Persistence, StatusCode, Sub, SubAck};

use super::CONTINUE;
use crate::log_limit::log_limited;
use crate::session::{Core, Flow};
use crate::validators::{SubRequest, Verdict, asking};

impl Core {
    pub(super) async fn handle_sub(&mut self, client: &ClientId, sub: Sub<'_>) -> Flow {
        let Some(channel) = plain_channel(&sub.channel) else {
            self.answer(&sub_ack(StatusCode::INVALID_CHANNEL, sub.channel.trim()));
            return CONTINUE;
        };
        let shared = Arc::clone(&self.shared);
        let attached = self.attached.clone();
        let session = attached.as_ref().and_then(|attached| attached.data()).into();
        let request = SubRequest::new(self.info, client, &channel, sub.persistence, &shared.handle, session);
        let question = asking(|| shared.validators.sub.validate_sub(&request));
        let status = match self.ask("sub validator", question).await {
            Ok(verdict) => self.status_of("sub validator", verdict),
            Err(reason) => return Flow::Break(reason),
        };
        if !status.is_ok() {
            self.answer(&sub_ack(status, channel.as_str()));
            return CONTINUE;
        }
        if !self.may_subscribe(client, &channel, sub.persistence) {
            self.answer(&sub_ack(StatusCode::NOT_ALLOWED, channel.as_str()));
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

impl Core {
    /// Whether the client has room for one more subscription; one that it has already takes none.
    fn may_subscribe(&self, client: &ClientId, channel: &ChannelName, persistence: Persistence) -> bool {
        if self.outbox.subscription(channel.as_str()).is_some() {
            return true;
        }
        let limits = &self.shared.limits;
        let (all, persistent) = self.outbox.subscription_counts(ChannelName::of_client(client).as_str());
        let is_refused = all >= limits.subscriptions
            || persistence == Persistence::Persistent && persistent >= limits.persistent_subscriptions;
        if is_refused {
            self.shared.hub.counters.subscriptions_refused.increment();
            log_limited!(warn, target: "jmqt::session", %client, all, persistent, "a subscription was refused: the client has as many as MAX_SUBSCRIPTIONS_PER_CLIENT and MAX_PERSISTENT_SUBSCRIPTIONS_PER_CLIENT allow");
        }
        !is_refused
    }
}

/// The name, if a client may subscribe to it and unsubscribe from it (2.8).
pub(super) fn plain_channel(raw: &str) -> Option<ChannelName> {
    ChannelName::parse(raw).ok().filter(|channel| channel.kind() == ChannelKind::Plain)
}

fn sub_ack(status: StatusCode, channel: &str) -> Packet<'_> {
    Packet::SubAck(SubAck { status, channel: Some(Cow::Borrowed(channel)) })
}
