//! TLS clients with certificates: who is let in, and what validators see (docs/configuration.md, SSL_CLIENT_CERT).

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jmqt_mqtt::{ReasonCode, Version};
use jmqt_server::config::ClientCertificates;
use jmqt_server::{ConnVerdict, Protocol};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

use crate::mqtt::{Device, Login};
use crate::support::{Client, DEADLINE, TestServer, within};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority(name: &str) -> Authority {
    Authority::self_signed(authority_params(name), KeyPair::generate().unwrap()).unwrap()
}

fn authority_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

/// What a client proves its identity with.
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

impl Identity {
    fn new(authority: &Authority, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Lights, Inc.");
        params.distinguished_name.push(DnType::CommonName, "lamp-7");
        change(&mut params);
        let certificate = params.signed_by(&key, authority).unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        Self { chain: vec![certificate.der().clone()], key }
    }
}

/// A server whose TLS listeners ask for certificates that `authority` has issued.
async fn start(authority: &Authority, wanted: impl FnOnce(PathBuf) -> ClientCertificates) -> TestServer {
    TestServer::configured(|config| {
        let ssl = config.ssl.as_mut().unwrap();
        let ca_path = ssl.cert_path.with_file_name("ca.pem");
        std::fs::write(&ca_path, authority.pem()).unwrap();
        ssl.client_certificates = wanted(ca_path);
        (ssl.mqtt_port, ssl.mqtt_websocket_port) = (Some(0), Some(0));
    })
    .await
}

fn required(ca_path: PathBuf) -> ClientCertificates {
    ClientCertificates::Required { ca_path }
}

fn optional(ca_path: PathBuf) -> ClientCertificates {
    ClientCertificates::Optional { ca_path }
}

/// A connection on which the client has shown this identity. With TLS 1.3 it may be refused afterwards.
async fn dial(
    server: &TestServer,
    protocol: Protocol,
    identity: Option<&Identity>,
    version: &'static SupportedProtocolVersion,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(server.certificate_path()).unwrap()).unwrap();
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some(Identity { chain, key }) => {
            builder.with_client_auth_cert(chain.clone(), key.clone_key()).unwrap()
        }
    };
    let connector = TlsConnector::from(Arc::new(config));
    let stream = server.open_tcp(protocol).await;
    within("a handshake", connector.connect(ServerName::try_from("localhost").unwrap(), stream)).await
}

