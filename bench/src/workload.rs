//! The work of a contestant in one run, and the resulting figures.

use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::dialect::{Persistence, Qos};
use crate::plan::{Names, Plan};
use crate::retained::Collection;
use crate::server::usage::{self, Usage};
use crate::server::{Kind, Listener, Places, Server};
use crate::swarm::{Member, Swarm};
use crate::tracker::Faults;
use crate::traffic::Traffic;

/// Connections that are open before memory is read the first time: what a server allocates once for all
/// (stacks, caches) is not counted as somebody's.
const FIRST_CONNECTIONS: u32 = 100;
/// Handshakes under way at a time.
const PARALLEL: usize = 50;
/// Memory is read once it has not changed for this many seconds, or at the latest after this many: servers
/// tidy up behind their clients on timers (Redis drops query buffers after two seconds, for one).
const STEADY_SECONDS: u32 = 4;
const SETTLE_SECONDS: u32 = 20;

/// One kind of load.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Workload {
    Traffic(Plan),
    /// Connections that each subscribe to a channel of their own, and then do nothing.
    Idle {
        connections: u32,
    },
    /// Connect, authenticate, subscribe, as fast as it goes.
    Connect {
        connections: u32,
    },
    /// One subscriber collects all retained messages, each of a topic of its own, with the filter `#`.
    Retained {
        messages: u32,
    },
}

/// One number that a run yields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Metric {
    /// Deliveries (or connections) per second.
    Rate,
    /// The server's CPU time per delivery (or connection), in µs.
    Cpu,
    /// Delivery latency, in µs.
    P50,
    P99,
    /// Resident memory per idle connection.
    Bytes,
    /// From a request to the last byte of what it brings, in ms.
    Took,
    /// The load generator's own CPU time, in percent of one core: at 100 it is what was measured.
    GeneratorPercent,
}

/// What one run showed.
#[derive(Debug, Clone)]
pub(crate) struct Figures {
    pub(crate) values: Vec<(Metric, f64)>,
    pub(crate) faults: Faults,
}

impl Figures {
    pub(crate) fn value(&self, metric: Metric) -> Option<f64> {
        let found = self.values.iter().find(|(of, _)| *of == metric);
        found.map(|&(_, value)| value)
    }
}

/// How long a run of messages takes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) warm_up: Duration,
    pub(crate) measure: Duration,
}

impl Workload {
    /// Starts a fresh server, puts the load on it, and stops it.
    pub(crate) fn run(
        self,
        places: &Places,
        (kind, listener): (Kind, Listener),
        times: Times,
    ) -> Result<Figures> {
        let server = Server::start(places, kind, listener)?;
        let figures = match self {
            Self::Traffic(plan) => traffic(&server, plan, times),
            Self::Idle { connections } => idle(&server, connections),
            Self::Connect { connections } => connect(&server, connections),
            Self::Retained { messages } => retained(&server, messages),
        };
        figures.map_err(|error| server.explain(error))
    }
}

fn traffic(server: &Server, plan: Plan, times: Times) -> Result<Figures> {
    let traffic = Traffic::set_up(server, plan)?;
    let measured = traffic.run(server, times.warm_up, times.measure)?;
    let seconds = measured.elapsed.as_secs_f64();
    let deliveries = measured.deliveries as f64;
    Ok(Figures {
        values: vec![
            (Metric::Rate, deliveries / seconds),
            (Metric::Cpu, micros(measured.server_cpu) / deliveries),
            (Metric::P50, micros(measured.p50)),
            (Metric::P99, micros(measured.p99)),
            (Metric::GeneratorPercent, 100.0 * measured.generator_cpu.as_secs_f64() / seconds),
        ],
        faults: measured.faults,
    })
}

fn idle(server: &Server, connections: u32) -> Result<Figures> {
    let mut swarm = Swarm::new()?;
    swarm.join(&server.endpoints, idlers(server, 0, FIRST_CONNECTIONS), PARALLEL)?;
    let before = settled_memory(server)?;
    let more = idlers(server, FIRST_CONNECTIONS, connections);
    swarm.join(&server.endpoints, more, PARALLEL)?;
    let grown = settled_memory(server)?.saturating_sub(before);
    Ok(Figures {
        values: vec![(Metric::Bytes, grown as f64 / f64::from(connections))],
        faults: Faults::default(),
    })
}

/// Resident bytes, when they have stopped changing by more than a hundredth.
fn settled_memory(server: &Server) -> Result<u64> {
    let mut last = server.usage()?.resident_bytes;
    let mut steady = 0;
    for _ in 0..SETTLE_SECONDS {
        sleep(Duration::from_secs(1));
        let now = server.usage()?.resident_bytes;
        steady = if now.abs_diff(last) * 100 > last { 0 } else { steady + 1 };
        last = now;
        if steady == STEADY_SECONDS {
            break;
        }
    }
    Ok(last)
}

fn connect(server: &Server, connections: u32) -> Result<Figures> {
    let mut swarm = Swarm::new()?;
    swarm.join(&server.endpoints, idlers(server, 0, FIRST_CONNECTIONS), PARALLEL)?;
    let members = idlers(server, FIRST_CONNECTIONS, connections);
    let (server_before, own_before) = (server.usage()?, usage::of_this_process()?);
    let start = Instant::now();
    swarm.join(&server.endpoints, members, PARALLEL)?;
    let seconds = start.elapsed().as_secs_f64();
    let (server_after, own_after) = (server.usage()?, usage::of_this_process()?);
    let count = f64::from(connections);
    let own_seconds = Usage::cpu_between(&own_before, &own_after).as_secs_f64();
    Ok(Figures {
        values: vec![
            (Metric::Rate, count / seconds),
            (Metric::Cpu, micros(Usage::cpu_between(&server_before, &server_after)) / count),
            (Metric::GeneratorPercent, 100.0 * own_seconds / seconds),
        ],
        faults: Faults::default(),
    })
}

fn retained(server: &Server, messages: u32) -> Result<Figures> {
    let mut collection = Collection::set_up(server, messages)?;
    let (server_before, own_before) = (server.usage()?, usage::of_this_process()?);
    let start = Instant::now();
    collection.collect()?;
    let seconds = start.elapsed().as_secs_f64();
    let (server_after, own_after) = (server.usage()?, usage::of_this_process()?);
    let own_seconds = Usage::cpu_between(&own_before, &own_after).as_secs_f64();
    Ok(Figures {
        values: vec![
            (Metric::Took, seconds * 1e3),
            (Metric::Cpu, micros(Usage::cpu_between(&server_before, &server_after)) / f64::from(messages)),
            (Metric::GeneratorPercent, 100.0 * own_seconds / seconds),
        ],
        faults: collection.close()?,
    })
}

fn idlers(server: &Server, first: u32, count: u32) -> Vec<Member> {
    let idler = |number| Member {
        name: format!("i{number:06}"),
        streams: number..number + 1,
        names: Names::Channels,
        dialect: server.dialect(Qos::AtMostOnce, Persistence::Temporary),
        endpoint: 0,
    };
    (first..first + count).map(idler).collect()
}

fn micros(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}
