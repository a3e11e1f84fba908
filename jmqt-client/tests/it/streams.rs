//! Streams: acknowledgement, redelivery, readers that are slow or gone (§9.a).

use crate::support::*;
use jmqt_client::{Client, Error, Event, Persistence, Publish, Subscription};

fn message(name: &str, data: impl serde::Serialize) -> Publish {
    Publish::json(channel(name), &data).unwrap()
}

const PUSH_1: &str = r#"{"push":{"cn":"news","dt":1,"cl":"bob","q":1,"id":"e-1"}}"#;
const PUSH_2: &str = r#"{"push":{"cn":"news","dt":2,"cl":"bob","q":1,"id":"e-2"}}"#;
const ACK_1: &str = r#"{"pushAck":{"id":"e-1"}}"#;
const ACK_2: &str = r#"{"pushAck":{"id":"e-2"}}"#;
const SUB: &str = r#"{"sub":{"cn":"news","pr":1}}"#;
const SUB_ACK: &str = r#"{"subAck":{"st":1,"cn":"news"}}"#;

#[tokio::test] // §7.n
async fn a_push_is_acknowledged_when_the_next_is_requested() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut script = server.session(60).await;
    let subscribing = tokio::spawn({
        let alice = alice.clone();
        async move { alice.subscribe(&channel("news"), Persistence::Persistent).await.unwrap() }
    });
    script.expect(SUB).await;
    script.send(SUB_ACK).await;
    let mut news = subscribing.await.unwrap();
    script.send(PUSH_1).await;
    script.send(PUSH_2).await;
    assert_eq!(next_data(&mut news).await, "1");
    assert_eq!(next_data(&mut news).await, "2");
    script.expect(ACK_1).await;

    // The connection breaks: 1 is acknowledged again, 2 only once it is asked past.
    drop(script);
    let mut script = server.session(60).await;
    script.expect(SUB).await;
    script.send(SUB_ACK).await;
    script.send(PUSH_1).await;
    script.send(PUSH_2).await;
    script.expect(ACK_1).await;
    let third = tokio::spawn(async move { next_data(&mut news).await });
    script.expect(ACK_2).await;
    script.send(r#"{"push":{"cn":"news","dt":3,"cl":"","q":1,"id":"e-3"}}"#).await;
    assert_eq!(third.await.unwrap(), "3");
}

#[tokio::test] // §7.n
async fn manual_acknowledgement_is_left_to_the_application() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut script = server.session(60).await;
    let mut pushes = alice.pushes().acknowledge_by_hand();
    script.send(PUSH_1).await;
    script.send(PUSH_2).await;
    let first = within("a push", pushes.next()).await.unwrap();
    let second = within("a push", pushes.next()).await.unwrap();
    alice.acknowledge(&second);
    alice.acknowledge(&second);
    alice.acknowledge(&first);
    script.expect(ACK_2).await;
    script.expect(ACK_1).await;
}

