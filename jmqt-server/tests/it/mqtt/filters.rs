//! Persistent subscriptions with wildcards (docs/mqtt.md).

use super::*;

/// Connects to a session that outlives its connection.
async fn session(server: &TestServer, version: Version, name: &str, clean: bool) -> (Device, bool) {
    let mut device = Device::dial(server, version).await;
    // Before MQTT 5 a clean session does not outlive its connection.
    let clean = clean && version == Version::V5;
    let login = Login { clean, expiry: 1000, ..Login::of(name) };
    let (reason, is_present, _) = device.connect(login).await;
    assert_eq!(reason, ReasonCode::SUCCESS);
    (device, is_present)
}

async fn publisher(server: &TestServer) -> Device {
    Device::new(server, Version::V5, Login::of("publisher")).await
}

async fn say(publisher: &mut Device, topic: &str, payload: &str) {
    let code = publisher.publish_acknowledged(topic, payload.as_bytes(), false).await;
    assert!(!code.is_error(), "{code:?}");
}

/// The next message with QoS 1: topic, payload. It is acknowledged.
async fn heard(device: &mut Device) -> (String, String) {
    let (topic, payload, delivery, _) = device.message().await;
    assert_eq!(delivery.qos(), Qos::AtLeastOnce, "{topic}");
    device.acknowledge(delivery).await;
    (topic, String::from_utf8(payload).unwrap())
}

async fn expect(device: &mut Device, topic: &str, payload: &str) {
    assert_eq!(heard(device).await, (topic.to_owned(), payload.to_owned()));
}

async fn unsubscribe(device: &mut Device, filter: &str) {
    let mut names = NameBuf::new();
    names.push(filter).unwrap();
    let packet = Unsubscribe { id: id(8), properties: Properties::EMPTY, filters: names.as_names() };
    device.send(&Packet::Unsubscribe(packet)).await;
    device.next(|packet| assert!(matches!(packet, Packet::UnsubAck(_)), "{packet:?}")).await;
}

#[tokio::test] // 4.1.1, 4.7.1
async fn messages_wait_for_a_session_with_a_filter() {
    let server = start().await;
    for version in VERSIONS {
        let name = if version == Version::V5 { "five" } else { "three" };
        let (mut device, _) = session(&server, version, name, false).await;
        assert_eq!(device.subscribe(&format!("{name}/+"), Qos::AtLeastOnce).await, ReasonCode::GRANTED_QOS_1);
        let mut publisher = publisher(&server).await;
        // Live, in channels that did not exist.
        for number in 0..20 {
            let topic = format!("{name}/{number}");
            say(&mut publisher, &topic, "live").await;
            say(&mut publisher, &topic, "again").await;
            expect(&mut device, &topic, "live").await;
            expect(&mut device, &topic, "again").await;
        }
        drop(device);
        say(&mut publisher, &format!("{name}/7"), "kept").await;
        say(&mut publisher, &format!("{name}/new"), "kept too").await;
        say(&mut publisher, &format!("{name}/a/b"), "unwanted").await;
        let (mut device, is_present) = session(&server, version, name, false).await;
        assert!(is_present);
        let mut both = vec![heard(&mut device).await, heard(&mut device).await];
        both.sort();
        let expected =
            [(format!("{name}/7"), "kept".to_owned()), (format!("{name}/new"), "kept too".to_owned())];
        assert_eq!(both, expected);
        device.expect_nothing().await;
        say(&mut publisher, &format!("{name}/8"), "live").await;
        expect(&mut device, &format!("{name}/8"), "live").await;
    }
}

#[tokio::test] // 2.13
async fn acknowledged_messages_for_filters_survive_a_crash() {
    let mut server = start().await;
    let (mut device, _) = session(&server, Version::V5, "device", false).await;
    device.subscribe("a/#", Qos::AtLeastOnce).await;
    let mut sender = publisher(&server).await;
    say(&mut sender, "a/old", "1").await;
    expect(&mut device, "a/old", "1").await;
    say(&mut sender, "a/old", "2").await;
    server.crash().await;
    let mut sender = publisher(&server).await;
    say(&mut sender, "a/old", "3").await;
    say(&mut sender, "a/new", "4").await;
    server.crash().await;
    let (mut device, is_present) = session(&server, Version::V5, "device", false).await;
    assert!(is_present);
    let mut all = Vec::new();
    while all.len() < 3 || !all.iter().any(|(topic, _)| topic == "a/new") {
        let message = heard(&mut device).await;
        if message.1 != "1" {
            all.push(message); // its acknowledgement may not have been stored
        }
    }
    let old: Vec<_> =
        all.iter().filter(|(topic, _)| topic == "a/old").map(|(_, payload)| payload.as_str()).collect();
    assert_eq!(old, ["2", "3"]);
    device.expect_nothing().await;
}

