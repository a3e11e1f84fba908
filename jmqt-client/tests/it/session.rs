//! From the URL to a session and its end (§7.a to §7.f, §9.f).

use std::time::Duration;

use crate::support::*;
use jmqt_client::{
    AuthToken, Client, ConnectError, Error, Event, Persistence, Publish, Reconnect, StatusCode, Step,
};
use jmqt_server::{CloseReason, Protocol};
use tokio::sync::mpsc;

#[tokio::test] // §3
async fn a_message_travels_on_every_transport() {
    let server = TestServer::start().await;
    for protocol in [Protocol::Socket, Protocol::WebSocket] {
        let config = config(&url(&server, protocol), "alice");
        let alice = within("a session", Client::connect(config)).await.unwrap();
        let bob = connect(&server, "bob").await;
        let mut news = alice.subscribe(&channel("news"), Persistence::Temporary).await.unwrap();
        for data in ["1.50", r#"{"b":1e400,"a":"\u00e9"}"#] {
            bob.publish(&Publish::raw(channel("news"), data).unwrap()).await.unwrap();
            let push = next(&mut news).await;
            assert_eq!((push.data(), push.publisher(), push.id()), (data, "bob", None));
            bob.publish(&Publish::raw(channel("news"), data).unwrap().at_least_once()).await.unwrap();
            let push = next(&mut news).await;
            assert_eq!((push.data(), push.publisher(), push.id().is_some()), (data, "bob", true));
        }
        alice.close().await;
        bob.close().await;
    }
}

#[tokio::test] // §9.f
async fn close_sends_what_is_queued_then_disconn() {
    let server = TestServer::start().await;
    let mut config = config(&url(&server, Protocol::Socket), "alice");
    config.close_timeout = Duration::from_secs(30); // half of it is for the acknowledgements
    let alice = within("a session", Client::connect(config)).await.unwrap();
    let bob = connect(&server, "bob").await;
    let mut news = bob.subscribe(&channel("news"), Persistence::Temporary).await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..1000 {
        alice.publish(&Publish::json(channel("news"), &number).unwrap()).await.unwrap();
        let message = Publish::json(channel("news"), &number).unwrap().at_least_once();
        receipts.push(alice.queue(&message).await.unwrap());
    }
    alice.close().await;
    for receipt in receipts {
        receipt.await.unwrap();
    }
    assert_eq!(server.app.notice().await, Notice::Disconnect("alice".to_owned()));
    server.app.expect_close("alice", CloseReason::Disconnected).await;
    let mut seen = [0, 0];
    while seen != [1000, 1000] {
        let push = next(&mut news).await;
        let count = &mut seen[usize::from(push.id().is_some())];
        assert_eq!(push.json::<i32>().unwrap(), *count);
        *count += 1;
    }
    assert!(matches!(alice.publish(&Publish::raw(channel("a"), "1").unwrap()).await, Err(Error::Closed)));
}

#[tokio::test] // §9.f: it leaves in one piece with what was queued last
async fn close_right_after_a_qos_0_publish_sends_it() {
    let server = TestServer::start().await;
    let bob = connect(&server, "bob").await;
    let mut news = bob.subscribe(&channel("news"), Persistence::Temporary).await.unwrap();
    for number in 0..20 {
        let alice = connect(&server, "alice").await;
        alice.publish(&Publish::json(channel("news"), &number).unwrap()).await.unwrap();
        alice.close().await;
        assert_eq!(next(&mut news).await.json::<i32>().unwrap(), number);
    }
}

#[tokio::test] // §9.f
async fn dropping_the_last_handle_leaves_in_order() {
    let server = TestServer::start().await;
    let alice = connect(&server, "alice").await;
    let other = alice.clone();
    drop(alice);
    assert!(other.is_connected());
    drop(other);
    assert_eq!(server.app.notice().await, Notice::Disconnect("alice".to_owned()));
}

