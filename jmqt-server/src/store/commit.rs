//! Group commit: one task collects the operations that arrived while the last commit ran.
//!
//! The task is the only caller of [`Store::commit`], so the order in which it takes operations is the order of every
//! channel. Operations wait by source, and sources take turns ([`Turns`]). The outcomes are passed on for delivery, in the
//! order of the commits.
//!
//! A publisher repeats its publishes, in order, if its connection ends before it has the answers. So if one fails and a
//! later one were stored, the repeated one would follow it. Therefore, if a publish fails, the later ones of its source fail
//! too, until the failure has been answered ([`CommitQueue::fail_behind`]). All other operations are carried out.

use std::collections::hash_map::Entry as MapEntry;
use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jmqt_core::ChannelName;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::retained_cache::RetainedCache;
use super::turns::{Place, Source, Turns};
use super::{Append, BeginSession, Operation, Outcome, Store, StoreError, store_failed};
use crate::counters::Counters;
use crate::name_map::NameMap;

/// The most waiting bytes of payloads, names and ids, in KiB: a semaphore counts them.
const QUEUE_KIB: usize = 64 * 1024;
/// The least size that an operation counts for, so that at most 8,192 operations wait.
const LEAST_KIB: usize = 8;
/// After this number of failures the rest of a batch fails without a try. Finding one bad operation among 1,024 takes
/// 11 failures.
const FAILURES_PER_BATCH: usize = 24;
/// The most settled batches that wait for delivery before the next commit waits.
const SETTLED_BATCHES: usize = 4;
/// A batch [may wait](Turns::is_worth_waiting) for this part of the time that the last commit took,
const WAITED_PART: u32 = 4;
/// and at most for this time.
const LONGEST_WAIT: Duration = Duration::from_millis(1);

/// The finished operations of one batch.
#[derive(Debug)]
pub(crate) struct SettledBatch<T> {
    /// The operations, in order.
    pub(crate) settled: Vec<Settled<T>>,
    /// The sources with a publish that failed. Their operations wait until [`CommitQueue::fail_behind`] is called.
    pub(crate) failed: Vec<Source>,
}

/// A finished operation: carried out, or failed.
#[derive(Debug)]
pub(crate) struct Settled<T> {
    /// The operation; `None` for an entry that only keeps a place in the order.
    pub(crate) operation: Option<Operation>,
    /// The tag of the submitter.
    pub(crate) tag: T,
    /// The outcome; `Ok(None)` only without an operation.
    pub(crate) result: Result<Option<Outcome>, NotCommitted>,
}

/// The reason why an operation is not committed; the error of the store has been logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotCommitted {
    #[error("the store failed")]
    Failed,
    /// The commit may have happened nevertheless.
    #[error("commit outcome unknown")]
    Unknown,
}

/// The tag of a submitter.
pub(crate) trait Tagged {
    /// The number of bytes that the tag holds on the heap.
    fn bytes(&self) -> usize;

    /// Returns `true` for a publish that its client repeats, before later ones, if the connection ends before the answer; and
    /// for such an answer.
    fn is_publish(&self) -> bool;
}

/// The order in which an operation is carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Order<'a> {
    /// After the earlier operations of this source.
    Of(Source),
    /// After the pending retained messages of this channel from all sources.
    AfterRetained(&'a ChannelName),
    /// After all earlier operations of all sources.
    AfterAll,
}

struct Entry<T> {
    /// The source; `None` if others are independent of it.
    source: Option<Source>,
    operation: Option<Operation>,
    tag: T,
    _room: OwnedSemaphorePermit,
}

/// Operations of a batch, and the place of each in the batch.
struct Part {
    places: Vec<usize>,
    operations: Vec<Operation>,
}

/// The outcome of each operation of a batch.
type Results = Vec<Result<Outcome, NotCommitted>>;

/// The entrance of the queue.
pub(crate) struct CommitQueue<T> {
    shared: Arc<Shared<T>>,
    room: Arc<Semaphore>,
    closed: CancellationToken,
}

/// The receiving end of the queue, which one task must [run](Committer::run).
pub(crate) struct Committer<T> {
    shared: Arc<Shared<T>>,
    closed: CancellationToken,
    settled: mpsc::Sender<SettledBatch<T>>,
    store: Arc<dyn Store>,
    counters: Arc<Counters>,
}

