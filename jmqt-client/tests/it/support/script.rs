//! A server that sends exactly what a test requests, and shows exactly what it receives.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::within;

/// Accepts connections one by one.
pub struct ScriptedServer {
    listener: TcpListener,
}

/// One connection of a client.
pub struct Script {
    stream: TcpStream,
    received: Vec<u8>,
    /// The `pi` of its `conn` (protocol.md 2.23).
    pub publisher: String,
}

impl ScriptedServer {
    pub async fn start() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.unwrap() }
    }

    pub fn url(&self, scheme: &str) -> String {
        format!("{scheme}://{}", self.listener.local_addr().unwrap())
    }

    /// The next connection, on which nothing has been said.
    pub async fn accept(&self) -> Script {
        let (stream, _) = within("a connection", self.listener.accept()).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Script { stream, received: Vec::new(), publisher: String::new() }
    }

    /// The next connection, with a session whose `ts` is this.
    pub async fn session(&self, timeout_seconds: u32) -> Script {
        self.session_with(timeout_seconds, &[]).await
    }

    /// The next connection, with a session whose `connAck` these packets follow at once.
    pub async fn session_with(&self, timeout_seconds: u32, packets: &[String]) -> Script {
        let mut script = self.accept().await;
        loop {
            match script.receive().await.as_deref() {
                Some(packet) if packet.starts_with(r#"{"auth""#) => {
                    script.send(r#"{"authAck":{"st":1,"at":"t","cl":"alice"}}"#).await;
                }
                Some(packet) if packet.starts_with(r#"{"conn""#) => {
                    let publisher = packet.split(r#""pi":""#).nth(1).and_then(|rest| rest.split('"').next());
                    script.publisher = publisher.unwrap_or_default().to_owned();
                    let mut first = format!("{{\"connAck\":{{\"st\":1,\"ts\":{timeout_seconds}}}}}\0");
                    packets.iter().for_each(|packet| first.extend([packet, "\0"]));
                    script.send_raw(first.as_bytes()).await;
                    return script;
                }
                other => panic!("{other:?} instead of auth or conn"),
            }
        }
    }
}

impl Script {
    /// The connection, for tests that send other bytes than packets.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    pub async fn send(&mut self, packet: &str) {
        self.send_raw(format!("{packet}\0").as_bytes()).await;
    }

    pub async fn send_raw(&mut self, bytes: &[u8]) {
        within("sending", self.stream.write_all(bytes)).await.unwrap();
    }

    /// The next packet; `None` at the end of the connection.
    pub async fn receive(&mut self) -> Option<String> {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == 0) {
                let packet = self.received.drain(..=end).take(end).collect();
                return Some(String::from_utf8(packet).unwrap());
            }
            let mut piece = [0; 4096];
            let length = within("a packet", self.stream.read(&mut piece)).await.unwrap_or(0);
            if length == 0 {
                return None;
            }
            self.received.extend(&piece[..length]);
        }
    }

    /// The next bytes, whatever they are.
    pub async fn receive_raw(&mut self) -> Vec<u8> {
        let mut piece = [0; 4096];
        let length = within("bytes", self.stream.read(&mut piece)).await.unwrap();
        piece[..length].to_vec()
    }

    /// The next packet is this one.
    pub async fn expect(&mut self, packet: &str) {
        assert_eq!(self.receive().await.as_deref(), Some(packet));
    }

    /// What comes until the connection ends.
    pub async fn receive_to_end(&mut self) -> Vec<String> {
        let mut packets = Vec::new();
        while let Some(packet) = self.receive().await {
            packets.push(packet);
        }
        packets
    }

    /// The connection ends without another packet.
    pub async fn expect_end(&mut self) {
        assert_eq!(self.receive().await, None);
    }
}
