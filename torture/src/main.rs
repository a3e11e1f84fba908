//! Causes one fault after another in a cluster under load, and lists the rules that were broken.
//!
//! `make torture MINUTES=10`, or `cargo run --release --bin torture -- --minutes 10 --seed 7`: three nodes, a
//! balancer, a MariaDB and a Redis, all private. The printed seed determines the faults and what clients do; their
//! timing depends on the machine. The exit code is 0 if no rule was broken, 1 if one was, which is printed, and 2 after wrong
//! usage.

// What fails here is a test that fails.
#![allow(clippy::unwrap_used)]

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use torture::{Cluster, Load, LoadOptions, Options, Random};

#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// How long the load and the faults go on.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=60))]
    minutes: u64,
    /// What faults and clients choose by; without it, something new.
    #[arg(long)]
    seed: Option<u64>,
}

/// What can be done to a cluster.
#[derive(Debug, Clone, Copy)]
enum Fault {
    KillNode(usize),
    RestartNode(usize),
    PauseNode(usize, Duration),
    CutNode(usize, Duration),
    KillRedis(Duration),
    PauseRedis(Duration),
    KillMariaDb(Duration),
    RestartAll,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KillNode(node) => write!(f, "kill -9 of node {node}"),
            Self::RestartNode(node) => write!(f, "orderly restart of node {node}"),
            Self::PauseNode(node, time) => write!(f, "node {node} is paused for {time:?}"),
            Self::CutNode(node, time) => write!(f, "node {node} is cut off from Redis for {time:?}"),
            Self::KillRedis(time) => write!(f, "kill -9 of Redis, which is away for {time:?}"),
            Self::PauseRedis(time) => write!(f, "Redis is paused for {time:?}"),
            Self::KillMariaDb(time) => write!(f, "kill -9 of MariaDB, which is away for {time:?}"),
            Self::RestartAll => write!(f, "orderly restart of all nodes, one after another"),
        }
    }
}

impl Fault {
    fn choose(random: &mut Random, nodes: usize) -> Self {
        let node = usize::try_from(random.below(nodes as u64)).unwrap();
        let short = Duration::from_millis(200 + random.below(2_000));
        let long = Duration::from_millis(1_000 + random.below(9_000));
        match random.below(10) {
            0..=2 => Self::KillNode(node),
            3 => Self::RestartNode(node),
            4 => Self::PauseNode(node, long),
            5 => Self::CutNode(node, long),
            6 => Self::KillRedis(short),
            7 => Self::PauseRedis(long),
            8 => Self::KillMariaDb(short),
            _ => Self::RestartAll,
        }
    }

    /// Whether a node can be started while it lasts.
    const fn lets_nodes_start(self) -> bool {
        !matches!(self, Self::KillMariaDb(_))
    }

    /// Whether it is over as soon as it has happened.
    const fn is_brief(self) -> bool {
        matches!(self, Self::KillNode(_) | Self::RestartNode(_) | Self::RestartAll)
    }

    /// Does it; those that last are undone by [`end`](Self::end).
    async fn begin(self, cluster: &mut Cluster) {
        match self {
            Self::KillNode(node) => {
                cluster.nodes[node].kill();
                cluster.nodes[node].restart().await;
            }
            Self::RestartNode(node) => {
                cluster.nodes[node].stop().await;
                cluster.nodes[node].restart().await;
            }
            Self::RestartAll => {
                for node in &mut cluster.nodes {
                    node.stop().await;
                    node.restart().await;
                }
            }
            Self::PauseNode(node, _) => cluster.nodes[node].pause(),
            Self::CutNode(node, _) => cluster.nodes[node].redis.cut(),
            Self::KillRedis(_) => cluster.redis.kill(),
            Self::PauseRedis(_) => cluster.redis.pause(),
            Self::KillMariaDb(_) => cluster.mariadb.kill(),
        }
    }

