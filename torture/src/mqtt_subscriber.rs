//! An MQTT client with a persistent session: receives the messages of its subscriptions, acknowledges them a moment later, and
//! does the receiver's part of QoS 2 over all its connections.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use jmqt_mqtt::{
    Ack, Delivery, FilterBuf, Packet, PacketId, Properties, Publish, ReasonCode, Subscribe, SubscribeOptions,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, interval, sleep_until};

use crate::Random;
use crate::journal::{channel_name, message_of};
use crate::mqtt::{MqttSession, PING_EVERY};
use crate::mqtt_kind::Kind;
use crate::session::{Shared, leaving};
use crate::subscriber::lifetime;

/// Acknowledgements wait for this, so that there is always something to lose.
const ACK_EVERY: Duration = Duration::from_millis(15);
/// So many do not wait any longer.
const MOST_WAITING: usize = 8;

/// The packet identifier of SUBSCRIBE.
const SUBSCRIBE_ID: u16 = 1;

struct Subscriber {
    shared: Arc<Shared>,
    /// Of its log, which the members of a group share.
    number: u32,
    /// The name of the group, if it is a member of one.
    group: Option<String>,
    kind: Kind,
    /// QoS 2 messages that were received and not released.
    received: HashSet<PacketId>,
    is_subscribed: bool,
    ready: Option<mpsc::Sender<()>>,
    /// Of this connection: QoS 1 messages that are not acknowledged.
    unacknowledged: HashSet<PacketId>,
    /// Of this connection: what is to be sent.
    answers: Vec<Packet<'static>>,
}

/// It is time to leave.
struct Done;

pub(crate) async fn run(shared: Arc<Shared>, number: u32, member: u32, kind: Kind, ready: mpsc::Sender<()>) {
    let (mut name, group) = {
        let log = shared.journal.subscriber(number);
        (log.name.clone(), log.is_group.then(|| log.name.clone()))
    };
    if let Some(group) = &group {
        name = format!("{group}m{member}");
    }
    let mut random =
        Random::new(shared.options.seed ^ (0xB000 + u64::from(number) + 0x100 * u64::from(member)));
    let mut has_session = false;
    let mut subscriber = Subscriber {
        shared: Arc::clone(&shared),
        number,
        group,
        kind,
        received: HashSet::new(),
        is_subscribed: false,
        ready: Some(ready),
        unacknowledged: HashSet::new(),
        answers: Vec::new(),
    };
    let mut comes_back = true;
    loop {
        let mut session = shared.connect_mqtt(&name, kind.version, has_session, &mut random).await;
        has_session = true;
        subscriber.unacknowledged.clear();
        subscriber.answers.clear();
        shared.journal.connected_again(number);
        if subscriber.serve(&mut session, &mut random).await.is_none() {
            continue;
        }
        if comes_back {
            // Once more: what is delivered twice would come now.
            comes_back = false;
            continue;
        }
        if !session.leave().await {
            shared.journal.problem(format!("{name} sent DISCONNECT and was not disconnected"));
        }
        return;
    }
}

impl Subscriber {
    /// Until the connection ends, or is dropped for the sake of churn: `None`.
    async fn serve(&mut self, session: &mut MqttSession, random: &mut Random) -> Option<Done> {
        if !self.is_subscribed {
            self.subscribe(session).await?;
        }
        let mut phase = self.shared.phase.clone();
        let (mut ping, mut flush) = (interval(PING_EVERY), interval(ACK_EVERY));
        let drop_at = sleep_until(Instant::now() + lifetime(&self.shared.options, random));
        tokio::pin!(drop_at);
        let mut pongs_to_come = None;
        loop {
            tokio::select! {
                biased;
                () = leaving(&mut phase), if pongs_to_come.is_none() => {
                    // What was sent before this is answered comes first.
                    self.flush(session).await?;
                    session.send(&Packet::PingReq).await?;
                    pongs_to_come = Some(());
                }
                () = &mut drop_at, if pongs_to_come.is_none() => return None,
                taken = session.next(|packet| self.take(packet)) => {
                    let is_pong = taken??;
                    if self.answers.len() >= MOST_WAITING {
                        self.flush(session).await?;
                    }
                    if is_pong && pongs_to_come.is_some() {
                        self.flush(session).await?;
                        return Some(Done);
                    }
                }
                _ = flush.tick() => self.flush(session).await?,
                _ = ping.tick() => session.send(&Packet::PingReq).await?,
            }
        }
    }

