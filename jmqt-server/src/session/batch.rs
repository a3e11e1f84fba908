//! The effects of one read that have not been written yet.
//!
//! Consecutive QoS 0 publishes to one channel are joined into one piece, encoded once, and appended once to each
//! subscriber. This keeps the number of writes low, which dominates the cost of a fan-out.

use jmqt_core::{ChannelName, ClientId};

use super::{buffer, cost};
use crate::hub::{DirtyOutboxes, Hub};
use crate::message::Body;
use crate::outbox::Flush;
use crate::wire::PushesBuilder;

/// A run of pushes of this size is delivered. A push is a little longer than its publish, and the publishes of one read
/// shall fit into one run, because each subscriber costs a write for each run.
const RUN_BYTES: usize = 2 * buffer::LARGE_BYTES;

/// The work collected while a read is handled.
#[derive(Default)]
pub(super) struct Batch {
    run: Option<Box<Run>>,
    dirty: DirtyOutboxes,
    /// The work since the clock was last read, in [costs](cost).
    pub(super) spent: u16,
    /// The session's own outbox is full: no packet is handled until the client has read some of it.
    pub(super) full: bool,
    /// The packets that are not counted yet.
    pub(super) packets: u16,
    /// Of these, those that only acknowledge a push.
    pub(super) acknowledgements: u16,
    /// How often the length of a turn has doubled.
    pub(super) turn_doublings: u8,
}

/// Consecutive QoS 0 publishes to one channel.
struct Run {
    channel: ChannelName,
    /// `None` if there are no subscribers, so nothing needs to be encoded.
    pushes: Option<PushesBuilder>,
    published: u64,
}

/// The result of adding a publish to the open run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gathered {
    Yes,
    /// The open run must be delivered first.
    No,
}

impl Run {
    fn is_full(&self) -> bool {
        self.pushes.as_ref().is_some_and(|pushes| pushes.len() >= RUN_BYTES)
    }

    fn takes(&self, body: Body<'_>) -> bool {
        self.pushes.as_ref().is_none_or(|pushes| pushes.takes(body))
    }
}

impl Batch {
    /// The channel of the open run if it has this name.
    pub(super) fn channel_named(&self, name: &str) -> Option<&ChannelName> {
        self.run.as_ref().map(|run| &run.channel).filter(|channel| channel.as_str() == name)
    }

    pub(super) fn is_run_full(&self) -> bool {
        self.run.as_ref().is_some_and(|run| run.is_full())
    }

    /// Adds a QoS 0 publish to the open run, or to a new one.
    pub(super) fn gather(
        &mut self,
        hub: &Hub,
        sender: Option<&ClientId>,
        channel: &ChannelName,
        body: Body<'_>,
    ) -> Gathered {
        let run = match &mut self.run {
            Some(run) => {
                if run.channel != *channel || run.is_full() || !run.takes(body) {
                    return Gathered::No;
                }
                run
            }
            none => {
                let pushes =
                    hub.subscribers.exist_for(channel).then(|| PushesBuilder::new(channel, sender, body));
                none.insert(Box::new(Run { channel: channel.clone(), pushes, published: 0 }))
            }
        };
        run.published += 1;
        if let Some(pushes) = &mut run.pushes {
            pushes.push(body);
        }
        Gathered::Yes
    }

    /// Delivers the open run.
    pub(super) async fn deliver_run(&mut self, hub: &Hub, sender: Option<&ClientId>, flush: Flush) {
        let Some(run) = self.run.take() else { return };
        hub.counters.messages_published.add(run.published);
        let Some(pushes) = run.pushes else { return };
        self.spent = self.spent.saturating_add(cost::RUN);
        hub.subscribers.push(&run.channel, sender, &pushes.finish(), flush, &mut self.dirty).await;
    }

    /// Whether the task has yielded since the last call of this function.
    pub(super) fn take_yielded(&mut self) -> bool {
        self.dirty.take_yielded()
    }

    /// Writes delivered pushes to the sockets of subscribers.
    pub(super) fn flush(&mut self) {
        self.dirty.flush();
    }

    /// Delivers and writes all collected pushes.
    pub(super) async fn end(&mut self, hub: &Hub, sender: Option<&ClientId>) {
        if self.run.is_some() {
            // With nothing else to write, the pushes go straight from here into the sockets.
            let flush = if self.dirty.is_empty() { Flush::Now } else { Flush::Later };
            self.deliver_run(hub, sender, flush).await;
        }
        self.dirty.flush();
    }
}
