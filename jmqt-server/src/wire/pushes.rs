//! Consecutive pushes of one channel, encoded once for all its subscribers of the same form.

use std::sync::OnceLock;

use bytes::Bytes;
use jmqt_core::{ChannelName, ClientId, Payload};
use jmqt_protocol::{NUL, PushFrame};

use super::ids::IdSpace;
#[cfg(test)]
use super::lines;
use super::{Form, jmqt, mqtt};
use crate::attributes::Attributes;
use crate::message::{Body, LoggedPush, Message, Pieces, Run, place};
use crate::options::{Grant, Terms};
use crate::store::{ChannelKey, Seq};

/// The same pushes in each requested form.
#[derive(Default)]
struct Forms {
    plain: [OnceLock<Pieces>; Form::PLAIN],
    /// The other forms, with and without acknowledgements.
    others: OnceLock<Box<[[OnceLock<Pieces>; 2]; Form::COUNT - Form::PLAIN]>>,
}

impl Forms {
    fn get(&self, form: Form, grant: Grant, encode: impl FnOnce() -> Pieces) -> &Pieces {
        let cell = match (form as usize).checked_sub(Form::PLAIN) {
            None => &self.plain[form as usize],
            Some(other) => &self.others.get_or_init(Box::default)[other][grant as usize],
        };
        cell.get_or_init(encode)
    }
}

/// QoS 0 messages of one channel and publisher.
pub(crate) struct Pushes {
    channel: ChannelName,
    sender: Option<ClientId>,
    run: Run,
    source: Source,
    forms: Forms,
}

/// The content of the pieces of a run.
enum Source {
    /// Packets in [`Form::JmqtNul`].
    JmqtNul,
    /// The data alone: from another node, or from a client of another language.
    Data,
}

impl Pushes {
    /// The push of one message of any QoS.
    pub(crate) fn of(message: &Message) -> Self {
        let attributes = message.data.attributes();
        if attributes.is_none() {
            let json = Body::Json(Payload::NULL);
            let mut pushes = PushesBuilder::new(&message.channel, message.sender.as_ref(), json);
            pushes.push_data(message.data.as_bytes());
            return pushes.finish();
        }
        let bytes = Bytes::copy_from_slice(message.data.as_bytes());
        let pieces = Pieces { ends: [place(bytes.len())].into(), bytes };
        let run = Run { attributes: attributes.clone(), pieces, before: 0, behind: 0 };
        Self::of_run(message.channel.clone(), message.sender.clone(), run)
    }

    /// The pushes of messages from another node.
    pub(crate) fn of_run(channel: ChannelName, sender: Option<ClientId>, run: Run) -> Self {
        Self { channel, sender, run, source: Source::Data, forms: Forms::default() }
    }

    /// The messages, for other nodes.
    pub(crate) fn run(&self) -> &Run {
        &self.run
    }

    /// The number of messages.
    pub(crate) fn count(&self) -> usize {
        self.run.pieces.ends.len()
    }

    /// The messages encoded in this form.
    pub(crate) fn framed(&self, form: Form) -> &Pieces {
        match (&self.source, form) {
            (Source::JmqtNul, Form::JmqtNul) => &self.run.pieces,
            (Source::JmqtNul, Form::JmqtWebSocket) => {
                self.forms.get(form, Grant::Unacknowledged, || jmqt::nul_to_websocket(&self.run.pieces))
            }
            (Source::Data, Form::JmqtNul | Form::JmqtWebSocket) => {
                self.forms.get(form, Grant::Unacknowledged, || {
                    jmqt::encode_run(form, &self.channel, self.sender.as_ref(), &self.run)
                })
            }
            (_, Form::MqttV3 | Form::MqttV3WebSocket | Form::MqttV5 | Form::MqttV5WebSocket) => {
                self.forms.get(form, Grant::Unacknowledged, || self.encode_mqtt(form, None))
            }
            #[cfg(test)]
            (_, Form::Lines) => {
                self.forms.get(form, Grant::Unacknowledged, || lines::encode_run(&self.channel, &self.run))
            }
        }
    }
}