    async fn subscribe(&self, session: &mut MqttSession) -> Option<()> {
        let mut filters = FilterBuf::new();
        let options = SubscribeOptions::of_qos(self.kind.qos);
        match (&self.group, self.kind.has_filter) {
            (Some(group), _) => filters.push(&format!("$share/{group}/c/+"), options).unwrap(),
            (None, true) => filters.push("c/+", options).unwrap(),
            (None, false) => (0..self.shared.options.channels)
                .for_each(|channel| filters.push(&channel_name(channel), options).unwrap()),
        }
        let packet = Subscribe {
            id: PacketId::new(SUBSCRIBE_ID).unwrap(),
            properties: Properties::EMPTY,
            filters: filters.as_filters(),
        };
        session.send(&Packet::Subscribe(packet)).await
    }

    async fn flush(&mut self, session: &mut MqttSession) -> Option<()> {
        for packet in std::mem::take(&mut self.answers) {
            session.send(&packet).await?;
        }
        self.unacknowledged.clear();
        Some(())
    }

    /// Takes a packet: whether it is a PINGRESP. `None`: it is wrong, or the connection is not worth going on.
    fn take(&mut self, packet: Packet<'_>) -> Option<bool> {
        match packet {
            Packet::PingResp => return Some(true),
            Packet::SubAck(codes) => {
                if codes.iter().any(|code| code.code() != self.kind.qos.bits()) {
                    return None; // the server is not able to at the moment
                }
                self.is_subscribed = true;
                if let Some(ready) = self.ready.take() {
                    let _ = ready.try_send(()); // the receiver may have given up
                }
            }
            Packet::PubRel(ack) => {
                self.received.remove(&ack.id);
                self.answers.push(Packet::PubComp(Ack::new(ack.id, ReasonCode::SUCCESS)));
            }
            Packet::Publish(publish) => self.message(&publish),
            other => {
                self.wrong(&format!("{other:?}"));
                return None;
            }
        }
        Some(false)
    }

    fn wrong(&self, problem: &str) {
        self.shared.journal.problem(format!("s{} received {problem}", self.number));
    }

    fn message(&mut self, publish: &Publish<'_>) {
        let Some(message) = message_of(publish.payload) else {
            return self.wrong(&format!("{publish:?}"));
        };
        let (publisher, n) = message;
        let (channel, published_with) = {
            let log = self.shared.journal.publisher(publisher);
            (log.messages.get(n as usize).map(|sent| channel_name(sent.channel)), log.qos())
        };
        if channel.as_deref() != Some(publish.topic) || publish.retain {
            return self.wrong(&format!("{publish:?}, which nobody published"));
        }
        if publish.delivery.qos() != published_with.min(self.kind.qos) {
            self.wrong(&format!("{publish:?}, published with {published_with:?}"));
        }
        match publish.delivery {
            Delivery::AtLeastOnce { id, .. } => {
                if !self.unacknowledged.insert(id) {
                    self.wrong(&format!("{publish:?} with an identifier in use"));
                }
                self.shared.journal.received_by_mqtt(self.number, message);
                self.answers.push(Packet::PubAck(Ack::new(id, ReasonCode::SUCCESS)));
            }
            Delivery::ExactlyOnce { id, dup } => {
                if self.received.insert(id) {
                    self.shared.journal.received_by_mqtt(self.number, message);
                } else if !dup {
                    self.wrong(&format!("{publish:?} with an identifier that is not released"));
                }
                self.answers.push(Packet::PubRec(Ack::new(id, ReasonCode::SUCCESS)));
            }
            Delivery::AtMostOnce => self.wrong(&format!("{publish:?} with QoS 0")),
        }
    }
}
