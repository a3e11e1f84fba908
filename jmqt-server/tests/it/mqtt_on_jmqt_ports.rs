//! MQTT clients on the ports for JMQT (MQTT_ON_JMQT_PORTS).

use jmqt_mqtt::{Delivery, Qos, ReasonCode, Version};
use jmqt_server::Protocol;

use crate::mqtt::{Device, Login};
use crate::mqtt_websocket::Socket;
use crate::support::TestServer;

async fn start() -> TestServer {
    TestServer::configured(|config| config.mqtt_on_jmqt_ports = true).await
}

/// The protocol of this client's connection, as the application sees it.
fn protocol_of(server: &TestServer, client: &str) -> Protocol {
    let connections = server.handle().connections();
    connections.iter().find(|(id, _)| id.as_str() == client).unwrap().1.protocol
}

#[tokio::test]
async fn clients_of_both_languages_share_every_port() {
    let server = start().await;
    for (protocol, of_mqtt) in [
        (Protocol::Socket, Protocol::Mqtt),
        (Protocol::SslSocket, Protocol::SslMqtt),
        (Protocol::WebSocket, Protocol::MqttWebSocket),
        (Protocol::SslWebSocket, Protocol::SslMqttWebSocket),
    ] {
        for version in [Version::V3_1_1, Version::V5] {
            let mut alice = server.connect_over(protocol, "alice").await;
            alice.sub("room").await;
            assert_eq!(protocol_of(&server, "alice"), protocol);
            if protocol.is_websocket() {
                let socket = Socket::open(&server, protocol).await;
                let (mut device, _pump) = socket.device(version, 50);
                assert_eq!(device.connect(Login::of("lamp")).await.0, ReasonCode::SUCCESS);
                assert_eq!(device.publish_acknowledged("room", b"1", false).await, ReasonCode::SUCCESS);
                assert_eq!(protocol_of(&server, "lamp"), of_mqtt);
            } else {
                let stream = server.encrypt(protocol, server.open_tcp(protocol).await).await;
                let mut device = Device::over(stream, version);
                assert_eq!(device.connect(Login::of("lamp")).await.0, ReasonCode::SUCCESS);
                assert_eq!(device.subscribe("lamp", Qos::AtMostOnce).await, ReasonCode::SUCCESS);
                device.publish("room", b"1", Delivery::AtMostOnce, false).await;
                assert_eq!(protocol_of(&server, "lamp"), of_mqtt);
                alice.send(r#"{"pub":{"cn":"lamp","dt":"ON"}}"#).await;
                assert_eq!(device.message().await.1, b"ON");
            }
            let push = alice.next_push().await;
            assert_eq!((push.data(), push.client()), ("1", "lamp"));
        }
    }
    assert_eq!(server.counters().bad_packets, 0);
}

#[tokio::test]
async fn a_packet_may_arrive_byte_by_byte_and_a_large_one_has_its_limit() {
    let server = start().await;
    let mut slow = server.open_raw(Protocol::Socket).await;
    for byte in b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02me\xe0\x00" {
        slow.send_bytes(&[*byte]).await;
    }
    assert_eq!(slow.bytes_until_closed().await, b"\x20\x02\x00\x00");
    let mut large = server.open_raw(Protocol::Socket).await;
    large.send_bytes(b"\x10\xff\xff\x7f").await;
    assert_eq!(large.bytes_until_closed().await, b"");
}
