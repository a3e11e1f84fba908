//! Packets of every type and version, written by hand from the specification: each is read as the packet beside it, and that
//! is written as the same bytes.

use jmqt_mqtt::{
    Ack, Auth, Codes, ConnAck, Connect, Delivery, Disconnect, EncodeError, FilterBuf, NameBuf, Packet,
    PacketId, PacketType, Place, Properties, Property, PropertyBuf, Publish, Qos, ReasonCode, RetainHandling,
    Sender, Subscribe, SubscribeOptions, SubscriptionId, Unsubscribe, Version, Violation, Will,
};

use crate::{bytes, read};

const V3: [Version; 2] = [Version::V3_1, Version::V3_1_1];
const OLD: Version = Version::V3_1_1;
const NEW: Version = Version::V5;
use Sender::{Client, Server};

/// The bytes are read as this packet, and the packet is written as these bytes.
#[track_caller]
fn both_ways(text: &str, version: Version, sender: Sender, packet: &Packet<'_>) {
    read_as(text, version, sender, packet);
    assert_eq!(packet.to_bytes(version), Ok(bytes(text)), "{text}");
}

/// The bytes are read as this packet, though it would be written otherwise.
#[track_caller]
fn read_as(text: &str, version: Version, sender: Sender, packet: &Packet<'_>) {
    read(&bytes(text), version, sender, |read| assert_eq!(read.as_ref(), Ok(packet), "{text}"));
}

fn id(number: u16) -> PacketId {
    PacketId::new(number).unwrap()
}

fn buf(properties: &[Property<'_>]) -> PropertyBuf {
    let mut buf = PropertyBuf::new();
    for &property in properties {
        buf.push(property).unwrap();
    }
    buf
}

fn of(buf: &PropertyBuf, kind: PacketType, sender: Sender) -> Properties<'_> {
    buf.for_place(Place::Packet(kind), sender).unwrap()
}

fn connect(version: Version) -> Connect<'static> {
    Connect {
        version,
        clean_start: true,
        keep_alive: 60,
        client_id: "c1",
        will: None,
        user_name: None,
        password: None,
        properties: Properties::EMPTY,
    }
}

#[test] // 3.1
fn connect_names_its_version_itself() {
    both_ways(
        "10 10  00 06 'MQIsdp' 03 02 00 3C  00 02 'c1'",
        OLD,
        Client,
        &Packet::Connect(connect(Version::V3_1)),
    );
    both_ways("10 0E  00 04 'MQTT' 04 02 00 3C  00 02 'c1'", NEW, Client, &Packet::Connect(connect(OLD)));
    both_ways("10 0F  00 04 'MQTT' 05 02 00 3C  00  00 02 'c1'", OLD, Client, &Packet::Connect(connect(NEW)));
}

#[test] // 3.1.2.3, 3.1.3 [MQTT-3.1.3-1], [MQTT-3.1.2-9], [MQTT-3.1.2-17], [MQTT-3.1.2-19]
fn connect_has_the_fields_of_its_flags_in_order() {
    let packet = Connect {
        clean_start: false,
        will: Some(Will {
            qos: Qos::AtLeastOnce,
            retain: true,
            topic: "w/t",
            payload: b"gone",
            properties: Properties::EMPTY,
        }),
        user_name: Some("alice"),
        password: Some(b"\xFFpw"),
        ..connect(OLD)
    };
    both_ways(
        "10 25  00 04 'MQTT' 04 EC 00 3C  00 02 'c1'  00 03 'w/t'  00 04 'gone'  00 05 'alice'  00 03 FF 'pw'",
        OLD,
        Client,
        &Packet::Connect(packet),
    );
}

