//! The bus on a real Redis, which `JMQT_TEST_REDIS` names (`scripts/with-databases` starts one). Each test
//! uses a prefix of its own.

use std::sync::Arc;
use std::time::Duration;

use super::*;
use crate::bus::{Body, Place, Qos1Push};

const DEADLINE: Duration = Duration::from_secs(10);

/// Options for the Redis of the tests; `None`, said aloud, if there is none.
fn options(test: &str) -> Option<RedisOptions> {
    let Ok(url) = std::env::var("JMQT_TEST_REDIS") else {
        eprintln!("left out for want of a Redis (JMQT_TEST_REDIS): {test}");
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
        let (bus, events) = RedisBus::new(NodeId(number), options.clone(), Arc::default());
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

    /// The next thing that is said.
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

/// How many connections are subscribed to a channel of these options' prefix.
async fn channels_in_redis(options: &RedisOptions) -> Vec<String> {
    let RedisMode::Standalone { host, port } = &options.mode else { return Vec::new() };
    let client = redis::Client::open((host.as_str(), *port)).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
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
        let push = format!("{{{number}}}\0");
        a.bus.publish_qos0(&other, None, b"nobody gets this\0");
        a.bus.publish_qos0(&news, Some(&alice), push.as_bytes());
        expected.extend(push.into_bytes());
    }
    let mut received = Vec::new();
    while received.len() < expected.len() {
        let (from, Body::Qos0(pushes)) = b.hear().await else { panic!("not pushes") };
        assert_eq!((from, &pushes.channel, &pushes.sender), (NodeId(1), &news, &Some(alice.clone())));
        received.extend_from_slice(&pushes.pushes);
    }
    assert_eq!(received, expected);
    a.end().await;
    b.end().await;
}

#[tokio::test]
async fn a_node_hears_what_is_said_to_it_and_to_all_and_hears_itself() {
    let Some(options) = options("a_node_hears_what_is_said_to_it_and_to_all_and_hears_itself") else {
        return;
    };
    let (mut a, mut b) = (Node::start(1, &options).await, Node::start(2, &options).await);
    let pushes = Qos1Pushes {
        channel: channel("#bob"),
        messages: vec![Qos1Push { place: Place::Log { key: 3, seq: 4 }, sender: None, end: 2 }],
        pushes: Bytes::from_static(b"1\0"),
    };
    a.bus.send_qos1(NodeId(2), &pushes);
    a.bus.broadcast(&Control::Beat);
    assert_eq!(b.hear().await, (NodeId(1), Body::Qos1(pushes)));
    assert_eq!(b.hear().await, (NodeId(1), Body::Control(Control::Beat)));
    assert_eq!(a.hear().await, (NodeId(1), Body::Control(Control::Beat)));
    a.bus.send(NodeId(77), &Control::Beat);
    assert!(matches!(a.next().await, BusEvent::NobodyThere(NodeId(77))));
    a.end().await;
    b.end().await;
}

#[tokio::test]
async fn joining_and_leaving_over_and_over_leaves_nothing_behind() {
    let Some(options) = options("joining_and_leaving_over_and_over_leaves_nothing_behind") else { return };
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
        // Behind this one everything before it has been carried out.
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
            tokio::task::yield_now().await;
        }
    };
    timeout(DEADLINE, gone).await.expect("nothing is left in Redis");
}

#[tokio::test]
async fn a_link_that_is_reset_comes_back_with_everything_that_was_joined() {
    let Some(options) = options("a_link_that_is_reset_comes_back_with_everything_that_was_joined") else {
        return;
    };
    let (a, mut b) = (Node::start(1, &options).await, Node::start(2, &options).await);
    let news = channel("news");
    b.join(&news).await;
    b.bus.reset();
    assert!(matches!(b.next().await, BusEvent::Down));
    b.bus.join(&channel("joined while it was away"));
    assert!(matches!(b.next().await, BusEvent::Up));
    a.bus.publish_qos0(&news, None, b"1\0");
    a.bus.publish_qos0(&channel("joined while it was away"), None, b"2\0");
    for expected in [&b"1\0"[..], b"2\0"] {
        let (_, Body::Qos0(pushes)) = b.hear().await else { panic!("not pushes") };
        assert_eq!(pushes.pushes, expected);
    }
    a.end().await;
    b.end().await;
}

#[tokio::test]
async fn without_redis_nobody_waits_and_what_is_lost_is_counted() {
    let options = RedisOptions::standalone("127.0.0.1", 1); // nobody listens there
    let (bus, _events) = RedisBus::new(NodeId(1), options, Arc::default());
    let (bus, stop) = (Arc::new(bus), CancellationToken::new());
    let running = {
        let (bus, stop) = (Arc::clone(&bus), stop.clone());
        tokio::spawn(async move { bus.run(stop).await })
    };
    bus.join(&channel("news"));
    timeout(DEADLINE, bus.joined(&channel("news"))).await.unwrap();
    bus.publish_qos0(&channel("news"), None, b"1\0");
    assert_eq!(bus.counters.snapshot().bus_dropped, 1);
    stop.cancel();
    timeout(DEADLINE, running).await.unwrap().unwrap();
}
