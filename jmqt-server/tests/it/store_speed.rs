//! How many messages a second the stores commit. Not run by default:
//! `scripts/with-databases cargo test --release -p jmqt-server --test it store_speed -- --ignored --nocapture`

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use jmqt_protocol::{ChannelName, ClientId};
use jmqt_server::config::Synchronous;
use jmqt_server::store::{
    Append, Attributes, ChannelKey, Cursor, CursorUpdate, MySqlStore, Operation, Outcome, Seq, SqliteOptions,
    SqliteStore, Store,
};

use crate::databases::MySql;

/// 50 publishers with a window of 100 messages; the queue cuts what waits into batches of 1,024.
const PUBLISHERS: usize = 50;
const BATCH: usize = 1024;
const RUN: Duration = Duration::from_secs(5);

/// Each publisher has a channel of its own, with a persistent subscriber, who acknowledges everything.
async fn measure(what: &str, store: Arc<dyn Store>, payload: usize) {
    let channel = |i: usize| ChannelName::parse(&format!("channel {i}")).unwrap();
    let client = |i: usize| ClientId::parse(&format!("subscriber {i}")).unwrap();
    let subscribe = |i| Operation::Subscribe {
        client: client(i),
        channel: channel(i),
        options: jmqt_server::store::SubscriptionOptions::JMQT,
    };
    let mut keys = Vec::new();
    for outcome in store.commit(&(0..PUBLISHERS).map(subscribe).collect::<Vec<_>>()).await.unwrap() {
        let Outcome::Subscribed(subscription) = outcome else { panic!("{outcome:?}") };
        keys.push(subscription.key);
    }
    let publisher = Some(ClientId::parse("publisher").unwrap());
    let data = Bytes::from(format!("\"{}\"", "x".repeat(payload - 2)));
    let append = |i: usize| {
        let (channel, sender, data) = (channel(i % PUBLISHERS), publisher.clone(), data.clone());
        Operation::Append(Append {
            channel,
            sender,
            data,
            attributes: Attributes::NONE,
            log: true,
            retain: false,
            once: None,
            received: None,
        })
    };
    let batch: Vec<_> = (0..BATCH).map(append).collect();

    let is_over = Arc::new(AtomicBool::new(false));
    let acknowledging = tokio::spawn(acknowledge(Arc::clone(&store), keys, Arc::clone(&is_over)));
    let (start, mut commits, mut slowest) = (Instant::now(), 0, Duration::ZERO);
    while start.elapsed() < RUN {
        let before = Instant::now();
        store.commit(&batch).await.unwrap();
        slowest = slowest.max(before.elapsed());
        commits += 1;
    }
    let rate = (commits * BATCH) as f64 / start.elapsed().as_secs_f64();
    let before = Instant::now();
    for one in batch.iter().take(200) {
        store.commit(std::slice::from_ref(one)).await.unwrap();
    }
    let lone = before.elapsed() / 200;
    is_over.store(true, Ordering::Relaxed);
    let trimmed = acknowledging.await.unwrap();
    println!(
        "{what}, {payload} bytes: {rate:.0} messages/s in {commits} commits, the slowest {slowest:?}; \
         one alone {lone:?}; {trimmed} deleted beside"
    );
    store.close().await;
}

/// Writes cursors four times a second and trims every second, as the server does.
async fn acknowledge(store: Arc<dyn Store>, keys: Vec<ChannelKey>, is_over: Arc<AtomicBool>) -> u64 {
    let mut trimmed = 0;
    let mut tick = tokio::time::interval(Duration::from_millis(250));
    for round in 0.. {
        tick.tick().await;
        if is_over.load(Ordering::Relaxed) {
            break;
        }
        let mut updates = Vec::new();
        for (i, key) in keys.iter().enumerate() {
            let client = ClientId::parse(&format!("subscriber {i}")).unwrap();
            let last = store.subscriptions(&client).await.unwrap()[0].last;
            let cursor = Cursor { acked: Seq(last.0), beyond: Vec::new() };
            updates.push(CursorUpdate { client, key: *key, cursor });
        }
        store.save_cursors(&updates).await.unwrap();
        if round % 4 == 3 {
            trimmed += store.trim(&keys).await.unwrap();
        }
    }
    trimmed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "measures speed: for a release build on a quiet machine"]
async fn the_commits_per_second_of_each_store_are_measured() {
    for payload in [128, 1024] {
        let folder = tempfile::tempdir().unwrap();
        let options = SqliteOptions {
            path: folder.path().join("jmqt.db"),
            synchronous: Synchronous::Full,
            retained: Default::default(),
        };
        measure("SQLite", Arc::new(SqliteStore::open(options).await.unwrap()), payload).await;
        for shared in [false, true] {
            let Some(database) = MySql::new(shared) else { return };
            database.make().await;
            let store = Arc::new(MySqlStore::open(database.options()).await.unwrap());
            measure(if shared { "MySQL, shared" } else { "MySQL, alone" }, store, payload).await;
        }
    }
}
