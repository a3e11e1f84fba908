//! Tests of message order while sessions and subscriptions begin, end or change (protocol.md 2.2, 2.3, 2.10, 2.14,
//! 2.20). They run whole servers whose store waits at a gate until the test has done its next step.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use jmqt_core::{ChannelName, ClientId, Persistence, Qos};
use jmqt_mqtt::Filter;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::timeout;

use super::*;
use crate::config::Synchronous;
use crate::connection::ConnectionInfo;
use crate::hub::readers::IdleReaders;
use crate::hub::{MqttSession, NewSession};
use crate::outbox::{Outbox, Redelivery};
use crate::store::owner_of;
use crate::store::{
    Attributes, BeginSession, ChannelKey, CursorUpdate, Due, Epoch, Exchanges, Expired, Forgotten, IsAway,
    LogPart, Operation, Outcome, PendingLimits, Retained, RetainedLimits, Sent, Seq, SessionRow,
    SqliteOptions, SqliteStore, StoreError, StoredFilter, StoredSession, StoredSubscription, StoredTotals,
    StoredWill, Swept, Unanswered, UnderPrefix, WILLS_AT_A_TIME, WillKey,
};
use crate::wire::Form;
use crate::{
    AllowAll, AuthRequest, AuthToken, AuthValidator, AuthVerdict, BoxError, ConnRequest, ConnValidator,
    ConnVerdict, Publish,
};

/// A gate at which the store waits while it is closed.
struct Gate {
    is_open: watch::Sender<bool>,
    waiting: watch::Sender<usize>,
}

impl Gate {
    fn new() -> Self {
        Self { is_open: watch::Sender::new(true), waiting: watch::Sender::new(0) }
    }

    fn close(&self) {
        self.is_open.send_replace(false);
    }

    fn open(&self) {
        self.is_open.send_replace(true);
    }

    async fn pass(&self) {
        self.waiting.send_modify(|waiting| *waiting += 1);
        self.is_open.subscribe().wait_for(|is_open| *is_open).await.unwrap();
        self.waiting.send_modify(|waiting| *waiting -= 1);
    }

    /// Waits until the store has reached the gate.
    async fn reached(&self) {
        within(self.waiting.subscribe().wait_for(|waiting| *waiting > 0)).await.unwrap();
    }
}

async fn within<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(60), work).await.expect("it takes too long")
}

struct Gated {
    store: SqliteStore,
    /// Before a batch is committed.
    commit: Gate,
    /// The next batch fails.
    fails: AtomicBool,
    /// Wills for the channel `refused` fail.
    refuses_wills: AtomicBool,
    /// After a retained message was read.
    retained: Gate,
}

#[async_trait]
impl Store for Gated {
    async fn commit(&self, batch: &[Operation]) -> Result<Vec<Outcome>, StoreError> {
        self.commit.pass().await;
        if self.fails.swap(false, Ordering::SeqCst) {
            return Err(StoreError::TimedOut(Duration::ZERO));
        }
        let is_refused = |operation: &Operation| matches!(operation, Operation::FireWill(fire) if fire.append.channel.as_str() == "refused");
        if self.refuses_wills.load(Ordering::SeqCst) && batch.iter().any(is_refused) {
            return Err(StoreError::Corrupt { what: "will" });
        }
        self.store.commit(batch).await
    }

    async fn read_retained(&self, channel: &ChannelName) -> Result<Option<Retained>, StoreError> {
        let read = self.store.read_retained(channel).await;
        self.retained.pass().await;
        read
    }

    async fn retained_under(
        &self,
        prefix: &str,
        after: Option<&ChannelName>,
    ) -> Result<Vec<UnderPrefix>, StoreError> {
        self.store.retained_under(prefix, after).await
    }

    fn epoch(&self) -> Epoch {
        self.store.epoch()
    }

    async fn session(&self, client: &ClientId) -> Result<Option<StoredSession>, StoreError> {
        self.store.session(client).await
    }

    async fn session_owner(&self, client: &ClientId) -> Result<Option<Box<str>>, StoreError> {
        self.store.session_owner(client).await
    }

    async fn uncheck_sessions(&self, after: Option<&ClientId>) -> Result<Option<ClientId>, StoreError> {
        self.store.uncheck_sessions(after).await
    }

    async fn subscriptions(&self, client: &ClientId) -> Result<Vec<StoredSubscription>, StoreError> {
        self.store.subscriptions(client).await
    }

    async fn subscription(
        &self,
        client: &ClientId,
        channel: &ChannelName,
    ) -> Result<Option<StoredSubscription>, StoreError> {
        self.store.subscription(client, channel).await
    }

