//! Subscribing and unsubscribing (§9.c, protocol.md 2.8, 2.20).

use crate::support::{Asked, Behaviour, TestServer, channel, client_id};
use jmqt_server::{CloseReason, Persistence, StatusCode};

#[tokio::test] // §7.g, §7.i
async fn a_subscriber_receives_publishes_until_it_unsubscribes() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.send(r#"{"sub":{"cn":"news"}}"#).await;
    bob.expect(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":{"a":1}}}"#).await;
    bob.expect(r#"{"push":{"cn":"news","dt":{"a":1},"cl":"alice"}}"#).await;
    bob.send(r#"{"unsub":{"cn":"news"}}"#).await;
    bob.expect(r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":2}}"#).await;
    alice.pub1("news", "3").await;
    server.settle().await;
    bob.expect_nothing_before_hb().await;
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

#[tokio::test] // §9.a: nobody gets what others are subscribed to
async fn only_subscribers_of_the_same_channel_receive_a_message() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub("news").await;
    for name in ["News", "new", "news/local", "news2"] {
        alice.send(&format!(r#"{{"pub":{{"cn":"{name}","dt":1}}}}"#)).await;
    }
    alice.expect_nothing_before_hb().await;
    bob.expect_nothing_before_hb().await;
}

// ---- 2.8: names ---------------------------------------------------------------------------------

#[tokio::test] // protocol.md 2.8
async fn names_are_trimmed_and_acks_carry_the_trimmed_name() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.send(r#"{"sub":{"cn":" \t news\n"}}"#).await;
    bob.expect(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news ","dt":1,"q":1,"id":" 7 "}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":" 7 "}}"#).await;
    let push = bob.expect_push(r#"{"push":{"cn":"news","dt":1,"cl":"alice","q":1,"id":"*"}}"#).await;
    bob.ack(&push).await;
    bob.send(r#"{"unsub":{"cn":"  news"}}"#).await;
    bob.expect(r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":2}}"#).await;
    alice.expect_nothing_before_hb().await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.8
async fn invalid_channel_names_are_answered_with_11_unvalidated() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let long = "x".repeat(513);
    for bad in ["", "$", "#", &long] {
        alice.send(&format!(r#"{{"sub":{{"cn":" {bad} "}}}}"#)).await;
        alice.expect(&format!(r#"{{"subAck":{{"st":11,"cn":"{bad}"}}}}"#)).await;
        alice.send(&format!(r#"{{"unsub":{{"cn":" {bad} "}}}}"#)).await;
        alice.expect(&format!(r#"{{"unsubAck":{{"st":11,"cn":"{bad}"}}}}"#)).await;
        alice.send(&format!(r#"{{"pub":{{"cn":" {bad} ","dt":1,"q":1,"id":"7"}}}}"#)).await;
        alice.expect(r#"{"pubAck":{"st":11,"id":"7"}}"#).await;
    }
    for nobody in [Asked::Sub, Asked::Unsub, Asked::Pub, Asked::Control] {
        assert_eq!(server.app.times_asked(nobody).await, 0);
    }
    let longest = "x".repeat(512);
    alice.sub(&longest).await;
}

#[tokio::test] // §9.d, protocol.md 2.8
async fn clients_may_not_subscribe_to_or_unsubscribe_from_control_and_p2p_channels() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    for name in ["$time", "#bob", "#alice"] {
        alice.send(&format!(r#"{{"sub":{{"cn":"{name}"}}}}"#)).await;
        alice.expect(&format!(r#"{{"subAck":{{"st":11,"cn":"{name}"}}}}"#)).await;
        alice.send(&format!(r#"{{"unsub":{{"cn":"{name}"}}}}"#)).await;
        alice.expect(&format!(r#"{{"unsubAck":{{"st":11,"cn":"{name}"}}}}"#)).await;
    }
    for nobody in [Asked::Sub, Asked::Unsub] {
        assert_eq!(server.app.times_asked(nobody).await, 0);
    }
    let mut bob = server.connect("bob").await;
    bob.send(r##"{"pub":{"cn":"#alice","dt":1}}"##).await;
    alice.expect(r##"{"push":{"cn":"#alice","dt":1,"cl":"bob"}}"##).await; // her own is still there
}

// ---- 2.20: again, and not at all ----------------------------------------------------------------

#[tokio::test] // protocol.md 2.20
async fn a_repeated_sub_is_validated_and_sends_the_retained_message_again() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    alice.send(r#"{"pub":{"cn":"news","dt":0,"rt":1}}"#).await;
    alice.expect_nothing_before_hb().await;
    let retained = r#"{"push":{"cn":"news","dt":0,"cl":"alice","rt":1}}"#;
    bob.sub_persistent("news").await;
    bob.expect(retained).await;
    server.app.times_asked(Asked::Sub).await;
    bob.sub("news").await; // not persistent, this time
    bob.expect(retained).await;
    assert_eq!(server.app.times_asked(Asked::Sub).await, 1);
    alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await;
    bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":"alice"}}"#).await; // once
    bob.expect_nothing_before_hb().await;
    let of = server.handle().subscriptions(&client_id("bob")).await;
    let kept = (channel("news"), Persistence::Persistent);
    assert!(of.unwrap().contains(&kept));
}

#[tokio::test] // protocol.md 2.20: and the other way round
async fn subscribing_again_persistently_leaves_a_temporary_subscription_temporary() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub("news").await;
    bob.sub_persistent("news").await;
    let of = server.handle().subscriptions(&client_id("bob")).await;
    let kept = (channel("news"), Persistence::Temporary);
    assert!(of.unwrap().contains(&kept));
    let mut bob = server.reconnect(bob).await;
    let mut alice = server.connect("alice").await;
    alice.pub1("news", "1").await;
    server.settle().await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.20
async fn a_refused_subscription_changes_nothing() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub("news").await;
    let refuse = Behaviour::Refuse(StatusCode::NOT_ALLOWED);
    server.app.set(Asked::Sub, refuse);
    bob.send(r#"{"sub":{"cn":"news"}}"#).await;
    bob.expect(r#"{"subAck":{"st":7,"cn":"news"}}"#).await;
    bob.send(r#"{"sub":{"cn":" secrets ","pr":1}}"#).await;
    bob.expect(r#"{"subAck":{"st":7,"cn":"secrets"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await;
    bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":"alice"}}"#).await;
    alice.send(r#"{"pub":{"cn":"secrets","dt":2}}"#).await;
    alice.expect_nothing_before_hb().await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.20
async fn an_unsub_without_subscription_is_ok_unless_refused() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.send(r#"{"unsub":{"cn":"news"}}"#).await;
    bob.expect(r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
    bob.sub("news").await;
    let refuse = Behaviour::Refuse(StatusCode::new(42));
    server.app.set(Asked::Unsub, refuse);
    bob.send(r#"{"unsub":{"cn":"news"}}"#).await;
    bob.expect(r#"{"unsubAck":{"st":42,"cn":"news"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await;
    bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":"alice"}}"#).await;
}

#[tokio::test] // §9.c: to change the flag, unsubscribe and subscribe
async fn unsubscribing_and_subscribing_changes_the_flag() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    bob.send(r#"{"unsub":{"cn":"news"}}"#).await;
    bob.expect(r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
    bob.sub("news").await;
    let mut bob = server.reconnect(bob).await;
    alice.pub1("news", "1").await;
    server.settle().await;
    bob.expect_nothing_before_hb().await;
}

// ---- §9.c: what survives the session ------------------------------------------------------------

#[tokio::test] // §9.c
async fn a_persistent_subscription_survives_the_session_and_a_restart() {
    let mut server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    bob.send(r#"{"disconn":{}}"#).await;
    bob.closed().await;
    let mut bob = server.connect("bob").await;
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await;
    bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":"alice"}}"#).await; // with no new `sub`
    server.restart().await;
    let mut bob = server.connect("bob").await;
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"pub":{"cn":"news","dt":2}}"#).await;
    bob.expect(r#"{"push":{"cn":"news","dt":2,"cl":"alice"}}"#).await;
}

#[tokio::test] // §9.c, §9.f
async fn a_temporary_subscription_and_its_pending_messages_end_with_the_session() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub("news").await;
    alice.pub1("news", "1").await;
    assert_eq!(bob.next_push().await.data(), "1"); // not acknowledged
    let mut bob = server.reconnect(bob).await;
    alice.pub1("news", "2").await;
    alice.send(r#"{"pub":{"cn":"news","dt":3}}"#).await;
    alice.expect_nothing_before_hb().await;
    server.settle().await;
    bob.expect_nothing_before_hb().await;
    bob.sub_persistent("news").await; // nothing of the old one comes with the new one
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // §9.a, §9.c
async fn qos_1_is_stored_for_an_absent_client_and_qos_0_is_not() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    drop(bob);
    let left = CloseReason::ClosedByClient;
    server.app.expect_close("bob", left).await;
    alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await;
    alice.pub1("news", "2").await;
    alice.pub1("news", "3").await;
    let mut bob = server.connect("bob").await;
    for data in ["2", "3"] {
        let push = bob.next_push().await;
        assert_eq!(push.data(), data);
        bob.ack(&push).await;
    }
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // §9.c: unsubscribing gives up what is pending
async fn unsubscribing_deletes_all_data_of_a_persistent_subscription() {
    let mut server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    alice.pub1("news", "1").await;
    bob.next_push().await;
    bob.send(r#"{"unsub":{"cn":"news"}}"#).await;
    bob.expect(r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
    let mut bob = server.reconnect(bob).await;
    bob.expect_nothing_before_hb().await;
    bob.sub_persistent("news").await;
    bob.expect_nothing_before_hb().await;
    server.restart().await;
    let mut bob = server.connect("bob").await;
    bob.expect_nothing_before_hb().await;
}
