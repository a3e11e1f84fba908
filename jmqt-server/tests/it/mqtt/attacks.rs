//! Clients that use up what they can: each meets a limit, which is counted, and others are served meanwhile.

use std::time::{Duration, Instant};

use super::malformed::Bystanders;
use super::*;

/// How long others may wait for the server while somebody attacks it. Machines stall.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest time of a message between bystanders, while this goes on.
async fn beside<T>(bystanders: &mut Bystanders, attack: impl Future<Output = T>) -> T {
    let mut attack = std::pin::pin!(attack);
    loop {
        let began = Instant::now();
        let go_on = async {
            bystanders.go_on().await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        };
        let mut go_on = std::pin::pin!(go_on);
        let outcome = tokio::select! {
            outcome = &mut attack => Some(outcome),
            () = &mut go_on => None,
        };
        if outcome.is_some() {
            go_on.await;
        }
        assert!(began.elapsed() < PATIENCE, "others waited for {:?}", began.elapsed());
        if let Some(outcome) = outcome {
            return outcome;
        }
    }
}

/// Waits until a counter of the server has this value; afterwards it is not more.
async fn counted(server: &TestServer, what: &str, count: impl Fn() -> u64, expected: u64) {
    within(format_args!("{what} counted {expected} times"), async {
        while count() < expected {
            tokio::time::sleep(Duration::from_millis(20)).await; // it may be a task that counts
        }
    })
    .await;
    server.settle().await;
    assert_eq!(count(), expected, "{what}");
}

/// Publishes this many messages with QoS 1, some at a time, and takes the acknowledgements: how many were not accepted.
async fn publish_many(
    device: &mut Device,
    count: u32,
    retain: bool,
    topic: impl Fn(u32) -> String,
) -> (u32, Option<ReasonCode>) {
    const AT_A_TIME: u32 = 50;
    let (mut refused, mut reason) = (0, None);
    for first in (0..count).step_by(AT_A_TIME as usize) {
        let some = first..count.min(first + AT_A_TIME);
        let mut bytes = Vec::new();
        for number in some.clone() {
            let topic = topic(number);
            let publish = Publish {
                delivery: Delivery::AtLeastOnce {
                    id: id(u16::try_from(number % 60_000 + 1).unwrap()),
                    dup: false,
                },
                retain,
                topic: &topic,
                properties: Properties::EMPTY,
                payload: b"x",
            };
            bytes.extend(Packet::Publish(publish).to_bytes(device.version).unwrap());
        }
        device.stream.write_all(&bytes).await.unwrap();
        for _ in some {
            let code = device.next(|packet| match packet {
                Packet::PubAck(ack) => ack.reason,
                other => panic!("{other:?}"),
            });
            let code = code.await;
            if code.is_error() {
                refused += 1;
                reason = Some(code);
            }
        }
    }
    (refused, reason)
}

/// Reads everything until a ping is answered: the packet identifiers of messages.
async fn messages_before_pong(device: &mut Device) -> Vec<PacketId> {
    device.send(&Packet::PingReq).await;
    let mut ids = Vec::new();
    loop {
        let more = device.next(|packet| match packet {
            Packet::Publish(publish) => Some(publish.delivery.id().unwrap()),
            Packet::PingResp => None,
            other => panic!("{other:?}"),
        });
        match more.await {
            Some(id) => ids.push(id),
            None => return ids,
        }
    }
}

#[tokio::test] // MAX_INFLIGHT, MAX_PENDING_PER_CLIENT
async fn a_client_that_never_acknowledges_is_sent_its_window_and_keeps_a_limited_rest() {
    const KEPT: u64 = 40;
    let server = TestServer::configured(|config| {
        config.mqtt_port = Some(0);
        (config.max_inflight, config.max_pending_per_client) = (8, Some(KEPT));
    })
    .await;
    let mut bystanders = Bystanders::new(&server).await;
    let mut publisher = Device::new(&server, Version::V5, Login::of("shop")).await;
    for (number, (version, qos)) in
        (1..).zip([(Version::V5, Qos::AtLeastOnce), (Version::V3_1_1, Qos::ExactlyOnce)])
    {
        let name = format!("mute{number}");
        let login = Login { clean: false, expiry: 600, ..Login::of(&name) };
        let mut mute = Device::new(&server, version, login).await;
        mute.subscribe(&name, qos).await;
        let publishing = publish_many(&mut publisher, 300, false, |_| name.clone());
        assert_eq!(beside(&mut bystanders, publishing).await, (0, None));
        let sent = beside(&mut bystanders, messages_before_pong(&mut mute)).await;
        assert_eq!(sent.len(), 8, "{qos:?}");
        let dropped = || server.counters().pending_dropped;
        counted(&server, "a message dropped", dropped, number * (300 - KEPT)).await;
    }
}

