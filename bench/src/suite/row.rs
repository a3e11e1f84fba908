//! A row: one workload, and the contestants that run it.

use super::target::{Against, Target};
use crate::plan::{Pace, Plan, Shape};
use crate::server::{Kind, Listener};
use crate::workload::{Metric, Workload};

/// The name of our server in comparisons.
const OURS: &str = "JMQT";
/// Its name where it is spoken to in MQTT.
const OURS_MQTT: &str = "ours, MQTT";
const PEERS: [Kind; 3] = [Kind::Redis, Kind::Nats, Kind::Mosquitto];

/// One contestant of a row.
#[derive(Clone)]
pub(crate) struct Contestant {
    pub(crate) label: String,
    pub(crate) kind: Kind,
    pub(crate) listener: Listener,
    pub(crate) workload: Workload,
}

/// One question to the server, with everybody's answer beside it.
pub(crate) struct Row {
    /// For `--only`.
    pub(crate) name: &'static str,
    pub(crate) title: &'static str,
    /// Which contestant is judged. They run in this order: some need what the one before has shown.
    pub(crate) judged: usize,
    pub(crate) contestants: Vec<Contestant>,
    pub(crate) targets: Vec<Target>,
}

impl Row {
    /// Ours, and every peer under the same load.
    pub(crate) fn with_peers(
        name: &'static str,
        title: &'static str,
        workload: Workload,
        targets: Vec<Target>,
    ) -> Self {
        let mut contestants = vec![ours(OURS, Listener::Socket, workload)];
        contestants.extend(PEERS.map(|kind| peer(kind, workload)));
        Self::new(name, title, contestants, targets)
    }

    /// For QoS 1, which the other peers do not have.
    pub(crate) fn with_mosquitto(
        name: &'static str,
        title: &'static str,
        plan: Plan,
        targets: Vec<Target>,
    ) -> Self {
        let workload = Workload::Traffic(plan);
        let contestants = vec![ours(OURS, Listener::Socket, workload), peer(Kind::Mosquitto, workload)];
        Self::new(name, title, contestants, targets)
    }

    /// Ours through its MQTT port, and Mosquitto, which receive the same bytes.
    pub(crate) fn over_mqtt(
        name: &'static str,
        title: &'static str,
        workload: Workload,
        targets: Vec<Target>,
    ) -> Self {
        let contestants = vec![ours(OURS_MQTT, Listener::Mqtt, workload), peer(Kind::Mosquitto, workload)];
        Self::new(name, title, contestants, targets)
    }

    /// A wildcard in each subscription: the same, and ours without wildcards.
    pub(crate) fn with_filters(
        name: &'static str,
        title: &'static str,
        plan: Plan,
        targets: Vec<Target>,
    ) -> Self {
        let mut row = Self::over_mqtt(name, title, Workload::Traffic(plan.with_filters()), targets);
        row.contestants.push(ours("no wildcards", Listener::Mqtt, Workload::Traffic(plan)));
        row
    }

    /// Ours alone, against a number.
    pub(crate) fn alone(
        name: &'static str,
        title: &'static str,
        listener: Listener,
        workload: Workload,
        target: Target,
    ) -> Self {
        let contestants = vec![ours(OURS, listener, workload)];
        Self::new(name, title, contestants, vec![target])
    }

    /// Two nodes of ours, against one under the same load.
    pub(crate) fn across_nodes(
        name: &'static str,
        title: &'static str,
        plan: Plan,
        targets: Vec<Target>,
    ) -> Self {
        let workload = Workload::Traffic(plan);
        let contestants = vec![peer(Kind::Cluster, workload), ours("one node", Listener::Socket, workload)];
        Self::new(name, title, contestants, targets)
    }

    /// Ours under one load, against ours under another.
    pub(crate) fn against_itself(
        name: &'static str,
        title: &'static str,
        [judged, other]: [(&'static str, Plan); 2],
        target: Target,
    ) -> Self {
        let contestants =
            [judged, other].map(|(label, plan)| ours(label, Listener::Socket, Workload::Traffic(plan)));
        Self::new(name, title, contestants.into(), vec![target])
    }

    /// The same load over WebSocket and over TCP.
    pub(crate) fn over_websocket(name: &'static str, title: &'static str, plan: Plan) -> Self {
        let workload = Workload::Traffic(plan);
        let contestants =
            vec![ours("WebSocket", Listener::WebSocket, workload), ours("TCP", Listener::Socket, workload)];
        let target = Target::at_most(Metric::Cpu, Against::Ratio("TCP"), 1.3);
        Self::new(name, title, contestants, vec![target])
    }

    /// Half of what the server has just reached when saturated.
    pub(crate) fn half_rate(name: &'static str, title: &'static str, shape: Shape) -> Self {
        let pace = Pace::PartOf { contestant: 0, part: 0.5 };
        let plans = [("saturated", Plan::saturated(shape)), ("half", Plan::paced(shape, pace))];
        let target = Target::at_most(Metric::Cpu, Against::Ratio("saturated"), 2.0);
        Self { judged: 1, ..Self::against_itself(name, title, plans, target) }
    }

    /// Much of something against 1,000 of it; Redis beside, to see what the machine makes of such a number.
    pub(crate) fn at_scale(
        name: &'static str,
        title: &'static str,
        [ours_label, redis_label]: [&'static str; 2],
        [many, thousand]: [Plan; 2],
    ) -> Self {
        let redis = |label: &str, plan| Contestant {
            label: label.to_owned(),
            ..peer(Kind::Redis, Workload::Traffic(plan))
        };
        let target = Target::at_most(Metric::Cpu, Against::Ratio("1,000"), 1.5);
        let plans = [(ours_label, many), ("1,000", thousand)];
        let mut row = Self::against_itself(name, title, plans, target);
        row.contestants.push(redis(redis_label, many));
        row.contestants.push(redis("Redis 1,000", thousand));
        row
    }

    fn new(
        name: &'static str,
        title: &'static str,
        contestants: Vec<Contestant>,
        targets: Vec<Target>,
    ) -> Self {
        Self { name, title, judged: 0, contestants, targets }
    }
}

fn ours(label: &str, listener: Listener, workload: Workload) -> Contestant {
    Contestant { label: label.to_owned(), kind: Kind::Jmqt, listener, workload }
}

fn peer(kind: Kind, workload: Workload) -> Contestant {
    Contestant { label: kind.to_string(), kind, listener: Listener::Socket, workload }
}
