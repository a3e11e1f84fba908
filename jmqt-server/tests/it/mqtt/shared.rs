//! Shared subscriptions: each message goes to one member of a group (4.8.2).

use super::*;

/// A client that is a member.
async fn member(server: &TestServer, version: Version, name: &str, share: &str, qos: Qos) -> Device {
    let mut device = Device::new(server, version, Login::of(name)).await;
    let granted = device.subscribe(share, qos).await;
    assert_eq!(granted.code(), qos.bits().min(1), "{share}");
    device
}

async fn publisher(server: &TestServer) -> Device {
    Device::new(server, Version::V5, Login::of("publisher")).await
}

async fn say(publisher: &mut Device, topic: &str, payload: &str) {
    let code = publisher.publish_acknowledged(topic, payload.as_bytes(), false).await;
    assert!(!code.is_error(), "{code:?}");
}

/// Waits until the session of a client has ended.
async fn gone(server: &TestServer, name: &str) {
    while !matches!(server.app.notice().await, Notice::Close(client, _) if client == name) {}
}

/// The next message, which is acknowledged.
async fn heard(device: &mut Device) -> String {
    let (_, payload, delivery, _) = device.message().await;
    if delivery.id().is_some() {
        device.acknowledge(delivery).await;
    }
    String::from_utf8(payload).unwrap()
}

/// The next message, which is not acknowledged.
async fn kept(device: &mut Device) -> (String, Delivery) {
    let (_, payload, delivery, _) = device.message().await;
    (String::from_utf8(payload).unwrap(), delivery)
}

/// All messages that the devices have received when they are this many together.
async fn all_heard(devices: &mut [Device], count: usize) -> Vec<Vec<String>> {
    let mut all = vec![Vec::new(); devices.len()];
    loop {
        for (device, heard) in devices.iter_mut().zip(&mut all) {
            heard.extend(heard_until_now(device).await);
        }
        if all.iter().map(Vec::len).sum::<usize>() >= count {
            return all;
        }
    }
}

/// What a device has received until it answers a ping. It is acknowledged.
pub(super) async fn heard_until_now(device: &mut Device) -> Vec<String> {
    device.send(&Packet::PingReq).await;
    let mut heard = Vec::new();
    loop {
        let next = device.next(|packet| match packet {
            Packet::Publish(publish) => {
                Some((String::from_utf8(publish.payload.to_vec()).unwrap(), publish.delivery))
            }
            Packet::PingResp => None,
            other => panic!("{other:?}"),
        });
        let Some((payload, delivery)) = next.await else { return heard };
        if delivery.id().is_some() {
            device.acknowledge(delivery).await;
        }
        heard.push(payload);
    }
}

#[tokio::test]
async fn each_message_goes_to_one_member_in_turn() {
    let server = start().await;
    for version in VERSIONS {
        for (share, topic) in [("$share/g/a/b", "a/b"), ("$share/g/a/+", "a/b"), ("$share/g/a/#", "a")] {
            for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
                let mut members = Vec::new();
                for name in ["one", "two", "three"] {
                    members.push(member(&server, version, name, share, qos).await);
                }
                let filter = share.strip_prefix("$share/g/").unwrap();
                let mut other = Device::new(&server, version, Login::of("other")).await;
                other.subscribe(filter, Qos::AtMostOnce).await;
                let another_group =
                    member(&server, version, "fourth", &share.replace("/g/", "/h/"), qos).await;
                let mut sender = publisher(&server).await;
                for number in 0..9 {
                    say(&mut sender, topic, &number.to_string()).await;
                }
                let mut all = all_heard(&mut members, 9).await;
                all.sort();
                assert_eq!(all, [["0", "3", "6"], ["1", "4", "7"], ["2", "5", "8"]], "{share} {qos:?}");
                for everything in all_heard(&mut [other, another_group], 18).await {
                    assert_eq!(everything.join(""), "012345678", "{share} {qos:?}");
                }
                // In one batch, without acknowledgements.
                for number in 0..9 {
                    sender.publish(topic, number.to_string().as_bytes(), Delivery::AtMostOnce, false).await;
                }
                sender.expect_nothing().await;
                let mut all = all_heard(&mut members, 9).await;
                assert!(all.iter().all(|heard| heard.len() == 3 && heard.is_sorted()), "{all:?}");
                all.sort();
                assert_eq!(all.concat().len(), 9);
            }
        }
    }
}

