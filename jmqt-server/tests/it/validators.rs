//! Validators that fail, panic or take too long (protocol.md 2.17).

use std::time::Duration;

use crate::support::{Asked, Behaviour, Notice, TestServer};
use jmqt_server::{AllowAll, CloseReason, Config, Protocol, Server, StartError};

const REQUESTS: [(Asked, &str, &str); 5] = [
    (
        Asked::Auth,
        r#"{"auth":{"dt":{"client_name":"a"}}}"#,
        r#"{"authAck":{"st":5,"mg":"the server cannot answer this request"}}"#,
    ),
    (Asked::Sub, r#"{"sub":{"cn":"news"}}"#, r#"{"subAck":{"st":5,"cn":"news"}}"#),
    (Asked::Unsub, r#"{"unsub":{"cn":"news"}}"#, r#"{"unsubAck":{"st":5,"cn":"news"}}"#),
    (Asked::Pub, r#"{"pub":{"cn":"news","dt":1,"q":1,"id":"1"}}"#, r#"{"pubAck":{"st":5,"id":"1"}}"#),
    (Asked::Control, r#"{"pub":{"cn":"$list","id":"2"}}"#, r#"{"pubAck":{"st":5,"id":"2"}}"#),
];

#[tokio::test] // protocol.md 2.17
async fn a_validator_that_fails_panics_or_hangs_fails_one_request() {
    let server = TestServer::configured(|config| config.validator_timeout = Duration::from_millis(100)).await;
    let mut alice = server.connect("alice").await;
    for behaviour in [Behaviour::Fail, Behaviour::Panic, Behaviour::Hang] {
        for (asked, request, answer) in REQUESTS {
            server.app.set(asked, behaviour.clone());
            alice.send(request).await;
            alice.expect(answer).await;
            server.app.reset(asked);
            alice.expect_nothing_before_hb().await;
        }
        server.app.set(Asked::Auth, behaviour.clone());
        server.app.set(Asked::Conn, behaviour);
        let mut bob = server.open(Protocol::Socket).await;
        bob.send(REQUESTS[0].1).await; // before `conn`, too
        bob.expect(REQUESTS[0].2).await;
        server.app.reset(Asked::Auth);
        bob.send(r#"{"conn":{"at":"token-bob","cl":"bob"}}"#).await;
        bob.expect(r#"{"connAck":{"st":5}}"#).await;
        server.app.reset(Asked::Conn);
        bob.conn_as("bob", "").await;
        drop(bob);
        assert!(matches!(server.app.notice().await, Notice::Close(..)));
    }
    assert_eq!(server.counters().validator_failures, 21);
}

#[tokio::test] // protocol.md 2.17, 2.5: what is not decided is not delivered, and answered only if it has an id
async fn a_publish_whose_validator_fails_is_not_delivered() {
    let server = TestServer::configured(|config| config.validator_timeout = Duration::from_millis(100)).await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    for behaviour in [Behaviour::Fail, Behaviour::Panic, Behaviour::Hang] {
        server.app.set(Asked::Pub, behaviour);
        alice
            .send_all(&[
                r#"{"pub":{"cn":"news","dt":1,"q":1,"rt":1,"id":"1"}}"#,
                r#"{"pub":{"cn":"news","dt":2,"rt":1}}"#,
                r#"{"pub":{"cn":"news","dt":3,"id":"3"}}"#,
                r##"{"pub":{"cn":"#bob","dt":4,"q":1,"id":"4"}}"##,
            ])
            .await;
        for id in [1, 3, 4] {
            alice.expect(&format!(r#"{{"pubAck":{{"st":5,"id":"{id}"}}}}"#)).await;
        }
        server.app.reset(Asked::Pub);
        server.settle().await;
        bob.sub("news").await; // nothing retained either
        bob.expect_nothing_before_hb().await;
    }
    alice.pub1("news", "5").await;
    assert_eq!(bob.next_push().await.data(), "5");
}

#[tokio::test] // protocol.md 2.17, 2.16
async fn a_notifier_that_fails_panics_or_hangs_does_not_keep_a_session_alive() {
    let server = TestServer::configured(|config| config.validator_timeout = Duration::from_millis(100)).await;
    for behaviour in [Behaviour::Fail, Behaviour::Panic, Behaviour::Hang] {
        server.app.set(Asked::Disconnect, behaviour.clone());
        server.app.set(Asked::Close, behaviour);
        let mut alice = server.connect("alice").await;
        alice.send(r#"{"disconn":{}}"#).await;
        alice.closed().await;
        server.app.asked(Asked::Close).await;
    }
    server.app.reset(Asked::Disconnect);
    server.app.reset(Asked::Close);
    server.connect("alice").await;
}

#[tokio::test] // protocol.md 2.17
async fn pushes_and_acks_are_sent_while_a_validator_runs() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub("news").await;
    let gate = server.app.hold(Asked::Control);
    bob.send(r#"{"pub":{"cn":"$slow","dt":7,"id":"1"}}"#).await;
    server.app.asked(Asked::Control).await;
    alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await;
    bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":"alice"}}"#).await;
    gate.open();
    bob.expect(r#"{"pubAck":{"st":1,"id":"1","dt":7}}"#).await;
}

#[tokio::test] // protocol.md 2.10
async fn later_packets_wait_for_a_validator_and_are_answered_in_order() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let gate = server.app.hold(Asked::Sub);
    alice.send_all(&[r#"{"sub":{"cn":"news"}}"#, r#"{"hb":{}}"#]).await;
    server.app.asked(Asked::Sub).await;
    gate.open();
    alice.expect_all(&[r#"{"subAck":{"st":1,"cn":"news"}}"#, r#"{"hbAck":{}}"#]).await;
}

#[tokio::test] // protocol.md 2.4: also while a validator of the old connection runs
async fn a_takeover_does_not_wait_for_a_request_of_the_old_connection() {
    let server = TestServer::start().await;
    let mut old = server.connect("alice").await;
    server.app.set(Asked::Control, Behaviour::Hang);
    old.send(r#"{"pub":{"cn":"$slow","id":"1"}}"#).await;
    server.app.asked(Asked::Control).await;
    let _new = server.connect("alice").await;
    old.closed().await;
    server.app.expect_close("alice", CloseReason::Takeover).await;
}

#[tokio::test]
async fn a_server_with_validators_missing_does_not_start_and_names_them() {
    let builder = Server::builder(Config::default()).validate_conn(AllowAll).validate_pub(AllowAll);
    let Err(error) = builder.start().await else { panic!("it started") };
    assert!(matches!(error, StartError::MissingValidators { .. }));
    let text = error.to_string();
    for name in ["AuthValidator", "SubValidator"] {
        assert!(text.contains(name), "{text}");
    }
    for name in ["ConnValidator", "PubValidator", "UnsubValidator", "CloseNotifier"] {
        assert!(!text.contains(name), "{text}");
    }
}
