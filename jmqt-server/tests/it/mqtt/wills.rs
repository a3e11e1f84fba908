//! Wills of MQTT clients, which outlive connections, processes and nodes (docs/mqtt.md).

use std::time::Duration;

use jmqt_mqtt::{
    Connect, Packet, Place, Properties, Property, PropertyBuf, Qos, ReasonCode, Sender, Version, Will,
};
use tokio::io::AsyncWriteExt as _;

use super::sessions::{connect, leave, persistent, start, start_with};
use super::{Device, Login, VERSIONS};
use crate::support::{Asked, Behaviour, TestServer, client_id, within};

/// A login to a session that outlives its connection, with a will that is published this many seconds after its end.
fn mourned(name: &str, delay: u32) -> Login<'_> {
    Login { will: Some(("gone", b"lost", Qos::AtLeastOnce, false, delay)), ..persistent(name) }
}

/// A client that sees the wills.
async fn watcher(server: &TestServer) -> Device {
    let mut watcher = Device::new(server, Version::V5, Login::of("watcher")).await;
    watcher.subscribe("gone", Qos::AtLeastOnce).await;
    watcher
}

async fn expect_will(watcher: &mut Device) {
    let (topic, payload, delivery, _) = watcher.message().await;
    assert_eq!((&*topic, &*payload), ("gone", &b"lost"[..]));
    watcher.acknowledge(delivery).await;
}

