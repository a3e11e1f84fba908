//! QoS 2 of MQTT while the server is killed: every message arrives exactly once, and in order.

#![allow(clippy::unwrap_used)] // a helper that fails is a test that fails

use std::time::Duration;

use jmqt_client::Reconnect;
use jmqt_client::mqtt::{Client, Options, Publish, Qos, Version};
use torture::mariadb::MariaDb;
use torture::server::Server;
use torture::{Random, within};

const MESSAGES: usize = 600;
const KILLS: usize = 10;
/// The longest time between a start of the server and its end, in milliseconds.
const LONGEST_LIFE: u64 = 400;

fn options(port: u16, name: &str, version: Version) -> Options {
    let mut options = Options::url(&format!("mqtt://{name}@127.0.0.1:{port}")).unwrap();
    (options.client_id, options.version) = (name.to_owned(), version);
    (options.clean_start, options.session_expiry) = (false, Duration::from_secs(3600));
    options.reconnect = Reconnect::every(Duration::from_millis(30));
    options
}

async fn every_message_arrives_once(mut server: Server, seed: u64) {
    let mut random = Random::new(seed);
    let reader = Client::start(options(server.port, "reader", Version::V5)).unwrap();
    let mut stream = within("the SUBACK", reader.subscribe("ledger", Qos::ExactlyOnce)).await.unwrap();
    let sender = Client::start(options(server.port, "sender", Version::V3_1_1)).unwrap();
    let publishing = tokio::spawn(async move {
        let mut receipts = Vec::new();
        for number in 0..MESSAGES {
            let message = Publish::new("ledger", number.to_string()).unwrap().qos(Qos::ExactlyOnce);
            receipts.push(sender.queue(&message).await.unwrap());
            tokio::time::sleep(Duration::from_millis(3)).await; // so that there is always something to lose
        }
        for receipt in receipts {
            receipt.await.unwrap();
        }
        sender
    });
    let killing = async {
        for _ in 0..KILLS {
            tokio::time::sleep(Duration::from_millis(random.below(LONGEST_LIFE))).await;
            server.crash();
        }
        server
    };
    let receiving = async {
        let mut received = Vec::new();
        while received.last().is_none_or(|last| last != &(MESSAGES - 1).to_string()) {
            let message = within("a message", stream.next()).await.expect("the client goes on");
            received.push(message.text().unwrap().to_owned());
        }
        received
    };
    let (server, received) = tokio::join!(killing, receiving);
    let sender = within("all acknowledgements", publishing).await.unwrap();
    // What comes twice would come before this.
    let last = Publish::new("ledger", "the end").unwrap().qos(Qos::ExactlyOnce);
    within("the last acknowledgement", sender.publish(&last)).await.unwrap();
    assert_eq!(within("the last message", stream.next()).await.unwrap().text().unwrap(), "the end");
    let expected: Vec<_> = (0..MESSAGES).map(|number| number.to_string()).collect();
    assert_eq!(received, expected, "seed {seed}");
    drop(server);
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_every_message_with_qos_2_arrives_once_while_the_server_is_killed() {
    every_message_arrives_once(Server::start(None), 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_every_message_with_qos_2_arrives_once_while_the_server_is_killed() {
    if !MariaDb::is_installed() {
        eprintln!("left out: MariaDB is not installed");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let database = MariaDb::start(folder.path()).await;
    every_message_arrives_once(Server::start(Some(&database)), 2).await;
}
