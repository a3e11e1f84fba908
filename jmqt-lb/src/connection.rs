//! One client at one backend: connecting, the bytes, the next backend.
//!
//! A [`Connection`] joins a [`Client`], its place at a backend and the [`Pipe`] between them. It tells the backend what
//! it needs to know of both: how long connecting took, which bytes went where. Not here: how bytes move (`forward`), and
//! which backend a client may go to (`client`).

use std::io::{self, ErrorKind};
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};
use std::time::Instant;

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Registry, Token};

use crate::backends::{Backend, Lease};
use crate::client::Client;
use crate::forward::{End, Moved, News, Pipe, Turn};

/// A client, and the backend that serves it or has been asked to.
pub(crate) struct Connection {
    pipe: Pipe,
    /// `None` once the backend has taken the connection.
    connecting: Option<Connecting>,
    has_worked: bool,
    pub(crate) lease: Lease,
    /// Last: with it go the connection's places, when its sockets are closed.
    pub(crate) client: Client,
}

/// A backend that has been asked to take the connection.
#[derive(Debug)]
struct Connecting {
    /// When it was asked last.
    since: Instant,
    /// When it is asked once more; `None`: only by the system.
    again: Option<Instant>,
    /// How often it was asked before.
    attempts: u32,
    /// When it is given up.
    until: Instant,
}

impl Connecting {
    fn begin(client: &Client, backend: &Backend, now: Instant) -> Self {
        let again = backend.connect_time.patience(0).map(|patience| now + patience);
        Self { since: now, again, attempts: 0, until: now + client.config.rules.connect_timeout }
    }

    fn again(&mut self, backend: &Backend, now: Instant) {
        self.attempts += 1;
        self.since = now;
        self.again = backend.connect_time.patience(self.attempts).map(|patience| now + patience);
    }

    fn look_at(&self) -> Instant {
        self.again.map_or(self.until, |again| again.min(self.until))
    }
}

impl Connection {
    /// For a client, its socket, and a backend whose socket is connecting.
    pub(crate) fn new(
        client: Client,
        socket: TcpStream,
        (backend, lease): (TcpStream, Lease),
        now: Instant,
    ) -> Self {
        Self {
            pipe: Pipe::new(socket, backend, client.config.rules.idle_timeout, now),
            connecting: Some(Connecting::begin(&client, &lease.backend, now)),
            has_worked: false,
            lease,
            client,
        }
    }

    /// Has the system announce what becomes of its sockets; under which tokens, [`Connection::note`] says.
    ///
    /// # Errors
    /// The system is out of descriptors, memory or watches.
    pub(crate) fn register(&mut self, registry: &Registry, tokens: [Token; 2]) -> io::Result<()> {
        self.pipe.register(registry, tokens)
    }

    /// Remembers what the system says of a socket: the backend's, or else the client's.
    pub(crate) fn note(&mut self, of_backend: bool, event: &Event) {
        self.pipe.note(of_backend, event);
    }

    /// Has the next turn ask the sockets themselves.
    pub(crate) fn expect_news(&mut self) {
        self.pipe.expect_news();
    }

    /// Connects, or moves what can be moved.
    pub(crate) fn turn(&mut self, buffer: &mut Vec<u8>, now: Instant) -> Turn {
        let mut news = News::MayBeOld;
        if self.connecting.is_some() {
            match self.connect(now) {
                Poll::Ready(Ok(())) => news = News::Fresh,
                Poll::Ready(Err(error)) => return Turn::Ended(End::Unreached(error)),
                Poll::Pending => return Turn::Done,
            }
        }
        let buffer_size = self.client.buffer_size;
        if buffer.len() < buffer_size {
            buffer.resize(buffer_size, 0);
        }
        let (turn, moved) = self.pipe.turn(&mut buffer[..buffer_size], news, now);
        self.count(moved);
        turn
    }

    /// Sees whether the backend has taken the connection, and tells it who the client is.
    fn connect(&mut self, now: Instant) -> Poll<io::Result<()>> {
        ready!(self.pipe.connected())?;
        let header = self.client.proxy_header(self.pipe.client())?;
        self.pipe.begin(&header, now)?;
        if let Some(connecting) = self.connecting.take() {
            self.lease.backend.connect_time.note(now.saturating_duration_since(connecting.since));
        }
        Poll::Ready(Ok(()))
    }

    fn count(&mut self, moved: Moved) {
        let backend = &self.lease.backend;
        if moved.to_backend > 0 {
            backend.counters.bytes_to.add(moved.to_backend);
        }
        if moved.from_backend > 0 {
            backend.counters.bytes_from.add(moved.from_backend);
            // Once: what a connection does later says nothing of those that fail meanwhile.
            if !std::mem::replace(&mut self.has_worked, true) {
                backend.worked();
            }
        }
    }

    /// The next backend for this client, whose socket is connecting then; `None` if no other one takes it, or the
    /// client went away without having said anything.
    pub(crate) fn next_backend(&mut self) -> Option<(TcpStream, Lease)> {
        if self.pipe.is_pointless() { None } else { self.client.dial() }
    }

    /// Goes on with another backend after [`End::Unreached`] or [`End::Unused`], with what the client has said.
    ///
    /// # Errors
    /// The system is out of descriptors, memory or watches.
    pub(crate) fn redirect(
        &mut self,
        (backend, lease): (TcpStream, Lease),
        token: (&Registry, Token),
        now: Instant,
    ) -> io::Result<()> {
        self.connecting = Some(Connecting::begin(&self.client, &lease.backend, now));
        self.lease = lease;
        self.pipe.replace_backend(backend, token)
    }

    /// Whether the backend should have answered by now, and there is time left to ask it once more.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        let Some(connecting) = &self.connecting else { return false };
        now < connecting.until && connecting.again.is_some_and(|again| again <= now)
    }

    /// Connects to the same backend again. Usually its backlog was full, and the system would send nothing for a second.
    ///
    /// # Errors
    /// The system is out of descriptors, memory or watches.
    pub(crate) fn connect_again(&mut self, token: (&Registry, Token), now: Instant) -> io::Result<()> {
        let backend = &self.lease.backend;
        if let Some(connecting) = &mut self.connecting {
            connecting.again(backend, now);
        }
        backend.counters.repeated.fetch_add(1, Ordering::Relaxed);
        self.pipe.replace_backend(TcpStream::connect(backend.address)?, token)
    }

    /// When nothing will have moved for the whole idle timeout, or the backend will not have answered in time.
    pub(crate) fn is_idle_at(&self) -> Instant {
        self.connecting.as_ref().map_or_else(|| self.pipe.is_idle_at(), Connecting::look_at)
    }

    /// How it ends when that time has come.
    pub(crate) fn end_of_time(&self) -> End {
        match self.connecting {
            Some(_) => End::Unreached(io::Error::new(
                ErrorKind::TimedOut,
                "no answer within connect_timeout_seconds",
            )),
            None => End::Idle,
        }
    }
}
