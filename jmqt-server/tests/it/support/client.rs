//! A client that sends exactly what a test requests, and shows exactly what it receives.
//!
//! It shares only [`decode`] with the server. `test_support` does the framing by hand, so a test can also send what no library
//! would.

use std::collections::VecDeque;
use std::io;

use jmqt_protocol::{Packet, Qos, Retain, decode};
use jmqt_server::Protocol;
use test_support::{Framing, Inbox, Received, UPGRADE, frame};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::{DEADLINE, within};

/// How much of the conversation is shown when a test fails.
const REMEMBERED: usize = 40;
const SHOWN_CHARS: usize = 300;

pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// The packets and frames of the server.
#[derive(Debug, PartialEq, Eq)]
pub enum Incoming {
    Packet(String),
    /// `disconn`: nothing follows it.
    Disconn(Told),
    Pong(Vec<u8>),
    /// Only [`Client::incoming_or_ping`] returns it.
    Ping(Vec<u8>),
    /// A WebSocket's close frame, with its code and reason.
    Close(Option<u16>, String),
    /// The end of the connection.
    End,
}

impl From<Received> for Incoming {
    fn from(received: Received) -> Self {
        match received {
            Received::Packet(text) if text.starts_with(r#"{"disconn":"#) => Self::Disconn(Told::parse(&text)),
            Received::Packet(text) => Self::Packet(text),
            Received::Ping(payload) => Self::Ping(payload),
            Received::Pong(payload) => Self::Pong(payload),
            Received::Close(code, reason) => Self::Close(code, reason),
        }
    }
}

/// A `disconn` of the server, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    pub code: u16,
    pub message: String,
    pub retry_after: Option<u32>,
}

impl Told {
    fn parse(text: &str) -> Self {
        let Ok(Packet::Disconn(disconn)) = decode(text) else { panic!("not a disconn: {text}") };
        Self {
            code: disconn.code.unwrap().code(),
            message: disconn.message.unwrap().into_owned(),
            retry_after: disconn.retry_after_seconds,
        }
    }
}

/// A `push`, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Push {
    text: String,
    channel: String,
    data: String,
    client: String,
    id: Option<String>,
    retained: bool,
}

impl Push {
    fn parse(text: String) -> Self {
        let Ok(Packet::Push(push)) = decode(&text) else { panic!("not a push: {text}") };
        assert_eq!(push.qos == Qos::AtLeastOnce, push.id.is_some(), "QoS 1 and id go together: {text}");
        Self {
            channel: push.channel.clone().into_owned(),
            data: push.data.as_str().to_owned(),
            client: push.client.clone().into_owned(),
            id: push.id.clone().map(Into::into),
            retained: push.retain == Retain::Yes,
            text,
        }
    }

    /// The whole packet, as it came.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// `dt`, byte for byte.
    pub fn data(&self) -> &str {
        &self.data
    }

    /// `cl`.
    pub fn client(&self) -> &str {
        &self.client
    }

    /// `id`, which a QoS 1 push has.
    pub fn id(&self) -> &str {
        self.id.as_deref().unwrap_or_else(|| panic!("no id: {}", self.text))
    }

    pub fn is_qos1(&self) -> bool {
        self.id.is_some()
    }

    pub fn is_retained(&self) -> bool {
        self.retained
    }

