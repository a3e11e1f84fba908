//! The reasons that clients receive before the server closes their connection (protocol.md 2.22).

use std::time::Duration;

use crate::support::{Asked, Behaviour, Client, Incoming, TestServer, Told, client_id};
use jmqt_server::{CloseReason, Config, Disconnect, Protocol};

const BOTH: [Protocol; 2] = [Protocol::Socket, Protocol::WebSocket];

fn told(code: u16, message: &str) -> Told {
    Told { code, message: message.to_owned(), retry_after: None }
}

#[tokio::test] // 4500
async fn a_takeover_reason_names_the_new_connection() {
    let server = TestServer::start().await;
    for old in Protocol::JMQT {
        for new in BOTH {
            let mut old = server.connect_over(old, "alice").await;
            let _new = server.connect_over(new, "alice").await;
            let kind = if new == Protocol::Socket { "TCP" } else { "WebSocket" };
            let by = format!("another connection of this client took over ({kind} from 127.0.0.1)");
            assert_eq!(old.told().await, told(4500, &by));
        }
    }
}

#[tokio::test] // 4002, before a session and within one
async fn a_silent_client_receives_the_reason_idle() {
    let server = TestServer::configured(|config| config.timeout = Duration::from_secs(1)).await;
    for protocol in Protocol::JMQT {
        let mut nobody = server.open(protocol).await;
        let mut alice = server.connect_over(protocol, "alice").await;
        assert_eq!(nobody.told().await, told(4002, "nothing was received in time"));
        assert_eq!(alice.told().await, told(4002, "nothing was received in time"));
    }
}