struct Shared<T> {
    waiting: Mutex<Waiting<T>>,
    /// Notifies the committer of a new operation.
    arrived: Notify,
    /// The number of pending retained messages.
    retained: AtomicUsize,
    cache: RetainedCache,
}

struct Waiting<T> {
    turns: Turns<Entry<T>>,
    /// The pending retained messages: their number for each channel, and the last one.
    retained: NameMap<ChannelName, (usize, Place)>,
    /// The queue is closed.
    is_closed: bool,
}

/// The output of finished operations, batch by batch.
pub(crate) type SettledBatches<T> = mpsc::Receiver<SettledBatch<T>>;

impl<T> Shared<T> {
    fn lock(&self) -> MutexGuard<'_, Waiting<T>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pending retained message of this channel is finished.
    fn retained_settled(&self, waiting: &mut Waiting<T>, channel: &ChannelName, is_known: bool) {
        self.cache.settled(channel, is_known);
        self.retained.fetch_sub(1, Ordering::SeqCst);
        if let MapEntry::Occupied(mut entry) = waiting.retained.entry(channel.clone()) {
            entry.get_mut().0 -= 1;
            if entry.get().0 == 0 {
                entry.remove();
            }
        }
    }
}

impl<T> Waiting<T> {
    /// The operation that must be taken first: a retained message of the same channel from another source.
    fn place_before(&self, source: Source, operation: &Operation) -> Option<Place> {
        if self.retained.is_empty() {
            return None;
        }
        let (_, place) = self.retained.get(operation.concerns_retained()?)?;
        Some(*place).filter(|place| place.source != source)
    }
}

impl<T> CommitQueue<T> {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        counters: Arc<Counters>,
    ) -> (Self, Committer<T>, SettledBatches<T>) {
        let (settled, batches) = mpsc::channel(SETTLED_BATCHES);
        let waiting = Waiting { turns: Turns::default(), retained: HashMap::default(), is_closed: false };
        let waiting = Mutex::new(waiting);
        let shared = Arc::new(Shared {
            waiting,
            arrived: Notify::new(),
            retained: AtomicUsize::new(0),
            cache: RetainedCache::default(),
        });
        let closed = CancellationToken::new();
        let queue = Self {
            shared: Arc::clone(&shared),
            room: Arc::new(Semaphore::new(QUEUE_KIB)),
            closed: closed.clone(),
        };
        (queue, Committer { shared, closed, settled, store, counters }, batches)
    }

    /// Cancelled when the queue has been [closed](Self::close): the committer may end.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Closes the queue; the committer ends after it has carried out the accepted operations.
    pub(crate) fn close(&self) {
        self.shared.lock().is_closed = true;
        self.room.close();
        self.closed.cancel();
    }

    /// Waits for room and takes the next place in the order of its source. `None` instead of an operation only keeps a
    /// place: operations before it are delivered before it.
    ///
    /// # Errors
    /// Gives the tag back when the queue has been closed.
    ///
    /// # Cancel safety
    /// If the future is dropped before it is ready, nothing was submitted.
    pub(crate) async fn submit(&self, order: Order<'_>, operation: Option<Operation>, tag: T) -> Result<(), T>
    where
        T: Tagged,
    {
        let bytes = operation.as_ref().map_or(0, Operation::bytes) + tag.bytes();
        let kib = u32::try_from(1 + bytes / 1024).unwrap_or(u32::MAX);
        let kib = kib.clamp(LEAST_KIB as u32, QUEUE_KIB as u32);
        loop {
            let Ok(room) = Arc::clone(&self.room).acquire_many_owned(kib).await else { return Err(tag) };
            let full = {
                let mut waiting = self.shared.lock();
                if waiting.is_closed {
                    return Err(tag);
                }
                let full = match order {
                    Order::Of(source) => waiting.turns.wait_for_room(source, bytes),
                    Order::AfterRetained(_) | Order::AfterAll => None,
                };
                let Some(full) = full else {
                    let source = match order {
                        Order::Of(source) => Some(source),
                        Order::AfterRetained(_) | Order::AfterAll => None,
                    };
                    self.put(&mut waiting, order, bytes, Entry { source, operation, tag, _room: room });
                    drop(waiting);
                    self.shared.arrived.notify_one();
                    return Ok(());
                };
                full
            };
            drop(room); // others may use the room meanwhile
            full.await;
        }
    }

    fn put(&self, waiting: &mut Waiting<T>, order: Order<'_>, bytes: usize, entry: Entry<T>) {
        let source = match order {
            Order::Of(source) => source,
            Order::AfterRetained(channel) => {
                let last = waiting.retained.get(channel).map(|(_, last)| *last);
                return waiting.turns.push_alone(last, bytes, entry);
            }
            Order::AfterAll => return waiting.turns.push_fence(entry),
        };
        let after = entry.operation.as_ref().and_then(|operation| waiting.place_before(source, operation));
        let written = entry.operation.as_ref().and_then(Operation::written_retained).cloned();
        let place = waiting.turns.push(source, after, bytes, entry);
        if let Some(channel) = written {
            self.shared.retained.fetch_add(1, Ordering::SeqCst);
            self.shared.cache.submitted(&channel);
            let (count, last) = waiting.retained.entry(channel).or_insert((0, place));
            (*count, *last) = (*count + 1, place);
        }
    }

    /// Removes the waiting publishes of sources whose failures have just been answered, and returns them as failed, to be
    /// answered at once. Later operations of these sources are carried out.
    pub(crate) fn fail_behind(&self, sources: &[Source]) -> Vec<Settled<T>>
    where
        T: Tagged,
    {
        let mut failed = Vec::new();
        let mut waiting = self.shared.lock();
        for source in sources {
            for entry in waiting.turns.extract(*source, |entry| entry.tag.is_publish()) {
                if let Some(channel) = entry.operation.as_ref().and_then(Operation::written_retained) {
                    self.shared.retained_settled(&mut waiting, channel, true);
                }
                let result = if entry.operation.is_some() { Err(NotCommitted::Failed) } else { Ok(None) };
                failed.push(Settled { operation: entry.operation, tag: entry.tag, result });
            }
            waiting.turns.resume(*source);
        }
        drop(waiting);
        self.shared.arrived.notify_one();
        failed
    }

    /// A cache of retained messages. It is correct if all changes of retained messages go through this queue.
    pub(crate) fn cache(&self) -> &RetainedCache {
        &self.shared.cache
    }

    /// The number of operations that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.lock().turns.len()
    }

    /// Returns `true` if a retained message of this channel is pending.
    pub(crate) fn has_retained(&self, channel: &ChannelName) -> bool {
        self.shared.retained.load(Ordering::SeqCst) > 0 && self.shared.lock().retained.contains_key(channel)
    }
}

