//! Subscriptions and retained messages (3.3.1.3, 3.8 to 3.11, 4.7).

use super::*;

impl Device {
    async fn subscribe_to(&mut self, filters: &[(&str, SubscribeOptions)]) {
        let mut buffer = FilterBuf::new();
        filters.iter().for_each(|(filter, options)| buffer.push(filter, *options).unwrap());
        let properties = Properties::EMPTY;
        self.send(&Packet::Subscribe(Subscribe { id: id(7), properties, filters: buffer.as_filters() }))
            .await;
    }

    /// The messages directly after the SUBACK, in any order, and its codes.
    async fn subscribed(&mut self) -> (Vec<(String, Vec<u8>, bool)>, Vec<ReasonCode>) {
        let codes = self.next(|packet| match packet {
            Packet::SubAck(codes) => codes.iter().collect(),
            other => panic!("{other:?}"),
        });
        let codes = codes.await;
        self.send(&Packet::PingReq).await;
        let mut messages = Vec::new();
        loop {
            let is_end = self.next(|packet| match packet {
                Packet::Publish(publish) => {
                    messages.push((publish.topic.to_owned(), publish.payload.to_vec(), publish.retain));
                    false
                }
                Packet::PingResp => true,
                other => panic!("{other:?}"),
            });
            if is_end.await {
                return (messages, codes);
            }
        }
    }

    async fn unsubscribe_from(&mut self, filters: &[&str]) -> Vec<ReasonCode> {
        let mut names = NameBuf::new();
        filters.iter().for_each(|filter| names.push(filter).unwrap());
        let packet = Unsubscribe { id: id(8), properties: Properties::EMPTY, filters: names.as_names() };
        self.send(&Packet::Unsubscribe(packet)).await;
        self.next(|packet| match packet {
            Packet::UnsubAck(codes) => codes.iter().collect(),
            other => panic!("{other:?}"),
        })
        .await
    }
}

#[tokio::test] // 3.8.4, 3.9.3, 3.10.4, 3.11.3
async fn several_filters_are_answered_in_one_packet_in_their_order() {
    let server = start().await;
    for version in VERSIONS {
        let mut device = Device::new(&server, version, Login::of("device")).await;
        let filters = [
            ("a", Qos::ExactlyOnce),
            ("$p2p/another", Qos::AtMostOnce),
            ("b/+", Qos::AtLeastOnce),
            ("$p2p/other", Qos::AtMostOnce),
            ("c/#", Qos::AtMostOnce),
        ]
        .map(|(filter, qos)| (filter, SubscribeOptions::of_qos(qos)));
        device.subscribe_to(&filters).await;
        let (_, codes) = device.subscribed().await;
        let refused = match version {
            Version::V5 => ReasonCode::NOT_AUTHORIZED,
            _ => ReasonCode::UNSPECIFIED_ERROR, // 0x80
        };
        let (two, one, zero) = (ReasonCode::GRANTED_QOS_2, ReasonCode::GRANTED_QOS_1, ReasonCode::SUCCESS);
        assert_eq!(codes, [two, refused, one, refused, zero]);
        for topic in ["a", "b/x", "c"] {
            device.publish(topic, b"1", Delivery::AtMostOnce, false).await;
            assert_eq!(device.message().await.0, topic);
        }
        let codes = device.unsubscribe_from(&["c/#", "nothing", "a"]).await;
        let none = ReasonCode::NO_SUBSCRIPTION_EXISTED;
        assert_eq!(codes, if version == Version::V5 { vec![zero, none, zero] } else { vec![] });
        for topic in ["a", "c", "b/x"] {
            device.publish(topic, b"1", Delivery::AtMostOnce, false).await;
        }
        assert_eq!(device.message().await.0, "b/x");
    }
}

