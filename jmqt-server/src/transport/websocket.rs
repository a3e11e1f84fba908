//! WebSocket (RFC 6455) as a state machine over bytes: upgrade, frames, pings, goodbye.
//!
//! `tungstenite` does the protocol. It is given a stream that is only a buffer, so that the session
//! reads sockets and TLS the same way for both framings, and pushes can be written as ready-made
//! frames beside what `tungstenite` wants to say. Outgoing packets never pass through it.

use std::io::{self, Read, Write};

use tungstenite::error::{CapacityError, Error};
use tungstenite::handshake::server::{NoCallback, ServerHandshake};
use tungstenite::handshake::{HandshakeError, MidHandshake};
use tungstenite::protocol::frame::{CloseFrame, Utf8Bytes};
use tungstenite::protocol::{Message, WebSocket, WebSocketConfig};

use jmqt_protocol::PacketTooLarge;

use super::TransportError;

pub(crate) use tungstenite::protocol::frame::coding::CloseCode;

/// What an idle connection keeps allocated for reading. Reads are larger all the same: this buffer is
/// only filled from the session's own.
const READ_BUFFER_BYTES: usize = 1024;

/// The reading half of one WebSocket connection.
pub(crate) struct WebSocketDecoder {
    state: State,
    limit: usize,
    /// The message handed out last, which the caller may still borrow.
    current: Utf8Bytes,
    /// Bytes came in, but no message has ended since.
    mid_packet: bool,
}

enum State {
    Upgrading(MidHandshake<ServerHandshake<Feed, NoCallback>>),
    Open(WebSocket<Feed>),
    /// The upgrade failed; what is left is the answer.
    Failed(Feed),
}

impl WebSocketDecoder {
    pub(crate) fn new(limit: usize) -> Self {
        let handshake = ServerHandshake::start(Feed::default(), NoCallback, Some(config(limit)));
        Self { state: State::Upgrading(handshake), limit, current: Utf8Bytes::default(), mid_packet: false }
    }

    pub(crate) fn next<'a>(&'a mut self, chunk: &mut &[u8]) -> Result<Option<&'a [u8]>, TransportError> {
        self.current = Utf8Bytes::default();
        if !chunk.is_empty() {
            self.feed().input.extend_from_slice(chunk);
            *chunk = &[];
            self.mid_packet = true;
        }
        if let State::Upgrading(_) = self.state {
            // The answer to the upgrade has to leave before any answer to what follows it.
            self.upgrade()?;
            return Ok(None);
        }
        let State::Open(socket) = &mut self.state else { return Ok(None) };
        loop {
            match socket.read() {
                Ok(Message::Text(text)) => {
                    self.mid_packet = false;
                    self.current = text;
                    return Ok(Some(self.current.as_bytes()));
                }
                Ok(Message::Binary(_)) => {
                    return Err(TransportError::Violation {
                        reason: "JMQT packets are text messages, not binary ones".to_owned(),
                        code: CloseCode::Unsupported,
                    });
                }
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => self.mid_packet = false,
                Ok(Message::Close(_)) => {
                    // Writes the answering close frame into the feed; there is nothing to fail.
                    drop(socket.flush());
                    return Err(TransportError::Closed);
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    socket.get_mut().reclaim();
                    return Ok(None);
                }
                Err(error) => return Err(violation(error, self.limit)),
            }
        }
    }

    /// Whether [`next`](Self::next) has something left although it returned `None`: what came right
    /// behind the upgrade.
    pub(crate) fn has_more(&self) -> bool {
        match &self.state {
            State::Open(socket) => socket.get_ref().at < socket.get_ref().input.len(),
            State::Upgrading(_) | State::Failed(_) => false,
        }
    }

    pub(crate) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
        if let State::Open(socket) = &mut self.state {
            socket.set_config(|config| {
                config.max_message_size = Some(limit);
                config.max_frame_size = Some(limit);
            });
        }
    }

    pub(crate) fn is_mid_packet(&self) -> bool {
        self.mid_packet
    }

    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        if let State::Open(socket) = &mut self.state {
            // Pongs wait for a flush. It writes to a buffer, so it fails only when the socket is closed.
            drop(socket.flush());
        }
        std::mem::take(&mut self.feed().output)
    }

    pub(crate) fn close(&mut self, code: CloseCode) {
        if let State::Open(socket) = &mut self.state {
            let frame = CloseFrame { code, reason: Utf8Bytes::default() };
            // Refused only if a close frame has been sent already, which is as good.
            drop(socket.close(Some(frame)));
        }
    }

    fn upgrade(&mut self) -> Result<(), TransportError> {
        let placeholder = State::Failed(Feed::default());
        let State::Upgrading(handshake) = std::mem::replace(&mut self.state, placeholder) else {
            return Ok(());
        };
        match handshake.handshake() {
            Ok(mut socket) => {
                socket.get_mut().upgraded = true;
                self.state = State::Open(socket);
                self.set_limit(self.limit);
                Ok(())
            }
            Err(HandshakeError::Interrupted(handshake)) => {
                self.state = State::Upgrading(handshake);
                Ok(())
            }
            Err(HandshakeError::Failure(error)) => {
                self.feed().output = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\
                    Content-Type: text/plain\r\nContent-Length: 53\r\n\r\n\
                    This is a JMQT server: connect with a WebSocket here\n"
                    .to_vec();
                Err(TransportError::Violation {
                    reason: format!("the WebSocket upgrade failed: {error}"),
                    code: CloseCode::Protocol,
                })
            }
        }
    }

    fn feed(&mut self) -> &mut Feed {
        match &mut self.state {
            State::Upgrading(handshake) => handshake.get_mut().get_mut(),
            State::Open(socket) => socket.get_mut(),
            State::Failed(feed) => feed,
        }
    }
}

