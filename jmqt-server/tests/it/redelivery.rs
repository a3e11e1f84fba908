//! QoS 1 over several connections, subscriptions and windows (§9.a, protocol.md 2.3, 2.13, 2.14).

use crate::support::{Client, Push, TestServer, channel, client_id};
use jmqt_server::{CloseReason, Persistence, Protocol};

fn data(pushes: &[Push]) -> Vec<&str> {
    pushes.iter().map(Push::data).collect()
}

#[tokio::test] // §9.a: the server's ids are its own
async fn the_push_has_an_id_of_the_server_and_the_ack_the_id_of_the_publisher() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let (mut bob, mut carol) = (server.connect("bob").await, server.websocket("carol").await);
    bob.sub_persistent("news").await;
    carol.sub("news").await;
    alice.send(r#"{"pub":{"cn":"news","dt":1,"q":1,"id":"mine"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"mine"}}"#).await;
    for client in [&mut bob, &mut carol] {
        let push = client.next_push().await;
        assert_ne!(push.id(), "mine");
        client.ack(&push).await;
        client.expect_nothing_before_hb().await;
    }
    assert_eq!(server.counters().acks_ignored, 0);
}

#[tokio::test] // §9.a
async fn messages_skipped_by_out_of_order_acks_are_repeated() {
    let mut server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    for n in 1..=5 {
        alice.pub1("news", &n.to_string()).await;
    }
    let first = bob.next_pushes(5).await;
    for index in [3, 1] {
        bob.ack(&first[index]).await;
    }
    bob.expect_nothing_before_hb().await;
    let mut bob = server.reconnect(bob).await;
    let second = bob.next_pushes(3).await;
    assert_eq!(data(&second), ["1", "3", "5"]);
    assert_eq!(second[0].id(), first[0].id());
    bob.ack(&second[0]).await;
    bob.expect_nothing_before_hb().await;
    server.restart().await;
    let mut bob = server.connect("bob").await;
    let third = bob.next_pushes(2).await;
    assert_eq!(data(&third), ["3", "5"]);
    assert_eq!(third[1].id(), first[4].id()); // also by the next process
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.14
async fn a_push_is_not_repeated_within_a_connection() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    alice.pub1("news", "1").await;
    bob.next_push().await;
    bob.sub("news").await; // not by subscribing again
    alice.pub1("news", "2").await; // not by anything new
    assert_eq!(bob.next_push().await.data(), "2");
    bob.send(r#"{"conn":{"at":"token-bob","cl":"bob"}}"#).await; // not by a second `conn`
    bob.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    server.settle().await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.3: live QoS 1 of a channel follows what is pending of it
async fn live_messages_follow_pending_messages() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    drop(bob);
    server.app.expect_close("bob", CloseReason::ClosedByClient).await;
    let mut alice = server.connect("alice").await;
    for n in 0..5 {
        alice.pub1("news", &n.to_string()).await;
    }
    let mut bob = server.connect_with_window("bob", 2).await;
    for n in 5..10 {
        alice.pub1("news", &n.to_string()).await;
    }
    for n in 0..10 {
        let push = bob.next_push().await;
        assert_eq!(push.data(), n.to_string());
        bob.ack(&push).await;
    }
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.3: each channel in its order, round robin over channels
async fn the_first_window_is_shared_by_the_channels() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    let names = ["a", "b", "c", "d"];
    for name in names {
        bob.sub_persistent(name).await;
    }
    drop(bob);
    server.app.expect_close("bob", CloseReason::ClosedByClient).await;
    let mut alice = server.connect("alice").await;
    for name in names {
        for n in 1..=8 {
            alice.pub1(name, &n.to_string()).await;
        }
    }
    let mut bob = server.connect_with_window("bob", 8).await;
    let window = bob.next_pushes(8).await;
    for name in names {
        let of = window.iter().filter(|push| push.channel() == name).cloned();
        let of: Vec<_> = of.collect();
        assert_eq!(data(&of), ["1", "2"], "{name}");
    }
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.14: temporary subscriptions share the window
async fn temporary_and_persistent_subscriptions_share_one_window() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect_with_window("bob", 2).await;
    bob.sub("lent").await;
    bob.sub_persistent("kept").await;
    for n in 1..=3 {
        alice.pub1("lent", &n.to_string()).await;
        alice.pub1("kept", &n.to_string()).await;
    }
    server.settle().await;
    let mut seen = Vec::new();
    for _ in 0..3 {
        let two = bob.next_pushes(2).await;
        bob.expect_nothing_before_hb().await; // no third
        for push in &two {
            bob.ack(push).await;
        }
        seen.extend(two);
    }
    for name in ["lent", "kept"] {
        let of: Vec<_> = seen.iter().filter(|push| push.channel() == name).cloned().collect();
        assert_eq!(data(&of), ["1", "2", "3"]);
    }
}

#[tokio::test] // protocol.md 2.14: so do `unsub` and a forced unsub
async fn a_forced_unsub_frees_the_window_too() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect_with_window("bob", 1).await;
    for (stuck, persistent) in [("a", false), ("b", true)] {
        if persistent {
            bob.sub_persistent(stuck).await;
        } else {
            bob.sub(stuck).await;
        }
        bob.sub_persistent("news").await;
        alice.pub1(stuck, "1").await;
        assert_eq!(bob.next_push().await.channel(), stuck);
        alice.pub1("news", "2").await;
        server.settle().await;
        bob.expect_nothing_before_hb().await;
        let ended = server.handle().force_unsub(&client_id("bob"), &channel(stuck)).await;
        assert!(ended.unwrap());
        let push = bob.next_push().await;
        assert_eq!(push.channel(), "news");
        bob.ack(&push).await;
    }
}

