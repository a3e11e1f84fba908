//! Every method of `ServerHandle`, for connected and absent clients (§9.e, protocol.md 2.8, 2.12, 2.13, 2.20, 2.21).

use crate::support;

use crate::support::{Asked, TestServer, channel, client_id};
use jmqt_server::{CloseReason, HandleError, Persistence, Protocol, Publish};

/// A message of the application's.
fn message(name: &str, data: &str) -> Publish {
    Publish::raw(channel(name), data).unwrap()
}

#[tokio::test] // §9.e: nobody is asked
async fn calls_of_the_application_ask_no_validator() {
    let server = TestServer::start().await;
    let (handle, bob) = (server.handle(), client_id("bob"));
    let mut client = server.connect("bob").await;
    handle.force_sub(&bob, &channel("news"), Persistence::Persistent).await.unwrap();
    handle.force_pub(message("news", "1")).await.unwrap();
    assert!(handle.force_unsub(&bob, &channel("news")).await.unwrap());
    client.expect(r#"{"push":{"cn":"news","dt":1,"cl":""}}"#).await;
    for asked in [Asked::Sub, Asked::Pub, Asked::Unsub] {
        assert_eq!(server.app.times_asked(asked).await, 0);
    }
}

#[tokio::test] // protocol.md 2.7
async fn publishes_are_checked_and_pass_byte_for_byte() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub("news").await;
    for bad in ["", "{", "1 2", "\"a\u{0}b\"", &"[".repeat(129)] {
        assert!(Publish::raw(channel("news"), bad).is_err(), "{bad:?}");
    }
    server.handle().force_pub(message("news", r#" {"b":1.50, "a":"\u00e4"} "#)).await.unwrap();
    bob.expect(r#"{"push":{"cn":"news","dt":{"b":1.50, "a":"\u00e4"},"cl":""}}"#).await;
    let made = Publish::json(channel("news"), &("ä", [1.5, 2.0])).unwrap();
    server.handle().force_pub(made).await.unwrap();
    bob.expect(r#"{"push":{"cn":"news","dt":["ä",[1.5,2.0]],"cl":""}}"#).await;
}

#[tokio::test] // §9.d, protocol.md 2.21
async fn the_application_may_publish_to_one_client() {
    let server = TestServer::start().await;
    let handle = server.handle();
    let mut bob = server.websocket("bob").await;
    handle.force_pub(message("#bob", "1").retained()).await.unwrap();
    bob.expect(r##"{"push":{"cn":"#bob","dt":1,"cl":""}}"##).await;
    handle.force_pub(message("#bob", "2").at_least_once()).await.unwrap();
    let push = bob.expect_push(r##"{"push":{"cn":"#bob","dt":2,"cl":"","q":1,"id":"*"}}"##).await;
    bob.ack(&push).await;
    handle.force_pub(message("#nobody", "3").at_least_once()).await.unwrap(); // kept for nobody
    let mut nobody = server.connect("nobody").await;
    nobody.expect_nothing_before_hb().await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.13: when it returns, it is on disk
async fn a_qos_1_publish_of_the_application_survives_a_crash() {
    let mut server = TestServer::start().await;
    let bob = client_id("bob");
    server.handle().force_sub(&bob, &channel("news"), Persistence::Persistent).await.unwrap();
    server.handle().force_pub(message("news", "1").at_least_once().retained()).await.unwrap();
    server.crash().await;
    let mut bob = server.connect("bob").await;
    bob.expect_push(r#"{"push":{"cn":"news","dt":1,"cl":"","q":1,"id":"*"}}"#).await;
    bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":"","rt":1}}"#).await;
}

#[tokio::test] // §9.b
async fn a_retained_message_can_be_cleared() {
    let mut server = TestServer::start().await;
    let handle = server.handle();
    assert!(!handle.clear_retained(&channel("news")).await.unwrap());
    handle.force_pub(message("news", "1").retained()).await.unwrap();
    assert!(handle.clear_retained(&channel("news")).await.unwrap());
    assert!(!handle.clear_retained(&channel("news")).await.unwrap());
    let mut bob = server.connect("bob").await;
    bob.sub("news").await;
    bob.expect_nothing_before_hb().await;
    server.restart().await;
    let mut bob = server.connect("bob").await;
    bob.sub("news").await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.20: like `sub`, each time
async fn a_forced_subscription_sends_the_retained_message_each_time_and_also_when_the_flag_changes() {
    let server = TestServer::start().await;
    let (handle, id) = (server.handle(), client_id("bob"));
    let mut bob = server.connect("bob").await;
    handle.force_pub(message("news", "1").retained()).await.unwrap();
    for persistence in [
        Persistence::Temporary,
        Persistence::Temporary,
        Persistence::Persistent,
        Persistence::Persistent,
        Persistence::Temporary,
    ] {
        handle.force_sub(&id, &channel("news"), persistence).await.unwrap();
        bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":"","rt":1}}"#).await;
        assert!(handle.subscriptions(&id).await.unwrap().contains(&(channel("news"), persistence)));
    }
    handle.force_pub(message("news", "2")).await.unwrap();
    bob.expect(r#"{"push":{"cn":"news","dt":2,"cl":""}}"#).await; // once, after all that
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.20: what was in flight stays where it was
async fn a_change_of_the_flag_neither_repeats_nor_loses_a_message() {
    let server = TestServer::start().await;
    let (handle, id) = (server.handle(), client_id("bob"));
    let mut bob = server.connect("bob").await;
    let mut alice = server.connect("alice").await;
    bob.sub("news").await;
    for n in 0..40 {
        let persistence = if n % 2 == 0 { Persistence::Persistent } else { Persistence::Temporary };
        handle.force_sub(&id, &channel("news"), persistence).await.unwrap();
        alice.pub1("news", &n.to_string()).await;
        let push = bob.next_push().await;
        assert_eq!(push.data(), n.to_string());
        bob.ack(&push).await;
    }
    server.settle().await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.20: a client's own channel, and nobody else's
async fn a_forced_subscription_may_be_to_the_clients_own_channel() {
    let server = TestServer::start().await;
    let (handle, bob) = (server.handle(), client_id("bob"));
    handle.force_sub(&bob, &channel("#bob"), Persistence::Persistent).await.unwrap();
    handle.force_pub(message("#bob", "1").at_least_once()).await.unwrap();
    let mut client = server.connect("bob").await;
    assert_eq!(client.next_push().await.data(), "1");
    assert!(handle.force_unsub(&bob, &channel("#bob")).await.unwrap());
    let mut alice = server.connect("alice").await;
    alice.send(r##"{"pub":{"cn":"#bob","dt":2,"q":1,"id":"1"}}"##).await;
    alice.expect(r#"{"pubAck":{"st":8,"id":"1"}}"#).await; // not even while it is connected
    client.expect_nothing_before_hb().await;
    let mut client = server.reconnect(client).await; // until the next `conn` (2.2)
    alice.send(r##"{"pub":{"cn":"#bob","dt":3}}"##).await;
    client.expect(r##"{"push":{"cn":"#bob","dt":3,"cl":"alice"}}"##).await;
}

#[tokio::test] // §9.e: for a client nobody has heard of
async fn queries_for_absent_clients_return_nothing_without_an_error() {
    let server = TestServer::start().await;
    let (handle, nobody) = (server.handle(), client_id("nobody"));
    assert!(!handle.is_connected(&nobody));
    assert!(!handle.disconnect(&nobody));
    assert_eq!(handle.subscriptions(&nobody).await.unwrap(), []);
    assert!(!handle.force_unsub(&nobody, &channel("news")).await.unwrap());
    let made = handle.force_sub(&nobody, &channel("news"), Persistence::Temporary).await;
    assert_eq!(made, Err(HandleError::NotConnected));
}

#[tokio::test] // §9.e
async fn connections_are_listed_with_their_remote_addresses() {
    let server = TestServer::start().await;
    let stream = server.open_tcp(Protocol::Socket).await;
    let from = stream.local_addr().unwrap();
    let mut alice = support::Client::new(Protocol::Socket, stream);
    alice.conn_as("alice", "").await;
    let _bob = server.tls_websocket("bob").await;
    let mut all = server.handle().connections();
    all.sort_by(|(one, _), (other, _)| one.cmp(other));
    assert_eq!(
        (&all[0].0, all[0].1.remote, all[0].1.protocol),
        (&client_id("alice"), from, Protocol::Socket)
    );
    assert_eq!((&all[1].0, all[1].1.protocol), (&client_id("bob"), Protocol::SslWebSocket));
    assert_eq!(all.len(), 2);
    assert!(server.handle().disconnect(&client_id("alice")));
    assert!(!server.handle().is_connected(&client_id("alice"))); // at once
    alice.closed().await;
    server.app.expect_close("alice", CloseReason::ByApplication).await;
    assert_eq!(server.handle().connections().len(), 1);
}

#[tokio::test] // §9.e: half a subscription would hold pushes back for good
async fn a_forced_subscription_is_made_even_if_its_future_is_dropped() {
    let server = TestServer::start().await;
    let (handle, id) = (server.handle(), client_id("bob"));
    let mut bob = server.connect("bob").await;
    let news = channel("news");
    {
        let mut making = std::pin::pin!(handle.force_sub(&id, &news, Persistence::Persistent));
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(making.as_mut().poll(cx))).await;
        assert!(polled.is_pending());
    }
    let made = async {
        while !handle.subscriptions(&id).await.unwrap().contains(&(news.clone(), Persistence::Persistent)) {
            tokio::task::yield_now().await;
        }
    };
    support::within("the subscription", made).await;
    server.settle().await;
    handle.force_pub(message("news", "1")).await.unwrap();
    bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":""}}"#).await;
}

#[tokio::test] // protocol.md 2.11: as if the client had published it
async fn a_message_published_as_a_client_is_not_pushed_to_that_client() {
    let server = TestServer::start().await;
    let (handle, id) = (server.handle(), client_id("alice"));
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    alice.sub_persistent("news").await;
    bob.sub_persistent("news").await;
    handle.publish_as(&id, message("news", "1")).await.unwrap();
    bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":"alice"}}"#).await;
    handle.publish_as(&id, message("news", "2").at_least_once()).await.unwrap();
    bob.expect_push(r#"{"push":{"cn":"news","dt":2,"cl":"alice","q":1,"id":"*"}}"#).await;
    handle.publish_as(&id, message("#bob", "3")).await.unwrap();
    bob.expect(r##"{"push":{"cn":"#bob","dt":3,"cl":"alice"}}"##).await;
    for wrong in ["#alice", "$control"] {
        let refused = handle.publish_as(&id, message(wrong, "4")).await;
        assert_eq!(refused, Err(HandleError::InvalidChannel(channel(wrong))));
    }
    alice.expect_nothing_before_hb().await;
    handle.publish_as(&client_id("absent"), message("news", "5")).await.unwrap();
    alice.expect(r#"{"push":{"cn":"news","dt":5,"cl":"absent"}}"#).await;
}

#[tokio::test]
async fn the_subscribers_of_a_channel_are_the_connected_clients() {
    let server = TestServer::start().await;
    let handle = server.handle();
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    assert_eq!(handle.subscribers(&channel("news")), []);
    alice.sub_persistent("news").await;
    bob.sub("news").await;
    let mut subscribers = handle.subscribers(&channel("news"));
    subscribers.sort_by(|(one, _), (other, _)| one.cmp(other));
    let both = [(client_id("alice"), Persistence::Persistent), (client_id("bob"), Persistence::Temporary)];
    assert_eq!(subscribers, both);
    assert_eq!(handle.subscribers(&channel("#bob")), [(client_id("bob"), Persistence::Temporary)]);
    assert_eq!(handle.subscribers(&channel("#carol")), []);
    drop(alice);
    server.app.expect_close("alice", CloseReason::ClosedByClient).await;
    assert_eq!(handle.subscribers(&channel("news")), [(client_id("bob"), Persistence::Temporary)]);
}

#[test] // protocol.md 2.5: clients refuse what nests deeper
fn a_value_that_is_nested_too_deep_is_refused() {
    let nested = |depth| {
        let value = (1..depth).fold(serde_json::json!([]), |inner, _| serde_json::json!([inner]));
        Publish::json(channel("news"), &value)
    };
    assert!(nested(128).is_ok());
    assert!(nested(129).unwrap_err().to_string().contains("nested at most 128 deep"));
}