impl<T> Drop for Committer<T> {
    /// Notifies submitters of operations that are never carried out.
    fn drop(&mut self) {
        let mut waiting = self.shared.lock();
        waiting.is_closed = true;
        waiting.turns.clear();
    }
}

impl<T: Tagged> Committer<T> {
    /// Commits until the queue is closed and empty.
    pub(crate) async fn run(self) {
        let mut took = Duration::ZERO;
        loop {
            let Some(batch) = self.next_batch((took / WAITED_PART).min(LONGEST_WAIT)).await else { return };
            let (began, operations) = (Instant::now(), batch.len());
            let settled = self.settle(batch).await;
            took = began.elapsed();
            if let Some(measures) = self.counters.measures() {
                measures.commits.time(took);
                measures.commit_sizes.add(operations as u64);
            }
            if self.settled.send(settled).await.is_err() {
                return;
            }
        }
    }

    /// The next batch; `None` when the queue is closed and empty. If more operations are likely to arrive soon, the batch
    /// waits for them, for a limited time.
    async fn next_batch(&self, patience: Duration) -> Option<Vec<Entry<T>>> {
        let others = async {
            while self.shared.lock().turns.is_worth_waiting() {
                self.shared.arrived.notified().await;
            }
        };
        if timeout(patience, others).await.is_err() {
            self.shared.lock().turns.waited_without_effect();
        }
        loop {
            let is_closed = {
                let mut waiting = self.shared.lock();
                let batch = waiting.turns.take(Instant::now());
                if !batch.is_empty() {
                    return Some(batch);
                }
                if waiting.is_closed && waiting.turns.is_empty() {
                    return None;
                }
                waiting.is_closed
            };
            tokio::select! {
                () = self.shared.arrived.notified() => {}
                () = self.closed.cancelled(), if !is_closed => {}
                () = self.settled.closed() => return None, // nobody resumes what is held
            }
        }
    }

