//! Opening a session: calls of the validator, and the order of the first packets (protocol.md 2.2, 2.3).

use crate::support::{TestServer, channel, client_id};
use jmqt_server::{CloseReason, ConnVerdict, Persistence, Protocol, Publish};

#[tokio::test] // protocol.md 2.2
async fn calls_of_the_validator_take_effect_after_the_conn_ack() {
    let server = TestServer::start().await;
    server.app.on_conn(|request| {
        request.server.force_sub(&channel("update"), Persistence::Persistent)?;
        request.server.force_pub(Publish::raw(channel("update"), "\"hello\"")?)?;
        request.server.force_sub(&channel("gone"), Persistence::Temporary)?;
        request.server.force_unsub(&channel("gone"))?;
        Ok(ConnVerdict::accept().subscribe(channel("made"), Persistence::Temporary))
    });
    let mut alice = server.open(Protocol::Socket).await;
    alice.conn_as("alice", "").await; // the connAck comes first
    alice.expect(r#"{"push":{"cn":"update","dt":"hello","cl":""}}"#).await;
    let subscriptions = server.handle().subscriptions(&client_id("alice")).await.unwrap();
    assert_eq!(
        subscriptions,
        [
            (channel("#alice"), Persistence::Temporary),
            (channel("made"), Persistence::Temporary),
            (channel("update"), Persistence::Persistent),
        ]
    );
}

#[tokio::test] // protocol.md 2.3
async fn pending_pushes_come_first_then_retained_messages_then_live_ones() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    let mut bob = server.connect("bob").await;
    for name in ["a", "b"] {
        bob.sub_persistent(name).await;
    }
    drop(bob);
    server.app.expect_close("bob", CloseReason::ClosedByClient).await;
    for number in 0..3 {
        alice.pub1("a", &format!("\"a{number}\"")).await;
        alice.pub1("b", &format!("\"b{number}\"")).await;
    }
    alice.send(r#"{"pub":{"cn":"a","dt":"kept","rt":1}}"#).await;
    let mut bob = server.websocket("bob").await; // no careful portions there
    let pushes = bob.next_pushes(7).await;
    let of = |name: &str| -> Vec<String> {
        let of: Vec<_> = pushes[..6].iter().filter(|push| push.channel() == name).collect();
        of.iter().map(|push| push.data().to_owned()).collect()
    };
    assert_eq!(of("a"), ["\"a0\"", "\"a1\"", "\"a2\""]);
    assert_eq!(of("b"), ["\"b0\"", "\"b1\"", "\"b2\""]);
    assert_eq!(pushes[6].text(), r#"{"push":{"cn":"a","dt":"kept","cl":"alice","rt":1}}"#);
}
