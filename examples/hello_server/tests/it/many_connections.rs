//! Ten thousand connections without a session, and a hundred connections of the same client.

use std::io::Write;
use std::net::TcpStream;
use std::sync::{Arc, Barrier, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::{Bystanders, Client, DEADLINE, Process, is_closed};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const TIMEOUT: Duration = Duration::from_secs(8);
/// Memory of the server for a connection without a session.
const BYTES_EACH: u64 = 2048;
/// What else the test has open.
const OTHER_FILES: u64 = 500;

/// The number of connections, unless the limit of open files is lower.
fn allowed_connections(wanted: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let enough = wanted as u64 + OTHER_FILES;
    let limit = maximum.map_or(enough, |maximum| maximum.min(enough));
    let limit = current.map_or(u64::MAX, |current| current.max(limit));
    // For the server too, which inherits it.
    setrlimit(Resource::Nofile, Rlimit { current: current.and(Some(limit)), maximum }).unwrap();
    let allowed = usize::try_from(limit.saturating_sub(OTHER_FILES)).unwrap();
    if allowed < wanted {
        println!("only {allowed} connections: that is what the limit of open files allows");
    }
    allowed.min(wanted)
}

/// A connection, and when it was begun.
struct Waiting {
    stream: TcpStream,
    since: Instant,
}

impl Waiting {
    fn ended(&self) {
        let waited = self.since.elapsed();
        assert!(waited >= TIMEOUT, "closed after {waited:?}");
    }
}

/// Sends the beginning of a packet, a byte at a time to each, until all have been closed.
fn dribble(mut connections: Vec<Waiting>, mut after_round: impl FnMut()) {
    let start = Instant::now();
    let mut packet = br#"{"auth":{"dt":""#.iter().chain(std::iter::repeat(&b'x'));
    while !connections.is_empty() {
        assert!(start.elapsed() < 2 * TIMEOUT, "{} are still open", connections.len());
        let byte = *packet.next().unwrap();
        connections.retain_mut(|connection| {
            let is_open = connection.stream.write_all(&[byte]).is_ok();
            if !is_open {
                connection.ended();
            }
            is_open
        });
        after_round();
        thread::sleep(Duration::from_millis(100)); // the pace of the dribble
    }
}

#[test] // protocol.md 2.15: the wait for the first packet is one wait, even if bytes arrive
fn ten_thousand_connections_that_are_silent_or_dribble_cost_little_and_are_closed() {
    let count = allowed_connections(10_000);
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(&folder.path().join("jmqt.db"), &[("JMQT_TIMEOUT_SECONDS", "8")]);
    let mut bystanders = Bystanders::new(&process);
    let before = process.resident();
    let mut open = |number| {
        // They must not be closed for their silence, however long this takes.
        if number % 500 == 0 {
            bystanders.exchange();
        }
        let since = Instant::now();
        Waiting { stream: TcpStream::connect(process.socket).unwrap(), since }
    };
    let mut silent: Vec<Waiting> = (0..count).map(&mut open).collect();
    bystanders.exchange(); // accepted after all of them
    let each = |resident: u64| resident.saturating_sub(before) / count as u64;
    let at_rest = each(process.resident());
    let dribbling = silent.split_off(count / 2);
    let mut most = 0;
    dribble(dribbling, || {
        bystanders.exchange();
        most = most.max(each(process.resident()));
    });
    println!("{at_rest} bytes each at rest, {most} with half of them dribbling");
    assert!(at_rest < BYTES_EACH, "{at_rest} bytes each");
    assert!(most < BYTES_EACH, "{most} bytes each");
    for connection in &mut silent {
        connection.stream.set_read_timeout(Some(DEADLINE)).unwrap();
        assert!(is_closed(&mut connection.stream));
        connection.ended();
    }
    bystanders.exchange();
    process.connect("newcomer");
}

#[test] // protocol.md 2.4
fn of_a_hundred_connections_of_one_client_exactly_one_survives() {
    const CONNECTIONS: usize = 100;
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(&folder.path().join("jmqt.db"), &[("JMQT_MAX_TAKEOVERS_PER_SECOND", "0")]);
    let mut bystanders = Bystanders::new(&process);
    let everybody_is_ready = Arc::new(Barrier::new(CONNECTIONS));
    // `true` when its session is open, `false` when its connection is closed.
    let (told, news) = mpsc::channel();
    let mut threads = Vec::new();
    for index in 0..CONNECTIONS {
        let mut client =
            if index % 2 == 0 { Client::open(process.socket) } else { Client::websocket(process.websocket) };
        let (everybody_is_ready, told) = (Arc::clone(&everybody_is_ready), told.clone());
        threads.push(thread::spawn(move || {
            let token = client.authenticate("the one");
            everybody_is_ready.wait();
            client.send(&format!(r#"{{"conn":{{"at":"{token}","cl":"the one"}}}}"#));
            let mut packets = Vec::new();
            while let Some(packet) = client.next() {
                packets.push(packet);
                told.send((index, true)).unwrap();
            }
            told.send((index, false)).unwrap();
            packets
        }));
    }
    let (mut is_left, mut has_session) = ([true; CONNECTIONS], [false; CONNECTIONS]);
    let survivor = loop {
        match news.recv_timeout(DEADLINE).unwrap() {
            (index, true) => has_session[index] = true,
            (index, false) => is_left[index] = false,
        }
        let mut left = (0..CONNECTIONS).filter(|&index| is_left[index]);
        if let (Some(last), None) = (left.next(), left.next())
            && has_session[last]
        {
            break last;
        }
    };
    // The one that is left has a session, and is told what is meant for it.
    let there = r##"{"pub":{"cn":"#the one","dt":"you","q":1,"id":"p"}}"##;
    bystanders.alice.send(there);
    bystanders.alice.expect(r#"{"pubAck":{"st":1,"id":"p"}}"#);
    bystanders.exchange();
    assert!(news.try_iter().all(|(_, is_open)| is_open), "no connection is left");
    drop(process);
    for (index, thread) in threads.into_iter().enumerate() {
        let mut packets = thread.join().unwrap();
        packets.retain(|packet| !packet.starts_with("close "));
        let conn_ack = r#"{"connAck":{"st":1,"ts":60}}"#;
        if index == survivor {
            assert_eq!(packets.remove(0), conn_ack);
            assert_eq!(packets.len(), 1, "{packets:?}");
            assert!(packets[0].starts_with(r##"{"push":{"cn":"#the one","dt":"you","##), "{packets:?}");
        } else {
            assert!(packets.iter().all(|packet| packet == conn_ack) && packets.len() < 2, "{packets:?}");
        }
    }
}
