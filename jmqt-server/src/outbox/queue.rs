//! The bytes that wait for one socket.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use bytes::{Buf, Bytes};

/// A piece up to this size is copied to the tail; a larger one is shared between subscribers.
pub(crate) const COPIED_BYTES: usize = 2048;
/// A copied tail that is longer than this is closed, and a new one begins.
const TAIL_BYTES: usize = 64 * 1024;
/// The number of pieces in one write call.
pub(crate) const SLICES: usize = 16;

/// Bytes in order: shared pieces, then a tail of small copied ones. An empty queue holds no memory.
#[derive(Debug, Default)]
pub(crate) struct SendQueue {
    pieces: VecDeque<Bytes>,
    tail: Vec<u8>,
    length: usize,
    ended: bool,
}

impl SendQueue {
    pub(crate) fn len(&self) -> usize {
        self.length
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends the last bytes. Bytes appended later are discarded.
    pub(crate) fn end_with(&mut self, bytes: &[u8]) {
        self.push_copy(bytes);
        self.ended = true;
    }

    pub(crate) fn push_copy(&mut self, bytes: &[u8]) {
        if self.ended {
            return;
        }
        if self.tail.len() + bytes.len() > TAIL_BYTES {
            self.close_tail();
        }
        self.tail.extend_from_slice(bytes);
        self.length += bytes.len();
    }

    pub(crate) fn push(&mut self, bytes: Bytes) {
        if bytes.len() <= COPIED_BYTES {
            return self.push_copy(&bytes);
        }
        if self.ended {
            return;
        }
        self.close_tail();
        self.length += bytes.len();
        self.pieces.push_back(bytes);
    }

    /// Passes the bytes to `write`, a limited number of pieces at a time, until it accepts no more. Removes the
    /// accepted bytes.
    pub(crate) fn write_with(
        &mut self,
        pieces: usize,
        mut write: impl FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<()> {
        self.close_tail();
        while !self.is_empty() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let mut offered = 0;
            let mut used = 0;
            for (slice, piece) in slices.iter_mut().zip(&self.pieces).take(pieces) {
                *slice = IoSlice::new(piece);
                offered += piece.len();
                used += 1;
            }
            let taken = write(&slices[..used])?;
            self.advance(taken);
            if taken < offered {
                // A short write means that the kernel's buffer is full, so a second call is useless.
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        self.pieces = VecDeque::new();
        Ok(())
    }

    fn advance(&mut self, mut taken: usize) {
        self.length -= taken;
        while let Some(piece) = self.pieces.front_mut() {
            if piece.len() > taken {
                piece.advance(taken);
                return;
            }
            taken -= piece.len();
            self.pieces.pop_front();
        }
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            self.pieces.push_back(std::mem::take(&mut self.tail).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // protocol.md 2.22: nothing follows a `disconn`
    fn nothing_follows_the_last_bytes() {
        let mut queue = SendQueue::default();
        queue.push_copy(b"first");
        queue.end_with(b"last");
        queue.push_copy(b"more");
        queue.push(vec![b'x'; COPIED_BYTES + 1].into());
        let mut written = Vec::new();
        let write = |slices: &[IoSlice<'_>]| {
            written.extend(slices.iter().flat_map(|slice| slice.iter().copied()));
            Ok(slices.iter().map(|slice| slice.len()).sum())
        };
        queue.write_with(SLICES, write).unwrap();
        assert_eq!(written, b"firstlast");
    }

    #[test]
    fn partial_writes_keep_the_order_of_bytes() {
        let mut queue = SendQueue::default();
        let mut expected = Vec::new();
        for round in 0..50u8 {
            let piece = vec![round; usize::from(round) * 200];
            expected.extend_from_slice(&piece);
            queue.push(piece.into());
        }
        let mut written = Vec::new();
        let mut appetite = 1;
        while !queue.is_empty() {
            let result = queue.write_with(SLICES, |slices| {
                appetite = appetite * 7 % 4099 + 1;
                let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
                let taken = all.len().min(appetite);
                written.extend_from_slice(&all[..taken]);
                Ok(taken)
            });
            assert!(result.is_ok() || result.unwrap_err().kind() == io::ErrorKind::WouldBlock);
            assert_eq!(queue.len(), expected.len() - written.len());
        }
        assert_eq!(written, expected);
    }
}
