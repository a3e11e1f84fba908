//! Two MQTT clients and a JMQT client send the server whatever comes to their mind: packets that are valid and make no sense,
//! acknowledgements of nothing, broken packets, bytes. Nothing panics, everything that the server sends is a packet that a client
//! may receive, two other clients are not disturbed, the server still answers, and its memory does not grow.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use jmqt_server::CountersSnapshot;
use test_support::{Fuzzing, Random};
use tokio::task::JoinHandle;

use super::attacks::memory;
use super::*;
use crate::support::{Client, Push};

mod browser;
mod device;
mod packets;

use browser::Browser;
use device::Attacker;

const SECONDS: u64 = 15;

/// The most steps of a round.
const STEPS: u64 = 800;

/// How much more memory than after the first rounds the process may take.
const GROWTH_BYTES: u64 = 256 << 20;
const WARM_UP: u64 = 20;

/// Only the witnesses may use it.
const WITNESS: &str = "witness/1";

/// Panics of the server and of what it calls; those that tests want are in files of tests.
static PANICS: AtomicU64 = AtomicU64::new(0);

fn count_panics() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if !info.location().is_some_and(|location| location.file().contains("/tests/")) {
            PANICS.fetch_add(1, Ordering::Relaxed);
        }
        usual(info);
    }));
}

/// Clients that nobody may disturb.
struct Witnesses {
    publisher: Client,
    browser: Client,
    device: Device,
    said: u32,
}

impl Witnesses {
    /// Those of one start of the server: what was not yet known to be acknowledged comes again to the others.
    async fn new(server: &TestServer, start: u8) -> Self {
        let mut browser = server.connect(&format!("w-browser{start}")).await;
        browser.sub_persistent(WITNESS).await;
        let name = format!("w-device{start}");
        let login = Login { clean: false, expiry: 60, ..Login::of(&name) };
        let mut device = Device::new(server, Version::V5, login).await;
        assert_eq!(device.subscribe(WITNESS, Qos::AtLeastOnce).await, ReasonCode::GRANTED_QOS_1);
        Self { publisher: server.connect("w-publisher").await, browser, device, said: 0 }
    }

    /// A message reaches both, and nothing else does.
    async fn go_on(&mut self) {
        self.said += 1;
        let text = self.said.to_string();
        self.publisher.pub1(WITNESS, &text).await;
        let push: Push = self.browser.next_push().await;
        assert_eq!((push.channel(), push.data()), (WITNESS, &*text), "{}", self.browser.conversation());
        self.browser.ack(&push).await;
        let (topic, payload, delivery, _) = self.device.message().await;
        assert_eq!((&*topic, &*payload), (WITNESS, text.as_bytes()));
        self.device.acknowledge(delivery).await;
    }
}

/// A server with limits that are soon reached.
async fn small_server(random: &mut Random) -> TestServer {
    let packet = *random.choose(&[1024, 4096, 20_000]);
    let (inflight, subscriptions) = (*random.choose(&[1, 2, 8, 128]), *random.choose(&[1, 3, 20]));
    let (retained, pending) = (*random.choose(&[1, 5, 1000]), *random.choose(&[1, 10, 1000]));
    let (queue, expiry) = (*random.choose(&[2, 3, 50]), *random.choose(&[0, 60]));
    let server = TestServer::configured(|config| {
        config.mqtt_port = Some(0);
        config.max_packet_bytes = packet;
        config.max_preconn_packet_bytes = 1024;
        config.outbound_queue_bytes = packet * queue;
        config.max_inflight = inflight;
        config.max_subscriptions_per_client = subscriptions + 2;
        config.max_persistent_subscriptions_per_client = subscriptions + 1;
        config.max_retained_messages = Some(retained);
        config.max_pending_per_client = Some(pending);
        config.max_connections_per_address = None;
        config.max_connects_per_address_per_second = None;
        if expiry > 0 {
            config.session_expiry = Some(Duration::from_secs(expiry));
        }
    })
    .await;
    server.app.on_rule(|_, client, about| {
        let is_of_witness = client.as_str().starts_with("w-");
        is_of_witness || (!about.starts_with("witness") && !about.contains("forbidden"))
    });
    server
}

/// One round; returns what the server has counted, and its end.
async fn play(random: &mut Random) -> (CountersSnapshot, JoinHandle<()>) {
    let mut server = small_server(random).await;
    let mut witnesses = Witnesses::new(&server, 1).await;
    let mut attackers = Vec::new();
    for name in ["a", "b"] {
        attackers.push(Attacker::connect(&server, name, random).await);
    }
    let mut browser = Browser::connect(&server, random).await;
    let crashes_at = if random.below(4) == 0 { random.below(STEPS) } else { STEPS };
    for step in 0..20 + random.below(STEPS) {
        match random.below(12) {
            0..5 => attackers[0].act(&server, random).await,
            5..10 => attackers[1].act(&server, random).await,
            _ => browser.act(&server, random).await,
        }
        if random.below(30) == 0 {
            witnesses.go_on().await;
        }
        if step == crashes_at {
            drop(browser);
            attackers.clear();
            drop(witnesses);
            server.crash().await;
            witnesses = Witnesses::new(&server, 2).await;
            for name in ["a", "b"] {
                attackers.push(Attacker::connect(&server, name, random).await);
            }
            browser = Browser::connect(&server, random).await;
        }
    }
    for attacker in &mut attackers {
        attacker.finish().await;
    }
    browser.finish().await;
    witnesses.go_on().await;
    // The server lets others in, and answers them.
    let mut late = Device::new(&server, Version::V3_1_1, Login::of("late")).await;
    late.expect_nothing().await;
    server.connect("later").await.expect_nothing_before_hb().await;
    let counters = server.counters();
    // Its end takes a moment, in which the next round begins.
    (counters, tokio::spawn(async move { server.shutdown().await }))
}

#[test]
fn clients_that_send_random_packets_disturb_nobody_for_some_seconds() {
    count_panics();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut before, mut totals, mut ending) = (None, [0; 4], None);
    for (number, round) in (0..).zip(Fuzzing::of_seconds(SECONDS).rounds("two sessions")) {
        let (counters, end) = runtime.block_on(play(&mut round.random()));
        let counted = [
            counters.packets_received,
            counters.bad_packets,
            counters.pushes_sent,
            counters.publishes_refused,
        ];
        for (total, count) in totals.iter_mut().zip(counted) {
            *total += count;
        }
        let before_it = ending.replace(end);
        if let Some(end) = before_it {
            runtime.block_on(end).unwrap();
        }
        assert_eq!(PANICS.load(Ordering::Relaxed), 0, "the server has panicked");
        if number == WARM_UP {
            before = memory();
        }
        if let (Some(before), Some(after)) = (before, memory()) {
            let growth = after.saturating_sub(before);
            assert!(growth < GROWTH_BYTES, "{growth} bytes more after {number} rounds");
        }
    }
    runtime.block_on(ending.unwrap()).unwrap();
    let [packets, bad, pushes, refused] = totals;
    eprintln!("{packets} packets, {bad} bad ones, {pushes} pushes, {refused} publishes refused");
    assert!(packets > 100 && bad > 0 && pushes > 20 && refused > 0);
}
