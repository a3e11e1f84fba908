//! Packets that break a rule, by the rule: each is refused with the statement, the reason code and the answer beside it.

use jmqt_mqtt::{Answer, ReasonCode, Sender, Version, Violation};

use crate::{bytes, read};

use Sender::{Client, Server};
use Version::{V3_1, V3_1_1, V5};

/// The packet is refused for this; before 5.0 the connection is closed without an answer, from 5.0 on with this code.
#[track_caller]
fn refused(text: &str, version: Version, sender: Sender, statement: &str, reason: ReasonCode) -> Violation {
    read(&bytes(text), version, sender, |packet| {
        let error = packet.expect_err(text);
        assert_eq!(error.statement().unwrap_or_default(), statement, "{text}: {error}");
        assert_eq!(error.violation.reason(), reason, "{text}: {error}");
        let first = bytes(text)[0];
        match error.answer() {
            Answer::Close => assert_ne!(error.version, Some(V5), "{text}"),
            Answer::ConnAck(_, code) => assert_eq!((code, first >> 4), (reason, 1), "{text}"),
            Answer::Disconnect(code) => {
                assert_eq!((code, error.version), (reason, Some(V5)), "{text}");
                assert!(code.is_valid_in(jmqt_mqtt::PacketType::Disconnect, Server));
            }
        }
        error.violation
    })
}

/// A DISCONNECT or CONNACK with this code is the answer of MQTT 5.
const MALFORMED: ReasonCode = ReasonCode::MALFORMED_PACKET;
const PROTOCOL: ReasonCode = ReasonCode::PROTOCOL_ERROR;

#[track_caller]
fn connect_answer(text: &str) -> Answer {
    read(&bytes(text), V5, Client, |packet| packet.expect_err(text).answer())
}

#[test] // [MQTT-1.5.4-1] [MQTT-1.5.3-1]
fn strings_must_be_well_formed_utf_8() {
    for bad in ["FF", "C0 80", "ED A0 80", "ED BF BF", "E2 82", "F4 90 80 80"] {
        let length = bad.split(' ').count();
        let old = format!("30 {:02X}  00 {length:02X} {bad}", 2 + length);
        let new = format!("30 {:02X}  00 {length:02X} {bad} 00", 3 + length);
        refused(&old, V3_1_1, Client, "MQTT-1.5.3-1", MALFORMED);
        refused(&new, V5, Client, "MQTT-1.5.4-1", MALFORMED);
    }
    // Also in what is not a topic: client id, will topic, user name, filters, strings and pairs of properties.
    refused("10 0D  00 04 'MQTT' 04 02 00 00  00 01 FF", V3_1_1, Client, "MQTT-1.5.3-1", MALFORMED);
    refused(
        "10 11  00 04 'MQTT' 04 06 00 00  00 00  00 01 FF  00 00",
        V3_1_1,
        Client,
        "MQTT-1.5.3-1",
        MALFORMED,
    );
    refused("10 0F  00 04 'MQTT' 04 82 00 00  00 00  00 01 FF", V3_1_1, Client, "MQTT-1.5.3-1", MALFORMED);
    refused("82 06  00 01  00 01 FF 00", V3_1_1, Client, "MQTT-1.5.3-1", MALFORMED);
    refused("A2 05  00 01  00 01 FF", V3_1_1, Client, "MQTT-1.5.3-1", MALFORMED);
    refused("30 08  00 01 'a'  04  03 00 01 FF", V5, Client, "MQTT-1.5.4-1", MALFORMED);
    refused("30 0B  00 01 'a'  07  26 00 01 'k' 00 01 FF", V5, Client, "MQTT-1.5.4-1", MALFORMED);
}

#[test] // [MQTT-1.5.4-2] [MQTT-1.5.3-2] [MQTT-4.7.3-2]
fn strings_must_not_have_the_null_character() {
    refused("30 05  00 03 'a' 00 'b'", V3_1_1, Client, "MQTT-1.5.3-2", MALFORMED);
    refused("30 06  00 03 'a' 00 'b' 00", V5, Client, "MQTT-1.5.4-2", MALFORMED);
    refused("82 06  00 01  00 01 00 00", V3_1_1, Client, "MQTT-1.5.3-2", MALFORMED);
    refused("30 0B  00 01 'a'  07  26 00 01 00 00 01 'v'", V5, Client, "MQTT-1.5.4-2", MALFORMED); // [MQTT-1.5.7-1]
}

