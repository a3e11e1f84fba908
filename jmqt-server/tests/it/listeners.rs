//! Sockets that the application has bound, and a shutdown by the application.

use jmqt_server::prelude::*;
use jmqt_server::{StartError, config};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::support::{Client, TestApp, within};

fn configured(folder: &TempDir) -> Config {
    let mut config = Config::default();
    config.bind_address = [127, 0, 0, 1].into();
    config.sqlite_path = folder.path().join("jmqt.db");
    (config.socket_port, config.websocket_port) = (None, None);
    config
}

#[tokio::test]
async fn a_server_serves_on_sockets_that_the_application_has_bound() {
    let folder = tempfile::tempdir().unwrap();
    let of_tokio = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let of_std = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addresses = [of_tokio.local_addr().unwrap(), of_std.local_addr().unwrap()];
    let app = TestApp::new();
    let builder = Server::builder(configured(&folder)).app(app.clone());
    let builder = builder.listener(Protocol::Socket, of_tokio).listener(Protocol::Socket, of_std);
    let server = within("the start", builder.start()).await.unwrap();
    assert_eq!(server.local_addr(Protocol::Socket), Some(addresses[0]));
    assert_eq!(server.local_addr(Protocol::WebSocket), None);
    for (name, address) in ["alice", "bob"].into_iter().zip(addresses) {
        let stream = TcpStream::connect(address).await.unwrap();
        Client::new(Protocol::Socket, stream).conn_as(name, "").await;
    }
    within("the shutdown", server.shutdown()).await;
    let refused = within("an answer", TcpStream::connect(addresses[0])).await;
    assert!(refused.is_err(), "it stops listening there too");
}

#[tokio::test]
async fn a_socket_of_the_application_replaces_the_configured_port() {
    let folder = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let mut config = configured(&folder);
    config.socket_port = Some(address.port()); // taken: binding it again would fail
    let builder = Server::builder(config).app(TestApp::new()).listener(Protocol::Socket, socket);
    let server = within("the start", builder.start()).await.unwrap();
    assert_eq!(server.local_addr(Protocol::Socket), Some(address));
    within("the shutdown", server.shutdown()).await;
}

#[tokio::test]
async fn a_socket_for_tls_needs_a_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let builder = Server::builder(configured(&folder)).app(TestApp::new());
    let error = builder.listener(Protocol::SslSocket, socket).start().await.err().unwrap();
    assert!(matches!(error, StartError::NoCertificate { protocol: Protocol::SslSocket }), "{error}");
    assert!(error.is_mistake());
}

#[tokio::test]
async fn a_server_stops_in_order_when_the_application_requests_it() {
    let folder = tempfile::tempdir().unwrap();
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let builder = Server::builder(configured(&folder)).app(TestApp::new());
    let server = builder.listener(Protocol::Socket, socket).start().await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(server.run_until(async { drop(stopped.await) }));
    let mut alice = Client::new(Protocol::Socket, TcpStream::connect(address).await.unwrap());
    alice.conn_as("alice", "").await;
    assert!(!running.is_finished());
    stop.send(()).unwrap();
    assert_eq!(alice.told().await.code, 4000);
    within("the end", running).await.unwrap().unwrap();
    // The database is free again.
    let mut config = configured(&folder);
    config.socket_port = Some(0);
    let again = Server::builder(config).app(TestApp::new()).start().await.unwrap();
    within("the shutdown", again.shutdown()).await;
}

#[tokio::test]
async fn a_server_without_socket_and_port_does_not_start() {
    let folder = tempfile::tempdir().unwrap();
    let builder = Server::builder(configured(&folder)).app(TestApp::new());
    let error = builder.start().await.err().unwrap();
    assert!(matches!(error, StartError::Config(config::ConfigError::Incomplete { .. })), "{error}");
}
