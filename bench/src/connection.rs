//! One client connection: the byte stream, the dialect, and the buffers between them.

use anyhow::{Context, Result};

use crate::dialect::{Dialect, Event};
use crate::wire::Wire;

/// A connection of the load generator. Idle ones hold no buffer worth mentioning.
pub(crate) struct Connection {
    pub(crate) wire: Wire,
    pub(crate) dialect: Box<dyn Dialect>,
    /// What is to be sent; `written` of it is gone already.
    pub(crate) outgoing: Vec<u8>,
    written: usize,
    /// The beginning of a packet whose end has not arrived.
    partial: Vec<u8>,
    /// Whether epoll also watches for room to write.
    pub(crate) is_watched_for_room: bool,
}

impl Connection {
    pub(crate) fn new(wire: Wire, dialect: Box<dyn Dialect>) -> Self {
        Self {
            wire,
            dialect,
            outgoing: Vec::new(),
            written: 0,
            partial: Vec::new(),
            is_watched_for_room: false,
        }
    }

    /// Reads once, into the buffer all connections share, and appends what the packets meant to `events`.
    /// Level-triggered epoll reports what is left. Answers to the server are left in `outgoing`.
    pub(crate) fn receive(&mut self, buffer: &mut [u8], events: &mut Vec<Event>) -> Result<()> {
        let kept = self.partial.len();
        buffer[..kept].copy_from_slice(&self.partial);
        let Some(read) = self.wire.read(&mut buffer[kept..]).context("reading")? else {
            return Ok(());
        };
        let input = &buffer[..kept + read];
        let taken = self.dialect.scan(input, &mut self.outgoing, events)?;
        self.partial.clear();
        self.partial.extend_from_slice(&input[taken..]);
        Ok(())
    }

    /// Writes what the kernel takes. Answers whether something is left.
    pub(crate) fn flush(&mut self) -> Result<bool> {
        if self.has_outgoing() || self.wire.holds_back() {
            let pending = &self.outgoing[self.written..];
            self.written += self.wire.write(pending).context("writing")?;
            if self.written == self.outgoing.len() {
                self.outgoing.clear();
                self.written = 0;
            }
        }
        Ok(self.has_outgoing() || self.wire.holds_back())
    }

    /// Whether the kernel has not taken everything yet.
    pub(crate) fn has_outgoing(&self) -> bool {
        !self.outgoing.is_empty()
    }
}
