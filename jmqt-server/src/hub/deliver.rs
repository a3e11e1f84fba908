//! After a commit: acknowledgements to publishers, answers to those who wait, pushes in log order.
//!
//! One task, so that the messages of a channel are offered in the order they were committed in. It
//! runs beside the next commit and never waits for a client.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use jmqt_protocol::{ChannelKind, ChannelName, Packet, PubAck, PushFrame, StatusCode};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::cluster::Reorder;
use super::publish::{payload, peer};
use super::{Arrival, DirtyOutboxes, Hub, Pushes, PushesBuilder, Tag};
use crate::bus::{Place, Qos1Push, Qos1Pushes};
use crate::name_map::NameMap;
use crate::outbox::{IdText, LoggedPush, LoggedPushes, PushId, Source};
use crate::store::{
    Append, ChannelKey, LogPlace, NotCommitted, Operation, Outcome, Seq, Settled, SettledBatches, Stamp,
};
use crate::transport::Framing;

/// After so many sessions a fan-out lets other tasks run.
const SESSIONS_PER_TURN: usize = 256;

/// The task that delivers.
pub(crate) struct Deliverer {
    hub: Arc<Hub>,
    batches: SettledBatches<Tag>,
    /// What other nodes have appended.
    arrivals: Option<mpsc::Receiver<Arrival>>,
    /// Puts what several nodes have appended in order.
    reorder: Reorder<Run>,
    /// What is to be offered next.
    ready: Vec<Run>,
    /// How many sessions have been offered something since others had a turn.
    offered: usize,
}

/// Who waits for what came of an operation.
type Waiting = (oneshot::Sender<Result<Outcome, NotCommitted>>, Result<Option<Outcome>, NotCommitted>);

/// The messages of one channel in one batch.
struct Group {
    channel: ChannelName,
    messages: Vec<(Append, PushId)>,
}

/// The same, encoded.
struct Run {
    channel: ChannelName,
    logged: Arc<LoggedPushes>,
}

impl Deliverer {
    pub(crate) fn new(
        hub: Arc<Hub>,
        batches: SettledBatches<Tag>,
        arrivals: Option<mpsc::Receiver<Arrival>>,
    ) -> Self {
        Self { hub, batches, arrivals, reorder: Reorder::default(), ready: Vec::new(), offered: 0 }
    }

