//! A listening socket of the application's.

use std::io;

/// A TCP socket that listens already: a [`std::net::TcpListener`] or a [`tokio::net::TcpListener`], for
/// [`ServerBuilder::listener`](crate::ServerBuilder::listener).
#[derive(Debug)]
pub struct BoundSocket(Inner);

#[derive(Debug)]
enum Inner {
    Std(std::net::TcpListener),
    Tokio(tokio::net::TcpListener),
}

impl BoundSocket {
    /// The port that it listens on.
    pub(crate) fn port(&self) -> io::Result<u16> {
        let address = match &self.0 {
            Inner::Std(socket) => socket.local_addr(),
            Inner::Tokio(socket) => socket.local_addr(),
        };
        Ok(address?.port())
    }

    /// The socket, for the runtime that this is called on.
    pub(super) fn into_listener(self) -> io::Result<tokio::net::TcpListener> {
        match self.0 {
            Inner::Std(socket) => {
                socket.set_nonblocking(true)?;
                tokio::net::TcpListener::from_std(socket)
            }
            Inner::Tokio(socket) => Ok(socket),
        }
    }
}

impl From<std::net::TcpListener> for BoundSocket {
    fn from(socket: std::net::TcpListener) -> Self {
        Self(Inner::Std(socket))
    }
}

impl From<tokio::net::TcpListener> for BoundSocket {
    fn from(socket: tokio::net::TcpListener) -> Self {
        Self(Inner::Tokio(socket))
    }
}
