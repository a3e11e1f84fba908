//! An MQTT client that does random things, and checks what it receives.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard};

use jmqt_mqtt::{Peek, peek};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::Notify;

use super::*;

/// What a client has promised to do on one connection.
#[derive(Clone, Copy)]
struct Promises {
    version: Version,
    receive_maximum: u16,
    largest: u32,
    /// It sends valid packets only, and acknowledges only what it has received; so the server must be right about
    /// packet identifiers.
    is_honest: bool,
}

/// What has come, and has not been answered.
#[derive(Default)]
struct Arrived {
    is_connected: bool,
    has_ended: bool,
    pongs: u64,
    /// Messages of QoS 1 and 2, and PUBREL.
    to_ack: Vec<PacketId>,
    to_receive: Vec<PacketId>,
    to_complete: Vec<PacketId>,
    /// Own publishes whose PUBREC has come.
    to_release: Vec<PacketId>,
    /// Packet identifiers of the server that are in use.
    in_flight: HashSet<PacketId>,
    problem: Option<String>,
}

#[derive(Default)]
struct Inbox {
    arrived: Mutex<Arrived>,
    news: Notify,
}

impl Inbox {
    fn lock(&self) -> MutexGuard<'_, Arrived> {
        self.arrived.lock().unwrap()
    }

    /// Waits until this is so.
    async fn until(&self, what: &str, mut is_so: impl FnMut(&Arrived) -> bool) {
        within(what, async {
            loop {
                let news = self.news.notified();
                if is_so(&self.lock()) {
                    return;
                }
                news.await;
            }
        })
        .await;
        let problem = self.lock().problem.take();
        assert_eq!(problem, None);
    }
}

/// Reads everything, so that the server can always write.
async fn read(mut stream: OwnedReadHalf, inbox: Arc<Inbox>, promises: Promises) {
    let mut bytes = Vec::new();
    loop {
        while let Ok(Peek::Known(header)) = peek(&bytes, 1 << 28)
            && header.packet_length() <= bytes.len()
        {
            let rest = bytes.split_off(header.packet_length());
            let packet = std::mem::replace(&mut bytes, rest);
            let checked = take(&mut inbox.lock(), &packet, promises);
            if let Err(problem) = checked {
                inbox.lock().problem.get_or_insert(format!("{problem}: {packet:02x?}"));
            }
            inbox.news.notify_one();
        }
        if !matches!(stream.read_buf(&mut bytes).await, Ok(1..)) {
            break;
        }
    }
    let mut arrived = inbox.lock();
    arrived.has_ended = true;
    if !bytes.is_empty() && peek(&bytes, 1 << 28).is_err() {
        arrived.problem.get_or_insert(format!("it ended with {bytes:02x?}"));
    }
    drop(arrived);
    inbox.news.notify_one();
}

/// Checks a packet of the server, and notes what it asks for.
fn take(arrived: &mut Arrived, packet: &[u8], promises: Promises) -> Result<(), String> {
    let frame = Frame::of(packet).ok_or("it is not one packet")?;
    let packet_type = PacketType::of_first_byte(frame.first);
    let decoded =
        Packet::decode(&frame, promises.version, Sender::Server).map_err(|error| error.to_string())?;
    if packet.len() > usize::try_from(promises.largest).unwrap() {
        return Err(format!("{packet_type:?} is larger than {}", promises.largest));
    }
    match decoded {
        Packet::ConnAck(_) if arrived.is_connected => return Err("a second CONNACK".to_owned()),
        Packet::ConnAck(ack) => arrived.is_connected = !ack.reason.is_error(),
        _ if !arrived.is_connected => return Err("it is not a CONNACK".to_owned()),
        Packet::PingResp => arrived.pongs += 1,
        Packet::PubRec(ack) if !ack.reason.is_error() => arrived.to_release.push(ack.id),
        Packet::PubRel(ack) => arrived.to_complete.push(ack.id),
        Packet::Publish(publish) => {
            let Some(id) = publish.delivery.id() else { return Ok(()) };
            match publish.delivery.qos() {
                Qos::ExactlyOnce => arrived.to_receive.push(id),
                _ => arrived.to_ack.push(id),
            }
            let is_new = arrived.in_flight.insert(id);
            if promises.is_honest && !is_new {
                return Err(format!("packet identifier {} is in use", id.get()));
            }
            if promises.is_honest && arrived.in_flight.len() > usize::from(promises.receive_maximum) {
                return Err(format!("{} messages without an answer", arrived.in_flight.len()));
            }
        }
        _ => {}
    }
    Ok(())
}

struct Connection {
    stream: OwnedWriteHalf,
    inbox: Arc<Inbox>,
    promises: Promises,
    pings: u64,
    /// The server does not wait for the rest of a packet.
    is_in_step: bool,
}

pub(super) struct Attacker {
    name: &'static str,
    connection: Option<Connection>,
}

