//! Opening a session: `conn`, takeover, what comes in which order (protocol.md 2.2 to 2.4).

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod support;

use jmqt_server::{CloseReason, ConnVerdict, Persistence, Protocol, Publish, StatusCode};
use support::{Asked, Behaviour, Notice, TestServer, channel, client_id};

#[tokio::test] // protocol.md 2.2
async fn what_the_validator_did_through_its_handle_follows_the_conn_ack() {
    let server = TestServer::start().await;
    server.app.on_conn(|request| {
        request.server.force_sub(&channel("update"), Persistence::Persistent)?;
        request.server.force_pub(Publish::raw(channel("update"), "\"hello\"")?)?;
        request.server.force_sub(&channel("gone"), Persistence::Temporary)?;
        request.server.force_unsub(&channel("gone"))?;
        Ok(ConnVerdict::Accept { subscriptions: vec![(channel("made"), Persistence::Temporary)] })
    });
    let mut alice = server.open(Protocol::Socket).await;
    alice.conn_as("alice", "").await; // the connAck comes first
    alice.expect(r#"{"push":{"cn":"update","dt":"hello","cl":""}}"#).await;
    let subscriptions = server.handle().subscriptions(&client_id("alice")).await.unwrap();
    assert_eq!(
        subscriptions,
        [
            (channel("#alice"), Persistence::Temporary),
            (channel("made"), Persistence::Temporary),
            (channel("update"), Persistence::Persistent),
        ]
    );
}

#[tokio::test] // protocol.md 2.2
async fn what_was_recorded_is_dropped_on_a_refusal() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub("update").await;
    server.app.on_conn(|request| {
        request.server.force_sub(&channel("update"), Persistence::Persistent)?;
        request.server.force_pub(Publish::raw(channel("update"), "1")?)?;
        Ok(ConnVerdict::Refuse(StatusCode::INVALID_TOKEN))
    });
    let mut alice = server.open(Protocol::Socket).await;
    alice.send(r#"{"conn":{"at":"t","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":6}}"#).await;
    bob.expect_nothing_before_hb().await;
    assert_eq!(server.handle().subscriptions(&client_id("alice")).await.unwrap(), []);
    assert!(!server.handle().is_connected(&client_id("alice")));
}

#[tokio::test] // protocol.md 2.3
async fn pending_pushes_come_first_then_retained_messages_then_live_ones() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect("bob").await;
    for name in ["a", "b"] {
        bob.sub_persistent(name).await;
    }
    drop(bob);
    server.app.expect_close("bob", CloseReason::ClosedByClient).await;
    for number in 0..3 {
        alice.pub1("a", &format!("\"a{number}\"")).await;
        alice.pub1("b", &format!("\"b{number}\"")).await;
    }
    alice.send(r#"{"pub":{"cn":"a","dt":"kept","rt":1}}"#).await;
    let mut bob = server.websocket("bob").await; // no careful portions there
    let pushes = bob.next_pushes(7).await;
    let of = |name: &str| -> Vec<String> {
        let of: Vec<_> = pushes[..6].iter().filter(|push| push.channel() == name).collect();
        of.iter().map(|push| push.data().to_owned()).collect()
    };
    assert_eq!(of("a"), ["\"a0\"", "\"a1\"", "\"a2\""]);
    assert_eq!(of("b"), ["\"b0\"", "\"b1\"", "\"b2\""]);
    assert_eq!(pushes[6].text(), r#"{"push":{"cn":"a","dt":"kept","cl":"alice","rt":1}}"#);
}

#[tokio::test] // protocol.md 2.4
async fn a_newer_connection_wins_and_the_older_one_is_closed_first() {
    let server = TestServer::start().await;
    let mut old = server.connect("alice").await;
    let gate = server.app.hold(Asked::Close);
    let mut new = server.open(Protocol::WebSocket).await;
    new.send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#).await;
    old.closed().await;
    server.app.asked(Asked::Close).await;
    gate.open(); // only now may the connAck come
    new.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    server.app.expect_close("alice", CloseReason::Takeover).await;
    assert_eq!(server.handle().connections().len(), 1);
}

#[tokio::test] // protocol.md 2.4
async fn a_second_conn_is_fine_for_the_same_client_and_not_allowed_for_another() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    assert_eq!(server.app.times_asked(Asked::Conn).await, 1);
    alice.send(r#"{"conn":{"at":"whatever","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    alice.send(r#"{"conn":{"at":"token-bob","cl":"bob"}}"#).await;
    alice.expect(r#"{"connAck":{"st":7}}"#).await;
    assert_eq!(server.app.times_asked(Asked::Conn).await, 0, "nothing is asked again");
}

#[tokio::test] // protocol.md 2.2, 2.4
async fn of_a_hundred_claims_one_survives_and_each_session_is_closed_once() {
    let server = TestServer::start().await;
    let mut clients = Vec::new();
    for _ in 0..100 {
        let mut client = server.open(Protocol::Socket).await;
        client.send(r#"{"conn":{"at":"token-x","cl":"x"}}"#).await;
        clients.push(client);
    }
    let mut survivors = 0;
    for client in &mut clients {
        client.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await; // each had a session
    }
    for _ in 0..99 {
        server.app.expect_close("x", CloseReason::Takeover).await;
    }
    for mut client in clients {
        client.send_bytes_until_refused(b"{\"hb\":{}}\0").await;
        survivors += usize::from(client.packets_until_closed_or(r#"{"hbAck":{}}"#).await);
    }
    assert_eq!(survivors, 1);
    assert_eq!(server.app.more_notices().await, Vec::<Notice>::new());
    assert_eq!(server.handle().connections().len(), 1);
}

#[tokio::test] // §7.d: a refusal leaves the connection open for another try
async fn a_refused_client_may_try_again() {
    let server = TestServer::start().await;
    server.app.set(Asked::Conn, Behaviour::Refuse(StatusCode::INVALID_TOKEN));
    let mut alice = server.open(Protocol::Socket).await;
    alice.send(r#"{"conn":{"at":"t","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":6}}"#).await;
    server.app.reset(Asked::Conn);
    alice.conn_as("alice", "").await;
}
