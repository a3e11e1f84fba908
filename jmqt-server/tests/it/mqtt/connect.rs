//! CONNECT, CONNACK, DISCONNECT and the life of a session (3.1, 3.2, 3.14, 4.1).

use super::*;

/// The properties of a CONNECT, from numbers and strings.
fn properties(of: &[Property<'_>]) -> PropertyBuf {
    let mut properties = PropertyBuf::new();
    of.iter().for_each(|property| properties.push(*property).unwrap());
    properties
}

fn connect<'a>(version: Version, client_id: &'a str, properties: &'a PropertyBuf) -> Connect<'a> {
    Connect {
        version,
        clean_start: true,
        keep_alive: 0,
        client_id,
        will: None,
        user_name: Some("alice"),
        password: None,
        properties: properties.for_place(Place::Packet(PacketType::Connect), Sender::Client).unwrap(),
    }
}

/// Sends a CONNECT, and returns the bytes of the answer.
async fn answer_to(server: &TestServer, connect: Connect<'_>) -> (Device, Vec<u8>) {
    let mut device = Device::dial(server, connect.version).await;
    device.send(&Packet::Connect(connect)).await;
    let answer = device.read_packet().await.expect("the connection has ended");
    (device, answer)
}

fn reason_of(version: Version, answer: &[u8]) -> ReasonCode {
    match Packet::decode(&Frame::of(answer).unwrap(), version, Sender::Server).unwrap() {
        Packet::ConnAck(ack) => ack.reason,
        other => panic!("{other:?}"),
    }
}

#[tokio::test] // 3.1.3.1
async fn client_ids_of_digits_and_letters_are_accepted_and_ids_that_no_client_can_have_are_refused() {
    let server = start().await;
    let none = PropertyBuf::new();
    for version in VERSIONS {
        for id in ["0", "0123456789abcdefghijklm", "NOPQRSTUVWXYZnopqrstuvw"] {
            let (_device, answer) = answer_to(&server, connect(version, id, &none)).await;
            assert_eq!(reason_of(version, &answer), ReasonCode::SUCCESS, "{id}");
        }
        for id in [" a", "a ", &"x".repeat(257)] {
            let (mut device, answer) = answer_to(&server, connect(version, id, &none)).await;
            assert_eq!(reason_of(version, &answer), ReasonCode::CLIENT_IDENTIFIER_NOT_VALID, "{id}");
            assert_eq!(device.read_packet().await, None, "the connection goes on");
        }
    }
}

#[tokio::test] // 3.1.3.1: the application names it
async fn a_client_without_an_id_is_accepted_in_every_version_that_allows_it() {
    let server = start().await;
    let none = PropertyBuf::new();
    for version in VERSIONS {
        let (mut device, answer) = answer_to(&server, connect(version, "", &none)).await;
        assert_eq!(reason_of(version, &answer), ReasonCode::SUCCESS);
        // It is the client that the application has named.
        assert_eq!(device.subscribe("$p2p/alice", Qos::AtMostOnce).await, ReasonCode::SUCCESS);
    }
}

#[tokio::test] // 3.1.4, 3.2.2.2
async fn a_login_that_the_application_refuses_ends_the_connection_and_nothing_behind_it_is_processed() {
    let server = start().await;
    let mut browser = server.connect("browser").await;
    browser.sub("news").await;
    let none = PropertyBuf::new();
    for version in VERSIONS {
        for (asked, status, reason) in [
            (Asked::Auth, StatusCode::INVALID_TOKEN, ReasonCode::BAD_USER_NAME_OR_PASSWORD),
            (Asked::Auth, StatusCode::NOT_ALLOWED, ReasonCode::NOT_AUTHORIZED),
            (Asked::Conn, StatusCode::INVALID_TOKEN, ReasonCode::BAD_USER_NAME_OR_PASSWORD),
            (Asked::Conn, StatusCode::NOT_ALLOWED, ReasonCode::NOT_AUTHORIZED),
        ] {
            server.app.set(asked, Behaviour::Refuse(status));
            let mut device = Device::dial(&server, version).await;
            let packets = [
                Packet::Connect(connect(version, "alice", &none)),
                Packet::Publish(Publish {
                    delivery: Delivery::AtMostOnce,
                    retain: true,
                    topic: "news",
                    properties: Properties::EMPTY,
                    payload: b"refused",
                }),
                Packet::PingReq,
            ];
            let bytes: Vec<_> = packets.iter().flat_map(|packet| packet.to_bytes(version).unwrap()).collect();
            device.stream.write_all(&bytes).await.unwrap();
            let answer = device.read_packet().await.unwrap();
            assert_eq!(reason_of(version, &answer), reason, "{asked:?} {status:?}");
            assert_eq!(answer[2], 0, "session present");
            assert_eq!(device.read_packet().await, None, "{asked:?} {status:?}");
            server.app.reset(asked);
        }
    }
    browser.pub1("other", "1").await;
    browser.expect_nothing_before_hb().await;
}

#[tokio::test] // 3.2
async fn the_first_packet_of_the_server_is_one_connack() {
    let server = start().await;
    for version in VERSIONS {
        let name = if version == Version::V5 { "five" } else { "three" };
        let login = Login { clean: false, expiry: 1000, ..Login::of(name) };
        let mut device = Device::new(&server, version, login).await;
        device.subscribe("orders", Qos::AtLeastOnce).await;
        drop(device);
        let mut shop = Device::new(&server, version, Login::of("shop")).await;
        shop.publish_acknowledged("orders", b"1", false).await;
        // Requests that come with the CONNECT are answered behind the CONNACK, as are messages that have waited.
        let none = properties(&[]);
        let long = properties(&[Property::SessionExpiryInterval(1000)]);
        let kept = if version == Version::V5 { &long } else { &none };
        let packets = [
            Packet::Connect(Connect { clean_start: false, ..connect(version, name, kept) }),
            Packet::PingReq,
            Packet::PingReq,
        ];
        let bytes: Vec<_> = packets.iter().flat_map(|packet| packet.to_bytes(version).unwrap()).collect();
        let mut device = Device::dial(&server, version).await;
        device.stream.write_all(&bytes).await.unwrap();
        let mut types = Vec::new();
        while types.iter().filter(|&&first| first == 0xD0).count() < 2
            || !types.iter().any(|first| first & 0xF0 == 0x30)
        {
            types.push(device.read_packet().await.unwrap()[0]);
        }
        assert_eq!(types[0], 0x20, "{types:x?}");
        assert_eq!(types.iter().filter(|&&first| first == 0x20).count(), 1, "{types:x?}");
    }
}

#[tokio::test] // 3.2.2.3
async fn a_connack_has_what_the_client_must_know_and_nothing_that_it_did_not_ask_for() {
    let server = start().await;
    let asked = properties(&[
        Property::RequestResponseInformation(true),
        Property::RequestProblemInformation(true),
        Property::TopicAliasMaximum(10),
    ]);
    let none = PropertyBuf::new();
    for asked in [&none, &asked] {
        let (mut device, answer) = answer_to(&server, connect(Version::V5, "alice", asked)).await;
        let ack = match Packet::decode(&Frame::of(&answer).unwrap(), Version::V5, Sender::Server).unwrap() {
            Packet::ConnAck(ack) => ack,
            other => panic!("{other:?}"),
        };
        let has = ack.properties;
        assert_eq!(has.maximum_packet_size(), Some(4 * 1024 * 1024));
        assert!(has.receive_maximum().is_some() && has.topic_alias_maximum().is_some());
        // QoS 2 and retained messages exist; the client's keep alive holds; there is no authentication method.
        assert_eq!((has.maximum_qos(), has.retain_available(), has.server_keep_alive()), (None, None, None));
        assert_eq!((has.response_information(), has.authentication_method()), (None, None));
        assert_eq!((has.reason_string(), has.user_properties().count()), (None, 0));
        device.subscribe("news", Qos::AtMostOnce).await;
        for _ in 0..3 {
            device.publish("news", b"x", Delivery::AtMostOnce, false).await;
            let alias = device.next(|packet| match packet {
                Packet::Publish(publish) => publish.properties.topic_alias(),
                other => panic!("{other:?}"),
            });
            // Only a client that accepts aliases gets them.
            assert_eq!(alias.await, (!asked.is_empty()).then_some(1));
        }
    }
}

/// The acknowledgement of a publish that is refused with a reason for people.
async fn refused_publish(device: &mut Device, delivery: Delivery) -> (usize, ReasonCode, Option<String>) {
    device.publish("$SYS/x", b"1", delivery, false).await;
    let packet = device.read_packet().await.unwrap();
    match Packet::decode(&Frame::of(&packet).unwrap(), Version::V5, Sender::Server).unwrap() {
        Packet::PubAck(ack) | Packet::PubRec(ack) => {
            (packet.len(), ack.reason, ack.properties.reason_string().map(ToOwned::to_owned))
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test] // 3.1.2.11.7, 3.1.2.11.4, 3.4.2.2.2, 3.5.2.2.2
async fn a_reason_string_is_left_out_if_the_client_does_not_want_it_or_has_no_room_for_it() {
    let server = start().await;
    let deliveries =
        [Delivery::AtLeastOnce { id: id(3), dup: false }, Delivery::ExactlyOnce { id: id(4), dup: false }];
    for (asked, is_there) in [
        (vec![], true),
        (vec![Property::RequestProblemInformation(true)], true),
        (vec![Property::RequestProblemInformation(false)], false),
        (vec![Property::MaximumPacketSize(1000)], true),
        (vec![Property::MaximumPacketSize(30)], false),
    ] {
        let asked_for = properties(&asked);
        let (mut device, _) = answer_to(&server, connect(Version::V5, "alice", &asked_for)).await;
        for delivery in deliveries {
            let (length, reason, text) = refused_publish(&mut device, delivery).await;
            assert_eq!((reason, text.is_some()), (ReasonCode::NOT_AUTHORIZED, is_there), "{asked:?}");
            assert!(is_there || length <= 30, "{length} bytes");
        }
    }
}

#[tokio::test] // 3.1.2.11.4, 3.14.2.2.3: whatever is sent, it is not larger than the client allows
async fn no_packet_is_larger_than_the_client_allows() {
    let server = start().await;
    let small = properties(&[Property::MaximumPacketSize(24)]);
    let (mut device, answer) = answer_to(&server, connect(Version::V5, "alice", &small)).await;
    assert_eq!(reason_of(Version::V5, &answer), ReasonCode::SUCCESS);
    assert!(answer.len() <= 24, "{}", answer.len());
    // A SUBACK that would be larger is not sent.
    let mut filters = FilterBuf::new();
    (0..40).for_each(|number| filters.push(&format!("f/{number}"), SubscribeOptions::default()).unwrap());
    let packet = Subscribe { id: id(7), properties: Properties::EMPTY, filters: filters.as_filters() };
    device.send(&Packet::Subscribe(packet)).await;
    device.expect_nothing().await;
    // It is taken over: the DISCONNECT has no room for a reason string.
    let _other = answer_to(&server, connect(Version::V5, "alice", &small)).await;
    let farewell = device.read_packet().await.unwrap();
    assert!(farewell.len() <= 24, "{}", farewell.len());
    match Packet::decode(&Frame::of(&farewell).unwrap(), Version::V5, Sender::Server).unwrap() {
        Packet::Disconnect(packet) => assert_eq!(packet.reason, ReasonCode::SESSION_TAKEN_OVER),
        other => panic!("{other:?}"),
    }
    // The smallest that a CONNACK fits in.
    let tiny = properties(&[Property::MaximumPacketSize(8)]);
    let (mut device, answer) = answer_to(&server, connect(Version::V5, "bob", &tiny)).await;
    assert_eq!((reason_of(Version::V5, &answer), answer.len()), (ReasonCode::PACKET_TOO_LARGE, 5));
    assert_eq!(device.read_packet().await, None);
}

#[tokio::test] // 3.1.2.6, 3.1.2.7
async fn a_will_has_the_qos_and_the_retain_flag_of_the_connect() {
    let server = start().await;
    for version in VERSIONS {
        for (qos, retain) in [(Qos::AtMostOnce, true), (Qos::AtLeastOnce, false), (Qos::ExactlyOnce, true)] {
            let topic = format!("gone/{}/{}", version.level(), qos.bits());
            let mut watcher = Device::new(&server, version, Login::of("watcher")).await;
            watcher.subscribe(&topic, Qos::ExactlyOnce).await;
            let login = Login { will: Some((&topic, b"lost", qos, retain, 0)), ..Login::of("sensor") };
            drop(Device::new(&server, version, login).await);
            let (_, payload, delivery, retained) = watcher.message().await;
            assert_eq!((&*payload, delivery.qos(), retained), (&b"lost"[..], qos, false));
            let mut late = Device::new(&server, version, Login::of("late")).await;
            let mut filters = FilterBuf::new();
            filters.push(&topic, SubscribeOptions::of_qos(Qos::AtMostOnce)).unwrap();
            let filters = filters.as_filters();
            late.send(&Packet::Subscribe(Subscribe { id: id(7), properties: Properties::EMPTY, filters }))
                .await;
            late.next(|packet| assert!(matches!(packet, Packet::SubAck(_)), "{packet:?}")).await;
            if retain {
                let (_, payload, _, retained) = late.message().await;
                assert_eq!((&*payload, retained), (&b"lost"[..], true));
            }
        }
    }
}

#[tokio::test] // 3.14.2.1: a DISCONNECT with any other code than 0x00 leaves the will
async fn a_disconnect_with_will_publishes_the_will() {
    let server = start().await;
    let mut watcher = Device::new(&server, Version::V5, Login::of("watcher")).await;
    watcher.subscribe("gone", Qos::AtMostOnce).await;
    let login = Login { will: Some(("gone", b"lost", Qos::AtMostOnce, false, 0)), ..Login::of("sensor") };
    for (reason, is_published) in [
        (ReasonCode::SUCCESS, false),
        (ReasonCode::DISCONNECT_WITH_WILL, true),
        (ReasonCode::UNSPECIFIED_ERROR, true),
        (ReasonCode::PACKET_TOO_LARGE, true),
    ] {
        let mut device = Device::new(&server, Version::V5, login).await;
        device.send(&Packet::Disconnect(Disconnect { reason, properties: Properties::EMPTY })).await;
        assert_eq!(device.ended().await, None);
        if is_published {
            assert_eq!(watcher.message().await.1, b"lost", "{reason}");
        }
        watcher.expect_nothing().await;
    }
}

#[tokio::test] // 3.1.3.2.2
async fn a_will_waits_for_its_delay_and_is_not_sent_if_the_client_comes_back() {
    let server = start().await;
    let mut watcher = Device::new(&server, Version::V5, Login::of("watcher")).await;
    watcher.subscribe("gone", Qos::AtMostOnce).await;
    let of = |name, payload, delay| Login {
        clean: false,
        expiry: 1000,
        will: Some(("gone", payload, Qos::AtMostOnce, false, delay)),
        ..Login::of(name)
    };
    drop(Device::new(&server, Version::V5, of("back", b"back", 2)).await);
    let mut back = Device::dial(&server, Version::V5).await;
    assert_eq!(back.connect(of("back", b"again", 1000)).await.0, ReasonCode::SUCCESS);
    let began = std::time::Instant::now();
    drop(Device::new(&server, Version::V5, of("away", b"away", 3)).await);
    assert_eq!(watcher.message().await.1, b"away");
    assert!(began.elapsed() >= std::time::Duration::from_millis(2900), "{:?}", began.elapsed());
    watcher.expect_nothing().await;
}

#[tokio::test] // 3.1.2.11.2, 4.1
async fn a_session_ends_with_its_connection_if_its_expiry_is_0() {
    let server = start().await;
    let mut shop = Device::new(&server, Version::V5, Login::of("shop")).await;
    for version in VERSIONS {
        let mut device = Device::new(&server, version, Login::of("device")).await;
        device.subscribe("orders", Qos::AtLeastOnce).await;
        drop(device);
        shop.publish_acknowledged("orders", b"1", false).await;
        let mut device = Device::dial(&server, version).await;
        let login = Login { clean: false, expiry: 0, ..Login::of("device") };
        assert_eq!(device.connect(login).await, (ReasonCode::SUCCESS, false, None));
        device.expect_nothing().await;
    }
}

#[tokio::test] // 3.12
async fn a_ping_is_answered_and_keeps_the_connection_alive() {
    let server = start().await;
    for version in VERSIONS {
        let mut device = Device::new(&server, version, Login { keep_alive: 1, ..Login::of("pings") }).await;
        for _ in 0..6 {
            tokio::time::sleep(std::time::Duration::from_millis(400)).await;
            device.expect_nothing().await;
        }
        // Silent: without a word before MQTT 5.
        let reason = (version == Version::V5).then_some(ReasonCode::KEEP_ALIVE_TIMEOUT);
        assert_eq!(device.ended().await, reason);
    }
}

#[tokio::test] // 4.12
async fn an_authentication_method_is_refused() {
    let server = start().await;
    let asked = properties(&[Property::AuthenticationMethod("SCRAM-SHA-1")]);
    let (mut device, answer) = answer_to(&server, connect(Version::V5, "alice", &asked)).await;
    assert_eq!(reason_of(Version::V5, &answer), ReasonCode::BAD_AUTHENTICATION_METHOD);
    assert_eq!(device.read_packet().await, None);
}

#[tokio::test] // MQTT 3.1: its CONNACK has no session present flag
async fn the_connack_of_mqtt_3_1_has_no_flags() {
    let server = start().await;
    let none = PropertyBuf::new();
    for _ in 0..2 {
        let packet = Connect { clean_start: false, ..connect(Version::V3_1, "old", &none) };
        let (mut device, answer) = answer_to(&server, packet).await;
        assert_eq!(answer, [0x20, 2, 0, 0]);
        device.subscribe("news", Qos::AtLeastOnce).await;
    }
}
