//! Limits of the memory that clients can occupy (docs/configuration.md, "Memory"), measured on a real process.

use std::io::{Read, Write};
use std::path::Path;

use crate::support::{Bystanders, Client, MIB, Process};

/// MAX_PACKET_BYTES and OUTBOUND_QUEUE_BYTES.
const PACKET: u64 = MIB;
const QUEUE: u64 = 2 * MIB;
/// What the rest of the server may grow by meanwhile: SQLite's caches, batches, what the allocator keeps.
const SLACK: u64 = 40 * MIB;
/// About the number of large messages that a server without these bounds would hold.
const MANY: usize = 150;

fn start(folder: &Path, more: &[(&str, &str)]) -> Process {
    let settings = [
        ("JMQT_SLOW_CONSUMER_SECONDS", "600"),
        ("JMQT_TIMEOUT_SECONDS", "600"),
        ("JMQT_MAX_PACKET_BYTES", "1048576"),
        ("JMQT_OUTBOUND_QUEUE_BYTES", "2097152"),
        ("JMQT_MAX_INFLIGHT", "1024"),
    ];
    Process::start(&folder.join("jmqt.db"), &[&settings, more].concat())
}

/// The data of a message that fills a packet but for a few bytes.
fn large() -> String {
    format!("\"{}\"", "x".repeat(usize::try_from(PACKET).unwrap() - 200))
}

/// How much the process has grown at most since `before`, after others have had many turns.
fn growth(process: &Process, before: u64, others: &mut Bystanders) -> u64 {
    let mut most = 0;
    for _ in 0..300 {
        others.exchange();
        most = most.max(process.resident().saturating_sub(before));
    }
    most
}

/// Reads and discards this many packets.
fn read_packets(client: &mut Client, mut count: usize) {
    let mut chunk = vec![0; 256 * 1024];
    while count > 0 {
        let length = client.stream.read(&mut chunk).unwrap();
        assert!(length > 0, "the connection ended {count} packets too early");
        count = count.saturating_sub(memchr(&chunk[..length]));
    }
}

fn memchr(bytes: &[u8]) -> usize {
    bytes.split(|byte| *byte == 0).count() - 1
}

