//! TLS 1.2 and 1.3 with rustls and ring: whom to trust, who we are, and what is wrong when it fails.

use std::io;
use std::path::Path;
use std::sync::Arc;

use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    self, AlertDescription, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore,
    SignatureScheme,
};

use crate::config::TlsConfig;
use crate::{ConnectError, Endpoint, Step};

pub(crate) type TlsStream = tokio_rustls::client::TlsStream<TcpStream>;

/// What was agreed on.
#[derive(Debug, Clone)]
pub(crate) struct TlsInfo {
    /// Such as `TLSv1_3`.
    pub(crate) version: String,
    /// The server's certificates, its own first, DER.
    pub(crate) chain: Vec<Vec<u8>>,
}

/// Reads what the configuration names.
pub(crate) fn connector(tls: &TlsConfig) -> Result<TlsConnector, ConnectError> {
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .map_err(|error| unusable(error.to_string()))?;
    let builder = if tls.accept_any_certificate {
        tracing::warn!("The server's certificate is not checked: any server would be accepted");
        builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
    } else {
        builder.with_root_certificates(roots(tls)?)
    };
    let config = match (&tls.cert_path, &tls.key_path) {
        (Some(cert), Some(key)) => {
            let chain = certificates("SSL_CERT_PATH", cert)?;
            let secret = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| file("SSL_KEY_PATH", key, pem_problem(&error, "private key")))?;
            builder.with_client_auth_cert(chain, secret).map_err(|error| {
                file("SSL_CERT_PATH", cert, format!("it does not go together with SSL_KEY_PATH: {error}"))
            })?
        }
        (Some(path), None) => {
            return Err(file("SSL_CERT_PATH", path, "set SSL_KEY_PATH too".to_owned()));
        }
        (None, Some(path)) => {
            return Err(file("SSL_KEY_PATH", path, "set SSL_CERT_PATH too".to_owned()));
        }
        (None, None) => builder.with_no_client_auth(),
    };
    Ok(TlsConnector::from(Arc::new(config)))
}

/// Takes everybody for the server. Signatures are still checked: who answers has the key of the certificate they show.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

fn roots(tls: &TlsConfig) -> Result<RootCertStore, ConnectError> {
    let mut roots = RootCertStore::empty();
    if let Some(pem) = &tls.ca_pem {
        let read = CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<Vec<_>, _>>();
        let problem = match read {
            Ok(chain) if chain.is_empty() => pem_problem(&pem::Error::NoItemsFound, "certificate"),
            Ok(chain) => {
                let added = chain.into_iter().try_for_each(|certificate| roots.add(certificate));
                match added {
                    Ok(()) => return Ok(roots),
                    Err(error) => format!("a certificate in it cannot be used: {error}"),
                }
            }
            Err(error) => pem_problem(&error, "certificate"),
        };
        return Err(ConnectError::Tls {
            problem: format!("tls.ca_pem: {problem}"),
            hint: "give the text of a PEM file with the CA's certificate".to_owned(),
        });
    }
    if let Some(path) = &tls.ca_path {
        for certificate in certificates("SSL_CA_PATH", path)? {
            roots.add(certificate).map_err(|error| {
                file("SSL_CA_PATH", path, format!("a certificate in it cannot be used: {error}"))
            })?;
        }
        return Ok(roots);
    }
    let found = rustls_native_certs::load_native_certs();
    // Some of what systems trust is malformed; the rest is what counts.
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(ConnectError::Tls {
            problem: "the operating system has no trusted certificate authorities".to_owned(),
            hint: "install them (on many systems the package ca-certificates), or name your own CA in SSL_CA_PATH (`--ca` of the command line)"
                .to_owned(),
        });
    }
    Ok(roots)
}

fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, ConnectError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    match read {
        Ok(chain) if chain.is_empty() => {
            Err(file(key, path, pem_problem(&pem::Error::NoItemsFound, "certificate")))
        }
        Ok(chain) => Ok(chain),
        Err(error) => Err(file(key, path, pem_problem(&error, "certificate"))),
    }
}

fn pem_problem(error: &pem::Error, what: &str) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => format!("no {what} found; expected PEM data"),
        other => other.to_string(),
    }
}

fn file(key: &'static str, path: &Path, problem: String) -> ConnectError {
    ConnectError::File { key, path: path.to_owned(), problem }
}

fn unusable(problem: String) -> ConnectError {
    ConnectError::Tls { problem, hint: "check the TLS settings".to_owned() }
}

