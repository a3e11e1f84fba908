//! Payloads of MQTT as data of JMQT (`dt`) and back, without loss.
//!
//! A payload is any bytes, `dt` is a JSON value. A payload that is JSON is that value, other text is a JSON string, and
//! other bytes are `{"$b64":"…"}`. In the other direction a string becomes its characters: `"ON"` is `ON`, which is what
//! devices expect.
//!
//! Two payloads would have the same `dt`: the text `"ON"`, with its quotes, and the text `ON`. So a `dt` that is literally the
//! payload although it would be read otherwise is marked ([`Data::literal`]; `jt` in JMQT). With it nothing is lost but white
//! space around JSON.

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jmqt_core::Payload;
use jmqt_core::json::Lexer;

/// What a publisher says of its payload: the content type of MQTT 5 (3.3.2.3.9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Declared {
    /// Nothing, or something else than these three.
    #[default]
    Nothing,
    /// `text/plain`: text, although it may look like JSON.
    Text,
    /// `application/json`.
    Json,
    /// `application/octet-stream`: bytes, although they may look like text.
    Binary,
}

impl Declared {
    /// Reads a content type. Case and parameters do not matter.
    #[must_use]
    pub fn of(content_type: Option<&str>) -> Self {
        let name = content_type.and_then(|whole| whole.split(';').next()).unwrap_or_default().trim();
        [Self::Text, Self::Json, Self::Binary]
            .into_iter()
            .find(|declared| declared.content_type().is_some_and(|own| own.eq_ignore_ascii_case(name)))
            .unwrap_or_default()
    }

    /// The content type that says this.
    #[must_use]
    pub const fn content_type(self) -> Option<&'static str> {
        match self {
            Self::Nothing => None,
            Self::Text => Some("text/plain"),
            Self::Json => Some("application/json"),
            Self::Binary => Some("application/octet-stream"),
        }
    }
}

/// The data of a JMQT message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Data<'a> {
    /// `dt`: one JSON value.
    pub json: Cow<'a, str>,
    /// `jt`: the payload is literally this JSON text, although [`to_payload`] would read it otherwise.
    pub literal: bool,
}

/// The payload of an MQTT message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content<'a> {
    /// The payload.
    pub bytes: Cow<'a, [u8]>,
    /// What a receiver is told of it. A receiver that knows it makes the same data of it again.
    pub declared: Declared,
}

/// The data of a payload.
#[must_use]
pub fn to_data(payload: &[u8], declared: Declared) -> Data<'_> {
    let text = match std::str::from_utf8(payload) {
        Ok("") => return Data { json: Cow::Borrowed("\"\""), literal: false },
        Ok(text) if declared != Declared::Binary => text,
        _ => return Data { json: Cow::Owned(base64_object(payload)), literal: false },
    };
    let json = if declared == Declared::Text { None } else { Payload::parse(text).ok() };
    match json {
        Some(json) => Data { json: Cow::Borrowed(json.as_str()), literal: read(json).is_some() },
        None => Data { json: Cow::Owned(string(text)), literal: false },
    }
}

