//! [`Packet`] to text: strict (protocol.md 2.6). Flags are 0 or 1, an id is a string, what is 0 is left out.

use jmqt_core::{Payload, Persistence, Qos, Retain, StatusCode};

use crate::packet::{AuthOutcome, Packet};

impl Packet<'_> {
    /// Appends the packet's text to `out`, without any framing.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut object = Object::open(out, self.packet_type().as_str());
        match self {
            Self::Auth(auth) => object.raw("dt", auth.data.as_str()),
            Self::AuthAck(ack) => match &ack.outcome {
                AuthOutcome::Granted { token, client } => {
                    object.status(StatusCode::OK);
                    object.string("at", token);
                    object.string("cl", client);
                }
                AuthOutcome::Refused { status, message } => {
                    object.status(*status);
                    object.string("mg", message);
                }
            },
            Self::Conn(conn) => {
                object.string("at", &conn.token);
                object.string("cl", &conn.client);
                if let Some(window) = conn.window {
                    object.number("wn", i64::from(window));
                }
                object.optional_string("pi", conn.publisher.as_deref());
            }
            Self::ConnAck(ack) => {
                object.status(ack.status);
                if let Some(seconds) = ack.timeout_seconds {
                    object.number("ts", i64::from(seconds));
                }
                object.flag("pi", ack.remembers_publishes);
            }
            Self::Hb | Self::HbAck => {}
            Self::Sub(sub) => {
                object.string("cn", &sub.channel);
                object.flag("pr", sub.persistence == Persistence::Persistent);
                object.flag("wc", sub.is_filter);
            }
            Self::SubAck(ack) => {
                object.status(ack.status);
                object.optional_string("cn", ack.channel.as_deref());
                object.flag("wc", ack.is_filter);
            }
            Self::Unsub(unsub) => {
                object.string("cn", &unsub.channel);
                object.flag("wc", unsub.is_filter);
            }
            Self::UnsubAck(ack) => {
                object.status(ack.status);
                object.optional_string("cn", ack.channel.as_deref());
                object.flag("wc", ack.is_filter);
            }
            Self::Pub(publish) => {
                object.string("cn", &publish.channel);
                object.optional_raw("dt", publish.data.map(Payload::as_str));
                object.flag("jt", publish.is_literal);
                object.flag("q", publish.qos != Qos::AtMostOnce);
                object.flag("rt", publish.retain == Retain::Yes);
                object.optional_string("id", publish.id.as_deref());
            }
            Self::PubAck(ack) => {
                object.status(ack.status);
                object.optional_string("id", ack.id.as_deref());
                object.optional_raw("dt", ack.data.map(Payload::as_str));
            }
            Self::Push(push) => {
                object.string("cn", &push.channel);
                object.raw("dt", push.data.as_str());
                object.flag("jt", push.is_literal);
                object.string("cl", &push.client);
                object.flag("q", push.qos != Qos::AtMostOnce);
                object.optional_string("id", push.id.as_deref());
                object.flag("rt", push.retain == Retain::Yes);
            }
            Self::PushAck(ack) => {
                object.string("id", &ack.id);
                if let Some(status) = ack.status {
                    object.status(status);
                }
            }
            Self::Disconn(disconn) => {
                if let Some(code) = disconn.code {
                    object.number("st", i64::from(code.code()));
                }
                object.optional_string("mg", disconn.message.as_deref());
                if let Some(seconds) = disconn.retry_after_seconds {
                    object.number("ts", i64::from(seconds));
                }
            }
        }
        object.close();
    }

    /// The packet's text, without any framing.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut out = Vec::new();
        self.encode(&mut out);
        String::from_utf8(out).expect("every piece that was appended is text")
    }
}

/// The member `jt` of a push, to be written behind its `dt`: the data is literally the payload of an MQTT message (protocol.md 2.26).
pub const LITERAL: &[u8] = br#","jt":1"#;

/// The pushes of one channel by one publisher: all but the payload and the id, written once (§7.m).
///
/// ```
/// use jmqt_protocol::{Payload, PushFrame};
///
/// let frame = PushFrame::new("news", "alice");
/// let mut text = Vec::new();
/// frame.write(Payload::parse("1.50")?, None, &mut text);
/// assert_eq!(text, br#"{"push":{"cn":"news","dt":1.50,"cl":"alice"}}"#);
/// # Ok::<(), jmqt_protocol::InvalidPayload>(())
/// ```
#[derive(Debug, Clone)]
pub struct PushFrame {
    head: Vec<u8>,
    client: Vec<u8>,
}

