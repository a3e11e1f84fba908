//! Replies to requests on topics below `$reply/`.

use super::*;

/// Sends a request, whose data is its reply. Before MQTT 5 the topic of the reply has the name of the request.
async fn ask(device: &mut Device, name: &str, data: &[u8]) {
    let (mut properties, reply) = (PropertyBuf::new(), format!("$reply/{name}"));
    if device.version == Version::V5 {
        properties.push(Property::ResponseTopic(&reply)).unwrap();
    }
    let packet = Publish {
        delivery: Delivery::AtMostOnce,
        retain: false,
        topic: &format!("${name}"),
        properties: properties.for_place(Place::Packet(PacketType::Publish), Sender::Client).unwrap(),
        payload: data,
    };
    device.send(&Packet::Publish(packet)).await;
}

/// The next message has the reply, and these subscription identifiers.
async fn expect_reply(device: &mut Device, name: &str, data: &[u8], ids: &[u32]) {
    let ids = if device.version == Version::V5 { ids } else { &[] };
    device
        .next(|packet| match packet {
            Packet::Publish(publish) => {
                assert_eq!((publish.topic, publish.payload), (&*format!("$reply/{name}"), data));
                assert_eq!((publish.delivery, publish.retain), (Delivery::AtMostOnce, false));
                let found: Vec<_> = publish.properties.subscription_ids().map(|id| id.get()).collect();
                assert_eq!(found, ids);
            }
            other => panic!("{other:?}"),
        })
        .await;
}

async fn unsubscribe(device: &mut Device, filter: &str) -> Option<ReasonCode> {
    let mut names = NameBuf::new();
    names.push(filter).unwrap();
    let packet = Unsubscribe { id: id(8), properties: Properties::EMPTY, filters: names.as_names() };
    device.send(&Packet::Unsubscribe(packet)).await;
    device
        .next(|packet| match packet {
            Packet::UnsubAck(codes) => codes.iter().next(),
            other => panic!("{other:?}"),
        })
        .await
}

#[tokio::test]
async fn a_reply_arrives_on_its_topic_at_the_connection_that_asked_and_nowhere_else() {
    let server = start().await;
    for version in VERSIONS {
        let login = Login { clean: false, expiry: 1000, ..Login::of("asker") };
        let mut device = Device::new(&server, version, login).await;
        let mut other = Device::new(&server, version, Login::of("other")).await;
        other.subscribe("$reply/echo", Qos::AtMostOnce).await;
        ask(&mut device, "echo", b"1").await;
        device.expect_nothing().await;
        let options = SubscribeOptions::of_qos(Qos::ExactlyOnce);
        let number = (version == Version::V5).then_some(5);
        assert_eq!(device.subscribe_with("$reply/echo", options, number).await, ReasonCode::SUCCESS);
        ask(&mut device, "echo", b"2").await;
        expect_reply(&mut device, "echo", b"2", &[5]).await;
        assert_eq!(device.subscribe("$reply/#", Qos::AtMostOnce).await, ReasonCode::SUCCESS);
        ask(&mut device, "echo", b"3").await;
        expect_reply(&mut device, "echo", b"3", &[5]).await;
        ask(&mut device, "time/zone", b"\"CET\"").await;
        expect_reply(&mut device, "time/zone", b"CET", &[]).await;
        let removed = unsubscribe(&mut device, "$reply/#").await;
        let again = unsubscribe(&mut device, "$reply/#").await;
        if version == Version::V5 {
            let expected = (Some(ReasonCode::SUCCESS), Some(ReasonCode::NO_SUBSCRIPTION_EXISTED));
            assert_eq!((removed, again), expected);
        }
        ask(&mut device, "time/zone", b"4").await;
        device.expect_nothing().await;
        // It ends with the connection.
        drop(device);
        let mut device = Device::new(&server, version, login).await;
        ask(&mut device, "echo", b"5").await;
        device.expect_nothing().await;
        other.expect_nothing().await;
    }
}

#[tokio::test]
async fn a_connection_has_at_most_sixteen_filters_for_replies() {
    let server = start().await;
    for (version, refused) in
        [(Version::V5, ReasonCode::QUOTA_EXCEEDED), (Version::V3_1_1, ReasonCode::UNSPECIFIED_ERROR)]
    {
        let mut device = Device::new(&server, version, Login::of("asker")).await;
        for number in 1..=16 {
            let filter = format!("$reply/{number}");
            for _ in 0..2 {
                assert_eq!(device.subscribe(&filter, Qos::AtMostOnce).await, ReasonCode::SUCCESS);
            }
        }
        assert_eq!(device.subscribe("$reply/17", Qos::AtMostOnce).await, refused);
        unsubscribe(&mut device, "$reply/1").await;
        assert_eq!(device.subscribe("$reply/17", Qos::AtMostOnce).await, ReasonCode::SUCCESS);
    }
}
