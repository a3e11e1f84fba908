//! The attacks. Every client that may connect can do them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Result;

use super::client::Client;

/// One attack.
pub(super) struct Attack {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// Of the server, as environment variables.
    pub(super) settings: &'static [(&'static str, &'static str)],
    /// What there is before it begins.
    pub(super) prepare: fn(SocketAddr) -> Result<()>,
    pub(super) connections: usize,
    /// What each connection does; begun again when it returns.
    pub(super) connection: fn(SocketAddr, usize, &AtomicBool) -> Result<()>,
}

const LARGE: usize = (4 << 20) - 200;
const SUBSCRIPTIONS: usize = 10_000;
const PERSISTENT: usize = 1000;

pub(super) const ATTACKS: [Attack; 9] = [
    Attack {
        name: "flood",
        title: "4 connections publish with QoS 0 as fast as they can, each to 10 subscribers",
        settings: &[],
        prepare: |_| Ok(()),
        connections: 4,
        connection: flood,
    },
    Attack {
        name: "large-answers",
        title: "4 connections pipeline 700 `sub` to a channel with 4 MiB retained and read nothing",
        settings: &[],
        prepare: |address| retain(address, LARGE),
        connections: 4,
        connection: large_answers,
    },
    Attack {
        name: "requests",
        title: "3 connections with 10,000 subscriptions pipeline `sub` and requests and read the answers",
        settings: &[],
        prepare: |_| Ok(()),
        connections: 3,
        connection: requests,
    },
    Attack {
        name: "come-and-go",
        title: "4 connections subscribe to 10,000 channels, 1,000 persistently, leave, and come back",
        settings: &[],
        prepare: |_| Ok(()),
        connections: 4,
        connection: come_and_go,
    },
    Attack {
        name: "pending",
        title: "QoS 1 as fast as it goes to a client that is away and has too much pending",
        settings: &[("JMQT_MAX_PENDING_PER_CLIENT", "1000")],
        prepare: |address| leave_subscribed(address, 1),
        connections: 2,
        connection: |address, number, stop| pending(address, number, stop, 1),
    },
    Attack {
        name: "pending-channels",
        title: "the same with 1,000 channels",
        settings: &[("JMQT_MAX_PENDING_PER_CLIENT", "1000")],
        prepare: |address| leave_subscribed(address, PERSISTENT),
        connections: 2,
        connection: |address, number, stop| pending(address, number, stop, PERSISTENT),
    },
    Attack {
        name: "long-ids",
        title: "2 connections publish with ids of 4 MiB",
        settings: &[],
        prepare: |_| Ok(()),
        connections: 2,
        connection: long_ids,
    },
    Attack {
        name: "long-packets",
        title: "16 connections publish packets of 4 MiB that are made of tiny members",
        settings: &[],
        prepare: |_| Ok(()),
        connections: 16,
        connection: long_packets,
    },
    Attack {
        name: "retained-reads",
        title: "16 connections subscribe again and again to a channel with a retained message",
        settings: &[],
        prepare: |address| retain(address, 1000),
        connections: 16,
        connection: retained_reads,
    },
];

fn flood(address: SocketAddr, number: usize, stop: &AtomicBool) -> Result<()> {
    let mut readers = Vec::new();
    for reader in 0..10 {
        let mut client = Client::connect(address, &format!("reader {number} {reader}"), stop)?;
        client.send(&format!("{{\"sub\":{{\"cn\":\"flood {number}\"}}}}\0"))?;
        client.expect(b"{\"subAck\":{\"st\":1,")?;
        readers.push(client);
    }
    let mut client = Client::connect(address, &format!("attacker {number}"), stop)?;
    let publish = format!("{{\"pub\":{{\"cn\":\"flood {number}\",\"dt\":\"{}\"}}}}\0", "x".repeat(128));
    let publishes = publish.repeat(300);
    std::thread::scope(|scope| {
        // They read until the connection or the attack ends.
        let readers = readers.into_iter();
        let _reading: Vec<_> =
            readers.map(|mut client| scope.spawn(move || while client.next().is_ok() {})).collect();
        while !stop.load(Ordering::Relaxed) {
            client.send(&publishes)?;
        }
        Ok(())
    })
}