#[test] // [MQTT-1.5.5-1], 2.1.4
fn variable_byte_integers_are_at_most_four_bytes_and_as_short_as_can_be() {
    refused("C0 80 00", V5, Client, "MQTT-1.5.5-1", MALFORMED);
    refused("30 06  00 01 'a'  80 00  'x'", V5, Client, "MQTT-1.5.5-1", MALFORMED);
    refused("30 08  00 01 'a'  03  0B 81 00  'x'", V5, Server, "MQTT-1.5.5-1", MALFORMED);
    refused("30 08  00 01 'a'  81 00  8B 00 00", V5, Server, "MQTT-1.5.5-1", MALFORMED);
    for version in [V3_1, V3_1_1, V5] {
        let violation =
            read(&bytes("30 FF FF FF FF 01"), version, Client, |packet| packet.unwrap_err().violation);
        assert_eq!(violation, Violation::LengthTooLong);
    }
    refused("30 0A  00 01 'a'  80 80 80 80 01  'x' 00", V5, Client, "", MALFORMED);
}

#[test] // [MQTT-2.1.3-1] [MQTT-2.2.2-1] [MQTT-2.2.2-2] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-3.14.1-1] [MQTT-3.15.1-1]
fn reserved_flags_of_the_first_byte_are_refused() {
    let cases = [
        (1, "0E  00 04 'MQTT' 04 02 00 3C  00 02 'c1'", Client, ""),
        (2, "02  00 00", Server, ""),
        (4, "02  00 01", Client, ""),
        (5, "02  00 01", Client, ""),
        (6, "02  00 01", Client, "MQTT-3.6.1-1"),
        (7, "02  00 01", Client, ""),
        (8, "06  00 01  00 01 'a' 00", Client, "MQTT-3.8.1-1"),
        (9, "03  00 01  00", Server, ""),
        (10, "05  00 01  00 01 'a'", Client, "MQTT-3.10.1-1"),
        (11, "02  00 01", Server, ""),
        (12, "00", Client, ""),
        (13, "00", Server, ""),
        (14, "00", Client, "MQTT-3.14.1-1"),
    ];
    for (kind, rest, sender, statement) in cases {
        let right = if matches!(kind, 6 | 8 | 10) { 2 } else { 0 };
        for flags in (0..16u8).filter(|&flags| flags != right) {
            let text = format!("{:02X} {rest}", kind << 4 | flags);
            let general = |general: &'static str| if statement.is_empty() { general } else { statement };
            let violation = refused(&text, V3_1_1, sender, general("MQTT-2.2.2-2"), MALFORMED);
            assert_eq!(violation, Violation::Flags(flags), "{text}");
            if kind != 1 {
                refused(&text, V5, sender, general("MQTT-2.1.3-1"), MALFORMED);
            }
        }
    }
    for flags in 1..16 {
        refused(&format!("F{flags:X} 07  18  05 15 00 02 'ab'"), V5, Client, "MQTT-3.15.1-1", MALFORMED);
    }
}

#[test] // 2.1.2
fn reserved_packet_types_are_refused() {
    for version in [V3_1, V3_1_1, V5] {
        assert_eq!(
            read(&bytes("00 00"), version, Client, |packet| packet.unwrap_err().violation),
            Violation::ReservedType(0)
        );
    }
    assert_eq!(refused("F0 00", V3_1_1, Client, "", MALFORMED), Violation::ReservedType(15));
}

#[test] // 2.1.2
fn packets_that_the_other_side_sends_are_refused() {
    for text in ["20 03  00 00 00", "90 04  00 01  00 00", "B0 04  00 01  00 00", "D0 00"] {
        assert_eq!(refused(text, V5, Client, "", PROTOCOL), Violation::WrongDirection);
    }
    for text in ["82 07  00 01 00  00 01 'a' 00", "A2 06  00 01 00  00 01 'a'", "C0 00"] {
        assert_eq!(refused(text, V5, Server, "", PROTOCOL), Violation::WrongDirection);
    }
    // A server sends DISCONNECT from 5.0 on.
    assert_eq!(refused("E0 00", V3_1_1, Server, "", PROTOCOL), Violation::WrongDirection);
}

