//! A byte stream cut into packets: the fixed header and the remaining length (2.1).

use jmqt_core::Partial;

use crate::error::{DecodeError, Violation};
use crate::packet_type::PacketType;
use crate::read::variable;
use crate::version::Version;

/// One whole packet, not yet looked into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The type and flags (2.1.2, 2.1.3).
    pub first: u8,
    /// The remaining length was written with no more bytes than it needs [MQTT-1.5.5-1].
    pub minimal_length: bool,
    /// What follows the fixed header.
    pub body: &'a [u8],
}

impl<'a> Frame<'a> {
    /// The frame of one complete packet, as a [`FrameDecoder`] has cut it; `None` if it is not exactly one packet.
    #[must_use]
    pub fn of(packet: &'a [u8]) -> Option<Self> {
        match peek(packet, packet.len()) {
            Ok(Peek::Known(header)) if header.packet_length() == packet.len() => Some(frame(header, packet)),
            _ => None,
        }
    }
}

/// What the beginning of a packet says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peek {
    /// More bytes are needed to know the packet's length.
    Unknown,
    /// The length is known.
    Known(Header),
}

/// The fixed header of a packet (2.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// The type and flags.
    pub first: u8,
    /// How many bytes the fixed header has: 2 to 5.
    pub length: usize,
    /// How many bytes follow it: the remaining length.
    pub body_length: usize,
    /// The remaining length was written with no more bytes than it needs.
    pub minimal_length: bool,
}

impl Header {
    /// The whole packet, which a maximum packet size limits (3.1.2.11.4).
    #[must_use]
    pub const fn packet_length(&self) -> usize {
        self.length + self.body_length
    }
}

/// Reads a fixed header.
///
/// The limit is checked as soon as the length is known, before anything is buffered for the packet.
///
/// # Errors
/// The packet type is 0; the remaining length has more than four bytes; the packet is larger than `limit` bytes, fixed
/// header included.
pub fn peek(bytes: &[u8], limit: usize) -> Result<Peek, Violation> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(Peek::Unknown) };
    if PacketType::of_first_byte(first).is_none() {
        return Err(Violation::ReservedType(first >> 4));
    }
    let Some(remaining) = variable(rest)? else {
        // At least one more byte belongs to the packet.
        return if bytes.len() < limit { Ok(Peek::Unknown) } else { Err(Violation::TooLarge { limit }) };
    };
    let header = Header {
        first,
        length: 1 + remaining.length,
        body_length: remaining.value as usize,
        minimal_length: remaining.minimal,
    };
    if header.packet_length() > limit { Err(Violation::TooLarge { limit }) } else { Ok(Peek::Known(header)) }
}

/// Cuts chunks of a byte stream into packets.
///
/// Packets that lie whole in a chunk are handed out as slices of it; only one that spans chunks is copied. The buffer grows
/// with what has come, never by what a length announces, and never beyond the limit. A decoder with nothing half-read holds
/// no memory.
#[derive(Debug)]
pub struct FrameDecoder {
    partial: Partial,
    limit: usize,
}

impl FrameDecoder {
    /// `limit` is the largest packet in bytes, with its fixed header.
    #[must_use]
    pub const fn new(limit: usize) -> Self {
        Self { partial: Partial::new(), limit }
    }

    /// Changes the limit, after CONNECT for example; a packet already begun is held to the new one.
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
    /// `version` is only for the answer to an error: `None` before CONNECT.
    ///
    /// # Errors
    /// As of [`peek`]. The decoder is of no further use.
    pub fn next<'a, 'c: 'a>(
        &'a mut self,
        chunk: &mut &'c [u8],
        version: Option<Version>,
    ) -> Result<Option<Frame<'a>>, DecodeError> {
        Ok(self.next_packet(chunk, version)?.and_then(Frame::of))
    }

    /// The same, as the bytes of the whole packet with its fixed header.
    ///
    /// # Errors
    /// As of [`peek`]. The decoder is of no further use.
    pub fn next_packet<'a, 'c: 'a>(
        &'a mut self,
        chunk: &mut &'c [u8],
        version: Option<Version>,
    ) -> Result<Option<&'a [u8]>, DecodeError> {
        self.partial.discard_delivered();
        if self.partial.is_mid_packet() {
            return self.finish(chunk, version);
        }
        let error = |violation| refused(chunk.first(), violation, version);
        match peek(chunk, self.limit).map_err(error)? {
            Peek::Known(header) if header.packet_length() <= chunk.len() => {
                let (packet, rest) = chunk.split_at(header.packet_length());
                *chunk = rest;
                Ok(Some(packet))
            }
            _ => {
                self.partial.append(std::mem::take(chunk), self.limit);
                Ok(None)
            }
        }
    }

    /// Goes on with the packet that earlier chunks began.
    fn finish<'a>(
        &'a mut self,
        chunk: &mut &[u8],
        version: Option<Version>,
    ) -> Result<Option<&'a [u8]>, DecodeError> {
        loop {
            let partial = self.partial.bytes();
            let held = partial.len();
            let error = |violation| refused(partial.first(), violation, version);
            let wanted = match peek(partial, self.limit).map_err(error)? {
                // The length is at most five bytes long: they are taken one by one.
                Peek::Unknown => 1,
                Peek::Known(header) if header.packet_length() == held => {
                    return Ok(Some(self.partial.deliver()));
                }
                Peek::Known(header) => header.packet_length() - held,
            };
            if chunk.is_empty() {
                return Ok(None);
            }
            let (taken, rest) = chunk.split_at(wanted.min(chunk.len()));
            *chunk = rest;
            self.partial.append(taken, self.limit);
        }
    }
}

fn frame(header: Header, packet: &[u8]) -> Frame<'_> {
    Frame {
        first: header.first,
        minimal_length: header.minimal_length,
        body: &packet[header.length..header.packet_length()],
    }
}

fn refused(first: Option<&u8>, violation: Violation, version: Option<Version>) -> DecodeError {
    DecodeError { packet: first.and_then(|&first| PacketType::of_first_byte(first)), version, violation }
}
