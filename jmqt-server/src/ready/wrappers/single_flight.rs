//! Answers that are kept for a while, each asked for once.

use std::any::Any;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::OnceCell;
use tokio::time::Instant;

use crate::ready::Unavailable;
use crate::validators::BoxError;

/// Answers by question, at most so many. Those that were not asked for recently go first.
pub(super) struct Answers<K, V> {
    /// Asked for since the last turn, and before that. When the newer ones are half of all, the older ones go.
    generations: Mutex<[HashMap<K, Entry<V>>; 2]>,
    half: usize,
}

struct Entry<V> {
    slot: Arc<OnceCell<Kept<V>>>,
    /// The session data whose address is in the question, so that no other data gets this address.
    _session: Option<Weak<dyn Any + Send + Sync>>,
}

/// What the one who asked has got.
struct Kept<V> {
    answer: Result<V, Failed>,
    /// `None`: it is only for those who wait for it.
    until: Option<Instant>,
}

/// An error, for those who have not asked themselves.
#[derive(Debug, Clone)]
struct Failed {
    text: Arc<str>,
    is_unavailable: bool,
}

impl From<&BoxError> for Failed {
    fn from(error: &BoxError) -> Self {
        Self { text: error.to_string().into(), is_unavailable: error.is::<Unavailable>() }
    }
}

impl From<Failed> for BoxError {
    fn from(failed: Failed) -> Self {
        match failed.is_unavailable {
            true => Unavailable::because(&*failed.text).into(),
            false => Self::from(&*failed.text),
        }
    }
}

/// Who has asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// This caller.
    Now,
    /// Another one, before or at the same time.
    Elsewhere,
}

impl<K: Hash + Eq + Clone, V: Clone> Answers<K, V> {
    pub(super) fn new(most: usize) -> Self {
        Self { generations: Mutex::default(), half: (most / 2).max(1) }
    }

    fn lock(&self) -> MutexGuard<'_, [HashMap<K, Entry<V>>; 2]> {
        self.generations.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn clear(&self) {
        *self.lock() = Default::default();
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().iter().map(HashMap::len).sum()
    }

    /// The answer that is kept, or that somebody is waiting for, or else that of `ask`. `keep` says for how long it counts; `None`: not
    /// for later callers. An error never does.
    ///
    /// If the caller who asks is dropped, one of those who wait asks.
    pub(super) async fn get<F: Future<Output = Result<V, BoxError>>>(
        &self,
        key: K,
        session: Option<Weak<dyn Any + Send + Sync>>,
        ask: impl FnOnce() -> F,
        keep: impl FnOnce(&V) -> Option<Duration>,
    ) -> Result<(V, Asked), BoxError> {
        let slot = self.slot(&key, session);
        let mut own_error = None;
        let mut asked = Asked::Elsewhere;
        let kept = slot
            .get_or_init(|| async {
                asked = Asked::Now;
                let answer = ask().await;
                let until =
                    answer.as_ref().ok().and_then(keep).and_then(|time| Instant::now().checked_add(time));
                let answer = answer.map_err(|error| {
                    let failed = Failed::from(&error);
                    own_error = Some(error);
                    failed
                });
                Kept { answer, until }
            })
            .await;
        let answer = kept.answer.clone();
        if kept.until.is_none() && asked == Asked::Now {
            self.forget(&key, &slot);
        }
        match (answer, own_error) {
            (Ok(answer), _) => Ok((answer, asked)),
            (Err(_), Some(error)) => Err(error),
            (Err(failed), None) => Err(failed.into()),
        }
    }

    /// The place of an answer: that which counts or is asked for, or a new one.
    fn slot(&self, key: &K, session: Option<Weak<dyn Any + Send + Sync>>) -> Arc<OnceCell<Kept<V>>> {
        let mut generations = self.lock();
        let [newer, older] = &mut *generations;
        let found = match newer.get(key) {
            Some(entry) => Some(Arc::clone(&entry.slot)),
            None => older.remove(key).map(|entry| entry.slot),
        };
        let now = Instant::now();
        // Without an end it is for those who waited for it when it came.
        let counts = |slot: &Arc<OnceCell<Kept<V>>>| {
            slot.get().is_none_or(|kept| kept.until.is_some_and(|end| now < end))
        };
        let slot = found.filter(counts).unwrap_or_default();
        newer.insert(key.clone(), Entry { slot: Arc::clone(&slot), _session: session });
        if newer.len() >= self.half {
            *older = std::mem::take(newer);
        }
        slot
    }

