//! Calls of the connection validator through the handle of its request (protocol.md 2.2).

use crate::support;

use crate::support::{Asked, Behaviour, TestServer, channel, client_id};
use jmqt_server::{ConnRequest, ConnVerdict, Persistence, Protocol, Publish, StatusCode};

/// Subscribes to `inbox` through the handle of the request, and publishes to it before and after.
fn record(request: &ConnRequest<'_>) {
    let publish = |data| Publish::raw(channel("inbox"), data).unwrap();
    request.server.force_pub(publish("0")).unwrap();
    request.server.force_sub(&channel("inbox"), Persistence::Temporary).unwrap();
    request.server.force_pub(publish("1")).unwrap();
    request.server.force_pub(publish("2").at_least_once()).unwrap();
}

#[tokio::test] // protocol.md 2.2
async fn recorded_calls_are_executed_in_order_and_pushed_after_the_conn_ack() {
    let server = TestServer::start().await;
    server.app.on_conn(|request| {
        record(request);
        Ok(ConnVerdict::accept())
    });
    let mut alice = server.open(Protocol::Socket).await;
    alice.send(r#"{"conn":{"at":"x","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    let pushes = alice.next_pushes(2).await;
    let mut texts: Vec<_> = pushes.iter().map(support::Push::without_id).collect();
    texts.sort(); // each QoS level has an order of its own (2.10)
    assert_eq!(
        texts,
        [
            r#"{"push":{"cn":"inbox","dt":1,"cl":""}}"#,
            r#"{"push":{"cn":"inbox","dt":2,"cl":"","q":1,"id":"*"}}"#,
        ]
    );
    alice.expect_nothing_before_hb().await; // what was published before the subscription is not for her
}

#[tokio::test] // protocol.md 2.2
async fn recorded_calls_are_dropped_if_the_validator_refuses_or_fails() {
    let server = TestServer::configured(|config| config.validator_timeout = support::DEADLINE / 100).await;
    let mut bob = server.connect("bob").await;
    bob.sub("inbox").await;
    let mut alice = server.open(Protocol::Socket).await;

    server.app.on_conn(|request| {
        record(request);
        Ok(ConnVerdict::Refuse(StatusCode::NOT_ALLOWED))
    });
    alice.send(r#"{"conn":{"at":"x","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":7}}"#).await;

    server.app.on_conn(|request| {
        record(request);
        Err("no".into())
    });
    alice.send(r#"{"conn":{"at":"x","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":5}}"#).await;

    server.app.set(Asked::Conn, Behaviour::Hang);
    alice.send(r#"{"conn":{"at":"x","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":5}}"#).await;

    server.settle().await;
    bob.expect_nothing_before_hb().await;
    let subscriptions = server.handle().subscriptions(&client_id("alice")).await;
    assert_eq!(subscriptions.unwrap(), []);
}

#[tokio::test] // protocol.md 2.2
async fn the_server_handle_acts_at_once_even_if_the_conn_is_refused() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub("inbox").await;
    server.app.on_conn(|request| {
        let handle = request.server.server().clone();
        tokio::spawn(async move {
            let message = Publish::raw(channel("inbox"), r#""somebody knocks""#).unwrap();
            handle.force_pub(message).await
        });
        Ok(ConnVerdict::Refuse(StatusCode::NOT_ALLOWED))
    });
    let mut alice = server.open(Protocol::Socket).await;
    alice.send(r#"{"conn":{"at":"x","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":7}}"#).await;
    bob.expect(r#"{"push":{"cn":"inbox","dt":"somebody knocks","cl":""}}"#).await;
}

#[tokio::test] // protocol.md 2.2
async fn the_verdict_may_contain_subscriptions() {
    let server = TestServer::start().await;
    server.app.on_conn(|_| {
        Ok(ConnVerdict::accept()
            .subscribe(channel("kept"), Persistence::Persistent)
            .subscribe(channel("lent"), Persistence::Temporary))
    });
    let _alice = server.connect("alice").await;
    let subscriptions = server.handle().subscriptions(&client_id("alice")).await;
    assert_eq!(
        subscriptions.unwrap(),
        [
            (channel("#alice"), Persistence::Temporary),
            (channel("kept"), Persistence::Persistent),
            (channel("lent"), Persistence::Temporary),
        ]
    );
}

#[tokio::test] // protocol.md 2.20: another client's messages are for that client alone
async fn a_verdict_cannot_subscribe_to_another_clients_channel() {
    let server = TestServer::start().await;
    for (wrong, mistakes) in [("#bob", 1), ("$control", 2)] {
        server.app.on_conn(move |request| {
            request.server.force_sub(&channel("inbox"), Persistence::Persistent)?;
            Ok(ConnVerdict::accept()
                .subscribe(channel("#alice"), Persistence::Persistent)
                .subscribe(channel(wrong), Persistence::Persistent))
        });
        let mut alice = server.open(Protocol::Socket).await;
        alice.send(r#"{"conn":{"at":"x","cl":"alice"}}"#).await;
        alice.expect(r#"{"connAck":{"st":5}}"#).await;
        let subscriptions = server.handle().subscriptions(&client_id("alice")).await;
        assert_eq!(subscriptions.unwrap(), [], "nothing is made of it: {wrong}");
        assert_eq!(server.counters().validator_failures, mistakes);
    }
}

#[tokio::test] // protocol.md 2.2
async fn a_clients_own_channel_is_subscribed_once() {
    let server = TestServer::start().await;
    let (alice, own) = (client_id("alice"), channel("#alice"));
    let first = server.connect("alice").await;
    let of = server.handle().subscriptions(&alice).await.unwrap();
    assert_eq!(of, [(own.clone(), Persistence::Temporary)]);
    let made = server.handle().force_sub(&alice, &own, Persistence::Persistent).await;
    made.unwrap();
    let _second = server.reconnect(first).await;
    let of = server.handle().subscriptions(&alice).await.unwrap();
    assert_eq!(of, [(own, Persistence::Persistent)]); // the persistent one stays
}
