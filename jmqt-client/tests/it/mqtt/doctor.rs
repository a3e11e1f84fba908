//! `jmqt doctor` with MQTT servers.

use serde_json::Value;

use super::broker::{Broker, SCHEMES};
use crate::support::command::run_bare;
use crate::support::{Asked, Behaviour, TestServer};
use jmqt_client::StatusCode;
use jmqt_server::Protocol;

/// Exit code, the verdict of each step, and all that was printed.
async fn doctor(arguments: &[&str]) -> (Option<i32>, Vec<(String, String)>, String) {
    let (code, printed, error) = run_bare(&[&["doctor", "--json"], arguments].concat()).await;
    let lines: Vec<Value> = printed.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let steps = lines.iter().filter(|line| line["step"].is_string());
    let steps = steps.map(|line| (text(&line["step"]), text(&line["verdict"]))).collect();
    (code, steps, printed + &error)
}

fn verdict<'s>(steps: &'s [(String, String)], step: &str) -> &'s str {
    steps.iter().find(|(name, _)| name == step).map_or("", |(_, verdict)| verdict)
}

#[tokio::test]
async fn every_step_is_ok_with_mosquitto_over_every_transport_in_both_versions() {
    let Some(broker) = Broker::start("").await else { return };
    let ca = broker.ca();
    for (scheme, version) in SCHEMES.iter().flat_map(|scheme| ["--v3", "--verbose"].map(|it| (*scheme, it))) {
        let url = broker.url(scheme).replace("://", "://me:secret@");
        let (code, steps, printed) = doctor(&["--url", &url, "--ca", ca.to_str().unwrap(), version]).await;
        let mut expected = vec!["name", "TCP"];
        expected.extend(scheme.ends_with('s').then_some("TLS").filter(|_| scheme != "mqtt+ws"));
        expected.extend(scheme.contains("ws").then_some("WebSocket"));
        expected.extend(["CONNECT", "limits", "subscribe", "QoS 1", "QoS 0", "QoS 2", "retained"]);
        expected.extend((version != "--v3").then_some("clock"));
        let names: Vec<_> = steps.iter().map(|(step, _)| step.as_str()).collect();
        assert_eq!(names, expected, "{printed}");
        assert!(steps.iter().all(|(_, verdict)| verdict == "ok"), "{printed}");
        assert_eq!(code, Some(0), "{printed}");
        assert!(!printed.contains("secret"), "{printed}");
    }
    // Nothing stays.
    let left = ["sub", "jmqt-doctor/#", "-W", "0.3", "--url", &broker.url("mqtt")];
    assert_eq!(run_bare(&left).await.1, "");
}

#[tokio::test]
async fn every_step_works_with_the_server_of_this_repository() {
    let server = TestServer::configured(|config| config.mqtt_port = Some(0)).await;
    let url = format!("mqtt://localhost:{}", server.address(Protocol::Mqtt).port());
    let (code, printed, error) = run_bare(&["doctor", "--url", &url]).await;
    assert_eq!((code, error.as_str()), (Some(0), ""), "{printed}");
    assert!(printed.lines().any(|line| line.starts_with("OK    clock")), "{printed}");
    assert!(printed.ends_with("Everything works.\n") && !printed.contains("FAIL"), "{printed}");
    server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let (code, steps, printed) = doctor(&["--url", &url]).await;
    assert_eq!((code, verdict(&steps, "QoS 1")), (Some(1), "fail"), "{printed}");
    server.app.set(Asked::Sub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let (code, steps, printed) = doctor(&["--url", &url, "--topic", "mine/"]).await;
    assert_eq!((code, verdict(&steps, "subscribe")), (Some(1), "fail"), "{printed}");
    assert!(printed.contains("subscribe mine/") && printed.contains("--topic TOPIC"), "{printed}");
}

#[tokio::test]
async fn a_failed_step_is_named_with_advice_and_an_exit_code() {
    let Some(broker) = Broker::start("allow_anonymous false\n").await else {
        return;
    };
    let (plain, tls) = (broker.url("mqtt"), broker.url("mqtts"));
    let other = broker.url("mqtt").replace("mqtt:", "mqtt+ws:");
    for (url, step, exit, words) in [
        ("mqtt://127.0.0.1:1", "TCP", 3, "Usual ports: mqtt:// 1883"),
        ("mqtt://no-such-host.invalid", "name", 3, ""),
        (&tls, "TLS", 3, "certificate"),
        (&other, "WebSocket", 3, "mqtt:// (1883)"),
        (&plain, "CONNECT", 4, "check user name and password"),
    ] {
        let (code, steps, printed) = doctor(&["--url", url]).await;
        assert_eq!((code, verdict(&steps, step)), (Some(exit), "fail"), "{url} {printed}");
        assert!(printed.contains(words), "{url} {printed}");
    }
    // What failed is told in one line, and named in the last.
    let (_, printed, error) = run_bare(&["doctor", "--url", &plain]).await;
    assert_eq!((printed.matches("Not authorized").count(), error.as_str()), (1, "jmqt: failed: CONNECT\n"));
    // It is for MQTT only.
    assert_eq!(run_bare(&["doctor", "--topic", "a", "--url", "jmqt://127.0.0.1:1"]).await.0, Some(2));
}

#[tokio::test]
async fn limits_of_the_server_are_warnings() {
    let Some(broker) = Broker::start("retain_available false\n").await else { return };
    let (code, steps, printed) = doctor(&["--url", &broker.url("mqtt")]).await;
    assert_eq!((code, verdict(&steps, "limits")), (Some(0), "warn"), "{printed}");
    assert!(printed.contains("no retained messages") && printed.contains("publish without -r"), "{printed}");
    assert_eq!((verdict(&steps, "QoS 2"), verdict(&steps, "retained")), ("ok", ""), "{printed}");
}

#[tokio::test]
async fn a_server_of_mqtt_3_is_not_said_to_have_no_limits() {
    let Some(broker) = Broker::start("").await else { return };
    let (_, printed, _) = run_bare(&["doctor", "--v3", "--url", &broker.url("mqtt")]).await;
    assert!(printed.contains("servers do not tell their limits before MQTT 5"), "{printed}");
    assert!(!printed.contains("any size"), "{printed}");
}

#[tokio::test]
async fn a_websocket_that_is_not_for_mqtt_is_recognised() {
    // A JMQT server says so itself.
    let server = TestServer::start().await;
    let url = format!("mqtt+ws://{}", server.address(Protocol::WebSocket));
    let (code, _, printed) = doctor(&["--url", &url]).await;
    assert_eq!(code, Some(3), "{printed}");
    assert!(printed.contains("HTTP 400") && printed.contains("This port is for JMQT."), "{printed}");
    // Another server opens a WebSocket, without the subprotocol.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("mqtt+ws://{}", listener.local_addr().unwrap());
    let serving = std::thread::spawn(move || drop(tungstenite::accept(listener.accept().unwrap().0)));
    let (code, steps, printed) = doctor(&["--url", &url]).await;
    assert_eq!((code, verdict(&steps, "WebSocket")), (Some(3), "fail"), "{printed}");
    serving.join().unwrap();
    assert!(printed.contains("offers no MQTT") && printed.contains("usually /mqtt"), "{printed}");
}
