//! MQTT clients on the same channels as JMQT clients (docs/mqtt.md).

use jmqt_mqtt::{
    Ack, Connect, Delivery, Disconnect, FilterBuf, Frame, NameBuf, Packet, PacketId, PacketType, Place,
    Properties, Property, PropertyBuf, Publish, Qos, ReasonCode, RetainHandling, Sender, Subscribe,
    SubscribeOptions, Unsubscribe, Version, Will,
};
use jmqt_server::{CloseReason, Protocol, StatusCode};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Asked, Behaviour, Notice, PacketReader, TestServer, within};

mod aliases;
mod attacks;
mod authentication;
mod cluster;
mod connect;
mod exactly_once;
mod exchange;
mod filters;
mod fuzzing;
mod log;
mod malformed;
mod replies;
mod rules;
mod sessions;
mod shared;
mod subscribe;
mod system_topics;
mod wills;

const VERSIONS: [Version; 2] = [Version::V3_1_1, Version::V5];

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

/// An MQTT client that sends and receives single packets.
pub(crate) struct Device<S = TcpStream> {
    pub(crate) version: Version,
    pub(crate) stream: S,
    received: PacketReader,
}

/// The will of a test client: topic, payload, QoS, retained, delay.
pub(crate) type TestWill<'a> = (&'a str, &'a [u8], Qos, bool, u32);

#[derive(Clone, Copy)]
pub(crate) struct Login<'a> {
    pub(crate) name: &'a str,
    pub(crate) user: Option<&'a str>,
    pub(crate) clean: bool,
    pub(crate) keep_alive: u16,
    pub(crate) expiry: u32,
    pub(crate) receive_maximum: Option<u16>,
    pub(crate) largest_packet: Option<u32>,
    pub(crate) topic_aliases: Option<u16>,
    pub(crate) will: Option<TestWill<'a>>,
}

impl<'a> Login<'a> {
    pub(crate) const fn of(name: &'a str) -> Self {
        Self {
            name,
            user: Some(name),
            clean: true,
            keep_alive: 60,
            expiry: 0,
            receive_maximum: None,
            largest_packet: None,
            topic_aliases: None,
            will: None,
        }
    }
}

impl Device {
    async fn dial(server: &TestServer, version: Version) -> Self {
        Self::over(TcpStream::connect(server.address(Protocol::Mqtt)).await.unwrap(), version)
    }

