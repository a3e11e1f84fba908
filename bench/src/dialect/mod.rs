//! The protocols behind one trait: a few bytes out, packet ends in.
//!
//! A dialect belongs to one connection and holds no socket. It scans what has arrived for packet ends,
//! looks at fixed places, and answers what must be answered (acknowledgements, pings) into `out`.

pub(crate) mod jmqt;
pub(crate) mod mqtt;
pub(crate) mod nats;
pub(crate) mod redis;
pub(crate) mod websocket;

use anyhow::Result;

use crate::payload::{Label, SIZE};

/// Delivery guarantee of a run: MQTT's QoS, of which JMQT has the first two.
#[expect(clippy::enum_variant_names, reason = "these are the usual words")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
}

/// Whether subscriptions outlive their connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Persistence {
    Temporary,
    Persistent,
}

/// What a packet that arrived meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// The server accepted the client: it may subscribe and publish.
    Opened,
    /// One subscription was confirmed.
    Subscribed,
    Delivered(Label),
    /// The server has taken over the publish with this id; with QoS 2, the exchange is complete.
    Acknowledged(u16),
}

/// One publish. The id is for QoS 1 and 2.
pub(crate) struct Publish<'a> {
    pub(crate) channel: &'a str,
    pub(crate) payload: &'a [u8; SIZE],
    pub(crate) id: u16,
    /// The server keeps it for later subscribers. For MQTT alone.
    pub(crate) retain: bool,
}

/// One connection's side of a protocol.
pub(crate) trait Dialect {
    /// Appends what a client says first, once the socket is connected.
    fn open(&mut self, client: &str, out: &mut Vec<u8>);

    /// Appends one subscription.
    fn subscribe(&mut self, channel: &str, out: &mut Vec<u8>);

    /// Appends one publish.
    fn publish(&mut self, publish: &Publish<'_>, out: &mut Vec<u8>);

    /// Appends a sign of life, where clients owe one.
    fn heartbeat(&mut self, _out: &mut Vec<u8>) {}

    /// Handles all complete packets at the start of `input`, and answers how many bytes those were.
    ///
    /// # Errors
    /// What no working server sends here: a refusal, a broken packet, a foreign payload.
    fn scan(&mut self, input: &[u8], out: &mut Vec<u8>, events: &mut Vec<Event>) -> Result<usize>;
}

/// The first bytes of a packet, for error messages.
fn excerpt(packet: &[u8]) -> String {
    String::from_utf8_lossy(&packet[..packet.len().min(200)]).into_owned()
}

/// Appends a number in decimal digits.
fn push_number(out: &mut Vec<u8>, mut number: u32) {
    let mut digits = [0; 10];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// Reads decimal digits up to the first other byte.
fn read_number(digits: &[u8]) -> Option<usize> {
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..length]).ok()?.parse().ok()
}