#[test] // 3.1.2.11, 3.1.3.2
fn connect_has_all_properties_of_mqtt_5() {
    let properties = buf(&[
        Property::SessionExpiryInterval(3600),
        Property::ReceiveMaximum(10),
        Property::MaximumPacketSize(65536),
        Property::TopicAliasMaximum(5),
        Property::RequestResponseInformation(true),
        Property::RequestProblemInformation(false),
        Property::UserProperty(("a", "b")),
        Property::UserProperty(("a", "b")),
        Property::AuthenticationMethod("M"),
        Property::AuthenticationData(b"d"),
    ]);
    let will_properties = buf(&[
        Property::WillDelayInterval(5),
        Property::PayloadFormatIndicator(true),
        Property::MessageExpiryInterval(9),
        Property::ContentType("t"),
        Property::ResponseTopic("r"),
        Property::CorrelationData(b"\x00"),
        Property::UserProperty(("k", "")),
    ]);
    let packet = Connect {
        will: Some(Will {
            qos: Qos::ExactlyOnce,
            retain: false,
            topic: "w",
            payload: b"",
            properties: will_properties.for_place(Place::Will, Client).unwrap(),
        }),
        client_id: "",
        password: Some(b"p"), // without a user name, which is allowed from 5.0 on
        properties: of(&properties, PacketType::Connect, Client),
        ..connect(NEW)
    };
    both_ways(
        "10 5E  00 04 'MQTT' 05 56 00 3C \
         2A 11 00 00 0E 10  21 00 0A  27 00 01 00 00  22 00 05  19 01  17 00  26 00 01 'a' 00 01 'b' \
            26 00 01 'a' 00 01 'b'  15 00 01 'M'  16 00 01 'd' \
         00 00 \
         1E 18 00 00 00 05  01 01  02 00 00 00 09  03 00 01 't'  08 00 01 'r'  09 00 01 00  26 00 01 'k' 00 00 \
         00 01 'w'  00 00  00 01 'p'",
        OLD,
        Client,
        &Packet::Connect(packet),
    );
    let read = packet.properties;
    assert_eq!(read.session_expiry(), Some(3600));
    assert_eq!(read.receive_maximum(), Some(10));
    assert_eq!(read.maximum_packet_size(), Some(65536));
    assert_eq!(read.topic_alias_maximum(), Some(5));
    assert_eq!(read.request_response_information(), Some(true));
    assert_eq!(read.request_problem_information(), Some(false));
    assert_eq!(read.user_properties().collect::<Vec<_>>(), [("a", "b"), ("a", "b")]);
    assert_eq!((read.authentication_method(), read.authentication_data()), (Some("M"), Some(&b"d"[..])));
    let will = packet.will.unwrap().properties;
    assert_eq!((will.will_delay(), will.message_expiry()), (Some(5), Some(9)));
}

#[test] // 3.2 of 3.1.1 and 5.0
fn connack_tells_whether_a_session_exists() {
    let ack = |session_present, reason| {
        Packet::ConnAck(ConnAck { session_present, reason, properties: Properties::EMPTY })
    };
    both_ways("20 02  01 00", OLD, Server, &ack(true, ReasonCode::SUCCESS));
    both_ways("20 02  00 05", OLD, Server, &ack(false, ReasonCode::NOT_AUTHORIZED));
    both_ways("20 02  00 01", Version::V3_1, Server, &ack(false, ReasonCode::UNSUPPORTED_PROTOCOL_VERSION));
    both_ways("20 03  01 00 00", NEW, Server, &ack(true, ReasonCode::SUCCESS));
    both_ways("20 03  00 87 00", NEW, Server, &ack(false, ReasonCode::NOT_AUTHORIZED));
}

