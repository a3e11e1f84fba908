//! `bench lb`: compares jmqt-lb, HAProxy and no balancer under the same load.
//!
//! Three processes: this one is the clients, a second one of the same program is the backend (`backend`),
//! the third is the balancer under test (`contestant`), started for each run. Runs alternate. Each round gives a
//! ratio, and the median of the ratios counts.

pub(crate) mod backend;
mod contestant;
mod load;
mod report;
mod watch;

use std::env;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::server::install;
use crate::server::process::{Process, free_addresses};
use backend::Ports;
use contestant::{Contestant, Kind};
use load::{Load, Times};
use report::{Bound, Row};

/// Compares jmqt-lb with HAProxy and with no balancer, on this machine, over loopback.
#[derive(Debug, Args)]
pub(crate) struct BalancerOptions {
    /// Runs only this row: bulk, ping-pong, pipelined, latency, short, burst or idle (may be given several times)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// How often each contestant of a row runs
    #[arg(long, value_name = "N", default_value_t = 5)]
    runs: usize,

    /// How long one run measures
    #[arg(long, value_name = "S", default_value_t = 3.0)]
    seconds: f64,

    /// The balancer under test [default: jmqt-lb beside this program]
    #[arg(long, value_name = "PATH")]
    balancer: Option<PathBuf>,
}

/// All rows, and what each is judged by.
const ROWS: [Row; 7] = [
    Row {
        name: "bulk",
        title: "4 connections, bulk one way",
        load: Load::Bulk { connections: 4 },
        bound: Bound::RatioAtMost(0.7),
    },
    Row {
        name: "ping-pong",
        title: "50 connections, 128 bytes there and back",
        load: Load::Echo { connections: 50, window: 1 },
        bound: Bound::RatioAtMost(1.0),
    },
    Row {
        name: "pipelined",
        title: "50 connections, 128 bytes, window 32",
        load: Load::Echo { connections: 50, window: 32 },
        bound: Bound::RatioAtMost(1.0),
    },
    Row {
        name: "latency",
        title: "one message at a time, p50 less that without a balancer",
        load: Load::Latency { connections: 10 },
        bound: Bound::RatioAtMost(1.0),
    },
    Row {
        name: "short",
        title: "connections for one message each, 50 at a time",
        load: Load::Short { connections: 10_000, at_a_time: 50 },
        bound: Bound::RatioAtMost(0.9),
    },
    Row {
        name: "burst",
        title: "8,000 connections at once, until all are answered",
        load: Load::Burst { connections: 8000 },
        bound: Bound::RatioAtMost(1.0),
    },
    Row {
        name: "idle",
        title: "9,000 connections that have spoken once",
        load: Load::Idle { connections: 9000 },
        bound: Bound::AtMost(4096.0),
    },
];

/// Runs the rows and prints the table.
pub(crate) fn run(options: &BalancerOptions) -> Result<()> {
    if let Some(name) = options.only.iter().find(|name| !ROWS.iter().any(|row| row.name == **name)) {
        bail!("no row is called {name}");
    }
    let haproxy = install::ensure_program("haproxy", "haproxy", "-v")?;
    let program = options.program();
    if !program.is_file() {
        bail!("{} is not there: build it, or name it with --balancer", program.display());
    }
    crate::prepare_process()?;
    let (_backend, ports) = start_backend()?;
    let seconds = Duration::from_secs_f64(options.seconds.clamp(0.1, 600.0));
    let times = Times { warm_up: (seconds / 3).min(Duration::from_millis(500)), measure: seconds };
    let mut outcomes = Vec::new();
    for row in ROWS.iter().filter(|row| options.only.is_empty() || options.only.iter().any(|n| n == row.name))
    {
        let mut rounds = Vec::new();
        for round in 1..=options.runs.max(1) {
            let figures = play(row.load, &program, ports, times)
                .with_context(|| format!("{}, round {round}", row.name))?;
            for (kind, figure) in Kind::ALL.into_iter().zip(figures) {
                eprintln!("{}, round {round}, {kind}: {}", row.name, row.load.show(figure));
            }
            rounds.push(figures);
        }
        outcomes.push((row, rounds));
    }
    println!("{}", report::markdown(&outcomes, &haproxy));
    Ok(())
}

/// One run of each contestant.
fn play(load: Load, program: &Path, ports: Ports, times: Times) -> Result<[Option<f64>; 3]> {
    let start = |kind| Contestant::start(kind, program, ports);
    let [ours, haproxy, direct] = Kind::ALL;
    if let Load::Latency { connections } = load {
        let contestants = [start(ours)?, start(haproxy)?, start(direct)?];
        return Ok(load::latency(&contestants, connections, times)?.map(Some));
    }
    Ok([load.run(&start(ours)?, times)?, load.run(&start(haproxy)?, times)?, None])
}

impl BalancerOptions {
    fn program(&self) -> PathBuf {
        let beside = || env::current_exe().unwrap_or_default().with_file_name("jmqt-lb");
        let path = self.balancer.clone().unwrap_or_else(beside);
        // It is started in a folder of its own, where a relative path leads nowhere.
        std::path::absolute(&path).unwrap_or(path)
    }
}

/// Another process of this program, which ends with it.
fn start_backend() -> Result<(Process, Ports)> {
    let [echo, sink] = free_addresses()?;
    let mut command = test_support::command(env::current_exe()?);
    command.arg("lb-backend").arg(echo.to_string()).arg(sink.to_string());
    let process = Process::start(&mut command, tempfile::tempdir()?, sink)?;
    Ok((process, Ports { echo, sink }))
}
