//! `/metrics`, `/healthz` and `/readyz`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jmqt_server::Protocol;

use super::http::Operator;
use super::text::{Family, read, sum};
use super::with_operator;
use crate::support::{Asked, Behaviour, TestServer, within};

const DASHBOARD: &str = include_str!("../../../../deploy/grafana-dashboard.json");
const ALERTS: &str = include_str!("../../../../deploy/prometheus-alerts.yml");

/// Reads the metrics. A text may be a second old, so it asks until they are as expected.
async fn metrics(
    operator: &Operator,
    is_expected: impl Fn(&BTreeMap<String, Family>) -> bool,
) -> BTreeMap<String, Family> {
    let began = std::time::Instant::now();
    loop {
        let response = operator.get("/metrics").await;
        assert_eq!(response.status, 200, "{response:?}");
        let families = read(&response.body);
        if is_expected(&families) {
            return families;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{}", response.body);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn metrics_show_what_clients_did() {
    let (server, operator) = with_operator(|_| {}).await;
    server.app.on_rule(|asked, _, channel| asked != Asked::Sub || channel != "secret");
    let mut alice = server.connect("alice").await;
    let _bob = server.websocket("bob").await;
    alice.sub_persistent("news").await;
    alice.send(r#"{"sub":{"cn":"secret"}}"#).await;
    let refused = alice.next().await;
    assert!(refused.contains("subAck"), "{refused}");
    alice.sub("weather").await;
    alice.pub1("else", "1").await;
    let text = metrics(&operator, |families| {
        sum(families, "jmqt_packets_received_total", &[("type", "subscribe")]) > 2.5
    })
    .await;
    let is = |name: &str, labels: &[(&str, &str)], value: f64| {
        let found = sum(&text, name, labels);
        assert!((found - value).abs() < 0.5, "{name} {labels:?}: {found}");
    };
    is("jmqt_sessions", &[], 2.0);
    is("jmqt_sessions", &[("protocol", "jmqt"), ("transport", "tcp")], 1.0);
    is("jmqt_sessions", &[("protocol", "jmqt"), ("transport", "ws")], 1.0);
    is("jmqt_connections", &[], 2.0);
    is("jmqt_connections_accepted_total", &[("transport", "ws")], 1.0);
    is("jmqt_packets_received_total", &[("protocol", "jmqt"), ("type", "connect")], 2.0);
    is("jmqt_packets_received_total", &[("protocol", "jmqt"), ("type", "publish")], 1.0);
    is("jmqt_packets_received_total", &[("protocol", "mqtt")], 0.0);
    is("jmqt_packets_refused_total", &[("type", "subscribe")], 1.0);
    is("jmqt_messages_published_total", &[], 1.0);
    is("jmqt_subscriptions", &[("kind", "channel")], 2.0);
    is("jmqt_ready", &[], 1.0);
    for name in [
        "jmqt_received_bytes_total",
        "jmqt_sent_bytes_total",
        "jmqt_store_bytes",
        "process_open_fds",
        "process_start_time_seconds",
    ] {
        assert!(sum(&text, name, &[]) > 0.0, "{name}");
    }
    let count = |name: &str, labels: &[(&str, &str)]| {
        let samples = text[name].samples.iter().filter(|(of, ..)| of.ends_with("_count"));
        samples
            .filter(|(_, with, _)| labels.iter().all(|(label, value)| with[*label] == *value))
            .map(|it| it.2)
            .sum::<f64>()
    };
    assert!(count("jmqt_commit_duration_seconds", &[]) > 0.5);
    assert!(count("jmqt_validator_duration_seconds", &[("validator", "sub"), ("outcome", "answered")]) > 2.5);
}

#[tokio::test]
async fn a_validator_that_fails_and_a_session_that_ends_are_counted_by_their_reasons() {
    let (server, operator) = with_operator(|_| {}).await;
    let mut alice = server.connect("alice").await;
    server.app.set(Asked::Sub, Behaviour::Fail);
    alice.send(r#"{"sub":{"cn":"news"}}"#).await;
    alice.next().await;
    drop(alice);
    let is_counted = |families: &BTreeMap<String, Family>| {
        sum(families, "jmqt_connections_closed_total", &[("reason", "closed_by_client")]) > 0.5
    };
    let text = metrics(&operator, is_counted).await;
    let failed = [("validator", "sub"), ("outcome", "failed")];
    assert!(sum(&text, "jmqt_validator_duration_seconds", &failed) > 0.5);
    assert!(
        (sum(&text, "jmqt_packets_refused_total", &[("type", "subscribe"), ("status", "5")]) - 1.0).abs()
            < 0.5
    );
}

#[tokio::test]
async fn open_metrics_is_sent_to_those_who_ask_for_it() {
    let (_server, operator) = with_operator(|_| {}).await;
    let response = operator
        .request("GET", "/metrics", "Accept: application/openmetrics-text; version=1.0.0\r\n", "")
        .await;
    assert!(
        response.head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{response:?}"
    );
    assert!(
        response.body.ends_with("# EOF\n")
            && response.body.contains("# TYPE jmqt_messages_published counter\n")
    );
    let head = operator.request("HEAD", "/metrics", "", "").await;
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[tokio::test] // an overloaded server: nothing else runs on its only thread meanwhile
async fn metrics_and_health_are_answered_while_the_server_does_nothing() {
    let (_server, operator) = with_operator(|_| {}).await;
    assert_eq!(operator.get("/readyz").await.status, 200);
    // These block the thread of the server.
    assert_eq!(operator.request_blocking("GET", "/healthz", "", "").body, "ok\n");
    read(&operator.request_blocking("GET", "/metrics", "", "").body);
    let ready = operator.request_blocking("GET", "/readyz", "", "");
    assert_eq!(ready.status, 503, "{ready:?}");
    assert!(ready.json()["checks"]["store"].as_str().unwrap().contains("overloaded"), "{ready:?}");
    assert_eq!(operator.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn readiness_names_what_is_missing() {
    let (server, operator) = with_operator(|_| {}).await;
    let ready = operator.get("/readyz").await;
    assert_eq!((ready.status, &ready.json()["ready"]), (200, &true.into()), "{ready:?}");
    std::fs::remove_file(server.folder().join("jmqt.db")).unwrap();
    // The server looks for its files once a second.
    let gone = within("unready", async {
        loop {
            let ready = operator.get("/readyz").await;
            if ready.status != 200 {
                return ready;
            }
        }
    })
    .await;
    assert_eq!(gone.status, 503, "{gone:?}");
    assert_eq!(gone.json()["checks"]["store"], "the database was deleted or replaced");
    assert_eq!(gone.json()["checks"]["running"], "ok");
    assert_eq!(operator.get("/healthz").await.status, 200, "the process lives");
}

#[tokio::test]
async fn a_stopping_server_is_alive_and_not_ready() {
    let (mut server, operator) = with_operator(|_| {}).await;
    let gate = server.app.hold(Asked::Close);
    let mut alice = server.connect("alice").await;
    let ask = async {
        alice.closed().await;
        let ready = operator.get("/readyz").await;
        assert_eq!(ready.status, 503, "{ready:?}");
        assert!(ready.json()["checks"]["running"].as_str().unwrap().contains("stopping"), "{ready:?}");
        assert_eq!(operator.get("/healthz").await.status, 200);
        gate.open();
    };
    tokio::join!(server.shutdown(), ask);
    assert!(std::net::TcpStream::connect(operator.address()).is_err(), "the listener is closed");
}

#[tokio::test]
async fn without_its_key_there_is_no_listener_for_operators() {
    let server = TestServer::start().await;
    assert_eq!(server.running().admin_addr(), None);
    assert!(server.address(Protocol::Socket).port() > 0);
}

/// The names of metrics in a text.
fn named(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("jmqt_") || word.starts_with("process_")).collect()
}

#[tokio::test]
async fn every_metric_of_the_dashboard_and_of_the_alerts_exists() {
    /// Only nodes of a cluster have these.
    const OF_CLUSTERS: [&str; 3] = ["jmqt_bus_up", "jmqt_bus_round_trip_seconds", "jmqt_cluster_nodes"];
    let (_server, operator) = with_operator(|_| {}).await;
    let counted = |families: &BTreeMap<String, Family>| families.contains_key("jmqt_stored_messages");
    let families = metrics(&operator, counted).await;
    serde_json::from_str::<serde_json::Value>(DASHBOARD).unwrap();
    for (file, text) in [("the dashboard", DASHBOARD), ("the alerts", ALERTS)] {
        let names = named(text);
        assert!(names.len() >= 8, "{file}: {names:?}");
        for name in names {
            let family = ["_bucket", "_sum", "_count"].into_iter().find_map(|suffix| {
                let family = name.strip_suffix(suffix)?;
                families.get(family).filter(|it| it.kind == "histogram")
            });
            let exists = families.contains_key(name) || family.is_some() || OF_CLUSTERS.contains(&name);
            assert!(exists, "{file} names {name}");
        }
    }
}