fn config(limit: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        // Only pongs and close frames are written through it.
        .max_write_buffer_size(4096)
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit))
}

fn violation(error: Error, limit: usize) -> TransportError {
    let code = match &error {
        Error::Capacity(CapacityError::MessageTooLong { .. }) => return PacketTooLarge { limit }.into(),
        Error::ConnectionClosed | Error::AlreadyClosed => return TransportError::Closed,
        Error::Utf8(_) => CloseCode::Invalid,
        _ => CloseCode::Protocol,
    };
    TransportError::Violation { reason: error.to_string(), code }
}

/// The stream `tungstenite` sees: what was received and not yet read, and what it wrote.
#[derive(Debug, Default)]
struct Feed {
    input: Vec<u8>,
    at: usize,
    output: Vec<u8>,
    upgraded: bool,
}

impl Feed {
    /// Frees the input once it is used up: an idle connection keeps nothing.
    fn reclaim(&mut self) {
        if self.at == self.input.len() {
            self.input = Vec::new();
            self.at = 0;
        }
    }
}

impl Read for Feed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut available = &self.input[self.at..];
        if available.is_empty() {
            self.reclaim();
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // The upgrade must not be given what follows it, so it reads line by line.
        if !self.upgraded
            && let Some(end) = memchr::memchr(b'\n', available)
        {
            available = &available[..=end];
        }
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.at += length;
        Ok(length)
    }
}

impl Write for Feed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.output.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Appends the header of an unmasked, unfragmented text frame (RFC 6455 §5.2).
pub(crate) fn websocket_header(length: usize, out: &mut Vec<u8>) {
    const FINAL_TEXT: u8 = 0x81;
    out.push(FINAL_TEXT);
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
        let mut decoder = WebSocketDecoder::new(limit);
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
    fn the_upgrade_may_come_in_any_pieces() {
        let mut stream = UPGRADE.to_vec();
        stream.extend(client_frame(1, b"{\"hb\":{}}"));
        for cut in 0..stream.len() {
            let mut decoder = WebSocketDecoder::new(100);
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
    fn binary_messages_are_refused_with_a_clear_code() {
        let mut decoder = open(100);
        let error = decoder.next(&mut &client_frame(2, b"x")[..]).unwrap_err();
        assert!(matches!(error, TransportError::Violation { code: CloseCode::Unsupported, .. }));
    }

    #[test] // protocol.md 2.5
    fn an_oversized_message_is_refused_at_its_header() {
        let mut decoder = open(100);
        let error = decoder.next(&mut &[0x81, 0xff, 0, 0, 0, 0, 0x7f, 0, 0, 0, 1, 2, 3, 4][..]).unwrap_err();
        assert_eq!(error, PacketTooLarge { limit: 100 }.into());
    }

    #[test]
    fn unmasked_frames_and_junk_are_violations() {
        for junk in [&b"\x81\x01a"[..], b"\xff\x80\x01\x02\x03\x04"] {
            let error = open(100).next(&mut &junk[..]).unwrap_err();
            assert!(matches!(error, TransportError::Violation { code: CloseCode::Protocol, .. }));
        }
        let mut decoder = WebSocketDecoder::new(100);
        assert!(decoder.next(&mut &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..]).is_err());
        assert!(decoder.take_output().starts_with(b"HTTP/1.1 400"));
    }

    #[test]
    fn a_close_frame_is_answered_with_one() {
        let mut decoder = open(100);
        assert_eq!(decoder.next(&mut &client_frame(8, &[3, 232])[..]), Err(TransportError::Closed));
        assert_eq!(decoder.take_output(), [0x88, 2, 3, 232]);
    }
}
