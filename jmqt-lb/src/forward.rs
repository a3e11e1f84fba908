//! Bytes both ways between a client and a backend.
//!
//! One task waits for either side. It borrows the thread's buffer for a read and writes on at once; only
//! what could not be written is kept, in a buffer of the connection, and the sender is not read from until
//! that is gone. So an idle connection holds no buffer, and a slow receiver one of `buffer_size` at most.
//! The end of one direction is passed on as a half-close, and the other one goes on.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::backends::Backend;

/// Reads of one direction before others of the thread get their turn.
const ROUNDS: usize = 4;
/// A backend that goes away so soon after it took the connection, before the first byte, has failed.
/// Later it has its reasons: a client that says nothing, for example, which must neither be carried from
/// one backend to the next nor have them ejected.
const EARLY: Duration = Duration::from_secs(1);
/// How long a client may be silent after its backend has said all it had to say. Most end at once; one that
/// is gone never does.
const HALF_CLOSED: Duration = Duration::from_secs(30);

thread_local! {
    /// Lent to whoever reads; nothing is in it between two polls.
    static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// How it ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
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
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&mut TcpStream, &mut TcpStream),
        buffer: &mut [u8],
        moved: &mut u64,
    ) -> Poll<Result<(), Fault>> {
        for _ in 0..ROUNDS {
            if !self.waiting.is_empty() {
                match ready!(Pin::new(&mut *to).poll_write(cx, &self.waiting[self.written..])) {
                    Ok(count) => self.wrote_waiting(count, moved),
                    // Another one may still get these bytes.
                    Err(error) if self.is_untouched() => return Poll::Ready(Err(Fault::Receiver(error))),
                    Err(_) => self.end(),
                }
                continue;
            }
            match self.state {
                State::Open => {
                    let mut read = ReadBuf::new(buffer);
                    ready!(Pin::new(&mut *from).poll_read(cx, &mut read)).map_err(Fault::Sender)?;
                    match read.filled() {
                        [] if self.must_begin && !self.has_moved => {
                            return Poll::Ready(Err(Fault::Sender(early_end())));
                        }
                        [] => self.state = State::Ending,
                        bytes => self.pass_on(cx, to, bytes, moved),
                    }
                }
                State::Ending => {
                    // If it cannot be told, it is gone.
                    let _ = ready!(Pin::new(&mut *to).poll_shutdown(cx));
                    self.end();
                }
                State::Ended => return Poll::Ready(Ok(())),
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Writes what was just read, and keeps what is not taken.
    fn pass_on(&mut self, cx: &mut Context<'_>, to: &mut TcpStream, bytes: &[u8], moved: &mut u64) {
        match Pin::new(to).poll_write(cx, bytes) {
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

/// A client and a backend, joined.
struct Pipe<'c> {
    client: &'c mut TcpStream,
    stream: &'c mut TcpStream,
    up: &'c mut Flow,
    down: Flow,
    backend: &'c Backend,
    buffer_size: usize,
    idle_timeout: Duration,
    last_moved: Instant,
    has_worked: bool,
    /// Whether the client has been told of the backend's end.
    is_half_closed: bool,
}

/// Forwards until it ends. `up` holds what a client has said to backends that did not take it: a fresh
/// one at first, and the same one again for the next backend after [`End::Unused`].
///
/// # Cancel safety
/// Not meant to be resumed: what was read and not written is lost with the connection.
pub(crate) async fn forward(
    client: &mut TcpStream,
    stream: &mut TcpStream,
    up: &mut Flow,
    backend: &Backend,
    buffer_size: usize,
    idle_timeout: Duration,
) -> End {
    let mut pipe = Pipe {
        client,
        stream,
        up,
        down: Flow::default(),
        backend,
        buffer_size,
        idle_timeout,
        last_moved: Instant::now(),
        has_worked: false,
        is_half_closed: false,
    };
    let mut clock = pin!(sleep(idle_timeout));
    let mut is_clock_set = false;
    poll_fn(|cx| {
        let last_moved = pipe.last_moved;
        if let Poll::Ready(end) = pipe.poll(cx) {
            return Poll::Ready(end);
        }
        // A clock that knows this task and has not gone off need not be asked, unless there is less time now.
        let has_moved = pipe.last_moved > last_moved;
        if is_clock_set && has_moved && !pipe.is_half_closed && pipe.last_moved < clock.deadline() {
            return Poll::Pending;
        }
        is_clock_set = true;
        pipe.poll_idle(cx, clock.as_mut())
    })
    .await
}

impl Pipe<'_> {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        let is_early = self.is_unused() && self.last_moved.elapsed() < EARLY;
        // Readiness may be old news: ask the socket itself before the first byte goes there.
        if is_early && let Some(error) = gone(self.stream) {
            return Poll::Ready(End::Unused(error));
        }
        self.down.must_begin = is_early;
        let (mut sent, mut received) = (0, 0);
        let (down, up) = BUFFER.with_borrow_mut(|buffer| {
            if buffer.len() < self.buffer_size {
                buffer.resize(self.buffer_size, 0);
            }
            let buffer = &mut buffer[..self.buffer_size];
            let down = self.down.poll(cx, (&mut *self.stream, &mut *self.client), buffer, &mut received);
            if is_early && matches!(down, Poll::Ready(Err(_))) {
                return (down, Poll::Pending); // nothing may be read for this backend
            }
            let up = self.up.poll(cx, (&mut *self.client, &mut *self.stream), buffer, &mut sent);
            (down, up)
        });
        self.count(sent, received);
        if self.down.state == State::Ended && !std::mem::replace(&mut self.is_half_closed, true) {
            self.last_moved = Instant::now();
            self.idle_timeout = self.idle_timeout.min(HALF_CLOSED);
        }
        match (down, up) {
            (Poll::Ready(Err(Fault::Sender(error))), _) | (_, Poll::Ready(Err(Fault::Receiver(error))))
                if is_early && self.is_unused() =>
            {
                Poll::Ready(End::Unused(error))
            }
            (Poll::Ready(Err(Fault::Sender(error) | Fault::Receiver(error))), _)
            | (_, Poll::Ready(Err(Fault::Sender(error) | Fault::Receiver(error)))) => {
                Poll::Ready(End::Lost(error))
            }
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(End::Closed),
            _ => Poll::Pending,
        }
    }

    fn is_unused(&self) -> bool {
        self.up.is_untouched() && self.down.is_untouched()
    }

    fn count(&mut self, sent: u64, received: u64) {
        if sent == 0 && received == 0 {
            return;
        }
        self.last_moved = Instant::now();
        if sent > 0 {
            self.backend.counters.bytes_to.add(sent);
        }
        if received > 0 {
            self.backend.counters.bytes_from.add(received);
            // Once: what a connection does later says nothing of those that fail meanwhile.
            if !std::mem::replace(&mut self.has_worked, true) {
                self.backend.worked();
            }
        }
    }

    /// The clock is not set back for every byte: it is looked at again when it goes off.
    fn poll_idle(&self, cx: &mut Context<'_>, mut clock: Pin<&mut Sleep>) -> Poll<End> {
        loop {
            let deadline = self.last_moved + self.idle_timeout;
            if deadline < clock.deadline() {
                clock.as_mut().reset(deadline);
            }
            ready!(clock.as_mut().poll(cx));
            if deadline <= Instant::now() {
                return Poll::Ready(End::Idle);
            }
            clock.as_mut().reset(deadline);
        }
    }
}

/// Why nothing can be expected from this socket any more, if that is so.
fn gone(stream: &TcpStream) -> Option<io::Error> {
    match SockRef::from(stream).peek(&mut [MaybeUninit::uninit()]) {
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
    use std::net::Ipv4Addr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;
    use crate::backends::{Set, Wanted};

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (near, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn a_client_that_stays_silent_after_its_backend_has_ended_is_not_kept_long() {
        let (mut user, mut client) = pair().await;
        let (mut stream, mut server) = pair().await;
        let address = stream.peer_addr().unwrap();
        let set = Set::new("8010".to_owned());
        set.replace(&[Wanted { name: address.to_string(), address, weight: 1 }]);
        let backend = set.backends().remove(0);
        let (mut up, idle_timeout) = (Flow::default(), Duration::from_secs(600));
        let forwarding = forward(&mut client, &mut stream, &mut up, &backend, 1024, idle_timeout);
        let ending = async {
            user.write_all(b"hello").await.unwrap();
            server.read_exact(&mut [0; 5]).await.unwrap();
            drop(server);
            assert_eq!(user.read(&mut [0]).await.unwrap(), 0);
            tokio::time::pause(); // from here on, nothing happens but time
            Instant::now()
        };
        let (end, told) = tokio::join!(forwarding, ending);
        assert!(matches!(end, End::Idle), "{end}");
        let kept = told.elapsed();
        assert!(kept > HALF_CLOSED / 2 && kept <= HALF_CLOSED + Duration::from_secs(1), "{kept:?}");
    }
}