#[tokio::test] // protocol.md 2.14: acks from a later connection
async fn an_ack_may_arrive_on_a_later_connection_before_the_push_is_repeated() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    for n in 1..=3 {
        alice.pub1("news", &n.to_string()).await;
    }
    let first = bob.next_pushes(3).await;
    drop(bob);
    let mut bob = server.connect_with_window("bob", 1).await;
    let again = bob.next_push().await;
    assert_eq!(again.data(), "1");
    bob.ack(&first[1]).await; // has not been repeated yet
    bob.expect_nothing_before_hb().await;
    assert_eq!(server.counters().acks_ignored, 0);
    bob.ack(&again).await;
    assert_eq!(bob.next_push().await.data(), "3");
}

#[tokio::test] // protocol.md 2.14: others are ignored and counted
async fn acks_of_foreign_pushes_are_ignored_and_counted() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let (mut bob, mut carol) = (server.connect("bob").await, server.connect("carol").await);
    bob.sub("lent").await;
    bob.sub_persistent("kept").await;
    carol.sub_persistent("kept").await;
    alice.pub1("lent", "1").await;
    alice.pub1("kept", "2").await;
    let pushes = bob.next_pushes(2).await;
    for push in &pushes {
        alice.ack(push).await; // another client's
    }
    alice.expect_nothing_before_hb().await;
    assert_eq!(server.counters().acks_ignored, 2);
    for push in &pushes {
        bob.ack(push).await;
        bob.ack(push).await; // a second time
    }
    bob.expect_nothing_before_hb().await;
    assert_eq!(server.counters().acks_ignored, 4);
    for id in ["", "7", "nothing", "\\u0000", "99999999999999999999-1-1"] {
        bob.send(&format!(r#"{{"pushAck":{{"id":"{id}"}}}}"#)).await;
    }
    bob.send(r#"{"pushAck":{"id":12}}"#).await;
    bob.expect_nothing_before_hb().await;
    assert_eq!(server.counters().acks_ignored, 10);
    assert_eq!(carol.next_push().await.data(), "2");
    let mut carol = server.reconnect(carol).await;
    assert_eq!(carol.next_push().await.data(), "2"); // nobody has acknowledged hers
}

#[tokio::test] // §9.a: whatever status it carries
async fn an_ack_counts_with_any_status() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect_with_window("bob", 1).await;
    bob.sub_persistent("news").await;
    for status in ["1", "0", "42"] {
        alice.pub1("news", status).await;
        let push = bob.next_push().await;
        bob.send(&format!(r#"{{"pushAck":{{"id":"{}","st":{status}}}}}"#, push.id())).await;
    }
    bob.expect_nothing_before_hb().await;
    assert_eq!(server.counters().acks_ignored, 0);
}

#[tokio::test] // protocol.md 2.14, 2.20: a flag that changes takes what is in flight along
async fn a_push_in_flight_can_be_acknowledged_after_its_subscription_became_persistent() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut carol = server.connect("carol").await;
    carol.sub_persistent("news").await; // so that the message has a place in the log
    let mut bob = server.connect_with_window("bob", 1).await;
    bob.sub("news").await;
    alice.pub1("news", "1").await;
    let push = bob.next_push().await;
    let (handle, id, news) = (server.handle(), client_id("bob"), channel("news"));
    handle.force_sub(&id, &news, Persistence::Persistent).await.unwrap();
    bob.ack(&push).await;
    bob.expect_nothing_before_hb().await;
    assert_eq!(server.counters().acks_ignored, 0);
    alice.pub1("news", "2").await;
    assert_eq!(bob.next_push().await.data(), "2"); // the window is free again
}

#[tokio::test] // protocol.md 2.14, 2.20: and the other way round
async fn a_push_in_flight_can_be_acknowledged_after_its_subscription_became_temporary() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect_with_window("bob", 1).await;
    bob.sub_persistent("news").await;
    alice.pub1("news", "1").await;
    let push = bob.next_push().await;
    let (handle, id, news) = (server.handle(), client_id("bob"), channel("news"));
    handle.force_sub(&id, &news, Persistence::Temporary).await.unwrap();
    alice.pub1("news", "2").await;
    bob.ack(&push).await;
    assert_eq!(bob.next_push().await.data(), "2");
}

#[tokio::test] // protocol.md 2.13: killed at any moment
async fn subscription_and_message_are_on_disk_when_they_are_acknowledged() {
    let mut server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    server.crash().await;
    let mut alice = server.connect("alice").await;
    alice.pub1("news", "1").await;
    server.crash().await;
    let mut bob = server.connect("bob").await;
    let push = bob.next_push().await;
    assert_eq!(push.data(), "1");
    bob.ack(&push).await;
    bob.expect_nothing_before_hb().await;
    server.crash().await; // the ack may or may not be on disk
    let mut bob = server.connect("bob").await;
    bob.send(r#"{"hb":{}}"#).await;
    let next = bob.next().await;
    if next != r#"{"hbAck":{}}"# {
        assert_eq!(next, push.text()); // a redelivery with the same id
    }
}

#[tokio::test] // protocol.md 2.13: ids are not used twice, whatever happened in between
async fn a_new_message_after_a_crash_has_a_new_id() {
    let mut server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    alice.pub1("news", "1").await;
    let first = bob.next_push().await;
    bob.ack(&first).await;
    bob.send(r#"{"unsub":{"cn":"news"}}"#).await;
    bob.expect(r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
    server.crash().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    bob.sub("more").await;
    alice.pub1("news", "2").await;
    alice.pub1("more", "3").await;
    let more = bob.next_pushes(2).await;
    assert!(more.iter().all(|push| push.id() != first.id()));
}

#[tokio::test] // protocol.md 2.14: more than the bitmap of acknowledgements can hold
async fn thousands_of_pending_messages_arrive_in_order() {
    const MESSAGES: u32 = 3000;
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    drop(bob);
    server.app.expect_close("bob", CloseReason::ClosedByClient).await;
    let mut alice = server.connect("alice").await;
    let texts: Vec<_> =
        (0..MESSAGES).map(|n| format!(r#"{{"pub":{{"cn":"news","dt":{n},"q":1,"id":"p"}}}}"#)).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    alice.send_all(&texts).await;
    for _ in 0..MESSAGES {
        alice.expect(r#"{"pubAck":{"st":1,"id":"p"}}"#).await;
    }
    let mut bob = server.websocket("bob").await;
    let first = bob.next_push().await; // acknowledged last
    assert_eq!(first.data(), "0");
    for n in 1..1000 {
        let push = bob.next_push().await;
        assert_eq!(push.data(), n.to_string());
        bob.ack(&push).await;
    }
    bob.ack(&first).await;
    for n in 1000..MESSAGES {
        let push = bob.next_push().await;
        assert_eq!(push.data(), n.to_string());
        bob.ack(&push).await;
    }
    bob.expect_nothing_before_hb().await;
    let mut bob = server.reconnect(bob).await;
    bob.expect_nothing_before_hb().await;
}

// ---- the careful portion ------------------------------------------------------------------------

/// Five pending messages of 400 bytes each for `bob`.
async fn five_are_pending(server: &TestServer, alice: &mut Client) {
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    drop(bob);
    server.app.expect_close("bob", CloseReason::ClosedByClient).await;
    for n in 0..5 {
        alice.pub1("news", &format!(r#""{n}{}""#, "x".repeat(399))).await;
    }
}

#[tokio::test] // protocol.md 2.14: a client on a socket that sent no `wn`
async fn an_original_client_on_a_socket_is_sent_1000_bytes_of_redeliveries_at_a_time() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    for protocol in [Protocol::Socket, Protocol::SslSocket] {
        five_are_pending(&server, &mut alice).await;
        let mut bob = server.connect_over(protocol, "bob").await;
        for portion in [2, 2, 1] {
            let pushes = bob.next_pushes(portion).await;
            bob.expect_nothing_before_hb().await;
            for push in &pushes {
                bob.ack(push).await;
            }
        }
        bob.expect_nothing_before_hb().await;
        drop(bob);
        server.app.notice().await; // gone; without a goodbye over TLS, the reason is another
    }
}

#[tokio::test] // protocol.md 2.14: at least one at a time, and an ack frees the next
async fn a_redelivery_larger_than_the_portion_goes_alone() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    drop(bob);
    server.app.expect_close("bob", CloseReason::ClosedByClient).await;
    let long = format!(r#""{}""#, "x".repeat(3000));
    for data in [&long, "1", &long] {
        alice.pub1("news", data).await;
    }
    let mut bob = server.connect("bob").await;
    for data in [&long, "1", &long] {
        let push = bob.next_push().await;
        assert_eq!(push.data(), data);
        bob.expect_nothing_before_hb().await;
        bob.ack(&push).await;
    }
}

#[tokio::test] // protocol.md 2.14: an ack frees the next
async fn each_ack_of_a_portion_frees_the_next() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    five_are_pending(&server, &mut alice).await;
    let mut bob = server.connect("bob").await;
    let pushes = bob.next_pushes(2).await;
    bob.ack(&pushes[0]).await;
    assert!(bob.next_push().await.data().starts_with("\"2"));
}

#[tokio::test] // protocol.md 2.9, 2.14: the others
async fn websockets_and_clients_that_sent_wn_get_redeliveries_all_at_once() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    five_are_pending(&server, &mut alice).await;
    let mut bob = server.websocket("bob").await;
    bob.next_pushes(5).await;
    drop(bob);
    let mut bob = server.connect_with_window("bob", 100).await;
    bob.next_pushes(5).await;
    drop(bob);
    let mut bob = server.tls_websocket("bob").await;
    bob.next_pushes(5).await;
}

#[tokio::test] // protocol.md 2.14: it is only about what is sent again
async fn live_pushes_to_an_original_client_are_not_held_to_portions() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    for n in 0..5 {
        alice.pub1("news", &format!(r#""{n}{}""#, "x".repeat(399))).await;
    }
    bob.next_pushes(5).await;
}
