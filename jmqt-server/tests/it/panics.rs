//! A panic fails one request or ends one connection, and leaves nothing behind (protocol.md 2.16, 2.17).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use crate::support::{Client, TestApp, client_id, within};
use jmqt_server::{
    BoxError, CloseNotice, CloseNotifier, Config, Protocol, PubRequest, PubValidator, PubVerdict, Server,
    SubRequest, SubValidator, Verdict,
};

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, BoxError>> + Send + 'a>>;

/// Panics before it returns a future, as only a validator that is written without `async_trait` can.
struct PanicsAtOnce;

impl PubValidator for PanicsAtOnce {
    fn validate_pub<'a, 'b, 'c, 'f>(&'a self, _: &'b PubRequest<'c>) -> Answer<'f, PubVerdict>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        panic!("as the test wants it")
    }
}

impl CloseNotifier for PanicsAtOnce {
    fn on_close<'a, 'b, 'c, 'f>(&'a self, _: &'b CloseNotice<'c>) -> Answer<'f, ()>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        panic!("as the test wants it")
    }
}

/// Never answers, and panics when it is dropped.
struct PanicsWhenDropped;

struct Never;

impl Future for Never {
    type Output = Result<Verdict, BoxError>;

    fn poll(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Pending
    }
}

impl Drop for Never {
    fn drop(&mut self) {
        panic!("as the test wants it")
    }
}

impl SubValidator for PanicsWhenDropped {
    fn validate_sub<'a, 'b, 'c, 'f>(&'a self, _: &'b SubRequest<'c>) -> Answer<'f, Verdict>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        Box::pin(Never)
    }
}

async fn connect(server: &Server, protocol: Protocol) -> Client {
    let stream = tokio::net::TcpStream::connect(server.local_addr(protocol).unwrap()).await.unwrap();
    let mut client = Client::new(protocol, stream);
    client.conn_as("alice", "").await;
    client
}

#[tokio::test] // protocol.md 2.17
async fn a_validator_panic_at_once_or_on_drop_fails_one_request() {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.bind_address = [127, 0, 0, 1].into();
    (config.socket_port, config.websocket_port) = (Some(0), None);
    config.sqlite_path = folder.path().join("jmqt.db");
    config.validator_timeout = Duration::from_millis(200);
    let builder = Server::builder(config).app(TestApp::new());
    let server = builder
        .validate_pub(PanicsAtOnce)
        .validate_sub(PanicsWhenDropped)
        .on_close(PanicsAtOnce)
        .start()
        .await
        .unwrap();
    let mut alice = connect(&server, Protocol::Socket).await;
    alice.send(r#"{"pub":{"cn":"news","dt":1,"q":1,"id":"1"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":5,"id":"1"}}"#).await;
    alice.send(r#"{"sub":{"cn":"news"}}"#).await;
    alice.expect(r#"{"subAck":{"st":5,"cn":"news"}}"#).await;
    alice.expect_nothing_before_hb().await;
    // A validator that is not waited for to the end is dropped too.
    alice.send(r#"{"sub":{"cn":"news"}}"#).await;
    let mut again = connect(&server, Protocol::Socket).await;
    alice.closed().await;
    again.expect_nothing_before_hb().await;
    drop(again);
    let ended = async {
        while server.handle().is_connected(&client_id("alice")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    within("the end of the session", ended).await;
    within("the shutdown", server.shutdown()).await;
}