#[tokio::test] // §7.b
async fn a_refused_auth_reports_status_and_reason() {
    let server = TestServer::start().await;
    server.app.set(Asked::Auth, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let refused = Client::connect(config(&url(&server, Protocol::Socket), "alice")).await.unwrap_err();
    assert_eq!(refused.to_string(), "auth: the server answered 7 NOT_ALLOWED: refused");
}

#[tokio::test] // §7.d
async fn a_refused_conn_reports_the_status() {
    let server = TestServer::start().await;
    server.app.set(Asked::Conn, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let refused = Client::connect(config(&url(&server, Protocol::Socket), "alice")).await.unwrap_err();
    assert!(matches!(
        refused,
        ConnectError::Refused { step: Step::Conn, status: StatusCode::NOT_ALLOWED, .. }
    ));
}

#[tokio::test] // §10
async fn a_stale_token_is_replaced_by_a_new_one() {
    let server = TestServer::start().await;
    let config =
        config(&url(&server, Protocol::Socket), "alice").token(client_id("alice"), AuthToken::new("stale"));
    let alice = Client::connect(config).await.unwrap();
    assert_eq!(alice.token().unwrap().1.reveal(), "token-alice");
}

#[tokio::test] // §10
async fn a_stale_token_without_auth_data_is_the_end() {
    let server = TestServer::start().await;
    let config = jmqt_client::Config::url(&url(&server, Protocol::Socket)).unwrap();
    let config = config.token(client_id("alice"), AuthToken::new("stale"));
    let refused = Client::connect(config.clone()).await.unwrap_err();
    assert_eq!(refused.to_string(), "conn: the server answered 6 INVALID_TOKEN");
    assert!(refused.is_final());
    let mut events = Client::start(config).unwrap().events();
    event(&mut events, |event| matches!(event, Event::Closed)).await;
}

#[tokio::test] // §10
async fn a_known_token_needs_no_auth() {
    let server = TestServer::start().await;
    let config = jmqt_client::Config::url(&url(&server, Protocol::Socket)).unwrap();
    let config = config.token(client_id("alice"), AuthToken::new("token-alice"));
    let alice = Client::connect(config).await.unwrap();
    assert_eq!(alice.connected().await.unwrap().as_str(), "alice");
    assert_eq!(server.app.times_asked(Asked::Auth).await, 0);
}

#[tokio::test] // §7.a, §10
async fn a_token_may_be_requested_without_a_session() {
    let server = TestServer::start().await;
    let config = config(&url(&server, Protocol::WebSocket), "alice");
    let (client, token) = Client::authenticate(&config).await.unwrap();
    assert_eq!((client.as_str(), token.reveal()), ("alice", "token-alice"));
    assert!(!server.handle().is_connected(&client));
    server.app.set(Asked::Auth, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    let refused = Client::authenticate(&config).await.unwrap_err();
    assert!(matches!(refused, ConnectError::Refused { step: Step::Auth, .. }), "{refused}");
}

#[tokio::test]
async fn a_url_alone_is_a_configuration() {
    let server = ScriptedServer::start().await;
    let url = server.url("jmqt");
    let connecting = tokio::spawn(async move { Client::connect(url.as_str()).await });
    let mut script = server.accept().await;
    script.expect(r#"{"auth":{"dt":{}}}"#).await;
    script.send(r#"{"authAck":{"st":1,"at":"t","cl":"alice"}}"#).await;
    let conn = script.receive().await.unwrap();
    assert!(conn.starts_with(r#"{"conn":{"at":"t","cl":"alice","wn":128,"pi":""#), "{conn}");
    script.send(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    within("a session", connecting).await.unwrap().unwrap();
    let refused = Client::connect("http://localhost").await.unwrap_err();
    assert!(matches!(refused, ConnectError::Url(_)) && refused.to_string().contains("jmqt://"), "{refused}");
}

#[tokio::test] // protocol.md 2.9
async fn the_window_is_announced() {
    let server = ScriptedServer::start().await;
    let mut config = config(&server.url("jmqt"), "alice");
    config.window = 7;
    let _alice = Client::start(config).unwrap();
    let mut script = server.accept().await;
    script.expect(r#"{"auth":{"dt":{"client_name":"alice"}}}"#).await;
    script.send(r#"{"authAck":{"st":1,"at":"t\"1","cl":"alice"}}"#).await;
    let conn = script.receive().await.unwrap();
    assert!(conn.starts_with(r#"{"conn":{"at":"t\"1","cl":"alice","wn":7,"pi":""#), "{conn}");
}

#[tokio::test] // the original client's style
async fn callbacks_receive_pushes_and_the_end() {
    let server = TestServer::start().await;
    let (alice, bob) = (connect(&server, "alice").await, connect(&server, "bob").await);
    let (pushed, mut pushes) = mpsc::unbounded_channel();
    let (ended, mut ends) = mpsc::unbounded_channel();
    alice.on_push(move |push| pushed.send(push.data().to_owned()).unwrap());
    alice.on_disconnect(move |reason| ended.send(reason.to_string()).unwrap());
    alice.sub(&channel("news"), Persistence::Temporary).await.unwrap();
    let message = Publish::raw(channel("news"), "7").unwrap().at_least_once();
    bob.publish(&message).await.unwrap();
    bob.publish(&Publish::to_client(&client_id("alice"), &8).unwrap().at_least_once()).await.unwrap();
    assert_eq!(within("a call", pushes.recv()).await.unwrap(), "7");
    assert_eq!(within("a call", pushes.recv()).await.unwrap(), "8");
    alice.close().await;
    assert_eq!(within("a call", ends.recv()).await.unwrap(), "closed by this client");
}

#[tokio::test]
async fn without_reconnect_the_client_ends_with_the_session_and_says_why() {
    let server = TestServer::start().await;
    let mut config = config(&url(&server, Protocol::Socket), "alice");
    config.reconnect = Reconnect::Off;
    let alice = Client::connect(config).await.unwrap();
    let mut events = alice.events();
    assert!(server.handle().disconnect(&client_id("alice")));
    assert!(disconnected(&mut events).await.contains("closed"));
    event(&mut events, |event| matches!(event, Event::Closed)).await;
    let message = Publish::raw(channel("news"), "7").unwrap();
    assert!(matches!(alice.publish(&message).await, Err(Error::Disconnected(_))));
    let refused = alice.sub(&channel("news"), Persistence::Temporary).await;
    assert!(matches!(refused, Err(Error::Disconnected(_))));
    let why = alice.ended().unwrap().to_string();
    assert!(why.contains("the server closed the connection with 4008 "), "{why}");
    // Closing it does not make that forgotten.
    alice.close().await;
    assert_eq!(alice.ended().unwrap().to_string(), why);
    let closed = connect(&server, "bob").await;
    closed.close().await;
    assert!(matches!(closed.ended(), Some(Error::Closed)));
}

#[tokio::test] // §7.e
async fn heartbeats_keep_an_idle_session() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut script = server.session(3).await;
    for _ in 0..4 {
        script.expect(r#"{"hb":{}}"#).await;
        script.send(r#"{"hbAck":{}}"#).await;
    }
    assert!(alice.is_connected());
}

#[tokio::test]
async fn a_dead_server_is_noticed_within_its_timeout() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut events = alice.events();
    let _script = server.session(3).await;
    // A look at the clock that comes late is forgiven, so a longer silence is never said.
    let reason = disconnected(&mut events).await;
    assert!(reason.starts_with("no data from the server for 3."), "{reason}");
    server.session(3).await;
}
