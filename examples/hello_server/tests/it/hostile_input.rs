//! Hostile input: the process continues to run and to serve other clients, and its memory is bounded.

use std::io::Write;
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::support::{Bystanders, Client, MIB, Process, frame, is_closed};
use tempfile::TempDir;

/// What all of this may cost: a few packets of 4 MiB, at the same time and in a row, some of which the allocator keeps.
const MEMORY: u64 = 32 * MIB;

/// A server, clients that must not be disturbed, and the memory it had in the beginning.
struct Siege {
    process: Process,
    bystanders: Bystanders,
    before: u64,
    _folder: TempDir,
}

impl Siege {
    fn begin(settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let process = Process::start(&folder.path().join("jmqt.db"), settings);
        let mut bystanders = Bystanders::new(&process);
        bystanders.exchange();
        Self { before: process.resident(), process, bystanders, _folder: folder }
    }

    /// A connection over TCP, with a session or without.
    fn socket(&self, has_session: bool) -> Client {
        let mut client = Client::open(self.process.socket);
        if has_session {
            client.conn("hostile", "");
        }
        client
    }

    /// A WebSocket, with a session or without.
    fn websocket(&self, has_session: bool) -> Client {
        let mut client = Client::websocket(self.process.websocket);
        if has_session {
            client.conn("hostile web", "");
        }
        client
    }

    /// Others are still served, and memory was within its bound all the time.
    fn endured(&mut self) {
        self.bystanders.exchange();
        let grown = self.process.most_resident().saturating_sub(self.before);
        assert!(grown < MEMORY, "it grew by {grown} bytes");
    }
}

/// Sends until the server closes the connection, or everything is sent.
fn flood(stream: &mut TcpStream, piece: &[u8], total: usize) {
    let mut sent = 0;
    while sent < total && stream.write_all(piece).is_ok() {
        sent += piece.len();
    }
}

#[test] // protocol.md 2.5
fn sixty_four_mebibytes_without_a_nul_are_not_buffered() {
    let mut siege = Siege::begin(&[]);
    for has_session in [false, true] {
        let mut client = siege.socket(has_session);
        flood(&mut client.stream, &[b'['; 65_536], 64 << 20);
        assert!(is_closed(&mut client.stream));
        siege.endured();
    }
}