#[tokio::test] // MQTT-3.10.4-2
async fn nothing_arrives_after_the_end_of_a_filter() {
    let server = start().await;
    let (mut device, _) = session(&server, Version::V5, "device", false).await;
    device.subscribe("a/+", Qos::AtLeastOnce).await;
    device.subscribe("a/1", Qos::AtLeastOnce).await;
    let mut sender = publisher(&server).await;
    for topic in ["a/1", "a/2"] {
        say(&mut sender, topic, "x").await;
        expect(&mut device, topic, "x").await;
    }
    unsubscribe(&mut device, "a/+").await;
    say(&mut sender, "a/2", "unwanted").await;
    say(&mut sender, "a/3", "unwanted").await;
    say(&mut sender, "a/1", "wanted").await;
    expect(&mut device, "a/1", "wanted").await;
    device.expect_nothing().await;
    drop(device);
    say(&mut sender, "a/2", "unwanted").await;
    say(&mut sender, "a/1", "kept").await;
    let (mut device, _) = session(&server, Version::V5, "device", false).await;
    expect(&mut device, "a/1", "kept").await;
    // What was published meanwhile does not come with a new filter.
    device.subscribe("a/+", Qos::AtLeastOnce).await;
    say(&mut sender, "a/2", "new").await;
    expect(&mut device, "a/2", "new").await;
    device.expect_nothing().await;
}

#[tokio::test] // 3.10.4
async fn a_cursor_goes_on_while_a_filter_or_the_name_needs_it() {
    let server = start().await;
    let (mut device, _) = session(&server, Version::V5, "device", false).await;
    device.subscribe("a/1", Qos::AtLeastOnce).await;
    device.subscribe("a/#", Qos::AtLeastOnce).await;
    let mut sender = publisher(&server).await;
    say(&mut sender, "a/1", "both").await;
    expect(&mut device, "a/1", "both").await;
    unsubscribe(&mut device, "a/1").await;
    say(&mut sender, "a/1", "filter").await;
    expect(&mut device, "a/1", "filter").await;
    device.subscribe("a/1", Qos::AtLeastOnce).await;
    unsubscribe(&mut device, "a/#").await;
    say(&mut sender, "a/1", "name").await;
    expect(&mut device, "a/1", "name").await;
    drop(device);
    say(&mut sender, "a/1", "kept").await;
    let (mut device, _) = session(&server, Version::V5, "device", false).await;
    expect(&mut device, "a/1", "kept").await;
    unsubscribe(&mut device, "a/1").await;
    say(&mut sender, "a/1", "unwanted").await;
    device.expect_nothing().await;
}

#[tokio::test] // 3.3.4: one copy with the highest QoS and all subscription identifiers
async fn overlapping_subscriptions_of_a_session_are_one_copy() {
    let server = start().await;
    let (mut device, _) = session(&server, Version::V5, "device", false).await;
    let options = SubscribeOptions::of_qos;
    device.subscribe_with("a/1", options(Qos::AtMostOnce), Some(1)).await;
    device.subscribe_with("a/+", options(Qos::AtLeastOnce), Some(2)).await;
    device.subscribe_with("a/#", options(Qos::AtMostOnce), Some(3)).await;
    let mut sender = publisher(&server).await;
    for round in 0..2 {
        for number in 0..3 {
            say(&mut sender, "a/1", &format!("{number}")).await;
            let (delivery, ids) = device
                .next(|packet| match packet {
                    Packet::Publish(Publish { delivery, properties, payload, .. }) => {
                        assert_eq!(payload, format!("{number}").as_bytes());
                        let mut ids: Vec<_> = properties.subscription_ids().map(|id| id.get()).collect();
                        ids.sort_unstable();
                        (delivery, ids)
                    }
                    other => panic!("{other:?}"),
                })
                .await;
            assert_eq!((delivery.qos(), ids), (Qos::AtLeastOnce, vec![1, 2, 3]), "round {round}");
            device.acknowledge(delivery).await;
        }
        sender.publish("a/1", b"0", Delivery::AtMostOnce, false).await;
        let (.., delivery, _) = device.message().await;
        assert_eq!(delivery, Delivery::AtMostOnce);
        device.expect_nothing().await;
        if round == 0 {
            device = session(&server, Version::V5, "device", false).await.0;
        }
    }
}

