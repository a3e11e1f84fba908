//! Subscriptions with wildcards on several nodes.

use std::time::{Duration, Instant};

use jmqt_server::config::{Config, MySqlTls, RedisMode, RedisOptions};
use jmqt_server::{ConnVerdict, MySqlConfig};

use super::*;
use crate::databases::proxy::Proxy;
use crate::databases::{MySql, left_out};
use crate::support::client_id;

/// Generous: it only ends tests that have failed.
const LONG: Duration = Duration::from_secs(60);

/// A cluster with a database of its own.
struct Cluster {
    database: MySql,
    redis: RedisOptions,
}

impl Cluster {
    /// `None`, with a message, without databases.
    async fn new() -> Option<Self> {
        let database = MySql::new(true)?;
        let Ok(redis) = std::env::var("JMQT_TEST_REDIS") else {
            left_out("it needs a Redis (JMQT_TEST_REDIS); scripts/with-databases starts one");
            return None;
        };
        let (host, port) = redis.trim_start_matches("redis://").trim_end_matches('/').rsplit_once(':')?;
        let mut redis = RedisOptions::standalone(host, port.parse().ok()?);
        redis.prefix = format!("test-{:08x}:", getrandom::u32().ok()?);
        database.make().await;
        Some(Self { database, redis })
    }

    /// A node with this way to Redis.
    async fn node_over(&self, redis_port: u16) -> TestServer {
        self.node_with(redis_port, |_| {}).await
    }

    async fn node_with(&self, redis_port: u16, change: impl FnOnce(&mut Config)) -> TestServer {
        TestServer::configured(|config| {
            let options = self.database.options();
            let mut mysql = MySqlConfig::default();
            (mysql.host, mysql.port, mysql.tls) = (options.host, options.port, MySqlTls::Disabled);
            (mysql.database, mysql.user) = (options.database, options.user);
            let RedisMode::Standalone { host, .. } = &self.redis.mode else { unreachable!() };
            let mut redis = RedisOptions::standalone(host, redis_port);
            redis.prefix.clone_from(&self.redis.prefix);
            (config.mysql, config.redis, config.mqtt_port) = (Some(mysql), Some(redis), Some(0));
            change(config);
        })
        .await
    }

    fn redis_port(&self) -> u16 {
        match &self.redis.mode {
            RedisMode::Standalone { port, .. } => *port,
            _ => unreachable!(),
        }
    }

    async fn node(&self) -> TestServer {
        self.node_over(self.redis_port()).await
    }
}

async fn device(node: &TestServer, name: &str) -> Device {
    Device::new(node, Version::V5, Login::of(name)).await
}

impl Device {
    /// The next message, which is acknowledged.
    async fn receive(&mut self) -> (String, Vec<u8>) {
        let (topic, payload, delivery, _) = self.message().await;
        if delivery != Delivery::AtMostOnce {
            self.acknowledge(delivery).await;
        }
        (topic, payload)
    }