#[tokio::test] // OUTBOUND_QUEUE_BYTES
async fn a_client_without_a_session_that_never_acknowledges_is_disconnected() {
    let server = TestServer::configured(|config| {
        config.mqtt_port = Some(0);
        (config.max_packet_bytes, config.outbound_queue_bytes, config.max_inflight) = (1024, 4096, 2);
    })
    .await;
    let mut bystanders = Bystanders::new(&server).await;
    let mut publisher = Device::new(&server, Version::V5, Login::of("shop")).await;
    let mut mute = Device::new(&server, Version::V5, Login::of("mute")).await;
    mute.subscribe("news", Qos::AtLeastOnce).await;
    let publishing = publish_many(&mut publisher, 1000, false, |_| "news".to_owned());
    assert_eq!(beside(&mut bystanders, publishing).await, (0, None));
    for _ in 0..2 {
        assert_eq!(mute.message().await.1, b"x");
    }
    assert_eq!(mute.ended().await, Some(ReasonCode::QUOTA_EXCEEDED));
}

#[tokio::test] // 3.3.4, 4.9: the window of a client counts what it has received and not completed
async fn a_subscriber_that_never_sends_pubcomp_is_sent_its_window() {
    let server = start().await;
    let mut bystanders = Bystanders::new(&server).await;
    let mut publisher = Device::new(&server, Version::V5, Login::of("shop")).await;
    for (name, clean, expiry) in [("short", true, 0), ("long", false, 600)] {
        let login = Login { clean, expiry, receive_maximum: Some(5), ..Login::of(name) };
        let mut mute = Device::new(&server, Version::V5, login).await;
        mute.subscribe(name, Qos::ExactlyOnce).await;
        for number in 1..=50 {
            publisher.publish(name, b"x", Delivery::ExactlyOnce { id: id(number), dup: false }, false).await;
            publisher.next(|packet| assert!(matches!(packet, Packet::PubRec(_)), "{packet:?}")).await;
            publisher.send(&Packet::PubRel(Ack::new(id(number), ReasonCode::SUCCESS))).await;
            publisher.next(|packet| assert!(matches!(packet, Packet::PubComp(_)), "{packet:?}")).await;
        }
        let sent = messages_before_pong(&mut mute).await;
        assert_eq!(sent.len(), 5);
        for id in sent {
            mute.send(&Packet::PubRec(Ack::new(id, ReasonCode::SUCCESS))).await;
            mute.next(|packet| assert!(matches!(packet, Packet::PubRel(_)), "{packet:?}")).await;
        }
        mute.expect_nothing().await;
        bystanders.go_on().await;
    }
}

#[tokio::test] // 3.3.4-7
async fn a_publisher_that_never_sends_pubrel_disturbs_nobody() {
    // Before MQTT 5 it cannot be told a limit, and may use all packet identifiers.
    for (version, sent, expected) in [(Version::V3_1_1, 20_000, 20_000), (Version::V5, 1000, 128)] {
        let server = start().await;
        let mut bystanders = Bystanders::new(&server).await;
        let mute = Device::new(&server, version, Login::of("mute")).await;
        let mut bytes = Vec::new();
        for number in 1..=sent {
            let publish = Publish {
                delivery: Delivery::ExactlyOnce { id: id(number), dup: false },
                retain: false,
                topic: "news",
                properties: Properties::EMPTY,
                payload: b"x",
            };
            Packet::Publish(publish).encode(version, &mut bytes).unwrap();
        }
        let (mut reading, mut writing) = tokio::io::split(mute.stream);
        let sending = async {
            // A server that has ended the connection takes no more.
            let written = writing.write_all(&bytes).await;
            assert!(written.is_ok() || version == Version::V5);
        };
        let answers = async {
            let (mut packets, mut received) = (PacketReader::default(), 0);
            while received < expected {
                let bytes = packets.next(&mut reading).await.expect("the connection has ended");
                match Packet::decode(&Frame::of(&bytes).unwrap(), version, Sender::Server).unwrap() {
                    Packet::PubRec(_) => received += 1,
                    other => panic!("{other:?}"),
                }
            }
            packets
        };
        let (packets, ()) = beside(&mut bystanders, async { tokio::join!(answers, sending) }).await;
        let mut mute = Device { version, stream: reading.unsplit(writing), received: packets };
        match version {
            Version::V5 => {
                assert_eq!(mute.ended().await, Some(ReasonCode::RECEIVE_MAXIMUM_EXCEEDED));
                assert_eq!(server.counters().bad_packets, 1);
            }
            _ => mute.expect_nothing().await,
        }
    }
}

