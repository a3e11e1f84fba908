//! A server with a MySQL store. The store itself is tested in `store_contract.rs`.

use std::pin::pin;
use std::time::{Duration, Instant};

use crate::databases::MySql;
use crate::databases::proxy::{Cut, Proxy};
use crate::databases::server::MariaDb;
use crate::support::{TestApp, TestServer, channel};
use jmqt_server::config::MySqlTls;
use jmqt_server::{CloseReason, Config, ConnVerdict, MySqlConfig, Persistence, Server, StartError};
use sqlx::{Connection as _, Executor as _};
use tokio::time::{sleep, timeout};

fn in_mysql(config: &mut Config, database: &MySql) {
    let options = database.options();
    let mut mysql = MySqlConfig::default();
    (mysql.host, mysql.port) = (options.host, options.port);
    (mysql.database, mysql.user) = (options.database, options.user);
    config.mysql = Some(mysql);
}

/// The same, with a proxy on the way.
fn in_mysql_behind(proxy: &Proxy, config: &mut Config, database: &MySql) {
    in_mysql(config, database);
    if let Some(mysql) = &mut config.mysql {
        (mysql.port, mysql.tls) = (proxy.address.port(), MySqlTls::Disabled);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // §9.a, §9.b, §9.c
async fn unacknowledged_messages_are_repeated_after_a_restart() {
    let Some(database) = MySql::new(false) else { return };
    database.make().await;
    let mut server = TestServer::configured(|config| in_mysql(config, &database)).await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.send(r#"{"sub":{"cn":"news","pr":1}}"#).await;
    bob.expect(r#"{"subAck":{"st":1,"cn":"news"}}"#).await;
    alice.send(r#"{"pub":{"cn":"news","dt":1.50,"q":1,"rt":1,"id":"7"}}"#).await;
    alice.expect(r#"{"pubAck":{"st":1,"id":"7"}}"#).await;
    assert_eq!(bob.next_push().await.data(), "1.50"); // read, not acknowledged
    for _ in 0..2 {
        server.restart().await;
        let mut bob = server.connect("bob").await;
        assert_eq!(bob.next_push().await.data(), "1.50");
    }
    server.shutdown().await;
}

#[tokio::test] // protocol.md 2.4, 2.13
async fn a_newer_session_sees_all_changes_of_the_older_one() {
    let Some(database) = MySql::new(false) else { return };
    database.make().await;
    let mut server = TestServer::configured(|config| in_mysql(config, &database)).await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;

    // Somebody else has the channel's row, so that the store cannot carry the `unsub` out yet.
    let (mut holder, mut watcher) = (database.connect().await, database.connect().await);
    let mut held = holder.begin().await.unwrap();
    held.execute("SELECT * FROM channels WHERE name = 'news' FOR UPDATE").await.unwrap();
    bob.send(r#"{"unsub":{"cn":"news"}}"#).await;
    let waiting = "SELECT COUNT(*) FROM information_schema.innodb_trx \
        JOIN information_schema.processlist ON id = trx_mysql_thread_id \
        WHERE trx_state = 'LOCK WAIT' AND db = DATABASE()";
    let until = Instant::now() + Duration::from_secs(60);
    while sqlx::query_scalar::<_, i64>(waiting).fetch_one(&mut watcher).await.unwrap() == 0 {
        assert!(Instant::now() < until, "nobody waits for the row");
        sleep(Duration::from_millis(200)).await; // asked within 100 ms, InnoDB answers what it did before
    }
    let mut bob = {
        let mut connecting = pin!(server.connect("bob"));
        let early = timeout(Duration::from_millis(100), &mut connecting).await;
        assert!(early.is_err(), "a session begins before the store has done with the older one");
        held.rollback().await.unwrap();
        connecting.await
    };

    bob.sub_persistent("news").await;
    let bob = server.reconnect(bob).await;
    alice.pub1("news", "1").await;
    let mut bob = server.reconnect(bob).await;
    assert_eq!(bob.next_push().await.data(), "1");
    server.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // protocol.md 2.13, 2.16
async fn requests_fail_while_the_database_is_unavailable() {
    const PUBLISHES: usize = 200;
    let Some(database) = MySql::new(false) else { return };
    database.make().await;
    let proxy = Proxy::start(database.address()).await;
    let server = TestServer::configured(|config| in_mysql_behind(&proxy, config, &database)).await;
    let (mut alice, mut bob) = (server.connect("alice").await, server.connect("bob").await);
    bob.sub_persistent("news").await;
    proxy.part();
    bob.send(r#"{"sub":{"cn":"other","pr":1}}"#).await;
    bob.send(r#"{"unsub":{"cn":"news"}}"#).await;
    // A batch of many takes no longer to fail than one of them.
    for id in 0..PUBLISHES {
        alice.send(&format!(r#"{{"pub":{{"cn":"news","dt":1,"q":1,"id":"{id}"}}}}"#)).await;
    }
    for id in 0..PUBLISHES {
        alice.expect(&format!(r#"{{"pubAck":{{"st":5,"id":"{id}"}}}}"#)).await;
    }
    bob.expect(r#"{"subAck":{"st":5,"cn":"other"}}"#).await;
    bob.expect(r#"{"unsubAck":{"st":5,"cn":"news"}}"#).await;
    // The sessions go on, with what needs no database.
    alice.send(r#"{"pub":{"cn":"news","dt":2}}"#).await;
    assert_eq!(bob.next_push().await.data(), "2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)] // protocol.md 2.13, 2.16
async fn a_subscription_with_unknown_outcome_closes_the_session() {
    let Some(database) = MySql::new(false) else { return };
    database.make().await;
    let proxy = Proxy::start(database.address()).await;
    let server = TestServer::configured(|config| in_mysql_behind(&proxy, config, &database)).await;
    let mut alice = server.connect("alice").await;
    proxy.cut_behind("for alice", Cut::Silent);
    alice.send(r#"{"sub":{"cn":"for alice","pr":1}}"#).await;
    // This takes 20 seconds.
    let until = Instant::now() + Duration::from_secs(60);
    while server.counters().connections_closed == 0 {
        assert!(Instant::now() < until, "it has not been closed");
        sleep(Duration::from_millis(50)).await; // asked again and again
    }
    assert_eq!(proxy.cuts(), 1);
    alice.expect(r#"{"subAck":{"st":5,"cn":"for alice"}}"#).await;
    alice.closed().await;
    server.app.expect_close("alice", CloseReason::StoreUnclear).await;
}

#[tokio::test]
async fn a_missing_database_stops_the_start() {
    let Some(database) = MySql::new(false) else { return };
    let mut config = Config::default();
    in_mysql(&mut config, &database);
    let error = Server::builder(config).app(TestApp::new()).start().await.err().unwrap();
    assert!(matches!(error, StartError::Store(_)));
    assert!(error.to_string().contains("CREATE DATABASE"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_round_trips_of_a_conn_do_not_depend_on_its_subscriptions() {
    let Some(mariadb) = MariaDb::start().await else { return };
    let database = MySql::on(mariadb.options(), false);
    database.make().await;
    let mut server = TestServer::configured(|config| in_mysql(config, &database)).await;
    let mut watcher = database.connect().await;
    // Each statement of a store is one trip; the janitor's are among them, a few each second.
    let mut statements = async || -> u64 {
        let sql = "SELECT CAST(variable_value AS UNSIGNED) FROM information_schema.global_status \
            WHERE variable_name = 'QUESTIONS'";
        sqlx::query_scalar(sql).fetch_one(&mut watcher).await.unwrap()
    };
    server.app.on_conn(|_| {
        let channels = (0..50).map(|i| channel(&format!("news/{i}")));
        let accept = |verdict: ConnVerdict, channel| verdict.subscribe(channel, Persistence::Persistent);
        Ok(channels.fold(ConnVerdict::accept(), accept))
    });
    for turn in ["made", "found"] {
        let (before, began) = (statements().await, Instant::now());
        let mut bob = server.connect("bob").await;
        bob.expect_nothing_before_hb().await;
        let (taken, seconds) = (statements().await - before, began.elapsed().as_secs());
        println!("{taken} statements, with 50 subscriptions {turn}");
        assert!(taken < 60 + 40 * seconds, "{taken} statements in {seconds} s, with subscriptions {turn}");
        let disconnected = server.handle().subscriptions(&jmqt_server::ClientId::parse("bob").unwrap()).await;
        assert_eq!(disconnected.unwrap().len(), 51);
    }
    server.shutdown().await;
}