#[test] // [MQTT-3.1.0-1]
fn the_first_packet_must_be_a_connect() {
    use jmqt_mqtt::{Connect, FrameDecoder};
    let packet = bytes("C0 00");
    let mut decoder = FrameDecoder::new(100);
    let frame = crate::frame(&mut decoder, &packet).unwrap();
    let error = Connect::decode(&frame).unwrap_err();
    assert_eq!((error.violation, error.answer()), (Violation::WrongDirection, Answer::Close));
    assert_eq!(error.statement(), Some("MQTT-3.1.0-1"));
}

#[test] // [MQTT-3.1.2-1] [MQTT-3.1.2-2]
fn unknown_protocols_and_levels_are_refused() {
    let name = "10 0E  00 04 'MQTX' 04 02 00 3C  00 02 'c1'";
    assert_eq!(
        refused(name, V5, Client, "MQTT-3.1.2-1", ReasonCode::UNSUPPORTED_PROTOCOL_VERSION),
        Violation::ProtocolName
    );
    assert_eq!(connect_answer(name), Answer::Close);
    let code = ReasonCode::UNSUPPORTED_PROTOCOL_VERSION;
    for (text, version) in [
        ("10 0E  00 04 'MQTT' 03 02 00 3C  00 02 'c1'", V3_1_1),
        ("10 0E  00 04 'MQTT' 00 02 00 3C  00 02 'c1'", V3_1_1),
        ("10 0E  00 04 'MQTT' 84 02 00 3C  00 02 'c1'", V3_1_1),
        ("10 10  00 06 'MQIsdp' 04 02 00 3C  00 02 'c1'", V3_1_1),
        ("10 0E  00 04 'MQTT' 06 02 00 3C  00 02 'c1'", V5),
    ] {
        refused(text, V5, Client, "MQTT-3.1.2-2", code);
        assert_eq!(connect_answer(text), Answer::ConnAck(version, code), "{text}");
    }
    assert_eq!(code.connack_v3(), Some(1));
}

#[test] // [MQTT-3.1.2-3]
fn the_reserved_connect_flag_must_be_0() {
    refused("10 0E  00 04 'MQTT' 04 03 00 3C  00 02 'c1'", V5, Client, "MQTT-3.1.2-3", MALFORMED);
    let v5 = "10 0F  00 04 'MQTT' 05 03 00 3C  00  00 02 'c1'";
    refused(v5, V5, Client, "MQTT-3.1.2-3", MALFORMED);
    assert_eq!(connect_answer(v5), Answer::ConnAck(V5, MALFORMED));
}

#[test] // 5.0: [MQTT-3.1.2-11] to -13, 3.1.1: [MQTT-3.1.2-11], -13 to -15
fn will_flags_must_fit_together() {
    for flags in ["0A", "12", "22", "3A"] {
        let text = format!("10 0E  00 04 'MQTT' 04 {flags} 00 3C  00 02 'c1'");
        refused(&text, V5, Client, "MQTT-3.1.2-11", MALFORMED);
        let text = format!("10 0F  00 04 'MQTT' 05 {flags} 00 3C  00  00 02 'c1'");
        refused(&text, V5, Client, "MQTT-3.1.2-11", MALFORMED);
    }
    refused(
        "10 12  00 04 'MQTT' 04 1E 00 3C  00 00  00 01 'w'  00 00 00",
        V5,
        Client,
        "MQTT-3.1.2-14",
        MALFORMED,
    );
    refused(
        "10 13  00 04 'MQTT' 05 1E 00 3C  00  00 00  00  00 01 'w'  00 00",
        V5,
        Client,
        "MQTT-3.1.2-12",
        MALFORMED,
    );
}

