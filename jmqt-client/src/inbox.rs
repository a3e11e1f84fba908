//! Pushes on their way from the socket to the application: bounded, and never in the socket's way.
//!
//! QoS 0 beyond the limit pushes out the oldest QoS 0, and is counted. QoS 1 is only refused when it alone
//! exceeds the limit, which a server that respects our window hardly brings about: it then stays with the server,
//! and is fetched by a new connection when the stream has been read.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use crate::Push;

/// What may wait in an inbox.
pub(crate) trait Waiting {
    /// The bytes it takes.
    fn cost(&self) -> usize;
    /// Whether it is to be acknowledged, and so not dropped.
    fn is_acknowledged(&self) -> bool;
}

impl Waiting for Push {
    fn cost(&self) -> usize {
        self.cost()
    }

    fn is_acknowledged(&self) -> bool {
        self.id().is_some()
    }
}

/// What waits for one stream.
#[derive(Debug)]
pub(crate) struct Inbox<T = Push> {
    limit: usize,
    /// Messages that are to be acknowledged are taken up to this many bytes.
    acknowledged_limit: usize,
    state: Mutex<State<T>>,
}

#[derive(Debug)]
struct State<T> {
    /// Each with its place in the order of arrival.
    at_most_once: VecDeque<(u64, T)>,
    at_least_once: VecDeque<(u64, T)>,
    arrived: u64,
    bytes: usize,
    dropped: u64,
    /// A QoS 1 push was refused on this connection, so those after it must be too.
    overflowed: bool,
    ended: bool,
    /// The server ended the connection for good, and the application has not asked for another one.
    stopped: bool,
    /// The reader has read everything, and knows that it was the end.
    finished: bool,
    /// Nobody will read it.
    abandoned: bool,
    wakers: Vec<Waker>,
}

/// What [`Inbox::take`] found.
pub(crate) enum Taken {
    /// Something; `refetch`: that was the last, and more is left with the server.
    Some { refetch: bool },
    /// Nothing yet; the waker is kept.
    Nothing,
    /// Nothing, and nothing will come unless the application connects again.
    Stopped,
    /// Nothing, and nothing will come.
    End,
}

