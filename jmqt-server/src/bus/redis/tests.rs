//! Tests of the bus on a real Redis, which `JMQT_TEST_REDIS` names (`scripts/with-databases` starts one). Each test
//! uses a separate prefix. Tests that need another kind of Redis start it.

use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tempfile::TempDir;
use test_support::{Process, free_port};

use super::*;
use crate::attributes::Attributes;
use crate::bus::{Body, LoggedMessages};
use crate::config::RedisMode;
use crate::message::{Data, Pieces, PushId, place};
use crate::store::{ChannelKey, Epoch, LogPlace, Seq, Stamp};

const DEADLINE: Duration = Duration::from_secs(10);

fn seal() -> Seal {
    Seal::new(&[7; 32])
}

fn speaker(node: u64) -> Speaker {
    Speaker { node: NodeId(node), epoch: Epoch(7) }
}

/// The options of the Redis for tests; prints a line and returns `None` without one.
fn options(test: &str) -> Option<RedisOptions> {
    let Ok(url) = std::env::var("JMQT_TEST_REDIS") else {
        eprintln!("left out, because JMQT_TEST_REDIS names no Redis: {test}");
        return None;
    };
    let (host, port) = url.trim_start_matches("redis://").trim_end_matches('/').rsplit_once(':')?;
    let mut options = RedisOptions::standalone(host, port.parse().ok()?);
    options.prefix = format!("test-{:08x}:", getrandom::u32().ok()?);
    Some(options)
}

struct Node {
    bus: Arc<RedisBus>,
    events: BusEvents,
    stop: CancellationToken,
    running: tokio::task::JoinHandle<()>,
}

impl Node {
    async fn start(number: u64, options: &RedisOptions) -> Self {
        let (bus, events) = RedisBus::new(speaker(number), seal(), options.clone(), Arc::default());
        let (bus, stop) = (Arc::new(bus), CancellationToken::new());
        let running = {
            let (bus, stop) = (Arc::clone(&bus), stop.clone());
            tokio::spawn(async move { bus.run(stop).await })
        };
        timeout(DEADLINE, bus.up()).await.expect("the link comes up");
        let mut node = Self { bus, events, stop, running };
        assert!(matches!(node.next().await, BusEvent::Up));
        node
    }

    async fn next(&mut self) -> BusEvent {
        timeout(DEADLINE, self.events.next()).await.expect("something happens").expect("the bus is there")
    }

    /// The next message.
    async fn hear(&mut self) -> (NodeId, Body) {
        loop {
            match self.next().await {
                BusEvent::Message(BusMessage { from, body }) => return (from, body),
                BusEvent::NobodyThere(_) | BusEvent::Up | BusEvent::Down => {}
            }
        }
    }

    async fn join(&self, name: &ChannelName) {
        self.bus.join(name);
        self.bus.joined(name).await;
    }

    async fn end(self) {
        self.stop.cancel();
        timeout(DEADLINE, self.running).await.expect("the bus ends").unwrap();
    }
}

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

/// One QoS 0 message.
fn run(data: &str) -> Run {
    let pieces = Pieces { ends: [place(data.len())].into(), bytes: Bytes::copy_from_slice(data.as_bytes()) };
    Run { attributes: Attributes::NONE, pieces, before: 0, behind: 0 }
}

/// A connection with the time limit of the tests.
async fn ask_redis(host: &str, port: u16) -> MultiplexedConnection {
    let config = redis::AsyncConnectionConfig::new()
        .set_connection_timeout(Some(DEADLINE))
        .set_response_timeout(Some(DEADLINE));
    let client = redis::Client::open((host, port)).unwrap();
    client.get_multiplexed_async_connection_with_config(&config).await.unwrap()
}

/// The number of connections that are subscribed to a channel with the prefix of these options.
async fn channels_in_redis(options: &RedisOptions) -> Vec<String> {
    let RedisMode::Standalone { host, port } = &options.mode else { return Vec::new() };
    let mut connection = ask_redis(host, *port).await;
    let pattern = format!("{}*", options.prefix);
    redis::cmd("PUBSUB").arg("CHANNELS").arg(pattern).query_async(&mut connection).await.unwrap()
}

#[tokio::test]
async fn pushes_reach_the_nodes_that_joined_their_channel_in_order() {
    let Some(options) = options("pushes_reach_the_nodes_that_joined_their_channel_in_order") else { return };
    let (a, mut b) = (Node::start(1, &options).await, Node::start(2, &options).await);
    let (news, other) = (channel("news"), channel("other"));
    b.join(&news).await;
    let alice = ClientId::parse("alice").unwrap();
    let mut expected = Vec::new();
    for number in 0..500 {
        let data = number.to_string();
        a.bus.publish_qos0(&other, None, &run("\"nobody gets this\""));
        a.bus.publish_qos0(&news, Some(&alice), &run(&data));
        expected.push(data.into_bytes());
    }
    let mut received = Vec::new();
    while received.len() < expected.len() {
        let (from, Body::Qos0(heard)) = b.hear().await else { panic!("not pushes") };
        assert_eq!((from, &heard.channel, &heard.sender), (NodeId(1), &news, &Some(alice.clone())));
        received.extend(heard.run.data().map(<[u8]>::to_vec));
    }
    assert_eq!(received, expected);
    a.end().await;
    b.end().await;
}

