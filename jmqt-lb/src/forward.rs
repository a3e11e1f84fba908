//! Bytes both ways between a client and a backend.
//!
//! Nothing here waits: a [`Pipe`] is told what the system says of its two sockets, and moves what can be
//! moved. It borrows the thread's buffer for a read and writes on at once; only what could not be written
//! is kept, in a buffer of the connection, and the sender is not read from until that is gone. So an idle
//! connection holds no buffer, and a slow receiver one of `buffer_size` at most. The end of one direction
//! is passed on as a half-close, and the other one goes on. Not here: which backend it is, and what is
//! counted (`connection`).

mod flow;
mod side;

use std::io::{self, ErrorKind, Write as _};
use std::task::Poll;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use flow::{Fault, Flow, State};
use side::{Side, gone};

/// A backend that goes away this soon after it took the connection, before the first byte, has failed.
/// Later it has its reasons: a client that says nothing, for example, which must neither be carried from
/// one backend to the next nor have them ejected.
const EARLY: Duration = Duration::from_secs(1);
/// How long a client may be silent after its backend has said all it had to say. Most end at once; one that
/// is gone never does.
const HALF_CLOSED: Duration = Duration::from_secs(30);

/// How it ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    /// Another backend may be tried.
    #[error("cannot reach the backend: {0}")]
    Unreached(io::Error),
    #[error("both sides have closed")]
    Closed,
    #[error("connection lost: {0}")]
    Lost(io::Error),
    /// Another backend may be tried.
    #[error("the backend closed at once, before a byte went either way: {0}")]
    Unused(io::Error),
    #[error("idle timeout")]
    Idle,
}

/// What a connection has done with its turn.
#[derive(Debug)]
pub(crate) enum Turn {
    /// It waits for its sockets.
    Done,
    /// It has more to do, and others come first.
    HasMore,
    Ended(End),
}

/// Bytes that receivers have taken in one turn.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Moved {
    pub(crate) to_backend: u64,
    pub(crate) from_backend: u64,
}

/// How old the news of a backend's socket is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    /// It says that the socket has connected; its end would have come with that.
    Fresh,
    /// The backend may have gone away since.
    MayBeOld,
}

/// A client and a backend, joined.
pub(crate) struct Pipe {
    client: Side,
    backend: Side,
    up: Flow,
    down: Flow,
    idle_timeout: Duration,
    last_moved: Instant,
    /// Whether the client has been told of the backend's end.
    is_half_closed: bool,
}

impl Pipe {
    /// For a client, and a backend whose socket is connecting.
    pub(crate) fn new(client: TcpStream, backend: TcpStream, idle_timeout: Duration, now: Instant) -> Self {
        Self {
            client: Side::client(client),
            backend: Side::backend(backend),
            up: Flow::default(),
            down: Flow::default(),
            idle_timeout,
            last_moved: now,
            is_half_closed: false,
        }
    }

    /// Has the system announce what becomes of its sockets; under which tokens, [`Pipe::note`] says.
    ///
    /// # Errors
    /// The system is out of descriptors, memory or watches.
    pub(crate) fn register(&mut self, registry: &Registry, tokens: [Token; 2]) -> io::Result<()> {
        registry.register(&mut self.client.socket, tokens[0], Interest::READABLE | Interest::WRITABLE)?;
        registry.register(&mut self.backend.socket, tokens[1], Interest::READABLE | Interest::WRITABLE)
    }

    /// Goes on with another connecting socket in the backend's place, with what the client has said.
    ///
    /// # Errors
    /// The system is out of descriptors, memory or watches.
    pub(crate) fn replace_backend(
        &mut self,
        backend: TcpStream,
        (registry, token): (&Registry, Token),
    ) -> io::Result<()> {
        self.backend = Side::backend(backend);
        self.down = Flow::default();
        registry.register(&mut self.backend.socket, token, Interest::READABLE | Interest::WRITABLE)
    }

