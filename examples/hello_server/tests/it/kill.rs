//! kill -9 under load: no acknowledged message is lost (protocol.md 2.13).

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Write};
use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Client, DEADLINE, Process, field};

const PUBLISHERS: usize = 50;
const WINDOW: usize = 100;
const CHANNELS: usize = 10;
/// One server after the other is killed when it has acknowledged this many messages: the first one, a
/// few, and in the midst of a stream that has been going on for a while.
const KILL_AFTER: [usize; 4] = [1, 500, 10_000, 50_000];
/// How long before a kill a push may have been acknowledged that comes again (2.13), and as much longer as the
/// machine held up a [`Pulse`].
const FORGOTTEN: Duration = Duration::from_secs(1);

/// Sleeps and writes to the disk by turns, and notes how long that took at most.
struct Pulse {
    longest: Arc<Mutex<Duration>>,
    /// Ends the thread when it is dropped.
    _alive: mpsc::Sender<()>,
}

impl Pulse {
    fn start(folder: &Path) -> Self {
        let mut file = File::create(folder.join("pulse")).unwrap();
        let longest = Arc::new(Mutex::new(Duration::ZERO));
        let (alive, ended) = mpsc::channel();
        let noted = Arc::clone(&longest);
        thread::spawn(move || {
            let mut start = Instant::now();
            while ended.recv_timeout(Duration::from_millis(10)) == Err(mpsc::RecvTimeoutError::Timeout) {
                file.write_all(b".").unwrap();
                file.sync_data().unwrap();
                let end = Instant::now();
                let mut longest = noted.lock().unwrap();
                *longest = longest.max(end - start);
                start = end;
            }
        });
        Self { longest, _alive: alive }
    }

    fn longest(&self) -> Duration {
        *self.longest.lock().unwrap()
    }
}

/// A client that publishes `[index,0]`, `[index,1]` … on a channel it shares with four others.
struct Publisher {
    index: usize,
    sent: usize,
    /// What was acknowledged, one range of numbers from each server.
    acknowledged: Vec<Range<usize>>,
}

/// A client with a persistent subscription, and what it got so far.
struct Subscriber<'p> {
    pulse: &'p Pulse,
    name: String,
    channel: usize,
    is_there: bool,
    /// When a push was acknowledged, by its id.
    acknowledged: HashMap<String, Instant>,
    /// The id of each message, by publisher and number.
    ids: HashMap<(usize, usize), String>,
    /// The last number of each publisher.
    last: HashMap<usize, usize>,
}

