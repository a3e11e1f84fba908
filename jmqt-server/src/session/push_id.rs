//! The ids that this server gives its QoS 1 pushes (§9.a).

use std::fmt::Write;

use crate::store::{ChannelKey, Epoch, LogPlace, Seq, Stamp};

/// Names one QoS 1 message, unrelated to the publisher's own id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PushId {
    /// A logged message: a redelivery carries the same id, and no other message ever will, not even after an
    /// older copy of the database was restored.
    Logged(LogPlace),
    /// A message that was never stored: the number that process gave it.
    Memory {
        /// Made at random when the process started.
        process: u32,
        number: u64,
    },
}

impl PushId {
    /// Where the message is in a log, if it is.
    pub(crate) fn place(self) -> Option<(ChannelKey, Seq)> {
        match self {
            Self::Logged(place) => Some((place.key, place.seq)),
            Self::Memory { .. } => None,
        }
    }
}

/// What makes ids of different databases and processes different.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdSpace {
    epoch: Epoch,
    /// Made at random when the process started.
    process: u32,
}

impl IdSpace {
    pub(crate) fn new(epoch: Epoch, process: u32) -> Self {
        Self { epoch, process }
    }

    /// Names the database.
    pub(crate) fn epoch(self) -> Epoch {
        self.epoch
    }

    /// Writes the id as text; `out` is cleared first.
    pub(crate) fn write(self, id: PushId, out: &mut String) {
        out.clear();
        let written = match id {
            // The form that it had before there were stamps, for messages that were stored then.
            PushId::Logged(LogPlace { key, seq, stamp: Stamp::NONE }) => {
                write!(out, "{:x}-{:x}-{:x}", self.epoch.0, key.0, seq.0)
            }
            PushId::Logged(LogPlace { key, seq, stamp }) => {
                write!(out, "s{:x}-{:x}-{:x}", stamp.0, key.0, seq.0)
            }
            PushId::Memory { process, number } => write!(out, "m{process:x}-{number:x}"),
        };
        debug_assert!(written.is_ok(), "writing to a string does not fail");
    }

    /// The id of a message that is never stored.
    pub(crate) fn in_memory(self, number: u64) -> PushId {
        PushId::Memory { process: self.process, number }
    }

    /// Reads an id of this database, or of a message in some process's memory; `None` for any other text.
    pub(crate) fn parse(self, text: &str) -> Option<PushId> {
        let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
        if let Some(memory) = text.strip_prefix('m') {
            let (process, number) = memory.split_once('-')?;
            let process = u32::try_from(hex(process)?).ok()?;
            return Some(PushId::Memory { process, number: hex(number)? });
        }
        let (first, place) = text.split_once('-')?;
        let (key, seq) = place.split_once('-')?;
        let (key, seq) = (ChannelKey(i64::try_from(hex(key)?).ok()?), Seq(hex(seq)?));
        let stamp = match first.strip_prefix('s') {
            Some(stamp) => Stamp(hex(stamp)?),
            None if hex(first)? == u64::from(self.epoch.0) => Stamp::NONE,
            None => return None,
        };
        Some(PushId::Logged(LogPlace { key, seq, stamp }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back_and_foreign_ones_are_not() {
        let ids = IdSpace::new(Epoch(0xbeef), 7);
        let mut text = String::new();
        let logged = |stamp| PushId::Logged(LogPlace { key: ChannelKey(12), seq: Seq(3456), stamp });
        for id in [logged(Stamp::NONE), logged(Stamp(u64::MAX >> 1)), ids.in_memory(99)] {
            ids.write(id, &mut text);
            assert_eq!(ids.parse(&text), Some(id));
        }
        assert_ne!(
            IdSpace::new(Epoch(0xbeef), 8).parse(&text),
            Some(IdSpace::new(Epoch(0xbeef), 8).in_memory(99))
        );
        ids.write(logged(Stamp::NONE), &mut text);
        assert_eq!(text, "beef-c-d80", "clients know it by this id");
        assert_eq!(IdSpace::new(Epoch(1), 7).parse(&text), None);
        for foreign in [
            "",
            "7",
            "m7",
            "beef-1",
            "beef-x-1",
            "beef--1",
            "-",
            "beef-ffffffffffffffff-1",
            "s-1-1",
            "sx-1-1",
            "s1-1",
        ] {
            assert_eq!(ids.parse(foreign), None, "{foreign}");
        }
    }
}
