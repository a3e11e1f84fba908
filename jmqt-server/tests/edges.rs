//! Order where something begins, ends or changes while messages come in (protocol.md 2.2, 2.3, 2.10, 2.14, 2.20).
//!
//! Each race is run many times, on several threads.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashSet;

use jmqt_server::{ConnVerdict, Persistence, Protocol, Publish};
use support::{Client, TestServer, channel, client_id};

const TIMES: usize = 40;

async fn retain(server: &TestServer, bytes: usize) {
    let data = format!("\"{}\"", "r".repeat(bytes));
    let retained = Publish::raw(channel("news"), &data).unwrap().retained();
    server.handle().force_pub(retained).await.unwrap();
}

/// Everything up to the answer to a heartbeat.
async fn up_to_now(client: &mut Client) -> Vec<String> {
    client.send(r#"{"hb":{}}"#).await;
    let mut packets = Vec::new();
    loop {
        match client.next().await {
            text if text == r#"{"hbAck":{}}"# => return packets,
            text => packets.push(text),
        }
    }
}

fn is_retained(text: &str) -> bool {
    text.starts_with(r#"{"push":"#) && text.contains(r#""rt":1"#)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)] // protocol.md 2.2, 2.3
async fn what_the_application_subscribes_a_connecting_client_to_comes_after_the_conn_ack() {
    let server = TestServer::start().await;
    retain(&server, 100).await;
    // Connecting takes a while.
    server.app.on_conn(|_| {
        let names = (0..20).map(|number| channel(&format!("room {number}")));
        let verdict = ConnVerdict::accept();
        Ok(names.fold(verdict, |verdict, name| verdict.subscribe(name, Persistence::Persistent)))
    });
    for round in 0..TIMES {
        let name = format!("bob{round}");
        let mut bob = server.open(Protocol::Socket).await;
        let (handle, id) = (server.handle(), client_id(&name));
        let subscribing = tokio::spawn(async move {
            let persistence = if round % 2 == 0 { Persistence::Temporary } else { Persistence::Persistent };
            while !handle.is_connected(&id) {
                tokio::task::yield_now().await;
            }
            handle.force_sub(&id, &channel("news"), persistence).await.unwrap();
        });
        bob.send(&format!(r#"{{"conn":{{"at":"token-{name}","cl":"{name}"}}}}"#)).await;
        bob.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
        subscribing.await.unwrap();
        let came = up_to_now(&mut bob).await;
        assert!(came.iter().any(|text| is_retained(text)), "{came:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)] // protocol.md 2.20
async fn no_retained_message_comes_when_force_unsub_has_returned() {
    let server = TestServer::start().await;
    retain(&server, 1 << 20).await;
    let (handle, bob_id) = (server.handle(), client_id("bob"));
    let own = jmqt_server::ChannelName::of_client(&bob_id);
    let mut bob = server.connect("bob").await;
    for round in 0..TIMES {
        let (handle, id, own) = (handle.clone(), bob_id.clone(), own.clone());
        let ending = tokio::spawn(async move {
            while !handle.force_unsub(&id, &channel("news")).await.unwrap() {
                tokio::task::yield_now().await;
            }
            handle.force_pub(Publish::raw(own, &format!("{round}")).unwrap()).await.unwrap();
        });
        bob.send(&format!(r#"{{"sub":{{"cn":"news","pr":{}}}}}"#, round % 2)).await;
        ending.await.unwrap();
        let came = up_to_now(&mut bob).await;
        let marker = came.iter().position(|text| text.starts_with(r##"{"push":{"cn":"#bob""##)).unwrap();
        assert!(!came[marker..].iter().any(|text| is_retained(text)), "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)] // protocol.md 2.3, 2.10
async fn no_message_comes_before_the_sub_ack_however_large_the_retained_message_is() {
    let server = TestServer::start().await;
    retain(&server, 2 << 20).await;
    let handle = server.handle();
    let flood = tokio::spawn(async move {
        for number in 0.. {
            let message = Publish::raw(channel("news"), &format!("{number}")).unwrap().at_least_once();
            handle.force_pub(message).await.unwrap();
        }
    });
    for round in 0..TIMES {
        let mut bob = server.connect(&format!("bob{round}")).await;
        bob.send(&format!(r#"{{"sub":{{"cn":"news","pr":{}}}}}"#, round % 2)).await;
        bob.expect(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
        // And then they do come.
        while !bob.next_push().await.is_qos1() {}
    }
    flood.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)] // protocol.md 2.14, 2.20
async fn a_subscription_that_becomes_persistent_gets_everything_once_and_in_order() {
    const MESSAGES: usize = 40; // fewer than the window has room for
    let server = TestServer::start().await;
    let mut carol = server.connect("carol").await;
    carol.sub_persistent("news").await; // so that there is a log from the beginning
    for round in 0..TIMES {
        let name = format!("bob{round}");
        let mut bob = server.connect(&name).await;
        bob.sub("news").await;
        let handle = server.handle();
        let publishing = tokio::spawn(async move {
            for number in 0..MESSAGES {
                let message = Publish::raw(channel("news"), &format!("{number}")).unwrap();
                handle.force_pub(message.at_least_once()).await.unwrap();
            }
        });
        let first = bob.next_push().await; // they are on their way
        let (handle, id) = (server.handle(), client_id(&name));
        handle.force_sub(&id, &channel("news"), Persistence::Persistent).await.unwrap();
        let mut pushes = vec![first];
        pushes.extend(bob.next_pushes(MESSAGES - 1).await);
        publishing.await.unwrap();
        server.settle().await;
        bob.expect_nothing_before_hb().await;
        let numbers: Vec<_> = pushes.iter().map(|push| push.data().parse::<usize>().unwrap()).collect();
        assert_eq!(numbers, (0..MESSAGES).collect::<Vec<_>>(), "round {round}");
        let ids: HashSet<_> = pushes.iter().map(|push| push.id()).collect();
        assert_eq!(ids.len(), MESSAGES);
        for push in &pushes {
            bob.ack(push).await;
        }
        bob.expect_nothing_before_hb().await;
        handle.force_unsub(&id, &channel("news")).await.unwrap();
    }
    assert_eq!(server.counters().acks_ignored, 0);
}
