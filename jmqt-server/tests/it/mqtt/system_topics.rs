//! The topics below `$SYS/`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::*;

async fn watched(interval: Option<Duration>) -> TestServer {
    TestServer::configured(|config| (config.mqtt_port, config.sys_interval) = (Some(0), interval)).await
}

/// Subscribes without reading the answer.
async fn ask(device: &mut Device, filter: &str) {
    let mut filters = FilterBuf::new();
    filters.push(filter, SubscribeOptions::of_qos(Qos::ExactlyOnce)).unwrap();
    let subscribe = Subscribe { id: id(7), properties: Properties::EMPTY, filters: filters.as_filters() };
    device.send(&Packet::Subscribe(subscribe)).await;
}

/// Reads the SUBACK: no value comes before it. Values have QoS 0.
async fn granted(device: &mut Device) {
    device
        .next(|packet| match packet {
            Packet::SubAck(codes) => assert_eq!(codes.codes, [0]),
            other => panic!("{other:?}"),
        })
        .await;
}

/// Reads up to the UNSUBACK. Values that have changed may come before it.
async fn left(device: &mut Device) {
    while !device.next(|packet| matches!(packet, Packet::UnsubAck(_))).await {}
}

#[tokio::test]
async fn a_client_watches_the_server() {
    let server = watched(Some(Duration::from_millis(50))).await;
    let mut device = Device::new(&server, Version::V5, Login::of("watcher")).await;
    ask(&mut device, "$SYS/#").await;
    granted(&mut device).await;
    let mut values = BTreeMap::new();
    // They follow the SUBACK, as if they were retained.
    while values.len() < 42 {
        let (topic, payload, delivery, retain) = device.message().await;
        assert_eq!(delivery, Delivery::AtMostOnce, "{topic}");
        if retain {
            values.insert(topic, String::from_utf8(payload).unwrap());
        }
    }
    let value = |topic: &str| values[&format!("$SYS/broker/{topic}")].as_str();
    assert_eq!((value("clients/connected"), value("subscriptions/count")), ("1", "1"));
    assert!(value("version").starts_with("jmqt-server ") && value("uptime").ends_with(" seconds"));
    // Later values come when they change.
    let mut other = Device::new(&server, Version::V5, Login::of("other")).await;
    loop {
        let (topic, payload, _, retain) = device.message().await;
        assert!(!retain, "{topic}");
        if topic == "$SYS/broker/clients/connected" && payload == b"2" {
            break;
        }
    }
    other.publish("a", b"12345", Delivery::AtMostOnce, false).await;
    loop {
        let (topic, payload, ..) = device.message().await;
        if topic == "$SYS/broker/load/publish/received/1min" && payload != b"0.00" {
            break;
        }
    }
}

#[tokio::test]
async fn one_topic_of_the_server_can_be_watched_and_left() {
    let server = watched(Some(Duration::from_millis(50))).await;
    let mut device = Device::new(&server, Version::V5, Login::of("watcher")).await;
    ask(&mut device, "$SYS/broker/uptime").await;
    granted(&mut device).await;
    assert_eq!(device.message().await.0, "$SYS/broker/uptime");
    let mut filters = NameBuf::new();
    filters.push("$SYS/broker/uptime").unwrap();
    let unsubscribe = Unsubscribe { id: id(8), properties: Properties::EMPTY, filters: filters.as_names() };
    device.send(&Packet::Unsubscribe(unsubscribe)).await;
    left(&mut device).await;
    // Several intervals pass, which the client counts by its own packets.
    ask(&mut device, "$SYS/broker/bytes/received").await;
    granted(&mut device).await;
    let mut values = 0;
    while values < 3 {
        device.send(&Packet::PingReq).await;
        let seen = device.next(|packet| match packet {
            Packet::Publish(publish) => Some(publish.topic.to_owned()),
            _ => None,
        });
        if let Some(topic) = seen.await {
            assert_eq!(topic, "$SYS/broker/bytes/received");
            values += 1;
        }
    }
}