/// The payload of data; `literal` is `jt`.
#[must_use]
pub fn to_payload(json: Payload<'_>, literal: bool) -> Content<'_> {
    let special = if literal { None } else { read(json) };
    special.unwrap_or(Content { bytes: Cow::Borrowed(json.as_str().as_bytes()), declared: Declared::Json })
}

/// Whether `jt` makes a difference for this data: it is a string, or bytes in base64.
#[must_use]
pub fn is_read(json: Payload<'_>) -> bool {
    read(json).is_some()
}

/// What the data stands for, if it is not its own text: a string, or bytes in base64.
fn read(json: Payload<'_>) -> Option<Content<'_>> {
    let text = json.as_str();
    let mut lexer = Lexer::new(text);
    if text.starts_with('"') {
        // A string with a lone surrogate has no characters in UTF-8: it stays JSON.
        let characters = match lexer.value().ok()?.unescaped()? {
            Cow::Borrowed(characters) => Cow::Borrowed(characters.as_bytes()),
            Cow::Owned(characters) => Cow::Owned(characters.into_bytes()),
        };
        return Some(Content { bytes: characters, declared: Declared::Text });
    }
    if !lexer.eat(b'{') || lexer.eat(b'}') || lexer.key().ok()? != "$b64" || lexer.peek() != Some(b'"') {
        return None;
    }
    let encoded = lexer.value().ok()?.unescaped()?;
    if !lexer.eat(b'}') {
        return None;
    }
    // Only with padding, and without bits that nothing stands for: one text for each sequence of bytes.
    let bytes = STANDARD.decode(encoded.as_bytes()).ok()?;
    Some(Content { bytes: Cow::Owned(bytes), declared: Declared::Binary })
}

fn base64_object(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(11 + bytes.len().div_ceil(3) * 4);
    out.push_str("{\"$b64\":\"");
    STANDARD.encode_string(bytes, &mut out);
    out.push_str("\"}");
    out
}

/// Text as a JSON string.
fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    let mut copied = 0;
    for (at, byte) in text.bytes().enumerate() {
        let short = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0..=0x1F => "",
            _ => continue,
        };
        out.push_str(&text[copied..at]);
        out.push_str(short);
        if short.is_empty() {
            out.push_str(&format!("\\u{byte:04x}"));
        }
        copied = at + 1;
    }
    out.push_str(&text[copied..]);
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn data(payload: &[u8], declared: Declared) -> (String, bool) {
        let data = to_data(payload, declared);
        (data.json.into_owned(), data.literal)
    }

    fn payload(json: &str, literal: bool) -> (Vec<u8>, Declared) {
        let content = to_payload(Payload::parse(json).unwrap(), literal);
        (content.bytes.into_owned(), content.declared)
    }

    #[test]
    fn payloads_become_data() {
        use Declared::{Binary, Json, Nothing, Text};
        for (bytes, declared, json, literal) in [
            (&b"21.5"[..], Nothing, "21.5", false),
            (b" {\"a\": 1}\n", Nothing, "{\"a\": 1}", false),
            (b"ON", Nothing, "\"ON\"", false),
            (b"ON", Json, "\"ON\"", false),
            (b"\"ON\"", Nothing, "\"ON\"", true),
            (b"", Nothing, "\"\"", false),
            (b"", Binary, "\"\"", false),
            (b" ", Nothing, "\" \"", false),
            (b"21.5", Text, "\"21.5\"", false),
            (b"\"ON\"", Text, "\"\\\"ON\\\"\"", false),
            (b"21.5", Binary, "{\"$b64\":\"MjEuNQ==\"}", false),
            (b"\xFF\x00", Nothing, "{\"$b64\":\"/wA=\"}", false),
            (b"\xFF", Text, "{\"$b64\":\"/w==\"}", false),
            (b"{\"$b64\":\"/w==\"}", Nothing, "{\"$b64\":\"/w==\"}", true),
            (b"{\"$b64\":\"/x==\"}", Nothing, "{\"$b64\":\"/x==\"}", false), // not base64 as it is written
            (b"{\"$b64\":\"/w==\",\"a\":1}", Nothing, "{\"$b64\":\"/w==\",\"a\":1}", false),
            (b"{\"$b64\":1}", Nothing, "{\"$b64\":1}", false),
            ("a\n\u{1}é".as_bytes(), Nothing, "\"a\\n\\u0001é\"", false),
            (b"\"\\ud800\"", Nothing, "\"\\ud800\"", false), // no characters: it stays JSON both ways
        ] {
            assert_eq!(data(bytes, declared), (json.into(), literal), "{bytes:?} {declared:?}");
        }
        let deep = "[".repeat(129) + &"]".repeat(129);
        assert_eq!(data(deep.as_bytes(), Nothing), (format!("\"{deep}\""), false), "deeper than data may be");
    }

    #[test]
    fn data_becomes_payloads() {
        use Declared::{Binary, Json, Text};
        for (json, literal, bytes, declared) in [
            ("\"ON\"", false, &b"ON"[..], Text),
            ("\"ON\"", true, b"\"ON\"", Json),
            ("\"\\u004fN\\u0000\"", false, b"ON\0", Text),
            ("1.50", false, b"1.50", Json),
            ("{\"$b64\":\"/wA=\"}", false, b"\xFF\x00", Binary),
            ("{ \"\\u0024b64\" : \"/wA=\" }", false, b"\xFF\x00", Binary),
            ("{\"$b64\":\"/wA=\"}", true, b"{\"$b64\":\"/wA=\"}", Json),
            ("{\"$b64\":\"/wA\"}", false, b"{\"$b64\":\"/wA\"}", Json),
            ("{}", false, b"{}", Json),
            ("\"\\ud800\"", false, b"\"\\ud800\"", Json),
        ] {
            assert_eq!(payload(json, literal), (bytes.to_vec(), declared), "{json} {literal}");
        }
    }

    #[test]
    fn content_types_are_read_without_case_and_parameters() {
        assert_eq!(Declared::of(Some("Text/Plain; charset=utf-8")), Declared::Text);
        assert_eq!(Declared::of(Some("application/json")), Declared::Json);
        assert_eq!(Declared::of(Some("application/octet-stream")), Declared::Binary);
        assert_eq!(Declared::of(Some("text/html")), Declared::Nothing);
        assert_eq!((Declared::of(Some("")), Declared::of(None)), (Declared::Nothing, Declared::Nothing));
    }

    fn any_payload() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..12),
            r#"[ "\\{}\[\],:0-9.a-zé\x00-\x1f]{0,12}"#.prop_map(String::into_bytes),
            r#" ?("([a-z"]|\\u00[0-9a-f]{2}|\\ud[89]00|\\")*"|[0-9]{1,3}|true|\[1, ?2\]|\{"\$b64": ?"[A-Za-z0-9+/]{0,8}={0,2}"\}) ?"#
                .prop_map(String::into_bytes),
        ]
    }

    const ALL: [Declared; 4] = [Declared::Nothing, Declared::Text, Declared::Json, Declared::Binary];

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(8192))]

        #[test]
        fn every_payload_comes_back(bytes in any_payload(), declared in 0..4usize) {
            let data = to_data(&bytes, ALL[declared]);
            let json = Payload::parse(&data.json);
            prop_assert_eq!(json.map(Payload::as_str), Ok(&*data.json), "it is JSON, without space around it");
            let back = to_payload(Payload::parse(&data.json).unwrap(), data.literal);
            if back.declared == Declared::Json {
                let trimmed = bytes.trim_ascii();
                prop_assert_eq!(&*back.bytes, trimmed, "only space around JSON is lost");
            } else {
                prop_assert_eq!(&*back.bytes, &*bytes);
            }
        }

        #[test]
        fn data_survives_a_receiver_that_knows_its_kind(bytes in any_payload(), literal: bool) {
            let Ok(text) = String::from_utf8(bytes) else { return Ok(()) };
            let Ok(json) = Payload::parse(&text) else { return Ok(()) };
            // `jt` on what is literal anyway is left out.
            let literal = literal && read(json).is_some();
            let content = to_payload(json, literal);
            let back = to_data(&content.bytes, content.declared);
            if literal || content.declared == Declared::Json {
                prop_assert_eq!((&*back.json, back.literal), (json.as_str(), literal));
            } else {
                // Another spelling of the same string or bytes.
                let again = to_payload(Payload::parse(&back.json).unwrap(), back.literal);
                prop_assert!(!back.literal);
                prop_assert_eq!(&again.bytes, &content.bytes);
                prop_assert!(again.declared == content.declared || content.bytes.is_empty());
            }
        }
    }
}
