//! A node of several stops: its sessions are closed one by one, so that their clients do not come to the
//! other nodes all at once (§9.f, protocol.md 2.13, 2.16).
//!
//! The steps themselves are tested beside `server/drain.rs` with paused time. Here it is that they are wired
//! up: nobody is closed before its turn, and nothing is lost.

// A program of its own: it sends its own process a signal.
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

#[path = "it/support/mod.rs"]
mod support;

use std::collections::HashSet;
use std::time::{Duration, Instant};

use jmqt_server::{CloseReason, Config, Protocol, Server};
use support::{Asked, Behaviour, Client, Incoming, Notice, TestApp, TestServer, within};

/// Long enough that a test which waited for it would have failed.
const FOREVER: Duration = Duration::from_secs(3600);

async fn draining_over(drain: Duration) -> TestServer {
    TestServer::configured(|config| {
        config.drain = drain;
        config.spread_drain = true;
    })
    .await
}

async fn clients(server: &TestServer, count: usize) -> Vec<Client> {
    let mut clients = Vec::new();
    for index in 0..count {
        let protocol = Protocol::JMQT[index % Protocol::JMQT.len()];
        clients.push(server.connect_over(protocol, &format!("c{index:02}")).await);
    }
    clients
}

/// Waits until one of the two ends.
async fn other_than_the_first_to_end(clients: Vec<Client>) -> Client {
    let [mut alice, mut bob]: [Client; 2] = clients.try_into().ok().expect("two are given");
    tokio::select! {
        () = alice.closed() => bob,
        () = bob.closed() => alice,
    }
}

