//! Clients with a wrong port are answered at once, and the log says where they belong (docs/mqtt.md, Ports).

use jmqt_server::Protocol;

use crate::log::logged;
use crate::support::{Client, TestServer};

/// CONNECT of MQTT 3.1.1 and of MQTT 5.
const CONNECT: [&[u8]; 2] =
    [b"\x10\x0e\0\x04MQTT\x04\x02\0\x3c\0\x02me", b"\x10\x0f\0\x04MQTT\x05\x02\0\x3c\0\0\x02me"];
const AUTH: &[u8] = b"{\"auth\":{}}\0";
const TLS: &[u8] = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";
const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";

async fn start() -> TestServer {
    TestServer::configured(|config| {
        (config.mqtt_port, config.mqtt_websocket_port) = (Some(0), Some(0));
        let ssl = config.ssl.as_mut().unwrap();
        (ssl.mqtt_port, ssl.mqtt_websocket_port) = (Some(0), Some(0));
    })
    .await
}

/// What a port answers to these bytes until it ends the connection. The bytes are the first ones, or the first ones in TLS.
async fn answer_to(server: &TestServer, port: Protocol, in_tls: bool, bytes: &[u8]) -> Vec<u8> {
    let stream = server.open_tcp(port).await;
    let mut client = match in_tls {
        true => Client::new(Protocol::Socket, server.encrypt(port, stream).await),
        false => Client::new(Protocol::Socket, Box::new(stream)),
    };
    client.send_bytes(bytes).await;
    client.bytes_until_closed().await
}