impl Subscriber<'_> {
    /// Notes a push `[publisher,number]`, and checks order, identity, and whether it may come again.
    fn note(&mut self, push: &str, id: &str, killed_at: Option<Instant>) {
        let (publisher, number) = origin(push);
        if let Some(before) = self.ids.insert((publisher, number), id.to_owned()) {
            assert_eq!(before, id, "what comes twice carries the same id");
        } else {
            let last = self.last.insert(publisher, number);
            assert!(last < Some(number), "{publisher}: {number} after {last:?}");
        }
        if let Some(when) = self.acknowledged.get(id) {
            let killed_at = killed_at.expect("a push is not repeated within a connection");
            let before = killed_at.saturating_duration_since(*when);
            let stalled = self.pulse.longest();
            assert!(
                before < FORGOTTEN + stalled,
                "{id} was acknowledged {before:?} before the kill, and the longest stall was {stalled:?}"
            );
        }
    }

    /// Acknowledges everything until the server is gone.
    fn consume(&mut self, mut client: Client, killed_at: Option<Instant>) {
        while let Some(push) = client.next() {
            let id = field(&push, "id").trim_matches('"').to_owned();
            self.note(&push, &id, killed_at);
            let ack = format!("{{\"pushAck\":{{\"id\":\"{id}\"}}}}\0");
            if client.stream.write_all(ack.as_bytes()).is_err() {
                return;
            }
            self.acknowledged.insert(id, Instant::now());
        }
    }

    /// Gets everything that is pending for it.
    fn drain(&mut self, process: &Process, killed_at: Instant) {
        let mut client = self.connect(process);
        // It has all come when a message behind it has.
        let mut marker = process.connect("marker");
        marker.publish(&channel(self.channel), "[999,0]", "end");
        marker.expect(r#"{"pubAck":{"st":1,"id":"end"}}"#);
        loop {
            let push = client.next().unwrap();
            let id = client.ack(&push);
            if origin(&push).0 == 999 {
                return;
            }
            self.note(&push, &id, Some(killed_at));
        }
    }

    fn connect(&self, process: &Process) -> Client {
        let mut client = Client::open(process.socket);
        client.conn(&self.name, r#","wn":128"#);
        client
    }
}

/// Counts acknowledgements, and tells when it is time for the kill.
struct Tally {
    count: AtomicUsize,
    wanted: usize,
    reached: Mutex<mpsc::Sender<()>>,
}

impl Tally {
    fn one_more(&self) {
        if self.count.fetch_add(1, Ordering::Relaxed) + 1 == self.wanted {
            self.reached.lock().unwrap().send(()).unwrap();
        }
    }
}

impl Publisher {
    /// Publishes with a window until the server is gone. What was acknowledged are the first ones,
    /// because acknowledgements keep their order.
    fn stream(&mut self, mut client: Client, tally: &Tally) {
        let first = self.sent;
        let mut acknowledged = first;
        loop {
            while self.sent < acknowledged + WINDOW && self.publish(&mut client).is_ok() {
                self.sent += 1;
            }
            // Acknowledgements that arrived before the connection broke count too.
            let Some(ack) = client.next() else { break };
            assert_eq!(ack, format!(r#"{{"pubAck":{{"st":1,"id":"{acknowledged}"}}}}"#));
            acknowledged += 1;
            tally.one_more();
        }
        self.acknowledged.push(first..acknowledged);
    }

    fn publish(&self, client: &mut Client) -> io::Result<()> {
        let (index, number, cn) = (self.index, self.sent, channel(self.index));
        let text = format!(
            "{{\"pub\":{{\"cn\":\"{cn}\",\"dt\":[{index},{number}],\"q\":1,\"id\":\"{number}\"}}}}\0"
        );
        client.stream.write_all(text.as_bytes())
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

/// For each channel one subscriber that is there and acknowledges, and one that is away.
fn subscribers<'p>(process: &Process, pulse: &'p Pulse) -> Vec<Subscriber<'p>> {
    let mut subscribers = Vec::new();
    for channel_number in 0..CHANNELS {
        for is_there in [true, false] {
            let subscriber = Subscriber {
                pulse,
                name: format!("{}{channel_number}", if is_there { "there" } else { "away" }),
                channel: channel_number,
                is_there,
                acknowledged: HashMap::new(),
                ids: HashMap::new(),
                last: HashMap::new(),
            };
            subscriber.connect(process).sub(&channel(channel_number), 1);
            subscribers.push(subscriber);
        }
    }
    subscribers
}

/// Streams until this many messages are acknowledged, and kills the server meanwhile.
fn stream_and_kill(
    process: &mut Process,
    publishers: &mut [Publisher],
    subscribers: &mut [Subscriber<'_>],
    kill_after: usize,
    killed_before: Option<Instant>,
) -> Instant {
    let (reached, is_reached) = mpsc::channel();
    let tally = Tally { count: AtomicUsize::new(0), wanted: kill_after, reached: Mutex::new(reached) };
    thread::scope(|scope| {
        for subscriber in subscribers.iter_mut().filter(|subscriber| subscriber.is_there) {
            let client = subscriber.connect(process);
            scope.spawn(move || subscriber.consume(client, killed_before));
        }
        let clients: Vec<_> =
            publishers.iter().map(|it| process.connect(&format!("publisher{}", it.index))).collect();
        for (publisher, client) in publishers.iter_mut().zip(clients) {
            let tally = &tally;
            scope.spawn(move || publisher.stream(client, tally));
        }
        let time_to_kill = is_reached.recv_timeout(6 * DEADLINE);
        let killed_at = Instant::now();
        process.kill(); // also if it is too late: the threads wait for the end of the server
        time_to_kill.unwrap();
        killed_at
    })
}

#[test] // protocol.md 2.13, 2.14
fn every_acknowledged_message_survives_kill_9_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("jmqt.db");
    let mut process = Process::start(&store, &[]);
    let pulse = Pulse::start(folder.path());
    let mut subscribers = subscribers(&process, &pulse);
    let publisher = |index| Publisher { index, sent: 0, acknowledged: Vec::new() };
    let mut publishers: Vec<_> = (0..PUBLISHERS).map(publisher).collect();
    let mut killed_at = None;
    for kill_after in KILL_AFTER {
        let killed = stream_and_kill(&mut process, &mut publishers, &mut subscribers, kill_after, killed_at);
        killed_at = Some(killed);
        process = Process::start(&store, &[]);
    }
    for subscriber in &mut subscribers {
        subscriber.drain(&process, killed_at.unwrap());
        for publisher in publishers.iter().filter(|it| it.index % CHANNELS == subscriber.channel) {
            for number in publisher.acknowledged.iter().cloned().flatten() {
                let message = (publisher.index, number);
                assert!(subscriber.ids.contains_key(&message), "{}: {message:?} is lost", subscriber.name);
            }
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
