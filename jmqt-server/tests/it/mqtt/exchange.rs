//! Messages and their acknowledgements in both directions (2.2.1, 3.3 to 3.7, 4.3 to 4.6, 4.9).

use super::*;

const AT_LEAST_ONCE: Delivery = Delivery::AtLeastOnce { id: PacketId::MIN, dup: false };

fn exactly_once(number: u16, dup: bool) -> Delivery {
    Delivery::ExactlyOnce { id: id(number), dup }
}

impl Device {
    async fn expect(&mut self, expected: Packet<'_>) {
        self.next(|packet| assert_eq!(packet, expected)).await;
    }

    async fn release(&mut self, number: u16) {
        let done = Ack::new(id(number), ReasonCode::SUCCESS);
        self.send(&Packet::PubRel(done)).await;
        self.expect(Packet::PubComp(done)).await;
    }

    /// Answers a QoS 2 message up to PUBCOMP.
    async fn complete(&mut self, delivery: Delivery) {
        let done = Ack::new(delivery.id().unwrap(), ReasonCode::SUCCESS);
        self.send(&Packet::PubRec(done)).await;
        self.expect(Packet::PubRel(done)).await;
        self.send(&Packet::PubComp(done)).await;
    }
}

#[tokio::test] // 2.2.1
async fn an_answer_has_the_packet_identifier_of_its_request() {
    let server = start().await;
    for version in VERSIONS {
        let mut device = Device::new(&server, version, Login::of("device")).await;
        for number in [1, 7, 0x0100, 0xFFFF] {
            let (mut filters, mut names) = (FilterBuf::new(), NameBuf::new());
            filters.push("a", SubscribeOptions::default()).unwrap();
            names.push("a").unwrap();
            let properties = Properties::EMPTY;
            let subscribe = Subscribe { id: id(number), properties, filters: filters.as_filters() };
            device.send(&Packet::Subscribe(subscribe)).await;
            device
                .next(|packet| match packet {
                    Packet::SubAck(codes) => assert_eq!(codes.id, id(number)),
                    other => panic!("{other:?}"),
                })
                .await;
            let unsubscribe = Unsubscribe { id: id(number), properties, filters: names.as_names() };
            device.send(&Packet::Unsubscribe(unsubscribe)).await;
            device
                .next(|packet| match packet {
                    Packet::UnsubAck(codes) => assert_eq!(codes.id, id(number)),
                    other => panic!("{other:?}"),
                })
                .await;
            let done = Ack::new(id(number), ReasonCode::SUCCESS);
            device.publish("b", b"1", Delivery::AtLeastOnce { id: id(number), dup: false }, false).await;
            device.expect(Packet::PubAck(done)).await;
            device.publish("b", b"1", exactly_once(number, false), false).await;
            device.expect(Packet::PubRec(done)).await;
            device.release(number).await;
        }
    }
}

#[tokio::test] // 4.6: PUBACK and PUBREC come in the order of the publishes
async fn acknowledgements_come_in_the_order_of_the_publishes() {
    let server = start().await;
    for version in VERSIONS {
        let mut device = Device::new(&server, version, Login::of("device")).await;
        let mut bytes = Vec::new();
        for number in 1..=60 {
            let number16 = id(number);
            let delivery = match number % 3 {
                0 => exactly_once(number, false),
                _ => Delivery::AtLeastOnce { id: number16, dup: false },
            };
            // Some go to subscribers on disk, some to nobody, and one of seven is refused at once.
            let topic = if number % 7 == 0 { "$SYS/x" } else { "news" };
            let packet = Publish {
                delivery,
                retain: number % 5 == 0,
                topic,
                properties: Properties::EMPTY,
                payload: b"x",
            };
            Packet::Publish(packet).encode(version, &mut bytes).unwrap();
        }
        device.stream.write_all(&bytes).await.unwrap();
        for number in 1..=60 {
            device
                .next(|packet| match packet {
                    Packet::PubAck(ack) => assert_eq!((ack.id, number % 3 != 0), (id(number), true)),
                    Packet::PubRec(ack) => assert_eq!((ack.id, number % 3 == 0), (id(number), true)),
                    other => panic!("{other:?}"),
                })
                .await;
        }
        // PUBCOMP comes in the order of PUBREL.
        for number in [60, 3, 30] {
            device.send(&Packet::PubRel(Ack::new(id(number), ReasonCode::SUCCESS))).await;
        }
        for number in [60, 3, 30] {
            device
                .next(|packet| match packet {
                    Packet::PubComp(ack) => assert_eq!(ack.id, id(number)),
                    other => panic!("{other:?}"),
                })
                .await;
        }
    }
}

