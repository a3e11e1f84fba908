//! Retained messages (§9.b, protocol.md 2.12, 2.13).

use crate::support::{TestServer, channel};

#[tokio::test] // §9.b
async fn a_subscriber_receives_the_latest_retained_message_with_rt_and_without_id() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    alice.send(r#"{"pub":{"cn":"news","dt":1,"rt":1}}"#).await; // nobody is subscribed
    alice.send(r#"{"pub":{"cn":"news","dt":2,"rt":1,"q":1,"id":"7"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"7"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":3}}"#).await; // replaces nothing
    alice.expect_nothing_before_hb().await;
    server.settle().await;
    for subscribe in [r#"{"sub":{"cn":"news"}}"#, r#"{"sub":{"cn":"news","pr":1}}"#] {
        bob.send(subscribe).await;
        bob.expect(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
        bob.expect(r#"{"push":{"cn":"news","dt":2,"cl":"alice","rt":1}}"#).await;
        bob.expect_nothing_before_hb().await;
        bob.send(r#"{"unsub":{"cn":"news"}}"#).await;
        bob.expect(r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
    }
}

#[tokio::test] // §9.b
async fn on_connecting_retained_messages_come_only_for_persistent_subscriptions() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("kept").await;
    bob.sub("lent").await;
    alice.send(r#"{"pub":{"cn":"kept","dt":1,"rt":1}}"#).await;
    alice.send(r#"{"pub":{"cn":"lent","dt":2,"rt":1}}"#).await;
    alice.expect_nothing_before_hb().await;
    bob.next_pushes(2).await;
    let mut bob = server.reconnect(bob).await;
    bob.expect(r#"{"push":{"cn":"kept","dt":1,"cl":"alice","rt":1}}"#).await;
    bob.expect_nothing_before_hb().await;
    let mut bob = server.reconnect(bob).await; // and each time
    bob.expect(r#"{"push":{"cn":"kept","dt":1,"cl":"alice","rt":1}}"#).await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // §9.b: not to be acknowledged, and no part of the window
async fn a_retained_message_does_not_count_towards_the_window() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect_with_window("bob", 1).await;
    alice.send(r#"{"pub":{"cn":"news","dt":1,"rt":1,"q":1,"id":"7"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"7"}}"#).await;
    server.settle().await;
    bob.sub_persistent("news").await;
    bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":"alice","rt":1}}"#).await;
    alice.pub1("news", "2").await;
    assert_eq!(bob.next_push().await.data(), "2");
}

#[tokio::test] // protocol.md 2.12, 2.18: a QoS 1 push never carries `rt`
async fn current_subscribers_get_an_ordinary_push_at_its_own_qos() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    alice.send(r#"{"pub":{"cn":"news","dt":1,"rt":1}}"#).await;
    bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":"alice"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":2,"rt":1,"q":1,"id":"7"}}"#).await;
    let live = r#"{"push":{"cn":"news","dt":2,"cl":"alice","q":1,"id":"*"}}"#;
    bob.expect_push(live).await; // not acknowledged
    let mut bob = server.reconnect(bob).await;
    bob.expect_push(live).await; // the redelivery neither
    bob.expect(r#"{"push":{"cn":"news","dt":2,"cl":"alice","rt":1}}"#).await;
}

#[tokio::test] // §9.b, protocol.md 2.12
async fn on_p2p_and_control_channels_the_flag_is_ignored() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    alice.send(r##"{"pub":{"cn":"#bob","dt":1,"rt":1}}"##).await;
    bob.expect(r##"{"push":{"cn":"#bob","dt":1,"cl":"alice"}}"##).await;
    alice.send(r##"{"pub":{"cn":"#bob","dt":2,"rt":1,"q":1,"id":"7"}}"##).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"7"}}"#).await;
    let push = bob.next_push().await;
    bob.ack(&push).await;
    alice.send(r#"{"pub":{"cn":"$echo","dt":3,"rt":1,"id":"8"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"8","dt":3}}"#).await;
    let mut bob = server.reconnect(bob).await;
    bob.expect_nothing_before_hb().await;
    for name in ["#bob", "$echo"] {
        assert!(!server.handle().clear_retained(&channel(name)).await.unwrap());
    }
}

#[tokio::test] // protocol.md 2.12: it may come twice, never not at all
async fn a_subscriber_during_a_retained_publish_receives_it() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    for round in 0..100 {
        let qos = if round % 2 == 0 { "" } else { r#","q":1,"id":"p""# };
        let publish = format!(r#"{{"pub":{{"cn":"c{round}","dt":{round},"rt":1{qos}}}}}"#);
        let subscribe = format!(r#"{{"sub":{{"cn":"c{round}","pr":{}}}}}"#, round / 2 % 2);
        let (one, other) = (alice.send(&publish), bob.send(&subscribe));
        tokio::join!(one, other);
        bob.expect(&format!(r#"{{"subAck":{{"st":1,"cn":"c{round}"}}}}"#)).await;
        let push = bob.next_push().await; // fails if it comes not at all
        assert_eq!(push.data(), round.to_string());
        // A second one, or none, may still come: end the subscription and pass over it.
        bob.send(&format!(r#"{{"unsub":{{"cn":"c{round}"}}}}"#)).await;
        while !bob.next().await.starts_with(r#"{"unsubAck":"#) {}
    }
}

#[tokio::test] // protocol.md 2.12
async fn a_subscription_after_a_retained_publish_always_gets_it() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    for number in 0..200 {
        alice.send(&format!(r#"{{"pub":{{"cn":"c{number}","dt":{number},"rt":1}}}}"#)).await;
        alice.send(r#"{"hb":{}}"#).await;
        alice.expect(r#"{"hbAck":{}}"#).await; // the publish has been handled; it may not be stored yet
        bob.sub(&format!("c{number}")).await;
        assert!(bob.next_push().await.is_retained());
    }
}

#[tokio::test] // protocol.md 2.13
async fn retained_messages_survive_a_restart_and_acknowledged_ones_a_crash() {
    let mut server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"pub":{"cn":"a","dt":1,"rt":1}}"#).await; // QoS 0
    alice.expect_nothing_before_hb().await;
    server.restart().await;
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"pub":{"cn":"b","dt":2,"rt":1,"q":1,"id":"7"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"7"}}"#).await;
    server.crash().await;
    let mut bob = server.connect("bob").await;
    bob.sub("a").await;
    bob.expect(r#"{"push":{"cn":"a","dt":1,"cl":"alice","rt":1}}"#).await;
    bob.sub("b").await;
    bob.expect(r#"{"push":{"cn":"b","dt":2,"cl":"alice","rt":1}}"#).await;
}

#[tokio::test] // protocol.md 2.7: `null` is a value like any other
async fn null_and_empty_values_are_retained_too() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    for data in ["null", r#""""#, "{}"] {
        alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":{data},"rt":1}}}}"#)).await;
        alice.expect_nothing_before_hb().await;
        bob.sub("news").await;
        bob.expect(&format!(r#"{{"push":{{"cn":"news","dt":{data},"cl":"alice","rt":1}}}}"#)).await;
        bob.send(r#"{"unsub":{"cn":"news"}}"#).await;
        bob.expect(r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
    }
}
