//! The `dt` of a message: JSON text that is passed on byte for byte (protocol.md 2.7).

use std::fmt;

use crate::json::Lexer;

/// The maximum nesting of arrays and objects in a payload (protocol.md 2.5).
pub const MAX_DEPTH: usize = 128;

/// One JSON value as text. It is never serialized again: numbers keep their digits, objects their key order, strings
/// their escapes (protocol.md 2.7).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Payload<'a>(&'a str);

/// The text is not exactly one JSON value, or is nested deeper than [`MAX_DEPTH`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a payload must be one JSON value, nested at most 128 deep")]
pub struct InvalidPayload;

impl<'a> Payload<'a> {
    /// The JSON `null`.
    pub const NULL: Self = Self("null");
    /// The JSON object without members.
    pub const EMPTY_OBJECT: Self = Self("{}");

    /// Validates that `text` is one JSON value, and removes surrounding white space.
    ///
    /// # Errors
    /// [`InvalidPayload`] if it is not, or is nested too deep.
    pub fn parse(text: &'a str) -> Result<Self, InvalidPayload> {
        let mut lexer = Lexer::new(text);
        let value = lexer.value().map_err(|_| InvalidPayload)?;
        lexer.end().map_err(|_| InvalidPayload)?;
        value.payload()
    }

    /// Wraps text that a lexer has found to be one JSON value within the depth limit.
    #[inline]
    pub(crate) const fn of_checked(text: &'a str) -> Self {
        Self(text)
    }

    /// The JSON text.
    #[must_use]
    #[inline]
    pub const fn as_str(self) -> &'a str {
        self.0
    }
}

/// A [`Payload`] that owns its text.
#[derive(Clone, PartialEq, Eq)]
pub struct PayloadBuf(String);

impl PayloadBuf {
    /// Converts a value to JSON text.
    ///
    /// # Errors
    /// The error of `serde_json` if JSON cannot represent the value, or the value is nested deeper than
    /// [`MAX_DEPTH`].
    pub fn json(value: &(impl serde::Serialize + ?Sized)) -> Result<Self, serde_json::Error> {
        Self::parse(serde_json::to_string(value)?).map_err(serde::ser::Error::custom)
    }

    /// Validates that `text` is one JSON value, and removes surrounding white space.
    ///
    /// # Errors
    /// [`InvalidPayload`] if it is not, or is nested too deep.
    pub fn parse(text: String) -> Result<Self, InvalidPayload> {
        let value = Payload::parse(&text)?;
        if value.0.len() < text.len() { Ok(value.into()) } else { Ok(Self(text)) }
    }

    /// A borrowed payload.
    #[must_use]
    pub fn as_payload(&self) -> Payload<'_> {
        Payload(&self.0)
    }

    /// The JSON text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Converts into the JSON text.
    #[must_use]
    pub fn into_string(self) -> String {
        self.0
    }
}

impl From<Payload<'_>> for PayloadBuf {
    fn from(payload: Payload<'_>) -> Self {
        Self(payload.0.to_owned())
    }
}

impl fmt::Debug for PayloadBuf {
    /// Shows only the length, because data must not be logged.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PayloadBuf({} bytes)", self.0.len())
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
    fn a_text_that_is_not_one_value_is_refused() {
        for bad in ["", "1 2", "{", "nul", "\"\u{1}\"", "01", "[1,]"] {
            assert_eq!(Payload::parse(bad), Err(InvalidPayload), "{bad:?}");
        }
    }

    #[test] // protocol.md 2.5, 2.7
    fn owned_text_is_checked_as_borrowed_text_is() {
        assert_eq!(PayloadBuf::parse(" [1] ".to_owned()).unwrap().as_str(), "[1]");
        assert_eq!(PayloadBuf::parse("7".to_owned()).unwrap().as_payload(), Payload("7"));
        assert_eq!(PayloadBuf::parse(r#"1},"cn":"#.to_owned()), Err(InvalidPayload));
        assert_eq!(PayloadBuf::json(&["a"]).unwrap().as_str(), r#"["a"]"#);
        let mut deep = serde_json::Value::Null;
        for _ in 0..129 {
            deep = serde_json::Value::Array(vec![deep]);
        }
        assert!(PayloadBuf::json(&deep).is_err());
    }

    #[test] // protocol.md 2.5
    fn depth_128_is_taken_and_129_is_not() {
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(Payload::parse(&nested(128)).is_ok());
        assert!(Payload::parse(&nested(129)).is_err());
    }
}
