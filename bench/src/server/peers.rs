//! Redis, NATS and Mosquitto, configured so that they drop no message and send without delay.

use std::fs;

use anyhow::{Result, bail};
use test_support::command;

use super::process::{Process, free_addresses};
use super::{Kind, Places, install};
use crate::swarm::Endpoint;

/// Starts one peer on a free loopback port.
pub(crate) fn start(places: &Places, kind: Kind) -> Result<(Process, Endpoint)> {
    let folder = tempfile::tempdir_in(&places.scratch)?;
    let [address] = free_addresses()?;
    let config = folder.path().join("server.conf");
    fs::write(&config, configuration(kind, address.port())?)?;
    let mut command = command(install::program(kind)?);
    if matches!(kind, Kind::Nats | Kind::Mosquitto) {
        command.arg("-c");
    }
    command.arg(&config);
    let process = Process::start(&mut command, folder, address)?;
    let endpoint = Endpoint { address, tls: None };
    Ok((process, endpoint))
}

/// The whole configuration: all else is the default of the version at hand.
pub(crate) fn configuration(kind: Kind, port: u16) -> Result<String> {
    Ok(match kind {
        // No snapshots while measuring; subscribers may lag behind; 9,000 of them have room.
        Kind::Redis => format!(
            "bind 127.0.0.1\nport {port}\nsave \"\"\nappendonly no\n\
             client-output-buffer-limit pubsub 0 0 0\nmaxclients 15000\n"
        ),
        Kind::Nats => format!("listen: 127.0.0.1:{port}\n"),
        // No limits that drop messages; no Nagle, as everywhere here; root keeps its temporary folder.
        Kind::Mosquitto => format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\nuser root\nset_tcp_nodelay true\n\
             max_inflight_messages 0\nmax_queued_messages 0\n"
        ),
        Kind::Jmqt | Kind::Cluster => bail!("not a peer"),
    })
}
