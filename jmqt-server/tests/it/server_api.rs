//! The API of the server for the application (§9.e, protocol.md 2.20).

use crate::support::{TestServer, channel, client_id};
use jmqt_server::{CloseReason, HandleError, Persistence, Publish};

#[tokio::test]
async fn a_forced_subscription_receives_messages_and_the_retained_message() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    let handle = server.handle();
    let kept = Publish::json(channel("news"), &"kept").unwrap().retained();
    handle.force_pub(kept).await.unwrap();
    handle.force_sub(&client_id("bob"), &channel("news"), Persistence::Temporary).await.unwrap();
    bob.expect(r#"{"push":{"cn":"news","dt":"kept","cl":"","rt":1}}"#).await;
    handle.force_pub(Publish::raw(channel("news"), "1.50").unwrap()).await.unwrap();
    bob.expect(r#"{"push":{"cn":"news","dt":1.50,"cl":""}}"#).await;
    handle.force_pub(Publish::raw(channel("news"), "2").unwrap().at_least_once()).await.unwrap();
    bob.expect_push(r#"{"push":{"cn":"news","dt":2,"cl":"","q":1,"id":"*"}}"#).await;
    assert!(handle.force_unsub(&client_id("bob"), &channel("news")).await.unwrap());
    assert!(!handle.force_unsub(&client_id("bob"), &channel("news")).await.unwrap());
    handle.force_pub(Publish::raw(channel("news"), "3").unwrap()).await.unwrap();
    bob.expect_nothing_before_hb().await;
}

#[tokio::test]
async fn an_absent_client_can_be_subscribed_persistently_only() {
    let server = TestServer::start().await;
    let (handle, bob) = (server.handle(), client_id("bob"));
    let temporary = handle.force_sub(&bob, &channel("news"), Persistence::Temporary).await;
    assert_eq!(temporary, Err(HandleError::NotConnected));
    handle.force_sub(&bob, &channel("news"), Persistence::Persistent).await.unwrap();
    handle.force_pub(Publish::raw(channel("news"), "1").unwrap().at_least_once()).await.unwrap();
    assert_eq!(handle.subscriptions(&bob).await.unwrap(), [(channel("news"), Persistence::Persistent)]);
    let mut client = server.connect("bob").await;
    client.expect_push(r#"{"push":{"cn":"news","dt":1,"cl":"","q":1,"id":"*"}}"#).await;
    drop(client);
    server.app.expect_close("bob", CloseReason::ClosedByClient).await;
    assert!(handle.force_unsub(&bob, &channel("news")).await.unwrap());
    let mut client = server.connect("bob").await;
    client.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.20
async fn a_forced_subscription_changes_the_flag_both_ways() {
    let server = TestServer::start().await;
    let (handle, bob) = (server.handle(), client_id("bob"));
    let mut alice = server.connect("alice").await;
    let mut client = server.connect("bob").await;
    client.sub("news").await;
    handle.force_sub(&bob, &channel("news"), Persistence::Persistent).await.unwrap();
    alice.pub1("news", "1").await;
    let push = client.next_push().await;
    let mut client = server.reconnect(client).await;
    assert_eq!(client.next_push().await, push);
    handle.force_sub(&bob, &channel("news"), Persistence::Temporary).await.unwrap();
    alice.pub1("news", "2").await;
    assert_eq!(client.next_push().await.data(), "2");
    let mut client = server.reconnect(client).await;
    client.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.20
async fn channels_that_do_not_allow_the_call_are_refused() {
    let server = TestServer::start().await;
    let (handle, bob) = (server.handle(), client_id("bob"));
    for name in ["$list", "#alice"] {
        let refused = handle.force_sub(&bob, &channel(name), Persistence::Persistent).await;
        assert_eq!(refused, Err(HandleError::InvalidChannel(channel(name))));
        let refused = handle.force_unsub(&bob, &channel(name)).await;
        assert_eq!(refused, Err(HandleError::InvalidChannel(channel(name))));
    }
    let refused = handle.force_pub(Publish::raw(channel("$list"), "1").unwrap()).await;
    assert_eq!(refused, Err(HandleError::InvalidChannel(channel("$list"))));
}

#[tokio::test]
async fn the_application_can_list_connected_clients() {
    let server = TestServer::start().await;
    let handle = server.handle();
    assert!(handle.connections().is_empty());
    let _alice = server.connect("alice").await;
    let bob = server.websocket("bob").await;
    let mut connected: Vec<_> = handle.connections().into_iter().map(|(client, _)| client).collect();
    connected.sort();
    assert_eq!(connected, [client_id("alice"), client_id("bob")]);
    drop(bob);
    server.app.expect_close("bob", CloseReason::ClosedByClient).await;
    assert!(!handle.is_connected(&client_id("bob")) && handle.is_connected(&client_id("alice")));
    assert_eq!(handle.counters().sessions_opened, 2);
}
