//! The server stops, or dies, and starts again (§9.f, protocol.md 2.13, 2.16).

use std::time::Duration;

use crate::support::{
    Asked, Behaviour, Client, Gate, Notice, TestApp, TestServer, channel, client_id, within,
};
use jmqt_server::{CloseReason, HandleError, Persistence, Protocol, Publish};

#[tokio::test] // protocol.md 2.16
async fn a_shutdown_ends_every_session_once_with_its_reason() {
    let mut server = TestServer::start().await;
    let mut clients = Vec::new();
    for (index, protocol) in Protocol::JMQT.into_iter().enumerate() {
        clients.push(server.connect_over(protocol, &format!("c{index}")).await);
    }
    let mut nobody = server.open(Protocol::Socket).await;
    let mut upgrading = server.open_raw(Protocol::WebSocket).await;
    let mut shaking_hands = server.open_raw(Protocol::SslSocket).await;
    server.shutdown().await;
    for mut client in clients {
        assert_eq!(client.told().await.code, 4000);
    }
    nobody.closed().await;
    upgrading.bytes_until_closed().await;
    shaking_hands.bytes_until_closed().await;
    let mut notices = server.app.more_notices().await;
    notices.sort_by_key(|notice| format!("{notice:?}"));
    let expected = |index| Notice::Close(format!("c{index}"), CloseReason::Shutdown);
    assert_eq!(notices, [0, 1, 2, 3].map(expected));
}

#[tokio::test] // listeners stop first
async fn after_a_shutdown_no_connection_is_accepted() {
    let mut server = TestServer::start().await;
    let addresses = Protocol::JMQT.map(|protocol| server.address(protocol));
    server.shutdown().await;
    for address in addresses {
        let refused = within("an answer", tokio::net::TcpStream::connect(address)).await;
        assert!(refused.is_err());
    }
}

