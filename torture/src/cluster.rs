//! All processes of a cluster, and their folder.

use tempfile::TempDir;

use crate::balancer::Balancer;
use crate::mariadb::MariaDb;
use crate::node::{Node, Surroundings};
use crate::notices::{Event, Notice};
use crate::{Client, RedisServer, Target};

/// What there is to start.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How many nodes.
    pub nodes: usize,
    /// Whether there is a balancer in front of them.
    pub balancer: bool,
}

/// Running processes; all end, and their folder goes, when it is dropped. With the environment variable
/// TORTURE_KEEP the folder stays.
#[derive(Debug)]
pub struct Cluster {
    /// In front of the nodes.
    pub balancer: Option<Balancer>,
    /// The nodes, `n0` and so on.
    pub nodes: Vec<Node>,
    /// What carries live traffic.
    pub redis: RedisServer,
    /// What survives.
    pub mariadb: MariaDb,
    prefix: String,
    folder: TempDir,
}

impl Cluster {
    /// Starts nodes without a balancer; `None`, said aloud, if there is no MariaDB or Redis to start.
    pub async fn of(nodes: usize) -> Option<Self> {
        Self::start(Options { nodes, balancer: false }).await
    }

    /// Starts what the options ask for; `None`, said aloud, if there is no MariaDB or Redis to start.
    pub async fn start(options: Options) -> Option<Self> {
        for (is_installed, name) in
            [(MariaDb::is_installed(), "mariadbd"), (RedisServer::is_installed(), "redis-server")]
        {
            if !is_installed {
                eprintln!("left out: {name} is not installed");
                return None;
            }
        }
        let mut folder = tempfile::Builder::new().prefix("jmqt-torture-").tempdir().unwrap();
        if std::env::var_os("TORTURE_KEEP").is_some() {
            folder.disable_cleanup(true);
            eprintln!("the cluster works in {}", folder.path().display());
        }
        let (mariadb, redis) = tokio::join!(MariaDb::start(folder.path()), RedisServer::start(folder.path()));
        let prefix = format!("torture-{}:", redis.port());
        let mut cluster = Self { balancer: None, nodes: Vec::new(), redis, mariadb, prefix, folder };
        let around = Surroundings {
            folder: cluster.folder.path(),
            mariadb: &cluster.mariadb,
            redis: &cluster.redis,
            prefix: &cluster.prefix,
            behind_balancer: options.balancer,
        };
        let mut nodes = Vec::new();
        for number in 0..options.nodes {
            nodes.push(Node::new(&format!("n{number}"), &around).await);
            if number == 0 {
                // It makes the tables, for which many at once would have to wait too long on a slow disk.
                nodes[0].started().await;
            }
        }
        cluster.nodes = nodes;
        for node in cluster.nodes.iter_mut().skip(1) {
            node.started().await;
        }
        if options.balancer {
            let addresses: Vec<_> = cluster.nodes.iter().map(|node| node.address).collect();
            cluster.balancer = Some(Balancer::start(cluster.folder.path(), &addresses).await);
        }
        Some(cluster)
    }

    /// A node, as clients reach it without the balancer.
    #[must_use]
    pub fn target(&self, node: usize) -> Target {
        Target { address: self.nodes[node].address, says_header: self.balancer.is_some() }
    }

    /// All nodes, without the balancer.
    #[must_use]
    pub fn targets(&self) -> Vec<Target> {
        (0..self.nodes.len()).map(|node| self.target(node)).collect()
    }

    /// The balancer.
    #[must_use]
    pub fn front(&self) -> Target {
        let balancer = self.balancer.as_ref().expect("there is a balancer");
        Target { address: balancer.address, says_header: false }
    }

    /// A session of this client on a node.
    pub async fn connect(&self, node: usize, client: &str) -> Client {
        Client::connect(self.target(node), client).await
    }

    /// What all nodes' applications were told so far.
    #[must_use]
    pub fn notices(&self) -> Vec<Notice> {
        let mut all: Vec<_> = self.nodes.iter().flat_map(Node::notices).collect();
        all.sort_by_key(|notice| notice.at);
        all
    }

    /// Why the sessions of a client were closed, in order.
    #[must_use]
    pub fn closes_of(&self, client: &str) -> Vec<String> {
        let of_client = self.notices().into_iter().filter(|notice| notice.client == client);
        of_client
            .filter_map(|notice| match notice.event {
                Event::Closed(reason) => Some(reason),
                _ => None,
            })
            .collect()
    }

    /// Whether the start of a node that wrote this line was ended by `kill -9`.
    #[must_use]
    pub fn is_of_killed(&self, notice: &Notice) -> bool {
        self.nodes.iter().any(|node| node.name == notice.node && node.was_killed(notice.start))
    }

    /// The Redis channels of this cluster that somebody is subscribed to.
    pub async fn channels(&self) -> Vec<String> {
        self.redis.channels(&self.prefix).await
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                eprintln!("---- the log of {} ends with:\n{}", node.name, node.log_tail());
            }
        }
    }
}