/// A retained message with this many bytes of data.
fn retain(address: SocketAddr, bytes: usize) -> Result<()> {
    let stop = AtomicBool::new(false);
    let mut client = Client::connect(address, "retainer", &stop)?;
    let data = "x".repeat(bytes);
    client.send(&format!(
        "{{\"pub\":{{\"cn\":\"retained\",\"dt\":\"{data}\",\"q\":1,\"rt\":1,\"id\":\"1\"}}}}\0"
    ))?;
    client.expect(b"{\"pubAck\":{\"st\":1,")
}

fn large_answers(address: SocketAddr, number: usize, stop: &AtomicBool) -> Result<()> {
    let mut client = Client::connect(address, &format!("attacker {number}"), stop)?;
    client.send(&"{\"sub\":{\"cn\":\"retained\"}}\0".repeat(700))?;
    client.idle();
    Ok(())
}

/// `sub` to this many channels of this client.
fn subscribe(client: &mut Client<'_>, number: usize, channels: usize, persistent: usize) -> Result<()> {
    for first in (0..channels).step_by(500) {
        let channels = first..channels.min(first + 500);
        let mut packets = String::new();
        for channel in channels.clone() {
            let persistent = u8::from(channel < persistent);
            packets.push_str(&format!("{{\"sub\":{{\"cn\":\"{number}-{channel}\",\"pr\":{persistent}}}}}\0"));
        }
        client.send(&packets)?;
        client.skip(channels.len())?;
    }
    Ok(())
}

fn requests(address: SocketAddr, number: usize, stop: &AtomicBool) -> Result<()> {
    let mut client = Client::connect(address, &format!("attacker {number}"), stop)?;
    subscribe(&mut client, number, SUBSCRIPTIONS, 0)?;
    let request =
        format!("{{\"pub\":{{\"cn\":\"$list\",\"id\":\"1\"}}}}\0{{\"sub\":{{\"cn\":\"{number}-1\"}}}}\0");
    let requests = request.repeat(300);
    while !stop.load(Ordering::Relaxed) {
        client.send(&requests)?;
        client.skip(600)?;
    }
    Ok(())
}

fn come_and_go(address: SocketAddr, number: usize, stop: &AtomicBool) -> Result<()> {
    let mut client = Client::connect(address, &format!("attacker {number}"), stop)?;
    subscribe(&mut client, number, SUBSCRIPTIONS, PERSISTENT)
}

/// A client that is subscribed to this many channels, and absent.
fn leave_subscribed(address: SocketAddr, channels: usize) -> Result<()> {
    let stop = AtomicBool::new(false);
    let mut client = Client::connect(address, "victim", &stop)?;
    subscribe(&mut client, 0, channels, channels)
}

fn pending(address: SocketAddr, number: usize, stop: &AtomicBool, channels: usize) -> Result<()> {
    let mut client = Client::connect(address, &format!("attacker {number}"), stop)?;
    let mut channel = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut packets = String::new();
        for _ in 0..200 {
            channel = (channel + 1) % channels;
            packets
                .push_str(&format!("{{\"pub\":{{\"cn\":\"0-{channel}\",\"dt\":1,\"q\":1,\"id\":\"1\"}}}}\0"));
        }
        client.send(&packets)?;
        client.skip(200)?;
    }
    Ok(())
}

fn long_ids(address: SocketAddr, number: usize, stop: &AtomicBool) -> Result<()> {
    let mut client = Client::connect(address, &format!("attacker {number}"), stop)?;
    let id = "x".repeat(LARGE);
    let publish = format!("{{\"pub\":{{\"cn\":\"ids\",\"dt\":1,\"q\":1,\"id\":\"{id}\"}}}}\0");
    while !stop.load(Ordering::Relaxed) {
        client.send(&publish)?;
        client.skip(1)?;
    }
    Ok(())
}

fn long_packets(address: SocketAddr, number: usize, stop: &AtomicBool) -> Result<()> {
    let mut client = Client::connect(address, &format!("attacker {number}"), stop)?;
    let member = "\"\\n\":1,";
    let members = member.repeat(LARGE / member.len());
    let publish = format!("{{\"pub\":{{{members}\"cn\":\"long\",\"dt\":1}}}}\0");
    while !stop.load(Ordering::Relaxed) {
        client.send(&publish)?;
    }
    Ok(())
}

fn retained_reads(address: SocketAddr, number: usize, stop: &AtomicBool) -> Result<()> {
    let mut client = Client::connect(address, &format!("attacker {number}"), stop)?;
    while !stop.load(Ordering::Relaxed) {
        client.send("{\"sub\":{\"cn\":\"retained\"}}\0")?;
        client.skip(2)?;
    }
    Ok(())
}
