//! Random packets of an MQTT client.

use super::*;

/// Topics, filters, and what is neither.
const NAMES: [&str; 34] = [
    "a",
    "a/b",
    "a/b/c",
    "b",
    "a//c",
    "/",
    "é",
    "a b",
    "+",
    "#",
    "a/+",
    "a/#",
    "+/b/#",
    "a//+",
    "/#",
    "$share/g/a",
    "$share/g/#",
    "$share//a",
    "$share/g",
    "$p2p/a",
    "$p2p/b",
    "$p2p/j",
    "$p2p/nobody",
    "$p2p/",
    "$SYS/#",
    "$SYS/broker/uptime",
    "$SYS/x",
    "$reply/echo",
    "$echo",
    "$echo%23",
    "$",
    "forbidden",
    "witness/1",
    "a+b",
];

pub(super) fn name(random: &mut Random) -> String {
    match random.below(20) {
        0 => "x/".repeat(usize::try_from(random.below(250)).unwrap()) + "x",
        1 => "y".repeat(usize::try_from(random.below(3000)).unwrap() + 1),
        2 => format!("a/{}", random.below(50)),
        _ => (*random.choose(&NAMES)).to_owned(),
    }
}

pub(super) fn payload(random: &mut Random) -> Vec<u8> {
    match random.below(8) {
        0 => Vec::new(),
        1 => vec![b'x'; usize::try_from(random.below(1 << 13)).unwrap()],
        2 => br#"{"$b64":"/w=="}"#.to_vec(),
        3 => b"\xff\x00".to_vec(),
        4 => br#""quoted""#.to_vec(),
        _ => random.below(1000).to_string().into_bytes(),
    }
}

pub(super) fn packet_id(random: &mut Random) -> PacketId {
    let number = if random.below(20) == 0 { random.below(65_535) } else { random.below(6) };
    id(u16::try_from(number + 1).unwrap())
}

/// The properties that may be in this place, each perhaps.
pub(super) fn properties(random: &mut Random, version: Version, place: Place) -> PropertyBuf {
    let mut buf = PropertyBuf::new();
    if version != Version::V5 || random.below(3) == 0 {
        return buf;
    }
    let number = *random.choose(&[0, 1, 2, 60, u32::MAX]);
    let short = u16::try_from(random.below(40) + 1).unwrap();
    let text = *random.choose(&["", "text/plain", "application/octet-stream", "application/json", "x"]);
    let topic = *random.choose(&["a", "a/b", "$reply/echo", "forbidden", "r/1"]);
    for property in [
        Property::PayloadFormatIndicator(random.below(2) == 0),
        Property::MessageExpiryInterval(number),
        Property::ContentType(text),
        Property::ResponseTopic(topic),
        Property::CorrelationData(b"\x00\xff"),
        Property::SubscriptionIdentifier(jmqt_mqtt::SubscriptionId::new(u32::from(short)).unwrap()),
        Property::SessionExpiryInterval(number),
        Property::ReasonString(text),
        Property::ReceiveMaximum(short),
        Property::TopicAliasMaximum(short),
        Property::TopicAlias(short),
        Property::UserProperty((text, topic)),
        Property::UserProperty(("k", "v")),
        Property::MaximumPacketSize(u32::from(short) * 20),
        Property::WillDelayInterval(number.min(1)),
        Property::RequestProblemInformation(random.below(2) == 0),
        Property::RequestResponseInformation(true),
        Property::AuthenticationMethod("m"),
    ] {
        let chance = if matches!(property, Property::AuthenticationMethod(_)) { 30 } else { 4 };
        let before = buf.len();
        if random.below(chance) == 0 {
            buf.push(property).unwrap();
        }
        if buf.for_place(place, Sender::Client).is_err() {
            buf.truncate(before);
        }
    }
    buf
}

/// A packet as bytes; nothing if no client could write it.
pub(super) fn publish(random: &mut Random, version: Version) -> Option<Vec<u8>> {
    let place = Place::Packet(PacketType::Publish);
    let (id, dup) = (packet_id(random), random.below(4) == 0);
    let buf = properties(random, version, place);
    let properties = buf.for_place(place, Sender::Client).unwrap();
    let has_alias = properties.topic_alias().is_some();
    let topic = if has_alias && random.below(3) == 0 { String::new() } else { name(random) };
    let payload = payload(random);
    let packet = Publish {
        delivery: match random.below(3) {
            0 => Delivery::AtMostOnce,
            1 => Delivery::AtLeastOnce { id, dup },
            _ => Delivery::ExactlyOnce { id, dup },
        },
        retain: random.below(3) == 0,
        topic: &topic,
        properties,
        payload: &payload,
    };
    Packet::Publish(packet).to_bytes(version).ok()
}

