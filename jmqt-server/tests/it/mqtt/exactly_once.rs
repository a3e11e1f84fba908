//! QoS 2 of MQTT clients whose sessions outlive their connections: each message once, across connections and crashes
//! (MQTT 5.0, 4.3.3, 4.4).

use jmqt_mqtt::{
    Ack, Delivery, NameBuf, Packet, PacketType, Place, Properties, Property, PropertyBuf, Publish, Qos,
    ReasonCode, Sender, Unsubscribe, Version,
};

use super::{Device, Login, VERSIONS, id, start};
use crate::support::TestServer;
use tokio::io::AsyncWriteExt as _;

const fn persistent(name: &str) -> Login<'_> {
    Login { clean: false, expiry: 1000, ..Login::of(name) }
}

const fn delivery(number: u16, dup: bool) -> Delivery {
    match jmqt_mqtt::PacketId::new(number) {
        Some(id) => Delivery::ExactlyOnce { id, dup },
        None => Delivery::AtMostOnce,
    }
}

fn done(number: u16) -> Ack<'static> {
    Ack::new(id(number), ReasonCode::SUCCESS)
}

/// Connects a client again, and returns whether its session continues.
async fn again(server: &TestServer, version: Version, login: Login<'_>) -> (Device, bool) {
    let mut device = Device::dial(server, version).await;
    let (reason, is_present, _) = device.connect(login).await;
    assert_eq!(reason, ReasonCode::SUCCESS);
    (device, is_present)
}

/// Publishes with QoS 2 up to the PUBREC.
async fn publish(device: &mut Device, number: u16, dup: bool) {
    device.publish("news", number.to_string().as_bytes(), delivery(number, dup), false).await;
    device.next(|packet| assert_eq!(packet, Packet::PubRec(done(number)))).await;
}

/// Releases a publish, and returns the reason of the PUBCOMP.
async fn release(device: &mut Device, number: u16) -> ReasonCode {
    device.send(&Packet::PubRel(done(number))).await;
    device
        .next(|packet| match packet {
            Packet::PubComp(ack) if ack.id == id(number) => ack.reason,
            other => panic!("{other:?}"),
        })
        .await
}

async fn expect_messages(device: &mut Device, expected: &[&[u8]]) {
    for expected in expected {
        assert_eq!(&*device.message().await.1, *expected);
    }
    device.expect_nothing().await;
}

/// The reason for an identifier that is unknown.
fn unknown(version: Version) -> ReasonCode {
    match version {
        Version::V5 => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
        _ => ReasonCode::SUCCESS,
    }
}

#[tokio::test] // 4.4, MQTT-4.3.3-10
async fn an_unreleased_publish_is_not_published_again_after_a_reconnect_or_a_crash() {
    for version in VERSIONS {
        let mut server = start().await;
        let mut reader = Device::new(&server, version, persistent("reader")).await;
        reader.subscribe("news", Qos::AtMostOnce).await;
        let mut sender = Device::new(&server, version, persistent("sender")).await;
        publish(&mut sender, 5, false).await;
        publish(&mut sender, 6, false).await;
        assert_eq!(release(&mut sender, 6).await, ReasonCode::SUCCESS);
        drop(sender);
        let (mut sender, _) = again(&server, version, persistent("sender")).await;
        for dup in [true, false] {
            publish(&mut sender, 5, dup).await;
        }
        expect_messages(&mut reader, &[b"5", b"6"]).await;
        server.crash().await;
        let mut reader = Device::new(&server, version, persistent("reader")).await;
        reader.subscribe("news", Qos::AtMostOnce).await;
        let (mut sender, _) = again(&server, version, persistent("sender")).await;
        publish(&mut sender, 5, true).await;
        publish(&mut sender, 6, false).await;
        assert_eq!(release(&mut sender, 5).await, ReasonCode::SUCCESS);
        assert_eq!(release(&mut sender, 5).await, unknown(version));
        publish(&mut sender, 5, false).await;
        expect_messages(&mut reader, &[b"6", b"5"]).await;
        server.crash().await;
        let (mut sender, _) = again(&server, version, persistent("sender")).await;
        assert_eq!(
            release(&mut sender, 5).await,
            ReasonCode::SUCCESS,
            "known, although it was only released"
        );
        assert_eq!(release(&mut sender, 7).await, unknown(version));
    }
}

