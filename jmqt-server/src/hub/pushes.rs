//! Consecutive pushes of one channel, encoded once for all its subscribers.

use std::sync::OnceLock;

use bytes::Bytes;
use jmqt_protocol::{NUL, Payload, PushFrame};

use crate::transport::{Framing, websocket_header};

/// Encoded pushes, and where each of them ends, so that they can be cut between messages.
pub(crate) struct Pushes {
    nul: Framed,
    websocket: OnceLock<Framed>,
}

/// The same pushes in one framing.
pub(crate) struct Framed {
    pub(crate) bytes: Bytes,
    /// The place after each message.
    pub(crate) ends: Box<[u32]>,
}

impl Framed {
    /// Where message `index` begins; for the index after the last one, where that one ends.
    pub(crate) fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    pub(crate) fn message(&self, index: usize) -> Bytes {
        self.bytes.slice(self.start(index)..self.ends[index] as usize)
    }
}

impl Pushes {
    /// Pushes that another node has encoded, each with its NUL behind it.
    pub(crate) fn from_nul(bytes: Bytes) -> Self {
        let ends = memchr::memchr_iter(NUL, &bytes).map(|at| place(at + 1)).collect();
        Self::from_parts(bytes, ends)
    }

    /// The same, where the places after each message are known.
    pub(crate) fn from_parts(bytes: Bytes, ends: Box<[u32]>) -> Self {
        Self { nul: Framed { bytes, ends }, websocket: OnceLock::new() }
    }

    pub(crate) fn framed(&self, framing: Framing) -> &Framed {
        match framing {
            Framing::Nul => &self.nul,
            Framing::WebSocket => self.websocket.get_or_init(|| to_websocket(&self.nul)),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.nul.bytes.len()
    }
}

/// Server frames are not masked, so they are the same for every subscriber.
fn to_websocket(nul: &Framed) -> Framed {
    let mut bytes = Vec::with_capacity(nul.bytes.len() + nul.ends.len() * 4);
    let mut ends = Vec::with_capacity(nul.ends.len());
    for index in 0..nul.ends.len() {
        let text = &nul.bytes[nul.start(index)..nul.ends[index] as usize - 1];
        websocket_header(text.len(), &mut bytes);
        bytes.extend_from_slice(text);
        ends.push(place(bytes.len()));
    }
    Framed { bytes: bytes.into(), ends: ends.into() }
}

/// Pushes being put together.
#[derive(Default)]
pub(crate) struct PushesBuilder {
    text: Vec<u8>,
    ends: Vec<u32>,
}

impl PushesBuilder {
    pub(crate) fn push(&mut self, frame: &PushFrame, data: Payload<'_>, id: Option<&str>) {
        // One growth for a whole batch of small messages rather than one for each doubling.
        let needed = frame.overhead() + data.as_str().len() + id.map_or(0, |id| id.len() + 14) + 1;
        if self.text.capacity() - self.text.len() < needed {
            self.text.reserve(needed.max(self.text.capacity()));
        }
        frame.write(data, id, &mut self.text);
        self.end_message();
    }

    pub(crate) fn push_retained(&mut self, frame: &PushFrame, data: Payload<'_>) {
        frame.write_retained(data, &mut self.text);
        self.end_message();
    }

    fn end_message(&mut self) {
        self.text.push(NUL);
        self.ends.push(place(self.text.len()));
    }

    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    pub(crate) fn finish(self) -> Pushes {
        let nul = Framed { bytes: self.text.into(), ends: self.ends.into() };
        Pushes { nul, websocket: OnceLock::new() }
    }
}

/// A run of pushes is cut at 64 KiB, and a packet is far below 4 GiB.
fn place(at: usize) -> u32 {
    u32::try_from(at).expect("a run of pushes is shorter than 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // §3: the same packets, framed for either transport
    fn both_framings_hold_the_same_messages() {
        let mut builder = PushesBuilder::default();
        let frame = PushFrame::new("news", "alice");
        let long = format!("\"{}\"", "x".repeat(300));
        builder.push(&frame, Payload::parse("1").unwrap(), None);
        builder.push(&frame, Payload::parse(&long).unwrap(), Some("s1-2-3"));
        let pushes = builder.finish();
        let nul = pushes.framed(Framing::Nul);
        let websocket = pushes.framed(Framing::WebSocket);
        assert_eq!(nul.ends.len(), 2);
        for (index, header) in [(0, 2), (1, 4)] {
            let text = nul.message(index);
            assert_eq!(text.last(), Some(&NUL));
            assert_eq!(websocket.message(index)[header..], text[..text.len() - 1]);
            assert_eq!(websocket.message(index)[0], 0x81);
        }
    }
}
