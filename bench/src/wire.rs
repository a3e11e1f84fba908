//! A connected, non-blocking byte stream: plain TCP, or TLS over it.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use anyhow::{Context, Result};
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};

/// Plain or encrypted, with `TCP_NODELAY` set.
pub(crate) enum Wire {
    Plain(TcpStream),
    Tls(TcpStream, Box<ClientConnection>),
}

impl Wire {
    /// Connects over loopback, where the kernel completes the handshake within the call.
    pub(crate) fn connect(address: SocketAddr, tls: Option<&Arc<ClientConfig>>) -> Result<Self> {
        let stream = TcpStream::connect(address).with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        let Some(config) = tls else {
            return Ok(Self::Plain(stream));
        };
        let name = ServerName::try_from("localhost")?;
        let session = ClientConnection::new(Arc::clone(config), name)?;
        Ok(Self::Tls(stream, Box::new(session)))
    }

    /// Reads what is there, up to `buffer.len()` bytes. `None`: nothing now.
    ///
    /// # Errors
    /// Also when the server has closed the connection: no run expects that.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> io::Result<Option<usize>> {
        match self {
            Self::Plain(stream) => read_some(stream, buffer),
            Self::Tls(stream, session) => {
                let mut filled = 0;
                loop {
                    match session.read_tls(stream) {
                        Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                        Ok(_) => session.process_new_packets().map_err(io::Error::other)?,
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                    };
                    while let Some(more) = read_some(&mut session.reader(), &mut buffer[filled..])? {
                        filled += more;
                    }
                    if filled + 0x8000 > buffer.len() {
                        break; // epoll reports the rest again
                    }
                }
                Ok((filled > 0).then_some(filled))
            }
        }
    }

    /// Hands bytes to the kernel (TLS: to the session, which takes them all) and answers how many.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => match stream.write(bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(0),
                written => written,
            },
            Self::Tls(stream, session) => {
                session.writer().write_all(bytes)?;
                while session.wants_write() {
                    match session.write_tls(stream) {
                        Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                        Err(error) => return Err(error),
                        Ok(_) => {}
                    }
                }
                Ok(bytes.len())
            }
        }
    }

    /// Whether TLS has bytes of its own that the kernel did not take yet.
    pub(crate) fn holds_back(&self) -> bool {
        matches!(self, Self::Tls(_, session) if session.wants_write())
    }
}

impl AsFd for Wire {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Plain(stream) | Self::Tls(stream, _) => stream.as_fd(),
        }
    }
}

/// A TLS client that trusts this one certificate (PEM).
pub(crate) fn trusting(certificate: &[u8]) -> Result<Arc<ClientConfig>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(certificate)?)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(Arc::new(config))
}

fn read_some(source: &mut impl Read, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    match source.read(buffer) {
        Ok(0) if !buffer.is_empty() => Err(ErrorKind::UnexpectedEof.into()),
        Ok(0) => Ok(None),
        Ok(read) => Ok(Some(read)),
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}