#[test] // 5.0: [MQTT-3.1.2-9], -16 to -19, 3.1.1: [MQTT-3.1.2-9], -18 to -21
fn the_payload_of_connect_has_exactly_the_fields_of_the_flags() {
    // A will, a user name, a password that the flags announce and that is not there.
    for flags in ["06", "82", "C2"] {
        let text = format!("10 0E  00 04 'MQTT' 04 {flags} 00 3C  00 02 'c1'");
        assert_eq!(refused(&text, V5, Client, "", MALFORMED), Violation::Truncated);
    }
    let only_user = "10 13  00 04 'MQTT' 04 C2 00 3C  00 02 'c1'  00 03 'bob'";
    assert_eq!(refused(only_user, V5, Client, "", MALFORMED), Violation::Truncated);
    // One that is there and that the flags do not announce.
    let unannounced = "10 13  00 04 'MQTT' 04 02 00 3C  00 02 'c1'  00 03 'bob'";
    assert_eq!(refused(unannounced, V5, Client, "", MALFORMED), Violation::TrailingBytes);
    assert_eq!(connect_answer(unannounced), Answer::Close); // 3.1.1: [MQTT-3.1.4-1]
}

#[test] // 3.1.1: [MQTT-3.1.2-22]
fn a_password_needs_a_user_name_before_5() {
    refused("10 11  00 04 'MQTT' 04 42 00 3C  00 02 'c1'  00 01 'p'", V5, Client, "MQTT-3.1.2-22", MALFORMED);
}

#[test] // 3.1.1: [MQTT-3.1.3-7] [MQTT-3.1.3-8]
fn an_empty_client_id_needs_a_clean_session_before_5() {
    let code = ReasonCode::CLIENT_IDENTIFIER_NOT_VALID;
    let text = "10 0C  00 04 'MQTT' 04 00 00 3C  00 00";
    refused(text, V5, Client, "MQTT-3.1.3-8", code);
    assert_eq!(connect_answer(text), Answer::ConnAck(V3_1_1, code));
    assert_eq!(code.connack_v3(), Some(2));
    let text = "10 0E  00 06 'MQIsdp' 03 02 00 3C  00 00"; // MQTT 3.1: 1 to 23 characters, always
    assert_eq!(connect_answer(text), Answer::ConnAck(V3_1, code));
    assert!(read(&bytes("10 0C  00 04 'MQTT' 04 02 00 3C  00 00"), V5, Client, |packet| packet.is_ok()));
    assert!(read(&bytes("10 0D  00 04 'MQTT' 05 00 00 3C  00  00 00"), V5, Client, |packet| packet.is_ok()));
}

#[test] // [MQTT-3.3.2-2] [MQTT-4.7.1-1] [MQTT-4.7.3-1] for wills
fn a_will_needs_a_topic_without_wildcards() {
    let will = |topic: &str| {
        let length = 0x10 + topic.len();
        format!("10 {length:02X}  00 04 'MQTT' 04 06 00 00  00 00  00 {:02X} '{topic}'  00 00", topic.len())
    };
    refused(&will("a/#"), V5, Client, "MQTT-3.3.2-2", ReasonCode::TOPIC_NAME_INVALID);
    refused(&will(""), V5, Client, "MQTT-4.7.3-1", PROTOCOL);
    assert_eq!(connect_answer(&will("+")), Answer::Close);
}

#[test] // 5.0: [MQTT-3.2.2-1] [MQTT-3.2.2-6] [MQTT-3.2.2-8], 3.1.1: [MQTT-3.2.2-4] [MQTT-3.2.2-6]
fn connack_flags_and_codes_are_checked() {
    refused("20 03  02 00 00", V5, Server, "MQTT-3.2.2-1", MALFORMED);
    refused("20 02  80 00", V3_1_1, Server, "", MALFORMED);
    refused("20 03  01 87 00", V5, Server, "MQTT-3.2.2-6", PROTOCOL);
    refused("20 02  01 05", V3_1_1, Server, "MQTT-3.2.2-4", PROTOCOL);
    refused("20 03  00 01 00", V5, Server, "MQTT-3.2.2-8", PROTOCOL);
    refused("20 02  00 06", V3_1_1, Server, "MQTT-3.2.2-6", PROTOCOL);
}

#[test] // [MQTT-3.3.1-4]
fn both_qos_bits_must_not_be_set() {
    refused("36 05  00 01 'a' 00 01", V3_1_1, Client, "MQTT-3.3.1-4", MALFORMED);
    refused("36 06  00 01 'a' 00 01 00", V5, Server, "MQTT-3.3.1-4", MALFORMED);
}

