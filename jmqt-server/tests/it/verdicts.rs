//! The effect of verdicts, and the work while one is awaited (protocol.md 2.5, 2.10, 2.14, 2.17).

use std::time::Duration;

use crate::support::{Asked, Behaviour, TestServer, client_id};
use jmqt_server::{CloseReason, Protocol, StatusCode};

#[tokio::test] // §8: refusing with 1 is a mistake of the application
async fn a_refusal_with_status_ok_is_a_server_error() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let ok = Behaviour::Refuse(StatusCode::OK);
    for asked in [Asked::Auth, Asked::Sub, Asked::Unsub, Asked::Pub] {
        server.app.set(asked, ok.clone());
    }
    alice.send(r#"{"auth":{"dt":1}}"#).await;
    assert!(alice.next().await.starts_with(r#"{"authAck":{"st":5,"mg":""#));
    alice.send(r#"{"sub":{"cn":"news"}}"#).await;
    alice.expect(r#"{"subAck":{"st":5,"cn":"news"}}"#).await;
    alice.send(r#"{"unsub":{"cn":"news"}}"#).await;
    alice.expect(r#"{"unsubAck":{"st":5,"cn":"news"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":1,"q":1,"id":"1"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":5,"id":"1"}}"#).await;
    server.app.set(Asked::Conn, ok);
    let mut bob = server.open(Protocol::Socket).await;
    bob.send(r#"{"conn":{"at":"token-bob","cl":"bob"}}"#).await;
    bob.expect(r#"{"connAck":{"st":5}}"#).await;
    assert_eq!(server.counters().validator_failures, 5);
}

#[tokio::test] // §7.b, §7.d, §7.h, §7.j, §7.l: any status of the application's arrives
async fn refusals_have_the_status_of_the_application() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    for status in [0, 6, 42, -1] {
        let refuse = Behaviour::Refuse(StatusCode::new(status));
        for asked in [Asked::Auth, Asked::Sub, Asked::Unsub, Asked::Pub, Asked::Control] {
            server.app.set(asked, refuse.clone());
        }
        alice
            .send_all(&[
                r#"{"auth":{"dt":1}}"#,
                r#"{"sub":{"cn":"news"}}"#,
                r#"{"unsub":{"cn":"news"}}"#,
                r#"{"pub":{"cn":"news","dt":1,"q":1,"id":"1"}}"#,
                r#"{"pub":{"cn":"$echo","dt":1,"id":"2"}}"#,
            ])
            .await;
        alice.expect(&format!(r#"{{"authAck":{{"st":{status},"mg":"refused"}}}}"#)).await;
        alice.expect(&format!(r#"{{"subAck":{{"st":{status},"cn":"news"}}}}"#)).await;
        alice.expect(&format!(r#"{{"unsubAck":{{"st":{status},"cn":"news"}}}}"#)).await;
        alice.expect(&format!(r#"{{"pubAck":{{"st":{status},"id":"1"}}}}"#)).await;
        alice.expect(&format!(r#"{{"pubAck":{{"st":{status},"id":"2"}}}}"#)).await;
    }
}

#[tokio::test] // protocol.md 2.17: pushes of both levels, and the acks of earlier publishes
async fn while_a_validator_waits_pushes_and_earlier_acks_arrive() {
    let server = TestServer::start().await;
    for protocol in Protocol::JMQT {
        let (mut alice, mut bob) =
            (server.connect("alice").await, server.connect_over(protocol, "bob").await);
        bob.sub_persistent("news").await;
        alice.sub_persistent("back").await;
        let gate = server.app.hold(Asked::Sub);
        bob.send_all(&[
            r#"{"pub":{"cn":"back","dt":0,"q":1,"id":"7"}}"#,
            r#"{"hb":{}}"#,
            r#"{"sub":{"cn":"slow"}}"#,
        ])
        .await;
        server.app.asked(Asked::Sub).await;
        let mut answers = [bob.next().await, bob.next().await];
        answers.sort(); // an ack that waits for the disk holds up nothing (2.10)
        assert_eq!(answers, [r#"{"hbAck":{}}"#, r#"{"pubAck":{"st":1,"id":"7"}}"#]);
        let back = alice.next_push().await;
        alice.ack(&back).await;
        alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await;
        bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":"alice"}}"#).await;
        alice.pub1("news", "2").await;
        let push = bob.next_push().await;
        assert_eq!(push.data(), "2");
        bob.ack(&push).await; // will be read when the validator has answered
        gate.open();
        server.app.reset(Asked::Sub);
        bob.expect(r#"{"subAck":{"st":1,"cn":"slow"}}"#).await;
        bob.send(r#"{"unsub":{"cn":"news"}}"#).await;
        bob.expect(r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
    }
    assert_eq!(server.counters().acks_ignored, 0);
}

#[tokio::test] // protocol.md 2.17: one client's validator holds up nobody else
async fn a_hanging_validator_does_not_delay_other_clients() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    server.app.set(Asked::Control, Behaviour::Hang);
    alice.send(r#"{"pub":{"cn":"$slow","id":"1"}}"#).await;
    server.app.asked(Asked::Control).await;
    bob.sub("news").await;
    bob.pub1("news", "1").await;
    server.connect("carol").await.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.5: what was published in the same write is not held up either
async fn earlier_publishes_do_not_wait_for_the_validator_of_a_request() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub("news").await;
    server.app.set(Asked::Sub, Behaviour::Hang);
    alice.send_all(&[r#"{"pub":{"cn":"news","dt":1}}"#, r#"{"sub":{"cn":"slow"}}"#]).await;
    bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":"alice"}}"#).await;
}

#[tokio::test] // protocol.md 2.17, §9.f: the end of the connection is the end of the question
async fn a_request_is_cancelled_when_its_connection_is_closed() {
    let server = TestServer::start().await;
    server.app.set(Asked::Sub, Behaviour::Hang);
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"sub":{"cn":"news"}}"#).await;
    server.app.asked(Asked::Sub).await;
    assert!(server.handle().disconnect(&client_id("alice")));
    alice.closed().await;
    server.app.expect_close("alice", CloseReason::ByApplication).await;
    assert_eq!(server.counters().validator_failures, 0);
}

#[tokio::test] // protocol.md 2.2, 2.17: a `conn` that is taken too long over may be repeated
async fn a_conn_that_timed_out_has_left_no_session() {
    let server = TestServer::configured(|config| config.validator_timeout = Duration::from_millis(100)).await;
    server.app.set(Asked::Conn, Behaviour::Hang);
    let mut alice = server.open(Protocol::Socket).await;
    alice.send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":5}}"#).await;
    assert!(!server.handle().is_connected(&client_id("alice")));
    server.app.reset(Asked::Conn);
    alice.conn_as("alice", "").await;
    assert!(server.handle().is_connected(&client_id("alice")));
}

#[tokio::test] // protocol.md 2.2: bounded wait
async fn a_hanging_close_notifier_delays_the_next_conn_up_to_its_time_limit() {
    let server = TestServer::configured(|config| config.validator_timeout = Duration::from_millis(100)).await;
    let _old = server.connect("alice").await;
    server.app.set(Asked::Close, Behaviour::Hang);
    let mut new = server.connect("alice").await;
    new.expect_nothing_before_hb().await;
    server.app.expect_close("alice", CloseReason::Takeover).await;
}