    /// Remembers what the system says of a socket: the backend's, or else the client's.
    pub(crate) fn note(&mut self, of_backend: bool, event: &Event) {
        if of_backend { self.backend.note(event) } else { self.client.note(event) }
    }

    /// Has the next turn ask the sockets themselves.
    pub(crate) fn expect_news(&mut self) {
        self.client.expect_news();
        self.backend.expect_news();
    }

    /// The client's socket.
    pub(crate) const fn client(&self) -> &TcpStream {
        &self.client.socket
    }

    /// Whether the client went away without having said anything.
    pub(crate) fn is_pointless(&self) -> bool {
        self.up.is_pointless(&self.client.socket)
    }

    /// When nothing will have moved for the whole idle timeout.
    pub(crate) fn is_idle_at(&self) -> Instant {
        self.last_moved + self.idle_timeout
    }

    /// Whether the backend has taken the connection. Pending until the system announces more.
    ///
    /// # Errors
    /// Why it has not.
    pub(crate) fn connected(&mut self) -> Poll<io::Result<()>> {
        self.backend.connected()
    }

    /// Begins to forward, after `header` if there is one.
    ///
    /// # Errors
    /// The backend has gone.
    pub(crate) fn begin(&mut self, header: &[u8], now: Instant) -> io::Result<()> {
        if !header.is_empty() {
            self.backend.hurry(header.len())?;
            // The buffer of a fresh socket has room for it.
            if self.backend.socket.write(header)? != header.len() {
                return Err(io::Error::new(ErrorKind::WriteZero, "cannot write the PROXY protocol header"));
            }
        }
        self.last_moved = now;
        Ok(())
    }

    /// Moves what can be moved.
    pub(crate) fn turn(&mut self, buffer: &mut [u8], news: News, now: Instant) -> (Turn, Moved) {
        let is_early = self.is_unused() && now.saturating_duration_since(self.last_moved) < EARLY;
        // What was announced may be old: ask the socket itself before the first byte goes there.
        if is_early
            && news == News::MayBeOld
            && (self.client.is_readable || self.up.is_waiting() || self.backend.is_readable)
            && let Some(error) = gone(&self.backend.socket)
        {
            return (Turn::Ended(End::Unused(error)), Moved::default());
        }
        self.down.must_begin = is_early;
        let (mut moved, mut has_more) = (Moved::default(), false);
        let way = (&mut self.backend, &mut self.client);
        let is_last = self.up.state == State::Ended;
        let down = self.down.turn(way, buffer, &mut moved.from_backend, &mut has_more, is_last);
        let up = if is_early && matches!(down, Poll::Ready(Err(_))) {
            Poll::Pending // nothing may be read for this backend
        } else {
            let way = (&mut self.client, &mut self.backend);
            let is_last = self.down.state == State::Ended;
            self.up.turn(way, buffer, &mut moved.to_backend, &mut has_more, is_last)
        };
        if moved.to_backend > 0 || moved.from_backend > 0 {
            self.last_moved = now;
        }
        if self.down.state == State::Ended && !std::mem::replace(&mut self.is_half_closed, true) {
            self.last_moved = now;
            self.idle_timeout = self.idle_timeout.min(HALF_CLOSED);
        }
        let turn = match (down, up) {
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
            _ if self.down.state == State::Ended && self.backend.has_failed => {
                Turn::Ended(End::Lost(self.backend.error()))
            }
            _ if has_more => Turn::HasMore,
            _ => Turn::Done,
        };
        (turn, moved)
    }

    fn is_unused(&self) -> bool {
        self.up.is_untouched() && self.down.is_untouched()
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net;
    use std::net::Shutdown;

    use mio::{Events, Poll};
    use socket2::SockRef;

    use super::side::ONE_SEGMENT;
    use super::*;

    const BUFFER_SIZE: usize = 1024;
    const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
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
            let ((user, client), (server, backend)) = (pair(), pair());
            for socket in [&client, &backend] {
                socket.set_nonblocking(true).unwrap();
            }
            let [client, backend] = [client, backend].map(TcpStream::from_std);
            let now = Instant::now();
            let mut pipe = Pipe::new(client, backend, IDLE_TIMEOUT, now);
            let poll = Poll::new().unwrap();
            pipe.register(poll.registry(), [Token(0), Token(1)]).unwrap();
            let mut bench = Self { pipe, poll, events: Events::with_capacity(8), now };
            bench.begin();
            (bench, user, server)
        }

