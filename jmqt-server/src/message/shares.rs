//! What the nodes of a cluster tell each other about the group of a shared subscription.

use jmqt_core::{ChannelName, ClientId};

use super::{LoggedPush, Pieces, Run, place};

/// Tells another node something about a group with members there and here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ShareMessage {
    /// The sender has this number of members with a connection. At least one may have room now.
    Members {
        count: u32,
        /// The sender knows this of the receiver. Otherwise the receiver answers.
        knows_yours: bool,
    },
    /// Messages without acknowledgement for members of the receiver.
    Push { channel: ChannelName, sender: Option<ClientId>, run: Run },
    /// Messages for members of the receiver. They come back by the numbers of their ids: as done, or returned.
    Give { channel: ChannelName, messages: Vec<LoggedPush> },
    /// Members have acknowledged these.
    Done(Vec<u64>),
    /// No member had room for these, or the one that had them has left.
    Returned(Vec<u64>),
    /// Asks which of these are not there.
    AreHeld(Vec<u64>),
    /// These are not there: messages were lost.
    NotHeld(Vec<u64>),
}

impl Run {
    /// The messages with these indexes.
    pub(crate) fn pick(&self, indexes: &[usize]) -> Self {
        let (mut bytes, mut ends) = (Vec::new(), Vec::with_capacity(indexes.len()));
        for index in indexes {
            let (start, end) = (self.pieces.start(*index), self.pieces.start(index + 1));
            bytes.extend_from_slice(&self.pieces.bytes[start + self.before..end - self.behind]);
            ends.push(place(bytes.len()));
        }
        let pieces = Pieces { bytes: bytes.into(), ends: ends.into() };
        Self { attributes: self.attributes.clone(), pieces, before: 0, behind: 0 }
    }
}
