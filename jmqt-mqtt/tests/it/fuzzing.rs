//! Packets that were changed at random, for a while (`jmqt-mqtt/fuzz` does the same, guided by the branches that are reached).

use jmqt_mqtt::{Sender, Version};
use proptest::strategy::{Strategy, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use test_support::{Fuzzing, Random};

use crate::checks;
use crate::properties::{Owned, VERSIONS, owned};

const SECONDS: u64 = 5;

/// The most packets of one stream.
const PACKETS: u64 = 4;

/// Valid packets that are the same for the same seed.
struct Packets<S> {
    runner: TestRunner,
    strategy: S,
}

impl<S: Strategy<Value = Owned>> Packets<S> {
    fn new(random: &mut Random, strategy: S) -> Self {
        let seed: Vec<u8> = (0..4).flat_map(|_| random.next_number().to_le_bytes()).collect();
        let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
        Self { runner: TestRunner::new_with_rng(Config::default(), rng), strategy }
    }

    /// A stream of packets, of one version and side most of the time.
    fn stream(&mut self, random: &mut Random) -> (Vec<u8>, Version, Sender) {
        let (mut stream, mut of) = (Vec::new(), (*random.choose(&VERSIONS), Sender::Client));
        for _ in 0..=random.below(PACKETS) {
            let owned = self.strategy.new_tree(&mut self.runner).unwrap().current();
            owned.with_packet(|packet, version, sender| {
                of = (version, sender);
                stream.extend(packet.to_bytes(version).unwrap());
            });
        }
        (stream, of.0, of.1)
    }
}

fn below(random: &mut Random, limit: usize) -> usize {
    usize::try_from(random.below(limit.max(1) as u64)).unwrap()
}

/// Bytes that mean something somewhere: lengths, wildcards, the first bytes of packets, property identifiers.
const MEANINGFUL: [u8; 24] = [
    0, 1, 2, 4, 0x0B, 0x10, 0x11, 0x1F, 0x21, 0x23, 0x26, 0x27, 0x30, 0x32, 0x3D, 0x62, 0x7F, 0x80, 0x82,
    0xC0, 0xE0, 0xED, 0xFE, 0xFF,
];

/// Changes a stream a little, as mistakes and attackers would.
fn change(random: &mut Random, bytes: &mut Vec<u8>) {
    let at = below(random, bytes.len() + 1);
    let length = below(random, 8).min(bytes.len() - at);
    match random.below(7) {
        0 => drop(bytes.drain(at..at + length)),
        1 => bytes.truncate(at),
        2 => bytes.insert(at, *random.choose(&MEANINGFUL)),
        3 => {
            let again = bytes[at..at + length].to_vec();
            bytes.splice(at..at, again);
        }
        kind => {
            if let Some(byte) = bytes.get_mut(at) {
                match kind {
                    4 => *byte ^= 1 << random.below(8),
                    5 => *byte = *random.choose(&MEANINGFUL),
                    _ => *byte = byte.wrapping_add(if random.below(2) == 0 { 1 } else { 255 }),
                }
            }
        }
    }
}

#[test]
fn changed_packets_are_refused_or_read_as_others_for_a_while() {
    for round in Fuzzing::of_seconds(SECONDS).rounds("changed packets") {
        let mut random = round.random();
        let mut packets = Packets::new(&mut random, owned());
        let (mut stream, version, sender) = packets.stream(&mut random);
        for _ in 0..random.below(5) {
            checks::any_bytes(&stream, version, sender);
            change(&mut random, &mut stream);
        }
        let version = if random.below(8) == 0 { *random.choose(&VERSIONS) } else { version };
        checks::any_bytes(&stream, version, sender);
    }
}

#[test]
fn changed_streams_are_cut_into_the_same_packets_for_a_while() {
    for round in Fuzzing::of_seconds(SECONDS).rounds("changed streams") {
        let mut random = round.random();
        let mut packets = Packets::new(&mut random, owned());
        let (mut stream, ..) = packets.stream(&mut random);
        for _ in 0..random.below(3) {
            change(&mut random, &mut stream);
        }
        let mut chunks = Vec::new();
        while !stream.is_empty() && chunks.len() < 16 {
            let rest = stream.split_off(1 + below(&mut random, stream.len()));
            chunks.push(std::mem::replace(&mut stream, rest));
        }
        chunks.push(stream);
        let limit = below(&mut random, 1 << 15);
        checks::any_chunks(limit, &chunks);
    }
}

/// What names are made of, and what they must not be made of.
const PARTS: [&str; 20] = [
    "a", "b", "/", "/", "+", "#", "+/", "/#", "$", "$share/", "$p2p/", "$SYS/", "$reply/", "%", "%23", "%2B",
    "25", "é", "\u{FEFF}", "\0",
];

fn name(random: &mut Random) -> String {
    (0..random.below(8)).map(|_| *random.choose(&PARTS)).collect()
}

/// What payloads are made of.
const PIECES: [&[u8]; 14] = [
    b"{",
    b"}",
    b"[",
    b"]",
    b"\"",
    b"\\u00",
    b"{\"$b64\":\"",
    b"/w==",
    b"1.5",
    b",",
    b" ",
    b"\xFF",
    b"null",
    b"\0",
];

#[test]
fn random_names_and_payloads_come_back_for_a_while() {
    for round in Fuzzing::of_seconds(SECONDS).rounds("names") {
        let mut random = round.random();
        let filters: Vec<String> = (0..random.below(6)).map(|_| name(&mut random)).collect();
        let filters: Vec<&str> = filters.iter().map(String::as_str).collect();
        let pieces = random.below(8);
        let payload: Vec<u8> = (0..pieces).flat_map(|_| random.choose(&PIECES).to_vec()).collect();
        checks::any_names(&filters, &name(&mut random), &payload);
    }
}
