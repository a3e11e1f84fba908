//! WebSocket (RFC 6455) as a state machine over bytes, the client's side.
//!
//! `tungstenite` does the handshake and the reading: it is given a stream that is only a buffer, so TCP and TLS
//! are read the same way for both framings. Outgoing packets never pass through it: they are turned into masked
//! frames here, many at a time.

use std::io::{self, Read, Write};

use bytes::Bytes;
use tungstenite::error::{CapacityError, Error, ProtocolError};
use tungstenite::handshake::client::{ClientHandshake, generate_key};
use tungstenite::handshake::{HandshakeError, MidHandshake};
use tungstenite::http::Request;
use tungstenite::protocol::frame::Utf8Bytes;
use tungstenite::protocol::{Message, WebSocket, WebSocketConfig};

use super::{BadStream, Incoming};
use crate::{Endpoint, Header};

const READ_BUFFER_BYTES: usize = 4096;
/// How many frames' masks are drawn from the system at a time.
const MASKS: usize = 64;

/// What the messages of a WebSocket are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Messages {
    /// JMQT: a packet each, as text.
    Text,
    /// MQTT: pieces of a byte stream, agreed on as the subprotocol `mqtt` (MQTT 5, 6.0).
    Binary,
}

/// The reading half, and what makes frames.
pub(crate) struct WebSocketReader {
    state: Opening,
    messages: Messages,
    /// The last binary message.
    binary: Bytes,
    current: Utf8Bytes,
    masks: Masks,
    spare: Vec<u8>,
}

enum Opening {
    Upgrading(MidHandshake<ClientHandshake<Feed>>),
    Open(WebSocket<Feed>),
    Failed,
}

/// Why the upgrade failed.
pub(crate) enum UpgradeError {
    /// It answered HTTP with this status, and this text.
    Http(u16, String),
    /// It opens a WebSocket, and does not speak MQTT on it.
    NotMqtt,
    /// What answered is no HTTP server.
    NotHttp(String),
}

impl std::fmt::Debug for WebSocketReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebSocketReader")
    }
}

impl WebSocketReader {
    /// The bytes of the request are the first answers.
    pub(crate) fn new(
        endpoint: &Endpoint,
        limit: usize,
        (messages, headers): (Messages, &[Header]),
    ) -> Result<Self, UpgradeError> {
        let not_possible = |error: &dyn std::fmt::Display| UpgradeError::NotHttp(error.to_string());
        let mut request = Request::builder()
            .uri(format!("ws://{}{}", endpoint.authority(), endpoint.path))
            .header("Host", endpoint.authority())
            .header("Connection", "Upgrade")
            .header("Upgrade", "websocket")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", generate_key());
        if messages == Messages::Binary {
            request = request.header("Sec-WebSocket-Protocol", "mqtt");
        }
        for header in headers {
            request = request.header(&header.name, &header.value);
        }
        let request = request.body(()).map_err(|error| not_possible(&error))?;
        let handshake = ClientHandshake::start(Feed::default(), request, Some(config(limit)))
            .map_err(|error| not_possible(&error))?;
        let mut reader = Self {
            state: Opening::Upgrading(handshake),
            messages,
            binary: Bytes::new(),
            current: Utf8Bytes::default(),
            masks: Masks::default(),
            spare: Vec::new(),
        };
        reader.upgrade()?;
        Ok(reader)
    }

    /// Goes on with the handshake after more came in. `true`: the WebSocket is open.
    pub(crate) fn upgrade_with(&mut self, read: &[u8]) -> Result<bool, UpgradeError> {
        if let Some(feed) = self.feed() {
            feed.input.extend_from_slice(read);
        }
        self.upgrade()
    }

    fn upgrade(&mut self) -> Result<bool, UpgradeError> {
        match std::mem::replace(&mut self.state, Opening::Failed) {
            Opening::Upgrading(handshake) => match handshake.handshake() {
                Ok((socket, _)) => self.state = Opening::Open(socket),
                Err(HandshakeError::Interrupted(handshake)) => self.state = Opening::Upgrading(handshake),
                Err(HandshakeError::Failure(Error::Http(response))) => {
                    return Err(UpgradeError::Http(response.status().as_u16(), said(&response)));
                }
                Err(HandshakeError::Failure(Error::Protocol(
                    ProtocolError::SecWebSocketSubProtocolError(_),
                ))) => return Err(UpgradeError::NotMqtt),
                Err(HandshakeError::Failure(error)) => return Err(UpgradeError::NotHttp(error.to_string())),
            },
            other => self.state = other,
        }
        Ok(matches!(self.state, Opening::Open(_)))
    }

