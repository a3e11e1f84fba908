//! Nodes of a cluster of which one, or all, lose the database.

use std::time::{Duration, Instant};

use crate::databases::proxy::Proxy;
use crate::databases::{MySql, left_out};
use crate::support::{TestServer, client_id};
use jmqt_server::config::MySqlTls;
use jmqt_server::config::RedisOptions;
use jmqt_server::{MySqlConfig, Protocol};
use tokio::net::TcpStream;
use tokio::time::sleep;

/// Generous: it only ends tests that have failed.
const LONG: Duration = Duration::from_secs(60);

/// Two nodes, each with a way of its own to the database; `None`, with a message, without databases.
async fn two_nodes() -> Option<(MySql, [(TestServer, Proxy); 2])> {
    let database = MySql::new(true)?;
    let Ok(redis) = std::env::var("JMQT_TEST_REDIS") else {
        left_out("it needs a Redis (JMQT_TEST_REDIS); scripts/with-databases starts one");
        return None;
    };
    let (host, port) = redis.trim_start_matches("redis://").trim_end_matches('/').rsplit_once(':')?;
    let mut redis = RedisOptions::standalone(host, port.parse().ok()?);
    redis.prefix = format!("test-{:08x}:", getrandom::u32().ok()?);
    database.make().await;
    let node = async || {
        let proxy = Proxy::start(database.address()).await;
        let server = TestServer::configured(|config| {
            let options = database.options();
            let mut mysql = MySqlConfig::default();
            (mysql.host, mysql.port, mysql.tls) = (options.host, proxy.address.port(), MySqlTls::Disabled);
            (mysql.database, mysql.user) = (options.database, options.user);
            (config.mysql, config.redis) = (Some(mysql), Some(redis.clone()));
        });
        (server.await, proxy)
    };
    let nodes = [node().await, node().await];
    Some((database, nodes))
}

async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let end = Instant::now() + LONG;
    while !is_so().await {
        assert!(Instant::now() < end, "{what}: not within {LONG:?}");
        sleep(Duration::from_millis(50)).await; // asked again and again
    }
}

async fn listens(node: &TestServer, protocol: Protocol) -> bool {
    TcpStream::connect(node.address(protocol)).await.is_ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_loses_the_database_hands_over_its_clients_and_reopens() {
    let Some((_database, [(a, of_a), (b, _of_b)])) = two_nodes().await else { return };
    let (mut alice, mut bob) = (a.connect("alice").await, b.connect("bob").await);
    bob.sub("news").await;
    assert!(a.handle().is_ready());
    of_a.part();
    let ports = [Protocol::Socket, Protocol::SslSocket, Protocol::WebSocket, Protocol::SslWebSocket];
    for protocol in ports {
        until("no clients are let in", async || !listens(&a, protocol).await).await;
    }
    assert!(!a.handle().is_ready() && b.handle().is_ready() && listens(&b, Protocol::Socket).await);
    // Who is there is served, with what needs no database, and then sent away.
    alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await;
    assert_eq!(bob.next_push().await.data(), "1");
    until("alice is sent away", async || !a.handle().is_connected(&client_id("alice"))).await;
    assert_eq!(alice.told().await.code, 4001); // DRAIN
    let mut alice = b.connect("alice").await; // whom node a cannot tell of any more
    alice.send(r#"{"pub":{"cn":"news","dt":2}}"#).await;
    assert_eq!(bob.next_push().await.data(), "2");

    of_a.restore();
    for protocol in ports {
        until("clients are let in", async || listens(&a, protocol).await).await;
    }
    assert!(a.handle().is_ready());
    a.connect("carol").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_lost_by_all_nodes_closes_no_listener() {
    let Some((_database, [(a, of_a), (b, of_b)])) = two_nodes().await else { return };
    let (mut alice, mut bob) = (a.connect("alice").await, b.connect("bob").await);
    bob.sub("news").await;
    of_a.part();
    of_b.part();
    let end = Instant::now() + Duration::from_secs(13); // later than a node alone would hand over
    while Instant::now() < end {
        for node in [&a, &b] {
            assert!(listens(node, Protocol::Socket).await && node.handle().is_ready());
        }
        sleep(Duration::from_millis(100)).await; // it is looked all the time
    }
    alice.send(r#"{"pub":{"cn":"news","dt":1}}"#).await;
    assert_eq!(bob.next_push().await.data(), "1");
    of_a.restore();
    of_b.restore();
}
