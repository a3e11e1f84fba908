//! Accepted notations, answers, and payloads that pass through (protocol.md 2.5 to 2.8, 2.19).

use crate::support::{Asked, Behaviour, TestServer, channel};
use jmqt_server::StatusCode;

#[tokio::test] // protocol.md 2.5
async fn data_may_be_nested_128_deep_but_not_deeper() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub("news").await;
    let nested = |depth| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let publish = |depth| format!(r#"{{"pub":{{"cn":"news","dt":{},"id":"7"}}}}"#, nested(depth));
    alice.send(&publish(129)).await;
    alice.expect(r#"{"pubAck":{"st":10,"id":"7"}}"#).await;
    alice.send(&publish(128)).await;
    assert_eq!(bob.next_push().await.data(), nested(128));
}

#[tokio::test] // protocol.md 2.5: nothing is answered that has no id and no QoS 1
async fn a_bad_or_refused_qos_0_publish_is_answered_only_if_it_has_an_id() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await; // fine
    alice.send(r#"{"pub":{"cn":"news","dt":1,"id":"1"}}"#).await; // fine, and QoS 0 all the same
    alice.send(r#"{"pub":{"cn":"$","dt":1}}"#).await;
    alice.expect_nothing_before_hb().await;
    alice.send(r#"{"pub":{"cn":"$","dt":1,"id":"2"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":11,"id":"2"}}"#).await;
    server.app.set(Asked::Pub, Behaviour::Refuse(StatusCode::NOT_ALLOWED));
    alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await;
    alice.expect_nothing_before_hb().await;
    alice.send(r#"{"pub":{"cn":"news","dt":1,"id":"3"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":7,"id":"3"}}"#).await;
}

#[tokio::test] // protocol.md 2.5: the same for one with a bad field
async fn a_qos_0_publish_with_a_bad_field_is_answered_only_if_it_has_an_id() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"pub":{"cn":"news","id":"1"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":10,"id":"1"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":1,"rt":2}}"#).await;
    alice.expect_nothing_before_hb().await;
    assert_eq!(server.counters().bad_packets, 3);
}

#[tokio::test] // protocol.md 2.6
async fn flags_and_ids_are_accepted_in_several_notations() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    for flag in ["1", "true", r#""1""#] {
        bob.send(&format!(r#"{{"sub":{{"cn":"news","pr":{flag},"x":[]}}}}"#)).await;
        bob.expect(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
        alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":1,"q":{flag},"rt":{flag},"id":12.50}}}}"#)).await;
        alice.expect(r#"{"pubAck":{"st":1,"id":"12.50"}}"#).await;
        let push = bob.expect_push(r#"{"push":{"cn":"news","dt":1,"cl":"alice","q":1,"id":"*"}}"#).await;
        bob.ack(&push).await;
        bob.send(r#"{"unsub":{"cn":"news"}}"#).await;
        bob.expect(r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
        assert!(server.handle().clear_retained(&channel("news")).await.unwrap());
    }
    bob.sub("news").await;
    for flag in ["0", "false", r#""0""#, "null"] {
        alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":2,"q":{flag},"rt":{flag},"id":null}}}}"#)).await;
        bob.expect(r#"{"push":{"cn":"news","dt":2,"cl":"alice"}}"#).await;
    }
    alice.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.6
async fn other_values_of_qos_and_flags_are_bad_fields() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    for q in ["2", "-1", r#""yes""#, "1.0", "[]"] {
        alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":1,"q":{q},"id":"7"}}}}"#)).await;
        alice.expect(r#"{"pubAck":{"st":10,"id":"7"}}"#).await;
    }
}

#[tokio::test] // protocol.md 2.7
async fn payloads_pass_through_byte_for_byte() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut others = [
        server.connect("bob").await,
        server.websocket("carol").await,
        server.tls("dave").await,
        server.tls_websocket("erin").await,
    ];
    for other in &mut others {
        other.sub("news").await;
        other.sub_persistent("kept").await;
    }
    for data in [
        "1.50",
        "-0",
        "1e999",
        "123456789012345678901234567890.0000000000001",
        r#""\u00e4\/\ud83d\ude00ä😀""#,
        r#""\u0000""#,
        r#""\ud800""#,
        r#"{"b":1,"a":2,"b":3}"#,
        "[ 1 ,\t2\n]",
        "null",
        "true",
        "[]",
    ] {
        alice.send(&format!(r#"{{"pub":{{"cn":"news","dt": {data} }}}}"#)).await;
        for other in &mut others {
            other.expect(&format!(r#"{{"push":{{"cn":"news","dt":{data},"cl":"alice"}}}}"#)).await;
        }
        alice.pub1("kept", data).await;
        for other in &mut others {
            let push = other.next_push().await;
            assert_eq!(push.data(), data);
            other.ack(&push).await;
        }
    }
}

#[tokio::test] // protocol.md 2.7: the same through the store
async fn stored_payloads_are_byte_for_byte_the_same() {
    let mut server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    bob.sub_persistent("news").await;
    drop(bob);
    let data = r#"{"z":1.0e-7, "a":"\u0000\/ä", "z":[1 , 2]}"#;
    let mut alice = server.connect("alice").await;
    alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":{data},"q":1,"id":"7","rt":1}}}}"#)).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"7"}}"#).await;
    server.restart().await;
    let mut bob = server.connect("bob").await;
    assert_eq!(bob.next_push().await.data(), data);
    let retained = bob.next_push().await;
    assert!(retained.is_retained());
    assert_eq!(retained.data(), data);
}

#[tokio::test] // protocol.md 2.7
async fn raw_control_characters_in_strings_are_refused() {
    let server = TestServer::start().await;
    let mut alice = server.websocket("alice").await;
    let mut bob = server.connect("bob").await;
    bob.sub("news").await;
    for control in ["\u{0}", "\n", "\t", "\u{1f}"] {
        alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":"a{control}b","id":"7"}}}}"#)).await;
    }
    alice.expect_nothing_before_hb().await;
    assert_eq!(server.counters().bad_packets, 4);
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.7
async fn data_is_required_except_on_control_channels() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"pub":{"cn":"news","id":"1"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":10,"id":"1"}}"#).await;
    alice.send(r##"{"pub":{"cn":"#bob","id":"2"}}"##).await;
    alice.expect(r#"{"pubAck":{"st":10,"id":"2"}}"#).await;
    alice.send(r#"{"pub":{"cn":"$list","id":"3"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"3"}}"#).await;
}

#[tokio::test] // protocol.md 2.19
async fn a_repeated_publish_without_publisher_is_a_new_message() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    alice.pub1("news", "1").await;
    alice.pub1("news", "1").await;
    let pushes = bob.next_pushes(2).await;
    assert_ne!(pushes[0].id(), pushes[1].id());
    assert_eq!(pushes[0].data(), pushes[1].data());
}

#[tokio::test] // protocol.md 2.19
async fn a_qos_1_publish_without_id_is_answered_10_without_id() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub("news").await;
    alice.send(r#"{"pub":{"cn":"news","dt":1,"q":1}}"#).await;
    alice.expect(r#"{"pubAck":{"st":10}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":2}}"#).await; // QoS 0 needs none
    bob.expect(r#"{"push":{"cn":"news","dt":2,"cl":"alice"}}"#).await;
    alice.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.6, 2.7, 2.8: names and ids are text, whatever is in it
async fn escapes_in_names_and_ids_are_decoded_and_lone_surrogates_refused() {
    let server = TestServer::start().await;
    let mut bob = server.connect("bob").await;
    let mut alice = server.connect("alice").await;
    for name in [r"a\u0000b", r"a\r\nb", r"\ud83d\ude00", r#"\"\\\/"#] {
        bob.send(&format!(r#"{{"sub":{{"cn":"{name}"}}}}"#)).await;
        let ack = bob.next().await;
        assert!(ack.starts_with(r#"{"subAck":{"st":1,"cn":""#), "{ack}");
        alice.send(&format!(r#"{{"pub":{{"cn":"{name}","dt":1,"q":1,"id":"{name}"}}}}"#)).await;
        let acked = alice.next().await;
        assert_eq!(acked.replace(r#""id""#, r#""cn""#), ack.replace("sub", "pub"));
        let push = bob.next_push().await;
        let text: String = serde_json::from_str(&format!("\"{name}\"")).unwrap();
        assert_eq!(push.channel(), text);
        bob.ack(&push).await;
    }
    for bad in [r"\ud800", r"\udc00\ud800", r"a\ud800b"] {
        alice.send(&format!(r#"{{"sub":{{"cn":"{bad}"}}}}"#)).await;
        alice.expect(r#"{"subAck":{"st":10}}"#).await;
        alice.send(&format!(r#"{{"pub":{{"cn":"{bad}","dt":1,"q":1,"id":"1"}}}}"#)).await;
        alice.expect(r#"{"pubAck":{"st":10,"id":"1"}}"#).await;
        alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":1,"q":1,"id":"{bad}"}}}}"#)).await;
        alice.expect(r#"{"pubAck":{"st":10}}"#).await;
        alice.send(&format!(r#"{{"{bad}":{{}}}}"#)).await; // no type that is known
        alice.expect_nothing_before_hb().await;
    }
    for bad in [r"\u12", r"\x"] {
        alice.send(&format!(r#"{{"sub":{{"cn":"{bad}"}}}}"#)).await; // no JSON
        alice.expect_nothing_before_hb().await;
    }
}
