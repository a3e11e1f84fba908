//! A real server in this process, on ports of its own, with its store in a folder of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use jmqt_server::config::{Config, SslConfig};
use jmqt_server::{CountersSnapshot, Protocol, Publish, Server, ServerHandle};
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use super::{Client, Stream, TestApp, channel, within};

/// A running server with all four listeners.
pub struct TestServer {
    /// What the server asks; its answers can be chosen at any time.
    pub app: TestApp,
    config: Config,
    certificate: CertificateDer<'static>,
    folder: TempDir,
    server: Option<Server>,
}

impl TestServer {
    /// Starts with the defaults.
    pub async fn start() -> Self {
        Self::configured(|_| {}).await
    }

    /// Starts with a changed configuration.
    pub async fn configured(change: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (certificate, ssl) = self_signed(folder.path());
        let mut config = Config::default();
        config.bind_address = [127, 0, 0, 1].into();
        config.socket_port = Some(0);
        config.websocket_port = Some(0);
        config.ssl = Some(ssl);
        config.sqlite_path = folder.path().join("jmqt.db");
        // Tests take over as often as they like, except those of this limit.
        config.max_takeovers_per_second = None;
        change(&mut config);
        let mut server = Self { app: TestApp::new(), config, certificate, folder, server: None };
        server.start_again().await;
        server
    }

    async fn start_again(&mut self) {
        let builder = Server::builder(self.config.clone()).app(self.app.clone());
        let server = within("the start", builder.start()).await.unwrap();
        self.server = Some(server);
    }

    fn server(&self) -> &Server {
        self.server.as_ref().expect("it is not running")
    }

    /// Stops in order. Call [`restart`](Self::restart) to go on.
    pub async fn shutdown(&mut self) {
        if let Some(server) = self.server.take() {
            within("the shutdown", server.shutdown()).await;
        }
    }

    /// Stops in order, and starts again on the same store.
    pub async fn restart(&mut self) {
        self.restart_with(|_| {}).await;
    }

    /// The same, with a changed configuration.
    pub async fn restart_with(&mut self, change: impl FnOnce(&mut Config)) {
        self.shutdown().await;
        change(&mut self.config);
        self.start_again().await;
    }

    /// Starts a server with the current data on disk, as after a kill. The old server is then stopped, and its
    /// notices are discarded.
    pub async fn crash(&mut self) {
        self.crash_and(|_| {}).await;
    }

    /// As [`crash`](Self::crash); `before_the_start` may change the application's behaviour for the new server.
    pub async fn crash_and(&mut self, before_the_start: impl FnOnce(&TestApp)) {
        let copy = tempfile::tempdir().unwrap();
        // The database first: what is written between the two copies is in the log. (A checkpoint
        // in between would spoil it; the few pages of a test never bring one about.)
        for name in ["jmqt.db", "jmqt.db-wal"] {
            std::fs::copy(self.folder.path().join(name), copy.path().join(name)).unwrap();
        }
        self.shutdown().await;
        self.app.more_notices().await;
        self.config.sqlite_path = copy.path().join("jmqt.db");
        self.folder = copy;
        let (certificate, ssl) = self_signed(self.folder.path());
        (self.certificate, self.config.ssl) = (certificate, Some(ssl));
        before_the_start(&self.app);
        self.start_again().await;
    }

    /// Where its database is.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its configuration.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The server itself.
    pub fn running(&self) -> &Server {
        self.server()
    }

    /// Makes another certificate and key, in the same files, and trusts it from now on.
    pub fn renew_certificate(&mut self) {
        self.certificate = self_signed(self.folder.path()).0;
    }

    /// The server's own side.
    pub fn handle(&self) -> ServerHandle {
        self.server().handle()
    }

    pub fn counters(&self) -> CountersSnapshot {
        self.handle().counters()
    }

    pub fn address(&self, protocol: Protocol) -> SocketAddr {
        self.server().local_addr(protocol).expect("no such listener")
    }

    /// Whatever was committed when this is called has been delivered when it returns: the store
    /// settles in order, and this takes its place behind.
    pub async fn settle(&self) {
        let message = Publish::raw(channel("settle"), "0").unwrap();
        let handle = self.handle();
        let published = handle.force_pub(message.at_least_once());
        within("the store", published).await.unwrap();
    }

    // ---- connections -----------------------------------------------------------------------------

