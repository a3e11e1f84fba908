//! What is delivered: a [`Push`], cut from the bytes it was read in (§7.m).

use std::fmt;
use std::ops::Range;

use bytes::Bytes;
use jmqt_protocol::{Qos, Retain};

/// One delivery. Cheap to clone: its text is a slice of what one read from the socket brought.
#[derive(Clone)]
pub struct Push {
    text: Bytes,
    data: Range<u32>,
    channel: Text,
    client: Text,
    id: Option<Text>,
    qos: Qos,
    retain: Retain,
}

/// A string of the packet: its place there, or, if it had escapes, the decoded text.
#[derive(Debug, Clone)]
enum Text {
    At(Range<u32>),
    Own(Box<str>),
}

impl Push {
    /// `push` has been decoded from `text`, and `bytes` are the same bytes.
    pub(crate) fn new(push: &jmqt_protocol::Push<'_>, text: &str, bytes: Bytes) -> Self {
        let own = |string: &str| match place(string, text) {
            Some(range) => Text::At(range),
            None => Text::Own(string.into()),
        };
        Self {
            // A payload is always a slice of the packet.
            data: place(push.data.as_str(), text).unwrap_or_default(),
            channel: own(&push.channel),
            client: own(&push.client),
            id: push.id.as_deref().filter(|_| push.qos == Qos::AtLeastOnce).map(own),
            qos: push.qos,
            retain: push.retain,
            text: bytes,
        }
    }

    fn at(&self, range: &Range<u32>) -> &str {
        let bytes = &self.text[range.start as usize..range.end as usize];
        // The whole packet was text, and both ends are between characters.
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    fn string<'s>(&'s self, text: &'s Text) -> &'s str {
        match text {
            Text::At(range) => self.at(range),
            Text::Own(string) => string,
        }
    }

    /// The channel it was published to; `#` and our own client id for a point-to-point message.
    #[must_use]
    pub fn channel(&self) -> &str {
        self.string(&self.channel)
    }

    /// The data as JSON text, byte for byte as the publisher sent it (protocol.md 2.7).
    #[must_use]
    pub fn data(&self) -> &str {
        self.at(&self.data)
    }

    /// The data as a value.
    ///
    /// # Errors
    /// What `serde_json` says of data of another shape.
    pub fn json<'d, T: serde::Deserialize<'d>>(&'d self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.data())
    }

    /// The publisher's client id; empty if the server itself published it.
    #[must_use]
    pub fn publisher(&self) -> &str {
        self.string(&self.client)
    }

    /// The id that a QoS 1 push is acknowledged by; `None` for QoS 0.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_ref().map(|id| self.string(id))
    }

    /// The QoS it was published with.
    #[must_use]
    pub const fn qos(&self) -> Qos {
        self.qos
    }

    /// Whether this is the channel's retained message rather than a live one (§9.b).
    #[must_use]
    pub fn is_retained(&self) -> bool {
        self.retain == Retain::Yes
    }

    /// What it takes in memory, roughly.
    pub(crate) fn cost(&self) -> usize {
        self.text.len() + size_of::<Self>()
    }

    /// How long its packet was.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Gives it bytes of its own, so that it keeps no more alive than itself.
    pub(crate) fn detach(&mut self) {
        self.text = Bytes::copy_from_slice(&self.text);
    }
}

/// Neither data nor id: it may end up in a log.
impl fmt::Debug for Push {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Push")
            .field("channel", &self.channel())
            .field("publisher", &self.publisher())
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .finish_non_exhaustive()
    }
}

/// The place of `part` in `whole`, if it is a slice of it.
fn place(part: &str, whole: &str) -> Option<Range<u32>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start + part.len();
    (end <= whole.len()).then(|| Some(u32::try_from(start).ok()?..u32::try_from(end).ok()?))?
}

#[cfg(test)]
mod tests {
    use super::*;
    use jmqt_protocol::{Packet, decode};

    fn push(text: &str) -> Push {
        let Ok(Packet::Push(push)) = decode(text) else { panic!("{text}") };
        Push::new(&push, text, Bytes::copy_from_slice(text.as_bytes()))
    }

    #[test] // protocol.md 2.7
    fn data_is_what_stood_in_the_packet() {
        let push =
            push(r#"{"push":{"cn":"news","dt": {"b":1.50,"a":"\u00e9"} ,"cl":"alice","q":1,"id":"e-1"}}"#);
        assert_eq!((push.channel(), push.publisher(), push.id()), ("news", "alice", Some("e-1")));
        assert_eq!(push.data(), r#"{"b":1.50,"a":"\u00e9"}"#);
        assert!(!push.is_retained());
    }

    #[test]
    fn strings_with_escapes_are_what_they_say() {
        let push = push(r#"{"push":{"cn":"a\"b","dt":0,"cl":"\u00e9","rt":1}}"#);
        assert_eq!((push.channel(), push.publisher(), push.id()), ("a\"b", "é", None));
        assert!(push.is_retained());
    }

    #[test]
    fn a_detached_push_is_the_same_push() {
        let mut push = push(r#"{"push":{"cn":"c","dt":"x","cl":"p"}}"#);
        push.detach();
        assert_eq!((push.channel(), push.data(), push.publisher()), ("c", "\"x\"", "p"));
    }

    #[test]
    fn debug_output_has_no_data() {
        assert!(!format!("{:?}", push(r#"{"push":{"cn":"c","dt":"secret","cl":"p"}}"#)).contains("secret"));
    }
}
