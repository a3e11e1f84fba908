//! Publishing: order, own messages, retained, point to point, control (§9, protocol.md 2.10 to 2.12, 2.20, 2.21).

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod support;

use jmqt_server::{CloseReason, ControlReply, Persistence, StatusCode};
use support::{Asked, Behaviour, TestServer, channel, client_id};

#[tokio::test] // §9.a, protocol.md 2.10
async fn qos_0_messages_arrive_in_publish_order_and_without_answers() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let (mut bob, mut web) = (server.connect("bob").await, server.websocket("web").await);
    for client in [&mut bob, &mut web] {
        client.sub("a").await;
        client.sub("b").await;
    }
    let texts: Vec<String> = (0..500)
        .map(|number| {
            let channel = if number % 7 == 0 { "b" } else { "a" };
            format!(r#"{{"pub":{{"cn":"{channel}","dt":{number},"q":0}}}}"#)
        })
        .collect();
    alice.send_all(&texts.iter().map(String::as_str).collect::<Vec<_>>()).await;
    for client in [&mut bob, &mut web] {
        for number in 0..500 {
            let push = client.next_push().await;
            assert_eq!((push.data(), push.is_qos1()), (number.to_string().as_str(), false));
        }
    }
    alice.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.11
async fn nobody_receives_their_own_message_but_its_retained_copy_later() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.sub_persistent("news").await;
    alice.send(r#"{"pub":{"cn":"news","dt":0}}"#).await;
    alice.pub1("news", "1").await;
    alice.send(r##"{"pub":{"cn":"#alice","dt":2,"id":"self"}}"##).await;
    alice.expect(r#"{"pubAck":{"st":8,"id":"self"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":3,"rt":1}}"#).await;
    server.settle().await;
    alice.expect_nothing_before_hb().await;
    let mut alice = server.reconnect(alice).await;
    alice.expect(r#"{"push":{"cn":"news","dt":3,"cl":"alice","rt":1}}"#).await;
    alice.expect_nothing_before_hb().await; // for her cursor, her own message is acknowledged
}

#[tokio::test] // §9.b, protocol.md 2.12, 2.20
async fn the_latest_retained_message_is_sent_on_every_sub_and_live_ones_carry_no_rt() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    alice.send(r#"{"pub":{"cn":"news","dt":"old","rt":1,"q":1,"id":"1"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"1"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":"new","rt":1}}"#).await;
    alice.expect_nothing_before_hb().await;
    for _ in 0..2 {
        bob.sub("news").await; // again: the same, and the retained message again
        bob.expect(r#"{"push":{"cn":"news","dt":"new","cl":"alice","rt":1}}"#).await;
    }
    alice.send(r#"{"pub":{"cn":"news","dt":"live","rt":1,"q":1,"id":"2"}}"#).await;
    bob.expect_push(r#"{"push":{"cn":"news","dt":"live","cl":"alice","q":1,"id":"*"}}"#).await;
    assert!(server.handle().clear_retained(&channel("news")).await.unwrap());
    let mut carol = server.connect("carol").await;
    carol.sub("news").await;
    carol.expect_nothing_before_hb().await;
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

#[tokio::test] // protocol.md 2.20, §9.c
async fn subscribing_again_asks_again_and_does_not_change_the_flag() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub("news").await;
    bob.sub_persistent("news").await;
    assert_eq!(server.app.times_asked(Asked::Sub).await, 2);
    let flag =
        async |server: &TestServer| server.handle().subscriptions(&client_id("bob")).await.unwrap()[1].1;
    assert_eq!(flag(&server).await, Persistence::Temporary);
    server.app.set(Asked::Sub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    bob.send(r#"{"sub":{"cn":"news"}}"#).await;
    bob.expect(r#"{"subAck":{"st":7,"cn":"news"}}"#).await;
    assert_eq!(flag(&server).await, Persistence::Temporary, "a refusal leaves it as it was");
    bob.send(r#"{"unsub":{"cn":"other"}}"#).await;
    bob.expect(r#"{"unsubAck":{"st":1,"cn":"other"}}"#).await;
    server.handle().force_sub(&client_id("bob"), &channel("news"), Persistence::Persistent).await.unwrap();
    assert_eq!(flag(&server).await, Persistence::Persistent);
}

#[tokio::test] // protocol.md 2.20
async fn nothing_follows_an_unsub_ack() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    for persistent in [0, 1] {
        bob.send(&format!(r#"{{"sub":{{"cn":"news","pr":{persistent}}}}}"#)).await;
        bob.expect(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
        bob.send(r#"{"unsub":{"cn":"news"}}"#).await;
        bob.expect(r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
        alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await;
        alice.pub1("news", "2").await;
        server.settle().await;
        bob.expect_nothing_before_hb().await;
    }
    let mut bob = server.reconnect(bob).await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // §9.d, protocol.md 2.21
async fn point_to_point_reaches_one_client_and_an_absent_one_is_offline() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    alice.send(r##"{"pub":{"cn":"#bob","dt":0,"rt":1}}"##).await; // `rt` is ignored
    bob.expect(r##"{"push":{"cn":"#bob","dt":0,"cl":"alice"}}"##).await;
    alice.pub1("#bob", "1").await;
    bob.expect_push(r##"{"push":{"cn":"#bob","dt":1,"cl":"alice","q":1,"id":"*"}}"##).await;
    alice.send(r##"{"pub":{"cn":"#nobody","dt":1}}"##).await; // QoS 0 without id: no answer
    alice.send(r##"{"pub":{"cn":"#nobody","dt":1,"id":"2"}}"##).await;
    alice.expect(r#"{"pubAck":{"st":8,"id":"2"}}"#).await;

    server.handle().force_sub(&client_id("bob"), &channel("#bob"), Persistence::Persistent).await.unwrap();
    drop(bob);
    server.app.expect_close("bob", CloseReason::ClosedByClient).await;
    alice.send(r##"{"pub":{"cn":"#bob","dt":"later","q":1,"id":"3"}}"##).await;
    alice.expect(r#"{"pubAck":{"st":8,"id":"3"}}"#).await;
    let mut bob = server.connect("bob").await;
    bob.expect_push(r##"{"push":{"cn":"#bob","dt":"later","cl":"alice","q":1,"id":"*"}}"##).await;
    let mut nobody = server.connect("nobody").await;
    nobody.expect_nothing_before_hb().await;
}

#[tokio::test] // §9.d
async fn a_control_request_is_answered_in_its_pub_ack() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    server.app.on_control(async |request| {
        assert_eq!((request.client.as_str(), request.channel.as_str()), ("alice", "$sum"));
        match request.data.as_deref() {
            Some(data) => Ok(ControlReply::with_json(StatusCode::OK, data)?),
            None => Ok(ControlReply::status(StatusCode::INVALID_CHANNEL)),
        }
    });
    alice.send(r#"{"pub":{"cn":" $sum ","dt":[1.0, 2],"q":1,"rt":1,"id":5}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"5","dt":[1.0, 2]}}"#).await;
    alice.send(r#"{"pub":{"cn":"$sum","id":"6"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":11,"id":"6"}}"#).await;
}

#[tokio::test] // protocol.md 2.5
async fn a_refused_qos_0_publish_is_answered_only_if_it_has_an_id() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":1,"id":"1"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":7,"id":"1"}}"#).await;
    alice.expect_nothing_before_hb().await;
}
