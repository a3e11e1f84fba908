//! Redis pub/sub in RESP2. `AUTH default …` replaces authentication: the default user accepts any password.

use anyhow::{Context, Result, bail};
use memchr::memmem;

use super::{Dialect, Event, Publish, excerpt, push_number, read_number};
use crate::payload::read_label;

const MESSAGE: &[u8] = b"*3\r\n$7\r\nmessage\r\n$";
const SUBSCRIBED: &[u8] = b"*3\r\n$9\r\nsubscribe\r\n$";

/// A Redis client's side of one connection.
#[derive(Default)]
pub(crate) struct Redis {
    is_open: bool,
}

impl Dialect for Redis {
    fn open(&mut self, client: &str, out: &mut Vec<u8>) {
        append(out, &[b"AUTH", b"default", client.as_bytes()]);
    }

    fn subscribe(&mut self, channel: &str, out: &mut Vec<u8>) {
        append(out, &[b"SUBSCRIBE", channel.as_bytes()]);
    }

    fn publish(&mut self, publish: &Publish<'_>, out: &mut Vec<u8>) {
        append(out, &[b"PUBLISH", publish.channel.as_bytes(), publish.payload]);
    }

    fn scan(&mut self, input: &[u8], _: &mut Vec<u8>, events: &mut Vec<Event>) -> Result<usize> {
        let mut taken = 0;
        while let Some((event, length)) = self.next(&input[taken..])? {
            events.extend(event);
            taken += length;
        }
        Ok(taken)
    }
}

impl Redis {
    fn next(&mut self, input: &[u8]) -> Result<Option<(Option<Event>, usize)>> {
        if let Some(rest) = input.strip_prefix(MESSAGE) {
            let Some((_, rest)) = bulk(rest)? else {
                return Ok(None);
            };
            let Some((payload, rest)) = bulk(rest.get(1..).unwrap_or_default())? else {
                return Ok(None);
            };
            let label = read_label(payload, &mut 0).context("foreign payload from Redis")?;
            return Ok(Some((Some(Event::Delivered(label)), input.len() - rest.len())));
        }
        let is_array = input.first() == Some(&b'*');
        let (head, end) = match input.strip_prefix(SUBSCRIBED) {
            // The channel, then `:count`: the end is that of the last line.
            Some(rest) => match bulk(rest)? {
                Some((_, count)) => {
                    (input, memmem::find(count, b"\r\n").map(|at| input.len() - count.len() + at))
                }
                None => return Ok(None),
            },
            None if is_array && input.len() > SUBSCRIBED.len() => {
                bail!("Redis sent {}", excerpt(input))
            }
            None if is_array => return Ok(None),
            None => (input, memmem::find(input, b"\r\n")),
        };
        let Some(end) = end else {
            return Ok(None);
        };
        let event = match head[0] {
            b'*' => Some(Event::Subscribed),
            b':' => None, // the answer to a PUBLISH
            b'+' if !self.is_open => {
                self.is_open = true;
                Some(Event::Opened)
            }
            _ => bail!("Redis sent {}", excerpt(input)),
        };
        Ok(Some((event, end + 2)))
    }
}

/// Reads `length\r\nbytes\r\n` (behind its `$`): the bytes and what follows.
fn bulk(input: &[u8]) -> Result<Option<(&[u8], &[u8])>> {
    let Some(line) = input.iter().take(12).position(|&byte| byte == b'\n') else {
        return Ok(None);
    };
    let length = read_number(&input[..line]).context("broken length from Redis")?;
    let start = line + 1;
    if input.len() < start + length + 2 {
        return Ok(None);
    }
    Ok(Some((&input[start..start + length], &input[start + length + 2..])))
}

fn append(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.push(b'*');
    push_number(out, words.len() as u32);
    for word in words {
        out.extend_from_slice(b"\r\n$");
        push_number(out, word.len() as u32);
        out.extend_from_slice(b"\r\n");
        out.extend_from_slice(word);
    }
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::payload::{Label, Payload};

    #[test]
    fn any_split_of_the_bytes_gives_the_same_events() {
        let label = Label { stream: 3, sequence: 9 };
        let mut wire = b"+OK\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n".to_vec();
        wire.extend_from_slice(b":12\r\n*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$128\r\n");
        wire.extend_from_slice(Payload::new().labelled(label));
        wire.extend_from_slice(b"\r\n:0\r\n");
        for cut in 0..wire.len() {
            let mut dialect = Redis::default();
            let mut events = Vec::new();
            let taken = dialect.scan(&wire[..cut], &mut Vec::new(), &mut events).unwrap();
            let rest = &wire[taken..];
            assert_eq!(dialect.scan(rest, &mut Vec::new(), &mut events).unwrap(), rest.len());
            assert_eq!(events, [Event::Opened, Event::Subscribed, Event::Delivered(label)]);
        }
    }

    #[test]
    fn an_answer_with_an_error_is_reported() {
        for wire in [&b"-ERR no\r\n"[..], b"*1\r\n$4\r\nwhat is this\r\n"] {
            assert!(Redis::default().scan(wire, &mut Vec::new(), &mut Vec::new()).is_err());
        }
    }

    #[test]
    fn commands_are_arrays_of_bulk_strings() {
        let mut out = Vec::new();
        Redis::default().subscribe("news", &mut out);
        assert_eq!(out, b"*2\r\n$9\r\nSUBSCRIBE\r\n$4\r\nnews\r\n");
    }
}
