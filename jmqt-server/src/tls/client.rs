//! Certificates of clients: which ones a listener asks for, and what the application sees of them.

use std::fmt;
use std::path::{Path, PathBuf};

/// The certificates that the TLS listeners ask clients for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ClientCertificates {
    /// Clients are not asked for a certificate.
    #[default]
    None,
    /// A client may have a certificate. One that these authorities have not issued ends the handshake.
    Optional {
        /// The certificates of the authorities, PEM.
        ca_path: PathBuf,
    },
    /// The handshake fails without a certificate that these authorities have issued.
    Required {
        /// The certificates of the authorities, PEM.
        ca_path: PathBuf,
    },
}

impl ClientCertificates {
    /// The file with the authorities, if clients are asked.
    #[must_use]
    pub fn ca_path(&self) -> Option<&Path> {
        match self {
            Self::None => None,
            Self::Optional { ca_path } | Self::Required { ca_path } => Some(ca_path),
        }
    }
}

/// The certificate of a client, which the TLS handshake has verified: an authority of SSL_CLIENT_CA_PATH has issued it,
/// it is valid now, and the client has its key.
///
/// The server does not check revocation.
#[derive(Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    subject: Box<str>,
    common_name: Option<Box<str>>,
    chain: Box<[Box<[u8]>]>,
}

impl fmt::Debug for ClientCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientCertificate").field("subject", &self.subject).finish_non_exhaustive()
    }
}

impl ClientCertificate {
    pub(crate) fn new(subject: &str, common_name: Option<&str>, chain: Box<[Box<[u8]>]>) -> Self {
        Self { subject: subject.into(), common_name: common_name.map(Into::into), chain }
    }

    /// The subject as text (RFC 4514), such as `CN=lamp-7,O=Example`. It may be empty: some certificates name the client
    /// only in the subject alternative names, which are in the [`chain`](Self::chain).
    #[must_use]
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// The common name of the subject, such as `lamp-7`; `None` if it has none, or several.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// The certificates as the client sent them, DER: its own, then those of intermediate authorities.
    pub fn chain(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.iter().map(|der| &**der)
    }
}
