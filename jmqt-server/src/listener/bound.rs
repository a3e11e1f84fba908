//! A listening socket that the application has bound.

use std::io;

/// A bound TCP socket: a [`std::net::TcpListener`] or a [`tokio::net::TcpListener`], for
/// [`ServerBuilder::listener`](crate::ServerBuilder::listener).
#[derive(Debug)]
pub struct BoundSocket(Inner);

#[derive(Debug)]
enum Inner {
    Std(std::net::TcpListener),
    Tokio(tokio::net::TcpListener),
}

impl BoundSocket {
    /// The port of the socket.
    pub(crate) fn port(&self) -> io::Result<u16> {
        let address = match &self.0 {
            Inner::Std(socket) => socket.local_addr(),
            Inner::Tokio(socket) => socket.local_addr(),
        };
        Ok(address?.port())
    }

    /// Registers the socket with the current runtime.
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
