//! Limits for each address, which tests tell the server in a proxy's name: all of them come from 127.0.0.1.

use crate::support::{Client, Incoming, TestServer};
use jmqt_server::Protocol;

async fn limited(connections: Option<u32>, connects_per_second: Option<u32>) -> TestServer {
    TestServer::configured(|config| {
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap()];
        config.max_connections_per_address = connections;
        config.max_connects_per_address_per_second = connects_per_second;
    })
    .await
}

/// A connection of the client with this address, which has said nothing.
async fn open_from(server: &TestServer, address: &str) -> Client {
    let mut client = server.open_raw(Protocol::Socket).await;
    let (family, to) = if address.contains(':') { ("TCP6", "::1") } else { ("TCP4", "127.0.0.1") };
    client.send_bytes(format!("PROXY {family} {address} {to} 40000 8010\r\n").as_bytes()).await;
    client
}

/// A connection of the client with this address, or `None` if it is turned away.
async fn connect_from(server: &TestServer, address: &str) -> Option<Client> {
    let mut client = open_from(server, address).await;
    client.send_bytes_until_refused(b"{\"auth\":{\"dt\":{\"client_name\":\"alice\"}}}\0").await;
    let is_served =
        matches!(client.incoming().await, Incoming::Packet(text) if text.starts_with(r#"{"authAck""#));
    is_served.then_some(client)
}

#[tokio::test] // MAX_CONNECTIONS_PER_ADDRESS
async fn connections_of_an_address_are_limited_and_counted_down() {
    let server = limited(Some(2), None).await;
    let alice = connect_from(&server, "192.0.2.1").await.unwrap();
    let _other = connect_from(&server, "192.0.2.1").await.unwrap();
    let refusal = open_from(&server, "192.0.2.1").await.bytes_until_closed().await;
    let refusal = String::from_utf8(refusal).unwrap();
    // protocol.md 2.22: TRY_LATER
    assert!(refusal.starts_with(r#"{"disconn":{"st":4006,"mg":"too many connections"#), "{refusal}");
    let mut websocket = server.open_raw(Protocol::WebSocket).await;
    websocket.send_bytes(b"PROXY TCP4 192.0.2.1 127.0.0.1 40000 8011\r\n").await;
    let refusal = String::from_utf8(websocket.bytes_until_closed().await).unwrap();
    assert!(refusal.starts_with("HTTP/1.1 503 "), "{refusal}");
    assert!(refusal.contains("\r\nRetry-After: 5\r\n"), "{refusal}");
    assert!(refusal.ends_with("\r\n\r\ntoo many connections from this address\n"), "{refusal}");
    let _bob = connect_from(&server, "192.0.2.2").await.unwrap();
    assert_eq!(server.counters().connections_refused_by_address, 2);

    drop(alice);
    for attempt in 0.. {
        if connect_from(&server, "192.0.2.1").await.is_some() {
            break;
        }
        assert!(attempt < 1000, "the place is not given back");
        tokio::task::yield_now().await;
    }
}

#[tokio::test] // the first 64 bits of an IPv6 address are one customer
async fn addresses_of_one_ipv6_network_are_counted_together() {
    let server = limited(Some(1), None).await;
    let _alice = connect_from(&server, "2001:db8::1").await.unwrap();
    assert!(connect_from(&server, "2001:db8::2").await.is_none());
    assert!(connect_from(&server, "2001:db8:0:1::1").await.is_some());
}

#[tokio::test] // MAX_CONNECTS_PER_ADDRESS_PER_SECOND
async fn connections_of_an_address_per_second_are_limited() {
    let server = limited(None, Some(1)).await;
    let mut refused = 0;
    for _ in 0..20 {
        refused += u32::from(connect_from(&server, "192.0.2.1").await.is_none());
        let _ = connect_from(&server, &format!("192.0.2.{}", 100 + refused)).await.unwrap();
    }
    assert!(refused > 0, "twenty connections did not take twenty seconds");
}

#[tokio::test] // as from tests, measurements, and proxies that do not say for whom
async fn loopback_addresses_have_no_limit() {
    let server = TestServer::configured(|config| {
        config.max_connections_per_address = Some(1);
        config.max_connects_per_address_per_second = Some(1);
    })
    .await;
    let _clients = [server.connect("alice").await, server.connect("bob").await, server.connect("eve").await];
    assert_eq!(server.counters().connections_refused_by_address, 0);
}
