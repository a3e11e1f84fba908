//! JMQT 1.0: JSON packets, NUL-terminated on sockets, one to a text frame on WebSockets.
//!
//! Nothing is parsed on the way of a message: a push is known by its first bytes, its payload by the
//! marker, its id by the last `"id":"` in the packet. Only the two handshake packets go through JSON.

use anyhow::{Context, Result, bail};
use memchr::{memchr, memmem};

use super::{Dialect, Event, Persistence, Publish, Qos, excerpt, push_number, read_number, websocket};
use crate::payload::read_label;

/// How packets are told apart on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    Nul,
    WebSocket,
}

/// A JMQT client's side of one connection.
pub(crate) struct Jmqt {
    framing: Framing,
    qos: Qos,
    persistence: Persistence,
    client: String,
    is_upgraded: bool,
    payload_hint: usize,
}

impl Jmqt {
    pub(crate) fn new(framing: Framing, qos: Qos, persistence: Persistence) -> Self {
        Self {
            framing,
            qos,
            persistence,
            client: String::new(),
            is_upgraded: framing == Framing::Nul,
            payload_hint: 0,
        }
    }

    fn append(&self, out: &mut Vec<u8>, packet: impl FnOnce(&mut Vec<u8>)) {
        match self.framing {
            Framing::Nul => {
                packet(out);
                out.push(0);
            }
            Framing::WebSocket => {
                let start = websocket::begin(out);
                packet(out);
                websocket::finish(out, start);
            }
        }
    }

