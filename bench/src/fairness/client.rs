//! A blocking TCP client with only the checks that an attack needs.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};

/// The time of one read or write, after which the stop flag is checked.
const STEP: Duration = Duration::from_millis(200);

pub(super) struct Client<'s> {
    stream: TcpStream,
    received: Vec<u8>,
    at: usize,
    stop: &'s AtomicBool,
}

impl<'s> Client<'s> {
    /// A session of this name.
    pub(super) fn connect(address: SocketAddr, name: &str, stop: &'s AtomicBool) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(STEP))?;
        stream.set_write_timeout(Some(STEP))?;
        let mut client = Self { stream, received: Vec::new(), at: 0, stop };
        client.send(&format!("{{\"auth\":{{\"dt\":{{\"client_name\":\"{name}\"}}}}}}\0"))?;
        let ack: serde_json::Value = serde_json::from_slice(&client.next()?)?;
        let token = &ack["authAck"]["at"];
        client.send(&format!("{{\"conn\":{{\"at\":{token},\"cl\":\"{name}\",\"wn\":1024}}}}\0"))?;
        client.expect(b"{\"connAck\":{\"st\":1,")?;
        Ok(client)
    }

    /// Writes packets, each with its NUL.
    pub(super) fn send(&mut self, packets: &str) -> Result<()> {
        let mut rest = packets.as_bytes();
        while !rest.is_empty() {
            match self.stream.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) => self.go_on_after(error)?,
            }
        }
        Ok(())
    }

    /// The next packet.
    pub(super) fn next(&mut self) -> Result<Vec<u8>> {
        let mut searched = self.at;
        loop {
            if let Some(length) = memchr::memchr(0, &self.received[searched..]) {
                let packet = self.received[self.at..searched + length].to_vec();
                self.at = searched + length + 1;
                return Ok(packet);
            }
            self.received.drain(..self.at);
            self.at = 0;
            searched = self.received.len();
            self.fill()?;
        }
    }

    /// The next packet that is no push must begin like this.
    pub(super) fn expect(&mut self, beginning: &[u8]) -> Result<()> {
        loop {
            let packet = self.next()?;
            if packet.starts_with(beginning) {
                return Ok(());
            }
            if !packet.starts_with(b"{\"push\":") {
                let shown = packet[..packet.len().min(100)].escape_ascii();
                bail!("{shown} instead of {}", beginning.escape_ascii());
            }
        }
    }

    /// Reads and discards this many packets.
    pub(super) fn skip(&mut self, packets: usize) -> Result<()> {
        for _ in 0..packets {
            self.next()?;
        }
        Ok(())
    }

    /// Waits, without reading, until it is time to stop.
    pub(super) fn idle(&self) {
        while !self.stop.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn fill(&mut self) -> Result<()> {
        let mut chunk = [0; 64 * 1024];
        loop {
            match self.stream.read(&mut chunk) {
                Ok(0) => bail!("the server has closed the connection"),
                Ok(length) => {
                    self.received.extend_from_slice(&chunk[..length]);
                    return Ok(());
                }
                Err(error) => self.go_on_after(error)?,
            }
        }
    }

    fn go_on_after(&self, error: std::io::Error) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            bail!("it is time to stop");
        }
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Ok(()),
            _ => Err(error.into()),
        }
    }
}