    async fn unsubscribe(&mut self, filter: &str) {
        let mut names = NameBuf::new();
        names.push(filter).unwrap();
        let packet = Unsubscribe { id: id(8), properties: Properties::EMPTY, filters: names.as_names() };
        self.send(&Packet::Unsubscribe(packet)).await;
        while !self.next(|packet| matches!(packet, Packet::UnsubAck(_))).await {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // 4.7.1
async fn wildcards_match_what_other_nodes_publish_from_the_suback_on() {
    let Some(cluster) = Cluster::new().await else { return };
    let (a, b) = (cluster.node().await, cluster.node().await);
    let mut publisher = device(&b, "publisher").await;
    let mut browser = b.connect("browser").await;
    assert_eq!(publisher.publish_acknowledged("kept/x", b"retained", true).await, ReasonCode::SUCCESS);
    for round in 0..20 {
        let name = format!("subscriber-{round}");
        let mut subscriber = device(&a, &name).await;
        let filter = format!("{round}/+");
        assert_eq!(subscriber.subscribe(&filter, Qos::AtLeastOnce).await, ReasonCode::GRANTED_QOS_1);
        // At once: the node of the publisher knows the filter.
        publisher.publish(&format!("{round}/a"), b"1", Delivery::AtMostOnce, false).await;
        publisher.publish(&format!("{round}/b/c"), b"-", Delivery::AtMostOnce, false).await;
        let code = publisher.publish_acknowledged(&format!("{round}/b"), b"2", false).await;
        assert_eq!(code, ReasonCode::SUCCESS);
        browser.send(&format!(r#"{{"pub":{{"cn":"{round}/c","dt":3}}}}"#)).await;
        let mut received =
            vec![subscriber.receive().await, subscriber.receive().await, subscriber.receive().await];
        received.sort();
        let expected = [("a", "1"), ("b", "2"), ("c", "3")]
            .map(|(topic, payload)| (format!("{round}/{topic}"), payload.as_bytes().to_vec()));
        assert_eq!(received, expected);
        subscriber.expect_nothing().await;
    }
    let mut late = device(&a, "late").await;
    let mut filters = FilterBuf::new();
    filters.push("kept/#", SubscribeOptions::of_qos(Qos::AtMostOnce)).unwrap();
    late.send(&Packet::Subscribe(Subscribe {
        id: id(7),
        properties: Properties::EMPTY,
        filters: filters.as_filters(),
    }))
    .await;
    let mut seen = Vec::new();
    for _ in 0..2 {
        seen.push(late.next(|packet| packet.packet_type()).await);
    }
    seen.sort_by_key(|kind| *kind as u8);
    assert_eq!(seen, [PacketType::Publish, PacketType::SubAck], "the retained message of the other node");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // 3.3.5
async fn a_node_with_the_channel_and_a_filter_delivers_one_copy() {
    let Some(cluster) = Cluster::new().await else { return };
    let (a, b) = (cluster.node().await, cluster.node().await);
    let mut publisher = device(&b, "publisher").await;
    let (mut wide, mut both, mut exact) =
        (device(&a, "wide").await, device(&a, "both").await, device(&a, "exact").await);
    wide.subscribe("room/+", Qos::AtLeastOnce).await;
    both.subscribe("room/#", Qos::AtLeastOnce).await;
    let mut local = device(&b, "local").await;
    local.subscribe("#", Qos::AtMostOnce).await;
    let mut number = 0;
    for _ in 0..3 {
        // With the exact name and without it.
        for step in 0..2 {
            for device in [&mut both, &mut exact] {
                if step == 1 {
                    device.subscribe("room/1", Qos::AtLeastOnce).await;
                }
            }
            for _ in 0..20 {
                number += 1;
                let payload = format!("{number}");
                publisher.publish("room/1", payload.as_bytes(), Delivery::AtMostOnce, false).await;
                number += 1;
                let payload = format!("{number}");
                publisher.publish_acknowledged("room/1", payload.as_bytes(), false).await;
                for expected in [number - 1, number] {
                    for device in [&mut wide, &mut both, &mut local] {
                        assert_eq!(device.receive().await.1, format!("{expected}").into_bytes());
                    }
                    if step == 1 {
                        assert_eq!(exact.receive().await.1, format!("{expected}").into_bytes());
                    }
                }
            }
            for device in [&mut wide, &mut both, &mut local, &mut exact] {
                device.expect_nothing().await;
            }
        }
        for device in [&mut both, &mut exact] {
            device.unsubscribe("room/1").await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_starts_later_knows_the_filters_of_the_others() {
    let Some(cluster) = Cluster::new().await else { return };
    let a = cluster.node().await;
    let mut subscriber = device(&a, "subscriber").await;
    subscriber.subscribe("a/+", Qos::AtMostOnce).await;
    subscriber.subscribe("b/#", Qos::AtMostOnce).await;
    for number in 0..3 {
        let mut later = cluster.node().await;
        let mut publisher = device(&later, "publisher").await;
        publisher.publish("a/x", b"1", Delivery::AtMostOnce, false).await;
        publisher.publish("b", b"2", Delivery::AtMostOnce, false).await;
        assert_eq!(subscriber.receive().await, ("a/x".to_owned(), b"1".to_vec()), "node {number}");
        assert_eq!(subscriber.receive().await, ("b".to_owned(), b"2".to_vec()));
        later.shutdown().await;
    }
    subscriber.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn filters_of_a_node_that_had_lost_redis_become_known_afterwards() {
    let Some(cluster) = Cluster::new().await else { return };
    let proxy = Proxy::start(format!("127.0.0.1:{}", cluster.redis_port())).await;
    let (a, b) = (cluster.node_over(proxy.address.port()).await, cluster.node().await);
    let (mut subscriber, mut publisher) = (device(&a, "subscriber").await, device(&b, "publisher").await);
    subscriber.subscribe("old/+", Qos::AtMostOnce).await;
    proxy.part();
    // At once or after a few seconds: the node may not have noticed that the connection is lost.
    subscriber.subscribe("new/+", Qos::AtMostOnce).await;
    subscriber.unsubscribe("old/+").await;
    proxy.restore();
    let end = Instant::now() + LONG;
    let mut number = 0;
    loop {
        assert!(Instant::now() < end, "no message within {LONG:?}");
        number += 1;
        publisher.publish("old/x", b"-", Delivery::AtMostOnce, false).await;
        publisher.publish("new/x", format!("{number}").as_bytes(), Delivery::AtMostOnce, false).await;
        let received = tokio::time::timeout(Duration::from_millis(200), subscriber.receive()).await;
        if let Ok((topic, _)) = received {
            assert_eq!(topic, "new/x");
            break;
        }
    }
}

/// Connects to a session that outlives its connection.
async fn session(node: &TestServer, name: &str) -> Device {
    let login = Login { clean: false, expiry: 1000, ..Login::of(name) };
    Device::new(node, Version::V5, login).await
}

/// The next messages with QoS 1: topics and payloads, in the order of the topics.
async fn receive_all(device: &mut Device, count: usize) -> Vec<(String, String)> {
    let mut all = Vec::new();
    while all.len() < count {
        let (topic, payload) = device.receive().await;
        all.push((topic, String::from_utf8(payload).unwrap()));
    }
    all.sort();
    all
}

fn pairs(topics: &[&str], payload: &str) -> Vec<(String, String)> {
    topics.iter().map(|topic| ((*topic).to_owned(), payload.to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_a_filter_misses_nothing_on_any_node() {
    let Some(cluster) = Cluster::new().await else { return };
    let (a, b) = (cluster.node().await, cluster.node().await);
    let mut publishers = [device(&a, "here").await, device(&b, "there").await];
    let mut subscriber = session(&a, "subscriber").await;
    assert_eq!(subscriber.subscribe("a/+", Qos::AtLeastOnce).await, ReasonCode::GRANTED_QOS_1);
    // From the SUBACK on, in channels that did not exist, on both nodes.
    for round in ["1", "2", "3"] {
        for topic in ["a/1", "a/2", "a/3"] {
            for publisher in &mut publishers {
                publisher.publish_acknowledged(topic, round.as_bytes(), false).await;
            }
        }
        let expected = pairs(&["a/1", "a/1", "a/2", "a/2", "a/3", "a/3"], round);
        assert_eq!(receive_all(&mut subscriber, 6).await, expected);
    }
    subscriber.expect_nothing().await;
    drop(subscriber);
    for topic in ["a/1", "a/new", "a/b/c"] {
        publishers[1].publish_acknowledged(topic, b"kept", false).await;
    }
    let mut subscriber = session(&b, "subscriber").await;
    assert_eq!(receive_all(&mut subscriber, 2).await, pairs(&["a/1", "a/new"], "kept"));
    publishers[0].publish_acknowledged("a/2", b"moved", false).await;
    assert_eq!(receive_all(&mut subscriber, 1).await, pairs(&["a/2"], "moved"));
    subscriber.unsubscribe("a/+").await;
    for publisher in &mut publishers {
        publisher.publish_acknowledged("a/1", b"unwanted", false).await;
        publisher.publish_acknowledged("a/other", b"unwanted", false).await;
    }
    subscriber.expect_nothing().await;
    drop(subscriber);
    let mut subscriber = session(&a, "subscriber").await;
    subscriber.subscribe("a/#", Qos::AtLeastOnce).await;
    publishers[1].publish_acknowledged("a/1", b"new", false).await;
    assert_eq!(receive_all(&mut subscriber, 1).await, pairs(&["a/1"], "new"));
    subscriber.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_messages_for_filters_do_not_depend_on_redis() {
    let Some(cluster) = Cluster::new().await else { return };
    let proxy = Proxy::start(format!("127.0.0.1:{}", cluster.redis_port())).await;
    let (a, b) = (cluster.node_over(proxy.address.port()).await, cluster.node().await);
    let mut publisher = device(&b, "publisher").await;
    let mut subscriber = session(&a, "subscriber").await;
    subscriber.subscribe("a/+", Qos::AtLeastOnce).await;
    publisher.publish_acknowledged("a/old", b"1", false).await;
    assert_eq!(receive_all(&mut subscriber, 1).await, pairs(&["a/old"], "1"));
    proxy.part();
    for topic in ["a/old", "a/new"] {
        publisher.publish_acknowledged(topic, b"2", false).await;
    }
    // A filter that the other node learns from the database alone.
    subscriber.subscribe("b/+", Qos::AtLeastOnce).await;
    publisher.publish_acknowledged("b/new", b"2", false).await;
    proxy.restore();
    assert_eq!(receive_all(&mut subscriber, 3).await, pairs(&["a/new", "a/old", "b/new"], "2"));
    subscriber.expect_nothing().await;
}

/// A login with a will for the topic.
fn mourned<'a>(name: &'a str, topic: &'a str, delay: u32) -> Login<'a> {
    let will = Some((topic, &b"lost"[..], Qos::AtLeastOnce, false, delay));
    Login { will, clean: false, expiry: 1000, ..Login::of(name) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // 3.1.2.5: nobody is lost
async fn clients_that_leave_a_stopping_node_for_another_one_take_their_wills_along() {
    let Some(cluster) = Cluster::new().await else { return };
    let drained = |config: &mut Config| config.drain = Duration::from_secs(6);
    let (mut a, b) = (cluster.node_with(cluster.redis_port(), drained).await, cluster.node().await);
    let mut watcher = device(&b, "watcher").await;
    watcher.subscribe("gone/+", Qos::AtLeastOnce).await;
    let temporary = Login { clean: true, expiry: 0, ..mourned("two", "gone/two", 0) };
    let mut devices = Vec::new();
    for login in [mourned("one", "gone/one", 0), temporary, mourned("three", "gone/three", 0)] {
        devices.push(Device::new(&a, Version::V5, login).await);
    }
    a.shutdown().await;
    let _one = Device::new(&b, Version::V5, mourned("one", "gone/one", 0)).await;
    let _two = Device::new(&b, Version::V5, temporary).await;
    assert_eq!(watcher.receive().await.0, "gone/three");
    watcher.expect_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // 3.1.4
async fn a_takeover_by_another_node_publishes_the_will_unless_its_delay_goes_on() {
    let Some(cluster) = Cluster::new().await else { return };
    let (a, b) = (cluster.node().await, cluster.node().await);
    let mut watcher = device(&b, "watcher").await;
    watcher.subscribe("gone/+", Qos::AtLeastOnce).await;
    let _now = Device::new(&a, Version::V5, mourned("lamp", "gone/now", 0)).await;
    let _later = Device::new(&b, Version::V5, mourned("lamp", "gone/later", 1000)).await;
    assert_eq!(watcher.receive().await.0, "gone/now");
    let _resumed = Device::new(&a, Version::V5, mourned("lamp", "gone/resumed", 0)).await;
    let _clean =
        Device::new(&b, Version::V5, Login { clean: true, ..mourned("lamp", "gone/clean", 0) }).await;
    assert_eq!(watcher.receive().await.0, "gone/resumed");
    watcher.expect_nothing().await;
}

/// What members of a group have received when they are this many messages together, or more.
async fn all_of(members: &mut [Device], count: usize) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new(); members.len()];
    let since = Instant::now();
    while all.iter().map(Vec::len).sum::<usize>() < count {
        assert!(since.elapsed() < LONG, "{count} expected, {all:?}");
        for (member, heard) in members.iter_mut().zip(&mut all) {
            heard.extend(shared::heard_until_now(member).await);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for (member, heard) in members.iter_mut().zip(&mut all) {
        heard.extend(shared::heard_until_now(member).await);
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // 4.8.2
async fn each_message_goes_to_one_member_of_a_group_on_several_nodes() {
    let Some(cluster) = Cluster::new().await else { return };
    let (a, b) = (cluster.node().await, cluster.node().await);
    let mut publishers = [device(&a, "pub-a").await, device(&b, "pub-b").await];
    for (round, expiry) in [(0, 0), (1, 1000)] {
        let mut members = Vec::new();
        for (node, name) in [(&a, "one"), (&b, "two"), (&b, "three")] {
            let mut member = Device::dial(node, Version::V5).await;
            let name = format!("{name}-{round}");
            let login = Login { expiry, ..Login::of(&name) };
            assert_eq!(member.connect(login).await.0, ReasonCode::SUCCESS);
            let share = format!("$share/g/{round}/#");
            assert_eq!(member.subscribe(&share, Qos::AtLeastOnce).await, ReasonCode::GRANTED_QOS_1);
            members.push(member);
        }
        let mut expected = Vec::new();
        for number in 0..40 {
            let topic = format!("{round}/{}", number % 20);
            let [payload, fast] = ["slow", "fast"].map(|kind| format!("{kind}{number}"));
            let publisher = &mut publishers[number % 2];
            publisher.publish(&topic, fast.as_bytes(), Delivery::AtMostOnce, false).await;
            let code = publisher.publish_acknowledged(&topic, payload.as_bytes(), false).await;
            assert_eq!(code, ReasonCode::SUCCESS);
            expected.extend([payload, fast]);
        }
        expected.sort();
        let all = all_of(&mut members, expected.len()).await;
        assert!(all.iter().all(|heard| !heard.is_empty()), "{all:?}");
        let mut all = all.concat();
        all.sort();
        assert_eq!(all, expected, "each message once, {round}");
    }
}

/// A member of the group for `jobs/#`, whose session lasts for `expiry` seconds.
async fn worker(node: &TestServer, name: &str, expiry: u32, receive_maximum: Option<u16>) -> Device {
    let login = Login { expiry, receive_maximum, ..Login::of(name) };
    let mut worker = Device::new(node, Version::V5, login).await;
    assert_eq!(worker.subscribe("$share/g/jobs/#", Qos::AtLeastOnce).await, ReasonCode::GRANTED_QOS_1);
    worker
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // 4.8.2
async fn workers_on_all_nodes_share_the_messages_of_one_topic() {
    let Some(cluster) = Cluster::new().await else { return };
    let nodes = [cluster.node().await, cluster.node().await, cluster.node().await];
    for expiry in [0, 1000] {
        let mut workers = Vec::new();
        for (index, node) in [0, 0, 1, 1, 2].into_iter().zip([0, 1, 2, 3, 4]) {
            // Some take one message at a time.
            let receive_maximum = (node % 2 == 0).then_some(1);
            let name = format!("worker-{node}-{expiry}");
            workers.push(worker(&nodes[index], &name, expiry, receive_maximum).await);
        }
        let mut publishers = Vec::new();
        for (index, node) in nodes.iter().enumerate() {
            publishers.push(device(node, &format!("publisher-{index}")).await);
        }
        // Nodes learn a little later than the first members that there are members elsewhere.
        let mut round = 0;
        loop {
            round += 1;
            let mut expected = Vec::new();
            for number in 0..50 {
                let [stored, fast] = ["stored", "fast"].map(|kind| format!("{kind} {round} {number}"));
                let publisher = &mut publishers[number % 3];
                publisher.publish("jobs/new", fast.as_bytes(), Delivery::AtMostOnce, false).await;
                let code = publisher.publish_acknowledged("jobs/new", stored.as_bytes(), false).await;
                assert_eq!(code, ReasonCode::SUCCESS);
                expected.extend([stored, fast]);
            }
            expected.sort();
            let all = all_of(&mut workers, expected.len()).await;
            let is_shared = ["stored", "fast"]
                .into_iter()
                .all(|kind| all.iter().all(|heard| heard.iter().any(|payload| payload.starts_with(kind))));
            let mut all = all.concat();
            all.sort();
            assert_eq!(all, expected, "each message once, {expiry}");
            if is_shared {
                break;
            }
            assert!(round < 20, "a worker never gets anything");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // 2.13
async fn messages_of_a_group_outlive_the_loss_of_redis_on_a_node() {
    let Some(cluster) = Cluster::new().await else { return };
    let proxies = [(); 3].map(|()| Proxy::start(format!("127.0.0.1:{}", cluster.redis_port())));
    let [a, b, c] = proxies;
    let proxies = [a.await, b.await, c.await];
    let mut nodes = Vec::new();
    for proxy in &proxies {
        nodes.push(cluster.node_over(proxy.address.port()).await);
    }
    let (mut idle, mut workers) = (Vec::new(), Vec::new());
    for (index, node) in nodes.iter().enumerate() {
        idle.push(worker(node, &format!("idle-{index}"), 1000, Some(2)).await);
        workers.push(worker(node, &format!("worker-{index}"), 1000, None).await);
    }
    let mut publisher = device(&nodes[0], "publisher").await;
    let mut number = 0;
    let mut expected = std::collections::BTreeSet::new();
    let mut seen = std::collections::BTreeSet::new();
    for proxy in &proxies {
        for phase in 0..2 {
            for _ in 0..20 {
                number += 1;
                let code =
                    publisher.publish_acknowledged("jobs/x", number.to_string().as_bytes(), false).await;
                assert_eq!(code, ReasonCode::SUCCESS);
                expected.insert(number.to_string());
            }
            match phase {
                0 => proxy.part(),
                _ => proxy.restore(),
            }
            for worker in &mut workers {
                seen.extend(shared::heard_until_now(worker).await);
            }
        }
    }
    drop(idle); // they have acknowledged nothing
    let since = Instant::now();
    while seen != expected {
        assert!(since.elapsed() < LONG, "{:?}", expected.difference(&seen));
        for worker in &mut workers {
            seen.extend(shared::heard_until_now(worker).await);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // 2.13
async fn a_dead_node_takes_no_message_of_a_stored_group_with_it() {
    let Some(cluster) = Cluster::new().await else { return };
    // A node with threads of its own, which can be stopped like those of a process that is killed.
    let threads = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let a = tokio::task::block_in_place(|| threads.block_on(cluster.node()));
    let b = cluster.node().await;
    let mut members = Vec::new();
    for (node, name) in [(&a, "one"), (&b, "two")] {
        let mut member = Device::dial(node, Version::V5).await;
        let login = Login { expiry: 1000, ..Login::of(name) };
        assert_eq!(member.connect(login).await.0, ReasonCode::SUCCESS);
        assert_eq!(member.subscribe("$share/g/jobs/#", Qos::AtLeastOnce).await, ReasonCode::GRANTED_QOS_1);
        members.push(member);
    }
    let mut publisher = device(&b, "publisher").await;
    for number in 0..40 {
        let topic = format!("jobs/{}", number % 20);
        let code = publisher.publish_acknowledged(&topic, number.to_string().as_bytes(), false).await;
        assert_eq!(code, ReasonCode::SUCCESS);
    }
    // One of them has messages, and acknowledges none of them.
    let first = members.remove(0);
    let mut seen = std::collections::BTreeSet::new();
    threads.shutdown_background();
    drop((first, a));
    let since = Instant::now();
    while seen.len() < 40 {
        assert!(since.elapsed() < LONG, "{seen:?}");
        seen.extend(shared::heard_until_now(&mut members[0]).await);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test] // 3.3.1-9 to -11, 3.3.2-6
async fn a_filter_brings_the_retained_messages_that_other_nodes_have_stored() {
    let Some(cluster) = Cluster::new().await else { return };
    let (one, two) = (cluster.node().await, cluster.node().await);
    let mut shop = device(&one, "shop").await;
    for (topic, payload) in
        [("state/1", &b"old"[..]), ("state/1", b"new"), ("state/2", b"x"), ("state/2", b"")]
    {
        shop.publish_acknowledged(topic, payload, true).await;
    }
    let mut properties = PropertyBuf::new();
    properties.push(Property::MessageExpiryInterval(100)).unwrap();
    let properties = properties.for_place(Place::Packet(PacketType::Publish), Sender::Client).unwrap();
    let delivery = Delivery::AtLeastOnce { id: id(9), dup: false };
    let packet = Publish { delivery, retain: true, topic: "state/3", properties, payload: b"soon" };
    shop.send(&Packet::Publish(packet)).await;
    shop.next(|packet| assert!(matches!(packet, Packet::PubAck(_)), "{packet:?}")).await;
    let mut watcher = device(&two, "watcher").await;
    for (retain_handling, count) in [
        (RetainHandling::SendIfNew, 2),
        (RetainHandling::DoNotSend, 0),
        (RetainHandling::SendIfNew, 0),
        (RetainHandling::Send, 2),
    ] {
        let options = SubscribeOptions { retain_handling, ..Default::default() };
        watcher.subscribe_with("state/+", options, None).await;
        for (topic, payload) in [("state/1", &b"new"[..]), ("state/3", b"soon")].iter().take(count) {
            watcher
                .next(|packet| match packet {
                    Packet::Publish(publish) => {
                        assert_eq!(
                            (publish.topic, publish.payload, publish.retain),
                            (*topic, *payload, true)
                        );
                        let left = publish.properties.message_expiry();
                        assert_eq!(left.is_some(), *topic == "state/3");
                        assert!(left.is_none_or(|left| left <= 100), "{left:?}");
                    }
                    other => panic!("{other:?}"),
                })
                .await;
        }
        watcher.expect_nothing().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_validated_again_on_every_node_and_belong_to_their_owners_everywhere() {
    let Some(cluster) = Cluster::new().await else { return };
    let (a, b) = (cluster.node().await, cluster.node().await);
    let staying = Login { clean: false, expiry: 3600, ..Login::of("bob") };
    for node in [&a, &b] {
        node.app.on_conn(|_| Ok(ConnVerdict::accept().owned_by("bob")));
    }
    let mut bob = Device::new(&a, Version::V5, staying).await;
    for filter in ["staff", "team", "rooms/+"] {
        bob.subscribe(filter, Qos::AtLeastOnce).await;
    }
    let deny = |name: &'static str| {
        a.app.on_rule(move |asked, _, about| asked != Asked::Sub || about != name);
        b.app.on_rule(move |asked, _, about| asked != Asked::Sub || about != name);
    };
    deny("staff");
    let found = b.handle().revalidate(&client_id("bob")).await.unwrap();
    assert_eq!((found.sessions, found.ended), (1, 1), "the node of the client was asked");
    deny("team");
    b.handle().revalidate_all().await.unwrap();
    let ended = async {
        while a.counters().subscriptions_withdrawn < 2 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(LONG, ended).await.expect("the other node validates its sessions");
    // Another user does not get it, whichever node has it, and it goes on.
    b.app.on_conn(|_| Ok(ConnVerdict::accept().owned_by("eve")));
    let stream = TcpStream::connect(b.address(Protocol::Mqtt)).await.unwrap();
    assert_eq!(Device::over(stream, Version::V5).connect(staying).await.0, ReasonCode::NOT_AUTHORIZED);
    bob.expect_nothing().await;
    // A client that is away is validated on the node to which it returns.
    drop(bob);
    while !matches!(a.app.notice().await, Notice::Close(..)) {}
    let mut publisher = device(&a, "publisher").await;
    assert_eq!(publisher.publish_acknowledged("rooms/1", b"1", false).await, ReasonCode::SUCCESS);
    deny("rooms/+");
    a.handle().revalidate(&client_id("bob")).await.unwrap();
    b.app.on_conn(|_| Ok(ConnVerdict::accept().owned_by("bob")));
    let stream = TcpStream::connect(b.address(Protocol::Mqtt)).await.unwrap();
    let mut bob = Device::over(stream, Version::V5);
    let connected = bob.connect(staying).await;
    assert_eq!((connected.0, connected.1), (ReasonCode::SUCCESS, true));
    bob.expect_nothing().await;
}
