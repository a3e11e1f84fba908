//! Retained messages: read for new subscribers, deleted for the application and when they expire (§9.b).

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jmqt_core::{ChannelKind, ChannelName};
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::{sleep, timeout};

use super::commits::Commits;
use super::error::HubError;
use super::filters::{self, filter_of, literal_beginning};
use super::log_reads::intact;
use super::memory_ids::MemoryIds;
use crate::budget::{Budget, Share};
use crate::counters::Counters;
use crate::log_limit::log_limited;
use crate::message::{Data, RetainedPush};
use crate::store::{Operation, Outcome, RETAINED_PAGE, Retained, Store};

/// The time limit for a retained message to wait for room in the outbound queues.
const ROOM_LIMIT: Duration = Duration::from_secs(30);
/// The interval between two checks for room.
const LOOK_FOR_ROOM: Duration = Duration::from_millis(20);
/// The number of retained messages that are read at a time.
const READS: usize = 16;

/// The retained messages of all channels.
pub(crate) struct RetainedMessages {
    commits: Arc<Commits>,
    store: Arc<dyn Store>,
    /// MAX_TOTAL_OUTBOUND_BYTES.
    outbound: Arc<Budget>,
    counters: Arc<Counters>,
    memory_ids: Arc<MemoryIds>,
    /// No other node retains messages without telling this one.
    is_alone: bool,
    /// Limits the number of retained messages that are read at a time.
    reads: Semaphore,
}

impl RetainedMessages {
    pub(super) fn new(
        commits: Arc<Commits>,
        store: Arc<dyn Store>,
        outbound: Arc<Budget>,
        counters: Arc<Counters>,
        memory_ids: Arc<MemoryIds>,
        is_alone: bool,
    ) -> Self {
        Self { commits, store, outbound, counters, memory_ids, is_alone, reads: Semaphore::new(READS) }
    }

    /// Filters the channels that have, or may have, a retained message.
    pub(crate) async fn among(&self, channels: &[ChannelName]) -> Result<Vec<ChannelName>, HubError> {
        let pending: HashSet<_> =
            channels.iter().filter(|channel| self.commits.queue.has_retained(channel)).collect();
        let there = self
            .store
            .retained_among(channels)
            .await
            .map_err(|error| HubError::of_store(&error, &self.counters))?;
        if pending.is_empty() {
            return Ok(there);
        }
        let there: HashSet<_> = there.iter().collect();
        let is_there = |channel: &&ChannelName| there.contains(channel) || pending.contains(channel);
        Ok(channels.iter().filter(is_there).cloned().collect())
    }

    /// Channels with a retained message that match a filter and follow `after`, and the channel to continue after.
    pub(crate) async fn matching(
        &self,
        filter: &ChannelName,
        after: Option<&ChannelName>,
    ) -> Result<(Vec<ChannelName>, Option<ChannelName>), HubError> {
        let Some(filter) = filter_of(filter) else { return Ok((Vec::new(), None)) };
        let prefix = literal_beginning(filter);
        let cache = self.commits.queue.cache();
        let tickets = cache.tickets();
        let page = self.store.retained_under(&prefix, after).await;
        let page = page.map_err(|error| HubError::of_store(&error, &self.counters))?;
        let next =
            if page.len() < RETAINED_PAGE { None } else { page.last().map(|(channel, _)| channel.clone()) };
        let is_matching =
            |channel: &ChannelName| channel.kind() == ChannelKind::Plain && filters::matches(filter, channel);
        let mut matching = Vec::with_capacity(page.len());
        for (channel, retained) in page {
            if !is_matching(&channel) {
                continue;
            }
            // The messages that were read with their channels wait in the cache, from which a change removes them.
            if let Some(retained) = retained
                && !retained.data.is_empty()
                && self.is_alone
                && intact(&channel, retained.data.clone(), retained.attributes.clone()).is_some()
            {
                cache.keep_one(&tickets, &channel, &retained);
            }
            matching.push(channel);
        }
        Ok((matching, next))
    }

    /// The channel's retained message (§9.b).
    pub(crate) async fn push(&self, channel: &ChannelName) -> Result<Option<RetainedPush>, HubError> {
        // A retained message on its way to the store was published before, so the subscriber must see it. The read does
        // not pass the commit queue, where it would delay all publishes.
        if self.commits.queue.has_retained(channel) {
            self.commits.retained_fence(channel).await?;
        }
        let ticket = self.commits.queue.cache().ticket(channel);
        if !self.store.may_have_retained(channel) {
            return Ok(None);
        }
        let _place = self.room().await?;
        let counted = |data: &[u8]| {
            let mut share = Share::new(&self.outbound);
            share.set(data.len());
            Some(share)
        };
        // Other nodes retain messages without telling this one.
        let cache = self.is_alone.then(|| self.commits.queue.cache());
        if let Some(retained) = cache.and_then(|cache| cache.find(channel)) {
            if retained.data.is_empty() {
                return Ok(None); // it is being deleted
            }
            let Retained { sender, data, attributes } = retained;
            let counted = counted(&data);
            return Ok(Some(RetainedPush {
                sender,
                data: Data::new(data, attributes),
                id: self.memory_ids.next(),
                counted,
            }));
        }
        let retained = self
            .store
            .read_retained(channel)
            .await
            .map_err(|error| HubError::of_store(&error, &self.counters))?;
        let Some(retained) = retained.filter(|retained| !retained.data.is_empty()) else { return Ok(None) };
        let Retained { sender, data, attributes } = retained.clone();
        let Some(data) = intact(channel, data, attributes) else { return Ok(None) };
        if let Some(cache) = cache {
            cache.keep(ticket, channel, &retained);
        }
        Ok(Some(RetainedPush { sender, counted: counted(data.as_bytes()), id: self.memory_ids.next(), data }))
    }

