//! kill -9 under load: no acknowledged message is lost (protocol.md 2.13).

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use support::{Client, Process, field};

const PUBLISHERS: usize = 50;
const WINDOW: usize = 100;
const CHANNELS: usize = 10;

/// What one subscriber got of each publisher before the kill.
#[derive(Default)]
struct Received {
    /// When a push was acknowledged, by its id.
    acknowledged: HashMap<String, Instant>,
    /// The id of each message, by publisher and number.
    ids: HashMap<(usize, usize), String>,
    /// The next number that may come of each publisher: order is kept, repeats are below it.
    next: HashMap<usize, usize>,
}

impl Received {
    /// Notes a push `[publisher,number]`, and checks order and identity.
    fn note(&mut self, push: &str) {
        let (publisher, number) = origin(push);
        let id = field(push, "id").trim_matches('"').to_owned();
        if let Some(before) = self.ids.insert((publisher, number), id.clone()) {
            assert_eq!(before, id, "what comes twice carries the same id");
        } else {
            let next = self.next.entry(publisher).or_default();
            assert_eq!(number, *next, "publish order of publisher {publisher}");
            *next += 1;
        }
    }
}

/// `[publisher,number]`, which is what the messages hold.
fn origin(push: &str) -> (usize, usize) {
    let (_, data) = push.split_once("\"dt\":[").unwrap();
    let (publisher, rest) = data.split_once(',').unwrap();
    let (number, _) = rest.split_once(']').unwrap();
    (publisher.parse().unwrap(), number.parse().unwrap())
}

fn channel(publisher: usize) -> String {
    format!("channel{}", publisher % CHANNELS)
}

/// Publishes with a window until the server is gone; returns how many were acknowledged, which are
/// the first ones, because acknowledgements keep their order.
fn stream(mut client: Client, publisher: usize) -> usize {
    let (mut sent, mut acknowledged) = (0, 0);
    loop {
        while sent < acknowledged + WINDOW {
            let data = format!("[{publisher},{sent}]");
            let text = format!(
                "{{\"pub\":{{\"cn\":\"{}\",\"dt\":{data},\"q\":1,\"id\":\"{sent}\"}}}}\0",
                channel(publisher)
            );
            if std::io::Write::write_all(&mut client.stream, text.as_bytes()).is_err() {
                return drain_acks(client, acknowledged);
            }
            sent += 1;
        }
        let Some(ack) = client.next() else { return acknowledged };
        assert_eq!(ack, format!(r#"{{"pubAck":{{"st":1,"id":"{acknowledged}"}}}}"#));
        acknowledged += 1;
    }
}

/// Acknowledgements that had arrived before the connection broke count too.
fn drain_acks(mut client: Client, mut acknowledged: usize) -> usize {
    while client.next().is_some() {
        acknowledged += 1;
    }
    acknowledged
}

/// Acknowledges everything until the server is gone.
fn consume(mut client: Client, received: &Mutex<Received>) {
    while let Some(push) = client.next() {
        let mut received = received.lock().unwrap();
        received.note(&push);
        let id = field(&push, "id").trim_matches('"').to_owned();
        let ack = format!("{{\"pushAck\":{{\"id\":\"{id}\"}}}}\0");
        if std::io::Write::write_all(&mut client.stream, ack.as_bytes()).is_err() {
            return;
        }
        received.acknowledged.insert(id, Instant::now());
    }
}

#[test] // protocol.md 2.13, 2.14
fn every_acknowledged_message_survives_kill_9_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("jmqt.db");
    let mut process = Process::start(&store, &[]);
    // For each channel one subscriber that is there and acknowledges, and one that is away.
    let mut consumers = Vec::new();
    let mut received = Vec::new();
    for number in 0..CHANNELS {
        for kind in ["there", "away"] {
            let mut client = Client::open(process.socket);
            client.conn(&format!("{kind}{number}"), r#","wn":128"#);
            client.sub(&format!("channel{number}"), 1);
            let notes = Arc::new(Mutex::new(Received::default()));
            received.push((format!("{kind}{number}"), number, Arc::clone(&notes)));
            if kind == "there" {
                consumers.push(thread::spawn(move || consume(client, &notes)));
            }
        }
    }
    let publishers: Vec<_> = (0..PUBLISHERS)
        .map(|publisher| {
            let client = process.connect(&format!("publisher{publisher}"));
            thread::spawn(move || stream(client, publisher))
        })
        .collect();
    // The kill is to fall into the middle of the stream, wherever that is.
    thread::sleep(Duration::from_millis(1500));
    let killed_at = Instant::now();
    process.kill();
    let acknowledged: Vec<usize> = publishers.into_iter().map(|thread| thread.join().unwrap()).collect();
    for consumer in consumers {
        consumer.join().unwrap();
    }
    assert!(acknowledged.iter().sum::<usize>() > PUBLISHERS, "the stream had hardly begun: {acknowledged:?}");

    let process = Process::start(&store, &[]);
    for (name, number, notes) in received {
        let mut notes = notes.lock().unwrap();
        let mut client = Client::open(process.socket);
        client.conn(&name, r#","wn":128"#);
        // Everything that is pending has come when a message behind it has.
        let mut marker = process.connect("marker");
        marker.publish(&format!("channel{number}"), "[999,0]", "end");
        marker.expect(r#"{"pubAck":{"st":1,"id":"end"}}"#);
        loop {
            let push = client.next().unwrap();
            let id = client.ack(&push);
            if origin(&push).0 == 999 {
                break;
            }
            if let Some(when) = notes.acknowledged.get(&id) {
                // Within a second it is on disk; twice that is for a machine that is busy.
                let before = killed_at.saturating_duration_since(*when);
                assert!(before < Duration::from_secs(2), "{id} was acknowledged {before:?} before the kill");
            }
            notes.note(&push);
        }
        for publisher in (0..PUBLISHERS).filter(|publisher| publisher % CHANNELS == number) {
            let got = notes.next.get(&publisher).copied().unwrap_or(0);
            assert!(
                got >= acknowledged[publisher],
                "{name}: {got} of {} of {publisher}",
                acknowledged[publisher]
            );
        }
    }
}

#[test] // protocol.md 2.13
fn acknowledged_subscriptions_and_retained_messages_survive_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("jmqt.db");
    for round in 0..5 {
        let mut process = Process::start(&store, &[]);
        // Another client each time: what was acknowledged just before a kill may come again.
        let name = format!("alice{round}");
        let mut alice = process.connect(&name);
        alice.sub(&format!("news{round}"), 1);
        alice.send(&format!(r#"{{"pub":{{"cn":"kept","dt":{round},"q":1,"rt":1,"id":"r"}}}}"#));
        alice.expect(r#"{"pubAck":{"st":1,"id":"r"}}"#);
        process.kill();

        let process = Process::start(&store, &[]);
        let (mut alice, mut bob) = (process.connect(&name), process.connect("bob"));
        bob.publish(&format!("news{round}"), "1", "p");
        bob.expect(r#"{"pubAck":{"st":1,"id":"p"}}"#);
        let push = alice.expect(r#"{"push":{"cn":"news"#);
        alice.ack(&push);
        bob.send(r#"{"sub":{"cn":"kept"}}"#);
        bob.expect(r#"{"subAck":{"st":1,"#);
        bob.expect(&format!(r#"{{"push":{{"cn":"kept","dt":{round},"cl":"{name}","rt":1}}}}"#));
    }
}
