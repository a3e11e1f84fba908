//! A publish that is repeated on a new connection is stored once (protocol.md 2.23).
#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use crate::support::{Asked, Behaviour, Client, TestServer, channel, client_id};
use jmqt_server::{CloseReason, Persistence, Protocol, StatusCode};

const PI: &str = r#","pi":"laptop""#;

/// A session of a publisher.
async fn publisher(server: &TestServer, name: &str) -> Client {
    let mut client = server.open(Protocol::Socket).await;
    client.send(&format!(r#"{{"conn":{{"at":"token-{name}","cl":"{name}"{PI}}}}}"#)).await;
    client.expect(r#"{"connAck":{"st":1,"ts":60,"pi":1}}"#).await;
    client
}

fn publish(channel: &str, data: &str, id: &str) -> String {
    format!(r#"{{"pub":{{"cn":"{channel}","dt":{data},"q":1,"id":"{id}"}}}}"#)
}

fn answer(status: u8, id: &str) -> String {
    format!(r#"{{"pubAck":{{"st":{status},"id":"{id}"}}}}"#)
}

#[tokio::test]
async fn only_a_publisher_with_an_id_is_remembered() {
    let server = TestServer::start().await;
    let mut alice = server.open(Protocol::Socket).await;
    let long = "p".repeat(65);
    for publisher in ["\"\"", "7", &format!("\"{long}\"")] {
        alice.send(&format!(r#"{{"conn":{{"at":"token-alice","cl":"alice","pi":{publisher}}}}}"#)).await;
        alice.expect(r#"{"connAck":{"st":10}}"#).await;
    }
    alice.send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    // Without it, an id is any text, and may come again.
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    alice.pub1("news", "1").await;
    alice.pub1("news", "2").await;
    bob.next_pushes(2).await;

    alice.send(r#"{"conn":{"at":"token-alice","cl":"alice","pi":"p"}}"#).await;
    alice.expect(r#"{"connAck":{"st":1,"ts":60,"pi":1}}"#).await;
    alice.send(r#"{"conn":{"at":"token-alice","cl":"alice","pi":""}}"#).await;
    alice.expect(r#"{"connAck":{"st":10}}"#).await;
    for _ in 0..2 {
        alice.send(&publish("news", "3", "1")).await;
        alice.expect(&answer(1, "1")).await;
    }
    assert_eq!(bob.next_push().await.data(), "3");
    bob.expect_nothing_before_hb().await;
}

#[tokio::test]
async fn ids_of_a_remembered_publisher_are_decimal_integers() {
    let server = TestServer::start().await;
    let mut alice = publisher(&server, "alice").await;
    for id in ["0", "01", "-1", "p", "9223372036854775808"] {
        alice.send(&publish("news", "1", id)).await;
        alice.expect(&answer(10, id)).await;
    }
    alice.send(&publish("news", "1", "9223372036854775807")).await;
    alice.expect(&answer(1, "9223372036854775807")).await;
    // A control request may have any.
    alice.send(r#"{"pub":{"cn":"$mySubscriptions","dt":null,"id":"p"}}"#).await;
    assert!(alice.next().await.starts_with(r#"{"pubAck":{"st":1,"id":"p""#));
}

#[tokio::test]
async fn a_publish_whose_answer_was_lost_is_delivered_once_across_connections_and_restarts() {
    let mut server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    let mut alice = publisher(&server, "alice").await;
    for id in 1..=3 {
        alice.send(&publish("news", &id.to_string(), &id.to_string())).await;
    }
    // They are stored once they are pushed. The answers are never read, nor are the pushes acknowledged.
    bob.next_pushes(3).await;
    drop(alice);

    let again = async |server: &TestServer, up_to: u32| {
        let mut alice = publisher(server, "alice").await;
        for id in 1..=up_to {
            alice.send(&publish("news", &id.to_string(), &id.to_string())).await;
        }
        for id in 1..=up_to {
            alice.expect(&answer(1, &id.to_string())).await;
        }
    };
    again(&server, 4).await;
    assert_eq!(bob.next_push().await.data(), "4");
    assert_eq!(server.counters().publishes_repeated, 3);
    server.crash().await;
    again(&server, 5).await;
    assert_eq!(server.counters().publishes_repeated, 4);
    server.restart().await;
    again(&server, 6).await;

    let mut bob = server.connect("bob").await;
    let pushes = bob.next_pushes(6).await;
    assert!(pushes.iter().map(|push| push.data()).eq(["1", "2", "3", "4", "5", "6"]));
    bob.expect_nothing_before_hb().await;
}

#[tokio::test]
async fn a_temporary_subscriber_is_pushed_a_repeated_publish_once() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub("news").await;
    let mut alice = publisher(&server, "alice").await;
    alice.send(&publish("news", "1", "1")).await;
    bob.next_push().await;
    drop(alice);
    let mut alice = publisher(&server, "alice").await;
    alice.send_all(&[&publish("news", "1", "1"), &publish("news", "2", "2")]).await;
    alice.expect_all(&[&answer(1, "1"), &answer(1, "2")]).await;
    assert_eq!(bob.next_push().await.data(), "2");
    bob.expect_nothing_before_hb().await;
}

#[tokio::test]
async fn a_refused_publish_is_validated_again_when_repeated() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    for _ in 0..2 {
        let mut alice = publisher(&server, "alice").await;
        alice.send(&publish("news", "1", "1")).await;
        alice.expect(&answer(7, "1")).await;
    }
    server.app.reset(Asked::Pub);
    for _ in 0..2 {
        let mut alice = publisher(&server, "alice").await;
        alice.send(&publish("news", "1", "1")).await;
        alice.expect(&answer(1, "1")).await;
    }
    bob.next_push().await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.21: 8 is final
async fn a_repeated_publish_receives_the_same_answer() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    let (bob_id, own) = (client_id("bob"), channel("#bob"));
    server.handle().force_sub(&bob_id, &own, Persistence::Persistent).await.unwrap();
    let mut alice = publisher(&server, "alice").await;
    alice.send(&publish("#bob", "1", "1")).await;
    alice.expect(&answer(1, "1")).await;
    let push = bob.next_push().await;
    bob.ack(&push).await;
    drop(bob);
    server.app.expect_close("bob", CloseReason::ClosedByClient).await;
    alice.send_all(&[&publish("#bob", "1", "1"), &publish("#bob", "2", "2")]).await;
    alice.expect_all(&[&answer(1, "1"), &answer(8, "2")]).await;
    let mut bob = server.connect("bob").await;
    assert_eq!(bob.next_push().await.data(), "2");
    alice.send_all(&[&publish("#bob", "2", "2"), &publish("#bob", "3", "3")]).await;
    alice.expect_all(&[&answer(8, "2"), &answer(1, "3")]).await;
    assert_eq!(bob.next_push().await.data(), "3");
    bob.expect_nothing_before_hb().await;
}
