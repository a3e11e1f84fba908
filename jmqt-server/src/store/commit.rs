//! Group commit: one task that gathers what arrived while the last commit ran.
//!
//! It is the only caller of [`Store::commit`], so the order of this queue is the order of every
//! channel. What came of each operation goes on, in the same order, to whoever delivers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::{Append, Operation, Outcome, Store, StoreError, store_failed};
use crate::counters::Counters;

/// How many operations may wait.
const QUEUE_LENGTH: usize = 8192;
/// How many bytes may wait, payloads, names and ids, in KiB: a semaphore counts them.
const QUEUE_KIB: usize = 64 * 1024;
/// A batch is cut at so many operations,
const BATCH_OPERATIONS: usize = 1024;
/// or at so many bytes.
const BATCH_BYTES: usize = 4 << 20;
/// After so many failures the rest of a batch fails without being tried. One bad operation among 1,024 is
/// found with 11.
const FAILURES_PER_BATCH: usize = 24;
/// So many settled batches may wait to be delivered before the next commit does.
const SETTLED_BATCHES: usize = 4;

/// An operation that has been carried out, or has failed.
#[derive(Debug)]
pub(crate) struct Settled<T> {
    /// What was to be done; `None` only keeps a place in the order.
    pub(crate) operation: Option<Operation>,
    /// What the submitter gave along.
    pub(crate) tag: T,
    /// `Ok(None)` only where there was no operation.
    pub(crate) result: Result<Option<Outcome>, NotCommitted>,
}

/// The store could not do it; the reason has been logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotCommitted {
    #[error("the store failed")]
    Failed,
    /// It may have happened all the same.
    #[error("the store has not told what became of it")]
    Unknown,
}

/// What a submitter gives along.
pub(crate) trait Tagged {
    /// How many bytes it holds beside itself.
    fn bytes(&self) -> usize;
}

struct Entry<T> {
    operation: Option<Operation>,
    tag: T,
    _room: OwnedSemaphorePermit,
}

/// The entrance of the queue.
pub(crate) struct CommitQueue<T> {
    sender: mpsc::Sender<Entry<T>>,
    room: Arc<Semaphore>,
    retained: Arc<AtomicUsize>,
    closed: CancellationToken,
}

/// The other end of the queue: to be [run](Committer::run) by one task.
pub(crate) struct Committer<T> {
    receiver: mpsc::Receiver<Entry<T>>,
    closed: CancellationToken,
    settled: mpsc::Sender<Vec<Settled<T>>>,
    retained: Arc<AtomicUsize>,
    store: Arc<dyn Store>,
    counters: Arc<Counters>,
}

/// What is settled comes out here, batch by batch.
pub(crate) type SettledBatches<T> = mpsc::Receiver<Vec<Settled<T>>>;

impl<T> CommitQueue<T> {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        counters: Arc<Counters>,
    ) -> (Self, Committer<T>, SettledBatches<T>) {
        let (sender, receiver) = mpsc::channel(QUEUE_LENGTH);
        let (settled, batches) = mpsc::channel(SETTLED_BATCHES);
        let retained = Arc::new(AtomicUsize::new(0));
        let closed = CancellationToken::new();
        let queue = Self {
            sender,
            room: Arc::new(Semaphore::new(QUEUE_KIB)),
            retained: Arc::clone(&retained),
            closed: closed.clone(),
        };
        (queue, Committer { receiver, closed, settled, retained, store, counters }, batches)
    }

    /// Cancelled when the queue has been [closed](Self::close): the committer may end.
    pub(crate) fn closed(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// Takes nothing more; the committer ends when it has carried out what was taken.
    pub(crate) fn close(&self) {
        self.closed.cancel();
    }

    /// Waits for room and takes the next place in the order. `None` for an operation keeps a place
    /// only: what is settled before it is delivered before it.
    ///
    /// # Errors
    /// Gives the tag back when the queue has been closed.
    ///
    /// # Cancel safety
    /// Dropped before it is ready, nothing was submitted.
    pub(crate) async fn submit(&self, operation: Option<Operation>, tag: T) -> Result<(), T>
    where
        T: Tagged,
    {
        let bytes = operation.as_ref().map_or(0, Operation::bytes) + tag.bytes();
        let kib = u32::try_from(1 + bytes / 1024).unwrap_or(u32::MAX).min(QUEUE_KIB as u32);
        let Ok(room) = Arc::clone(&self.room).acquire_many_owned(kib).await else { return Err(tag) };
        let Ok(place) = self.sender.reserve().await else { return Err(tag) };
        if operation.as_ref().is_some_and(Operation::writes_retained) {
            self.retained.fetch_add(1, Ordering::SeqCst);
        }
        place.send(Entry { operation, tag, _room: room });
        Ok(())
    }

    /// Whether a retained message is on its way to the store.
    pub(crate) fn has_retained(&self) -> bool {
        self.retained.load(Ordering::SeqCst) > 0
    }
}

