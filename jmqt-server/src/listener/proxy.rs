//! The PROXY protocol, versions 1 and 2: a load balancer sends a header with the client's address before the first byte.
//!
//! [`parse`] parses the two kinds of headers without I/O; [`read_header`] reads exactly the header from a socket.
//! The parent module decides which peers must send a header, and uses the address.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::TcpStream;

const V1_BEGINNING: &[u8] = b"PROXY ";
/// The longest line of version 1, including its end.
const V1_MAX_BYTES: usize = 107;

const V2_SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, address family and transport, and the length of the rest.
const V2_FIXED_BYTES: usize = 16;
/// The longest header of version 2 that is read. Addresses take 36 bytes, at most 216. The fields after them are
/// ignored, and the specification tells senders to stay below 536 bytes.
const V2_MAX_BYTES: usize = 4096;

/// The reason why a required header could not be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum HeaderError {
    /// The first bytes are not a header.
    #[error("the connection does not begin with a header")]
    Missing,
    /// The header is invalid.
    #[error("version {version}: {problem}")]
    Malformed { version: u8, problem: &'static str },
    /// The connection was closed before its first byte, as simple health checks do.
    #[error("the connection was closed before the header")]
    NothingSent,
    /// The connection was closed within the header.
    #[error("the connection was closed within the header")]
    Ended,
    /// The header was not complete within the time limit of a first packet.
    #[error("the header was not complete within TIMEOUT_SECONDS")]
    TooLate,
    /// The connection broke.
    #[error(transparent)]
    Lost(#[from] io::Error),
}

/// The result of parsing the first bytes of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Parsed {
    /// The header is incomplete.
    Partial,
    /// A complete header of `bytes` bytes. `None`: the sender itself connects, or the client's address is not an
    /// IP address.
    Whole { bytes: usize, client: Option<SocketAddr> },
}

/// Reads the header, and no byte more, from the socket; returns the client that it names.
///
/// # Cancel safety
/// If the future is dropped early, part of the header is lost: close the connection.
pub(super) async fn read_header(stream: &TcpStream) -> Result<Option<SocketAddr>, HeaderError> {
    let mut header = Vec::new();
    let mut chunk = [0; 256];
    loop {
        // Peek first: bytes after the header must stay in the socket, and its length is unknown until it has been parsed.
        let seen = stream.peek(&mut chunk).await?;
        let before = header.len();
        if seen == 0 {
            return Err(if before == 0 { HeaderError::NothingSent } else { HeaderError::Ended });
        }
        header.extend_from_slice(&chunk[..seen]);
        match parse(&header)? {
            Parsed::Partial => take(stream, &mut chunk[..seen]).await?,
            Parsed::Whole { bytes, client } => {
                take(stream, &mut chunk[..bytes - before]).await?;
                return Ok(client);
            }
        }
    }
}

/// Returns `true` if a connection to a plain WebSocket port begins with an HTTP request instead of a header: HTTP proxies
/// name the client in the request.
pub(super) async fn begins_with_http(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    // `GET` for WebSockets and health checks, `HEAD` and `OPTIONS` for health checks. PROXY protocol headers begin differently.
    Ok(stream.peek(&mut first).await? == 1 && matches!(first[0], b'G' | b'H' | b'O'))
}

