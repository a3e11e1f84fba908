//! The accounts of a run: compares every delivery and acknowledgement with the published messages.

use std::time::Instant;

use anyhow::{Result, bail};

use crate::dialect::{Event, Qos};
use crate::histogram::Histogram;
use crate::payload::Label;
use crate::plan::Plan;
use crate::publisher::{Publisher, Turns};
use crate::tracker::{Faults, Tracker};

/// What subscribers received, and how far publishers may go on.
pub(crate) struct Account {
    pub(crate) publishers: Vec<Publisher>,
    trackers: Vec<Tracker>,
    streams_each: u32,
    origin: Instant,
    pub(crate) latencies: Histogram,
    pub(crate) deliveries: u64,
    /// Answers that nothing was asked for: there should be none.
    unasked: u64,
}

impl Account {
    /// Connections 0.. are the plan's subscribers, those behind them its publishers.
    pub(crate) fn new(plan: Plan) -> Self {
        let shape = plan.shape;
        let streams_each = shape.streams_each();
        let due_each = shape.copies() + u32::from(plan.qos != Qos::AtMostOnce);
        let publishers = (0..shape.publishers()).map(|number| {
            let connection = (shape.subscribers() + number) as usize;
            let turns = Turns::new(number * streams_each, streams_each, shape.channels_each());
            Publisher::new(connection, turns, due_each, plan.window)
        });
        let trackers = (0..shape.subscribers()).map(|number| Tracker::new(shape.streams_of(number)));
        Self {
            publishers: publishers.collect(),
            trackers: trackers.collect(),
            streams_each,
            origin: Instant::now(),
            latencies: Histogram::new(),
            deliveries: 0,
            unasked: 0,
        }
    }

    /// The time of this account, in nanoseconds.
    pub(crate) fn now(&self) -> u64 {
        self.origin.elapsed().as_nanos() as u64
    }

    /// Enters what one connection has just received.
    pub(crate) fn enter(&mut self, index: usize, events: &[Event]) {
        let now = self.now();
        for event in events {
            match *event {
                Event::Delivered(label) => self.deliver(index, label, now),
                Event::Acknowledged(id) => {
                    let publisher = index
                        .checked_sub(self.trackers.len())
                        .and_then(|number| self.publishers.get_mut(number));
                    if !publisher.is_some_and(|publisher| publisher.acknowledged(id)) {
                        self.unasked += 1;
                    }
                }
                Event::Opened | Event::Subscribed => self.unasked += 1,
            }
        }
    }

    fn deliver(&mut self, index: usize, label: Label, now: u64) {
        let Some(tracker) = self.trackers.get_mut(index) else {
            self.unasked += 1; // a push to a publisher, which never subscribed
            return;
        };
        for sequence in tracker.deliver(label) {
            let publisher = &mut self.publishers[(label.stream / self.streams_each) as usize];
            let sent_at = publisher.delivered(Label { sequence, ..label });
            self.latencies.record(now.saturating_sub(sent_at));
            self.deliveries += 1;
        }
    }

    /// Compares with what was published.
    ///
    /// # Errors
    /// Answers that are missing, or that nobody asked for.
    pub(crate) fn close(self) -> Result<Faults> {
        let (publishers, streams_each) = (self.publishers, self.streams_each);
        let mut faults = Faults::default();
        for tracker in self.trackers {
            faults += tracker.finish(|stream| publishers[(stream / streams_each) as usize].published(stream));
        }
        if faults.total() == 0 && !publishers.iter().all(Publisher::is_settled) {
            bail!("everything was delivered, but acknowledgements are missing");
        }
        if self.unasked > 0 {
            bail!("{} answers to nothing that was asked", self.unasked);
        }
        Ok(faults)
    }
}
