//! What is no packet, and what is one with unusable fields (protocol.md 2.5 to 2.8, 2.19).

// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod support;

use jmqt_server::{CloseReason, Protocol};
use support::TestServer;

#[tokio::test] // protocol.md 2.5
async fn what_is_no_packet_is_dropped_and_the_session_goes_on() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    for text in [
        "",
        "7",
        "[]",
        "{}",
        "{\"nope\":{}}",
        "{\"hb\":{},\"sub\":{\"cn\":\"a\"}}",
        "{\"hb\":{}",
        "{\"push\":{\"cn\":\"a\",\"dt\":1,\"cl\":\"x\"}}",
    ] {
        alice.send(text).await;
    }
    alice.send_bytes(b"{\"sub\":{\"cn\":\"\xff\"}}\0").await;
    alice.expect_nothing_before_hb().await;
    assert_eq!(server.counters().bad_packets, 9);
}

#[tokio::test] // protocol.md 2.5
async fn a_bad_field_is_answered_with_status_10_and_what_could_be_read() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    for (bad, answer) in [
        (r#"{"sub":7}"#, r#"{"subAck":{"st":10}}"#),
        (r#"{"sub":{"cn":" a ","pr":5}}"#, r#"{"subAck":{"st":10,"cn":"a"}}"#),
        (r#"{"sub":{"cn":"a","cn":"b"}}"#, r#"{"subAck":{"st":10,"cn":"a"}}"#),
        (r#"{"unsub":{"cn":[]}}"#, r#"{"unsubAck":{"st":10}}"#),
        (r#"{"pub":{"cn":"a","id":9}}"#, r#"{"pubAck":{"st":10,"id":"9"}}"#),
        (r#"{"pub":{"cn":"a","dt":1,"q":2,"id":"9"}}"#, r#"{"pubAck":{"st":10,"id":"9"}}"#),
        (r#"{"conn":{"cl":"alice"}}"#, r#"{"connAck":{"st":10}}"#),
        (r#"{"auth":{}}"#, r#"{"authAck":{"st":10,"mg":"field `dt` is missing"}}"#),
    ] {
        alice.send(bad).await;
        alice.expect(answer).await;
        alice.expect_nothing_before_hb().await; // also starts the count of bad ones anew
    }
    let deep = format!(r#"{{"pub":{{"cn":"a","id":"d","dt":{}{}}}}}"#, "[".repeat(129), "]".repeat(129));
    alice.send(&deep).await;
    alice.expect(r#"{"pubAck":{"st":10,"id":"d"}}"#).await;
}

#[tokio::test] // protocol.md 2.5
async fn sixteen_bad_packets_in_a_row_end_the_connection_and_fifteen_do_not() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    for _ in 0..3 {
        for _ in 0..15 {
            alice.send("nonsense").await;
        }
        alice.expect_nothing_before_hb().await;
    }
    for _ in 0..16 {
        alice.send("nonsense").await;
    }
    alice.closed().await;
    server.app.expect_close("alice", CloseReason::BadPackets).await;
}

#[tokio::test] // protocol.md 2.5: 64 KiB before `conn`, MAX_PACKET_BYTES within a session
async fn a_packet_of_the_limit_passes_and_one_byte_more_ends_the_connection() {
    let server = TestServer::configured(|config| config.max_packet_bytes = 100_000).await;
    for protocol in [Protocol::Socket, Protocol::WebSocket] {
        let auth = |length: usize| {
            let frame = r#"{"auth":{"dt":{"client_name":"a","x":""}}}"#.len();
            format!(r#"{{"auth":{{"dt":{{"client_name":"a","x":"{}"}}}}}}"#, "x".repeat(length - frame))
        };
        let mut client = server.open(protocol).await;
        client.send(&auth(65_536)).await;
        client.expect(r#"{"authAck":{"st":1,"at":"token-a","cl":"a"}}"#).await;
        client.send(&auth(65_537)).await;
        client.closed().await;

        let hb = |length: usize| {
            format!(r#"{{"hb":{{"x":"{}"}}}}"#, "x".repeat(length - r#"{"hb":{"x":""}}"#.len()))
        };
        let mut client = server.connect_over(protocol, "a").await;
        client.send(&hb(100_000)).await;
        client.expect(r#"{"hbAck":{}}"#).await;
        client.send(&hb(100_001)).await;
        client.closed().await;
        server.app.expect_close("a", CloseReason::PacketTooLarge).await;
    }
}

#[tokio::test] // protocol.md 2.6
async fn flags_and_ids_are_taken_as_people_write_them() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.send(r#"{"sub":{"cn":"news","pr":"1","unknown":[{}]}}"#).await;
    bob.expect(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":null,"q":true,"rt":null,"id":12.50}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"12.50"}}"#).await;
    bob.expect_push(r#"{"push":{"cn":"news","dt":null,"cl":"alice","q":1,"id":"*"}}"#).await;
}

#[tokio::test] // protocol.md 2.7
async fn payloads_arrive_byte_for_byte_on_every_transport() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let payload = r#"{"b":1.50,"a":1e400,"a":"\u00e9\/\ud800é😀","n":123456789012345678901234567890}"#;
    for (number, protocol) in Protocol::ALL.into_iter().enumerate() {
        let mut bob = server.connect_over(protocol, &format!("bob{number}")).await;
        bob.sub("news").await;
        bob.sub_persistent("news1").await;
        alice.send(&format!(r#"{{"pub":{{"cn":"news","dt": {payload} }}}}"#)).await;
        assert_eq!(bob.next_push().await.data(), payload);
        alice.pub1("news1", payload).await;
        assert_eq!(bob.next_push().await.data(), payload);
    }
}

#[tokio::test] // protocol.md 2.7: no NUL reaches a socket client inside a packet
async fn control_characters_in_strings_are_refused() {
    let server = TestServer::start().await;
    let mut bob = server.websocket("bob").await;
    bob.send("{\"pub\":{\"cn\":\"news\",\"dt\":\"a\u{0}b\",\"id\":\"1\"}}").await;
    bob.expect_nothing_before_hb().await;
    assert_eq!(server.counters().bad_packets, 1);
}

#[tokio::test] // protocol.md 2.8
async fn names_are_trimmed_and_bad_ones_answered_11() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"sub":{"cn":"  news\t"}}"#).await;
    alice.expect(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    for name in ["", " ", "$", "#", "$x", "#alice", "#bob"] {
        alice.send(&format!(r#"{{"sub":{{"cn":"{name}"}}}}"#)).await;
        alice.expect(&format!(r#"{{"subAck":{{"st":11,"cn":"{}"}}}}"#, name.trim())).await;
        alice.send(&format!(r#"{{"unsub":{{"cn":"{name}"}}}}"#)).await;
        alice.expect(&format!(r#"{{"unsubAck":{{"st":11,"cn":"{}"}}}}"#, name.trim())).await;
    }
    let long = "x".repeat(513);
    alice.send(&format!(r#"{{"pub":{{"cn":"{long}","dt":1,"id":"1"}}}}"#)).await;
    alice.expect(r#"{"pubAck":{"st":11,"id":"1"}}"#).await;
    alice.send(&format!(r#"{{"pub":{{"cn":"{long}","dt":1}}}}"#)).await; // QoS 0 without id: no answer
    alice.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.8
async fn client_ids_are_not_trimmed_but_refused() {
    let server = TestServer::start().await;
    let mut client = server.open(Protocol::Socket).await;
    for bad in ["", " a", "a ", &"x".repeat(257)] {
        client.send(&format!(r#"{{"conn":{{"at":"t","cl":"{bad}"}}}}"#)).await;
        client.expect(r#"{"connAck":{"st":10}}"#).await;
    }
    client.conn_as("a b", "").await;
}

#[tokio::test] // protocol.md 2.19
async fn a_qos_1_or_control_publish_without_id_is_answered_10_without_id() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"pub":{"cn":"news","dt":1,"q":1}}"#).await;
    alice.expect(r#"{"pubAck":{"st":10}}"#).await;
    alice.send(r#"{"pub":{"cn":"$list"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":10}}"#).await;
}
