//! `jmqt-lb`: a TCP load balancer. It knows nothing of JMQT.
//!
//! Here: arguments, start, signals, end. [`balancer`] holds it all together; a [`client`] goes from
//! [`accept`] to a thread of [`worker`], where a [`connection`] joins it to a backend and [`forward`] moves the bytes.
//! [`backends`] knows who there is, [`health`] who is fit, [`balance`] chooses.

mod accept;
mod backends;
mod balance;
mod balancer;
mod checker;
mod client;
mod config;
mod connect_time;
mod connection;
mod fault;
mod forward;
mod gate;
mod health;
mod mapping;
mod names;
mod proxy;
mod resolver;
mod shared;
mod signals;
mod slow_start;
mod status;
mod worker;

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Parser;
use tokio::time::sleep;
use tracing::{error, info, warn};

use balancer::Balancer;
use config::{Config, ConfigError};
use signals::{Request, Signals};

/// The target of log lines about the program as a whole; lines show its last part.
const MAIN: &str = "jmqt_lb::main";

/// A TCP load balancer: weights, health checks, retries, drain, reload without dropping connections.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "SIGHUP reads the configuration again. SIGTERM and SIGINT stop accepting and \
    wait for connections to end, up to drain_seconds; a second one stops at once."
)]
struct Arguments {
    /// The configuration file
    #[arg(long, value_name = "FILE", default_value = "load_balancer.conf")]
    config: PathBuf,

    /// Checks this file, says what is wrong in it, and ends
    #[arg(long, value_name = "FILE", conflicts_with = "config")]
    check: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match &arguments.check {
        Some(file) => check(file),
        None => run(&arguments.config),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("jmqt-lb: {error}");
            // As after wrong arguments: a restart will not help.
            let is_the_file = arguments.check.is_none() && error.is::<ConfigError>();
            if is_the_file { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn check(file: &Path) -> Result<(), Box<dyn Error>> {
    let config = Config::load(file)?;
    println!("{}: ok, {} mappings", file.display(), config.mappings.len());
    Ok(())
}

fn run(file: &Path) -> Result<(), Box<dyn Error>> {
    let config = Config::load(file)?;
    let _log = jmqt_log::init("JMQTLoadBalancer", &config.options.log)?;
    // Accepting, finding backends, checks, lookups and the status page: what is forwarded has threads of its own.
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().max_blocking_threads(8).build()?;
    let result = runtime.block_on(serve(file, config));
    // Do not wait for a lookup that hangs.
    runtime.shutdown_background();
    result
}

async fn serve(file: &Path, config: Config) -> Result<(), Box<dyn Error>> {
    let mut signals = Signals::catch()?;
    info!(target: MAIN, "Configuration file {}", file.display());
    let mut balancer = tokio::select! {
        started = Balancer::start(config) => started?,
        name = signals.stop() => {
            info!(target: MAIN, "{name} received before the start was complete; stopped");
            return Ok(());
        }
    };
    let name = loop {
        let request = signals.next().await;
        if let Request::Stop(name) = request {
            break name;
        }
        tokio::select! {
            () = reload(file, &mut balancer) => {}
            name = signals.stop() => break name,
        }
    };
    drain(balancer, name, &mut signals).await;
    Ok(())
}

/// Reads the file again. If it has a mistake, the old configuration stays in use.
async fn reload(file: &Path, balancer: &mut Balancer) {
    let result: Result<(), Box<dyn Error>> = async {
        balancer.reload(Config::load(file)?).await?;
        Ok(())
    }
    .await;
    match result {
        Ok(()) => {
            balancer.reloaded();
            info!(target: MAIN, "Reloaded {}", file.display());
        }
        Err(problems) => {
            balancer.reload_failed();
            for problem in problems.to_string().lines() {
                error!(target: MAIN, "{}", problem.trim_start());
            }
            error!(target: MAIN, "Reload failed; the old configuration stays in use");
        }
    }
}

/// Stops listening, and waits for connections to end, up to `drain_seconds`.
async fn drain(mut balancer: Balancer, name: &str, signals: &mut Signals) {
    let limit = balancer.drain_limit();
    balancer.stop_listening().await;
    info!(target: MAIN, "{name} received; no longer listening, waiting for {} connections to end", balancer.connections());
    let cut = tokio::select! {
        () = balancer.is_empty() => None,
        () = sleep(limit) => Some(format!("drain_seconds ({} s) over", limit.as_secs_f64())),
        name = signals.stop() => Some(name.to_owned()),
    };
    if let Some(reason) = cut {
        warn!(target: MAIN, "{reason}: closing {} connections", balancer.connections());
    }
    drop(balancer);
    info!(target: MAIN, "Stopped");
}
