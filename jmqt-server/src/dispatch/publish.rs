//! `pub` to plain and point-to-point channels (§7.k, §9.a, §9.d, protocol.md 2.10 to 2.13, 2.19, 2.21, 2.23).

use std::borrow::Cow;
use std::sync::Arc;
use std::task::Poll;

use jmqt_protocol::{
    ChannelKind, ChannelName, ClientId, Packet, Payload, Pub, PubAck, Qos, Retain, StatusCode,
};

use super::CONTINUE;
use crate::message::{Json, Message};
use crate::session::{Core, Flow, Member};
use crate::store::{PublishId, parse_number};
use crate::validators::{PubRequest, PubVerdict, Replacement, Verdict, asking, poll_at_once};
use crate::wire::Receipt;

/// The longest packet id that is taken (protocol.md 2.8).
pub(super) const MAX_ID_BYTES: usize = 256;

impl Core {
    pub(super) async fn handle_pub(&mut self, client: &ClientId, publish: &Pub<'_>) -> Flow {
        let name = publish.channel.trim();
        let channel = match self.batch.channel_named(name) {
            Some(channel) => channel.clone(),
            None => match ChannelName::parse(name) {
                Ok(channel) => channel,
                Err(_) => return self.refuse_pub(publish, StatusCode::INVALID_CHANNEL).await,
            },
        };
        if channel.kind() == ChannelKind::Control {
            return Box::pin(self.handle_control(client, &channel, publish)).await;
        }
        if publish.id.as_ref().is_some_and(|id| id.len() > MAX_ID_BYTES) {
            // It is not sent back: it could be as long as a packet.
            return self.refuse_pub_as(publish.qos, None, StatusCode::INVALID_PACKET).await;
        }
        if publish.qos == Qos::AtLeastOnce && publish.id.is_none() {
            return self.refuse_pub(publish, StatusCode::INVALID_PACKET).await;
        }
        if publish.qos == Qos::AtLeastOnce && self.publisher.is_some() && number(publish).is_none() {
            return self.refuse_pub(publish, StatusCode::INVALID_PACKET).await;
        }
        let shared = Arc::clone(&self.shared);
        let attached = self.attached.clone();
        let request = PubRequest {
            connection: self.info,
            client,
            channel: &channel,
            data: publish.data.unwrap_or(Payload::NULL),
            qos: publish.qos,
            retain: publish.retain,
            server: &shared.handle,
            session: attached.as_ref().and_then(|attached| attached.data()).into(),
        };
        // Not by way of `ask`: for a validator that answers at once, no future is made but its own.
        let asked = {
            let mut question = asking(|| shared.validators.publish.validate_pub(&request));
            match poll_at_once(&mut question) {
                Poll::Ready(asked) => asked,
                Poll::Pending => match self.wait_for_answer("pub validator", question).await {
                    Ok(asked) => asked,
                    Err(reason) => return Flow::Break(reason),
                },
            }
        };
        let status = match self.answered("pub validator", asked) {
            Some(PubVerdict::Allow) => StatusCode::OK,
            Some(PubVerdict::Replace(replacement)) => {
                return Box::pin(self.publish_replaced(client, channel, publish, replacement)).await;
            }
            Some(PubVerdict::Refuse(status)) => {
                self.status_of("pub validator", Some(Verdict::Refuse(status)))
            }
            None => StatusCode::SERVER_ERROR,
        };
        if !status.is_ok() {
            return self.refuse_pub(publish, status).await;
        }
        if publish.qos == Qos::AtMostOnce
            && publish.retain == Retain::No
            && channel.kind() == ChannelKind::Plain
            && self.gather_at_once(&channel, request.data)
        {
            return CONTINUE;
        }
        self.publish_allowed(client, channel, publish).await
    }

    /// Publishes other data than the client sent. In a future of its own, which costs those nothing that do not.
    async fn publish_replaced(
        &mut self,
        client: &ClientId,
        channel: ChannelName,
        publish: &Pub<'_>,
        replacement: Replacement,
    ) -> Flow {
        let data = replacement.data();
        if data.as_str().len() > self.shared.limits.packet_bytes {
            self.validator_mistake("pub validator", &"its data is larger than MAX_PACKET_BYTES");
            return self.refuse_pub(publish, StatusCode::SERVER_ERROR).await;
        }
        let replaced = Pub { data: Some(data), ..publish.clone() };
        self.publish_allowed(client, channel, &replaced).await
    }

    async fn publish_allowed(&mut self, client: &ClientId, channel: ChannelName, publish: &Pub<'_>) -> Flow {
        match channel.kind() {
            ChannelKind::PeerToPeer => self.publish_to_peer(client, channel, publish).await,
            _ => self.publish_to_all(client, channel, publish).await,
        }
    }