#[tokio::test] // 4.8.2: another subscription of the same client is independent
async fn a_member_that_also_subscribes_alone_receives_both() {
    let server = start().await;
    for version in VERSIONS {
        let mut device = member(&server, version, "device", "$share/g/a/+", Qos::AtLeastOnce).await;
        device.subscribe("a/b", Qos::AtLeastOnce).await;
        device.subscribe("#", Qos::AtMostOnce).await;
        let mut sender = publisher(&server).await;
        say(&mut sender, "a/b", "x").await;
        assert_eq!(all_heard(std::slice::from_mut(&mut device), 2).await, [["x", "x"]]);
        // Its own messages too: there is no `no local`.
        device.publish("a/c", b"y", Delivery::AtMostOnce, false).await;
        for _ in 0..2 {
            assert_eq!(heard(&mut device).await, "y");
        }
        device.expect_nothing().await;
    }
}

#[tokio::test]
async fn what_a_member_has_not_acknowledged_goes_to_others_when_it_leaves() {
    let server = start().await;
    for (version, leaves) in VERSIONS.into_iter().flat_map(|version| [(version, false), (version, true)]) {
        let share = &*format!("$share/{}{leaves}/jobs/#", version.level());
        let mut lazy = member(&server, version, "lazy", share, Qos::AtLeastOnce).await;
        let mut sender = publisher(&server).await;
        for number in 0..5 {
            say(&mut sender, "jobs/1", &number.to_string()).await;
        }
        let mut first = Vec::new();
        for number in 0..5 {
            let (payload, delivery) = kept(&mut lazy).await;
            assert_eq!(payload, number.to_string());
            first.push(delivery);
        }
        lazy.acknowledge(first[0]).await;
        lazy.acknowledge(first[3]).await;
        lazy.expect_nothing().await;
        let mut diligent = member(&server, version, "diligent", share, Qos::AtLeastOnce).await;
        if leaves {
            assert_eq!(lazy.unsubscribe_share(share).await, ReasonCode::SUCCESS);
        } else {
            drop(lazy);
        }
        for payload in ["1", "2", "4"] {
            let (again, delivery) = kept(&mut diligent).await;
            assert_eq!(again, payload);
            assert!(matches!(delivery, Delivery::AtLeastOnce { dup: false, .. }), "{delivery:?}");
            diligent.acknowledge(delivery).await;
        }
        say(&mut sender, "jobs/2", "next").await;
        assert_eq!(heard(&mut diligent).await, "next");
        diligent.expect_nothing().await;
    }
}

impl Device {
    async fn unsubscribe_share(&mut self, share: &str) -> ReasonCode {
        let mut names = NameBuf::new();
        names.push(share).unwrap();
        let packet = Unsubscribe { id: id(8), properties: Properties::EMPTY, filters: names.as_names() };
        self.send(&Packet::Unsubscribe(packet)).await;
        self.next(|packet| match packet {
            Packet::UnsubAck(codes) => codes.iter().next().unwrap_or(ReasonCode::SUCCESS),
            other => panic!("{other:?}"),
        })
        .await
    }
}

#[tokio::test] // 3.3.4: the receive maximum
async fn full_members_are_skipped_and_messages_wait_if_all_are_full() {
    let server = start().await;
    let mut members = Vec::new();
    for (name, receive_maximum) in [("small", 1), ("large", 3)] {
        let login = Login { receive_maximum: Some(receive_maximum), ..Login::of(name) };
        let mut device = Device::new(&server, Version::V5, login).await;
        device.subscribe("$share/g/a", Qos::AtLeastOnce).await;
        members.push(device);
    }
    let mut sender = publisher(&server).await;
    for number in 0..8 {
        say(&mut sender, "a", &number.to_string()).await;
    }
    let [mut small, mut large] = <[Device; 2]>::try_from(members).ok().unwrap();
    let (first, small_id) = kept(&mut small).await;
    assert_eq!(first, "0");
    let mut ids = Vec::new();
    for payload in ["1", "2", "3"] {
        let (next, delivery) = kept(&mut large).await;
        assert_eq!(next, payload);
        ids.push(delivery);
    }
    small.expect_nothing().await;
    large.expect_nothing().await;
    small.acknowledge(small_id).await;
    assert_eq!(kept(&mut small).await.0, "4");
    for (delivery, payload) in ids.into_iter().zip(["5", "6", "7"]) {
        large.acknowledge(delivery).await;
        assert_eq!(kept(&mut large).await.0, payload);
    }
    drop(large);
    small.expect_nothing().await; // it is still full
    drop(small);
    let mut other = member(&server, Version::V5, "other", "$share/g/a", Qos::AtLeastOnce).await;
    say(&mut sender, "a", "new").await;
    assert_eq!(heard(&mut other).await, "new", "the messages of a group end with its last member");
}