    async fn settle(&self, batch: Vec<Entry<T>>) -> SettledBatch<T> {
        let mut operations = Vec::with_capacity(batch.len());
        let mut publishers = Vec::with_capacity(batch.len());
        let mut tags = Vec::with_capacity(batch.len());
        let mut rooms = Vec::with_capacity(batch.len());
        for entry in batch {
            if entry.operation.is_some() {
                publishers.push(entry.source.filter(|_| entry.tag.is_publish()));
            }
            tags.push((entry.operation.is_some(), entry.tag));
            operations.extend(entry.operation);
            rooms.push(entry._room);
        }
        let (operations, results, failed) = self.commit(operations, &publishers).await;
        self.committed(&operations, &results, &failed);
        let mut done = operations.into_iter().zip(results);
        let mut settled = Vec::with_capacity(tags.len());
        for (has_operation, tag) in tags {
            settled.push(match if has_operation { done.next() } else { None } {
                Some((operation, result)) => {
                    Settled { operation: Some(operation), tag, result: result.map(Some) }
                }
                None => Settled { operation: None, tag, result: Ok(None) },
            });
        }
        SettledBatch { settled, failed }
    }

    /// Before the next batch is taken.
    fn committed(
        &self,
        operations: &[Operation],
        results: &[Result<Outcome, NotCommitted>],
        failed: &[Source],
    ) {
        if failed.is_empty() && self.shared.retained.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut waiting = self.shared.lock();
        for source in failed {
            waiting.turns.hold(*source);
        }
        for (operation, result) in operations.iter().zip(results) {
            let Some(channel) = operation.written_retained() else { continue };
            let is_known = !matches!(result, Err(NotCommitted::Unknown));
            self.shared.retained_settled(&mut waiting, channel, is_known);
        }
    }

    /// Commits a batch. Returns the operations, their results, and the publishers of failed ones.
    async fn commit(
        &self,
        operations: Vec<Operation>,
        publishers: &[Option<Source>],
    ) -> (Vec<Operation>, Results, Vec<Source>) {
        if operations.is_empty() {
            return (operations, Vec::new(), Vec::new());
        }
        match self.store.commit(&operations).await {
            Ok(outcomes) => (operations, outcomes.into_iter().map(Ok).collect(), Vec::new()),
            Err(error) => self.commit_parts(operations, publishers, error).await,
        }
    }

    /// Commits the halves of a batch that has failed, always in order: one bad operation must
    /// not fail the others, and a full disk must not cause a thousand attempts. An unavailable database
    /// is tried only once. After a failed publish those that the same source has published later fail without a try.
    async fn commit_parts(
        &self,
        operations: Vec<Operation>,
        publishers: &[Option<Source>],
        error: StoreError,
    ) -> (Vec<Operation>, Results, Vec<Source>) {
        let mut failures_left = FAILURES_PER_BATCH;
        let (mut done, mut failed) = (Vec::with_capacity(operations.len()), HashSet::new());
        let mut part = Part { places: (0..operations.len()).collect(), operations };
        let mut to_do = Vec::new(); // the first part on top
        let mut failure = Some(error);
        loop {
            let result = match failure.take() {
                Some(error) => Err(error),
                None => self.store.commit(&part.operations).await,
            };
            match result {
                Ok(outcomes) => {
                    let operations = part.places.into_iter().zip(part.operations);
                    done.extend(
                        operations.zip(outcomes).map(|(operation, outcome)| (operation, Ok(outcome))),
                    );
                }
                Err(error) => {
                    failures_left -= 1;
                    self.report(&error, part.operations.len());
                    // Trying again could store a message twice.
                    let is_unknown = error.is_unknown();
                    // Each further try would delay the queue for the same time again. The lock wait has
                    // timed out: the owner of the lock is not a dead node, but a connection that may hold
                    // it for hours.
                    let is_hopeless = !is_unknown && error.is_of_database();
                    if is_hopeless {
                        failures_left = 0;
                    }
                    if is_unknown || is_hopeless || part.operations.len() == 1 {
                        let why = if is_unknown { NotCommitted::Unknown } else { NotCommitted::Failed };
                        failed.extend(part.places.iter().filter_map(|place| publishers[*place]));
                        let operations = part.places.into_iter().zip(part.operations);
                        done.extend(operations.map(|operation| (operation, Err(why))));
                    } else {
                        to_do.push(part.split_off());
                        to_do.push(part);
                    }
                }
            }
            part = loop {
                let Some(mut next) = to_do.pop() else {
                    done.sort_unstable_by_key(|((place, _), _)| *place);
                    let (operations, results) =
                        done.into_iter().map(|((_, operation), result)| (operation, result)).unzip();
                    return (operations, results, failed.into_iter().collect());
                };
                let is_doomed = |place: usize| {
                    failures_left == 0 || publishers[place].is_some_and(|source| failed.contains(&source))
                };
                let doomed = next.extract(is_doomed);
                failed.extend(doomed.iter().filter_map(|(place, _)| publishers[*place]));
                done.extend(doomed.into_iter().map(|operation| (operation, Err(NotCommitted::Failed))));
                if !next.operations.is_empty() {
                    break next;
                }
            };
        }
    }

