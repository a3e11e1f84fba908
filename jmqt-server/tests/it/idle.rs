//! Time limits of connections (protocol.md 2.1, 2.14, 2.15).
//!
//! The clocks are tested in `idle.rs` with paused time. These tests check that the server uses them: they wait for
//! connections that must close, and keep others open for several times the limit.

use crate::support;

use std::time::Duration;

use crate::support::{Asked, Client, Incoming, Notice, TestServer};
use jmqt_server::{CloseReason, Config, Protocol};

/// A server whose clients may be silent for this number of milliseconds.
async fn with_timeout(milliseconds: u64) -> TestServer {
    TestServer::configured(|config| config.timeout = Duration::from_millis(milliseconds)).await
}

/// Sends `bytes` again and again until the server has closed the connection.
async fn send_until_closed(client: &mut Client, bytes: &[u8]) {
    support::within("the server losing patience", async {
        loop {
            client.send_bytes_until_refused(bytes).await;
            // Not to wait for anything, but to leave the processor to the others.
            let pause = tokio::time::sleep(Duration::from_millis(20));
            tokio::select! {
                incoming = client.incoming() => if incoming == Incoming::End { return },
                () = pause => {}
            }
        }
    })
    .await;
}

#[tokio::test] // protocol.md 2.15: from accept, upgrade and TLS included
async fn a_silent_connection_is_closed_on_every_listener() {
    let server = with_timeout(1000).await; // enough to agree in
    let mut raw = Vec::new();
    for protocol in Protocol::JMQT {
        raw.push(server.open_raw(protocol).await);
    }
    for mut client in raw {
        client.bytes_until_closed().await;
    }
    for protocol in [Protocol::WebSocket, Protocol::SslSocket, Protocol::SslWebSocket] {
        server.open(protocol).await.closed().await; // agreed, and then nothing
    }
    assert_eq!(server.app.more_notices().await, []);
}

#[tokio::test] // protocol.md 2.15: a session that is silent
async fn a_silent_session_is_closed_on_every_listener() {
    let server = with_timeout(1000).await;
    for protocol in Protocol::JMQT {
        let mut alice = server.connect_over(protocol, "alice").await;
        alice.closed().await;
        server.app.expect_close("alice", CloseReason::IdleTimeout).await;
    }
}

