//! The contract of every store. Each property is a function over [`Database`]; the modules at the end run all of them
//! on one kind of database, and add properties of that kind.

mod wills;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::FutureExt as _;
use jmqt_protocol::{ChannelName, ClientId, Qos};
use jmqt_server::store::{
    Append, Attributes, BeginSession, CURSOR_WINDOW, ChannelKey, Cursor, CursorUpdate, DataForm, Dropped,
    Due, Epoch, Exchanges, Expired, LogPart, LogPlace, LoggedMessage, MUST_CHECK, Operation, Outcome,
    PendingLimits, PublishId, PublisherId, Retained, RetainedLimits, Sent, SentStep, Seq, SessionRow, Stamp,
    Store, StoreError, StoredSubscription, StoredTotals, SubscriptionOptions, Swept, Unanswered, Values,
};
use wills::*;

/// One database, which a store can be opened on again and again.
#[async_trait]
trait Database: Send + Sync {
    /// Opens it. The store before must have been closed, or dropped as if its process had died.
    async fn open(&self) -> Arc<dyn Store> {
        self.open_with(RetainedLimits::default()).await
    }

    /// The same, with limits.
    async fn open_with(&self, retained: RetainedLimits) -> Arc<dyn Store>;

    /// Another database of the same kind.
    fn another(&self) -> Box<dyn Database>;

    /// Returns `true` if several processes may have it open.
    fn is_shared(&self) -> bool {
        false
    }
}

fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

fn client(id: &str) -> ClientId {
    ClientId::parse(id).unwrap()
}

fn message(to: &str, data: &str) -> Append {
    let data = Bytes::copy_from_slice(data.as_bytes());
    let sender = Some(client("publisher"));
    Append {
        channel: channel(to),
        sender,
        data,
        attributes: Attributes::NONE,
        log: true,
        retain: false,
        once: None,
        received: None,
    }
}

/// A QoS 1 publish.
fn append(to: &str, data: &str) -> Operation {
    Operation::Append(message(to, data))
}

/// A QoS 0 publish with the retained flag.
fn retain(to: &str, data: &str) -> Operation {
    Operation::Append(Append { log: false, retain: true, ..message(to, data) })
}

fn subscribe(who: &str, to: &str) -> Operation {
    Operation::Subscribe { client: client(who), channel: channel(to), options: SubscriptionOptions::JMQT }
}

fn unsubscribe(who: &str, from: &str) -> Operation {
    Operation::Unsubscribe { client: client(who), channel: channel(from) }
}

fn clear(name: &str) -> Operation {
    Operation::ClearRetained { channel: channel(name) }
}

/// The channel's retained message.
async fn kept(store: &dyn Store, name: &str) -> Option<Retained> {
    store.read_retained(&channel(name)).await.unwrap()
}

fn retained(data: &str) -> Option<Retained> {
    let data = Bytes::copy_from_slice(data.as_bytes());
    Some(Retained { sender: Some(client("publisher")), data, attributes: Attributes::NONE })
}

async fn one(store: &dyn Store, operation: Operation) -> Outcome {
    let mut outcomes = store.commit(&[operation]).await.unwrap();
    assert_eq!(outcomes.len(), 1);
    outcomes.remove(0)
}

async fn subscribed(store: &dyn Store, who: &str, to: &str) -> StoredSubscription {
    match one(store, subscribe(who, to)).await {
        Outcome::Subscribed(subscription) => subscription,
        other => panic!("{other:?}"),
    }
}

/// A QoS 1 publish that a publisher of a client sends once, as far as it can tell.
fn publish(who: &str, publisher: &str, number: u64, to: &str, data: &str) -> Operation {
    let publisher = PublisherId::parse(publisher).unwrap();
    let once = Some(PublishId { publisher, number, receiver_is_away: false });
    Operation::Append(Append { sender: Some(client(who)), once, ..message(to, data) })
}

/// The same; the publisher is told that nobody is there.
fn publish_to_absent(number: u64, to: &str) -> Operation {
    let Operation::Append(mut append) = publish("alice", "p", number, to, "1") else { unreachable!() };
    append.once.as_mut().unwrap().receiver_is_away = true;
    Operation::Append(append)
}

fn packet(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).unwrap()
}

/// A QoS 2 publish of a client.
fn receive(who: &str, number: u16, to: &str, data: &str) -> Operation {
    let received = Some(packet(number));
    Operation::Append(Append { sender: Some(client(who)), received, ..message(to, data) })
}

fn release(who: &str, number: u16) -> Operation {
    Operation::Release { client: client(who), packet: packet(number) }
}

/// The packet identifiers of a client's publishes that it has not released.
async fn received(store: &dyn Store, who: &str) -> Vec<u16> {
    let exchanges = store.exchanges(&client(who)).await.unwrap();
    let mut numbers: Vec<u16> = exchanges.received.into_iter().map(NonZeroU16::get).collect();
    numbers.sort_unstable();
    numbers
}

const REPEATED: Outcome = Outcome::Repeated { receiver_is_away: false };

/// Where a message is; `None` if it was not logged.
fn placed(outcome: &Outcome) -> Option<(ChannelKey, Seq)> {
    match outcome {
        Outcome::Appended(place) => place.map(|place| (place.key, place.seq)),
        other => panic!("{other:?}"),
    }
}

/// Where the messages of these outcomes are; `None` for those that were not logged.
fn seqs(outcomes: &[Outcome]) -> Vec<Option<u64>> {
    let appended = outcomes.iter().filter_map(|outcome| match outcome {
        Outcome::Appended(place) => Some(place.map(|place| place.seq.0)),
        _ => None,
    });
    appended.collect()
}

/// Everything in a log, as text.
async fn log(store: &dyn Store, key: ChannelKey) -> Vec<(u64, String)> {
    let log = store.read_log(key, Seq(0), usize::MAX, usize::MAX).await.unwrap().messages;
    let text = |message: LoggedMessage| (message.seq.0, String::from_utf8(message.data.to_vec()).unwrap());
    log.into_iter().map(text).collect()
}

fn cursor(acked: u64, beyond: &[u64]) -> Cursor {
    let mut words = vec![0u64; if beyond.is_empty() { 0 } else { CURSOR_WINDOW as usize / 64 }];
    for seq in beyond {
        let bit = (seq - acked - 1) as usize;
        words[bit / 64] |= 1 << (bit % 64);
    }
    Cursor { acked: Seq(acked), beyond: words }
}

async fn save(store: &dyn Store, who: &str, key: ChannelKey, cursor: Cursor) {
    store.save_cursors(&[CursorUpdate { client: client(who), key, cursor }]).await.unwrap();
}

async fn cursor_of(store: &dyn Store, who: &str, key: ChannelKey) -> Cursor {
    let subscriptions = store.subscriptions(&client(who)).await.unwrap();
    subscriptions.into_iter().find(|it| it.key == key).unwrap().cursor
}

async fn append_many(store: &dyn Store, to: &str, messages: usize) {
    let batch: Vec<_> = (0..messages).map(|i| append(to, &i.to_string())).collect();
    assert!(seqs(&store.commit(&batch).await.unwrap()).iter().all(Option::is_some));
}

/// Goes through all clients once.
async fn limit_pending(store: &dyn Store, messages: u64) -> Vec<Dropped> {
    limit_all(store, PendingLimits { messages, ..UNLIMITED }).await
}

const UNLIMITED: PendingLimits =
    PendingLimits { messages: u64::MAX, bytes: u64::MAX, own_messages: u64::MAX };

/// Goes through all clients once.
async fn limit_all(store: &dyn Store, limits: PendingLimits) -> Vec<Dropped> {
    let (mut dropped, mut after) = (Vec::new(), None);
    loop {
        let swept = store.limit_pending(limits, after.as_ref()).await.unwrap();
        dropped.extend(swept.dropped);
        after = swept.more_after;
        if after.is_none() {
            return dropped;
        }
    }
}

fn long_ago() -> SystemTime {
    SystemTime::now() - Duration::from_secs(3600)
}

fn soon() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

/// Sessions of clients that were last seen before a time, and nothing else.
fn seen_before(time: SystemTime) -> Due {
    Due { seen_before: Some(time), now: SystemTime::UNIX_EPOCH }
}

/// Sessions that have ended by a time by their own expiry, and nothing else.
fn ended_by(now: SystemTime) -> Due {
    Due { seen_before: None, now }
}

fn begin(who: &str, is_clean: bool, expiry: Option<u32>, now: SystemTime) -> Operation {
    Operation::BeginSession(BeginSession {
        owner: None,
        checked: None,
        client: client(who),
        generation: 1,
        is_clean,
        expiry,
        now,
        will: None,
    })
}

/// Begins a session now; returns `true` if an earlier one continues.
async fn resumed(store: &dyn Store, who: &str, is_clean: bool, expiry: u32) -> bool {
    match one(store, begin(who, is_clean, Some(expiry), SystemTime::now())).await {
        Outcome::Begun { is_resumed } => is_resumed,
        other => panic!("{other:?}"),
    }
}

/// Ends the connection of a client.
async fn disconnect(store: &dyn Store, who: &str) {
    store.sessions_closed(&[(client(who), 1)], "node", Unanswered::Recorded).await.unwrap();
}

/// The stored session of a client: its expiry, and the number of its subscriptions.
async fn kept_session(store: &dyn Store, who: &str) -> Option<(Option<u32>, usize)> {
    let session = store.session(&client(who)).await.unwrap();
    session.map(|session| (session.expiry, session.subscriptions.len()))
}

fn in_seconds(seconds: u64) -> SystemTime {
    SystemTime::now() + Duration::from_secs(seconds)
}

fn session(who: &str, generation: u64, node: &str, since: u64) -> SessionRow {
    SessionRow {
        client: client(who),
        generation,
        node: node.to_owned(),
        protocol: "SSL_SOCKET".to_owned(),
        address: "[::1]:4711".to_owned(),
        since: SystemTime::UNIX_EPOCH + Duration::from_millis(since),
    }
}

// ---- appending and reading ----

async fn a_message_is_logged_only_while_somebody_is_persistently_subscribed(on: &dyn Database) {
    let store = on.open().await;
    assert_eq!(one(&*store, append("news", "1")).await, Outcome::Appended(None));
    let subscription = subscribed(&*store, "bob", "news").await;
    let logged = one(&*store, append("news", "2")).await;
    assert_eq!(placed(&logged), Some((subscription.key, Seq(1))));
    assert_eq!(one(&*store, append("other", "3")).await, Outcome::Appended(None));
    assert_eq!(one(&*store, unsubscribe("bob", "news")).await, Outcome::Unsubscribed(true));
    assert_eq!(one(&*store, append("news", "4")).await, Outcome::Appended(None));
}

async fn messages_are_numbered_without_gaps_in_the_order_of_the_batch(on: &dyn Database) {
    let store = on.open().await;
    let (a, b) = (subscribed(&*store, "bob", "a").await, subscribed(&*store, "bob", "b").await);
    let batch = [append("a", "1"), append("b", "x"), append("a", "2"), append("a", "3")];
    assert_eq!(seqs(&store.commit(&batch).await.unwrap()), [Some(1), Some(1), Some(2), Some(3)]);
    assert_eq!(seqs(&store.commit(&[append("a", "4")]).await.unwrap()), [Some(4)]);
    let numbered =
        |texts: &[&str]| -> Vec<_> { (1..).zip(texts.iter().map(|text| (*text).to_owned())).collect() };
    assert_eq!(log(&*store, a.key).await, numbered(&["1", "2", "3", "4"]));
    assert_eq!(log(&*store, b.key).await, numbered(&["x"]));
}

async fn a_batch_of_any_size_is_carried_out_whole(on: &dyn Database) {
    let store = on.open().await;
    for size in [1, 2, 7, 8, 9, 63, 64, 65, 129, 700] {
        let names: Vec<_> = (0..size).map(|i| format!("{size}/{i}")).collect();
        let mut batch: Vec<_> = names.iter().map(|name| subscribe(name, name)).collect();
        batch.extend(names.iter().map(|name| append(name, name)));
        batch.extend(names.iter().map(|name| retain(name, name)));
        batch.extend(names.iter().map(|name| append(name, "2")));
        assert_eq!(store.commit(&batch).await.unwrap().len(), batch.len());
        for name in &names {
            let subscriptions = store.subscriptions(&client(name)).await.unwrap();
            assert_eq!(subscriptions.len(), 1, "{name}");
            let logged = log(&*store, subscriptions[0].key).await;
            assert_eq!(logged, [(1, name.clone()), (2, "2".to_owned())]);
            assert_eq!(kept(&*store, name).await, retained(name));
        }
        let mut batch: Vec<_> = names.iter().map(|name| unsubscribe(name, name)).collect();
        batch.extend(names.iter().map(|name| clear(name)));
        let outcomes = store.commit(&batch).await.unwrap();
        assert!(outcomes[..size].iter().all(|it| *it == Outcome::Unsubscribed(true)));
        assert!(outcomes[size..].iter().all(|it| *it == Outcome::Cleared(true)));
    }
}

async fn an_empty_batch_is_nothing(on: &dyn Database) {
    let store = on.open().await;
    assert_eq!(store.commit(&[]).await.unwrap(), []);
    store.save_cursors(&[]).await.unwrap();
    store.sessions_opened(&[]).await.unwrap();
    store.sessions_closed(&[], "node", Unanswered::Recorded).await.unwrap();
    assert_eq!(store.trim(&[]).await.unwrap(), 0);
}

async fn payloads_and_senders_are_kept_byte_for_byte(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    let large = format!("\"{}\"", "ü".repeat(700_000));
    for data in ["1.50", "null", r#"{"b":1, "a":"A"}"#, "\"\u{10ffff}\"", &large] {
        for sender in [None, Some(client("élise"))] {
            let data = Bytes::copy_from_slice(data.as_bytes());
            let append = Append { sender, data, retain: true, ..message("news", "") };
            let (sender, data) = (append.sender.clone(), append.data.clone());
            let outcome = one(&*store, Operation::Append(append)).await;
            let Outcome::Appended(Some(LogPlace { seq, stamp, .. })) = outcome else { panic!("{outcome:?}") };
            let logged = store.read_log(key, Seq(seq.0 - 1), 10, usize::MAX).await.unwrap().messages;
            let expected = LoggedMessage {
                seq,
                stamp,
                sender: sender.clone(),
                data: data.clone(),
                attributes: Attributes::NONE,
            };
            assert!(logged == [expected], "of {} bytes", data.len());
            assert!(
                kept(&*store, "news").await == Some(Retained { sender, data, attributes: Attributes::NONE })
            );
        }
    }
}

async fn the_messages_of_a_commit_have_a_stamp_that_no_other_commit_has(on: &dyn Database) {
    let store = on.open().await;
    let (news, other) =
        (subscribed(&*store, "bob", "news").await.key, subscribed(&*store, "bob", "other").await.key);
    let mut stamps = Vec::new();
    for _ in 0..2 {
        let outcomes = store.commit(&[append("news", "1"), append("other", "1")]).await.unwrap();
        let of = |outcome: &Outcome| match outcome {
            Outcome::Appended(Some(place)) => place.stamp,
            other => panic!("{other:?}"),
        };
        assert_eq!(of(&outcomes[0]), of(&outcomes[1]));
        stamps.push(of(&outcomes[0]));
    }
    assert_ne!(stamps[0], stamps[1]);
    store.close().await;
    let store = on.open().await;
    for key in [news, other] {
        let log = store.read_log(key, Seq(0), 10, usize::MAX).await.unwrap().messages;
        assert_eq!(log.iter().map(|message| message.stamp).collect::<Vec<_>>(), stamps);
    }
}

async fn names_compare_byte_for_byte(on: &dyn Database) {
    let store = on.open().await;
    let names = ["news", "News", "NEWS", "ne\0ws", "ne\0", "é", "e\u{301}", "ｎews", "ss", "ß", "a%", "a_"];
    let keys: HashSet<_> = {
        let mut keys = HashSet::new();
        for name in names {
            keys.insert(subscribed(&*store, name, name).await.key);
        }
        keys
    };
    assert_eq!(keys.len(), names.len());
    for name in names {
        let subscriptions = store.subscriptions(&client(name)).await.unwrap();
        assert_eq!(subscriptions.len(), 1, "{name:?}");
        assert_eq!(subscriptions[0].channel, channel(name));
        one(&*store, retain(name, name)).await;
    }
    for name in names {
        assert_eq!(kept(&*store, name).await, retained(name));
    }
    let longest = "ü".repeat(256);
    let subscription = subscribed(&*store, &longest[..256], &longest).await;
    assert_eq!(store.subscriptions(&client(&longest[..256])).await.unwrap(), [subscription]);
}

async fn a_log_is_read_in_order_and_within_its_limits(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    let batch: Vec<_> = (0..100).map(|i| append("news", &format!("{i:010}"))).collect();
    store.commit(&batch).await.unwrap();
    let read = async |after, messages, bytes| -> Vec<u64> {
        let log = store.read_log(key, Seq(after), messages, bytes).await.unwrap().messages;
        log.iter().map(|message| message.seq.0).collect()
    };
    assert_eq!(read(0, 1000, 1 << 20).await, (1..=100).collect::<Vec<_>>());
    assert_eq!(read(97, 1000, 1 << 20).await, [98, 99, 100]);
    assert_eq!(read(10, 3, 1 << 20).await, [11, 12, 13]);
    assert_eq!(read(10, 50, 25).await, [11, 12, 13]); // after 30 bytes, more than asked for
    assert_eq!(read(10, 50, 20).await, [11, 12]);
    assert_eq!(read(10, 50, 0).await, [11]); // one at least
    assert!(read(100, 50, 1000).await.is_empty());
    assert!(read(u64::MAX, 50, 1000).await.is_empty());
    // Where the log ends is told with every part of it; also when there is nothing left of it.
    for (after, messages) in [(0, 1), (97, 50), (100, 50), (u64::MAX, 50)] {
        assert_eq!(store.read_log(key, Seq(after), messages, 20).await.unwrap().last, Seq(100));
    }
    assert_eq!(store.read_log(ChannelKey(4711), Seq(0), 50, 1000).await.unwrap(), LogPart::default());
    let update = CursorUpdate { client: client("bob"), key, cursor: cursor(100, &[]) };
    store.save_cursors(&[update]).await.unwrap();
    assert_eq!(store.trim(&[key]).await.unwrap(), 100);
    let (messages, last) = (Vec::new(), Seq(100));
    assert_eq!(store.read_log(key, Seq(7), 50, 1000).await.unwrap(), LogPart { messages, last });
}

