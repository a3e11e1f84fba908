//! A packet that spans several reads.

/// The bytes of a packet that has not arrived completely: a part of the framing decoder of a language.
///
/// It grows with the bytes that arrive, never beyond the limit of the decoder. Without a packet it holds no memory.
#[derive(Debug, Default)]
pub struct Partial {
    bytes: Vec<u8>,
    /// The packet is complete and has been returned: the bytes are no longer needed.
    is_delivered: bool,
}

impl Partial {
    /// No bytes.
    #[must_use]
    pub const fn new() -> Self {
        Self { bytes: Vec::new(), is_delivered: false }
    }

    /// Frees a packet that was returned. A decoder calls this before it reads the next packet.
    #[inline]
    pub fn discard_delivered(&mut self) {
        if self.is_delivered {
            *self = Self::new();
        }
    }

    /// Whether the first bytes of a packet are waiting for the rest.
    #[must_use]
    #[inline]
    pub const fn is_mid_packet(&self) -> bool {
        !self.is_delivered && !self.bytes.is_empty()
    }

    /// The number of bytes that are allocated.
    #[must_use]
    pub const fn allocated(&self) -> usize {
        self.bytes.capacity()
    }

    /// The bytes that have arrived.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends bytes. The allocation grows like that of a vector, but not beyond `limit` unless the bytes need it.
    pub fn append(&mut self, bytes: &[u8], limit: usize) {
        let needed = self.bytes.len() + bytes.len();
        if needed > self.bytes.capacity() {
            let grown = needed.max((self.bytes.capacity() * 2).min(limit));
            self.bytes.reserve_exact(grown - self.bytes.len());
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The complete packet, which [`discard_delivered`](Self::discard_delivered) frees.
    pub fn deliver(&mut self) -> &[u8] {
        self.is_delivered = true;
        &self.bytes
    }
}
