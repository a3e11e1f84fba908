//! Every way a session can end, each told once and with its reason (§9.f, protocol.md 2.16).
//!
//! Elsewhere: timeouts (`idle.rs`), slow consumers and full queues (`limits.rs`), takeover
//! (`takeover.rs`), the server's own end (`shutdown.rs`).

use crate::support;

use std::time::Duration;

use crate::support::{Asked, Client, Notice, TestServer, channel, client_id};
use jmqt_server::{CloseReason, Persistence, Protocol};

#[tokio::test] // protocol.md 2.16
async fn a_connection_that_breaks_is_lost() {
    let server = TestServer::start().await;
    let stream = server.open_tcp(Protocol::Socket).await;
    let mut alice = {
        // So that dropping it resets it.
        socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        Client::new(Protocol::Socket, stream)
    };
    alice.conn_as("alice", "").await;
    drop(alice);
    server.app.expect_close("alice", CloseReason::ConnectionLost).await;
    assert_eq!(server.app.more_notices().await, []);
}

#[tokio::test] // protocol.md 2.16: the client's fault
async fn a_protocol_violation_is_reported_with_the_violated_rule() {
    let server = TestServer::configured(|config| config.max_packet_bytes = 1000).await;
    let mut alice = server.connect("alice").await;
    alice.send_all(&["nonsense"; 16]).await;
    alice.closed().await;
    server.app.expect_close("alice", CloseReason::BadPackets).await;

    let mut alice = server.connect("alice").await;
    alice.send(&"x".repeat(1001)).await;
    alice.closed().await;
    server.app.expect_close("alice", CloseReason::PacketTooLarge).await;

    let mut alice = server.tls_websocket("alice").await;
    alice.send_frame(true, 2, b"binary").await;
    assert_eq!(alice.told().await.code, 4501);
    server.app.expect_close("alice", CloseReason::ProtocolViolation).await;
    assert_eq!(server.app.more_notices().await, []);
}

#[tokio::test] // protocol.md 2.16: garbage within TLS
async fn a_tls_error_ends_only_its_own_connection() {
    let server = TestServer::start().await;
    let stream = server.open_tcp(Protocol::SslSocket).await;
    let descriptor = stream.into_std().unwrap();
    let twin = descriptor.try_clone().unwrap();
    let stream = tokio::net::TcpStream::from_std(descriptor).unwrap();
    let name = tokio_rustls::rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let handshake = server.tls_connector().connect(name, stream);
    let stream = support::within("the handshake", handshake).await.unwrap();
    let mut alice = Client::new(Protocol::SslSocket, stream);
    alice.conn_as("alice", "").await;
    std::io::Write::write_all(&mut &twin, &[b'x'; 100]).unwrap();
    let Notice::Close(client, reason) = server.app.notice().await else { panic!("no close") };
    assert_eq!(client, "alice");
    assert!(matches!(reason, CloseReason::ProtocolViolation | CloseReason::ConnectionLost), "{reason:?}");
    server.tls("alice").await.expect_nothing_before_hb().await;
}

#[tokio::test] // §9.f, protocol.md 2.16: `disconn` and closing, both
async fn disconn_followed_by_a_close_ends_the_session_once() {
    let server = TestServer::start().await;
    for protocol in Protocol::JMQT {
        let mut alice = server.connect_over(protocol, "alice").await;
        alice.send_all(&[r#"{"disconn":{}}"#, r#"{"disconn":{}}"#]).await;
        drop(alice);
        assert_eq!(server.app.notice().await, Notice::Disconnect("alice".to_owned()));
        server.app.expect_close("alice", CloseReason::Disconnected).await;
    }
    assert_eq!(server.app.more_notices().await, []);
}

#[tokio::test] // protocol.md 2.16: nothing behind a `disconn` is carried out
async fn packets_after_a_disconn_are_ignored() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub("news").await;
    let before = r#"{"pub":{"cn":"news","dt":"before"}}"#;
    let behind = r#"{"pub":{"cn":"news","dt":"behind"}}"#;
    alice.send_all(&[before, r#"{"disconn":{}}"#, behind]).await;
    alice.closed().await;
    bob.expect(r#"{"push":{"cn":"news","dt":"before","cl":"alice"}}"#).await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.16: the disconnect notifier runs while the subscriptions still stand
async fn subscriptions_exist_while_the_disconnect_notifier_runs_and_not_after() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.sub("news").await;
    let gate = server.app.hold(Asked::Disconnect);
    alice.send(r#"{"disconn":{}}"#).await;
    server.app.asked(Asked::Disconnect).await;
    let id = client_id("alice");
    let lent = (channel("news"), Persistence::Temporary);
    assert!(server.handle().subscriptions(&id).await.unwrap().contains(&lent));
    gate.open();
    server.app.asked(Asked::Close).await;
    assert_eq!(server.handle().subscriptions(&id).await.unwrap(), []);
    assert!(!server.handle().is_connected(&id));
}

#[tokio::test] // protocol.md 2.16: after `disconn` the server waits for outstanding pubAcks
async fn disconn_waits_for_all_outstanding_acks() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.websocket("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    let mut texts: Vec<_> =
        (0..100).map(|n| format!(r#"{{"pub":{{"cn":"news","dt":{n},"q":1,"id":"{n}"}}}}"#)).collect();
    texts.push(r#"{"disconn":{}}"#.to_owned());
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    alice.send_all(&texts).await;
    let acks = alice.packets_until_closed().await;
    let expected: Vec<_> = (0..100).map(|n| format!(r#"{{"pubAck":{{"st":1,"id":"{n}"}}}}"#)).collect();
    assert_eq!(acks, expected);
}

#[tokio::test] // protocol.md 2.16: closed by the application, from within a request of that client
async fn an_application_may_disconnect_the_requesting_client() {
    let server = TestServer::start().await;
    server.app.on_control(|request| async move {
        assert!(request.server.disconnect(&request.client));
        std::future::pending().await // it will not be waited for
    });
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"pub":{"cn":"$leave","id":"1"}}"#).await;
    alice.closed().await;
    server.app.expect_close("alice", CloseReason::ByApplication).await;
    assert_eq!(server.app.more_notices().await, []);
}

#[tokio::test] // protocol.md 2.16: counted, too
async fn sessions_that_ended_are_counted() {
    let mut server = TestServer::start().await;
    let handle = server.handle();
    let alice = server.connect("alice").await;
    let _bob = server.connect("bob").await;
    let _nobody = server.open(Protocol::WebSocket).await;
    drop(alice);
    server.app.expect_close("alice", CloseReason::ClosedByClient).await;
    server.shutdown().await;
    let counted = handle.counters();
    assert_eq!((counted.sessions_opened, counted.sessions_closed), (2, 2));
    assert_eq!((counted.connections_accepted, counted.connections_closed), (3, 3));
}
