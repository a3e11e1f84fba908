//! Packet text to [`Packet`]: lenient in what it takes, exact in what it says of the rest (2.5, 2.6).

use std::borrow::Cow;

use jmqt_core::json::{Lexer, NotJson, Raw};
use jmqt_core::{DisconnectCode, MAX_DEPTH, Payload, Persistence, Qos, Retain, StatusCode};

use crate::packet::{
    Auth, AuthAck, AuthOutcome, Conn, ConnAck, Disconn, Packet, PacketType, Pub, PubAck, Push, PushAck, Sub,
    SubAck, Unsub, UnsubAck,
};

/// Why a text is not a packet.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not one JSON object with one known member. Nothing to answer: drop, count, log (2.5).
    #[error("not a JMQT packet: {reason}")]
    NotAPacket {
        /// What was wrong with it.
        reason: &'static str,
    },
    /// Known type, unusable value or field. Answered with status 10 and the `id` or `cn` that could
    /// be read (2.5).
    #[error("{kind} packet: {problem}")]
    BadField {
        /// The packet type, which is known.
        kind: PacketType,
        /// Which field, and what was expected of it.
        problem: String,
        /// What can be given back in the answer.
        echo: Echo,
    },
}

/// What could be read of a packet that was otherwise unusable (2.5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Echo {
    /// `id`.
    pub id: Option<String>,
    /// `cn`, trimmed.
    pub channel: Option<String>,
    /// `q`; QoS 0 if it could not be read.
    pub qos: Qos,
    /// `wc`; `false` if it could not be read.
    pub is_filter: bool,
}

impl From<NotJson> for DecodeError {
    fn from(error: NotJson) -> Self {
        Self::NotAPacket { reason: error.0 }
    }
}

/// Reads one packet (§7). Nothing is copied but strings with escapes.
///
/// # Errors
/// [`DecodeError::NotAPacket`] for what has no type, [`DecodeError::BadField`] for what has one.
pub fn decode(text: &str) -> Result<Packet<'_>, DecodeError> {
    let mut lexer = Lexer::new(text);
    // What most packets of clients begin with.
    let kind = if lexer.eat_text("{\"pub\":") {
        Some(PacketType::Pub)
    } else if lexer.eat_text("{\"pushAck\":") {
        Some(PacketType::PushAck)
    } else {
        read_type(&mut lexer)?
    };
    // Filled in place: it is large, and this is done for every packet.
    let mut fields = Fields { raw: [None; FIELDS], repeated: 0 };
    let is_object = lexer.peek() == Some(b'{');
    if is_object && kind.is_some() {
        fields.read(&mut lexer)?;
    } else {
        lexer.value()?;
    }
    if lexer.eat(b',') {
        return Err(DecodeError::NotAPacket { reason: "the object has more than one member" });
    }
    lexer.expect(b'}', "the object does not end")?;
    lexer.end()?;

    let Some(kind) = kind else {
        return Err(DecodeError::NotAPacket { reason: "unknown packet type" });
    };
    if !is_object {
        return Err(DecodeError::BadField {
            kind,
            problem: "the value must be an object".to_owned(),
            echo: Echo::default(),
        });
    }
    fields.packet(kind).map_err(|problem| DecodeError::BadField { kind, problem, echo: fields.echo() })
}

/// Reads the beginning of a packet: its brace, and its only key, which is the type; `None` if that is unknown.
fn read_type(lexer: &mut Lexer<'_>) -> Result<Option<PacketType>, DecodeError> {
    lexer.expect(b'{', "it is not an object")?;
    if lexer.eat(b'}') {
        return Err(DecodeError::NotAPacket { reason: "the object is empty" });
    }
    Ok(PacketType::from_key(&lexer.key()?))
}

/// The fifteen fields, in an order of our own.
#[derive(Clone, Copy)]
enum Field {
    Data,
    Status,
    Timeout,
    Token,
    Channel,
    Persistent,
    Message,
    Id,
    Client,
    Retain,
    Qos,
    Window,
    Publisher,
    Filter,
    Literal,
}

const FIELDS: usize = 15;

impl Field {
    fn from_key(key: &str) -> Option<Self> {
        match key.as_bytes() {
            b"q" => Some(Self::Qos),
            &[first, second] => Self::from_short_key([first, second]),
            _ => None,
        }
    }

