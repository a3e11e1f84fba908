//! NUL framing: a TCP byte stream cut into packet texts, within a size limit (§3, protocol.md 2.5).

use jmqt_core::Partial;

/// The byte that ends every packet on a plain or TLS socket.
pub const NUL: u8 = 0;

/// A packet grew past the limit before its NUL came: the connection is to be closed (2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a packet is larger than {limit} bytes")]
pub struct PacketTooLarge {
    /// The limit that was in force, in bytes without the NUL.
    pub limit: usize,
}

/// Cuts chunks of a byte stream at their NUL bytes.
///
/// Packets that are complete in a chunk are returned as slices of it; only one that spans chunks is
/// copied, and never more of it than the limit. A decoder with nothing half-read holds no memory.
#[derive(Debug)]
pub struct NulDecoder {
    partial: Partial,
    limit: usize,
}

impl NulDecoder {
    /// `limit` is the largest packet in bytes, without its NUL.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { partial: Partial::new(), limit }
    }

    /// Changes the limit; a packet already begun is held to the new one.
    pub const fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether the beginning of a packet is waiting for its end.
    #[must_use]
    pub const fn is_mid_packet(&self) -> bool {
        self.partial.is_mid_packet()
    }

    /// How many bytes the decoder holds on to.
    #[must_use]
    pub const fn buffered(&self) -> usize {
        self.partial.allocated()
    }

    /// The next packet in `chunk`, which is shortened by what was used; `None` when it is used up.
    ///
    /// # Errors
    /// [`PacketTooLarge`] when a packet exceeds the limit. The decoder is of no further use.
    pub fn next<'a, 'c: 'a>(&'a mut self, chunk: &mut &'c [u8]) -> Result<Option<&'a [u8]>, PacketTooLarge> {
        self.partial.discard_delivered();
        let too_large = Err(PacketTooLarge { limit: self.limit });
        let Some(end) = memchr::memchr(NUL, chunk) else {
            if self.partial.bytes().len() + chunk.len() > self.limit {
                return too_large;
            }
            self.partial.append(std::mem::take(chunk), self.limit);
            return Ok(None);
        };
        if self.partial.bytes().len() + end > self.limit {
            return too_large;
        }
        let (packet, rest) = chunk.split_at(end);
        *chunk = &rest[1..];
        if !self.partial.is_mid_packet() {
            return Ok(Some(packet));
        }
        self.partial.append(packet, self.limit);
        Ok(Some(self.partial.deliver()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // §3
    fn packets_end_at_nul_wherever_the_chunks_end() {
        let mut decoder = NulDecoder::new(100);
        let mut packets = Vec::new();
        for mut chunk in [&b"ab\0c"[..], b"d", b"e\0\0f", b"\0"] {
            while let Some(packet) = decoder.next(&mut chunk).unwrap() {
                packets.push(packet.to_vec());
            }
        }
        assert_eq!(packets, [&b"ab"[..], b"cde", b"", b"f"]);
        assert!(!decoder.is_mid_packet());
    }

    #[test] // protocol.md 2.5
    fn a_packet_of_the_limit_passes_and_one_byte_more_does_not() {
        let mut decoder = NulDecoder::new(4);
        assert_eq!(decoder.next(&mut &b"abcd\0"[..]), Ok(Some(&b"abcd"[..])));
        assert_eq!(decoder.next(&mut &b"abc"[..]), Ok(None));
        assert_eq!(decoder.next(&mut &b"de\0"[..]), Err(PacketTooLarge { limit: 4 }));
    }

    #[test] // protocol.md 2.5
    fn at_most_the_limit_is_buffered() {
        let mut decoder = NulDecoder::new(10_000);
        let result = (0..100).try_for_each(|_| {
            assert!(decoder.buffered() <= 10_000);
            decoder.next(&mut &[b'x'; 777][..]).map(drop)
        });
        assert_eq!(result, Err(PacketTooLarge { limit: 10_000 }));
    }

    #[test]
    fn an_idle_decoder_holds_no_memory() {
        let mut decoder = NulDecoder::new(100);
        assert!(decoder.next(&mut &b"ab"[..]).unwrap().is_none());
        assert!(decoder.is_mid_packet());
        let mut chunk = &b"c\0"[..];
        assert_eq!(decoder.next(&mut chunk).unwrap(), Some(&b"abc"[..]));
        assert!(decoder.next(&mut chunk).unwrap().is_none());
        assert_eq!(decoder.buffered(), 0);
    }
}