    async fn has_group(&self, owner: &ClientId) -> Result<bool, StoreError> {
        self.store.has_group(owner).await
    }

    async fn filters(&self, client: &ClientId) -> Result<Vec<StoredFilter>, StoreError> {
        self.store.filters(client).await
    }

    async fn exchanges(&self, client: &ClientId) -> Result<Exchanges, StoreError> {
        self.store.exchanges(client).await
    }

    fn may_have_retained(&self, channel: &ChannelName) -> bool {
        self.store.may_have_retained(channel)
    }

    async fn read_log(
        &self,
        key: ChannelKey,
        after: Seq,
        messages: usize,
        bytes: usize,
    ) -> Result<LogPart, StoreError> {
        self.store.read_log(key, after, messages, bytes).await
    }

    async fn save_cursors(&self, updates: &[CursorUpdate]) -> Result<(), StoreError> {
        self.store.save_cursors(updates).await
    }

    async fn forget_sent(&self, complete: &[Sent]) -> Result<(), StoreError> {
        self.store.forget_sent(complete).await
    }

    async fn trim(&self, channels: &[ChannelKey]) -> Result<u64, StoreError> {
        self.store.trim(channels).await
    }

    async fn sessions_opened(&self, sessions: &[SessionRow]) -> Result<(), StoreError> {
        self.store.sessions_opened(sessions).await
    }

    async fn sessions_closed(
        &self,
        sessions: &[(ClientId, u64)],
        node: &str,
        unanswered: Unanswered,
    ) -> Result<(), StoreError> {
        self.store.sessions_closed(sessions, node, unanswered).await
    }

    async fn end_wills(
        &self,
        sessions: &[(ClientId, u64)],
        node: &str,
        at_least: u32,
    ) -> Result<(), StoreError> {
        self.store.end_wills(sessions, node, at_least).await
    }

    async fn delete_wills(&self, sessions: &[(ClientId, u64)], node: &str) -> Result<(), StoreError> {
        self.store.delete_wills(sessions, node).await
    }

    async fn due_wills(
        &self,
        of: Option<&ClientId>,
        now: SystemTime,
        skip: usize,
    ) -> Result<Vec<StoredWill>, StoreError> {
        self.store.due_wills(of, now, skip).await
    }

    async fn claim_orphans(&self, node: &str) -> Result<Vec<SessionRow>, StoreError> {
        self.store.claim_orphans(node).await
    }

    async fn orphan_closed(&self, session: &SessionRow) -> Result<(), StoreError> {
        self.store.orphan_closed(session).await
    }

    async fn expire(&self, due: Due, is_away: &mut IsAway<'_>) -> Result<Vec<Expired>, StoreError> {
        self.store.expire(due, is_away).await
    }

    async fn limit_pending(
        &self,
        limits: PendingLimits,
        after: Option<&ClientId>,
    ) -> Result<Swept, StoreError> {
        self.store.limit_pending(limits, after).await
    }

    async fn forget_publishers(&self, now: SystemTime) -> Result<Forgotten, StoreError> {
        self.store.forget_publishers(now).await
    }

    async fn expired_retained(&self, now: SystemTime) -> Result<Vec<ChannelName>, StoreError> {
        self.store.expired_retained(now).await
    }

    async fn totals(&self) -> Result<StoredTotals, StoreError> {
        self.store.totals().await
    }

    async fn close(&self) {
        self.store.close().await;
    }
}

/// The validator publishes a message when client `busy` connects; it must be stored before the `connAck`.
struct PublishesAtFirst;

#[async_trait]
impl ConnValidator for PublishesAtFirst {
    async fn validate_conn(&self, request: &ConnRequest<'_>) -> Result<ConnVerdict, BoxError> {
        if request.client.as_str() == "busy" {
            request.server.force_pub(Publish::json(channel("hello"), &1)?.at_least_once())?;
        }
        Ok(ConnVerdict::accept())
    }
}

/// MQTT clients are who they say.
#[async_trait]
impl AuthValidator for PublishesAtFirst {
    async fn validate_auth(&self, request: &AuthRequest<'_>) -> Result<AuthVerdict, BoxError> {
        let connect = request.mqtt().ok_or("a client asks for a token")?;
        Ok(AuthVerdict::grant(ClientId::parse(connect.client_id)?, AuthToken::new("")))
    }
}

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

fn client(id: &str) -> ClientId {
    ClientId::parse(id).unwrap()
}

