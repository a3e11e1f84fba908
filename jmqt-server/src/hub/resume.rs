//! Sends a client the messages in the log: after a reconnect, and after its window was full (§9.a, protocol.md 2.3,
//! 2.14).

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::error::HubError;
use super::exchanges;
use super::log_reads::{READ_BYTES, intact};
use super::parked::{LONGEST_FOR_DATABASE, LONGEST_FOR_LOG, Parked};
use super::subscribers::Subscribers;
use crate::log_limit::log_limited;
use crate::message::{LoggedPush, PushId};
use crate::outbox::{Missing, Outbox, OutboxContext, Source, Subscription};
use crate::store::{ChannelKey, LogPart, LogPlace, LoggedMessage, Seq, Store, StoreError, store_failed};
use crate::wire::LoggedPushes;

/// The number of logs that an ending session reads for acknowledgements of messages that were not repeated.
const EARLY_READS: usize = 16;

/// Detects a resume that makes no progress.
#[derive(Default)]
struct Progress {
    /// The position of each channel at its last turn.
    places: HashMap<ChannelKey, u64>,
    /// The number of consecutive turns without progress.
    without_progress: usize,
}

impl Progress {
    /// The next read of a resume; `None` if it is complete or makes no progress.
    fn next_missing(&mut self, outbox: &Outbox) -> Option<Missing> {
        let missing = outbox.next_missing()?;
        if self.is_stuck(missing.key, missing.after) {
            outbox.end_resume();
            return None;
        }
        Some(missing)
    }

    /// Records a turn of a channel. Returns `true` if no channel has made progress since its last turn.
    fn is_stuck(&mut self, key: ChannelKey, after: u64) -> bool {
        let stands_still = self.places.insert(key, after) == Some(after);
        self.without_progress = if stands_still { self.without_progress + 1 } else { 0 };
        stands_still && self.without_progress >= self.places.len()
    }
}

/// Sends what sessions have not received of logs.
pub(crate) struct Resumes {
    subscribers: Arc<Subscribers>,
    store: Arc<dyn Store>,
    context: Arc<OutboxContext>,
    /// Subscriptions whose logs cannot be read now.
    parked: Parked,
}

impl Resumes {
    pub(super) fn new(
        subscribers: Arc<Subscribers>,
        store: Arc<dyn Store>,
        context: Arc<OutboxContext>,
    ) -> Self {
        Self { subscribers, store, context, parked: Parked::default() }
    }

    /// Sends messages while there is room: from memory at once, from the store in a separate task. A session that is
    /// not live yet is skipped, because the `connAck` must come first; it resumes afterwards.
    pub(crate) fn begin(self: &Arc<Self>, outbox: &Arc<Outbox>) {
        if !outbox.wants_resume() || outbox.is_connecting() || !outbox.begin_resume() {
            return;
        }
        if outbox.is_sending_again() {
            let (resumes, outbox) = (Arc::clone(self), Arc::clone(outbox));
            tokio::spawn(async move {
                resumes.go_on(&outbox).await;
                outbox.flush();
            });
            return;
        }
        let mut progress = Progress::default();
        while let Some(missing) = progress.next_missing(outbox) {
            if self.offer_from_memory(&missing) {
                continue;
            }
            let (resumes, outbox) = (Arc::clone(self), Arc::clone(outbox));
            tokio::spawn(async move {
                resumes.offer_from_store(&missing).await;
                resumes.go_on(&outbox).await;
                outbox.flush();
            });
            break;
        }
        outbox.flush();
    }

    /// Sends the first window after `conn` in the session's own task, after the `connAck` and before the retained
    /// messages (2.3).
    pub(crate) async fn first_window(self: &Arc<Self>, outbox: &Arc<Outbox>) {
        outbox.release_again();
        if outbox.wants_resume() && outbox.begin_resume() {
            self.go_on(outbox).await;
        }
    }

    async fn go_on(self: &Arc<Self>, outbox: &Arc<Outbox>) {
        exchanges::send_again(&*self.store, &self.context, outbox).await;
        let mut progress = Progress::default();
        while let Some(missing) = progress.next_missing(outbox) {
            if !self.offer_from_memory(&missing) {
                self.offer_from_store(&missing).await;
            }
        }
    }

    fn offer_from_memory(&self, missing: &Missing) -> bool {
        let channel = self.subscribers.channels.get(missing.subscription.channel.as_str());
        let Some(run) = channel.and_then(|channel| channel.tail_with(missing.key, Seq(missing.after + 1)))
        else {
            return false;
        };
        missing.subscription.outbox.offer(&missing.subscription, &run, Source::Memory);
        true
    }

