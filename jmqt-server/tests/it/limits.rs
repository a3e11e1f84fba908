//! Limits of size and number (protocol.md 2.5, 2.14, slow consumers).

use crate::support;

use std::io;
use std::io::{Read as _, Write as _};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use crate::support::{Asked, Client, Incoming, TestServer, channel};
use jmqt_server::{CloseReason, ControlReply, HandleError, Protocol, Publish, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::Interval;
use tokio_rustls::rustls::pki_types::ServerName;

/// A heartbeat of exactly this number of bytes.
fn heartbeat(length: usize) -> String {
    let frame = r#"{"hb":{"x":""}}"#.len();
    format!(r#"{{"hb":{{"x":"{}"}}}}"#, "x".repeat(length - frame))
}

fn data(number: usize, bytes: usize) -> String {
    format!(r#"[{number},"{}"]"#, "x".repeat(bytes))
}

async fn publish(alice: &mut Client, number: usize, bytes: usize) {
    alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":{}}}}}"#, data(number, bytes))).await;
}

// ---- packets ------------------------------------------------------------------------------------

#[tokio::test] // protocol.md 2.5: without buffering more than that
async fn an_endless_packet_ends_the_connection() {
    let server = TestServer::configured(|config| config.max_packet_bytes = 100_000).await;
    let endless = vec![b'x'; 1 << 20];
    let mut nobody = server.open(Protocol::Socket).await;
    nobody.send_bytes_until_refused(&endless).await;
    nobody.closed().await;
    for protocol in [Protocol::Socket, Protocol::SslSocket] {
        let mut alice = server.connect_over(protocol, "alice").await;
        alice.send_bytes_until_refused(&endless).await;
        alice.closed().await;
        server.app.expect_close("alice", CloseReason::PacketTooLarge).await;
    }
}

#[tokio::test] // protocol.md 2.5: the limit is the packet's, not the read's
async fn the_packet_limit_applies_to_each_packet_of_a_write() {
    let server = TestServer::configured(|config| config.max_packet_bytes = 2000).await;
    for protocol in Protocol::JMQT {
        let mut alice = server.connect_over(protocol, "alice").await;
        let one = heartbeat(1900);
        alice.send_all(&[one.as_str(); 50]).await;
        for _ in 0..50 {
            alice.expect(r#"{"hbAck":{}}"#).await;
        }
    }
}

#[tokio::test] // protocol.md 2.5: fragments do not get around it (RFC 6455 §5.4)
async fn a_websocket_message_in_fragments_has_the_same_limit() {
    let server = TestServer::configured(|config| config.max_packet_bytes = 100_000).await;
    let mut alice = server.websocket("alice").await;
    let half = "x".repeat(60_000);
    alice.send_frame(false, 1, half.as_bytes()).await;
    alice.send_frame(true, 0, half.as_bytes()).await;
    assert_eq!(alice.told().await.code, 4502);
    server.app.expect_close("alice", CloseReason::PacketTooLarge).await;
}

#[tokio::test] // protocol.md 2.5, 2.7: four mebibytes by default
async fn a_packet_of_four_mebibytes_is_accepted_on_every_listener() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let frame = r#"{"pub":{"cn":"news","dt":""}}"#.len();
    let data = format!(r#""{}""#, "x".repeat((4 << 20) - frame));
    let publish = format!(r#"{{"pub":{{"cn":"news","dt":{data}}}}}"#);
    assert_eq!(publish.len(), 4 << 20);
    for protocol in Protocol::JMQT {
        let mut bob = server.connect_over(protocol, "bob").await;
        bob.sub("news").await;
        let (push, ()) = tokio::join!(bob.next_push(), alice.send(&publish));
        assert!(push.data() == data);
    }
}

// ---- connections --------------------------------------------------------------------------------

#[tokio::test] // MAX_CONNECTIONS counts connections without a session too, and gives places back
async fn a_closed_connection_makes_room_for_the_next() {
    let server = TestServer::configured(|config| config.max_connections = 2).await;
    let mut alice = server.connect("alice").await;
    let waiting = server.open(Protocol::WebSocket).await;
    let mut third = server.open_raw(Protocol::Socket).await;
    third.bytes_until_closed().await;
    assert_eq!(server.counters().connections_refused, 1);
    drop(waiting);
    // The place is free when the server has seen the end; nothing tells when that is.
    let mut bob = support::within("a place", async {
        loop {
            let mut bob = server.open_raw(Protocol::Socket).await;
            bob.send_bytes_until_refused(b"{\"conn\":{\"at\":\"token-bob\",\"cl\":\"bob\"}}\0").await;
            // Otherwise it is told to come back later.
            if matches!(bob.incoming().await, Incoming::Packet(text) if text.starts_with(r#"{"connAck""#)) {
                return bob;
            }
        }
    })
    .await;
    bob.expect_nothing_before_hb().await;
    alice.expect_nothing_before_hb().await;
}

#[tokio::test] // docs/configuration.md, protocol.md 2.22
async fn a_refused_connection_receives_a_retry_time() {
    let server = TestServer::configured(|config| config.max_connections = 1).await;
    let mut alice = server.connect("alice").await;
    let refusal = server.open_raw(Protocol::Socket).await.bytes_until_closed().await;
    let expected =
        "{\"disconn\":{\"st\":4006,\"mg\":\"the server has reached its limit of connections\",\"ts\":5}}\0";
    assert_eq!(refusal.escape_ascii().to_string(), expected.as_bytes().escape_ascii().to_string());
    let refusal = server.open_raw(Protocol::WebSocket).await.bytes_until_closed().await;
    let refusal = String::from_utf8(refusal).unwrap();
    assert!(refusal.starts_with("HTTP/1.1 503 Service Unavailable\r\n"), "{refusal}");
    assert!(refusal.contains("\r\nRetry-After: 5\r\n"), "{refusal}");
    assert!(refusal.ends_with("\r\n\r\nthe server has reached its limit of connections\n"), "{refusal}");
    // An answer would cost a handshake.
    assert_eq!(server.open_raw(Protocol::SslSocket).await.bytes_until_closed().await, b"");
    assert_eq!(server.counters().connections_refused, 3);
    alice.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.22: a connection that is reset may lose it
async fn a_refused_connection_receives_the_reason_even_after_sending_data() {
    let server = TestServer::configured(|config| config.max_connections = 1).await;
    let _alice = server.connect("alice").await;
    // The server accepts only when this test waits, so by then there is something to be read.
    let mut bob = std::net::TcpStream::connect(server.address(Protocol::Socket)).unwrap();
    bob.write_all(b"{\"auth\":{\"dt\":{\"client_name\":\"bob\"}}}\0").unwrap();
    let told = tokio::task::spawn_blocking(move || {
        let mut told = Vec::new();
        bob.read_to_end(&mut told)?;
        bob.write_all(b"x")?; // it has not been reset afterwards either
        io::Result::Ok(told)
    });
    let told = support::within("the refusal", told).await.unwrap().expect("it was reset");
    assert!(told.starts_with(br#"{"disconn":{"st":4006,"#), "{}", told.escape_ascii());
}

// ---- queues -------------------------------------------------------------------------------------

/// A server with small queues that gives up slow consumers quickly.
async fn with_small_queues(slow_consumer: Duration) -> TestServer {
    TestServer::configured(|config| {
        config.max_packet_bytes = 64 * 1024;
        config.outbound_queue_bytes = 128 * 1024;
        config.slow_consumer = slow_consumer;
    })
    .await
}

#[tokio::test] // design: an empty queue takes one packet of any size
async fn an_empty_queue_accepts_one_packet_of_any_size() {
    let server = TestServer::configured(|config| config.outbound_queue_bytes = 1000).await;
    let mut alice = server.connect("alice").await;
    for protocol in Protocol::JMQT {
        let mut bob = server.connect_over(protocol, "bob").await;
        bob.sub("news").await;
        bob.sub_persistent("more").await;
        publish(&mut alice, 0, 50_000).await;
        assert!(bob.next_push().await.data() == data(0, 50_000));
        alice.pub1("more", &data(1, 50_000)).await;
        assert!(bob.next_push().await.data() == data(1, 50_000));
        bob.send(r#"{"unsub":{"cn":"more"}}"#).await;
        bob.expect(r#"{"unsubAck":{"st":1,"cn":"more"}}"#).await;
    }
    assert_eq!(server.counters().pushes_dropped, 0);
}

#[tokio::test] // design: QoS 0 pushes are dropped and counted, and what is delivered stays in order
async fn a_full_queue_drops_qos_0_and_counts_it() {
    let server = with_small_queues(Duration::from_secs(60)).await;
    let mut alice = server.connect("alice").await;
    let (mut slow, mut tls) = (server.connect("slow").await, server.tls("tls").await);
    slow.sub("news").await;
    tls.sub("news").await;
    const MESSAGES: usize = 600; // 30 MB: more than the kernel keeps for both
    for number in 0..MESSAGES {
        publish(&mut alice, number, 50_000).await;
    }
    alice.expect_nothing_before_hb().await;
    let dropped = usize::try_from(server.counters().pushes_dropped).unwrap();
    assert!(dropped > 0);
    let mut received = 0;
    for client in [&mut slow, &mut tls] {
        // The answer to a heartbeat is behind all that waits.
        client.send(r#"{"hb":{}}"#).await;
        let mut last = None;
        loop {
            let text = client.next().await;
            if text == r#"{"hbAck":{}}"# {
                break;
            }
            let number = text.split(['[', ',']).find_map(|part| part.parse::<usize>().ok());
            assert!(number > last, "{number:?} after {last:?}");
            last = number;
            received += 1;
        }
    }
    assert_eq!(received + dropped, 2 * MESSAGES);
    publish(&mut alice, MESSAGES, 10).await; // and on it goes
    assert!(slow.next_push().await.data() == data(MESSAGES, 10));
}

#[tokio::test] // design: closed, with the reason, if it takes nothing for SLOW_CONSUMER_SECONDS
async fn a_client_that_does_not_read_is_closed_on_every_listener() {
    let server = with_small_queues(Duration::from_millis(300)).await;
    for protocol in Protocol::JMQT {
        let mut slow = server.connect_over(protocol, "slow").await;
        slow.sub("news").await;
        let news = Publish::raw(channel("news"), &data(0, 50_000)).unwrap();
        for _ in 0..600 {
            server.handle().force_pub(news.clone()).await.unwrap();
            tokio::task::yield_now().await;
        }
        server.app.expect_close("slow", CloseReason::SlowConsumer).await;
    }
}

/// Reads 16 KiB eight times a second.
struct Paced(TcpStream, Interval);

impl Paced {
    /// With a receive buffer so small that what it has not read waits at the server.
    async fn connect(server: &TestServer, protocol: Protocol) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        let connecting = socket.connect(server.address(protocol));
        let stream = support::within("a connection", connecting).await.unwrap();
        Self(stream, tokio::time::interval(Duration::from_millis(125)))
    }
}

impl AsyncRead for Paced {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.0.poll_read_ready(cx))?;
        std::task::ready!(self.1.poll_tick(cx));
        let mut part = buffer.take(16 * 1024);
        std::task::ready!(Pin::new(&mut self.0).poll_read(cx, &mut part))?;
        let count = part.filled().len();
        buffer.set_filled(buffer.filled().len() + count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Paced {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test] // design: what counts is what the client has taken, and not what the kernel keeps for it
async fn a_client_that_reads_slowly_but_steadily_stays_and_one_that_reads_nothing_is_closed() {
    const SLOW: Duration = Duration::from_secs(4);
    let server = with_small_queues(SLOW).await;
    let news = Publish::raw(channel("news"), &data(0, 50_000)).unwrap();
    let mut silent = server.connect("silent").await;
    silent.sub("news").await;
    let publish_without_end = async {
        loop {
            server.handle().force_pub(news.clone()).await.unwrap();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let read_steadily = |protocol: Protocol| {
        let (server, name) = (&server, format!("steady-{protocol}"));
        async move {
            let stream = Paced::connect(server, protocol).await;
            let mut client = match protocol.is_tls() {
                false => Client::new(protocol, stream),
                true => {
                    let localhost = ServerName::try_from("localhost").unwrap();
                    let handshake = server.tls_connector().connect(localhost, stream);
                    Client::new(protocol, support::within("the handshake", handshake).await.unwrap())
                }
            };
            if protocol.is_websocket() {
                client.upgrade().await;
            }
            client.conn_as(&name, "").await;
            client.sub("news").await;
            let start = Instant::now();
            while start.elapsed() < SLOW * 2 {
                client.next_push().await;
            }
        }
    };
    let [one, two, three, four] = Protocol::JMQT.map(read_steadily);
    let all_is_as_it_should_be = async {
        tokio::join!(one, two, three, four, server.app.expect_close("silent", CloseReason::SlowConsumer))
    };
    tokio::select! {
        () = publish_without_end => {}
        _ = all_is_as_it_should_be => {}
    }
}

#[tokio::test] // design: a client that does not read its answers is not read from either
async fn a_client_that_sends_requests_without_reading_is_closed() {
    let server = with_small_queues(Duration::from_millis(300)).await;
    let mut alice = server.connect("alice").await;
    let echo = format!(r#"{{"pub":{{"cn":"$echo","id":"1","dt":{}}}}}{}"#, data(0, 60_000), '\0');
    let asking = async {
        loop {
            alice.send_bytes_until_refused(echo.as_bytes()).await;
        }
    };
    tokio::select! {
        () = asking => {}
        () = server.app.expect_close("alice", CloseReason::SlowConsumer) => {}
    }
}

/// Waits until the application is asked nothing more of this kind, and returns how often it was asked.
async fn asked_until_it_stops(server: &TestServer, asked: Asked) -> usize {
    let (mut times, mut quiet) = (0, 0);
    while quiet < 20 {
        server.settle().await; // what is on its way through the store has had its turn
        let more = server.app.times_asked(asked).await;
        quiet = if more == 0 { quiet + 1 } else { 0 };
        times += more;
    }
    times
}

#[tokio::test] // protocol.md 2.10: pipelined requests are handled when there is room for their answers
async fn requests_wait_until_earlier_answers_are_read() {
    const REQUESTS: usize = 500; // 30 MB of answers: more than the kernel keeps
    let server = with_small_queues(Duration::from_secs(60)).await;
    let mut alice = server.connect("alice").await;
    let large = data(0, 60_000);
    alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":{large},"rt":1}}}}"#)).await;
    server.app.on_control(move |_| {
        let reply = ControlReply::with_json(StatusCode::OK, &large);
        async { Ok(reply?) }
    });
    for protocol in Protocol::JMQT {
        let mut bob = server.connect_over(protocol, "bob").await;
        for (asked, request, answers) in [
            (
                Asked::Control,
                r#"{"pub":{"cn":"$big","id":"1"}}"#,
                &[r#"{"pubAck":{"st":1,"id":"1","dt":"#][..],
            ),
            (
                Asked::Sub,
                r#"{"sub":{"cn":"news"}}"#,
                &[r#"{"subAck":{"st":1,"#, r#"{"push":{"cn":"news","dt":[0,"#],
            ),
        ] {
            bob.send_all(&[request; REQUESTS]).await;
            let handled = asked_until_it_stops(&server, asked).await;
            assert!(handled < REQUESTS, "{protocol}: all of {request}");
            for _ in 0..REQUESTS {
                for answer in answers {
                    let packet = bob.next().await;
                    assert!(packet.starts_with(answer), "{protocol}: {} for {request}", &packet[..60]);
                }
            }
        }
    }
}

#[tokio::test] // protocol.md 2.3: however many retained messages come with a session, all of them do
async fn many_retained_messages_are_sent_one_at_a_time() {
    const CHANNELS: usize = 300; // 15 MB
    let server = with_small_queues(Duration::from_secs(60)).await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect("bob").await;
    for number in 0..CHANNELS {
        let (name, data) = (format!("room {number:03}"), data(number, 50_000));
        alice.send(&format!(r#"{{"pub":{{"cn":"{name}","dt":{data},"rt":1}}}}"#)).await;
        bob.sub_persistent(&name).await;
        bob.next_push().await;
    }
    let mut bob = server.reconnect(bob).await;
    alice.send(r#"{"pub":{"cn":"room 000","dt":"live"}}"#).await;
    alice.expect_nothing_before_hb().await;
    let mut rooms = std::collections::HashSet::new();
    for _ in 0..CHANNELS {
        let push = bob.next_push().await;
        assert!(push.is_retained() && rooms.insert(push.channel().to_owned()), "{}", push.channel());
    }
    // Not before them; it was held as far as there was room beside them (2.3).
    if server.counters().pushes_dropped == 0 {
        assert_eq!(bob.next_push().await.data(), r#""live""#);
    }
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.14: the queue is what limits large pushes, whatever the window
async fn large_qos_1_pushes_wait_for_room_in_the_queue() {
    let server = with_small_queues(Duration::from_secs(60)).await;
    let mut alice = server.connect("alice").await;
    for protocol in Protocol::JMQT {
        let mut bob = server.connect_over(protocol, "bob").await;
        bob.sub("news").await;
        bob.sub("noise").await;
        // Fills what the kernel and the queue have, and more is dropped.
        for _ in 0..400 {
            alice.send(&format!(r#"{{"pub":{{"cn":"noise","dt":{}}}}}"#, data(0, 60_000))).await;
        }
        alice.expect_nothing_before_hb().await;
        for number in 0..2 {
            alice.pub1("news", &data(number, 50_000)).await;
        }
        let mut next = 0;
        while next < 2 {
            let push = bob.next_push().await;
            if push.channel() == "news" {
                assert!(push.data() == data(next, 50_000));
                next += 1;
                bob.ack(&push).await;
            }
        }
        bob.expect_nothing_before_hb().await;
    }
}

#[tokio::test] // protocol.md 2.14: for persistent subscriptions the rest waits in the store
async fn qos_1_survives_the_close_of_a_slow_consumer() {
    let mut server = with_small_queues(Duration::from_millis(300)).await;
    let mut alice = server.connect("alice").await;
    let mut slow = server.connect_with_window("slow", 1000).await;
    slow.sub_persistent("news").await;
    for number in 0..400 {
        alice.pub1("news", &data(number, 50_000)).await;
    }
    server.app.expect_close("slow", CloseReason::SlowConsumer).await;
    drop(slow);
    server.restart_with(|config| config.slow_consumer = Duration::from_secs(60)).await; // from here on in its own time
    let mut slow = server.websocket("slow").await;
    for number in 0..400 {
        let push = slow.next_push().await;
        assert!(push.data() == data(number, 50_000), "{number}");
        slow.ack(&push).await;
    }
}

#[tokio::test] // protocol.md 2.14: for others in memory, and beyond that the connection is closed
async fn a_qos_1_overflow_of_a_temporary_subscription_closes_the_connection() {
    let server = with_small_queues(Duration::from_secs(60)).await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect_with_window("bob", 1).await;
    bob.sub("news").await;
    for number in 0..3 {
        alice.pub1("news", &data(number, 50_000)).await; // one in flight, two in memory
    }
    for number in 0..3 {
        let push = bob.next_push().await;
        assert!(push.data() == data(number, 50_000));
        bob.expect_nothing_before_hb().await;
        bob.ack(&push).await;
    }
    for number in 0..5 {
        alice.pub1("news", &data(number, 50_000)).await;
    }
    server.app.expect_close("bob", CloseReason::QueueOverflow).await;
    alice.expect_nothing_before_hb().await;
}

#[tokio::test] // MAX_PENDING_PER_CLIENT: the oldest go first, and it is counted
async fn excess_pending_messages_are_dropped_oldest_first() {
    let server = TestServer::configured(|config| config.max_pending_per_client = Some(3)).await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    drop(bob);
    server.app.expect_close("bob", CloseReason::ClosedByClient).await;
    let mut alice = server.connect("alice").await;
    for number in 0..10 {
        alice.pub1("news", &number.to_string()).await;
    }
    let swept = async {
        while server.counters().pending_dropped < 7 {
            tokio::time::sleep(Duration::from_millis(50)).await; // it happens every few seconds
        }
    };
    support::within("the sweep", swept).await;
    assert_eq!(server.counters().pending_dropped, 7);
    let mut bob = server.connect("bob").await;
    for number in 7..10 {
        assert_eq!(bob.next_push().await.data(), number.to_string());
    }
    bob.expect_nothing_before_hb().await;
}

// ---- what one client and all clients may hold ---------------------------------------------------

#[tokio::test] // protocol.md 2.8: MAX_SUBSCRIPTIONS_PER_CLIENT, MAX_PERSISTENT_SUBSCRIPTIONS_PER_CLIENT
async fn subscriptions_of_a_client_are_limited() {
    let server = TestServer::configured(|config| {
        config.max_subscriptions_per_client = 3;
        config.max_persistent_subscriptions_per_client = 1;
    })
    .await;
    let mut alice = server.connect("alice").await;
    alice.sub_persistent("a").await;
    alice.send(r#"{"sub":{"cn":"b","pr":1}}"#).await;
    alice.expect(r#"{"subAck":{"st":7,"cn":"b"}}"#).await;
    alice.sub("b").await;
    alice.sub("c").await;
    alice.send(r#"{"sub":{"cn":"d"}}"#).await;
    alice.expect(r#"{"subAck":{"st":7,"cn":"d"}}"#).await;
    alice.sub("b").await; // not one more
    alice.sub_persistent("a").await;
    assert_eq!(server.counters().subscriptions_refused, 2);
    alice.send(r#"{"unsub":{"cn":"b"}}"#).await;
    alice.expect(r#"{"unsubAck":{"st":1,"cn":"b"}}"#).await;
    alice.sub("d").await;
    let (handle, client) = (server.handle(), jmqt_server::ClientId::parse("alice").unwrap());
    let channel = channel("e");
    handle.force_sub(&client, &channel, jmqt_server::Persistence::Persistent).await.unwrap(); // the application may
}

#[tokio::test] // protocol.md 2.8: an id is not kept, and not sent back, however long it is
async fn a_publish_with_an_id_of_more_than_256_bytes_is_refused() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    server.connect("bob").await;
    for channel in ["news", "#bob", "$echo"] {
        for (length, is_taken) in [(256, true), (257, false), (1_000_000, false)] {
            let id = "x".repeat(length);
            alice.send(&format!(r#"{{"pub":{{"cn":"{channel}","dt":1,"q":1,"id":"{id}"}}}}"#)).await;
            let answer = alice.next().await;
            if is_taken {
                assert!(answer.contains(&id) && !answer.contains(r#""st":10"#), "{channel}: {answer}");
            } else {
                assert_eq!(answer, r#"{"pubAck":{"st":10}}"#, "{channel}, {length} bytes");
            }
        }
    }
    alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":1,"id":"{}"}}}}"#, "x".repeat(257))).await;
    alice.expect(r#"{"pubAck":{"st":10}}"#).await;
}

#[tokio::test] // MAX_TOTAL_PARTIAL_PACKET_BYTES: the others are served on
async fn incomplete_packets_of_all_sessions_together_are_limited() {
    let server = TestServer::configured(|config| config.max_total_partial_packet_bytes = 100_000).await;
    let half = format!(r#"{{"hb":{{"x":"{}"#, "x".repeat(70_000));
    let mut refused = 0;
    for protocol in Protocol::JMQT {
        let begin = match protocol {
            Protocol::Socket | Protocol::SslSocket => half.clone().into_bytes(),
            _ => {
                let mut frame = vec![0x01, 0xff];
                frame.extend_from_slice(&(half.len() as u64).to_be_bytes());
                frame.extend_from_slice(&[0; 4]);
                frame.extend_from_slice(half.as_bytes());
                frame
            }
        };
        let mut is_served = false;
        while !is_served {
            let mut alice = server.connect_over(protocol, "alice").await;
            alice.send_bytes(&begin).await;
            let mut bob = server.connect_over(protocol, "bob").await;
            bob.send_bytes_until_refused(&begin).await;
            // Which half is too much depends on which arrives first.
            let closed = match server.app.notice().await {
                support::Notice::Close(name, CloseReason::TryLater) => name,
                notice => panic!("{notice:?}"),
            };
            refused += 1;
            let (other, name) = if closed == "alice" { (&mut bob, "bob") } else { (&mut alice, "alice") };
            match protocol {
                Protocol::Socket | Protocol::SslSocket => other.send_bytes_until_refused(b"\"}}\0").await,
                _ => other.send_frame_until_refused(true, 0, b"\"}}").await,
            }
            // If both arrive at the same time, both may be too much.
            is_served = matches!(other.incoming().await, Incoming::Packet(text) if text == r#"{"hbAck":{}}"#);
            drop((alice, bob));
            match server.app.notice().await {
                support::Notice::Close(of, CloseReason::TryLater) if of == name && !is_served => refused += 1,
                support::Notice::Close(of, _) if of == name && is_served => {} // TLS was not asked
                notice => panic!("{notice:?}"),
            }
        }
    }
    assert_eq!(server.counters().partial_packets_refused, refused);
}

#[tokio::test] // MAX_TOTAL_PRECONN_BYTES: and those with a session are not concerned
async fn incomplete_packets_before_conn_are_limited_together() {
    let server = TestServer::configured(|config| config.max_total_preconn_bytes = 100_000).await;
    let mut alice = server.connect("alice").await;
    let mut connections = Vec::new();
    for _ in 0..20 {
        let mut nobody = server.open(Protocol::Socket).await;
        nobody.send_bytes_until_refused(&[b'x'; 15_000]).await;
        connections.push(nobody);
    }
    while server.counters().partial_packets_refused == 0 {
        alice.expect_nothing_before_hb().await;
    }
    alice.send(&heartbeat(1_000_000)).await;
    alice.expect(r#"{"hbAck":{}}"#).await;
    drop(connections);
    let gone = async {
        while server.counters().connections_closed < 20 {
            tokio::task::yield_now().await;
        }
    };
    support::within("the end of the connections", gone).await;
    let refused = server.counters().partial_packets_refused;
    let mut bob = server.open(Protocol::Socket).await;
    bob.send_bytes(
        format!(r#"{{"auth":{{"dt":{{"client_name":"bob","x":"{}"#, "x".repeat(15_000)).as_bytes(),
    )
    .await;
    bob.send_bytes(b"\"}}}\0").await;
    bob.expect(r#"{"authAck":{"st":1,"at":"token-bob","cl":"bob"}}"#).await;
    assert_eq!(server.counters().partial_packets_refused, refused);
}

#[tokio::test] // MAX_TOTAL_OUTBOUND_BYTES: who does not read goes, who reads does not notice
async fn at_the_limit_of_all_queues_the_largest_queues_are_closed() {
    let server = TestServer::configured(|config| config.max_total_outbound_bytes = 3 << 20).await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect("bob").await;
    bob.sub("news").await;
    let names = ["slow 1", "slow 2", "slow 3"];
    let mut slow = Vec::new();
    for name in names {
        let mut client = server.connect_over(Protocol::SslSocket, name).await;
        client.sub("news").await;
        slow.push(client);
    }
    let mut number = 0;
    while server.counters().outbound_closed == 0 {
        publish(&mut alice, number, 60_000).await;
        assert!(bob.next_push().await.data() == data(number, 60_000));
        number += 1;
        assert!(number < 2000, "120 MB for three clients that do not read");
    }
    match server.app.notice().await {
        support::Notice::Close(name, CloseReason::QueueOverflow) => assert!(names.contains(&name.as_str())),
        notice => panic!("{notice:?}"),
    }
}

// ---- retained messages --------------------------------------------------------------------------

#[tokio::test] // protocol.md 2.12
async fn retained_messages_are_limited() {
    let server = TestServer::configured(|config| {
        config.max_retained_messages = Some(1);
        config.max_retained_bytes = Some(100);
    })
    .await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub("b").await;
    bob.sub_persistent("b1").await;
    alice.send(r#"{"pub":{"cn":"a","dt":1,"rt":1,"q":1,"id":"1"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"1"}}"#).await;
    // QoS 1: it is not taken at all. What follows is.
    alice.send(r#"{"pub":{"cn":"b1","dt":2,"rt":1,"q":1,"id":"2"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":7,"id":"2"}}"#).await;
    alice.send(r#"{"pub":{"cn":"b1","dt":3,"q":1,"id":"3"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"3"}}"#).await;
    assert_eq!(bob.next_push().await.data(), "3");
    // QoS 0: it is pushed. The publisher hears that it is not retained if it gave an id.
    alice.send(r#"{"pub":{"cn":"b","dt":4,"rt":1}}"#).await;
    alice.send(r#"{"pub":{"cn":"b","dt":5,"rt":1,"id":"5"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":7,"id":"5"}}"#).await;
    assert_eq!(bob.next_pushes(2).await.iter().map(|it| it.data()).collect::<Vec<_>>(), ["4", "5"]);
    // The application hears it too.
    let handle = server.handle();
    let publish = async |name, text: &str| {
        let message = Publish::raw(channel(name), text).unwrap().retained().at_least_once();
        handle.force_pub(message).await
    };
    assert_eq!(publish("b", "6").await, Err(HandleError::TooManyRetained));
    assert_eq!(server.counters().retained_refused, 4);
    // Another message for the same channel is no more than before, however large; and one that is gone makes room.
    publish("a", &data(7, 200)).await.unwrap();
    assert_eq!(publish("b", "8").await, Err(HandleError::TooManyRetained));
    assert!(handle.clear_retained(&channel("a")).await.unwrap());
    publish("b", "9").await.unwrap();
    let mut carol = server.connect("carol").await;
    for (name, there) in [("a", false), ("b1", false), ("b", true)] {
        carol.sub(name).await;
        if there {
            carol.expect(r#"{"push":{"cn":"b","dt":9,"cl":"","rt":1}}"#).await;
        }
    }
    carol.expect_nothing_before_hb().await;
}
