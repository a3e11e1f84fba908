//! Publishers and persistent subscribers that keep a cluster busy, and continue after every fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::checker::{Report, check};
use crate::journal::Journal;
use crate::session::{LoadOptions, MEMBERS, Phase, RETRY_EVERY, Shared, Target};
use crate::{
    Client, Cluster, DEADLINE, LOOK_EVERY, mourned, mqtt_publisher, mqtt_subscriber, publisher, rival,
    subscriber, within,
};

/// A load that runs.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    phase: watch::Sender<Phase>,
    publishers: Vec<JoinHandle<()>>,
    subscribers: Vec<JoinHandle<()>>,
    rivals: Vec<JoinHandle<()>>,
}

impl Load {
    /// Connects everybody, and returns when all are subscribed and every publisher is at it.
    pub async fn start(targets: Vec<Target>, options: LoadOptions) -> Self {
        let (phase, receiver) = watch::channel(Phase::Busy);
        let LoadOptions { publishers, subscribers, mqtt, wills, groups, .. } = options;
        let journal = Journal::with_wills_and_groups(publishers, subscribers, mqtt, wills, groups);
        // Each load numbers its messages from the beginning, also on the same cluster.
        static LOADS: AtomicU32 = AtomicU32::new(0);
        let publisher = format!("load {}", LOADS.fetch_add(1, Ordering::Relaxed));
        let shared = Arc::new(Shared { journal, options, targets, phase: receiver, publisher });
        let (publishers, subscribers) = shared.journal.clients();
        let (ready, mut subscribed) = tokio::sync::mpsc::channel((subscribers * MEMBERS) as usize);
        let subscriber = |number| {
            let (kind, members) = {
                let log = shared.journal.subscriber(number);
                (log.mqtt, if log.is_group { MEMBERS } else { 1 })
            };
            let client = |member| {
                let (shared, ready) = (Arc::clone(&shared), ready.clone());
                match kind {
                    Some(kind) => tokio::spawn(mqtt_subscriber::run(shared, number, member, kind, ready)),
                    None => tokio::spawn(subscriber::run(shared, number, ready)),
                }
            };
            (0..members).map(client).collect::<Vec<_>>()
        };
        let subscribers: Vec<_> = (0..subscribers).flat_map(subscriber).collect();
        for _ in &subscribers {
            within("the subscriptions", subscribed.recv()).await;
        }
        let publisher = |number| {
            let (kind, has_wills) = {
                let log = shared.journal.publisher(number);
                (log.mqtt, log.wills.is_some())
            };
            let shared = Arc::clone(&shared);
            match kind {
                _ if has_wills => tokio::spawn(mourned::run(shared, number)),
                Some(kind) => tokio::spawn(mqtt_publisher::run(shared, number, kind)),
                None => tokio::spawn(publisher::run(shared, number)),
            }
        };
        let publishers = (0..publishers).map(publisher).collect();
        let rivals = (0..shared.options.rivals * 2)
            .map(|number| tokio::spawn(rival::run(Arc::clone(&shared), number)))
            .collect();
        let load = Self { shared, phase, publishers, subscribers, rivals };
        load.progress(20).await;
        load
    }

    /// What was noted so far.
    #[must_use]
    pub fn journal(&self) -> &Journal {
        &self.shared.journal
    }

    /// Waits until every publisher has this many more acknowledgements.
    pub async fn progress(&self, messages: usize) {
        let (publishers, _) = self.journal().clients();
        let publishers = publishers - self.shared.options.wills;
        let acked = |number| self.journal().publisher(number).acked;
        let wanted: Vec<_> = (0..publishers).map(|number| acked(number) + messages).collect();
        // Nothing new is published while subscribers are far behind, so their progress counts too.
        let (mut received, mut since) = (0, Instant::now());
        for (number, wanted) in (0..).zip(wanted) {
            while acked(number) < wanted {
                let now = self.journal().received_once();
                if now > received {
                    (received, since) = (now, Instant::now());
                }
                assert!(
                    since.elapsed() < DEADLINE,
                    "{messages} more acknowledgements for p{number}: not within {DEADLINE:?}, and nobody has received anything"
                );
                tokio::time::sleep(LOOK_EVERY).await;
            }
        }
    }

    /// Has everybody finish, waits until all is quiet, and checks.
    ///
    /// All parts of the cluster must be up again.
    pub async fn finish(self, cluster: &Cluster) -> Report {
        let Self { shared, phase, publishers, subscribers, rivals } = self;
        let journal = &shared.journal;
        phase.send_replace(Phase::Finishing);
        let all = async {
            for publisher in publishers {
                publisher.await.unwrap();
            }
        };
        if timeout(DEADLINE, all).await.is_err() {
            journal.problem("publishers did not get their acknowledgements".to_owned());
        }
        // Who gets nothing more for so long, and has not got everything, is told of by the checker.
        let (mut received, mut since) = (0, Instant::now());
        let (_, count) = journal.clients();
        while since.elapsed() < DEADLINE && (0..count).any(|number| !journal.missing(number).is_empty()) {
            tokio::time::sleep(RETRY_EVERY).await;
            let now = journal.received_once();
            if now > received {
                (received, since) = (now, Instant::now());
            }
        }
        phase.send_replace(Phase::Leaving);
        let all = async {
            for client in subscribers.into_iter().chain(rivals) {
                client.await.unwrap();
            }
        };
        if timeout(DEADLINE, all).await.is_err() {
            journal.problem("subscribers and rivals could not leave".to_owned());
        }
        for left in left_behind(cluster, journal).await {
            journal.problem(left);
        }
        check(journal, &cluster.notices(), |notice| cluster.is_of_killed(notice))
    }
}

/// How long it may take until nothing is left of clients that have gone: a dead node's sessions are inherited
/// after its lease, and Redis notices closed connections in its own time.
const QUIET_TIMEOUT: Duration = Duration::from_secs(15);

/// What is left in the cluster though everybody has gone, if it does not go by itself.
async fn left_behind(cluster: &Cluster, journal: &Journal) -> Vec<String> {
    let mut left = Vec::new();
    let quiet = async {
        loop {
            left = look_for_leftovers(cluster, journal).await;
            if left.is_empty() {
                return;
            }
            tokio::time::sleep(RETRY_EVERY).await;
        }
    };
    let _ = timeout(QUIET_TIMEOUT, quiet).await;
    left
}

async fn look_for_leftovers(cluster: &Cluster, journal: &Journal) -> Vec<String> {
    let mut left = Vec::new();
    let sessions = cluster.mariadb.sessions().await;
    if !sessions.is_empty() {
        left.push(format!("the store has sessions though everybody has gone: {sessions:?}"));
    }
    let running = cluster.nodes.iter().filter(|node| node.is_running()).count();
    let channels = cluster.channels().await;
    // One for each, and one for all.
    if channels.len() != running + 1 {
        left.push(format!("{running} nodes have these channels in Redis: {channels:?}"));
    }
    let opened = journal.sessions().iter().filter(|session| session.opened.is_some()).count();
    if left.is_empty() && opened > 0 {
        for (number, node) in cluster.nodes.iter().enumerate().filter(|(_, node)| node.is_running()) {
            let mut probe = Client::connect(cluster.target(number), "probe").await;
            let counters = probe.control("$counters", "{}").await;
            probe.leave().await;
            let count = |name: &str| counters[name].as_i64().unwrap();
            let open = count("sessions_opened") - count("sessions_closed") - 1;
            if open != 0 {
                left.push(format!("{} counts {open} sessions that nobody has: {counters}", node.name));
            }
        }
    }
    left
}
