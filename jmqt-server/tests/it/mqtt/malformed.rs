//! Packets that break a rule (4.13): the connection ends with the reason code that the specification names, nobody else is
//! disturbed, and the log has one line.

use std::sync::{Arc, Mutex};

use tracing_subscriber::layer::{Context, SubscriberExt as _};
use tracing_subscriber::{Layer, Registry};

use super::*;

const MALFORMED: ReasonCode = ReasonCode::MALFORMED_PACKET;
const PROTOCOL: ReasonCode = ReasonCode::PROTOCOL_ERROR;

/// Bytes as hexadecimal numbers, and text in quotes.
fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (number, part) in text.split('\'').enumerate() {
        match number % 2 {
            0 => bytes.extend(part.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect(byte))),
            _ => bytes.extend_from_slice(part.as_bytes()),
        }
    }
    bytes
}

/// This body after a fixed header of one byte and the right length.
fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 128);
    [&[first, body.len() as u8], body].concat()
}

/// Clients that must not notice what others do wrong.
pub(super) struct Bystanders {
    publisher: Device,
    device: Device,
    browser: crate::support::Client,
    sent: u32,
}

impl Bystanders {
    pub(super) async fn new(server: &TestServer) -> Self {
        let publisher = Device::new(server, Version::V5, Login::of("publisher")).await;
        let mut device = Device::new(server, Version::V3_1_1, Login::of("bystander")).await;
        device.subscribe("quiet", Qos::AtMostOnce).await;
        let mut browser = server.connect("browser").await;
        browser.sub("quiet").await;
        Self { publisher, device, browser, sent: 0 }
    }