struct Started {
    _folder: tempfile::TempDir,
    server: Server,
    store: Arc<Gated>,
}

impl Started {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config =
            Config { bind_address: [127, 0, 0, 1].into(), mqtt_on_jmqt_ports: true, ..Config::default() };
        let path = folder.path().join("jmqt.db");
        let store = SqliteStore::open(SqliteOptions {
            path,
            synchronous: Synchronous::Normal,
            retained: RetainedLimits::default(),
        })
        .await
        .unwrap();
        let (commit, retained) = (Gate::new(), Gate::new());
        let (fails, refuses_wills) = (AtomicBool::new(false), AtomicBool::new(false));
        let store = Arc::new(Gated { store, commit, fails, refuses_wills, retained });
        let builder = Server::builder(config.clone())
            .validate_auth(PublishesAtFirst)
            .validate_conn(PublishesAtFirst)
            .validate_sub(AllowAll);
        let validators = builder.validate_pub(AllowAll).validators().unwrap();
        let listener = Listener::bind(([127, 0, 0, 1], 0).into(), Protocol::Socket, None).unwrap();
        let backend = Backend::Alone(Arc::clone(&store) as Arc<dyn Store>);
        let server = Server::start(&config, validators, backend, vec![listener]).await.unwrap();
        Self { _folder: folder, server, store }
    }

    async fn open(&self) -> Client {
        let address = self.server.local_addr(Protocol::Socket).unwrap();
        Client { stream: TcpStream::connect(address).await.unwrap(), received: Vec::new() }
    }

    async fn connect(&self, name: &str) -> Client {
        let mut client = self.open().await;
        client.send(&format!(r#"{{"conn":{{"at":"","cl":"{name}"}}}}"#)).await;
        assert_eq!(client.next().await, "connAck");
        client
    }

    /// Runs the operation in a separate task.
    fn force_sub(&self, name: &str, to: &str, persistence: Persistence) -> JoinHandle<()> {
        let (handle, client, channel) = (self.server.handle(), client(name), channel(to));
        tokio::spawn(async move { handle.force_sub(&client, &channel, persistence).await.unwrap() })
    }

    async fn retain(&self, to: &str) {
        self.server.handle().force_pub(Publish::json(channel(to), &0).unwrap().retained()).await.unwrap();
        // The next answer shows that the message is in the store.
        let after = Publish::json(channel("after"), &0).unwrap().at_least_once();
        self.server.handle().force_pub(after).await.unwrap();
    }

    /// Waits until all submitted operations are queued behind the operation at the gate.
    async fn waiting(&self, operations: usize) {
        within(async {
            while self.server.shared.hub.commits.waiting() < operations {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
}

struct Client {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Client {
    async fn send(&mut self, text: &str) {
        self.stream.write_all(format!("{text}\0").as_bytes()).await.unwrap();
    }

    /// The type of the next packet; of a push, its channel and data.
    async fn next(&mut self) -> String {
        let packet = self.packet().await;
        let (kind, value) = packet.as_object().unwrap().iter().next().unwrap();
        match kind.as_str() {
            "push" => format!("{} {}", value["cn"].as_str().unwrap(), value["dt"]),
            kind => kind.to_owned(),
        }
    }

    /// The channel and data of the next push, which is acknowledged.
    async fn acknowledge_next(&mut self) -> String {
        let packet = self.packet().await;
        let push = &packet["push"];
        self.send(&format!(r#"{{"pushAck":{{"id":{}}}}}"#, push["id"])).await;
        format!("{} {}", push["cn"].as_str().unwrap(), push["dt"])
    }

    async fn packet(&mut self) -> serde_json::Value {
        loop {
            if let Some(end) = self.received.iter().position(|byte| *byte == 0) {
                let packet: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&packet[..end]).unwrap();
            }
            let mut chunk = [0; 4096];
            let length = within(self.stream.read(&mut chunk)).await.unwrap();
            assert!(length > 0, "the server has closed the connection");
            self.received.extend_from_slice(&chunk[..length]);
        }
    }

    /// All packets before the answer to a heartbeat.
    async fn up_to_now(&mut self) -> Vec<String> {
        self.send(r#"{"hb":{}}"#).await;
        let mut packets = Vec::new();
        loop {
            match self.next().await {
                packet if packet == "hbAck" => return packets,
                packet => packets.push(packet),
            }
        }
    }

    async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn expect_bytes(&mut self, wanted: &[u8]) {
        let mut received = vec![0; wanted.len()];
        within(self.stream.read_exact(&mut received)).await.unwrap();
        assert_eq!(received, wanted);
    }

    /// Takes a PUBLISH with QoS 1 to this topic, and returns its packet identifier.
    async fn published(&mut self, topic: &[u8], number: u32) -> [u8; 2] {
        let mut received = vec![0; 2 + topic.len() + 3];
        within(self.stream.read_exact(&mut received)).await.unwrap();
        let (start, rest) = received.split_at(2 + topic.len());
        assert_eq!(
            (start[0], &start[2..], char::from(rest[2])),
            (0x32, topic, char::from_digit(number, 10).unwrap())
        );
        [rest[0], rest[1]]
    }

    async fn expect_end(&mut self) {
        let mut received = Vec::new();
        within(self.stream.read_to_end(&mut received)).await.unwrap();
        assert!(received.is_empty(), "{received:?}");
    }

    async fn publish(&mut self, to: &str, data: u32) {
        self.send(&format!(r#"{{"pub":{{"cn":"{to}","dt":{data},"q":1,"id":"{data}"}}}}"#)).await;
    }
}

#[tokio::test] // protocol.md 2.2, 2.3
async fn messages_of_forced_subscriptions_come_after_the_conn_ack() {
    let started = Started::new().await;
    started.retain("news").await;
    started.store.commit.close();
    let mut busy = started.open().await;
    busy.send(r#"{"conn":{"at":"","cl":"busy"}}"#).await;
    started.store.commit.reached().await; // the client is connecting
    within(started.force_sub("busy", "news", Persistence::Temporary)).await.unwrap();
    started.store.commit.open();
    assert_eq!(busy.next().await, "connAck");
    assert_eq!(busy.next().await, "news 0");
    started.server.shutdown().await;
}

#[tokio::test] // protocol.md 2.12, 2.20
async fn no_retained_message_comes_after_force_unsub_has_returned() {
    let started = Started::new().await;
    started.retain("news").await;
    started
        .server
        .handle()
        .force_sub(&client("bob"), &channel("news"), Persistence::Persistent)
        .await
        .unwrap();
    started.store.retained.close();
    let mut bob = started.connect("bob").await;
    started.store.retained.reached().await; // the retained message has been read, but not sent
    assert!(started.server.handle().force_unsub(&client("bob"), &channel("news")).await.unwrap());
    started.store.retained.open();
    assert_eq!(bob.up_to_now().await, [""; 0]);
    started.server.shutdown().await;
}

#[tokio::test] // protocol.md 2.3, 2.10
async fn no_message_comes_before_the_sub_ack_while_the_retained_message_is_read() {
    let started = Started::new().await;
    started.retain("news").await;
    let mut alice = started.connect("alice").await;
    let mut bob = started.connect("bob").await;
    bob.send(r#"{"sub":{"cn":"other"}}"#).await;
    assert_eq!(bob.next().await, "subAck");
    started.store.retained.close();
    bob.send(r#"{"sub":{"cn":"news"}}"#).await;
    started.store.retained.reached().await;
    alice.publish("news", 1).await;
    // The outbox writes something, so that a message that waits for room would follow.
    alice.publish("other", 2).await;
    assert_eq!((alice.next().await, alice.next().await), ("pubAck".into(), "pubAck".into()));
    assert_eq!(bob.next().await, "other 2");
    started.server.handle().force_pub(Publish::json(channel("other"), &3).unwrap()).await.unwrap();
    assert_eq!(bob.next().await, "other 3");
    started.store.retained.open();
    let packets = [bob.next().await, bob.next().await, bob.next().await];
    assert_eq!(packets, ["subAck", "news 0", "news 1"]);
    started.server.shutdown().await;
}

#[tokio::test] // protocol.md 2.14, 2.20
async fn messages_committed_with_a_change_of_persistence_are_pushed_once() {
    for to in [Persistence::Persistent, Persistence::Temporary] {
        // With another persistent subscriber, all messages are logged; otherwise only those that may be read again.
        for has_log in [true, false] {
            let started = Started::new().await;
            if has_log {
                let carol = started.force_sub("carol", "news", Persistence::Persistent);
                within(carol).await.unwrap();
            }
            let mut alice = started.connect("alice").await;
            let mut bob = started.connect("bob").await;
            let persistent = u8::from(to == Persistence::Temporary);
            bob.send(&format!(r#"{{"sub":{{"cn":"news","pr":{persistent}}}}}"#)).await;
            assert_eq!(bob.next().await, "subAck");

            started.store.commit.close();
            alice.publish("other", 1).await;
            started.store.commit.reached().await;
            // All of these are in one batch, after the first.
            alice.publish("news", 2).await;
            started.waiting(1).await;
            let changed = started.force_sub("bob", "news", to);
            started.waiting(2).await;
            alice.publish("news", 3).await;
            started.waiting(3).await;
            started.store.commit.open();
            within(changed).await.unwrap();
            alice.publish("news", 4).await;
            for _ in 1..=4 {
                assert_eq!(alice.next().await, "pubAck");
            }
            let mut pushes = Vec::new();
            while pushes.last().is_none_or(|last| last != "news 4") {
                pushes.push(bob.next().await);
            }
            pushes.append(&mut bob.up_to_now().await);
            assert_eq!(pushes, ["news 2", "news 3", "news 4"], "{to:?}, {has_log}");
            started.server.shutdown().await;
        }
    }
}

/// An MQTT 3.1.1 CONNECT of client `lamp`, whose session is kept.
const MQTT_CONNECT: &[u8] = b"\x10\x10\0\x04MQTT\x04\0\0\0\0\x04lamp";

#[tokio::test] // MQTT 3.8.4: the first of two steps in the store was committed
async fn a_session_resumes_that_was_cut_while_its_subscription_was_raised_from_qos_0() {
    let started = Started::new().await;
    let mut lamp = started.open().await;
    lamp.send_bytes(MQTT_CONNECT).await;
    lamp.expect_bytes(b"\x20\x02\0\0").await;
    lamp.send_bytes(b"\x82\x09\0\x01\0\x04news\0").await;
    lamp.expect_bytes(b"\x90\x03\0\x01\0").await;
    started.store.commit.close();
    lamp.send_bytes(b"\x82\x09\0\x02\0\x04news\x01").await;
    started.store.commit.reached().await;
    assert!(started.server.handle().disconnect(&client("lamp")));
    lamp.expect_end().await;
    started.store.commit.open();
    let mut lamp = started.open().await;
    lamp.send_bytes(MQTT_CONNECT).await;
    lamp.expect_bytes(b"\x20\x02\x01\0").await;
    started.publish_stored("news", 5).await;
    lamp.expect_bytes(b"\x32\x09\0\x04news\xbe\x385").await; // the identifier follows from its place
    let stored = started.store.store.filters(&client("lamp")).await.unwrap();
    assert!(stored.is_empty(), "it has a place in the log instead");
    started.server.shutdown().await;
}

#[tokio::test] // otherwise the session would never expire
async fn a_session_whose_client_gave_up_while_it_began_expires() {
    let started = Started::new().await;
    started.store.commit.close();
    let hub = Arc::clone(&started.server.shared.hub);
    let opening = tokio::spawn(async move {
        let outbox = Arc::new(Outbox::new(Form::JmqtNul, None, Arc::clone(&hub.context)));
        let lamp = client("lamp");
        let opened = hub.open_session(NewSession {
            owner: None,
            checked: None,
            client: &lamp,
            outbox: &outbox,
            info: ConnectionInfo { remote: ([127, 0, 0, 1], 1).into(), protocol: Protocol::Mqtt },
            window: 128,
            redelivery: Redelivery::AtOnce,
            recorded: Vec::new(),
            takeovers_per_second: None,
            mqtt: Some(MqttSession { is_clean: false, expiry: 60, will: None }),
        });
        drop(opened.await);
    });
    started.store.commit.reached().await;
    opening.abort();
    drop(opening.await);
    started.store.commit.open();
    let due = Due { seen_before: None, now: SystemTime::now() + Duration::from_secs(3600) };
    let expired = within(async {
        loop {
            let expired = started.store.store.expire(due, &mut |_| true).await.unwrap();
            if !expired.is_empty() {
                return expired;
            }
            tokio::task::yield_now().await;
        }
    });
    assert_eq!(expired.await, [Expired { client: client("lamp"), subscriptions: 0 }]);
    started.server.shutdown().await;
}

#[tokio::test]
async fn a_long_packet_waits_for_its_turn_and_delays_no_other_client() {
    let started = Started::new().await;
    let (mut bob, mut alice) = (started.connect("bob").await, started.connect("alice").await);
    let turns = Arc::clone(&started.server.shared.long_packets);
    let all = u32::try_from(turns.available_permits()).unwrap();
    let taken = turns.acquire_many_owned(all).await.unwrap();
    bob.send(&format!(r#"{{"sub":{{"cn":"news","more":"{}"}}}}"#, "x".repeat(100_000))).await;
    for number in 0..20 {
        alice.send(&format!(r#"{{"sub":{{"cn":"{number}"}}}}"#)).await;
        assert_eq!(alice.next().await, "subAck");
    }
    let nothing = bob.stream.try_read(&mut [0; 1]).unwrap_err();
    assert_eq!(nothing.kind(), io::ErrorKind::WouldBlock);
    drop(taken);
    assert_eq!(bob.next().await, "subAck");
    started.server.shutdown().await;
}

/// A client with a filter that has received and acknowledged a message, and what the server knows of its reader.
async fn with_an_idle_reader(started: &Started) -> (Client, IdleReaders) {
    let mut me = started.connect("me").await;
    me.send(r#"{"sub":{"cn":"room/+","pr":1,"wc":1}}"#).await;
    assert_eq!(me.next().await, "subAck");
    started.publish_stored("room/1", 1).await;
    assert_eq!(me.acknowledge_next().await, "room/1 1");
    let mut idle = IdleReaders::default();
    within(async {
        while started.cursors("me").await != [(channel("room/1"), true)] {
            tokio::time::sleep(Duration::from_millis(10)).await; // until the cursor is saved
        }
    })
    .await;
    started.server.shared.hub.readers.end_idle(&mut idle).await;
    (me, idle)
}

impl Started {
    async fn publish_stored(&self, to: &str, data: u32) {
        let message = Publish::json(channel(to), &data).unwrap().at_least_once();
        self.server.handle().force_pub(message).await.unwrap();
    }

    /// The channels in which the client has a cursor, and whether all messages there are acknowledged.
    async fn cursors(&self, id: &str) -> Vec<(ChannelName, bool)> {
        let stored = self.store.store.subscriptions(&client(id)).await.unwrap();
        stored
            .into_iter()
            .map(|stored| (stored.channel.clone(), stored.cursor.acked == stored.last))
            .collect()
    }

    /// The channels of the subscriptions and readers in memory.
    fn in_memory(&self, id: &str) -> Vec<String> {
        let outbox = self.server.shared.hub.connections.outbox(id).unwrap();
        let mut names: Vec<_> = outbox.subscriptions().iter().map(|it| it.channel.to_string()).collect();
        names.sort_unstable();
        names
    }
}

#[tokio::test]
async fn an_idle_cursor_of_a_filter_ends_and_no_message_is_missed_or_repeated() {
    let started = Started::new().await;
    let (mut me, mut idle) = with_an_idle_reader(&started).await;
    let before = started.in_memory("me").len();
    started.server.shared.hub.readers.end_idle(&mut idle).await;
    assert_eq!(started.cursors("me").await, []);
    assert_eq!(started.in_memory("me").len(), before - 1);

    started.publish_stored("room/1", 2).await;
    assert_eq!(me.acknowledge_next().await, "room/1 2");
    started.publish_stored("room/1", 3).await;
    assert_eq!(me.next().await, "room/1 3"); // not acknowledged
    assert_eq!(started.cursors("me").await.len(), 1);
    started.server.shared.hub.readers.end_idle(&mut idle).await;
    started.server.shared.hub.readers.end_idle(&mut idle).await;
    assert_eq!(started.in_memory("me").len(), before, "a reader with a message in flight is not idle");
    drop(me);
    let mut me = started.connect("me").await;
    assert_eq!(me.acknowledge_next().await, "room/1 3");
    assert_eq!(me.up_to_now().await, [""; 0]);

    // The next connection has no reader where nothing is new.
    me.send(r#"{"disconn":{}}"#).await;
    drop(me);
    within(async {
        while started.cursors("me").await != [(channel("room/1"), true)] {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    let mut me = started.connect("me").await;
    for _ in 0..2 {
        started.server.shared.hub.readers.end_idle(&mut idle).await;
    }
    assert_eq!(started.cursors("me").await, []);
    started.publish_stored("room/1", 4).await;
    assert_eq!(me.acknowledge_next().await, "room/1 4");
    started.server.shutdown().await;
}

#[tokio::test]
async fn a_message_that_was_stored_while_an_idle_reader_ended_is_pushed_once() {
    let started = Started::new().await;
    let (mut me, mut idle) = with_an_idle_reader(&started).await;
    started.store.commit.close();
    let handle = started.server.handle();
    let message = Publish::json(channel("room/1"), &2).unwrap().at_least_once();
    let published = tokio::spawn(async move { handle.force_pub(message).await.unwrap() });
    started.store.commit.reached().await; // the message is in the batch that is committed now
    let hub = Arc::clone(&started.server.shared.hub);
    let ending = tokio::spawn(async move { hub.readers.end_idle(&mut idle).await });
    started.waiting(1).await; // the cursor is to end after it
    started.store.commit.open();
    within(ending).await.unwrap();
    within(published).await.unwrap();
    assert_eq!(me.acknowledge_next().await, "room/1 2");
    started.publish_stored("room/1", 3).await;
    assert_eq!(me.acknowledge_next().await, "room/1 3");
    assert_eq!(me.up_to_now().await, [""; 0]);
    started.server.shutdown().await;
}

impl Started {
    /// A client with a persistent subscription to `news`.
    async fn subscriber(&self) -> Client {
        let mut bob = self.connect("bob").await;
        bob.send(r#"{"sub":{"cn":"news","pr":1}}"#).await;
        assert_eq!(bob.next().await, "subAck");
        bob
    }

    /// Lets the batch at the gate fail.
    fn fail(&self) {
        self.store.fails.store(true, Ordering::SeqCst);
        self.store.commit.open();
    }
}

#[tokio::test] // protocol.md 2.10
async fn publishes_repeated_after_a_failed_batch_keep_their_order() {
    let started = Started::new().await;
    let mut bob = started.subscriber().await;
    let open = async || {
        let mut alice = started.open().await;
        alice.send(r#"{"conn":{"at":"","cl":"alice","pi":"phone"}}"#).await;
        assert_eq!(alice.next().await, "connAck");
        alice
    };
    let mut alice = open().await;
    started.store.commit.close();
    alice.publish("news", 1).await;
    started.store.commit.reached().await;
    alice.publish("news", 2).await;
    alice.publish("news", 3).await;
    started.waiting(2).await;
    drop(alice); // before it hears of the failure
    started.fail();

    let mut alice = open().await;
    for data in 1..=4 {
        alice.publish("news", data).await;
    }
    for data in 1..=4 {
        assert_eq!(alice.packet().await["pubAck"]["st"], 1);
        assert_eq!(bob.acknowledge_next().await, format!("news {data}"));
    }
    assert_eq!(bob.up_to_now().await, [""; 0]);
}

#[tokio::test] // protocol.md 2.10
async fn publishes_behind_a_failed_one_are_refused_until_the_publisher_knows() {
    let started = Started::new().await;
    let mut bob = started.subscriber().await;
    let mut alice = started.connect("alice").await;
    started.store.commit.close();
    alice.publish("news", 1).await;
    started.store.commit.reached().await;
    alice.publish("news", 2).await;
    alice.send(r#"{"sub":{"cn":"other","pr":1}}"#).await;
    started.waiting(2).await;
    started.fail();
    for id in ["1", "2"] {
        let answer = alice.packet().await;
        assert_eq!((&answer["pubAck"]["st"], &answer["pubAck"]["id"]), (&5.into(), &id.into()));
    }
    assert_eq!(alice.packet().await["subAck"]["st"], 1, "it does not depend on them");
    alice.publish("news", 3).await;
    assert_eq!(alice.packet().await["pubAck"]["st"], 1);
    assert_eq!(bob.acknowledge_next().await, "news 3");
    assert_eq!(bob.up_to_now().await, [""; 0]);
}

#[tokio::test] // [MQTT-4.6.0-1]
async fn mqtt_publishes_repeated_after_a_failed_batch_keep_their_order() {
    let started = Started::new().await;
    let mut bob = started.subscriber().await;
    let connect = b"\x10\x11\0\x04MQTT\x04\0\0\0\0\x05alice"; // 3.1.1, no clean session
    // Numbers 1 to 3 to `news`, with this number as packet identifier.
    let publish = |first, number: u8| [&[first, 9][..], b"\0\x04news", &[0, number, b'0' + number]].concat();
    for (first, answer) in [(0x32, 0x40), (0x34, 0x50)] {
        let mut alice = started.open().await;
        alice.send_bytes(connect).await;
        let is_present = u8::from(first == 0x34);
        alice.expect_bytes(&[0x20, 2, is_present, 0]).await;
        started.store.commit.close();
        alice.send_bytes(&publish(first, 1)).await;
        started.store.commit.reached().await;
        alice.send_bytes(&publish(first, 2)).await;
        alice.send_bytes(&publish(first, 3)).await;
        started.waiting(2).await;
        started.fail();
        alice.expect_end().await; // nothing else can tell it that a publish is not stored

        let mut alice = started.open().await;
        alice.send_bytes(connect).await;
        alice.expect_bytes(&[0x20, 2, 1, 0]).await;
        for number in 1..=3 {
            alice.send_bytes(&publish(first | 8, number)).await; // DUP
        }
        for number in 1..=3 {
            alice.expect_bytes(&[answer, 2, 0, number]).await;
            assert_eq!(bob.acknowledge_next().await, format!("news {number}"));
        }
        assert_eq!(bob.up_to_now().await, [""; 0]);
        alice.send_bytes(&[0xe0, 0]).await; // DISCONNECT
        alice.expect_end().await;
    }
}

impl Started {
    /// Begins a session with a will for this channel, in the store only.
    async fn leave_will(&self, who: &str, generation: u64, to: &str) {
        let hub = &self.server.shared.hub;
        let will = StoredWill {
            key: WillKey { client: client(who), generation, node: hub.janitor.node.clone() },
            protocol: "MQTT".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            channel: channel(to),
            data: "1".into(),
            attributes: Attributes::NONE,
            qos: Qos::AtLeastOnce,
            retain: false,
            delay: 0,
        };
        let begin = BeginSession {
            owner: None,
            checked: None,
            generation: 1,
            client: client(who),
            is_clean: false,
            expiry: Some(60),
            now: SystemTime::now(),
            will: Some(Box::new(will)),
        };
        self.store.commit(&[Operation::BeginSession(begin)]).await.unwrap();
    }

    /// The connection that has left a will ends.
    async fn end_will(&self, who: &str, generation: u64) {
        let node = &self.server.shared.hub.janitor.node;
        self.store.end_wills(&[(client(who), generation)], node, 0).await.unwrap();
    }
}

#[tokio::test]
async fn wills_that_cannot_be_published_hold_up_no_others() {
    let started = Started::new().await;
    let mut bob = started.subscriber().await;
    started.store.refuses_wills.store(true, Ordering::SeqCst);
    let number = 3 * WILLS_AT_A_TIME;
    for number in 0..number {
        let name = format!("bad-{number}");
        started.leave_will(&name, number as u64, "refused").await;
        started.end_will(&name, number as u64).await;
    }
    started.leave_will("lamp", 1000, "news").await;
    started.end_will("lamp", 1000).await;
    assert_eq!(bob.acknowledge_next().await, "news 1");
    // They are published when that is possible.
    started.store.refuses_wills.store(false, Ordering::SeqCst);
    within(async {
        while started.server.shared.hub.counters.snapshot().wills_published <= number as u64 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test] // 3.14.4 of MQTT: the server discards the will
async fn a_will_is_deleted_also_if_the_disconnect_is_called_off() {
    let started = Started::new().await;
    started.leave_will("lamp", 7, "news").await;
    assert!(started.store.session(&client("lamp")).await.unwrap().unwrap().has_will);
    // A newer connection has closed the outbox, so nobody waits.
    drop(started.server.shared.hub.wills.discard(&client("lamp"), 7));
    within(async {
        while started.store.session(&client("lamp")).await.unwrap().unwrap().has_will {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn an_idle_cursor_of_a_group_ends_and_no_message_is_missed_or_repeated() {
    let started = Started::new().await;
    let hub = &started.server.shared.hub;
    let owner = owner_of(Filter::parse("$share/g/room/+").unwrap()).unwrap();
    let mut member = started.open().await;
    member.send_bytes(b"\x10\x11\0\x04MQTT\x04\0\0\0\0\x05alice").await; // 3.1.1, no clean session
    member.expect_bytes(&[0x20, 2, 0, 0]).await;
    member.send_bytes(b"\x82\x14\0\x01\0\x0f$share/g/room/+\x01").await;
    member.expect_bytes(&[0x90, 3, 0, 1, 1]).await;
    let mut idle = IdleReaders::default();
    for number in 1..=3 {
        started.publish_stored("room/1", number).await;
        let id = member.published(b"\0\x06room/1", number).await;
        member.send_bytes(&[0x40, 2, id[0], id[1]]).await;
        let cursors = async || started.store.store.subscriptions(&owner).await.unwrap();
        within(async {
            while cursors().await.iter().all(|it| it.cursor.acked < it.last) {
                tokio::time::sleep(Duration::from_millis(10)).await; // until the cursor is saved
            }
        })
        .await;
        hub.readers.end_idle(&mut idle).await;
        assert_eq!(cursors().await.len(), 1);
        within(async {
            while !cursors().await.is_empty() {
                // The janitor may not have told the reader yet that its cursor is saved.
                hub.readers.end_idle(&mut idle).await;
            }
        })
        .await;
    }
    member.send_bytes(&[0xc0, 0]).await;
    member.expect_bytes(&[0xd0, 0]).await; // and nothing before
    started.server.shutdown().await;
}