    async fn offer_from_store(self: &Arc<Self>, missing: &Missing) {
        let Missing { subscription, key, .. } = missing;
        if self.parked.joins(*key, subscription, Instant::now()) {
            return subscription.outbox.park(subscription);
        }
        let read = self.store.read_log(*key, Seq(missing.after), missing.count, READ_BYTES).await;
        let longest = match read {
            Ok(part) => {
                if self.offer_read(missing, part) {
                    return self.unpark(self.parked.succeeded(*key));
                }
                LONGEST_FOR_DATABASE
            }
            Err(StoreError::Closed) => return,
            Err(error) => {
                store_failed(&self.context.counters, "cannot read the messages of a channel", &error);
                if error.is_of_data() {
                    let channel = &subscription.channel;
                    log_limited!(
                        error, target: "jmqt::store", %channel, %error,
                        "cannot read the messages of a channel, retrying once a minute; other channels are not affected: check \
                         the disk, and restore the database from a backup"
                    );
                    LONGEST_FOR_LOG
                } else {
                    LONGEST_FOR_DATABASE
                }
            }
        };
        subscription.outbox.park(subscription);
        self.parked.failed(*key, subscription, longest, Instant::now());
    }

    /// Retries parked logs that are due. Call this a few times a second.
    pub(super) fn retry_parked(self: &Arc<Self>) {
        for subscription in self.parked.due(Instant::now()) {
            self.unpark([Arc::downgrade(&subscription)]);
        }
    }

    fn unpark(self: &Arc<Self>, waiting: impl IntoIterator<Item = Weak<Subscription>>) {
        for subscription in waiting.into_iter().filter_map(|it| it.upgrade()) {
            subscription.outbox.unpark(&subscription);
            self.begin(&subscription.outbox);
        }
    }

    /// Checks, for an ending session, the acknowledgements that arrived before their messages were repeated against
    /// the log. A message whose acknowledgement is not checked is sent again.
    pub(super) async fn confirm_early_acks(&self, outbox: &Outbox) {
        for (key, mut early) in outbox.take_early_acks().into_iter().take(EARLY_READS) {
            early.sort_unstable();
            let (first, last) = (early[0].0, early[early.len() - 1].0);
            let count = usize::try_from(last - first + 1).unwrap_or(usize::MAX);
            match self.store.read_log(key, Seq(first - 1), count, READ_BYTES).await {
                Ok(LogPart { messages: read, .. }) => {
                    let is_named = |it: &&LoggedMessage| early.binary_search(&(it.seq.0, it.stamp)).is_ok();
                    let named: Vec<_> = read.iter().filter(is_named).map(|it| it.seq.0).collect();
                    outbox.confirm_early_acks(key, &named);
                }
                Err(error) => {
                    HubError::of_store(&error, &self.context.counters);
                    return;
                }
            }
        }
    }