#[tokio::test] // 3.1.2.4: the identifiers of a deleted session mean new messages
async fn a_clean_start_forgets_what_was_received() {
    let server = start().await;
    for version in VERSIONS {
        let mut reader = Device::new(&server, version, Login::of("reader")).await;
        reader.subscribe("news", Qos::AtMostOnce).await;
        let name = if version == Version::V5 { "five" } else { "three" };
        let mut sender = Device::new(&server, version, persistent(name)).await;
        publish(&mut sender, 5, false).await;
        drop(sender);
        let (mut sender, is_present) =
            again(&server, version, Login { clean: true, ..persistent(name) }).await;
        assert!(!is_present);
        publish(&mut sender, 5, false).await;
        expect_messages(&mut reader, &[b"5", b"5"]).await;
    }
}

#[tokio::test] // 3.1.2.4
async fn a_clean_start_forgets_what_was_sent() {
    let server = start().await;
    for version in VERSIONS {
        let mut reader = subscribed(&server, version).await;
        publish_all(&server, &["1", "2"]).await;
        let first = first_time(&mut reader, "1").await;
        first_time(&mut reader, "2").await;
        take_over(&mut reader, first).await;
        drop(reader);
        let (mut reader, is_present) =
            again(&server, version, Login { clean: true, ..persistent("reader") }).await;
        assert!(!is_present);
        reader.expect_nothing().await;
        drop(reader);
        let (mut reader, _) = again(&server, version, persistent("reader")).await;
        reader.expect_nothing().await;
    }
}

#[tokio::test] // 3.2.2.3.3, 4.3.3
async fn the_publishes_of_earlier_connections_count_for_the_receive_maximum() {
    let server = start().await;
    let mut sender = Device::new(&server, Version::V5, persistent("sender")).await;
    for number in 1..=128 {
        publish(&mut sender, number, false).await;
    }
    drop(sender);
    let (mut sender, _) = again(&server, Version::V5, persistent("sender")).await;
    publish(&mut sender, 128, true).await;
    assert_eq!(release(&mut sender, 1).await, ReasonCode::SUCCESS);
    publish(&mut sender, 129, false).await;
    sender.publish("news", b"x", delivery(130, false), false).await;
    assert_eq!(sender.ended().await, Some(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED));
}

/// Sends what some clients send after CONNACK: PUBREL for the publishes after `complete` up to `received`, and all others up to
/// `last`.
async fn send_all(device: &mut Device, complete: u16, received: u16, last: u16) {
    let mut all = Vec::new();
    for number in complete + 1..=last {
        let payload = number.to_string();
        let (delivery, properties) = (delivery(number, true), Properties::EMPTY);
        let publish =
            Publish { delivery, retain: false, topic: "news", properties, payload: payload.as_bytes() };
        let packet = if number > received { Packet::Publish(publish) } else { Packet::PubRel(done(number)) };
        packet.encode(device.version, &mut all).unwrap();
    }
    device.stream.write_all(&all).await.unwrap();
}

/// Reads the answers to PUBREL for the identifiers from `first` to `received`, and to publishes up to `last`.
async fn expect_answers(device: &mut Device, first: u16, received: u16, last: u16) {
    for number in first..=last {
        let expected = match number <= received {
            true => Packet::PubComp(done(number)),
            false => Packet::PubRec(done(number)),
        };
        device.next(|packet| assert_eq!(packet, expected)).await;
    }
}

#[tokio::test] // 4.3.3, 4.4: such a client cannot be told a receive maximum
async fn a_client_before_mqtt_5_may_leave_any_number_of_publishes_unreleased() {
    const ALL: u16 = 1500;
    let server = start().await;
    for (login, is_kept) in [(Login::of("clean"), false), (persistent("kept"), true)] {
        let mut reader = Device::new(&server, Version::V3_1_1, Login::of("reader")).await;
        reader.subscribe("news", Qos::AtMostOnce).await;
        let mut sender = Device::new(&server, Version::V3_1_1, login).await;
        send_all(&mut sender, 0, 0, ALL).await;
        expect_answers(&mut sender, 1, 0, ALL).await;
        if is_kept {
            drop(sender);
            sender = again(&server, Version::V3_1_1, login).await.0;
            send_all(&mut sender, 0, 700, ALL).await;
            expect_answers(&mut sender, 1, 700, ALL).await;
        }
        send_all(&mut sender, 0, ALL, ALL).await;
        expect_answers(&mut sender, 1, ALL, ALL).await;
        for number in 1..=ALL {
            assert_eq!(reader.message().await.1, number.to_string().as_bytes());
        }
        reader.expect_nothing().await;
    }
}

