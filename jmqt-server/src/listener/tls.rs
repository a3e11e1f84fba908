//! The server's certificate and key.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{self, ServerConfig};

use crate::config::SslConfig;

pub(crate) use tokio_rustls::TlsAcceptor;

/// Why the TLS listeners cannot be started.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or is not PEM.
    #[error("{key} {path}: {source}")]
    File {
        /// The configuration key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What was wrong with it.
        source: pem::Error,
    },
    /// The certificate file has no certificate in it.
    #[error("SSL_CERT_PATH {path}: there is no certificate in it; a PEM file was expected")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("SSL_CERT_PATH and SSL_KEY_PATH: {0}")]
    Unusable(#[from] rustls::Error),
}

/// Loads certificate chain and key, for TLS 1.2 and 1.3.
pub(crate) fn load(ssl: &SslConfig) -> Result<TlsAcceptor, TlsError> {
    let chain = read("SSL_CERT_PATH", &ssl.cert_path, |path| {
        CertificateDer::pem_file_iter(path)?.collect::<Result<Vec<_>, _>>()
    })?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate { path: ssl.cert_path.clone() });
    }
    let key = read("SSL_KEY_PATH", &ssl.key_path, |path| PrivateKeyDer::from_pem_file(path))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    // One ticket is enough to come back with, and each costs a write at the handshake.
    config.send_tls13_tickets = 1;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn read<T>(
    key: &'static str,
    path: &Path,
    read: impl FnOnce(&Path) -> Result<T, pem::Error>,
) -> Result<T, TlsError> {
    read(path).map_err(|source| TlsError::File { key, path: path.to_owned(), source })
}
