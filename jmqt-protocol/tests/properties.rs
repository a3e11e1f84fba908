//! What holds for every packet, every text and every way a stream is cut.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use std::collections::BTreeMap;

use jmqt_protocol::{
    Auth, AuthAck, AuthOutcome, ChannelName, ClientId, Conn, ConnAck, DecodeError, Disconn, DisconnectCode,
    NulDecoder, Packet, PacketTooLarge, PacketType, Payload, Persistence, Pub, PubAck, Push, PushAck, Qos,
    Retain, StatusCode, Sub, SubAck, Unsub, UnsubAck, decode,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use serde_json::value::RawValue;

/// Text of all sorts, as names, ids, tokens and messages may be.
fn any_text() -> BoxedStrategy<String> {
    prop_oneof!["[a-z#$]{0,8}", ".{0,12}", r#"[\x00-\x1f"\\/é😀\u{2028}]{0,8}"#].boxed()
}

/// JSON text, in spellings that a re-serialisation would change.
fn any_json() -> BoxedStrategy<String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        "true|false",
        r"-?(0|[1-9][0-9]{0,20})(\.[0-9]{1,4})?([eE][+-]?[0-9]{1,3})?",
        r#""([a-zé😀 \x7f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4}){0,8}""#,
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        let member = (r#""[a-z]{0,3}""#, inner.clone()).prop_map(|(key, value)| format!("{key} : {value}"));
        prop_oneof![
            vec(inner, 0..4).prop_map(|items| format!("[{}]", items.join(" ,"))),
            vec(member, 0..4).prop_map(|members| format!("{{\n{}}}", members.join(","))),
        ]
    })
    .boxed()
}

/// Packets borrow their payload; here it lives as long as the test.
fn any_payload() -> impl Strategy<Value = Payload<'static>> {
    any_json().prop_map(|json| Payload::parse(Box::leak(json.into_boxed_str())).unwrap())
}

fn any_status() -> impl Strategy<Value = StatusCode> {
    prop_oneof![-1..12, any::<i32>()].prop_map(StatusCode::new)
}

fn any_qos() -> impl Strategy<Value = Qos> {
    any::<bool>().prop_map(|set| if set { Qos::AtLeastOnce } else { Qos::AtMostOnce })
}

fn any_retain() -> impl Strategy<Value = Retain> {
    any::<bool>().prop_map(|set| if set { Retain::Yes } else { Retain::No })
}

fn any_acknowledgement() -> impl Strategy<Value = Packet<'static>> {
    let granted = (any_text(), any_text())
        .prop_map(|(token, client)| AuthOutcome::Granted { token: token.into(), client: client.into() });
    let refused = (any_status(), any_text())
        .prop_filter("not refused", |(status, _)| !status.is_ok())
        .prop_map(|(status, message)| AuthOutcome::Refused { status, message: message.into() });
    prop_oneof![
        prop_oneof![granted, refused].prop_map(|outcome| Packet::AuthAck(AuthAck { outcome })),
        (any_status(), option::of(any::<u32>()), any::<bool>()).prop_map(
            |(status, timeout_seconds, remembers_publishes)| {
                Packet::ConnAck(ConnAck { status, timeout_seconds, remembers_publishes })
            }
        ),
        Just(Packet::HbAck),
        (any_status(), option::of(any_text()), any::<bool>()).prop_map(|(status, channel, is_filter)| {
            Packet::SubAck(SubAck { status, channel: channel.map(Into::into), is_filter })
        }),
        (any_status(), option::of(any_text()), any::<bool>()).prop_map(|(status, channel, is_filter)| {
            Packet::UnsubAck(UnsubAck { status, channel: channel.map(Into::into), is_filter })
        }),
        (any_status(), option::of(any_text()), option::of(any_payload()))
            .prop_map(|(status, id, data)| Packet::PubAck(PubAck { status, id: id.map(Into::into), data })),
        (any_text(), option::of(any_status()))
            .prop_map(|(id, status)| Packet::PushAck(PushAck { id: id.into(), status })),
    ]
}

