//! JMQT: packets as they are written to a socket or a WebSocket.

use std::borrow::Cow;

use bytes::Bytes;
use jmqt_core::{ChannelName, ClientId, StatusCode};
use jmqt_protocol::{LITERAL, NUL, Packet, PubAck, PushFrame};

use super::Form;
use super::ids::{IdSpace, IdText};
use crate::attributes::{Attributes, DataForm};
use crate::message::{Data, Json, LoggedPush, Pieces, RetainedPush, Run, json_of, place};
use crate::packet_trace;
use crate::transport::{Framing, websocket_header};

/// The bytes of a push beside its frame: the key and quotes of the id, and the end of the packet.
const ID_BYTES: usize = 14;

/// The size of most answers is less.
const ANSWER_BYTES: usize = 96;

/// Encodes a packet in this form.
pub(crate) fn framed(form: Form, packet: &Packet<'_>) -> Vec<u8> {
    let mut text = Vec::with_capacity(ANSWER_BYTES);
    packet.encode(&mut text);
    match form.framing() {
        Framing::Nul => {
            text.push(NUL);
            text
        }
        Framing::Mqtt => text,
        Framing::WebSocket | Framing::MqttWebSocket => {
            let mut framed = Vec::with_capacity(text.len() + 10);
            form.framing().frame(&text, &mut framed);
            framed
        }
    }
}

/// Encodes the answer to the publish of a receipt.
pub(super) fn receipt(form: Form, id: Option<&str>, status: StatusCode) -> Vec<u8> {
    let id = id.map(Into::into);
    let packet = Packet::PubAck(PubAck { status, id, data: None });
    // The channel is not known here; the packet id identifies the publish.
    packet_trace::sent("", &packet);
    framed(form, &packet)
}

/// The part that all pushes of one channel and publisher share.
pub(super) fn frame(channel: &ChannelName, sender: Option<&ClientId>) -> PushFrame {
    PushFrame::new(channel.as_str(), sender.map_or("", ClientId::as_str))
}

/// Joins pushes in one form.
struct Encoder {
    form: Form,
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// A buffer for the part after the data, while the length is computed.
    behind: Vec<u8>,
}

impl Encoder {
    fn new(form: Form, count: usize, bytes: usize) -> Self {
        let (bytes, ends) = (Vec::with_capacity(bytes), Vec::with_capacity(count));
        Self { form, bytes, ends, behind: Vec::new() }
    }

    fn push(&mut self, frame: &PushFrame, data: &[u8], id: Option<&str>) {
        let bytes = &mut self.bytes;
        match self.form.framing() {
            Framing::Nul => {
                frame.write_text(data, id, bytes);
                bytes.push(NUL);
            }
            Framing::Mqtt | Framing::MqttWebSocket => {}
            Framing::WebSocket => {
                self.behind.clear();
                frame.write_behind(id, &mut self.behind);
                websocket_header(frame.before().len() + data.len() + self.behind.len(), bytes);
                bytes.extend_from_slice(frame.before());
                bytes.extend_from_slice(data);
                bytes.extend_from_slice(&self.behind);
            }
        }
        self.ends.push(place(bytes.len()));
    }

    fn finish(self) -> Pieces {
        Pieces { bytes: self.bytes.into(), ends: self.ends.into() }
    }
}

/// Data as the member `dt`, and `jt` if the data is literally the payload of an MQTT message.
fn dt<'a>(data: &'a [u8], attributes: &Attributes) -> Cow<'a, [u8]> {
    let Json { text, literal } = json_of(data, attributes);
    if literal { [&text, LITERAL].concat().into() } else { text }
}

/// The same, without a copy of data that is JSON.
fn shared_dt(data: Data) -> Bytes {
    let (bytes, attributes) = data.into_parts();
    if attributes.form() == DataForm::Json { bytes } else { dt(&bytes, &attributes).into_owned().into() }
}

/// Encodes QoS 0 messages.
pub(super) fn encode_run(form: Form, channel: &ChannelName, sender: Option<&ClientId>, run: &Run) -> Pieces {
    let frame = frame(channel, sender);
    let count = run.pieces.ends.len();
    let mut encoder = Encoder::new(form, count, run.pieces.bytes.len() + count * (frame.overhead() + 1));
    for data in run.data() {
        encoder.push(&frame, &dt(data, &run.attributes), None);
    }
    encoder.finish()
}

/// Encodes QoS 1 messages. Frames of the server are not masked, so they are the same for every subscriber.
pub(super) fn encode_logged(
    form: Form,
    ids: IdSpace,
    channel: &ChannelName,
    messages: &[LoggedPush],
) -> Pieces {
    let mut id_text = IdText::new(ids);
    let Some(first) = messages.first() else { return Encoder::new(form, 0, 0).finish() };
    let mut sender = first.sender.as_ref();
    let mut frame = frame(channel, sender);
    let data: usize = messages.iter().map(|message| message.data.as_bytes().len()).sum();
    let beside = frame.overhead() + ID_BYTES + id_text.of(first.id).len() + 4;
    let mut encoder = Encoder::new(form, messages.len(), data + messages.len() * beside);
    for message in messages {
        if message.sender.as_ref() != sender {
            sender = message.sender.as_ref();
            frame = self::frame(channel, sender);
        }
        encoder.push(
            &frame,
            &dt(message.data.as_bytes(), message.data.attributes()),
            Some(id_text.of(message.id)),
        );
    }
    encoder.finish()
}

