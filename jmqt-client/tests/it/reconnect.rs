//! Connections that break in every other way: stalls, delays, corrupted bytes, servers that start again.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::support::*;
use jmqt_client::{Client, Persistence, Publish};
use jmqt_server::Protocol;

fn message(name: &str, data: impl serde::Serialize) -> Publish {
    Publish::json(channel(name), &data).unwrap()
}

#[tokio::test] // §9.c: temporary ones too, because the client makes them again
async fn subscriptions_are_restored_before_publishes_are_sent() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut script = server.session(60).await;
    let subscribing = tokio::spawn({
        let alice = alice.clone();
        async move { alice.sub(&channel("news"), Persistence::Temporary).await }
    });
    script.expect(r#"{"sub":{"cn":"news"}}"#).await;
    script.send(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    subscribing.await.unwrap().unwrap();
    let first = alice.queue(&message("a", 1).at_least_once()).await.unwrap();
    let second = alice.queue(&message("a", 2).at_least_once()).await.unwrap();
    script.expect(r#"{"pub":{"cn":"a","dt":1,"q":1,"id":"1"}}"#).await;
    script.expect(r#"{"pub":{"cn":"a","dt":2,"q":1,"id":"2"}}"#).await;
    script.send(r#"{"pubAck":{"st":1,"id":"1"}}"#).await;
    first.await.unwrap();
    drop(script);
    let third = alice.queue(&message("a", 3).at_least_once()).await.unwrap();

    let mut script = server.session(60).await;
    script.expect(r#"{"sub":{"cn":"news"}}"#).await;
    script.send(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    script.expect(r#"{"pub":{"cn":"a","dt":2,"q":1,"id":"2"}}"#).await; // the same id
    script.expect(r#"{"pub":{"cn":"a","dt":3,"q":1,"id":"3"}}"#).await;
    script.send(r#"{"pubAck":{"st":1,"id":"2"}}"#).await;
    script.send(r#"{"pubAck":{"st":1,"id":"3"}}"#).await;
    second.await.unwrap();
    third.await.unwrap();
}

#[tokio::test]
async fn a_stalled_connection_is_given_up() {
    let server = TestServer::configured(|config| config.timeout = Duration::from_secs(5)).await;
    let proxy = Proxy::start(server.address(Protocol::Socket)).await;
    let alice = Client::connect(config(&proxy.url("jmqt"), "alice")).await.unwrap();
    let mut events = alice.events();
    proxy.stall(true);
    disconnected(&mut events).await; // the server has the same timeout, and may be the first to notice
    proxy.stall(false);
    reconnected(&mut events).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupted_byte_never_stops_a_client() {
    let server = TestServer::start().await;
    let proxy = Proxy::start(server.address(Protocol::Socket)).await;
    // Behind the handshake, each connection elsewhere; every third is delayed, and all are cut in the end.
    proxy.plan(|number| {
        let delay = Duration::from_millis(u64::from(number % 3 == 0));
        let faults = |at| Faults { corrupt_at: Some(at), cut_after: Some(4000), delay };
        if number < 30 { (Faults::default(), faults(200 + number * 37)) } else { Default::default() }
    });
    let mut config = config(&proxy.url("jmqt"), "alice");
    config.publish_timeout = Duration::from_secs(20);
    let alice = Client::start(config).unwrap();
    for number in 0..2000 {
        // A corrupted acknowledgement may be lost, or look like a refusal: what is tested is that all goes on.
        drop(alice.queue(&message("a", number).at_least_once()).await.unwrap());
    }
    within("thirty connections", async {
        while proxy.connections() < 30 || !alice.is_connected() {
            for _ in 0..20 {
                drop(alice.queue(&message("a", 0).at_least_once()).await.unwrap());
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    let mut events = alice.events();
    proxy.plan(|_| Default::default());
    proxy.cut();
    reconnected(&mut events).await;
    alice.publish(&message("a", 1).at_least_once()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_come_back_within_seconds_of_a_restart_spread_by_jitter() {
    const CLIENTS: usize = 200;
    let mut server = TestServer::start().await;
    let proxy = Proxy::start(server.address(Protocol::Socket)).await;
    let published = std::sync::Arc::new(AtomicU32::new(0));
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let mut config = config(&proxy.url("jmqt"), &format!("client-{number}"));
        // With the usual longest wait of 30 s, one that is unlucky while the server starts comes back that late.
        config.reconnect = jmqt_client::Reconnect::Backoff {
            first: Duration::from_millis(500),
            most: Duration::from_secs(4),
            jitter: true,
        };
        let client = Client::connect(config).await.unwrap();
        let published = std::sync::Arc::clone(&published);
        let events = client.events();
        let load = client.clone();
        tokio::spawn(async move {
            while load.publish(&message("load", number).at_least_once()).await.is_ok() {
                published.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        clients.push((client, events));
    }
    server.restart().await;
    proxy.set_target(server.address(Protocol::Socket));
    let since = Instant::now();
    let mut back = Vec::new();
    for (client, events) in &mut clients {
        if !client.is_connected() {
            reconnected(events).await;
        }
        back.push(since.elapsed());
    }
    assert!(back.iter().max().unwrap() < &Duration::from_secs(25), "{back:?}");
    let before = published.load(Ordering::Relaxed);
    within("publishes after the restart", async {
        while published.load(Ordering::Relaxed) < before + 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
