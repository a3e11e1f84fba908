//! Publishing, subscribing, requests (§9), and the queue while there is no connection.

use std::time::Duration;

use crate::support::*;
use jmqt_client::{Client, Error, Event, Payload, Persistence, Publish, StatusCode, WhenFull};
use jmqt_server::Protocol;

fn message(name: &str, data: impl serde::Serialize) -> Publish {
    Publish::json(channel(name), &data).unwrap()
}

#[tokio::test] // §7.l
async fn a_refused_publish_fails_with_the_status() {
    let server = TestServer::start().await;
    let alice = connect(&server, "alice").await;
    server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let error = alice.publish(&message("news", 1).at_least_once()).await.unwrap_err();
    assert_eq!(
        (error.to_string().as_str(), error.status()),
        ("the server answered 7 NOT_ALLOWED to the publish", StatusCode::NOT_ALLOWED)
    );
    alice.publish(&message("news", 1)).await.unwrap(); // QoS 0 is never answered
}

#[tokio::test] // protocol.md 2.5: a refused QoS 0 publish is answered if it has an id
async fn a_checked_qos_0_publish_reports_a_refusal() {
    let server = TestServer::start().await;
    let (alice, bob) = (connect(&server, "alice").await, connect(&server, "bob").await);
    let mut news = bob.subscribe(&channel("news"), Persistence::Temporary).await.unwrap();
    alice.publish(&message("news", 1).checked()).await.unwrap();
    assert_eq!(next_data(&mut news).await, "1");
    server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let error = alice.publish(&message("news", 2).checked()).await.unwrap_err();
    assert_eq!(error.to_string(), "the server answered 7 NOT_ALLOWED to the publish");
    server.app.reset(Asked::Pub);
    let to_nobody = Publish::to_client(&client_id("nobody"), &3).unwrap().checked();
    let receipts =
        [alice.queue(&to_nobody).await.unwrap(), alice.queue(&message("news", 4).checked()).await.unwrap()];
    let [refused, allowed] = receipts;
    assert_eq!(within("an answer", refused).await.unwrap_err().status(), StatusCode::CLIENT_OFFLINE);
    within("an answer", allowed).await.unwrap();
    assert_eq!(next_data(&mut news).await, "4");
    // Also on the way out.
    server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let receipt = alice.queue(&message("news", 5).checked()).await.unwrap();
    alice.close().await;
    assert_eq!(receipt.await.unwrap_err().status(), StatusCode::NOT_ALLOWED);
}

