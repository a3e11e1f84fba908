//! Disconnect reasons, and what the client does after each (protocol.md 2.22).

use std::time::{Duration, Instant};

use crate::support::*;
use jmqt_client::{
    Client, ConnectError, Credentials, DisconnectCode, Error, Event, Events, Persistence, Publish, Secret,
    ServerClose,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn server_said(events: &mut Events) -> ServerClose {
    match event(events, |event| matches!(event, Event::Disconnected { .. })).await {
        Event::Disconnected { reason } => reason.server_close().expect("a reason").clone(),
        other => panic!("{other:?}"),
    }
}

const TAKEOVER: &str = r#"{"disconn":{"st":4500,"mg":"a newer connection of this client"}}"#;

#[tokio::test] // protocol.md 2.22
async fn a_code_from_4500_stops_the_client_until_reconnect_is_called() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut events = alice.events();
    let mut script = server.session(60).await;
    let subscribing = tokio::spawn({
        let alice = alice.clone();
        async move { alice.sub("news", Persistence::Temporary).await }
    });
    script.expect(r#"{"sub":{"cn":"news"}}"#).await;
    script.send(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    subscribing.await.unwrap().unwrap();
    let message = Publish::raw("news", "1").unwrap().at_least_once();
    let receipt = alice.queue(&message).await.unwrap();
    let asking = tokio::spawn({
        let alice = alice.clone();
        async move { alice.request("$slow", None).await }
    });
    script.expect(r#"{"pub":{"cn":"news","dt":1,"q":1,"id":"1"}}"#).await;
    script.expect(r#"{"pub":{"cn":"$slow","id":"2"}}"#).await;
    script.send(TAKEOVER).await;
    let close = server_said(&mut events).await;
    assert_eq!(
        (close.code, close.message.as_str()),
        (DisconnectCode::TAKEOVER, "a newer connection of this client")
    );
    event(&mut events, |event| matches!(event, Event::Stopped { .. })).await;

    // Waiting calls fail with the reason, and so do later calls.
    let error = within("an error", receipt).await.unwrap_err();
    assert!(
        matches!(error, Error::Disconnected(_)) && error.to_string().contains("4500 TAKEOVER"),
        "{error}"
    );
    assert!(within("an error", asking).await.unwrap().is_err());
    assert!(matches!(alice.publish(&message).await, Err(Error::Disconnected(_))));
    assert!(matches!(alice.connected().await, Err(Error::Disconnected(_))));
    assert!(matches!(alice.sub("other", Persistence::Temporary).await, Err(Error::Disconnected(_))));
    assert!(!alice.is_connected());
    // It does not come back by itself, however often its pauses would have been over.
    assert!(tokio::time::timeout(Duration::from_millis(300), server.accept()).await.is_err());

    alice.reconnect();
    let mut script = server.session(60).await;
    script.expect(r#"{"sub":{"cn":"news"}}"#).await; // subscriptions are made again
    script.send(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    reconnected(&mut events).await;
    let receipt = alice.queue(&message).await.unwrap();
    script.expect(r#"{"pub":{"cn":"news","dt":1,"q":1,"id":"3"}}"#).await;
    script.send(r#"{"pubAck":{"st":1,"id":"3"}}"#).await;
    receipt.await.unwrap();
}

#[tokio::test] // protocol.md 2.22
async fn a_takeover_ends_the_streams_with_a_reason_and_a_reconnect_continues_them() {
    const PUSH: &str = r#"{"push":{"cn":"news","dt":1,"cl":"bob"}}"#;
    const OTHER: &str = r#"{"push":{"cn":"other","dt":2,"cl":"bob"}}"#;
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut events = alice.events();
    let mut script = server.session(60).await;
    let subscribing = tokio::spawn({
        let alice = alice.clone();
        async move { alice.subscribe("news", Persistence::Temporary).await.unwrap() }
    });
    script.expect(r#"{"sub":{"cn":"news"}}"#).await;
    script.send(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    let mut news = subscribing.await.unwrap();
    let (called, mut calls) = tokio::sync::mpsc::unbounded_channel();
    alice.on_push(move |push| called.send(push.data().to_owned()).unwrap());
    assert!(alice.ended().is_none());

    script.send(PUSH).await;
    script.send(TAKEOVER).await;
    assert_eq!(next_data(&mut news).await, "1"); // what has come is read first
    assert!(within("the end", news.next()).await.is_none());
    assert!(within("the end", alice.pushes().next()).await.is_none());
    let why = alice.ended().unwrap();
    assert!(matches!(why, Error::Disconnected(_)) && why.to_string().contains("4500 TAKEOVER"), "{why}");
    event(&mut events, |event| matches!(event, Event::Stopped { .. })).await;

    alice.reconnect();
    let mut script = server.session(60).await;
    script.expect(r#"{"sub":{"cn":"news"}}"#).await;
    script.send(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    reconnected(&mut events).await;
    assert!(alice.ended().is_none());
    script.send(PUSH).await;
    script.send(OTHER).await;
    assert_eq!(next_data(&mut news).await, "1");
    assert_eq!(within("a call", calls.recv()).await.unwrap(), "2"); // callbacks do too
    alice.close().await;
    assert!(within("the end", news.next()).await.is_none());
    assert!(within("the end", calls.recv()).await.is_none());
    assert!(matches!(alice.ended(), Some(Error::Closed)));
}

#[tokio::test] // protocol.md 2.22: also one that this version does not know
async fn the_range_of_a_code_decides_whether_a_client_reconnects() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut events = alice.events();
    for code in [4000, 4005, 4499] {
        let mut script = server.session(60).await;
        script.send(&format!(r#"{{"disconn":{{"st":{code},"mg":"x"}}}}"#)).await;
        assert_eq!(server_said(&mut events).await.code.code(), code);
    }
    let mut script = server.session(60).await;
    script.send(r#"{"disconn":{"st":4999,"mg":"x"}}"#).await;
    event(&mut events, |event| matches!(event, Event::Stopped { .. })).await;
    alice.close().await;
}

#[tokio::test] // protocol.md 2.22
async fn the_server_sets_the_delay_before_a_reconnect() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut events = alice.events();
    let mut script = server.session(60).await;
    script.send(r#"{"disconn":{"st":4001,"mg":"drain","ts":2}}"#).await;
    let since = Instant::now();
    match event(&mut events, |event| matches!(event, Event::Reconnecting { .. })).await {
        Event::Reconnecting { delay, error, .. } => {
            assert!(delay >= Duration::from_secs(2) && delay < Duration::from_secs(3), "{delay:?}");
            assert!(error.is_none());
        }
        other => panic!("{other:?}"),
    }
    server.session(60).await;
    assert!(since.elapsed() >= Duration::from_secs(2), "{:?}", since.elapsed());
}

#[tokio::test] // protocol.md 2.22
async fn after_token_expired_the_client_authenticates_again() {
    let server = ScriptedServer::start().await;
    let _alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut script = server.session(60).await;
    drop(script);
    // The token it has is good for the next connection …
    script = server.accept().await;
    assert!(script.receive().await.unwrap().starts_with(r#"{"conn""#));
    script.send(r#"{"connAck":{"st":1,"ts":60}}"#).await;
    script.send(r#"{"disconn":{"st":4007,"mg":"expired"}}"#).await;
    // … and not after this.
    script = server.accept().await;
    script.expect(r#"{"auth":{"dt":{"client_name":"alice"}}}"#).await;
}

#[tokio::test] // the wrong case: no session yet
async fn a_reason_before_the_session_is_reported() {
    let server = ScriptedServer::start().await;
    let url = server.url("jmqt");
    let connecting = tokio::spawn(async move { Client::connect(url.as_str()).await.unwrap_err() });
    let mut script = server.accept().await;
    script.receive().await.unwrap();
    script.send(r#"{"disconn":{"st":4504,"mg":"too many refusals"}}"#).await;
    let error = connecting.await.unwrap();
    assert_eq!(
        error.to_string(),
        "auth: the server closed the connection with 4504 TOO_MANY_REFUSALS: too many refusals"
    );
}

#[tokio::test] // of two clients with one id the newer one stays
async fn two_clients_with_one_id_do_not_end_each_other_for_ever() {
    let server = TestServer::start().await;
    let first = connect(&server, "alice").await;
    let mut events = first.events();
    let second = connect(&server, "alice").await;
    let mut others = second.events();
    assert_eq!(server_said(&mut events).await.code, DisconnectCode::TAKEOVER);
    event(&mut events, |event| matches!(event, Event::Stopped { .. })).await;
    second.publish(&Publish::raw("news", "1").unwrap().at_least_once()).await.unwrap();
    assert!(second.is_connected() && !first.is_connected());
    first.reconnect();
    reconnected(&mut events).await;
    assert_eq!(server_said(&mut others).await.code, DisconnectCode::TAKEOVER);
}

/// Accepts a WebSocket and answers the `auth` and the `conn` on it.
async fn websocket_session(server: &ScriptedServer) -> tokio::net::TcpStream {
    let mut stream = server.accept().await.into_stream();
    let mut request = Vec::new();
    while !request.ends_with(b"\r\n\r\n") {
        request.push(within("the request", stream.read_u8()).await.unwrap());
    }
    let request = String::from_utf8(request).unwrap();
    let key = request.lines().find_map(|line| line.strip_prefix("Sec-WebSocket-Key: ")).unwrap();
    let accept = tungstenite::handshake::derive_accept_key(key.as_bytes());
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    stream.write_all(answer.as_bytes()).await.unwrap();
    for answer in [r#"{"authAck":{"st":1,"at":"t","cl":"alice"}}"#, r#"{"connAck":{"st":1,"ts":60}}"#] {
        frame(&mut stream).await;
        let mut bytes = vec![0x81, u8::try_from(answer.len()).unwrap()];
        bytes.extend_from_slice(answer.as_bytes());
        stream.write_all(&bytes).await.unwrap();
    }
    stream
}

/// The next frame of a client: its first byte and its length.
async fn frame(stream: &mut tokio::net::TcpStream) -> (u8, usize) {
    within("a frame", async {
        let first = stream.read_u8().await.unwrap();
        let mut length = usize::from(stream.read_u8().await.unwrap() & 0x7f);
        if length == 126 {
            length = usize::from(stream.read_u16().await.unwrap());
        }
        let mut rest = vec![0; length + 4];
        stream.read_exact(&mut rest).await.unwrap();
        (first, length)
    })
    .await
}

#[tokio::test] // protocol.md 2.22: the close code of a WebSocket says the same
async fn the_close_code_of_a_websocket_is_the_reason() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("ws"), "alice")).unwrap();
    let mut events = alice.events();
    let mut stream = websocket_session(&server).await;
    let mut close = vec![0x88, 8];
    close.extend_from_slice(&4503_u16.to_be_bytes());
    close.extend_from_slice(b"kicked");
    stream.write_all(&close).await.unwrap();
    let close = server_said(&mut events).await;
    assert_eq!((close.code, close.message.as_str()), (DisconnectCode::KICKED, "kicked"));
    event(&mut events, |event| matches!(event, Event::Stopped { .. })).await;
}

#[tokio::test] // RFC 6455 §7: the side that begins the close need not wait forever
async fn close_ends_promptly_on_a_websocket_that_does_not_answer_it() {
    let server = ScriptedServer::start().await;
    let mut config = config(&server.url("ws"), "alice");
    config.close_timeout = Duration::from_secs(600); // what it would take to wait for the server
    let alice = Client::start(config).unwrap();
    let mut stream = websocket_session(&server).await;
    alice.connected().await.unwrap();
    let closing = tokio::spawn({
        let alice = alice.clone();
        async move { alice.close().await }
    });
    assert_eq!(frame(&mut stream).await, (0x81, r#"{"disconn":{}}"#.len()));
    assert_eq!(frame(&mut stream).await, (0x88, 2));
    within("the end", closing).await.unwrap();
}

#[tokio::test] // status 5 is a node's, and another may be well
async fn a_conn_that_is_answered_5_is_tried_again() {
    let server = ScriptedServer::start().await;
    let config = config(&server.url("jmqt"), "alice");
    let connecting = tokio::spawn(async move { Client::connect(config).await });
    for _ in 0..2 {
        let mut script = server.accept().await;
        while let Some(packet) = script.receive().await {
            let is_auth = packet.starts_with(r#"{"auth""#);
            let granted = r#"{"authAck":{"st":1,"at":"t","cl":"alice"}}"#;
            script.send(if is_auth { granted } else { r#"{"connAck":{"st":5}}"# }).await;
            if !is_auth {
                break;
            }
        }
    }
    let _script = server.session(60).await;
    within("a session", connecting).await.unwrap().unwrap();
}

#[tokio::test] // one of them is enough
async fn the_next_of_several_servers_is_tried() {
    let server = TestServer::start().await;
    let there = url(&server, jmqt_server::Protocol::Socket);
    for _ in 0..4 {
        let config = config(&format!("jmqt://127.0.0.1:1,{there}"), "alice");
        let alice = within("a session", Client::connect(config)).await.unwrap();
        alice.close().await;
    }
    let nowhere = config("jmqt://127.0.0.1:1,jmqt://127.0.0.1:2", "alice");
    assert!(matches!(Client::connect(nowhere).await, Err(ConnectError::Tcp { .. })));
}

#[tokio::test]
async fn the_event_of_a_failed_attempt_has_its_cause() {
    let alice = Client::start(config("jmqt://127.0.0.1:1", "alice")).unwrap();
    let mut events = alice.events();
    match event(&mut events, |event| matches!(event, Event::Reconnecting { .. })).await {
        Event::Reconnecting { error, .. } => {
            assert!(error.unwrap().to_string().starts_with("cannot connect to 127.0.0.1:1"));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test] // a function that fails is asked again
async fn credentials_are_requested_for_each_connection() {
    let server = ScriptedServer::start().await;
    let asked = std::sync::atomic::AtomicU32::new(0);
    let config = config(&server.url("jmqt"), "nobody").credentials(move || {
        let number = asked.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        async move {
            if number == 0 {
                return Err("the network is away".into());
            }
            Ok(Credentials::Auth(Secret::parse(&number.to_string())?))
        }
    });
    let alice = Client::start(config).unwrap();
    let mut events = alice.events();
    for number in 1..3 {
        let mut script = server.accept().await;
        script.expect(&format!(r#"{{"auth":{{"dt":{number}}}}}"#)).await;
        script.send(r#"{"authAck":{"st":1,"at":"t","cl":"alice"}}"#).await;
        script.receive().await.unwrap();
        script.send(r#"{"connAck":{"st":1,"ts":60}}"#).await;
        reconnected(&mut events).await;
    }
}

#[tokio::test] // a dead link is noticed long before its timeout
async fn reconnect_asks_a_connected_server_for_a_sign_of_life() {
    let server = ScriptedServer::start().await;
    let alice = Client::start(config(&server.url("jmqt"), "alice")).unwrap();
    let mut events = alice.events();
    let mut script = server.session(3600).await;
    alice.connected().await.unwrap();
    alice.reconnect();
    script.expect(r#"{"hb":{}}"#).await;
    script.send(r#"{"hbAck":{}}"#).await;
    // The answer has been read when the one to a second heartbeat has.
    let flushing = tokio::spawn({
        let alice = alice.clone();
        async move { alice.flush().await }
    });
    script.expect(r#"{"hb":{}}"#).await;
    script.send(r#"{"hbAck":{}}"#).await;
    flushing.await.unwrap().unwrap();
    assert!(alice.is_connected());
    alice.reconnect();
    script.expect(r#"{"hb":{}}"#).await;
    // No answer: the server's own timeout is an hour.
    assert!(disconnected(&mut events).await.starts_with("no data from the server for"));
    server.session(3600).await;
}