#[test] // [MQTT-3.3.1-2]
fn dup_must_not_be_set_at_qos_0() {
    refused("38 03  00 01 'a'", V3_1_1, Client, "MQTT-3.3.1-2", MALFORMED);
    refused("38 04  00 01 'a' 00", V5, Client, "MQTT-3.3.1-2", MALFORMED);
}

#[test] // 5.0: [MQTT-2.2.1-3] [MQTT-2.2.1-4], 3.1.1: [MQTT-2.3.1-1]
fn packet_id_0_is_refused() {
    for (text, sender) in [
        ("32 05  00 01 'a' 00 00", Client),
        ("34 05  00 01 'a' 00 00", Server),
        ("40 02  00 00", Client),
        ("50 02  00 00", Client),
        ("62 02  00 00", Client),
        ("70 02  00 00", Client),
        ("82 06  00 00  00 01 'a' 00", Client),
        ("90 03  00 00  00", Server),
        ("A2 05  00 00  00 01 'a'", Client),
        ("B0 02  00 00", Server),
    ] {
        refused(text, V3_1_1, sender, "MQTT-2.3.1-1", PROTOCOL);
        refused(text, V5, sender, "MQTT-2.2.1-3", PROTOCOL);
    }
}

#[test] // [MQTT-3.3.2-2] [MQTT-4.7.0-1] [MQTT-4.7.1-1] [MQTT-4.7.3-1]
fn topic_names_have_no_wildcards_and_are_not_empty() {
    for topic in ["#", "+", "a/#", "a+b"] {
        let text = format!("30 {:02X}  00 {:02X} '{topic}'", 2 + topic.len(), topic.len());
        refused(&text, V3_1_1, Client, "MQTT-3.3.2-2", ReasonCode::TOPIC_NAME_INVALID);
        let text = format!("30 {:02X}  00 {:02X} '{topic}' 00", 3 + topic.len(), topic.len());
        refused(&text, V5, Server, "MQTT-3.3.2-2", ReasonCode::TOPIC_NAME_INVALID);
    }
    refused("30 02  00 00", V3_1_1, Client, "MQTT-4.7.3-1", PROTOCOL);
    refused("30 03  00 00 00", V5, Client, "MQTT-4.7.3-1", PROTOCOL); // 3.3.2.1: without an alias
}

#[test] // [MQTT-3.3.2-8] [MQTT-3.3.2-14] [MQTT-3.3.4-6]
fn properties_of_publish_are_checked() {
    refused("30 07  00 01 'a'  03 23 00 00", V5, Client, "MQTT-3.3.2-8", ReasonCode::TOPIC_ALIAS_INVALID);
    refused("30 0A  00 01 'a'  06 08 00 03 'a/#'", V5, Client, "MQTT-3.3.2-14", PROTOCOL);
    refused("30 07  00 01 'a'  03 08 00 00", V5, Client, "MQTT-3.3.2-14", PROTOCOL);
    refused("30 06  00 01 'a'  02 0B 01", V5, Client, "MQTT-3.3.4-6", PROTOCOL);
    refused("30 06  00 01 'a'  02 0B 00", V5, Server, "", PROTOCOL);
    refused("30 06  00 01 'a'  02 01 02", V5, Client, "", PROTOCOL);
}

#[test] // [MQTT-3.4.2-1] [MQTT-3.5.2-1] [MQTT-3.6.2-1] [MQTT-3.7.2-1]
fn acknowledgements_have_only_the_codes_of_their_tables() {
    for (first, statement) in
        [(0x40, "MQTT-3.4.2-1"), (0x50, "MQTT-3.5.2-1"), (0x62, "MQTT-3.6.2-1"), (0x70, "MQTT-3.7.2-1")]
    {
        let allowed: &[u8] = match first {
            0x40 | 0x50 => &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99],
            _ => &[0x00, 0x92],
        };
        for code in 0..=255 {
            let text = format!("{first:02X} 03  00 01 {code:02X}");
            if allowed.contains(&code) {
                assert!(read(&bytes(&text), V5, Client, |packet| packet.is_ok()), "{text}");
            } else {
                refused(&text, V5, Client, statement, PROTOCOL);
            }
        }
    }
}

