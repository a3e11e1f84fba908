//! The notifiers at the end of a session (§9.f, protocol.md 2.16), and the shutdown of the server.

use crate::support::{Asked, Behaviour, Notice, TestServer, client_id};
use jmqt_server::{CloseReason, Protocol, StatusCode};

#[tokio::test] // protocol.md 2.16
async fn disconn_calls_the_disconnect_notifier_then_the_close_notifier() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"disconn":{}}"#).await;
    alice.closed().await;
    assert_eq!(server.app.notice().await, Notice::Disconnect("alice".into()));
    server.app.expect_close("alice", CloseReason::Disconnected).await;
    assert_eq!(server.app.more_notices().await, []);
}

#[tokio::test] // protocol.md 2.16
async fn after_disconn_outstanding_acks_are_still_sent() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    let publish = r#"{"pub":{"cn":"news","dt":1,"q":1,"id":"1"}}"#;
    alice.send_all(&[publish, r#"{"disconn":{}}"#]).await;
    assert_eq!(alice.packets_until_closed().await, [r#"{"pubAck":{"st":1,"id":"1"}}"#]);
}

#[tokio::test] // protocol.md 2.16
async fn any_other_end_calls_only_the_close_notifier_with_the_reason() {
    let mut server = TestServer::start().await;
    for protocol in Protocol::JMQT {
        let alice = server.connect_over(protocol, "alice").await;
        drop(alice);
        let Notice::Close(client, reason) = server.app.notice().await else { panic!("no close") };
        assert_eq!(client, "alice");
        assert!(matches!(reason, CloseReason::ClosedByClient | CloseReason::ConnectionLost), "{reason:?}");
    }
    let mut alice = server.connect("alice").await;
    assert!(server.handle().disconnect(&client_id("alice")));
    alice.closed().await;
    server.app.expect_close("alice", CloseReason::ByApplication).await;
    assert!(!server.handle().disconnect(&client_id("alice")));

    let mut alice = server.connect("alice").await;
    server.shutdown().await;
    alice.closed().await;
    server.app.expect_close("alice", CloseReason::Shutdown).await;
    assert_eq!(server.app.more_notices().await, []);
}

#[tokio::test] // protocol.md 2.16: a connection without a session has nobody to tell
async fn a_connection_without_a_session_is_not_notified() {
    let mut server = TestServer::start().await;
    server.app.set(Asked::Conn, Behaviour::Refuse(StatusCode::INVALID_TOKEN));
    let mut alice = server.open(Protocol::Socket).await;
    alice.send(r#"{"conn":{"at":"t","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":6}}"#).await;
    drop(alice);
    server.shutdown().await;
    assert_eq!(server.app.more_notices().await, []);
}

#[tokio::test] // protocol.md 2.15
async fn a_silent_client_is_closed_and_one_that_sends_heartbeats_is_not() {
    let server =
        TestServer::configured(|config| config.timeout = std::time::Duration::from_millis(400)).await;
    let mut never_conn = server.open(Protocol::WebSocket).await;
    let _silent = server.connect("bob").await;
    let mut alice = server.connect("alice").await;
    for _ in 0..12 {
        alice.expect_nothing_before_hb().await;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    server.app.expect_close("bob", CloseReason::IdleTimeout).await;
    never_conn.closed().await;
    assert!(server.handle().is_connected(&client_id("alice")));
}

#[tokio::test] // a stopping server writes what is queued
async fn shutdown_flushes_the_queues() {
    let mut server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub("news").await;
    let data = format!("\"{}\"", "x".repeat(100_000));
    let publish = format!(r#"{{"pub":{{"cn":"news","dt":{data}}}}}"#);
    for _ in 0..40 {
        alice.send(&publish).await; // more than the socket takes while nobody reads
    }
    alice.expect_nothing_before_hb().await;
    let (packets, ()) = tokio::join!(bob.packets_until_closed(), server.shutdown());
    assert_eq!(packets.len(), 40);
}
