//! Before `conn` only `auth` and `conn` are answered (protocol.md 2.1, 2.5).

use crate::support::{Asked, TestServer};
use jmqt_server::Protocol;

#[tokio::test] // protocol.md 2.1
async fn before_conn_everything_but_auth_and_conn_is_dropped_and_counted() {
    let server = TestServer::start().await;
    let mut alice = server.open(Protocol::Socket).await;
    for text in [
        r#"{"hb":{}}"#,
        r#"{"sub":{"cn":"news"}}"#,
        r#"{"unsub":{"cn":"news"}}"#,
        r#"{"pub":{"cn":"news","dt":1,"q":1,"id":"7"}}"#,
        r#"{"pub":{"cn":"$time","id":"8"}}"#,
        r#"{"pushAck":{"id":"7"}}"#,
        r#"{"disconn":{}}"#,
    ] {
        alice.send(text).await;
    }
    alice.send(r#"{"auth":{"dt":{"client_name":"alice"}}}"#).await;
    alice.expect(r#"{"authAck":{"st":1,"at":"token-alice","cl":"alice"}}"#).await;
    assert_eq!(server.counters().bad_packets, 7);
    for nobody in [Asked::Sub, Asked::Unsub, Asked::Pub, Asked::Control] {
        assert_eq!(server.app.times_asked(nobody).await, 0);
    }
    assert_eq!(server.app.more_notices().await, []);
}

#[tokio::test] // protocol.md 2.1, 2.5
async fn before_conn_bad_fields_are_answered_for_auth_and_conn_alone() {
    let server = TestServer::start().await;
    let mut alice = server.open(Protocol::Socket).await;
    alice.send(r#"{"sub":{"cn":7}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","id":"7"}}"#).await;
    alice.send(r#"{"auth":{}}"#).await;
    alice.expect(r#"{"authAck":{"st":10,"mg":"field `dt` is missing"}}"#).await;
    alice.send(r#"{"conn":{"at":7,"cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":10}}"#).await;
    alice.send(r#"{"conn":"please"}"#).await;
    alice.expect(r#"{"connAck":{"st":10}}"#).await;
    assert_eq!(server.counters().bad_packets, 5);
}

#[tokio::test] // protocol.md 2.1, 2.5: dropped packets count as bad ones
async fn sixteen_packets_before_conn_close_the_connection() {
    let server = TestServer::start().await;
    let mut alice = server.open(Protocol::Socket).await;
    for _ in 0..16 {
        alice.send(r#"{"hb":{}}"#).await;
    }
    alice.closed().await;
    assert_eq!(server.app.more_notices().await, []); // there was no session
}

#[tokio::test] // protocol.md 2.1, 2.5: only bad packets in a row count
async fn an_answered_auth_forgives_fifteen_bad_packets() {
    let server = TestServer::start().await;
    let mut alice = server.open(Protocol::Socket).await;
    for _ in 0..3 {
        for _ in 0..15 {
            alice.send(r#"{"hb":{}}"#).await;
        }
        alice.send(r#"{"auth":{"dt":{}}}"#).await;
        alice.expect(r#"{"authAck":{"st":7,"mg":"client_name is missing"}}"#).await;
    }
    alice.conn_as("alice", "").await;
}

#[tokio::test] // §10: the token may be pre-configured in the client
async fn conn_needs_no_auth_before_it() {
    let server = TestServer::start().await;
    let mut alice = server.open(Protocol::Socket).await;
    alice.send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
}

#[tokio::test] // §10, protocol.md 2.1
async fn a_refused_conn_leaves_the_gate_closed_and_the_connection_open() {
    let server = TestServer::start().await;
    let mut alice = server.open(Protocol::Socket).await;
    alice.send(r#"{"conn":{"at":"token-bob","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":6}}"#).await;
    alice.send(r#"{"hb":{}}"#).await; // not answered
    alice.send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    alice.expect_nothing_before_hb().await;
}

#[tokio::test] // §7.a, §7.b
async fn auth_is_answered_within_a_session_too() {
    let server = TestServer::start().await;
    let mut alice = server.websocket("alice").await;
    alice.send(r#"{"auth":{"dt":{"client_name":"bob"}}}"#).await;
    alice.expect(r#"{"authAck":{"st":1,"at":"token-bob","cl":"bob"}}"#).await;
    alice.send(r#"{"auth":{"dt":"who am I"}}"#).await;
    alice.expect(r#"{"authAck":{"st":7,"mg":"client_name is missing"}}"#).await;
    alice.expect_nothing_before_hb().await;
}
