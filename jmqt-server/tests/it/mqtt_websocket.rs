//! MQTT over WebSocket: binary frames, whose ends mean nothing for packets (MQTT 5.0, 6).

use std::time::Duration;

use jmqt_mqtt::{Ack, Delivery, Disconnect, Packet, PacketId, Properties, Qos, ReasonCode, Version};
use jmqt_server::{CloseReason, Protocol};
use test_support::frame;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::task::JoinHandle;

use crate::mqtt::{Device, Login};
use crate::support::{Client, Notice, TestServer, within};

const VERSIONS: [Version; 2] = [Version::V3_1_1, Version::V5];
const PROTOCOLS: [Protocol; 2] = [Protocol::MqttWebSocket, Protocol::SslMqttWebSocket];

/// The kinds of frames, with the bit of a final one.
const BINARY: u8 = 0x82;
const FRAGMENT: u8 = 0x02;
const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8A;

async fn start() -> TestServer {
    TestServer::configured(|config| {
        (config.mqtt_port, config.mqtt_websocket_port) = (Some(0), Some(0));
        config.ssl.as_mut().unwrap().mqtt_websocket_port = Some(0);
    })
    .await
}

fn upgrade(lines: &str) -> Vec<u8> {
    format!(
        "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{lines}\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

type Plain = Box<dyn crate::support::Stream>;

/// A WebSocket that shows its frames.
pub(crate) struct Socket {
    reading: ReadHalf<Plain>,
    writing: WriteHalf<Plain>,
}

impl Socket {
    pub(crate) async fn open(server: &TestServer, protocol: Protocol) -> Self {
        Self::open_with(server, protocol, "").await
    }

    /// The same, with more header lines.
    async fn open_with(server: &TestServer, protocol: Protocol, lines: &str) -> Self {
        let (reading, writing) = split(server.encrypt(protocol, server.open_tcp(protocol).await).await);
        let mut socket = Self { reading, writing };
        socket.send(&upgrade(&format!("Sec-WebSocket-Protocol: mqtt\r\n{lines}"))).await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(within("the upgrade", socket.reading.read_u8()).await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        assert!(head.contains("\r\nSec-WebSocket-Protocol: mqtt\r\n"), "{head}");
        socket
    }

    async fn send(&mut self, bytes: &[u8]) {
        within("sending", self.writing.write_all(bytes)).await.unwrap();
        within("sending", self.writing.flush()).await.unwrap();
    }

    /// The next frame of the server but pings: its first byte and its payload. `None`: the connection has ended.
    async fn frame(&mut self) -> Option<(u8, Vec<u8>)> {
        loop {
            let frame = within("a frame", read_frame(&mut self.reading)).await?;
            if frame.0 != PING {
                return Some(frame);
            }
        }
    }

    /// The server closes the WebSocket with this code, and the connection ends.
    async fn closed_with(&mut self, code: u16) -> String {
        let Some((CLOSE, payload)) = self.frame().await else { panic!("no close frame") };
        assert_eq!(payload[..2], code.to_be_bytes(), "{}", payload[2..].escape_ascii());
        assert_eq!(self.frame().await, None);
        String::from_utf8(payload[2..].to_vec()).unwrap()
    }

    /// A client whose packets go through this WebSocket, in messages of this many bytes and of two fragments each.
    pub(crate) fn device(self, version: Version, cut: usize) -> (Device<DuplexStream>, Pump) {
        let (near, far) = duplex(1 << 20);
        let (mut from_device, mut to_device) = split(far);
        let Self { mut reading, mut writing } = self;
        let sending = tokio::spawn(async move {
            let mut chunk = vec![0; 1 << 20];
            loop {
                let length = from_device.read(&mut chunk).await.unwrap_or(0);
                if length == 0 {
                    return writing;
                }
                let mut frames = Vec::new();
                for piece in chunk[..length].chunks(cut) {
                    let (head, tail) = piece.split_at(piece.len() / 2);
                    frames.extend(frame(FRAGMENT, head));
                    frames.extend(frame(0x80, tail));
                }
                if writing.write_all(&frames).await.is_err() || writing.flush().await.is_err() {
                    return writing;
                }
            }
        });
        let receiving = tokio::spawn(async move {
            let code = loop {
                match read_frame(&mut reading).await {
                    // The client may have been dropped.
                    Some((BINARY, payload)) => drop(to_device.write_all(&payload).await),
                    Some((PING, _)) => {}
                    Some((CLOSE, payload)) => {
                        break payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                    }
                    Some(other) => panic!("{other:?}"),
                    None => break None,
                }
            };
            drop(to_device.shutdown().await);
            code
        });
        (Device::over(near, version), Pump { sending, receiving })
    }
}

/// Passes bytes between a client and its WebSocket.
pub(crate) struct Pump {
    sending: JoinHandle<WriteHalf<Plain>>,
    receiving: JoinHandle<Option<u16>>,
}

impl Pump {
    /// The code of the close frame.
    async fn closed(self) -> Option<u16> {
        let code = within("the end of the connection", self.receiving).await.unwrap();
        self.sending.abort();
        code
    }
}

async fn read_frame(reading: &mut ReadHalf<Plain>) -> Option<(u8, Vec<u8>)> {
    let first = reading.read_u8().await.ok()?;
    let length = match reading.read_u8().await.ok()? {
        126 => reading.read_u16().await.ok()?.into(),
        127 => usize::try_from(reading.read_u64().await.ok()?).unwrap(),
        short => usize::from(short),
    };
    let mut payload = vec![0; length];
    reading.read_exact(&mut payload).await.ok()?;
    Some((first, payload))
}

/// A connected client over a WebSocket.
async fn device(
    server: &TestServer,
    protocol: Protocol,
    version: Version,
    name: &str,
) -> (Device<DuplexStream>, Pump) {
    let (mut device, pump) = Socket::open(server, protocol).await.device(version, 50);
    assert_eq!(device.connect(Login::of(name)).await.0, ReasonCode::SUCCESS);
    (device, pump)
}

fn connect(version: Version, name: &str) -> Vec<u8> {
    let connect = jmqt_mqtt::Connect {
        version,
        clean_start: true,
        keep_alive: 0,
        client_id: name,
        will: None,
        user_name: Some(name),
        password: None,
        properties: Properties::EMPTY,
    };
    Packet::Connect(connect).to_bytes(version).unwrap()
}

const PINGREQ: [u8; 2] = [0xC0, 0];
const PINGRESP: [u8; 2] = [0xD0, 0];

#[tokio::test]
async fn a_page_a_device_and_a_jmqt_client_share_a_channel_in_every_qos() {
    let server = start().await;
    for (protocol, version) in PROTOCOLS.into_iter().flat_map(|it| VERSIONS.map(|version| (it, version))) {
        let mut browser = server.connect("alice").await;
        browser.sub("room").await;
        let mut sensor = Device::new(&server, version, Login::of("sensor")).await;
        assert_eq!(sensor.subscribe("room", Qos::AtMostOnce).await, ReasonCode::SUCCESS);
        let (mut page, pump) = device(&server, protocol, version, "page").await;
        assert_eq!(page.subscribe("room", Qos::AtLeastOnce).await, ReasonCode::GRANTED_QOS_1);

        sensor.publish("room", b"21.5", Delivery::AtMostOnce, false).await;
        let (topic, payload, delivery, _) = page.message().await;
        assert_eq!((&*topic, &*payload, delivery), ("room", &b"21.5"[..], Delivery::AtMostOnce));
        browser.expect_push(r#"{"push":{"cn":"room","dt":21.5,"cl":"sensor"}}"#).await;
        assert_eq!(sensor.message().await.1, b"21.5");

        let long = "x".repeat(70_000);
        browser.pub1("room", &format!("\"{long}\"")).await;
        let (_, payload, delivery, _) = page.message().await;
        assert_eq!((payload.as_slice(), delivery.qos()), (long.as_bytes(), Qos::AtLeastOnce));
        page.acknowledge(delivery).await;
        assert_eq!(sensor.message().await.1, long.as_bytes());

        assert_eq!(page.publish_acknowledged("other", b"1", false).await, ReasonCode::SUCCESS);
        let id = PacketId::new(5).unwrap();
        page.publish("room", b"on", Delivery::ExactlyOnce { id, dup: false }, false).await;
        // Before 5.0 and without a restriction in it, a client receives its own messages.
        let (mut own, mut recorded) = (None, false);
        while own.is_none() || !recorded {
            page.next(|packet| match packet {
                Packet::Publish(publish) => own = Some(publish.delivery),
                Packet::PubRec(ack) => recorded = ack.id == id,
                other => panic!("{other:?}"),
            })
            .await;
        }
        page.acknowledge(own.unwrap()).await;
        let done = Ack::new(id, ReasonCode::SUCCESS);
        page.send(&Packet::PubRel(done)).await;
        page.next(|packet| assert_eq!(packet, Packet::PubComp(done))).await;
        assert_eq!(sensor.message().await.1, b"on");
        page.send(&Packet::Disconnect(Disconnect {
            reason: ReasonCode::SUCCESS,
            properties: Properties::EMPTY,
        }))
        .await;
        assert_eq!(pump.closed().await, Some(1000));
    }
}

#[tokio::test] // 3.1.2.11.4: the header of a frame is not part of the packet
async fn a_packet_of_the_largest_size_arrives_and_one_byte_more_does_not() {
    let server = start().await;
    let mut publisher = Device::new(&server, Version::V5, Login::of("publisher")).await;
    for largest in [60_u32, 125, 126, 300, 70_000] {
        let (mut page, _pump) =
            Socket::open(&server, Protocol::MqttWebSocket).await.device(Version::V5, 1 << 20);
        let login = Login { largest_packet: Some(largest), ..Login::of("page") };
        assert_eq!(page.connect(login).await.0, ReasonCode::SUCCESS);
        for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
            page.subscribe("room", qos).await;
            let mut payload = vec![b'x'; largest as usize + 1];
            let fitting = loop {
                payload.pop();
                let publish = jmqt_mqtt::Publish {
                    delivery: match qos {
                        Qos::AtMostOnce => Delivery::AtMostOnce,
                        _ => Delivery::AtLeastOnce { id: PacketId::MIN, dup: false },
                    },
                    retain: false,
                    topic: "room",
                    properties: Properties::EMPTY,
                    payload: &payload,
                };
                if Packet::Publish(publish).to_bytes(Version::V5).unwrap().len() <= largest as usize {
                    break payload.len();
                }
            };
            for length in [fitting + 1, fitting, 1] {
                let delivery = match qos {
                    Qos::AtMostOnce => Delivery::AtMostOnce,
                    _ => Delivery::AtLeastOnce { id: PacketId::new(9).unwrap(), dup: false },
                };
                publisher.publish("room", &vec![b'x'; length], delivery, false).await;
            }
            for expected in [fitting, 1] {
                let (_, payload, delivery, _) = page.message().await;
                assert_eq!(payload.len(), expected, "{largest} {qos:?}");
                if qos == Qos::AtLeastOnce {
                    page.acknowledge(delivery).await;
                }
            }
        }
    }
}

#[tokio::test] // [MQTT-6.0.0-2]
async fn packets_may_span_messages_and_share_them() {
    let server = start().await;
    let mut browser = server.connect("alice").await;
    browser.sub("room").await;
    for cut in [1, 2, 7, 1 << 20] {
        let (mut page, _pump) = Socket::open(&server, Protocol::MqttWebSocket).await.device(Version::V5, cut);
        assert_eq!(page.connect(Login::of("page")).await.0, ReasonCode::SUCCESS);
        let mut packets = Vec::new();
        for number in 0..50 {
            let payload = number.to_string();
            let publish = jmqt_mqtt::Publish {
                delivery: Delivery::AtMostOnce,
                retain: false,
                topic: "room",
                properties: Properties::EMPTY,
                payload: payload.as_bytes(),
            };
            packets.extend(Packet::Publish(publish).to_bytes(Version::V5).unwrap());
        }
        page.stream.write_all(&packets).await.unwrap();
        for number in 0..50 {
            let text = format!(r#"{{"push":{{"cn":"room","dt":{number},"cl":"page"}}}}"#);
            browser.expect_push(&text).await;
        }
    }
}

#[tokio::test]
async fn an_endless_frame_carries_packets_and_pings_are_answered_between_frames() {
    let server = start().await;
    for protocol in PROTOCOLS {
        let mut page = Socket::open(&server, protocol).await;
        page.send(&frame(BINARY, &connect(Version::V3_1_1, "page"))).await;
        assert_eq!(page.frame().await, Some((BINARY, vec![0x20, 2, 0, 0])));
        page.send(&frame(PING, b"here?")).await;
        assert_eq!(page.frame().await, Some((PONG, b"here?".to_vec())));
        // The header of a frame of a gigabyte, whose mask does not change the bytes.
        page.send(&[0x82, 0xFF, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0]).await;
        for _ in 0..3 {
            page.send(&PINGREQ).await;
            assert_eq!(page.frame().await, Some((BINARY, PINGRESP.to_vec())));
        }
    }
}

#[tokio::test] // [MQTT-6.0.0-1]
async fn a_text_message_ends_the_connection_with_1003() {
    let server = start().await;
    for bytes in [&connect(Version::V3_1_1, "page")[..], b"{}"] {
        let mut page = Socket::open(&server, Protocol::MqttWebSocket).await;
        page.send(&frame(TEXT, bytes)).await;
        assert!(page.closed_with(1003).await.contains("binary"));
    }
    let (page, pump) = device(&server, Protocol::SslMqttWebSocket, Version::V5, "page").await;
    let mut writing = {
        drop(page);
        within("the end of the client", pump.sending).await.unwrap()
    };
    writing.write_all(&frame(TEXT, &PINGREQ)).await.unwrap();
    writing.flush().await.unwrap();
    assert_eq!(within("a close frame", pump.receiving).await.unwrap(), Some(1003));
    server.app.expect_close("page", CloseReason::ProtocolViolation).await;
}

#[tokio::test] // [MQTT-6.0.0-3], [MQTT-6.0.0-4]
async fn an_upgrade_without_the_subprotocol_is_refused_with_the_reason() {
    let server = start().await;
    for lines in ["", "Sec-WebSocket-Protocol: jmqt\r\n"] {
        let mut page = Client::new(Protocol::Socket, server.open_tcp(Protocol::MqttWebSocket).await);
        page.send_bytes(&upgrade(lines)).await;
        let answer = String::from_utf8(page.bytes_until_closed().await).unwrap();
        assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
        assert!(answer.contains("must offer the subprotocol `mqtt`"), "{answer}");
    }
    let mut check = server.open_raw(Protocol::MqttWebSocket).await;
    check.send_bytes(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(check.bytes_until_closed().await.ends_with(b"\r\n\r\nok\n"));
}

#[tokio::test] // 3.1.2.11.4: the size of the packet counts, not that of the message
async fn a_packet_that_is_too_large_ends_the_connection_with_1009() {
    let server = TestServer::configured(|config| {
        config.mqtt_websocket_port = Some(0);
        (config.max_packet_bytes, config.max_preconn_packet_bytes) = (4096, 1024);
        config.outbound_queue_bytes = 1 << 20;
    })
    .await;
    let mut stranger = Socket::open(&server, Protocol::MqttWebSocket).await;
    stranger.send(&frame(FRAGMENT, &[0x10, 0xFD, 7])).await; // 1,024 bytes with its header are allowed
    stranger.send(&frame(PING, b"")).await;
    assert_eq!(stranger.frame().await, Some((PONG, Vec::new())));
    let mut stranger = Socket::open(&server, Protocol::MqttWebSocket).await;
    stranger.send(&frame(FRAGMENT, &[0x10, 0xFE])).await;
    stranger.send(&frame(0, &[7])).await;
    stranger.closed_with(1009).await;

    let (mut page, pump) = device(&server, Protocol::MqttWebSocket, Version::V5, "page").await;
    page.publish("room", &[b'x'; 4000], Delivery::AtMostOnce, false).await;
    page.expect_nothing().await;
    page.publish("room", &[b'x'; 4096], Delivery::AtMostOnce, false).await;
    assert_eq!(page.ended().await, Some(ReasonCode::PACKET_TOO_LARGE));
    assert_eq!(pump.closed().await, Some(1009));
    server.app.expect_close("page", CloseReason::PacketTooLarge).await;
}

#[tokio::test] // RFC 6455 §7.4: after the DISCONNECT of MQTT 5
async fn the_close_frame_has_a_registered_code() {
    let mut server = start().await;
    let (mut page, pump) = device(&server, Protocol::MqttWebSocket, Version::V5, "page").await;
    page.stream.write_all(&[0, 0]).await.unwrap();
    assert_eq!(page.ended().await, Some(ReasonCode::MALFORMED_PACKET));
    assert_eq!(pump.closed().await, Some(1002));

    let (mut old, of_old) = device(&server, Protocol::MqttWebSocket, Version::V5, "page").await;
    let (mut page, pump) = device(&server, Protocol::SslMqttWebSocket, Version::V3_1_1, "page").await;
    assert_eq!(old.ended().await, Some(ReasonCode::SESSION_TAKEN_OVER));
    assert_eq!(of_old.closed().await, Some(1008));

    server.shutdown().await;
    assert_eq!(page.ended().await, None, "MQTT 3.1.1 has no DISCONNECT of servers");
    assert_eq!(pump.closed().await, Some(1001));
}

#[tokio::test] // RFC 6455 §5.5.1; 3.1.2.5: without a DISCONNECT the will is published
async fn a_close_frame_is_answered_and_is_no_disconnect() {
    let server = start().await;
    let mut page = Socket::open(&server, Protocol::MqttWebSocket).await;
    page.send(&frame(BINARY, &connect(Version::V3_1_1, "page"))).await;
    assert_eq!(page.frame().await, Some((BINARY, vec![0x20, 2, 0, 0])));
    page.send(&frame(CLOSE, &1001u16.to_be_bytes())).await;
    page.closed_with(1001).await;
    assert_eq!(server.app.notice().await, Notice::Close("page".to_owned(), CloseReason::ClosedByClient));
}

#[tokio::test] // docs/configuration.md, "Behind a load balancer"
async fn a_proxy_names_the_client_in_an_http_header() {
    let server = TestServer::configured(|config| {
        config.mqtt_websocket_port = Some(0);
        config.trusted_proxies = vec!["127.0.0.0/8".parse().unwrap()];
    })
    .await;
    let lines = "X-Forwarded-For: 192.0.2.7\r\n";
    let mut page = Socket::open_with(&server, Protocol::MqttWebSocket, lines).await;
    page.send(&frame(BINARY, &connect(Version::V3_1_1, "page"))).await;
    assert_eq!(page.frame().await, Some((BINARY, vec![0x20, 2, 0, 0])));
    let connections = server.handle().connections();
    let [(client, info)] = &connections[..] else { panic!("{connections:?}") };
    assert_eq!((client.as_str(), info.remote.ip()), ("page", [192, 0, 2, 7].into()));
    assert_eq!(info.protocol, Protocol::MqttWebSocket);
}

#[tokio::test] // protocol.md 2.15: an incomplete packet has a time limit, a pause within a frame has none
async fn a_packet_that_does_not_end_is_given_up_and_a_frame_may_pause() {
    let server = TestServer::configured(|config| {
        config.mqtt_websocket_port = Some(0);
        config.timeout = Duration::from_secs(1);
    })
    .await;
    let mut page = Socket::open(&server, Protocol::MqttWebSocket).await;
    page.send(&frame(BINARY, &connect(Version::V3_1_1, "page"))).await;
    assert_eq!(page.frame().await, Some((BINARY, vec![0x20, 2, 0, 0])));
    page.send(&[0x82, 0xFF, 0, 0, 0, 0, 0x40, 0, 0, 0, 0, 0, 0, 0]).await;
    page.send(&PINGREQ).await;
    assert_eq!(page.frame().await, Some((BINARY, PINGRESP.to_vec())));
    tokio::time::sleep(Duration::from_millis(2500)).await; // longer than the limit
    page.send(&PINGREQ).await;
    assert_eq!(page.frame().await, Some((BINARY, PINGRESP.to_vec())));
    page.send(&PINGREQ[..1]).await; // its limit is four times as long
    page.closed_with(1008).await;
    server.app.expect_close("page", CloseReason::IdleTimeout).await;
}
