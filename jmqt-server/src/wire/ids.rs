//! The ids of the QoS 1 pushes of this server, in the text form of JMQT (§9.a).

use crate::message::PushId;
use crate::store::{ChannelKey, Epoch, LogPlace, Seq, Stamp};

/// Distinguishes the ids of different databases and processes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IdSpace {
    epoch: Epoch,
    /// A random number of the process.
    process: u32,
}

impl IdSpace {
    pub(crate) fn new(epoch: Epoch, process: u32) -> Self {
        Self { epoch, process }
    }

    /// The epoch of the database.
    pub(crate) fn epoch(self) -> Epoch {
        self.epoch
    }

    /// The id of a message that is not stored.
    pub(crate) fn in_memory(self, number: u64) -> PushId {
        PushId::Memory { process: self.process, number }
    }

    /// Parses an id of this database, or of a message that was only in memory; returns `None` for any other text.
    pub(crate) fn parse(self, text: &str) -> Option<PushId> {
        let text = text.as_bytes();
        if let Some(memory) = text.strip_prefix(b"m") {
            let (process, number) = hex_and_dash(memory)?;
            let process = u32::try_from(process).ok()?;
            return Some(PushId::Memory { process, number: hex(number)? });
        }
        let (stamped, digits) = match text.strip_prefix(b"s") {
            Some(digits) => (true, digits),
            None => (false, text),
        };
        let (first, place) = hex_and_dash(digits)?;
        let (key, seq) = hex_and_dash(place)?;
        let (key, seq) = (ChannelKey(i64::try_from(key).ok()?), Seq(hex(seq)?));
        let stamp = match stamped {
            true => Stamp(first),
            false if first == u64::from(self.epoch.0) => Stamp::NONE,
            false => return None,
        };
        Some(PushId::Logged(LogPlace { key, seq, stamp }))
    }
}

/// Writes ids one after another. The prefix that an id shares with the previous one is reused.
pub(super) struct IdText {
    ids: IdSpace,
    text: String,
    /// The meaning and the length of the prefix in `text`.
    beginning: Option<(Beginning, usize)>,
}

/// The prefix of the ids of a channel in one commit, or of a process.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Beginning {
    Log(ChannelKey, Stamp),
    Process(u32),
}

impl IdText {
    pub(super) fn new(ids: IdSpace) -> Self {
        Self { ids, text: String::new(), beginning: None }
    }

    /// The id as text.
    pub(super) fn of(&mut self, id: PushId) -> &str {
        let (beginning, number) = match id {
            PushId::Logged(LogPlace { key, seq, stamp }) => (Beginning::Log(key, stamp), seq.0),
            PushId::Memory { process, number } => (Beginning::Process(process), number),
        };
        match self.beginning {
            Some((written, length)) if written == beginning => self.text.truncate(length),
            _ => {
                self.text.clear();
                self.begin(beginning);
                self.beginning = Some((beginning, self.text.len()));
            }
        }
        push_hex(number, &mut self.text);
        &self.text
    }

    fn begin(&mut self, beginning: Beginning) {
        let text = &mut self.text;
        match beginning {
            // The old form without a stamp, for messages that were stored by earlier versions.
            Beginning::Log(_, Stamp::NONE) => push_hex(self.ids.epoch.0.into(), text),
            Beginning::Log(_, Stamp(stamp)) => {
                text.push('s');
                push_hex(stamp, text);
            }
            Beginning::Process(process) => {
                text.push('m');
                push_hex(process.into(), text);
            }
        }
        text.push('-');
        if let Beginning::Log(ChannelKey(key), _) = beginning {
            push_hex(key.cast_unsigned(), text);
            text.push('-');
        }
    }
}

/// Appends a number in hexadecimal digits. This is several times faster than `fmt`.
fn push_hex(number: u64, text: &mut String) {
    let digits = (u64::BITS - number.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        let digit = (number >> (4 * place)) & 0xf;
        text.push(char::from(b"0123456789abcdef"[digit as usize]));
    }
}

/// Parses hexadecimal digits as written by [`push_hex`], up to the end of the text.
fn hex(text: &[u8]) -> Option<u64> {
    match leading_hex(text)? {
        (number, []) => Some(number),
        _ => None,
    }
}

/// Parses hexadecimal digits and a dash, and returns what follows.
fn hex_and_dash(text: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = leading_hex(text)?;
    Some((number, rest.strip_prefix(b"-")?))
}

/// Parses 1 to 16 hexadecimal digits at the beginning of the text, and returns what follows.
fn leading_hex(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0;
    let mut length = 0;
    for &byte in text.iter().take(16) {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => break,
        };
        number = number << 4 | u64::from(digit);
        length += 1;
    }
    (length > 0).then(|| (number, &text[length..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_ids_are_parsed_and_foreign_ones_refused() {
        let ids = IdSpace::new(Epoch(0xbeef), 7);
        let mut text = IdText::new(ids);
        let logged = |stamp| PushId::Logged(LogPlace { key: ChannelKey(12), seq: Seq(3456), stamp });
        for id in [logged(Stamp::NONE), logged(Stamp(u64::MAX >> 1)), ids.in_memory(99)] {
            assert_eq!(ids.parse(text.of(id)), Some(id));
        }
        assert_ne!(
            IdSpace::new(Epoch(0xbeef), 8).parse(text.of(ids.in_memory(99))),
            Some(IdSpace::new(Epoch(0xbeef), 8).in_memory(99))
        );
        let without_stamp = text.of(logged(Stamp::NONE));
        assert_eq!(without_stamp, "beef-c-d80", "clients know it by this id");
        assert_eq!(IdSpace::new(Epoch(1), 7).parse(without_stamp), None);
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
            "s+1-1-1",
            "s10000000000000000-1-1",
        ] {
            assert_eq!(ids.parse(foreign), None, "{foreign}");
        }
    }

    #[test]
    fn an_id_does_not_depend_on_the_one_written_before() {
        let ids = IdSpace::new(Epoch(0xbeef), 7);
        let logged = |key, seq, stamp| {
            PushId::Logged(LogPlace { key: ChannelKey(key), seq: Seq(seq), stamp: Stamp(stamp) })
        };
        let mut texts = IdText::new(ids);
        for (id, expected) in [
            (logged(1, 9, 0xab), "sab-1-9"),
            (logged(1, 0x10, 0xab), "sab-1-10"),
            (logged(1, 0, 0xab), "sab-1-0"),
            (logged(2, 0, 0xab), "sab-2-0"),
            (logged(2, 1, 0xac), "sac-2-1"),
            (logged(2, 2, 0), "beef-2-2"),
            (ids.in_memory(0xf00), "m7-f00"),
            (ids.in_memory(0xf), "m7-f"),
            (logged(i64::MAX, u64::MAX, u64::MAX), "sffffffffffffffff-7fffffffffffffff-ffffffffffffffff"),
        ] {
            assert_eq!(texts.of(id), expected);
        }
    }
}