    fn authenticate(&self, out: &mut Vec<u8>) {
        self.append(out, |out| {
            let packet = format!(r#"{{"auth":{{"dt":{{"client_name":"{}"}}}}}}"#, self.client);
            out.extend_from_slice(packet.as_bytes());
        });
    }

    fn handle(&mut self, packet: &[u8], out: &mut Vec<u8>, events: &mut Vec<Event>) -> Result<()> {
        if packet.starts_with(b"{\"push\"") {
            let label = read_label(packet, &mut self.payload_hint)
                .with_context(|| format!("push without our payload: {}", excerpt(packet)))?;
            events.push(Event::Delivered(label));
            if self.qos != Qos::AtMostOnce {
                let id = id_of(packet).context("QoS 1 push without id")?;
                self.append(out, |out| {
                    out.extend_from_slice(b"{\"pushAck\":{\"id\":\"");
                    out.extend_from_slice(id);
                    out.extend_from_slice(b"\"}}");
                });
            }
        } else if packet.starts_with(b"{\"pubAck\"") && is_ok(packet) {
            let id = id_of(packet).and_then(read_number).context("pubAck without id")?;
            events.push(Event::Acknowledged(u16::try_from(id)?));
        } else if packet.starts_with(b"{\"subAck\"") && is_ok(packet) {
            events.push(Event::Subscribed);
        } else if packet.starts_with(b"{\"authAck\"") && is_ok(packet) {
            let ack: serde_json::Value = serde_json::from_slice(packet)?;
            self.append(out, |out| {
                let (at, cl) = (&ack["authAck"]["at"], &ack["authAck"]["cl"]);
                out.extend_from_slice(format!(r#"{{"conn":{{"at":{at},"cl":{cl}}}}}"#).as_bytes());
            });
        } else if packet.starts_with(b"{\"connAck\"") && is_ok(packet) {
            events.push(Event::Opened);
        } else if !packet.starts_with(b"{\"hbAck\"") {
            bail!("the server answered {}", excerpt(packet));
        }
        Ok(())
    }
}

impl Dialect for Jmqt {
    fn open(&mut self, client: &str, out: &mut Vec<u8>) {
        client.clone_into(&mut self.client);
        match self.framing {
            Framing::Nul => self.authenticate(out),
            Framing::WebSocket => websocket::request_upgrade(out),
        }
    }

    fn subscribe(&mut self, channel: &str, out: &mut Vec<u8>) {
        self.append(out, |out| {
            out.extend_from_slice(b"{\"sub\":{\"cn\":\"");
            out.extend_from_slice(channel.as_bytes());
            out.extend_from_slice(match self.persistence {
                Persistence::Temporary => b"\"}}",
                Persistence::Persistent => b"\",\"pr\":1}}",
            });
        });
    }

    fn publish(&mut self, publish: &Publish<'_>, out: &mut Vec<u8>) {
        self.append(out, |out| {
            out.extend_from_slice(b"{\"pub\":{\"cn\":\"");
            out.extend_from_slice(publish.channel.as_bytes());
            out.extend_from_slice(b"\",\"dt\":\"");
            out.extend_from_slice(publish.payload);
            if self.qos == Qos::AtMostOnce {
                out.extend_from_slice(b"\"}}");
            } else {
                out.extend_from_slice(b"\",\"q\":1,\"id\":\"");
                push_number(out, publish.id.into());
                out.extend_from_slice(b"\"}}");
            }
        });
    }

    fn heartbeat(&mut self, out: &mut Vec<u8>) {
        self.append(out, |out| out.extend_from_slice(b"{\"hb\":{}}"));
    }

    fn scan(&mut self, input: &[u8], out: &mut Vec<u8>, events: &mut Vec<Event>) -> Result<usize> {
        let mut taken = 0;
        if !self.is_upgraded {
            let Some(response) = websocket::accept_upgrade(input)? else {
                return Ok(0);
            };
            self.is_upgraded = true;
            self.authenticate(out);
            taken = response;
        }
        match self.framing {
            Framing::Nul => {
                while let Some(end) = memchr(0, &input[taken..]) {
                    self.handle(&input[taken..taken + end], out, events)?;
                    taken += end + 1;
                }
            }
            Framing::WebSocket => {
                while let Some((frame, length)) = websocket::next(&input[taken..])? {
                    match frame {
                        websocket::Frame::Text(packet) => self.handle(packet, out, events)?,
                        websocket::Frame::Ping(data) => websocket::pong(out, data),
                    }
                    taken += length;
                }
            }
        }
        Ok(taken)
    }
}

/// The text of the packet's `id`, which is after the payload, or at least not inside it.
fn id_of(packet: &[u8]) -> Option<&[u8]> {
    const KEY: &[u8] = b"\"id\":\"";
    let id = &packet[memmem::rfind(packet, KEY)? + KEY.len()..];
    Some(&id[..memchr(b'"', id)?])
}

fn is_ok(packet: &[u8]) -> bool {
    const KEY: &[u8] = b"\"st\":1";
    memmem::find(packet, KEY)
        .and_then(|at| packet.get(at + KEY.len()))
        .is_some_and(|after| !after.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Label, Payload};

    fn client(framing: Framing, qos: Qos) -> Jmqt {
        Jmqt::new(framing, qos, Persistence::Persistent)
    }

    #[test]
    fn any_split_of_the_bytes_gives_the_same_deliveries() {
        let mut payload = Payload::new();
        let mut wire = Vec::new();
        let labels: Vec<_> = (0..3).map(|sequence| Label { stream: 1, sequence }).collect();
        for &label in &labels {
            wire.extend_from_slice(b"{\"push\":{\"cn\":\"c\",\"dt\":\"");
            wire.extend_from_slice(payload.labelled(label));
            wire.extend_from_slice(b"\",\"cl\":\"p\"}}\0");
        }
        for cut in 0..wire.len() {
            let mut dialect = client(Framing::Nul, Qos::AtMostOnce);
            let (mut out, mut events) = (Vec::new(), Vec::new());
            let taken = dialect.scan(&wire[..cut], &mut out, &mut events).unwrap();
            dialect.scan(&wire[taken..], &mut out, &mut events).unwrap();
            let expected: Vec<_> = labels.iter().map(|&label| Event::Delivered(label)).collect();
            assert_eq!(events, expected);
            assert!(out.is_empty());
        }
    }

    #[test]
    fn a_qos_1_push_is_acknowledged_with_its_id_wherever_the_id_is() {
        let mut payload = Payload::new();
        let label = Label { stream: 0, sequence: 4 };
        let dt = String::from_utf8(payload.labelled(label).to_vec()).unwrap();
        for push in [
            format!("{{\"push\":{{\"id\":\"e-1\",\"cn\":\"c\",\"dt\":\"{dt}\",\"cl\":\"p\",\"q\":1}}}}\0"),
            format!("{{\"push\":{{\"cn\":\"c\",\"dt\":\"{dt}\",\"cl\":\"p\",\"q\":1,\"id\":\"e-1\"}}}}\0"),
        ] {
            let (mut out, mut events) = (Vec::new(), Vec::new());
            client(Framing::Nul, Qos::AtLeastOnce).scan(push.as_bytes(), &mut out, &mut events).unwrap();
            assert_eq!(events, [Event::Delivered(label)]);
            assert_eq!(out, b"{\"pushAck\":{\"id\":\"e-1\"}}\0");
        }
    }

    #[test]
    fn the_handshake_returns_the_token() {
        let mut dialect = client(Framing::Nul, Qos::AtMostOnce);
        let (mut out, mut events) = (Vec::new(), Vec::new());
        dialect.open("me", &mut out);
        assert_eq!(out, b"{\"auth\":{\"dt\":{\"client_name\":\"me\"}}}\0");
        out.clear();
        let answer =
            b"{\"authAck\":{\"st\":1,\"at\":\"t\\\"1\",\"cl\":\"me\"}}\0{\"connAck\":{\"st\":1,\"ts\":60}}\0";
        dialect.scan(answer, &mut out, &mut events).unwrap();
        assert_eq!(out, b"{\"conn\":{\"at\":\"t\\\"1\",\"cl\":\"me\"}}\0");
        assert_eq!(events, [Event::Opened]);
    }

    #[test]
    fn a_refusal_is_reported_as_an_error() {
        for answer in [
            &b"{\"pubAck\":{\"st\":5,\"id\":\"1\"}}\0"[..],
            b"{\"subAck\":{\"st\":11,\"cn\":\"c\"}}\0",
            b"{\"push\":{\"cn\":\"c\",\"dt\":1,\"cl\":\"\"}}\0",
        ] {
            let mut dialect = client(Framing::Nul, Qos::AtMostOnce);
            assert!(dialect.scan(answer, &mut Vec::new(), &mut Vec::new()).is_err());
        }
    }
}
