//! The ids that this server gives its QoS 1 pushes (§9.a).

use std::fmt::Write;

use crate::store::{ChannelKey, Epoch, Seq};

/// Names one QoS 1 message, unrelated to the publisher's own id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum PushId {
    /// A logged message: a redelivery carries the same id, and no other message ever will.
    Logged(ChannelKey, Seq),
    /// A message that was never stored, counted since the process started.
    Memory(u64),
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

    /// Writes the id as text; `out` is cleared first.
    pub(crate) fn write(self, id: PushId, out: &mut String) {
        out.clear();
        let written = match id {
            PushId::Logged(key, seq) => write!(out, "{:x}-{:x}-{:x}", self.epoch.0, key.0, seq.0),
            PushId::Memory(number) => write!(out, "m{:x}-{number:x}", self.process),
        };
        debug_assert!(written.is_ok(), "writing to a string does not fail");
    }

    /// Reads an id of this database and process; `None` for any other text.
    pub(crate) fn parse(self, text: &str) -> Option<PushId> {
        let hex = |digits: &str| u64::from_str_radix(digits, 16).ok();
        if let Some(memory) = text.strip_prefix('m') {
            let (process, number) = memory.split_once('-')?;
            let id = PushId::Memory(hex(number)?);
            return (hex(process)? == u64::from(self.process)).then_some(id);
        }
        let (epoch, place) = text.split_once('-')?;
        let (key, seq) = place.split_once('-')?;
        let id = PushId::Logged(ChannelKey(i64::try_from(hex(key)?).ok()?), Seq(hex(seq)?));
        (hex(epoch)? == u64::from(self.epoch.0)).then_some(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_back_and_foreign_ones_are_not() {
        let ids = IdSpace::new(Epoch(0xbeef), 7);
        let mut text = String::new();
        for id in [PushId::Logged(ChannelKey(12), Seq(3456)), PushId::Memory(99)] {
            ids.write(id, &mut text);
            assert_eq!(ids.parse(&text), Some(id));
            assert_eq!(IdSpace::new(Epoch(1), 8).parse(&text), None);
        }
        for foreign in ["", "7", "m7", "beef-1", "beef-x-1", "beef--1", "-", "beef-ffffffffffffffff-1"] {
            assert_eq!(ids.parse(foreign), None, "{foreign}");
        }
    }
}