    fn report(&self, error: &StoreError, operations: usize) {
        tracing::debug!(target: "jmqt::store", %error, operations, "a batch was not committed");
        store_failed(&self.counters, "a batch was not committed", error);
    }
}

impl Part {
    /// The second half.
    fn split_off(&mut self) -> Self {
        let middle = self.operations.len() / 2;
        Self { places: self.places.split_off(middle), operations: self.operations.split_off(middle) }
    }

    /// Removes the operations with these places.
    fn extract(&mut self, is_wanted: impl Fn(usize) -> bool) -> Vec<(usize, Operation)> {
        if !self.places.iter().any(|place| is_wanted(*place)) {
            return Vec::new();
        }
        let places = std::mem::take(&mut self.places);
        let all = places.into_iter().zip(std::mem::take(&mut self.operations));
        let (extracted, kept): (Vec<_>, Vec<_>) = all.partition(|(place, _)| is_wanted(*place));
        (self.places, self.operations) = kept.into_iter().unzip();
        extracted
    }
}

impl Append {
    /// The size of the payload and the names.
    fn bytes(&self) -> usize {
        let sender = self.sender.as_ref().map_or(0, |sender| sender.as_str().len());
        self.data.len() + self.attributes.bytes() + self.channel.as_str().len() + sender
    }
}

impl Operation {
    /// The size of the payload and the names.
    fn bytes(&self) -> usize {
        match self {
            Self::Append(append) => append.bytes(),
            Self::FireWill(fire) => fire.append.bytes(),
            Self::Subscribe { client, channel, .. }
            | Self::Unsubscribe { client, channel }
            | Self::BeginCursor { client, channel }
            | Self::EndCursor { client, channel }
            | Self::EndIdleCursor { client, channel, .. } => client.as_str().len() + channel.as_str().len(),
            Self::SubscribeFilter { client, filter, .. } | Self::UnsubscribeFilter { client, filter } => {
                client.as_str().len() + filter.len()
            }
            Self::ClearRetained { channel } | Self::ExpireRetained { channel, .. } => channel.as_str().len(),
            Self::Release { client, .. } => client.as_str().len(),
            Self::BeginSession(BeginSession { client, will, owner, .. }) => {
                let will = will.as_ref().map_or(0, |will| will.stored_bytes() + will.channel.as_str().len());
                client.as_str().len() + will + owner.as_ref().map_or(0, |owner| owner.len())
            }
            Self::Send(steps) => size_of_val(&**steps),
            Self::SetExpiry { client, .. } | Self::SetChecked { client, .. } => client.as_str().len(),
            Self::SetOwner { client, owner } => client.as_str().len() + owner.len(),
        }
    }

    /// The channel whose retained message it changes.
    fn written_retained(&self) -> Option<&ChannelName> {
        match self {
            Self::ClearRetained { channel } | Self::ExpireRetained { channel, .. } => Some(channel),
            _ => self.append().filter(|append| append.retain).map(|append| &append.channel),
        }
    }