fn is_disconn(answer: &[u8], text: &str) -> bool {
    let answer = String::from_utf8_lossy(answer);
    answer.starts_with(r#"{"disconn":{"st":4501,"#) && answer.ends_with('\0') && answer.contains(text)
}

fn is_connack(answer: &[u8], version: usize, text: &str) -> bool {
    match version {
        0 => answer == b"\x20\x02\0\x01",
        _ => {
            let reason = String::from_utf8_lossy(answer);
            let after_the_length = answer.iter().skip(1).skip_while(|byte| **byte >= 0x80).skip(1);
            answer.first() == Some(&0x20) && after_the_length.take(2).eq(&[0, 0x84]) && reason.contains(text)
        }
    }
}

fn is_http(answer: &[u8], text: &str) -> bool {
    let answer = String::from_utf8_lossy(answer);
    answer.starts_with("HTTP/1.1 400 ") && answer.contains(text)
}

#[tokio::test]
async fn mqtt_on_a_port_for_jmqt_gets_a_connack_at_once() {
    let server = start().await;
    for (version, connect) in CONNECT.into_iter().enumerate() {
        for port in [Protocol::Socket, Protocol::SslSocket, Protocol::WebSocket, Protocol::SslWebSocket] {
            let answer = answer_to(&server, port, port.is_tls(), connect).await;
            assert!(is_connack(&answer, version, "port is for"), "{port} {}", answer.escape_ascii());
        }
    }
    // Its packet may come in pieces.
    let mut slow = server.open_raw(Protocol::Socket).await;
    for byte in CONNECT[0] {
        slow.send_bytes(&[*byte]).await;
    }
    assert_eq!(slow.bytes_until_closed().await, b"\x20\x02\0\x01");
    assert_eq!((server.counters().wrong_ports, server.counters().bad_packets), (9, 0));
}

#[tokio::test]
async fn jmqt_on_a_port_for_mqtt_gets_a_disconn_at_once() {
    let server = start().await;
    for port in [Protocol::Mqtt, Protocol::SslMqtt] {
        let answer = answer_to(&server, port, port.is_tls(), AUTH).await;
        assert!(is_disconn(&answer, "this port is for MQTT"), "{port} {}", answer.escape_ascii());
    }
    for port in [Protocol::WebSocket, Protocol::MqttWebSocket, Protocol::SslMqttWebSocket] {
        let answer = answer_to(&server, port, port.is_tls(), AUTH).await;
        assert!(is_disconn(&answer, "this port is for WebSockets"), "{port} {}", answer.escape_ascii());
    }
    assert_eq!((server.counters().wrong_ports, server.counters().bad_packets), (5, 0));
}

#[tokio::test]
async fn http_on_a_port_for_tcp_gets_an_answer_with_the_right_port() {
    let server = start().await;
    for (port, right) in [
        (Protocol::Socket, Protocol::WebSocket),
        (Protocol::SslSocket, Protocol::WebSocket),
        (Protocol::Mqtt, Protocol::MqttWebSocket),
        (Protocol::SslMqtt, Protocol::MqttWebSocket),
    ] {
        let right = format!("port {} (ws)", server.address(right).port());
        let answer = answer_to(&server, port, port.is_tls(), GET).await;
        assert!(is_http(&answer, &right), "{port} {}", answer.escape_ascii());
    }
    assert_eq!(server.counters().wrong_ports, 4);
}

#[tokio::test]
async fn tls_on_a_port_without_it_ends_at_once() {
    let server = start().await;
    for port in [Protocol::Socket, Protocol::Mqtt] {
        assert_eq!(answer_to(&server, port, false, TLS).await, b"", "{port}");
    }
    for port in [Protocol::WebSocket, Protocol::MqttWebSocket] {
        let answer = answer_to(&server, port, false, TLS).await;
        assert!(is_http(&answer, "TLS was received"), "{port} {}", answer.escape_ascii());
    }
    assert_eq!(server.counters().wrong_ports, 4);
}

#[tokio::test]
async fn plain_bytes_on_a_port_for_tls_are_answered_at_once() {
    let server = start().await;
    let ports = [Protocol::SslSocket, Protocol::SslWebSocket, Protocol::SslMqtt, Protocol::SslMqttWebSocket];
    for port in ports {
        let answer = answer_to(&server, port, false, AUTH).await;
        assert!(is_disconn(&answer, "this port is for TLS"), "{port} {}", answer.escape_ascii());
        let answer = answer_to(&server, port, false, GET).await;
        assert!(is_http(&answer, "this port is for TLS"), "{port} {}", answer.escape_ascii());
        for (version, connect) in CONNECT.into_iter().enumerate() {
            let answer = answer_to(&server, port, false, connect).await;
            assert!(is_connack(&answer, version, "this port is for TLS"), "{port} {}", answer.escape_ascii());
        }
    }
    assert_eq!((server.counters().wrong_ports, server.counters().tls_handshakes_failed), (16, 16));
    server.tls("alice").await.expect_nothing_before_hb().await;
}

#[tokio::test]
async fn a_websocket_for_mqtt_on_a_port_for_jmqt_is_refused() {
    let server = start().await;
    let upgrade = |offer: &str| {
        format!(
            "GET /mqtt HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n{offer}\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let offer = upgrade("Sec-WebSocket-Protocol: mqtt, mqttv3.1\r\n");
    for port in [Protocol::WebSocket, Protocol::SslWebSocket] {
        let answer = answer_to(&server, port, port.is_tls(), offer.as_bytes()).await;
        assert!(is_http(&answer, "MQTT_WEBSOCKET_PORT"), "{port} {}", answer.escape_ascii());
    }
    assert_eq!(server.counters().wrong_ports, 2);
}

#[test]
fn the_log_names_the_address_and_the_right_port_once_for_each_kind() {
    let lines = logged(async {
        let server = start().await;
        for _ in 0..2 {
            answer_to(&server, Protocol::Socket, false, CONNECT[0]).await;
            answer_to(&server, Protocol::Mqtt, false, AUTH).await;
            answer_to(&server, Protocol::Mqtt, false, GET).await;
            answer_to(&server, Protocol::Mqtt, false, TLS).await;
            answer_to(&server, Protocol::Mqtt, false, b"PROXY TCP4 127.0.0.1 127.0.0.1 1 2\r\n").await;
        }
    });
    let about: Vec<_> = lines.iter().filter(|line| line.contains(" came to the port of ")).collect();
    for (line, parts) in about.iter().zip([
        ["MQTT over TCP came to the port of SOCKET_PORT", "MQTT_PORT", "MQTT_ON_JMQT_PORTS = true"],
        ["JMQT over TCP came to the port of MQTT_PORT", "the port of SOCKET_PORT", "remote"],
        ["an HTTP request came to the port of MQTT_PORT", "the port of MQTT_WEBSOCKET_PORT", "remote"],
        ["a TLS handshake came to the port of MQTT_PORT", "SSL_MQTT_PORT", "remote"],
        ["a PROXY protocol header came to the port of MQTT_PORT", "TRUSTED_PROXIES", "remote"],
    ]) {
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
        assert!(line.contains("remote=127.0.0.1:"), "{line}");
    }
    assert_eq!(about.len(), 5, "{about:#?}");
}