async fn messages_appended_while_a_log_is_read_do_not_count_as_deleted(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    let appending = async {
        for _ in 0..200 {
            append_many(&*store, "news", 1).await;
        }
    };
    let reading = async {
        loop {
            let LogPart { messages, last } = store.read_log(key, Seq(0), 1000, 1 << 20).await.unwrap();
            let read: Vec<_> = messages.iter().map(|message| message.seq.0).collect();
            assert_eq!(read, (1..=last.0).collect::<Vec<_>>(), "nothing has been trimmed");
            if last == Seq(200) {
                return;
            }
        }
    };
    futures_util::join!(appending, reading);
}

fn attributes(values: Values) -> Attributes {
    Attributes::new(values)
}

/// Attributes that use every field.
fn of_mqtt(expires_at: Option<u64>) -> Attributes {
    let properties = [3, 0, 1, b'x'].into();
    attributes(Values { form: DataForm::Binary, qos: Qos::ExactlyOnce, retain: true, expires_at, properties })
}

async fn attributes_are_kept_with_logged_and_retained_messages(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    let binary = attributes(Values { form: DataForm::Binary, ..Values::default() });
    let kinds = [of_mqtt(Some(u64::MAX >> 1)), Attributes::NONE, binary, of_mqtt(None)];
    for attributes in &kinds {
        let append = Append { attributes: attributes.clone(), retain: true, ..message("news", "\u{0}\u{1}") };
        one(&*store, Operation::Append(append)).await;
        assert_eq!(kept(&*store, "news").await.unwrap().attributes, *attributes);
    }
    store.close().await;
    let store = on.open().await;
    let logged = store.read_log(key, Seq(0), usize::MAX, usize::MAX).await.unwrap().messages;
    assert_eq!(logged.iter().map(|it| it.attributes.clone()).collect::<Vec<_>>(), kinds);
}

async fn attributes_count_for_limits(on: &dyn Database) {
    let limits = RetainedLimits { bytes: Some(20), ..RetainedLimits::default() };
    let store = on.open_with(limits).await;
    let key = subscribed(&*store, "bob", "news").await.key;
    // The encoding of the attributes has 6 bytes, so a message has 10.
    let of = |name: &str| {
        let append = Append { attributes: of_mqtt(None), retain: true, ..message(name, "1234") };
        Operation::Append(append)
    };
    for name in ["news", "other"] {
        assert!(matches!(one(&*store, of(name)).await, Outcome::Appended(_)));
    }
    assert_eq!(one(&*store, retain("third", "1")).await, Outcome::TooManyRetained);
    store.close().await;
    let store = on.open_with(limits).await;
    assert_eq!(one(&*store, retain("third", "1")).await, Outcome::TooManyRetained);

    one(&*store, of("news")).await;
    assert_eq!(store.read_log(key, Seq(0), 10, 10).await.unwrap().messages.len(), 1);
    let dropped = limit_all(&*store, PendingLimits { bytes: 19, ..UNLIMITED }).await;
    assert_eq!(dropped.iter().map(|it| it.messages).sum::<u64>(), 1, "{dropped:?}");
}

async fn expired_retained_messages_are_found_and_deleted(on: &dyn Database) {
    let store = on.open().await;
    let now = SystemTime::UNIX_EPOCH + Duration::from_millis(1_000_000);
    let expire = |name: &str| Operation::ExpireRetained { channel: channel(name), now };
    let until = |name: &str, expires_at| {
        let append = Append { attributes: of_mqtt(expires_at), retain: true, ..message(name, "1") };
        Operation::Append(append)
    };
    let batch = [
        until("due", Some(1_000_000)),
        until("renewed", Some(7)),
        until("later", Some(1_000_001)),
        until("never", None),
        retain("usual", "1"),
    ];
    store.commit(&batch).await.unwrap();
    let found = store.expired_retained(now).await.unwrap();
    assert_eq!(found, [channel("renewed"), channel("due")], "in the order of expiry");
    // Replaced after it was found, in an own batch and in the same one.
    one(&*store, until("renewed", None)).await;
    let deleted = ["due", "renewed", "later", "never", "usual", "absent"].map(expire);
    let outcomes = store.commit(&deleted).await.unwrap();
    assert_eq!(outcomes, [true, false, false, false, false, false].map(Outcome::Cleared));
    let batch = [until("renewed", Some(7)), until("renewed", None), expire("renewed")];
    assert_eq!(store.commit(&batch).await.unwrap()[2], Outcome::Cleared(false));
    assert_eq!(store.expired_retained(now).await.unwrap(), []);
    assert_eq!(kept(&*store, "due").await, None);
    for name in ["renewed", "later", "never", "usual"] {
        assert!(kept(&*store, name).await.is_some(), "{name}");
    }
}

async fn what_is_stored_is_counted(on: &dyn Database) {
    let store = on.open().await;
    assert_eq!(store.totals().await.unwrap(), StoredTotals::default());
    store.commit(&[retain("a", "1"), retain("b", "1"), subscribe("bob", "c")]).await.unwrap();
    store.commit(&[append("c", "1"), append("c", "2"), append("d", "1")]).await.unwrap();
    let totals = StoredTotals { retained: 2, messages: 2, absent_clients: 1 };
    assert_eq!(store.totals().await.unwrap(), totals);
}

async fn names_of_mqtt_are_long_and_keep_their_blanks(on: &dyn Database) {
    let store = on.open().await;
    let exact = |name: &str| ChannelName::exact(name).unwrap();
    let long = "ü".repeat(1024);
    for name in [exact(&long), exact(&long[2..]), exact(" a "), exact(" a"), exact("a")] {
        one(
            &*store,
            Operation::Subscribe {
                client: client("bob"),
                channel: name.clone(),
                options: SubscriptionOptions::JMQT,
            },
        )
        .await;
        let append = Append { channel: name.clone(), retain: true, ..message("a", name.as_str()) };
        one(&*store, Operation::Append(append)).await;
    }
    store.close().await;
    let store = on.open().await;
    let subscriptions = store.subscriptions(&client("bob")).await.unwrap();
    assert_eq!(subscriptions.len(), 5);
    for subscription in subscriptions {
        let retained = store.read_retained(&subscription.channel).await.unwrap().unwrap();
        assert_eq!(retained.data, subscription.channel.as_str());
        assert_eq!(log(&*store, subscription.key).await.len(), 1);
    }
}

// ---- subscriptions ----

async fn a_subscription_starts_after_the_last_message_logged(on: &dyn Database) {
    let store = on.open().await;
    let first = subscribed(&*store, "bob", "news").await;
    assert_eq!((first.cursor, first.last), (Cursor::default(), Seq(0)));
    append_many(&*store, "news", 3).await;
    let second = subscribed(&*store, "carol", "news").await;
    assert_eq!((second.cursor, second.last), (cursor(3, &[]), Seq(3)));
    assert_eq!(first.key, second.key);
}

async fn subscribing_again_changes_nothing(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    append_many(&*store, "news", 5).await;
    save(&*store, "bob", key, cursor(2, &[4])).await;
    let again = subscribed(&*store, "bob", "news").await;
    assert_eq!((again.cursor, again.last), (cursor(2, &[4]), Seq(5)));
    one(&*store, unsubscribe("bob", "news")).await; // it counted once
    assert_eq!(one(&*store, append("news", "6")).await, Outcome::Appended(None));
}

async fn a_subscription_keeps_its_options_and_its_cursor_when_they_change(on: &dyn Database) {
    let store = on.open().await;
    let of = |options| Operation::Subscribe { client: client("bob"), channel: channel("news"), options };
    let chosen = SubscriptionOptions::new(Qos::ExactlyOnce).keeping_retain(true).with_id(Some(268_435_455));
    let key = subscribed(&*store, "bob", "news").await.key;
    append_many(&*store, "news", 9).await;
    let acked = cursor(2, &[4, 7]);
    save(&*store, "bob", key, acked.clone()).await;
    let plain = SubscriptionOptions::new(Qos::AtLeastOnce);
    for batch in [vec![of(chosen)], vec![of(plain)], vec![of(plain), of(chosen)], vec![of(chosen)]] {
        let Some(Outcome::Subscribed(outcome)) = store.commit(&batch).await.unwrap().pop() else { panic!() };
        let Some(Operation::Subscribe { options, .. }) = batch.last() else { unreachable!() };
        assert_eq!((outcome.options, &outcome.cursor, outcome.last), (*options, &acked, Seq(9)));
        assert_eq!(store.subscriptions(&client("bob")).await.unwrap(), [outcome]);
    }
    save(&*store, "bob", key, cursor(9, &[])).await;
    store.close().await;
    let store = on.open().await;
    let subscriptions = store.subscriptions(&client("bob")).await.unwrap();
    assert_eq!((subscriptions[0].options, &subscriptions[0].cursor), (chosen, &cursor(9, &[])));
    // A new subscription does not have the options of an earlier one.
    one(&*store, unsubscribe("bob", "news")).await;
    assert_eq!(subscribed(&*store, "bob", "news").await.options, SubscriptionOptions::JMQT);
}

async fn unsubscribing_forgets_the_cursor(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    subscribed(&*store, "carol", "news").await;
    append_many(&*store, "news", 5).await;
    save(&*store, "bob", key, cursor(2, &[4])).await;
    assert_eq!(one(&*store, unsubscribe("bob", "news")).await, Outcome::Unsubscribed(true));
    assert_eq!(store.subscriptions(&client("bob")).await.unwrap(), []);
    assert_eq!(subscribed(&*store, "bob", "news").await.cursor, cursor(5, &[]));
}

async fn unsubscribing_what_is_not_subscribed_does_nothing(on: &dyn Database) {
    let store = on.open().await;
    subscribed(&*store, "carol", "news").await;
    for (who, from) in [("bob", "news"), ("carol", "other"), ("bob", "other")] {
        assert_eq!(one(&*store, unsubscribe(who, from)).await, Outcome::Unsubscribed(false));
    }
    assert_ne!(one(&*store, append("news", "1")).await, Outcome::Appended(None));
}

async fn subscriptions_are_listed_in_the_order_of_their_keys(on: &dyn Database) {
    let store = on.open().await;
    let names: Vec<_> = (0..100).map(|i| format!("channel {}", i * 37 % 100)).collect();
    let batch: Vec<_> = names.iter().map(|name| subscribe("bob", name)).collect();
    store.commit(&batch).await.unwrap();
    subscribed(&*store, "carol", "channel 1").await;
    append_many(&*store, "channel 7", 3).await;
    let found = store.subscriptions(&client("bob")).await.unwrap();
    assert!(found.is_sorted_by_key(|subscription| subscription.key));
    let expected: BTreeSet<_> = names.iter().map(|name| channel(name)).collect();
    assert_eq!(found.iter().map(|it| it.channel.clone()).collect::<BTreeSet<_>>(), expected);
    for it in found {
        let last = if it.channel == channel("channel 7") { 3 } else { 0 };
        assert_eq!((it.cursor, it.last), (Cursor::default(), Seq(last)));
    }
    assert_eq!(store.subscriptions(&client("nobody")).await.unwrap(), []);
}

async fn operations_of_one_batch_see_those_before_them(on: &dyn Database) {
    let store = on.open().await;
    let batch = [
        append("news", "nobody there"),
        subscribe("bob", "news"),
        append("news", "1"),
        subscribe("carol", "news"),
        append("news", "2"),
        unsubscribe("bob", "news"),
        append("news", "3"),
        subscribe("bob", "news"),
        unsubscribe("carol", "news"),
        unsubscribe("carol", "news"),
        append("news", "4"),
    ];
    let outcomes = store.commit(&batch).await.unwrap();
    assert_eq!(seqs(&outcomes), [None, Some(1), Some(2), Some(3), Some(4)]);
    let acked = |outcome: &Outcome| match outcome {
        Outcome::Subscribed(subscription) => (subscription.cursor.clone(), subscription.last),
        other => panic!("{other:?}"),
    };
    assert_eq!(acked(&outcomes[1]), (cursor(0, &[]), Seq(0)));
    assert_eq!(acked(&outcomes[3]), (cursor(1, &[]), Seq(1)));
    assert_eq!(acked(&outcomes[7]), (cursor(3, &[]), Seq(3)));
    assert_eq!(outcomes[8], Outcome::Unsubscribed(true));
    assert_eq!(outcomes[9], Outcome::Unsubscribed(false));
    let bob = store.subscriptions(&client("bob")).await.unwrap();
    assert_eq!((&bob[0].cursor, bob[0].last), (&cursor(3, &[]), Seq(4)));
    assert_eq!(store.subscriptions(&client("carol")).await.unwrap(), []);
    assert_eq!(store.read_log(bob[0].key, Seq(3), 10, 1000).await.unwrap().messages.len(), 1);
}

async fn a_subscription_that_came_and_went_in_one_batch_leaves_nothing(on: &dyn Database) {
    let store = on.open().await;
    let batch = [
        subscribe("bob", "news"),
        retain("news", "1"),
        append("news", "2"),
        unsubscribe("bob", "news"),
        clear("news"),
    ];
    store.commit(&batch).await.unwrap();
    assert_eq!(store.subscriptions(&client("bob")).await.unwrap(), []);
    assert_eq!(one(&*store, append("news", "3")).await, Outcome::Appended(None));
    assert_eq!(kept(&*store, "news").await, None);
    assert_eq!(store.expire(seen_before(soon()), &mut |_| true).await.unwrap(), []);
}

// ---- retained messages ----

async fn a_retained_message_is_read_beside_commits(on: &dyn Database) {
    let store = on.open().await;
    assert_eq!(store.read_retained(&channel("news")).await.unwrap(), None);
    for data in ["1", "2"] {
        one(&*store, retain("news", data)).await;
        assert_eq!(store.read_retained(&channel("news")).await.unwrap(), retained(data));
    }
    one(&*store, clear("news")).await;
    assert_eq!(store.read_retained(&channel("news")).await.unwrap(), None);
}

async fn channels_with_a_retained_message_are_distinguished_from_others(on: &dyn Database) {
    let store = on.open().await;
    let names: Vec<_> = (0..600).map(|i| channel(&format!("{i}"))).collect();
    let batch: Vec<_> = (0..600).step_by(3).map(|i| retain(&format!("{i}"), "1")).collect();
    store.commit(&batch).await.unwrap();
    subscribed(&*store, "bob", "1").await;
    let found = store.retained_among(&names).await.unwrap();
    assert_eq!(found, names.iter().step_by(3).cloned().collect::<Vec<_>>());
    assert_eq!(store.retained_among(&[]).await.unwrap(), []);
}

async fn the_latest_retained_message_is_kept(on: &dyn Database) {
    let store = on.open().await;
    assert_eq!(kept(&*store, "news").await, None);
    assert_eq!(one(&*store, retain("news", "1")).await, Outcome::Appended(None));
    assert_eq!(kept(&*store, "news").await, retained("1"));
    one(&*store, retain("news", "2")).await;
    assert_eq!(kept(&*store, "news").await, retained("2"));
    assert_eq!(kept(&*store, "other").await, None);
    assert_eq!(one(&*store, clear("news")).await, Outcome::Cleared(true));
    assert_eq!(one(&*store, clear("news")).await, Outcome::Cleared(false));
    assert_eq!(kept(&*store, "news").await, None);
}

async fn retained_messages_follow_the_order_of_the_batch(on: &dyn Database) {
    let store = on.open().await;
    one(&*store, retain("news", "0")).await;
    let batch = [
        retain("news", "1"),
        clear("news"),
        clear("news"),
        retain("news", "2"),
        clear("other"),
        retain("other", "1"),
        retain("news", "3"),
        clear("other"),
    ];
    let outcomes = store.commit(&batch).await.unwrap();
    let cleared = [1, 2, 4, 7].map(|at| outcomes[at].clone());
    assert_eq!(cleared, [true, false, false, true].map(Outcome::Cleared));
    assert_eq!(kept(&*store, "other").await, None);
    assert_eq!(kept(&*store, "news").await, retained("3"));
}

async fn no_more_is_retained_than_may_be(on: &dyn Database) {
    let limits = RetainedLimits { messages: Some(3), bytes: Some(100), messages_per_client: None };
    let store = on.open_with(limits).await;
    let text = |bytes: usize| format!("\"{}\"", "x".repeat(bytes - 2));
    let bob = subscribed(&*store, "bob", "d").await.key;
    for (name, bytes) in [("a", 10), ("b", 80)] {
        assert_eq!(one(&*store, retain(name, &text(bytes))).await, Outcome::Appended(None));
    }
    // Bytes: neither a QoS 0 message nor one that would be logged, of a publisher that may send it again.
    let Operation::Append(both) = publish("alice", "p", 1, "d", &text(11)) else { unreachable!() };
    let both = || Operation::Append(Append { retain: true, ..both.clone() });
    assert_eq!(one(&*store, retain("c", &text(11))).await, Outcome::TooManyRetained);
    assert_eq!(one(&*store, both()).await, Outcome::TooManyRetained);
    assert_eq!(log(&*store, bob).await, []);
    assert!(kept(&*store, "c").await.is_none() && kept(&*store, "d").await.is_none());
    // Replacing always works, and is counted.
    assert_eq!(one(&*store, retain("a", &text(200))).await, Outcome::Appended(None));
    assert_eq!(one(&*store, retain("c", "1")).await, Outcome::TooManyRetained);
    assert_eq!(one(&*store, retain("a", "1")).await, Outcome::Appended(None));
    // Messages, also after the store was opened again.
    assert_eq!(one(&*store, retain("c", "1")).await, Outcome::Appended(None));
    store.close().await;
    let store = on.open_with(limits).await;
    assert_eq!(one(&*store, retain("e", "1")).await, Outcome::TooManyRetained);
    // What is cleared makes room, for what follows in the same batch too.
    let batch = [both(), clear("c"), both(), retain("c", "1"), clear("b"), retain("c", &text(80))];
    let outcomes = store.commit(&batch).await.unwrap();
    assert_eq!((&outcomes[0], &outcomes[3]), (&Outcome::TooManyRetained, &Outcome::TooManyRetained));
    assert_eq!((placed(&outcomes[2]), placed(&outcomes[5])), (Some((bob, Seq(1))), None));
    assert_eq!(one(&*store, both()).await, REPEATED);
    assert_eq!(kept(&*store, "d").await.unwrap().data, text(11));
}