#[tokio::test]
async fn many_checked_publishes_share_a_heartbeat_and_go_with_their_connection() {
    let server = ScriptedServer::start().await;
    let connecting = tokio::spawn(Client::connect(config(&server.url("jmqt"), "alice")));
    let mut script = server.session(60).await;
    let alice = within("a session", connecting).await.unwrap().unwrap();
    let mut receipts = Vec::new();
    for number in 0..3 {
        // The runtime has one thread: all are queued before the first is sent.
        receipts.push(alice.try_queue(&message("news", number).checked()).unwrap());
    }
    for number in 0..3 {
        let id = number + 1;
        script.expect(&format!(r#"{{"pub":{{"cn":"news","dt":{number},"id":"q{id}"}}}}"#)).await;
    }
    script.expect(r#"{"hb":{}}"#).await;
    script.send(r#"{"pubAck":{"st":7,"id":"q2"}}"#).await;
    let later = alice.queue(&message("news", 3).checked()).await.unwrap();
    script.expect(r#"{"pub":{"cn":"news","dt":3,"id":"q4"}}"#).await; // its heartbeat waits for the answer to the first
    script.send(r#"{"hbAck":{}}"#).await;
    let mut outcomes = Vec::new();
    for receipt in receipts {
        outcomes.push(within("an answer", receipt).await.map_err(|error| error.status()));
    }
    assert_eq!(outcomes, [Ok(()), Err(StatusCode::NOT_ALLOWED), Ok(())]);
    script.expect(r#"{"hb":{}}"#).await;
    drop(script);
    let error = within("an answer", later).await.unwrap_err();
    assert!(matches!(error, Error::ConnectionLost), "{error}");
}

#[tokio::test]
async fn a_checked_publish_dropped_for_newer_ones_reports_it() {
    let server = ScriptedServer::start().await;
    let mut config = config(&server.url("jmqt"), "alice");
    (config.queue_bytes, config.when_full) = (1024, WhenFull::DropOldest);
    let alice = Client::start(config).unwrap();
    let plain = alice.try_queue(&message("news", "p".repeat(300))).unwrap();
    let oldest = alice.try_queue(&message("news", "a".repeat(300)).checked()).unwrap();
    let newest = alice.try_queue(&message("news", "b".repeat(500)).checked()).unwrap();
    plain.await.unwrap();
    assert!(matches!(within("an answer", oldest).await, Err(Error::Dropped)));
    let mut script = server.session(60).await;
    assert!(script.receive().await.unwrap().contains("bbb"));
    script.expect(r#"{"hb":{}}"#).await;
    script.send(r#"{"hbAck":{}}"#).await;
    within("an answer", newest).await.unwrap();
}

#[tokio::test] // protocol.md 2.22
async fn a_waiting_checked_publish_fails_when_the_server_ends_the_connection_finally() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut receipts = Vec::new();
    for number in 0..2 {
        alice.try_queue(&message("news", number)).unwrap().await.unwrap();
        receipts.push(alice.try_queue(&message("news", "checked").checked()).unwrap());
    }
    alice.try_queue(&message("news", 2)).unwrap().await.unwrap();
    let mut script = server.accept().await;
    script.receive().await.unwrap();
    script.send(r#"{"disconn":{"st":4503,"mg":"no"}}"#).await;
    for receipt in receipts {
        let error = within("an answer", receipt).await.unwrap_err();
        assert!(matches!(error, Error::Disconnected(_)), "{error}");
    }
    alice.reconnect();
    let mut script = server.session(60).await;
    for number in 0..3 {
        script.expect(&format!(r#"{{"pub":{{"cn":"news","dt":{number}}}}}"#)).await;
    }
    let last = alice.try_queue(&message("news", 3).checked()).unwrap();
    script.expect(r#"{"pub":{"cn":"news","dt":3,"id":"q3"}}"#).await;
    script.expect(r#"{"hb":{}}"#).await;
    script.send(r#"{"hbAck":{}}"#).await;
    within("an answer", last).await.unwrap();
}

#[tokio::test]
async fn an_acknowledgement_makes_room_for_a_publisher_that_waits() {
    let server = ScriptedServer::start().await;
    let mut config = config(&server.url("jmqt"), "alice");
    config.queue_bytes = 1024;
    let connecting = tokio::spawn(Client::connect(config));
    let mut script = server.session(3600).await;
    let alice = within("a session", connecting).await.unwrap().unwrap();
    let large = message("news", "x".repeat(800)).at_least_once();
    let _first = alice.queue(&large).await.unwrap();
    // There is room for one. Nothing else is sent that could make the client look for more.
    let publishing = tokio::spawn(async move {
        for _ in 0..10 {
            let _receipt = alice.queue(&large).await.unwrap();
        }
    });
    within("room for all", async {
        for id in 1..=11 {
            assert!(script.receive().await.unwrap().contains(&format!(r#""id":"{id}""#)));
            script.send(&format!(r#"{{"pubAck":{{"st":1,"id":"{id}"}}}}"#)).await;
        }
        publishing.await.unwrap();
    })
    .await;
}

#[tokio::test] // §9.d, protocol.md 2.21
async fn p2p_to_an_absent_client_is_not_repeated() {
    let server = TestServer::start().await;
    let alice = connect(&server, "alice").await;
    let to_nobody = Publish::to_client(&client_id("nobody"), &1).unwrap().at_least_once();
    let error = alice.publish(&to_nobody).await.unwrap_err();
    assert_eq!(error.status(), StatusCode::CLIENT_OFFLINE);
}

#[tokio::test] // §9.b
async fn a_retained_message_comes_with_the_subscription() {
    let server = TestServer::start().await;
    let alice = connect(&server, "alice").await;
    alice.publish(&message("news", 7).at_least_once().retained()).await.unwrap();
    let mut news = alice.subscribe(&channel("news"), Persistence::Temporary).await.unwrap();
    let push = next(&mut news).await;
    assert_eq!((push.data(), push.is_retained(), push.id()), ("7", true, None));
}

#[tokio::test] // §9.d
async fn a_request_is_answered() {
    let server = TestServer::start().await;
    let alice = connect(&server, "alice").await;
    let reply = alice.request(&channel("$echo"), Some(Payload::parse("[1.50]").unwrap())).await.unwrap();
    assert_eq!(reply.data(), Some("[1.50]"));
    assert_eq!(alice.request(&channel("$echo"), None).await.unwrap().data(), None);
    server.app.set(Asked::Control, Behaviour::Refuse(StatusCode::FAILED));
    assert_eq!(alice.request(&channel("$echo"), None).await.unwrap_err().status(), StatusCode::FAILED);
}

#[tokio::test] // §9.d
async fn a_request_under_way_fails_with_its_connection() {
    let server = TestServer::start().await;
    let alice = connect(&server, "alice").await;
    let _gate = server.app.hold(Asked::Control);
    let asked = tokio::spawn({
        let alice = alice.clone();
        async move { alice.request(&channel("$slow"), None).await }
    });
    server.app.asked(Asked::Control).await;
    server.handle().disconnect(&client_id("alice"));
    let error = within("an error", asked).await.unwrap().unwrap_err();
    assert!(matches!(error, Error::ConnectionLost), "{error}");
}

#[tokio::test] // §9.d
async fn channels_that_a_request_cannot_name_are_refused_here() {
    let server = TestServer::start().await;
    let alice = connect(&server, "alice").await;
    for name in ["$list", "#bob"] {
        let error = alice.sub(&channel(name), Persistence::Temporary).await.unwrap_err();
        assert_eq!(error.status(), StatusCode::INVALID_CHANNEL);
        assert!(matches!(alice.unsub(&channel(name)).await, Err(Error::WrongChannel { .. })));
    }
    assert!(matches!(alice.publish(&message("$list", 1)).await, Err(Error::WrongChannel { .. })));
    assert!(matches!(alice.request(&channel("list"), None).await, Err(Error::WrongChannel { .. })));
}

#[tokio::test] // §7.h
async fn a_refused_subscription_is_not_made_again() {
    let server = TestServer::start().await;
    let alice = connect(&server, "alice").await;
    server.app.set(Asked::Sub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let error = alice.sub(&channel("news"), Persistence::Temporary).await.unwrap_err();
    assert_eq!(error.status(), StatusCode::NOT_ALLOWED);
    server.app.times_asked(Asked::Sub).await;
    let mut events = alice.events();
    server.handle().disconnect(&client_id("alice"));
    reconnected(&mut events).await;
    assert_eq!(server.app.times_asked(Asked::Sub).await, 0);
}

#[tokio::test] // protocol.md 2.20
async fn a_subscription_that_is_refused_the_next_time_ends() {
    let server = TestServer::start().await;
    let alice = connect(&server, "alice").await;
    let mut news = alice.subscribe(&channel("news"), Persistence::Temporary).await.unwrap();
    let mut events = alice.events();
    server.app.set(Asked::Sub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    server.handle().disconnect(&client_id("alice"));
    event(&mut events, |event| matches!(event, Event::SubscriptionLost { .. })).await;
    assert!(within("the end", news.next()).await.is_none());
}

#[tokio::test] // §7.i
async fn unsubscribing_ends_the_stream() {
    let server = TestServer::start().await;
    let (alice, bob) = (connect(&server, "alice").await, connect(&server, "bob").await);
    let mut news = alice.subscribe(&channel("news"), Persistence::Persistent).await.unwrap();
    alice.unsub(&channel("news")).await.unwrap();
    assert!(within("the end", news.next()).await.is_none());
    bob.publish(&message("news", 1).at_least_once()).await.unwrap();
    let mut news = alice.subscribe(&channel("news"), Persistence::Persistent).await.unwrap();
    bob.publish(&message("news", 2).at_least_once()).await.unwrap();
    assert_eq!(next_data(&mut news).await, "2");
}

#[tokio::test] // §9.a: what was published away from the server goes out in order, QoS 1 acknowledged
async fn publishes_wait_for_a_connection() {
    let server = TestServer::start().await;
    let proxy = Proxy::start("127.0.0.1:1".parse().unwrap()).await;
    let alice = Client::start(config(&proxy.url("jmqt"), "alice")).unwrap();
    let bob = connect(&server, "bob").await;
    let mut news = bob.subscribe(&channel("news"), Persistence::Temporary).await.unwrap();
    for number in 0..10 {
        alice.publish(&message("news", number)).await.unwrap();
    }
    let receipt = alice.queue(&message("news", 10).at_least_once()).await.unwrap();
    proxy.set_target(server.address(Protocol::Socket));
    receipt.await.unwrap();
    for number in 0..11 {
        assert_eq!(next_data(&mut news).await, number.to_string());
    }
}

#[tokio::test]
async fn a_full_queue_follows_the_configuration() {
    let offline = |when_full| {
        let mut config = config("jmqt://127.0.0.1:1", "alice");
        (config.when_full, config.queue_bytes) = (when_full, 1024);
        config.publish_timeout = Duration::from_millis(50);
        Client::start(config).unwrap()
    };
    let large = message("news", "x".repeat(400));

    let alice = offline(WhenFull::Error);
    alice.publish(&large).await.unwrap();
    alice.publish(&large).await.unwrap();
    assert!(matches!(alice.publish(&large).await, Err(Error::QueueFull { limit: 1024 })));

    let alice = offline(WhenFull::Wait);
    alice.publish(&large).await.unwrap();
    alice.publish(&large).await.unwrap();
    assert!(matches!(alice.try_queue(&large), Err(Error::QueueFull { .. })));
    assert!(matches!(alice.publish(&large).await, Err(Error::Timeout { what: "room in the queue", .. })));

    let alice = offline(WhenFull::DropOldest);
    let first = alice.queue(&large.clone().at_least_once()).await.unwrap();
    alice.publish(&large).await.unwrap();
    alice.publish(&large).await.unwrap(); // the QoS 0 one goes first
    assert_eq!(alice.dropped_publishes(), 1);
    drop(alice.queue(&large.clone().at_least_once()).await.unwrap());
    let last = alice.queue(&large.clone().at_least_once()).await.unwrap();
    assert!(matches!(within("an error", first).await, Err(Error::Dropped)));
    alice.close().await;
    assert!(matches!(within("an error", last).await, Err(Error::Closed)));
}

#[tokio::test] // the time for the acknowledgement begins when the message is sent
async fn a_publish_waits_for_a_connection_without_limit() {
    let server = ScriptedServer::start().await;
    let mut config = config(&server.url("jmqt"), "alice");
    config.publish_timeout = Duration::from_millis(50);
    let alice = Client::start(config).unwrap();
    let mut script = server.accept().await;
    let mut receipt = alice.queue(&message("news", 1).at_least_once()).await.unwrap();
    // Longer than the limit, and measured on the same clock.
    assert!(tokio::time::timeout(Duration::from_millis(500), &mut receipt).await.is_err());
    script.expect(r#"{"auth":{"dt":{"client_name":"alice"}}}"#).await;
    script.send(r#"{"authAck":{"st":1,"at":"t","cl":"alice"}}"#).await;
    assert!(script.receive().await.unwrap().starts_with(r#"{"conn""#));
    script.send(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    script.expect(r#"{"pub":{"cn":"news","dt":1,"q":1,"id":"1"}}"#).await;
    assert!(matches!(within("an error", receipt).await, Err(Error::Timeout { .. })));
}

#[tokio::test] // protocol.md 2.23
async fn publishes_are_numbered_upwards_and_no_more_than_10000_are_unacknowledged() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut script = server.session(60).await;
    for number in 0..10_100 {
        drop(alice.queue(&message("a", number).at_least_once()).await.unwrap());
    }
    let id = |packet: String| -> u64 {
        packet.split(r#""id":""#).nth(1).unwrap().split('"').next().unwrap().parse().unwrap()
    };
    for expected in 1..=10_000 {
        assert_eq!(id(script.receive().await.unwrap()), expected);
    }
    script.send(r#"{"pubAck":{"st":1,"id":"1"}}"#).await;
    script.send(r#"{"pubAck":{"st":1,"id":"2"}}"#).await;
    assert_eq!(id(script.receive().await.unwrap()), 10_001);
    // On the next connection the same publisher sends the same ids, in order, before anything new.
    let publisher = script.publisher.clone();
    drop(script);
    let mut script = server.session(60).await;
    assert_eq!((&script.publisher, publisher.len()), (&publisher, 32));
    for expected in 3..=10_002 {
        assert_eq!(id(script.receive().await.unwrap()), expected);
    }
}

#[tokio::test] // §9.d
async fn a_refused_request_has_the_applications_reply() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut script = server.session(60).await;
    let asking = tokio::spawn({
        let alice = alice.clone();
        async move { alice.request("$add", None).await.unwrap_err() }
    });
    script.expect(r#"{"pub":{"cn":"$add","id":"1"}}"#).await;
    script.send(r#"{"pubAck":{"st":7,"id":"1","dt":{"because":[1.50]}}}"#).await;
    let error = asking.await.unwrap();
    assert_eq!((error.status(), error.reply()), (StatusCode::NOT_ALLOWED, Some(r#"{"because":[1.50]}"#)));
}

#[tokio::test] // everything before is with the server
async fn flush_waits_for_qos_0_and_qos_1_also_over_a_reconnect() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut script = server.session(60).await;
    alice.publish(&message("a", 0)).await.unwrap();
    drop(alice.queue(&message("a", 1).at_least_once()).await.unwrap());
    let mut flushing = tokio::spawn({
        let alice = alice.clone();
        async move { alice.flush().await }
    });
    let mut seen = Vec::new();
    while !seen.iter().any(|packet| packet == r#"{"hb":{}}"#) {
        seen.push(script.receive().await.unwrap());
    }
    assert!(seen.contains(&r#"{"pub":{"cn":"a","dt":0}}"#.to_owned()), "{seen:?}");
    drop(script);
    let mut script = server.session(60).await;
    script.expect(r#"{"pub":{"cn":"a","dt":1,"q":1,"id":"1"}}"#).await;
    script.expect(r#"{"hb":{}}"#).await;
    script.send(r#"{"hbAck":{}}"#).await;
    assert!(tokio::time::timeout(Duration::from_millis(50), &mut flushing).await.is_err());
    script.send(r#"{"pubAck":{"st":1,"id":"1"}}"#).await;
    within("the flush", flushing).await.unwrap().unwrap();
}

#[tokio::test]
async fn drain_reads_the_streams_to_their_end_then_closes() {
    let server = TestServer::start().await;
    let (alice, bob) = (connect(&server, "alice").await, connect(&server, "bob").await);
    let mut news = alice.subscribe("news", Persistence::Temporary).await.unwrap();
    for number in 0..100 {
        bob.publish(&message("news", number).at_least_once()).await.unwrap();
    }
    assert_eq!(next_data(&mut news).await, "0");
    let draining = tokio::spawn({
        let alice = alice.clone();
        async move { alice.drain().await }
    });
    let mut read = 1;
    while let Some(push) = within("a push", news.next()).await {
        assert_eq!(push.json::<i32>().unwrap(), read);
        read += 1;
    }
    assert!(read > 1);
    within("the drain", draining).await.unwrap().unwrap();
    assert!(matches!(alice.publish(&message("news", 1)).await, Err(Error::Closed)));
}

#[tokio::test]
async fn a_configuration_out_of_range_is_refused_immediately() {
    let mut wrong = config("jmqt://127.0.0.1:1", "alice");
    wrong.window = 0;
    let expected = "the configuration's `window` is 0; expected 1 to 1024";
    assert_eq!(Client::connect(wrong.clone()).await.unwrap_err().to_string(), expected);
    assert_eq!(Client::start(wrong).unwrap_err().to_string(), expected);
    let mut wrong = config("jmqt://127.0.0.1:1", "alice");
    wrong.endpoints.clear();
    assert!(Client::start(wrong).unwrap_err().to_string().contains("at least one server"));
}

#[tokio::test]
async fn a_packet_that_is_too_large_is_refused_here() {
    let server = TestServer::start().await;
    let alice = connect(&server, "alice").await;
    let large = message("news", "x".repeat(4 << 20));
    assert!(matches!(alice.publish(&large).await, Err(Error::PacketTooLarge { .. })));
    assert!(matches!(alice.publish(&large.at_least_once()).await, Err(Error::PacketTooLarge { .. })));
    alice.publish(&message("news", "x".repeat((4 << 20) - 100)).at_least_once()).await.unwrap();
}
