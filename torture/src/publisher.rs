//! Publishes numbered QoS 1 messages in order, and publishes unacknowledged messages again with the same id.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jmqt_protocol::{Packet, decode};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::Random;
use crate::journal::{Sent, channel_name, payload};
use crate::session::{HEARTBEAT_EVERY, Phase, Session, Shared};

/// After a refusal everything that was refused is published again, a moment later.
pub(crate) const AFTER_REFUSAL: Duration = Duration::from_millis(100);
/// No acknowledgement may take longer. The store's own limit for a COMMIT is 30 seconds.
pub(crate) const ACK_TIMEOUT: Duration = Duration::from_secs(45);

pub(crate) async fn run(shared: Arc<Shared>, number: u32) {
    let name = shared.journal.publisher(number).name.clone();
    let mut random = Random::new(shared.options.seed ^ (0x5000 + u64::from(number)));
    loop {
        let session = shared.connect(&name, &mut random).await;
        let mut publisher = Publisher::new(&shared, number, session);
        if publisher.serve().await.is_some() {
            if !publisher.session.leave().await {
                shared.journal.problem(format!("{name} said disconn and was not disconnected"));
            }
            return;
        }
    }
}

struct Publisher {
    shared: Arc<Shared>,
    number: u32,
    session: Session,
    /// Published before, to be published again.
    again: VecDeque<u32>,
    /// Published, not answered.
    outstanding: VecDeque<u32>,
    refused: Vec<u32>,
    /// Nothing is published before this.
    hold_until: Option<Instant>,
    /// When the first of `outstanding` became the first.
    waiting_since: Instant,
}

/// The publisher has nothing more to do.
struct Done;

impl Publisher {
    fn new(shared: &Arc<Shared>, number: u32, session: Session) -> Self {
        let unacked: Vec<u32> = {
            let log = shared.journal.publisher(number);
            (0..).zip(&log.messages).filter(|(_, sent)| !sent.is_acked).map(|(n, _)| n).collect()
        };
        Self {
            shared: Arc::clone(shared),
            number,
            session,
            again: unacked.into(),
            outstanding: VecDeque::new(),
            refused: Vec::new(),
            hold_until: None,
            waiting_since: Instant::now(),
        }
    }

    /// Until the connection ends: `None`.
    async fn serve(&mut self) -> Option<Done> {
        let mut pace = interval(self.shared.options.pace);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heartbeat = interval(HEARTBEAT_EVERY);
        loop {
            let is_finishing = *self.shared.phase.borrow() > Phase::Busy;
            let has_more = !self.again.is_empty() || !is_finishing;
            if is_finishing && !has_more && self.outstanding.is_empty() && self.refused.is_empty() {
                return Some(Done);
            }
            tokio::select! {
                biased;
                text = self.session.connection.next() => self.answered(&text?)?,
                _ = heartbeat.tick() => {
                    self.session.connection.send(&Packet::Hb).await.ok()?;
                    self.check_patience()?;
                }
                _ = pace.tick() => self.publish().await?,
            }
        }
    }

    /// Publishes the next message, if there may be one more. `None`: the connection has ended.
    async fn publish(&mut self) -> Option<()> {
        if self.outstanding.len() >= self.shared.options.window {
            return Some(());
        }
        if !self.refused.is_empty() {
            if !self.outstanding.is_empty() || self.hold_until.is_some_and(|until| Instant::now() < until) {
                return Some(());
            }
            self.again = std::mem::take(&mut self.refused).into_iter().chain(self.again.drain(..)).collect();
        }
        let is_busy = self.shared.wants_messages();
        let (n, channel) = {
            let mut log = self.shared.journal.publisher(self.number);
            let next = u32::try_from(log.messages.len()).unwrap();
            let n = match self.again.pop_front() {
                Some(n) => n,
                None if is_busy => {
                    let channel = next % self.shared.options.channels;
                    log.messages.push(Sent { channel, ..Sent::default() });
                    next
                }
                None => return Some(()),
            };
            let sent = &mut log.messages[n as usize];
            sent.attempts += 1;
            (n, sent.channel)
        };
        if self.outstanding.is_empty() {
            self.waiting_since = Instant::now();
        }
        self.outstanding.push_back(n);
        let id = u64::from(n) + 1; // from 1 on (protocol.md 2.23)
        let (channel, data) = (channel_name(channel), payload(self.number, n));
        let text = format!(r#"{{"pub":{{"cn":"{channel}","dt":{data},"q":1,"id":"{id}"}}}}"#);
        self.session.connection.send_text(&text).await.ok()
    }

    fn answered(&mut self, text: &str) -> Option<()> {
        let ack = match decode(text) {
            Ok(Packet::PubAck(ack)) => ack,
            Ok(Packet::HbAck) => return Some(()),
            _ => {
                self.shared.journal.problem(format!("p{} received {text}", self.number));
                return Some(());
            }
        };
        let id = ack.id.as_deref().and_then(|id| id.parse::<u32>().ok());
        let n = id.and_then(|id| id.checked_sub(1));
        let expected = self.outstanding.pop_front();
        self.waiting_since = Instant::now();
        if n.is_none() || n != expected {
            let number = self.number;
            self.shared
                .journal
                .problem(format!("p{number} waits for the pubAck of {expected:?}, got {text}"));
            return None;
        }
        let n = n?;
        let mut log = self.shared.journal.publisher(self.number);
        if ack.status.is_ok() {
            log.messages[n as usize].is_acked = true;
            log.acked += 1;
        } else {
            log.messages[n as usize].refusals += 1;
            self.refused.push(n);
            self.hold_until = Some(Instant::now() + AFTER_REFUSAL);
        }
        Some(())
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