#[tokio::test]
async fn a_node_receives_messages_to_itself_and_to_all_nodes_including_its_own() {
    let Some(options) = options("a_node_receives_messages_to_itself_and_to_all_nodes_including_its_own")
    else {
        return;
    };
    let (mut a, mut b) = (Node::start(1, &options).await, Node::start(2, &options).await);
    let id = PushId::Logged(LogPlace { key: ChannelKey(3), seq: Seq(4), stamp: Stamp(5) });
    let messages = vec![LoggedPush { id, sender: None, data: Data::checked_before("1".into()) }];
    a.bus.send_qos1(NodeId(2), &channel("#bob"), &messages);
    let sent = LoggedMessages { channel: channel("#bob"), messages };
    assert_eq!(b.hear().await, (NodeId(1), Body::Qos1(sent)));
    a.bus.broadcast(&Control::Leaving);
    assert_eq!(b.hear().await, (NodeId(1), Body::Control(Control::Leaving)));
    assert_eq!(a.hear().await, (NodeId(1), Body::Control(Control::Leaving)));
    a.bus.send(NodeId(77), &Control::Leaving);
    assert!(matches!(a.next().await, BusEvent::NobodyThere(NodeId(77))));
    a.end().await;
    b.end().await;
}

#[tokio::test]
async fn messages_of_other_programs_in_redis_are_refused_and_counted() {
    let Some(options) = options("messages_of_other_programs_in_redis_are_refused_and_counted") else {
        return;
    };
    let (mut a, names) = (Node::start(1, &options).await, Names::new(&options));
    let RedisMode::Standalone { host, port } = &options.mode else { return };
    let mut connection = ask_redis(host, *port).await;
    let forged = message::encode_control(speaker(2), &Control::WantSessions);
    let mut with_other_key = forged.clone();
    Seal::new(&[8; 32]).put(&names.everybody(), &mut with_other_key);
    let mut from_elsewhere = forged.clone();
    seal().put(&names.node(NodeId(2)), &mut from_elsewhere);
    for payload in [forged, with_other_key, from_elsewhere, Vec::new()] {
        let publish = redis::cmd("PUBLISH").arg(names.everybody()).arg(payload).to_owned();
        publish.query_async::<()>(&mut connection).await.unwrap();
    }
    a.bus.broadcast(&Control::Leaving);
    assert_eq!(a.hear().await, (NodeId(1), Body::Control(Control::Leaving)), "nothing came before it");
    assert_eq!(a.bus.counters.snapshot().bus_refused, 4);
    a.end().await;
}

#[tokio::test]
async fn repeated_joining_and_leaving_leaves_no_subscriptions() {
    let Some(options) = options("repeated_joining_and_leaving_leaves_no_subscriptions") else { return };
    let a = Node::start(1, &options).await;
    let names: Vec<_> = (0..300).map(|number| channel(&format!("c{number}"))).collect();
    for _ in 0..5 {
        for name in &names {
            a.join(name).await;
            a.bus.join(name);
            a.bus.leave(name);
        }
        assert_eq!(channels_in_redis(&options).await.len(), 2 + names.len());
        for name in &names {
            a.bus.leave(name);
        }
        // When this command is answered, all earlier commands have been carried out.
        let last = channel("last");
        a.join(&last).await;
        let mut left = channels_in_redis(&options).await;
        left.sort();
        assert_eq!(left.len(), 3, "{left:?}");
        a.bus.leave(&last);
    }
    a.end().await;
    // The server closes the connection a moment later.
    let gone = async {
        while !channels_in_redis(&options).await.is_empty() {
            tokio::time::sleep(Duration::from_millis(20)).await; // there is no event to wait for
        }
    };
    timeout(DEADLINE, gone).await.expect("nothing is left in Redis");
}