/// Publishes until the connection ends; returns what was acknowledged, and when it ended.
async fn publish_until_closed(mut client: Client) -> (Vec<String>, Instant) {
    let mut acknowledged = Vec::new();
    loop {
        let id = acknowledged.len();
        let data = format!(r#""{} {id}""#, client.name());
        client
            .send_until_refused(&format!(r#"{{"pub":{{"cn":"news","dt":{data},"q":1,"id":"{id}"}}}}"#))
            .await;
        match client.incoming().await {
            Incoming::Packet(ack) => assert_eq!(ack, format!(r#"{{"pubAck":{{"st":1,"id":"{id}"}}}}"#)),
            Incoming::Disconn(_) | Incoming::Close(..) | Incoming::End => {
                return (acknowledged, Instant::now());
            }
            other @ (Incoming::Pong(_) | Incoming::Ping(_)) => panic!("{other:?}"),
        }
        acknowledged.push(data);
        // Not to wait for anything, but to leave the disk to the others.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn sessions_are_closed_in_even_steps_and_served_until_then() {
    const SESSIONS: usize = 20;
    let mut server = draining_over(Duration::from_secs(2)).await;
    let mut reader = server.connect("reader").await;
    reader.sub_persistent("news").await;
    reader.send(r#"{"disconn":{}}"#).await;
    reader.closed().await;
    assert_eq!(server.app.notice().await, Notice::Disconnect("reader".to_owned()));
    server.app.expect_close("reader", CloseReason::Disconnected).await;

    let mut clients = clients(&server, SESSIONS).await;
    let (mut acknowledged, mut ends) = (HashSet::new(), Vec::new());
    for client in &mut clients {
        let data = format!(r#""{} first""#, client.name());
        client.pub1("news", &data).await;
        acknowledged.insert(data);
    }
    let publishing: Vec<_> =
        clients.into_iter().map(|client| tokio::spawn(publish_until_closed(client))).collect();
    let start = Instant::now();
    server.shutdown().await;
    assert!(start.elapsed() >= Duration::from_millis(1900), "{:?}", start.elapsed());
    for client in publishing {
        let (data, end) = within("the end of a client", client).await.unwrap();
        acknowledged.extend(data);
        ends.push(end);
    }
    ends.sort();
    for (index, end) in (0..).zip(ends) {
        // How late one is depends on the machine; too early is wrong on any.
        assert!(end - start >= Duration::from_millis(100) * index, "the {index}th after {:?}", end - start);
    }

    let mut notices = server.app.more_notices().await;
    notices.sort_by_key(|notice| format!("{notice:?}"));
    let expected = |index| Notice::Close(format!("c{index:02}"), CloseReason::Shutdown);
    assert_eq!(notices, (0..SESSIONS).map(expected).collect::<Vec<_>>());

    server.restart().await;
    let mut reader = server.connect("reader").await;
    assert!(acknowledged.len() >= SESSIONS, "{}", acknowledged.len());
    while !acknowledged.is_empty() {
        let push = reader.next_push().await;
        // What was stored and could not be acknowledged any more comes too.
        acknowledged.remove(push.data());
        reader.ack(&push).await;
    }
}

#[tokio::test]
async fn no_connection_is_accepted_while_draining() {
    let mut server = draining_over(FOREVER).await;
    let addresses = Protocol::JMQT.map(|protocol| server.address(protocol));
    let clients = clients(&server, 2).await;
    let shutdown = tokio::spawn(async move { server.shutdown().await });
    // One of them is closed at once, and the listeners before it.
    let mut second = other_than_the_first_to_end(clients).await;
    for address in addresses {
        let refused = within("an answer", tokio::net::TcpStream::connect(address)).await;
        assert!(refused.is_err());
    }
    second.expect_nothing_before_hb().await; // its turn is in half an hour
    assert!(!shutdown.is_finished());
    drop(second);
    within("the end", shutdown).await.unwrap(); // there is nobody left to wait for
}

#[tokio::test]
async fn connections_without_a_session_are_closed_first() {
    let mut server = draining_over(FOREVER).await;
    let sessions = clients(&server, 2).await;
    let mut silent = server.open(Protocol::Socket).await;
    let mut upgrading = server.open_raw(Protocol::WebSocket).await;
    let mut shaking_hands = server.open_raw(Protocol::SslSocket).await;
    server.app.set(Asked::Conn, Behaviour::Hang);
    let mut asking = server.open(Protocol::WebSocket).await;
    asking.send(r#"{"conn":{"at":"token-bob","cl":"bob"}}"#).await;
    server.app.asked(Asked::Conn).await;
    let app = server.app.clone();
    let shutdown = tokio::spawn(async move { server.shutdown().await });
    silent.closed().await;
    upgrading.bytes_until_closed().await;
    shaking_hands.bytes_until_closed().await;
    asking.closed().await;
    assert!(!shutdown.is_finished());
    drop(sessions);
    within("the end", shutdown).await.unwrap();
    assert_eq!(app.more_notices().await.len(), 2);
}

#[tokio::test]
async fn a_client_that_leaves_while_draining_is_not_closed_again() {
    let mut server = draining_over(Duration::from_millis(500)).await;
    let mut clients = clients(&server, 8).await;
    let app = server.app.clone();
    let shutdown = tokio::spawn(async move { server.shutdown().await });
    let mut leaving = clients.split_off(4);
    for client in &mut leaving {
        client.send_until_refused(r#"{"disconn":{}}"#).await;
    }
    for mut client in clients.into_iter().chain(leaving) {
        client.closed().await;
    }
    within("the end", shutdown).await.unwrap();
    let closed = app.more_notices().await.into_iter().filter_map(|notice| match notice {
        Notice::Close(client, _) => Some(client),
        Notice::Disconnect(_) => None,
    });
    let mut closed: Vec<_> = closed.collect();
    closed.sort();
    assert_eq!(closed, (0..8).map(|index| format!("c{index:02}")).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_that_is_alone_stops_at_once() {
    let mut server = TestServer::configured(|config| config.drain = FOREVER).await;
    let clients = clients(&server, 20).await;
    server.shutdown().await; // within the deadline, or it has waited
    for mut client in clients {
        client.closed().await;
    }
}

#[tokio::test]
async fn without_anybody_connected_there_is_nothing_to_drain() {
    let mut server = draining_over(FOREVER).await;
    server.shutdown().await;
}

#[cfg(unix)]
#[tokio::test]
async fn a_second_signal_ends_the_drain() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.bind_address = [127, 0, 0, 1].into();
    (config.socket_port, config.websocket_port) = (Some(0), None);
    config.sqlite_path = folder.path().join("jmqt.db");
    (config.drain, config.spread_drain) = (FOREVER, true);
    let starting = Server::builder(config).app(TestApp::new()).catch_signals().start();
    let server = within("the start", starting).await.unwrap();
    let address = server.local_addr(Protocol::Socket).unwrap();
    let mut clients = Vec::new();
    for name in ["alice", "bob"] {
        let stream = within("a connection", tokio::net::TcpStream::connect(address)).await.unwrap();
        let mut client = Client::new(Protocol::Socket, stream);
        client.conn_as(name, "").await;
        clients.push(client);
    }
    let running = tokio::spawn(server.run_until_signal());
    terminate_this_process();
    let mut second = other_than_the_first_to_end(clients).await;
    second.expect_nothing_before_hb().await; // its turn is in half an hour
    terminate_this_process();
    within("the end", running).await.unwrap().unwrap();
}

#[cfg(unix)]
fn terminate_this_process() {
    let kill = format!("kill -TERM {}", std::process::id());
    let status = std::process::Command::new("sh").args(["-c", &kill]).status().unwrap();
    assert!(status.success());
}
