//! What the log says about MQTT clients that are refused: each client and cause once a minute.

use jmqt_server::StatusCode;

use super::*;
use crate::log::logged;

/// The lines with this text, without the addresses.
fn about<'a>(lines: &'a [String], text: &str) -> Vec<&'a str> {
    lines.iter().map(|line| &**line).filter(|line| line.contains(text)).collect()
}

async fn is_refused(server: &TestServer, version: Version, login: Login<'_>) {
    let mut device = Device::dial(server, version).await;
    let (reason, ..) = device.connect(login).await;
    assert_eq!(reason, ReasonCode::NOT_AUTHORIZED);
    device.ended().await;
}

#[test]
fn a_client_that_is_refused_often_does_not_hide_another() {
    let lines = logged(async {
        let server = start().await;
        server.app.set(Asked::Auth, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
        for name in ["noisy", "noisy", "noisy", "rare", "noisy"] {
            for version in VERSIONS {
                is_refused(&server, version, Login::of(name)).await;
            }
        }
        server.app.reset(Asked::Auth);
        server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
        let will = Some(("sensors/gone", &b"x"[..], Qos::AtMostOnce, false, 0));
        is_refused(&server, Version::V5, Login { will, ..Login::of("noisy") }).await;
    });
    let about = about(&lines, "refused: CONNECT");
    for (line, parts) in about.iter().zip([
        ["client=\"noisy\"", "refused"],
        ["client=\"rare\"", "refused"],
        ["client=\"noisy\"", "`sensors/gone`"],
    ]) {
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        assert!(line.contains("0x87") && line.contains("remote=127.0.0.1:"), "{line}");
    }
    assert_eq!(about.len(), 3, "{about:#?}");
}

#[test]
fn a_refused_subscription_or_publish_is_logged_with_its_topic() {
    let long = "long/".repeat(100);
    let lines = logged(async {
        let server = start().await;
        for asked in [Asked::Pub, Asked::Sub] {
            server.app.set(asked, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
        }
        for (version, name) in VERSIONS.into_iter().zip(["one", "two"]) {
            let mut device = Device::new(&server, version, Login::of(name)).await;
            for topic in ["a/b", "a/c"] {
                assert!(device.subscribe(topic, Qos::AtMostOnce).await.is_error());
                device.publish(topic, b"secret", Delivery::AtMostOnce, false).await;
            }
            assert!(device.subscribe(&long, Qos::AtMostOnce).await.is_error());
        }
        // With MQTT 5 a filter that is no filter is refused alone.
        let mut device = Device::new(&server, Version::V5, Login::of("three")).await;
        assert_eq!(device.subscribe("a#", Qos::AtMostOnce).await, ReasonCode::TOPIC_FILTER_INVALID);
        device.expect_nothing().await;
    });
    let about = about(&lines, "refused: ");
    for client in ["one", "two"] {
        for kind in ["SUBSCRIBE", "PUBLISH"] {
            let is_it = |line: &&&str| line.contains(kind) && line.contains(&format!("client=\"{client}\""));
            let own: Vec<_> = about.iter().filter(is_it).collect();
            assert_eq!(own.len(), 1, "{about:#?}");
            assert!(own[0].contains("channel=\"a/b\"") && !own[0].contains("secret"), "{own:?}");
        }
    }
    assert!(about.iter().any(|line| line.contains("channel=\"a#\"")), "{about:#?}");
    assert_eq!(about.len(), 5, "{about:#?}");
}

#[test]
fn a_validator_that_fails_is_logged_once_a_minute() {
    let lines = logged(async {
        let server = start().await;
        let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
        for (asked, behaviour) in
            [(Asked::Pub, Behaviour::Fail), (Asked::Pub, Behaviour::Panic), (Asked::Sub, Behaviour::Fail)]
        {
            server.app.set(asked, behaviour);
            for _ in 0..20 {
                if asked == Asked::Pub {
                    assert!(device.publish_acknowledged("a", b"1", false).await.is_error());
                } else {
                    assert!(device.subscribe("a", Qos::AtMostOnce).await.is_error());
                }
            }
        }
        assert_eq!(server.counters().validator_failures, 60);
    });
    for text in ["pub validator failed", "pub validator panicked", "sub validator failed"] {
        assert_eq!(about(&lines, text).len(), 1, "{text}: {lines:#?}");
    }
}

#[test]
fn a_client_that_exceeds_the_receive_maximum_is_logged_with_the_limit() {
    let lines = logged(async {
        let server = TestServer::configured(|config| {
            (config.mqtt_port, config.mqtt_receive_maximum) = (Some(0), 2);
        })
        .await;
        for _ in 0..2 {
            let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
            for number in 1..=3 {
                let delivery = Delivery::ExactlyOnce { id: id(number), dup: false };
                device.publish("news", b"x", delivery, false).await;
            }
            for _ in 0..2 {
                device.next(|packet| assert!(matches!(packet, Packet::PubRec(_)), "{packet:?}")).await;
            }
            assert_eq!(device.ended().await, Some(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED));
        }
    });
    let about = about(&lines, "MQTT_RECEIVE_MAXIMUM");
    assert!(about.len() == 1 && about[0].contains("limit=2"), "{about:?}");
}