#[tokio::test] // 3.1.2.4
async fn a_clean_start_ends_filters_and_their_messages() {
    let server = start().await;
    let (mut device, _) = session(&server, Version::V5, "device", false).await;
    device.subscribe("a/+", Qos::AtLeastOnce).await;
    device.subscribe("b", Qos::AtMostOnce).await;
    let mut sender = publisher(&server).await;
    say(&mut sender, "a/1", "x").await;
    expect(&mut device, "a/1", "x").await;
    drop(device);
    say(&mut sender, "a/1", "old").await;
    say(&mut sender, "a/2", "old").await;
    let (mut device, is_present) = session(&server, Version::V5, "device", true).await;
    assert!(!is_present);
    for topic in ["a/1", "a/3", "b"] {
        say(&mut sender, topic, "unwanted").await;
    }
    device.expect_nothing().await;
    device.subscribe("a/+", Qos::AtLeastOnce).await;
    say(&mut sender, "a/1", "new").await;
    expect(&mut device, "a/1", "new").await;
    device.expect_nothing().await;
}

#[tokio::test] // MQTT-3.1.2-4
async fn subscriptions_with_qos_0_of_a_session_come_back() {
    let mut server = start().await;
    let (mut device, _) = session(&server, Version::V5, "device", false).await;
    device.subscribe("a/+", Qos::AtMostOnce).await;
    device.subscribe("b", Qos::AtMostOnce).await;
    device.subscribe("c", Qos::AtMostOnce).await;
    unsubscribe(&mut device, "c").await;
    drop(device);
    let mut sender = publisher(&server).await;
    say(&mut sender, "a/1", "missed").await;
    server.restart().await;
    let mut sender = publisher(&server).await;
    let (mut device, is_present) = session(&server, Version::V5, "device", false).await;
    assert!(is_present);
    for topic in ["a/1", "b", "c"] {
        say(&mut sender, topic, "x").await;
    }
    for topic in ["a/1", "b"] {
        let (heard, _, delivery, _) = device.message().await;
        assert_eq!((heard.as_str(), delivery), (topic, Delivery::AtMostOnce));
    }
    device.expect_nothing().await;
}

#[tokio::test] // MQTT-3.8.4-3: options are replaced
async fn a_filter_can_change_its_qos() {
    let server = start().await;
    let (mut device, _) = session(&server, Version::V5, "device", false).await;
    let mut sender = publisher(&server).await;
    for (qos, waits) in [(Qos::AtMostOnce, false), (Qos::AtLeastOnce, true), (Qos::AtMostOnce, false)] {
        device.subscribe("a/+", qos).await;
        say(&mut sender, "a/1", "live").await;
        let (_, payload, delivery, _) = device.message().await;
        assert_eq!((&payload[..], delivery.qos()), (&b"live"[..], qos));
        if let Some(packet) = delivery.id() {
            device.send(&Packet::PubAck(Ack::new(packet, ReasonCode::SUCCESS))).await;
        }
        device.expect_nothing().await;
        drop(device);
        say(&mut sender, "a/1", "away").await;
        device = session(&server, Version::V5, "device", false).await.0;
        if waits {
            expect(&mut device, "a/1", "away").await;
        }
        device.expect_nothing().await;
    }
}

#[tokio::test]
async fn a_jmqt_client_on_the_session_receives_what_its_filters_match() {
    let server = start().await;
    let (mut device, _) = session(&server, Version::V5, "bob", false).await;
    device.subscribe("a/+", Qos::AtLeastOnce).await;
    device.subscribe("b/+", Qos::AtMostOnce).await;
    let mut sender = publisher(&server).await;
    say(&mut sender, "a/1", "1").await;
    expect(&mut device, "a/1", "1").await;
    drop(device);
    say(&mut sender, "a/1", "2").await;
    let mut browser = server.connect("bob").await;
    let push = browser.next_push().await;
    assert_eq!((push.data(), push.channel()), ("2", "a/1"));
    browser.ack(&push).await;
    for topic in ["a/2", "a/1", "b/1", "b/1"] {
        say(&mut sender, topic, "3").await;
        let push = browser.next_push().await;
        assert_eq!((push.data(), push.channel()), ("3", topic));
        browser.ack(&push).await;
    }
    drop(browser);
    say(&mut sender, "a/2", "4").await;
    let (mut device, is_present) = session(&server, Version::V5, "bob", false).await;
    assert!(is_present);
    expect(&mut device, "a/2", "4").await;
    device.expect_nothing().await;
}
