//! The server's certificate and key, the authorities of its clients, and their reloading.

use std::hash::{DefaultHasher, Hasher as _};
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime};

use tokio::net::TcpStream;
use tokio_rustls::LazyConfigAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{Acceptor, ClientHello, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;

use super::certificate::{Certificate, Subject};
use super::{ClientCertificate, ClientCertificates, SslConfig, TlsError};

/// The name of MQTT in the list of protocols that a TLS client offers (ALPN).
const ALPN_MQTT: &[u8] = b"mqtt";

/// The TLS settings of new connections.
#[derive(Clone)]
pub(crate) struct TlsAcceptor {
    config: Arc<ServerConfig>,
    /// For clients that offer MQTT. With a list of protocols, rustls refuses clients that offer other ones only; browsers
    /// offer HTTP.
    for_mqtt: Arc<ServerConfig>,
}

impl TlsAcceptor {
    fn new(config: ServerConfig) -> Self {
        let mut for_mqtt = config.clone();
        for_mqtt.alpn_protocols = vec![ALPN_MQTT.to_vec()];
        Self { config: Arc::new(config), for_mqtt: Arc::new(for_mqtt) }
    }

    /// Does the handshake.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<TlsStream> {
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let config = if offers_mqtt(&begun.client_hello()) { &self.for_mqtt } else { &self.config };
        begun.into_stream(Arc::clone(config)).await
    }
}

fn offers_mqtt(hello: &ClientHello<'_>) -> bool {
    hello.alpn().is_some_and(|mut names| names.any(|name| name == ALPN_MQTT))
}

/// An encrypted connection.
pub(crate) type TlsStream = tokio_rustls::server::TlsStream<TcpStream>;

/// How often the files are checked for a change.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// How often the log warns of a certificate that expires soon.
const EXPIRY_INTERVAL: Duration = Duration::from_secs(86_400);
/// The log warns of a certificate that expires within this time.
const SOON: Duration = Duration::from_secs(14 * 86_400);
/// The shortest RSA key that clients, and this server, accept.
const LEAST_RSA_BITS: usize = 2048;

/// The key of the file with the authorities of clients.
const CLIENT_CA: &str = "SSL_CLIENT_CA_PATH";

/// The content of the files.
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    /// The authorities of clients, if clients are asked for certificates.
    client_ca: Option<Vec<u8>>,
}

impl Files {
    fn read(ssl: &SslConfig) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read("SSL_CERT_PATH", &ssl.cert_path)?,
            key: read("SSL_KEY_PATH", &ssl.key_path)?,
            client_ca: ssl.client_certificates.ca_path().map(|path| read(CLIENT_CA, path)).transpose()?,
        })
    }
}

/// A certificate in use.
struct Loaded {
    acceptor: TlsAcceptor,
    certificate: Option<Certificate>,
}

/// The certificate and key for new TLS connections, and the authorities of clients, reloaded from their files when these
/// change.
pub(crate) struct Certificates {
    ssl: SslConfig,
    current: RwLock<Loaded>,
    /// The state of the files at the last check.
    seen: Mutex<Seen>,
}

/// A hash of the content of the files, or of the error when reading them.
#[derive(Clone, Copy)]
struct Seen {
    /// The hash of the content that was last used or refused.
    judged: u64,
    /// The hash at the last check. Files are used when two checks see the same content: one file may be half written, or
    /// replaced before the other.
    last: u64,
}

impl Certificates {
    /// # Errors
    /// The files cannot be used; the error names the file, the cause, and what to do.
    pub(crate) fn load(ssl: &SslConfig) -> Result<Self, TlsError> {
        let files = Files::read(ssl);
        let hash = hash(&files);
        let loaded = loaded(ssl, &files?)?;
        tell_expiry(ssl, loaded.certificate);
        let seen = Mutex::new(Seen { judged: hash, last: hash });
        Ok(Self { ssl: ssl.clone(), current: RwLock::new(loaded), seen })
    }

