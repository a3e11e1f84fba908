//! QoS 2 of MQTT clients whose sessions outlive their connections: each message once, across connections and crashes
//! (MQTT 5.0, 4.3.3, 4.4).

use jmqt_mqtt::{Ack, Delivery, Packet, Qos, ReasonCode, Version};

use super::{Device, Login, VERSIONS, id, start};
use crate::support::TestServer;

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
