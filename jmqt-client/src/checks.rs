//! QoS 0 publishes with an id, which a server answers only if it refuses them (protocol.md 2.5).
//!
//! A server handles packets in order (protocol.md 2.10), so the answer to a heartbeat that was sent behind such a publish
//! says that the publish was not refused. One heartbeat serves all that went before it, and the next one is sent when the
//! last one was answered: however many messages flow, there is one per round trip.
//!
//! Not here: the bytes of the publishes and the heartbeats (`outbound`).

use std::collections::VecDeque;
use std::time::Duration;

use jmqt_protocol::StatusCode;
use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::{Error, Receipt};

/// The prefix of their ids. Ids of QoS 1 publishes are numbers (protocol.md 2.23), so these differ from them.
const PREFIX: char = 'q';

#[derive(Debug, Default)]
pub(crate) struct Checks {
    last_id: u64,
    /// In the order of their ids.
    entries: VecDeque<Entry>,
    /// How many of them this connection has had.
    handed: usize,
    /// How many bytes were queued, and how many of these have left the queue, since the client began.
    queued_bytes: u64,
    left_bytes: u64,
    /// Heartbeats that are not answered yet.
    beats: VecDeque<Beat>,
}

#[derive(Debug)]
struct Entry {
    id: u64,
    /// Where its bytes begin, of all that were ever queued.
    at: u64,
    done: oneshot::Sender<Result<(), Error>>,
}

impl Entry {
    fn finish(self, outcome: Result<(), Error>) {
        // Nobody needs to wait for it.
        let _ = self.done.send(outcome);
    }
}

#[derive(Debug)]
struct Beat {
    number: u64,
    /// The last publish that went before it.
    last_id: u64,
    sent: Instant,
}

impl Checks {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The id of the next publish that is [added](Self::add).
    pub(crate) fn next_id(&self) -> String {
        format!("{PREFIX}{}", self.last_id + 1)
    }

    /// A publish with the next id was queued.
    pub(crate) fn add(&mut self, length: usize) -> Receipt {
        self.last_id += 1;
        let (done, receipt) = oneshot::channel();
        self.entries.push_back(Entry { id: self.last_id, at: self.queued_bytes, done });
        self.queued_bytes += length as u64;
        Receipt::new(receipt)
    }

    /// A publish without an id was queued.
    pub(crate) fn pass(&mut self, length: usize) -> Receipt {
        self.queued_bytes += length as u64;
        Receipt::of_qos0()
    }

    /// The oldest publish in the queue, of this length, was dropped.
    pub(crate) fn drop_queued(&mut self, length: usize) {
        self.left_bytes += length as u64;
        while self.entries.get(self.handed).is_some_and(|entry| entry.at < self.left_bytes) {
            if let Some(entry) = self.entries.remove(self.handed) {
                entry.finish(Err(Error::Dropped));
            }
        }
    }

    /// Everything in the queue goes to the connection now.
    pub(crate) fn hand_over(&mut self) {
        self.handed = self.entries.len();
        self.left_bytes = self.queued_bytes;
    }

    /// Whether a heartbeat has to follow what was handed over.
    pub(crate) fn want_beat(&self) -> bool {
        self.handed > 0 && self.beats.is_empty()
    }

    /// All heartbeats up to this number go to the connection now, behind what was handed over.
    pub(crate) fn beat_sent(&mut self, number: u64) {
        let Some(last) = self.handed.checked_sub(1).and_then(|last| self.entries.get(last)) else { return };
        if self.beats.back().is_none_or(|beat| beat.number < number) {
            self.beats.push_back(Beat { number, last_id: last.id, sent: Instant::now() });
        }
    }

    /// The server has handled everything before this heartbeat.
    pub(crate) fn beat_answered(&mut self, number: u64) {
        while let Some(beat) = pop_front_if(&mut self.beats, |beat| beat.number <= number) {
            self.finish_up_to(beat.last_id, &Ok(()));
        }
    }

    /// A `pubAck`. `None` if its id is not that of a checked publish.
    pub(crate) fn answered(&mut self, id: &str, status: StatusCode, data: Option<&str>) -> Option<bool> {
        let id: u64 = id.strip_prefix(PREFIX)?.parse().ok()?;
        let at = self.entries.binary_search_by_key(&id, |entry| entry.id).ok().filter(|at| *at < self.handed);
        let Some(entry) = at.and_then(|at| self.entries.remove(at)) else { return Some(false) };
        self.handed -= 1;
        entry.finish(if status.is_ok() { Ok(()) } else { Err(Error::refused_publish(status, data)) });
        Some(true)
    }

    /// Gives up publishes whose heartbeat was not answered within `limit`.
    pub(crate) fn expire(&mut self, limit: Duration) {
        while let Some(beat) = pop_front_if(&mut self.beats, |beat| beat.sent.elapsed() >= limit) {
            self.finish_up_to(
                beat.last_id,
                &Err(Error::Timeout { what: "the check of a QoS 0 publish", limit }),
            );
        }
    }

    /// What this connection has had may have arrived or not. The rest goes to the next one.
    pub(crate) fn end_connection(&mut self) {
        self.beats.clear();
        for entry in self.entries.drain(..self.handed) {
            entry.finish(Err(Error::ConnectionLost));
        }
        self.handed = 0;
    }

    /// Fails the publishes that are in the queue, and says where in it their bytes begin.
    pub(crate) fn fail_queued(&mut self, error: &Error) -> Vec<usize> {
        let mut starts = Vec::new();
        for entry in self.entries.drain(self.handed..) {
            starts.push(usize::try_from(entry.at - self.left_bytes).unwrap_or(usize::MAX));
            entry.finish(Err(error.clone()));
        }
        starts
    }

    /// The bytes of these publishes were taken out of the queue.
    pub(crate) fn cut_queued(&mut self, length: usize) {
        self.queued_bytes -= length as u64;
    }

    /// Nothing will be sent any more.
    pub(crate) fn close(&mut self) {
        self.end_connection();
        for entry in self.entries.drain(..) {
            entry.finish(Err(Error::Closed));
        }
    }

    fn finish_up_to(&mut self, id: u64, outcome: &Result<(), Error>) {
        while self.handed > 0
            && let Some(entry) = pop_front_if(&mut self.entries, |entry| entry.id <= id)
        {
            self.handed -= 1;
            entry.finish(outcome.clone());
        }
    }
}

/// `VecDeque::pop_front_if`, which the oldest Rust that builds this crate does not have.
fn pop_front_if<T>(queue: &mut VecDeque<T>, is_wanted: impl FnOnce(&T) -> bool) -> Option<T> {
    if queue.front().is_some_and(is_wanted) { queue.pop_front() } else { None }
}
