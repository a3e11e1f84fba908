//! Consecutive pushes of one channel, encoded once for all its subscribers.

use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;
use jmqt_protocol::{NUL, Payload, PushFrame};

use crate::transport::{Framing, websocket_header};

/// A piece of less than one in so many of a buffer is copied rather than shared, if it has to wait: what a client
/// keeps in memory is at most so many times what is counted.
const SHARED_PART: usize = 4;

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

    /// Consecutive messages, to be kept for a while: a part of the buffer, or a copy where that would keep
    /// a much larger buffer alive.
    pub(crate) fn messages(&self, messages: Range<usize>) -> Bytes {
        let bytes = self.start(messages.start)..self.start(messages.end);
        if bytes.len() * SHARED_PART < self.bytes.len() {
            return Bytes::copy_from_slice(&self.bytes[bytes]);
        }
        self.bytes.slice(bytes)
    }

    #[cfg(test)]
    fn message(&self, index: usize) -> Bytes {
        self.messages(index..index + 1)
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

/// A channel's retained message, framed for one client (§9.b). Its payload is shared with whoever read it.
pub(crate) struct RetainedPush {
    pub(crate) head: Vec<u8>,
    pub(crate) data: Bytes,
    pub(crate) tail: Vec<u8>,
}

impl RetainedPush {
    pub(crate) fn new(frame: &PushFrame, data: Bytes, framing: Framing) -> Self {
        let (before, mut tail) = frame.around_retained();
        let mut head = Vec::with_capacity(before.len() + 10);
        match framing {
            Framing::WebSocket => websocket_header(before.len() + data.len() + tail.len(), &mut head),
            Framing::Nul => tail.push(NUL),
        }
        head.extend_from_slice(before);
        Self { head, data, tail }
    }
}

/// A run of pushes is cut at 64 KiB, and a packet is far below 4 GiB.
fn place(at: usize) -> u32 {
    u32::try_from(at).expect("a run of pushes is shorter than 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // what waits for one client must not keep what was for others alive
    fn a_small_part_of_a_large_buffer_is_copied() {
        let mut builder = PushesBuilder::default();
        let frame = PushFrame::new("news", "alice");
        let long = format!("\"{}\"", "x".repeat(1000));
        for data in ["1", &long, &long] {
            builder.push(&frame, Payload::parse(data).unwrap(), None);
        }
        let pushes = builder.finish();
        let framed = pushes.framed(Framing::Nul);
        let is_shared = |part: &Bytes| framed.bytes.as_ptr_range().contains(&part.as_ptr());
        assert!(!is_shared(&framed.messages(0..1)));
        assert!(is_shared(&framed.messages(1..2)) && is_shared(&framed.messages(0..3)));
        assert_eq!(framed.messages(0..1), framed.bytes[..framed.start(1)]);
    }

    #[test] // §9.b
    fn a_retained_push_is_framed_around_its_payload() {
        let frame = PushFrame::new("news", "alice");
        for (data, header) in [("1".to_owned(), 2), (format!("\"{}\"", "x".repeat(300)), 4)] {
            let text = format!(r#"{{"push":{{"cn":"news","dt":{data},"cl":"alice","rt":1}}}}"#);
            let joined = |framing| {
                let RetainedPush { head, data, tail } =
                    RetainedPush::new(&frame, data.clone().into(), framing);
                [&head[..], &data, &tail].concat()
            };
            assert_eq!(joined(Framing::Nul), [text.as_bytes(), &[NUL]].concat());
            let websocket = joined(Framing::WebSocket);
            assert_eq!(&websocket[header..], text.as_bytes());
            let mut expected = Vec::new();
            Framing::WebSocket.frame(text.as_bytes(), &mut expected);
            assert_eq!(websocket, expected);
        }
    }

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
