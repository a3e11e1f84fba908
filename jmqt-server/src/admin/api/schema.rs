//! The language in which the routes are described: what a request has, and what its answer has. Requests are checked by
//! it, and the OpenAPI document is made of it.

use std::collections::BTreeMap;
use std::fmt;

use hyper::StatusCode;
use jmqt_core::{ChannelName, ClientId, Payload};
use serde::Deserialize as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use crate::admin::answer::Refusal;

/// What a value is.
#[derive(Debug, Clone, Copy)]
pub(in crate::admin) enum Kind {
    /// The id of a client.
    Client,
    /// The name of a channel.
    Channel,
    /// Text of at most this many bytes.
    Text(usize),
    /// One of these words.
    Word(&'static [&'static str]),
    Integer(u64, u64),
    Switch,
    /// Any JSON value, kept as it is written.
    Json,
    /// An object with any members. Only in answers.
    Anything,
    Object(&'static [Field]),
    /// A list of at most this many objects.
    List(usize, &'static [Field]),
}

/// A member of a body or of an answer, or a parameter.
#[derive(Debug, Clone, Copy)]
pub(in crate::admin) struct Field {
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    pub(super) is_required: bool,
    pub(super) about: &'static str,
}

/// A field that every request, or every answer, has.
pub(super) const fn required(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { name, kind, is_required: true, about }
}

pub(super) const fn optional(name: &'static str, kind: Kind, about: &'static str) -> Field {
    Field { name, kind, is_required: false, about }
}

/// A checked value.
#[derive(Debug, Clone)]
enum Argument {
    Client(ClientId),
    Channel(ChannelName),
    Text(String),
    Integer(u64),
    Switch(bool),
    Json(Box<str>),
    List(Vec<Arguments>),
}

/// The checked values of a request.
#[derive(Debug, Clone, Default)]
pub(in crate::admin) struct Arguments(BTreeMap<&'static str, Argument>);

impl Arguments {
    pub(super) fn client(&self, name: &str) -> Result<&ClientId, Refusal> {
        match self.0.get(name) {
            Some(Argument::Client(client)) => Ok(client),
            _ => Err(missing(name)),
        }
    }

    pub(super) fn channel(&self, name: &str) -> Result<&ChannelName, Refusal> {
        match self.0.get(name) {
            Some(Argument::Channel(channel)) => Ok(channel),
            _ => Err(missing(name)),
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        match self.0.get(name)? {
            Argument::Text(text) => Some(text),
            Argument::Client(client) => Some(client.as_str()),
            Argument::Channel(channel) => Some(channel.as_str()),
            _ => None,
        }
    }

    pub(super) fn json(&self, name: &str) -> Option<&str> {
        match self.0.get(name)? {
            Argument::Json(text) => Some(text),
            _ => None,
        }
    }

    pub(super) fn integer(&self, name: &str, default: u64) -> u64 {
        match self.0.get(name) {
            Some(Argument::Integer(number)) => *number,
            _ => default,
        }
    }

    pub(super) fn is(&self, name: &str) -> bool {
        matches!(self.0.get(name), Some(Argument::Switch(true)))
    }

    pub(super) fn list(&self, name: &str) -> &[Self] {
        match self.0.get(name) {
            Some(Argument::List(list)) => list,
            _ => &[],
        }
    }
}

fn missing(name: &str) -> Refusal {
    refused("a value is missing", name.to_owned(), "a value")
}

pub(super) fn refused(
    what: impl Into<std::borrow::Cow<'static, str>>,
    place: impl Into<std::borrow::Cow<'static, str>>,
    expected: impl Into<std::borrow::Cow<'static, str>>,
) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, what, place, expected)
}

/// The members of an object, as they are written. A member that is there twice is a mistake.
struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;

        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut members: Vec<(String, &RawValue)> = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
                    if members.iter().any(|(other, _)| *other == name) {
                        return Err(serde::de::Error::custom(format_args!("duplicate member {name:?}")));
                    }
                    // No object has more members than this.
                    if members.len() >= 32 {
                        return Err(serde::de::Error::custom("too many members"));
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Reader)
    }
}

/// Checks a body.
pub(super) fn read_body(text: &str, fields: &'static [Field]) -> Result<Arguments, Refusal> {
    read_object(text, fields, "body")
}

fn read_object(text: &str, fields: &'static [Field], place: &str) -> Result<Arguments, Refusal> {
    let mut reader = serde_json::Deserializer::from_str(text);
    let members = Members::deserialize(&mut reader).and_then(|members| reader.end().map(|()| members));
    let members = members
        .map_err(|error| refused(format!("not one JSON object: {error}"), place.to_owned(), names(fields)))?;
    let mut arguments = BTreeMap::new();
    for (name, value) in members.0 {
        let at = format!("{place}.{}", shortened(&name));
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            return Err(refused("there is no such member", at, names(fields)));
        };
        if value.get() == "null" && !field.is_required {
            continue;
        }
        arguments.insert(field.name, read_value(value.get(), field, &at)?);
    }
    complete(arguments, fields, place)
}