    async fn publish_to_all(&mut self, client: &ClientId, channel: ChannelName, publish: &Pub<'_>) -> Flow {
        let data = publish.data.unwrap_or(Payload::NULL);
        if publish.qos == Qos::AtLeastOnce {
            return self.submit(client, channel, publish, StatusCode::OK).await;
        }
        if publish.retain == Retain::Yes {
            // Before it is looked who is subscribed: whoever is not yet will find it on its way (2.12).
            let hub = Arc::clone(&self.shared.hub);
            let message = message(client, channel.clone(), publish);
            let outbox = Arc::clone(&self.outbox);
            let publisher = publish.id.as_deref().map(|id| (&outbox, Receipt::of_jmqt(Some(id))));
            // It may only fail while the server stops; nobody has been promised anything.
            if let Err(reason) = self.wait(hub.submit_retained(message, publisher)).await {
                return Flow::Break(reason);
            }
        }
        self.gather(&channel, data).await;
        CONTINUE
    }

    /// A message for one client (2.11, 2.21). It is never retained (2.12).
    async fn publish_to_peer(&mut self, client: &ClientId, channel: ChannelName, publish: &Pub<'_>) -> Flow {
        let to_itself = channel.as_str().strip_prefix('#') == Some(client.as_str());
        let hub = Arc::clone(&self.shared.hub);
        let present = match to_itself {
            true => false,
            false => match self.wait(hub.takes_point_to_point(&channel)).await {
                Ok(present) => present,
                Err(reason) => return Flow::Break(reason),
            },
        };
        match (publish.qos, present) {
            (Qos::AtMostOnce, true) => {
                self.gather(&channel, publish.data.unwrap_or(Payload::NULL)).await;
                CONTINUE
            }
            (Qos::AtLeastOnce, true) => self.submit(client, channel, publish, StatusCode::OK).await,
            // It is stored if that client has a persistent subscription to its channel.
            (Qos::AtLeastOnce, false) if !to_itself => {
                self.submit(client, channel, publish, StatusCode::CLIENT_OFFLINE).await
            }
            _ => self.refuse_pub(publish, StatusCode::CLIENT_OFFLINE).await,
        }
    }

    /// Hands a QoS 1 publish to the store; the `pubAck` comes when it is on disk (2.13).
    async fn submit(
        &mut self,
        client: &ClientId,
        channel: ChannelName,
        publish: &Pub<'_>,
        status: StatusCode,
    ) -> Flow {
        let hub = Arc::clone(&self.shared.hub);
        let outbox = Arc::clone(&self.outbox);
        let message = message(client, channel, publish);
        let receipt = Receipt::of_jmqt(publish.id.as_deref());
        let once = self.publisher.as_ref().and_then(|publisher| {
            let receiver_is_away = status == StatusCode::CLIENT_OFFLINE;
            Some(PublishId { publisher: publisher.clone(), number: number(publish)?, receiver_is_away })
        });
        match self.wait(hub.submit_publish(message, &outbox, receipt, status, once)).await {
            Ok(Ok(())) => CONTINUE,
            Ok(Err(_)) => self.refuse_pub(publish, StatusCode::SERVER_ERROR).await,
            Err(reason) => Flow::Break(reason),
        }
    }

    /// Answers a publish that is not carried out: a QoS 0 one only if it has an id (2.5).
    pub(super) async fn refuse_pub(&mut self, publish: &Pub<'_>, status: StatusCode) -> Flow {
        tracing::debug!(target: "jmqt::session", client = self.name(), remote = %self.info.remote, channel = &*publish.channel, ?status, "refused: pub");
        if publish.qos == Qos::AtMostOnce && publish.id.is_none() {
            return CONTINUE;
        }
        let id = publish.id.as_deref().filter(|id| id.len() <= MAX_ID_BYTES);
        self.refuse_pub_as(publish.qos, id, status).await
    }

    async fn refuse_pub_as(&mut self, qos: Qos, id: Option<&str>, status: StatusCode) -> Flow {
        if qos == Qos::AtLeastOnce
            && self.outbox.has_unsettled()
            && let Some(Member { client, .. }) = self.member.clone()
        {
            // Acknowledgements of QoS 1 publishes keep their order (2.10).
            let hub = Arc::clone(&self.shared.hub);
            let outbox = Arc::clone(&self.outbox);
            let receipt = Receipt::of_jmqt(id);
            match self.wait(hub.submit_answer(&client, &outbox, receipt, status)).await {
                Ok(Ok(())) => return CONTINUE,
                Ok(Err(_)) => {}
                Err(reason) => return Flow::Break(reason),
            }
        }
        let id = id.map(Cow::Borrowed);
        self.answer(&Packet::PubAck(PubAck { status, id, data: None }));
        CONTINUE
    }
}

/// The number of a publish that is to be taken once (2.23).
fn number(publish: &Pub<'_>) -> Option<u64> {
    parse_number(publish.id.as_deref()?)
}

fn message(client: &ClientId, channel: ChannelName, publish: &Pub<'_>) -> Message {
    let retain = match channel.kind() {
        ChannelKind::Plain => publish.retain,
        _ => Retain::No,
    };
    let data = publish.data.unwrap_or(Payload::NULL);
    Message { channel, sender: Some(client.clone()), data: Json::copy_of(data), qos: publish.qos, retain }
}
