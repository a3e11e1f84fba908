//! TLS servers that require client certificates (§10): SSL_CERT_PATH and SSL_KEY_PATH.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::support::*;
use jmqt_client::{Client, Persistence, Publish};
use jmqt_server::Protocol;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// An authority, a server it vouches for, and a client it vouches for.
struct Certificates {
    authority: CertifiedIssuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        Self { authority, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes `{name}.pem` and `{name}.key`.
    fn issue(&self, name: &str, purpose: ExtendedKeyUsagePurpose, issuer: &CertifiedIssuer<'_, KeyPair>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.extended_key_usages = vec![purpose];
        let certificate = params.signed_by(&key, issuer).unwrap();
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).unwrap();
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
    }

    /// Ends TLS in front of `server`, and lets in only whom the authority vouches for.
    async fn guard(&self, server: SocketAddr) -> SocketAddr {
        self.issue("server", ExtendedKeyUsagePurpose::ServerAuth, &self.authority);
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier =
            WebPkiClientVerifier::builder_with_provider(roots.into(), Arc::clone(&provider)).build().unwrap();
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(verifier)
            .with_single_cert(read(&self.path("server.pem")), read_key(&self.path("server.key")))
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        // Ends with the test's runtime.
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut inside) = acceptor.accept(stream).await else { return };
                    let mut outside = TcpStream::connect(server).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut inside, &mut outside).await;
                });
            }
        });
        address
    }
}

fn read(path: &Path) -> Vec<tokio_rustls::rustls::pki_types::CertificateDer<'static>> {
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    let certificates = tokio_rustls::rustls::pki_types::CertificateDer::pem_file_iter(path).unwrap();
    certificates.collect::<Result<_, _>>().unwrap()
}

fn read_key(path: &Path) -> PrivateKeyDer<'static> {
    use tokio_rustls::rustls::pki_types::pem::PemObject as _;
    PrivateKeyDer::from_pem_file(path).unwrap()
}

#[tokio::test] // §10, §11
async fn a_client_shows_its_certificate_where_one_is_wanted() {
    let server = TestServer::start().await;
    let certificates = Certificates::new();
    let address = certificates.guard(server.address(Protocol::Socket)).await;
    certificates.issue("alice", ExtendedKeyUsagePurpose::ClientAuth, &certificates.authority);
    let mut config = config(&format!("jmqts://localhost:{}", address.port()), "alice");
    config.tls.ca_path = Some(certificates.path("ca.pem"));
    config.tls.cert_path = Some(certificates.path("alice.pem"));
    config.tls.key_path = Some(certificates.path("alice.key"));
    let alice = within("a session", Client::connect(config)).await.unwrap();
    let mut news = alice.subscribe(&channel("news"), Persistence::Temporary).await.unwrap();
    let bob = connect(&server, "bob").await;
    bob.publish(&Publish::raw(channel("news"), "1").unwrap()).await.unwrap();
    assert_eq!(next_data(&mut news).await, "1");
}

#[tokio::test] // the wrong cases: none, and one that somebody else vouches for
async fn a_client_without_the_right_certificate_reports_what_is_missing() {
    let server = TestServer::start().await;
    let certificates = Certificates::new();
    let address = certificates.guard(server.address(Protocol::Socket)).await;
    let mut config = config(&format!("jmqts://localhost:{}", address.port()), "mallory");
    config.tls.ca_path = Some(certificates.path("ca.pem"));
    let error = within("the refusal", Client::connect(config.clone())).await.unwrap_err().to_string();
    assert!(error.contains("SSL_CERT_PATH"), "{error}");

    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let stranger = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    certificates.issue("mallory", ExtendedKeyUsagePurpose::ClientAuth, &stranger);
    config.tls.cert_path = Some(certificates.path("mallory.pem"));
    config.tls.key_path = Some(certificates.path("mallory.key"));
    let error = within("the refusal", Client::connect(config)).await.unwrap_err().to_string();
    assert!(error.contains("SSL_CERT_PATH"), "{error}");
}

#[tokio::test]
async fn a_configuration_of_rustls_shows_a_certificate_that_is_in_memory() {
    let server = TestServer::start().await;
    let certificates = Certificates::new();
    let address = certificates.guard(server.address(Protocol::Socket)).await;
    certificates.issue("alice", ExtendedKeyUsagePurpose::ClientAuth, &certificates.authority);
    let mut roots = RootCertStore::empty();
    roots.add(certificates.authority.der().clone()).unwrap();
    let tls = jmqt_client::rustls::ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(
            read(&certificates.path("alice.pem")),
            read_key(&certificates.path("alice.key")),
        )
        .unwrap();
    let config = config(&format!("jmqts://localhost:{}", address.port()), "alice").rustls(Arc::new(tls));
    within("a session", Client::connect(config)).await.unwrap();
}

#[cfg(feature = "cli")]
#[tokio::test]
async fn the_command_line_shows_a_certificate() {
    let server = TestServer::start().await;
    let certificates = Certificates::new();
    let address = certificates.guard(server.address(Protocol::Socket)).await;
    certificates.issue("alice", ExtendedKeyUsagePurpose::ClientAuth, &certificates.authority);
    let url = format!("jmqts://localhost:{}", address.port());
    let path = |name| certificates.path(name).to_str().unwrap().to_owned();
    let (ca, cert, key) = (path("ca.pem"), path("alice.pem"), path("alice.key"));
    let publish = ["pub", "news", "1", "--url", &url, "--ca", &ca];
    let (code, _, error) = command::said(&command::run(&server, &publish).await);
    assert!(code == Some(3) && error.contains("client certificate"), "{error}");
    let publish = [&publish[..], &["--cert", &cert, "--key", &key]].concat();
    let (code, _, error) = command::said(&command::run(&server, &publish).await);
    assert_eq!((code, error.as_str()), (Some(0), ""));
}
