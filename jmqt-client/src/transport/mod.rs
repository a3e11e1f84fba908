//! A connection as packets: TCP or TLS underneath, NUL framing or WebSocket on top (§3).
//!
//! A [`Link`] owns the socket. It reads as much as there is and hands out packet texts one by one; it writes
//! portions of NUL-terminated packets, which for a WebSocket it turns into frames. For MQTT, which cuts its packets itself,
//! it hands out and takes pieces of a byte stream. It knows nothing of sessions.

mod socket;
mod tls;
mod websocket;

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::trace::PacketTrace;

pub(crate) use socket::NulReader;
pub(crate) use tls::{TlsInfo, TlsStream, certificate_refused, connector, handshake, server_name};
pub(crate) use websocket::{Messages, UpgradeError, WebSocketReader};

/// The read buffer of a connection on which little happens, and of one on which much does.
const SMALL_READ: usize = 8 << 10;
const LARGE_READ: usize = 256 << 10;

/// What the bytes travel on.
#[derive(Debug)]
pub(crate) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream>),
}

impl Stream {
    fn poll_read(&mut self, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_read(context, buffer),
        }
    }

    fn poll_write(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_write(context, bytes),
        }
    }

    fn poll_flush(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_flush(context),
        }
    }

    pub(crate) fn poll_shutdown(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream.as_mut()).poll_shutdown(context),
        }
    }
}

/// How packets are told apart.
#[derive(Debug)]
pub(crate) enum Framing {
    Nul(NulReader),
    /// MQTT on a socket: the bytes as they come.
    Raw,
    WebSocket(Box<WebSocketReader>),
}

/// One packet's text as it came.
pub(crate) struct Incoming<'a> {
    pub(crate) bytes: &'a [u8],
    /// The read that contains the whole packet, if one does.
    pub(crate) whole: Option<&'a Bytes>,
}

impl Incoming<'_> {
    /// The bytes to keep: a slice of the read, where that is possible.
    pub(crate) fn to_bytes(&self) -> Bytes {
        match self.whole {
            Some(read) => read.slice_ref(self.bytes),
            None => Bytes::copy_from_slice(self.bytes),
        }
    }
}

/// Why the bytes that came are no packets.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadStream {
    #[error("a packet is larger than {0} bytes")]
    TooLarge(usize),
    #[error("the WebSocket was closed{}", .0.as_ref().map(|(code, _)| format!(" with code {code}")).unwrap_or_default())]
    /// With this code and this reason, if any were given.
    Closed(Option<(u16, String)>),
    #[error("{0}")]
    Violation(String),
}

/// One connection.
#[derive(Debug)]
pub(crate) struct Link {
    stream: Stream,
    framing: Framing,
    read_buffer: Vec<u8>,
    /// What is being written, framed, and how much of it is.
    writing: Vec<u8>,
    written: usize,
    unflushed: bool,
    trace: Option<PacketTrace>,
}

/// What a turn of [`Link::turn`] brought.
pub(crate) enum Turn {
    /// This came in.
    Read(Bytes),
    /// All that was to be written is.
    Written,
    /// The other side has closed its direction.
    End,
}

impl Link {
    pub(crate) fn new(stream: Stream, framing: Framing, trace: Option<PacketTrace>) -> Self {
        Self {
            stream,
            framing,
            read_buffer: vec![0; SMALL_READ],
            writing: Vec::new(),
            written: 0,
            unflushed: false,
            trace,
        }
    }

    /// Whether everything that was to be written is.
    pub(crate) fn is_written(&self) -> bool {
        self.writing.is_empty() && !self.unflushed
    }

    /// Where the next portion goes, as packets that end with NUL; call [`send`](Self::send) when they are there.
    /// Only when [`is_written`](Self::is_written).
    pub(crate) fn portion(&mut self) -> &mut Vec<u8> {
        &mut self.writing
    }

    /// Frames the portion. Returns its size.
    pub(crate) fn send(&mut self) -> usize {
        if let Some(trace) = &self.trace {
            trace.sent(&self.writing);
        }
        if let Framing::WebSocket(websocket) = &mut self.framing {
            websocket.frame(&mut self.writing);
        }
        self.unflushed |= !self.writing.is_empty();
        self.writing.len()
    }

    /// Writes and reads as much as possible, and returns as soon as there is an event.
    ///
    /// # Cancel safety
    /// What was written is noted, what was read is returned: nothing is lost if the future is dropped.
    pub(crate) async fn turn(&mut self) -> io::Result<Turn> {
        poll_fn(|context| self.poll_turn(context)).await
    }