#[test] // 3.2.2.3
fn connack_has_all_properties_of_mqtt_5() {
    let properties = buf(&[
        Property::SessionExpiryInterval(1),
        Property::ReceiveMaximum(2),
        Property::MaximumQos(Qos::AtLeastOnce),
        Property::RetainAvailable(false),
        Property::MaximumPacketSize(3),
        Property::AssignedClientIdentifier("m"),
        Property::TopicAliasMaximum(4),
        Property::ReasonString("s"),
        Property::UserProperty(("u", "v")),
        Property::WildcardSubscriptionAvailable(true),
        Property::SubscriptionIdentifierAvailable(false),
        Property::SharedSubscriptionAvailable(true),
        Property::ServerKeepAlive(6),
        Property::ResponseInformation("i"),
        Property::ServerReference("o"),
        Property::AuthenticationMethod("a"),
        Property::AuthenticationData(b"b"),
    ]);
    let properties = of(&properties, PacketType::ConnAck, Server);
    both_ways(
        "20 3F  00 00  3C  11 00 00 00 01  21 00 02  24 01  25 00  27 00 00 00 03  12 00 01 'm'  22 00 04  1F 00 01 's' \
         26 00 01 'u' 00 01 'v'  28 01  29 00  2A 01  13 00 06  1A 00 01 'i'  1C 00 01 'o'  15 00 01 'a'  16 00 01 'b'",
        NEW,
        Server,
        &Packet::ConnAck(ConnAck { session_present: false, reason: ReasonCode::SUCCESS, properties }),
    );
    assert_eq!(properties.assigned_client_id(), Some("m"));
    assert_eq!(properties.maximum_qos(), Some(Qos::AtLeastOnce));
    assert_eq!(properties.retain_available(), Some(false));
    assert_eq!(properties.server_keep_alive(), Some(6));
    assert_eq!(properties.response_information(), Some("i"));
    assert_eq!(properties.server_reference(), Some("o"));
    assert_eq!(properties.reason_string(), Some("s"));
    assert_eq!(properties.wildcard_subscription_available(), Some(true));
    assert_eq!(properties.subscription_identifier_available(), Some(false));
    assert_eq!(properties.shared_subscription_available(), Some(true));
}

fn publish(delivery: Delivery, retain: bool) -> Publish<'static> {
    Publish { delivery, retain, topic: "a/b", properties: Properties::EMPTY, payload: b"hi" }
}

#[test] // 3.3 [MQTT-2.2.1-2] [MQTT-2.3.1-5]: only above QoS 0 there is a packet identifier
fn publish_has_qos_dup_and_retain_in_its_first_byte() {
    let once = Delivery::AtLeastOnce { id: id(10), dup: false };
    let again = Delivery::ExactlyOnce { id: id(0x1234), dup: true };
    for version in V3 {
        both_ways(
            "30 07  00 03 'a/b'  'hi'",
            version,
            Client,
            &Packet::Publish(publish(Delivery::AtMostOnce, false)),
        );
        both_ways("33 09  00 03 'a/b'  00 0A  'hi'", version, Server, &Packet::Publish(publish(once, true)));
        both_ways(
            "3C 09  00 03 'a/b'  12 34  'hi'",
            version,
            Client,
            &Packet::Publish(publish(again, false)),
        );
    }
    both_ways(
        "31 08  00 03 'a/b'  00  'hi'",
        NEW,
        Server,
        &Packet::Publish(publish(Delivery::AtMostOnce, true)),
    );
    both_ways("3A 0A  00 03 'a/b'  00 0A  00  'hi'", NEW, Server, &{
        Packet::Publish(publish(Delivery::AtLeastOnce { id: id(10), dup: true }, false))
    });
}

