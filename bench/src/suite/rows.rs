//! The rows and their targets, which are goals of this project.

use super::row::Row;
use super::target::{Against, Bound, Check, Target};
use crate::plan::{Pace, Plan, Shape};
use crate::server::Listener;
use crate::workload::{Metric, Workload};

/// All rows, in the order of the report.
pub(crate) fn all() -> Vec<Row> {
    [messages(), acknowledged(), connections(), over_websocket(), scale(), across_nodes(), over_mqtt()]
        .into_iter()
        .flatten()
        .collect()
}

fn fan_out(subscribers: u32) -> Plan {
    Plan::saturated(Shape::FanOut { subscribers })
}

fn pairs() -> Plan {
    Plan::saturated(Shape::Pairs { pairs: 50 })
}

fn paced() -> Plan {
    Plan::paced(Shape::Pairs { pairs: 10 }, Pace::PerSecond(5_000.0))
}

fn qos_1(window: u32) -> Plan {
    Plan::acknowledged(Shape::Pairs { pairs: 50 }, window)
}

fn messages() -> Vec<Row> {
    let p99 = Target::at_most(Metric::P99, Against::Ratio("Redis"), 1.5);
    let cpu = |peer, limit| Target::at_most(Metric::Cpu, Against::Ratio(peer), limit);
    let as_mosquitto = |metric| Target::at_most(metric, Against::Ratio("Mosquitto"), 1.0);
    vec![
        Row::with_peers(
            "fanout-100",
            "1 publisher → 100 subscribers",
            Workload::Traffic(fan_out(100)),
            vec![cpu("Redis", 0.5), p99],
        ),
        Row::with_peers(
            "fanout-1000",
            "1 publisher → 1,000 subscribers",
            Workload::Traffic(fan_out(1_000)),
            vec![cpu("Redis", 0.6), p99],
        ),
        Row::with_peers(
            "pairs",
            "50 pairs, pipelined",
            Workload::Traffic(pairs()),
            vec![cpu("NATS", 0.8), p99],
        ),
        Row::with_peers(
            "paced",
            "paced 5,000/s over 10 pairs",
            Workload::Traffic(paced()),
            [Metric::P50, Metric::P99, Metric::Cpu].map(as_mosquitto).into(),
        ),
    ]
}

fn acknowledged() -> Vec<Row> {
    let rate = Target::at_least(Metric::Rate, Against::Ratio("Mosquitto"), 0.8);
    let cpu = Check { metric: Metric::Cpu, against: Against::Nothing, bound: Bound::AtMost, limit: 16.0 };
    let to_100 = Shape::FanOut { subscribers: 100 };
    vec![
        Row::with_mosquitto(
            "qos1-100",
            "QoS 1, 50 pairs, window 100 (ours fsynced)",
            qos_1(100),
            vec![Target { or: Some(cpu), ..rate }],
        ),
        Row::with_mosquitto(
            "qos1-1",
            "QoS 1, 50 pairs, window 1 (ours fsynced)",
            qos_1(1),
            vec![Target::at_least(Metric::Rate, Against::Ratio("Mosquitto"), 0.35)],
        ),
        Row::against_itself(
            "qos1-fanout-100",
            "QoS 1, 1 → 100 persistent subscribers, window 100",
            [
                ("QoS 1", Plan::acknowledged(to_100, 100)),
                ("QoS 0", Plan { window: 100, ..Plan::saturated(to_100) }),
            ],
            Target::at_most(Metric::Cpu, Against::Difference("QoS 0"), 1.0),
        ),
    ]
}

fn connections() -> Vec<Row> {
    let idle = |connections| Workload::Idle { connections };
    let bytes = |limit| Target::at_most(Metric::Bytes, Against::Nothing, limit);
    let (websocket, tls) = (Listener::WebSocket, Listener::TlsSocket);
    vec![
        Row::with_peers("idle", "idle TCP connection", idle(5_000), vec![bytes(2_800.0)]),
        Row::alone("idle-ws", "idle WebSocket connection", websocket, idle(5_000), bytes(4_600.0)),
        Row::alone("idle-tls", "idle TLS connection", tls, idle(2_000), bytes(12_000.0)),
        Row::with_peers(
            "connect",
            "connect + authenticate + subscribe",
            Workload::Connect { connections: 6_000 },
            vec![Target::at_least(Metric::Rate, Against::Ratio("Mosquitto"), 0.5)],
        ),
    ]
}

fn over_websocket() -> Vec<Row> {
    vec![
        Row::over_websocket("ws-fanout-100", "WebSocket: 1 → 100", fan_out(100)),
        Row::over_websocket("ws-fanout-1000", "WebSocket: 1 → 1,000", fan_out(1_000)),
        Row::over_websocket("ws-pairs", "WebSocket: 50 pairs, pipelined", pairs()),
        Row::over_websocket("ws-paced", "WebSocket: paced 5,000/s over 10 pairs", paced()),
        Row::over_websocket("ws-qos1-100", "WebSocket: QoS 1, 50 pairs, window 100", qos_1(100)),
    ]
}

