//! MQTT packets from a stream, for test clients of the server and test servers of the client.

use jmqt_mqtt::{Peek, peek};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::within;

/// Cuts what a stream brings into packets.
#[derive(Default)]
pub struct PacketReader {
    received: Vec<u8>,
}

impl PacketReader {
    /// The next packet; `None`: the stream has ended.
    pub async fn next(&mut self, stream: &mut (impl AsyncRead + Unpin)) -> Option<Vec<u8>> {
        loop {
            if let Ok(Peek::Known(header)) = peek(&self.received, 1 << 28)
                && header.packet_length() <= self.received.len()
            {
                let rest = self.received.split_off(header.packet_length());
                return Some(std::mem::replace(&mut self.received, rest));
            }
            let mut chunk = [0; 4096];
            let length = within("a packet", stream.read(&mut chunk)).await.unwrap_or(0);
            if length == 0 {
                return None;
            }
            self.received.extend_from_slice(&chunk[..length]);
        }
    }
}
