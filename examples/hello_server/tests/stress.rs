//! Hostile and hopeless clients: the process lives, others are served, memory is bounded.

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use support::{Client, DEADLINE, Process};

const MIB: u64 = 1 << 20;

/// A pair of clients that must go on exchanging messages whatever others do.
struct Bystanders {
    alice: Client,
    bob: Client,
}

impl Bystanders {
    fn new(process: &Process) -> Self {
        let (alice, mut bob) = (process.connect("bystander alice"), process.connect("bystander bob"));
        bob.sub("quiet", 0);
        Self { alice, bob }
    }

    fn exchange(&mut self) {
        self.alice.publish("quiet", "1", "q");
        self.alice.expect(r#"{"pubAck":{"st":1,"id":"q"}}"#);
        let push = self.bob.expect(r#"{"push":{"cn":"quiet","dt":1,"#);
        self.bob.ack(&push);
    }
}

/// Sends until the server closes the connection, or everything is sent; returns how much went.
fn flood(stream: &mut TcpStream, piece: &[u8], total: usize) -> usize {
    let mut sent = 0;
    while sent < total {
        match stream.write(piece) {
            Ok(length) => sent += length,
            Err(_) => break,
        }
    }
    sent
}

/// Whether the other side closes within the deadline.
fn is_closed(stream: &mut TcpStream) -> bool {
    let mut chunk = [0; 4096];
    let start = Instant::now();
    while start.elapsed() < DEADLINE {
        match stream.read(&mut chunk) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != std::io::ErrorKind::WouldBlock,
        }
    }
    false
}

#[test] // protocol.md 2.5
fn sixty_four_mebibytes_without_a_nul_are_not_buffered() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(&folder.path().join("jmqt.db"), &[]);
    let mut bystanders = Bystanders::new(&process);
    let before = process.resident();
    for has_session in [false, true] {
        let mut client = Client::open(process.socket);
        if has_session {
            client.conn("flooder", "");
        }
        flood(&mut client.stream, &[b'['; 65_536], 64 << 20);
        assert!(is_closed(&mut client.stream));
        bystanders.exchange();
    }
    let grown = process.resident().saturating_sub(before);
    assert!(grown < 24 * MIB, "it grew by {grown} bytes");
}