/// This many wills were published. They are counted after they are delivered.
async fn expect_count(server: &TestServer, count: u64) {
    within("the count", async {
        while server.counters().wills_published < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    assert_eq!(server.counters().wills_published, count);
}

#[tokio::test] // MQTT-3.1.3-9
async fn a_client_that_comes_back_within_the_delay_takes_its_will_back() {
    let server = start().await;
    let mut watcher = watcher(&server).await;
    let (device, _) = connect(&server, Version::V5, mourned("lamp", 1000)).await;
    drop(device);
    let (device, is_present) = connect(&server, Version::V5, mourned("lamp", 1000)).await;
    assert!(is_present);
    leave(device, None).await;
    expect_no_pending_will(&server, "lamp", &mut watcher).await;
    expect_count(&server, 1).await;
}

/// The clean start would make it due, and the end of this connection publishes what is due.
async fn expect_no_pending_will(server: &TestServer, name: &str, watcher: &mut Device) {
    let will = Some(("gone", &b"last"[..], Qos::AtLeastOnce, false, 0));
    let (device, _) = connect(server, Version::V5, Login { will, ..Login::of(name) }).await;
    drop(device);
    let (_, payload, delivery, _) = watcher.message().await;
    assert_eq!(payload, b"last");
    watcher.acknowledge(delivery).await;
    watcher.expect_nothing().await;
}

#[tokio::test] // MQTT-3.1.3-9: both languages have one session
async fn a_jmqt_client_takes_the_will_of_its_mqtt_session_back() {
    let server = start().await;
    let mut watcher = watcher(&server).await;
    for jmqt_first in [false, true] {
        if jmqt_first {
            // Now the session lasts as long as those of JMQT.
            let mut browser = server.connect("lamp").await;
            browser.sub_persistent("news").await;
        }
        let (device, _) = connect(&server, Version::V5, mourned("lamp", 1000)).await;
        drop(device);
        drop(server.connect("lamp").await);
        expect_no_pending_will(&server, "lamp", &mut watcher).await;
    }
    expect_count(&server, 2).await;
}

#[tokio::test] // the session ends, so the delay does
async fn a_clean_start_within_the_delay_publishes_the_will() {
    let server = start().await;
    let mut watcher = watcher(&server).await;
    let (device, _) = connect(&server, Version::V5, mourned("lamp", 1000)).await;
    drop(device);
    let (_device, _) = connect(&server, Version::V5, Login::of("lamp")).await;
    expect_will(&mut watcher).await;
    watcher.expect_nothing().await;
}

#[tokio::test] // 3.1.3.2.2: the delay, and the end of the session
async fn a_will_is_published_after_its_delay_and_not_after_the_session() {
    let server = start().await;
    let mut watcher = watcher(&server).await;
    for login in [
        mourned("lamp", 1),
        Login { expiry: 1, ..mourned("lamp", 1000) },
        Login { expiry: 0, ..mourned("lamp", 1000) },
    ] {
        let (device, _) = connect(&server, Version::V5, login).await;
        drop(device);
        expect_will(&mut watcher).await;
    }
    watcher.expect_nothing().await;
    expect_count(&server, 3).await;
}

#[tokio::test] // 3.1.4
async fn a_takeover_publishes_the_will_without_a_delay_and_takes_the_other_back() {
    let server = start().await;
    let mut watcher = watcher(&server).await;
    let (_now, _) = connect(&server, Version::V5, mourned("lamp", 0)).await;
    let (_later, _) = connect(&server, Version::V5, mourned("lamp", 1000)).await;
    expect_will(&mut watcher).await;
    let (device, _) = connect(&server, Version::V5, persistent("lamp")).await;
    leave(device, None).await;
    expect_no_pending_will(&server, "lamp", &mut watcher).await;
    expect_count(&server, 2).await;
}

#[tokio::test] // MQTT-3.14.4-3
async fn only_a_normal_disconnect_deletes_the_will() {
    let server = start().await;
    let mut watcher = watcher(&server).await;
    for qos in [Qos::AtMostOnce, Qos::AtLeastOnce, Qos::ExactlyOnce] {
        let will = Some(("gone", &b"lost"[..], qos, false, 0));
        for reason in [ReasonCode::SUCCESS, ReasonCode::DISCONNECT_WITH_WILL] {
            let (mut device, _) = connect(&server, Version::V5, Login { will, ..Login::of("lamp") }).await;
            device.disconnect(reason, None).await;
            assert_eq!(device.ended().await, None);
        }
        expect_will_with(&mut watcher, qos).await;
    }
    watcher.expect_nothing().await;
}

async fn expect_will_with(watcher: &mut Device, qos: Qos) {
    let (_, payload, delivery, _) = watcher.message().await;
    assert_eq!(payload, b"lost");
    if qos != Qos::AtMostOnce {
        watcher.acknowledge(delivery).await;
    }
}

#[tokio::test]
async fn a_crash_publishes_each_will_once() {
    let mut server = start().await;
    let stored = Login { clean: false, expiry: 1000, ..Login::of("watcher") };
    let (mut watcher, _) = connect(&server, Version::V5, stored).await;
    watcher.subscribe("gone", Qos::AtLeastOnce).await;
    let temporary = Login { clean: true, expiry: 0, ..mourned("one", 0) };
    let (_one, _) = connect(&server, Version::V5, temporary).await;
    let (_two, _) = connect(&server, Version::V5, mourned("two", 1)).await;
    let (_three, _) = connect(&server, Version::V5, mourned("three", 1000)).await;
    drop(watcher);
    server.crash().await;
    let (_three, is_present) = connect(&server, Version::V5, persistent("three")).await;
    assert!(is_present, "it takes its will back");
    let (mut watcher, is_present) = connect(&server, Version::V5, stored).await;
    assert!(is_present);
    for _ in 0..2 {
        expect_will(&mut watcher).await;
    }
    watcher.expect_nothing().await;
    drop(watcher);
    server.restart().await;
    let (mut watcher, _) = connect(&server, Version::V5, stored).await;
    watcher.expect_nothing().await;
    assert_eq!(server.counters().wills_published, 0);
}

#[tokio::test] // permissions may have changed
async fn a_will_that_is_not_allowed_any_more_is_not_published() {
    let server = start().await;
    let mut watcher = watcher(&server).await;
    let (device, _) = connect(&server, Version::V5, mourned("lamp", 0)).await;
    server.app.set(Asked::Pub, Behaviour::Refuse(jmqt_server::StatusCode::NOT_ALLOWED));
    drop(device);
    let (device, _) = connect(&server, Version::V5, persistent("lamp")).await;
    server.app.reset(Asked::Pub);
    leave(device, None).await;
    watcher.expect_nothing().await;
    assert_eq!(server.counters().wills_published, 0);
}

#[tokio::test] // 3.1.3.2.4: the lifetime begins when the will is published
async fn a_will_expires_some_time_after_it_is_published() {
    let server = start().await;
    let mut watcher = watcher(&server).await;
    let mut properties = PropertyBuf::new();
    properties.push(Property::MessageExpiryInterval(3)).unwrap();
    let will = Will {
        qos: Qos::AtLeastOnce,
        retain: false,
        topic: "gone",
        payload: b"lost",
        properties: properties.for_place(Place::Will, Sender::Client).unwrap(),
    };
    let connect = Connect {
        version: Version::V5,
        clean_start: true,
        keep_alive: 0,
        client_id: "lamp",
        will: Some(will),
        user_name: None,
        password: None,
        properties: Properties::EMPTY,
    };
    let mut device = Device::dial(&server, Version::V5).await;
    device.send(&Packet::Connect(connect)).await;
    device.next(|packet| assert!(matches!(packet, Packet::ConnAck(_)), "{packet:?}")).await;
    tokio::time::sleep(Duration::from_millis(3500)).await;
    drop(device);
    expect_will(&mut watcher).await;
}

#[tokio::test] // 3.1.2.5: clients need a moment to connect again
async fn a_server_that_stops_publishes_wills_only_of_clients_that_do_not_come_back() {
    let mut server = start_with(|config| config.drain = Duration::from_secs(6)).await;
    let stored = Login { clean: false, expiry: 1000, ..Login::of("watcher") };
    let (mut watcher, _) = connect(&server, Version::V5, stored).await;
    watcher.subscribe("gone/+", Qos::AtLeastOnce).await;
    let of =
        |name, topic| Login { will: Some((topic, b"lost", Qos::AtLeastOnce, false, 0)), ..Login::of(name) };
    let mut devices = vec![watcher];
    for login in
        [of("one", "gone/one"), Login { expiry: 1000, ..of("two", "gone/two") }, of("three", "gone/three")]
    {
        devices.push(connect(&server, Version::V5, login).await.0);
    }
    server.restart().await;
    drop(devices);
    let (_one, _) = connect(&server, Version::V5, of("one", "gone/one")).await;
    let (_two, _) =
        connect(&server, Version::V5, Login { expiry: 1000, clean: false, ..of("two", "gone/two") }).await;
    let (mut watcher, _) = connect(&server, Version::V5, stored).await;
    let (topic, _, delivery, _) = watcher.message().await;
    assert_eq!(topic, "gone/three");
    watcher.acknowledge(delivery).await;
    watcher.expect_nothing().await;
    expect_count(&server, 1).await;
}

#[tokio::test] // MQTT-3.1.2-8
async fn every_end_of_a_connection_but_an_orderly_one_publishes_the_will() {
    let server = start().await;
    let mut watcher = watcher(&server).await;
    for version in VERSIONS {
        let silent = Login { keep_alive: 1, ..mourned("lamp", 0) };
        let device = Device::new(&server, version, silent).await;
        expect_will(&mut watcher).await;
        drop(device);
        let mut device = Device::new(&server, version, mourned("lamp", 0)).await;
        device.stream.write_all(&[0, 0]).await.unwrap(); // no packet begins like this
        expect_will(&mut watcher).await;
        let device = Device::new(&server, version, mourned("lamp", 0)).await;
        assert!(server.handle().disconnect(&client_id("lamp")));
        expect_will(&mut watcher).await;
        drop(device);
    }
    watcher.expect_nothing().await;
    expect_count(&server, 6).await;
}

#[tokio::test] // the delay ends with the session, also if the session lasts as long as those of JMQT
async fn the_delay_is_never_longer_than_sessions_are_kept() {
    let server = start_with(|config| config.session_expiry = Some(Duration::from_secs(1))).await;
    let mut watcher = watcher(&server).await;
    let mut browser = server.connect("lamp").await;
    browser.sub_persistent("news").await;
    drop(browser);
    let (device, is_present) = connect(&server, Version::V5, mourned("lamp", 1000)).await;
    assert!(is_present);
    drop(device);
    expect_will(&mut watcher).await;
}

#[tokio::test] // each would need a write to the disk
async fn the_wills_of_many_clients_that_are_lost_at_once_are_published() {
    const MANY: usize = 300;
    let server = start().await;
    let mut watcher = watcher(&server).await;
    let names: Vec<_> = (0..MANY).map(|number| format!("lamp {number}")).collect();
    let mut devices = Vec::new();
    for name in &names {
        devices.push(Device::new(&server, Version::V5, mourned(name, 0)).await);
    }
    drop(devices);
    for _ in 0..MANY {
        expect_will(&mut watcher).await;
    }
    watcher.expect_nothing().await;
    expect_count(&server, MANY as u64).await;
}
