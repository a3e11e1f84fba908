//! What jmqt-mqtt reads, writes and refuses, from the outside.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

mod checks;
mod conformance;
mod framing;
mod fuzzing;
mod properties;
mod refusals;
mod samples;

use jmqt_mqtt::{Connect, DecodeError, Frame, FrameDecoder, Packet, PacketType, Sender, Version};

/// Bytes written as `"10 0C  00 04 'MQTT'"`: pairs of hexadecimal digits, and text in quotes.
fn bytes(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for (index, part) in text.split('\'').enumerate() {
        if index % 2 == 1 {
            out.extend_from_slice(part.as_bytes());
            continue;
        }
        for pair in part.split_whitespace() {
            out.push(u8::from_str_radix(pair, 16).unwrap());
        }
    }
    out
}

/// The one packet that these bytes are.
fn frame<'a>(decoder: &'a mut FrameDecoder, packet: &'a [u8]) -> Result<Frame<'a>, DecodeError> {
    let mut chunk = packet;
    let frame =
        decoder.next(&mut chunk, None)?.unwrap_or_else(|| panic!("{packet:02x?} is not a whole packet"));
    assert_eq!(chunk.len(), 0, "something follows the packet {packet:02x?}");
    Ok(frame)
}

/// Reads a packet, and gives the result to `check`.
#[track_caller]
fn read<T>(
    packet: &[u8],
    version: Version,
    sender: Sender,
    check: impl FnOnce(Result<Packet<'_>, DecodeError>) -> T,
) -> T {
    let mut decoder = FrameDecoder::new(packet.len());
    let frame = match frame(&mut decoder, packet) {
        Ok(frame) => frame,
        Err(error) => return check(Err(error)),
    };
    if PacketType::of_first_byte(frame.first) == Some(PacketType::Connect) && sender == Sender::Client {
        return check(Connect::decode(&frame).map(Packet::Connect));
    }
    check(Packet::decode(&frame, version, sender))
}
