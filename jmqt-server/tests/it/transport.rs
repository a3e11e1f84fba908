//! Below the packets: WebSocket, TLS, full sockets, many sockets (protocol.md 2.5, 2.15, 2.18).

use crate::support;

use std::time::Duration;

use crate::support::{Incoming, TestServer, UPGRADE};
use jmqt_server::{CloseReason, Protocol};

#[tokio::test]
async fn binary_websocket_messages_are_refused() {
    let server = TestServer::start().await;
    let mut alice = server.websocket("alice").await;
    alice.send_frame(true, 2, br#"{"hb":{}}"#).await;
    assert_eq!(alice.told().await.code, 4501);
    server.app.expect_close("alice", CloseReason::ProtocolViolation).await;
}

#[tokio::test] // RFC 6455 §5.4, §5.5
async fn fragments_are_joined_and_pings_between_them_answered() {
    let server = TestServer::start().await;
    let mut alice = server.websocket("alice").await;
    alice.send_frame(false, 1, br#"{"h"#).await;
    alice.send_frame(true, 9, b"here?").await;
    assert_eq!(alice.incoming().await, Incoming::Pong(b"here?".to_vec()));
    alice.send_frame(true, 0, br#"b":{}}"#).await;
    alice.expect(r#"{"hbAck":{}}"#).await;
    alice.send_frame(true, 8, &1000u16.to_be_bytes()).await;
    alice.closed_with(1000).await;
}

#[tokio::test] // protocol.md 2.5
async fn an_oversized_websocket_message_is_refused() {
    let server = TestServer::start().await;
    let mut alice = server.open(Protocol::WebSocket).await;
    alice.send_bytes(&[0x81, 0xff, 0, 0, 0, 0, 0, 1, 0, 1, 1, 2, 3, 4]).await; // more than 16 KiB
    assert_eq!(alice.told().await.code, 4502);
}

/// What is answered to these bytes, on a connection that ends with the answer.
async fn answer_to(server: &TestServer, protocol: Protocol, request: &[u8]) -> String {
    let mut browser = server.open_raw(protocol).await;
    browser.send_bytes(request).await;
    String::from_utf8(browser.bytes_until_closed().await).unwrap()
}

#[tokio::test]
async fn an_http_request_on_the_websocket_port_is_told_to_upgrade() {
    let server = TestServer::start().await;
    let answer = answer_to(&server, Protocol::WebSocket, b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 426 "), "{answer}");
}

#[tokio::test]
async fn an_http_request_on_the_tcp_port_is_answered_at_once_with_the_websocket_port() {
    let server = TestServer::start().await;
    let answer = answer_to(&server, Protocol::Socket, UPGRADE).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
    let port = format!("port {} (ws)", server.address(Protocol::WebSocket).port());
    assert!(answer.contains(&port), "{answer}");
    // TLS on the plain port has no answer that its client would understand: it ends.
    assert_eq!(answer_to(&server, Protocol::Socket, &[0x16, 3, 1, 2, 0, 1]).await, "");
    assert_eq!(server.counters().bad_packets, 0);
}

#[tokio::test]
async fn a_health_check_on_the_websocket_port_is_answered_ok() {
    let server = TestServer::start().await;
    let answer = answer_to(&server, Protocol::WebSocket, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
    // HAProxy's `option httpchk` without more.
    let answer = answer_to(&server, Protocol::WebSocket, b"OPTIONS / HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
}

#[tokio::test] // a balancer sends clients elsewhere
async fn a_health_check_fails_when_the_database_was_deleted() {
    for name in ["jmqt.db", "jmqt.db-wal"] {
        let server = TestServer::start().await;
        let mut alice = server.connect("alice").await;
        alice.sub_persistent("news").await;
        assert!(server.handle().is_ready());
        std::fs::remove_file(server.folder().join(name)).unwrap();
        alice.send(r#"{"pub":{"cn":"news","dt":1,"q":1,"id":"1"}}"#).await;
        alice.expect(r#"{"pubAck":{"st":5,"id":"1"}}"#).await;
        let answer =
            answer_to(&server, Protocol::WebSocket, b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(
            answer.starts_with("HTTP/1.1 503 ") && answer.contains("the database was deleted"),
            "{answer}"
        );
        assert!(!server.handle().is_ready());
    }
}

#[tokio::test]
async fn garbage_instead_of_tls_does_not_affect_others() {
    let server = TestServer::configured(|config| config.timeout = Duration::from_secs(1)).await;
    let mut garbage = server.open_raw(Protocol::SslSocket).await;
    garbage.send_bytes(b"{\"auth\":{}}\0 this is no hello").await;
    garbage.bytes_until_closed().await;
    let mut half = server.open_raw(Protocol::SslWebSocket).await;
    half.send_bytes(&[0x16, 3, 1, 2, 0, 1]).await; // the beginning of a hello, and no more
    half.bytes_until_closed().await; // by the timeout
    let mut alice = server.tls("alice").await;
    alice.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.15: the first packet is waited for once, however slowly it comes
async fn a_slow_first_packet_is_closed_at_the_time_limit() {
    let server = TestServer::configured(|config| config.timeout = Duration::from_millis(300)).await;
    let mut slow = server.open(Protocol::Socket).await;
    let dribble = async {
        loop {
            slow.send_bytes_until_refused(b" ").await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    // The bytes are no sign of life: the server ends it while they keep coming.
    let ended = async {
        while server.counters().connections_closed == 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::select! {
        () = dribble => {}
        () = support::within("the end of the connection", ended) => {}
    }
    slow.bytes_until_closed().await;
}

#[tokio::test]
async fn connections_beyond_max_connections_are_refused() {
    let server = TestServer::configured(|config| config.max_connections = 2).await;
    let mut alice = server.connect("alice").await;
    let bob = server.connect("bob").await;
    let mut third = server.open_raw(Protocol::Socket).await;
    third.bytes_until_closed().await;
    assert_eq!(server.counters().connections_refused, 1);
    drop(bob);
    server.app.notice().await;
    alice.expect_nothing_before_hb().await;
}

#[tokio::test] // a subscriber that does not read: others are served, and it is closed
async fn a_slow_consumer_is_closed_and_delays_no_other_client() {
    let server = TestServer::configured(|config| {
        config.max_packet_bytes = 64 * 1024;
        config.outbound_queue_bytes = 128 * 1024;
        config.slow_consumer = Duration::from_millis(500);
    })
    .await;
    let mut alice = server.connect("alice").await;
    let (mut slow, mut bob) = (server.connect("slow").await, server.connect("bob").await);
    slow.sub("news").await;
    bob.sub("news").await;
    let data = format!("\"{}\"", "x".repeat(50_000));
    for number in 0..400 {
        alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":[{number},{data}]}}}}"#)).await;
        assert!(bob.next_push().await.data().starts_with(&format!("[{number},")));
    }
    server.app.expect_close("slow", CloseReason::SlowConsumer).await;
    assert!(server.counters().pushes_dropped > 0);
}

#[tokio::test] // protocol.md 2.14: a queue that is full leaves QoS 1 in the store
async fn qos_1_for_a_full_queue_is_read_from_the_store_in_order() {
    let server = TestServer::configured(|config| {
        config.max_packet_bytes = 64 * 1024;
        config.outbound_queue_bytes = 128 * 1024;
    })
    .await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect_with_window("bob", 1000).await;
    bob.sub_persistent("news").await;
    let data = format!("\"{}\"", "x".repeat(50_000));
    for number in 0..100 {
        alice.pub1("news", &format!("[{number},{data}]")).await;
    }
    server.settle().await;
    for number in 0..100 {
        let push = bob.next_push().await;
        assert!(push.data().starts_with(&format!("[{number},")));
        bob.ack(&push).await;
    }
}

#[tokio::test] // RFC 7301: browsers offer HTTP
async fn a_tls_client_may_offer_mqtt_or_other_protocols() {
    let server = TestServer::configured(|config| config.ssl.as_mut().unwrap().mqtt_port = Some(0)).await;
    for protocol in [Protocol::SslMqtt, Protocol::SslSocket] {
        for (offered, chosen) in
            [(&["x-other", "mqtt"][..], Some(&b"mqtt"[..])), (&["http/1.1"], None), (&[], None)]
        {
            let mut config = tokio_rustls::rustls::ClientConfig::clone(server.tls_connector().config());
            config.alpn_protocols = offered.iter().map(|name| name.as_bytes().to_vec()).collect();
            let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
            let name = tokio_rustls::rustls::pki_types::ServerName::try_from("localhost").unwrap();
            let stream = connector.connect(name, server.open_tcp(protocol).await).await.unwrap();
            assert_eq!(stream.get_ref().1.alpn_protocol(), chosen, "{protocol} {offered:?}");
        }
    }
}