#[tokio::test] // MQTT-4.8.2-6
async fn a_message_that_a_member_refuses_goes_to_nobody_else() {
    let server = start().await;
    let mut one = member(&server, Version::V5, "one", "$share/g/a", Qos::AtLeastOnce).await;
    let mut two = member(&server, Version::V5, "two", "$share/g/a", Qos::AtLeastOnce).await;
    let mut sender = publisher(&server).await;
    say(&mut sender, "a", "x").await;
    let (_, delivery) = kept(&mut one).await;
    one.send(&Packet::PubAck(Ack::new(delivery.id().unwrap(), ReasonCode::UNSPECIFIED_ERROR))).await;
    one.expect_nothing().await;
    drop(one);
    gone(&server, "one").await;
    two.expect_nothing().await;
    say(&mut sender, "a", "y").await;
    assert_eq!(heard(&mut two).await, "y");
}

#[tokio::test] // MQTT-4.8.2-1, -2, 3.8.4: retained messages are not sent
async fn shares_are_checked_and_send_no_retained_messages() {
    let server = start().await;
    let mut sender = publisher(&server).await;
    sender.publish_acknowledged("state", b"kept", true).await;
    let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
    for share in ["$share/g/state", "$share/g/#", "$share/g/+"] {
        for _ in 0..2 {
            assert_eq!(device.subscribe(share, Qos::ExactlyOnce).await, ReasonCode::GRANTED_QOS_1, "{share}");
            device.expect_nothing().await;
        }
        assert_eq!(device.unsubscribe_share(share).await, ReasonCode::SUCCESS);
        assert_eq!(device.unsubscribe_share(share).await, ReasonCode::NO_SUBSCRIPTION_EXISTED);
        say(&mut sender, "state", "live").await;
        device.expect_nothing().await;
    }
    let invalid = ReasonCode::TOPIC_FILTER_INVALID;
    let too_long = format!("$share/g/{}", "x".repeat(300));
    for share in
        ["$share", "$share/", "$share/g", "$share/g/", "$share//a", "$share/+/a", "$share/g#/a", &*too_long]
    {
        assert_eq!(device.subscribe(share, Qos::AtLeastOnce).await, invalid, "{share}");
    }
    for share in ["$share/g/$SYS/#", "$share/g/$p2p/device", "$share/g/$list"] {
        assert_eq!(device.subscribe(share, Qos::AtLeastOnce).await, ReasonCode::NOT_AUTHORIZED, "{share}");
    }
    let mut old = Device::new(&server, Version::V3_1_1, Login::of("old")).await;
    old.send_invalid_share().await;
    assert_eq!(old.ended().await, None);
    let mut shouting = Device::new(&server, Version::V5, Login::of("shouting")).await;
    let code = shouting.publish_acknowledged("$share/g/a", b"1", false).await;
    assert_eq!(code, ReasonCode::TOPIC_NAME_INVALID);
}

impl Device {
    async fn send_invalid_share(&mut self) {
        let mut filters = FilterBuf::new();
        filters.push("$share//a", SubscribeOptions::of_qos(Qos::AtMostOnce)).unwrap();
        let properties = Properties::EMPTY;
        self.send(&Packet::Subscribe(Subscribe { id: id(7), properties, filters: filters.as_filters() }))
            .await;
    }
}

