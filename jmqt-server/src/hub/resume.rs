//! Sending a client what is in the log for it: after a reconnect, and whenever its window was full
//! (§9.a, protocol.md 2.3, 2.14).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use jmqt_protocol::{ChannelName, PushFrame};

use super::publish::{is_intact, payload};
use super::{Hub, PushesBuilder};
use crate::session::{IdText, LoggedPush, LoggedPushes, Missing, Outbox, PushId, Source};
use crate::store::{ChannelKey, LogPlace, LoggedMessage, Seq, StoreError};

/// One read of the log brings no more payload than this (and one message at least).
const READ_BYTES: usize = 1 << 20;
/// A session that ends reads so many logs for acknowledgements of messages that were not repeated.
const EARLY_READS: usize = 16;
/// After the store failed, a client that is behind waits so long for the next try.
const RETRY_AFTER: Duration = Duration::from_millis(250);

/// Tells apart a resume that goes on from one that goes round in circles.
#[derive(Default)]
struct Progress {
    /// Where each channel stood at its last turn.
    places: HashMap<ChannelKey, u64>,
    /// How many turns in a row have found a channel where it stood before.
    in_vain: usize,
}

impl Progress {
    /// A channel has its turn. `true`: no channel has come any further since its last one.
    fn is_stuck(&mut self, key: ChannelKey, after: u64) -> bool {
        let stands_still = self.places.insert(key, after) == Some(after);
        self.in_vain = if stands_still { self.in_vain + 1 } else { 0 };
        stands_still && self.in_vain >= self.places.len()
    }
}

impl Hub {
    /// Sends what there is room for: from memory at once, from the store in a task of its own. A session
    /// that has not gone live is left alone: nothing comes before its `connAck`, and it resumes then.
    pub(crate) fn resume(self: &Arc<Self>, outbox: &Arc<Outbox>) {
        if !outbox.wants_resume() || outbox.is_connecting() || !outbox.begin_resume() {
            return;
        }
        let mut progress = Progress::default();
        while let Some(missing) = outbox.next_missing() {
            if progress.is_stuck(missing.key, missing.after) {
                outbox.end_resume();
                break;
            }
            if self.offer_from_memory(&missing) {
                continue;
            }
            let (hub, outbox) = (Arc::clone(self), Arc::clone(outbox));
            self.resumes.spawn(async move {
                hub.offer_from_store(&missing).await;
                hub.resume_begun(&outbox).await;
                outbox.flush();
            });
            break;
        }
        outbox.flush();
    }

    /// The first window after `conn`, by the session's own task, because the `connAck` comes before it
    /// and the retained messages after it (2.3).
    pub(crate) async fn resume_first(&self, outbox: &Arc<Outbox>) {
        if outbox.wants_resume() && outbox.begin_resume() {
            self.resume_begun(outbox).await;
        }
    }

    async fn resume_begun(&self, outbox: &Arc<Outbox>) {
        let mut progress = Progress::default();
        while let Some(missing) = outbox.next_missing() {
            if progress.is_stuck(missing.key, missing.after) {
                outbox.end_resume();
                return;
            }
            if !self.offer_from_memory(&missing) {
                self.offer_from_store(&missing).await;
            }
        }
    }

    fn offer_from_memory(&self, missing: &Missing) -> bool {
        let channel = self.channels.get(missing.subscription.channel.as_str());
        let Some(run) = channel.and_then(|channel| channel.tail_with(missing.key, Seq(missing.after + 1)))
        else {
            return false;
        };
        missing.subscription.outbox.offer(&missing.subscription, &run, Source::Memory);
        true
    }

    async fn offer_from_store(&self, missing: &Missing) {
        let read = self.store.read_log(missing.key, Seq(missing.after), missing.count, READ_BYTES).await;
        match read {
            Ok(messages) => self.offer_read(missing, &messages),
            Err(StoreError::Closed) => {}
            Err(error) => {
                self.store_failed(&error);
                tokio::time::sleep(RETRY_AFTER).await;
            }
        }
    }

    /// Of a session that ends: looks whether acknowledgements that came before their messages were repeated name
    /// what the log has. A message whose acknowledgement is not looked at comes once more.
    pub(super) async fn confirm_early_acks(&self, outbox: &Outbox) {
        for (key, mut early) in outbox.take_early_acks().into_iter().take(EARLY_READS) {
            early.sort_unstable();
            let (first, last) = (early[0].0, early[early.len() - 1].0);
            let count = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
            match self.store.read_log(key, Seq(first - 1), count, READ_BYTES).await {
                Ok(read) => {
                    let is_named = |it: &&LoggedMessage| early.binary_search(&(it.seq.0, it.stamp)).is_ok();
                    let named: Vec<_> = read.iter().filter(is_named).map(|it| it.seq.0).collect();
                    outbox.confirm_early_acks(key, &named);
                }
                Err(error) => {
                    self.store_failed(&error);
                    return;
                }
            }
        }
    }

    fn offer_read(&self, missing: &Missing, messages: &[LoggedMessage]) {
        let bytes: usize = messages.iter().map(|message| message.data.len()).sum();
        let cut = messages.len() == missing.count || bytes >= READ_BYTES;
        let through = match messages.last() {
            Some(last) if cut => last.seq.0,
            _ => missing.seen,
        };
        let logged = self.encode_read(&missing.subscription.channel, missing.key, messages);
        missing.subscription.outbox.offer(
            &missing.subscription,
            &logged,
            Source::Log { key: missing.key, through },
        );
    }

    fn encode_read(
        &self,
        channel: &ChannelName,
        key: ChannelKey,
        messages: &[LoggedMessage],
    ) -> LoggedPushes {
        let mut pushes = PushesBuilder::default();
        let mut list = Vec::with_capacity(messages.len());
        let mut id_text = IdText::new(self.context.ids);
        for message in messages.iter().filter(|message| is_intact(channel, &message.data)) {
            let id = PushId::Logged(LogPlace { key, seq: message.seq, stamp: message.stamp });
            let sender = message.sender.as_ref().map_or("", |sender| sender.as_str());
            let frame = PushFrame::new(channel.as_str(), sender);
            pushes.push(&frame, payload(&message.data), Some(id_text.of(id)));
            list.push(LoggedPush { id, sender: message.sender.clone() });
        }
        LoggedPushes { pushes: pushes.finish(), messages: list }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: ChannelKey = ChannelKey(1);
    const B: ChannelKey = ChannelKey(2);

    #[test]
    fn channels_that_take_turns_and_stand_still_are_stuck() {
        let mut progress = Progress::default();
        for (key, after, is_stuck) in [(A, 5, false), (B, 7, false), (A, 5, false), (B, 7, true)] {
            assert_eq!(progress.is_stuck(key, after), is_stuck);
        }
    }

    #[test]
    fn as_long_as_one_channel_gets_on_nothing_is_stuck() {
        let mut progress = Progress::default();
        for after in 0..10 {
            assert!(!progress.is_stuck(A, 5) && !progress.is_stuck(B, after));
        }
        assert!(!progress.is_stuck(A, 5) && progress.is_stuck(A, 5), "only A is left");
    }
}