#[tokio::test] // 4.3.2-5: after PUBACK the same packet identifier is a new message, whatever DUP says
async fn a_packet_identifier_is_free_after_its_puback() {
    let server = start().await;
    let mut browser = server.connect("browser").await;
    browser.sub("news").await;
    for version in VERSIONS {
        let mut device = Device::new(&server, version, Login::of("device")).await;
        for (data, dup) in [("1", false), ("2", true), ("3", false)] {
            let delivery = Delivery::AtLeastOnce { id: id(9), dup };
            device.publish("news", data.as_bytes(), delivery, false).await;
            device.expect(Packet::PubAck(Ack::new(id(9), ReasonCode::SUCCESS))).await;
            browser.next_push().await;
        }
    }
}

#[tokio::test] // 4.3.3-10 to -12
async fn a_qos_2_publish_is_delivered_once_until_it_is_released() {
    let server = start().await;
    let mut browser = server.connect("browser").await;
    browser.sub("news").await;
    for version in VERSIONS {
        let mut device = Device::new(&server, version, Login::of("device")).await;
        let received = Ack::new(id(4), ReasonCode::SUCCESS);
        for data in ["1", "2"] {
            for dup in [false, true, false] {
                device.publish("news", data.as_bytes(), exactly_once(4, dup), false).await;
                device.expect(Packet::PubRec(received)).await;
            }
            assert_eq!(browser.next_push().await.data(), data);
            device.release(4).await;
        }
        // PUBREL of an exchange that is over, or never was.
        for number in [4, 5] {
            device.send(&Packet::PubRel(Ack::new(id(number), ReasonCode::SUCCESS))).await;
            let reason = match version {
                Version::V5 => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
                _ => ReasonCode::SUCCESS,
            };
            device.expect(Packet::PubComp(Ack::new(id(number), reason))).await;
        }
    }
    browser.expect_nothing_before_hb().await;
}

#[tokio::test] // 4.3.3-9: a PUBREC that refuses ends the exchange
async fn a_packet_identifier_is_free_after_a_pubrec_that_refuses() {
    let server = start().await;
    let mut browser = server.connect("browser").await;
    browser.sub("news").await;
    let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
    server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    device.publish("news", b"1", exactly_once(4, false), false).await;
    device.expect(Packet::PubRec(Ack::new(id(4), ReasonCode::NOT_AUTHORIZED))).await;
    server.app.reset(Asked::Pub);
    device.publish("news", b"2", exactly_once(4, true), false).await;
    device.expect(Packet::PubRec(Ack::new(id(4), ReasonCode::SUCCESS))).await;
    assert_eq!(browser.next_push().await.data(), "2");
}

#[tokio::test] // 4.3.2-1 to -3, 4.3.3-1 to -6
async fn messages_under_way_have_different_packet_identifiers_and_stay_until_they_are_acknowledged() {
    let server = start().await;
    for version in VERSIONS {
        let mut device = Device::new(&server, version, Login::of("device")).await;
        device.subscribe("news", Qos::ExactlyOnce).await;
        let mut shop = Device::new(&server, version, Login::of("shop")).await;
        for number in 1..=20 {
            let delivery = if number % 2 == 0 { exactly_once(number, false) } else { AT_LEAST_ONCE };
            shop.publish("news", number.to_string().as_bytes(), delivery, false).await;
            shop.next(|packet| {
                assert!(matches!(packet, Packet::PubAck(_) | Packet::PubRec(_)), "{packet:?}")
            })
            .await;
        }
        let mut under_way = Vec::new();
        for number in 1..=20 {
            let (_, payload, delivery, _) = device.message().await;
            assert_eq!(payload, number.to_string().as_bytes(), "in the order of the publishes");
            assert!(!delivery.dup());
            assert!(!under_way.contains(&delivery.id()), "{delivery:?} is in use");
            under_way.push(delivery.id());
            if number == 1 {
                // Acknowledged at once: its identifier may be used again.
                device.acknowledge(delivery).await;
                under_way.clear();
            }
        }
        device.expect_nothing().await;
    }
}

