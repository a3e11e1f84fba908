//! The notifications that the application of a node received, one per line, in a file that survives the node.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// What happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// The node has started.
    Started,
    /// The connection validator has accepted this client; whether there was a session then, others know.
    Accepted,
    /// `disconn`.
    Disconnected,
    /// The close notifier of a client for which that takes a while has begun.
    Closing,
    /// The close notifier ran, for this reason.
    Closed(String),
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// When, in microseconds of the system's clock.
    pub at: u64,
    /// The node that wrote it.
    pub node: String,
    /// How often that node had been started.
    pub start: u32,
    /// What happened.
    pub event: Event,
    /// To whom; empty for the node itself.
    pub client: String,
    /// The address of the client's end of the connection, which only it and the balancer know besides.
    pub remote: Option<SocketAddr>,
}

/// Microseconds of the system's clock.
#[must_use]
pub fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Where a node writes its lines.
#[derive(Debug)]
pub struct NoticeFile {
    file: File,
    node: String,
    start: u32,
}

impl NoticeFile {
    /// Appends to this file, in the name of this start of a node.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, node: &str, start: u32) -> std::io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { file, node: node.to_owned(), start })
    }

    /// Writes a line in one call: a process that dies leaves whole lines.
    ///
    /// # Errors
    /// The line cannot be written.
    pub fn write(&self, event: Event, client: &str, remote: Option<SocketAddr>) -> std::io::Result<()> {
        let (node, start, client) = (self.node.clone(), self.start, client.to_owned());
        let mut line = serde_json::to_vec(&Notice { at: now(), node, start, event, client, remote })?;
        line.push(b'\n');
        (&self.file).write_all(&line)
    }
}

/// All lines of a file so far, in the order they were written in.
#[must_use]
pub fn read(path: &Path) -> Vec<Notice> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    whole.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}