#[test] // 3.3.2.3
fn publish_has_all_properties_of_mqtt_5() {
    let properties = buf(&[
        Property::PayloadFormatIndicator(true),
        Property::MessageExpiryInterval(7),
        Property::TopicAlias(3),
        Property::ResponseTopic("r/s"),
        Property::CorrelationData(b"\x01\x02"),
        Property::UserProperty(("b", "1")),
        Property::UserProperty(("a", "2")),
        Property::SubscriptionIdentifier(SubscriptionId::new(1).unwrap()),
        Property::SubscriptionIdentifier(SubscriptionId::new(268_435_455).unwrap()),
        Property::ContentType("text/plain"),
    ]);
    let packet = Publish {
        topic: "",
        properties: of(&properties, PacketType::Publish, Server),
        ..publish(Delivery::AtMostOnce, false)
    };
    both_ways(
        "30 3C  00 00  37  01 01  02 00 00 00 07  23 00 03  08 00 03 'r/s'  09 00 02 01 02  26 00 01 'b' 00 01 '1' \
         26 00 01 'a' 00 01 '2'  0B 01  0B FF FF FF 7F  03 00 0A 'text/plain'  'hi'",
        NEW,
        Server,
        &Packet::Publish(packet),
    );
    let read = packet.properties;
    assert_eq!((read.payload_format_indicator(), read.topic_alias()), (Some(true), Some(3)));
    assert_eq!((read.response_topic(), read.content_type()), (Some("r/s"), Some("text/plain")));
    assert_eq!(read.correlation_data(), Some(&[1, 2][..]));
    assert_eq!(read.subscription_ids().map(SubscriptionId::get).collect::<Vec<_>>(), [1, 268_435_455]);
    // [MQTT-3.3.2-4], -15 to -18, -20: what belongs to the message goes on unaltered and in order.
    let mut forwarded = Vec::new();
    read.forward(&mut forwarded);
    assert_eq!(
        forwarded,
        bytes(
            "01 01  08 00 03 'r/s'  09 00 02 01 02  26 00 01 'b' 00 01 '1'  26 00 01 'a' 00 01 '2'  03 00 0A 'text/plain'"
        )
    );
}

#[test] // 3.3.2.3.2
fn a_payload_declared_as_text_must_be_utf_8() {
    let properties = buf(&[Property::PayloadFormatIndicator(true)]);
    let properties = of(&properties, PacketType::Publish, Client);
    let publish =
        |properties, payload| Publish { properties, payload, ..publish(Delivery::AtMostOnce, false) };
    assert!(publish(properties, "é".as_bytes()).is_format_valid());
    assert!(!publish(properties, b"\xFF").is_format_valid());
    assert!(publish(Properties::EMPTY, b"\xFF").is_format_valid());
}

#[test] // the template that is sent to many subscribers
fn the_head_of_a_publish_gives_the_position_of_its_packet_id() {
    let packet = publish(Delivery::AtLeastOnce { id: id(1), dup: false }, false);
    let mut out = b"before".to_vec();
    let patches = packet.encode_head(NEW, &mut out).unwrap();
    assert_eq!((patches.packet_id, patches.head), (Some(7), 10));
    out[6] |= 0b1000;
    out[6 + 7..6 + 9].copy_from_slice(&[0x12, 0x34]);
    out.extend_from_slice(packet.payload);
    let patched = publish(Delivery::AtLeastOnce { id: id(0x1234), dup: true }, false);
    assert_eq!(&out[6..], Packet::Publish(patched).to_bytes(NEW).unwrap());
}