    fn forget(&self, key: &K, slot: &Arc<OnceCell<Kept<V>>>) {
        for generation in &mut *self.lock() {
            if generation.get(key).is_some_and(|entry| Arc::ptr_eq(&entry.slot, slot)) {
                generation.remove(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures_util::FutureExt as _;
    use proptest::prelude::*;
    use tokio::sync::Semaphore;

    use super::*;

    const KEPT: Duration = Duration::from_secs(10);

    /// Counts the questions, and answers when it is permitted.
    struct Source {
        answers: Answers<u32, usize>,
        asked: AtomicUsize,
        permits: Semaphore,
    }

    impl Source {
        fn new(permits: usize) -> Arc<Self> {
            Arc::new(Self {
                answers: Answers::new(100),
                asked: AtomicUsize::new(0),
                permits: Semaphore::new(permits),
            })
        }

        async fn get(&self, key: u32) -> Result<usize, String> {
            let ask = || async {
                let number = self.asked.fetch_add(1, Ordering::SeqCst) + 1;
                self.permits.acquire().await?.forget();
                if key == 0 { Err("failed".into()) } else { Ok(number) }
            };
            let got = self.answers.get(key, None, ask, |_| Some(KEPT)).await;
            got.map(|(answer, _)| answer).map_err(|error| error.to_string())
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_thousand_who_ask_at_once_ask_once() {
        let source = Source::new(0);
        let tasks: Vec<_> = (0..1000)
            .map(|_| {
                let source = Arc::clone(&source);
                tokio::spawn(async move { source.get(7).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_secs(1)).await;
        source.permits.add_permits(1);
        for task in tasks {
            assert_eq!(task.await.unwrap(), Ok(1));
        }
        assert_eq!(source.get(7).await, Ok(1), "it is kept");
        assert_eq!(source.asked(), 1);
        source.permits.add_permits(1);
        tokio::time::advance(KEPT).await;
        assert_eq!(source.get(7).await, Ok(2), "and not for longer");
    }

    #[tokio::test]
    async fn an_asker_that_is_dropped_does_not_lose_the_answer_for_the_others() {
        let source = Source::new(0);
        let mut first = Box::pin(source.get(7));
        assert!(first.as_mut().now_or_never().is_none());
        let others: Vec<_> = (0..10)
            .map(|_| {
                let source = Arc::clone(&source);
                tokio::spawn(async move { source.get(7).await })
            })
            .collect();
        tokio::task::yield_now().await;
        drop(first);
        source.permits.add_permits(1);
        for task in others {
            assert_eq!(task.await.unwrap(), Ok(2), "one of them asks, and once");
        }
        assert_eq!(source.asked(), 2);
    }

    #[tokio::test]
    async fn a_failure_is_for_those_who_wait_and_is_not_kept() {
        let source = Source::new(0);
        let tasks: Vec<_> = (0..10)
            .map(|_| {
                let source = Arc::clone(&source);
                tokio::spawn(async move { source.get(0).await })
            })
            .collect();
        tokio::task::yield_now().await;
        source.permits.add_permits(1);
        for task in tasks {
            assert_eq!(task.await.unwrap(), Err("failed".to_owned()));
        }
        assert_eq!(source.asked(), 1);
        assert_eq!(source.answers.len(), 0);
        source.permits.add_permits(1);
        assert!(source.get(0).await.is_err());
        assert_eq!(source.asked(), 2, "the next one asks");
    }

    #[tokio::test]
    async fn many_questions_take_no_more_than_their_room_and_those_in_use_stay() {
        let source = Source::new(10_000);
        for key in 1..5000 {
            source.get(1_000_000).await.unwrap();
            source.get(key).await.unwrap();
            assert!(source.answers.len() <= 100, "{}", source.answers.len());
        }
        assert_eq!(source.asked(), 5000, "the one that was in use was asked for once");
    }

    proptest! {
        #[test]
        fn the_same_as_a_map_with_times(steps in proptest::collection::vec((1_u32..6, 0_u64..7), 1..60)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
            runtime.block_on(async {
                let source = Source::new(1000);
                let mut model: HashMap<u32, (usize, Instant)> = HashMap::new();
                let mut asked = 0;
                for (key, wait) in steps {
                    tokio::time::advance(Duration::from_secs(wait)).await;
                    let now = Instant::now();
                    let expected = match model.get(&key) {
                        Some((answer, end)) if now < *end => *answer,
                        _ => {
                            asked += 1;
                            model.insert(key, (asked, now + KEPT));
                            asked
                        }
                    };
                    prop_assert_eq!(source.get(key).await, Ok(expected));
                }
                prop_assert_eq!(source.asked(), asked);
                Ok(())
            })?;
        }
    }
}