async fn a_client_sets_no_more_retained_messages_than_it_may(on: &dyn Database) {
    let limits = RetainedLimits { messages_per_client: Some(2), ..RetainedLimits::default() };
    let store = on.open_with(limits).await;
    let by = |who: &str, name: &str| {
        let sender = Some(client(who));
        Operation::Append(Append { retain: true, log: false, sender, ..message(name, "1") })
    };
    let refused = |outcomes: &[Outcome]| {
        outcomes.iter().map(|outcome| *outcome == Outcome::TooManyRetained).collect::<Vec<_>>()
    };
    let batch = [by("alice", "a"), by("alice", "b"), by("alice", "c"), by("alice", "a"), by("bob", "c")];
    let outcomes = store.commit(&batch).await.unwrap();
    assert_eq!(refused(&outcomes), [false, false, true, false, false]);
    // Those that another client replaces are not hers any more, nor are those that are deleted.
    let batch =
        [by("bob", "a"), by("alice", "d"), by("alice", "e"), by("bob", "f"), clear("c"), by("bob", "f")];
    let outcomes = store.commit(&batch).await.unwrap();
    assert_eq!(refused(&outcomes), [false, false, true, true, false, false]);
    store.close().await;
    let store = on.open_with(limits).await;
    for (who, name, is_refused) in [("alice", "e", true), ("bob", "e", true), ("carol", "e", false)] {
        assert_eq!(one(&*store, by(who, name)).await == Outcome::TooManyRetained, is_refused, "{who}");
    }
    // The application may.
    let of_nobody = |name| Append { retain: true, log: false, sender: None, ..message(name, "1") };
    for name in ["g", "h", "i"] {
        assert_eq!(one(&*store, Operation::Append(of_nobody(name))).await, Outcome::Appended(None));
    }
}

async fn a_message_can_be_logged_and_retained(on: &dyn Database) {
    let store = on.open().await;
    let both = || Operation::Append(Append { retain: true, ..message("news", "1") });
    assert_eq!(one(&*store, both()).await, Outcome::Appended(None)); // nobody subscribed
    assert_eq!(kept(&*store, "news").await, retained("1"));
    let key = subscribed(&*store, "bob", "news").await.key;
    assert_eq!(placed(&one(&*store, both()).await), Some((key, Seq(1))));
    assert_eq!(kept(&*store, "news").await, retained("1"));
}

async fn may_have_retained_is_never_wrongly_false(on: &dyn Database) {
    let store = on.open().await;
    assert!(!store.may_have_retained(&channel("news")));
    one(&*store, retain("news", "1")).await;
    assert!(store.may_have_retained(&channel("news")));
    assert!(!store.may_have_retained(&channel("other")));
    one(&*store, clear("news")).await;
    store.commit(&[retain("news", "1"), clear("news"), retain("news", "2")]).await.unwrap();
    assert!(store.may_have_retained(&channel("news")));
    store.close().await;
    let store = on.open().await;
    assert!(store.may_have_retained(&channel("news")));
}

// ---- cursors ----

async fn a_cursor_is_kept_with_its_map(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    append_many(&*store, "news", 2000).await;
    for wanted in [cursor(1, &[3, 66, 1025]), cursor(1, &[3, 4, 66, 1025]), cursor(900, &[1025])] {
        save(&*store, "bob", key, wanted.clone()).await;
        assert_eq!(cursor_of(&*store, "bob", key).await, wanted);
    }
}

async fn a_cursor_never_moves_backwards(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    append_many(&*store, "news", 100).await;
    save(&*store, "bob", key, cursor(50, &[60, 70])).await;
    for stale in [cursor(0, &[]), cursor(49, &[60, 70, 80]), cursor(50, &[]), cursor(50, &[60])] {
        save(&*store, "bob", key, stale).await;
        assert_eq!(cursor_of(&*store, "bob", key).await, cursor(50, &[60, 70]));
    }
    let updates = [51, 53, 52].map(|acked| CursorUpdate {
        client: client("bob"),
        key,
        cursor: cursor(acked, &[60, 70]),
    });
    store.save_cursors(&updates).await.unwrap();
    assert_eq!(cursor_of(&*store, "bob", key).await, cursor(53, &[60, 70]));
}

async fn saving_a_cursor_never_makes_a_subscription(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    save(&*store, "carol", key, cursor(1, &[])).await;
    save(&*store, "bob", ChannelKey(key.0 + 1), cursor(1, &[])).await;
    assert_eq!(store.subscriptions(&client("carol")).await.unwrap(), []);
    assert_eq!(store.subscriptions(&client("bob")).await.unwrap().len(), 1);
    one(&*store, unsubscribe("bob", "news")).await;
    save(&*store, "bob", key, cursor(1, &[])).await;
    assert_eq!(store.subscriptions(&client("bob")).await.unwrap(), []);
}

async fn many_cursors_are_saved_at_once(on: &dyn Database) {
    let store = on.open().await;
    let clients: Vec<_> = (0..1500).map(|i| format!("client {i}")).collect();
    let batch: Vec<_> = clients.iter().map(|who| subscribe(who, "news")).collect();
    store.commit(&batch).await.unwrap();
    append_many(&*store, "news", 2000).await;
    let key = subscribed(&*store, &clients[0], "news").await.key;
    let update = |(i, who): (usize, &String)| {
        let (client, cursor) = (client(who), cursor(i as u64, &[i as u64 + 9]));
        CursorUpdate { client, key, cursor }
    };
    let updates: Vec<_> = clients.iter().enumerate().map(update).collect();
    store.save_cursors(&updates).await.unwrap();
    for (i, who) in clients.iter().enumerate() {
        assert_eq!(cursor_of(&*store, who, key).await, cursor(i as u64, &[i as u64 + 9]));
    }
}

// ---- trimming ----

async fn trimming_deletes_what_lies_behind_every_cursor(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    subscribed(&*store, "carol", "news").await;
    append_many(&*store, "news", 10).await;
    assert_eq!(store.trim(&[key]).await.unwrap(), 0);
    save(&*store, "bob", key, cursor(7, &[9])).await;
    save(&*store, "carol", key, cursor(4, &[6, 7])).await;
    assert_eq!(store.trim(&[key]).await.unwrap(), 4);
    let seqs: Vec<_> = log(&*store, key).await.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, [5, 6, 7, 8, 9, 10]);
    save(&*store, "carol", key, cursor(10, &[])).await;
    save(&*store, "bob", key, cursor(10, &[])).await;
    assert_eq!(store.trim(&[key, ChannelKey(4711)]).await.unwrap(), 6);
    append_many(&*store, "news", 1).await;
    assert_eq!(log(&*store, key).await, [(11, "0".to_owned())]); // no number comes twice
}

async fn trimming_deletes_long_logs_of_many_channels(on: &dyn Database) {
    let store = on.open().await;
    let mut keys = Vec::new();
    for i in 0..100 {
        keys.push(subscribed(&*store, "bob", &format!("channel {i}")).await.key);
    }
    let batch: Vec<_> = (0..20_000).map(|i| append(&format!("channel {}", i * i % 100), "1")).collect();
    for batch in batch.chunks(1000) {
        store.commit(batch).await.unwrap();
    }
    let update = |it: StoredSubscription| CursorUpdate {
        client: client("bob"),
        key: it.key,
        cursor: Cursor { acked: it.last, beyond: Vec::new() },
    };
    let subscriptions = store.subscriptions(&client("bob")).await.unwrap();
    let updates: Vec<_> = subscriptions.into_iter().map(update).collect();
    store.save_cursors(&updates).await.unwrap();
    assert_eq!(store.trim(&keys).await.unwrap(), 20_000);
    for key in keys {
        assert!(log(&*store, key).await.is_empty());
    }
}

async fn the_log_goes_with_the_last_subscription(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    append_many(&*store, "news", 300).await;
    one(&*store, unsubscribe("bob", "news")).await;
    store.trim(&[key]).await.unwrap();
    assert!(log(&*store, key).await.is_empty());
}

async fn messages_of_a_deleted_subscription_are_trimmed_without_a_request(on: &dyn Database) {
    let store = on.open().await;
    let keys = [subscribed(&*store, "bob", "a").await.key, subscribed(&*store, "bob", "b").await.key];
    append_many(&*store, "a", 300).await;
    append_many(&*store, "b", 300).await;
    one(&*store, unsubscribe("bob", "a")).await;
    store.trim(&[]).await.unwrap();
    assert!(log(&*store, keys[0]).await.is_empty());
    one(&*store, unsubscribe("bob", "b")).await;
    drop(store);
    let store = on.open().await;
    store.trim(&[]).await.unwrap();
    assert!(log(&*store, keys[1]).await.is_empty());
}

async fn a_forgotten_channel_comes_back_under_another_key(on: &dyn Database) {
    let store = on.open().await;
    let old = subscribed(&*store, "bob", "news").await.key;
    append_many(&*store, "news", 3).await;
    one(&*store, unsubscribe("bob", "news")).await;
    store.trim(&[old]).await.unwrap();
    let new = subscribed(&*store, "bob", "news").await;
    assert!(new.key > old);
    assert_eq!(new.last, Seq(0));
    one(&*store, unsubscribe("bob", "news")).await;
    store.trim(&[new.key]).await.unwrap();
    store.close().await;
    let store = on.open().await;
    assert!(subscribed(&*store, "bob", "news").await.key > new.key);
}

async fn a_channel_with_a_retained_message_or_a_subscription_stays(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    one(&*store, retain("news", "1")).await;
    append_many(&*store, "news", 3).await;
    one(&*store, unsubscribe("bob", "news")).await;
    store.trim(&[key]).await.unwrap();
    let again = subscribed(&*store, "bob", "news").await;
    assert_eq!((again.key, again.last), (key, Seq(3)));
    one(&*store, clear("news")).await;
    store.trim(&[key]).await.unwrap();
    assert_eq!(subscribed(&*store, "carol", "news").await.key, key);
}

// ---- durability ----

async fn committed_data_exists_after_reopening(on: &dyn Database) {
    for close in [true, false] {
        let store = on.open().await;
        let (epoch, news) = (store.epoch(), format!("news {close}"));
        let key = subscribed(&*store, "bob", &news).await.key;
        append_many(&*store, &news, 10).await;
        one(&*store, retain(&news, "1")).await;
        save(&*store, "bob", key, cursor(3, &[5])).await;
        if close {
            store.close().await; // or else dropped, as if the process had died
        }
        drop(store);

        let store = on.open().await;
        assert_eq!(store.epoch(), epoch);
        assert_eq!(cursor_of(&*store, "bob", key).await, cursor(3, &[5]));
        assert_eq!(log(&*store, key).await.len(), 10);
        assert_eq!(kept(&*store, &news).await, retained("1"));
        let appended = one(&*store, append(&news, "11")).await;
        assert_eq!(placed(&appended), Some((key, Seq(11))));
        store.close().await;
    }
}

async fn every_database_has_an_epoch_of_its_own(on: &dyn Database) {
    let mut epochs = HashSet::new();
    for _ in 0..4 {
        epochs.insert(on.another().open().await.epoch());
    }
    assert!(epochs.len() > 2); // 32 random bits: two may be the same, though hardly ever
}

async fn a_closed_store_reports_that_it_is_closed(on: &dyn Database) {
    let store = on.open().await;
    subscribed(&*store, "bob", "news").await;
    store.close().await;
    store.close().await;
    let closed = |error: StoreError| assert!(matches!(error, StoreError::Closed), "{error}");
    closed(store.commit(&[append("news", "1")]).await.unwrap_err());
    closed(store.subscriptions(&client("bob")).await.unwrap_err());
    closed(store.subscriptions(&client("nobody")).await.unwrap_err());
    closed(store.read_log(ChannelKey(1), Seq(0), 1, 1).await.unwrap_err());
    closed(store.trim(&[ChannelKey(1)]).await.unwrap_err());
    closed(store.sessions_opened(&[session("bob", 1, "a", 0)]).await.unwrap_err());
    closed(store.claim_orphans("b").await.unwrap_err());
    closed(store.expire(seen_before(soon()), &mut |_| true).await.unwrap_err());
    closed(store.limit_pending(UNLIMITED, None).await.unwrap_err());
    closed(store.forget_publishers(soon()).await.unwrap_err());
}

// ---- sessions ----

async fn sessions_of_a_dead_process_are_claimed_by_the_next(on: &dyn Database) {
    let store = on.open().await;
    let (a, b) = (session("alice", 1, "dead", 2_000), session("bob", 2, "dead", 1_000));
    let ended = session("carol", 3, "dead", 500);
    store.sessions_opened(&[a.clone(), b.clone(), ended]).await.unwrap();
    store.sessions_closed(&[(client("carol"), 3)], "dead", Unanswered::Recorded).await.unwrap();
    assert_eq!(store.claim_orphans("dead").await.unwrap(), []); // they are its own
    drop(store);

    let store = on.open().await;
    store.sessions_opened(&[session("dora", 1, "next", 3_000)]).await.unwrap();
    assert_eq!(store.claim_orphans("next").await.unwrap(), [b.clone(), a.clone()]); // oldest first
    assert_eq!(store.claim_orphans("next").await.unwrap(), []); // claimed
    store.orphan_closed(&b).await.unwrap();
    drop(store); // before alice's notifier had finished

    let store = on.open().await;
    let claimed = store.claim_orphans("third").await.unwrap();
    assert_eq!(claimed, [a.clone(), session("dora", 1, "next", 3_000)]);
    for session in &claimed {
        store.orphan_closed(session).await.unwrap();
    }
    assert_eq!(store.claim_orphans("fourth").await.unwrap(), []);
}

async fn many_sessions_are_remembered_and_forgotten_at_once(on: &dyn Database) {
    let store = on.open().await;
    let sessions: Vec<_> = (0..1500).map(|i| session(&format!("client {i}"), i, "a", 5_000 + i)).collect();
    store.sessions_opened(&sessions).await.unwrap();
    store.sessions_opened(&sessions[..3]).await.unwrap(); // told twice is told once
    let closed: Vec<_> = sessions[100..].iter().map(|it| (it.client.clone(), it.generation)).collect();
    store.sessions_closed(&closed, "a", Unanswered::Recorded).await.unwrap();
    store.sessions_closed(&[(client("client 1"), 1)], "b", Unanswered::Recorded).await.unwrap(); // another's session
    store.sessions_closed(&[(client("client 1"), 2)], "a", Unanswered::Recorded).await.unwrap(); // another generation
    assert_eq!(store.claim_orphans("b").await.unwrap(), sessions[..100]);
}

// ---- limits ----

async fn clients_that_do_not_come_back_lose_their_subscriptions(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    subscribed(&*store, "bob", "other").await;
    let carol = subscribed(&*store, "carol", "news").await;
    append_many(&*store, "news", 300).await;
    save(&*store, "carol", key, cursor(300, &[])).await;
    store.sessions_opened(&[session("carol", 1, "a", 0)]).await.unwrap();

    assert_eq!(store.expire(seen_before(long_ago()), &mut |_| true).await.unwrap(), []);
    let expired = store.expire(seen_before(soon()), &mut |_| true).await.unwrap();
    assert_eq!(expired, [Expired { client: client("bob"), subscriptions: 2 }]);
    assert_eq!(store.subscriptions(&client("bob")).await.unwrap(), []);
    assert_eq!(store.subscriptions(&client("carol")).await.unwrap()[0].key, carol.key);
    assert_eq!(one(&*store, append("other", "1")).await, Outcome::Appended(None));
    assert_ne!(one(&*store, append("news", "1")).await, Outcome::Appended(None));
    assert_eq!(store.trim(&[]).await.unwrap(), 300); // nobody waits for them now

    store.sessions_closed(&[(client("carol"), 1)], "a", Unanswered::Recorded).await.unwrap();
    assert_eq!(store.expire(seen_before(long_ago()), &mut |_| true).await.unwrap(), []); // was seen just now
    let expired = store.expire(seen_before(soon()), &mut |_| true).await.unwrap();
    assert_eq!(expired, [Expired { client: client("carol"), subscriptions: 1 }]);
    assert_eq!(one(&*store, append("news", "1")).await, Outcome::Appended(None));
    assert_eq!(store.expire(seen_before(soon()), &mut |_| true).await.unwrap(), []);
}

async fn a_connected_client_is_not_expired(on: &dyn Database) {
    let store = on.open().await;
    for who in ["bob", "carol"] {
        subscribed(&*store, who, "news").await;
    }
    let mut asked = Vec::new();
    let mut is_away = |client: &ClientId| {
        asked.push(client.clone());
        client.as_str() == "bob"
    };
    let expired = store.expire(seen_before(soon()), &mut is_away).await.unwrap();
    assert_eq!(expired, [Expired { client: client("bob"), subscriptions: 1 }]);
    assert!(asked.contains(&client("carol")));
    assert_eq!(store.subscriptions(&client("carol")).await.unwrap().len(), 1);
}

async fn a_client_counts_as_seen_when_its_session_ends(on: &dyn Database) {
    let store = on.open().await;
    for who in ["bob", "carol", "dora"] {
        subscribed(&*store, who, "news").await;
    }
    let orphan = session("carol", 1, "dead", 0);
    store.sessions_opened(&[session("bob", 1, "me", 0), orphan.clone()]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(20)).await; // times are kept in milliseconds
    let between = SystemTime::now();
    tokio::time::sleep(Duration::from_millis(20)).await;
    store.sessions_closed(&[(client("bob"), 1)], "me", Unanswered::Recorded).await.unwrap();
    store.orphan_closed(&orphan).await.unwrap();
    let expired = store.expire(seen_before(between), &mut |_| true).await.unwrap();
    assert_eq!(expired, [Expired { client: client("dora"), subscriptions: 1 }]);
}

async fn many_clients_expire_at_once(on: &dyn Database) {
    let store = on.open().await;
    let batch: Vec<_> = (0..500)
        .flat_map(|i| [subscribe(&format!("client {i}"), "a"), subscribe(&format!("client {i}"), "b")])
        .collect();
    store.commit(&batch).await.unwrap();
    subscribed(&*store, "stays", "a").await;
    store.sessions_opened(&[session("stays", 1, "a", 0)]).await.unwrap();
    let expired = store.expire(seen_before(soon()), &mut |_| true).await.unwrap();
    assert_eq!(expired.len(), 500);
    assert!(expired.iter().all(|it| it.subscriptions == 2));
    assert_eq!(one(&*store, append("b", "1")).await, Outcome::Appended(None));
    assert_ne!(one(&*store, append("a", "1")).await, Outcome::Appended(None));
}

// ---- sessions of MQTT clients ----