/// Reads bytes that have been peeked.
async fn take(stream: &TcpStream, mut seen: &mut [u8]) -> io::Result<()> {
    while !seen.is_empty() {
        stream.readable().await?;
        match stream.try_read(seen) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(taken) => seen = &mut seen[taken..],
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Parses a header at the beginning of `bytes`. Bytes that cannot become a valid header, or are longer than the longest
/// header, are refused at once.
fn parse(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let begins_as = |beginning: &[u8]| bytes.iter().zip(beginning).all(|(byte, expected)| byte == expected);
    if begins_as(V2_SIGNATURE) {
        parse_v2(bytes)
    } else if begins_as(V1_BEGINNING) {
        parse_v1(bytes)
    } else {
        Err(HeaderError::Missing)
    }
}

/// `PROXY TCP4 192.0.2.7 198.51.100.1 40000 8010` and CR LF.
fn parse_v1(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let malformed = |problem| HeaderError::Malformed { version: 1, problem };
    let longest = &bytes[..bytes.len().min(V1_MAX_BYTES)];
    let Some(end) = longest.iter().position(|byte| *byte == b'\n') else {
        let is_too_long = bytes.len() >= V1_MAX_BYTES;
        return if is_too_long { Err(malformed("the line does not end")) } else { Ok(Parsed::Partial) };
    };
    let line = longest[..end].strip_suffix(b"\r").ok_or(malformed("the line does not end with CR LF"))?;
    let line = str::from_utf8(line).map_err(|_| malformed("the line is not text"))?;
    let mut fields = line.split(' ').skip(1); // PROXY
    let family = fields.next().unwrap_or_default();
    let client = match family {
        "TCP4" => Some(v1_client::<Ipv4Addr>(fields)),
        "TCP6" => Some(v1_client::<Ipv6Addr>(fields)),
        "UNKNOWN" => None, // and whatever follows
        _ => return Err(malformed("expected TCP4, TCP6 or UNKNOWN")),
    };
    let client = client.map(|client| client.ok_or(malformed("expected two addresses and two ports")));
    Ok(Parsed::Whole { bytes: end + 1, client: client.transpose()? })
}

/// Source, destination, the source's port, the destination's port.
fn v1_client<'a, A: std::str::FromStr + Into<IpAddr>>(
    mut fields: impl Iterator<Item = &'a str>,
) -> Option<SocketAddr> {
    let mut address = || fields.next()?.parse::<A>().ok();
    let (source, _) = (address()?, address()?);
    let mut port = || fields.next().filter(|port| is_number(port))?.parse::<u16>().ok();
    let (source_port, _) = (port()?, port()?);
    fields.next().is_none().then(|| client(source.into(), source_port))
}

/// `parse` would also accept a plus sign and leading zeros.
fn is_number(text: &str) -> bool {
    text.bytes().all(|digit| digit.is_ascii_digit()) && (text == "0" || !text.starts_with('0'))
}

fn parse_v2(bytes: &[u8]) -> Result<Parsed, HeaderError> {
    let malformed = |problem| HeaderError::Malformed { version: 2, problem };
    let Some((&[.., version_and_command, family_and_transport, high, low], rest)) =
        bytes.split_first_chunk::<V2_FIXED_BYTES>()
    else {
        return Ok(Parsed::Partial);
    };
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(malformed("expected version 2 and the command LOCAL or PROXY")),
    };
    let rest_bytes = usize::from(u16::from_be_bytes([high, low]));
    if rest_bytes > V2_MAX_BYTES - V2_FIXED_BYTES {
        return Err(malformed("the header is longer than 4096 bytes"));
    }
    let Some(rest) = rest.get(..rest_bytes) else { return Ok(Parsed::Partial) };
    let is_too_short = malformed("the header is too short for its addresses");
    let client = match family_and_transport {
        _ if is_local => None,
        0x11 => Some(v2_client::<4, Ipv4Addr>(rest).ok_or(is_too_short)?),
        0x21 => Some(v2_client::<16, Ipv6Addr>(rest).ok_or(is_too_short)?),
        // Unspecified, datagrams, Unix sockets.
        0x00..=0x02 | 0x10 | 0x12 | 0x20 | 0x22 | 0x30..=0x32 => None,
        _ => return Err(malformed("unknown address family or transport")),
    };
    Ok(Parsed::Whole { bytes: V2_FIXED_BYTES + rest_bytes, client })
}

/// Source, destination, the source's port, the destination's port.
fn v2_client<const N: usize, A: From<[u8; N]> + Into<IpAddr>>(addresses: &[u8]) -> Option<SocketAddr> {
    let (source, rest) = addresses.split_first_chunk::<N>()?;
    let (_, ports) = rest.split_first_chunk::<N>()?;
    let (&[high, low, _, _], _) = ports.split_first_chunk::<4>()?;
    Some(client(A::from(*source).into(), u16::from_be_bytes([high, low])))
}

