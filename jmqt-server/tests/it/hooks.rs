//! What an application may do in addition to allowing and refusing: change messages, and receive notices of new
//! sessions and stored messages. Also the default validators.

use std::sync::Arc;

use jmqt_server::{
    AllowAll, BoxError, Config, DenyAll, OpenNotice, OpenNotifier, Protocol, PubRequest, PubValidator,
    PubVerdict, Publish, Retain, Server, ServerBuilder, StoredNotice, StoredNotifier, async_trait,
};
use tokio::net::TcpStream;
use tokio::sync::mpsc;

use crate::support::{Client, channel, within};

/// Records its notices, and changes messages that request it.
struct App(mpsc::UnboundedSender<String>);

#[async_trait]
impl OpenNotifier for App {
    async fn on_open(&self, notice: &OpenNotice<'_>) -> Result<(), BoxError> {
        self.0.send(format!("{} opened", notice.client))?;
        // It comes after the connAck, and the client can be published to.
        let hello = Publish::json(channel("#alice"), &"hello")?;
        notice.server.force_pub(hello).await?;
        if notice.client.as_str() == "mallory" { panic!("as the test wants it") } else { Ok(()) }
    }
}

#[async_trait]
impl StoredNotifier for App {
    async fn on_stored(&self, notice: &StoredNotice<'_>) -> Result<(), BoxError> {
        let client = notice.client.map_or("the server", |client| client.as_str());
        let retained = if notice.retain == Retain::Yes { " retained" } else { "" };
        self.0.send(format!("{client} stored {} in {}{retained}", notice.data.as_str(), notice.channel))?;
        if notice.data.as_str() == "0" { Err("it failed, because it was told to".into()) } else { Ok(()) }
    }
}

#[async_trait]
impl PubValidator for App {
    async fn validate_pub(&self, request: &PubRequest<'_>) -> Result<PubVerdict, BoxError> {
        Ok(match request.data.as_str() {
            r#""stamp""# => PubVerdict::replace(&["stamp", "12:00"])?,
            r#""exact""# => PubVerdict::replace_raw(" 1.50 ")?,
            r#""huge""# => PubVerdict::replace(&"x".repeat(5 << 20))?,
            r#""deep""# => PubVerdict::replace_raw(&("[".repeat(129) + &"]".repeat(129)))?,
            _ => PubVerdict::Allow,
        })
    }
}

struct Running {
    server: Server,
    heard: mpsc::UnboundedReceiver<String>,
    _folder: tempfile::TempDir,
}

/// A server with the required validators; `add` sets others.
async fn start(add: impl FnOnce(ServerBuilder, Arc<App>) -> ServerBuilder) -> Running {
    let folder = tempfile::tempdir().unwrap();
    let mut config = Config::default();
    config.sqlite_path = folder.path().join("jmqt.db");
    (config.bind_address, config.socket_port) = ([127, 0, 0, 1].into(), Some(0));
    config.websocket_port = None;
    let (tell, heard) = mpsc::unbounded_channel();
    let app = Arc::new(App(tell));
    let builder = Server::builder(config)
        .validate_auth(DenyAll)
        .validate_conn(AllowAll)
        .validate_sub(AllowAll)
        .validate_pub(Arc::clone(&app));
    let server = add(builder, app).start().await.unwrap();
    Running { server, heard, _folder: folder }
}

