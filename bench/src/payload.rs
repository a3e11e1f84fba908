//! The 128 bytes of data of every message, and how a receiver finds them without parsing.
//!
//! `~J~` + 8 digits stream + 8 digits sequence + filler + `.`. Plain ASCII without quotes, so that the
//! same bytes survive JSON and need no escaping there. A stream is one publisher on one channel.

use memchr::memmem;

/// Bytes of one payload, in every protocol.
pub(crate) const SIZE: usize = 128;

const MARKER: &[u8] = b"~J~";
const STREAM_AT: usize = 3;
const SEQUENCE_AT: usize = STREAM_AT + 8;
const FILLER_AT: usize = SEQUENCE_AT + 8;

/// Which message a delivery is: the publisher's stream, and its number there, from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Label {
    pub(crate) stream: u32,
    pub(crate) sequence: u32,
}

/// A payload that is written once and then only gets other digits.
pub(crate) struct Payload([u8; SIZE]);

impl Payload {
    pub(crate) fn new() -> Self {
        let mut bytes = [b'x'; SIZE];
        bytes[..MARKER.len()].copy_from_slice(MARKER);
        bytes[SIZE - 1] = b'.';
        Self(bytes)
    }

    /// The payload with this label's digits in place.
    pub(crate) fn labelled(&mut self, label: Label) -> &[u8; SIZE] {
        write_digits(&mut self.0[STREAM_AT..SEQUENCE_AT], label.stream);
        write_digits(&mut self.0[SEQUENCE_AT..FILLER_AT], label.sequence);
        &self.0
    }
}

/// Finds the payload in `packet` and reads its label. `hint` is where the last one began: packets of one
/// connection look alike, so the search is hardly ever needed.
pub(crate) fn read_label(packet: &[u8], hint: &mut usize) -> Option<Label> {
    if !packet.get(*hint..).is_some_and(|rest| rest.starts_with(MARKER)) {
        *hint = memmem::find(packet, MARKER)?;
    }
    let payload = packet.get(*hint..*hint + SIZE)?;
    if payload[SIZE - 1] != b'.' {
        return None;
    }
    Some(Label {
        stream: read_digits(&payload[STREAM_AT..SEQUENCE_AT])?,
        sequence: read_digits(&payload[SEQUENCE_AT..FILLER_AT])?,
    })
}

fn write_digits(place: &mut [u8], mut value: u32) {
    for digit in place.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// Eight ASCII digits at once: pairs, then fours, then all, by multiplication.
fn read_digits(digits: &[u8]) -> Option<u32> {
    let raw = u64::from_le_bytes(digits.try_into().ok()?);
    let mut value = raw.wrapping_sub(0x3030_3030_3030_3030);
    if (value | raw.wrapping_add(0x4646_4646_4646_4646)) & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    value = value.wrapping_mul(10).wrapping_add(value >> 8);
    let low = (value & 0x0000_00FF_0000_00FF).wrapping_mul(0x000F_4240_0000_0064);
    let high = ((value >> 16) & 0x0000_00FF_0000_00FF).wrapping_mul(0x0000_2710_0000_0001);
    Some((low.wrapping_add(high) >> 32) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LABEL: Label = Label { stream: 99_999, sequence: 12_345_678 };

    #[test]
    fn the_label_is_found_wherever_the_payload_is() {
        let mut payload = Payload::new();
        for prefix in ["", "{\"push\":{\"cn\":\"a\",\"dt\":\"", "MSG a 1 128\r\n"] {
            let packet = [prefix.as_bytes(), payload.labelled(LABEL), b"\"}}"].concat();
            let mut hint = 7;
            assert_eq!(read_label(&packet, &mut hint), Some(LABEL));
            assert_eq!(hint, prefix.len());
            assert_eq!(read_label(&packet, &mut hint), Some(LABEL));
        }
    }

    #[test]
    fn a_damaged_payload_has_no_label() {
        let mut payload = Payload::new();
        let whole = payload.labelled(LABEL).to_vec();
        let mut bad_digit = whole.clone();
        bad_digit[5] = b'a';
        let mut bad_end = whole.clone();
        bad_end[SIZE - 1] = b'x';
        for packet in [&whole[..SIZE - 1], &bad_digit, &bad_end, b"{}"] {
            assert_eq!(read_label(packet, &mut 0), None);
        }
    }

    #[test]
    fn written_digits_are_read_back() {
        let mut place = [0; 8];
        for value in [0, 9, 10, 4_711, 99_999_999] {
            write_digits(&mut place, value);
            assert_eq!(read_digits(&place), Some(value));
        }
    }
}
