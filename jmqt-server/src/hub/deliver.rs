//! The work after a commit: acknowledgements to publishers, answers to waiting tasks, pushes in log order.
//!
//! One task does it, so the messages of a channel are offered in commit order. It runs during the next commit and
//! never waits for a client.

use std::sync::Arc;

use jmqt_core::{ChannelName, ClientId, StatusCode};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::cluster::Reorder;
use super::fan_out::fan_out;
use super::{Arrival, DirtyOutboxes, Hub, Tag};
use crate::bus::LoggedMessages;
use crate::counters::Counters;
use crate::log_limit::log_limited;
use crate::message::{Data, LoggedPush, PushId};
use crate::name_map::NameMap;
use crate::outbox::Source;
use crate::store::{Append, ChannelKey, NotCommitted, Outcome, Seq, Settled, SettledBatch, SettledBatches};
use crate::wire::{LoggedPushes, PublishAnswer};

/// The delivery task.
pub(crate) struct Deliverer {
    hub: Arc<Hub>,
    batches: SettledBatches<Tag>,
    /// Messages that other nodes have appended.
    arrivals: Option<mpsc::Receiver<Arrival>>,
    /// Restores the log order of messages from several nodes.
    reorder: Reorder<Arc<LoggedPushes>>,
    /// The messages to offer next.
    ready: Vec<Arc<LoggedPushes>>,
}

/// A task that waits for an outcome, and the outcome.
type Waiting = (oneshot::Sender<Result<Outcome, NotCommitted>>, Result<Option<Outcome>, NotCommitted>);

/// The messages of one channel in one batch.
struct Group {
    channel: ChannelName,
    messages: Vec<LoggedPush>,
}

impl Deliverer {
    pub(crate) fn new(
        hub: Arc<Hub>,
        batches: SettledBatches<Tag>,
        arrivals: Option<mpsc::Receiver<Arrival>>,
    ) -> Self {
        Self { hub, batches, arrivals, reorder: Reorder::default(), ready: Vec::new() }
    }

