//! Two connections of one client (protocol.md 2.2, 2.4, 2.16).

use crate::support::{Asked, Incoming, TestServer, client_id, within};
use jmqt_server::{CloseReason, Protocol};

#[tokio::test] // protocol.md 2.2: the older session's close notifier has finished before the `connAck`
async fn a_conn_waits_for_the_close_notifier_of_the_older_session() {
    let server = TestServer::start().await;
    let mut old = server.connect("alice").await;
    let gate = server.app.hold(Asked::Close);
    let mut new = server.open(Protocol::Socket).await;
    new.send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#).await;
    old.closed().await;
    server.app.expect_close("alice", CloseReason::Takeover).await;
    server.settle().await;
    assert_eq!(server.counters().sessions_opened, 1);
    assert!(!server.handle().is_connected(&client_id("alice")));
    gate.open();
    new.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    assert_eq!(server.counters().sessions_opened, 2);
}

#[tokio::test] // protocol.md 2.4
async fn a_newer_connection_of_the_same_client_takes_over() {
    let server = TestServer::start().await;
    let mut old = server.connect("alice").await;
    let mut new = server.websocket("alice").await;
    old.closed().await;
    new.expect_nothing_before_hb().await;
    server.app.expect_close("alice", CloseReason::Takeover).await;
    assert_eq!(server.app.more_notices().await, []);
    assert_eq!(server.handle().connections().len(), 1);
}

#[tokio::test] // protocol.md 2.4: the wrong case beside the right one
async fn a_refused_conn_does_not_take_over() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut mallory = server.open(Protocol::Socket).await;
    mallory.send(r#"{"conn":{"at":"guess","cl":"alice"}}"#).await;
    mallory.expect(r#"{"connAck":{"st":6}}"#).await;
    alice.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.4
async fn a_second_conn_for_the_same_client_succeeds_unvalidated() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.sub_persistent("news").await;
    let mut bob = server.connect("bob").await;
    bob.pub1("news", "1").await;
    bob.send(r#"{"pub":{"cn":"news","dt":2,"rt":1}}"#).await;
    let first = alice.next_push().await;
    alice.expect(r#"{"push":{"cn":"news","dt":2,"cl":"bob"}}"#).await;
    server.app.times_asked(Asked::Conn).await;
    alice.send(r#"{"conn":{"at":"whatever","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    alice.expect_nothing_before_hb().await; // neither the pending nor the retained message again
    assert_eq!(server.app.times_asked(Asked::Conn).await, 0);
    alice.ack(&first).await;
}

#[tokio::test] // protocol.md 2.4
async fn a_second_conn_for_another_client_is_not_allowed() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"conn":{"at":"token-bob","cl":"bob"}}"#).await;
    alice.expect(r#"{"connAck":{"st":7}}"#).await;
    alice.expect_nothing_before_hb().await;
    assert!(!server.handle().is_connected(&client_id("bob")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)] // protocol.md 2.4, 2.16
async fn of_a_hundred_connections_of_one_client_one_survives() {
    const CONNECTIONS: usize = 100;
    let server = TestServer::start().await;
    let (over, _) = tokio::sync::broadcast::channel::<()>(1);
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..CONNECTIONS {
        let protocol = if index % 2 == 0 { Protocol::Socket } else { Protocol::WebSocket };
        let mut client = server.open(protocol).await;
        let mut over = over.subscribe();
        tasks.spawn(async move {
            client.send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#).await;
            let mut sessions = 0;
            loop {
                tokio::select! {
                    incoming = client.incoming() => match incoming {
                        Incoming::Packet(text) => {
                            assert_eq!(text, r#"{"connAck":{"st":1,"ts":60}}"#);
                            sessions += 1;
                        }
                        Incoming::End => return (sessions, None),
                        _ => {}
                    },
                    _ = over.recv() => return (sessions, Some(client)),
                }
            }
        });
    }
    let mut sessions = 0;
    for _ in 1..CONNECTIONS {
        let lost = within("a connection losing", tasks.join_next()).await;
        let (had, survivor) = lost.unwrap().unwrap();
        assert!(survivor.is_none());
        sessions += had;
    }
    over.send(()).unwrap();
    let won = within("the winner", tasks.join_next()).await;
    let (had, survivor) = won.unwrap().unwrap();
    let mut survivor = survivor.unwrap();
    if had == 0 {
        survivor.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    }
    survivor.expect_nothing_before_hb().await;
    assert_eq!(server.handle().connections().len(), 1);

    for _ in 0..sessions {
        server.app.expect_close("alice", CloseReason::Takeover).await;
    }
    assert_eq!(server.app.more_notices().await, []);
    assert_eq!(server.counters().sessions_opened, sessions + 1);
}
