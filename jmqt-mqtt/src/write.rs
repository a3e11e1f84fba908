//! Fields appended to the bytes of a packet (1.5).

use crate::error::{EncodeError, Violation};

/// The largest variable byte integer (1.5.5).
pub(crate) const MAX_VARIABLE: u32 = 268_435_455;

/// Appends a string with its length, and refuses what a receiver would refuse.
pub(crate) fn put_string(what: &'static str, string: &str, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    if memchr::memchr(0, string.as_bytes()).is_some() {
        return Err(Violation::NullCharacter.into());
    }
    put_binary(what, string.as_bytes(), out)
}

/// Appends binary data with its length.
pub(crate) fn put_binary(what: &'static str, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let length = u16::try_from(bytes.len()).map_err(|_| EncodeError::FieldTooLong(what))?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    Ok(())
}

/// Appends a variable byte integer, which is at most [`MAX_VARIABLE`], in its shortest form.
pub(crate) fn put_variable(mut value: u32, out: &mut Vec<u8>) {
    while value > 0x7F {
        out.push(value as u8 & 0x7F | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
