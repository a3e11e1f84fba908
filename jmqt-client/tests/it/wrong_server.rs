//! Servers other than the intended one: the error names the cause and a fix.

use std::time::Duration;

use crate::support::*;
use jmqt_client::{Client, ConnectError};
use jmqt_server::Protocol;

/// Generous: it only ends tests that have failed.
const LIMIT: Duration = Duration::from_secs(20);
/// Where the answer is that there is none. Name and connection count against it too, on a machine that may stall.
const NO_ANSWER: Duration = Duration::from_secs(5);

async fn refused(url: &str, limit: Duration) -> String {
    let mut config = config(url, "alice");
    config.connect_timeout = limit;
    Client::connect(config).await.unwrap_err().to_string()
}

#[tokio::test]
async fn an_http_server_is_recognised() {
    let server = ScriptedServer::start().await;
    let url = server.url("jmqt");
    let answering = tokio::spawn(async move {
        let mut script = server.accept().await;
        script.receive_raw().await;
        script.send_raw(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        script
    });
    let error = refused(&url, LIMIT).await;
    assert!(error.contains("is an HTTP server") && error.contains("ws://"), "{error}");
    drop(answering);
}

#[tokio::test]
async fn a_plain_socket_client_on_a_websocket_port_gets_a_hint() {
    let server = TestServer::start().await;
    let error = refused(&format!("jmqt://{}", server.address(Protocol::WebSocket)), LIMIT).await;
    assert!(error.contains("ws://"), "{error}");
}

#[tokio::test]
async fn a_websocket_client_on_a_socket_port_gets_a_hint() {
    let server = TestServer::start().await;
    let error = refused(&format!("ws://{}", server.address(Protocol::Socket)), LIMIT).await;
    assert!(
        error.contains("HTTP 400 instead of opening a WebSocket: This port is for JMQT over TCP"),
        "{error}"
    );
}

#[tokio::test]
async fn an_http_server_without_websockets_is_recognised() {
    let server = ScriptedServer::start().await;
    let url = server.url("ws");
    let answering = tokio::spawn(async move {
        let mut script = server.accept().await;
        script.receive_raw().await;
        script.send_raw(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
        script
    });
    let error = refused(&url, LIMIT).await;
    assert!(error.contains("HTTP 404 instead of opening a WebSocket"), "{error}");
    drop(answering);
}

#[tokio::test]
async fn a_client_without_tls_on_a_tls_port_gets_a_hint() {
    let server = TestServer::start().await;
    for (scheme, protocol, right) in
        [("jmqt", Protocol::SslSocket, "jmqts://"), ("ws", Protocol::SslWebSocket, "wss://")]
    {
        let error = refused(&format!("{scheme}://{}", server.address(protocol)), LIMIT).await;
        assert!(error.contains("this port is for TLS") && error.contains(right), "{error}");
    }
}

#[tokio::test]
async fn a_tls_client_on_a_plain_port_gets_a_hint() {
    let server = TestServer::start().await;
    for (scheme, protocol) in [("jmqts", Protocol::Socket), ("wss", Protocol::WebSocket)] {
        let error = refused(&format!("{scheme}://{}", server.address(protocol)), LIMIT).await;
        assert!(error.contains("TLS") && error.contains("jmqt://"), "{error}");
    }
}

#[tokio::test]
async fn a_refused_connection_is_reported_with_the_address() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let error = refused(&format!("jmqt://{address}"), LIMIT).await;
    assert!(error.starts_with(&format!("cannot connect to {address}")), "{error}");
    let error = refused("jmqt://no-such-host.invalid", NO_ANSWER).await;
    // A name server that cannot be reached may take longer to say so.
    let is_slow = error.starts_with("name: no answer within") && error.contains("check the name server");
    assert!(is_slow || error.contains("no-such-host.invalid"), "{error}");
}

#[tokio::test]
async fn a_server_that_never_answers_costs_the_connect_timeout() {
    let server = ScriptedServer::start().await;
    let url = server.url("jmqt");
    let silent = tokio::spawn(async move { server.accept().await });
    let error = refused(&url, NO_ANSWER).await;
    assert!(error.starts_with("auth: no answer within 5s"), "{error}");
    drop(silent);
}

#[tokio::test] // the certificate's CA is not trusted, its name is another one, the files are wrong
async fn certificate_errors_name_the_cause_and_a_fix() {
    let server = TestServer::start().await;
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, made.cert.pem()).unwrap();
    let address = server.address(Protocol::SslSocket);

    let mut config = config(&format!("jmqts://localhost:{}", address.port()), "alice");
    config.tls.ca_path = Some(ca.clone());
    let error = Client::connect(config.clone()).await.unwrap_err().to_string();
    assert!(error.contains("certificate") && error.contains("SSL_CA_PATH"), "{error}");

    config.tls.ca_path = Some(folder.path().join("nowhere.pem"));
    let error = Client::connect(config.clone()).await.unwrap_err();
    assert!(matches!(error, ConnectError::File { key: "SSL_CA_PATH", .. }), "{error}");
    assert!(error.is_final());

    std::fs::write(&ca, "no certificate").unwrap();
    config.tls.ca_path = Some(ca.clone());
    let error = Client::connect(config.clone()).await.unwrap_err().to_string();
    assert!(error.contains("no certificate found"), "{error}");

    config.tls.ca_path = None;
    config.tls.cert_path = Some(ca);
    let error = Client::connect(config).await.unwrap_err().to_string();
    assert!(error.contains("set SSL_KEY_PATH too"), "{error}");
}

#[tokio::test] // §11
async fn own_ca_and_server_name_make_tls_work_on_both_transports() {
    let server = TestServer::start().await;
    for (scheme, protocol) in [("jmqts", Protocol::SslSocket), ("wss", Protocol::SslWebSocket)] {
        let mut config = config(&format!("{scheme}://{}", server.address(protocol)), "alice");
        config.tls.ca_path = Some(server.certificate_path());
        let error = Client::connect(config.clone()).await.unwrap_err().to_string();
        assert!(
            error.contains("not valid for 127.0.0.1, only for") && error.contains("SSL_SERVER_NAME"),
            "{error}"
        );
        config.tls.server_name = Some("localhost".to_owned());
        let alice = Client::connect(config).await.unwrap();
        let bob = connect(&server, "bob").await;
        let mut news = alice.subscribe(&channel("news"), jmqt_client::Persistence::Temporary).await.unwrap();
        for number in 0..1000 {
            bob.publish(&jmqt_client::Publish::json(channel("news"), &number).unwrap()).await.unwrap();
        }
        for number in 0..1000 {
            assert_eq!(next(&mut news).await.json::<i32>().unwrap(), number);
        }
        alice.close().await;
    }
}

#[tokio::test] // §11
async fn the_authority_may_be_given_as_text() {
    let server = TestServer::start().await;
    let there = format!("jmqts://localhost:{}", server.address(Protocol::SslSocket).port());
    let pem = std::fs::read_to_string(server.certificate_path()).unwrap();
    Client::connect(config(&there, "alice").tls_ca_pem(pem)).await.unwrap().close().await;
    let error = Client::connect(config(&there, "alice").tls_ca_pem("x")).await.unwrap_err().to_string();
    assert!(error.contains("no certificate found"), "{error}");
}
