//! Subscriptions to filters (protocol.md 2.25), and data as bytes (protocol.md 2.26).

use crate::support::*;
use jmqt_client::{Client, Error, Event, FilterSubscription, Persistence, Publish, Push, StatusCode};

fn message(name: &str, data: impl serde::Serialize) -> Publish {
    Publish::json(channel(name), &data).unwrap()
}

async fn next_of(stream: &mut FilterSubscription) -> Push {
    within("a push", stream.next()).await.expect("the stream has ended")
}

#[tokio::test] // protocol.md 2.25
async fn a_filter_has_the_pushes_of_all_its_channels_also_after_a_reconnect() {
    let server = TestServer::start().await;
    let (alice, bob) = (connect(&server, "alice").await, connect(&server, "bob").await);
    let mut rooms = within("a filter", alice.subscribe_filter("rooms/+/temperature", Persistence::Temporary))
        .await
        .unwrap();
    let mut everything =
        within("a filter", alice.subscribe_filter("#", Persistence::Temporary)).await.unwrap();
    let mut events = alice.events();
    for round in 0..2 {
        for (name, is_room) in [("rooms/1/temperature", true), ("rooms/1/light", false)] {
            bob.publish(&message(name, round).at_least_once()).await.unwrap();
            let push = next_of(&mut everything).await;
            assert_eq!((push.channel(), push.data()), (name, &*round.to_string()));
            if is_room {
                assert_eq!(next_of(&mut rooms).await.channel(), name);
            }
        }
        if round == 0 {
            assert!(server.handle().disconnect(&client_id("alice")));
            reconnected(&mut events).await;
        }
    }
    // The stream ends with its subscription, and the other one stays.
    within("the end", alice.unsub_filter("#")).await.unwrap();
    assert!(within("the end", everything.next()).await.is_none());
    bob.publish(&message("rooms/2/temperature", 7)).await.unwrap();
    assert_eq!(next_of(&mut rooms).await.channel(), "rooms/2/temperature");
}

#[tokio::test] // protocol.md 2.25, §9.c
async fn a_persistent_filter_has_what_was_published_while_the_client_was_away() {
    let server = TestServer::start().await;
    let (alice, bob) = (connect(&server, "alice").await, connect(&server, "bob").await);
    within("a filter", alice.sub_filter("rooms/#", Persistence::Persistent)).await.unwrap();
    within("the end", alice.close()).await;
    bob.publish(&message("rooms/1", 1).at_least_once()).await.unwrap();
    let alice = connect(&server, "alice").await;
    let mut rooms =
        within("a filter", alice.subscribe_filter("rooms/#", Persistence::Persistent)).await.unwrap();
    bob.publish(&message("rooms/2", 2).at_least_once()).await.unwrap();
    for expected in ["1", "2"] {
        assert_eq!(next_of(&mut rooms).await.data(), expected);
    }
    within("the end", alice.unsub_filter("rooms/#")).await.unwrap();
    assert!(within("the end", rooms.next()).await.is_none());
}

const PUSH: &str = r#"{"push":{"cn":"a/b","dt":1,"cl":"bob","q":1,"id":"e-1"}}"#;

