//! What holds for every packet and all bytes.

use jmqt_mqtt::{
    Ack, Auth, Codes, ConnAck, Connect, Delivery, Disconnect, FilterBuf, FrameDecoder, NameBuf, Packet,
    PacketId, PacketType, Place, Properties, Property, PropertyBuf, PropertyId, Publish, Qos, ReasonCode,
    RetainHandling, Sender, Subscribe, SubscribeOptions, SubscriptionId, Unsubscribe, Version, Will, peek,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

pub(crate) const VERSIONS: [Version; 3] = [Version::V3_1, Version::V3_1_1, Version::V5];

/// A packet that owns what it is made of.
#[derive(Debug, Clone)]
pub(crate) struct Owned {
    version: Version,
    sender: Sender,
    kind: PacketType,
    id: u16,
    code: u8,
    codes: Vec<u8>,
    bits: u8,
    keep_alive: u16,
    topic: String,
    strings: (String, Option<String>, Option<Vec<u8>>),
    data: Vec<u8>,
    filters: Vec<(String, u8)>,
    properties: Vec<OwnedProperty>,
}

#[derive(Debug, Clone)]
struct OwnedProperty {
    id: PropertyId,
    number: u32,
    strings: (String, String),
    data: Vec<u8>,
}

impl OwnedProperty {
    fn borrow(&self) -> Property<'_> {
        let (text, flag) = (self.strings.0.as_str(), self.number % 2 == 1);
        let short = u16::try_from(self.number % 65_535 + 1).unwrap();
        match self.id {
            PropertyId::PayloadFormatIndicator => Property::PayloadFormatIndicator(flag),
            PropertyId::MessageExpiryInterval => Property::MessageExpiryInterval(self.number),
            PropertyId::ContentType => Property::ContentType(text),
            PropertyId::ResponseTopic => Property::ResponseTopic("r/t"),
            PropertyId::CorrelationData => Property::CorrelationData(&self.data),
            PropertyId::SubscriptionIdentifier => {
                Property::SubscriptionIdentifier(SubscriptionId::new(self.number % 268_435_455 + 1).unwrap())
            }
            PropertyId::SessionExpiryInterval => Property::SessionExpiryInterval(self.number),
            PropertyId::AssignedClientIdentifier => Property::AssignedClientIdentifier(text),
            PropertyId::ServerKeepAlive => Property::ServerKeepAlive(short),
            PropertyId::AuthenticationMethod => Property::AuthenticationMethod(text),
            PropertyId::AuthenticationData => Property::AuthenticationData(&self.data),
            PropertyId::RequestProblemInformation => Property::RequestProblemInformation(flag),
            PropertyId::WillDelayInterval => Property::WillDelayInterval(self.number),
            PropertyId::RequestResponseInformation => Property::RequestResponseInformation(flag),
            PropertyId::ResponseInformation => Property::ResponseInformation(text),
            PropertyId::ServerReference => Property::ServerReference(text),
            PropertyId::ReasonString => Property::ReasonString(text),
            PropertyId::ReceiveMaximum => Property::ReceiveMaximum(short),
            PropertyId::TopicAliasMaximum => Property::TopicAliasMaximum(short),
            PropertyId::TopicAlias => Property::TopicAlias(short),
            PropertyId::MaximumQos => {
                Property::MaximumQos(if flag { Qos::AtLeastOnce } else { Qos::AtMostOnce })
            }
            PropertyId::RetainAvailable => Property::RetainAvailable(flag),
            PropertyId::UserProperty => Property::UserProperty((text, &self.strings.1)),
            PropertyId::MaximumPacketSize => Property::MaximumPacketSize(self.number.max(1)),
            PropertyId::WildcardSubscriptionAvailable => Property::WildcardSubscriptionAvailable(flag),
            PropertyId::SubscriptionIdentifierAvailable => Property::SubscriptionIdentifierAvailable(flag),
            PropertyId::SharedSubscriptionAvailable => Property::SharedSubscriptionAvailable(flag),
        }
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-zé😀\u{FEFF}\\x01/]{0,12}", "[a-z]{120,140}"]
}