#[tokio::test] // 3.3.4, 4.4
async fn a_client_that_ignores_the_receive_maximum_comes_on_with_each_connection() {
    const ALL: u16 = 500;
    let server = start().await;
    let mut reader = Device::new(&server, Version::V5, Login::of("reader")).await;
    reader.subscribe("news", Qos::AtMostOnce).await;
    let (mut complete, mut received) = (0, 0);
    while received < ALL {
        let (mut sender, _) = again(&server, Version::V5, persistent("sender")).await;
        send_all(&mut sender, complete, received, ALL).await;
        let answered = (received + 128).min(ALL);
        expect_answers(&mut sender, complete + 1, received, answered).await;
        if answered < ALL {
            assert_eq!(sender.ended().await, Some(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED));
        }
        (complete, received) = (received, answered);
    }
    for number in 1..=ALL {
        assert_eq!(reader.message().await.1, number.to_string().as_bytes());
    }
    reader.expect_nothing().await;
}

/// A packet that a subscriber receives.
#[derive(Debug, PartialEq, Eq)]
enum Received {
    /// A QoS 2 message: packet identifier, DUP, payload.
    Message(u16, bool, String),
    Release(u16),
    /// The answer to a ping.
    Pong,
}

async fn receive(device: &mut Device) -> Received {
    device
        .next(|packet| match packet {
            Packet::Publish(publish) => match publish.delivery {
                Delivery::ExactlyOnce { id, dup } => {
                    Received::Message(id.get(), dup, String::from_utf8(publish.payload.to_vec()).unwrap())
                }
                other => panic!("{other:?}"),
            },
            Packet::PubRel(ack) => Received::Release(ack.id.get()),
            Packet::PingResp => Received::Pong,
            other => panic!("{other:?}"),
        })
        .await
}

/// The next QoS 2 message, which is sent for the first time: its packet identifier.
async fn first_time(device: &mut Device, payload: &str) -> u16 {
    match receive(device).await {
        Received::Message(number, false, received) if received == payload => number,
        other => panic!("{other:?}"),
    }
}

async fn take_over(device: &mut Device, number: u16) {
    device.send(&Packet::PubRec(done(number))).await;
    assert_eq!(receive(device).await, Received::Release(number));
}

async fn complete(device: &mut Device, number: u16) {
    take_over(device, number).await;
    device.send(&Packet::PubComp(done(number))).await;
}

fn again_of(number: u16, payload: &str) -> Received {
    Received::Message(number, true, payload.to_owned())
}

/// Publishes these messages with QoS 2, each to the end of the exchange.
async fn publish_all(server: &TestServer, payloads: &[&str]) {
    let mut sender = Device::new(server, Version::V5, Login::of("shop")).await;
    for payload in payloads {
        sender.publish("news", payload.as_bytes(), delivery(1, false), false).await;
        sender.next(|packet| assert!(matches!(packet, Packet::PubRec(_)), "{packet:?}")).await;
        release(&mut sender, 1).await;
    }
}

/// A client that is subscribed with QoS 2, and keeps its session.
async fn subscribed(server: &TestServer, version: Version) -> Device {
    let mut device = Device::new(server, version, persistent("reader")).await;
    assert_eq!(device.subscribe("news", Qos::ExactlyOnce).await, ReasonCode::GRANTED_QOS_2);
    device
}

async fn unsubscribe(device: &mut Device) {
    let mut names = NameBuf::new();
    names.push("news").unwrap();
    let packet = Unsubscribe { id: id(8), properties: Properties::EMPTY, filters: names.as_names() };
    device.send(&Packet::Unsubscribe(packet)).await;
    device.next(|packet| assert!(matches!(packet, Packet::UnsubAck(_)), "{packet:?}")).await;
}

