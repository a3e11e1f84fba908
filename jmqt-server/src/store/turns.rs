//! The operations that wait for the committer: one queue per source. Sources take turns.
//!
//! A source is a client, or the application. Operations of one source keep their order. Operations of several sources are
//! also carried out in the order of their arrival, if no source has more waiting than its share of a batch. A source with
//! more does not delay the others: while others are active, it gets only its share, so that batches
//! stay short. Before a batch that would contain only such a source, the committer waits a moment for recently served
//! sources with few operations, because they would otherwise just miss each batch.
//!
//! A source that is held gets no turns, until it is resumed.
//!
//! Pure: no locks, and the caller supplies the time.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// The most operations of a batch,
const BATCH_OPERATIONS: usize = 1024;
/// and its most bytes.
const BATCH_BYTES: usize = 4 << 20;
/// All operations of a source are taken at once if it never had more than this waiting.
const LITTLE_OPERATIONS: usize = 128;
const LITTLE_BYTES: usize = 256 << 10;
/// The share of any other source in a batch while others are active,
const SHARE_OPERATIONS: usize = 16;
const SHARE_BYTES: usize = 64 << 10;
/// and the share of all such sources together: a batch should not take much longer than without them.
const CROWD_OPERATIONS: usize = 24;
const CROWD_BYTES: usize = 256 << 10;
/// How long after serving a small source another small source is expected.
const COME_AND_GO: Duration = Duration::from_millis(100);
/// The most waiting bytes of one source; one operation is always accepted.
const SOURCE_OPERATIONS: usize = 1024;
const SOURCE_BYTES: usize = 8 << 20;
/// After a batch with this many sources, waiting for them is not necessary.
const REMEMBERED: usize = 64;
/// After a wait without effect, this number of batches do not wait.
const BATCHES_AFTER_A_USELESS_WAIT: u32 = 16;
/// Empty queues kept for reuse, and their largest capacity.
const SPARE_QUEUES: usize = 64;
const SPARE_OPERATIONS: usize = LITTLE_OPERATIONS;

/// A source, whose operations keep their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Source(pub(crate) u64);

/// The place of an operation: its source, and its number among all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) source: Source,
    pub(super) number: u64,
}

struct Waiting<T> {
    number: u64,
    /// The operation that must be taken before this one.
    after: Option<Place>,
    bytes: usize,
    item: T,
}

struct Queue<T> {
    waiting: VecDeque<Waiting<T>>,
    bytes: usize,
    /// The source has never had more than [`LITTLE_OPERATIONS`] waiting.
    is_light: bool,
    /// Notifies submitters that wait for room.
    room: Option<Arc<Notify>>,
}

impl<T> Queue<T> {
    /// Notifies submitters that wait for room, if there is some.
    fn let_in(&mut self) {
        if self.waiting.len() <= SOURCE_OPERATIONS / 2
            && self.bytes <= SOURCE_BYTES / 2
            && let Some(waiting) = self.room.take()
        {
            waiting.notify_waiters();
        }
    }
}

/// See the module.
pub(super) struct Turns<T> {
    next: u64,
    queues: HashMap<Source, Queue<T>, foldhash::fast::RandomState>,
    /// The sources with waiting operations that are not held, the next one first.
    order: VecDeque<Source>,
    held: HashSet<Source, foldhash::fast::RandomState>,
    /// Operations that wait for all earlier operations of all sources.
    fences: VecDeque<Waiting<T>>,
    spare: Vec<VecDeque<Waiting<T>>>,
    /// The time when a small source was last served.
    last_light: Option<Instant>,
    /// The small sources in the last batches, the last batch first.
    served: [Vec<Source>; 3],
    /// The number of further batches that do not wait.
    batches_without_wait: u32,
}