impl Pushes {
    /// The messages encoded for one subscription, whose messages differ from those of others.
    pub(crate) fn framed_for(&self, form: Form, terms: Terms<'_>) -> Pieces {
        self.encode_mqtt(form, Some(terms))
    }

    pub(crate) fn channel(&self) -> &ChannelName {
        &self.channel
    }

    pub(crate) fn sender(&self) -> Option<&ClientId> {
        self.sender.as_ref()
    }

    fn encode_mqtt(&self, form: Form, terms: Option<Terms<'_>>) -> Pieces {
        mqtt::encode_run(form, &self.channel, self.sender.as_ref(), &self.run, terms)
    }
}

/// Collects QoS 0 messages of a client or of the server. JSON is written in the form that most subscribers receive, and
/// other data is kept as it is.
pub(crate) struct PushesBuilder {
    channel: ChannelName,
    sender: Option<ClientId>,
    kind: Kind,
    text: Vec<u8>,
    ends: Vec<u32>,
}

enum Kind {
    Json(PushFrame),
    Bytes(Attributes),
}

impl PushesBuilder {
    /// A builder for messages like `first`.
    pub(crate) fn new(channel: &ChannelName, sender: Option<&ClientId>, first: Body<'_>) -> Self {
        let kind = match first {
            Body::Json(_) => Kind::Json(jmqt::frame(channel, sender)),
            Body::Bytes(_, attributes) => Kind::Bytes(attributes.clone()),
        };
        Self { channel: channel.clone(), sender: sender.cloned(), kind, text: Vec::new(), ends: Vec::new() }
    }

    /// Returns `true` if this message may follow the others.
    pub(crate) fn takes(&self, body: Body<'_>) -> bool {
        match (&self.kind, body) {
            (Kind::Json(_), Body::Json(_)) => true,
            (Kind::Bytes(own), Body::Bytes(_, attributes)) => own == attributes,
            _ => false,
        }
    }

    /// Adds a message that [`takes`](Self::takes) accepts.
    pub(crate) fn push(&mut self, body: Body<'_>) {
        match body {
            Body::Json(data) => self.push_data(data.as_str().as_bytes()),
            Body::Bytes(data, _) => self.push_data(data),
        }
    }

    fn push_data(&mut self, data: &[u8]) {
        let beside = match &self.kind {
            Kind::Json(frame) => frame.overhead() + 1,
            Kind::Bytes(_) => 0,
        };
        // One growth for a whole batch of small messages rather than one for each doubling.
        let needed = beside + data.len();
        if self.text.capacity() - self.text.len() < needed {
            self.text.reserve(needed.max(self.text.capacity()));
        }
        match &self.kind {
            Kind::Json(frame) => {
                frame.write_text(data, None, &mut self.text);
                self.text.push(NUL);
            }
            Kind::Bytes(_) => self.text.extend_from_slice(data),
        }
        self.ends.push(place(self.text.len()));
    }

    /// The number of bytes.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    pub(crate) fn finish(self) -> Pushes {
        let Self { channel, sender, kind, text, ends } = self;
        let pieces = Pieces { bytes: text.into(), ends: ends.into() };
        match kind {
            Kind::Json(frame) => {
                let before = frame.before().len();
                let behind = frame.overhead() - before + 1; // the NUL
                let run = Run { attributes: Attributes::NONE, pieces, before, behind };
                Pushes { channel, sender, run, source: Source::JmqtNul, forms: Forms::default() }
            }
            Kind::Bytes(attributes) => {
                let run = Run { attributes, pieces, before: 0, behind: 0 };
                Pushes { channel, sender, run, source: Source::Data, forms: Forms::default() }
            }
        }
    }
}

/// QoS 1 messages of one channel, in the order of its log.
pub(crate) struct LoggedPushes {
    pub(crate) channel: ChannelName,
    pub(crate) messages: Vec<LoggedPush>,
    ids: IdSpace,
    forms: Forms,
}

/// The memory of a message in addition to its data, counted twice.
const MESSAGE_BYTES: usize = 256;

impl LoggedPushes {
    pub(crate) fn new(ids: IdSpace, channel: ChannelName, messages: Vec<LoggedPush>) -> Self {
        Self { channel, messages, ids, forms: Forms::default() }
    }

