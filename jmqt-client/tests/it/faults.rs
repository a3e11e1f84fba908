//! No message is lost or reordered when connections fail (§9.a).

use std::time::Duration;

use crate::support::*;
use jmqt_client::{Client, Persistence, Publish};
use jmqt_server::Protocol;

const MESSAGES: u32 = 10_000;
const CUTS: usize = 200;

/// Cuts at bytes that no two connections share, near enough to each other for all the cuts to happen.
fn cuts(number: usize) -> (Faults, Faults) {
    if number >= CUTS {
        return (Faults::default(), Faults::default());
    }
    // Behind the handshake, which is about 150 bytes either way.
    let after = 200 + number * 7919 % 6000;
    let faults = Faults { cut_after: Some(after), ..Faults::default() };
    if number.is_multiple_of(2) { (faults, Faults::default()) } else { (Faults::default(), faults) }
}

async fn through_cuts(scheme: &str, protocol: Protocol) {
    let server = TestServer::start().await;
    let proxy = Proxy::start(server.address(protocol)).await;
    proxy.plan(cuts);
    let mut config = config(&proxy.url(scheme), "alice");
    config.reconnect = jmqt_client::Reconnect::every(Duration::from_millis(1));
    let alice = Client::start(config).unwrap();
    let bob = connect(&server, "bob").await;
    let mut up = bob.subscribe(&channel("up"), Persistence::Persistent).await.unwrap();
    let mut down = alice.subscribe(&channel("down"), Persistence::Persistent).await.unwrap();

    let publish = |client: Client, name: &'static str| async move {
        let mut receipts = std::collections::VecDeque::new();
        for number in 0..MESSAGES {
            let message = Publish::json(channel(name), &number).unwrap().at_least_once();
            receipts.push_back(client.queue(&message).await.unwrap());
            // Some at a time, so that every cut has something to cut.
            if receipts.len() == 100 {
                receipts.pop_front().unwrap().await.unwrap();
            }
        }
        for receipt in receipts {
            receipt.await.unwrap();
        }
    };
    let senders = (tokio::spawn(publish(alice.clone(), "up")), tokio::spawn(publish(bob.clone(), "down")));

    // What alice publishes: each once, in order, although she sends again what was not acknowledged. (One that was stored
    // twice would be pushed with another id, which no client takes for the same.)
    let received_up = tokio::spawn(async move {
        for expected in 0..MESSAGES {
            assert_eq!(next(&mut up).await.json::<u32>().unwrap(), expected);
        }
        up
    });
    // What alice is pushed: each once, in order.
    let received_down = tokio::spawn(async move {
        for expected in 0..MESSAGES {
            assert_eq!(next(&mut down).await.json::<u32>().unwrap(), expected);
        }
        down
    });
    senders.0.await.unwrap();
    senders.1.await.unwrap();
    let (_up, _down) = (received_up.await.unwrap(), received_down.await.unwrap());
    assert!(proxy.cuts() >= 100, "{} cuts", proxy.cuts());
    let repeated = server.handle().counters().publishes_repeated;
    assert!(repeated > 0, "no acknowledgement was lost");
    println!("{} cuts, {repeated} publishes were sent again that had been stored", proxy.cuts());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // §9.a
async fn ten_thousand_each_way_pass_through_cut_connections() {
    through_cuts("jmqt", Protocol::Socket).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // §9.a
async fn ten_thousand_each_way_pass_through_cut_websockets() {
    through_cuts("ws", Protocol::WebSocket).await;
}