#[tokio::test]
async fn a_reset_connection_subscribes_all_joined_channels_again() {
    let Some(options) = options("a_reset_connection_subscribes_all_joined_channels_again") else {
        return;
    };
    let (a, mut b) = (Node::start(1, &options).await, Node::start(2, &options).await);
    let news = channel("news");
    b.join(&news).await;
    b.bus.reset();
    assert!(matches!(b.next().await, BusEvent::Down));
    b.bus.join(&channel("joined while it was away"));
    assert!(matches!(b.next().await, BusEvent::Up));
    a.bus.publish_qos0(&news, None, &run("1"));
    a.bus.publish_qos0(&channel("joined while it was away"), None, &run("2"));
    for expected in [b"1", b"2"] {
        let (_, Body::Qos0(pushes)) = b.hear().await else { panic!("not pushes") };
        assert_eq!(pushes.run.data().collect::<Vec<_>>(), [expected]);
    }
    a.end().await;
    b.end().await;
}

#[tokio::test]
async fn without_redis_joining_does_not_wait_and_lost_pushes_are_counted() {
    let options = RedisOptions::standalone("127.0.0.1", 1); // no server listens there
    let (bus, _events) = RedisBus::new(speaker(1), seal(), options, Arc::default());
    let (bus, stop) = (Arc::new(bus), CancellationToken::new());
    let running = {
        let (bus, stop) = (Arc::clone(&bus), stop.clone());
        tokio::spawn(async move { bus.run(stop).await })
    };
    bus.join(&channel("news"));
    timeout(DEADLINE, bus.joined(&channel("news"))).await.unwrap();
    bus.publish_qos0(&channel("news"), None, &run("1"));
    assert_eq!(bus.counters.snapshot().bus_dropped, 1);
    stop.cancel();
    timeout(DEADLINE, running).await.unwrap().unwrap();
}

/// A Redis that a test starts. Dropping this stops it and deletes its folder.
struct OwnRedis {
    processes: Vec<Process>,
    folder: TempDir,
}

impl OwnRedis {
    /// Prints a line and returns `None` if the tests run without Redis.
    fn new(test: &str) -> Option<Self> {
        options(test)?;
        Some(Self { processes: Vec::new(), folder: tempfile::tempdir().unwrap() })
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts a server, and waits until `port` takes connections.
    async fn start(&mut self, port: u16, arguments: &[String]) {
        let mut command = test_support::command("redis-server");
        command.args(arguments).current_dir(self.folder()).stdout(Stdio::null());
        self.processes.push(Process::start(&mut command).unwrap());
        let listening = async {
            while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await; // there is no event to wait for
            }
        };
        timeout(DEADLINE, listening).await.expect("redis-server listens");
    }
}

fn words(text: &str) -> Vec<String> {
    text.split(' ').map(str::to_owned).collect()
}

/// Checks that two nodes receive each other's pushes.
async fn two_nodes_talk(options: &RedisOptions) {
    let (a, mut b) = (Node::start(1, options).await, Node::start(2, options).await);
    let names: Vec<_> = (0..20).map(|number| channel(&format!("c{number}"))).collect();
    for name in &names {
        b.join(name).await;
    }
    for name in &names {
        a.bus.publish_qos0(name, None, &run("1"));
    }
    let mut heard = Vec::new();
    for _ in &names {
        let (_, Body::Qos0(pushes)) = b.hear().await else { panic!("not pushes") };
        heard.push(pushes.channel);
    }
    heard.sort();
    let mut expected = names.clone();
    expected.sort();
    assert_eq!(heard, expected);
    for name in &names {
        b.bus.leave(name);
    }
    a.bus.send(NodeId(2), &Control::Leaving);
    assert_eq!(b.hear().await, (NodeId(1), Body::Control(Control::Leaving)));
    a.end().await;
    b.end().await;
}

/// A cluster of one server, and a connection to it.
async fn one_shard(redis: &mut OwnRedis) -> (RedisOptions, MultiplexedConnection) {
    let (port, bus) = (free_port(), free_port());
    let arguments = format!("--port {port} --bind 127.0.0.1 --cluster-enabled yes --cluster-port {bus}");
    redis.start(port, &words(&arguments)).await;
    let mut connection = ask_redis("127.0.0.1", port).await;
    cluster::<()>(&mut connection, "ADDSLOTSRANGE 0 16383").await;
    ready(&mut connection).await;
    let mode = RedisMode::Cluster { nodes: vec![("127.0.0.1".to_owned(), port)] };
    (RedisOptions { mode, ..RedisOptions::standalone("", 0) }, connection)
}

async fn cluster<T: redis::FromRedisValue>(connection: &mut MultiplexedConnection, arguments: &str) -> T {
    redis::cmd("CLUSTER").arg(words(arguments)).query_async(connection).await.unwrap()
}

async fn ready(connection: &mut MultiplexedConnection) {
    let ready = async {
        while !cluster::<String>(connection, "INFO").await.contains("cluster_state:ok") {
            tokio::time::sleep(Duration::from_millis(20)).await; // there is no event to wait for
        }
    };
    timeout(DEADLINE, ready).await.expect("the cluster gets ready");
}

