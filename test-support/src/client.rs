//! A client that sends exactly what it is told to, over TCP, TLS or a WebSocket, and blocks.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::DEADLINE;

/// A request to become a WebSocket.
const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n\
    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// One connection.
#[derive(Debug)]
pub struct Client<S = TcpStream> {
    /// The socket, for what only it can do.
    pub stream: S,
    is_websocket: bool,
    received: Vec<u8>,
    at: usize,
}

impl Client {
    /// A connection on which nothing has been said.
    pub fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        Self::over(stream)
    }

    /// A WebSocket on which nothing has been said.
    pub fn websocket(address: SocketAddr) -> Self {
        let mut client = Self::open(address);
        client.stream.write_all(UPGRADE).unwrap();
        while !client.received.ends_with(b"\r\n\r\n") {
            assert!(client.fill(), "no upgrade");
        }
        assert!(client.received.starts_with(b"HTTP/1.1 101 "), "{}", client.received.escape_ascii());
        client.received.clear();
        client.is_websocket = true;
        client
    }
}

impl<S: Read + Write> Client<S> {
    /// NUL-framed packets over this stream.
    pub fn over(stream: S) -> Self {
        Self { stream, is_websocket: false, received: Vec::new(), at: 0 }
    }

    /// Sends this text as a packet.
    pub fn send(&mut self, text: &str) {
        let bytes =
            if self.is_websocket { frame(0x81, text.as_bytes()) } else { [text.as_bytes(), b"\0"].concat() };
        self.stream.write_all(&bytes).unwrap();
    }

    /// The next packet; `None` at the end of the connection, however it ends.
    ///
    /// A WebSocket's close frame counts as the packet `close 1000`, with its code; pongs are passed over.
    pub fn receive(&mut self) -> Option<String> {
        loop {
            let taken = if self.is_websocket { self.take_frame() } else { self.take_text() };
            if taken.is_some() {
                return taken;
            }
            self.received.drain(..self.at);
            self.at = 0;
            if !self.fill() {
                return None;
            }
        }
    }

    /// The next packet that is not the server's `disconn`.
    #[expect(clippy::should_implement_trait, reason = "it blocks, and fails a test that waits too long")]
    pub fn next(&mut self) -> Option<String> {
        std::iter::from_fn(|| self.receive()).find(|packet| !packet.starts_with(r#"{"disconn":"#))
    }

    fn take_text(&mut self) -> Option<String> {
        let unread = &self.received[self.at..];
        let end = unread.iter().position(|byte| *byte == 0)?;
        let text = String::from_utf8(unread[..end].to_vec()).unwrap();
        self.at += end + 1;
        Some(text)
    }

    fn take_frame(&mut self) -> Option<String> {
        loop {
            let unread = &self.received[self.at..];
            let head = match *unread.get(1)? {
                126 => 4,
                127 => 10,
                _ => 2,
            };
            let length = unread.get(if head == 2 { 1..2 } else { 2..head })?;
            let length = length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte));
            let payload = unread.get(head..head + length)?.to_vec();
            let opcode = unread[0];
            self.at += head + length;
            match opcode {
                0x81 => return Some(String::from_utf8(payload).unwrap()),
                0x88 => return Some(format!("close {}", u16::from_be_bytes([payload[0], payload[1]]))),
                0x8A => {}
                other => panic!("a frame that begins with {other:#x}"),
            }
        }
    }

    /// Reads; `false` at the end of the connection.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(length) if length > 0 => {
                self.received.extend_from_slice(&chunk[..length]);
                true
            }
            // A process that was stopped meanwhile goes on reading.
            Err(error) if error.kind() == ErrorKind::Interrupted => true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                panic!("nothing came within {DEADLINE:?}")
            }
            _ => false,
        }
    }

    /// The next packet must begin like this.
    #[track_caller]
    pub fn expect(&mut self, beginning: &str) -> String {
        let packet = self.next();
        assert!(
            packet.as_ref().is_some_and(|packet| packet.starts_with(beginning)),
            "{packet:?} instead of {beginning}"
        );
        packet.unwrap()
    }

    /// The next packet must be this one.
    #[track_caller]
    pub fn expect_exactly(&mut self, packet: &str) {
        assert_eq!(self.receive().as_deref(), Some(packet));
    }

    /// The connection must end without another packet.
    #[track_caller]
    pub fn expect_end(&mut self) {
        assert_eq!(self.receive(), None);
    }

    /// Nothing comes before the answer to a heartbeat.
    #[track_caller]
    pub fn expect_nothing(&mut self) {
        self.send(r#"{"hb":{}}"#);
        self.expect_exactly(r#"{"hbAck":{}}"#);
    }

    /// Opens a session as a client of `hello_server`; `more` is added to the `conn`.
    #[track_caller]
    pub fn conn(&mut self, name: &str, more: &str) {
        let token = self.authenticate(name);
        self.send_conn(name, &token, more);
        self.expect(r#"{"connAck":{"st":1,"ts":"#);
    }

    /// Gets a token for this client of `hello_server`.
    #[track_caller]
    pub fn authenticate(&mut self, name: &str) -> String {
        self.authenticate_with(&format!("\"{name}\""))
    }

    /// Gets a token with this JSON as auth data.
    #[track_caller]
    pub fn authenticate_with(&mut self, data: &str) -> String {
        self.send(&format!(r#"{{"auth":{{"dt":{data}}}}}"#));
        let ack = self.next().unwrap_or_default();
        assert!(ack.starts_with(r#"{"authAck":{"st":1,"#), "no token: {ack}");
        field(&ack, "at").trim_matches('"').to_owned()
    }

    /// Sends a `conn` with this token; `more` is added to it.
    pub fn send_conn(&mut self, name: &str, token: &str, more: &str) {
        self.send(&format!(r#"{{"conn":{{"at":"{token}","cl":"{name}"{more}}}}}"#));
    }

    /// Subscribes.
    #[track_caller]
    pub fn sub(&mut self, channel: &str, persistent: u8) {
        self.send(&format!(r#"{{"sub":{{"cn":"{channel}","pr":{persistent}}}}}"#));
        self.expect(r#"{"subAck":{"st":1,"#);
    }

    /// Publishes with QoS 1, without waiting for the answer.
    pub fn publish(&mut self, channel: &str, data: &str, id: &str) {
        self.send(&format!(r#"{{"pub":{{"cn":"{channel}","dt":{data},"q":1,"id":"{id}"}}}}"#));
    }

    /// Acknowledges a push, and returns its id.
    pub fn ack(&mut self, push: &str) -> String {
        let id = field(push, "id").trim_matches('"').to_owned();
        self.send(&format!(r#"{{"pushAck":{{"id":"{id}"}}}}"#));
        id
    }
}

/// A WebSocket frame as clients send them (RFC 6455 §5.2); its mask is zero, which masks nothing.
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
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(payload);
    out
}

/// The text of a member whose value has neither commas nor braces in it.
#[must_use]
pub fn field<'a>(packet: &'a str, key: &str) -> &'a str {
    let (_, rest) = packet.split_once(&format!("\"{key}\":")).unwrap_or_else(|| panic!("no {key}: {packet}"));
    rest.split([',', '}']).next().unwrap()
}
