//! After a commit: acknowledgements to publishers, answers to those who wait, pushes in log order.
//!
//! One task, so that the messages of a channel are offered in the order they were committed in. It
//! runs beside the next commit and never waits for a client.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use jmqt_protocol::{ChannelName, Packet, PubAck, PushFrame, StatusCode};

use super::publish::payload;
use super::{DirtyOutboxes, Hub, PushesBuilder, Tag};
use crate::session::{LoggedPush, LoggedPushes, PushId, Source};
use crate::store::{Append, NotCommitted, Operation, Outcome, Settled, SettledBatches};

/// After so many sessions a fan-out lets other tasks run.
const SESSIONS_PER_TURN: usize = 256;

/// The task that delivers.
pub(crate) struct Deliverer {
    hub: Arc<Hub>,
    batches: SettledBatches<Tag>,
}

/// The messages of one channel in one batch.
struct Group {
    channel: ChannelName,
    messages: Vec<(Append, PushId)>,
}

impl Deliverer {
    pub(crate) fn new(hub: Arc<Hub>, batches: SettledBatches<Tag>) -> Self {
        Self { hub, batches }
    }

    /// Delivers until the committer has gone and nothing is left.
    pub(crate) async fn run(mut self) {
        let mut dirty = DirtyOutboxes::default();
        while let Some(batch) = self.batches.recv().await {
            for group in self.settle(batch, &mut dirty) {
                self.deliver(group, &mut dirty).await;
            }
            dirty.flush();
        }
    }

    /// Answers everybody who waited, in order, and gathers what is to be pushed.
    fn settle(&self, batch: Vec<Settled<Tag>>, dirty: &mut DirtyOutboxes) -> Vec<Group> {
        let mut groups: Vec<Group> = Vec::new();
        let mut by_channel: HashMap<ChannelName, usize, foldhash::fast::RandomState> = HashMap::default();
        for settled in batch {
            if let (Some(Operation::Append(append)), Ok(Some(Outcome::Appended(place)))) =
                (settled.operation, &settled.result)
                && append.log
            {
                let id = match *place {
                    Some((key, seq)) => PushId::Logged(key, seq),
                    None => PushId::Memory(self.hub.memory_ids.fetch_add(1, Ordering::Relaxed)),
                };
                let group = *by_channel.entry(append.channel.clone()).or_insert_with(|| {
                    groups.push(Group { channel: append.channel.clone(), messages: Vec::new() });
                    groups.len() - 1
                });
                groups[group].messages.push((append, id));
            }
            self.answer(settled.tag, settled.result, dirty);
        }
        groups
    }

    fn answer(&self, tag: Tag, result: Result<Option<Outcome>, NotCommitted>, dirty: &mut DirtyOutboxes) {
        match tag {
            Tag::Publish { outbox, id, status } => {
                let status = if result.is_ok() { status } else { StatusCode::SERVER_ERROR };
                let ack = PubAck { status, id: id.as_deref().map(Into::into), data: None };
                if outbox.settle(&Packet::PubAck(ack)) {
                    dirty.add(&outbox);
                }
            }
            Tag::Reply(reply) => {
                let outcome = result.and_then(|outcome| outcome.ok_or(NotCommitted));
                // Whoever waited may have given up.
                drop(reply.send(outcome));
            }
            Tag::Nobody => {}
        }
    }

    async fn deliver(&self, group: Group, dirty: &mut DirtyOutboxes) {
        let Some(members) = self.hub.members(&group.channel) else { return };
        let logged = Arc::new(self.encode(&group));
        let mut somebody_is_behind = false;
        for turn in members.chunks(SESSIONS_PER_TURN) {
            for subscription in turn {
                let offered = subscription.outbox.offer(subscription, &logged, Source::Live);
                if offered.flush {
                    dirty.add(&subscription.outbox);
                }
                somebody_is_behind |= offered.behind;
            }
            if turn.len() == SESSIONS_PER_TURN {
                dirty.flush();
                tokio::task::yield_now().await;
            }
        }
        if let Some(channel) = self.hub.channels.get(group.channel.as_str()) {
            self.hub.channels.keep_tail(&channel, somebody_is_behind.then_some(logged));
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
        let mut id_text = String::new();
        let mut frame: Option<(&Append, PushFrame)> = None;
        for (append, id) in &group.messages {
            self.hub.context.ids.write(*id, &mut id_text);
            if frame.as_ref().is_none_or(|(last, _)| last.sender != append.sender) {
                let sender = append.sender.as_ref().map_or("", |sender| sender.as_str());
                frame = Some((append, PushFrame::new(group.channel.as_str(), sender)));
            }
            if let Some((_, frame)) = &frame {
                pushes.push(frame, payload(&append.data), Some(&id_text));
            }
            messages.push(LoggedPush { id: *id, sender: append.sender.clone() });
        }
        LoggedPushes { pushes: pushes.finish(), messages }
    }
}
