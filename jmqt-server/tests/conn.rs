//! Opening a session: what comes in which order, who wins, which names are valid (protocol.md 2.2 to
//! 2.4, 2.8, 2.9).

mod support;

use jmqt_server::{
    CloseReason, ConnRequest, ConnVerdict, Persistence, Protocol, Publish, StatusCode,
};
use support::{Asked, Behaviour, Notice, TestServer, channel, client_id, within};

/// Subscribes to `inbox` through the handle of the request, and publishes to it before and after.
fn record(request: &ConnRequest<'_>) {
    let publish = |data| Publish::raw(channel("inbox"), data).unwrap();
    request.server.force_pub(publish("0")).unwrap();
    request
        .server
        .force_sub(&channel("inbox"), Persistence::Temporary)
        .unwrap();
    request.server.force_pub(publish("1")).unwrap();
    request
        .server
        .force_pub(publish("2").at_least_once())
        .unwrap();
}

// ---- 2.2: the connection validator's own handle -------------------------------------------------

#[tokio::test] // protocol.md 2.2
async fn what_the_validator_recorded_is_carried_out_in_order_and_pushed_after_the_conn_ack() {
    let server = TestServer::start().await;
    server.app.on_conn(|request| {
        record(request);
        Ok(ConnVerdict::accept())
    });
    let mut alice = server.open(Protocol::Socket).await;
    alice.send(r#"{"conn":{"at":"x","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    let pushes = alice.next_pushes(2).await;
    let mut texts: Vec<_> = pushes.iter().map(support::Push::without_id).collect();
    texts.sort(); // each QoS level has an order of its own (2.10)
    assert_eq!(
        texts,
        [
            r#"{"push":{"cn":"inbox","dt":1,"cl":""}}"#,
            r#"{"push":{"cn":"inbox","dt":2,"cl":"","q":1,"id":"*"}}"#,
        ]
    );
    alice.expect_nothing_before_hb().await; // what was published before the subscription is not for her
}

#[tokio::test] // protocol.md 2.2
async fn what_the_validator_recorded_is_dropped_when_it_refuses_or_fails() {
    let server =
        TestServer::configured(|config| config.validator_timeout = support::DEADLINE / 100).await;
    let mut bob = server.connect("bob").await;
    bob.sub("inbox").await;
    let mut alice = server.open(Protocol::Socket).await;

    server.app.on_conn(|request| {
        record(request);
        Ok(ConnVerdict::Refuse(StatusCode::NOT_ALLOWED))
    });
    alice.send(r#"{"conn":{"at":"x","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":7}}"#).await;

    server.app.on_conn(|request| {
        record(request);
        Err("no".into())
    });
    alice.send(r#"{"conn":{"at":"x","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":5}}"#).await;

    server.app.set(Asked::Conn, Behaviour::Hang);
    alice.send(r#"{"conn":{"at":"x","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":5}}"#).await;

    server.settle().await;
    bob.expect_nothing_before_hb().await;
    let subscriptions = server.handle().subscriptions(&client_id("alice")).await;
    assert_eq!(subscriptions.unwrap(), []);
}

#[tokio::test] // protocol.md 2.2
async fn the_server_wide_handle_acts_at_once_whatever_becomes_of_the_conn() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub("inbox").await;
    server.app.on_conn(|request| {
        let handle = request.server.server().clone();
        tokio::spawn(async move {
            let message = Publish::raw(channel("inbox"), r#""somebody knocks""#).unwrap();
            handle.force_pub(message).await
        });
        Ok(ConnVerdict::Refuse(StatusCode::NOT_ALLOWED))
    });
    let mut alice = server.open(Protocol::Socket).await;
    alice.send(r#"{"conn":{"at":"x","cl":"alice"}}"#).await;
    alice.expect(r#"{"connAck":{"st":7}}"#).await;
    bob.expect(r#"{"push":{"cn":"inbox","dt":"somebody knocks","cl":""}}"#)
        .await;
}

#[tokio::test] // protocol.md 2.2
async fn the_verdict_may_bring_subscriptions() {
    let server = TestServer::start().await;
    server.app.on_conn(|_| {
        Ok(ConnVerdict::Accept {
            subscriptions: vec![
                (channel("kept"), Persistence::Persistent),
                (channel("lent"), Persistence::Temporary),
            ],
        })
    });
    let _alice = server.connect("alice").await;
    let subscriptions = server.handle().subscriptions(&client_id("alice")).await;
    assert_eq!(
        subscriptions.unwrap(),
        [
            (channel("#alice"), Persistence::Temporary),
            (channel("kept"), Persistence::Persistent),
            (channel("lent"), Persistence::Temporary),
        ]
    );
}

#[tokio::test] // protocol.md 2.2
async fn the_own_channel_is_subscribed_unless_it_is_already() {
    let server = TestServer::start().await;
    let (alice, own) = (client_id("alice"), channel("#alice"));
    let first = server.connect("alice").await;
    let of = server.handle().subscriptions(&alice).await.unwrap();
    assert_eq!(of, [(own.clone(), Persistence::Temporary)]);
    let made = server
        .handle()
        .force_sub(&alice, &own, Persistence::Persistent)
        .await;
    made.unwrap();
    let _second = server.reconnect(first).await;
    let of = server.handle().subscriptions(&alice).await.unwrap();
    assert_eq!(of, [(own, Persistence::Persistent)]); // the persistent one stays
}

#[tokio::test] // protocol.md 2.2: the older session's close notifier has finished before the `connAck`
async fn a_conn_waits_for_the_close_notifier_of_the_older_session() {
    let server = TestServer::start().await;
    let mut old = server.connect("alice").await;
    let gate = server.app.hold(Asked::Close);
    let mut new = server.open(Protocol::Socket).await;
    new.send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#)
        .await;
    old.closed().await;
    server
        .app
        .expect_close("alice", CloseReason::Takeover)
        .await;
    server.settle().await;
    assert_eq!(server.counters().sessions_opened, 1);
    assert!(!server.handle().is_connected(&client_id("alice")));
    gate.open();
    new.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    assert_eq!(server.counters().sessions_opened, 2);
}

// ---- 2.3: what follows the connAck --------------------------------------------------------------

#[tokio::test] // protocol.md 2.3
async fn after_the_conn_ack_come_pending_then_retained_then_live_messages() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("a").await;
    bob.sub_persistent("b").await;
    drop(bob);
    server
        .app
        .expect_close("bob", CloseReason::ClosedByClient)
        .await;
    let mut alice = server.connect("alice").await;
    for data in ["1", "2", "3"] {
        alice.pub1("a", data).await;
        alice.pub1("b", data).await;
    }
    alice
        .send(r#"{"pub":{"cn":"a","dt":"kept","rt":1}}"#)
        .await;
    alice.expect_nothing_before_hb().await;

    // What the validator publishes is live, and there before the `connAck`: it has to be held.
    server.app.on_conn(|request| {
        let live = Publish::raw(channel("a"), r#""live""#).unwrap();
        request.server.force_pub(live).unwrap();
        Ok(ConnVerdict::accept())
    });
    let mut bob = server.connect_with_window("bob", 4).await;
    let pushes = bob.next_pushes(4).await;
    let of = |name: &str| -> Vec<String> {
        let of = pushes.iter().filter(|push| push.channel() == name);
        of.map(|push| push.data().to_owned()).collect()
    };
    // A window of four, shared by two channels, each in its order.
    assert_eq!((of("a"), of("b")), (two(), two()));
    bob.expect(r#"{"push":{"cn":"a","dt":"kept","cl":"alice","rt":1}}"#)
        .await;
    bob.expect(r#"{"push":{"cn":"a","dt":"live","cl":""}}"#)
        .await;
    bob.expect_nothing_before_hb().await;
    for push in &pushes {
        bob.ack(push).await;
    }
    let rest = bob.next_pushes(2).await;
    assert!(rest.iter().all(|push| push.data() == "3"), "{rest:?}");
}

fn two() -> Vec<String> {
    vec!["1".to_owned(), "2".to_owned()]
}

#[tokio::test] // protocol.md 2.3: live QoS 1 of a channel follows what is pending of it
async fn live_qos_1_waits_behind_what_is_pending() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    drop(bob);
    let mut alice = server.connect("alice").await;
    for data in 0..5 {
        alice.pub1("news", &data.to_string()).await;
    }
    let mut bob = server.connect_with_window("bob", 2).await;
    for data in 5..10 {
        alice.pub1("news", &data.to_string()).await;
    }
    for data in 0..10 {
        let push = bob.next_push().await;
        assert_eq!(push.data(), data.to_string());
        bob.ack(&push).await;
    }
    bob.expect_nothing_before_hb().await;
}

// ---- 2.4: takeover ------------------------------------------------------------------------------

#[tokio::test] // protocol.md 2.4
async fn a_newer_connection_of_the_same_client_wins() {
    let server = TestServer::start().await;
    let mut old = server.connect("alice").await;
    let mut new = server.websocket("alice").await;
    old.closed().await;
    new.expect_nothing_before_hb().await;
    server
        .app
        .expect_close("alice", CloseReason::Takeover)
        .await;
    assert_eq!(server.app.more_notices().await, []);
    assert_eq!(server.handle().connections().len(), 1);
}

#[tokio::test] // protocol.md 2.4: the wrong case beside the right one
async fn a_refused_conn_takes_nothing_over() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut mallory = server.open(Protocol::Socket).await;
    mallory.send(r#"{"conn":{"at":"guess","cl":"alice"}}"#).await;
    mallory.expect(r#"{"connAck":{"st":6}}"#).await;
    alice.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.4
async fn a_second_conn_for_the_same_client_is_fine_and_asks_nobody() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.sub_persistent("news").await;
    let mut bob = server.connect("bob").await;
    bob.pub1("news", "1").await;
    bob.send(r#"{"pub":{"cn":"news","dt":2,"rt":1}}"#).await;
    let first = alice.next_push().await;
    alice
        .expect(r#"{"push":{"cn":"news","dt":2,"cl":"bob"}}"#)
        .await;
    server.app.times_asked(Asked::Conn).await;
    alice
        .send(r#"{"conn":{"at":"whatever","cl":"alice"}}"#)
        .await;
    alice.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    alice.expect_nothing_before_hb().await; // neither the pending nor the retained message again
    assert_eq!(server.app.times_asked(Asked::Conn).await, 0);
    alice.ack(&first).await;
}

#[tokio::test] // protocol.md 2.4
async fn a_second_conn_for_another_client_is_not_allowed() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice
        .send(r#"{"conn":{"at":"token-bob","cl":"bob"}}"#)
        .await;
    alice.expect(r#"{"connAck":{"st":7}}"#).await;
    alice.expect_nothing_before_hb().await;
    assert!(!server.handle().is_connected(&client_id("bob")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)] // protocol.md 2.4, 2.16
async fn of_a_hundred_connections_that_claim_one_client_one_survives() {
    const CONNECTIONS: usize = 100;
    let server = TestServer::start().await;
    let (over, _) = tokio::sync::broadcast::channel::<()>(1);
    let mut tasks = tokio::task::JoinSet::new();
    for index in 0..CONNECTIONS {
        let protocol = if index % 2 == 0 {
            Protocol::Socket
        } else {
            Protocol::WebSocket
        };
        let mut client = server.open(protocol).await;
        let mut over = over.subscribe();
        tasks.spawn(async move {
            client
                .send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#)
                .await;
            let lost = tokio::select! {
                packets = client.packets_until_closed() => Some(packets),
                _ = over.recv() => None,
            };
            match lost {
                Some(packets) => packets.len(), // the `connAck`, if it had a session
                None => {
                    client.send(r#"{"hb":{}}"#).await;
                    CONNECTIONS
                }
            }
        });
    }
    let mut sessions = 0;
    for _ in 1..CONNECTIONS {
        let finished = within("a connection losing", tasks.join_next()).await;
        sessions += finished.unwrap().unwrap();
    }
    assert!(server.handle().is_connected(&client_id("alice")));
    assert_eq!(server.handle().connections().len(), 1);
    over.send(()).unwrap();
    let survivor = within("the winner", tasks.join_next()).await;
    assert_eq!(survivor.unwrap().unwrap(), CONNECTIONS);

    for _ in 0..sessions {
        server
            .app
            .expect_close("alice", CloseReason::Takeover)
            .await;
    }
    server
        .app
        .expect_close("alice", CloseReason::ClosedByClient)
        .await; // the winner, gone with its task
    assert_eq!(server.app.more_notices().await, []);
    assert_eq!(
        server.counters().sessions_opened,
        u64::try_from(sessions).unwrap() + 1
    );
}

// ---- 2.8, 2.9: names and windows ----------------------------------------------------------------

#[tokio::test] // protocol.md 2.8
async fn client_ids_have_1_to_256_bytes_and_no_surrounding_white_space() {
    let server = TestServer::start().await;
    server.app.on_conn(|_| Ok(ConnVerdict::accept()));
    let mut alice = server.open(Protocol::Socket).await;
    for bad in ["", " ", " alice", "alice\\n", &"x".repeat(257), &"ä".repeat(129)] {
        alice
            .send(&format!(r#"{{"conn":{{"at":"t","cl":"{bad}"}}}}"#))
            .await;
        alice.expect(r#"{"connAck":{"st":10}}"#).await;
    }
    assert_eq!(server.app.times_asked(Asked::Conn).await, 0);
    for good in ["a", "alice the second", "#x", &"x".repeat(256), &"ä".repeat(128)] {
        let mut client = server.open(Protocol::Socket).await;
        client
            .send(&format!(r#"{{"conn":{{"at":"t","cl":"{good}"}}}}"#))
            .await;
        client.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    }
}

#[tokio::test] // protocol.md 2.9
async fn an_announced_window_is_an_integer_of_1_or_more() {
    let server = TestServer::start().await;
    let mut alice = server.open(Protocol::Socket).await;
    for bad in ["0", "-1", "1.5", "\"many\"", "[]"] {
        alice
            .send(&format!(
                r#"{{"conn":{{"at":"token-alice","cl":"alice","wn":{bad}}}}}"#
            ))
            .await;
        alice.expect(r#"{"connAck":{"st":10}}"#).await;
    }
    for good in ["1", "128", "4000000000", "null"] {
        let mut client = server.open(Protocol::Socket).await;
        client
            .send(&format!(
                r#"{{"conn":{{"at":"token-alice","cl":"alice","wn":{good}}}}}"#
            ))
            .await;
        client.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    }
}

#[tokio::test] // §7.d: `ts` is what the configuration says
async fn the_conn_ack_tells_the_timeout() {
    let server =
        TestServer::configured(|config| config.timeout = std::time::Duration::from_secs(7)).await;
    let mut alice = server.open(Protocol::Socket).await;
    alice
        .send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#)
        .await;
    alice.expect(r#"{"connAck":{"st":1,"ts":7}}"#).await;
    drop(alice);
    let left = Notice::Close("alice".to_owned(), CloseReason::ClosedByClient);
    assert_eq!(server.app.notice().await, left);
}