    fn from_short_key(key: [u8; 2]) -> Option<Self> {
        Some(match &key {
            b"cn" => Self::Channel,
            b"dt" => Self::Data,
            b"id" => Self::Id,
            b"rt" => Self::Retain,
            b"pr" => Self::Persistent,
            b"st" => Self::Status,
            b"cl" => Self::Client,
            b"at" => Self::Token,
            b"ts" => Self::Timeout,
            b"mg" => Self::Message,
            b"wn" => Self::Window,
            b"pi" => Self::Publisher,
            b"wc" => Self::Filter,
            b"jt" => Self::Literal,
            _ => return None,
        })
    }

    const fn key(self) -> &'static str {
        match self {
            Self::Data => "dt",
            Self::Status => "st",
            Self::Timeout => "ts",
            Self::Token => "at",
            Self::Channel => "cn",
            Self::Persistent => "pr",
            Self::Message => "mg",
            Self::Id => "id",
            Self::Client => "cl",
            Self::Retain => "rt",
            Self::Qos => "q",
            Self::Window => "wn",
            Self::Publisher => "pi",
            Self::Filter => "wc",
            Self::Literal => "jt",
        }
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// What a packet of this type has; everything else in it is ignored (2.6).
const fn fields_of(kind: PacketType) -> u16 {
    use Field::{
        Channel, Client, Data, Filter, Id, Literal, Message, Persistent, Publisher, Qos, Retain, Status,
        Timeout, Token, Window,
    };
    match kind {
        PacketType::Auth => Data.bit(),
        PacketType::AuthAck => Status.bit() | Token.bit() | Client.bit() | Message.bit(),
        PacketType::Conn => Token.bit() | Client.bit() | Window.bit() | Publisher.bit(),
        PacketType::ConnAck => Status.bit() | Timeout.bit() | Publisher.bit(),
        PacketType::Hb | PacketType::HbAck => 0,
        PacketType::Disconn => Status.bit() | Message.bit() | Timeout.bit(),
        PacketType::Sub => Channel.bit() | Persistent.bit() | Filter.bit(),
        PacketType::SubAck | PacketType::UnsubAck => Status.bit() | Channel.bit() | Filter.bit(),
        PacketType::Unsub => Channel.bit() | Filter.bit(),
        PacketType::Pub => Channel.bit() | Data.bit() | Literal.bit() | Qos.bit() | Id.bit() | Retain.bit(),
        PacketType::PubAck => Status.bit() | Id.bit() | Data.bit(),
        PacketType::Push => {
            Channel.bit() | Data.bit() | Literal.bit() | Client.bit() | Qos.bit() | Id.bit() | Retain.bit()
        }
        PacketType::PushAck => Id.bit() | Status.bit(),
    }
}

type Problem = String;

/// The members of a packet's value, by field, as written in the text.
struct Fields<'a> {
    raw: [Option<Raw<'a>>; FIELDS],
    repeated: u16,
}

impl<'a> Fields<'a> {
    /// The next byte is the opening brace.
    fn read(&mut self, lexer: &mut Lexer<'a>) -> Result<(), NotJson> {
        lexer.expect(b'{', "it is not an object")?;
        if lexer.eat(b'}') {
            return Ok(());
        }
        loop {
            let field = match lexer.short_key() {
                Some(key) => Field::from_short_key(key),
                None => Field::from_key(&lexer.key()?),
            };
            let value = lexer.value()?;
            if let Some(field) = field {
                let slot = &mut self.raw[field as usize];
                if slot.is_some() {
                    self.repeated |= field.bit();
                } else {
                    *slot = Some(value);
                }
            }
            if !lexer.eat(b',') {
                return lexer.expect(b'}', "a comma or a closing brace is missing");
            }
        }
    }

