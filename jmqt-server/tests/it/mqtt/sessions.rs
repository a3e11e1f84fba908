//! Sessions of MQTT clients that outlive their connections (docs/mqtt.md).

use std::time::Duration;

use jmqt_mqtt::{Packet, Qos, ReasonCode, Version};
use jmqt_server::config::Config;

use super::{Device, Login, VERSIONS};
use crate::support::{Asked, Behaviour, TestServer, client_id, within};

pub(super) async fn start() -> TestServer {
    start_with(|_| {}).await
}

pub(super) async fn start_with(change: impl FnOnce(&mut Config)) -> TestServer {
    TestServer::configured(|config| {
        config.mqtt_port = Some(0);
        change(config);
    })
    .await
}

/// A login to a session that outlives its connection.
pub(super) fn persistent(name: &str) -> Login<'_> {
    Login { clean: false, expiry: 1000, ..Login::of(name) }
}

/// Connects. Returns the session present flag.
pub(super) async fn connect(server: &TestServer, version: Version, login: Login<'_>) -> (Device, bool) {
    let mut device = Device::dial(server, version).await;
    let (reason, is_present, _) = device.connect(login).await;
    assert_eq!(reason, ReasonCode::SUCCESS);
    (device, is_present)
}

/// Ends the connection in order.
pub(super) async fn leave(mut device: Device, expiry: Option<u32>) {
    device.disconnect(ReasonCode::SUCCESS, expiry).await;
    assert_eq!(device.ended().await, None);
}

/// A publish for the log.
async fn publish(server: &TestServer, topic: &str, payload: &[u8]) {
    let mut publisher = Device::new(server, Version::V5, Login::of("shop")).await;
    assert!(!publisher.publish_acknowledged(topic, payload, false).await.is_error());
}

#[tokio::test] // MQTT-3.2.2-2, MQTT-3.2.2-3, MQTT-3.1.2-4 to 6
async fn a_session_without_subscriptions_is_present() {
    let server = start().await;
    for version in VERSIONS {
        let name = if version == Version::V5 { "five" } else { "three" };
        for expected in [false, true] {
            let (device, is_present) = connect(&server, version, persistent(name)).await;
            assert_eq!(is_present, expected);
            leave(device, None).await;
        }
        let (device, is_present) = connect(&server, version, Login::of(name)).await;
        assert!(!is_present, "a clean start");
        leave(device, None).await;
        let (_, is_present) = connect(&server, version, persistent(name)).await;
        assert!(!is_present, "the session of the clean start has ended with its connection");
    }
}

#[tokio::test] // MQTT-3.1.2-4: nothing of the old session arrives
async fn a_clean_start_leaves_nothing_of_the_old_session() {
    let server = start().await;
    for version in VERSIONS {
        let name = if version == Version::V5 { "five" } else { "three" };
        let (mut device, _) = connect(&server, version, persistent(name)).await;
        for topic in ["a", "b", "c"] {
            device.subscribe(topic, Qos::AtLeastOnce).await;
        }
        drop(device);
        publish(&server, "b", b"old").await;
        let (mut device, is_present) =
            connect(&server, version, Login { clean: true, ..persistent(name) }).await;
        assert!(!is_present);
        for topic in ["a", "b", "c"] {
            publish(&server, topic, b"new").await;
        }
        device.expect_nothing().await;
        assert_eq!(device.subscribe("b", Qos::AtLeastOnce).await, ReasonCode::GRANTED_QOS_1);
        device.expect_nothing().await;
        publish(&server, "b", b"newer").await;
        assert_eq!(device.message().await.1, b"newer");
    }
}