#[tokio::test] // a request that hangs does not hold it up
async fn a_shutdown_does_not_wait_for_validators() {
    let mut server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    server.app.set(Asked::Control, Behaviour::Hang);
    server.app.set(Asked::Conn, Behaviour::Hang);
    alice.send(r#"{"pub":{"cn":"$slow","id":"1"}}"#).await;
    server.app.asked(Asked::Control).await;
    let mut bob = server.open(Protocol::WebSocket).await;
    bob.send(r#"{"conn":{"at":"token-bob","cl":"bob"}}"#).await;
    server.app.asked(Asked::Conn).await;
    server.shutdown().await;
    alice.closed().await;
    bob.closed().await;
    server.app.expect_close("alice", CloseReason::Shutdown).await;
    assert_eq!(server.app.more_notices().await, []);
}

#[tokio::test] // protocol.md 2.16: but for the close notifiers it does
async fn a_shutdown_waits_for_the_close_notifiers() {
    let mut server = TestServer::start().await;
    let _alice = server.connect("alice").await;
    let gate = server.app.hold(Asked::Close);
    let app = server.app.clone();
    let opening = async {
        app.asked(Asked::Close).await;
        gate.open();
    };
    tokio::join!(server.shutdown(), opening); // within the deadline, or it has not waited for it
    server.app.expect_close("alice", CloseReason::Shutdown).await;
    server.restart().await;
    assert_eq!(server.app.more_notices().await, []); // nothing was left behind
}

#[tokio::test] // protocol.md 2.13: what was acknowledged, and what was subscribed, is there again
async fn after_a_restart_all_stored_data_exists() {
    let mut server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    bob.sub("lent").await;
    for n in 1..=3 {
        alice.pub1("news", &n.to_string()).await;
    }
    let pushes = bob.next_pushes(3).await;
    bob.ack(&pushes[0]).await;
    bob.expect_nothing_before_hb().await;
    server.restart().await;
    assert_eq!(
        server.handle().subscriptions(&client_id("bob")).await.unwrap(),
        [(channel("news"), Persistence::Persistent)]
    );
    let mut bob = server.connect("bob").await;
    assert_eq!(bob.next_push().await, pushes[1]); // the same ids
    assert_eq!(bob.next_push().await, pushes[2]);
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.10: acks that are waited for when it stops
async fn publishes_right_before_a_shutdown_are_acknowledged_only_if_stored() {
    let mut server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    let texts: Vec<_> =
        (0..200).map(|n| format!(r#"{{"pub":{{"cn":"news","dt":{n},"q":1,"id":"{n}"}}}}"#)).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    alice.send_all(&texts).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"0"}}"#).await;
    server.restart().await;
    let acks = alice.packets_until_closed().await;
    let acknowledged = 1 + acks.iter().filter(|ack| ack.contains(r#""st":1,"#)).count();
    let mut bob = server.websocket("bob").await;
    for n in 0..acknowledged {
        let push = bob.next_push().await;
        assert_eq!(push.data(), n.to_string());
        bob.ack(&push).await;
    }
}

#[tokio::test] // §9.e: the application may still hold the handle
async fn a_handle_outlives_its_server() {
    let mut server = TestServer::start().await;
    let alice = server.connect("alice").await;
    let handle = server.handle();
    server.shutdown().await;
    assert!(!handle.is_connected(&client_id("alice")));
    assert!(handle.connections().is_empty());
    assert!(!handle.disconnect(&client_id("alice")));
    let stored = Publish::raw(channel("news"), "1").unwrap().at_least_once();
    assert_eq!(within("an answer", handle.force_pub(stored)).await, Err(HandleError::Store));
    let (bob, news) = (client_id("bob"), channel("news"));
    let made = handle.force_sub(&bob, &news, Persistence::Persistent);
    assert_eq!(within("an answer", made).await, Err(HandleError::Store));
    drop(alice);
}

// ---- when it dies -------------------------------------------------------------------------------

#[tokio::test] // protocol.md 2.16: by the next process, when the server died
async fn the_next_process_runs_the_close_notifiers_of_a_dead_one() {
    let mut server = TestServer::start().await;
    let mut alice = crash_with_a_session_of_alice_on_disk(&mut server, |_| {}).await;
    alice.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    assert_eq!(server.app.more_notices().await, [], "the notifier was called twice");
    server.restart().await;
    server.app.expect_close("alice", CloseReason::Shutdown).await; // her new session
    let _alice = server.connect("alice").await;
    assert_eq!(server.app.more_notices().await, [], "the notifier was called again");
}

#[tokio::test] // protocol.md 2.2, 2.16: her older session on any node has ended and was reported
async fn only_the_client_of_an_orphaned_session_waits_for_its_close_notifier() {
    let mut server = TestServer::start().await;
    let gate = Gate::closed();
    let hold = |app: &TestApp| app.set(Asked::Close, Behaviour::Hold(gate.clone()));
    let mut alice = crash_with_a_session_of_alice_on_disk(&mut server, hold).await;
    let mut bob = server.connect("bob").await;
    bob.sub("news").await;
    assert!(!server.handle().is_connected(&client_id("alice")));
    gate.open();
    alice.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    assert!(server.handle().is_connected(&client_id("alice")));
}

/// Crashes while alice is connected and the store knows of it, and returns when the next process tells
/// of that session. She has asked for a new one by then.
async fn crash_with_a_session_of_alice_on_disk(
    server: &mut TestServer,
    before_the_start: impl Fn(&TestApp),
) -> Client {
    // A session is noted on disk within a second; when exactly, nobody is told.
    for patience in 1..=10 {
        let alice = server.websocket("alice").await;
        tokio::time::sleep(Duration::from_millis(100 * patience)).await;
        server.crash_and(&before_the_start).await;
        drop(alice);
        let mut alice = server.open(Protocol::Socket).await;
        alice.send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#).await;
        tokio::select! {
            notice = server.app.notice() => {
                assert_eq!(notice, Notice::Close("alice".to_owned(), CloseReason::ServerDied));
                return alice;
            }
            // Nothing was known of her, so she did not have to wait.
            answer = alice.next() => assert_eq!(answer, r#"{"connAck":{"st":1,"ts":60}}"#),
        }
        drop(alice);
        server.app.reset(Asked::Close);
        server.app.expect_close("alice", CloseReason::ClosedByClient).await;
    }
    panic!("the session was not noted within ten seconds");
}

#[tokio::test] // protocol.md 2.16: a session that ended before is not reported again
async fn a_closed_session_is_not_reported_again_after_a_crash() {
    let mut server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.sub_persistent("news").await;
    alice.send(r#"{"disconn":{}}"#).await;
    alice.closed().await;
    assert_eq!(server.app.notice().await, Notice::Disconnect("alice".to_owned()));
    server.app.expect_close("alice", CloseReason::Disconnected).await;
    let _alice = server.connect("alice").await; // is let in when the old session is written off
    server.crash().await;
    for notice in server.app.more_notices().await {
        // At most the second one, if it was noted already.
        assert_eq!(notice, Notice::Close("alice".to_owned(), CloseReason::ServerDied));
    }
    assert_eq!(
        server.handle().subscriptions(&client_id("alice")).await.unwrap(),
        [(channel("news"), Persistence::Persistent)]
    );
}
