//! `bench`: measures a JMQT server, and Mosquitto, NATS and Redis for comparison, under the same load.
//!
//! One process, one thread, one epoll: it starts each server in a temporary folder, connects all clients
//! itself, and reads fixed positions of packets instead of parsing them. The exit code is 0 if everything was measured, whether
//! or not targets were met (machines are shared), and 1 after an error or a lost, duplicated or reordered delivery. `bench lb` measures the load balancer instead ([`balancer`]),
//! `bench fairness` what clients notice while others attack the server ([`fairness`]), and `bench nodes` a node
//! among many ([`nodes`]).
//! README.md explains the rows.

mod account;
mod balancer;
mod connection;
mod dialect;
mod fairness;
mod histogram;
mod median;
mod nodes;
mod options;
mod payload;
mod plan;
mod publisher;
mod retained;
mod server;
mod suite;
mod swarm;
mod tracker;
mod traffic;
mod wire;
mod workload;

use std::fs;
use std::num::NonZeroU64;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use clap::Parser;
use rustix::process::{Resource, getrlimit, setrlimit};
use rustix::thread::set_current_timer_slack;

use options::{Options, Other};
use server::{Kind, Places, install};
use suite::row::Row;
use suite::{contest, report, rows};

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<ExitCode> {
    match &options.other {
        None => run_suite(options),
        Some(Other::Fairness(options)) => fairness::run(options).map(|()| ExitCode::SUCCESS),
        Some(Other::Lb(options)) => balancer::run(options).map(|()| ExitCode::SUCCESS),
        Some(Other::Nodes(options)) => {
            prepare_process()?;
            nodes::run(options).map(|()| ExitCode::SUCCESS)
        }
        Some(Other::LbBackend { echo, sink }) => {
            let ports = balancer::backend::Ports { echo: *echo, sink: *sink };
            balancer::backend::serve(ports).map(|()| ExitCode::SUCCESS)
        }
    }
}

fn run_suite(options: &Options) -> Result<ExitCode> {
    let mut rows = rows::all();
    if options.list {
        for row in &rows {
            println!("{:<25} {}", row.name, row.title);
        }
        return Ok(ExitCode::SUCCESS);
    }
    for name in &options.only {
        if !rows.iter().any(|row| row.name == name) {
            bail!("no row is called {name}: see --list");
        }
    }
    rows.retain(|row| options.only.is_empty() || options.only.iter().any(|name| name == row.name));
    rows.iter_mut().for_each(|row| choose_contestants(row, options));
    rows.retain(|row| !row.contestants.is_empty());

    let places = Places { hello_server: options.hello_server(), scratch: options.scratch.clone() };
    if !options.peers_only && !places.hello_server.is_file() {
        bail!("{} is not there: build it, or name it with --server", places.hello_server.display());
    }
    let peers = options.peers.iter().filter(|&&kind| kind != Kind::Jmqt);
    let mut versions = peers.map(|&kind| install::ensure(kind)).collect::<Result<Vec<_>>>()?;
    let is_cluster = |row: &Row| row.contestants.iter().any(|contestant| contestant.kind == Kind::Cluster);
    if rows.iter().any(is_cluster) {
        install::ensure(Kind::Redis)?;
        versions.push(install::ensure_program("mariadbd", "mariadb-server", "--version")?);
    }
    prepare_process()?;

    let mut outcomes = Vec::new();
    for row in rows {
        outcomes.push(contest::hold(row, &places, options.effort()));
    }
    println!("{}", report::markdown(&outcomes, &versions));
    if let Some(file) = &options.json {
        let json = format!("{:#}\n", report::json(&outcomes, &versions));
        fs::write(file, json).with_context(|| format!("writing {}", file.display()))?;
    }
    let is_clean = outcomes.iter().all(|outcome| outcome.errors.is_empty());
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Leaves out who was not asked for. The judged contestant keeps its place, or the row goes.
fn choose_contestants(row: &mut Row, options: &Options) {
    if options.peers_only {
        row.targets.clear(); // nobody is judged
    }
    row.contestants.retain(|contestant| match contestant.kind {
        Kind::Jmqt | Kind::Cluster => !options.peers_only,
        peer => options.peers.contains(&peer),
    });
}

/// As many open files as we may have (servers inherit it), and timers that fire when they should.
fn prepare_process() -> Result<()> {
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    setrlimit(Resource::Nofile, files).context("raising the limit of open files")?;
    set_current_timer_slack(NonZeroU64::new(1)).context("setting the timer slack")?;
    Ok(())
}