#[tokio::test] // 4.4, MQTT-4.3.3-6: messages that were not received are sent again in order, others are released
async fn exchanges_with_a_subscriber_continue_after_a_reconnect_and_a_crash() {
    for (version, crashes) in
        [(VERSIONS[0], false), (VERSIONS[1], false), (VERSIONS[0], true), (VERSIONS[1], true)]
    {
        let mut server = start().await;
        let mut reader = subscribed(&server, version).await;
        publish_all(&server, &["1", "2", "3"]).await;
        let mut numbers = Vec::new();
        for payload in ["1", "2", "3"] {
            numbers.push(first_time(&mut reader, payload).await);
        }
        take_over(&mut reader, numbers[1]).await;
        drop(reader);
        if crashes {
            server.crash().await;
        }
        publish_all(&server, &["4"]).await;
        for _ in 0..2 {
            let (mut reader, is_present) = again(&server, version, persistent("reader")).await;
            assert!(is_present);
            assert_eq!(receive(&mut reader).await, Received::Release(numbers[1]));
            assert_eq!(receive(&mut reader).await, again_of(numbers[0], "1"));
            assert_eq!(receive(&mut reader).await, again_of(numbers[2], "3"));
        }
        let (mut reader, _) = again(&server, version, persistent("reader")).await;
        for _ in 0..3 {
            receive(&mut reader).await;
        }
        let fourth = match receive(&mut reader).await {
            // It may have been recorded on the connection before.
            Received::Message(number, _, payload) if payload == "4" => number,
            other => panic!("{other:?}"),
        };
        assert!(!numbers.contains(&fourth), "{fourth} is in use: {numbers:?}");
        reader.send(&Packet::PubComp(done(numbers[1]))).await;
        for number in [numbers[2], numbers[0], fourth] {
            complete(&mut reader, number).await;
        }
        publish_all(&server, &["5"]).await;
        let fifth = first_time(&mut reader, "5").await;
        complete(&mut reader, fifth).await;
        reader.expect_nothing().await;
        drop(reader);
        let (mut reader, _) = again(&server, version, persistent("reader")).await;
        reader.expect_nothing().await;
    }
}

#[tokio::test] // MQTT-4.3.3-6
async fn a_received_message_is_not_sent_again_after_a_crash() {
    let mut server = start().await;
    let mut reader = subscribed(&server, Version::V5).await;
    publish_all(&server, &["1", "2"]).await;
    let numbers = [first_time(&mut reader, "1").await, first_time(&mut reader, "2").await];
    for number in numbers {
        complete(&mut reader, number).await;
    }
    reader.expect_nothing().await;
    server.crash().await;
    let (mut reader, _) = again(&server, Version::V5, persistent("reader")).await;
    reader.send(&Packet::PingReq).await;
    loop {
        match receive(&mut reader).await {
            Received::Pong => break,
            // The end of the exchange was not on disk yet.
            Received::Release(number) => {
                let ack = Ack::new(id(number), ReasonCode::PACKET_IDENTIFIER_NOT_FOUND);
                reader.send(&Packet::PubComp(ack)).await;
            }
            other => panic!("{other:?}"),
        }
    }
    publish_all(&server, &["3"]).await;
    first_time(&mut reader, "3").await;
}

#[tokio::test] // 4.9, MQTT-4.3.3-1
async fn a_smaller_receive_maximum_holds_for_messages_that_are_sent_again() {
    let server = start().await;
    let mut reader = subscribed(&server, Version::V5).await;
    publish_all(&server, &["1", "2", "3"]).await;
    let mut numbers = Vec::new();
    for payload in ["1", "2", "3"] {
        numbers.push(first_time(&mut reader, payload).await);
    }
    drop(reader);
    publish_all(&server, &["4"]).await;
    let login = Login { receive_maximum: Some(1), ..persistent("reader") };
    let (mut reader, _) = again(&server, Version::V5, login).await;
    for (number, payload) in numbers.iter().zip(["1", "2", "3"]) {
        assert_eq!(receive(&mut reader).await, again_of(*number, payload));
        reader.send(&Packet::PingReq).await;
        assert_eq!(receive(&mut reader).await, Received::Pong);
        complete(&mut reader, *number).await;
    }
    // It may have been recorded on the connection before.
    let Received::Message(fourth, _, payload) = receive(&mut reader).await else { panic!("no message") };
    assert_eq!(payload, "4");
    complete(&mut reader, fourth).await;
    reader.expect_nothing().await;
}

#[tokio::test] // the exchange of a message that the server has not any more ends with PUBREL
async fn the_exchange_of_an_ended_subscription_is_completed() {
    let server = start().await;
    let mut reader = subscribed(&server, Version::V5).await;
    publish_all(&server, &["1"]).await;
    let number = first_time(&mut reader, "1").await;
    unsubscribe(&mut reader).await;
    drop(reader);
    for _ in 0..2 {
        let (mut reader, _) = again(&server, Version::V5, persistent("reader")).await;
        assert_eq!(receive(&mut reader).await, Received::Release(number));
    }
    let (mut reader, _) = again(&server, Version::V5, persistent("reader")).await;
    assert_eq!(receive(&mut reader).await, Received::Release(number));
    reader.send(&Packet::PubComp(done(number))).await;
    reader.expect_nothing().await;
    drop(reader);
    let (mut reader, _) = again(&server, Version::V5, persistent("reader")).await;
    reader.expect_nothing().await;
}