impl<T> Committer<T> {
    /// Commits until the queue has been closed and nothing is left.
    pub(crate) async fn run(mut self) {
        let mut entries = Vec::new();
        loop {
            let received = tokio::select! {
                biased;
                received = self.receiver.recv_many(&mut entries, BATCH_OPERATIONS) => received,
                () = self.closed.cancelled(), if !self.receiver.is_closed() => {
                    self.receiver.close();
                    continue;
                }
            };
            if received == 0 {
                return;
            }
            while !entries.is_empty() {
                let rest = entries.split_off(batch_length(&entries));
                let batch = std::mem::replace(&mut entries, rest);
                let settled = self.settle(batch).await;
                if self.settled.send(settled).await.is_err() {
                    return;
                }
            }
        }
    }

    async fn settle(&self, batch: Vec<Entry<T>>) -> Vec<Settled<T>> {
        let mut operations = Vec::with_capacity(batch.len());
        let mut tags = Vec::with_capacity(batch.len());
        let mut rooms = Vec::with_capacity(batch.len());
        for entry in batch {
            tags.push((entry.operation.is_some(), entry.tag));
            operations.extend(entry.operation);
            rooms.push(entry._room);
        }
        let results = self.commit(&operations).await;
        let retained = operations.iter().filter(|operation| operation.writes_retained()).count();
        self.retained.fetch_sub(retained, Ordering::SeqCst);
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
        settled
    }

    /// Commits, and where that fails goes on with the halves, always in order: one bad operation must
    /// not fail its neighbours, and a full disk must not be asked a thousand times. A database that is away
    /// is not asked twice.
    async fn commit(&self, operations: &[Operation]) -> Vec<Result<Outcome, NotCommitted>> {
        let mut results = Vec::with_capacity(operations.len());
        let mut failures_left = FAILURES_PER_BATCH;
        let mut to_do: Vec<_> = std::iter::once(0..operations.len()).collect(); // the first range on top
        while let Some(range) = to_do.pop() {
            if range.is_empty() {
                continue;
            }
            if failures_left == 0 {
                results.extend(range.map(|_| Err(NotCommitted::Failed)));
                continue;
            }
            match self.store.commit(&operations[range.clone()]).await {
                Ok(outcomes) => results.extend(outcomes.into_iter().map(Ok)),
                Err(error) => {
                    failures_left -= 1;
                    self.report(&error, range.len());
                    if matches!(error, StoreError::Unanswered(_)) {
                        // Trying again could store a message twice.
                        results.extend(range.map(|_| Err(NotCommitted::Unknown)));
                    } else if error.is_of_database() {
                        // Each further try would hold up the queue for as long again. What was locked has
                        // been waited for: its owner is no node that has vanished, but somebody who may
                        // have it for hours.
                        failures_left = 0;
                        results.extend(range.map(|_| Err(NotCommitted::Failed)));
                    } else if range.len() == 1 {
                        results.push(Err(NotCommitted::Failed));
                    } else {
                        let middle = range.start + range.len() / 2;
                        to_do.push(middle..range.end);
                        to_do.push(range.start..middle);
                    }
                }
            }
        }
        results
    }