fn any_request() -> impl Strategy<Value = Packet<'static>> {
    prop_oneof![
        any_payload().prop_map(|data| Packet::Auth(Auth { data })),
        (any_text(), any_text(), option::of(1..=u32::MAX), option::of(any_text())).prop_map(
            |(token, client, window, publisher)| {
                let publisher = publisher.map(Into::into);
                Packet::Conn(Conn { token: token.into(), client: client.into(), window, publisher })
            }
        ),
        Just(Packet::Hb),
        (option::of(any::<u16>()), option::of(any_text()), option::of(any::<u32>())).prop_map(
            |(code, message, retry_after_seconds)| {
                let (code, message) = (code.map(DisconnectCode::new), message.map(Into::into));
                Packet::Disconn(Disconn { code, message, retry_after_seconds })
            }
        ),
        (any_text(), any::<bool>(), any::<bool>()).prop_map(|(channel, persistent, is_filter)| {
            let persistence = if persistent { Persistence::Persistent } else { Persistence::Temporary };
            Packet::Sub(Sub { channel: channel.into(), persistence, is_filter })
        }),
        (any_text(), any::<bool>())
            .prop_map(|(channel, is_filter)| Packet::Unsub(Unsub { channel: channel.into(), is_filter })),
        (any_text(), (any_payload(), any::<bool>()), any_qos(), any_retain(), option::of(any_text()))
            .prop_map(|(channel, (data, is_literal), qos, retain, id)| {
                Packet::Pub(Pub {
                    channel: channel.into(),
                    data: Some(data),
                    is_literal,
                    qos,
                    retain,
                    id: id.map(Into::into),
                })
            }),
        (any_text(), option::of(any_payload()), any_text()).prop_map(|(channel, data, id)| {
            Packet::Pub(Pub {
                channel: format!("${channel}").into(),
                data,
                is_literal: false,
                qos: Qos::AtMostOnce,
                retain: Retain::No,
                id: Some(id.into()),
            })
        }),
        (
            any_text(),
            (any_payload(), any::<bool>()),
            any_text(),
            any_qos(),
            option::of(any_text()),
            any_retain()
        )
            .prop_map(|(channel, (data, is_literal), client, qos, id, retain)| {
                let (channel, client) = (channel.into(), client.into());
                Packet::Push(Push { channel, data, is_literal, client, qos, id: id.map(Into::into), retain })
            }),
    ]
}

fn any_packet() -> impl Strategy<Value = Packet<'static>> {
    prop_oneof![any_request(), any_acknowledgement()]
}

const KINDS: [PacketType; 15] = [
    PacketType::Auth,
    PacketType::AuthAck,
    PacketType::Conn,
    PacketType::ConnAck,
    PacketType::Hb,
    PacketType::HbAck,
    PacketType::Sub,
    PacketType::SubAck,
    PacketType::Unsub,
    PacketType::UnsubAck,
    PacketType::Pub,
    PacketType::PubAck,
    PacketType::Push,
    PacketType::PushAck,
    PacketType::Disconn,
];

/// Text that is close to a packet: a known or unknown type, fields of all kinds, now and then a slip.
fn nearly_a_packet() -> impl Strategy<Value = String> {
    let key = prop_oneof![4 => "dt|st|ts|at|cn|pr|mg|id|cl|rt|q|wn", 1 => "[a-z]{0,3}|\\\\u0063n|\\\\ud800"];
    let member = (key, any_json()).prop_map(|(key, value)| format!("\"{key}\":{value}"));
    let fields = prop_oneof![
        6 => vec(member, 0..5).prop_map(|members| format!("{{{}}}", members.join(", "))),
        1 => any_json(),
    ];
    let kind = prop_oneof![
        6 => proptest::sample::select(&KINDS[..]).prop_map(|kind| kind.as_str().to_owned()),
        1 => "[a-z]{0,4}|h\\\\u0062",
    ];
    let whole = (kind, fields).prop_map(|(kind, fields)| format!("{{\"{kind}\": {fields}}}"));
    (whole, option::weighted(0.3, (any::<proptest::sample::Index>(), any::<char>(), 0..3_u8))).prop_map(
        |(text, slip)| {
            let Some((index, new, how)) = slip else {
                return text;
            };
            let mut chars: Vec<char> = text.chars().collect();
            let at = index.index(chars.len());
            match how {
                0 => drop(chars.remove(at)),
                1 => chars.insert(at, new),
                _ => chars[at] = ['{', '}', '[', ']', '"', ',', ':', '0'][new as usize % 8],
            }
            chars.into_iter().collect()
        },
    )
}

/// What `serde_json` makes of a text: the members of an object, values as they stand.
fn members(text: &str) -> Option<BTreeMap<String, &RawValue>> {
    serde_json::from_str(text).ok()
}

