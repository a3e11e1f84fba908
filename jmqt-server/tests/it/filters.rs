//! Subscriptions of JMQT clients with filters (protocol.md 2.25).

use crate::support::{Asked, Behaviour, TestServer};
use jmqt_server::StatusCode;

#[tokio::test] // protocol.md 2.25
async fn a_filter_matches_levels_and_its_pushes_have_their_own_channel() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.send(r#"{"sub":{"cn":" rooms/+/temperature ","wc":1}}"#).await;
    bob.expect(r#"{"subAck":{"st":1,"cn":"rooms/+/temperature","wc":1}}"#).await;
    bob.send(r#"{"sub":{"cn":"garden/#","wc":true}}"#).await;
    bob.expect(r#"{"subAck":{"st":1,"cn":"garden/#","wc":1}}"#).await;
    for (channel, is_matching) in [
        ("rooms/1/temperature", true),
        ("rooms//temperature", true),
        ("rooms/+/temperature", true),
        ("rooms/#3/temperature", true),
        ("rooms/1/2/temperature", false),
        ("garden", true),
        ("garden/a/b", true),
        ("gardens", false),
    ] {
        alice.send(&format!(r#"{{"pub":{{"cn":"{channel}","dt":1.50}}}}"#)).await;
        if is_matching {
            bob.expect(&format!(r#"{{"push":{{"cn":"{channel}","dt":1.50,"cl":"alice"}}}}"#)).await;
        }
    }
    alice.expect_nothing_before_hb().await;
    bob.expect_nothing_before_hb().await;
    bob.send(r#"{"unsub":{"cn":"garden/#","wc":1}}"#).await;
    bob.expect(r#"{"unsubAck":{"st":1,"cn":"garden/#","wc":1}}"#).await;
    alice.send(r#"{"pub":{"cn":"garden","dt":2}}"#).await;
    alice.pub1("garden", "3").await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.25: `#` matches no control and no point-to-point channel
async fn a_filter_for_everything_matches_plain_channels_only() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    let _carol = server.connect("carol").await;
    bob.send(r##"{"sub":{"cn":"#","wc":1}}"##).await;
    bob.expect(r##"{"subAck":{"st":1,"cn":"#","wc":1}}"##).await;
    alice.send(r##"{"pub":{"cn":"#carol","dt":1}}"##).await;
    alice.send(r#"{"pub":{"cn":"a","dt":2}}"#).await;
    bob.expect(r#"{"push":{"cn":"a","dt":2,"cl":"alice"}}"#).await;
    // Own messages are skipped (2.11), and those to the own channel come as ever.
    bob.send(r#"{"pub":{"cn":"a","dt":3}}"#).await;
    alice.send(r##"{"pub":{"cn":"#bob","dt":4}}"##).await;
    bob.expect(r##"{"push":{"cn":"#bob","dt":4,"cl":"alice"}}"##).await;
}

#[tokio::test] // protocol.md 2.25
async fn without_wc_a_name_with_wildcards_is_the_channel_of_that_name() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    for more in ["", r#","wc":0"#] {
        bob.send(&format!(r#"{{"sub":{{"cn":"a/+"{more}}}}}"#)).await;
        bob.expect(r#"{"subAck":{"st":1,"cn":"a/+"}}"#).await;
    }
    alice.send(r#"{"pub":{"cn":"a/b","dt":1}}"#).await;
    alice.send(r#"{"pub":{"cn":"a/+","dt":2}}"#).await;
    bob.expect(r#"{"push":{"cn":"a/+","dt":2,"cl":"alice"}}"#).await;
    // The filter is another subscription: one ends, the other stays.
    bob.send(r#"{"sub":{"cn":"a/+","wc":1}}"#).await;
    bob.expect(r#"{"subAck":{"st":1,"cn":"a/+","wc":1}}"#).await;
    bob.send(r#"{"unsub":{"cn":"a/+"}}"#).await;
    bob.expect(r#"{"unsubAck":{"st":1,"cn":"a/+"}}"#).await;
    alice.send(r#"{"pub":{"cn":"a/b","dt":3}}"#).await;
    bob.expect(r#"{"push":{"cn":"a/b","dt":3,"cl":"alice"}}"#).await;
}

#[tokio::test] // protocol.md 2.25
async fn a_filter_without_wildcards_is_the_channel_of_that_name() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.send(r#"{"sub":{"cn":"news","pr":1,"wc":1}}"#).await;
    bob.expect(r#"{"subAck":{"st":1,"cn":"news","wc":1}}"#).await;
    alice.pub1("news", "1").await;
    let push = bob.expect_push(r#"{"push":{"cn":"news","dt":1,"cl":"alice","q":1,"id":"*"}}"#).await;
    bob.ack(&push).await;
    bob.send(r#"{"unsub":{"cn":"news","wc":1}}"#).await;
    bob.expect(r#"{"unsubAck":{"st":1,"cn":"news","wc":1}}"#).await;
}

#[tokio::test] // protocol.md 2.25, 2.14
async fn pushes_of_a_filter_are_acknowledged() {
    let server = TestServer::start().await;
    let (mut alice, mut carol) = (server.connect("alice").await, server.connect("carol").await);
    let mut bob = server.connect_with_window("bob", 1).await;
    bob.send(r#"{"sub":{"cn":"rooms/#","wc":1}}"#).await;
    bob.expect(r#"{"subAck":{"st":1,"cn":"rooms/#","wc":1}}"#).await;
    // The messages of one channel are in the log, those of the other are not.
    carol.sub_persistent("rooms/1").await;
    for (channel, data) in [("rooms/1", "1"), ("rooms/2", "2"), ("rooms/1", "3")] {
        alice.pub1(channel, data).await;
    }
    for (channel, data) in [("rooms/1", "1"), ("rooms/2", "2"), ("rooms/1", "3")] {
        let text = format!(r#"{{"push":{{"cn":"{channel}","dt":{data},"cl":"alice","q":1,"id":"*"}}}}"#);
        let push = bob.expect_push(&text).await;
        bob.expect_nothing_before_hb().await;
        bob.ack(&push).await;
    }
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.25
async fn a_message_comes_once_for_all_matching_subscriptions() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("a/b").await;
    for filter in ["a/+", "#"] {
        bob.send(&format!(r#"{{"sub":{{"cn":"{filter}","wc":1}}}}"#)).await;
        bob.expect(&format!(r#"{{"subAck":{{"st":1,"cn":"{filter}","wc":1}}}}"#)).await;
    }
    for q in [0, 1] {
        alice.send(&format!(r#"{{"pub":{{"cn":"a/b","dt":{q},"q":{q},"id":"7"}}}}"#)).await;
        let push = bob.next_push().await;
        assert_eq!((push.channel(), push.data()), ("a/b", &*q.to_string()));
        if push.is_qos1() {
            bob.ack(&push).await;
        }
        bob.expect_nothing_before_hb().await;
    }
}

#[tokio::test] // protocol.md 2.25, §9.b
async fn a_filter_brings_the_retained_messages_of_its_channels_after_its_answer() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    for channel in ["rooms/1/t", "rooms/2/t", "rooms/2/x", "other"] {
        alice
            .send(&format!(r#"{{"pub":{{"cn":"{channel}","dt":"{channel}","q":1,"rt":1,"id":"7"}}}}"#))
            .await;
        alice.expect(r#"{"pubAck":{"st":1,"id":"7"}}"#).await;
    }
    // Again also for a filter that is there already (2.20).
    for _ in 0..2 {
        bob.send(r#"{"sub":{"cn":"rooms/+/t","wc":1}}"#).await;
        bob.expect(r#"{"subAck":{"st":1,"cn":"rooms/+/t","wc":1}}"#).await;
        for channel in ["rooms/1/t", "rooms/2/t"] {
            let text = format!(r#"{{"push":{{"cn":"{channel}","dt":"{channel}","cl":"alice","rt":1}}}}"#);
            bob.expect(&text).await;
        }
    }
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.25
async fn a_filter_needs_the_permission_of_the_application() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    server.app.set(Asked::Sub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    bob.send(r#"{"sub":{"cn":"a/+","wc":1}}"#).await;
    bob.expect(r#"{"subAck":{"st":7,"cn":"a/+","wc":1}}"#).await;
    assert_eq!(server.app.asked(Asked::Sub).await, "a/+");
    server.app.set(Asked::Sub, Behaviour::Fail);
    bob.send(r#"{"sub":{"cn":"a/+","wc":1}}"#).await;
    bob.expect(r#"{"subAck":{"st":5,"cn":"a/+","wc":1}}"#).await;
}

#[tokio::test] // protocol.md 2.25
async fn an_invalid_filter_is_answered_with_11_unvalidated() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    let (long, levels) = (format!("{}/+", "x".repeat(511)), "/".repeat(201) + "+");
    for bad in ["a#", "a/#/b", "a+/b", "##", "#bob", "$share/g/+", "$x/#", "", "$", "$list", &long, &levels] {
        for (packet, ack) in [("sub", "subAck"), ("unsub", "unsubAck")] {
            bob.send(&format!(r#"{{"{packet}":{{"cn":"{bad}","wc":1}}}}"#)).await;
            bob.expect(&format!(r#"{{"{ack}":{{"st":11,"cn":"{bad}","wc":1}}}}"#)).await;
        }
    }
    bob.send(r#"{"sub":{"cn":"a/+","wc":1,"pr":2}}"#).await;
    bob.expect(r#"{"subAck":{"st":10,"cn":"a/+","wc":1}}"#).await;
    assert_eq!(server.app.times_asked(Asked::Sub).await, 0);
}

#[tokio::test] // protocol.md 2.25: escapes belong to MQTT
async fn an_escape_of_mqtt_is_plain_text_in_a_filter() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.send(r#"{"sub":{"cn":"a%23/+","wc":1}}"#).await;
    bob.expect(r#"{"subAck":{"st":1,"cn":"a%23/+","wc":1}}"#).await;
    for (channel, is_matching) in [("a#/b", false), ("a%2523/b", false), ("a%23/b", true)] {
        alice.send(&format!(r#"{{"pub":{{"cn":"{channel}","dt":1}}}}"#)).await;
        if is_matching {
            bob.expect(&format!(r#"{{"push":{{"cn":"{channel}","dt":1,"cl":"alice"}}}}"#)).await;
        }
    }
}

#[tokio::test] // protocol.md 2.25, 2.13, §9.c
async fn messages_of_a_persistent_filter_wait_for_the_client_also_over_a_crash() {
    let mut server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.send(r#"{"sub":{"cn":"a/+","pr":1,"wc":1}}"#).await;
    bob.expect(r#"{"subAck":{"st":1,"cn":"a/+","wc":1}}"#).await;
    drop(bob);
    // Nothing was published before bob went, and nothing but the filter is stored.
    server.crash().await;
    let mut alice = server.connect("alice").await;
    for (channel, data) in [("a/1", "1"), ("a/b/c", "2"), ("a/1", "3")] {
        alice.pub1(channel, data).await;
    }
    server.crash().await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect("bob").await;
    for data in ["1", "3"] {
        let text = format!(r#"{{"push":{{"cn":"a/1","dt":{data},"cl":"alice","q":1,"id":"*"}}}}"#);
        let push = bob.expect_push(&text).await;
        bob.ack(&push).await;
    }
    // It goes on, in channels that are new too, until the client ends it.
    alice.pub1("a/2", "4").await;
    let push = bob.expect_push(r#"{"push":{"cn":"a/2","dt":4,"cl":"alice","q":1,"id":"*"}}"#).await;
    bob.ack(&push).await;
    bob.send(r#"{"unsub":{"cn":"a/+","wc":1}}"#).await;
    bob.expect(r#"{"unsubAck":{"st":1,"cn":"a/+","wc":1}}"#).await;
    for channel in ["a/1", "a/3"] {
        alice.pub1(channel, "5").await;
    }
    bob.expect_nothing_before_hb().await;
    let mut bob = server.reconnect(bob).await;
    alice.pub1("a/1", "6").await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.25, 2.14: a push that was not acknowledged comes again, and one that was does not
async fn pushes_of_a_persistent_filter_come_again_until_they_are_acknowledged() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.send(r##"{"sub":{"cn":"#","pr":1,"wc":1}}"##).await;
    bob.expect(r##"{"subAck":{"st":1,"cn":"#","wc":1}}"##).await;
    for data in ["1", "2"] {
        alice.pub1("a", data).await;
    }
    let first = bob.next_push().await;
    let second = bob.next_push().await;
    assert_eq!((first.data(), second.data()), ("1", "2"));
    bob.ack(&first).await;
    bob.expect_nothing_before_hb().await;
    let mut bob = server.reconnect(bob).await;
    let again = bob.next_push().await;
    assert_eq!((again.data(), again.id()), ("2", second.id()));
    bob.ack(&again).await;
    bob.expect_nothing_before_hb().await;
    // Own messages are skipped (2.11).
    bob.pub1("a", "3").await;
    alice.pub1("a", "4").await;
    assert_eq!(bob.next_push().await.data(), "4");
}