        /// Waits until the backend has taken the connection.
        fn begin(&mut self) {
            self.wait_for(Token(1));
            assert!(matches!(self.pipe.connected(), std::task::Poll::Ready(Ok(()))));
            self.pipe.begin(&[], self.now).unwrap();
            assert!(matches!(self.turn_on(News::Fresh), Turn::Done));
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
            self.turn_on(News::MayBeOld)
        }

        fn turn_on(&mut self, news: News) -> Turn {
            self.pipe.turn(&mut [0; BUFFER_SIZE], news, self.now).0
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
                    for side in [&self.pipe.client, &self.pipe.backend] {
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
    fn bytes_that_come_with_the_end_arrive_before_it() {
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
    fn a_busy_connection_yields_to_others() {
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
    fn bytes_sent_to_a_backend_that_ends_unused_reach_the_next_backend() {
        let (mut bench, mut user, server) = Bench::new();
        user.write_all(b"hello").unwrap();
        drop(server);
        bench.wait_for(Token(1));
        assert!(matches!(bench.turn(), Turn::Ended(End::Unused(_))));
        let (mut server, stream) = pair();
        stream.set_nonblocking(true).unwrap();
        let way = (bench.poll.registry(), Token(1));
        bench.pipe.replace_backend(TcpStream::from_std(stream), way).unwrap();
        bench.begin();
        let mut bytes = [0; 5];
        server.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"hello");
    }

    #[test] // or the system would keep it back until the first has been acknowledged
    fn after_the_first_write_a_backend_receives_everything_together() {
        let (mut bench, mut user, mut server) = Bench::new();
        for is_nodelay in [false, true, true] {
            user.write_all(b"hello").unwrap();
            bench.wait_for(Token(0));
            assert!(matches!(bench.turn(), Turn::Done));
            server.read_exact(&mut [0; 5]).unwrap();
            assert_eq!(bench.pipe.backend.socket.nodelay().unwrap(), is_nodelay);
        }
        let (mut bench, mut user, mut server) = Bench::new();
        let much = [b'x'; ONE_SEGMENT + 1];
        user.write_all(&much).unwrap();
        bench.wait_for(Token(0));
        assert!(matches!(bench.turn(), Turn::Done));
        server.read_exact(&mut [0; ONE_SEGMENT + 1]).unwrap();
        assert!(bench.pipe.backend.socket.nodelay().unwrap());
    }

    #[test]
    fn a_client_that_leaves_after_its_end_is_closed() {
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
    fn a_silent_client_is_closed_soon_after_its_backend_ended() {
        let (mut bench, mut user, mut server) = Bench::new();
        user.write_all(b"hello").unwrap();
        bench.wait_for(Token(0));
        assert!(matches!(bench.turn(), Turn::Done));
        server.read_exact(&mut [0; 5]).unwrap();
        assert_eq!(bench.pipe.is_idle_at(), bench.now + IDLE_TIMEOUT);
        drop(server);
        bench.wait_for(Token(1));
        bench.now += IDLE_TIMEOUT / 2;
        assert!(matches!(bench.turn(), Turn::Done));
        assert_eq!(user.read(&mut [0]).unwrap(), 0);
        assert_eq!(bench.pipe.is_idle_at(), bench.now + HALF_CLOSED);
        // Another look does not give it more time.
        bench.now += HALF_CLOSED / 2;
        assert!(matches!(bench.turn(), Turn::Done));
        assert_eq!(bench.pipe.is_idle_at(), bench.now + HALF_CLOSED / 2);
    }
}
