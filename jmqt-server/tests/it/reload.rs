//! Changes while the server runs, of certificates and limits, without disconnecting clients.

use crate::support::TestServer;
use jmqt_server::{Config, Protocol};
use tokio_rustls::rustls::pki_types::ServerName;

/// Whether a new connection is served a certificate that this connector trusts.
async fn is_trusted(server: &TestServer, connector: &tokio_rustls::TlsConnector) -> bool {
    let stream = server.open_tcp(Protocol::SslSocket).await;
    connector.connect(ServerName::try_from("localhost").unwrap(), stream).await.is_ok()
}

#[tokio::test]
async fn a_new_certificate_is_used_for_new_connections_only() {
    let mut server = TestServer::start().await;
    let mut alice = server.tls("alice").await;
    let old = server.tls_connector();
    assert!(is_trusted(&server, &old).await);

    server.renew_certificate();
    server.running().reload_certificates().await;
    assert!(!is_trusted(&server, &old).await);
    assert!(is_trusted(&server, &server.tls_connector()).await);
    alice.expect_nothing_before_hb().await;
}

#[tokio::test]
async fn an_invalid_pair_keeps_the_old_certificate() {
    let mut server = TestServer::start().await;
    let old = server.tls_connector();
    let certificate = server.certificate_path();
    let before = std::fs::read(&certificate).unwrap();
    server.renew_certificate();
    std::fs::write(&certificate, before).unwrap(); // the new key without its certificate
    server.running().reload_certificates().await;
    assert!(is_trusted(&server, &old).await);
    std::fs::remove_file(&certificate).unwrap();
    server.running().reload_certificates().await;
    assert!(is_trusted(&server, &old).await);
}

#[tokio::test]
async fn certificates_are_reloaded_when_the_files_change() {
    let mut server = TestServer::start().await;
    let old = server.tls_connector();
    server.renew_certificate();
    let new = server.tls_connector();
    // Two looks, five seconds apart, must see the same.
    for attempt in 0.. {
        if is_trusted(&server, &new).await {
            break;
        }
        assert!(attempt < 300, "still the old certificate");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(!is_trusted(&server, &old).await);
}

#[tokio::test]
async fn max_connections_can_change_without_disconnecting_clients() {
    let server = TestServer::configured(|config| config.max_connections = 1).await;
    let mut alice = server.connect("alice").await;
    let mut config = Config::default();
    config.max_connections = 2;
    server.running().reload(&config).unwrap();
    let mut bob = server.connect("bob").await;
    config.max_connections = 1;
    server.running().reload(&config).unwrap();
    server.open(Protocol::Socket).await.bytes_until_closed().await;
    alice.expect_nothing_before_hb().await;
    bob.expect_nothing_before_hb().await;

    config.max_connections = 0;
    let error = server.running().reload(&config).unwrap_err().to_string();
    assert!(error.contains("max_connections"), "{error}");
}