    /// A connection on which TLS and WebSocket are agreed, and nothing else.
    pub async fn open(&self, protocol: Protocol) -> Client {
        let stream = self.open_tcp(protocol).await;
        self.agree(protocol, stream).await
    }

    /// Agrees on TLS and WebSocket on a connection to this listener.
    pub async fn agree(&self, protocol: Protocol, stream: TcpStream) -> Client {
        let mut client = Client::new(protocol, self.encrypt(protocol, stream).await);
        if protocol.is_websocket() {
            client.upgrade().await;
        }
        client
    }

    /// Agrees on TLS on a connection to this listener, if it is one of TLS.
    pub async fn encrypt(&self, protocol: Protocol, stream: TcpStream) -> Box<dyn Stream> {
        if !protocol.is_tls() {
            return Box::new(stream);
        }
        let name = ServerName::try_from("localhost").unwrap();
        let handshake = self.tls_connector().connect(name, stream);
        Box::new(within("the TLS handshake", handshake).await.unwrap())
    }

    /// A TCP connection to this listener, on which nothing is agreed.
    pub async fn open_tcp(&self, protocol: Protocol) -> TcpStream {
        let connecting = TcpStream::connect(self.address(protocol));
        let stream = within("a connection", connecting).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// A connection to this listener whose bytes are what the test makes them.
    pub async fn open_raw(&self, protocol: Protocol) -> Client {
        Client::new(Protocol::Socket, self.open_tcp(protocol).await)
    }

    /// The file with this server's certificate.
    pub fn certificate_path(&self) -> std::path::PathBuf {
        self.folder.path().join("cert.pem")
    }

    /// Trusts this server's certificate.
    pub fn tls_connector(&self) -> TlsConnector {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate.clone()).unwrap();
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        TlsConnector::from(Arc::new(config))
    }

    /// A session of this client, over this listener, after an `auth`.
    pub async fn connect_over(&self, protocol: Protocol, name: &str) -> Client {
        let mut client = self.open(protocol).await;
        let auth = format!(r#"{{"auth":{{"dt":{{"client_name":"{name}"}}}}}}"#);
        client.send(&auth).await;
        let granted = format!(r#"{{"authAck":{{"st":1,"at":"token-{name}","cl":"{name}"}}}}"#);
        client.expect(&granted).await;
        client.conn_as(name, "").await;
        client
    }

    /// A session over TCP.
    pub async fn connect(&self, name: &str) -> Client {
        self.connect_over(Protocol::Socket, name).await
    }

    /// A session over a WebSocket.
    pub async fn websocket(&self, name: &str) -> Client {
        self.connect_over(Protocol::WebSocket, name).await
    }

    /// A session over TLS.
    pub async fn tls(&self, name: &str) -> Client {
        self.connect_over(Protocol::SslSocket, name).await
    }

    /// A session over a WebSocket over TLS.
    pub async fn tls_websocket(&self, name: &str) -> Client {
        self.connect_over(Protocol::SslWebSocket, name).await
    }

    /// A session over TCP with this window of unacknowledged pushes (`wn`).
    pub async fn connect_with_window(&self, name: &str, window: u32) -> Client {
        let mut client = self.open(Protocol::Socket).await;
        client.conn_as(name, &format!(r#","wn":{window}"#)).await;
        client
    }

    /// Drops the connection and makes a new one over TCP for the same client, with this window.
    pub async fn reconnect_with_window(&self, client: Client, window: u32) -> Client {
        let name = client.name().to_owned();
        drop(client);
        self.connect_with_window(&name, window).await
    }

    /// Drops the connection and makes a new one of the same kind for the same client.
    pub async fn reconnect(&self, client: Client) -> Client {
        let (protocol, name) = (client.protocol(), client.name().to_owned());
        drop(client);
        self.connect_over(protocol, &name).await
    }
}

/// A certificate for `localhost` in this folder.
fn self_signed(folder: &Path) -> (CertificateDer<'static>, SslConfig) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let (cert_path, key_path) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert_path, made.cert.pem()).unwrap();
    std::fs::write(&key_path, made.signing_key.serialize_pem()).unwrap();
    let mut ssl = SslConfig::new(cert_path, key_path);
    (ssl.socket_port, ssl.websocket_port) = (Some(0), Some(0));
    (made.cert.der().clone(), ssl)
}
