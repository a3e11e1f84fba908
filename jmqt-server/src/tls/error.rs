//! The errors of the TLS configuration.

use std::path::PathBuf;

/// The error of a library.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The reason why the TLS listeners cannot start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TlsError {
    /// A file cannot be read, or is not PEM.
    #[error("{key} {path}: {source}")]
    File {
        /// The configuration key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: BoxError,
    },
    /// The certificate file contains no certificate.
    #[error("SSL_CERT_PATH {path}: the file contains no certificate; expected a PEM file")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The content of a file cannot be used for TLS.
    #[error("{key} {path}: {problem}")]
    Refused {
        /// The configuration key that names the file.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause, and what to do.
        problem: String,
    },
    /// The certificate and the key do not match, or are of an unsupported kind.
    #[error("SSL_CERT_PATH and SSL_KEY_PATH: {0}")]
    Unusable(#[source] BoxError),
}