#[tokio::test] // 4.7.2
async fn the_topics_of_the_server_match_no_filter_that_begins_with_a_wildcard() {
    let server = watched(Some(Duration::from_millis(20))).await;
    let mut device = Device::new(&server, Version::V5, Login::of("watcher")).await;
    assert_eq!(device.subscribe("#", Qos::AtMostOnce).await, ReasonCode::SUCCESS);
    assert_eq!(device.subscribe("+/broker/uptime", Qos::AtMostOnce).await, ReasonCode::SUCCESS);
    let mut other = Device::new(&server, Version::V5, Login::of("other")).await;
    ask(&mut other, "$SYS/broker/bytes/received").await;
    // Three intervals have passed for the other client, whose own packets change the value.
    for _ in 0..3 {
        other.send(&Packet::PingReq).await;
        while other.next(|packet| !matches!(packet, Packet::Publish(_))).await {}
    }
    device.expect_nothing().await;
}

#[tokio::test]
async fn without_an_interval_there_is_nothing_to_watch() {
    let server = watched(None).await;
    let mut device = Device::new(&server, Version::V5, Login::of("watcher")).await;
    assert_eq!(device.subscribe("$SYS/#", Qos::AtMostOnce).await, ReasonCode::SUCCESS);
    device.expect_nothing().await;
}

/// Reads values until the last ones of these topics are these.
async fn until_values(device: &mut Device, expected: [(&str, &str); 4]) {
    let mut values = BTreeMap::new();
    while !expected.iter().all(|(topic, value)| values.get(*topic).is_some_and(|last| last == value)) {
        let (topic, payload, ..) = device.message().await;
        let topic = topic.strip_prefix("$SYS/broker/").unwrap().to_owned();
        values.insert(topic, String::from_utf8(payload).unwrap());
    }
}

#[tokio::test]
async fn a_client_watches_what_is_stored() {
    let server = watched(Some(Duration::from_millis(50))).await;
    let persistent = Login { expiry: 600, clean: false, ..Login::of("away") };
    let mut away = Device::new(&server, Version::V5, persistent).await;
    away.subscribe("a", Qos::AtLeastOnce).await;
    let mut device = Device::new(&server, Version::V5, Login::of("watcher")).await;
    ask(&mut device, "$SYS/broker/+/#").await;
    granted(&mut device).await;
    let (absent, all) = ("clients/disconnected", "clients/total");
    let (retained, messages) = ("retained messages/count", "store/messages/count");
    until_values(&mut device, [(absent, "0"), (all, "2"), (retained, "0"), (messages, "0")]).await;
    // They follow what is stored.
    let mut shop = Device::new(&server, Version::V5, Login::of("shop")).await;
    away.disconnect(ReasonCode::SUCCESS, None).await;
    for topic in ["a", "b"] {
        assert_eq!(shop.publish_acknowledged(topic, b"1", true).await, ReasonCode::SUCCESS);
    }
    until_values(&mut device, [(absent, "1"), (all, "3"), (retained, "2"), (messages, "1")]).await;
}

#[tokio::test] // Mosquitto grants any such filter too: the names differ from version to version
async fn a_topic_of_the_server_that_does_not_exist_is_granted_and_stays_silent() {
    let server = watched(Some(Duration::from_millis(20))).await;
    let mut device = Device::new(&server, Version::V5, Login::of("watcher")).await;
    ask(&mut device, "$SYS/nonsense").await;
    granted(&mut device).await;
    device.expect_nothing().await;
}

#[tokio::test]
async fn the_sub_validator_decides_who_watches_the_server() {
    let server = watched(Some(Duration::from_millis(50))).await;
    let mut device = Device::new(&server, Version::V5, Login::of("watcher")).await;
    server.app.set(Asked::Sub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    assert_eq!(device.subscribe("$SYS/broker/uptime", Qos::AtMostOnce).await, ReasonCode::NOT_AUTHORIZED);
    assert_eq!(
        device.publish_acknowledged("$SYS/broker/uptime", b"1", false).await,
        ReasonCode::NOT_AUTHORIZED
    );
    device.expect_nothing().await;
}