async fn a_session_exists_without_subscriptions_until_its_expiry(on: &dyn Database) {
    let store = on.open().await;
    assert_eq!(kept_session(&*store, "bob").await, None);
    assert!(!resumed(&*store, "bob", false, 60).await);
    assert_eq!(kept_session(&*store, "bob").await, Some((Some(60), 0)));
    assert_eq!(store.expire(ended_by(in_seconds(3600)), &mut |_| true).await.unwrap(), [], "it is connected");
    subscribed(&*store, "bob", "news").await;
    one(&*store, unsubscribe("bob", "news")).await;
    disconnect(&*store, "bob").await;
    assert!(resumed(&*store, "bob", false, 90).await, "unsubscribing does not end the session");
    disconnect(&*store, "bob").await;
    assert_eq!(
        store.expire(seen_before(soon()), &mut |_| true).await.unwrap(),
        [],
        "it has an expiry of its own"
    );
    assert_eq!(store.expire(ended_by(in_seconds(80)), &mut |_| true).await.unwrap(), []);
    assert_eq!(store.expire(ended_by(in_seconds(100)), &mut |_| false).await.unwrap(), []);
    let expired = store.expire(ended_by(in_seconds(100)), &mut |_| true).await.unwrap();
    assert_eq!(expired, [Expired { client: client("bob"), subscriptions: 0 }]);
    assert_eq!(kept_session(&*store, "bob").await, None);
    assert!(!resumed(&*store, "bob", false, 60).await);
}

async fn a_session_that_has_expired_is_not_resumed(on: &dyn Database) {
    let store = on.open().await;
    resumed(&*store, "bob", false, 60).await;
    let key = subscribed(&*store, "bob", "news").await.key;
    disconnect(&*store, "bob").await;
    append_many(&*store, "news", 3).await;
    let later = begin("bob", false, Some(60), in_seconds(50));
    assert_eq!(one(&*store, later).await, Outcome::Begun { is_resumed: true });
    disconnect(&*store, "bob").await;
    let too_late = begin("bob", false, Some(60), in_seconds(70));
    assert_eq!(one(&*store, too_late).await, Outcome::Begun { is_resumed: false });
    assert_eq!(kept_session(&*store, "bob").await, Some((Some(60), 0)));
    assert_eq!(one(&*store, append("news", "4")).await, Outcome::Appended(None));
    assert_ne!(subscribed(&*store, "bob", "news").await.cursor.acked, Seq(0));
    store.trim(&[key]).await.unwrap();
    assert_eq!(log(&*store, key).await, []);
}

async fn a_clean_start_deletes_everything_of_the_client_in_one_commit(on: &dyn Database) {
    let store = on.open().await;
    let others = subscribed(&*store, "carol", "b").await;
    resumed(&*store, "bob", false, 60).await;
    for name in ["a", "b", "c"] {
        subscribed(&*store, "bob", name).await;
    }
    append_many(&*store, "b", 3).await;
    // The batch also has messages for these channels, before and after.
    let begin = begin("bob", true, Some(0), SystemTime::now());
    let batch = [append("c", "1"), append("b", "4"), begin, append("b", "5"), append("c", "2")];
    let outcomes = store.commit(&batch).await.unwrap();
    assert_eq!(seqs(&outcomes), [Some(1), Some(4), Some(5), None]);
    assert_eq!(outcomes[2], Outcome::Begun { is_resumed: false });
    assert_eq!(kept_session(&*store, "bob").await, None);
    assert_eq!(store.subscriptions(&client("carol")).await.unwrap()[0].key, others.key);
    store.trim(&[]).await.unwrap();
    for (name, is_there) in [("a", false), ("b", true), ("c", false)] {
        let logged = placed(&one(&*store, append(name, "6")).await);
        assert_eq!(logged.is_some(), is_there, "{name}");
    }
    assert_eq!(log(&*store, others.key).await.len(), 6);
    // Nothing is left that another commit could find.
    store.close().await;
    let store = on.open().await;
    assert_eq!(kept_session(&*store, "bob").await, None);
    assert!(!resumed(&*store, "bob", false, 0).await);
    assert_eq!(kept_session(&*store, "bob").await, None, "a session with expiry 0 is not stored");
}

async fn a_clean_start_begins_another_persistent_session(on: &dyn Database) {
    let store = on.open().await;
    resumed(&*store, "bob", false, 60).await;
    subscribed(&*store, "bob", "news").await;
    assert!(!resumed(&*store, "bob", true, 30).await);
    assert_eq!(kept_session(&*store, "bob").await, Some((Some(30), 0)));
    let names: Vec<_> = (0..300).map(|number| format!("a/{number}")).collect();
    let batch: Vec<_> = names.iter().map(|name| subscribe("bob", name)).collect();
    store.commit(&batch).await.unwrap();
    assert!(!resumed(&*store, "bob", true, 30).await);
    assert_eq!(kept_session(&*store, "bob").await, Some((Some(30), 0)));
    for name in &names {
        assert_eq!(one(&*store, append(name, "1")).await, Outcome::Appended(None));
    }
}

async fn operations_of_one_batch_see_the_session_that_began_in_it(on: &dyn Database) {
    let store = on.open().await;
    let begin = |is_clean, expiry| begin("bob", is_clean, Some(expiry), SystemTime::now());
    let batch = [
        subscribe("bob", "a"), // by the application, while he is absent
        begin(false, 60),
        subscribe("bob", "b"),
        append("b", "1"),
        begin(true, 60),
        append("a", "2"),
        append("b", "2"),
        begin(false, 60),
        subscribe("bob", "c"),
    ];
    let outcomes = store.commit(&batch).await.unwrap();
    assert_eq!(seqs(&outcomes), [Some(1), None, None]);
    let resumed = |index: usize| outcomes[index] == Outcome::Begun { is_resumed: true };
    assert_eq!([resumed(1), resumed(4), resumed(7)], [true, false, true]);
    let names: Vec<_> = store.subscriptions(&client("bob")).await.unwrap();
    assert_eq!(names.iter().map(|it| it.channel.as_str()).collect::<Vec<_>>(), ["c"]);
    assert_eq!(kept_session(&*store, "bob").await, Some((Some(60), 1)));
}

async fn the_newest_connection_decides_how_long_the_session_lasts(on: &dyn Database) {
    let store = on.open().await;
    resumed(&*store, "bob", false, 60).await;
    assert_eq!(
        one(&*store, Operation::SetExpiry { client: client("bob"), expiry: 30 }).await,
        Outcome::ExpirySet(true)
    );
    assert_eq!(kept_session(&*store, "bob").await, Some((Some(30), 0)));
    disconnect(&*store, "bob").await;
    assert!(resumed(&*store, "bob", false, 0).await, "it lasts until this connection ends");
    assert_eq!(kept_session(&*store, "bob").await, Some((Some(0), 0)));
    disconnect(&*store, "bob").await;
    assert!(!resumed(&*store, "bob", false, 0).await);
    let nobody = Operation::SetExpiry { client: client("carol"), expiry: 30 };
    assert_eq!(one(&*store, nobody).await, Outcome::ExpirySet(false));
}

async fn a_jmqt_client_on_an_mqtt_session_keeps_its_subscriptions(on: &dyn Database) {
    let store = on.open().await;
    resumed(&*store, "bob", false, 60).await;
    subscribed(&*store, "bob", "news").await;
    disconnect(&*store, "bob").await;
    let jmqt = begin("bob", false, None, SystemTime::now());
    assert_eq!(one(&*store, jmqt).await, Outcome::Begun { is_resumed: true });
    assert_eq!(kept_session(&*store, "bob").await, Some((None, 1)));
    disconnect(&*store, "bob").await;
    assert_eq!(store.expire(ended_by(soon()), &mut |_| true).await.unwrap(), []);
    assert!(
        resumed(&*store, "bob", false, 0).await,
        "MQTT finds the session of JMQT, and does not shorten it"
    );
    assert_eq!(kept_session(&*store, "bob").await, Some((None, 1)));
    one(&*store, unsubscribe("bob", "news")).await;
    disconnect(&*store, "bob").await;
    assert_eq!(kept_session(&*store, "bob").await, Some((None, 0)));
    let expired = store.expire(seen_before(soon()), &mut |_| true).await.unwrap();
    assert_eq!(expired, [Expired { client: client("bob"), subscriptions: 0 }]);
    assert!(!resumed(&*store, "bob", false, 0).await);
}

fn subscribe_filter(who: &str, filter: &str, qos: Qos) -> Operation {
    let options = SubscriptionOptions::new(qos);
    Operation::SubscribeFilter { client: client(who), filter: filter.to_owned(), options }
}

fn unsubscribe_filter(who: &str, filter: &str) -> Operation {
    Operation::UnsubscribeFilter { client: client(who), filter: filter.to_owned() }
}

async fn place_of(store: &dyn Store, who: &str, name: &str) -> Option<(u64, u64, bool)> {
    let stored = store.subscription(&client(who), &channel(name)).await.unwrap()?;
    Some((stored.cursor.acked.0, stored.last.0, stored.options.is_of_filter()))
}

async fn filters_of(store: &dyn Store, who: &str) -> Vec<String> {
    store.filters(&client(who)).await.unwrap().into_iter().map(|stored| stored.filter).collect()
}

async fn a_filter_gets_a_cursor_before_the_first_message_of_each_channel(on: &dyn Database) {
    let store = on.open().await;
    for who in ["bob", "carol"] {
        resumed(&*store, who, false, 60).await;
    }
    let filter = subscribe_filter("bob", "a/+", Qos::AtLeastOnce);
    assert_eq!(one(&*store, filter).await, Outcome::FilterSubscribed);
    assert_eq!(one(&*store, subscribe_filter("bob", "#", Qos::AtMostOnce)).await, Outcome::FilterSubscribed);
    let batch =
        [append("a/1", "1"), append("a/2", "1"), append("b", "1"), append("a/1", "2"), append("#bob", "1")];
    let outcomes = store.commit(&batch).await.unwrap();
    assert_eq!(outcomes.len(), batch.len());
    assert_eq!(seqs(&outcomes), [Some(1), Some(1), None, Some(2), None]);
    assert_eq!(place_of(&*store, "bob", "a/1").await, Some((0, 2, true)));
    assert_eq!(place_of(&*store, "bob", "b").await, None);
    // Another filter begins with the next message.
    one(&*store, subscribe_filter("carol", "a/#", Qos::ExactlyOnce)).await;
    assert_eq!(seqs(&[one(&*store, append("a/1", "3")).await]), [Some(3)]);
    assert_eq!(place_of(&*store, "carol", "a/1").await, Some((2, 3, true)));
    assert_eq!(place_of(&*store, "carol", "a/2").await, None);
    store.close().await;
    let store = on.open().await;
    assert_eq!(filters_of(&*store, "bob").await, ["#", "a/+"]);
    assert_eq!(
        seqs(&store.commit(&[append("a/1", "4"), append("a/3", "1")]).await.unwrap()),
        [Some(4), Some(1)]
    );
    assert_eq!(place_of(&*store, "bob", "a/1").await, Some((0, 4, true)));
    for (who, filter) in [("bob", "a/+"), ("carol", "a/#")] {
        for existed in [true, false] {
            let outcome = one(&*store, unsubscribe_filter(who, filter)).await;
            assert_eq!(outcome, Outcome::Unsubscribed(existed));
        }
    }
    assert_eq!(
        (place_of(&*store, "bob", "a/1").await, place_of(&*store, "carol", "a/3").await),
        (None, None)
    );
    assert_eq!(seqs(&[one(&*store, append("a/1", "5")).await]), [None]);
}

async fn a_cursor_goes_on_while_a_filter_or_a_subscription_needs_it(on: &dyn Database) {
    let store = on.open().await;
    resumed(&*store, "bob", false, 60).await;
    subscribed(&*store, "bob", "a/1").await;
    one(&*store, append("a/1", "1")).await;
    one(&*store, subscribe_filter("bob", "a/+", Qos::AtLeastOnce)).await;
    one(&*store, subscribe_filter("bob", "+/1", Qos::AtLeastOnce)).await;
    one(&*store, append("a/1", "2")).await;
    assert_eq!(place_of(&*store, "bob", "a/1").await, Some((0, 2, false)));
    assert_eq!(one(&*store, unsubscribe("bob", "a/1")).await, Outcome::Unsubscribed(true));
    assert_eq!(place_of(&*store, "bob", "a/1").await, Some((0, 2, true)));
    one(&*store, unsubscribe_filter("bob", "a/+")).await;
    assert_eq!(place_of(&*store, "bob", "a/1").await, Some((0, 2, true)), "the other filter needs it");
    subscribed(&*store, "bob", "a/1").await;
    // A filter with QoS 0 needs no cursor.
    one(&*store, subscribe_filter("bob", "+/1", Qos::AtMostOnce)).await;
    assert_eq!(place_of(&*store, "bob", "a/1").await, Some((0, 2, false)));
    one(&*store, unsubscribe("bob", "a/1")).await;
    assert_eq!(place_of(&*store, "bob", "a/1").await, None);
    assert_eq!(filters_of(&*store, "bob").await, ["+/1"]);
}

async fn an_idle_cursor_ends_unless_there_is_a_later_message(on: &dyn Database) {
    let store = on.open().await;
    resumed(&*store, "bob", false, 60).await;
    one(&*store, subscribe_filter("bob", "a/+", Qos::AtLeastOnce)).await;
    one(&*store, append("a/1", "1")).await;
    let key = store.subscription(&client("bob"), &channel("a/1")).await.unwrap().unwrap().key;
    let end_at = |seq| Operation::EndIdleCursor {
        client: client("bob"),
        channel: channel("a/1"),
        last: (key, Seq(seq)),
    };
    let outcomes = store.commit(&[append("a/1", "2"), end_at(1)]).await.unwrap();
    assert_eq!((seqs(&outcomes[..1]), &outcomes[1]), (vec![Some(2)], &Outcome::IdleCursorEnded(false)));
    assert_eq!(place_of(&*store, "bob", "a/1").await, Some((0, 2, true)));
    // The next message, also in the same batch, needs a cursor again.
    let outcomes = store.commit(&[end_at(2), append("a/1", "3")]).await.unwrap();
    assert_eq!(outcomes[0], Outcome::IdleCursorEnded(true));
    let (key, seq) = placed(&outcomes[1]).unwrap();
    assert_eq!(place_of(&*store, "bob", "a/1").await, Some((seq.0 - 1, seq.0, true)));
    let at_its_end =
        Operation::EndIdleCursor { client: client("bob"), channel: channel("a/1"), last: (key, seq) };
    assert_eq!(one(&*store, at_its_end.clone()).await, Outcome::IdleCursorEnded(true));
    assert_eq!(place_of(&*store, "bob", "a/1").await, None);
    assert!(placed(&one(&*store, append("a/1", "4")).await).is_some());
    // A subscription with the name of the channel keeps its cursor.
    subscribed(&*store, "bob", "a/1").await;
    let stored = store.subscription(&client("bob"), &channel("a/1")).await.unwrap().unwrap();
    let of_the_name = Operation::EndIdleCursor {
        client: client("bob"),
        channel: channel("a/1"),
        last: (stored.key, stored.last),
    };
    assert_eq!(one(&*store, of_the_name).await, Outcome::IdleCursorEnded(true));
    assert!(place_of(&*store, "bob", "a/1").await.is_some());
}

async fn filters_end_with_their_session(on: &dyn Database) {
    let store = on.open().await;
    for (name, ends) in [("a", "clean"), ("b", "expired"), ("c", "swept")] {
        resumed(&*store, name, false, 60).await;
        one(&*store, subscribe_filter(name, &format!("{name}/#"), Qos::AtLeastOnce)).await;
        let topic = format!("{name}/1");
        assert_eq!(seqs(&[one(&*store, append(&topic, "1")).await]), [Some(1)], "{ends}");
        disconnect(&*store, name).await;
    }
    // The message in the same batch is for nobody any more.
    let begin_clean = begin("a", true, Some(60), SystemTime::now());
    let outcomes = store.commit(&[begin_clean, append("a/1", "2"), append("a/2", "1")]).await.unwrap();
    assert_eq!((&outcomes[0], seqs(&outcomes)), (&Outcome::Begun { is_resumed: false }, vec![None, None]));
    let later = begin("b", false, Some(60), in_seconds(70));
    assert_eq!(one(&*store, later).await, Outcome::Begun { is_resumed: false });
    let expired = store.expire(ended_by(in_seconds(70)), &mut |_| true).await.unwrap();
    assert_eq!(expired, [Expired { client: client("c"), subscriptions: 1 }]);
    for name in ["a", "b", "c"] {
        assert!(filters_of(&*store, name).await.is_empty(), "{name}");
        let topic = format!("{name}/1");
        assert_eq!(seqs(&[one(&*store, append(&topic, "3")).await]), [None], "{name}");
        assert_eq!(place_of(&*store, name, &topic).await, None, "{name}");
    }
    // A new filter is independent of the old one.
    one(&*store, subscribe_filter("a", "a/#", Qos::AtLeastOnce)).await;
    let outcome = one(&*store, append("a/1", "4")).await;
    assert!(placed(&outcome).is_some());
}

async fn a_group_has_cursors_while_a_stored_session_is_a_member(on: &dyn Database) {
    let mut store = on.open().await;
    let owner = ClientId::of_group("g/a/+").unwrap();
    for who in ["bob", "carol"] {
        resumed(&*store, who, false, 60).await;
    }
    assert!(!store.has_group(&owner).await.unwrap());
    one(&*store, subscribe_filter("bob", "$share/g/a/+", Qos::AtMostOnce)).await;
    assert!(!store.has_group(&owner).await.unwrap(), "QoS 0 needs no cursor");
    for who in ["bob", "carol"] {
        one(&*store, subscribe_filter(who, "$share/g/a/+", Qos::AtLeastOnce)).await;
    }
    assert!(store.has_group(&owner).await.unwrap());
    assert_eq!(seqs(&store.commit(&[append("a/1", "1"), append("b", "1")]).await.unwrap()), [Some(1), None]);
    // One cursor, of the group.
    let cursor =
        |stored: Option<StoredSubscription>| stored.map(|stored| (stored.cursor.acked.0, stored.last.0));
    let a1 = channel("a/1");
    assert_eq!(cursor(store.subscription(&owner, &a1).await.unwrap()), Some((0, 1)));
    assert_eq!(
        (place_of(&*store, "bob", "a/1").await, place_of(&*store, "carol", "a/1").await),
        (None, None)
    );
    store.close().await;
    store = on.open().await;
    assert!(store.has_group(&owner).await.unwrap());
    assert_eq!(store.subscriptions(&owner).await.unwrap().len(), 1);
    one(&*store, unsubscribe_filter("bob", "$share/g/a/+")).await;
    assert_eq!(seqs(&[one(&*store, append("a/1", "2")).await]), [Some(2)]);
    // Nobody expires the group itself; its last member leaves by and by.
    disconnect(&*store, "carol").await;
    let expired = store.expire(ended_by(in_seconds(70)), &mut |_| true).await.unwrap();
    assert!(expired.iter().any(|expired| expired.client == client("carol")), "{expired:?}");
    assert!(expired.iter().all(|expired| !expired.client.is_group()), "{expired:?}");
    assert!(!store.has_group(&owner).await.unwrap());
    assert_eq!(seqs(&[one(&*store, append("a/1", "3")).await]), [None]);
    assert_eq!(store.subscription(&owner, &a1).await.unwrap(), None);
    // Also if the process ends in between.
    resumed(&*store, "dave", false, 60).await;
    one(&*store, subscribe_filter("dave", "$share/g/a/+", Qos::AtLeastOnce)).await;
    one(&*store, append("a/1", "4")).await;
    disconnect(&*store, "dave").await;
    store.expire(ended_by(in_seconds(70)), &mut |_| true).await.unwrap();
    store.close().await;
    store = on.open().await;
    assert_eq!(seqs(&[one(&*store, append("a/1", "5")).await]), [None]);
    assert_eq!(store.subscription(&owner, &a1).await.unwrap(), None);
}

