//! Wills of MQTT clients while servers are killed: each is published once.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jmqt_client::Reconnect;
use jmqt_client::mqtt::{Client, Options, Publish, Qos, Subscription, Will};
use torture::mariadb::MariaDb;
use torture::server::Server;
use torture::{Cluster, DEADLINE, Random, until, within};

const LIVES: usize = 12;
/// Clients that leave a will in each life of the server.
const CLIENTS: u64 = 8;
/// The longest time between a start of the server and its end, in milliseconds.
const LONGEST_LIFE: u64 = 700;

fn options(port: u16, name: &str) -> Options {
    let mut options = Options::url(&format!("mqtt://{name}@127.0.0.1:{port}")).unwrap();
    options.client_id = name.to_owned();
    (options.clean_start, options.session_expiry) = (false, Duration::from_secs(3600));
    options.reconnect = Reconnect::every(Duration::from_millis(30));
    options
}

/// Options of a client that does not come back by itself, and leaves a will with its name.
fn mourned(port: u16, name: &str, delay: u64) -> Options {
    let message = Publish::new(format!("wills/{name}"), name.to_owned()).unwrap().qos(Qos::ExactlyOnce);
    let mut options = options(port, name);
    options.will = Some(Will::new(message).after(Duration::from_secs(delay)));
    options.reconnect = Reconnect::Off;
    options
}

/// A client that sees the wills, each exactly once.
async fn watch(port: u16) -> (Client, Subscription) {
    let watcher = Client::start(options(port, "watcher")).unwrap();
    let stream = within("the SUBACK", watcher.subscribe("wills/+", Qos::ExactlyOnce)).await.unwrap();
    (watcher, stream)
}

/// Receives messages until all of these have come, and then the one that this client publishes. Whatever comes twice comes
/// before that.
async fn receive(
    watcher: &Client,
    stream: &mut Subscription,
    mut awaited: BTreeSet<String>,
) -> BTreeMap<String, usize> {
    let mut received: BTreeMap<String, usize> = BTreeMap::new();
    let mut is_last_sent = false;
    loop {
        if awaited.is_empty() && !std::mem::replace(&mut is_last_sent, true) {
            let last = Publish::new("wills/end", "end").unwrap().qos(Qos::ExactlyOnce);
            within("the last acknowledgement", watcher.publish(&last)).await.unwrap();
        }
        let message =
            within(format_args!("one of {awaited:?}"), stream.next()).await.expect("the client goes on");
        let text = message.text().unwrap();
        if text == "end" {
            return received;
        }
        awaited.remove(text);
        *received.entry(text.to_owned()).or_default() += 1;
    }
}

/// Connects, again and again with another name, to a server that is killed meanwhile. Whether the wills of the attempts that
/// failed are published nobody can know.
async fn leave_will(
    port: u16,
    name: String,
    delay: u64,
    session_expiry: Duration,
) -> (Client, String, Vec<String>) {
    let mut failed = Vec::new();
    loop {
        let name = format!("{name}-{}", failed.len());
        let mut options = mourned(port, &name, delay);
        options.session_expiry = session_expiry;
        match Client::connect(options).await {
            Ok(client) => return (client, name, failed),
            Err(_) => failed.push(name),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn each_will_is_published_once(mut server: Server, seed: u64) {
    let mut random = Random::new(seed);
    let (watcher, mut stream) = watch(server.port).await;
    let (mut published, mut unknown, mut clients) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for life in 0..LIVES {
        let connecting = (0..CLIENTS).map(|number| {
            let expiry = Duration::from_secs(if number % 2 == 0 { 0 } else { 3600 });
            tokio::spawn(leave_will(server.port, format!("lamp-{life}-{number}"), number % 3, expiry))
        });
        let connecting: Vec<_> = connecting.collect();
        tokio::time::sleep(Duration::from_millis(random.below(LONGEST_LIFE))).await;
        server.crash();
        for connecting in connecting {
            let (client, name, failed) = within("a CONNACK", connecting).await.unwrap();
            clients.push(client);
            published.insert(name);
            unknown.extend(failed);
        }
    }
    server.crash();
    let received = receive(&watcher, &mut stream, published.clone()).await;
    for (name, times) in received {
        assert!(
            times == 1 && (published.contains(&name) || unknown.contains(&name)),
            "seed {seed}: {name} {times}"
        );
    }
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_each_will_is_published_once_while_the_server_is_killed() {
    each_will_is_published_once(Server::start(None), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_each_will_is_published_once_while_the_server_is_killed() {
    if !MariaDb::is_installed() {
        eprintln!("left out: MariaDB is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = MariaDb::start(folder.path()).await;
    each_will_is_published_once(Server::start(Some(&database)), 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_wills_of_a_killed_node_are_published_once_by_another_node() {
    let Some(mut cluster) = Cluster::of(3).await else { return };
    let ports: Vec<_> = cluster.nodes.iter().map(|node| node.address.port()).collect();
    let (watcher, mut stream) = watch(ports[2]).await;
    let mut clients = Vec::new();
    let mut published = BTreeSet::new();
    for number in 0..40 {
        let name = format!("lamp-{number}");
        let mut options = mourned(ports[0], &name, number % 3);
        if number % 2 == 0 {
            options.session_expiry = Duration::ZERO;
        }
        clients.push(Client::connect(options).await.unwrap());
        published.insert(name);
    }
    clients.push(Client::connect(mourned(ports[0], "back", 1000)).await.unwrap());
    let gone = Client::connect(mourned(ports[0], "gone", 0)).await.unwrap();
    gone.disconnect().await;
    until("the end of the client that leaves in order", || {
        (!cluster.closes_of("gone").is_empty()).then_some(())
    })
    .await;
    cluster.nodes[0].kill();
    // It takes its will back, and its clean start finds nothing.
    let mut here = mourned(ports[1], "back", 1000);
    here.connect_timeout = DEADLINE;
    let client = within("CONNECT", Client::connect(here.clone())).await.unwrap();
    assert!(client.information().unwrap().session_present);
    client.disconnect().await;
    // Otherwise the next connection may be faster than the DISCONNECT of this one.
    until("the end of its second connection", || {
        cluster.closes_of("back").iter().any(|reason| reason == "Disconnected").then_some(())
    })
    .await;
    here.clean_start = true;
    Client::connect(here).await.unwrap().disconnect().await;
    let received = receive(&watcher, &mut stream, published.clone()).await;
    let once: BTreeMap<_, _> = published.into_iter().map(|name| (name, 1)).collect();
    assert_eq!(received, once);
    cluster.nodes[0].restart().await;
    assert_eq!(receive(&watcher, &mut stream, BTreeSet::new()).await, BTreeMap::new());
}