    /// The next packet in `read` from `at` on, and in what was left of earlier ones.
    pub(crate) fn next<'a>(
        &'a mut self,
        read: &'a Bytes,
        at: &mut usize,
    ) -> Result<Option<Incoming<'a>>, BadStream> {
        let Opening::Open(socket) = &mut self.state else { return Ok(None) };
        if *at < read.len() {
            socket.get_mut().input.extend_from_slice(&read[*at..]);
            *at = read.len();
        }
        loop {
            match socket.read() {
                Ok(Message::Text(text)) if self.messages == Messages::Text => {
                    self.current = text;
                    return Ok(Some(Incoming { bytes: self.current.as_bytes(), whole: None }));
                }
                Ok(Message::Binary(bytes)) if self.messages == Messages::Binary => {
                    self.binary = bytes;
                    return Ok(Some(Incoming { bytes: &self.binary, whole: Some(&self.binary) }));
                }
                Ok(Message::Text(_)) => {
                    // [MQTT-6.0.0-1]
                    return Err(BadStream::Violation(
                        "a text WebSocket message, where MQTT has binary ones".to_owned(),
                    ));
                }
                Ok(Message::Binary(_)) => {
                    return Err(BadStream::Violation(
                        "a binary WebSocket message; packets are text messages".to_owned(),
                    ));
                }
                Ok(Message::Ping(_) | Message::Pong(_) | Message::Frame(_)) => {}
                Ok(Message::Close(frame)) => {
                    let said = frame.map(|frame| (u16::from(frame.code), frame.reason.as_str().to_owned()));
                    return Err(BadStream::Closed(said));
                }
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    socket.get_mut().reclaim();
                    return Ok(None);
                }
                Err(Error::Capacity(CapacityError::MessageTooLong { max_size, .. })) => {
                    return Err(BadStream::TooLarge(max_size));
                }
                Err(
                    Error::ConnectionClosed
                    | Error::AlreadyClosed
                    | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake),
                ) => return Err(BadStream::Closed(None)),
                Err(error) => return Err(BadStream::Violation(error.to_string())),
            }
        }
    }

    /// The request, pongs, the answer to a close: framed already.
    pub(crate) fn take_answers(&mut self) -> Vec<u8> {
        if let Opening::Open(socket) = &mut self.state {
            // Pongs wait for a flush, which writes to a buffer.
            drop(socket.flush());
        }
        self.feed().map(|feed| std::mem::take(&mut feed.output)).unwrap_or_default()
    }

    /// The frame that says goodbye.
    pub(crate) fn close_frame(&mut self) -> Vec<u8> {
        const FINAL_CLOSE: u8 = 0x88;
        const NORMAL: [u8; 2] = 1000_u16.to_be_bytes();
        let mask = self.masks.next();
        let mut frame = vec![FINAL_CLOSE, 0x82];
        frame.extend_from_slice(&mask);
        frame.extend([NORMAL[0] ^ mask[0], NORMAL[1] ^ mask[1]]);
        frame
    }

    /// Turns packets that end with NUL into frames, in place. Bytes of MQTT become one frame.
    pub(crate) fn frame(&mut self, packets: &mut Vec<u8>) {
        if packets.is_empty() {
            return;
        }
        let mut frames = std::mem::take(&mut self.spare);
        match self.messages {
            Messages::Binary => self.add_frame(FINAL_BINARY, packets, &mut frames),
            Messages::Text => {
                for packet in packets.split(|byte| *byte == 0).filter(|packet| !packet.is_empty()) {
                    self.add_frame(FINAL_TEXT, packet, &mut frames);
                }
            }
        }
        std::mem::swap(packets, &mut frames);
        frames.clear();
        self.spare = if frames.capacity() <= 1 << 16 { frames } else { Vec::new() };
    }

    fn add_frame(&mut self, first: u8, packet: &[u8], frames: &mut Vec<u8>) {
        header(first, packet.len(), frames);
        let mask = self.masks.next();
        frames.extend_from_slice(&mask);
        let start = frames.len();
        frames.extend_from_slice(packet);
        apply(mask, &mut frames[start..]);
    }

    fn feed(&mut self) -> Option<&mut Feed> {
        match &mut self.state {
            Opening::Upgrading(handshake) => Some(handshake.get_mut().get_mut()),
            Opening::Open(socket) => Some(socket.get_mut()),
            Opening::Failed => None,
        }
    }
}

