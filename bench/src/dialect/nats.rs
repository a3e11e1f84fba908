//! NATS core. A PING after CONNECT and after every SUB is answered, because the protocol has no acknowledgement for them.

use anyhow::{Context, Result, bail};
use memchr::memchr;

use super::{Dialect, Event, Publish, excerpt, push_number, read_number};
use crate::payload::read_label;

/// A NATS client's side of one connection.
#[derive(Default)]
pub(crate) struct Nats {
    client: String,
    is_open: bool,
    subscriptions: u32,
}

impl Dialect for Nats {
    fn open(&mut self, client: &str, _: &mut Vec<u8>) {
        client.clone_into(&mut self.client); // the server speaks first: INFO
    }

    fn subscribe(&mut self, channel: &str, out: &mut Vec<u8>) {
        self.subscriptions += 1;
        let line = format!("SUB {channel} {}\r\nPING\r\n", self.subscriptions);
        out.extend_from_slice(line.as_bytes());
    }

    fn publish(&mut self, publish: &Publish<'_>, out: &mut Vec<u8>) {
        out.extend_from_slice(b"PUB ");
        out.extend_from_slice(publish.channel.as_bytes());
        out.push(b' ');
        push_number(out, publish.payload.len() as u32);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(publish.payload);
        out.extend_from_slice(b"\r\n");
    }

    fn scan(&mut self, input: &[u8], out: &mut Vec<u8>, events: &mut Vec<Event>) -> Result<usize> {
        let mut taken = 0;
        while let Some(newline) = memchr(b'\n', &input[taken..]) {
            let (line, rest) = input[taken..].split_at(newline + 1);
            if line.starts_with(b"MSG ") {
                let length = line
                    .rsplit(|&byte| byte == b' ')
                    .next()
                    .and_then(read_number)
                    .context("MSG without length")?;
                let Some(payload) = rest.get(..length) else {
                    break;
                };
                if rest.len() < length + 2 {
                    break;
                }
                let label = read_label(payload, &mut 0).context("foreign payload from NATS")?;
                events.push(Event::Delivered(label));
                taken += length + 2;
            } else {
                self.control(line, out, events)?;
            }
            taken += line.len();
        }
        Ok(taken)
    }
}

impl Nats {
    fn control(&mut self, line: &[u8], out: &mut Vec<u8>, events: &mut Vec<Event>) -> Result<()> {
        if line.starts_with(b"PONG") {
            events.push(if self.is_open { Event::Subscribed } else { Event::Opened });
            self.is_open = true;
        } else if line.starts_with(b"PING") {
            out.extend_from_slice(b"PONG\r\n");
        } else if line.starts_with(b"INFO") && !self.is_open {
            let connect = format!(
                "CONNECT {{\"verbose\":false,\"pedantic\":false,\"name\":\"{0}\",\"user\":\"{0}\",\
                 \"pass\":\"x\",\"lang\":\"rust\",\"version\":\"1\",\"protocol\":1}}\r\nPING\r\n",
                self.client
            );
            out.extend_from_slice(connect.as_bytes());
        } else if !line.starts_with(b"INFO") {
            bail!("NATS sent {}", excerpt(line));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Label, Payload};

    #[test]
    fn any_split_of_the_bytes_gives_the_same_events() {
        let label = Label { stream: 3, sequence: 9 };
        let mut wire = b"INFO {}\r\nPONG\r\nPONG\r\nMSG c 1 128\r\n".to_vec();
        wire.extend_from_slice(Payload::new().labelled(label));
        wire.extend_from_slice(b"\r\nPING\r\n");
        for cut in 0..wire.len() {
            let mut dialect = Nats::default();
            let (mut out, mut events) = (Vec::new(), Vec::new());
            let taken = dialect.scan(&wire[..cut], &mut out, &mut events).unwrap();
            let rest = &wire[taken..];
            assert_eq!(dialect.scan(rest, &mut out, &mut events).unwrap(), rest.len());
            assert_eq!(events, [Event::Opened, Event::Subscribed, Event::Delivered(label)]);
            assert!(out.starts_with(b"CONNECT {") && out.ends_with(b"PONG\r\n"));
        }
    }

    #[test]
    fn an_answer_with_an_error_is_reported() {
        let wire = b"-ERR 'Slow Consumer'\r\n";
        assert!(Nats::default().scan(wire, &mut Vec::new(), &mut Vec::new()).is_err());
    }
}
