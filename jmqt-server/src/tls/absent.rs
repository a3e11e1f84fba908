//! TLS types for a build without the feature `tls`: their values cannot be constructed.

use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use super::{ClientCertificate, SslConfig, TlsError};

#[derive(Clone)]
pub(crate) struct TlsAcceptor(Infallible);

pub(crate) struct TlsStream(Infallible);

pub(crate) struct Certificates(Infallible);

/// Accepts everything: `Config::check` reports that the feature is missing.
pub(crate) fn check(_: &SslConfig) -> Result<(), TlsError> {
    Ok(())
}

pub(crate) fn client_certificate(stream: &TlsStream) -> Option<ClientCertificate> {
    match stream.0 {}
}

pub(crate) fn is_refused_certificate(_: &io::Error) -> bool {
    false
}

impl Certificates {
    pub(crate) fn load(_: &SslConfig) -> Result<Self, TlsError> {
        Err(TlsError::Unusable("this program was built without TLS (cargo feature `tls`)".into()))
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        match self.0 {}
    }

    pub(crate) fn reload(&self) {
        match self.0 {}
    }

    pub(crate) async fn watch(self: Arc<Self>, _: CancellationToken) {
        match self.0 {}
    }
}

impl TlsAcceptor {
    pub(crate) async fn accept(&self, _: TcpStream) -> io::Result<TlsStream> {
        match self.0 {}
    }
}

impl AsyncRead for TlsStream {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}

impl AsyncWrite for TlsStream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match self.0 {}
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.0 {}
    }
}
