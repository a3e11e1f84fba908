//! Invalid packets, packets with invalid fields, and too many of them (protocol.md 2.5).

use crate::support::TestServer;
use jmqt_server::{CloseReason, Protocol};

#[tokio::test] // protocol.md 2.5
async fn invalid_packets_are_dropped_and_the_session_continues() {
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
async fn a_bad_field_is_answered_with_status_10_and_the_readable_fields() {
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
        alice.expect_nothing_before_hb().await; // also resets the count of bad packets
    }
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

#[tokio::test] // protocol.md 2.5: also the answers that led there arrive
async fn the_answers_to_bad_packets_arrive_before_the_close() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.send_all(&[r#"{"sub":{}}"#; 40]).await;
    let answers = alice.packets_until_closed().await;
    assert_eq!(answers, [r#"{"subAck":{"st":10}}"#; 16]);
}

#[tokio::test] // protocol.md 2.5: on a WebSocket too
async fn bad_packets_over_a_websocket_are_handled_the_same_way() {
    let server = TestServer::start().await;
    let mut alice = server.connect_over(Protocol::WebSocket, "alice").await;
    for _ in 0..15 {
        alice.send("nonsense").await;
    }
    alice.expect_nothing_before_hb().await;
    for _ in 0..16 {
        alice.send("nonsense").await;
    }
    assert_eq!(alice.told().await.code, 4501);
}

#[tokio::test] // protocol.md 2.5: 16 KiB before `conn`, MAX_PACKET_BYTES within a session
async fn a_packet_of_the_limit_passes_and_one_byte_more_ends_the_connection() {
    let server = TestServer::configured(|config| config.max_packet_bytes = 100_000).await;
    for protocol in [Protocol::Socket, Protocol::WebSocket] {
        let auth = |length: usize| {
            let frame = r#"{"auth":{"dt":{"client_name":"a","x":""}}}"#.len();
            format!(r#"{{"auth":{{"dt":{{"client_name":"a","x":"{}"}}}}}}"#, "x".repeat(length - frame))
        };
        let mut client = server.open(protocol).await;
        client.send(&auth(16_384)).await;
        client.expect(r#"{"authAck":{"st":1,"at":"token-a","cl":"a"}}"#).await;
        client.send(&auth(16_385)).await;
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