    /// They go on as if nothing had happened, and have received nothing else.
    pub(super) async fn go_on(&mut self) {
        self.sent += 1;
        let text = self.sent.to_string();
        self.publisher.publish("quiet", text.as_bytes(), Delivery::AtMostOnce, false).await;
        assert_eq!(self.device.message().await.1, text.as_bytes());
        let push = format!(r#"{{"push":{{"cn":"quiet","dt":{text},"cl":"publisher"}}}}"#);
        self.browser.expect_push(&push).await;
    }
}

/// Packets of a connected client of MQTT 5, and the reason code of the DISCONNECT.
fn bad_packets() -> Vec<(&'static str, &'static str, ReasonCode)> {
    vec![
        // The fixed header (2.1).
        ("packet type 0", "00 00", MALFORMED),
        ("a length of five bytes", "30 FF FF FF FF 01", MALFORMED),
        ("a length that is longer than necessary", "C0 80 00", MALFORMED),
        ("a packet above the maximum packet size", "30 FF FF FF 7F", ReasonCode::PACKET_TOO_LARGE),
        ("flags of PUBACK", "41 02 00 01", MALFORMED),
        ("flags of PUBREC", "58 02 00 01", MALFORMED),
        ("flags of PUBREL", "60 02 00 01", MALFORMED),
        ("flags of PUBREL", "63 02 00 01", MALFORMED),
        ("flags of PUBCOMP", "72 02 00 01", MALFORMED),
        ("flags of SUBSCRIBE", "80 07 00 01 00 00 01 'a' 00", MALFORMED),
        ("flags of UNSUBSCRIBE", "A0 06 00 01 00 00 01 'a'", MALFORMED),
        ("flags of PINGREQ", "C1 00", MALFORMED),
        ("flags of DISCONNECT", "E1 00", MALFORMED),
        ("flags of AUTH", "F1 00", MALFORMED),
        // The wrong packet.
        ("CONNACK", "20 03 00 00 00", PROTOCOL),
        ("SUBACK", "90 04 00 01 00 00", PROTOCOL),
        ("UNSUBACK", "B0 04 00 01 00 00", PROTOCOL),
        ("PINGRESP", "D0 00", PROTOCOL),
        ("AUTH without an exchange", "F0 00", PROTOCOL),
        ("a second CONNECT", "10 0D 00 04 'MQTT' 05 02 00 00 00 00 00", PROTOCOL),
        ("a second CONNECT of a later version", "10 0D 00 04 'MQTT' 06 02 00 00 00 00 00", PROTOCOL),
        ("a second CONNECT of another protocol", "10 0D 00 04 'QQTM' 05 02 00 00 00 00 00", PROTOCOL),
        ("a second CONNECT with an invalid flag", "10 0D 00 04 'MQTT' 05 03 00 00 00 00 00", PROTOCOL),
        ("a second CONNECT of 3.1.1 without a client id", "10 0C 00 04 'MQTT' 04 00 00 00 00 00", PROTOCOL),
        // Strings (1.5.4).
        ("bytes that are not UTF-8", "30 04 00 01 FF 00", MALFORMED),
        ("an overlong character", "30 05 00 02 C0 80 00", MALFORMED),
        ("a surrogate", "30 06 00 03 ED A0 80 00", MALFORMED),
        ("a character above U+10FFFF", "30 07 00 04 F4 90 80 80 00", MALFORMED),
        ("U+0000 in a topic", "30 05 00 02 'a' 00 00", MALFORMED),
        ("U+0000 in a filter", "82 08 00 01 00 00 02 'a' 00 00", MALFORMED),
        ("a surrogate in a filter", "82 09 00 01 00 00 03 ED BF BF 00", MALFORMED),
        ("U+0000 in a filter of UNSUBSCRIBE", "A2 07 00 01 00 00 02 'a' 00", MALFORMED),
        ("U+0000 in a user property", "30 0B 00 01 'a' 07 26 00 01 00 00 01 'b'", MALFORMED),
        ("a string that ends behind the packet", "30 03 00 05 'a'", MALFORMED),
        // PUBLISH (3.3).
        ("QoS 3", "36 06 00 01 'a' 00 01 00", MALFORMED),
        ("DUP with QoS 0", "38 04 00 01 'a' 00", MALFORMED),
        ("packet identifier 0 of QoS 1", "32 06 00 01 'a' 00 00 00", PROTOCOL),
        ("packet identifier 0 of QoS 2", "34 06 00 01 'a' 00 00 00", PROTOCOL),
        ("an empty topic without an alias", "30 03 00 00 00", PROTOCOL),
        ("a topic with +", "30 06 00 03 'a/+' 00", ReasonCode::TOPIC_NAME_INVALID),
        ("a topic with #", "30 04 00 01 '#' 00", ReasonCode::TOPIC_NAME_INVALID),
        ("topic alias 0", "30 06 00 00 03 23 00 00", ReasonCode::TOPIC_ALIAS_INVALID),
        ("a topic alias above the maximum", "30 07 00 01 'a' 03 23 00 21", ReasonCode::TOPIC_ALIAS_INVALID),
        ("a topic alias that has no topic", "30 06 00 00 03 23 00 07", PROTOCOL),
        ("a response topic with +", "30 08 00 01 'a' 04 08 00 01 '+'", PROTOCOL),
        ("an empty response topic", "30 07 00 01 'a' 03 08 00 00", PROTOCOL),
        ("a subscription identifier of a client", "30 06 00 01 'a' 02 0B 01", PROTOCOL),
        ("format indicator 2", "30 06 00 01 'a' 02 01 02", PROTOCOL),
        // Properties (2.2.2).
        ("a property that does not exist", "30 06 00 01 'a' 02 7F 00", MALFORMED),
        ("a property of CONNECT in PUBLISH", "30 09 00 01 'a' 05 11 00 00 00 01", MALFORMED),
        ("a property of PUBLISH in SUBSCRIBE", "82 09 00 01 02 01 01 00 01 'a' 00", MALFORMED),
        ("a duplicate expiry interval", "30 0E 00 01 'a' 0A 02 00 00 00 01 02 00 00 00 01", PROTOCOL),
        ("a duplicate topic alias", "30 0A 00 01 'a' 06 23 00 01 23 00 01", PROTOCOL),
        ("a duplicate content type", "30 0C 00 01 'a' 08 03 00 01 'x' 03 00 01 'x'", PROTOCOL),
        ("a duplicate subscription identifier", "82 0B 00 01 04 0B 01 0B 02 00 01 'a' 00", PROTOCOL),
        ("subscription identifier 0", "82 09 00 01 02 0B 00 00 01 'a' 00", PROTOCOL),
        ("properties that end behind the packet", "30 05 00 01 'a' 7F 01", MALFORMED),
        ("a property that ends behind the properties", "30 07 00 01 'a' 03 02 00 00", MALFORMED),
        ("a property length of five bytes", "30 08 00 01 'a' 80 80 80 80 01", MALFORMED),
        ("a property length that is longer than necessary", "30 05 00 01 'a' 80 00", MALFORMED),
        // Acknowledgements (3.4 to 3.7).
        ("packet identifier 0 of PUBACK", "40 02 00 00", PROTOCOL),
        ("packet identifier 0 of PUBREL", "62 02 00 00", PROTOCOL),
        ("a code that PUBACK does not have", "40 03 00 01 92", PROTOCOL),
        ("a code that PUBREL does not have", "62 03 00 01 10", PROTOCOL),
        ("bytes behind PUBACK", "40 05 00 01 00 00 00", MALFORMED),
        ("PUBACK without a packet identifier", "40 01 00", MALFORMED),
        // SUBSCRIBE and UNSUBSCRIBE (3.8, 3.10).
        ("packet identifier 0 of SUBSCRIBE", "82 07 00 00 00 00 01 'a' 00", PROTOCOL),
        ("packet identifier 0 of UNSUBSCRIBE", "A2 06 00 00 00 00 01 'a'", PROTOCOL),
        ("SUBSCRIBE without a filter", "82 03 00 01 00", PROTOCOL),
        ("UNSUBSCRIBE without a filter", "A2 03 00 01 00", PROTOCOL),
        ("a filter without options", "82 06 00 01 00 00 01 'a'", MALFORMED),
        ("QoS 3 of SUBSCRIBE", "82 07 00 01 00 00 01 'a' 03", PROTOCOL),
        ("retain handling 3", "82 07 00 01 00 00 01 'a' 30", PROTOCOL),
        ("reserved options", "82 07 00 01 00 00 01 'a' 40", MALFORMED),
        ("no local on a shared subscription", "82 10 00 01 00 00 0A '$share/g/a' 04", PROTOCOL),
        // The others (3.12, 3.14).
        ("bytes behind PINGREQ", "C0 01 00", MALFORMED),
        ("a code of the server in DISCONNECT", "E0 01 8E", PROTOCOL),
        ("a code that DISCONNECT does not have", "E0 01 01", PROTOCOL),
        ("a property that DISCONNECT does not have", "E0 04 00 02 01 01", MALFORMED),
        ("bytes behind DISCONNECT", "E0 03 00 00 00", MALFORMED),
    ]
}

#[tokio::test] // 4.13, and all statements on malformed packets
async fn a_bad_packet_of_each_kind_ends_its_connection_with_its_reason_and_disturbs_nobody() {
    let server = start().await;
    let mut bystanders = Bystanders::new(&server).await;
    let mut count = server.counters().bad_packets;
    for (what, text, reason) in bad_packets() {
        let mut device = Device::new(&server, Version::V5, Login::of("bad")).await;
        device.stream.write_all(&bytes(text)).await.unwrap();
        assert_eq!(device.ended().await, Some(reason), "{what}: {text}");
        bystanders.go_on().await;
        count += 1;
        assert_eq!(server.counters().bad_packets, count, "{what} is counted once");
    }
}

#[tokio::test] // 3.1.1: 4.8
async fn a_bad_packet_before_mqtt_5_ends_its_connection_without_an_answer() {
    let server = start().await;
    let mut bystanders = Bystanders::new(&server).await;
    for (what, text) in [
        ("packet type 0", "00 00"),
        ("packet type 15", "F0 00"),
        ("a length of five bytes", "30 FF FF FF FF 01"),
        ("a packet above the largest", "30 FF FF FF 7F"),
        ("flags of PUBREL", "60 02 00 01"),
        ("flags of SUBSCRIBE", "80 06 00 01 00 01 'a' 00"),
        ("flags of UNSUBSCRIBE", "A0 05 00 01 00 01 'a'"),
        ("flags of DISCONNECT", "E1 00"),
        ("flags of PINGREQ", "C8 00"),
        ("a second CONNECT", "10 0C 00 04 'MQTT' 04 02 00 00 00 00"),
        ("CONNACK", "20 02 00 00"),
        ("SUBACK", "90 03 00 01 00"),
        ("U+0000", "30 04 00 02 'a' 00"),
        ("a surrogate", "30 05 00 03 ED A0 80"),
        ("QoS 3", "36 05 00 01 'a' 00 01"),
        ("DUP with QoS 0", "38 03 00 01 'a'"),
        ("packet identifier 0", "32 05 00 01 'a' 00 00"),
        ("an empty topic", "30 02 00 00"),
        ("a topic with a wildcard", "30 03 00 01 '#'"),
        ("packet identifier 0 of SUBSCRIBE", "82 06 00 00 00 01 'a' 00"),
        ("SUBSCRIBE without a filter", "82 02 00 01"),
        ("UNSUBSCRIBE without a filter", "A2 02 00 01"),
        ("QoS 3 of SUBSCRIBE", "82 06 00 01 00 01 'a' 03"),
        ("options of MQTT 5", "82 06 00 01 00 01 'a' 04"),
        ("# before the end of a filter", "82 08 00 01 00 03 '#/a' 00"),
        ("# within a level", "82 07 00 01 00 02 'a#' 00"),
        ("+ within a level", "82 07 00 01 00 02 'a+' 00"),
        ("an empty filter", "82 05 00 01 00 00 00"),
        ("a bad filter of UNSUBSCRIBE", "A2 06 00 01 00 02 'a#'"),
        ("bytes behind PUBACK", "40 03 00 01 00"),
        ("bytes behind PINGREQ", "C0 01 00"),
        ("bytes behind DISCONNECT", "E0 01 00"),
    ] {
        let mut device = Device::new(&server, Version::V3_1_1, Login::of("bad")).await;
        device.stream.write_all(&bytes(text)).await.unwrap();
        assert_eq!(device.ended().await, None, "{what}: {text}");
        bystanders.go_on().await;
    }
}

#[tokio::test] // 3.9.3: one bad filter is refused alone in MQTT 5
async fn a_bad_filter_is_refused_alone_in_mqtt_5() {
    let server = start().await;
    let mut device = Device::new(&server, Version::V5, Login::of("device")).await;
    let long = "a".repeat(3000);
    let deep = "/".repeat(250);
    for filter in [
        "a#",
        "#/a",
        "a/#/b",
        "a+",
        "+a/b",
        "",
        "$share",
        "$share/",
        "$share//a",
        "$share/g",
        "$share/g/",
        "$share/g+/a",
        &long,
        &deep,
    ] {
        let mut filters = FilterBuf::new();
        for filter in ["first", filter, "last/+"] {
            filters.push(filter, SubscribeOptions::of_qos(Qos::AtLeastOnce)).unwrap();
        }
        let properties = Properties::EMPTY;
        device
            .send(&Packet::Subscribe(Subscribe { id: id(7), properties, filters: filters.as_filters() }))
            .await;
        let codes = device.next(|packet| match packet {
            Packet::SubAck(codes) => codes.iter().collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        });
        let codes = codes.await;
        let granted = ReasonCode::GRANTED_QOS_1;
        assert_eq!(codes, [granted, ReasonCode::TOPIC_FILTER_INVALID, granted], "{filter:?}");
        let mut names = NameBuf::new();
        ["first", filter, "last/+"].iter().for_each(|name| names.push(name).unwrap());
        device
            .send(&Packet::Unsubscribe(Unsubscribe { id: id(8), properties, filters: names.as_names() }))
            .await;
        let codes = device.next(|packet| match packet {
            Packet::UnsubAck(codes) => codes.iter().collect::<Vec<_>>(),
            other => panic!("{other:?}"),
        });
        let (done, invalid) = (ReasonCode::SUCCESS, ReasonCode::TOPIC_FILTER_INVALID);
        assert_eq!(codes.await, [done, invalid, done], "{filter:?}");
    }
}

#[tokio::test] // 3.1.0-1
async fn a_packet_before_connect_ends_the_connection_without_an_answer() {
    let server = start().await;
    let mut bystanders = Bystanders::new(&server).await;
    for text in [
        "20 02 00 00",
        "30 03 00 01 'a'",
        "40 02 00 01",
        "82 06 00 01 00 01 'a' 00",
        "C0 00",
        "E0 00",
        "F0 00",
        "00 00",
        "30 FF FF FF FF",
        "'MQTT' 04 02 00 3C 00 00",
        "16 03 01 02 00 01 00",
    ] {
        let mut device = Device::dial(&server, Version::V5).await;
        device.stream.write_all(&bytes(text)).await.unwrap();
        device.stream.shutdown().await.unwrap();
        assert_eq!(device.read_packet().await, None, "{text}");
        bystanders.go_on().await;
    }
}

/// The answer to this CONNECT: the reason of the CONNACK, if there is one. The connection ends.
async fn refused(server: &TestServer, version: Version, text: &str) -> Option<ReasonCode> {
    let mut device = Device::dial(server, version).await;
    device.stream.write_all(&bytes(text)).await.unwrap();
    let answer = device.read_packet().await?;
    let reason = match Packet::decode(&Frame::of(&answer).unwrap(), version, Sender::Server).unwrap() {
        Packet::ConnAck(ack) => {
            assert!(!ack.session_present, "{text}");
            ack.reason
        }
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(device.read_packet().await, None, "{text}: the connection goes on");
    Some(reason)
}

#[tokio::test] // 3.1.4-1, 3.2.2-7; 3.1.1: 3.2.2-5
async fn a_bad_connect_is_refused_with_its_reason() {
    let server = start().await;
    let mut bystanders = Bystanders::new(&server).await;
    let version = Some(ReasonCode::UNSUPPORTED_PROTOCOL_VERSION);
    for (what, text, reason) in [
        ("another protocol", "10 0D 00 04 'AMQP' 05 02 00 00 00 00 00", None),
        ("level 6", "10 0D 00 04 'MQTT' 06 02 00 00 00 00 00", version),
        ("the reserved connect flag", "10 0D 00 04 'MQTT' 05 03 00 00 00 00 00", Some(MALFORMED)),
        ("flags of CONNECT", "11 0D 00 04 'MQTT' 05 02 00 00 00 00 00", Some(MALFORMED)),
        ("will QoS without a will", "10 0D 00 04 'MQTT' 05 0A 00 00 00 00 00", Some(MALFORMED)),
        ("will retain without a will", "10 0D 00 04 'MQTT' 05 22 00 00 00 00 00", Some(MALFORMED)),
        ("will QoS 3", "10 13 00 04 'MQTT' 05 1E 00 00 00 00 00 00 00 01 'w' 00 00", Some(MALFORMED)),
        ("a will that is not there", "10 0D 00 04 'MQTT' 05 06 00 00 00 00 00", Some(MALFORMED)),
        (
            "a will topic with a wildcard",
            "10 13 00 04 'MQTT' 05 06 00 00 00 00 00 00 00 01 '#' 00 00",
            Some(ReasonCode::TOPIC_NAME_INVALID),
        ),
        ("an empty will topic", "10 12 00 04 'MQTT' 05 06 00 00 00 00 00 00 00 00 00 00", Some(PROTOCOL)),
        ("a user name that is not there", "10 0D 00 04 'MQTT' 05 82 00 00 00 00 00", Some(MALFORMED)),
        ("a password that is not there", "10 0D 00 04 'MQTT' 05 42 00 00 00 00 00", Some(MALFORMED)),
        ("bytes behind the last field", "10 0E 00 04 'MQTT' 05 02 00 00 00 00 00 00", Some(MALFORMED)),
        ("no client id", "10 0B 00 04 'MQTT' 05 02 00 00 00", Some(MALFORMED)),
        ("U+0000 in the client id", "10 0F 00 04 'MQTT' 05 02 00 00 00 00 02 'a' 00", Some(MALFORMED)),
        ("receive maximum 0", "10 10 00 04 'MQTT' 05 02 00 00 03 21 00 00 00 00", Some(PROTOCOL)),
        ("maximum packet size 0", "10 12 00 04 'MQTT' 05 02 00 00 05 27 00 00 00 00 00 00", Some(PROTOCOL)),
        (
            "a duplicate receive maximum",
            "10 13 00 04 'MQTT' 05 02 00 00 06 21 00 01 21 00 01 00 00",
            Some(PROTOCOL),
        ),
        ("request problem information 2", "10 0F 00 04 'MQTT' 05 02 00 00 02 17 02 00 00", Some(PROTOCOL)),
        ("a property of PUBLISH", "10 0F 00 04 'MQTT' 05 02 00 00 02 01 01 00 00", Some(MALFORMED)),
        (
            "a will delay outside the will",
            "10 12 00 04 'MQTT' 05 02 00 00 05 18 00 00 00 01 00 00",
            Some(MALFORMED),
        ),
        (
            "authentication data without a method",
            "10 11 00 04 'MQTT' 05 02 00 00 04 16 00 01 'd' 00 00",
            Some(PROTOCOL),
        ),
        (
            "an authentication method",
            "10 11 00 04 'MQTT' 05 02 00 00 04 15 00 01 'm' 00 00",
            Some(ReasonCode::BAD_AUTHENTICATION_METHOD),
        ),
    ] {
        assert_eq!(refused(&server, Version::V5, text).await, reason, "{what}: {text}");
        bystanders.go_on().await;
    }
    let bad_id = Some(ReasonCode::CLIENT_IDENTIFIER_NOT_VALID);
    for (what, text, reason) in [
        ("level 2", "10 0C 00 04 'MQTT' 02 02 00 00 00 00", version),
        ("level 3 of MQTT", "10 0C 00 04 'MQTT' 03 02 00 00 00 00", version),
        ("the reserved connect flag", "10 0C 00 04 'MQTT' 04 03 00 00 00 00", None),
        ("an empty client id without a clean session", "10 0C 00 04 'MQTT' 04 00 00 00 00 00", bad_id),
        ("a password without a user name", "10 0F 00 04 'MQTT' 04 42 00 00 00 00 00 01 'p'", None),
        ("will QoS 3", "10 11 00 04 'MQTT' 04 1E 00 00 00 00 00 01 'w' 00 00", None),
        ("bytes behind the last field", "10 0D 00 04 'MQTT' 04 02 00 00 00 00 00", None),
        ("a surrogate in the client id", "10 0F 00 04 'MQTT' 04 02 00 00 00 03 ED A0 80", None),
    ] {
        assert_eq!(refused(&server, Version::V3_1_1, text).await, reason, "{what}: {text}");
        bystanders.go_on().await;
    }
}

/// Valid packets of a client of MQTT 5 after CONNECT.
const WHOLE: [&str; 9] = [
    "30 1B 00 03 'a/b' 12 02 00 00 00 09 03 00 01 'x' 26 00 01 'k' 00 01 'v' 'hi!'",
    "32 09 00 03 'a/b' 00 05 00 'x'",
    "40 0A 00 01 10 06 1F 00 03 'why'",
    "50 0A 00 01 10 06 1F 00 03 'why'",
    "62 04 00 01 92 00",
    "70 04 00 01 92 00",
    "82 10 00 01 02 0B 05 00 03 'a/+' 01 00 01 'b' 00",
    "A2 0C 00 01 00 00 03 'a/+' 00 02 'bc'",
    "E0 07 04 05 11 00 00 00 07",
];

#[tokio::test] // 4.13: a packet that ends too early, at every byte
async fn a_packet_that_ends_too_early_is_malformed_wherever_it_ends() {
    let server = start().await;
    let mut bystanders = Bystanders::new(&server).await;
    for text in WHOLE {
        let whole = bytes(text);
        let first = whole[0];
        for length in 0..whole.len() - 2 {
            let cut = packet(first, &whole[2..2 + length]);
            let decoded = Packet::decode(&Frame::of(&cut).unwrap(), Version::V5, Sender::Client);
            let mut device = Device::new(&server, Version::V5, Login::of("short")).await;
            device.stream.write_all(&cut).await.unwrap();
            match decoded {
                // What is cut off may have been a payload, a reason code, or properties.
                Ok(_) => {
                    let is_last = first == 0xE0;
                    let _ = device.stream.write_all(&bytes(if is_last { "" } else { "C0 00" })).await;
                    let mut last = None;
                    while let Some(packet) = device.read_packet().await {
                        last = Some(packet[0]);
                        if packet[0] == 0xD0 {
                            break;
                        }
                    }
                    assert_eq!(last, if is_last { None } else { Some(0xD0) }, "{text}: {length}");
                }
                Err(_) => {
                    let reason = device.ended().await;
                    let expected = match (first, length) {
                        // There is a list of filters, and nothing is in it.
                        (0x82, 5) | (0xA2, 3) => PROTOCOL,
                        _ => MALFORMED,
                    };
                    assert_eq!(reason, Some(expected), "{text}: {length}");
                }
            }
        }
        bystanders.go_on().await;
    }
}

#[tokio::test]
async fn a_connection_that_ends_within_a_packet_leaves_nothing_behind() {
    let server = start().await;
    let mut bystanders = Bystanders::new(&server).await;
    let connect = bytes("10 0E 00 04 'MQTT' 05 02 00 3C 00 00 01 'c'");
    for length in 0..connect.len() {
        let mut device = Device::dial(&server, Version::V5).await;
        device.stream.write_all(&connect[..length]).await.unwrap();
        device.stream.shutdown().await.unwrap();
        assert_eq!(device.read_packet().await, None, "{length}");
    }
    for text in WHOLE {
        let whole = bytes(text);
        for length in 0..whole.len() {
            let mut device = Device::new(&server, Version::V5, Login::of("short")).await;
            device.stream.write_all(&whole[..length]).await.unwrap();
            device.stream.shutdown().await.unwrap();
            assert_eq!(device.read_packet().await, None, "{text}: {length}");
        }
    }
    bystanders.go_on().await;
    // One after the other: the last of them is closed when it is taken over.
    drop(Device::new(&server, Version::V5, Login::of("short")).await);
    bystanders.go_on().await;
}

/// Keeps the lines of the log.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Text(String);

impl tracing::field::Visit for Text {
    fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
        self.0.push_str(&format!(" {}={value:?}", field.name()));
    }
}

impl<S: tracing::Subscriber> Layer<S> for Lines {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut text = Text(event.metadata().level().to_string());
        event.record(&mut text);
        self.0.lock().unwrap().push(text.0);
    }
}

