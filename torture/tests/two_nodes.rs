//! A cluster of two nodes without faults behaves like one node.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use serde_json::json;
use torture::{Client, Cluster, LOOK_EVERY, Load, LoadOptions, until, within};

/// Publishes with QoS 1 and takes the answer.
async fn publish(client: &mut Client, channel: &str, data: &str, retained: u8) {
    let text = format!(r#"{{"pub":{{"cn":"{channel}","dt":{data},"q":1,"rt":{retained},"id":"1"}}}}"#);
    client.ask(&text, r#"{"pubAck":{"st":1,"id":"1"}}"#).await;
}

/// Asks a control channel until it answers this. Other nodes hear of sessions a moment later.
async fn ask_until(by: &mut Client, channel: &str, data: &str, wanted: serde_json::Value) {
    within(format_args!("{wanted} from {channel} {data}"), async {
        while by.control(channel, data).await != wanted {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await;
}

/// Waits until a client is known to be away where `by` is connected.
async fn away(by: &mut Client, client: &str) {
    ask_until(by, "$is_connected", &format!(r#"{{"client":"{client}"}}"#), json!(false)).await;
}

/// A QoS 1 push from alice on channel `news`.
fn news(data: &str) -> String {
    format!(r#"{{"push":{{"cn":"news","dt":{data},"cl":"alice","q":1,"id":"*"}}}}"#)
}

#[tokio::test(flavor = "multi_thread")] // §9.a, protocol.md 2.10, 2.13, 2.16
async fn messages_of_publishers_on_both_nodes_reach_subscribers_on_both_in_order() {
    let Some(cluster) = Cluster::of(2).await else { return };
    let load = Load::start(cluster.targets(), LoadOptions::default()).await;
    load.progress(200).await;
    load.finish(&cluster).await.expect_no_problems();
}

#[tokio::test(flavor = "multi_thread")] // §9.a
async fn pushes_reach_the_other_node_with_either_qos() {
    let Some(cluster) = Cluster::of(2).await else { return };
    let mut alice = cluster.connect(0, "alice").await;
    let (mut bob, mut carol) = (cluster.connect(1, "bob").await, cluster.connect(0, "carol").await);
    bob.subscribe("news", false).await;
    carol.subscribe("news", false).await;
    for number in 0..100 {
        alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":{number}}}}}"#)).await;
    }
    for client in [&mut bob, &mut carol] {
        for number in 0..100 {
            client.take(&format!(r#"{{"push":{{"cn":"news","dt":{number},"cl":"alice"}}}}"#)).await;
        }
    }
    for number in 0..20 {
        publish(&mut alice, "news", &number.to_string(), 0).await;
    }
    for client in [&mut bob, &mut carol] {
        for number in 0..20 {
            assert!(client.take(&news(&number.to_string())).await.is_some());
        }
    }
    let unsub = r#"{"unsub":{"cn":"news"}}"#;
    bob.ask(unsub, r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
    publish(&mut alice, "news", "99", 0).await;
    carol.take(&news("99")).await;
    bob.heartbeat().await; // and no push before it
}

#[tokio::test(flavor = "multi_thread")] // §9.d, protocol.md 2.21
async fn p2p_messages_find_their_client_on_the_other_node() {
    let Some(cluster) = Cluster::of(2).await else { return };
    let (mut alice, mut bob) = (cluster.connect(0, "alice").await, cluster.connect(1, "bob").await);
    alice.send(r##"{"pub":{"cn":"#bob","dt":1}}"##).await;
    bob.take(r##"{"push":{"cn":"#bob","dt":1,"cl":"alice"}}"##).await;
    alice.ask(r##"{"pub":{"cn":"#bob","dt":2,"q":1,"id":"a"}}"##, r#"{"pubAck":{"st":1,"id":"a"}}"#).await;
    bob.take(r##"{"push":{"cn":"#bob","dt":2,"cl":"alice","q":1,"id":"*"}}"##).await;
    bob.leave().await;
    away(&mut alice, "bob").await;
    alice.ask(r##"{"pub":{"cn":"#bob","dt":3,"q":1,"id":"b"}}"##, r#"{"pubAck":{"st":8,"id":"b"}}"#).await;
    alice.ask(r##"{"pub":{"cn":"#nobody","dt":3,"q":1,"id":"c"}}"##, r#"{"pubAck":{"st":8,"id":"c"}}"#).await;

    // It has come to where alice is.
    let mut bob = cluster.connect(0, "bob").await;
    alice.ask(r##"{"pub":{"cn":"#bob","dt":4,"q":1,"id":"d"}}"##, r#"{"pubAck":{"st":1,"id":"d"}}"#).await;
    bob.take(r##"{"push":{"cn":"#bob","dt":4,"cl":"alice","q":1,"id":"*"}}"##).await;
}

#[tokio::test(flavor = "multi_thread")] // protocol.md 2.21
async fn a_persistent_p2p_subscription_keeps_messages_from_the_other_node() {
    let Some(cluster) = Cluster::of(2).await else { return };
    let (mut alice, bob) = (cluster.connect(0, "alice").await, cluster.connect(1, "bob").await);
    let kept = alice.control("$force_sub", r##"{"client":"bob","channel":"#bob","persistent":true}"##).await;
    assert_eq!(kept, json!(true));
    bob.leave().await;
    away(&mut alice, "bob").await;
    alice.ask(r##"{"pub":{"cn":"#bob","dt":1,"q":1,"id":"a"}}"##, r#"{"pubAck":{"st":8,"id":"a"}}"#).await;
    let mut bob = cluster.connect(1, "bob").await;
    bob.take(r##"{"push":{"cn":"#bob","dt":1,"cl":"alice","q":1,"id":"*"}}"##).await;
}

#[tokio::test(flavor = "multi_thread")] // §9.b
async fn a_retained_message_is_the_same_on_both_nodes() {
    let Some(cluster) = Cluster::of(2).await else { return };
    let (mut alice, mut bob) = (cluster.connect(0, "alice").await, cluster.connect(1, "bob").await);
    let retained =
        |data: u8, by: &str| format!(r#"{{"push":{{"cn":"news","dt":{data},"cl":"{by}","rt":1}}}}"#);
    publish(&mut alice, "news", "1", 1).await;
    bob.subscribe("news", true).await;
    bob.take(&retained(1, "alice")).await;
    publish(&mut bob, "news", "2", 1).await;
    let mut dave = cluster.connect(0, "dave").await;
    dave.subscribe("news", false).await;
    dave.take(&retained(2, "bob")).await; // and perhaps once more, live (2.12)
    alice.send(r#"{"pub":{"cn":"news","dt":3,"rt":1}}"#).await;
    publish(&mut alice, "news", "4", 0).await; // in its place behind the one before
    let mut received = [bob.push().await, bob.push().await];
    received.sort();
    let live = r#"{"push":{"cn":"news","dt":3,"cl":"alice"}}"#;
    assert_eq!(received.map(|(text, _)| text), [live.to_owned(), news("4")]);
    let mut carol = cluster.connect(1, "carol").await;
    carol.subscribe("news", false).await;
    carol.take(&retained(3, "alice")).await;
}

#[tokio::test(flavor = "multi_thread")] // §9.c, protocol.md 2.13
async fn a_persistent_subscription_continues_on_the_other_node() {
    let Some(cluster) = Cluster::of(2).await else { return };
    let (mut alice, mut bob) = (cluster.connect(0, "alice").await, cluster.connect(1, "bob").await);
    bob.subscribe("news", true).await;
    bob.leave().await;
    for data in ["1", "2", "3"] {
        publish(&mut alice, "news", data, 0).await;
    }
    let mut bob = cluster.connect(0, "bob").await;
    bob.take(&news("1")).await;
    let (second, second_id) = bob.push().await;
    let (third, third_id) = bob.push().await;
    assert_eq!((second, third), (news("2"), news("3")));
    bob.heartbeat().await; // the pushAck of the first has been handled
    drop(bob);

    let mut bob = cluster.connect(1, "bob").await;
    assert_eq!(bob.take(&news("2")).await, second_id);
    assert_eq!(bob.take(&news("3")).await, third_id);
    publish(&mut alice, "news", "4", 0).await;
    bob.take(&news("4")).await;
}

#[tokio::test(flavor = "multi_thread")] // §9.e
async fn the_application_reaches_a_client_of_the_other_node() {
    let Some(cluster) = Cluster::of(2).await else { return };
    let (mut admin, mut bob) = (cluster.connect(0, "admin").await, cluster.connect(1, "bob").await);
    ask_until(&mut admin, "$is_connected", r#"{"client":"bob"}"#, json!(true)).await;
    assert_eq!(admin.control("$is_connected", r#"{"client":"nobody"}"#).await, json!(false));
    let everybody =
        json!([["admin", admin.connection.local.to_string()], ["bob", bob.connection.local.to_string()],]);
    ask_until(&mut admin, "$connections", "{}", everybody.clone()).await;
    ask_until(&mut bob, "$connections", "{}", everybody).await;

    let news = r#"{"client":"bob","channel":"news","persistent":true}"#;
    assert_eq!(admin.control("$force_sub", news).await, json!(true));
    let of_bob = admin.control("$subscriptions", r#"{"client":"bob"}"#).await;
    assert_eq!(of_bob, json!([["#bob", false], ["news", true]]));
    admin.control("$force_pub", r#"{"channel":"news","data":{"x":1.50},"qos":1}"#).await;
    bob.take(r#"{"push":{"cn":"news","dt":{"x":1.50},"cl":"","q":1,"id":"*"}}"#).await;
    admin.control("$force_pub", r#"{"channel":"news","data":2}"#).await;
    bob.take(r#"{"push":{"cn":"news","dt":2,"cl":""}}"#).await;
    assert_eq!(admin.control("$force_unsub", news).await, json!(true));
    assert_eq!(admin.control("$force_unsub", news).await, json!(false));
    let of_bob = admin.control("$subscriptions", r#"{"client":"bob"}"#).await;
    assert_eq!(of_bob, json!([["#bob", false]]));
    admin.control("$force_pub", r#"{"channel":"news","data":3,"qos":1}"#).await;
    bob.heartbeat().await; // and no push before it

    assert_eq!(admin.control("$disconnect", r#"{"client":"bob"}"#).await, json!(true));
    bob.expect_end().await;
    until("the close notice", || (cluster.closes_of("bob") == ["ByApplication"]).then_some(())).await;
    let mut bob = cluster.connect(1, "bob").await;
    bob.heartbeat().await;
}

#[tokio::test(flavor = "multi_thread")] // protocol.md 2.2, 2.4
async fn a_newer_session_on_the_other_node_ends_the_older_one() {
    let Some(cluster) = Cluster::of(2).await else { return };
    for round in 0..10 {
        // The close notifier of this one takes a while.
        let (from, to) = (round % 2, (round + 1) % 2);
        let mut old = cluster.connect(from, &format!("slow{round}")).await;
        let new = Client::connect(cluster.target(to), &old.name).await;
        assert_eq!(cluster.closes_of(&old.name), ["Takeover"], "it ran before the connAck");
        old.expect_end().await;
        let name = new.name.clone();
        new.leave().await;
        let both = ["Takeover", "Disconnected"];
        until("the close notice", || (cluster.closes_of(&name) == both).then_some(())).await;
    }
}
