//! QoS 1: stored, delivered, acknowledged, delivered again (§9.a, protocol.md 2.9, 2.10, 2.13, 2.14).

use crate::support::TestServer;
use jmqt_server::Protocol;

fn publish(channel: &str, number: usize) -> String {
    format!(r#"{{"pub":{{"cn":"{channel}","dt":{number},"q":1,"id":"{number}"}}}}"#)
}

#[tokio::test] // §9.a: a push without a `pushAck` is sent again when the client reconnects
async fn an_unacknowledged_push_is_repeated_with_the_same_id_after_a_reconnect() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    alice.pub1("news", "1.50").await;
    alice.pub1("news", "2").await;
    let pushes = bob.next_pushes(2).await;
    bob.ack(&pushes[1]).await; // out of order
    bob.expect_nothing_before_hb().await;

    let mut bob = server.reconnect(bob).await;
    assert_eq!(bob.next_push().await, pushes[0]);
    bob.expect_nothing_before_hb().await;
    bob.ack(&pushes[0]).await;
    let mut bob = server.reconnect(bob).await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.13
async fn acknowledged_publishes_survive_a_crash() {
    let mut server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    alice.pub1("news", "\"stored\"").await;
    alice.send(r#"{"pub":{"cn":"kept","dt":"retained","q":1,"rt":1,"id":"r"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"r"}}"#).await;
    let before = bob.next_push().await;
    server.crash().await;
    let mut bob = server.connect("bob").await;
    assert_eq!(bob.next_push().await, before);
    bob.sub("kept").await;
    bob.expect(r#"{"push":{"cn":"kept","dt":"retained","cl":"alice","rt":1}}"#).await;
}

#[tokio::test] // §9.a: with no subscriber at all, a QoS 1 message is discarded
async fn a_message_without_subscribers_is_acknowledged_and_discarded() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.pub1("news", "1").await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.9, 2.14
async fn no_more_than_the_window_is_in_flight_and_an_ack_frees_the_next() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    for persistent in [false, true] {
        let channel = format!("news{persistent}");
        let mut bob = server.connect_with_window("bob", 3).await;
        if persistent {
            bob.sub_persistent(&channel).await;
        } else {
            bob.sub(&channel).await;
        }
        for number in 0..10 {
            alice.pub1(&channel, &number.to_string()).await;
        }
        server.settle().await;
        let mut pushes = bob.next_pushes(3).await;
        bob.expect_nothing_before_hb().await;
        for number in 3..10 {
            bob.ack(&pushes.remove(0)).await;
            pushes.push(bob.next_push().await);
            assert_eq!(pushes[2].data(), number.to_string());
        }
        bob.expect_nothing_before_hb().await;
    }
}

#[tokio::test] // protocol.md 2.14: MAX_INFLIGHT holds whatever the client asks for
async fn a_client_cannot_ask_for_more_than_max_inflight() {
    let server = TestServer::configured(|config| config.max_inflight = 5).await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect_with_window("bob", 1000).await;
    bob.sub_persistent("news").await;
    for number in 0..8 {
        alice.pub1("news", &number.to_string()).await;
    }
    server.settle().await;
    bob.next_pushes(5).await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.14
async fn channels_that_are_not_acknowledged_leave_room_for_others() {
    let server = TestServer::configured(|config| config.max_inflight = 32).await;
    let mut alice = server.connect("alice").await;
    for persistent in [false, true] {
        let mut bob = server.connect_with_window("bob", 32).await;
        let names = ["a", "b", "c"].map(|name| format!("{name}{persistent}"));
        for name in &names {
            if persistent {
                bob.sub_persistent(name).await;
            } else {
                bob.sub(name).await;
            }
        }
        for number in 0..40 {
            alice.pub1(&names[0], &number.to_string()).await;
        }
        server.settle().await;
        bob.next_pushes(24).await; // three quarters, of which none is acknowledged
        bob.expect_nothing_before_hb().await;
        for number in 0..40 {
            alice.pub1(&names[1], &number.to_string()).await;
        }
        server.settle().await;
        let stuck = bob.next_pushes(6).await; // 6 < 3 × 2: two are free
        assert!(stuck.iter().all(|push| push.channel() == names[1]));
        bob.expect_nothing_before_hb().await;
        // A channel that is acknowledged goes on, in order, also from what waited.
        for number in 0..40 {
            alice.pub1(&names[2], &number.to_string()).await;
        }
        for number in 0..40 {
            let push = bob.next_push().await;
            assert_eq!((push.channel(), push.data()), (names[2].as_str(), number.to_string().as_str()));
            bob.ack(&push).await;
        }
        // And so does one that is acknowledged again.
        for push in &stuck {
            bob.ack(push).await;
        }
        assert_eq!(bob.next_push().await.data(), "6");
    }
}

#[tokio::test] // protocol.md 2.14
async fn unsubscribing_frees_the_window_for_other_channels() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect_with_window("bob", 2).await;
    bob.sub_persistent("a").await;
    bob.sub_persistent("b").await;
    for number in 0..3 {
        alice.pub1("a", &number.to_string()).await;
    }
    alice.pub1("b", "\"b\"").await;
    server.settle().await;
    let pushes = bob.next_pushes(2).await;
    assert!(pushes.iter().all(|push| push.channel() == "a"));
    bob.send(r#"{"unsub":{"cn":"a"}}"#).await;
    bob.expect(r#"{"unsubAck":{"st":1,"cn":"a"}}"#).await;
    assert_eq!(bob.next_push().await.channel(), "b");
}

#[tokio::test] // protocol.md 2.14
async fn acks_count_once_from_any_connection_and_others_are_ignored() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect_with_window("bob", 10).await);
    bob.sub_persistent("news").await;
    alice.pub1("news", "1").await;
    alice.pub1("news", "2").await;
    let pushes = bob.next_pushes(2).await;
    drop(bob);
    let mut bob = server.connect_with_window("bob", 1).await;
    assert_eq!(bob.next_push().await, pushes[0]);
    bob.ack(&pushes[1]).await; // not repeated yet, but it has been pushed before
    bob.ack(&pushes[0]).await;
    bob.ack(&pushes[0]).await;
    bob.send(r#"{"pushAck":{"id":"nonsense"}}"#).await;
    bob.send(r#"{"pushAck":{"id":"ffffffff-1-1","st":1}}"#).await;
    bob.expect_nothing_before_hb().await;
    assert_eq!(server.counters().acks_ignored, 3);
    let mut bob = server.reconnect(bob).await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.10
async fn messages_keep_their_order_live_and_across_reconnects() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect_with_window("bob", 16).await;
    bob.sub_persistent("news").await;
    let texts: Vec<String> = (0..300).map(|number| publish("news", number)).collect();
    for half in texts.chunks(150) {
        alice.send_all(&half.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    for number in 0..300 {
        alice.expect(&format!(r#"{{"pubAck":{{"st":1,"id":"{number}"}}}}"#)).await;
    }
    let mut next = 0;
    while next < 300 {
        for _ in 0..13.min(300 - next) {
            let push = bob.next_push().await;
            assert_eq!(push.data(), next.to_string());
            bob.ack(&push).await;
            next += 1;
        }
        // The acks have been handled when the answer to what follows them is there.
        bob.send(r#"{"hb":{}}"#).await;
        while bob.next().await != r#"{"hbAck":{}}"# {}
        bob = server.reconnect_with_window(bob, 16).await;
    }
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // §9.a on every transport
async fn qos_1_works_on_all_four_listeners() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    for protocol in Protocol::JMQT {
        let mut bob = server.connect_over(protocol, "bob").await;
        bob.sub_persistent("news").await;
        alice.pub1("news", "1").await;
        let push = bob.next_push().await;
        bob = server.reconnect(bob).await;
        assert_eq!(bob.next_push().await, push);
        bob.ack(&push).await;
        bob.expect_nothing_before_hb().await;
    }
}