#[tokio::test] // 3.10.4-1: character by character
async fn an_unsubscribe_ends_the_subscription_of_exactly_this_filter() {
    let server = start().await;
    for version in VERSIONS {
        let mut device = Device::new(&server, version, Login::of("device")).await;
        for filter in ["a/b", "a/+", "A/b", "a/b/", "/a/b", "+/b", "#"] {
            device.subscribe(filter, Qos::AtMostOnce).await;
        }
        device.unsubscribe_from(&["a/+", "a/#", "+/+", "a/b/#", "a", "#"]).await;
        for topic in ["a/b", "A/b", "a/b/", "/a/b"] {
            device.publish(topic, b"1", Delivery::AtMostOnce, false).await;
            assert_eq!(device.message().await.0, topic);
            device.expect_nothing().await;
        }
        device.unsubscribe_from(&["a/b", "A/b", "a/b/", "/a/b", "+/b"]).await;
        for topic in ["a/b", "A/b", "a/b/", "/a/b", "x"] {
            device.publish(topic, b"1", Delivery::AtMostOnce, false).await;
        }
        device.expect_nothing().await;
    }
}

#[tokio::test] // 3.8.4-3, -4, 3.3.1-9 to -11; 3.1.1: 3.8.4-3, 3.3.1-8
async fn a_filter_that_is_there_is_replaced_and_sends_retained_messages_again() {
    let server = start().await;
    let mut shop = Device::new(&server, Version::V5, Login::of("shop")).await;
    for topic in ["state/1", "state/2"] {
        shop.publish_acknowledged(topic, b"kept", true).await;
    }
    for version in VERSIONS {
        for (filter, count) in [("state/1", 1), ("state/+", 2)] {
            let mut device = Device::new(&server, version, Login::of("device")).await;
            for qos in [Qos::AtMostOnce, Qos::ExactlyOnce, Qos::AtMostOnce] {
                device.subscribe_to(&[(filter, SubscribeOptions::of_qos(qos))]).await;
                let (messages, codes) = device.subscribed().await;
                assert_eq!((messages.len(), codes[0].code()), (count, qos.bits()), "{filter}");
                assert!(messages.iter().all(|(_, payload, retain)| payload == b"kept" && *retain));
            }
            // One subscription: one message.
            shop.publish_acknowledged("state/1", b"live", false).await;
            assert_eq!(device.message().await.2, Delivery::AtMostOnce, "the last QoS holds");
            device.expect_nothing().await;
        }
    }
    for (filter, count) in [("state/2", 1), ("state/#", 2)] {
        let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
        for (retain_handling, expected) in [
            (RetainHandling::DoNotSend, 0),
            (RetainHandling::SendIfNew, 0),
            (RetainHandling::Send, count),
            (RetainHandling::SendIfNew, 0),
        ] {
            let options = SubscribeOptions { retain_handling, ..Default::default() };
            device.subscribe_to(&[(filter, options)]).await;
            assert_eq!(device.subscribed().await.0.len(), expected, "{filter} {retain_handling:?}");
        }
        device.unsubscribe_from(&[filter]).await;
        let options = SubscribeOptions { retain_handling: RetainHandling::SendIfNew, ..Default::default() };
        device.subscribe_to(&[(filter, options)]).await;
        assert_eq!(device.subscribed().await.0.len(), count, "{filter} is new");
    }
}

#[tokio::test] // 3.8.4: it may, and clients expect it
async fn the_messages_of_all_filters_of_a_packet_follow_the_suback() {
    let server = start().await;
    let mut shop = Device::new(&server, Version::V5, Login::of("shop")).await;
    // Those of `long` do not wait for the SUBACK, but are read again.
    for (topic, payload) in [("a", &b"1"[..]), ("long/1", &[b'x'; 40_000]), ("long/2", &[b'y'; 40_000])] {
        assert_eq!(shop.publish_acknowledged(topic, payload, true).await, ReasonCode::SUCCESS);
    }
    for version in VERSIONS {
        let mut device = Device::new(&server, version, Login::of("device")).await;
        let filters = ["a", "long/1", "long/2", "+/1", "$share/group/a", "$SYS/broker/version"];
        let filters = filters.map(|filter| (filter, SubscribeOptions::of_qos(Qos::AtLeastOnce)));
        // The second time, none of them is new.
        for _ in 0..2 {
            device.subscribe_to(&filters).await;
            // It reads the SUBACK first.
            let (messages, codes) = device.subscribed().await;
            let topics: Vec<_> = messages.iter().map(|(topic, ..)| &**topic).collect();
            assert_eq!(topics, ["a", "long/1", "long/2", "long/1", "$SYS/broker/version"]);
            assert!(messages.iter().all(|(_, payload, retain)| !payload.is_empty() && *retain));
            let one = ReasonCode::GRANTED_QOS_1;
            assert_eq!(codes, [one, one, one, one, one, ReasonCode::SUCCESS]);
        }
        device.stream.shutdown().await.unwrap();
    }
}

