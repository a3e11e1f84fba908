//! WebSocket, frame by frame (RFC 6455, protocol.md 2.5, 2.7, 2.16).

use crate::support;

use std::net::TcpStream;
use std::time::Duration;

use crate::support::{Incoming, TestServer, UPGRADE};
use jmqt_server::{CloseReason, Protocol};
use tungstenite::Message;

#[tokio::test] // by somebody else's client, so that both ends cannot be wrong in the same way
async fn a_websocket_library_can_connect() {
    let server = TestServer::start().await;
    let address = server.address(Protocol::WebSocket);
    let talk = move || {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(support::DEADLINE)).unwrap();
        let (mut socket, _) = tungstenite::client(format!("ws://{address}/"), stream).unwrap();
        socket.send(Message::text(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#)).unwrap();
        assert_eq!(socket.read().unwrap(), Message::text(r#"{"connAck":{"st":1,"ts":60}}"#));
        for length in [0, 125, 126, 65_535, 65_536, 300_000] {
            let data = format!(r#""{}""#, "x".repeat(length));
            let request = format!(r#"{{"pub":{{"cn":"$echo","id":"1","dt":{data}}}}}"#);
            socket.send(Message::text(request)).unwrap();
            let answer = format!(r#"{{"pubAck":{{"st":1,"id":"1","dt":{data}}}}}"#);
            assert!(socket.read().unwrap() == Message::text(answer), "{length}");
        }
        socket.send(Message::Ping(b"here?".as_slice().into())).unwrap();
        assert_eq!(socket.read().unwrap(), Message::Pong(b"here?".as_slice().into()));
        socket.close(None).unwrap();
        assert!(matches!(socket.read(), Ok(Message::Close(_))));
        let end = socket.read().unwrap_err();
        assert!(matches!(end, tungstenite::Error::ConnectionClosed), "{end}");
    };
    tokio::task::spawn_blocking(talk).await.unwrap();
    server.app.expect_close("alice", CloseReason::ClosedByClient).await;
}

#[tokio::test] // RFC 6455 §4: in any pieces, and with a message right behind it
async fn a_slow_upgrade_may_be_followed_by_a_message() {
    let server = TestServer::start().await;
    let mut alice = server.open_raw(Protocol::WebSocket).await;
    for byte in UPGRADE {
        alice.send_bytes(&[*byte]).await;
    }
    // An unmasked 0 as key makes the masked payload the payload.
    let mut rest = vec![0x81, 0x80 | 42, 0, 0, 0, 0];
    rest.extend_from_slice(br#"{"conn":{"at":"token-alice","cl":"alice"}}"#);
    assert_eq!(rest.len(), 6 + 42);
    alice.send_bytes(&rest).await;
    alice.send_bytes(&[0x88, 0x80, 0, 0, 0, 0]).await;
    let all = alice.bytes_until_closed().await;
    let text = String::from_utf8_lossy(&all);
    assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
    assert!(text.contains(r#"{"connAck":{"st":1,"ts":60}}"#), "{text}");
}

#[tokio::test] // RFC 6455 §4: all in one write
async fn a_message_may_arrive_in_the_same_write_as_the_upgrade() {
    let server = TestServer::start().await;
    let mut alice = server.open_raw(Protocol::WebSocket).await;
    let mut all = UPGRADE.to_vec();
    all.extend_from_slice(&[0x81, 0x80 | 42, 0, 0, 0, 0]);
    all.extend_from_slice(br#"{"conn":{"at":"token-alice","cl":"alice"}}"#);
    all.extend_from_slice(&[0x88, 0x80, 0, 0, 0, 0]);
    alice.send_bytes(&all).await;
    let all = alice.bytes_until_closed().await;
    assert!(String::from_utf8_lossy(&all).contains(r#"{"connAck":{"st":1,"ts":60}}"#));
}

#[tokio::test] // RFC 6455 §5.5.1
async fn a_close_is_answered_with_the_same_code_and_then_the_connection_ends() {
    let server = TestServer::start().await;
    for protocol in [Protocol::WebSocket, Protocol::SslWebSocket] {
        let mut alice = server.connect_over(protocol, "alice").await;
        alice.send_frame(true, 8, &1001u16.to_be_bytes()).await;
        alice.closed_with(1001).await;
        server.app.expect_close("alice", CloseReason::ClosedByClient).await;
        let mut alice = server.connect_over(protocol, "alice").await;
        alice.send_frame(true, 8, b"").await;
        assert_eq!(alice.incoming().await, Incoming::Close(None, String::new()));
        alice.closed().await;
        server.app.expect_close("alice", CloseReason::ClosedByClient).await;
    }
}

#[tokio::test] // RFC 6455 §5.1, §5.2, §5.5, §8.1
async fn invalid_frames_end_the_connection_with_a_reason() {
    let server = TestServer::start().await;
    let cases: [(&[u8], &str); 6] = [
        (&[0x81, 2, b'{', b'}'], "a frame is not masked"),
        (&[0x81, 0x81, 0, 0, 0, 0, 0xFF], "a text message that is not UTF-8"),
        (&[0x80, 0x81, 0, 0, 0, 0, b'x'], "a continuation frame without a message"),
        (&[0x83, 0x81, 0, 0, 0, 0, b'x'], "an unknown kind of frame"),
        (&[0xC1, 0x81, 0, 0, 0, 0, b'x'], "reserved bits are set, but no extension was negotiated"),
        (&[0x09, 0x81, 0, 0, 0, 0, b'x'], "a control frame is fragmented or too long"),
    ];
    for (bytes, why) in cases {
        let mut alice = server.websocket("alice").await;
        alice.send_bytes(bytes).await;
        let told = alice.told().await;
        assert_eq!((told.code, told.message.as_str()), (4501, why));
        server.app.expect_close("alice", CloseReason::ProtocolViolation).await;
    }
}

#[tokio::test] // §9.f, protocol.md 2.22: the client has asked for it
async fn the_answer_to_a_disconn_is_an_ordinary_close() {
    let server = TestServer::start().await;
    let mut alice = server.websocket("alice").await;
    alice.send(r#"{"disconn":{}}"#).await;
    alice.closed_with(1000).await;
}

#[tokio::test] // protocol.md 2.7: a NUL is part of no packet, and ends none here
async fn there_is_no_nul_at_the_end_of_a_message() {
    let server = TestServer::start().await;
    let mut alice = server.websocket("alice").await;
    alice.send("{\"hb\":{}}\0").await; // not JSON
    alice.send(r#"{"hb":{}} "#).await; // white space is
    alice.expect(r#"{"hbAck":{}}"#).await;
    assert_eq!(server.counters().bad_packets, 1);
}

#[tokio::test] // RFC 6455 §5.5.2: control frames are no packets, and empty messages bad ones
async fn pongs_and_empty_messages_are_harmless() {
    let server = TestServer::start().await;
    let mut alice = server.websocket("alice").await;
    for _ in 0..50 {
        alice.send_frame(true, 10, b"unasked").await;
    }
    alice.send("").await;
    alice.expect_nothing_before_hb().await;
    assert_eq!(server.counters().bad_packets, 1);
}

#[tokio::test] // protocol.md 2.15: pings are a sign of life
async fn pings_keep_a_session_alive() {
    let server = TestServer::configured(|config| config.timeout = Duration::from_millis(500)).await;
    let mut alice = server.websocket("alice").await;
    for _ in 0..12 {
        alice.send_frame(true, 9, b"").await;
        assert_eq!(alice.incoming().await, Incoming::Pong(Vec::new()));
        tokio::time::sleep(Duration::from_millis(100)).await; // 1.2 seconds in all
    }
    alice.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.24: as the pages of a hidden tab do, whose timers are held back
async fn a_client_that_answers_pings_and_sends_nothing_else_stays_connected() {
    let server = TestServer::configured(|config| config.timeout = Duration::from_secs(4)).await;
    for protocol in [Protocol::WebSocket, Protocol::SslWebSocket] {
        let mut alice = server.connect_over(protocol, "alice").await;
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_secs(7) {
            assert_eq!(alice.incoming_or_ping().await, Incoming::Ping(Vec::new()));
            alice.send_frame(true, 10, b"").await;
        }
        alice.expect_nothing_before_hb().await;
    }
}

#[tokio::test] // protocol.md 2.24
async fn a_client_that_does_not_answer_a_ping_is_closed() {
    let server = TestServer::configured(|config| config.timeout = Duration::from_millis(500)).await;
    let mut alice = server.websocket("alice").await;
    assert_eq!(alice.incoming_or_ping().await, Incoming::Ping(Vec::new()));
    assert_eq!(alice.told().await.code, 4002);
    server.app.expect_close("alice", CloseReason::IdleTimeout).await;
}
