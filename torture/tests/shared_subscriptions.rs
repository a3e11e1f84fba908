//! Workers of one shared subscription on all nodes of a cluster, while nodes are killed.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use std::collections::BTreeSet;
use std::time::Duration;

use jmqt_client::Reconnect;
use jmqt_client::mqtt::{Client, Options, Publish, Qos, Subscription};
use tokio::sync::mpsc;
use torture::{Cluster, DEADLINE, within};

/// The number of messages before a node is killed, and after that.
const MESSAGES: usize = 60;

fn options(port: u16, name: &str) -> Options {
    let mut options = Options::url(&format!("mqtt://{name}@127.0.0.1:{port}")).unwrap();
    options.client_id = name.to_owned();
    (options.clean_start, options.session_expiry) = (false, Duration::from_secs(3600));
    (options.reconnect, options.connect_timeout) = (Reconnect::Off, DEADLINE);
    options
}

async fn worker(port: u16, name: &str, topic: &str) -> (Client, Subscription) {
    let worker = Client::connect(options(port, name)).await.unwrap();
    let share = format!("$share/workers/{topic}");
    let messages = within("SUBACK", worker.subscribe(&share, Qos::AtLeastOnce)).await.unwrap();
    (worker, messages)
}

async fn publish(publisher: &Client, topic: &str, number: usize) {
    let message = Publish::new(topic, number.to_string()).unwrap().qos(Qos::AtLeastOnce);
    within("PUBACK", publisher.publish(&message)).await.unwrap();
}

/// Acknowledges what a worker receives, and sends it on, as long as the worker is connected.
async fn work(mut messages: Subscription, heard: mpsc::UnboundedSender<usize>) {
    while let Some(message) = messages.next().await {
        let _ = heard.send(message.text().unwrap().parse().unwrap()); // the test may have ended
    }
}

#[tokio::test(flavor = "multi_thread")] // MQTT 4.8.2, protocol.md 2.13
async fn no_acknowledged_message_of_a_shared_topic_is_lost_with_a_killed_node() {
    let Some(mut cluster) = Cluster::of(3).await else { return };
    // One of them serves the topic, and has given messages to the workers of the others.
    for victim in 0..3 {
        let ports: Vec<_> = cluster.nodes.iter().map(|node| node.address.port()).collect();
        let topic = format!("jobs/{victim}");
        let publisher =
            Client::connect(options(ports[(victim + 1) % 3], &format!("publisher-{victim}"))).await.unwrap();
        let (heard, mut all_heard) = mpsc::unbounded_channel();
        let (mut workers, mut idle) = (Vec::new(), None);
        for (node, port) in ports.iter().enumerate() {
            let (client, messages) = worker(*port, &format!("worker-{victim}-{node}"), &topic).await;
            if node == victim {
                idle = Some(messages.acknowledge_by_hand());
            } else {
                tokio::spawn(work(messages, heard.clone()));
            }
            workers.push(client);
        }
        let mut idle = idle.unwrap();
        let mut published = 0;
        // Until the worker that acknowledges nothing has a part of the messages.
        let mut taken = 0;
        while published < MESSAGES || taken == 0 {
            publish(&publisher, &topic, published).await;
            published += 1;
            while tokio::time::timeout(Duration::from_millis(1), idle.next()).await.is_ok() {
                taken += 1;
            }
        }
        cluster.nodes[victim].kill();
        for _ in 0..MESSAGES {
            publish(&publisher, &topic, published).await;
            published += 1;
        }
        let mut missing: BTreeSet<usize> = (0..published).collect();
        while !missing.is_empty() {
            let what = format!("{missing:?} after node {victim} was killed");
            missing.remove(&within(what, all_heard.recv()).await.unwrap());
        }
        cluster.nodes[victim].restart().await;
    }
}