#[test] // pipelined requests with large answers
fn pipelined_subscriptions_to_a_large_retained_message_hold_one_queue() {
    let folder = tempfile::tempdir().unwrap();
    let process = start(folder.path(), &[]);
    let mut others = Bystanders::new(&process);
    let mut alice = process.connect("alice");
    alice.send(&format!(r#"{{"pub":{{"cn":"large","dt":{},"rt":1}}}}"#, large()));
    alice.sub("large", 0);
    read_packets(&mut alice, 1);
    let before = process.resident();
    let request = b"{\"sub\":{\"cn\":\"large\"}}\0".repeat(MANY);
    alice.stream.write_all(&request).unwrap();
    let grown = growth(&process, before, &mut others);
    assert!(grown < QUEUE + PACKET + SLACK, "it grew by {} MiB", grown / MIB);
    read_packets(&mut alice, 2 * MANY); // all of them are answered
}

#[test] // §9.b: the retained messages that follow a `conn`
fn a_conn_with_many_retained_messages_holds_one_queue() {
    let folder = tempfile::tempdir().unwrap();
    let process = start(folder.path(), &[]);
    let mut others = Bystanders::new(&process);
    let mut alice = process.connect("alice");
    let mut bob = process.connect("bob");
    for number in 0..MANY {
        bob.sub(&format!("large {number}"), 1);
    }
    drop(bob);
    for number in 0..MANY {
        alice.send(&format!(r#"{{"pub":{{"cn":"large {number}","dt":{},"rt":1}}}}"#, large()));
    }
    alice.publish("small", "1", "last"); // stored after them
    alice.expect(r#"{"pubAck":{"st":1,"#);
    let before = process.resident();
    let mut bob = process.connect("bob");
    let grown = growth(&process, before, &mut others);
    assert!(grown < QUEUE + PACKET + SLACK, "it grew by {} MiB", grown / MIB);
    read_packets(&mut bob, MANY);
}

#[test] // protocol.md 2.14: a large window does not get around the limit of the queue
fn large_qos_1_pushes_to_a_client_that_reads_nothing_hold_two_queues() {
    let folder = tempfile::tempdir().unwrap();
    let process = start(folder.path(), &[]);
    let mut others = Bystanders::new(&process);
    let mut alice = process.connect("alice");
    let mut stuck = process.connect_with_window("stuck");
    stuck.sub("large", 0);
    let before = process.resident();
    let mut most = 0;
    for number in 0..MANY {
        alice.publish("large", &large(), &number.to_string());
        alice.expect(r#"{"pubAck":{"st":1,"#);
        most = most.max(process.resident().saturating_sub(before));
    }
    most = most.max(growth(&process, before, &mut others));
    assert!(most < 2 * (QUEUE + PACKET) + SLACK, "it grew by {} MiB", most / MIB);
}

#[test] // MAX_TOTAL_OUTBOUND_BYTES: retained messages of many clients that read nothing
fn retained_messages_wait_until_all_queues_together_have_room() {
    let folder = tempfile::tempdir().unwrap();
    let process = start(folder.path(), &[("JMQT_MAX_TOTAL_OUTBOUND_BYTES", "8388608")]);
    let mut others = Bystanders::new(&process);
    let mut alice = process.connect("alice");
    for number in 0..MANY {
        alice.send(&format!(r#"{{"pub":{{"cn":"large {number}","dt":{},"q":1,"rt":1,"id":"1"}}}}"#, large()));
        alice.expect(r#"{"pubAck":{"st":1,"#);
    }
    let before = process.resident();
    let mut clients: Vec<_> = (0..MANY).map(|number| process.connect(&format!("client {number}"))).collect();
    for (number, client) in clients.iter_mut().enumerate() {
        client.send(&format!(r#"{{"sub":{{"cn":"large {number}"}}}}"#));
    }
    let grown = growth(&process, before, &mut others);
    assert!(grown < (8 + 16) * MIB + SLACK, "it grew by {} MiB", grown / MIB);
    // When they read, all get what they have asked for.
    std::thread::scope(|scope| {
        for client in &mut clients {
            scope.spawn(|| read_packets(client, 2));
        }
    });
}

#[test] // MAX_TOTAL_PARTIAL_PACKET_BYTES, MAX_TOTAL_PRECONN_BYTES
fn incomplete_packets_of_many_connections_stay_within_the_common_limit() {
    let folder = tempfile::tempdir().unwrap();
    let totals =
        [("JMQT_MAX_TOTAL_PARTIAL_PACKET_BYTES", "8388608"), ("JMQT_MAX_TOTAL_PRECONN_BYTES", "1048576")];
    let process = start(folder.path(), &totals);
    let mut others = Bystanders::new(&process);
    let before = process.resident();
    let half = vec![b'x'; usize::try_from(PACKET).unwrap() - 1];
    let mut clients = Vec::new();
    for number in 0..MANY {
        let mut client = process.connect(&format!("client {number}"));
        // It may be closed meanwhile, which is the point.
        drop(client.stream.write_all(&half));
        let mut nobody = Client::open(process.socket);
        drop(nobody.stream.write_all(&half[..15_000]));
        clients.push((client, nobody));
    }
    let grown = growth(&process, before, &mut others);
    assert!(grown < 9 * MIB + SLACK, "it grew by {} MiB", grown / MIB);
}

#[test] // protocol.md 2.14: a small push that waits does not keep the batch alive that it came in
fn small_pushes_that_wait_hold_no_large_batches() {
    let folder = tempfile::tempdir().unwrap();
    let process = start(folder.path(), &[]);
    let mut others = Bystanders::new(&process);
    let mut stuck = Client::open(process.socket);
    stuck.conn("stuck", r#","wn":1"#);
    stuck.sub("mixed", 0);
    let mut alice = process.connect("alice");
    let before = process.resident();
    // A client is not sent its own messages: it is the small ones of others that wait for it.
    let large = format!(r#"{{"pub":{{"cn":"mixed","dt":"{}","q":1,"id":"l"}}}}"#, "x".repeat(250_000));
    let mut most = 0;
    for _ in 0..100 {
        for _ in 0..8 {
            stuck.send(&large);
            alice.publish("mixed", "1", "s");
        }
        for _ in 0..8 {
            alice.expect(r#"{"pubAck":{"st":1,"#);
            while !stuck.next().unwrap().starts_with(r#"{"pubAck":{"st":1,"#) {}
        }
        most = most.max(process.resident().saturating_sub(before));
    }
    most = most.max(growth(&process, before, &mut others));
    assert!(most < 2 * (QUEUE + PACKET) + SLACK, "it grew by {} MiB", most / MIB);
}