    fn report(&self, error: &StoreError, operations: usize) {
        tracing::debug!(target: "jmqt::store", %error, operations, "a batch was not committed");
        store_failed(&self.counters, "a batch was not committed", error);
    }
}

/// How many entries go into the next batch: one at least.
fn batch_length<T>(entries: &[Entry<T>]) -> usize {
    let mut bytes = 0;
    let fits = entries.iter().take_while(|entry| {
        bytes += entry.operation.as_ref().map_or(0, Operation::bytes);
        bytes <= BATCH_BYTES
    });
    fits.count().max(1)
}

impl Operation {
    /// Of payload and names.
    fn bytes(&self) -> usize {
        match self {
            Self::Append(Append { channel, sender, data, .. }) => {
                let sender = sender.as_ref().map_or(0, |sender| sender.as_str().len());
                data.len() + channel.as_str().len() + sender
            }
            Self::Subscribe { client, channel } | Self::Unsubscribe { client, channel } => {
                client.as_str().len() + channel.as_str().len()
            }
            Self::ClearRetained { channel } | Self::ReadRetained { channel } => channel.as_str().len(),
        }
    }

    fn writes_retained(&self) -> bool {
        matches!(self, Self::Append(Append { retain: true, .. }) | Self::ClearRetained { .. })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::time::{Duration, SystemTime};

    use async_trait::async_trait;
    use futures_util::FutureExt as _;
    use jmqt_protocol::{ChannelName, ClientId};

    use super::*;
    use crate::store::{
        ChannelKey, CursorUpdate, Epoch, Expired, Forgotten, IsAway, LoggedMessage, PendingLimits, Retained,
        Seq, SessionRow, StoredSubscription, Swept,
    };

    impl Tagged for () {
        fn bytes(&self) -> usize {
            0
        }
    }

    /// An id of so many bytes.
    struct Id(usize);

    impl Tagged for Id {
        fn bytes(&self) -> usize {
            self.0
        }
    }

    #[tokio::test]
    async fn what_waits_is_bounded_with_its_names_and_ids() {
        let store = Arc::new(Refusing { reason: || StoreError::Closed, asked: Mutex::default() });
        let (queue, _committer, _batches) = CommitQueue::new(store as _, Arc::default());
        let submit = || {
            let channel = ChannelName::parse("n".repeat(512).as_str()).unwrap();
            let append =
                Append { channel, sender: None, data: "1".into(), log: true, retain: false, once: None };
            queue.submit(Some(Operation::Append(append)), Id(1 << 20))
        };
        for _ in 0..QUEUE_KIB / 1025 {
            assert!(submit().await.is_ok());
        }
        assert!(submit().now_or_never().is_none(), "more than 64 MiB of ids");
    }

    /// What a batch that is refused fails with.
    type Reason = fn() -> StoreError;

    /// Refuses batches with a message `bad` in them, and remembers how long each batch was.
    struct Refusing {
        reason: Reason,
        asked: Mutex<Vec<usize>>,
    }

    fn is_bad(operation: &Operation) -> bool {
        matches!(operation, Operation::Append(append) if append.data == "bad")
    }

    #[async_trait]
    impl Store for Refusing {
        fn epoch(&self) -> Epoch {
            Epoch(0)
        }

        async fn commit(&self, batch: &[Operation]) -> Result<Vec<Outcome>, StoreError> {
            self.asked.lock().unwrap().push(batch.len());
            match batch.iter().any(is_bad) {
                true => Err((self.reason)()),
                false => Ok(batch.iter().map(|_| Outcome::Appended(None)).collect()),
            }
        }

        async fn subscriptions(&self, _: &ClientId) -> Result<Vec<StoredSubscription>, StoreError> {
            Ok(Vec::new())
        }

        fn may_have_retained(&self, _: &ChannelName) -> bool {
            false
        }

        async fn read_retained(&self, _: &ChannelName) -> Result<Option<Retained>, StoreError> {
            Ok(None)
        }

        async fn read_log(
            &self,
            _: ChannelKey,
            _: Seq,
            _: usize,
            _: usize,
        ) -> Result<Vec<LoggedMessage>, StoreError> {
            Ok(Vec::new())
        }

        async fn save_cursors(&self, _: &[CursorUpdate]) -> Result<(), StoreError> {
            Ok(())
        }

        async fn trim(&self, _: &[ChannelKey]) -> Result<u64, StoreError> {
            Ok(0)
        }

        async fn sessions_opened(&self, _: &[SessionRow]) -> Result<(), StoreError> {
            Ok(())
        }

        async fn sessions_closed(&self, _: &[(ClientId, u64)], _: &str) -> Result<(), StoreError> {
            Ok(())
        }

        async fn claim_orphans(&self, _: &str) -> Result<Vec<SessionRow>, StoreError> {
            Ok(Vec::new())
        }

        async fn orphan_closed(&self, _: &SessionRow) -> Result<(), StoreError> {
            Ok(())
        }

        async fn expire(&self, _: SystemTime, _: &mut IsAway<'_>) -> Result<Vec<Expired>, StoreError> {
            Ok(Vec::new())
        }

        async fn limit_pending(&self, _: PendingLimits, _: Option<&ClientId>) -> Result<Swept, StoreError> {
            Ok(Swept::default())
        }

        async fn forget_publishers(&self, _: SystemTime) -> Result<Forgotten, StoreError> {
            Ok(Forgotten { publishers: 0, is_round_complete: true })
        }

        async fn close(&self) {}
    }

    /// What comes of 64 messages in one batch, of which the eighth is bad, and how long the batches were that
    /// the store was asked to commit.
    async fn commit_with(reason: Reason) -> (Vec<Result<(), NotCommitted>>, Vec<usize>) {
        let store = Arc::new(Refusing { reason, asked: Mutex::default() });
        let (queue, committer, mut batches) = CommitQueue::new(Arc::clone(&store) as _, Arc::default());
        for number in 0..64 {
            let channel = ChannelName::parse("news").unwrap();
            let data = if number == 7 { "bad" } else { "good" }.into();
            let append = Append { channel, sender: None, data, log: true, retain: false, once: None };
            queue.submit(Some(Operation::Append(append)), ()).await.unwrap();
        }
        queue.close();
        committer.run().await;
        let settled = batches.recv().await.unwrap();
        let asked = store.asked.lock().unwrap().clone();
        (settled.into_iter().map(|settled| settled.result.map(drop)).collect(), asked)
    }

    #[tokio::test]
    async fn a_bad_operation_fails_alone() {
        let (results, asked) = commit_with(|| StoreError::Corrupt { what: "message" }).await;
        let failed: Vec<_> = (0..64).filter(|&i| results[i] == Err(NotCommitted::Failed)).collect();
        assert_eq!(failed, [7]);
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 63);
        assert_eq!(asked, [64, 32, 16, 8, 4, 4, 2, 2, 1, 1, 8, 16, 32]);
    }

    #[tokio::test]
    async fn a_batch_fails_as_a_whole_where_less_would_take_as_long() {
        let reasons: [Reason; 4] = [
            || StoreError::Unreachable(sqlx::Error::PoolClosed),
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
    async fn what_may_have_been_committed_is_not_tried_again() {
        let (results, asked) = commit_with(|| StoreError::Unanswered(sqlx::Error::PoolClosed)).await;
        assert_eq!(results, [Err(NotCommitted::Unknown); 64]);
        assert_eq!(asked, [64]);
    }
}