    fn packet(&self, kind: PacketType) -> Result<Packet<'a>, Problem> {
        use Field::{
            Channel, Client, Data, Filter, Id, Literal, Message, Persistent, Publisher, Retain as Retained,
            Timeout, Token,
        };
        self.refuse_repeats(kind)?;
        Ok(match kind {
            PacketType::Auth => Packet::Auth(Auth { data: required(Data, self.payload()?)? }),
            PacketType::AuthAck => {
                let status = self.required_status()?;
                let outcome = if status.is_ok() {
                    AuthOutcome::Granted {
                        token: required(Token, self.string(Token)?)?,
                        client: required(Client, self.string(Client)?)?,
                    }
                } else {
                    AuthOutcome::Refused { status, message: self.string(Message)?.unwrap_or_default() }
                };
                Packet::AuthAck(AuthAck { outcome })
            }
            PacketType::Conn => Packet::Conn(Conn {
                token: required(Token, self.string(Token)?)?,
                client: required(Client, self.string(Client)?)?,
                window: self.window()?,
                publisher: self.string(Publisher)?,
            }),
            PacketType::ConnAck => Packet::ConnAck(ConnAck {
                status: self.required_status()?,
                timeout_seconds: self.integer(Timeout)?,
                remembers_publishes: self.flag(Publisher)?,
            }),
            PacketType::Hb => Packet::Hb,
            PacketType::HbAck => Packet::HbAck,
            PacketType::Sub => Packet::Sub(Sub {
                channel: required(Channel, self.string(Channel)?)?,
                persistence: match self.flag(Persistent)? {
                    true => Persistence::Persistent,
                    false => Persistence::Temporary,
                },
                is_filter: self.flag(Filter)?,
            }),
            PacketType::SubAck => Packet::SubAck(SubAck {
                status: self.required_status()?,
                channel: self.string(Channel)?,
                is_filter: self.flag(Filter)?,
            }),
            PacketType::Unsub => Packet::Unsub(Unsub {
                channel: required(Channel, self.string(Channel)?)?,
                is_filter: self.flag(Filter)?,
            }),
            PacketType::UnsubAck => Packet::UnsubAck(UnsubAck {
                status: self.required_status()?,
                channel: self.string(Channel)?,
                is_filter: self.flag(Filter)?,
            }),
            PacketType::Pub => {
                let channel = required(Channel, self.string(Channel)?)?;
                let data = self.payload()?;
                if data.is_none() && !channel.trim_start().starts_with('$') {
                    return Err(missing(Data));
                }
                Packet::Pub(Pub {
                    channel,
                    data,
                    is_literal: self.flag(Literal)?,
                    qos: self.qos()?,
                    retain: self.retain(Retained)?,
                    id: self.id()?,
                })
            }
            PacketType::PubAck => Packet::PubAck(PubAck {
                status: self.required_status()?,
                id: self.id()?,
                data: self.payload()?,
            }),
            PacketType::Push => Packet::Push(Push {
                channel: required(Channel, self.string(Channel)?)?,
                data: required(Data, self.payload()?)?,
                is_literal: self.flag(Literal)?,
                client: self.string(Client)?.unwrap_or_default(),
                qos: self.qos()?,
                id: self.id()?,
                retain: self.retain(Retained)?,
            }),
            PacketType::PushAck => {
                Packet::PushAck(PushAck { id: required(Id, self.id()?)?, status: self.status()? })
            }
            PacketType::Disconn => Packet::Disconn(Disconn {
                code: self.integer(Field::Status)?.map(DisconnectCode::new),
                message: self.string(Message)?,
                retry_after_seconds: self.integer(Timeout)?,
            }),
        })
    }

    fn refuse_repeats(&self, kind: PacketType) -> Result<(), Problem> {
        let repeated = self.repeated & fields_of(kind);
        if repeated == 0 {
            return Ok(());
        }
        let keys = ["dt", "st", "ts", "at", "cn", "pr", "mg", "id", "cl", "rt", "q", "wn", "pi", "wc", "jt"];
        Err(format!("duplicate field `{}`", keys[repeated.trailing_zeros() as usize]))
    }

    fn echo(&self) -> Echo {
        let string = |field| self.string(field).ok().flatten();
        Echo {
            id: self.id().ok().flatten().map(Cow::into_owned),
            channel: string(Field::Channel).map(|name| name.trim().to_owned()),
            qos: self.qos().unwrap_or_default(),
            is_filter: self.flag(Field::Filter).unwrap_or_default(),
        }
    }