impl PushFrame {
    /// `client` is the publisher's id, empty for the server.
    #[must_use]
    pub fn new(channel: &str, client: &str) -> Self {
        let mut head = br#"{"push":{"cn":"#.to_vec();
        quote_into(channel, &mut head);
        head.extend_from_slice(br#","dt":"#);
        let mut tail = br#","cl":"#.to_vec();
        quote_into(client, &mut tail);
        Self { head, client: tail }
    }

    /// Appends one push without framing: QoS 1 if it has an id, QoS 0 if not.
    pub fn write(&self, data: Payload<'_>, id: Option<&str>, out: &mut Vec<u8>) {
        self.write_text(data.as_str().as_bytes(), id, out);
    }

    /// The same for a caller that keeps payloads as bytes: they are the text of a [`Payload`].
    pub fn write_text(&self, data: &[u8], id: Option<&str>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(data);
        self.write_behind(id, out);
    }

    /// What is before the payload.
    #[must_use]
    pub fn before(&self) -> &[u8] {
        &self.head
    }

    /// Appends what is behind the payload.
    pub fn write_behind(&self, id: Option<&str>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.client);
        if let Some(id) = id {
            out.extend_from_slice(br#","q":1,"id":"#);
            quote_into(id, out);
        }
        out.extend_from_slice(b"}}");
    }

    /// Appends the channel's retained message, which has no id (§9.b).
    pub fn write_retained(&self, data: Payload<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        out.extend_from_slice(data.as_str().as_bytes());
        out.extend_from_slice(&self.client);
        out.extend_from_slice(br#","rt":1}}"#);
    }

    /// What is before and behind the payload of the channel's retained message, for a caller that shares
    /// the payload instead of copying it.
    #[must_use]
    pub fn around_retained(&self) -> (&[u8], Vec<u8>) {
        let mut tail = self.client.clone();
        tail.extend_from_slice(br#","rt":1}}"#);
        (&self.head, tail)
    }

    /// How many bytes a push takes beside its payload and id.
    #[must_use]
    pub fn overhead(&self) -> usize {
        self.head.len() + self.client.len() + 2
    }
}

/// `{"type":{` … `}}`, with the commas where they belong.
struct Object<'o> {
    out: &'o mut Vec<u8>,
    empty: bool,
}

impl<'o> Object<'o> {
    fn open(out: &'o mut Vec<u8>, packet_type: &str) -> Self {
        out.extend_from_slice(b"{\"");
        out.extend_from_slice(packet_type.as_bytes());
        out.extend_from_slice(b"\":{");
        Self { out, empty: true }
    }

    fn key(&mut self, key: &str) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(key.as_bytes());
        self.out.extend_from_slice(b"\":");
    }

    fn raw(&mut self, key: &str, json: &str) {
        self.key(key);
        self.out.extend_from_slice(json.as_bytes());
    }

    fn optional_raw(&mut self, key: &str, json: Option<&str>) {
        if let Some(json) = json {
            self.raw(key, json);
        }
    }

    fn string(&mut self, key: &str, value: &str) {
        self.key(key);
        quote_into(value, self.out);
    }

    fn optional_string(&mut self, key: &str, value: Option<&str>) {
        if let Some(value) = value {
            self.string(key, value);
        }
    }

    fn number(&mut self, key: &str, value: i64) {
        self.raw(key, &value.to_string());
    }

    fn status(&mut self, status: StatusCode) {
        match status {
            StatusCode::OK => self.raw("st", "1"),
            _ => self.number("st", i64::from(status.code())),
        }
    }

    /// Absent means 0, so only 1 is written.
    fn flag(&mut self, key: &str, set: bool) {
        if set {
            self.raw(key, "1");
        }
    }

    fn close(self) {
        self.out.extend_from_slice(b"}}");
    }
}

fn quote_into(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    escape_into(text, out);
    out.push(b'"');
}

/// Appends `text` as the inside of a JSON string.
pub fn escape_into(text: &str, out: &mut Vec<u8>) {
    let bytes = text.as_bytes();
    // Nearly all strings are names and ids.
    if is_plain(bytes) {
        return out.extend_from_slice(bytes);
    }
    let mut plain_from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        let escape: &[u8] = match byte {
            b'"' => b"\\\"",
            b'\\' => b"\\\\",
            b'\n' => b"\\n",
            b'\r' => b"\\r",
            b'\t' => b"\\t",
            0..0x20 => &{
                let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
                [b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]
            },
            _ => continue,
        };
        out.extend_from_slice(&bytes[plain_from..at]);
        out.extend_from_slice(escape);
        plain_from = at + 1;
    }
    out.extend_from_slice(&bytes[plain_from..]);
}

/// Whether no byte needs an escape, eight at a time. The last eight overlap the ones before them.
fn is_plain(bytes: &[u8]) -> bool {
    const ONES: u64 = u64::MAX / 0xff;
    const HIGH_BITS: u64 = 0x80 * ONES;
    let below = |word: u64, limit: u8| word.wrapping_sub(u64::from(limit) * ONES) & !word;
    let is = |word: u64, byte: u8| below(word ^ (u64::from(byte) * ONES), 1);
    let needs_escape = |word: &[u8; 8]| {
        let word = u64::from_ne_bytes(*word);
        (below(word, 0x20) | is(word, b'"') | is(word, b'\\')) & HIGH_BITS != 0
    };
    match bytes.last_chunk::<8>() {
        Some(last) => !needs_escape(last) && !bytes.as_chunks::<8>().0.iter().any(needs_escape),
        None => !bytes.iter().any(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\'),
    }
}
