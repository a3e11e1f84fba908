//! Messages inside the server, independent of the client's language: the hub passes them on, the store keeps them,
//! and the bus carries them. `wire` encodes them for clients.

use std::ops::Range;

use bytes::Bytes;
use jmqt_core::{ChannelName, ClientId, Payload, Qos, Retain};

use crate::budget::Share;
use crate::store::{ChannelKey, LogPlace, Seq};

/// A piece smaller than this fraction of its buffer is copied instead of shared if it must wait. The memory of a
/// client is therefore at most this many times the counted bytes.
const SHARED_PART: usize = 4;

/// A message that is being published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) channel: ChannelName,
    /// `None` for messages of the server.
    pub(crate) sender: Option<ClientId>,
    pub(crate) data: Json,
    pub(crate) qos: Qos,
    pub(crate) retain: Retain,
}

/// The text of one JSON value, validated when it entered the server. Cheap to clone.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Json(Bytes);

impl std::fmt::Debug for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Json({} bytes)", self.0.len()) // data must not be logged
    }
}

impl Json {
    /// Copies a payload that a decoder has validated.
    pub(crate) fn copy_of(payload: Payload<'_>) -> Self {
        Self(Bytes::copy_from_slice(payload.as_str().as_bytes()))
    }

    /// Validates data that does not come from a client, but from the store.
    pub(crate) fn parse(data: Bytes) -> Option<Self> {
        let is_json = std::str::from_utf8(&data).is_ok_and(|text| Payload::parse(text).is_ok());
        is_json.then_some(Self(data))
    }

    /// Wraps bytes of an earlier [`Json`], from the store's queue or another node.
    pub(crate) fn checked_before(data: Bytes) -> Self {
        Self(data)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }

    /// Converts to the text type of the application. Reads every byte.
    pub(crate) fn to_payload(&self) -> Payload<'_> {
        std::str::from_utf8(&self.0).ok().and_then(|text| Payload::parse(text).ok()).unwrap_or(Payload::NULL)
    }
}

/// Identifies one QoS 1 message, independent of the publisher's own id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PushId {
    /// A logged message. A redelivery has the same id, and no other message ever has it, not even after an older copy
    /// of the database is restored.
    Logged(LogPlace),
    /// A message that was not stored, with a number of the process.
    Memory {
        /// A random number of the process.
        process: u32,
        number: u64,
    },
}

impl PushId {
    /// The position of the message in a log, if it is logged.
    pub(crate) fn place(self) -> Option<(ChannelKey, Seq)> {
        match self {
            Self::Logged(place) => Some((place.key, place.seq)),
            Self::Memory { .. } => None,
        }
    }
}

/// A QoS 1 message to push.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LoggedPush {
    pub(crate) id: PushId,
    pub(crate) sender: Option<ClientId>,
    pub(crate) data: Json,
}

/// The retained message of a channel.
#[derive(Debug)]
pub(crate) struct RetainedPush {
    pub(crate) sender: Option<ClientId>,
    pub(crate) data: Json,
    /// Its share of MAX_TOTAL_OUTBOUND_BYTES until it is in a client's queue.
    pub(crate) counted: Option<Share>,
}

/// Consecutive pieces of one buffer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pieces {
    pub(crate) bytes: Bytes,
    /// The end of each piece.
    pub(crate) ends: Box<[u32]>,
}

impl Pieces {
    /// The start of piece `index`; for the index after the last piece, its end.
    pub(crate) fn start(&self, index: usize) -> usize {
        index.checked_sub(1).map_or(0, |before| self.ends[before] as usize)
    }

    /// Consecutive pieces to keep for a while: a slice of the buffer, or a copy if the slice would keep a much larger
    /// buffer alive.
    pub(crate) fn cut(&self, pieces: Range<usize>) -> Bytes {
        let bytes = self.start(pieces.start)..self.start(pieces.end);
        if bytes.len() * SHARED_PART < self.bytes.len() {
            return Bytes::copy_from_slice(&self.bytes[bytes]);
        }
        self.bytes.slice(bytes)
    }
}

/// QoS 0 messages of one channel and publisher. In each piece of the buffer, a fixed number of bytes precede and
/// follow the data: the rest of a packet, or the length that the bus adds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) pieces: Pieces,
    pub(crate) before: usize,
    pub(crate) behind: usize,
}

impl Run {
    /// The JSON texts.
    pub(crate) fn data(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.pieces.ends.iter().map(move |&end| {
            let data = &self.pieces.bytes[start + self.before..end as usize - self.behind];
            start = end as usize;
            data
        })
    }
}

/// The end position of a piece. A run ends at 64 KiB, and a packet is far below 4 GiB.
pub(crate) fn place(at: usize) -> u32 {
    u32::try_from(at).expect("a run of messages is shorter than 4 GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_of_a_run_is_found_in_its_pieces() {
        let pieces = Pieces { bytes: Bytes::from_static(b"<1>.<22>.<>."), ends: [4, 9, 12].into() };
        let run = Run { pieces, before: 1, behind: 2 };
        assert_eq!(run.data().collect::<Vec<_>>(), [&b"1"[..], b"22", b""]);
    }

    #[test]
    fn only_json_is_json() {
        for (data, is_json) in
            [(&b"1"[..], true), (b"{\"a\":[]}", true), (b"1 2", false), (b"\"\xff\"", false)]
        {
            assert_eq!(Json::parse(Bytes::from_static(data)).is_some(), is_json);
        }
        assert_eq!(Json::parse(Bytes::from_static(b"[1]")).unwrap().to_payload().as_str(), "[1]");
    }
}
