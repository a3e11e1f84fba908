//! One run of messages: publishers with windows, subscribers that count, and the cost.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::account::Account;
use crate::connection::Connection;
use crate::dialect::{Persistence, Publish};
use crate::payload::Payload;
use crate::plan::{Pace, Plan};
use crate::publisher::Publisher;
use crate::server::Server;
use crate::server::usage::{self, Usage};
use crate::swarm::{Member, PATIENCE, Swarm};
use crate::tracker::Faults;

/// Handshakes under way at a time while a run is set up.
const PARALLEL_JOINS: usize = 50;
/// A saturated run continues until this many windows were delivered: less would be one burst, not a flow. A slow
/// server gets this many times the usual time.
const WINDOWS: u64 = 4;
const LONGEST: u32 = 4;
/// Well within the 60 s that our server grants a silent client.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// After the last delivery that is due, how long to look for one too many.
const EXTRA_LOOK: Duration = Duration::from_millis(50);

/// What a run showed.
pub(crate) struct Measured {
    pub(crate) elapsed: Duration,
    pub(crate) deliveries: u64,
    pub(crate) server_cpu: Duration,
    pub(crate) generator_cpu: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99: Duration,
    pub(crate) faults: Faults,
}

/// The state of a run.
pub(crate) struct Traffic {
    plan: Plan,
    swarm: Swarm,
    account: Account,
    channels: Vec<String>,
    payload: Payload,
    last_heartbeat: Instant,
    /// Messages sent since pacing began; `None` before.
    paced: Option<(Instant, u64)>,
}

impl Traffic {
    /// Connects everybody; returns when all subscriptions are confirmed.
    pub(crate) fn set_up(server: &Server, plan: Plan) -> Result<Self> {
        let shape = plan.shape;
        let mut swarm = Swarm::new()?;
        let subscribers = (0..shape.subscribers()).map(|number| Member {
            name: format!("s{number:06}"),
            streams: shape.streams_of(number),
            names: plan.names,
            dialect: server.dialect(plan.qos, plan.persistence),
            endpoint: shape.node_of_subscriber(number, server.endpoints.len()),
        });
        let publishers = (0..shape.publishers()).map(|number| Member {
            name: format!("p{number:06}"),
            streams: 0..0,
            names: plan.names,
            dialect: server.dialect(plan.qos, Persistence::Temporary),
            endpoint: 0,
        });
        let members = subscribers.chain(publishers).collect();
        swarm.join(&server.endpoints, members, PARALLEL_JOINS)?;

        let streams = shape.publishers() * shape.streams_each();
        Ok(Self {
            plan,
            swarm,
            account: Account::new(plan),
            channels: (0..streams).map(|stream| plan.names.published(stream)).collect(),
            payload: Payload::new(),
            last_heartbeat: Instant::now(),
            paced: None,
        })
    }

    /// Warms up, measures, lets everything arrive that is under way, and closes the account.
    pub(crate) fn run(mut self, server: &Server, warm_up: Duration, time: Duration) -> Result<Measured> {
        self.stream(warm_up, 1)?;
        self.account.latencies.clear();
        let deliveries = self.account.deliveries;
        let (server_before, own_before) = (server.usage()?, usage::of_this_process()?);
        let start = Instant::now();
        self.stream(time, WINDOWS)?;
        let elapsed = start.elapsed();
        let (server_after, own_after) = (server.usage()?, usage::of_this_process()?);
        let deliveries = self.account.deliveries - deliveries;
        let quantile = |fraction| Duration::from_nanos(self.account.latencies.quantile(fraction));
        let (p50, p99) = (quantile(0.5), quantile(0.99));
        self.drain()?;
        Ok(Measured {
            elapsed,
            deliveries,
            server_cpu: Usage::cpu_between(&server_before, &server_after),
            generator_cpu: Usage::cpu_between(&own_before, &own_after),
            p50,
            p99,
            faults: self.account.close()?,
        })
    }

