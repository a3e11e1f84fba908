//! The MQTT client against a server that sends exactly what a test requests (numbers are sections of MQTT 5.0).

use jmqt_client::mqtt::{DisconnectReason, Error};
use jmqt_mqtt::{
    Ack, Codes, ConnAck, Connect, Delivery, Frame, Packet, PacketId, PacketType, Place, Properties, Property,
    PropertyBuf, Sender,
};
use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::support::PacketReader;

struct Scripted(TcpListener);

/// One connection of a client.
struct Peer {
    stream: TcpStream,
    received: PacketReader,
    version: Version,
    /// CONNECT had the flag.
    clean_start: bool,
}

impl Scripted {
    async fn start() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    fn options(&self, version: Version) -> Options {
        options(&format!("mqtt://{}", self.0.local_addr().unwrap()), version, "scripted")
    }

    /// The next connection, up to its CONNECT.
    async fn accept(&self) -> Peer {
        let (stream, _) = within("a connection", self.0.accept()).await.unwrap();
        let mut peer =
            Peer { stream, received: PacketReader::default(), version: Version::V5, clean_start: false };
        let packet = peer.packet().await.expect("no CONNECT");
        let connect = Connect::decode(&Frame::of(&packet).unwrap()).unwrap();
        (peer.version, peer.clean_start) = (connect.version, connect.clean_start);
        peer
    }