    /// Delivers until the committer has gone and nothing is left.
    pub(crate) async fn run(mut self) {
        let mut dirty = DirtyOutboxes::default();
        loop {
            let deadline = self.reorder.deadline();
            let gap = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            let arrival = async {
                match &mut self.arrivals {
                    Some(arrivals) => arrivals.recv().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                batch = self.batches.recv() => {
                    let Some(batch) = batch else { return };
                    let (groups, replies) = self.settle(batch, &mut dirty);
                    for group in groups {
                        self.deliver(group, &mut dirty).await;
                    }
                    // Only now: whoever made a subscription persistent would push from the log what comes behind it,
                    // and what came before would find no temporary one any more.
                    for (reply, result) in replies {
                        let outcome = result.and_then(|outcome| outcome.ok_or(NotCommitted::Failed));
                        drop(reply.send(outcome)); // whoever waited may have given up
                    }
                }
                arrival = arrival => match arrival {
                    Some(Arrival::Pushes(pushes, _room)) => self.deliver_arrived(pushes, &mut dirty).await,
                    Some(Arrival::Tails(tails)) => {
                        for (channel, key, seq) in tails {
                            self.hub.note_tail(&channel, key, seq);
                        }
                    }
                    None => self.arrivals = None,
                },
                () = gap => {
                    self.reorder.expired(Instant::now(), &mut self.ready);
                    self.offer_ready(&mut dirty).await;
                }
            }
            dirty.flush();
        }
    }

    /// Acknowledges publishes, in order, and gathers what is to be pushed, and those who are answered afterwards.
    fn settle(&self, batch: Vec<Settled<Tag>>, dirty: &mut DirtyOutboxes) -> (Vec<Group>, Vec<Waiting>) {
        let (mut groups, mut replies): (Vec<Group>, Vec<Waiting>) = (Vec::new(), Vec::new());
        let mut by_channel: NameMap<ChannelName, usize> = NameMap::default();
        let mut group = 0; // that of the message before: often it is the next one's too
        for settled in batch {
            if let (Some(Operation::Append(append)), Ok(Some(Outcome::TooManyRetained))) =
                (&settled.operation, &settled.result)
            {
                self.hub.refused_to_retain(append);
            }
            if let (Some(Operation::Append(append)), Ok(Some(Outcome::Appended(place)))) =
                (settled.operation, &settled.result)
                && append.log
            {
                if let Some(stored) = &self.hub.stored {
                    stored.offer(&append);
                }
                let id = match *place {
                    Some(place) => PushId::Logged(place),
                    None => {
                        self.hub.context.ids.in_memory(self.hub.memory_ids.fetch_add(1, Ordering::Relaxed))
                    }
                };
                if groups.get(group).is_none_or(|group| group.channel != append.channel) {
                    group = *by_channel.entry(append.channel.clone()).or_insert_with(|| {
                        groups.push(Group { channel: append.channel.clone(), messages: Vec::new() });
                        groups.len() - 1
                    });
                }
                groups[group].messages.push((append, id));
            }
            match settled.tag {
                Tag::Publish { outbox, id, status } => {
                    let status = self.status_of(settled.result, status);
                    let ack = PubAck { status, id: id.as_deref().map(Into::into), data: None };
                    if outbox.settle(&Packet::PubAck(ack)) {
                        dirty.add(&outbox);
                    }
                }
                Tag::Retain { outbox, id } => {
                    if matches!(settled.result, Ok(Some(Outcome::TooManyRetained))) {
                        let (status, id) = (StatusCode::NOT_ALLOWED, Some((&*id).into()));
                        outbox.answer(&Packet::PubAck(PubAck { status, id, data: None }));
                        dirty.add(&outbox);
                    }
                }
                Tag::Reply(reply) => replies.push((reply, settled.result)),
                Tag::Nobody => {}
            }
        }
        (groups, replies)
    }

    fn status_of(&self, result: Result<Option<Outcome>, NotCommitted>, status: StatusCode) -> StatusCode {
        match result {
            Ok(Some(Outcome::Repeated { receiver_is_away })) => {
                self.hub.counters.publishes_repeated.increment();
                if receiver_is_away { StatusCode::CLIENT_OFFLINE } else { StatusCode::OK }
            }
            Ok(Some(Outcome::TooManyRetained)) => StatusCode::NOT_ALLOWED,
            Ok(_) => status,
            Err(_) => StatusCode::SERVER_ERROR,
        }
    }

    async fn deliver(&mut self, group: Group, dirty: &mut DirtyOutboxes) {
        if self.hub.cluster.is_none() && self.hub.members(&group.channel).is_none() {
            return; // nobody is there to be sent anything
        }
        let logged = Arc::new(self.encode(&group));
        self.tell_others(&group.channel, &logged);
        self.put(Run { channel: group.channel, logged }, dirty).await;
    }

    /// Hands what this node has appended over to the others.
    fn tell_others(&self, channel: &ChannelName, logged: &LoggedPushes) {
        let Some(cluster) = &self.hub.cluster else { return };
        if let Some((key, seq)) = logged.last_logged() {
            cluster.appended(channel, key.0, seq.0);
        }
        let pushes = to_bus(channel, logged);
        if channel.kind() != ChannelKind::PeerToPeer {
            self.hub.bus.publish_qos1(&pushes);
        } else if self.hub.members(channel).is_none()
            && let Some(node) = cluster.node_of(peer(channel))
        {
            self.hub.bus.send_qos1(node, &pushes);
        }
    }

    async fn deliver_arrived(&mut self, pushes: Qos1Pushes, dirty: &mut DirtyOutboxes) {
        let (channel, logged) = from_bus(pushes);
        if self.hub.members(&channel).is_some() {
            self.put(Run { channel, logged: Arc::new(logged) }, dirty).await;
        }
    }

    /// Offers a run to its subscribers, once what is before it in the log has come.
    async fn put(&mut self, run: Run, dirty: &mut DirtyOutboxes) {
        match run.logged.places().filter(|_| self.hub.cluster.is_some()) {
            None => self.ready.push(run),
            Some((key, first, last)) => {
                let now = Instant::now();
                self.reorder.put(key, (first, last), run, now, &mut self.ready);
            }
        }
        self.offer_ready(dirty).await;
    }

    async fn offer_ready(&mut self, dirty: &mut DirtyOutboxes) {
        for run in std::mem::take(&mut self.ready) {
            self.offer(&run, dirty).await;
        }
    }

    async fn offer(&mut self, run: &Run, dirty: &mut DirtyOutboxes) {
        let Some(members) = self.hub.members(&run.channel) else { return };
        self.offered += 1; // the channel itself takes about as long as a session
        let logged = &run.logged;
        let mut somebody_is_behind = false;
        for turn in members.chunks(SESSIONS_PER_TURN) {
            for subscription in turn {
                let offered = subscription.outbox.offer(subscription, logged, Source::Live);
                if offered.flush {
                    dirty.add(&subscription.outbox);
                }
                somebody_is_behind |= offered.behind;
            }
            self.offered += turn.len();
            if self.offered >= SESSIONS_PER_TURN {
                self.offered = 0;
                dirty.flush();
                tokio::task::yield_now().await;
            }
        }
        if let Some(channel) = self.hub.channels.get(run.channel.as_str()) {
            self.hub.channels.keep_tail(&channel, somebody_is_behind.then(|| Arc::clone(logged)));
        }
        if somebody_is_behind {
            for subscription in members.iter() {
                self.hub.resume(&subscription.outbox);
            }
        }
    }

    fn encode(&self, group: &Group) -> LoggedPushes {
        let mut pushes = PushesBuilder::default();
        let mut messages = Vec::with_capacity(group.messages.len());
        let mut id_text = IdText::new(self.hub.context.ids);
        let mut frame: Option<(&Append, PushFrame)> = None;
        for (append, id) in &group.messages {
            if frame.as_ref().is_none_or(|(last, _)| last.sender != append.sender) {
                let sender = append.sender.as_ref().map_or("", |sender| sender.as_str());
                frame = Some((append, PushFrame::new(group.channel.as_str(), sender)));
            }
            if let Some((_, frame)) = &frame {
                pushes.push(frame, payload(&append.data), Some(id_text.of(*id)));
            }
            messages.push(LoggedPush { id: *id, sender: append.sender.clone() });
        }
        LoggedPushes { pushes: pushes.finish(), messages }
    }
}

/// Pushes in the form that other nodes get them.
fn to_bus(channel: &ChannelName, logged: &LoggedPushes) -> Qos1Pushes {
    let framed = logged.pushes.framed(Framing::Nul);
    let messages = logged.messages.iter().zip(&framed.ends).map(|(message, end)| {
        let place = match message.id {
            PushId::Logged(place) => Place::Log { key: place.key.0, seq: place.seq.0, stamp: place.stamp.0 },
            PushId::Memory { process, number } => Place::Memory { process, number },
        };
        Qos1Push { place, sender: message.sender.clone(), end: *end }
    });
    Qos1Pushes { channel: channel.clone(), messages: messages.collect(), pushes: framed.bytes.clone() }
}

fn from_bus(pushes: Qos1Pushes) -> (ChannelName, LoggedPushes) {
    let ends = pushes.messages.iter().map(|message| message.end).collect();
    let messages = pushes.messages.into_iter().map(|message| {
        let id = match message.place {
            Place::Log { key, seq, stamp } => {
                PushId::Logged(LogPlace { key: ChannelKey(key), seq: Seq(seq), stamp: Stamp(stamp) })
            }
            Place::Memory { process, number } => PushId::Memory { process, number },
        };
        LoggedPush { id, sender: message.sender }
    });
    let messages = messages.collect();
    (pushes.channel, LoggedPushes { pushes: Pushes::from_parts(pushes.pushes, ends), messages })
}
