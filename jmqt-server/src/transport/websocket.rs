//! WebSocket (RFC 6455) as a state machine over bytes: first the upgrade, then frames.
//!
//! [`upgrade`] reads the upgrade, and [`FrameReader`] the frames. Pushes are written as encoded frames,
//! independently of the output of the reader.

use std::sync::Arc;

use super::TransportError;
use super::frames::{FrameReader, Messages};
use super::upgrade::{self, HttpContext, Outcome};
use crate::upgrade::Upgrade;

pub(crate) use tungstenite::protocol::frame::coding::CloseCode;

/// The reading half of one WebSocket connection.
pub(crate) struct WebSocketDecoder {
    state: State,
    /// What the port is for; after the upgrade, what the client has asked for.
    messages: Messages,
    limit: usize,
}

enum State {
    Upgrading {
        context: Arc<HttpContext>,
        /// The received part of the request.
        head: Vec<u8>,
    },
    Open {
        frames: FrameReader,
        /// The bytes received directly after the upgrade.
        behind: Behind,
        /// The answer to the upgrade, to be sent before everything else.
        answer: Vec<u8>,
        /// The request, until it is taken.
        upgrade: Option<Arc<Upgrade>>,
    },
    /// The upgrade failed; the answer is still to be sent.
    Ended(Vec<u8>),
}

impl WebSocketDecoder {
    pub(super) fn new(messages: Messages, limit: usize, context: Arc<HttpContext>) -> Self {
        Self { state: State::Upgrading { context, head: Vec::new() }, messages, limit }
    }

    pub(crate) fn next<'a>(&'a mut self, chunk: &mut &[u8]) -> Result<Option<&'a [u8]>, TransportError> {
        if let State::Upgrading { context, head } = &mut self.state {
            let seen = head.len();
            head.extend_from_slice(chunk);
            *chunk = &[];
            let outcome = upgrade::read(head, seen, self.messages, context);
            // The answer to the upgrade must be sent before any answer to later bytes.
            self.upgrade(outcome)?;
            return Ok(None);
        }
        let State::Open { frames, behind, .. } = &mut self.state else { return Ok(None) };
        if behind.is_used_up() {
            return frames.next(chunk);
        }
        let mut input = behind.unread();
        let before = input.len();
        let packet = frames.next(&mut input)?;
        behind.at += before - input.len();
        behind.reclaim();
        Ok(packet)
    }

    /// Returns `true` if messages contain packets of MQTT.
    pub(super) fn speaks_mqtt(&self) -> bool {
        self.messages == Messages::Stream
    }

    /// Returns `true` if [`next`](Self::next) has unread input although it returned `None`: bytes received directly
    /// after the upgrade.
    pub(crate) fn has_more(&self) -> bool {
        matches!(&self.state, State::Open { behind, .. } if !behind.is_used_up())
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        if let State::Open { frames, .. } = &mut self.state {
            frames.set_limit(limit);
        }
    }

    pub(crate) fn buffered(&self) -> usize {
        match &self.state {
            State::Upgrading { head, .. } => head.capacity(),
            State::Open { frames, behind, .. } => frames.buffered() + behind.input.capacity(),
            State::Ended(_) => 0,
        }
    }

    pub(crate) fn is_mid_packet(&self) -> bool {
        match &self.state {
            State::Upgrading { .. } => true,
            State::Open { frames, .. } => frames.is_mid_packet(),
            State::Ended(_) => false,
        }
    }

    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        match &mut self.state {
            State::Upgrading { .. } => Vec::new(),
            State::Open { frames, answer, .. } if answer.is_empty() => std::mem::take(&mut frames.output),
            State::Open { answer, .. } | State::Ended(answer) => std::mem::take(answer),
        }
    }

    /// Returns the HTTP request of the WebSocket, once.
    pub(crate) fn take_upgrade(&mut self) -> Option<Arc<Upgrade>> {
        match &mut self.state {
            State::Open { upgrade, .. } => upgrade.take(),
            _ => None,
        }
    }

    /// Returns `true` if a message can be sent: after the upgrade, and before a close frame of either side.
    pub(crate) fn is_open(&self) -> bool {
        matches!(&self.state, State::Open { frames, .. } if frames.is_open())
    }

    pub(crate) fn close(&mut self, code: CloseCode, reason: &str) {
        if let State::Open { frames, .. } = &mut self.state {
            frames.close(Some(code), reason);
        }
    }

    fn upgrade(&mut self, outcome: Outcome) -> Result<(), TransportError> {
        let State::Upgrading { head, .. } = &mut self.state else { return Ok(()) };
        match outcome {
            Outcome::Incomplete => Ok(()),
            Outcome::Upgraded { answer, head_length, messages } => {
                self.messages = messages;
                let upgrade = Some(Arc::new(Upgrade::new(&head[..head_length])));
                let behind = Behind { input: std::mem::take(head), at: head_length }.reclaimed();
                let frames = FrameReader::new(self.messages, self.limit);
                self.state = State::Open { frames, behind, answer, upgrade };
                Ok(())
            }
            Outcome::Checked { answer } => {
                self.state = State::Ended(answer);
                Err(TransportError::HealthChecked)
            }
            Outcome::ForeignPage { answer, origin } => {
                self.state = State::Ended(answer);
                Err(TransportError::ForeignPage { origin })
            }
            Outcome::WrongPort { answer, foreign } => {
                self.state = State::Ended(answer);
                Err(TransportError::WrongPort(foreign))
            }
            Outcome::Refused { answer, problem } => {
                self.state = State::Ended(answer);
                Err(TransportError::Violation(format!("the WebSocket upgrade failed: {problem}").into()))
            }
        }
    }
}

