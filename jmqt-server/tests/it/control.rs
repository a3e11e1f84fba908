//! Control channels: requests to the application (§9.d, protocol.md 2.7, 2.17, 2.19).

use crate::support::{Asked, TestServer, channel};
use jmqt_server::{ControlReply, Persistence, Publish, StatusCode};

#[tokio::test] // §9.d
async fn a_request_is_answered_in_its_pub_ack() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"pub":{"cn":" $echo ","dt": {"b":1.50,"a":[]} ,"id":"1"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"1","dt":{"b":1.50,"a":[]}}}"#).await;
    assert_eq!(server.app.asked(Asked::Control).await, "$echo");
    alice.send(r#"{"pub":{"cn":"$echo","id":"2"}}"#).await; // without data
    alice.expect(r#"{"pubAck":{"st":1,"id":"2"}}"#).await;
    alice.send(r#"{"pub":{"cn":"$echo","dt":null,"q":1,"id":3}}"#).await; // QoS is no matter
    alice.expect(r#"{"pubAck":{"st":1,"id":"3","dt":null}}"#).await;
    assert_eq!(server.app.times_asked(Asked::Pub).await, 0); // it is not asked about these
}

#[tokio::test] // §9.d
async fn the_handler_chooses_status_and_data() {
    let server = TestServer::start().await;
    server.app.on_control(|request| async move {
        Ok(match request.channel.as_str() {
            "$who" => ControlReply::ok(&request.client.as_str())?,
            "$odd" => ControlReply::with_json(StatusCode::new(42), "[ 1.0 ]")?,
            _ => ControlReply::status(StatusCode::INVALID_CHANNEL),
        })
    });
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"pub":{"cn":"$who","id":"1"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"1","dt":"alice"}}"#).await;
    alice.send(r#"{"pub":{"cn":"$odd","id":"2"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":42,"id":"2","dt":[ 1.0 ]}}"#).await;
    alice.send(r#"{"pub":{"cn":"$none","id":"3"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":11,"id":"3"}}"#).await;
}

#[tokio::test] // protocol.md 2.19
async fn a_request_without_id_is_answered_with_10_and_not_handled() {
    let server = TestServer::start().await;
    let mut alice = server.connect("alice").await;
    for request in [
        r#"{"pub":{"cn":"$echo","dt":1}}"#,
        r#"{"pub":{"cn":"$echo","dt":1,"q":1}}"#,
        r#"{"pub":{"cn":"$echo","dt":1,"id":null}}"#,
    ] {
        alice.send(request).await;
        alice.expect(r#"{"pubAck":{"st":10}}"#).await;
    }
    assert_eq!(server.app.times_asked(Asked::Control).await, 0);
}

#[tokio::test] // §9.e: the handler may use the server's own side
async fn the_handler_may_subscribe_and_publish_for_its_client() {
    let server = TestServer::start().await;
    server.app.on_control(|request| async move {
        let feed = channel("feed");
        request.server.force_sub(&request.client, &feed, Persistence::Temporary).await?;
        request.server.force_pub(Publish::raw(feed, r#""welcome""#)?).await?;
        Ok(ControlReply::status(StatusCode::OK))
    });
    let mut alice = server.connect("alice").await;
    alice.send(r#"{"pub":{"cn":"$join","id":"1"}}"#).await;
    let mut answers = [alice.next().await, alice.next().await];
    answers.sort(); // what was pushed meanwhile may come before the answer
    assert_eq!(
        answers,
        [r#"{"pubAck":{"st":1,"id":"1"}}"#, r#"{"push":{"cn":"feed","dt":"welcome","cl":""}}"#]
    );
}

#[tokio::test] // §9.d: to others, a control channel does not exist
async fn a_request_is_not_visible_to_other_clients() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.send(r#"{"sub":{"cn":"$echo"}}"#).await;
    bob.expect(r#"{"subAck":{"st":11,"cn":"$echo"}}"#).await;
    alice.send(r#"{"pub":{"cn":"$echo","dt":1,"id":"1"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"1","dt":1}}"#).await;
    bob.expect_nothing_before_hb().await;
}

#[tokio::test] // protocol.md 2.10: a batch of requests around others
async fn earlier_publishes_are_delivered_before_the_answer_to_a_request() {
    let server = TestServer::start().await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub("news").await;
    alice.send_all(&[r#"{"pub":{"cn":"news","dt":1}}"#, r#"{"pub":{"cn":"$echo","id":"1"}}"#]).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"1"}}"#).await;
    bob.send(r#"{"hb":{}}"#).await;
    bob.expect(r#"{"push":{"cn":"news","dt":1,"cl":"alice"}}"#).await;
    bob.expect(r#"{"hbAck":{}}"#).await;
}