/// Whether `serde_json` sees one object with one known member, whose value is JSON.
fn has_a_type(text: &str) -> bool {
    let Some(outer) = members(text) else {
        return false;
    };
    let Some((key, value)) = outer.first_key_value() else {
        return false;
    };
    let value_is_sound = !value.get().starts_with('{') || members(value.get()).is_some();
    outer.len() == 1 && value_is_sound && KINDS.iter().any(|kind| kind.as_str() == key)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_decodes_to_the_same_packet(packet in any_packet()) {
        let text = packet.to_text();
        prop_assert!(!text.contains('\0'));
        prop_assert_eq!(decode(&text), Ok(packet));
    }

    #[test] // protocol.md 2.6
    fn what_is_written_is_plain_json_with_one_member(packet in any_packet()) {
        let text = packet.to_text();
        let outer = members(&text).unwrap();
        prop_assert_eq!(outer.len(), 1);
        prop_assert!(members(outer[packet.packet_type().as_str()].get()).is_some());
    }

    #[test] // protocol.md 2.6
    fn what_was_read_leniently_is_the_same_packet_when_written(text in nearly_a_packet()) {
        if let Ok(packet) = decode(&text) {
            let strict = packet.to_text();
            prop_assert_eq!(decode(&strict), Ok(packet));
        }
    }

    #[test] // protocol.md 2.5
    fn decoder_and_serde_json_agree_on_packet_types(text in nearly_a_packet()) {
        match decode(&text) {
            // A map forgets that it met a key twice.
            Err(DecodeError::NotAPacket { reason: "the object has more than one member" }) => {}
            Err(DecodeError::NotAPacket { reason }) => prop_assert!(!has_a_type(&text), "{}: {}", text, reason),
            Ok(_) | Err(DecodeError::BadField { .. }) => prop_assert!(has_a_type(&text), "{}", text),
        }
    }

    #[test] // protocol.md 2.7
    fn a_payload_is_its_text_in_the_packet(data in any_json(), channel in any_text()) {
        let mut text = br#"{"pub":{"cn":""#.to_vec();
        jmqt_protocol::escape_into(&channel, &mut text);
        text.extend_from_slice(format!(r#"","dt": {data} }}}}"#).as_bytes());
        let text = String::from_utf8(text).unwrap();
        let Ok(Packet::Pub(publish)) = decode(&text) else { panic!("{text}") };
        prop_assert_eq!(publish.data.unwrap().as_str(), data);
        prop_assert_eq!(publish.channel, channel);
    }

    #[test]
    fn arbitrary_text_never_panics(text in ".{0,64}", json in r#"[\[\]{}":,\\u0-9a-z \x00]{0,64}"#) {
        for text in [text, json] {
            let _ = decode(&text);
            let _ = Payload::parse(&text);
            let _ = ChannelName::parse(&text).map(|name| (name.kind(), name.peer()));
            let _ = ClientId::parse(&text);
        }
    }

    #[test] // protocol.md 2.8
    fn a_name_that_was_accepted_is_accepted_again_as_it_is(text in any_text()) {
        if let Ok(name) = ChannelName::parse(&text) {
            prop_assert_eq!(name.as_str(), text.trim());
            prop_assert_eq!(ChannelName::parse(name.as_str()), Ok(name));
        }
        if let Ok(client) = ClientId::parse(&text) {
            prop_assert_eq!(client.as_str(), &text);
            prop_assert_eq!(ChannelName::of_client(&client).peer(), Some(client));
        }
    }

    #[test] // §3
    fn any_split_of_a_stream_gives_the_same_packets(
        stream in vec(prop_oneof![3 => 1..=255_u8, 1 => Just(0_u8)], 0..200),
        cuts in vec(1..40_usize, 1..20),
    ) {
        let mut whole: Vec<Vec<u8>> = stream.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        let begun = whole.pop().unwrap();
        let (packets, result, decoder) = cut(&stream, &cuts, 1000);
        prop_assert_eq!(packets, whole);
        prop_assert_eq!(result, Ok(()));
        prop_assert_eq!(decoder.is_mid_packet(), !begun.is_empty());
    }

    #[test] // protocol.md 2.5
    fn a_decoder_buffers_at_most_its_limit_and_refuses_exactly_larger_packets(
        stream in vec(prop_oneof![30 => 1..=255_u8, 1 => Just(0_u8)], 0..400),
        cuts in vec(1..100_usize, 1..20),
        limit in 0..60_usize,
    ) {
        let packets: Vec<&[u8]> = stream.split(|byte| *byte == 0).collect();
        let fitting = packets.iter().take_while(|packet| packet.len() <= limit).count();
        // `cut` checks after every step what the decoder holds.
        let (found, result, _) = cut(&stream, &cuts, limit);
        if fitting == packets.len() {
            prop_assert_eq!(result, Ok(()));
            prop_assert_eq!(found.len(), packets.len() - 1); // the last has no NUL
        } else {
            prop_assert_eq!(result, Err(PacketTooLarge { limit }));
            prop_assert_eq!(found, &packets[..fitting]);
        }
    }
}

/// Feeds a stream in chunks of these sizes, over and over.
fn cut(
    stream: &[u8],
    cuts: &[usize],
    limit: usize,
) -> (Vec<Vec<u8>>, Result<(), PacketTooLarge>, NulDecoder) {
    let mut decoder = NulDecoder::new(limit);
    let mut packets = Vec::new();
    let mut sizes = cuts.iter().cycle();
    let mut rest = stream;
    while !rest.is_empty() {
        let (mut chunk, after) = rest.split_at(rest.len().min(*sizes.next().unwrap()));
        rest = after;
        loop {
            let next = decoder.next(&mut chunk).map(|packet| packet.map(<[u8]>::to_vec));
            assert!(decoder.buffered() <= limit);
            match next {
                Ok(Some(packet)) => packets.push(packet),
                Ok(None) => break,
                Err(too_large) => return (packets, Err(too_large), decoder),
            }
        }
        assert!(chunk.is_empty());
    }
    (packets, Ok(()), decoder)
}

#[test]
fn every_character_is_escaped_wherever_it_is_in_a_string() {
    for character in (0..0x300).filter_map(char::from_u32) {
        for before in 0..17 {
            let text = format!("{}{character}{}", "x".repeat(before), "é".repeat(9));
            let mut escaped = vec![b'"'];
            jmqt_protocol::escape_into(&text, &mut escaped);
            escaped.push(b'"');
            assert_eq!(serde_json::from_slice::<String>(&escaped).unwrap(), text);
        }
    }
}