fn scale() -> Vec<Row> {
    let channels = |each| Plan::saturated(Shape::Channels { subscribers: 1_000, each });
    vec![
        Row::half_rate(
            "half-fanout-100",
            "1 → 100 at half the saturated rate",
            Shape::FanOut { subscribers: 100 },
        ),
        Row::half_rate("half-pairs", "50 pairs at half the saturated rate", Shape::Pairs { pairs: 50 }),
        Row::at_scale(
            "subscribers-9000",
            "9,000 subscribers on one channel",
            ["9,000", "Redis 9,000"],
            [fan_out(9_000), fan_out(1_000)],
        ),
        Row::at_scale(
            "channels-100000",
            "100,000 channels, 1,000 connections",
            ["100,000", "Redis 100,000"],
            [channels(100), channels(1)],
        ),
    ]
}

/// Subscribers on both nodes, or on the one where publishers are not.
fn across_nodes() -> Vec<Row> {
    let cpu = |limit| Target::at_most(Metric::Cpu, Against::Ratio("one node"), limit);
    let paced = Plan::paced(Shape::Pairs { pairs: 10 }, Pace::PerSecond(1_000.0));
    vec![
        Row::across_nodes(
            "nodes-fanout",
            "two nodes: 1 publisher → 2 × 500 subscribers",
            fan_out(1_000),
            vec![cpu(1.5)],
        ),
        Row::across_nodes("nodes-pairs", "two nodes: 50 pairs, pipelined", pairs(), vec![cpu(3.0)]),
        Row::across_nodes(
            "nodes-paced",
            "two nodes: paced 1,000/s over 10 pairs",
            paced,
            vec![Target::at_most(Metric::P50, Against::Difference("one node"), 300.0)],
        ),
        Row::across_nodes(
            "nodes-qos1",
            "two nodes: QoS 1, 50 pairs, window 100 (MariaDB, fsynced)",
            qos_1(100),
            vec![Target::at_least(Metric::Rate, Against::Nothing, 20_000.0)],
        ),
    ]
}

fn over_mqtt() -> Vec<Row> {
    let against = Against::Ratio("Mosquitto");
    let at_most = |metric, limit| vec![Target::at_most(metric, against, limit)];
    let at_least = |limit| vec![Target::at_least(Metric::Rate, against, limit)];
    let row = |name, title, plan, targets| Row::over_mqtt(name, title, Workload::Traffic(plan), targets);
    let as_mosquitto = |metric| Target::at_most(metric, against, 1.0);
    vec![
        row("mqtt-fanout-100", "MQTT: 1 → 100", fan_out(100), at_most(Metric::Cpu, 0.05)),
        row("mqtt-fanout-1000", "MQTT: 1 → 1,000", fan_out(1_000), at_most(Metric::Cpu, 0.05)),
        row("mqtt-pairs", "MQTT: 50 pairs, pipelined", pairs(), at_most(Metric::Cpu, 0.05)),
        row(
            "mqtt-paced",
            "MQTT: paced 5,000/s over 10 pairs",
            paced(),
            [Metric::P50, Metric::P99, Metric::Cpu].map(as_mosquitto).into(),
        ),
        row("mqtt-qos1-100", "MQTT: QoS 1, 50 pairs, window 100", qos_1(100).temporary(), at_least(3.0)),
        row(
            "mqtt-qos1-100-persistent",
            "MQTT: QoS 1, 50 pairs, window 100, persistent (ours fsynced)",
            qos_1(100),
            at_least(2.5),
        ),
        row("mqtt-qos1-1", "MQTT: QoS 1, 50 pairs, window 1", qos_1(1).temporary(), at_least(0.7)),
        row(
            "mqtt-qos1-1-persistent",
            "MQTT: QoS 1, 50 pairs, window 1, persistent (ours fsynced)",
            qos_1(1),
            at_least(0.35),
        ),
        row(
            "mqtt-qos2-100",
            "MQTT: QoS 2, 50 pairs, window 100",
            qos_1(100).temporary().exactly_once(),
            at_least(1.5),
        ),
        row(
            "mqtt-qos2-100-persistent",
            "MQTT: QoS 2, 50 pairs, window 100, persistent (ours fsynced)",
            qos_1(100).exactly_once(),
            at_least(1.0),
        ),
        Row::with_filters(
            "mqtt-filters-100000",
            "MQTT: 100,000 wildcard filters, one matches",
            Plan::saturated(Shape::Channels { subscribers: 10, each: 10_000 }),
            vec![
                Target::at_most(Metric::Cpu, against, 0.5),
                Target::at_most(Metric::Cpu, Against::Ratio("no wildcards"), 1.5),
            ],
        ),
        Row::over_mqtt(
            "mqtt-retained-100000",
            "MQTT: 100,000 retained messages for one `#`",
            Workload::Retained { messages: 100_000 },
            at_most(Metric::Took, 2.0),
        ),
        Row::over_mqtt(
            "mqtt-idle",
            "idle MQTT connection",
            Workload::Idle { connections: 5_000 },
            vec![Target::at_most(Metric::Bytes, Against::Nothing, 3_000.0)],
        ),
        Row::over_mqtt(
            "mqtt-connect",
            "MQTT: connect + authenticate + subscribe",
            Workload::Connect { connections: 6_000 },
            at_least(0.8),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_target_names_a_contestant_of_its_row() {
        for row in all() {
            let labels: Vec<_> = row.contestants.iter().map(|one| one.label.as_str()).collect();
            assert!(row.judged < labels.len());
            for target in &row.targets {
                for check in std::iter::once(target.check).chain(target.or) {
                    if let Against::Ratio(label) | Against::Difference(label) = check.against {
                        assert!(labels.contains(&label), "{}: {label}", row.name);
                    }
                }
            }
        }
    }
}