impl<T: Waiting> Inbox<T> {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit, acknowledged_limit: limit, state: Mutex::default() }
    }

    /// The limit is for messages that need no acknowledgement. Of the others there are no more than the caller lets come.
    pub(crate) fn taking_all_acknowledged(limit: usize) -> Self {
        Self { limit, acknowledged_limit: usize::MAX, state: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes over what came, in order. Hands back the QoS 1 pushes there is no room for, or `None` and leaves
    /// everything where it is if nobody will read it.
    pub(crate) fn offer(&self, pushes: &mut Vec<T>) -> Option<Vec<T>> {
        let mut refused = Vec::new();
        let mut state = self.lock();
        if state.abandoned {
            return None;
        }
        for push in pushes.drain(..) {
            if let Some(push) = state.add(push, self.limit, self.acknowledged_limit) {
                refused.push(push);
            }
        }
        state.wake();
        Some(refused)
    }

    /// Puts back what was taken and not used, in front of everything else.
    pub(crate) fn put_back(&self, pushes: impl DoubleEndedIterator<Item = T>) {
        let mut state = self.lock();
        for push in pushes.rev() {
            state.bytes += push.cost();
            match push.is_acknowledged() {
                true => state.at_least_once.push_front((0, push)),
                false => state.at_most_once.push_front((0, push)),
            }
        }
        state.wake();
    }

    /// Takes out what waits for a new stream, in order of arrival; `true` with it: a QoS 1 push was refused on this
    /// connection, which may have been one of these.
    pub(crate) fn take_where(&self, is_wanted: impl Fn(&T) -> bool) -> (Vec<T>, bool) {
        let mut state = self.lock();
        let pushes = state.take_where(is_wanted);
        if state.is_empty() {
            state.release();
        }
        (pushes, state.overflowed)
    }

    /// QoS 1 pushes were refused before it began: more of them would be out of order, until a new connection.
    pub(crate) fn inherit_overflow(&self) {
        self.lock().overflowed = true;
    }

    /// Moves up to `most` pushes to `to`, in order of arrival.
    pub(crate) fn take(&self, to: &mut VecDeque<T>, most: usize, waker: &Waker) -> Taken {
        let mut state = self.lock();
        for _ in 0..most {
            let Some(push) = state.pop() else { break };
            to.push_back(push);
        }
        if !to.is_empty() {
            let drained = state.is_empty();
            let refetch = drained && std::mem::take(&mut state.overflowed);
            if drained {
                state.release();
            }
            return Taken::Some { refetch };
        }
        if state.ended {
            state.finished = true;
            return Taken::End;
        }
        if state.stopped {
            return Taken::Stopped;
        }
        if !state.wakers.iter().any(|known| known.will_wake(waker)) {
            state.wakers.push(waker.clone());
        }
        Taken::Nothing
    }

    /// How many messages have come so far: the place of the newest.
    pub(crate) fn arrived(&self) -> u64 {
        self.lock().arrived
    }

    /// Takes out what came up to this place.
    pub(crate) fn take_until(&self, place: u64) -> Vec<T> {
        let mut state = self.lock();
        let mut taken = Vec::new();
        while state.front_place().is_some_and(|front| front <= place) {
            taken.extend(state.pop());
        }
        taken
    }

    /// Whether such a message waits.
    pub(crate) fn has(&self, is_wanted: impl Fn(&T) -> bool) -> bool {
        let state = self.lock();
        state.at_least_once.iter().chain(&state.at_most_once).any(|(_, push)| is_wanted(push))
    }

    /// Nobody waits for acknowledgements of what came so far: from now on it may be dropped.
    pub(crate) fn forget_acknowledgements(&self) {
        let mut state = self.lock();
        let mut all = std::mem::take(&mut state.at_least_once);
        all.append(&mut state.at_most_once);
        all.make_contiguous().sort_by_key(|(place, _)| *place);
        state.at_most_once = all;
    }

    /// There will be no more.
    pub(crate) fn end(&self) {
        let mut state = self.lock();
        state.ended = true;
        state.wake();
    }

    /// There will be no more, unless it goes on.
    pub(crate) fn stop(&self) {
        let mut state = self.lock();
        state.stopped = true;
        state.wake();
    }

    /// There may be more again.
    pub(crate) fn go_on(&self) {
        self.lock().stopped = false;
    }

    /// Whether nobody has to read it any more.
    pub(crate) fn is_done(&self) -> bool {
        let state = self.lock();
        state.finished || state.abandoned
    }

    /// A new connection brings what was refused on the last one.
    pub(crate) fn begin_connection(&self) {
        self.lock().overflowed = false;
    }

    /// How many QoS 0 pushes were dropped because nobody read.
    pub(crate) fn dropped(&self) -> u64 {
        self.lock().dropped
    }

    /// Nobody will read it any more: hands back what waits.
    pub(crate) fn abandon(&self) -> Vec<T> {
        let mut state = self.lock();
        state.abandoned = true;
        std::iter::from_fn(|| state.pop()).collect()
    }
}

impl<T> Default for State<T> {
    fn default() -> Self {
        Self {
            at_most_once: VecDeque::new(),
            at_least_once: VecDeque::new(),
            arrived: 0,
            bytes: 0,
            dropped: 0,
            overflowed: false,
            ended: false,
            stopped: false,
            finished: false,
            abandoned: false,
            wakers: Vec::new(),
        }
    }
}

impl<T: Waiting> State<T> {
    fn is_empty(&self) -> bool {
        self.at_most_once.is_empty() && self.at_least_once.is_empty()
    }

    fn add(&mut self, push: T, limit: usize, acknowledged_limit: usize) -> Option<T> {
        let cost = push.cost();
        if push.is_acknowledged() && self.overflowed {
            return Some(push);
        }
        while self.bytes + cost > limit {
            let Some((_, oldest)) = self.at_most_once.pop_front() else { break };
            self.bytes -= oldest.cost();
            self.dropped += 1;
        }
        // Alone in it, a push of any size is taken.
        let limit = if push.is_acknowledged() { acknowledged_limit } else { limit };
        if self.bytes + cost > limit && !self.at_least_once.is_empty() {
            if push.is_acknowledged() {
                self.overflowed = true;
                return Some(push);
            }
            self.dropped += 1;
            return None;
        }
        self.bytes += cost;
        self.arrived += 1;
        let entry = (self.arrived, push);
        if entry.1.is_acknowledged() {
            self.at_least_once.push_back(entry);
        } else {
            self.at_most_once.push_back(entry);
        }
        None
    }

    fn take_where(&mut self, is_wanted: impl Fn(&T) -> bool) -> Vec<T> {
        let is_of = |(_, push): &(u64, T)| is_wanted(push);
        let mut taken = Vec::new();
        // Of the same place in the order QoS 1 comes first, as in `pop`.
        for queue in [&mut self.at_least_once, &mut self.at_most_once] {
            if !queue.iter().any(is_of) {
                continue;
            }
            let (of_channel, others) = std::mem::take(queue).into_iter().partition::<VecDeque<_>, _>(is_of);
            *queue = others;
            taken.extend(of_channel);
        }
        taken.sort_by_key(|(place, _)| *place);
        self.bytes -= taken.iter().map(|(_, push)| push.cost()).sum::<usize>();
        taken.into_iter().map(|(_, push)| push).collect()
    }

    fn front_place(&self) -> Option<u64> {
        let places = [self.at_most_once.front(), self.at_least_once.front()];
        places.into_iter().flatten().map(|(place, _)| *place).min()
    }

    fn pop(&mut self) -> Option<T> {
        let queue = match (self.at_most_once.front(), self.at_least_once.front()) {
            (Some((zero, _)), Some((one, _))) if one <= zero => &mut self.at_least_once,
            (Some(_), _) => &mut self.at_most_once,
            (None, _) => &mut self.at_least_once,
        };
        let (_, push) = queue.pop_front()?;
        self.bytes -= push.cost();
        Some(push)
    }

    fn wake(&mut self) {
        self.wakers.drain(..).for_each(Waker::wake);
    }

    /// An idle stream keeps no memory of a busy time.
    fn release(&mut self) {
        const KEPT: usize = 1024;
        self.at_most_once.shrink_to(KEPT);
        self.at_least_once.shrink_to(KEPT);
    }
}