#[test] // 5.0: [MQTT-3.8.3-2], 3.1.1: [MQTT-3.8.3-3]; [MQTT-3.10.3-2]
fn subscribe_and_unsubscribe_need_a_filter() {
    refused("82 02  00 01", V3_1_1, Client, "MQTT-3.8.3-3", PROTOCOL);
    refused("82 03  00 01 00", V5, Client, "MQTT-3.8.3-2", PROTOCOL);
    refused("A2 02  00 01", V3_1_1, Client, "MQTT-3.10.3-2", PROTOCOL);
    refused("A2 03  00 01 00", V5, Client, "MQTT-3.10.3-2", PROTOCOL);
    refused("90 02  00 01", V3_1_1, Server, "", PROTOCOL);
    refused("B0 03  00 01 00", V5, Server, "", PROTOCOL);
}

#[test] // 5.0: [MQTT-3.8.3-5], 3.1.1: [MQTT-3.8.3-4]
fn reserved_bits_of_subscription_options_are_refused() {
    for bits in 0..=255u8 {
        let (old, new) =
            (format!("82 06  00 01  00 01 'a' {bits:02X}"), format!("82 07  00 01 00  00 01 'a' {bits:02X}"));
        if bits & 0xFC != 0 || bits == 3 {
            read(&bytes(&old), V3_1_1, Client, |packet| {
                assert_eq!(packet.expect_err(&old).statement(), Some("MQTT-3.8.3-4"), "{old}");
            });
        }
        if bits & 0xC0 != 0 {
            refused(&new, V5, Client, "MQTT-3.8.3-5", MALFORMED);
        } else if bits & 3 == 3 || bits >> 4 == 3 {
            refused(&new, V5, Client, "", PROTOCOL);
        } else {
            assert!(read(&bytes(&new), V5, Client, |packet| packet.is_ok()), "{new}");
        }
    }
}

#[test] // [MQTT-3.8.3-4]
fn no_local_is_not_for_shared_subscriptions() {
    refused("82 10  00 01 00  00 0A '$share/g/a' 04", V5, Client, "MQTT-3.8.3-4", PROTOCOL);
}

#[test] // [MQTT-3.9.3-2] [MQTT-3.11.3-2]
fn suback_and_unsuback_have_only_the_codes_of_their_tables() {
    for code in (0..=255u8)
        .filter(|code| !matches!(code, 0..=2 | 0x80 | 0x83 | 0x87 | 0x8F | 0x91 | 0x97 | 0x9E | 0xA1 | 0xA2))
    {
        refused(&format!("90 05  00 01  00  00 {code:02X}"), V5, Server, "MQTT-3.9.3-2", PROTOCOL);
    }
    for code in (3..=255u8).filter(|&code| code != 0x80) {
        refused(&format!("90 04  00 01  00 {code:02X}"), V3_1_1, Server, "MQTT-3.9.3-2", PROTOCOL);
    }
    refused("B0 04  00 01 00  01", V5, Server, "MQTT-3.11.3-2", PROTOCOL);
}

#[test] // [MQTT-3.14.2-1] [MQTT-3.14.2-2]
fn disconnect_has_only_codes_and_properties_of_its_side() {
    for code in [0x01, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x9C, 0xA3] {
        refused(&format!("E0 01  {code:02X}"), V5, Client, "MQTT-3.14.2-1", PROTOCOL);
    }
    for code in [0x01, 0x04, 0x84, 0x92, 0xA3] {
        refused(&format!("E0 01  {code:02X}"), V5, Server, "MQTT-3.14.2-1", PROTOCOL);
    }
    refused("E0 07  80  05 11 00 00 00 01", V5, Server, "MQTT-3.14.2-2", PROTOCOL);
    refused("E0 06  80  04 1C 00 01 's'", V5, Client, "", PROTOCOL);
}

#[test] // [MQTT-3.15.2-1], 3.15.2.2.2
fn auth_has_a_code_of_its_side_and_a_method() {
    refused("F0 07  19  05 15 00 02 'ab'", V5, Server, "MQTT-3.15.2-1", PROTOCOL);
    refused("F0 07  00  05 15 00 02 'ab'", V5, Client, "MQTT-3.15.2-1", PROTOCOL);
    refused("F0 00", V5, Client, "MQTT-3.15.2-1", PROTOCOL);
    refused("F0 07  80  05 15 00 02 'ab'", V5, Server, "MQTT-3.15.2-1", PROTOCOL);
    assert_eq!(refused("F0 01  18", V5, Client, "", PROTOCOL), Violation::AuthenticationMethodMissing);
    refused("F0 06  18  04 16 00 01 'd'", V5, Client, "", PROTOCOL);
    refused("10 12  00 04 'MQTT' 05 02 00 3C  05 16 00 02 'ab'  00 00", V5, Client, "", PROTOCOL);
}

