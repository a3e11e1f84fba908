//! A position in the bytes of a packet (1.5).

use std::num::NonZeroU16;

use crate::error::Violation;

/// A packet identifier: 1 to 65,535 (2.2.1).
pub type PacketId = NonZeroU16;

/// What of a packet is still to be read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self { bytes }
    }

    pub(crate) const fn is_empty(self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) const fn len(self) -> usize {
        self.bytes.len()
    }

    /// All that is left.
    pub(crate) const fn rest(self) -> &'a [u8] {
        self.bytes
    }

    /// Nothing may be left.
    pub(crate) const fn end(self) -> Result<(), Violation> {
        if self.bytes.is_empty() { Ok(()) } else { Err(Violation::TrailingBytes) }
    }

    pub(crate) fn take(&mut self, count: usize) -> Result<&'a [u8], Violation> {
        let (taken, rest) = self.bytes.split_at_checked(count).ok_or(Violation::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    pub(crate) fn byte(&mut self) -> Result<u8, Violation> {
        let (&byte, rest) = self.bytes.split_first().ok_or(Violation::Truncated)?;
        self.bytes = rest;
        Ok(byte)
    }

    pub(crate) fn two_bytes(&mut self) -> Result<u16, Violation> {
        let (bytes, rest) = self.bytes.split_first_chunk::<2>().ok_or(Violation::Truncated)?;
        self.bytes = rest;
        Ok(u16::from_be_bytes(*bytes))
    }

    pub(crate) fn four_bytes(&mut self) -> Result<u32, Violation> {
        let (bytes, rest) = self.bytes.split_first_chunk::<4>().ok_or(Violation::Truncated)?;
        self.bytes = rest;
        Ok(u32::from_be_bytes(*bytes))
    }

    /// A variable byte integer in its shortest form [MQTT-1.5.5-1].
    pub(crate) fn variable(&mut self) -> Result<u32, Violation> {
        let Variable { value, length, minimal } = variable(self.bytes)?.ok_or(Violation::Truncated)?;
        if !minimal {
            return Err(Violation::LengthNotMinimal);
        }
        self.bytes = &self.bytes[length..];
        Ok(value)
    }

    /// Binary data (1.5.6).
    pub(crate) fn binary(&mut self) -> Result<&'a [u8], Violation> {
        let length = self.two_bytes()?;
        self.take(usize::from(length))
    }

    /// A UTF-8 string (1.5.4). A byte order mark is a character like any other [MQTT-1.5.4-3].
    pub(crate) fn string(&mut self) -> Result<&'a str, Violation> {
        let bytes = self.binary()?;
        let string = std::str::from_utf8(bytes).map_err(|_| Violation::NotUtf8)?;
        match memchr::memchr(0, bytes) {
            None => Ok(string),
            Some(_) => Err(Violation::NullCharacter),
        }
    }

    pub(crate) fn packet_id(&mut self) -> Result<PacketId, Violation> {
        PacketId::new(self.two_bytes()?).ok_or(Violation::PacketIdZero)
    }
}

/// A variable byte integer at the beginning of some bytes (1.5.5).
pub(crate) struct Variable {
    pub(crate) value: u32,
    /// How many bytes it has.
    pub(crate) length: usize,
    /// It could not be written with fewer.
    pub(crate) minimal: bool,
}

/// Reads a variable byte integer; `None` if it does not end in these bytes.
pub(crate) fn variable(bytes: &[u8]) -> Result<Option<Variable>, Violation> {
    let mut value = 0;
    for (index, &byte) in bytes.iter().take(4).enumerate() {
        value |= u32::from(byte & 0x7F) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some(Variable { value, length: index + 1, minimal: index == 0 || byte != 0 }));
        }
    }
    if bytes.len() < 4 { Ok(None) } else { Err(Violation::LengthTooLong) }
}