/// Checks the parameters of a path.
pub(super) fn read_query(query: &str, fields: &'static [Field]) -> Result<Arguments, Refusal> {
    let mut arguments = BTreeMap::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let at = format!("parameter {}", shortened(name));
        let Some(field) = fields.iter().find(|field| field.name == name) else {
            return Err(refused("there is no such parameter", at, names(fields)));
        };
        let Some(text) = percent_decoded(value) else {
            return Err(refused("the value is not percent-encoded UTF-8", at, "such as %2F for a slash"));
        };
        let value = match field.kind {
            Kind::Integer(..) | Kind::Switch => read_value(&text, field, &at)?,
            _ => of_text(text, field, &at)?,
        };
        if arguments.insert(field.name, value).is_some() {
            return Err(refused("the parameter is there twice", at, "once"));
        }
    }
    complete(arguments, fields, "parameter")
}

fn complete(
    arguments: BTreeMap<&'static str, Argument>,
    fields: &'static [Field],
    place: &str,
) -> Result<Arguments, Refusal> {
    let separator = if place == "parameter" { " " } else { "." };
    match fields.iter().find(|field| field.is_required && !arguments.contains_key(field.name)) {
        Some(field) => {
            let at = format!("{place}{separator}{}", field.name);
            Err(refused("a required value is missing", at, expected(field)))
        }
        None => Ok(Arguments(arguments)),
    }
}

fn read_value(json: &str, field: &'static Field, place: &str) -> Result<Argument, Refusal> {
    let wrong = || refused("the value is wrong", place.to_owned(), expected(field));
    match field.kind {
        Kind::Integer(least, most) => {
            let number = serde_json::from_str::<u64>(json).map_err(|_| wrong())?;
            if (least..=most).contains(&number) { Ok(Argument::Integer(number)) } else { Err(wrong()) }
        }
        Kind::Switch => serde_json::from_str(json).map(Argument::Switch).map_err(|_| wrong()),
        Kind::Json => {
            Payload::parse(json).map_err(|_| wrong())?;
            Ok(Argument::Json(json.into()))
        }
        Kind::List(most, fields) => {
            let items: Vec<&RawValue> = serde_json::from_str(json).map_err(|_| wrong())?;
            if items.is_empty() || items.len() > most {
                return Err(wrong());
            }
            let read =
                |(at, item): (usize, &&RawValue)| read_object(item.get(), fields, &format!("{place}[{at}]"));
            items.iter().enumerate().map(read).collect::<Result<_, _>>().map(Argument::List)
        }
        Kind::Object(_) | Kind::Anything => Err(wrong()),
        Kind::Client | Kind::Channel | Kind::Text(_) | Kind::Word(_) => {
            of_text(serde_json::from_str(json).map_err(|_| wrong())?, field, place)
        }
    }
}