#[test] // 3.12.1, 3.13.1, 3.14.1 of 3.1.1; 4.13
fn bytes_after_the_last_field_are_refused() {
    for (text, sender) in [
        ("C0 01  00", Client),
        ("D0 01  00", Server),
        ("E0 01  00", Client),
        ("40 03  00 01 00", Client),
        ("20 03  00 00 00", Server),
        ("B0 03  00 01 00", Server),
    ] {
        assert_eq!(refused(text, V3_1_1, sender, "", MALFORMED), Violation::TrailingBytes);
    }
    for (text, sender) in [
        ("C0 01  00", Client),
        ("40 05  00 01 00 00 00", Client),
        ("20 04  00 00 00 00", Server),
        ("E0 03  00 00 00", Client),
    ] {
        assert_eq!(refused(text, V5, sender, "", MALFORMED), Violation::TrailingBytes);
    }
}

/// Each property with a valid value, as it is on the wire.
const EACH_PROPERTY: [&str; 27] = [
    "01 01",
    "02 00 00 00 01",
    "03 00 01 'a'",
    "08 00 01 'a'",
    "09 00 01 'a'",
    "0B 01",
    "11 00 00 00 01",
    "12 00 01 'a'",
    "13 00 01",
    "15 00 01 'a'",
    "16 00 01 'a'",
    "17 01",
    "18 00 00 00 01",
    "19 01",
    "1A 00 01 'a'",
    "1C 00 01 'a'",
    "1F 00 01 'a'",
    "21 00 01",
    "22 00 01",
    "23 00 01",
    "24 01",
    "25 01",
    "26 00 01 'a' 00 01 'b'",
    "27 00 00 00 01",
    "28 01",
    "29 01",
    "2A 01",
];

/// Table 2-4 (2.2.2.2): the places of each property, by the first byte of the packet, and `w` for a will.
const PLACES: [(u8, &str); 27] = [
    (0x01, "3w"),
    (0x02, "3w"),
    (0x03, "3w"),
    (0x08, "3w"),
    (0x09, "3w"),
    (0x0B, "38"),
    (0x11, "12E"),
    (0x12, "2"),
    (0x13, "2"),
    (0x15, "12F"),
    (0x16, "12F"),
    (0x17, "1"),
    (0x18, "w"),
    (0x19, "1"),
    (0x1A, "2"),
    (0x1C, "2E"),
    (0x1F, "245679BEF"),
    (0x21, "12"),
    (0x22, "12"),
    (0x23, "3"),
    (0x24, "2"),
    (0x25, "2"),
    (0x26, "123456789ABEFw"),
    (0x27, "12"),
    (0x28, "2"),
    (0x29, "2"),
    (0x2A, "2"),
];

/// A packet of each kind with these properties.
fn packet_with(place: char, properties: &[u8]) -> (Vec<u8>, Sender) {
    let mut block = vec![u8::try_from(properties.len()).unwrap()];
    block.extend_from_slice(properties);
    let around = |before: &str, after: &str| [bytes(before), block.clone(), bytes(after)].concat();
    let (first, sender, body) = match place {
        '1' => (0x10, Client, around("00 04 'MQTT' 05 02 00 00", "00 00")),
        'w' => (0x10, Client, around("00 04 'MQTT' 05 06 00 00  00  00 00", "00 01 'w'  00 00")),
        '2' => (0x20, Server, around("00 00", "")),
        '3' => (0x30, Server, around("00 01 'a'", "")),
        '4' => (0x40, Client, around("00 01 00", "")),
        '5' => (0x50, Client, around("00 01 00", "")),
        '6' => (0x62, Client, around("00 01 00", "")),
        '7' => (0x70, Client, around("00 01 00", "")),
        '8' => (0x82, Client, around("00 01", "00 01 'a' 00")),
        '9' => (0x90, Server, around("00 01", "00")),
        'A' => (0xA2, Client, around("00 01", "00 01 'a'")),
        'B' => (0xB0, Server, around("00 01", "00")),
        'E' if properties.first() == Some(&0x1C) => (0xE0, Server, around("80", "")),
        'E' => (0xE0, Client, around("00", "")),
        'F' => (0xF0, Client, around("18", "")),
        _ => panic!("{place} is no place"),
    };
    let mut packet = vec![first, u8::try_from(body.len()).unwrap()];
    packet.extend_from_slice(&body);
    (packet, sender)
}

