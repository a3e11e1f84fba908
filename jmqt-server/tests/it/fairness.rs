//! No client waits for another: a busy session yields to others (protocol.md 2.10).
//!
//! These tests run on one thread, which a session that does not yield would occupy.

use std::time::Duration;

use crate::support::{Asked, Client, Incoming, TestServer, channel};
use jmqt_server::{BoxError, CloseReason, ConnVerdict, ControlReply, Persistence, StatusCode};

const REQUESTS: usize = 100;
const CHANNELS: usize = 40_000;

/// Round trips of this client, until it is told to end.
async fn round_trips(client: &mut Client, over: impl Future<Output = ()>) -> usize {
    let mut count = 0;
    tokio::pin!(over);
    loop {
        let trip = async {
            client.send(r#"{"hb":{}}"#).await;
            client.expect(r#"{"hbAck":{}}"#).await;
        };
        tokio::pin!(trip);
        tokio::select! {
            biased;
            () = &mut trip => count += 1,
            () = &mut over => {
                trip.await;
                return count;
            }
        }
    }
}

#[tokio::test]
async fn others_are_answered_while_pipelined_requests_are_handled() {
    let server = TestServer::start().await;
    server.app.on_control(|_| async {
        std::thread::sleep(Duration::from_millis(2)); // it computes
        Ok::<_, BoxError>(ControlReply::status(StatusCode::OK))
    });
    let mut alice = server.connect("alice").await;
    let mut mallory = server.connect("mallory").await;
    mallory.send_all(&[r#"{"pub":{"cn":"$list","id":"1"}}"#; REQUESTS]).await;
    server.app.asked(Asked::Control).await;
    alice.expect_nothing_before_hb().await;
    let handled = 1 + server.app.times_asked(Asked::Control).await;
    assert!(handled < REQUESTS, "alice waited for all {handled} requests");
    for _ in 0..REQUESTS {
        mallory.expect(r#"{"pubAck":{"st":1,"id":"1"}}"#).await;
    }
}

#[tokio::test]
async fn others_are_answered_while_a_client_with_many_subscriptions_reconnects() {
    let server = TestServer::start().await;
    server.app.on_conn(|request| {
        if request.client.as_str() == "mallory" {
            for number in 0..CHANNELS {
                request.server.force_sub(&channel(&format!("room {number}")), Persistence::Temporary)?;
            }
        }
        Ok(ConnVerdict::accept())
    });
    let mut alice = server.connect("alice").await;
    let mut mallory = server.open(jmqt_server::Protocol::Socket).await;
    mallory.send(r#"{"conn":{"at":"","cl":"mallory"}}"#).await;
    let coming = async {
        assert!(matches!(mallory.incoming().await, Incoming::Packet(_)));
    };
    let while_it_came = round_trips(&mut alice, coming).await;
    drop(mallory);
    let while_it_went =
        round_trips(&mut alice, server.app.expect_close("mallory", CloseReason::ClosedByClient)).await;
    assert!(while_it_came >= 10 && while_it_went >= 10, "{while_it_came} and {while_it_went} round trips");
}