    /// The channel whose retained message it changes or reads.
    fn concerns_retained(&self) -> Option<&ChannelName> {
        match self {
            Self::Subscribe { channel, .. } => Some(channel),
            _ => self.written_retained(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use jmqt_core::ChannelName;

    use super::*;
    use crate::attributes::Attributes;
    use crate::store::{DatabaseError, Double};

    impl Tagged for () {
        fn bytes(&self) -> usize {
            0
        }

        fn is_publish(&self) -> bool {
            true
        }
    }

    /// Tags that begin with `sub` are of other operations.
    impl Tagged for &str {
        fn bytes(&self) -> usize {
            0
        }

        fn is_publish(&self) -> bool {
            !self.starts_with("sub")
        }
    }

    struct Reply(#[expect(dead_code, reason = "it is dropped")] tokio::sync::oneshot::Sender<()>);

    impl Tagged for Reply {
        fn bytes(&self) -> usize {
            0
        }

        fn is_publish(&self) -> bool {
            false
        }
    }

    /// An id of this many bytes.
    struct Id(usize);

    impl Tagged for Id {
        fn bytes(&self) -> usize {
            self.0
        }

        fn is_publish(&self) -> bool {
            true
        }
    }

    const ALICE: Order<'_> = Order::Of(Source(1));
    const BOB: Order<'_> = Order::Of(Source(2));
    const CAROL: Order<'_> = Order::Of(Source(3));

    fn append(to: &str, data: &str) -> Operation {
        let (channel, data) = (ChannelName::parse(to).unwrap(), data.to_owned().into());
        Operation::Append(Append {
            channel,
            sender: None,
            data,
            attributes: Attributes::NONE,
            log: true,
            retain: false,
            once: None,
            received: None,
        })
    }

    fn retain(to: &str, data: &str) -> Operation {
        let Operation::Append(append) = append(to, data) else { panic!("it is one") };
        Operation::Append(Append { retain: true, ..append })
    }

    #[test] // publishes are moved through the queue; what is rare must not make them larger
    fn an_operation_is_as_small_as_an_append() {
        assert_eq!(size_of::<Operation>(), size_of::<Append>());
    }

    #[tokio::test]
    async fn waiting_bytes_are_bounded_for_each_source_and_in_total() {
        let store = Arc::new(Double::default());
        let (queue, _committer, _batches) = CommitQueue::new(store as _, Arc::default());
        let submit = |source| {
            queue.submit(Order::Of(Source(source)), Some(append(&"n".repeat(512), "1")), Id(1 << 20))
        };
        for source in 0..9 {
            for _ in 0..7 {
                assert!(submit(source).await.is_ok());
            }
            assert!(submit(source).now_or_never().is_none(), "more than 8 MiB of ids of one source");
        }
        assert!(submit(9).now_or_never().is_none(), "more than 64 MiB of ids");
    }

    #[tokio::test]
    async fn thousands_of_operations_of_one_source_do_not_delay_another_source() {
        let store = Arc::new(Double::default());
        let (queue, committer, mut batches) = CommitQueue::new(Arc::clone(&store) as _, Arc::default());
        for _ in 0..1000 {
            queue.submit(ALICE, Some(append("news", "many")), "alice").await.unwrap();
        }
        queue.submit(BOB, Some(append("other", "one")), "bob").await.unwrap();
        let running = tokio::spawn(committer.run());
        let first = batches.recv().await.unwrap().settled;
        assert!(first.len() < 300 && first.iter().any(|settled| settled.tag == "bob"));
        queue.close();
        let mut rest = 0;
        while let Some(batch) = batches.recv().await {
            rest += batch.settled.len();
        }
        running.await.unwrap();
        assert_eq!(first.len() + rest, 1001);
    }

    #[tokio::test] // protocol.md 2.10, 2.12
    async fn retained_messages_of_all_sources_replace_each_other_in_order_of_arrival() {
        let store = Arc::new(Double::default());
        let (queue, committer, mut batches) = CommitQueue::new(Arc::clone(&store) as _, Arc::default());
        for _ in 0..500 {
            queue.submit(ALICE, Some(append("news", "many")), "").await.unwrap();
        }
        queue.submit(ALICE, Some(retain("kept", "alice's")), "").await.unwrap();
        queue.submit(BOB, Some(retain("kept", "bob's")), "").await.unwrap();
        assert!(queue.has_retained(&ChannelName::parse("kept").unwrap()));
        assert!(!queue.has_retained(&ChannelName::parse("news").unwrap()));
        let kept = ChannelName::parse("kept").unwrap();
        queue.submit(Order::AfterRetained(&kept), None, "fence").await.unwrap();
        queue.submit(CAROL, Some(append("other", "carol's")), "").await.unwrap();
        let running = tokio::spawn(committer.run());
        queue.close();
        let mut carried_out = Vec::new();
        while let Some(batch) = batches.recv().await {
            for settled in batch.settled {
                let Some(Operation::Append(Append { data, .. })) = settled.operation else {
                    carried_out.push(settled.tag.into());
                    continue;
                };
                carried_out.push(String::from_utf8(data.to_vec()).unwrap());
            }
        }
        running.await.unwrap();
        let others: Vec<_> = carried_out.iter().filter(|data| *data != "many").collect();
        assert_eq!(others, ["carol's", "alice's", "bob's", "fence"]);
        assert!(!queue.has_retained(&kept));
    }

    #[tokio::test]
    async fn submitting_without_a_committer_does_not_wait() {
        let store = Arc::new(Double::default());
        let (queue, committer, _batches) = CommitQueue::new(store as _, Arc::default());
        let (tag, answer) = tokio::sync::oneshot::channel::<()>();
        assert!(queue.submit(ALICE, Some(append("news", "1")), Reply(tag)).await.is_ok());
        drop(committer);
        assert!(answer.await.is_err());
        let (tag, _answer) = tokio::sync::oneshot::channel::<()>();
        assert!(queue.submit(ALICE, None, Reply(tag)).await.is_err());
    }

    /// The error of a refused batch.
    type Reason = fn() -> StoreError;

    fn is_bad(operation: &Operation) -> bool {
        matches!(operation, Operation::Append(append) if append.data == "bad")
    }

    /// Refuses batches that contain a message `bad`, and records the length of each batch.
    fn refusing(reason: Reason, asked: &Arc<Mutex<Vec<usize>>>) -> Double {
        let asked = Arc::clone(asked);
        let commit = move |batch: &[Operation]| {
            asked.lock().unwrap().push(batch.len());
            match batch.iter().any(is_bad) {
                true => Err(reason()),
                false => Ok(batch.iter().map(|_| Outcome::Appended(None)).collect()),
            }
        };
        Double { commit: Box::new(commit), ..Double::default() }
    }

    /// The outcomes of a batch of 64 messages of as many sources, of which the eighth is bad, and the lengths of the batches
    /// that the store received.
    async fn commit_with(reason: Reason) -> (Vec<Result<(), NotCommitted>>, Vec<usize>) {
        commit_of(64, reason).await
    }

    /// As above, of this number of sources in turn.
    async fn commit_of(sources: u64, reason: Reason) -> (Vec<Result<(), NotCommitted>>, Vec<usize>) {
        let asked = Arc::default();
        let store = Arc::new(refusing(reason, &asked));
        let (queue, committer, mut batches) = CommitQueue::new(store as _, Arc::default());
        for number in 0..64 {
            let data = if number == 7 { "bad" } else { "good" };
            let source = Order::Of(Source(number % sources));
            queue.submit(source, Some(append("news", data)), ()).await.unwrap();
        }
        queue.close();
        committer.run().await;
        let settled = batches.recv().await.unwrap().settled;
        let asked = asked.lock().unwrap().clone();
        (settled.into_iter().map(|settled| settled.result.map(drop)).collect(), asked)
    }

    fn failed(results: &[Result<(), NotCommitted>]) -> Vec<usize> {
        (0..results.len()).filter(|&i| results[i] == Err(NotCommitted::Failed)).collect()
    }

    #[tokio::test]
    async fn a_bad_operation_fails_alone() {
        let (results, asked) = commit_with(|| StoreError::Corrupt { what: "message" }).await;
        assert_eq!(failed(&results), [7]);
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 63);
        assert_eq!(asked, [64, 32, 16, 8, 4, 4, 2, 2, 1, 1, 8, 16, 32]);
    }

    #[tokio::test] // protocol.md 2.10
    async fn what_the_source_of_a_failed_publish_has_published_later_fails_in_its_batch() {
        let (results, asked) = commit_of(8, || StoreError::Corrupt { what: "message" }).await;
        assert_eq!(failed(&results), [7, 15, 23, 31, 39, 47, 55, 63]);
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 56);
        assert_eq!(asked, [64, 32, 16, 8, 4, 4, 2, 2, 1, 1, 7, 14, 28]);

        let unknown = || StoreError::Unanswered(DatabaseError(sqlx::Error::PoolClosed));
        let (results, _) = commit_of(8, unknown).await;
        assert_eq!(results, [Err(NotCommitted::Unknown); 64]);
    }

    #[tokio::test] // protocol.md 2.10
    async fn what_waits_behind_a_failed_publish_fails_until_its_source_is_answered() {
        for reason in [
            || StoreError::TimedOut(Duration::from_secs(10)),
            || StoreError::Unanswered(DatabaseError(sqlx::Error::PoolClosed)),
            || StoreError::Corrupt { what: "message" },
        ] as [Reason; 3]
        {
            let store = Arc::new(refusing(reason, &Arc::default()));
            let (queue, committer, mut batches) = CommitQueue::new(store as _, Arc::default());
            let submit =
                |of, data, tag| queue.submit(of, Some(append("news", data)), tag).map(Result::unwrap);
            submit(ALICE, "bad", "first").await;
            let running = tokio::spawn(committer.run());
            let first = batches.recv().await.unwrap();
            assert_eq!(first.failed, [Source(1)]);
            // Nobody has told alice yet.
            submit(ALICE, "good", "second").await;
            queue.submit(ALICE, Some(append("news", "good")), "subscribe").await.unwrap();
            queue.submit(ALICE, None, "a refusal").await.unwrap();
            queue.submit(ALICE, Some(retain("kept", "good")), "third").await.unwrap();
            submit(BOB, "good", "bob's").await;
            let next = batches.recv().await.unwrap();
            assert_eq!(next.settled.iter().map(|settled| settled.tag).collect::<Vec<_>>(), ["bob's"]);
            assert!(next.settled[0].result.is_ok() && next.failed.is_empty());

            let behind = queue.fail_behind(&first.failed);
            let behind: Vec<_> = behind.iter().map(|settled| (settled.tag, settled.result.is_ok())).collect();
            assert_eq!(behind, [("second", false), ("a refusal", true), ("third", false)]);
            assert!(!queue.has_retained(&ChannelName::parse("kept").unwrap()));
            submit(ALICE, "good", "fourth").await;
            queue.close();
            let mut later = Vec::new();
            while let Some(batch) = batches.recv().await {
                later.extend(batch.settled.into_iter().map(|settled| (settled.tag, settled.result.is_ok())));
            }
            assert_eq!(later, [("subscribe", true), ("fourth", true)]);
            running.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_failed_operation_that_is_no_publish_holds_nobody_up() {
        let store = Arc::new(refusing(|| StoreError::Condemned, &Arc::default()));
        let (queue, committer, mut batches) = CommitQueue::new(store as _, Arc::default());
        queue.submit(ALICE, Some(append("news", "bad")), "subscribe").await.unwrap();
        queue.submit(ALICE, Some(append("news", "good")), "publish").await.unwrap();
        queue.close();
        committer.run().await;
        let SettledBatch { settled, failed } = batches.recv().await.unwrap();
        assert!(failed.is_empty() && settled[0].result.is_err() && settled[1].result.is_ok());
    }

    #[tokio::test]
    async fn a_batch_fails_as_a_whole_if_smaller_batches_would_take_as_long() {
        let reasons: [Reason; 4] = [
            || StoreError::Unreachable(DatabaseError(sqlx::Error::PoolClosed)),
            || StoreError::TimedOut(Duration::from_secs(10)),
            || StoreError::Locked,
            || StoreError::InUse { path: String::new() },
        ];
        for reason in reasons {
            let (results, asked) = commit_with(reason).await;
            assert_eq!(results, [Err(NotCommitted::Failed); 64], "{}", reason());
            assert_eq!(asked, [64], "{}", reason());
        }
    }

    #[tokio::test]
    async fn a_batch_of_unknown_outcome_is_not_repeated() {
        let (results, asked) =
            commit_with(|| StoreError::Unanswered(DatabaseError(sqlx::Error::PoolClosed))).await;
        assert_eq!(results, [Err(NotCommitted::Unknown); 64]);
        assert_eq!(asked, [64]);
    }
}