/// The name that the certificate has to be made for.
pub(crate) fn server_name(tls: &TlsConfig, endpoint: &Endpoint) -> Result<ServerName<'static>, ConnectError> {
    let name = tls.server_name.as_ref().unwrap_or(&endpoint.host);
    ServerName::try_from(name.clone()).map_err(|_| ConnectError::Tls {
        problem: format!("`{}` is neither a host name nor an IP address", name.escape_debug()),
        hint: "set SSL_SERVER_NAME to the name in the server's certificate".to_owned(),
    })
}

/// Agrees on TLS.
///
/// # Cancel safety
/// The connection is dropped with the future.
pub(crate) async fn handshake(
    connector: &TlsConnector,
    name: ServerName<'static>,
    stream: TcpStream,
) -> Result<(TlsStream, TlsInfo), ConnectError> {
    let shown = name.to_str().into_owned();
    let stream = connector.connect(name, stream).await.map_err(|error| explain(error, &shown))?;
    let (_, session) = stream.get_ref();
    let info = TlsInfo {
        version: session.protocol_version().map(|version| format!("{version:?}")).unwrap_or_default(),
        chain: session.peer_certificates().unwrap_or_default().iter().map(|cert| cert.to_vec()).collect(),
    };
    Ok((stream, info))
}

/// The server did not like who we are. With TLS 1.3 it says so when the handshake is over for us.
pub(crate) fn certificate_refused(error: &io::Error) -> Option<ConnectError> {
    let cause = error.get_ref()?.downcast_ref::<rustls::Error>()?;
    let rustls::Error::AlertReceived(alert) = cause else { return None };
    let problem = match alert {
        AlertDescription::CertificateRequired => "the server requires a client certificate".to_owned(),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => format!("the server did not accept our certificate ({alert:?})"),
        _ => return None,
    };
    let hint =
        "set SSL_CERT_PATH to a certificate that the server trusts, and SSL_KEY_PATH to its key".to_owned();
    Some(ConnectError::Tls { problem, hint })
}

/// The caller puts hints of its own about ports in the place of those here.
fn explain(error: io::Error, name: &str) -> ConnectError {
    if let Some(refused) = certificate_refused(&error) {
        return refused;
    }
    let Some(cause) = error.get_ref().and_then(|cause| cause.downcast_ref::<rustls::Error>()) else {
        return ConnectError::Lost {
            step: Step::Tls,
            because: Some(Arc::new(error)),
            hint: "the port may not use TLS".to_owned(),
        };
    };
    let (problem, hint) = match cause {
        rustls::Error::InvalidCertificate(problem) => certificate_problem(problem, name),
        rustls::Error::InvalidMessage(_) => {
            return ConnectError::WrongServer {
                found: "the server at this address does not use TLS".to_owned(),
                hint: "the port may not use TLS".to_owned(),
            };
        }
        rustls::Error::AlertReceived(alert) => (
            format!("the server refused the handshake ({alert:?})"),
            "check that it supports TLS 1.2 or 1.3".to_owned(),
        ),
        other => (other.to_string(), "check that the server supports TLS 1.2 or 1.3".to_owned()),
    };
    ConnectError::Tls { problem, hint }
}

fn certificate_problem(problem: &CertificateError, name: &str) -> (String, String) {
    match problem {
        // A bad signature is usually that of another CA of the same name.
        CertificateError::UnknownIssuer | CertificateError::BadSignature => (
            "the server's certificate is not signed by a CA that this client trusts".to_owned(),
            "give the CA's certificate as SSL_CA_PATH (PEM; `--ca` of the command line), or have the server send the \
             certificates between its own and the CA"
                .to_owned(),
        ),
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => (
            "the server's certificate has expired".to_owned(),
            "renew it; if it is valid, this machine's clock is wrong".to_owned(),
        ),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => (
            "the server's certificate is not valid yet".to_owned(),
            "this machine's clock is probably behind".to_owned(),
        ),
        CertificateError::NotValidForName => (
            format!("the server's certificate is not valid for {name}"),
            "connect to a name in the certificate, or set SSL_SERVER_NAME to that name (`--server-name` on the command line)".to_owned(),
        ),
        CertificateError::NotValidForNameContext { presented, .. } => (
            format!("the server's certificate is not valid for {name}, only for {}", presented.join(", ")),
            "connect to a name in the certificate, or set SSL_SERVER_NAME to that name (`--server-name` on the command line)".to_owned(),
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => (
            "the certificate is not a server certificate".to_owned(),
            "create one with extendedKeyUsage = serverAuth (certificates.md)".to_owned(),
        ),
        CertificateError::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => (
            "the server uses a CA certificate as its own certificate".to_owned(),
            "create a server certificate signed by that CA (certificates.md)".to_owned(),
        ),
        other => (
            format!("the server's certificate cannot be accepted: {other}"),
            "create one as certificates.md shows".to_owned(),
        ),
    }
}
