//! Reads the frames of a WebSocket client (RFC 6455 §5), as a state machine over bytes: it extracts packets,
//! answers pings and does the closing handshake. The upgrade is in `websocket.rs`.
//!
//! A JMQT packet is one text message. MQTT packets are cut out of the payloads of binary messages, which are one byte
//! stream: a packet may span frames and messages, and share them with others (MQTT 5.0, 6).
//!
//! This replaces `tungstenite`, with which reading a small message costs twice as much as the JMQT processing
//! (two copies, a reference-counted buffer and a separate UTF-8 check for each message). This
//! reader copies once, while it removes the mask, and holds no memory while a connection is idle.

use tungstenite::protocol::frame::coding::CloseCode;

use jmqt_mqtt::{DecodeError, PacketType, Peek, peek};
use jmqt_protocol::PacketTooLarge;

use super::TransportError;

const FINAL: u8 = 0x80;
const RESERVED: u8 = 0x70;
const MASKED: u8 = 0x80;
/// The longest header: two bytes, eight of length, four of mask.
const HEADER_BYTES: usize = 14;
/// The largest payload of a ping, pong or close frame.
const CONTROL_BYTES: usize = 125;

/// The kinds of frames (RFC 6455 §5.2).
mod opcode {
    pub(super) const CONTINUATION: u8 = 0;
    pub(super) const TEXT: u8 = 1;
    pub(super) const BINARY: u8 = 2;
    pub(super) const CLOSE: u8 = 8;
    pub(super) const PING: u8 = 9;
    pub(super) const PONG: u8 = 10;
}

/// An encoded ping without a payload.
pub(crate) const PING: [u8; 2] = [FINAL | opcode::PING, 0];

/// How the messages of a client contain packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Messages {
    /// Each text message is a packet (JMQT).
    Texts,
    /// Binary messages are a stream of packets that have their length (MQTT).
    Stream,
}

/// The result of reading a part of the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// The input is used up.
    UsedUp,
    /// A frame is complete.
    Frame,
    /// A frame is complete that ends a message.
    Message,
}

/// Splits the bytes of a client into packets.
pub(super) struct FrameReader {
    messages: Messages,
    /// The largest packet.
    limit: usize,
    /// Texts: the incomplete message, or the message returned last. Stream: the bytes received and not yet returned,
    /// from `at` on.
    message: Vec<u8>,
    /// Stream: the end of the packet returned last.
    at: usize,
    /// The received part of a header.
    header: [u8; HEADER_BYTES],
    header_length: u8,
    frame: Option<Frame>,
    /// A message has begun and is not complete.
    in_message: bool,
    /// The message in `message` was returned: the next message begins with an empty buffer.
    handed_out: bool,
    closed: bool,
    /// The received payload of a ping or close frame.
    control: Vec<u8>,
    /// Pongs and the close frame, to be sent.
    pub(super) output: Vec<u8>,
}

/// A frame whose header has been read.
#[derive(Clone, Copy)]
struct Frame {
    opcode: u8,
    is_final: bool,
    /// The number of payload bytes not received yet.
    remaining: usize,
    /// The mask, rotated so that it begins with the next payload byte.
    mask: [u8; 4],
}

impl FrameReader {
    pub(super) fn new(messages: Messages, limit: usize) -> Self {
        Self {
            messages,
            limit,
            message: Vec::new(),
            at: 0,
            header: [0; HEADER_BYTES],
            header_length: 0,
            frame: None,
            in_message: false,
            handed_out: false,
            closed: false,
            control: Vec::new(),
            output: Vec::new(),
        }
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// The number of bytes that the reader holds.
    pub(super) fn buffered(&self) -> usize {
        self.message.capacity()
    }

    /// Returns `true` if a packet or the header of a frame is incomplete.
    pub(super) fn is_mid_packet(&self) -> bool {
        match self.messages {
            Messages::Texts => self.in_message || self.frame.is_some() || self.header_length > 0,
            // Between packets a client may be silent, also within a long frame.
            Messages::Stream => {
                self.at < self.message.len()
                    || self.header_length > 0
                    || self.frame.is_some_and(|frame| is_control(frame.opcode))
            }
        }
    }

    /// The next packet in `input`; `None` when the input is used up.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<&[u8]>, TransportError> {
        match self.messages {
            Messages::Texts => self.next_text(input),
            Messages::Stream => self.next_of_stream(input),
        }
    }

