//! The bytes of a session and its socket: appending, writing, and the limits for waiting bytes.

use std::io;

use bytes::Bytes;
use tokio::net::tcp::OwnedWriteHalf;

use super::queue::{COPIED_BYTES, SLICES, SendQueue};
use super::{Outbox, State};
use crate::connection::CloseReason;
use crate::log_limit::log_limited;

/// A queue up to this size is always allowed, and is not counted in the total of all clients.
const SMALL_QUEUE_BYTES: usize = 64 * 1024;
/// A client with a larger queue is closed when the total of all clients is reached.
const LARGE_QUEUE_BYTES: usize = 1 << 20;

/// The time at which appended bytes are written to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flush {
    /// At once.
    Now,
    /// When the caller calls [`Outbox::flush`], because more bytes follow.
    Later,
}

/// The task that writes to the socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WrittenBy {
    /// Any task that appends.
    Anybody,
    /// The session's task, because the last write was partial, or the bytes must be encrypted.
    Task,
}

/// The bytes that wait to be written, and their destination.
pub(super) struct Writer {
    /// Set on unencrypted connections only. TLS is encrypted by the session's own task.
    inline: Option<OwnedWriteHalf>,
    queue: SendQueue,
    /// The number of bytes that the kernel has accepted so far.
    written: u64,
    /// The bytes that are counted in the total of all clients, in units of [`SMALL_QUEUE_BYTES`].
    counted: u32,
    by: WrittenBy,
    /// Bytes were appended with [`Flush::Later`], and [`Outbox::flush`] has not been called yet.
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

    /// The number of bytes that are counted in the total of all clients.
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

    /// Records that bytes were appended with [`Flush::Later`]. Returns `true` for the first time since the last
    /// flush: the caller must flush.
    pub(super) fn is_first_to_append(&mut self) -> bool {
        !std::mem::replace(&mut self.unflushed, true)
    }

    /// Returns `true` if bytes may be written to the socket without passing through the queue.
    pub(super) fn is_idle(&self) -> bool {
        self.queue.is_empty() && self.by == WrittenBy::Anybody && self.inline.is_some()
    }

    /// Writes as much as the kernel accepts.
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

    /// Passes the waiting bytes to `write`, piece by piece.
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
    /// Appends a packet of the session itself, usually an acknowledgement, in the form of the client. Returns `true`
    /// if the queue is full now: the session must not handle more packets until the client has read some of it.
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

    /// Appends whole messages to the queue.
    pub(super) fn append_messages(&self, state: &mut State, bytes: Bytes) {
        let bytes = match state.aliases() {
            None => bytes,
            Some(aliases) => aliases.replace_topics(self.form(), &bytes, self.packet_limit()).into(),
        };
        state.writer.push(bytes);
    }

    /// Appends bytes that are already framed.
    pub(crate) fn append(&self, bytes: Bytes) {
        self.lock().writer.push(bytes);
    }

    /// Appends the last bytes of the connection.
    pub(crate) fn end_with(&self, bytes: &[u8]) {
        self.lock().writer.queue.end_with(bytes);
    }

    /// Writes as much as possible, unless the session's task is writing.
    pub(crate) fn flush(&self) {
        let mut state = self.lock();
        state.writer.unflushed = false;
        if let Some(group) = &self.group {
            drop(state);
            return self.give_shares(group);
        }
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
            let before = state.writer.written;
            let written = state.writer.write();
            self.count_sent(state.writer.written - before);
            if let Err(error) = written {
                return self.write_failed(state, &error);
            }
            self.pump(state); // pushes that had no room in the queue
        }
    }

    /// The path of most pushes: directly from the shared bytes to the kernel.
    pub(super) fn write_or_keep(&self, state: &mut State, bytes: &Bytes, length: usize) {
        let writer = &mut state.writer;
        let Some(socket) = &writer.inline else { return };
        match socket.try_write(&bytes[..length]) {
            Ok(taken) => {
                writer.written += taken as u64;
                self.count_sent(taken as u64);
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

    fn count_sent(&self, bytes: u64) {
        self.context.counters.bytes_sent.add(bytes);
    }

    fn write_failed(&self, state: &mut State, error: &io::Error) {
        if error.kind() == io::ErrorKind::WouldBlock {
            state.writer.by = WrittenBy::Task;
        } else {
            state.close(CloseReason::ConnectionLost);
        }
        self.waker.wake();
    }

    /// Continues after a partial write; returns `true` when the queue is empty.
    pub(crate) fn drain_plain(&self) -> io::Result<bool> {
        let mut state = self.lock();
        let before = state.writer.written;
        let result = state.writer.write();
        self.count_sent(state.writer.written - before);
        self.drained(&mut state, result)
    }

    /// Lets the session's task write the bytes itself (TLS).
    pub(crate) fn drain_with(&self, write: impl FnMut(&[u8]) -> io::Result<usize>) -> io::Result<bool> {
        let mut state = self.lock();
        let before = state.writer.written;
        let result = state.writer.write_with(write);
        self.count_sent(state.writer.written - before);
        self.drained(&mut state, result)
    }

    fn drained(&self, state: &mut State, result: io::Result<()>) -> io::Result<bool> {
        if result.is_ok() {
            self.pump(state); // pushes that had no room in the queue
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

    /// Drops the socket, which closes it. Bytes appended later are discarded.
    pub(crate) fn release_socket(&self) {
        let mut state = self.lock();
        state.writer.inline = None;
        state.writer.queue = SendQueue::default();
        self.count(&mut state);
    }

    /// The number of bytes that the kernel has accepted so far, and the number of waiting bytes.
    pub(crate) fn progress(&self) -> (u64, usize) {
        let state = self.lock();
        (state.writer.written, state.writer.len())
    }

    pub(super) fn is_full(&self, state: &State) -> bool {
        let limit = self.limit();
        state.writer.len() >= limit || self.group.as_ref().is_some_and(|group| group.is_full(limit))
    }

    /// The current limit of the queue. It is small while the total of all clients is reached.
    pub(super) fn limit(&self) -> usize {
        let limit = self.context.queue_bytes;
        if self.context.outbound.is_used_up() { limit.min(SMALL_QUEUE_BYTES) } else { limit }
    }

    /// Counts the waiting bytes in the total of all clients, if they exceed the uncounted size.
    pub(super) fn count(&self, state: &mut State) {
        let now = u32::try_from(state.waiting() / SMALL_QUEUE_BYTES).unwrap_or(u32::MAX);
        if now != state.writer.counted {
            let before = state.writer.counted();
            state.writer.counted = now;
            self.context.outbound.change(before, state.writer.counted());
        }
    }

    /// Called when a push was dropped. If the total of all clients is reached, clients with the largest queues are
    /// closed.
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