#[tokio::test] // MAX_SUBSCRIPTIONS_PER_CLIENT, MAX_PERSISTENT_SUBSCRIPTIONS_PER_CLIENT
async fn a_client_subscribes_to_no_more_filters_than_it_may_however_many_it_sends_at_once() {
    const FILTERS: usize = 5_000;
    let server = TestServer::configured(|config| {
        config.mqtt_port = Some(0);
        config.max_subscriptions_per_client = 100;
        config.max_persistent_subscriptions_per_client = 10;
    })
    .await;
    let mut bystanders = Bystanders::new(&server).await;
    let mut refused = 0;
    for (version, clean, limit) in
        [(Version::V3_1_1, true, 100), (Version::V5, true, 100), (Version::V5, false, 10)]
    {
        let login = Login { clean, expiry: if clean { 0 } else { 600 }, ..Login::of("greedy") };
        let mut greedy = Device::new(&server, version, login).await;
        let mut filters = FilterBuf::new();
        for number in 0..FILTERS {
            let name = if number % 2 == 0 { format!("f/{number}/+") } else { format!("f/{number}") };
            filters.push(&name, SubscribeOptions::of_qos(Qos::AtLeastOnce)).unwrap();
        }
        let properties = Properties::EMPTY;
        let packet = Subscribe { id: id(7), properties, filters: filters.as_filters() };
        greedy.send(&Packet::Subscribe(packet)).await;
        let answer = greedy.next(|packet| match packet {
            Packet::SubAck(codes) => codes.iter().collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        });
        let codes = beside(&mut bystanders, answer).await;
        let granted = codes.iter().filter(|code| !code.is_error()).count();
        assert_eq!((codes.len(), granted), (FILTERS, limit));
        assert!(codes[..limit].iter().all(|code| !code.is_error()), "the first ones");
        let code = if version == Version::V5 { ReasonCode::QUOTA_EXCEEDED.code() } else { 0x80 };
        assert_eq!(codes[FILTERS - 1].code(), code);
        refused += (FILTERS - limit) as u64;
        assert_eq!(server.counters().subscriptions_refused, refused);
    }
}

/// What this process takes; `None` where that cannot be told.
pub(super) fn memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    Some(line.trim().trim_end_matches(" kB").trim().parse::<u64>().unwrap() << 10)
}

#[tokio::test]
async fn a_client_that_publishes_to_ever_new_topics_leaves_nothing_behind() {
    // More than the server remembers the receivers of.
    const TOPICS: u32 = 120_000;
    let server = start().await;
    let mut bystanders = Bystanders::new(&server).await;
    // Its filters make the server compute who receives each of them.
    let mut watcher = Device::new(&server, Version::V5, Login::of("watcher")).await;
    watcher.subscribe("nothing/#", Qos::AtMostOnce).await;
    let mut greedy = Device::new(&server, Version::V5, Login::of("greedy")).await;
    let publishing = async {
        for first in (0..TOPICS).step_by(100) {
            let mut bytes = Vec::new();
            for number in first..first + 100 {
                let topic = format!("topics/{number}/{}", "x".repeat(80));
                let publish = Publish {
                    delivery: Delivery::AtMostOnce,
                    retain: false,
                    topic: &topic,
                    properties: Properties::EMPTY,
                    payload: b"x",
                };
                bytes.extend(Packet::Publish(publish).to_bytes(Version::V5).unwrap());
            }
            greedy.stream.write_all(&bytes).await.unwrap();
        }
        greedy.expect_nothing().await;
    };
    let before = memory();
    beside(&mut bystanders, publishing).await;
    if let (Some(before), Some(after)) = (before, memory()) {
        let growth = after.saturating_sub(before);
        assert!(growth < 64 << 20, "{growth} bytes for {TOPICS} topics");
    }
    // QoS 1 messages that nobody keeps leave nothing in the store.
    let (refused, _) = publish_many(&mut greedy, 2_000, false, |number| format!("topics/{number}")).await;
    assert_eq!(refused, 0);
    watcher.expect_nothing().await;
}