/// The unread bytes that were received directly after the upgrade.
#[derive(Debug, Default)]
struct Behind {
    input: Vec<u8>,
    at: usize,
}

impl Behind {
    fn is_used_up(&self) -> bool {
        self.at == self.input.len()
    }

    fn unread(&self) -> &[u8] {
        &self.input[self.at..]
    }

    /// Frees the input when it is used up, so that an idle connection holds no memory.
    fn reclaim(&mut self) {
        if self.is_used_up() {
            *self = Self::default();
        }
    }

    fn reclaimed(mut self) -> Self {
        self.reclaim();
        self
    }
}

/// Appends the header of an unmasked, unfragmented text frame (RFC 6455 §5.2).
pub(crate) fn websocket_header(length: usize, out: &mut Vec<u8>) {
    const FINAL_TEXT: u8 = 0x81;
    header(FINAL_TEXT, length, out);
}

/// The same for a binary message.
pub(crate) fn binary_header(length: usize, out: &mut Vec<u8>) {
    const FINAL_BINARY: u8 = 0x82;
    header(FINAL_BINARY, length, out);
}

fn header(kind: u8, length: usize, out: &mut Vec<u8>) {
    out.push(kind);
    if let Ok(short @ 0..=125) = u8::try_from(length) {
        out.push(short);
    } else if let Ok(medium) = u16::try_from(length) {
        out.push(126);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(127);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

    fn client_frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let mut frame = vec![0x80 | opcode, 0x80 | u8::try_from(payload.len()).unwrap()];
        frame.extend_from_slice(&mask);
        frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        frame
    }

    fn open(limit: usize) -> WebSocketDecoder {
        let mut decoder = WebSocketDecoder::new(Messages::Texts, limit, Arc::default());
        assert_eq!(decoder.next(&mut &UPGRADE[..]), Ok(None));
        assert!(decoder.take_output().starts_with(b"HTTP/1.1 101"));
        decoder
    }

    fn texts(decoder: &mut WebSocketDecoder, mut chunk: &[u8]) -> Vec<String> {
        let mut texts = Vec::new();
        loop {
            while let Some(text) = decoder.next(&mut chunk).unwrap() {
                texts.push(String::from_utf8(text.to_vec()).unwrap());
            }
            if !decoder.has_more() {
                return texts;
            }
        }
    }

    #[test] // RFC 6455 §4: split anywhere, and with a message right behind it
    fn the_upgrade_may_be_split_anywhere() {
        let mut stream = UPGRADE.to_vec();
        stream.extend(client_frame(1, b"{\"hb\":{}}"));
        for cut in 0..stream.len() {
            let mut decoder = WebSocketDecoder::new(Messages::Texts, 100, Arc::default());
            let mut received = texts(&mut decoder, &stream[..cut]);
            received.extend(texts(&mut decoder, &stream[cut..]));
            assert_eq!(received, ["{\"hb\":{}}"], "cut at {cut}");
        }
    }

    #[test]
    fn pings_are_answered_between_messages() {
        let mut decoder = open(100);
        let mut stream = client_frame(1, b"a");
        stream.extend(client_frame(9, b"here?"));
        stream.extend(client_frame(1, b"b"));
        assert_eq!(texts(&mut decoder, &stream), ["a", "b"]);
        assert_eq!(decoder.take_output(), b"\x8a\x05here?");
    }

    #[test]
    fn the_upgrade_may_arrive_byte_by_byte_before_a_message() {
        let mut stream = UPGRADE.to_vec();
        stream.extend(client_frame(1, b"{\"hb\":{}}"));
        let mut decoder = WebSocketDecoder::new(Messages::Texts, 100, Arc::default());
        let received: Vec<_> = stream.chunks(1).flat_map(|byte| texts(&mut decoder, byte)).collect();
        assert_eq!(received, ["{\"hb\":{}}"]);
    }

    #[test]
    fn an_invalid_upgrade_gets_an_answer() {
        let mut decoder = WebSocketDecoder::new(Messages::Texts, 100, Arc::default());
        assert!(decoder.next(&mut &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..]).is_err());
        assert!(decoder.take_output().starts_with(b"HTTP/1.1 426"));
    }

    #[test]
    fn a_close_frame_is_answered_with_one() {
        let mut decoder = open(100);
        assert_eq!(decoder.next(&mut &client_frame(8, &[3, 232])[..]), Err(TransportError::Closed));
        assert_eq!(decoder.take_output(), [0x88, 2, 3, 232]);
    }
}
