//! Before `conn` only `auth` and `conn` are answered (protocol.md 2.1, 2.5).

mod support;

use jmqt_server::Protocol;
use support::{Asked, TestServer};

#[tokio::test] // protocol.md 2.1
async fn before_conn_everything_but_auth_and_conn_is_dropped_and_counted() {
    let server = TestServer::start().await;
    let mut alice = server.open(Protocol::Socket).await;
    alice.send(r#"{"hb":{}}"#).await;
    alice.send(r#"{"sub":{"cn":"news"}}"#).await;
    alice.send(r#"{"unsub":{"cn":"news"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":1,"q":1,"id":"7"}}"#).await;
    alice.send(r#"{"pub":{"cn":"$time","id":"8"}}"#).await;
    alice.send(r#"{"pushAck":{"id":"7"}}"#).await;
    alice.send(r#"{"disconn":{}}"#).await;
    alice.send(r#"{"auth":{"dt":{"client_name":"alice"}}}"#).await;
    alice.expect(r#"{"authAck":{"st":1,"at":"token-alice","cl":"alice"}}"#).await;
    assert_eq!(server.counters().bad_packets, 7);
    assert_eq!(server.app.times_asked(Asked::Pub).await, 0);
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
}
