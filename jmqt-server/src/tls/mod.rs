//! TLS on the server's listeners: certificate and key, the certificates of clients, and the encrypted connection.
//!
//! In a build without the feature `tls`, the same names are types that cannot be constructed, so that no other
//! module needs conditional compilation.

#[cfg(feature = "tls")]
mod certificate;
#[cfg(feature = "tls")]
mod certificates;
#[cfg(not(feature = "tls"))]
#[path = "absent.rs"]
mod certificates;
mod client;
mod config;
mod error;

pub(crate) use certificates::{
    Certificates, TlsAcceptor, TlsStream, check, client_certificate, is_refused_certificate,
};
pub use client::{ClientCertificate, ClientCertificates};
pub use config::SslConfig;
pub use error::TlsError;