    /// The TLS settings for one new connection.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        self.current.read().unwrap_or_else(PoisonError::into_inner).acceptor.clone()
    }

    /// Reads the files again, and uses them for new connections. If they cannot be used, the old certificate and key
    /// stay in use, and an error is logged. Blocks while it reads the files.
    pub(crate) fn reload(&self) {
        let files = Files::read(&self.ssl);
        let hash = hash(&files);
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen { judged: hash, last: hash };
        self.judge(files);
    }

    /// Calls [`reload`](Self::reload) if the files have changed and the previous check saw the same content.
    fn reload_if_changed(&self) {
        let files = Files::read(&self.ssl);
        let hash = hash(&files);
        {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            let has_settled = std::mem::replace(&mut seen.last, hash) == hash;
            if hash == seen.judged || !has_settled {
                return;
            }
            seen.judged = hash;
        }
        self.judge(files);
    }

    fn judge(&self, files: Result<Files, TlsError>) {
        match files.and_then(|files| loaded(&self.ssl, &files)) {
            Ok(loaded) => {
                tracing::info!(target: "jmqt::tls", path = %self.ssl.cert_path.display(), "certificate and key were read again: new connections use them");
                tell_expiry(&self.ssl, loaded.certificate);
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
            }
            Err(error) => {
                tracing::error!(target: "jmqt::tls", %error, "the new certificate or key cannot be used: new connections get the old one");
            }
        }
    }

    /// Checks for changes until `stop` is cancelled.
    pub(crate) async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut looks: u32 = 0;
        let looks_a_day =
            u32::try_from(EXPIRY_INTERVAL.as_secs() / LOOK_INTERVAL.as_secs()).unwrap_or(u32::MAX);
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(LOOK_INTERVAL) => {}
            }
            let certificates = Arc::clone(&self);
            // A file may be on a slow or missing disk.
            let _ = tokio::task::spawn_blocking(move || certificates.reload_if_changed()).await;
            looks += 1;
            if looks >= looks_a_day {
                looks = 0;
                let certificate = self.current.read().unwrap_or_else(PoisonError::into_inner).certificate;
                tell_expiry(&self.ssl, certificate);
            }
        }
    }
}

/// Checks the certificate chain and the key without using them.
pub(crate) fn check(ssl: &SslConfig) -> Result<(), TlsError> {
    loaded(ssl, &Files::read(ssl)?).map(drop)
}

/// Certificate chain and key, for TLS 1.2 and 1.3.
fn loaded(ssl: &SslConfig, files: &Files) -> Result<Loaded, TlsError> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&files.certificate)
        .collect::<Result<_, _>>()
        .map_err(|source| unreadable("SSL_CERT_PATH", &ssl.cert_path, source))?;
    let Some(first) = chain.first() else {
        return Err(TlsError::NoCertificate { path: ssl.cert_path.clone() });
    };
    let certificate = Certificate::parse(first);
    if let Some(problem) = certificate.and_then(unusable_certificate) {
        return Err(TlsError::Refused { key: "SSL_CERT_PATH", path: ssl.cert_path.clone(), problem });
    }
    let key = private_key(ssl, &files.key)?;
    let verifier = client_verifier(&ssl.client_certificates, files.client_ca.as_deref())?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(rustls::DEFAULT_VERSIONS)
        .and_then(|builder| builder.with_client_cert_verifier(verifier).with_single_cert(chain, key))
        .map_err(|error| TlsError::Unusable(error.into()))?;
    // One ticket is enough to resume a session, and each ticket costs a write at the handshake.
    config.send_tls13_tickets = 1;
    Ok(Loaded { acceptor: TlsAcceptor::new(config), certificate })
}

/// Checks the certificates of clients.
fn client_verifier(
    wanted: &ClientCertificates,
    authorities: Option<&[u8]>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let (Some(path), Some(pem)) = (wanted.ca_path(), authorities) else {
        return Ok(WebPkiClientVerifier::no_client_auth());
    };
    let refused = |problem: String| TlsError::Refused { key: CLIENT_CA, path: path.to_owned(), problem };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|source| unreadable(CLIENT_CA, path, source))?;
        roots
            .add(certificate)
            .map_err(|error| refused(format!("a certificate in the file cannot be used: {error}")))?;
    }
    if roots.is_empty() {
        return Err(refused("the file contains no certificate; expected a PEM file".to_owned()));
    }
    let provider = Arc::new(ring::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = match wanted {
        ClientCertificates::Required { .. } => builder,
        _ => builder.allow_unauthenticated(),
    };
    builder.build().map_err(|error| refused(error.to_string()))
}

/// The certificate that the client of this connection has sent, if it was asked for one.
pub(crate) fn client_certificate(stream: &TlsStream) -> Option<ClientCertificate> {
    let chain = stream.get_ref().1.peer_certificates()?;
    let Subject { text, common_name } = Subject::parse(chain.first()?).unwrap_or_default();
    let chain = chain.iter().map(|certificate| certificate.as_ref().into()).collect();
    Some(ClientCertificate::new(&text, common_name.as_deref(), chain))
}

/// Returns `true` if a handshake failed because of the client's certificate.
pub(crate) fn is_refused_certificate(error: &io::Error) -> bool {
    let error = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    matches!(error, Some(rustls::Error::NoCertificatesPresented | rustls::Error::InvalidCertificate(_)))
}