#[tokio::test] // 3.8.4-3
async fn a_filter_that_a_packet_names_twice_is_one_subscription() {
    let server = start().await;
    let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
    device.publish_acknowledged("a", b"kept", true).await;
    let twice = [Qos::AtMostOnce, Qos::AtLeastOnce].map(|qos| ("a", SubscribeOptions::of_qos(qos)));
    device.subscribe_to(&twice).await;
    // The messages of the first one come before the SUBACK.
    let mut messages = 0;
    while device.next(|packet| matches!(packet, Packet::Publish(_))).await {
        messages += 1;
    }
    assert_eq!(messages, 1);
    let (_, payload, delivery, _) = device.message().await;
    assert_eq!(payload, b"kept");
    device.acknowledge(delivery).await;
    device.publish("a", b"live", Delivery::AtMostOnce, false).await;
    assert_eq!(device.message().await.1, b"live");
    device.expect_nothing().await;
}

#[tokio::test] // 3.3.1-5 to -8; 3.1.1: 3.3.1-5, -7, -10 to -12
async fn only_a_publish_with_retain_changes_the_retained_message() {
    let server = start().await;
    for version in VERSIONS {
        let topic = format!("state/{}", version.level());
        let mut device = Device::new(&server, version, Login::of("device")).await;
        device.subscribe(&topic, Qos::AtLeastOnce).await;
        for (payload, qos, retain, kept) in [
            (&b"1"[..], 1, true, Some(&b"1"[..])),
            (b"2", 1, false, Some(b"1")),
            (b"", 1, false, Some(b"1")),
            (b"3", 0, true, Some(b"3")),
            (b"", 0, true, None),
            (b"4", 2, true, Some(b"4")),
            (b"", 1, true, None),
            (b"", 1, true, None),
        ] {
            let delivery = match qos {
                0 => Delivery::AtMostOnce,
                1 => Delivery::AtLeastOnce { id: id(9), dup: false },
                _ => Delivery::ExactlyOnce { id: id(9), dup: false },
            };
            let mut shop = Device::new(&server, version, Login::of("shop")).await;
            shop.publish(&topic, payload, delivery, retain).await;
            // The acknowledgement of the next one: the first has been stored by then.
            shop.publish("other", b"x", Delivery::AtLeastOnce { id: id(10), dup: false }, true).await;
            loop {
                let last = shop.next(|packet| matches!(packet, Packet::PubAck(ack) if ack.id == id(10)));
                if last.await {
                    break;
                }
            }
            let (_, received, delivery, flag) = device.message().await;
            assert_eq!((&*received, flag), (payload, false), "it is delivered, whatever it does");
            if delivery.id().is_some() {
                device.acknowledge(delivery).await;
            }
            let mut late = Device::new(&server, version, Login::of("late")).await;
            late.subscribe_to(&[(&topic, SubscribeOptions::default())]).await;
            let (messages, _) = late.subscribed().await;
            let expected: Vec<_> = kept.iter().map(|kept| (topic.clone(), kept.to_vec(), true)).collect();
            assert_eq!(messages, expected, "{payload:?} {qos} {retain}");
        }
    }
}

#[tokio::test] // 3.3.1-12, -13, 3.8.3-3
async fn retain_as_published_and_no_local_hold_for_each_subscription() {
    let server = start().await;
    let mut shop = Device::new(&server, Version::V5, Login::of("shop")).await;
    for filter in ["state", "+"] {
        for (retain_as_published, expected) in [(true, true), (false, false)] {
            let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
            let options = SubscribeOptions {
                retain_as_published,
                no_local: true,
                retain_handling: RetainHandling::DoNotSend,
                qos: Qos::AtLeastOnce,
            };
            device.subscribe_with(filter, options, None).await;
            device.publish("state", b"own", Delivery::AtMostOnce, true).await;
            shop.publish_acknowledged("state", b"other", true).await;
            let (_, payload, delivery, retain) = device.message().await;
            assert_eq!((&*payload, retain), (&b"other"[..], expected), "{filter}");
            device.acknowledge(delivery).await;
            shop.publish_acknowledged("state", b"live", false).await;
            let (_, payload, _, retain) = device.message().await;
            assert_eq!((&*payload, retain), (&b"live"[..], false), "{filter}");
        }
    }
}

