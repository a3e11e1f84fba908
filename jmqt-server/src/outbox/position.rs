//! The position of a persistent subscription in the log of its channel.

use super::cursor::Acked;
use super::stamps::Stamps;
use crate::message::PushId;
use crate::store::{ChannelKey, Seq, Stamp, StoredSubscription};
use crate::wire::LoggedPushes;

/// The origin of the pushes of an [`Outbox::offer`](super::Outbox::offer).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// They have just been committed. They wait until the session [goes live](super::Outbox::go_live).
    Live,
    /// They were committed recently, and a resume has requested them.
    Memory,
    /// They were read from this log. The read is complete up to `through`: gaps are final.
    Log {
        key: ChannelKey,
        /// The last position that the read covers.
        through: u64,
    },
}

impl Source {
    /// The log of the pushes; `None` if they are not logged.
    pub(super) fn log(self, logged: &LoggedPushes) -> Option<ChannelKey> {
        match self {
            Self::Log { key, .. } => Some(key),
            Self::Live | Self::Memory => {
                logged.messages.iter().find_map(|message| message.id.place()).map(|(key, _)| key)
            }
        }
    }
}

/// The position of a persistent subscription in the log.
pub(crate) struct LogPosition {
    pub(crate) key: ChannelKey,
    /// The next message to push on this connection.
    pub(crate) next: u64,
    /// The last message that is known to be in the log. If `next` is not beyond it, the client is behind.
    pub(crate) seen: u64,
    /// The end of the log when this connection began: pushing earlier messages counts as redelivery.
    pub(crate) pending_until: u64,
    pub(crate) acked: Acked,
    /// The stamps of the messages that acknowledgements may name.
    pub(crate) stamps: Stamps,
    /// The number of unacknowledged pushes of this connection.
    pub(crate) in_flight: u32,
    /// `acked` has changed since it was last written to the store.
    pub(crate) dirty: bool,
    /// The subscription is in the list of those that are behind.
    pub(crate) listed: bool,
}

impl LogPosition {
    pub(crate) fn new(stored: &StoredSubscription) -> Self {
        let acked = Acked::from_stored(&stored.cursor);
        Self {
            key: stored.key,
            next: acked.up_to() + 1,
            seen: stored.last.0,
            pending_until: stored.last.0,
            acked,
            stamps: Stamps::default(),
            in_flight: 0,
            dirty: false,
            listed: false,
        }
    }

    pub(crate) fn is_behind(&self) -> bool {
        self.next <= self.seen
    }

    /// Records that the log has these messages.
    pub(super) fn see(&mut self, logged: &LoggedPushes) {
        self.seen = self.seen.max(logged.last_logged().map_or(0, |(_, Seq(seq))| seq));
    }

    /// Moves to an offered message, if all messages before it were offered or are gone.
    pub(super) fn reach(&mut self, seq: u64, source: Source) -> Reached {
        if seq < self.next {
            return Reached::Passed;
        }
        if seq > self.next {
            if !matches!(source, Source::Log { .. }) {
                return Reached::Beyond; // a message is missing: it is in the log
            }
            self.pass_over(seq - 1);
        }
        match seq > self.next || seq > self.acked.horizon() {
            true => Reached::Beyond,
            false => Reached::Next,
        }
    }

    /// Records that the next message was sent.
    pub(super) fn sent(&mut self, seq: Seq, stamp: Stamp) {
        self.stamps.pushed(seq, stamp);
        self.in_flight += 1;
        self.next += 1;
    }

    /// Passes over what is gone, after all these messages were offered.
    pub(super) fn finish(&mut self, logged: &LoggedPushes, source: Source) {
        if let Source::Log { through, .. } = source
            && logged.messages.last().is_none_or(|last| match last.id {
                PushId::Logged(last) => self.next > last.seq.0,
                PushId::Memory { .. } => true,
            })
            && self.next <= through
        {
            self.pass_over(through); // the log has no other messages up to there
        }
    }

    /// Skips the messages from `next` to `seq`, which are the client's own or deleted. Stops at the horizon, and
    /// continues when the horizon has moved.
    pub(super) fn pass_over(&mut self, seq: u64) {
        if self.next <= seq && self.next == self.acked.up_to() + 1 {
            self.acked.skip_to(seq); // the horizon goes with it
            self.next = seq + 1;
        }
        while self.next <= seq && self.next <= self.acked.horizon() {
            self.acked.insert(self.next);
            self.next += 1;
        }
        self.dirty = true;
    }
}

/// The result of [`LogPosition::reach`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    /// It is the next message.
    Next,
    /// It was pushed before.
    Passed,
    /// Messages before it are missing, or a cursor cannot record it yet.
    Beyond,
}
