//! Packet identifiers of QoS 1 messages while servers are killed: a message comes again with the identifier that it had, and
//! DUP; no other message has it meanwhile.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use jmqt_client::Reconnect;
use jmqt_client::mqtt::{Client, Options, Publish, Qos};
use jmqt_mqtt::{
    Ack, Connect, Disconnect, FilterBuf, Frame, Packet, PacketId, PacketType, Peek, Place, Properties,
    Property, PropertyBuf, ReasonCode, Sender, Subscribe, SubscribeOptions, Version, peek,
};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use torture::mariadb::MariaDb;
use torture::server::Server;
use torture::{Cluster, LOOK_EVERY, Random, within};

const FILTERS: [&str; 4] = ["one", "two", "three", "all/+"];
const TOPICS: [&str; 5] = ["one", "two", "three", "all/a", "all/b"];
const RECEIVE_MAXIMUM: u16 = 20;
const VERSIONS: [Version; 2] = [Version::V3_1_1, Version::V5];

/// A message: its topic, and its number there.
type Message = (String, u32);

/// A message that has come.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Received {
    message: Message,
    id: PacketId,
    dup: bool,
}

/// A device with a persistent session, which acknowledges when it is told to.
struct Device {
    stream: TcpStream,
    version: Version,
    bytes: Vec<u8>,
}

impl Device {
    /// Connects as soon as the server is there. Returns the session present flag, too.
    async fn connect(port: u16, version: Version, receive_maximum: u16) -> (Self, bool) {
        within("a connection", async {
            loop {
                if let Some(connected) = Self::try_connect(port, version, receive_maximum).await {
                    return connected;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
        })
        .await
    }

    async fn try_connect(port: u16, version: Version, receive_maximum: u16) -> Option<(Self, bool)> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        let mut device = Self { stream, version, bytes: Vec::new() };
        let mut properties = PropertyBuf::new();
        if version == Version::V5 {
            properties.push(Property::SessionExpiryInterval(3600)).unwrap();
            properties.push(Property::ReceiveMaximum(receive_maximum)).unwrap();
        }
        let connect = Connect {
            version,
            clean_start: false,
            keep_alive: 60,
            client_id: "device",
            will: None,
            user_name: Some("device"),
            password: None,
            properties: properties.for_place(Place::Packet(PacketType::Connect), Sender::Client).unwrap(),
        };
        device.try_send(&Packet::Connect(connect)).await?;
        let packet = device.next_bytes().await?;
        match decode(&packet, version) {
            Packet::ConnAck(ack) if ack.reason == ReasonCode::SUCCESS => Some((device, ack.session_present)),
            // A node that has just lost another one may be busy.
            _ => None,
        }
    }

    async fn try_send(&mut self, packet: &Packet<'_>) -> Option<()> {
        self.stream.write_all(&packet.to_bytes(self.version).unwrap()).await.ok()
    }

    async fn send(&mut self, packet: &Packet<'_>) {
        self.try_send(packet).await.expect("the connection has ended");
    }

    async fn next_bytes(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Ok(Peek::Known(header)) = peek(&self.bytes, 1 << 20)
                && header.packet_length() <= self.bytes.len()
            {
                let rest = self.bytes.split_off(header.packet_length());
                return Some(std::mem::replace(&mut self.bytes, rest));
            }
            match within("a packet", self.stream.read_buf(&mut self.bytes)).await {
                Ok(1..) => {}
                _ => return None,
            }
        }
    }

    async fn subscribe(&mut self) {
        let mut filters = FilterBuf::new();
        for filter in FILTERS {
            filters.push(filter, SubscribeOptions::of_qos(Qos::AtLeastOnce)).unwrap();
        }
        let subscribe =
            Subscribe { id: PacketId::MIN, properties: Properties::EMPTY, filters: filters.as_filters() };
        self.send(&Packet::Subscribe(subscribe)).await;
        let packet = self.next_bytes().await.unwrap();
        assert!(matches!(decode(&packet, self.version), Packet::SubAck(_)));
    }

    /// The next message; `None` after everything that was sent before the answer to a ping.
    async fn next(&mut self) -> Option<Received> {
        let packet = self.next_bytes().await.expect("the connection has ended");
        match decode(&packet, self.version) {
            Packet::Publish(publish) => {
                let number = std::str::from_utf8(publish.payload).unwrap().parse().unwrap();
                let (id, dup) = (publish.delivery.id().unwrap(), publish.delivery.dup());
                Some(Received { message: (publish.topic.to_owned(), number), id, dup })
            }
            Packet::PingResp => None,
            other => panic!("{other:?}"),
        }
    }

    async fn acknowledge(&mut self, id: PacketId) {
        self.send(&Packet::PubAck(Ack::new(id, ReasonCode::SUCCESS))).await;
    }

    async fn expect_nothing(&mut self) {
        self.send(&Packet::PingReq).await;
        assert_eq!(self.next().await, None);
    }