impl<T> Default for Turns<T> {
    fn default() -> Self {
        Self {
            next: 0,
            queues: HashMap::default(),
            order: VecDeque::new(),
            held: HashSet::default(),
            fences: VecDeque::new(),
            spare: Vec::new(),
            last_light: None,
            served: [const { Vec::new() }; 3],
            batches_without_wait: 0,
        }
    }
}

/// The remaining room of a batch.
struct Room {
    operations: usize,
    bytes: usize,
    is_empty: bool,
}

impl Room {
    const fn new(operations: usize, bytes: usize) -> Self {
        Self { operations, bytes, is_empty: true }
    }

    /// Returns `true` if an operation fits; the first one always fits.
    fn fits(&self, bytes: usize) -> bool {
        self.is_empty || (self.operations > 0 && self.bytes >= bytes)
    }

    fn take(&mut self, bytes: usize) {
        self.operations = self.operations.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.is_empty = false;
    }
}

impl<T> Turns<T> {
    pub(super) fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.fences.is_empty()
    }

    /// The number of waiting entries.
    pub(super) fn len(&self) -> usize {
        self.queues.values().map(|queue| queue.waiting.len()).sum::<usize>() + self.fences.len()
    }

    /// Adds an operation that must not be taken before `after`. Returns its place.
    pub(super) fn push(&mut self, source: Source, after: Option<Place>, bytes: usize, item: T) -> Place {
        let number = self.number();
        let spare = &mut self.spare;
        let queue = self.queues.entry(source).or_insert_with(|| {
            if !self.held.contains(&source) {
                self.order.push_back(source);
            }
            let waiting = spare.pop().unwrap_or_default();
            Queue { waiting, bytes: 0, is_light: true, room: None }
        });
        queue.bytes += bytes;
        queue.waiting.push_back(Waiting { number, after, bytes, item });
        queue.is_light &= queue.waiting.len() <= LITTLE_OPERATIONS && queue.bytes <= LITTLE_BYTES;
        Place { source, number }
    }

    /// Adds an operation without a source that must not be taken before `after`.
    pub(super) fn push_alone(&mut self, after: Option<Place>, bytes: usize, item: T) {
        // A number that no client has, or hardly any: then it comes after what that has asked for.
        self.push(Source(!self.next), after, bytes, item);
    }

    /// Adds an operation that must not be taken before all earlier operations.
    pub(super) fn push_fence(&mut self, item: T) {
        let number = self.number();
        self.fences.push_back(Waiting { number, after: None, bytes: 0, item });
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Takes nothing more of this source, until it is [resumed](Self::resume).
    pub(super) fn hold(&mut self, source: Source) {
        if self.held.insert(source) {
            self.order.retain(|other| *other != source);
        }
    }

    /// The source takes its turns again.
    pub(super) fn resume(&mut self, source: Source) {
        if self.held.remove(&source) && self.queues.contains_key(&source) {
            self.order.push_back(source);
        }
    }

    /// Removes waiting operations of one source, and returns them in order.
    pub(super) fn extract(&mut self, source: Source, mut is_wanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let Some(queue) = self.queues.get_mut(&source) else { return Vec::new() };
        let (mut extracted, mut kept) = (Vec::new(), VecDeque::new());
        for waiting in queue.waiting.drain(..) {
            if is_wanted(&waiting.item) {
                queue.bytes -= waiting.bytes;
                extracted.push(waiting.item);
            } else {
                kept.push_back(waiting);
            }
        }
        queue.waiting = kept;
        queue.let_in();
        if queue.waiting.is_empty() {
            self.queues.remove(&source);
            self.order.retain(|other| *other != source);
        }
        extracted
    }

    /// If this source has reached its limit of waiting operations: the notification to wait for before the next try.
    pub(super) fn wait_for_room(&mut self, source: Source, bytes: usize) -> Option<OwnedNotified> {
        let queue = self.queues.get_mut(&source)?;
        if queue.waiting.len() < SOURCE_OPERATIONS && queue.bytes + bytes <= SOURCE_BYTES {
            return None;
        }
        Some(Arc::clone(queue.room.get_or_insert_default()).notified_owned())
    }

    /// Returns `true` if the next batch should wait: all waiting operations are of sources with more than their share, and
    /// small sources were in the last batch and in an earlier one, and may return in a moment.
    pub(super) fn is_worth_waiting(&self) -> bool {
        let [last, earlier @ ..] = &self.served;
        if last.is_empty() || self.order.is_empty() || self.batches_without_wait > 0 {
            return false;
        }
        let is_heavy = |source: &Source| self.queues.get(source).is_some_and(|queue| !queue.is_light);
        let is_missing = |source: &&Source| {
            !self.queues.contains_key(source) && earlier.iter().any(|batch| batch.contains(source))
        };
        self.order.iter().any(is_heavy) && last.iter().any(|source| is_missing(&source))
    }

    /// Records a wait without new operations.
    pub(super) fn waited_without_effect(&mut self) {
        self.batches_without_wait = BATCHES_AFTER_A_USELESS_WAIT;
    }

    /// The next batch, in the order of arrival. Empty only if no operation waits, or all wait for sources that are held.
    pub(super) fn take(&mut self, now: Instant) -> Vec<T> {
        let waiting = self.queues.values().map(|queue| queue.waiting.len()).sum::<usize>();
        let mut batch = Vec::with_capacity(waiting.min(BATCH_OPERATIONS));
        let mut room = Room::new(BATCH_OPERATIONS, BATCH_BYTES);
        let others_come = self.others_come(now);
        let mut crowd = match others_come {
            true => Room::new(CROWD_OPERATIONS, CROWD_BYTES),
            false => Room::new(BATCH_OPERATIONS, BATCH_BYTES),
        };
        let mut light = Vec::new();
        loop {
            let taken = batch.len();
            self.take_round(&mut batch, &mut room, &mut crowd, &mut light);
            if others_come || batch.len() == taken || room.operations == 0 {
                break;
            }
        }
        if !light.is_empty() {
            self.last_light = Some(now);
        }
        light.truncate(if light.len() > REMEMBERED { 0 } else { REMEMBERED });
        self.served.rotate_right(1);
        self.served[0] = light;
        self.batches_without_wait = self.batches_without_wait.saturating_sub(1);
        self.take_fences(&mut batch);
        if !batch.is_sorted_by_key(|(number, _)| *number) {
            batch.sort_by_cached_key(|(number, _)| *number);
        }
        batch.into_iter().map(|(_, item)| item).collect()
    }

    /// Returns `true` if a small source waits, or was served a moment ago.
    fn others_come(&self, now: Instant) -> bool {
        if self.order.len() < 2 {
            let one = self.order.front().and_then(|source| self.queues.get(source));
            if one.is_none_or(|one| one.is_light) {
                return true; // all operations are taken anyway
            }
        }
        self.last_light.is_some_and(|then| now.saturating_duration_since(then) < COME_AND_GO)
            || self.order.iter().any(|source| self.queues.get(source).is_some_and(|queue| queue.is_light))
    }

    /// Each source has one turn.
    fn take_round(
        &mut self,
        batch: &mut Vec<(u64, T)>,
        room: &mut Room,
        crowd: &mut Room,
        light: &mut Vec<Source>,
    ) {
        let mut left_out = VecDeque::new();
        for _ in 0..self.order.len() {
            let Some(source) = self.order.pop_front() else { break };
            let Some(mut queue) = self.queues.remove(&source) else { continue };
            let is_light = queue.is_light;
            let mut share = match is_light {
                true => Room::new(LITTLE_OPERATIONS, LITTLE_BYTES),
                false => Room::new(SHARE_OPERATIONS, SHARE_BYTES),
            };
            let before = batch.len();
            while let Some(first) = queue.waiting.front() {
                let bytes = first.bytes;
                let fits = room.fits(bytes) && share.fits(bytes) && (is_light || crowd.fits(bytes));
                if !fits || first.after.is_some_and(|place| self.waits(place)) {
                    break;
                }
                let Some(first) = queue.waiting.pop_front() else { break };
                room.take(bytes);
                share.take(bytes);
                if !is_light {
                    crowd.take(bytes);
                }
                queue.bytes -= bytes;
                batch.push((first.number, first.item));
            }
            let has_taken = batch.len() > before;
            queue.let_in();
            if queue.waiting.is_empty() {
                if is_light {
                    light.push(source);
                }
                if self.spare.len() < SPARE_QUEUES && queue.waiting.capacity() <= SPARE_OPERATIONS {
                    self.spare.push(queue.waiting);
                }
                continue;
            }
            self.queues.insert(source, queue);
            if has_taken { self.order.push_back(source) } else { left_out.push_back(source) }
        }
        // Sources that got nothing come first next time.
        while let Some(source) = left_out.pop_back() {
            self.order.push_front(source);
        }
    }

    /// Returns `true` if the operation with this place is still waiting.
    fn waits(&self, place: Place) -> bool {
        let first = self.queues.get(&place.source).and_then(|queue| queue.waiting.front());
        first.is_some_and(|first| first.number <= place.number)
    }

    fn take_fences(&mut self, batch: &mut Vec<(u64, T)>) {
        if self.fences.is_empty() {
            return;
        }
        let firsts = self.queues.values().filter_map(|queue| queue.waiting.front());
        let first = firsts.map(|waiting| waiting.number).min().unwrap_or(u64::MAX);
        while let Some(fence) = self.fences.pop_front_if(|fence| fence.number < first) {
            batch.push((fence.number, fence.item));
        }
    }

    /// Drops all waiting operations.
    pub(super) fn clear(&mut self) {
        for (_, mut queue) in self.queues.drain() {
            if let Some(waiting) = queue.room.take() {
                waiting.notify_waiters();
            }
        }
        self.order.clear();
        self.fences.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAVY: Source = Source(1);
    const LIGHT: Source = Source(2);

    fn fill(turns: &mut Turns<(Source, usize)>, source: Source, operations: usize) {
        for number in 0..operations {
            turns.push(source, None, 10, (source, number));
        }
    }

    fn of(batch: &[(Source, usize)], source: Source) -> Vec<usize> {
        batch.iter().filter(|(of, _)| *of == source).map(|(_, number)| *number).collect()
    }

    #[test]
    fn a_single_operation_is_in_the_next_batch_behind_any_backlog() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        fill(&mut turns, HEAVY, 5000);
        fill(&mut turns, LIGHT, 1);
        let batch = turns.take(now);
        assert_eq!(of(&batch, LIGHT), [0]);
        assert_eq!(of(&batch, HEAVY), (0..SHARE_OPERATIONS).collect::<Vec<_>>(), "and it is short");
        assert_eq!(turns.take(now).len(), SHARE_OPERATIONS, "somebody may come");
        assert_eq!(turns.take(now + COME_AND_GO).len(), BATCH_OPERATIONS, "nobody did");
    }

    #[test]
    fn many_sources_take_turns_and_each_keeps_its_order() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        for source in 0..50 {
            fill(&mut turns, Source(source), 100);
        }
        let mut seen: HashMap<Source, Vec<usize>> = HashMap::new();
        let mut first_batches = Vec::new();
        while !turns.is_empty() {
            let batch = turns.take(now);
            assert!(batch.len() <= BATCH_OPERATIONS);
            first_batches.push(batch.len());
            for (source, number) in batch {
                seen.entry(source).or_default().push(number);
            }
        }
        assert_eq!(first_batches.len(), 5, "no more than needed: {first_batches:?}");
        assert!(seen.values().all(|numbers| numbers.iter().copied().eq(0..100)));
    }

    #[test]
    fn operations_of_one_batch_keep_the_order_of_arrival() {
        let mut turns = Turns::default();
        for number in 0..60 {
            turns.push(Source(number % 7), None, 1, number);
        }
        assert!(turns.take(Instant::now()).into_iter().eq(0..60));
    }

    #[test]
    fn bytes_are_shared_like_operations_and_an_oversized_operation_is_taken_alone() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        for number in 0..10 {
            turns.push(HEAVY, None, BATCH_BYTES * 2, (HEAVY, number));
        }
        fill(&mut turns, LIGHT, 3);
        assert_eq!(of(&turns.take(now), HEAVY), [0]);
        assert!(turns.take(now).iter().all(|(of, _)| *of == LIGHT));
        assert_eq!(turns.take(now), [(HEAVY, 1)]);
    }

    #[test]
    fn operations_wait_for_their_predecessor_and_a_fence_waits_for_all() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        fill(&mut turns, HEAVY, 200);
        let place = turns.push(HEAVY, None, 10, (HEAVY, 200));
        turns.push(LIGHT, Some(place), 10, (LIGHT, 0));
        turns.push_fence((Source(9), 0));
        fill(&mut turns, LIGHT, 1);
        fill(&mut turns, Source(3), 1);
        let mut order = Vec::new();
        while !turns.is_empty() {
            order.extend(turns.take(now));
        }
        let at = |wanted| order.iter().position(|it| *it == wanted).unwrap();
        assert!(at((HEAVY, 200)) < at((LIGHT, 0)) && at((LIGHT, 0)) < at((Source(9), 0)));
        assert!(at((Source(3), 0)) < at((HEAVY, 100)), "it waits for nobody");
        assert_eq!(order.len(), 205);
    }

    #[test]
    fn a_batch_waits_only_for_sources_that_usually_return() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        fill(&mut turns, HEAVY, 1000);
        for _ in 0..2 {
            fill(&mut turns, LIGHT, 16);
            turns.take(now);
        }
        assert!(turns.is_worth_waiting());
        fill(&mut turns, LIGHT, 1);
        assert!(!turns.is_worth_waiting(), "it has come back");
        turns.take(now);
        assert!(turns.is_worth_waiting());
        turns.waited_without_effect();
        assert!(!turns.is_worth_waiting());
        while !turns.is_empty() {
            turns.take(now);
        }
        fill(&mut turns, LIGHT, 16);
        turns.take(now);
        assert!(!turns.is_worth_waiting(), "nothing else waits");
    }

    #[test]
    fn a_held_source_waits_and_others_do_not() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        fill(&mut turns, HEAVY, 3);
        turns.hold(HEAVY);
        fill(&mut turns, LIGHT, 2);
        turns.push_fence((Source(9), 0));
        fill(&mut turns, HEAVY, 1);
        assert_eq!(turns.take(now), [(LIGHT, 0), (LIGHT, 1)]);
        assert!(turns.take(now).is_empty() && !turns.is_empty());
        assert_eq!(turns.extract(HEAVY, |(_, number)| *number > 0), [(HEAVY, 1), (HEAVY, 2)]);
        turns.resume(HEAVY);
        assert_eq!(turns.take(now), [(HEAVY, 0), (Source(9), 0), (HEAVY, 0)]);
        assert!(turns.is_empty());

        turns.hold(HEAVY);
        turns.resume(HEAVY);
        fill(&mut turns, HEAVY, 1);
        assert_eq!(turns.extract(HEAVY, |_| true).len(), 1);
        assert!(turns.is_empty() && turns.take(now).is_empty());
    }

    #[tokio::test]
    async fn only_a_source_with_a_large_backlog_waits_for_room() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        fill(&mut turns, HEAVY, SOURCE_OPERATIONS);
        assert!(turns.wait_for_room(LIGHT, SOURCE_BYTES * 2).is_none());
        let full = turns.wait_for_room(HEAVY, 1).unwrap();
        turns.take(now);
        full.await;
        assert!(turns.wait_for_room(HEAVY, 1).is_none());
    }
}