fn topic() -> impl Strategy<Value = String> {
    "[a-zé/$ ]{1,20}"
}

fn data() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![4 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 0..20_000)]
}

pub(crate) fn owned() -> impl Strategy<Value = Owned> {
    let property = (0..PropertyId::ALL.len(), any::<u32>(), (text(), text()), vec(any::<u8>(), 0..9))
        .prop_map(|(index, number, strings, data)| OwnedProperty {
            id: PropertyId::ALL[index],
            number,
            strings,
            data,
        });
    let head = (0..3usize, any::<bool>(), 1..=15u8, 1..=u16::MAX, any::<u8>(), vec(any::<u8>(), 1..5));
    let body = (any::<u8>(), any::<u16>(), topic(), (text(), option::of(text()), option::of(data())), data());
    (head, body, vec((topic(), any::<u8>()), 1..4), vec(property, 0..8)).prop_map(
        |(
            (version, client, kind, id, code, codes),
            (bits, keep_alive, topic, strings, data),
            filters,
            properties,
        )| {
            Owned {
                version: VERSIONS[version],
                sender: if client { Sender::Client } else { Sender::Server },
                kind: PacketType::of_first_byte(kind << 4).unwrap(),
                id,
                code,
                codes,
                bits,
                keep_alive,
                topic,
                strings,
                data,
                filters,
                properties,
            }
        },
    )
}

impl Owned {
    /// The properties that may be in this place, each once but those that may repeat.
    fn properties(&self, place: Place, version: Version, sender: Sender) -> PropertyBuf {
        let mut buf = PropertyBuf::new();
        if !version.has_properties() {
            return buf;
        }
        if place == Place::Packet(PacketType::Auth) {
            buf.push(Property::AuthenticationMethod("m")).unwrap();
        }
        for property in &self.properties {
            let before = buf.len();
            buf.push(property.borrow()).unwrap();
            if buf.for_place(place, sender).is_err() {
                buf.truncate(before);
            }
        }
        buf
    }

