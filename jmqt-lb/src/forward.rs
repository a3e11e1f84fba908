//! Bytes both ways between a client and a backend.
//!
//! Nothing here waits: a [`Pipe`] is told what the system says of its two sockets, and moves what can be
//! moved. It borrows the thread's buffer for a read and writes on at once; only what could not be written
//! is kept, in a buffer of the connection, and the sender is not read from until that is gone. So an idle
//! connection holds no buffer, and a slow receiver one of `buffer_size` at most. The end of one direction
//! is passed on as a half-close, and the other one goes on.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::Shutdown;
use std::sync::atomic::Ordering;
use std::task::{Poll, ready};
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use crate::backends::{Backend, Lease};
use crate::connection::Connection;

/// Reads of one direction before others of the thread get their turn.
const ROUNDS: usize = 4;
/// A backend that goes away so soon after it took the connection, before the first byte, has failed.
/// Later it has its reasons: a client that says nothing, for example, which must neither be carried from
/// one backend to the next nor have them ejected.
const EARLY: Duration = Duration::from_secs(1);
/// So many bytes go in one segment on every way, at once, when nothing was sent before.
const ONE_SEGMENT: usize = 512;
/// How long a client may be silent after its backend has said all it had to say. Most end at once; one that
/// is gone never does.
const HALF_CLOSED: Duration = Duration::from_secs(30);

/// How it ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// Another backend may be tried.
    #[error("the backend was not reached: {0}")]
    Unreached(io::Error),
    #[error("both sides have said all they had to say")]
    Closed,
    #[error("a side was lost: {0}")]
    Lost(io::Error),
    /// Another backend may be tried.
    #[error("the backend went away at once, before a byte went either way: {0}")]
    Unused(io::Error),
    #[error("nothing moved for the whole idle timeout")]
    Idle,
}

/// What a pipe has done with its turn.
#[derive(Debug)]
pub(crate) enum Turn {
    /// It waits for its sockets.
    Done,
    /// It has more to do, and others come first.
    HasMore,
    Ended(End),
}

/// A socket, and what the system has said of it since it last had nothing to give or took nothing.
#[derive(Debug)]
struct Side {
    socket: TcpStream,
    is_readable: bool,
    is_writable: bool,
    /// It was the system that said so, not [`Pipe::expect_news`].
    is_told_writable: bool,
    /// Nothing will be announced any more: what can be read stays so until it has been.
    has_ended: bool,
    has_failed: bool,
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
    fn client(socket: TcpStream) -> Self {
        Self::new(socket, Delay::Never)
    }