/// The server refuses this client, and counts it.
async fn is_refused(
    server: &TestServer,
    identity: Option<&Identity>,
    version: &'static SupportedProtocolVersion,
) {
    let before = server.counters();
    if let Ok(mut stream) = dial(server, Protocol::SslSocket, identity, version).await {
        // The server may have closed the connection already.
        let _ = stream.write_all(b"{\"hb\":{}}\0").await;
        let answer = within("an alert", stream.read(&mut [0; 100])).await;
        assert!(answer.is_err(), "{answer:?}");
    }
    let counted = async {
        while server.counters().client_certificates_refused != before.client_certificates_refused + 1 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    within("the counter", counted).await;
    assert_eq!(server.counters().tls_handshakes_failed, before.tls_handshakes_failed + 1);
}

/// The client gets a session, and is named by its certificate.
async fn is_accepted(server: &TestServer, identity: &Identity) {
    let stream = dial(server, Protocol::SslSocket, Some(identity), &TLS13).await.unwrap();
    let mut client = Client::new(Protocol::SslSocket, stream);
    client.send(r#"{"auth":{"dt":{}}}"#).await;
    client.expect(r#"{"authAck":{"st":1,"at":"token-lamp-7","cl":"lamp-7"}}"#).await;
}

#[tokio::test]
async fn both_validators_see_the_certificate_in_both_languages() {
    let root = authority("root");
    let server = start(&root, required).await;
    let middle =
        Authority::signed_by(authority_params("middle"), KeyPair::generate().unwrap(), &root).unwrap();
    let mut lamp = Identity::new(&middle, |_| {});
    lamp.chain.push(middle.der().clone());
    let (seen, mut told) = mpsc::unbounded_channel();
    server.app.on_conn(move |request| {
        let certificate = request.certificate().cloned();
        seen.send(certificate)?;
        Ok(ConnVerdict::accept())
    });
    for (protocol, version) in
        [(Protocol::SslSocket, &TLS13), (Protocol::SslWebSocket, &TLS13), (Protocol::SslSocket, &TLS12)]
    {
        let stream = dial(&server, protocol, Some(&lamp), version).await.unwrap();
        let mut client = Client::new(protocol, stream);
        if protocol.is_websocket() {
            client.upgrade().await;
        }
        // The auth validator names a client by its certificate.
        client.send(r#"{"auth":{"dt":{}}}"#).await;
        client.expect(r#"{"authAck":{"st":1,"at":"token-lamp-7","cl":"lamp-7"}}"#).await;
        client.conn_as("lamp-7", "").await;
        let certificate = told.recv().await.unwrap().unwrap();
        assert_eq!(certificate.common_name(), Some("lamp-7"));
        assert_eq!(certificate.subject(), r"CN=lamp-7,O=Lights\, Inc.");
        let chain: Vec<&[u8]> = lamp.chain.iter().map(|certificate| certificate.as_ref()).collect();
        assert_eq!(certificate.chain().collect::<Vec<_>>(), chain);
    }
    for version in [Version::V3_1_1, Version::V5] {
        let stream = dial(&server, Protocol::SslMqtt, Some(&lamp), &TLS13).await.unwrap();
        let mut device = Device::over(stream, version);
        let (reason, _, assigned) = device.connect(Login { user: None, ..Login::of("") }).await;
        assert_eq!(reason, ReasonCode::SUCCESS);
        assert_eq!(assigned.is_some(), version == Version::V5);
        assert_eq!(told.recv().await.unwrap().unwrap().common_name(), Some("lamp-7"));
    }
    assert_eq!(server.counters().tls_handshakes_failed, 0);
}

#[tokio::test]
async fn a_required_certificate_must_be_valid_and_of_a_known_authority() {
    let known = authority("known");
    let server = start(&known, required).await;
    let unknown = Identity::new(&authority("unknown"), |_| {});
    let expired = Identity::new(&known, |params| {
        (params.not_before, params.not_after) =
            (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2021, 1, 1));
    });
    let of_a_server = Identity::new(&known, |params| {
        params.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    });
    for version in [&TLS12, &TLS13] {
        is_refused(&server, None, version).await;
        for identity in [&unknown, &expired, &of_a_server] {
            is_refused(&server, Some(identity), version).await;
        }
    }
    is_accepted(&server, &Identity::new(&known, |_| {})).await;
}

#[tokio::test]
async fn an_optional_certificate_may_be_missing_but_not_of_another_authority() {
    let known = authority("known");
    let server = start(&known, optional).await;
    is_accepted(&server, &Identity::new(&known, |_| {})).await;
    is_refused(&server, Some(&Identity::new(&authority("unknown"), |_| {})), &TLS13).await;
    let (seen, mut told) = mpsc::unbounded_channel();
    server.app.on_conn(move |request| {
        seen.send(request.certificate().is_some())?;
        Ok(ConnVerdict::accept())
    });
    server.tls("alice").await;
    assert!(!told.recv().await.unwrap());
}

#[tokio::test]
async fn clients_are_not_asked_for_a_certificate_by_default() {
    let server = TestServer::start().await;
    let (seen, mut told) = mpsc::unbounded_channel();
    server.app.on_conn(move |request| {
        seen.send(request.certificate().is_some())?;
        Ok(ConnVerdict::accept())
    });
    let lamp = Identity::new(&authority("any"), |_| {});
    let stream = dial(&server, Protocol::SslSocket, Some(&lamp), &TLS13).await.unwrap();
    Client::new(Protocol::SslSocket, stream).conn_as("alice", "").await;
    assert!(!told.recv().await.unwrap());
}

#[tokio::test]
async fn the_authorities_are_reloaded_and_connections_go_on() {
    let (old, new) = (authority("old"), authority("new"));
    let server = start(&old, required).await;
    let of_old = Identity::new(&old, |_| {});
    let of_new = Identity::new(&new, |_| {});
    let stream = dial(&server, Protocol::SslSocket, Some(&of_old), &TLS13).await.unwrap();
    let mut alice = Client::new(Protocol::SslSocket, stream);
    alice.conn_as("alice", "").await;

    let ca_path = server.certificate_path().with_file_name("ca.pem");
    std::fs::write(&ca_path, new.pem()).unwrap();
    server.running().reload_certificates().await;
    is_refused(&server, Some(&of_old), &TLS13).await;
    is_accepted(&server, &of_new).await;
    alice.expect_nothing_before_hb().await;

    std::fs::write(&ca_path, "nonsense").unwrap();
    server.running().reload_certificates().await;
    is_accepted(&server, &of_new).await;

    // Without a call, the files are checked every five seconds.
    std::fs::write(&ca_path, [old.pem(), new.pem()].concat()).unwrap();
    let began = std::time::Instant::now();
    loop {
        let stream = dial(&server, Protocol::SslSocket, Some(&of_old), &TLS12).await;
        if stream.is_ok() {
            break;
        }
        assert!(began.elapsed() < 3 * DEADLINE, "still the old authorities");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_file_without_authorities_stops_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let server = TestServer::start().await;
    for (content, problem) in [
        (None, "no such file"),
        (Some("nonsense"), "the file contains no certificate"),
        (Some("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"), "cannot be used"),
    ] {
        let ca_path = folder.path().join("ca.pem");
        if let Some(content) = content {
            std::fs::write(&ca_path, content).unwrap();
        }
        let mut config = server.config().clone();
        config.sqlite_path = folder.path().join("other.db");
        config.ssl.as_mut().unwrap().client_certificates = required(ca_path);
        let error = config.check().unwrap_err().to_string();
        assert!(error.contains("SSL_CLIENT_CA_PATH") && error.contains(problem), "{error}");
        let started = jmqt_server::Server::builder(config).app(server.app.clone()).start().await;
        let error = started.err().unwrap();
        assert!(error.is_mistake(), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
    }
}
