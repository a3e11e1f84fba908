//! The balancer in front of the nodes.

use std::net::SocketAddr;
use std::path::Path;

use test_support::{Process, free_port, tail};

use crate::process::program;
use crate::within;

/// A running `jmqt-lb`, which tells the nodes where clients come from.
#[derive(Debug)]
pub struct Balancer {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
}

impl Balancer {
    pub(crate) async fn start(folder: &Path, backends: &[SocketAddr]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let backends: Vec<_> = backends.iter().map(ToString::to_string).collect();
        let text = format!(
            "[mappings]\n{address} = {}\n[options]\nproxy_protocol = v2\nhealth_check_seconds = 0.2\n\
             healthy_after = 1\nunhealthy_after = 2\neject_seconds = 1\n",
            backends.join(", ")
        );
        let file = folder.join("load_balancer.conf");
        std::fs::write(&file, text).unwrap();
        let mut command = test_support::command(program("jmqt-lb"));
        let log = folder.join("jmqt-lb.log");
        let mut process = Process::start_with_log(command.arg("--config").arg(file), &log).unwrap();
        within("the start of the balancer", async {
            while tokio::net::TcpStream::connect(address).await.is_err() {
                assert!(process.ended().is_none(), "jmqt-lb does not start:\n{}", tail(&log));
                tokio::time::sleep(crate::LOOK_EVERY).await;
            }
        })
        .await;
        Self { address, _process: process }
    }
}
