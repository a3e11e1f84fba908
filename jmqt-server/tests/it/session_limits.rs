//! Limits for refusals, takeovers and the lifetime of tokens (protocol.md 2.1, 2.2, 2.4, 2.22).

use std::time::{Duration, Instant, SystemTime};

use crate::support::{Asked, Behaviour, TestServer, client_id};
use jmqt_server::{CloseReason, ConnVerdict, Protocol, StatusCode};

const WRONG_CONN: &str = r#"{"conn":{"at":"guess","cl":"alice"}}"#;
const GOOD_AUTH: &str = r#"{"auth":{"dt":{"client_name":"alice"}}}"#;
const BAD_AUTH: &str = r#"{"auth":{"dt":{}}}"#;

#[tokio::test] // protocol.md 2.1
async fn the_fifth_refused_auth_or_conn_ends_the_connection() {
    let server = TestServer::start().await;
    for protocol in Protocol::JMQT {
        let mut mallory = server.open(protocol).await;
        for _ in 0..2 {
            mallory.send(WRONG_CONN).await;
            mallory.expect(r#"{"connAck":{"st":6}}"#).await;
            mallory.send(GOOD_AUTH).await;
            mallory.expect(r#"{"authAck":{"st":1,"at":"token-alice","cl":"alice"}}"#).await;
            mallory.send(BAD_AUTH).await;
            mallory.expect(r#"{"authAck":{"st":7,"mg":"client_name is missing"}}"#).await;
        }
        mallory.send(WRONG_CONN).await;
        mallory.expect(r#"{"connAck":{"st":6}}"#).await;
        let told = mallory.told().await;
        assert_eq!((told.code, told.message.as_str()), (4504, "too many auth and conn packets were refused"));
    }
    assert_eq!(server.counters().refusals_closed, Protocol::JMQT.len() as u64);
}

#[tokio::test] // protocol.md 2.1: also within a session
async fn the_fifth_refused_auth_ends_a_session() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    for _ in 0..30 {
        alice.send(GOOD_AUTH).await;
        alice.expect(r#"{"authAck":{"st":1,"at":"token-alice","cl":"alice"}}"#).await;
    }
    for _ in 0..5 {
        alice.send(BAD_AUTH).await;
        alice.expect(r#"{"authAck":{"st":7,"mg":"client_name is missing"}}"#).await;
    }
    assert_eq!(alice.told().await.code, 4504);
    server.app.expect_close("alice", CloseReason::TooManyRefusals).await;
}

#[tokio::test] // protocol.md 2.1
async fn before_a_session_the_21st_auth_ends_the_connection_unvalidated() {
    let server = TestServer::start().await;
    let mut nobody = server.open(Protocol::Socket).await;
    for _ in 0..20 {
        nobody.send(GOOD_AUTH).await;
        nobody.expect(r#"{"authAck":{"st":1,"at":"token-alice","cl":"alice"}}"#).await;
    }
    nobody.send(GOOD_AUTH).await;
    let told = nobody.told().await;
    assert_eq!((told.code, told.message.as_str()), (4504, "too many auth packets before conn"));
    assert_eq!(server.app.times_asked(Asked::Auth).await, 20);
}

#[tokio::test] // protocol.md 2.1: that is not the client's doing
async fn failures_of_the_server_do_not_count_as_refusals() {
    let server = TestServer::start().await;
    server.app.set(Asked::Conn, Behaviour::Refuse(StatusCode::SERVER_ERROR));
    let mut alice = server.open(Protocol::Socket).await;
    for _ in 0..10 {
        alice.send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#).await;
        alice.expect(r#"{"connAck":{"st":5}}"#).await;
    }
    server.app.reset(Asked::Conn);
    alice.send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
}

#[tokio::test] // protocol.md 2.4
async fn takeovers_of_one_client_are_limited() {
    let server = TestServer::configured(|config| config.max_takeovers_per_second = Some(1)).await;
    let mut bob = server.connect("bob").await;
    let mut alice = server.connect("alice").await;
    let began = Instant::now();
    let mut taken_over = 0;
    let mut refused = loop {
        let mut new = server.open(Protocol::WebSocket).await;
        new.send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#).await;
        if new.next().await == r#"{"connAck":{"st":5}}"# {
            break new;
        }
        assert_eq!(alice.told().await.code, 4500);
        taken_over += 1;
        assert!(taken_over <= 5 + began.elapsed().as_secs(), "{taken_over}");
        alice = new;
    };
    let told = refused.told().await;
    assert_eq!((told.code, told.retry_after), (4006, Some(1)));
    assert!(taken_over >= 5);
    // The one that is there stays, and so does everybody else, who may still take over.
    alice.expect_nothing_before_hb().await;
    bob.expect_nothing_before_hb().await;
    server.connect("bob").await.expect_nothing_before_hb().await;
    assert_eq!(server.counters().takeovers_refused, 1);
    for _ in 0..taken_over {
        server.app.expect_close("alice", CloseReason::Takeover).await;
    }
}

#[tokio::test]
async fn a_client_that_sends_too_fast_is_slowed_down_and_nobody_else() {
    let server = TestServer::configured(|config| config.max_packets_per_second_per_client = Some(20)).await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    let began = Instant::now();
    let publishes: Vec<String> =
        (0..60).map(|id| format!(r#"{{"pub":{{"cn":"none","dt":1,"q":1,"id":"{id}"}}}}"#)).collect();
    alice.send_all(&publishes.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for _ in 0..10 {
        bob.send(r#"{"pub":{"cn":"none","dt":1,"q":1,"id":"1"}}"#).await;
        bob.expect(r#"{"pubAck":{"st":1,"id":"1"}}"#).await;
    }
    for id in 0..60 {
        alice.expect(&format!(r#"{{"pubAck":{{"st":1,"id":"{id}"}}}}"#)).await;
    }
    // What she has sent is answered; what she sends now waits.
    alice.expect_nothing_before_hb().await;
    assert!(
        began.elapsed() >= Duration::from_secs(1),
        "60 packets at 20 a second, of which 20 at once: {:?}",
        began.elapsed()
    );
    assert!(server.counters().senders_slowed >= 1);
    assert_eq!(server.counters().senders_disconnected, 0);
}

#[tokio::test] // protocol.md 2.22
async fn a_client_that_sends_much_too_fast_is_disconnected() {
    let server = TestServer::configured(|config| config.max_bytes_per_second_per_client = Some(100)).await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    let data = "x".repeat(12_000);
    alice.send(&format!(r#"{{"pub":{{"cn":"none","dt":"{data}"}}}}"#)).await;
    assert_eq!(alice.told().await.code, 4006);
    assert_eq!(server.counters().senders_disconnected, 1);
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.2, 2.22
async fn an_active_session_ends_when_its_token_expires() {
    let server = TestServer::start().await;
    server.app.on_conn(|_| {
        let verdict = ConnVerdict::accept().valid_until(SystemTime::now() + Duration::from_millis(500));
        Ok(verdict)
    });
    for protocol in Protocol::JMQT {
        let began = Instant::now();
        let mut alice = server.connect_over(protocol, "alice").await;
        // It never stops asking.
        while server.handle().is_connected(&client_id("alice")) {
            alice.send_until_refused(r#"{"hb":{}}"#).await;
            tokio::task::yield_now().await;
        }
        server.app.expect_close("alice", CloseReason::TokenExpired).await;
        assert!(began.elapsed() >= Duration::from_millis(500));
    }
    assert_eq!(server.counters().tokens_expired, Protocol::JMQT.len() as u64);
    let mut silent = server.connect("alice").await;
    let told = silent.told().await;
    assert_eq!((told.code, told.message.as_str()), (4007, "the token of the session has expired"));
}

#[tokio::test] // protocol.md 2.2: a clock that is wrong is no reason to hang
async fn a_session_whose_token_has_expired_already_ends_at_once() {
    let server = TestServer::start().await;
    server.app.on_conn(|_| Ok(ConnVerdict::accept().valid_until(SystemTime::UNIX_EPOCH)));
    let mut alice = server.connect("alice").await;
    assert_eq!(alice.told().await.code, 4007);
    server.app.on_conn(|_| Ok(ConnVerdict::accept().valid_for(Duration::MAX)));
    server.connect("alice").await.expect_nothing_before_hb().await;
}