#[tokio::test] // the session receives from before its CONNACK on
async fn a_session_that_is_present_misses_nothing() {
    let server = start().await;
    let (mut device, _) = connect(&server, Version::V5, persistent("lamp")).await;
    device.subscribe("orders", Qos::AtLeastOnce).await;
    let mut publisher = Device::new(&server, Version::V5, Login::of("shop")).await;
    for number in 0..20 {
        drop(device);
        let mut next = Device::dial(&server, Version::V5).await;
        next.send_connect(persistent("lamp")).await;
        let payload = [number];
        publisher.publish_acknowledged("orders", &payload, false).await;
        next.next(|packet| match packet {
            Packet::ConnAck(ack) => assert!(ack.session_present),
            other => panic!("{other:?}"),
        })
        .await;
        let (_, received, delivery, _) = next.message().await;
        assert_eq!(received, payload);
        next.acknowledge(delivery).await;
        next.expect_nothing().await;
        device = next;
    }
}

#[tokio::test] // 3.2.2.3.2
async fn a_session_lasts_at_most_session_expiry_seconds_and_the_client_is_told() {
    let server = start_with(|config| config.session_expiry = Some(Duration::from_secs(100))).await;
    for (asked, told) in [(99, None), (100, None), (101, Some(100)), (u32::MAX, Some(100))] {
        let mut device = Device::dial(&server, Version::V5).await;
        device.send_connect(Login { expiry: asked, ..persistent("lamp") }).await;
        let seen = device.next(|packet| match packet {
            Packet::ConnAck(ack) => ack.properties.session_expiry(),
            other => panic!("{other:?}"),
        });
        assert_eq!(seen.await, told, "{asked}");
    }
    let server = start_with(|config| config.session_expiry = None).await;
    let mut device = Device::dial(&server, Version::V5).await;
    device.send_connect(Login { expiry: u32::MAX, ..persistent("lamp") }).await;
    let seen = device.next(|packet| match packet {
        Packet::ConnAck(ack) => ack.properties.session_expiry(),
        other => panic!("{other:?}"),
    });
    assert_eq!(seen.await, None);
}

#[tokio::test] // MQTT-4.1.0-2: whether or not it was deleted meanwhile
async fn a_session_that_has_expired_is_not_present() {
    let server = start().await; // it looks for expired sessions twice a minute
    let login = Login { expiry: 1, ..persistent("lamp") };
    let (mut device, _) = connect(&server, Version::V5, login).await;
    device.subscribe("orders", Qos::AtLeastOnce).await;
    leave(device, None).await;
    publish(&server, "orders", b"old").await;
    tokio::time::sleep(Duration::from_millis(1100)).await; // it expires, whatever else happens meanwhile
    let (mut device, is_present) = connect(&server, Version::V5, login).await;
    assert!(!is_present);
    publish(&server, "orders", b"new").await;
    device.expect_nothing().await;
    // It does not expire while it is connected.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    leave(device, Some(1000)).await;
    let (_, is_present) = connect(&server, Version::V5, login).await;
    assert!(is_present);
}