    /// The packet with a `*` for its id.
    pub fn without_id(&self) -> String {
        match &self.id {
            Some(id) => self.text.replace(&format!(r#""id":"{id}""#), r#""id":"*""#),
            None => self.text.clone(),
        }
    }
}

/// One connection.
pub struct Client {
    name: String,
    protocol: Protocol,
    stream: Box<dyn Stream>,
    inbox: Inbox,
    conversation: VecDeque<String>,
}

impl Client {
    /// A connection on which nothing has been said.
    pub fn new(protocol: Protocol, stream: impl Stream + 'static) -> Self {
        Self {
            name: "nobody".to_owned(),
            protocol,
            stream: Box::new(stream),
            inbox: Inbox::default(),
            conversation: VecDeque::new(),
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn protocol(&self) -> Protocol {
        self.protocol
    }

    fn framing(&self) -> Framing {
        if self.protocol.is_websocket() { Framing::WebSocket } else { Framing::Nul }
    }

    /// The traffic so far, for assertion messages.
    pub fn conversation(&self) -> String {
        let mut text = format!("{} over {}:", self.name, self.protocol);
        for line in &self.conversation {
            text.push_str("\n  ");
            text.push_str(line);
        }
        text
    }

    fn note(&mut self, direction: &str, what: &str) {
        let shown: String = what.chars().take(SHOWN_CHARS).collect();
        let more = if shown.len() < what.len() { "..." } else { "" };
        self.conversation.push_back(format!("{direction} {shown}{more}"));
        if self.conversation.len() > REMEMBERED {
            self.conversation.pop_front();
        }
    }

    // ---- saying ----------------------------------------------------------------------------------

    /// Sends one packet.
    pub async fn send(&mut self, text: &str) {
        self.send_all(&[text]).await;
    }

    /// Sends several packets in one write.
    pub async fn send_all(&mut self, texts: &[&str]) {
        let mut bytes = Vec::new();
        for text in texts {
            self.note(">", text);
            bytes.extend(self.framing().encode(text));
        }
        self.write(&bytes).await;
    }

    /// Sends bytes as they are, whatever the framing.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.note(">", &format!("{} bytes: {}", bytes.len(), bytes[..bytes.len().min(80)].escape_ascii()));
        self.write(bytes).await;
    }

    /// Sends a WebSocket frame of any kind.
    pub async fn send_frame(&mut self, is_final: bool, opcode: u8, payload: &[u8]) {
        self.send_bytes(&frame(first_byte(is_final, opcode), payload)).await;
    }

    /// The same; the server may have closed the connection.
    pub async fn send_frame_until_refused(&mut self, is_final: bool, opcode: u8, payload: &[u8]) {
        self.send_bytes_until_refused(&frame(first_byte(is_final, opcode), payload)).await;
    }

    async fn write(&mut self, bytes: &[u8]) {
        let written = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        match tokio::time::timeout(DEADLINE, written).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("cannot send: {error}\n{}", self.conversation()),
            Err(_) => panic!("cannot send within {DEADLINE:?}\n{}", self.conversation()),
        }
    }

    /// Sends one packet; the server may have closed the connection.
    pub async fn send_until_refused(&mut self, text: &str) {
        self.note(">", text);
        self.send_bytes_until_refused(&self.framing().encode(text)).await;
    }

    /// Sends as much as the server takes; it may close the connection meanwhile.
    pub async fn send_bytes_until_refused(&mut self, bytes: &[u8]) {
        // Refused is what the caller expects; whether it was is what it looks at next.
        let sending = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        drop(within("sending", sending).await);
    }

    /// `pushAck`.
    pub async fn ack(&mut self, push: &Push) {
        let text = format!(r#"{{"pushAck":{{"id":"{}"}}}}"#, push.id());
        self.send(&text).await;
    }

    /// Asks for a session as `name`, and gets it. `more` follows the members of the `conn`.
    pub async fn conn_as(&mut self, name: &str, more: &str) {
        self.name = name.to_owned();
        let conn = format!(r#"{{"conn":{{"at":"token-{name}","cl":"{name}"{more}}}}}"#);
        self.send(&conn).await;
        let answer = self.next().await;
        assert!(answer.starts_with(r#"{"connAck":{"st":1,"ts":"#), "{answer}\n{}", self.conversation());
    }

    /// `sub`, acknowledged.
    pub async fn sub(&mut self, channel: &str) {
        self.send(&format!(r#"{{"sub":{{"cn":"{channel}"}}}}"#)).await;
        self.expect(&format!(r#"{{"subAck":{{"st":1,"cn":"{channel}"}}}}"#)).await;
    }

    /// `sub` with `pr`, acknowledged.
    pub async fn sub_persistent(&mut self, channel: &str) {
        self.send(&format!(r#"{{"sub":{{"cn":"{channel}","pr":1}}}}"#)).await;
        self.expect(&format!(r#"{{"subAck":{{"st":1,"cn":"{channel}"}}}}"#)).await;
    }

    /// QoS 1 `pub`, acknowledged.
    pub async fn pub1(&mut self, channel: &str, data: &str) {
        self.send(&format!(r#"{{"pub":{{"cn":"{channel}","dt":{data},"q":1,"id":"p"}}}}"#)).await;
        self.expect(r#"{"pubAck":{"st":1,"id":"p"}}"#).await;
    }

    /// QoS 1 `pub`, acknowledged after what other acknowledgements are still to come.
    pub async fn pub1_among_acks(&mut self, channel: &str, data: &str) {
        self.send(&format!(r#"{{"pub":{{"cn":"{channel}","dt":{data},"q":1,"id":"last"}}}}"#)).await;
        while self.next().await != r#"{"pubAck":{"st":1,"id":"last"}}"# {}
    }

    // ---- hearing ---------------------------------------------------------------------------------

    /// The next thing the server sends. Pings are passed over.
    pub async fn incoming(&mut self) -> Incoming {
        loop {
            let incoming = self.incoming_or_ping().await;
            if !matches!(incoming, Incoming::Ping(_)) {
                return incoming;
            }
        }
    }

    /// The next packet, or a ping of the server (protocol.md 2.24).
    pub async fn incoming_or_ping(&mut self) -> Incoming {
        match tokio::time::timeout(DEADLINE, self.read_incoming()).await {
            Ok(incoming) => {
                let shown = match &incoming {
                    Incoming::Packet(text) => text.clone(),
                    other => format!("{other:?}"),
                };
                self.note("<", &shown);
                incoming
            }
            Err(_) => panic!("nothing came within {DEADLINE:?}\n{}", self.conversation()),
        }
    }

    /// The next packet.
    pub async fn next(&mut self) -> String {
        match self.incoming().await {
            Incoming::Packet(text) => text,
            other => panic!("{other:?} instead of a packet\n{}", self.conversation()),
        }
    }

    /// The next packet must be this, byte for byte.
    pub async fn expect(&mut self, text: &str) {
        let received = self.next().await;
        assert_eq!(received, text, "{}", self.conversation());
    }

    /// The next packets must be these.
    pub async fn expect_all(&mut self, texts: &[&str]) {
        for text in texts {
            self.expect(text).await;
        }
    }

    /// The next packet, which must be a `push`.
    pub async fn next_push(&mut self) -> Push {
        let text = self.next().await;
        assert!(text.starts_with(r#"{"push":"#), "{text}\n{}", self.conversation());
        Push::parse(text)
    }

    /// The next packet must be this push, whose id is written as `*`.
    pub async fn expect_push(&mut self, text: &str) -> Push {
        let push = self.next_push().await;
        assert_eq!(push.without_id(), text, "{}", self.conversation());
        push
    }

    /// The next packets, of this number, which must be pushes.
    pub async fn next_pushes(&mut self, count: usize) -> Vec<Push> {
        let mut pushes = Vec::with_capacity(count);
        for _ in 0..count {
            pushes.push(self.next_push().await);
        }
        pushes
    }

    /// Nothing has been sent to this client up to now: the answer to its heartbeat comes first.
    ///
    /// What is still on its way through the store is not seen: call
    /// [`TestServer::settle`](super::TestServer::settle) before, if QoS 1 is what must not come.
    pub async fn expect_nothing_before_hb(&mut self) {
        self.send(r#"{"hb":{}}"#).await;
        self.expect(r#"{"hbAck":{}}"#).await;
    }

    /// Waits until the server has handled all packets sent so far; pushes before the answer are discarded.
    pub async fn expect_hb_among_pushes(&mut self) {
        self.send(r#"{"hb":{}}"#).await;
        loop {
            let text = self.next().await;
            if text == r#"{"hbAck":{}}"# {
                return;
            }
            assert!(text.starts_with(r#"{"push":"#), "{}", self.conversation());
        }
    }

    /// The next thing must be the end of the connection (a `disconn` and a close frame may come first).
    pub async fn closed(&mut self) {
        loop {
            match self.incoming().await {
                Incoming::End => return,
                Incoming::Disconn(_) | Incoming::Close(..) => {}
                other => panic!("{other:?} instead of the end\n{}", self.conversation()),
            }
        }
    }

    /// The next things must be a WebSocket's close frame with this code and no reason, and the end.
    pub async fn closed_with(&mut self, code: u16) {
        let incoming = self.incoming().await;
        assert_eq!(incoming, Incoming::Close(Some(code), String::new()), "{}", self.conversation());
        assert_eq!(self.incoming().await, Incoming::End, "{}", self.conversation());
    }

    /// Expects a `disconn`, on a WebSocket a close frame with the same reason, and the end of the connection
    /// (protocol.md 2.22).
    pub async fn told(&mut self) -> Told {
        let Incoming::Disconn(told) = self.incoming().await else {
            panic!("no disconn\n{}", self.conversation());
        };
        if self.framing() == Framing::WebSocket {
            let Incoming::Close(code, reason) = self.incoming().await else {
                panic!("no close frame\n{}", self.conversation());
            };
            assert_eq!(code, Some(told.code), "{}", self.conversation());
            assert!(reason.len() <= 123 && told.message.starts_with(&reason), "{reason}");
            assert!(reason.len() > 119 || reason == told.message, "{reason}");
        }
        assert_eq!(self.incoming().await, Incoming::End, "{}", self.conversation());
        told
    }

    /// The packets that come before the end of the connection.
    pub async fn packets_until_closed(&mut self) -> Vec<String> {
        let mut packets = Vec::new();
        loop {
            match self.incoming().await {
                Incoming::Packet(text) => packets.push(text),
                Incoming::End => return packets,
                _ => {}
            }
        }
    }

    /// Whether this packet comes before the end of the connection, however it ends.
    pub async fn packets_until_closed_or(&mut self, text: &str) -> bool {
        loop {
            match self.incoming().await {
                Incoming::Packet(packet) if packet == text => return true,
                Incoming::End => return false,
                _ => {}
            }
        }
    }

    /// All bytes up to the end of the connection, with no framing.
    pub async fn bytes_until_closed(&mut self) -> Vec<u8> {
        while within("the end of the connection", self.fill()).await {}
        self.inbox.take_all()
    }

    async fn read_incoming(&mut self) -> Incoming {
        loop {
            if let Some(received) = self.inbox.take(self.framing()) {
                return Incoming::from(received);
            }
            if !self.fill().await {
                assert!(
                    self.inbox.unread().is_empty(),
                    "the connection ended within a packet: {}\n{}",
                    self.inbox.unread().escape_ascii(),
                    self.conversation()
                );
                return Incoming::End;
            }
        }
    }

    /// Reads; `false` at the end of the connection. May be dropped at any time.
    async fn fill(&mut self) -> bool {
        let mut chunk = vec![0; 64 * 1024];
        match self.stream.read(&mut chunk).await {
            Ok(0) => false,
            Ok(length) => {
                self.inbox.add(&chunk[..length]);
                true
            }
            Err(error) => match error.kind() {
                io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::BrokenPipe
                | io::ErrorKind::UnexpectedEof => false,
                _ => panic!("cannot receive: {error}\n{}", self.conversation()),
            },
        }
    }

    /// The WebSocket upgrade (RFC 6455 §1.3, with its own example of a key).
    pub async fn upgrade(&mut self) {
        self.send_bytes(UPGRADE).await;
        self.upgraded().await;
    }

    /// Waits for the answer to an upgrade with the key of [`UPGRADE`].
    pub async fn upgraded(&mut self) {
        while !self.inbox.take_upgrade() {
            assert!(within("the upgrade", self.fill()).await, "no upgrade\n{}", self.conversation());
        }
    }
}

/// The first byte of a WebSocket frame.
const fn first_byte(is_final: bool, opcode: u8) -> u8 {
    if is_final { 0x80 | opcode } else { opcode }
}