#[tokio::test] // 3.3.2-3, 4.7: what matches is sent, and nothing else
async fn a_filter_receives_what_it_matches() {
    let server = start().await;
    let topics = [
        "a",
        "a/",
        "/a",
        "/",
        "a/b",
        "a//b",
        "a/b/c",
        "A",
        "ä",
        "a b",
        "$x/a",
        "sport/tennis/player1/ranking",
    ];
    for version in VERSIONS {
        let mut shop = Device::new(&server, version, Login::of("shop")).await;
        for (filter, matching) in [
            ("a", vec!["a"]),
            ("+", vec!["a", "A", "ä", "a b"]),
            ("/+", vec!["/a", "/"]),
            ("+/+", vec!["a/", "/a", "/", "a/b"]),
            ("a/#", vec!["a", "a/", "a/b", "a//b", "a/b/c"]),
            ("a/+", vec!["a/", "a/b"]),
            ("a/+/b", vec!["a//b"]),
            ("+/b/#", vec!["a/b", "a/b/c"]),
            ("sport/tennis/player1/#", vec!["sport/tennis/player1/ranking"]),
            ("#", topics.iter().copied().filter(|topic| !topic.starts_with('$')).collect()),
            ("a/b/c/#", vec!["a/b/c"]),
            ("x/#", vec![]),
        ] {
            let mut device = Device::new(&server, version, Login::of("device")).await;
            device.subscribe(filter, Qos::AtMostOnce).await;
            for topic in topics {
                shop.publish(topic, topic.as_bytes(), Delivery::AtMostOnce, false).await;
            }
            for topic in matching {
                assert_eq!(device.message().await.0, topic, "{filter}");
            }
            shop.expect_nothing().await;
            device.expect_nothing().await;
        }
    }
}

#[tokio::test] // 3.3.2-4, -15 to -20
async fn the_properties_of_a_message_are_passed_on_unaltered_and_in_order() {
    let server = start().await;
    let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
    device.subscribe("letter", Qos::AtLeastOnce).await;
    let mut old = Device::new(&server, Version::V3_1_1, Login::of("old")).await;
    old.subscribe("letter", Qos::AtMostOnce).await;
    let mut shop = Device::new(&server, Version::V5, Login::of("shop")).await;
    let sent = [
        Property::UserProperty(("b", "2")),
        Property::PayloadFormatIndicator(true),
        Property::UserProperty(("a", "1")),
        Property::ContentType("text/plain"),
        Property::UserProperty(("b", "1")),
        Property::ResponseTopic("answer"),
        Property::CorrelationData(b"\x00\xff"),
        Property::UserProperty(("b", "2")),
    ];
    let mut properties = PropertyBuf::new();
    properties.push(Property::TopicAlias(1)).unwrap();
    sent.iter().for_each(|property| properties.push(*property).unwrap());
    let properties = properties.for_place(Place::Packet(PacketType::Publish), Sender::Client).unwrap();
    let delivery = Delivery::AtLeastOnce { id: id(9), dup: false };
    let packet = Publish { delivery, retain: true, topic: "letter", properties, payload: b"dear" };
    shop.send(&Packet::Publish(packet)).await;
    shop.next(|packet| assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}")).await;
    device
        .next(|packet| match packet {
            Packet::Publish(publish) => {
                assert_eq!(publish.properties.iter().collect::<Vec<_>>(), sent);
            }
            other => panic!("{other:?}"),
        })
        .await;
    assert_eq!(old.message().await.1, b"dear");
    // The retained copy has them as well.
    let mut late = Device::new(&server, Version::V5, Login::of("late")).await;
    late.subscribe_to(&[("letter", SubscribeOptions::default())]).await;
    late.next(|packet| assert!(matches!(packet, Packet::SubAck(_)), "{packet:?}")).await;
    late.next(|packet| match packet {
        Packet::Publish(publish) => assert_eq!(publish.properties.iter().collect::<Vec<_>>(), sent),
        other => panic!("{other:?}"),
    })
    .await;
    // A will has them, too.
    let mut of_will = PropertyBuf::new();
    sent.iter().for_each(|property| of_will.push(*property).unwrap());
    let will = Will {
        qos: Qos::AtLeastOnce,
        retain: false,
        topic: "letter",
        payload: b"last",
        properties: of_will.for_place(Place::Will, Sender::Client).unwrap(),
    };
    let connect = Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 0,
        client_id: "writer",
        will: Some(will),
        user_name: None,
        password: None,
        properties: Properties::EMPTY,
    };
    let mut writer = Device::dial(&server, Version::V5).await;
    writer.send(&Packet::Connect(connect)).await;
    writer.next(|packet| assert!(matches!(packet, Packet::ConnAck(_)), "{packet:?}")).await;
    drop(writer);
    device
        .next(|packet| match packet {
            Packet::Publish(publish) => {
                assert_eq!(publish.payload, b"last");
                assert_eq!(publish.properties.iter().collect::<Vec<_>>(), sent);
            }
            other => panic!("{other:?}"),
        })
        .await;
}