/// Converts an IPv4-mapped IPv6 address to IPv4.
fn client(address: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(address.to_canonical(), port)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE.as_slice(), &[command, family], &length, rest].concat()
    }

    fn ipv4(extra: &[u8]) -> Vec<u8> {
        let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0x9c, 0x40, 0x1f, 0x4a];
        v2(0x21, 0x11, &[addresses.as_slice(), extra].concat())
    }

    fn ipv6(source: &str) -> Vec<u8> {
        let source: Ipv6Addr = source.parse().unwrap();
        v2(0x21, 0x21, &[source.octets().as_slice(), &[1; 16], &[0, 1, 0, 2]].concat())
    }

    /// Whole headers and the client that each names.
    fn headers() -> Vec<(Vec<u8>, Option<&'static str>)> {
        let longest = "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535".to_owned();
        let longest = format!("{longest}{}\r\n", " ".repeat(V1_MAX_BYTES - 2 - longest.len()));
        vec![
            (b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 8010\r\n".to_vec(), Some("192.0.2.7:40000")),
            (
                b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n".to_vec(),
                Some("255.255.255.255:65535"),
            ),
            (b"PROXY TCP6 2001:db8::1 2001:db8::2 1 2\r\n".to_vec(), Some("[2001:db8::1]:1")),
            (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n".to_vec(), Some("192.0.2.7:1")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (longest.into_bytes(), None),
            (ipv4(b""), Some("192.0.2.7:40000")),
            (ipv4(b"\x04\x00\x01x"), Some("192.0.2.7:40000")), // with a TLV behind the addresses
            (ipv4(&[0; V2_MAX_BYTES - 28]), Some("192.0.2.7:40000")), // the longest
            (ipv6("2001:db8::1"), Some("[2001:db8::1]:1")),
            (ipv6("::ffff:192.0.2.7"), Some("192.0.2.7:1")),
            (v2(0x20, 0, b""), None),
            (v2(0x20, 0x11, &[0; 12]), None), // LOCAL: the rest is ignored
            (v2(0x20, 0xff, b"?"), None),
            (v2(0x21, 0, b""), None),
            (v2(0x21, 0, b"anything"), None),
            (v2(0x21, 0x31, &[0; 216]), None), // Unix
            (v2(0x21, 0x12, &[0; 12]), None),  // datagrams
        ]
    }

    #[test]
    fn a_complete_header_names_the_client_and_its_length() {
        for (header, named) in headers() {
            let client = named.map(|client| client.parse().unwrap());
            let whole = Parsed::Whole { bytes: header.len(), client };
            assert_eq!(parse(&header).unwrap(), whole, "{}", header.escape_ascii());
            let followed = [header.as_slice(), b"\r\n{\"conn\":{}}\0"].concat();
            assert_eq!(parse(&followed).unwrap(), whole, "{}", header.escape_ascii());
        }
    }

    #[test]
    fn an_incomplete_header_is_waited_for() {
        for (header, _) in headers() {
            for end in 0..header.len() {
                assert_eq!(
                    parse(&header[..end]).unwrap(),
                    Parsed::Partial,
                    "{}",
                    header[..end].escape_ascii()
                );
            }
        }
    }

    #[test]
    fn other_bytes_are_refused_at_the_first_wrong_byte() {
        for bytes in [
            b"{".as_slice(),
            b"\0",
            b"GET / HTTP/1.1",
            b"PROXX",
            b"\r\n\r\n\0\r\nQUIX",
            b"proxy ",
            b"\x16\x03\x01",
        ] {
            assert!(matches!(parse(bytes), Err(HeaderError::Missing)), "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_broken_line_is_refused() {
        for line in [
            "PROXY \r\n",
            "PROXY TCP\r\n",
            "PROXY TCP4\r\n",
            "PROXY  TCP4 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 \r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 01 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8  2\r\n",
            "PROXY TCP4 1.2.3 5.6.7.8 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\n",
            "PROXY UNKNOWN\n",
            "PROXY unknown\r\n",
        ] {
            assert!(
                matches!(parse(line.as_bytes()), Err(HeaderError::Malformed { version: 1, .. })),
                "{line}"
            );
        }
        let endless = [b"PROXY UNKNOWN ".as_slice(), &[b'x'; 93]].concat();
        assert_eq!(parse(&endless[..106]).unwrap(), Parsed::Partial);
        assert!(matches!(parse(&endless), Err(HeaderError::Malformed { .. })));
        let one_too_long = [&endless[..106], b"\r\n"].concat();
        assert!(matches!(parse(&one_too_long), Err(HeaderError::Malformed { .. })));
    }

    #[test]
    fn a_broken_binary_header_is_refused() {
        for header in [
            v2(0x11, 0x11, &[0; 12]), // version 1
            v2(0x22, 0x11, &[0; 12]), // no such command
            v2(0x21, 0x13, &[0; 12]), // no such transport
            v2(0x21, 0x41, &[0; 12]), // no such family
            v2(0x21, 0x11, &[0; 11]),
            v2(0x21, 0x21, &[0; 35]),
            ipv4(&[0; V2_MAX_BYTES - 27])[..16].to_vec(), // refused before it has come
        ] {
            let parsed = parse(&header);
            assert!(
                matches!(parsed, Err(HeaderError::Malformed { version: 2, .. })),
                "{header:x?}: {parsed:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            drop(parse(&bytes));
            drop(parse(&[V1_BEGINNING, &bytes].concat()));
            drop(parse(&[V2_SIGNATURE.as_slice(), &bytes].concat()));
            drop(parse(&[V2_SIGNATURE.as_slice(), &[0x21, 0x21, 0], &bytes].concat()));
        }

        #[test] // what was waited for as a beginning is not taken for a whole of its own length
        fn an_incomplete_header_is_not_parsed_as_complete(
            family in prop::sample::select(vec![0x00, 0x11, 0x21, 0x31]),
            rest in prop::collection::vec(any::<u8>(), 0..300),
            end in 0usize..316,
        ) {
            let header = v2(0x21, family, &rest);
            let end = end.min(header.len());
            if matches!(parse(&header[..end]), Ok(Parsed::Partial)) {
                match parse(&header) {
                    Ok(Parsed::Whole { bytes, .. }) => prop_assert!(bytes > end && bytes == header.len()),
                    other => prop_assert!(other.is_err()),
                }
            }
        }
    }
}