#[tokio::test] // 4.3.3-4, -5: PUBREC is answered with PUBREL, as often as it comes
async fn a_pubrec_is_answered_with_pubrel() {
    let server = start().await;
    for version in VERSIONS {
        let mut device = Device::new(&server, version, Login::of("device")).await;
        device.subscribe("news", Qos::ExactlyOnce).await;
        device.publish("news", b"1", exactly_once(4, false), false).await;
        device.expect(Packet::PubRec(Ack::new(id(4), ReasonCode::SUCCESS))).await;
        let (_, _, delivery, _) = device.message().await;
        let done = Ack::new(delivery.id().unwrap(), ReasonCode::SUCCESS);
        for _ in 0..2 {
            device.send(&Packet::PubRec(done)).await;
            device.expect(Packet::PubRel(done)).await;
        }
        device.send(&Packet::PubComp(done)).await;
        // Of a message that is not under way.
        device.send(&Packet::PubRec(Ack::new(id(9999), ReasonCode::SUCCESS))).await;
        let reason = match version {
            Version::V5 => ReasonCode::PACKET_IDENTIFIER_NOT_FOUND,
            _ => ReasonCode::SUCCESS,
        };
        device.expect(Packet::PubRel(Ack::new(id(9999), reason))).await;
        device.send(&Packet::PubAck(Ack::new(id(9999), ReasonCode::SUCCESS))).await;
        device.send(&Packet::PubComp(Ack::new(id(9999), ReasonCode::SUCCESS))).await;
        device.expect_nothing().await;
    }
}

#[tokio::test] // 4.4.0-1, 4.4.0-2, 4.6.0-1
async fn a_resumed_session_receives_again_what_it_has_not_acknowledged_in_order() {
    let server = start().await;
    for version in VERSIONS {
        let name = if version == Version::V5 { "five" } else { "three" };
        let login = Login { clean: false, expiry: 1000, ..Login::of(name) };
        let mut device = Device::new(&server, version, login).await;
        device.subscribe("orders", Qos::AtLeastOnce).await;
        let mut shop = Device::new(&server, version, Login::of("shop")).await;
        for payload in [b"1", b"2", b"3", b"4"] {
            shop.publish_acknowledged("orders", payload, false).await;
        }
        let mut all = Vec::new();
        for _ in 0..4 {
            all.push(device.message().await);
        }
        // The second is acknowledged, with a refusal in MQTT 5: that is an acknowledgement as well.
        let reason = match version {
            Version::V5 => ReasonCode::QUOTA_EXCEEDED,
            _ => ReasonCode::SUCCESS,
        };
        device.send(&Packet::PubAck(Ack::new(all[1].2.id().unwrap(), reason))).await;
        device.expect_nothing().await;
        drop(device);
        shop.publish_acknowledged("orders", b"5", false).await;
        let mut device = Device::dial(&server, version).await;
        assert_eq!(device.connect(login).await, (ReasonCode::SUCCESS, true, None));
        for earlier in [0, 2, 3] {
            let (_, payload, delivery, _) = device.message().await;
            assert_eq!(payload, all[earlier].1);
            let id = all[earlier].2.id().unwrap();
            assert_eq!(delivery, Delivery::AtLeastOnce { id, dup: true });
            device.acknowledge(delivery).await;
        }
        let (_, payload, delivery, _) = device.message().await;
        assert_eq!((&*payload, delivery.dup()), (&b"5"[..], false));
        device.acknowledge(delivery).await;
        // Nothing is sent again while the connection lasts.
        device.expect_nothing().await;
    }
}

