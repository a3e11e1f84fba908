//! The command line.

use std::env;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Parser, Subcommand};

use crate::balancer::BalancerOptions;
use crate::fairness::FairnessOptions;
use crate::nodes::NodesOptions;
use crate::server::Kind;
use crate::suite::contest::Effort;
use crate::workload::Times;

/// Measures hello_server beside Redis, NATS and Mosquitto, on this machine, over loopback.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    #[command(subcommand)]
    pub(crate) other: Option<Other>,

    /// Runs only this row (may be given several times; see --list)
    #[arg(long, value_name = "NAME")]
    pub(crate) only: Vec<String>,

    /// Prints the names of all rows and ends
    #[arg(long)]
    pub(crate) list: bool,

    /// The peers to run; missing ones are installed with apt-get
    #[arg(long, value_delimiter = ',', default_value = "redis,nats,mosquitto", value_name = "LIST")]
    pub(crate) peers: Vec<Kind>,

    /// Leaves our own server out
    #[arg(long)]
    pub(crate) peers_only: bool,

    /// How often each contestant of a row runs [default: 3]
    #[arg(long, value_name = "N")]
    runs: Option<usize>,

    /// How long one run measures [default: 3]
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,

    /// One run of one second each: for a first look, not for conclusions
    #[arg(long)]
    quick: bool,

    /// The server under test [default: hello_server beside this program]
    #[arg(long, value_name = "PATH")]
    server: Option<PathBuf>,

    /// Also writes every run to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,

    /// Where servers keep their files while they run: a disk, if QoS 1 is to mean something
    #[arg(long, value_name = "FOLDER", default_value_os_t = env::temp_dir())]
    pub(crate) scratch: PathBuf,
}

/// What there is beside the server's suite.
#[derive(Debug, Subcommand)]
pub(crate) enum Other {
    /// Measures what other clients notice while some attack the server
    Fairness(FairnessOptions),
    /// Measures jmqt-lb beside HAProxy and no balancer at all
    Lb(BalancerOptions),
    /// Measures one node of a cluster among simulated ones
    Nodes(NodesOptions),
    /// The backend of `lb`
    #[command(hide = true)]
    LbBackend {
        /// The address of the port that sends everything back
        echo: SocketAddr,
        /// The address of the port that throws everything away
        sink: SocketAddr,
    },
}

impl Options {
    /// Rounds and times, from `--quick`, `--runs` and `--seconds`.
    pub(crate) fn effort(&self) -> Effort {
        let (rounds, seconds) = if self.quick { (1, 1.0) } else { (3, 3.0) };
        let seconds = self.seconds.unwrap_or(seconds).clamp(0.1, 600.0);
        Effort {
            rounds: self.runs.unwrap_or(rounds).max(1),
            times: Times {
                warm_up: Duration::from_secs_f64((seconds / 3.0).min(1.0)),
                measure: Duration::from_secs_f64(seconds),
            },
        }
    }

    /// The server's program: as told, else from the folder this program was built into.
    pub(crate) fn hello_server(&self) -> PathBuf {
        let beside = || env::current_exe().unwrap_or_default().with_file_name("hello_server");
        let path = self.server.clone().unwrap_or_else(beside);
        // Servers are started in a folder of their own, where a relative path leads nowhere.
        std::path::absolute(&path).unwrap_or(path)
    }
}