fn unusable_certificate(certificate: Certificate) -> Option<String> {
    if certificate.version < 3 {
        return Some(format!(
            "the certificate is of X.509 version {}, and TLS needs version 3: make it with extensions, as \
             certificates.md shows (openssl x509 -req needs -extfile for that)",
            certificate.version
        ));
    }
    let bits = certificate.rsa_bits.filter(|bits| *bits < LEAST_RSA_BITS)?;
    Some(format!(
        "the certificate's RSA key has {bits} bits, and clients refuse less than {LEAST_RSA_BITS}: make a new key and \
         certificate, as certificates.md shows"
    ))
}

fn private_key(ssl: &SslConfig, pem: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    let refused = |problem: &str| TlsError::Refused {
        key: "SSL_KEY_PATH",
        path: ssl.key_path.clone(),
        problem: problem.to_owned(),
    };
    PrivateKeyDer::from_pem_slice(pem).map_err(|source| {
        let has = |text: &[u8]| memchr::memmem::find(pem, text).is_some();
        if has(b"BEGIN ENCRYPTED PRIVATE KEY") || has(b"Proc-Type: 4,ENCRYPTED") {
            return refused(
                "the key has a passphrase, and the server cannot ask for it: remove it (openssl pkey -in KEY -out \
                 NEW_KEY), and let nobody else read the file",
            );
        }
        match source {
            pem::Error::NoItemsFound if has(b"BEGIN CERTIFICATE") => {
                refused("the file contains a certificate and no private key: SSL_CERT_PATH is for the certificate")
            }
            pem::Error::NoItemsFound => {
                refused("the file contains no private key; expected a PEM file (PKCS #8, PKCS #1 or SEC 1)")
            }
            source => unreadable("SSL_KEY_PATH", &ssl.key_path, source),
        }
    })
}

/// Logs that a certificate has expired, or expires soon.
fn tell_expiry(ssl: &SslConfig, certificate: Option<Certificate>) {
    let Some(certificate) = certificate else { return };
    let (now, path, last_day) = (SystemTime::now(), ssl.cert_path.display(), certificate.last_day());
    match certificate.left(now) {
        None => {
            tracing::warn!(target: "jmqt::tls", %path, %last_day, "the certificate has expired: clients refuse it; renew it");
        }
        Some(left) if left < SOON => {
            let days = left.as_secs() / 86_400;
            tracing::warn!(target: "jmqt::tls", %path, %last_day, "the certificate expires in {days} days: renew it");
        }
        Some(_) if certificate.is_early(now) => {
            tracing::warn!(target: "jmqt::tls", %path, "the certificate is not valid yet: clients refuse it; check this machine's clock");
        }
        Some(_) => {}
    }
}

fn read(key: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    /// Larger than any certificate chain; larger files are not read completely.
    const LARGEST: u64 = 1 << 20;
    let file = std::fs::File::open(path);
    let mut bytes = Vec::new();
    file.and_then(|file| io::Read::read_to_end(&mut io::Read::take(file, LARGEST), &mut bytes))
        .map_err(|error| unreadable(key, path, pem::Error::Io(error)))?;
    Ok(bytes)
}

fn unreadable(key: &'static str, path: &Path, source: pem::Error) -> TlsError {
    if let pem::Error::Io(error) = &source
        && error.kind() == io::ErrorKind::NotFound
    {
        let problem = match std::path::absolute(path) {
            Ok(full) if full != path => format!("no such file (looked for {})", full.display()),
            _ => "no such file".to_owned(),
        };
        let problem = format!("{problem}; certificates.md shows how to make certificate and key");
        return TlsError::Refused { key, path: path.to_owned(), problem };
    }
    TlsError::File { key, path: path.to_owned(), source: source.into() }
}

fn hash(files: &Result<Files, TlsError>) -> u64 {
    let mut hasher = DefaultHasher::new();
    match files {
        Ok(files) => {
            hasher.write(&files.certificate);
            hasher.write_u8(0xff);
            hasher.write(&files.key);
            hasher.write_u8(0xff);
            hasher.write(files.client_ca.as_deref().unwrap_or_default());
        }
        Err(error) => hasher.write(error.to_string().as_bytes()),
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_file_is_named_with_its_full_path() {
        let error = read("SSL_CERT_PATH", Path::new("no-folder/server.crt")).unwrap_err().to_string();
        let folder = std::env::current_dir().unwrap().join("no-folder/server.crt");
        let expected = format!(
            "SSL_CERT_PATH no-folder/server.crt: no such file (looked for {}); certificates.md shows how to make \
             certificate and key",
            folder.display()
        );
        assert_eq!(error, expected);
    }
}
