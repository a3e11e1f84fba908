//! Point-to-point channels (§9.d, protocol.md 2.11, 2.21).

use crate::support;

use crate::support::{Asked, TestServer, channel, client_id};
use jmqt_server::{CloseReason, Persistence, Protocol};

#[tokio::test] // §9.d
async fn a_point_to_point_message_reaches_only_its_client() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut carol = server.connect("carol").await;
    for protocol in Protocol::JMQT {
        let mut bob = server.connect_over(protocol, "bob").await;
        alice.send(r##"{"pub":{"cn":"#bob","dt":1}}"##).await;
        bob.expect(r##"{"push":{"cn":"#bob","dt":1,"cl":"alice"}}"##).await;
        alice.send(r##"{"pub":{"cn":" #bob ","dt":2,"q":1,"id":"7"}}"##).await;
        alice.expect(r#"{"pubAck":{"st":1,"id":"7"}}"#).await;
        let push = r##"{"push":{"cn":"#bob","dt":2,"cl":"alice","q":1,"id":"*"}}"##;
        let push = bob.expect_push(push).await;
        bob.ack(&push).await;
        bob.expect_nothing_before_hb().await;
    }
    carol.expect_nothing_before_hb().await;
    assert_eq!(server.counters().acks_ignored, 0);
}

#[tokio::test] // protocol.md 2.21: to an unknown client
async fn a_message_to_an_unknown_client_is_answered_with_8_and_not_stored() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.send(r##"{"pub":{"cn":"#bob","dt":1,"q":1,"id":"1"}}"##).await;
    alice.expect(r#"{"pubAck":{"st":8,"id":"1"}}"#).await;
    alice.send(r##"{"pub":{"cn":"#bob","dt":2,"id":"2"}}"##).await; // QoS 0 with an id
    alice.expect(r#"{"pubAck":{"st":8,"id":"2"}}"#).await;
    alice.send(r##"{"pub":{"cn":"#bob","dt":3}}"##).await; // and without
    alice.expect_nothing_before_hb().await;
    let mut bob = server.connect("bob").await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.21: away, without a persistent subscription
async fn an_absent_client_misses_point_to_point_messages() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await; // persistent, but not the one that counts
    drop(bob);
    server.app.expect_close("bob", CloseReason::ClosedByClient).await;
    let mut alice = server.connect("alice").await;
    alice.send(r##"{"pub":{"cn":"#bob","dt":1,"q":1,"id":"1"}}"##).await;
    alice.expect(r#"{"pubAck":{"st":8,"id":"1"}}"#).await;
    let mut bob = server.connect("bob").await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.21: away, with one
async fn qos_1_for_an_absent_persistent_subscriber_is_stored_and_answered_with_8() {
    let mut server = TestServer::start().await;
    let (bob, own) = (client_id("bob"), channel("#bob"));
    server.handle().force_sub(&bob, &own, Persistence::Persistent).await.unwrap();
    let mut alice = server.connect("alice").await;
    alice.send(r##"{"pub":{"cn":"#bob","dt":1,"q":1,"id":"1"}}"##).await;
    alice.expect(r#"{"pubAck":{"st":8,"id":"1"}}"#).await;
    alice.send(r##"{"pub":{"cn":"#bob","dt":2,"id":"2"}}"##).await; // QoS 0 is not stored
    alice.expect(r#"{"pubAck":{"st":8,"id":"2"}}"#).await;
    server.restart().await;
    let mut bob = server.connect("bob").await;
    let push = r##"{"push":{"cn":"#bob","dt":1,"cl":"alice","q":1,"id":"*"}}"##;
    let push = bob.expect_push(push).await;
    bob.expect_nothing_before_hb().await;
    let mut alice = server.connect("alice").await;
    alice.send(r##"{"pub":{"cn":"#bob","dt":3,"q":1,"id":"3"}}"##).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"3"}}"#).await; // now that it is there
    assert_eq!(bob.next_push().await.data(), "3");
    bob.ack(&push).await;
}

#[tokio::test] // §9.d: the validator is asked for these channels too
async fn the_publish_validator_decides_on_point_to_point_messages() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    let refuse = support::Behaviour::Refuse(jmqt_server::StatusCode::NOT_ALLOWED);
    server.app.set(Asked::Pub, refuse);
    alice.send(r##"{"pub":{"cn":"#bob","dt":1,"q":1,"id":"1"}}"##).await;
    alice.expect(r#"{"pubAck":{"st":7,"id":"1"}}"#).await;
    assert_eq!(server.app.asked(Asked::Pub).await, "#bob");
    bob.expect_nothing_before_hb().await;
}
