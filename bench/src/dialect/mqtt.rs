//! MQTT 3.1.1, as Mosquitto, our server and any other broker speak it.
//!
//! A QoS 2 message counts as delivered when its PUBLISH arrives, and as acknowledged when its publisher has the PUBCOMP.

use anyhow::{Context, Result, bail};

use super::{Dialect, Event, Persistence, Publish, Qos, excerpt};
use crate::payload::read_label;

const CONNECT: u8 = 0x10;
const CONNACK: u8 = 0x20;
const PUBLISH: u8 = 0x30;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const PUBREL: u8 = 0x62;
const PUBCOMP: u8 = 0x70;
const SUBSCRIBE: u8 = 0x82;
const SUBACK: u8 = 0x90;
const QOS_1: u8 = 0x02;
const QOS_2: u8 = 0x04;
const RETAIN: u8 = 0x01;

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

    /// Answers what the packet needs; returns its event. Packets in the middle of a QoS 2 exchange have none.
    fn handle(&mut self, kind: u8, body: &[u8], out: &mut Vec<u8>) -> Result<Option<Event>> {
        let event = match (kind & 0xf0, body) {
            (PUBLISH, &[high, low, ref rest @ ..]) => {
                let topic = usize::from(u16::from_be_bytes([high, low]));
                let mut payload = rest.get(topic..).context("PUBLISH cut short")?;
                let qos = kind & (QOS_1 | QOS_2);
                if qos != 0 {
                    let (id, rest) = payload.split_at_checked(2).context("PUBLISH without id")?;
                    let answer = if qos == QOS_1 { PUBACK } else { PUBREC };
                    out.extend_from_slice(&[answer, 2, id[0], id[1]]);
                    payload = rest;
                }
                let label = read_label(payload, &mut 0).context("foreign payload over MQTT")?;
                Event::Delivered(label)
            }
            (PUBACK | PUBCOMP, &[high, low]) => Event::Acknowledged(u16::from_be_bytes([high, low])),
            (PUBREC, &[high, low]) => {
                out.extend_from_slice(&[PUBREL, 2, high, low]);
                return Ok(None);
            }
            (0x60, &[high, low]) if kind == PUBREL => {
                out.extend_from_slice(&[PUBCOMP, 2, high, low]);
                return Ok(None);
            }
            (SUBACK, &[_, _, 0..=2]) => Event::Subscribed,
            (CONNACK, &[_, 0]) => Event::Opened,
            _ => bail!("the broker sent {kind:#x} {}", excerpt(body)),
        };
        Ok(Some(event))
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
        append(out, SUBSCRIBE, &[&body, &[self.qos as u8]]);
    }

    fn publish(&mut self, publish: &Publish<'_>, out: &mut Vec<u8>) {
        let length = (publish.channel.len() as u16).to_be_bytes();
        let (channel, payload) = (publish.channel.as_bytes(), publish.payload);
        let kind = PUBLISH | if publish.retain { RETAIN } else { 0 };
        let id = publish.id.to_be_bytes();
        match self.qos {
            Qos::AtMostOnce => append(out, kind, &[&length, channel, payload]),
            Qos::AtLeastOnce => append(out, kind | QOS_1, &[&length, channel, &id, payload]),
            Qos::ExactlyOnce => append(out, kind | QOS_2, &[&length, channel, &id, payload]),
        }
    }

    fn scan(&mut self, input: &[u8], out: &mut Vec<u8>, events: &mut Vec<Event>) -> Result<usize> {
        let mut taken = 0;
        while let Some((length, header)) = remaining_length(&input[taken..])? {
            let packet = &input[taken..];
            let Some(body) = packet.get(header..header + length) else {
                break;
            };
            events.extend(self.handle(packet[0], body, out)?);
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
        let publish = Publish { channel: "c", payload: &payload, id: 0x1234, retain: false };
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
    fn qos_2_takes_both_sides_through_their_exchanges() {
        let label = Label { stream: 3, sequence: 9 };
        let payload = *Payload::new().labelled(label);
        let publish = Publish { channel: "c", payload: &payload, id: 0x1234, retain: false };
        let mut dialect = Mqtt::new(Qos::ExactlyOnce, Persistence::Temporary);
        let mut wire = Vec::new();
        dialect.publish(&publish, &mut wire);
        wire.extend_from_slice(&[PUBREL, 2, 0x12, 0x34, PUBREC, 2, 0, 7, PUBCOMP, 2, 0, 7]);
        let (mut out, mut events) = (Vec::new(), Vec::new());
        assert_eq!(dialect.scan(&wire, &mut out, &mut events).unwrap(), wire.len());
        assert_eq!(events, [Event::Delivered(label), Event::Acknowledged(7)]);
        assert_eq!(out, [PUBREC, 2, 0x12, 0x34, PUBCOMP, 2, 0x12, 0x34, PUBREL, 2, 0, 7]);
    }

    #[test]
    fn a_refusal_is_reported_as_an_error() {
        for wire in [&[CONNACK, 2, 0, 5][..], &[SUBACK, 3, 0, 1, 0x80], &[PUBLISH, 0xff, 0xff, 0xff, 0xff]] {
            let mut dialect = Mqtt::new(Qos::AtMostOnce, Persistence::Temporary);
            assert!(dialect.scan(wire, &mut Vec::new(), &mut Vec::new()).is_err());
        }
    }
}
