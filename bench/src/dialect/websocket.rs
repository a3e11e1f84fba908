//! WebSocket framing (RFC 6455), as much as a client of one server needs: the upgrade request, masked text
//! frames out, whole text frames and pings in.

use anyhow::{Result, bail};
use memchr::memmem;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
const FINAL_TEXT: u8 = 0x81;
const FINAL_PONG: u8 = 0x8a;
/// Room for the longest client header in use: 2 bytes, 2 of length, 4 of mask.
const HEADER: usize = 8;

/// A frame that has arrived whole.
pub(crate) enum Frame<'a> {
    Text(&'a [u8]),
    Ping(&'a [u8]),
}

/// Appends the request that turns the connection into a WebSocket.
pub(crate) fn request_upgrade(out: &mut Vec<u8>) {
    out.extend_from_slice(
        b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
          Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
}

/// Answers the length of the upgrade response, or `None` while it is not complete.
pub(crate) fn accept_upgrade(input: &[u8]) -> Result<Option<usize>> {
    let Some(end) = memmem::find(input, b"\r\n\r\n") else {
        return Ok(None);
    };
    if !input.starts_with(b"HTTP/1.1 101") {
        bail!("no WebSocket upgrade: {}", super::excerpt(input));
    }
    Ok(Some(end + 4))
}

/// Leaves room for a header; what is appended from here on becomes the payload. Answers where it begins.
pub(crate) fn begin(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    start
}

/// Puts the header in front of what was appended since `start`, and masks it.
pub(crate) fn finish(out: &mut Vec<u8>, start: usize) {
    finish_as(out, start, FINAL_TEXT);
}

/// Appends the answer to a ping.
pub(crate) fn pong(out: &mut Vec<u8>, data: &[u8]) {
    let start = begin(out);
    out.extend_from_slice(data);
    finish_as(out, start, FINAL_PONG);
}

fn finish_as(out: &mut Vec<u8>, start: usize, opcode: u8) {
    let length = out.len() - start - HEADER;
    for (byte, mask) in out[start + HEADER..].iter_mut().zip(MASK.iter().cycle()) {
        *byte ^= mask;
    }
    let mask_at = if length < 126 {
        out.copy_within(start + HEADER.., start + HEADER - 2);
        out.truncate(out.len() - 2);
        out[start + 1] = 0x80 | length as u8;
        start + 2
    } else {
        // Packets of this benchmark stay far below 64 KiB.
        out[start + 1] = 0x80 | 126;
        out[start + 2..start + 4].copy_from_slice(&(length as u16).to_be_bytes());
        start + 4
    };
    out[start] = opcode;
    out[mask_at..mask_at + 4].copy_from_slice(&MASK);
}

/// The frame at the start of `input` and the bytes it takes, or `None` while it is not complete.
pub(crate) fn next(input: &[u8]) -> Result<Option<(Frame<'_>, usize)>> {
    let &[opcode, length, ..] = input else {
        return Ok(None);
    };
    let (length, header) = match (length, input) {
        (0..126, _) => (usize::from(length), 2),
        (126, &[_, _, a, b, ..]) => (usize::from(u16::from_be_bytes([a, b])), 4),
        (127, &[_, _, a, b, c, d, e, f, g, h, ..]) => {
            (u64::from_be_bytes([a, b, c, d, e, f, g, h]) as usize, 10)
        }
        (126 | 127, _) => return Ok(None),
        _ => bail!("the server masked a WebSocket frame"),
    };
    let Some(payload) = input.get(header..header + length) else {
        return Ok(None);
    };
    let frame = match opcode {
        FINAL_TEXT => Frame::Text(payload),
        0x89 => Frame::Ping(payload),
        0x88 => bail!("the server closed the WebSocket: {}", super::excerpt(payload)),
        other => bail!("WebSocket frame with first byte {other:#x}"),
    };
    Ok(Some((frame, header + length)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_found_only_when_complete() {
        for length in [5, 125, 126, 300, 70_000] {
            let mut wire = match length {
                0..126 => vec![0x81, length as u8],
                126..65_536 => [&[0x81, 126], &(length as u16).to_be_bytes()[..]].concat(),
                _ => [&[0x81, 127], &(length as u64).to_be_bytes()[..]].concat(),
            };
            wire.resize(wire.len() + length, b'x');
            for cut in [0, 1, 2, 3, wire.len() - 1] {
                assert!(next(&wire[..cut]).unwrap().is_none());
            }
            wire.push(0x81);
            let (frame, taken) = next(&wire).unwrap().unwrap();
            assert!(matches!(frame, Frame::Text(text) if text.len() == length));
            assert_eq!(taken, wire.len() - 1);
        }
    }

    #[test]
    fn client_frames_are_masked_behind_the_shortest_header() {
        for (length, header) in [(3, 2), (125, 2), (126, 4), (300, 4)] {
            let mut out = b"before".to_vec();
            let start = begin(&mut out);
            out.extend(std::iter::repeat_n(b'x', length));
            finish(&mut out, start);
            let frame = &out[6..];
            assert_eq!(frame.len(), header + 4 + length);
            assert_eq!(frame[0], 0x81);
            assert_eq!(frame[1] & 0x80, 0x80);
            let (mask, masked) = frame[header..].split_at(4);
            let text: Vec<u8> = masked.iter().zip(mask.iter().cycle()).map(|(a, b)| a ^ b).collect();
            assert!(text.iter().all(|&byte| byte == b'x'));
        }
    }

    #[test]
    fn an_upgrade_is_complete_with_status_101_and_its_last_line() {
        assert_eq!(accept_upgrade(b"HTTP/1.1 101 OK\r\nA: b\r\n").unwrap(), None);
        assert_eq!(accept_upgrade(b"HTTP/1.1 101 OK\r\n\r\nrest").unwrap(), Some(19));
        assert!(accept_upgrade(b"HTTP/1.1 404 No\r\n\r\n").is_err());
    }
}