async fn every_process_knows_all_filters(on: &dyn Database) {
    if !on.is_shared() {
        return;
    }
    let (one_store, other) = (on.open().await, on.open().await);
    resumed(&*one_store, "bob", false, 60).await;
    for round in 0..5 {
        assert_eq!(seqs(&[one(&*other, append("a/1", "0")).await]), [None], "{round}");
        one(&*one_store, subscribe_filter("bob", "a/+", Qos::AtLeastOnce)).await;
        let topic = format!("a/{round}");
        for store in [&other, &one_store] {
            assert!(placed(&one(&**store, append(&topic, "1")).await).is_some(), "{round}");
        }
        assert!(place_of(&*other, "bob", &topic).await.is_some());
        assert_eq!(one(&*one_store, unsubscribe_filter("bob", "a/+")).await, Outcome::Unsubscribed(true));
    }
    // At the same time.
    let subscribing = async {
        for number in 0..50 {
            one(&*one_store, subscribe_filter("bob", &format!("{number}/+"), Qos::AtLeastOnce)).await;
            let outcome = one(&*one_store, append(&format!("{number}/x"), "1")).await;
            assert!(placed(&outcome).is_some());
        }
    };
    let appending = async {
        for number in 0..200 {
            one(&*other, append(&format!("{}/x", number % 50), "1")).await;
        }
    };
    tokio::join!(subscribing, appending);
    for number in 0..50 {
        let outcome = one(&*other, append(&format!("{number}/x"), "1")).await;
        assert!(placed(&outcome).is_some());
    }
}

async fn the_expiry_of_a_session_survives_a_restart(on: &dyn Database) {
    let store = on.open().await;
    for who in ["bob", "carol", "dora"] {
        resumed(&*store, who, false, 60).await;
        subscribed(&*store, who, "news").await;
    }
    let orphan = session("carol", 1, "dead", 0);
    store.sessions_opened(std::slice::from_ref(&orphan)).await.unwrap();
    disconnect(&*store, "bob").await;
    store.close().await;
    let store = on.open().await;
    store.orphan_closed(&orphan).await.unwrap();
    let due = Due { seen_before: Some(soon()), now: in_seconds(50) };
    assert_eq!(store.expire(due, &mut |_| true).await.unwrap(), []);
    let mut expired = store.expire(ended_by(in_seconds(70)), &mut |_| true).await.unwrap();
    expired.sort_unstable_by(|one, other| one.client.cmp(&other.client));
    let names: Vec<_> = expired.iter().map(|it| (it.client.as_str(), it.subscriptions)).collect();
    match on.is_shared() {
        // The session of another process may still be open there.
        true => assert_eq!(names, [("bob", 1), ("carol", 1)]),
        false => assert_eq!(names, [("bob", 1), ("carol", 1), ("dora", 1)]),
    }
}

async fn the_oldest_messages_of_the_channel_with_most_pending_go_first(on: &dyn Database) {
    let store = on.open().await;
    let a = subscribed(&*store, "bob", "a").await.key;
    let b = subscribed(&*store, "bob", "b").await.key;
    let c = subscribed(&*store, "carol", "a").await.key;
    for (to, messages) in [("b", 2), ("a", 8)] {
        append_many(&*store, to, messages).await;
    }
    assert_eq!(limit_pending(&*store, 10).await, []);
    let dropped = limit_pending(&*store, 9).await;
    let drop = |who, name, key, up_to, messages| {
        let (client, channel) = (client(who), channel(name));
        Dropped { client, channel, key, up_to: Seq(up_to), messages }
    };
    assert_eq!(dropped, [drop("bob", "a", a, 1, 1)]);
    assert_eq!(cursor_of(&*store, "bob", a).await, cursor(1, &[]));
    assert_eq!(cursor_of(&*store, "bob", b).await, cursor(0, &[]));
    assert_eq!(cursor_of(&*store, "carol", c).await, cursor(0, &[]));
    assert_eq!(limit_pending(&*store, 9).await, []);
    let mut dropped = limit_pending(&*store, 2).await;
    dropped.sort_by_key(|it| (it.client.clone(), it.key));
    let expected = [drop("bob", "a", a, 7, 6), drop("bob", "b", b, 1, 1), drop("carol", "a", c, 6, 6)];
    assert_eq!(dropped.len(), 3);
    assert!(expected.iter().all(|it| dropped.contains(it)), "{dropped:?}");
}

async fn pending_messages_are_limited_by_their_bytes_too(on: &dyn Database) {
    let store = on.open().await;
    let large = subscribed(&*store, "bob", "large").await.key;
    let small = subscribed(&*store, "bob", "small").await.key;
    append_many(&*store, "small", 10).await; // a byte each
    for _ in 0..10 {
        one(&*store, append("large", &format!("\"{}\"", "x".repeat(98)))).await;
    }
    let limits = |bytes| PendingLimits { bytes, ..UNLIMITED };
    assert_eq!(limit_all(&*store, limits(1010)).await, []);
    let dropped = limit_all(&*store, limits(510)).await;
    assert_eq!((dropped.len(), dropped[0].key, dropped[0].up_to, dropped[0].messages), (1, large, Seq(5), 5));
    assert_eq!(cursor_of(&*store, "bob", small).await, cursor(0, &[]));
    assert_eq!(limit_all(&*store, limits(510)).await, []);
    assert_eq!(limit_all(&*store, limits(50)).await.iter().map(|it| it.messages).sum::<u64>(), 5);
}

async fn in_a_point_to_point_channel_the_publisher_with_most_pending_loses(on: &dyn Database) {
    let store = on.open().await;
    let own = subscribed(&*store, "bob", "#bob").await.key;
    let orders = subscribed(&*store, "bob", "orders").await.key;
    append_many(&*store, "orders", 10).await;
    let from = |sender: &str, data: &str| {
        Operation::Append(Append { sender: Some(client(sender)), ..message("#bob", data) })
    };
    one(&*store, from("carol", "1")).await;
    for _ in 0..3 {
        let flood: Vec<_> = (0..1000).map(|i| from("mallory", &i.to_string())).collect();
        store.commit(&flood).await.unwrap();
        one(&*store, from("dave", "2")).await;
    }
    let limits = PendingLimits { messages: 100, bytes: 1 << 20, own_messages: 50 };
    let dropped = limit_all(&*store, limits).await;
    let messages: Vec<_> = dropped.iter().map(|it| (it.key, it.messages)).collect();
    assert_eq!(messages, [(own, 2995)]);
    let left = store.read_log(own, Seq(0), 100, usize::MAX).await.unwrap().messages;
    let left: Vec<_> = left.iter().map(|it| (it.seq.0, it.sender.clone().unwrap())).collect();
    let mallory = (2998..=3002).map(|seq| (seq, client("mallory")));
    let mut expected = vec![(1, client("carol")), (1002, client("dave")), (2003, client("dave"))];
    expected.extend(mallory);
    expected.push((3004, client("dave")));
    expected.iter_mut().skip(3).take(5).for_each(|it| it.0 += 1);
    assert_eq!(left, expected);
    assert_eq!(cursor_of(&*store, "bob", orders).await, cursor(0, &[]));
    assert_eq!(limit_all(&*store, limits).await, []);
}

async fn a_client_with_very_many_subscriptions_delays_no_other_client(on: &dyn Database) {
    let store = on.open().await;
    let names: Vec<_> = (0..1200).map(|i| format!("channel {i}")).collect();
    for some in names.chunks(400) {
        let batch: Vec<_> = some.iter().map(|name| subscribe("bob", name)).collect();
        store.commit(&batch).await.unwrap();
        let batch: Vec<_> = some.iter().map(|name| append(name, "1")).collect();
        store.commit(&batch).await.unwrap();
    }
    for who in ["alice", "carol"] {
        subscribed(&*store, who, "news").await;
    }
    append_many(&*store, "news", 1200).await;
    let mut rounds = 0;
    let mut dropped = Vec::new();
    loop {
        let now = limit_pending(&*store, 1000).await;
        if now.is_empty() {
            break;
        }
        dropped.extend(now);
        rounds += 1;
        for who in ["alice", "carol"] {
            assert!(dropped.iter().any(|it| it.client == client(who)), "{who} waits for bob");
        }
    }
    assert!(rounds >= 1);
    let of_bob: Vec<_> = dropped.iter().filter(|it| it.client == client("bob")).collect();
    assert_eq!(of_bob.iter().map(|it| it.messages).sum::<u64>(), 200);
    let alice = dropped.iter().filter(|it| it.client == client("alice")).map(|it| it.messages).sum::<u64>();
    assert_eq!(alice, 200);
}

async fn acknowledged_messages_do_not_count_as_pending(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    append_many(&*store, "news", 10).await;
    save(&*store, "bob", key, cursor(1, &[3, 4, 9])).await;
    assert_eq!(limit_pending(&*store, 6).await, []); // 2, 5, 6, 7, 8, 10
    let dropped = limit_pending(&*store, 4).await;
    assert_eq!((dropped[0].up_to, dropped[0].messages), (Seq(5), 2));
    assert_eq!(cursor_of(&*store, "bob", key).await, cursor(5, &[9]));
    let dropped = limit_pending(&*store, 1).await;
    assert_eq!((dropped[0].up_to, dropped[0].messages), (Seq(9), 3));
    assert_eq!(cursor_of(&*store, "bob", key).await, cursor(9, &[]));
    let dropped = limit_pending(&*store, 0).await;
    assert_eq!((dropped[0].up_to, dropped[0].messages), (Seq(10), 1));
    assert_eq!(store.trim(&[]).await.unwrap(), 10);
}

async fn long_backlogs_are_cut_to_the_limit(on: &dyn Database) {
    let store = on.open().await;
    let names: Vec<_> = (0..20).map(|i| format!("channel {i}")).collect();
    let batch: Vec<_> = names.iter().map(|name| subscribe("bob", name)).collect();
    store.commit(&batch).await.unwrap();
    for _ in 0..10 {
        let batch: Vec<_> = (0..500).map(|i| append(&names[i * i % 20], "1")).collect();
        store.commit(&batch).await.unwrap();
    }
    let dropped = limit_pending(&*store, 1234).await;
    assert_eq!(dropped.iter().map(|it| it.messages).sum::<u64>(), 5000 - 1234);
    let left = store.subscriptions(&client("bob")).await.unwrap();
    assert_eq!(left.iter().map(|it| it.last.0 - it.cursor.acked.0).sum::<u64>(), 1234);
}

async fn many_clients_are_looked_at_a_few_at_a_time(on: &dyn Database) {
    const CLIENTS: u64 = 1000;
    const LIMIT: u64 = 2;
    let store = on.open().await;
    let names: Vec<_> = (0..CLIENTS).map(|i| format!("client {i:04}")).collect();
    let batch: Vec<_> = names.iter().map(|name| subscribe(name, "news")).collect();
    store.commit(&batch).await.unwrap();
    append_many(&*store, "news", 5).await;
    // Of eight clients one has all of them to acknowledge, the others two or less.
    let key = store.subscriptions(&client("client 0000")).await.unwrap()[0].key;
    let update = |(i, name): (u64, &String)| {
        let cursor = cursor(3 + i % 3, &[]);
        (i % 8 != 0).then(|| CursorUpdate { client: client(name), key, cursor })
    };
    let updates: Vec<_> = (0..).zip(&names).filter_map(update).collect();
    store.save_cursors(&updates).await.unwrap();

    let limits = PendingLimits { messages: LIMIT, ..UNLIMITED };
    let (mut after, mut calls, mut dropped) = (None, 0, Vec::new());
    loop {
        let swept = store.limit_pending(limits, after.as_ref()).await.unwrap();
        let up_to = swept.more_after.as_ref();
        for one in &swept.dropped {
            assert!(after.as_ref() < Some(&one.client) && up_to.is_none_or(|up_to| one.client <= *up_to));
        }
        assert!(swept.dropped.len() <= 512 / 8, "a call looks at a few clients only");
        calls += 1;
        dropped.extend(swept.dropped);
        after = swept.more_after;
        if after.is_none() {
            break;
        }
    }
    assert!(calls >= 2, "and a slow database ends a call earlier");
    let expected: Vec<_> = names.iter().step_by(8).map(|name| (client(name), Seq(3), 3)).collect();
    let dropped: Vec<_> = dropped.into_iter().map(|it| (it.client, it.up_to, it.messages)).collect();
    assert_eq!(dropped, expected);
    assert_eq!(limit_pending(&*store, LIMIT).await, []);
    // The last one may be gone by the next call.
    let end = client("client 9");
    assert_eq!(
        store.limit_pending(PendingLimits { messages: 0, ..UNLIMITED }, Some(&end)).await.unwrap(),
        Swept::default()
    );
}

// ---- several at a time ----

async fn everything_may_happen_at_the_same_time(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    let beside = |task: usize| {
        let store = Arc::clone(&store);
        async move {
            for i in 0..30u64 {
                match task {
                    0 => save(&*store, "bob", key, cursor(i, &[])).await,
                    1 => drop(store.trim(&[key]).await.unwrap()),
                    2 => drop(store.expire(seen_before(long_ago()), &mut |_| true).await.unwrap()),
                    3 => store.sessions_opened(&[session("bob", i, "a", i)]).await.unwrap(),
                    4 => drop(
                        store
                            .limit_pending(PendingLimits { messages: 10_000, ..UNLIMITED }, None)
                            .await
                            .unwrap(),
                    ),
                    _ => {
                        let read = store.subscriptions(&client("bob")).await.unwrap();
                        let log = store.read_log(key, read[0].cursor.acked, 9999, 99999);
                        let seqs: Vec<_> = log.await.unwrap().messages.iter().map(|it| it.seq).collect();
                        assert!(seqs.windows(2).all(|pair| pair[0].0 + 1 == pair[1].0));
                        assert!(seqs.last().is_none_or(|&end| end >= read[0].last));
                    }
                }
            }
        }
    };
    let tasks: Vec<_> = (0..8).map(|task| tokio::spawn(beside(task))).collect();
    for _ in 0..100 {
        append_many(&*store, "news", 10).await;
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(subscribed(&*store, "bob", "news").await.last, Seq(1000));
}

async fn a_call_that_is_given_up_leaves_the_store_in_order(on: &dyn Database) {
    let store = on.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    let batch: Vec<_> = (0..200).map(|i| append("news", &i.to_string())).collect();
    let mut given_up = 0;
    for micros in 0..300u64 {
        let limit = Duration::from_micros(micros * 10);
        given_up += usize::from(tokio::time::timeout(limit, store.commit(&batch)).await.is_err());
        let _ = tokio::time::timeout(limit, store.trim(&[key])).await;
    }
    // On a busy machine all may have been in time: these are not.
    for _ in 0..10 {
        given_up += usize::from(store.commit(&batch).now_or_never().is_none());
        let _ = store.trim(&[key]).now_or_never();
    }
    assert!(given_up > 0);
    append_many(&*store, "news", 1).await;
    // Each batch is there whole or not at all, and nothing else is open.
    let last = subscribed(&*store, "bob", "news").await.last;
    assert_eq!(last.0 % 200, 1);
    let seqs: Vec<_> = log(&*store, key).await.iter().map(|(seq, _)| *seq).collect();
    assert_eq!(seqs, (1..=last.0).collect::<Vec<_>>());
}

// ---- against a model ----

/// A reference implementation of a store in memory.
#[derive(Default)]
struct Model {
    channels: BTreeMap<String, ModelChannel>,
    keys: BTreeSet<ChannelKey>,
}

#[derive(Default)]
struct ModelChannel {
    key: Option<ChannelKey>,
    last: u64,
    log: BTreeMap<u64, Bytes>,
    subscriptions: BTreeMap<ClientId, Cursor>,
    retained: Option<Retained>,
}

impl Model {
    fn check(&mut self, operation: &Operation, outcome: &Outcome) {
        let name = match operation {
            Operation::Append(append) => &append.channel,
            Operation::Subscribe { channel, .. }
            | Operation::Unsubscribe { channel, .. }
            | Operation::ClearRetained { channel } => channel,
            other => panic!("{other:?}"),
        };
        let it = self.channels.entry(name.to_string()).or_default();
        match (operation, outcome) {
            (Operation::Append(append), Outcome::Appended(place)) => {
                if append.retain {
                    let (sender, data) = (append.sender.clone(), append.data.clone());
                    it.retained = Some(Retained { sender, data, attributes: Attributes::NONE });
                }
                if append.log && !it.subscriptions.is_empty() {
                    it.last += 1;
                    it.log.insert(it.last, append.data.clone());
                    assert_eq!(placed(outcome), Some((it.key.unwrap(), Seq(it.last))));
                } else {
                    assert_eq!(*place, None);
                }
            }
            (Operation::Subscribe { client, .. }, Outcome::Subscribed(subscription)) => {
                it.found(subscription.key, &mut self.keys);
                let start = Cursor { acked: Seq(it.last), beyond: Vec::new() };
                let cursor = it.subscriptions.entry(client.clone()).or_insert(start);
                assert_eq!((&subscription.cursor, subscription.last), (&*cursor, Seq(it.last)));
                assert_eq!(&subscription.channel, name);
            }
            (Operation::Unsubscribe { client, .. }, Outcome::Unsubscribed(was)) => {
                assert_eq!(*was, it.subscriptions.remove(client).is_some());
            }
            (Operation::ClearRetained { .. }, Outcome::Cleared(was)) => {
                assert_eq!(*was, it.retained.take().is_some());
            }
            other => panic!("{other:?}"),
        }
    }
}

impl ModelChannel {
    /// An unused channel may have been deleted; then it is created again with a new key.
    fn found(&mut self, key: ChannelKey, keys: &mut BTreeSet<ChannelKey>) {
        if self.key != Some(key) {
            assert!(self.subscriptions.is_empty(), "a subscribed channel has changed its key");
            assert!(keys.insert(key), "a key has come back");
            (self.key, self.last) = (Some(key), 0);
            self.log.clear();
        }
    }
}

/// A generator of numbers that look random and are the same in each run (xorshift64*).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn operation(&mut self, count: u64) -> Operation {
        let name = format!("channel {}", self.roll(6));
        let who = format!("client {}", self.roll(4));
        match self.roll(16) {
            0..8 => {
                let data = Bytes::from(count.to_string());
                let sender = (self.roll(4) > 0).then(|| client(&who));
                let (log, retain) = (self.roll(8) > 0, self.roll(6) == 0);
                Operation::Append(Append {
                    channel: channel(&name),
                    sender,
                    data,
                    attributes: Attributes::NONE,
                    log,
                    retain,
                    once: None,
                    received: None,
                })
            }
            8..11 => subscribe(&who, &name),
            11..13 => unsubscribe(&who, &name),
            _ => clear(&name),
        }
    }
}

