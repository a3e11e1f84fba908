//! NUL-framed packets over TCP and TLS, in all kinds of pieces (§3, protocol.md 2.18).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::support::{Client, TestServer, within};
use jmqt_server::{CloseReason, Protocol};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::ServerName;

/// Writes one byte at a time.
struct Dribble(TcpStream);

impl AsyncRead for Dribble {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Dribble {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let one = bytes.len().min(1);
        Pin::new(&mut self.0).poll_write(cx, &bytes[..one])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test] // §3
async fn packets_may_arrive_byte_by_byte() {
    let server = TestServer::start().await;
    let mut alice = Client::new(Protocol::Socket, Dribble(server.open_tcp(Protocol::Socket).await));
    alice.conn_as("alice", "").await;
    alice.send_all(&[r#"{"sub":{"cn":"ä"}}"#, r#"{"hb":{}}"#]).await;
    alice.expect(r#"{"subAck":{"st":1,"cn":"ä"}}"#).await;
    alice.expect(r#"{"hbAck":{}}"#).await;
}

#[tokio::test] // §10: the handshake, too
async fn tls_may_arrive_byte_by_byte() {
    let server = TestServer::start().await;
    for protocol in [Protocol::SslSocket, Protocol::SslWebSocket] {
        let stream = Dribble(server.open_tcp(protocol).await);
        let name = ServerName::try_from("localhost").unwrap();
        let handshake = server.tls_connector().connect(name, stream);
        let mut alice = Client::new(protocol, within("the handshake", handshake).await.unwrap());
        if protocol == Protocol::SslWebSocket {
            alice.upgrade().await;
        }
        alice.conn_as("alice", "").await;
        alice.expect_nothing_before_hb().await;
    }
}

#[tokio::test] // §3: thousands of packets in one write, answered one by one
async fn many_packets_may_arrive_at_once() {
    const PACKETS: usize = 5000;
    let server = TestServer::start().await;
    for protocol in Protocol::JMQT {
        let mut alice = server.connect_over(protocol, "alice").await;
        alice.send_all(&[r#"{"hb":{}}"#; PACKETS]).await;
        for _ in 0..PACKETS {
            alice.expect(r#"{"hbAck":{}}"#).await;
        }
    }
}

#[tokio::test] // protocol.md 2.18: old clients take what one read brings for whole packets
async fn a_small_packet_and_its_nul_are_sent_together() {
    let server = TestServer::start().await;
    let mut stream = server.open_tcp(Protocol::Socket).await;
    let mut alice = server.connect("alice").await;
    let say = b"{\"conn\":{\"at\":\"token-bob\",\"cl\":\"bob\"}}\0{\"sub\":{\"cn\":\"news\"}}\0";
    tokio::io::AsyncWriteExt::write_all(&mut stream, say).await.unwrap();
    let mut received = 0;
    let publish = [r#"{"pub":{"cn":"news","dt":1}}"#, r#"{"pub":{"cn":"news","dt":2,"q":1,"id":"1"}}"#];
    let mut buffer = vec![0; 64 * 1024];
    let mut saw = |buffer: &[u8]| {
        assert_eq!(buffer.last(), Some(&0), "{}", buffer.escape_ascii());
        received += buffer.iter().filter(|byte| **byte == 0).count();
        received
    };
    while within("the subAck", stream.read(&mut buffer)).await.map(|length| saw(&buffer[..length])).unwrap()
        < 2
    {}
    // Fewer than one channel may have unacknowledged (protocol.md 2.14).
    for round in 1..=90 {
        alice.send_all(&publish).await;
        alice.expect(r#"{"pubAck":{"st":1,"id":"1"}}"#).await;
        while within("pushes", stream.read(&mut buffer)).await.map(|length| saw(&buffer[..length])).unwrap()
            < 2 + 2 * round
        {}
    }
}

#[tokio::test] // §9.f: half a packet is no packet
async fn a_packet_cut_off_by_the_end_of_the_connection_is_ignored() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub("news").await;
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await;
    alice.send_bytes(br#"{"pub":{"cn":"news","dt":2}}"#).await; // no NUL
    drop(alice);
    server.app.expect_close("alice", CloseReason::ClosedByClient).await;
    bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":"alice"}}"#).await;
    bob.expect_nothing_before_hb().await;
    assert_eq!(server.counters().bad_packets, 0);
}

#[tokio::test] // §9.f: what was sent right before the end counts
async fn packets_right_before_the_end_are_handled() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    for protocol in Protocol::JMQT {
        let mut alice = server.connect_over(protocol, "alice").await;
        alice
            .send_all(&[r#"{"pub":{"cn":"news","dt":1}}"#, r#"{"pub":{"cn":"news","dt":2,"q":1,"id":"1"}}"#])
            .await;
        drop(alice); // without waiting for the ack
        let mut data = Vec::new();
        for push in bob.next_pushes(2).await {
            if push.is_qos1() {
                bob.ack(&push).await;
            }
            data.push(push.data().to_owned());
        }
        data.sort();
        assert_eq!(data, ["1", "2"], "{protocol}");
    }
}
