//! Sample packets of every type, read and written, one test for each packet of §7 and then the
//! leniencies and refusals of protocol.md 2.5 to 2.9.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests too")]

use jmqt_protocol::{
    Auth, AuthAck, AuthOutcome, Conn, ConnAck, DecodeError, Disconn, DisconnectCode, Echo, LITERAL, Packet,
    PacketType, Payload, Persistence, Pub, PubAck, Push, PushAck, PushFrame, Qos, Retain, StatusCode, Sub,
    SubAck, Unsub, UnsubAck, decode,
};

/// The text is read as this packet, and the packet is written as this text.
#[track_caller]
fn both_ways(text: &str, packet: &Packet<'_>) {
    assert_eq!(decode(text).as_ref(), Ok(packet));
    assert_eq!(packet.to_text(), text);
}

/// The text is read as this packet, though it would be written otherwise.
#[track_caller]
fn read_as(text: &str, packet: &Packet<'_>) {
    assert_eq!(decode(text).as_ref(), Ok(packet), "{text}");
    assert_eq!(decode(&packet.to_text()).as_ref(), Ok(packet), "{text}");
}

#[track_caller]
fn bad_field(text: &str) -> (PacketType, String, Echo) {
    match decode(text) {
        Err(DecodeError::BadField { kind, problem, echo }) => (kind, problem, echo),
        other => panic!("{text} is {other:?}"),
    }
}

fn json(text: &str) -> Payload<'_> {
    Payload::parse(text).unwrap()
}