#[tokio::test]
async fn validators_are_asked_with_the_inner_filter() {
    let server = start().await;
    let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
    server.app.set(Asked::Sub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    for (share, inner) in [("$share/g/a/b", "a/b"), ("$share/g/a/+", "a/+")] {
        assert_eq!(device.subscribe(share, Qos::AtLeastOnce).await, ReasonCode::NOT_AUTHORIZED);
        assert_eq!(server.app.asked(Asked::Sub).await, inner);
    }
    server.app.reset(Asked::Sub);
    let mut sender = publisher(&server).await;
    say(&mut sender, "a/b", "x").await;
    device.expect_nothing().await;
}

#[tokio::test] // 3.3.2.3.8, 3.8.3.1: the options of the member that receives the message
async fn a_member_receives_messages_with_its_own_options() {
    let server = start().await;
    let mut one = Device::new(&server, Version::V5, Login::of("one")).await;
    let options =
        SubscribeOptions { retain_as_published: true, ..SubscribeOptions::of_qos(Qos::AtLeastOnce) };
    one.subscribe_with("$share/g/a/+", options, Some(7)).await;
    let mut two = member(&server, Version::V3_1_1, "two", "$share/g/a/+", Qos::AtMostOnce).await;
    let mut sender = publisher(&server).await;
    for _ in 0..3 {
        sender.publish_acknowledged("a/b", b"x", true).await;
        let (retain, qos, number) = one
            .next(|packet| match packet {
                Packet::Publish(publish) => {
                    let number = publish.properties.iter().find_map(|property| match property {
                        Property::SubscriptionIdentifier(number) => Some(number.get()),
                        _ => None,
                    });
                    (publish.retain, publish.delivery, number)
                }
                other => panic!("{other:?}"),
            })
            .await;
        assert_eq!((retain, number), (true, Some(7)));
        one.acknowledge(qos).await;
        sender.publish_acknowledged("a/b", b"y", true).await;
        let (_, payload, delivery, retain) = two.message().await;
        assert_eq!((&*payload, delivery, retain), (&b"y"[..], Delivery::AtMostOnce, false));
    }
}

#[tokio::test]
async fn the_members_of_all_groups_are_counted_below_sys() {
    let server = start().await;
    let mut one = member(&server, Version::V5, "one", "$share/g/a", Qos::AtLeastOnce).await;
    let _two = member(&server, Version::V5, "two", "$share/g/a", Qos::AtLeastOnce).await;
    let _three = member(&server, Version::V5, "three", "$share/h/#", Qos::AtLeastOnce).await;
    for expected in [b"3", b"2"] {
        let mut watcher = Device::new(&server, Version::V5, Login::of("watcher")).await;
        watcher.send_subscribe("$SYS/broker/shared_subscriptions/count", Qos::AtMostOnce).await;
        let count = loop {
            let next = watcher.next(|packet| match packet {
                Packet::Publish(publish) => Some(publish.payload.to_vec()),
                _ => None,
            });
            if let Some(count) = next.await {
                break count;
            }
        };
        assert_eq!(count, expected);
        one.unsubscribe_share("$share/g/a").await;
    }
}

/// Connects to a session that outlives its connection.
async fn session(server: &TestServer, name: &str, clean: bool) -> Device {
    let mut device = Device::dial(server, Version::V5).await;
    let login = Login { clean, expiry: 1000, ..Login::of(name) };
    assert_eq!(device.connect(login).await.0, ReasonCode::SUCCESS);
    device
}

async fn leave(server: &TestServer, device: Device, name: &str) {
    drop(device);
    gone(server, name).await;
}

/// Waits until the sessions of `one` and `two` have ended.
async fn both_gone(server: &TestServer) {
    let mut left = std::collections::BTreeSet::from(["one".to_owned(), "two".to_owned()]);
    while !left.is_empty() {
        if let Notice::Close(client, _) = server.app.notice().await {
            left.remove(&client);
        }
    }
}

/// The payloads of the next messages, in any order, each acknowledged.
async fn heard_sorted(device: &mut Device, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < count {
        all.push(heard(device).await);
    }
    all.sort();
    all
}

#[tokio::test] // 4.1, 4.8.2
async fn messages_wait_for_the_stored_members_of_a_group() {
    let mut server = start().await;
    for share in ["$share/g/jobs/+", "$share/g/jobs/1"] {
        let mut one = session(&server, "one", true).await;
        let mut two = session(&server, "two", true).await;
        for device in [&mut one, &mut two] {
            assert_eq!(device.subscribe(share, Qos::AtLeastOnce).await, ReasonCode::GRANTED_QOS_1);
        }
        let mut sender = publisher(&server).await;
        for number in 0..4 {
            say(&mut sender, "jobs/1", &number.to_string()).await;
        }
        let mut both = [one, two];
        let mut all = all_heard(&mut both, 4).await;
        all.sort();
        assert_eq!(all, [["0", "2"], ["1", "3"]]);
        // Both are away, and the server is killed.
        drop(both);
        both_gone(&server).await;
        for number in 4..8 {
            say(&mut sender, "jobs/1", &number.to_string()).await;
        }
        server.crash().await;
        let mut sender = publisher(&server).await;
        say(&mut sender, "jobs/1", "8").await;
        let mut two = session(&server, "two", false).await;
        assert_eq!(heard_sorted(&mut two, 5).await, ["4", "5", "6", "7", "8"], "{share}");
        let mut one = session(&server, "one", false).await;
        one.expect_nothing().await;
        say(&mut sender, "jobs/1", "9").await;
        say(&mut sender, "jobs/1", "10").await;
        let mut both = [one, two];
        let all = all_heard(&mut both, 2).await;
        assert!(all.iter().all(|heard| heard.len() == 1), "{all:?}");
        drop(both);
        both_gone(&server).await;
    }
}

#[tokio::test]
async fn what_a_temporary_member_has_acknowledged_does_not_come_to_a_stored_one() {
    let server = start().await;
    let mut stored = session(&server, "stored", true).await;
    stored.subscribe("$share/g/a", Qos::AtLeastOnce).await;
    leave(&server, stored, "stored").await;
    let mut temporary = member(&server, Version::V5, "temporary", "$share/g/a", Qos::AtLeastOnce).await;
    let mut sender = publisher(&server).await;
    say(&mut sender, "a", "0").await;
    say(&mut sender, "a", "1").await;
    assert_eq!(heard(&mut temporary).await, "0");
    assert_eq!(kept(&mut temporary).await.0, "1");
    let mut stored = session(&server, "stored", false).await;
    stored.expect_nothing().await;
    drop(temporary);
    assert_eq!(heard(&mut stored).await, "1");
    stored.expect_nothing().await;
}

#[tokio::test]
async fn a_group_ends_with_its_last_stored_member() {
    let server = start().await;
    let mut sender = publisher(&server).await;
    for ends_by in ["unsubscribe", "clean start"] {
        for (before, after) in [("a", "b"), ("b", "c")] {
            let mut device = session(&server, "device", true).await;
            device.subscribe("$share/g/a", Qos::AtLeastOnce).await;
            say(&mut sender, "a", before).await;
            assert_eq!(heard(&mut device).await, before);
            if ends_by == "unsubscribe" {
                assert_eq!(device.unsubscribe_share("$share/g/a").await, ReasonCode::SUCCESS);
            }
            leave(&server, device, "device").await;
            if ends_by == "clean start" {
                let device = session(&server, "device", true).await;
                leave(&server, device, "device").await;
            }
            say(&mut sender, "a", after).await;
            let mut device = session(&server, "device", false).await;
            device.subscribe("$share/g/a", Qos::AtLeastOnce).await;
            device.expect_nothing().await;
            leave(&server, device, "device").await;
        }
    }
}

#[tokio::test]
async fn a_crash_loses_nothing_that_a_group_has_not_acknowledged() {
    let mut server = start().await;
    let (mut next, mut seen) = (0, std::collections::BTreeSet::new());
    for name in ["one", "two", "three"] {
        let mut device = session(&server, name, true).await;
        device.subscribe("$share/g/jobs/#", Qos::AtLeastOnce).await;
    }
    for _ in 0..4 {
        let mut devices = Vec::new();
        for name in ["one", "two", "three"] {
            devices.push(session(&server, name, false).await);
        }
        let mut sender = publisher(&server).await;
        for number in 0..60 {
            say(&mut sender, &format!("jobs/{}", number % 7), &next.to_string()).await;
            next += 1;
            if number == 30 {
                // One leaves with what it has not acknowledged.
                drop(devices.pop());
            }
            if number % 5 == 0 {
                let at = number / 5 % devices.len();
                seen.extend(heard_until_now(&mut devices[at]).await);
            }
        }
        server.crash().await;
    }
    let mut device = session(&server, "two", false).await;
    while seen.len() < next {
        seen.insert(heard(&mut device).await);
    }
}