    /// Delivers until the committer has ended and nothing is left.
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
                    let Some(SettledBatch { settled, failed }) = batch else { return };
                    let (groups, replies) = self.settle(settled, &mut dirty);
                    if !failed.is_empty() {
                        // Publishes only, which no task waits for.
                        self.settle(self.hub.commits.queue.fail_behind(&failed), &mut dirty);
                    }
                    for group in groups {
                        self.deliver(group, &mut dirty).await;
                    }
                    // Only now: a task that made a subscription persistent would push later messages from the log,
                    // and earlier messages would not find the temporary subscription any more.
                    for (reply, result) in replies {
                        let outcome = result.and_then(|outcome| outcome.ok_or(NotCommitted::Failed));
                        drop(reply.send(outcome)); // the waiting task may have given up
                    }
                }
                arrival = arrival => match arrival {
                    Some(Arrival::Pushes(pushes, _room)) => self.deliver_arrived(pushes, &mut dirty).await,
                    Some(Arrival::Tails(tails)) => {
                        for (channel, key, seq) in tails {
                            note_tail(&self.hub, &channel, key, seq);
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

    /// Acknowledges publishes in order. Collects the pushes, and the answers that follow the pushes.
    fn settle(&self, batch: Vec<Settled<Tag>>, dirty: &mut DirtyOutboxes) -> (Vec<Group>, Vec<Waiting>) {
        let (mut groups, mut replies): (Vec<Group>, Vec<Waiting>) = (Vec::new(), Vec::new());
        let mut by_channel: NameMap<ChannelName, usize> = NameMap::default();
        let mut group = 0; // the group of the previous message, often also that of the next
        for settled in batch {
            let is_answer_alone = settled.operation.is_none();
            if let (Some(operation), Ok(Some(Outcome::TooManyRetained))) =
                (&settled.operation, &settled.result)
                && let Some(append) = operation.append()
            {
                refused_to_retain(&self.hub.counters, append);
            }
            if let (Some(operation), Ok(Some(Outcome::Appended(place)))) =
                (settled.operation, &settled.result)
                && let Some(append) = operation.into_append().filter(|append| append.log)
            {
                if let Some(stored) = &self.hub.stored {
                    stored.offer(&append);
                }
                let id = match *place {
                    Some(place) => PushId::Logged(place),
                    None => self.hub.memory_ids.next(),
                };
                if groups.get(group).is_none_or(|group| group.channel != append.channel) {
                    group = *by_channel.entry(append.channel.clone()).or_insert_with(|| {
                        groups
                            .push(Group { channel: append.channel.clone(), messages: Vec::with_capacity(8) });
                        groups.len() - 1
                    });
                }
                let data = Data::new(append.data, append.attributes);
                groups[group].messages.push(LoggedPush { id, sender: append.sender, data });
            }
            match settled.tag {
                Tag::Publish { outbox, receipt, status } => {
                    let is_unknown = settled.result == Err(NotCommitted::Unknown);
                    let mut answer = self.answer_of(settled.result, status);
                    // A publish that the client repeated while the store refused the first one.
                    if is_answer_alone
                        && answer.status().is_ok()
                        && receipt.exactly_once().is_some_and(|packet| !outbox.is_received(packet))
                    {
                        answer = PublishAnswer::Status(StatusCode::SERVER_ERROR);
                    }
                    if outbox.settle(&receipt, answer, is_unknown) {
                        dirty.add(&outbox);
                    }
                }
                Tag::Record { outbox, packets } => {
                    if outbox.settle_recorded(packets, settled.result.is_ok()) {
                        dirty.add(&outbox);
                    }
                }
                Tag::Release { outbox, packet } => {
                    if outbox.settle_release(packet, settled.result.is_ok()) {
                        dirty.add(&outbox);
                    }
                }
                Tag::Retain { outbox, receipt } => {
                    if matches!(settled.result, Ok(Some(Outcome::TooManyRetained))) {
                        outbox.tell(&receipt, PublishAnswer::QuotaExceeded);
                        dirty.add(&outbox);
                    }
                }
                Tag::Reply(reply) => replies.push((reply, settled.result)),
                Tag::Nobody => {}
            }
        }
        (groups, replies)
    }

    fn answer_of(&self, result: Result<Option<Outcome>, NotCommitted>, status: StatusCode) -> PublishAnswer {
        PublishAnswer::Status(match result {
            Ok(Some(Outcome::Repeated { receiver_is_away })) => {
                self.hub.counters.publishes_repeated.increment();
                if receiver_is_away { StatusCode::CLIENT_OFFLINE } else { StatusCode::OK }
            }
            Ok(Some(Outcome::TooManyRetained)) => return PublishAnswer::QuotaExceeded,
            Ok(_) => status,
            Err(_) => StatusCode::SERVER_ERROR,
        })
    }

    async fn deliver(&mut self, group: Group, dirty: &mut DirtyOutboxes) {
        if self.hub.cluster.is_none() && self.hub.subscribers.of(&group.channel).is_none() {
            return; // there are no other nodes
        }
        let Group { channel, messages } = group;
        let logged = Arc::new(LoggedPushes::new(self.hub.context.ids, channel, messages));
        self.hub.subscribers.tell_others(&logged);
        self.put(logged, dirty).await;
    }

    async fn deliver_arrived(&mut self, arrived: LoggedMessages, dirty: &mut DirtyOutboxes) {
        let LoggedMessages { channel, messages } = arrived;
        if self.hub.subscribers.of(&channel).is_some() {
            let logged = LoggedPushes::new(self.hub.context.ids, channel, messages);
            self.put(Arc::new(logged), dirty).await;
        }
    }

    /// Offers a run to its subscribers after all earlier messages of the log.
    async fn put(&mut self, run: Arc<LoggedPushes>, dirty: &mut DirtyOutboxes) {
        match run.places().filter(|_| self.hub.cluster.is_some()) {
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

    async fn offer(&self, logged: &Arc<LoggedPushes>, dirty: &mut DirtyOutboxes) {
        let Some(members) = self.hub.subscribers.of(&logged.channel) else { return };
        dirty.spend(); // the channel itself takes about as long as a session
        let mut somebody_is_behind = false;
        let mut lacking_readers = Vec::new();
        fan_out(Some(Arc::clone(&members)), dirty, |subscription| {
            let offered = subscription.outbox.offer(subscription, logged, Source::Live);
            somebody_is_behind |= offered.behind;
            if offered.lacks_reader {
                lacking_readers.push(Arc::clone(subscription));
            }
            offered.flush
        })
        .await;
        if let Some(channel) = self.hub.subscribers.channels.get(logged.channel.as_str()) {
            self.hub.subscribers.channels.keep_tail(&channel, somebody_is_behind.then(|| Arc::clone(logged)));
        }
        if let Some(last) = logged.last_logged() {
            lacking_readers.iter().for_each(|of| self.hub.readers.begin(of, &logged.channel, last));
        }
        if somebody_is_behind {
            for subscription in members.iter() {
                self.hub.resumes.begin(&subscription.outbox);
            }
        }
    }
}

fn refused_to_retain(counters: &Counters, append: &Append) {
    counters.retained_refused.increment();
    let client = append.sender.as_ref().map_or("", ClientId::as_str);
    log_limited!(
        warn, target: "jmqt::store", client, channel = %append.channel, bytes = append.data.len(),
        "message not retained: MAX_RETAINED_MESSAGES, MAX_RETAINED_BYTES or MAX_RETAINED_PER_CLIENT is reached"
    );
}

/// Records that the log of a channel may have messages that this node has not received.
fn note_tail(hub: &Arc<Hub>, channel: &str, key: i64, seq: u64) {
    let Ok(channel) = ChannelName::exact(channel) else { return };
    let Some(members) = hub.subscribers.of(&channel) else { return };
    for subscription in members.iter() {
        let outbox = &subscription.outbox;
        if subscription.lacks_reader() {
            hub.readers.begin(subscription, &channel, (ChannelKey(key), Seq(seq)));
        } else if outbox.note_seen(subscription, ChannelKey(key), Seq(seq)) {
            hub.resumes.begin(outbox);
        }
    }
}