#[test]
fn a_bad_packet_is_one_line_of_the_log_without_what_is_in_it() {
    let lines = Lines::default();
    let subscriber = Registry::default().with(lines.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    tracing::subscriber::with_default(subscriber, || {
        runtime.block_on(async {
            let server = start().await;
            for text in ["36 0C 00 01 'a' 00 01 00 'secret'", "82 0B 00 01 00 00 06 'secret' 80", "00 00"] {
                let mut device = Device::new(&server, Version::V5, Login::of("bad")).await;
                device.stream.write_all(&bytes(text)).await.unwrap();
                assert!(device.ended().await.is_some());
            }
        });
    });
    let lines = lines.0.lock().unwrap();
    // The last of them is about the fixed header, which the transport reads.
    let is_about = |line: &&String| line.contains("bad packet") || line.contains("the transport ended");
    let about: Vec<_> = lines.iter().filter(is_about).collect();
    assert_eq!(about.len(), 3, "{about:#?}");
    assert!(about.iter().all(|line| line.starts_with("DEBUG")), "{about:#?}");
    assert!(!lines.iter().any(|line| line.contains("secret")), "{lines:#?}");
    let louder = |line: &&String| line.starts_with("WARN") || line.starts_with("ERROR");
    assert_eq!(lines.iter().find(louder), None);
}