#[tokio::test] // 4003
async fn a_slow_client_receives_the_reason_slow() {
    let server = TestServer::configured(|config| config.outbound_queue_bytes = 10_000).await;
    let mut alice = server.connect("alice").await;
    for protocol in BOTH {
        let mut bob = server.open(protocol).await;
        bob.conn_as("bob", r#","wn":1"#).await;
        bob.sub("news").await;
        let data = format!("\"{}\"", "x".repeat(4000));
        for _ in 0..5 {
            alice.pub1("news", &data).await;
        }
        assert_eq!(bob.next_push().await.data(), data);
        assert_eq!(bob.told().await, told(4003, "too much data was queued for the client"));
    }
}

#[tokio::test] // 4004
async fn a_client_that_does_not_acknowledge_receives_that_reason() {
    let server = TestServer::configured(|config| config.timeout = Duration::from_secs(1)).await;
    for protocol in BOTH {
        let mut bob = server.open(protocol).await;
        bob.conn_as("bob", r#","wn":1"#).await;
        bob.sub("news").await;
        let mut alice = server.connect("alice").await;
        alice.pub1("news", "1").await;
        bob.next_push().await;
        let heard = async {
            loop {
                bob.send_until_refused(r#"{"hb":{}}"#).await;
                match bob.incoming().await {
                    Incoming::Packet(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                    other => break other,
                }
            }
        };
        assert_eq!(heard.await, Incoming::Disconn(told(4004, "the client did not acknowledge")));
    }
}

#[tokio::test] // 4501
async fn a_client_that_sends_bad_packets_receives_that_reason() {
    let server = TestServer::start().await;
    for protocol in BOTH {
        let mut alice = server.connect_over(protocol, "alice").await;
        alice.send_all(&["nonsense"; 20]).await;
        assert_eq!(alice.told().await, told(4501, "too many bad packets in a row"));
    }
}

#[tokio::test] // 4502
async fn the_reason_for_a_large_packet_contains_the_limit() {
    let server = TestServer::configured(|config| config.max_packet_bytes = 1000).await;
    for protocol in BOTH {
        let mut alice = server.connect_over(protocol, "alice").await;
        alice.send_until_refused(&"x".repeat(100_000)).await;
        let told = alice.told().await;
        assert_eq!(told.code, 4502);
        assert!(told.message.contains("1000"), "{}", told.message);
    }
}

#[tokio::test] // 4008 and 4503
async fn a_client_receives_the_disconnect_reason_of_the_application() {
    let server = TestServer::start().await;
    let id = client_id("alice");
    for protocol in Protocol::JMQT {
        let mut alice = server.connect_over(protocol, "alice").await;
        assert!(server.handle().disconnect(&id));
        assert_eq!(alice.told().await, told(4008, "the application closed the connection"));

        let mut alice = server.connect_over(protocol, "alice").await;
        let disconnect = Disconnect::by_application("new rules").retry_after(Duration::from_millis(2500));
        assert!(server.handle().disconnect_with(&id, disconnect));
        let expected = Told { retry_after: Some(3), ..told(4008, "new rules") };
        assert_eq!(alice.told().await, expected);

        let mut alice = server.connect_over(protocol, "alice").await;
        let ban = format!("banned: \"{}\"\n", "ü".repeat(100)); // more than a close frame holds
        assert!(server.handle().disconnect_with(&id, Disconnect::kick(&ban)));
        assert_eq!(alice.told().await, told(4503, &ban));
        for _ in 0..3 {
            server.app.expect_close("alice", CloseReason::ByApplication).await;
        }
        assert!(!server.handle().disconnect_with(&id, Disconnect::kick(ban)));
    }
}

#[tokio::test] // 4000: with a time to wait, so that not all come back at once
async fn clients_of_a_stopping_server_receive_a_retry_time() {
    let mut server = TestServer::start().await;
    let mut clients = Vec::new();
    for protocol in Protocol::JMQT {
        for number in 0..4 {
            clients.push(server.connect_over(protocol, &format!("{protocol}-{number}")).await);
        }
        let mut nobody = server.open(protocol).await;
        nobody.send(r#"{"auth":{"dt":{"client_name":"nobody"}}}"#).await;
        nobody.expect(r#"{"authAck":{"st":1,"at":"token-nobody","cl":"nobody"}}"#).await;
        clients.push(nobody);
    }
    server.app.times_asked(Asked::Conn).await; // those have been answered
    server.app.set(Asked::Conn, Behaviour::Hang);
    let mut asking = server.open(Protocol::Socket).await;
    asking.send(r#"{"conn":{"at":"token-bob","cl":"bob"}}"#).await;
    server.app.asked(Asked::Conn).await;
    clients.push(asking);
    server.shutdown().await;
    let mut times = Vec::new();
    for mut client in clients {
        let Told { code, message, retry_after } = client.told().await;
        assert_eq!((code, message.as_str()), (4000, "the server is stopping"));
        times.extend(retry_after);
    }
    times.sort_unstable();
    assert_eq!(times.len(), 21);
    times.dedup();
    assert_eq!(times, [1, 2]);
}

#[tokio::test] // one by one: nobody comes back before the last one has been closed
async fn clients_closed_in_steps_receive_retry_times_after_the_last_step() {
    let mut server = TestServer::configured(|config: &mut Config| {
        config.drain = Duration::from_secs(2);
        config.spread_drain = true;
    })
    .await;
    let mut clients = [server.connect("a").await, server.websocket("b").await];
    server.shutdown().await;
    let mut times = Vec::new();
    for client in &mut clients {
        let told = client.told().await;
        assert_eq!(told.code, 4000);
        times.push(told.retry_after.unwrap());
    }
    times.sort_unstable();
    // One at the start: two seconds, one or two more. The other a second later.
    assert!((3..=4).contains(&times[1]) && (1..=3).contains(&times[0]), "{times:?}");
}

#[tokio::test] // only what the client did not ask for is explained
async fn a_client_that_leaves_receives_no_reason() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"disconn":{}}"#).await;
    assert_eq!(alice.incoming().await, Incoming::End);
    let mut alice = server.websocket("alice").await;
    alice.send(r#"{"disconn":{}}"#).await;
    alice.closed_with(1000).await;
    let mut alice = server.websocket("alice").await;
    alice.send_frame(true, 8, &1000u16.to_be_bytes()).await;
    alice.closed_with(1000).await;
    assert_eq!(server.counters().bad_packets, 0);
}

#[tokio::test] // nothing can be said where nothing is agreed on
async fn a_connection_before_its_upgrade_receives_no_reason() {
    let server = TestServer::configured(|config| config.timeout = Duration::from_secs(1)).await;
    let mut browser = server.open_raw(Protocol::WebSocket).await;
    browser.send_bytes(b"GET / HTTP/1.1\r\n").await;
    assert_eq!(browser.bytes_until_closed().await, b"");
}

#[tokio::test] // nothing follows a `disconn`, whatever is on its way
async fn concurrent_pushes_arrive_before_the_disconn_or_not_at_all() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    for round in 0..20 {
        let protocol = Protocol::JMQT[round % 4];
        let name = format!("bob{round}");
        let mut bob = server.connect_over(protocol, &name).await;
        bob.sub_persistent("news").await;
        let publish: Vec<_> =
            (0..50).map(|n| format!(r#"{{"pub":{{"cn":"more","dt":{n},"q":1,"id":"{n}"}}}}"#)).collect();
        let publish: Vec<_> = publish.iter().map(String::as_str).collect();
        bob.send_all(&publish).await;
        for n in 0..10 {
            alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":{n},"q":{}, "id":"x"}}}}"#, n % 2)).await;
        }
        assert!(server.handle().disconnect(&client_id(&name)));
        told_among_packets(&mut bob).await;
    }
}

/// Reads up to the `disconn`, which must be followed by the end.
async fn told_among_packets(client: &mut Client) {
    loop {
        match client.incoming().await {
            Incoming::Packet(_) => {}
            Incoming::Disconn(_) => break,
            other => panic!("{other:?}\n{}", client.conversation()),
        }
    }
    client.closed().await;
}