fn of_text(text: String, field: &'static Field, place: &str) -> Result<Argument, Refusal> {
    let wrong = || refused("the value is wrong", place.to_owned(), expected(field));
    match field.kind {
        Kind::Client => ClientId::parse(&text).map(Argument::Client).map_err(|_| wrong()),
        Kind::Channel => ChannelName::parse(&text).map(Argument::Channel).map_err(|_| wrong()),
        Kind::Text(most) if text.len() <= most => Ok(Argument::Text(text)),
        Kind::Word(words) if words.contains(&text.as_str()) => Ok(Argument::Text(text)),
        _ => Err(wrong()),
    }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                let digit = |digit: u8| char::from(digit).to_digit(16);
                u8::try_from(digit(digits[0])? * 16 + digit(digits[1])?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

/// A name that a client has sent, so that an answer is not as long as the request.
fn shortened(name: &str) -> String {
    name.chars().take(64).collect()
}

fn names(fields: &[Field]) -> String {
    match fields {
        [] => "none".to_owned(),
        _ => fields.iter().map(|field| field.name).collect::<Vec<_>>().join(", "),
    }
}

/// What a value must be, for people.
fn expected(field: &Field) -> String {
    match field.kind {
        Kind::Client => "a client id: 1 to 256 bytes without white space around them".to_owned(),
        Kind::Channel => "the name of a channel: 1 to 512 bytes".to_owned(),
        Kind::Text(most) => format!("text of at most {most} bytes"),
        Kind::Word(words) => format!("one of {}", words.join(", ")),
        Kind::Integer(least, most) => format!("an integer from {least} to {most}"),
        Kind::Switch => "true or false".to_owned(),
        Kind::Json => "a JSON value that is nested at most 128 deep".to_owned(),
        Kind::Object(_) | Kind::Anything => "an object".to_owned(),
        Kind::List(most, _) => format!("a list of 1 to {most} objects"),
    }
}

/// The schema of a value, for OpenAPI.
pub(super) fn schema(kind: Kind) -> Value {
    match kind {
        Kind::Client => json!({ "type": "string", "minLength": 1, "maxLength": 256 }),
        Kind::Channel => json!({ "type": "string", "minLength": 1, "maxLength": 512 }),
        Kind::Text(most) => json!({ "type": "string", "maxLength": most }),
        Kind::Word(words) => json!({ "type": "string", "enum": words }),
        Kind::Integer(least, u64::MAX) => json!({ "type": "integer", "minimum": least }),
        Kind::Integer(least, most) => json!({ "type": "integer", "minimum": least, "maximum": most }),
        Kind::Switch => json!({ "type": "boolean" }),
        Kind::Json => json!({}),
        Kind::Anything => json!({ "type": "object" }),
        Kind::Object(fields) => object(fields),
        Kind::List(most, fields) => json!({ "type": "array", "maxItems": most, "items": object(fields) }),
    }
}

/// The schema of an object with these members.
pub(super) fn object(fields: &[Field]) -> Value {
    let mut properties = Map::new();
    for field in fields {
        let mut described = schema(field.kind);
        described["description"] = field.about.into();
        properties.insert(field.name.to_owned(), described);
    }
    let required: Vec<&str> =
        fields.iter().filter(|field| field.is_required).map(|field| field.name).collect();
    let mut object = json!({ "type": "object", "properties": properties });
    if !required.is_empty() {
        object["required"] = required.into();
    }
    object
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIELDS: &[Field] = &[
        required("client", Kind::Client, "a"),
        optional("count", Kind::Integer(1, 9), "b"),
        optional("word", Kind::Word(&["one", "two"]), "c"),
        optional("data", Kind::Json, "d"),
        optional("on", Kind::Switch, "e"),
        optional("list", Kind::List(2, &[required("text", Kind::Text(3), "f")]), "g"),
    ];

    #[test]
    fn a_body_is_read_and_its_json_is_kept_as_it_is_written() {
        let body =
            r#"{"client":"alice","count":9,"word":"two","data":{"a": 1.50},"on":true,"list":[{"text":"x"}]}"#;
        let read = read_body(body, FIELDS).unwrap();
        assert_eq!(read.client("client").unwrap().as_str(), "alice");
        assert_eq!(
            (read.integer("count", 1), read.text("word"), read.json("data")),
            (9, Some("two"), Some(r#"{"a": 1.50}"#))
        );
        assert_eq!((read.is("on"), read.list("list")[0].text("text")), (true, Some("x")));
        assert_eq!(read_body(r#"{"client":"a","count":null}"#, FIELDS).unwrap().integer("count", 7), 7);
    }

    #[test]
    fn a_mistake_is_named_with_its_place_and_what_was_expected() {
        for (body, place) in [
            ("", "body"),
            ("[]", "body"),
            ("{} x", "body"),
            (r#"{"client":"a","client":"b"}"#, "body"),
            ("{}", "body.client"),
            (r#"{"client":""}"#, "body.client"),
            (r#"{"client":null}"#, "body.client"),
            (r#"{"client":"a","count":10}"#, "body.count"),
            (r#"{"client":"a","count":"1"}"#, "body.count"),
            (r#"{"client":"a","count":1.0}"#, "body.count"),
            (r#"{"client":"a","count":-1}"#, "body.count"),
            (r#"{"client":"a","word":"three"}"#, "body.word"),
            (r#"{"client":"a","on":1}"#, "body.on"),
            (r#"{"client":"a","cliant":1}"#, "body.cliant"),
            (r#"{"client":"a","list":[]}"#, "body.list"),
            (r#"{"client":"a","list":[{},{},{}]}"#, "body.list"),
            (r#"{"client":"a","list":[{"text":"x"},{"text":"long"}]}"#, "body.list[1].text"),
        ] {
            let refusal = read_body(body, FIELDS).unwrap_err();
            assert_eq!(
                (refusal.place.as_ref(), refusal.status.as_u16()),
                (place, 400),
                "{body}: {refusal:?}"
            );
            assert!(!refusal.expected.is_empty() && !refusal.what.is_empty());
        }
        let nested = format!("{{\"client\":\"a\",\"data\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(read_body(&nested, FIELDS).is_err(), "a JSON bomb");
        let many: String = (0..100).map(|at| format!("\"m{at}\":1,")).collect();
        assert!(read_body(&format!("{{{many}\"client\":\"a\"}}"), FIELDS).is_err());
    }

    #[test]
    fn parameters_are_decoded_and_checked() {
        let read = read_query("client=a%2Fb+c&count=3&on=true", FIELDS).unwrap();
        assert_eq!(
            (read.client("client").unwrap().as_str(), read.integer("count", 0), read.is("on")),
            ("a/b c", 3, true)
        );
        for wrong in [
            "",
            "client=%",
            "client=%2",
            "client=%GG",
            "client=%FF",
            "client=a&client=b",
            "client=a&x=1",
            "client=a&count=x",
            "client=a&on=1",
            "client=a&count=03",
        ] {
            assert!(read_query(wrong, FIELDS).is_err(), "{wrong}");
        }
    }
}