    fn next_text(&mut self, input: &mut &[u8]) -> Result<Option<&[u8]>, TransportError> {
        if std::mem::take(&mut self.handed_out) {
            self.message.clear();
        }
        loop {
            match self.read_frame(input)? {
                Step::UsedUp => {
                    self.reclaim();
                    return Ok(None);
                }
                Step::Frame => {}
                Step::Message => {
                    if std::str::from_utf8(&self.message).is_err() {
                        return Err(violation("a text message that is not UTF-8"));
                    }
                    self.handed_out = true;
                    return Ok(Some(&self.message));
                }
            }
        }
    }

    /// The limit is checked as soon as the length of a packet is known. At most one read more than an incomplete packet is
    /// kept.
    fn next_of_stream(&mut self, input: &mut &[u8]) -> Result<Option<&[u8]>, TransportError> {
        loop {
            if let Some(length) = packet_length(&self.message[self.at..], self.limit)? {
                let start = self.at;
                self.at += length;
                return Ok(Some(&self.message[start..self.at]));
            }
            if input.is_empty() {
                self.compact();
                return Ok(None);
            }
            self.read_frame(input)?;
        }
    }

    /// Reads a frame, or the received part of it.
    fn read_frame(&mut self, input: &mut &[u8]) -> Result<Step, TransportError> {
        let mut frame = match self.frame.take() {
            Some(frame) => frame,
            None => match self.read_header(input)? {
                Some(frame) => frame,
                None => return Ok(Step::UsedUp),
            },
        };
        let target = if is_control(frame.opcode) { &mut self.control } else { &mut self.message };
        frame.take_payload(input, target);
        if frame.remaining > 0 {
            self.frame = Some(frame);
            return Ok(Step::UsedUp);
        }
        if is_control(frame.opcode) {
            self.handle_control(frame.opcode)?;
        } else if frame.is_final {
            self.in_message = false;
            return Ok(Step::Message);
        }
        Ok(Step::Frame)
    }

    /// Returns `true` until either side has sent a close frame.
    pub(super) fn is_open(&self) -> bool {
        !self.closed
    }