#[tokio::test] // a retained message on its way when the connection is lost: the identifier is not used for another message
async fn the_exchange_of_a_retained_message_is_completed() {
    let server = start().await;
    let mut sender = Device::new(&server, Version::V5, Login::of("shop")).await;
    sender.publish("news", b"kept", delivery(1, false), true).await;
    sender.next(|packet| assert!(matches!(packet, Packet::PubRec(_)), "{packet:?}")).await;
    release(&mut sender, 1).await;
    let mut reader = subscribed(&server, Version::V5).await;
    let number = first_time(&mut reader, "kept").await;
    drop(reader);
    publish_all(&server, &["1"]).await;
    let (mut reader, _) = again(&server, Version::V5, persistent("reader")).await;
    let first = match (receive(&mut reader).await, receive(&mut reader).await) {
        (Received::Release(released), Received::Message(first, _, payload))
        | (Received::Message(first, _, payload), Received::Release(released))
            if released == number && payload == "1" =>
        {
            first
        }
        other => panic!("{other:?}"),
    };
    assert_ne!(first, number);
}

#[tokio::test] // MQTT-4.3.3-9: a refused message is complete
async fn a_message_that_the_client_refuses_is_not_sent_again() {
    let server = start().await;
    let mut reader = subscribed(&server, Version::V5).await;
    publish_all(&server, &["1"]).await;
    let number = first_time(&mut reader, "1").await;
    let refusal = Ack::new(id(number), ReasonCode::UNSPECIFIED_ERROR);
    reader.send(&Packet::PubRec(refusal)).await;
    reader.expect_nothing().await;
    drop(reader);
    let (mut reader, _) = again(&server, Version::V5, persistent("reader")).await;
    reader.expect_nothing().await;
}

#[tokio::test] // MQTT-4.3.3-7, MQTT-4.3.3-13
async fn a_message_that_was_sent_does_not_expire() {
    let server = start().await;
    let mut reader = subscribed(&server, Version::V5).await;
    let mut sender = Device::new(&server, Version::V5, Login::of("shop")).await;
    let mut properties = PropertyBuf::new();
    properties.push(Property::MessageExpiryInterval(1)).unwrap();
    let properties = properties.for_place(Place::Packet(PacketType::Publish), Sender::Client).unwrap();
    let short =
        Publish { delivery: delivery(1, false), retain: false, topic: "news", properties, payload: b"1" };
    sender.send(&Packet::Publish(short)).await;
    let number = first_time(&mut reader, "1").await;
    drop(reader);
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await; // the interval is what is tested
    let (mut reader, _) = again(&server, Version::V5, persistent("reader")).await;
    assert_eq!(receive(&mut reader).await, again_of(number, "1"));
    complete(&mut reader, number).await;
    reader.expect_nothing().await;
}

const fn once(number: u16, dup: bool) -> Delivery {
    match jmqt_mqtt::PacketId::new(number) {
        Some(id) => Delivery::AtLeastOnce { id, dup },
        None => Delivery::AtMostOnce,
    }
}

/// The next messages: payload and delivery.
async fn messages(device: &mut Device, count: usize) -> Vec<(Vec<u8>, Delivery)> {
    let mut found = Vec::new();
    for _ in 0..count {
        let (_, payload, delivery, _) = device.message().await;
        found.push((payload, delivery));
    }
    found
}

/// The messages of one QoS in their order: a message with QoS 2 may wait for the store while others are sent, and the order
/// holds for each topic and QoS (4.6).
fn by_qos(mut messages: Vec<(Vec<u8>, Delivery)>) -> Vec<(Vec<u8>, Delivery)> {
    messages.sort_by_key(|(_, delivery)| matches!(delivery, Delivery::ExactlyOnce { .. }));
    messages
}

