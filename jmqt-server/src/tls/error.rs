//! Why TLS cannot be served.

use std::path::PathBuf;

/// What a library says about a failure.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

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
        source: BoxError,
    },
    /// The certificate file has no certificate in it.
    #[error("SSL_CERT_PATH {path}: the file contains no certificate; expected a PEM file")]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// A file holds something that TLS cannot be done with.
    #[error("{key} {path}: {problem}")]
    Refused {
        /// The configuration key that names it.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not, and what to do.
        problem: String,
    },
    /// Certificate and key do not belong together, or are of a kind that is not supported.
    #[error("SSL_CERT_PATH and SSL_KEY_PATH: {0}")]
    Unusable(#[source] BoxError),
}
