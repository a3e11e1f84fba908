//! The socket of one session, plain or TLS, for its own task.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use super::buffer::{ReadBuffer, ReadSize};
use crate::outbox::Outbox;
use crate::tls::{self, ClientCertificate, TlsStream};

/// The connection that a session reads from and writes to.
pub(crate) enum Io {
    /// Shared with the outbox, which other tasks use to write to it.
    Plain(OwnedReadHalf),
    Tls {
        stream: Box<TlsStream>,
        /// The socket has not accepted all encrypted bytes.
        unflushed: bool,
    },
}

/// A socket after all handshakes below the language.
pub(crate) enum Accepted {
    Plain(TcpStream),
    Tls(Box<TlsStream>),
}

impl Io {
    /// Also returns the half that the outbox writes to directly.
    pub(super) fn new(accepted: Accepted) -> (Self, Option<OwnedWriteHalf>) {
        match accepted {
            Accepted::Plain(stream) => {
                let (reading, writing) = stream.into_split();
                (Self::Plain(reading), Some(writing))
            }
            Accepted::Tls(stream) => (Self::Tls { stream, unflushed: false }, None),
        }
    }

    /// Returns `true` if [`poll_drain`](Self::poll_drain) has work although the outbox is empty.
    pub(super) fn is_unflushed(&self) -> bool {
        matches!(self, Self::Tls { unflushed: true, .. })
    }

    /// The certificate that the client has sent in the TLS handshake.
    pub(super) fn client_certificate(&self) -> Option<ClientCertificate> {
        match self {
            Self::Plain(_) => None,
            Self::Tls { stream, .. } => tls::client_certificate(stream),
        }
    }

    /// Waits for bytes. A buffer is lent only when bytes are available.
    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        size: ReadSize,
    ) -> Poll<io::Result<(ReadBuffer, usize)>> {
        match self {
            // Not `try_read`: only `poll_read` knows that a read that does not fill its buffer has emptied the socket,
            // and saves the read that would find nothing.
            Self::Plain(stream) => poll_read_into(stream, cx, size),
            Self::Tls { stream, .. } => poll_read_into(stream, cx, size),
        }
    }

    /// Waits for bytes, and discards them. Returns their number.
    pub(crate) fn poll_discard(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.poll_read(cx, ReadSize::Large).map_ok(|(_, length)| length)
    }

    /// Writes the bytes of the outbox; ready when none are left.
    pub(super) fn poll_drain(&mut self, cx: &mut Context<'_>, outbox: &Outbox) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => loop {
                ready!(stream.as_ref().poll_write_ready(cx))?;
                if outbox.drain_plain()? {
                    return Poll::Ready(Ok(()));
                }
            },
            Self::Tls { stream, unflushed } => {
                *unflushed = true;
                let mut pending = false;
                loop {
                    let drained =
                        outbox.drain_with(|bytes| match Pin::new(&mut *stream).poll_write(cx, bytes) {
                            Poll::Ready(written) => written,
                            Poll::Pending => {
                                pending = true;
                                Err(io::ErrorKind::WouldBlock.into())
                            }
                        })?;
                    if drained {
                        break;
                    }
                    if pending {
                        return Poll::Pending;
                    }
                }
                ready!(Pin::new(stream).poll_flush(cx))?;
                *unflushed = false;
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Shuts down the sending direction.
    pub(super) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Plain(stream) => {
                Poll::Ready(socket2::SockRef::from(stream.as_ref()).shutdown(std::net::Shutdown::Write))
            }
            Self::Tls { stream, .. } => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

fn poll_read_into<S: AsyncRead + Unpin>(
    stream: &mut S,
    cx: &mut Context<'_>,
    size: ReadSize,
) -> Poll<io::Result<(ReadBuffer, usize)>> {
    let mut buffer = ReadBuffer::lend(size);
    let mut filled = ReadBuf::new(buffer.as_mut());
    ready!(Pin::new(stream).poll_read(cx, &mut filled))?;
    let length = filled.filled().len();
    Poll::Ready(Ok((buffer, length)))
}