    /// The field's text, unless it is absent or, which is the same, `null` (2.6).
    fn text(&self, field: Field) -> Option<&'a str> {
        self.raw[field as usize].map(|raw| raw.text()).filter(|text| *text != "null")
    }

    fn string(&self, field: Field) -> Result<Option<Cow<'a, str>>, Problem> {
        match self.raw[field as usize] {
            Some(raw) if raw.text().starts_with('"') => match raw.unescaped() {
                Some(string) => Ok(Some(string)),
                None => Err(format!("field `{}` contains a lone surrogate", field.key())),
            },
            Some(raw) if raw.text() != "null" => Err(wrong(field, "a string")),
            _ => Ok(None),
        }
    }

    /// A string, or a number taken as it is written (2.6).
    fn id(&self) -> Result<Option<Cow<'a, str>>, Problem> {
        match self.text(Field::Id) {
            Some(number) if number.starts_with(|first: char| first == '-' || first.is_ascii_digit()) => {
                Ok(Some(Cow::Borrowed(number)))
            }
            Some(text) if !text.starts_with('"') => Err(wrong(Field::Id, "a string or a number")),
            _ => self.string(Field::Id),
        }
    }

    fn flag(&self, field: Field) -> Result<bool, Problem> {
        match self.text(field) {
            None | Some("0" | "false" | "\"0\"") => Ok(false),
            Some("1" | "true" | "\"1\"") => Ok(true),
            Some(_) => Err(wrong(field, "0 or 1")),
        }
    }

    fn qos(&self) -> Result<Qos, Problem> {
        Ok(if self.flag(Field::Qos)? { Qos::AtLeastOnce } else { Qos::AtMostOnce })
    }

    fn retain(&self, field: Field) -> Result<Retain, Problem> {
        Ok(if self.flag(field)? { Retain::Yes } else { Retain::No })
    }

    fn integer<T: std::str::FromStr>(&self, field: Field) -> Result<Option<T>, Problem> {
        match self.text(field) {
            None => Ok(None),
            Some(text) => match text.parse() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(wrong(field, "an integer")),
            },
        }
    }

    fn window(&self) -> Result<Option<u32>, Problem> {
        match self.integer::<u64>(Field::Window)? {
            Some(0) => Err(wrong(Field::Window, "an integer of 1 or more")),
            // What does not fit is larger than any window of ours all the same.
            window => Ok(window.map(|window| u32::try_from(window).unwrap_or(u32::MAX))),
        }
    }

    fn status(&self) -> Result<Option<StatusCode>, Problem> {
        Ok(self.integer(Field::Status)?.map(StatusCode::new))
    }

    fn required_status(&self) -> Result<StatusCode, Problem> {
        required(Field::Status, self.status()?)
    }

    /// `dt`, where `null` is a value like any other.
    fn payload(&self) -> Result<Option<Payload<'a>>, Problem> {
        let payload = self.raw[Field::Data as usize].map(Raw::payload).transpose();
        payload.map_err(|_| format!("field `dt` is nested deeper than {MAX_DEPTH}"))
    }
}

fn required<T>(field: Field, value: Option<T>) -> Result<T, Problem> {
    value.ok_or_else(|| missing(field))
}

fn missing(field: Field) -> Problem {
    format!("field `{}` is missing", field.key())
}