#[tokio::test] // 3.3.2.3.2
async fn a_payload_that_is_not_the_text_it_says_is_refused_and_the_connection_goes_on() {
    let server = start().await;
    let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
    device.subscribe("news", Qos::AtMostOnce).await;
    let mut properties = PropertyBuf::new();
    properties.push(Property::PayloadFormatIndicator(true)).unwrap();
    let properties = properties.for_place(Place::Packet(PacketType::Publish), Sender::Client).unwrap();
    let delivery = Delivery::AtLeastOnce { id: id(9), dup: false };
    for (payload, reason) in
        [(&b"\xff"[..], ReasonCode::PAYLOAD_FORMAT_INVALID), ("é".as_bytes(), ReasonCode::SUCCESS)]
    {
        let packet = Publish { delivery, retain: false, topic: "news", properties, payload };
        device.send(&Packet::Publish(packet)).await;
        // The message and its acknowledgement come in any order.
        for _ in 0..=u8::from(reason == ReasonCode::SUCCESS) {
            device
                .next(|packet| match packet {
                    Packet::PubAck(ack) => assert_eq!(ack.reason, reason),
                    Packet::Publish(publish) => assert_eq!(publish.payload, "é".as_bytes()),
                    other => panic!("{other:?}"),
                })
                .await;
        }
    }
    device.expect_nothing().await;
}

#[tokio::test] // 3.3.2-7, -12
async fn all_topic_aliases_up_to_the_maximum_are_accepted_and_end_with_the_connection() {
    let server = start().await;
    let mut watcher = Device::new(&server, Version::V5, Login::of("watcher")).await;
    watcher.subscribe("t/#", Qos::AtMostOnce).await;
    let with = |alias, topic: &'static str| {
        let mut properties = PropertyBuf::new();
        properties.push(Property::TopicAlias(alias)).unwrap();
        let properties = properties.for_place(Place::Packet(PacketType::Publish), Sender::Client).unwrap();
        let packet =
            Publish { delivery: Delivery::AtMostOnce, retain: false, topic, properties, payload: b"x" };
        Packet::Publish(packet).to_bytes(Version::V5).unwrap()
    };
    let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
    for alias in 1..=32 {
        let topic: &'static str = Box::leak(format!("t/{alias}").into_boxed_str());
        for named in [topic, ""] {
            device.stream.write_all(&with(alias, named)).await.unwrap();
            assert_eq!(watcher.message().await.0, topic);
        }
    }
    // It may stand for another topic.
    device.stream.write_all(&with(32, "t/other")).await.unwrap();
    device.stream.write_all(&with(32, "")).await.unwrap();
    for _ in 0..2 {
        assert_eq!(watcher.message().await.0, "t/other");
    }
    let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
    device.stream.write_all(&with(32, "")).await.unwrap();
    assert_eq!(device.ended().await, Some(ReasonCode::PROTOCOL_ERROR));
}