    /// The messages encoded in this form.
    pub(crate) fn framed(&self, form: Form, grant: Grant) -> &Pieces {
        self.forms.get(form, grant, || match form {
            Form::MqttV3 | Form::MqttV3WebSocket | Form::MqttV5 | Form::MqttV5WebSocket => {
                mqtt::encode_logged(form, &self.channel, &self.messages, grant, None)
            }
            Form::JmqtNul | Form::JmqtWebSocket => {
                jmqt::encode_logged(form, self.ids, &self.channel, &self.messages)
            }
            #[cfg(test)]
            Form::Lines => lines::encode_logged(self.ids, &self.channel, &self.messages),
        })
    }

    /// The messages encoded for one subscription, whose messages differ from those of others.
    pub(crate) fn framed_for(&self, form: Form, grant: Grant, terms: Terms<'_>) -> Pieces {
        mqtt::encode_logged(form, &self.channel, &self.messages, grant, Some(terms))
    }

    /// The approximate memory of the messages, encoded once.
    pub(crate) fn bytes(&self) -> usize {
        let bytes = self.messages.iter().map(|message| 2 * message.data.as_bytes().len() + MESSAGE_BYTES);
        bytes.sum()
    }

    /// The channel's key, and the first and last position in its log; `None` if no message is logged.
    pub(crate) fn places(&self) -> Option<(ChannelKey, u64, u64)> {
        let mut places = self.messages.iter().filter_map(|message| message.id.place());
        let (key, Seq(first)) = places.next()?;
        Some((key, first, places.next_back().map_or(first, |(_, Seq(last))| last)))
    }

    /// The last message that is in the log.
    pub(crate) fn last_logged(&self) -> Option<(ChannelKey, Seq)> {
        self.messages.iter().rev().find_map(|message| message.id.place())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushes(texts: &[&str]) -> Pushes {
        let (news, alice) = (ChannelName::parse("news").unwrap(), ClientId::parse("alice").unwrap());
        let mut builder = PushesBuilder::new(&news, Some(&alice), Body::Json(Payload::NULL));
        for text in texts {
            builder.push(Body::Json(Payload::parse(text).unwrap()));
        }
        builder.finish()
    }

    #[test] // what waits for one client must not keep what was for others alive
    fn a_small_part_of_a_large_buffer_is_copied() {
        let long = format!("\"{}\"", "x".repeat(1000));
        let pushes = pushes(&["1", &long, &long]);
        let framed = pushes.framed(Form::JmqtNul);
        let is_shared = |part: &Bytes| framed.bytes.as_ptr_range().contains(&part.as_ptr());
        assert!(!is_shared(&framed.cut(0..1)));
        assert!(is_shared(&framed.cut(1..2)) && is_shared(&framed.cut(0..3)));
        assert_eq!(framed.cut(0..1), framed.bytes[..framed.start(1)]);
    }

    #[test] // §3: the same packets, wherever they were published and however they are framed
    fn messages_of_other_nodes_are_encoded_like_local_ones() {
        let long = format!("\"{}\"", "x".repeat(300));
        let here = pushes(&["1", &long]);
        assert_eq!(here.run().data().collect::<Vec<_>>(), [b"1", long.as_bytes()]);
        let bytes = format!("..1..{long}").into();
        let run = Run {
            attributes: Attributes::NONE,
            pieces: Pieces { bytes, ends: [3, 5 + place(long.len())].into() },
            before: 2,
            behind: 0,
        };
        let (news, alice) = (ChannelName::parse("news").unwrap(), ClientId::parse("alice").unwrap());
        let elsewhere = Pushes::of_run(news, Some(alice), run);
        for form in [Form::JmqtNul, Form::JmqtWebSocket] {
            assert_eq!(elsewhere.framed(form), here.framed(form));
        }
        let text = format!(r#"{{"push":{{"cn":"news","dt":{long},"cl":"alice"}}}}"#);
        let nul = here.framed(Form::JmqtNul);
        assert_eq!(nul.cut(1..2), [text.as_bytes(), &[NUL]].concat());
        let websocket = here.framed(Form::JmqtWebSocket);
        assert_eq!(websocket.cut(1..2)[4..], *text.as_bytes());
    }
}
