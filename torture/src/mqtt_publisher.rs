//! Publishes numbered messages in order with QoS 1 or 2 of MQTT, and continues after every reconnect: what has no answer is
//! sent again with the same packet identifier.

use std::collections::VecDeque;
use std::sync::Arc;

use jmqt_mqtt::{Ack, Delivery, Packet, PacketId, Properties, Publish, Qos, ReasonCode};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::Random;
use crate::journal::{Sent, channel_name, payload};
use crate::mqtt::{MqttSession, PING_EVERY};
use crate::mqtt_kind::Kind;
use crate::publisher::{ACK_TIMEOUT, AFTER_REFUSAL};
use crate::session::{Phase, Shared};

/// A message without its last answer.
#[derive(Debug, Clone, Copy)]
struct Outstanding {
    id: PacketId,
    n: u32,
    /// PUBREC has come, and PUBREL is sent.
    is_released: bool,
}

pub(crate) async fn run(shared: Arc<Shared>, number: u32, kind: Kind) {
    let name = shared.journal.publisher(number).name.clone();
    let mut random = Random::new(shared.options.seed ^ (0x6000 + u64::from(number)));
    let mut publisher = Publisher {
        shared: Arc::clone(&shared),
        number,
        kind,
        last_id: 0,
        outstanding: VecDeque::new(),
        again: VecDeque::new(),
        refused: Vec::new(),
        hold_until: Instant::now(),
        waiting_since: Instant::now(),
    };
    let mut has_session = false;
    loop {
        let mut session = shared.connect_mqtt(&name, kind.version, has_session, &mut random).await;
        has_session = true;
        if publisher.serve(&mut session).await.is_some() {
            if !session.leave().await {
                shared.journal.problem(format!("{name} sent DISCONNECT and was not disconnected"));
            }
            return;
        }
    }
}

struct Publisher {
    shared: Arc<Shared>,
    number: u32,
    kind: Kind,
    last_id: u16,
    /// In the order of the first publish; also over connections.
    outstanding: VecDeque<Outstanding>,
    /// Refused, to be published again as new messages.
    again: VecDeque<u32>,
    refused: Vec<u32>,
    /// Nothing is published before this.
    hold_until: Instant,
    /// Since when nothing has been answered.
    waiting_since: Instant,
}

/// The publisher has nothing more to do.
struct Done;

/// An answer of the server.
enum Answer {
    Ack(PacketId, ReasonCode),
    Received(PacketId, ReasonCode),
    Complete(PacketId),
    Pong,
    Other(String),
}

impl Publisher {
    /// Until the connection ends: `None`.
    async fn serve(&mut self, session: &mut MqttSession) -> Option<Done> {
        self.waiting_since = Instant::now();
        for outstanding in self.outstanding.clone() {
            match outstanding.is_released {
                true => self.release(session, outstanding.id).await?,
                false => self.send(session, outstanding, true).await?,
            }
        }
        let mut pace = interval(self.shared.options.pace);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut ping = interval(PING_EVERY);
        loop {
            let is_finishing = *self.shared.phase.borrow() > Phase::Busy;
            let has_more = !self.again.is_empty() || !self.refused.is_empty() || !self.outstanding.is_empty();
            if is_finishing && !has_more {
                return Some(Done);
            }
            tokio::select! {
                biased;
                answer = session.next(answer) => {
                    let answer = answer?;
                    self.waiting_since = Instant::now();
                    self.answered(session, answer).await?;
                }
                _ = ping.tick() => {
                    session.send(&Packet::PingReq).await?;
                    self.check_patience()?;
                }
                _ = pace.tick() => self.publish(session).await?,
            }
        }
    }

    async fn release(&self, session: &mut MqttSession, id: PacketId) -> Option<()> {
        session.send(&Packet::PubRel(Ack::new(id, ReasonCode::SUCCESS))).await
    }

    async fn send(&self, session: &mut MqttSession, outstanding: Outstanding, dup: bool) -> Option<()> {
        let Outstanding { id, n, .. } = outstanding;
        let channel = {
            let sent = &mut self.shared.journal.publisher(self.number).messages[n as usize];
            sent.attempts += 1;
            sent.channel
        };
        let (channel, payload) = (channel_name(channel), payload(self.number, n));
        let packet = Publish {
            delivery: match self.kind.qos {
                Qos::ExactlyOnce => Delivery::ExactlyOnce { id, dup },
                _ => Delivery::AtLeastOnce { id, dup },
            },
            retain: false,
            topic: &channel,
            properties: Properties::EMPTY,
            payload: payload.as_bytes(),
        };
        session.send(&Packet::Publish(packet)).await
    }

