//! The two framings of JMQT from the side of a client, made by hand and without I/O: [`Client`](crate::Client) and the
//! async clients of tests send and receive through it.

/// A request to become a WebSocket.
pub const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
/// The proof in the answer to [`UPGRADE`].
const ACCEPTED: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// The mask of the frames of clients.
const MASK: [u8; 4] = [0x5A, 0xC3, 0x17, 0x88];

/// The framing of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// Every packet ends with a NUL.
    Nul,
    /// Every packet is a text frame.
    WebSocket,
}

impl Framing {
    /// The bytes of a packet.
    #[must_use]
    pub fn encode(self, text: &str) -> Vec<u8> {
        match self {
            Self::Nul => [text.as_bytes(), b"\0"].concat(),
            Self::WebSocket => frame(0x81, text.as_bytes()),
        }
    }
}

/// What a server has sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// A packet.
    Packet(String),
    /// A ping frame.
    Ping(Vec<u8>),
    /// A pong frame.
    Pong(Vec<u8>),
    /// A close frame, with its code and reason.
    Close(Option<u16>, String),
}

/// The bytes that have been received and not been taken.
#[derive(Debug, Default)]
pub struct Inbox {
    bytes: Vec<u8>,
    /// The bytes before this one have been taken.
    at: usize,
}

impl Inbox {
    /// Adds bytes.
    pub fn add(&mut self, bytes: &[u8]) {
        if self.at == self.bytes.len() {
            self.bytes.clear();
            self.at = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The bytes that have not been taken.
    #[must_use]
    pub fn unread(&self) -> &[u8] {
        &self.bytes[self.at..]
    }

    /// Takes all bytes, with no framing.
    pub fn take_all(&mut self) -> Vec<u8> {
        let bytes = self.bytes.split_off(self.at);
        *self = Self::default();
        bytes
    }

    /// Takes the next packet or frame; `None` if it is not complete.
    ///
    /// # Panics
    /// It is neither: text that is not UTF-8, or a frame that servers do not send.
    #[track_caller]
    pub fn take(&mut self, framing: Framing) -> Option<Received> {
        match framing {
            Framing::Nul => self.take_text(),
            Framing::WebSocket => self.take_frame(),
        }
    }

    fn take_text(&mut self) -> Option<Received> {
        let unread = self.unread();
        let end = unread.iter().position(|byte| *byte == 0)?;
        let text = String::from_utf8(unread[..end].to_vec()).unwrap();
        self.at += end + 1;
        Some(Received::Packet(text))
    }

    fn take_frame(&mut self) -> Option<Received> {
        let unread = self.unread();
        let head = match *unread.get(1)? {
            126 => 4,
            127 => 10,
            short => {
                assert!(short < 126, "a server does not mask its frames");
                2
            }
        };
        let length = unread.get(if head == 2 { 1..2 } else { 2..head })?;
        let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
        let payload = unread.get(head..head + length)?.to_vec();
        let first = unread[0];
        self.at += head + length;
        Some(match first {
            0x81 => Received::Packet(String::from_utf8(payload).unwrap()),
            0x88 if payload.is_empty() => Received::Close(None, String::new()),
            0x88 => {
                let code = u16::from_be_bytes([payload[0], payload[1]]);
                Received::Close(Some(code), String::from_utf8(payload[2..].to_vec()).unwrap())
            }
            0x89 => Received::Ping(payload),
            0x8A => Received::Pong(payload),
            other => panic!("a frame that begins with {other:#x}"),
        })
    }

    /// Takes the answer to [`UPGRADE`]; `false` if it is not complete.
    ///
    /// # Panics
    /// The server refuses the upgrade.
    #[track_caller]
    pub fn take_upgrade(&mut self) -> bool {
        let unread = self.unread();
        let Some(end) = unread.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
        let answer = String::from_utf8_lossy(&unread[..end]);
        assert!(answer.starts_with("HTTP/1.1 101 ") && answer.contains(ACCEPTED), "{answer}");
        self.at += end + 4;
        true
    }
}

/// A masked WebSocket frame as clients send them (RFC 6455 §5.2): its first byte has the opcode and the final bit.
#[must_use]
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![first];
    match payload.len() {
        short @ 0..=125 => out.push(0x80 | u8::try_from(short).unwrap()),
        medium @ 126..=0xFFFF => {
            out.push(0x80 | 126);
            out.extend_from_slice(&u16::try_from(medium).unwrap().to_be_bytes());
        }
        long => {
            out.push(0x80 | 127);
            out.extend_from_slice(&(long as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(&MASK);
    out.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    out
}