    /// A client with a session.
    async fn connected(&self, options: Options, of: &[Property<'_>]) -> (Client, Peer) {
        let (client, peer) = tokio::join!(connect(options), self.session(false, of));
        (client, peer)
    }

    /// The next connection, with a CONNACK.
    async fn session(&self, session_present: bool, of: &[Property<'_>]) -> Peer {
        let mut peer = self.accept().await;
        peer.accept(session_present, of).await;
        peer
    }
}

impl Peer {
    async fn accept(&mut self, session_present: bool, of: &[Property<'_>]) {
        let mut buffer = PropertyBuf::new();
        if self.version == Version::V5 {
            of.iter().for_each(|property| buffer.push(*property).unwrap());
        }
        let properties = buffer.for_place(Place::Packet(PacketType::ConnAck), Sender::Server).unwrap();
        self.send(&Packet::ConnAck(ConnAck { session_present, reason: ReasonCode::SUCCESS, properties }))
            .await;
    }

    async fn packet(&mut self) -> Option<Vec<u8>> {
        self.received.next(&mut self.stream).await
    }

    /// The next packet that is not a PINGREQ.
    async fn next<T>(&mut self, look: impl FnOnce(Packet<'_>) -> T) -> T {
        let packet = within("another packet than PINGREQ", self.no_ping()).await;
        look(Packet::decode(&Frame::of(&packet).unwrap(), self.version, Sender::Client).unwrap())
    }

    async fn no_ping(&mut self) -> Vec<u8> {
        loop {
            let packet = self.packet().await.expect("the connection has ended");
            let frame = Frame::of(&packet).unwrap();
            match Packet::decode(&frame, self.version, Sender::Client).unwrap() {
                Packet::PingReq => self.send(&Packet::PingResp).await,
                _ => return packet,
            }
        }
    }

    async fn send(&mut self, packet: &Packet<'_>) {
        self.stream.write_all(&packet.to_bytes(self.version).unwrap()).await.unwrap();
    }

    /// The next packet is a PUBLISH: payload and delivery.
    async fn publish(&mut self) -> (String, Delivery) {
        self.next(|packet| match packet {
            Packet::Publish(publish) => {
                (String::from_utf8(publish.payload.to_vec()).unwrap(), publish.delivery)
            }
            other => panic!("{other:?}"),
        })
        .await
    }

    /// Answers a SUBSCRIBE with this QoS.
    async fn grant(&mut self, code: u8) {
        let id = self.next(|packet| match packet {
            Packet::Subscribe(subscribe) => subscribe.id,
            other => panic!("{other:?}"),
        });
        let id = id.await;
        self.send(&Packet::SubAck(Codes { id, properties: Properties::EMPTY, codes: &[code] })).await;
    }

    async fn deliver(&mut self, topic: &str, alias: Option<u16>, payload: &[u8], delivery: Delivery) {
        let mut buffer = PropertyBuf::new();
        alias.into_iter().for_each(|alias| buffer.push(Property::TopicAlias(alias)).unwrap());
        let properties = buffer.for_place(Place::Packet(PacketType::Publish), Sender::Server).unwrap();
        let publish = jmqt_mqtt::Publish { delivery, retain: false, topic, properties, payload };
        self.send(&Packet::Publish(publish)).await;
    }
}

const fn id(number: u16) -> PacketId {
    match PacketId::new(number) {
        Some(id) => id,
        None => PacketId::MIN,
    }
}

fn publish(payload: &str) -> Publish {
    Publish::new("news", payload.to_owned()).unwrap()
}

#[tokio::test] // MQTT-3.1.2-20, -21, MQTT-3.2.2-21; 3.1.1: MQTT-3.1.2-23
async fn a_silent_client_pings_within_the_keep_alive_that_the_server_wants() {
    let server = Scripted::start().await;
    for (version, own, asked) in
        [(Version::V3_1_1, 2, None), (Version::V5, 2, None), (Version::V5, 3600, Some(2))]
    {
        let mut options = server.options(version);
        options.keep_alive = Duration::from_secs(own);
        let client = Client::start(options).unwrap();
        let mut peer = server.accept().await;
        let asked = asked.map(Property::ServerKeepAlive);
        peer.accept(false, asked.as_slice()).await;
        for _ in 0..2 {
            let packet = peer.packet().await.expect("the connection has ended");
            assert_eq!(packet, Packet::PingReq.to_bytes(version).unwrap());
            peer.send(&Packet::PingResp).await;
        }
        drop(client);
    }
}

#[tokio::test] // MQTT-3.2.2-4
async fn a_client_without_a_session_closes_a_connection_that_has_one() {
    let server = Scripted::start().await;
    for version in VERSIONS {
        let mut wanted = server.options(version);
        wanted.reconnect = Reconnect::Off;
        let connecting = tokio::spawn(Client::connect(wanted));
        let mut peer = server.session(true, &[]).await;
        assert!(peer.clean_start);
        while let Some(packet) = peer.packet().await {
            let frame = Frame::of(&packet).unwrap();
            let packet = Packet::decode(&frame, version, Sender::Client).unwrap();
            assert!(matches!(packet, Packet::Disconnect(_)), "{packet:?}");
        }
        let error = within("the outcome", connecting).await.unwrap().unwrap_err();
        assert!(error.to_string().contains("session"), "{error}");
    }
}

#[tokio::test] // MQTT-3.2.2-11, MQTT-3.2.2-14
async fn a_client_sends_nothing_that_the_server_does_not_have() {
    let server = Scripted::start().await;
    for most in [Qos::AtMostOnce, Qos::AtLeastOnce] {
        let client = Client::start(server.options(Version::V5)).unwrap();
        // Two were queued before the client knew.
        let mut queued = Vec::new();
        for message in [publish("queued").qos(Qos::ExactlyOnce), publish("queued").at_least_once().retained()]
        {
            let client = client.clone();
            queued.push(tokio::spawn(async move { client.publish(&message).await }));
        }
        tokio::task::yield_now().await;
        let mut peer =
            server.session(false, &[Property::MaximumQos(most), Property::RetainAvailable(false)]).await;
        for queued in queued {
            let outcome = within("the outcome", queued).await.unwrap();
            assert!(matches!(outcome, Err(Error::NotAvailable { .. })), "{outcome:?}");
        }
        for message in [publish("x").qos(Qos::ExactlyOnce), publish("x").retained()] {
            let outcome = within("the outcome", client.publish(&message)).await;
            assert!(matches!(outcome, Err(Error::NotAvailable { .. })), "{outcome:?}");
        }
        client.publish(&publish("marker")).await.unwrap();
        assert_eq!(peer.publish().await, ("marker".to_owned(), Delivery::AtMostOnce));
        drop(client);
    }
}

#[tokio::test] // MQTT-3.3.2-10
async fn all_aliases_up_to_the_maximum_are_understood_and_none_above() {
    let server = Scripted::start().await;
    let mut wanted = server.options(Version::V5);
    wanted.topic_alias_maximum = 3;
    let client = Client::start(wanted).unwrap();
    let mut events = client.events();
    let subscribing = {
        let client = client.clone();
        tokio::spawn(async move { client.subscribe("#", Qos::AtMostOnce).await })
    };
    let mut peer = server.session(false, &[]).await;
    peer.grant(0).await;
    let mut stream = within("a subscription", subscribing).await.unwrap().unwrap();
    let topics = [("one", 1), ("two", 2), ("three", 3), ("four", 2)];
    for (topic, alias) in topics {
        peer.deliver(topic, Some(alias), b"", Delivery::AtMostOnce).await;
        peer.deliver("", Some(alias), b"", Delivery::AtMostOnce).await;
        for _ in 0..2 {
            assert_eq!(next(&mut stream).await.topic(), topic);
        }
    }
    peer.deliver("", Some(1), b"", Delivery::AtMostOnce).await;
    assert_eq!(next(&mut stream).await.topic(), "one");
    peer.deliver("five", Some(4), b"", Delivery::AtMostOnce).await;
    let reason = loop {
        let event = within("an event", events.next()).await.expect("no more events");
        if let Event::Disconnected { reason } = event {
            break reason;
        }
    };
    assert!(matches!(reason, DisconnectReason::Protocol(_)), "{reason:?}");
    // The next connection has no aliases yet.
    let mut peer = server.session(false, &[]).await;
    peer.grant(0).await;
    peer.deliver("", Some(1), b"", Delivery::AtMostOnce).await;
    while peer.packet().await.is_some() {}
}

#[tokio::test] // MQTT-3.14.4-1, -2
async fn after_disconnect_the_client_sends_nothing_and_closes() {
    let server = Scripted::start().await;
    for version in VERSIONS {
        let (client, mut peer) = server.connected(server.options(version), &[]).await;
        client.publish(&publish("last")).await.unwrap();
        let leaving = {
            let client = client.clone();
            tokio::spawn(async move { client.disconnect().await })
        };
        assert_eq!(peer.publish().await.0, "last");
        peer.next(|packet| assert!(matches!(packet, Packet::Disconnect(_)), "{packet:?}")).await;
        // What is sent to it now has no answer.
        let ping = Packet::Publish(jmqt_mqtt::Publish {
            delivery: Delivery::AtLeastOnce { id: id(1), dup: false },
            retain: false,
            topic: "news",
            properties: Properties::EMPTY,
            payload: b"late",
        });
        let _ = peer.stream.write_all(&ping.to_bytes(version).unwrap()).await;
        assert_eq!(peer.packet().await, None);
        within("the end", leaving).await.unwrap();
        assert!(client.publish(&publish("later")).await.is_err());
    }
}

#[tokio::test] // MQTT-3.3.4-7, MQTT-3.3.4-8
async fn only_publishes_wait_for_the_receive_maximum_of_the_server() {
    let server = Scripted::start().await;
    let options = server.options(Version::V5);
    let (client, mut peer) = server.connected(options, &[Property::ReceiveMaximum(1)]).await;
    let publishing: Vec<_> = ["1", "2"]
        .into_iter()
        .map(|payload| {
            let (client, message) = (client.clone(), publish(payload).at_least_once());
            tokio::spawn(async move { client.publish(&message).await })
        })
        .collect();
    let (first, delivery) = peer.publish().await;
    let subscribing = {
        let client = client.clone();
        tokio::spawn(async move { client.subscribe("news", Qos::AtLeastOnce).await })
    };
    // SUBSCRIBE passes.
    peer.grant(1).await;
    let _stream = within("a subscription", subscribing).await.unwrap().unwrap();
    peer.send(&Packet::PubAck(Ack::new(delivery.id().unwrap(), ReasonCode::SUCCESS))).await;
    let second = peer.publish().await;
    assert_ne!(second.0, first);
    peer.send(&Packet::PubAck(Ack::new(second.1.id().unwrap(), ReasonCode::SUCCESS))).await;
    for publishing in publishing {
        assert_eq!(within("the outcome", publishing).await.unwrap().unwrap(), ReasonCode::SUCCESS);
    }
}

#[tokio::test] // MQTT-3.2.2-5
async fn without_a_session_at_the_server_the_client_discards_its_own() {
    let server = Scripted::start().await;
    let mut wanted = server.options(Version::V5);
    (wanted.clean_start, wanted.session_expiry) = (false, Duration::from_secs(100));
    let (client, mut peer) = server.connected(wanted, &[]).await;
    let subscribing = {
        let client = client.clone();
        tokio::spawn(async move { client.subscribe("in", Qos::ExactlyOnce).await })
    };
    peer.grant(2).await;
    let mut stream = within("a subscription", subscribing).await.unwrap().unwrap();
    // One message of each kind has no end: QoS 1, QoS 2 before and after PUBREC, and QoS 2 in the other direction.
    let mut receipts = Vec::new();
    for (payload, qos) in [("1", Qos::AtLeastOnce), ("2", Qos::ExactlyOnce), ("released", Qos::ExactlyOnce)] {
        receipts.push(client.queue(&publish(payload).qos(qos)).await.unwrap());
        let (sent, delivery) = peer.publish().await;
        assert_eq!(sent, payload);
        if payload == "released" {
            peer.send(&Packet::PubRec(Ack::new(delivery.id().unwrap(), ReasonCode::SUCCESS))).await;
            peer.next(|packet| assert!(matches!(packet, Packet::PubRel(_)), "{packet:?}")).await;
        }
    }
    let from_server = Delivery::ExactlyOnce { id: id(7), dup: false };
    peer.deliver("in", None, b"before", from_server).await;
    client.acknowledge(&next(&mut stream).await);
    peer.next(|packet| assert!(matches!(&packet, Packet::PubRec(ack) if ack.id == id(7)), "{packet:?}"))
        .await;
    let mut events = client.events();
    drop(peer);
    within("the end", async { while !matches!(events.next().await, Some(Event::Disconnected { .. })) {} })
        .await;
    let offline = client.queue(&publish("offline").qos(Qos::ExactlyOnce)).await.unwrap();

    let mut peer = server.session(false, &[]).await;
    assert!(!peer.clean_start);
    peer.grant(2).await;
    // Of the old messages QoS 1 alone comes, as a new one, and then what had not been sent.
    let (sent, delivery) = peer.publish().await;
    assert!(sent == "1" && matches!(delivery, Delivery::AtLeastOnce { dup: false, .. }), "{delivery:?}");
    peer.send(&Packet::PubAck(Ack::new(delivery.id().unwrap(), ReasonCode::SUCCESS))).await;
    let (sent, delivery) = peer.publish().await;
    assert!(
        sent == "offline" && matches!(delivery, Delivery::ExactlyOnce { dup: false, .. }),
        "{delivery:?}"
    );
    let mut outcomes = Vec::new();
    for receipt in receipts {
        outcomes.push(within("the outcome", receipt).await);
    }
    assert!(matches!(outcomes[..], [Ok(_), Err(Error::OutcomeUnknown), Err(Error::OutcomeUnknown)]));
    // The packet id of a message that was received is free.
    peer.send(&Packet::PubRel(Ack::new(id(7), ReasonCode::SUCCESS))).await;
    let unknown = ReasonCode::PACKET_IDENTIFIER_NOT_FOUND;
    peer.next(|packet| {
        assert!(matches!(&packet, Packet::PubComp(ack) if ack.reason == unknown), "{packet:?}")
    })
    .await;
    peer.deliver("in", None, b"after", from_server).await;
    assert_eq!(text(&mut stream).await, "after");
    drop((client, offline));
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn a_server_without_shared_subscriptions_is_named_with_advice() {
    use crate::support::command::run_bare;
    let server = Scripted::start().await;
    let url = format!("mqtt://{}", server.0.local_addr().unwrap());
    let without = [Property::SharedSubscriptionAvailable(false)];
    let subscribing = ["sub", "a", "--share", "g", "--url", &url];
    let ((code, _, error), _peer) = tokio::join!(run_bare(&subscribing), server.session(false, &without));
    assert_eq!(code, Some(4), "{error}");
    assert!(error.contains("the server has no shared subscriptions"), "{error}");
    let examining = ["doctor", "--url", &url];
    let served = async {
        let _first = server.session(false, &without).await;
        drop(server.accept().await); // What comes after the limits fails.
    };
    let ((code, printed, error), ()) = tokio::join!(run_bare(&examining), served);
    assert_eq!(code, Some(1), "{error}");
    assert!(printed.contains("jmqt sub --share` are refused: every subscriber gets"), "{printed}");
}
