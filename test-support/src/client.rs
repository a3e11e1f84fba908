//! A client that sends exactly what it is told to, over TCP, TLS or a WebSocket, and blocks.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::DEADLINE;
use crate::conversation::{Framing, Inbox, Received, UPGRADE};

/// One connection.
#[derive(Debug)]
pub struct Client<S = TcpStream> {
    /// The socket, for what only it can do.
    pub stream: S,
    framing: Framing,
    inbox: Inbox,
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
        while !client.inbox.take_upgrade() {
            assert!(client.fill(), "no upgrade");
        }
        client.framing = Framing::WebSocket;
        client
    }
}

impl<S: Read + Write> Client<S> {
    /// NUL-framed packets over this stream.
    pub fn over(stream: S) -> Self {
        Self { stream, framing: Framing::Nul, inbox: Inbox::default() }
    }

    /// Sends this text as a packet.
    pub fn send(&mut self, text: &str) {
        self.stream.write_all(&self.framing.encode(text)).unwrap();
    }

    /// The next packet; `None` at the end of the connection, however it ends.
    ///
    /// A WebSocket's close frame counts as the packet `close 1000`, with its code; pings and pongs are passed over.
    pub fn receive(&mut self) -> Option<String> {
        loop {
            match self.inbox.take(self.framing) {
                Some(Received::Packet(text)) => return Some(text),
                Some(Received::Close(code, _)) => return Some(format!("close {}", code.unwrap_or(0))),
                Some(Received::Ping(_) | Received::Pong(_)) => {}
                None if self.fill() => {}
                None => return None,
            }
        }
    }

    /// The next packet that is not the server's `disconn`.
    #[expect(clippy::should_implement_trait, reason = "it blocks, and fails a test that waits too long")]
    pub fn next(&mut self) -> Option<String> {
        std::iter::from_fn(|| self.receive()).find(|packet| !packet.starts_with(r#"{"disconn":"#))
    }

    /// Reads; `false` at the end of the connection.
    fn fill(&mut self) -> bool {
        let mut chunk = [0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(length) if length > 0 => {
                self.inbox.add(&chunk[..length]);
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

/// The text of a member whose value has neither commas nor braces in it.
#[must_use]
pub fn field<'a>(packet: &'a str, key: &str) -> &'a str {
    let (_, rest) = packet.split_once(&format!("\"{key}\":")).unwrap_or_else(|| panic!("no {key}: {packet}"));
    rest.split([',', '}']).next().unwrap()
}
