//! The servers under load: how each is started, reached, and spoken to.

pub(crate) mod cluster;
pub(crate) mod hello;
pub(crate) mod install;
pub(crate) mod peers;
pub(crate) mod process;
pub(crate) mod usage;

use std::fmt;
use std::path::PathBuf;

use anyhow::{Error, Result, anyhow, bail};
use clap::ValueEnum;

use crate::dialect::jmqt::{Framing, Jmqt};
use crate::dialect::mqtt::Mqtt;
use crate::dialect::nats::Nats;
use crate::dialect::redis::Redis;
use crate::dialect::{Dialect, Persistence, Qos};
use crate::swarm::Endpoint;
use cluster::Cluster;
use process::Process;
use usage::Usage;

/// Which program serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Kind {
    /// The server under test.
    Jmqt,
    /// Two of it, as the nodes of a cluster.
    #[value(skip)]
    Cluster,
    Redis,
    Nats,
    Mosquitto,
}

/// Which of its listeners the clients use. Peers have plain sockets only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Listener {
    Socket,
    TlsSocket,
    WebSocket,
    Mqtt,
}

/// A server that runs until it is dropped.
pub(crate) struct Server {
    kind: Kind,
    listener: Listener,
    /// One, or that of each node.
    pub(crate) endpoints: Vec<Endpoint>,
    processes: Processes,
}

enum Processes {
    One(Process),
    Cluster(Box<Cluster>),
}

/// Where the server under test is found, and where servers keep their files.
pub(crate) struct Places {
    pub(crate) hello_server: PathBuf,
    pub(crate) scratch: PathBuf,
}

impl Server {
    /// Starts a fresh one in a temporary folder, and waits until it answers.
    pub(crate) fn start(places: &Places, kind: Kind, listener: Listener) -> Result<Self> {
        let (process, endpoint) = match (kind, listener) {
            (Kind::Jmqt, _) => hello::start(places, listener)?,
            (Kind::Cluster, Listener::Socket) => {
                let (cluster, endpoints) = Cluster::start(places)?;
                let processes = Processes::Cluster(Box::new(cluster));
                return Ok(Self { kind, listener, endpoints: endpoints.into(), processes });
            }
            (_, Listener::Socket) => peers::start(places, kind)?,
            _ => bail!("{kind} is measured over plain sockets only"),
        };
        Ok(Self { kind, listener, endpoints: vec![endpoint], processes: Processes::One(process) })
    }

    /// A fresh client of this server's protocol.
    pub(crate) fn dialect(&self, qos: Qos, persistence: Persistence) -> Box<dyn Dialect> {
        let framing = match (self.kind, self.listener) {
            (Kind::Redis, _) => return Box::new(Redis::default()),
            (Kind::Nats, _) => return Box::new(Nats::default()),
            (Kind::Mosquitto, _) | (_, Listener::Mqtt) => return Box::new(Mqtt::new(qos, persistence)),
            (Kind::Jmqt | Kind::Cluster, Listener::WebSocket) => Framing::WebSocket,
            (Kind::Jmqt | Kind::Cluster, Listener::Socket | Listener::TlsSocket) => Framing::Nul,
        };
        Box::new(Jmqt::new(framing, qos, persistence))
    }

    /// The same error, with what the server printed last.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let last_words = match &self.processes {
            Processes::One(process) => process.last_words(),
            Processes::Cluster(cluster) => cluster.last_words(),
        };
        match last_words {
            said if said.is_empty() => error,
            said => anyhow!("{error:#}; the server said: {said}"),
        }
    }

    /// CPU time and memory used so far.
    pub(crate) fn usage(&self) -> Result<Usage> {
        match &self.processes {
            Processes::One(process) => process.usage(),
            Processes::Cluster(cluster) => cluster.usage(),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Jmqt => "JMQT",
            Self::Cluster => "two nodes",
            Self::Redis => "Redis",
            Self::Nats => "NATS",
            Self::Mosquitto => "Mosquitto",
        })
    }
}