    /// Sends a close frame, once. The reason is cut to the size of a control frame.
    pub(super) fn close(&mut self, code: Option<CloseCode>, reason: &str) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        self.output.push(FINAL | opcode::CLOSE);
        let Some(code) = code else { return self.output.push(0) };
        let reason = &reason[..reason.floor_char_boundary(CONTROL_BYTES - 2)];
        // At most CONTROL_BYTES.
        self.output.push(u8::try_from(2 + reason.len()).unwrap_or(0));
        self.output.extend_from_slice(&u16::from(code).to_be_bytes());
        self.output.extend_from_slice(reason.as_bytes());
    }

    /// Frees the buffers that hold no part of a message or frame.
    fn reclaim(&mut self) {
        if !self.in_message {
            self.message = Vec::new();
        }
        self.reclaim_control();
    }

    fn reclaim_control(&mut self) {
        if self.frame.is_none() {
            self.control = Vec::new();
        }
    }

    /// Keeps only the incomplete packet of the stream, in no more memory than it needs.
    fn compact(&mut self) {
        if self.at > 0 {
            self.message = self.message[self.at..].to_vec();
            self.at = 0;
        }
        self.reclaim_control();
    }

    /// Reads a header, and checks it before any of the payload is kept.
    fn read_header(&mut self, input: &mut &[u8]) -> Result<Option<Frame>, TransportError> {
        let kept = usize::from(self.header_length);
        let fresh = input.len().min(HEADER_BYTES - kept);
        // Usually the input contains the whole header; then nothing is copied.
        let mut joined = [0; HEADER_BYTES];
        let bytes = if kept == 0 {
            &input[..fresh]
        } else {
            joined[..kept].copy_from_slice(&self.header[..kept]);
            joined[kept..kept + fresh].copy_from_slice(&input[..fresh]);
            &joined[..kept + fresh]
        };
        let Some((length, header_bytes)) = parse_lengths(bytes)? else {
            self.header[..bytes.len()].copy_from_slice(bytes);
            self.header_length = u8::try_from(bytes.len()).unwrap_or(0);
            *input = &input[fresh..];
            return Ok(None);
        };
        let frame = Frame {
            opcode: bytes[0] & 0x0f,
            is_final: bytes[0] & FINAL != 0,
            // A length beyond the address space exceeds every limit too.
            remaining: usize::try_from(length).unwrap_or(usize::MAX),
            mask: [
                bytes[header_bytes - 4],
                bytes[header_bytes - 3],
                bytes[header_bytes - 2],
                bytes[header_bytes - 1],
            ],
        };
        *input = &input[header_bytes - kept..];
        self.header_length = 0;
        self.admit(&frame)?;
        Ok(Some(frame))
    }

    fn admit(&mut self, frame: &Frame) -> Result<(), TransportError> {
        match frame.opcode {
            opcode::CLOSE | opcode::PING | opcode::PONG => {
                if !frame.is_final || frame.remaining > CONTROL_BYTES {
                    return Err(violation("a control frame is fragmented or too long"));
                }
                self.control.clear();
                return Ok(());
            }
            opcode::CONTINUATION if !self.in_message => {
                return Err(violation("a continuation frame without a message"));
            }
            opcode::TEXT if self.messages == Messages::Stream => {
                let reason = "MQTT packets are in binary messages, not in text ones";
                self.close(Some(CloseCode::Unsupported), reason);
                return Err(violation(reason));
            }
            opcode::BINARY if self.messages == Messages::Texts => {
                let reason = "JMQT packets are text messages, not binary ones";
                return Err(violation(reason));
            }
            opcode::TEXT | opcode::BINARY if self.in_message => {
                return Err(violation("a message begins within another one"));
            }
            opcode::TEXT | opcode::BINARY | opcode::CONTINUATION => self.in_message = true,
            _ => return Err(violation("an unknown kind of frame")),
        }
        if self.messages == Messages::Texts && frame.remaining > self.limit.saturating_sub(self.message.len())
        {
            return Err(PacketTooLarge { limit: self.limit }.into());
        }
        Ok(())
    }

    fn handle_control(&mut self, opcode: u8) -> Result<(), TransportError> {
        match opcode {
            opcode::PING if !self.closed => {
                self.output.push(FINAL | opcode::PONG);
                // At most CONTROL_BYTES, which was checked with the header.
                self.output.push(u8::try_from(self.control.len()).unwrap_or(0));
                self.output.extend_from_slice(&self.control);
                Ok(())
            }
            opcode::CLOSE => {
                let code = close_code(&self.control)?;
                self.close(code, "");
                Err(TransportError::Closed)
            }
            _ => Ok(()),
        }
    }
}

impl Frame {
    /// Appends the received payload bytes to `target`, unmasked.
    fn take_payload(&mut self, input: &mut &[u8], target: &mut Vec<u8>) {
        let length = self.remaining.min(input.len());
        let start = target.len();
        target.extend_from_slice(&input[..length]);
        *input = &input[length..];
        self.remaining -= length;
        let [a, b, c, d] = self.mask;
        let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
        let (words, rest) = target[start..].as_chunks_mut::<8>();
        for word in words {
            *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
        }
        for (byte, mask) in rest.iter_mut().zip(self.mask.iter().cycle()) {
            *byte ^= mask;
        }
        self.mask.rotate_left(length % 4);
    }
}