#[tokio::test] // protocol.md 2.25, §7.n
async fn a_push_of_several_streams_is_acknowledged_when_each_has_taken_it() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut script = server.session(60).await;
    let subscribing = tokio::spawn({
        let alice = alice.clone();
        async move {
            let filter = alice.subscribe_filter("a/+", Persistence::Temporary).await.unwrap();
            (filter, alice.subscribe("a/b", Persistence::Temporary).await.unwrap())
        }
    });
    script.expect(r#"{"sub":{"cn":"a/+","wc":1}}"#).await;
    script.send(r#"{"subAck":{"st":1,"cn":"a/+","wc":1}}"#).await;
    script.expect(r#"{"sub":{"cn":"a/b"}}"#).await;
    script.send(r#"{"subAck":{"st":1,"cn":"a/b"}}"#).await;
    let (mut filter, mut exact) = subscribing.await.unwrap();
    script.send(PUSH).await;
    script.send(r#"{"push":{"cn":"a/b","dt":2,"cl":"bob"}}"#).await;
    for expected in ["1", "2"] {
        assert_eq!(next_of(&mut filter).await.data(), expected);
    }
    // The one stream has taken both. Nothing is acknowledged until the other has taken the first one.
    alice.publish(&message("x", 0)).await.unwrap();
    script.expect(r#"{"pub":{"cn":"x","dt":0}}"#).await;
    assert_eq!(next_data(&mut exact).await, "1");
    drop(exact);
    script.expect(r#"{"unsub":{"cn":"a/b"}}"#).await;
    script.expect(r#"{"pushAck":{"id":"e-1"}}"#).await;
}

#[tokio::test] // protocol.md 2.25
async fn a_server_without_filters_is_reported() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut script = server.session(60).await;
    let subscribing = tokio::spawn({
        let alice = alice.clone();
        async move { alice.subscribe_filter("a/+", Persistence::Temporary).await.map(drop) }
    });
    script.expect(r#"{"sub":{"cn":"a/+","wc":1}}"#).await;
    script.send(r#"{"subAck":{"st":1,"cn":"a/+"}}"#).await;
    script.expect(r#"{"unsub":{"cn":"a/+"}}"#).await;
    let error = subscribing.await.unwrap().unwrap_err();
    assert!(matches!(error, Error::FiltersNotSupported), "{error}");
}

#[tokio::test] // protocol.md 2.25
async fn a_filter_that_is_refused_is_an_error_and_later_an_event() {
    let server = TestServer::start().await;
    let alice = connect(&server, "alice").await;
    let mut filter = within("a filter", alice.subscribe_filter("a/#", Persistence::Temporary)).await.unwrap();
    server.app.set(Asked::Sub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let error = within("an answer", alice.subscribe_filter("b/#", Persistence::Temporary)).await.unwrap_err();
    assert_eq!(error.status(), StatusCode::NOT_ALLOWED);
    let mut events = alice.events();
    assert!(server.handle().disconnect(&client_id("alice")));
    let lost = event(&mut events, |event| matches!(event, Event::FilterLost { .. })).await;
    let Event::FilterLost { filter: lost, error } = lost else { panic!("{lost:?}") };
    assert_eq!((lost.as_str(), error.status()), ("a/#", StatusCode::NOT_ALLOWED));
    assert!(within("the end", filter.next()).await.is_none());
    let invalid = alice.subscribe_filter("a#", Persistence::Temporary).await.unwrap_err();
    assert_eq!(invalid.status(), StatusCode::INVALID_CHANNEL);
}

#[tokio::test] // protocol.md 2.26
async fn bytes_reach_other_clients_unchanged() {
    let server = TestServer::start().await;
    let (alice, bob) = (connect(&server, "alice").await, connect(&server, "bob").await);
    let mut stream = alice.subscribe("bytes", Persistence::Temporary).await.unwrap();
    for bytes in [&b"\xff\x00"[..], b"ON", b"\"ON\"", b"21.5", b"{\"$b64\":\"/w==\"}", b""] {
        bob.publish(&Publish::bytes("bytes", bytes).unwrap()).await.unwrap();
        assert_eq!(&*next(&mut stream).await.bytes(), bytes);
    }
}

#[tokio::test]
#[cfg(feature = "cli")]
async fn the_command_line_subscribes_to_filters() {
    use crate::support::command::{ended, jmqt, run, said};
    use std::process::Stdio;

    let server = TestServer::start().await;
    let bob = connect(&server, "bob").await;
    bob.publish(&message("rooms/1/temperature", 21.5).at_least_once().retained()).await.unwrap();
    let mut sub = jmqt(&server, &["sub", "-f", "rooms/+/temperature", "-n", "1", "-H"]);
    let printed = said(&ended(sub.stdout(Stdio::piped()).spawn().unwrap()).await).1;
    assert_eq!(printed, "rooms/1/temperature from \"bob\" (QOS 0, RETAIN 1): 21.5\n");
    let (code, _, error) = said(&run(&server, &["sub", "--filter", "a#"]).await);
    assert_eq!(code, Some(2), "{error}");
    server.app.set(Asked::Sub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let (code, _, error) = said(&run(&server, &["sub", "--filter", "a/#"]).await);
    assert_eq!(code, Some(4), "{error}");
}
