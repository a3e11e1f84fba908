//! Retained messages of many topics, and the subscriber that collects them with one filter.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::connection::Connection;
use crate::dialect::{Event, Persistence, Publish, Qos};
use crate::payload::{Label, Payload};
use crate::plan::Names;
use crate::server::Server;
use crate::swarm::{Member, PATIENCE, Swarm};
use crate::tracker::{Faults, Tracker};

const PUBLISHER: usize = 0;
const SUBSCRIBER: usize = 1;
/// How many publishes may be unacknowledged.
const WINDOW: u32 = 1_000;
const WAIT: Duration = Duration::from_millis(10);
/// After the last message, how long to look for one too many.
const EXTRA_LOOK: Duration = Duration::from_millis(50);

/// A server that has the messages, and a subscriber that has not subscribed yet.
pub(crate) struct Collection {
    swarm: Swarm,
    messages: u32,
    tracker: Tracker,
    arrived: u32,
}

impl Collection {
    /// Publishes the messages; returns when the server has acknowledged all of them.
    pub(crate) fn set_up(server: &Server, messages: u32) -> Result<Self> {
        let mut swarm = Swarm::new()?;
        let member = |name: &str, qos| Member {
            name: name.to_owned(),
            streams: 0..0,
            names: Names::Channels,
            dialect: server.dialect(qos, Persistence::Temporary),
            endpoint: 0,
        };
        let members = vec![member("p", Qos::AtLeastOnce), member("s", Qos::AtMostOnce)];
        swarm.join(&server.endpoints, members, 1)?;
        let mut collection = Self { swarm, messages, tracker: Tracker::new(0..messages), arrived: 0 };
        collection.publish()?;
        Ok(collection)
    }

    fn publish(&mut self) -> Result<()> {
        let mut payload = Payload::new();
        let (mut sent, mut acknowledged) = (0, 0);
        let mut last_progress = Instant::now();
        while acknowledged < self.messages {
            let Connection { dialect, outgoing, .. } = &mut self.swarm.connections[PUBLISHER];
            while sent < self.messages && sent - acknowledged < WINDOW {
                let publish = Publish {
                    channel: &Names::Channels.published(sent),
                    payload: payload.labelled(Label { stream: sent, sequence: 0 }),
                    id: (sent % WINDOW + 1) as u16,
                    retain: true,
                };
                dialect.publish(&publish, outgoing);
                sent += 1;
            }
            self.swarm.flush(PUBLISHER)?;
            self.swarm.poll(Some(WAIT), |_, _, events| {
                let is_answer = |event: &&Event| matches!(event, Event::Acknowledged(_));
                acknowledged += events.iter().filter(is_answer).count() as u32;
                last_progress = Instant::now(); // only the publisher has events
                Ok(())
            })?;
            if last_progress.elapsed() > PATIENCE {
                bail!("{acknowledged} retained messages were acknowledged, then nothing more");
            }
        }
        Ok(())
    }

    /// Subscribes, and returns when all messages have arrived, or nothing comes any more.
    pub(crate) fn collect(&mut self) -> Result<()> {
        let Connection { dialect, outgoing, .. } = &mut self.swarm.connections[SUBSCRIBER];
        dialect.subscribe("#", outgoing);
        self.swarm.flush(SUBSCRIBER)?;
        let mut last_progress = Instant::now();
        while self.arrived < self.messages && last_progress.elapsed() < PATIENCE {
            let before = self.arrived;
            self.receive()?;
            if self.arrived > before {
                last_progress = Instant::now();
            }
        }
        Ok(())
    }

    /// Looks for messages too many, and compares with what was published.
    pub(crate) fn close(mut self) -> Result<Faults> {
        let end = Instant::now() + EXTRA_LOOK;
        while Instant::now() < end {
            self.receive()?;
        }
        Ok(self.tracker.finish(|_| 1))
    }

    fn receive(&mut self) -> Result<()> {
        let Self { swarm, tracker, arrived, .. } = self;
        swarm.poll(Some(WAIT), |_, _, events| {
            for event in events {
                if let Event::Delivered(label) = *event {
                    *arrived += tracker.deliver(label).len() as u32;
                }
            }
            Ok(())
        })?;
        Ok(())
    }
}