#[test] // §7.a
fn auth_carries_whatever_the_application_authenticates_with() {
    for data in
        [r#"{"client_name":"alice","password":"\u0070w"}"#, r#""a string""#, "null", "[1, 2.50, 1e400]", "0"]
    {
        both_ways(&format!(r#"{{"auth":{{"dt":{data}}}}}"#), &Packet::Auth(Auth { data: json(data) }));
    }
}

#[test] // §7.b
fn auth_ack_brings_a_token_and_a_client_id_or_a_reason() {
    both_ways(
        r#"{"authAck":{"st":1,"at":"eyJ.x.y","cl":"alice"}}"#,
        &Packet::AuthAck(AuthAck {
            outcome: AuthOutcome::Granted { token: "eyJ.x.y".into(), client: "alice".into() },
        }),
    );
    both_ways(
        r#"{"authAck":{"st":10,"mg":"client_name is missing"}}"#,
        &Packet::AuthAck(AuthAck {
            outcome: AuthOutcome::Refused {
                status: StatusCode::INVALID_PACKET,
                message: "client_name is missing".into(),
            },
        }),
    );
    read_as(
        r#"{"authAck":{"st":0}}"#,
        &Packet::AuthAck(AuthAck {
            outcome: AuthOutcome::Refused { status: StatusCode::FAILED, message: "".into() },
        }),
    );
    assert_eq!(bad_field(r#"{"authAck":{"st":1,"cl":"alice"}}"#).1, "field `at` is missing");
}

#[test] // §7.c
fn conn_brings_token_and_client_id_back() {
    let conn = |window| {
        Packet::Conn(Conn { token: "eyJ.x.y".into(), client: "alice".into(), window, publisher: None })
    };
    both_ways(r#"{"conn":{"at":"eyJ.x.y","cl":"alice"}}"#, &conn(None));
    assert_eq!(bad_field(r#"{"conn":{"at":"t"}}"#).1, "field `cl` is missing");
    assert_eq!(bad_field(r#"{"conn":{"cl":"alice"}}"#).1, "field `at` is missing");
}

#[test] // protocol.md 2.9
fn conn_may_announce_a_window() {
    let conn = |window| Packet::Conn(Conn { token: "t".into(), client: "c".into(), window, publisher: None });
    both_ways(r#"{"conn":{"at":"t","cl":"c","wn":1}}"#, &conn(Some(1)));
    both_ways(r#"{"conn":{"at":"t","cl":"c","wn":4294967295}}"#, &conn(Some(u32::MAX)));
    read_as(r#"{"conn":{"at":"t","cl":"c","wn":5000000000}}"#, &conn(Some(u32::MAX)));
    read_as(r#"{"conn":{"at":"t","cl":"c","wn":null}}"#, &conn(None));
    for wrong in ["0", "-1", "1.5", "\"8\"", "true", "[]"] {
        let (kind, problem, _) = bad_field(&format!(r#"{{"conn":{{"at":"t","cl":"c","wn":{wrong}}}}}"#));
        assert_eq!(kind, PacketType::Conn);
        assert!(problem.starts_with("field `wn` must be an integer"), "{problem}");
    }
}

#[test] // protocol.md 2.23
fn conn_may_name_the_publisher_and_conn_ack_confirms_it() {
    let (token, client, publisher) = ("t".into(), "c".into(), Some("p7".into()));
    both_ways(
        r#"{"conn":{"at":"t","cl":"c","pi":"p7"}}"#,
        &Packet::Conn(Conn { token, client, window: None, publisher }),
    );
    let (status, timeout_seconds) = (StatusCode::OK, Some(60));
    both_ways(
        r#"{"connAck":{"st":1,"ts":60,"pi":1}}"#,
        &Packet::ConnAck(ConnAck { status, timeout_seconds, remembers_publishes: true }),
    );
    assert_eq!(bad_field(r#"{"conn":{"at":"t","cl":"c","pi":7}}"#).1, "field `pi` must be a string");
}

#[test] // protocol.md 2.22
fn disconn_from_the_server_has_a_reason_and_a_retry_delay() {
    let disconn = |code, message, retry_after_seconds| {
        Packet::Disconn(Disconn { code: Some(code), message, retry_after_seconds })
    };
    both_ways(
        r#"{"disconn":{"st":4000,"mg":"the server is stopping","ts":5}}"#,
        &disconn(DisconnectCode::SHUTDOWN, Some("the server is stopping".into()), Some(5)),
    );
    both_ways(r#"{"disconn":{"st":4500}}"#, &disconn(DisconnectCode::TAKEOVER, None, None));
    assert_eq!(bad_field(r#"{"disconn":{"st":"x"}}"#).1, "field `st` must be an integer");
}

#[test] // §7.d
fn conn_ack_tells_the_timeout_of_an_open_session() {
    both_ways(
        r#"{"connAck":{"st":1,"ts":60}}"#,
        &Packet::ConnAck(ConnAck {
            status: StatusCode::OK,
            timeout_seconds: Some(60),
            remembers_publishes: false,
        }),
    );
    both_ways(
        r#"{"connAck":{"st":6}}"#,
        &Packet::ConnAck(ConnAck {
            status: StatusCode::INVALID_TOKEN,
            timeout_seconds: None,
            remembers_publishes: false,
        }),
    );
}

#[test] // §7.e, §7.f, §7.o
fn packets_without_fields_have_an_empty_object() {
    both_ways(r#"{"hb":{}}"#, &Packet::Hb);
    both_ways(r#"{"hbAck":{}}"#, &Packet::HbAck);
    both_ways(r#"{"disconn":{}}"#, &Packet::Disconn(Disconn::LEAVING));
    for kind in ["hb", "hbAck", "disconn"] {
        for wrong in ["null", "1", "[]", "\"\"", "true"] {
            let (_, problem, _) = bad_field(&format!(r#"{{"{kind}":{wrong}}}"#));
            assert_eq!(problem, "the value must be an object");
        }
    }
}

#[test] // §7.g
fn sub_names_a_channel_and_may_be_persistent() {
    let sub = |persistence| Packet::Sub(Sub { channel: "news".into(), persistence, is_filter: false });
    both_ways(r#"{"sub":{"cn":"news"}}"#, &sub(Persistence::Temporary));
    both_ways(r#"{"sub":{"cn":"news","pr":1}}"#, &sub(Persistence::Persistent));
    read_as(r#"{"sub":{"cn":"news","pr":0}}"#, &sub(Persistence::Temporary));
}

#[test] // protocol.md 2.25
fn subscriptions_may_have_a_filter_and_answers_repeat_it() {
    let (persistence, channel) = (Persistence::Temporary, || "rooms/+/temperature".into());
    both_ways(
        r#"{"sub":{"cn":"rooms/+/temperature","wc":1}}"#,
        &Packet::Sub(Sub { channel: channel(), persistence, is_filter: true }),
    );
    both_ways(
        r#"{"subAck":{"st":1,"cn":"rooms/+/temperature","wc":1}}"#,
        &Packet::SubAck(SubAck { status: StatusCode::OK, channel: Some(channel()), is_filter: true }),
    );
    both_ways(
        r#"{"unsub":{"cn":"rooms/+/temperature","wc":1}}"#,
        &Packet::Unsub(Unsub { channel: channel(), is_filter: true }),
    );
    both_ways(
        r#"{"unsubAck":{"st":1,"cn":"rooms/+/temperature","wc":1}}"#,
        &Packet::UnsubAck(UnsubAck { status: StatusCode::OK, channel: Some(channel()), is_filter: true }),
    );
    read_as(
        r#"{"sub":{"cn":"rooms/+/temperature","wc":0}}"#,
        &Packet::Sub(Sub { channel: channel(), persistence, is_filter: false }),
    );
    assert_eq!(bad_field(r#"{"sub":{"cn":"a","wc":2}}"#).1, "field `wc` must be 0 or 1");
    let (_, _, echo) = bad_field(r#"{"sub":{"cn":"a/+","wc":1,"pr":[]}}"#);
    assert_eq!((echo.channel.as_deref(), echo.is_filter), (Some("a/+"), true));
}

#[test] // §7.h
fn sub_ack_names_the_channel() {
    let ack = |status, channel: &'static str| {
        Packet::SubAck(SubAck { status, channel: Some(channel.into()), is_filter: false })
    };
    both_ways(r#"{"subAck":{"st":1,"cn":"news"}}"#, &ack(StatusCode::OK, "news"));
    both_ways(r#"{"subAck":{"st":11,"cn":"$list"}}"#, &ack(StatusCode::INVALID_CHANNEL, "$list"));
    both_ways(
        r#"{"subAck":{"st":10}}"#,
        &Packet::SubAck(SubAck { status: StatusCode::INVALID_PACKET, channel: None, is_filter: false }),
    );
}

#[test] // §7.i
fn unsub_names_a_channel() {
    both_ways(
        r#"{"unsub":{"cn":"news"}}"#,
        &Packet::Unsub(Unsub { channel: "news".into(), is_filter: false }),
    );
}

#[test] // §7.j
fn unsub_ack_names_the_channel() {
    both_ways(
        r#"{"unsubAck":{"st":7,"cn":"news"}}"#,
        &Packet::UnsubAck(UnsubAck {
            status: StatusCode::NOT_ALLOWED,
            channel: Some("news".into()),
            is_filter: false,
        }),
    );
}

#[test] // §7.k
fn pub_carries_data_and_may_have_qos_id_and_retained_flag() {
    let publish = |qos, retain, id: Option<&'static str>| {
        Packet::Pub(Pub {
            channel: "news".into(),
            data: Some(json("1.50")),
            is_literal: false,
            qos,
            retain,
            id: id.map(Into::into),
        })
    };
    both_ways(r#"{"pub":{"cn":"news","dt":1.50}}"#, &publish(Qos::AtMostOnce, Retain::No, None));
    both_ways(
        r#"{"pub":{"cn":"news","dt":1.50,"q":1,"id":"7"}}"#,
        &publish(Qos::AtLeastOnce, Retain::No, Some("7")),
    );
    both_ways(r#"{"pub":{"cn":"news","dt":1.50,"rt":1}}"#, &publish(Qos::AtMostOnce, Retain::Yes, None));
    both_ways(
        r#"{"pub":{"cn":"news","dt":1.50,"q":1,"rt":1,"id":"7"}}"#,
        &publish(Qos::AtLeastOnce, Retain::Yes, Some("7")),
    );
    read_as(
        r#"{"pub":{"id":"7","q":0,"rt":0,"dt":1.50,"cn":"news"}}"#,
        &publish(Qos::AtMostOnce, Retain::No, Some("7")),
    );
}

#[test] // §9.d, protocol.md 2.7
fn pub_to_a_control_channel_needs_no_data() {
    let request = |channel: &'static str, data| {
        Packet::Pub(Pub {
            channel: channel.into(),
            data,
            is_literal: false,
            qos: Qos::AtMostOnce,
            retain: Retain::No,
            id: Some("1".into()),
        })
    };
    both_ways(r#"{"pub":{"cn":"$mySubscriptions","id":"1"}}"#, &request("$mySubscriptions", None));
    both_ways(r#"{"pub":{"cn":"$echo","dt":[1],"id":"1"}}"#, &request("$echo", Some(json("[1]"))));
    assert_eq!(bad_field(r##"{"pub":{"cn":"#bob","id":"1"}}"##).1, "field `dt` is missing");
}

#[test] // protocol.md 2.19: whether a missing id is right depends on more than the packet
fn pub_of_qos_1_without_an_id_is_read_and_left_to_the_server() {
    let Ok(Packet::Pub(publish)) = decode(r#"{"pub":{"cn":"news","dt":1,"q":1}}"#) else { panic!() };
    assert_eq!((publish.qos, publish.id), (Qos::AtLeastOnce, None));
}

#[test] // §7.l
fn pub_ack_gives_the_id_back_and_may_carry_a_reply() {
    let ack = |status, id: Option<&'static str>, data| {
        Packet::PubAck(PubAck { status, id: id.map(Into::into), data })
    };
    both_ways(r#"{"pubAck":{"st":1,"id":"7"}}"#, &ack(StatusCode::OK, Some("7"), None));
    both_ways(
        r#"{"pubAck":{"st":1,"id":"7","dt":{"channels": {"news": "temp"}}}}"#,
        &ack(StatusCode::OK, Some("7"), Some(json(r#"{"channels": {"news": "temp"}}"#))),
    );
    both_ways(r#"{"pubAck":{"st":10}}"#, &ack(StatusCode::INVALID_PACKET, None, None)); // protocol.md 2.19
    both_ways(r#"{"pubAck":{"st":8,"id":"a b"}}"#, &ack(StatusCode::CLIENT_OFFLINE, Some("a b"), None));
}

#[test] // §7.m
fn push_names_channel_publisher_and_what_to_acknowledge() {
    let push = |client: &'static str, qos, id: Option<&'static str>, retain| {
        Packet::Push(Push {
            channel: "news".into(),
            data: json("1.50"),
            is_literal: false,
            client: client.into(),
            qos,
            id: id.map(Into::into),
            retain,
        })
    };
    both_ways(
        r#"{"push":{"cn":"news","dt":1.50,"cl":"alice"}}"#,
        &push("alice", Qos::AtMostOnce, None, Retain::No),
    );
    both_ways(
        r#"{"push":{"cn":"news","dt":1.50,"cl":"","q":1,"id":"e1-2-3"}}"#,
        &push("", Qos::AtLeastOnce, Some("e1-2-3"), Retain::No),
    );
    both_ways(
        r#"{"push":{"cn":"news","dt":1.50,"cl":"alice","rt":1}}"#,
        &push("alice", Qos::AtMostOnce, None, Retain::Yes),
    );
    read_as(r#"{"push":{"cn":"news","dt":1.50,"q":0}}"#, &push("", Qos::AtMostOnce, None, Retain::No));
    assert_eq!(bad_field(r#"{"push":{"cn":"news","cl":"a"}}"#).1, "field `dt` is missing");
}

#[test] // protocol.md 2.26
fn data_may_be_literally_the_payload_of_mqtt() {
    both_ways(
        r#"{"pub":{"cn":"lamp","dt":"ON","jt":1}}"#,
        &Packet::Pub(Pub {
            channel: "lamp".into(),
            data: Some(json("\"ON\"")),
            is_literal: true,
            qos: Qos::AtMostOnce,
            retain: Retain::No,
            id: None,
        }),
    );
    let push = Packet::Push(Push {
        channel: "lamp".into(),
        data: json("\"ON\""),
        is_literal: true,
        client: "a".into(),
        qos: Qos::AtMostOnce,
        id: None,
        retain: Retain::No,
    });
    both_ways(r#"{"push":{"cn":"lamp","dt":"ON","jt":1,"cl":"a"}}"#, &push);
    let mut text = Vec::new();
    PushFrame::new("lamp", "a").write_text(&[b"\"ON\"", LITERAL].concat(), None, &mut text);
    assert_eq!(text, push.to_text().into_bytes());
    assert_eq!(bad_field(r#"{"pub":{"cn":"a","dt":1,"jt":"x"}}"#).1, "field `jt` must be 0 or 1");
}

#[test] // §7.m: the server's shortcut writes what the packet would
fn a_push_frame_is_a_push() {
    let data = json(r#"{"a": "\u00e9"}"#);
    let (channel, client) = ("ne\"ws\n", "al\\ice");
    let frame = PushFrame::new(channel, client);
    let push = |qos, id: Option<&'static str>, retain| {
        let push = Push {
            channel: channel.into(),
            data,
            is_literal: false,
            client: client.into(),
            qos,
            id: id.map(Into::into),
            retain,
        };
        Packet::Push(push).to_text()
    };
    let written = |write: &dyn Fn(&mut Vec<u8>)| {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    };
    assert_eq!(written(&|out| frame.write(data, None, out)), push(Qos::AtMostOnce, None, Retain::No));
    assert_eq!(
        written(&|out| frame.write(data, Some("i\"d"), out)),
        push(Qos::AtLeastOnce, Some("i\"d"), Retain::No)
    );
    assert_eq!(written(&|out| frame.write_retained(data, out)), push(Qos::AtMostOnce, None, Retain::Yes));
    assert_eq!(written(&|out| frame.write(data, None, out)).len(), frame.overhead() + data.as_str().len(),);
}

#[test] // §7.n
fn push_ack_names_the_push_alone_as_original_clients_send_it() {
    let ack = |status| Packet::PushAck(PushAck { id: "e1-2-3".into(), status });
    both_ways(r#"{"pushAck":{"id":"e1-2-3"}}"#, &ack(None));
    both_ways(r#"{"pushAck":{"id":"e1-2-3","st":1}}"#, &ack(Some(StatusCode::OK)));
    assert_eq!(bad_field(r#"{"pushAck":{"st":1}}"#).1, "field `id` is missing");
}

#[test] // §8
fn every_status_code_survives_the_way() {
    let codes = [
        (1, "OK"),
        (0, "FAILED"),
        (3, "MALFORMED_PACKET"),
        (5, "SERVER_ERROR"),
        (6, "INVALID_TOKEN"),
        (7, "NOT_ALLOWED"),
        (8, "CLIENT_OFFLINE"),
        (9, "NETWORK_ERROR"),
        (10, "INVALID_PACKET"),
        (11, "INVALID_CHANNEL"),
        (-1, "UNKNOWN"),
    ];
    for (code, name) in codes {
        assert_eq!(StatusCode::new(code).name(), Some(name));
        let text = format!(r#"{{"connAck":{{"st":{code}}}}}"#);
        both_ways(
            &text,
            &Packet::ConnAck(ConnAck {
                status: StatusCode::new(code),
                timeout_seconds: None,
                remembers_publishes: false,
            }),
        );
    }
    both_ways(
        r#"{"connAck":{"st":299}}"#,
        &Packet::ConnAck(ConnAck {
            status: StatusCode::new(299),
            timeout_seconds: None,
            remembers_publishes: false,
        }),
    );
    for wrong in ["1.0", "\"1\"", "true", "99999999999", "{}"] {
        let (_, problem, _) = bad_field(&format!(r#"{{"connAck":{{"st":{wrong}}}}}"#));
        assert_eq!(problem, "field `st` must be an integer", "{wrong}");
    }
}

#[test] // protocol.md 2.6
fn flags_are_read_in_three_spellings_and_written_in_one() {
    let publish = |qos, retain| {
        Packet::Pub(Pub {
            channel: "a".into(),
            data: Some(Payload::NULL),
            is_literal: false,
            qos,
            retain,
            id: None,
        })
    };
    for (on, off) in [("1", "0"), ("true", "false"), ("\"1\"", "\"0\"")] {
        read_as(
            &format!(r#"{{"pub":{{"cn":"a","dt":null,"q":{on},"rt":{off}}}}}"#),
            &publish(Qos::AtLeastOnce, Retain::No),
        );
        read_as(
            &format!(r#"{{"pub":{{"cn":"a","dt":null,"q":{off},"rt":{on}}}}}"#),
            &publish(Qos::AtMostOnce, Retain::Yes),
        );
    }
    for wrong in ["2", "-1", "1.0", "\"true\"", "\"\"", "[]", "{}"] {
        for (key, text) in [
            ("q", format!(r#"{{"pub":{{"cn":"a","dt":1,"q":{wrong}}}}}"#)),
            ("rt", format!(r#"{{"pub":{{"cn":"a","dt":1,"rt":{wrong}}}}}"#)),
            ("pr", format!(r#"{{"sub":{{"cn":"a","pr":{wrong}}}}}"#)),
        ] {
            assert_eq!(bad_field(&text).1, format!("field `{key}` must be 0 or 1"), "{text}");
        }
    }
}

#[test] // protocol.md 2.6
fn an_id_may_be_a_number_and_is_written_as_a_string() {
    for (wire, id) in
        [("7", "7"), ("-7", "-7"), ("12345678901234567890123", "12345678901234567890123"), ("1.5", "1.5")]
    {
        let packet = Packet::PushAck(PushAck { id: id.into(), status: None });
        read_as(&format!(r#"{{"pushAck":{{"id":{wire}}}}}"#), &packet);
        assert_eq!(packet.to_text(), format!(r#"{{"pushAck":{{"id":"{id}"}}}}"#));
    }
    for wrong in ["true", "[7]", "{}"] {
        assert_eq!(
            bad_field(&format!(r#"{{"pushAck":{{"id":{wrong}}}}}"#)).1,
            "field `id` must be a string or a number"
        );
    }
}

#[test] // protocol.md 2.6
fn null_is_as_absent_for_every_field_but_data() {
    read_as(
        r#"{"pub":{"cn":"a","dt":null,"q":null,"rt":null,"id":null}}"#,
        &Packet::Pub(Pub {
            channel: "a".into(),
            data: Some(Payload::NULL),
            is_literal: false,
            qos: Qos::AtMostOnce,
            retain: Retain::No,
            id: None,
        }),
    );
    for (text, problem) in [
        (r#"{"pub":{"cn":null,"dt":1}}"#, "field `cn` is missing"),
        (r#"{"pushAck":{"id":null}}"#, "field `id` is missing"),
        (r#"{"conn":{"at":null,"cl":"c"}}"#, "field `at` is missing"),
        (r#"{"subAck":{"st":null,"cn":"a"}}"#, "field `st` is missing"),
    ] {
        assert_eq!(bad_field(text).1, problem);
    }
}

#[test] // protocol.md 2.6
fn unknown_members_are_ignored_whatever_they_hold() {
    read_as(
        r#"{"unsub":{"x":[{"cn":"b"}],"cn":"a","dt":{"deep":[[[]]]},"":0,"x":1}}"#,
        &Packet::Unsub(Unsub { channel: "a".into(), is_filter: false }),
    );
    let deep = format!(r#"{{"hb":{{"x":{}{}}}}}"#, "[".repeat(5000), "]".repeat(5000));
    read_as(&deep, &Packet::Hb);
}

#[test] // protocol.md 2.5
fn a_known_field_twice_is_a_bad_field() {
    let (kind, problem, echo) = bad_field(r#"{"pub":{"cn":"a","dt":1,"dt":2,"id":"7"}}"#);
    assert_eq!((kind, problem.as_str()), (PacketType::Pub, "duplicate field `dt`"));
    assert_eq!((echo.id.as_deref(), echo.channel.as_deref()), (Some("7"), Some("a")));
}

#[test] // protocol.md 2.5
fn every_field_of_every_wrong_kind_is_refused_and_never_a_panic() {
    let fields = [
        ("authAck", r#""st":0"#, &["mg"][..]),
        ("authAck", r#""st":1,"at":"t""#, &["cl"]),
        ("conn", r#""cl":"c""#, &["at"]),
        ("conn", r#""at":"t""#, &["cl"]),
        ("connAck", r#""st":1"#, &["ts"]),
        ("sub", r#""pr":1"#, &["cn"]),
        ("subAck", r#""st":1"#, &["cn"]),
        ("unsub", r#""x":1"#, &["cn"]),
        ("unsubAck", r#""st":1"#, &["cn"]),
        ("pub", r#""dt":1"#, &["cn"]),
        ("push", r#""dt":1"#, &["cn"]),
        ("push", r#""dt":1,"cn":"a""#, &["cl"]),
    ];
    for (kind, rest, keys) in fields {
        for key in keys {
            for wrong in ["{}", "[]", "true", "1.5", "-1", r#""\ud800""#] {
                let (_, problem, _) = bad_field(&format!(r#"{{"{kind}":{{{rest},"{key}":{wrong}}}}}"#));
                assert!(problem.starts_with(&format!("field `{key}` ")), "{kind} {key} {wrong}: {problem}");
            }
        }
    }
}

#[test] // protocol.md 2.5
fn only_an_object_with_one_known_member_is_a_packet() {
    for text in [
        "",
        " ",
        "\0",
        "{",
        "}",
        "{}",
        "[]",
        "null",
        "true",
        "1",
        "\"hb\"",
        "{\"hb\":{}",
        "{\"hb\":}",
        "{\"hb\"}",
        "{\"hb\":{}}}",
        "{\"hb\":{}} {}",
        "{\"hb\":{}}\0",
        "[{\"hb\":{}}]",
        "{\"hb\":{},\"hb\":{}}",
        "{\"hb\":{},}",
        "{'hb':{}}",
        "{hb:{}}",
        "{\"HB\":{}}",
        "{\"hb \":{}}",
        "{\"\":{}}",
        "{\"ping\":{}}",
        "{\"pub\":{\"cn\":\"a\",\"dt\":01}}",
        "{\"pub\":{\"cn\":\"a\",\"dt\":\"\t\"}}",
        "{\"pub\":{\"cn\":\"a\",\"dt\":NaN}}",
        "{\"pub\":{\"cn\":\"a\",\"dt\":undefined}}",
        "\u{feff}{\"hb\":{}}",
    ] {
        assert!(matches!(decode(text), Err(DecodeError::NotAPacket { .. })), "{text:?}: {:?}", decode(text));
    }
}

#[test]
fn white_space_between_tokens_is_of_no_consequence() {
    read_as(
        " {\r\n\t\"sub\" : { \"cn\" : \"a\" , \"pr\" : 1 } } \n",
        &Packet::Sub(Sub { channel: "a".into(), persistence: Persistence::Persistent, is_filter: false }),
    );
}

#[test] // protocol.md 2.7
fn a_payload_passes_through_byte_for_byte() {
    for data in [
        "1.50",
        "1E+400",
        "-0",
        "123456789012345678901234567890",
        r#""\u00e9\/\ud83d\ude00""#,
        r#""\ud800""#,
        "\"é😀\u{7f}\u{2028}\"",
        r#"{"b":1,"a":2,"b":3}"#,
        "[ 1 ,\n2 ]",
        r#""\u0000""#,
    ] {
        let text = format!(r#"{{"pub":{{"cn":"a","dt":{data}}}}}"#);
        let Ok(Packet::Pub(publish)) = decode(&text) else { panic!("{text}") };
        assert_eq!(publish.data.unwrap().as_str(), data);
        let mut push = Vec::new();
        PushFrame::new("a", "c").write(publish.data.unwrap(), None, &mut push);
        assert_eq!(push, format!(r#"{{"push":{{"cn":"a","dt":{data},"cl":"c"}}}}"#).into_bytes());
    }
}

#[test] // protocol.md 2.7: so that no NUL ever ends a packet early
fn no_control_character_is_written_into_a_packet() {
    let name: String = (0..0x20).map(char::from).collect();
    let (channel, persistence) = (name.as_str().into(), Persistence::Temporary);
    let packet = Packet::Sub(Sub { channel, persistence, is_filter: false });
    let text = packet.to_text();
    assert!(text.bytes().all(|byte| byte >= 0x20));
    assert_eq!(decode(&text), Ok(packet));
}
