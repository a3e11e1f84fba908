//! A lexer that splits JSON text without building values.
//!
//! It accepts exactly the grammar of RFC 8259, as `serde_json` does; a property test compares both. A server reads
//! millions of small packets, whose payload it must validate but never read. Scanning the text many bytes at a time costs
//! less than a quarter of deserializing it into a `RawValue`.

use std::borrow::Cow;

use memchr::memchr2;

use crate::{InvalidPayload, MAX_DEPTH, Payload};

/// The text is not JSON; `.0` describes the error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotJson(pub &'static str);

/// One JSON value as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Raw<'a> {
    text: &'a str,
    depth: u32,
    /// The value is a string with escapes.
    escaped: bool,
}

impl<'a> Raw<'a> {
    /// The text of the value without surrounding white space.
    #[must_use]
    #[inline]
    pub const fn text(self) -> &'a str {
        self.text
    }

    /// The value as a payload. Only a lexer creates a `Raw`, so only the depth is checked.
    ///
    /// # Errors
    /// [`InvalidPayload`] if the value is nested deeper than [`MAX_DEPTH`].
    #[inline]
    pub fn payload(self) -> Result<Payload<'a>, InvalidPayload> {
        if self.depth as usize > MAX_DEPTH {
            return Err(InvalidPayload);
        }
        Ok(Payload::of_checked(self.text))
    }

    /// The content of a string; `None` if it has a lone surrogate escape.
    #[must_use]
    #[inline]
    pub fn unescaped(self) -> Option<Cow<'a, str>> {
        if self.escaped {
            return serde_json::from_str(self.text).ok().map(Cow::Owned);
        }
        Some(Cow::Borrowed(&self.text[1..self.text.len() - 1]))
    }
}

/// A position in JSON text.
pub struct Lexer<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Lexer<'a> {
    /// A lexer at the beginning of this text.
    #[must_use]
    #[inline]
    pub const fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Peeks at the next byte that is not white space.
    #[inline]
    pub fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        while let Some(&byte) = bytes.get(self.at) {
            if !matches!(byte, b' ' | b'\n' | b'\r' | b'\t') {
                return Some(byte);
            }
            self.at += 1;
        }
        None
    }

    /// Skips `byte` if it is next, and returns whether it was.
    #[inline]
    pub fn eat(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    /// Skips `byte`, which the grammar requires here.
    ///
    /// # Errors
    /// `missing` if another byte is next.
    #[inline]
    pub fn expect(&mut self, byte: u8, missing: &'static str) -> Result<(), NotJson> {
        if self.eat(byte) { Ok(()) } else { Err(NotJson(missing)) }
    }

    /// Checks that only white space is left.
    ///
    /// # Errors
    /// More text follows.
    #[inline]
    pub fn end(&mut self) -> Result<(), NotJson> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(NotJson("text after the JSON value")),
        }
    }

    /// Reads an object key of two letters with its colon, in the usual notation. Returns `None` and reads nothing if
    /// another notation is used. This avoids [`key`](Self::key) for most keys.
    #[inline]
    pub fn short_key(&mut self) -> Option<[u8; 2]> {
        match self.text.as_bytes().get(self.at..self.at + 5) {
            Some(&[b'"', first @ b'a'..=b'z', second @ b'a'..=b'z', b'"', b':']) => {
                self.at += 5;
                Some([first, second])
            }
            _ => None,
        }
    }

    /// Skips `text` if it is next, to the letter, and returns whether it was.
    #[inline]
    pub fn eat_text(&mut self, text: &str) -> bool {
        let found = self.text.as_bytes()[self.at..].starts_with(text.as_bytes());
        self.at += if found { text.len() } else { 0 };
        found
    }

    /// Reads an object key and its colon.
    ///
    /// # Errors
    /// The text is not a key with a colon.
    #[inline]
    pub fn key(&mut self) -> Result<Cow<'a, str>, NotJson> {
        if self.peek() != Some(b'"') {
            return Err(NotJson("missing key in an object"));
        }
        let raw = self.string()?;
        let key = raw.unescaped().ok_or(NotJson("lone surrogate in an object key"))?;
        self.expect(b':', "missing colon after an object key")?;
        Ok(key)
    }

    /// Reads one value of any type.
    ///
    /// # Errors
    /// The text is not a JSON value.
    #[inline]
    pub fn value(&mut self) -> Result<Raw<'a>, NotJson> {
        let first = self.peek();
        let start = self.at;
        let depth = match first {
            Some(b'"') => return self.string(),
            Some(b'{' | b'[') => self.container()?,
            _ => {
                self.scalar()?;
                0
            }
        };
        Ok(Raw { text: &self.text[start..self.at], depth, escaped: false })
    }

    /// Reads a string, quotes included. The next byte is its opening quote.
    #[inline]
    fn string(&mut self) -> Result<Raw<'a>, NotJson> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        let mut at = start + 1;
        let mut escaped = false;
        loop {
            at = skip_plain(bytes, at);
            match bytes.get(at) {
                Some(b'"') => break,
                Some(b'\\') => {
                    at = skip_escape(bytes, at)?;
                    escaped = true;
                }
                Some(_) => return Err(NotJson("control character in a string")),
                None => return Err(NotJson("unterminated string")),
            }
        }
        self.at = at + 1;
        Ok(Raw { text: &self.text[start..self.at], depth: 0, escaped })
    }

    /// Reads a number, `true`, `false` or `null`.
    fn scalar(&mut self) -> Result<(), NotJson> {
        let rest = &self.text.as_bytes()[self.at..];
        let length = match rest.first() {
            Some(b't') if rest.starts_with(b"true") => 4,
            Some(b'f') if rest.starts_with(b"false") => 5,
            Some(b'n') if rest.starts_with(b"null") => 4,
            Some(b'-' | b'0'..=b'9') => number_length(rest)?,
            Some(_) => return Err(NotJson("unexpected character at the beginning of a value")),
            None => return Err(NotJson("missing value")),
        };
        self.at += length;
        Ok(())
    }

    /// Reads an array or object of any depth and returns its depth. It is not recursive, because a million `[` must
    /// not overflow the stack.
    fn container(&mut self) -> Result<u32, NotJson> {
        let mut open = OpenContainers::default();
        let mut deepest = 0;
        loop {
            // A value is expected here.
            match self.peek() {
                Some(b'[') => {
                    self.at += 1;
                    open.push(false);
                    deepest = deepest.max(u32::try_from(open.depth).unwrap_or(u32::MAX));
                    if !self.eat(b']') {
                        continue;
                    }
                    open.pop();
                }
                Some(b'{') => {
                    self.at += 1;
                    open.push(true);
                    deepest = deepest.max(u32::try_from(open.depth).unwrap_or(u32::MAX));
                    if !self.eat(b'}') {
                        self.member_name()?;
                        continue;
                    }
                    open.pop();
                }
                Some(b'"') => {
                    self.string()?;
                }
                _ => self.scalar()?,
            }
            // Here a value has ended.
            loop {
                if open.depth == 0 {
                    return Ok(deepest);
                }
                let in_object = open.innermost_is_object();
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if in_object {
                            self.member_name()?;
                        }
                        break;
                    }
                    Some(b'}') if in_object => self.at += 1,
                    Some(b']') if !in_object => self.at += 1,
                    Some(_) => return Err(NotJson("missing comma or closing bracket")),
                    None => return Err(NotJson("unterminated array or object")),
                }
                open.pop();
            }
        }
    }

    fn member_name(&mut self) -> Result<(), NotJson> {
        if self.peek() != Some(b'"') {
            return Err(NotJson("missing key in an object"));
        }
        self.string()?;
        self.expect(b':', "missing colon after an object key")
    }
}

