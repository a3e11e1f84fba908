//! `bench fairness`: the effect of attacks on other clients.
//!
//! Each attack uses a new `hello_server`. Two bystanders are measured without the attack and then during it: one sends requests,
//! the other publishes with QoS 1 to a persistent subscriber. The results are the duration of the requests and the
//! remaining rate of the publisher.

mod attack;
mod bystander;
mod client;
mod processors;

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::server::process::{Process, free_addresses};
use attack::{ATTACKS, Attack};
use bystander::{Measured, measure};
use processors::{Processors, give_way};

/// Measures the effect of attacks on other clients, on this machine, over loopback.
#[derive(Debug, Args)]
pub(crate) struct FairnessOptions {
    /// Runs only this attack (may be given several times; see README.md)
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,

    /// How long the bystanders are measured without the attack, and how long with it
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    seconds: f64,

    /// The server under test [default: hello_server beside this program]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,

    /// Where the server keeps its files while it runs: a disk, if QoS 1 is to mean something
    #[arg(long, value_name = "FOLDER", default_value_os_t = std::env::temp_dir())]
    scratch: PathBuf,
}

/// The limits for the effect on a bystander.
const MEDIAN: Duration = Duration::from_millis(100);
const WORST: Duration = Duration::from_millis(500);
const RATE: f64 = 0.5;
/// An attack gets going before anybody is measured.
const WARM_UP: Duration = Duration::from_millis(500);

/// Runs the attacks, and prints a table in Markdown.
pub(crate) fn run(options: &FairnessOptions) -> Result<()> {
    for name in &options.only {
        if !ATTACKS.iter().any(|attack| attack.name == name) {
            let names: Vec<_> = ATTACKS.iter().map(|attack| attack.name).collect();
            bail!("no attack is called {name}: there are {}", names.join(", "));
        }
    }
    let beside = || std::env::current_exe().unwrap_or_default().with_file_name("hello_server");
    let server = options.server.clone().unwrap_or_else(beside);
    let server = std::path::absolute(&server).unwrap_or(server);
    if !server.is_file() {
        bail!("{} is not there: build it, or name it with --server", server.display());
    }
    let seconds = Duration::from_secs_f64(options.seconds.clamp(0.5, 600.0));
    let processors = Processors::divided()?;
    println!(
        "| attack | request p50, alone | with | worst, alone | with | QoS 1/s, alone | with | as it should be |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    let wanted =
        |attack: &&Attack| options.only.is_empty() || options.only.iter().any(|name| name == attack.name);
    for attack in ATTACKS.iter().filter(wanted) {
        eprintln!("{}: {}", attack.name, attack.title);
        let (alone, attacked) = run_attack(attack, &server, options, &processors, seconds)
            .with_context(|| attack.name.to_owned())?;
        let is_fair =
            attacked.median <= MEDIAN && attacked.worst <= WORST && attacked.rate >= RATE * alone.rate;
        println!(
            "| {} | {} | {} | {} | {} | {:.0} | {:.0} | {} |",
            attack.name,
            milliseconds(alone.median),
            milliseconds(attacked.median),
            milliseconds(alone.worst),
            milliseconds(attacked.worst),
            alone.rate,
            attacked.rate,
            if is_fair { "yes" } else { "no" },
        );
    }
    Ok(())
}

fn milliseconds(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1000.0)
}

fn run_attack(
    attack: &Attack,
    server: &PathBuf,
    options: &FairnessOptions,
    processors: &Processors,
    seconds: Duration,
) -> Result<(Measured, Measured)> {
    let (_process, address) = processors.on_server(|| start(server, options, attack.settings))?;
    (attack.prepare)(address)?;
    let alone = measure(address, seconds)?;
    let stop = AtomicBool::new(false);
    let attacked = thread::scope(|scope| {
        for number in 0..attack.connections {
            let stop = &stop;
            scope.spawn(move || {
                if let Err(error) = give_way() {
                    eprintln!("attackers run at the priority of everybody else: {error}");
                }
                while !stop.load(Ordering::Relaxed) {
                    // The server may close the connection of an attacker, who comes back.
                    if (attack.connection)(address, number, stop).is_err() {
                        sleep(Duration::from_millis(20));
                    }
                }
            });
        }
        sleep(WARM_UP);
        let measured = measure(address, seconds);
        stop.store(true, Ordering::Relaxed);
        measured
    })?;
    Ok((alone, attacked))
}

/// A fresh server, and the address of its plain socket.
fn start(
    server: &PathBuf,
    options: &FairnessOptions,
    settings: &[(&str, &str)],
) -> Result<(Process, SocketAddr)> {
    let folder = tempfile::tempdir_in(&options.scratch)?;
    let [address] = free_addresses()?;
    let config = folder.path().join("server.conf");
    fs::write(&config, "")?;
    let mut command = test_support::command(server);
    command
        .arg("--config")
        .arg(&config)
        .env("JMQT_BIND_ADDRESS", "127.0.0.1")
        .env("JMQT_SOCKET_PORT", address.port().to_string())
        .env("JMQT_SQLITE_PATH", folder.path().join("jmqt.db"))
        .env("JMQT_LOG_MODE", "ERR");
    command.envs(settings.iter().copied());
    Ok((Process::start(&mut command, folder, address)?, address))
}