/// The length of the first packet, if it is complete.
fn packet_length(bytes: &[u8], limit: usize) -> Result<Option<usize>, TransportError> {
    match peek(bytes, limit) {
        Ok(Peek::Known(header)) => Ok(Some(header.packet_length()).filter(|length| *length <= bytes.len())),
        Ok(Peek::Unknown) => Ok(None),
        Err(violation) => {
            let packet = bytes.first().and_then(|first| PacketType::of_first_byte(*first));
            // The version matters only for the answer, which the language determines.
            Err(TransportError::Packet(DecodeError { packet, version: None, violation }))
        }
    }
}

/// The lengths of the payload and of the header, if the header is complete.
fn parse_lengths(bytes: &[u8]) -> Result<Option<(u64, usize)>, TransportError> {
    let &[first, second, ref rest @ ..] = bytes else { return Ok(None) };
    if first & RESERVED != 0 {
        return Err(violation("reserved bits are set, but no extension was negotiated"));
    }
    if second & MASKED == 0 {
        return Err(violation("a frame is not masked"));
    }
    let (length, header_bytes) = match second & !MASKED {
        126 => match rest.first_chunk() {
            Some(length) => (u64::from(u16::from_be_bytes(*length)), 8),
            None => return Ok(None),
        },
        127 => match rest.first_chunk() {
            Some(length) => (u64::from_be_bytes(*length), 14),
            None => return Ok(None),
        },
        short => (u64::from(short), 6),
    };
    Ok((bytes.len() >= header_bytes).then_some((length, header_bytes)))
}

/// The code in a close frame, which the answer repeats (RFC 6455 §5.5.1).
fn close_code(payload: &[u8]) -> Result<Option<CloseCode>, TransportError> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return match payload {
            [] => Ok(None),
            _ => Err(violation("a close frame with an incomplete code")),
        };
    };
    let code = CloseCode::from(u16::from_be_bytes(*code));
    if !code.is_allowed() {
        return Err(violation("a close frame with a code that may not be sent"));
    }
    if std::str::from_utf8(reason).is_err() {
        return Err(violation("a close frame whose reason is not UTF-8"));
    }
    Ok(Some(code))
}

fn is_control(opcode: u8) -> bool {
    opcode >= opcode::CLOSE
}