/// Tells which open containers are objects: one bit each, on the heap only beyond 64.
#[derive(Default)]
struct OpenContainers {
    depth: usize,
    innermost: u64,
    outer: Vec<u64>,
}

impl OpenContainers {
    fn push(&mut self, object: bool) {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.innermost);
        }
        self.innermost = self.innermost << 1 | u64::from(object);
        self.depth += 1;
    }

    fn pop(&mut self) {
        self.depth -= 1;
        self.innermost >>= 1;
        if self.depth > 0
            && self.depth.is_multiple_of(64)
            && let Some(word) = self.outer.pop()
        {
            self.innermost = word;
        }
    }

    fn innermost_is_object(&self) -> bool {
        self.innermost & 1 == 1
    }
}

/// The first position at or after `at` with a quote, a backslash or a control character, or the end.
fn skip_plain(bytes: &[u8], at: usize) -> usize {
    // Most strings are short keys and names, which the first steps end; the long ones are payloads.
    special_in_word(bytes, at).or_else(|| special_in_word(bytes, at + 8)).unwrap_or_else(|| {
        let rest = &bytes[at + 16..];
        let plain = &rest[..memchr2(b'"', b'\\', rest).unwrap_or(rest.len())];
        let length = match has_control(plain) {
            true => plain.iter().take_while(|&&byte| byte >= 0x20).count(),
            false => plain.len(),
        };
        at + 16 + length
    })
}

/// Whether there is a control character.
fn has_control(text: &[u8]) -> bool {
    // Without a branch, so that the compiler compares sixteen bytes at a time.
    let lowest = |bytes: &[u8; 32]| bytes.iter().fold(u8::MAX, |lowest, &byte| lowest.min(byte));
    match text.last_chunk::<32>() {
        Some(last) => {
            lowest(last) < 0x20 || text.as_chunks::<32>().0.iter().any(|chunk| lowest(chunk) < 0x20)
        }
        None => text.iter().any(|&byte| byte < 0x20),
    }
}

