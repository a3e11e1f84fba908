//! Topic aliases that the server sends (3.3.2.3.4).

use super::*;

impl Device {
    /// The next message: topic, alias, payload, delivery, with its acknowledgement.
    async fn aliased(&mut self) -> (String, Option<u16>, Vec<u8>, Delivery) {
        let (topic, alias, payload, delivery) = self.aliased_unanswered().await;
        match delivery {
            Delivery::AtMostOnce => {}
            Delivery::AtLeastOnce { .. } => self.acknowledge(delivery).await,
            Delivery::ExactlyOnce { id, .. } => {
                self.send(&Packet::PubRec(Ack::new(id, ReasonCode::SUCCESS))).await;
                self.next(|packet| assert!(matches!(packet, Packet::PubRel(_)), "{packet:?}")).await;
                self.send(&Packet::PubComp(Ack::new(id, ReasonCode::SUCCESS))).await;
            }
        }
        (topic, alias, payload, delivery)
    }

    async fn aliased_unanswered(&mut self) -> (String, Option<u16>, Vec<u8>, Delivery) {
        self.next(|packet| match packet {
            Packet::Publish(publish) => (
                publish.topic.to_owned(),
                publish.properties.topic_alias(),
                publish.payload.to_vec(),
                publish.delivery,
            ),
            other => panic!("{other:?}"),
        })
        .await
    }
}

const ALIASES: Login<'static> = Login { topic_aliases: Some(2), ..Login::of("alias") };

#[tokio::test] // MQTT-3.1.2-26, -27, MQTT-3.3.2-8
async fn topics_are_replaced_by_aliases_up_to_the_maximum_of_the_client() {
    let server = start().await;
    let mut shop = Device::new(&server, Version::V5, Login::of("shop")).await;
    let mut plain = Device::new(&server, Version::V5, Login::of("plain")).await;
    plain.subscribe("shop/#", Qos::AtMostOnce).await;
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
        for (expiry, id) in [(0, 1), (1000, 2)] {
            let login = Login { expiry, ..ALIASES };
            let mut device = Device::new(&server, Version::V5, login).await;
            device.subscribe_with("shop/#", SubscribeOptions::of_qos(qos), (id == 2).then_some(3)).await;
            let texts =
                [("shop/a", "shop/a", Some(1)), ("shop/a", "", Some(1)), ("shop/b", "shop/b", Some(2))];
            let more = [("shop/c", "shop/c", None), ("shop/b", "", Some(2)), ("shop/a", "", Some(1))];
            for (topic, expected, alias) in texts.into_iter().chain(more) {
                let delivery = match qos {
                    Qos::AtMostOnce => Delivery::AtMostOnce,
                    Qos::AtLeastOnce => Delivery::AtLeastOnce { id: super::id(9), dup: false },
                    Qos::ExactlyOnce => Delivery::ExactlyOnce { id: super::id(9), dup: false },
                };
                shop.publish(topic, topic.as_bytes(), delivery, false).await;
                let (received, number, payload, how) = device.aliased().await;
                assert_eq!((&*received, number, &*payload), (expected, alias, topic.as_bytes()), "{qos:?}");
                assert_eq!(how.qos(), qos);
                assert_eq!(plain.aliased().await.1, None, "{qos:?}");
                match qos {
                    Qos::AtMostOnce => {}
                    Qos::AtLeastOnce => {
                        shop.next(|packet| assert!(matches!(packet, Packet::PubAck(_)))).await
                    }
                    Qos::ExactlyOnce => {
                        shop.next(|packet| assert!(matches!(packet, Packet::PubRec(_)))).await;
                        shop.send(&Packet::PubRel(Ack::new(super::id(9), ReasonCode::SUCCESS))).await;
                        shop.next(|packet| assert!(matches!(packet, Packet::PubComp(_)))).await;
                    }
                }
            }
            device.disconnect(ReasonCode::SUCCESS, None).await;
            device.ended().await;
        }
    }
}

#[tokio::test] // 3.3.2.3.4: the aliases end with the connection
async fn a_new_connection_receives_topics_again_before_their_aliases() {
    let server = start().await;
    let login = Login { expiry: 1000, clean: false, ..ALIASES };
    let mut device = Device::new(&server, Version::V5, login).await;
    device.subscribe("shop/a", Qos::ExactlyOnce).await;
    let mut shop = Device::new(&server, Version::V5, Login::of("shop")).await;
    let delivery = Delivery::ExactlyOnce { id: id(9), dup: false };
    shop.publish("shop/a", b"1", delivery, false).await;
    let first = device.aliased_unanswered().await;
    assert_eq!((&*first.0, first.1), ("shop/a", Some(1)));
    drop(device);
    for (payload, topic) in [(&b"2"[..], "shop/a"), (b"3", "shop/b")] {
        assert_eq!(shop.publish_retained(topic, payload).await, ReasonCode::SUCCESS);
    }
    // The repeated message has the topic, and the next one on it the alias; so has a retained one.
    let mut device = Device::new(&server, Version::V5, login).await;
    let (topic, alias, payload, again) = device.aliased_unanswered().await;
    assert_eq!((&*topic, alias, &*payload), ("shop/a", Some(1), &b"1"[..]));
    assert_eq!(again, Delivery::ExactlyOnce { id: first.3.id().unwrap(), dup: true });
    let (topic, alias, payload, _) = device.aliased_unanswered().await;
    assert_eq!((&*topic, alias, &*payload), ("", Some(1), &b"2"[..]));
    let mut codes = Vec::new();
    for filter in ["shop/a", "shop/b"] {
        let (mut filters, properties) = (FilterBuf::new(), Properties::EMPTY);
        filters.push(filter, SubscribeOptions::of_qos(Qos::AtMostOnce)).unwrap();
        device
            .send(&Packet::Subscribe(Subscribe { id: id(7), properties, filters: filters.as_filters() }))
            .await;
        for _ in 0..2 {
            let message = device.next(|packet| match packet {
                Packet::SubAck(_) => None,
                Packet::Publish(publish) => {
                    Some((publish.topic.to_owned(), publish.properties.topic_alias(), publish.retain))
                }
                other => panic!("{other:?}"),
            });
            codes.extend(message.await);
        }
    }
    assert_eq!(codes, [(String::new(), Some(1), true), ("shop/b".to_owned(), Some(2), true)]);
}

impl Device {
    /// Publishes a retained message with QoS 1; acknowledgements of other messages are passed over.
    async fn publish_retained(&mut self, topic: &str, payload: &[u8]) -> ReasonCode {
        self.publish(topic, payload, Delivery::AtLeastOnce { id: id(10), dup: false }, true).await;
        loop {
            let reason = self.next(|packet| match packet {
                Packet::PubAck(ack) => Some(ack.reason),
                Packet::PubRec(_) => None,
                other => panic!("{other:?}"),
            });
            if let Some(reason) = reason.await {
                return reason;
            }
        }
    }
}