    /// Publishes the next message, if there may be one more.
    async fn publish(&mut self, session: &mut MqttSession) -> Option<()> {
        if self.outstanding.len() >= self.shared.options.window {
            return Some(());
        }
        if !self.refused.is_empty() {
            if !self.outstanding.is_empty() || Instant::now() < self.hold_until {
                return Some(());
            }
            self.again = std::mem::take(&mut self.refused).into_iter().chain(self.again.drain(..)).collect();
        }
        let is_busy = self.shared.wants_messages();
        let n = match self.again.pop_front() {
            Some(n) => n,
            None if is_busy => {
                let mut log = self.shared.journal.publisher(self.number);
                let next = u32::try_from(log.messages.len()).unwrap();
                let channel = next % self.shared.options.channels;
                log.messages.push(Sent { channel, ..Sent::default() });
                next
            }
            None => return Some(()),
        };
        let outstanding = Outstanding { id: self.free_id(), n, is_released: false };
        self.outstanding.push_back(outstanding);
        self.send(session, outstanding, false).await
    }

    fn free_id(&mut self) -> PacketId {
        loop {
            self.last_id = self.last_id.wrapping_add(1);
            if let Some(id) = PacketId::new(self.last_id)
                && self.outstanding.iter().all(|outstanding| outstanding.id != id)
            {
                return id;
            }
        }
    }

    /// `None`: the connection has ended, or is not worth going on.
    async fn answered(&mut self, session: &mut MqttSession, answer: Answer) -> Option<()> {
        match answer {
            Answer::Pong => Some(()),
            Answer::Ack(id, reason) if self.kind.qos == Qos::AtLeastOnce => self.settled(id, reason),
            Answer::Received(id, reason) if self.kind.qos == Qos::ExactlyOnce => {
                self.settled(id, reason)?;
                match reason.is_error() {
                    true => Some(()),
                    false => self.release(session, id).await,
                }
            }
            Answer::Complete(id) => {
                let place = self.outstanding.iter().position(|it| it.id == id && it.is_released);
                let Some(place) = place else {
                    return self.wrong(format!("PUBCOMP {} without PUBREL", id.get()));
                };
                self.outstanding.remove(place);
                Some(())
            }
            Answer::Ack(..) => self.wrong("PUBACK for QoS 2".to_owned()),
            Answer::Received(..) => self.wrong("PUBREC for QoS 1".to_owned()),
            Answer::Other(other) => self.wrong(other),
        }
    }

    /// PUBACK or PUBREC: they come in the order of the messages (MQTT-4.6.0-2, MQTT-4.6.0-3).
    fn settled(&mut self, id: PacketId, reason: ReasonCode) -> Option<()> {
        let first = self.outstanding.iter().position(|outstanding| !outstanding.is_released);
        let Some(place) = first.filter(|place| self.outstanding[*place].id == id) else {
            return self.wrong(format!("an answer to {}: {:?}", id.get(), self.outstanding));
        };
        let n = self.outstanding[place].n;
        let mut log = self.shared.journal.publisher(self.number);
        if reason.is_error() {
            log.messages[n as usize].refusals += 1;
            self.outstanding.remove(place);
            self.refused.push(n);
            self.hold_until = Instant::now() + AFTER_REFUSAL;
            return Some(());
        }
        log.messages[n as usize].is_acked = true;
        log.acked += 1;
        match self.kind.qos {
            Qos::ExactlyOnce => self.outstanding[place].is_released = true,
            _ => drop(self.outstanding.remove(place)),
        }
        Some(())
    }

    fn wrong(&self, problem: String) -> Option<()> {
        self.shared.journal.problem(format!("p{} received {problem}", self.number));
        None
    }

    fn check_patience(&self) -> Option<()> {
        if self.outstanding.is_empty() || self.waiting_since.elapsed() < ACK_TIMEOUT {
            return Some(());
        }
        let first = self.outstanding.front();
        self.shared.journal.problem(format!("p{} had no answer to {first:?} in time", self.number));
        None
    }
}

fn answer(packet: Packet<'_>) -> Answer {
    match packet {
        Packet::PubAck(ack) => Answer::Ack(ack.id, ack.reason),
        Packet::PubRec(ack) => Answer::Received(ack.id, ack.reason),
        Packet::PubComp(ack) => Answer::Complete(ack.id),
        Packet::PingResp => Answer::Pong,
        other => Answer::Other(format!("{other:?}")),
    }
}