#[test] // 2.2.2.2
fn each_property_is_accepted_where_it_belongs_and_refused_elsewhere() {
    for (property, (number, places)) in EACH_PROPERTY.iter().zip(PLACES) {
        for place in "123456789ABEFw".chars() {
            let mut properties = bytes(property);
            if (number == 0x16 || place == 'F') && number != 0x15 {
                properties.extend(bytes("15 00 01 'm'")); // there is a method wherever one is needed
            }
            let (packet, sender) = packet_with(place, &properties);
            read(&packet, V5, sender, |read| match read {
                Ok(_) => assert!(places.contains(place), "{property} in {place}"),
                Err(error) => {
                    assert!(!places.contains(place), "{property} in {place}: {error}");
                    assert!(
                        matches!(error.violation, Violation::MisplacedProperty(id) if id as u8 == number || id as u8 == 0x15),
                        "{property} in {place}: {error}"
                    );
                    assert_eq!(error.violation.reason(), MALFORMED);
                }
            });
        }
    }
}

#[test] // 2.2.2.2
fn properties_that_do_not_exist_are_refused() {
    for number in (0..=127u8).filter(|number| !PLACES.iter().any(|(known, _)| known == number)) {
        let (packet, sender) = packet_with('3', &[number, 0]);
        let violation = read(&packet, V5, sender, |read| read.unwrap_err().violation);
        assert_eq!(violation, Violation::UnknownProperty(u32::from(number)));
        assert_eq!(violation.reason(), MALFORMED);
    }
}

#[test] // 2.2.2.2 and the section of each property
fn a_property_must_not_be_there_twice() {
    for (property, (number, places)) in EACH_PROPERTY.iter().zip(PLACES) {
        for place in places.chars() {
            let twice = [bytes(property), bytes(property)].concat();
            let (packet, sender) = packet_with(place, &twice);
            let may_repeat = number == 0x26 || number == 0x0B && place == '3';
            read(&packet, V5, sender, |read| match read {
                Ok(_) => assert!(may_repeat, "{property} in {place}"),
                Err(error) if may_repeat => {
                    // AUTH needs a method beside its user properties.
                    assert_eq!((place, error.violation), ('F', Violation::AuthenticationMethodMissing));
                }
                Err(error) => {
                    assert!(
                        matches!(error.violation, Violation::DuplicateProperty(id) if id as u8 == number),
                        "{property} in {place}: {error}"
                    );
                    assert_eq!(error.violation.reason(), PROTOCOL);
                }
            });
        }
    }
}

#[test] // 3.1.2.11.3, 3.1.2.11.4, 3.1.2.11.6, 3.1.2.11.7, 3.2.2.3.4, 3.2.2.3.5, 3.2.2.3.11 to 13, 3.8.2.1.2
fn values_that_a_property_must_not_have_are_refused() {
    for (place, property) in [
        ('1', "21 00 00"),
        ('1', "27 00 00 00 00"),
        ('1', "17 02"),
        ('1', "19 02"),
        ('2', "24 02"),
        ('2', "25 02"),
        ('2', "28 FF"),
        ('2', "29 02"),
        ('2', "2A 02"),
        ('2', "21 00 00"),
        ('3', "01 02"),
        ('8', "0B 00"),
        ('w', "01 02"),
    ] {
        let (packet, sender) = packet_with(place, &bytes(property));
        let violation = read(&packet, V5, sender, |read| read.expect_err(property).violation);
        assert!(
            matches!(violation, Violation::PropertyValue(id) if id as u8 == bytes(property)[0]),
            "{property}"
        );
        assert_eq!(violation.reason(), PROTOCOL);
    }
}
