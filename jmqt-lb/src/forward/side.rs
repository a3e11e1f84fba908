//! One socket of a connection, and what the system has said of it.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::task::Poll;

use mio::event::Event;
use mio::net::TcpStream;

/// This many bytes go in one segment on every way, at once, when nothing was sent before.
pub(super) const ONE_SEGMENT: usize = 512;

/// A socket, and what the system has said of it since it last had nothing to give or took nothing.
#[derive(Debug)]
pub(super) struct Side {
    pub(super) socket: TcpStream,
    pub(super) is_readable: bool,
    pub(super) is_writable: bool,
    /// The system said so; it was not assumed by [`Side::expect_news`].
    is_told_writable: bool,
    /// Nothing will be announced any more: what can be read stays so until it has been.
    has_ended: bool,
    pub(super) has_failed: bool,
    delay: Delay,
}

/// Whether the system may keep a small write back until an earlier one has been acknowledged (TCP_NODELAY is off).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Delay {
    Never,
    /// It may, and has no reason to: there was no write.
    NotYet,
    /// It would.
    Next,
}

impl Side {
    /// A client's: it has TCP_NODELAY from its listener.
    pub(super) fn client(socket: TcpStream) -> Self {
        Self::new(socket, Delay::Never)
    }

    /// A backend's. Many have one small request and no more, which saves a system call.
    pub(super) fn backend(socket: TcpStream) -> Self {
        Self::new(socket, Delay::NotYet)
    }

    fn new(socket: TcpStream, delay: Delay) -> Self {
        Self {
            socket,
            is_readable: false,
            is_writable: false,
            is_told_writable: false,
            has_ended: false,
            has_failed: false,
            delay,
        }
    }

    pub(super) fn note(&mut self, event: &Event) {
        self.has_failed |= event.is_error();
        self.has_ended |= event.is_read_closed() || self.has_failed;
        self.is_readable |= event.is_readable() || self.has_ended;
        self.is_told_writable |= event.is_writable();
        self.is_writable |= event.is_writable() || event.is_write_closed() || self.has_failed;
    }

    /// Has the next read and write ask the socket itself, whatever was announced.
    pub(super) fn expect_news(&mut self) {
        (self.is_readable, self.is_writable) = (true, true);
    }

    /// Whether a socket that was told to connect has done so. Pending until the system announces more.
    ///
    /// # Errors
    /// Why it cannot.
    pub(super) fn connected(&mut self) -> Poll<io::Result<()>> {
        if !self.is_writable {
            return Poll::Pending;
        }
        if self.has_failed {
            return Poll::Ready(Err(self.error()));
        }
        if self.is_told_writable {
            return Poll::Ready(Ok(()));
        }
        if let Some(error) = self.socket.take_error()? {
            return Poll::Ready(Err(error));
        }
        match self.socket.peer_addr() {
            Ok(_) => Poll::Ready(Ok(())),
            Err(error) if error.kind() == ErrorKind::NotConnected => {
                self.is_writable = false;
                Poll::Pending
            }
            Err(error) => Poll::Ready(Err(error)),
        }
    }

    pub(super) fn error(&self) -> io::Error {
        self.socket.take_error().ok().flatten().unwrap_or_else(|| ErrorKind::ConnectionReset.into())
    }

    /// Pending until the system announces more.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        while self.is_readable {
            match self.socket.read(buffer) {
                // With room left there was no more, and what comes later is announced.
                Ok(count) => {
                    self.is_readable = count == buffer.len() || self.has_ended;
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_readable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Pending
    }

    /// Sees to it that nothing that is written is kept back.
    pub(super) fn hurry(&mut self, count: usize) -> io::Result<()> {
        if self.delay == Delay::NotYet && count <= ONE_SEGMENT {
            self.delay = Delay::Next;
        } else if self.delay != Delay::Never {
            self.socket.set_nodelay(true)?;
            self.delay = Delay::Never;
        }
        Ok(())
    }

    /// Pending until the system announces room.
    pub(super) fn write(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.hurry(bytes.len())?;
        while self.is_writable {
            match self.socket.write(bytes) {
                Ok(count) => {
                    self.is_writable = count == bytes.len();
                    return Poll::Ready(Ok(count));
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_writable = false,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Pending
    }
}

/// Why nothing can be expected from this socket any more, if that is so.
pub(super) fn gone(socket: &TcpStream) -> Option<io::Error> {
    match socket.peek(&mut [0]) {
        Ok(0) => Some(early_end()),
        Ok(_) => None,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => None,
        Err(error) => Some(error),
    }
}

pub(super) fn early_end() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "closed before the first byte")
}