#[test] // protocol.md 2.5: 128 levels, whatever is above them
fn a_million_levels_of_nesting_are_refused_and_cost_no_stack() {
    let mut siege = Siege::begin(&[]);
    let arrays = "[".repeat(1_000_000);
    let closed = format!("{arrays}{}", "]".repeat(1_000_000));
    let objects = "{\"a\":".repeat(800_000);
    for open in [Siege::socket, Siege::websocket] {
        let mut client = open(&siege, true);
        for deep in [&arrays, &closed, &objects] {
            client.send(deep); // no packet: dropped
            for before in [r#""id":"d","#, r#""id":"d","dt":1,"x":"#] {
                client.send(&format!(r#"{{"pub":{{"cn":"news",{before}"dt":{deep}}}}}"#));
            }
            client.send(r#"{"hb":{}}"#);
            let mut answer = client.next().unwrap();
            while answer != r#"{"hbAck":{}}"# {
                assert_eq!(answer, r#"{"pubAck":{"st":10,"id":"d"}}"#);
                answer = client.next().unwrap();
            }
            siege.endured();
        }
        let mut client = open(&siege, false);
        flood(&mut client.stream, arrays.as_bytes(), arrays.len()); // too large before `conn`
        assert!(is_closed(&mut client.stream));
    }
    siege.endured();
}

#[test] // protocol.md 2.5 to 2.8
fn every_field_as_every_kind_of_value_is_survived() {
    let mut siege = Siege::begin(&[]);
    let huge = format!("\"{}\"", "x".repeat(100_000));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let values = [
        "null",
        "[]",
        "[[],{}]",
        "{}",
        r#"{"cn":"news"}"#,
        "7",
        "-1e400",
        "18446744073709551616",
        "true",
        r#""""#,
        r#""\u0000""#,
        r#""a\u0000b""#,
        r#""a\r\nb""#,
        "\"a\r\nb\"",  // raw
        "\"a\u{0}b\"", // raw: on a socket, two packets
        r#""\ud800""#,
        r#""\udc00\ud800""#,
        r#""\ud83d\ude00""#,
        r#""$""#,
        r##""#x""##,
        r#""$x""#,
        &huge,
        &deep,
    ];
    let packets = [
        ("auth", &["dt"][..]),
        ("conn", &["at", "cl", "wn"][..]),
        ("sub", &["cn", "pr"][..]),
        ("unsub", &["cn"][..]),
        ("pub", &["cn", "dt", "q", "id", "rt"][..]),
        ("pushAck", &["id", "st"][..]),
        ("hb", &["x"][..]),
        ("disconn", &["x"][..]),
        ("push", &["cn", "dt", "cl", "q", "id", "rt"][..]),
        ("subAck", &["st", "cn"][..]),
    ];
    for open in [Siege::socket, Siege::websocket] {
        let mut client = open(&siege, true);
        for (kind, fields) in packets {
            for field in fields {
                for value in values {
                    let others: String = fields
                        .iter()
                        .filter(|other| *other != field)
                        .map(|other| format!(",\"{other}\":{}", if *other == "q" { "1" } else { "\"1\"" }))
                        .collect();
                    let texts = [
                        format!(r#"{{"{kind}":{{"{field}":{value}{others}}}}}"#),
                        format!(r#"{{"{kind}":{{"{field}":{value},"{field}":{value}{others}}}}}"#),
                        format!(r#"{{"{kind}":{value}}}"#),
                    ];
                    for text in texts {
                        client.send(&text);
                        client.send(r#"{"hb":{}}"#);
                        loop {
                            match client.next() {
                                Some(answer) if answer == r#"{"hbAck":{}}"# => break,
                                // A client that sends any `disconn` is disconnected.
                                None if kind == "disconn" => {
                                    client.stream.shutdown(Shutdown::Both).unwrap();
                                    client = open(&siege, true);
                                    break;
                                }
                                Some(_) => {}
                                None => panic!("the connection ended after {text:.200}"),
                            }
                        }
                    }
                }
            }
        }
        siege.endured();
    }
}

#[test] // protocol.md 2.5: invalid UTF-8, in all places
fn invalid_utf_8_is_a_bad_packet() {
    let mut siege = Siege::begin(&[]);
    let bad: [&[u8]; 5] = [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82"];
    let mut client = siege.socket(true);
    for bad in bad {
        for (before, after) in [
            (&b""[..], &b""[..]),
            (b"{\"sub\":{\"cn\":\"", b"\"}}"),
            (b"{\"", b"\":{}}"),
            (b"{\"pub\":{\"cn\":\"a\",\"q\":1,\"id\":\"1\",\"dt\":\"", b"\"}}"),
        ] {
            client.stream.write_all(&[before, bad, after, b"\0"].concat()).unwrap();
            client.send(r#"{"hb":{}}"#);
            client.expect(r#"{"hbAck":{}}"#);
        }
        let mut web = siege.websocket(true);
        web.stream.write_all(&frame(0x81, bad)).unwrap();
        assert_eq!(web.next().as_deref(), Some("close 4501"));
        assert_eq!(web.next(), None);
    }
    siege.endured();
}

#[test] // RFC 6455 §5, protocol.md 2.5, 2.22
fn frames_that_break_the_rules_close_a_websocket_with_a_code_for_it() {
    let mut siege = Siege::begin(&[]);
    let mut huge_fragments = frame(0x01, &[b'x'; 60_000]);
    for _ in 0..100 {
        huge_fragments.extend(frame(0x00, &[b'x'; 60_000]));
    }
    let cases: [(&str, Vec<u8>, &str); 9] = [
        ("binary", frame(0x82, br#"{"hb":{}}"#), "close 4501"),
        ("binary in fragments", [frame(0x02, b"{"), frame(0x80, b"}")].concat(), "close 4501"),
        ("not masked", [&[0x81, 9][..], br#"{"hb":{}}"#].concat(), "close 4501"),
        ("a continuation of nothing", frame(0x80, b"x"), "close 4501"),
        ("a message within a message", [frame(0x01, b"{"), frame(0x81, b"}")].concat(), "close 4501"),
        ("a long ping", frame(0x89, &[b'p'; 126]), "close 4501"),
        ("a reserved bit", frame(0xC1, b"x"), "close 4501"),
        ("one frame too large", vec![0x81, 0xFF, 0, 0, 0, 0xFF, 0, 0, 0, 0, 0, 0, 0, 0], "close 4502"),
        ("too large in fragments", huge_fragments, "close 4502"),
    ];
    for has_session in [false, true] {
        for (what, bytes, close) in &cases {
            let mut client = siege.websocket(has_session);
            let _ = client.stream.write_all(bytes); // it may be closed before all is sent
            assert_eq!(client.next().as_deref(), Some(*close), "{what}");
            assert_eq!(client.next(), None, "{what}");
        }
        siege.endured();
    }
}

#[test] // RFC 6455 §5.4, protocol.md 2.5: as many fragments as there are bytes
fn a_message_in_a_million_fragments_is_bounded_like_any_other() {
    let mut siege = Siege::begin(&[]);
    let thousand = [frame(0x00, b"["), frame(0x00, b"")].concat().repeat(1000);
    let mut client = siege.websocket(true);
    client.stream.write_all(&frame(0x01, b"[")).unwrap();
    flood(&mut client.stream, &thousand, 1000 * thousand.len());
    siege.endured();
    client.stream.write_all(&frame(0x80, b"")).unwrap(); // a million levels of nesting: no packet
    client.send(r#"{"hb":{}}"#);
    client.expect(r#"{"hbAck":{}}"#);

    let mut client = siege.websocket(false); // without a session 16 KiB are too much
    client.stream.write_all(&frame(0x01, b"[")).unwrap();
    flood(&mut client.stream, &thousand, 1000 * thousand.len());
    assert!(is_closed(&mut client.stream));
    siege.endured();
}

#[test] // RFC 6455 §5.5.2: each ping wants a pong
fn a_ping_flood_from_a_client_that_reads_nothing_is_bounded() {
    let mut siege = Siege::begin(&[("JMQT_SLOW_CONSUMER_SECONDS", "1")]);
    let mut client = siege.websocket(false);
    client.stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let pings = frame(0x89, &[b'p'; 100]).repeat(500);
    flood(&mut client.stream, &pings, 200 * pings.len());
    siege.endured();
}
