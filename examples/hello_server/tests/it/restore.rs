//! An older copy of the database is restored while clients keep running: they do not take new messages for old ones.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::support::{DEADLINE, Process};
use jmqt_client::{ChannelName, Client, Config, Persistence, Publish, Reconnect, Subscription};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// Forwards connections to whichever server there is: one that starts again has another port.
async fn forward(to: Arc<Mutex<SocketAddr>>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let to = *to.lock().unwrap();
            tokio::spawn(async move {
                if let Ok(mut server) = TcpStream::connect(to).await {
                    // Either side may go at any time.
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
    });
    address
}

fn config(address: SocketAddr, name: &str) -> Config {
    let auth = format!(r#"{{"client_name":"{name}"}}"#);
    let mut config = Config::url(&format!("jmqt://{address}")).unwrap().auth(&auth).unwrap();
    let (first, most) = (Duration::from_millis(20), Duration::from_millis(200));
    config.reconnect = Reconnect::Backoff { first, most, jitter: true };
    config
}

/// Database and write-ahead log.
fn copy(from: &Path, to: &Path) {
    for name in ["jmqt.db", "jmqt.db-wal"] {
        let _ = fs::remove_file(to.join(name));
        if from.join(name).exists() {
            fs::copy(from.join(name), to.join(name)).unwrap();
        }
    }
}

async fn publish(publisher: &Client, number: u32) {
    let message = Publish::json(ChannelName::parse("news").unwrap(), &number).unwrap().at_least_once();
    timeout(DEADLINE, publisher.publish(&message)).await.unwrap().unwrap();
}

async fn next(news: &mut Subscription) -> String {
    timeout(DEADLINE, news.next()).await.expect("a message is missing").unwrap().data().to_owned()
}

#[tokio::test] // §9.a: no other message has the id of one that a client has seen
async fn a_running_client_receives_messages_published_after_an_older_copy_was_restored() {
    let folder = tempfile::tempdir().unwrap();
    let (live, backup) = (folder.path().join("live"), folder.path().join("backup"));
    fs::create_dir(&live).unwrap();
    fs::create_dir(&backup).unwrap();
    let store = live.join("jmqt.db");
    let mut process = Process::start(&store, &[]);
    let server = Arc::new(Mutex::new(process.socket));
    let address = forward(Arc::clone(&server)).await;
    let alice = Client::connect(config(address, "alice")).await.unwrap();
    let stay = Client::connect(config(address, "stay")).await.unwrap();
    let mut news =
        stay.subscribe(&ChannelName::parse("news").unwrap(), Persistence::Persistent).await.unwrap();

    process.signal("TERM");
    process.exit_code();
    copy(&live, &backup);
    process = Process::start(&store, &[]);
    *server.lock().unwrap() = process.socket;
    for number in 1..=5 {
        publish(&alice, number).await;
        assert_eq!(next(&mut news).await, number.to_string());
    }

    process.signal("TERM");
    process.exit_code();
    copy(&backup, &live);
    process = Process::start(&store, &[]);
    *server.lock().unwrap() = process.socket;
    for number in 1..=7 {
        publish(&alice, number).await;
        assert_eq!(next(&mut news).await, number.to_string());
    }
    alice.close().await;
    stay.close().await;
}