#[test] // protocol.md 2.5 to 2.8
fn every_field_as_every_kind_of_value_is_survived() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(&folder.path().join("jmqt.db"), &[]);
    let mut bystanders = Bystanders::new(&process);
    let huge = format!("\"{}\"", "x".repeat(100_000));
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let values = [
        "null",
        "[]",
        "{}",
        "7",
        "-1e400",
        "true",
        "\"\"",
        "\"\\u0000\"",
        "\"a\\r\\nb\"",
        "\"\\ud800\"",
        "\"$\"",
        "\"#x\"",
        "\"$x\"",
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
        ("push", &["cn"][..]),
    ];
    for (kind, fields) in packets {
        for field in fields {
            for value in values {
                let mut client = process.connect("hostile");
                let others: String = fields
                    .iter()
                    .filter(|other| *other != field)
                    .map(|other| format!(",\"{other}\":{}", if *other == "q" { "1" } else { "\"1\"" }))
                    .collect();
                client.send(&format!(r#"{{"{kind}":{{"{field}":{value}{others}}}}}"#));
                client.send(&format!(r#"{{"{kind}":{value}}}"#));
                client.send(r#"{"hb":{}}"#);
                while client.next().unwrap() != r#"{"hbAck":{}}"# {}
            }
        }
    }
    bystanders.exchange();
}

#[test]
fn a_ping_flood_from_a_client_that_reads_nothing_is_bounded() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(&folder.path().join("jmqt.db"), &[("JMQT_SLOW_CONSUMER_SECONDS", "1")]);
    let mut bystanders = Bystanders::new(&process);
    let mut stream = TcpStream::connect(process.websocket).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    let upgrade = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(upgrade).unwrap();
    let before = process.resident();
    let mut pings = Vec::new();
    for _ in 0..500 {
        pings.extend_from_slice(&[0x89, 0x80 | 100, 0, 0, 0, 0]);
        pings.extend_from_slice(&[b'p'; 100]);
    }
    flood(&mut stream, &pings, 100_000 * 106);
    bystanders.exchange();
    let grown = process.resident().saturating_sub(before);
    assert!(grown < 24 * MIB, "it grew by {grown} bytes");
}

#[test] // a QoS 0 subscriber that stops reading
fn a_subscriber_that_stops_reading_is_closed_and_others_get_everything() {
    const MESSAGES: usize = 50_000;
    const QUEUE: u64 = 2 * MIB;
    let folder = tempfile::tempdir().unwrap();
    let settings = [
        ("JMQT_SLOW_CONSUMER_SECONDS", "1"),
        ("JMQT_MAX_PACKET_BYTES", "1048576"),
        ("JMQT_OUTBOUND_QUEUE_BYTES", "2097152"),
    ];
    let process = Process::start(&folder.path().join("jmqt.db"), &settings);
    let mut alice = process.connect("alice");
    let (mut stuck, mut bob) = (process.connect("stuck"), process.connect("bob"));
    stuck.sub("news", 0);
    bob.sub("news", 0);
    let before = process.resident();
    let data = "x".repeat(1024);
    let mut most = 0;
    for batch in 0..MESSAGES / 100 {
        let mut text = String::new();
        for number in 0..100 {
            text.push_str(&format!(
                "{{\"pub\":{{\"cn\":\"news\",\"dt\":[{},\"{data}\"]}}}}\0",
                batch * 100 + number
            ));
        }
        alice.stream.write_all(text.as_bytes()).unwrap();
        for number in 0..100 {
            bob.expect(&format!("{{\"push\":{{\"cn\":\"news\",\"dt\":[{},", batch * 100 + number));
        }
        most = most.max(process.resident());
    }
    let grown = most.saturating_sub(before);
    assert!(grown < QUEUE + 16 * MIB, "it grew by {grown} bytes");
    // It must be closed without reading anything, which would make it a slow reader and no stuck one.
    let start = Instant::now();
    loop {
        alice.send(r##"{"pub":{"cn":"#stuck","dt":0,"q":1,"id":"there?"}}"##);
        if alice.expect(r#"{"pubAck":{"st":"#).starts_with(r#"{"pubAck":{"st":8"#) {
            break;
        }
        assert!(start.elapsed() < DEADLINE, "it is still connected");
        std::thread::sleep(Duration::from_millis(50));
    }
    assert!(is_closed(&mut stuck.stream));
}

#[test] // the same with QoS 1: what was not read comes from the store, in order
fn a_persistent_subscriber_that_stops_reading_catches_up_from_the_store() {
    const MESSAGES: usize = 5_000;
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(&folder.path().join("jmqt.db"), &[("JMQT_SLOW_CONSUMER_SECONDS", "60")]);
    let mut alice = process.connect("alice");
    let mut stuck = Client::open(process.socket);
    stuck.conn("stuck", r#","wn":128"#);
    stuck.sub("news", 1);
    let data = "x".repeat(1024);
    let before = process.resident();
    for batch in 0..MESSAGES / 100 {
        for number in 0..100 {
            let number = batch * 100 + number;
            alice.publish("news", &format!("[{number},\"{data}\"]"), &number.to_string());
        }
        for number in 0..100 {
            alice.expect(&format!(r#"{{"pubAck":{{"st":1,"id":"{}"}}}}"#, batch * 100 + number));
        }
    }
    let grown = process.resident().saturating_sub(before);
    assert!(grown < 40 * MIB, "it grew by {grown} bytes");
    for number in 0..MESSAGES {
        let push = stuck.expect(&format!("{{\"push\":{{\"cn\":\"news\",\"dt\":[{number},"));
        stuck.ack(&push);
    }
}

#[test] // protocol.md 2.15
fn ten_thousand_silent_connections_cost_little_and_are_closed() {
    const WANTED: usize = 10_000;
    let limit = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limit.lines().find(|line| line.starts_with("Max open files")).unwrap();
    let files: usize = line.split_whitespace().nth(3).unwrap().parse().unwrap_or(usize::MAX);
    let count = WANTED.min(files.saturating_sub(500));
    if count < WANTED {
        println!("only {count} connections: that is what the limit of open files allows");
    }
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(&folder.path().join("jmqt.db"), &[("JMQT_TIMEOUT_SECONDS", "8")]);
    let mut bystanders = Bystanders::new(&process);
    let before = process.resident();
    let mut silent: Vec<TcpStream> =
        (0..count).map(|_| TcpStream::connect(process.socket).unwrap()).collect();
    bystanders.exchange(); // accepted after all of them
    let each = process.resident().saturating_sub(before) / count as u64;
    assert!(each < 2048, "{each} bytes for each connection");
    for (number, stream) in silent.iter_mut().enumerate() {
        if number % 2 == 0 {
            // The beginning of a first packet, and no more.
            let _ = stream.write(b"{");
        }
    }
    for stream in &mut silent {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        assert!(is_closed(stream));
    }
    assert!(is_closed(&mut bystanders.alice.stream), "it sent no heartbeat either");
    process.connect("newcomer");
}