#[tokio::test] // 4.9.0-1 to -3, 3.3.4-9, -10
async fn only_publishes_wait_for_the_receive_maximum() {
    let server = start().await;
    let mut shop = Device::new(&server, Version::V5, Login::of("shop")).await;
    for maximum in [1, 2, 5] {
        let login = Login { receive_maximum: Some(maximum), ..Login::of("slow") };
        let mut device = Device::new(&server, Version::V5, login).await;
        device.subscribe("news", Qos::ExactlyOnce).await;
        for number in 1..=8 {
            let delivery = if number % 2 == 0 { exactly_once(number, false) } else { AT_LEAST_ONCE };
            shop.publish("news", number.to_string().as_bytes(), delivery, false).await;
            shop.next(|packet| {
                assert!(matches!(packet, Packet::PubAck(_) | Packet::PubRec(_)), "{packet:?}")
            })
            .await;
            if number % 2 == 0 {
                shop.release(number).await;
            }
        }
        let mut under_way = std::collections::VecDeque::new();
        for next in 1..=8_u16 {
            if under_way.len() == usize::from(maximum) {
                // The window is full: a ping, a subscription and a publish are answered, and no message comes.
                device.expect_nothing().await;
                device.subscribe("other", Qos::AtMostOnce).await;
                device.publish("elsewhere", b"1", AT_LEAST_ONCE, false).await;
                device.expect(Packet::PubAck(Ack::new(id(1), ReasonCode::SUCCESS))).await;
                // A QoS 2 message counts until PUBCOMP.
                match under_way.pop_front().unwrap() {
                    delivery @ Delivery::ExactlyOnce { .. } => {
                        let done = Ack::new(delivery.id().unwrap(), ReasonCode::SUCCESS);
                        device.send(&Packet::PubRec(done)).await;
                        device.expect(Packet::PubRel(done)).await;
                        device.expect_nothing().await;
                        device.send(&Packet::PubComp(done)).await;
                    }
                    delivery => device.acknowledge(delivery).await,
                }
            }
            let (_, payload, delivery, _) = device.message().await;
            assert_eq!(payload, next.to_string().as_bytes());
            under_way.push_back(delivery);
        }
        drop(device);
    }
}

#[tokio::test] // 4.9: a PUBREC that refuses gives its place back
async fn a_pubrec_that_refuses_ends_the_delivery() {
    let server = start().await;
    let login = Login { receive_maximum: Some(1), ..Login::of("slow") };
    let mut device = Device::new(&server, Version::V5, login).await;
    device.subscribe("news", Qos::ExactlyOnce).await;
    let mut shop = Device::new(&server, Version::V5, Login::of("shop")).await;
    for number in 1..=3 {
        shop.publish("news", number.to_string().as_bytes(), exactly_once(number, false), false).await;
        shop.expect(Packet::PubRec(Ack::new(id(number), ReasonCode::SUCCESS))).await;
    }
    for expected in ["1", "2", "3"] {
        let (_, payload, delivery, _) = device.message().await;
        assert_eq!(payload, expected.as_bytes());
        device.send(&Packet::PubRec(Ack::new(delivery.id().unwrap(), ReasonCode::QUOTA_EXCEEDED))).await;
    }
    device.expect_nothing().await;
}

#[tokio::test] // 3.3.4-7
async fn a_client_that_exceeds_the_receive_maximum_of_the_server_is_disconnected() {
    let server = start().await;
    let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
    let mut all = Vec::new();
    for number in 1..=200 {
        let (delivery, properties) = (exactly_once(number, false), Properties::EMPTY);
        let publish = Publish { delivery, retain: false, topic: "news", properties, payload: b"x" };
        Packet::Publish(publish).encode(device.version, &mut all).unwrap();
    }
    device.stream.write_all(&all).await.unwrap();
    // Those before are answered, so that the client releases them when it comes back.
    for number in 1..=128 {
        device.expect(Packet::PubRec(Ack::new(id(number), ReasonCode::SUCCESS))).await;
    }
    assert_eq!(device.ended().await, Some(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED));
}

#[tokio::test] // MQTT_RECEIVE_MAXIMUM
async fn the_receive_maximum_of_the_server_can_be_chosen() {
    let server = TestServer::configured(|config| {
        (config.mqtt_port, config.mqtt_receive_maximum) = (Some(0), 2);
    })
    .await;
    let mut device = Device::dial(&server, Version::V5).await;
    device.send_connect(Login::of("device")).await;
    device
        .next(|packet| match packet {
            Packet::ConnAck(ack) => assert_eq!(ack.properties.receive_maximum(), Some(2)),
            other => panic!("{other:?}"),
        })
        .await;
    for number in 1..=2 {
        device.publish("news", b"x", exactly_once(number, false), false).await;
        device.next(|packet| assert!(matches!(packet, Packet::PubRec(_)), "{packet:?}")).await;
    }
    device.publish("news", b"x", exactly_once(3, false), false).await;
    assert_eq!(device.ended().await, Some(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED));
}

