//! The order of messages, and that publishers do not receive their own (protocol.md 2.10, 2.11).

use crate::support::{Asked, Behaviour, Client, TestServer};
use jmqt_server::StatusCode;

/// QoS 1 publishes in one write, with `data` for data and ids.
async fn publish_all(alice: &mut Client, data: std::ops::Range<u32>) {
    let texts: Vec<_> =
        data.map(|n| format!(r#"{{"pub":{{"cn":"news","dt":{n},"q":1,"id":"{n}"}}}}"#)).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    alice.send_all(&texts).await;
}

async fn expect_acks(alice: &mut Client, ids: std::ops::Range<u32>) {
    for id in ids {
        alice.expect(&format!(r#"{{"pubAck":{{"st":1,"id":"{id}"}}}}"#)).await;
    }
}

#[tokio::test] // protocol.md 2.10
async fn packets_of_one_connection_are_answered_in_their_order() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice
        .send_all(&[
            r#"{"sub":{"cn":"a","pr":1}}"#,
            r#"{"hb":{}}"#,
            r#"{"sub":{"cn":"b"}}"#,
            r#"{"pub":{"cn":"$echo","dt":1,"id":"1"}}"#,
            r#"{"unsub":{"cn":"a"}}"#,
            r#"{"auth":{"dt":{}}}"#,
            r#"{"sub":{}}"#,
            r#"{"hb":{}}"#,
        ])
        .await;
    alice
        .expect_all(&[
            r#"{"subAck":{"st":1,"cn":"a"}}"#,
            r#"{"hbAck":{}}"#,
            r#"{"subAck":{"st":1,"cn":"b"}}"#,
            r#"{"pubAck":{"st":1,"id":"1","dt":1}}"#,
            r#"{"unsubAck":{"st":1,"cn":"a"}}"#,
            r#"{"authAck":{"st":7,"mg":"client_name is missing"}}"#,
            r#"{"subAck":{"st":10}}"#,
            r#"{"hbAck":{}}"#,
        ])
        .await;
}

#[tokio::test] // protocol.md 2.10: the order holds although a validator takes its time
async fn a_slow_validator_delays_later_packets_of_the_connection() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let gate = server.app.hold(Asked::Sub);
    alice.send_all(&[r#"{"sub":{"cn":"a"}}"#, r#"{"unsub":{"cn":"a"}}"#]).await;
    server.app.asked(Asked::Sub).await;
    assert_eq!(server.app.times_asked(Asked::Unsub).await, 0);
    gate.open();
    alice.expect(r#"{"subAck":{"st":1,"cn":"a"}}"#).await;
    alice.expect(r#"{"unsubAck":{"st":1,"cn":"a"}}"#).await;
}

#[tokio::test] // protocol.md 2.10
async fn acks_and_refusals_of_qos_1_publishes_keep_their_order() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    alice
        .send_all(&[
            r#"{"pub":{"cn":"news","dt":1,"q":1,"id":"1"}}"#,
            r#"{"pub":{"cn":"$","dt":2,"q":1,"id":"2"}}"#,
            r#"{"hb":{}}"#,
            r#"{"pub":{"cn":"news","dt":3,"q":1,"id":"3"}}"#,
            r##"{"pub":{"cn":"#nobody","dt":4,"q":1,"id":"4"}}"##,
            r##"{"pub":{"cn":"#alice","dt":5,"q":1,"id":"5"}}"##,
            r#"{"pub":{"cn":"news","dt":6,"q":1,"id":"6"}}"#,
        ])
        .await;
    let mut acks = Vec::new();
    for _ in 0..7 {
        acks.push(alice.next().await);
    }
    acks.retain(|text| text != r#"{"hbAck":{}}"#); // may come anywhere
    assert_eq!(
        acks,
        [
            r#"{"pubAck":{"st":1,"id":"1"}}"#,
            r#"{"pubAck":{"st":11,"id":"2"}}"#,
            r#"{"pubAck":{"st":1,"id":"3"}}"#,
            r#"{"pubAck":{"st":8,"id":"4"}}"#,
            r#"{"pubAck":{"st":8,"id":"5"}}"#,
            r#"{"pubAck":{"st":1,"id":"6"}}"#,
        ]
    );
    for data in ["1", "3", "6"] {
        assert_eq!(bob.next_push().await.data(), data);
    }
}

#[tokio::test] // protocol.md 2.10: refused by the validator, too
async fn a_refusal_by_the_validator_does_not_overtake_earlier_acks() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    publish_all(&mut alice, 0..50).await;
    server.app.asked(Asked::Pub).await;
    let refuse = Behaviour::Refuse(StatusCode::NOT_ALLOWED);
    server.app.set(Asked::Pub, refuse);
    publish_all(&mut alice, 50..60).await;
    for id in 0..60 {
        let ack = alice.next().await;
        assert!(ack.ends_with(&format!(r#""id":"{id}"}}}}"#)), "{ack}");
    }
}

#[tokio::test] // protocol.md 2.10
async fn each_qos_level_reaches_every_subscriber_in_publish_order() {
    const MESSAGES: u32 = 300;
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut subscribers = Vec::new();
    for (name, persistent) in [("bob", true), ("carol", false), ("dave", true)] {
        let mut subscriber = server.connect_with_window(name, 64).await;
        if persistent {
            subscriber.sub_persistent("news").await;
        } else {
            subscriber.sub("news").await;
        }
        subscribers.push(subscriber);
    }
    for n in 0..MESSAGES {
        let q = n % 2;
        let publish = format!(r#"{{"pub":{{"cn":"news","dt":{n},"q":{q},"id":"{n}"}}}}"#);
        alice.send(&publish).await;
    }
    for subscriber in &mut subscribers {
        let (mut qos0, mut qos1) = (Vec::new(), Vec::new());
        for _ in 0..MESSAGES {
            let push = subscriber.next_push().await;
            let data: u32 = push.data().parse().unwrap();
            if push.is_qos1() {
                subscriber.ack(&push).await;
                qos1.push(data);
            } else {
                qos0.push(data);
            }
        }
        let of = |q| (0..MESSAGES).filter(|n| n % 2 == q).collect::<Vec<_>>();
        assert_eq!((qos0, qos1), (of(0), of(1)));
    }
}

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

#[tokio::test] // protocol.md 2.10: also across a reconnect
async fn order_holds_across_a_reconnect_of_the_subscriber() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    publish_all(&mut alice, 0..100).await;
    for n in 0..30 {
        let push = bob.next_push().await;
        assert_eq!(push.data(), n.to_string());
        bob.ack(&push).await;
    }
    bob.expect_hb_among_pushes().await; // the acks have arrived
    drop(bob);
    let mut bob = server.connect_with_window("bob", 16).await;
    publish_all(&mut alice, 100..200).await;
    for n in 30..200 {
        let push = bob.next_push().await;
        assert_eq!(push.data(), n.to_string());
        bob.ack(&push).await;
    }
    expect_acks(&mut alice, 0..200).await;
}

#[tokio::test] // protocol.md 2.10: also across a reconnect of the publisher
async fn order_holds_across_a_reconnect_of_the_publisher() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub("news").await;
    let mut alice = server.connect("alice").await;
    publish_all(&mut alice, 0..50).await;
    expect_acks(&mut alice, 0..50).await;
    let mut alice = server.reconnect(alice).await;
    publish_all(&mut alice, 50..100).await;
    for n in 0..100 {
        let push = bob.next_push().await;
        assert_eq!(push.data(), n.to_string());
        bob.ack(&push).await;
    }
}

#[tokio::test] // protocol.md 2.10
async fn retained_messages_of_any_qos_are_replaced_in_order_of_arrival() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    let (q0, q1) = ("", r#","q":1,"id":"p""#);
    for (first, second) in [(q0, q1), (q1, q0), (q0, q0), (q1, q1)] {
        for _ in 0..20 {
            let older = format!(r#"{{"pub":{{"cn":"news","dt":"old","rt":1{first}}}}}"#);
            let newer = format!(r#"{{"pub":{{"cn":"news","dt":"new","rt":1{second}}}}}"#);
            alice.send_all(&[&older, &newer]).await;
            alice.pub1_among_acks("other", "0").await;
            server.settle().await;
            bob.sub("news").await;
            bob.expect(r#"{"push":{"cn":"news","dt":"new","cl":"alice","rt":1}}"#).await;
            bob.send(r#"{"unsub":{"cn":"news"}}"#).await;
            bob.expect(r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
        }
    }
}

// ---- 2.11: own messages -------------------------------------------------------------------------

#[tokio::test] // protocol.md 2.11
async fn a_publisher_does_not_receive_its_own_messages() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    alice.sub("news").await;
    alice.sub_persistent("more").await;
    bob.sub("news").await;
    alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await;
    alice.pub1("news", "2").await;
    alice.pub1("more", "3").await;
    server.settle().await;
    alice.expect_nothing_before_hb().await;
    assert_eq!(bob.next_push().await.data(), "1");
    assert_eq!(bob.next_push().await.data(), "2");
}

#[tokio::test] // protocol.md 2.11: for its cursor its own message counts as acknowledged
async fn own_messages_are_not_delivered_after_a_reconnect() {
    let mut server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    alice.sub_persistent("news").await;
    bob.sub_persistent("news").await;
    alice.pub1("news", "1").await;
    assert_eq!(bob.next_push().await.data(), "1"); // not acknowledged
    bob.pub1("news", "2").await;
    assert_eq!(alice.next_push().await.data(), "2");
    alice.pub1("news", "3").await;
    let mut alice = server.reconnect(alice).await;
    let push = alice.next_push().await;
    assert_eq!((push.data(), push.client()), ("2", "bob"));
    alice.ack(&push).await;
    alice.expect_nothing_before_hb().await;
    server.restart().await;
    let mut alice = server.connect("alice").await;
    alice.expect_nothing_before_hb().await;
    let mut bob = server.connect("bob").await;
    assert_eq!(bob.next_push().await.data(), "1");
    assert_eq!(bob.next_push().await.data(), "3");
}

#[tokio::test] // protocol.md 2.11
async fn a_publisher_receives_its_own_retained_message_later() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let retained = r#"{"push":{"cn":"news","dt":1,"cl":"alice","rt":1}}"#;
    alice.send(r#"{"pub":{"cn":"news","dt":1,"rt":1}}"#).await;
    alice.sub_persistent("news").await;
    alice.expect(retained).await;
    let mut alice = server.reconnect(alice).await;
    alice.expect(retained).await;
}

#[tokio::test] // protocol.md 2.11
async fn a_message_to_the_publishers_own_channel_is_answered_with_8() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.send(r##"{"pub":{"cn":"#alice","dt":1,"q":1,"id":"1"}}"##).await;
    alice.expect(r#"{"pubAck":{"st":8,"id":"1"}}"#).await;
    alice.send(r##"{"pub":{"cn":"#alice","dt":1,"id":"2"}}"##).await;
    alice.expect(r#"{"pubAck":{"st":8,"id":"2"}}"#).await;
    alice.send(r##"{"pub":{"cn":"#alice","dt":1}}"##).await; // no id, no answer
    alice.expect_nothing_before_hb().await;
}
