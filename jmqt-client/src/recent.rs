//! Which QoS 1 pushes of a channel have been seen lately, so that a redelivery is handed over once (§9.a).

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

use tokio::time::Instant;

/// How many ids are remembered for each channel.
const REMEMBERED: usize = 4096;

/// What has become of a push that came before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It did not come before.
    New,
    /// The application has it, or it waits for the application: not yet acknowledged.
    Held,
    /// It has been acknowledged; that may not have reached the server.
    Acknowledged,
}

/// The last ids of one channel, as 64-bit hashes under a key made at random: a server cannot choose
/// ids that collide, and by chance it happens once in 2^52 messages.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    hasher: RandomState,
    order: VecDeque<u64>,
    acknowledged: HashMap<u64, bool>,
    /// How many of them are not acknowledged.
    held: usize,
    /// One has been acknowledged since the last [`look`](Self::look).
    progressed: bool,
    /// Since when too many have been held without any acknowledgement, and whether that was told.
    stalled: Option<(Instant, bool)>,
}

impl Recent {
    /// Notes that this push came, and says whether it had come before.
    pub(crate) fn see(&mut self, id: &str) -> Seen {
        let hash = self.hasher.hash_one(id);
        match self.acknowledged.get(&hash) {
            Some(true) => return Seen::Acknowledged,
            Some(false) => return Seen::Held,
            None => {}
        }
        if self.order.len() == REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            let was_held = self.acknowledged.remove(&oldest) == Some(false);
            self.held -= usize::from(was_held);
        }
        self.order.push_back(hash);
        self.acknowledged.insert(hash, false);
        self.held += 1;
        Seen::New
    }

    /// Notes that the application has taken it; `false` if that was known.
    pub(crate) fn acknowledge(&mut self, id: &str) -> bool {
        match self.acknowledged.get_mut(&self.hasher.hash_one(id)) {
            Some(acknowledged) => {
                let is_first = !std::mem::replace(acknowledged, true);
                self.held -= usize::from(is_first);
                self.progressed |= is_first;
                is_first
            }
            // Forgotten in the meantime, so nobody can say: once too often does no harm.
            None => true,
        }
    }

    /// Takes back that it came, unless it has been acknowledged: the next time it is new.
    pub(crate) fn forget(&mut self, id: &str) {
        let hash = self.hasher.hash_one(id);
        if self.acknowledged.get(&hash) == Some(&false) {
            self.acknowledged.remove(&hash);
            self.order.retain(|other| *other != hash);
            self.held -= 1;
        }
    }

    /// Looks whether the application has acknowledged nothing for `limit` although it holds `most` pushes or more. Says
    /// how many, once until that changes.
    pub(crate) fn look(&mut self, most: usize, limit: Duration, now: Instant) -> Option<usize> {
        if std::mem::take(&mut self.progressed) || self.held < most {
            self.stalled = None;
        }
        if self.held < most {
            return None;
        }
        let (since, told) = self.stalled.get_or_insert((now, false));
        let is_news = !*told && now.duration_since(*since) >= limit;
        if is_news {
            *told = true;
        }
        is_news.then_some(self.held)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // §9.a
    fn a_push_is_new_once() {
        let mut recent = Recent::default();
        assert_eq!(recent.see("1"), Seen::New);
        assert_eq!(recent.see("1"), Seen::Held);
        assert!(recent.acknowledge("1"));
        assert!(!recent.acknowledge("1"));
        assert_eq!(recent.see("1"), Seen::Acknowledged);
    }

    #[test]
    fn a_push_that_was_given_back_is_new_again_unless_it_was_acknowledged() {
        let mut recent = Recent::default();
        recent.see("1");
        recent.forget("1");
        assert_eq!(recent.see("1"), Seen::New);
        recent.acknowledge("1");
        recent.forget("1");
        assert_eq!(recent.see("1"), Seen::Acknowledged);
    }

    #[test]
    fn a_channel_with_unacknowledged_pushes_is_reported_once() {
        let limit = Duration::from_secs(10);
        let start = Instant::now();
        let mut recent = Recent::default();
        for id in ["1", "2", "3"] {
            recent.see(id);
        }
        assert_eq!(recent.look(4, limit, start), None);
        assert_eq!(recent.look(3, limit, start), None);
        assert_eq!(recent.look(3, limit, start + limit), Some(3));
        assert_eq!(recent.look(3, limit, start + limit * 2), None);
        // Acknowledging is the slow path.
        recent.acknowledge("1");
        recent.see("4");
        assert_eq!(recent.look(3, limit, start + limit * 3), None);
        assert_eq!(recent.look(3, limit, start + limit * 4), Some(3));
    }

    #[test]
    fn the_last_4096_are_remembered_and_no_more() {
        let mut recent = Recent::default();
        for id in 0..REMEMBERED + 1 {
            assert_eq!(recent.see(&id.to_string()), Seen::New);
        }
        assert_eq!(recent.see("1"), Seen::Held);
        assert_eq!(recent.see("0"), Seen::New);
        assert_eq!((recent.order.len(), recent.acknowledged.len()), (REMEMBERED, REMEMBERED));
    }
}