fn wrong(field: Field, expected: &str) -> Problem {
    format!("field `{}` must be {expected}", field.key())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(text: &str) -> String {
        decode(text).unwrap_err().to_string()
    }

    #[test] // protocol.md 2.5
    fn an_object_without_a_type_is_not_a_packet() {
        for text in [
            "",
            "  ",
            "7",
            "null",
            "[]",
            "{}",
            "{\"sub\"}",
            "{\"sub\":{}",
            "{\"sub\":{}} x",
            "\"sub\"",
            "{\"sub\":{\"cn\":\"a\"},\"hb\":{}}",
            "{\"Sub\":{\"cn\":\"a\"}}",
            "{\"nope\":{}}",
            "{\"nope\":1}",
            "{\"sub\":{\"cn\":\"a\u{1}\"}}",
            "{\"sub\":{\"cn\":\"a\",}}",
        ] {
            assert!(matches!(decode(text), Err(DecodeError::NotAPacket { .. })), "{text}");
        }
    }

    #[test] // protocol.md 2.5
    fn a_bad_field_is_named_with_its_packet() {
        assert_eq!(problem(r#"{"sub":7}"#), "sub packet: the value must be an object");
        assert_eq!(problem(r#"{"sub":{}}"#), "sub packet: field `cn` is missing");
        assert_eq!(problem(r#"{"sub":{"cn":null}}"#), "sub packet: field `cn` is missing");
        assert_eq!(problem(r#"{"sub":{"cn":7}}"#), "sub packet: field `cn` must be a string");
        assert_eq!(problem(r#"{"sub":{"cn":"a","pr":2}}"#), "sub packet: field `pr` must be 0 or 1");
        assert_eq!(problem(r#"{"sub":{"cn":"a","cn":"a"}}"#), "sub packet: duplicate field `cn`");
        assert_eq!(problem(r#"{"pub":{"cn":"a"}}"#), "pub packet: field `dt` is missing");
        assert_eq!(problem(r#"{"pub":{"cn":"a","dt":1,"q":2}}"#), "pub packet: field `q` must be 0 or 1");
        assert_eq!(
            problem(r#"{"conn":{"at":"t","cl":"c","wn":0}}"#),
            "conn packet: field `wn` must be an integer of 1 or more"
        );
        assert_eq!(problem(r#"{"sub":{"cn":"\ud800"}}"#), "sub packet: field `cn` contains a lone surrogate");
    }

    #[test] // protocol.md 2.5
    fn a_bad_packet_gives_back_what_could_be_read() {
        let Err(DecodeError::BadField { echo, .. }) = decode(r#"{"pub":{"cn":" a ","id":7,"q":[]}}"#) else {
            panic!("that is a bad field")
        };
        assert_eq!(
            echo,
            Echo { id: Some("7".into()), channel: Some("a".into()), qos: Qos::AtMostOnce, is_filter: false }
        );
    }

    #[test] // protocol.md 2.6
    fn flags_and_ids_are_taken_leniently() {
        for flag in ["1", "true", "\"1\""] {
            let text = format!(r#"{{"pub":{{"cn":"a","dt":0,"q":{flag},"rt":{flag},"id":12}}}}"#);
            let Ok(Packet::Pub(publish)) = decode(&text) else { panic!("{text}") };
            assert_eq!((publish.qos, publish.retain), (Qos::AtLeastOnce, Retain::Yes));
            assert_eq!(publish.id.as_deref(), Some("12"));
        }
        for flag in ["0", "false", "\"0\"", "null"] {
            let text = format!(r#"{{"sub":{{"cn":"a","pr":{flag},"zz":[1]}}}}"#);
            let Ok(Packet::Sub(sub)) = decode(&text) else { panic!("{text}") };
            assert_eq!(sub.persistence, Persistence::Temporary);
        }
    }

    #[test] // protocol.md 2.6: a member this packet does not have may be anything, even twice
    fn unknown_members_are_ignored() {
        assert!(decode(r#"{"sub":{"cn":"a","q":{},"q":9,"x":1,"x":2}}"#).is_ok());
    }

    #[test] // protocol.md 2.7
    fn a_control_publish_needs_no_data() {
        assert!(decode(r#"{"pub":{"cn":" $list","id":"1"}}"#).is_ok());
        let Ok(Packet::Pub(publish)) = decode(r#"{"pub":{"cn":"a","dt":null}}"#) else { panic!() };
        assert_eq!(publish.data, Some(Payload::NULL));
    }

    #[test] // protocol.md 2.5
    fn a_payload_nested_too_deep_is_a_bad_field() {
        let text =
            |depth| format!(r#"{{"pub":{{"cn":"a","dt":{}{}}}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(decode(&text(128)).is_ok());
        assert_eq!(problem(&text(129)), "pub packet: field `dt` is nested deeper than 128");
        assert!(matches!(decode(&"[".repeat(1_000_000)), Err(DecodeError::NotAPacket { .. })));
        assert!(decode(&format!(r#"{{"pub":{{"cn":"a","dt":{}"#, "[".repeat(1_000_000))).is_err());
    }

    #[test]
    fn keys_may_be_escaped() {
        assert_eq!(decode(r#"{"\u0068b":{}}"#), Ok(Packet::Hb));
    }
}