    /// Publishes and receives for this long and this many windows, or until nothing has come for too long.
    fn stream(&mut self, time: Duration, windows: u64) -> Result<()> {
        let (end, latest) = (Instant::now() + time, Instant::now() + time * LONGEST);
        let enough = match self.plan.pace {
            Pace::Saturated => self.account.deliveries + windows * self.plan.deliveries_per_window(),
            Pace::PerSecond(_) | Pace::PartOf { .. } => 0,
        };
        let mut seen = (self.account.deliveries, Instant::now());
        loop {
            let wait = self.publish_what_is_due()?;
            self.receive(wait)?;
            let now = Instant::now();
            if now - self.last_heartbeat > HEARTBEAT {
                self.last_heartbeat = now;
                self.swarm.heartbeat()?;
            }
            if now >= end && (now >= latest || self.account.deliveries >= enough) {
                return Ok(());
            }
            if self.account.deliveries > seen.0 {
                seen = (self.account.deliveries, now);
            } else if now - seen.1 > PATIENCE {
                bail!("no delivery for {} s", PATIENCE.as_secs());
            }
        }
    }

    /// Receives what is still under way. What does not come in time is left to the account.
    fn drain(&mut self) -> Result<()> {
        let mut last_progress = Instant::now();
        while !self.account.publishers.iter().all(Publisher::is_settled) {
            if self.receive(Duration::from_millis(10))? > 0 {
                last_progress = Instant::now();
            } else if last_progress.elapsed() > PATIENCE {
                return Ok(());
            }
        }
        let end = Instant::now() + EXTRA_LOOK;
        while Instant::now() < end {
            self.receive(Duration::from_millis(10))?;
        }
        Ok(())
    }

    fn receive(&mut self, wait: Duration) -> Result<usize> {
        let account = &mut self.account;
        self.swarm.poll(Some(wait), |_: &mut [Connection], index, events| {
            account.enter(index, events);
            Ok(())
        })
    }

    /// Sends what windows and pace allow; answers how long nothing more can become due by itself.
    fn publish_what_is_due(&mut self) -> Result<Duration> {
        match self.plan.pace {
            Pace::Saturated => {
                for number in 0..self.account.publishers.len() {
                    let publisher = &self.account.publishers[number];
                    if publisher.is_batch_due() {
                        self.publish(number, publisher.room())?;
                    }
                }
                Ok(Duration::from_millis(10))
            }
            Pace::PerSecond(rate) => self.publish_paced(rate),
            Pace::PartOf { .. } => bail!("the pace of this run has not been settled"),
        }
    }

    /// Publishers take turns, so that the whole is evenly spread.
    fn publish_paced(&mut self, rate: f64) -> Result<Duration> {
        let (start, mut sent) = self.paced.unwrap_or_else(|| (Instant::now(), 0));
        let count = self.account.publishers.len();
        let due = (start.elapsed().as_secs_f64() * rate) as u64 + 1;
        let waiting = due.saturating_sub(sent);
        for turn in 0..waiting.min(count as u64) {
            // As many as fell due for this one; usually that is one.
            let share = (waiting - turn).div_ceil(count as u64);
            let number = ((sent + turn) % count as u64) as usize;
            let room = self.account.publishers[number].room();
            self.publish(number, share.min(room))?;
        }
        sent += waiting;
        self.paced = Some((start, sent));
        let next = start + Duration::from_secs_f64(sent as f64 / rate);
        Ok(next.saturating_duration_since(Instant::now()))
    }

    /// Encodes this many messages, stamps them, and writes them in one go. While the kernel still has not
    /// taken the last batch there is no next one.
    fn publish(&mut self, number: usize, count: u64) -> Result<()> {
        let now = self.account.now();
        let publisher = &mut self.account.publishers[number];
        let index = publisher.connection;
        let Connection { dialect, outgoing, .. } = &mut self.swarm.connections[index];
        if count == 0 || !outgoing.is_empty() {
            return Ok(());
        }
        for _ in 0..count {
            let (label, id) = publisher.take(now);
            let publish = Publish {
                channel: &self.channels[label.stream as usize],
                payload: self.payload.labelled(label),
                id,
                retain: false,
            };
            dialect.publish(&publish, outgoing);
        }
        self.swarm.flush(index)
    }
}