/// Finds the end of a string's plain part in the next eight bytes, or in the rest of the text.
fn special_in_word(bytes: &[u8], at: usize) -> Option<usize> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let Some(chunk) = bytes.get(at..at + 8) else {
        let rest = bytes.get(at..).unwrap_or_default();
        let length = rest.iter().take_while(|&&byte| !is_special(byte)).count();
        return Some(at + length);
    };
    let has_zero = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let word = u64::from_le_bytes(chunk.try_into().expect("the slice is eight bytes long"));
    let quote = has_zero(word ^ (ONES * b'"' as u64));
    let backslash = has_zero(word ^ (ONES * b'\\' as u64));
    let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
    let stop = quote | backslash | control;
    // The lowest flagged byte is a true one; only bytes above it may be false alarms.
    (stop != 0).then(|| at + stop.trailing_zeros() as usize / 8)
}

fn is_special(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < 0x20)
}

/// The position after the escape sequence at `at`.
fn skip_escape(bytes: &[u8], at: usize) -> Result<usize, NotJson> {
    match bytes.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => match bytes.get(at + 2..at + 6) {
            Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => Ok(at + 6),
            _ => Err(NotJson("`\\u` is not followed by four hexadecimal digits")),
        },
        _ => Err(NotJson("unknown escape in a string")),
    }
}

/// The length of the number at the start of `rest`.
fn number_length(rest: &[u8]) -> Result<usize, NotJson> {
    let digits = |from: usize| rest[from..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let some_digits = |from: usize| match digits(from) {
        0 => Err(NotJson("number without digits")),
        count => Ok(count),
    };
    let mut at = usize::from(rest.first() == Some(&b'-'));
    let whole = some_digits(at)?;
    if whole > 1 && rest[at] == b'0' {
        return Err(NotJson("number with a leading 0"));
    }
    at += whole;
    if rest.get(at) == Some(&b'.') {
        at += 1 + some_digits(at + 1)?;
    }
    if matches!(rest.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(rest.get(at), Some(b'+' | b'-')));
        at += some_digits(at)?;
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn accepts(text: &str) -> bool {
        let mut lexer = Lexer::new(text);
        lexer.value().and_then(|_| lexer.end()).is_ok()
    }

    /// `serde_json` scans a raw value without unescaping its strings, as the lexer does.
    fn serde_accepts(text: &str) -> bool {
        serde_json::from_str::<&serde_json::value::RawValue>(text).is_ok()
    }

    #[test]
    fn exactly_the_values_of_json_are_accepted() {
        for text in [
            "0",
            "-0.5e+9",
            "1E5",
            "\"\"",
            "[]",
            "{}",
            "[[],{}]",
            "{\"a\":[1,{\"b\":null}]}",
            " true ",
            "\"\\u0000\\ud800\"",
            "-",
            "1.",
            "01",
            "+1",
            ".5",
            "1e",
            "tru",
            "nulll",
            "[1,]",
            "{,}",
            "[}",
            "{]",
            "{\"a\"}",
            "{\"a\":}",
            "{a:1}",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\n\"",
            "\"",
            "",
            "[1 2]",
            "{\"a\":1 \"b\":2}",
        ] {
            assert_eq!(accepts(text), serde_accepts(text), "{text}");
        }
    }

    #[test]
    fn depth_counts_open_containers() {
        let depth = |text: &str| Lexer::new(text).value().unwrap().depth;
        assert_eq!(depth("1"), 0);
        assert_eq!(depth("[]"), 1);
        assert_eq!(depth("[[],[{\"a\":[]}]]"), 4);
        let nested = "[{\"a\":".repeat(500) + "0" + &"}]".repeat(500);
        assert_eq!(depth(&nested), 1000);
        assert!(!accepts(&nested.replace("}]}]", "}]]}")));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4096))]

        #[test]
        fn agrees_with_serde_json_on_json_like_text(text in r#"([\[\]{},:"\\/ \n0-9eE.+-]|true|null|"a"|\\u00[0-9a-g]{2}|\x01|é|abcdefgh){0,24}"#) {
            prop_assert_eq!(accepts(&text), serde_accepts(&text), "{}", text);
        }

        #[test]
        fn agrees_with_serde_json_on_strings(inner in r#"([a-z]{0,9}|\\["\\bfnrtux]|\\u[0-9a-f]{4}|"|[\x00-\x22]|é|😀){0,6}"#) {
            let text = format!("\"{inner}\"");
            prop_assert_eq!(accepts(&text), serde_accepts(&text), "{}", text);
        }
    }
}
