//! Sessions and subscriptions that are validated again when permissions change, and owners of sessions.

use jmqt_mqtt::{Qos, ReasonCode, Version};
use jmqt_server::{ConnVerdict, Protocol, StatusCode};

use crate::mqtt::{Device, Login};
use crate::support::{Asked, Behaviour, Notice, TestServer, client_id};

const VERSIONS: [Version; 2] = [Version::V3_1_1, Version::V5];

async fn start() -> TestServer {
    TestServer::configured(|config| config.mqtt_port = Some(0)).await
}

/// From now on, nobody may subscribe to these, and the others may be.
fn withdraw(server: &TestServer, names: &'static [&'static str]) {
    server.app.on_rule(move |asked, _, name| asked != Asked::Sub || !names.contains(&name));
}

/// A client whose session outlives its connection.
fn staying(name: &str) -> Login<'_> {
    Login { clean: false, expiry: 3600, ..Login::of(name) }
}

/// Ends a connection as if it were cut, and waits until its session knows.
async fn cut(server: &TestServer, device: Device) {
    drop(device);
    while !matches!(server.app.notice().await, Notice::Close(..)) {}
    server.settle().await;
}

#[tokio::test]
async fn a_withdrawn_permission_ends_the_subscriptions_of_a_jmqt_client() {
    let server = start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    for (sub, ack) in [
        (r#"{"sub":{"cn":"news"}}"#, r#"{"subAck":{"st":1,"cn":"news"}}"#),
        (r#"{"sub":{"cn":"kept","pr":1}}"#, r#"{"subAck":{"st":1,"cn":"kept"}}"#),
        (r#"{"sub":{"cn":"staff","pr":1}}"#, r#"{"subAck":{"st":1,"cn":"staff"}}"#),
        (r#"{"sub":{"cn":"rooms/+","wc":1}}"#, r#"{"subAck":{"st":1,"cn":"rooms/+","wc":1}}"#),
        (r#"{"sub":{"cn":"open/+","wc":1}}"#, r#"{"subAck":{"st":1,"cn":"open/+","wc":1}}"#),
    ] {
        bob.send(sub).await;
        bob.expect(ack).await;
    }
    withdraw(&server, &["news", "staff", "rooms/+"]);
    let found = server.handle().revalidate(&client_id("bob")).await.unwrap();
    assert_eq!((found.sessions, found.ended, found.failed), (1, 3, 0));
    for channel in ["news", "staff", "rooms/1"] {
        alice.pub1(channel, "1").await;
    }
    for channel in ["open/1", "#bob"] {
        alice.send(&format!(r#"{{"pub":{{"cn":"{channel}","dt":2}}}}"#)).await;
        bob.expect(&format!(r#"{{"push":{{"cn":"{channel}","dt":2,"cl":"alice"}}}}"#)).await;
    }
    let subscriptions = server.handle().subscriptions(&client_id("bob")).await.unwrap();
    let names: Vec<_> = subscriptions.iter().map(|(channel, _)| channel.as_str()).collect();
    assert_eq!(names, ["#bob", "$filter/open/+", "kept"]);
    assert_eq!(server.counters().subscriptions_withdrawn, 3);
}

#[tokio::test]
async fn a_withdrawn_permission_ends_the_subscriptions_of_an_mqtt_client() {
    let server = start().await;
    let mut publisher = Device::new(&server, Version::V5, Login::of("publisher")).await;
    for version in VERSIONS {
        for login in [Login::of("bob"), staying("bob")] {
            server.app.on_rule(|_, _, _| true);
            let mut bob = Device::new(&server, version, login).await;
            for qos in [Qos::AtMostOnce, Qos::AtLeastOnce] {
                let of = |name: &str| format!("{name}{}", qos.bits());
                for filter in ["news", "rooms/+/", "$share/g/shared", "$share/g/shares/+/", "open/+/"] {
                    bob.subscribe(&of(filter), qos).await;
                }
            }
            bob.subscribe("$p2p/bob", Qos::AtMostOnce).await;
            server.app.on_rule(|asked, _, name| asked != Asked::Sub || name.starts_with("open/"));
            let found = server.handle().revalidate(&client_id("bob")).await.unwrap();
            assert_eq!((found.ended, found.failed), (9, 0), "{version:?}");
            for topic in ["news0", "news1", "rooms/x/0", "rooms/x/1", "shared0", "shared1", "shares/x/1"] {
                publisher.publish_acknowledged(topic, b"no", false).await;
            }
            publisher.publish_acknowledged("open/x/0", b"yes", false).await;
            assert_eq!(bob.message().await.1, b"yes");
            bob.expect_nothing().await;
            cut(&server, bob).await;
            let mut bob = Device::new(&server, version, Login::of("bob")).await;
            bob.expect_nothing().await;
            cut(&server, bob).await;
        }
    }
}

#[tokio::test]
async fn the_other_members_of_a_group_get_what_a_member_may_not_have_any_more() {
    let server = start().await;
    let mut bob = Device::new(&server, Version::V5, staying("bob")).await;
    let mut carol = Device::new(&server, Version::V5, staying("carol")).await;
    for device in [&mut bob, &mut carol] {
        device.subscribe("$share/g/jobs/#", Qos::AtLeastOnce).await;
    }
    server.app.on_rule(|asked, client, _| asked != Asked::Sub || client.as_str() != "bob");
    assert_eq!(server.handle().revalidate_here().await.ended, 1);
    let mut publisher = Device::new(&server, Version::V5, Login::of("publisher")).await;
    for number in 0..4 {
        publisher.publish_acknowledged("jobs/x", number.to_string().as_bytes(), false).await;
        let (_, payload, delivery, _) = carol.message().await;
        assert_eq!(payload, number.to_string().as_bytes());
        carol.acknowledge(delivery).await;
    }
    bob.expect_nothing().await;
}

#[tokio::test]
async fn a_permission_withdrawn_while_the_client_is_away_delivers_nothing_when_it_returns() {
    for of_all in [false, true] {
        let mut server = start().await;
        for version in VERSIONS {
            server.app.on_rule(|_, _, _| true);
            let mut bob = Device::new(&server, version, staying("bob")).await;
            for filter in ["staff", "rooms/+/", "kept", "shared/+/"] {
                for qos in [Qos::AtLeastOnce, Qos::ExactlyOnce] {
                    bob.subscribe(&format!("{filter}{}", qos.bits()), qos).await;
                }
            }
            cut(&server, bob).await;
            let mut publisher = Device::new(&server, Version::V5, Login::of("publisher")).await;
            for topic in ["staff1", "rooms/x/1", "staff2", "kept1"] {
                publisher.publish_acknowledged(topic, topic.as_bytes(), false).await;
            }
            server.app.on_rule(|asked, _, name| asked != Asked::Sub || name == "kept1");
            let found = match of_all {
                true => server.handle().revalidate_all().await.unwrap(),
                false => server.handle().revalidate(&client_id("bob")).await.unwrap(),
            };
            assert_eq!(found.ended, 0, "{version:?}");
            if of_all {
                server.restart().await;
                publisher = Device::new(&server, Version::V5, Login::of("publisher")).await;
            }
            server.app.times_asked(Asked::Sub).await;
            let mut bob = Device::over(
                tokio::net::TcpStream::connect(server.address(Protocol::Mqtt)).await.unwrap(),
                version,
            );
            assert!(bob.connect(staying("bob")).await.1, "the session continues");
            let (_, payload, delivery, _) = bob.message().await;
            assert_eq!(payload, b"kept1");
            bob.acknowledge(delivery).await;
            publisher.publish_acknowledged("staff1", b"later", false).await;
            bob.expect_nothing().await;
            assert_eq!(server.app.times_asked(Asked::Sub).await, 8);
            // It is asked once.
            cut(&server, bob).await;
            let mut bob = Device::new(&server, version, staying("bob")).await;
            bob.expect_nothing().await;
            assert_eq!(server.app.times_asked(Asked::Sub).await, 0);
            cut(&server, bob).await;
            let mut bob = Device::new(&server, version, Login::of("bob")).await;
            bob.expect_nothing().await;
            cut(&server, bob).await;
        }
    }
}

#[tokio::test]
async fn messages_without_an_answer_of_a_withdrawn_subscription_are_not_sent_again() {
    let server = start().await;
    for (version, qos) in [(Version::V3_1_1, Qos::AtLeastOnce), (Version::V5, Qos::ExactlyOnce)] {
        server.app.on_rule(|_, _, _| true);
        let mut bob = Device::new(&server, version, staying("bob")).await;
        for filter in ["staff", "rooms/+"] {
            bob.subscribe(filter, qos).await;
        }
        let mut publisher = Device::new(&server, Version::V5, Login::of("publisher")).await;
        for topic in ["staff", "rooms/x"] {
            publisher.publish_acknowledged(topic, b"no", false).await;
            bob.message().await;
        }
        cut(&server, bob).await;
        withdraw(&server, &["staff", "rooms/+"]);
        server.handle().revalidate(&client_id("bob")).await.unwrap();
        let mut bob = Device::new(&server, version, staying("bob")).await;
        bob.expect_nothing().await;
        cut(&server, bob).await;
        cut(&server, Device::new(&server, version, Login::of("bob")).await).await;
    }
}

#[tokio::test]
async fn a_session_is_validated_when_it_resumes_if_the_revision_of_the_rules_has_changed() {
    let mut server = start().await;
    server.app.set_revision(Some(1));
    let mut bob = Device::new(&server, Version::V5, staying("bob")).await;
    bob.subscribe("staff", Qos::AtLeastOnce).await;
    let mut carol = server.connect("carol").await;
    carol.send(r#"{"sub":{"cn":"staff","pr":1}}"#).await;
    carol.expect(r#"{"subAck":{"st":1,"cn":"staff"}}"#).await;
    drop(carol);
    cut(&server, bob).await;
    server.settle().await;
    server.app.times_asked(Asked::Sub).await;
    let mut bob = Device::new(&server, Version::V5, staying("bob")).await;
    bob.expect_nothing().await;
    assert_eq!(server.app.times_asked(Asked::Sub).await, 0, "the same rules");
    cut(&server, bob).await;
    let mut alice = server.connect("alice").await;
    alice.pub1("staff", "1").await;
    server.shutdown().await;
    server.app.set_revision(Some(2));
    withdraw(&server, &["staff"]);
    server.restart().await;
    let mut bob = Device::new(&server, Version::V5, staying("bob")).await;
    bob.expect_nothing().await;
    let mut carol = server.connect("carol").await;
    carol.expect_nothing_before_hb().await;
    for name in ["bob", "carol"] {
        let names = server.handle().subscriptions(&client_id(name)).await.unwrap();
        assert!(names.iter().all(|(channel, _)| channel.as_str().starts_with('#')), "{names:?}");
    }
}

#[tokio::test]
async fn a_session_whose_subscriptions_cannot_be_validated_does_not_resume() {
    let server = start().await;
    let mut bob = Device::new(&server, Version::V5, staying("bob")).await;
    bob.subscribe("news", Qos::AtLeastOnce).await;
    cut(&server, bob).await;
    let mut alice = server.connect("alice").await;
    alice.pub1("news", "1").await;
    server.handle().revalidate(&client_id("bob")).await.unwrap();
    server.app.set(Asked::Sub, Behaviour::Fail);
    let mut bob = Device::new(&server, Version::V5, staying("bob")).await;
    assert_eq!(bob.ended().await, Some(ReasonCode::SERVER_BUSY));
    while !matches!(server.app.notice().await, Notice::Close(name, _) if name == "bob") {}
    server.app.reset(Asked::Sub);
    let mut bob = Device::new(&server, Version::V5, staying("bob")).await;
    assert_eq!(bob.message().await.1, b"1");
}

#[tokio::test]
async fn a_question_without_an_answer_changes_nothing_for_a_client_that_is_connected() {
    let server = start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub("news").await;
    server.app.set(Asked::Sub, Behaviour::Fail);
    server.app.set(Asked::Conn, Behaviour::Panic);
    let found = server.handle().revalidate(&client_id("bob")).await.unwrap();
    assert_eq!((found.ended, found.closed, found.failed), (0, 0, 2));
    alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await;
    bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":"alice"}}"#).await;
}

#[tokio::test]
async fn a_session_ends_if_its_client_is_not_accepted_any_more() {
    let server = start().await;
    let mut bob = server.connect("bob").await;
    let mut dora = Device::new(&server, Version::V5, Login::of("dora")).await;
    let mut carol = server.connect("carol").await;
    server.app.on_rule(|_, client, name| name != "$session" || client.as_str() == "carol");
    let found = server.handle().revalidate_all().await.unwrap();
    assert_eq!((found.sessions, found.closed), (3, 2));
    let told = bob.told().await;
    assert_eq!((told.code, &*told.message), (4007, "the login is not valid any more"));
    assert_eq!(dora.ended().await, Some(ReasonCode::NOT_AUTHORIZED));
    carol.expect_nothing_before_hb().await;
}

#[tokio::test]
async fn a_hundred_sessions_are_validated_a_few_at_a_time() {
    let server = start().await;
    let mut clients = Vec::new();
    for number in 0..100 {
        let mut client = server.connect(&format!("client-{number}")).await;
        client.sub("news").await;
        clients.push(client);
    }
    let gate = server.app.hold(Asked::Sub);
    server.app.times_asked(Asked::Sub).await;
    let handle = server.handle();
    let pass = tokio::spawn(async move { handle.revalidate_all().await });
    for _ in 0..8 {
        server.app.asked(Asked::Sub).await;
    }
    // Others are served meanwhile, and nobody else is asked.
    clients[99].expect_nothing_before_hb().await;
    assert_eq!(server.app.times_asked(Asked::Sub).await, 0);
    gate.open();
    let found = pass.await.unwrap().unwrap();
    assert_eq!((found.sessions, found.ended), (100, 0));
}

/// The clients that connect from now on are those of this user.
fn as_user(server: &TestServer, user: &'static str) {
    server.app.on_conn(move |_| Ok(ConnVerdict::accept().owned_by(user)));
}

#[tokio::test]
async fn nobody_takes_over_or_resumes_the_session_of_another_user() {
    let mut server = start().await;
    for version in VERSIONS {
        as_user(&server, "bob");
        let mut sensor = Device::new(&server, version, staying("sensor")).await;
        sensor.subscribe("news", Qos::AtLeastOnce).await;
        as_user(&server, "mallory");
        let refused = async |login| {
            let stream = tokio::net::TcpStream::connect(server.address(Protocol::Mqtt)).await.unwrap();
            assert_eq!(Device::over(stream, version).connect(login).await.0, ReasonCode::NOT_AUTHORIZED);
            let mut browser = server.open(Protocol::Socket).await;
            browser.send(r#"{"conn":{"cl":"sensor","at":"t"}}"#).await;
            browser.expect(&format!(r#"{{"connAck":{{"st":{}}}}}"#, StatusCode::NOT_ALLOWED.code())).await;
        };
        refused(staying("sensor")).await;
        refused(Login::of("sensor")).await;
        sensor.expect_nothing().await;
        cut(&server, sensor).await;
        let mut publisher = Device::new(&server, Version::V5, Login::of("publisher")).await;
        publisher.publish_acknowledged("news", b"for bob", false).await;
        drop(publisher);
        refused(staying("sensor")).await;
        refused(Login::of("sensor")).await;
        server.restart().await;
        let refused = server.counters().sessions_refused;
        let stream = tokio::net::TcpStream::connect(server.address(Protocol::Mqtt)).await.unwrap();
        let connected = Device::over(stream, version).connect(staying("sensor")).await;
        assert_eq!(connected.0, ReasonCode::NOT_AUTHORIZED, "it is stored");
        assert_eq!(server.counters().sessions_refused, refused + 1);
        as_user(&server, "bob");
        let mut sensor = Device::new(&server, version, staying("sensor")).await;
        assert_eq!(sensor.message().await.1, b"for bob");
        // When the session has ended, the client id is free.
        cut(&server, sensor).await;
        cut(&server, Device::new(&server, version, Login::of("sensor")).await).await;
        as_user(&server, "publisher");
        let mut sensor = Device::new(&server, version, Login::of("sensor")).await;
        sensor.expect_nothing().await;
        cut(&server, sensor).await;
    }
}

#[tokio::test]
async fn the_owner_of_a_jmqt_session_is_stored_with_its_first_persistent_subscription() {
    let server = start().await;
    let open = async |is_accepted: bool| {
        let mut client = server.open(Protocol::Socket).await;
        client.send(r#"{"conn":{"cl":"sensor","at":"t"}}"#).await;
        let answer = client.next().await;
        assert_eq!(answer.contains(r#""st":1"#), is_accepted, "{answer}");
        client
    };
    as_user(&server, "mallory");
    let mut temporary = open(true).await;
    temporary.sub("news").await;
    temporary.send(r#"{"disconn":{}}"#).await;
    while !matches!(server.app.notice().await, Notice::Close(..)) {}
    as_user(&server, "bob");
    let mut sensor = open(true).await;
    sensor.sub_persistent("news").await;
    as_user(&server, "mallory");
    open(false).await;
    drop(sensor);
    while !matches!(server.app.notice().await, Notice::Close(..)) {}
    open(false).await;
    // An application that names no owner decides by the client id alone.
    server.app.on_conn(|_| Ok(ConnVerdict::accept()));
    open(true).await;
}