fn violation(reason: &'static str) -> TransportError {
    TransportError::Violation(reason.into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMIT: usize = 70_000;

    fn frame(first: u8, payload: &[u8], mask: [u8; 4]) -> Vec<u8> {
        let mut frame = vec![first];
        match payload.len() {
            short @ 0..=125 => frame.push(MASKED | u8::try_from(short).unwrap()),
            medium @ 126..=0xffff => {
                frame.push(MASKED | 126);
                frame.extend(u16::try_from(medium).unwrap().to_be_bytes());
            }
            long => {
                frame.push(MASKED | 127);
                frame.extend((long as u64).to_be_bytes());
            }
        }
        frame.extend(mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn read(reader: &mut FrameReader, mut input: &[u8]) -> Result<Vec<String>, TransportError> {
        let mut messages = Vec::new();
        while let Some(message) = reader.next(&mut input)? {
            messages.push(String::from_utf8(message.to_vec()).unwrap());
        }
        Ok(messages)
    }

    fn read_packets(reader: &mut FrameReader, mut input: &[u8]) -> Result<Vec<Vec<u8>>, TransportError> {
        let mut packets = Vec::new();
        while let Some(packet) = reader.next(&mut input)? {
            packets.push(packet.to_vec());
        }
        Ok(packets)
    }

    /// A PUBLISH of QoS 0 with this many bytes behind its fixed header.
    fn publish(length: usize) -> Vec<u8> {
        let mut packet = vec![0x30];
        let mut rest = length;
        loop {
            let low = u8::try_from(rest % 128).unwrap();
            rest /= 128;
            packet.push(if rest > 0 { low | 0x80 } else { low });
            if rest == 0 {
                break;
            }
        }
        packet.resize(packet.len() + length, b'x');
        packet
    }

    fn error_of(input: &[u8]) -> TransportError {
        read(&mut FrameReader::new(Messages::Texts, 100), input).unwrap_err()
    }

    fn is_violation(error: &TransportError, expected: &str) -> bool {
        matches!(error, TransportError::Violation(reason) if reason.starts_with(expected))
    }

    proptest! {
        #[test] // RFC 6455 §5.4: fragments, pings among them, and the network's own cuts change nothing
        fn messages_arrive_complete_for_any_fragmentation(
            messages in prop::collection::vec(("[a-zß\u{10348}]{0,200}", any::<[u8; 4]>(), 0..4usize), 1..6),
            mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let mut stream = Vec::new();
            for (text, mask, fragments) in &messages {
                let mut rest = text.as_bytes();
                let mut opcode = opcode::TEXT;
                for _ in 0..*fragments {
                    let (piece, after) = rest.split_at(rest.len() / 2);
                    stream.extend(frame(opcode, piece, *mask));
                    stream.extend(frame(FINAL | opcode::PING, b"p", *mask));
                    (opcode, rest) = (opcode::CONTINUATION, after);
                }
                stream.extend(frame(FINAL | opcode, rest, *mask));
            }
            cuts.sort_by_key(|cut| cut.index(stream.len() + 1));
            let mut reader = FrameReader::new(Messages::Texts, LIMIT);
            let (mut received, mut from) = (Vec::new(), 0);
            for cut in cuts.iter().map(|cut| cut.index(stream.len() + 1)).chain([stream.len()]) {
                received.extend(read(&mut reader, &stream[from..cut]).unwrap());
                from = cut;
            }
            let expected: Vec<_> = messages.iter().map(|(text, ..)| text.clone()).collect();
            prop_assert_eq!(received, expected);
            prop_assert!(!reader.is_mid_packet());
            let pings: usize = messages.iter().map(|(.., fragments)| fragments).sum();
            prop_assert_eq!(reader.output, b"\x8a\x01p".repeat(pings));
        }

        #[test] // MQTT 5.0, 6 [MQTT-6.0.0-2]: packets, frames and the network's own cuts are independent
        fn packets_are_cut_out_of_any_frames(
            lengths in prop::collection::vec(prop_oneof![0..20usize, 120..300usize, 16_000..17_000usize], 1..8),
            mut ends in prop::collection::vec((any::<prop::sample::Index>(), any::<bool>(), any::<[u8; 4]>()), 0..20),
            mut cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..20),
        ) {
            let packets: Vec<_> = lengths.iter().map(|length| publish(*length)).collect();
            let bytes = packets.concat();
            ends.sort_by_key(|(end, ..)| end.index(bytes.len() + 1));
            let (mut stream, mut from, mut opcode) = (Vec::new(), 0, opcode::BINARY);
            for (end, is_final, mask) in &ends {
                let end = end.index(bytes.len() + 1);
                let is_final = if *is_final { FINAL } else { 0 };
                stream.extend(frame(is_final | opcode, &bytes[from..end], *mask));
                stream.extend(frame(FINAL | opcode::PING, b"p", *mask));
                opcode = if is_final > 0 { opcode::BINARY } else { opcode::CONTINUATION };
                from = end;
            }
            stream.extend(frame(FINAL | opcode, &bytes[from..], [7; 4]));
            cuts.sort_by_key(|cut| cut.index(stream.len() + 1));
            let mut reader = FrameReader::new(Messages::Stream, LIMIT);
            let (mut received, mut from) = (Vec::new(), 0);
            for cut in cuts.iter().map(|cut| cut.index(stream.len() + 1)).chain([stream.len()]) {
                received.extend(read_packets(&mut reader, &stream[from..cut]).unwrap());
                from = cut;
            }
            prop_assert!(received == packets);
            prop_assert!(!reader.is_mid_packet());
            prop_assert_eq!(reader.buffered(), 0);
            prop_assert_eq!(reader.output, b"\x8a\x01p".repeat(ends.len()));
        }

        #[test] // arbitrary bytes neither panic nor make it keep more than came, or more than the limit
        fn random_bytes_fill_no_buffer_beyond_its_limit(junk in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut reader = FrameReader::new(Messages::Texts, 100);
            let _ = read(&mut reader, &junk);
            prop_assert!(reader.message.len() <= 100 && reader.control.len() <= CONTROL_BYTES);
            let mut reader = FrameReader::new(Messages::Stream, 100);
            if read_packets(&mut reader, &junk).is_ok() {
                prop_assert!(reader.message.len() <= 100);
            }
            prop_assert!(reader.control.len() <= CONTROL_BYTES);
        }
    }

    #[test]
    fn long_messages_are_read_with_both_length_formats() {
        for length in [125, 126, 0xffff, 0x1_0000] {
            let text = "x".repeat(length);
            let mut reader = FrameReader::new(Messages::Texts, LIMIT);
            assert_eq!(read(&mut reader, &frame(0x81, text.as_bytes(), [9, 8, 7, 6])).unwrap(), [text]);
        }
    }

    #[test] // protocol.md 2.5: nothing of it is buffered
    fn an_oversized_message_is_refused_by_its_header() {
        let header = [0x81, 0xff, 0, 0, 0, 0, 0x7f, 0, 0, 0, 1, 2, 3, 4];
        assert_eq!(error_of(&header), PacketTooLarge { limit: 100 }.into());
        assert_eq!(
            error_of(&[0x81, 0xff, 255, 255, 255, 255, 255, 255, 255, 255, 1, 2, 3, 4]),
            PacketTooLarge { limit: 100 }.into()
        );
        let mut fragments = frame(0x01, &[b'a'; 60], [0; 4]);
        fragments.extend(&frame(0x80, &[b'a'; 60], [0; 4])[..6]);
        assert_eq!(error_of(&fragments), PacketTooLarge { limit: 100 }.into());
        assert_eq!(
            read(&mut FrameReader::new(Messages::Texts, 100), &frame(0x81, &[b'a'; 100], [0; 4]))
                .unwrap()
                .len(),
            1
        );
    }

    #[test] // RFC 6455 §5.1 to §5.5
    fn each_violation_of_the_frame_format_is_reported() {
        let mask = [1, 2, 3, 4];
        let mut twice = frame(0x01, b"a", mask);
        twice.extend(frame(0x81, b"b", mask));
        for (input, code) in [
            (vec![0x81, 0x01, b'a'], "a frame is not masked"),
            (frame(0xc1, b"a", mask), "reserved bits"),
            (frame(0x83, b"a", mask), "an unknown kind"),
            (frame(0x80, b"a", mask), "a continuation frame without a message"),
            (twice, "a message begins within another"),
            (frame(0x09, b"a", mask), "a control frame is fragmented"),
            (frame(0x89, &[0; 126], mask), "a control frame is fragmented or too long"),
            (frame(0x88, &[3], mask), "a close frame with an incomplete code"),
            (frame(0x88, &1005u16.to_be_bytes(), mask), "a close frame with a code"),
            (frame(0x88, b"\x03\xe8\xff", mask), "a close frame whose reason"),
            (frame(0x81, b"\xff", mask), "a text message that is not UTF-8"),
            (frame(0x82, b"a", mask), "JMQT packets are text messages"),
        ] {
            let error = error_of(&input);
            assert!(is_violation(&error, code), "{input:?}: {error:?}");
        }
    }

    #[test] // a frame may be longer than a packet
    fn a_packet_that_is_too_large_is_refused_by_its_length_and_a_frame_is_not() {
        let mut reader = FrameReader::new(Messages::Stream, 100);
        let two = [publish(90), publish(98)].concat();
        assert_eq!(read_packets(&mut reader, &frame(0x82, &two, [1, 2, 3, 4])).unwrap().len(), 2);
        // The frame is announced with four gigabytes, and the packet with one byte too many.
        let header = [0x82, 0xff, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0];
        assert_eq!(read_packets(&mut reader, &header).unwrap().len(), 0);
        assert!(!reader.is_mid_packet());
        assert_eq!(read_packets(&mut reader, &publish(98)).unwrap().len(), 1);
        let error = read_packets(&mut reader, &publish(99)[..2]).unwrap_err();
        assert_eq!(error.close_reason(), crate::connection::CloseReason::PacketTooLarge);
    }

    #[test] // MQTT 5.0, 6 [MQTT-6.0.0-1]
    fn a_text_message_ends_a_stream_of_packets_with_its_own_code() {
        let mut reader = FrameReader::new(Messages::Stream, 100);
        let error = read_packets(&mut reader, &frame(0x81, &publish(3), [0; 4])).unwrap_err();
        assert!(is_violation(&error, "MQTT packets are in binary messages"));
        assert_eq!(reader.output[2..4], 1003u16.to_be_bytes());
    }

    #[test]
    fn the_messages_of_a_stream_follow_the_rules_of_fragments() {
        let mask = [1, 2, 3, 4];
        let mut twice = frame(0x02, &publish(3), mask);
        twice.extend(frame(0x82, &publish(3), mask));
        for (input, reason) in [
            (twice, "a message begins within another"),
            (frame(0x80, &publish(3), mask), "a continuation frame without a message"),
            (frame(0x83, &publish(3), mask), "an unknown kind"),
        ] {
            let error = read_packets(&mut FrameReader::new(Messages::Stream, 100), &input).unwrap_err();
            assert!(is_violation(&error, reason), "{input:?}: {error:?}");
        }
        let error = read_packets(&mut FrameReader::new(Messages::Stream, 100), &frame(0x82, &[0], mask));
        assert!(matches!(error, Err(TransportError::Packet(_))), "{error:?}");
    }

    #[test] // RFC 6455 §5.5.1
    fn a_close_frame_is_answered_once_with_its_code() {
        for (payload, answer) in [(&[3, 232][..], &[0x88, 2, 3, 232][..]), (&[], &[0x88, 0])] {
            let mut reader = FrameReader::new(Messages::Texts, 100);
            let goodbye = frame(0x88, payload, [5, 6, 7, 8]);
            assert_eq!(read(&mut reader, &goodbye), Err(TransportError::Closed));
            assert_eq!(reader.output, answer);
        }
        let mut reader = FrameReader::new(Messages::Texts, 100);
        reader.close(Some(CloseCode::Away), "");
        assert_eq!(read(&mut reader, &frame(0x88, &[3, 232], [0; 4])), Err(TransportError::Closed));
        assert_eq!(reader.output, [0x88, 2, 3, 233]);
    }

    #[test] // RFC 6455 §5.5, protocol.md 2.22
    fn the_close_reason_is_cut_between_characters_to_the_size_of_a_control_frame() {
        for (reason, length) in [("", 0), ("why", 3), (&"a".repeat(200), 123), (&"é".repeat(100), 122)] {
            let mut reader = FrameReader::new(Messages::Texts, 100);
            reader.close(Some(CloseCode::Library(4503)), reason);
            let header = [0x88, 2 + length as u8, 0x11, 0x97];
            assert_eq!(reader.output, [&header[..], &reason.as_bytes()[..length]].concat());
        }
    }

    #[test]
    fn an_idle_reader_holds_no_buffer() {
        let mut reader = FrameReader::new(Messages::Texts, LIMIT);
        let mut stream = frame(0x81, &[b'a'; 500], [1, 2, 3, 4]);
        stream.extend(frame(0x8a, b"pong", [1, 2, 3, 4]));
        assert_eq!(read(&mut reader, &stream).unwrap().len(), 1);
        assert_eq!((reader.message.capacity(), reader.control.capacity()), (0, 0));
    }
}
