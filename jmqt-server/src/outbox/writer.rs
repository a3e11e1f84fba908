//! The bytes of a session and its socket: appending, writing, and how much may wait.

use std::io;

use bytes::Bytes;
use tokio::net::tcp::OwnedWriteHalf;

use super::queue::{COPIED_BYTES, SLICES, SendQueue};
use super::{Outbox, State};
use crate::connection::CloseReason;
use crate::log_limit::log_limited;

/// A queue of at most so many bytes is always possible, and is not counted among what waits for all clients.
const SMALL_QUEUE_BYTES: usize = 64 * 1024;
/// With more than this a client is closed when too much waits for all clients together.
const LARGE_QUEUE_BYTES: usize = 1 << 20;

/// When appended bytes go to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// At once.
    Now,
    /// When the caller calls [`Outbox::flush`]: more is to come.
    Later,
}

/// Who writes to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WrittenBy {
    /// Whoever appends.
    Anybody,
    /// The session's task: the kernel took less than everything, or the bytes are to be encrypted.
    Task,
}

/// What waits to be written, and where to.
pub(super) struct Writer {
    /// Plain connections only: TLS has to be encrypted by the session's own task.
    inline: Option<OwnedWriteHalf>,
    queue: SendQueue,
    /// Bytes the kernel has taken so far.
    written: u64,
    /// What has been counted of what waits for the client, in units of [`SMALL_QUEUE_BYTES`].
    counted: u32,
    by: WrittenBy,
    /// Appended with [`Flush::Later`], and [`Outbox::flush`] has not come yet.
    unflushed: bool,
}