/// A server whose thread did nothing for a while: what its clients sent, and the timers, come up together, and one
/// socket at a time is looked at.
#[test] // protocol.md 2.15
fn a_stalled_server_reads_from_its_clients_before_it_closes_them() {
    const CLIENTS: usize = 4;
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    runtime.enable_all().max_io_events_per_tick(1).build().unwrap().block_on(async {
        let server = with_timeout(3000).await;
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            clients.push(server.connect(&format!("c{number}")).await);
        }
        for client in &mut clients {
            client.send(r#"{"hb":{}}"#).await;
        }
        std::thread::sleep(Duration::from_millis(3500));
        for client in &mut clients {
            client.expect(r#"{"hbAck":{}}"#).await;
        }
    });
}

#[tokio::test] // protocol.md 2.1: five times at most
async fn auths_do_not_keep_a_connection_without_session_alive() {
    let server = with_timeout(200).await;
    let mut alice = server.open(Protocol::Socket).await;
    send_until_closed(&mut alice, b"{\"auth\":{\"dt\":{}}}\0").await;
}

#[tokio::test] // protocol.md 2.15: upgrade included
async fn a_slow_upgrade_is_closed_at_the_time_limit() {
    let server = with_timeout(200).await;
    let mut alice = server.open_raw(Protocol::WebSocket).await;
    alice.send_bytes(b"GET / HTTP/1.1\r\nX: ").await;
    send_until_closed(&mut alice, b"x").await;
}

#[tokio::test] // protocol.md 2.15
async fn in_a_session_one_packet_has_a_time_limit() {
    let server = with_timeout(1000).await;
    let mut alice = server.connect("alice").await;
    send_until_closed(&mut alice, b" ").await;
    server.app.expect_close("alice", CloseReason::IdleTimeout).await;
}

#[tokio::test] // protocol.md 2.15: received bytes are a sign of life
async fn in_a_session_a_packet_may_take_longer_than_the_timeout() {
    let server = with_timeout(2000).await;
    for _ in 0..10 {
        let mut alice = server.connect("alice").await;
        let start = std::time::Instant::now();
        for byte in b"{\"hb\":{}        }" {
            alice.send_bytes_until_refused(&[*byte]).await;
            tokio::time::sleep(Duration::from_millis(150)).await; // 2.5 seconds in all
        }
        alice.send_bytes_until_refused(&[0]).await;
        if start.elapsed() < Duration::from_secs(7) {
            alice.expect(r#"{"hbAck":{}}"#).await;
            return;
        }
        // This machine stood still, and the packet took four timeouts.
    }
    panic!("this machine stalls repeatedly");
}

#[tokio::test] // protocol.md 2.15
async fn the_clock_is_stopped_while_a_request_is_handled() {
    let server = with_timeout(300).await;
    let mut alice = server.connect("alice").await;
    let gate = server.app.hold(Asked::Control);
    alice.send(r#"{"pub":{"cn":"$slow","dt":1,"id":"1"}}"#).await;
    server.app.asked(Asked::Control).await;
    tokio::time::sleep(Duration::from_millis(900)).await; // three times what silence is allowed
    gate.open();
    alice.expect(r#"{"pubAck":{"st":1,"id":"1","dt":1}}"#).await;
}

#[tokio::test] // protocol.md 2.15: before `conn`, too
async fn the_clock_is_stopped_while_conn_is_validated() {
    let server = with_timeout(300).await;
    let gate = server.app.hold(Asked::Conn);
    let mut alice = server.open(Protocol::Socket).await;
    alice.send(r#"{"conn":{"at":"token-alice","cl":"alice"}}"#).await;
    server.app.asked(Asked::Conn).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    gate.open();
    alice.expect(r#"{"connAck":{"st":1,"ts":0}}"#).await; // less than a second, as only tests have it
}

#[tokio::test] // protocol.md 2.14: heartbeats do not save a client that never acknowledges
async fn a_full_window_without_acks_ends_the_connection_also_for_temporary_subscriptions() {
    let server = with_timeout(1000).await;
    for persistent in [false, true] {
        let mut times_idle = 0;
        loop {
            let mut bob = server.connect_with_window("bob", 1).await;
            if persistent {
                bob.sub_persistent("news").await;
            } else {
                bob.sub("news").await;
            }
            let news = jmqt_server::Publish::raw(support::channel("news"), "1").unwrap();
            let handle = server.handle();
            // He speaks while the disk takes its time, too.
            let heartbeats = send_until_closed(&mut bob, b"{\"hb\":{}}\0");
            let (published, ()) = tokio::join!(handle.force_pub(news.at_least_once()), heartbeats);
            published.unwrap();
            let Notice::Close(client, reason) = server.app.notice().await else { panic!("no close") };
            assert_eq!(client, "bob");
            if reason == CloseReason::NoAcknowledgements {
                break;
            }
            // This machine stood still, and bob with it.
            assert_eq!(reason, CloseReason::IdleTimeout);
            times_idle += 1;
            assert!(times_idle < 5, "heartbeats do not keep it from being idle");
        }
    }
}

#[tokio::test] // protocol.md 2.14: a window that is not full may wait
async fn a_window_with_room_left_may_stay_unacknowledged() {
    let server = with_timeout(300).await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    let news = jmqt_server::Publish::raw(support::channel("news"), "1").unwrap();
    server.handle().force_pub(news.at_least_once()).await.unwrap(); // however long the disk takes
    let mut bob = server.reconnect_with_window(bob, 2).await;
    bob.next_push().await;
    for _ in 0..24 {
        bob.expect_nothing_before_hb().await;
        tokio::time::sleep(Duration::from_millis(50)).await; // 1.2 seconds in all: four timeouts
    }
}

#[test] // protocol.md 2.18: old clients send heartbeats every `ts`-3 to `ts`-2 seconds
fn a_timeout_below_five_seconds_is_refused() {
    let load = |text: &str| Config::from_text(text, [("", ""); 0]);
    let error = load("SOCKET_PORT = 0\nTIMEOUT_SECONDS = 4\n").unwrap_err().to_string();
    assert!(error.contains("TIMEOUT_SECONDS"), "{error}");
    let config = load("SOCKET_PORT = 0\nTIMEOUT_SECONDS = 5\n").unwrap();
    assert_eq!(config.timeout, Duration::from_secs(5));
}
