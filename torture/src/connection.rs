//! A connection that sends the given packets and shows the received ones.

use std::io;
use std::net::SocketAddr;

use jmqt_protocol::Packet;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::Target;

/// One TCP connection.
#[derive(Debug)]
pub struct Connection {
    /// This end of it: how the nodes' notices name the session.
    pub local: SocketAddr,
    stream: TcpStream,
    received: Vec<u8>,
    /// How much of it was handed out.
    taken: usize,
}

/// Connects, and says where it comes from if that is wanted. Returns this end of it, too.
pub(crate) async fn open(target: Target) -> io::Result<(TcpStream, SocketAddr)> {
    let mut stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    if target.says_header {
        let (from, to) = (local.port(), target.address.port());
        let header = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\n");
        stream.write_all(header.as_bytes()).await?;
    }
    Ok((stream, local))
}

impl Connection {
    /// Connects, and says where it comes from if that is wanted.
    ///
    /// # Errors
    /// Those of the network.
    pub async fn open(target: Target) -> io::Result<Self> {
        let (stream, local) = open(target).await?;
        Ok(Self { local, stream, received: Vec::new(), taken: 0 })
    }

    /// Sends a packet's text.
    ///
    /// # Errors
    /// Those of the network.
    pub async fn send_text(&mut self, text: &str) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        self.stream.write_all(&bytes).await
    }

    /// Sends a packet.
    ///
    /// # Errors
    /// Those of the network.
    pub async fn send(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        self.send_text(&packet.to_text()).await
    }

    /// The text of the next packet; `None` at the end of the connection.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<String> {
        let mut searched = self.taken;
        loop {
            if let Some(length) = self.received[searched..].iter().position(|byte| *byte == 0) {
                let end = searched + length;
                let text = String::from_utf8(self.received[self.taken..end].to_vec()).unwrap();
                self.taken = end + 1;
                if text.starts_with(r#"{"disconn":"#) {
                    searched = self.taken; // nothing but the end follows (protocol.md 2.22)
                    continue;
                }
                return Some(text);
            }
            self.received.drain(..self.taken);
            self.taken = 0;
            searched = self.received.len();
            match self.stream.read_buf(&mut self.received).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }
}
