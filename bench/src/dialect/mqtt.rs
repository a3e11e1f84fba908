//! MQTT 3.1.1, as Mosquitto (and any other broker) speaks it.

use anyhow::{Context, Result, bail};

use super::{Dialect, Event, Persistence, Publish, Qos, excerpt};
use crate::payload::read_label;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const QOS_1: u8 = 0x02;

/// An MQTT client's side of one connection.
pub(crate) struct Mqtt {
    qos: Qos,
    persistence: Persistence,
    subscriptions: u16,
}

impl Mqtt {
    pub(crate) fn new(qos: Qos, persistence: Persistence) -> Self {
        Self { qos, persistence, subscriptions: 0 }
    }

    fn handle(&mut self, kind: u8, body: &[u8], out: &mut Vec<u8>) -> Result<Event> {
        match (kind & 0xf0, body) {
            (PUBLISH, &[high, low, ref rest @ ..]) => {
                let topic = usize::from(u16::from_be_bytes([high, low]));
                let mut payload = rest.get(topic..).context("PUBLISH cut short")?;
                if kind & 0x06 == QOS_1 {
                    let (id, rest) = payload.split_at_checked(2).context("PUBLISH without id")?;
                    out.extend_from_slice(&[PUBACK, 2, id[0], id[1]]);
                    payload = rest;
                }
                let label = read_label(payload, &mut 0).context("foreign payload over MQTT")?;
                Ok(Event::Delivered(label))
            }
            (PUBACK, &[high, low]) => Ok(Event::Acknowledged(u16::from_be_bytes([high, low]))),
            (SUBACK, &[_, _, 0 | 1]) => Ok(Event::Subscribed),
            (CONNACK, &[_, 0]) => Ok(Event::Opened),
            _ => bail!("the broker sent {kind:#x} {}", excerpt(body)),
        }
    }
}

impl Dialect for Mqtt {
    fn open(&mut self, client: &str, out: &mut Vec<u8>) {
        // User name and password, as everybody authenticates; clean session unless it is to persist.
        let flags = match self.persistence {
            Persistence::Temporary => 0xc2,
            Persistence::Persistent => 0xc0,
        };
        let mut body = vec![0, 4, b'M', b'Q', b'T', b'T', 4, flags, 0, 0];
        for text in [client, client, "x"] {
            push_text(&mut body, text);
        }
        append(out, CONNECT, &[&body]);
    }

    fn subscribe(&mut self, channel: &str, out: &mut Vec<u8>) {
        self.subscriptions += 1;
        let mut body = self.subscriptions.to_be_bytes().to_vec();
        push_text(&mut body, channel);
        append(out, SUBSCRIBE, &[&body, &[u8::from(self.qos == Qos::AtLeastOnce)]]);
    }

    fn publish(&mut self, publish: &Publish<'_>, out: &mut Vec<u8>) {
        let length = (publish.channel.len() as u16).to_be_bytes();
        let (channel, payload) = (publish.channel.as_bytes(), publish.payload);
        match self.qos {
            Qos::AtMostOnce => append(out, PUBLISH, &[&length, channel, payload]),
            Qos::AtLeastOnce => {
                let id = publish.id.to_be_bytes();
                append(out, PUBLISH | QOS_1, &[&length, channel, &id, payload]);
            }
        }
    }

    fn scan(&mut self, input: &[u8], out: &mut Vec<u8>, events: &mut Vec<Event>) -> Result<usize> {
        let mut taken = 0;
        while let Some((length, header)) = remaining_length(&input[taken..])? {
            let packet = &input[taken..];
            let Some(body) = packet.get(header..header + length) else {
                break;
            };
            events.push(self.handle(packet[0], body, out)?);
            taken += header + length;
        }
        Ok(taken)
    }
}

/// The length field behind the first byte, and the bytes that both take.
fn remaining_length(packet: &[u8]) -> Result<Option<(usize, usize)>> {
    let mut length = 0;
    for at in 1..5 {
        let Some(&byte) = packet.get(at) else {
            return Ok(None);
        };
        length |= usize::from(byte & 0x7f) << (7 * (at - 1));
        if byte < 0x80 {
            return Ok(Some((length, at + 1)));
        }
    }
    bail!("broken length from the broker")
}

fn append(out: &mut Vec<u8>, kind: u8, parts: &[&[u8]]) {
    let mut length: usize = parts.iter().map(|part| part.len()).sum();
    out.push(kind);
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    for part in parts {
        out.extend_from_slice(part);
    }
}

fn push_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u16).to_be_bytes());
    out.extend_from_slice(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Label, Payload};

    #[test]
    fn any_split_of_the_bytes_gives_the_same_events() {
        let label = Label { stream: 3, sequence: 9 };
        let payload = *Payload::new().labelled(label);
        let publish = Publish { channel: "c", payload: &payload, id: 0x1234 };
        let mut wire = vec![CONNACK, 2, 0, 0, SUBACK, 3, 0, 1, 1, PUBACK, 2, 0, 7];
        Mqtt::new(Qos::AtLeastOnce, Persistence::Persistent).publish(&publish, &mut wire);
        Mqtt::new(Qos::AtMostOnce, Persistence::Temporary).publish(&publish, &mut wire);
        for cut in 0..wire.len() {
            let mut dialect = Mqtt::new(Qos::AtLeastOnce, Persistence::Persistent);
            let (mut out, mut events) = (Vec::new(), Vec::new());
            let taken = dialect.scan(&wire[..cut], &mut out, &mut events).unwrap();
            let rest = &wire[taken..];
            assert_eq!(dialect.scan(rest, &mut out, &mut events).unwrap(), rest.len());
            let delivered = Event::Delivered(label);
            let expected = [Event::Opened, Event::Subscribed, Event::Acknowledged(7), delivered, delivered];
            assert_eq!(events, expected);
            assert_eq!(out, [PUBACK, 2, 0x12, 0x34]); // the second has QoS 0
        }
    }

    #[test]
    fn refusals_are_errors() {
        for wire in [&[CONNACK, 2, 0, 5][..], &[SUBACK, 3, 0, 1, 0x80], &[PUBLISH, 0xff, 0xff, 0xff, 0xff]] {
            let mut dialect = Mqtt::new(Qos::AtMostOnce, Persistence::Temporary);
            assert!(dialect.scan(wire, &mut Vec::new(), &mut Vec::new()).is_err());
        }
    }
}
