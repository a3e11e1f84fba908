//! Subscribers that stop reading: others receive their messages, memory is bounded, and stored messages are not lost.

use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::support::{Client, DEADLINE, MIB, Process, is_closed};

const MESSAGES: usize = 50_000;
const BATCH: usize = 500;
/// This many are published before memory is measured: SQLite's caches, one for each connection to the
/// database, fill up to 16 MiB in any case.
const WARM_UP: usize = 20_000;
/// As many as the server has connections that read.
const READERS: usize = 2;
/// OUTBOUND_QUEUE_BYTES, for each client that does not read.
const QUEUE: u64 = 2 * MIB;
/// What the rest of the server may grow by meanwhile: buffers, the commit queue, what the allocator keeps.
const SLACK: u64 = 8 * MIB;
/// How long the others may wait for a batch. They wait a few milliseconds; a server that waits for
/// somebody who does not read waits for SLOW_CONSUMER_SECONDS, which is longer.
const NO_DELAY: Duration = Duration::from_secs(15);

/// With queues of [`QUEUE`] bytes.
fn start(folder: &Path) -> Process {
    let settings = [
        ("JMQT_SLOW_CONSUMER_SECONDS", "20"),
        ("JMQT_TIMEOUT_SECONDS", "600"), // some clients say nothing while 50,000 messages go to others
        ("JMQT_MAX_PACKET_BYTES", "1048576"),
        ("JMQT_OUTBOUND_QUEUE_BYTES", "2097152"),
        ("JMQT_MAX_INFLIGHT", "1024"),
    ];
    Process::start(&folder.join("jmqt.db"), &settings)
}

/// The data of a message, 1 KiB and its number.
fn data(number: usize) -> String {
    format!("[{number},\"{}\"]", "x".repeat(1024))
}

/// Messages in one write; `more` follows the data.
fn publish(client: &mut Client, numbers: Range<usize>, more: impl Fn(usize) -> String) {
    let mut text = String::new();
    for number in numbers {
        let (data, more) = (data(number), more(number));
        text.push_str(&format!("{{\"pub\":{{\"cn\":\"news\",\"dt\":{data}{more}}}}}\0"));
    }
    client.stream.write_all(text.as_bytes()).unwrap();
}

/// The next push must be this one.
fn expect_push(client: &mut Client, number: usize) -> String {
    client.expect(&format!("{{\"push\":{{\"cn\":\"news\",\"dt\":[{number},"))
}

/// Receives and acknowledges this many messages, and no more come.
fn read_everything(mut client: Client, messages: usize) -> Client {
    for number in 0..messages {
        let push = expect_push(&mut client, number);
        client.ack(&push);
    }
    client
}

/// Batches, one after the other: how long the longest took, and the most that the server grew by.
fn stream(process: &Process, numbers: Range<usize>, mut batch: impl FnMut(Range<usize>)) -> (Duration, u64) {
    let before = process.resident();
    let (mut longest, mut most) = (Duration::ZERO, 0);
    for first in numbers.step_by(BATCH) {
        let start = Instant::now();
        batch(first..first + BATCH);
        longest = longest.max(start.elapsed());
        most = most.max(process.resident().saturating_sub(before));
    }
    (longest, most)
}

/// Waits until this client has no session any more, without reading from it: that would make it a slow
/// reader and no stuck one.
fn wait_until_gone(name: &str, asking: &mut Client) {
    let start = Instant::now();
    loop {
        asking.send(&format!(r##"{{"pub":{{"cn":"#{name}","dt":0,"q":1,"id":"there?"}}}}"##));
        if asking.expect(r#"{"pubAck":{"st":"#).starts_with(r#"{"pubAck":{"st":8"#) {
            return;
        }
        assert!(start.elapsed() < DEADLINE, "{name} is still connected");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test] // QoS 0: what its queue does not hold is dropped, and after a while it is closed
fn a_subscriber_that_stops_reading_is_closed_and_others_get_everything() {
    let folder = tempfile::tempdir().unwrap();
    let process = start(folder.path());
    let mut alice = process.connect("alice");
    let (mut stuck, mut bob) = (process.connect("stuck"), process.connect("bob"));
    bob.sub("news", 0);
    let mut batch = |batch: Range<usize>| {
        publish(&mut alice, batch.clone(), |_| String::new());
        for number in batch {
            expect_push(&mut bob, number);
        }
    };
    stream(&process, 0..WARM_UP, &mut batch);
    stuck.sub("news", 0);
    let (longest, grown) = stream(&process, 0..MESSAGES, batch);
    assert!(longest < NO_DELAY, "bob waited {longest:?}");
    assert!(grown < QUEUE + SLACK, "it grew by {grown} bytes");
    wait_until_gone("stuck", &mut alice);
    assert!(is_closed(&mut stuck.stream));
}

#[test] // QoS 1, protocol.md 2.13, 2.14: what was not read waits in the store, and comes in order
fn persistent_subscribers_that_stop_reading_catch_up_from_the_store() {
    let folder = tempfile::tempdir().unwrap();
    let process = start(folder.path());
    let mut alice = process.connect("alice");
    let mut bob = process.connect_with_window("bob");
    bob.sub("news", 1);
    let mut batch = |batch: Range<usize>| {
        publish(&mut alice, batch.clone(), |number| format!(r#","q":1,"id":"{number}""#));
        for number in batch.clone() {
            alice.expect(&format!(r#"{{"pubAck":{{"st":1,"id":"{number}"}}}}"#));
        }
        for number in batch {
            let push = expect_push(&mut bob, number);
            bob.ack(&push);
        }
    };
    let readers: Vec<_> = (0..READERS).map(|number| format!("reader{number}")).collect();
    for name in &readers {
        process.connect(name).sub("news", 1); // and away
    }
    stream(&process, 0..WARM_UP, &mut batch);
    std::thread::scope(|scope| {
        for name in &readers {
            let reader = process.connect_with_window(name);
            scope.spawn(|| read_everything(reader, WARM_UP).send(r#"{"unsub":{"cn":"news"}}"#));
        }
    });
    // One whose window is full, and one whose socket and queue are.
    let (mut full, mut clogged) =
        (process.connect_with_window("full"), process.connect_with_window("clogged"));
    full.sub("news", 1);
    clogged.sub("news", 1);
    clogged.sub("noise", 0);
    let mut carol = process.connect("carol");
    let noise = format!(r#"{{"pub":{{"cn":"noise","dt":"{}"}}}}"#, "x".repeat(100_000));
    for _ in 0..200 {
        carol.send(&noise); // 20 MB: more than the kernel keeps
    }
    let (longest, grown) = stream(&process, 0..MESSAGES, batch);
    assert!(longest < NO_DELAY, "bob waited {longest:?}");
    assert!(grown < 2 * QUEUE + SLACK, "it grew by {grown} bytes");

    wait_until_gone("clogged", &mut carol); // by SLOW_CONSUMER_SECONDS
    let back = process.connect_with_window("clogged");
    for (client, name) in [(full, "full"), (back, "clogged")] {
        let mut client = read_everything(client, MESSAGES);
        alice.send(&format!(r##"{{"pub":{{"cn":"#{name}","dt":"end"}}}}"##));
        client.expect(&format!(r##"{{"push":{{"cn":"#{name}","dt":"end""##)); // nothing comes twice
    }
}