    /// Leaves in order: when this returns, the server sends nothing more.
    async fn leave(mut self) {
        let properties = Properties::EMPTY;
        self.send(&Packet::Disconnect(Disconnect { reason: ReasonCode::SUCCESS, properties })).await;
        while self.next_bytes().await.is_some() {}
    }
}

fn decode(packet: &[u8], version: Version) -> Packet<'_> {
    Packet::decode(&Frame::of(packet).unwrap(), version, Sender::Server).unwrap()
}

fn publisher(port: u16) -> Client {
    let mut options = Options::url(&format!("mqtt://shop@127.0.0.1:{port}")).unwrap();
    options.client_id = "shop".to_owned();
    options.reconnect = Reconnect::every(Duration::from_millis(30));
    Client::start(options).unwrap()
}

/// Publishes the next messages of these topics.
async fn publish(shop: &Client, numbers: &mut BTreeMap<&str, u32>, topics: &[&'static str]) -> Vec<Message> {
    let mut published = Vec::new();
    for topic in topics {
        let number = numbers.entry(topic).or_default();
        *number += 1;
        let message = Publish::new(*topic, number.to_string()).unwrap().qos(Qos::AtLeastOnce);
        within("an acknowledgement", shop.publish(&message)).await.unwrap();
        published.push(((*topic).to_owned(), *number));
    }
    published
}

/// A device holds messages over three channels and a filter, of which it has acknowledged some. `crash` kills the server, and
/// returns the port of the one with which the device goes on. `is_alone`: this server knows what was published before it
/// started.
async fn held_messages_come_again(
    port: u16,
    version: Version,
    is_alone: bool,
    crash: impl AsyncFnOnce() -> u16,
) {
    let (shop, mut numbers) = (publisher(port), BTreeMap::new());
    let (mut device, _) = Device::connect(port, version, RECEIVE_MAXIMUM).await;
    device.subscribe().await;
    for _ in 0..4 {
        publish(&shop, &mut numbers, &TOPICS).await;
    }
    let mut first = HashMap::new();
    let mut held = BTreeSet::new();
    for _ in 0..20 {
        let received = device.next().await.unwrap();
        assert!(!received.dup);
        first.insert(received.message.clone(), received.id);
        held.insert(received.message);
    }
    assert_eq!(first.values().collect::<BTreeSet<_>>().len(), 20, "different identifiers");
    for number in
        [(19, "all/b"), (7, "two"), (3, "all/a"), (11, "one")].map(|(number, topic)| (topic, number / 5 + 1))
    {
        let message = (number.0.to_owned(), number.1);
        device.acknowledge(first[&message]).await;
        held.remove(&message);
    }
    device.expect_nothing().await;

    let port = crash().await;
    drop(shop);
    let shop = publisher(port);
    let more = ["one", "one", "two", "all/b", "all/a"];
    let mut new = BTreeSet::new();
    if is_alone {
        new.extend(publish(&shop, &mut numbers, &more).await);
    }
    let (mut device, is_present) = Device::connect(port, version, RECEIVE_MAXIMUM).await;
    assert!(is_present);
    if !is_alone {
        new.extend(publish(&shop, &mut numbers, &more).await);
    }
    let mut last_of: HashMap<String, u32> = HashMap::new();
    let mut came_again = BTreeSet::new();
    while came_again.intersection(&held).count() < held.len() || !new.is_empty() {
        let Received { message, id, dup } = device.next().await.unwrap();
        let last = last_of.insert(message.0.clone(), message.1);
        assert!(last.is_none_or(|last| last < message.1), "{message:?} after {last:?}");
        match first.get(&message) {
            Some(before) => {
                assert_eq!((id, dup), (*before, true), "{message:?}");
                came_again.insert(message);
            }
            None => {
                assert!(new.remove(&message) && !dup, "{message:?} is new");
                assert!(
                    first.values().all(|before| *before != id),
                    "{message:?} has the identifier of another one"
                );
            }
        }
        device.acknowledge(id).await;
    }
    device.expect_nothing().await;
    device.leave().await;
    let (mut device, _) = Device::connect(port, version, RECEIVE_MAXIMUM).await;
    device.expect_nothing().await;
    device.leave().await;
}

#[tokio::test(flavor = "multi_thread")] // 4.4.0-1, 3.3.1-1, 2.3.1-4
async fn sqlite_messages_come_again_with_their_identifiers_after_the_server_was_killed() {
    for version in VERSIONS {
        let mut server = Server::start(None);
        let port = server.port;
        held_messages_come_again(port, version, true, async || {
            server.crash();
            port
        })
        .await;
        drop(server);
    }
}

#[tokio::test(flavor = "multi_thread")] // 4.4.0-1, 3.3.1-1, 2.3.1-4
async fn messages_come_again_with_their_identifiers_from_another_node() {
    for version in VERSIONS {
        let Some(mut cluster) = Cluster::of(2).await else { return };
        let ports: Vec<_> = cluster.nodes.iter().map(|node| node.address.port()).collect();
        held_messages_come_again(ports[0], version, false, async || {
            cluster.nodes[0].kill();
            ports[1]
        })
        .await;
        cluster.nodes[0].restart().await;
    }
}

/// What a device and the test know of the messages, over all connections.
#[derive(Default)]
struct Model {
    /// The identifier with which a message came first.
    ids: HashMap<Message, PacketId>,
    /// Came, and is not acknowledged.
    held: BTreeMap<Message, PacketId>,
    acknowledged: BTreeSet<Message>,
    /// Was certainly not sent on an earlier connection.
    new: BTreeSet<Message>,
    published: BTreeSet<Message>,
}

impl Model {
    fn published(&mut self, messages: Vec<Message>) {
        self.published.extend(messages.iter().cloned());
        self.new.extend(messages);
    }

    fn pending(&self) -> usize {
        self.published.difference(&self.acknowledged).count()
    }

    fn received(
        &mut self,
        on_its_way: &mut BTreeMap<PacketId, Message>,
        Received { message, id, dup }: Received,
    ) {
        match self.ids.get(&message) {
            Some(before) => assert_eq!((id, dup), (*before, true), "{message:?} comes again"),
            None => {
                assert!(!dup || !self.new.contains(&message), "{message:?} was not sent before");
                let owner = self.held.iter().find(|(_, held)| **held == id);
                assert!(owner.is_none(), "{message:?} has the identifier of {owner:?}");
                self.ids.insert(message.clone(), id);
            }
        }
        assert!(on_its_way.insert(id, message.clone()).is_none(), "{message:?}: the identifier is in use");
        self.held.insert(message, id);
    }
}

/// Connections with different receive maxima, of which some end in order, some are cut, and some end because the server is
/// killed.
async fn identifiers_are_kept_over_many_connections(mut server: Server, seed: u64, rounds: usize) {
    let mut random = Random::new(seed);
    let port = server.port;
    let (shop, mut numbers, mut model) = (publisher(port), BTreeMap::new(), Model::default());
    let (mut device, _) = Device::connect(port, Version::V5, 5).await;
    device.subscribe().await;
    device.leave().await;
    // The server knows that the last connection has ended.
    let mut has_ended = true;
    for round in 0..=rounds {
        let is_last = round == rounds;
        let maximum = 1 + u16::try_from(random.below(20)).unwrap();
        if has_ended {
            let topics: Vec<_> = (0..random.below(8)).map(|_| TOPICS[random.below(5) as usize]).collect();
            model.published(publish(&shop, &mut numbers, &topics).await);
        }
        let (mut device, is_present) = Device::connect(port, Version::V5, maximum).await;
        assert!(is_present);
        let mut on_its_way = BTreeMap::new();
        let mut last_of: HashMap<String, u32> = HashMap::new();
        for turn in 0.. {
            if turn < 4 && !is_last {
                let topics: Vec<_> =
                    (0..random.below(12)).map(|_| TOPICS[random.below(5) as usize]).collect();
                model.published(publish(&shop, &mut numbers, &topics).await);
            }
            while on_its_way.len() < usize::from(maximum).min(model.pending()) {
                let received = device.next().await.unwrap();
                let last = last_of.insert(received.message.0.clone(), received.message.1);
                assert!(
                    last.is_none_or(|last| last < received.message.1),
                    "seed {seed}: {received:?} after {last:?}"
                );
                model.received(&mut on_its_way, received);
            }
            if if is_last { model.pending() == 0 } else { turn >= 4 } {
                break;
            }
            // Some, in any order.
            let mut ids: Vec<_> = on_its_way.keys().copied().collect();
            for _ in 0..1 + random.below(ids.len() as u64 + 1) {
                if ids.is_empty() || (!is_last && random.below(4) == 0) {
                    break;
                }
                let id = ids.swap_remove(random.below(ids.len() as u64) as usize);
                device.acknowledge(id).await;
                let message = on_its_way.remove(&id).unwrap();
                model.held.remove(&message);
                model.acknowledged.insert(message);
            }
        }
        model.new.clear();
        let end = random.below(3);
        has_ended = end != 1;
        match end {
            0 => device.leave().await,
            1 => drop(device),
            _ => server.crash(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")] // 4.4.0-1, 3.3.1-1, 2.3.1-4, 2.2.1-4
async fn sqlite_identifiers_are_never_in_use_twice_over_many_connections() {
    for seed in 1..=3 {
        identifiers_are_kept_over_many_connections(Server::start(None), seed, 12).await;
    }
}

#[tokio::test(flavor = "multi_thread")] // 4.4.0-1, 3.3.1-1, 2.3.1-4, 2.2.1-4
async fn mysql_identifiers_are_never_in_use_twice_over_many_connections() {
    if !MariaDb::is_installed() {
        eprintln!("left out: MariaDB is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = MariaDb::start(folder.path()).await;
    identifiers_are_kept_over_many_connections(Server::start(Some(&database)), 4, 12).await;
}
