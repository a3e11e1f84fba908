//! The base of the tests: a real server in this process, a proxy that disturbs connections, and a scripted server that sends
//! exactly what a test requests.
//!
//! Waits are on packets and events; each has a deadline after which the test fails. Nothing sleeps to let something
//! happen.

// Not everything that the server's own tests have is used here.
#![allow(dead_code, unreachable_pub, unused_imports)]
// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

#[cfg(feature = "cli")]
pub mod command;
mod proxy;
mod script;
// The server's own tests have a server to test with.
#[path = "../../../../jmqt-server/tests/it/support/mod.rs"]
mod server_side;

use std::time::Duration;

use jmqt_client::{Client, Config, Event, Events, Push, Reconnect, Subscription};

pub use proxy::{Faults, Proxy};
pub use script::{Script, ScriptedServer};
pub use server_side::{
    Asked, Behaviour, Notice, PacketReader, TestApp, TestServer, channel, client_id, within,
};

/// A configuration for this server that authenticates as `name` and reconnects fast.
pub fn config(url: &str, name: &str) -> Config {
    let mut config = Config::url(url).unwrap().auth(&format!(r#"{{"client_name":"{name}"}}"#)).unwrap();
    config.reconnect =
        Reconnect::Backoff { first: Duration::from_millis(5), most: Duration::from_millis(20), jitter: true };
    config
}

/// The URL of a server in this process.
pub fn url(server: &TestServer, protocol: jmqt_server::Protocol) -> String {
    let scheme = match (protocol.is_websocket(), protocol.is_tls()) {
        (false, false) => "jmqt",
        (false, true) => "jmqts",
        (true, false) => "ws",
        (true, true) => "wss",
    };
    format!("{scheme}://{}", server.address(protocol))
}

/// A client with a session over TCP.
pub async fn connect(server: &TestServer, name: &str) -> Client {
    let config = config(&url(server, jmqt_server::Protocol::Socket), name);
    within("a session", Client::connect(config)).await.unwrap()
}

/// The next push of a stream, which must come.
pub async fn next(stream: &mut Subscription) -> Push {
    within("a push", stream.next()).await.expect("the stream has ended")
}

/// The data of the next push.
pub async fn next_data(stream: &mut Subscription) -> String {
    next(stream).await.data().to_owned()
}

/// Waits for the next event that is one of these.
pub async fn event(events: &mut Events, wanted: impl Fn(&Event) -> bool) -> Event {
    within("an event", async {
        loop {
            let event = events.next().await.expect("the client has ended");
            if wanted(&event) {
                return event;
            }
        }
    })
    .await
}

/// Waits for a new session.
pub async fn reconnected(events: &mut Events) {
    event(events, |event| matches!(event, Event::Connected { .. })).await;
}

/// Waits for the end of a session.
pub async fn disconnected(events: &mut Events) -> String {
    match event(events, |event| matches!(event, Event::Disconnected { .. })).await {
        Event::Disconnected { reason } => reason.to_string(),
        other => panic!("{other:?}"),
    }
}
