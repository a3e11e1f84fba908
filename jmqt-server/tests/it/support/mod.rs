//! What the integration tests stand on: a real server in this process, an application whose answers
//! can be chosen, and clients that say exactly what they are told to.
//!
//! Waits are on packets, notices and the end of connections; each has a [`DEADLINE`] after which it
//! panics and says what was said so far. Nothing sleeps to let something happen.

// Each file of tests is a crate of its own, and none uses everything that is here.
#![allow(dead_code, unreachable_pub, unused_imports)]
// A helper that fails is a test that fails.
#![allow(clippy::unwrap_used)]

mod app;
mod client;
mod server;

use std::fmt::Display;
use std::time::Duration;

use jmqt_server::{ChannelName, ClientId};

pub use app::{Asked, Behaviour, Gate, Notice, OwnedControl, TestApp};
pub use client::{Client, Incoming, Push, Told, UPGRADE};
pub use server::TestServer;

/// How long anything that is waited for may take. Generous: it only ends tests that have failed.
pub const DEADLINE: Duration = Duration::from_secs(10);

/// Waits for something that must happen.
pub async fn within<F: Future>(what: impl Display, future: F) -> F::Output {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {DEADLINE:?}"),
    }
}

/// A channel name that is one.
pub fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).unwrap()
}

/// A client id that is one.
pub fn client_id(name: &str) -> ClientId {
    ClientId::parse(name).unwrap()
}