#[tokio::test] // MAX_RETAINED_MESSAGES
async fn a_client_that_retains_a_message_in_ever_new_topics_is_refused_and_counted() {
    let server = TestServer::configured(|config| {
        config.mqtt_port = Some(0);
        config.max_retained_messages = Some(50);
    })
    .await;
    let mut bystanders = Bystanders::new(&server).await;
    let mut greedy = Device::new(&server, Version::V5, Login::of("greedy")).await;
    let publishing = publish_many(&mut greedy, 1_000, true, |number| format!("kept/{number}"));
    let outcome = beside(&mut bystanders, publishing).await;
    assert_eq!(outcome, (950, Some(ReasonCode::QUOTA_EXCEEDED)));
    assert_eq!(server.counters().retained_refused, 950);
    // Those that are there can be replaced.
    let (refused, _) = publish_many(&mut greedy, 50, true, |number| format!("kept/{number}")).await;
    assert_eq!(refused, 0);
    let mut reader = Device::new(&server, Version::V5, Login::of("reader")).await;
    let mut filters = FilterBuf::new();
    filters.push("kept/#", SubscribeOptions::of_qos(Qos::AtMostOnce)).unwrap();
    let properties = Properties::EMPTY;
    reader.send(&Packet::Subscribe(Subscribe { id: id(7), properties, filters: filters.as_filters() })).await;
    let (mut kept, mut is_subscribed) = (0, false);
    while kept < 50 || !is_subscribed {
        reader
            .next(|packet| match packet {
                Packet::Publish(publish) => {
                    assert!(publish.retain);
                    kept += 1;
                }
                Packet::SubAck(_) => is_subscribed = true,
                other => panic!("{other:?}"),
            })
            .await;
    }
    reader.expect_nothing().await;
}

#[tokio::test] // MAX_RETAINED_PER_CLIENT
async fn a_client_leaves_others_their_share_of_retained_messages() {
    let mut server = TestServer::configured(|config| {
        config.mqtt_port = Some(0);
        config.max_retained_messages = Some(60);
        config.max_retained_per_client = Some(50);
    })
    .await;
    let mut greedy = Device::new(&server, Version::V5, Login::of("greedy")).await;
    let kept = |number| format!("kept/{number}");
    let outcome = publish_many(&mut greedy, 100, true, kept).await;
    assert_eq!(outcome, (50, Some(ReasonCode::QUOTA_EXCEEDED)));
    assert_eq!(server.counters().retained_refused, 50);
    assert_eq!(publish_many(&mut greedy, 50, true, kept).await, (0, None), "replaced");
    let mut other = Device::new(&server, Version::V5, Login::of("other")).await;
    assert_eq!(publish_many(&mut other, 5, true, |number| format!("other/{number}")).await, (0, None));
    // What another one replaces is another one's, and what is deleted is nobody's.
    assert_eq!(publish_many(&mut other, 2, true, kept).await, (0, None));
    other.publish("kept/2", b"", Delivery::AtMostOnce, true).await;
    other.expect_nothing().await;
    let more = |number| format!("more/{number}");
    assert_eq!(publish_many(&mut greedy, 4, true, more).await.0, 1);
    // The same is counted after a restart.
    server.restart().await;
    let mut greedy = Device::new(&server, Version::V5, Login::of("greedy")).await;
    assert_eq!(publish_many(&mut greedy, 5, true, more).await.0, 2);
    greedy.publish("more/0", b"", Delivery::AtMostOnce, true).await;
    greedy.expect_nothing().await;
    assert_eq!(publish_many(&mut greedy, 1, true, |_| "more/4".to_owned()).await, (0, None));
}

#[tokio::test] // 3.1.2.11.3
async fn a_client_with_receive_maximum_1_delays_nobody_else() {
    let server = start().await;
    let mut publisher = Device::new(&server, Version::V5, Login::of("shop")).await;
    let mut quick = Device::new(&server, Version::V5, Login::of("quick")).await;
    quick.subscribe("news", Qos::AtLeastOnce).await;
    let mut slow = Vec::new();
    for (name, clean, expiry) in [("short", true, 0), ("long", false, 600)] {
        let login = Login { clean, expiry, receive_maximum: Some(1), ..Login::of(name) };
        let mut device = Device::new(&server, Version::V5, login).await;
        device.subscribe("news", Qos::AtLeastOnce).await;
        slow.push(device);
    }
    let began = Instant::now();
    let (publishing, receiving) = (publish_many(&mut publisher, 200, false, |_| "news".to_owned()), async {
        for _ in 0..200 {
            let (_, _, delivery, _) = quick.message().await;
            quick.acknowledge(delivery).await;
        }
    });
    let (published, ()) = tokio::join!(publishing, receiving);
    assert_eq!(published, (0, None));
    assert!(began.elapsed() < 2 * PATIENCE, "{:?}", began.elapsed());
    for device in &mut slow {
        for _ in 0..200 {
            let (_, _, delivery, _) = device.message().await;
            device.expect_nothing().await;
            device.acknowledge(delivery).await;
        }
        device.expect_nothing().await;
    }
}