pub(super) fn subscribe(random: &mut Random, version: Version) -> Option<Vec<u8>> {
    let place = Place::Packet(PacketType::Subscribe);
    let buf = properties(random, version, place);
    let mut filters = FilterBuf::new();
    for _ in 0..=random.below(4) {
        let mut options =
            SubscribeOptions::of_qos(Qos::from_bits(u8::try_from(random.below(3)).unwrap()).unwrap());
        if version == Version::V5 {
            options.no_local = random.below(4) == 0;
            options.retain_as_published = random.below(2) == 0;
            options.retain_handling =
                *random.choose(&[RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend]);
        }
        filters.push(&name(random), options).ok()?;
    }
    let properties = buf.for_place(place, Sender::Client).unwrap();
    Packet::Subscribe(Subscribe { id: packet_id(random), properties, filters: filters.as_filters() })
        .to_bytes(version)
        .ok()
}

pub(super) fn unsubscribe(random: &mut Random, version: Version) -> Option<Vec<u8>> {
    let mut names = NameBuf::new();
    for _ in 0..=random.below(3) {
        names.push(&name(random)).ok()?;
    }
    let filters = names.as_names();
    Packet::Unsubscribe(Unsubscribe { id: packet_id(random), properties: Properties::EMPTY, filters })
        .to_bytes(version)
        .ok()
}

/// An acknowledgement of something, with any reason.
pub(super) fn ack(random: &mut Random, version: Version) -> Option<Vec<u8>> {
    let reason = match version {
        Version::V5 => ReasonCode::new(*random.choose(&[0, 0, 0, 0x10, 0x80, 0x87, 0x91, 0x92, 0x97])),
        _ => ReasonCode::SUCCESS,
    };
    let ack = Ack::new(packet_id(random), reason);
    let packet = match random.below(4) {
        0 => Packet::PubAck(ack),
        1 => Packet::PubRec(ack),
        2 => Packet::PubRel(ack),
        _ => Packet::PubComp(ack),
    };
    packet.to_bytes(version).ok()
}

pub(super) fn disconnect(random: &mut Random, version: Version) -> Option<Vec<u8>> {
    let place = Place::Packet(PacketType::Disconnect);
    let buf = properties(random, version, place);
    let reason = match version {
        Version::V5 => ReasonCode::new(*random.choose(&[0, 0, 4, 0x80, 0x8E, 0x93])),
        _ => ReasonCode::SUCCESS,
    };
    let properties = buf.for_place(place, Sender::Client).unwrap();
    Packet::Disconnect(Disconnect { reason, properties }).to_bytes(version).ok()
}

/// A CONNECT, and what the client has promised in it.
pub(super) fn connect(random: &mut Random, version: Version, name: &str) -> (Option<Vec<u8>>, u16, u32) {
    let place = Place::Packet(PacketType::Connect);
    let (buf, of_will) = (properties(random, version, place), properties(random, version, Place::Will));
    let properties = buf.for_place(place, Sender::Client).unwrap();
    let (topic, payload) = (self::name(random), payload(random));
    let will = Will {
        qos: Qos::from_bits(u8::try_from(random.below(3)).unwrap()).unwrap(),
        retain: random.below(2) == 0,
        topic: &topic,
        payload: &payload,
        properties: of_will.for_place(Place::Will, Sender::Client).unwrap(),
    };
    let packet = Packet::Connect(Connect {
        version,
        clean_start: random.below(3) == 0,
        keep_alive: *random.choose(&[0, 60, 60, 65_535]),
        client_id: if random.below(20) == 0 && version == Version::V5 { "" } else { name },
        will: (random.below(4) == 0).then_some(will),
        user_name: (random.below(20) > 0).then_some(name),
        password: None,
        properties,
    });
    let receive_maximum = properties.receive_maximum().unwrap_or(u16::MAX);
    let largest = properties.maximum_packet_size().unwrap_or(u32::MAX);
    (packet.to_bytes(version).ok(), receive_maximum, largest)
}

/// A packet that a client may send, or nearly.
pub(super) fn any(random: &mut Random, version: Version) -> Vec<u8> {
    let packet = match random.below(10) {
        0..4 => publish(random, version),
        4 | 5 => subscribe(random, version),
        6 => unsubscribe(random, version),
        7 => ack(random, version),
        8 => connect(random, version, "a").0,
        _ => disconnect(random, version),
    };
    packet.unwrap_or_else(|| vec![0xC0, 0])
}

/// Changes a packet at random.
pub(super) fn broken(random: &mut Random, version: Version) -> Vec<u8> {
    let mut bytes = any(random, version);
    for _ in 0..=random.below(3) {
        let at = usize::try_from(random.below(bytes.len() as u64 + 1)).unwrap();
        match (random.below(5), bytes.get_mut(at)) {
            (0, _) => bytes.truncate(at.max(1)),
            (1, _) => bytes.insert(at, u8::try_from(random.below(256)).unwrap()),
            (2, Some(byte)) => *byte = *random.choose(&[0, 1, 0x7F, 0x80, 0xFF, b'#', b'+', b'/']),
            (_, Some(byte)) => *byte ^= 1 << random.below(8),
            (_, None) => bytes.push(0),
        }
    }
    bytes
}

pub(super) fn garbage(random: &mut Random) -> Vec<u8> {
    (0..=random.below(60)).map(|_| u8::try_from(random.below(256)).unwrap()).collect()
}