#[tokio::test] // protocol.md 2.6: what other servers send
async fn lenient_packets_of_a_server_are_understood() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut script = server.session(60).await;
    let mut pushes = alice.pushes();
    script.send(r#"{"nonsense":{}}"#).await;
    script.send("not even JSON").await;
    script.send(r#"{"push":{"cn":"a","dt":1,"q":true,"id":7,"x":[]}}"#).await;
    let push = within("a push", pushes.next()).await.unwrap();
    assert_eq!((push.data(), push.publisher(), push.id()), ("1", "", Some("7")));
    for (status, shown) in [(3, "3 MALFORMED_PACKET"), (-1, "-1 UNKNOWN"), (77, "77")] {
        let publishing = tokio::spawn({
            let alice = alice.clone();
            async move { alice.publish(&message("a", 1).at_least_once()).await }
        });
        let publish = script.receive().await.unwrap();
        let id = publish.split(r#""id":"#).nth(1).unwrap().trim_end_matches('}').to_owned();
        script.send(&format!(r#"{{"pubAck":{{"st":{status},"id":{id}}}}}"#)).await;
        let error = publishing.await.unwrap().unwrap_err();
        assert_eq!(error.to_string(), format!("the server answered {shown} to the publish"));
    }
}

#[tokio::test] // protocol.md 2.5
async fn a_client_disconnects_from_a_server_that_sends_only_garbage() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut events = alice.events();
    let mut script = server.session(60).await;
    for _ in 0..16 {
        script.send("nonsense").await;
    }
    assert!(disconnected(&mut events).await.contains("16 bad packets in a row"));
}

#[tokio::test] // the socket is always read
async fn an_unread_stream_drops_the_oldest_qos_0_and_keeps_qos_1() {
    let server = TestServer::start().await;
    let mut config = config(&url(&server, jmqt_server::Protocol::Socket), "alice");
    config.stream_bytes = 64 << 10;
    let alice = Client::connect(config).await.unwrap();
    let bob = connect(&server, "bob").await;
    let mut news = alice.subscribe(&channel("news"), Persistence::Temporary).await.unwrap();
    let mut other = alice.subscribe(&channel("other"), Persistence::Temporary).await.unwrap();
    for number in 0..50 {
        bob.publish(&message("news", number).at_least_once()).await.unwrap();
    }
    for number in 0..2000 {
        bob.publish(&message("news", number)).await.unwrap();
    }
    bob.publish(&message("other", 1)).await.unwrap();
    assert_eq!(next_data(&mut other).await, "1"); // everything before it has come
    let (mut qos0, mut qos1) = (Vec::new(), Vec::new());
    while qos1.len() < 50 || qos0.last() != Some(&1999) {
        let push = next(&mut news).await;
        let list = if push.id().is_some() { &mut qos1 } else { &mut qos0 };
        list.push(push.json::<u32>().unwrap());
    }
    assert_eq!(qos1, (0..50).collect::<Vec<_>>());
    assert_eq!(qos0.len() as u64 + news.dropped(), 2000);
    assert!(news.dropped() > 0);
    assert!(qos0.windows(2).all(|pair| pair[1] == pair[0] + 1), "the oldest went");
}

#[tokio::test] // a server that ignores `wn`: what there is no room for stays with it, and is fetched
async fn qos_1_beyond_the_limit_is_fetched_when_the_stream_is_read() {
    let server = ScriptedServer::start().await;
    let mut config = config(&server.url("jmqt"), "alice");
    config.stream_bytes = 1024;
    let alice = Client::start(config).unwrap();
    let mut pushes = alice.pushes();
    let mut script = server.session(60).await;
    let push =
        |number: u32| format!(r#"{{"push":{{"cn":"a","dt":{number},"cl":"","q":1,"id":"{number}"}}}}"#);
    let all: String = (0..100).map(|number| push(number) + "\0").collect();
    script.send_raw(all.as_bytes()).await;
    script.send(r#"{"pubAck":{"st":1,"id":"x"}}"#).await;
    let reading = tokio::spawn(async move {
        for number in 0..100_u32 {
            let push = within("a push", pushes.next()).await.unwrap();
            assert_eq!(push.json::<u32>().unwrap(), number);
        }
        pushes
    });
    let mut acknowledged = std::collections::BTreeSet::new();
    while acknowledged.len() < 99 {
        match script.receive().await {
            Some(packet) if packet.contains("pushAck") => {
                let id = packet.split('"').nth(5).unwrap();
                acknowledged.insert(id.parse::<u32>().unwrap());
            }
            Some(_) => {}
            None => {
                script = server.session(60).await;
                for number in (0..100).filter(|number| !acknowledged.contains(number)) {
                    script.send(&push(number)).await;
                }
            }
        }
    }
    drop(reading.await.unwrap());
}

#[tokio::test]
async fn unread_messages_of_a_detached_stream_go_to_the_others() {
    let server = TestServer::start().await;
    let (alice, bob) = (connect(&server, "alice").await, connect(&server, "bob").await);
    let mut news = alice.subscribe(&channel("news"), Persistence::Temporary).await.unwrap();
    for number in 0..3 {
        bob.publish(&message("news", number).at_least_once()).await.unwrap();
    }
    assert_eq!(next_data(&mut news).await, "0");
    assert_eq!(next_data(&mut news).await, "1");
    news.detach();
    let mut pushes = alice.pushes();
    assert_eq!(within("a push", pushes.next()).await.unwrap().data(), "2");
}

/// A client with a session, and a temporary subscription to `news`.
async fn subscribed(server: &ScriptedServer, timeout_seconds: u32) -> (Client, Script, Subscription) {
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut script = server.session(timeout_seconds).await;
    let subscribing = tokio::spawn({
        let alice = alice.clone();
        async move { alice.subscribe("news", Persistence::Temporary).await.unwrap() }
    });
    script.expect(r#"{"sub":{"cn":"news"}}"#).await;
    script.send(SUB_ACK).await;
    (alice, script, subscribing.await.unwrap())
}

#[tokio::test] // §7.i
async fn a_dropped_stream_unsubscribes_and_late_messages_are_discarded() {
    let server = ScriptedServer::start().await;
    let (alice, mut script, news) = subscribed(&server, 60).await;
    drop(news);
    script.expect(r#"{"unsub":{"cn":"news"}}"#).await;
    script.send(PUSH_1).await; // it crossed the unsub
    script.send(r#"{"push":{"cn":"other","dt":7,"cl":""}}"#).await;
    assert_eq!(within("a push", alice.pushes().next()).await.unwrap().data(), "7");
    script.send(r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
    let flushing = tokio::spawn({
        let alice = alice.clone();
        async move { alice.flush().await }
    });
    script.expect(r#"{"hb":{}}"#).await;
    script.send(r#"{"hbAck":{}}"#).await;
    flushing.await.unwrap().unwrap();
    // It is not made again on the next connection, and nothing was acknowledged.
    drop(script);
    let mut script = server.session(60).await;
    alice.publish(&message("a", 1)).await.unwrap();
    script.expect(r#"{"pub":{"cn":"a","dt":1}}"#).await;
}

#[tokio::test] // §9.c: it is there to outlive even the process
async fn a_dropped_stream_leaves_a_persistent_subscription() {
    let server = TestServer::start().await;
    let (alice, bob) = (connect(&server, "alice").await, connect(&server, "bob").await);
    drop(alice.subscribe("news", Persistence::Persistent).await.unwrap());
    alice.flush().await.unwrap();
    bob.publish(&message("news", 1).at_least_once()).await.unwrap();
    assert_eq!(within("a push", alice.pushes().next()).await.unwrap().data(), "1");
}

#[tokio::test] // a call that is given up leaves nothing behind
async fn a_subscribe_that_is_given_up_unsubscribes() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut script = server.session(60).await;
    alice.connected().await.unwrap();
    let subscribing = tokio::spawn({
        let alice = alice.clone();
        async move { alice.subscribe("news", Persistence::Temporary).await }
    });
    script.expect(r#"{"sub":{"cn":"news"}}"#).await;
    subscribing.abort();
    script.expect(r#"{"unsub":{"cn":"news"}}"#).await;
}

#[tokio::test] // protocol.md 2.14
async fn a_channel_that_is_not_read_is_named() {
    let server = ScriptedServer::start().await;
    let (alice, mut script, mut news) = subscribed(&server, 2).await;
    let mut events = alice.events();
    for number in 0..40 {
        script.send(&format!(r#"{{"push":{{"cn":"news","dt":1,"cl":"","q":1,"id":"e-{number}"}}}}"#)).await;
    }
    let beating = tokio::spawn(async move {
        while let Some(packet) = script.receive().await {
            if packet == r#"{"hb":{}}"# {
                script.send(r#"{"hbAck":{}}"#).await;
            }
        }
    });
    match event(&mut events, |event| matches!(event, Event::ChannelStalled { .. })).await {
        Event::ChannelStalled { channel, unacknowledged } => {
            assert_eq!((channel.as_str(), unacknowledged), ("news", 40));
        }
        other => panic!("{other:?}"),
    }
    next(&mut news).await;
    beating.abort();
}

#[tokio::test] // §9.c
async fn changing_the_persistence_is_an_error_and_unsubscribing_first_is_not() {
    let server = TestServer::start().await;
    let (alice, bob) = (connect(&server, "alice").await, connect(&server, "bob").await);
    let news = alice.subscribe("news", Persistence::Temporary).await.unwrap();
    let error = alice.subscribe("news", Persistence::Persistent).await.unwrap_err();
    assert!(matches!(error, Error::AlreadySubscribed { is: Persistence::Temporary }), "{error}");
    assert!(error.to_string().contains("temporary"), "{error}");
    // At once, without waiting for the unsub.
    let (unsub, again) = tokio::join!(alice.unsub("news"), alice.subscribe("news", Persistence::Persistent));
    unsub.unwrap();
    let again = again.unwrap();
    drop(news);
    let subscriptions = server.handle().subscriptions(&client_id("alice")).await.unwrap();
    assert!(subscriptions.contains(&(channel("news"), Persistence::Persistent)), "{subscriptions:?}");
    bob.publish(&message("news", 1).at_least_once()).await.unwrap();
    let mut again = again;
    assert_eq!(next_data(&mut again).await, "1");
}

#[tokio::test]
async fn a_callback_that_panics_is_logged_and_called_again() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut events = alice.events();
    let mut script = server.session(60).await;
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    alice.on_push(move |push| {
        assert!(push.data() != "1", "a fault of the application");
        called.send(push.data().to_owned()).unwrap();
    });
    script.send(PUSH_1).await;
    script.send(PUSH_2).await;
    assert_eq!(within("a call", calls.recv()).await.unwrap(), "2");
    event(&mut events, |event| matches!(event, Event::CallbackPanicked { callback: "on_push" })).await;
    script.expect(ACK_2).await; // and not 1
}

fn push_1(channel: &str, number: usize) -> String {
    format!(r#"{{"push":{{"cn":"{channel}","dt":{number},"cl":"bob","q":1,"id":"{channel}-{number}"}}}}"#)
}

/// A client that has been sent pushes before it subscribed to anything.
async fn awaited_by(server: &ScriptedServer, pushes: &[String]) -> (Client, Script) {
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut script = server.session_with(60, pushes).await;
    alice.connected().await.unwrap();
    let flushing = tokio::spawn({
        let alice = alice.clone();
        async move { alice.flush().await }
    });
    script.expect(r#"{"hb":{}}"#).await;
    script.send(r#"{"hbAck":{}}"#).await;
    flushing.await.unwrap().unwrap();
    (alice, script)
}

/// The answer to a `sub` is this status.
async fn subscribe(
    alice: &Client,
    script: &mut Script,
    name: &'static str,
    status: u32,
) -> Result<Subscription, Error> {
    let subscribing = tokio::spawn({
        let alice = alice.clone();
        async move { alice.subscribe(name, Persistence::Persistent).await }
    });
    script.expect(&format!(r#"{{"sub":{{"cn":"{name}","pr":1}}}}"#)).await;
    script.send(&format!(r#"{{"subAck":{{"st":{status},"cn":"{name}"}}}}"#)).await;
    subscribing.await.unwrap()
}

#[tokio::test] // §9.c: the server sends what waits after the connAck
async fn messages_from_before_the_subscribe_come_first_in_the_stream() {
    for count in [1, 3, 200] {
        let server = ScriptedServer::start().await;
        let pushes: Vec<_> = (0..count).map(|number| push_1("news", number)).collect();
        let (alice, mut script) = awaited_by(&server, &pushes).await;
        let mut news = subscribe(&alice, &mut script, "news", 1).await.unwrap();
        script.send(&push_1("news", count)).await;
        for number in 0..=count {
            assert_eq!(next_data(&mut news).await, number.to_string());
        }
        let more = tokio::spawn(async move { next_data(&mut news).await });
        for number in 0..=count {
            script.expect(&format!(r#"{{"pushAck":{{"id":"news-{number}"}}}}"#)).await;
        }
        // Nothing was acknowledged twice, and nothing was handed out twice.
        script.send(r#"{"push":{"cn":"news","dt":"last","cl":"bob"}}"#).await;
        assert_eq!(more.await.unwrap(), "\"last\"");
        alice.publish(&message("a", 1)).await.unwrap();
        script.expect(r#"{"pub":{"cn":"a","dt":1}}"#).await;
    }
}

#[tokio::test]
async fn each_stream_gets_earlier_messages_of_its_own_channel() {
    let server = ScriptedServer::start().await;
    let mut pushes: Vec<_> =
        (0..6).map(|number| push_1(["news", "other", "third"][number % 3], number)).collect();
    pushes.insert(2, r#"{"push":{"cn":"news","dt":"qos 0","cl":"bob"}}"#.to_owned());
    let (alice, mut script) = awaited_by(&server, &pushes).await;
    let mut news = subscribe(&alice, &mut script, "news", 1).await.unwrap();
    let mut other = subscribe(&alice, &mut script, "other", 1).await.unwrap();
    for data in ["0", "\"qos 0\"", "3"] {
        assert_eq!(next_data(&mut news).await, data);
    }
    for data in ["1", "4"] {
        assert_eq!(next_data(&mut other).await, data);
    }
    let mut pushes = alice.pushes();
    for data in ["2", "5"] {
        assert_eq!(within("a push", pushes.next()).await.unwrap().data(), data);
    }
}

#[tokio::test]
async fn messages_delivered_to_the_common_stream_stay_and_the_rest_goes_to_the_new_stream() {
    let server = ScriptedServer::start().await;
    let pushes: Vec<_> = (0..3).map(|number| push_1("news", number)).collect();
    let (alice, mut script) = awaited_by(&server, &pushes).await;
    let mut all = alice.pushes();
    assert_eq!(within("a push", all.next()).await.unwrap().data(), "0");
    let mut news = subscribe(&alice, &mut script, "news", 1).await.unwrap();
    assert_eq!(next_data(&mut news).await, "1");
    script.send(r##"{"push":{"cn":"#alice","dt":"to all","cl":"bob"}}"##).await;
    assert_eq!(within("a push", all.next()).await.unwrap().data(), "\"to all\"");
    script.expect(r#"{"pushAck":{"id":"news-0"}}"#).await;
    assert_eq!(next_data(&mut news).await, "2");
    script.expect(r#"{"pushAck":{"id":"news-1"}}"#).await;
}

#[tokio::test]
async fn after_a_refused_subscribe_earlier_messages_return_to_the_common_stream() {
    let server = ScriptedServer::start().await;
    let (alice, mut script) = awaited_by(&server, &[push_1("news", 0), push_1("news", 1)]).await;
    let refused = subscribe(&alice, &mut script, "news", 7).await.unwrap_err();
    assert!(matches!(refused, Error::Refused { .. }), "{refused}");
    let mut all = alice.pushes();
    for data in ["0", "1"] {
        assert_eq!(within("a push", all.next()).await.unwrap().data(), data);
    }
}

#[tokio::test] // a server that ignores `wn`
async fn messages_refused_without_room_before_the_subscribe_are_fetched_for_the_stream() {
    let server = ScriptedServer::start().await;
    let mut config = config(&server.url("jmqt"), "alice");
    config.stream_bytes = 1024;
    let alice = Client::start(config).unwrap();
    let mut pushes: Vec<_> = (0..50).map(|number| push_1("other", number)).collect();
    pushes.push(push_1("news", 0));
    let mut script = server.session_with(60, &pushes).await;
    alice.connected().await.unwrap();
    let subscribing = tokio::spawn({
        let alice = alice.clone();
        async move { alice.subscribe("news", Persistence::Persistent).await.unwrap() }
    });
    drop(script.receive_to_end().await); // the client comes for what it left
    let mut script = server.session_with(60, &pushes).await;
    script.expect(SUB).await;
    script.send(SUB_ACK).await;
    assert_eq!(next_data(&mut subscribing.await.unwrap()).await, "0");
}

#[tokio::test] // §9.c
async fn a_returning_client_receives_the_messages_that_waited() {
    let server = TestServer::start().await;
    let bob = connect(&server, "bob").await;
    for round in 0..5_u32 {
        let alice = connect(&server, "alice").await;
        alice.flush().await.unwrap(); // what waits comes meanwhile
        let mut news = alice.subscribe("news", Persistence::Persistent).await.unwrap();
        for number in (0..round).rev() {
            let push = next(&mut news).await;
            assert_eq!(push.data(), number.to_string());
            alice.acknowledge(&push);
        }
        alice.close().await;
        drop(news);
        for number in (0..=round).rev() {
            bob.publish(&message("news", number).at_least_once()).await.unwrap();
        }
    }
}