impl Running {
    async fn connect(&self, name: &str) -> Client {
        let address = self.server.local_addr(Protocol::Socket).unwrap();
        let mut client = Client::new(Protocol::Socket, TcpStream::connect(address).await.unwrap());
        client.send(&format!(r#"{{"conn":{{"at":"","cl":"{name}"}}}}"#)).await;
        client.expect(r#"{"connAck":{"st":1,"ts":60}}"#).await;
        client
    }

    async fn expect_heard(&mut self, line: &str) {
        assert_eq!(within(line, self.heard.recv()).await.unwrap(), line);
    }
}

#[tokio::test] // §7.k: channel, publisher, QoS, flag and id stay
async fn a_pub_validator_may_change_the_data_of_a_message() {
    let run = start(|builder, _| builder).await;
    let (mut alice, mut bob) = (run.connect("alice").await, run.connect("bob").await);
    bob.sub_persistent("news").await;
    alice.send(r#"{"pub":{"cn":"news","dt":"stamp"}}"#).await;
    bob.expect(r#"{"push":{"cn":"news","dt":["stamp","12:00"],"cl":"alice"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":"exact","q":1,"id":"7","rt":1}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"7"}}"#).await;
    bob.expect_push(r#"{"push":{"cn":"news","dt":1.50,"cl":"alice","q":1,"id":"*"}}"#).await;
    let mut carol = run.connect("carol").await;
    carol.send(r#"{"sub":{"cn":"news"}}"#).await;
    carol.expect(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    carol.expect(r#"{"push":{"cn":"news","dt":1.50,"cl":"alice","rt":1}}"#).await;
    alice.send(r##"{"pub":{"cn":"#bob","dt":"stamp"}}"##).await;
    bob.expect(r##"{"push":{"cn":"#bob","dt":["stamp","12:00"],"cl":"alice"}}"##).await;
}

#[tokio::test] // protocol.md 2.5, 2.17: nobody gets what clients could not read
async fn data_that_is_too_large_or_too_deep_is_a_validator_error() {
    let run = start(|builder, _| builder).await;
    let mut alice = run.connect("alice").await;
    for wrong in ["huge", "deep"] {
        alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":"{wrong}","q":1,"id":"7"}}}}"#)).await;
        alice.expect(r#"{"pubAck":{"st":5,"id":"7"}}"#).await;
    }
    assert_eq!(run.server.handle().counters().validator_failures, 2);
}

#[tokio::test] // §7.d
async fn the_open_notifier_runs_after_the_conn_ack_and_before_later_packets() {
    let mut run = start(|builder, app| builder.on_open(app)).await;
    let mut alice = run.connect("alice").await;
    run.expect_heard("alice opened").await;
    alice.expect(r##"{"push":{"cn":"#alice","dt":"hello","cl":""}}"##).await;
    alice.expect_nothing_before_hb().await;
    let mut mallory = run.connect("mallory").await; // the notifier panics, the session goes on
    run.expect_heard("mallory opened").await;
    mallory.expect_nothing_before_hb().await;
    assert_eq!(run.server.handle().counters().validator_failures, 1);
}

#[tokio::test] // protocol.md 2.13
async fn the_stored_notifier_receives_only_qos_1_messages_in_order() {
    let mut run = start(|builder, app| builder.on_stored(app)).await;
    let (mut alice, mut bob) = (run.connect("alice").await, run.connect("bob").await);
    bob.sub_persistent("news").await;
    alice.send(r#"{"pub":{"cn":"news","dt":"not stored"}}"#).await;
    alice.pub1("news", "0").await; // the notifier fails, and hears of the next one all the same
    alice.pub1("news", "1").await;
    alice.pub1("nobody", "2").await;
    alice.send(r#"{"pub":{"cn":"news","dt":"stamp","q":1,"id":"8","rt":1}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"8"}}"#).await;
    let own = Publish::raw(channel("news"), "3").unwrap().at_least_once();
    run.server.handle().force_pub(own).await.unwrap();
    run.expect_heard("alice stored 0 in news").await;
    run.expect_heard("alice stored 1 in news").await;
    run.expect_heard("alice stored 2 in nobody").await;
    run.expect_heard(r#"alice stored ["stamp","12:00"] in news retained"#).await;
    run.expect_heard("the server stored 3 in news").await;
    alice.pub1("news", "4").await;
    run.server.shutdown().await; // what waits is told before it ends
    assert_eq!(run.heard.recv().await.unwrap(), "alice stored 4 in news");
    assert_eq!(run.heard.recv().await, None);
}

#[tokio::test] // §7.i, §9.d, §9.f
async fn default_validators_allow_unsub_and_have_no_control_channels() {
    let run = start(|builder, _| builder).await;
    let mut alice = run.connect("alice").await;
    alice.send(r#"{"sub":{"cn":"news"}}"#).await;
    alice.expect(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    alice.send(r#"{"unsub":{"cn":"news"}}"#).await;
    alice.expect(r#"{"unsubAck":{"st":1,"cn":"news"}}"#).await;
    alice.send(r#"{"pub":{"cn":"$list","id":"2"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":11,"id":"2"}}"#).await;
    alice.send(r#"{"disconn":{}}"#).await;
    alice.closed().await;
}