async fn random_batches_agree_with_a_simple_model(on: &dyn Database) {
    for seed in 1..=8 {
        let database = on.another();
        let (mut store, mut model) = (database.open().await, Model::default());
        let mut dice = Dice(0x9e37_79b9_7f4a_7c15 >> seed);
        for round in 0..60 {
            let size = [1, 3, 20, 150][dice.roll(4) as usize];
            let batch: Vec<_> = (0..size).map(|i| dice.operation(round * 1000 + i)).collect();
            let outcomes = store.commit(&batch).await.unwrap();
            assert_eq!(outcomes.len(), batch.len());
            for (operation, outcome) in batch.iter().zip(&outcomes) {
                model.check(operation, outcome);
            }
            acknowledge_some(&*store, &mut model, &mut dice).await;
            if dice.roll(4) == 0 {
                let keys: Vec<_> = model.keys.iter().copied().collect();
                store.trim(&keys).await.unwrap();
            }
            if dice.roll(10) == 0 {
                drop(store);
                store = database.open().await;
            }
            compare(&*store, &model).await;
        }
    }
}

async fn acknowledge_some(store: &dyn Store, model: &mut Model, dice: &mut Dice) {
    let mut updates = Vec::new();
    for it in model.channels.values_mut() {
        for (client, cursor) in &mut it.subscriptions {
            let behind = it.last - cursor.acked.0;
            if dice.roll(3) == 0 && behind > 0 {
                *cursor = Cursor { acked: Seq(cursor.acked.0 + 1 + dice.roll(behind)), beyond: Vec::new() };
                let (client, key) = (client.clone(), it.key.unwrap());
                updates.push(CursorUpdate { client, key, cursor: cursor.clone() });
            }
        }
    }
    store.save_cursors(&updates).await.unwrap();
}

async fn compare(store: &dyn Store, model: &Model) {
    for i in 0..4 {
        let who = client(&format!("client {i}"));
        let mut expected = Vec::new();
        for (name, it) in &model.channels {
            if let Some(cursor) = it.subscriptions.get(&who) {
                let (channel, key) = (channel(name), it.key.unwrap());
                let (cursor, last) = (cursor.clone(), Seq(it.last));
                let log = store.read_log(key, cursor.acked, 10_000, 1 << 20).await.unwrap().messages;
                let log: Vec<_> = log.into_iter().map(|m| (m.seq.0, m.data)).collect();
                let pending = it.log.range(cursor.acked.0 + 1..);
                assert_eq!(log, pending.map(|(seq, data)| (*seq, data.clone())).collect::<Vec<_>>());
                let options = SubscriptionOptions::JMQT;
                expected.push(StoredSubscription { channel, key, cursor, last, options });
            }
        }
        expected.sort_by_key(|subscription| subscription.key);
        assert_eq!(store.subscriptions(&who).await.unwrap(), expected);
    }
    for (name, it) in &model.channels {
        assert!(it.retained.is_none() || store.may_have_retained(&channel(name)));
        assert_eq!(kept(store, name).await, it.retained);
    }
}

// ---- publishing once ----------------------------------------------------------------------------------

async fn a_publish_that_comes_again_is_not_stored_again(on: &dyn Database) {
    let store = on.open().await;
    let news = subscribed(&*store, "bob", "news").await.key;
    let batch = [
        publish("alice", "p", 7, "news", "1"),
        publish("alice", "p", 8, "news", "2"),
        publish("alice", "p", 7, "news", "3"),
    ];
    let outcomes = store.commit(&batch).await.unwrap();
    assert_eq!(seqs(&outcomes), [Some(1), Some(2)]);
    assert_eq!(outcomes[2], REPEATED);
    assert_eq!(one(&*store, publish("alice", "p", 8, "news", "4")).await, REPEATED);
    // Others have numbers of their own.
    assert_ne!(one(&*store, publish("alice", "q", 8, "news", "5")).await, REPEATED);
    assert_ne!(one(&*store, publish("carol", "p", 8, "news", "6")).await, REPEATED);
    assert_ne!(one(&*store, publish_to_absent(9, "news")).await, REPEATED);
    store.close().await;

    let store = on.open().await;
    for number in [7, 8] {
        assert_eq!(one(&*store, publish("alice", "p", number, "news", "7")).await, REPEATED);
    }
    let as_before = Outcome::Repeated { receiver_is_away: true };
    assert_eq!(one(&*store, publish("alice", "p", 9, "news", "8")).await, as_before);
    assert_ne!(one(&*store, publish("alice", "p", 10, "news", "9")).await, REPEATED);
    let data: Vec<_> = log(&*store, news).await.into_iter().map(|(_, data)| data).collect();
    assert_eq!(data, ["1", "2", "5", "6", "1", "9"]);
}

async fn a_publish_that_was_not_stored_can_come_again(on: &dyn Database) {
    let store = on.open().await;
    assert_eq!(one(&*store, publish("alice", "p", 1, "news", "1")).await, Outcome::Appended(None));
    assert_eq!(one(&*store, publish_to_absent(2, "#bob")).await, Outcome::Appended(None));
    subscribed(&*store, "bob", "#bob").await;
    assert!(placed(&one(&*store, publish_to_absent(2, "#bob")).await).is_some());
    let as_before = Outcome::Repeated { receiver_is_away: true };
    assert_eq!(one(&*store, publish_to_absent(2, "#bob")).await, as_before);
    store.close().await;
}

async fn a_publish_that_comes_again_does_not_replace_a_newer_retained_message(on: &dyn Database) {
    let store = on.open().await;
    let publish = |number, data| {
        let Operation::Append(append) = publish("publisher", "p", number, "news", data) else {
            unreachable!()
        };
        Operation::Append(Append { retain: true, ..append })
    };
    for (number, data) in [(1, "1"), (2, "2")] {
        assert_eq!(one(&*store, publish(number, data)).await, Outcome::Appended(None));
    }
    store.close().await;
    let store = on.open().await;
    assert_eq!(one(&*store, publish(1, "1")).await, REPEATED);
    assert_eq!(kept(&*store, "news").await, retained("2"));
}

/// One round: the number of publishers that were removed in each step.
async fn forget_all(store: &dyn Store, now: SystemTime) -> Vec<u64> {
    let mut steps = Vec::new();
    loop {
        let step = store.forget_publishers(now).await.unwrap();
        steps.push(step.publishers);
        if step.is_round_complete {
            return steps;
        }
    }
}

async fn publishers_are_forgotten_a_day_after_their_last_publish(on: &dyn Database) {
    const MANY: usize = 600;
    let store = on.open().await;
    subscribed(&*store, "bob", "news").await;
    let number_of = |i: usize| publish(&format!("client{}", i / 6), &format!("p{i}"), 1, "news", "1");
    let batch: Vec<_> = (0..MANY).map(number_of).collect();
    assert!(seqs(&store.commit(&batch).await.unwrap()).iter().all(Option::is_some));
    let hours = |hours: u64| SystemTime::now() + Duration::from_secs(hours * 3600);
    assert_eq!(forget_all(&*store, hours(23)).await, [0, 0]);
    assert_eq!(store.commit(&batch).await.unwrap(), vec![REPEATED; MANY]);
    let forgotten = forget_all(&*store, hours(25)).await;
    assert_eq!((forgotten.len(), forgotten.iter().sum()), (2, MANY as u64), "in steps");
    assert_eq!(forget_all(&*store, hours(25)).await, [0]);
    assert!(seqs(&store.commit(&batch).await.unwrap()).iter().all(Option::is_some));
}

async fn eight_publishers_per_client_are_remembered(on: &dyn Database) {
    let store = on.open().await;
    subscribed(&*store, "bob", "news").await;
    let by = |number: usize| publish("alice", &format!("p{number}"), 1, "news", "1");
    for number in 1..=9 {
        assert!(placed(&one(&*store, by(number)).await).is_some());
        tokio::time::sleep(Duration::from_millis(2)).await; // they are told apart by milliseconds
    }
    assert!(placed(&one(&*store, publish("carol", "p1", 1, "news", "1")).await).is_some());
    for number in 2..=9 {
        assert_eq!(one(&*store, by(number)).await, REPEATED, "{number}");
    }
    assert!(placed(&one(&*store, by(1)).await).is_some());
}

async fn a_publish_with_qos_2_is_stored_once_until_it_is_released(database: &dyn Database) {
    let store = database.open().await;
    let key = subscribed(&*store, "bob", "news").await.key;
    let batch = [receive("alice", 7, "news", "1"), receive("alice", 7, "news", "1"), append("news", "2")];
    let outcomes = store.commit(&batch).await.unwrap();
    assert_eq!((seqs(&outcomes), &outcomes[1]), (vec![Some(1), Some(2)], &REPEATED));
    let others = [receive("alice", 8, "news", "3"), receive("carol", 7, "news", "4")];
    assert_eq!(seqs(&store.commit(&others).await.unwrap()), [Some(3), Some(4)]);
    store.close().await;
    let store = database.open().await;
    assert_eq!((received(&*store, "alice").await, received(&*store, "carol").await), (vec![7, 8], vec![7]));
    assert_eq!(one(&*store, receive("alice", 7, "news", "1")).await, REPEATED);
    assert_eq!(one(&*store, release("alice", 7)).await, Outcome::Released);
    assert_eq!(received(&*store, "alice").await, [8]);
    assert_eq!(one(&*store, release("alice", 7)).await, Outcome::Released);
    let again = [receive("alice", 7, "news", "5"), release("alice", 7), receive("alice", 7, "news", "6")];
    assert_eq!(seqs(&store.commit(&again).await.unwrap()), [Some(5), Some(6)]);
    assert_eq!(received(&*store, "alice").await, [7, 8]);
    let texts: Vec<_> = log(&*store, key).await.into_iter().map(|(_, text)| text).collect();
    assert_eq!(texts, ["1", "2", "3", "4", "5", "6"]);
}

async fn a_publish_with_qos_2_that_nobody_wants_is_recorded(database: &dyn Database) {
    let store = database.open().await;
    assert_eq!(one(&*store, receive("alice", 65535, "news", "1")).await, Outcome::Appended(None));
    assert_eq!(received(&*store, "alice").await, [65535]);
    assert_eq!(one(&*store, receive("alice", 65535, "news", "1")).await, REPEATED);
    assert_eq!(one(&*store, release("alice", 65535)).await, Outcome::Released);
    let control = Operation::Append(Append {
        log: false,
        sender: Some(client("alice")),
        received: Some(packet(3)),
        ..message("news", "1")
    });
    let many: Vec<_> = (1..=300).map(|number| receive("alice", number, "news", "1")).collect();
    assert_eq!(store.commit(&many).await.unwrap().len(), 300);
    assert_eq!(one(&*store, control).await, REPEATED);
    assert_eq!(received(&*store, "alice").await, (1..=300).collect::<Vec<_>>());
    let many: Vec<_> = (1..=300).map(|number| release("alice", number)).collect();
    store.commit(&many).await.unwrap();
    assert_eq!(received(&*store, "alice").await, Vec::<u16>::new());
}

async fn a_refused_publish_with_qos_2_is_not_recorded(database: &dyn Database) {
    let limits = RetainedLimits { messages: Some(1), ..RetainedLimits::default() };
    let store = database.open_with(limits).await;
    let retained = |number, to: &str| {
        let Operation::Append(append) = receive("alice", number, to, "1") else { unreachable!() };
        Operation::Append(Append { retain: true, ..append })
    };
    let batch = [retained(1, "one"), retained(2, "two"), receive("alice", 3, "news", "1")];
    let outcomes = store.commit(&batch).await.unwrap();
    assert_eq!(outcomes[1], Outcome::TooManyRetained);
    assert_eq!(received(&*store, "alice").await, [1, 3]);
    assert_eq!(one(&*store, retained(2, "two")).await, Outcome::TooManyRetained);
    assert_eq!(one(&*store, retained(2, "one")).await, Outcome::Appended(None));
    assert_eq!(received(&*store, "alice").await, [1, 2, 3]);
}

fn sent(who: &str, number: u16, turn: u64, place: Option<(i64, u64)>, is_released: bool) -> Sent {
    let place = place.map(|(key, seq)| (ChannelKey(key), Seq(seq)));
    let step = if is_released { SentStep::Release } else { SentStep::Receive };
    Sent { client: client(who), packet: packet(number), turn, place, step }
}

async fn the_steps_of_exchanges_are_kept_in_the_order_of_their_turns(database: &dyn Database) {
    let store = database.open().await;
    let first = sent("bob", 9, 1, Some((3, 7)), false);
    let second = sent("bob", 2, 2, None, false);
    let other = sent("carol", 9, 1, Some((3, 7)), true);
    let steps = [first.clone(), second.clone()];
    let batch = [Operation::Send(steps.clone().into()), Operation::Send([other.clone()].into())];
    assert_eq!(store.commit(&batch).await.unwrap(), [Outcome::Sent, Outcome::Sent]);
    assert_eq!(store.exchanges(&client("bob")).await.unwrap().sent, steps);
    assert_eq!(store.exchanges(&client("carol")).await.unwrap().sent, [other]);
    let released = Sent { step: SentStep::Release, ..first.clone() };
    let third = sent("bob", 4, 3, Some((3, 8)), false);
    let batch = [
        Operation::Send([third.clone(), released.clone()].into()),
        receive("bob", 5, "news", "1"),
        Operation::Send([Sent { step: SentStep::Release, ..third.clone() }].into()),
    ];
    store.commit(&batch).await.unwrap();
    store.close().await;
    let store = database.open().await;
    let third = Sent { step: SentStep::Release, ..third };
    let expected =
        Exchanges { received: vec![packet(5)], sent: vec![released.clone(), second, third.clone()] };
    assert_eq!(store.exchanges(&client("bob")).await.unwrap(), expected);
    // The identifier of a complete exchange is used again before its record is deleted.
    let later = sent("bob", 9, 4, Some((3, 9)), false);
    store.commit(&[Operation::Send([later.clone()].into())]).await.unwrap();
    store.forget_sent(&[released, sent("bob", 2, 2, None, true)]).await.unwrap();
    assert_eq!(store.exchanges(&client("bob")).await.unwrap().sent, [third, later]);
    let many: Vec<_> =
        (1..=300).map(|number| sent("dave", number, number.into(), Some((1, 1)), false)).collect();
    store.commit(&[Operation::Send(many.clone().into())]).await.unwrap();
    assert_eq!(store.exchanges(&client("dave")).await.unwrap().sent, many);
    store.forget_sent(&many).await.unwrap();
    assert_eq!(store.exchanges(&client("dave")).await.unwrap(), Exchanges::default());
}

/// Runs promises on `$database`, each as a test of its own: those named, or all that hold for every store. A
/// database that is not there (`None`) leaves them out.
/// The messages of these logs, up to these numbers, may have been sent.
fn perhaps_sent(who: &str, logs: &[(ChannelKey, u64)]) -> Vec<Sent> {
    let note = |&(key, last): &(ChannelKey, u64)| Sent {
        client: client(who),
        packet: NonZeroU16::MIN,
        turn: key.0.unsigned_abs(),
        place: Some((key, Seq(last))),
        step: SentStep::Perhaps,
    };
    logs.iter().map(note).collect()
}

async fn what_a_connection_without_a_record_may_have_sent_is_noted(database: &dyn Database) {
    let store = database.open().await;
    assert!(!resumed(&*store, "bob", false, 3600).await);
    let mut keys = Vec::new();
    for name in ["news", "other", "read"] {
        keys.push(subscribed(&*store, "bob", name).await.key);
    }
    let (news, other, read) = (keys[0], keys[1], keys[2]);
    subscribed(&*store, "carol", "news").await;
    store.commit(&["news", "other", "read", "news"].map(|name| append(name, "1"))).await.unwrap();
    let cursor = Cursor { acked: Seq(1), beyond: Vec::new() };
    store.save_cursors(&[CursorUpdate { client: client("bob"), key: read, cursor }]).await.unwrap();
    let sent = async |store: &dyn Store| store.exchanges(&client("bob")).await.unwrap().sent;
    disconnect(&*store, "bob").await;
    assert!(resumed(&*store, "bob", false, 3600).await);
    assert_eq!(sent(&*store).await, [], "the last connection had no message without an answer");

    store.sessions_closed(&[(client("bob"), 1)], "node", Unanswered::Unknown).await.unwrap();
    one(&*store, append("news", "3")).await;
    assert!(resumed(&*store, "bob", false, 3600).await);
    assert_eq!(sent(&*store).await, perhaps_sent("bob", &[(news, 3), (other, 1)]));
    disconnect(&*store, "bob").await;
    one(&*store, append("news", "4")).await;
    assert!(resumed(&*store, "bob", false, 3600).await);
    assert_eq!(sent(&*store).await, perhaps_sent("bob", &[(news, 3), (other, 1)]), "the note stays");
    store.forget_sent(&perhaps_sent("bob", &[(other, 1)])).await.unwrap();
    assert_eq!(sent(&*store).await, perhaps_sent("bob", &[(news, 3)]));
    store.close().await;

    // The process has died while bob was connected.
    let store = database.open().await;
    one(&*store, append("news", "5")).await;
    assert!(resumed(&*store, "bob", false, 3600).await);
    let last = if database.is_shared() { 5 } else { 4 }; // a single process finds the ends of the logs when it starts
    assert_eq!(sent(&*store).await, perhaps_sent("bob", &[(news, last), (other, 1)]));
    // The end of an earlier connection is not that of this one.
    store.sessions_closed(&[(client("bob"), 7)], "node", Unanswered::Recorded).await.unwrap();
    one(&*store, append("news", "6")).await;
    assert!(resumed(&*store, "bob", false, 3600).await);
    assert_eq!(sent(&*store).await, perhaps_sent("bob", &[(news, 6), (other, 1)]));
    assert!(!resumed(&*store, "bob", true, 3600).await);
    assert_eq!(sent(&*store).await, []);
    assert_eq!(store.exchanges(&client("carol")).await.unwrap(), Exchanges::default());
    store.close().await;
}