/// What an HTTP server says in its answer, if that is a short text; as far as it came with the header.
fn said(response: &tungstenite::handshake::client::Response) -> String {
    const MOST_CHARS: usize = 200;
    let is_text =
        response.headers().get("Content-Type").is_some_and(|kind| kind.as_bytes().starts_with(b"text/plain"));
    let body = response.body().as_deref().filter(|_| is_text).unwrap_or_default();
    let text = String::from_utf8_lossy(body);
    text.lines().next().unwrap_or_default().trim().chars().take(MOST_CHARS).collect()
}

fn config(limit: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .max_write_buffer_size(4096) // only pongs and close frames are written through it
        .max_message_size(Some(limit))
        .max_frame_size(Some(limit))
}

/// The first byte of an unfragmented frame (RFC 6455 §5.2).
const FINAL_TEXT: u8 = 0x81;
const FINAL_BINARY: u8 = 0x82;

/// An unfragmented, masked frame's header without its mask (RFC 6455 §5.2).
fn header(first: u8, length: usize, out: &mut Vec<u8>) {
    const MASKED: u8 = 0x80;
    out.push(first);
    if let Ok(short @ 0..=125) = u8::try_from(length) {
        out.push(MASKED | short);
    } else if let Ok(medium) = u16::try_from(length) {
        out.push(MASKED | 126);
        out.extend_from_slice(&medium.to_be_bytes());
    } else {
        out.push(MASKED | 127);
        out.extend_from_slice(&(length as u64).to_be_bytes());
    }
}

/// Eight bytes at a step.
fn apply(mask: [u8; 4], bytes: &mut [u8]) {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let mut chunks = bytes.chunks_exact_mut(8);
    for chunk in &mut chunks {
        let masked = u64::from_ne_bytes(std::array::from_fn(|i| chunk[i])) ^ wide;
        chunk.copy_from_slice(&masked.to_ne_bytes());
    }
    for (byte, key) in chunks.into_remainder().iter_mut().zip(mask.into_iter().cycle()) {
        *byte ^= key;
    }
}

/// Masks nobody can foresee (RFC 6455 §5.3).
#[derive(Debug, Default)]
struct Masks {
    drawn: Vec<u8>,
}

impl Masks {
    fn next(&mut self) -> [u8; 4] {
        if self.drawn.is_empty() {
            self.drawn.resize(4 * MASKS, 0);
            // Without randomness from the system TLS would not work either. Frames with a mask of zeros are
            // valid, and masks protect proxies, not us.
            let _ = getrandom::fill(&mut self.drawn);
        }
        let at = self.drawn.len() - 4;
        let mask = std::array::from_fn(|i| self.drawn[at + i]);
        self.drawn.truncate(at);
        mask
    }
}

/// The stream `tungstenite` sees: what was received and not yet read, and what it wrote.
#[derive(Debug, Default)]
struct Feed {
    input: Vec<u8>,
    at: usize,
    output: Vec<u8>,
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
        let available = &self.input[self.at..];
        if available.is_empty() {
            self.reclaim();
            return Err(io::ErrorKind::WouldBlock.into());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // RFC 6455 §5.3
    fn a_mask_covers_every_byte_of_any_length() {
        let mask = [1, 2, 4, 8];
        for length in 0..40 {
            let mut bytes: Vec<u8> = (0..length).collect();
            apply(mask, &mut bytes);
            let expected: Vec<u8> =
                (0..length).zip(mask.into_iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            assert_eq!(bytes, expected);
        }
    }
}