    /// [`turn`](Self::turn) which reads only if it may: else what comes stays with the system, and in the end with the other
    /// side.
    ///
    /// # Cancel safety
    /// As [`turn`](Self::turn).
    pub(crate) async fn turn_if(&mut self, may_read: bool) -> io::Result<Turn> {
        poll_fn(|context| match (may_read, self.is_written()) {
            (true, _) => self.poll_turn(context),
            (false, true) => Poll::Pending,
            (false, false) => self.poll_writing(context).map_ok(|()| Turn::Written),
        })
        .await
    }

    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Turn>> {
        let had_something = !self.is_written();
        if had_something && self.poll_writing(context)?.is_ready() {
            return Poll::Ready(Ok(Turn::Written));
        }
        let mut buffer = ReadBuf::new(&mut self.read_buffer);
        ready!(self.stream.poll_read(context, &mut buffer))?;
        let length = buffer.filled().len();
        if length == 0 {
            return Poll::Ready(Ok(Turn::End));
        }
        let read = Bytes::copy_from_slice(buffer.filled());
        self.resize(length);
        Poll::Ready(Ok(Turn::Read(read)))
    }

    fn poll_writing(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.writing.len() {
            match ready!(self.stream.poll_write(context, &self.writing[self.written..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                length => self.written += length,
            }
        }
        self.writing.clear();
        self.written = 0;
        ready!(self.stream.poll_flush(context))?;
        self.unflushed = false;
        Poll::Ready(Ok(()))
    }

    /// Reads more at a time while there is much, and less when there is not.
    fn resize(&mut self, length: usize) {
        if length == self.read_buffer.len() && length < LARGE_READ {
            self.read_buffer.resize(LARGE_READ, 0);
        } else if length < SMALL_READ / 2 && self.read_buffer.len() > SMALL_READ {
            self.read_buffer = vec![0; SMALL_READ];
        }
    }

    /// Gives up memory that a busy time has left behind.
    pub(crate) fn release(&mut self) {
        if self.writing.capacity() > SMALL_READ {
            self.writing = Vec::new();
        }
    }

    /// The packets in what was read. Call it until it returns `None`.
    pub(crate) fn next<'a>(
        &'a mut self,
        read: &'a Bytes,
        at: &mut usize,
    ) -> Result<Option<Incoming<'a>>, BadStream> {
        let next = match &mut self.framing {
            Framing::Nul(reader) => reader.next(read, at),
            Framing::Raw => {
                let rest = &read[std::mem::replace(at, read.len())..];
                Ok((!rest.is_empty()).then_some(Incoming { bytes: rest, whole: Some(read) }))
            }
            Framing::WebSocket(reader) => reader.next(read, at),
        };
        if let (Some(trace), Ok(Some(packet))) = (&self.trace, &next) {
            trace.received(packet.bytes);
        }
        next
    }

    /// Goes on with the upgrade. `true`: the WebSocket is open.
    pub(crate) fn upgrade_with(&mut self, read: &[u8]) -> Result<bool, UpgradeError> {
        match &mut self.framing {
            Framing::Nul(_) | Framing::Raw => Ok(true),
            Framing::WebSocket(reader) => reader.upgrade_with(read),
        }
    }

    /// What the WebSocket has to say by itself: pongs, and the answer to a close.
    pub(crate) fn take_answers(&mut self) -> Vec<u8> {
        match &mut self.framing {
            Framing::Nul(_) | Framing::Raw => Vec::new(),
            Framing::WebSocket(reader) => reader.take_answers(),
        }
    }

    /// Appends bytes that are framed already.
    pub(crate) fn send_framed(&mut self, bytes: &[u8]) {
        self.unflushed |= !bytes.is_empty();
        self.writing.extend_from_slice(bytes);
    }

    /// What a WebSocket says last; nothing on a socket.
    pub(crate) fn close_frame(&mut self) -> Vec<u8> {
        match &mut self.framing {
            Framing::Nul(_) | Framing::Raw => Vec::new(),
            Framing::WebSocket(reader) => reader.close_frame(),
        }
    }

    /// Writes what is left and closes our direction.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        poll_fn(|context| {
            if !self.is_written() {
                ready!(self.poll_writing(context))?;
            }
            self.stream.poll_shutdown(context)
        })
        .await
    }
}