    /// Waits, for a limited time, until the outbound queues of all clients hold less than MAX_TOTAL_OUTBOUND_BYTES. A
    /// retained message can be as long as the largest packet. The number of readers is limited, so that they do not
    /// all use the same room.
    async fn room(&self) -> Result<SemaphorePermit<'_>, HubError> {
        let outbound = &self.outbound;
        let room = async {
            // It is never closed.
            let place = self.reads.acquire().await.map_err(|_| HubError::SessionEnded)?;
            if outbound.is_used_up() {
                log_limited!(warn, target: "jmqt::session", "delaying retained messages: the outbound queues of all clients together have reached MAX_TOTAL_OUTBOUND_BYTES");
            }
            while outbound.is_used_up() {
                sleep(LOOK_FOR_ROOM).await;
            }
            Ok(place)
        };
        timeout(ROOM_LIMIT, room).await.unwrap_or(Err(HubError::NoRoom))
    }

    /// Deletes the retained message of a channel; returns `false` if there is none.
    pub(crate) async fn clear(&self, channel: &ChannelName) -> Result<bool, HubError> {
        match self.commits.commit(Operation::ClearRetained { channel: channel.clone() }).await? {
            Outcome::Cleared(existed) => Ok(existed),
            _ => Err(HubError::Store),
        }
    }

    /// Deletes the retained message of a channel if it has expired.
    pub(super) async fn expire(&self, channel: ChannelName, now: SystemTime) -> Result<(), HubError> {
        self.commits.commit(Operation::ExpireRetained { channel, now }).await.map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    use std::sync::{Mutex, mpsc};

    use futures_util::FutureExt as _;
    use jmqt_core::{ClientId, Persistence, Qos, Retain};

    use super::*;
    use crate::attributes::Attributes;
    use crate::hub::Hub;
    use crate::hub::commits::{THE_SERVER, Tag};
    use crate::message::Message;
    use crate::store::{Double, Order};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)] // protocol.md 2.12
    async fn a_waiting_retained_message_reaches_later_subscribers() {
        let (open, gate) = mpsc::channel::<()>();
        let (gate, is_committing) = (Mutex::new(gate), Arc::new(AtomicBool::new(false)));
        let committing = Arc::clone(&is_committing);
        let commit = move |batch: &[Operation]| {
            committing.store(true, Ordering::SeqCst);
            let _ = gate.lock().unwrap().recv(); // until it is open
            Ok(batch.iter().map(|_| Outcome::Appended(None)).collect())
        };
        let hub = Hub::over(Double { commit: Box::new(commit), ..Double::default() });
        let message = |name: &str, qos, retain| {
            let data = Data::checked_before(vec![b'1'; 1 << 20].into());
            let channel = ChannelName::parse(name).unwrap();
            Message { channel, sender: None, data, qos, retain }
        };
        let submit = || {
            let filling = message("other", Qos::AtLeastOnce, Retain::No).into_operation(None, None);
            hub.commits.queue.submit(Order::Of(THE_SERVER), Some(filling), Tag::Nobody)
        };
        assert!(submit().await.is_ok());
        while !is_committing.load(Ordering::SeqCst) {
            tokio::task::yield_now().await;
        }
        while submit().now_or_never().is_some() {}
        let news = message("news", Qos::AtMostOnce, Retain::Yes);
        let channel = news.channel.clone();
        let mut publishing = pin!(hub.publish(news));
        assert!(publishing.as_mut().now_or_never().is_none(), "the commit queue is full for the server");
        let (bob, outbox) = (ClientId::parse("bob").unwrap(), hub.outbox());
        outbox.go_live();
        let subscribed =
            hub.subscriptions.subscribe(&outbox, &bob, &channel, Persistence::Temporary, None).await.unwrap();
        assert!(subscribed.retained.is_none(), "the retained message has not been submitted");
        outbox.open(&subscribed.subscription, None, None);
        drop(open);
        publishing.await.unwrap();
        assert!(outbox.taken().starts_with(r#"{"push":{"cn":"news","#));
    }

    #[tokio::test] // protocol.md 2.12
    async fn a_retained_message_is_read_once_for_many_until_another_is_published() {
        let (reads, version) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(1)));
        let (counted, current) = (Arc::clone(&reads), Arc::clone(&version));
        let read_retained = move |()| {
            counted.fetch_add(1, Ordering::SeqCst);
            let data = current.load(Ordering::SeqCst).to_string().into();
            Ok(Some(Retained { sender: None, data, attributes: Attributes::NONE }))
        };
        let committed = Arc::clone(&version);
        let commit = move |batch: &[Operation]| {
            committed.fetch_add(batch.len() as u64, Ordering::SeqCst);
            Ok(batch.iter().map(|_| Outcome::Appended(None)).collect())
        };
        let (read_retained, commit) = (Box::new(read_retained), Box::new(commit));
        let hub = Hub::over(Double { read_retained, commit, ..Double::default() });
        let news = ChannelName::parse("news").unwrap();
        for expected in 1..=3 {
            for _ in 0..100 {
                let push = hub.retained.push(&news).await.unwrap().unwrap();
                assert_eq!(push.data.as_bytes(), expected.to_string().as_bytes());
            }
            let data = Data::checked_before("0".into());
            let (channel, sender, qos, retain) = (news.clone(), None, Qos::AtMostOnce, Retain::Yes);
            let message = Message { channel, sender, data, qos, retain };
            hub.commits.submit_retained(message, None).await.unwrap();
        }
        assert_eq!(reads.load(Ordering::SeqCst), 3);
    }
}