    /// Offers the messages of a read. Returns `false` if the log should be longer than the database reported, which
    /// then lags behind.
    fn offer_read(&self, missing: &Missing, LogPart { messages, last }: LogPart) -> bool {
        let bytes: usize = messages.iter().map(|message| message.data.len()).sum();
        let cut = messages.len() == missing.count || bytes >= READ_BYTES;
        // Messages that it did not return may exist, but none beyond the end that it returned.
        let through = match messages.last() {
            Some(last) if cut => last.seq.0,
            _ => last.0,
        };
        let Missing { subscription, key, .. } = missing;
        let pushes = messages.into_iter().filter_map(|message| {
            let LoggedMessage { seq, stamp, sender, data, attributes } = message;
            let data = intact(&subscription.channel, data, attributes)?;
            Some(LoggedPush { id: PushId::Logged(LogPlace { key: *key, seq, stamp }), sender, data })
        });
        let logged = LoggedPushes::new(self.context.ids, subscription.channel.clone(), pushes.collect());
        subscription.outbox.offer(subscription, &logged, Source::Log { key: *key, through });
        cut || through >= missing.seen
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::time::Duration;

    use jmqt_core::{ChannelName, ClientId};

    use super::*;
    use crate::attributes::Attributes;
    use crate::hub::Hub;
    use crate::outbox::{LogState, Stage};
    use crate::store::{Cursor, Double, Stamp, StoredSubscription};

    const A: ChannelKey = ChannelKey(1);
    const B: ChannelKey = ChannelKey(2);

    #[test]
    fn a_resume_is_stuck_if_no_channel_makes_progress() {
        let mut progress = Progress::default();
        for (key, after, is_stuck) in [(A, 5, false), (B, 7, false), (A, 5, false), (B, 7, true)] {
            assert_eq!(progress.is_stuck(key, after), is_stuck);
        }
    }

    #[test]
    fn a_resume_is_not_stuck_while_one_channel_makes_progress() {
        let mut progress = Progress::default();
        for after in 0..10 {
            assert!(!progress.is_stuck(A, 5) && !progress.is_stuck(B, after));
        }
        assert!(!progress.is_stuck(A, 5) && progress.is_stuck(A, 5), "only A is left");
    }

    const TICK: Duration = Duration::from_millis(300);

    fn subscribe(outbox: &Arc<Outbox>, name: &str, key: ChannelKey, last: u64) -> Arc<Subscription> {
        let channel = ChannelName::parse(name).unwrap();
        let client = ClientId::parse("bob").unwrap();
        let (stage, log) = (Stage::Live, LogState::Attaching { seen: None });
        let made = Subscription::new(channel.clone(), client, Arc::clone(outbox), stage, log);
        let made = Arc::new(made);
        assert!(outbox.insert_subscription(&made));
        outbox.attach(
            &made,
            &StoredSubscription {
                channel,
                key,
                cursor: Cursor::default(),
                last: Seq(last),
                options: crate::options::SubscriptionOptions::JMQT,
            },
        );
        made
    }

    /// Messages after `after` of a log that ends at `last`. The data of each message is its number.
    fn part(after: Seq, last: u64) -> LogPart {
        let message = |seq: u64| {
            let data = seq.to_string().into();
            LoggedMessage { seq: Seq(seq), stamp: Stamp(1), sender: None, data, attributes: Attributes::NONE }
        };
        LogPart { messages: (after.0 + 1..=last).map(message).collect(), last: Seq(last) }
    }

    /// The data of the pushes that the client has received.
    fn got(outbox: &Outbox) -> Vec<u64> {
        let packets = outbox.taken();
        let data = |packet: &str| {
            let packet: serde_json::Value = serde_json::from_str(packet).unwrap();
            packet["push"]["dt"].as_u64().unwrap()
        };
        packets.split('\0').filter(|packet| !packet.is_empty()).map(data).collect()
    }

    /// Simulates the server for this time: the janitor retries logs, and the session resumes at each packet.
    async fn pass(hub: &Arc<Hub>, outbox: &Arc<Outbox>, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            hub.resumes.retry_parked();
            hub.resumes.begin(outbox);
            tokio::time::sleep(TICK).await;
        }
    }

    #[tokio::test(start_paused = true)] // a proxy lets a replica answer that does not have the last commits yet
    async fn a_lagging_database_makes_no_client_skip_a_message() {
        let told = Arc::new(AtomicU64::new(3));
        let answer = Arc::clone(&told);
        let read_log = move |(_, after)| Ok(part(after, answer.load(Ordering::SeqCst)));
        let hub = Hub::over(Double { read_log: Box::new(read_log), ..Double::default() });
        let outbox = hub.outbox();
        subscribe(&outbox, "news", A, 5);
        hub.go_live(&outbox);
        pass(&hub, &outbox, TICK * 2).await;
        assert_eq!(got(&outbox), [1, 2, 3]);
        pass(&hub, &outbox, TICK * 100).await;
        assert!(got(&outbox).is_empty());
        told.store(5, Ordering::SeqCst);
        pass(&hub, &outbox, Duration::from_secs(2)).await;
        assert_eq!(got(&outbox), [4, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_unreadable_log_is_retried_less_often_and_delays_no_other() {
        let (tries, is_mended) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (counted, mended) = (Arc::clone(&tries), Arc::clone(&is_mended));
        let read_log = move |(key, after)| {
            if key == A && !mended.load(Ordering::SeqCst) {
                counted.fetch_add(1, Ordering::SeqCst);
                return Err(StoreError::Corrupt { what: "page" });
            }
            Ok(part(after, if key == A { 2 } else { 7 }))
        };
        let hub = Hub::over(Double { read_log: Box::new(read_log), ..Double::default() });
        let outboxes = [hub.outbox(), hub.outbox()];
        for outbox in &outboxes {
            subscribe(outbox, "damaged", A, 2);
            subscribe(outbox, "news", B, 7);
            hub.go_live(outbox);
            pass(&hub, outbox, TICK).await;
            assert_eq!(
                got(outbox),
                [1, 2, 3, 4, 5, 6, 7],
                "the messages of the other channel arrive at once"
            );
        }
        for outbox in &outboxes {
            pass(&hub, outbox, Duration::from_secs(300)).await;
        }
        let tries = tries.load(Ordering::SeqCst);
        assert!((15..=30).contains(&tries), "in ten minutes {tries}, for both clients");
        assert_eq!((got(&outboxes[0]), got(&outboxes[1])), (vec![], vec![]));
        is_mended.store(true, Ordering::SeqCst);
        pass(&hub, &outboxes[0], Duration::from_secs(65)).await;
        assert_eq!((got(&outboxes[0]), got(&outboxes[1])), (vec![1, 2], vec![1, 2]));
    }
}