#[tokio::test] // an absent client costs nothing after its expiry
async fn an_expired_session_is_deleted() {
    let server = start_with(|config| config.session_expiry = Some(Duration::from_secs(1))).await;
    let (mut device, _) = connect(&server, Version::V5, persistent("lamp")).await;
    device.subscribe("orders", Qos::AtLeastOnce).await;
    leave(device, None).await;
    let deleted = async {
        while server.counters().subscriptions_expired == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    within("the expiry", deleted).await;
    assert_eq!(server.handle().subscriptions(&client_id("lamp")).await.unwrap(), []);
}

#[tokio::test] // 3.14.2.2.2
async fn disconnect_changes_the_expiry_of_a_session() {
    let server = start().await;
    let (device, _) = connect(&server, Version::V5, persistent("lamp")).await;
    leave(device, Some(0)).await;
    let (device, is_present) = connect(&server, Version::V5, Login { expiry: 1, ..persistent("lamp") }).await;
    assert!(!is_present, "it has ended with its connection");
    leave(device, Some(1000)).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let (_, is_present) = connect(&server, Version::V5, persistent("lamp")).await;
    assert!(is_present, "it lasts longer than CONNECT said");
}

#[tokio::test] // 3.14.2.2.2: a protocol error, and the will is published
async fn disconnect_does_not_make_a_session_persistent() {
    let server = start().await;
    let mut watcher = Device::new(&server, Version::V5, Login::of("watcher")).await;
    watcher.subscribe("gone", Qos::AtMostOnce).await;
    let will = Some(("gone", &b"lost"[..], Qos::AtMostOnce, false, 0));
    let mut device = Device::new(&server, Version::V5, Login { will, ..Login::of("lamp") }).await;
    device.disconnect(ReasonCode::SUCCESS, Some(10)).await;
    assert_eq!(device.ended().await, Some(ReasonCode::PROTOCOL_ERROR));
    assert_eq!(watcher.message().await.1, b"lost");
    let (_, is_present) = connect(&server, Version::V5, persistent("lamp")).await;
    assert!(!is_present);
}

#[tokio::test]
async fn sessions_survive_a_restart_and_a_crash() {
    let mut server = start().await;
    let short = Login { expiry: 1, ..persistent("short") };
    for round in 0..3 {
        for (version, name) in [(Version::V3_1_1, "three"), (Version::V5, "five")] {
            let (mut device, is_present) = connect(&server, version, persistent(name)).await;
            assert_eq!(is_present, round > 0, "{name}");
            if is_present {
                let (_, payload, delivery, _) = device.message().await;
                assert_eq!(payload, [round - 1]);
                device.acknowledge(delivery).await;
            }
            assert_eq!(device.subscribe("orders", Qos::AtLeastOnce).await, ReasonCode::GRANTED_QOS_1);
            leave(device, None).await;
        }
        let (device, is_present) = connect(&server, Version::V5, short).await;
        assert!(!is_present, "its own expiry holds after a restart, too");
        drop(device);
        publish(&server, "orders", &[round]).await;
        match round {
            0 => server.restart().await,
            _ => server.crash().await,
        }
        tokio::time::sleep(Duration::from_millis(1200)).await; // the short session expires
    }
}

#[tokio::test]
async fn a_connection_in_the_other_language_takes_the_session_over_with_its_subscriptions() {
    let server = start().await;
    let (mut device, _) = connect(&server, Version::V5, persistent("alice")).await;
    device.subscribe("orders", Qos::AtLeastOnce).await;
    let mut browser = server.connect("alice").await;
    assert_eq!(device.ended().await, Some(ReasonCode::SESSION_TAKEN_OVER));
    browser.sub_persistent("news").await;
    publish(&server, "orders", b"1").await;
    let push = browser.next_push().await;
    assert_eq!(push.data(), "1");
    drop(browser);
    publish(&server, "news", b"2").await;
    let (mut device, is_present) = connect(&server, Version::V5, persistent("alice")).await;
    assert!(is_present);
    let received = [device.message().await.0, device.message().await.0];
    assert_eq!(received, ["orders", "news"], "the browser has acknowledged nothing");
    let (mut device, is_present) = connect(&server, Version::V5, Login::of("alice")).await;
    assert!(!is_present, "a clean start deletes both");
    publish(&server, "news", b"3").await;
    device.expect_nothing().await;
    drop(device);
    let mut browser = server.connect("alice").await;
    publish(&server, "news", b"4").await;
    browser.expect_nothing_before_hb().await;
}

#[tokio::test] // otherwise it would last for ever
async fn a_session_whose_client_was_refused_or_lost_while_it_began_expires() {
    let server = start_with(|config| config.session_expiry = Some(Duration::from_secs(2))).await;
    server.app.set(Asked::Conn, Behaviour::Refuse(jmqt_server::StatusCode::NOT_ALLOWED));
    let mut device = Device::dial(&server, Version::V5).await;
    assert_eq!(device.connect(persistent("lamp")).await.0, ReasonCode::NOT_AUTHORIZED);
    server.app.reset(Asked::Conn);
    for _ in 0..20 {
        // The server may notice the end of the connection at any moment of CONNECT.
        let mut device = Device::dial(&server, Version::V5).await;
        device.send_connect(persistent("lamp")).await;
        drop(device);
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    let (_, is_present) = connect(&server, Version::V5, persistent("lamp")).await;
    assert!(!is_present);
}
