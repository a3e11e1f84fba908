//! What clients connect to: jmqt-lb, HAProxy, or the backend itself.

use std::fmt;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, Result};

use super::backend::Ports;
use crate::server::process::{Process, free_addresses};
use crate::server::usage::Usage;

/// Which one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Ours,
    Haproxy,
    Direct,
}

impl Kind {
    /// In the order of the columns.
    pub(super) const ALL: [Self; 3] = [Self::Ours, Self::Haproxy, Self::Direct];
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "jmqt-lb",
            Self::Haproxy => "HAProxy",
            Self::Direct => "no balancer",
        })
    }
}

/// Runs until it is dropped.
pub(super) struct Contestant {
    /// Where clients find the backend's two ports.
    pub(super) ports: Ports,
    process: Option<Process>,
}

impl Contestant {
    /// Starts a fresh one in front of the backend.
    pub(super) fn start(kind: Kind, ours: &Path, backend: Ports) -> Result<Self> {
        if kind == Kind::Direct {
            return Ok(Self { ports: backend, process: None });
        }
        let folder = tempfile::tempdir()?;
        let [echo, sink] = free_addresses()?;
        let file = folder.path().join("balancer.conf");
        let mut command = if kind == Kind::Ours {
            fs::write(&file, our_configuration([(echo, backend.echo), (sink, backend.sink)]))?;
            let mut command = test_support::command(ours);
            command.arg("--config");
            command
        } else {
            fs::write(&file, haproxy_configuration([(echo, backend.echo), (sink, backend.sink)]))?;
            let haproxy = test_support::find("haproxy").context("haproxy is not installed")?;
            let mut command = test_support::command(haproxy);
            command.args(["-db", "-f"]); // in the foreground
            command
        };
        command.arg(&file);
        let process = Process::start(&mut command, folder, sink)?;
        Ok(Self { ports: Ports { echo, sink }, process: Some(process) })
    }

    /// What the balancer has used so far; `None` if there is none.
    pub(super) fn usage(&self) -> Result<Option<Usage>> {
        self.process.as_ref().map(Process::usage).transpose()
    }
}

/// Everything else at its default, but what is logged.
fn our_configuration(ways: [(SocketAddr, SocketAddr); 2]) -> String {
    let mappings = ways.map(|(from, to)| format!("{from} = {to}\n")).concat();
    format!("[options]\nlog_mode = WRN\n[mappings]\n{mappings}")
}

/// Everything else at its default: as many threads as processors, no splicing.
fn haproxy_configuration(ways: [(SocketAddr, SocketAddr); 2]) -> String {
    let mut text = "global\n    maxconn 9500\ndefaults\n    mode tcp\n    timeout connect 5s\n    \
                    timeout client 10m\n    timeout server 10m\n"
        .to_owned();
    for (number, (from, to)) in ways.iter().enumerate() {
        text.push_str(&format!(
            "listen way{number}\n    bind {from} maxconn 9500\n    balance leastconn\n    server one {to} check\n"
        ));
    }
    text
}