/// Begins a session of this owner; returns the outcome.
async fn begun_by(store: &dyn Store, who: &str, owner: Option<&str>, is_clean: bool) -> Outcome {
    let begin = BeginSession {
        client: client(who),
        generation: 1,
        is_clean,
        expiry: Some(3600),
        now: SystemTime::now(),
        owner: owner.map(Into::into),
        checked: Some(7),
        will: None,
    };
    one(store, Operation::BeginSession(begin)).await
}

async fn a_session_belongs_to_its_owner_until_it_ends(on: &dyn Database) {
    let store = on.open().await;
    let owner = async || store.session_owner(&client("bob")).await.unwrap();
    let resumed = |is_resumed| Outcome::Begun { is_resumed };
    assert_eq!(owner().await, None);
    assert_eq!(begun_by(&*store, "bob", None, false).await, resumed(false));
    assert_eq!(owner().await, None);
    // The next who comes with a name.
    assert_eq!(begun_by(&*store, "bob", Some("Bob é"), false).await, resumed(true));
    for is_clean in [false, true] {
        assert_eq!(begun_by(&*store, "bob", Some("eve"), is_clean).await, Outcome::OfAnotherOwner);
        assert_eq!(begun_by(&*store, "bob", Some(""), is_clean).await, Outcome::OfAnotherOwner);
    }
    assert_eq!(owner().await.as_deref(), Some("Bob é"));
    let session = store.session(&client("bob")).await.unwrap().unwrap();
    assert_eq!((session.owner.as_deref(), session.checked), (Some("Bob é"), Some(7)));
    disconnect(&*store, "bob").await;
    assert_eq!(owner().await.as_deref(), Some("Bob é"));
    let ended = BeginSession {
        client: client("bob"),
        generation: 1,
        is_clean: false,
        expiry: Some(3600),
        now: in_seconds(7200),
        owner: Some("eve".into()),
        checked: None,
        will: None,
    };
    assert_eq!(one(&*store, Operation::BeginSession(ended)).await, resumed(false));
    assert_eq!(owner().await.as_deref(), Some("eve"));
    // A client of JMQT gets a row with its first subscription.
    let set = |owner: &str| Operation::SetOwner { client: client("ann"), owner: owner.into() };
    assert_eq!(one(&*store, set("ann")).await, Outcome::SessionSet);
    assert_eq!(store.session_owner(&client("ann")).await.unwrap(), None, "there is no session");
    subscribed(&*store, "ann", "news").await;
    assert_eq!(one(&*store, set("ann")).await, Outcome::SessionSet);
    assert_eq!(one(&*store, set("eve")).await, Outcome::OfAnotherOwner);
    subscribed(&*store, "ann", "more").await;
    assert_eq!(store.session_owner(&client("ann")).await.unwrap().as_deref(), Some("ann"));
    store.close().await;
}

async fn what_was_validated_is_recorded_and_can_be_taken_back_for_all(on: &dyn Database) {
    let store = on.open().await;
    let checked = async |who: &str| store.session(&client(who)).await.unwrap().unwrap().checked;
    let set = |checked| Operation::SetChecked { client: client("a-0"), checked };
    assert_eq!(one(&*store, set(Some(1))).await, Outcome::SessionSet);
    assert_eq!(store.session(&client("a-0")).await.unwrap(), None, "there is no session");
    let names: Vec<_> = (0..300).map(|number| format!("a-{number}")).collect();
    let batch: Vec<_> = names.iter().map(|name| subscribe(name, "news")).collect();
    store.commit(&batch).await.unwrap();
    assert_eq!(checked("a-0").await, None);
    for value in [Some(i64::MIN), Some(i64::MAX), None, Some(5)] {
        one(&*store, set(value)).await;
        assert_eq!(checked("a-0").await, value);
    }
    assert_eq!(checked("a-1").await, None);
    let mut after = None;
    let mut calls = 0;
    loop {
        after = store.uncheck_sessions(after.as_ref()).await.unwrap();
        if after.is_none() {
            break;
        }
        calls += 1;
    }
    assert!((2..=10).contains(&calls), "{calls} calls");
    for name in &names {
        assert_eq!(checked(name).await, Some(MUST_CHECK), "{name}");
    }
    store.close().await;
}

macro_rules! contract {
    ($database:expr) => {
        contract! { $database;
            a_message_is_logged_only_while_somebody_is_persistently_subscribed,
            a_session_belongs_to_its_owner_until_it_ends,
            what_was_validated_is_recorded_and_can_be_taken_back_for_all,
            messages_are_numbered_without_gaps_in_the_order_of_the_batch,
            a_batch_of_any_size_is_carried_out_whole,
            an_empty_batch_is_nothing,
            payloads_and_senders_are_kept_byte_for_byte,
            the_messages_of_a_commit_have_a_stamp_that_no_other_commit_has,
            names_compare_byte_for_byte,
            a_log_is_read_in_order_and_within_its_limits,
            messages_appended_while_a_log_is_read_do_not_count_as_deleted,
            attributes_are_kept_with_logged_and_retained_messages,
            attributes_count_for_limits,
            expired_retained_messages_are_found_and_deleted,
            what_is_stored_is_counted,
            names_of_mqtt_are_long_and_keep_their_blanks,
            a_subscription_starts_after_the_last_message_logged,
            subscribing_again_changes_nothing,
            unsubscribing_forgets_the_cursor,
            a_subscription_keeps_its_options_and_its_cursor_when_they_change,
            unsubscribing_what_is_not_subscribed_does_nothing,
            subscriptions_are_listed_in_the_order_of_their_keys,
            operations_of_one_batch_see_those_before_them,
            a_subscription_that_came_and_went_in_one_batch_leaves_nothing,
            a_retained_message_is_read_beside_commits,
            the_latest_retained_message_is_kept,
            retained_messages_follow_the_order_of_the_batch,
            a_message_can_be_logged_and_retained,
            no_more_is_retained_than_may_be,
            a_client_sets_no_more_retained_messages_than_it_may,
            channels_with_a_retained_message_are_distinguished_from_others,
            a_cursor_is_kept_with_its_map,
            a_cursor_never_moves_backwards,
            saving_a_cursor_never_makes_a_subscription,
            many_cursors_are_saved_at_once,
            trimming_deletes_what_lies_behind_every_cursor,
            trimming_deletes_long_logs_of_many_channels,
            the_log_goes_with_the_last_subscription,
            messages_of_a_deleted_subscription_are_trimmed_without_a_request,
            a_forgotten_channel_comes_back_under_another_key,
            a_channel_with_a_retained_message_or_a_subscription_stays,
            committed_data_exists_after_reopening,
            every_database_has_an_epoch_of_its_own,
            a_closed_store_reports_that_it_is_closed,
            sessions_of_a_dead_process_are_claimed_by_the_next,
            many_sessions_are_remembered_and_forgotten_at_once,
            clients_that_do_not_come_back_lose_their_subscriptions,
            a_connected_client_is_not_expired,
            a_client_counts_as_seen_when_its_session_ends,
            many_clients_expire_at_once,
            a_session_exists_without_subscriptions_until_its_expiry,
            a_session_that_has_expired_is_not_resumed,
            a_clean_start_deletes_everything_of_the_client_in_one_commit,
            a_clean_start_begins_another_persistent_session,
            operations_of_one_batch_see_the_session_that_began_in_it,
            the_newest_connection_decides_how_long_the_session_lasts,
            a_jmqt_client_on_an_mqtt_session_keeps_its_subscriptions,
            the_expiry_of_a_session_survives_a_restart,
            a_filter_gets_a_cursor_before_the_first_message_of_each_channel,
            a_cursor_goes_on_while_a_filter_or_a_subscription_needs_it,
            an_idle_cursor_ends_unless_there_is_a_later_message,
            filters_end_with_their_session,
    a_group_has_cursors_while_a_stored_session_is_a_member,
            every_process_knows_all_filters,
            the_oldest_messages_of_the_channel_with_most_pending_go_first,
            pending_messages_are_limited_by_their_bytes_too,
            in_a_point_to_point_channel_the_publisher_with_most_pending_loses,
            a_client_with_very_many_subscriptions_delays_no_other_client,
            acknowledged_messages_do_not_count_as_pending,
            long_backlogs_are_cut_to_the_limit,
            many_clients_are_looked_at_a_few_at_a_time,
            everything_may_happen_at_the_same_time,
            a_call_that_is_given_up_leaves_the_store_in_order,
            random_batches_agree_with_a_simple_model,
            a_publish_that_comes_again_is_not_stored_again,
            a_publish_that_was_not_stored_can_come_again,
            a_publish_that_comes_again_does_not_replace_a_newer_retained_message,
            publishers_are_forgotten_a_day_after_their_last_publish,
            eight_publishers_per_client_are_remembered,
            a_publish_with_qos_2_is_stored_once_until_it_is_released,
            a_publish_with_qos_2_that_nobody_wants_is_recorded,
            a_refused_publish_with_qos_2_is_not_recorded,
            the_steps_of_exchanges_are_kept_in_the_order_of_their_turns,
            what_a_connection_without_a_record_may_have_sent_is_noted,
            a_will_is_published_once,
            a_will_is_kept_byte_for_byte,
            a_will_is_due_after_its_delay_or_with_the_end_of_the_session,
            who_comes_back_takes_a_will_back_that_is_not_due,
            a_clean_start_ends_the_delay,
            a_postponed_will_is_dropped_when_the_client_comes_back,
            the_end_of_an_older_connection_concerns_no_newer_will,
            the_end_of_a_session_makes_its_will_due,
            wills_without_a_session_are_due_after_a_crash,
            a_will_is_retained_within_the_limits,
            a_will_reaches_persistent_filters,
            many_wills_are_published_a_few_at_a_time,
        }
    };
    ($database:expr; $($promise:ident),* $(,)?) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $promise() {
                if let Some(database) = $database {
                    crate::store_contract::$promise(&database).await;
                }
            }
        )*
    };
}

/// On the server that the environment names: see `scripts/with-databases`.
mod mysql {
    use jmqt_server::store::{MySqlOptions, MySqlStore};

    use super::*;
    use crate::databases::MySql;

    #[async_trait]
    impl Database for MySql {
        async fn open_with(&self, retained: RetainedLimits) -> Arc<dyn Store> {
            self.make().await;
            Arc::new(MySqlStore::open(MySqlOptions { retained, ..self.options() }).await.unwrap())
        }

        fn another(&self) -> Box<dyn Database> {
            Box::new(MySql::new(self.is_shared).unwrap())
        }

        fn is_shared(&self) -> bool {
            self.is_shared
        }
    }

    mod alone {
        use crate::databases::MySql;

        contract! { MySql::new(false) }
        contract! { MySql::new(false); may_have_retained_is_never_wrongly_false }
    }

    mod shared {
        use crate::databases::MySql;

        contract! { MySql::new(true) }
    }
}

mod sqlite {
    use std::path::{Path, PathBuf};
    use std::process::Command;
    use std::sync::atomic::{AtomicBool, Ordering};

    use jmqt_server::StartError;
    use jmqt_server::config::Synchronous;
    use jmqt_server::store::{SqliteOptions, SqliteStore};
    use sqlx::migrate::{Migration, MigrationType, Migrator};
    use sqlx::sqlite::SqliteConnectOptions;
    use sqlx::{ConnectOptions as _, Connection as _, SqlSafeStr as _};
    use tempfile::TempDir;
    use tracing_subscriber::layer::{Context, SubscriberExt as _};
    use tracing_subscriber::{Layer, Registry};

    use super::*;

    struct Sqlite {
        folder: TempDir,
    }

    impl Sqlite {
        fn new() -> Self {
            Self { folder: TempDir::new().unwrap() }
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("jmqt.db")
        }

        /// Changes the database behind the store's back.
        async fn execute(&self, sql: &'static str) {
            let options = SqliteConnectOptions::new().filename(self.path());
            let mut connection = options.connect().await.unwrap();
            sqlx::query(sql).execute(&mut connection).await.unwrap();
            connection.close().await.unwrap();
        }
    }

    #[async_trait]
    impl Database for Sqlite {
        async fn open_with(&self, retained: RetainedLimits) -> Arc<dyn Store> {
            let options = SqliteOptions { retained, ..options(&self.path()) };
            Arc::new(SqliteStore::open(options).await.unwrap())
        }

        fn another(&self) -> Box<dyn Database> {
            Box::new(Self::new())
        }
    }

    fn options(path: &Path) -> SqliteOptions {
        let synchronous = Synchronous::Normal; // no test pulls the plug
        SqliteOptions { path: path.to_owned(), synchronous, retained: RetainedLimits::default() }
    }

    async fn open(path: &Path) -> Result<SqliteStore, StoreError> {
        SqliteStore::open(options(path)).await
    }

    contract! { Some(Sqlite::new()) }
    contract! { Some(Sqlite::new()); may_have_retained_is_never_wrongly_false }

    #[tokio::test]
    async fn a_failed_batch_has_no_effect() {
        let database = Sqlite::new();
        database.open().await.close().await;
        database
            .execute(
                "CREATE TRIGGER fails BEFORE INSERT ON messages WHEN NEW.data = x'626164' \
                 BEGIN SELECT RAISE(ABORT, 'bad'); END",
            )
            .await;
        let store = database.open().await;
        let key = subscribed(&*store, "bob", "news").await.key;
        let batch = [
            append("news", "1"),
            subscribe("carol", "other"),
            retain("news", "kept"),
            publish("alice", "p", 1, "news", "1"),
            append("news", "bad"),
            unsubscribe("bob", "news"),
        ];
        for _ in 0..3 {
            let error = store.commit(&batch).await.unwrap_err();
            assert!(matches!(error, StoreError::Database(_)), "{error}");
        }
        assert!(log(&*store, key).await.is_empty());
        assert_eq!(store.subscriptions(&client("carol")).await.unwrap(), []);
        assert_eq!(kept(&*store, "news").await, None);
        let appended = one(&*store, publish("alice", "p", 1, "news", "1")).await;
        assert_eq!(placed(&appended), Some((key, Seq(1))));
        assert_eq!(one(&*store, publish("alice", "p", 1, "news", "1")).await, REPEATED);
    }

    /// The first thread of a database that takes up a span panics.
    struct PanicOnce(AtomicBool);

    impl<S: tracing::Subscriber> Layer<S> for PanicOnce {
        fn on_enter(&self, _: &tracing::span::Id, _: Context<'_, S>) {
            let is_database = std::thread::current().name().is_some_and(|name| name.starts_with("sqlite-"));
            assert!(!is_database || self.0.swap(true, Ordering::Relaxed), "as the test wants it");
        }
    }

    #[tokio::test]
    async fn a_database_is_reopened_after_its_thread_panicked() {
        let database = Sqlite::new();
        let store = database.open().await;
        let key = subscribed(&*store, "bob", "news").await.key;
        {
            let _subscriber =
                tracing::subscriber::set_default(Registry::default().with(PanicOnce(AtomicBool::new(false))));
            let _span = tracing::info_span!("taken up by the thread").entered();
            let error = store.commit(&[append("news", "1")]).await.unwrap_err();
            let text = error.to_string();
            let is_expected =
                matches!(error, StoreError::Database(_)) && text.contains("crashed background worker");
            assert!(is_expected, "{text}");
        }
        let appended = one(&*store, append("news", "2")).await;
        assert_eq!(placed(&appended), Some((key, Seq(1))));
        store.close().await;
    }

    #[tokio::test]
    async fn a_database_of_the_first_schema_is_migrated_with_its_data() {
        let database = Sqlite::new();
        let options = SqliteConnectOptions::new().filename(database.path()).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        let sql = include_str!("../../src/store/migrations/0001_sqlite.sql").into_sql_str();
        let first = Migration::new(1, "tables".into(), MigrationType::Simple, sql, false);
        let migrator = Migrator::with_migrations(vec![first]);
        migrator.run_direct(None, &mut connection, false).await.unwrap();
        let rows = "INSERT INTO meta (key, value) VALUES ('epoch', 7);
            INSERT INTO channels (id, name, last_seq, persistent_count) VALUES (3, 'news', 2, 1);
            INSERT INTO subscriptions (channel_id, client_id, acked_seq, acked_beyond) VALUES (3, 'bob', 0, x'');
            INSERT INTO clients (client_id, last_seen) VALUES ('bob', 1);
            INSERT INTO messages (channel_id, seq, created_at, sender, data)
            VALUES (3, 1, 5, 'publisher', x'31'), (3, 2, 6, NULL, x'32');
            INSERT INTO retained (channel_id, sender, data) VALUES (3, 'publisher', x'33');";
        sqlx::raw_sql(rows).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();

        for _ in 0..2 {
            let store = database.open().await;
            let log = store.read_log(ChannelKey(3), Seq(0), 2, usize::MAX).await.unwrap().messages;
            let message = |seq, sender, data| {
                let (seq, stamp, data) = (Seq(seq), Stamp::NONE, Bytes::from_static(data));
                LoggedMessage { seq, stamp, sender, data, attributes: Attributes::NONE }
            };
            assert_eq!(log, [message(1, Some(client("publisher")), b"1"), message(2, None, b"2")]);
            assert_eq!(store.epoch(), Epoch(7));
            assert_eq!(kept(&*store, "news").await, retained("3"));
            let Outcome::Appended(Some(place)) = one(&*store, append("news", "4")).await else { panic!() };
            assert_ne!(place.stamp, Stamp::NONE);
            assert_eq!(subscribed(&*store, "bob", "news").await.cursor, cursor(0, &[]));
            store.close().await;
        }
    }