    /// Makes the packet valid where random choices have not, and gives it to `check`; nothing if this side cannot send it.
    pub(crate) fn with_packet(&self, check: impl FnOnce(&Packet<'_>, Version, Sender)) {
        let (version, sender) = (self.version, self.sender);
        if !self.kind.may_come_from(sender, version) {
            return;
        }
        let id = PacketId::new(self.id).unwrap();
        let buf = self.properties(Place::Packet(self.kind), version, sender);
        let properties = buf.for_place(Place::Packet(self.kind), sender).unwrap();
        let will_buf = self.properties(Place::Will, version, sender);
        let mut reason = ReasonCode::new(self.code);
        if !version.has_properties() || !reason.is_valid_in(self.kind, sender) {
            reason = if self.kind == PacketType::Auth {
                ReasonCode::CONTINUE_AUTHENTICATION
            } else {
                ReasonCode::SUCCESS
            };
        }
        let dup = self.bits & 4 != 0;
        let delivery = match self.bits % 3 {
            0 => Delivery::AtMostOnce,
            1 => Delivery::AtLeastOnce { id, dup },
            _ => Delivery::ExactlyOnce { id, dup },
        };
        let mut codes = self.codes.clone();
        codes.retain(|&code| {
            ReasonCode::new(code).is_valid_in(self.kind, sender) && (version.has_properties() || code <= 0x80)
        });
        codes.push(0);
        if !version.has_properties() && self.kind == PacketType::UnsubAck {
            codes.clear();
        }
        let mut filters = FilterBuf::new();
        let mut names = NameBuf::new();
        for (filter, bits) in &self.filters {
            let mut options = SubscribeOptions::of_qos(Qos::from_bits(bits % 3).unwrap());
            if version.has_properties() {
                options.no_local = bits & 64 != 0 && !filter.starts_with("$share/");
                options.retain_as_published = bits & 128 != 0;
                options.retain_handling =
                    [RetainHandling::Send, RetainHandling::SendIfNew, RetainHandling::DoNotSend]
                        [usize::from(bits % 5 % 3)];
            }
            filters.push(filter, options).unwrap();
            names.push(filter).unwrap();
        }
        let will = Will {
            qos: Qos::from_bits(self.bits % 3).unwrap(),
            retain: self.bits & 8 != 0,
            topic: &self.topic,
            payload: &self.data,
            properties: will_buf.for_place(Place::Will, sender).unwrap(),
        };
        let (client_id, user_name, password) = &self.strings;
        let ack = Ack { id, reason, properties };
        let answers = Codes { id, properties, codes: &codes };
        let packet = match self.kind {
            PacketType::Connect => Packet::Connect(Connect {
                version,
                clean_start: self.bits & 1 != 0,
                keep_alive: self.keep_alive,
                client_id: if client_id.is_empty() && !version.has_properties() { "c" } else { client_id },
                will: (self.bits & 2 != 0).then_some(will),
                user_name: user_name.as_deref(),
                password: password.as_deref().filter(|_| version.has_properties() || user_name.is_some()),
                properties,
            }),
            PacketType::ConnAck => Packet::ConnAck(ConnAck {
                session_present: dup && version != Version::V3_1 && reason == ReasonCode::SUCCESS,
                reason,
                properties,
            }),
            PacketType::Publish => Packet::Publish(Publish {
                delivery,
                retain: self.bits & 8 != 0,
                topic: &self.topic,
                properties,
                payload: &self.data,
            }),
            PacketType::PubAck => Packet::PubAck(ack),
            PacketType::PubRec => Packet::PubRec(ack),
            PacketType::PubRel => Packet::PubRel(ack),
            PacketType::PubComp => Packet::PubComp(ack),
            PacketType::Subscribe => {
                Packet::Subscribe(Subscribe { id, properties, filters: filters.as_filters() })
            }
            PacketType::SubAck => Packet::SubAck(answers),
            PacketType::Unsubscribe => {
                Packet::Unsubscribe(Unsubscribe { id, properties, filters: names.as_names() })
            }
            PacketType::UnsubAck => Packet::UnsubAck(answers),
            PacketType::PingReq => Packet::PingReq,
            PacketType::PingResp => Packet::PingResp,
            PacketType::Disconnect => Packet::Disconnect(Disconnect { reason, properties }),
            PacketType::Auth => Packet::Auth(Auth { reason, properties }),
        };
        check(&packet, version, sender);
    }
}

/// Reads what may be a packet; if it is one, what it is written as is read as the same packet.
fn survives(bytes: &[u8], version: Version, sender: Sender) {
    let mut decoder = FrameDecoder::new(bytes.len());
    let mut chunk = bytes;
    while let Ok(Some(frame)) = decoder.next(&mut chunk, Some(version)) {
        let Ok(packet) = Packet::decode(&frame, version, sender) else { continue };
        let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
        let written = packet.to_bytes(version).unwrap_or_else(|error| panic!("{packet:?}: {error}"));
        let mut again = FrameDecoder::new(written.len());
        let mut chunk = written.as_slice();
        let frame = again.next(&mut chunk, None).unwrap().unwrap();
        assert_eq!(Packet::decode(&frame, version, sender), Ok(packet));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    #[test]
    fn every_packet_comes_back_as_it_was_written(owned in owned()) {
        owned.with_packet(|packet, version, sender| {
            let written = packet.to_bytes(version).unwrap();
            let mut decoder = FrameDecoder::new(written.len());
            let frame = crate::frame(&mut decoder, &written).unwrap();
            let read = Packet::decode(&frame, version, sender);
            assert_eq!(read.as_ref(), Ok(packet));
            assert_eq!(read.unwrap().to_bytes(version).as_ref(), Ok(&written), "byte for byte");
        });
    }

    #[test]
    fn every_truncation_is_incomplete_or_refused(owned in owned(), to in any::<prop::sample::Index>()) {
        owned.with_packet(|packet, version, sender| {
            let written = packet.to_bytes(version).unwrap();
            // As a stream that ends early: no packet comes out.
            let end = to.index(written.len());
            let mut decoder = FrameDecoder::new(written.len());
            assert_eq!(decoder.next(&mut &written[..end], Some(version)), Ok(None));
            // As a body that ends early although the length is right: an error or another packet, never a panic.
            let Ok(jmqt_mqtt::Peek::Known(header)) = peek(&written, usize::MAX) else { panic!() };
            let body = &written[header.length..];
            if !body.is_empty() {
                let body = &body[..to.index(body.len())];
                let frame = jmqt_mqtt::Frame { first: header.first, minimal_length: true, body };
                let _ = Packet::decode(&frame, version, sender);
            }
        });
    }

    #[test]
    fn every_flipped_bit_gives_an_error_or_a_packet(owned in owned(), at in any::<prop::sample::Index>(), bit in 0..8u8) {
        owned.with_packet(|packet, version, sender| {
            let mut written = packet.to_bytes(version).unwrap();
            let at = at.index(written.len());
            written[at] ^= 1 << bit;
            survives(&written, version, sender);
        });
    }

    #[test]
    fn any_bytes_give_errors_or_packets(bytes in vec(any::<u8>(), 0..40), version in 0..3usize, client in any::<bool>()) {
        survives(&bytes, VERSIONS[version], if client { Sender::Client } else { Sender::Server });
    }

    #[test]
    fn any_body_of_any_type_gives_an_error_or_a_packet(first in any::<u8>(), body in vec(any::<u8>(), 0..40)) {
        for version in VERSIONS {
            for sender in [Sender::Client, Sender::Server] {
                let frame = jmqt_mqtt::Frame { first, minimal_length: true, body: &body };
                if let Ok(packet) = Packet::decode(&frame, version, sender) {
                    let version = if let Packet::Connect(connect) = &packet { connect.version } else { version };
                    prop_assert!(packet.to_bytes(version).is_ok());
                }
                let _ = Connect::decode(&frame);
            }
        }
    }

    #[test]
    fn a_stream_gives_the_same_packets_however_it_is_cut(
        packets in vec(owned(), 1..5),
        cuts in vec(any::<prop::sample::Index>(), 0..8),
    ) {
        let mut stream = Vec::new();
        let mut expected = Vec::new();
        for owned in &packets {
            owned.with_packet(|packet, version, _| {
                let written = packet.to_bytes(version).unwrap();
                expected.push(written.clone());
                stream.extend(written);
            });
        }
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        cuts.extend([0, stream.len()]);
        cuts.sort_unstable();
        let mut decoder = FrameDecoder::new(1 << 20);
        let mut seen = Vec::new();
        for pair in cuts.windows(2) {
            let mut chunk = &stream[pair[0]..pair[1]];
            while let Some(frame) = decoder.next(&mut chunk, None).unwrap() {
                seen.push((frame.first, frame.body.to_vec()));
            }
        }
        prop_assert!(!decoder.is_mid_packet());
        prop_assert_eq!(seen.len(), expected.len());
        for ((first, body), expected) in seen.iter().zip(&expected) {
            prop_assert_eq!(*first, expected[0]);
            prop_assert!(expected.ends_with(body));
        }
    }

    #[test]
    fn only_properties_of_the_message_are_forwarded(owned in owned()) {
        let place = Place::Packet(PacketType::Publish);
        let buf = owned.properties(place, Version::V5, Sender::Server);
        let properties = buf.for_place(place, Sender::Server).unwrap();
        let mut forwarded = Vec::new();
        properties.forward(&mut forwarded);
        let forwarded = Properties::check(&forwarded, place, Sender::Server).unwrap();
        let belongs = |property: &Property<'_>| !matches!(
            property.id(),
            PropertyId::MessageExpiryInterval | PropertyId::TopicAlias | PropertyId::SubscriptionIdentifier
        );
        let expected: Vec<_> = properties.iter().filter(belongs).collect();
        prop_assert_eq!(forwarded.iter().collect::<Vec<_>>(), expected);
    }
}
