//! What is delivered: a [`Push`], cut from the bytes it was read in (§7.m).

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

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
    is_literal: bool,
    /// If several streams have this QoS 1 push: the part of this one.
    part: Option<Part>,
}

/// The part of one stream in a push that several streams have. All clones of its push have the same.
#[derive(Debug, Clone)]
struct Part {
    is_settled: Arc<AtomicBool>,
    whole: Arc<Whole>,
}

#[derive(Debug)]
struct Whole {
    /// Streams that have not settled it.
    unsettled: AtomicUsize,
    is_taken: AtomicBool,
    must_return: AtomicBool,
}

/// What a stream did with a QoS 1 push.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// The application has taken it.
    Taken,
    /// The subscription has ended, and nobody will take it.
    Left,
    /// The application could not take it: it has to come again.
    Refused,
}

/// What becomes of a push after that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Acknowledge,
    /// It is not acknowledged, and is new when it comes again.
    Forget,
    /// Other streams still have it.
    Wait,
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
            is_literal: push.is_literal,
            part: None,
            text: bytes,
        }
    }

    /// The same push for each of several streams. It is acknowledged when all have settled it.
    pub(crate) fn for_several(self, streams: usize) -> impl Iterator<Item = Self> {
        let whole = self.id.is_some().then(|| {
            Arc::new(Whole {
                unsettled: AtomicUsize::new(streams),
                is_taken: AtomicBool::new(false),
                must_return: AtomicBool::new(false),
            })
        });
        (0..streams).map(move |_| {
            let part =
                whole.as_ref().map(|whole| Part { is_settled: Arc::default(), whole: Arc::clone(whole) });
            Self { part, ..self.clone() }
        })
    }

    /// Notes what a stream did with it, and says what becomes of it.
    pub(crate) fn settle(&self, settled: Settled) -> Fate {
        let (taken, returns) = match &self.part {
            None => (settled == Settled::Taken, settled == Settled::Refused),
            Some(Part { is_settled, whole }) => {
                if is_settled.swap(true, Ordering::Relaxed) {
                    return Fate::Wait;
                }
                match settled {
                    Settled::Taken => whole.is_taken.store(true, Ordering::Relaxed),
                    Settled::Refused => whole.must_return.store(true, Ordering::Relaxed),
                    Settled::Left => {}
                }
                if whole.unsettled.fetch_sub(1, Ordering::AcqRel) > 1 {
                    return Fate::Wait;
                }
                (whole.is_taken.load(Ordering::Relaxed), whole.must_return.load(Ordering::Relaxed))
            }
        };
        if taken && !returns { Fate::Acknowledge } else { Fate::Forget }
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

    /// The data as bytes, as an MQTT client would receive them (protocol.md 2.26): the characters of a string, the bytes of
    /// `{"$b64":"…"}`, the JSON text of any other data, and of data that is [literal](Self::is_literal).
    ///
    /// ```no_run
    /// # async fn run(mut stream: jmqt_client::Subscription) -> Option<()> {
    /// let push = stream.next().await?;
    /// println!("{} bytes", push.bytes().len());
    /// # Some(())
    /// # }
    /// ```
    #[must_use]
    pub fn bytes(&self) -> Cow<'_, [u8]> {
        match jmqt_protocol::Payload::parse(self.data()) {
            Ok(data) => jmqt_mqtt::payload::to_payload(data, self.is_literal).bytes,
            // Data was JSON when the packet was read.
            Err(_) => Cow::Borrowed(self.data().as_bytes()),
        }
    }

    /// Whether an MQTT client published literally the JSON text of a string or of `{"$b64":"…"}`: `jt` (protocol.md 2.26).
    /// Who publishes the data again makes the message [literal](crate::Publish::literal) too.
    #[must_use]
    pub const fn is_literal(&self) -> bool {
        self.is_literal
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
    fn data_is_the_text_that_the_packet_has() {
        let push =
            push(r#"{"push":{"cn":"news","dt": {"b":1.50,"a":"\u00e9"} ,"cl":"alice","q":1,"id":"e-1"}}"#);
        assert_eq!((push.channel(), push.publisher(), push.id()), ("news", "alice", Some("e-1")));
        assert_eq!(push.data(), r#"{"b":1.50,"a":"\u00e9"}"#);
        assert!(!push.is_retained());
    }

    #[test]
    fn strings_with_escapes_are_read_as_their_characters() {
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

    #[test] // protocol.md 2.26
    fn bytes_of_a_push_are_the_payload_that_mqtt_clients_see() {
        for (dt, bytes) in [
            (r#""O\u004e""#, &b"ON"[..]),
            (r#""ON","jt":1"#, b"\"ON\""),
            (r#"{"$b64":"/w=="}"#, b"\xff"),
            (r#"{"$b64":"/w=="},"jt":1"#, br#"{"$b64":"/w=="}"#),
            ("1.50", b"1.50"),
        ] {
            let push = push(&format!(r#"{{"push":{{"cn":"c","dt":{dt},"cl":"p"}}}}"#));
            assert_eq!((&*push.bytes(), push.is_literal()), (bytes, dt.contains("jt")), "{dt}");
        }
    }

    #[test]
    fn a_push_of_several_streams_is_acknowledged_when_the_last_one_has_settled_it() {
        use Settled::{Left, Refused, Taken};
        for (settled, fate) in [
            ([Taken, Taken], Fate::Acknowledge),
            ([Left, Taken], Fate::Acknowledge),
            ([Taken, Left], Fate::Acknowledge),
            ([Refused, Taken], Fate::Forget),
            ([Taken, Refused], Fate::Forget),
            ([Left, Left], Fate::Forget),
        ] {
            let push = push(r#"{"push":{"cn":"c","dt":0,"cl":"p","q":1,"id":"e-1"}}"#);
            let copies: Vec<_> = push.for_several(2).collect();
            assert_eq!(copies[0].settle(settled[0]), Fate::Wait);
            assert_eq!(copies[0].clone().settle(Taken), Fate::Wait, "its part is settled");
            assert_eq!(copies[1].settle(settled[1]), fate, "{settled:?}");
        }
    }

    #[test]
    fn debug_output_has_no_data() {
        assert!(!format!("{:?}", push(r#"{"push":{"cn":"c","dt":"secret","cl":"p"}}"#)).contains("secret"));
    }
}