    /// A backend's. Many have one small request and no more, which saves a system call.
    fn backend(socket: TcpStream) -> Self {
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

    fn note(&mut self, event: &Event) {
        self.has_failed |= event.is_error();
        self.has_ended |= event.is_read_closed() || self.has_failed;
        self.is_readable |= event.is_readable() || self.has_ended;
        self.is_told_writable |= event.is_writable();
        self.is_writable |= event.is_writable() || event.is_write_closed() || self.has_failed;
    }

    /// Whether a socket that was told to connect has done so. Pending until the system announces more.
    ///
    /// # Errors
    /// Why it cannot.
    fn connected(&mut self) -> Poll<io::Result<()>> {
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

    fn error(&self) -> io::Error {
        self.socket.take_error().ok().flatten().unwrap_or_else(|| ErrorKind::ConnectionReset.into())
    }

    /// Pending until the system announces more.
    fn read(&mut self, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
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
    fn hurry(&mut self, count: usize) -> io::Result<()> {
        if self.delay == Delay::NotYet && count <= ONE_SEGMENT {
            self.delay = Delay::Next;
        } else if self.delay != Delay::Never {
            self.socket.set_nodelay(true)?;
            self.delay = Delay::Never;
        }
        Ok(())
    }

    /// The same.
    fn write(&mut self, bytes: &[u8]) -> Poll<io::Result<usize>> {
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

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Flow {
    /// Read, but not written yet, from `written` on.
    waiting: Vec<u8>,
    written: usize,
    state: State,
    has_moved: bool,
    /// Whether the end of the sender before its first byte is an error.
    must_begin: bool,
}

/// What ended a direction before its time.
#[derive(Debug)]
enum Fault {
    Sender(io::Error),
    /// Before it took a byte of this direction; those are still waiting.
    Receiver(io::Error),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The sender has ended; the receiver is to be told once it has everything.
    Ending,
    Ended,
}

impl Flow {
    /// Whether the sender went away without having said anything.
    pub(crate) fn is_pointless(&self, sender: &TcpStream) -> bool {
        self.waiting.is_empty() && gone(sender).is_some()
    }

    /// Whether nothing of this direction has reached the receiver, its end included.
    fn is_untouched(&self) -> bool {
        !self.has_moved && self.state == State::Open
    }

    /// Moves what can be moved, and answers when this direction has ended. A receiver that takes no more
    /// ends the direction without an error, so that what it said last still arrives.
    fn turn(
        &mut self,
        (from, to): (&mut Side, &mut Side),
        buffer: &mut [u8],
        moved: &mut u64,
        has_more: &mut bool,
        is_last: bool,
    ) -> Poll<Result<(), Fault>> {
        for _ in 0..ROUNDS {
            if !self.waiting.is_empty() {
                match ready!(to.write(&self.waiting[self.written..])) {
                    Ok(count) => self.wrote_waiting(count, moved),
                    // Another one may still get these bytes.
                    Err(error) if self.is_untouched() => return Poll::Ready(Err(Fault::Receiver(error))),
                    Err(_) => self.end(),
                }
                continue;
            }
            match self.state {
                State::Open => match ready!(from.read(buffer)).map_err(Fault::Sender)? {
                    0 if self.must_begin && !self.has_moved => {
                        return Poll::Ready(Err(Fault::Sender(early_end())));
                    }
                    0 => self.state = State::Ending,
                    count => self.pass_on(to, &buffer[..count], moved),
                },
                State::Ending => {
                    // After the other direction's end the socket is closed, which says the same.
                    if !is_last {
                        // If it cannot be told, it is gone.
                        let _ = to.socket.shutdown(Shutdown::Write);
                    }
                    self.end();
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
        *has_more = true;
        Poll::Pending
    }

    /// Writes what was just read, and keeps what is not taken.
    fn pass_on(&mut self, to: &mut Side, bytes: &[u8], moved: &mut u64) {
        match to.write(bytes) {
            Poll::Ready(Ok(count)) => {
                self.moved(count, moved);
                self.waiting.extend_from_slice(&bytes[count..]);
            }
            // A receiver that failed before its first byte fails again when what waits is written.
            Poll::Pending | Poll::Ready(Err(_)) => self.waiting.extend_from_slice(bytes),
        }
    }

    fn wrote_waiting(&mut self, count: usize, moved: &mut u64) {
        self.moved(count, moved);
        self.written += count;
        if self.written == self.waiting.len() {
            (self.waiting, self.written) = (Vec::new(), 0);
        }
    }

    fn moved(&mut self, count: usize, moved: &mut u64) {
        self.has_moved = true;
        *moved += count as u64;
    }

    fn end(&mut self) {
        (self.waiting, self.written) = (Vec::new(), 0);
        self.state = State::Ended;
    }
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
    fn begin(connection: &Connection, backend: &Backend, now: Instant) -> Self {
        let again = backend.connect_time.patience(0).map(|patience| now + patience);
        Self { since: now, again, attempts: 0, until: now + connection.config.rules.connect_timeout }
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

/// A client and a backend, joined.
pub(crate) struct Pipe {
    client: Side,
    stream: Side,
    up: Flow,
    down: Flow,
    idle_timeout: Duration,
    last_moved: Instant,
    /// `None` once the backend has taken the connection.
    connecting: Option<Connecting>,
    has_worked: bool,
    /// Whether the client has been told of the backend's end.
    is_half_closed: bool,
    pub(crate) lease: Lease,
    /// Last: with it goes the connection's place, when its sockets are closed.
    pub(crate) connection: Connection,
}

impl Pipe {
    /// For a client, and a backend whose socket is connecting.
    pub(crate) fn new(
        connection: Connection,
        client: TcpStream,
        (stream, lease): (TcpStream, Lease),
        now: Instant,
    ) -> Self {
        Self {
            client: Side::client(client),
            stream: Side::backend(stream),
            up: Flow::default(),
            down: Flow::default(),
            idle_timeout: connection.config.rules.idle_timeout,
            last_moved: now,
            connecting: Some(Connecting::begin(&connection, &lease.backend, now)),
            has_worked: false,
            is_half_closed: false,
            lease,
            connection,
        }
    }

    /// Goes on with another backend after [`End::Unreached`] or [`End::Unused`], with what the client has said.
    ///
    /// # Errors
    /// The system has no room for it.
    pub(crate) fn redirect(
        &mut self,
        (stream, lease): (TcpStream, Lease),
        (registry, token): (&Registry, Token),
        now: Instant,
    ) -> io::Result<()> {
        self.stream = Side::backend(stream);
        self.down = Flow::default();
        self.connecting = Some(Connecting::begin(&self.connection, &lease.backend, now));
        self.lease = lease;
        registry.register(&mut self.stream.socket, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Whether the backend should have answered by now, and there is time left to ask it once more.
    pub(crate) fn is_overdue(&self, now: Instant) -> bool {
        let Some(connecting) = &self.connecting else { return false };
        now < connecting.until && connecting.again.is_some_and(|again| again <= now)
    }

    /// Begins the connection anew: the backend's backlog was full, mostly, and the system would send nothing for a
    /// second.
    ///
    /// # Errors
    /// The system has no room for it.
    pub(crate) fn connect_again(
        &mut self,
        (registry, token): (&Registry, Token),
        now: Instant,
    ) -> io::Result<()> {
        let backend = &self.lease.backend;
        if let Some(connecting) = &mut self.connecting {
            connecting.again(backend, now);
        }
        backend.counters.repeated.fetch_add(1, Ordering::Relaxed);
        self.stream = Side::backend(TcpStream::connect(backend.address)?);
        registry.register(&mut self.stream.socket, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// The next backend for this client, whose socket is connecting then; `None` if nobody else takes it, or it
    /// went away without having said anything.
    pub(crate) fn next_backend(&mut self) -> Option<(TcpStream, Lease)> {
        let is_pointless = self.up.is_pointless(&self.client.socket);
        if is_pointless { None } else { self.connection.dial() }
    }

    /// Has the system announce what becomes of its sockets; under which tokens, [`Pipe::note`] says.
    ///
    /// # Errors
    /// The system has no room for it.
    pub(crate) fn register(&mut self, registry: &Registry, tokens: [Token; 2]) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        registry.register(&mut self.client.socket, tokens[0], interest)?;
        registry.register(&mut self.stream.socket, tokens[1], interest)
    }

    /// Remembers what the system says of a socket: the backend's, or else the client's.
    pub(crate) fn note(&mut self, of_backend: bool, event: &Event) {
        if of_backend { self.stream.note(event) } else { self.client.note(event) }
    }

    /// Has the next turn ask the sockets themselves.
    pub(crate) fn expect_news(&mut self) {
        for side in [&mut self.client, &mut self.stream] {
            (side.is_readable, side.is_writable) = (true, true);
        }
    }

    /// When nothing will have moved for the whole idle timeout, or the backend will not have answered in time.
    pub(crate) fn is_idle_at(&self) -> Instant {
        self.connecting.as_ref().map_or(self.last_moved + self.idle_timeout, Connecting::look_at)
    }

    /// How it ends when that time has come.
    pub(crate) fn end_of_time(&self) -> End {
        match self.connecting {
            Some(_) => {
                End::Unreached(io::Error::new(ErrorKind::TimedOut, "no answer within the connect timeout"))
            }
            None => End::Idle,
        }
    }

    /// Sees whether the backend has taken the connection, and tells it who the client is.
    fn connect(&mut self, now: Instant) -> Poll<io::Result<()>> {
        ready!(self.stream.connected())?;
        let header = self.connection.proxy_header(&self.client.socket)?;
        // The buffer of a fresh socket has room for it.
        if !header.is_empty() {
            self.stream.hurry(header.len())?;
        }
        if !header.is_empty() && self.stream.socket.write(&header)? != header.len() {
            return Poll::Ready(Err(io::Error::new(ErrorKind::WriteZero, "the PROXY header was not taken")));
        }
        if let Some(connecting) = self.connecting.take() {
            self.lease.backend.connect_time.note(now.saturating_duration_since(connecting.since));
        }
        self.last_moved = now;
        Poll::Ready(Ok(()))
    }

    /// Moves what can be moved.
    pub(crate) fn turn(&mut self, buffer: &mut Vec<u8>, now: Instant) -> Turn {
        let is_fresh = self.connecting.is_some();
        if is_fresh {
            match self.connect(now) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(error)) => return Turn::Ended(End::Unreached(error)),
                Poll::Pending => return Turn::Done,
            }
        }
        let is_early = self.is_unused() && now.saturating_duration_since(self.last_moved) < EARLY;
        // What was announced may be old news: ask the socket itself before the first byte goes there. That it has
        // connected is no old news, and would have come with its end.
        if is_early
            && !is_fresh
            && (self.client.is_readable || !self.up.waiting.is_empty() || self.stream.is_readable)
            && let Some(error) = gone(&self.stream.socket)
        {
            return Turn::Ended(End::Unused(error));
        }
        self.down.must_begin = is_early;
        let buffer_size = self.connection.buffer_size;
        if buffer.len() < buffer_size {
            buffer.resize(buffer_size, 0);
        }
        let buffer = &mut buffer[..buffer_size];
        let (mut sent, mut received, mut has_more) = (0, 0, false);
        let way = (&mut self.stream, &mut self.client);
        let down = self.down.turn(way, buffer, &mut received, &mut has_more, self.up.state == State::Ended);
        let up = if is_early && matches!(down, Poll::Ready(Err(_))) {
            Poll::Pending // nothing may be read for this backend
        } else {
            let way = (&mut self.client, &mut self.stream);
            self.up.turn(way, buffer, &mut sent, &mut has_more, self.down.state == State::Ended)
        };
        self.count(sent, received, now);
        if self.down.state == State::Ended && !std::mem::replace(&mut self.is_half_closed, true) {
            self.last_moved = now;
            self.idle_timeout = self.idle_timeout.min(HALF_CLOSED);
        }
        match (down, up) {
            (Poll::Ready(Err(Fault::Sender(error))), _) | (_, Poll::Ready(Err(Fault::Receiver(error))))
                if is_early && self.is_unused() =>
            {
                Turn::Ended(End::Unused(error))
            }
            (Poll::Ready(Err(Fault::Sender(error) | Fault::Receiver(error))), _)
            | (_, Poll::Ready(Err(Fault::Sender(error) | Fault::Receiver(error)))) => {
                Turn::Ended(End::Lost(error))
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Turn::Ended(End::Closed),
            // Nobody reads what it has, and nothing can be written to it.
            _ if self.up.state == State::Ended && self.client.has_failed => {
                Turn::Ended(End::Lost(self.client.error()))
            }
            _ if self.down.state == State::Ended && self.stream.has_failed => {
                Turn::Ended(End::Lost(self.stream.error()))
            }
            _ if has_more => Turn::HasMore,
            _ => Turn::Done,
        }
    }

    fn is_unused(&self) -> bool {
        self.up.is_untouched() && self.down.is_untouched()
    }

    fn count(&mut self, sent: u64, received: u64, now: Instant) {
        if sent == 0 && received == 0 {
            return;
        }
        self.last_moved = now;
        let backend = &self.lease.backend;
        if sent > 0 {
            backend.counters.bytes_to.add(sent);
        }
        if received > 0 {
            backend.counters.bytes_from.add(received);
            // Once: what a connection does later says nothing of those that fail meanwhile.
            if !std::mem::replace(&mut self.has_worked, true) {
                backend.worked();
            }
        }
    }
}

/// Why nothing can be expected from this socket any more, if that is so.
fn gone(socket: &TcpStream) -> Option<io::Error> {
    match socket.peek(&mut [0]) {
        Ok(0) => Some(early_end()),
        Ok(_) => None,
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => None,
        Err(error) => Some(error),
    }
}

fn early_end() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "closed before the first byte")
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net;
    use std::sync::Arc;

    use mio::{Events, Poll};
    use socket2::SockRef;

    use super::*;
    use crate::backends::Wanted;
    use crate::config::Config;
    use crate::gate::Gate;
    use crate::mapping::Mapping;
    use crate::resolver::Resolver;

    const BUFFER_SIZE: usize = 1024;
    const DEADLINE: Duration = Duration::from_secs(30);

    fn pair() -> (net::TcpStream, net::TcpStream) {
        let listener = net::TcpListener::bind((net::Ipv4Addr::LOCALHOST, 0)).unwrap();
        let far = net::TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (far, listener.accept().unwrap().0)
    }

    /// A pipe whose far ends and whose time are the test's.
    struct Bench {
        pipe: Pipe,
        poll: Poll,
        events: Events,
        now: Instant,
    }

    impl Bench {
        /// It, the client and the backend.
        fn new() -> (Self, net::TcpStream, net::TcpStream) {
            let ((user, client), (server, stream)) = (pair(), pair());
            let (peer, address) = (user.local_addr().unwrap(), server.local_addr().unwrap());
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(&file, format!("[mappings]\n127.0.0.1:0 = {address}\n")).unwrap();
            let config = Config::load(file.path()).unwrap().mappings.remove(0);
            let mapping = Mapping::new(config.listen, config.clone(), Resolver::default(), None);
            mapping.set.replace(&[Wanted {
                name: address.to_string(),
                address,
                weight: 1,
                load: Arc::default(),
            }]);
            let lease = mapping.set.choose(&config.rules, peer.ip(), &[]).unwrap();
            let gate = Gate::new(usize::MAX, None);
            let connection = Connection {
                peer,
                mapping,
                config: Arc::new(config),
                buffer_size: BUFFER_SIZE,
                tried: Vec::new(),
                _places: [gate.enter(), gate.enter()],
            };
            for socket in [&client, &stream] {
                socket.set_nonblocking(true).unwrap();
            }
            let [client, stream] = [client, stream].map(TcpStream::from_std);
            let mut pipe = Pipe::new(connection, client, (stream, lease), Instant::now());
            let poll = Poll::new().unwrap();
            pipe.register(poll.registry(), [Token(0), Token(1)]).unwrap();
            let mut bench = Self { pipe, poll, events: Events::with_capacity(8), now: Instant::now() };
            bench.wait_for(Token(1));
            assert!(matches!(bench.turn(), Turn::Done));
            (bench, user, server)
        }

        /// Another connection for the same backend.
        fn lease(&self) -> Lease {
            let connection = &self.pipe.connection;
            connection.mapping.set.choose(&connection.config.rules, connection.peer.ip(), &[]).unwrap()
        }

        /// Waits until the system has news of a socket.
        fn wait_for(&mut self, token: Token) {
            let mut is_there = false;
            while !is_there {
                self.poll.poll(&mut self.events, Some(DEADLINE)).unwrap();
                assert!(!self.events.is_empty(), "no news of {token:?}");
                for event in &self.events {
                    is_there |= event.token() == token;
                    self.pipe.note(event.token() == Token(1), event);
                }
            }
        }

        fn turn(&mut self) -> Turn {
            self.pipe.turn(&mut Vec::new(), self.now)
        }

        /// Forwards until this end has received the other one's; what came before that.
        fn read_to_end(&mut self, from: &mut net::TcpStream) -> (Vec<u8>, Turn) {
            from.set_nonblocking(true).unwrap();
            let (start, mut bytes) = (Instant::now(), Vec::new());
            loop {
                self.poll.poll(&mut self.events, Some(Duration::from_millis(1))).unwrap();
                for event in &self.events {
                    self.pipe.note(event.token() == Token(1), event);
                }
                let turn = self.turn();
                if let Turn::Ended(_) = turn {
                    // A thread drops the pipe then, which closes its sockets.
                    for side in [&self.pipe.client, &self.pipe.stream] {
                        let _ = side.socket.shutdown(Shutdown::Both);
                    }
                }
                if from.read_to_end(&mut bytes).is_ok() {
                    return (bytes, turn);
                }
                assert!(start.elapsed() < DEADLINE, "only {bytes:?}, and no end");
            }
        }
    }

    #[test]
    fn what_was_said_together_with_the_end_arrives_before_it() {
        let (mut bench, mut user, mut server) = Bench::new();
        user.write_all(b"goodbye").unwrap();
        user.shutdown(Shutdown::Write).unwrap();
        let (said, turn) = bench.read_to_end(&mut server);
        assert_eq!(said, b"goodbye");
        assert!(matches!(turn, Turn::Done));
        server.write_all(b"you too").unwrap();
        drop(server);
        let (said, turn) = bench.read_to_end(&mut user);
        assert_eq!(said, b"you too");
        assert!(matches!(turn, Turn::Ended(End::Closed)));
    }

    #[test]
    fn who_sends_much_lets_others_have_their_turn() {
        let (mut bench, mut user, mut server) = Bench::new();
        let much: Vec<u8> = (0..10 * BUFFER_SIZE).map(|number| number as u8).collect();
        user.write_all(&much).unwrap();
        bench.wait_for(Token(0));
        assert!(matches!(bench.turn(), Turn::HasMore));
        while matches!(bench.turn(), Turn::HasMore) {}
        let mut bytes = vec![0; much.len()];
        server.read_exact(&mut bytes).unwrap();
        assert_eq!(bytes, much);
    }

    #[test]
    fn what_was_said_to_a_backend_that_ends_unused_reaches_the_next_one() {
        let (mut bench, mut user, server) = Bench::new();
        user.write_all(b"hello").unwrap();
        drop(server);
        bench.wait_for(Token(1));
        assert!(matches!(bench.turn(), Turn::Ended(End::Unused(_))));
        let (mut server, stream) = pair();
        stream.set_nonblocking(true).unwrap();
        let lease = bench.lease();
        let way = (bench.poll.registry(), Token(1));
        bench.pipe.redirect((TcpStream::from_std(stream), lease), way, bench.now).unwrap();
        bench.wait_for(Token(1));
        assert!(matches!(bench.turn(), Turn::Done));
        let mut bytes = [0; 5];
        server.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
    }

    #[test] // or the system would keep it back until the first has been acknowledged
    fn from_the_second_write_on_a_backend_gets_all_at_once() {
        let (mut bench, mut user, mut server) = Bench::new();
        for is_nodelay in [false, true, true] {
            user.write_all(b"hello").unwrap();
            bench.wait_for(Token(0));
            assert!(matches!(bench.turn(), Turn::Done));
            server.read_exact(&mut [0; 5]).unwrap();
            assert_eq!(bench.pipe.stream.socket.nodelay().unwrap(), is_nodelay);
        }
        let (mut bench, mut user, mut server) = Bench::new();
        let much = [b'x'; ONE_SEGMENT + 1];
        user.write_all(&much).unwrap();
        bench.wait_for(Token(0));
        assert!(matches!(bench.turn(), Turn::Done));
        server.read_exact(&mut [0; ONE_SEGMENT + 1]).unwrap();
        assert!(bench.pipe.stream.socket.nodelay().unwrap());
    }

    #[test]
    fn a_client_that_goes_away_after_its_end_is_not_kept() {
        let (mut bench, user, mut server) = Bench::new();
        user.shutdown(Shutdown::Write).unwrap();
        let (_, turn) = bench.read_to_end(&mut server);
        assert!(matches!(turn, Turn::Done));
        SockRef::from(&user).set_linger(Some(Duration::ZERO)).unwrap();
        drop(user);
        bench.wait_for(Token(0));
        assert!(matches!(bench.turn(), Turn::Ended(End::Lost(_))));
    }

    #[test]
    fn a_client_that_stays_silent_after_its_backend_has_ended_is_not_kept_long() {
        let (mut bench, mut user, mut server) = Bench::new();
        user.write_all(b"hello").unwrap();
        bench.wait_for(Token(0));
        assert!(matches!(bench.turn(), Turn::Done));
        server.read_exact(&mut [0; 5]).unwrap();
        let idle_timeout = bench.pipe.idle_timeout;
        assert_eq!(bench.pipe.is_idle_at(), bench.now + idle_timeout);
        drop(server);
        bench.wait_for(Token(1));
        bench.now += idle_timeout / 2;
        assert!(matches!(bench.turn(), Turn::Done));
        assert_eq!(user.read(&mut [0]).unwrap(), 0);
        assert_eq!(bench.pipe.is_idle_at(), bench.now + HALF_CLOSED);
        // Another look does not give it more time.
        bench.now += HALF_CLOSED / 2;
        assert!(matches!(bench.turn(), Turn::Done));
        assert_eq!(bench.pipe.is_idle_at(), bench.now + HALF_CLOSED / 2);
    }
}