impl Writer {
    pub(super) fn new(inline: Option<OwnedWriteHalf>) -> Self {
        Self {
            inline,
            queue: SendQueue::default(),
            written: 0,
            counted: 0,
            by: WrittenBy::Anybody,
            unflushed: false,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// How many bytes have been counted among what waits for all clients.
    pub(super) fn counted(&self) -> usize {
        self.counted as usize * SMALL_QUEUE_BYTES
    }

    pub(super) fn is_left_to_the_task(&self) -> bool {
        self.by == WrittenBy::Task
    }

    pub(super) fn push(&mut self, bytes: Bytes) {
        self.queue.push(bytes);
    }

    pub(super) fn push_copy(&mut self, bytes: &[u8]) {
        self.queue.push_copy(bytes);
    }

    /// Something was appended with [`Flush::Later`]. `true` if nothing had been since the last flush: the
    /// caller is the one to flush.
    pub(super) fn is_first_to_append(&mut self) -> bool {
        !std::mem::replace(&mut self.unflushed, true)
    }

    /// Whether bytes may go to the socket without passing through the queue.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.by == WrittenBy::Anybody && self.inline.is_some()
    }

    /// Writes what the kernel takes.
    fn write(&mut self) -> io::Result<()> {
        let Self { inline: Some(socket), queue, written, .. } = self else { return Ok(()) };
        queue.write_with(SLICES, |slices| {
            let taken = match slices {
                [only] => socket.try_write(only)?,
                several => socket.try_write_vectored(several)?,
            };
            *written += taken as u64;
            Ok(taken)
        })
    }

    /// Hands what waits to `write`, piece by piece.
    fn write_with(&mut self, mut write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<()> {
        let Self { queue, written, .. } = self;
        queue.write_with(1, |slices| {
            let taken = write(&slices[0])?;
            *written += taken as u64;
            Ok(taken)
        })
    }
}

impl Outbox {
    /// Appends what the session says itself, in the form of the client: an acknowledgement, mostly. `true` if the
    /// queue is full now: the session must handle nothing more until the client has taken some of it.
    pub(crate) fn answer(&self, mut framed: Vec<u8>) -> bool {
        let mut state = self.lock();
        if framed.len() <= COPIED_BYTES {
            state.writer.push_copy(&framed);
        } else {
            framed.shrink_to_fit();
            state.writer.push(framed.into());
        }
        self.is_full(&state)
    }

    /// Appends bytes that are framed already.
    pub(crate) fn append(&self, bytes: Bytes) {
        self.lock().writer.push(bytes);
    }

    /// Appends bytes after which nothing more is sent.
    pub(crate) fn end_with(&self, bytes: &[u8]) {
        self.lock().writer.queue.end_with(bytes);
    }

    /// Writes what it can, unless the session's task is at it already.
    pub(crate) fn flush(&self) {
        let mut state = self.lock();
        state.writer.unflushed = false;
        self.flush_locked(&mut state);
    }

    pub(super) fn flush_locked(&self, state: &mut State) {
        self.write_now(state);
        self.count(state);
    }

    fn write_now(&self, state: &mut State) {
        if state.writer.is_left_to_the_task() || state.writer.is_empty() {
            return;
        }
        if state.writer.inline.is_none() {
            state.writer.by = WrittenBy::Task;
            self.waker.wake();
            return;
        }
        while !state.writer.is_empty() {
            if let Err(error) = state.writer.write() {
                return self.write_failed(state, &error);
            }
            self.pump(state); // what found the queue full
        }
    }

    /// The way of most pushes: straight from the shared bytes into the kernel.
    pub(super) fn write_or_keep(&self, state: &mut State, bytes: &Bytes, length: usize) {
        let writer = &mut state.writer;
        let Some(socket) = &writer.inline else { return };
        match socket.try_write(&bytes[..length]) {
            Ok(taken) => {
                writer.written += taken as u64;
                if taken < length {
                    writer.push(bytes.slice(taken..length));
                    writer.by = WrittenBy::Task;
                    self.count(state);
                    self.waker.wake();
                }
            }
            Err(error) => {
                writer.push(bytes.slice(..length));
                self.count(state);
                self.write_failed(state, &error);
            }
        }
    }

    fn write_failed(&self, state: &mut State, error: &io::Error) {
        if error.kind() == io::ErrorKind::WouldBlock {
            state.writer.by = WrittenBy::Task;
        } else {
            state.close(CloseReason::ConnectionLost);
        }
        self.waker.wake();
    }

    /// Goes on writing where the kernel took too little; `true` when nothing is left.
    pub(crate) fn drain_plain(&self) -> io::Result<bool> {
        let mut state = self.lock();
        let result = state.writer.write();
        self.drained(&mut state, result)
    }

    /// Lets the session's task write in its own way (TLS).
    pub(crate) fn drain_with(&self, write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        let mut state = self.lock();
        let result = state.writer.write_with(write);
        self.drained(&mut state, result)
    }

    fn drained(&self, state: &mut State, result: io::Result<()>) -> io::Result<bool> {
        if result.is_ok() {
            self.pump(state); // what found the queue full
        }
        self.count(state);
        match result {
            Ok(()) => {
                let is_done = state.writer.is_empty();
                state.writer.by = if is_done { WrittenBy::Anybody } else { WrittenBy::Task };
                Ok(is_done)
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Lets go of the socket, which closes it: what is appended from now on goes nowhere.
    pub(crate) fn release_socket(&self) {
        let mut state = self.lock();
        state.writer.inline = None;
        state.writer.queue = SendQueue::default();
        self.count(&mut state);
    }

    /// Bytes taken by the kernel so far, and bytes waiting.
    pub(crate) fn progress(&self) -> (u64, usize) {
        let state = self.lock();
        (state.writer.written, state.writer.len())
    }

    pub(super) fn is_full(&self, state: &State) -> bool {
        state.writer.len() >= self.limit()
    }

    /// What may wait in the queue now: little, if too much waits for all clients together.
    pub(super) fn limit(&self) -> usize {
        let limit = self.context.queue_bytes;
        if self.context.outbound.is_used_up() { limit.min(SMALL_QUEUE_BYTES) } else { limit }
    }

    /// Counts what waits here among what waits for all clients, once it is more than a little.
    pub(super) fn count(&self, state: &mut State) {
        let now = u32::try_from(state.waiting() / SMALL_QUEUE_BYTES).unwrap_or(u32::MAX);
        if now != state.writer.counted {
            let before = state.writer.counted();
            state.writer.counted = now;
            self.context.outbound.change(before, state.writer.counted());
        }
    }

    /// A push had to be dropped. If that is because too much waits for all clients, the ones for whom most
    /// of it waits have to go.
    pub(super) fn shed_if_large(&self, state: &mut State) {
        let bytes = state.writer.counted();
        if bytes < LARGE_QUEUE_BYTES || !self.context.outbound.is_used_up() || state.closed().is_some() {
            return;
        }
        self.context.counters.outbound_closed.increment();
        log_limited!(warn, target: "jmqt::session", bytes, "closing a client that does not read: the outbound queues of all clients together have reached MAX_TOTAL_OUTBOUND_BYTES");
        state.close(CloseReason::QueueOverflow);
        self.waker.wake();
    }
}