#[tokio::test] // 3.10.4-3: deliveries that have begun are completed
async fn an_unsubscribe_does_not_end_deliveries_that_have_begun() {
    let server = start().await;
    for version in VERSIONS {
        let mut device = Device::new(&server, version, Login::of("device")).await;
        device.subscribe("news", Qos::ExactlyOnce).await;
        device.publish("news", b"1", exactly_once(4, false), false).await;
        device.expect(Packet::PubRec(Ack::new(id(4), ReasonCode::SUCCESS))).await;
        let (_, _, delivery, _) = device.message().await;
        let mut names = NameBuf::new();
        names.push("news").unwrap();
        let packet = Unsubscribe { id: id(8), properties: Properties::EMPTY, filters: names.as_names() };
        device.send(&Packet::Unsubscribe(packet)).await;
        device.next(|packet| assert!(matches!(packet, Packet::UnsubAck(_)), "{packet:?}")).await;
        device.complete(delivery).await;
        device.expect_nothing().await;
    }
}

#[tokio::test] // 4.6.0-5, -6
async fn messages_of_one_client_keep_their_order() {
    let server = start().await;
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let mut wide = Device::new(&server, Version::V5, Login::of("wide")).await;
        wide.subscribe("o/#", qos).await;
        let mut exact = Device::new(&server, Version::V3_1_1, Login::of("exact")).await;
        exact.subscribe("o/1", qos).await;
        let mut shop = Device::new(&server, Version::V5, Login::of("shop")).await;
        let mut bytes = Vec::new();
        for number in 1..=100 {
            let delivery = match qos {
                Qos::AtMostOnce => Delivery::AtMostOnce,
                Qos::AtLeastOnce => Delivery::AtLeastOnce { id: id(number), dup: false },
                Qos::ExactlyOnce => exactly_once(number, false),
            };
            let payload = number.to_string().into_bytes();
            let packet = Publish {
                delivery,
                retain: false,
                topic: "o/1",
                properties: Properties::EMPTY,
                payload: &payload,
            };
            Packet::Publish(packet).encode(Version::V5, &mut bytes).unwrap();
        }
        shop.stream.write_all(&bytes).await.unwrap();
        for device in [&mut wide, &mut exact] {
            let mut next = 1;
            while next <= 100 {
                let answer = device.next(|packet| match packet {
                    Packet::Publish(publish) => {
                        assert_eq!(publish.payload, next.to_string().as_bytes());
                        next += 1;
                        let done = publish.delivery.id().map(|id| Ack::new(id, ReasonCode::SUCCESS));
                        match publish.delivery.qos() {
                            Qos::ExactlyOnce => done.map(Packet::PubRec),
                            _ => done.map(Packet::PubAck),
                        }
                    }
                    // PUBREL comes between the messages.
                    Packet::PubRel(ack) => Some(Packet::PubComp(Ack::new(ack.id, ReasonCode::SUCCESS))),
                    other => panic!("{other:?}"),
                });
                if let Some(answer) = answer.await {
                    device.send(&answer).await;
                }
            }
        }
    }
}

#[tokio::test] // 4.3.3-7, -13
async fn an_exchange_goes_on_after_its_message_has_expired() {
    let server = start().await;
    let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
    device.subscribe("news", Qos::ExactlyOnce).await;
    let mut properties = PropertyBuf::new();
    properties.push(Property::MessageExpiryInterval(1)).unwrap();
    let properties = properties.for_place(Place::Packet(PacketType::Publish), Sender::Client).unwrap();
    let publish = Publish {
        delivery: exactly_once(4, false),
        retain: false,
        topic: "news",
        properties,
        payload: b"soon over",
    };
    device.send(&Packet::Publish(publish)).await;
    device.expect(Packet::PubRec(Ack::new(id(4), ReasonCode::SUCCESS))).await;
    let (_, _, delivery, _) = device.message().await;
    // The message expires, whatever else happens meanwhile.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    device.complete(delivery).await;
    device.release(4).await;
    device.expect_nothing().await;
}

#[tokio::test] // 3.1.1: 4.8.0-2. MQTT 5 has a code for it, and the client decides
async fn a_publish_that_fails_ends_the_connection_before_mqtt_5() {
    let server = start().await;
    server.app.set(Asked::Pub, Behaviour::Fail);
    let mut device = Device::new(&server, Version::V3_1_1, Login::of("device")).await;
    device.publish("news", b"1", AT_LEAST_ONCE, false).await;
    assert_eq!(device.ended().await, None);
    let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
    device.publish("news", b"1", AT_LEAST_ONCE, false).await;
    device.expect(Packet::PubAck(Ack::new(id(1), ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR))).await;
    device.expect_nothing().await;
}