    /// Waits as long as it lasts, and undoes it.
    async fn end(self, cluster: &mut Cluster) {
        match self {
            Self::KillNode(_) | Self::RestartNode(_) | Self::RestartAll => {}
            Self::PauseNode(node, time) => {
                tokio::time::sleep(time).await;
                cluster.nodes[node].resume();
            }
            Self::CutNode(node, time) => {
                tokio::time::sleep(time).await;
                cluster.nodes[node].redis.repair();
            }
            Self::KillRedis(time) => {
                tokio::time::sleep(time).await;
                cluster.redis.launch().await;
            }
            Self::PauseRedis(time) => {
                tokio::time::sleep(time).await;
                cluster.redis.resume();
            }
            Self::KillMariaDb(time) => {
                tokio::time::sleep(time).await;
                cluster.mariadb.launch().await;
            }
        }
    }

    /// What may happen while this lasts; `None` for nothing.
    fn choose_beside(self, random: &mut Random, nodes: usize) -> Option<Self> {
        let other = Self::choose(random, nodes);
        let fits = !self.is_brief()
            && other.is_brief()
            && self.lets_nodes_start()
            && !matches!((self, other), (Self::PauseNode(..), Self::RestartAll))
            && !matches!((self, other), (Self::PauseNode(a, _), Self::RestartNode(b)) if a == b);
        fits.then_some(other)
    }
}

/// Between two faults every publisher gets this many acknowledgements.
const PROGRESS: usize = 40;

async fn run(minutes: u64, seed: u64) -> ExitCode {
    let start = Instant::now();
    let Some(mut cluster) = Cluster::start(Options { nodes: 3, balancer: true }).await else {
        return ExitCode::FAILURE;
    };
    let mut targets = cluster.targets();
    targets.extend([cluster.front(); 3]);
    let options = LoadOptions {
        publishers: 4,
        subscribers: 4,
        mqtt: 4,
        wills: 2,
        groups: 1,
        channels: 5,
        churn: Some(Duration::from_secs(5)),
        rivals: 2,
        seed,
        ..LoadOptions::default()
    };
    let load = Load::start(targets, options).await;
    let mut random = Random::new(seed);
    while start.elapsed() < Duration::from_secs(60 * minutes) {
        let fault = Fault::choose(&mut random, cluster.nodes.len());
        let beside = fault.choose_beside(&mut random, cluster.nodes.len());
        let seconds = start.elapsed().as_secs_f32();
        print!("{seconds:6.1} s  {:7} acknowledged  {fault}", load.journal().acked());
        if let Some(beside) = beside {
            print!(", and meanwhile {beside}");
        }
        print!(" ... ");
        // Who does not see this line does not miss the result.
        let _ = std::io::stdout().flush();
        fault.begin(&mut cluster).await;
        if let Some(beside) = beside {
            beside.begin(&mut cluster).await;
        }
        fault.end(&mut cluster).await;
        load.progress(PROGRESS).await;
        let took = start.elapsed().as_secs_f32() - seconds;
        println!("{took:.1} s, {} messages to be received", load.journal().behind());
        if !load.journal().problems().is_empty() {
            break; // it does not get better
        }
    }
    println!("{:6.1} s  all is up: waiting for quiet", start.elapsed().as_secs_f32());
    let report = load.finish(&cluster).await;
    println!("{report}");
    if report.problems.is_empty() {
        return ExitCode::SUCCESS;
    }
    for node in &cluster.nodes {
        println!("---- the log of {} ends with:\n{}", node.name, node.log_tail());
    }
    println!("seed {seed}");
    ExitCode::FAILURE
}

#[tokio::main]
async fn main() -> ExitCode {
    let Arguments { minutes, seed } = Arguments::parse();
    let seed = seed.unwrap_or_else(|| getrandom::u64().unwrap());
    println!("seed {seed}, {minutes} minutes");
    // A panic is something that did not happen in time.
    tokio::spawn(run(minutes, seed)).await.unwrap_or(ExitCode::FAILURE)
}