/// Converts NUL-terminated pushes to WebSocket messages.
pub(super) fn nul_to_websocket(nul: &Pieces) -> Pieces {
    let mut bytes = Vec::with_capacity(nul.bytes.len() + nul.ends.len() * 4);
    let mut ends = Vec::with_capacity(nul.ends.len());
    for index in 0..nul.ends.len() {
        let text = &nul.bytes[nul.start(index)..nul.ends[index] as usize - 1];
        websocket_header(text.len(), &mut bytes);
        bytes.extend_from_slice(text);
        ends.push(place(bytes.len()));
    }
    Pieces { bytes: bytes.into(), ends: ends.into() }
}

/// A channel's retained message for one client (§9.b). Its data is shared with all readers.
pub(crate) struct RetainedPieces {
    pub(crate) head: Vec<u8>,
    pub(crate) data: Bytes,
    pub(crate) tail: Vec<u8>,
}

pub(super) fn retained(form: Form, channel: &ChannelName, retained: RetainedPush) -> RetainedPieces {
    let RetainedPush { sender, data, .. } = retained;
    let (frame, data) = (frame(channel, sender.as_ref()), shared_dt(data));
    let (before, mut tail) = frame.around_retained();
    let mut head = Vec::with_capacity(before.len() + 10);
    match form.framing() {
        Framing::WebSocket => websocket_header(before.len() + data.len() + tail.len(), &mut head),
        Framing::Nul => tail.push(NUL),
        Framing::Mqtt | Framing::MqttWebSocket => {}
    }
    head.extend_from_slice(before);
    RetainedPieces { head, data, tail }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::PushId;
    use crate::store::{ChannelKey, Epoch, LogPlace, Seq, Stamp};

    const IDS: fn() -> IdSpace = || IdSpace::new(Epoch(1), 7);

    fn news() -> ChannelName {
        ChannelName::parse("news").unwrap()
    }

    fn alice() -> Option<ClientId> {
        Some(ClientId::parse("alice").unwrap())
    }

    fn json(text: &str) -> Data {
        Data::parse(text.to_owned().into(), Attributes::NONE).unwrap()
    }

    #[test] // §9.b
    fn a_retained_push_is_framed_around_its_payload() {
        for (data, header) in [("1".to_owned(), 2), (format!("\"{}\"", "x".repeat(300)), 4)] {
            let text = format!(r#"{{"push":{{"cn":"news","dt":{data},"cl":"alice","rt":1}}}}"#);
            let joined = |form| {
                let message = RetainedPush {
                    sender: alice(),
                    data: json(&data),
                    id: PushId::Memory { process: 1, number: 0 },
                    counted: None,
                };
                let RetainedPieces { head, data, tail } = retained(form, &news(), message);
                [&head[..], &data, &tail].concat()
            };
            assert_eq!(joined(Form::JmqtNul), [text.as_bytes(), &[NUL]].concat());
            let websocket = joined(Form::JmqtWebSocket);
            assert_eq!(&websocket[header..], text.as_bytes());
            let mut expected = Vec::new();
            Form::JmqtWebSocket.framing().frame(text.as_bytes(), &mut expected);
            assert_eq!(websocket, expected);
        }
    }

    #[test] // §3: the same packets, framed for either transport
    fn both_forms_hold_the_same_messages() {
        let logged = |sender, seq, data: &str| {
            let id = PushId::Logged(LogPlace { key: ChannelKey(2), seq: Seq(seq), stamp: Stamp(1) });
            LoggedPush { id, sender, data: json(data) }
        };
        let long = format!("\"{}\"", "x".repeat(300));
        let messages = [logged(alice(), 3, "1"), logged(None, 4, &long), logged(alice(), 5, "2")];
        let nul = encode_logged(Form::JmqtNul, IDS(), &news(), &messages);
        let texts = [
            r#"{"push":{"cn":"news","dt":1,"cl":"alice","q":1,"id":"s1-2-3"}}"#.to_owned(),
            format!(r#"{{"push":{{"cn":"news","dt":{long},"cl":"","q":1,"id":"s1-2-4"}}}}"#),
            r#"{"push":{"cn":"news","dt":2,"cl":"alice","q":1,"id":"s1-2-5"}}"#.to_owned(),
        ];
        assert_eq!(nul.bytes, texts.iter().map(|text| format!("{text}\0")).collect::<String>());
        let websocket = encode_logged(Form::JmqtWebSocket, IDS(), &news(), &messages);
        assert_eq!(websocket, nul_to_websocket(&nul));
        for (index, header) in [(0, 2), (1, 4), (2, 2)] {
            let message = &websocket.bytes[websocket.start(index)..websocket.start(index + 1)];
            assert_eq!(message[0], 0x81);
            assert_eq!(&message[header..], texts[index].as_bytes());
        }
    }
}