    #[tokio::test]
    async fn a_database_of_the_third_schema_is_migrated_with_its_data() {
        let database = Sqlite::new();
        let options = SqliteConnectOptions::new().filename(database.path()).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        let steps = [
            (1, "tables", include_str!("../../src/store/migrations/0001_sqlite.sql")),
            (2, "stamps and sizes", include_str!("../../src/store/migrations/0002_sqlite.sql")),
            (3, "publishers", include_str!("../../src/store/migrations/0003_sqlite.sql")),
        ];
        let step = |(version, name, sql): (i64, &'static str, &'static str)| {
            Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
        };
        let migrator = Migrator::with_migrations(steps.map(step).into());
        migrator.run_direct(None, &mut connection, false).await.unwrap();
        let rows = "INSERT INTO channels (id, name, last_seq, persistent_count, total_bytes)
            VALUES (3, 'news', 1, 1, 1);
            INSERT INTO subscriptions (channel_id, client_id, acked_seq, acked_beyond) VALUES (3, 'bob', 0, x'');
            INSERT INTO clients (client_id, last_seen) VALUES ('bob', 1);
            INSERT INTO messages (channel_id, seq, created_at, stamp, bytes_before, sender, data)
            VALUES (3, 1, 5, 9, 0, 'publisher', x'31');
            INSERT INTO retained (channel_id, sender, data, bytes) VALUES (3, 'publisher', x'33', 1);";
        sqlx::raw_sql(rows).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();

        let store = database.open().await;
        let append = Append { attributes: of_mqtt(None), ..message("news", "2") };
        one(&*store, Operation::Append(append)).await;
        let logged = store.read_log(ChannelKey(3), Seq(0), 5, usize::MAX).await.unwrap().messages;
        let read: Vec<_> = logged.iter().map(|it| (it.seq.0, &it.data[..], it.attributes.clone())).collect();
        assert_eq!(read, [(1, &b"1"[..], Attributes::NONE), (2, b"2", of_mqtt(None))]);
        assert_eq!(kept(&*store, "news").await, retained("3"));
        assert_eq!(store.expired_retained(soon()).await.unwrap(), []);
        let subscriptions = store.subscriptions(&client("bob")).await.unwrap();
        assert_eq!(subscriptions[0].options, SubscriptionOptions::JMQT);
    }

    #[tokio::test]
    async fn a_database_of_the_fifth_schema_is_migrated_with_its_data() {
        let database = Sqlite::new();
        let options = SqliteConnectOptions::new().filename(database.path()).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        let steps = [
            (1, "tables", include_str!("../../src/store/migrations/0001_sqlite.sql")),
            (2, "stamps and sizes", include_str!("../../src/store/migrations/0002_sqlite.sql")),
            (3, "publishers", include_str!("../../src/store/migrations/0003_sqlite.sql")),
            (4, "attributes of messages", include_str!("../../src/store/migrations/0004_sqlite.sql")),
            (5, "options of subscriptions", include_str!("../../src/store/migrations/0005_sqlite.sql")),
        ];
        let step = |(version, name, sql): (i64, &'static str, &'static str)| {
            Migration::new(version, name.into(), MigrationType::Simple, sql.into_sql_str(), false)
        };
        let migrator = Migrator::with_migrations(steps.map(step).into());
        migrator.run_direct(None, &mut connection, false).await.unwrap();
        let rows = "INSERT INTO channels (id, name, last_seq, persistent_count, total_bytes)
            VALUES (3, 'news', 1, 1, 1);
            INSERT INTO subscriptions (channel_id, client_id, acked_seq, acked_beyond, options)
            VALUES (3, 'bob', 0, x'', 5);
            INSERT INTO clients (client_id, last_seen) VALUES ('bob', 1);
            INSERT INTO messages (channel_id, seq, created_at, stamp, bytes_before, sender, data)
            VALUES (3, 1, 5, 9, 0, 'publisher', x'31');";
        sqlx::raw_sql(rows).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();

        let store = database.open().await;
        assert_eq!(received(&*store, "bob").await, Vec::<u16>::new());
        assert_eq!(seqs(&[one(&*store, receive("bob", 7, "news", "2")).await]), [Some(2)]);
        assert_eq!(received(&*store, "bob").await, [7]);
        let texts: Vec<_> = log(&*store, ChannelKey(3)).await.into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts, ["1", "2"]);
        assert_eq!(kept_session(&*store, "bob").await, Some((None, 1)));
        assert_eq!(store.expire(ended_by(soon()), &mut |_| true).await.unwrap(), []);
        assert!(resumed(&*store, "bob", false, 60).await);
        assert_eq!(received(&*store, "bob").await, [7]);
        assert!(!resumed(&*store, "bob", true, 60).await);
        assert_eq!(kept_session(&*store, "bob").await, Some((Some(60), 0)));
        assert_eq!(received(&*store, "bob").await, Vec::<u16>::new(), "a clean start completes them");
    }

    #[tokio::test]
    async fn a_database_in_use_is_not_opened_twice() {
        let database = Sqlite::new();
        let store = database.open().await;
        let link = database.folder.path().join("link.db");
        std::os::unix::fs::symlink(database.path(), &link).unwrap();
        for path in [database.path(), link] {
            match open(&path).await {
                Err(StoreError::InUse { path }) => assert!(path.ends_with("jmqt.db.lock")),
                other => panic!("{:?}", other.err()),
            }
        }
        store.close().await;
        drop(store);
        database.open().await;
    }

    #[tokio::test]
    async fn a_database_in_use_is_not_opened_under_another_name_of_its_file() {
        let database = Sqlite::new();
        let store = database.open().await;
        let link = database.folder.path().join("link.db");
        std::fs::hard_link(database.path(), &link).unwrap();
        std::fs::remove_file(database.folder.path().join("jmqt.db.lock")).unwrap();
        for path in [link, database.path()] {
            assert!(matches!(open(&path).await, Err(StoreError::InUse { .. })));
        }
        store.close().await;
        database.open().await;
    }

    #[tokio::test]
    async fn a_database_path_that_is_not_a_file_is_refused() {
        for name in [":memory:", "file:x.db?mode=memory", "file::memory:?cache=shared"] {
            let error = open(Path::new(name)).await.unwrap_err();
            assert!(error.to_string().contains("must be a file"), "{error}");
        }
    }

    #[tokio::test]
    async fn nothing_is_committed_to_a_file_that_was_deleted_or_replaced() {
        let database = Sqlite::new();
        let store = database.open().await;
        subscribed(&*store, "bob", "news").await;
        std::fs::remove_file(database.path()).unwrap();
        let first = store.commit(&[append("news", "1")]).await;
        assert!(is_gone(&first, "jmqt.db"), "{first:?}");
        assert!(is_gone(&store.trim(&[]).await, "jmqt.db"), "so the janitor logs it");
    }

    #[tokio::test]
    async fn nothing_is_committed_to_a_log_that_was_deleted_or_replaced() {
        for replaced in [false, true] {
            let database = Sqlite::new();
            let store = database.open().await;
            subscribed(&*store, "bob", "news").await;
            store.commit(&[append("news", "1")]).await.unwrap();
            let log = database.folder.path().join("jmqt.db-wal");
            let copy = database.folder.path().join("copy");
            std::fs::copy(&log, &copy).unwrap();
            match replaced {
                true => std::fs::rename(&copy, &log).unwrap(),
                false => std::fs::remove_file(&log).unwrap(),
            }
            let first = store.commit(&[append("news", "2")]).await;
            assert!(is_gone(&first, "jmqt.db-wal"), "{first:?}");
            assert!(is_gone(&store.trim(&[]).await, "jmqt.db-wal"), "so the janitor logs it");
        }
    }

    /// What `kill -9` leaves of a database is in this file: opened as a database of its own.
    async fn reopened(file: &Path) -> Arc<dyn Store> {
        let left = Sqlite::new();
        std::fs::copy(file, left.path()).unwrap();
        let store = left.open().await;
        std::mem::forget(left); // the folder goes with the process
        store
    }

    #[tokio::test]
    async fn acknowledged_messages_survive_kill_9_after_the_write_ahead_log_was_deleted() {
        for is_idle in [false, true] {
            let database = Sqlite::new();
            let store = database.open().await;
            let key = subscribed(&*store, "bob", "news").await.key;
            store.commit(&[append("news", "1")]).await.unwrap();
            std::fs::remove_file(database.folder.path().join("jmqt.db-wal")).unwrap();
            if is_idle {
                until_gone(&*store).await;
            } else {
                assert!(is_gone(&store.commit(&[append("news", "2")]).await, "jmqt.db-wal"));
            }
            let left = reopened(&database.path()).await;
            assert_eq!(log(&*left, key).await.first(), Some(&(1, "1".to_owned())));
        }
    }

    #[tokio::test]
    async fn acknowledged_messages_are_copied_where_another_file_has_the_name_of_the_database_or_its_log() {
        for name in ["jmqt.db", "jmqt.db-wal"] {
            let database = Sqlite::new();
            let store = database.open().await;
            let key = subscribed(&*store, "bob", "news").await.key;
            let (file, copy) = (database.folder.path().join(name), database.folder.path().join("copy"));
            std::fs::copy(&file, &copy).unwrap();
            store.commit(&[append("news", "1")]).await.unwrap();
            std::fs::rename(&copy, &file).unwrap();
            until_gone(&*store).await;
            let files: Vec<_> = std::fs::read_dir(database.folder.path()).unwrap().collect();
            let saved = files.iter().map(|file| file.as_ref().unwrap().path());
            let saved: Vec<_> = saved.filter(|path| path.to_str().unwrap().contains(".saved-")).collect();
            let [saved] = &saved[..] else { panic!("{files:?}") };
            assert_eq!(log(&*reopened(saved).await, key).await, [(1, "1".to_owned())]);
            assert!(is_gone(&store.trim(&[]).await, name));
            assert_eq!(
                std::fs::read_dir(database.folder.path()).unwrap().count(),
                files.len(),
                "copied once"
            );
        }
    }

    /// Trims, as the janitor does every second, until it is noticed that a file is gone.
    async fn until_gone(store: &dyn Store) {
        while store.trim(&[]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    #[tokio::test]
    async fn a_damaged_cursor_does_not_disable_the_limits_of_other_clients() {
        let database = Sqlite::new();
        let store = database.open().await;
        let clients = ["alice", "bob", "carol"];
        for name in clients {
            subscribed(&*store, name, "news").await;
        }
        append_many(&*store, "news", 10).await;
        store.close().await;
        database.execute("UPDATE subscriptions SET acked_beyond = x'02' WHERE client_id = 'bob'").await;
        let store = database.open().await;
        let limits = PendingLimits { messages: 3, bytes: u64::MAX, own_messages: u64::MAX };
        let swept = store.limit_pending(limits, None).await.unwrap();
        let dropped: Vec<_> = swept.dropped.iter().map(|it| (it.client.as_str(), it.messages)).collect();
        assert_eq!(dropped, [("alice", 7), ("carol", 7)]);
        assert_eq!(swept.more_after, None);
    }

    /// A file that is gone is noticed before a commit, or else after it.
    fn is_gone<T>(result: &Result<T, StoreError>, name: &str) -> bool {
        match result {
            Err(StoreError::Gone { path } | StoreError::CommittedToGone { path }) => path.ends_with(name),
            _ => false,
        }
    }

    #[tokio::test]
    async fn folders_are_created_and_files_are_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("a/b/jmqt.db");
        let store = open(&path).await.unwrap();
        subscribed(&store, "bob", "news").await;
        let files: Vec<_> = std::fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(files.len(), 4); // database, write-ahead log, its index, lock
        for file in files {
            let mode = file.unwrap().metadata().unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
    }

    #[tokio::test]
    async fn an_error_names_the_file_that_cannot_be_opened() {
        let folder = TempDir::new().unwrap();
        let not_a_database = folder.path().join("text.db");
        std::fs::write(&not_a_database, "no database at all".repeat(1000)).unwrap();
        let a_folder = folder.path().join("folder.db");
        std::fs::create_dir(&a_folder).unwrap();
        for path in [not_a_database, a_folder, "/dev/null/jmqt.db".into()] {
            let error = open(&path).await.err().unwrap();
            assert!(matches!(error, StoreError::Open { .. }), "{error}");
            assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        }
    }

    #[tokio::test] // exit code 2: another start would fail in the same way
    async fn a_start_with_a_damaged_database_is_not_retried() {
        for damaged in [0..16, 4096..40_000] {
            let database = Sqlite::new();
            database.open().await.close().await;
            let mut bytes = std::fs::read(database.path()).unwrap();
            bytes[damaged.clone()].fill(0xff);
            std::fs::write(database.path(), bytes).unwrap();
            let error = StartError::from(open(&database.path()).await.unwrap_err());
            assert!(error.is_mistake(), "{damaged:?}: {error}");
        }
    }

    #[tokio::test]
    async fn a_database_of_a_newer_version_is_not_changed() {
        let database = Sqlite::new();
        database.open().await.close().await;
        database
            .execute(
                "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (99, 'future', TRUE, x'00', 0)",
            )
            .await;
        let error = open(&database.path()).await.err().unwrap().to_string();
        assert!(error.contains("newer version") && error.contains("schema 99"), "{error}");
    }

    #[tokio::test]
    async fn an_invalid_row_is_an_error() {
        let database = Sqlite::new();
        let store = database.open().await;
        subscribed(&*store, "bob", "news").await;
        store.close().await;
        drop(store);
        for sql in [
            "UPDATE subscriptions SET acked_beyond = x'02'",
            "UPDATE subscriptions SET acked_beyond = CAST(x'01' || zeroblob(127) AS BLOB)",
            "UPDATE subscriptions SET acked_beyond = x'', acked_seq = -1",
            "UPDATE channels SET name = ''",
        ] {
            database.execute(sql).await;
            let store = database.open().await;
            let error = store.subscriptions(&client("bob")).await.unwrap_err();
            assert!(matches!(error, StoreError::Corrupt { .. }), "{sql}: {error}");
            store.close().await;
        }
    }

    #[tokio::test]
    async fn damaged_attributes_are_an_error() {
        let database = Sqlite::new();
        let store = database.open().await;
        let key = subscribed(&*store, "bob", "news").await.key;
        one(&*store, Operation::Append(Append { retain: true, ..message("news", "1") })).await;
        store.close().await;
        database.execute("UPDATE messages SET attributes = x'0210'").await;
        database.execute("UPDATE retained SET attributes = x''").await;
        let store = database.open().await;
        let error = store.read_log(key, Seq(0), 1, 1).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { what: "attributes of a message" }), "{error}");
        let error = store.read_retained(&channel("news")).await.unwrap_err();
        assert!(matches!(error, StoreError::Corrupt { what: "attributes of a message" }), "{error}");
    }

    #[tokio::test]
    async fn a_batch_without_rows_writes_nothing() {
        let database = Sqlite::new();
        let store = database.open().await;
        subscribed(&*store, "bob", "news").await;
        let wal = || std::fs::metadata(database.folder.path().join("jmqt.db-wal")).unwrap().len();
        let before = wal();
        let batch = [append("other", "1"), unsubscribe("carol", "news"), clear("x")];
        store.commit(&batch).await.unwrap();
        store.commit(&[subscribe("bob", "news")]).await.unwrap();
        assert_eq!(wal(), before);
    }

    /// A small file system in memory; `None` (with a message) if it cannot be mounted.
    struct SmallDisk {
        folder: TempDir,
    }

    impl SmallDisk {
        fn mount(size: &str) -> Option<Self> {
            let folder = TempDir::new().unwrap();
            let mut mount = Command::new("mount");
            mount.args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(folder.path());
            match mount.output() {
                Ok(output) if output.status.success() => Some(Self { folder }),
                _ => {
                    println!("left out: a tmpfs can be mounted by root only");
                    None
                }
            }
        }
    }

    impl Drop for SmallDisk {
        fn drop(&mut self) {
            let _ = Command::new("umount").arg("--lazy").arg(self.folder.path()).status();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn trimming_makes_room_on_a_full_disk() {
        let Some(disk) = SmallDisk::mount("size=64m") else { return };
        let store = open(&disk.folder.path().join("jmqt.db")).await.unwrap();
        let key = subscribed(&store, "bob", "news").await.key;
        let large = vec![append("news", &"x".repeat(10_000)); 8];
        for _ in 0..3 {
            let error = loop {
                if let Err(error) = store.commit(&large).await {
                    break error;
                }
            };
            assert!(matches!(error, StoreError::NoRoom { .. }), "{error}");
            assert!(store.commit(&large).await.is_err());
            // The client is back and acknowledges everything.
            let last = store.read_log(key, Seq(0), 1, 1).await.unwrap().last;
            save(&store, "bob", key, cursor(last.0, &[])).await;
            while store.trim(&[key]).await.unwrap() > 0 {}
            store.commit(&large).await.unwrap();
        }
        store.close().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_channel_that_cannot_be_trimmed_does_not_delay_others() {
        let database = Sqlite::new();
        database.open().await.close().await;
        // In place of a damaged page.
        database
            .execute(
                "CREATE TRIGGER fails BEFORE DELETE ON messages WHEN OLD.data = x'626164' \
                 BEGIN SELECT RAISE(ABORT, 'bad'); END",
            )
            .await;
        let store = database.open().await;
        let mut keys = Vec::new();
        for name in 0..100 {
            let name = name.to_string();
            let key = subscribed(&*store, "bob", &name).await.key;
            one(&*store, append(&name, if name == "7" { "bad" } else { "good" })).await;
            save(&*store, "bob", key, cursor(1, &[])).await;
            keys.push(key);
        }
        let error = store.trim(&keys).await.unwrap_err();
        assert!(error.to_string().contains("bad"), "{error}");
        for (number, key) in keys.iter().enumerate() {
            assert_eq!(log(&*store, *key).await.len(), usize::from(number == 7));
        }
        assert_eq!(store.trim(&keys).await.unwrap(), 0, "it is not tried again at once");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_disk_is_an_error_until_there_is_room_again() {
        let Some(disk) = SmallDisk::mount("size=4m") else { return };
        let store = open(&disk.folder.path().join("jmqt.db")).await.unwrap();
        let key = subscribed(&store, "bob", "news").await.key;
        append_many(&store, "news", 3).await;
        let ballast = disk.folder.path().join("ballast");
        let full = vec![0; 3 << 20];
        let large = append("news", &"x".repeat(300_000));
        for _ in 0..2 {
            let _ = std::fs::write(&ballast, &full); // or as much of it as there is room for
            let before = subscribed(&store, "bob", "news").await.last;
            let mut failed = 0;
            for _ in 0..20 {
                failed += u64::from(store.commit(std::slice::from_ref(&large)).await.is_err());
            }
            assert!(failed > 0);
            assert!(matches!(store.trim(&[key]).await, Ok(0) | Err(StoreError::Database(_))));
            let last = subscribed(&store, "bob", "news").await.last;
            assert_eq!(last.0, before.0 + 20 - failed); // what failed has left no gap

            std::fs::remove_file(&ballast).unwrap();
            append_many(&store, "news", 1).await;
            assert_eq!(log(&store, key).await.len() as u64, last.0 + 1);
        }
        store.close().await;
    }
}
