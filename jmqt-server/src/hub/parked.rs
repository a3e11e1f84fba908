//! Logs that cannot be read, or not to their end. They are retried less and less often; other logs are not affected.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::outbox::Subscription;
use crate::store::ChannelKey;

/// The first pause before a log is read again.
const SHORTEST: Duration = Duration::from_millis(250);
/// The longest pause while the database is unavailable or lags behind.
pub(super) const LONGEST_FOR_DATABASE: Duration = Duration::from_secs(1);
/// The longest pause if the log is damaged.
pub(super) const LONGEST_FOR_LOG: Duration = Duration::from_secs(60);
/// The number of subscriptions that retry one log at a time. After a success all others follow.
const TRIES: usize = 8;

/// Subscriptions that wait for their log to be readable.
#[derive(Default)]
pub(super) struct Parked {
    /// `true` if a log is parked, so that readers of other logs need no lock.
    any: AtomicBool,
    logs: Mutex<HashMap<ChannelKey, ParkedLog, foldhash::fast::RandomState>>,
}

struct ParkedLog {
    pause: Duration,
    until: Instant,
    waiting: VecDeque<Weak<Subscription>>,
}

impl Parked {
    fn lock(&self) -> MutexGuard<'_, HashMap<ChannelKey, ParkedLog, foldhash::fast::RandomState>> {
        self.logs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns `true` if the log must not be read now. The subscription then waits with the others.
    pub(super) fn joins(&self, key: ChannelKey, subscription: &Arc<Subscription>, now: Instant) -> bool {
        if !self.any.load(Ordering::Relaxed) {
            return false;
        }
        let mut logs = self.lock();
        let Some(log) = logs.get_mut(&key).filter(|log| now < log.until) else { return false };
        log.waiting.push_back(Arc::downgrade(subscription));
        true
    }

    /// Records that a log could not be read for this subscription. Returns its waiting time.
    pub(super) fn failed(
        &self,
        key: ChannelKey,
        subscription: &Arc<Subscription>,
        longest: Duration,
        now: Instant,
    ) -> Duration {
        let mut logs = self.lock();
        self.any.store(true, Ordering::Relaxed);
        let log = logs.entry(key).or_insert_with(|| ParkedLog {
            pause: SHORTEST / 2,
            until: now,
            waiting: VecDeque::new(),
        });
        if now >= log.until {
            log.pause = (log.pause * 2).min(longest);
            log.until = now + log.pause;
        } // else it was read for several at once
        log.waiting.push_back(Arc::downgrade(subscription));
        log.until - now
    }

    /// Records that a log was read. Returns the subscriptions that waited for it.
    pub(super) fn succeeded(&self, key: ChannelKey) -> VecDeque<Weak<Subscription>> {
        if !self.any.load(Ordering::Relaxed) {
            return VecDeque::new();
        }
        let mut logs = self.lock();
        let waiting = logs.remove(&key).map(|log| log.waiting).unwrap_or_default();
        self.any.store(!logs.is_empty(), Ordering::Relaxed);
        waiting
    }

    /// The subscriptions whose retry is due.
    pub(super) fn due(&self, now: Instant) -> Vec<Arc<Subscription>> {
        if !self.any.load(Ordering::Relaxed) {
            return Vec::new();
        }
        let mut logs = self.lock();
        let mut due = Vec::new();
        logs.retain(|_, log| {
            if now < log.until {
                return true;
            }
            let enough = due.len() + TRIES;
            while due.len() < enough
                && let Some(subscription) = log.waiting.pop_front()
            {
                due.extend(subscription.upgrade());
            }
            // The length of the pause is kept while a task may be reading.
            !log.waiting.is_empty() || now < log.until + LONGEST_FOR_LOG
        });
        self.any.store(!logs.is_empty(), Ordering::Relaxed);
        due
    }
}
