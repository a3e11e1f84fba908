//! The PROXY protocol, versions 1 and 2, with the client addresses behind a load balancer.
//!
//! The headers are tested in `listener/proxy.rs`. These tests check which peers must send a header, on which
//! listeners, and who sees the address.

use crate::support;

use std::time::Duration;

use crate::mqtt::{Device, Login};
use crate::support::{Client, TestServer};
use jmqt_mqtt::{ReasonCode, Version};
use jmqt_server::{Config, ConnVerdict, Protocol};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::sync::mpsc;

const V1: &[u8] = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 8010\r\n";
const V1_IPV6: &[u8] = b"PROXY TCP6 2001:db8::7 2001:db8::1 40000 8010\r\n";
/// As `jmqt-lb` sends it.
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\x40\x1f\x4a";
const V2_IPV6: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24\
    \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x07\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\x9c\x40\x1f\x4a";
/// With the head of a TLV of 300 bytes behind the addresses.
const V2_WITH_TLV: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x01\x3b\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\x40\x1f\x4a\xe0\x01\x2c";
const V2_LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00";
const IPV4_CLIENT: &str = "192.0.2.7:40000";
const IPV6_CLIENT: &str = "[2001:db8::7]:40000";

fn trust(config: &mut Config, networks: &[&str]) {
    config.trusted_proxies = networks.iter().map(|network| network.parse().unwrap()).collect();
}

/// A server that takes the connections of tests for those of a load balancer.
async fn behind_a_proxy() -> TestServer {
    TestServer::configured(|config| trust(config, &["10.0.0.0/8", "127.0.0.0/8"])).await
}

/// A TCP connection on which this has been said.
async fn open_with(server: &TestServer, protocol: Protocol, header: &[u8]) -> TcpStream {
    let mut stream = server.open_tcp(protocol).await;
    stream.write_all(header).await.unwrap();
    stream
}

/// A session on a connection that begins with this header.
async fn connect_with(server: &TestServer, protocol: Protocol, header: &[u8], name: &str) -> Client {
    let stream = open_with(server, protocol, header).await;
    let mut client = server.agree(protocol, stream).await;
    client.conn_as(name, "").await;
    client
}

/// The remote address of this client according to the server.
fn address_of(server: &TestServer, client: &Client) -> String {
    let connections = server.handle().connections();
    let (_, info) = connections.iter().find(|(id, _)| id.as_str() == client.name()).unwrap();
    info.remote.to_string()
}

#[tokio::test]
async fn on_every_listener_the_header_comes_first() {
    let server = behind_a_proxy().await;
    let headers = [(V1, IPV4_CLIENT), (V1_IPV6, IPV6_CLIENT), (V2, IPV4_CLIENT), (V2_IPV6, IPV6_CLIENT)];
    for protocol in Protocol::JMQT {
        for (index, (header, address)) in headers.into_iter().enumerate() {
            let client = connect_with(&server, protocol, header, &format!("{protocol}-{index}")).await;
            assert_eq!(address_of(&server, &client), address, "{protocol} {}", header.escape_ascii());
        }
    }
    assert_eq!(server.counters().proxy_headers_refused, 0);
}

#[tokio::test]
async fn on_the_listeners_for_mqtt_the_header_comes_first_too() {
    let server = TestServer::configured(|config| {
        trust(config, &["127.0.0.0/8"]);
        config.mqtt_port = Some(0);
        config.ssl.as_mut().unwrap().mqtt_port = Some(0);
    })
    .await;
    for protocol in [Protocol::Mqtt, Protocol::SslMqtt] {
        for (header, address) in [(V1, IPV4_CLIENT), (V2, IPV4_CLIENT), (V2_IPV6, IPV6_CLIENT)] {
            let stream = open_with(&server, protocol, header).await;
            let mut device = Device::over(server.encrypt(protocol, stream).await, Version::V5);
            assert_eq!(device.connect(Login::of("device")).await.0, ReasonCode::SUCCESS);
            let connections = server.handle().connections();
            let [(_, info)] = &connections[..] else { panic!("{connections:?}") };
            assert_eq!((info.remote.to_string().as_str(), info.protocol), (address, protocol));
        }
    }
    assert_eq!(server.counters().proxy_headers_refused, 0);
}

#[tokio::test]
async fn header_fields_after_the_addresses_are_skipped() {
    let server = behind_a_proxy().await;
    let header = [V2_WITH_TLV, &[b'x'; 300]].concat();
    let alice = connect_with(&server, Protocol::SslWebSocket, &header, "alice").await;
    assert_eq!(address_of(&server, &alice), IPV4_CLIENT);
}

