//! The `dt` of a message: JSON text that passes through byte for byte (protocol.md 2.7).

use crate::json::Lexer;

/// How deep arrays and objects may nest in a payload (protocol.md 2.5).
pub const MAX_DEPTH: usize = 128;

/// One JSON value, as text, never re-serialised: numbers keep their digits, objects their key
/// order, strings their escapes (protocol.md 2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a>(&'a str);

/// The text is not exactly one JSON value, or nests deeper than [`MAX_DEPTH`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a payload is one JSON value, nested at most 128 deep")]
pub struct InvalidPayload;

impl<'a> Payload<'a> {
    /// The JSON `null`.
    pub const NULL: Self = Self("null");

    /// Checks that `text` is one JSON value. Surrounding white space is left out.
    ///
    /// # Errors
    /// [`InvalidPayload`] if it is anything else, or nested too deep.
    pub fn parse(text: &'a str) -> Result<Self, InvalidPayload> {
        let mut lexer = Lexer::new(text);
        let value = lexer.value().map_err(|_| InvalidPayload)?;
        lexer.end().map_err(|_| InvalidPayload)?;
        value.payload()
    }

    /// What a lexer has found to be one JSON value that is not nested too deep.
    #[inline]
    pub(crate) const fn of_checked(text: &'a str) -> Self {
        Self(text)
    }

    /// A value that has been checked before: by the decoder, or before it was stored.
    #[must_use]
    pub const fn trust(text: &'a str) -> Self {
        Self(text)
    }

    /// The JSON text.
    #[must_use]
    #[inline]
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test] // protocol.md 2.7
    fn text_is_kept_as_it_was_written() {
        let text = r#"{"b":1.50,"a":1e400,"s":"\u00e9\/"}"#;
        assert_eq!(Payload::parse(text).unwrap().as_str(), text);
        assert_eq!(Payload::parse(" 7 ").unwrap().as_str(), "7");
    }

    #[test] // protocol.md 2.5
    fn what_is_not_one_value_is_refused() {
        for bad in ["", "1 2", "{", "nul", "\"\u{1}\"", "01", "[1,]"] {
            assert_eq!(Payload::parse(bad), Err(InvalidPayload), "{bad:?}");
        }
    }

    #[test] // protocol.md 2.5
    fn depth_128_is_taken_and_129_is_not() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Payload::parse(&nested(128)).is_ok());
        assert!(Payload::parse(&nested(129)).is_err());
    }
}
