//! The HTTP request of a WebSocket: which web pages may connect, what validators see of it, and the client address in
//! it.

use crate::support::{Client, TestServer, client_id};
use jmqt_server::{ConnVerdict, Protocol};
use tokio::sync::mpsc;

/// A request for a WebSocket with these header lines.
fn upgrade(target: &str, lines: &str) -> Vec<u8> {
    format!(
        "GET {target} HTTP/1.1\r\nHost: localhost:8012\r\n{lines}Connection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
    .into_bytes()
}

/// A WebSocket that begins with this request.
async fn open(server: &TestServer, request: &[u8]) -> Client {
    let mut client = Client::new(Protocol::WebSocket, server.open_tcp(Protocol::WebSocket).await);
    client.send_bytes(request).await;
    client.upgraded().await;
    client
}

#[tokio::test] // RFC 6454
async fn a_web_page_of_another_origin_is_refused_with_the_reason() {
    let server = TestServer::configured(|config| {
        config.allowed_origins = vec!["https://app.example".parse().unwrap()];
    })
    .await;
    for lines in ["", "Origin: http://localhost:8000\r\n", "Origin: https://app.example\r\n"] {
        open(&server, &upgrade("/", lines)).await.conn_as("alice", "").await;
    }
    let mut page = server.open_raw(Protocol::WebSocket).await;
    page.send_bytes(&upgrade("/", "Origin: https://evil.example\r\n")).await;
    let answer = String::from_utf8(page.bytes_until_closed().await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("ALLOWED_ORIGINS"), "{answer}");
    assert_eq!(server.counters().origins_refused, 1);
}

#[tokio::test]
async fn the_http_request_is_visible_to_conn_and_then_dropped() {
    let server = TestServer::start().await;
    let (seen, mut told) = mpsc::unbounded_channel();
    let keeps = std::sync::Arc::new(std::sync::Mutex::new(None));
    let kept = std::sync::Arc::clone(&keeps);
    server.app.on_conn(move |request| {
        let Some(upgrade) = request.upgrade() else {
            seen.send("none".to_owned())?;
            return Ok(ConnVerdict::accept());
        };
        *keeps.lock().unwrap() = Some(std::sync::Arc::downgrade(upgrade));
        let query = upgrade.query().unwrap_or_default();
        seen.send(format!("{} {query} {}", upgrade.path(), upgrade.cookie("session").unwrap_or_default()))?;
        Ok(ConnVerdict::accept())
    });
    let request = upgrade("/chat?room=1", "Cookie: a=b; session=secret\r\n");
    let mut alice = open(&server, &request).await;
    alice.conn_as("alice", "").await;
    assert_eq!(told.recv().await.unwrap(), "/chat room=1 secret");
    alice.expect_nothing_before_hb().await;
    assert!(kept.lock().unwrap().take().unwrap().upgrade().is_none(), "an idle session keeps no request");
    let _bob = server.connect("bob").await;
    assert_eq!(told.recv().await.unwrap(), "none");
}

#[tokio::test] // an HTTP proxy sends no PROXY protocol header, and names the client in the request
async fn behind_an_http_proxy_the_client_address_comes_from_the_request() {
    let proxied = TestServer::configured(|config| {
        config.trusted_proxies = vec!["127.0.0.1".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
    })
    .await;
    let direct = TestServer::start().await;
    let lines = "X-Forwarded-For: 1.1.1.1, 192.0.2.7, 10.0.0.1\r\n";
    for (server, expected) in [(&proxied, "192.0.2.7:0"), (&direct, "127.0.0.1")] {
        let mut alice = open(server, &upgrade("/", lines)).await;
        alice.conn_as("alice", "").await;
        let connections = server.handle().connections();
        let (_, info) = connections.iter().find(|(client, _)| *client == client_id("alice")).unwrap();
        let remote = info.remote.to_string();
        assert!(remote.starts_with(expected), "{remote}");
    }
    assert_eq!(proxied.counters().proxy_headers_refused, 0);
}