#[tokio::test]
async fn a_header_may_arrive_byte_by_byte() {
    let server = behind_a_proxy().await;
    for (name, header) in [("alice", V1), ("bob", V2)] {
        let mut client = server.open_raw(Protocol::Socket).await;
        for byte in header {
            client.send_bytes(&[*byte]).await;
            tokio::task::yield_now().await; // to the server, which is on the same thread
        }
        client.conn_as(name, "").await;
        assert_eq!(address_of(&server, &client), IPV4_CLIENT);
    }
}

#[tokio::test]
async fn packets_may_arrive_in_the_same_write_as_the_header() {
    let server = behind_a_proxy().await;
    for (name, header) in [("alice", V1), ("bob", V2)] {
        let mut client = server.open_raw(Protocol::Socket).await;
        let conn = format!(r#"{{"conn":{{"at":"token-{name}","cl":"{name}"}}}}"#);
        let all = [header, conn.as_bytes(), b"\0", br#"{"hb":{}}"#, b"\0"].concat();
        client.send_bytes(&all).await;
        client.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
        client.expect(r#"{"hbAck":{}}"#).await;
    }
}

#[tokio::test] // only the first one is a header
async fn a_second_header_ends_the_connection() {
    let server = behind_a_proxy().await;
    let mut alice = server.open_raw(Protocol::Socket).await;
    alice.send_bytes(&[V1, V1].concat()).await;
    assert_eq!(alice.bytes_until_closed().await, b"");
    assert_eq!(server.counters().wrong_ports, 1);
}

#[tokio::test]
async fn validators_see_the_client_and_not_the_proxy() {
    let server = behind_a_proxy().await;
    let (seen, mut told) = mpsc::unbounded_channel();
    server.app.on_conn(move |request| {
        seen.send((request.connection.remote.to_string(), request.connection.protocol)).unwrap();
        Ok(ConnVerdict::accept())
    });
    let _alice = connect_with(&server, Protocol::SslSocket, V2_IPV6, "alice").await;
    assert_eq!(told.recv().await.unwrap(), (IPV6_CLIENT.to_owned(), Protocol::SslSocket));
}

#[tokio::test] // the balancer's own connections, and clients whose address is of another kind
async fn a_header_without_addresses_keeps_the_peer_address() {
    let server = behind_a_proxy().await;
    let headers: [&[u8]; 5] = [
        V2_LOCAL,
        b"\r\n\r\n\0\r\nQUIT\n\x20\x11\x00\x0c\xc0\x00\x02\x07\xc6\x33\x64\x01\x9c\x40\x1f\x4a",
        b"\r\n\r\n\0\r\nQUIT\n\x21\x00\x00\x00",
        b"PROXY UNKNOWN\r\n",
        b"PROXY UNKNOWN 192.0.2.7 198.51.100.1 40000 8010\r\n",
    ];
    for (index, header) in headers.into_iter().enumerate() {
        let stream = open_with(&server, Protocol::WebSocket, header).await;
        let peer = stream.local_addr().unwrap().to_string();
        let mut client = server.agree(Protocol::WebSocket, stream).await;
        client.conn_as(&format!("c{index}"), "").await;
        assert_eq!(address_of(&server, &client), peer, "{}", header.escape_ascii());
    }
}

#[tokio::test] // a check of jmqt-lb, and one of a balancer that knows no headers
async fn health_checks_are_not_counted_as_errors() {
    let server = behind_a_proxy().await;
    for protocol in Protocol::JMQT {
        for header in [V2_LOCAL, b""] {
            let mut stream = open_with(&server, protocol, header).await;
            stream.shutdown().await.unwrap();
            Client::new(Protocol::Socket, stream).bytes_until_closed().await;
        }
    }
    assert_eq!(server.counters().proxy_headers_refused, 0);
}

#[tokio::test]
async fn a_trusted_proxy_without_a_valid_header_is_refused() {
    let server = behind_a_proxy().await;
    let mut refused = 0;
    for protocol in Protocol::JMQT {
        for beginning in [
            b"{\"conn\":{\"at\":\"token-alice\",\"cl\":\"alice\"}}\0".as_slice(),
            support::UPGRADE,
            b"PROXY TCP4 192.0.2.7\r\n",
            b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 8010\n",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x04\xc0\x00\x02\x07",
            b"\r\n\r\n\0\r\nQUIT\n\x31\x11\x00\x0c",
            b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x0f\xf1", // longer than anybody needs: not waited for
        ] {
            if protocol == Protocol::WebSocket && beginning == support::UPGRADE {
                continue; // an HTTP proxy sends no header
            }
            let stream = open_with(&server, protocol, beginning).await;
            let answer = Client::new(Protocol::Socket, stream).bytes_until_closed().await;
            assert!(answer.is_empty(), "{}", answer.escape_ascii());
            refused += 1;
            assert_eq!(server.counters().proxy_headers_refused, refused, "{}", beginning.escape_ascii());
        }
    }
    assert_eq!(server.counters().bad_packets, 0);
    assert_eq!(server.app.more_notices().await, []);
}

#[tokio::test]
async fn a_proxy_that_leaves_within_its_header_is_counted() {
    let server = behind_a_proxy().await;
    let mut stream = open_with(&server, Protocol::Socket, &V1[..20]).await;
    stream.shutdown().await.unwrap();
    Client::new(Protocol::Socket, stream).bytes_until_closed().await;
    assert_eq!(server.counters().proxy_headers_refused, 1);
}

#[tokio::test] // protocol.md 2.15: the header counts within the time to the first packet
async fn a_header_has_the_time_limit_of_a_first_packet() {
    let server = TestServer::configured(|config| {
        config.timeout = Duration::from_secs(1);
        trust(config, &["127.0.0.1"]);
    })
    .await;
    let mut waiting = Vec::new();
    for protocol in Protocol::JMQT {
        for beginning in [b"".as_slice(), &V1[..20], &V2[..20]] {
            waiting.push(open_with(&server, protocol, beginning).await);
        }
    }
    for stream in waiting {
        Client::new(Protocol::Socket, stream).bytes_until_closed().await;
    }
    assert_eq!(server.counters().proxy_headers_refused, 12);
    for protocol in Protocol::JMQT {
        let stream = open_with(&server, protocol, V1).await; // and then nothing
        Client::new(Protocol::Socket, stream).bytes_until_closed().await;
    }
    assert_eq!(server.counters().proxy_headers_refused, 12);
}

#[tokio::test] // anybody could name any address
async fn headers_of_untrusted_peers_are_not_accepted() {
    let server = TestServer::configured(|config| trust(config, &["10.0.0.0/8", "::1"])).await;
    for (count, header) in [(1, V1), (2, V2)] {
        let mut client = server.open_raw(Protocol::Socket).await;
        client.send_bytes(header).await;
        // At once, and the log names TRUSTED_PROXIES.
        assert_eq!(client.bytes_until_closed().await, b"");
        assert_eq!(server.counters().wrong_ports, count);
    }
    assert_eq!(server.counters().proxy_headers_refused, 0);
}

#[tokio::test] // a listener on `::` sees IPv4 peers as IPv6 addresses
async fn a_mapped_peer_is_matched_as_ipv4() {
    let server = TestServer::configured(|config| {
        config.bind_address = "::ffff:127.0.0.1".parse().unwrap();
        trust(config, &["127.0.0.1"]);
    })
    .await;
    let alice = connect_with(&server, Protocol::Socket, V1, "alice").await;
    assert_eq!(address_of(&server, &alice), IPV4_CLIENT);
}

#[tokio::test] // MAX_CONNECTIONS: a connection counts before its header has come
async fn a_connection_without_its_header_counts_towards_the_limit() {
    let server = TestServer::configured(|config| {
        config.max_connections = 1;
        trust(config, &["127.0.0.1"]);
    })
    .await;
    let mut first = open_with(&server, Protocol::Socket, &V1[..10]).await;
    let mut second = server.open_raw(Protocol::Socket).await;
    let refusal = second.bytes_until_closed().await;
    assert!(refusal.starts_with(br#"{"disconn":{"st":4006,"#), "{}", refusal.escape_ascii());
    assert_eq!(server.counters().connections_refused, 1);
    first.write_all(&V1[10..]).await.unwrap();
    let mut alice = server.agree(Protocol::Socket, first).await;
    alice.conn_as("alice", "").await;
    assert_eq!(address_of(&server, &alice), IPV4_CLIENT);
}

#[tokio::test] // protocol.md 2.16
async fn a_shutdown_does_not_wait_for_headers() {
    let mut server = behind_a_proxy().await;
    let mut waiting = Vec::new();
    for protocol in Protocol::JMQT {
        waiting.push(open_with(&server, protocol, &V2[..13]).await);
    }
    server.shutdown().await;
    for stream in waiting {
        Client::new(Protocol::Socket, stream).bytes_until_closed().await;
    }
}