impl Connection {
    /// `None`: the server has not let it in.
    async fn open(server: &TestServer, name: &str, random: &mut Random) -> Option<Self> {
        let version = *random.choose(&[Version::V5, Version::V5, Version::V3_1_1, Version::V3_1]);
        let (packet, receive_maximum, largest) = packets::connect(random, version, name);
        let promises = Promises { version, receive_maximum, largest, is_honest: random.below(3) == 0 };
        let stream = server.open_tcp(Protocol::Mqtt).await;
        let (reader, stream) = stream.into_split();
        let inbox = Arc::<Inbox>::default();
        tokio::spawn(read(reader, Arc::clone(&inbox), promises));
        let mut connection = Self { stream, inbox, promises, pings: 0, is_in_step: true };
        if random.below(30) == 0 {
            let bytes = packets::broken(random, version);
            connection.send(&bytes).await;
            return None;
        }
        connection.send(&packet?).await;
        let inbox = &connection.inbox;
        inbox.until("a CONNACK", |arrived| arrived.is_connected || arrived.has_ended).await;
        let is_connected = inbox.lock().is_connected;
        is_connected.then_some(connection)
    }

    /// Sends as much as the server takes: it may have ended the connection.
    async fn send(&mut self, bytes: &[u8]) {
        drop(within("room to send", self.stream.write_all(bytes)).await);
    }

    /// Answers some of what has come.
    async fn answer(&mut self, random: &mut Random) {
        let mut answers = Vec::new();
        {
            let mut arrived = self.inbox.lock();
            let arrived = &mut *arrived;
            let refusal = match self.promises.version {
                Version::V5 if random.below(10) == 0 => ReasonCode::UNSPECIFIED_ERROR,
                _ => ReasonCode::SUCCESS,
            };
            let most = usize::try_from(random.below(10)).unwrap();
            for id in arrived.to_ack.drain(..most.min(arrived.to_ack.len())) {
                arrived.in_flight.remove(&id);
                answers.push(Packet::PubAck(Ack::new(id, refusal)));
            }
            for id in arrived.to_receive.drain(..most.min(arrived.to_receive.len())) {
                if refusal.is_error() {
                    arrived.in_flight.remove(&id);
                }
                answers.push(Packet::PubRec(Ack::new(id, refusal)));
            }
            for id in arrived.to_complete.drain(..most.min(arrived.to_complete.len())) {
                arrived.in_flight.remove(&id);
                answers.push(Packet::PubComp(Ack::new(id, ReasonCode::SUCCESS)));
            }
            for id in arrived.to_release.drain(..most.min(arrived.to_release.len())) {
                answers.push(Packet::PubRel(Ack::new(id, ReasonCode::SUCCESS)));
            }
        }
        let version = self.promises.version;
        let bytes: Vec<u8> = answers.iter().flat_map(|packet| packet.to_bytes(version).unwrap()).collect();
        self.send(&bytes).await;
    }

    /// The server answers, or has ended the connection.
    async fn ping(&mut self) {
        if !self.is_in_step {
            return;
        }
        self.pings += 1;
        let pings = self.pings;
        self.send(&[0xC0, 0]).await;
        self.inbox.until("PINGRESP", |arrived| arrived.has_ended || arrived.pongs >= pings).await;
    }
}

impl Attacker {
    pub(super) async fn connect(server: &TestServer, name: &'static str, random: &mut Random) -> Self {
        Self { name, connection: Connection::open(server, name, random).await }
    }

    pub(super) async fn act(&mut self, server: &TestServer, random: &mut Random) {
        let Some(connection) = &mut self.connection else {
            self.connection = Connection::open(server, self.name, random).await;
            return;
        };
        let Promises { version, is_honest, .. } = connection.promises;
        let mut lasts = true;
        let packet = match random.below(30) {
            0..8 => packets::publish(random, version),
            8..12 => packets::subscribe(random, version),
            12 => packets::unsubscribe(random, version),
            13..20 => {
                connection.answer(random).await;
                None
            }
            20 => {
                connection.ping().await;
                None
            }
            21 => {
                lasts = false;
                packets::disconnect(random, version)
            }
            22 => {
                lasts = false;
                None
            }
            23 => {
                let count = 2 + random.below(20);
                Some((0..count).filter_map(|_| packets::publish(random, version)).flatten().collect())
            }
            _ if is_honest => None,
            24 | 25 => {
                connection.is_in_step = false;
                packets::broken(random, version).into()
            }
            26 => {
                connection.is_in_step = false;
                packets::garbage(random).into()
            }
            27 => packets::connect(random, version, self.name).0,
            _ => packets::ack(random, version),
        };
        if let Some(packet) = packet {
            connection.send(&packet).await;
        }
        let has_ended = connection.inbox.lock().has_ended;
        if !lasts || has_ended {
            if let Some(problem) = connection.inbox.lock().problem.take() {
                panic!("{problem}");
            }
            self.connection = None;
        }
    }

    /// The server answers everything, or has ended the connection.
    pub(super) async fn finish(&mut self) {
        if let Some(connection) = &mut self.connection {
            connection.ping().await;
        }
    }
}