#[test] // 3.4 to 3.7
fn acknowledgements_have_a_packet_id_and_from_5_on_a_reason() {
    type Make = fn(Ack<'_>) -> Packet<'_>;
    let kinds: [(Make, &str, PacketType); 4] = [
        (|ack| Packet::PubAck(ack), "40", PacketType::PubAck),
        (|ack| Packet::PubRec(ack), "50", PacketType::PubRec),
        (|ack| Packet::PubRel(ack), "62", PacketType::PubRel),
        (|ack| Packet::PubComp(ack), "70", PacketType::PubComp),
    ];
    for (make, first, kind) in kinds {
        let success = make(Ack::new(id(7), ReasonCode::SUCCESS));
        for version in [Version::V3_1, OLD, NEW] {
            both_ways(&format!("{first} 02  00 07"), version, Client, &success);
        }
        read_as(&format!("{first} 03  00 07 00"), NEW, Server, &success);
        read_as(&format!("{first} 04  00 07 00 00"), NEW, Server, &success);
        let (code, reason) = match kind {
            PacketType::PubAck | PacketType::PubRec => ("97", ReasonCode::QUOTA_EXCEEDED),
            _ => ("92", ReasonCode::PACKET_IDENTIFIER_NOT_FOUND),
        };
        both_ways(&format!("{first} 03  00 07 {code}"), NEW, Server, &make(Ack::new(id(7), reason)));
        let properties = buf(&[Property::ReasonString("no"), Property::UserProperty(("a", "b"))]);
        both_ways(
            &format!("{first} 10  00 07 {code}  0C  1F 00 02 'no'  26 00 01 'a' 00 01 'b'"),
            NEW,
            Server,
            &make(Ack { id: id(7), reason, properties: of(&properties, kind, Server) }),
        );
        assert_eq!(
            make(Ack::new(id(7), reason)).to_bytes(OLD),
            Err(EncodeError::NotInVersion("a reason code"))
        );
    }
}

#[test] // 3.8
fn subscribe_asks_for_filters_with_options() {
    let mut filters = FilterBuf::new();
    filters.push("a/+", SubscribeOptions::of_qos(Qos::AtLeastOnce)).unwrap();
    filters.push("#", SubscribeOptions::of_qos(Qos::ExactlyOnce)).unwrap();
    let packet = Subscribe { id: id(10), properties: Properties::EMPTY, filters: filters.as_filters() };
    for version in V3 {
        both_ways("82 0C  00 0A  00 03 'a/+' 01  00 01 '#' 02", version, Client, &Packet::Subscribe(packet));
    }
    filters
        .push(
            "$share/g/x",
            SubscribeOptions {
                qos: Qos::AtMostOnce,
                no_local: false,
                retain_as_published: true,
                retain_handling: RetainHandling::DoNotSend,
            },
        )
        .unwrap();
    filters
        .push(
            "x",
            SubscribeOptions {
                qos: Qos::ExactlyOnce,
                no_local: true,
                retain_as_published: false,
                retain_handling: RetainHandling::SendIfNew,
            },
        )
        .unwrap();
    let properties = buf(&[
        Property::SubscriptionIdentifier(SubscriptionId::new(128).unwrap()),
        Property::UserProperty(("a", "b")),
    ]);
    let packet = Subscribe {
        id: id(10),
        properties: of(&properties, PacketType::Subscribe, Client),
        filters: filters.as_filters(),
    };
    both_ways(
        "82 28  00 0A  0A 0B 80 01 26 00 01 'a' 00 01 'b'  00 03 'a/+' 01  00 01 '#' 02  00 0A '$share/g/x' 28  00 01 'x' 16",
        NEW,
        Client,
        &Packet::Subscribe(packet),
    );
    assert_eq!(packet.properties.subscription_id().map(SubscriptionId::get), Some(128));
    assert_eq!(
        packet.filters.iter().map(|(filter, _)| filter).collect::<Vec<_>>(),
        ["a/+", "#", "$share/g/x", "x"]
    );
    let v3 = Subscribe { properties: Properties::EMPTY, ..packet };
    assert_eq!(Packet::Subscribe(v3).to_bytes(OLD), Err(EncodeError::NotInVersion("a subscription option")));
}

#[test] // 3.9 [MQTT-3.9.3-1]
fn suback_has_a_code_for_each_filter() {
    let codes = |codes| Packet::SubAck(Codes { id: id(10), properties: Properties::EMPTY, codes });
    for version in V3 {
        both_ways("90 06  00 0A  00 01 02 80", version, Server, &codes(&[0, 1, 2, 0x80]));
    }
    both_ways("90 07  00 0A  00  02 8F A2 9E", NEW, Server, &codes(&[2, 0x8F, 0xA2, 0x9E]));
    // Every refusal is 0x80 before 5.0.
    assert_eq!(codes(&[1, 0x8F]).to_bytes(OLD), Ok(bytes("90 04  00 0A  01 80")));
}

#[test] // 3.10
fn unsubscribe_names_filters() {
    let mut filters = NameBuf::new();
    filters.push("a/b").unwrap();
    filters.push("c").unwrap();
    let packet = Unsubscribe { id: id(1), properties: Properties::EMPTY, filters: filters.as_names() };
    for version in V3 {
        both_ways("A2 0A  00 01  00 03 'a/b'  00 01 'c'", version, Client, &Packet::Unsubscribe(packet));
    }
    both_ways("A2 0B  00 01  00  00 03 'a/b'  00 01 'c'", NEW, Client, &Packet::Unsubscribe(packet));
    assert_eq!(packet.filters.iter().collect::<Vec<_>>(), ["a/b", "c"]);
}

#[test] // 3.11
fn unsuback_has_codes_from_5_on() {
    let codes = |codes| Packet::UnsubAck(Codes { id: id(1), properties: Properties::EMPTY, codes });
    for version in V3 {
        both_ways("B0 02  00 01", version, Server, &codes(&[]));
    }
    both_ways("B0 05  00 01  00  00 11", NEW, Server, &codes(&[0, 0x11]));
}

#[test] // 3.12, 3.13
fn pings_are_empty() {
    for version in [Version::V3_1, OLD, NEW] {
        both_ways("C0 00", version, Client, &Packet::PingReq);
        both_ways("D0 00", version, Server, &Packet::PingResp);
    }
}

#[test] // 3.14
fn disconnect_may_omit_normal_values() {
    let disconnect = |reason, properties| Packet::Disconnect(Disconnect { reason, properties });
    let normal = disconnect(ReasonCode::SUCCESS, Properties::EMPTY);
    for version in [Version::V3_1, OLD, NEW] {
        both_ways("E0 00", version, Client, &normal);
    }
    read_as("E0 01  00", NEW, Client, &normal);
    read_as("E0 02  00 00", NEW, Client, &normal);
    both_ways("E0 01  04", NEW, Client, &disconnect(ReasonCode::DISCONNECT_WITH_WILL, Properties::EMPTY));
    both_ways("E0 01  8E", NEW, Server, &disconnect(ReasonCode::SESSION_TAKEN_OVER, Properties::EMPTY));
    let properties = buf(&[Property::SessionExpiryInterval(0)]);
    let properties = of(&properties, PacketType::Disconnect, Client);
    both_ways("E0 07  00  05 11 00 00 00 00", NEW, Client, &disconnect(ReasonCode::SUCCESS, properties));
    let properties = buf(&[Property::ReasonString("r"), Property::ServerReference("s")]);
    let properties = of(&properties, PacketType::Disconnect, Server);
    both_ways(
        "E0 0A  9C  08 1F 00 01 'r' 1C 00 01 's'",
        NEW,
        Server,
        &disconnect(ReasonCode::USE_ANOTHER_SERVER, properties),
    );
}

#[test] // 3.15
fn auth_names_its_method() {
    let properties = buf(&[Property::AuthenticationMethod("M"), Property::AuthenticationData(b"\x00\x01")]);
    let auth =
        |reason, sender| Packet::Auth(Auth { reason, properties: of(&properties, PacketType::Auth, sender) });
    let text = |code| format!("F0 0B  {code}  09 15 00 01 'M' 16 00 02 00 01");
    both_ways(&text("18"), NEW, Client, &auth(ReasonCode::CONTINUE_AUTHENTICATION, Client));
    both_ways(&text("18"), NEW, Server, &auth(ReasonCode::CONTINUE_AUTHENTICATION, Server));
    both_ways(&text("19"), NEW, Client, &auth(ReasonCode::RE_AUTHENTICATE, Client));
    let success = Auth { reason: ReasonCode::SUCCESS, properties: Properties::EMPTY };
    both_ways("F0 00", NEW, Server, &Packet::Auth(success));
    assert_eq!(Packet::Auth(success).to_bytes(OLD), Err(EncodeError::NotInVersion("AUTH")));
}

#[test] // 1.5.4 [MQTT-1.5.4-3] [MQTT-1.5.3-3]
fn a_byte_order_mark_is_a_character_like_any_other() {
    read(&bytes("30 06  00 04 EF BB BF 'a'"), OLD, Client, |packet| {
        let Ok(Packet::Publish(publish)) = packet else { panic!("{packet:?}") };
        assert_eq!(publish.topic, "\u{FEFF}a");
    });
}

#[test] // 2.1.4: 3.1.1 does not forbid it, and some devices do it; 5.0 does [MQTT-1.5.5-1]
fn a_remaining_length_may_be_longer_than_necessary_before_5() {
    for version in V3 {
        read_as("C0 80 00", version, Client, &Packet::PingReq);
    }
}

#[test] // MQTT 3.1: 2.1, where these three have a DUP flag
fn mqtt_3_1_knows_dup_in_three_more_packets() {
    read_as("6A 02  00 07", Version::V3_1, Client, &Packet::PubRel(Ack::new(id(7), ReasonCode::SUCCESS)));
    let mut filters = FilterBuf::new();
    filters.push("a", SubscribeOptions::of_qos(Qos::AtMostOnce)).unwrap();
    let packet = Subscribe { id: id(1), properties: Properties::EMPTY, filters: filters.as_filters() };
    read_as("8A 06  00 01  00 01 'a' 00", Version::V3_1, Client, &Packet::Subscribe(packet));
}

#[test] // MQTT 3.1: 3.1, where the length takes precedence over the flags
fn mqtt_3_1_may_announce_a_user_name_and_a_password_that_are_not_there() {
    let connect = connect(Version::V3_1);
    read_as("10 10  00 06 'MQIsdp' 03 C2 00 3C  00 02 'c1'", OLD, Client, &Packet::Connect(connect));
    read_as("10 15  00 06 'MQIsdp' 03 C2 00 3C  00 02 'c1'  00 03 'bob'", OLD, Client, &{
        Packet::Connect(Connect { user_name: Some("bob"), ..connect })
    });
}

#[test] // what a receiver would refuse is not written, and nothing of it is
fn a_packet_that_breaks_a_rule_is_not_written() {
    let long = "x".repeat(65_536);
    let topic = |topic| Packet::Publish(Publish { topic, ..publish(Delivery::AtMostOnce, false) });
    let code = |code| {
        Packet::Disconnect(Disconnect { reason: ReasonCode::new(code), properties: Properties::EMPTY })
    };
    let cases = [
        (topic("a/#"), NEW, Violation::TopicWildcard.into()),
        (topic(""), NEW, Violation::TopicEmpty.into()),
        (topic("a\0"), OLD, Violation::NullCharacter.into()),
        (topic(&long), OLD, EncodeError::FieldTooLong("the topic")),
        (code(0x85), NEW, Violation::ReasonCode(0x85).into()),
        (Packet::Connect(Connect { password: Some(b"x"), ..connect(OLD) }), OLD, {
            Violation::PasswordWithoutUserName.into()
        }),
        (Packet::Connect(Connect { client_id: "", clean_start: false, ..connect(OLD) }), OLD, {
            Violation::ClientIdMissing.into()
        }),
        (
            Packet::ConnAck(ConnAck {
                session_present: true,
                reason: ReasonCode::BANNED,
                properties: Properties::EMPTY,
            }),
            NEW,
            Violation::SessionPresentWithError.into(),
        ),
        (
            Packet::ConnAck(ConnAck {
                session_present: false,
                reason: ReasonCode::BANNED,
                properties: Properties::EMPTY,
            }),
            OLD,
            EncodeError::NotInVersion("this reason code"),
        ),
    ];
    for (packet, version, error) in cases {
        let mut out = b"before".to_vec();
        assert_eq!(packet.encode(version, &mut out), Err(error), "{packet:?}");
        assert_eq!(out, b"before");
    }
    let mut properties = PropertyBuf::new();
    assert!(properties.push(Property::TopicAlias(0)).is_err());
    assert!(properties.push(Property::ReasonString(&long)).is_err());
    assert!(properties.push(Property::MaximumQos(Qos::ExactlyOnce)).is_err());
    assert!(properties.is_empty());
}

#[test] // 3.1.3.6: logs show `Debug`
fn a_password_does_not_show_in_debug_output() {
    let packet = Connect { user_name: Some("u"), password: Some(b"secret"), ..connect(NEW) };
    let shown = format!("{packet:?} {:?}", Packet::Connect(packet));
    assert!(!shown.contains("secret") && !shown.contains("115, 101"), "{shown}");
}
