//! Messages that no stream is for: how long they wait for one, and how often the log tells of those that were dropped.
//!
//! An application that has just resumed its session is still about to subscribe, so in the first seconds of a client nothing is
//! acknowledged that no stream has taken. Later such messages are acknowledged when they come: they must not hold up others
//! [MQTT-4.5.0-2]. The inbox keeps them for a while all the same.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::time::Instant;

/// How long they wait for a stream, and how long after the first session begins they are not acknowledged.
const WAIT: Duration = Duration::from_secs(10);
const TOLD_EVERY: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(crate) struct Unclaimed {
    /// How many [`Messages`](super::Messages) there are. While there is one, its messages are acknowledged by it.
    readers: usize,
    /// When the first session began.
    began: Option<Instant>,
    has_begun: bool,
    /// Up to which place messages had come at the last looks at the clock.
    looks: VecDeque<(Instant, u64)>,
    dropped: u64,
    untold: u64,
    told: Option<Instant>,
}

impl Unclaimed {
    /// A session begins.
    pub(crate) fn session(&mut self) {
        self.began.get_or_insert_with(Instant::now);
    }

    pub(crate) fn reader_begins(&mut self) {
        self.readers += 1;
        self.looks.clear();
    }

    /// What it has not read begins to wait.
    pub(crate) const fn reader_ends(&mut self) {
        self.readers -= 1;
    }

    pub(crate) const fn is_read(&self) -> bool {
        self.readers > 0
    }

    /// Whether a message is acknowledged when it comes.
    pub(crate) const fn is_acknowledged(&self) -> bool {
        !self.is_read() && self.has_begun
    }

    /// The place up to which messages have waited long enough; `arrived` is the place of the newest.
    pub(crate) fn due(&mut self, arrived: u64) -> Option<u64> {
        let now = Instant::now();
        self.has_begun |= self.began.is_some_and(|began| now - began >= WAIT);
        if self.is_read() {
            return None;
        }
        if self.looks.back().is_none_or(|(_, known)| *known < arrived) {
            self.looks.push_back((now, arrived));
        }
        let mut due = None;
        while let Some(&(_, place)) = self.looks.front().filter(|(at, _)| now - *at >= WAIT) {
            self.looks.pop_front();
            due = Some(place);
        }
        due
    }

    /// A message was dropped.
    pub(crate) const fn count(&mut self) {
        self.dropped += 1;
        self.untold += 1;
    }

    pub(crate) const fn dropped(&self) -> u64 {
        self.dropped
    }

    /// How many were dropped since the log told of it, if it is time to.
    pub(crate) fn tell(&mut self) -> Option<u64> {
        let now = Instant::now();
        if self.untold == 0 || self.told.is_some_and(|told| now - told < TOLD_EVERY) {
            return None;
        }
        self.told = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}