/// The same messages, sent again.
fn repeated(messages: &[(Vec<u8>, Delivery)]) -> Vec<(Vec<u8>, Delivery)> {
    let again = |delivery| match delivery {
        Delivery::AtLeastOnce { id, .. } => Delivery::AtLeastOnce { id, dup: true },
        Delivery::ExactlyOnce { id, .. } => Delivery::ExactlyOnce { id, dup: true },
        Delivery::AtMostOnce => Delivery::AtMostOnce,
    };
    messages.iter().map(|(payload, delivery)| (payload.clone(), again(*delivery))).collect()
}

#[tokio::test] // MQTT-4.4.0-1, MQTT-4.6.0-1, MQTT-3.3.1-1
async fn messages_of_both_qos_come_again_in_their_order_as_often_as_the_session_is_resumed() {
    for version in VERSIONS {
        let mut server = start().await;
        let mut device = Device::new(&server, version, persistent("reader")).await;
        for filter in ["one/+", "two"] {
            device.subscribe(filter, Qos::ExactlyOnce).await;
        }
        let mut shop = Device::new(&server, version, Login::of("shop")).await;
        for (number, topic) in ["one/a", "two", "one/b", "two", "one/a"].into_iter().enumerate() {
            let (number, payload) = (u16::try_from(number).unwrap() + 1, number.to_string());
            if number % 2 == 0 {
                shop.publish(topic, payload.as_bytes(), delivery(number, false), false).await;
                shop.next(|packet| assert_eq!(packet, Packet::PubRec(done(number)))).await;
            } else {
                shop.publish(topic, payload.as_bytes(), once(number, false), false).await;
                shop.next(|packet| assert_eq!(packet, Packet::PubAck(done(number)))).await;
            }
        }
        let sent = messages(&mut device, 5).await;
        for restarts in [false, true, false] {
            drop(device);
            if restarts {
                server.restart().await;
            }
            let (resumed, is_present) = again(&server, version, persistent("reader")).await;
            assert!(is_present);
            device = resumed;
            let came_again = messages(&mut device, 5).await;
            assert_eq!(by_qos(came_again), by_qos(repeated(&sent)), "{restarts}");
            device.expect_nothing().await;
        }
        // Answers are accepted in any order, and nothing comes again.
        for (_, delivery) in sent.iter().rev() {
            match *delivery {
                Delivery::ExactlyOnce { id, .. } => {
                    device.send(&Packet::PubRec(done(id.get()))).await;
                    device.next(|packet| assert_eq!(packet, Packet::PubRel(done(id.get())))).await;
                    device.send(&Packet::PubComp(done(id.get()))).await;
                }
                _ => device.acknowledge(*delivery).await,
            }
        }
        device.expect_nothing().await;
        drop(device);
        let (mut device, _) = again(&server, version, persistent("reader")).await;
        device.expect_nothing().await;
    }
}

#[tokio::test] // 4.4
async fn a_message_that_cannot_be_sent_again_with_qos_1_is_given_up() {
    let server = start().await;
    for version in VERSIONS {
        let mut device = Device::new(&server, version, persistent("reader")).await;
        device.subscribe("news", Qos::AtLeastOnce).await;
        let mut shop = Device::new(&server, version, Login::of("shop")).await;
        shop.publish_acknowledged("news", b"1", false).await;
        assert_eq!(messages(&mut device, 1).await.len(), 1);
        drop(device);
        // A JMQT client takes the session over, and acknowledges the message.
        let mut browser = server.connect("reader").await;
        let push = browser.next_push().await;
        browser.ack(&push).await;
        browser.expect_nothing_before_hb().await;
        drop(browser);
        shop.publish_acknowledged("news", b"2", false).await;
        let (mut device, _) = again(&server, version, persistent("reader")).await;
        assert_eq!(messages(&mut device, 1).await[0].0, b"2");
        // The subscription ends, and the client comes back without an acknowledgement.
        let mut names = NameBuf::new();
        names.push("news").unwrap();
        let packet = Unsubscribe { id: id(3), properties: Properties::EMPTY, filters: names.as_names() };
        device.send(&Packet::Unsubscribe(packet)).await;
        device.next(|packet| assert!(matches!(packet, Packet::UnsubAck(_)), "{packet:?}")).await;
        drop(device);
        let (mut device, is_present) = again(&server, version, persistent("reader")).await;
        assert!(is_present);
        device.expect_nothing().await;
        device.disconnect(ReasonCode::SUCCESS, (version == Version::V5).then_some(0)).await;
        device.ended().await;
        let clean = Login { clean: true, ..persistent("reader") };
        let _ = Device::new(&server, version, clean).await;
    }
}