#[tokio::test]
async fn a_redis_cluster_uses_sharded_channels() {
    let Some(mut redis) = OwnRedis::new("a_redis_cluster_uses_sharded_channels") else { return };
    let (options, _) = one_shard(&mut redis).await;
    two_nodes_talk(&options).await;
}

#[tokio::test]
async fn a_channel_that_a_redis_cluster_moves_is_subscribed_again() {
    let Some(mut redis) = OwnRedis::new("a_channel_that_a_redis_cluster_moves_is_subscribed_again") else {
        return;
    };
    let (options, mut connection) = one_shard(&mut redis).await;
    let names = Names::new(&options);
    let mut nodes = [Node::start(2, &options).await, Node::start(1, &options).await];
    let news = channel("news");
    nodes[0].join(&news).await;
    for (moved, how_many_lose_it) in [(names.channel("news"), 1), (names.everybody(), 2)] {
        let slot: u16 = cluster(&mut connection, &format!("KEYSLOT {moved}")).await;
        cluster::<()>(&mut connection, &format!("DELSLOTS {slot}")).await;
        for node in &mut nodes[..how_many_lose_it] {
            while !matches!(node.next().await, BusEvent::Down) {}
        }
        cluster::<()>(&mut connection, &format!("ADDSLOTS {slot}")).await;
        ready(&mut connection).await;
        for node in &mut nodes[..how_many_lose_it] {
            while !matches!(node.next().await, BusEvent::Up) {}
        }
        nodes[1].bus.publish_qos0(&news, None, &run("1"));
        let (_, Body::Qos0(pushes)) = nodes[0].hear().await else { panic!("not pushes") };
        assert_eq!(pushes.channel, news);
    }
    for node in nodes {
        node.end().await;
    }
}

#[tokio::test]
async fn sentinels_provide_the_address_of_redis() {
    let Some(mut redis) = OwnRedis::new("sentinels_provide_the_address_of_redis") else { return };
    let (port, sentinel) = (free_port(), free_port());
    redis.start(port, &words(&format!("--port {port} --bind 127.0.0.1"))).await;
    let file = redis.folder().join("sentinel.conf");
    let conf = format!(
        "port {sentinel}\nbind 127.0.0.1\nsentinel monitor main 127.0.0.1 {port} 1\nsentinel resolve-hostnames no\n"
    );
    std::fs::write(&file, conf).unwrap();
    redis.start(sentinel, &[file.display().to_string(), "--sentinel".to_owned()]).await;
    let nodes = vec![("127.0.0.1".to_owned(), sentinel)];
    let mode = RedisMode::Sentinel { nodes, master: "main".to_owned() };
    two_nodes_talk(&RedisOptions { mode, ..RedisOptions::standalone("", 0) }).await;
}

#[tokio::test]
async fn minimal_acl_rights_suffice_and_a_wrong_password_is_reported() {
    let Some(mut redis) = OwnRedis::new("minimal_acl_rights_suffice_and_a_wrong_password_is_reported") else {
        return;
    };
    let port = free_port();
    let user = "user jmqt on >secret resetchannels &jmqt:* +@connection +publish +subscribe +unsubscribe";
    let file = redis.folder().join("redis.conf");
    let conf = format!("port {port}\nbind 127.0.0.1\nuser default off\n{user}\n");
    std::fs::write(&file, conf).unwrap();
    redis.start(port, &[file.display().to_string()]).await;
    let mut options = RedisOptions::standalone("127.0.0.1", port);
    options.user = Some("jmqt".to_owned());
    options.password = Some("wrong".to_owned());
    let (received, _lost) = RedisBus::new(speaker(1), seal(), options.clone(), Arc::default()).0.received();
    let error =
        Link::connect(&options, move |info| received.take(info)).await.err().expect("the password is wrong");
    let told = link::explain(&error);
    assert!(told.contains("REDIS_PASSWORD") && !told.contains("wrong\""), "{told}");
    options.password = Some("secret".to_owned());
    two_nodes_talk(&options).await;
}

#[tokio::test]
async fn the_connection_may_be_encrypted() {
    let Some(mut redis) = OwnRedis::new("the_connection_may_be_encrypted") else { return };
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (redis.folder().join("cert.pem"), redis.folder().join("key.pem"));
    std::fs::write(&certificate, made.cert.pem()).unwrap();
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let port = free_port();
    let arguments = format!(
        "--port 0 --tls-port {port} --bind 127.0.0.1 --tls-auth-clients no --tls-cert-file {} --tls-key-file {}",
        certificate.display(),
        key.display()
    );
    redis.start(port, &words(&arguments)).await;
    let mut options = RedisOptions::standalone("localhost", port);
    options.tls = true;
    options.ca_path = Some(certificate);
    two_nodes_talk(&options).await;
}
