//! One direction of a connection: what was read from one side and is written to the other.

use std::io;
use std::net::Shutdown;
use std::task::{Poll, ready};

use mio::net::TcpStream;

use super::side::{Side, early_end, gone};

/// Reads of one direction before others of the thread get their turn.
const ROUNDS: usize = 4;

/// One direction.
#[derive(Debug, Default)]
pub(super) struct Flow {
    /// Read, but not written yet, from `written` on.
    waiting: Vec<u8>,
    written: usize,
    pub(super) state: State,
    has_moved: bool,
    /// Whether the end of the sender before its first byte is an error.
    pub(super) must_begin: bool,
}

/// What ended a direction before its time.
#[derive(Debug)]
pub(super) enum Fault {
    Sender(io::Error),
    /// Before it took a byte of this direction; those are still waiting.
    Receiver(io::Error),
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    #[default]
    Open,
    /// The sender has ended; the receiver is to be told once it has everything.
    Ending,
    Ended,
}

impl Flow {
    /// Whether the sender went away without having said anything.
    pub(super) fn is_pointless(&self, sender: &TcpStream) -> bool {
        self.waiting.is_empty() && gone(sender).is_some()
    }

    /// Whether something was read that the receiver has not taken yet.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether nothing of this direction has reached the receiver, its end included.
    pub(super) fn is_untouched(&self) -> bool {
        !self.has_moved && self.state == State::Open
    }

    /// Moves what can be moved, and answers when this direction has ended. A receiver that takes no more
    /// ends the direction without an error, so that what it said last still arrives.
    pub(super) fn turn(
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
