//! Topic aliases of the server (3.3.2.3.4): a client that announces a topic alias maximum receives most topics once.

use std::collections::HashMap;

use jmqt_mqtt::{
    Frame, Packet, PacketType, Peek, Place, Property, PropertyBuf, Publish, Sender, Version, peek,
};

use super::Form;
use super::mqtt::frame_header_length;
use crate::transport::binary_header;

/// The most topics of a client with an alias.
const MAX_ALIASES: u16 = 32;
/// The most bytes of these topics together.
const MAX_TOPIC_BYTES: usize = 8 * 1024;

/// The topic aliases of a connection. The first topics that are sent receive them, and keep them.
#[derive(Debug)]
pub(crate) struct TopicAliases {
    of_topics: HashMap<Box<str>, u16>,
    most: u16,
    topic_bytes: usize,
}

impl TopicAliases {
    /// For a client that accepts aliases up to this number.
    pub(crate) fn new(maximum: u16) -> Self {
        Self { of_topics: HashMap::new(), most: maximum.min(MAX_ALIASES), topic_bytes: 0 }
    }

    /// Puts aliases into messages of MQTT 5 that are about to be sent, one after the other. A message that would become
    /// larger than `limit` stays as it is.
    pub(crate) fn replace_topics(&mut self, form: Form, messages: &[u8], limit: usize) -> Vec<u8> {
        let mut out = Vec::with_capacity(messages.len() + 8);
        let mut rest = messages;
        while !rest.is_empty() {
            let start = if form.is_websocket() { frame_header_length(rest) } else { 0 };
            let packet = rest.get(start..).unwrap_or_default();
            let length = match peek(packet, usize::MAX) {
                Ok(Peek::Known(header)) => header.packet_length().min(packet.len()),
                _ => packet.len(),
            };
            let (whole, behind) = rest.split_at(start + length);
            if self.write(form, &packet[..length], limit, &mut out).is_none() {
                out.extend_from_slice(whole);
            }
            rest = behind;
        }
        out
    }

    /// Writes the message with an alias; `None` if it has none.
    fn write(&mut self, form: Form, packet: &[u8], limit: usize, out: &mut Vec<u8>) -> Option<()> {
        let Ok(Packet::Publish(publish)) = Packet::decode(&Frame::of(packet)?, Version::V5, Sender::Server)
        else {
            return None;
        };
        let (alias, is_new) = self.alias_of(publish.topic)?;
        let topic = if is_new { publish.topic } else { "" };
        let mut properties = PropertyBuf::new();
        properties.push(Property::TopicAlias(alias)).ok()?;
        properties.push_checked(publish.properties);
        let place = Place::Packet(PacketType::Publish);
        let properties = properties.for_place(place, Sender::Server).ok()?;
        let mut head = Vec::with_capacity(packet.len() - publish.payload.len() + 8);
        Publish { topic, properties, ..publish }.encode_head(Version::V5, &mut head).ok()?;
        let start = out.len();
        if form.is_websocket() {
            binary_header(head.len() + publish.payload.len(), out);
        }
        out.extend_from_slice(&head);
        out.extend_from_slice(publish.payload);
        if out.len() - start > limit {
            out.truncate(start);
            return None;
        }
        if is_new {
            self.topic_bytes += topic.len();
            self.of_topics.insert(topic.into(), alias);
        }
        Some(())
    }

    /// The alias of a topic, and whether the client does not know it yet; `None` if the topic has no alias.
    fn alias_of(&self, topic: &str) -> Option<(u16, bool)> {
        if let Some(alias) = self.of_topics.get(topic) {
            return Some((*alias, false));
        }
        let next = u16::try_from(self.of_topics.len() + 1).ok()?;
        let has_room = next <= self.most && self.topic_bytes + topic.len() <= MAX_TOPIC_BYTES;
        has_room.then_some((next, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FORMS: [Form; 2] = [Form::MqttV5, Form::MqttV5WebSocket];

    fn message(form: Form, topic: &str, payload: &[u8]) -> Vec<u8> {
        let delivery = jmqt_mqtt::Delivery::AtMostOnce;
        let properties = jmqt_mqtt::Properties::EMPTY;
        let publish = Publish { delivery, retain: false, topic, properties, payload };
        super::super::mqtt_framed(form, &Packet::Publish(publish))
    }

    /// The topics and aliases of these messages.
    fn topics(form: Form, mut bytes: &[u8]) -> Vec<(String, Option<u16>)> {
        let mut found = Vec::new();
        while !bytes.is_empty() {
            let start = if form.is_websocket() { frame_header_length(bytes) } else { 0 };
            let Ok(Peek::Known(header)) = peek(&bytes[start..], usize::MAX) else { panic!("not a packet") };
            let (packet, rest) = bytes[start..].split_at(header.packet_length());
            let decoded = Packet::decode(&Frame::of(packet).unwrap(), Version::V5, Sender::Server).unwrap();
            let Packet::Publish(publish) = decoded else { panic!("{decoded:?}") };
            found.push((publish.topic.to_owned(), publish.properties.topic_alias()));
            bytes = rest;
        }
        found
    }

    fn named(topic: &str, alias: Option<u16>) -> (String, Option<u16>) {
        (topic.to_owned(), alias)
    }

    #[test] // 3.3.2.3.4
    fn messages_that_are_sent_together_are_changed_one_after_the_other() {
        for form in FORMS {
            let long = vec![b'x'; 70_000];
            let together =
                [message(form, "a", b"1"), message(form, "a", &long), message(form, "b", b"")].concat();
            let mut aliases = TopicAliases::new(1);
            let written = aliases.replace_topics(form, &together, usize::MAX);
            assert_eq!(topics(form, &written), [named("a", Some(1)), named("", Some(1)), named("b", None)]);
            let mut none = TopicAliases::new(0);
            assert_eq!(none.replace_topics(form, &together, usize::MAX), together);
        }
    }

    #[test] // MQTT-3.1.2-24
    fn an_alias_makes_no_message_larger_than_the_client_accepts() {
        for form in FORMS {
            let message = message(form, "a", b"1");
            let mut aliases = TopicAliases::new(5);
            assert_eq!(aliases.replace_topics(form, &message, message.len() + 2), message);
            let written = aliases.replace_topics(form, &message, message.len() + 3);
            assert_eq!(topics(form, &written), [named("a", Some(1))]);
        }
    }

    #[test]
    fn the_number_of_topics_and_their_bytes_are_limited() {
        let written = |aliases: &mut TopicAliases, topic: &str| {
            let message = message(Form::MqttV5, topic, b"1");
            topics(Form::MqttV5, &aliases.replace_topics(Form::MqttV5, &message, usize::MAX)).remove(0).1
        };
        let mut aliases = TopicAliases::new(u16::MAX);
        let given = (0..100).filter(|number| written(&mut aliases, &number.to_string()).is_some()).count();
        assert_eq!(given, usize::from(MAX_ALIASES));
        let mut aliases = TopicAliases::new(u16::MAX);
        let given = (0..100).filter(|number| written(&mut aliases, &format!("{number:01000}")).is_some());
        assert_eq!(given.count(), 8);
        assert_eq!(written(&mut aliases, "short"), Some(9));
    }
}