    /// A connected client.
    pub(crate) async fn new(server: &TestServer, version: Version, login: Login<'_>) -> Self {
        let mut device = Self::dial(server, version).await;
        assert_eq!(device.connect(login).await.0, ReasonCode::SUCCESS);
        device
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Device<S> {
    /// A client whose packets go through this stream.
    pub(crate) fn over(stream: S, version: Version) -> Self {
        Self { version, stream, received: PacketReader::default() }
    }

    /// Sends CONNECT. Returns the reason, the session present flag, and the assigned client id.
    pub(crate) async fn connect(&mut self, login: Login<'_>) -> (ReasonCode, bool, Option<String>) {
        self.send_connect(login).await;
        self.next(|packet| match packet {
            Packet::ConnAck(ack) => {
                (ack.reason, ack.session_present, ack.properties.assigned_client_id().map(ToOwned::to_owned))
            }
            other => panic!("{other:?}"),
        })
        .await
    }

    async fn send_connect(&mut self, login: Login<'_>) {
        let (mut properties, mut of_will) = (PropertyBuf::new(), PropertyBuf::new());
        if self.version == Version::V5 {
            for property in [
                Some(Property::SessionExpiryInterval(login.expiry)),
                login.receive_maximum.map(Property::ReceiveMaximum),
                login.largest_packet.map(Property::MaximumPacketSize),
                login.topic_aliases.map(Property::TopicAliasMaximum),
            ] {
                property.into_iter().for_each(|property| properties.push(property).unwrap());
            }
            if let Some((.., delay)) = login.will {
                of_will.push(Property::WillDelayInterval(delay)).unwrap();
            }
        }
        let packet = Packet::Connect(Connect {
            version: self.version,
            clean_start: login.clean,
            keep_alive: login.keep_alive,
            client_id: login.name,
            will: login.will.map(|(topic, payload, qos, retain, _)| Will {
                qos,
                retain,
                topic,
                payload,
                properties: of_will.for_place(Place::Will, Sender::Client).unwrap(),
            }),
            user_name: login.user,
            password: login.user.map(|_| &b"secret"[..]),
            properties: properties.for_place(Place::Packet(PacketType::Connect), Sender::Client).unwrap(),
        });
        self.send(&packet).await;
    }

    pub(crate) async fn send(&mut self, packet: &Packet<'_>) {
        self.stream.write_all(&packet.to_bytes(self.version).unwrap()).await.unwrap();
    }

    async fn read_packet(&mut self) -> Option<Vec<u8>> {
        self.received.next(&mut self.stream).await
    }

    pub(crate) async fn next<T>(&mut self, look: impl FnOnce(Packet<'_>) -> T) -> T {
        let packet = self.read_packet().await.expect("the connection has ended");
        look(Packet::decode(&Frame::of(&packet).unwrap(), self.version, Sender::Server).unwrap())
    }

    /// The connection ends; returns the reason code of the DISCONNECT before it.
    pub(crate) async fn ended(&mut self) -> Option<ReasonCode> {
        let mut reason = None;
        while let Some(packet) = self.read_packet().await {
            match Packet::decode(&Frame::of(&packet).unwrap(), self.version, Sender::Server).unwrap() {
                Packet::Disconnect(disconnect) => reason = Some(disconnect.reason),
                other => panic!("{other:?}"),
            }
        }
        reason
    }

    /// Subscribes, and returns the code. Messages before the SUBACK are passed over.
    async fn subscribe_with(
        &mut self,
        filter: &str,
        options: SubscribeOptions,
        number: Option<u32>,
    ) -> ReasonCode {
        let (mut filters, mut properties) = (FilterBuf::new(), PropertyBuf::new());
        filters.push(filter, options).unwrap();
        if let Some(number) = number.and_then(jmqt_mqtt::SubscriptionId::new) {
            properties.push(Property::SubscriptionIdentifier(number)).unwrap();
        }
        let properties = properties.for_place(Place::Packet(PacketType::Subscribe), Sender::Client).unwrap();
        self.send(&Packet::Subscribe(Subscribe { id: id(7), properties, filters: filters.as_filters() }))
            .await;
        loop {
            let code = self.next(|packet| match packet {
                Packet::SubAck(codes) => Some(codes.iter().next().unwrap()),
                Packet::Publish(_) => None,
                other => panic!("{other:?}"),
            });
            if let Some(code) = code.await {
                return code;
            }
        }
    }

    pub(crate) async fn subscribe(&mut self, filter: &str, qos: Qos) -> ReasonCode {
        self.subscribe_with(filter, SubscribeOptions::of_qos(qos), None).await
    }

    pub(crate) async fn publish(&mut self, topic: &str, payload: &[u8], delivery: Delivery, retain: bool) {
        let packet = Publish { delivery, retain, topic, properties: Properties::EMPTY, payload };
        self.send(&Packet::Publish(packet)).await;
    }

    /// Publishes with QoS 1, and returns the code.
    pub(crate) async fn publish_acknowledged(
        &mut self,
        topic: &str,
        payload: &[u8],
        retain: bool,
    ) -> ReasonCode {
        self.publish(topic, payload, Delivery::AtLeastOnce { id: id(9), dup: false }, retain).await;
        self.next(|packet| match packet {
            Packet::PubAck(ack) if ack.id == id(9) => ack.reason,
            other => panic!("{other:?}"),
        })
        .await
    }

    /// The next message: topic, payload, delivery, retained.
    pub(crate) async fn message(&mut self) -> (String, Vec<u8>, Delivery, bool) {
        self.next(|packet| match packet {
            Packet::Publish(publish) => {
                (publish.topic.to_owned(), publish.payload.to_vec(), publish.delivery, publish.retain)
            }
            other => panic!("{other:?}"),
        })
        .await
    }

    /// Nothing was sent before the answer to a ping.
    pub(crate) async fn expect_nothing(&mut self) {
        self.send(&Packet::PingReq).await;
        self.next(|packet| assert!(matches!(packet, Packet::PingResp), "{packet:?}")).await;
    }

    /// Sends DISCONNECT, with another session expiry interval if there is one.
    pub(crate) async fn disconnect(&mut self, reason: ReasonCode, expiry: Option<u32>) {
        let mut properties = PropertyBuf::new();
        if let Some(expiry) = expiry {
            properties.push(Property::SessionExpiryInterval(expiry)).unwrap();
        }
        let place = Place::Packet(PacketType::Disconnect);
        let properties = properties.for_place(place, Sender::Client).unwrap();
        self.send(&Packet::Disconnect(Disconnect { reason, properties })).await;
    }

    pub(crate) async fn acknowledge(&mut self, delivery: Delivery) {
        let ack = Ack::new(delivery.id().unwrap(), ReasonCode::SUCCESS);
        self.send(&Packet::PubAck(ack)).await;
    }
}

async fn start() -> TestServer {
    TestServer::configured(|config| config.mqtt_port = Some(0)).await
}

#[tokio::test]
async fn a_device_and_a_browser_talk_on_the_same_channel() {
    let server = start().await;
    for version in VERSIONS {
        let mut browser = server.connect("alice").await;
        browser.sub("room/temperature").await;
        let mut device = Device::new(&server, version, Login::of("sensor")).await;
        assert_eq!(device.subscribe("room/lamp", Qos::AtMostOnce).await, ReasonCode::SUCCESS);
        for (payload, data) in
            [(&b"21.5"[..], "21.5"), (b"warm", "\"warm\""), (b"\xff", r#"{"$b64":"/w=="}"#), (b"", "\"\"")]
        {
            device.publish("room/temperature", payload, Delivery::AtMostOnce, false).await;
            let text = format!(r#"{{"push":{{"cn":"room/temperature","dt":{data},"cl":"sensor"}}}}"#);
            browser.expect_push(&text).await;
        }
        for (data, payload) in [("\"ON\"", "ON"), ("{\"level\":3}", "{\"level\":3}"), ("7", "7")] {
            browser.send(&format!(r#"{{"pub":{{"cn":"room/lamp","dt":{data}}}}}"#)).await;
            let (topic, received, delivery, retain) = device.message().await;
            assert_eq!(
                (&*topic, &*received, delivery, retain),
                ("room/lamp", payload.as_bytes(), Delivery::AtMostOnce, false)
            );
        }
    }
}

#[tokio::test] // protocol.md 2.26
async fn payloads_go_to_a_browser_and_back_without_change() {
    let server = start().await;
    let mut browser = server.connect("alice").await;
    browser.sub("from").await;
    let mut device = Device::new(&server, Version::V3_1_1, Login::of("sensor")).await;
    device.subscribe("to", Qos::AtLeastOnce).await;
    for (payload, dt) in [
        (&b"ON"[..], r#""ON""#),
        (b"\"ON\"", r#""ON","jt":1"#),
        (b"{\"$b64\":\"/w==\"}", r#"{"$b64":"/w=="},"jt":1"#),
        (b"\xff", r#"{"$b64":"/w=="}"#),
        (b"{\"$b64\":1}", r#"{"$b64":1}"#),
        (b"21.5", "21.5"),
    ] {
        device.publish("from", payload, Delivery::AtMostOnce, false).await;
        browser.expect(&format!(r#"{{"push":{{"cn":"from","dt":{dt},"cl":"sensor"}}}}"#)).await;
        for (more, qos) in [("", Qos::AtMostOnce), (r#","q":1,"id":"7""#, Qos::AtLeastOnce)] {
            browser.send(&format!(r#"{{"pub":{{"cn":"to","dt":{dt}{more}}}}}"#)).await;
            let (_, back, delivery, _) = device.message().await;
            assert_eq!((&*back, delivery.qos()), (payload, qos), "{dt}");
            if qos == Qos::AtLeastOnce {
                device.acknowledge(delivery).await;
                browser.expect(r#"{"pubAck":{"st":1,"id":"7"}}"#).await;
            }
        }
    }
    // Other JMQT clients receive `jt` too, live and retained, where it makes a difference.
    let mut bob = server.connect("bob").await;
    bob.sub("lamp").await;
    for (dt, jt) in [(r#""ON""#, r#","jt":1"#), ("1", "")] {
        browser.send(&format!(r#"{{"pub":{{"cn":"lamp","dt":{dt},"jt":1,"q":1,"rt":1,"id":"8"}}}}"#)).await;
        browser.expect(r#"{"pubAck":{"st":1,"id":"8"}}"#).await;
        let live = format!(r#"{{"push":{{"cn":"lamp","dt":{dt}{jt},"cl":"alice","q":1,"id":"*"}}}}"#);
        let push = bob.expect_push(&live).await;
        bob.ack(&push).await;
        bob.send(r#"{"sub":{"cn":"lamp"}}"#).await;
        bob.expect(r#"{"subAck":{"st":1,"cn":"lamp"}}"#).await;
        bob.expect(&format!(r#"{{"push":{{"cn":"lamp","dt":{dt}{jt},"cl":"alice","rt":1}}}}"#)).await;
    }
}

#[tokio::test] // 4.3.2, 4.3.3
async fn each_qos_is_acknowledged_and_lowered_to_the_granted_one() {
    let server = start().await;
    for version in VERSIONS {
        let mut publisher = Device::new(&server, version, Login::of("sender")).await;
        for (granted, code) in [
            (Qos::AtMostOnce, ReasonCode::SUCCESS),
            (Qos::AtLeastOnce, ReasonCode::GRANTED_QOS_1),
            (Qos::ExactlyOnce, ReasonCode::GRANTED_QOS_2),
        ] {
            let mut subscriber = Device::new(&server, version, Login::of("receiver")).await;
            assert_eq!(subscriber.subscribe("news", granted).await, code);
            for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
                let delivery = match qos {
                    Qos::AtMostOnce => Delivery::AtMostOnce,
                    Qos::AtLeastOnce => Delivery::AtLeastOnce { id: id(3), dup: false },
                    Qos::ExactlyOnce => Delivery::ExactlyOnce { id: id(4), dup: false },
                };
                publisher.publish("news", b"x", delivery, false).await;
                match qos {
                    Qos::AtMostOnce => {}
                    Qos::AtLeastOnce => {
                        publisher
                            .next(|packet| {
                                assert_eq!(packet, Packet::PubAck(Ack::new(id(3), ReasonCode::SUCCESS)))
                            })
                            .await;
                    }
                    Qos::ExactlyOnce => {
                        let done = Ack::new(id(4), ReasonCode::SUCCESS);
                        publisher.next(|packet| assert_eq!(packet, Packet::PubRec(done))).await;
                        // Repeated: it is not published again.
                        publisher
                            .publish("news", b"x", Delivery::ExactlyOnce { id: id(4), dup: true }, false)
                            .await;
                        publisher.next(|packet| assert_eq!(packet, Packet::PubRec(done))).await;
                        publisher.send(&Packet::PubRel(done)).await;
                        publisher.next(|packet| assert_eq!(packet, Packet::PubComp(done))).await;
                    }
                }
                let (_, _, delivery, _) = subscriber.message().await;
                assert_eq!(delivery.qos().bits(), qos.bits().min(granted.bits()));
                match delivery {
                    Delivery::AtMostOnce => {}
                    Delivery::AtLeastOnce { .. } => subscriber.acknowledge(delivery).await,
                    Delivery::ExactlyOnce { id, dup } => {
                        assert!(!dup);
                        let done = Ack::new(id, ReasonCode::SUCCESS);
                        subscriber.send(&Packet::PubRec(done)).await;
                        subscriber.next(|packet| assert_eq!(packet, Packet::PubRel(done))).await;
                        subscriber.send(&Packet::PubComp(done)).await;
                    }
                }
                subscriber.expect_nothing().await;
            }
        }
    }
}

#[tokio::test] // 3.3.1.3
async fn a_retained_message_is_kept_replaced_and_deleted() {
    let server = start().await;
    for version in VERSIONS {
        let mut device = Device::new(&server, version, Login::of("sensor")).await;
        for payload in [b"1", b"2"] {
            assert_eq!(device.publish_acknowledged("state", payload, true).await, ReasonCode::SUCCESS);
        }
        let mut late = Device::new(&server, version, Login::of("late")).await;
        let mut filters = FilterBuf::new();
        filters.push("state", SubscribeOptions::of_qos(Qos::AtMostOnce)).unwrap();
        let subscribe = Subscribe { id: id(7), properties: Properties::EMPTY, filters: filters.as_filters() };
        late.send(&Packet::Subscribe(subscribe)).await;
        late.next(|packet| assert!(matches!(packet, Packet::SubAck(_)))).await;
        let (topic, payload, delivery, retain) = late.message().await;
        assert_eq!((&*topic, &*payload, delivery, retain), ("state", &b"2"[..], Delivery::AtMostOnce, true));
        let mut browser = server.connect("alice").await;
        browser.send(r#"{"sub":{"cn":"state"}}"#).await;
        browser.expect(r#"{"subAck":{"st":1,"cn":"state"}}"#).await;
        browser.expect_push(r#"{"push":{"cn":"state","dt":2,"cl":"sensor","rt":1}}"#).await;
        assert_eq!(device.publish_acknowledged("state", b"", true).await, ReasonCode::SUCCESS);
        let (_, payload, _, retain) = late.message().await;
        assert!(payload.is_empty() && !retain, "subscribers see that it was deleted");
        let mut later = Device::new(&server, version, Login::of("later")).await;
        assert_eq!(later.subscribe("state", Qos::AtLeastOnce).await, ReasonCode::GRANTED_QOS_1);
        later.expect_nothing().await;
    }
}

#[tokio::test] // 3.1.2.5
async fn a_will_is_published_when_the_connection_is_lost_and_only_then() {
    let server = start().await;
    for version in VERSIONS {
        let mut watcher = Device::new(&server, version, Login::of("watcher")).await;
        watcher.subscribe("gone", Qos::AtLeastOnce).await;
        let login =
            Login { will: Some(("gone", b"lost", Qos::AtLeastOnce, false, 0)), ..Login::of("sensor") };
        let mut orderly = Device::new(&server, version, login).await;
        orderly
            .send(&Packet::Disconnect(Disconnect {
                reason: ReasonCode::SUCCESS,
                properties: Properties::EMPTY,
            }))
            .await;
        assert_eq!(orderly.ended().await, None);
        watcher.expect_nothing().await;
        let lost = Device::new(&server, version, login).await;
        drop(lost);
        let (topic, payload, delivery, _) = watcher.message().await;
        assert_eq!((&*topic, &*payload), ("gone", &b"lost"[..]));
        watcher.acknowledge(delivery).await;
    }
}

#[tokio::test] // what a validator refuses is not published, and a will is a publish
async fn a_refused_will_refuses_the_connection() {
    let server = start().await;
    server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let login = Login { will: Some(("gone", b"lost", Qos::AtMostOnce, false, 0)), ..Login::of("sensor") };
    for version in VERSIONS {
        let mut device = Device::dial(&server, version).await;
        assert_eq!(device.connect(login).await.0, ReasonCode::NOT_AUTHORIZED);
    }
}

#[tokio::test] // 3.4.2.1
async fn a_refused_publish_is_answered_and_not_delivered() {
    let server = start().await;
    let mut watcher = Device::new(&server, Version::V5, Login::of("watcher")).await;
    watcher.subscribe("news", Qos::AtLeastOnce).await;
    for (status, reason) in [
        (StatusCode::NOT_ALLOWED, ReasonCode::NOT_AUTHORIZED),
        (StatusCode::INVALID_PACKET, ReasonCode::IMPLEMENTATION_SPECIFIC_ERROR),
    ] {
        server.app.set(Asked::Pub, Behaviour::Refuse(status));
        for (version, expected) in [(Version::V5, reason), (Version::V3_1_1, ReasonCode::SUCCESS)] {
            let mut device = Device::new(&server, version, Login::of("sensor")).await;
            assert_eq!(device.publish_acknowledged("news", b"1", true).await, expected);
        }
    }
    watcher.expect_nothing().await;
}

#[tokio::test] // 3.1.2.4, 3.2.2.1.1
async fn a_persistent_session_receives_what_was_published_while_it_was_away() {
    let server = start().await;
    for version in VERSIONS {
        let name = if version == Version::V5 { "five" } else { "three" };
        let login = Login { clean: false, expiry: 1000, ..Login::of(name) };
        let mut device = Device::new(&server, version, login).await;
        device.subscribe("orders", Qos::AtLeastOnce).await;
        drop(device);
        let mut publisher = Device::new(&server, version, Login::of("shop")).await;
        for payload in [b"1", b"2"] {
            publisher.publish_acknowledged("orders", payload, false).await;
        }
        let mut device = Device::dial(&server, version).await;
        assert_eq!(device.connect(login).await, (ReasonCode::SUCCESS, true, None));
        for expected in [b"1", b"2"] {
            let (_, payload, delivery, _) = device.message().await;
            assert_eq!(payload, expected);
            device.acknowledge(delivery).await;
        }
        device.expect_nothing().await;
        drop(device);
        let mut clean = Device::dial(&server, version).await;
        assert_eq!(clean.connect(Login { clean: true, ..login }).await, (ReasonCode::SUCCESS, false, None));
        publisher.publish_acknowledged("orders", b"3", false).await;
        clean.expect_nothing().await;
    }
}

#[tokio::test] // 3.8.3.1, 3.8.2.1.2
async fn subscription_options_are_kept() {
    let server = start().await;
    let mut device = Device::new(&server, Version::V5, Login::of("sensor")).await;
    let own = SubscribeOptions { no_local: true, ..SubscribeOptions::of_qos(Qos::AtMostOnce) };
    device.subscribe_with("mine", own, None).await;
    device.publish("mine", b"1", Delivery::AtMostOnce, false).await;
    device.expect_nothing().await;
    device.subscribe("mine", Qos::AtMostOnce).await;
    device.publish("mine", b"2", Delivery::AtMostOnce, false).await;
    assert_eq!(device.message().await.1, b"2", "the new options have replaced the old ones");
    let keeps = SubscribeOptions {
        retain_as_published: true,
        retain_handling: RetainHandling::DoNotSend,
        ..SubscribeOptions::of_qos(Qos::AtLeastOnce)
    };
    device.subscribe_with("kept", keeps, Some(77)).await;
    let mut other = Device::new(&server, Version::V5, Login::of("other")).await;
    other.publish_acknowledged("kept", b"3", true).await;
    let seen = device.next(|packet| match packet {
        Packet::Publish(publish) => {
            (publish.retain, publish.properties.subscription_id().map(jmqt_mqtt::SubscriptionId::get))
        }
        other => panic!("{other:?}"),
    });
    assert_eq!(seen.await, (true, Some(77)));
}

#[tokio::test] // 3.3.4, 4.9
async fn the_receive_maximum_of_a_client_limits_what_it_is_sent() {
    let server = start().await;
    let login = Login { receive_maximum: Some(1), ..Login::of("slow") };
    let mut device = Device::new(&server, Version::V5, login).await;
    device.subscribe("news", Qos::ExactlyOnce).await;
    let mut publisher = Device::new(&server, Version::V5, Login::of("shop")).await;
    for payload in [b"1", b"2"] {
        publisher.publish_acknowledged("news", payload, false).await;
    }
    let (_, payload, delivery, _) = device.message().await;
    assert_eq!(payload, b"1");
    device.expect_nothing().await;
    device.acknowledge(delivery).await;
    assert_eq!(device.message().await.1, b"2");
}

#[tokio::test] // 3.1.2.11.4: a message that is too large is not sent, and those behind it are
async fn a_packet_that_the_client_does_not_accept_is_passed_over() {
    let server = start().await;
    let login = Login { largest_packet: Some(60), ..Login::of("small") };
    let mut device = Device::new(&server, Version::V5, login).await;
    device.subscribe("news", Qos::AtLeastOnce).await;
    let mut publisher = Device::new(&server, Version::V5, Login::of("shop")).await;
    publisher.publish("news", &[b'x'; 100], Delivery::AtMostOnce, false).await;
    publisher.publish_acknowledged("news", &[b'x'; 100], false).await;
    publisher.publish_acknowledged("news", b"small", false).await;
    assert_eq!(device.message().await.1, b"small");
}

#[tokio::test] // 3.1.3.1
async fn a_client_without_an_id_receives_one() {
    let server = start().await;
    let mut device = Device::dial(&server, Version::V5).await;
    let (reason, _, assigned) = device.connect(Login { user: Some("alice"), ..Login::of("") }).await;
    assert_eq!((reason, assigned.as_deref()), (ReasonCode::SUCCESS, Some("alice")));
}

#[tokio::test]
async fn a_newer_connection_in_either_language_takes_over() {
    let server = start().await;
    let mut device = Device::new(&server, Version::V5, Login::of("alice")).await;
    let mut browser = server.connect("alice").await;
    assert_eq!(device.ended().await, Some(ReasonCode::SESSION_TAKEN_OVER));
    let _device = Device::new(&server, Version::V5, Login::of("alice")).await;
    browser.closed().await;
}

#[tokio::test] // 3.1.2.10
async fn a_client_may_be_silent_for_one_and_a_half_times_its_keep_alive() {
    let server = start().await;
    let mut device = Device::new(&server, Version::V5, Login { keep_alive: 1, ..Login::of("silent") }).await;
    assert_eq!(device.ended().await, Some(ReasonCode::KEEP_ALIVE_TIMEOUT));
}

#[tokio::test] // 4.13
async fn a_bad_packet_ends_the_connection_with_its_reason() {
    let server = start().await;
    for (bytes, reason) in [
        (&b"\x00\x00"[..], ReasonCode::MALFORMED_PACKET),
        (b"\x30\xff\xff\xff\xff\x01", ReasonCode::MALFORMED_PACKET),
        (b"\x36\x06\x00\x01a\x00\x01\x00", ReasonCode::MALFORMED_PACKET), // QoS 3
        (b"\x32\x06\x00\x01a\x00\x00\x00", ReasonCode::PROTOCOL_ERROR),   // packet identifier 0
        (b"\x30\x07\x00\x00\x03\x23\x00\x00x", ReasonCode::TOPIC_ALIAS_INVALID), // alias 0
        (b"\x30\x07\x00\x00\x03\x23\x00\x09x", ReasonCode::PROTOCOL_ERROR), // unknown alias
        (b"\x30\x05\x00\x02a\x00\x00", ReasonCode::MALFORMED_PACKET),     // U+0000
        (b"\x82\x03\x00\x01\x00", ReasonCode::PROTOCOL_ERROR),            // no filter
    ] {
        let mut device = Device::new(&server, Version::V5, Login::of("bad")).await;
        device.stream.write_all(bytes).await.unwrap();
        let ended = device.ended().await;
        assert_eq!(ended, Some(reason), "{bytes:x?}");
    }
    let mut device = Device::dial(&server, Version::V5).await;
    device.stream.write_all(b"\xc0\x00").await.unwrap(); // PINGREQ before CONNECT
    assert_eq!(device.ended().await, None);
    let mut device = Device::new(&server, Version::V5, Login::of("twice")).await;
    let connect = Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 0,
        client_id: "twice",
        will: None,
        user_name: None,
        password: None,
        properties: Properties::EMPTY,
    };
    device.send(&Packet::Connect(connect)).await;
    assert_eq!(device.ended().await, Some(ReasonCode::PROTOCOL_ERROR));
}

#[tokio::test]
async fn an_alias_stands_for_the_topic_it_was_sent_with() {
    let server = start().await;
    let mut browser = server.connect("alice").await;
    browser.sub("a/long/topic").await;
    let mut device = Device::new(&server, Version::V5, Login::of("sensor")).await;
    let mut properties = PropertyBuf::new();
    properties.push(Property::TopicAlias(5)).unwrap();
    let properties = properties.for_place(Place::Packet(PacketType::Publish), Sender::Client).unwrap();
    for (topic, payload) in [("a/long/topic", b"1"), ("", b"2")] {
        let packet = Publish { delivery: Delivery::AtMostOnce, retain: false, topic, properties, payload };
        device.send(&Packet::Publish(packet)).await;
    }
    for data in [1, 2] {
        browser
            .expect_push(&format!(r#"{{"push":{{"cn":"a/long/topic","dt":{data},"cl":"sensor"}}}}"#))
            .await;
    }
}

#[tokio::test] // 3.10.4, 3.11.3
async fn after_an_unsuback_no_message_comes() {
    let server = start().await;
    let mut device = Device::new(&server, Version::V5, Login::of("sensor")).await;
    device.subscribe("news", Qos::AtLeastOnce).await;
    for expected in [ReasonCode::SUCCESS, ReasonCode::NO_SUBSCRIPTION_EXISTED] {
        let mut names = NameBuf::new();
        names.push("news").unwrap();
        let packet = Unsubscribe { id: id(8), properties: Properties::EMPTY, filters: names.as_names() };
        device.send(&Packet::Unsubscribe(packet)).await;
        let code = device.next(|packet| match packet {
            Packet::UnsubAck(codes) => codes.iter().next().unwrap(),
            other => panic!("{other:?}"),
        });
        assert_eq!(code.await, expected);
    }
    device.publish("news", b"1", Delivery::AtMostOnce, false).await;
    device.expect_nothing().await;
}

#[tokio::test] // 4.10
async fn a_request_to_the_application_is_answered_on_the_response_topic() {
    let server = start().await;
    let mut device = Device::new(&server, Version::V5, Login::of("sensor")).await;
    device.subscribe("reply/sensor", Qos::AtMostOnce).await;
    let mut properties = PropertyBuf::new();
    properties.push(Property::ResponseTopic("reply/sensor")).unwrap();
    properties.push(Property::CorrelationData(b"42")).unwrap();
    let properties = properties.for_place(Place::Packet(PacketType::Publish), Sender::Client).unwrap();
    let delivery = Delivery::AtMostOnce;
    let packet =
        Publish { delivery, retain: false, topic: "$time", properties, payload: b"{\"zone\":\"UTC\"}" };
    device.send(&Packet::Publish(packet)).await;
    device
        .next(|packet| match packet {
            Packet::Publish(publish) => {
                assert_eq!((publish.topic, publish.payload), ("reply/sensor", &b"{\"zone\":\"UTC\"}"[..]));
                assert_eq!(publish.properties.correlation_data(), Some(&b"42"[..]));
                assert_eq!(publish.properties.user_properties().collect::<Vec<_>>(), [("st", "1")]);
            }
            other => panic!("{other:?}"),
        })
        .await;
}

#[tokio::test]
async fn a_point_to_point_message_reaches_a_device_that_has_asked_for_it() {
    let server = start().await;
    let mut device = Device::new(&server, Version::V5, Login::of("lamp")).await;
    assert_eq!(device.subscribe("$p2p/alice", Qos::AtMostOnce).await, ReasonCode::NOT_AUTHORIZED);
    assert_eq!(device.subscribe("$p2p/lamp", Qos::AtMostOnce).await, ReasonCode::SUCCESS);
    let mut browser = server.connect("alice").await;
    browser.send(r##"{"pub":{"cn":"#lamp","dt":"ON"}}"##).await;
    device
        .next(|packet| match packet {
            Packet::Publish(publish) => {
                assert_eq!((publish.topic, publish.payload), ("$p2p/lamp", &b"ON"[..]));
                assert_eq!(publish.properties.user_properties().collect::<Vec<_>>(), [("sender", "alice")]);
            }
            other => panic!("{other:?}"),
        })
        .await;
    device.publish("$p2p/alice", b"ok", Delivery::AtMostOnce, false).await;
    browser.expect_push(r##"{"push":{"cn":"#alice","dt":"ok","cl":"lamp"}}"##).await;
}

#[tokio::test] // 4.7
async fn wildcards_match_levels_and_not_hidden_channels() {
    let server = start().await;
    for version in VERSIONS {
        let mut device = Device::new(&server, version, Login::of("watcher")).await;
        assert_eq!(device.subscribe("room/+/light", Qos::AtLeastOnce).await, ReasonCode::GRANTED_QOS_1);
        assert_eq!(device.subscribe("garden/#", Qos::AtMostOnce).await, ReasonCode::SUCCESS);
        let mut browser = server.connect("alice").await;
        for (channel, is_matching) in [
            ("room/1/light", true),
            ("room//light", true),
            ("room/1/2/light", false),
            ("garden", true),
            ("garden/a/b", true),
            ("gardens", false),
        ] {
            browser.send(&format!(r#"{{"pub":{{"cn":"{channel}","dt":1}}}}"#)).await;
            if is_matching {
                let (topic, payload, delivery, retain) = device.message().await;
                assert_eq!(
                    (&*topic, &*payload, delivery, retain),
                    (channel, &b"1"[..], Delivery::AtMostOnce, false)
                );
            }
        }
        browser.pub1("room/2/light", "2").await;
        let (topic, _, delivery, _) = device.message().await;
        assert_eq!((&*topic, delivery.qos()), ("room/2/light", Qos::AtLeastOnce));
        device.acknowledge(delivery).await;
        assert_eq!(device.subscribe("#", Qos::AtMostOnce).await, ReasonCode::SUCCESS);
        browser.send(r##"{"pub":{"cn":"#bob","dt":1}}"##).await;
        device.expect_nothing().await;
    }
}

#[tokio::test] // 3.3.4: one copy with the highest QoS and all identifiers
async fn overlapping_subscriptions_receive_a_message_once() {
    let server = start().await;
    let mut device = Device::new(&server, Version::V5, Login::of("watcher")).await;
    for (filter, qos, number) in
        [("a/b", Qos::AtMostOnce, 1), ("a/+", Qos::ExactlyOnce, 2), ("#", Qos::AtLeastOnce, 3)]
    {
        device.subscribe_with(filter, SubscribeOptions::of_qos(qos), Some(number)).await;
    }
    let mut publisher = Device::new(&server, Version::V5, Login::of("shop")).await;
    let exactly_once = Delivery::ExactlyOnce { id: id(4), dup: false };
    for (delivery, expected) in [(Delivery::AtMostOnce, Qos::AtMostOnce), (exactly_once, Qos::ExactlyOnce)] {
        publisher.publish("a/b", b"x", delivery, false).await;
        let seen = device.next(|packet| match packet {
            Packet::Publish(publish) => {
                let ids = publish.properties.subscription_ids().map(jmqt_mqtt::SubscriptionId::get);
                (publish.delivery.qos(), ids.collect::<Vec<_>>())
            }
            other => panic!("{other:?}"),
        });
        assert_eq!(seen.await, (expected, vec![1, 2, 3]));
        device.expect_nothing().await;
    }
    let mut names = NameBuf::new();
    ["a/b", "a/+"].iter().for_each(|name| names.push(name).unwrap());
    let packet = Unsubscribe { id: id(8), properties: Properties::EMPTY, filters: names.as_names() };
    device.send(&Packet::Unsubscribe(packet)).await;
    device.next(|packet| assert!(matches!(packet, Packet::UnsubAck(_)), "{packet:?}")).await;
    publisher.next(|packet| assert!(matches!(packet, Packet::PubRec(_)), "{packet:?}")).await;
    publisher.publish_acknowledged("a/b", b"y", false).await;
    let (_, payload, delivery, _) = device.message().await;
    assert_eq!((&*payload, delivery.qos()), (&b"y"[..], Qos::AtLeastOnce));
}

#[tokio::test] // 3.3.1.3, 3.8.4
async fn a_filter_brings_the_retained_messages_of_all_its_channels() {
    let server = start().await;
    let mut publisher = Device::new(&server, Version::V5, Login::of("shop")).await;
    // Long ones are not read together with the others.
    let payload =
        |number: usize| number.to_string().repeat(if number.is_multiple_of(100) { 5_000 } else { 1 });
    for number in 0..300 {
        let topic = format!("state/{number:03}");
        publisher.publish_acknowledged(&topic, payload(number).as_bytes(), true).await;
    }
    publisher.publish_acknowledged("states", b"other", true).await;
    let mut device = Device::new(&server, Version::V5, Login::of("watcher")).await;
    for changed in [None, Some(1), Some(100)] {
        if let Some(changed) = changed {
            let topic = format!("state/{changed:03}");
            publisher.publish_acknowledged(&topic, b"changed", true).await;
            assert_eq!(device.message().await.1, b"changed");
        }
        let mut filters = FilterBuf::new();
        filters.push("state/#", SubscribeOptions::of_qos(Qos::AtMostOnce)).unwrap();
        let subscribe = Subscribe { id: id(7), properties: Properties::EMPTY, filters: filters.as_filters() };
        device.send(&Packet::Subscribe(subscribe)).await;
        device.next(|packet| assert!(matches!(packet, Packet::SubAck(_)), "{packet:?}")).await;
        for number in 0..300 {
            let (topic, received, _, retain) = device.message().await;
            assert_eq!((topic, retain), (format!("state/{number:03}"), true));
            if changed.is_some_and(|changed| [1, changed].contains(&number)) {
                assert_eq!(received, b"changed");
            } else {
                assert_eq!(received, payload(number).as_bytes());
            }
        }
        device.expect_nothing().await;
    }
}

#[tokio::test]
async fn a_filter_needs_the_permission_of_the_sub_validator() {
    let server = start().await;
    server.app.set(Asked::Sub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let mut device = Device::new(&server, Version::V5, Login::of("watcher")).await;
    assert_eq!(device.subscribe("#", Qos::AtMostOnce).await, ReasonCode::NOT_AUTHORIZED);
    assert_eq!(server.app.asked(Asked::Sub).await, "#");
    assert_eq!(device.subscribe("a/#/b", Qos::AtMostOnce).await, ReasonCode::TOPIC_FILTER_INVALID);
    assert_eq!(device.subscribe("$SYS/#", Qos::AtMostOnce).await, ReasonCode::NOT_AUTHORIZED);
    device.publish("a", b"1", Delivery::AtMostOnce, false).await;
    device.expect_nothing().await;
}

/// A packet of a client, by number: valid ones, ones that come at a wrong time, and damaged ones.
fn some_packet(kind: u8, number: u16, bytes: &[u8]) -> Vec<u8> {
    let packet_id = PacketId::new(number % 5 + 1).unwrap();
    let topics = ["a", "a/b", "$p2p/two", "$p2p/one", "$x", "$SYS/x", "", "é/+", "$share/g/a", " a"];
    let topic = topics[usize::from(number) % topics.len()];
    let filters = ["a", "+/b", "#", "a/#", "$p2p/one", "$share/g/#", "a/#/b", "$reply/x", "+", "/"];
    let filter = filters[usize::from(number) % filters.len()];
    let ack = Ack::new(packet_id, ReasonCode::SUCCESS);
    let publish = |delivery, retain| {
        Packet::Publish(Publish { delivery, retain, topic, properties: Properties::EMPTY, payload: bytes })
    };
    let mut many = FilterBuf::new();
    let options = SubscribeOptions {
        qos: Qos::from_bits(kind % 3).unwrap(),
        no_local: number.is_multiple_of(7) && !filter.starts_with("$share"),
        retain_as_published: number.is_multiple_of(3),
        retain_handling: RetainHandling::Send,
    };
    many.push(filter, options).unwrap();
    let mut names = NameBuf::new();
    names.push(filter).unwrap();
    let packet = match kind % 12 {
        0 | 1 => publish(Delivery::AtMostOnce, number.is_multiple_of(4)),
        2 | 3 => publish(
            Delivery::AtLeastOnce { id: packet_id, dup: number.is_multiple_of(2) },
            number.is_multiple_of(4),
        ),
        4 => publish(
            Delivery::ExactlyOnce { id: packet_id, dup: number.is_multiple_of(2) },
            number.is_multiple_of(4),
        ),
        5 => Packet::PubAck(ack),
        6 => Packet::PubRec(ack),
        7 => Packet::PubRel(ack),
        8 => Packet::PubComp(ack),
        9 => Packet::Subscribe(Subscribe {
            id: packet_id,
            properties: Properties::EMPTY,
            filters: many.as_filters(),
        }),
        10 => Packet::Unsubscribe(Unsubscribe {
            id: packet_id,
            properties: Properties::EMPTY,
            filters: names.as_names(),
        }),
        _ => Packet::PingReq,
    };
    let mut packet = packet.to_bytes(Version::V5).unwrap_or_else(|_| bytes.to_vec());
    // One in thirty is damaged in one byte.
    if number.is_multiple_of(30) && !packet.is_empty() {
        let at = usize::from(number / 30) % packet.len();
        packet[at] ^= kind | 1;
    }
    packet
}

#[test] // a bounded part of what may be run by hand for as long as one likes: PROPTEST_CASES=100000
fn no_sequence_of_packets_of_two_clients_stops_the_server() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let server = runtime.block_on(start());
    let step =
        (proptest::bool::ANY, 0..=u8::MAX, 0..=u16::MAX, proptest::collection::vec(0..=u8::MAX, 0..40));
    let steps = proptest::collection::vec(step, 1..60);
    let config = proptest::test_runner::Config { failure_persistence: None, ..Default::default() };
    let cases = std::env::var("PROPTEST_CASES").map_or(500, |cases| cases.parse().unwrap());
    let mut runner =
        proptest::test_runner::TestRunner::new(proptest::test_runner::Config { cases, ..config });
    let tried = runner.run(&steps, |steps| {
        runtime.block_on(async {
            let login = |name| Login { clean: false, expiry: 5, ..Login::of(name) };
            let mut one = Device::new(&server, Version::V5, Login::of("one")).await;
            let mut two = Device::dial(&server, Version::V5).await;
            assert_eq!(two.connect(login("two")).await.0, ReasonCode::SUCCESS);
            for (is_first, kind, number, bytes) in steps {
                let device = if is_first { &mut one } else { &mut two };
                // The server may have closed the connection because of an earlier packet.
                let packet = some_packet(kind, number, &bytes);
                let _ = device.stream.write_all(&packet).await;
                let _ = device.stream.try_read(&mut [0; 65536]);
            }
            drop((one, two));
            let mut other = Device::new(&server, Version::V5, Login::of("other")).await;
            other.expect_nothing().await;
        });
        Ok(())
    });
    tried.unwrap();
    let counters = server.counters();
    assert!(counters.bad_packets > 10 && counters.messages_published > 100, "{counters:?}");
    let notices = runtime.block_on(server.app.more_notices());
    let panicked = |notice: &Notice| matches!(notice, Notice::Close(_, CloseReason::ServerError));
    assert!(!notices.iter().any(panicked), "the task of a connection panicked");
}

#[tokio::test] // an acknowledgement means: on disk for every persistent session
async fn what_was_acknowledged_survives_a_crash_with_its_form_and_properties() {
    let mut server = start().await;
    let login = Login { clean: false, expiry: 1000, ..Login::of("device") };
    let mut device = Device::new(&server, Version::V5, login).await;
    device.subscribe("orders", Qos::ExactlyOnce).await;
    drop(device);
    let mut publisher = Device::new(&server, Version::V5, Login::of("shop")).await;
    let mut properties = PropertyBuf::new();
    properties.push(Property::ContentType("text/plain")).unwrap();
    properties.push(Property::UserProperty(("colour", "red"))).unwrap();
    let properties = properties.for_place(Place::Packet(PacketType::Publish), Sender::Client).unwrap();
    let text = Publish {
        delivery: Delivery::AtLeastOnce { id: id(9), dup: false },
        retain: true,
        topic: "orders",
        properties,
        payload: b"21.5",
    };
    publisher.send(&Packet::Publish(text)).await;
    publisher.next(|packet| assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}")).await;
    publisher.publish("orders", b"\xff\x00", Delivery::ExactlyOnce { id: id(4), dup: false }, false).await;
    publisher.next(|packet| assert!(matches!(packet, Packet::PubRec(_)), "{packet:?}")).await;
    server.crash().await;
    let mut device = Device::dial(&server, Version::V5).await;
    assert_eq!(device.connect(login).await, (ReasonCode::SUCCESS, true, None));
    let first = device.next(|packet| match packet {
        Packet::Publish(publish) => {
            assert_eq!((publish.payload, publish.retain), (&b"21.5"[..], false));
            assert_eq!(publish.properties.content_type(), Some("text/plain"));
            assert_eq!(publish.properties.user_properties().collect::<Vec<_>>(), [("colour", "red")]);
            publish.delivery
        }
        other => panic!("{other:?}"),
    });
    let first = first.await;
    device.acknowledge(first).await;
    let (_, payload, delivery, _) = device.message().await;
    assert_eq!((&*payload, delivery.qos()), (&b"\xff\x00"[..], Qos::ExactlyOnce));
    let mut browser = server.connect("alice").await;
    browser.send(r#"{"sub":{"cn":"orders"}}"#).await;
    browser.expect(r#"{"subAck":{"st":1,"cn":"orders"}}"#).await;
    browser.expect_push(r#"{"push":{"cn":"orders","dt":"21.5","cl":"shop","rt":1}}"#).await;
}

#[tokio::test] // 3.3.2.3.3: the time that is left is told, and a message that has expired is not sent
async fn a_message_expires_on_its_way() {
    let server = start().await;
    let login = Login { clean: false, expiry: 1000, ..Login::of("device") };
    let mut device = Device::new(&server, Version::V5, login).await;
    device.subscribe("orders", Qos::AtLeastOnce).await;
    drop(device);
    let mut publisher = Device::new(&server, Version::V5, Login::of("shop")).await;
    for (seconds, payload) in [(1, b"short"), (1000, b"long!")] {
        let mut properties = PropertyBuf::new();
        properties.push(Property::MessageExpiryInterval(seconds)).unwrap();
        let properties = properties.for_place(Place::Packet(PacketType::Publish), Sender::Client).unwrap();
        let delivery = Delivery::AtLeastOnce { id: id(9), dup: false };
        let packet = Publish { delivery, retain: false, topic: "orders", properties, payload };
        publisher.send(&Packet::Publish(packet)).await;
        publisher.next(|packet| assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}")).await;
    }
    // The first message expires, whatever else happens meanwhile.
    tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    let mut device = Device::dial(&server, Version::V5).await;
    assert_eq!(device.connect(login).await, (ReasonCode::SUCCESS, true, None));
    let left = device.next(|packet| match packet {
        Packet::Publish(publish) => {
            assert_eq!(publish.payload, b"long!");
            publish.properties.message_expiry().unwrap()
        }
        other => panic!("{other:?}"),
    });
    let left = left.await;
    assert!((900..1000).contains(&left), "{left}");
}
